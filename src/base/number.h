/*
 * number.h - binary16, bfloat16 and floats of fewer bits, one number at a time.
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

/* --- floats of 8 bits and fewer --- */

/*
 * A sign, an exponent, `mantissa` bits; subnormals below 2^least, no infinities. By their codes magnitudes ascend:
 * code = (exponent - least) 2^mantissa + magnitude / step of its binade.
 */
struct qnti_small_float {
    const char *name;
    unsigned bits, mantissa;
    int least;                   /* exponent of the smallest normal number */
    float most;                  /* the largest magnitude; others become it */
};
extern const struct qnti_small_float qnti_e4m3;   /* OCP's FP8 E4M3: 448, 2^-9 .. */
extern const struct qnti_small_float qnti_e5m2;   /* FP8 E5M2: 57344, 2^-16 .. */
extern const struct qnti_small_float qnti_e2m1;   /* FP4: 0, 0.5, 1, 1.5, 2, 3, 4, 6 */
/* Round to nearest even, beyond `most` to it; the sign is kept, so there is a -0. A NaN becomes `most`. */
unsigned qnti_small_code(const struct qnti_small_float *f, float x);
float qnti_small_value(const struct qnti_small_float *f, unsigned code);
/* E8M0: powers of two, 2^(code - 127); 255 is no number. To the nearest, halves up, 2^-127 at least. */
unsigned qnti_f32_to_e8m0(float x);
float qnti_e8m0_to_f32(unsigned code);

/* The nearest number that `type`, one of floats, can hold. */
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
