/*
 * plan.c - from options to what every tensor becomes.
 */
#include "sweep/sweep.h"

#include <jansson.h>
#include <string.h>
#include "file/output.h"

/* --- recipe and targets --- */

/* What the user did not name: the format's own method; rtn without calibration; what its layout is best filled by. */
static qnt_status default_method(const struct qnt_plan *plan, const char **method)
{
    const char *format = plan->options.format ? plan->options.format : "native";
    const struct qnti_layout *layout = qnti_layout_find(plan->ctx, format);
    if (!layout)
        return QNT_NOT_FOUND;
    if (layout->methods)
        *method = layout->methods[0];
    else if (!plan->options.calibration)
        *method = "rtn";
    else /* behind a transform an importance from outside would be that of other inputs */
        *method = layout->recipe && !plan->options.importance ? layout->recipe : "gptq";
    return QNT_OK;
}

/* What a recipe needs of the calibration must be given; `tensor`: the one that it is for, or NULL: all. */
static qnt_status check_calibration(const struct qnt_plan *plan, const qnt_recipe *recipe, const char *tensor)
{
    unsigned needs = qnti_recipe_needs(recipe);
    const char *text = qnt_recipe_text(recipe), *where = tensor ? tensor : "", *colon = tensor ? ": " : "";
    if (plan->options.importance)
        needs &= ~(unsigned)QNTI_NEED_IMPORTANCE;
    if (plan->options.calibration || !needs)
        return QNT_OK;
    if (needs & QNTI_NEED_FISHER)
        return qnti_fail(plan->ctx, QNT_INVALID,
                         "%s%smethod %s needs the Fisher information of a calibration text: give --calib FILE (or "
                         "weighting=importance, for which --imatrix will do)", where, colon, text);
    return qnti_fail(plan->ctx, QNT_INVALID, "%s%smethod %s needs calibration text: give --calib FILE", where, colon,
                     text);
}

/* Parameters of single layers may need more than the recipe does. */
static qnt_status check_calibrations(const struct qnt_plan *plan)
{
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t])
            QNT_TRY(check_calibration(plan, plan->recipes[t], plan->job.targets[t].source->name));
    return QNT_OK;
}

static qnt_status make_recipe(struct qnt_plan *plan)
{
    const qnt_quantize_options *o = &plan->options;
    const char *method = o->method;
    struct qnti_kv kv;
    if (!method)
        QNT_TRY(default_method(plan, &method));
    if (strcmp(method, "none") == 0) {
        if (o->setting_count)
            return qnti_fail(plan->ctx, QNT_INVALID, "method none has no parameter (%s)", o->settings[0]);
        return QNT_OK;
    }
    QNT_TRY(qnt_recipe_parse(plan->ctx, method, &plan->recipe));
    if (qnti_recipe_kv(plan->recipe, plan->model->checkpoint->config.head_dim, &kv) != QNT_NOT_FOUND)
        return qnti_fail(plan->ctx, QNT_INVALID,
                         "method kv_cache is for single layers; a model's keys and values get the option kv");
    QNT_TRY(qnt_recipe_set_all(plan->recipe, o->settings, o->setting_count));
    return check_calibration(plan, plan->recipe, NULL);
}

/* "weights: gptq; correct: gptq", of the first layer that is quantized: its recipe has the format's preferences. */
static qnt_status describe_stages(struct qnt_plan *plan)
{
    static const char *const names[] = {"transform", "activations", "weights"};
    struct qnti_buffer text = {0};
    const qnt_recipe *r = plan->recipe;
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t]) {
            r = plan->recipes[t];
            break;
        }
    QNT_TRY(qnti_buffer_print(plan->ctx, &text, "%s", r ? "" : "none"));
    plan->stages = text.data;
    for (int stage = 0; r && stage < QNTI_STAGE_CORRECT; stage++)
        if (r->provider[stage] >= 0)
            QNT_TRY(qnti_buffer_print(plan->ctx, &text, "%s%s: %s", text.bytes ? "; " : "", names[stage],
                                      r->steps[r->provider[stage]].method->name));
    for (size_t s = 0; r && s < r->count; s++)
        if (qnti_recipe_corrects(&r->steps[s]))
            QNT_TRY(qnti_buffer_print(plan->ctx, &text, "; correct: %s", r->steps[s].method->name));
    plan->stages = text.data;
    return QNT_OK;
}

