/*
 * tensor.h - reading matrix views: rows as f32, checks.
 */
#ifndef QNTI_TENSOR_H
#define QNTI_TENSOR_H

#include "base/context.h"
#include <quant/matrix.h>

/* n elements at `data` (which need not be aligned), of any type of floats, widened to f32. */
void qnti_widen(const qnt_context *ctx, qnt_dtype dtype, const void *data, size_t n, float *x);
/* The opposite, rounded to nearest; `data` need not be aligned either. */
void qnti_narrow(const qnt_context *ctx, qnt_dtype dtype, const float *x, size_t n, void *data);
/* Rows [first, first + n) of a view as f32, [n][cols]. */
qnt_status qnti_matrix_rows(qnt_context *ctx, qnt_matrix m, size_t first, size_t n, float *x);
/* The first number that is not finite: QNT_NON_FINITE naming `what`, row, column and how many there are. */
qnt_status qnti_matrix_check_finite(qnt_context *ctx, qnt_matrix m, const char *what);
/* Whether all of n numbers are finite. */
bool qnti_all_finite(const float *x, size_t n);
/* Sum of squares in f64. */
double qnti_sum_squares(const float *x, size_t n);

#endif
