/*
 * test_data_free.c - methods without data against their definitions: ranges by trying scales, zeros by plain loops,
 * codes of bitsandbytes by its kernel's comparisons; groups in strides; codebooks in the native format.
 */
#include "layer_support.h"

#include "pack/layout.h"
#include "solve/solve.h"

/* --- the exact range --- */

static double error_of(const struct qnti_range_search *rule, const float *x, size_t n, double s)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double level = fmin(fmax(rint((double)x[i] / s), rule->least), rule->most);
        sum += (s * level - (double)x[i]) * (s * level - (double)x[i]);
    }
    return sum;
}

static void check_scale(qnt_context *ctx, unsigned bits, const float *x, size_t n)
{
    struct qnti_range_search rule = {.least = 1 - (1 << (bits - 1)), .most = 1 << (bits - 1)};
    double scale, most = 0, error;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    assert_ok(ctx, qnti_best_scale(ctx, &rule, x, n, &scale));
    error = error_of(&rule, x, n, scale);
    for (int i = 1; i <= 4000; i++) /* 1e-9: rounding of the sums */
        assert_true(error <= error_of(&rule, x, n, 2 * most * i / 4000) * (1 + 1e-9) + 1e-24);
}

static void test_best_scale(void **state)
{
    static const size_t sizes[] = {1, 2, 3, 8, 33, 257, 2000};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (unsigned bits = 2; bits <= 8; bits++)
        for (size_t s = 0; s < COUNT(sizes); s++)
            for (int kind = 0; kind < 4; kind++) {
                float *x = random_floats(sizes[s], bits + 10 * s, 0.05f);
                for (size_t i = 0; i < sizes[s]; i++)
                    x[i] = kind == 1 ? fabsf(x[i]) : kind == 2 ? (float)(i % 5) * 0.25f - 0.5f : x[i];
                x[0] *= kind == 3 ? 40 : 1; /* one that is better clipped */
                check_scale(ctx, bits, x, sizes[s]);
                free(x);
            }
    qnt_context_destroy(ctx);
}

/* Without a number but 0 the scale is 1; of several that are exact it is the largest. */
static void test_exact_scales(void **state)
{
    static const float zeros[5] = {0}, one[4] = {0, 0, -0.75f, 0}, two[2] = {1, 2};
    struct qnti_range_search rule = {.least = -7, .most = 8};
    qnt_context *ctx = context_of(1);
    double scale;
    (void)state;
    assert_ok(ctx, qnti_best_scale(ctx, &rule, zeros, 5, &scale));
    assert_true(scale == 1);
    assert_ok(ctx, qnti_best_scale(ctx, &rule, one, 4, &scale));
    assert_true(fabs(scale - 0.75) < 1e-12);
    assert_ok(ctx, qnti_best_scale(ctx, &rule, two, 2, &scale));
    assert_true(fabs(scale - 1) < 1e-12);
    qnt_context_destroy(ctx);
}

/* A factor moves the scales and nothing else; the mask does not see signs. */
static void test_easyquant(void **state)
{
    enum { OUT = 20, IN = 70 };
    qnt_context *ctx = context_of(2);
    float *w = random_floats(OUT * IN, 3, 0.1f), *v = NEW(OUT * IN, float);
    qnt_qlinear *q, *other;
    (void)state;
    w[5] = 3;
    assert_ok(ctx, quantize_with(ctx, "easyquant", NULL, qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q));
    assert_true(q->sparse.count > 0 && q->sparse.type == QNT_F32 && q->sparse.value[0] == 3);
    for (size_t i = 0; i < OUT * IN; i++)
        v[i] = 0.5f * w[i];
    assert_ok(ctx, quantize_with(ctx, "easyquant", NULL, qnt_matrix_f32(v, OUT, IN), NULL, NULL, 0, &other));
    assert_memory_equal(q->segments[0].weight->code8, other->segments[0].weight->code8, OUT * IN);
    for (size_t r = 0; r < OUT; r++)
        assert_true(other->segments[0].weight->scale->value[r] == 0.5f * q->segments[0].weight->scale->value[r]);
    qnt_qlinear_destroy(other);
    for (size_t i = 0; i < OUT * IN; i++)
        v[i] = -w[i];
    assert_ok(ctx, quantize_with(ctx, "easyquant", "native", qnt_matrix_f32(v, OUT, IN), NULL, NULL, 0, &other));
    assert_int_equal(other->sparse.count, q->sparse.count);
    assert_memory_equal(other->sparse.column, q->sparse.column, q->sparse.count * sizeof(uint32_t));
    assert_int_equal(other->sparse.type, QNT_F16);
    qnt_qlinear_destroy(other);
    qnt_qlinear_destroy(q);
    free(w);
    free(v);
    qnt_context_destroy(ctx);
}

