/*
 * codebook.c - free levels for each row: value = codebook[row][code], without a scale (SqueezeLLM).
 *
 * The levels come from a solver (solve/kmeans.c), which sees what a fit does
 * not: a weight for every number, and numbers that stay outside.
 */
#include "grid/grid.h"

struct qnti_grid qnti_codebook_grid(const struct qnti_kernels *kernels, unsigned bits, qnt_dtype type)
{
    return (struct qnti_grid){.kernels = kernels,
                              .form = QNTI_FORM_CODEBOOK,
                              .bits = bits,
                              .levels = 1u << bits,
                              .map = {.kind = QNTI_MAP_NONE, .rows = 1},
                              .scale_type = type,
                              .constant_offset = true,
                              .codebook_size = 1u << bits,
                              .codebook_per_row = true};
}
