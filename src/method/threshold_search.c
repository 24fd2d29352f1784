/*
 * threshold_search.c - thresholds from the largest magnitude down, evenly spaced, each tried; see threshold_search.h.
 *
 * The loss is that of search.c for quantized inputs. Where there are many
 * thresholds, or one takes a pass through a unit, every so-manieth is tried, then
 * the neighbours of the best, ever nearer.
 *
 * A scale brings every channel to the end of the range, where tokens that it was
 * not made of are clipped. The loss sees that only on such tokens: in a model the
 * scales on trial are made of half of the sequences, the loss is taken on others.
 */
#include "method/threshold_search.h"

#include <math.h>

enum { MOST_THRESHOLDS = 4096, TRIED_BY_LINEARS = 256, TRIED_BEHIND_UNIT = 16 };
static const double WIDEST_STEP = 0.5;

struct thresholds {
    struct qnti_job *job, others;/* the latter with the sequences on which the loss is taken */
    const struct qnti_threshold_rule *rule;
    struct qnti_search *search;
    size_t in, tokens, count, best;
    float *magnitude, *tried;    /* [in] behind the shift: of all tokens, of those that scales on trial are made of */
    double *value;               /* [count] falling */
    float *scale, *x;            /* of the one in hand, [in] and [tokens][in] */
    double least;                /* loss */
};

static void thresholds_free(struct thresholds *t)
{
    qnt_context *ctx = t->job->ctx;
    qnti_search_free(t->search);
    qnti_free(ctx, t->magnitude);
    qnti_free(ctx, t->tried);
    qnti_free(ctx, t->value);
    qnti_free(ctx, t->scale);
    qnti_free(ctx, t->x);
}

/* Each is the one before less the step, in f64. */
static void list_thresholds(struct thresholds *t, double most, double greatest)
{
    const struct qnti_threshold_rule *rule = t->rule;
    double steps = fmin(fmax(rule->steps, trunc(fmax(greatest, 0) / WIDEST_STEP)), MOST_THRESHOLDS - 1);
    double step = (most - rule->low) / steps;
    for (double v = most; v >= rule->low && t->count < MOST_THRESHOLDS; v -= step) {
        t->value[t->count++] = v;
        if (step == 0)
            break;
    }
}

/* Leaves half of the sequences to the loss, where there are several: how many tokens scales on trial are made of. */
static size_t part_sequences(struct thresholds *t)
{
    const struct qnti_job *job = t->job;
    size_t sequences = job->samples && job->sequence ? job->sample_count / job->sequence : 0;
    size_t made_of = t->rule->held_out ? sequences / 2 * job->sequence : 0;
    t->others = *job;
    if (made_of) {
        t->others.samples += made_of * t->in;
        t->others.sample_count -= made_of;
    }
    return made_of;
}

static void find_tried(const struct thresholds *t, size_t tokens, const float *shift)
{
    for (size_t c = 0; c < t->in; c++)
        t->tried[c] = tokens ? 0 : t->magnitude[c];
    for (size_t i = 0; i < tokens; i++)
        for (size_t c = 0; c < t->in; c++)
            t->tried[c] = fmaxf(t->tried[c], fabsf(t->job->samples[i * t->in + c] - (shift ? shift[c] : 0)));
}

