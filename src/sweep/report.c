/*
 * report.c - everything about a plan and its run as JSON.
 */
#include "sweep/sweep.h"

#include <dlfcn.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* JSON has no NaN: null where a figure is not known. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *tensor_object(const struct qnt_plan *plan, size_t index)
{
    json_t *object, *outcome;
    qnt_plan_line line;
    qnt_plan_get_line(plan, index, &line);
    object = json_pack("{s:s, s:s, s:I, s:I, s:I}", "tensor", line.tensor, "type", line.type, "rows",
                       (json_int_t)line.rows, "cols", (json_int_t)line.cols, "bytes", (json_int_t)line.bytes);
    if (line.recipe[0])
        json_object_set_new(object, "recipe", json_string(line.recipe));
    if (line.note[0])
        json_object_set_new(object, "note", json_string(line.note));
    if (plan->scales && plan->scales[index].input != 0)
        json_object_set_new(object, "input_scale", json_string("given"));
    if (plan->scales && plan->scales[index].count)
        json_object_set_new(object, "weight_scale", json_string("given"));
    if (!plan->outcomes[index].done)
        return object;
    outcome = qnti_outcome_json(&plan->outcomes[index]);
    json_object_update(object, outcome);
    json_decref(outcome);
    return object;
}

static void add_warnings(const struct qnt_plan *plan, json_t *root)
{
    json_t *warnings = json_array();
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->outcomes[t].warnings && plan->outcomes[t].warnings[0])
            json_array_append_new(warnings, json_sprintf("%s: %s", plan->job.targets[t].source->name,
                                                         plan->outcomes[t].warnings));
    json_object_set_new(root, "warnings", warnings);
}

/* null where there is none, or where a name of a file is no UTF-8. */
static json_t *text(const char *string)
{
    json_t *value = string ? json_string(string) : NULL;
    return value ? value : json_null();
}

static json_t *count(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *list(const char *const *strings, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, text(strings[i]));
    return array;
}

struct member {
    const char *key;
    json_t *value;
};

static json_t *object_of(const struct member *members, size_t n)
{
    json_t *object = json_object();
    for (size_t i = 0; i < n; i++)
        json_object_set_new(object, members[i].key, members[i].value);
    return object;
}

/* As they were given. */
static json_t *options_object(const qnt_quantize_options *o)
{
    const struct member members[] = {
        {"method", text(o->method)},
        {"settings", list(o->settings, o->setting_count)},
        {"format", text(o->format)},
        {"calibration", text(o->calibration)},
        {"importance", text(o->importance)},
        {"scales", text(o->scales)},
        {"recalibrate", json_boolean(o->recalibrate)},
        {"samples", o->all_samples ? json_string("all") : count(o->samples)},
        {"seqlen", count(o->seqlen)},
        {"seed", o->random_windows ? count(o->seed) : json_null()},
        {"output_type", text(o->output_type)},
        {"embedding_type", text(o->embedding_type)},
        {"include", list(o->include, o->include_count)},
        {"exclude", list(o->exclude, o->exclude_count)},
        {"layers", list(o->layers, o->layer_count)},
        {"kv", text(o->kv)},
        {"work", text(o->work)},
        {"strict", json_boolean(o->strict)},
        {"requantize", json_boolean(o->requantize)},
        {"force", json_boolean(o->force)},
        {"no_verify", json_boolean(o->no_verify)},
        {"max_ram", count(o->max_ram)},
        {"shard_bytes", count(o->shard_bytes)},
        {"kernels", text(getenv("QUANT_KERNELS"))},
    };
    return object_of(members, sizeof members / sizeof *members);
}

/* OpenBLAS is asked by name, so that any other CBLAS does as well. */
static const char *blas_version(void)
{
    const char *(*get)(void);
    void *symbol = dlsym(RTLD_DEFAULT, "openblas_get_config");
    memcpy(&get, &symbol, sizeof get);
    return get ? get() : NULL;
}

