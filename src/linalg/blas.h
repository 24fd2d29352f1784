/*
 * blas.h - products of row-major f32 matrices, cut into tiles by shape alone.
 *
 * Each tile is one single-threaded BLAS call, so results do not depend on the
 * number of threads; the tiles run on the context's threads.
 */
#ifndef QNTI_BLAS_H
#define QNTI_BLAS_H

#include "base/context.h"

/*
 * C (m, n) = alpha A B + beta C, where A is (m, k) or, with transpose_a,
 * stored (k, m); B (k, n) or, with transpose_b, stored (n, k). ld*: elements
 * between rows. y = x W^T is transpose_b.
 */
struct qnti_gemm {
    size_t m, n, k;
    const float *a;
    size_t lda;
    bool transpose_a;
    const float *b;
    size_t ldb;
    bool transpose_b;
    float *c;
    size_t ldc;
    float alpha, beta;
};
qnt_status qnti_gemm_parallel(qnt_context *ctx, const struct qnti_gemm *g);
/* The same in the calling thread, one BLAS call. */
void qnti_gemm_one(const struct qnti_gemm *g);

#endif
