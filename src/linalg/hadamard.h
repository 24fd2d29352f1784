/*
 * hadamard.h - matrices of entries +-1 with orthogonal rows, of the orders that widths of models are made of.
 *
 * A width n = K 2^k is transformed by H_K (x) S, S the Walsh matrix of order 2^k: K = 1, or one of a dozen orders
 * with a construction of its own (rotation.md: Paley, Williamson; as in QuaRot and SpinQuant).
 */
#ifndef QNTI_HADAMARD_H
#define QNTI_HADAMARD_H

#include "base/context.h"

/* K for width n: 1 if n is a power of two; 0: n has none. */
size_t qnti_hadamard_order(size_t n);
/* The largest divisor of n that has one. */
size_t qnti_hadamard_divisor(size_t n);
/* H_K / sqrt(K) for K > 1 that qnti_hadamard_order gives; `h` [K][K]. QNT_NO_MEMORY. */
qnt_status qnti_hadamard_matrix(qnt_context *ctx, size_t order, float *h);
/* x [n], n a power of two, times the Walsh matrix over sqrt(n), which is its own inverse; in place. */
void qnti_walsh(float *x, size_t n);

#endif
