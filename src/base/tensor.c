/*
 * tensor.c - matrix views of three element types, read as f32.
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

void qnti_widen(const qnt_context *ctx, qnt_dtype dtype, const void *data, size_t n, float *x)
{
    if (dtype == QNT_F32)
        memcpy(x, data, n * sizeof *x);
    else
        widen16(ctx, dtype, data, n, x);
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
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

qnt_status qnti_matrix_check_finite(qnt_context *ctx, qnt_matrix m, const char *what)
{
    size_t count = 0, row = 0, col = 0;
    float *x, first = 0;
    QNT_TRY(QNTI_NEW_RAW(ctx, m.cols, &x));
    for (size_t r = 0; r < m.rows; r++) {
        qnt_status status = qnti_matrix_rows(ctx, m, r, 1, x);
        if (status != QNT_OK) {
            qnti_free(ctx, x);
            return status;
        }
        if (qnti_all_finite(x, m.cols))
            continue;
        for (size_t c = 0; c < m.cols; c++)
            if (!isfinite(x[c]) && count++ == 0) {
                row = r;
                col = c;
                first = x[c];
            }
    }
    qnti_free(ctx, x);
    if (count == 0)
        return QNT_OK;
    return qnti_fail(ctx, QNT_NON_FINITE,
                     "%s: %zu of %zu numbers are not finite, the first is %g at row %zu, column %zu",
                     what, count, m.rows * m.cols, (double)first, row, col);
}
