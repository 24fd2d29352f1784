/*
 * refine.c - coordinate descent on codes and scales, behind any method.
 *
 * Each pass rounds every column to its best value with all others fixed, under
 * the damped Hessian; with refit_scales it moves each group's scale likewise
 * (gptq.md, "Beyond the paper"). The format does not change.
 */
#include "methods/refine.h"

#include "linalg/factor.h"
#include "solve/solve.h"

/* Columns that nothing came through stay as the stage before left them: they are their own target. */
static void accept_dead(struct qnti_job *job, const struct qnti_numbers *q)
{
    for (size_t j = 0; job->dead_count && j < q->cols; j++)
        for (size_t r = 0; job->dead[j] && r < q->rows; r++)
            qnti_numbers_values(q, r, j, 1, job->weight + r * q->cols + j);
}

static void exchange_diagonal(float *h, size_t n, float *diagonal)
{
    for (size_t j = 0; j < n; j++) {
        float own = h[j * n + j];
        h[j * n + j] = diagonal[j];
        diagonal[j] = own;
    }
}

qnt_status qnti_refine(struct qnti_job *job, const struct qnti_refine_params *p, struct qnti_damping damping,
                       qnt_qlinear *q)
{
    size_t in = q->in;
    float *h, *damped;
    qnt_status status = qnti_job_hessian(job);
    if (status == QNT_NOT_FOUND)
        return qnti_qlinear_warn(q, "not refined: %s", qnt_context_message(job->ctx));
    QNT_TRY(status);
    if (q->segment_count != 1)
        return qnti_qlinear_warn(q, "not refined: the layer has %zu segments", q->segment_count);
    if (q->sparse.count)
        return qnti_qlinear_warn(q, "not refined: %zu weights stand outside the grid", q->sparse.count);
    if (q->lowrank_a)
        return qnti_qlinear_warn(q, "not refined: a low-rank part already makes up for its errors");
    if (p->refit_scales && !qnti_can_refit(&q->segments[0].weight->grid))
        QNT_TRY(qnti_qlinear_warn(q, "scales not refitted: they are quantized themselves or shared by rows"));
    accept_dead(job, q->segments[0].weight);
    h = job->hessian;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &damped));
    qnti_damped_diagonal(h, in, damping, damped);
    exchange_diagonal(h, in, damped);
    status = qnti_descend(job->ctx, job->weight, h, (size_t)p->refine_passes, p->refit_scales, q->segments[0].weight);
    exchange_diagonal(h, in, damped);
    qnti_free(job->ctx, damped);
    return status;
}

struct refine_params {
    struct qnti_refine_params refine;
    struct qnti_damping damping;
};

static qnt_status refine_correct(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct refine_params *p = job->params;
    (void)layer;
    return qnti_refine(job, &p->refine, p->damping, q);
}

static const struct qnti_param rows[] = {
    QNTI_REFINE_ROWS(struct refine_params, refine, 3),
    QNTI_DAMPING_ROWS(struct refine_params, damping),
};

const struct qnti_method qnti_method_refine = {
    .name = "refine",
    .title = "coordinate descent on codes and scales behind another method",
    .reference = "cyclic coordinate descent on the layer's quadratic error",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct refine_params)},
    .needs = QNTI_NEED_HESSIAN,
    .stages[QNTI_STAGE_CORRECT].layer = refine_correct,
};
