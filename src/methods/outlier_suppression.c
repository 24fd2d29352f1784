/*
 * outlier_suppression.c - static activations: a norm's weight moved out of them, their range cut by tokens.
 *
 * The norm's weight gamma amplifies the same channels of all tokens: x / gamma
 * meets W diag(gamma). The largest values belong to few tokens: the static range
 * is that of the token quantile 1, 1 - step, ... which changes the outputs of
 * the unquantized weight least (Wei et al., "Outlier Suppression", NeurIPS 2022).
 * Then step and zero are learnt by gradient (`fine`). Loss and learning see at
 * most LOSS_TOKENS tokens. The authors' one quantile for all of a model is not
 * offered.
 */
#include "method/token_search.h"

#include <math.h>
#include <string.h>

struct os_params {
    struct qnti_affine_params affine;    /* bits, sym, per_tensor */
    int act_bits;
    bool act_sym, gamma;
    double act_quantile, step;
    int iterations, batch_tokens;
    bool fine;
    int epochs;
    double learning_rate;
};

enum { LOSS_TOKENS = 512 };

static qnt_status os_transform(struct qnti_job *job, const qnt_layer *layers, size_t count, struct qnti_transform *t)
{
    size_t in = layers[0].weight.cols;
    qnt_status status;
    (void)count;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &t->scale));
    status = qnti_job_gamma(job, &layers[0], t->scale);
    if (status != QNT_OK) {
        qnti_free(job->ctx, t->scale);
        t->scale = NULL;
        return status == QNT_NOT_FOUND ? QNT_OK : status; /* no norm: nothing moves */
    }
    for (size_t c = 0; c < in; c++) {
        if (!isfinite(t->scale[c]))
            return qnti_fail(job->ctx, QNT_NON_FINITE, "the norm's weight of channel %zu is %g", c,
                             (double)t->scale[c]);
        if (!isnormal(t->scale[c]))
            t->scale[c] = 1;
    }
    return QNT_OK;
}

/* 40.96 tokens of a batch, to two digits: one step of the quantile leaves about so many out. */
static double usual_step(size_t tokens)
{
    double step = 40.96 / (double)tokens, digits = pow(10, 1 - floor(log10(step)));
    return fmin(0.01, rint(step * digits) / digits);
}

static int usual_tries(int bits, double step)
{
    return (int)((bits >= 7 ? 0.1 : bits == 6 ? 0.3 : 0.9) / step);
}

/* Evenly spaced tokens, and batches of what is left of each, for the loss. */
static void thin(struct qnti_step_inputs *in, float *x, size_t tokens, size_t batch)
{
    size_t stride = qnti_ceil_div(tokens, LOSS_TOKENS);
    in->x = x;
    in->tokens = qnti_ceil_div(tokens, stride);
    in->batch = batch ? qnti_max(batch / stride, 1) : 0;
    for (size_t t = 0; stride > 1 && t < in->tokens; t++)
        memmove(x + t * in->cols, x + t * stride * in->cols, in->cols * sizeof *x);
}

static qnt_status os_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct os_params *p = job->params;
    const struct qnti_step_rule learning = {(size_t)p->epochs, p->learning_rate, p->act_sym};
    struct qnti_token_search s = {.rule = {.bits = (unsigned)p->act_bits, .fixed = true, .asymmetric = !p->act_sym,
                                           .full = true},
                                  .inputs = {.cols = q->in, .weight = job->weight, .rows = job->rows,
                                             .top = (float)((1u << p->act_bits) - 1)}};
    struct qnti_token_extremes *extremes = NULL;
    size_t tokens, batch = (size_t)p->batch_tokens;
    float *x = NULL, range[2];
    double step;
    qnt_status status = qnti_job_samples(job, &x, &tokens);
    (void)layer;
    if (status == QNT_NOT_FOUND) {
        QNT_TRY(qnti_qlinear_warn(q, "the range of its inputs is that of all tokens: there are no samples"));
        return qnti_job_quantize_inputs(job, &s.rule, q);
    }
    QNT_CHECK(status);
    QNT_CHECK(qnti_token_extremes_create(job->ctx, job->kernels, x, tokens, q->in, batch, &extremes));
    s.extremes = extremes;
    thin(&s.inputs, x, tokens, batch);
    step = p->step > 0 ? p->step : usual_step(batch ? qnti_min(batch, tokens) : tokens);
    qnti_token_range(extremes, (float)p->act_quantile, range);
    if (p->act_quantile == 0)
        QNT_CHECK(qnti_search_token_range(job, &s, step, p->iterations ? p->iterations
                                          : usual_tries(p->act_bits, step), range));
    if (p->fine)
        QNT_CHECK(qnti_learn_range(job, &s, &learning, range));
    s.rule.range = range;
    status = qnti_job_quantize_inputs(job, &s.rule, q);
