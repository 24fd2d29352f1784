/*
 * mlp.c - the gated activation of the mlp: silu(gate) * up, silu(x) = x / (1 + e^-x).
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
