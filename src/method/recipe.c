/*
 * recipe.c - "awq,gptq:bits=4" to methods, parameters and stages.
 */
#include "method/recipe.h"

#include <stdio.h>
#include <string.h>
#include <quant/calib.h>

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

qnt_status qnti_recipe_set_step(qnt_recipe *recipe, struct qnti_recipe_step *step, const char *key,
                                const char *value)
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
        QNT_TRY(qnti_recipe_set_step(recipe, &recipe->steps[s], own, value));
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
    QNT_CHECK(qnti_recipe_resolve(r));
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

/* Not resolved yet. */
static qnt_status set_one(qnt_recipe **recipe, const char *key, const char *value)
{
    bool inputs = strcmp(key, "act_bits") == 0 || strcmp(key, "act_format") == 0;
    qnt_recipe *before = *recipe;
    if (!inputs || has_parameter(before, key))
        return set_key(before, 0, key, value);
    QNT_TRY(write_text(before));
    QNT_TRY(with_inputs(before, key, value, recipe));
    qnt_recipe_destroy(before);
    return QNT_OK;
}

/* "key=value". */
static qnt_status set_text(qnt_recipe **recipe, const char *setting)
{
    qnt_context *ctx = (*recipe)->ctx;
    const char *equals = strchr(setting, '=');
    qnt_status status;
    char *key;
    if (!equals || equals == setting)
        return qnti_fail(ctx, QNT_INVALID, "\"%s\" is not KEY=VALUE", setting);
    QNT_TRY(qnti_copy_bytes(ctx, setting, (size_t)(equals - setting), &key));
    status = set_one(recipe, key, equals + 1);
    qnti_free(ctx, key);
    return status;
}

/* On a copy, so that a setting that fails leaves the recipe as it was. */
qnt_status qnt_recipe_set_all(qnt_recipe *recipe, const char *const *settings, size_t count)
{
    qnt_recipe *changed = NULL;
    qnt_status status;
    QNT_CHECK(qnt_recipe_copy(recipe, &changed));
    for (size_t i = 0; i < count; i++)
        QNT_CHECK(set_text(&changed, settings[i]));
    QNT_CHECK(qnti_recipe_resolve(changed));
    qnt_recipe before = *recipe;
    *recipe = *changed;
    *changed = before;
cleanup:
    qnt_recipe_destroy(changed);
    return status;
}

qnt_status qnt_recipe_set(qnt_recipe *recipe, const char *key, const char *value)
{
    struct qnti_buffer setting = {0};
    qnt_status status = qnti_buffer_print(recipe->ctx, &setting, "%s=%s", key, value);
    if (status == QNT_OK)
        status = qnt_recipe_set_all(recipe, (const char *const *)&setting.data, 1);
    qnti_buffer_free(recipe->ctx, &setting);
    return status;
}

/* The last method that offers a stage provides it; a method left with nothing is an error. */
qnt_status qnti_recipe_resolve(qnt_recipe *recipe)
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
