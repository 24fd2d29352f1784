/*
 * triangular.c - the matrix halved again and again, so that nearly all work is gemm with a long inner side.
 *
 *   [A11 B ; . A22]:  A22 = R22 R22^T,  B <- B R22^-T,  A11 <- A11 - B B^T = R11 R11^T
 *   [R11 B ; . R22]:  the inverse is [R11^-1  -R11^-1 B R22^-1 ; . R22^-1]
 *
 * The steps on B are independent for strips of its rows (or columns), the
 * update of A11 for its tiles. Only blocks of at most LEAF go to LAPACK.
 */
#include "linalg/triangular.h"

#include <cblas.h>
#include <lapacke.h>
#include "linalg/blas.h"

enum { LEAF = 256, DIAGONAL = 128, NARROWEST = 64, WIDEST = 256, STRIPS = 8 };

/* One halving: A11 (p, p) at a, B (p, m) behind it, A22 (m, m) below that; rows of all are `ld` apart. */
struct halves {
    qnt_context *ctx;
    float *a, *b, *d;
    size_t p, m, ld;
};

static struct halves halve(qnt_context *ctx, float *a, size_t n, size_t ld)
{
    size_t p = qnti_ceil_div(n / 2, LEAF) * LEAF;
    return (struct halves){ctx, a, a + p, a + p * ld + p, p, n - p, ld};
}

/* Width of the strips that n rows or columns are cut into. */
static size_t strip_width(size_t n)
{
    return qnti_max(NARROWEST, qnti_min(WIDEST, qnti_ceil_div(qnti_ceil_div(n, STRIPS), NARROWEST) * NARROWEST));
}

static qnt_status for_strips(struct halves *h, size_t n, qnti_task task)
{
    return qnti_parallel(h->ctx, qnti_ceil_div(n, strip_width(n)), task, h);
}

/* Where strip `index` of n begins; how wide it is. */
static size_t strip(size_t n, size_t index, size_t *width)
{
    size_t begin = index * strip_width(n);
    *width = qnti_min(strip_width(n), n - begin);
    return begin;
}

/* C (m, n) += alpha A B, or A B^T; the rows of all are `ld` apart. */
static void add_product(const struct halves *h, size_t m, size_t n, size_t k, float alpha, const float *a,
                        const float *b, bool transpose_b, float *c)
{
    qnti_gemm_one(&(struct qnti_gemm){.m = m, .n = n, .k = k, .a = a, .lda = h->ld, .b = b, .ldb = h->ld,
                                      .transpose_b = transpose_b, .c = c, .ldc = h->ld, .alpha = alpha, .beta = 1});
}

/* Some rows X of B become X R22^-T: their last columns first. */
static qnt_status divide_rows(void *arg, size_t index)
{
    const struct halves *h = arg;
    size_t rows, row = strip(h->p, index, &rows);
    float *x = h->b + row * h->ld;
    for (size_t end = h->m; end > 0;) {
        size_t j = (end - 1) / DIAGONAL * DIAGONAL;
        const float *r = h->d + j * h->ld;
        add_product(h, rows, end - j, h->m - end, -1, x + end, r + end, true, x + j);
        cblas_strsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, (int)rows, (int)(end - j), 1,
                    r + j, (int)h->ld, x + j, (int)h->ld);
        end = j;
    }
    return QNT_OK;
}

/* A tile of A11 -= B B^T; tiles are numbered along the rows of the upper triangle. */
static qnt_status subtract_tile(void *arg, size_t index)
{
    const struct halves *h = arg;
    size_t across = qnti_ceil_div(h->p, strip_width(h->p)), i = 0, row, col, rows, cols;
    for (; index >= across - i; i++)
        index -= across - i;
    row = strip(h->p, i, &rows);
    col = strip(h->p, i + index, &cols);
    if (row == col) /* below the diagonal nothing is touched */
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (int)rows, (int)h->m, -1, h->b + row * h->ld, (int)h->ld,
                    1, h->a + row * h->ld + row, (int)h->ld);
    else
        add_product(h, rows, cols, h->m, -1, h->b + row * h->ld, h->b + col * h->ld, true,
                    h->a + row * h->ld + col);
    return QNT_OK;
}

