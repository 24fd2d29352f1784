/*
 * transforms.c - equivalent transforms of the sites of a block: measured, chosen, folded.
 *
 * All of a block's transforms stand before the first of its weights is
 * quantized: one pass with the block's unquantized weights measures every
 * site, then a transform is chosen for one site after another and folded into
 * what makes the site's input (house: norm -> q, k, v; v -> o; norm -> gate,
 * up; up -> down, unless an activation stands between) and into its consumers.
 * What nothing absorbs, as another order of channels behind a norm, stays at
 * run time where the format can hold it. The block computes what it did.
 */
#include "sweep/sweep.h"

#include <string.h>
#include "calib/calib.h"
#include "pack/layout.h"
#include "transform/fold.h"

/*
 * Tokens on which a loss behind a unit is taken; on which Hessians for a search are measured, or twice the widest site:
 * a few scales a site need less of the text than its weights do.
 */
enum { MOST_LAYERS_OF_SITE = 4, UNIT_TOKENS = 2048, SEARCH_TOKENS = 16384 };

struct transforms {
    struct qnt_plan *plan;
    qnt_context *ctx;
    const struct qnti_config *config;
    struct qnti_measure *measure;
    struct qnti_block *block;
    uint64_t *changed;
    struct qnti_site_transforms *sites;   /* [QNTI_SITES] */
    /* The site in hand: its layers that are quantized, and the recipe of the first that transforms. */
    qnt_layer layers[MOST_LAYERS_OF_SITE];
    char names[MOST_LAYERS_OF_SITE][QNTI_LAYER_NAME_BYTES];
    size_t count;
    const qnt_recipe *recipe;
};

static void list_site(struct transforms *t, enum qnti_site site)
{
    const enum qnti_role *roles = qnti_site_roles(t->config, site);
    t->count = 0;
    t->recipe = NULL;
    for (size_t i = 0; roles[i] != QNTI_ROLES; i++) {
        enum qnti_role role = roles[i];
        size_t index = qnti_target_of(t->plan, t->block->index, role);
        const struct qnti_target *target;
        qnt_layer *layer = &t->layers[t->count];
        if (index == SIZE_MAX || !t->plan->job.targets[index].quantized)
            continue;
        target = &t->plan->job.targets[index];
        qnti_layer_name(target, t->names[t->count]);
        *layer = (qnt_layer){.name = t->names[t->count], .format = target->layout, .calib = t->measure->calib[site],
                             .weight = qnt_matrix_f32(t->block->weight[role], target->source->rows,
                                                      target->source->cols), .bias = t->block->bias[role]};
        t->count++;
        if (!t->recipe && qnti_recipe_transforms(t->plan->recipes[index]))
            t->recipe = t->plan->recipes[index];
    }
}

/* Query heads that share a key and value head: channel of o's input -> row of v. */
static qnt_status shared_heads(const struct transforms *t, uint32_t **map)
{
    const struct qnti_config *c = t->config;
    size_t share = c->heads / c->kv_heads, width = c->heads * c->head_dim;
    *map = NULL;
    if (share == 1)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, width, map));
    for (size_t i = 0; i < width; i++)
        (*map)[i] = (uint32_t)(i / c->head_dim / share * c->head_dim + i % c->head_dim);
    return QNT_OK;
}

/* What makes the input of a site. */
static enum qnti_role producer_role(const struct qnti_config *c, enum qnti_site site)
{
    const enum qnti_role roles[QNTI_SITES] = {
        [QNTI_SITE_QKV] = QNTI_ATTN_NORM,
        [QNTI_SITE_O] = c->fused_qkv ? QNTI_QKV : QNTI_V,
        [QNTI_SITE_GATE_UP] = QNTI_MLP_NORM,
        [QNTI_SITE_DOWN] = c->fused_gate_up ? QNTI_GATE_UP : QNTI_UP,
    };
    return roles[site];
}

/* Without a gate the activation stands between up and down: ReLU lets a positive scale through, others nothing. */
static unsigned refuses(const struct qnti_config *c, enum qnti_site site)
{
    if (site != QNTI_SITE_DOWN || !c->ungated)
        return 0;
    return c->activation == QNTI_RELU ? QNT_REFUSES_SHIFT : QNT_REFUSES_SCALE | QNT_REFUSES_SHIFT;
}

/* A shift needs a bias in every consumer: what it takes from the input comes back there. */
static bool have_biases(const struct transforms *t, enum qnti_site site)
{
    const enum qnti_role *roles = qnti_site_roles(t->config, site);
    for (size_t i = 0; roles[i] != QNTI_ROLES; i++)
        if (!t->block->bias[roles[i]])
            return false;
    return true;
}

/* The gate's rows, which those of up meet: of a fused linear the first. */
static void add_gate(const struct transforms *t, qnt_producer *p)
{
    enum qnti_role role = t->config->fused_gate_up ? QNTI_GATE_UP : QNTI_GATE;
    p->beside = t->block->weight[role];
    p->beside_bias = t->block->bias[role];
}

