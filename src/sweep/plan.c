/*
 * plan.c - from options to what every tensor becomes, and doing it.
 */
#include "sweep/sweep.h"

#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "eval/text.h"
#include "file/output.h"
#include "pack/native.h"

/* --- options --- */

static qnt_status keep(struct qnt_plan *plan, const char *text, const char **kept)
{
    char *copy;
    *kept = NULL;
    if (!text)
        return QNT_OK;
    if (plan->string_count == plan->string_capacity) {
        void **strings;
        size_t capacity = plan->string_capacity ? 2 * plan->string_capacity : 32;
        QNT_TRY(QNTI_NEW(plan->ctx, capacity, &strings));
        if (plan->string_count)
            memcpy(strings, plan->strings, plan->string_count * sizeof *strings);
        qnti_free(plan->ctx, plan->strings);
        plan->strings = strings;
        plan->string_capacity = capacity;
    }
    QNT_TRY(qnti_copy_string(plan->ctx, text, &copy));
    plan->strings[plan->string_count++] = copy;
    *kept = copy;
    return QNT_OK;
}

static qnt_status keep_list(struct qnt_plan *plan, const char *const **list, size_t count)
{
    const char **copies;
    if (!count)
        return QNT_OK;
    QNT_TRY(QNTI_NEW(plan->ctx, count, &copies));
    for (size_t i = 0; i < count; i++) {
        qnt_status status = keep(plan, (*list)[i], &copies[i]);
        if (status != QNT_OK) {
            qnti_free(plan->ctx, (void *)copies);
            return status;
        }
    }
    *list = copies;
    return QNT_OK;
}

