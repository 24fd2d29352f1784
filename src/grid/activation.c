/*
 * activation.c - a batch of tokens through an activation quantizer: quantize, dequantize.
 */
#include "grid/activation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/number.h"

qnt_status qnti_actquant_create(qnt_context *ctx, const struct qnti_grid *grid, size_t cols, bool fixed,
                                struct qnti_actquant **out)
{
    struct qnti_actquant *act;
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, 1, &act));
    act->grid = *grid;
    act->cols = cols;
    if (grid->scale_grid && !fixed) {
        act->scale_grid = *grid->scale_grid;
        act->grid.scale_grid = &act->scale_grid;
    }
    if (fixed) {
        QNT_CHECK(qnti_numbers_create(ctx, grid, 1, cols, &act->fixed));
        act->grid = act->fixed->grid;
    } else if (grid->map.kind == QNTI_MAP_INDEX) {
        QNT_CHECK(QNTI_NEW(ctx, cols, &act->index));
        memcpy(act->index, grid->map.index, cols * sizeof *act->index);
        act->grid.map.index = act->index;
    }
    *out = act;
    return QNT_OK;
cleanup:
    qnti_actquant_free(ctx, act);
    return status;
}

qnt_status qnti_actquant_int8(qnt_context *ctx, const struct qnti_kernels *kernels, size_t cols, float threshold,
                              struct qnti_actquant **act)
{
    const struct qnti_grid grid = qnti_signed_grid(kernels, 8, 0, QNT_F32);
    QNT_TRY(qnti_actquant_create(ctx, &grid, cols, false, act));
    (*act)->input_type = QNT_F16;
    (*act)->threshold = threshold > 0 ? threshold : INFINITY;
    (*act)->range_of_kept = true;
    return QNT_OK;
}

bool qnti_actquant_is_int8(const struct qnti_actquant *act)
{
    const struct qnti_grid *g = &act->grid;
    return g->form == QNTI_FORM_ZERO && g->bits == 8 && g->absmax && g->constant_offset && g->offset == 128 &&
           g->map.kind == QNTI_MAP_TILES && g->map.rows == 1 && g->map.cols == 0 && !act->fixed &&
           act->input_type == QNT_F16 && act->threshold > 0 && act->range_of_kept && (act->clip == 0 || act->clip == 1);
}

void qnti_actquant_free(qnt_context *ctx, struct qnti_actquant *act)
{
    if (!act)
        return;
    qnti_numbers_free(ctx, act->fixed);
    qnti_free(ctx, act->index);
    qnti_free(ctx, act);
}

void qnti_actquant_describe(const struct qnti_actquant *act, char text[QNTI_ACTQUANT_TEXT])
{
    const struct qnti_grid *g = &act->grid;
    const char *when = act->given ? "given" : act->fixed ? "fixed" : g->map.rows ? "by token" : "by batch";
    char type[32], part[40] = "", kept[32] = "";
    if (g->form == QNTI_FORM_FLOAT)
        snprintf(type, sizeof type, "%s", qnti_dtype_name(g->float_type));
    else if (g->book)
        snprintf(type, sizeof type, "%s", g->book->name);
    else
        snprintf(type, sizeof type, "%u bits", g->bits);
    if (g->map.kind == QNTI_MAP_INDEX)
        snprintf(part, sizeof part, " in %zu clusters", g->map.index_groups);
    else if (g->map.cols && g->map.cols < act->cols)
        snprintf(part, sizeof part, " in groups of %zu", g->map.cols);
    if (act->threshold > 0 && isfinite(act->threshold))
        snprintf(kept, sizeof kept, ", columns below %g", (double)act->threshold);
    snprintf(text, QNTI_ACTQUANT_TEXT, "%s, %s%s%s", type, when, part, kept);
}

static void mark_kept(float threshold, const float *x, size_t tokens, size_t cols, size_t stride, uint8_t *kept)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < cols; c++)
            if (fabsf(x[t * stride + c]) >= threshold)
                kept[c] = 1;
}

