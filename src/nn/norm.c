/*
 * norm.c - RMSNorm: y = w x / sqrt(mean(x^2) + eps), each token by itself.
 *
 * The mean is summed in f64, in a fixed number of interleaved sums that fill
 * vector registers; the rest is f32.
 */
#include "nn/operators.h"

#include <math.h>

struct norm {
    const struct qnti_rms_norm *norm;
    const float *x;
    float *out;
};

static double mean_square(const float *x, size_t n)
{
    enum { SUMS = 8 };
    double sum[SUMS] = {0}, total = 0;
    size_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (size_t s = 0; s < SUMS; s++)
            sum[s] += (double)x[i + s] * (double)x[i + s];
    for (; i < n; i++)
        sum[0] += (double)x[i] * (double)x[i];
    for (size_t s = 0; s < SUMS; s++)
        total += sum[s];
    return total / (double)n;
}

static void norm_rows(void *arg, size_t first, size_t n)
{
    const struct norm *job = arg;
    const float *weight = job->norm->weight;
    size_t width = job->norm->width;
    for (size_t t = first; t < first + n; t++) {
        const float *x = job->x + t * width;
        float *out = job->out + t * width;
        float scale = (float)(1.0 / sqrt(mean_square(x, width) + (double)job->norm->eps));
        for (size_t i = 0; i < width; i++)
            out[i] = weight[i] * (x[i] * scale);
    }
}

qnt_status qnti_rms_norm(qnt_context *ctx, const struct qnti_rms_norm *norm, const float *x, size_t tokens,
                         float *out)
{
    return qnti_for_rows(ctx, tokens, norm->width, norm_rows, &(struct norm){norm, x, out});
}
