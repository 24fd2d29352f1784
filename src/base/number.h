/*
 * number.h - binary16 and bfloat16, one number at a time.
 *
 * To f16: round to nearest even, gradual underflow, overflow to infinity, any
 * NaN to sign | 0x7E00. From f16: exact, NaNs made quiet (the hardware's rule).
 * To bf16: round to nearest even, subnormals kept, NaNs made quiet. These are
 * the specification that the kernels in kernels/ are tested against.
 */
#ifndef QNTI_NUMBER_H
#define QNTI_NUMBER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <quant/matrix.h>

static inline uint32_t qnti_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float qnti_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float qnti_bf16_to_f32(uint16_t h)
{
    return qnti_float((uint32_t)h << 16);
}

static inline uint16_t qnti_f32_to_bf16(float x)
{
    uint32_t u = qnti_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float qnti_f16_to_f32(uint16_t h);
uint16_t qnti_f32_to_f16(float x);

/* The nearest number that `type` (F32, F16, BF16) can hold. */
float qnti_round_to(qnt_dtype type, float x);

/* Text of a number in the C locale's form to the host's, and back. */
void qnti_exchange_point(char *text, bool to_host);
/* A whole text as a number, in the C locale's form whatever the host's is. */
bool qnti_read_decimal(const char *text, double *value);

/* Bytes of one element. */
size_t qnti_dtype_bytes(qnt_dtype type);
/* "F32" and so on, as safetensors spells it. */
const char *qnti_dtype_name(qnt_dtype type);

#endif
