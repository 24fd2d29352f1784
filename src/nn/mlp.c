/*
 * mlp.c - the gated activation of the mlp: silu(gate) * up, silu(x) = x s, s = 1 / (1 + e^-x); backward
 * dup = dy silu(gate), dgate = dy up s (1 + gate (1 - s)).
 */
#include "nn/operators.h"

#include "nn/expf.h"

struct swiglu {
    const float *up;
    float *gate;
    size_t width;
};

static void swiglu_rows(void *arg, size_t first, size_t n)
{
    const struct swiglu *s = arg;
    const float *restrict up = s->up + first * s->width;
    float *restrict gate = s->gate + first * s->width;
    for (size_t i = 0; i < n * s->width; i++)
        gate[i] = gate[i] / (1.0f + qnti_expf(-gate[i])) * up[i];
}

qnt_status qnti_swiglu(qnt_context *ctx, const float *up, size_t tokens, size_t width, float *gate)
{
    return qnti_for_rows(ctx, tokens, width, swiglu_rows, &(struct swiglu){up, gate, width});
}

struct swiglu_backward {
    const float *dy;
    float *gate, *up;
    size_t width;
};

static void swiglu_backward_rows(void *arg, size_t first, size_t n)
{
    const struct swiglu_backward *b = arg;
    const float *restrict dy = b->dy + first * b->width;
    float *restrict gate = b->gate + first * b->width, *restrict up = b->up + first * b->width;
    for (size_t i = 0; i < n * b->width; i++) {
        float x = gate[i], s = 1.0f / (1.0f + qnti_expf(-x));
        gate[i] = dy[i] * up[i] * (s * (1.0f + x * (1.0f - s)));
        up[i] = dy[i] * (x * s);
    }
}

qnt_status qnti_swiglu_backward(qnt_context *ctx, const float *dy, size_t tokens, size_t width, float *gate, float *up)
{
    return qnti_for_rows(ctx, tokens, width, swiglu_backward_rows, &(struct swiglu_backward){dy, gate, up, width});
}
