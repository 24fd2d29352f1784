/*
 * squeezellm.c - free levels for each row, where the loss depends on them; a few weights beside them.
 *
 * The 2^bits levels of a row minimize sum S_i (w_i - q_i)^2, S the mean squared
 * gradient of the loss (the Fisher matrix's diagonal) or the inputs' mean
 * squares, solved exactly. The most sensitive and the largest weights of the
 * matrix may stay outside (Kim et al., "SqueezeLLM", ICML 2024). The official
 * clustering by Lloyd's steps, a local optimum, is not here.
 */
#include "method/method.h"

#include <math.h>
#include "base/tensor.h"
#include "method/recipe.h"
#include "solve/solve.h"

struct squeezellm_params {
    int bits, weighting;
    double sensitive_fraction, outlier_threshold, outlier_fraction;
};

enum { FISHER, IMPORTANCE, UNIFORM };

/* S of a layer. What was not asked for by name falls back to what there is. */
static qnt_status choose_weighting(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q,
                                   struct qnti_kmeans *k)
{
    const struct squeezellm_params *p = job->params;
    bool fisher = p->weighting == FISHER && layer->fisher;
    if (fisher) {
        k->weight = layer->fisher;
        k->stride = q->in;
        return qnti_job_check_fisher(job, layer);
    }
    if (p->weighting == FISHER && qnti_recipe_given(job->weights, "weighting"))
        return qnti_fail(job->ctx, QNT_INVALID, "layer %s: weighting=fisher, but there is no Fisher information",
                         q->name);
    if (p->weighting != UNIFORM)
        k->weight = job->importance;
    if (p->weighting == IMPORTANCE && !job->importance)
        return qnti_qlinear_warn(q, "weighting=uniform: nothing is known of the inputs");
    return QNT_OK;
}

/* Weights of more than the n-th largest S of the matrix. */
static qnt_status mark_sensitive(struct qnti_job *job, const struct qnti_kmeans *k, const qnt_qlinear *q, double share,
                                 uint8_t *mask)
{
    size_t all = q->out * q->in, n = (size_t)(share * (double)all), count = k->stride ? all : q->in;
    float limit;
    if (n == 0 || !k->weight)
        return QNT_OK;
    QNT_TRY(qnti_rank(job->ctx, k->weight, count, true, count - (k->stride ? n : qnti_ceil_div(n, q->out)), &limit));
    for (size_t i = 0; i < all; i++)
        mask[i] |= k->weight[k->stride ? i : i % q->in] > limit;
    return QNT_OK;
}

/* A quantile of all weights: position share (n - 1) of the sorted list, between two of them in proportion. */
static qnt_status quantile(struct qnti_job *job, size_t n, double share, double *value)
{
    double position = share * (double)(n - 1);
    size_t rank = (size_t)position;
    float low, high;
    QNT_TRY(qnti_rank(job->ctx, job->weight, n, false, rank, &low));
    QNT_TRY(qnti_rank(job->ctx, job->weight, n, false, qnti_min(rank + 1, n - 1), &high));
    *value = (double)low + (position - (double)rank) * ((double)high - (double)low);
    return QNT_OK;
}

/*
 * The magnitude from which a weight is an outlier: by quartiles, else by share; infinite: none is. Quartiles that are
 * equal (a constant or mostly pruned matrix) say nothing.
 */
static qnt_status outlier_limit(struct qnti_job *job, size_t n, double *limit)
{
    const struct squeezellm_params *p = job->params;
    size_t count = (size_t)(p->outlier_fraction * (double)n);
    double q1, q3, reach;
    float least;
    *limit = INFINITY;
    if (p->outlier_threshold > 0) {
        QNT_TRY(quantile(job, n, 0.25, &q1));
        QNT_TRY(quantile(job, n, 0.75, &q3));
        reach = p->outlier_threshold * (q3 - q1);
        *limit = reach > 0 ? fmax(fabs(q1 - reach), fabs(q3 + reach)) : INFINITY;
    } else if (count) {
        QNT_TRY(qnti_rank(job->ctx, job->weight, n, true, n - count, &least));
        *limit = (double)least;
    }
    return QNT_OK;
}

