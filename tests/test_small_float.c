/*
 * test_small_float.c - floats of few bits: every value, ties and ends, against their definition.
 */
#include "layout_support.h"

#include "base/number.h"

/* All codes are told apart, and each number goes to the nearest, an even code between two. */
static void check_float(const struct qnti_small_float *f)
{
    unsigned half = 1u << (f->bits - 1), codes = f == &qnti_e4m3 ? half - 1 : f == &qnti_e5m2 ? half - 4 : half;
    for (unsigned c = 0; c < codes; c++) {
        float x = qnti_small_value(f, c), next = c + 1 < codes ? qnti_small_value(f, c + 1) : INFINITY, middle;
        assert_int_equal(qnti_small_code(f, x), c);
        assert_int_equal(qnti_small_code(f, -x), c | half);
        assert_true(qnti_small_value(f, c | half) == -x && x < next);
        if (isinf(next))
            continue;
        middle = (x + next) / 2;
        assert_int_equal(qnti_small_code(f, middle), c + c % 2);
        assert_int_equal(qnti_small_code(f, nextafterf(middle, -1)), c);
        assert_int_equal(qnti_small_code(f, nextafterf(middle, 1e9f)), c + 1);
    }
    assert_int_equal(qnti_small_code(f, 1e30f), codes - 1);
    assert_int_equal(qnti_small_code(f, -INFINITY), (codes - 1) | half);
}

static void test_floats(void **state)
{
    static const float e2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    (void)state;
    check_float(&qnti_e4m3);
    check_float(&qnti_e5m2);
    check_float(&qnti_e2m1);
    for (unsigned c = 0; c < 8; c++)
        assert_true(qnti_small_value(&qnti_e2m1, c) == e2m1[c]);
    for (unsigned c = 0; c < 256; c++)
        assert_true(qnti_fp8_e4m3.level[c] == qnti_small_value(&qnti_e4m3, c));
    for (unsigned c = 0; c < 16; c++)
        assert_true(qnti_fp4_e2m1.level[c] == qnti_small_value(&qnti_e2m1, c));
    assert_true(qnti_small_value(&qnti_e5m2, 0x7b) == 57344 && qnti_small_value(&qnti_e5m2, 1) == 0x1p-16f);
    assert_true(qnti_small_value(&qnti_e4m3, 0x7e) == 448 && qnti_small_value(&qnti_e4m3, 1) == 0x1p-9f);
    assert_ptr_equal(qnti_small_float_book(8, qnti_fp8_e4m3.level), &qnti_fp8_e4m3);
    assert_null(qnti_small_float_book(4, qnti_nf4.level));
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
