/*
 * finite.c - the first pass over all weights: are there infinities or NaNs?
 *
 * Plain weights are looked at as bits, an exponent of all ones, at the speed
 * of memory; others through their values. Only where something is found is it
 * searched for.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>
#include "base/number.h"

enum { RUN = 4096 };   /* numbers counted in one narrow counter */

static size_t count16(const uint8_t *data, size_t n, uint16_t exponent)
{
    size_t count = 0;
    for (size_t done = 0; done < n; done += RUN) {
        size_t run = qnti_min(RUN, n - done);
        uint16_t found = 0;
        for (size_t i = 0; i < run; i++) {
            uint16_t bits;
            memcpy(&bits, data + 2 * (done + i), sizeof bits);
            found = (uint16_t)(found + ((bits & exponent) == exponent));
        }
        count += found;
    }
    return count;
}

static size_t count32(const uint8_t *data, size_t n, uint32_t exponent)
{
    size_t count = 0;
    for (size_t done = 0; done < n; done += RUN) {
        size_t run = qnti_min(RUN, n - done);
        uint32_t found = 0;
        for (size_t i = 0; i < run; i++) {
            uint32_t bits;
            memcpy(&bits, data + 4 * (done + i), sizeof bits);
            found += (bits & exponent) == exponent;
        }
        count += found;
    }
    return count;
}

static size_t count_plain(const qnt_matrix *m, size_t first, size_t n)
{
    const uint8_t *data = (const uint8_t *)m->data + first * m->cols * qnti_dtype_bytes(m->dtype);
    if (m->dtype == QNT_F32)
        return count32(data, n * m->cols, 0x7f800000u);
    return count16(data, n * m->cols, m->dtype == QNT_F16 ? 0x7c00 : 0x7f80);
}

static qnt_status count_values(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n, size_t *count)
{
    float *x;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(ctx, n * w->cols, &x));
    status = qnti_weight_rows(ctx, w, first, n, x);
    *count = status == QNT_OK ? count32((const uint8_t *)x, n * w->cols, 0x7f800000u) : 0;
    qnti_free(ctx, x);
    return status;
}

struct count_task {
    qnt_context *ctx;
    const struct qnti_weight *w;
    size_t rows;       /* of a chunk */
    size_t *counts;    /* [chunks] */
};

static qnt_status count_task(void *arg, size_t index)
{
    const struct count_task *t = arg;
    size_t first = index * t->rows, n = qnti_min(t->rows, t->w->rows - first);
    if (!t->w->plain.data)
        return count_values(t->ctx, t->w, first, n, &t->counts[index]);
    t->counts[index] = count_plain(&t->w->plain, first, n);
    return QNT_OK;
}

/* Reads on until the first one is met, and tells it. */
static qnt_status report(qnt_context *ctx, const struct qnti_weight *w, size_t count)
{
    size_t row = 0, col = w->cols;
    float *x;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, w->cols, &x));
    for (; row < w->rows && status == QNT_OK; row++) {
        status = qnti_weight_rows(ctx, w, row, 1, x);
        if (status == QNT_OK && !qnti_all_finite(x, w->cols))
            break;
    }
    if (status == QNT_OK) {
        for (col = 0; col < w->cols && isfinite(x[col]);)
            col++;
        status = qnti_fail(ctx, QNT_NON_FINITE,
                           "%s: %zu of %zu numbers are not finite, the first is %g at row %zu, column %zu", w->name,
                           count, w->rows * w->cols, col < w->cols ? (double)x[col] : 0.0, row, col);
    }
    qnti_free(ctx, x);
    return status;
}

static qnt_status check_weight(qnt_context *ctx, const struct qnti_weight *w)
{
    struct count_task t = {ctx, w, qnti_rows_per_task(w), NULL};
    size_t chunks = qnti_ceil_div(w->rows, t.rows), count = 0;
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, chunks, &t.counts));
    status = qnti_parallel(ctx, chunks, count_task, &t);
    for (size_t i = 0; i < chunks; i++)
        count += t.counts[i];
    qnti_free(ctx, t.counts);
    if (status == QNT_OK && count > 0)
        status = report(ctx, w, count);
    return status;
}

qnt_status qnti_checkpoint_check_finite(const struct qnti_checkpoint *c)
{
    for (size_t i = 0; i < c->config.blocks * QNTI_ROLES * 2; i++)
        if (c->weights[i].name)
            QNT_TRY(check_weight(c->ctx, &c->weights[i]));
    return QNT_OK;
}
