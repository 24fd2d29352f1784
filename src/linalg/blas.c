/*
 * blas.c - sgemm in fixed tiles.
 */
#include "linalg/blas.h"

#include <cblas.h>

/* Tile of C: large enough that packing the operands is a few percent; smaller where that keeps threads busy. */
enum { MOST_ROWS = 512, MOST_COLS = 1024, LEAST_TILE = 64, LEAST_TILES = 16, STEP = 16 };

void qnti_gemm_one(const struct qnti_gemm *g)
{
    if (g->m == 0 || g->n == 0)
        return;
    cblas_sgemm(CblasRowMajor, g->transpose_a ? CblasTrans : CblasNoTrans, g->transpose_b ? CblasTrans : CblasNoTrans,
                (int)g->m, (int)g->n, (int)g->k, g->alpha, g->a, (int)g->lda, g->b, (int)g->ldb, g->beta, g->c,
                (int)g->ldc);
}

struct tiles {
    const struct qnti_gemm *g;
    size_t rows, cols, across;   /* of a tile; tiles in a row of them */
};

/* n cut into equal parts of at most `most`. */
static size_t part(size_t n, size_t most)
{
    return qnti_ceil_div(qnti_ceil_div(n, qnti_ceil_div(n, most)), STEP) * STEP;
}

/* Halves the longer side until there are tiles enough; returns how many. */
static size_t cut(const struct qnti_gemm *g, struct tiles *t)
{
    size_t rows = qnti_min(MOST_ROWS, g->m), cols = qnti_min(MOST_COLS, g->n);
    while (qnti_ceil_div(g->m, rows) * qnti_ceil_div(g->n, cols) < LEAST_TILES && qnti_max(rows, cols) > LEAST_TILE)
        if (rows < cols)
            cols = qnti_ceil_div(cols, 2);
        else
            rows = qnti_ceil_div(rows, 2);
    *t = (struct tiles){g, part(g->m, rows), part(g->n, cols), 0};
    t->across = qnti_ceil_div(g->n, t->cols);
    return t->across * qnti_ceil_div(g->m, t->rows);
}

static qnt_status gemm_tile(void *arg, size_t index)
{
    const struct tiles *t = arg;
    const struct qnti_gemm *g = t->g;
    size_t row = index / t->across * t->rows, col = index % t->across * t->cols;
    struct qnti_gemm tile = *g;
    tile.m = qnti_min(t->rows, g->m - row);
    tile.n = qnti_min(t->cols, g->n - col);
    tile.a += g->transpose_a ? row : row * g->lda;
    tile.b += g->transpose_b ? col * g->ldb : col;
    tile.c += row * g->ldc + col;
    qnti_gemm_one(&tile);
    return QNT_OK;
}

qnt_status qnti_gemm_parallel(qnt_context *ctx, const struct qnti_gemm *g)
{
    struct tiles t;
    if (g->m == 0 || g->n == 0)
        return QNT_OK;
    return qnti_parallel(ctx, cut(g, &t), gemm_tile, &t);
}
