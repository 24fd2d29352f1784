/*
 * export.c - what all formats do in the same way: get a tensor, store it as f16.
 */
#include "export/export.h"

#include <math.h>
#include "base/kernels.h"

static const float largest_f16 = 65504;

qnt_status qnti_export_weight(const struct qnti_export *e, size_t target, struct qnti_weight *weight)
{
    const struct qnti_weight *source = e->targets[target].source;
    if (!e->weight) {
        *weight = *source;
        return QNT_OK;
    }
    QNT_TRY(e->weight(e->user, target, weight));
    if (weight->rows != source->rows || weight->cols != source->cols)
        return qnti_fail(e->ctx, QNT_INVALID, "tensor %s is (%zu, %zu), expected (%zu, %zu)", source->name,
                         weight->rows, weight->cols, source->rows, source->cols);
    return QNT_OK;
}

size_t qnti_clamp_f16(float *x, size_t n)
{
    size_t clamped = 0;
    for (size_t i = 0; i < n; i++) {
        if (fabsf(x[i]) <= largest_f16)
            continue;
        x[i] = copysignf(largest_f16, x[i]);
        clamped++;
    }
    return clamped;
}

size_t qnti_store_f16(qnt_context *ctx, float *x, size_t n, uint16_t *half)
{
    size_t clamped = qnti_clamp_f16(x, n);
    qnti_context_kernels(ctx)->f32_to_f16(n, x, half);
    return clamped;
}

void qnti_warn_clamped(qnt_context *ctx, const char *tensor, size_t clamped)
{
    if (clamped)
        qnti_log(ctx, QNT_LOG_WARNING, "%s: %zu numbers beyond %g are clamped to it, the largest of f16", tensor,
                 clamped, (double)largest_f16);
}
