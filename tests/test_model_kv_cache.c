/*
 * test_model_kv_cache.c - keys and values of few bits: which tokens are stored, and attention as a decoder computes it.
 *
 * The decoder of the test goes position by position: it takes the tokens so far through the cache as a whole and
 * attends with what comes back, in f64 and without matrices.
 */
#include "layer_support.h"

#include <math.h>
#include "method/recipe.h"
#include "nn/operators.h"

enum { TOKENS = 150, HEADS = 4, KV_HEADS = 2, DIM = 8, WIDTH = HEADS * DIM, KV_WIDTH = KV_HEADS * DIM };

static struct qnti_kv kv_of(qnt_context *ctx, const char *text)
{
    qnt_recipe *recipe;
    struct qnti_kv kv;
    assert_ok(ctx, qnt_recipe_parse(ctx, text, &recipe));
    assert_ok(ctx, qnti_recipe_kv(recipe, DIM, &kv));
    qnt_recipe_destroy(recipe);
    return kv;
}

static void test_stored(void **state)
{
    static const struct {
        bool by_channel;
        size_t window, sinks, tokens, first, end;
    } cases[] = {
        {false, 0, 0, 5, 0, 5},   {false, 4, 0, 4, 0, 0},   {false, 4, 0, 9, 0, 5},  {false, 4, 3, 9, 3, 5},
        {true, 4, 0, 3, 0, 0},    {true, 4, 0, 4, 0, 4},    {true, 4, 0, 11, 0, 8},  {true, 0, 0, 11, 0, 11},
        {false, 4, 7, 9, 5, 5},   {true, 4, 20, 11, 8, 8},  {true, 4, 1, 11, 1, 8},  {false, 0, 0, 0, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct qnti_cache cache = {.by_channel = cases[i].by_channel, .window = cases[i].window,
                                   .sinks = cases[i].sinks};
        size_t first, end;
        qnti_cache_stored(&cache, cases[i].tokens, &first, &end);
        assert_int_equal(first, cases[i].first);
        assert_int_equal(end, cases[i].end);
    }
}

struct sequence {
    float *q, *k, *v;
};

/* Position `t` of one head: `out` [DIM]. */
static void decode(qnt_context *ctx, const struct qnti_kv *kv, const struct sequence *s, size_t window, size_t t,
                   size_t head, double *out)
{
    float *k = NEW((t + 1) * KV_WIDTH, float), *v = NEW((t + 1) * KV_WIDTH, float);
    double *p = NEW(t + 1, double), sum = 0, most = -INFINITY, top = (1u << kv->probability_bits) - 1;
    size_t at = head / (HEADS / KV_HEADS) * DIM, from = window && t + 1 > window ? t + 1 - window : 0;
    assert_ok(ctx, qnti_cache_apply(ctx, &kv->key, s->k, t + 1, KV_WIDTH, k));
    assert_ok(ctx, qnti_cache_apply(ctx, &kv->value, s->v, t + 1, KV_WIDTH, v));
    for (size_t j = from; j <= t; j++) {
        p[j] = 0;
        for (size_t c = 0; c < DIM; c++)
            p[j] += (double)s->q[t * WIDTH + head * DIM + c] * (double)k[j * KV_WIDTH + at + c] / sqrt(DIM);
        most = fmax(most, p[j]);
    }
    for (size_t j = from; j <= t; j++)
        sum += p[j] = exp(p[j] - most);
    memset(out, 0, DIM * sizeof *out);
    for (size_t j = from; j <= t; j++)
        for (size_t c = 0; c < DIM; c++)
            out[c] += (kv->probability_bits ? rint(p[j] / sum * top) / top : p[j] / sum) *
                      (double)v[j * KV_WIDTH + at + c];
    free(k);
    free(v);
    free(p);
}

static void attend(qnt_context *ctx, const struct qnti_kv *kv, const struct sequence *s, size_t window, float *out)
{
    float *k = NEW(TOKENS * KV_WIDTH, float), *v = NEW(TOKENS * KV_WIDTH, float);
    struct qnti_attention a = {.heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .window = window, .q = s->q,
                               .k = s->k, .v = s->v, .tokens = TOKENS, .out = out, .kv = kv, .stored_k = k,
                               .stored_v = v};
    assert_ok(ctx, qnti_cache_round(ctx, &kv->key, s->k, TOKENS, KV_WIDTH, k));
    assert_ok(ctx, qnti_cache_round(ctx, &kv->value, s->v, TOKENS, KV_WIDTH, v));
    assert_ok(ctx, qnti_attention_forward(ctx, &a));
    free(k);
    free(v);
}

/* Several tiles of queries, windows of the cache and of the attention. Probabilities of 8 bits may round otherwise. */
static void test_decoder(void **state)
{
    static const struct {
        const char *kv;
        size_t window;
        double limit;
    } cases[] = {
        {"kv_cache:bits=4,group_size=4,residual_length=16", 0, 1e-5},
        {"kv_cache:bits=2,group_size=8,residual_length=8,sink_tokens=5", 0, 1e-5},
        {"kv_cache:bits=3,group_size=5,residual_length=25", 40, 1e-5},
        {"kv_cache:scheme=atom,bits=4,clip=0.9", 0, 1e-5},
        {"kv_cache:scheme=quarot,bits=4", 70, 1e-5},
        {"kv_cache:scheme=quarot,bits=8,sym=true,probability_bits=8", 0, 0.02},
        {"kv_cache:bits=8,group_size=8,residual_length=1000", 0, 1e-5},
    };
    qnt_context *ctx = context_of(2);
    struct sequence s = {random_floats(TOKENS * WIDTH, 1, 2), random_floats(TOKENS * KV_WIDTH, 2, 2),
                         random_floats(TOKENS * KV_WIDTH, 3, 2)};
    float *out = NEW(TOKENS * WIDTH, float);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct qnti_kv kv = kv_of(ctx, cases[i].kv);
        attend(ctx, &kv, &s, cases[i].window, out);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t h = 0; h < HEADS; h++) {
                double want[DIM];
                decode(ctx, &kv, &s, cases[i].window, t, h, want);
                for (size_t c = 0; c < DIM; c++)
                    if (!(fabs(want[c] - (double)out[t * WIDTH + h * DIM + c]) <= cases[i].limit))
                        fail_msg("%s: token %zu, head %zu: %g, expected %g", cases[i].kv, t, h,
                                 (double)out[t * WIDTH + h * DIM + c], want[c]);
            }
    }
    free(out);
    free(s.q);
    free(s.k);
    free(s.v);
    qnt_context_destroy(ctx);
}

