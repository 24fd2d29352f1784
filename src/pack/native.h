/*
 * native.h - a layer as named tensors that hold every part of it, and back.
 *
 * The layer L becomes tensors L.grid ..., all of whose names begin with
 * "L." and end in none of ".weight" or ".bias". Codes are packed at their bit width,
 * scales and offsets in their storage types, quantized again where they are.
 * Descriptions are small I32 tensors, so that the layer level needs no JSON.
 */
#ifndef QNTI_PACK_NATIVE_H
#define QNTI_PACK_NATIVE_H

#include "file/safetensors.h"
#include "qlinear/qlinear.h"

enum { QNTI_NATIVE_VERSION = 3 };

/* Tensors of layers that are gathered for one file; their bytes are owned. */
struct qnti_native_tensors {
    struct qnti_tensor_source *sources;
    size_t count, capacity;
};

/* Adds every part of the layer; the layer may be destroyed afterwards. */
qnt_status qnti_native_add(qnt_context *ctx, const qnt_qlinear *q, struct qnti_native_tensors *tensors);
void qnti_native_tensors_free(qnt_context *ctx, struct qnti_native_tensors *tensors);

/* The layer of that name (without ".weight"). QNT_NOT_FOUND: the file has none; QNT_BAD_DATA names tensor and sizes. */
qnt_status qnti_native_read(qnt_context *ctx, const struct qnti_safetensors *file, const char *name, qnt_qlinear **q);
/* Whether the file holds a layer of that name, and its size. */
bool qnti_native_find(const struct qnti_safetensors *file, const char *name, size_t *out, size_t *in);

#endif
