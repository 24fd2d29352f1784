/*
 * fptq.c - groups of few bits, inputs static or by tokens as their range asks for, equalized in between by logarithms.
 *
 * v = max |x| over all tokens and channels of a site's input: up to v0 static,
 * from v1 on a scale for each token at run time, between them static behind s_j =
 * m_j / log2(2 + m_j), m_j = max |x_j|, which goes into the norm before (Li et
 * al., "FPTQ", 2023). Where nothing absorbs s such inputs are quantized by tokens
 * too. The 8-bit KV cache of the paper is kv_cache's.
 */
#include "method/method.h"

#include <math.h>

struct fptq_params {
    struct qnti_affine_params affine;    /* bits, group_size, sym, mse ... */
    int act_bits;
    bool act_sym;
    double v0, v1;
    int strategy;
};

enum { STRATEGY_AUTO, STRATEGY_STATIC, STRATEGY_LAE, STRATEGY_DYNAMIC };

static const float LEAST = 1e-5f;

static int strategy_of(const struct fptq_params *p, float v)
{
    if (p->strategy != STRATEGY_AUTO)
        return p->strategy;
    return (double)v <= p->v0 ? STRATEGY_STATIC : (double)v < p->v1 ? STRATEGY_LAE : STRATEGY_DYNAMIC;
}

static float largest(const float *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, x[i]);
    return most;
}

/* Norms absorb a scale, and values that no two heads share; nothing stands in the way of a layer by itself. */
static bool absorbs(const struct qnti_job *job)
{
    const qnt_producer *p = job->producer;
    return !p || (!(p->refuses & QNT_REFUSES_SCALE) && !p->map && (p->cols == 1 || p->head));
}

static qnt_status fptq_transform(struct qnti_job *job, const qnt_layer *layers, size_t count, struct qnti_transform *t)
{
    size_t in = layers[0].weight.cols;
    float *most;
    qnt_status status;
    (void)count;
    if (!absorbs(job))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &most));
    status = qnti_job_magnitudes(job, most, NULL);
    if (status != QNT_OK || strategy_of(job->params, largest(most, in)) != STRATEGY_LAE) {
        qnti_free(job->ctx, most);
        return status == QNT_NOT_FOUND ? QNT_OK : status;
    }
    for (size_t c = 0; c < in; c++)
        most[c] = most[c] == 0 ? 1 : fmaxf((float)((double)most[c] / log2(2 + (double)most[c])), LEAST);
    t->scale = most;
    return QNT_OK;
}

/* The scale that the site's inputs stand behind, here or in a model; NULL: none. */
static const float *scale_of(const struct qnti_job *job)
{
    const struct qnti_transform *t = job->transform ? job->transform : job->folded;
    return t ? t->scale : NULL;
}

/* v of the inputs as they were before the scale. */
static qnt_status find_v(struct qnti_job *job, size_t in, float *v)
{
    const float *scale = job->folded ? job->folded->scale : NULL;
    float *most;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &most));
    status = qnti_job_magnitudes(job, most, NULL);
    for (size_t c = 0; status == QNT_OK && scale && c < in; c++)
        most[c] *= fabsf(scale[c]);
    *v = status == QNT_OK ? largest(most, in) : 0;
    qnti_free(job->ctx, most);
    return status == QNT_NOT_FOUND ? QNT_OK : status;
}

static qnt_status fptq_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct fptq_params *p = job->params;
    struct qnti_input_rule rule = {.bits = (unsigned)p->act_bits, .asymmetric = !p->act_sym};
    bool equalized = scale_of(job) != NULL;
    int strategy;
    float v;
    (void)layer;
    QNT_TRY(find_v(job, q->in, &v));
    strategy = equalized ? STRATEGY_LAE : strategy_of(p, v);
    if (strategy == STRATEGY_LAE && !equalized) {
        QNT_TRY(qnti_qlinear_warn(q, "inputs up to %g are quantized by tokens: nothing absorbs their equalization",
                                  (double)v));
        strategy = STRATEGY_DYNAMIC;
    }
    qnti_log(job->ctx, QNT_LOG_INFO, "%s: inputs up to %g: %s", q->name, (double)v,
             (const char *[]){"", "static", "equalized, static", "by tokens"}[strategy]);
    rule.per_token = strategy == STRATEGY_DYNAMIC;
    rule.fixed = !rule.per_token;
    return qnti_job_quantize_inputs(job, &rule, q);
}

/* The largest magnitude on a level, or with zeros. */
static qnt_status fptq_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    return qnti_job_signed_grid(job, params, true, grid);
}

static bool fptq_offers(const void *params, enum qnti_stage stage)
{
    const struct fptq_params *p = params;
    return stage != QNTI_STAGE_ACTIVATIONS || qnti_act_bits_offered(p->act_bits);
}

static qnt_status fptq_check(qnt_context *ctx, const void *params)
{
    const struct fptq_params *p = params;
    return qnti_act_bits_check(ctx, "fptq", p->act_bits);
}

#define ROW(name, kind, value, least, greatest, words, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct fptq_params, name), value, least, greatest, words, help}

static const struct qnti_param rows[] = {
    {"bits", QNTI_PARAM_INT, offsetof(struct fptq_params, affine.bits), 4, 2, 8, NULL, "bits of a code"},
    {"group_size", QNTI_PARAM_INT, offsetof(struct fptq_params, affine.group_size), 128, 0, 1 << 24, NULL,
     "columns that share a scale; 0: the whole row"},
    {"sym", QNTI_PARAM_BOOL, offsetof(struct fptq_params, affine.sym), 1, 0, 1, NULL, "levels symmetric about 0"},
    QNTI_MSE_ROWS(struct fptq_params, affine),
    ROW(act_bits, INT, 8, 0, 16, NULL, "bits of activations; 16: not quantized"),
    ROW(act_sym, BOOL, 1, 0, 1, NULL, "levels of activations symmetric about 0"),
    ROW(v0, FLOAT, 15, 1e-6, 1e6, NULL, "static where no input is larger"),
    ROW(v1, FLOAT, 150, 1e-6, 1e6, NULL, "by tokens from there on"),
    ROW(strategy, ENUM, 0, 0, 3, "auto|static|lae|dynamic",
        "by v0 and v1, or one for all: lae is equalized and static"),
};

const struct qnti_method qnti_method_fptq = {
    .name = "fptq",
    .title = "4-bit groups, 8-bit activations: static, logarithmically equalized or by tokens as their range asks for",
    .reference = "Li et al., FPTQ, 2023",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct fptq_params)},
    .needs = QNTI_NEED_MOMENTS,
    .check = fptq_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = fptq_transform,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = fptq_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = qnti_nearest_weights,
    .offers = fptq_offers,
    .grid = fptq_grid,
};
