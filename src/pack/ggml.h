/*
 * ggml.h - the block types of ggml: sizes, bytes of a block from codes and back.
 */
#ifndef QNTI_PACK_GGML_H
#define QNTI_PACK_GGML_H

#include "grid/grid.h"

struct qnti_ggml_type {
    const char *name;              /* "q4_0", "f16" ... as in gguf:TYPE */
    uint32_t id;
    size_t elements, bytes;        /* of a block */
    bool importance;               /* its quantizer uses an importance of the columns */
    /* One block of a row of numbers on qnti_ggml_grid(name); NULL where the library only knows the size. */
    void (*pack)(const struct qnti_numbers *q, size_t row, size_t block, uint8_t *bytes);
    void (*unpack)(const uint8_t *bytes, struct qnti_numbers *q, size_t row, size_t block);
};

/* NULL: none. Case is ignored in names. */
const struct qnti_ggml_type *qnti_ggml_type_named(const char *name);
const struct qnti_ggml_type *qnti_ggml_type_of(uint32_t id);
/* For the container: sizes of a type, false for unknown and removed ids. */
bool qnti_ggml_type_size(uint32_t id, size_t *elements, size_t *bytes);

#endif
