/*
 * error_feedback.c - columns one after another, the error of each spread over those to come (GPTQ).
 *
 * For column j with U^T U = H^-1:  q = round(w),  e = (w - q) / U_jj,
 *     w_k -= e U_jk (+ w P_jk)  for k > j
 * inside a block of columns, and for all later columns at once, as a gemm,
 * behind it (Frantar et al., GPTQ, algorithm 1; GPTAQ's P). A grid that is
 * fitted on the way sees its columns as they were when the block began
 * (gptq.md, "Stale grids").
 *
 * A chunk of rows is held transposed, [column][row]: a column's weights, codes
 * and errors are then runs of memory.
 */
#include "solve/solve.h"

#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "linalg/blas.h"

/* One chunk of rows on its way through the columns. */
struct chunk {
    qnt_context *ctx;
    const struct qnti_feedback *f;
    struct qnti_numbers *q;
    const struct qnti_kernels *kernels;
    size_t first, rows, cols, block, span;
    float *w;                  /* [cols][rows], processing order; not touched inside a block */
    float *work;               /* [block][rows], the block's working copy */
    float *error, *done;       /* [block][rows]: e, and q for GPTAQ */
    float *band;               /* [rows][span], what a fit sees */
    float *band_importance;    /* [span] */
    float *band_factor;        /* [span], the factor's diagonal */
    float *scale, *offset;     /* [rows] of the group in hand */
    uint16_t *code;            /* [rows] */
    uint8_t *keep;             /* [rows] */
    uint32_t *position;        /* [cols] column -> position */
    uint8_t *fitted;           /* [spans] */
    uint32_t group;            /* whose scales are in hand; UINT32_MAX: none */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->w,      c->work, c->error, c->done,     c->band,  c->band_importance, c->band_factor,
                      c->scale, c->offset, c->code, c->keep, c->position, c->fitted};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->ctx, memory[i]);
}

static qnt_status chunk_create(struct chunk *c)
{
    qnt_context *ctx = c->ctx;
    c->block = qnti_min(c->f->block, c->cols);
    c->span = qnti_min(qnti_grid_span(&c->q->grid, c->cols), c->cols);
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols * c->rows, &c->w));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->block * c->rows, &c->work));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->block * c->rows, &c->error));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->block * c->rows, &c->done));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->span * c->rows, &c->band));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->span, &c->band_importance));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->span, &c->band_factor));
    QNT_TRY(QNTI_NEW(ctx, c->rows, &c->keep));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows, &c->scale));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows, &c->offset));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows, &c->code));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->position));
    return QNTI_NEW(ctx, qnti_ceil_div(c->cols, c->span), &c->fitted);
}

static uint32_t column_at(const struct chunk *c, size_t position)
{
    return c->f->order ? c->f->order[position] : (uint32_t)position;
}

static void load(struct chunk *c)
{
    for (size_t j = 0; j < c->cols; j++)
        c->position[column_at(c, j)] = (uint32_t)j;
    for (size_t r = 0; r < c->rows; r++) {
        const float *row = c->f->w + (c->first + r) * c->cols;
        for (size_t j = 0; j < c->cols; j++)
            c->w[j * c->rows + r] = row[column_at(c, j)];
    }
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
    struct qnti_band band = {.x = c->band, .rows = c->rows, .cols = n, .stride = c->span};
    for (size_t k = 0; k < n; k++) {
        size_t position = along ? j + k : c->position[start + k];
        for (size_t r = 0; r < c->rows; r++)
            c->band[r * c->span + k] = c->w[position * c->rows + r];
        c->band_factor[k] = c->f->factor[position * c->cols + position];
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

/* Codes and values of one column; value may be the column's place in `done`. */
static void round_column(struct chunk *c, size_t j, const float *w, float *value)
{
    struct qnti_numbers *q = c->q;
    uint32_t column = column_at(c, j);
    if (q->grid.codebook_per_row)
        for (size_t r = 0; r < c->rows; r++)
            qnti_grid_round(&q->grid, qnti_numbers_codebook(q, c->first + r), 1, w + r, c->scale + r, c->offset + r, 0,
                            c->code + r, value + r);
    else
        qnti_grid_round(&q->grid, qnti_numbers_codebook(q, c->first), c->rows, w, c->scale, c->offset, 1, c->code,
                        value);
    if (q->grid.form == QNTI_FORM_FLOAT)
        for (size_t r = 0; r < c->rows; r++)
            q->value[(c->first + r) * q->cols + column] = value[r];
    else
        for (size_t r = 0; r < c->rows; r++)
            qnti_numbers_put_codes(q, c->first + r, column, 1, c->code + r);
}

/* Weights that the rule keeps have their own value, and what is left of their error goes on. */
static void keep_outliers(struct chunk *c, size_t j, const float *w, float *value)
{
    const struct qnti_outliers *o = c->f->outliers;
    uint32_t column = column_at(c, j);
    o->choose(o->rule, c->rows, w, value, c->f->factor[j * c->cols + j], c->keep);
    for (size_t r = 0; r < c->rows; r++) {
        size_t at = (c->first + r) * c->cols + column;
        o->mask[at] = c->keep[r];
        if (c->keep[r])
            o->value[at] = value[r] = qnti_round_to(o->type, w[r]);
    }
}

static void process_column(struct chunk *c, size_t begin, size_t end, size_t j)
{
    size_t rows = c->rows;
    float *w = c->work + (j - begin) * rows, *error = c->error + (j - begin) * rows,
          *done = c->done + (j - begin) * rows;
    const float *u = c->f->factor + j * c->cols, *p = c->f->pull ? c->f->pull + j * c->cols : NULL;
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

/* Later columns of the chunk: W^T -= U^T E, and += P^T Q. */
static void update_rest(struct chunk *c, size_t begin, size_t end)
{
    struct qnti_gemm g = {.m = c->cols - end,
                          .n = c->rows,
                          .k = end - begin,
                          .a = c->f->factor + begin * c->cols + end,
                          .lda = c->cols,
                          .transpose_a = true,
                          .b = c->error,
                          .ldb = c->rows,
                          .c = c->w + end * c->rows,
                          .ldc = c->rows,
                          .alpha = -1,
                          .beta = 1};
    if (end == c->cols)
        return;
    qnti_gemm_one(&g);
    if (c->f->pull) {
        g.a = c->f->pull + begin * c->cols + end;
        g.b = c->done;
        g.alpha = 1;
        qnti_gemm_one(&g);
    }
}

static void process(struct chunk *c)
{
    load(c);
    c->group = UINT32_MAX;
    for (size_t begin = 0; begin < c->cols; begin += c->block) {
        size_t end = qnti_min(begin + c->block, c->cols);
        memcpy(c->work, c->w + begin * c->rows, (end - begin) * c->rows * sizeof *c->work);
        for (size_t j = begin; j < end; j++)
            process_column(c, begin, end, j);
        update_rest(c, begin, end);
    }
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
                      .cols = t->q->cols};
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
    struct feedback_task t = {ctx, f, q, qnti_chunk_rows(&q->grid, q->rows)};
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), feedback_chunk, &t);
}
