/*
 * feedback.c - a layer's grid filled by error feedback: orders of columns, groups along them, GPTAQ's pull.
 */
#include "method/feedback.h"

#include <string.h>
#include "linalg/blas.h"
#include "solve/solve.h"

/* Where a format has no groups along an order they stay those of natural columns: the order must not cut them. */
static enum qnti_order order_of(const struct qnti_job *job, const struct qnti_feedback_params *p,
                                const struct qnti_grid *grid)
{
    bool blocks = job->layout && !job->layout->group_index;
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

qnt_status qnti_feedback_weights(struct qnti_job *job, const struct qnti_feedback_params *p,
                                 const struct qnti_grid *wanted, const qnt_layer *layer, qnt_qlinear *q)
{
    struct qnti_feedback f = {.w = job->weight, .block = (size_t)p->block_size};
    struct qnti_grid grid = *wanted;
    enum qnti_order order;
    uint32_t *index = NULL;
    float *pull = NULL;
    qnt_status status;
    order = order_of(job, p, &grid);
    status = qnti_job_factor(job, order, qnti_grid_span(&grid, q->in), p->damping);
    if (status == QNT_NOT_FOUND || status == QNT_SINGULAR)
        return qnti_fall_back(job, &grid, q, qnt_context_message(job->ctx));
    QNT_TRY(status);
    if (job->damping.share != p->damping.share)
        QNT_TRY(qnti_qlinear_warn(q, "damping raised from %g to %g", p->damping.share, job->damping.share));
    if (order == QNTI_ORDER_ACT && !p->static_groups && grid.map.cols && grid.map.rows == 1)
        QNT_CHECK(group_along_order(job, &grid, &index));
    QNT_CHECK(qnti_make_up(job, p->qep, p->damping, q->out));
    if (p->asymmetric)
        QNT_CHECK(pull_of(job, p->alpha, &pull));
    f.importance = qnti_job_grid_importance(job);
    f.row_power = job->row_power;
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

unsigned qnti_feedback_needs(const struct qnti_feedback_params *p)
{
    return QNTI_NEED_HESSIAN | (p->asymmetric || p->qep > 0 ? QNTI_NEED_PAIRS : 0);
}

qnt_status qnti_feedback_check(qnt_context *ctx, const char *method, const struct qnti_feedback_params *p,
                               const struct qnti_affine_params *affine)
{
    if (p->asymmetric && p->qep > 0)
        return qnti_fail(ctx, QNT_INVALID, "%s: asymmetric and qep make up for the same errors, choose one", method);
    if (p->act_group_aware && p->act_order)
        return qnti_fail(ctx, QNT_INVALID, "%s: act_group_aware and act_order are two orders, choose one", method);
    if (p->act_group_aware && (affine->group_size == 0 || affine->per_tensor))
        return qnti_fail(ctx, QNT_INVALID, "%s: act_group_aware needs groups, but group_size is 0", method);
    return QNT_OK;
}
