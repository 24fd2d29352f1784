/*
 * mlp.c - activations, gated or not: act(gate) up or act(x); backward dup = dy act(gate), dgate = dy up act'(gate).
 *
 *   x s(u), s(u) = 1 / (1 + e^-u): silu u = x; tanh-GELU u = 2 sqrt(2 / pi) (x + 0.044715 x^3), which is
 *   0.5 x (1 + tanh(u / 2)); quick GELU u = 1.702 x. GELU: x P(x), P the normal distribution. ReLU. Mish:
 *   x tanh(ln(1 + e^x)). (Ramachandran 2017; Hendrycks, Gimpel 2016; Misra 2019.)
 */
#include "nn/operators.h"

#include <math.h>
#include "nn/expf.h"

enum { RUN = 256 };               /* numbers whose activations are held at a time */

static const float tanh_linear = 1.59576912f, tanh_cubic = 0.044715f;   /* 2 sqrt(2 / pi) */
static const float quick_slope = 1.702f, root_half = 0.707106781f, normal_top = 0.398942280f;

static void silu(const float *restrict x, size_t n, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] / (1.0f + qnti_expf(-x[i]));
}

/* d is the slope, y the value. */
static void silu_slope(const float *restrict x, size_t n, float *restrict y, float *restrict d)
{
    for (size_t i = 0; i < n; i++) {
        float s = 1.0f / (1.0f + qnti_expf(-x[i]));
        y[i] = x[i] * s;
        d[i] = s * (1.0f + x[i] * (1.0f - s));
    }
}

static void relu(const float *restrict x, size_t n, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? 0 : x[i];
}

static void relu_slope(const float *restrict x, size_t n, float *restrict y, float *restrict d)
{
    relu(x, n, y);
    for (size_t i = 0; i < n; i++)
        d[i] = x[i] > 0 ? 1 : 0;
}

static void gelu(const float *restrict x, size_t n, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = 0.5f * x[i] * erfcf(-root_half * x[i]);
}

static void gelu_slope(const float *restrict x, size_t n, float *restrict y, float *restrict d)
{
    for (size_t i = 0; i < n; i++) {
        float p = 0.5f * erfcf(-root_half * x[i]);
        y[i] = x[i] * p;
        d[i] = p + x[i] * (normal_top * qnti_expf(-0.5f * x[i] * x[i]));
    }
}

static void gelu_tanh(const float *restrict x, size_t n, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] / (1.0f + qnti_expf(-tanh_linear * (x[i] + tanh_cubic * x[i] * x[i] * x[i])));
}

/* Beyond a magnitude of 20 the slope is 0 or 1 to the last bit: the cube stays finite. */
static void gelu_tanh_slope(const float *restrict x, size_t n, float *restrict y, float *restrict d)
{
    for (size_t i = 0; i < n; i++) {
        float c = qnti_limit(qnti_limit(x[i], x[i] > 20.0f, 20.0f), x[i] < -20.0f, -20.0f);
        float s = 1.0f / (1.0f + qnti_expf(-tanh_linear * (c + tanh_cubic * c * c * c)));
        y[i] = x[i] * s;
        d[i] = s * (1.0f + c * tanh_linear * (1.0f + 3.0f * tanh_cubic * c * c) * (1.0f - s));
    }
}

static void gelu_quick(const float *restrict x, size_t n, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] / (1.0f + qnti_expf(-quick_slope * x[i]));
}

static void gelu_quick_slope(const float *restrict x, size_t n, float *restrict y, float *restrict d)
{
    for (size_t i = 0; i < n; i++) {
        float s = 1.0f / (1.0f + qnti_expf(-quick_slope * x[i]));
        y[i] = x[i] * s;
        d[i] = s * (1.0f + quick_slope * x[i] * (1.0f - s));
    }
}

/* tanh(ln(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2), e = e^x. */
static float mish_factor(float x, float *e)
{
    float w;
    *e = qnti_expf(qnti_limit(x, x > 20.0f, 20.0f));
    w = *e * (*e + 2.0f);
    return w / (w + 2.0f);
}

static void mish(const float *restrict x, size_t n, float *restrict y)
{
    float e;
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * mish_factor(x[i], &e);
}

static void mish_slope(const float *restrict x, size_t n, float *restrict y, float *restrict d)
{
    for (size_t i = 0; i < n; i++) {
        float e, t = mish_factor(x[i], &e);
        y[i] = x[i] * t;
        d[i] = t + x[i] * (e / (1.0f + e)) * (1.0f - t * t);
    }
}

static const struct {
    void (*value)(const float *x, size_t n, float *y);
    void (*slope)(const float *x, size_t n, float *y, float *d);
} activations[QNTI_ACTIVATIONS] = {
    [QNTI_SILU] = {silu, silu_slope},
    [QNTI_RELU] = {relu, relu_slope},
    [QNTI_GELU] = {gelu, gelu_slope},
    [QNTI_GELU_TANH] = {gelu_tanh, gelu_tanh_slope},
    [QNTI_GELU_QUICK] = {gelu_quick, gelu_quick_slope},
    [QNTI_MISH] = {mish, mish_slope},
};

struct activate {
    enum qnti_activation activation;
    const float *up;
    float *gate;
    size_t width;
};

static void activate_rows(void *arg, size_t first, size_t n)
{
    const struct activate *a = arg;
    const float *up = a->up ? a->up + first * a->width : NULL;
    float *gate = a->gate + first * a->width, value[RUN];
    for (size_t done = 0, run; done < n * a->width; done += run) {
        run = qnti_min(RUN, n * a->width - done);
        activations[a->activation].value(gate + done, run, value);
        for (size_t i = 0; i < run; i++)
            gate[done + i] = up ? value[i] * up[done + i] : value[i];
    }
}

qnt_status qnti_activate(qnt_context *ctx, enum qnti_activation activation, const float *up, size_t tokens,
                         size_t width, float *gate)
{
    return qnti_for_rows(ctx, tokens, width, activate_rows, &(struct activate){activation, up, gate, width});
}

struct activate_backward {
    enum qnti_activation activation;
    const float *dy;
    float *gate, *up;
    size_t width;
};

static void activate_backward_rows(void *arg, size_t first, size_t n)
{
    const struct activate_backward *b = arg;
    const float *dy = b->dy + first * b->width;
    float *gate = b->gate + first * b->width, *up = b->up ? b->up + first * b->width : NULL, value[RUN], slope[RUN];
    for (size_t done = 0, run; done < n * b->width; done += run) {
        run = qnti_min(RUN, n * b->width - done);
        activations[b->activation].slope(gate + done, run, value, slope);
        for (size_t i = done; i < done + run; i++) {
            gate[i] = up ? dy[i] * up[i] * slope[i - done] : dy[i] * slope[i - done];
            if (up)
                up[i] = dy[i] * value[i - done];
        }
    }
}

qnt_status qnti_activate_backward(qnt_context *ctx, enum qnti_activation activation, const float *dy, size_t tokens,
                                  size_t width, float *gate, float *up)
{
    return qnti_for_rows(ctx, tokens, width, activate_backward_rows,
                         &(struct activate_backward){activation, dy, gate, up, width});
}
