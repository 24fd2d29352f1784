/*
 * small_float.c - floats of 8 and 4 bits as codes: value = scale * level[code], FP8 E4M3 and FP4 E2M1 (base/number.h).
 *
 *     scale = max|x| / (largest level)   as it is stored: a float, or itself an FP8 code with one divisor for all
 *                                        (NVFP4: scale = level / g), or a power of two
 *     E8M0: 2^(log2 p - e), p the maximum rounded to the numbers' mantissa, down to a power of two, e the exponent of
 *           the largest level (the rounding of torchao and compressed-tensors, not the floor of OCP's text)
 *     code = round(x / scale), to nearest even
 *
 * A group of zeros has the scale eps of the scales' type, as in compressed-tensors.
 */
#include "grid/grid.h"

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

const struct qnti_codebook *qnti_small_float_book(const struct qnti_grid *grid)
{
    static const struct qnti_codebook *const books[] = {&qnti_fp8_e4m3, &qnti_fp4_e2m1};
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

/* The scale of a maximum as it is stored, put at place `at`. */
static float store_scale(const struct qnti_grid *grid, float most, struct qnti_numbers *q, size_t at)
{
    const struct qnti_grid *second = grid->scale_grid;
    float scale = most / grid->book->number->most;
    if (second) {
        float one = 1;
        uint16_t code;
        qnti_small_float_round(second, 1, &scale, &one, 0, &code, &q->scale->value[at]);
        if (q->scale->value[at] == 0) {
            scale = 0.125f / second->divisor;
            qnti_small_float_round(second, 1, &scale, &one, 0, &code, &q->scale->value[at]);
        }
        q->scale->code8[at] = (uint8_t)code;
        return q->scale->value[at];
    }
    if (grid->scale_type == QNT_F8_E8M0)
        scale = power_of_two(grid->book->number, most);
    else
        scale = qnti_grid_stored_scale(grid, most == 0 ? eps(grid->scale_type) : scale);
    q->scale->value[at] = scale;
    return scale;
}

static void small_float_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q,
                            size_t row, size_t group, uint16_t *code, size_t code_stride)
{
    size_t tied = grid->map.rows ? grid->map.rows : band->rows;
    size_t first = grid->map.rows ? row / tied : 0;
    for (size_t r = 0; r < band->rows; r += tied) {
        size_t rows = qnti_min(tied, band->rows - r);
        float most = 0, lo, hi, scale;
        for (size_t i = r; i < r + rows; i++) {
            grid->kernels->range(band->cols, band->x + i * band->stride, &lo, &hi);
            most = fmaxf(most, fmaxf(-lo, hi));
        }
        scale = store_scale(grid, most, q, (first + r / tied) * q->scale->cols + group);
        for (size_t i = r; code && i < r + rows; i++)
            qnti_small_float_round(grid, band->cols, band->x + i * band->stride, &scale, 0, code + i * code_stride,
                                   NULL);
    }
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
