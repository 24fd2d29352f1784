/*
 * finite.c - the first pass over all weights: are there infinities or NaNs, and which weights are these?
 *
 * Plain weights are looked at as bits, an exponent of all ones, at the speed
 * of memory; others through their values. Only where something is found is it
 * searched for. Whoever asks gets XXH3 (64 bits) of everything on the way: the
 * bytes are in the cache already. Chunks are cut by shape, their hashes hashed
 * in order.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>
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

/* What a chunk of rows tells. */
struct chunk {
    size_t count;      /* numbers that are not finite */
    uint64_t hash;     /* of the rows as they are stored; of a quantized layer, of their values */
};

static qnt_status look_at_values(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n,
                                 struct chunk *chunk)
{
    float *x;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(ctx, n * w->cols, &x));
    status = qnti_weight_rows(ctx, w, first, n, x);
    if (status == QNT_OK) {
        chunk->count = count32((const uint8_t *)x, n * w->cols, 0x7f800000u);
        chunk->hash = XXH3_64bits(x, n * w->cols * sizeof *x);
    }
    qnti_free(ctx, x);
    return status;
}

static uint64_t hash_plain(const qnt_matrix *m, size_t first, size_t n)
{
    size_t row = m->cols * qnti_dtype_bytes(m->dtype);
    return XXH3_64bits((const uint8_t *)m->data + first * row, n * row);
}

struct look_task {
    qnt_context *ctx;
    const struct qnti_weight *w;
    size_t rows;       /* of a chunk */
    bool hash;
    struct chunk *chunks;
};

static qnt_status look_task(void *arg, size_t index)
{
    const struct look_task *t = arg;
    size_t first = index * t->rows, n = qnti_min(t->rows, t->w->rows - first);
    if (!t->w->plain.data || t->w->transposed)
        return look_at_values(t->ctx, t->w, first, n, &t->chunks[index]);
    t->chunks[index].count = count_plain(&t->w->plain, first, n);
    if (t->hash)
        t->chunks[index].hash = hash_plain(&t->w->plain, first, n);
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

/* *hash: of all before, then with this one; NULL: not wanted. */
static qnt_status check_weight(qnt_context *ctx, const struct qnti_weight *w, uint64_t *hash)
{
    struct look_task t = {ctx, w, qnti_rows_per_task(w), hash != NULL, NULL};
    size_t chunks = qnti_ceil_div(w->rows, t.rows), count = 0;
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, chunks, &t.chunks));
    status = qnti_parallel(ctx, chunks, look_task, &t);
    for (size_t i = 0; i < chunks; i++) {
        count += t.chunks[i].count;
        if (hash)
            *hash = XXH3_64bits_withSeed(&t.chunks[i].hash, sizeof t.chunks[i].hash, *hash);
    }
    qnti_free(ctx, t.chunks);
    if (status == QNT_OK && count > 0)
        status = report(ctx, w, count);
    return status;
}

static qnt_status check_all(const struct qnti_checkpoint *c, uint64_t *hash)
{
    for (size_t i = 0; i < c->config.blocks * QNTI_ROLES * 2; i++)
        if (c->weights[i].name)
            QNT_TRY(check_weight(c->ctx, &c->weights[i], hash));
    return QNT_OK;
}

qnt_status qnti_checkpoint_check_finite(const struct qnti_checkpoint *c)
{
    return check_all(c, NULL);
}

qnt_status qnti_checkpoint_hash_weights(const struct qnti_checkpoint *c, uint64_t *hash)
{
    *hash = 0;
    return check_all(c, hash);
}
