/*
 * words.h - what the layouts of 32-bit words share, GPTQ and AWQ; biases and the search for tensors are all layouts'.
 *
 * The two have qweight, qzeros and scales, with the groups of a column below each
 * other: scales (groups, out). A layer is taken through in tiles of outputs.
 */
#ifndef QNTI_PACK_WORDS_H
#define QNTI_PACK_WORDS_H

#include <endian.h>
#include <string.h>
#include "pack/layout.h"

/* A layer between numbers and words. */
struct qnti_words {
    const struct qnti_kernels *kernels;
    struct qnti_numbers *q;
    size_t out, in, groups;
    unsigned bits, least_zero;            /* a stored zero is less by least_zero */
    qnt_dtype scale_type;
    uint8_t *weight, *zeros, *scales;     /* qweight, qzeros, scales; need not be aligned */
    const uint8_t *index;                 /* g_idx, of a layer that is unpacked; or NULL */
};

/* Numbers stored in files are little-endian. */
static inline uint32_t qnti_load32(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return le32toh(word);
}

static inline void qnti_store32(uint8_t *bytes, uint32_t word)
{
    word = htole32(word);
    memcpy(bytes, &word, sizeof word);
}

/* The view of a layer that is to be packed; the pointers are left open. */
struct qnti_words qnti_words_of(const struct qnti_layout *layout, const qnt_qlinear *q);
/* Adds "scales" and, where the layer has one, "bias" behind the tensors. */
void qnti_words_common_tensors(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                               size_t *count);
/* The layer's bias: of f16, or f32 where f16 cannot hold it. */
qnt_packed_tensor qnti_words_bias(const qnt_qlinear *q);
/* The bias in the type of qnti_words_bias. */
void qnti_words_pack_bias(const qnt_qlinear *q, uint8_t *bytes);

/* Zeros of group g, outputs [first, first + n), as they are stored. */
void qnti_words_get_zeros(const struct qnti_words *w, size_t g, size_t first, size_t n, uint16_t *code);
void qnti_words_put_zeros(const struct qnti_words *w, size_t g, size_t first, size_t n, const uint16_t *code);
/* Scales of all groups, outputs [first, first + n), n at most QNTI_WORDS_TILE. */
enum { QNTI_WORDS_TILE = 128 };
void qnti_words_pack_scales(const struct qnti_words *w, size_t first, size_t n);
void qnti_words_unpack_scales(const struct qnti_words *w, size_t first, size_t n);

/* --- unpacking --- */

/* Finds a tensor; QNT_BAD_DATA where it is missing and required, or has not this type and shape. *data NULL: absent. */
struct qnti_tensor_set {
    qnt_context *ctx;
    const char *layer;
    const qnt_packed_tensor *tensors;
    const uint8_t *const *data;
    size_t count;
};
const qnt_packed_tensor *qnti_set_find(const struct qnti_tensor_set *set, const char *name, const uint8_t **data);
/* QNT_BAD_DATA unless the tensor is there as I32 of two dimensions. */
qnt_status qnti_set_words(const struct qnti_tensor_set *set, const char *name, const qnt_packed_tensor **tensor,
                          uint8_t **data);
/* The layer's bias, where there is one. */
qnt_status qnti_set_bias(const struct qnti_tensor_set *set, qnt_qlinear *q);
/* Checks scales against out and gives groups, type and place. */
qnt_status qnti_set_scales(const struct qnti_tensor_set *set, struct qnti_words *w);
/* A layer on an affine grid of w's bits with this map, its bias read; w->q is its numbers. */
qnt_status qnti_set_create(const struct qnti_tensor_set *set, struct qnti_words *w, const struct qnti_map *map,
                           qnt_qlinear **q);
/* Once all zeros are there: makes one constant of them where they are all in the middle. */
void qnti_words_settle_zeros(qnt_context *ctx, struct qnti_numbers *q);

#endif