cleanup:
    qnti_token_extremes_free(job->ctx, extremes);
    qnti_free(job->ctx, x);
    return status;
}

/* Rows or the tensor: G2, whose largest magnitude lies half a step beyond the levels, or with zeros. */
static qnt_status os_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    return qnti_job_signed_grid(job, params, false, grid);
}

static bool os_offers(const void *params, enum qnti_stage stage)
{
    const struct os_params *p = params;
    if (stage == QNTI_STAGE_ACTIVATIONS)
        return qnti_act_bits_offered(p->act_bits);
    return stage != QNTI_STAGE_TRANSFORM || p->gamma;
}

static qnt_status os_check(qnt_context *ctx, const void *params)
{
    const struct os_params *p = params;
    return qnti_act_bits_check(ctx, "outlier_suppression", p->act_bits);
}

#define ROW(name, kind, value, least, greatest, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct os_params, name), value, least, greatest, NULL, help}

static const struct qnti_param rows[] = {
    {"bits", QNTI_PARAM_INT, offsetof(struct os_params, affine.bits), 6, 2, 8, NULL, "bits of a code"},
    {"sym", QNTI_PARAM_BOOL, offsetof(struct os_params, affine.sym), 1, 0, 1, NULL, "levels symmetric about 0"},
    {"per_tensor", QNTI_PARAM_BOOL, offsetof(struct os_params, affine.per_tensor), 0, 0, 1, NULL,
     "one scale for a weight instead of one a row"},
    ROW(act_bits, INT, 6, 0, 16, "bits of activations, one static scale for the tensor; 16: not quantized"),
    ROW(act_sym, BOOL, 0, 0, 1, "levels of activations symmetric about 0"),
    ROW(gamma, BOOL, 1, 0, 1, "move the weight of the norm before into the weights"),
    ROW(act_quantile, FLOAT, 0, 0, 1, "token quantile of the range; 0: search"),
    ROW(step, FLOAT, 0, 0, 0.1, "step of the search; 0: about 41 tokens, at most 0.01"),
    ROW(iterations, INT, 0, 0, 100000, "quantiles tried; 0: as many as act_bits asks for"),
    ROW(batch_tokens, INT, 0, 0, 1 << 30, "tokens of a batch, whose ranges are averaged; 0: all"),
    ROW(fine, BOOL, 1, 0, 1, "learn step and zero after the search"),
    ROW(epochs, INT, 3, 0, 100000, "passes of the learning"),
    ROW(learning_rate, FLOAT, 1e-5, 1e-12, 1, "of the learning, falling to 0 by a cosine"),
};

const struct qnti_method qnti_method_outlier_suppression = {
    .name = "outlier_suppression",
    .title = "static activations: the norm's weight moved, the range cut by token quantiles",
    .reference = "Wei et al., Outlier Suppression, NeurIPS 2022",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct os_params)},
    .needs = QNTI_NEED_MOMENTS | QNTI_NEED_SAMPLES,
    .check = os_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = os_transform,
    .transform_spares = ~0u,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = os_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = qnti_nearest_weights,
    .offers = os_offers,
    .grid = os_grid,
};
