/*
 * factor.h - the factor of an inverse Hessian, damped until it exists.
 */
#ifndef QNTI_FACTOR_H
#define QNTI_FACTOR_H

#include "base/context.h"

/*
 * U (n, n) row-major upper triangular, zero below, with U^T U = (H + d mean(diag H) I)^-1. d starts at *damp and is
 * raised to 0.01 and then by 0.01 to at most 1 until the factorisation exists, the last time in f64; *damp returns
 * what was added. QNT_SINGULAR: it never did (H is not positive semidefinite, or not finite).
 */
qnt_status qnti_inverse_factor(qnt_context *ctx, const float *h, size_t n, double *damp, float *u);

/* Mean of the diagonal, in f64. */
double qnti_mean_diagonal(const float *h, size_t n);

/* x of A x = b for a symmetric positive definite A (n, n), both overwritten. false: it is not. For small systems. */
bool qnti_solve_spd(double *a, double *b, size_t n);

#endif
