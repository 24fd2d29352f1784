/*
 * error_feedback.c - columns one after another, the error of each spread over those to come (GPTQ).
 *
 * For column j with U^T U = H^-1:  q = round(w),  e = (w - q) / U_jj,
 *     w_k -= e U_jk (+ w P_jk)  for k > j
 * inside a block of columns, and for later columns at once, as a gemm, behind
 * it (Frantar et al., GPTQ, algorithm 1; GPTAQ's P). Columns beyond the panel
 * of several blocks in hand wait: a panel that begins takes the errors of all
 * columns before it as one gemm. A grid that is fitted on the way sees its
 * columns as they were when the block began (gptq.md, "Stale grids").
 *
 * A chunk of rows is held transposed, [column][row]: a column's weights, codes
 * and errors are then runs of memory.
 */
#include "solve/solve.h"

#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "linalg/blas.h"

enum { CHUNK_ROWS = 256, PANEL = 512, TILE = 16 };

/* One chunk of rows on its way through the columns. */
struct chunk {
    qnt_context *ctx;
    const struct qnti_feedback *f;
    struct qnti_numbers *q;
    const struct qnti_kernels *kernels;
    size_t first, rows, cols, stride, block, span, panel;
    size_t begin;              /* position where the panel in hand begins */
    size_t block_begin;        /* and the block */
    float *w;                  /* [panel][rows], processing order; not touched inside a block */
    float *work;               /* [block][rows], the block's working copy */
    float *error;              /* [cols][rows], e of all columns so far */
    float *done;               /* q: [cols][rows] for GPTAQ, else [block][rows] */
    float *band;               /* [rows][span], what a fit sees */
    float *band_importance;    /* [span] */
    float *band_factor;        /* [span], the factor's diagonal */
    float *scale, *offset;     /* [rows] of the group in hand */
    uint16_t *code;            /* [block][rows] */
    uint8_t *keep;             /* [rows] */
    uint32_t *position;        /* [cols] column -> position */
    uint8_t *fitted;           /* [spans] */
    void *scratch;             /* of the fits */
    uint32_t group;            /* whose scales are in hand; UINT32_MAX: none */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->w,     c->work,   c->error, c->done, c->band,     c->band_importance, c->band_factor,
                      c->scale, c->offset, c->code,  c->keep, c->position, c->fitted,          c->scratch};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->ctx, memory[i]);
}

static uint32_t column_at(const struct chunk *c, size_t position)
{
    return c->f->order ? c->f->order[position] : (uint32_t)position;
}

/* Whether the columns of each span stand in a run of positions that begins at a multiple of the span. */
static bool spans_are_runs(const struct chunk *c)
{
    if (c->q->grid.map.kind == QNTI_MAP_INDEX || !c->f->order)
        return true;
    for (size_t j = 0; j < c->cols; j++)
        if (column_at(c, j) / c->span != column_at(c, j / c->span * c->span) / c->span)
            return false;
    return true;
}

/* Whole blocks, and whole spans if they are fitted on the way: a fit must find its columns up to date. */
static size_t panel_size(const struct chunk *c)
{
    size_t unit = c->block;
    if (!c->f->fixed && !spans_are_runs(c))
        return c->cols;
    while (!c->f->fixed && unit % c->span && unit < c->cols)
        unit += c->block;
    return qnti_min(qnti_ceil_div(PANEL, unit) * unit, c->cols);
}

static qnt_status chunk_create(struct chunk *c)
{
    qnt_context *ctx = c->ctx;
    c->block = qnti_min(c->f->block, c->cols);
    c->span = qnti_min(qnti_grid_span(&c->q->grid, c->cols), c->cols);
    c->panel = panel_size(c);
    QNT_TRY(QNTI_NEW_RAW(ctx, c->panel * c->rows, &c->w));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->block * c->rows, &c->work));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols * c->rows, &c->error));
    QNT_TRY(QNTI_NEW_RAW(ctx, (c->f->pull ? c->cols : c->block) * c->rows, &c->done));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->span * c->rows, &c->band));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->span, &c->band_importance));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->span, &c->band_factor));
    QNT_TRY(QNTI_NEW(ctx, c->rows, &c->keep));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows, &c->scale));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows, &c->offset));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->block * c->rows, &c->code));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->position));
    if (!c->f->fixed)
        QNT_TRY(qnti_grid_scratch(ctx, &c->q->grid, c->span, &c->scratch));
    for (size_t j = 0; j < c->cols; j++)
        c->position[column_at(c, j)] = (uint32_t)j;
    return QNTI_NEW(ctx, qnti_ceil_div(c->cols, c->span), &c->fitted);
}

/* The weight of a position that is not processed yet, as a fit sees it: [rows]. */
static const float *weights_at(const struct chunk *c, size_t position)
{
    size_t in_block = position - c->block_begin;
    return c->f->fresh && in_block < c->block ? c->work + in_block * c->rows : c->w + (position - c->begin) * c->rows;
}

static float *done_at(const struct chunk *c, size_t position)
{
    return c->done + (c->f->pull ? position : position % c->block) * c->rows;
}

