/*
 * scales.c - scales that were learned elsewhere: from a file, or beside the source's weights (qat_toolkit.md).
 *
 * LINEAR.input_scale and .input_zero_point, or .amax, the input's largest
 * magnitude; LINEAR.weight_scale, one or one a row. A file's go before the
 * source's, both before what the recipe would choose. Linears that share an
 * input get the largest scale of theirs, for it is quantized once.
 */
#include "sweep/sweep.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "file/safetensors.h"
#include "method/recipe.h"

enum { USUAL_BITS = 8 };
static const float MOST_APART = 1.01f;   /* scales of one input that differ by more are worth a warning */

/* Where a linear's tensors are looked for. */
struct place {
    struct qnt_plan *plan;
    const struct qnti_safetensors *file;     /* NULL: the source */
    size_t found;
};

/* `suffix` of the target's linear; false: there is none. */
static bool find(struct place *p, const struct qnti_target *t, const char *suffix, struct qnti_tensor *tensor)
{
    char layer[QNTI_LAYER_NAME_BYTES], name[QNTI_LAYER_NAME_BYTES + 32];
    const struct qnti_tensor *found;
    qnti_layer_name(t, layer);
    snprintf(name, sizeof name, "%s%s", layer, suffix);
    if (!p->file)
        return qnti_checkpoint_beside(p->plan->model->checkpoint, name, tensor);
    found = qnti_safetensors_find(p->file, name);
    if (!found)
        return false;
    *tensor = *found;
    p->found++;
    return true;
}

static qnt_status read_numbers(struct place *p, const struct qnti_tensor *t, float *x)
{
    qnt_dtype dtype;
    qnt_matrix m;
    if (qnti_tensor_dtype(t, &dtype) && (dtype == QNT_F32 || dtype == QNT_F16 || dtype == QNT_BF16)) {
        m = (qnt_matrix){.data = t->data, .dtype = dtype, .rows = 1, .cols = t->elements, .stride = t->elements};
        return qnti_matrix_rows(p->plan->ctx, m, 0, 1, x);
    }
    return qnti_fail(p->plan->ctx, QNT_BAD_DATA, "%s is of type %s, expected F32, F16 or BF16", t->name, t->dtype);
}

static qnt_status read_one(struct place *p, const struct qnti_tensor *t, float *x)
{
    if (t->elements != 1)
        return qnti_fail(p->plan->ctx, QNT_UNSUPPORTED,
                         "%s has %zu numbers: inputs are quantized with one scale for the tensor", t->name,
                         t->elements);
    return read_numbers(p, t, x);
}

/* Signed, as an integer of 8 bits or a number: unsigned ones count from 128. */
static qnt_status read_zero(struct place *p, const struct qnti_tensor *t, float *zero)
{
    const void *at = t->data;
    if (t->elements != 1)
        return read_one(p, t, zero);
    if (strcmp(t->dtype, "I8") == 0)
        *zero = (float)*(const int8_t *)at;
    else if (strcmp(t->dtype, "U8") == 0)
        *zero = (float)*(const uint8_t *)at - 128;
    else if (strcmp(t->dtype, "I32") == 0) {
        int32_t n;
        memcpy(&n, at, sizeof n);
        *zero = (float)n;
    } else {
        return read_one(p, t, zero);
    }
    return QNT_OK;
}

static float top_of(const struct qnt_plan *plan, size_t target)
{
    int s = plan->recipes[target]->provider[QNTI_STAGE_ACTIVATIONS];
    double bits = s < 0 ? USUAL_BITS
                        : qnti_recipe_number(&plan->recipes[target]->steps[s], "act_bits", USUAL_BITS);
    return (float)((1u << ((bits > 1 && bits < 16 ? (unsigned)bits : USUAL_BITS) - 1)) - 1);
}

static qnt_status read_input(struct place *p, size_t target, struct qnti_scales *s)
{
    const struct qnti_target *t = &p->plan->job.targets[target];
    struct qnti_tensor tensor;
    if (find(p, t, ".amax", &tensor)) {
        QNT_TRY(read_one(p, &tensor, &s->input));
        s->input = s->input > 0 ? s->input / top_of(p->plan, target) : 1;
        s->zero = 0;
    }
    if (!find(p, t, ".input_scale", &tensor))
        return QNT_OK;
    QNT_TRY(read_one(p, &tensor, &s->input));
    s->zero = 0;
    return find(p, t, ".input_zero_point", &tensor) ? read_zero(p, &tensor, &s->zero) : QNT_OK;
}

static qnt_status read_weight(struct place *p, size_t target, struct qnti_scales *s)
{
    const struct qnti_target *t = &p->plan->job.targets[target];
    struct qnti_tensor tensor;
    if (!find(p, t, ".weight_scale", &tensor))
        return QNT_OK;
    if (tensor.elements != 1 && tensor.elements != t->source->rows)
        return qnti_fail(p->plan->ctx, QNT_UNSUPPORTED, "%s has %zu numbers, expected 1 or %zu, one a row", tensor.name,
                         tensor.elements, t->source->rows);
    qnti_free(p->plan->ctx, s->weight);
    s->count = tensor.elements;
    QNT_TRY(QNTI_NEW_RAW(p->plan->ctx, s->count, &s->weight));
    return read_numbers(p, &tensor, s->weight);
}

