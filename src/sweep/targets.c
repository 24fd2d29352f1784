/*
 * targets.c - the list of tensors of an output, and what the user's patterns change in it.
 */
#include "sweep/sweep.h"

#include <string.h>
#include <stdio.h>

static void add(struct qnti_export *job, const struct qnti_weight *w, enum qnti_role role, bool bias, size_t block)
{
    if (!w)
        return;
    if (job->targets)
        job->targets[job->count] = (struct qnti_target){.source = w, .role = role, .bias = bias, .block = block};
    job->count++;
}

static void add_role(struct qnti_export *job, enum qnti_role role, size_t block)
{
    add(job, qnti_checkpoint_weight(job->source, block, role), role, false, block);
    add(job, qnti_checkpoint_bias(job->source, block, role), role, true, block);
}

static void add_all(struct qnti_export *job)
{
    add_role(job, QNTI_EMBED, 0);
    add_role(job, QNTI_POSITIONS, 0);
    for (size_t b = 0; b < job->source->config.blocks; b++)
        for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++)
            add_role(job, role, b);
    add_role(job, QNTI_FINAL_NORM, 0);
    add_role(job, QNTI_HEAD, 0);
}

void qnti_layer_name(const struct qnti_target *target, char name[QNTI_LAYER_NAME_BYTES])
{
    size_t n = qnti_min(strlen(target->source->name) - strlen(".weight"), QNTI_LAYER_NAME_BYTES - 1);
    memcpy(name, target->source->name, n);
    name[n] = 0;
}

size_t qnti_target_of(const struct qnt_plan *plan, size_t block, enum qnti_role role)
{
    const struct qnti_export *job = &plan->job;
    for (size_t t = 0; t < job->count; t++)
        if (!job->targets[t].bias && job->targets[t].role == role && job->targets[t].block == block)
            return t;
    return SIZE_MAX;
}

/* Two passes over the same list: count, then fill. */
qnt_status qnti_targets_list(struct qnti_export *job)
{
    job->count = 0;
    add_all(job);
    QNT_TRY(QNTI_NEW(job->ctx, job->count, &job->targets));
    job->count = 0;
    add_all(job);
    return QNT_OK;
}

static qnt_status matches_any(qnt_context *ctx, const char *const *patterns, size_t count, const char *name, bool *any)
{
    *any = false;
    for (size_t i = 0; i < count && !*any; i++)
        QNT_TRY(qnti_pattern_match(ctx, patterns[i], name, any));
    return QNT_OK;
}

/* Layers that --include does not name, or --exclude does, stay float: in the format's own way. */
static qnt_status exclude(struct qnt_plan *plan, struct qnti_target *t)
{
    const qnt_quantize_options *o = &plan->options;
    bool included = o->include_count == 0, excluded;
    if (!t->quantized)
        return QNT_OK;
    if (!included)
        QNT_TRY(matches_any(plan->ctx, o->include, o->include_count, t->source->name, &included));
    QNT_TRY(matches_any(plan->ctx, o->exclude, o->exclude_count, t->source->name, &excluded));
    if (included && !excluded)
        return QNT_OK;
    t->quantized = false;
    t->layout = plan->job.format->folder ? "plain" : "gguf:f16";
    t->note = excluded ? "excluded" : "not included";
    return QNT_OK;
}

/* "PATTERN:key=value,...": split at the last colon before the first '='. */
static qnt_status split_override(qnt_context *ctx, const char *text, char **pattern, const char **settings)
{
    const char *equals = strchr(text, '='), *colon = NULL;
    for (const char *c = text; equals && c < equals; c++)
        if (*c == ':')
            colon = c;
    if (!colon || colon == text)
        return qnti_fail(ctx, QNT_INVALID, "--layer \"%s\" is not PATTERN:key=value,...", text);
    *settings = colon + 1;
    return qnti_copy_bytes(ctx, text, (size_t)(colon - text), pattern);
}

/* `type=q5_0` names another layout of the same container. */
static qnt_status override_type(struct qnt_plan *plan, struct qnti_target *t, const char *type)
{
    char name[64];
    const struct qnti_layout *layout;
    if (plan->job.format->folder)
        return qnti_fail(plan->ctx, QNT_INVALID, "%s: type=%s, but format %s has no types", t->source->name, type,
                         plan->job.format->name);
    if (snprintf(name, sizeof name, "gguf:%s", type) >= (int)sizeof name)
        return qnti_fail(plan->ctx, QNT_INVALID, "type \"%s\" is too long", type);
    layout = qnti_layout_find(plan->ctx, name);
    if (!layout)
        return QNT_NOT_FOUND;
    t->layout = layout->name;
    return qnti_layout_width(plan->ctx, layout, t->source->name, t->source->cols);
}

