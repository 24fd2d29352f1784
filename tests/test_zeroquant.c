/*
 * test_zeroquant.c - ZeroQuant's grids and scales against the formulas of its sheet in plain form; what it refuses.
 */
#include "layer_support.h"
#include "base/number.h"

enum { OUT = 24, IN = 80, TOKENS = 100 };

#include "one_layer_support.h"

static void begin(struct layer *l)
{
    *l = (struct layer){.ctx = context_of(2)};
    l->w = random_floats(OUT * IN, 5, 0.05f);
    l->x = random_tokens(TOKENS, IN, 6);
    for (size_t c = 0; c < IN; c++) {
        l->w[3 * IN + c] = c < 32 ? 0 : l->w[3 * IN + c];         /* a group of zeros */
        l->w[4 * IN + c] = c < 16 ? 0.3f : c < 32 ? -0.3f : 7e-4f * (float)(c % 9) + 1; /* constants; far from 0 */
    }
}

static qnt_layer_report report_of(const struct layer *l)
{
    qnt_layer_report report = {0};
    assert_int_equal(qnt_report(l->q, &report), QNT_OK);
    return report;
}

static qnt_part part_of(const struct layer *l, const char *name)
{
    qnt_part part;
    assert_ok(l->ctx, qnt_qlinear_part(l->q, name, &part));
    return part;
}

/* Read back it is the same layer, inputs and all. */
static void check_native(const struct layer *l)
{
    size_t bytes;
    unsigned char *file = native_bytes(l->ctx, l->q, &bytes);
    float *value, *y = NEW(TOKENS * OUT, float), *again = NEW(TOKENS * OUT, float);
    qnt_matrix x = qnt_matrix_f32(l->x, TOKENS, IN);
    qnt_layer_report report = {0};
    qnt_qlinear *back;
    assert_ok(l->ctx, native_read(l->ctx, file, bytes, "some.layer", &back));
    value = dequantized(l->ctx, back);
    assert_memory_equal(value, l->value, OUT * IN * sizeof *value);
    assert_ok(l->ctx, qnt_forward(l->q, x, y));
    assert_ok(l->ctx, qnt_forward(back, x, again));
    assert_memory_equal(y, again, TOKENS * OUT * sizeof *y);
    assert_int_equal(qnt_report(back, &report), QNT_OK);
    assert_true(report.bits_per_weight == report_of(l).bits_per_weight);
    qnt_qlinear_destroy(back);
    free(file);
    free(value);
    free(y);
    free(again);
}

/* --- integers --- */

static float clamp(float x, float lo, float hi)
{
    return fminf(fmaxf(x, lo), hi);
}

/* n numbers by the sheet. */
static void round_sheet(const float *w, size_t n, int bits, bool sym, float *value)
{
    float lo = INFINITY, hi = -INFINITY, levels = (float)(1 << bits), s, p;
    for (size_t i = 0; i < n; i++) {
        lo = fminf(lo, w[i]);
        hi = fmaxf(hi, w[i]);
    }
    s = sym ? fmaxf(-lo, hi) / (levels / 2) : (hi - lo) / levels;
    p = sym ? -levels / 2 : rintf(lo / s);
    for (size_t i = 0; i < n; i++) {
        if (s == 0)
            value[i] = w[i];
        else if (sym)
            value[i] = clamp(rintf(w[i] / s), -levels / 2, levels / 2 - 1) * s;
        else
            value[i] = clamp(rintf((w[i] - p * s) / s), 0, levels - 1) * s + p * s;
    }
}

static void check_integers(struct layer *l, const char *recipe, int bits, size_t group, bool flat, bool sym)
{
    size_t different = 0, cols = flat ? OUT * IN : IN;
    float *want = NEW(OUT * IN, float);
    quantize(l, recipe, NULL);
    for (size_t first = 0; first < OUT * IN; first += cols)
        for (size_t c = 0; c < cols; c += group)
            round_sheet(l->w + first + c, c + group < cols ? group : cols - c, bits, sym, want + first + c);
    for (size_t i = 0; i < OUT * IN; i++)
        different += !(fabsf(want[i] - l->value[i]) <= 1e-6f);
    assert_true(different <= (sym ? 0 : 2)); /* ties of quotients that are rounded in another order */
    check_native(l);
    quantize(l, recipe, "native");
    check_native(l);
    free(want);
}

