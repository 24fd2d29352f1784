/*
 * gram.c - tiled sums of outer products.
 */
#include "linalg/gram.h"

#include <cblas.h>

enum { TILE = 512, CHUNK_TOKENS = 2048 };

static size_t tile_size(const struct qnti_gram *g, size_t i)
{
    return qnti_min(TILE, g->n - i * TILE);
}

/* Row and column of tile `index`. */
static void tile_place(const struct qnti_gram *g, size_t index, size_t *i, size_t *j)
{
    if (!g->symmetric) {
        *i = index / g->across;
        *j = index % g->across;
        return;
    }
    for (*i = 0; index > *i; ++*i)
        index -= *i + 1;
    *j = index;
}

qnt_status qnti_gram_create(qnt_context *ctx, size_t n, bool symmetric, struct qnti_gram **gram)
{
    struct qnti_gram *g;
    QNT_TRY(QNTI_NEW(ctx, 1, &g));
    g->n = n;
    g->symmetric = symmetric;
    g->across = qnti_ceil_div(n, TILE);
    g->tile_count = symmetric ? g->across * (g->across + 1) / 2 : g->across * g->across;
    qnt_status status = QNTI_NEW(ctx, g->tile_count, &g->tiles);
    for (size_t t = 0; status == QNT_OK && t < g->tile_count; t++) {
        size_t i, j;
        tile_place(g, t, &i, &j);
        status = QNTI_NEW(ctx, tile_size(g, i) * tile_size(g, j), &g->tiles[t]);
    }
    if (status != QNT_OK) {
        qnti_gram_free(ctx, g);
        return status;
    }
    *gram = g;
    return QNT_OK;
}

void qnti_gram_free(qnt_context *ctx, struct qnti_gram *g)
{
    if (!g)
        return;
    for (size_t t = 0; g->tiles && t < g->tile_count; t++)
        qnti_free(ctx, g->tiles[t]);
    qnti_free(ctx, g->tiles);
    qnti_free(ctx, g);
}

struct add_task {
    qnt_context *ctx;
    struct qnti_gram *gram;
    const float *y, *x;
    size_t tokens;
};

static qnt_status add_tile(void *arg, size_t index)
{
    const struct add_task *t = arg;
    struct qnti_gram *g = t->gram;
    double *sum = g->tiles[index];
    size_t i, j, rows, cols;
    float *product;
    tile_place(g, index, &i, &j);
    rows = tile_size(g, i);
    cols = tile_size(g, j);
    QNT_TRY(QNTI_NEW(t->ctx, rows * cols, &product));
    for (size_t done = 0; done < t->tokens; done += CHUNK_TOKENS) {
        int k = (int)qnti_min(CHUNK_TOKENS, t->tokens - done), n = (int)g->n;
        const float *y = t->y + done * g->n + i * TILE, *x = t->x + done * g->n + j * TILE;
        if (g->symmetric && i == j)
            cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, (int)rows, k, 1, x, n, 0, product, (int)rows);
        else
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)cols, k, 1, y, n, x, n, 0, product,
                        (int)cols);
        for (size_t e = 0; e < rows * cols; e++)
            sum[e] += (double)product[e];
    }
    qnti_free(t->ctx, product);
    return QNT_OK;
}

qnt_status qnti_gram_add(qnt_context *ctx, struct qnti_gram *gram, const float *y, const float *x, size_t tokens)
{
    struct add_task task = {ctx, gram, y, x, tokens};
    return tokens ? qnti_parallel(ctx, gram->tile_count, add_tile, &task) : QNT_OK;
}

void qnti_gram_merge(struct qnti_gram *g, const struct qnti_gram *other)
{
    for (size_t t = 0; t < g->tile_count; t++) {
        size_t i, j;
        tile_place(g, t, &i, &j);
        for (size_t e = 0; e < tile_size(g, i) * tile_size(g, j); e++)
            g->tiles[t][e] += other->tiles[t][e];
    }
}

void qnti_gram_read(const struct qnti_gram *g, double factor, float *matrix)
{
    for (size_t t = 0; t < g->tile_count; t++) {
        size_t i, j;
        tile_place(g, t, &i, &j);
        for (size_t r = 0; r < tile_size(g, i); r++)
            for (size_t c = 0; c < tile_size(g, j); c++) {
                size_t row = i * TILE + r, col = j * TILE + c;
                float value = (float)(factor * g->tiles[t][r * tile_size(g, j) + c]);
                if (g->symmetric && col > row)
                    continue; /* the upper half of a diagonal tile is not kept */
                matrix[row * g->n + col] = value;
                if (g->symmetric)
                    matrix[col * g->n + row] = value;
            }
    }
}
