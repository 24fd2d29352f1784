/*
 * gptq.c - weights with error feedback.
 *
 * Columns are quantized one after another; the error of each is spread over
 * those to come by the inverse Hessian of the inputs, H = (2 / tokens) X^T X
 * (Frantar et al., "GPTQ", ICLR 2023). asymmetric aims at the output of the
 * unquantized model (GPTAQ, ICML 2025); group-aware order is GPTQModel's.
 */
#include "methods/refine.h"

#include <math.h>
#include <string.h>
#include "linalg/blas.h"
#include "solve/solve.h"

struct gptq_params {
    struct qnti_affine_params affine;
    double damp;
    int block_size;
    bool act_order, static_groups, act_group_aware, asymmetric;
    double alpha;
    struct qnti_refine_params refine;
};

/* Blocks of a format stay in natural columns: an order of processing must not cut them. */
static enum qnti_order order_of(const struct qnti_job *job, const struct gptq_params *p, const struct qnti_grid *grid)
{
    bool blocks = job->layout && job->layout->ggml;
    if (p->act_group_aware && qnti_grid_span(grid, 0) > 0)
        return QNTI_ORDER_GROUP_AWARE;
    if (!p->act_order)
        return QNTI_ORDER_NATURAL;
    return blocks && !p->static_groups ? QNTI_ORDER_GROUP_AWARE : QNTI_ORDER_ACT;
}

/* Groups along the processing order: position / group_size, told to the map as each column's group. */
static qnt_status group_along_order(struct qnti_job *job, struct qnti_grid *grid, uint32_t **index)
{
    size_t in = job->calib->in, size = grid->map.cols;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, index));
    for (size_t j = 0; j < in; j++)
        (*index)[job->order[j]] = (uint32_t)(j / size);
    grid->map = (struct qnti_map){QNTI_MAP_INDEX, 1, size, *index, qnti_ceil_div(in, size)};
    grid->span = size;
    return QNT_OK;
}

/* P = alpha striu(D U^T) U, D and P in processing order (GPTAQ). */
static qnt_status pull_of(struct qnti_job *job, double alpha, float **pull)
{
    size_t n = job->calib->in;
    float *d = NULL, *ordered = NULL;
    struct qnti_gemm g = {.m = n, .n = n, .k = n, .lda = n, .b = job->factor, .ldb = n, .ldc = n, .alpha = 1};
    qnt_status status;
    QNT_CHECK(qnti_job_cross(job, &d));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, n * n, &ordered));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            size_t row = job->order ? job->order[i] : i, col = job->order ? job->order[j] : j;
            ordered[i * n + j] = job->dead[col] ? 0 : d[row * n + col];
        }
    g.a = ordered;
    g.c = d;
    g.transpose_b = true;
    QNT_CHECK(qnti_gemm_parallel(job->ctx, &g));
    for (size_t i = 0; i < n; i++)
        memset(d + i * n, 0, (i + 1) * sizeof *d);
    g.a = d;
    g.c = ordered;
    g.transpose_b = false;
    g.alpha = (float)alpha;
    QNT_CHECK(qnti_gemm_parallel(job->ctx, &g));
    *pull = ordered;
    ordered = NULL;
cleanup:
    qnti_free(job->ctx, d);
    qnti_free(job->ctx, ordered);
    return status;
}

