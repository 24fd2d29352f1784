/*
 * calib.c - accumulators over calibration tokens.
 *
 * Moments are summed in f64 per channel, in the order of the tokens; work is
 * cut by channels and tiles, never by tokens, so threads change nothing.
 */
#include "calib/calib.h"

#include <math.h>
#include <string.h>
#include "base/tensor.h"
#include <quant/calib.h>

enum { SAMPLE_LIMIT = 2048 };   /* tokens; enough for every search that uses samples (AWQ's takes 512) */
enum { CHANNELS_PER_TASK = 256, ROWS_PER_ADD = 1024 };

static const float MOST_IMPORTANCE = 1e20f;   /* the f32 sums of the searches that weigh with it must not overflow */

qnt_status qnti_calib_create(qnt_context *ctx, unsigned needs, size_t in, struct qnt_calib **calib)
{
    struct qnt_calib *c;
    qnt_status status;
    *calib = NULL;
    if (in == 0)
        return qnti_fail(ctx, QNT_INVALID, "a calibration of 0 channels");
    QNT_TRY(QNTI_NEW(ctx, 1, &c));
    c->ctx = ctx;
    c->in = in;
    c->needs = needs;
    c->sample_stride = 1;
    QNT_CHECK(QNTI_NEW(ctx, in, &c->moments));
    for (size_t i = 0; i < in; i++)
        c->moments[i] = (struct qnti_channel_moments){.least = INFINITY, .greatest = -INFINITY};
    if (needs & QNTI_NEED_HESSIAN)
        QNT_CHECK(qnti_gram_create(ctx, in, true, &c->hessian));
    if (needs & QNTI_NEED_PAIRS)
        QNT_CHECK(qnti_gram_create(ctx, in, false, &c->cross));
    *calib = c;
    return QNT_OK;
cleanup:
    qnt_calib_destroy(c);
    return status;
}

void qnt_calib_destroy(qnt_calib *c)
{
    if (!c)
        return;
    qnti_free(c->ctx, c->moments);
    qnti_gram_free(c->ctx, c->hessian);
    qnti_gram_free(c->ctx, c->cross);
    qnti_free(c->ctx, c->importance);
    qnti_free(c->ctx, c->samples);
    qnti_free(c->ctx, c);
}

struct moments_task {
    struct qnt_calib *calib;
    const float *x;
    size_t tokens;
};

static qnt_status moments_task(void *arg, size_t index)
{
    const struct moments_task *t = arg;
    size_t in = t->calib->in, first = index * CHANNELS_PER_TASK, end = qnti_min(in, first + CHANNELS_PER_TASK);
    for (size_t row = 0; row < t->tokens; row++)
        for (size_t c = first; c < end; c++) {
            struct qnti_channel_moments *m = &t->calib->moments[c];
            float x = t->x[row * in + c];
            m->least = x < m->least ? x : m->least;
            m->greatest = x > m->greatest ? x : m->greatest;
            m->sum += (double)x;
            m->sum_abs += fabs((double)x);
            m->sum_square += (double)x * (double)x;
        }
    return QNT_OK;
}

/* Keeps only every second sample: those of the doubled stride. */
static void thin_samples(struct qnt_calib *c)
{
    for (size_t i = 0; 2 * i < c->sample_count; i++)
        memmove(c->samples + i * c->in, c->samples + 2 * i * c->in, c->in * sizeof *c->samples);
    c->sample_count = (c->sample_count + 1) / 2;
    c->sample_stride *= 2;
}

static qnt_status add_samples(struct qnt_calib *c, const float *x, size_t tokens)
{
    if (!c->samples)
        QNT_TRY(QNTI_NEW_RAW(c->ctx, SAMPLE_LIMIT * c->in, &c->samples));
    for (size_t t = 0; t < tokens; t++) {
        if ((c->tokens + t) % c->sample_stride)
            continue;
        if (c->sample_count == SAMPLE_LIMIT)
            thin_samples(c);
        if ((c->tokens + t) % c->sample_stride == 0)
            memcpy(c->samples + c->sample_count++ * c->in, x + t * c->in, c->in * sizeof *x);
    }
    return QNT_OK;
}

