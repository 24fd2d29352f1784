/*
 * loss.c - the loss of next tokens: -ln of the softmax of the logits at the target, and its gradient by the logits.
 *
 * A model's loss is the mean over a sequence's tokens but the last, behind
 * final norm and output matrix. Logits exist for a run of positions at a time.
 */
#include "nn/nn.h"

#include <math.h>
#include <string.h>
#include "nn/expf.h"
#include "nn/operators.h"

enum { RUN = 256 };

struct entropy {
    const int32_t *target;
    size_t vocab;
    float scale, *logits;
    double *loss;
};

static void entropy_rows(void *arg, size_t first, size_t n)
{
    const struct entropy *e = arg;
    for (size_t r = first; r < first + n; r++) {
        float *x = e->logits + r * e->vocab, max = qnti_row_max(x, e->vocab), factor;
        double sum = qnti_row_exp_sum(x, e->vocab, max);
        size_t target = (size_t)e->target[r];
        e->loss[r] = (double)max + log(sum) - (double)x[target];
        factor = (float)((double)e->scale / sum);
        for (size_t i = 0; i < e->vocab; i++)
            x[i] = factor * qnti_expf(x[i] - max);
        x[target] -= e->scale;
    }
}

qnt_status qnti_cross_entropy(qnt_context *ctx, const int32_t *target, size_t n, size_t vocab, float scale,
                              float *logits, double *loss)
{
    return qnti_for_rows(ctx, n, vocab, entropy_rows, &(struct entropy){target, vocab, scale, logits, loss});
}

struct qnti_loss {
    const struct qnti_checkpoint *model;
    float *head, *weights;       /* [vocab][hidden], those of the final norm */
    struct qnti_norm norm;
    float *x, *dx, *logits;      /* of a run: normed, gradient by it [RUN][hidden]; [RUN][vocab] */
    float *capped;               /* [RUN][vocab] the logits, where they are soft-capped, or NULL */
};

qnt_status qnti_loss_create(const struct qnti_checkpoint *model, struct qnti_loss **out)
{
    const struct qnti_config *c = &model->config;
    struct qnti_loss *l;
    size_t n;
    qnt_status status;
    *out = NULL;
    QNT_TRY(QNTI_NEW(model->ctx, 1, &l));
    l->model = model;
    if (!qnti_multiply(RUN, qnti_max(c->vocab, c->hidden), &n))
        QNT_CHECK(qnti_fail(model->ctx, QNT_NO_MEMORY, "logits of %zu tokens exceed the address space", c->vocab));
    QNT_CHECK(qnti_final_norm_load(model, &l->norm, &l->weights));
    QNT_CHECK(QNTI_NEW_RAW(model->ctx, RUN * c->hidden, &l->x));
    QNT_CHECK(QNTI_NEW_RAW(model->ctx, RUN * c->hidden, &l->dx));
    QNT_CHECK(QNTI_NEW_RAW(model->ctx, RUN * c->vocab, &l->logits));
    if (c->logit_cap > 0)
        QNT_CHECK(QNTI_NEW_RAW(model->ctx, RUN * c->vocab, &l->capped));
    QNT_CHECK(qnti_head_load(model, &l->head));
    *out = l;
cleanup:
    if (status != QNT_OK)
        qnti_loss_free(l);
    return status;
}

void qnti_loss_free(struct qnti_loss *l)
{
    if (!l)
        return;
    qnti_free(l->model->ctx, l->head);
    qnti_free(l->model->ctx, l->weights);
    qnti_free(l->model->ctx, l->capped);
    qnti_free(l->model->ctx, l->x);
    qnti_free(l->model->ctx, l->dx);
    qnti_free(l->model->ctx, l->logits);
    qnti_free(l->model->ctx, l);
}

/* Positions [0, n) of x, each with the next id as its target. */
static qnt_status run_backward(const struct qnti_loss *l, const float *x, const int32_t *ids, size_t n, float scale,
                               double *sum, float *dx)
{
    const struct qnti_config *c = &l->model->config;
    qnt_context *ctx = l->model->ctx;
    struct qnti_linear head = {.weight = l->head, .in = c->hidden, .out = c->vocab};
    double loss[RUN];
    QNT_TRY(qnti_norm(ctx, &l->norm, x, n, l->x));
    QNT_TRY(qnti_logits(l->model, l->head, l->x, n, l->logits));
    if (l->capped)
        memcpy(l->capped, l->logits, n * c->vocab * sizeof *l->capped);
    QNT_TRY(qnti_cross_entropy(ctx, ids + 1, n, c->vocab, scale, l->logits, loss));
    for (size_t i = 0; i < n; i++)
        *sum += loss[i];
    if (l->capped)
        qnti_soft_cap_backward(c->logit_cap, l->capped, l->logits, n * c->vocab);
    QNT_TRY(qnti_linear_backward(ctx, &head, l->logits, n, false, l->dx));
    return qnti_norm_backward(ctx, &l->norm, x, l->dx, n, true, dx);
}

qnt_status qnti_loss_backward(const struct qnti_loss *l, const float *x, const int32_t *ids, size_t tokens,
                              double *loss, float *dx)
{
    size_t hidden = l->model->config.hidden, scored = tokens - 1;
    double sum = 0;
    memset(dx, 0, tokens * hidden * sizeof *dx);
    for (size_t t = 0; t < scored; t += RUN)
        QNT_TRY(run_backward(l, x + t * hidden, ids + t, qnti_min(RUN, scored - t), (float)(1.0 / (double)scored),
                             &sum, dx + t * hidden));
    *loss = sum / (double)scored;
    return QNT_OK;
}