/* What is quantized already keeps its codes, where the format can hold them. */
static qnt_status check_none(const struct qnt_plan *plan)
{
    for (size_t t = 0; !plan->recipe && t < plan->job.count; t++) {
        const struct qnti_target *target = &plan->job.targets[t];
        const struct qnti_layout *layout;
        if (!target->quantized)
            continue;
        if (!target->source->qlinear)
            return qnti_fail(plan->ctx, QNT_INVALID,
                             "method none only converts, but %s would have to be quantized to %s; use rtn or gptq",
                             target->source->name, target->layout);
        layout = qnti_layout_find(plan->ctx, target->layout);
        QNT_TRY(layout ? qnti_layout_holds(layout, target->source->qlinear) : QNT_NOT_FOUND);
    }
    return QNT_OK;
}

/* Rounding what is rounded already adds one loss to another: nobody gets that without asking. */
static qnt_status check_source(const struct qnt_plan *plan)
{
    for (size_t t = 0; plan->recipe && !plan->options.requantize && t < plan->job.count; t++) {
        const struct qnti_weight *w = plan->job.targets[t].source;
        if (plan->job.targets[t].quantized && (w->qlinear || (w->type && w->type->elements > 1)))
            return qnti_fail(plan->ctx, QNT_UNSUPPORTED,
                             "%s: %s is quantized already (%s); quantize from the unquantized model, or give "
                             "--requantize; method none repacks it where the format can hold it",
                             plan->model->checkpoint->path, w->name,
                             w->qlinear ? plan->model->checkpoint->kind : w->type->name);
    }
    return QNT_OK;
}

static qnt_status check_strict(const struct qnt_plan *plan)
{
    for (size_t t = 0; plan->options.strict && t < plan->job.count; t++)
        if (plan->job.targets[t].note)
            return qnti_fail(plan->ctx, QNT_UNSUPPORTED, "strict: %s would become %s: %s",
                             plan->job.targets[t].source->name, plan->job.targets[t].layout,
                             plan->job.targets[t].note);
    return QNT_OK;
}

/* The output must not be the source, under any name. */
static qnt_status check_output(const struct qnt_plan *plan)
{
    const char *output = plan->options.output, *source = plan->model->checkpoint->path;
    if (!output)
        return QNT_OK;
    return qnti_refuse_same(plan->ctx, source, output);
}

static qnt_status get_layer(void *user, size_t target, qnt_qlinear **q)
{
    return qnti_store_layer(user, target, q);
}

static qnt_status get_weight(void *user, size_t target, struct qnti_weight *weight)
{
    return qnti_store_weight(user, target, weight);
}

static qnt_status get_block(void *user, size_t block, const struct qnti_safetensors **file)
{
    return qnti_store_read(user, block, file);
}

static void write_progress(void *user, size_t done, size_t total)
{
    qnti_plan_progress(user, "", total ? (double)done / (double)total : 1);
}

/* A file's suffix must not promise another container. */
static qnt_status check_format(const struct qnt_plan *plan)
{
    const char *output = plan->options.output;
    size_t n = output ? strlen(output) : 0;
    if (n > 5 && strcmp(output + n - 5, ".gguf") == 0 && !plan->options.format)
        return qnti_fail(plan->ctx, QNT_INVALID, "%s: which type? give --format gguf:TYPE (quant formats lists them)",
                         output);
    return QNT_OK;
}

