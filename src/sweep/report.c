/*
 * report.c - everything about a plan and its run as JSON.
 */
#include "sweep/sweep.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* JSON has no NaN: null where a figure is not known. */
static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *layer_object(const struct qnt_plan *plan, size_t index)
{
    const struct qnti_outcome *o = &plan->outcomes[index];
    json_t *object;
    qnt_plan_line line;
    qnt_plan_get_line(plan, index, &line);
    object = json_pack("{s:s, s:s, s:I, s:I, s:I}", "tensor", line.tensor, "type", line.type, "rows",
                       (json_int_t)line.rows, "cols", (json_int_t)line.cols, "bytes", (json_int_t)line.bytes);
    if (line.recipe[0])
        json_object_set_new(object, "recipe", json_string(line.recipe));
    if (line.note[0])
        json_object_set_new(object, "note", json_string(line.note));
    if (!o->done)
        return object;
    json_object_set_new(object, "bits_per_weight", number(o->report.bits_per_weight));
    json_object_set_new(object, "weight_error", number(o->report.weight_error));
    json_object_set_new(object, "output_error", number(o->report.output_error));
    json_object_set_new(object, "damping", number(o->report.damping));
    json_object_set_new(object, "tokens", json_integer((json_int_t)o->report.tokens));
    json_object_set_new(object, "skipped_tokens", json_integer((json_int_t)o->report.skipped_tokens));
    json_object_set_new(object, "dead_columns", json_integer((json_int_t)o->report.dead_columns));
    json_object_set_new(object, "seconds", number(o->report.seconds));
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

static void add_totals(const struct qnt_plan *plan, json_t *root)
{
    const qnt_plan_totals *t = &plan->totals;
    json_object_set_new(root, "version", json_string(qnt_version()));
    json_object_set_new(root, "kernels", json_string(qnt_context_kernels(plan->ctx)));
    json_object_set_new(root, "source", json_string(plan->model->checkpoint->path));
    json_object_set_new(root, "output", plan->options.output ? json_string(plan->options.output) : json_null());
    json_object_set_new(root, "format", json_string(t->format));
    json_object_set_new(root, "recipe", json_string(t->recipe));
    json_object_set_new(root, "stages", json_string(t->stages));
    json_object_set_new(root, "calibration", t->calibration ? json_string(t->calibration) : json_null());
    json_object_set_new(root, "windows", json_integer((json_int_t)t->windows));
    json_object_set_new(root, "seqlen", json_integer((json_int_t)t->seqlen));
    json_object_set_new(root, "bits_per_weight", number(t->bits_per_weight));
    json_object_set_new(root, "output_bytes", json_integer((json_int_t)t->output_bytes));
    json_object_set_new(root, "source_bytes", json_integer((json_int_t)t->source_bytes));
    json_object_set_new(root, "planned_memory_bytes", json_integer((json_int_t)t->memory_bytes));
    json_object_set_new(root, "planned_disk_bytes", json_integer((json_int_t)t->disk_bytes));
    json_object_set_new(root, "planned_flops", number(t->flops));
}

static void add_run(const struct qnt_plan *plan, json_t *root)
{
    size_t peak;
    if (plan->seconds <= 0)
        return;
    qnt_context_bytes(plan->ctx, &peak);
    json_object_set_new(root, "seconds", number(plan->seconds));
    json_object_set_new(root, "peak_bytes", json_integer((json_int_t)peak));
    if (plan->verified.windows)
        json_object_set_new(root, "verify",
                            json_pack("{s:I, s:o, s:o, s:o, s:o}", "windows", (json_int_t)plan->verified.windows,
                                      "source_perplexity", number(plan->verified.against_perplexity), "perplexity",
                                      number(plan->verified.perplexity), "mean_kl", number(plan->verified.mean_kl),
                                      "top1", number(plan->verified.top1)));
}

qnt_status qnt_plan_report(qnt_plan *plan, const char **json)
{
    json_t *root = json_object(), *layers = json_array();
    char *text;
    qnt_status status = QNT_OK;
    add_totals(plan, root);
    add_run(plan, root);
    add_warnings(plan, root);
    for (size_t t = 0; t < plan->job.count; t++)
        json_array_append_new(layers, layer_object(plan, t));
    json_object_set_new(root, "tensors", layers);
    text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!text)
        return qnti_fail(plan->ctx, QNT_NO_MEMORY, "out of memory for the report");
    qnti_free(plan->ctx, plan->report);
    plan->report = NULL;
    status = qnti_copy_string(plan->ctx, text, &plan->report);
    free(text);
    *json = plan->report;
    return status;
}
