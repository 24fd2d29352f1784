/*
 * test_calib.c - sums over calibration tokens: against f64 loops, around tile sizes, merged, with bad tokens.
 */
#include "layer_support.h"
#include "calib/calib.h"
#include "linalg/gram.h"

/* --- sums of outer products; tiles are 512 wide, chunks 2048 tokens --- */

static float *gram_matrix(qnt_context *ctx, const float *y, const float *x, size_t tokens, size_t n)
{
    struct qnti_gram *gram;
    float *matrix = NEW(n * n, float);
    assert_ok(ctx, qnti_gram_create(ctx, n, x == y, &gram));
    assert_ok(ctx, qnti_gram_add(ctx, gram, y, x, tokens / 2));
    assert_ok(ctx, qnti_gram_add(ctx, gram, y + tokens / 2 * n, x + tokens / 2 * n, tokens - tokens / 2));
    assert_ok(ctx, qnti_gram_add(ctx, gram, y, x, 0));
    assert_ok(ctx, qnti_gram_read(gram, 0.5, matrix));
    qnti_gram_free(ctx, gram);
    return matrix;
}

static void check_gram(qnt_context *ctx, qnt_context *threads, size_t n, size_t tokens, bool symmetric)
{
    float *x = random_tokens(tokens, n, n), *y = symmetric ? x : random_tokens(tokens, n, n + 9);
    float *a = gram_matrix(ctx, y, x, tokens, n), *b = gram_matrix(threads, y, x, tokens, n);
    assert_memory_equal(a, b, n * n * sizeof *a);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0, size = 1e-3;
            for (size_t t = 0; t < tokens; t++) {
                sum += 0.5 * (double)y[t * n + i] * (double)x[t * n + j];
                size += fabs(0.5 * (double)y[t * n + i] * (double)x[t * n + j]);
            }
            if (!(fabs(sum - (double)a[i * n + j]) <= 1e-5 * size))
                fail_msg("order %zu, %zu tokens: (%zu, %zu) is %g, not %g", n, tokens, i, j, (double)a[i * n + j], sum);
        }
    free(a);
    free(b);
    if (y != x)
        free(y);
    free(x);
}

static void test_gram(void **state)
{
    static const struct {
        size_t n, tokens;
    } sizes[] = {{1, 1}, {3, 2}, {17, 40}, {2, 4100}, {511, 4}, {512, 3}, {513, 5}, {520, 2}, {1030, 2}};
    qnt_context *ctx = context_of(1), *threads = context_of(3);
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        check_gram(ctx, threads, sizes[i].n, sizes[i].tokens, true);
        check_gram(ctx, threads, sizes[i].n, sizes[i].tokens, false);
    }
    qnt_context_destroy(ctx);
    qnt_context_destroy(threads);
}

/* --- calibrations --- */

enum { IN = 37, TOKENS = 90 };

static void test_moments(void **state)
{
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_calib *calib;
    float *x = random_tokens(TOKENS, IN, 1), *hessian = NEW(IN * IN, float), *want;
    qnt_moments m;
    (void)state;
    assert_ok(ctx, qnt_calib_create(ctx, NULL, IN, &calib));
    assert_fails(ctx, qnt_calib_moments(calib, 0, &m), QNT_NOT_FOUND, "0 tokens");
    assert_fails(ctx, qnt_calib_hessian(calib, hessian), QNT_NOT_FOUND, "no Hessian");
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, 50, IN)));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x + 50 * IN, TOKENS - 50, IN)));
    assert_int_equal(qnt_calib_in(calib), IN);
    assert_int_equal(qnt_calib_tokens(calib), TOKENS);
    for (size_t c = 0; c < IN; c++) {
        double sum = 0, magnitude = 0, square = 0;
        float least = INFINITY, greatest = -INFINITY;
        for (size_t t = 0; t < TOKENS; t++) {
            float v = x[t * IN + c];
            sum += (double)v;
            magnitude += fabs((double)v);
            square += (double)v * (double)v;
            least = fminf(least, v);
            greatest = fmaxf(greatest, v);
        }
        assert_ok(ctx, qnt_calib_moments(calib, c, &m));
        assert_true(m.least == least && m.greatest == greatest && m.absmax == fmaxf(-least, greatest));
        assert_true(fabs(m.mean - sum / TOKENS) < 1e-12 && fabs(m.mean_abs - magnitude / TOKENS) < 1e-12);
        assert_true(fabs(m.mean_square - square / TOKENS) < 1e-12);
    }
    assert_fails(ctx, qnt_calib_moments(calib, IN, &m), QNT_NOT_FOUND, "channel 37");
    assert_ok(ctx, qnt_calib_hessian(calib, hessian));
    want = hessian_of(x, TOKENS, IN, 0);
    for (size_t i = 0; i < IN * IN; i++)
        assert_true(fabsf(hessian[i] - want[i]) <= 1e-5f * (1 + fabsf(want[i])));
    qnt_calib_destroy(calib);
    qnt_calib_destroy(NULL);
    free(x);
    free(hessian);
    free(want);
    destroy_context(ctx, held);
}

