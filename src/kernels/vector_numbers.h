/*
 * vector_numbers.h - conversions, range, affine grids, axpy and bilinear forms over vectors of any width.
 *
 * Included once by the file of each instruction set, which first defines
 *   TARGET, V(op), WIDTH (floats in a vector), vf, vi   and the helpers
 *   load_u16, store_u16, load_f16, store_f16 (WIDTH numbers of 16 bits), rint_even,
 *   where_nonzero, where_nan, or_bits, and_bits, as_int, as_float, least_of, greatest_of.
 * Products and sums stay apart (no FMA) and quotients are divided, so that the
 * bits are those of scalar.c, which also takes what does not fill a vector.
 */
#include <math.h>

TARGET static void f16_to_f32(size_t n, const uint16_t *x, float *y)
{
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        V(storeu_ps)(y + i, load_f16(x + i));
    qnti_scalar_f16_to_f32(n - i, x + i, y + i);
}

/* The hardware would keep a NaN's upper bits: it is given the one NaN that all are to become. */
TARGET static void f32_to_f16(size_t n, const float *x, uint16_t *y)
{
    const vi sign = V(set1_epi32)(INT32_MIN), quiet = V(set1_epi32)(0x7fc00000);
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vf v = V(loadu_ps)(x + i);
        vi bits = where_nan(v, or_bits(and_bits(as_int(v), sign), quiet), as_int(v));
        store_f16(y + i, as_float(bits));
    }
    qnti_scalar_f32_to_f16(n - i, x + i, y + i);
}

TARGET static void bf16_to_f32(size_t n, const uint16_t *x, float *y)
{
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        V(storeu_ps)(y + i, as_float(V(slli_epi32)(load_u16(x + i), 16)));
    qnti_scalar_bf16_to_f32(n - i, x + i, y + i);
}

TARGET static void f32_to_bf16(size_t n, const float *x, uint16_t *y)
{
    const vi one = V(set1_epi32)(1), half = V(set1_epi32)(0x7fff), quiet = V(set1_epi32)(0x40);
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vf v = V(loadu_ps)(x + i);
        vi bits = as_int(v), upper = V(srli_epi32)(bits, 16);
        vi rounded = V(add_epi32)(V(add_epi32)(bits, half), and_bits(upper, one));
        store_u16(y + i, where_nan(v, or_bits(upper, quiet), V(srli_epi32)(rounded, 16)));
    }
    qnti_scalar_f32_to_bf16(n - i, x + i, y + i);
}

/* Four vectors at a time hide the latency. Where an operand is NaN the instructions give the second. */
TARGET static void range(size_t n, const float *x, float *least, float *greatest)
{
    vf low[4], high[4];
    float rest_low, rest_high;
    size_t i = 0;
    for (int k = 0; k < 4; k++) {
        low[k] = V(set1_ps)(INFINITY);
        high[k] = V(set1_ps)(-INFINITY);
    }
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH)
        for (int k = 0; k < 4; k++) {
            vf v = V(loadu_ps)(x + i + k * WIDTH);
            low[k] = V(min_ps)(v, low[k]);
            high[k] = V(max_ps)(v, high[k]);
        }
    for (; i + WIDTH <= n; i += WIDTH) {
        vf v = V(loadu_ps)(x + i);
        low[0] = V(min_ps)(v, low[0]);
        high[0] = V(max_ps)(v, high[0]);
    }
    qnti_scalar_range(n - i, x + i, &rest_low, &rest_high);
    float l = least_of(V(min_ps)(V(min_ps)(low[0], low[1]), V(min_ps)(low[2], low[3])));
    float h = greatest_of(V(max_ps)(V(max_ps)(high[0], high[1]), V(max_ps)(high[2], high[3])));
    *least = (l < rest_low ? l : rest_low) + 0.0f;
    *greatest = (h > rest_high ? h : rest_high) + 0.0f;
}

/* The parameters of numbers i .. i + WIDTH - 1. */
TARGET static inline vf at(const float *parameter, size_t i, size_t stride)
{
    return stride ? V(loadu_ps)(parameter + i) : V(set1_ps)(*parameter);
}

TARGET static inline vf clamp(vf x, vf top)
{
    return V(min_ps)(V(max_ps)(x, V(setzero_ps)()), top);
}

TARGET static inline vf load_code(const uint16_t *code)
{
    return V(cvtepi32_ps)(load_u16(code));
}

TARGET static void zero_round(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                              uint16_t *code, float *value)
{
    const vf most = V(set1_ps)(top);
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vf s = at(scale, i, stride), z = at(zero, i, stride);
        vf level = where_nonzero(s, rint_even(V(div_ps)(V(loadu_ps)(x + i), s)));
        vf c = clamp(V(add_ps)(level, z), most);
        if (code)
            store_u16(code + i, V(cvttps_epi32)(c));
        if (value)
            V(storeu_ps)(value + i, V(mul_ps)(V(sub_ps)(c, z), s));
    }
    qnti_scalar_zero_round(n - i, x + i, scale + i * stride, zero + i * stride, stride, top, code ? code + i : NULL,
                           value ? value + i : NULL);
}

