/*
 * test_model_eval.c - which tokens the protocols put where and score, the figures against f64, what is refused, and
 * every allocation failing in turn.
 */
#include "nn_support.h"

#include "eval/eval.h"

static qnt_context *new_context(void)
{
    qnt_context *ctx;
    qnt_context_options options = {.threads = 2, .blas_one_thread = true};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    return ctx;
}

static const struct qnti_eval_protocol *protocol(qnt_context *ctx, const char *name)
{
    const struct qnti_eval_protocol *p;
    assert_int_equal(qnti_eval_protocol_find(ctx, name, &p), QNT_OK);
    return p;
}

/* --- windows --- */

enum { BOS = 99 };

static const int32_t text[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13};

static const struct {
    const char *protocol;
    bool add_bos;
    size_t count, chunks;      /* of the text's tokens, of windows */
    size_t windows, first;
    int32_t ids[16];
} cuts[] = {
    {"llamacpp", true, 8, 0, 2, 2, {BOS, 1, 2, 3, BOS, 5, 6, 7}},
    {"llama.cpp", true, 13, 0, 3, 2, {BOS, 1, 2, 3, BOS, 5, 6, 7, BOS, 9, 10, 11}},
    {"llama.cpp", true, 7, 0, 2, 2, {BOS, 1, 2, 3, BOS, 5, 6, 7}},
    {"llamacpp", false, 8, 0, 2, 2, {1, 2, 3, 4, 5, 6, 7, 8}},
    {"llamacpp", true, 13, 1, 1, 2, {BOS, 1, 2, 3}},
    {"gptq", true, 11, 0, 3, 0, {BOS, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
    {"gptq", false, 11, 0, 2, 0, {1, 2, 3, 4, 5, 6, 7, 8}},
    {"gptq", true, 3, 9, 1, 0, {BOS, 1, 2, 3}},
    {"bos", true, 8, 0, 2, 0, {BOS, 1, 2, 3, BOS, 4, 5, 6}},
    {"bos", false, 3, 0, 1, 0, {BOS, 1, 2, 3}},
};

static void windows_of_the_protocols(void **state)
{
    qnt_context *ctx = new_context();
    (void)state;
    for (size_t i = 0; i < COUNT(cuts); i++) {
        struct qnti_eval_options options = {.protocol = protocol(ctx, cuts[i].protocol), .ctx = 4,
                                            .chunks = cuts[i].chunks, .bos = BOS, .add_bos = cuts[i].add_bos};
        struct qnti_eval_windows w;
        assert_int_equal(qnti_eval_windows(ctx, text, cuts[i].count, &options, &w), QNT_OK);
        assert_int_equal(w.windows, cuts[i].windows);
        assert_int_equal(w.first, cuts[i].first);
        assert_int_equal(w.ctx, 4);
        assert_memory_equal(w.ids, cuts[i].ids, w.windows * w.ctx * sizeof *w.ids);
        qnti_eval_windows_free(ctx, &w);
    }
    qnt_context_destroy(ctx);
}

static const struct {
    const char *protocol;
    size_t ctx, count;
    int64_t bos;
    bool add_bos;
    const char *message;
} refused[] = {
    {"llamacpp", 4, 6, BOS, true, "the text has 7 tokens, but protocol llamacpp with windows of 4 needs 8 or more"},
    {"llamacpp", 0, 13, -1, false,
     "the text has 13 tokens, but protocol llamacpp with windows of 512 needs 1024 or more"},
    {"gptq", 5, 4, -1, false, "the text has 4 tokens, but protocol gptq with windows of 5 needs 5 or more"},
    {"bos", 5, 3, BOS, true, "the text has 3 tokens, but protocol bos with windows of 5 needs 4 or more"},
    {"bos", 4, 13, -1, false, "protocol bos needs a BOS token, but the vocabulary has none"},
    {"gptq", 4, 13, -1, true, "protocol gptq needs a BOS token, but the vocabulary has none"},
    {"gptq", 2, 13, -1, false, "windows of 2 tokens; they must have 3 or more"},
};

static void refusals(void **state)
{
    qnt_context *ctx = new_context();
    const struct qnti_eval_protocol *p;
    (void)state;
    for (size_t i = 0; i < COUNT(refused); i++) {
        struct qnti_eval_options options = {.protocol = protocol(ctx, refused[i].protocol), .ctx = refused[i].ctx,
                                            .bos = refused[i].bos, .add_bos = refused[i].add_bos};
        struct qnti_eval_windows w;
        assert_int_equal(qnti_eval_windows(ctx, text, refused[i].count, &options, &w), QNT_INVALID);
        assert_string_equal(qnt_context_message(ctx), refused[i].message);
        assert_null(w.ids);
    }
    assert_int_equal(qnti_eval_protocol_find(ctx, "c4", &p), QNT_INVALID);
    assert_string_equal(qnt_context_message(ctx), "no evaluation protocol \"c4\"; there are llamacpp, gptq, bos");
    qnt_context_destroy(ctx);
}

/* --- figures --- */

static const struct qnti_config toy = {.hidden = 12, .ffn = 20, .blocks = 2, .heads = 2, .kv_heads = 1, .head_dim = 6,
                                       .vocab = 100, .norm_eps = 1e-5f, .rope.theta = 10000};

enum { TEXT = 120, WINDOW = 24 };

static void fill_text(int32_t *ids, size_t n)
{
    uint64_t state = 17;
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)((random_unit(&state) + 0.5f) * (float)BOS);
}

static double log_sum(const double *logits, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i]);
    return log(sum);
}

