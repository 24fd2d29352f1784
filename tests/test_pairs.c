/*
 * test_pairs.c - weights that make up for what was lost before them: the closed form, orders, dead channels,
 * transforms.
 */
#include "layer_support.h"

#include "method/feedback.h"

enum { N = 12, OUT = 5, COUNT_TOKENS = 64, DEAD = 7 };

/* x_fp = B^T x for every token, so that W* = W B^T whatever x is; B is near the identity. */
struct pairs {
    float x[COUNT_TOKENS * N], x_fp[COUNT_TOKENS * N], b[N * N], w[OUT * N];
    qnt_calib *calib;
};

static void make_pairs(qnt_context *ctx, struct pairs *p)
{
    float *random = random_tokens(COUNT_TOKENS + N + OUT, N, 3);
    memcpy(p->x, random, sizeof p->x);
    memcpy(p->w, random + (COUNT_TOKENS + N) * N, sizeof p->w);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            p->b[i * N + j] = i == DEAD || j == DEAD ? 0 : 0.1f * random[(COUNT_TOKENS + i) * N + j];
    for (size_t i = 0; i < N; i++)
        p->b[i * N + i] += 1;
    memset(p->x_fp, 0, sizeof p->x_fp);
    for (size_t t = 0; t < COUNT_TOKENS; t++) {
        p->x[t * N + DEAD] = 0;
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < N; j++)
                p->x_fp[t * N + j] += p->x[t * N + i] * p->b[i * N + j];
    }
    free(random);
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_HESSIAN | QNTI_NEED_PAIRS, N, &p->calib));
    assert_ok(ctx, qnti_calib_add_f32(p->calib, p->x, p->x_fp, COUNT_TOKENS));
}

static void free_job(struct qnti_job *job)
{
    qnti_free(job->ctx, job->hessian);
    qnti_free(job->ctx, job->dead);
    qnti_free(job->ctx, job->order);
    qnti_free(job->ctx, job->factor);
}

/* Makes up for a share with the factor in that order; the weight should have gone that share of the way to W B^T. */
static void check_share(qnt_context *ctx, const struct pairs *p, enum qnti_order order, double share)
{
    const struct qnti_damping damping = {.share = 1e-7};
    struct qnti_job job = {.ctx = ctx, .kernels = qnti_context_kernels(ctx), .calib = p->calib};
    float w[OUT * N];
    memcpy(w, p->w, sizeof w);
    job.weight = w;
    job.rows = OUT;
    assert_ok(ctx, qnti_job_factor(&job, order, 0, damping));
    assert_ok(ctx, qnti_make_up(&job, share));
    for (size_t r = 0; r < OUT; r++)
        for (size_t i = 0; i < N; i++) {
            double want = 0, own = (double)p->w[r * N + i];
            for (size_t j = 0; j < N; j++)
                want += (double)p->w[r * N + j] * (double)p->b[i * N + j];
            want = i == DEAD ? own : own + share * (want - own);
            if (fabs((double)w[r * N + i] - want) > 2e-4)
                fail_msg("order %d, share %g: weight (%zu, %zu) is %g, not %g", (int)order, share, r, i,
                         (double)w[r * N + i], want);
        }
    free_job(&job);
}

static void test_closed_form(void **state)
{
    qnt_context *ctx = context_of(2);
    struct pairs p;
    (void)state;
    make_pairs(ctx, &p);
    check_share(ctx, &p, QNTI_ORDER_NATURAL, 1);
    check_share(ctx, &p, QNTI_ORDER_ACT, 1);
    check_share(ctx, &p, QNTI_ORDER_ACT, 0.25);
    check_share(ctx, &p, QNTI_ORDER_NATURAL, 0);
    qnt_calib_destroy(p.calib);
    qnt_context_destroy(ctx);
}

/* C of transformed pairs by algebra equals C measured on them. */
static void test_transformed(void **state)
{
    qnt_context *ctx = context_of(2);
    struct pairs p;
    struct qnti_transform t = {0};
    float scale[N], y[COUNT_TOKENS * N], y_fp[COUNT_TOKENS * N], scratch[N], *derived, *measured;
    struct qnti_job job = {.ctx = ctx}, direct = {.ctx = ctx};
    qnt_calib *moved;
    uint64_t seed = 9;
    (void)state;
    make_pairs(ctx, &p);
    for (size_t i = 0; i < N; i++)
        scale[i] = 0.5f + (float)i / N;
    t.scale = scale;
    assert_ok(ctx, qnti_rotation_hadamard(ctx, N, 4, &seed, &t.rotation));
    for (size_t k = 0; k < COUNT_TOKENS; k++) {
        qnti_transform_forward(&t, N, p.x + k * N, y + k * N, scratch);
        qnti_transform_forward(&t, N, p.x_fp + k * N, y_fp + k * N, scratch);
    }
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_HESSIAN | QNTI_NEED_PAIRS, N, &moved));
    assert_ok(ctx, qnti_calib_add_f32(moved, y, y_fp, COUNT_TOKENS));
    job.calib = p.calib;
    assert_ok(ctx, qnti_job_transform(&job, &t));
    assert_ok(ctx, qnti_job_cross(&job, &derived));
    direct.calib = moved;
    assert_ok(ctx, qnti_job_cross(&direct, &measured));
    for (size_t i = 0; i < N * N; i++)
        assert_true(fabsf(derived[i] - measured[i]) < 1e-4f);
    qnti_free(ctx, derived);
    qnti_free(ctx, measured);
    t.shift = scale;
    assert_int_equal(qnti_job_transform(&job, &t), QNT_OK);
    assert_int_equal(qnti_job_cross(&job, &derived), QNT_UNSUPPORTED);
    t.shift = t.scale = NULL;
    qnti_transform_free(ctx, &t);
    qnt_calib_destroy(moved);
    qnt_calib_destroy(p.calib);
    qnt_context_destroy(ctx);
}

/* What the layer gives on x comes closer to what the original gave on x_fp. */
static void test_output(void **state)
{
    static const char *const recipes[] = {"gptq:bits=8,group_size=0", "gptq:bits=8,group_size=0,qep=1",
                                          "gptq:bits=8,group_size=0,refine_passes=2,qep=1,act_order=true"};
    qnt_context *ctx = context_of(2);
    double error[COUNT(recipes)] = {0};
    struct pairs p;
    (void)state;
    make_pairs(ctx, &p);
    for (size_t k = 0; k < COUNT(recipes); k++) {
        qnt_recipe *recipe = recipe_of(ctx, recipes[k]);
        qnt_layer layer = {.weight = qnt_matrix_f32(p.w, OUT, N), .calib = p.calib};
        qnt_qlinear *q;
        float *w;
        assert_ok(ctx, qnt_quantize(ctx, recipe, &layer, &q));
        w = dequantized(ctx, q);
        for (size_t t = 0; t < COUNT_TOKENS; t++)
            for (size_t r = 0; r < OUT; r++) {
                double d = 0;
                for (size_t i = 0; i < N; i++)
                    d += (double)w[r * N + i] * (double)p.x[t * N + i] -
                         (double)p.w[r * N + i] * (double)p.x_fp[t * N + i];
                error[k] += d * d;
            }
        free(w);
        qnt_qlinear_destroy(q);
        qnt_recipe_destroy(recipe);
    }
    assert_true(error[1] < error[0] / 50);
    assert_true(error[2] < error[0] / 50);
    qnt_calib_destroy(p.calib);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_closed_form), cmocka_unit_test(test_transformed),
                                       cmocka_unit_test(test_output)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
