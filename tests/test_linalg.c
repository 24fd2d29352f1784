/*
 * test_linalg.c - the factor of an inverse Hessian, its ladder of damping, products and sums of
 * outer products, against f64.
 */
#include "layer_support.h"
#include "linalg/blas.h"
#include "linalg/factor.h"
#include "linalg/gram.h"
#include "linalg/triangular.h"

/* --- factor --- */

static void check_factor(qnt_context *ctx, size_t n, double shrinkage)
{
    float *x = random_tokens(3 * n + 5, n, 77 + n), *h = hessian_of(x, 3 * n + 5, n, 0), *damped = NEW(n * n, float),
          *u = NEW(n * n, float);
    struct qnti_damping damping = {0.02, shrinkage};
    double mean = qnti_mean_diagonal(h, n), most = 0, *inverse;
    assert_ok(ctx, qnti_inverse_factor(ctx, h, n, &damping, u));
    assert_true(damping.share == 0.02 && damping.shrinkage == shrinkage);
    memcpy(damped, h, n * n * sizeof *h);
    for (size_t i = 0; i < n; i++)
        damped[i * n + i] = (float)((double)h[i * n + i] / (1 - shrinkage) + 0.02 * mean);
    inverse = inverse_f64(damped, n);
    for (size_t i = 0; i < n * n; i++)
        most = fmax(most, fabs(inverse[i]));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++)
                sum += (double)u[k * n + i] * (double)u[k * n + j];
            assert_true(fabs(sum - inverse[i * n + j]) <= 1e-3 * most);
            if (j < i)
                assert_true(u[i * n + j] == 0);
        }
    free(x);
    free(h);
    free(damped);
    free(u);
    free(inverse);
}

static void test_factor(void **state)
{
    static const size_t orders[] = {1, 2, 3, 17, 64, 130, 257};
    qnt_context *ctx = context_of(2);
    (void)state;
    for (size_t i = 0; i < COUNT(orders); i++)
        for (int k = 0; k < 3; k++)
            check_factor(ctx, orders[i], 0.25 * k);
    qnt_context_destroy(ctx);
}

/* Larger than an oracle can follow: R R^T is A again and R R^-1 is 1, as far as some rows show. */
static void test_large_factor(void **state)
{
    enum { N = 1300 };
    float *a = NEW(N * N, float), *r = NEW(N * N, float), *u = NEW(N * N, float);
    qnt_context *ctx = context_of(2);
    bool ok;
    (void)state;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i * N + j] = (float)(pow(0.95, abs(i - j)) * (1 + i % 3) * (1 + j % 3));
    memcpy(r, a, N * N * sizeof *r);
    assert_ok(ctx, qnti_cholesky(ctx, r, N, &ok));
    assert_true(ok);
    memcpy(u, r, N * N * sizeof *r);
    assert_ok(ctx, qnti_invert_upper(ctx, u, N, &ok));
    assert_true(ok);
    for (size_t i = 0; i < N; i += 93)
        for (size_t j = i; j < N; j += 7) {
            double product = 0, identity = 0, size = sqrt((double)a[i * N + i] * (double)a[j * N + j]);
            for (size_t k = j; k < N; k++)
                product += (double)r[i * N + k] * (double)r[j * N + k];
            for (size_t k = i; k <= j; k++)
                identity += (double)r[i * N + k] * (double)u[k * N + j];
            assert_true(fabs(product - (double)a[i * N + j]) <= 1e-5 * size);
            assert_true(fabs(identity - (i == j)) <= 1e-3);
        }
    for (size_t i = 0; i < N; i += 13)
        assert_memory_equal(r + i * N, a + i * N, i * sizeof *r); /* below the diagonal nothing is touched */
    a[700 * N + 700] = -1;
    assert_ok(ctx, qnti_cholesky(ctx, a, N, &ok));
    assert_false(ok);
    free(a);
    free(r);
    free(u);
    qnt_context_destroy(ctx);
}

static void test_ladder(void **state)
{
    qnt_context *ctx = context_of(1);
    float twins[4] = {4, 4, 4, 4}, slightly[4] = {1, 1.5f, 1.5f, 1}, indefinite[4] = {1, 3, 3, 1}, zero[4] = {0},
          bad[4] = {1, NAN, NAN, 1}, negative[1] = {-1}, u[4];
    struct qnti_damping damping = {0};
    (void)state;
    assert_ok(ctx, qnti_inverse_factor(ctx, twins, 2, &damping, u));
    assert_true(damping.share == 0.01);
    damping.share = 0;
    assert_ok(ctx, qnti_inverse_factor(ctx, slightly, 2, &damping, u));
    assert_true(damping.share >= 0.5 && damping.share < 0.53);
    damping.share = 3; /* a caller's own, beyond the ladder */
    assert_ok(ctx, qnti_inverse_factor(ctx, indefinite, 2, &damping, u));
    assert_true(damping.share == 3);
    damping.share = 0.01;
    assert_fails(ctx, qnti_inverse_factor(ctx, indefinite, 2, &damping, u), QNT_SINGULAR, "order 2");
    assert_fails(ctx, qnti_inverse_factor(ctx, bad, 2, &damping, u), QNT_SINGULAR, "no Cholesky factor");
    assert_fails(ctx, qnti_inverse_factor(ctx, zero, 2, &damping, u), QNT_SINGULAR, "diagonal is 0");
    assert_fails(ctx, qnti_inverse_factor(ctx, negative, 1, &damping, u), QNT_SINGULAR, "diagonal is -1");
    qnt_context_destroy(ctx);
}

