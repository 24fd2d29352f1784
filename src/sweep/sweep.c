/*
 * sweep.c - one decoder block at a time: capture, quantize, go on with quantized weights.
 *
 * The residual stream x [windows][tokens][hidden] of all windows is carried
 * from block to block. In a block each site's input is made once, measured,
 * and, where a residual follows, kept until its linears are quantized; so
 * every linear runs once, already quantized. A recipe that needs pairs carries
 * a second stream with the source's weights in step.
 */
#include "sweep/sweep.h"

#include <math.h>
#include <string.h>
#include "calib/calib.h"

enum { MOST_LAYERS_OF_SITE = 4 };

/* One stream through the model: quantized weights, or the source's beside it. */
struct stream {
    float *x;                    /* [windows][tokens][hidden] */
    float *input;                /* [windows][tokens][width] of a site before a residual, or NULL */
    struct qnti_block block;
};

struct sweep {
    struct qnt_plan *plan;
    qnt_context *ctx;
    const struct qnti_checkpoint *model;
    const struct qnti_config *config;
    struct qnti_workspace *workspace;
    struct stream quantized, source;
    bool paired, calibrated;
    size_t windows, tokens;
    float *before, *scratch[2];  /* [tokens][hidden], [tokens][widest site] of each stream */
    size_t index;                /* of the block in hand */
    qnt_qlinear *layers[QNTI_ROLES];
};

static size_t target_of(const struct sweep *s, enum qnti_role role)
{
    const struct qnti_export *job = &s->plan->job;
    for (size_t t = 0; t < job->count; t++)
        if (!job->targets[t].bias && job->targets[t].role == role && job->targets[t].block == s->index)
            return t;
    return SIZE_MAX;
}

static bool is_quantized(const struct sweep *s, enum qnti_role role)
{
    size_t t = target_of(s, role);
    return t != SIZE_MAX && s->plan->job.targets[t].quantized;
}

/* Targets of a site's linears that are to be quantized. */
static size_t site_targets(const struct sweep *s, enum qnti_site site, size_t *targets)
{
    size_t n = 0;
    for (size_t i = 0; qnti_site_roles[site][i] != QNTI_ROLES; i++)
        if (is_quantized(s, qnti_site_roles[site][i]))
            targets[n++] = target_of(s, qnti_site_roles[site][i]);
    return n;
}

/* What stands before each site, and whether its result joins the residual. */
static const struct {
    enum qnti_site before;       /* the site whose input this one is made of; itself: the residual stream */
    bool residual;
} flow[QNTI_SITES] = {
    [QNTI_SITE_QKV] = {QNTI_SITE_QKV, false},
    [QNTI_SITE_O] = {QNTI_SITE_QKV, true},
    [QNTI_SITE_GATE_UP] = {QNTI_SITE_GATE_UP, false},
    [QNTI_SITE_DOWN] = {QNTI_SITE_GATE_UP, true},
};

/* The site's input of one window into `out`. */
static qnt_status window_input(struct sweep *s, struct stream *stream, enum qnti_site site, size_t window, float *out)
{
    const float *x = stream->x + window * s->tokens * s->config->hidden;
    if (flow[site].before == site)
        return qnti_site_input(&stream->block, s->workspace, site, x, s->tokens, out);
    QNT_TRY(qnti_site_input(&stream->block, s->workspace, flow[site].before, x, s->tokens, s->before));
    return qnti_site_input(&stream->block, s->workspace, site, s->before, s->tokens, out);
}

static qnt_status keep_input(struct sweep *s, struct stream *stream, size_t width)
{
    return QNTI_NEW_RAW(s->ctx, s->windows * s->tokens * width, &stream->input);
}

/* Inputs of all windows: measured into calib (may be NULL), kept where a residual follows. */
static qnt_status capture(struct sweep *s, enum qnti_site site, qnt_calib *calib)
{
    struct stream *streams[2] = {&s->quantized, &s->source};
    size_t width = qnti_site_width(s->config, site), count = s->paired ? 2 : 1;
    for (size_t i = 0; flow[site].residual && i < count; i++)
        QNT_TRY(keep_input(s, streams[i], width));
    for (size_t w = 0; w < s->windows; w++) {
        float *in[2];
        for (size_t i = 0; i < count; i++) {
            in[i] = flow[site].residual ? streams[i]->input + w * s->tokens * width : s->scratch[i];
            QNT_TRY(window_input(s, streams[i], site, w, in[i]));
        }
        if (calib)
            QNT_TRY(qnti_calib_add_f32(calib, in[0], s->paired ? in[1] : NULL, s->tokens));
        QNT_TRY(qnti_cancelled(s->ctx));
    }
    return QNT_OK;
}

