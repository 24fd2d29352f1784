/*
 * pairs.c - outlier-victim pairs (Guo et al., "OliVe", ISCA 2023; flint: "ANT", MICRO 2022): value = s * level.
 *
 *     normal levels    k 32 / 2^B, k < 2^B;  or flint, whose distances grow with the magnitude, up to 32
 *     outlier levels   2^e (1 + j / 2^(B - 2)), e = 5 .. 8, without 32;  B: bits without the sign
 *     s = alpha / (largest normal level), alpha = b i / 100: of i = low, low + 2, .. < high the least squared error
 *     b = |mean| + 3 std (n - 1);  without outlier levels max |x|
 *
 * Where one of the numbers 2k, 2k + 1 of a row is an outlier the other, its victim, becomes 0, in the search too. Ties
 * go upward, at the border to the outlier. How the two codes of a pair are stored: pack/pair_codes.c.
 */
#include "grid/grid.h"

#include <float.h>
#include <math.h>
#include "base/kernels.h"
#include "base/number.h"

static const float BORDER = 32;          /* of normal and outlier levels */
static const float MOST_STEP = 16;       /* of flint: all of its last binade */
enum { BINADES = 4 };                    /* of outliers */

/* How to find the nearest level without a search: distances of levels as they depend on a number's binade 2^e. */
struct levels {
    float step, growth;                  /* normal: max(step, growth 4^e) */
    float normal;                        /* the largest normal one */
    float border;                        /* outliers from here on */
    float first, fraction;               /* the first of them; distance fraction 2^e */
    float low, high;                     /* of all */
};

static unsigned magnitude_bits(const struct qnti_grid *grid)
{
    return grid->bits - grid->pairs.is_signed;
}

static struct levels levels_of(const struct qnti_grid *grid)
{
    int b = (int)magnitude_bits(grid);
    struct levels l = {.step = ldexpf(BORDER, grid->pairs.flint ? 2 - 2 * b : -b),
                       .growth = grid->pairs.flint ? 1 / MOST_STEP : 0,
                       .fraction = ldexpf(1, 2 - b),
                       .border = INFINITY};
    l.normal = grid->pairs.flint ? BORDER : BORDER - l.step;
    l.first = BORDER * (1 + l.fraction);
    l.high = l.normal;
    if (grid->pairs.outliers) {
        l.border = (l.normal + l.first) / 2;
        l.high = ldexpf(BORDER, BINADES) * (1 - l.fraction / 2);
    }
    l.low = grid->pairs.is_signed ? -l.high : 0;
    return l;
}

static inline float binade(float x)
{
    return qnti_float(qnti_bits(x) & 0x7f800000u);
}

static inline float normal_step(const struct levels *l, float x)
{
    float e = binade(x), step = e * e * l->growth;
    step = step > l->step ? step : l->step;
    return step < MOST_STEP ? step : MOST_STEP;
}

/* --- the levels --- */

bool qnti_in_pairs(const struct qnti_grid *grid)
{
    return grid->kind == &qnti_pairs_kind;
}

bool qnti_pairs_outlier(const struct qnti_grid *grid, unsigned code)
{
    return fabsf(grid->table[code]) > BORDER;
}

struct qnti_grid qnti_pairs_grid(const struct qnti_kernels *kernels, unsigned bits, struct qnti_pairs pairs,
                                 size_t group_size, qnt_dtype scale_type, float table[QNTI_PAIRS_MOST_LEVELS])
{
    struct qnti_grid grid = {.kind = &qnti_pairs_kind,
                             .kernels = kernels,
                             .form = QNTI_FORM_CODEBOOK,
                             .bits = bits,
                             .map = {.kind = QNTI_MAP_TILES, .rows = 1, .cols = group_size},
                             .scale_type = scale_type,
                             .constant_offset = true,
                             .table = table,
                             .pairs = pairs};
    struct levels l = levels_of(&grid);
    unsigned magnitudes = (pairs.outliers ? 2u : 1u) << magnitude_bits(&grid), below;
    magnitudes -= pairs.outliers; /* 32 is no outlier */
    below = pairs.is_signed ? magnitudes - 1 : 0;
    grid.levels = below + magnitudes;
    for (unsigned k = 0; k < magnitudes; k++) {
        float x = k ? table[below + k - 1] : 0;
        if (k)
            x = x < l.normal ? x + normal_step(&l, x) : x > BORDER ? x + binade(x) * l.fraction : l.first;
        table[below + k] = x;
        if (below)
            table[below - k] = -x;
    }
    table[below] = 0;
    return grid;
}