/*
 * Fits the span that position j begins: with groups along the processing order
 * (INDEX map) the next positions, else the natural columns of j's span, none
 * of which has been processed yet.
 */
static void fit_span(struct chunk *c, size_t j)
{
    const struct qnti_map *map = &c->q->grid.map;
    bool along = map->kind == QNTI_MAP_INDEX;
    size_t start = along ? j : column_at(c, j) / c->span * c->span;
    size_t n = qnti_min(c->span, c->cols - start), group_row, group;
    struct qnti_band band = {.x = c->band, .rows = c->rows, .cols = n, .stride = c->span, .scratch = c->scratch};
    for (size_t k = 0; k < n; k++) {
        size_t position = along ? j + k : c->position[start + k];
        const float *w = weights_at(c, position);
        for (size_t r = 0; r < c->rows; r++)
            c->band[r * c->span + k] = w[r];
        c->band_factor[k] = c->f->factor[position * c->stride + position];
        if (c->f->importance)
            c->band_importance[k] = c->f->importance[column_at(c, position)];
    }
    if (c->f->outliers && c->f->outliers->before_fit)
        c->f->outliers->before_fit(c->f->outliers->rule, &c->q->grid, c->band, c->rows, n, c->span, c->band_factor);
    if (c->f->importance) {
        band.importance = c->band_importance;
        band.row_power = c->f->row_power + c->first;
    }
    qnti_map_find(map, c->cols, c->first, along ? column_at(c, j) : start, &group_row, &group);
    c->q->grid.kind->fit(&c->q->grid, &band, c->q, c->first, group, NULL, 0);
    c->fitted[start / c->span] = 1;
}

/* Scales and offsets of position j's group for every row of the chunk. */
static void take_grid(struct chunk *c, size_t j)
{
    uint32_t column = column_at(c, j);
    size_t span = c->q->grid.map.kind == QNTI_MAP_INDEX ? j / c->span : column / c->span, group_row, group;
    if (!c->f->fixed && !c->fitted[span])
        fit_span(c, j);
    qnti_map_find(&c->q->grid.map, c->cols, c->first, column, &group_row, &group);
    if (group == c->group)
        return;
    c->group = (uint32_t)group;
    for (size_t r = 0; r < c->rows; r++)
        qnti_numbers_affine(c->q, c->first + r, column, &c->scale[r], &c->offset[r]);
}

/* Codes and values of one column. */
static void round_column(struct chunk *c, size_t j, const float *w, float *value)
{
    struct qnti_numbers *q = c->q;
    uint16_t *code = c->code + j % c->block * c->rows;
    if (q->grid.codebook_per_row)
        for (size_t r = 0; r < c->rows; r++)
            qnti_grid_round(&q->grid, qnti_numbers_codebook(q, c->first + r), 1, w + r, c->scale + r, c->offset + r, 0,
                            code + r, value + r);
    else
        qnti_grid_round(&q->grid, qnti_numbers_codebook(q, c->first), c->rows, w, c->scale, c->offset, 1, code, value);
    for (size_t r = 0; q->grid.form == QNTI_FORM_FLOAT && r < c->rows; r++)
        q->value[(c->first + r) * q->cols + column_at(c, j)] = value[r];
}

/* The block's codes go to their rows, a few columns of all rows at a time: runs that the cache holds. */
static void store_codes(struct chunk *c, size_t begin, size_t end)
{
    uint16_t run[TILE];
    for (size_t j = begin; c->q->grid.form != QNTI_FORM_FLOAT && j < end; j += TILE)
        for (size_t r = 0, n = qnti_min(TILE, end - j); r < c->rows; r++) {
            for (size_t k = 0; k < n; k++)
                run[k] = c->code[(j + k - begin) * c->rows + r];
            if (!c->f->order)
                qnti_numbers_put_codes(c->q, c->first + r, j, n, run);
            for (size_t k = 0; c->f->order && k < n; k++)
                qnti_numbers_put_codes(c->q, c->first + r, column_at(c, j + k), 1, run + k);
        }
}

/* Weights that the rule keeps have their own value and the code of 0; what is left of their error goes on. */
static void keep_outliers(struct chunk *c, size_t j, const float *w, float *value)
{
    const struct qnti_outliers *o = c->f->outliers;
    const float nothing = 0;
    uint32_t column = column_at(c, j);
    o->choose(o->rule, c->rows, w, value, c->f->factor[j * c->stride + j], c->keep);
    for (size_t r = 0; r < c->rows; r++) {
        size_t at = (c->first + r) * c->cols + column;
        o->mask[at] = c->keep[r];
        if (!c->keep[r])
            continue;
        o->value[at] = value[r] = qnti_round_to(o->type, w[r]);
        qnti_grid_round(&c->q->grid, qnti_numbers_codebook(c->q, c->first + r), 1, &nothing, c->scale + r,
                        c->offset + r, 0, c->code + j % c->block * c->rows + r, NULL);
    }
}