static qnt_status gptq_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct gptq_params *p = job->params;
    struct qnti_feedback f = {.w = job->weight, .block = (size_t)p->block_size};
    struct qnti_grid grid;
    enum qnti_order order;
    uint32_t *index = NULL;
    float *pull = NULL;
    qnt_status status;
    QNT_TRY(qnti_job_grid(job, &p->affine, &grid));
    order = order_of(job, p, &grid);
    status = qnti_job_factor(job, order, qnti_grid_span(&grid, q->in), p->damp);
    if (status == QNT_NOT_FOUND || status == QNT_SINGULAR)
        return qnti_fall_back(job, &grid, q, qnt_context_message(job->ctx));
    QNT_TRY(status);
    if (job->damping != p->damp)
        QNT_TRY(qnti_qlinear_warn(q, "damping raised from %g to %g", p->damp, job->damping));
    if (order == QNTI_ORDER_ACT && !p->static_groups && grid.map.cols && grid.map.rows == 1)
        QNT_CHECK(group_along_order(job, &grid, &index));
    if (p->asymmetric)
        QNT_CHECK(pull_of(job, p->alpha, &pull));
    if (job->layout && job->layout->ggml) {
        f.importance = job->importance;
        f.row_power = job->row_power;
    }
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    if (grid.map.cols == 0) /* rows and tensors: the grid is that of the original weights, dead columns included */
        QNT_CHECK(qnti_fit_all(job->ctx, job->weight, f.importance, f.row_power, q->segments[0].weight));
    qnti_clear_dead(job, layer);
    if (grid.map.cols && p->static_groups)
        QNT_CHECK(qnti_fit_all(job->ctx, job->weight, f.importance, f.row_power, q->segments[0].weight));
    f.fixed = grid.map.cols == 0 || p->static_groups;
    f.factor = job->factor;
    f.order = job->order;
    f.pull = pull;
    QNT_CHECK(qnti_error_feedback(job->ctx, &f, q->segments[0].weight));
cleanup:
    qnti_free(job->ctx, index);
    qnti_free(job->ctx, pull);
    return status;
}

static bool gptq_corrects(const void *params)
{
    const struct gptq_params *p = params;
    return p->refine.refine_passes > 0 || p->refine.refit_scales;
}

static qnt_status gptq_correct(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct gptq_params *p = job->params;
    (void)layer;
    return qnti_refine(job, &p->refine, p->damp, q);
}

static unsigned gptq_needs(const void *params)
{
    const struct gptq_params *p = params;
    return QNTI_NEED_HESSIAN | (p->asymmetric ? QNTI_NEED_PAIRS : 0);
}

static qnt_status gptq_check(qnt_context *ctx, const void *params)
{
    const struct gptq_params *p = params;
    if (p->act_group_aware && p->act_order)
        return qnti_fail(ctx, QNT_INVALID, "gptq: act_group_aware and act_order are two orders, choose one");
    if (p->act_group_aware && (p->affine.group_size == 0 || p->affine.per_tensor))
        return qnti_fail(ctx, QNT_INVALID, "gptq: act_group_aware needs groups, but group_size is 0");
    return qnti_affine_check(ctx, "gptq", &p->affine);
}

#define ROW(name, kind, value, least, greatest, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct gptq_params, name), value, least, greatest, NULL, help}

static const struct qnti_param rows[] = {
    QNTI_AFFINE_ROWS(struct gptq_params, affine),
    ROW(damp, FLOAT, 0.01, 0, 100, "share of the Hessian's mean diagonal that is added to it"),
    ROW(block_size, INT, 128, 1, 1 << 20, "columns between updates of the rest"),
    ROW(act_order, BOOL, 0, 0, 1, "columns by falling diagonal of the Hessian"),
    ROW(static_groups, BOOL, 0, 0, 1, "grids of the groups of columns before the loop"),
    ROW(act_group_aware, BOOL, 0, 0, 1, "groups, and columns inside them, by falling diagonal"),
    ROW(asymmetric, BOOL, 0, 0, 1, "aim at the unquantized model's output (GPTAQ)"),
    ROW(alpha, FLOAT, 0.25, 0, 100, "strength of asymmetric"),
    QNTI_REFINE_ROWS(struct gptq_params, refine, 0),
};

const struct qnti_method qnti_method_gptq = {
    .name = "gptq",
    .title = "error feedback by the inverse Hessian of the inputs",
    .reference = "Frantar et al., GPTQ, ICLR 2023; GPTAQ, ICML 2025; group-aware order: GPTQModel",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct gptq_params)},
    .needs = gptq_needs,
    .check = gptq_check,
    .stages[QNTI_STAGE_WEIGHTS].layer = gptq_weights,
    .stages[QNTI_STAGE_CORRECT].layer = gptq_correct,
    .corrects = gptq_corrects,
};
