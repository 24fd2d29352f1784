/*
 * small_float.c - floats of 8 and 4 bits as codes: value = scale * level[code], with the numbers of base/number.h.
 *
 *     scale = max|x| / (largest level)   as it is stored: a float, or itself an FP8 code with one divisor for all
 *                                        (NVFP4: scale = level / g), or a power of two
 *     E8M0: 2^(log2 p - e), p the maximum rounded to the numbers' mantissa, down to a power of two, e the exponent of
 *           the largest level (the rounding of torchao and compressed-tensors, not the floor of OCP's text)
 *     or by a rule: 2^k, k = log2 scale, or S / 2^n, S the largest scale of a row or the tensor, n = log2(S / scale),
 *           k and n rounded (Wu et al., "ZeroQuant-FP", 2023)
 *     code = round(x / scale), to nearest even
 *
 * A group of zeros has the scale eps of the scales' type, as in compressed-tensors, or, by a rule, 1.
 */
#include "grid/grid.h"

#include <float.h>
#include <math.h>
#include "base/kernels.h"
#include "base/number.h"

/* The codes 0x7f and 0xff are no numbers; nothing is rounded to them. */
#define BINADE(s, step)                                                                                                \
    s * 8 * step, s * 9 * step, s * 10 * step, s * 11 * step, s * 12 * step, s * 13 * step, s * 14 * step, s * 15 * step
#define HALF(s)                                                                                                        \
    s * 0.0f, s * 0x1p-9f, s * 0x2p-9f, s * 0x3p-9f, s * 0x4p-9f, s * 0x5p-9f, s * 0x6p-9f, s * 0x7p-9f,               \
        BINADE(s, 0x1p-9f), BINADE(s, 0x1p-8f), BINADE(s, 0x1p-7f), BINADE(s, 0x1p-6f), BINADE(s, 0x1p-5f),            \
        BINADE(s, 0x1p-4f), BINADE(s, 0x1p-3f), BINADE(s, 0x1p-2f), BINADE(s, 0x1p-1f), BINADE(s, 1.0f),               \
        BINADE(s, 2.0f), BINADE(s, 4.0f), BINADE(s, 8.0f), BINADE(s, 16.0f), BINADE(s, 32.0f)
static const float e4m3_level[256] = {HALF(1.0f), HALF(-1.0f)};
const struct qnti_codebook qnti_fp8_e4m3 = {"fp8 e4m3", 8, e4m3_level, NULL, NULL, &qnti_e4m3};

