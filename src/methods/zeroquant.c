/*
 * zeroquant.c - ranges of 2^b steps or small floats, for weights in groups and for activations by tokens.
 *
 * V1: scale max|w| / 2^(b-1), or (max - min) / 2^b with a whole zero (Yao et al., NeurIPS 2022). V2: a low-rank part
 * beside the codes (LoRC, 2023). FP: FP4, FP8, scales that are powers of two or such shares of one (Wu et al., 2023).
 * HERO: static activations, by channels with scales that the weights take (2023). Rounded to nearest, or with GPTQ's
 * feedback on the quantized inputs. Distillation layer by layer is not here.
 */
#include "method/compensate.h"
#include "method/feedback.h"

struct zeroquant_params {
    int bits, group_size, groups;
    bool sym, act_sym, act_static;
    int format, act_format, act_bits, act_granularity;
    int solver, scale_restrict, scale_scope, scale_round;   /* the latter an enum qnti_scale_rule, from UP on */
    struct qnti_compensation part;
    struct qnti_feedback_params feedback;
};

enum { BY_TOKEN, BY_TENSOR, BY_CHANNEL };
enum { RTN, GPTQ };
enum { FREE, M1, M2 };
#define FORMATS "int|fp4_e2m1|fp4_e3m0|fp4_e1m2|fp8_e4m3|fp8_e5m2"
static const struct qnti_codebook *const books[] = {NULL, &qnti_fp4_e2m1, &qnti_fp4_e3m0, &qnti_fp4_e1m2,
                                                    &qnti_fp8_e4m3, &qnti_fp8_e5m2};

static bool quantizes_inputs(const struct zeroquant_params *p)
{
    return books[p->act_format] || (p->act_bits != 0 && p->act_bits != 16);
}

static struct qnti_input_rule input_rule(const struct zeroquant_params *p)
{
    return (struct qnti_input_rule){.bits = (unsigned)p->act_bits, .book = books[p->act_format], .half_open = true,
                                    .per_token = p->act_granularity == BY_TOKEN,
                                    .per_channel = p->act_granularity == BY_CHANNEL,
                                    .fixed = p->act_static || p->act_granularity == BY_CHANNEL,
                                    .asymmetric = !p->act_sym};
}

static qnt_status zeroquant_transform(struct qnti_job *job, const qnt_layer *layers, size_t count,
                                      struct qnti_transform *t)
{
    struct qnti_input_rule rule = input_rule(job->params);
    (void)layers, (void)count;
    return qnti_job_channel_scales(job, &rule, t);
}

static qnt_status zeroquant_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    struct qnti_input_rule rule = input_rule(job->params);
    (void)layer;
    return qnti_job_quantize_inputs(job, &rule, q);
}

/* Of a layer of n weights. */
static qnt_status grid_of(struct qnti_job *job, const struct zeroquant_params *p, size_t n, struct qnti_grid *grid)
{
    qnt_dtype type = job->layout ? job->layout->scale_type : QNT_F32;
    enum qnti_scale_rule rule = (enum qnti_scale_rule)(QNTI_SCALE_UP + p->scale_round);
    size_t group = (size_t)p->group_size;
    if (qnti_layout_prescribes(job->layout))
        return qnti_job_grid(job, &(struct qnti_affine_params){0}, grid);
    if (books[p->format]) {
        *grid = qnti_small_float_grid(job->kernels, books[p->format], group, type);
        grid->scale_rule = QNTI_SCALE_FREE;
        if (p->scale_restrict == M1)
            qnti_power_scales(rule, grid);
        if (p->scale_restrict == M2)
            qnti_halved_scales(rule, p->scale_scope == 1, &job->second[0], grid);
        return QNT_OK;
    }
    *grid = qnti_half_open_grid(job->kernels, (unsigned)p->bits, group, p->sym, type);
    if (p->groups && n % (size_t)p->groups)
        return qnti_fail(job->ctx, QNT_INVALID, "zeroquant: groups=%d does not divide %zu numbers", p->groups, n);
    if (p->groups)
        grid->map = (struct qnti_map){.kind = QNTI_MAP_FLAT, .cols = n / (size_t)p->groups};
    return QNT_OK;
}

static qnt_status zeroquant_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    const struct zeroquant_params *p = params;
    if (p->groups)
        return qnti_fail(job->ctx, QNT_UNSUPPORTED, "zeroquant: nothing searches by rows on groups that cross them");
    return grid_of(job, p, 0, grid);
}

static qnt_status zeroquant_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct zeroquant_params *p = job->params;
    struct qnti_grid grid;
    qnt_status status;
    QNT_TRY(grid_of(job, p, q->out * q->in, &grid));
    if (p->solver == RTN)
        return qnti_round_to_nearest(job, &grid, q);
    status = qnti_job_quantized_hessian(job, q);
    if (status != QNT_OK)
        return status == QNT_NOT_FOUND ? qnti_fall_back(job, &grid, q, qnt_context_message(job->ctx)) : status;
    return qnti_feedback_weights(job, &p->feedback, &grid, layer, q);
}

static qnt_status zeroquant_correct(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct zeroquant_params *p = job->params;
    (void)layer;
    return qnti_compensate(job, &p->part, q);
}

