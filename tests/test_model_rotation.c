/*
 * test_model_rotation.c - a model whose residual stream is rotated computes what it did: matrices, views, whole runs.
 */
#include "plan_support.h"

#include "linalg/hadamard.h"
#include "nn/nn.h"
#include "nn_support.h"

/* --- matrices --- */

static void test_orders(void **state)
{
    (void)state;
    assert_int_equal(qnti_hadamard_order(4096), 1);
    assert_int_equal(qnti_hadamard_order(5632), 44);
    assert_int_equal(qnti_hadamard_order(11008), 172);
    assert_int_equal(qnti_hadamard_order(13824), 108);
    assert_int_equal(qnti_hadamard_order(14336), 28);
    assert_int_equal(qnti_hadamard_order(576), 36);
    assert_int_equal(qnti_hadamard_order(100), 0);
    assert_int_equal(qnti_hadamard_order(0), 0);
    assert_int_equal(qnti_hadamard_divisor(100), 20);
    assert_int_equal(qnti_hadamard_divisor(7), 1);
}

static void test_matrices(void **state)
{
    static const size_t orders[] = {12, 20, 28, 36, 40, 44, 52, 60, 108, 140, 156, 172};
    qnt_context *ctx = quiet();
    (void)state;
    for (size_t k = 0; k < COUNT(orders); k++) {
        size_t n = orders[k];
        float *h = malloc(n * n * sizeof *h);
        assert_non_null(h);
        assert_int_equal(qnti_hadamard_matrix(ctx, n, h), QNT_OK);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = 0;
                for (size_t c = 0; c < n; c++)
                    sum += (double)h[i * n + c] * (double)h[j * n + c];
                if (fabs(sum - (i == j)) > 1e-5)
                    fail_msg("order %zu: rows %zu and %zu have product %g", n, i, j, sum);
            }
        free(h);
    }
    assert_int_equal(qnti_hadamard_matrix(ctx, 24, &(float){0}), QNT_UNSUPPORTED);
    qnt_context_destroy(ctx);
}

/* --- the view --- */

static const char *const names[QNTI_ROLES] = {[QNTI_HEAD] = "head"};
static const struct qnti_family family = {.names = names};

static const struct qnti_config configs[] = {
    {.hidden = 40, .ffn = 48, .blocks = 2, .heads = 5, .kv_heads = 1, .head_dim = 8, .vocab = 23, .tied_head = true},
    {.hidden = 64, .ffn = 40, .blocks = 3, .heads = 4, .kv_heads = 2, .head_dim = 16, .vocab = 31, .qkv_bias = true,
     .o_bias = true, .mlp_bias = true},
};

enum { TOY_TOKENS = 20 };

static float *logits_of(const struct qnti_checkpoint *m)
{
    const struct qnti_config *c = &m->config;
    float *x = malloc(TOY_TOKENS * c->hidden * sizeof *x), *logits = malloc(TOY_TOKENS * c->vocab * sizeof *logits);
    float *head;
    int32_t ids[TOY_TOKENS];
    assert_true(x && logits);
    for (size_t t = 0; t < TOY_TOKENS; t++)
        ids[t] = (int32_t)(t * 7 % c->vocab);
    assert_int_equal(qnti_model_forward(m, NULL, ids, 1, TOY_TOKENS, x, NULL, NULL), QNT_OK);
    assert_int_equal(qnti_head_load(m, &head), QNT_OK);
    assert_int_equal(qnti_logits(m, head, x, TOY_TOKENS, logits), QNT_OK);
    qnti_free(m->ctx, head);
    free(x);
    return logits;
}

