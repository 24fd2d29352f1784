/*
 * scalar.c - the kernels in plain C: what every other table must give, bit for bit.
 *
 * The formulas are those of kernels.h. Nothing here is made fast at the cost
 * of being plain. Comparisons are written so that a NaN takes the same way as
 * in the minimum and maximum instructions of x86.
 */
#include <math.h>

#include "base/number.h"
#include "kernels/scalar.h"

void qnti_scalar_f16_to_f32(size_t n, const uint16_t *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = qnti_f16_to_f32(x[i]);
}

void qnti_scalar_f32_to_f16(size_t n, const float *x, uint16_t *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = qnti_f32_to_f16(x[i]);
}

void qnti_scalar_bf16_to_f32(size_t n, const uint16_t *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = qnti_bf16_to_f32(x[i]);
}

void qnti_scalar_f32_to_bf16(size_t n, const float *x, uint16_t *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = qnti_f32_to_bf16(x[i]);
}

void qnti_scalar_range(size_t n, const float *x, float *least, float *greatest)
{
    float low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *least = low + 0.0f; /* -0 becomes +0: which zero is met first must not show */
    *greatest = high + 0.0f;
}

static float clamp(float x, float top)
{
    x = x > 0.0f ? x : 0.0f;
    return x < top ? x : top;
}

void qnti_scalar_zero_round(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                            uint16_t *code, float *value)
{
    for (size_t i = 0; i < n; i++) {
        float s = scale[i * stride], z = zero[i * stride];
        float c = clamp((s != 0.0f ? rintf(x[i] / s) : 0.0f) + z, top);
        if (code)
            code[i] = (uint16_t)c;
        if (value)
            value[i] = (c - z) * s;
    }
}

void qnti_scalar_zero_value(size_t n, const uint16_t *code, const float *scale, const float *zero, size_t stride,
                            float *value)
{
    for (size_t i = 0; i < n; i++)
        value[i] = ((float)code[i] - zero[i * stride]) * scale[i * stride];
}

void qnti_scalar_real_round(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                            uint16_t *code, float *value)
{
    for (size_t i = 0; i < n; i++) {
        float s = scale[i * stride], z = zero[i * stride];
        float c = clamp(rintf((s != 0.0f ? x[i] / s : 0.0f) + z), top);
        if (code)
            code[i] = (uint16_t)c;
        if (value)
            value[i] = (c - z) * s;
    }
}

void qnti_scalar_min_round(size_t n, const float *x, const float *scale, const float *min, size_t stride, float top,
                           uint16_t *code, float *value)
{
    for (size_t i = 0; i < n; i++) {
        float s = scale[i * stride], m = min[i * stride];
        float c = clamp(s != 0.0f ? rintf((x[i] - m) / s) : 0.0f, top);
        if (code)
            code[i] = (uint16_t)c;
        if (value)
            value[i] = s * c + m;
    }
}

void qnti_scalar_min_value(size_t n, const uint16_t *code, const float *scale, const float *min, size_t stride,
                           float *value)
{
    for (size_t i = 0; i < n; i++)
        value[i] = scale[i * stride] * (float)code[i] + min[i * stride];
}

void qnti_scalar_axpy(size_t n, float a, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

void qnti_scalar_forms_from(size_t first, size_t n, size_t m, size_t k, const float *c, size_t ldc, const float *x,
                            size_t ld, size_t forms, const float *const *y, float *const *sum)
{
    for (size_t i = first; i < n; i++)
        for (size_t a = 0; a < m; a++) {
            float t = 0;
            for (size_t b = 0; b < k; b++)
                t += c[a * ldc + b] * x[b * ld + i];
            for (size_t f = 0; f < forms; f++)
                sum[f][i] += t * y[f][a * ld + i];
        }
}

void qnti_scalar_forms(size_t n, size_t m, size_t k, const float *c, size_t ldc, const float *x, size_t ld,
                       size_t forms, const float *const *y, float *const *sum)
{
    qnti_scalar_forms_from(0, n, m, k, c, ldc, x, ld, forms, y, sum);
}

void qnti_scalar_pack(size_t n, unsigned bits, const uint16_t *code, uint8_t *bytes)
{
    uint32_t mask = (1u << bits) - 1u, held = 0;
    unsigned waiting = 0; /* bits in `held`, below 8 between codes */
    for (size_t i = 0; i < n; i++) {
        held |= (code[i] & mask) << waiting;
        for (waiting += bits; waiting >= 8; waiting -= 8) {
            *bytes++ = (uint8_t)held;
            held >>= 8;
        }
    }
    if (waiting)
        *bytes = (uint8_t)held;
}

void qnti_scalar_unpack(size_t n, unsigned bits, const uint8_t *bytes, uint16_t *code)
{
    uint32_t mask = (1u << bits) - 1u, held = 0;
    unsigned waiting = 0;
    for (size_t i = 0; i < n; i++) {
        for (; waiting < bits; waiting += 8)
            held |= (uint32_t)*bytes++ << waiting;
        code[i] = (uint16_t)(held & mask);
        held >>= bits;
        waiting -= bits;
    }
}

const struct qnti_kernels qnti_kernels_scalar = {
    .name = "scalar",
    .f16_to_f32 = qnti_scalar_f16_to_f32,
    .f32_to_f16 = qnti_scalar_f32_to_f16,
    .bf16_to_f32 = qnti_scalar_bf16_to_f32,
    .f32_to_bf16 = qnti_scalar_f32_to_bf16,
    .range = qnti_scalar_range,
    .zero_round = qnti_scalar_zero_round,
    .zero_value = qnti_scalar_zero_value,
    .real_round = qnti_scalar_real_round,
    .min_round = qnti_scalar_min_round,
    .min_value = qnti_scalar_min_value,
    .axpy = qnti_scalar_axpy,
    .forms = qnti_scalar_forms,
    .pack = qnti_scalar_pack,
    .unpack = qnti_scalar_unpack,
};
