/*
 * ggml.c - the block types of ggml as grids, with their own quantizers.
 *
 * One row of a table for each type: the grid, how numbers are weighted, the
 * search for a run's scale, and, where scales are codes themselves, how a
 * super-block's scales become those. Codes and scales equal those of ggml's
 * reference quantizers, with and without importance, bit for bit: f32, one
 * rounding for each operation, sums in index order. Bytes are pack/ggml.c's.
 */
#include "grid/ggml_search.h"

#include <math.h>
#include <string.h>
#include <strings.h>

enum {
    BLOCK = 32, /* numbers of a plain block */
    SUPER = 256 /* of a super-block, whose runs fit into QNTI_LANES */
};

struct block_type {
    struct qnti_grid_kind kind; /* first: a grid's kind is its block type */
    struct qnti_grid grid;
    /* Sets the weights from x and, with importance, from that, which stands in w. NULL: left as they are. */
    void (*weigh)(struct qnti_runs *runs), (*weigh_importance)(struct qnti_runs *runs);
    void (*search)(const struct qnti_grid *grid, const struct qnti_runs *runs, struct qnti_found *found);
    /* NULL: importance is ignored. */
    void (*search_importance)(const struct qnti_grid *grid, const struct qnti_runs *runs, struct qnti_found *found);
    /*
     * Stores the scales found for a super-block as codes, from (row, group) on;
     * false: all codes of the super-block are to be 0. NULL: scales are plain.
     */
    bool (*code_scales)(const float *found, struct qnti_numbers *q, size_t row, size_t group);
};

/* What a fit was called with. */
struct fit {
    const struct qnti_grid *grid;
    const struct block_type *type;
    const struct qnti_band *band;
    struct qnti_numbers *q;
    size_t row, group;
    uint16_t *code;
    size_t code_stride;
    size_t n, per_row; /* numbers in a run, runs in a row of the band */
};

/* --- weights --- */

static void weigh_square(struct qnti_runs *runs)
{
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++)
            runs->w[i][l] = runs->x[i][l] * runs->x[i][l];
}

static void weigh_relative(struct qnti_runs *runs)
{
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++)
            runs->w[i][l] *= sqrtf(runs->power[l] + runs->x[i][l] * runs->x[i][l]);
}

/* --- one scale a run, without weights --- */

/* 1 / d; 0 where there is no such number. */
static float inverse(float d)
{
    float i = 1 / d;
    return isinf(i) ? 0 : i;
}

/* The number of greatest magnitude becomes the lowest level, whatever its sign. */
static void plain_zero(const struct qnti_grid *grid, const struct qnti_runs *runs, struct qnti_found *found)
{
    float top = (float)(grid->levels - 1), extreme[QNTI_LANES], inv[QNTI_LANES];
    qnti_run_extremes(runs, extreme);
    for (size_t l = 0; l < QNTI_LANES; l++) {
        found->scale[l] = extreme[l] / -grid->offset;
        inv[l] = inverse(found->scale[l]);
    }
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float level = runs->x[i][l] * inv[l] + (grid->offset + 0.5f);
            found->code[i][l] = (uint16_t)(int32_t)(level < top ? level : top);
        }
}

static void plain_min(const struct qnti_grid *grid, const struct qnti_runs *runs, struct qnti_found *found)
{
    float top = (float)(grid->levels - 1), max[QNTI_LANES], inv[QNTI_LANES];
    for (size_t l = 0; l < QNTI_LANES; l++)
        found->min[l] = max[l] = runs->x[0][l];
    for (size_t i = 1; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float x = runs->x[i][l];
            found->min[l] = x < found->min[l] ? x : found->min[l];
            max[l] = x > max[l] ? x : max[l];
        }
    for (size_t l = 0; l < QNTI_LANES; l++) {
        found->scale[l] = (max[l] - found->min[l]) / top;
        inv[l] = inverse(found->scale[l]);
    }
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float level = (runs->x[i][l] - found->min[l]) * inv[l] + 0.5f;
            found->code[i][l] = (uint16_t)(int32_t)(level < top ? level : top);
        }
}

/* roundf, half away from zero, for |v| < 2^31; v - (int)v is exact. */
static int32_t round_away(float v)
{
    int32_t whole = (int32_t)v;
    float rest = v - (float)whole;
    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/* Levels -127 .. 127. */
static void plain_magnitude(const struct qnti_grid *grid, const struct qnti_runs *runs, struct qnti_found *found)
{
    float extreme[QNTI_LANES], inv[QNTI_LANES];
    qnti_run_extremes(runs, extreme);
    for (size_t l = 0; l < QNTI_LANES; l++) {
        found->scale[l] = fabsf(extreme[l]) / (grid->offset - 1);
        inv[l] = inverse(found->scale[l]);
    }
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++)
            found->code[i][l] = (uint16_t)(round_away(runs->x[i][l] * inv[l]) + (int32_t)grid->offset);
}

