/*
 * linear.c - y = x W^T + b.
 *
 * The bias is laid down first and the product added to it by the gemm.
 */
#include "nn/operators.h"

#include <string.h>
#include "linalg/blas.h"

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