static qnt_status zeroquant_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct zeroquant_params *p = params;
    struct qnti_grid grid;
    QNT_TRY(grid_of(job, p, out * in, &grid));
    *bits = qnti_grid_bits(&grid, out, in) + qnti_compensation_bits(job, &p->part, out, in);
    return QNT_OK;
}

static bool zeroquant_offers(const void *params, enum qnti_stage stage)
{
    const struct zeroquant_params *p = params;
    bool inputs = quantizes_inputs(p);
    const bool offered[] = {inputs && p->act_granularity == BY_CHANNEL, inputs, true, p->part.rank > 0};
    return offered[stage];
}

static unsigned zeroquant_needs(const void *params)
{
    const struct zeroquant_params *p = params;
    bool hessian = p->solver == GPTQ || (p->part.rank > 0 && p->part.weight == QNTI_RANK_HESSIAN);
    return (hessian ? qnti_quantized_hessian_needs(quantizes_inputs(p)) : 0) |
           (quantizes_inputs(p) && input_rule(p).fixed ? QNTI_NEED_MOMENTS : 0u);
}

static unsigned zeroquant_leaves(const void *params)
{
    const struct zeroquant_params *p = params;
    return (p->format || p->groups || !p->sym ? QNTI_BESIDE_GRID : 0u) | (p->part.rank ? QNTI_BESIDE_LOWRANK : 0u);
}

static const struct qnti_damping *zeroquant_feedback(const void *params)
{
    const struct zeroquant_params *p = params;
    return p->solver == GPTQ ? &p->feedback.damping : NULL;
}

static qnt_status zeroquant_check(qnt_context *ctx, const void *params)
{
    const struct zeroquant_params *p = params;
    const char *why = p->act_bits == 1 || (p->act_bits > 8 && p->act_bits < 16) ? "act_bits is 2 to 8, or 16" :
                      p->act_static && p->act_granularity == BY_TOKEN ? "act_static needs tensor or channel" :
                      !p->act_sym && p->act_format ? "act_sym=false is for act_format=int" :
                      !p->act_sym && p->act_granularity == BY_CHANNEL ? "act_granularity=channel needs act_sym" :
                      p->format && (p->groups || !p->sym) ? "groups and sym=false are for format=int" :
                      !p->format && p->scale_restrict ? "scale_restrict is for formats of floats" :
                      p->groups && p->solver == GPTQ ? "solver=gptq has no groups that cross rows" : NULL;
    return why ? qnti_fail(ctx, QNT_INVALID, "zeroquant: %s", why) : QNT_OK;
}
#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct zeroquant_params, name), value, least, greatest, choices, help}
static const struct qnti_param rows[] = {
    ROW(bits, INT, 8, 2, 8, NULL, "bits of a code, format=int"),
    ROW(group_size, INT, 128, 0, 1 << 24, NULL, "columns that share a scale; 0: the whole row"),
    ROW(groups, INT, 0, 0, 1 << 24, NULL, "equal runs of the flattened matrix that share a scale; 0: group_size"),
    ROW(sym, BOOL, 1, 0, 1, NULL, "levels symmetric about 0"),
    ROW(format, ENUM, 0, 0, 5, FORMATS, "weights: integers, or small floats"),
    ROW(act_bits, INT, 8, 0, 16, NULL, "bits of activations, act_format=int; 0 and 16: not quantized"),
    ROW(act_format, ENUM, 0, 0, 5, FORMATS, "activations: integers, or small floats"),
    ROW(act_granularity, ENUM, 0, 0, 2, "token|tensor|channel", "activations that share a scale; channel: static"),
    ROW(act_static, BOOL, 0, 0, 1, NULL, "scales of the activations fixed by calibration"),
    ROW(act_sym, BOOL, 1, 0, 1, NULL, "levels of activations symmetric about 0"),
    ROW(solver, ENUM, 0, 0, 1, "rtn|gptq", "codes: the nearest, or by error feedback"),
    ROW(scale_restrict, ENUM, 0, 0, 2, "none|m1|m2", "scales of floats: any, powers of two, halvings of one"),
    ROW(scale_scope, ENUM, 0, 0, 1, "row|tensor", "m2: whose scales are halvings of the largest"),
    ROW(scale_round, ENUM, 0, 0, 2, "up|down|nearest", "which way restricted scales go"),
    QNTI_COMPENSATION_ROWS(struct zeroquant_params, part, 0, 0),
    QNTI_DAMPING_ROWS(struct zeroquant_params, feedback.damping),
    QNTI_FEEDBACK_ROW(struct zeroquant_params, feedback, block_size, INT, 128, 1, 1 << 20,
                      "columns between updates of the rest"),
};

const struct qnti_method qnti_method_zeroquant = {
    .name = "zeroquant",
    .title = "weights and activations in integers or small floats",
    .reference = "Yao et al., ZeroQuant, NeurIPS 2022; -V2, -FP, -HERO, 2023",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct zeroquant_params)},
    .needs_by = zeroquant_needs,
    .check = zeroquant_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = zeroquant_transform,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = zeroquant_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = zeroquant_weights,
    .stages[QNTI_STAGE_CORRECT].layer = zeroquant_correct,
    .offers = zeroquant_offers,
    .feedback = zeroquant_feedback,
    .bits = zeroquant_bits,
    .leaves = zeroquant_leaves,
    .grid = zeroquant_grid,
};