TARGET static void zero_value(size_t n, const uint16_t *code, const float *scale, const float *zero, size_t stride,
                              float *value)
{
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vf level = V(sub_ps)(load_code(code + i), at(zero, i, stride));
        V(storeu_ps)(value + i, V(mul_ps)(level, at(scale, i, stride)));
    }
    qnti_scalar_zero_value(n - i, code + i, scale + i * stride, zero + i * stride, stride, value + i);
}

TARGET static void real_round(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                              uint16_t *code, float *value)
{
    const vf most = V(set1_ps)(top);
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vf s = at(scale, i, stride), z = at(zero, i, stride);
        vf quotient = where_nonzero(s, V(div_ps)(V(loadu_ps)(x + i), s));
        vf c = clamp(rint_even(V(add_ps)(quotient, z)), most);
        if (code)
            store_u16(code + i, V(cvttps_epi32)(c));
        if (value)
            V(storeu_ps)(value + i, V(mul_ps)(V(sub_ps)(c, z), s));
    }
    qnti_scalar_real_round(n - i, x + i, scale + i * stride, zero + i * stride, stride, top, code ? code + i : NULL,
                           value ? value + i : NULL);
}

TARGET static void min_round(size_t n, const float *x, const float *scale, const float *min, size_t stride, float top,
                             uint16_t *code, float *value)
{
    const vf most = V(set1_ps)(top);
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vf s = at(scale, i, stride), m = at(min, i, stride);
        vf c = clamp(where_nonzero(s, rint_even(V(div_ps)(V(sub_ps)(V(loadu_ps)(x + i), m), s))), most);
        if (code)
            store_u16(code + i, V(cvttps_epi32)(c));
        if (value)
            V(storeu_ps)(value + i, V(add_ps)(V(mul_ps)(s, c), m));
    }
    qnti_scalar_min_round(n - i, x + i, scale + i * stride, min + i * stride, stride, top, code ? code + i : NULL,
                          value ? value + i : NULL);
}

TARGET static void min_value(size_t n, const uint16_t *code, const float *scale, const float *min, size_t stride,
                             float *value)
{
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vf product = V(mul_ps)(at(scale, i, stride), load_code(code + i));
        V(storeu_ps)(value + i, V(add_ps)(product, at(min, i, stride)));
    }
    qnti_scalar_min_value(n - i, code + i, scale + i * stride, min + i * stride, stride, value + i);
}

TARGET static void axpy(size_t n, float a, const float *x, float *y)
{
    const vf factor = V(set1_ps)(a);
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        V(storeu_ps)(y + i, V(add_ps)(V(loadu_ps)(y + i), V(mul_ps)(factor, V(loadu_ps)(x + i))));
    qnti_scalar_axpy(n - i, a, x + i, y + i);
}

/* Two vectors of `rows` of the t in registers, then their products; `rows` is a constant where it is called. */
TARGET static inline __attribute__((always_inline)) void
forms_block(size_t rows, size_t i, size_t a, size_t k, const float *c, size_t ldc, const float *x, size_t ld,
            size_t forms, const float *const *y, float *const *sum)
{
    vf t[4][2];
    for (size_t r = 0; r < rows; r++)
        t[r][0] = t[r][1] = V(setzero_ps)();
    for (size_t b = 0; b < k; b++)
        for (size_t r = 0; r < rows; r++) {
            vf factor = V(set1_ps)(c[(a + r) * ldc + b]);
            for (size_t v = 0; v < 2; v++)
                t[r][v] = V(add_ps)(t[r][v], V(mul_ps)(factor, V(loadu_ps)(x + b * ld + i + v * WIDTH)));
        }
    for (size_t f = 0; f < forms; f++)
        for (size_t v = 0; v < 2; v++) {
            vf s = V(loadu_ps)(sum[f] + i + v * WIDTH);
            for (size_t r = 0; r < rows; r++)
                s = V(add_ps)(s, V(mul_ps)(t[r][v], V(loadu_ps)(y[f] + (a + r) * ld + i + v * WIDTH)));
            V(storeu_ps)(sum[f] + i + v * WIDTH, s);
        }
}

TARGET static void forms(size_t n, size_t m, size_t k, const float *c, size_t ldc, const float *x, size_t ld,
                         size_t forms, const float *const *y, float *const *sum)
{
    size_t a = 0, whole = n / (2 * WIDTH) * (2 * WIDTH);
    for (; a + 4 <= m; a += 4)
        for (size_t i = 0; i < whole; i += 2 * WIDTH)
            forms_block(4, i, a, k, c, ldc, x, ld, forms, y, sum);
    for (; a < m; a++)
        for (size_t i = 0; i < whole; i += 2 * WIDTH)
            forms_block(1, i, a, k, c, ldc, x, ld, forms, y, sum);
    qnti_scalar_forms_from(whole, n, m, k, c, ldc, x, ld, forms, y, sum);
}
