/*
 * expf.h - e^x in f32 for loops that the compiler can turn into vectors.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial of degree 6
 * (minimax of the relative error, 3e-9, so that rounding dominates: within
 * 1 ulp of the exact value for normal results); 2^n in two factors, so that
 * overflow gives infinity and underflow passes through the subnormals to 0. A
 * NaN stays one. Without contraction it gives the same bits on every machine.
 */
#ifndef QNTI_EXPF_H
#define QNTI_EXPF_H

#include <stdbool.h>
#include "base/number.h"

/* x, or `limit` where the condition holds: without a branch, which would keep loops from becoming vectors. */
static inline float qnti_limit(float x, bool beyond, float limit)
{
    uint32_t mask = 0u - (uint32_t)beyond;
    return qnti_float((qnti_bits(x) & ~mask) | (qnti_bits(limit) & mask));
}

static inline float qnti_expf(float x)
{
    const float to_integer = 12582912.0f;                        /* 1.5 * 2^23: a sum with it is rounded to a whole */
    const float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f; /* n * ln2_high is exact */
    float shifted, n, r, p;
    int32_t exponent, half;
    x = qnti_limit(x, x > 89.0f, 89.0f);
    x = qnti_limit(x, x < -104.0f, -104.0f);
    shifted = x * 1.44269504f + to_integer;
    n = shifted - to_integer;
    r = (x - n * ln2_high) - n * ln2_low;
    p = 1.38145988e-3f;
    p = p * r + 8.36871658e-3f;
    p = p * r + 4.16683890e-2f;
    p = p * r + 1.66665211e-1f;
    p = p * r + 4.99999940e-1f;
    p = 1.0f + (r + r * r * p);
    exponent = (int32_t)(qnti_bits(shifted) - qnti_bits(to_integer));
    half = exponent >> 1;
    p *= qnti_float((uint32_t)(half + 127) << 23);
    return p * qnti_float((uint32_t)(exponent - half + 127) << 23);
}

#endif