/* --- real zeros --- */

static double weight_error(qnt_context *ctx, const char *recipe, const float *w, size_t out, size_t in)
{
    qnt_layer_report report = {0};
    qnt_qlinear *q;
    assert_ok(ctx, quantize_with(ctx, recipe, NULL, qnt_matrix_f32(w, out, in), NULL, NULL, 0, &q));
    assert_ok(ctx, qnt_report(q, &report));
    qnt_qlinear_destroy(q);
    return report.weight_error;
}

/* Groups that keep their best are never worse than the range's zeros under the norm; moved scales help at 2 bits. */
static void test_hqq_options(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats(64 * 256, 9, 0.05f);
    double plain, best;
    (void)state;
    plain = weight_error(ctx, "hqq:bits=2,optimize=false", w, 64, 256);
    best = weight_error(ctx, "hqq:bits=2,per_group_stop=true,lp_norm=1", w, 64, 256);
    assert_true(best < plain);
    assert_true(weight_error(ctx, "hqq:bits=2,scale_update=true", w, 64, 256) < best);
    free(w);
    qnt_context_destroy(ctx);
}

/* axis=0: member k of group g is number g + k M of the flattened matrix; a size that does not divide it is refused. */
static void test_strided(void **state)
{
    enum { OUT = 6, IN = 20, SIZE = 8, GROUPS = OUT * IN / SIZE };
    qnt_context *ctx = context_of(2);
    float *w = random_floats(OUT * IN, 4, 1), *column = NEW(OUT * IN, float), *got, *want;
    qnt_qlinear *q, *rows, *back;
    unsigned char *file;
    size_t bytes;
    (void)state;
    for (size_t i = 0; i < OUT * IN; i++)
        column[i % GROUPS * SIZE + i / GROUPS] = w[i];
    assert_ok(ctx, quantize_with(ctx, "hqq:axis=0,group_size=8,solver=v2,early_stop=false", NULL,
                                 qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q));
    assert_ok(ctx, quantize_with(ctx, "hqq:group_size=0,solver=v2,early_stop=false", NULL,
                                 qnt_matrix_f32(column, GROUPS, SIZE), NULL, NULL, 0, &rows));
    got = dequantized(ctx, q);
    want = dequantized(ctx, rows);
    for (size_t i = 0; i < OUT * IN; i++)
        assert_true(got[i] == want[i % GROUPS * SIZE + i / GROUPS]);
    file = native_bytes(ctx, q, &bytes);
    assert_ok(ctx, native_read(ctx, file, bytes, "some.layer", &back));
    free(want);
    want = dequantized(ctx, back);
    assert_memory_equal(got, want, OUT * IN * sizeof *got);
    assert_true(qnti_qlinear_bits(back) == qnti_qlinear_bits(q));
    qnt_qlinear_destroy(back);
    qnt_qlinear_destroy(rows);
    qnt_qlinear_destroy(q);
    assert_fails(ctx, quantize_with(ctx, "hqq:axis=0,group_size=7", NULL, qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0,
                                    &q), QNT_UNSUPPORTED, "group_size=7");
    free(file);
    free(got);
    free(want);
    free(column);
    free(w);
    qnt_context_destroy(ctx);
}

