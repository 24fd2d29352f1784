/*
 * inputs.c - how the inputs of a layer are quantized at run time: dynamic by token, group or tensor, or fixed.
 */
#include "method/method.h"

#include <math.h>

void qnti_job_range(const struct qnti_job *job, size_t place, float *least, float *greatest)
{
    const struct qnti_transform *t = job->transform;
    size_t c = t && t->permutation ? t->permutation[place] : place;
    const struct qnti_channel_moments *m = &job->calib->moments[c];
    float z = t && t->shift ? t->shift[c] : 0, s = t && t->scale ? t->scale[c] : 1;
    *least = (m->least - z) / s;
    *greatest = (m->greatest - z) / s;
}

/* Over all channels, too. */
static void range_of_inputs(const struct qnti_job *job, float range[2])
{
    range[0] = INFINITY;
    range[1] = -INFINITY;
    for (size_t p = 0; p < job->calib->in; p++) {
        float least, greatest;
        qnti_job_range(job, p, &least, &greatest);
        range[0] = fminf(range[0], least);
        range[1] = fmaxf(range[1], greatest);
    }
}

/* A static scale is stored in the format's type. */
static struct qnti_grid input_grid(const struct qnti_job *job, const struct qnti_input_rule *rule)
{
    bool stored = rule->fixed && job->layout && job->layout->holds_inputs;
    qnt_dtype type = stored ? job->layout->scale_type : QNT_F32;
    struct qnti_grid grid;
    if (rule->cast != QNT_F32)
        return qnti_float_grid(rule->cast);
    if (rule->book)
        grid = qnti_small_float_grid(job->kernels, rule->book, rule->group, type);
    else if (!rule->asymmetric)
        grid = qnti_signed_grid(job->kernels, rule->bits, rule->group, type);
    else
        grid = qnti_affine_grid(job->kernels, rule->bits, rule->group, type);
    grid.map.rows = rule->per_token;
    if (!rule->asymmetric || rule->book)
        return grid;
    grid.include_zero = rule->group == 0;
    grid.wide_zero = !rule->inside;
    grid.integer_offset = rule->inside;
    return grid;
}

qnt_status qnti_job_knows_ranges(const struct qnti_job *job, const qnt_qlinear *q, const char *what)
{
    if (!job->calib || !job->calib->tokens)
        return qnti_fail(job->ctx, QNT_INVALID, "layer %s: %s of the activations needs calibration", q->name, what);
    if (job->transform && job->transform->rotation.block)
        return qnti_fail(job->ctx, QNT_UNSUPPORTED, "layer %s: the range of rotated inputs is not known", q->name);
    return QNT_OK;
}

/* The range of the layer's inputs. */
static qnt_status find_range(const struct qnti_job *job, const qnt_qlinear *q, const char *what, float range[2])
{
    QNT_TRY(qnti_job_knows_ranges(job, q, what));
    range_of_inputs(job, range);
    return QNT_OK;
}

static qnt_status quantize_inputs(struct qnti_job *job, const struct qnti_grid *grid, bool fixed, float clip,
                                  qnt_qlinear *q)
{
    float range[2];
    QNT_TRY(qnti_actquant_create(job->ctx, grid, q->in, fixed, &q->act));
    q->act->clip = clip;
    if (!fixed)
        return QNT_OK;
    QNT_TRY(find_range(job, q, "a fixed scale", range));
    for (size_t i = 0; i < 2; i++)
        range[i] *= clip > 0 ? clip : 1;
    grid->kind->fit(&q->act->grid, &(struct qnti_band){.x = range, .rows = 1, .cols = 2, .stride = 2}, q->act->fixed, 0,
                    0, NULL, 0);
    return QNT_OK;
}

qnt_status qnti_job_quantize_inputs(struct qnti_job *job, const struct qnti_input_rule *rule, qnt_qlinear *q)
{
    struct qnti_grid grid = input_grid(job, rule);
    return quantize_inputs(job, &grid, rule->fixed, rule->clip, q);
}

qnt_status qnti_job_prescribed_inputs(struct qnti_job *job, qnt_qlinear *q)
{
    const struct qnti_layout *layout = job->layout;
    struct qnti_grid grid, scales;
    float range[2];
    if (!layout || !layout->inputs)
        return QNT_OK;
    layout->inputs(job->kernels, &grid);
    if (layout->global_inputs) {
        QNT_TRY(find_range(job, q, "a global scale", range));
        qnti_global_scale(job->kernels, fmaxf(-range[0], range[1]), &scales, &grid);
    }
    return quantize_inputs(job, &grid, layout->fixed_inputs, 0, q);
}

qnt_status qnti_job_quantize_segment(struct qnti_job *job, const struct qnti_input_rule *rule, qnt_qlinear *q,
                                     size_t segment)
{
    struct qnti_segment *s = &q->segments[segment];
    struct qnti_grid grid = input_grid(job, rule);
    QNT_TRY(qnti_actquant_create(job->ctx, &grid, s->cols, false, &s->act));
    s->act->clip = rule->clip;
    s->act->input_type = rule->cast != QNT_F32 ? QNT_F16 : QNT_F32;
    return QNT_OK;
}

static const struct qnti_codebook *const books[] = {NULL, &qnti_fp8_e4m3, &qnti_fp4_e2m1};

bool qnti_inputs_offered(const struct qnti_input_params *p)
{
    return qnti_few_bits(p->bits) || books[p->format];
}

unsigned qnti_inputs_needs(const struct qnti_input_params *p)
{
    return qnti_inputs_offered(p) && p->fixed ? QNTI_NEED_MOMENTS : 0;
}

qnt_status qnti_inputs_check(qnt_context *ctx, const char *method, const struct qnti_input_params *p)
{
    if (p->bits == 1)
        return qnti_fail(ctx, QNT_INVALID, "%s: act_bits=1; 2 to 15, or 16: not quantized", method);
    if (books[p->format] && !p->sym)
        return qnti_fail(ctx, QNT_INVALID, "%s: act_sym=false is for integers, but act_format is not int", method);
    if (p->fixed && p->granularity == QNTI_INPUTS_BY_TOKEN)
        return qnti_fail(ctx, QNT_INVALID, "%s: act_static needs act_granularity=tensor", method);
    if (p->group_size && p->granularity != QNTI_INPUTS_BY_TOKEN)
        return qnti_fail(ctx, QNT_INVALID, "%s: act_group_size needs act_granularity=token", method);
    return QNT_OK;
}

qnt_status qnti_job_inputs(struct qnti_job *job, const struct qnti_input_params *p, qnt_qlinear *q)
{
    struct qnti_input_rule rule = {.bits = (unsigned)p->bits, .book = books[p->format],
                                   .per_token = p->granularity == QNTI_INPUTS_BY_TOKEN,
                                   .fixed = p->fixed, .asymmetric = !p->sym, .group = (size_t)p->group_size,
                                   .clip = (float)p->clip};
    return qnti_job_quantize_inputs(job, &rule, q);
}
