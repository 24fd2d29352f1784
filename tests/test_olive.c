/*
 * test_olive.c - the method olive: files, threads, parts, the choice of normal levels, refusals, layers of one site.
 */
#include "qlinear_support.h"
#include "solve/solve.h"

/* A few numbers far from the others. */
static float *heavy_row(size_t n, uint64_t seed)
{
    float *x = random_floats(n, seed, 0.1f);
    for (size_t i = 0; i < n; i++)
        x[i] *= i % 11 == 3 ? 9 : i % 23 == 7 ? -20 : 1;
    return x;
}

enum { OUT = 20, IN = 43, TOKENS = 50 };

static const char *const recipes[] = {
    "olive", "olive:bits=8,act_bits=8", "olive:bits=3,act_bits=3", "olive:bits=5,act_bits=6,format=flint",
    "olive:act_bits=16,group_size=16", "olive:pair_keep=larger,format=int", "olive:outliers=false",
    "olive:bits=6,act_bits=0,search_low=15,search_high=50", "smoothquant,olive:bits=7,act_bits=7",
};

static void test_method(void **state)
{
    qnt_context *ctx = context_of(2), *one = context_of(1);
    float *w = heavy_row((size_t)OUT * IN, 3), *x = random_tokens(TOKENS, IN, 9);
    float *positive = NEW(TOKENS * IN, float);
    (void)state;
    for (size_t i = 0; i < (size_t)TOKENS * IN; i++)
        positive[i] = fabsf(x[i]);
    for (size_t i = 0; i < 2 * COUNT(recipes); i++) {
        const char *recipe = recipes[i / 2], *format = i / 2 % 2 ? "native" : NULL;
        const float *tokens = i % 2 ? positive : x;
        qnt_matrix weight = qnt_matrix_f32(w, OUT, IN);
        qnt_qlinear *q, *same, *back;
        size_t bytes;
        unsigned char *file;
        float *a, *b, y[2][TOKENS * OUT];
        assert_ok(ctx, quantize_with(ctx, recipe, format, weight, tokens, NULL, TOKENS, &q));
        assert_ok(one, quantize_with(one, recipe, format, weight, tokens, NULL, TOKENS, &same));
        file = native_bytes(ctx, q, &bytes);
        assert_ok(ctx, native_read(ctx, file, bytes, "some.layer", &back));
        a = dequantized(ctx, q);
        b = dequantized(one, same);
        assert_memory_equal(a, b, OUT * IN * sizeof *a);
        free(b);
        b = dequantized(ctx, back);
        assert_memory_equal(a, b, OUT * IN * sizeof *a);
        assert_ok(ctx, qnt_forward(q, qnt_matrix_f32((void *)(uintptr_t)tokens, TOKENS, IN), y[0]));
        assert_ok(ctx, qnt_forward(back, qnt_matrix_f32((void *)(uintptr_t)tokens, TOKENS, IN), y[1]));
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        if (q->act)
            assert_true(q->act->grid.pairs.is_signed == !(i % 2));
        assert_true(qnti_qlinear_bits(q) == qnti_qlinear_bits(back));
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(same);
        qnt_qlinear_destroy(back);
        free(file);
        free(a);
        free(b);
    }
    free(w);
    free(x);
    free(positive);
    qnt_context_destroy(ctx);
    qnt_context_destroy(one);
}

