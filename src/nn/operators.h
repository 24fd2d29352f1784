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

/* out = weight * x / sqrt(mean(x^2) + eps), each row by itself; out may be x. */
struct qnti_rms_norm {
    const float *weight;
    size_t width;
    float eps;
};
qnt_status qnti_rms_norm(qnt_context *ctx, const struct qnti_rms_norm *norm, const float *x, size_t tokens,
                         float *out);

/* Cosines and sines of the positions 0 .. tokens-1, [tokens][head_dim / 2]. */
struct qnti_rope_table {
    size_t tokens, half;
    float *cosine, *sine;
};
qnt_status qnti_rope_table_create(qnt_context *ctx, const struct qnti_rope *rope, size_t head_dim, size_t tokens,
                                  struct qnti_rope_table *table);
void qnti_rope_table_free(qnt_context *ctx, struct qnti_rope_table *table);
/* Rotates the pairs (i, i + head_dim/2) of every head of x [tokens][heads * head_dim], row t being position t. */
qnt_status qnti_rope_forward(qnt_context *ctx, const struct qnti_rope_table *table, size_t heads, float *x,
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
    const float *q, *k, *v;
    size_t tokens;
    float *out;
};
qnt_status qnti_attention_forward(qnt_context *ctx, const struct qnti_attention *attention);

/* gate = gate * sigmoid(gate) * up; gate, up [tokens][width]. */
qnt_status qnti_swiglu(qnt_context *ctx, const float *up, size_t tokens, size_t width, float *gate);

#endif
