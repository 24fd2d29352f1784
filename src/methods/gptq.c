/*
 * gptq.c - weights with error feedback.
 *
 * Columns are quantized one after another; the error of each is spread over
 * those to come by the inverse Hessian of the inputs, H = (2 / tokens) X^T X
 * (Frantar et al., "GPTQ", ICLR 2023). asymmetric aims at the output of the
 * unquantized model (GPTAQ, ICML 2025); group-aware order is GPTQModel's.
 */
#include "method/feedback.h"
#include "methods/refine.h"

struct gptq_params {
    struct qnti_affine_params affine;
    struct qnti_feedback_params feedback;
    struct qnti_refine_params refine;
};

static qnt_status gptq_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct gptq_params *p = job->params;
    struct qnti_grid grid;
    QNT_TRY(qnti_job_grid(job, p, &grid));
    return qnti_feedback_weights(job, &p->feedback, &grid, layer, q);
}

static qnt_status gptq_correct(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct gptq_params *p = job->params;
    (void)layer;
    return qnti_refine(job, &p->refine, p->feedback.damping, q);
}

static bool gptq_offers(const void *params, enum qnti_stage stage)
{
    const struct gptq_params *p = params;
    return stage != QNTI_STAGE_CORRECT || p->refine.refine_passes > 0;
}

static const struct qnti_damping *gptq_feedback(const void *params)
{
    return &((const struct gptq_params *)params)->feedback.damping;
}

static unsigned gptq_needs(const void *params)
{
    const struct gptq_params *p = params;
    return qnti_feedback_needs(&p->feedback);
}

static qnt_status gptq_check(qnt_context *ctx, const void *params)
{
    const struct gptq_params *p = params;
    QNT_TRY(qnti_affine_check(ctx, "gptq", &p->affine));
    return qnti_feedback_check(ctx, "gptq", &p->feedback, &p->affine);
}

static const struct qnti_param rows[] = {
    QNTI_AFFINE_ROWS(struct gptq_params, affine),
    QNTI_FEEDBACK_ROWS(struct gptq_params, feedback),
    QNTI_REFINE_ROWS(struct gptq_params, refine, 0),
};

const struct qnti_method qnti_method_gptq = {
    .name = "gptq",
    .title = "error feedback by the inverse Hessian of the inputs",
    .reference = "Frantar et al., GPTQ, ICLR 2023; GPTAQ, ICML 2025; group-aware order: GPTQModel",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct gptq_params)},
    .needs_by = gptq_needs,
    .check = gptq_check,
    .stages[QNTI_STAGE_WEIGHTS].layer = gptq_weights,
    .stages[QNTI_STAGE_CORRECT].layer = gptq_correct,
    .offers = gptq_offers,
    .feedback = gptq_feedback,
    .grid = qnti_job_grid,
};
