/*
 * paired.c - scale and zero of a row's group searched together: the least sum of |error|^norm over all pairs.
 *
 *     scale_i = (hi - lo) i / steps / (levels - 1), zero z = 0 .. levels - 1;  lo <= 0 <= hi
 *     symmetric: scale_i = max(-lo, hi) i / steps / (levels / 2), z = levels / 2
 *
 * the first (i, z) of equally good ones (Lee et al., "OWQ", AAAI 2024; the
 * authors' quant.py). For one scale, zeros differ only in what is clipped: on
 * sorted numbers the sum for a zero is that of the numbers below its first
 * level, of those above its last, and a difference of sums over unclipped
 * errors which all zeros share. Sums begin with the numbers that are clipped
 * most and end where they exceed the best.
 */
#include "grid/grid.h"

#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"

static const float LEAST_SCALE = 1e-8f;

/* x^p of floats: 2^(p e) times m^p, which lies on a line between neighbours of a table (error 4e-7 for p = 2.4). */
enum { MANTISSAS = 1024, EXPONENTS = 256, EXPONENT_BIAS = 127 };

struct power {
    double exponent[EXPONENTS], mantissa[MANTISSAS + 1];
};

static void power_create(struct power *power, double p)
{
    power->exponent[0] = 0; /* subnormal numbers count as 0 */
    for (int e = 1; e < EXPONENTS - 1; e++)
        power->exponent[e] = exp2(p * (e - EXPONENT_BIAS));
    power->exponent[EXPONENTS - 1] = INFINITY;
    for (int m = 0; m <= MANTISSAS; m++)
        power->mantissa[m] = pow(1 + (double)m / MANTISSAS, p);
}

static inline double power_of(const struct power *power, float x)
{
    uint32_t bits = qnti_bits(x) & 0x7fffffff, m = bits >> 13 & (MANTISSAS - 1);
    double low = power->mantissa[m];
    return power->exponent[bits >> 23] * (low + (power->mantissa[m + 1] - low) * (double)(bits & 0x1fff) * 0x1p-13);
}

/* One group of one row, and the best pair so far. */
struct search {
    const struct qnti_grid *grid;
    struct power power;
    float *x;                /* [n] ascending */
    double *sum;             /* [n + 1] of the errors of x[0 .. k - 1] on scale `summed` without clipping */
    size_t n;
    unsigned summed;         /* step of that scale, 0: none */
    double best;
    unsigned step, zero;     /* of the best */
    float scale;
    double most_clipped;     /* an error above it alone exceeds the best */
};

static void sort(float *x, size_t n)
{
    static const size_t gaps[] = {8861, 3938, 1750, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++)
        for (size_t i = gaps[g]; i < n; i++) {
            float moved = x[i];
            size_t j = i;
            for (; j >= gaps[g] && x[j - gaps[g]] > moved; j -= gaps[g])
                x[j] = x[j - gaps[g]];
            x[j] = moved;
        }
}

static float scale_of(const struct search *s, unsigned step)
{
    float lo = fminf(s->x[0], 0), hi = fmaxf(s->x[s->n - 1], 0), steps = (float)s->grid->search_steps;
    float top = (float)(s->grid->levels - 1), half = (float)(s->grid->levels / 2), scale;
    if (s->grid->sym)
        scale = fmaxf(-lo, hi) * (float)step / steps / half;
    else
        scale = (hi - lo) * (float)step / steps / top;
    return qnti_grid_stored_scale(s->grid, fmaxf(scale, LEAST_SCALE));
}

/* Errors of all numbers on that scale: the zero form with more levels than any grid has. */
static void sum_errors(struct search *s, float scale)
{
    enum { CHUNK = 256 };
    const float middle = 1 << 15, top = (1 << 16) - 1;
    float value[CHUNK];
    s->sum[0] = 0;
    for (size_t c = 0; c < s->n; c += CHUNK) {
        size_t n = qnti_min(CHUNK, s->n - c);
        s->grid->kernels->zero_round(n, s->x + c, &scale, &middle, 0, top, NULL, value);
        for (size_t i = 0; i < n; i++)
            s->sum[c + i + 1] = s->sum[c + i] + power_of(&s->power, value[i] - s->x[c + i]);
    }
}

