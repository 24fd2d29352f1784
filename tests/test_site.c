/*
 * test_site.c - transforms of a site: what folds into a norm or a linear, and that nothing changes but the rounding.
 */
#include "context_support.h"

#include "method/recipe.h"
#include "transform/fold.h"

enum { OUT = 12, IN = 8, KV = 4, WIDTH = 6, TOKENS = 40 };

/* x' of one normed token n through a norm: (base + weight) n + bias. */
static void through_norm(const qnt_producer *p, const float *n, float *x)
{
    for (size_t c = 0; c < IN; c++)
        x[c] = (p->base + p->weight[c]) * n[c] + (p->bias ? p->bias[c] : 0);
}

/* A folded norm gives what the transform makes of the unfolded one's output. */
static void norms(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) { /* plain, Gemma's 1 + w, with bias and shift */
        float *weight = random_floats(IN, 3, 1), *bias = random_floats(IN, 5, 1), *n = random_floats(IN, 7, 1);
        float *scale = random_floats(IN, 9, 0.4f), *shift = random_floats(IN, 11, 1), x[IN], want[IN], scratch[IN];
        qnt_producer p = {.weight = weight, .bias = kind >= 2 ? bias : NULL, .rows = IN, .cols = 1,
                          .base = kind == 1 ? 1 : 0};
        struct qnti_transform t = {.scale = scale, .shift = kind >= 2 ? shift : NULL};
        for (size_t c = 0; c < IN; c++)
            scale[c] += 1;
        through_norm(&p, n, x);
        qnti_transform_forward(&t, IN, x, want, scratch);
        assert_ok(ctx, qnti_fold_check(ctx, &p, &t, IN));
        assert_ok(ctx, qnti_fold(ctx, &p, &t, IN));
        through_norm(&p, n, x);
        for (size_t c = 0; c < IN; c++)
            assert_float_equal(x[c], want[c], 1e-6f);
        free(weight), free(bias), free(n), free(scale), free(shift);
    }
}

/* Rows of a linear, each feeding two channels: divided once; scales that differ where they are tied are refused. */
static void tied_rows(void **state)
{
    const uint32_t map[IN] = {0, 1, 0, 1, 2, 3, 2, 3};
    float scale[IN] = {2, 4, 2, 4, 0.5f, 1, 0.5f, 1}, weight[KV * WIDTH], bias[KV] = {8, 8, 8, 8}, one[IN];
    qnt_producer p = {.weight = weight, .bias = bias, .rows = KV, .cols = WIDTH, .map = map};
    struct qnti_transform t = {.scale = scale};
    (void)state;
    for (size_t i = 0; i < KV * WIDTH; i++)
        weight[i] = 4;
    assert_ok(ctx, qnti_fold_check(ctx, &p, &t, IN));
    assert_ok(ctx, qnti_fold(ctx, &p, &t, IN));
    for (size_t r = 0; r < KV; r++) {
        float s = (const float[]){2, 4, 0.5f, 1}[r];
        assert_float_equal(bias[r], 8 / s, 0);
        for (size_t i = 0; i < WIDTH; i++)
            assert_float_equal(weight[r * WIDTH + i], 4 / s, 0);
    }
    memcpy(one, scale, sizeof one);
    one[2] = 3;
    t.scale = one;
    assert_fails(ctx, qnti_fold_check(ctx, &p, &t, IN), QNT_UNSUPPORTED, "share a producer");
    p.map = (const uint32_t[IN]){0, 1, 2, 3, 4, 0, 0, 0};
    assert_fails(ctx, qnti_fold_check(ctx, &p, &(struct qnti_transform){.scale = scale}, IN), QNT_INVALID, "row 4");
}

