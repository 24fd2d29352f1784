/*
 * test_model_nn.c - the forward pass: every step of a block against loops in f64, on shapes that meet all tails of the
 * tiles; the same bits whatever the threads; steps that compose to the block; exp and softmax at their edges.
 */
#include "nn_support.h"

#include "base/number.h"
#include "nn/expf.h"
#include "nn/operators.h"

/* f32 against f64: rounding of sums of some hundred terms, times what a block makes of it. */
static const double tolerance = 2e-5;

static qnt_context *new_context(int threads)
{
    qnt_context *ctx;
    qnt_context_options options = {.threads = threads, .blas_one_thread = true};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    return ctx;
}

static void assert_close(const char *what, const float *x, const double *y, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(y[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)x[i] - y[i]) <= tolerance * fmax(1, largest)))
            fail_msg("%s[%zu] is %.9g, expected %.9g", what, i, (double)x[i], y[i]);
}

/* Factors 8, 1, 4 over a context of 64 make all three regions of llama3 within a head of 16. */
static float llama3_divisors[8];

static void fill_llama3_divisors(void)
{
    for (size_t i = 0; i < COUNT(llama3_divisors); i++) {
        double wave = 6.283185307179586 * pow(10000, 2.0 * (double)i / 16), s = (64 / wave - 1) / 3;
        llama3_divisors[i] = (float)(s >= 1 ? 1 : s <= 0 ? 8 : 1 / ((1 - s) / 8 + s));
    }
}

/* --- steps against f64 --- */

static const struct shape {
    struct qnti_config config;
    size_t tokens;
    bool llama3;
} shapes[] = {
    {{.hidden = 8, .ffn = 12, .heads = 1, .kv_heads = 1, .head_dim = 8}, 1, false},
    {{.hidden = 8, .ffn = 5, .heads = 4, .kv_heads = 2, .head_dim = 2}, 65, false},
    {{.hidden = 33, .ffn = 61, .heads = 6, .kv_heads = 2, .head_dim = 10, .qkv_bias = true}, 64, false},
    {{.hidden = 24, .ffn = 40, .heads = 3, .kv_heads = 1, .head_dim = 16, .sliding_window = 1}, 70, true},
    {{.hidden = 40, .ffn = 24, .heads = 4, .kv_heads = 4, .head_dim = 16, .sliding_window = 50, .o_bias = true}, 200,
     false},
    {{.hidden = 32, .ffn = 48, .heads = 4, .kv_heads = 2, .head_dim = 16, .sliding_window = 131, .qkv_bias = true,
      .o_bias = true, .mlp_bias = true}, 150, true},
    {{.hidden = 33, .ffn = 61, .heads = 6, .kv_heads = 2, .head_dim = 10, .norm_base = 1, .qk_norm = true,
      .post_norms = true, .activation = QNTI_GELU_TANH, .sliding_window = 30, .local_rope.theta = 500,
      .attention_cap = 2, .score_scale = 0.4f}, 70, false},
    {{.hidden = 28, .ffn = 30, .heads = 4, .kv_heads = 4, .head_dim = 7, .norm = QNTI_NORM_LAYER, .ungated = true,
      .learned_positions = true, .context = 80, .activation = QNTI_RELU, .qkv_bias = true, .o_bias = true,
      .mlp_bias = true}, 70, false},
    {{.hidden = 30, .ffn = 18, .heads = 2, .kv_heads = 1, .head_dim = 20, .fused_qkv = true, .fused_gate_up = true,
      .activation = QNTI_GELU_QUICK, .rope.rotated = 14, .rope.attention_factor = 1.2f}, 66, false},
    {{.hidden = 28, .ffn = 30, .heads = 4, .kv_heads = 2, .head_dim = 8, .activation = QNTI_MISH, .ungated = true},
     20, false},
    {{.hidden = 28, .ffn = 30, .heads = 4, .kv_heads = 2, .head_dim = 8, .activation = QNTI_GELU}, 20, false},
};

static struct qnti_config complete(const struct shape *shape)
{
    struct qnti_config c = shape->config;
    c.blocks = 1;
    c.vocab = 19;
    c.norm_eps = 1e-5f;
    c.rope.theta = 10000;
    c.rope.divisors = shape->llama3 ? llama3_divisors : NULL;
    return c;
}

