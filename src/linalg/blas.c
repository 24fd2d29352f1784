/*
 * blas.c - sgemm in fixed tiles.
 */
#include "linalg/blas.h"

#include <cblas.h>

/* Tile of C: large enough that packing the operands is a few percent, small enough to keep threads busy. */
enum { TILE_ROWS = 256, TILE_COLS = 512 };

void qnti_gemm_one(const struct qnti_gemm *g)
{
    if (g->m == 0 || g->n == 0)
        return;
    cblas_sgemm(CblasRowMajor, g->transpose_a ? CblasTrans : CblasNoTrans, g->transpose_b ? CblasTrans : CblasNoTrans,
                (int)g->m, (int)g->n, (int)g->k, g->alpha, g->a, (int)g->lda, g->b, (int)g->ldb, g->beta, g->c,
                (int)g->ldc);
}

static qnt_status gemm_tile(void *arg, size_t index)
{
    const struct qnti_gemm *g = arg;
    size_t across = qnti_ceil_div(g->n, TILE_COLS);
    size_t row = index / across * TILE_ROWS, col = index % across * TILE_COLS;
    struct qnti_gemm tile = *g;
    tile.m = qnti_min(TILE_ROWS, g->m - row);
    tile.n = qnti_min(TILE_COLS, g->n - col);
    tile.a += g->transpose_a ? row : row * g->lda;
    tile.b += g->transpose_b ? col * g->ldb : col;
    tile.c += row * g->ldc + col;
    qnti_gemm_one(&tile);
    return QNT_OK;
}

qnt_status qnti_gemm_parallel(qnt_context *ctx, const struct qnti_gemm *g)
{
    struct qnti_gemm copy = *g;
    return qnti_parallel(ctx, qnti_ceil_div(g->m, TILE_ROWS) * qnti_ceil_div(g->n, TILE_COLS), gemm_tile, &copy);
}
