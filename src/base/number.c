/*
 * number.c - conversions of single numbers; see number.h.
 */
#include "base/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

float qnti_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31) /* infinity, or a NaN made quiet */
        return qnti_float(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u));
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24, exact */
        float magnitude = (float)mantissa * 0x1p-24f;
        return qnti_float(sign | qnti_bits(magnitude));
    }
    return qnti_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

uint16_t qnti_f32_to_f16(float x)
{
    uint32_t u = qnti_bits(x);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) { /* below 2^-14: adding 0.5 lets the FPU round at bit 2^-24 */
        float shifted = qnti_float(u) + 0.5f;
        return (uint16_t)(sign | (qnti_bits(shifted) - 0x3f000000u));
    }
    u += 0xfffu + ((u >> 13) & 1u);
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}

const struct qnti_small_float qnti_e4m3 = {"e4m3", 8, 3, -6, 448};
const struct qnti_small_float qnti_e5m2 = {"e5m2", 8, 2, -14, 57344};
const struct qnti_small_float qnti_e2m1 = {"e2m1", 4, 1, 0, 6};
const struct qnti_small_float qnti_e3m0 = {"e3m0", 4, 0, -2, 16};
const struct qnti_small_float qnti_e1m2 = {"e1m2", 4, 2, 1, 3.5f};

unsigned qnti_small_code(const struct qnti_small_float *f, float x)
{
    float a = fminf(fabsf(x), f->most);
    int exponent = (int)(qnti_bits(a) >> 23) - 127;
    unsigned sign = qnti_bits(x) >> 31 << (f->bits - 1);
    if (exponent < f->least)
        exponent = f->least;
    /* in steps of its binade; what rounds up to the next one begins there */
    a *= qnti_float((uint32_t)(127 + (int)f->mantissa - exponent) << 23);
    return sign | (((unsigned)(exponent - f->least) << f->mantissa) + (unsigned)rintf(a));
}

float qnti_small_value(const struct qnti_small_float *f, unsigned code)
{
    unsigned magnitude = code & ((1u << (f->bits - 1)) - 1), fraction = magnitude & ((1u << f->mantissa) - 1);
    int exponent = (int)(magnitude >> f->mantissa);
    float x;
    if (exponent) {
        fraction |= 1u << f->mantissa;
        exponent--;
    }
    x = (float)fraction * qnti_float((uint32_t)(127 + exponent + f->least - (int)f->mantissa) << 23);
    return code >> (f->bits - 1) & 1 ? -x : x;
}

unsigned qnti_f32_to_e8m0(float x)
{
    uint32_t code = (qnti_bits(x) + (1u << 22)) >> 23;
    if (x < 0x1.8p-127f)
        return 0;
    return code < 254 ? code : 254;
}

float qnti_e8m0_to_f32(unsigned code)
{
    return code ? qnti_float((uint32_t)code << 23) : 0x1p-127f;
}

float qnti_round_to(qnt_dtype type, float x)
{
    if (type == QNT_F8_E4M3)
        return qnti_small_value(&qnti_e4m3, qnti_small_code(&qnti_e4m3, x));
    if (type == QNT_F8_E5M2)
        return qnti_small_value(&qnti_e5m2, qnti_small_code(&qnti_e5m2, x));
    if (type == QNT_F8_E8M0)
        return qnti_e8m0_to_f32(qnti_f32_to_e8m0(fmaxf(x, 0)));
    if (type == QNT_F16)
        return qnti_f16_to_f32(qnti_f32_to_f16(x));
    if (type == QNT_BF16)
        return qnti_bf16_to_f32(qnti_f32_to_bf16(x));
    return x;
}

size_t qnti_dtype_bytes(qnt_dtype type)
{
    switch (type) {
#define BYTES(name, value, bytes) \
    case QNT_##name:              \
        return bytes;
        QNT_DTYPE_MAP(BYTES)
#undef BYTES
    }
    return 0;
}

const char *qnti_dtype_name(qnt_dtype type)
{
    switch (type) {
#define NAME(name, value, bytes) \
    case QNT_##name:             \
        return #name;
        QNT_DTYPE_MAP(NAME)
#undef NAME
    }
    return "?";
}

void qnti_exchange_point(char *text, bool to_host)
{
    char half[8], point = '.';
    if (snprintf(half, sizeof half, "%.1f", 0.5) >= 3)
        point = half[1];
    for (; *text; text++)
        if (*text == (to_host ? '.' : point))
            *text = to_host ? point : '.';
}

bool qnti_read_decimal(const char *text, double *value)
{
    char *end, copy[64];
    if (strlen(text) >= sizeof copy)
        return false;
    strcpy(copy, text);
    qnti_exchange_point(copy, true);
    *value = strtod(copy, &end);
    return end != copy && *end == 0;
}