static void test_integers(void **state)
{
    struct layer l;
    qnt_part part;
    (void)state;
    begin(&l);
    check_integers(&l, "zeroquant:group_size=16", 8, 16, false, true);
    check_integers(&l, "zeroquant:bits=4,group_size=0", 4, IN, false, true);
    check_integers(&l, "zeroquant:bits=2,group_size=32", 2, 32, false, true);
    check_integers(&l, "zeroquant:bits=4,group_size=16,sym=false,act_sym=false", 4, 16, false, false);
    check_integers(&l, "zeroquant:bits=3,group_size=33,sym=false,act_bits=0", 3, 33, false, false);
    check_integers(&l, "zeroquant:bits=4,groups=30,act_granularity=tensor", 4, OUT * IN / 30, true, true);
    part = part_of(&l, "scales");
    assert_true(part.shape[0] == 30 && part.shape[1] == 1);
    qnt_part_free(&part);
    check_integers(&l, "zeroquant:bits=5,groups=4,sym=false", 5, OUT * IN / 4, true, false);
    quantize(&l, "zeroquant:bits=4,group_size=0", NULL);
    part = part_of(&l, "zeros");
    for (size_t r = 0; r < OUT; r++)
        assert_true(((float *)part.data)[r] == 0);
    qnt_part_free(&part);
    end(&l);
}

/* --- scales of floats --- */

static const float *scales_of(struct layer *l, const char *recipe, qnt_part *part)
{
    quantize(l, recipe, NULL);
    *part = part_of(l, "scales");
    assert_true(part->shape[0] == OUT && part->shape[1] == IN / 16);
    return part->data;
}

static bool is_power(double x)
{
    int exponent;
    return frexp(x, &exponent) == 0.5;
}

/* Within the factor that a rule allows of the free scale s, in its direction. */
static void check_scale(const char *rule, double s, double restricted)
{
    double ratio = restricted / s;
    if (strcmp(rule, "up") == 0)
        assert_true(ratio >= 1 && ratio < 2);
    else if (strcmp(rule, "down") == 0)
        assert_true(ratio > 0.5 && ratio <= 1);
    else
        assert_true(ratio >= sqrt(0.5) && ratio <= sqrt(2));
}

static void check_rule(struct layer *l, const char *rule, bool by_tensor)
{
    enum { GROUPS = IN / 16 };
    char recipe[160];
    qnt_part free_part, part;
    const float *free_scale = scales_of(l, "zeroquant:format=fp4_e2m1,group_size=16", &free_part), *s;
    double most = 0;
    for (size_t i = 0; i < OUT * GROUPS; i++)
        if (i != 3 * GROUPS && i != 3 * GROUPS + 1)
            most = fmax(most, (double)free_scale[i]);
    assert_true(free_scale[3 * GROUPS] == 1); /* of zeros */
    snprintf(recipe, sizeof recipe, "zeroquant:format=fp4_e2m1,group_size=16,scale_restrict=m1,scale_round=%s", rule);
    s = scales_of(l, recipe, &part);
    for (size_t i = 0; i < OUT * GROUPS; i++) {
        assert_true(is_power((double)s[i]));
        if (free_scale[i] != 1)
            check_scale(rule, (double)free_scale[i], (double)s[i]);
    }
    assert_true(s[3 * GROUPS] == 1);
    qnt_part_free(&part);
    snprintf(recipe, sizeof recipe,
             "zeroquant:format=fp4_e2m1,group_size=16,scale_restrict=m2,scale_round=%s,scale_scope=%s", rule,
             by_tensor ? "tensor" : "row");
    s = scales_of(l, recipe, &part);
    for (size_t r = 0; r < OUT; r++) {
        double top = by_tensor ? most : 0;
        for (size_t g = 0; !by_tensor && g < GROUPS; g++)
            top = fmax(top, free_scale[r * GROUPS + g] == 1 ? 0 : (double)free_scale[r * GROUPS + g]);
        for (size_t g = 0; g < GROUPS; g++) {
            assert_true(is_power(top / (double)s[r * GROUPS + g]) && (double)s[r * GROUPS + g] <= top);
            if (free_scale[r * GROUPS + g] != 1)
                check_scale(rule, (double)free_scale[r * GROUPS + g], (double)s[r * GROUPS + g]);
        }
    }
    check_native(l);
    qnt_part_free(&part);
    qnt_part_free(&free_part);
}

