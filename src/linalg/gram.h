/*
 * gram.h - sums of outer products over many tokens: H = sum x x^T, D = sum y x^T.
 */
#ifndef QNTI_GRAM_H
#define QNTI_GRAM_H

#include "base/context.h"

/*
 * Products of a chunk of tokens are made in f32 (gemm, syrk), the sum across
 * chunks is f64. The matrix is kept in bands of rows; work is cut into fixed
 * strips of them, each of which sums all tokens in order: results do not
 * depend on threads. A symmetric one keeps its lower triangle.
 */
struct qnti_gram {
    qnt_context *ctx;
    size_t n;
    bool symmetric;
    size_t bands;
    double **band;             /* rows of a band run over its columns: all, or those up to its diagonal block */
};

qnt_status qnti_gram_create(qnt_context *ctx, size_t n, bool symmetric, struct qnti_gram **gram);
void qnti_gram_free(qnt_context *ctx, struct qnti_gram *gram);
/* Adds y^T x over `tokens` rows of y and x ([tokens][n]); y is x for a symmetric one. */
qnt_status qnti_gram_add(qnt_context *ctx, struct qnti_gram *gram, const float *y, const float *x, size_t tokens);
/* Adds another one of the same shape. */
void qnti_gram_merge(struct qnti_gram *gram, const struct qnti_gram *other);
/* factor * sum as a full f32 matrix [n][n]. QNT_INVALID: the sums were taken. */
qnt_status qnti_gram_read(const struct qnti_gram *gram, double factor, float *matrix);
/* The same, and the sums' memory is given back on the way; nothing can be read or added then. */
qnt_status qnti_gram_take(struct qnti_gram *gram, double factor, float *matrix);
/* The sums of row r, of a symmetric one its first r + 1; returns how many. The other puts them. */
size_t qnti_gram_row(const struct qnti_gram *gram, size_t r, double *row);
size_t qnti_gram_set_row(struct qnti_gram *gram, size_t r, const double *row);

#endif
