/*
 * recipe.c - "awq,gptq:bits=4" to methods, parameters and stages.
 */
#include "method/recipe.h"

#include <stdio.h>
#include <string.h>
#include <quant/calib.h>

static qnt_status resolve(qnt_recipe *recipe);

static qnt_status unknown_method(qnt_context *ctx, const char *name)
{
    const struct qnti_method *nearest = qnti_methods[0];
    for (size_t i = 1; qnti_methods[i]; i++)
        if (qnti_edit_distance(name, qnti_methods[i]->name) < qnti_edit_distance(name, nearest->name))
            nearest = qnti_methods[i];
    return qnti_fail(ctx, QNT_NOT_FOUND, "unknown method \"%s\"; did you mean \"%s\"? (quant methods lists them)", name,
                     nearest->name);
}

static qnt_status add_step(qnt_recipe *recipe, const char *name)
{
    struct qnti_recipe_step *step = &recipe->steps[recipe->count];
    if (recipe->count == QNTI_MOST_METHODS)
        return qnti_fail(recipe->ctx, QNT_INVALID, "a recipe of more than %d methods", QNTI_MOST_METHODS);
    step->method = qnti_method_named(name);
    if (!step->method)
        return unknown_method(recipe->ctx, name);
    QNT_TRY(qnti_alloc(recipe->ctx, 1, qnti_max(step->method->table.bytes, 1), &step->params));
    recipe->count++;
    qnti_param_defaults(&step->method->table, step->params);
    return QNT_OK;
}

static qnt_status set_in_step(qnt_recipe *recipe, struct qnti_recipe_step *step, const char *key, const char *value)
{
    const struct qnti_param *row = qnti_param_find(&step->method->table, key);
    QNT_TRY(qnti_param_set(recipe->ctx, step->method->name, row, value, step->params));
    step->given |= UINT64_C(1) << (size_t)(row - step->method->table.rows);
    return QNT_OK;
}

static qnt_status unknown_parameter(qnt_recipe *recipe, const char *key)
{
    const char *nearest = "";
    size_t least = SIZE_MAX;
    for (size_t s = 0; s < recipe->count; s++)
        for (size_t i = 0; i < recipe->steps[s].method->table.count; i++) {
            const char *name = recipe->steps[s].method->table.rows[i].name;
            size_t distance = qnti_edit_distance(key, name);
            if (distance < least) {
                least = distance;
                nearest = name;
            }
        }
    return qnti_fail(recipe->ctx, QNT_INVALID,
                     "no method of the recipe \"%s\" has a parameter \"%s\"; did you mean \"%s\"?", recipe->text.data,
                     key, nearest);
}

/* "method.key" or "key"; steps from `first` on. */
static qnt_status set_key(qnt_recipe *recipe, size_t first, const char *key, const char *value)
{
    const char *dot = strchr(key, '.');
    bool found = false;
    for (size_t s = first; s < recipe->count; s++) {
        const char *name = recipe->steps[s].method->name;
        const char *own = key;
        if (dot && strlen(name) == (size_t)(dot - key) && strncmp(name, key, (size_t)(dot - key)) == 0)
            own = dot + 1;
        else if (dot)
            continue;
        if (!qnti_param_find(&recipe->steps[s].method->table, own))
            continue;
        QNT_TRY(set_in_step(recipe, &recipe->steps[s], own, value));
        found = true;
    }
    return found ? QNT_OK : unknown_parameter(recipe, key);
}

/* One "key=value" of a method written with parameters. */
static qnt_status set_written(qnt_recipe *recipe, char *setting)
{
    char *equals = strchr(setting, '=');
    if (!equals)
        return qnti_fail(recipe->ctx, QNT_INVALID, "\"%s\" is neither a method nor key=value", setting);
    *equals = 0;
    return set_key(recipe, recipe->count - 1, setting, equals + 1);
}