/*
 * Of a fused linear the rows of v, or of up: they are the last. Statistics that were measured before do not follow
 * another order of channels.
 */
static qnt_producer producer_of(const struct transforms *t, enum qnti_site site, const uint32_t *map)
{
    const struct qnti_config *c = t->config;
    enum qnti_role role = producer_role(c, site);
    struct qnti_extent extent = qnti_weight_extent(c, role);
    bool values = site == QNTI_SITE_O, norm = qnti_is_norm(role);
    unsigned lets_no = refuses(c, site) | (have_biases(t, site) ? 0u : QNT_REFUSES_SHIFT) |
                       (t->measure->given ? QNT_REFUSES_ORDER : 0u);
    size_t rows = norm ? extent.cols : values ? c->kv_heads * c->head_dim : c->ffn, cols = norm ? 1 : extent.cols;
    size_t first = norm ? 0 : extent.rows - rows;
    float *bias = t->block->bias[role];
    qnt_producer p = {.weight = t->block->weight[role] + first * cols, .bias = bias ? bias + first : NULL,
                      .rows = rows, .cols = cols, .base = norm ? c->norm_base : 0, .map = values ? map : NULL,
                      .head = values ? c->head_dim : 0,
                      .refuses = lets_no};
    if (site == QNTI_SITE_DOWN && !c->ungated)
        add_gate(t, &p);
    return p;
}

bool qnti_site_norm(const struct qnti_config *c, const struct qnti_block *block, enum qnti_site site,
                    qnt_producer *norm)
{
    enum qnti_role role = producer_role(c, site);
    *norm = (qnt_producer){.weight = block->weight[role], .bias = block->bias[role],
                           .rows = qnti_weight_extent(c, role).cols, .cols = 1, .base = c->norm_base};
    return qnti_is_norm(role);
}

static qnt_status choose(struct transforms *t, enum qnti_site site, const qnt_producer *producer,
                         struct qnti_transform *transform)
{
    const struct qnti_measure *m = t->measure;
    struct qnti_site_unit self;
    struct qnti_unit unit;
    struct qnti_transform_choice choice = {.layers = t->layers, .count = t->count, .producer = producer,
                                           .samples = m->sample[site], .sequence = m->tokens};
    if (m->sample[site]) {
        qnti_unit_of_site(t->block, m->workspace, site, &self, &unit);
        choice.unit = &unit;
        choice.sample_count = m->samples * m->tokens;
    }
    return qnti_choose_transform(t->ctx, t->recipe, &choice, transform);
}

/* Rows of a consumer in the coordinates of the transformed input. */
static qnt_status fold_consumer(struct transforms *t, enum qnti_role role, const struct qnti_transform *transform)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(t->plan->job.source, t->block->index, role);
    float *weight = t->block->weight[role], *bias = t->block->bias[role], *row;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, 2 * w->cols, &row));
    for (size_t r = 0; r < w->rows; r++) {
        float *x = weight + r * w->cols;
        if (transform->shift)
            bias[r] += (float)qnti_transform_bias(transform, w->cols, x);
        qnti_transform_weight(transform, w->cols, x, row, row + w->cols);
        memcpy(x, row, w->cols * sizeof *x);
    }
    qnti_free(t->ctx, row);
    *t->changed |= UINT64_C(1) << 2 * role;
    if (transform->shift)
        *t->changed |= UINT64_C(2) << 2 * role;
    return QNT_OK;
}

static qnt_status fold(struct transforms *t, enum qnti_site site, const qnt_producer *producer,
                       const struct qnti_transform *transform)
{
    const enum qnti_role *roles = qnti_site_roles(t->config, site);
    size_t width = qnti_site_width(t->config, site);
    if (transform->shift && !have_biases(t, site))
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "a shift needs a bias in the linears behind it");
    if (t->measure->given && (transform->shift || transform->rotation.block))
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "statistics from a file follow a scale only");
    QNT_TRY(qnti_fold(t->ctx, producer, transform, width));
    *t->changed |= UINT64_C(3) << 2 * producer_role(t->config, site);
    if (producer->beside && transform->permutation)
        *t->changed |= UINT64_C(3) << 2 * (t->config->fused_gate_up ? QNTI_GATE_UP : QNTI_GATE);
    for (size_t i = 0; roles[i] != QNTI_ROLES; i++)
        QNT_TRY(fold_consumer(t, roles[i], transform));
    return t->measure->given ? qnti_calib_rescale(t->measure->calib[site], transform->scale) : QNT_OK;
}

/* What nothing absorbs stays at run time; where the format holds none a rotation's plan has said so already. */
static void keep(struct transforms *t, enum qnti_site site, struct qnti_transform *kept)
{
    const struct qnti_layout *layout = qnti_layout_find(t->ctx, t->layers[0].format);
    if (qnti_layout_at_run_time(layout))
        qnti_transform_move(kept, &t->sites[site].kept);
    else if (kept->scale || kept->permutation)
        qnti_log(t->ctx, QNT_LOG_WARNING,
                 "%s: the %s of its input is left out: nothing absorbs it, and format %s holds none", t->names[0],
                 kept->scale ? "scale" : "order", layout->name);
}

