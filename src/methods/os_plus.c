/*
 * os_plus.c - channels of the input shifted to the middle of their range, large ones scaled down to a threshold.
 *
 * z_j = (max x_j + min x_j) / 2, s_j = max(1, max |x_j - z_j| / t) for the
 * threshold t by which quantized inputs (x - z) / s on quantized weights W
 * diag(s) give the outputs best; the bias takes W z (Wei et al., "Outlier
 * Suppression+", 2023). Inputs: static by token quantiles, or by tokens or
 * groups at run time. A shift needs biases in the norm and in the linears; the
 * input of o stays as it is. While a site is searched nothing else of its block
 * is quantized.
 */
#include "method/threshold_search.h"

struct os_plus_params {
    struct qnti_affine_params affine;    /* bits, sym, per_tensor, group_size */
    int act_bits;
    bool act_sym;
    int act_granularity, act_group_size;
    double act_quantile;
    bool shift, scaling;
    double search_low;
    int search_steps, search_tokens;
    bool held_out;
};

enum { BY_TENSOR, BY_TOKEN, BY_GROUP };

static struct qnti_input_rule rule_of(const struct os_plus_params *p)
{
    return (struct qnti_input_rule){.bits = (unsigned)p->act_bits, .asymmetric = !p->act_sym, .zero_in_groups = true,
                                    .per_token = p->act_granularity != BY_TENSOR,
                                    .fixed = p->act_granularity == BY_TENSOR,
                                    .group = p->act_granularity == BY_GROUP ? (size_t)p->act_group_size : 0};
}

static void find_shift(const struct qnt_calib *calib, float *shift)
{
    for (size_t c = 0; c < calib->in; c++)
        shift[c] = (calib->moments[c].greatest + calib->moments[c].least) / 2;
}

static qnt_status os_plus_transform(struct qnti_job *job, const qnt_layer *layers, size_t count,
                                    struct qnti_transform *t)
{
    const struct os_plus_params *p = job->params;
    const struct qnti_threshold_rule rule = {rule_of(p), p->search_low, p->search_steps, (size_t)p->search_tokens,
                                             p->held_out};
    size_t in = layers[0].weight.cols;
    bool shift = p->shift && qnti_job_takes_shift(job);
    qnt_status status = QNT_OK;
    if (!job->calib->tokens || (job->producer && job->producer->head))
        return QNT_OK;
    QNT_TRY(qnti_job_takes_scale(job));
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &t->scale));
    for (size_t c = 0; c < in; c++)
        t->scale[c] = 1;
    if (shift || !job->producer) /* a layer by itself says its shift, also of 0 */
        QNT_TRY(QNTI_NEW(job->ctx, in, &t->shift));
    if (shift)
        find_shift(job->calib, t->shift);
    if (p->scaling)
        status = qnti_search_threshold(job, layers, count, &rule, t->shift, t->scale);
    if (status != QNT_NOT_FOUND)
        return status;
    qnti_log(job->ctx, QNT_LOG_WARNING, "%s: its inputs are not scaled: the calibration has no samples of them",
             layers[0].name ? layers[0].name : "layer");
    return QNT_OK;
}

/* A static range by a token quantile; that of all tokens is known without samples. */
static qnt_status os_plus_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct os_plus_params *p = job->params;
    struct qnti_input_rule rule = rule_of(p);
    struct qnti_token_extremes *extremes = NULL;
    float *x = NULL, range[2];
    size_t tokens;
    qnt_status status = QNT_NOT_FOUND;
    (void)layer;
    if (rule.fixed && p->act_quantile < 1)
        status = qnti_job_samples(job, &x, &tokens);
    if (status == QNT_NOT_FOUND) {
        if (rule.fixed && p->act_quantile < 1)
            QNT_TRY(qnti_qlinear_warn(q, "the range of its inputs is that of all tokens: there are no samples"));
        return qnti_job_quantize_inputs(job, &rule, q);
    }
    QNT_CHECK(status);
    QNT_CHECK(qnti_token_extremes_create(job->ctx, job->kernels, x, tokens, q->in, 0, &extremes));
    qnti_token_range(extremes, (float)p->act_quantile, range);
    rule.range = range;
    status = qnti_job_quantize_inputs(job, &rule, q);