static qnt_status add_finite(struct qnt_calib *c, const float *x, const float *difference, size_t tokens)
{
    struct moments_task m = {c, x, tokens};
    QNT_TRY(qnti_parallel(c->ctx, qnti_ceil_div(c->in, CHANNELS_PER_TASK), moments_task, &m));
    if (c->hessian)
        QNT_TRY(qnti_gram_add(c->ctx, c->hessian, x, x, tokens));
    if (c->cross)
        QNT_TRY(qnti_gram_add(c->ctx, c->cross, difference, x, tokens));
    if (c->needs & (QNTI_NEED_SAMPLES | QNTI_NEED_REPLAY) && !c->replay)
        QNT_TRY(add_samples(c, x, tokens));
    c->tokens += tokens;
    return QNT_OK;
}

/* Tokens without a number that is not finite, moved together; returns how many. */
static size_t keep_finite(float *x, float *y, size_t tokens, size_t in)
{
    size_t kept = 0;
    for (size_t t = 0; t < tokens; t++) {
        if (!qnti_all_finite(x + t * in, in) || (y && !qnti_all_finite(y + t * in, in)))
            continue;
        if (kept != t) {
            memcpy(x + kept * in, x + t * in, in * sizeof *x);
            if (y)
                memcpy(y + kept * in, y + t * in, in * sizeof *y);
        }
        kept++;
    }
    return kept;
}

static qnt_status add_rows(struct qnt_calib *c, qnt_matrix x, const qnt_matrix *x_fp)
{
    float *rows = NULL, *other = NULL;
    qnt_status status = QNT_OK;
    QNT_CHECK(QNTI_NEW_RAW(c->ctx, ROWS_PER_ADD * c->in, &rows));
    if (x_fp)
        QNT_CHECK(QNTI_NEW_RAW(c->ctx, ROWS_PER_ADD * c->in, &other));
    for (size_t done = 0; done < x.rows; done += ROWS_PER_ADD) {
        size_t n = qnti_min(ROWS_PER_ADD, x.rows - done), kept;
        QNT_CHECK(qnti_matrix_rows(c->ctx, x, done, n, rows));
        if (x_fp)
            QNT_CHECK(qnti_matrix_rows(c->ctx, *x_fp, done, n, other));
        kept = keep_finite(rows, other, n, c->in);
        for (size_t i = 0; other && i < kept * c->in; i++)
            other[i] -= rows[i];
        QNT_CHECK(add_finite(c, rows, other, kept));
        c->skipped += n - kept;
    }
cleanup:
    qnti_free(c->ctx, rows);
    qnti_free(c->ctx, other);
    return status;
}

qnt_status qnt_calib_add(qnt_calib *c, qnt_matrix x)
{
    if (x.cols != c->in)
        return qnti_fail(c->ctx, QNT_INVALID, "calibration input has %zu columns, not %zu", x.cols, c->in);
    if (c->cross)
        return qnti_fail(c->ctx, QNT_INVALID,
                         "the recipe needs pairs of inputs: of the quantized and of the unquantized model");
    return add_rows(c, x, NULL);
}

qnt_status qnt_calib_add_pair(qnt_calib *c, qnt_matrix x, qnt_matrix x_fp)
{
    if (x.cols != c->in || x_fp.cols != c->in || x.rows != x_fp.rows)
        return qnti_fail(c->ctx, QNT_INVALID, "paired inputs of %zu x %zu and %zu x %zu for %zu channels", x.rows,
                         x.cols, x_fp.rows, x_fp.cols, c->in);
    return add_rows(c, x, c->cross ? &x_fp : NULL);
}

qnt_status qnti_calib_add_f32(qnt_calib *c, const float *x, const float *x_fp, size_t tokens)
{
    qnt_matrix m = qnt_matrix_f32(x, tokens, c->in);
    return x_fp ? qnt_calib_add_pair(c, m, qnt_matrix_f32(x_fp, tokens, c->in)) : qnt_calib_add(c, m);
}

