/*
 * nearest.c - every span of columns, or run of one group, fitted and rounded for itself.
 */
#include "solve/solve.h"

enum { CHUNK_ROWS = 64, LEAST_ROWS = 64, ROWS_STEP = 16, LEAST_CHUNKS = 8, CHUNKS_STEP = 4 };

/* `most` rows or fewer, so that there are several chunks, and about as many for each of 2 or 4 threads. */
static size_t even_share(size_t rows, size_t most)
{
    size_t chunks = qnti_ceil_div(qnti_ceil_div(rows, most), CHUNKS_STEP) * CHUNKS_STEP;
    size_t share = qnti_ceil_div(rows, qnti_max(chunks, LEAST_CHUNKS));
    return qnti_max(LEAST_ROWS, qnti_ceil_div(share, ROWS_STEP) * ROWS_STEP);
}

size_t qnti_chunk_rows(const struct qnti_grid *grid, size_t rows, size_t most)
{
    size_t tied = grid->map.rows;
    const struct qnti_grid *seconds[] = {grid->scale_grid, grid->offset_grid};
    if (grid->map.kind == QNTI_MAP_FLAT || (tied == 0 && grid->form != QNTI_FORM_FLOAT))
        return qnti_max(rows, 1);
    tied = qnti_max(tied, 1);
    for (size_t i = 0; i < 2; i++)
        if (seconds[i] && seconds[i]->form != QNTI_FORM_FLOAT)
            tied *= seconds[i]->map.rows ? seconds[i]->map.rows : qnti_ceil_div(rows, tied);
    return qnti_ceil_div(even_share(rows, most), tied) * tied;
}

struct nearest {
    qnt_context *ctx;
    const float *w, *importance, *row_power;
    struct qnti_numbers *q;
    size_t chunk;
    bool codes;
};

static qnt_status nearest_chunk(void *arg, size_t index)
{
    const struct nearest *t = arg;
    struct qnti_numbers *q = t->q;
    size_t first = index * t->chunk, rows = qnti_min(t->chunk, q->rows - first);
    bool indexed = q->grid.map.kind == QNTI_MAP_INDEX && q->grid.form != QNTI_FORM_FLOAT;
    size_t span = indexed ? q->cols : qnti_min(qnti_grid_span(&q->grid, q->cols), q->cols);
    uint16_t *code = NULL;
    void *scratch = NULL;
    qnt_status status;
    if (t->codes && q->grid.form != QNTI_FORM_FLOAT)
        QNT_CHECK(QNTI_NEW_RAW(t->ctx, rows * span, &code));
    QNT_CHECK(qnti_grid_scratch(t->ctx, &q->grid, span, &scratch));
    for (size_t c = 0, run; c < q->cols; c += run) {
        size_t group_row, group;
        run = indexed ? qnti_map_run(&q->grid.map, q->cols, first, c) : qnti_min(span, q->cols - c);
        struct qnti_band band = {.x = t->w + first * q->cols + c,
                                 .rows = rows,
                                 .cols = run,
                                 .stride = q->cols,
                                 .importance = t->importance ? t->importance + c : NULL,
                                 .row_power = t->row_power ? t->row_power + first : NULL,
                                 .scratch = scratch};
        qnti_map_find(&q->grid.map, q->cols, first, c, &group_row, &group);
        q->grid.kind->fit(&q->grid, &band, q, first, group, code, span);
        for (size_t r = 0; code && r < rows; r++)
            qnti_numbers_put_codes(q, first + r, c, band.cols, code + r * span);
    }
cleanup:
    qnti_free(t->ctx, code);
    qnti_free(t->ctx, scratch);
    return status;
}

/* Numbers seen as `rows` runs of `cols`, from run `first` of `size` on; scale and offset are views of the caller's. */
static void view_runs(const struct qnti_numbers *q, size_t first, size_t size, size_t rows, size_t cols,
                      struct qnti_numbers *view, struct qnti_numbers *scale, struct qnti_numbers *offset)
{
    *view = *q;
    view->rows = rows;
    view->cols = cols;
    view->grid.map = (struct qnti_map){.kind = QNTI_MAP_TILES, .rows = 1};
    view->code8 = q->code8 ? q->code8 + first * size : NULL;
    view->code16 = q->code16 ? q->code16 + first * size : NULL;
    *scale = (struct qnti_numbers){.rows = rows, .cols = 1, .grid = q->scale->grid, .value = q->scale->value + first};
    view->scale = scale;
    if (!q->offset)
        return;
    *offset =
        (struct qnti_numbers){.rows = rows, .cols = 1, .grid = q->offset->grid, .value = q->offset->value + first};
    view->offset = offset;
}

