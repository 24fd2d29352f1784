/*
 * clip.c - ranges of groups shrunk where that lowers the output error.
 *
 * Of each row's group the weights beyond c = m (1 - i / steps), m their
 * largest magnitude, are pulled to it before the group is fitted; kept is the
 * c with the least e H_g e, e the change of the group's weights against the
 * original ones and H_g its diagonal block of the Hessian (AWQ's
 * auto_clip, with the sum over tokens as a quadratic form).
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "linalg/blas.h"

enum { CHUNK_ROWS = 64 };

struct clip {
    qnt_context *ctx;
    const struct qnti_grid *grid;
    const struct qnti_clip *rule;
    const float *importance;
    float *w;
    size_t rows, cols, span;
};

/* The weights of one group of a chunk of rows, and what becomes of them. */
struct chunk {
    const struct clip *clip;
    size_t rows, cols;
    float *original, *clipped, *change, *product;    /* [rows][cols] */
    float *most, *best_range, *power;                /* [rows] */
    double *best;
    uint16_t *code;                                  /* [rows][cols] */
    void *scratch;                                   /* of the grid's fits */
    struct qnti_numbers *q;                          /* (rows, cols), one group */
};

static void chunk_free(qnt_context *ctx, struct chunk *c)
{
    void *memory[] = {c->original, c->clipped, c->change, c->product, c->most, c->best_range, c->power, c->best,
                      c->code,     c->scratch};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(ctx, memory[i]);
    qnti_numbers_free(ctx, c->q);
}

static qnt_status chunk_create(const struct clip *clip, size_t rows, size_t cols, struct chunk *c)
{
    qnt_context *ctx = clip->ctx;
    size_t n = rows * cols;
    *c = (struct chunk){.clip = clip, .rows = rows, .cols = cols};
    QNT_TRY(QNTI_NEW_RAW(ctx, n, &c->original));
    QNT_TRY(QNTI_NEW_RAW(ctx, n, &c->clipped));
    QNT_TRY(QNTI_NEW_RAW(ctx, n, &c->change));
    QNT_TRY(QNTI_NEW_RAW(ctx, n, &c->product));
    QNT_TRY(QNTI_NEW_RAW(ctx, rows, &c->most));
    QNT_TRY(QNTI_NEW_RAW(ctx, rows, &c->best_range));
    QNT_TRY(QNTI_NEW(ctx, rows, &c->power));
    QNT_TRY(QNTI_NEW_RAW(ctx, rows, &c->best));
    QNT_TRY(QNTI_NEW_RAW(ctx, n, &c->code));
    QNT_TRY(qnti_grid_scratch(ctx, clip->grid, cols, &c->scratch));
    return qnti_numbers_create(ctx, clip->grid, rows, cols, &c->q);
}

/* Row by row, the range's share of the largest magnitude. */
static void clip_rows(struct chunk *c, const float *range)
{
    for (size_t r = 0; r < c->rows; r++)
        for (size_t j = 0; j < c->cols; j++) {
            float x = c->original[r * c->cols + j];
            c->clipped[r * c->cols + j] = fminf(fmaxf(x, -range[r]), range[r]);
        }
}

/* e = Q(clipped) - original, and e H_g of all rows. */
static void round_chunk(struct chunk *c, size_t first_column, const float *importance)
{
    const struct clip *clip = c->clip;
    struct qnti_band band = {.x = c->clipped, .rows = c->rows, .cols = c->cols, .stride = c->cols,
                             .importance = importance, .row_power = importance ? c->power : NULL,
                             .scratch = c->scratch};
    struct qnti_gemm g = {.m = c->rows, .n = c->cols, .k = c->cols, .a = c->change, .lda = c->cols,
                          .b = clip->rule->hessian + first_column * clip->cols + first_column, .ldb = clip->cols,
                          .c = c->product, .ldc = c->cols, .alpha = 1};
    clip->grid->kind->fit(clip->grid, &band, c->q, 0, 0, c->code, c->cols);
    for (size_t r = 0; r < c->rows; r++) {
        qnti_numbers_put_codes(c->q, r, 0, c->cols, c->code + r * c->cols);
        qnti_numbers_values(c->q, r, 0, c->cols, c->change + r * c->cols);
    }
    for (size_t i = 0; i < c->rows * c->cols; i++)
        c->change[i] -= c->original[i];
    qnti_gemm_one(&g);
}

static void keep_better(struct chunk *c, const float *range)
{
    for (size_t r = 0; r < c->rows; r++) {
        double error = 0;
        for (size_t j = 0; j < c->cols; j++)
            error += (double)c->change[r * c->cols + j] * (double)c->product[r * c->cols + j];
        if (error < c->best[r]) {
            c->best[r] = error;
            c->best_range[r] = range[r];
        }
    }
}

static qnt_status clip_group(const struct clip *clip, size_t first, size_t rows, size_t column)
{
    size_t cols = qnti_min(clip->span, clip->cols - column), steps = clip->rule->steps;
    const float *importance = clip->importance ? clip->importance + column : NULL;
    float *range = NULL;
    struct chunk c = {0};
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(clip->ctx, rows, &range));
    QNT_CHECK(chunk_create(clip, rows, cols, &c));
    for (size_t r = 0; r < rows; r++) {
        const float *w = clip->w + (first + r) * clip->cols + column;
        memcpy(c.original + r * cols, w, cols * sizeof *w);
        c.most[r] = 0;
        for (size_t j = 0; j < cols; j++)
            c.most[r] = fmaxf(c.most[r], fabsf(w[j]));
        c.power[r] = clip->rule->row_power ? clip->rule->row_power[first + r] : 0;
        c.best[r] = INFINITY;
        c.best_range[r] = c.most[r];
    }
    for (size_t i = 0; i < clip->rule->tried; i++) {
        for (size_t r = 0; r < rows; r++)
            range[r] = c.most[r] * (float)(1.0 - (double)i / (double)steps);
        clip_rows(&c, range);
        round_chunk(&c, column, importance);
        keep_better(&c, range);
    }
    clip_rows(&c, c.best_range);
    for (size_t r = 0; r < rows; r++)
        memcpy(clip->w + (first + r) * clip->cols + column, c.clipped + r * cols, cols * sizeof *c.clipped);
cleanup:
    qnti_free(clip->ctx, range);
    chunk_free(clip->ctx, &c);
    return status;
}

static qnt_status clip_task(void *arg, size_t index)
{
    const struct clip *clip = arg;
    size_t first = index * CHUNK_ROWS, rows = qnti_min(CHUNK_ROWS, clip->rows - first);
    for (size_t column = 0; column < clip->cols; column += clip->span)
        QNT_TRY(clip_group(clip, first, rows, column));
    return QNT_OK;
}

qnt_status qnti_clip(qnt_context *ctx, const struct qnti_grid *grid, const struct qnti_clip *rule, size_t rows,
                     size_t cols, float *w)
{
    size_t span = qnti_min(qnti_grid_span(grid, cols), cols);
    struct clip clip = {ctx, grid, rule, rule->importance, w, rows, cols, span};
    if (grid->map.kind != QNTI_MAP_TILES || grid->map.rows != 1 || grid->form == QNTI_FORM_FLOAT)
        return QNT_OK; /* ranges that rows share are not searched */
    return qnti_parallel(ctx, qnti_ceil_div(rows, CHUNK_ROWS), clip_task, &clip);
}
