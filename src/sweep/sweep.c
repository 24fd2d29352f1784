/*
 * sweep.c - one decoder block at a time: capture, quantize, go on with quantized weights.
 *
 * The residual stream x [windows][tokens][hidden] of all windows is carried
 * from block to block. In a block each site's input is made once, measured,
 * and, where a residual follows, kept until its linears are quantized; so
 * every linear runs once, already quantized. A recipe that needs pairs carries
 * a second stream with the source's weights in step; where all need Fisher
 * information alone (reverse.c) there is no stream. A block that an earlier
 * run finished is only passed, by the same calls for each window, so that what
 * comes behind it is the same to the bit.
 */
#include "sweep/sweep.h"

#include <math.h>
#include <string.h>
#include "calib/calib.h"

enum { MOST_LAYERS_OF_SITE = 4 };

/* One stream through the model: quantized weights, or the source's beside it. */
struct stream {
    struct qnti_spill x;         /* [windows][tokens][hidden] */
    struct qnti_spill input;     /* [windows][tokens][width] of a site before a residual */
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
    size_t run;                  /* windows that a calibration takes at a time */
    float *before, *scratch[2];  /* [tokens][widest site]; of each stream [run][tokens][widest site] */
    const char *spill;           /* folder for activations, NULL: they stay in memory */
    size_t index;                /* of the block in hand */
    qnt_qlinear *layers[QNTI_ROLES];
    qnt_calib *given[QNTI_SITES];/* from a file, behind the block's transforms */
    struct qnti_site_transforms transforms[QNTI_SITES];   /* of the block in hand */
    float *aligned;              /* [run][tokens][widest site] the source's inputs as the transforms would have them */
    struct qnti_safetensors *fisher;     /* of the block, where a layer of it needs that */
};

static bool is_quantized(const struct sweep *s, enum qnti_role role)
{
    size_t t = qnti_target_of(s->plan, s->index, role);
    return t != SIZE_MAX && s->plan->job.targets[t].quantized;
}

/* Targets of a site's linears that are to be quantized. */
static size_t site_targets(const struct sweep *s, enum qnti_site site, size_t *targets)
{
    const enum qnti_role *roles = qnti_site_roles(s->config, site);
    size_t n = 0;
    for (size_t i = 0; roles[i] != QNTI_ROLES; i++)
        if (is_quantized(s, roles[i]))
            targets[n++] = qnti_target_of(s->plan, s->index, roles[i]);
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

/* A window's part of a spilled array of that width. */
static float *part(const struct sweep *s, const struct qnti_spill *spill, size_t window, size_t width)
{
    return spill->data + window * s->tokens * width;
}

static void done(const struct sweep *s, const struct qnti_spill *spill, size_t window, size_t width)
{
    qnti_spill_done(spill, window * s->tokens * width, s->tokens * width);
}

/* The site's input of one window into `out`. */
static qnt_status window_input(struct sweep *s, struct stream *stream, enum qnti_site site, size_t window, float *out)
{
    const float *x = part(s, &stream->x, window, s->config->hidden);
    if (flow[site].before == site)
        return qnti_site_input(&stream->block, s->workspace, site, x, s->tokens, out);
    QNT_TRY(qnti_site_input(&stream->block, s->workspace, flow[site].before, x, s->tokens, s->before));
    return qnti_site_input(&stream->block, s->workspace, site, s->before, s->tokens, out);
}

/* The second stream always lies in files: it passes once a site, in order, and would double the memory. */
static const char *folder_of(const struct sweep *s, const struct stream *stream)
{
    return stream == &s->source ? s->plan->work.path : s->spill;
}

/* Streams that are carried: the second one only for pairs. */
static size_t streams_of(struct sweep *s, struct stream *streams[2])
{
    streams[0] = &s->quantized;
    streams[1] = &s->source;
    return s->paired ? 2 : 1;
}

/*
 * The source's inputs in the coordinates of the block whose transforms are folded; the source's own block stays as it
 * is, so that a run that goes on behind this block carries the same numbers.
 */
static qnt_status align(struct sweep *s, enum qnti_site site, const float *x, size_t tokens, const float **aligned)
{
    const struct qnti_transform *t = &s->transforms[site].folded;
    size_t width = qnti_site_width(s->config, site);
    float *scratch;
    *aligned = x;
    if (!x || qnti_transform_is_identity(t))
        return QNT_OK;
    *aligned = s->aligned;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, width, &scratch));
    for (size_t i = 0; i < tokens; i++)
        qnti_transform_forward(t, width, x + i * width, s->aligned + i * width, scratch);
    qnti_free(s->ctx, scratch);
    return QNT_OK;
}