static void what_does_not_fold(void **state)
{
    float weight[IN] = {0}, shift[IN] = {0};
    uint32_t order[IN] = {0};
    qnt_producer norm = {.weight = weight, .rows = IN, .cols = 1}, tied = {.weight = weight, .rows = IN, .map = order};
    (void)state;
    assert_fails(ctx, qnti_fold_check(ctx, &norm, &(struct qnti_transform){.shift = shift}, IN), QNT_UNSUPPORTED,
                 "bias");
    assert_fails(ctx, qnti_fold_check(ctx, &norm, &(struct qnti_transform){.rotation.block = 4}, IN), QNT_UNSUPPORTED,
                 "rotation");
    assert_fails(ctx, qnti_fold_check(ctx, &norm, &(struct qnti_transform){.permutation = order}, IN),
                 QNT_UNSUPPORTED, "a norm makes cannot change places");
    tied.head = 2;
    assert_fails(ctx, qnti_fold_check(ctx, &tied, &(struct qnti_transform){.permutation = order}, IN),
                 QNT_UNSUPPORTED, "leave its head");
    assert_fails(ctx, qnti_fold_check(ctx, &norm, &(struct qnti_transform){.shift = NULL}, IN + 1), QNT_INVALID, "9");
    norm.bias = shift;
    norm.refuses = QNT_REFUSES_SHIFT; /* as ReLU between two linears does */
    assert_fails(ctx, qnti_fold_check(ctx, &norm, &(struct qnti_transform){.shift = shift}, IN), QNT_UNSUPPORTED,
                 "lets no shift through");
    assert_ok(ctx, qnti_fold_check(ctx, &norm, &(struct qnti_transform){.scale = weight}, IN));
    norm.refuses |= QNT_REFUSES_SCALE;
    assert_fails(ctx, qnti_fold_check(ctx, &norm, &(struct qnti_transform){.scale = weight}, IN), QNT_UNSUPPORTED,
                 "lets no scale through");
}

/* y of a layer behind the producer's channels. */
static void outputs(const float *w, const float *x, float *y)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t r = 0; r < OUT; r++) {
            double sum = 0;
            for (size_t c = 0; c < IN; c++)
                sum += (double)x[t * IN + c] * (double)w[r * IN + c];
            y[t * OUT + r] = (float)sum;
        }
}

/*
 * With a producer the scale goes into it and the layer stands behind; without one it stays in the layer. Both compute
 * the same, near the unquantized layer, for every method that transforms.
 */
static void folded_or_kept(void **state)
{
    static const char *const recipes[] = {"awq:bits=8", "awq:bits=8,gptq:bits=8", "smoothquant:act_bits=16",
                                          "smoothquant:act_bits=16,gptq:bits=8"};
    (void)state;
    for (size_t i = 0; i < COUNT(recipes); i++) {
        float *w = random_floats(OUT * IN, 21, 0.5f), *n = random_tokens(TOKENS, IN, 23);
        float *norm = random_floats(IN, 25, 1);
        float x[TOKENS * IN], want[TOKENS * OUT], kept[TOKENS * OUT], folded[TOKENS * OUT];
        qnt_recipe *recipe = recipe_of(ctx, recipes[i]);
        qnt_calib *calib;
        qnt_qlinear *q;
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t c = 0; c < IN; c++)
                x[t * IN + c] = n[t * IN + c] * norm[c];
        outputs(w, x, want);
        assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
        assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
        qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN), .calib = calib};
        qnt_producer producer = {.weight = norm, .rows = IN, .cols = 1};
        assert_ok(ctx, qnt_quantize(ctx, recipe, &layer, &q));
        assert_non_null(q->transform.scale);
        assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, IN), kept));
        qnt_qlinear_destroy(q);
        assert_ok(ctx, qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = &layer, .count = 1, .producer = &producer},
                                         &q));
        assert_null(q->transform.scale);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t c = 0; c < IN; c++)
                x[t * IN + c] = n[t * IN + c] * norm[c];
        assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, IN), folded));
        for (size_t k = 0; k < TOKENS * OUT; k++) {
            assert_float_equal(folded[k], kept[k], 1e-4f * (1 + fabsf(want[k])));
            assert_float_equal(kept[k], want[k], 0.05f * (1 + fabsf(want[k])));
        }
        qnt_qlinear_destroy(q);
        qnt_calib_destroy(calib);
        qnt_recipe_destroy(recipe);
        free(w), free(n), free(norm);
    }
}