/* Runs over the flattened matrix cross rows: the same arrays seen as one row a run, a shorter last one by itself. */
static qnt_status run_flat(struct nearest *t)
{
    struct qnti_numbers *q = t->q, view, scale, offset;
    size_t n = q->rows * q->cols, size = q->grid.map.cols, runs = n / size;
    if (t->importance)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "an importance of columns does not fit groups that cross rows");
    view_runs(q, 0, size, runs, size, &view, &scale, &offset);
    t->q = &view;
    t->chunk = CHUNK_ROWS;
    QNT_TRY(qnti_parallel(t->ctx, qnti_ceil_div(runs, t->chunk), nearest_chunk, t));
    if (n % size == 0)
        return QNT_OK;
    t->w += runs * size;
    view_runs(q, runs, size, 1, n % size, &view, &scale, &offset);
    return nearest_chunk(t, 0);
}

static qnt_status run(qnt_context *ctx, const float *w, const float *importance, const float *row_power, bool codes,
                      struct qnti_numbers *q)
{
    struct nearest t = {ctx, w, importance, row_power, q, qnti_chunk_rows(&q->grid, q->rows, CHUNK_ROWS), codes};
    if (q->grid.map.kind == QNTI_MAP_FLAT && q->grid.form != QNTI_FORM_FLOAT)
        return run_flat(&t);
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), nearest_chunk, &t);
}

qnt_status qnti_nearest(qnt_context *ctx, const float *w, const float *importance, const float *row_power,
                        struct qnti_numbers *q)
{
    return run(ctx, w, importance, row_power, true, q);
}

qnt_status qnti_fit_all(qnt_context *ctx, const float *w, const float *importance, const float *row_power,
                        struct qnti_numbers *q)
{
    return run(ctx, w, importance, row_power, false, q);
}

/* A row's codes, run by run of one scale. */
static qnt_status code_row(void *arg, size_t r)
{
    const struct nearest *t = arg;
    struct qnti_numbers *q = t->q;
    const float *w = t->w + r * q->cols;
    uint16_t *code;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, q->cols, &code));
    for (size_t c = 0, run; c < q->cols; c += run) {
        float scale, offset;
        run = qnti_map_run(&q->grid.map, q->cols, r, c);
        qnti_numbers_affine(q, r, c, &scale, &offset);
        qnti_grid_round(&q->grid, qnti_numbers_codebook(q, r), run, w + c, &scale, &offset, 0, code + c, NULL);
    }
    qnti_numbers_put_codes(q, r, 0, q->cols, code);
    qnti_free(t->ctx, code);
    return QNT_OK;
}

qnt_status qnti_nearest_codes(qnt_context *ctx, const float *w, struct qnti_numbers *q)
{
    struct nearest t = {.ctx = ctx, .w = w, .q = q};
    return qnti_parallel(ctx, q->rows, code_row, &t);
}

struct square {
    qnt_context *ctx;
    const float *w;
    const struct qnti_numbers *q;
    double *sums;                /* [rows] */
};

static qnt_status square_row(void *arg, size_t r)
{
    const struct square *t = arg;
    size_t cols = t->q->cols;
    const float *w = t->w + r * cols;
    float *row;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, cols, &row));
    qnti_numbers_values(t->q, r, 0, cols, row);
    t->sums[r] = 0;
    for (size_t c = 0; c < cols; c++)
        t->sums[r] += ((double)w[c] - (double)row[c]) * ((double)w[c] - (double)row[c]);
    qnti_free(t->ctx, row);
    return QNT_OK;
}

qnt_status qnti_square_error(qnt_context *ctx, const float *w, const struct qnti_numbers *q, double *error)
{
    struct square t = {.ctx = ctx, .w = w, .q = q};
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(ctx, q->rows, &t.sums));
    status = qnti_parallel(ctx, q->rows, square_row, &t);
    *error = 0;
    for (size_t r = 0; status == QNT_OK && r < q->rows; r++)
        *error += t.sums[r];
    qnti_free(ctx, t.sums);
    return status;
}

qnt_status qnti_nearest_costs(qnt_context *ctx, const float *w, size_t rows, size_t cols,
                              const struct qnti_grid *grid, float *costs)
{
    struct qnti_numbers *q = NULL;
    double *errors = NULL;
    float *row = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW(ctx, cols, &errors));
    QNT_CHECK(QNTI_NEW_RAW(ctx, cols, &row));
    QNT_CHECK(qnti_numbers_create(ctx, grid, rows, cols, &q));
    QNT_CHECK(qnti_nearest(ctx, w, NULL, NULL, q));
    for (size_t r = 0; r < rows; r++) {
        qnti_numbers_values(q, r, 0, cols, row);
        for (size_t c = 0; c < cols; c++) {
            double d = (double)w[r * cols + c] - (double)row[c];
            errors[c] += d * d;
        }
    }
    for (size_t c = 0; c < cols; c++)
        costs[c] = (float)((double)costs[c] * errors[c]);
cleanup:
    qnti_numbers_free(ctx, q);
    qnti_free(ctx, errors);
    qnti_free(ctx, row);
    return status;
}
