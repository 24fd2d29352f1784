/*
 * gguf_private.h - what the parts of the GGUF container share.
 */
#ifndef QNTI_GGUF_PRIVATE_H
#define QNTI_GGUF_PRIVATE_H

#include "container/gguf.h"

enum { QNTI_GGUF_VERSION = 3, QNTI_GGUF_ALIGNMENT = 32, QNTI_GGUF_MAX_RANK = 4, QNTI_GGUF_NAME_BYTES = 64 };

/* A little-endian unsigned integer of n bytes. */
static inline uint64_t qnti_gguf_load(const unsigned char *bytes, size_t n)
{
    uint64_t value = 0;
    while (n-- > 0)
        value = value << 8 | bytes[n];
    return value;
}

/* The kinds of values, by number. */
struct qnti_gguf_kind {
    const char *name;
    size_t bytes;                          /* 0: of no fixed size */
    bool integer, has_sign;
};

/* NULL: no such number. */
const struct qnti_gguf_kind *qnti_gguf_kind(uint32_t type);

#endif
