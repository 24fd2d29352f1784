/*
 * rank.c - one number of a sorted list, without sorting it.
 *
 * Two passes: numbers are counted by the upper halves of their bits, then, in
 * the half that holds the rank, by the lower ones. No copy of the numbers.
 */
#include "solve/solve.h"

#include <string.h>
#include "base/number.h"

enum { HALVES = 1 << 16 };

/* Bits that ascend as numbers do, and back. */
static uint32_t order_of(float x, bool magnitudes)
{
    uint32_t u = qnti_bits(x);
    if (magnitudes)
        return u & UINT32_MAX >> 1;
    return u ^ (u >> 31 ? UINT32_MAX : UINT32_C(1) << 31);
}

static float number_of(uint32_t order, bool magnitudes)
{
    if (magnitudes)
        return qnti_float(order);
    return qnti_float(order ^ (order >> 31 ? UINT32_C(1) << 31 : UINT32_MAX));
}

/* The half in which the rank falls; the rank becomes that within it. */
static uint32_t find_half(const size_t *count, size_t *rank)
{
    uint32_t half = 0;
    for (; half < HALVES - 1 && *rank >= count[half]; half++)
        *rank -= count[half];
    return half;
}

qnt_status qnti_rank(qnt_context *ctx, const float *x, size_t n, bool magnitudes, size_t rank, float *value)
{
    uint32_t upper, lower;
    size_t *count;
    QNT_TRY(QNTI_NEW(ctx, HALVES, &count));
    for (size_t i = 0; i < n; i++)
        count[order_of(x[i], magnitudes) >> 16]++;
    upper = find_half(count, &rank);
    memset(count, 0, HALVES * sizeof *count);
    for (size_t i = 0; i < n; i++) {
        uint32_t order = order_of(x[i], magnitudes);
        count[order & (HALVES - 1)] += order >> 16 == upper;
    }
    lower = find_half(count, &rank);
    *value = number_of(upper << 16 | lower, magnitudes);
    qnti_free(ctx, count);
    return QNT_OK;
}