static qnt_status read_place(struct place *p)
{
    const struct qnti_export *job = &p->plan->job;
    for (size_t t = 0; t < job->count; t++) {
        if (!job->targets[t].quantized || !p->plan->recipes[t])
            continue;
        QNT_TRY(read_input(p, t, &p->plan->scales[t]));
        QNT_TRY(read_weight(p, t, &p->plan->scales[t]));
    }
    return QNT_OK;
}

/* One scale for the linears of a site: the largest, with its zero. Linears without one get it too. */
static void unite_site(struct qnt_plan *plan, size_t block, enum qnti_site site)
{
    const enum qnti_role *roles = qnti_site_roles(&plan->job.source->config, site);
    const struct qnti_scales *most = NULL;
    float least = INFINITY;
    for (size_t i = 0; roles[i] != QNTI_ROLES; i++) {
        size_t t = qnti_target_of(plan, block, roles[i]);
        if (t == SIZE_MAX || plan->scales[t].input == 0)
            continue;
        least = fminf(least, plan->scales[t].input);
        most = !most || plan->scales[t].input > most->input ? &plan->scales[t] : most;
    }
    if (!most)
        return;
    if (most->input > least * MOST_APART)
        qnti_log(plan->ctx, QNT_LOG_WARNING,
                 "block %zu: given scales of one input differ, %g to %g; the largest counts", block, (double)least,
                 (double)most->input);
    for (size_t i = 0; roles[i] != QNTI_ROLES; i++) {
        size_t t = qnti_target_of(plan, block, roles[i]);
        if (t == SIZE_MAX || !plan->job.targets[t].quantized)
            continue;
        plan->scales[t].zero = most->zero;
        plan->scales[t].input = most->input;
    }
}

/* Inputs that the format has no place for stay as they are, which the plan says. */
static void leave_out_inputs(struct qnt_plan *plan)
{
    for (size_t t = 0; t < plan->job.count; t++) {
        struct qnti_target *target = &plan->job.targets[t];
        const struct qnti_layout *layout = qnti_layout_find(plan->ctx, target->layout);
        if (plan->scales[t].input == 0 || !layout || qnti_layout_at_run_time(layout) || layout->holds_inputs)
            continue;
        plan->scales[t].input = 0;
        target->note = "the given scale of its inputs is left out: the format holds no activations";
    }
}

/* What nobody has asked for: names of linears that the model does not have, or does not quantize. */
static qnt_status check_used(const struct place *p)
{
    if (p->found == p->file->count)
        return QNT_OK;
    if (p->found == 0)
        return qnti_fail(p->plan->ctx, QNT_INVALID,
                         "%s has scales for none of the model's quantized linears: its first tensor is %s",
                         p->file->path, p->file->count ? p->file->tensors[0].name : "not there");
    qnti_log(p->plan->ctx, QNT_LOG_WARNING, "%s: %zu of %zu tensors belong to no quantized linear, ignored",
             p->file->path, p->file->count - p->found, p->file->count);
    return QNT_OK;
}

static qnt_status read_file(struct qnt_plan *plan)
{
    struct qnti_safetensors *file;
    struct place place = {.plan = plan};
    qnt_status status;
    QNT_TRY(qnti_safetensors_open(plan->ctx, plan->options.scales, &file));
    place.file = file;
    status = read_place(&place);
    if (status == QNT_OK)
        status = check_used(&place);
    qnti_safetensors_close(file);
    return status;
}

qnt_status qnti_scales_open(struct qnt_plan *plan)
{
    struct place source = {.plan = plan};
    if (!plan->recipe || plan->options.recalibrate)
        return QNT_OK;
    QNT_TRY(QNTI_NEW(plan->ctx, plan->job.count, &plan->scales));
    QNT_TRY(read_place(&source));
    if (plan->options.scales)
        QNT_TRY(read_file(plan));
    for (size_t b = 0; b < plan->job.source->config.blocks; b++)
        for (enum qnti_site site = 0; site < QNTI_SITES; site++)
            unite_site(plan, b, site);
    leave_out_inputs(plan);
    return QNT_OK;
}

uint64_t qnti_scales_hash(const struct qnt_plan *plan)
{
    uint64_t hash = 0;
    for (size_t t = 0; plan->scales && t < plan->job.count; t++) {
        const struct qnti_scales *s = &plan->scales[t];
        const float input[2] = {s->input, s->zero};
        if (s->input != 0)
            hash = XXH3_64bits_withSeed(input, sizeof input, hash + t + 1);
        if (s->count)
            hash = XXH3_64bits_withSeed(s->weight, s->count * sizeof *s->weight, hash + t + 1);
    }
    return hash;
}

void qnti_scales_close(struct qnt_plan *plan)
{
    for (size_t t = 0; plan->scales && t < plan->job.count; t++)
        qnti_free(plan->ctx, plan->scales[t].weight);
    qnti_free(plan->ctx, plan->scales);
    plan->scales = NULL;
}
