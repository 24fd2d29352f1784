/*
 * options.c - the options' strings belong to the caller: the plan keeps its own.
 */
#include "sweep/sweep.h"

#include <string.h>

qnt_status qnti_plan_keep_text(struct qnt_plan *plan, const char *text, const char **kept)
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
        qnt_status status = qnti_plan_keep_text(plan, (*list)[i], &copies[i]);
        if (status != QNT_OK) {
            qnti_free(plan->ctx, (void *)copies);
            return status;
        }
    }
    *list = copies;
    return QNT_OK;
}

qnt_status qnti_plan_keep_options(struct qnt_plan *plan, const qnt_quantize_options *options)
{
    qnt_quantize_options *o = &plan->options;
    const char **texts[] = {&o->method, &o->format, &o->output, &o->calibration, &o->importance,
                            &o->output_type, &o->embedding_type, &o->kv, &o->scales, &o->work};
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
        QNT_TRY(qnti_plan_keep_text(plan, *texts[i], texts[i]));
    for (size_t i = 0; i < 4; i++) {
        QNT_TRY(keep_list(plan, lists[i].list, counts[i]));
        *lists[i].count = counts[i];
    }
    return QNT_OK;
}

void qnti_plan_free_options(struct qnt_plan *plan)
{
    const qnt_quantize_options *o = &plan->options;
    const struct {
        const char *const *list;
        size_t count;
    } lists[] = {{o->settings, o->setting_count}, {o->include, o->include_count}, {o->exclude, o->exclude_count},
                 {o->layers, o->layer_count}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (lists[i].count)
            qnti_free(plan->ctx, (void *)(uintptr_t)lists[i].list);
    for (size_t i = 0; i < plan->string_count; i++)
        qnti_free(plan->ctx, plan->strings[i]);
    qnti_free(plan->ctx, plan->strings);
}
