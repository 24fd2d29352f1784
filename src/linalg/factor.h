/*
 * factor.h - the factor of an inverse Hessian, damped until it exists.
 */
#ifndef QNTI_FACTOR_H
#define QNTI_FACTOR_H

#include "base/context.h"

/*
 * How far a Hessian is trusted: diag H / (1 - shrinkage) + share mean(diag H) takes the place of its diagonal.
 * Shrinkage thus moves the correlations of channels towards 0 (H's linear shrinkage to its diagonal, but for a factor
 * of the whole), each channel by its own size; the share adds the same to all.
 */
struct qnti_damping {
    double share, shrinkage;
};

/* The damped diagonal, [n]. */
void qnti_damped_diagonal(const float *h, size_t n, struct qnti_damping damping, float *diagonal);

/*
 * U (n, n) row-major upper triangular, zero below, with U^T U the inverse of the damped H. The share is raised to 0.01
 * and then by 0.01 to at most 1 until the factorisation exists, the last time in f64; damping returns what was taken.
 * QNT_SINGULAR: it never did (H is not positive semidefinite, or not finite).
 */
qnt_status qnti_inverse_factor(qnt_context *ctx, const float *h, size_t n, struct qnti_damping *damping, float *u);

/* Mean of the diagonal, in f64. */
double qnti_mean_diagonal(const float *h, size_t n);

#endif
