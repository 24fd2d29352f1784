/*
 * rptq.c - channels with like ranges side by side, each cluster of them with a grid of its own.
 *
 * Points (max, min) of the input's channels are clustered by k-means; clusters
 * in order of their spread are the permutation. Inputs have one fixed scale and
 * zero a cluster, weights one a row and cluster (Yuan et al., "RPTQ", 2023). In
 * a model heads of values are clustered one by one, and what a norm makes keeps
 * at least norm_bits. Queries and keys are left as they are.
 */
#include "method/clusters.h"
#include "method/feedback.h"

struct rptq_params {
    int bits, act_bits, norm_bits, clusters, head_clusters, heads, act_metric, batch_tokens, weight_method, block_size,
        seed;
    struct qnti_damping damping;
};

enum { MINMAX, EMA };
enum { GPTQ, RTN };

static qnt_status rptq_transform(struct qnti_job *job, const qnt_layer *layers, size_t count, struct qnti_transform *t)
{
    const struct rptq_params *p = job->params;
    const struct qnti_cluster_rule rule = {.clusters = (size_t)p->clusters, .head_clusters = (size_t)p->head_clusters,
                                           .heads = (size_t)p->heads, .seed = (uint64_t)p->seed};
    (void)layers, (void)count;
    return qnti_cluster_channels(job, &rule, t);
}

/* Tokens of a batch whose ranges are averaged; 0: the range is that of all. */
static size_t batch_of(const struct rptq_params *p)
{
    return p->act_metric == EMA ? (size_t)p->batch_tokens : 0;
}

static qnt_status fix_inputs(struct qnti_job *job, const struct qnti_grid *grid, qnt_qlinear *q)
{
    size_t count = grid->map.index_groups;
    struct qnti_numbers *fixed;
    float *lo, *hi;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 2 * count, &lo));
    hi = lo + count;
    QNT_CHECK(qnti_cluster_ranges(job, q, &grid->map, batch_of(job->params), lo, hi));
    QNT_CHECK(qnti_actquant_create(job->ctx, grid, q->in, true, &q->act));
    fixed = q->act->fixed;
    for (size_t k = 0; k < count; k++)
        qnti_centred_affine(grid, lo[k], hi[k], &fixed->scale->value[k], &fixed->offset->value[k]);
cleanup:
    qnti_free(job->ctx, lo);
    return status;
}

static qnt_status rptq_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct rptq_params *p = job->params;
    bool norm = job->producer && job->producer->cols == 1;
    int bits = norm && p->norm_bits > p->act_bits ? p->norm_bits : p->act_bits;
    struct qnti_grid grid = qnti_centred_grid(job->kernels, (unsigned)bits, QNT_F32);
    uint32_t *index;
    qnt_status status;
    (void)layer;
    if (!job->calib || !job->calib->tokens)
        return qnti_qlinear_warn(q, "its inputs are not quantized: no calibration token reached the layer");
    QNT_TRY(qnti_cluster_map(job, q->in, &grid.map, &index));
    status = fix_inputs(job, &grid, q);
    qnti_free(job->ctx, index);
    return status;
}

static struct qnti_grid weight_grid(const struct qnti_job *job, const struct rptq_params *p)
{
    return qnti_centred_grid(job->kernels, (unsigned)p->bits, job->layout ? job->layout->scale_type : QNT_F32);
}

/* Grids are those of the weights before feedback. */
static qnt_status rptq_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct rptq_params *p = job->params;
    struct qnti_feedback_params feedback = {.damping = p->damping, .block_size = p->block_size, .static_groups = true};
    struct qnti_grid grid = weight_grid(job, p);
    uint32_t *index;
    qnt_status status;
    QNT_TRY(qnti_cluster_map(job, q->in, &grid.map, &index));
    status = p->weight_method == GPTQ ? qnti_feedback_weights(job, &feedback, &grid, layer, q)
                                      : qnti_round_to_nearest(job, &grid, q);
    qnti_free(job->ctx, index);
    return status;
}

static bool rptq_offers(const void *params, enum qnti_stage stage)
{
    const struct rptq_params *p = params;
    return stage != QNTI_STAGE_ACTIVATIONS || qnti_act_bits_offered(p->act_bits);
}

static const struct qnti_damping *rptq_feedback(const void *params)
{
    const struct rptq_params *p = params;
    return p->weight_method == GPTQ ? &p->damping : NULL;
}

static unsigned rptq_needs(const void *params)
{
    const struct rptq_params *p = params;
    return QNTI_NEED_MOMENTS | (p->weight_method == GPTQ ? QNTI_NEED_HESSIAN : 0u) |
           (batch_of(p) && rptq_offers(p, QNTI_STAGE_ACTIVATIONS) ? QNTI_NEED_REPLAY : 0u);
}

/* With as many clusters as are asked for, of columns that are moved at run time. */
static qnt_status rptq_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct rptq_params *p = params;
    struct qnti_grid grid = weight_grid(job, p);
    grid.map = (struct qnti_map){.kind = QNTI_MAP_INDEX, .rows = 1,
                                 .index_groups = qnti_min((size_t)p->clusters * (size_t)p->heads, in)};
    *bits = qnti_grid_bits(&grid, out, in) + 32 * (double)in;
    return QNT_OK;
}

static unsigned rptq_leaves(const void *params)
{
    (void)params;
    return QNTI_BESIDE_TRANSFORM;
}

static qnt_status rptq_check(qnt_context *ctx, const void *params)
{
    const struct rptq_params *p = params;
    return p->act_bits == 1 ? qnti_fail(ctx, QNT_INVALID, "rptq: act_bits=1; 2 to 15, or 16: not quantized") : QNT_OK;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct rptq_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 4, 2, 16, NULL, "bits of a code"),
    ROW(act_bits, INT, 4, 0, 16, NULL, "bits of activations; 0 and 16: not quantized"),
    ROW(norm_bits, INT, 8, 2, 15, NULL, "at least these bits of activations that a norm makes (a model's)"),
    ROW(clusters, INT, 32, 1, 1 << 24, NULL, "clusters of channels, of each head"),
    ROW(head_clusters, INT, 4, 1, 1 << 24, NULL, "clusters of each head of values (a model's)"),
    ROW(heads, INT, 1, 1, 1 << 24, NULL, "equal blocks of channels, clustered one by one; a model knows them"),
    ROW(act_metric, ENUM, MINMAX, 0, 1, "minmax|ema_minmax", "range over batches: of all, or averaged"),
    ROW(batch_tokens, INT, 0, 0, 1 << 30, NULL, "tokens of a batch; 0: all are one"),
    ROW(weight_method, ENUM, GPTQ, 0, 1, "gptq|rtn", "rounding with error feedback, or to nearest"),
    QNTI_DAMPING_ROWS(struct rptq_params, damping),
    ROW(block_size, INT, 128, 1, 1 << 20, NULL, "columns between updates of the rest"),
    ROW(seed, INT, 0, 0, 2147483647, NULL, "of the clusters' first means"),
};

const struct qnti_method qnti_method_rptq = {
    .name = "rptq",
    .title = "channels reordered into clusters of like ranges, a grid for each",
    .reference = "Yuan et al., RPTQ, 2023",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct rptq_params)},
    .needs_by = rptq_needs,
    .transform_spares = ~(unsigned)QNTI_NEED_MOMENTS,
    .check = rptq_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = rptq_transform,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = rptq_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = rptq_weights,
    .offers = rptq_offers,
    .feedback = rptq_feedback,
    .bits = rptq_bits,
    .leaves = rptq_leaves,
};
