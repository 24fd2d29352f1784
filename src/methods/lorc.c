/*
 * lorc.c - a low-rank part that makes up for the errors of whatever filled the weights.
 *
 * Q + A B with A B of rank 8 or so the nearest to W - Q: a few bits for every
 * hundred weights take the part of the error that many of them share (Yao et
 * al., "ZeroQuant-V2", 2023). The codes stay as they are.
 */
#include "method/compensate.h"

struct lorc_params {
    struct qnti_compensation part;
};

static qnt_status lorc_correct(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct lorc_params *p = job->params;
    (void)layer;
    return qnti_compensate(job, &p->part, q);
}

static qnt_status lorc_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct lorc_params *p = params;
    *bits = qnti_compensation_bits(job, &p->part, out, in);
    return QNT_OK;
}

static unsigned lorc_needs(const void *params)
{
    const struct lorc_params *p = params;
    return p->part.weight == QNTI_RANK_HESSIAN ? QNTI_NEED_HESSIAN : 0;
}

static unsigned lorc_leaves(const void *params)
{
    (void)params;
    return QNTI_BESIDE_LOWRANK;
}

static const struct qnti_param rows[] = {QNTI_COMPENSATION_ROWS(struct lorc_params, part, 8, 1)};

const struct qnti_method qnti_method_lorc = {
    .name = "lorc",
    .title = "low-rank part beside the codes of another method",
    .reference = "Yao et al., ZeroQuant-V2, 2023",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct lorc_params)},
    .needs_by = lorc_needs,
    .leaves = lorc_leaves,
    .bits = lorc_bits,
    .stages[QNTI_STAGE_CORRECT].layer = lorc_correct,
};
