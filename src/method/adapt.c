/*
 * adapt.c - a recipe for the layers of a layout: what the layout prefers where the user said nothing, what it cannot
 * hold of what the stages leave, and what a layer of it will take.
 */
#include <stdio.h>
#include <string.h>
#include "method/recipe.h"

/* Takes a preference of the format, unless it excludes what the user set. */
static qnt_status prefer_in_step(qnt_recipe *recipe, struct qnti_recipe_step *step, const char *key, const char *value)
{
    const struct qnti_param *row = qnti_param_find(&step->method->table, key);
    uint64_t given = step->given;
    char before[24];
    if (!row || qnti_recipe_given(step, key))
        return QNT_OK;
    qnti_param_print(row, step->params, before, sizeof before);
    QNT_TRY(qnti_recipe_set_step(recipe, step, key, value));
    if (!step->method->check || step->method->check(recipe->ctx, step->params) == QNT_OK)
        return QNT_OK;
    QNT_TRY(qnti_recipe_set_step(recipe, step, key, before));
    step->given = given;
    return QNT_OK;
}

static bool provides_weights(const qnt_recipe *recipe, size_t step)
{
    return recipe->provider[QNTI_STAGE_WEIGHTS] == (int)step ||
           qnti_method_offers(recipe->steps[step].method, QNTI_STAGE_CORRECT);
}

/* A preference is for those who fill or correct the weights, or, if none of them knows it, for the others. */
static bool concerns(const qnt_recipe *recipe, size_t step, const char *key)
{
    bool known = false;
    for (size_t s = 0; s < recipe->count; s++)
        known |= provides_weights(recipe, s) && qnti_param_find(&recipe->steps[s].method->table, key);
    return provides_weights(recipe, step) || !known;
}

/* "key=value,key=value"; qep only where there are pairs of inputs. */
static qnt_status prefer(qnt_recipe *recipe, const char *settings, bool pairs)
{
    while (settings && *settings) {
        char key[32], value[32];
        int used = 0;
        if (sscanf(settings, "%31[^=]=%31[^,]%n", key, value, &used) != 2)
            return qnti_fail(recipe->ctx, QNT_INVALID, "\"%s\" is not key=value", settings);
        for (size_t s = 0; s < recipe->count; s++)
            if (concerns(recipe, s, key) && (pairs || strcmp(key, "qep") != 0))
                QNT_TRY(prefer_in_step(recipe, &recipe->steps[s], key, value));
        settings += used + (settings[used] == ',');
    }
    return qnti_recipe_resolve(recipe);
}

/*
 * Quantizers of the inputs that come only by a method's default are left out where the layout cannot hold them; one
 * that the user asked for is an error.
 */
static qnt_status leave_out_activations(qnt_recipe *recipe, const struct qnti_layout *layout)
{
    int s = recipe->provider[QNTI_STAGE_ACTIVATIONS];
    const struct qnti_recipe_step *step;
    if (s < 0 || qnti_layout_at_run_time(layout) || layout->holds_inputs)
        return QNT_OK;
    if (layout->methods && s == recipe->provider[QNTI_STAGE_WEIGHTS]) /* they come with the grid */
        return QNT_OK;
    step = &recipe->steps[s];
    for (size_t i = 0; i < step->method->table.count; i++)
        if ((step->given >> i & 1) && strncmp(step->method->table.rows[i].name, "act_", 4) == 0)
            return qnti_fail(recipe->ctx, QNT_INVALID,
                             "%s of method %s is given, but format %s %s quantized activations; native does",
                             step->method->table.rows[i].name, step->method->name, layout->name,
                             layout->inputs ? "holds no other than its own" : "holds no");
    recipe->provider[QNTI_STAGE_ACTIVATIONS] = -1;
    return QNT_OK;
}

/* What a step may leave beside the grid; a weights stage whose grid nobody knows before has one of its own. */
static unsigned leaves_of(const qnt_recipe *recipe, size_t s)
{
    const struct qnti_recipe_step *step = &recipe->steps[s];
    const struct qnti_method *m = step->method;
    bool weights = recipe->provider[QNTI_STAGE_WEIGHTS] == (int)s;
    unsigned leaves = m->leaves && (weights || qnti_recipe_corrects(step)) ? m->leaves(step->params) : 0;
    return leaves | (weights && !m->grid ? QNTI_BESIDE_GRID : 0u);
}

unsigned qnti_recipe_leaves(const qnt_recipe *recipe)
{
    unsigned leaves = 0;
    for (size_t s = 0; s < recipe->count; s++)
        leaves |= leaves_of(recipe, s);
    return leaves;
}

/* What a method that fills no weights puts beside them. */
static qnt_status add_bits(struct qnti_job *job, const struct qnti_recipe_step *step, size_t out, size_t in,
                           double *bits)
{
    double more = 0;
    if (!qnti_method_offers(step->method, QNTI_STAGE_WEIGHTS) && step->method->bits && qnti_recipe_corrects(step))
        QNT_TRY(step->method->bits(job, step->params, out, in, &more));
    *bits += more;
    return QNT_OK;
}

