/*
 * buffer.h - a byte string that grows: headers of files, token lists, messages.
 */
#ifndef QNTI_BUFFER_H
#define QNTI_BUFFER_H

#include "base/context.h"

struct qnti_buffer {
    char *data;      /* NUL behind the last byte once anything was added */
    size_t bytes, capacity;
};

qnt_status qnti_buffer_add(qnt_context *ctx, struct qnti_buffer *b, const void *bytes, size_t n);
qnt_status qnti_buffer_print(qnt_context *ctx, struct qnti_buffer *b, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void qnti_buffer_free(qnt_context *ctx, struct qnti_buffer *b);

#endif
