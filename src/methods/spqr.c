/*
 * spqr.c - small groups whose scales and zeros are codes themselves, and single weights kept where rounding costs most.
 *
 * Error feedback on groups of 16 columns; scales and zeros of 16 rows in turn
 * are rounded to 3 bits; a weight whose error exceeds a share of the layer's
 * mean sensitivity stays a float beside the codes, as the corrections of
 * earlier columns have left it (Dettmers et al., "SpQR", ICLR 2024).
 */
#include "method/feedback.h"

#include <math.h>
#include "solve/solve.h"

struct spqr_params {
    int bits, group_size, scale_bits, zero_bits, stat_group_size;
    bool zero_sym, round_zero, sym;
    double outlier_threshold, target_outliers;
    bool simplified_outliers;
    int permutation_order;
    struct qnti_damping damping;
    int block_size;
};

enum { IDENTITY, ACT_ORDER, SPEARMAN };

static bool zeros_are_coded(const struct spqr_params *p)
{
    return p->zero_bits > 0 && !p->sym && !(p->round_zero && p->zero_bits >= p->bits);
}

/* Runs of rows of one group's scales or zeros. */
static struct qnti_grid second_level(const struct qnti_job *job, const struct spqr_params *p, int bits, bool sym,
                                     qnt_dtype type)
{
    struct qnti_grid grid = qnti_minmax_grid(job->kernels, (unsigned)bits, 1, type);
    grid.map.rows = (size_t)p->stat_group_size;
    grid.sym = grid.constant_offset = sym;
    grid.offset = sym ? (float)(1u << (bits - 1)) : 0;
    return grid;
}

static qnt_status spqr_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    const struct spqr_params *p = params;
    qnt_dtype type = job->layout ? job->layout->scale_type : QNT_F32;
    *grid = qnti_minmax_grid(job->kernels, (unsigned)p->bits, (size_t)p->group_size, type);
    grid->sym = grid->constant_offset = p->sym;
    grid->offset = p->sym ? (float)(1u << (p->bits - 1)) : 0;
    grid->whole_offset = p->round_zero;
    if (p->scale_bits > 0) {
        job->second[0] = second_level(job, p, p->scale_bits, false, type);
        grid->scale_grid = &job->second[0];
    }
    if (zeros_are_coded(p)) {
        job->second[1] = second_level(job, p, p->zero_bits, p->zero_sym, type);
        grid->offset_grid = &job->second[1];
    }
    return QNT_OK;
}

static qnt_status fill(struct qnti_job *job, const struct spqr_params *p, qnt_qlinear *q)
{
    struct qnti_outlier_rule rule = {INFINITY, !p->simplified_outliers};
    struct qnti_outliers outliers = qnti_outlier_functions(&rule);
    struct qnti_feedback f = {.w = job->weight, .factor = job->factor, .order = job->order, .fresh = true,
                              .block = (size_t)p->block_size, .outliers = &outliers};
    struct qnti_numbers *numbers = q->segments[0].weight;
    size_t n = q->out * q->in;
    double scale = qnti_outlier_scale(job->weight, q->out, q->in, job->factor, job->order);
    qnt_status status;
    outliers.type = job->layout ? job->layout->scale_type : QNT_F32;
    QNT_CHECK(QNTI_NEW(job->ctx, n, &outliers.mask));
    QNT_CHECK(QNTI_NEW(job->ctx, n, &outliers.value));
    if (q->out > 1 && scale > 0) /* one row has no variance */
        rule.threshold = scale * p->outlier_threshold;
    if (p->target_outliers > 0 && !isinf(rule.threshold))
        QNT_CHECK(qnti_outlier_threshold(job->ctx, &f, scale, p->target_outliers, &rule, numbers));
    if (isinf(rule.threshold))
        f.outliers = NULL;
    QNT_CHECK(qnti_error_feedback(job->ctx, &f, numbers));
    status = qnti_qlinear_keep(q, outliers.type, outliers.mask, outliers.value);
cleanup:
    qnti_free(job->ctx, outliers.mask);
    qnti_free(job->ctx, outliers.value);
    return status;
}