/* The inputs of windows [first, last): into the calibration (may be NULL), kept where a residual follows. */
static qnt_status capture_run(struct sweep *s, enum qnti_site site, size_t first, size_t last, qnt_calib *calib)
{
    struct stream *streams[2];
    size_t width = qnti_site_width(s->config, site), count = streams_of(s, streams);
    float *in[2] = {NULL, NULL};
    const float *source;
    for (size_t i = 0; i < count; i++) {
        in[i] = flow[site].residual ? part(s, &streams[i]->input, first, width) : s->scratch[i];
        for (size_t w = first; w < last; w++) {
            QNT_TRY(window_input(s, streams[i], site, w, in[i] + (w - first) * s->tokens * width));
            done(s, &streams[i]->x, w, s->config->hidden);
            QNT_TRY(qnti_cancelled(s->ctx));
        }
    }
    QNT_TRY(align(s, site, calib ? in[1] : NULL, (last - first) * s->tokens, &source));
    if (calib)
        QNT_TRY(qnti_calib_add_f32(calib, in[0], source, (last - first) * s->tokens));
    for (size_t i = 0; flow[site].residual && i < count; i++)
        for (size_t w = first; w < last; w++)
            done(s, &streams[i]->input, w, width);
    return QNT_OK;
}

static qnt_status capture(struct sweep *s, enum qnti_site site, qnt_calib *calib)
{
    struct stream *streams[2];
    size_t n = s->windows * s->tokens * qnti_site_width(s->config, site), count = streams_of(s, streams);
    for (size_t i = 0; flow[site].residual && i < count; i++)
        QNT_TRY(qnti_spill_create(s->ctx, folder_of(s, streams[i]), n, &streams[i]->input));
    for (size_t w = 0; w < s->windows; w += s->run)
        QNT_TRY(capture_run(s, site, w, qnti_min(w + s->run, s->windows), calib));
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
    bool kept = flow[r->site].residual;
    for (size_t w = 0; w < s->windows; w++) {
        float *in = kept ? part(s, &s->quantized.input, w, width) : s->scratch[0];
        if (!kept)
            QNT_TRY(window_input(s, &s->quantized, r->site, w, in));
        QNT_TRY(take(user, in, s->tokens));
        done(s, &s->quantized.x, w, s->config->hidden);
        done(s, &s->quantized.input, w, width);
    }
    return QNT_OK;
}

static qnt_status add_residual(struct sweep *s, enum qnti_site site)
{
    struct stream *streams[2];
    size_t width = qnti_site_width(s->config, site), count = streams_of(s, streams);
    for (size_t i = 0; flow[site].residual && i < count; i++) {
        struct stream *stream = streams[i];
        for (size_t w = 0; w < s->windows; w++) {
            QNT_TRY(qnti_site_residual(&stream->block, s->workspace, site, part(s, &stream->input, w, width),
                                       s->tokens, part(s, &stream->x, w, s->config->hidden)));
            done(s, &stream->x, w, s->config->hidden);
            done(s, &stream->input, w, width);
        }
        qnti_spill_free(&stream->input);
    }
    return QNT_OK;
}