static void test_restricted_scales(void **state)
{
    static const char *const rules[] = {"up", "down", "nearest"};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(rules); i++)
        for (int by_tensor = 0; by_tensor < 2; by_tensor++)
            check_rule(&l, rules[i], by_tensor);
    quantize(&l, "zeroquant:format=fp4_e2m1,group_size=16,scale_restrict=m1", "native");
    assert_true(report_of(&l).bits_per_weight == 4 + 8.0 / 16);
    check_native(&l);
    quantize(&l, "zeroquant:format=fp4_e2m1,group_size=16,scale_restrict=m2", "native");
    assert_true(report_of(&l).bits_per_weight == 4 + 7.0 / 16 + 16.0 / IN);
    check_native(&l);
    end(&l);
}

/* Every weight is the cast of the sheet on its scale, also where feedback goes on; m2's scales stand before it. */
static void test_floats(void **state)
{
    static const char *const formats[] = {"fp4_e2m1", "fp4_e3m0", "fp4_e1m2", "fp8_e4m3", "fp8_e5m2"};
    static const struct qnti_small_float *const numbers[] = {&qnti_e2m1, &qnti_e3m0, &qnti_e1m2, &qnti_e4m3,
                                                             &qnti_e5m2};
    struct layer l;
    qnt_part part, before;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(formats); i++) {
        char recipe[128];
        const float *s;
        snprintf(recipe, sizeof recipe, "zeroquant:format=%s,act_format=%s,group_size=16", formats[i], formats[i]);
        s = scales_of(&l, recipe, &part);
        for (size_t k = 0; k < OUT * IN; k++) {
            float scale = s[k / IN * (IN / 16) + k % IN / 16];
            unsigned code = qnti_small_code(numbers[i], l.w[k] / scale);
            assert_true(l.value[k] == qnti_small_value(numbers[i], code) * scale);
        }
        check_native(&l);
        qnt_part_free(&part);
    }
    scales_of(&l, "zeroquant:format=fp4_e2m1,group_size=16,scale_restrict=m2", &before);
    scales_of(&l, "zeroquant:format=fp4_e2m1,group_size=16,scale_restrict=m2,solver=gptq,rank=4", &part);
    assert_memory_equal(part.data, before.data, OUT * (IN / 16) * sizeof(float));
    check_native(&l);
    qnt_part_free(&part);
    qnt_part_free(&before);
    end(&l);
}

/* --- activations --- */

/* Static scales by channels: x / s is whole, s in the weight; the output is that of a float layer on the same. */
static void check_channels(struct layer *l, const char *recipe, float end, bool floats)
{
    float *y = NEW(TOKENS * OUT, float);
    qnt_part scale;
    quantize(l, recipe, NULL);
    scale = part_of(l, "scale");
    assert_ok(l->ctx, qnt_forward(l->q, qnt_matrix_f32(l->x, TOKENS, IN), y));
    for (size_t c = 0; c < IN; c++) {
        float most = 0;
        for (size_t t = 0; t < TOKENS; t++)
            most = fmaxf(most, fabsf(l->x[t * IN + c]));
        assert_true(((float *)scale.data)[c] == (most > 0 ? most / end : 1));
    }
    for (size_t t = 0; t < TOKENS; t += 7)
        for (size_t r = 0; r < OUT; r += 5) {
            double sum = 0, size = 0;
            for (size_t c = 0; c < IN; c++) {
                float s = ((float *)scale.data)[c], x = l->x[t * IN + c] / s;
                x = floats ? qnti_round_to(QNT_F8_E4M3, x) : clamp(rintf(x), -end, end - 1);
                sum += (double)x * (double)s * (double)l->value[r * IN + c];
                size += fabs((double)x * (double)s * (double)l->value[r * IN + c]);
            }
            assert_true(fabs((double)y[t * OUT + r] - sum) <= 1e-5 * size);
        }
    check_native(l);
    qnt_part_free(&scale);
    free(y);
}

static void test_channels(void **state)
{
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t t = 0; t < TOKENS; t++)
        l.x[t * IN + 9] = 0;
    check_channels(&l, "zeroquant:act_granularity=channel", 128, false);
    check_channels(&l, "zeroquant:act_granularity=channel,act_format=fp8_e4m3,rank=3", 448, true);
    check_channels(&l, "zeroquant:act_granularity=channel,bits=4,solver=gptq", 128, false);
    end(&l);
}

