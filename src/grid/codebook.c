/*
 * codebook.c - levels from a table: value = scale * level[code] (+ offset), scale the largest |x - offset| of a group.
 *
 * The tables are those of bitsandbytes (csrc/kernels.cu, functional.py): NF4,
 * quantiles of the normal distribution; FP4, a sign and a pattern; the signed
 * dynamic map of 8 bits for scales that are quantized themselves. A number is
 * multiplied by the reciprocal of its scale, in f32, and compared with bounds:
 * those of FP4 are short decimals, not midpoints, and treat both signs alike.
 * At the end the grid of levels that a solver finds for each row (k-means), which
 * need no scale.
 */
#include "grid/grid.h"

#include <float.h>
#include <math.h>
#include "base/kernels.h"
#include "base/number.h"

static const float nf4_level[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};
/* The kernel's decimals: four of them are not the f32 midpoints, but the other f32 as near to the exact ones. */
static const float nf4_bound[15] = {
    -0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
    -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f, 0.1202552504837513f, 0.2035212516784668f,
    0.2920137718319893f, 0.3893125355243683f, 0.5016634166240692f, 0.6427869200706482f, 0.8614784181118011f,
};
const struct qnti_codebook qnti_nf4 = {"nf4", 4, nf4_level, nf4_bound, NULL, NULL};

/* By pattern: bit 3 is the sign; the negative zero is +0 in the authors' table. */
static const float fp4_level[16] = {
    0, 0.0625f / 12, 8.0f / 12, 1,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
    0, -0.0625f / 12, -8.0f / 12, -1, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12,
};
/*
 * A magnitude on a bound takes the smaller level, whatever its sign: below zero the bound is therefore the next number
 * away from zero. Numbers below zero that round to it have a code of their own.
 */
static const float fp4_bound[15] = {
    -0.8333334f, -0.5833331f, -0.41666672f, -0.2916667f, -0.20833334f, -0.08593751f, -0.0026041702f, -0x1p-149f,
    0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f, 0.8333333f,
};
static const uint8_t fp4_code[16] = {11, 10, 13, 12, 15, 14, 9, 8, 0, 1, 6, 7, 4, 5, 2, 3};
const struct qnti_codebook qnti_fp4 = {"fp4", 4, fp4_level, fp4_bound, fp4_code, NULL};

bool qnti_codebook_is(const struct qnti_codebook *book, const struct qnti_grid *grid)
{
    if (!grid->table || grid->bits != book->bits || grid->levels != 1u << book->bits)
        return false;
    for (size_t i = 0; i < grid->levels; i++)
        if (grid->table[i] != book->level[i])
            return false;
    return true;
}

/* --- rounding --- */

/* Between levels of rank k and k + 1: what is not above it belongs to the lower one. */
static float bound(const struct qnti_codebook *book, unsigned k)
{
    return book->bound ? book->bound[k] : (book->level[k] + book->level[k + 1]) / 2;
}

static uint16_t code_of(const struct qnti_codebook *book, float t)
{
    unsigned low = 0, high = (1u << book->bits) - 1;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (t > bound(book, middle))
            low = middle + 1;
        else
            high = middle;
    }
    return (uint16_t)(book->code ? book->code[low] : low);
}

/* The nearest level, the lower one of two equally near. */
static uint16_t nearest_level(const float *codebook, unsigned levels, float x)
{
    unsigned best = 0;
    float least = INFINITY;
    for (unsigned i = 0; i < levels; i++) {
        float distance = fabsf(codebook[i] - x);
        if (distance < least) {
            least = distance;
            best = i;
        }
    }
    return (uint16_t)best;
}

/* A group of zeros, or so small that a reciprocal means nothing, has a scale of 0 and the codes of 0. */
static float reciprocal(float scale)
{
    return fabsf(scale) < FLT_MIN ? 0 : 1 / scale;
}

void qnti_codebook_round(const struct qnti_grid *grid, const float *codebook, size_t n, const float *x,
                         const float *scale, const float *offset, size_t stride, uint16_t *code, float *value)
{
    if (grid->book && grid->book->number) {
        qnti_small_float_round(grid, n, x, scale, stride, code, value);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float s = scale[i * stride], o = offset[i * stride];
        uint16_t c;
        if (grid->book)
            c = code_of(grid->book, (x[i] - o) * reciprocal(s));
        else
            c = s != 0 ? nearest_level(codebook, grid->levels, (x[i] - o) / s) : 0;
        if (code)
            code[i] = c;
        if (value)
            value[i] = s * codebook[c] + o;
    }
}