static void merge_moments(struct qnt_calib *c, const struct qnt_calib *other)
{
    for (size_t i = 0; i < c->in; i++) {
        struct qnti_channel_moments *a = &c->moments[i];
        const struct qnti_channel_moments *b = &other->moments[i];
        a->least = fminf(a->least, b->least);
        a->greatest = fmaxf(a->greatest, b->greatest);
        a->sum += b->sum;
        a->sum_abs += b->sum_abs;
        a->sum_square += b->sum_square;
    }
}

qnt_status qnt_calib_merge(qnt_calib *c, const qnt_calib *other)
{
    if (c->in != other->in || c->needs != other->needs)
        return qnti_fail(c->ctx, QNT_INVALID, "calibrations of %zu and %zu channels, or for different recipes",
                         c->in, other->in);
    if (other->samples)
        QNT_TRY(add_samples(c, other->samples, other->sample_count));
    merge_moments(c, other);
    if (c->hessian)
        qnti_gram_merge(c->hessian, other->hessian);
    if (c->cross)
        qnti_gram_merge(c->cross, other->cross);
    c->tokens += other->tokens;
    c->skipped += other->skipped;
    return QNT_OK;
}

qnt_status qnt_calib_set_importance(qnt_calib *c, const float *importance)
{
    for (size_t i = 0; i < c->in; i++)
        if (!(importance[i] >= 0) || !isfinite(importance[i]))
            return qnti_fail(c->ctx, QNT_NON_FINITE, "importance of channel %zu is %g; it must be finite and >= 0", i,
                             (double)importance[i]);
    if (!c->importance)
        QNT_TRY(QNTI_NEW_RAW(c->ctx, c->in, &c->importance));
    memcpy(c->importance, importance, c->in * sizeof *importance);
    return QNT_OK;
}

bool qnti_calib_importance(const struct qnt_calib *c, float *importance)
{
    for (size_t i = 0; i < c->in; i++) {
        double mean = c->moments[i].sum_square / (double)qnti_max(c->tokens, 1);
        importance[i] = (float)fmin(c->importance ? (double)c->importance[i] : mean, (double)MOST_IMPORTANCE);
    }
    return c->importance || c->tokens;
}

qnt_status qnti_calib_replay(const qnt_calib *c, qnti_token_fn take, void *user)
{
    if (c->replay)
        return c->replay(c->replay_owner, take, user);
    if (!c->sample_count)
        return qnti_fail(c->ctx, QNT_NOT_FOUND, "the calibration's tokens cannot be had again");
    return take(user, c->samples, c->sample_count);
}

size_t qnt_calib_in(const qnt_calib *c)
{
    return c->in;
}

size_t qnt_calib_tokens(const qnt_calib *c)
{
    return c->tokens;
}

size_t qnt_calib_skipped(const qnt_calib *c)
{
    return c->skipped;
}

qnt_status qnt_calib_moments(const qnt_calib *c, size_t channel, qnt_moments *moments)
{
    const struct qnti_channel_moments *m;
    double n = (double)c->tokens;
    if (channel >= c->in || c->tokens == 0)
        return qnti_fail(c->ctx, QNT_NOT_FOUND, "moments of channel %zu of %zu after %zu tokens", channel, c->in,
                         c->tokens);
    m = &c->moments[channel];
    *moments = (qnt_moments){.least = m->least,
                             .greatest = m->greatest,
                             .absmax = fmaxf(fabsf(m->least), fabsf(m->greatest)),
                             .mean = m->sum / n,
                             .mean_abs = m->sum_abs / n,
                             .mean_square = m->sum_square / n};
    return QNT_OK;
}

qnt_status qnt_calib_hessian(const qnt_calib *c, float *hessian)
{
    if (!c->hessian || !c->tokens)
        return qnti_fail(c->ctx, QNT_NOT_FOUND, "the calibration holds no Hessian (%zu tokens)", c->tokens);
    qnti_gram_read(c->hessian, 2.0 / (double)c->tokens, hessian);
    return QNT_OK;
}