unsigned qnti_pairs_zero(const struct qnti_grid *grid)
{
    return grid->pairs.is_signed ? grid->levels / 2 : 0;
}

/* --- rounding --- */

enum { CHUNK = 256, LANES = 8 };         /* numbers at a time, an even count; sums side by side */

/* The nearest multiple, the upper one of two: |x| < 2^22 step. */
static inline float multiple(float x, float step)
{
    float magic = step * 0x1.8p23f, m = (x + magic) - magic;
    return m + (x - m == 0.5f * step ? step : 0);
}

static inline float within(float x, float low, float high)
{
    x = x > low ? x : low;
    return x < high ? x : high;
}

static inline float nearest(const struct levels *l, float v)
{
    float x = within(v, l->low, l->high), inner = within(x, -l->normal, l->normal);
    float normal = multiple(inner, normal_step(l, inner));
    float outlier = fabsf(multiple(x, binade(x) * l->fraction));
    outlier = copysignf(outlier > l->first ? outlier : l->first, x);
    return fabsf(x) >= l->border ? outlier : normal;
}

static inline bool wide(float level)
{
    return (qnti_bits(level) & 0x7fffffffu) > 0x42000000u; /* |level| > 32, as an integer: loops of it vectorize */
}

/* Of a pair with an outlier the other becomes 0. v: the numbers that went to the levels. */
static void zero_victims(bool larger, size_t n, const float *v, float *level)
{
    for (size_t i = 0; i + 1 < n; i += 2) {
        bool left = wide(level[i]), right = wide(level[i + 1]);
        if (left && right)
            left = !larger || fabsf(v[i]) >= fabsf(v[i + 1]);
        if (left)
            level[i + 1] = 0;
        else if (right)
            level[i] = 0;
    }
}

/* Levels of n <= CHUNK numbers, and v = x / scale, scale > 0. */
static void round_chunk(const struct qnti_grid *grid, const struct levels *l, size_t n, const float *restrict x,
                        float scale, float *restrict v, float *restrict level)
{
    unsigned outliers = 0;
    for (size_t i = 0; i < n; i++)
        v[i] = x[i] / scale;
    for (size_t i = 0; i < n; i++)
        level[i] = nearest(l, v[i]);
    for (size_t i = 0; i < n; i++)
        outliers |= wide(level[i]);
    if (outliers)
        zero_victims(grid->pairs.larger, n, v, level);
}

/* Place of a level in the table. */
static uint16_t code_of(const struct qnti_grid *grid, float level)
{
    unsigned low = 0, high = grid->levels - 1;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (level > grid->table[middle])
            low = middle + 1;
        else
            high = middle;
    }
    return (uint16_t)low;
}

void qnti_pairs_round(const struct qnti_grid *grid, size_t n, const float *x, const float *scale, size_t stride,
                      uint16_t *code, float *value)
{
    struct levels l = levels_of(grid);
    float v[CHUNK], level[CHUNK];
    for (size_t done = 0, run; done < n; done += run) {
        float s = scale[done * stride];
        run = stride ? 1 : qnti_min(CHUNK, n - done);
        round_chunk(grid, &l, run, x + done, s != 0 ? s : INFINITY, v, level);
        for (size_t i = 0; code && i < run; i++)
            code[done + i] = code_of(grid, level[i]);
        for (size_t i = 0; value && i < run; i++)
            value[done + i] = s * level[i];
    }
}

/* --- the search --- */