static qnt_status mark(struct qnti_job *job, const struct qnti_kmeans *k, const qnt_qlinear *q, uint8_t *mask)
{
    const struct squeezellm_params *p = job->params;
    size_t n = q->out * q->in;
    double limit;
    QNT_TRY(mark_sensitive(job, k, q, p->sensitive_fraction, mask));
    QNT_TRY(outlier_limit(job, n, &limit));
    for (size_t i = 0; i < n; i++)
        mask[i] |= (double)fabsf(job->weight[i]) >= limit;
    return QNT_OK;
}

static qnt_status check_levels(const qnt_qlinear *q, const struct qnti_numbers *book)
{
    if (qnti_all_finite(book->value, book->rows * book->cols))
        return QNT_OK;
    return qnti_fail(q->ctx, QNT_NON_FINITE, "layer %s: weights are too large for levels of the format's type",
                     q->name);
}

static struct qnti_grid squeezellm_grid(const struct qnti_job *job, const struct squeezellm_params *p)
{
    return qnti_free_levels_grid(job->kernels, (unsigned)p->bits, job->layout ? job->layout->scale_type : QNT_F32);
}

static qnt_status squeezellm_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct squeezellm_params *p = job->params;
    struct qnti_grid grid = squeezellm_grid(job, p);
    struct qnti_kmeans k = {.w = job->weight};
    uint8_t *mask = NULL;
    qnt_status status;
    QNT_CHECK(choose_weighting(job, layer, q, &k));
    QNT_CHECK(QNTI_NEW(job->ctx, q->out * q->in, &mask));
    QNT_CHECK(mark(job, &k, q, mask));
    k.mask = mask;
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    QNT_CHECK(qnti_kmeans(job->ctx, &k, q->segments[0].weight));
    QNT_CHECK(check_levels(q, q->segments[0].weight->codebook));
    status = qnti_qlinear_keep(q, grid.scale_type, mask, job->weight);
cleanup:
    qnti_free(job->ctx, mask);
    return status;
}

static unsigned squeezellm_needs(const void *params)
{
    static const unsigned needs[] = {[FISHER] = QNTI_NEED_FISHER, [IMPORTANCE] = QNTI_NEED_IMPORTANCE, [UNIFORM] = 0};
    return needs[((const struct squeezellm_params *)params)->weighting];
}

/* Levels and sparse values of 16 bits, columns of 16; a threshold keeps some 0.45 % of a model's weights. */
/* Of outliers by quartiles, whose share is not known before, as many as in the paper's models. */
static qnt_status squeezellm_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct squeezellm_params *p = params;
    const double usual_share = 0.0045;
    struct qnti_grid grid = squeezellm_grid(job, p);
    double share = p->sensitive_fraction + (p->outlier_threshold > 0 ? usual_share : p->outlier_fraction);
    *bits = qnti_grid_bits(&grid, out, in) + qnti_sparse_bits(out, in, grid.scale_type, share * (double)(out * in));
    return QNT_OK;
}

static unsigned squeezellm_leaves(const void *params)
{
    const struct squeezellm_params *p = params;
    return p->sensitive_fraction + p->outlier_threshold + p->outlier_fraction > 0 ? QNTI_BESIDE_SPARSE : 0;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct squeezellm_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 3, 1, 8, NULL, "bits of a code; a row has 2^bits levels"),
    ROW(sensitive_fraction, FLOAT, 0, 0, 0.1, NULL, "share of weights kept outside for their sensitivity"),
    ROW(outlier_threshold, FLOAT, 0, 0, 1e6, NULL,
        "weights this many interquartile ranges beyond the quartiles stay outside; 0: none"),
    ROW(outlier_fraction, FLOAT, 0, 0, 0.1, NULL, "share kept outside for their size, without outlier_threshold"),
    ROW(weighting, ENUM, FISHER, FISHER, UNIFORM, "fisher|importance|uniform",
        "sensitivity: mean squared gradients, the inputs' mean squares, or all alike"),
};

const struct qnti_method qnti_method_squeezellm = {
    .name = "squeezellm",
    .title = "free levels for each row by sensitivity, single weights beside them",
    .reference = "Kim et al., SqueezeLLM, ICML 2024",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct squeezellm_params)},
    .needs_by = squeezellm_needs,
    .bits = squeezellm_bits,
    .leaves = squeezellm_leaves,
    .stages[QNTI_STAGE_WEIGHTS].layer = squeezellm_weights,
};