/* --- with weights --- */

static void search_signed(const struct qnti_grid *grid, const struct qnti_runs *runs, struct qnti_found *found)
{
    qnti_search_signed(runs, grid->levels / 2, found);
}

static void search_min(const struct qnti_grid *grid, const struct qnti_runs *runs, struct qnti_found *found)
{
    static const struct qnti_min_search how = {.least = -0.9f, .step = 0.05f, .steps = 36};
    qnti_search_min(runs, grid->levels - 1, &how, found);
}

/* --- runs of a band --- */

/* Runs first .. first + QNTI_LANES - 1 of the band; lanes beyond its last run hold zeros. */
static void load(const struct fit *f, size_t first, struct qnti_runs *runs)
{
    const struct qnti_band *band = f->band;
    size_t count = qnti_min(QNTI_LANES, band->rows * f->per_row - first);
    *runs = (struct qnti_runs){.n = f->n};
    for (size_t l = 0; l < count; l++) {
        size_t r = (first + l) / f->per_row, c = (first + l) % f->per_row * f->n;
        const float *x = band->x + r * band->stride + c;
        for (size_t i = 0; i < f->n; i++)
            runs->x[i][l] = x[i];
        if (!band->importance)
            continue;
        for (size_t i = 0; i < f->n; i++)
            runs->w[i][l] = band->importance[c + i];
        if (band->row_power)
            runs->power[l] = band->row_power[r];
    }
}

static void find(const struct fit *f, size_t first, struct qnti_found *found)
{
    const struct block_type *type = f->type;
    bool important = f->band->importance && type->search_importance;
    void (*weigh)(struct qnti_runs *) = important ? type->weigh_importance : type->weigh;
    struct qnti_runs runs;
    load(f, first, &runs);
    if (weigh)
        weigh(&runs);
    (important ? type->search_importance : type->search)(f->grid, &runs, found);
}

/* --- blocks of one run --- */

static void put_code(const struct fit *f, size_t r, size_t c, const struct qnti_found *found, size_t lane)
{
    for (size_t i = 0; f->code && i < f->n; i++)
        f->code[r * f->code_stride + c + i] = found->code[i][lane];
}

static void store_run(const struct fit *f, size_t r, size_t g, const struct qnti_found *found, size_t lane)
{
    size_t at = (f->row + r) * f->q->scale->cols + f->group + g;
    f->q->scale->value[at] = qnti_round_to(QNT_F16, found->scale[lane]);
    if (f->q->offset)
        f->q->offset->value[at] = qnti_round_to(QNT_F16, found->min[lane]);
    put_code(f, r, g * f->n, found, lane);
}

/* --- super-blocks --- */

/* Scales int8 times one f16: the scale of greatest magnitude becomes -128. */
static bool code_scales_q6_k(const float *found, struct qnti_numbers *q, size_t row, size_t group)
{
    enum { RUNS = SUPER / 16 };
    struct qnti_numbers *scale = q->scale;
    float extreme = 0, inv, d;
    for (size_t j = 0; j < RUNS; j++)
        extreme = fabsf(found[j]) > fabsf(extreme) ? found[j] : extreme;
    bool any = fabsf(extreme) >= QNTI_GGML_LEAST;
    inv = any ? -128.0f / extreme : 0;
    d = any ? qnti_round_to(QNT_F16, 1 / inv) : 0;
    scale->scale->value[row * scale->scale->cols + group / RUNS] = d;
    for (size_t j = 0; j < RUNS; j++) {
        float level = qnti_clamp(qnti_ggml_nearest(inv * found[j]), -128, 127);
        uint16_t code = (uint16_t)(int32_t)(level + scale->grid.offset);
        qnti_numbers_put_codes(scale, row, group + j, 1, &code);
        scale->value[row * scale->cols + group + j] = d * level;
    }
    return any;
}

/* Run g of row r: the codes nearest on the scale as stored; where that became 0, those of the search stay. */
static void requantize(const struct fit *f, size_t r, size_t g)
{
    const struct qnti_grid *grid = f->grid;
    const float *x = f->band->x + r * f->band->stride + g * f->n;
    size_t at = (f->row + r) * f->q->scale->cols + f->group + g;
    float scale = f->q->scale->value[at], min = f->q->offset ? f->q->offset->value[at] : 0;
    float zero = grid->form == QNTI_FORM_ZERO ? grid->offset : 0, top = (float)(grid->levels - 1);
    uint16_t *code = f->code + r * f->code_stride + g * f->n;
    for (size_t i = 0; scale != 0 && i < f->n; i++)
        code[i] = (uint16_t)(int32_t)qnti_clamp(qnti_ggml_nearest((x[i] - min) / scale) + zero, 0, top);
}