/* key=value pairs, comma by comma, for the layer's own copy of the recipe; `type` is the tensor's. */
static qnt_status apply_settings(struct qnt_plan *plan, struct qnti_target *t, qnt_recipe *recipe, char *settings)
{
    const char **list;
    size_t count = 0;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(plan->ctx, strlen(settings) + 1, &list));
    for (char *setting = settings, *next; status == QNT_OK && setting; setting = next) {
        char *comma = strchr(setting, ',');
        next = comma ? comma + 1 : NULL;
        if (comma)
            *comma = 0;
        if (strncmp(setting, "type=", strlen("type=")) == 0)
            status = override_type(plan, t, setting + strlen("type="));
        else
            list[count++] = setting;
    }
    if (status == QNT_OK)
        status = qnt_recipe_set_all(recipe, list, count);
    qnti_free(plan->ctx, list);
    return status;
}

static qnt_status override(struct qnt_plan *plan, struct qnti_target *t, qnt_recipe *recipe, size_t *used)
{
    for (size_t i = 0; i < plan->options.layer_count; i++) {
        char *pattern = NULL, *copy = NULL;
        const char *settings = NULL;
        bool match = false;
        qnt_status status = split_override(plan->ctx, plan->options.layers[i], &pattern, &settings);
        if (status == QNT_OK)
            status = qnti_pattern_match(plan->ctx, pattern, t->source->name, &match);
        if (status == QNT_OK && match) {
            used[i]++;
            status = qnti_copy_string(plan->ctx, settings, &copy);
            if (status == QNT_OK)
                status = apply_settings(plan, t, recipe, copy);
        }
        qnti_free(plan->ctx, copy);
        qnti_free(plan->ctx, pattern);
        QNT_TRY(status);
    }
    return QNT_OK;
}

/* A layer of a shape that its layout cannot hold in these groups stays float. */
static void keep_misfit_float(struct qnt_plan *plan, size_t index, const struct qnti_layout *layout)
{
    struct qnti_target *t = &plan->job.targets[index];
    double group = qnti_recipe_number(qnti_recipe_weights(plan->recipes[index]), "group_size", 0);
    const char *misfit = qnti_layout_misfit(layout, t->source->rows, t->source->cols, (size_t)group);
    if (!layout->limits || !misfit)
        return;
    t->quantized = false;
    t->layout = "plain";
    t->note = misfit;
    qnt_recipe_destroy(plan->recipes[index]);
    plan->recipes[index] = NULL;
}

static bool quantizes_inputs(const qnt_recipe *recipe)
{
    return recipe->provider[QNTI_STAGE_ACTIVATIONS] >= 0;
}

static bool on_text(const struct qnt_plan *plan)
{
    return plan->options.calibration && !qnti_is_statistics(plan->options.calibration);
}

/* The target's recipe: the plan's with the user's overrides, adapted to its layout. */
static qnt_status make_recipe(struct qnt_plan *plan, size_t index, size_t *used)
{
    struct qnti_target *t = &plan->job.targets[index];
    const struct qnti_layout *layout;
    qnt_recipe *own;
    qnt_status status;
    QNT_TRY(qnt_recipe_copy(plan->recipe, &own));
    status = override(plan, t, own, used);
    if (status == QNT_OK) {
        layout = qnti_layout_find(plan->ctx, t->layout);
        status = layout ? qnti_recipe_adapt(own, layout, on_text(plan), &plan->recipes[index]) : QNT_NOT_FOUND;
        if (status == QNT_OK && quantizes_inputs(own) && !quantizes_inputs(plan->recipes[index]))
            t->note = layout->inputs ? "its inputs are quantized as the format prescribes"
                                     : "its inputs are not quantized: the format holds no activations";
        if (status == QNT_OK && plan->rotated && t->role == QNTI_DOWN && !qnti_layout_at_run_time(layout))
            t->note = "its inputs are not rotated: the format holds nothing to do at run time";
        if (status == QNT_OK)
            keep_misfit_float(plan, index, layout);
    }
    qnt_recipe_destroy(own);
    return status;
}

/* A model of floats alone is not what was asked for. */
static qnt_status check_some_fit(const struct qnt_plan *plan)
{
    const struct qnti_target *misfit = NULL;
    for (size_t i = 0; i < plan->job.count; i++) {
        if (plan->recipes[i])
            return QNT_OK;
        if (plan->job.targets[i].note && strcmp(plan->job.targets[i].layout, "plain") == 0)
            misfit = &plan->job.targets[i];
    }
    if (!misfit || !plan->recipe)
        return QNT_OK;
    return qnti_fail(plan->ctx, QNT_UNSUPPORTED, "format %s would hold no quantized layer; %s (%zu, %zu): %s",
                     plan->job.format->name, misfit->source->name, misfit->source->rows, misfit->source->cols,
                     misfit->note);
}