/* Runs the steps one by one, each on what the one before it gave; checks every site. */
static void check_steps(const struct qnti_checkpoint *m, const struct qnti_block *block, float *x, size_t tokens,
                        double *const expected[QNTI_SITES])
{
    static const char *const names[QNTI_SITES] = {"input of qkv", "input of o", "input of gate_up", "input of down"};
    struct qnti_workspace *w;
    float *in = x;
    assert_int_equal(qnti_workspace_create(m, tokens, &w), QNT_OK);
    for (size_t s = 0; s < QNTI_SITES; s++) {
        size_t n = tokens * qnti_site_width(&m->config, (enum qnti_site)s);
        float *out = malloc(n * sizeof *out);
        assert_non_null(out);
        assert_int_equal(qnti_site_input(block, w, (enum qnti_site)s, in, tokens, out), QNT_OK);
        assert_close(names[s], out, expected[s], n);
        if (in != x)
            free(in);
        in = out;
        if (s % 2 == 0)
            continue;
        assert_int_equal(qnti_site_residual(block, w, (enum qnti_site)s, in, tokens, x), QNT_OK);
        free(in);
        in = x;
    }
    qnti_workspace_free(w);
}

static void check_shape(qnt_context *ctx, const struct shape *shape)
{
    struct qnti_config c = complete(shape);
    struct qnti_checkpoint *m = toy_model(ctx, &c, 7);
    size_t tokens = shape->tokens, n = tokens * c.hidden;
    uint64_t state = 3;
    float *x = random_array(&state, n, 3, 0), *whole = malloc(n * sizeof *whole);
    double *plain = new_doubles(n), *site[QNTI_SITES];
    struct qnti_workspace *w;
    struct qnti_block block;
    assert_non_null(whole);
    memcpy(whole, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        plain[i] = (double)x[i];
    plain_sites_create(&c, tokens, site);
    plain_block(m, 0, plain, tokens, site);
    assert_int_equal(qnti_block_load(m, 0, &block), QNT_OK);
    check_steps(m, &block, x, tokens, site);
    assert_close("output of the block", x, plain, n);
    assert_int_equal(qnti_workspace_create(m, tokens + 3, &w), QNT_OK);
    assert_int_equal(qnti_block_forward(&block, w, whole, tokens), QNT_OK);
    assert_memory_equal(whole, x, n * sizeof *x); /* the steps are the block, in a larger workspace too */
    qnti_workspace_free(w);
    qnti_block_free(&block);
    plain_sites_free(site);
    free(plain);
    free(whole);
    free(x);
    toy_free(m);
}

static void steps_against_f64(void **state)
{
    qnt_context *ctx = new_context(2);
    (void)state;
    fill_llama3_divisors();
    for (size_t i = 0; i < COUNT(shapes); i++)
        check_shape(ctx, &shapes[i]);
    qnt_context_destroy(ctx);
}

/* --- threads --- */

/* Large enough for several tiles of a gemm, several runs of attention, several runs of rows. */
static const struct qnti_config wide = {.hidden = 96, .ffn = 530, .blocks = 2, .heads = 6, .kv_heads = 3,
                                        .head_dim = 16, .vocab = 600, .norm_eps = 1e-5f, .rope.theta = 10000,
                                        .tied_head = true};
enum { WIDE_TOKENS = 300, WIDE_SEQUENCES = 2 };

static float *logits_with(int threads)
{
    qnt_context *ctx = new_context(threads);
    struct qnti_checkpoint *m = toy_model(ctx, &wide, 5);
    size_t tokens = WIDE_SEQUENCES * WIDE_TOKENS;
    float *x = malloc(tokens * wide.hidden * sizeof *x), *logits = malloc(tokens * wide.vocab * sizeof *logits), *head;
    int32_t ids[WIDE_SEQUENCES * WIDE_TOKENS];
    assert_non_null(x);
    assert_non_null(logits);
    for (size_t i = 0; i < tokens; i++)
        ids[i] = (int32_t)(i * i % wide.vocab);
    assert_int_equal(qnti_model_forward(m, ids, WIDE_SEQUENCES, WIDE_TOKENS, x, NULL, NULL), QNT_OK);
    assert_int_equal(qnti_head_load(m, &head), QNT_OK);
    assert_int_equal(qnti_logits(m, head, x, tokens, logits), QNT_OK);
    qnti_free(ctx, head);
    free(x);
    toy_free(m);
    qnt_context_destroy(ctx);
    return logits;
}

static void same_bits_with_any_threads(void **state)
{
    float *one = logits_with(1);
    (void)state;
    for (int threads = 2; threads <= 8; threads += 3) {
        float *more = logits_with(threads);
        assert_memory_equal(one, more, WIDE_SEQUENCES * WIDE_TOKENS * wide.vocab * sizeof *one);
        free(more);
    }
    free(one);
}

static void count_progress(void *user, size_t done, size_t total)
{
    size_t *last = user;
    assert_int_equal(done, *last + 1);
    assert_int_equal(total, 2 * wide.blocks);
    *last = done;
}

static void whole_model_against_f64(void **state)
{
    qnt_context *ctx = new_context(2);
    struct qnti_checkpoint *m = toy_model(ctx, &wide, 6);
    enum { TOKENS = 40 };
    int32_t ids[2 * TOKENS];
    float *x = malloc(2 * TOKENS * wide.hidden * sizeof *x), *head;
    float *logits = malloc(TOKENS * wide.vocab * sizeof *logits);
    size_t progress = 0;
    (void)state;
    assert_non_null(x);
    assert_non_null(logits);
    for (size_t i = 0; i < 2 * TOKENS; i++)
        ids[i] = (int32_t)(i * 37 % wide.vocab);
    assert_int_equal(qnti_model_forward(m, ids, 2, TOKENS, x, count_progress, &progress), QNT_OK);
    assert_int_equal(progress, 2 * wide.blocks);
    assert_int_equal(qnti_head_load(m, &head), QNT_OK);
    for (size_t s = 0; s < 2; s++) {
        double *plain = plain_logits(m, ids + s * TOKENS, TOKENS);
        assert_int_equal(qnti_logits(m, head, x + s * TOKENS * wide.hidden, TOKENS, logits), QNT_OK);
        assert_close("logits", logits, plain, TOKENS * wide.vocab);
        free(plain);
    }
    qnti_free(ctx, head);
    free(logits);
    free(x);
    toy_free(m);
    qnt_context_destroy(ctx);
}

/* --- errors --- */

static void refusals(void **state)
{
    qnt_context *ctx = new_context(1);
    struct qnti_checkpoint *m = toy_model(ctx, &wide, 1);
    struct qnti_workspace *w;
    struct qnti_block block;
    float x[5 * 96] = {0};
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    assert_int_equal(qnti_embed(m, (const int32_t[]){0, 600}, 2, 0, x), QNT_INVALID);
    assert_string_equal(qnt_context_message(ctx), "token 1 has id 600, but toy.weight has 600 rows");
    assert_int_equal(qnti_embed(m, (const int32_t[]){-1}, 1, 0, x), QNT_INVALID);
    assert_int_equal(qnti_workspace_create(m, 4, &w), QNT_OK);
    assert_int_equal(qnti_block_load(m, 1, &block), QNT_OK);
    assert_int_equal(qnti_block_forward(&block, w, x, 5), QNT_INVALID);
    assert_string_equal(qnt_context_message(ctx), "a sequence of 5 tokens in a workspace for 4");
    qnti_block_free(&block);
    qnti_workspace_free(w);
    assert_int_equal(qnti_workspace_create(m, SIZE_MAX / 4, &w), QNT_NO_MEMORY);
    assert_null(w);
    assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    toy_free(m);
    qnt_context_destroy(ctx);
}

/* --- exp and softmax --- */

static void exp_within_one_ulp(void **state)
{
    (void)state;
    for (uint32_t u = 0; u < 0x42b17217u; u += 997) /* up to ln of the largest f32, both signs */
        for (uint32_t sign = 0; sign < 2; sign++) {
            float x = qnti_float(u | sign << 31);
            double exact = exp((double)x), ulp = ldexp(1, ilogb(fmax(exact, 0x1p-126)) - 23);
            if (!(fabs((double)qnti_expf(x) - exact) <= ulp))
                fail_msg("exp(%.9g) is %.9g, expected %.9g", (double)x, (double)qnti_expf(x), exact);
        }
}

static void exp_at_the_edges(void **state)
{
    (void)state;
    assert_true(qnti_expf(0) == 1 && qnti_expf(-0.0f) == 1);
    assert_true(qnti_expf(88.73f) == INFINITY && qnti_expf(1e30f) == INFINITY && qnti_expf(INFINITY) == INFINITY);
    assert_true(qnti_expf(-103.2f) == 0x1p-149f); /* the least subnormal, then nothing */
    assert_true(qnti_expf(-104) == 0 && qnti_expf(-1e30f) == 0 && qnti_expf(-INFINITY) == 0);
    assert_true(isnan(qnti_expf(NAN)));
}

static void softmax_of_all_lengths(void **state)
{
    uint64_t random = 11;
    (void)state;
    for (size_t n = 1; n < 70; n++) {
        float *x = random_array(&random, n, 40, 500); /* e^500 would overflow */
        double *expected = new_doubles(n), sum = 0, largest = -INFINITY;
        for (size_t i = 0; i < n; i++)
            largest = fmax(largest, (double)x[i]);
        for (size_t i = 0; i < n; i++)
            sum += expected[i] = exp((double)x[i] - largest);
        for (size_t i = 0; i < n; i++)
            expected[i] /= sum;
        assert_true((double)qnti_row_max(x, n) == largest);
        assert_true(fabs(qnti_row_exp_sum(x, n, (float)largest) - sum) < 1e-6 * sum);
        qnti_softmax_row(x, n);
        assert_close("softmax", x, expected, n);
        free(expected);
        free(x);
    }
}

static void sigmoid_at_the_edges(void **state)
{
    qnt_context *ctx = new_context(1);
    float gate[] = {-1e30f, -100, -90, 0, 90, 1e30f}, up[] = {2, 2, 2, 2, 2, 2};
    (void)state;
    assert_int_equal(qnti_activate(ctx, QNTI_SILU, up, 2, 3, gate), QNT_OK);
    assert_true(gate[0] == 0 && fabsf(gate[1]) < 1e-37f && fabsf(gate[2]) < 1e-35f && gate[3] == 0);
    assert_true(gate[4] == 180 && gate[5] == 2e30f);
    qnt_context_destroy(ctx);
}

/* Every activation far out is 0 or its argument, its slope 0 or 1; near 0 both are those of f64. */
static void activations_at_the_edges(void **state)
{
    static const float far[] = {-1e30f, -3000, -100, 100, 3000, 1e30f};
    qnt_context *ctx = new_context(1);
    (void)state;
    for (enum qnti_activation a = 0; a < QNTI_ACTIVATIONS; a++) {
        float x[6], slope[6], ones[6] = {1, 1, 1, 1, 1, 1}, near[81], by[81], unit[81];
        memcpy(x, far, sizeof far);
        memcpy(slope, far, sizeof far);
        assert_int_equal(qnti_activate(ctx, a, NULL, 1, 6, x), QNT_OK);
        assert_int_equal(qnti_activate_backward(ctx, a, ones, 1, 6, slope, NULL), QNT_OK);
        for (size_t i = 0; i < 6; i++) {
            assert_true(fabsf(x[i] - (i < 3 ? 0 : far[i])) < 1e-30f);
            assert_true(fabsf(slope[i] - (i < 3 ? 0 : 1)) < 1e-30f);
        }
        for (size_t i = 0; i < 81; i++) {
            near[i] = by[i] = ((float)i - 40.5f) / 8;
            unit[i] = 1;
        }
        assert_int_equal(qnti_activate(ctx, a, NULL, 3, 27, near), QNT_OK);
        assert_int_equal(qnti_activate_backward(ctx, a, unit, 3, 27, by, NULL), QNT_OK);
        for (size_t i = 0; i < 81; i++) {
            double at = ((double)i - 40.5) / 8, h = 1e-5;
            double value = plain_activation(a, at);
            double difference = (plain_activation(a, at + h) - plain_activation(a, at - h)) / (2 * h);
            assert_true(fabs((double)near[i] - value) < 1e-6 * fmax(1, fabs(value)));
            assert_true(fabs((double)by[i] - difference) < 2e-6);
        }
    }
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_against_f64),
        cmocka_unit_test(same_bits_with_any_threads),
        cmocka_unit_test(whole_model_against_f64),
        cmocka_unit_test(refusals),
        cmocka_unit_test(exp_within_one_ulp),
        cmocka_unit_test(exp_at_the_edges),
        cmocka_unit_test(softmax_of_all_lengths),
        cmocka_unit_test(sigmoid_at_the_edges),
        cmocka_unit_test(activations_at_the_edges),
    };
    return cmocka_run_group_tests_name("nn", tests, NULL, NULL);
}