static qnt_status spqr_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    static const enum qnti_order orders[] = {QNTI_ORDER_NATURAL, QNTI_ORDER_LIVE, QNTI_ORDER_SPEARMAN};
    const struct spqr_params *p = job->params;
    struct qnti_grid grid;
    uint32_t *index = NULL;
    qnt_status status;
    QNT_TRY(spqr_grid(job, p, &grid));
    status = qnti_job_factor_live(job, orders[p->permutation_order], p->damping);
    if (status == QNT_NOT_FOUND || status == QNT_SINGULAR)
        return qnti_fall_back(job, &grid, q, qnt_context_message(job->ctx));
    QNT_TRY(status);
    QNT_TRY(qnti_tell_damping(job, p->damping, q));
    if (job->order && grid.map.cols)
        QNT_CHECK(qnti_group_along(job, job->order, q->in, &grid, &index));
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    qnti_clear_dead(job, layer);
    status = fill(job, p, q);
cleanup:
    qnti_free(job->ctx, index);
    return status;
}

static const struct qnti_damping *spqr_feedback(const void *params)
{
    return &((const struct spqr_params *)params)->damping;
}

static unsigned spqr_leaves(const void *params)
{
    const struct spqr_params *p = params;
    bool keeps = p->target_outliers > 0 || !isinf(p->outlier_threshold);
    return QNTI_BESIDE_GRID | (keeps ? QNTI_BESIDE_SPARSE : 0u);
}

/* The share of kept weights is not known before: that of the paper's models. */
static qnt_status spqr_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct spqr_params *p = params;
    const double usual_share = 0.005;
    double share = p->target_outliers > 0 ? p->target_outliers : isinf(p->outlier_threshold) ? 0 : usual_share;
    struct qnti_grid grid;
    QNT_TRY(spqr_grid(job, p, &grid));
    *bits = qnti_grid_bits(&grid, out, in) + qnti_sparse_bits(out, in, QNT_F16, share * (double)(out * in));
    *bits += p->permutation_order != IDENTITY && p->group_size ? 32 * (double)in : 0;
    return QNT_OK;
}

static qnt_status spqr_check(qnt_context *ctx, const void *params)
{
    const struct spqr_params *p = params;
    if (p->group_size == 1)
        return qnti_fail(ctx, QNT_INVALID, "spqr: group_size=1 has a range of one number; 2 or more, or 0: the row");
    return QNT_OK;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct spqr_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 4, 2, 8, NULL, "bits of a code"),
    ROW(group_size, INT, 16, 0, 1 << 24, NULL, "columns that share a scale; 0: the whole row"),
    ROW(scale_bits, INT, 3, 0, 8, NULL, "bits of a scale's code; 0: scales are floats"),
    ROW(zero_bits, INT, 3, 0, 8, NULL, "bits of a zero's code; 0: zeros are floats"),
    ROW(stat_group_size, INT, 16, 1, 1 << 24, NULL, "rows whose scales, and zeros, share a grid"),
    ROW(zero_sym, BOOL, 0, 0, 1, NULL, "that grid of the zeros is symmetric"),
    ROW(round_zero, BOOL, 0, 0, 1, NULL, "zeros are whole numbers"),
    ROW(sym, BOOL, 0, 0, 1, NULL, "levels symmetric about 0"),
    ROW(outlier_threshold, FLOAT, 0.2, 1e-12, INFINITY, NULL,
        "least square error of a kept weight, of the mean sensitivity; inf: none is kept"),
    ROW(target_outliers, FLOAT, 0, 0, 1, NULL, "share of kept weights, the threshold found for it; 0: as above"),
    ROW(simplified_outliers, BOOL, 0, 0, 1, NULL, "grids see all weights, likely outliers too"),
    ROW(permutation_order, ENUM, ACT_ORDER, 0, 2, "identity|act_order|spearman",
        "columns as they are, by falling diagonal of the Hessian, or like ones together"),
    QNTI_DAMPED_ROWS(struct spqr_params, damping, 1),
    ROW(block_size, INT, 128, 1, 1 << 20, NULL, "columns between updates of the rest"),
};

const struct qnti_method qnti_method_spqr = {
    .name = "spqr",
    .title = "error feedback on small groups with coded scales, single weights kept in f16",
    .reference = "Dettmers et al., SpQR, ICLR 2024",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct spqr_params)},
    .needs = QNTI_NEED_HESSIAN,
    .check = spqr_check,
    .stages[QNTI_STAGE_WEIGHTS].layer = spqr_weights,
    .feedback = spqr_feedback,
    .bits = spqr_bits,
    .leaves = spqr_leaves,
    .grid = spqr_grid,
};
