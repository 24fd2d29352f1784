/*
 * test_model_backward.c - gradients of the loss by every linear's weight and by the input, against differences of a
 * plain f64 forward pass in random directions; the same bits whatever the threads; losses at their edges.
 */
#include "nn_support.h"

#include "nn/operators.h"

enum { DIRECTIONS = 20 };

static const double most_relative = 1e-4, step = 1e-4;

static qnt_context *new_context(int threads)
{
    qnt_context *ctx;
    qnt_context_options options = {.threads = threads, .blas_one_thread = true};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    return ctx;
}

static const float divisors[8] = {1, 1, 1.5f, 2, 3, 8, 8, 8};

static const bool second_global[2] = {false, true};

static const struct shape {
    struct qnti_config config;
    size_t tokens;
} shapes[] = {
    {{.hidden = 32, .ffn = 48, .heads = 4, .kv_heads = 2, .head_dim = 8, .vocab = 37}, 70},
    {{.hidden = 24, .ffn = 40, .heads = 3, .kv_heads = 1, .head_dim = 16, .vocab = 50, .sliding_window = 20,
      .qkv_bias = true, .o_bias = true, .mlp_bias = true, .tied_head = true,
      .rope.divisors = (float *)(uintptr_t)divisors}, 90},
    {{.hidden = 8, .ffn = 520, .heads = 2, .kv_heads = 2, .head_dim = 4, .vocab = 11, .qkv_bias = true}, 260},
    {{.hidden = 8, .ffn = 12, .heads = 2, .kv_heads = 1, .head_dim = 4, .vocab = 9}, 2},
    /* norms of heads, norms behind the residual with 1 + w, both caps, a window in one of two blocks */
    {{.hidden = 24, .ffn = 28, .heads = 4, .kv_heads = 2, .head_dim = 10, .vocab = 21, .norm_base = 1, .qk_norm = true,
      .post_norms = true, .activation = QNTI_GELU_TANH, .sliding_window = 9, .global = (bool *)(uintptr_t)second_global,
      .local_rope.theta = 500, .attention_cap = 2, .logit_cap = 3, .score_scale = 0.4f, .embedding_scale = 1.5f,
      .tied_head = true}, 40},
    /* LayerNorm, learned positions, no gate */
    {{.hidden = 20, .ffn = 36, .heads = 2, .kv_heads = 2, .head_dim = 10, .vocab = 17, .norm = QNTI_NORM_LAYER,
      .learned_positions = true, .position_offset = 2, .context = 40, .ungated = true, .activation = QNTI_GELU,
      .qkv_bias = true, .o_bias = true, .mlp_bias = true, .tied_head = true}, 33},
    {{.hidden = 20, .ffn = 36, .heads = 2, .kv_heads = 2, .head_dim = 10, .vocab = 17, .norm = QNTI_NORM_LAYER,
      .learned_positions = true, .context = 40, .ungated = true, .activation = QNTI_GELU_QUICK, .fused_qkv = true,
      .qkv_bias = true, .o_bias = true, .mlp_bias = true}, 33},
    /* fused linears, a part of each head turns, longer */
    {{.hidden = 16, .ffn = 20, .heads = 4, .kv_heads = 2, .head_dim = 6, .vocab = 19, .fused_qkv = true,
      .fused_gate_up = true, .activation = QNTI_MISH, .rope.rotated = 4, .rope.attention_factor = 1.3f}, 37},
    {{.hidden = 16, .ffn = 20, .heads = 4, .kv_heads = 2, .head_dim = 6, .vocab = 19, .ungated = true,
      .activation = QNTI_RELU, .qk_norm = true}, 30},
};

static struct qnti_config complete(const struct shape *shape)
{
    struct qnti_config c = shape->config;
    c.blocks = 2;
    c.norm_eps = 1e-5f;
    c.rope.theta = 10000;
    return c;
}

/* --- the loss in f64, from the embedded input x [tokens][hidden] on --- */

