/*
 * factor.c - one Cholesky factorisation and one triangular inverse (2/3 n^3).
 *
 * With J the reversal of rows and columns, J H J = L L^T gives U = J L^-1 J:
 * the upper factor of H^-1 without forming the inverse (gptq.md, "The factor,
 * cheaply"). Reversing rows and columns of a row-major matrix is reversing its
 * array; LAPACK is called column-major with the other triangle, so nothing is
 * transposed.
 */
#include "linalg/factor.h"

#include <lapacke.h>
#include <math.h>
#include <string.h>

static const double FIRST_RAISE = 0.01, RAISE = 0.01, MOST = 1.0; /* the ladder of gptq.md, "Degenerate input" */

double qnti_mean_diagonal(const float *h, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)h[i * n + i];
    return n ? sum / (double)n : 0;
}

static void reverse(float *x, size_t n)
{
    for (size_t i = 0, j = n; i + 1 < j; i++) {
        float t = x[i];
        x[i] = x[--j];
        x[j] = t;
    }
}

static void load_reversed(const float *h, size_t n, double add, float *a)
{
    for (size_t i = 0; i < n * n; i++)
        a[i] = h[n * n - 1 - i];
    for (size_t i = 0; i < n; i++)
        a[i * n + i] = (float)((double)a[i * n + i] + add);
}

/* Column-major upper potrf and trtri leave L^-1 in the row-major lower triangle. */
static bool factor_f32(float *a, size_t n)
{
    lapack_int order = (lapack_int)n;
    return LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', order, a, order) == 0 &&
           LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'U', 'N', order, a, order) == 0;
}

/* LAPACK need not notice numbers that are not finite. */
static bool diagonal_is_sound(const float *u, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(u[i * n + i] > 0) || !isfinite(u[i * n + i]))
            return false;
    return true;
}

static qnt_status factor_f64(qnt_context *ctx, const float *h, size_t n, double add, float *u, bool *ok)
{
    lapack_int order = (lapack_int)n;
    double *a;
    QNT_TRY(QNTI_NEW_RAW(ctx, n * n, &a));
    for (size_t i = 0; i < n * n; i++)
        a[i] = (double)h[n * n - 1 - i];
    for (size_t i = 0; i < n; i++)
        a[i * n + i] += add;
    *ok = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', order, a, order) == 0 &&
          LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', order, a, order) == 0;
    for (size_t i = 0; *ok && i < n * n; i++)
        u[i] = (float)a[i];
    *ok = *ok && diagonal_is_sound(u, n);
    qnti_free(ctx, a);
    return QNT_OK;
}

static void finish(float *u, size_t n)
{
    reverse(u, n * n);
    for (size_t i = 1; i < n; i++)
        memset(u + i * n, 0, i * sizeof *u);
}

qnt_status qnti_inverse_factor(qnt_context *ctx, const float *h, size_t n, double *damp, float *u)
{
    double mean = qnti_mean_diagonal(h, n), d = *damp;
    bool ok = false;
    if (!(mean > 0) || !isfinite(mean))
        return qnti_fail(ctx, QNT_SINGULAR, "mean of the Hessian's diagonal is %g", mean);
    for (;;) {
        QNT_TRY(qnti_cancelled(ctx));
        load_reversed(h, n, d * mean, u);
        ok = factor_f32(u, n) && diagonal_is_sound(u, n);
        if (ok || d >= MOST)
            break;
        d = d < FIRST_RAISE ? FIRST_RAISE : fmin(d + RAISE, MOST);
    }
    if (!ok)
        QNT_TRY(factor_f64(ctx, h, n, d * mean, u, &ok));
    if (!ok)
        return qnti_fail(ctx, QNT_SINGULAR, "a Hessian of order %zu has no Cholesky factor even with damping %g", n, d);
    finish(u, n);
    *damp = d;
    return QNT_OK;
}

bool qnti_solve_spd(double *a, double *b, size_t n)
{
    lapack_int order = (lapack_int)n;
    return LAPACKE_dposv_work(LAPACK_COL_MAJOR, 'U', order, 1, a, order, b, order) == 0;
}