/* dequantized = codebook[codes] scales; the mask is that of wide levels. */
static void test_parts(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = heavy_row((size_t)OUT * IN, 3), *values;
    qnt_part codes, book, scales, mask;
    qnt_qlinear *q;
    size_t outliers = 0;
    (void)state;
    assert_ok(ctx, quantize_with(ctx, "olive:act_bits=16,bits=8", NULL, qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q));
    values = dequantized(ctx, q);
    assert_ok(ctx, qnt_qlinear_part(q, "codes", &codes));
    assert_ok(ctx, qnt_qlinear_part(q, "codebook", &book));
    assert_ok(ctx, qnt_qlinear_part(q, "scales", &scales));
    assert_ok(ctx, qnt_qlinear_part(q, "outlier_mask", &mask));
    assert_fails(ctx, qnt_qlinear_part(q, "zeros", &(qnt_part){0}), QNT_NOT_FOUND, "zeros");
    assert_true(book.shape[0] == 1 && book.shape[1] == 509 && scales.shape[0] == OUT && scales.shape[1] == 1);
    for (size_t i = 0; i < (size_t)OUT * IN; i++) {
        float level = ((const float *)book.data)[((const int32_t *)codes.data)[i]];
        assert_true(values[i] == level * ((const float *)scales.data)[i / IN]);
        assert_int_equal(((const uint8_t *)mask.data)[i], fabsf(level) > 32);
        outliers += ((const uint8_t *)mask.data)[i];
    }
    assert_true(outliers > 0);
    qnt_part_free(&codes);
    qnt_part_free(&book);
    qnt_part_free(&scales);
    qnt_part_free(&mask);
    qnt_qlinear_destroy(q);
    assert_ok(ctx, quantize_with(ctx, "olive:act_bits=16,outliers=false", NULL, qnt_matrix_f32(w, OUT, IN), NULL, NULL,
                                 0, &q));
    assert_fails(ctx, qnt_qlinear_part(q, "outlier_mask", &mask), QNT_NOT_FOUND, "outlier_mask");
    qnt_qlinear_destroy(q);
    free(values);
    free(w);
    qnt_context_destroy(ctx);
}

/* The type of a tensor is the one that errs less in all of it; more than six bits are integers. */
static void test_choice(void **state)
{
    static const char *const recipe[] = {"olive:act_bits=16,search_low=50",
                                         "olive:act_bits=16,search_low=50,format=int",
                                         "olive:act_bits=16,search_low=50,format=flint"};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q[3];
    double error[3];
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        float *w = random_floats((size_t)OUT * IN, seed, 1);
        for (size_t i = 0; seed % 2 && i < (size_t)OUT * IN; i++)
            w[i] *= w[i] * w[i];
        for (size_t i = 0; !(seed % 2) && i < (size_t)OUT * IN; i++)
            w[i] = fmodf(5 * w[i], 1);
        for (size_t i = 0; i < 3; i++) {
            assert_ok(ctx, quantize_with(ctx, recipe[i], NULL, qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q[i]));
            assert_ok(ctx, qnti_square_error(ctx, w, q[i]->segments[0].weight, &error[i]));
        }
        assert_true(error[0] == fmin(error[1], error[2]));
        assert_int_equal(q[0]->segments[0].weight->grid.pairs.flint, error[2] < error[1]);
        assert_int_equal(error[2] < error[1], seed % 2); /* long tails are good for it, even numbers are not */
        for (size_t i = 0; i < 3; i++)
            qnt_qlinear_destroy(q[i]);
        free(w);
    }
    {
        float *w = random_floats((size_t)OUT * IN, 1, 1);
        assert_ok(ctx, quantize_with(ctx, "olive:act_bits=16,bits=7,format=flint", NULL, qnt_matrix_f32(w, OUT, IN),
                                     NULL, NULL, 0, &q[0]));
        assert_false(q[0]->segments[0].weight->grid.pairs.flint);
        qnt_qlinear_destroy(q[0]);
        free(w);
    }
    qnt_context_destroy(ctx);
}