/* The site's inputs once more: kept ones as they are, others made again. */
struct replay {
    struct sweep *sweep;
    enum qnti_site site;
};

static qnt_status replay(void *owner, qnti_token_fn take, void *user)
{
    struct replay *r = owner;
    struct sweep *s = r->sweep;
    size_t width = qnti_site_width(s->config, r->site);
    for (size_t w = 0; w < s->windows; w++) {
        float *in = s->scratch[0];
        if (flow[r->site].residual)
            in = s->quantized.input + w * s->tokens * width;
        else
            QNT_TRY(window_input(s, &s->quantized, r->site, w, in));
        QNT_TRY(take(user, in, s->tokens));
    }
    return QNT_OK;
}

static qnt_status add_residual(struct sweep *s, enum qnti_site site)
{
    struct stream *streams[2] = {&s->quantized, &s->source};
    size_t width = qnti_site_width(s->config, site);
    for (size_t i = 0; flow[site].residual && i < (s->paired ? 2 : 1); i++) {
        for (size_t w = 0; w < s->windows; w++)
            QNT_TRY(qnti_site_residual(&streams[i]->block, s->workspace, site,
                                       streams[i]->input + w * s->tokens * width, s->tokens,
                                       streams[i]->x + w * s->tokens * s->config->hidden));
        qnti_free(s->ctx, streams[i]->input);
        streams[i]->input = NULL;
    }
    return QNT_OK;
}

/* Takes layers [first, last) of the site that share a recipe and a layout through it. */
static qnt_status quantize_run(struct sweep *s, const qnt_calib *calib, const size_t *targets, size_t count)
{
    struct qnt_plan *plan = s->plan;
    qnt_layer layers[MOST_LAYERS_OF_SITE] = {0};
    qnt_qlinear *q[MOST_LAYERS_OF_SITE] = {0};
    char names[MOST_LAYERS_OF_SITE][QNTI_LAYER_NAME_BYTES];
    for (size_t i = 0; i < count; i++) {
        const struct qnti_target *t = &plan->job.targets[targets[i]];
        qnti_layer_name(t, names[i]);
        layers[i].name = names[i];
        layers[i].weight = qnt_matrix_f32(s->quantized.block.weight[t->role], t->source->rows, t->source->cols);
        layers[i].calib = calib;
        layers[i].format = t->layout;
    }
    qnti_plan_progress(plan, names[0], ((double)s->index + 0.5) / (double)s->config->blocks);
    QNT_TRY(qnt_quantize_site(s->ctx, plan->recipes[targets[0]], layers, count, q));
    for (size_t i = 0; i < count; i++)
        s->layers[plan->job.targets[targets[i]].role] = q[i];
    return QNT_OK;
}

static bool same_way(const struct qnt_plan *plan, size_t a, size_t b)
{
    return strcmp(plan->job.targets[a].layout, plan->job.targets[b].layout) == 0 &&
           strcmp(qnt_recipe_text(plan->recipes[a]), qnt_recipe_text(plan->recipes[b])) == 0;
}

/* Quantizes a site's linears and puts their values into the block. */
static qnt_status quantize_site(struct sweep *s, const qnt_calib *calib, const size_t *targets, size_t count)
{
    for (size_t first = 0, last; first < count; first = last) {
        for (last = first + 1; last < count && same_way(s->plan, targets[first], targets[last]); last++)
            ;
        QNT_TRY(quantize_run(s, calib, targets + first, last - first));
    }
    for (size_t i = 0; i < count; i++) {
        enum qnti_role role = s->plan->job.targets[targets[i]].role;
        struct qnti_outcome *outcome = &s->plan->outcomes[targets[i]];
        QNT_TRY(qnt_dequantize(s->layers[role], s->quantized.block.weight[role]));
        QNT_TRY(qnt_report(s->layers[role], &outcome->report));
        QNT_TRY(qnti_copy_string(s->ctx, outcome->report.warnings, &outcome->warnings));
        outcome->report.warnings = outcome->warnings;
        outcome->done = true;
        if (s->plan->options.strict && outcome->warnings[0])
            return qnti_fail(s->ctx, QNT_UNSUPPORTED, "strict: %s: %s", qnt_qlinear_name(s->layers[role]),
                             outcome->warnings);
    }
    return QNT_OK;
}

