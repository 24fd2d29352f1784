/*
 * one_layer_support.h - a layer of OUT x IN on TOKENS inputs, which the test names before,
 * through one recipe after another.
 */
#ifndef ONE_LAYER_SUPPORT_H
#define ONE_LAYER_SUPPORT_H

#include "layer_support.h"

struct layer {
    qnt_context *ctx;
    float *w, *x;
    qnt_qlinear *q;
    float *value;
};

static inline void quantize(struct layer *l, const char *recipe, const char *format)
{
    qnt_qlinear_destroy(l->q);
    free(l->value);
    assert_ok(l->ctx, quantize_with(l->ctx, recipe, format, qnt_matrix_f32(l->w, OUT, IN), l->x, NULL, TOKENS, &l->q));
    l->value = dequantized(l->ctx, l->q);
}

static inline void end(struct layer *l)
{
    qnt_qlinear_destroy(l->q);
    free(l->value);
    free(l->w);
    free(l->x);
    qnt_context_destroy(l->ctx);
}

static inline float *kept_copy(const struct layer *l)
{
    float *copy = NEW(OUT * IN, float);
    memcpy(copy, l->value, OUT * IN * sizeof *copy);
    return copy;
}

#endif
