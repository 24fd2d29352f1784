/*
 * inputs.c - how the inputs of a layer are quantized at run time: dynamic by token, group or tensor, or fixed.
 */
#include "method/method.h"

#include <math.h>
#include "base/number.h"

void qnti_job_range(const struct qnti_job *job, size_t place, float *least, float *greatest)
{
    const struct qnti_transform *t = job->transform;
    size_t c = t && t->permutation ? t->permutation[place] : place;
    const struct qnti_channel_moments *m = &job->calib->moments[c];
    float z = t && t->shift ? t->shift[c] : 0, s = t && t->scale ? t->scale[c] : 1;
    float a = (m->least - z) / s, b = (m->greatest - z) / s; /* the other way round where s < 0 */
    *least = fminf(a, b);
    *greatest = fmaxf(a, b);
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
    else if (rule->half_open)
        grid = qnti_half_open_grid(job->kernels, rule->bits, rule->group, !rule->asymmetric, type);
    else if (!rule->asymmetric)
        grid = qnti_signed_grid(job->kernels, rule->bits, rule->group, type);
    else
        grid = qnti_affine_grid(job->kernels, rule->bits, rule->group, type);
    grid.map.rows = rule->per_token;
    if (rule->book || rule->half_open)
        return grid;
    if (!rule->asymmetric) {
        grid.absmax = !rule->full;
        return grid;
    }
    grid.include_zero = rule->group == 0 || rule->zero_in_groups;
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

/* Fixed by the range, NULL: dynamic. */
static qnt_status make_quantizer(const struct qnti_job *job, const struct qnti_grid *grid, const float *range,
                                 float clip, size_t in, struct qnti_actquant **act)
{
    float kept[2];
    QNT_TRY(qnti_actquant_create(job->ctx, grid, in, range != NULL, act));
    (*act)->clip = clip;
    if (!range)
        return QNT_OK;
    for (size_t i = 0; i < 2; i++)
        kept[i] = range[i] * (clip > 0 ? clip : 1);
    grid->kind->fit(&(*act)->grid, &(struct qnti_band){.x = kept, .rows = 1, .cols = 2, .stride = 2}, (*act)->fixed, 0,
                    0, NULL, 0);
    return QNT_OK;
}

qnt_status qnti_job_input_quantizer(struct qnti_job *job, const struct qnti_input_rule *rule, size_t in,
                                    struct qnti_actquant **act)
{
    struct qnti_grid grid = input_grid(job, rule);
    return make_quantizer(job, &grid, rule->fixed ? rule->range : NULL, rule->clip, in, act);
}

/* Steps of 1, where the transform has divided each channel by its own. */
static qnt_status quantize_channels(struct qnti_job *job, const struct qnti_input_rule *rule, qnt_qlinear *q)
{
    struct qnti_grid grid = input_grid(job, rule);
    QNT_TRY(qnti_actquant_create(job->ctx, &grid, q->in, true, &q->act));
    q->act->fixed->scale->value[0] = 1;
    return QNT_OK;
}

qnt_status qnti_job_quantize_inputs(struct qnti_job *job, const struct qnti_input_rule *rule, qnt_qlinear *q)
{
    bool scaled = (job->transform && job->transform->scale) || (job->folded && job->folded->scale);
    struct qnti_input_rule with_range = *rule;
    float range[2];
    if (rule->per_channel && scaled)
        return quantize_channels(job, rule, q);
    if (rule->per_channel)
        QNT_TRY(qnti_qlinear_warn(q, "one scale for all inputs: nothing takes the scales of their channels"));
    if (rule->fixed && !rule->range) {
        QNT_TRY(find_range(job, q, "a fixed scale", range));
        with_range.range = range;
    }
    return qnti_job_input_quantizer(job, &with_range, q->in, &q->act);
}

qnt_status qnti_job_channel_scales(struct qnti_job *job, const struct qnti_input_rule *rule, struct qnti_transform *t)
{
    float end = rule->book ? rule->book->number->most : (float)(1u << (rule->bits - 1)), *scale;
    qnt_status status;
    QNT_TRY(qnti_job_takes_scale(job));
    if (!job->calib || !job->calib->tokens)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, job->calib->in, &scale));
    QNT_CHECK(qnti_job_magnitudes(job, scale, NULL));
    QNT_CHECK(qnti_job_tie(job, QNTI_TIE_MOST, scale));
    for (size_t c = 0; c < job->calib->in; c++)
        scale[c] = isnormal(scale[c] / end) ? scale[c] / end : 1; /* nothing came through the channel */
    t->scale = scale;
    scale = NULL;
cleanup:
    qnti_free(job->ctx, scale);
    return status;
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
    if (layout->fixed_inputs)
        QNT_TRY(find_range(job, q, "a fixed scale", range));
    return make_quantizer(job, &grid, layout->fixed_inputs ? range : NULL, 0, q->in, &q->act);
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
    return qnti_act_bits_offered(p->bits) || books[p->format];
}

bool qnti_act_bits_offered(int bits)
{
    return bits != 0 && bits != 16;
}

qnt_status qnti_act_bits_check(qnt_context *ctx, const char *method, int bits)
{
    if (qnti_act_bits_offered(bits) && (bits < 2 || bits > 8))
        return qnti_fail(ctx, QNT_INVALID, "%s: act_bits=%d; 2 to 8, or 16: not quantized", method, bits);
    return QNT_OK;
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