/* Two halves merged are the whole: exactly, but for the order of the f64 sums. */
static void test_merge(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_recipe *pairs = recipe_of(ctx, "gptq:asymmetric=true"), *plain = recipe_of(ctx, "gptq");
    qnt_calib *calib[4];
    float *x = random_tokens(TOKENS, IN, 1), *y = random_tokens(TOKENS, IN, 2), *a = NEW(IN * IN, float),
          *b = NEW(IN * IN, float);
    (void)state;
    for (size_t i = 0; i < 3; i++)
        assert_ok(ctx, qnt_calib_create(ctx, pairs, IN, &calib[i]));
    assert_ok(ctx, qnt_calib_create(ctx, plain, IN, &calib[3]));
    assert_ok(ctx, qnt_calib_add_pair(calib[0], qnt_matrix_f32(x, TOKENS, IN), qnt_matrix_f32(y, TOKENS, IN)));
    assert_ok(ctx, qnt_calib_add_pair(calib[1], qnt_matrix_f32(x, 40, IN), qnt_matrix_f32(y, 40, IN)));
    assert_ok(ctx, qnt_calib_add_pair(calib[2], qnt_matrix_f32(x + 40 * IN, TOKENS - 40, IN),
                                      qnt_matrix_f32(y + 40 * IN, TOKENS - 40, IN)));
    assert_ok(ctx, qnt_calib_merge(calib[1], calib[2]));
    assert_int_equal(qnt_calib_tokens(calib[1]), TOKENS);
    assert_ok(ctx, qnt_calib_hessian(calib[0], a));
    assert_ok(ctx, qnt_calib_hessian(calib[1], b));
    for (size_t i = 0; i < IN * IN; i++)
        assert_true(fabsf(a[i] - b[i]) <= 1e-5f * (1 + fabsf(a[i])));
    assert_ok(ctx, qnti_gram_read(calib[0]->cross, 1, a));
    assert_ok(ctx, qnti_gram_read(calib[1]->cross, 1, b));
    for (size_t i = 0; i < IN; i++)
        for (size_t j = 0; j < IN; j++) {
            double sum = 0;
            for (size_t t = 0; t < TOKENS; t++)
                sum += ((double)y[t * IN + i] - (double)x[t * IN + i]) * (double)x[t * IN + j];
            assert_true(fabs(sum - (double)a[i * IN + j]) < 1e-3);
            assert_true(fabsf(a[i * IN + j] - b[i * IN + j]) < 1e-3f);
        }
    assert_int_equal(qnt_calib_merge(calib[0], calib[3]), QNT_INVALID);
    for (size_t i = 0; i < 4; i++)
        qnt_calib_destroy(calib[i]);
    qnt_recipe_destroy(pairs);
    qnt_recipe_destroy(plain);
    free(x);
    free(y);
    free(a);
    free(b);
    destroy_context(ctx, held);
}

