/*
 * softmax.c - reductions of rows and the softmax made of them.
 *
 * Sums run in a fixed number of interleaved parts, whatever the vectors of the
 * machine, so that they are fast and give the same bits everywhere.
 */
#include "nn/operators.h"

#include "nn/expf.h"

enum { PARTS = 16, CHUNK = 256 };

float qnti_row_max(const float *x, size_t n)
{
    float part[PARTS];
    size_t i = 0;
    for (size_t p = 0; p < PARTS; p++)
        part[p] = x[0];
    for (; i + PARTS <= n; i += PARTS)
        for (size_t p = 0; p < PARTS; p++)
            part[p] = x[i + p] > part[p] ? x[i + p] : part[p];
    for (; i < n; i++)
        part[0] = x[i] > part[0] ? x[i] : part[0];
    for (size_t p = 1; p < PARTS; p++)
        part[0] = part[p] > part[0] ? part[p] : part[0];
    return part[0];
}

static void exp_shifted(const float *x, size_t n, float shift, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = qnti_expf(x[i] - shift);
}

static float row_sum(const float *x, size_t n)
{
    float part[PARTS] = {0}, sum = 0;
    size_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (size_t p = 0; p < PARTS; p++)
            part[p] += x[i + p];
    for (; i < n; i++)
        part[0] += x[i];
    for (size_t p = 0; p < PARTS; p++)
        sum += part[p];
    return sum;
}

void qnti_softmax_row(float *x, size_t n)
{
    float scale;
    exp_shifted(x, n, qnti_row_max(x, n), x);
    scale = 1 / row_sum(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] *= scale;
}

double qnti_row_exp_sum(const float *x, size_t n, float shift)
{
    double part[PARTS] = {0}, sum = 0;
    float e[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done), i = 0;
        exp_shifted(x + done, run, shift, e);
        for (; i + PARTS <= run; i += PARTS)
            for (size_t p = 0; p < PARTS; p++)
                part[p] += (double)e[i + p];
        for (; i < run; i++)
            part[0] += (double)e[i];
    }
    for (size_t p = 0; p < PARTS; p++)
        sum += part[p];
    return sum;
}
