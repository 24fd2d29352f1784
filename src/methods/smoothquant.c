/*
 * smoothquant.c - activations and weights in 8 bits, after part of the activations' range has moved into the weights.
 *
 * s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) for each input channel, w over
 * all layers of the site; x / s and W s are then both easy to round
 * symmetrically: weights by rows or by the tensor, activations by tokens or by
 * the tensor (Xiao et al., "SmoothQuant", ICML 2023, equation 4; levels O1 to
 * O3 of the paper's table 2).
 */
#include "method/method.h"

#include <math.h>

struct smoothquant_params {
    struct qnti_affine_params affine;    /* bits, per_tensor */
    double alpha;
    int act_bits, act_granularity, level;
    bool act_static, guard_dead, smooth_linears;
};

enum { BY_TOKEN, BY_TENSOR };
enum { LEVEL_NONE, LEVEL_O1, LEVEL_O2, LEVEL_O3 };

static const float LEAST = 1e-5f;
static const float MOST_SCALE = 1024;   /* guard_dead: s stays in [1/1024, 1024] */

static qnt_status smoothquant_transform(struct qnti_job *job, const qnt_layer *layers, size_t count,
                                        struct qnti_transform *t)
{
    const struct smoothquant_params *p = job->params;
    size_t in = layers[0].weight.cols;
    float *a = NULL, *w = NULL;
    qnt_status status;
    if (job->producer && job->producer->cols > 1 && !p->smooth_linears)
        return QNT_OK; /* the paper smooths behind norms only */
    QNT_TRY(qnti_job_takes_scale(job));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &a));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &w));
    status = qnti_job_magnitudes(job, a, NULL);
    if (status == QNT_NOT_FOUND) {
        status = QNT_OK; /* no tokens: nothing moves */
        goto cleanup;
    }
    QNT_CHECK(status);
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &t->scale));
    QNT_CHECK(qnti_job_tie(job, QNTI_TIE_MOST, a));
    QNT_CHECK(qnti_job_weight_magnitudes(job, layers, count, w));
    for (size_t c = 0; c < in; c++) {
        float most = fmaxf(w[c], LEAST);
        float s = powf(a[c], (float)p->alpha) / powf(most, (float)(1 - p->alpha));
        s = fminf(fmaxf(s, LEAST), 1 / LEAST); /* the upper bound is ours: inputs of 1e20 must not overflow scales */
        if (p->guard_dead)
            s = a[c] == 0 || w[c] < LEAST ? 1 : fminf(fmaxf(s, 1 / MOST_SCALE), MOST_SCALE);
        t->scale[c] = s;
    }
cleanup:
    qnti_free(job->ctx, a);
    qnti_free(job->ctx, w);
    return status;
}

static qnt_status smoothquant_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct smoothquant_params *p = job->params;
    struct qnti_input_rule rule = {.bits = (unsigned)p->act_bits};
    (void)layer;
    rule.per_token = p->level ? p->level == LEVEL_O1 : p->act_granularity == BY_TOKEN;
    rule.fixed = p->level ? p->level == LEVEL_O3 : p->act_static;
    return qnti_job_quantize_inputs(job, &rule, q);
}

/* One symmetric step a row, or one for the tensor; absmax is a level. */
static qnt_status smoothquant_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    const struct smoothquant_params *p = params;
    struct qnti_affine_params affine = p->affine;
    affine.group_size = 0;
    affine.sym = true;
    affine.per_tensor |= p->level != LEVEL_NONE;
    return qnti_job_signed_grid(job, &affine, true, grid);
}

static bool smoothquant_offers(const void *params, enum qnti_stage stage)
{
    const struct smoothquant_params *p = params;
    return stage != QNTI_STAGE_ACTIVATIONS || qnti_act_bits_offered(p->act_bits);
}

static qnt_status smoothquant_check(qnt_context *ctx, const void *params)
{
    const struct smoothquant_params *p = params;
    QNT_TRY(qnti_act_bits_check(ctx, "smoothquant", p->act_bits));
    if (p->act_static && p->act_granularity == BY_TOKEN && p->level == LEVEL_NONE)
        return qnti_fail(ctx, QNT_INVALID, "smoothquant: act_static needs act_granularity=tensor");
    return QNT_OK;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct smoothquant_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(alpha, FLOAT, 0.5, 0, 1, NULL, "share of the activations' range that moves into the weights"),
    {"bits", QNTI_PARAM_INT, offsetof(struct smoothquant_params, affine.bits), 8, 2, 8, NULL, "bits of a code"},
    ROW(act_bits, INT, 8, 0, 16, NULL, "bits of activations; 16: not quantized"),
    {"per_tensor", QNTI_PARAM_BOOL, offsetof(struct smoothquant_params, affine.per_tensor), 0, 0, 1, NULL,
     "one scale for a weight instead of one a row"},
    ROW(act_granularity, ENUM, 0, 0, 1, "token|tensor", "activations that share a scale"),
    ROW(act_static, BOOL, 0, 0, 1, NULL, "scale of the activations fixed by calibration"),
    ROW(level, ENUM, 0, 0, 3, "none|O1|O2|O3", "the paper's levels; override the three before"),
    ROW(guard_dead, BOOL, 0, 0, 1, NULL,
        "scale 1 for channels without activations or weights, 1/1024 to 1024 for others"),
    ROW(smooth_linears, BOOL, 0, 0, 1, NULL, "also inputs that a linear makes, of o and down"),
};

const struct qnti_method qnti_method_smoothquant = {
    .name = "smoothquant",
    .title = "8-bit weights and activations, ranges balanced by channel scales",
    .reference = "Xiao et al., SmoothQuant, ICML 2023",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct smoothquant_params)},
    .needs = QNTI_NEED_MOMENTS,
    .check = smoothquant_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = smoothquant_transform,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = smoothquant_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = qnti_nearest_weights,
    .offers = smoothquant_offers,
    .grid = smoothquant_grid,
};
