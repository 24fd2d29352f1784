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

qnt_status qnti_group_along(struct qnti_job *job, const uint32_t *order, size_t n, struct qnti_grid *grid,
                            uint32_t **index)
{
    size_t size = grid->map.cols;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n, index));
    for (size_t j = 0; j < n; j++)
        (*index)[order[j]] = (uint32_t)(j / size);
    grid->map = (struct qnti_map){QNTI_MAP_INDEX, 1, size, *index, qnti_ceil_div(n, size)};
    grid->span = size;
    return QNT_OK;
}

qnt_status qnti_tell_damping(const struct qnti_job *job, struct qnti_damping wanted, qnt_qlinear *q)
{
    if (job->damping.share == wanted.share)
        return QNT_OK;
    return qnti_qlinear_warn(q, "damping raised from %g to %g", wanted.share, job->damping.share);
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

/* A fit sees whole rows, or the tensor. */
static bool fits_rows(const struct qnti_grid *grid)
{
    return grid->map.cols == 0 || grid->span == SIZE_MAX;
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
    QNT_TRY(qnti_tell_damping(job, p->damping, q));
    if (order == QNTI_ORDER_ACT && !p->static_groups && grid.map.cols && grid.map.rows == 1)
        QNT_CHECK(qnti_group_along(job, job->order, q->in, &grid, &index));
    QNT_CHECK(qnti_make_up(job, p->qep));
    if (p->asymmetric)
        QNT_CHECK(pull_of(job, p->alpha, &pull));
    f.importance = qnti_job_grid_importance(job);
    f.row_power = job->row_power;
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    if (fits_rows(&grid)) /* the grid is that of the original weights, dead columns included */
        QNT_CHECK(qnti_fit_all(job->ctx, job->weight, f.importance, f.row_power, q->segments[0].weight));
    qnti_clear_dead(job, layer);
    if (!fits_rows(&grid) && p->static_groups)
        QNT_CHECK(qnti_fit_all(job->ctx, job->weight, f.importance, f.row_power, q->segments[0].weight));
    f.fixed = fits_rows(&grid) || p->static_groups;
    f.factor = job->factor;
    f.order = job->order;
    f.pull = pull;
    QNT_CHECK(qnti_error_feedback(job->ctx, &f, q->segments[0].weight));
cleanup:
    qnti_free(job->ctx, index);
    qnti_free(job->ctx, pull);
    return status;
}

/* --- segment after segment --- */

/* Which columns the last segment takes: columns [in] place -> column, order [in] position -> place. */
struct parting {
    uint32_t *columns, *order;
};

static qnt_status part_columns(struct qnti_job *job, const struct qnti_segments_feedback *s, size_t in,
                               struct parting *p)
{
    uint32_t *sorted, *place;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 2 * in, &sorted));
    place = sorted + in;
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, 2 * in, &p->columns));
    p->order = p->columns + in;
    for (size_t c = 0; c < in; c++)
        sorted[c] = p->columns[c] = (uint32_t)c;
    if (!s->keys)
        goto cleanup;
    QNT_CHECK(qnti_job_sort(job, s->keys, in, sorted));
    qnti_part_columns(sorted, in, s->cols[s->count - 1], p->columns, place, p->order);
cleanup:
    qnti_free(job->ctx, sorted);
    return status;
}

/* Rows of the weight with their columns at their places. */
static qnt_status place_columns(struct qnti_job *job, const uint32_t *columns, size_t in)
{
    float *row;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &row));
    for (size_t r = 0; r < job->rows; r++) {
        float *w = job->weight + r * in;
        memcpy(row, w, in * sizeof *row);
        for (size_t p = 0; p < in; p++)
            w[p] = row[columns[p]];
    }
    qnti_free(job->ctx, row);
    return QNT_OK;
}

/* Columns [first, first + cols) of the weight as a matrix of their own. */
static qnt_status copy_columns(const struct qnti_job *job, size_t first, size_t cols, size_t in, float **w)
{
    QNT_TRY(QNTI_NEW_RAW(job->ctx, job->rows * cols, w));
    for (size_t r = 0; r < job->rows; r++)
        memcpy(*w + r * cols, job->weight + r * in + first, cols * sizeof **w);
    return QNT_OK;
}

static qnt_status copy_order(const struct qnti_job *job, const uint32_t *order, size_t first, size_t cols,
                             uint32_t **local)
{
    if (!order)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, cols, local));
    for (size_t j = 0; j < cols; j++)
        (*local)[j] = order[first + j] - (uint32_t)first;
    return QNT_OK;
}

static bool is_direct(const struct qnti_segments_feedback *s, const qnt_qlinear *q, size_t i)
{
    return s->direct && i > 0 && i + 1 == q->segment_count;
}