static double output_error(qnt_context *ctx, const char *recipe, const float *w, const float *x)
{
    qnt_layer_report report = {0};
    qnt_qlinear *q;
    assert_ok(ctx, quantize_with(ctx, recipe, NULL, qnt_matrix_f32(w, 24, 64), x, NULL, 200, &q));
    assert_ok(ctx, qnt_report(q, &report));
    qnt_qlinear_destroy(q);
    return report.output_error;
}

/* Descent goes on from real zeros, in rows and in strides; what stands outside the grid it leaves alone. */
static void test_refined(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats(24 * 64, 3, 0.1f), *x = random_tokens(200, 64, 4);
    double none;
    (void)state;
    none = weight_error(ctx, "hqq:group_size=32", w, 24, 64); /* what unrelated inputs would make of it */
    assert_true(output_error(ctx, "hqq:group_size=32,refine", w, x) < none);
    assert_true(output_error(ctx, "hqq:axis=0,group_size=8,refine", w, x) < none);
    assert_true(output_error(ctx, "easyquant,refine", w, x) < 2 * none);
    free(w);
    free(x);
    qnt_context_destroy(ctx);
}

/* --- codebooks --- */

/* dQuantizeFP4 of csrc/kernels.cu. */
static unsigned fp4_kernel(float x)
{
    unsigned sign = x < 0 ? 8 : 0;
    x = fabsf(x);
    if (x > 0.29166667f)
        return sign + (x > 0.583333f ? (x > 0.8333333f ? 3u : 2u) : x > 0.4166667f ? 5u : 4u);
    return sign + (x > 0.0859375f ? (x > 0.20833333f ? 7u : 6u) : x > 0.00260417f ? 1u : 0u);
}

/* dQuantizeNF4: how many thresholds are below. */
static unsigned nf4_kernel(float x)
{
    static const float bounds[15] = {
        -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f, -0.33967943489551544f,
        -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
        0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,  0.3893125355243683f,
        0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f};
    unsigned code = 0;
    for (size_t k = 0; k < 15; k++)
        code += x > bounds[k];
    return code;
}

static void check_code(const qnt_context *ctx, float x)
{
    static const float one = 1, zero = 0;
    struct qnti_grid nf4 = qnti_codebook_grid(qnti_context_kernels(ctx), &qnti_nf4, 64, QNT_F32);
    struct qnti_grid fp4 = qnti_codebook_grid(qnti_context_kernels(ctx), &qnti_fp4, 64, QNT_F32);
    uint16_t code;
    qnti_grid_round(&nf4, nf4.table, 1, &x, &one, &zero, 0, &code, NULL);
    assert_int_equal(code, nf4_kernel(x));
    qnti_grid_round(&fp4, fp4.table, 1, &x, &one, &zero, 0, &code, NULL);
    assert_int_equal(code, fp4_kernel(x));
}

static void test_codes(void **state)
{
    static const float bounds[] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f,
                                   0.8333333f};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (int i = -4000; i <= 4000; i++)
        check_code(ctx, (float)i / 4000);
    for (size_t i = 0; i < COUNT(bounds); i++)
        for (int sign = -1; sign <= 1; sign += 2) {
            float x = (float)sign * bounds[i];
            check_code(ctx, x);
            check_code(ctx, nextafterf(x, 2));
            check_code(ctx, nextafterf(x, -2));
        }
    for (unsigned k = 0; k + 1 < 16; k++) { /* about the midpoints */
        float x = (qnti_nf4.level[k] + qnti_nf4.level[k + 1]) / 2;
        check_code(ctx, x);
        check_code(ctx, nextafterf(x, 2));
        check_code(ctx, nextafterf(x, -2));
    }
    check_code(ctx, -0.0f);
    check_code(ctx, -0x1p-149f);
    qnt_context_destroy(ctx);
}