static void test_refusals(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats((size_t)OUT * IN, 1, 1), factor[IN * IN] = {0}, table[QNTI_PAIRS_MOST_LEVELS];
    qnt_matrix weight = qnt_matrix_f32(w, OUT, IN);
    struct qnti_feedback feedback = {.w = w, .factor = factor, .stride = IN, .block = 8};
    qnt_layer_report report = {0};
    qnt_recipe *recipe;
    qnt_qlinear *q;
    (void)state;
    assert_fails(ctx, qnt_recipe_parse(ctx, "olive:act_bits=2", &recipe), QNT_INVALID, "act_bits=2");
    assert_fails(ctx, qnt_recipe_parse(ctx, "olive:bits=2", &recipe), QNT_INVALID, "bits");
    assert_fails(ctx, qnt_recipe_parse(ctx, "olive:group_size=7", &recipe), QNT_INVALID, "group_size=7");
    assert_fails(ctx, qnt_recipe_parse(ctx, "olive:search_low=250", &recipe), QNT_INVALID, "search_high=250");
    assert_fails(ctx, quantize_with(ctx, "olive", NULL, weight, NULL, NULL, 0, &q), QNT_INVALID, "needs calibration");
    assert_fails(ctx, quantize_with(ctx, "olive", "gptq", weight, w, NULL, 4, &q), QNT_UNSUPPORTED, "native");
    assert_fails(ctx, quantize_with(ctx, "olive", "gguf:q4_0", weight, w, NULL, 4, &q), QNT_UNSUPPORTED, "native");
    assert_ok(ctx, quantize_with(ctx, "olive", NULL, weight, w, NULL, 0, &q)); /* no token came */
    assert_ok(ctx, qnt_report(q, &report));
    assert_non_null(strstr(report.warnings, "inputs are not quantized"));
    assert_null(q->act);
    for (size_t i = 0; i < IN; i++)
        factor[i * IN + i] = 1;
    assert_fails(ctx, qnti_error_feedback(ctx, &feedback, q->segments[0].weight), QNT_UNSUPPORTED, "neighbour");
    qnt_qlinear_destroy(q);
    w[5] = 1e6f;
    assert_ok(ctx, quantize_with(ctx, "olive:act_bits=16,bits=8,search_high=77", NULL, weight, NULL, NULL, 0, &q));
    assert_ok(ctx, qnt_report(q, &report)); /* 1e6 is some sqrt(43) deviations off: within 16 ranges */
    assert_string_equal(report.warnings, "");
    qnt_qlinear_destroy(q);
    assert_ok(ctx, quantize_with(ctx, "olive:act_bits=16,search_low=5,search_high=7", NULL, weight, NULL, NULL, 0, &q));
    report = (qnt_layer_report){0};
    assert_ok(ctx, qnt_report(q, &report));
    assert_non_null(strstr(report.warnings, "1 of its scales"));
    qnt_qlinear_destroy(q);
    { /* plain ANT has no pairs, columns may go one by one */
        struct qnti_grid grid = qnti_pairs_grid(qnti_context_kernels(ctx), 4, (struct qnti_pairs){.is_signed = true}, 0,
                                                QNT_F32, table);
        struct qnti_numbers *numbers;
        assert_ok(ctx, qnti_numbers_create(ctx, &grid, OUT, IN, &numbers));
        assert_ok(ctx, qnti_error_feedback(ctx, &feedback, numbers));
        qnti_numbers_free(ctx, numbers);
    }
    free(w);
    qnt_context_destroy(ctx);
}

/* The layers of a site share a quantizer; one that was learned elsewhere stays. */
static void test_site(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats((size_t)OUT * IN, 1, 1), *x = random_tokens(TOKENS, IN, 9);
    qnt_recipe *recipe = recipe_of(ctx, "olive");
    qnt_layer layers[3] = {{.name = "a", .weight = qnt_matrix_f32(w, OUT, IN)},
                           {.name = "b", .weight = qnt_matrix_f32(w, OUT / 2, IN)},
                           {.name = "c", .weight = qnt_matrix_f32(w, OUT, IN), .input_scale = 0.25f}};
    qnt_qlinear *q[3];
    qnt_calib *calib;
    (void)state;
    assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
    for (size_t i = 0; i < 3; i++)
        layers[i].calib = calib;
    assert_ok(ctx, qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = layers, .count = 3}, q));
    assert_true(qnti_in_pairs(&q[0]->act->grid) && qnti_in_pairs(&q[1]->act->grid));
    assert_true(q[0]->act->fixed->scale->value[0] == q[1]->act->fixed->scale->value[0]);
    assert_false(qnti_in_pairs(&q[2]->act->grid));
    assert_true(q[2]->act->given && q[2]->act->fixed->scale->value[0] == 0.25f);
    for (size_t i = 0; i < 3; i++)
        qnt_qlinear_destroy(q[i]);
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
    free(w);
    free(x);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_method),   cmocka_unit_test(test_parts), cmocka_unit_test(test_choice),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_site),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