static double plain_loss(const struct qnti_checkpoint *m, const double *x, const int32_t *ids, size_t tokens)
{
    const struct qnti_config *c = &m->config;
    size_t n = tokens * c->hidden;
    double *stream = new_doubles(n), *logits = new_doubles(tokens * c->vocab), *site[QNTI_SITES], loss = 0;
    plain_sites_create(c, tokens, site);
    memcpy(stream, x, n * sizeof *x);
    for (size_t b = 0; b < c->blocks; b++)
        plain_block(m, b, stream, tokens, site);
    plain_head(m, stream, tokens, logits);
    for (size_t t = 0; t + 1 < tokens; t++) {
        double sum = 0, largest = -INFINITY;
        for (size_t i = 0; i < c->vocab; i++)
            largest = fmax(largest, logits[t * c->vocab + i]);
        for (size_t i = 0; i < c->vocab; i++)
            sum += exp(logits[t * c->vocab + i] - largest);
        loss += largest + log(sum) - logits[t * c->vocab + (size_t)ids[t + 1]];
    }
    plain_sites_free(site);
    free(stream);
    free(logits);
    return loss / (double)(tokens - 1);
}

/* --- the gradients of the library --- */

struct gradients {
    const struct qnti_config *config;
    size_t block;
    float *weight[2][QNTI_ROLES];        /* [block][role] (out, in) */
    float *x;                            /* [tokens][hidden] by the embedded input */
    double loss;
};

static qnt_status take(void *user, enum qnti_role role, size_t first, size_t rows, const float *gradient)
{
    struct gradients *g = user;
    size_t cols = toy_cols(g->config, role);
    memcpy(g->weight[g->block][role] + first * cols, gradient, rows * cols * sizeof *gradient);
    return QNT_OK;
}

static bool has_linear(const struct qnti_config *c, enum qnti_role role)
{
    return qnti_is_linear(role) && qnti_has_weight(c, role);
}

static void gradients_free(struct gradients *g)
{
    for (size_t b = 0; b < 2; b++)
        for (size_t r = 0; r < QNTI_ROLES; r++)
            free(g->weight[b][r]);
    free(g->x);
}

static float *new_floats(size_t n)
{
    float *x = calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Forward, keeping the blocks' inputs; backward from the loss. */
static void run(const struct qnti_checkpoint *m, const int32_t *ids, size_t tokens, struct gradients *g)
{
    size_t n = tokens * m->config.hidden;
    float *input[3] = {new_floats(n), new_floats(n), new_floats(n)};
    const struct qnti_gradients wanted = {UINT32_MAX, take, g};
    struct qnti_workspace *w;
    struct qnti_backward *b;
    struct qnti_loss *l;
    struct qnti_block block;
    *g = (struct gradients){.config = &m->config, .x = new_floats(n)};
    for (size_t i = 0; i < 2; i++)
        for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++)
            g->weight[i][role] = new_floats(toy_rows(g->config, role) * toy_cols(g->config, role));
    assert_int_equal(qnti_workspace_create(m, tokens, &w), QNT_OK);
    assert_int_equal(qnti_backward_create(m, tokens, &b), QNT_OK);
    assert_int_equal(qnti_loss_create(m, &l), QNT_OK);
    assert_int_equal(qnti_embed(m, ids, tokens, 0, input[0]), QNT_OK);
    for (size_t i = 0; i < 2; i++) {
        memcpy(input[i + 1], input[i], n * sizeof(float));
        assert_int_equal(qnti_block_load(m, i, &block), QNT_OK);
        assert_int_equal(qnti_block_forward(&block, w, input[i + 1], tokens), QNT_OK);
        qnti_block_free(&block);
    }
    assert_int_equal(qnti_loss_backward(l, input[2], ids, tokens, &g->loss, g->x), QNT_OK);
    for (g->block = 2; g->block-- > 0;) {
        assert_int_equal(qnti_block_load(m, g->block, &block), QNT_OK);
        assert_int_equal(qnti_block_backward(&block, w, b, input[g->block], tokens, &wanted, g->x), QNT_OK);
        qnti_block_free(&block);
    }
    qnti_loss_free(l);
    qnti_backward_free(b);
    qnti_workspace_free(w);
    for (size_t i = 0; i < 3; i++)
        free(input[i]);
}

/* --- directions --- */

