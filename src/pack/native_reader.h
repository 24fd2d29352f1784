/*
 * native_reader.h - the parts of one layer among the tensors of a file (native_read.c, native_numbers.c).
 */
#ifndef QNTI_NATIVE_READER_H
#define QNTI_NATIVE_READER_H

#include "pack/native.h"

enum { QNTI_READER_NAME_BYTES = 512 };

struct qnti_reader {
    qnt_context *ctx;
    const struct qnti_safetensors *file;
    const char *prefix;          /* of the names in hand: the layer's, or of a part of it */
    int depth;                   /* of numbers whose scales are numbers */
};

/* PREFIX.suffix, or NULL. */
const struct qnti_tensor *qnti_reader_find(const struct qnti_reader *r, const char *suffix);
/* QNT_BAD_DATA: "tensor PREFIX.suffix `what`". */
qnt_status qnti_reader_bad(const struct qnti_reader *r, const char *suffix, const char *what);
/* A tensor of exactly n elements of `size` bytes and that type. */
qnt_status qnti_reader_elements(const struct qnti_reader *r, const char *suffix, const char *dtype, size_t n,
                                size_t size, void *to);
qnt_status qnti_reader_words(const struct qnti_reader *r, const char *suffix, size_t n, int32_t *words);
qnt_status qnti_reader_floats(const struct qnti_reader *r, const char *suffix, qnt_dtype type, size_t n, float *x);
bool qnti_within(int32_t value, int32_t least, int32_t most);
bool qnti_reader_float_type(int32_t type);
/* What follows is left NULL where the file has none. rows, cols 0: any. */
qnt_status qnti_reader_numbers(const struct qnti_reader *r, const char *suffix, size_t rows, size_t cols,
                               struct qnti_numbers **numbers);
qnt_status qnti_reader_act(const struct qnti_reader *r, const char *suffix, size_t cols, struct qnti_actquant **act);
qnt_status qnti_reader_cache(const struct qnti_reader *r, size_t out, struct qnti_cache **cache);

#endif
