/*
 * pack.h - the bytes of a quantized layer in a format's layout, and back.
 *
 * A packed layer is one tensor or several (GPTQ: qweight, qzeros, scales,
 * g_idx), each a run of bytes of one buffer. Nothing is ever rounded here:
 * what is packed unpacks to the same values, bit for bit, and what a layout
 * cannot hold is refused.
 */
#ifndef QUANT_PACK_H
#define QUANT_PACK_H

#include <quant/qlinear.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One tensor of a packed layer. Row-major, little-endian, as the format's files hold it. */
typedef struct qnt_packed_tensor {
    const char *name;          /* "qweight", "scales" ...; "weight" where there is one; static */
    qnt_dtype dtype;           /* I32, F16, I8 ...; U8 for rows of blocks: shape is then (out, bytes of a row) */
    size_t rank, shape[2];     /* rank 0: one element */
    size_t offset, bytes;      /* in the buffer; offsets are multiples of 64 */
} qnt_packed_tensor;

enum { QNT_MOST_PACKED_TENSORS = 8 };

/*
 * The tensors that the layer becomes in a format, and the size of the buffer for all of them. QNT_NOT_FOUND: unknown
 * format; QNT_UNSUPPORTED: the layer has a part, a grid or a shape that the layout cannot hold, or the format has no
 * layout for a single layer (the message says what, and which formats could).
 */
QNT_API qnt_status qnt_packed_tensors(const qnt_qlinear *q, const char *format,
                                      qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS], size_t *count,
                                      size_t *bytes);

/*
 * Fills the buffer. Errors as above; QNT_INVALID: `bytes` is not the size that qnt_packed_tensors gives. Bytes between
 * tensors are 0. The bias comes along where the format keeps one with the layer ("bias", F16, or F32 if f16 cannot hold
 * it exactly).
 */
QNT_API qnt_status qnt_pack(const qnt_qlinear *q, const char *format, void *buffer, size_t bytes);

/*
 * The layer that packed tensors stand for, which lie in the buffer at their offsets (not necessarily aligned) and come
 * in any order. QNT_BAD_DATA: a tensor is missing, or shapes, sizes or numbers in them do not fit together.
 */
QNT_API qnt_status qnt_unpack(qnt_context *context, const char *format, const char *name,
                              const qnt_packed_tensor *tensors, size_t count, const void *buffer, size_t bytes,
                              qnt_qlinear **q);

/*
 * Size of the buffer for any layer of (out, in), before there is one. QNT_UNSUPPORTED: it depends on more than that in
 * this format, or `in` is no multiple of its block.
 */
QNT_API qnt_status qnt_pack_bytes(qnt_context *context, const char *format, size_t out, size_t in, size_t *bytes);

/* The table of layouts; false beyond the last. Strings are static. */
typedef struct qnt_layout_info {
    const char *name, *title;
    double bits_per_weight;    /* 0: depends on the layer */
    size_t block;              /* columns of a block: `in` must be a multiple */
    bool importance;           /* round to nearest uses an importance of the columns */
    bool packs;                /* qnt_pack knows it; false: only whole models are written so */
} qnt_layout_info;
QNT_API bool qnt_layout_get(size_t index, qnt_layout_info *info);

#ifdef __cplusplus
}
#endif
#endif
