/*
 * factor.c - one Cholesky factorisation and one triangular inverse (2/3 n^3).
 *
 * H = R R^T with R upper triangular gives U = R^-1: the upper factor of H^-1
 * without forming the inverse (gptq.md, "The factor, cheaply"). The f64 of the
 * last resort reaches the same by LAPACK on the reversed matrix: with J the
 * reversal of rows and columns, J H J = L L^T and U = J L^-1 J; reversing both
 * of a row-major matrix is reversing its array.
 */
#include "linalg/factor.h"

#include <lapacke.h>
#include <math.h>
#include <string.h>
#include "linalg/triangular.h"

static const double FIRST_RAISE = 0.01, RAISE = 0.01, MOST = 1.0; /* the ladder of gptq.md, "Degenerate input" */

double qnti_mean_diagonal(const float *h, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)h[i * n + i];
    return n ? sum / (double)n : 0;
}

static double damped(const float *h, size_t n, size_t i, struct qnti_damping d, double mean)
{
    return (double)h[i * n + i] / (1 - d.shrinkage) + d.share * mean;
}

void qnti_damped_diagonal(const float *h, size_t n, struct qnti_damping damping, float *diagonal)
{
    double mean = qnti_mean_diagonal(h, n);
    for (size_t i = 0; i < n; i++)
        diagonal[i] = (float)damped(h, n, i, damping, mean);
}

/* The upper triangle of the damped H, zero below. */
static void load_damped(const float *h, size_t n, struct qnti_damping d, double mean, float *u)
{
    for (size_t i = 0; i < n; i++) {
        memset(u + i * n, 0, i * sizeof *u);
        memcpy(u + i * n + i, h + i * n + i, (n - i) * sizeof *u);
        u[i * n + i] = (float)damped(h, n, i, d, mean);
    }
}

/* LAPACK need not notice numbers that are not finite. */
static bool diagonal_is_sound(const float *u, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(u[i * n + i] > 0) || !isfinite(u[i * n + i]))
            return false;
    return true;
}

static qnt_status factor_f32(qnt_context *ctx, const float *h, size_t n, struct qnti_damping d, double mean, float *u,
                             bool *ok)
{
    load_damped(h, n, d, mean, u);
    QNT_TRY(qnti_cholesky(ctx, u, n, ok));
    *ok = *ok && diagonal_is_sound(u, n);
    if (*ok)
        QNT_TRY(qnti_invert_upper(ctx, u, n, ok));
    *ok = *ok && diagonal_is_sound(u, n);
    return QNT_OK;
}

static qnt_status factor_f64(qnt_context *ctx, const float *h, size_t n, struct qnti_damping d, double mean, float *u,
                             bool *ok)
{
    lapack_int order = (lapack_int)n;
    double *a;
    QNT_TRY(QNTI_NEW_RAW(ctx, n * n, &a));
    for (size_t i = 0; i < n * n; i++)
        a[i] = (double)h[n * n - 1 - i];
    for (size_t i = 0; i < n; i++)
        a[i * n + i] = damped(h, n, n - 1 - i, d, mean);
    *ok = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', order, a, order) == 0 &&
          LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'U', 'N', order, a, order) == 0;
    for (size_t i = 0; *ok && i < n; i++)
        for (size_t j = i; j < n; j++)
            u[i * n + j] = (float)a[n * n - 1 - i * n - j];
    *ok = *ok && diagonal_is_sound(u, n);
    qnti_free(ctx, a);
    return QNT_OK;
}

qnt_status qnti_inverse_factor(qnt_context *ctx, const float *h, size_t n, struct qnti_damping *damping, float *u)
{
    struct qnti_damping d = *damping;
    double mean = qnti_mean_diagonal(h, n);
    bool ok = false;
    if (!(mean > 0) || !isfinite(mean))
        return qnti_fail(ctx, QNT_SINGULAR, "mean of the Hessian's diagonal is %g", mean);
    for (;;) {
        QNT_TRY(qnti_cancelled(ctx));
        QNT_TRY(factor_f32(ctx, h, n, d, mean, u, &ok));
        if (ok || d.share >= MOST)
            break;
        d.share = d.share < FIRST_RAISE ? FIRST_RAISE : fmin(d.share + RAISE, MOST);
    }
    if (!ok)
        QNT_TRY(factor_f64(ctx, h, n, d, mean, u, &ok));
    if (!ok)
        return qnti_fail(ctx, QNT_SINGULAR, "a Hessian of order %zu has no Cholesky factor even with damping %g", n,
                         d.share);
    *damping = d;
    return QNT_OK;
}