/* n numbers with one scale and offset, but for those of the columns kept. */
static void round_run(const struct qnti_grid *grid, size_t n, const float *x, float scale, float offset,
                      const uint8_t *kept, float *y)
{
    for (size_t i = 0, run; i < n; i += run) {
        run = kept ? 1 : n;
        if (!kept || !kept[i])
            qnti_grid_round(grid, grid->table, run, x + i, &scale, &offset, 0, NULL, y + i);
    }
}

/* Static scales: every token has those of the one row. */
static void apply_fixed(const struct qnti_actquant *act, const float *x, size_t cols, const uint8_t *kept, float *y)
{
    const struct qnti_numbers *fixed = act->fixed;
    for (size_t c = 0, run; c < cols; c += run) {
        float scale, offset;
        run = qnti_map_run(&fixed->grid.map, cols, 0, c);
        qnti_numbers_affine(fixed, 0, c, &scale, &offset);
        round_run(&fixed->grid, run, x + c, scale, offset, kept ? kept + c : NULL, y + c);
    }
}

/* A batch whose tokens each, or all together, get scales of their own. */
struct dynamic {
    qnt_context *ctx;
    const struct qnti_actquant *act;
    const float *x;                   /* [tokens][stride] */
    float *y;
    size_t tokens, cols, stride;
    size_t shared;                    /* tokens that share scales: one, or the batch */
    const uint8_t *kept;              /* [cols] or NULL */
    uint32_t *members;                /* [cols], columns of each group one after another */
    size_t *group_start;              /* [groups + 1] */
    size_t groups;
};

static void list_groups(struct dynamic *d)
{
    const struct qnti_map *map = &d->act->grid.map;
    size_t row, group, n = 0;
    for (size_t c = 0; c < d->cols; c++) {
        qnti_map_find(map, d->cols, 0, c, &row, &group);
        d->group_start[group + 1]++;
    }
    for (size_t g = 0; g < d->groups; g++)
        d->group_start[g + 1] += d->group_start[g];
    for (size_t c = 0; c < d->cols; c++) {
        qnti_map_find(map, d->cols, 0, c, &row, &group);
        n = d->group_start[group]++;
        d->members[n] = (uint32_t)c;
    }
    for (size_t g = d->groups; g > 0; g--)
        d->group_start[g] = d->group_start[g - 1];
    d->group_start[0] = 0;
}

/* Whether column c counts for the range that its value v lies in. */
static bool counts(const struct dynamic *d, uint32_t c, float v)
{
    return !d->kept || !d->kept[c] || (d->act->range_of_kept && fabsf(v) < d->act->threshold);
}

/* The group's numbers of `shared` tokens from token t on, gathered; returns how many count. */
static size_t gather(const struct dynamic *d, size_t t, size_t first, size_t n, float *gathered)
{
    float clip = d->act->clip > 0 ? d->act->clip : 1;
    size_t used = 0;
    for (size_t k = 0; k < d->shared; k++)
        for (size_t i = 0; i < n; i++) {
            uint32_t c = d->members[first + i];
            float v = d->x[(t + k) * d->stride + c];
            if (counts(d, c, v))
                gathered[used++] = v * clip;
        }
    return used;
}

static void apply_group(const struct dynamic *d, size_t t, size_t g, float *gathered, struct qnti_numbers *scratch)
{
    const struct qnti_grid *grid = &d->act->grid;
    size_t first = d->group_start[g], n = d->group_start[g + 1] - first, run = n ? n : 1;
    size_t used = gather(d, t, first, n, gathered);
    struct qnti_band band = {.x = gathered, .rows = 1, .cols = used, .stride = used};
    float scale, offset;
    if (!used)
        return;
    grid->kind->fit(grid, &band, scratch, 0, g, NULL, 0);
    scale = scratch->scale->value[g];
    offset = scratch->offset ? scratch->offset->value[g] : grid->offset;
    if (d->members[first + n - 1] - d->members[first] != n - 1)
        run = 1; /* a cluster, not a run of columns */
    for (size_t k = 0; k < d->shared; k++)
        for (size_t i = 0; i < n; i += run) {
            uint32_t c = d->members[first + i];
            size_t at = (t + k) * d->stride + c;
            round_run(grid, run, d->x + at, scale, offset, d->kept ? d->kept + c : NULL, d->y + at);
        }
}

