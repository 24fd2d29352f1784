/*
 * outcome.c - what a layer left behind for the report, as JSON and back: a block keeps it for a run that goes on.
 */
#include "sweep/sweep.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *key;
    bool integer;
    size_t offset;
} figures[] = {
    {"bits_per_weight", false, offsetof(qnt_layer_report, bits_per_weight)},
    {"weight_error", false, offsetof(qnt_layer_report, weight_error)},
    {"output_error", false, offsetof(qnt_layer_report, output_error)},
    {"damping", false, offsetof(qnt_layer_report, damping)},
    {"tokens", true, offsetof(qnt_layer_report, tokens)},
    {"skipped_tokens", true, offsetof(qnt_layer_report, skipped_tokens)},
    {"dead_columns", true, offsetof(qnt_layer_report, dead_columns)},
    {"seconds", false, offsetof(qnt_layer_report, seconds)},
};

/* JSON has no NaN: null where a figure is not known. */
static json_t *figure(const qnt_layer_report *report, size_t i)
{
    const char *at = (const char *)report + figures[i].offset;
    double x;
    size_t n;
    if (figures[i].integer) {
        memcpy(&n, at, sizeof n);
        return json_integer((json_int_t)n);
    }
    memcpy(&x, at, sizeof x);
    return isfinite(x) ? json_real(x) : json_null();
}

static bool read_figure(const json_t *value, size_t i, qnt_layer_report *report)
{
    char *at = (char *)report + figures[i].offset;
    double x = json_is_null(value) ? NAN : json_number_value(value);
    size_t n = (size_t)json_integer_value(value);
    if (figures[i].integer) {
        memcpy(at, &n, sizeof n);
        return json_is_integer(value) && json_integer_value(value) >= 0;
    }
    memcpy(at, &x, sizeof x);
    return json_is_null(value) || json_is_number(value);
}

static void keep_activations(struct qnti_outcome *o, const char *text)
{
    snprintf(o->activations, sizeof o->activations, "%s", text);
    o->report.activations = o->activations;
}

qnt_status qnti_outcome_take(struct qnt_plan *plan, size_t target, const qnt_qlinear *q)
{
    struct qnti_outcome *o = &plan->outcomes[target];
    qnti_free(plan->ctx, o->warnings);
    *o = (struct qnti_outcome){0};
    QNT_TRY(qnt_report(q, &o->report));
    QNT_TRY(qnti_copy_string(plan->ctx, o->report.warnings ? o->report.warnings : "", &o->warnings));
    o->report.warnings = o->warnings;
    keep_activations(o, o->report.activations);
    o->done = true;
    return QNT_OK;
}

json_t *qnti_outcome_json(const struct qnti_outcome *o)
{
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        json_object_set_new(object, figures[i].key, figure(&o->report, i));
    if (o->warnings && o->warnings[0])
        json_object_set_new(object, "warnings", json_string(o->warnings));
    if (o->activations[0])
        json_object_set_new(object, "activations", json_string(o->activations));
    return object;
}

qnt_status qnti_outcome_read(qnt_context *ctx, const char *where, const json_t *json, struct qnti_outcome *o)
{
    const json_t *warnings = json_object_get(json, "warnings"), *activations = json_object_get(json, "activations");
    qnti_free(ctx, o->warnings);
    *o = (struct qnti_outcome){.report.size = sizeof o->report};
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        if (!read_figure(json_object_get(json, figures[i].key), i, &o->report))
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s is missing or of another type", where, figures[i].key);
    QNT_TRY(qnti_copy_string(ctx, json_is_string(warnings) ? json_string_value(warnings) : "", &o->warnings));
    o->report.warnings = o->warnings;
    keep_activations(o, json_is_string(activations) ? json_string_value(activations) : "");
    o->done = true;
    return QNT_OK;
}