/* Takes layers [first, last) of the site that share a recipe and a layout through it. */
static qnt_status quantize_run(struct sweep *s, enum qnti_site site, qnt_calib *calib, const size_t *targets,
                               size_t count)
{
    const struct qnti_transform *kept = &s->transforms[site].kept, *folded = &s->transforms[site].folded;
    struct qnt_plan *plan = s->plan;
    qnt_layer layers[MOST_LAYERS_OF_SITE] = {0};
    qnt_qlinear *q[MOST_LAYERS_OF_SITE] = {0};
    char names[MOST_LAYERS_OF_SITE][QNTI_LAYER_NAME_BYTES];
    qnt_site view = {.layers = layers, .count = count};
    qnt_producer norm;
    if (qnti_site_norm(s->config, &s->quantized.block, site, &norm))
        view.producer = &norm;
    for (size_t i = 0; i < count; i++) {
        const struct qnti_target *t = &plan->job.targets[targets[i]];
        qnti_layer_name(t, names[i]);
        layers[i].name = names[i];
        layers[i].weight = qnt_matrix_f32(s->quantized.block.weight[t->role], t->source->rows, t->source->cols);
        layers[i].calib = calib;
        layers[i].fisher = qnti_fisher_of(s->fisher, t->source);
        layers[i].format = t->layout;
        if (plan->scales) {
            const struct qnti_scales *given = &plan->scales[targets[i]];
            layers[i].input_scale = given->input;
            layers[i].input_zero = given->zero;
            layers[i].weight_scale = given->weight;
            layers[i].weight_scale_count = given->count;
        }
        layers[i].attention_score = t->role == QNTI_Q || t->role == QNTI_K || t->role == QNTI_QKV;
    }
    qnti_plan_progress(plan, names[0], ((double)s->index + 0.5) / (double)s->config->blocks);
    if (calib)
        QNT_TRY(qnti_given_apply(plan, targets[0], calib));
    QNT_TRY(qnti_quantize_folded(s->ctx, plan->recipes[targets[0]], &view,
                                 qnti_transform_is_identity(folded) ? NULL : folded,
                                 qnti_transform_is_identity(kept) ? NULL : kept, q));
    for (size_t i = 0; i < count; i++)
        s->layers[plan->job.targets[targets[i]].role] = q[i];
    return QNT_OK;
}

static bool same_importance(const struct qnt_plan *plan, size_t a, size_t b)
{
    const float *x = qnti_given_importance(plan, a), *y = qnti_given_importance(plan, b);
    return x == y || (x && y && memcmp(x, y, plan->job.targets[a].source->cols * sizeof *x) == 0);
}

static bool same_way(const struct qnt_plan *plan, size_t a, size_t b)
{
    return same_importance(plan, a, b) && strcmp(plan->job.targets[a].layout, plan->job.targets[b].layout) == 0 &&
           strcmp(qnt_recipe_text(plan->recipes[a]), qnt_recipe_text(plan->recipes[b])) == 0;
}

/* Quantizes a site's linears and puts their values into the block. */
static qnt_status quantize_site(struct sweep *s, enum qnti_site site, qnt_calib *calib, const size_t *targets,
                                size_t count)
{
    for (size_t first = 0, last; first < count; first = last) {
        for (last = first + 1; last < count && same_way(s->plan, targets[first], targets[last]); last++)
            ;
        QNT_TRY(quantize_run(s, site, calib, targets + first, last - first));
    }
    for (size_t i = 0; i < count; i++) {
        enum qnti_role role = s->plan->job.targets[targets[i]].role;
        const struct qnti_outcome *outcome = &s->plan->outcomes[targets[i]];
        QNT_TRY(qnti_block_exchange(&s->quantized.block, role, s->layers[role]));
        QNT_TRY(qnti_outcome_take(s->plan, targets[i], s->layers[role]));
        if (s->plan->options.strict && outcome->warnings[0])
            return qnti_fail(s->ctx, QNT_UNSUPPORTED, "strict: %s: %s", qnt_qlinear_name(s->layers[role]),
                             outcome->warnings);
    }
    return QNT_OK;
}

/* Weights that nothing in the block will meet again: what is quantized lies in its layer. */
static void forget(struct sweep *s, enum qnti_role first, enum qnti_role last)
{
    for (enum qnti_role role = first; role <= last; role++) {
        if (s->layers[role]) {
            qnti_free(s->ctx, s->quantized.block.weight[role]);
            s->quantized.block.weight[role] = NULL;
        }
        qnti_free(s->ctx, s->source.block.weight[role]);
        s->source.block.weight[role] = NULL;
    }
}

static unsigned needs_of(const struct sweep *s, const size_t *targets, size_t count)
{
    unsigned needs = QNTI_NEED_MOMENTS;
    for (size_t i = 0; i < count; i++)
        needs |= qnti_recipe_weights_needs(s->plan->recipes[targets[i]]);
    return needs;
}

static qnt_status take_given(struct sweep *s, enum qnti_site site, qnt_calib **calib)
{
    *calib = s->given[site];
    s->given[site] = NULL;
    return *calib ? QNT_OK : qnti_given_calib(s->plan, s->index, site, calib);
}

