/*
 * low_rank.c - leading singular vectors by a Rayleigh-Ritz step in an orthonormal basis Q of the left side.
 *
 * M = E L, H = L L^T; the u_j are Q z_j, z_j the leading eigenvectors of
 * Q^T (M M^T) Q = P H P^T, P = Q^T E: neither L nor an inverse of H is needed.
 * Where rows or columns are few, Q spans all rows, or all of E. Else it spans a
 * block Krylov space of M M^T from random vectors, a few vectors more than the
 * rank wide (Musco and Musco, "Randomized block Krylov methods", NIPS 2015):
 * each step reads E twice. Vectors are kept as rows.
 */
#include "linalg/low_rank.h"

#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>
#include "base/random.h"
#include "linalg/blas.h"

/* Vectors beside the rank in a block, and blocks; up to how many rows or columns nothing is left out. */
enum { SPARE = 8, STEPS = 8, FEW = 256 };

struct space {
    qnt_context *ctx;
    const struct qnti_low_rank *l;
    float e_scale, h_scale;      /* that make the largest entries 1: products of any E and H stay in range */
    size_t block, dim;
    bool all;                    /* the basis is that of all rows: Q = I */
    float *basis;                /* [dim][rows], or NULL: Q = I */
    float *p, *hp;               /* [dim][cols] Q^T E and that times H, scaled */
    float *inner;                /* [dim][dim] */
};

/* y [n][cols] = v [n][rows] E, scaled. */
static qnt_status times_e(const struct space *s, size_t n, const float *v, float scale, float *y)
{
    size_t rows = s->l->rows, cols = s->l->cols;
    return qnti_gemm_parallel(s->ctx, &(struct qnti_gemm){.m = n, .n = cols, .k = rows, .a = v, .lda = rows,
                                                          .b = s->l->e, .ldb = cols, .c = y, .ldc = cols,
                                                          .alpha = scale});
}

/* v [n][rows] = y [n][cols] E^T, scaled. */
static qnt_status times_e_back(const struct space *s, size_t n, const float *y, float *v)
{
    size_t rows = s->l->rows, cols = s->l->cols;
    return qnti_gemm_parallel(s->ctx, &(struct qnti_gemm){.m = n, .n = rows, .k = cols, .a = y, .lda = cols,
                                                          .b = s->l->e, .ldb = cols, .transpose_b = true, .c = v,
                                                          .ldc = rows, .alpha = s->e_scale});
}

/* z [n][cols] = y [n][cols] H, scaled. */
static qnt_status times_h(const struct space *s, size_t n, const float *y, float *z)
{
    size_t cols = s->l->cols;
    if (!s->l->h) {
        memcpy(z, y, n * cols * sizeof *z);
        return QNT_OK;
    }
    return qnti_gemm_parallel(s->ctx, &(struct qnti_gemm){.m = n, .n = cols, .k = cols, .a = y, .lda = cols,
                                                          .b = s->l->h, .ldb = cols, .c = z, .ldc = cols,
                                                          .alpha = s->h_scale});
}

/* --- the basis --- */

/* n vectors [n][rows], n <= rows, become orthonormal ones that span them all. */
static qnt_status orthonormalize(const struct space *s, size_t n, float *v)
{
    lapack_int rows = (lapack_int)s->l->rows, count = (lapack_int)n, size = 64 * count;
    float *tau, *work = NULL;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, n, &tau));
    QNT_CHECK(QNTI_NEW_RAW(s->ctx, (size_t)size, &work));
    if (LAPACKE_sgeqrf_work(LAPACK_COL_MAJOR, rows, count, v, rows, tau, work, size) != 0 ||
        LAPACKE_sorgqr_work(LAPACK_COL_MAJOR, rows, count, count, v, rows, tau, work, size) != 0)
        status = qnti_fail(s->ctx, QNT_SINGULAR, "no orthonormal basis of %zu vectors", n);
cleanup:
    qnti_free(s->ctx, tau);
    qnti_free(s->ctx, work);
    return status;
}

