/*
 * layout_support.h - a layer packed for a format.
 */
#ifndef LAYOUT_SUPPORT_H
#define LAYOUT_SUPPORT_H

#include "layer_support.h"

struct packed {
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes;
    uint8_t *buffer;
};

static inline void pack(qnt_context *ctx, const qnt_qlinear *q, const char *format, struct packed *p)
{
    assert_ok(ctx, qnt_packed_tensors(q, format, p->tensors, &p->count, &p->bytes));
    p->buffer = malloc(p->bytes);
    assert_non_null(p->buffer);
    memset(p->buffer, 0xa5, p->bytes); /* every byte is the packer's */
    assert_ok(ctx, qnt_pack(q, format, p->buffer, p->bytes));
}

#endif
