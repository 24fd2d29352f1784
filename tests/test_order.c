/*
 * test_order.c - orders of columns for solvers: by falling diagonal of the Hessian, group by group, natural.
 */
#include "layer_support.h"
#include "method/method.h"

static void check_order(const struct qnti_job *job, const uint32_t *want, size_t n)
{
    for (size_t j = 0; j < n; j++)
        assert_int_equal(job->order[j], want[j]);
}

static void test_order(void **state)
{
    enum { IN = 11 };
    static const float sizes[IN] = {1, 3, 2, 3, 1, 1, 5, 0.5f, 3, 9, 8};
    static const uint32_t falling[IN] = {9, 10, 6, 1, 3, 8, 2, 0, 4, 5, 7},
                          aware[IN] = {6, 8, 7, 1, 2, 0, 3, 4, 5, 9, 10};
    qnt_context *ctx = context_of(1);
    struct qnti_job job = {.ctx = ctx, .kernels = qnti_context_kernels(ctx)};
    qnt_calib *calib;
    float x[IN * IN] = {0};
    const struct qnti_damping damping = {.share = 0.01};
    (void)state;
    for (size_t j = 0; j < IN; j++)
        x[j * IN + j] = sizes[j];
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_HESSIAN, IN, &calib));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, IN, IN)));
    job.calib = calib;
    assert_ok(ctx, qnti_job_factor(&job, QNTI_ORDER_ACT, 3, damping));
    check_order(&job, falling, IN);
    assert_ok(ctx, qnti_job_factor(&job, QNTI_ORDER_GROUP_AWARE, 3, damping));
    check_order(&job, aware, IN);
    assert_ok(ctx, qnti_job_factor(&job, QNTI_ORDER_NATURAL, 3, damping));
    assert_null(job.order);
    qnti_free(ctx, job.hessian);
    qnti_free(ctx, job.dead);
    qnti_free(ctx, job.order);
    qnti_free(ctx, job.factor);
    qnt_calib_destroy(calib);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