static void process_column(struct chunk *c, size_t begin, size_t end, size_t j)
{
    size_t rows = c->rows;
    float *w = c->work + (j - begin) * rows, *error = c->error + j * rows, *done = done_at(c, j);
    const float *u = c->f->factor + j * c->stride, *p = c->f->pull ? c->f->pull + j * c->stride : NULL;
    take_grid(c, j);
    round_column(c, j, w, done);
    if (c->f->outliers)
        keep_outliers(c, j, w, done);
    for (size_t r = 0; r < rows; r++)
        error[r] = (w[r] - done[r]) / u[j];
    for (size_t k = j + 1; k < end; k++) {
        float *later = c->work + (k - begin) * rows;
        c->kernels->axpy(rows, -u[k], error, later);
        if (p)
            c->kernels->axpy(rows, p[k], w, later);
    }
}

/* Positions [begin, end) of the panel take the errors of [from, to): W^T -= U^T E, and += P^T Q. */
static void spread(struct chunk *c, size_t from, size_t to, size_t begin, size_t end)
{
    struct qnti_gemm g = {.m = end - begin,
                          .n = c->rows,
                          .k = to - from,
                          .a = c->f->factor + from * c->stride + begin,
                          .lda = c->stride,
                          .transpose_a = true,
                          .b = c->error + from * c->rows,
                          .ldb = c->rows,
                          .c = c->w + (begin - c->begin) * c->rows,
                          .ldc = c->rows,
                          .alpha = -1,
                          .beta = 1};
    if (from == to || begin == end)
        return;
    qnti_gemm_one(&g);
    if (c->f->pull) {
        g.a = c->f->pull + from * c->stride + begin;
        g.b = done_at(c, from);
        g.alpha = 1;
        qnti_gemm_one(&g);
    }
}

/* The weights of positions [begin, end), as the columns before them leave them. */
static void load_panel(struct chunk *c, size_t begin, size_t end)
{
    c->begin = begin;
    for (size_t j = begin; j < end; j += TILE)
        for (size_t r = 0; r < c->rows; r++) {
            const float *row = c->f->w + (c->first + r) * c->cols;
            for (size_t k = j; k < qnti_min(j + TILE, end); k++)
                c->w[(k - begin) * c->rows + r] = row[column_at(c, k)];
        }
    spread(c, 0, begin, begin, end);
}

static void process_panel(struct chunk *c, size_t first, size_t last)
{
    load_panel(c, first, last);
    for (size_t begin = first; begin < last; begin += c->block) {
        size_t end = qnti_min(begin + c->block, last);
        c->block_begin = begin;
        memcpy(c->work, c->w + (begin - first) * c->rows, (end - begin) * c->rows * sizeof *c->work);
        for (size_t j = begin; j < end; j++)
            process_column(c, begin, end, j);
        store_codes(c, begin, end);
        spread(c, begin, end, end, last);
    }
}

/* What stands behind q's columns takes the errors of all of them: W -= E^T U, and += Q^T P. */
static void correct_rest(struct chunk *c)
{
    const struct qnti_feedback *f = c->f;
    struct qnti_gemm g = {.m = c->rows,
                          .n = f->rest_cols,
                          .k = c->cols,
                          .a = c->error,
                          .lda = c->rows,
                          .transpose_a = true,
                          .b = f->factor + c->cols,
                          .ldb = c->stride,
                          .c = f->rest + c->first * f->rest_stride,
                          .ldc = f->rest_stride,
                          .alpha = -1,
                          .beta = 1};
    qnti_gemm_one(&g);
    if (f->pull) {
        g.a = c->done;
        g.b = f->pull + c->cols;
        g.alpha = 1;
        qnti_gemm_one(&g);
    }
}

static void process(struct chunk *c)
{
    c->group = UINT32_MAX;
    for (size_t begin = 0; begin < c->cols; begin += c->panel)
        process_panel(c, begin, qnti_min(begin + c->panel, c->cols));
    if (c->f->rest_cols)
        correct_rest(c);
}

struct feedback_task {
    qnt_context *ctx;
    const struct qnti_feedback *f;
    struct qnti_numbers *q;
    size_t chunk;
};

static qnt_status feedback_chunk(void *arg, size_t index)
{
    const struct feedback_task *t = arg;
    struct chunk c = {.ctx = t->ctx,
                      .f = t->f,
                      .q = t->q,
                      .kernels = qnti_context_kernels(t->ctx),
                      .first = index * t->chunk,
                      .cols = t->q->cols,
                      .stride = t->f->stride ? t->f->stride : t->q->cols};
    qnt_status status;
    c.rows = qnti_min(t->chunk, t->q->rows - c.first);
    status = chunk_create(&c);
    if (status == QNT_OK)
        process(&c);
    chunk_free(&c);
    return status;
}

qnt_status qnti_error_feedback(qnt_context *ctx, const struct qnti_feedback *f, struct qnti_numbers *q)
{
    struct feedback_task t = {ctx, f, q, qnti_chunk_rows(&q->grid, q->rows, CHUNK_ROWS)};
    if (qnti_in_pairs(&q->grid) && q->grid.pairs.outliers)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "error feedback goes column by column, but on a grid of outlier-victim "
                                               "pairs a number's level depends on its neighbour in the next");
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), feedback_chunk, &t);
}