static qnt_status sweep_site(struct sweep *s, enum qnti_site site)
{
    size_t targets[MOST_LAYERS_OF_SITE], count = site_targets(s, site, targets);
    struct replay again = {s, site};
    qnt_calib *calib = NULL;
    qnt_status status = QNT_OK;
    if (!s->calibrated && count)
        QNT_CHECK(take_given(s, site, &calib));
    if (s->calibrated && count) {
        QNT_CHECK(qnti_calib_create(s->ctx, needs_of(s, targets, count), qnti_site_width(s->config, site), &calib));
        calib->replay = replay;
        calib->replay_owner = &again;
        calib->once = count == 1;
    }
    if (s->calibrated && (calib || flow[site].residual))
        QNT_CHECK(capture(s, site, calib));
    if (site == QNTI_SITE_DOWN)
        forget(s, QNTI_GATE_UP, QNTI_UP);
    QNT_CHECK(quantize_site(s, site, calib, targets, count));
    qnt_calib_destroy(calib);
    calib = NULL;
    if (s->calibrated)
        QNT_CHECK(add_residual(s, site));
    if (site == QNTI_SITE_O)
        forget(s, QNTI_QKV, QNTI_O);
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
    for (size_t site = 0; site < QNTI_SITES; site++) {
        qnt_calib_destroy(s->given[site]);
        s->given[site] = NULL;
        qnti_transform_free(s->ctx, &s->transforms[site].kept);
        qnti_transform_free(s->ctx, &s->transforms[site].folded);
    }
}

/* Calibrations from a file in place of measuring: the transforms bring them along. */
static qnt_status load_given(struct sweep *s, struct qnti_measure *measure)
{
    size_t targets[MOST_LAYERS_OF_SITE];
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        if (site_targets(s, site, targets))
            QNT_TRY(qnti_given_calib(s->plan, s->index, site, &s->given[site]));
        measure->calib[site] = s->given[site];
    }
    measure->given = true;
    return QNT_OK;
}

/* Folds the transforms of the block's sites into its weights; `changed` as for qnti_store_block. */
static qnt_status transform_block(struct sweep *s, uint64_t *changed)
{
    struct qnti_measure measure = {.block = &s->quantized.block, .workspace = s->workspace, .x = &s->quantized.x,
                                   .windows = s->windows, .tokens = s->tokens};
    if (!qnti_plan_transforms(s->plan, s->index))
        return QNT_OK;
    if (!s->calibrated && s->plan->given)
        QNT_TRY(load_given(s, &measure));
    return qnti_transforms_fold(s->plan, &measure, &s->quantized.block, changed, s->transforms);
}

/* The block once more, for the stream of the unquantized model; not before its transforms, which need memory too. */
static qnt_status load_source(struct sweep *s)
{
    return s->paired ? qnti_block_load(s->model, s->index, &s->source.block) : QNT_OK;
}

static qnt_status quantize_block(struct sweep *s)
{
    uint64_t changed = s->plan->rotated ? UINT64_MAX : 0;
    if (qnti_fisher_roles(s->plan, s->index))
        QNT_TRY(qnti_fisher_open(s->plan, s->index, &s->fisher));
    QNT_TRY(transform_block(s, &changed));
    QNT_TRY(load_source(s));
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        QNT_TRY(sweep_site(s, site));
    for (enum qnti_role role = 0; role < QNTI_ROLES; role++)
        if (s->layers[role])
            changed &= ~(UINT64_C(1) << 2 * role); /* the layer holds it */
    return qnti_store_block(s->plan, s->index, s->layers, &s->quantized.block, changed);
}

/* Carries the streams through a block that is finished. */
static qnt_status pass_block(struct sweep *s)
{
    struct stream *streams[2];
    size_t count = streams_of(s, streams);
    QNT_TRY(load_source(s));
    QNT_TRY(qnti_store_apply(s->plan, &s->quantized.block, s->layers));
    for (size_t i = 0; i < count; i++)
        for (size_t w = 0; w < s->windows; w++) {
            QNT_TRY(qnti_block_forward(&streams[i]->block, s->workspace, part(s, &streams[i]->x, w, s->config->hidden),
                                       s->tokens));
            done(s, &streams[i]->x, w, s->config->hidden);
            QNT_TRY(qnti_cancelled(s->ctx));
        }
    return QNT_OK;
}

