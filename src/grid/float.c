/*
 * float.c - plain f32, f16 and bf16 as a grid: kept columns, scales, whole tensors that stay float.
 */
#include "grid/grid.h"

#include "base/number.h"

static void float_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                      size_t group, uint16_t *code, size_t code_stride)
{
    (void)group, (void)code, (void)code_stride;
    for (size_t r = 0; r < band->rows; r++)
        for (size_t c = 0; c < band->cols; c++)
            q->value[(row + r) * q->cols + c] = qnti_round_to(grid->float_type, band->x[r * band->stride + c]);
}

const struct qnti_grid_kind qnti_float_kind = {.name = "float", .fit = float_fit};

struct qnti_grid qnti_float_grid(qnt_dtype type)
{
    return (struct qnti_grid){.kind = &qnti_float_kind,
                              .form = QNTI_FORM_FLOAT,
                              .bits = (unsigned)(8 * qnti_dtype_bytes(type)),
                              .float_type = type,
                              .constant_offset = true};
}
