/*
 * affine.c - evenly spaced levels: value = (code - zero) * scale.
 *
 * The range of a group becomes its grid by one of four rules (rtn.md):
 *   G1 zero is a level, asymmetric      G2 symmetric, levels -2^(b-1) .. 2^(b-1)-1 about the range
 *   G3 symmetric, absmax is a level     G4 min-max, zero clamped (AWQ)
 * Range search tries the range times 1 - i / grid and keeps the least sum of
 * |error|^norm (Frantar et al., GPTQ, the authors' quant.py). All in f32, in
 * the order written there: quotients, not reciprocals.
 */
#include "grid/grid.h"

#include <float.h>
#include <math.h>
#include "base/kernels.h"

static const float LEAST_RANGE = 1e-5f; /* G3, G4: AutoAWQ's floor of a range */

struct range {
    float lo, hi;
};

/* The numbers that share one scale: `rows` runs of `cols`. */
struct group {
    const float *x;
    size_t rows, cols, stride;
};

struct affine {
    float scale, zero;
};

static struct range range_of(const struct qnti_grid *grid, const struct group *g)
{
    struct range range = {INFINITY, -INFINITY};
    for (size_t r = 0; r < g->rows; r++) {
        float lo, hi;
        grid->kernels->range(g->cols, g->x + r * g->stride, &lo, &hi);
        range.lo = fminf(range.lo, lo);
        range.hi = fmaxf(range.hi, hi);
    }
    return range;
}

/* Steps 1 and 2 of G1 and G2: zero inside, mirrored if symmetric, never empty. */
static struct range with_zero(struct range range, bool mirrored)
{
    range.lo = fminf(range.lo, 0);
    range.hi = fmaxf(range.hi, 0);
    if (mirrored) {
        range.hi = fmaxf(-range.lo, range.hi);
        range.lo = -range.hi;
    }
    return range;
}

/* (hi - lo) / top, also where hi - lo overflows. */
static float step(struct range range, float top)
{
    float width = range.hi - range.lo;
    return isinf(width) ? range.hi / top - range.lo / top : width / top;
}

static struct affine affine_of(const struct qnti_grid *grid, struct range range)
{
    float top = (float)(grid->levels - 1), middle = (float)(1u << (grid->bits - 1));
    struct affine a;
    if (grid->sym && grid->absmax) {
        a.scale = fmaxf(fmaxf(-range.lo, range.hi), LEAST_RANGE) / (middle - 1);
        a.zero = middle;
        return a;
    }
    if (!grid->sym && !grid->include_zero) {
        a.scale = isinf(range.hi - range.lo) ? step(range, top) : fmaxf(range.hi - range.lo, LEAST_RANGE) / top;
        a.zero = -rintf(range.lo / a.scale);
        if (!grid->wide_zero)
            a.zero = fminf(fmaxf(a.zero, (float)grid->least_zero), top);
        return a;
    }
    a.scale = step(range, top);
    if (a.scale < FLT_MIN) { /* all zero, or so small that a quotient by the scale means nothing */
        range.lo = -1;
        range.hi = 1;
        a.scale = step(range, top);
    }
    a.zero = grid->sym ? middle : fmaxf(rintf(-range.lo / a.scale), (float)grid->least_zero);
    return a;
}

static struct affine stored(const struct qnti_grid *grid, struct affine a)
{
    a.scale = qnti_grid_stored_scale(grid, a.scale);
    return a;
}

/* Sum of |value - x|^norm in f32, in a fixed order. */
static float search_error(const struct qnti_grid *grid, const struct group *g, struct affine a)
{
    enum { CHUNK = 256 };
    float value[CHUNK], sum = 0;
    for (size_t r = 0; r < g->rows; r++)
        for (size_t c = 0; c < g->cols; c += CHUNK) {
            const float *x = g->x + r * g->stride + c;
            size_t n = qnti_min(CHUNK, g->cols - c);
            qnti_grid_round(grid, NULL, n, x, &a.scale, &a.zero, 0, NULL, value);
            for (size_t i = 0; i < n; i++) {
                float d = fabsf(value[i] - x[i]);
                sum += grid->search_norm == 2 ? d * d : powf(d, grid->search_norm);
            }
        }
    return sum;
}

static struct affine search(const struct qnti_grid *grid, const struct group *g, struct range range,
                            struct affine found)
{
    float best = INFINITY;
    for (unsigned i = 0; i < grid->search_steps; i++) {
        float p = (float)(1.0 - (double)i / grid->search_grid);
        struct affine a = stored(grid, affine_of(grid, (struct range){p * range.lo, p * range.hi}));
        float error = search_error(grid, g, a);
        if (error < best) {
            best = error;
            found = a;
        }
    }
    return found;
}

/* Without 0 inside the range is shrunk; else the step alone, and the zero is that of the whole range (Atom's code). */
static struct affine clipped(const struct qnti_grid *grid, struct range range)
{
    float clip = grid->clip > 0 ? grid->clip : 1;
    struct affine a;
    if (!grid->sym && !grid->include_zero)
        return affine_of(grid, (struct range){clip * range.lo, clip * range.hi});
    a = affine_of(grid, range);
    if (clip == 1 || (range.lo == 0 && range.hi == 0))
        return a;
    a.scale *= clip;
    if (!grid->sym)
        a.zero = fminf(fmaxf(rintf(-range.lo / a.scale), (float)grid->least_zero), (float)(grid->levels - 1));
    return a;
}

static struct affine fit_group(const struct qnti_grid *grid, const struct group *g)
{
    struct range range = range_of(grid, g);
    struct affine a;
    if (grid->sym || grid->include_zero)
        range = with_zero(range, grid->sym);
    a = stored(grid, clipped(grid, range));
    return grid->search ? search(grid, g, range, a) : a;
}

static void affine_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                       size_t group, uint16_t *code, size_t code_stride)
{
    size_t tied = grid->map.rows ? grid->map.rows : band->rows;
    for (size_t r = 0; r < band->rows; r += tied) {
        struct group g = {band->x + r * band->stride, qnti_min(tied, band->rows - r), band->cols, band->stride};
        size_t at = (grid->map.rows ? (row + r) / tied : 0) * q->scale->cols + group;
        struct affine a = fit_group(grid, &g);
        q->scale->value[at] = a.scale;
        if (q->offset)
            q->offset->value[at] = a.zero;
        for (size_t i = 0; code && i < g.rows; i++)
            qnti_grid_round(grid, NULL, g.cols, g.x + i * g.stride, &a.scale, &a.zero, 0, code + (r + i) * code_stride,
                            NULL);
    }
}

const struct qnti_grid_kind qnti_affine_kind = {.name = "affine", .fit = affine_fit};

struct qnti_grid qnti_affine_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size,
                                  qnt_dtype scale_type)
{
    return (struct qnti_grid){.kind = &qnti_affine_kind,
                              .kernels = kernels,
                              .form = QNTI_FORM_ZERO,
                              .bits = bits,
                              .levels = 1u << bits,
                              .map = {.kind = QNTI_MAP_TILES, .rows = 1, .cols = group_size},
                              .scale_type = scale_type,
                              .include_zero = true};
}

struct qnti_grid qnti_signed_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size,
                                  qnt_dtype scale_type)
{
    struct qnti_grid grid = qnti_affine_grid(kernels, bits, group_size, scale_type);
    grid.sym = grid.absmax = grid.constant_offset = grid.signed_codes = true;
    grid.offset = (float)(1u << (bits - 1));
    return grid;
}