/* Tokens with a number that is not finite are left out of everything, in pairs too. */
static void test_bad_tokens(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_calib *all, *good;
    float *x = random_tokens(TOKENS, IN, 1), *clean = NEW(TOKENS * IN, float), *fp = random_tokens(TOKENS, IN, 3),
          *a = NEW(IN * IN, float), *b = NEW(IN * IN, float);
    size_t kept = 0;
    (void)state;
    x[3] = NAN;
    x[7 * IN + IN - 1] = INFINITY;
    x[(TOKENS - 1) * IN] = -INFINITY;
    fp[20 * IN] = NAN;
    for (size_t t = 0; t < TOKENS; t++)
        if (t != 0 && t != 7 && t != 20 && t != TOKENS - 1)
            memcpy(clean + kept++ * IN, x + t * IN, IN * sizeof *x);
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_HESSIAN | QNTI_NEED_PAIRS | QNTI_NEED_SAMPLES, IN, &all));
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_HESSIAN | QNTI_NEED_SAMPLES, IN, &good));
    assert_ok(ctx, qnt_calib_add_pair(all, qnt_matrix_f32(x, TOKENS, IN), qnt_matrix_f32(fp, TOKENS, IN)));
    assert_ok(ctx, qnt_calib_add(good, qnt_matrix_f32(clean, kept, IN)));
    assert_int_equal(qnt_calib_tokens(all), kept);
    assert_int_equal(qnt_calib_skipped(all), 4);
    assert_int_equal(qnt_calib_skipped(good), 0);
    assert_ok(ctx, qnt_calib_hessian(all, a));
    assert_ok(ctx, qnt_calib_hessian(good, b));
    assert_memory_equal(a, b, IN * IN * sizeof *a);
    assert_int_equal(all->sample_count, kept);
    assert_memory_equal(all->samples, clean, kept * IN * sizeof *clean);
    qnt_calib_destroy(all);
    qnt_calib_destroy(good);
    free(x);
    free(clean);
    free(fp);
    free(a);
    free(b);
    qnt_context_destroy(ctx);
}

/* However many tokens come, the samples are every k-th of them, k a power of two. */
static void test_samples(void **state)
{
    enum { MANY = 5000 };
    qnt_context *ctx = context_of(1);
    qnt_calib *calib;
    float *x = NEW(MANY, float);
    (void)state;
    for (size_t t = 0; t < MANY; t++)
        x[t] = (float)t;
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_SAMPLES, 1, &calib));
    for (size_t t = 0; t < MANY; t += 100)
        assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x + t, 100, 1)));
    assert_int_equal(calib->sample_stride & (calib->sample_stride - 1), 0);
    assert_int_equal(calib->sample_count, qnti_ceil_div(MANY, calib->sample_stride));
    for (size_t i = 0; i < calib->sample_count; i++)
        assert_true(calib->samples[i] == (float)(i * calib->sample_stride));
    qnt_calib_destroy(calib);
    free(x);
    qnt_context_destroy(ctx);
}

static void test_importance(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_calib *calib;
    float x[4] = {1, 2, 3, 4}, importance[2] = {0.5f, 7}, got[2], bad[2] = {1, -1};
    (void)state;
    assert_ok(ctx, qnt_calib_create(ctx, NULL, 2, &calib));
    assert_false(qnti_calib_importance(calib, got));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, 2, 2)));
    assert_true(qnti_calib_importance(calib, got));
    assert_true(got[0] == 5 && got[1] == 10);
    assert_fails(ctx, qnt_calib_set_importance(calib, bad), QNT_NON_FINITE, "channel 1 is -1");
    bad[1] = NAN;
    assert_int_equal(qnt_calib_set_importance(calib, bad), QNT_NON_FINITE);
    assert_ok(ctx, qnt_calib_set_importance(calib, importance));
    assert_true(qnti_calib_importance(calib, got) && got[0] == 0.5f && got[1] == 7);
    qnt_calib_destroy(calib);
    qnt_context_destroy(ctx);
}