/* Grids of whole rows are those of the weights before dead columns are cleared, as in a layer of one segment. */
static qnt_status fill_segment(struct qnti_job *job, const struct qnti_segments_feedback *s,
                               const struct parting *parting, qnt_qlinear *q, size_t i)
{
    struct qnti_segment *segment = &q->segments[i];
    size_t first = segment->first, cols = segment->cols, in = q->in;
    struct qnti_feedback f = {.block = s->block, .factor = job->factor + first * (in + 1), .stride = in,
                              .rest = job->weight + first + cols, .rest_cols = in - first - cols, .rest_stride = in};
    struct qnti_grid grid = s->grids[i];
    bool coded = grid.form != QNTI_FORM_FLOAT;
    uint32_t *order = NULL, *index = NULL;
    float *w = NULL;
    qnt_status status;
    QNT_CHECK(copy_order(job, s->by_keys ? parting->order : NULL, first, cols, &order));
    QNT_CHECK(copy_columns(job, first, cols, in, &w));
    if (order && coded && grid.map.cols)
        QNT_CHECK(qnti_group_along(job, order, cols, &grid, &index));
    QNT_CHECK(qnti_segment_fill(q, segment, &grid));
    if (coded && grid.map.cols == 0)
        QNT_CHECK(qnti_fit_all(job->ctx, w, NULL, NULL, segment->weight));
    for (size_t k = 0; coded && k < job->rows * cols; k++)
        w[k] = job->dead[parting->columns[first + k % cols]] ? 0 : w[k];
    if (is_direct(s, q, i)) {
        status = qnti_nearest(job->ctx, w, NULL, NULL, segment->weight);
        goto cleanup;
    }
    f.w = w;
    f.order = order;
    f.fixed = !coded || grid.map.cols == 0;
    QNT_CHECK(qnti_error_feedback(job->ctx, &f, segment->weight));
cleanup:
    qnti_free(job->ctx, order);
    qnti_free(job->ctx, index);
    qnti_free(job->ctx, w);
    return status;
}

static qnt_status factor_parted(struct qnti_job *job, const struct qnti_segments_feedback *s,
                                const struct parting *parting, qnt_qlinear *q)
{
    uint32_t *order;
    qnt_status status;
    if (!s->keys) {
        QNT_TRY(qnti_job_factor(job, QNTI_ORDER_NATURAL, 0, s->damping));
        return qnti_tell_damping(job, s->damping, q);
    }
    QNT_TRY(QNTI_NEW_RAW(job->ctx, q->in, &order));
    for (size_t j = 0; j < q->in; j++)
        order[j] = parting->columns[s->by_keys ? parting->order[j] : j];
    status = qnti_job_factor_in(job, order, s->damping);
    qnti_free(job->ctx, order);
    QNT_TRY(status);
    return qnti_tell_damping(job, s->damping, q);
}

qnt_status qnti_feedback_segments(struct qnti_job *job, const struct qnti_segments_feedback *s, qnt_qlinear *q)
{
    struct parting parting = {0};
    qnt_status status;
    if (s->keys && q->segment_count > 1)
        return qnti_fail(job->ctx, QNT_UNSUPPORTED, "layer %s: columns that its inputs are parted by cannot be parted "
                         "in another way", q->name);
    QNT_CHECK(part_columns(job, s, q->in, &parting));
    QNT_CHECK(factor_parted(job, s, &parting, q));
    if (!q->segment_count)
        QNT_CHECK(qnti_qlinear_cut(q, s->cols, s->count));
    if (s->keys) {
        QNT_CHECK(qnti_qlinear_permute(q, parting.columns));
        QNT_CHECK(place_columns(job, parting.columns, q->in));
    }
    for (size_t i = 0; i < q->segment_count; i++)
        QNT_CHECK(fill_segment(job, s, &parting, q, i));
cleanup:
    qnti_free(job->ctx, parting.columns);
    return status;
}

qnt_status qnti_nearest_segments(struct qnti_job *job, const struct qnti_segments_feedback *s, qnt_qlinear *q)
{
    if (!q->segment_count)
        QNT_TRY(qnti_qlinear_cut(q, s->cols, s->count));
    for (size_t i = 0; i < q->segment_count; i++) {
        struct qnti_segment *segment = &q->segments[i];
        qnt_status status;
        float *w;
        QNT_TRY(qnti_segment_fill(q, segment, &s->grids[i]));
        QNT_TRY(copy_columns(job, segment->first, segment->cols, q->in, &w));
        status = qnti_nearest(job->ctx, w, NULL, NULL, segment->weight);
        qnti_free(job->ctx, w);
        QNT_TRY(status);
    }
    return QNT_OK;
}

qnt_status qnti_feedback_as_quantized(struct qnti_job *job, const struct qnti_segments_feedback *s, qnt_qlinear *q)
{
    qnt_status status = qnti_job_quantized_hessian(job, q);
    if (status == QNT_OK)
        status = qnti_feedback_segments(job, s, q);
    if (status != QNT_NOT_FOUND && status != QNT_SINGULAR)
        return status;
    QNT_TRY(qnti_qlinear_warn(q, "rounded to nearest: %s", qnt_context_message(job->ctx)));
    return qnti_nearest_segments(job, s, q);
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
