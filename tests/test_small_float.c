/*
 * test_small_float.c - floats of few bits: every value, ties and ends, against their definition.
 */
#include "layout_support.h"

#include "base/number.h"

/*
 * All codes are told apart, and each number goes to the nearest; between two to an even code, or, without a mantissa,
 * up but to 0.
 */
static void check_float(const struct qnti_small_float *f)
{
    unsigned half = 1u << (f->bits - 1), codes = half - (f == &qnti_e4m3 ? 1 : f == &qnti_e5m2 ? 4 : 0);
    for (unsigned c = 0; c < codes; c++) {
        float x = qnti_small_value(f, c), next = c + 1 < codes ? qnti_small_value(f, c + 1) : INFINITY, middle;
        assert_int_equal(qnti_small_code(f, x), c);
        assert_int_equal(qnti_small_code(f, -x), c | half);
        assert_true(qnti_small_value(f, c | half) == -x && x < next);
        if (isinf(next))
            continue;
        middle = (x + next) / 2;
        assert_int_equal(qnti_small_code(f, middle), c + (f->mantissa ? c % 2 : c > 0));
        assert_int_equal(qnti_small_code(f, nextafterf(middle, -1)), c);
        assert_int_equal(qnti_small_code(f, nextafterf(middle, 1e9f)), c + 1);
    }
    assert_int_equal(qnti_small_code(f, 1e30f), codes - 1);
    assert_int_equal(qnti_small_code(f, -INFINITY), (codes - 1) | half);
}

/* The rule of zeroquant.md, of a magnitude. */
static float cast(float a, int mantissa, int bias, float most)
{
    float e, step;
    a = fminf(a, most);
    e = a > 0 ? fmaxf(floorf(log2f(a)), (float)(1 - bias)) : (float)(1 - bias);
    step = exp2f(e - (float)mantissa);
    return rintf(a / step) * step;
}

/* Numbers of all sizes, near ties and far from them, against that rule. */
static void check_casts(const struct qnti_small_float *f, int bias)
{
    struct qnti_random random;
    qnti_random_seed(&random, 9);
    for (int i = 0; i < 20000; i++) {
        float x = exp2f(24 * random_float(&random)) * (i % 3 ? 1 : 0.125f * (float)random_below(&random, 64));
        assert_true(qnti_small_value(f, qnti_small_code(f, x)) == cast(x, (int)f->mantissa, bias, f->most));
    }
}

static void check_book(const struct qnti_codebook *book, const struct qnti_small_float *f, int bias)
{
    struct qnti_grid grid = qnti_codebook_grid(NULL, book, 0, QNT_F32);
    check_float(f);
    check_casts(f, bias);
    assert_true(book->number == f && book->bits == f->bits);
    for (unsigned c = 0; c < 1u << f->bits; c++)
        assert_true(book->level[c] == qnti_small_value(f, c));
    assert_ptr_equal(qnti_small_float_book(&grid), book);
}

static void test_floats(void **state)
{
    static const float e2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6}, e3m0[] = {0, 0.25f, 0.5f, 1, 2, 4, 8, 16},
                       e1m2[] = {0, 0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f};
    struct qnti_grid fp8, nf4;
    (void)state;
    check_book(&qnti_fp8_e4m3, &qnti_e4m3, 7);
    check_book(&qnti_fp8_e5m2, &qnti_e5m2, 15);
    check_book(&qnti_fp4_e2m1, &qnti_e2m1, 1);
    check_book(&qnti_fp4_e3m0, &qnti_e3m0, 3);
    check_book(&qnti_fp4_e1m2, &qnti_e1m2, 0);
    for (unsigned c = 0; c < 8; c++) {
        assert_true(qnti_small_value(&qnti_e2m1, c) == e2m1[c]);
        assert_true(qnti_small_value(&qnti_e3m0, c) == e3m0[c] && qnti_small_value(&qnti_e1m2, c) == e1m2[c]);
    }
    assert_true(qnti_small_value(&qnti_e4m3, 0x7e) == 448 && qnti_small_value(&qnti_e4m3, 1) == 0x1p-9f);
    assert_true(qnti_small_value(&qnti_e5m2, 0x7b) == 57344 && qnti_small_value(&qnti_e5m2, 1) == 0x1p-16f);
    fp8 = qnti_codebook_grid(NULL, &qnti_fp8_e4m3, 0, QNT_F32);
    nf4 = qnti_codebook_grid(NULL, &qnti_nf4, 0, QNT_F32);
    assert_ptr_equal(qnti_small_float_book(&fp8), &qnti_fp8_e4m3);
    assert_null(qnti_small_float_book(&nf4));
    fp8.levels--; /* no more of them are there to be looked at */
    assert_null(qnti_small_float_book(&fp8));
    for (unsigned c = 0; c < 255; c++)
        assert_int_equal(qnti_f32_to_e8m0(qnti_e8m0_to_f32(c)), c);
    assert_true(qnti_e8m0_to_f32(0) == 0x1p-127f && qnti_e8m0_to_f32(127) == 1);
    assert_int_equal(qnti_f32_to_e8m0(1.49f), 127);
    assert_int_equal(qnti_f32_to_e8m0(1.5f), 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_floats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