/* What n vectors have in common with the `before` ones that lead the basis is taken off them. */
static qnt_status take_off(const struct space *s, size_t before, size_t n, float *v)
{
    size_t rows = s->l->rows;
    struct qnti_gemm g = {.m = n, .n = before, .k = rows, .a = v, .lda = rows, .b = s->basis, .ldb = rows,
                          .transpose_b = true, .ldc = before, .alpha = 1};
    float *shares;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, n * before, &shares));
    g.c = shares;
    QNT_CHECK(qnti_gemm_parallel(s->ctx, &g));
    g = (struct qnti_gemm){.m = n, .n = rows, .k = before, .a = shares, .lda = before, .b = s->basis, .ldb = rows,
                           .c = v, .ldc = rows, .alpha = -1, .beta = 1};
    status = qnti_gemm_parallel(s->ctx, &g);
cleanup:
    qnti_free(s->ctx, shares);
    return status;
}

static void fill_random(size_t n, float *x)
{
    struct qnti_random random;
    qnti_random_seed(&random, 1);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int32_t)(qnti_random_next(&random) >> 32) * 0x1p-31f;
}

/* The blocks M M^T ... M M^T E x of random x. */
static qnt_status krylov(struct space *s)
{
    size_t n = s->block * s->l->cols;
    float *x = NULL, *hx;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, 2 * n, &x));
    hx = x + n;
    fill_random(n, hx);
    for (size_t done = 0; done < s->dim; done += s->block) {
        float *v = s->basis + done * s->l->rows;
        if (done) {
            QNT_CHECK(times_e(s, s->block, v - s->block * s->l->rows, s->e_scale, x));
            QNT_CHECK(times_h(s, s->block, x, hx));
        }
        QNT_CHECK(times_e_back(s, s->block, hx, v));
        if (done)
            QNT_CHECK(take_off(s, done, s->block, v));
        QNT_CHECK(orthonormalize(s, s->block, v));
    }
    status = orthonormalize(s, s->dim, s->basis); /* where blocks ran out of directions they are not yet */
cleanup:
    qnti_free(s->ctx, x);
    return status;
}

static qnt_status make_basis(struct space *s)
{
    size_t rows = s->l->rows, cols = s->l->cols, few = qnti_min(rows, cols);
    s->block = s->l->rank + SPARE;
    s->dim = s->block * STEPS;
    if (few <= qnti_max(FEW, s->dim)) {
        s->dim = few;
        s->all = rows <= cols;
        if (s->all)
            return QNT_OK;
        QNT_TRY(QNTI_NEW_RAW(s->ctx, few * rows, &s->basis));
        for (size_t c = 0; c < cols; c++)
            for (size_t r = 0; r < rows; r++)
                s->basis[c * rows + r] = s->l->e[r * cols + c] * s->e_scale;
        return orthonormalize(s, few, s->basis);
    }
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->dim * rows, &s->basis));
    return krylov(s);
}

/* --- the vectors --- */

/* P, P H and P H P^T. */
static qnt_status project(struct space *s)
{
    size_t n = s->dim, cols = s->l->cols;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, n * cols, &s->p));
    QNT_TRY(QNTI_NEW_RAW(s->ctx, n * cols, &s->hp));
    QNT_TRY(QNTI_NEW_RAW(s->ctx, n * n, &s->inner));
    if (!s->all)
        QNT_TRY(times_e(s, n, s->basis, s->e_scale, s->p));
    for (size_t i = 0; s->all && i < n * cols; i++)
        s->p[i] = s->l->e[i] * s->e_scale;
    QNT_TRY(times_h(s, n, s->p, s->hp));
    return qnti_gemm_parallel(s->ctx, &(struct qnti_gemm){.m = n, .n = n, .k = cols, .a = s->hp, .lda = cols,
                                                          .b = s->p, .ldb = cols, .transpose_b = true, .c = s->inner,
                                                          .ldc = n, .alpha = 1});
}