/* Commas part methods and, behind a colon, settings: a part with '=' before any ':' is a setting. */
static qnt_status parse_parts(qnt_recipe *recipe, char *text)
{
    for (char *part = text, *next; part; part = next) {
        char *comma = strchr(part, ','), *colon, *equals;
        next = comma ? comma + 1 : NULL;
        if (comma)
            *comma = 0;
        colon = strchr(part, ':');
        equals = strchr(part, '=');
        if (equals && (!colon || equals < colon)) {
            if (recipe->count == 0)
                return qnti_fail(recipe->ctx, QNT_INVALID, "recipe begins with \"%s\", not with a method", part);
            QNT_TRY(set_written(recipe, part));
            continue;
        }
        if (colon)
            *colon = 0;
        QNT_TRY(add_step(recipe, part));
        if (colon && colon[1])
            QNT_TRY(set_written(recipe, colon + 1));
    }
    return QNT_OK;
}

/* The text again, with what was set. */
static qnt_status write_text(qnt_recipe *recipe)
{
    qnti_buffer_free(recipe->ctx, &recipe->text);
    for (size_t s = 0; s < recipe->count; s++) {
        const struct qnti_recipe_step *step = &recipe->steps[s];
        char separator = ':';
        QNT_TRY(qnti_buffer_print(recipe->ctx, &recipe->text, "%s%s", s ? "," : "", step->method->name));
        for (size_t i = 0; i < step->method->table.count; i++) {
            qnt_parameter_info info;
            if (!(step->given >> i & 1))
                continue;
            qnti_param_print(&step->method->table.rows[i], step->params, info.default_value,
                             sizeof info.default_value);
            QNT_TRY(qnti_buffer_print(recipe->ctx, &recipe->text, "%c%s=%s", separator,
                                      step->method->table.rows[i].name, info.default_value));
            separator = ',';
        }
    }
    return QNT_OK;
}

qnt_status qnt_recipe_parse(qnt_context *ctx, const char *text, qnt_recipe **recipe)
{
    qnt_recipe *r;
    char *copy = NULL;
    qnt_status status;
    *recipe = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &r));
    r->ctx = ctx;
    QNT_CHECK(qnti_copy_string(ctx, text, &copy));
    QNT_CHECK(qnti_buffer_print(ctx, &r->text, "%s", text));
    QNT_CHECK(parse_parts(r, copy));
    QNT_CHECK(resolve(r));
    *recipe = r;
    r = NULL;
cleanup:
    qnti_free(ctx, copy);
    qnt_recipe_destroy(r);
    return status;
}

qnt_status qnt_recipe_copy(const qnt_recipe *recipe, qnt_recipe **copy)
{
    return qnt_recipe_parse(recipe->ctx, recipe->text.data, copy);
}

void qnt_recipe_destroy(qnt_recipe *recipe)
{
    if (!recipe)
        return;
    for (size_t s = 0; s < recipe->count; s++)
        qnti_free(recipe->ctx, recipe->steps[s].params);
    qnti_buffer_free(recipe->ctx, &recipe->text);
    qnti_free(recipe->ctx, recipe);
}

static bool has_parameter(const qnt_recipe *recipe, const char *key)
{
    for (size_t s = 0; s < recipe->count; s++)
        if (qnti_param_find(&recipe->steps[s].method->table, key))
            return true;
    return false;
}

/* The recipe behind rtn, which quantizes inputs for methods that have nothing to say of them. */
static qnt_status with_inputs(const qnt_recipe *recipe, const char *key, const char *value, qnt_recipe **changed)
{
    struct qnti_buffer text = {0};
    qnt_status status = qnti_buffer_print(recipe->ctx, &text, "rtn:%s=%s,%s", key, value, recipe->text.data);
    if (status == QNT_OK)
        status = qnt_recipe_parse(recipe->ctx, text.data, changed);
    qnti_buffer_free(recipe->ctx, &text);
    return status;
}