/* SmoothQuant leaves what a linear makes as it is, unless it is asked to smooth that too. */
static void smoothed_linears(void **state)
{
    static const char *const recipes[] = {"smoothquant", "smoothquant:smooth_linears=true"};
    (void)state;
    for (size_t i = 0; i < COUNT(recipes); i++) {
        float *w = random_floats(OUT * IN, 41, 0.5f), *x = random_tokens(TOKENS, IN, 43), made[IN * WIDTH];
        qnt_producer producer = {.weight = made, .rows = IN, .cols = WIDTH};
        qnt_recipe *recipe = recipe_of(ctx, recipes[i]);
        bool changed = false;
        qnt_calib *calib;
        qnt_qlinear *q;
        for (size_t k = 0; k < IN * WIDTH; k++)
            made[k] = 1;
        assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
        assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
        qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN), .calib = calib};
        assert_ok(ctx, qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = &layer, .count = 1, .producer = &producer},
                                         &q));
        for (size_t k = 0; k < IN * WIDTH; k++)
            changed |= made[k] != 1;
        assert_int_equal(changed, i == 1);
        assert_null(q->transform.scale);
        qnt_qlinear_destroy(q);
        qnt_calib_destroy(calib);
        qnt_recipe_destroy(recipe);
        free(w), free(x);
    }
}

/* A layout without run-time parts: quantizers that come by default are left out, asked for they are an error. */
static void left_out(void **state)
{
    float *w = random_floats(OUT * 32, 31, 0.5f), *x = random_tokens(TOKENS, 32, 33);
    qnt_recipe *recipe = recipe_of(ctx, "smoothquant,rtn"), *asked = recipe_of(ctx, "smoothquant:act_bits=6,rtn");
    qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, 32), .format = "gguf:q4_0"};
    qnt_layer_report report = {0};
    qnt_calib *calib;
    qnt_qlinear *q;
    (void)state;
    assert_ok(ctx, qnt_calib_create(ctx, recipe, 32, &calib));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, 32)));
    layer.calib = calib;
    assert_ok(ctx, qnt_quantize(ctx, recipe, &layer, &q));
    assert_null(q->act);
    assert_ok(ctx, qnt_report(q, &report));
    assert_non_null(strstr(report.warnings, "smoothquant is left out"));
    qnt_qlinear_destroy(q);
    assert_fails(ctx, qnt_quantize(ctx, asked, &layer, &q), QNT_INVALID, "act_bits of method smoothquant");
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
    qnt_recipe_destroy(asked);
    free(w), free(x);
}

/* The threshold of LLM.int8 is taken per batch: a large input takes its column out, for that batch alone. */
static void columns_of_a_batch(void **state)
{
    float *w = random_floats(OUT * IN, 41, 0.5f), *x = random_floats(TOKENS * IN, 43, 1), dequantized[OUT * IN];
    qnt_recipe *recipe = recipe_of(ctx, "llm_int8:outlier_weights=fp16");
    qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN)};
    uint8_t kept[IN];
    qnt_qlinear *q;
    (void)state;
    assert_ok(ctx, qnt_quantize(ctx, recipe, &layer, &q));
    assert_true(qnt_qlinear_chooses_columns(q));
    assert_ok(ctx, qnt_dequantize_batch(q, qnt_matrix_f32(x, TOKENS, IN), dequantized, kept));
    for (size_t c = 0; c < IN; c++)
        assert_int_equal(kept[c], 0);
    x[3 * IN + 5] = -6;
    assert_ok(ctx, qnt_dequantize_batch(q, qnt_matrix_f32(x, TOKENS, IN), dequantized, kept));
    for (size_t c = 0; c < IN; c++)
        assert_int_equal(kept[c], c == 5);
    for (size_t r = 0; r < OUT; r++)
        assert_float_equal(dequantized[r * IN + 5], w[r * IN + 5], 0x1p-11f * fabsf(w[r * IN + 5]));
    qnt_qlinear_destroy(q);
    qnt_recipe_destroy(recipe);
    free(w), free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        context_test(norms),
        context_test(tied_rows),
        context_test(what_does_not_fold),
        context_test(folded_or_kept),
        context_test(smoothed_linears),
        context_test(left_out),
        context_test(columns_of_a_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