/* A small one by LAPACK: backwards, A = R R^T is L L^T; column-major, the lower triangle is the upper one. */
static qnt_status cholesky_leaf(qnt_context *ctx, float *a, size_t n, size_t ld, bool *ok)
{
    float *l;
    QNT_TRY(QNTI_NEW_RAW(ctx, n * n, &l));
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++)
            l[(n - 1 - i) * n + n - 1 - j] = a[i * ld + j];
    *ok = LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)n, l, (lapack_int)n) == 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++)
            a[i * ld + j] = l[(n - 1 - i) * n + n - 1 - j];
    qnti_free(ctx, l);
    return QNT_OK;
}

static qnt_status cholesky(qnt_context *ctx, float *a, size_t n, size_t ld, bool *ok)
{
    struct halves h;
    size_t across;
    if (n <= LEAF)
        return cholesky_leaf(ctx, a, n, ld, ok);
    h = halve(ctx, a, n, ld);
    across = qnti_ceil_div(h.p, strip_width(h.p));
    QNT_TRY(cholesky(ctx, h.d, h.m, ld, ok));
    if (!*ok)
        return QNT_OK;
    QNT_TRY(for_strips(&h, h.p, divide_rows));
    QNT_TRY(qnti_parallel(ctx, across * (across + 1) / 2, subtract_tile, &h));
    return cholesky(ctx, h.a, h.p, ld, ok);
}

qnt_status qnti_cholesky(qnt_context *ctx, float *a, size_t n, bool *ok)
{
    return cholesky(ctx, a, n, n, ok);
}

/* Some rows X of B become X A22: their last columns first, which need all before them. */
static qnt_status multiply_rows(void *arg, size_t index)
{
    const struct halves *h = arg;
    size_t rows, row = strip(h->p, index, &rows);
    float *x = h->b + row * h->ld;
    for (size_t end = h->m; end > 0;) {
        size_t j = (end - 1) / DIAGONAL * DIAGONAL;
        cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, (int)rows, (int)(end - j), 1,
                    h->d + j * h->ld + j, (int)h->ld, x + j, (int)h->ld);
        add_product(h, rows, end - j, j, 1, x, h->d + j, false, x + j);
        end = j;
    }
    return QNT_OK;
}

/* Some columns X of B become -A11 X: their first rows first, which need all behind them. */
static qnt_status multiply_columns(void *arg, size_t index)
{
    const struct halves *h = arg;
    size_t cols, col = strip(h->m, index, &cols);
    float *x = h->b + col;
    for (size_t i = 0, end; i < h->p; i = end) {
        const float *u = h->a + i * h->ld;
        end = qnti_min(i + DIAGONAL, h->p);
        cblas_strmm(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, (int)(end - i), (int)cols, -1,
                    u + i, (int)h->ld, x + i * h->ld, (int)h->ld);
        add_product(h, end - i, cols, h->p - end, -1, u + end, x + end * h->ld, false, x + i * h->ld);
    }
    return QNT_OK;
}

static qnt_status invert(qnt_context *ctx, float *r, size_t n, size_t ld, bool *ok)
{
    struct halves h;
    if (n <= LEAF) {
        *ok = LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'L', 'N', (lapack_int)n, r, (lapack_int)ld) == 0;
        return QNT_OK;
    }
    h = halve(ctx, r, n, ld);
    QNT_TRY(invert(ctx, h.d, h.m, ld, ok));
    if (*ok)
        QNT_TRY(invert(ctx, h.a, h.p, ld, ok));
    if (!*ok)
        return QNT_OK;
    QNT_TRY(for_strips(&h, h.p, multiply_rows));
    return for_strips(&h, h.m, multiply_columns);
}

qnt_status qnti_invert_upper(qnt_context *ctx, float *r, size_t n, bool *ok)
{
    return invert(ctx, r, n, n, ok);
}