static const float e2m1_level[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
const struct qnti_codebook qnti_fp4_e2m1 = {"fp4 e2m1", 4, e2m1_level, NULL, NULL, &qnti_e2m1};

/* Three codes behind the largest number of either sign are no numbers; nothing is rounded to them. */
#undef BINADE
#undef HALF
#define BINADE(s, step) s * 4 * step, s * 5 * step, s * 6 * step, s * 7 * step
#define BINADES(s, step)                                                                                               \
    BINADE(s, step), BINADE(s, 2 * step), BINADE(s, 4 * step), BINADE(s, 8 * step), BINADE(s, 16 * step),              \
        BINADE(s, 32 * step), BINADE(s, 64 * step), BINADE(s, 128 * step)
#define HALF(s)                                                                                                        \
    s * 0.0f, s * 0x1p-16f, s * 0x2p-16f, s * 0x3p-16f, BINADES(s, 0x1p-16f), BINADES(s, 0x1p-8f), BINADES(s, 1.0f),   \
        BINADE(s, 0x1p8f), BINADE(s, 0x1p9f), BINADE(s, 0x1p10f), BINADE(s, 0x1p11f), BINADE(s, 0x1p12f),              \
        BINADE(s, 0x1p13f), BINADE(s, 0x1p14f)
static const float e5m2_level[256] = {HALF(1.0f), HALF(-1.0f)};
const struct qnti_codebook qnti_fp8_e5m2 = {"fp8 e5m2", 8, e5m2_level, NULL, NULL, &qnti_e5m2};

static const float e3m0_level[16] = {0,     0.25f,  0.5f,  1,  2,  4,  8,  16,
                                     -0.0f, -0.25f, -0.5f, -1, -2, -4, -8, -16};
const struct qnti_codebook qnti_fp4_e3m0 = {"fp4 e3m0", 4, e3m0_level, NULL, NULL, &qnti_e3m0};

static const float e1m2_level[16] = {0,     0.5f,  1,  1.5f,  2,  2.5f,  3,  3.5f,
                                     -0.0f, -0.5f, -1, -1.5f, -2, -2.5f, -3, -3.5f};
const struct qnti_codebook qnti_fp4_e1m2 = {"fp4 e1m2", 4, e1m2_level, NULL, NULL, &qnti_e1m2};

const struct qnti_codebook *qnti_small_float_book(const struct qnti_grid *grid)
{
    static const struct qnti_codebook *const books[] = {&qnti_fp8_e4m3, &qnti_fp8_e5m2, &qnti_fp4_e2m1,
                                                       &qnti_fp4_e3m0, &qnti_fp4_e1m2};
    for (size_t i = 0; i < sizeof books / sizeof *books; i++)
        if (qnti_codebook_is(books[i], grid))
            return books[i];
    return NULL;
}

void qnti_small_float_round(const struct qnti_grid *grid, size_t n, const float *x, const float *scale, size_t stride,
                            uint16_t *code, float *value)
{
    const struct qnti_small_float *f = grid->book->number;
    for (size_t i = 0; i < n; i++) {
        float s = scale[i * stride];
        unsigned c = 0;
        if (grid->divisor > 0)
            c = qnti_small_code(f, x[i] * grid->divisor);
        else if (s != 0)
            c = qnti_small_code(f, x[i] / s);
        if (code)
            code[i] = (uint16_t)c;
        if (value)
            value[i] = grid->divisor > 0 ? grid->book->level[c] / grid->divisor : s * grid->book->level[c];
    }
}

/* --- fitting --- */

/* What stands in place of a scale of 0. */
static float eps(qnt_dtype type)
{
    static const float eps_of[] = {[QNT_F32] = 0x1p-23f, [QNT_F16] = 0x1p-10f, [QNT_BF16] = 0x1p-7f};
    return type <= QNT_BF16 ? eps_of[type] : 0.125f;
}

static float power_of_two(const struct qnti_small_float *f, float most)
{
    uint32_t half = 1u << (22 - f->mantissa), p = (qnti_bits(most) + half) & 0x7f800000u;
    int code = (int)(p >> 23) - (int)(qnti_bits(f->most) >> 23) + 127;
    return qnti_e8m0_to_f32(code > 0 ? (unsigned)code : 0);
}

/* An exponent as the rule rounds it. */
static double whole(enum qnti_scale_rule rule, double x)
{
    return rule == QNTI_SCALE_UP ? ceil(x) : rule == QNTI_SCALE_DOWN ? floor(x) : rint(x);
}

static bool halves(const struct qnti_grid *grid)
{
    return grid->scale_grid && !(grid->scale_grid->divisor > 0);
}

/* A scale that is an FP8 code with the grid's divisor: never 0. */
static void divided_scale(const struct qnti_grid *second, float scale, struct qnti_numbers *q, size_t at)
{
    const float one = 1;
    uint16_t code;
    qnti_small_float_round(second, 1, &scale, &one, 0, &code, &q->scale->value[at]);
    if (q->scale->value[at] == 0) {
        scale = 0.125f / second->divisor;
        qnti_small_float_round(second, 1, &scale, &one, 0, &code, &q->scale->value[at]);
    }
    q->scale->code8[at] = (uint8_t)code;
}

/* The scale of a group with this maximum, as it is stored. One that becomes a halving is 0 for a group of zeros. */
static float scale_of(const struct qnti_grid *grid, float most)
{
    float scale = most / grid->book->number->most;
    if (halves(grid))
        return scale;
    if (grid->scale_rule == QNTI_SCALE_COMPRESSED) {
        if (grid->scale_type == QNT_F8_E8M0)
            return power_of_two(grid->book->number, most);
        return qnti_grid_stored_scale(grid, most == 0 ? eps(grid->scale_type) : scale);
    }
    if (scale == 0)
        return 1;
    if (grid->scale_rule != QNTI_SCALE_FREE)
        scale = (float)exp2(whole(grid->scale_rule, log2((double)scale)));
    return qnti_grid_stored_scale(grid, scale);
}

/* Scales of `rows` rows, from row `first` on, become halvings of their largest. */
static void halve_scales(const struct qnti_grid *grid, size_t first, size_t rows, struct qnti_numbers *scales)
{
    size_t n = rows * scales->cols, at = scales->grid.map.rows ? first : 0;
    float *s = scales->value + first * scales->cols, most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, s[i]);
    most = most < FLT_MIN ? 1 : qnti_grid_stored_scale(&scales->grid, most);
    scales->scale->value[at] = most;
    for (size_t i = 0; i < n; i++) {
        double k = s[i] > 0 ? -whole(grid->scale_rule, log2((double)s[i] / (double)most)) : 0;
        unsigned code = (unsigned)fmin(fmax(k, 0), scales->grid.levels - 1);
        scales->code8[first * scales->cols + i] = (uint8_t)code;
        s[i] = most * scales->grid.table[code];
    }
}

