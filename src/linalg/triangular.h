/*
 * triangular.h - Cholesky factorisation and inverse of large matrices, in place, on the context's threads.
 *
 * A is row-major (n, n); only its upper triangle is read and written. Work is
 * cut by shape alone: results do not depend on threads.
 */
#ifndef QNTI_TRIANGULAR_H
#define QNTI_TRIANGULAR_H

#include "base/context.h"

/* A = R R^T, R upper triangular, takes A's place. *ok = false: there is none; A is then spoilt. */
qnt_status qnti_cholesky(qnt_context *ctx, float *a, size_t n, bool *ok);

/* The inverse of an upper triangular R takes its place. *ok = false: it has none. */
qnt_status qnti_invert_upper(qnt_context *ctx, float *r, size_t n, bool *ok);

#endif