/* What the machine and the library were: results are the same bytes where these are the same. */
static json_t *versions_object(const struct qnt_plan *plan)
{
    return json_pack("{s:s, s:s, s:o, s:i}", "quant", qnt_version(), "kernels", qnt_context_kernels(plan->ctx), "blas",
                     text(blas_version()), "threads", qnt_context_threads(plan->ctx));
}

static json_t *totals_object(const struct qnt_plan *plan)
{
    const qnt_plan_totals *t = &plan->totals;
    const struct member members[] = {
        {"version", json_string(qnt_version())},
        {"kernels", json_string(qnt_context_kernels(plan->ctx))},
        {"versions", versions_object(plan)},
        {"source", text(plan->model->checkpoint->path)},
        {"output", text(plan->options.output)},
        {"format", json_string(t->format)},
        {"recipe", json_string(t->recipe)},
        {"stages", json_string(t->stages)},
        {"calibration", text(t->calibration)},
        {"windows", count(t->windows)},
        {"seqlen", count(t->seqlen)},
        {"options", options_object(&plan->options)},
        {"bits_per_weight", number(t->bits_per_weight)},
        {"output_bytes", count(t->output_bytes)},
        {"source_bytes", count(t->source_bytes)},
        {"planned_memory_bytes", count(t->memory_bytes)},
        {"least_memory_bytes", count(t->least_memory_bytes)},
        {"planned_disk_bytes", count(t->disk_bytes)},
        {"context", count(t->context)},
        {"kv_bytes", count(t->kv_bytes)},
        {"planned_flops", number(t->flops)},
        {"passes", count((uint64_t)t->passes)},
    };
    return object_of(members, sizeof members / sizeof *members);
}

static json_t *verification(const qnt_eval_result *v)
{
    return json_pack("{s:I, s:o, s:o, s:o, s:o}", "windows", (json_int_t)v->windows, "source_perplexity",
                     number(v->against_perplexity), "perplexity", number(v->perplexity), "mean_kl", number(v->mean_kl),
                     "top1", number(v->top1));
}

/* Most memory that the context held, and that the process had resident, mapped pages of files included. */
static void add_memory(const struct qnt_plan *plan, json_t *root)
{
    struct rusage usage;
    size_t peak;
    qnt_context_bytes(plan->ctx, &peak);
    json_object_set_new(root, "peak_bytes", count(peak));
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        json_object_set_new(root, "peak_resident_bytes", count(1024 * (uint64_t)usage.ru_maxrss));
    json_object_set_new(root, "activations_in_files", json_boolean(plan->spills));
}

static void add_run(const struct qnt_plan *plan, json_t *root)
{
    if (plan->seconds <= 0)
        return;
    json_object_set_new(root, "seconds", number(plan->seconds));
    json_object_set_new(root, "already_there", json_boolean(plan->already));
    json_object_set_new(root, "blocks", count(plan->model->checkpoint->config.blocks));
    json_object_set_new(root, "resumed_blocks", count(plan->work.resumed));
    add_memory(plan, root);
    if (plan->identity) {
        json_object_set_new(root, "plan", json_string(plan->hash));
        json_object_set(root, "identity", plan->identity);
    }
    if (plan->verified.windows)
        json_object_set_new(root, "verify", verification(&plan->verified));
}

qnt_status qnt_plan_report(qnt_plan *plan, const char **json)
{
    json_t *root = totals_object(plan), *tensors = json_array();
    char *printed;
    qnt_status status = QNT_OK;
    add_run(plan, root);
    add_warnings(plan, root);
    for (size_t t = 0; t < plan->job.count; t++)
        json_array_append_new(tensors, tensor_object(plan, t));
    json_object_set_new(root, "tensors", tensors);
    printed = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!printed)
        return qnti_fail(plan->ctx, QNT_NO_MEMORY, "out of memory for the report");
    qnti_free(plan->ctx, plan->report);
    plan->report = NULL;
    status = qnti_copy_string(plan->ctx, printed, &plan->report);
    free(printed);
    *json = plan->report;
    return status;
}
