/*
 * awq.c - scales of input channels that protect what large activations meet, and clipped ranges.
 *
 * The columns of W are multiplied by s before they are rounded, the input is
 * divided by it: s = a^r of the channels' mean magnitudes a, r searched by the
 * error behind the site (Lin et al., "AWQ", MLSys 2024; duo_scaling is
 * AutoAWQ's, which also divides by the weights' magnitudes). Then each group's
 * range is shrunk where that lowers the output error, and rounded. Both errors
 * are taken over all tokens, as quadratic forms of the Hessian.
 */
#include "method/feedback.h"

#include <math.h>
#include <string.h>
#include "solve/solve.h"

struct awq_params {
    struct qnti_affine_params affine;
    struct qnti_feedback_params feedback;    /* with rounding=gptq */
    bool scale_search, duo_scaling;
    int objective, scale_grid;
    bool clip;
    int clip_grid;
    double clip_max_shrink;
    int rounding;
};

enum { OBJECTIVE_BLOCK, OBJECTIVE_LINEAR };
enum { ROUND_NEAREST, ROUND_GPTQ };

static const float LEAST = 1e-4f;

/* AWQ's grids: min-max (G4), or absmax on a level (G3); with rounding=gptq GPTQ's own. */
static qnt_status awq_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    const struct awq_params *p = params;
    struct qnti_affine_params affine = p->affine;
    affine.include_zero = p->rounding == ROUND_GPTQ;
    affine.sym_grid = p->rounding == ROUND_NEAREST;
    return qnti_job_grid(job, &affine, grid);
}

/* s of one ratio: t / sqrt(max t min t), t = a^r (/ m^(1-r)). */
static void scale_of(const float *a, const float *m, float ratio, size_t in, float *s)
{
    float least = INFINITY, most = 0, norm;
    for (size_t c = 0; c < in; c++) {
        float t = powf(a[c], ratio);
        s[c] = fmaxf(m ? t / (powf(m[c], 1 - ratio) + LEAST) : t, LEAST);
        least = fminf(least, s[c]);
        most = fmaxf(most, s[c]);
    }
    norm = sqrtf(most * least);
    for (size_t c = 0; c < in; c++) {
        s[c] /= norm;
        if (!isfinite(s[c]) || s[c] == 0)
            s[c] = 1;
    }
}

static qnt_status search_scale(struct qnti_job *job, const struct awq_params *p, struct qnti_search *search,
                               const float *a, const float *m, float *best)
{
    size_t in = job->calib->in;
    double least = INFINITY;
    float *s;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &s));
    for (int k = 0; k < p->scale_grid; k++) {
        double loss;
        scale_of(a, m, (float)k / (float)p->scale_grid, in, s);
        QNT_CHECK(qnti_cancelled(job->ctx));
        QNT_CHECK(qnti_search_loss(search, s, &loss));
        if (loss < least) {
            least = loss;
            memcpy(best, s, in * sizeof *s);
        }
    }
cleanup:
    qnti_free(job->ctx, s);
    return status;
}

static qnt_status awq_transform(struct qnti_job *job, const qnt_layer *layers, size_t count, struct qnti_transform *t)
{
    const struct awq_params *p = job->params;
    size_t in = layers[0].weight.cols;
    struct qnti_search *search = NULL;
    float *a = NULL, *m = NULL;
    qnt_status status;
    QNT_TRY(qnti_job_takes_scale(job));
    status = qnti_search_create(job, layers, count, p->objective == OBJECTIVE_LINEAR, &search);
    if (status == QNT_NOT_FOUND)
        return QNT_OK; /* nothing is known of the inputs: the weights stage says so */
    QNT_TRY(status);
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &a));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &t->scale));
    for (size_t c = 0; c < in; c++)
        t->scale[c] = 1;
    QNT_CHECK(qnti_job_magnitudes(job, NULL, a));
    QNT_CHECK(qnti_job_tie(job, QNTI_TIE_MEAN, a));
    if (p->duo_scaling) {
        struct qnti_grid grid;
        QNT_CHECK(qnti_job_weights_grid(job, &grid));
        QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &m));
        QNT_CHECK(qnti_job_weight_shares(job, layers, count, qnti_min(qnti_grid_span(&grid, in), in), m));
    }
    QNT_CHECK(search_scale(job, p, search, a, m, t->scale));