/* Numbers below the first level or above the last, from the outermost inwards; how many, and their errors into *sum. */
static size_t sum_clipped(const struct search *s, float scale, float level, bool above, double *sum)
{
    size_t n = 0;
    for (; n < s->n && *sum <= s->best; n++) {
        float x = above ? s->x[s->n - 1 - n] : s->x[n], q = rintf(x / scale);
        if (above ? !(q > level) : !(q < level))
            break;
        *sum += power_of(&s->power, level * scale - x);
    }
    return n;
}

static void try_pair(struct search *s, unsigned step, float scale, unsigned zero)
{
    double sum = 0;
    size_t below = sum_clipped(s, scale, -(float)zero, false, &sum);
    size_t above = sum_clipped(s, scale, (float)(s->grid->levels - 1 - zero), true, &sum);
    if (sum > s->best)
        return;
    if (s->summed != step)
        sum_errors(s, scale);
    s->summed = step;
    sum += s->sum[s->n - above] - s->sum[below];
    if (!(sum < s->best) && !(sum == s->best && (step < s->step || (step == s->step && zero < s->zero))))
        return;
    s->best = sum;
    s->step = step;
    s->zero = zero;
    s->scale = scale;
    s->most_clipped = pow(sum, 1 / (double)s->grid->search_norm) * (1 + 1e-5);
}

/* Zeros with which neither end of the range is clipped by too much. */
static void try_step(struct search *s, unsigned step)
{
    double top = (double)(s->grid->levels - 1), lo = (double)s->x[0], hi = (double)s->x[s->n - 1];
    float scale = scale_of(s, step);
    double first = floor((-lo - s->most_clipped) / (double)scale);
    double last = ceil(top - (hi - s->most_clipped) / (double)scale);
    if (s->grid->sym) {
        try_pair(s, step, scale, s->grid->levels / 2);
        return;
    }
    first = fmin(fmax(first, (double)s->grid->least_zero), top + 1);
    last = fmax(fmin(last, top), -1);
    for (double zero = first; zero <= last; zero++)
        try_pair(s, step, scale, (unsigned)zero);
}

/* Where the range itself lies. */
static unsigned whole_zero(const struct search *s, float scale)
{
    return (unsigned)fminf(fmaxf(rintf(-s->x[0] / scale), (float)s->grid->least_zero), (float)(s->grid->levels - 1));
}

static void search_group(struct search *s)
{
    unsigned steps = s->grid->search_steps;
    float whole;
    sort(s->x, s->n);
    whole = scale_of(s, steps);
    s->summed = 0;
    s->best = s->most_clipped = INFINITY;
    s->step = steps;
    s->zero = s->grid->sym ? s->grid->levels / 2 : whole_zero(s, whole);
    s->scale = whole;
    try_pair(s, steps, whole, s->zero);
    for (unsigned step = steps; step > 0; step--)
        try_step(s, step);
}

static void paired_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                       size_t group, uint16_t *code, size_t code_stride)
{
    struct search s = {.grid = grid, .n = band->cols, .sum = band->scratch};
    s.x = (float *)(s.sum + s.n + 1);
    power_create(&s.power, (double)grid->search_norm);
    for (size_t r = 0; r < band->rows; r++) {
        size_t at = (row + r) * q->scale->cols + group;
        float zero;
        memcpy(s.x, band->x + r * band->stride, s.n * sizeof *s.x);
        search_group(&s);
        zero = (float)s.zero;
        q->scale->value[at] = s.scale;
        if (q->offset)
            q->offset->value[at] = zero;
        if (code)
            qnti_grid_round(grid, NULL, s.n, band->x + r * band->stride, &s.scale, &zero, 0, code + r * code_stride,
                            NULL);
    }
}

static size_t paired_scratch(size_t cols)
{
    return (cols + 1) * sizeof(double) + cols * sizeof(float);
}

const struct qnti_grid_kind qnti_paired_kind = {.name = "paired", .fit = paired_fit, .scratch = paired_scratch};