/* The eigenvectors of the inner product's largest values, largest first: z [rank][dim]. In f64: these lie close. */
static qnt_status leading(const struct space *s, float *z)
{
    lapack_int n = (lapack_int)s->dim, rank = (lapack_int)s->l->rank, found = 0, *words = NULL;
    size_t dim = s->dim, size = 32 * dim;
    double *t = NULL, *value, *vector, *work;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(s->ctx, dim * dim + dim + dim * s->l->rank + size, &t));
    QNT_CHECK(QNTI_NEW_RAW(s->ctx, 12 * dim + 2 * s->l->rank, &words));
    value = t + dim * dim;
    vector = value + dim;
    work = vector + dim * s->l->rank;
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j < dim; j++)
            t[i * dim + j] = ((double)s->inner[i * dim + j] + (double)s->inner[j * dim + i]) / 2;
    if (LAPACKE_dsyevr_work(LAPACK_COL_MAJOR, 'V', 'I', 'L', n, t, n, 0, 0, n - rank + 1, n, 0, &found, value, vector,
                            n, words + 12 * dim, work, (lapack_int)size, words, 12 * n) != 0 ||
        found != rank)
        QNT_CHECK(qnti_fail(s->ctx, QNT_SINGULAR, "no leading vectors of a matrix of order %zu", dim));
    for (size_t j = 0; j < s->l->rank; j++)
        for (size_t i = 0; i < dim; i++)
            z[j * dim + i] = (float)vector[(s->l->rank - 1 - j) * dim + i];
cleanup:
    qnti_free(s->ctx, t);
    qnti_free(s->ctx, words);
    return status;
}

/* A and B of u [rank][rows]. */
static qnt_status share_out(const struct space *s, const float *u)
{
    const struct qnti_low_rank *l = s->l;
    QNT_TRY(times_e(s, l->rank, u, 1, l->b));
    for (size_t j = 0; j < l->rank; j++) {
        float *b = l->b + j * l->cols;
        double square = 0, root;
        for (size_t c = 0; c < l->cols; c++)
            square += (double)b[c] * (double)b[c];
        root = sqrt(sqrt(square));
        for (size_t r = 0; r < l->rows; r++)
            l->a[r * l->rank + j] = (float)((double)u[j * l->rows + r] * root);
        for (size_t c = 0; c < l->cols; c++)
            b[c] = root > 0 ? (float)((double)b[c] / root) : 0;
    }
    return QNT_OK;
}

static qnt_status split(struct space *s)
{
    size_t rank = s->l->rank, rows = s->l->rows, dim = s->dim;
    float *z = NULL, *u = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(s->ctx, rank * dim, &z));
    QNT_CHECK(leading(s, z));
    if (!s->all) {
        struct qnti_gemm g = {.m = rank, .n = rows, .k = dim, .a = z, .lda = dim, .b = s->basis, .ldb = rows,
                              .ldc = rows, .alpha = 1};
        QNT_CHECK(QNTI_NEW_RAW(s->ctx, rank * rows, &u));
        g.c = u;
        QNT_CHECK(qnti_gemm_parallel(s->ctx, &g));
    }
    status = share_out(s, u ? u : z);
cleanup:
    qnti_free(s->ctx, z);
    qnti_free(s->ctx, u);
    return status;
}

static float largest(const float *x, size_t n, size_t stride)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i * stride]));
    return most;
}

qnt_status qnti_low_rank(qnt_context *ctx, const struct qnti_low_rank *l)
{
    struct space s = {.ctx = ctx, .l = l, .h_scale = 1};
    float most = largest(l->e, l->rows * l->cols, 1);
    qnt_status status;
    if (l->h)
        s.h_scale = 1 / fmaxf(largest(l->h, l->cols, l->cols + 1), FLT_MIN);
    if (most < FLT_MIN) { /* nothing is left, or so little that its reciprocal means nothing */
        memset(l->a, 0, l->rows * l->rank * sizeof *l->a);
        memset(l->b, 0, l->rank * l->cols * sizeof *l->b);
        return QNT_OK;
    }
    s.e_scale = 1 / most;
    QNT_CHECK(make_basis(&s));
    QNT_CHECK(project(&s));
    status = split(&s);
cleanup:
    qnti_free(ctx, s.basis);
    qnti_free(ctx, s.p);
    qnti_free(ctx, s.hp);
    qnti_free(ctx, s.inner);
    return status;
}