cleanup:
    qnti_token_extremes_free(job->ctx, extremes);
    qnti_free(job->ctx, x);
    return status;
}

/* The largest magnitude on a level, or with zeros. */
static qnt_status os_plus_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    return qnti_job_signed_grid(job, params, true, grid);
}

static bool os_plus_offers(const void *params, enum qnti_stage stage)
{
    const struct os_plus_params *p = params;
    if (stage == QNTI_STAGE_ACTIVATIONS)
        return qnti_act_bits_offered(p->act_bits);
    return stage != QNTI_STAGE_TRANSFORM || p->shift || p->scaling;
}

static unsigned os_plus_needs(const void *params)
{
    const struct os_plus_params *p = params;
    return p->scaling || (p->act_granularity == BY_TENSOR && p->act_quantile < 1) ? QNTI_NEED_SAMPLES : 0;
}

static qnt_status os_plus_check(qnt_context *ctx, const void *params)
{
    const struct os_plus_params *p = params;
    return qnti_act_bits_check(ctx, "os_plus", p->act_bits);
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct os_plus_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    {"bits", QNTI_PARAM_INT, offsetof(struct os_plus_params, affine.bits), 8, 2, 8, NULL, "bits of a code"},
    {"sym", QNTI_PARAM_BOOL, offsetof(struct os_plus_params, affine.sym), 0, 0, 1, NULL, "levels symmetric about 0"},
    {"per_tensor", QNTI_PARAM_BOOL, offsetof(struct os_plus_params, affine.per_tensor), 0, 0, 1, NULL,
     "one scale for a weight; overrides group_size"},
    {"group_size", QNTI_PARAM_INT, offsetof(struct os_plus_params, affine.group_size), 0, 0, 1 << 24, NULL,
     "columns that share a scale; 0: the whole row"},
    ROW(act_bits, INT, 8, 0, 16, NULL, "bits of activations; 16: not quantized"),
    ROW(act_sym, BOOL, 0, 0, 1, NULL, "levels of activations symmetric about 0"),
    ROW(act_granularity, ENUM, 0, 0, 2, "tensor|token|group",
        "activations that share a scale: all, fixed by calibration, or found at run time"),
    ROW(act_group_size, INT, 0, 0, 1 << 24, NULL, "channels of a token that share a scale, for group; 0: all"),
    ROW(act_quantile, FLOAT, 1, 0, 1, NULL, "token quantile of the fixed range; 1: all tokens"),
    ROW(shift, BOOL, 1, 0, 1, NULL, "move channels to the middle of their range"),
    ROW(scaling, BOOL, 1, 0, 1, NULL, "scale large channels down to a searched threshold"),
    ROW(search_low, FLOAT, 1, 1e-6, 1e6, NULL, "smallest threshold"),
    ROW(search_steps, INT, 100, 1, 4095, NULL, "steps from the largest magnitude to there, at least"),
    ROW(search_tokens, INT, 512, 1, 1 << 20, NULL, "tokens that the search looks at"),
    ROW(held_out, BOOL, 1, 0, 1, NULL, "in a model: others than those that the scales on trial are made of"),
};

const struct qnti_method qnti_method_os_plus = {
    .name = "os_plus",
    .title = "channels shifted and scaled to a threshold that is searched with quantized weights and inputs",
    .reference = "Wei et al., Outlier Suppression+, 2023",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct os_plus_params)},
    .needs = QNTI_NEED_MOMENTS,
    .needs_by = os_plus_needs,
    .check = os_plus_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = os_plus_transform,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = os_plus_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = qnti_nearest_weights,
    .offers = os_plus_offers,
    .grid = os_plus_grid,
};