static void store_super(const struct fit *f, size_t r, size_t g, const struct qnti_found *found, size_t lane)
{
    size_t runs = SUPER / f->n;
    bool any = f->type->code_scales(found->scale + lane, f->q, f->row + r, f->group + g);
    for (size_t j = 0; f->code && j < runs; j++) {
        put_code(f, r, (g + j) * f->n, found, lane + j);
        if (any)
            requantize(f, r, g + j);
        else
            memset(f->code + r * f->code_stride + (g + j) * f->n, 0, f->n * sizeof *f->code);
    }
}

static void fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                size_t group, uint16_t *code, size_t code_stride)
{
    const struct block_type *type = (const struct block_type *)grid->kind;
    size_t n = grid->map.cols, per_row = band->cols / n, runs = band->rows * per_row;
    size_t per_block = type->code_scales ? SUPER / n : 1;
    struct fit f = {grid, type, band, q, row, group, code, code_stride, n, per_row};
    for (size_t first = 0; first < runs; first += QNTI_LANES) {
        struct qnti_found found;
        find(&f, first, &found);
        for (size_t l = 0; l < qnti_min(QNTI_LANES, runs - first); l += per_block) {
            size_t r = (first + l) / per_row, g = (first + l) % per_row;
            (type->code_scales ? store_super : store_run)(&f, r, g, &found, l);
        }
    }
}

/* --- the types --- */

/* (code - 2^(bits - 1)) * scale, f16 scales. */
#define ZERO_GRID(bits_)                                                                                               \
    {                                                                                                                  \
        .form = QNTI_FORM_ZERO, .bits = (bits_), .levels = 1u << (bits_), .map.rows = 1, .map.cols = BLOCK,            \
        .scale_type = QNT_F16, .constant_offset = true, .offset = 1u << ((bits_)-1)                                    \
    }

/* scale * code + min, both f16. */
#define MIN_GRID(bits_)                                                                                                \
    {                                                                                                                  \
        .form = QNTI_FORM_MIN, .bits = (bits_), .levels = 1u << (bits_), .map.rows = 1, .map.cols = BLOCK,             \
        .scale_type = QNT_F16                                                                                          \
    }

/* int8 times f16, the scales of a super-block. */
static const struct qnti_grid q6_k_scales = {.form = QNTI_FORM_ZERO,
                                             .bits = 8,
                                             .levels = 256,
                                             .map.rows = 1,
                                             .map.cols = 16,
                                             .scale_type = QNT_F16,
                                             .constant_offset = true,
                                             .offset = 128};

static const struct block_type types[] = {
    {.kind = {"q4_0", fit},
     .grid = ZERO_GRID(4),
     .weigh_importance = weigh_relative,
     .search = plain_zero,
     .search_importance = search_signed},
    {.kind = {"q4_1", fit},
     .grid = MIN_GRID(4),
     .weigh_importance = weigh_relative,
     .search = plain_min,
     .search_importance = search_min},
    {.kind = {"q5_0", fit},
     .grid = ZERO_GRID(5),
     .weigh_importance = weigh_relative,
     .search = plain_zero,
     .search_importance = search_signed},
    {.kind = {"q5_1", fit},
     .grid = MIN_GRID(5),
     .weigh_importance = weigh_relative,
     .search = plain_min,
     .search_importance = search_min},
    {.kind = {"q8_0", fit}, .grid = ZERO_GRID(8), .search = plain_magnitude},
    {.kind = {"q6_k", fit},
     .grid = {.form = QNTI_FORM_ZERO,
              .bits = 6,
              .levels = 64,
              .map.rows = 1,
              .map.cols = 16,
              .span = SUPER,
              .constant_offset = true,
              .offset = 32,
              .scale_grid = &q6_k_scales},
     .weigh = weigh_square,
     .search = search_signed,
     .search_importance = search_signed,
     .code_scales = code_scales_q6_k},
};

static const struct {
    const char *name;
    qnt_dtype type;
} floats[] = {{"f32", QNT_F32}, {"f16", QNT_F16}, {"bf16", QNT_BF16}};

bool qnti_ggml_grid(const struct qnti_kernels *kernels, const char *name, struct qnti_grid *grid)
{
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        if (strcasecmp(name, floats[i].name) == 0) {
            *grid = qnti_float_grid(floats[i].type);
            grid->kernels = kernels;
            return true;
        }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcasecmp(name, types[i].kind.name) == 0) {
            *grid = types[i].grid;
            grid->kind = &types[i].kind;
            grid->kernels = kernels;
            return true;
        }
    return false;
}
