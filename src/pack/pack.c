/*
 * pack.c - the public face of packing: tensors in one buffer, checked before any packer sees them.
 */
#include <string.h>
#include "base/number.h"
#include "pack/layout.h"

enum { ALIGNMENT = 64 };

const struct qnti_layout *qnti_layout_for(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    const struct qnti_numbers *w = q->segment_count == 1 ? q->segments[0].weight : NULL;
    if (!layout->symmetric || !w || !w->grid.constant_offset || w->grid.offset != (float)(w->grid.levels / 2))
        return layout;
    return qnti_layout_find(q->ctx, layout->symmetric);
}

static qnt_status find_packed(qnt_context *ctx, const char *format, const struct qnti_layout **layout)
{
    *layout = qnti_layout_find(ctx, format);
    if (!*layout)
        return QNT_NOT_FOUND;
    if ((*layout)->packer)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "format %s has no layout for a single layer", (*layout)->name);
}

/* Bytes by shape; false: more than there can be. */
static bool measure(const qnt_packed_tensor *t, size_t *bytes)
{
    *bytes = qnti_dtype_bytes(t->dtype);
    for (size_t i = 0; i < t->rank; i++)
        if (!qnti_multiply(*bytes, t->shape[i], bytes))
            return false;
    return *bytes <= SIZE_MAX / 2;
}

/* Places the tensors one after another. */
static qnt_status place(qnt_context *ctx, qnt_packed_tensor *tensors, size_t count, size_t *bytes)
{
    *bytes = 0;
    for (size_t i = 0; i < count; i++) {
        qnt_packed_tensor *t = &tensors[i];
        t->offset = qnti_ceil_div(*bytes, ALIGNMENT) * ALIGNMENT;
        if (!measure(t, &t->bytes) || __builtin_add_overflow(t->offset, t->bytes, bytes) || *bytes > SIZE_MAX / 2)
            return qnti_fail(ctx, QNT_INVALID, "tensor %s of %zu x %zu is too large", t->name, t->shape[0],
                             t->shape[1]);
    }
    return QNT_OK;
}

qnt_status qnti_layout_tensors(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                               size_t *count, size_t *bytes)
{
    layout = qnti_layout_for(layout, q);
    QNT_TRY(qnti_layout_holds(layout, q));
    QNT_TRY(layout->packer->tensors(layout, q, tensors, count));
    return place(q->ctx, tensors, *count, bytes);
}

qnt_status qnt_packed_tensors(const qnt_qlinear *q, const char *format,
                              qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS], size_t *count, size_t *bytes)
{
    const struct qnti_layout *layout;
    QNT_TRY(find_packed(q->ctx, format, &layout));
    return qnti_layout_tensors(layout, q, tensors, count, bytes);
}

qnt_status qnti_layout_pack(const struct qnti_layout *layout, const qnt_qlinear *q, void *buffer, size_t bytes)
{
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    uint8_t *data[QNT_MOST_PACKED_TENSORS], *base = buffer;
    size_t count, wanted;
    QNT_TRY(qnti_layout_tensors(layout, q, tensors, &count, &wanted));
    if (bytes != wanted)
        return qnti_fail(q->ctx, QNT_INVALID, "%zu bytes for a layer of %zu x %zu in format %s, which takes %zu", bytes,
                         q->out, q->in, layout->name, wanted);
    for (size_t i = 0; i < count; i++) {
        data[i] = base + tensors[i].offset;
        if (i)
            memset(data[i - 1] + tensors[i - 1].bytes, 0, tensors[i].offset - tensors[i - 1].offset -
                   tensors[i - 1].bytes);
    }
    layout = qnti_layout_for(layout, q);
    return layout->packer->pack(layout, q, data);
}

qnt_status qnt_pack(const qnt_qlinear *q, const char *format, void *buffer, size_t bytes)
{
    const struct qnti_layout *layout;
    QNT_TRY(find_packed(q->ctx, format, &layout));
    return qnti_layout_pack(layout, q, buffer, bytes);
}

qnt_status qnti_layout_unpack(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                              const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count,
                              qnt_qlinear **q)
{
    *q = NULL;
    for (size_t i = 0; i < count; i++) {
        const qnt_packed_tensor *t = &tensors[i];
        size_t bytes;
        if (t->rank > 2 || !measure(t, &bytes) || bytes != t->bytes)
            return qnti_fail(ctx, QNT_BAD_DATA, "layer %s: tensor %s has %zu bytes, not those of its shape", name,
                             t->name, t->bytes);
    }
    QNT_TRY(layout->packer->unpack(ctx, layout, name, tensors, data, count, q));
    (*q)->report.bits_per_weight = qnti_qlinear_bits(*q);
    return QNT_OK;
}

qnt_status qnt_unpack(qnt_context *ctx, const char *format, const char *name, const qnt_packed_tensor *tensors,
                      size_t count, const void *buffer, size_t bytes, qnt_qlinear **q)
{
    const uint8_t *data[QNT_MOST_PACKED_TENSORS], *base = buffer;
    const struct qnti_layout *layout;
    *q = NULL;
    QNT_TRY(find_packed(ctx, format, &layout));
    if (count > QNT_MOST_PACKED_TENSORS)
        return qnti_fail(ctx, QNT_INVALID, "layer %s: %zu tensors, at most %d", name, count, QNT_MOST_PACKED_TENSORS);
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].offset > bytes || tensors[i].bytes > bytes - tensors[i].offset)
            return qnti_fail(ctx, QNT_BAD_DATA, "layer %s: tensor %s reaches beyond the %zu bytes of the buffer", name,
                             tensors[i].name, bytes);
        data[i] = base + tensors[i].offset;
    }
    return qnti_layout_unpack(ctx, layout, name, tensors, data, count, q);
}

qnt_status qnt_pack_bytes(qnt_context *ctx, const char *format, size_t out, size_t in, size_t *bytes)
{
    const struct qnti_layout *layout;
    const struct qnti_ggml_type *type;
    size_t row;
    QNT_TRY(find_packed(ctx, format, &layout));
    type = layout->ggml ? qnti_ggml_type_named(layout->ggml) : NULL;
    if (!type)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "format %s: the bytes of a layer depend on its bits and groups",
                         layout->name);
    QNT_TRY(qnti_layout_width(ctx, layout, "to pack", in));
    if (!qnti_multiply(in / type->elements, type->bytes, &row) || !qnti_multiply(row, out, bytes))
        return qnti_fail(ctx, QNT_INVALID, "a layer of %zu x %zu is too large", out, in);
    return QNT_OK;
}