/* Folds what the producer can absorb. */
static qnt_status apply(struct transforms *t, enum qnti_site site, const qnt_producer *producer,
                        const struct qnti_transform *transform)
{
    struct qnti_transform folded = {0}, kept = {0};
    qnt_status status;
    QNT_CHECK(qnti_fold_part(t->ctx, producer, transform, qnti_site_width(t->config, site), &folded, &kept));
    if (!qnti_transform_is_identity(&folded)) {
        QNT_CHECK(fold(t, site, producer, &folded));
        qnti_transform_move(&folded, &t->sites[site].folded);
    }
    if (!qnti_transform_is_identity(&kept))
        keep(t, site, &kept);
cleanup:
    qnti_transform_free(t->ctx, &folded);
    qnti_transform_free(t->ctx, &kept);
    return status;
}

static qnt_status transform_site(struct transforms *t, enum qnti_site site)
{
    struct qnti_transform transform = {0};
    uint32_t *map = NULL;
    qnt_producer producer;
    qnt_status status;
    list_site(t, site);
    if (!t->recipe)
        return QNT_OK;
    QNT_CHECK(shared_heads(t, &map));
    producer = producer_of(t, site, map);
    qnti_plan_progress(t->plan, t->names[0], (double)t->block->index / (double)t->config->blocks);
    status = choose(t, site, &producer, &transform);
    if (status == QNT_OK && !qnti_transform_is_identity(&transform))
        status = apply(t, site, &producer, &transform);
    if (status == QNT_UNSUPPORTED) {
        qnti_log(t->ctx, QNT_LOG_WARNING, "%s: its input is not transformed: %s", t->names[0],
                 qnt_context_message(t->ctx));
        status = QNT_OK;
    }
cleanup:
    qnti_transform_free(t->ctx, &transform);
    qnti_free(t->ctx, map);
    return status;
}

/* How many windows a measured one stands for: all count where their moments are all that is wanted. */
static size_t step_of(struct transforms *t)
{
    size_t enough = SEARCH_TOKENS;
    bool hessian = true;
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        list_site(t, site);
        enough = qnti_max(enough, 2 * qnti_site_width(t->config, site));
        if (t->recipe && !(qnti_recipe_transform_needs(t->recipe) & QNTI_NEED_HESSIAN))
            hessian = false;
    }
    return hessian ? qnti_max(t->measure->windows * t->measure->tokens / enough, 1) : 1;
}

/* Calibrations and samples for the sites whose recipes transform by them; whether there is one. */
static qnt_status open_sites(struct transforms *t, bool *measured)
{
    struct qnti_measure *m = t->measure;
    m->step = step_of(t);
    m->samples = qnti_max(1, qnti_min(qnti_ceil_div(m->windows, m->step), UNIT_TOKENS / m->tokens));
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        size_t width = qnti_site_width(t->config, site);
        unsigned needs;
        list_site(t, site);
        if (!t->recipe)
            continue;
        needs = qnti_recipe_transform_needs(t->recipe);
        if (!needs)
            continue;
        *measured = true;
        QNT_TRY(qnti_calib_create(t->ctx, (needs & ~(unsigned)QNTI_NEED_SAMPLES) | QNTI_NEED_MOMENTS, width,
                                  &m->calib[site]));
        if (needs & QNTI_NEED_SAMPLES)
            QNT_TRY(QNTI_NEW_RAW(t->ctx, m->samples * m->tokens * width, &m->sample[site]));
    }
    return QNT_OK;
}

static void close_site(struct transforms *t, enum qnti_site site)
{
    if (t->measure->given)
        return;
    qnt_calib_destroy(t->measure->calib[site]);
    qnti_free(t->ctx, t->measure->sample[site]);
    t->measure->calib[site] = NULL;
    t->measure->sample[site] = NULL;
}

bool qnti_plan_transforms(const struct qnt_plan *plan, size_t block)
{
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t] && plan->job.targets[t].block == block && qnti_recipe_transforms(plan->recipes[t]))
            return true;
    return false;
}

qnt_status qnti_transforms_fold(struct qnt_plan *plan, struct qnti_measure *measure, struct qnti_block *block,
                                uint64_t *changed, struct qnti_site_transforms *sites)
{
    struct transforms t = {.plan = plan, .ctx = plan->ctx, .config = &plan->job.source->config,
                           .measure = measure, .block = block, .changed = changed, .sites = sites};
    bool measured = false;
    qnt_status status;
    if (!measure->given && measure->windows)
        QNT_CHECK(open_sites(&t, &measured));
    if (measured)
        QNT_CHECK(qnti_measure_block(measure));
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        QNT_CHECK(transform_site(&t, site));
        close_site(&t, site);
    }
cleanup:
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        close_site(&t, site);
    return status;
}
