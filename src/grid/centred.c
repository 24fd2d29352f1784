/*
 * centred.c - evenly spaced levels about the middle of a range, which need not hold 0 (RPTQ).
 *
 *     scale = clamp((hi - lo) 2^-b, max(1e-4, |hi + lo| / 2e4), 1e4),   zero = rint(-(hi + lo) / 2 / scale)
 *     code = clamp(rint(x / scale) + zero, -2^(b-1), 2^(b-1) - 1)
 *
 * The topmost half step of the range is cut. A range of one number is held in its zero, which is at most 1e4 (Yuan et
 * al., "RPTQ", 2023; the authors' UniformAffineQuantizer). There a range beyond 1e4 scales was cut to that, weights
 * above 1 that have a cluster to themselves; here the scale grows with it. Codes and zeros are stored 2^(b-1) higher.
 */
#include "grid/grid.h"

#include <math.h>
#include "base/kernels.h"
#include "base/number.h"

static const float LEAST = 1e-4f, MOST = 1e4f, FARTHEST = 1e4f;   /* scales; zero */

static float middle_code(unsigned bits)
{
    return (float)(1u << (bits - 1));
}

void qnti_centred_affine(const struct qnti_grid *grid, float lo, float hi, float *scale, float *offset)
{
    float step = (hi - lo) / (float)grid->levels, least = fmaxf(LEAST, fabsf(hi + lo) * 0.5f / FARTHEST), zero;
    *scale = qnti_grid_stored_scale(grid, fminf(fmaxf(step, least), MOST));
    zero = rintf(fminf(fmaxf((hi + lo) * (-0.5f / *scale), -FARTHEST), FARTHEST));
    *offset = qnti_round_to(grid->scale_type, zero + middle_code(grid->bits));
}

static void centred_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                        size_t group, uint16_t *code, size_t code_stride)
{
    for (size_t r = 0; r < band->rows; r++) {
        size_t at = (row + r) * q->scale->cols + group;
        const float *x = band->x + r * band->stride;
        float lo, hi;
        grid->kernels->range(band->cols, x, &lo, &hi);
        qnti_centred_affine(grid, lo, hi, &q->scale->value[at], &q->offset->value[at]);
        if (code)
            qnti_grid_round(grid, NULL, band->cols, x, &q->scale->value[at], &q->offset->value[at], 0,
                            code + r * code_stride, NULL);
    }
}

const struct qnti_grid_kind qnti_centred_kind = {.name = "centred", .fit = centred_fit};

struct qnti_grid qnti_centred_grid(const struct qnti_kernels *kernels, unsigned bits, qnt_dtype scale_type)
{
    struct qnti_grid grid = qnti_affine_grid(kernels, bits, 0, scale_type);
    grid.kind = &qnti_centred_kind;
    grid.include_zero = false;
    grid.wide_zero = grid.signed_codes = true;
    grid.offset = middle_code(bits);
    return grid;
}