cleanup:
    qnti_search_free(search);
    qnti_free(job->ctx, a);
    qnti_free(job->ctx, m);
    return status;
}

static qnt_status awq_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct awq_params *p = job->params;
    struct qnti_clip rule = {.steps = (size_t)p->clip_grid,
                             .tried = (size_t)(p->clip_max_shrink * p->clip_grid)};
    struct qnti_grid grid;
    qnt_status status;
    QNT_TRY(awq_grid(job, p, &grid));
    if (p->rounding == ROUND_GPTQ)
        return qnti_feedback_weights(job, &p->feedback, &grid, layer, q);
    status = qnti_job_hessian(job);
    if (status == QNT_NOT_FOUND)
        return qnti_fall_back(job, &grid, q, qnt_context_message(job->ctx));
    QNT_TRY(status);
    if (p->clip && !layer->attention_score) {
        rule.hessian = job->hessian;
        rule.importance = qnti_job_grid_importance(job);
        rule.row_power = job->row_power;
        QNT_TRY(qnti_clip(job->ctx, &grid, &rule, q->out, q->in, job->weight));
    }
    return qnti_round_to_nearest(job, &grid, q);
}

static bool awq_offers(const void *params, enum qnti_stage stage)
{
    const struct awq_params *p = params;
    return stage != QNTI_STAGE_TRANSFORM || p->scale_search;
}

static const struct qnti_damping *awq_feedback(const void *params)
{
    const struct awq_params *p = params;
    return p->rounding == ROUND_GPTQ ? &p->feedback.damping : NULL;
}

static unsigned awq_needs(const void *params)
{
    const struct awq_params *p = params;
    return (p->objective == OBJECTIVE_BLOCK ? QNTI_NEED_SAMPLES : 0) |
           (p->rounding == ROUND_GPTQ ? qnti_feedback_needs(&p->feedback) : 0);
}

static qnt_status awq_check(qnt_context *ctx, const void *params)
{
    const struct awq_params *p = params;
    return qnti_feedback_check(ctx, "awq", &p->feedback, &p->affine);
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct awq_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    {"bits", QNTI_PARAM_INT, offsetof(struct awq_params, affine.bits), 4, 2, 8, NULL, "bits of a code"},
    {"group_size", QNTI_PARAM_INT, offsetof(struct awq_params, affine.group_size), 128, 0, 1 << 24, NULL,
     "columns that share a scale; 0: the whole row"},
    {"sym", QNTI_PARAM_BOOL, offsetof(struct awq_params, affine.sym), 0, 0, 1, NULL, "levels symmetric about 0"},
    ROW(scale_search, BOOL, 1, 0, 1, NULL, "search the scale of the input channels"),
    ROW(duo_scaling, BOOL, 0, 0, 1, NULL, "use the weights' magnitudes too (AutoAWQ)"),
    {"awq_objective", QNTI_PARAM_ENUM, offsetof(struct awq_params, objective), 0, 0, 1, "block|linear",
     "error behind attention or mlp on samples, or of the linears themselves, as the weights stage will leave it"},
    ROW(scale_grid, INT, 20, 1, 1000, NULL, "ratios tried, from 0 to below 1"),
    ROW(clip, BOOL, 1, 0, 1, NULL, "search the range of each group"),
    ROW(clip_grid, INT, 20, 1, 1000, NULL, "steps in the full range"),
    ROW(clip_max_shrink, FLOAT, 0.5, 0, 1, NULL, "how far a range shrinks at most"),
    ROW(rounding, ENUM, 0, 0, 1, "nearest|gptq", "nearest, or as the recipe awq,gptq, with the parameters below"),
    QNTI_FEEDBACK_ROWS(struct awq_params, feedback),
};

const struct qnti_method qnti_method_awq = {
    .name = "awq",
    .title = "channel scales searched behind the site, clipped ranges",
    .reference = "Lin et al., AWQ, MLSys 2024; duo_scaling: AutoAWQ",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct awq_params)},
    .needs = QNTI_NEED_HESSIAN,
    .needs_by = awq_needs,
    .transform_alone = QNTI_NEED_SAMPLES,
    .check = awq_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = awq_transform,
    .stages[QNTI_STAGE_WEIGHTS].layer = awq_weights,
    .offers = awq_offers,
    .feedback = awq_feedback,
    .grid = awq_grid,
};
