/*
 * tensor.c - elements of the types of floats, and matrix views of three of them, read as f32.
 */
#include "base/tensor.h"

#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"

/* Files give unaligned pointers: 16-bit elements then go through an aligned buffer. */
static void widen16(const qnt_context *ctx, qnt_dtype dtype, const char *data, size_t n, float *x)
{
    enum { CHUNK = 1024 };
    const struct qnti_kernels *k = qnti_context_kernels(ctx);
    uint16_t aligned[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done);
        const char *from = data + 2 * done;
        const uint16_t *h = aligned;
        if ((uintptr_t)from % sizeof *h == 0)
            h = (const uint16_t *)(const void *)from;
        else
            memcpy(aligned, from, run * sizeof *aligned);
        if (dtype == QNT_F16)
            k->f16_to_f32(run, h, x + done);
        else
            k->bf16_to_f32(run, h, x + done);
    }
}

/* Floats of 8 bits that are all numbers; NULL: another type. */
static const struct qnti_small_float *small_float(qnt_dtype dtype)
{
    return dtype == QNT_F8_E4M3 ? &qnti_e4m3 : dtype == QNT_F8_E5M2 ? &qnti_e5m2 : NULL;
}

void qnti_widen(const qnt_context *ctx, qnt_dtype dtype, const void *data, size_t n, float *x)
{
    const uint8_t *bytes = data;
    if (dtype == QNT_F32)
        memcpy(x, data, n * sizeof *x);
    else if (small_float(dtype))
        for (size_t i = 0; i < n; i++)
            x[i] = qnti_small_value(small_float(dtype), bytes[i]);
    else if (dtype == QNT_F8_E8M0)
        for (size_t i = 0; i < n; i++)
            x[i] = qnti_e8m0_to_f32(bytes[i]);
    else
        widen16(ctx, dtype, data, n, x);
}

static void narrow16(const qnt_context *ctx, qnt_dtype dtype, const float *x, size_t n, char *data)
{
    enum { CHUNK = 1024 };
    const struct qnti_kernels *k = qnti_context_kernels(ctx);
    uint16_t half[CHUNK];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done);
        (dtype == QNT_F16 ? k->f32_to_f16 : k->f32_to_bf16)(run, x + done, half);
        memcpy(data + 2 * done, half, run * sizeof *half);
    }
}

void qnti_narrow(const qnt_context *ctx, qnt_dtype dtype, const float *x, size_t n, void *data)
{
    uint8_t *bytes = data;
    if (dtype == QNT_F32)
        memcpy(data, x, n * sizeof *x);
    else if (small_float(dtype))
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)qnti_small_code(small_float(dtype), x[i]);
    else if (dtype == QNT_F8_E8M0)
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)qnti_f32_to_e8m0(x[i]);
    else
        narrow16(ctx, dtype, x, n, data);
}

qnt_status qnti_matrix_rows(qnt_context *ctx, qnt_matrix m, size_t first, size_t n, float *x)
{
    size_t bytes = qnti_dtype_bytes(m.dtype);
    if (m.dtype != QNT_F32 && m.dtype != QNT_F16 && m.dtype != QNT_BF16)
        return qnti_fail(ctx, QNT_INVALID, "a matrix of %s where F32, F16 or BF16 is wanted",
                         qnti_dtype_name(m.dtype));
    if (m.stride < m.cols || first > m.rows || n > m.rows - first)
        return qnti_fail(ctx, QNT_INVALID, "rows %zu to %zu of a matrix of %zu x %zu, stride %zu", first, first + n,
                         m.rows, m.cols, m.stride);
    for (size_t r = 0; r < n; r++)
        qnti_widen(ctx, m.dtype, (const char *)m.data + (first + r) * m.stride * bytes, m.cols, x + r * m.cols);
    return QNT_OK;
}

bool qnti_all_finite(const float *x, size_t n)
{
    uint32_t any = 0;
    for (size_t i = 0; i < n; i++) /* exponent of all ones */
        any |= (uint32_t)((qnti_bits(x[i]) & 0x7f800000u) == 0x7f800000u);
    return !any;
}

double qnti_sum_squares(const float *x, size_t n)
{
    enum { LANES = 8 }; /* sums side by side: one waits for its last addition */
    double lane[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            lane[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++)
        lane[0] += (double)x[i] * (double)x[i];
    for (size_t k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

/* Rows in fixed chunks, each of which says whether all its numbers are finite. */
struct finite_task {
    qnt_context *ctx;
    qnt_matrix m;
    bool *finite;
};

enum { FINITE_ROWS = 64 };

static qnt_status check_rows(void *arg, size_t index)
{
    const struct finite_task *t = arg;
    size_t first = index * FINITE_ROWS, n = qnti_min(FINITE_ROWS, t->m.rows - first);
    qnt_status status = QNT_OK;
    float *x;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->m.cols, &x));
    t->finite[index] = true;
    for (size_t r = first; status == QNT_OK && r < first + n; r++) {
        status = qnti_matrix_rows(t->ctx, t->m, r, 1, x);
        t->finite[index] &= status == QNT_OK && qnti_all_finite(x, t->m.cols);
    }
    qnti_free(t->ctx, x);
    return status;
}

/* The message about chunks that are not finite. */
static qnt_status not_finite(const struct finite_task *t, const char *what)
{
    size_t count = 0, row = 0, col = 0;
    float *x, first = 0;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->m.cols, &x));
    for (size_t r = 0; r < t->m.rows; r++) {
        if (t->finite[r / FINITE_ROWS] || qnti_matrix_rows(t->ctx, t->m, r, 1, x) != QNT_OK)
            continue;
        for (size_t c = 0; c < t->m.cols; c++)
            if (!isfinite(x[c]) && count++ == 0) {
                row = r;
                col = c;
                first = x[c];
            }
    }
    qnti_free(t->ctx, x);
    return qnti_fail(t->ctx, QNT_NON_FINITE,
                     "%s: %zu of %zu numbers are not finite, the first is %g at row %zu, column %zu", what, count,
                     t->m.rows * t->m.cols, (double)first, row, col);
}

qnt_status qnti_matrix_check_finite(qnt_context *ctx, qnt_matrix m, const char *what)
{
    struct finite_task t = {ctx, m, NULL};
    size_t chunks = qnti_ceil_div(m.rows, FINITE_ROWS);
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, chunks, &t.finite));
    status = qnti_parallel(ctx, chunks, check_rows, &t);
    for (size_t i = 0; status == QNT_OK && i < chunks; i++)
        if (!t.finite[i])
            status = not_finite(&t, what);
    qnti_free(ctx, t.finite);
    return status;
}