static size_t top(const double *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* The same figures from the f64 pass. */
static struct qnti_eval_result plain_result(const struct qnti_checkpoint *m, const struct qnti_checkpoint *base,
                                            const struct qnti_eval_windows *w)
{
    struct qnti_eval_result r = {0};
    double squares = 0, base_nll = 0;
    size_t n = m->config.vocab;
    for (size_t i = 0; i < w->windows; i++) {
        const int32_t *ids = w->ids + i * w->ctx;
        double *q = plain_logits(m, ids, w->ctx), *p = plain_logits(base, ids, w->ctx);
        for (size_t t = w->first; t + 1 < w->ctx; t++) {
            const double *z = q + t * n, *b = p + t * n;
            double sum = log_sum(z, n), base_sum = log_sum(b, n), nll = sum - z[ids[t + 1]];
            r.scored++;
            r.nll += nll;
            squares += nll * nll;
            base_nll += base_sum - b[ids[t + 1]];
            for (size_t k = 0; k < n; k++)
                r.kl += exp(b[k] - base_sum) * ((b[k] - base_sum) - (z[k] - sum));
            r.same_top += top(z, n) == top(b, n);
        }
        free(q);
        free(p);
    }
    r.nll /= (double)r.scored;
    r.perplexity = exp(r.nll);
    r.perplexity_error =
        r.perplexity * sqrt((squares / (double)r.scored - r.nll * r.nll) / (double)(r.scored - 1));
    r.base_perplexity = exp(base_nll / (double)r.scored);
    r.kl /= (double)r.scored;
    r.same_top /= (double)r.scored;
    return r;
}

static void assert_near(double x, double expected)
{
    if (!(fabs(x - expected) <= 1e-5 * fabs(expected)))
        fail_msg("%.9g, expected %.9g", x, expected);
}

static void count_progress(void *user, size_t done, size_t total)
{
    size_t *last = user;
    assert_true(done > *last && done <= total);
    *last = done;
}

static void check_figures(qnt_context *ctx, const char *name, size_t scored)
{
    struct qnti_config other = toy;
    struct qnti_checkpoint *m, *base;
    struct qnti_eval_result r, expected;
    struct qnti_eval_windows w;
    size_t progress = 0;
    struct qnti_eval_options options = {.protocol = protocol(ctx, name), .ctx = WINDOW, .bos = BOS, .add_bos = true,
                                        .progress = count_progress, .user = &progress};
    int32_t ids[TEXT];
    fill_text(ids, TEXT);
    other.hidden = 14; /* a base need not have the same sizes */
    m = toy_model(ctx, &toy, 1);
    base = toy_model(ctx, &other, 2);
    assert_int_equal(qnti_eval_windows(ctx, ids, TEXT, &options, &w), QNT_OK);
    expected = plain_result(m, base, &w);
    assert_int_equal(qnti_evaluate(m, base, ids, TEXT, &options, &r), QNT_OK);
    assert_int_equal(progress, w.windows * 5);
    assert_int_equal(r.windows, w.windows);
    assert_int_equal(r.scored, scored);
    assert_int_equal(expected.scored, scored);
    assert_true(r.compared);
    assert_near(r.nll, expected.nll);
    assert_near(r.perplexity, expected.perplexity);
    assert_near(r.perplexity_error, expected.perplexity_error);
    assert_near(r.base_perplexity, expected.base_perplexity);
    assert_near(r.kl, expected.kl);
    assert_near(r.same_top, expected.same_top);
    qnti_eval_windows_free(ctx, &w);
    toy_free(base);
    toy_free(m);
}

static void figures_against_f64(void **state)
{
    qnt_context *ctx = new_context();
    (void)state;
    check_figures(ctx, "llamacpp", 5 * 11);
    check_figures(ctx, "gptq", 5 * 23);
    check_figures(ctx, "bos", 5 * 23);
    qnt_context_destroy(ctx);
}

static void a_model_against_itself(void **state)
{
    qnt_context *ctx = new_context();
    struct qnti_checkpoint *m = toy_model(ctx, &toy, 1);
    struct qnti_eval_options options = {.ctx = WINDOW, .bos = -1};
    struct qnti_eval_result r;
    int32_t ids[TEXT];
    (void)state;
    fill_text(ids, TEXT);
    assert_int_equal(qnti_evaluate(m, m, ids, TEXT, &options, &r), QNT_OK);
    assert_true(r.same_top == 1 && r.same_top_error == 0);
    assert_true(fabs(r.kl) < 1e-12 && fabs(r.kl_max) < 1e-12);
    assert_near(r.base_perplexity, r.perplexity);
    toy_free(m);
    qnt_context_destroy(ctx);
}

/* One window over and over, more tokens than one batch holds: the mean is that of one window. */
static void batches_make_no_difference(void **state)
{
    enum { REPEATS = 1100, LONG = 64 };
    struct qnti_config small = {.hidden = 4, .ffn = 4, .blocks = 1, .heads = 1, .kv_heads = 1, .head_dim = 4,
                                .vocab = 100, .norm_eps = 1e-5f, .rope.theta = 10000, .tied_head = true};
    qnt_context *ctx = new_context();
    struct qnti_checkpoint *m = toy_model(ctx, &small, 1);
    struct qnti_eval_options options = {.protocol = protocol(ctx, "gptq"), .ctx = LONG, .bos = -1};
    struct qnti_eval_result all, one;
    int32_t *ids = malloc(REPEATS * LONG * sizeof *ids);
    (void)state;
    assert_non_null(ids);
    fill_text(ids, LONG);
    for (size_t i = LONG; i < REPEATS * LONG; i++)
        ids[i] = ids[i - LONG];
    assert_int_equal(qnti_evaluate(m, NULL, ids, REPEATS * LONG, &options, &all), QNT_OK);
    options.chunks = 1;
    assert_int_equal(qnti_evaluate(m, NULL, ids, REPEATS * LONG, &options, &one), QNT_OK);
    assert_int_equal(all.windows, REPEATS);
    assert_int_equal(one.windows, 1);
    assert_true(fabs(all.nll - one.nll) < 1e-9);
    assert_false(all.compared);
    free(ids);
    toy_free(m);
    qnt_context_destroy(ctx);
}

static void bad_models(void **state)
{
    qnt_context *ctx = new_context();
    struct qnti_config other = toy;
    struct qnti_checkpoint *m = toy_model(ctx, &toy, 1), *base;
    struct qnti_eval_options options = {.ctx = WINDOW, .bos = -1};
    struct qnti_eval_result r;
    int32_t ids[TEXT];
    (void)state;
    fill_text(ids, TEXT);
    other.vocab = 101;
    base = toy_model(ctx, &other, 1);
    assert_int_equal(qnti_evaluate(m, base, ids, TEXT, &options, &r), QNT_INVALID);
    assert_string_equal(qnt_context_message(ctx),
                        "the model has a vocabulary of 100, the one it is compared with of 101");
    ((float *)(uintptr_t)toy_data(qnti_checkpoint_weight(base, 1, QNTI_UP)))[0] = NAN;
    assert_int_equal(qnti_evaluate(base, NULL, ids, TEXT, &options, &r), QNT_NON_FINITE);
    assert_string_equal(qnt_context_message(ctx), "window 0, position 12: the logits of the model are not finite");
    ids[3] = 100;
    assert_int_equal(qnti_evaluate(m, NULL, ids, TEXT, &options, &r), QNT_INVALID);
    toy_free(base);
    toy_free(m);
    qnt_context_destroy(ctx);
}

/* --- allocations --- */

struct meter {
    size_t left;      /* allocations that still succeed */
    size_t held;
};

static void *metered_allocate(void *user, size_t bytes, size_t alignment)
{
    struct meter *meter = user;
    void *memory = NULL;
    if (meter->left == 0)
        return NULL;
    meter->left--;
    if (posix_memalign(&memory, alignment, bytes))
        return NULL;
    meter->held++;
    return memory;
}

static void metered_release(void *user, void *memory)
{
    ((struct meter *)user)->held--;
    free(memory);
}

static void every_allocation_fails_in_turn(void **state)
{
    struct meter meter = {.left = SIZE_MAX};
    qnt_context *ctx;
    qnt_context_options options = {.threads = 1, .blas_one_thread = true,
                                   .allocator = {metered_allocate, metered_release, &meter}};
    struct qnti_eval_options eval = {.ctx = WINDOW, .bos = -1, .chunks = 2};
    struct qnti_eval_result r;
    struct qnti_checkpoint *m;
    qnt_status status = QNT_NO_MEMORY;
    int32_t ids[TEXT];
    size_t n, held;
    (void)state;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    m = toy_model(ctx, &toy, 1);
    fill_text(ids, TEXT);
    held = meter.held;
    for (n = 0; status != QNT_OK; n++) {
        meter.left = n;
        status = qnti_evaluate(m, m, ids, TEXT, &eval, &r);
        assert_true(status == QNT_OK || status == QNT_NO_MEMORY);
        assert_int_equal(meter.held, held);
    }
    assert_true(n > 50); /* there were that many to fail */
    toy_free(m);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_of_the_protocols),
        cmocka_unit_test(refusals),
        cmocka_unit_test(figures_against_f64),
        cmocka_unit_test(a_model_against_itself),
        cmocka_unit_test(batches_make_no_difference),
        cmocka_unit_test(bad_models),
        cmocka_unit_test(every_allocation_fails_in_turn),
    };
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
