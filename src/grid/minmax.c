/*
 * minmax.c - evenly spaced levels over the range of a group as it is: it need not hold 0, offsets are real numbers.
 *
 *     scale = (hi - lo) / (levels - 1),   zero = -lo / scale,   code = rint(x / scale + zero)
 *
 * or, symmetric, lo = -hi and zero in the middle; or, half open, (hi - lo) /
 * levels, where what lies at the end of the range takes the last level, a step
 * below it (Yao et al., "ZeroQuant", NeurIPS 2022). A constant group is held
 * exactly. Scales and zeros may be codes themselves, on grids of this kind over
 * runs of rows; zeros are those of the scales before these are coded (Dettmers
 * et al., "SpQR", ICLR 2024; the authors' quant_groups.py). The floor of 1e-9
 * that those put under a scale is left out: no scale here is 0.
 */
#include "grid/grid.h"

#include <float.h>
#include <math.h>
#include "base/kernels.h"
#include "base/number.h"

static const float MOST_F16_OFFSET = 32768; /* with scales in f16 offsets must fit there too, and their codes' grids */

static bool coded(const struct qnti_grid *second)
{
    return second && second->form != QNTI_FORM_FLOAT;
}

/* A step of the range, also where hi - lo overflows. */
static float step(const struct qnti_grid *grid, float lo, float hi)
{
    float top = (float)(grid->half_open ? grid->levels : grid->levels - 1), width = hi - lo;
    float scale = isinf(width) ? hi / top - lo / top : width / top;
    if (grid->scale_type == QNT_F16)
        scale = fmaxf(scale, fmaxf(-lo, hi) / MOST_F16_OFFSET);
    return scale;
}

void qnti_minmax_affine(const struct qnti_grid *grid, float lo, float hi, float *scale, float *offset)
{
    bool constant = lo == hi;
    float c = lo;
    if (grid->sym) {
        hi = fmaxf(-lo, hi);
        lo = -hi;
        constant = hi == 0;
    }
    *scale = constant ? fabsf(c) : step(grid, lo, hi);
    if (!coded(grid->scale_grid))
        *scale = qnti_grid_stored_scale(grid, *scale);
    if (*scale < FLT_MIN) { /* nothing but 0, or so small that a quotient by the scale means nothing */
        *scale = 1;
        *offset = 0;
    } else {
        *offset = constant ? -copysignf(1, c) : -lo / *scale;
    }
    if (grid->sym)
        *offset = grid->offset;
    else if (grid->whole_offset)
        *offset = rintf(*offset);
    if (!coded(grid->offset_grid))
        *offset = qnti_round_to(grid->scale_type, *offset);
}

/* Rows [first, first + n) of one group's scales or offsets to codes, and the values that these stand for. */
static void code_second(struct qnti_numbers *second, size_t first, size_t n, size_t group)
{
    float *value = second ? second->value + first * second->cols + group : NULL;
    struct qnti_band band = {.x = value, .rows = n, .cols = 1, .stride = second ? second->cols : 0};
    if (!second || second->grid.form == QNTI_FORM_FLOAT)
        return;
    second->grid.kind->fit(&second->grid, &band, second, first, group, NULL, 0);
    for (size_t r = 0; r < n; r++) {
        float scale, offset;
        uint16_t code;
        qnti_numbers_affine(second, first + r, group, &scale, &offset);
        qnti_grid_round(&second->grid, NULL, 1, value + r * second->cols, &scale, &offset, 0, &code,
                        value + r * second->cols);
        qnti_numbers_put_codes(second, first + r, group, 1, &code);
    }
}

static void minmax_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                       size_t group, uint16_t *code, size_t code_stride)
{
    size_t tied = grid->map.rows ? grid->map.rows : band->rows, tiles = qnti_ceil_div(band->rows, tied);
    size_t first = grid->map.rows ? row / tied : 0;
    for (size_t t = 0; t < tiles; t++) {
        float least = INFINITY, greatest = -INFINITY, lo, hi, offset;
        size_t at = (first + t) * q->scale->cols + group;
        for (size_t r = t * tied; r < qnti_min((t + 1) * tied, band->rows); r++) {
            grid->kernels->range(band->cols, band->x + r * band->stride, &lo, &hi);
            least = fminf(least, lo);
            greatest = fmaxf(greatest, hi);
        }
        qnti_minmax_affine(grid, least, greatest, &q->scale->value[at], q->offset ? &q->offset->value[at] : &offset);
    }
    code_second(q->scale, first, tiles, group);
    code_second(q->offset, first, tiles, group);
    for (size_t r = 0; code && r < band->rows; r++) {
        size_t at = (first + r / tied) * q->scale->cols + group;
        qnti_grid_round(grid, NULL, band->cols, band->x + r * band->stride, &q->scale->value[at],
                        q->offset ? &q->offset->value[at] : &grid->offset, 0, code + r * code_stride, NULL);
    }
}

const struct qnti_grid_kind qnti_minmax_kind = {.name = "min-max", .fit = minmax_fit};

struct qnti_grid qnti_minmax_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size,
                                  qnt_dtype scale_type)
{
    struct qnti_grid grid = qnti_affine_grid(kernels, bits, group_size, scale_type);
    grid.kind = &qnti_minmax_kind;
    grid.real_offset = true;
    grid.include_zero = false;
    return grid;
}

struct qnti_grid qnti_half_open_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size, bool sym,
                                     qnt_dtype scale_type)
{
    struct qnti_grid grid = qnti_minmax_grid(kernels, bits, group_size, scale_type);
    grid.half_open = grid.whole_offset = true;
    grid.sym = grid.constant_offset = grid.signed_codes = sym;
    grid.real_offset = !sym;
    grid.offset = sym ? (float)(1u << (bits - 1)) : 0;
    return grid;
}