/* On a copy, so that a setting that fails leaves the recipe as it was. */
qnt_status qnt_recipe_set(qnt_recipe *recipe, const char *key, const char *value)
{
    qnt_recipe *changed = NULL;
    qnt_status status;
    if ((strcmp(key, "act_bits") == 0 || strcmp(key, "act_format") == 0) && !has_parameter(recipe, key)) {
        QNT_CHECK(with_inputs(recipe, key, value, &changed));
    } else {
        QNT_CHECK(qnt_recipe_copy(recipe, &changed));
        QNT_CHECK(set_key(changed, 0, key, value));
    }
    QNT_CHECK(resolve(changed));
    qnt_recipe before = *recipe;
    *recipe = *changed;
    *changed = before;
cleanup:
    qnt_recipe_destroy(changed);
    return status;
}

/* The last method that offers a stage provides it; a method left with nothing is an error. */
static qnt_status resolve(qnt_recipe *recipe)
{
    QNT_TRY(write_text(recipe));
    for (int stage = 0; stage < QNTI_STAGE_CORRECT; stage++) {
        recipe->provider[stage] = -1;
        for (size_t s = 0; s < recipe->count; s++)
            if (qnti_recipe_offers(&recipe->steps[s], (enum qnti_stage)stage))
                recipe->provider[stage] = (int)s;
    }
    for (size_t s = 0; s < recipe->count; s++) {
        const struct qnti_recipe_step *step = &recipe->steps[s];
        bool used = qnti_recipe_corrects(step);
        for (int stage = 0; stage < QNTI_STAGE_CORRECT; stage++)
            used |= recipe->provider[stage] == (int)s;
        if (!used)
            return qnti_fail(recipe->ctx, QNT_INVALID, "recipe \"%s\": a later method provides all that %s offers",
                             recipe->text.data, step->method->name);
        if (step->method->check)
            QNT_TRY(step->method->check(recipe->ctx, step->params));
    }
    if (qnti_recipe_transforms(recipe) && (qnti_recipe_needs(recipe) & QNTI_NEED_FISHER))
        return qnti_fail(recipe->ctx, QNT_UNSUPPORTED,
                         "recipe \"%s\": Fisher information behind a transform of the inputs is not known; "
                         "weighting=importance takes the transformed inputs'",
                         recipe->text.data);
    if (recipe->provider[QNTI_STAGE_WEIGHTS] < 0)
        return qnti_fail(recipe->ctx, QNT_INVALID, "recipe \"%s\": no method quantizes the weights",
                         recipe->text.data);
    return QNT_OK;
}

bool qnti_recipe_given(const struct qnti_recipe_step *step, const char *name)
{
    const struct qnti_param *row = qnti_param_find(&step->method->table, name);
    return row && (step->given >> (size_t)(row - step->method->table.rows) & 1);
}