/* The dynamic map: ascending, all but 1 in both signs. */
static void test_dynamic_map(void **state)
{
    const float *level = qnti_dynamic8.level;
    (void)state;
    for (size_t i = 0; i + 1 < 256; i++)
        assert_true(level[i] < level[i + 1]);
    for (size_t i = 0; i < 127; i++)
        assert_true(level[i] == -level[254 - i]);
    assert_true(level[127] == 0 && level[255] == 1);
    assert_true(level[254] == 0.99296874f && fabsf(level[128] / 5.5e-07f - 1) < 1e-6f);
}

/* Blocks of zeros have the code of 0; maxima far below their mean are not coded where their sign would turn. */
static void test_zero_blocks(void **state)
{
    enum { OUT = 8, IN = 64 };
    qnt_context *ctx = context_of(1);
    float *w = random_floats(OUT * IN, 8, 1), *values;
    qnt_qlinear *q;
    (void)state;
    memset(w, 0, IN * sizeof *w);
    for (size_t f = 0; f < 2; f++) {
        assert_ok(ctx, quantize_with(ctx, f ? "bnb4:format=fp4,double_quant=true" : "bnb4:double_quant=true", NULL,
                                     qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q));
        values = dequantized(ctx, q);
        for (size_t i = 0; i < IN; i++)
            assert_true(q->segments[0].weight->code8[i] == (f ? 0 : 7) && values[i] == 0);
        assert_non_null(q->segments[0].weight->grid.scale_grid);
        free(values);
        qnt_qlinear_destroy(q);
    }
    for (size_t i = 0; i < IN; i++)
        w[i] = 1e-6f * (float)(i % 7);
    assert_ok(ctx, quantize_with(ctx, "bnb4:double_quant=true", NULL, qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q));
    for (size_t i = 0; i < OUT; i++)
        assert_true(q->segments[0].weight->scale->value[i] > 0);
    qnt_qlinear_destroy(q);
    free(w);
    qnt_context_destroy(ctx);
}

/* What the options promise: less error in the same format. */
static void test_bnb4_options(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats(32 * 256, 2, 0.1f);
    double nested = weight_error(ctx, "bnb4:double_quant=true", w, 32, 256);
    (void)state;
    assert_true(weight_error(ctx, "bnb4:double_quant=true,requantize=true", w, 32, 256) <= nested);
    assert_true(weight_error(ctx, "bnb4:scale_search=true", w, 32, 256) < weight_error(ctx, "bnb4", w, 32, 256));
    free(w);
    qnt_context_destroy(ctx);
}

/* --- the native format --- */

static void test_native(void **state)
{
    static const char *const recipes[] = {"bnb4", "bnb4:format=fp4,double_quant=true,block_size=32", "easyquant",
                                          "hqq"};
    qnt_context *ctx = context_of(1);
    float *w = random_floats(7 * 45, 6, 0.1f);
    (void)state;
    for (size_t i = 0; i < COUNT(recipes); i++) {
        qnt_qlinear *q, *back;
        unsigned char *file, *again;
        size_t bytes, same;
        assert_ok(ctx, quantize_with(ctx, recipes[i], NULL, qnt_matrix_f32(w, 7, 45), NULL, NULL, 0, &q));
        file = native_bytes(ctx, q, &bytes);
        assert_ok(ctx, native_read(ctx, file, bytes, "some.layer", &back));
        assert_true(qnti_qlinear_bits(back) == qnti_qlinear_bits(q));
        again = native_bytes(ctx, back, &same);
        assert_int_equal(same, bytes);
        assert_memory_equal(again, file, bytes);
        free(again);
        free(file);
        qnt_qlinear_destroy(back);
        qnt_qlinear_destroy(q);
    }
    free(w);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_scale),  cmocka_unit_test(test_exact_scales), cmocka_unit_test(test_easyquant),
        cmocka_unit_test(test_hqq_options), cmocka_unit_test(test_strided),      cmocka_unit_test(test_refined),
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_dynamic_map), cmocka_unit_test(test_zero_blocks),  cmocka_unit_test(test_bnb4_options),
        cmocka_unit_test(test_native),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