/* Of one row, in units of scale^2; ends above `limit`. f32 within a chunk, f64 across them. */
static double error_of(const struct qnti_grid *grid, const struct levels *l, size_t n, const float *x, float scale,
                       double limit)
{
    float v[CHUNK], level[CHUNK];
    double sum = 0;
    for (size_t done = 0, run; done < n && sum <= limit; done += run) {
        float lane[LANES] = {0};
        run = qnti_min(CHUNK, n - done);
        round_chunk(grid, l, run, x + done, scale, v, level);
        for (size_t i = run; i % LANES; i++)
            v[i] = level[i] = 0;
        for (size_t i = 0; i < run; i += LANES)
            for (size_t k = 0; k < LANES; k++)
                lane[k] += (level[i + k] - v[i + k]) * (level[i + k] - v[i + k]);
        for (size_t k = 0; k < LANES; k++)
            sum += (double)lane[k];
    }
    return sum;
}

double qnti_pairs_error(const struct qnti_grid *grid, size_t n, const float *x, float scale, double limit)
{
    struct levels l = levels_of(grid);
    double unit = (double)scale * (double)scale;
    return isfinite(scale) ? unit * error_of(grid, &l, n, x, scale, limit / unit) : INFINITY;
}

size_t qnti_pairs_steps(const struct qnti_grid *grid)
{
    return (grid->pairs.search_high - grid->pairs.search_low + 1) / 2;
}

float qnti_pairs_base(const struct qnti_grid *grid, const float *x, size_t rows, size_t cols, size_t stride)
{
    double n = (double)rows * (double)cols, sum = 0, square = 0; /* f64: a tensor of millions */
    float low, high, most = 0;
    for (size_t r = 0; r < rows; r++) {
        grid->kernels->range(cols, x + r * stride, &low, &high);
        most = fmaxf(most, fmaxf(-low, high));
        for (size_t c = 0; c < cols; c++)
            sum += (double)x[r * stride + c];
    }
    if (!grid->pairs.outliers)
        return most;
    sum /= n;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            square += ((double)x[r * stride + c] - sum) * ((double)x[r * stride + c] - sum);
    return (float)(fabs(sum) + 3 * (n > 1 ? sqrt(square / (n - 1)) : 0));
}

float qnti_pairs_scale(const struct qnti_grid *grid, float base, size_t step)
{
    float alpha = base * (float)((grid->pairs.search_low + 2 * (double)step) * 0.01);
    return base > 0 ? qnti_grid_stored_scale(grid, fmaxf(alpha / levels_of(grid).normal, FLT_MIN)) : 1;
}

/* The scale of rows that share one. */
static float search(const struct qnti_grid *grid, const struct qnti_band *band, size_t first, size_t rows)
{
    const float *x = band->x + first * band->stride;
    float base = qnti_pairs_base(grid, x, rows, band->cols, band->stride), best = qnti_pairs_scale(grid, base, 0);
    double least = INFINITY;
    for (size_t i = 0; base > 0 && i < qnti_pairs_steps(grid); i++) {
        float scale = qnti_pairs_scale(grid, base, i);
        double error = 0;
        for (size_t r = 0; r < rows && error <= least; r++)
            error += qnti_pairs_error(grid, band->cols, x + r * band->stride, scale, least - error);
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

static void pairs_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                      size_t group, uint16_t *code, size_t code_stride)
{
    size_t tied = grid->map.rows ? grid->map.rows : band->rows;
    for (size_t r = 0; r < band->rows; r += tied) {
        size_t rows = qnti_min(tied, band->rows - r), at = grid->map.rows ? (row + r) / tied : 0;
        float scale = search(grid, band, r, rows);
        q->scale->value[at * q->scale->cols + group] = scale;
        for (size_t i = r; code && i < r + rows; i++)
            qnti_pairs_round(grid, band->cols, band->x + i * band->stride, &scale, 0, code + i * code_stride, NULL);
    }
}

const struct qnti_grid_kind qnti_pairs_kind = {.name = "pairs", .fit = pairs_fit};
