/*
 * linear.c - the unit of one linear, and the loss behind any unit.
 */
#include "unit/unit.h"

#include <string.h>
#include "linalg/blas.h"

static qnt_status linear_forward(const struct qnti_unit *unit, const float *x, size_t tokens, size_t sequence,
                                 const float *const *weights, float *y)
{
    const struct qnti_layer_unit *linear = unit->self;
    struct qnti_gemm g = {.m = tokens, .n = unit->out, .k = unit->in, .a = x, .lda = unit->in,
                          .b = weights && weights[0] ? weights[0] : linear->weight, .ldb = unit->in,
                          .transpose_b = true, .c = y, .ldc = unit->out, .alpha = 1};
    (void)sequence;
    for (size_t t = 0; linear->bias && t < tokens; t++)
        memcpy(y + t * unit->out, linear->bias, unit->out * sizeof *y);
    g.beta = linear->bias ? 1 : 0;
    return qnti_gemm_parallel(unit->ctx, &g);
}

void qnti_unit_of_layer(qnt_context *ctx, struct qnti_layer_unit *linear, size_t out, size_t in, struct qnti_unit *unit)
{
    linear->shape = (struct qnti_unit_weight){out, in};
    *unit = (struct qnti_unit){.in = in, .out = out, .weight_count = 1, .weights = &linear->shape,
                               .forward = linear_forward, .ctx = ctx, .self = linear};
}

qnt_status qnti_unit_loss(const struct qnti_unit *unit, const float *x, size_t tokens, size_t sequence,
                          const float *const *a, const float *const *b, double *loss)
{
    size_t n = tokens * unit->out;
    float *ya = NULL, *yb = NULL;
    double sum = 0;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(unit->ctx, n, &ya));
    QNT_CHECK(QNTI_NEW_RAW(unit->ctx, n, &yb));
    QNT_CHECK(unit->forward(unit, x, tokens, sequence, a, ya));
    QNT_CHECK(unit->forward(unit, x, tokens, sequence, b, yb));
    for (size_t i = 0; i < n; i++) {
        double d = (double)ya[i] - (double)yb[i];
        sum += d * d;
    }
    *loss = n ? sum / (double)n : 0;
cleanup:
    qnti_free(unit->ctx, ya);
    qnti_free(unit->ctx, yb);
    return status;
}