/* One grid for all tokens, fixed: the half open range of what was seen. */
static void test_static_tensor(void **state)
{
    float lo = 0, hi = 0;
    struct layer l;
    qnt_part scale, zero;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < TOKENS * IN; i++) {
        lo = fminf(lo, l.x[i]);
        hi = fmaxf(hi, l.x[i]);
    }
    quantize(&l, "zeroquant:act_granularity=tensor,act_static=true,act_sym=false", NULL);
    scale = part_of(&l, "act_scale");
    zero = part_of(&l, "act_zero");
    assert_true(*(float *)scale.data == (hi - lo) / 256);
    assert_true(*(float *)zero.data == -rintf(lo / *(float *)scale.data));
    check_native(&l);
    qnt_part_free(&scale);
    qnt_part_free(&zero);
    quantize(&l, "zeroquant:act_granularity=tensor,act_static=true", NULL);
    scale = part_of(&l, "act_scale");
    assert_true(*(float *)scale.data == fmaxf(-lo, hi) / 128);
    check_native(&l);
    qnt_part_free(&scale);
    end(&l);
}

/* --- what it takes, and what not --- */

static void test_refusals(void **state)
{
    static const char *const wrong[][2] = {
        {"zeroquant:solver=lkd", "rtn|gptq"},
        {"zeroquant:act_bits=12", "act_bits"},
        {"zeroquant:act_static=true", "act_static"},
        {"zeroquant:act_format=fp8_e4m3,act_sym=false", "act_sym"},
        {"zeroquant:format=fp4_e2m1,sym=false", "sym=false"},
        {"zeroquant:scale_restrict=m1", "scale_restrict"},
        {"zeroquant:groups=4,solver=gptq", "solver=gptq"}};
    static const char *const grids[] = {"zeroquant:format=fp4_e2m1", "zeroquant:groups=4", "zeroquant:sym=false"};
    struct layer l;
    qnt_recipe *recipe;
    qnt_qlinear *q;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_fails(l.ctx, qnt_recipe_parse(l.ctx, wrong[i][0], &recipe), QNT_INVALID, wrong[i][1]);
    assert_fails(l.ctx, quantize_with(l.ctx, "zeroquant:groups=7", NULL, qnt_matrix_f32(l.w, OUT, IN), NULL, NULL, 0,
                                      &q), QNT_INVALID, "groups=7");
    for (size_t i = 0; i < COUNT(grids); i++)
        assert_fails(l.ctx, quantize_with(l.ctx, grids[i], "compressed-tensors", qnt_matrix_f32(l.w, OUT, IN), NULL,
                                          NULL, 0, &q), QNT_UNSUPPORTED, "a grid of its own");
    assert_fails(l.ctx, quantize_with(l.ctx, "zeroquant:act_bits=16", "awq", qnt_matrix_f32(l.w, OUT, IN), NULL, NULL,
                                      0, &q), QNT_UNSUPPORTED, "a grid of its own"); /* AWQ's files prefer zeros */
    end(&l);
}

/* W8A8 by rows and by groups stands in compressed-tensors, 4 bits in GPTQ's files, and is the same there. */
static void test_formats(void **state)
{
    static const char *const pairs[][2] = {{"zeroquant:group_size=0", "compressed-tensors"},
                                           {"zeroquant:group_size=0", "compressed-tensors:w8a8"},
                                           {"zeroquant:bits=4,group_size=16", "compressed-tensors"},
                                           {"zeroquant:act_bits=16", "compressed-tensors:w8a16"},
                                           {"zeroquant:bits=4,group_size=16,sym=true,act_bits=16", "awq"}};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(pairs); i++) {
        qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
        size_t count, bytes;
        qnt_qlinear *back;
        uint8_t *packed;
        float *value;
        quantize(&l, pairs[i][0], pairs[i][1]);
        assert_ok(l.ctx, qnt_packed_tensors(l.q, pairs[i][1], tensors, &count, &bytes));
        packed = NEW(bytes, uint8_t);
        assert_ok(l.ctx, qnt_pack(l.q, pairs[i][1], packed, bytes));
        assert_ok(l.ctx, qnt_unpack(l.ctx, pairs[i][1], "some.layer", tensors, count, packed, bytes, &back));
        value = dequantized(l.ctx, back);
        assert_memory_equal(value, l.value, OUT * IN * sizeof *value);
        qnt_qlinear_destroy(back);
        free(value);
        free(packed);
    }
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers), cmocka_unit_test(test_restricted_scales), cmocka_unit_test(test_floats),
        cmocka_unit_test(test_channels), cmocka_unit_test(test_static_tensor),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
