/*
 * operators.h - what a decoder block is made of, one operator at a time.
 *
 * All are f32 and row-major, [tokens][width], and run on the context's
 * threads; work is cut by shape, so results do not depend on their number.
 * Each operator has a file of its own, where its backward pass has room too.
 */
#ifndef QNTI_OPERATORS_H
#define QNTI_OPERATORS_H

#include "checkpoint/checkpoint.h"

/* Calls fn(arg, first, n) for runs of rows that make up 0 .. rows-1; `width`, elements a row, decides how long. */
typedef void (*qnti_rows_fn)(void *arg, size_t first, size_t n);
qnt_status qnti_for_rows(qnt_context *ctx, size_t rows, size_t width, qnti_rows_fn fn, void *arg);

/* out (+)= x weight^T + bias: x [tokens][in], weight [out][in], bias [out] or NULL; `add`: to what out holds. */
struct qnti_linear {
    const float *weight, *bias;
    size_t in, out;
};
qnt_status qnti_linear(qnt_context *ctx, const struct qnti_linear *l, const float *x, size_t tokens, bool add,
                       float *out);

/* The same with the inputs as the quantized layer takes them at run time; l->weight stands in their coordinates. */
qnt_status qnti_linear_quantized(qnt_context *ctx, const struct qnti_linear *l, const qnt_qlinear *q, const float *x,
                                 size_t tokens, bool add, float *out);

/* Backward, dy [tokens][out] the gradient of out: dx (+)= dy weight; */
qnt_status qnti_linear_backward(qnt_context *ctx, const struct qnti_linear *l, const float *dy, size_t tokens, bool add,
                                float *dx);
/* and rows [first, first + n) of the weight's, dy^T x, into gradient [n][in]. */
qnt_status qnti_linear_gradient(qnt_context *ctx, const struct qnti_linear *l, const float *x, const float *dy,
                                size_t tokens, size_t first, size_t n, float *gradient);

/*
 * out = (base + weight) * x / sqrt(mean(x^2) + eps) + bias, each row by itself; LAYER takes the mean from x first. out
 * may be x.
 */
struct qnti_norm {
    enum qnti_norm_kind kind;
    const float *weight, *bias;  /* [width]; bias NULL: none */
    size_t width;
    float eps, base;
};
qnt_status qnti_norm(qnt_context *ctx, const struct qnti_norm *norm, const float *x, size_t rows, float *out);
/* The final norm; *weights, which it points into, is the caller's, also where this fails. */
qnt_status qnti_final_norm_load(const struct qnti_checkpoint *model, struct qnti_norm *norm, float **weights);
/* dx (+)= the gradient by x, of dy by out; without `add` dx may be dy. */
qnt_status qnti_norm_backward(qnt_context *ctx, const struct qnti_norm *norm, const float *x, const float *dy,
                              size_t rows, bool add, float *dx);

/* Cosines and sines of the positions 0 .. tokens-1, [tokens][half]; the first 2 half channels of a head turn. */
struct qnti_rope_table {
    size_t tokens, half, head_dim;
    float *cosine, *sine;
};
/* Of sequences of `tokens`, which counts where the scaling depends on it. */
qnt_status qnti_rope_table_create(qnt_context *ctx, const struct qnti_rope *rope, size_t head_dim, size_t tokens,
                                  struct qnti_rope_table *table);
void qnti_rope_table_free(qnt_context *ctx, struct qnti_rope_table *table);
/* Rotates the pairs (i, i + half) of every head of x [tokens][heads * head_dim], row t being position t. */
qnt_status qnti_rope_forward(qnt_context *ctx, const struct qnti_rope_table *table, size_t heads, float *x,
                             size_t tokens);
/* The gradient by what was rotated, of that by what it became, in place: rotates back. */
qnt_status qnti_rope_backward(qnt_context *ctx, const struct qnti_rope_table *table, size_t heads, float *dx,
                              size_t tokens);

/* The softmax of one row in place: f32, the largest subtracted first. n > 0. */
void qnti_softmax_row(float *x, size_t n);
/* The largest of n > 0 numbers. */
float qnti_row_max(const float *x, size_t n);
/* The sum of e^(x - shift): e^ in f32, the sum in f64. */
double qnti_row_exp_sum(const float *x, size_t n, float shift);

/*
 * Causal attention of one sequence: out = softmax(q k^T / sqrt(head_dim)) v
 * for each head; heads / kv_heads query heads share a key and value head.
 * q, out [tokens][heads * head_dim]; k, v [tokens][kv_heads * head_dim].
 */
struct qnti_attention {
    size_t heads, kv_heads, head_dim;
    size_t window;               /* keys a query sees, itself included; 0: all before it */
    float scale;                 /* in place of 1 / sqrt(head_dim); 0: that */
    float cap;                   /* scores x become cap tanh(x / cap); 0: they stay */
    const float *q, *k, *v;
    size_t tokens;
    float *out;
};
qnt_status qnti_attention_forward(qnt_context *ctx, const struct qnti_attention *attention);
/* Gradients dq, dk, dv, of the shapes of q, k, v, of dout by out, which is not read. */
qnt_status qnti_attention_backward(qnt_context *ctx, const struct qnti_attention *attention, const float *dout,
                                   float *dq, float *dk, float *dv);

/*
 * gate = act(gate) * up, or act(gate) where up is NULL; gate, up [tokens][width]. Backward gate and up, as they went
 * in, become their gradients; dy is that of what came out.
 */
qnt_status qnti_activate(qnt_context *ctx, enum qnti_activation activation, const float *up, size_t tokens,
                         size_t width, float *gate);
qnt_status qnti_activate_backward(qnt_context *ctx, enum qnti_activation activation, const float *dy, size_t tokens,
                                  size_t width, float *gate, float *up);

/* x = cap tanh(x / cap), n numbers; cap 0: they stay. */
void qnti_soft_cap(float cap, float *x, size_t n);
/* dy, the gradient by capped numbers y, becomes that by what they were of. */
void qnti_soft_cap_backward(float cap, const float *y, float *dy, size_t n);

/* x [rows][total] into the columns of several [rows][width[i]], whose widths make up the total; and back. */
enum { QNTI_MOST_PARTS = 3 };
struct qnti_parts {
    size_t count, width[QNTI_MOST_PARTS];
    float *x[QNTI_MOST_PARTS];
};
void qnti_split(const struct qnti_parts *parts, const float *x, size_t rows);
void qnti_join(const struct qnti_parts *parts, size_t rows, float *x);

/*
 * Losses -ln p(target) of n rows of logits [n][vocab], p their softmax: loss [n]. The logits become the gradient of
 * scale times the sum of losses: scale (p - 1 at the target).
 */
qnt_status qnti_cross_entropy(qnt_context *ctx, const int32_t *target, size_t n, size_t vocab, float scale,
                              float *logits, double *loss);

#endif