static qnt_status sweep_block(struct sweep *s)
{
    qnt_status status;
    QNT_CHECK(qnti_block_load(s->model, s->index, &s->quantized.block));
    status = s->plan->work.finished[s->index] ? pass_block(s) : quantize_block(s);
cleanup:
    qnti_block_free(&s->quantized.block);
    qnti_block_free(&s->source.block);
    free_layers(s);
    if (s->fisher)
        qnti_safetensors_close(s->fisher);
    s->fisher = NULL;
    return status;
}

/* Layers that the source has quantized keep their codes: the block's file is all there is to do. */
static qnt_status keep_block(struct qnt_plan *plan, size_t block)
{
    qnt_qlinear *layers[QNTI_ROLES] = {0};
    for (size_t t = 0; t < plan->job.count; t++) {
        const struct qnti_target *target = &plan->job.targets[t];
        if (!target->quantized || target->block != block)
            continue;
        layers[target->role] = (qnt_qlinear *)(uintptr_t)target->source->qlinear;
        QNT_TRY(qnti_outcome_take(plan, t, layers[target->role]));
    }
    return qnti_store_block(plan, block, layers, NULL, 0);
}

/* Embeds all windows of a stream. */
static qnt_status start_stream(struct sweep *s, struct stream *stream)
{
    size_t hidden = s->config->hidden;
    QNT_TRY(qnti_spill_create(s->ctx, folder_of(s, stream), s->windows * s->tokens * hidden, &stream->x));
    for (size_t w = 0; w < s->windows; w++) {
        QNT_TRY(qnti_embed(s->model, s->plan->windows.ids + w * s->tokens, s->tokens, 0,
                           part(s, &stream->x, w, hidden)));
        done(s, &stream->x, w, hidden);
    }
    return QNT_OK;
}

static qnt_status start(struct sweep *s)
{
    size_t widest = 0, widest_of_all = 0;
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        widest_of_all = qnti_max(widest_of_all, qnti_site_width(s->config, site));
        if (!flow[site].residual)
            widest = qnti_max(widest, qnti_site_width(s->config, site));
    }
    QNT_TRY(qnti_workspace_create(s->model, s->tokens, &s->workspace));
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->tokens * widest, &s->before));
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->run * s->tokens * widest, &s->scratch[0]));
    QNT_TRY(start_stream(s, &s->quantized));
    if (!s->paired)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->run * s->tokens * widest, &s->scratch[1]));
    QNT_TRY(QNTI_NEW_RAW(s->ctx, s->run * s->tokens * widest_of_all, &s->aligned));
    return start_stream(s, &s->source);
}

static qnt_status sweep_all(struct sweep *s)
{
    struct qnt_plan *plan = s->plan;
    if (s->calibrated)
        QNT_TRY(start(s));
    for (s->index = 0; s->index < s->config->blocks && plan->work.count < s->config->blocks; s->index++) {
        QNT_TRY(qnti_cancelled(s->ctx));
        if (!plan->recipe && !plan->work.finished[s->index])
            QNT_TRY(keep_block(plan, s->index));
        else if (s->calibrated || !plan->work.finished[s->index])
            QNT_TRY(sweep_block(s));
        qnti_plan_progress(plan, "", (double)(s->index + 1) / (double)s->config->blocks);
    }
    return QNT_OK;
}

qnt_status qnti_sweep_run(struct qnt_plan *plan)
{
    struct sweep s = {.plan = plan, .ctx = plan->ctx, .model = plan->job.source,
                      .windows = plan->windows.count, .tokens = plan->windows.tokens,
                      .spill = plan->spills ? plan->work.path : NULL};
    qnt_status status;
    s.config = &s.model->config;
    s.calibrated = qnti_plan_measures(plan);
    s.run = s.calibrated ? qnti_max(QNTI_ADDED_TOKENS / s.tokens, 1) : 1;
    s.paired = s.calibrated && plan->paired;
    status = plan->work.count < s.config->blocks ? sweep_all(&s) : QNT_OK;
    qnti_workspace_free(s.workspace);
    qnti_free(s.ctx, s.before);
    qnti_free(s.ctx, s.scratch[0]);
    qnti_free(s.ctx, s.scratch[1]);
    qnti_free(s.ctx, s.aligned);
    qnti_spill_free(&s.quantized.x);
    qnti_spill_free(&s.quantized.input);
    qnti_spill_free(&s.source.x);
    qnti_spill_free(&s.source.input);
    return status;
}