static unsigned needs_of(const struct sweep *s, const size_t *targets, size_t count)
{
    unsigned needs = QNTI_NEED_MOMENTS;
    for (size_t i = 0; i < count; i++)
        needs |= qnti_recipe_needs(s->plan->recipes[targets[i]]);
    return needs;
}

static qnt_status sweep_site(struct sweep *s, enum qnti_site site)
{
    size_t targets[MOST_LAYERS_OF_SITE], count = site_targets(s, site, targets);
    struct replay again = {s, site};
    qnt_calib *calib = NULL;
    qnt_status status = QNT_OK;
    if (s->calibrated && count) {
        QNT_CHECK(qnti_calib_create(s->ctx, needs_of(s, targets, count), qnti_site_width(s->config, site), &calib));
        calib->replay = replay;
        calib->replay_owner = &again;
    }
    if (s->calibrated && (calib || flow[site].residual))
        QNT_CHECK(capture(s, site, calib));
    QNT_CHECK(quantize_site(s, calib, targets, count));
    qnt_calib_destroy(calib);
    calib = NULL;
    if (s->calibrated)
        QNT_CHECK(add_residual(s, site));
cleanup:
    qnt_calib_destroy(calib);
    return status;
}

static void free_layers(struct sweep *s)
{
    for (size_t r = 0; r < QNTI_ROLES; r++) {
        qnt_qlinear_destroy(s->layers[r]);
        s->layers[r] = NULL;
    }
}

static qnt_status sweep_block(struct sweep *s)
{
    qnt_status status;
    QNT_CHECK(qnti_block_load(s->model, s->index, &s->quantized.block));
    if (s->paired)
        QNT_CHECK(qnti_block_load(s->model, s->index, &s->source.block));
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        QNT_CHECK(sweep_site(s, site));
    QNT_CHECK(qnti_store_block(s->plan, s->index, s->layers, QNTI_ROLES));
cleanup:
    free_layers(s);
    qnti_block_free(&s->quantized.block);
    qnti_block_free(&s->source.block);
    return status;
}

/* Embeds all windows of a stream. */
static qnt_status start_stream(struct sweep *s, struct stream *stream)
{
    size_t hidden = s->config->hidden;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->windows * s->tokens * hidden, &stream->x));
    for (size_t w = 0; w < s->windows; w++)
        QNT_TRY(qnti_embed(s->model, s->plan->windows.ids + w * s->tokens, s->tokens,
                           stream->x + w * s->tokens * hidden));
    return QNT_OK;
}

static qnt_status start(struct sweep *s)
{
    size_t widest = 0;
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        if (!flow[site].residual)
            widest = qnti_max(widest, qnti_site_width(s->config, site));
    QNT_TRY(qnti_workspace_create(s->model, s->tokens, &s->workspace));
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->tokens * widest, &s->before));
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->tokens * widest, &s->scratch[0]));
    QNT_TRY(start_stream(s, &s->quantized));
    if (!s->paired)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->tokens * widest, &s->scratch[1]));
    return start_stream(s, &s->source);
}

qnt_status qnti_sweep_run(struct qnt_plan *plan)
{
    struct sweep s = {.plan = plan, .ctx = plan->ctx, .model = plan->model->checkpoint,
                      .windows = plan->windows.count, .tokens = plan->windows.tokens};
    qnt_status status = QNT_OK;
    s.config = &s.model->config;
    s.calibrated = s.windows > 0;
    s.paired = s.calibrated && qnt_recipe_needs_pairs(plan->recipe);
    if (s.calibrated)
        QNT_CHECK(start(&s));
    for (s.index = 0; s.index < s.config->blocks; s.index++) {
        QNT_CHECK(sweep_block(&s));
        qnti_plan_progress(plan, "", (double)(s.index + 1) / (double)s.config->blocks);
    }
cleanup:
    qnti_workspace_free(s.workspace);
    qnti_free(s.ctx, s.before);
    qnti_free(s.ctx, s.scratch[0]);
    qnti_free(s.ctx, s.scratch[1]);
    qnti_free(s.ctx, s.quantized.x);
    qnti_free(s.ctx, s.quantized.input);
    qnti_free(s.ctx, s.source.x);
    qnti_free(s.ctx, s.source.input);
    return status;
}