/* --- products --- */

static void check_gemm(qnt_context *ctx, size_t m, size_t n, size_t k, bool ta, bool tb, float alpha, float beta)
{
    size_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1, ldc = n + 2;
    float *a = random_floats((ta ? k : m) * lda, 3, 1), *b = random_floats((tb ? n : k) * ldb, 4, 1),
          *c = random_floats(m * ldc, 5, 1), *before = NEW(m * ldc, float);
    struct qnti_gemm g = {m, n, k, a, lda, ta, b, ldb, tb, c, ldc, alpha, beta};
    memcpy(before, c, m * ldc * sizeof *c);
    assert_ok(ctx, qnti_gemm_parallel(ctx, &g));
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t l = 0; l < k; l++)
                sum += (double)(ta ? a[l * lda + i] : a[i * lda + l]) * (double)(tb ? b[j * ldb + l] : b[l * ldb + j]);
            sum = (double)alpha * sum + (double)beta * (double)before[i * ldc + j];
            assert_true(fabs(sum - (double)c[i * ldc + j]) < 1e-4 * sqrt((double)k + 1));
        }
        assert_memory_equal(c + i * ldc + n, before + i * ldc + n, 2 * sizeof *c);
    }
    free(a);
    free(b);
    free(c);
    free(before);
}

static void test_gemm(void **state)
{
    qnt_context *ctx = context_of(2);
    (void)state;
    for (int t = 0; t < 4; t++) {
        check_gemm(ctx, 257, 513, 9, t & 1, t & 2, 1, 0);
        check_gemm(ctx, 3, 5, 2, t & 1, t & 2, -1.5f, 1);
        check_gemm(ctx, 300, 1, 31, t & 1, t & 2, 1, 0.5f);
    }
    check_gemm(ctx, 1, 1, 1, false, false, 1, 0);
    check_gemm(ctx, 512, 1030, 5, false, true, 2, 1);
    qnt_context_destroy(ctx);
}

/* --- sums of outer products --- */

/* Several bands, several strips of a band; whole numbers, so that every sum is exact. */
static void check_gram(qnt_context *ctx, size_t n, bool symmetric)
{
    enum { TOKENS = 5 };
    float *x = NEW(TOKENS * n, float), *y = NEW(TOKENS * n, float), *got = NEW(n * n, float);
    double *row = NEW(n, double);
    struct qnti_gram *gram;
    for (size_t i = 0; i < TOKENS * n; i++) {
        x[i] = (float)(i * 7 % 11) - 5;
        y[i] = symmetric ? x[i] : (float)(i * 5 % 13) - 6;
    }
    assert_ok(ctx, qnti_gram_create(ctx, n, symmetric, &gram));
    assert_ok(ctx, qnti_gram_add(ctx, gram, y, x, 2));
    assert_ok(ctx, qnti_gram_add(ctx, gram, y + 2 * n, x + 2 * n, TOKENS - 2));
    qnti_gram_merge(gram, gram);
    assert_ok(ctx, qnti_gram_read(gram, 0.5, got));
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(qnti_gram_row(gram, i, row), symmetric ? i + 1 : n);
        for (size_t j = 0; j < n; j++) {
            float sum = 0;
            for (size_t t = 0; t < TOKENS; t++)
                sum += y[t * n + i] * x[t * n + j];
            assert_true(got[i * n + j] == sum);
            if (j <= i || !symmetric)
                assert_true(row[j] == 2 * (double)sum);
        }
    }
    qnti_gram_free(ctx, gram);
    free(x);
    free(y);
    free(got);
    free(row);
}

static void test_gram(void **state)
{
    static const size_t orders[] = {1, 31, 513, 1100, 2700};
    qnt_context *ctx = context_of(2);
    (void)state;
    for (size_t i = 0; i < COUNT(orders); i++) {
        check_gram(ctx, orders[i], true);
        check_gram(ctx, orders[i], false);
    }
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_factor), cmocka_unit_test(test_large_factor),
                                       cmocka_unit_test(test_ladder), cmocka_unit_test(test_gemm),
                                       cmocka_unit_test(test_gram)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