void qnti_numbers_nibbles(const struct qnti_numbers *q, uint8_t *bytes)
{
    static const float zero = 0, one = 1;
    size_t n = q->rows * q->cols;
    uint16_t last = 0;
    if (n % 2)
        qnti_grid_round(&q->grid, qnti_numbers_codebook(q, 0), 1, &zero, &one, &zero, 0, &last, NULL);
    for (size_t i = 0; i < n; i += 2)
        bytes[i / 2] = (uint8_t)(q->code8[i] << 4 | (i + 1 < n ? q->code8[i + 1] : last));
}

/* --- fitting --- */

static float largest(const struct qnti_grid *grid, size_t n, const float *x)
{
    float low, high, offset = grid->constant_offset ? grid->offset : 0;
    grid->kernels->range(n, x, &low, &high);
    return fmaxf(fabsf(low - offset), fabsf(high - offset));
}

static double squared_error(const struct qnti_grid *grid, size_t n, const float *x, float scale)
{
    enum { CHUNK = 256 };
    float value[CHUNK];
    double sum = 0; /* blocks of thousands */
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t run = qnti_min(CHUNK, n - i);
        qnti_codebook_round(grid, grid->table, run, x + i, &scale, &grid->offset, 0, NULL, value);
        for (size_t k = 0; k < run; k++)
            sum += ((double)value[k] - (double)x[i + k]) * ((double)value[k] - (double)x[i + k]);
    }
    return sum;
}

/* The best multiple of the largest magnitude: 1 and `search_steps` to either side of it, 1 / search_grid apart. */
static float search(const struct qnti_grid *grid, size_t n, const float *x, float most)
{
    double least = squared_error(grid, n, x, most);
    float best = most;
    for (int i = -(int)grid->search_steps; i <= (int)grid->search_steps; i++) {
        float scale = qnti_round_to(grid->scale_type, (float)(1 + i / grid->search_grid) * most);
        double error = isfinite(scale) ? squared_error(grid, n, x, scale) : INFINITY;
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

static void codebook_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                         size_t group, uint16_t *code, size_t code_stride)
{
    for (size_t r = 0; r < band->rows; r++) {
        const float *x = band->x + r * band->stride;
        float scale = qnti_round_to(grid->scale_type, largest(grid, band->cols, x));
        if (scale < FLT_MIN)
            scale = 0;
        else if (grid->search)
            scale = search(grid, band->cols, x, scale);
        q->scale->value[(row + r) * q->scale->cols + group] = scale;
        if (code)
            qnti_codebook_round(grid, qnti_numbers_codebook(q, row + r), band->cols, x, &scale, &grid->offset, 0,
                                code + r * code_stride, NULL);
    }
}

const struct qnti_grid_kind qnti_codebook_kind = {.name = "codebook", .fit = codebook_fit};

struct qnti_grid qnti_codebook_grid(const struct qnti_kernels *kernels, const struct qnti_codebook *book, size_t block,
                                    qnt_dtype scale_type)
{
    return (struct qnti_grid){.kind = &qnti_codebook_kind,
                              .kernels = kernels,
                              .form = QNTI_FORM_CODEBOOK,
                              .bits = book->bits,
                              .levels = 1u << book->bits,
                              .map = {.kind = QNTI_MAP_FLAT, .cols = block},
                              .scale_type = scale_type,
                              .constant_offset = true,
                              .table = book->level,
                              .book = book};
}

struct qnti_grid qnti_free_levels_grid(const struct qnti_kernels *kernels, unsigned bits, qnt_dtype type)
{
    return (struct qnti_grid){.kernels = kernels,
                              .form = QNTI_FORM_CODEBOOK,
                              .bits = bits,
                              .levels = 1u << bits,
                              .map = {.kind = QNTI_MAP_NONE, .rows = 1},
                              .scale_type = type,
                              .constant_offset = true,
                              .codebook_size = 1u << bits,
                              .codebook_per_row = true};
}