/*
 * The slope along a direction against the difference of losses. A direction may be nearly at right angles to the
 * gradient: what it has then is measured by a tenth of what one has on average.
 */
static void compare(const char *what, double slope, double difference, double usual, double *largest)
{
    double error = fabs(slope - difference) / fmax(fmax(fabs(difference), 0.1 * usual), 1e-10);
    *largest = fmax(*largest, error);
    if (!(error <= most_relative))
        fail_msg("%s: slope %.9g, difference %.9g, usual %g", what, slope, difference, usual);
}

/* The weights move to w +- step d in f32; what they really moved counts. */
static void check_weight(const struct qnti_checkpoint *m, const struct qnti_weight *w, const float *gradient,
                         const double *x, const int32_t *ids, size_t tokens, uint64_t *random, double *largest)
{
    size_t n = w->rows * w->cols;
    float *data = (float *)(uintptr_t)w->plain.data, *kept = new_floats(n);
    memcpy(kept, data, n * sizeof *data);
    for (size_t k = 0; k < DIRECTIONS; k++) {
        float *d = random_array(random, n, 1, 0);
        double slope = 0, squares = 0, moved = 0, up, down;
        for (size_t i = 0; i < n; i++)
            data[i] = kept[i] + (float)step * d[i];
        up = plain_loss(m, x, ids, tokens);
        for (size_t i = 0; i < n; i++) {
            float high = data[i];
            double whole;
            data[i] = kept[i] - (float)step * d[i];
            whole = (double)high - (double)data[i];
            slope += (double)gradient[i] * whole;
            squares += (double)gradient[i] * (double)gradient[i];
            moved += whole * whole;
        }
        down = plain_loss(m, x, ids, tokens);
        compare("weight", slope, up - down, sqrt(squares * moved / (double)n), largest);
        free(d);
    }
    memcpy(data, kept, n * sizeof *data);
    free(kept);
}

static void check_input(const struct qnti_checkpoint *m, const float *gradient, double *x, const int32_t *ids,
                        size_t tokens, uint64_t *random, double *largest)
{
    size_t n = tokens * m->config.hidden;
    for (size_t k = 0; k < DIRECTIONS; k++) {
        float *d = random_array(random, n, 1, 0);
        double slope = 0, squares = 0, moved = 0, up, down;
        for (size_t i = 0; i < n; i++) {
            slope += (double)gradient[i] * 2 * step * (double)d[i];
            squares += (double)gradient[i] * (double)gradient[i];
            moved += 4 * step * step * (double)d[i] * (double)d[i];
            x[i] += step * (double)d[i];
        }
        up = plain_loss(m, x, ids, tokens);
        for (size_t i = 0; i < n; i++)
            x[i] -= 2 * step * (double)d[i];
        down = plain_loss(m, x, ids, tokens);
        for (size_t i = 0; i < n; i++)
            x[i] += step * (double)d[i];
        compare("input", slope, up - down, sqrt(squares * moved / (double)n), largest);
        free(d);
    }
}

static void make_ids(int32_t *ids, size_t tokens, size_t vocab)
{
    for (size_t t = 0; t < tokens; t++)
        ids[t] = (int32_t)((t * t + 3 * t + 1) % vocab);
}

static void check_shape(const struct shape *shape, double *largest)
{
    qnt_context *ctx = new_context(2);
    struct qnti_config c = complete(shape);
    struct qnti_checkpoint *m = toy_model(ctx, &c, 7);
    double *x;
    int32_t ids[300];
    uint64_t random = 17;
    struct gradients g;
    make_ids(ids, shape->tokens, c.vocab);
    x = plain_embed(m, ids, shape->tokens);
    run(m, ids, shape->tokens, &g);
    assert_true(fabs(g.loss - plain_loss(m, x, ids, shape->tokens)) < 1e-5 * fmax(1, g.loss));
    check_input(m, g.x, x, ids, shape->tokens, &random, largest);
    for (size_t b = 0; b < 2; b++)
        for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++)
            if (has_linear(&c, role))
                check_weight(m, qnti_checkpoint_weight(m, b, role), g.weight[b][role], x, ids, shape->tokens, &random,
                             largest);
    gradients_free(&g);
    free(x);
    toy_free(m);
    qnt_context_destroy(ctx);
}

