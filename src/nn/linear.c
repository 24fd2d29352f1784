/*
 * linear.c - y = x W^T + b; backward dx = dy W, dW = dy^T x.
 *
 * The bias is laid down first and the product added to it by the gemm. A layer
 * that quantizes its inputs gets them through the layer level's reference
 * code; columns that the batch leaves out meet the f16 copy of the weights
 * where there is one (LLM.int8), as a second, narrow product.
 */
#include "nn/operators.h"

#include <string.h>
#include "linalg/blas.h"
#include "qlinear/qlinear.h"

struct bias {
    const struct qnti_linear *linear;
    float *out;
    bool add;
};

static void bias_rows(void *arg, size_t first, size_t n)
{
    const struct bias *b = arg;
    size_t width = b->linear->out;
    for (size_t t = first; t < first + n; t++) {
        float *out = b->out + t * width;
        if (!b->add)
            memcpy(out, b->linear->bias, width * sizeof *out);
        else
            for (size_t i = 0; i < width; i++)
                out[i] += b->linear->bias[i];
    }
}

qnt_status qnti_linear(qnt_context *ctx, const struct qnti_linear *l, const float *x, size_t tokens, bool add,
                       float *out)
{
    struct bias bias = {.linear = l, .out = out, .add = add};
    if (l->bias)
        QNT_TRY(qnti_for_rows(ctx, tokens, l->out, bias_rows, &bias));
    return qnti_gemm_parallel(ctx, &(struct qnti_gemm){
        .m = tokens, .n = l->out, .k = l->in, .a = x, .lda = l->in, .b = l->weight, .ldb = l->in, .transpose_b = true,
        .c = out, .ldc = l->out, .alpha = 1, .beta = add || l->bias ? 1 : 0});
}

qnt_status qnti_linear_backward(qnt_context *ctx, const struct qnti_linear *l, const float *dy, size_t tokens, bool add,
                                float *dx)
{
    return qnti_gemm_parallel(ctx, &(struct qnti_gemm){
        .m = tokens, .n = l->in, .k = l->out, .a = dy, .lda = l->out, .b = l->weight, .ldb = l->in, .c = dx,
        .ldc = l->in, .alpha = 1, .beta = add ? 1 : 0});
}

qnt_status qnti_linear_gradient(qnt_context *ctx, const struct qnti_linear *l, const float *x, const float *dy,
                                size_t tokens, size_t first, size_t n, float *gradient)
{
    return qnti_gemm_parallel(ctx, &(struct qnti_gemm){
        .m = n, .n = l->in, .k = tokens, .a = dy + first, .lda = l->out, .transpose_a = true, .b = x, .ldb = l->in,
        .c = gradient, .ldc = l->in, .alpha = 1});
}

/* The columns left out: their inputs [tokens][n], and what their f16 weights have more than the coded ones [out][n]. */
struct left_out {
    const struct qnti_linear *linear;
    const qnt_qlinear *q;
    size_t n;
    uint32_t *columns;           /* [n] */
    float *x, *difference;
};

static void difference_rows(void *arg, size_t first, size_t n)
{
    const struct left_out *o = arg;
    for (size_t r = first; r < first + n; r++)
        for (size_t i = 0; i < o->n; i++) {
            float full;
            qnti_numbers_values(o->q->full, r, o->columns[i], 1, &full);
            o->difference[r * o->n + i] = full - o->linear->weight[r * o->linear->in + o->columns[i]];
        }
}

static qnt_status add_left_out(qnt_context *ctx, struct left_out *o, const float *x, size_t tokens, float *out)
{
    size_t width = o->linear->out, in = o->linear->in;
    QNT_TRY(QNTI_NEW_RAW(ctx, tokens * o->n, &o->x));
    QNT_TRY(QNTI_NEW_RAW(ctx, width * o->n, &o->difference));
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < o->n; i++)
            o->x[t * o->n + i] = x[t * in + o->columns[i]];
    QNT_TRY(qnti_for_rows(ctx, width, o->n, difference_rows, o));
    return qnti_gemm_parallel(ctx, &(struct qnti_gemm){
        .m = tokens, .n = width, .k = o->n, .a = o->x, .lda = o->n, .b = o->difference, .ldb = o->n,
        .transpose_b = true, .c = out, .ldc = width, .alpha = 1, .beta = 1});
}

qnt_status qnti_linear_quantized(qnt_context *ctx, const struct qnti_linear *l, const qnt_qlinear *q, const float *x,
                                 size_t tokens, bool add, float *out)
{
    struct left_out o = {.linear = l, .q = q};
    uint8_t *kept = NULL;
    float *input = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW(ctx, l->in, &kept));
    QNT_CHECK(QNTI_NEW_RAW(ctx, tokens * l->in, &input));
    QNT_CHECK(qnti_qlinear_inputs(q, x, tokens, input, kept));
    QNT_CHECK(qnti_linear(ctx, l, input, tokens, add, out));
    if (!q->full)
        goto cleanup;
    QNT_CHECK(QNTI_NEW_RAW(ctx, l->in, &o.columns));
    for (size_t c = 0; c < l->in; c++)
        if (kept[c])
            o.columns[o.n++] = (uint32_t)c;
    if (o.n)
        QNT_CHECK(add_left_out(ctx, &o, input, tokens, out));
cleanup:
    qnti_free(ctx, kept);
    qnti_free(ctx, input);
    qnti_free(ctx, o.columns);
    qnti_free(ctx, o.x);
    qnti_free(ctx, o.difference);
    return status;
}