/* The options' strings belong to the caller: the plan keeps its own. */
static qnt_status keep_options(struct qnt_plan *plan, const qnt_quantize_options *options)
{
    qnt_quantize_options *o = &plan->options;
    const char **texts[] = {&o->method, &o->format, &o->output, &o->calibration, &o->output_type,
                            &o->embedding_type, &o->work};
    struct {
        const char *const **list;
        size_t *count;
    } lists[] = {{&o->settings, &o->setting_count}, {&o->include, &o->include_count},
                 {&o->exclude, &o->exclude_count}, {&o->layers, &o->layer_count}};
    size_t counts[4];
    if (options->size && options->size != sizeof *options)
        return qnti_fail(plan->ctx, QNT_INVALID, "qnt_quantize_options of %zu bytes, this version's has %zu",
                         options->size, sizeof *options);
    *o = *options;
    for (size_t i = 0; i < 4; i++) { /* what is not yet copied must not be freed */
        counts[i] = *lists[i].count;
        *lists[i].count = 0;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        QNT_TRY(keep(plan, *texts[i], texts[i]));
    for (size_t i = 0; i < 4; i++) {
        QNT_TRY(keep_list(plan, lists[i].list, counts[i]));
        *lists[i].count = counts[i];
    }
    return QNT_OK;
}

/* --- recipe and targets --- */

static qnt_status make_recipe(struct qnt_plan *plan)
{
    const qnt_quantize_options *o = &plan->options;
    const char *method = o->method ? o->method : o->calibration ? "gptq" : "rtn";
    if (strcmp(method, "none") == 0) {
        if (o->setting_count)
            return qnti_fail(plan->ctx, QNT_INVALID, "method none has no parameter (%s)", o->settings[0]);
        return QNT_OK;
    }
    QNT_TRY(qnt_recipe_parse(plan->ctx, method, &plan->recipe));
    for (size_t i = 0; i < o->setting_count; i++) {
        const char *equals = strchr(o->settings[i], '=');
        char key[128];
        if (!equals || (size_t)(equals - o->settings[i]) >= sizeof key)
            return qnti_fail(plan->ctx, QNT_INVALID, "\"%s\" is not key=value", o->settings[i]);
        memcpy(key, o->settings[i], (size_t)(equals - o->settings[i]));
        key[equals - o->settings[i]] = 0;
        QNT_TRY(qnt_recipe_set(plan->recipe, key, equals + 1));
    }
    if (qnt_recipe_needs_calibration(plan->recipe) && !o->calibration)
        return qnti_fail(plan->ctx, QNT_INVALID, "method %s needs calibration text: give --calib FILE",
                         qnt_recipe_text(plan->recipe));
    return QNT_OK;
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

static qnt_status check_none(const struct qnt_plan *plan)
{
    for (size_t t = 0; !plan->recipe && t < plan->job.count; t++)
        if (plan->job.targets[t].quantized)
            return qnti_fail(plan->ctx, QNT_INVALID,
                             "method none only converts, but %s would have to be quantized to %s; use rtn or gptq",
                             plan->job.targets[t].source->name, plan->job.targets[t].layout);
    return QNT_OK;
}

/* Rounding what is rounded already adds one loss to another: nobody gets that without asking. */
static qnt_status check_source(const struct qnt_plan *plan)
{
    for (size_t t = 0; t < plan->job.count; t++) {
        const struct qnti_weight *w = plan->job.targets[t].source;
        if (plan->job.targets[t].quantized && (w->qlinear || (w->type && w->type->elements > 1)))
            return qnti_fail(plan->ctx, QNT_UNSUPPORTED,
                             "%s: %s is quantized already (%s); quantize from the unquantized model",
                             plan->model->checkpoint->path, w->name, w->qlinear ? "native" : w->type->name);
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
    struct qnt_plan *plan = user;
    const struct qnti_target *t = &plan->job.targets[target];
    const struct qnti_safetensors *file;
    char name[QNTI_LAYER_NAME_BYTES];
    QNT_TRY(qnti_store_read(plan, t->block, &file));
    qnti_layer_name(t, name);
    return qnti_native_read(plan->ctx, file, name, q);
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

static qnt_status fill_job(struct qnt_plan *plan)
{
    struct qnti_export *job = &plan->job;
    job->ctx = plan->ctx;
    job->source = plan->model->checkpoint;
    job->output_type = plan->options.output_type;
    job->embedding_type = plan->options.embedding_type;
    job->calibrated = plan->options.calibration != NULL;
    job->layer = get_layer;
    job->block = get_block;
    job->progress = write_progress;
    job->user = plan;
    job->recipe = plan->recipe ? qnt_recipe_text(plan->recipe) : "none";
    job->calibration = plan->options.calibration;
    QNT_TRY(check_format(plan));
    job->format = qnti_format_find(plan->ctx, plan->options.format ? plan->options.format : "native");
    if (!job->format)
        return QNT_NOT_FOUND;
    QNT_TRY(qnti_targets_list(job));
    QNT_TRY(job->format->assign(job));
    QNT_TRY(QNTI_NEW(plan->ctx, job->count, &plan->recipes));
    QNT_TRY(QNTI_NEW(plan->ctx, job->count, &plan->outcomes));
    QNT_TRY(qnti_targets_recipes(plan));
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
    plan->work = text.data;
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
    QNT_CHECK(keep_options(plan, options));
    if (plan->options.output && !plan->options.output[0])
        QNT_CHECK(qnti_fail(ctx, QNT_INVALID, "the output has an empty name"));
    QNT_CHECK(check_output(plan));
    QNT_CHECK(make_recipe(plan));
    QNT_CHECK(fill_job(plan));
    QNT_CHECK(describe_stages(plan));
    if (plan->options.calibration && plan->recipe)
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
    qnti_free(ctx, plan->windows.ids);
    for (size_t i = 0; i < plan->string_count; i++)
        qnti_free(ctx, plan->strings[i]);
    qnti_free(ctx, plan->strings);
    if (plan->options.setting_count)
        qnti_free(ctx, (void *)(uintptr_t)plan->options.settings);
    if (plan->options.include_count)
        qnti_free(ctx, (void *)(uintptr_t)plan->options.include);
    if (plan->options.exclude_count)
        qnti_free(ctx, (void *)(uintptr_t)plan->options.exclude);
    if (plan->options.layer_count)
        qnti_free(ctx, (void *)(uintptr_t)plan->options.layers);
    qnti_free(ctx, plan->work);
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
                            .bytes = qnti_target_bytes(plan, t)};
    return true;
}

void qnt_plan_get_totals(const qnt_plan *plan, qnt_plan_totals *totals)
{
    *totals = plan->totals;
}

/* --- running --- */

void qnti_plan_progress(struct qnt_plan *plan, const char *item, double share)
{
    qnt_progress p = {.phase = plan->phase, .item = item};
    if (!plan->options.progress)
        return;
    p.share = plan->phase_begin + share * (plan->phase_end - plan->phase_begin);
    p.seconds = qnti_seconds() - plan->began;
    p.seconds_left = p.share > 0.02 ? p.seconds * (1 - p.share) / p.share : -1;
    plan->options.progress(plan->options.progress_user, &p);
}

static void begin_phase(struct qnt_plan *plan, const char *name, double begin, double end)
{
    plan->phase = name;
    plan->phase_begin = begin;
    plan->phase_end = end;
    qnti_plan_progress(plan, "", 0);
}

static void verify_progress(void *user, const qnt_progress *p)
{
    qnti_plan_progress(user, "", p->share);
}

/* The written file against the source on the tail of the calibration text: is it a model at all? */
static qnt_status verify(struct qnt_plan *plan)
{
    enum { WINDOWS = 4 };
    qnt_model *written = NULL;
    const struct qnti_windows *w = &plan->windows;
    size_t n = qnti_min(WINDOWS, w->count);
    qnt_status status;
    QNT_CHECK(qnt_model_open(plan->ctx, plan->options.output, &written));
    QNT_CHECK(qnti_compare_windows(written, plan->model, w->ids + (w->count - n) * w->tokens, n, w->tokens,
                                   verify_progress, plan, &plan->verified));
    if (!isfinite(plan->verified.perplexity) || !isfinite(plan->verified.mean_kl))
        status = qnti_fail(plan->ctx, QNT_NON_FINITE, "%s: its perplexity on the calibration's tail is not finite",
                           plan->options.output);
cleanup:
    qnt_model_close(written);
    return status;
}

static qnt_status run_phases(struct qnt_plan *plan)
{
    bool sweeps = false;
    for (size_t t = 0; t < plan->job.count; t++)
        sweeps |= plan->recipes[t] != NULL;
    begin_phase(plan, "check", 0, 0.02);
    QNT_TRY(qnti_checkpoint_check_finite(plan->model->checkpoint));
    if (sweeps) {
        begin_phase(plan, "quantize", 0.02, 0.9);
        QNT_TRY(qnti_store_open(plan));
        QNT_TRY(qnti_sweep_run(plan));
    }
    begin_phase(plan, "write", 0.9, 0.97);
    QNT_TRY(plan->job.format->write(&plan->job, plan->options.output));
    qnti_store_close(plan);
    if (plan->windows.count && sweeps && !plan->options.no_verify) {
        begin_phase(plan, "verify", 0.97, 1);
        QNT_TRY(verify(plan));
    }
    qnti_plan_progress(plan, "", 1);
    return QNT_OK;
}

qnt_status qnt_plan_run(qnt_plan *plan)
{
    qnt_status status;
    if (!plan->options.output)
        return qnti_fail(plan->ctx, QNT_INVALID, "the plan has no output");
    if (qnti_path_exists(plan->options.output) && !plan->options.force)
        return qnti_fail(plan->ctx, QNT_EXISTS, "%s is already there; --force replaces it", plan->options.output);
    plan->began = qnti_seconds();
    status = run_phases(plan);
    plan->seconds = qnti_seconds() - plan->began;
    qnti_store_remove(plan);
    return status;
}