enum { TOKENS_PER_TASK = 16 };

static qnt_status apply_tokens(void *arg, size_t index)
{
    const struct dynamic *d = arg;
    size_t per_task = qnti_max(d->shared, TOKENS_PER_TASK), end = qnti_min(d->tokens, (index + 1) * per_task);
    struct qnti_numbers *scratch = NULL; /* one row: scales and offsets go here */
    float *gathered = NULL;
    qnt_status status;
    QNT_CHECK(qnti_numbers_create(d->ctx, &d->act->grid, 1, d->cols, &scratch));
    QNT_CHECK(QNTI_NEW_RAW(d->ctx, d->cols * d->shared, &gathered));
    for (size_t t = index * per_task; t < end; t += d->shared)
        for (size_t g = 0; g < d->groups; g++)
            apply_group(d, t, g, gathered, scratch);
cleanup:
    qnti_numbers_free(d->ctx, scratch);
    qnti_free(d->ctx, gathered);
    return status;
}

static qnt_status apply_dynamic(struct dynamic *d)
{
    const struct qnti_map *map = &d->act->grid.map;
    bool batch = map->kind == QNTI_MAP_TILES && map->rows == 0;
    qnt_status status;
    if (!d->tokens)
        return QNT_OK;
    d->shared = batch ? d->tokens : 1;
    d->groups = qnti_map_groups(map, 1, d->cols);
    QNT_CHECK(QNTI_NEW_RAW(d->ctx, d->cols, &d->members));
    QNT_CHECK(QNTI_NEW(d->ctx, d->groups + 1, &d->group_start));
    list_groups(d);
    status = qnti_parallel(d->ctx, qnti_ceil_div(d->tokens, qnti_max(d->shared, TOKENS_PER_TASK)), apply_tokens, d);
cleanup:
    qnti_free(d->ctx, d->members);
    qnti_free(d->ctx, d->group_start);
    return status;
}

/* Rounded to the type, within its range: beyond it an engine would have nothing but infinities. */
static float round_within(qnt_dtype type, float x)
{
    static const float most_f16 = 65504;
    return qnti_round_to(type, type == QNT_F16 && fabsf(x) > most_f16 ? copysignf(most_f16, x) : x);
}

/* The batch as its quantizer takes it: rounded to its type; columns beyond the threshold marked. */
static void take_batch(const struct qnti_actquant *act, const float *x, size_t tokens, size_t cols, size_t stride,
                       float *y)
{
    for (size_t t = 0; t < tokens; t++) {
        const float *from = x + t * stride;
        float *to = y + t * stride;
        if (act->input_type == QNT_F32 && from != to)
            memcpy(to, from, cols * sizeof *to);
        for (size_t c = 0; act->input_type != QNT_F32 && c < cols; c++)
            to[c] = round_within(act->input_type, from[c]);
    }
}

qnt_status qnti_actquant_apply(qnt_context *ctx, const struct qnti_actquant *act, const float *x, size_t tokens,
                               size_t cols, size_t stride, float *y, uint8_t *kept)
{
    uint8_t *marks = NULL;
    qnt_status status = QNT_OK;
    take_batch(act, x, tokens, cols, stride, y);
    if (act->threshold > 0) {
        QNT_CHECK(QNTI_NEW(ctx, cols, &marks));
        mark_kept(act->threshold, y, tokens, cols, stride, marks);
        if (kept)
            memcpy(kept, marks, cols);
    }
    if (act->grid.form == QNTI_FORM_FLOAT) {
        for (size_t t = 0; t < tokens; t++)
            round_run(&act->grid, cols, y + t * stride, 1, 0, marks, y + t * stride);
    } else if (act->fixed) {
        for (size_t t = 0; t < tokens; t++)
            apply_fixed(act, y + t * stride, cols, marks, y + t * stride);
    } else {
        struct dynamic d = {.ctx = ctx, .act = act, .x = y, .y = y, .tokens = tokens, .cols = cols, .stride = stride,
                            .kept = marks};
        QNT_CHECK(apply_dynamic(&d));
    }
cleanup:
    qnti_free(ctx, marks);
    return status;
}
