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

enum { CHANNELS_PER_TASK = 256, ROWS_PER_ADD = 2048, ROWS_PER_TASK = 64 };

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
    c->needs = needs & QNTI_GATHERED;
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

/* Some channels; they are taken apart so that the loop over them runs in vectors. */
static qnt_status moments_task(void *arg, size_t index)
{
    const struct moments_task *t = arg;
    size_t in = t->calib->in, first = index * CHANNELS_PER_TASK, n = qnti_min(CHANNELS_PER_TASK, in - first);
    struct qnti_channel_moments *m = t->calib->moments + first;
    float least[CHANNELS_PER_TASK], greatest[CHANNELS_PER_TASK];
    double sum[CHANNELS_PER_TASK], sum_abs[CHANNELS_PER_TASK], sum_square[CHANNELS_PER_TASK];
    for (size_t c = 0; c < n; c++) {
        least[c] = m[c].least;
        greatest[c] = m[c].greatest;
        sum[c] = m[c].sum;
        sum_abs[c] = m[c].sum_abs;
        sum_square[c] = m[c].sum_square;
    }
    for (size_t row = 0; row < t->tokens; row++)
        for (size_t c = 0; c < n; c++) {
            float x = t->x[row * in + first + c];
            least[c] = x < least[c] ? x : least[c];
            greatest[c] = x > greatest[c] ? x : greatest[c];
            sum[c] += (double)x;
            sum_abs[c] += fabs((double)x);
            sum_square[c] += (double)x * (double)x;
        }
    for (size_t c = 0; c < n; c++)
        m[c] = (struct qnti_channel_moments){least[c], greatest[c], sum[c], sum_abs[c], sum_square[c]};
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
        QNT_TRY(QNTI_NEW_RAW(c->ctx, QNTI_MOST_SAMPLES * c->in, &c->samples));
    for (size_t t = 0; t < tokens; t++) {
        if ((c->tokens + t) % c->sample_stride)
            continue;
        if (c->sample_count == QNTI_MOST_SAMPLES)
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
    if (c->needs & QNTI_NEED_SAMPLES || (c->needs & QNTI_NEED_REPLAY && !c->replay))
        QNT_TRY(add_samples(c, x, tokens));
    c->tokens += tokens;
    return QNT_OK;
}

/* Some tokens on their way: as f32, and which of them are finite. */
struct tokens {
    const struct qnt_calib *calib;
    qnt_matrix x;
    const qnt_matrix *x_fp;      /* or NULL */
    size_t first, n;
    float *rows, *other;         /* [n][in]; x, x_fp - x */
    uint8_t *finite;             /* [n] */
};

static qnt_status load_tokens(void *arg, size_t index)
{
    const struct tokens *t = arg;
    size_t in = t->calib->in, first = index * ROWS_PER_TASK, n = qnti_min(ROWS_PER_TASK, t->n - first);
    float *rows = t->rows + first * in, *other = t->x_fp ? t->other + first * in : NULL;
    QNT_TRY(qnti_matrix_rows(t->calib->ctx, t->x, t->first + first, n, rows));
    if (other)
        QNT_TRY(qnti_matrix_rows(t->calib->ctx, *t->x_fp, t->first + first, n, other));
    for (size_t i = 0; i < n; i++)
        t->finite[first + i] =
            qnti_all_finite(rows + i * in, in) && (!other || qnti_all_finite(other + i * in, in));
    for (size_t i = 0; other && i < n * in; i++)
        other[i] -= rows[i];
    return QNT_OK;
}

/* The finite ones, moved together; returns how many. */
static size_t keep_finite(const struct tokens *t)
{
    size_t in = t->calib->in, kept = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (!t->finite[i])
            continue;
        if (kept != i) {
            memcpy(t->rows + kept * in, t->rows + i * in, in * sizeof *t->rows);
            if (t->other)
                memcpy(t->other + kept * in, t->other + i * in, in * sizeof *t->other);
        }
        kept++;
    }
    return kept;
}

static qnt_status add_rows(struct qnt_calib *c, qnt_matrix x, const qnt_matrix *x_fp)
{
    struct tokens t = {.calib = c, .x = x, .x_fp = x_fp};
    size_t most = qnti_min(ROWS_PER_ADD, x.rows);
    qnt_status status = QNT_OK;
    QNT_CHECK(QNTI_NEW_RAW(c->ctx, most * c->in, &t.rows));
    QNT_CHECK(QNTI_NEW_RAW(c->ctx, most, &t.finite));
    if (x_fp)
        QNT_CHECK(QNTI_NEW_RAW(c->ctx, most * c->in, &t.other));
    for (; t.first < x.rows; t.first += t.n) {
        size_t kept;
        t.n = qnti_min(ROWS_PER_ADD, x.rows - t.first);
        QNT_CHECK(qnti_parallel(c->ctx, qnti_ceil_div(t.n, ROWS_PER_TASK), load_tokens, &t));
        kept = keep_finite(&t);
        QNT_CHECK(add_finite(c, t.rows, t.other, kept));
        c->skipped += t.n - kept;
    }
cleanup:
    qnti_free(c->ctx, t.rows);
    qnti_free(c->ctx, t.other);
    qnti_free(c->ctx, t.finite);
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

/* A row of sums of products, of channel r with each other one. */
static void rescale_row(double *row, size_t n, size_t r, const float *scale)
{
    for (size_t i = 0; i < n; i++)
        row[i] /= (double)scale[r] * (double)scale[i];
}

static qnt_status rescale_gram(struct qnt_calib *c, struct qnti_gram *gram, const float *scale)
{
    double *row;
    if (!gram)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->in, &row));
    for (size_t r = 0; r < c->in; r++) {
        rescale_row(row, qnti_gram_row(gram, r, row), r, scale);
        qnti_gram_set_row(gram, r, row);
    }
    qnti_free(c->ctx, row);
    return QNT_OK;
}

qnt_status qnti_calib_rescale(struct qnt_calib *c, const float *scale)
{
    for (size_t i = 0; i < c->in; i++) {
        struct qnti_channel_moments *m = &c->moments[i];
        double s = (double)scale[i];
        m->least /= scale[i];
        m->greatest /= scale[i];
        m->sum /= s;
        m->sum_abs /= s;
        m->sum_square /= s * s;
        if (c->importance)
            c->importance[i] /= scale[i] * scale[i];
    }
    for (size_t t = 0; t < c->sample_count; t++)
        for (size_t i = 0; i < c->in; i++)
            c->samples[t * c->in + i] /= scale[i];
    QNT_TRY(rescale_gram(c, c->hessian, scale));
    return rescale_gram(c, c->cross, scale);
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
    return qnti_gram_read(c->hessian, 2.0 / (double)c->tokens, hessian);
}