static qnt_status open_thresholds(struct thresholds *t, const qnt_layer *layers, size_t count, const float *shift)
{
    qnt_context *ctx = t->job->ctx;
    float most = 0, greatest = 0;
    size_t made_of = part_sequences(t);
    QNT_TRY(qnti_search_create_quantized(&t->others, layers, count, t->rule->tokens, shift, &t->search));
    qnti_search_inputs(t->search, &t->tokens);
    QNT_TRY(QNTI_NEW_RAW(ctx, t->in, &t->magnitude));
    QNT_TRY(QNTI_NEW_RAW(ctx, t->in, &t->tried));
    QNT_TRY(QNTI_NEW_RAW(ctx, MOST_THRESHOLDS, &t->value));
    QNT_TRY(QNTI_NEW_RAW(ctx, t->in, &t->scale));
    QNT_TRY(QNTI_NEW_RAW(ctx, t->tokens * t->in, &t->x));
    for (size_t c = 0; c < t->in; c++) {
        const struct qnti_channel_moments *m = &t->job->calib->moments[c];
        float z = shift ? shift[c] : 0, above = m->greatest - z, below = m->least - z;
        t->magnitude[c] = fmaxf(fabsf(above), fabsf(below));
        most = fmaxf(most, t->magnitude[c]);
        greatest = fmaxf(greatest, above);
    }
    find_tried(t, made_of, shift);
    QNT_TRY(qnti_job_tie(t->job, QNTI_TIE_MOST, t->tried));
    QNT_TRY(qnti_job_tie(t->job, QNTI_TIE_MOST, t->magnitude));
    list_thresholds(t, (double)most, (double)greatest);
    return QNT_OK;
}

static void scale_by(const struct thresholds *t, const float *magnitude, float threshold, float *scale)
{
    for (size_t c = 0; c < t->in; c++)
        scale[c] = magnitude[c] > threshold ? magnitude[c] / threshold : 1;
}

/* The inputs over the scale, quantized as they will be; as they are where the format keeps them so. */
static qnt_status quantize_inputs(struct thresholds *t, float threshold)
{
    struct qnti_job *job = t->job;
    const float *x = qnti_search_inputs(t->search, &t->tokens), range[2] = {-threshold, threshold};
    struct qnti_input_rule rule = t->rule->inputs;
    struct qnti_actquant *act = NULL;
    qnt_status status;
    for (size_t i = 0; i < t->tokens; i++)
        for (size_t c = 0; c < t->in; c++)
            t->x[i * t->in + c] = x[i * t->in + c] / t->scale[c];
    if (!qnti_act_bits_offered((int)rule.bits) || (!qnti_layout_at_run_time(job->layout) && !job->layout->holds_inputs))
        return QNT_OK;
    rule.range = range;
    status = qnti_job_input_quantizer(job, &rule, t->in, &act);
    if (status == QNT_OK)
        status = qnti_actquant_apply(job->ctx, act, t->x, t->tokens, t->in, t->in, t->x, NULL);
    qnti_actquant_free(job->ctx, act);
    return status;
}

static qnt_status try_threshold(struct thresholds *t, size_t index)
{
    float threshold = (float)t->value[index];
    double loss;
    QNT_TRY(qnti_cancelled(t->job->ctx));
    scale_by(t, t->tried, threshold, t->scale);
    QNT_TRY(quantize_inputs(t, threshold));
    QNT_TRY(qnti_search_quantized_loss(t->search, t->scale, t->x, &loss));
    if (loss < t->least) {
        t->least = loss;
        t->best = index;
    }
    return QNT_OK;
}

static qnt_status try_thresholds(struct thresholds *t)
{
    size_t most = qnti_search_behind_unit(t->search) ? TRIED_BEHIND_UNIT : TRIED_BY_LINEARS;
    size_t stride = qnti_ceil_div(t->count, most);
    for (size_t i = 0; i < t->count; i += stride)
        QNT_TRY(try_threshold(t, i));
    while (stride > 1) {
        size_t middle = t->best;
        stride = qnti_ceil_div(stride, 2);
        if (middle >= stride)
            QNT_TRY(try_threshold(t, middle - stride));
        if (middle + stride < t->count)
            QNT_TRY(try_threshold(t, middle + stride));
    }
    return QNT_OK;
}

qnt_status qnti_search_threshold(struct qnti_job *job, const qnt_layer *layers, size_t count,
                                 const struct qnti_threshold_rule *rule, const float *shift, float *scale)
{
    struct thresholds t = {.job = job, .rule = rule, .in = layers[0].weight.cols, .least = INFINITY};
    qnt_status status;
    QNT_CHECK(open_thresholds(&t, layers, count, shift));
    QNT_CHECK(try_thresholds(&t));
    scale_by(&t, t.magnitude, t.count ? (float)t.value[t.best] : INFINITY, scale);
cleanup:
    thresholds_free(&t);
    return status;
}