/* The model as it is, or with its residual stream rotated as the recipe asks for. */
static qnt_status choose_source(struct qnt_plan *plan)
{
    const struct qnti_checkpoint *model = plan->model->checkpoint;
    struct qnti_transform stream = {0};
    qnt_status status = QNT_OK;
    plan->job.source = model;
    if (plan->recipe)
        status = qnti_recipe_residual(plan->recipe, model->config.hidden, &stream);
    if (status == QNT_OK && !qnti_transform_is_identity(&stream))
        status = qnti_checkpoint_rotate(model, &stream, &plan->rotated);
    if (plan->rotated)
        plan->job.source = plan->rotated;
    qnti_transform_free(plan->ctx, &stream);
    return status;
}

/* What the recipe says where nobody else does. */
static qnt_status take_recipes_kv(struct qnt_plan *plan)
{
    struct qnti_buffer text = {0};
    qnt_status status = qnti_recipe_kv_text(plan->recipe, &text);
    if (status == QNT_OK)
        status = qnti_plan_keep_text(plan, text.data, &plan->options.kv);
    qnti_buffer_free(plan->ctx, &text);
    return status;
}

/* Of the user's, or the recipe's, or of a native source that is written again. */
static qnt_status check_kv(struct qnt_plan *plan)
{
    const struct qnti_checkpoint *source = plan->model->checkpoint;
    bool native = strcmp(plan->job.format->layout, "native") == 0;
    struct qnti_kv kv;
    if (!plan->options.kv && !source->kv_text && native && plan->recipe)
        QNT_TRY(take_recipes_kv(plan));
    if (plan->options.kv && !native)
        return qnti_fail(plan->ctx, QNT_UNSUPPORTED,
                         "kv is given, but format %s says nothing of keys and values; native does",
                         plan->job.format->name);
    if (plan->options.kv)
        QNT_TRY(qnti_kv_parse(plan->ctx, plan->options.kv, source->config.head_dim, &kv));
    plan->job.kv = plan->options.kv ? plan->options.kv : native ? source->kv_text : NULL;
    return QNT_OK;
}

static qnt_status fill_job(struct qnt_plan *plan)
{
    struct qnti_export *job = &plan->job;
    job->ctx = plan->ctx;
    QNT_TRY(choose_source(plan));
    job->output_type = plan->options.output_type;
    job->embedding_type = plan->options.embedding_type;
    job->calibrated = plan->options.calibration || plan->options.importance;
    job->layer = get_layer;
    job->block = get_block;
    job->weight = get_weight;
    job->progress = write_progress;
    job->user = plan;
    job->recipe = plan->recipe ? qnt_recipe_text(plan->recipe) : "none";
    job->calibration = plan->options.calibration ? plan->options.calibration : plan->options.importance;
    job->shard_bytes = plan->options.shard_bytes;
    job->plan_hash = plan->hash;
    memset(plan->hash, '0', sizeof plan->hash - 1); /* its length is known, sizes are planned with it */
    QNT_TRY(check_format(plan));
    job->format = qnti_format_find(plan->ctx, plan->options.format ? plan->options.format : "native");
    if (!job->format)
        return QNT_NOT_FOUND;
    QNT_TRY(check_kv(plan));
    QNT_TRY(qnti_targets_list(job));
    QNT_TRY(job->format->assign(job));
    QNT_TRY(QNTI_NEW(plan->ctx, job->count, &plan->recipes));
    QNT_TRY(QNTI_NEW(plan->ctx, job->count, &plan->outcomes));
    QNT_TRY(qnti_targets_recipes(plan));
    QNT_TRY(check_calibrations(plan));
    QNT_TRY(check_source(plan));
    QNT_TRY(check_none(plan));
    return check_strict(plan);
}