/* Where the format has one group size for all layers, recipes that ask for several are refused before they are run. */
static qnt_status check_groups_alike(const struct qnt_plan *plan)
{
    const struct qnti_target *first = NULL;
    double usual = 0;
    for (size_t i = 0; i < plan->job.count; i++) {
        const struct qnti_target *t = &plan->job.targets[i];
        const struct qnti_layout *layout = plan->recipes[i] ? qnti_layout_find(plan->ctx, t->layout) : NULL;
        double group;
        if (!layout || !layout->limits || !layout->limits->one_group)
            continue;
        group = qnti_recipe_number(qnti_recipe_weights(plan->recipes[i]), "group_size", 0);
        if (first && group != usual)
            return qnti_fail(plan->ctx, QNT_INVALID,
                             "format %s has one group size for all layers: %s has %g, %s has %g; gptq and native can "
                             "hold both", layout->name, first->source->name, usual, t->source->name, group);
        first = first ? first : t;
        usual = group;
    }
    return QNT_OK;
}

/* Which of the layers that engines join a target is one of: q, k, v, or gate, up; 0: none. */
static int joint_of(const struct qnti_target *t)
{
    if (t->bias)
        return 0;
    return t->role >= QNTI_Q && t->role <= QNTI_V ? 1 : t->role == QNTI_GATE || t->role == QNTI_UP ? 2 : 0;
}

static bool same_grids(const qnt_recipe *a, const qnt_recipe *b)
{
    static const char *const keys[] = {"bits", "group_size", "sym", "per_tensor"};
    for (size_t i = 0; a && b && i < sizeof keys / sizeof *keys; i++)
        if (qnti_recipe_number(qnti_recipe_weights(a), keys[i], 0) !=
            qnti_recipe_number(qnti_recipe_weights(b), keys[i], 0))
            return false;
    return !a == !b;
}

/* Where engines join layers, their grids must be alike: refused before they are made. */
static qnt_status check_joined_alike(const struct qnt_plan *plan)
{
    const struct qnti_layout *layout = qnti_layout_find(plan->ctx, plan->job.format->layout);
    for (size_t a = 0; plan->recipe && layout && layout->fused && a < plan->job.count; a++)
        for (size_t b = a + 1; b < plan->job.count; b++) {
            const struct qnti_target *s = &plan->job.targets[a], *t = &plan->job.targets[b];
            if (s->block != t->block || !joint_of(s) || joint_of(s) != joint_of(t) ||
                same_grids(plan->recipes[a], plan->recipes[b]))
                continue;
            return qnti_fail(plan->ctx, QNT_INVALID, "format %s: engines join %s and %s, which must be quantized "
                             "alike; native can hold both", layout->name, s->source->name, t->source->name);
        }
    return QNT_OK;
}

/* What the layers of a block get together, behind what each has of its own. */
static qnt_status plan_block(struct qnt_plan *plan, size_t block)
{
    qnt_recipe *recipes[QNTI_ROLES];
    struct qnti_shape shapes[QNTI_ROLES];
    size_t count = 0;
    for (size_t t = 0; t < plan->job.count && count < QNTI_ROLES; t++) {
        const struct qnti_target *target = &plan->job.targets[t];
        if (!plan->recipes[t] || target->block != block)
            continue;
        recipes[count] = plan->recipes[t];
        shapes[count++] = (struct qnti_shape){target->source->rows, target->source->cols};
    }
    return qnti_recipes_plan(plan->ctx, recipes, shapes, count);
}

qnt_status qnti_targets_recipes(struct qnt_plan *plan)
{
    size_t *used;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(plan->ctx, plan->options.layer_count + 1, &used));
    for (size_t t = 0; status == QNT_OK && t < plan->job.count; t++) {
        status = exclude(plan, &plan->job.targets[t]);
        if (status == QNT_OK && plan->job.targets[t].quantized && plan->recipe)
            status = make_recipe(plan, t, used);
    }
    for (size_t i = 0; status == QNT_OK && i < plan->options.layer_count; i++)
        if (!used[i])
            status = qnti_fail(plan->ctx, QNT_INVALID, "--layer \"%s\" matches no layer that is quantized",
                               plan->options.layers[i]);
    qnti_free(plan->ctx, used);
    QNT_TRY(status);
    for (size_t b = 0; b < plan->job.source->config.blocks; b++)
        QNT_TRY(plan_block(plan, b));
    for (size_t t = 0; t < plan->job.count; t++)
        plan->paired |= plan->recipes[t] && qnt_recipe_needs_pairs(plan->recipes[t]);
    QNT_TRY(check_some_fit(plan));
    QNT_TRY(check_groups_alike(plan));
    return check_joined_alike(plan);
}
