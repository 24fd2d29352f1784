/*
 * safetensors_private.h - what reader and writer of safetensors share.
 */
#ifndef QNTI_SAFETENSORS_PRIVATE_H
#define QNTI_SAFETENSORS_PRIVATE_H

#include "file/safetensors.h"

enum { QNTI_SAFETENSORS_MAX_HEADER = 100000000 };

/* The format's types in the order in which writers lay tensors out: largest alignment first. */
struct qnti_safetensors_type {
    const char *name;
    size_t bits;
};

/* NULL: unknown. Pointers compare in the table's order. */
const struct qnti_safetensors_type *qnti_safetensors_type(const char *name);

/*
 * Elements and bytes of a shape: dimensions are multiplied from the left with
 * every step checked, so a 0 does not hide an overflow before it. QNT_BAD_DATA,
 * naming `where` and the tensor.
 */
qnt_status qnti_safetensors_measure(qnt_context *ctx, const char *where, const char *name,
                                    const struct qnti_safetensors_type *type, size_t rank, const size_t *shape,
                                    size_t *elements, size_t *bytes);

/*
 * Fills tensors, metadata and strings of `file` from a header of n bytes, whose
 * tensors lie in the buffer_bytes bytes at `buffer`. Each tensor is checked by itself; order and names are not.
 */
qnt_status qnti_safetensors_header(struct qnti_safetensors *file, const char *header, size_t n, const char *buffer,
                                   size_t buffer_bytes);

#endif