static void against_differences(void **state)
{
    double largest = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++)
        check_shape(&shapes[i], &largest);
    print_message("largest relative error %.3g\n", largest);
}

/* --- threads --- */

static void same_bits_with_any_threads(void **state)
{
    const struct qnti_config wide = {.hidden = 96, .ffn = 530, .blocks = 2, .heads = 6, .kv_heads = 3, .head_dim = 16,
                                     .vocab = 600, .norm_eps = 1e-5f, .rope.theta = 10000};
    enum { TOKENS = 290 };
    int32_t ids[TOKENS];
    struct gradients one = {0};
    (void)state;
    make_ids(ids, TOKENS, wide.vocab);
    for (int threads = 1; threads <= 8; threads += 3) {
        qnt_context *ctx = new_context(threads);
        struct qnti_checkpoint *m = toy_model(ctx, &wide, 5);
        struct gradients g;
        run(m, ids, TOKENS, &g);
        for (size_t i = 0; threads > 1 && i < 2 * QNTI_ROLES; i++) {
            enum qnti_role role = (enum qnti_role)(i / 2);
            if (has_linear(&wide, role))
                assert_memory_equal(one.weight[i % 2][role], g.weight[i % 2][role],
                                    toy_rows(&wide, role) * toy_cols(&wide, role) * sizeof(float));
        }
        if (threads > 1) {
            assert_memory_equal(one.x, g.x, TOKENS * wide.hidden * sizeof(float));
            assert_true(one.loss == g.loss);
            gradients_free(&g);
        } else {
            one = g;
        }
        toy_free(m);
        qnt_context_destroy(ctx);
    }
    gradients_free(&one);
}

/* --- edges --- */

/* A loss of large logits is finite, its gradient sums to 0. */
static void losses_at_the_edges(void **state)
{
    qnt_context *ctx = new_context(1);
    float logits[] = {1000, 0, -1000, 0, 0, 0, -1e30f, 1e30f, 0};
    const int32_t target[] = {2, 1, 1};
    double loss[3];
    (void)state;
    assert_int_equal(qnti_cross_entropy(ctx, target, 3, 3, 0.5f, logits, loss), QNT_OK);
    assert_true(loss[0] == 2000 && fabs(loss[1] - log(3)) < 1e-7 && loss[2] == 0);
    assert_true(logits[0] == 0.5f && logits[1] == 0 && logits[2] == -0.5f);
    assert_true(fabsf(logits[3] - 1.f / 6) < 1e-7f && fabsf(logits[4] + 1.f / 3) < 1e-7f);
    assert_true(logits[6] == 0 && logits[7] == 0 && logits[8] == 0);
    qnt_context_destroy(ctx);
}

static void refusals(void **state)
{
    qnt_context *ctx = new_context(1);
    struct qnti_config c = complete(&shapes[3]);
    struct qnti_checkpoint *m = toy_model(ctx, &c, 1);
    size_t held = qnt_context_bytes(ctx, NULL);
    const struct qnti_gradients none = {0};
    struct qnti_workspace *w;
    struct qnti_backward *b;
    struct qnti_block block;
    float x[8 * 8] = {0};
    (void)state;
    assert_int_equal(qnti_workspace_create(m, 8, &w), QNT_OK);
    assert_int_equal(qnti_backward_create(m, 4, &b), QNT_OK);
    assert_int_equal(qnti_block_load(m, 0, &block), QNT_OK);
    assert_int_equal(qnti_block_backward(&block, w, b, x, 5, &none, x), QNT_INVALID);
    assert_string_equal(qnt_context_message(ctx), "a sequence of 5 tokens in memory for 4");
    qnti_block_free(&block);
    qnti_backward_free(b);
    qnti_workspace_free(w);
    assert_int_equal(qnti_backward_create(m, SIZE_MAX / 4, &b), QNT_NO_MEMORY);
    assert_null(b);
    assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    toy_free(m);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_differences),
        cmocka_unit_test(same_bits_with_any_threads),
        cmocka_unit_test(losses_at_the_edges),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("backward", tests, NULL, NULL);
}
