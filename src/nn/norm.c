/*
 * norm.c - norms of rows: y = (base + w) n + b, n = (x - m) r, r = 1 / sqrt(mean((x - m)^2) + eps).
 *
 * m is the mean for LayerNorm (Ba, Kiros, Hinton 2016), 0 for RMSNorm (Zhang,
 * Sennrich 2019). Backward, g = (base + w) dy: dx = r (g - [mean(g)] - n
 * mean(g n)), the bracket for LayerNorm alone. Means are summed in f64, in a
 * fixed number of interleaved sums that fill vector registers; the rest is f32.
 */
#include "nn/operators.h"

#include <math.h>

struct norm {
    const struct qnti_norm *norm;
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

/* Mean and biased variance. */
static double variance(const float *x, size_t n, double *mean)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    *mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - *mean) * ((double)x[i] - *mean);
    return squares / (double)n;
}

/* What is taken from a row of x and what the rest is multiplied by. */
static double scale_of(const struct qnti_norm *norm, const float *x, double *mean)
{
    double square;
    *mean = 0;
    square = norm->kind == QNTI_NORM_LAYER ? variance(x, norm->width, mean) : mean_square(x, norm->width);
    return 1.0 / sqrt(square + (double)norm->eps);
}

static void layer_row(const struct qnti_norm *norm, const float *x, float *out)
{
    double mean;
    float scale = (float)scale_of(norm, x, &mean), middle = (float)mean;
    for (size_t i = 0; i < norm->width; i++)
        out[i] = (norm->base + norm->weight[i]) * ((x[i] - middle) * scale) + (norm->bias ? norm->bias[i] : 0);
}

static void norm_rows(void *arg, size_t first, size_t n)
{
    const struct norm *job = arg;
    const float *weight = job->norm->weight;
    size_t width = job->norm->width;
    float base = job->norm->base;
    for (size_t t = first; t < first + n; t++) {
        const float *x = job->x + t * width;
        float *out = job->out + t * width, scale;
        double mean;
        if (job->norm->kind == QNTI_NORM_LAYER || job->norm->bias) {
            layer_row(job->norm, x, out);
            continue;
        }
        scale = (float)scale_of(job->norm, x, &mean);
        for (size_t i = 0; i < width; i++)
            out[i] = (base + weight[i]) * (x[i] * scale);
    }
}

qnt_status qnti_norm(qnt_context *ctx, const struct qnti_norm *norm, const float *x, size_t rows, float *out)
{
    return qnti_for_rows(ctx, rows, norm->width, norm_rows, &(struct norm){norm, x, out});
}

struct norm_backward {
    const struct qnti_norm *norm;
    const float *x, *dy;
    float *dx;
    bool add;
};

static void backward_row(const struct norm_backward *job, const float *x, const float *dy, float *dx)
{
    const struct qnti_norm *norm = job->norm;
    size_t width = norm->width;
    double mean, r = scale_of(norm, x, &mean), sum = 0, along = 0;
    float scale = (float)r, middle = (float)mean, back, shift;
    for (size_t i = 0; i < width; i++) {
        double g = (double)((norm->base + norm->weight[i]) * dy[i]);
        sum += g;
        along += g * ((double)x[i] - mean);
    }
    back = (float)(along * r * r * r / (double)width);
    shift = norm->kind == QNTI_NORM_LAYER ? (float)(sum * r / (double)width) : 0;
    for (size_t i = 0; i < width; i++) {
        float d = scale * ((norm->base + norm->weight[i]) * dy[i]) - back * (x[i] - middle) - shift;
        dx[i] = job->add ? dx[i] + d : d;
    }
}

static void norm_backward_rows(void *arg, size_t first, size_t n)
{
    const struct norm_backward *job = arg;
    size_t width = job->norm->width;
    for (size_t t = first; t < first + n; t++)
        backward_row(job, job->x + t * width, job->dy + t * width, job->dx + t * width);
}

qnt_status qnti_norm_backward(qnt_context *ctx, const struct qnti_norm *norm, const float *x, const float *dy,
                              size_t rows, bool add, float *dx)
{
    return qnti_for_rows(ctx, rows, norm->width, norm_backward_rows, &(struct norm_backward){norm, x, dy, dx, add});
}
