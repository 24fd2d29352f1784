/*
 * rtn.c - round to nearest.
 *
 * Every weight goes to the nearest level of its group's grid; the grid comes
 * from the range of the group (rtn.md). On the blocks of a format it is that
 * type's own quantizer, weighted with the importance of the channels where
 * there is one.
 */
#include "method/method.h"

struct rtn_params {
    struct qnti_affine_params affine;
};

static qnt_status rtn_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct rtn_params *p = job->params;
    struct qnti_grid grid;
    (void)layer;
    QNT_TRY(qnti_job_grid(job, &p->affine, &grid));
    return qnti_round_to_nearest(job, &grid, q);
}

static qnt_status rtn_check(qnt_context *ctx, const void *params)
{
    const struct rtn_params *p = params;
    return qnti_affine_check(ctx, "rtn", &p->affine);
}

static const struct qnti_param rows[] = {QNTI_AFFINE_ROWS(struct rtn_params, affine)};

const struct qnti_method qnti_method_rtn = {
    .name = "rtn",
    .title = "round to nearest",
    .reference = "baseline; grids as in GPTQ's and AWQ's authors' code",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct rtn_params)},
    .check = rtn_check,
    .grid = qnti_job_grid,
    .stages[QNTI_STAGE_WEIGHTS].layer = rtn_weights,
};