qnt_status qnti_recipe_bits(const qnt_recipe *recipe, const struct qnti_layout *layout, size_t out, size_t in,
                            double *bits)
{
    const struct qnti_recipe_step *step = qnti_recipe_weights(recipe);
    struct qnti_job job = {.ctx = recipe->ctx, .kernels = qnti_context_kernels(recipe->ctx), .layout = layout};
    struct qnti_grid grid;
    *bits = 16 * (double)out * (double)in;
    if (!step)
        return QNT_OK;
    if (step->method->bits) {
        QNT_TRY(step->method->bits(&job, step->params, out, in, bits));
    } else {
        QNT_TRY(step->method->grid(&job, step->params, &grid));
        *bits = qnti_grid_bits(&grid, out, in);
    }
    for (size_t s = 0; s < recipe->count; s++)
        QNT_TRY(add_bits(&job, &recipe->steps[s], out, in, bits));
    return QNT_OK;
}

static qnt_status check_beside(const qnt_recipe *recipe, const struct qnti_layout *layout)
{
    for (size_t s = 0; layout && s < recipe->count; s++)
        QNT_TRY(qnti_layout_takes(recipe->ctx, layout, recipe->steps[s].method->name, leaves_of(recipe, s)));
    return QNT_OK;
}

/* A method whose grids the layout does not list. */
static qnt_status check_listed(qnt_context *ctx, const struct qnti_layout *layout, const struct qnti_method *method)
{
    struct qnti_buffer list = {0};
    if (!layout->methods || qnti_layout_lists(layout, method->name))
        return QNT_OK;
    for (const char *const *name = layout->methods; *name; name++)
        if (qnti_buffer_print(ctx, &list, "%s%s", list.bytes ? ", " : "", *name) != QNT_OK) {
            qnti_buffer_free(ctx, &list);
            return QNT_NO_MEMORY;
        }
    qnti_fail(ctx, QNT_UNSUPPORTED, "format %s holds the grids of %s, not that of method %s; native can hold any",
              layout->name, list.data, method->name);
    qnti_buffer_free(ctx, &list);
    return QNT_UNSUPPORTED;
}

/* "key=value,key=value": results of a method with these cannot be held. */
static qnt_status check_refused(qnt_context *ctx, const struct qnti_layout *layout,
                                const struct qnti_recipe_step *step)
{
    const char *settings = layout->refused;
    while (settings && *settings) {
        char key[32], value[32], is[32];
        const struct qnti_param *row;
        int used = 0;
        if (sscanf(settings, "%31[^=]=%31[^,]%n", key, value, &used) != 2)
            return qnti_fail(ctx, QNT_INVALID, "\"%s\" is not key=value", settings);
        settings += used + (settings[used] == ',');
        row = qnti_param_find(&step->method->table, key);
        if (!row)
            continue;
        qnti_param_print(row, step->params, is, sizeof is);
        if (strcmp(is, value) == 0)
            return qnti_fail(ctx, QNT_INVALID, "format %s cannot hold what method %s makes with %s=%s; native can",
                             layout->name, step->method->name, key, value);
    }
    return QNT_OK;
}

qnt_status qnti_recipe_adapt(const qnt_recipe *recipe, const struct qnti_layout *layout, bool pairs,
                             qnt_recipe **adapted)
{
    static const char *const prescribed[] = {"bits", "group_size", "sym",     "sym_grid",
                                             "per_tensor", "include_zero", "mse"};
    const struct qnti_recipe_step *weights = qnti_recipe_weights(recipe);
    qnt_status status;
    *adapted = NULL;
    if (layout)
        QNT_TRY(check_listed(recipe->ctx, layout, weights->method));
    QNT_TRY(check_beside(recipe, layout));
    for (size_t i = 0; qnti_layout_prescribes(layout) && i < sizeof prescribed / sizeof *prescribed; i++)
        if (qnti_recipe_given(weights, prescribed[i]))
            return qnti_fail(recipe->ctx, QNT_INVALID,
                             "%s of method %s is given, but format %s prescribes its grid; native can hold any",
                             prescribed[i], weights->method->name, layout->name);
    QNT_TRY(qnt_recipe_copy(recipe, adapted));
    status = layout ? prefer(*adapted, layout->preferred, pairs) : QNT_OK;
    if (status == QNT_OK)
        status = check_beside(*adapted, layout);
    weights = qnti_recipe_weights(*adapted);
    for (size_t i = 0; status == QNT_OK && layout && i < sizeof prescribed / sizeof *prescribed; i++)
        if (!qnti_layout_prescribes(layout) && qnti_param_find(&weights->method->table, prescribed[i]))
            status = qnti_layout_accepts(recipe->ctx, layout, weights->method->name, prescribed[i],
                                         qnti_recipe_number(weights, prescribed[i], 0));
    if (status == QNT_OK && layout)
        status = check_refused(recipe->ctx, layout, weights);
    if (status == QNT_OK)
        status = leave_out_activations(*adapted, layout);
    if (status == QNT_OK && layout && (layout->fixed_inputs || layout->global_inputs))
        (*adapted)->layout_needs = QNTI_NEED_MOMENTS;
    if (status != QNT_OK) {
        qnt_recipe_destroy(*adapted);
        *adapted = NULL;
    }
    return status;
}
