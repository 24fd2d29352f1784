/*
 * grid.c - from values to codes and back, for the forms that a code can have.
 */
#include "grid/grid.h"

#include <float.h>
#include <math.h>
#include "base/kernels.h"
#include "base/number.h"

void qnti_grid_round(const struct qnti_grid *grid, const float *codebook, size_t n, const float *x, const float *scale,
                     const float *offset, size_t stride, uint16_t *code, float *value)
{
    float top = (float)(grid->levels - 1);
    switch (grid->form) {
    case QNTI_FORM_ZERO:
        (grid->real_offset ? grid->kernels->real_round : grid->kernels->zero_round)(n, x, scale, offset, stride, top,
                                                                                   code, value);
        return;
    case QNTI_FORM_MIN:
        grid->kernels->min_round(n, x, scale, offset, stride, top, code, value);
        return;
    case QNTI_FORM_CODEBOOK:
        if (qnti_in_pairs(grid))
            qnti_pairs_round(grid, n, x, scale, stride, code, value);
        else
            qnti_codebook_round(grid, codebook, n, x, scale, offset, stride, code, value);
        return;
    case QNTI_FORM_FLOAT:
        for (size_t i = 0; value && i < n; i++)
            value[i] = qnti_round_to(grid->float_type, x[i]);
        return;
    }
}

void qnti_grid_value(const struct qnti_grid *grid, const float *codebook, size_t n, const uint16_t *code,
                     const float *scale, const float *offset, size_t stride, float *value)
{
    switch (grid->form) {
    case QNTI_FORM_ZERO:
        grid->kernels->zero_value(n, code, scale, offset, stride, value);
        return;
    case QNTI_FORM_MIN:
        grid->kernels->min_value(n, code, scale, offset, stride, value);
        return;
    case QNTI_FORM_CODEBOOK:
        for (size_t i = 0; i < n; i++)
            value[i] = grid->divisor > 0 ? codebook[code[i]] / grid->divisor
                                         : scale[i * stride] * codebook[code[i]] + offset[i * stride];
        return;
    case QNTI_FORM_FLOAT:
        return;
    }
}

size_t qnti_grid_span(const struct qnti_grid *grid, size_t cols)
{
    if (grid->span)
        return grid->span;
    return grid->map.cols ? grid->map.cols : cols;
}

qnt_status qnti_grid_scratch(qnt_context *ctx, const struct qnti_grid *grid, size_t cols, void **scratch)
{
    *scratch = NULL;
    return grid->kind->scratch ? qnti_alloc_raw(ctx, grid->kind->scratch(cols), 1, scratch) : QNT_OK;
}

float qnti_grid_stored_scale(const struct qnti_grid *grid, float scale)
{
    float stored = qnti_round_to(grid->scale_type, scale);
    if (stored == 0 && scale > 0)
        return grid->scale_type == QNT_F16 ? 0x1p-24f : grid->scale_type == QNT_F8_E4M3 ? 0x1p-9f : FLT_MIN;
    return stored;
}
