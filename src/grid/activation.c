/*
 * activation.c - a batch of tokens through an activation quantizer: quantize, dequantize.
 */
#include "grid/activation.h"

#include <math.h>
#include <string.h>

qnt_status qnti_actquant_create(qnt_context *ctx, const struct qnti_grid *grid, size_t cols, bool fixed,
                                struct qnti_actquant **out)
{
    struct qnti_actquant *act;
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, 1, &act));
    act->grid = *grid;
    act->cols = cols;
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

void qnti_actquant_free(qnt_context *ctx, struct qnti_actquant *act)
{
    if (!act)
        return;
    qnti_numbers_free(ctx, act->fixed);
    qnti_free(ctx, act->index);
    qnti_free(ctx, act);
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

/* Columns of a cluster gathered, quantized, scattered; a run of columns is a cluster in place. */
struct dynamic {
    const struct qnti_actquant *act;
    struct qnti_numbers *scratch;     /* one row: scales and offsets go here */
    size_t tokens, stride;            /* that share scales: one, or the batch */
    float *gathered;                  /* [tokens][cols] */
    uint32_t *members;                /* [cols], columns of each group one after another */
    size_t *group_start;              /* [groups + 1] */
};

static void list_groups(const struct qnti_map *map, size_t cols, struct dynamic *d)
{
    size_t groups = qnti_map_groups(map, 1, cols), n = 0;
    for (size_t g = 0; g < groups; g++) {
        d->group_start[g] = n;
        for (size_t c = 0; c < cols; c++) {
            size_t row, group;
            qnti_map_find(map, cols, 0, c, &row, &group);
            if (group == g)
                d->members[n++] = (uint32_t)c;
        }
    }
    d->group_start[groups] = n;
}

static void apply_group(const struct dynamic *d, size_t g, const float *x, const uint8_t *kept, float *y)
{
    const struct qnti_grid *grid = &d->act->grid;
    size_t first = d->group_start[g], n = d->group_start[g + 1] - first, used = 0;
    float clip = d->act->clip > 0 ? d->act->clip : 1, scale, offset;
    struct qnti_band band = {.rows = 1};
    for (size_t t = 0; t < d->tokens; t++)
        for (size_t i = 0; i < n; i++)
            if (!kept || !kept[d->members[first + i]])
                d->gathered[used++] = x[t * d->stride + d->members[first + i]] * clip;
    if (!used)
        return;
    band.x = d->gathered;
    band.cols = band.stride = used;
    grid->kind->fit(grid, &band, d->scratch, 0, g, NULL, 0);
    scale = d->scratch->scale->value[g];
    offset = d->scratch->offset ? d->scratch->offset->value[g] : grid->offset;
    for (size_t t = 0; t < d->tokens; t++)
        for (size_t i = 0; i < n; i++) {
            uint32_t c = d->members[first + i];
            round_run(grid, 1, x + t * d->stride + c, scale, offset, kept ? kept + c : NULL, y + t * d->stride + c);
        }
}

static qnt_status apply_dynamic(qnt_context *ctx, const struct qnti_actquant *act, const float *x, size_t tokens,
                                size_t cols, size_t stride, float *y, const uint8_t *kept)
{
    bool batch = act->grid.map.kind == QNTI_MAP_TILES && act->grid.map.rows == 0;
    struct dynamic d = {.act = act, .tokens = batch ? tokens : 1, .stride = stride};
    size_t groups = qnti_map_groups(&act->grid.map, 1, cols);
    qnt_status status;
    QNT_CHECK(qnti_numbers_create(ctx, &act->grid, 1, cols, &d.scratch));
    QNT_CHECK(QNTI_NEW(ctx, cols * d.tokens, &d.gathered));
    QNT_CHECK(QNTI_NEW(ctx, cols, &d.members));
    QNT_CHECK(QNTI_NEW(ctx, groups + 1, &d.group_start));
    list_groups(&act->grid.map, cols, &d);
    for (size_t t = 0; t < tokens; t += d.tokens)
        for (size_t g = 0; g < groups; g++)
            apply_group(&d, g, x + t * stride, kept, y + t * stride);
cleanup:
    qnti_numbers_free(ctx, d.scratch);
    qnti_free(ctx, d.gathered);
    qnti_free(ctx, d.members);
    qnti_free(ctx, d.group_start);
    return status;
}

qnt_status qnti_actquant_apply(qnt_context *ctx, const struct qnti_actquant *act, const float *x, size_t tokens,
                               size_t cols, size_t stride, float *y, uint8_t *kept)
{
    uint8_t *marks = NULL;
    qnt_status status = QNT_OK;
    if (act->threshold > 0) {
        QNT_CHECK(QNTI_NEW(ctx, cols, &marks));
        mark_kept(act->threshold, x, tokens, cols, stride, marks);
        if (kept)
            memcpy(kept, marks, cols);
    }
    if (x != y)
        for (size_t t = 0; t < tokens; t++)
            memcpy(y + t * stride, x + t * stride, cols * sizeof *y);
    if (act->grid.form == QNTI_FORM_FLOAT) {
        for (size_t t = 0; t < tokens; t++)
            round_run(&act->grid, cols, x + t * stride, 1, 0, marks, y + t * stride);
    } else if (act->fixed) {
        for (size_t t = 0; t < tokens; t++)
            apply_fixed(act, x + t * stride, cols, marks, y + t * stride);
    } else {
        QNT_CHECK(apply_dynamic(ctx, act, x, tokens, cols, stride, y, marks));
    }
cleanup:
    qnti_free(ctx, marks);
    return status;
}