static qnt_status name_work_folder(struct qnt_plan *plan)
{
    struct qnti_buffer text = {0};
    const char *output = plan->options.output;
    if (plan->options.work)
        QNT_TRY(qnti_buffer_print(plan->ctx, &text, "%s", plan->options.work));
    else if (output)
        QNT_TRY(qnti_buffer_print(plan->ctx, &text, "%.*s.partial",
                                  (int)(strlen(output) - (output[strlen(output) - 1] == '/')), output));
    plan->work.path = text.data;
    return QNT_OK;
}

static void fill_totals(struct qnt_plan *plan)
{
    plan->totals.recipe = plan->job.recipe;
    plan->totals.stages = plan->stages;
    plan->totals.format = plan->job.format->name;
    plan->totals.calibration = plan->options.calibration;
    plan->totals.windows = plan->windows.count;
    plan->totals.seqlen = plan->windows.tokens;
}

qnt_status qnt_plan_create(qnt_model *model, const qnt_quantize_options *options, qnt_plan **out)
{
    qnt_context *ctx = model->checkpoint->ctx;
    struct qnt_plan *plan;
    qnt_status status;
    *out = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &plan));
    plan->ctx = ctx;
    plan->model = model;
    QNT_CHECK(qnti_plan_keep_options(plan, options));
    if (plan->options.output && !plan->options.output[0])
        QNT_CHECK(qnti_fail(ctx, QNT_INVALID, "the output has an empty name"));
    QNT_CHECK(check_output(plan));
    QNT_CHECK(make_recipe(plan));
    QNT_CHECK(fill_job(plan));
    QNT_CHECK(describe_stages(plan));
    QNT_CHECK(qnti_given_open(plan));
    QNT_CHECK(qnti_scales_open(plan));
    if (plan->options.calibration && plan->recipe && !qnti_is_statistics(plan->options.calibration))
        QNT_CHECK(qnti_windows_create(model, &plan->options, &plan->windows));
    QNT_CHECK(name_work_folder(plan));
    QNT_CHECK(qnti_plan_estimate(plan));
    fill_totals(plan);
    *out = plan;
    return QNT_OK;
cleanup:
    qnt_plan_destroy(plan);
    return status;
}

void qnt_plan_destroy(qnt_plan *plan)
{
    qnt_context *ctx;
    if (!plan)
        return;
    ctx = plan->ctx;
    qnti_store_close(plan);
    qnti_given_close(plan);
    qnti_scales_close(plan);
    for (size_t t = 0; t < plan->job.count; t++) {
        if (plan->recipes)
            qnt_recipe_destroy(plan->recipes[t]);
        if (plan->outcomes)
            qnti_free(ctx, plan->outcomes[t].warnings);
    }
    qnt_recipe_destroy(plan->recipe);
    qnti_free(ctx, plan->recipes);
    qnti_free(ctx, plan->outcomes);
    qnti_free(ctx, plan->job.targets);
    qnti_checkpoint_rotated_free(plan->rotated);
    qnti_free(ctx, plan->windows.ids);
    qnti_plan_free_options(plan);
    qnti_free(ctx, plan->work.path);
    qnti_work_free(plan);
    json_decref(plan->identity);
    qnti_free(ctx, plan->stages);
    qnti_free(ctx, plan->report);
    qnti_free(ctx, plan);
}

bool qnt_plan_get_line(const qnt_plan *plan, size_t index, qnt_plan_line *line)
{
    const struct qnti_target *t = &plan->job.targets[index];
    if (index >= plan->job.count)
        return false;
    *line = (qnt_plan_line){.tensor = t->source->name,
                            .type = t->layout,
                            .recipe = plan->recipes[index] ? qnt_recipe_text(plan->recipes[index]) : "",
                            .note = t->note ? t->note : "",
                            .rows = t->source->rows,
                            .cols = t->source->cols,
                            .bytes = t->bytes};
    return true;
}

void qnt_plan_get_totals(const qnt_plan *plan, qnt_plan_totals *totals)
{
    *totals = plan->totals;
}
