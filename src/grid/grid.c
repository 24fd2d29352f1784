/*
 * grid.c - from values to codes and back, for the forms that a code can have.
 */
#include "grid/grid.h"

#include <math.h>
#include "base/kernels.h"
#include "base/number.h"

static bool all_whole(size_t n, const float *zero, size_t stride)
{
    size_t i = 0;
    while (i < (stride ? n : 1) && zero[i] == rintf(zero[i]))
        i++;
    return i == (stride ? n : 1);
}

/* Zeros that are no whole numbers, which the kernels do not take: code = clamp(rint(x / scale + zero)). */
static void real_zero_round(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                            uint16_t *code, float *value)
{
    for (size_t i = 0; i < n; i++) {
        float s = scale[i * stride], z = zero[i * stride];
        float c = s != 0 ? fminf(fmaxf(rintf(x[i] / s + z), 0), top) : 0;
        if (code)
            code[i] = (uint16_t)c;
        if (value)
            value[i] = (c - z) * s;
    }
}

void qnti_grid_round(const struct qnti_grid *grid, const float *codebook, size_t n, const float *x, const float *scale,
                     const float *offset, size_t stride, uint16_t *code, float *value)
{
    float top = (float)(grid->levels - 1);
    switch (grid->form) {
    case QNTI_FORM_ZERO:
        if (grid->integer_offset || grid->constant_offset || all_whole(n, offset, stride))
            grid->kernels->zero_round(n, x, scale, offset, stride, top, code, value);
        else
            real_zero_round(n, x, scale, offset, stride, top, code, value);
        return;
    case QNTI_FORM_MIN:
        grid->kernels->min_round(n, x, scale, offset, stride, top, code, value);
        return;
    case QNTI_FORM_CODEBOOK:
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
            value[i] = scale[i * stride] * codebook[code[i]] + offset[i * stride];
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
