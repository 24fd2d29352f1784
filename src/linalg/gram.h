/*
 * gram.h - sums of outer products over many tokens: H = sum x x^T, D = sum y x^T.
 */
#ifndef QNTI_GRAM_H
#define QNTI_GRAM_H

#include "base/context.h"

/*
 * Products of a chunk of tokens are made in f32 (gemm, syrk), the sum across
 * chunks is f64. The matrix is kept in fixed tiles, each of which sums all
 * tokens in order: results do not depend on threads. A symmetric one keeps its
 * lower triangle of tiles.
 */
struct qnti_gram {
    size_t n;
    bool symmetric;
    size_t across;             /* tiles in a row */
    double **tiles;            /* lower triangle, or all; row-major */
    size_t tile_count;
};

qnt_status qnti_gram_create(qnt_context *ctx, size_t n, bool symmetric, struct qnti_gram **gram);
void qnti_gram_free(qnt_context *ctx, struct qnti_gram *gram);
/* Adds y^T x over `tokens` rows of y and x ([tokens][n]); y is x for a symmetric one. */
qnt_status qnti_gram_add(qnt_context *ctx, struct qnti_gram *gram, const float *y, const float *x, size_t tokens);
/* Adds another one of the same shape. */
void qnti_gram_merge(struct qnti_gram *gram, const struct qnti_gram *other);
/* factor * sum as a full f32 matrix [n][n]. */
void qnti_gram_read(const struct qnti_gram *gram, double factor, float *matrix);

#endif
