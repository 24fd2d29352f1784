/*
 * registry.c - all methods. A new one: a file in methods/, a line here.
 */
#include "method/method.h"

#include <string.h>

#define METHODS(X) \
    X(rtn)         \
    X(gptq)        \
    X(awq)         \
    X(smoothquant) \
    X(outlier_suppression) \
    X(os_plus) \
    X(fptq) \
    X(llm_int8)    \
    X(rotation)    \
    X(atom)        \
    X(rptq)        \
    X(spqr)        \
    X(owq)         \
    X(squeezellm)  \
    X(easyquant)   \
    X(hqq)         \
    X(bnb4)        \
    X(olive)       \
    X(kv_cache)    \
    X(zeroquant)   \
    X(refine)      \
    X(lorc)

#define DECLARE(name) extern const struct qnti_method qnti_method_##name;
METHODS(DECLARE)
#undef DECLARE

const struct qnti_method *const qnti_methods[] = {
#define LIST(name) &qnti_method_##name,
    METHODS(LIST)
#undef LIST
    NULL};

const struct qnti_method *qnti_method_named(const char *name)
{
    for (size_t i = 0; qnti_methods[i]; i++)
        if (strcmp(qnti_methods[i]->name, name) == 0)
            return qnti_methods[i];
    return NULL;
}

bool qnti_method_offers(const struct qnti_method *m, enum qnti_stage stage)
{
    const struct qnti_stage_functions *f = &m->stages[stage];
    return f->layer || f->unit || f->transform;
}

static const char *const scopes[] = {"layer", "site", "block", "model"};

bool qnt_method_get(size_t index, qnt_method_info *info)
{
    const struct qnti_method *m;
    for (size_t i = 0; i <= index; i++)
        if (!qnti_methods[i])
            return false;
    m = qnti_methods[index];
    *info = (qnt_method_info){.name = m->name,
                              .title = m->title,
                              .reference = m->reference,
                              .scope = scopes[m->scope],
                              .transform = qnti_method_offers(m, QNTI_STAGE_TRANSFORM),
                              .activations = qnti_method_offers(m, QNTI_STAGE_ACTIVATIONS),
                              .weights = qnti_method_offers(m, QNTI_STAGE_WEIGHTS),
                              .correct = qnti_method_offers(m, QNTI_STAGE_CORRECT),
                              .parameter_count = m->table.count};
    info->needs_calibration = m->needs != 0;
    if (m->needs_by && m->table.bytes <= 512) {
        union {
            double align;
            char bytes[512];
        } params;
        qnti_param_defaults(&m->table, &params);
        info->needs_calibration |= m->needs_by(&params) != 0;
    }
    return true;
}

bool qnt_method_parameter(size_t method, size_t index, qnt_parameter_info *info)
{
    qnt_method_info m;
    if (!qnt_method_get(method, &m) || index >= m.parameter_count)
        return false;
    qnti_param_describe(&qnti_methods[method]->table.rows[index], info);
    return true;
}
