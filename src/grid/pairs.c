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

/* a where the condition holds, else b, without a branch: loops of it become vectors. */
static inline float choose(bool condition, float a, float b)
{
    uint32_t mask = 0u - (uint32_t)condition;
    return qnti_float((qnti_bits(a) & mask) | (qnti_bits(b) & ~mask));
}

static inline float normal_step(const struct levels *l, float x)
{
    float e = binade(x), step = e * e * l->growth;
    step = choose(step > l->step, step, l->step);
    return choose(step < MOST_STEP, step, MOST_STEP);
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

enum { CHUNK = 256 };                    /* numbers at a time, an even count */

/* The nearest multiple, the upper one of two: |x| < 2^22 step. */
static inline float multiple(float x, float step)
{
    float magic = step * 0x1.8p23f, m = (x + magic) - magic;
    return m + choose(x - m == 0.5f * step, step, 0);
}

static inline float within(float x, float low, float high)
{
    x = choose(x > low, x, low);
    return choose(x < high, x, high);
}

static inline float nearest(const struct levels *l, float v)
{
    float x = within(v, l->low, l->high), inner = within(x, -l->normal, l->normal);
    float normal = multiple(inner, normal_step(l, inner));
    float outlier = fabsf(multiple(x, binade(x) * l->fraction));
    outlier = choose(outlier > l->first, outlier, l->first);
    return choose(fabsf(x) >= l->border, copysignf(outlier, x), normal);
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

/*
 * Numbers of a row in the order of their magnitudes: those of a level are a run, and what they err follows from its
 * sums. With level y and number x the error is x^2 + y (y - 2 x); the sum of x^2 is the same for every scale.
 */
struct row {
    const struct qnti_grid *grid;
    struct levels levels;
    const float *x;
    size_t n;
    uint64_t *ordered, *other;           /* [n] magnitude's bits and place; the second while they are sorted */
    double *sum;                         /* [n + 1] of the magnitudes of the first so many */
    float *magnitude;                    /* [n] */
    double square;                       /* sum of x^2 */
};

static float magnitude(const struct qnti_grid *grid, float x)
{
    return grid->pairs.is_signed ? fabsf(x) : x > 0 ? x : 0; /* never -0 */
}

/* One byte of the keys after the other, from the low one of the upper word on. */
static void sort(struct row *row)
{
    enum { DIGITS = 256, FIRST = 32, LAST = 64, WIDTH = 8 };
    for (unsigned shift = FIRST; shift < LAST; shift += WIDTH) {
        size_t start[DIGITS + 1] = {0};
        uint64_t *from = row->ordered;
        for (size_t i = 0; i < row->n; i++)
            start[(from[i] >> shift) % DIGITS + 1]++;
        for (size_t d = 0; d < DIGITS; d++)
            start[d + 1] += start[d];
        for (size_t i = 0; i < row->n; i++)
            row->other[start[(from[i] >> shift) % DIGITS]++] = from[i];
        row->ordered = row->other;
        row->other = from;
    }
}

static size_t pairs_scratch(size_t cols)
{
    return cols * (2 * sizeof(uint64_t) + sizeof(double) + sizeof(float)) + sizeof(double);
}

static struct row open_row(const struct qnti_grid *grid, size_t n, const float *x, void *scratch)
{
    struct row row = {.grid = grid, .levels = levels_of(grid), .x = x, .n = n, .ordered = scratch};
    row.other = row.ordered + n;
    row.sum = (double *)(row.other + n);
    row.magnitude = (float *)(row.sum + n + 1);
    for (size_t i = 0; i < n; i++) {
        row.ordered[i] = (uint64_t)qnti_bits(magnitude(grid, x[i])) << 32 | i;
        row.square += (double)x[i] * (double)x[i];
    }
    sort(&row);
    row.sum[0] = 0;
    for (size_t i = 0; i < n; i++) {
        row.magnitude[i] = qnti_float((uint32_t)(row.ordered[i] >> 32));
        row.sum[i + 1] = row.sum[i] + (double)row.magnitude[i];
    }
    return row;
}

/* The first place from `from` on whose magnitude is not below the bound: near, so in steps that grow. */
static size_t first_from(const struct row *row, size_t from, float bound)
{
    size_t low = from, high, step = 1;
    for (; low + step <= row->n && row->magnitude[low + step - 1] < bound; step *= 2)
        low += step;
    high = qnti_min(low + step - 1, row->n);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (row->magnitude[middle] < bound)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* y (y - 2 x) of the first `count` in order, all on normal levels. */
static double normal_gain(const struct row *row, size_t count, float scale)
{
    const float *level = row->grid->table + qnti_pairs_zero(row->grid);
    double gain = 0;
    for (size_t from = 0, end; from < count; from = end, level++) {
        double y = (double)scale * (double)*level;
        bool last = !(*level < row->levels.normal);
        end = last ? count : qnti_min(first_from(row, from, scale * (*level + level[1]) / 2), count);
        gain += y * ((double)(end - from) * y - 2 * (row->sum[end] - row->sum[from]));
    }
    return gain;
}

static double gain_of(const struct row *row, size_t i, float scale)
{
    double x = (double)row->x[i], y = (double)(scale * nearest(&row->levels, row->x[i] / scale));
    return y * (y - 2 * x);
}

/* Of the outliers, those from `first` on in order, less that of their victims among the others. */
static double outlier_gain(const struct row *row, size_t first, float scale, float bound)
{
    double gain = 0;
    for (size_t k = first; k < row->n; k++) {
        size_t i = (uint32_t)row->ordered[k], partner = i ^ 1;
        float own = row->magnitude[k], its = partner < row->n ? magnitude(row->grid, row->x[partner]) : 0;
        bool stays = its < bound || (row->grid->pairs.larger && own != its ? own > its : i % 2 == 0);
        if (stays)
            gain += gain_of(row, i, scale);
        if (its < bound && partner < row->n)
            gain -= gain_of(row, partner, scale);
    }
    return gain;
}

size_t qnti_pairs_steps(const struct qnti_grid *grid)
{
    return qnti_min((grid->pairs.search_high - grid->pairs.search_low + 1) / 2, QNTI_PAIRS_MOST_STEPS);
}

float qnti_pairs_scale(const struct qnti_grid *grid, float base, size_t step)
{
    float alpha = base * (float)((grid->pairs.search_low + 2 * (double)step) * 0.01);
    return base > 0 ? qnti_grid_stored_scale(grid, fmaxf(alpha / levels_of(grid).normal, FLT_MIN)) : 1;
}

void qnti_pairs_errors(const struct qnti_grid *grid, float base, size_t n, const float *x, void *scratch,
                       double *errors)
{
    struct row row = open_row(grid, n, x, scratch);
    for (size_t i = 0; i < qnti_pairs_steps(grid); i++) {
        float scale = qnti_pairs_scale(grid, base, i), bound = scale * row.levels.border;
        size_t outliers = first_from(&row, 0, bound);
        errors[i] += isfinite(scale) ? row.square + normal_gain(&row, outliers, scale) +
                                           outlier_gain(&row, outliers, scale, bound) : INFINITY;
    }
}

float qnti_pairs_base(const struct qnti_grid *grid, const float *x, size_t rows, size_t cols, size_t stride)
{
    double n = (double)rows * (double)cols, mean = 0, square = 0; /* f64: a tensor of millions */
    float low, high, most = 0;
    for (size_t r = 0; r < rows; r++) {
        grid->kernels->range(cols, x + r * stride, &low, &high);
        most = fmaxf(most, fmaxf(-low, high));
        for (size_t c = 0; c < cols; c++)
            mean += (double)x[r * stride + c] / n;
    }
    if (!grid->pairs.outliers)
        return most;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            square += ((double)x[r * stride + c] - mean) * ((double)x[r * stride + c] - mean);
    return (float)(fabs(mean) + 3 * (n > 1 ? sqrt(square / (n - 1)) : 0));
}

size_t qnti_pairs_best(const double *errors, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (errors[i] < errors[best])
            best = i;
    return best;
}

static void pairs_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                      size_t group, uint16_t *code, size_t code_stride)
{
    size_t tied = grid->map.rows ? grid->map.rows : band->rows, steps = qnti_pairs_steps(grid);
    for (size_t r = 0; r < band->rows; r += tied) {
        size_t rows = qnti_min(tied, band->rows - r), at = grid->map.rows ? (row + r) / tied : 0;
        const float *x = band->x + r * band->stride;
        double errors[QNTI_PAIRS_MOST_STEPS] = {0};
        float base = qnti_pairs_base(grid, x, rows, band->cols, band->stride), scale;
        for (size_t i = 0; base > 0 && i < rows; i++)
            qnti_pairs_errors(grid, base, band->cols, x + i * band->stride, band->scratch, errors);
        scale = qnti_pairs_scale(grid, base, qnti_pairs_best(errors, steps));
        q->scale->value[at * q->scale->cols + group] = scale;
        for (size_t i = r; code && i < r + rows; i++)
            qnti_pairs_round(grid, band->cols, band->x + i * band->stride, &scale, 0, code + i * code_stride, NULL);
    }
}

const struct qnti_grid_kind qnti_pairs_kind = {.name = "pairs", .fit = pairs_fit, .scratch = pairs_scratch};
