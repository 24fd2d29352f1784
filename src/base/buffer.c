/*
 * buffer.c - a byte string that grows by doubling.
 */
#include "base/buffer.h"

#include <stdio.h>
#include <string.h>

static qnt_status reserve(qnt_context *ctx, struct qnti_buffer *b, size_t n)
{
    size_t need, capacity = b->capacity ? b->capacity : 64;
    char *data;
    if (__builtin_add_overflow(b->bytes, n, &need) || need > SIZE_MAX / 2 - 1)
        return qnti_fail(ctx, QNT_NO_MEMORY, "a buffer of %zu + %zu bytes is too large", b->bytes, n);
    if (need < b->capacity)
        return QNT_OK;
    while (capacity <= need)
        capacity *= 2;
    QNT_TRY(qnti_alloc_raw(ctx, capacity, 1, (void **)&data));
    if (b->bytes)
        memcpy(data, b->data, b->bytes);
    qnti_free(ctx, b->data);
    b->data = data;
    b->capacity = capacity;
    return QNT_OK;
}

qnt_status qnti_buffer_add(qnt_context *ctx, struct qnti_buffer *b, const void *bytes, size_t n)
{
    QNT_TRY(reserve(ctx, b, n));
    if (n)
        memcpy(b->data + b->bytes, bytes, n);
    b->bytes += n;
    b->data[b->bytes] = 0;
    return QNT_OK;
}

qnt_status qnti_buffer_print(qnt_context *ctx, struct qnti_buffer *b, const char *format, ...)
{
    va_list args;
    int n;
    va_start(args, format);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        return qnti_fail(ctx, QNT_INVALID, "cannot print \"%s\"", format);
    QNT_TRY(reserve(ctx, b, (size_t)n + 1));
    va_start(args, format);
    vsnprintf(b->data + b->bytes, (size_t)n + 1, format, args);
    va_end(args);
    b->bytes += (size_t)n;
    return QNT_OK;
}

void qnti_buffer_free(qnt_context *ctx, struct qnti_buffer *b)
{
    qnti_free(ctx, b->data);
    b->data = NULL;
    b->bytes = b->capacity = 0;
}