/* Takes a preference of the format, unless it excludes what the user set. */
static qnt_status prefer_in_step(qnt_recipe *recipe, struct qnti_recipe_step *step, const char *key, const char *value)
{
    const struct qnti_param *row = qnti_param_find(&step->method->table, key);
    uint64_t given = step->given;
    char before[24];
    if (!row || qnti_recipe_given(step, key))
        return QNT_OK;
    qnti_param_print(row, step->params, before, sizeof before);
    QNT_TRY(set_in_step(recipe, step, key, value));
    if (!step->method->check || step->method->check(recipe->ctx, step->params) == QNT_OK)
        return QNT_OK;
    QNT_TRY(set_in_step(recipe, step, key, before));
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
    return resolve(recipe);
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

const struct qnti_recipe_step *qnti_recipe_weights(const qnt_recipe *recipe)
{
    int s = recipe->provider[QNTI_STAGE_WEIGHTS];
    return s < 0 ? NULL : &recipe->steps[s];
}

double qnti_recipe_number(const struct qnti_recipe_step *step, const char *name, double otherwise)
{
    const struct qnti_param *row = qnti_param_find(&step->method->table, name);
    return row ? qnti_param_number(row, step->params) : otherwise;
}

bool qnti_recipe_offers(const struct qnti_recipe_step *step, enum qnti_stage stage)
{
    const struct qnti_method *m = step->method;
    return qnti_method_offers(m, stage) && (!m->offers || m->offers(step->params, stage));
}

bool qnti_recipe_corrects(const struct qnti_recipe_step *step)
{
    return qnti_recipe_offers(step, QNTI_STAGE_CORRECT);
}

bool qnti_recipe_transforms(const qnt_recipe *recipe)
{
    return recipe->provider[QNTI_STAGE_TRANSFORM] >= 0;
}

qnt_status qnti_recipe_residual(const qnt_recipe *recipe, size_t width, struct qnti_transform *t)
{
    const struct qnti_recipe_step *step = NULL;
    if (qnti_recipe_transforms(recipe))
        step = &recipe->steps[recipe->provider[QNTI_STAGE_TRANSFORM]];
    return step && step->method->residual ? step->method->residual(recipe->ctx, step->params, width, t) : QNT_OK;
}

static unsigned needs_of(const struct qnti_recipe_step *step)
{
    return step->method->needs | (step->method->needs_by ? step->method->needs_by(step->params) : 0);
}

unsigned qnti_recipe_transform_needs(const qnt_recipe *recipe)
{
    const struct qnti_recipe_step *step = NULL;
    if (qnti_recipe_transforms(recipe))
        step = &recipe->steps[recipe->provider[QNTI_STAGE_TRANSFORM]];
    return step ? needs_of(step) & ~step->method->transform_spares : 0;
}

unsigned qnti_recipe_inputs_needs(const qnt_recipe *recipe)
{
    int s = recipe->provider[QNTI_STAGE_ACTIVATIONS];
    return s < 0 ? 0 : needs_of(&recipe->steps[s]);
}

unsigned qnti_recipe_weights_needs(const qnt_recipe *recipe)
{
    unsigned needs = recipe->layout_needs;
    for (size_t s = 0; s < recipe->count; s++)
        if (recipe->provider[QNTI_STAGE_ACTIVATIONS] == (int)s || recipe->provider[QNTI_STAGE_WEIGHTS] == (int)s ||
            qnti_recipe_corrects(&recipe->steps[s]))
            needs |= needs_of(&recipe->steps[s]) & ~recipe->steps[s].method->transform_alone;
    return needs;
}

unsigned qnti_recipe_needs(const qnt_recipe *recipe)
{
    return qnti_recipe_transform_needs(recipe) | qnti_recipe_weights_needs(recipe);
}

bool qnt_recipe_needs_calibration(const qnt_recipe *recipe)
{
    return (qnti_recipe_needs(recipe) & ~(unsigned)QNTI_NEED_FISHER) != 0;
}

bool qnt_recipe_needs_pairs(const qnt_recipe *recipe)
{
    return (qnti_recipe_needs(recipe) & QNTI_NEED_PAIRS) != 0;
}

bool qnt_recipe_needs_fisher(const qnt_recipe *recipe)
{
    return (qnti_recipe_needs(recipe) & QNTI_NEED_FISHER) != 0;
}

const char *qnt_recipe_text(const qnt_recipe *recipe)
{
    return recipe->text.data;
}

qnt_status qnt_calib_create(qnt_context *ctx, const qnt_recipe *recipe, size_t in, qnt_calib **calib)
{
    unsigned all = QNTI_NEED_MOMENTS | QNTI_NEED_HESSIAN;
    return qnti_calib_create(ctx, recipe ? qnti_recipe_needs(recipe) : all, in, calib);
}

qnt_status qnti_recipe_kv(const qnt_recipe *recipe, size_t head_dim, struct qnti_kv *kv)
{
    for (size_t s = 0; s < recipe->count; s++)
        if (recipe->steps[s].method->kv)
            return recipe->steps[s].method->kv(recipe->ctx, recipe->steps[s].params, head_dim, kv);
    return QNT_NOT_FOUND;
}

qnt_status qnti_recipe_kv_text(const qnt_recipe *recipe, struct qnti_buffer *text)
{
    const struct qnti_recipe_step *step = qnti_recipe_weights(recipe);
    return step && step->method->kv_text ? step->method->kv_text(recipe->ctx, step->params, text) : QNT_OK;
}