static void check_view(qnt_context *ctx, const struct qnti_checkpoint *model, size_t block)
{
    const struct qnti_config *c = &model->config;
    const struct qnti_checkpoint *view;
    struct qnti_transform stream = {0};
    uint64_t seed = 5;
    float *before = logits_of(model), *after, largest = 0, *rows;
    const struct qnti_weight *down;
    assert_int_equal(qnti_rotation_hadamard(ctx, c->hidden, block, &seed, &stream.rotation), QNT_OK);
    assert_int_equal(qnti_checkpoint_rotate(model, &stream, &view), QNT_OK);
    qnti_transform_free(ctx, &stream);
    assert_false(view->config.tied_head);
    assert_non_null(qnti_checkpoint_weight(view, 0, QNTI_HEAD));
    after = logits_of(view);
    for (size_t i = 0; i < TOY_TOKENS * c->vocab; i++)
        largest = fmaxf(largest, fabsf(before[i]));
    for (size_t i = 0; i < TOY_TOKENS * c->vocab; i++)
        if (!(fabsf(before[i] - after[i]) <= 1e-4f * largest))
            fail_msg("logit %zu is %g, %g before the rotation", i, (double)after[i], (double)before[i]);
    down = qnti_checkpoint_weight(view, 1, QNTI_DOWN); /* some rows alone are those of the whole */
    rows = malloc((c->hidden + 3) * c->ffn * sizeof *rows);
    assert_non_null(rows);
    assert_int_equal(qnti_weight_rows(ctx, down, 0, c->hidden, rows), QNT_OK);
    assert_int_equal(qnti_weight_rows(ctx, down, 5, 3, rows + c->hidden * c->ffn), QNT_OK);
    assert_memory_equal(rows + 5 * c->ffn, rows + c->hidden * c->ffn, 3 * c->ffn * sizeof *rows);
    assert_int_equal(qnti_weight_rows(ctx, down, c->hidden - 1, 2, rows), QNT_INVALID);
    free(rows);
    free(before);
    free(after);
    qnti_checkpoint_rotated_free(view);
}

static void test_view(void **state)
{
    qnt_context *ctx = quiet();
    (void)state;
    for (size_t i = 0; i < COUNT(configs); i++) {
        struct qnti_config c = configs[i];
        struct qnti_checkpoint *model;
        c.norm_eps = 1e-5f;
        c.rope.theta = 10000;
        model = toy_model(ctx, &c, 17 + i);
        for (size_t w = 0; w < 2 * c.blocks * QNTI_ROLES; w++)
            if (model->weights[w].plain.data)
                model->weights[w].name = "toy.weight";
        model->family = &family;
        check_view(ctx, model, 0);
        check_view(ctx, model, 8);
        toy_free(model);
    }
    qnt_context_destroy(ctx);
}

/* --- runs --- */

static const qnt_quantize_options by_rotation = {.method = "rotation:bits=8", .format = "native", .output = "out/o"};

/* 8 bits lose next to nothing, so the rotated model, down's run-time rotation included, is the model. */
static void check_run(const char *dtype)
{
    struct shape shape = PLAIN;
    qnt_quantize_options options = by_rotation;
    static const char *const none[] = {"*o_proj*", "*down_proj*", "*v_proj*"};
    shape.dtype = dtype;
    make(&shape);
    json_decref(report_of(&options));
    assert_true(kl_of("out/o") < 1e-3);
    options.exclude = none; /* what stays float is rotated all the same */
    options.exclude_count = COUNT(none);
    options.output = "out/floats";
    json_decref(report_of(&options));
    assert_true(kl_of("out/floats") < 1e-3);
    options = by_rotation;
    options.method = "rotation,rtn";
    options.format = "gguf:q8_0";
    options.output = "out/o.gguf";
    options.embedding_type = options.output_type = "f16";
    json_decref(report_of(&options));
    assert_true(kl_of("out/o.gguf") < 1e-3);
    unmake(NULL);
}

static void test_run(void **state)
{
    (void)state;
    check_run("F32");
    check_run("F16");
    check_run("BF16");
}

static void test_plan(void **state)
{
    qnt_quantize_options options = by_rotation;
    struct session s;
    qnt_plan_line line;
    size_t noted = 0;
    (void)state;
    make_plain();
    options.method = "rotation";
    options.format = "gguf:q4_0";
    begin(&s, NULL, &options);
    for (size_t i = 0; qnt_plan_get_line(s.plan, i, &line); i++)
        noted += strstr(line.note, "its inputs are not rotated") != NULL;
    assert_int_equal(noted, 2); /* down of both blocks */
    end(&s);
    options = by_rotation;
    options.method = "rotation:rotate_block=48,bits=8";
    assert_int_equal(status_of(&options, "blocks of 48 channels do not divide a width of 64"), QNT_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders), cmocka_unit_test(test_matrices), cmocka_unit_test(test_view),
        TEST(test_run),                TEST(test_plan),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
