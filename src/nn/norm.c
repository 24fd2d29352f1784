/*
 * norm.c - RMSNorm: y = w x r, r = 1 / sqrt(mean(x^2) + eps), each token by itself; backward
 * dx = r (w dy) - x r^3 / width sum(w dy x).
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

struct norm_backward {
    const struct qnti_rms_norm *norm;
    const float *x, *dy;
    float *dx;
};

static void norm_backward_rows(void *arg, size_t first, size_t n)
{
    const struct norm_backward *job = arg;
    const float *weight = job->norm->weight;
    size_t width = job->norm->width;
    for (size_t t = first; t < first + n; t++) {
        const float *x = job->x + t * width, *dy = job->dy + t * width;
        float *dx = job->dx + t * width;
        double r = 1.0 / sqrt(mean_square(x, width) + (double)job->norm->eps), sum = 0;
        float scale = (float)r, back;
        for (size_t i = 0; i < width; i++)
            sum += (double)(weight[i] * dy[i]) * (double)x[i];
        back = (float)(sum * r * r * r / (double)width);
        for (size_t i = 0; i < width; i++)
            dx[i] += scale * (weight[i] * dy[i]) - back * x[i];
    }
}

qnt_status qnti_rms_norm_backward(qnt_context *ctx, const struct qnti_rms_norm *norm, const float *x, const float *dy,
                                  size_t tokens, float *dx)
{
    return qnti_for_rows(ctx, tokens, norm->width, norm_backward_rows, &(struct norm_backward){norm, x, dy, dx});
}
