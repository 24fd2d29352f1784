/*
 * test_linalg.c - the factor of an inverse Hessian, its ladder of damping, small systems and products, against f64.
 */
#include "layer_support.h"
#include "linalg/blas.h"
#include "linalg/factor.h"

/* --- factor --- */

static void check_factor(qnt_context *ctx, size_t n)
{
    float *x = random_tokens(3 * n + 5, n, 77 + n), *h = hessian_of(x, 3 * n + 5, n, 0), *damped = NEW(n * n, float),
          *u = NEW(n * n, float);
    double damp = 0.02, mean = qnti_mean_diagonal(h, n), most = 0, *inverse;
    assert_ok(ctx, qnti_inverse_factor(ctx, h, n, &damp, u));
    assert_true(damp == 0.02);
    memcpy(damped, h, n * n * sizeof *h);
    for (size_t i = 0; i < n; i++)
        damped[i * n + i] = (float)((double)h[i * n + i] + damp * mean);
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
    static const size_t orders[] = {1, 2, 3, 17, 64, 130};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(orders); i++)
        check_factor(ctx, orders[i]);
    qnt_context_destroy(ctx);
}

static void test_ladder(void **state)
{
    qnt_context *ctx = context_of(1);
    float twins[4] = {4, 4, 4, 4}, slightly[4] = {1, 1.5f, 1.5f, 1}, indefinite[4] = {1, 3, 3, 1}, zero[4] = {0},
          bad[4] = {1, NAN, NAN, 1}, negative[1] = {-1}, u[4];
    double damp = 0;
    (void)state;
    assert_ok(ctx, qnti_inverse_factor(ctx, twins, 2, &damp, u));
    assert_true(damp == 0.01);
    damp = 0;
    assert_ok(ctx, qnti_inverse_factor(ctx, slightly, 2, &damp, u));
    assert_true(damp >= 0.5 && damp < 0.53);
    damp = 3; /* a caller's own, beyond the ladder */
    assert_ok(ctx, qnti_inverse_factor(ctx, indefinite, 2, &damp, u));
    assert_true(damp == 3);
    damp = 0.01;
    assert_fails(ctx, qnti_inverse_factor(ctx, indefinite, 2, &damp, u), QNT_SINGULAR, "order 2");
    assert_fails(ctx, qnti_inverse_factor(ctx, bad, 2, &damp, u), QNT_SINGULAR, "no Cholesky factor");
    assert_fails(ctx, qnti_inverse_factor(ctx, zero, 2, &damp, u), QNT_SINGULAR, "diagonal is 0");
    assert_fails(ctx, qnti_inverse_factor(ctx, negative, 1, &damp, u), QNT_SINGULAR, "diagonal is -1");
    qnt_context_destroy(ctx);
}

static void test_small_systems(void **state)
{
    double a[9] = {4, 1, 0, 1, 3, 1, 0, 1, 2}, b[3] = {1, 2, 3}, c[4] = {1, 2, 2, 1}, d[2] = {1, 1};
    (void)state;
    assert_true(qnti_solve_spd(a, b, 3)); /* 4x+y=1, x+3y+z=2, y+2z=3 */
    assert_true(fabs(4 * b[0] + b[1] - 1) < 1e-12 && fabs(b[0] + 3 * b[1] + b[2] - 2) < 1e-12);
    assert_true(fabs(b[1] + 2 * b[2] - 3) < 1e-12);
    assert_false(qnti_solve_spd(c, d, 2));
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_factor), cmocka_unit_test(test_ladder),
                                       cmocka_unit_test(test_small_systems), cmocka_unit_test(test_gemm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
