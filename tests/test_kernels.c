/*
 * test_kernels.c - every table gives the bits of the scalar one, and the scalar one those that were worked out by hand.
 *
 * All lengths 0 .. 67, pointers off their alignment, numbers chosen to be nasty
 * (any bits, ties, infinities, NaNs, zeros of both signs, subnormals). Arrays
 * are exactly as long as they must be, so that the address sanitizer sees a
 * read beyond them; what lies behind an output is compared too.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/kernels.h"
#include "base/number.h"

enum { LENGTHS = 68, SHIFTS = 3, MOST = LENGTHS + SHIFTS };

static const uint64_t seed = 0x5eed0123456789abu;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float nasty(uint64_t *state)
{
    static const uint32_t special[] = {
        0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0xff7fffff, 0x7f800000,
        0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001, 0xffbfffff, 0x477fefff, 0x477ff000, 0x33000000, 0x33000001,
        0x38800000, 0x387fffff, 0x3f000000, 0xbf000000, 0x3fc00000, 0xbfc00000, 0x40200000, 0x4f000000, 0xcf000001,
    };
    uint64_t r = next_random(state);
    uint32_t word = (uint32_t)(r >> 32);
    switch (r % 4) {
    case 0:
        return qnti_float(word);
    case 1:
        return qnti_float(special[word % (sizeof special / sizeof *special)]);
    case 2: /* halves: ties on a grid of scale 1 */
        return 0.5f * (float)(int)(word % 64) - 16.0f;
    default:
        return (float)(int32_t)word * 0x1p-28f;
    }
}

/* Mostly what grids have in earnest, sometimes anything. */
static float nasty_scale(uint64_t *state)
{
    static const float usual[] = {1.0f, 0.5f, 0.1f, 3.0f, 0.0f, -0.0f, 0x1p-140f};
    uint64_t r = next_random(state);
    return r % 8 ? usual[(r >> 8) % (sizeof usual / sizeof *usual)] : nasty(state);
}

static float nasty_zero(uint64_t *state)
{
    uint64_t r = next_random(state);
    return r % 8 ? (float)((r >> 8) % 16) : nasty(state);
}

static void *memory(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    assert_non_null(p);
    return p;
}