/* What the newest tokens do not do to the ones that are stored already. */
static void test_runs_stay(void **state)
{
    qnt_context *ctx = context_of(1);
    struct qnti_kv kv = kv_of(ctx, "kv_cache:bits=2,group_size=4,residual_length=12");
    float *x = random_floats(TOKENS * KV_WIDTH, 5, 3), *whole = NEW(TOKENS * KV_WIDTH, float),
          *part = NEW(TOKENS * KV_WIDTH, float);
    (void)state;
    assert_ok(ctx, qnti_cache_round(ctx, &kv.key, x, TOKENS, KV_WIDTH, whole));
    for (size_t tokens = 12; tokens <= TOKENS; tokens += 12) {
        assert_ok(ctx, qnti_cache_round(ctx, &kv.key, x, tokens, KV_WIDTH, part));
        assert_memory_equal(whole, part, tokens * KV_WIDTH * sizeof *x);
    }
    free(x);
    free(whole);
    free(part);
    qnt_context_destroy(ctx);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *recipe, *message;
    } cases[] = {
        {"kv_cache:head_dim=7", "head_dim 7 does not divide 12 outputs"},
        {"kv_cache", "head_dim 0 does not divide"},
        {"kv_cache:scheme=quarot,kind=key,head_dim=12", "no power of two"},
        {"kv_cache:kind=key,head_dim=6,group_size=5,residual_length=12", "residual_length 12 is no multiple"},
    };
    qnt_context *ctx = context_of(1);
    float *w = random_floats(12 * 16, 1, 1);
    qnt_layer layer = {.name = "k_proj", .weight = qnt_matrix_f32(w, 12, 16)};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        qnt_recipe *recipe;
        qnt_qlinear *q = NULL;
        assert_ok(ctx, qnt_recipe_parse(ctx, cases[i].recipe, &recipe));
        assert_fails(ctx, qnt_quantize(ctx, recipe, &layer, &q), QNT_INVALID, cases[i].message);
        assert_null(q);
        qnt_recipe_destroy(recipe);
    }
    free(w);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stored),
        cmocka_unit_test(test_decoder),
        cmocka_unit_test(test_runs_stay),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