static void test_misuse(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_recipe *pairs = recipe_of(ctx, "gptq:asymmetric=true");
    float x[6] = {0};
    qnt_calib *calib;
    qnt_layer layers[2] = {{.name = "a", .weight = qnt_matrix_f32(x, 2, 3)},
                           {.name = "b", .weight = qnt_matrix_f32(x, 3, 2)}};
    qnt_recipe *rtn = recipe_of(ctx, "rtn");
    qnt_qlinear *q[2];
    (void)state;
    assert_fails(ctx, qnt_calib_create(ctx, NULL, 0, &calib), QNT_INVALID, "0 channels");
    assert_ok(ctx, qnt_calib_create(ctx, pairs, 3, &calib));
    assert_fails(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, 2, 3)), QNT_INVALID, "pairs");
    assert_fails(ctx, qnt_calib_add_pair(calib, qnt_matrix_f32(x, 2, 3), qnt_matrix_f32(x, 1, 3)), QNT_INVALID,
                 "1 x 3");
    assert_fails(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, 3, 2)), QNT_INVALID, "2 columns, not 3");
    layers[0].calib = calib;
    assert_fails(ctx, qnt_quantize_site(ctx, rtn, &(qnt_site){.layers = layers, .count = 2}, q), QNT_INVALID,
                 "layer b: 2 inputs");
    assert_null(q[0]);
    assert_null(q[1]);
    assert_ok(ctx, qnt_quantize_site(ctx, rtn, &(qnt_site){.layers = layers}, q));
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(pairs);
    qnt_recipe_destroy(rtn);
    qnt_context_destroy(ctx);
}

/* Layers of a site get what each would get alone, the second too, refined or with dead inputs. */
static void check_site(qnt_context *ctx, const char *text, const float *x)
{
    qnt_recipe *recipe = recipe_of(ctx, text);
    float *w = random_floats(2 * 20 * IN, 8, 1);
    qnt_layer layers[2] = {{.name = "a"}, {.name = "b"}};
    qnt_qlinear *q[2], *alone;
    qnt_calib *calib;
    assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
    for (size_t i = 0; i < 2; i++) {
        layers[i].weight = qnt_matrix_f32(w + i * 20 * IN, 20, IN);
        layers[i].calib = calib;
    }
    assert_ok(ctx, qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = layers, .count = 2}, q));
    for (size_t i = 0; i < 2; i++) {
        float *together = dequantized(ctx, q[i]), *single;
        qnt_layer_report a = {0}, b = {0};
        assert_ok(ctx, qnt_quantize(ctx, recipe, &layers[i], &alone));
        single = dequantized(ctx, alone);
        assert_memory_equal(together, single, 20 * IN * sizeof *single);
        assert_ok(ctx, qnt_report(q[i], &a));
        assert_ok(ctx, qnt_report(alone, &b));
        assert_string_equal(a.warnings, b.warnings);
        assert_memory_equal(&a.output_error, &b.output_error, sizeof a.output_error);
        free(together);
        free(single);
        qnt_qlinear_destroy(alone);
        qnt_qlinear_destroy(q[i]);
    }
    free(w);
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
}

static void test_sites(void **state)
{
    static const char *const recipes[] = {"gptq:group_size=8", "gptq:act_order=true,refine_passes=2,refit_scales=true",
                                          "rtn,refine", "spqr:stat_group_size=4", "owq:keep_columns=2",
                                          "spqr:permutation_order=spearman,group_size=6"};
    qnt_context *ctx = context_of(1);
    float *x = random_tokens(TOKENS, IN, 5), *dead = NEW(TOKENS * IN, float);
    (void)state;
    for (size_t t = 0; t < TOKENS; t++)
        x[t * IN + 4] = 0;
    for (size_t i = 0; i < COUNT(recipes); i++) {
        check_site(ctx, recipes[i], x);
        check_site(ctx, recipes[i], dead);
    }
    free(x);
    free(dead);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gram),    cmocka_unit_test(test_moments),    cmocka_unit_test(test_merge),
        cmocka_unit_test(test_bad_tokens), cmocka_unit_test(test_samples), cmocka_unit_test(test_importance),
        cmocka_unit_test(test_misuse),  cmocka_unit_test(test_sites),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
