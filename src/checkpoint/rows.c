/*
 * rows.c - a weight's rows as f32, whatever it is stored in.
 *
 * Rows are cut into chunks by shape, one task each. Rows in GGUF's
 * neighbouring-pair order are put back: row h D + t D/2 + j of head h stands
 * there at h D + 2 j + t (t = 0, 1; D rows a head). A bias has one row, whose
 * columns are ordered so. A linear stored (in, out) is turned.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>
#include "base/number.h"

enum { TASK_ELEMENTS = 1 << 16 };   /* 256 KB of f32: large against a task's cost, small against a cache */

size_t qnti_rows_per_task(const struct qnti_weight *w)
{
    return qnti_max(1, TASK_ELEMENTS / qnti_max(1, w->cols));
}

/* Where number i of n = heads * D stands in the file. */
static size_t stored_place(size_t heads, size_t n, size_t i)
{
    size_t d = n / heads, h = i / d, half = d / 2, t = i % d / half, j = i % d % half;
    return h * d + 2 * j + t;
}

/* Row r of a matrix that is stored the other way round. */
static void transposed_row(qnt_context *ctx, const struct qnti_weight *w, size_t r, float *x)
{
    size_t bytes = qnti_dtype_bytes(w->plain.dtype);
    const uint8_t *data = (const uint8_t *)w->plain.data + r * bytes;
    for (size_t c = 0; c < w->cols; c++)
        qnti_widen(ctx, w->plain.dtype, data + c * w->rows * bytes, 1, x + c);
}

struct rows_task {
    qnt_context *ctx;
    const struct qnti_weight *w;
    size_t first, n;
    float *x;
};

/* Row r of blocks, by way of `scratch`, numbers of one row on the type's grid. */
static void block_row(const struct qnti_weight *w, size_t r, struct qnti_numbers *scratch, float *x)
{
    size_t blocks = w->cols / w->type->elements;
    const uint8_t *bytes = w->blocks + r * blocks * w->type->bytes;
    for (size_t b = 0; b < blocks; b++)
        w->type->unpack(bytes + b * w->type->bytes, scratch, 0, b);
    qnti_numbers_values(scratch, 0, 0, w->cols, x);
}

static qnt_status create_scratch(qnt_context *ctx, const struct qnti_weight *w, struct qnti_numbers **scratch)
{
    struct qnti_grid grid;
    if (!qnti_ggml_grid(qnti_context_kernels(ctx), w->type->name, &grid))
        return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: there is no grid of the type %s", w->name, w->type->name);
    return qnti_numbers_create(ctx, &grid, 1, w->cols, scratch);
}

static qnt_status rows_task(void *arg, size_t index)
{
    const struct rows_task *t = arg;
    const struct qnti_weight *w = t->w;
    size_t per_task = qnti_rows_per_task(w), end = qnti_min(t->n, (index + 1) * per_task);
    struct qnti_numbers *scratch = NULL;
    qnt_status status = QNT_OK;
    if (w->blocks)
        QNT_TRY(create_scratch(t->ctx, w, &scratch));
    for (size_t i = index * per_task; i < end && status == QNT_OK; i++) {
        size_t r = t->first + i;
        if (w->unpermute_heads && w->rows > 1)
            r = stored_place(w->unpermute_heads, w->rows, r);
        if (w->blocks)
            block_row(w, r, scratch, t->x + i * w->cols);
        else if (w->transposed)
            transposed_row(t->ctx, w, r, t->x + i * w->cols);
        else
            status = qnti_matrix_rows(t->ctx, w->plain, r, 1, t->x + i * w->cols);
    }
    qnti_numbers_free(t->ctx, scratch);
    return status;
}

static qnt_status unpermute_columns(qnt_context *ctx, const struct qnti_weight *w, float *x)
{
    float *stored;
    QNT_TRY(QNTI_NEW_RAW(ctx, w->cols, &stored));
    memcpy(stored, x, w->cols * sizeof *x);
    for (size_t i = 0; i < w->cols; i++)
        x[i] = stored[stored_place(w->unpermute_heads, w->cols, i)];
    qnti_free(ctx, stored);
    return QNT_OK;
}

qnt_status qnti_weight_rows(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n, float *x)
{
    struct rows_task t = {ctx, w, first, n, x};
    if (first > w->rows || n > w->rows - first)
        return qnti_fail(ctx, QNT_INVALID, "%s: rows %zu to %zu of %zu", w->name, first, first + n, w->rows);
    if (w->rotated)
        return qnti_rotated_rows(ctx, w, first, n, x);
    if (w->qlinear)
        return qnti_qlinear_rows(w->qlinear, first, n, x);
    QNT_TRY(qnti_parallel(ctx, qnti_ceil_div(n, qnti_rows_per_task(w)), rows_task, &t));
    if (w->unpermute_heads && w->rows == 1 && n == 1)
        return unpermute_columns(ctx, w, x);
    return QNT_OK;
}

size_t qnti_weight_bytes(const struct qnti_weight *w)
{
    if (w->qlinear)
        return (size_t)ceil(qnti_qlinear_bits(w->qlinear) * (double)w->rows * (double)w->cols / 8);
    if (w->blocks)
        return w->rows * (w->cols / w->type->elements) * w->type->bytes;
    return w->rows * w->cols * qnti_dtype_bytes(w->plain.dtype);
}