static void code_scales(const struct qnti_grid *grid, size_t first, size_t rows, struct qnti_numbers *scales)
{
    size_t tied = scales->grid.map.rows ? scales->grid.map.rows : rows;
    for (size_t r = 0; r < rows; r += tied)
        halve_scales(grid, first + r, qnti_min(tied, rows - r), scales);
}

/* The largest magnitude of `rows` rows of a group. */
static float most_of(const struct qnti_grid *grid, const struct qnti_band *band, size_t first, size_t rows, size_t col,
                     size_t cols)
{
    float most = 0, lo, hi;
    for (size_t r = first; r < first + rows; r++) {
        grid->kernels->range(cols, band->x + r * band->stride + col, &lo, &hi);
        most = fmaxf(most, fmaxf(-lo, hi));
    }
    return most;
}

static void small_float_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q,
                            size_t row, size_t group, uint16_t *code, size_t code_stride)
{
    size_t tied = grid->map.rows ? grid->map.rows : band->rows, first = grid->map.rows ? row / tied : 0;
    size_t width = halves(grid) && grid->map.cols ? grid->map.cols : band->cols; /* else the band is one group */
    for (size_t r = 0; r < band->rows; r += tied)
        for (size_t c = 0; c < band->cols; c += width) {
            size_t at = (first + r / tied) * q->scale->cols + group + c / width;
            float most = most_of(grid, band, r, qnti_min(tied, band->rows - r), c, qnti_min(width, band->cols - c));
            if (grid->scale_grid && !halves(grid))
                divided_scale(grid->scale_grid, most / grid->book->number->most, q, at);
            else
                q->scale->value[at] = scale_of(grid, most);
        }
    if (halves(grid))
        code_scales(grid, first, qnti_ceil_div(band->rows, tied), q->scale);
    for (size_t r = 0; code && r < band->rows; r++)
        for (size_t c = 0; c < band->cols; c += width)
            qnti_small_float_round(grid, qnti_min(width, band->cols - c), band->x + r * band->stride + c,
                                   &q->scale->value[(first + r / tied) * q->scale->cols + group + c / width], 0,
                                   code + r * code_stride + c, NULL);
}

const struct qnti_grid_kind qnti_small_float_kind = {.name = "small float", .fit = small_float_fit};

struct qnti_grid qnti_small_float_grid(const struct qnti_kernels *kernels, const struct qnti_codebook *book,
                                       size_t group_size, qnt_dtype scale_type)
{
    struct qnti_grid grid = qnti_codebook_grid(kernels, book, 0, scale_type);
    grid.kind = &qnti_small_float_kind;
    grid.map = (struct qnti_map){.kind = QNTI_MAP_TILES, .rows = 1, .cols = group_size};
    return grid;
}

struct qnti_grid qnti_divided_grid(const struct qnti_kernels *kernels, const struct qnti_codebook *book, float divisor)
{
    struct qnti_grid grid = qnti_small_float_grid(kernels, book, 0, QNT_F32);
    grid.map = (struct qnti_map){.kind = QNTI_MAP_NONE, .rows = 1};
    grid.divisor = divisor;
    return grid;
}

#define HALVINGS(n)                                                                                                    \
    0x1p-##n##0f, 0x1p-##n##1f, 0x1p-##n##2f, 0x1p-##n##3f, 0x1p-##n##4f, 0x1p-##n##5f, 0x1p-##n##6f, 0x1p-##n##7f,    \
        0x1p-##n##8f, 0x1p-##n##9f
static const float halving[128] = {
    HALVINGS(0), HALVINGS(1), HALVINGS(2), HALVINGS(3), HALVINGS(4),  HALVINGS(5),  HALVINGS(6),
    HALVINGS(7), HALVINGS(8), HALVINGS(9), HALVINGS(10), HALVINGS(11), 0x1p-120f,    0x1p-121f,
    0x1p-122f,   0x1p-123f,   0x1p-124f,   0x1p-125f,   0x1p-126f,    0x1p-127f,
};

void qnti_power_scales(enum qnti_scale_rule rule, struct qnti_grid *grid)
{
    grid->scale_rule = rule;
    grid->scale_type = QNT_F8_E8M0;
}

/* A fit sees all groups of a row: none has its scale before the others. */
void qnti_halved_scales(enum qnti_scale_rule rule, bool by_tensor, struct qnti_grid *second, struct qnti_grid *grid)
{
    static const struct qnti_codebook book = {"halvings", 7, halving, NULL, NULL, NULL};
    *second = qnti_codebook_grid(grid->kernels, &book, 0, grid->scale_type);
    second->map = (struct qnti_map){.kind = QNTI_MAP_TILES, .rows = !by_tensor};
    grid->scale_rule = rule;
    grid->scale_type = QNT_F32;
    grid->scale_grid = second;
    grid->span = SIZE_MAX;
}
