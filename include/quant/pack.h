/*
 * pack.h - the bytes of a quantized layer in a format's layout, and back.
 */
#ifndef QUANT_PACK_H
#define QUANT_PACK_H

#include <quant/qlinear.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Bytes that qnt_pack writes for a layer of (out, in). QNT_NOT_FOUND: unknown
 * format; QNT_UNSUPPORTED: `in` is no multiple of its block.
 */
QNT_API qnt_status qnt_pack_bytes(qnt_context *context, const char *format, size_t out, size_t in, size_t *bytes);

/*
 * Rows in order, each of whole blocks. QNT_UNSUPPORTED: the layer has a part or a grid that the layout cannot hold (the
 * message says which); QNT_INVALID: `bytes` is not qnt_pack_bytes'. Nothing is rounded: what is packed unpacks to the
 * same values, bit for bit.
 */
QNT_API qnt_status qnt_pack(const qnt_qlinear *q, const char *format, void *buffer, size_t bytes);

/* The layer that packed bytes stand for. */
QNT_API qnt_status qnt_unpack(qnt_context *context, const char *format, const char *name, size_t out, size_t in,
                              const void *buffer, size_t bytes, qnt_qlinear **q);

/* The table of layouts; false beyond the last. Strings are static. */
typedef struct qnt_layout_info {
    const char *name, *title;
    double bits_per_weight;    /* 0: depends on the layer */
    size_t block;              /* columns of a block */
    bool importance;           /* round to nearest uses an importance of the columns */
} qnt_layout_info;
QNT_API bool qnt_layout_get(size_t index, qnt_layout_info *info);

#ifdef __cplusplus
}
#endif
#endif