static float *numbers(size_t n, float (*make)(uint64_t *), uint64_t *state)
{
    float *x = memory(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = make(state);
    return x;
}

static uint16_t *integers(size_t n, uint64_t *state)
{
    uint16_t *x = memory(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (uint16_t)next_random(state);
    return x;
}

/* C leaves open which NaN arithmetic gives; everything else is compared by bits. */
static void assert_same_numbers(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(isnan(a[i]) && isnan(b[i])))
            assert_int_equal(qnti_bits(a[i]), qnti_bits(b[i]));
}

/* Calls check(table, scalar, n, shift, state) for every other table. */
typedef void (*check_function)(const struct qnti_kernels *k, const struct qnti_kernels *plain, size_t n, size_t shift,
                               uint64_t *state);

static void for_all_tables(check_function check)
{
    size_t count;
    const struct qnti_kernels *const *tables = qnti_kernels_available(&count);
    for (size_t t = 1; t < count; t++) {
        uint64_t state = seed;
        print_message("%s, seed %#llx\n", tables[t]->name, (unsigned long long)seed);
        for (size_t n = 0; n < LENGTHS; n++)
            for (size_t shift = 0; shift < SHIFTS; shift++)
                check(tables[t], tables[0], n, shift, &state);
    }
}

static void check_to_f32(void (*f)(size_t, const uint16_t *, float *), void (*plain)(size_t, const uint16_t *, float *),
                         size_t n, size_t shift, uint64_t *state)
{
    float a[MOST] = {0}, b[MOST] = {0};
    uint16_t *x = integers(n + shift, state);
    for (size_t i = 0; i < n + shift; i += 5)
        x[i] |= 0x7c00u; /* infinities and NaNs */
    f(n, x + shift, a + shift);
    plain(n, x + shift, b + shift);
    assert_memory_equal(a, b, sizeof a);
    free(x);
}

static void check_from_f32(void (*f)(size_t, const float *, uint16_t *),
                           void (*plain)(size_t, const float *, uint16_t *), size_t n, size_t shift, uint64_t *state)
{
    uint16_t a[MOST] = {0}, b[MOST] = {0};
    float *x = numbers(n + shift, nasty, state);
    f(n, x + shift, a + shift);
    plain(n, x + shift, b + shift);
    assert_memory_equal(a, b, sizeof a);
    free(x);
}

static void check_conversions(const struct qnti_kernels *k, const struct qnti_kernels *plain, size_t n, size_t shift,
                              uint64_t *state)
{
    check_to_f32(k->f16_to_f32, plain->f16_to_f32, n, shift, state);
    check_to_f32(k->bf16_to_f32, plain->bf16_to_f32, n, shift, state);
    check_from_f32(k->f32_to_f16, plain->f32_to_f16, n, shift, state);
    check_from_f32(k->f32_to_bf16, plain->f32_to_bf16, n, shift, state);
}

static void check_range(const struct qnti_kernels *k, const struct qnti_kernels *plain, size_t n, size_t shift,
                        uint64_t *state)
{
    float a[2], b[2], *x = numbers(n + shift, nasty, state);
    if (n % 3 == 0) /* few different numbers: zeros of both signs decide */
        for (size_t i = 0; i < n + shift; i++)
            x[i] = copysignf(0.0f, x[i]);
    k->range(n, x + shift, &a[0], &a[1]);
    plain->range(n, x + shift, &b[0], &b[1]);
    assert_memory_equal(a, b, sizeof a);
    free(x);
}

typedef void (*round_function)(size_t, const float *, const float *, const float *, size_t, float, uint16_t *, float *);
typedef void (*value_function)(size_t, const uint16_t *, const float *, const float *, size_t, float *);

static void check_round(round_function f, round_function plain, const float *offset, size_t stride, size_t n,
                        size_t shift, uint64_t *state)
{
    static const float tops[] = {0, 1, 15, 255, 65535};
    float *x = numbers(n + shift, nasty, state), *scale = numbers(n + shift, nasty_scale, state);
    float top = tops[next_random(state) % 5], value[MOST] = {0}, plain_value[MOST] = {0}, in_place[MOST] = {0};
    uint16_t code[MOST] = {0}, only_code[MOST] = {0}, plain_code[MOST] = {0};
    plain(n, x + shift, scale + shift, offset, stride, top, plain_code + shift, plain_value + shift);
    f(n, x + shift, scale + shift, offset, stride, top, code + shift, value + shift);
    assert_memory_equal(code, plain_code, sizeof code);
    assert_same_numbers(value, plain_value, MOST);
    f(n, x + shift, scale + shift, offset, stride, top, only_code + shift, NULL);
    assert_memory_equal(only_code, plain_code, sizeof code);
    memcpy(in_place, x, (n + shift) * sizeof *x);
    memset(in_place, 0, shift * sizeof *x);
    f(n, in_place + shift, scale + shift, offset, stride, top, NULL, in_place + shift);
    assert_same_numbers(in_place, plain_value, MOST);
    free(x);
    free(scale);
}

static void check_value(value_function f, value_function plain, const float *offset, size_t stride, size_t n,
                        size_t shift, uint64_t *state)
{
    float *scale = numbers(n + shift, nasty_scale, state), a[MOST] = {0}, b[MOST] = {0};
    uint16_t *code = integers(n + shift, state);
    f(n, code + shift, scale + shift, offset, stride, a + shift);
    plain(n, code + shift, scale + shift, offset, stride, b + shift);
    assert_same_numbers(a, b, MOST);
    free(code);
    free(scale);
}

static void check_affine(const struct qnti_kernels *k, const struct qnti_kernels *plain, size_t n, size_t shift,
                         uint64_t *state)
{
    for (size_t stride = 0; stride < 2; stride++) {
        float *zero = numbers(n, nasty_zero, state), *min = numbers(n, nasty, state);
        check_round(k->zero_round, plain->zero_round, zero, stride, n, shift, state);
        check_round(k->real_round, plain->real_round, zero, stride, n, shift, state);
        check_round(k->real_round, plain->real_round, min, stride, n, shift, state);
        check_round(k->min_round, plain->min_round, min, stride, n, shift, state);
        check_value(k->zero_value, plain->zero_value, zero, stride, n, shift, state);
        check_value(k->min_value, plain->min_value, min, stride, n, shift, state);
        free(zero);
        free(min);
    }
}

static void check_axpy(const struct qnti_kernels *k, const struct qnti_kernels *plain, size_t n, size_t shift,
                       uint64_t *state)
{
    float *x = numbers(n + shift, nasty, state), *y = numbers(MOST, nasty, state), z[MOST], a = nasty(state);
    memcpy(z, y, sizeof z);
    k->axpy(n, a, x + shift, y + shift);
    plain->axpy(n, a, x + shift, z + shift);
    assert_same_numbers(y, z, MOST);
    free(x);
    free(y);
}

/* Sums of nasty numbers are soon nothing but NaNs. */
static float tame(uint64_t *state)
{
    return (float)(int32_t)next_random(state) * 0x1p-28f;
}

/* Counts of rows that fill the registers and others, rows further apart than they are long. */
static void check_forms(const struct qnti_kernels *k, const struct qnti_kernels *plain, size_t n, size_t shift,
                        uint64_t *state)
{
    enum { ROWS = 7 };
    size_t m = n % (ROWS + 1), depth = (n / 3 + shift) % (ROWS + 1), ld = n + shift, count = ROWS * ld;
    float *x = numbers(count, n % 5 ? tame : nasty, state), *y = numbers(count, tame, state),
          *z = numbers(count, tame, state), *c = numbers(ROWS * ROWS, tame, state);
    float *sums = numbers(2 * n, tame, state), *want = memory(2 * n, sizeof *want);
    memcpy(want, sums, 2 * n * sizeof *want);
    k->forms(n, m, depth, c, ROWS, x, ld, 1 + n % 2, (const float *const[]){y, z}, (float *const[]){sums, sums + n});
    plain->forms(n, m, depth, c, ROWS, x, ld, 1 + n % 2, (const float *const[]){y, z},
                 (float *const[]){want, want + n});
    assert_same_numbers(sums, want, 2 * n);
    free(x);
    free(y);
    free(z);
    free(c);
    free(sums);
    free(want);
}

static void check_pack(const struct qnti_kernels *k, const struct qnti_kernels *plain, size_t n, size_t shift,
                       uint64_t *state)
{
    n *= n % 7 == 6 ? 5 : 1; /* some long enough for several steps of the longest vectors */
    for (unsigned bits = 1; bits <= 16; bits++) {
        size_t bytes = (n * bits + 7) / 8;
        uint16_t *code = integers(n + shift, state), *back = memory(n + shift, sizeof *back);
        uint8_t *a = memory(bytes + shift, 1), *b = memory(bytes + shift, 1);
        memset(a, 0xa5, bytes + shift);
        memset(b, 0xa5, bytes + shift);
        k->pack(n, bits, code + shift, a + shift);
        plain->pack(n, bits, code + shift, b + shift);
        assert_memory_equal(a, b, bytes + shift);
        k->unpack(n, bits, a + shift, back + shift);
        for (size_t i = shift; i < n + shift; i++)
            assert_int_equal(back[i], code[i] & ((1u << bits) - 1u));
        free(code);
        free(back);
        free(a);
        free(b);
    }
}

static void tables_agree_on_conversions(void **unused)
{
    (void)unused;
    for_all_tables(check_conversions);
}

static void tables_agree_on_range(void **unused)
{
    (void)unused;
    for_all_tables(check_range);
}

static void tables_agree_on_affine_grids(void **unused)
{
    (void)unused;
    for_all_tables(check_affine);
}

static void tables_agree_on_axpy(void **unused)
{
    (void)unused;
    for_all_tables(check_axpy);
}

static void tables_agree_on_forms(void **unused)
{
    (void)unused;
    for_all_tables(check_forms);
}

static void tables_agree_on_packing(void **unused)
{
    (void)unused;
    for_all_tables(check_pack);
}

/* Every table, the scalar one too, against number.h: all 16-bit numbers, and every upper half of a float with the
 * lower halves between which rounding changes. */
static void conversions_are_those_of_number_h(void **unused)
{
    static const uint16_t lower[] = {0, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff};
    enum { ALL = 65536, CHUNK = 256 };
    uint16_t in[CHUNK], out[CHUNK];
    float y[CHUNK];
    size_t count;
    const struct qnti_kernels *const *tables = qnti_kernels_available(&count);
    (void)unused;
    for (size_t t = 0; t < count; t++)
        for (uint32_t base = 0; base < ALL; base += CHUNK) {
            for (uint32_t i = 0; i < CHUNK; i++)
                in[i] = (uint16_t)(base + i);
            tables[t]->f16_to_f32(CHUNK, in, y);
            for (uint32_t i = 0; i < CHUNK; i++)
                assert_int_equal(qnti_bits(y[i]), qnti_bits(qnti_f16_to_f32(in[i])));
            tables[t]->bf16_to_f32(CHUNK, in, y);
            for (uint32_t i = 0; i < CHUNK; i++)
                assert_int_equal(qnti_bits(y[i]), (base + i) << 16);
            for (size_t l = 0; l < sizeof lower / sizeof *lower; l++) {
                for (uint32_t i = 0; i < CHUNK; i++)
                    y[i] = qnti_float((base + i) << 16 | lower[l]);
                tables[t]->f32_to_f16(CHUNK, y, out);
                for (uint32_t i = 0; i < CHUNK; i++)
                    assert_int_equal(out[i], qnti_f32_to_f16(y[i]));
                tables[t]->f32_to_bf16(CHUNK, y, out);
                for (uint32_t i = 0; i < CHUNK; i++)
                    assert_int_equal(out[i], qnti_f32_to_bf16(y[i]));
            }
        }
}

static void numbers_worked_out_by_hand(void **unused)
{
    (void)unused;
    assert_int_equal(qnti_bits(qnti_f16_to_f32(0x7c01)), 0x7fc02000); /* a signalling NaN becomes quiet */
    assert_int_equal(qnti_bits(qnti_f16_to_f32(0xfc00)), 0xff800000);
    assert_int_equal(qnti_bits(qnti_f16_to_f32(0x8001)), qnti_bits(-0x1p-24f));
    assert_int_equal(qnti_f32_to_f16(qnti_float(0xff800001)), 0xfe00);
    assert_int_equal(qnti_f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(qnti_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(qnti_f32_to_f16(0x1p-25f), 0); /* half of the least number: to even */
    assert_int_equal(qnti_f32_to_f16(0x1.8p-24f), 2);
    assert_int_equal(qnti_f32_to_f16(2049.0f), 0x6800); /* 2048 and 2050 are equally near */
    assert_int_equal(qnti_f32_to_bf16(qnti_float(0x3f808000)), 0x3f80);
    assert_int_equal(qnti_f32_to_bf16(qnti_float(0x3f818000)), 0x3f82);
    assert_int_equal(qnti_f32_to_bf16(qnti_float(0x7f800001)), 0x7fc0);
}

/* Ties go to even before the zero is added: were it added first, 0.5 + 3 would give 4. */
static void zero_form_worked_out_by_hand(void **unused)
{
    const struct qnti_kernels *k = qnti_kernels_select("scalar");
    const float x[] = {0.25f, 0.75f, 1.25f, -0.25f, -0.75f, 100.0f, -100.0f, NAN, INFINITY, -INFINITY};
    const uint16_t expected[] = {3, 5, 5, 3, 1, 15, 0, 0, 15, 0};
    const float scale = 0.5f, zero = 3.0f, nothing = 0.0f;
    uint16_t code[10];
    float value[10];
    (void)unused;
    k->zero_round(10, x, &scale, &zero, 0, 15.0f, code, value);
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(code[i], expected[i]);
        assert_true(value[i] == 0.5f * ((float)expected[i] - 3.0f));
    }
    k->zero_round(10, x, &nothing, &zero, 0, 15.0f, code, NULL);
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(code[i], 3);
    k->zero_round(10, x, &nothing, &zero, 0, 2.0f, code, NULL);
    assert_int_equal(code[0], 2);
}

/* The sum is rounded: 0.5 + 3 gives 4, and zeros between the levels and beyond them count as they are. */
static void real_form_worked_out_by_hand(void **unused)
{
    const struct qnti_kernels *k = qnti_kernels_select("scalar");
    const float x[] = {0.25f, 0.75f, -0.25f, 100.0f, -100.0f, NAN}, scale = 0.5f, nothing = 0.0f;
    const float zeros[] = {3.0f, 3.25f, -1.5f};
    const uint16_t expected[][6] = {{4, 4, 2, 15, 0, 0}, {4, 5, 3, 15, 0, 0}, {0, 0, 0, 15, 0, 0}};
    uint16_t code[6];
    float value[6];
    (void)unused;
    for (size_t z = 0; z < 3; z++) {
        k->real_round(6, x, &scale, &zeros[z], 0, 15.0f, code, value);
        for (size_t i = 0; i < 6; i++) {
            assert_int_equal(code[i], expected[z][i]);
            assert_true(value[i] == 0.5f * ((float)expected[z][i] - zeros[z]));
        }
    }
    k->real_round(6, x, &nothing, &zeros[1], 0, 15.0f, code, value);
    assert_int_equal(code[3], 3);
    assert_true(value[3] == 0);
}

static void min_form_worked_out_by_hand(void **unused)
{
    const struct qnti_kernels *k = qnti_kernels_select("scalar");
    const float x[] = {1.25f, 1.75f, 2.25f, 0.0f, 100.0f, NAN}, scale = 0.5f, min = 1.0f;
    const uint16_t expected[] = {0, 2, 2, 0, 15, 0};
    const float nothing = 0.0f, fine = 1.0f + 0x1p-23f, minus_three = -3.0f;
    uint16_t code[6], three = 3;
    float value[6];
    (void)unused;
    k->min_round(6, x, &scale, &min, 0, 15.0f, code, value);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(code[i], expected[i]);
        assert_true(value[i] == 0.5f * (float)expected[i] + 1.0f);
    }
    k->min_round(6, x, &nothing, &min, 0, 15.0f, code, value);
    assert_int_equal(code[4], 0);
    assert_true(value[4] == 1.0f);
    /* 3 + 1.5 units of 2^-22 is a tie and becomes 3 + 2^-21; fused it would be 3 * 2^-23. */
    k->min_value(1, &three, &fine, &minus_three, 0, value);
    assert_true(value[0] == 0x1p-21f);
}

static void axpy_and_range_worked_out_by_hand(void **unused)
{
    const struct qnti_kernels *k = qnti_kernels_select("scalar");
    const float x[] = {1.0f + 0x1p-23f, 2.0f}, z[] = {-0.0f, NAN, -0.0f};
    float y[] = {-3.0f, 1.0f}, least, greatest;
    (void)unused;
    k->axpy(2, 3.0f, x, y);
    assert_true(y[0] == 0x1p-21f && y[1] == 7.0f);
    y[0] = 10.0f; /* (2, 3; 4, 5) (1, 2) is (8, 14), by (7, 6) is 140 */
    k->forms(1, 2, 2, (const float[]){2, 3, 4, 5}, 2, (const float[]){1, 2}, 1, 1,
             (const float *const[]){(const float[]){7, 6}}, (float *const[]){y});
    assert_true(y[0] == 150.0f);
    k->range(3, z, &least, &greatest);
    assert_int_equal(qnti_bits(least) | qnti_bits(greatest), 0);
    k->range(0, z, &least, &greatest);
    assert_true(least == INFINITY && greatest == -INFINITY);
}

static void packing_worked_out_by_hand(void **unused)
{
    const struct qnti_kernels *k = qnti_kernels_select("scalar");
    const uint16_t codes[] = {1, 2, 3, 4, 5, 6, 7, 0, 0xffff};
    const uint8_t three_bits[] = {0xd1, 0x58, 0x1f, 0x07}, four_bits[] = {0x21, 0x43, 0x65, 0x07, 0x0f};
    uint8_t bytes[18];
    uint16_t back[9];
    (void)unused;
    k->pack(9, 3, codes, bytes);
    assert_memory_equal(bytes, three_bits, 4);
    k->unpack(9, 3, bytes, back);
    assert_memory_equal(back, codes, 8 * sizeof *codes);
    assert_int_equal(back[8], 7);
    k->pack(9, 4, codes, bytes);
    assert_memory_equal(bytes, four_bits, 5);
    k->pack(9, 16, codes, bytes);
    assert_int_equal(bytes[0] | bytes[1] << 8, 1);
    k->unpack(9, 16, bytes, back);
    assert_memory_equal(back, codes, sizeof codes);
}

static void tables_are_found_by_name(void **unused)
{
    size_t count;
    const struct qnti_kernels *const *tables = qnti_kernels_available(&count);
    (void)unused;
    assert_string_equal(tables[0]->name, "scalar");
    assert_null(tables[count]);
    assert_ptr_equal(qnti_kernels_select(NULL), tables[count - 1]);
    assert_null(qnti_kernels_select("no such set"));
    for (size_t i = 0; i < count; i++) {
        const struct qnti_kernels *k = tables[i];
        assert_ptr_equal(qnti_kernels_select(k->name), k);
        assert_true(k->f16_to_f32 && k->f32_to_f16 && k->bf16_to_f32 && k->f32_to_bf16 && k->range && k->zero_round &&
                    k->zero_value && k->real_round && k->min_round && k->min_value && k->axpy && k->forms && k->pack &&
                    k->unpack);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_found_by_name),
        cmocka_unit_test(numbers_worked_out_by_hand),
        cmocka_unit_test(conversions_are_those_of_number_h),
        cmocka_unit_test(zero_form_worked_out_by_hand),
        cmocka_unit_test(real_form_worked_out_by_hand),
        cmocka_unit_test(min_form_worked_out_by_hand),
        cmocka_unit_test(axpy_and_range_worked_out_by_hand),
        cmocka_unit_test(packing_worked_out_by_hand),
        cmocka_unit_test(tables_agree_on_conversions),
        cmocka_unit_test(tables_agree_on_range),
        cmocka_unit_test(tables_agree_on_affine_grids),
        cmocka_unit_test(tables_agree_on_axpy),
        cmocka_unit_test(tables_agree_on_forms),
        cmocka_unit_test(tables_agree_on_packing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
