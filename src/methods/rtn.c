/*
 * rtn.c - round to nearest.
 *
 * Every weight goes to the nearest level of its group's grid; the grid comes
 * from the range of the group (rtn.md). On the blocks of a format it is that
 * type's own quantizer, weighted with the importance of the channels where
 * there is one. Inputs, if asked for, go to the grid of their range at run
 * time: the floor for methods that quantize them.
 */
#include "method/method.h"

struct rtn_params {
    struct qnti_affine_params affine;
    struct qnti_input_params inputs;
};

static qnt_status rtn_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct rtn_params *p = job->params;
    (void)layer;
    return qnti_job_inputs(job, &p->inputs, q);
}

static qnt_status rtn_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct rtn_params *p = job->params;
    struct qnti_grid grid;
    (void)layer;
    QNT_TRY(qnti_job_grid(job, &p->affine, &grid));
    return qnti_round_to_nearest(job, &grid, q);
}

static bool rtn_offers(const void *params, enum qnti_stage stage)
{
    const struct rtn_params *p = params;
    return stage != QNTI_STAGE_ACTIVATIONS || qnti_inputs_offered(&p->inputs);
}

static unsigned rtn_needs(const void *params)
{
    return qnti_inputs_needs(&((const struct rtn_params *)params)->inputs);
}

static qnt_status rtn_check(qnt_context *ctx, const void *params)
{
    const struct rtn_params *p = params;
    QNT_TRY(qnti_inputs_check(ctx, "rtn", &p->inputs));
    return qnti_affine_check(ctx, "rtn", &p->affine);
}

static const struct qnti_param rows[] = {QNTI_AFFINE_ROWS(struct rtn_params, affine),
                                         QNTI_INPUT_ROWS(struct rtn_params, inputs)};

const struct qnti_method qnti_method_rtn = {
    .name = "rtn",
    .title = "round to nearest",
    .reference = "baseline; grids as in GPTQ's and AWQ's authors' code",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct rtn_params)},
    .needs_by = rtn_needs,
    .check = rtn_check,
    .grid = qnti_job_grid,
    .offers = rtn_offers,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = rtn_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = rtn_weights,
};
