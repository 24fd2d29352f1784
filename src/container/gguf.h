/*
 * gguf.h - read (mapped) and write the GGUF v3 container: keys, values, tensors. Names and meaning are others' affair.
 */
#ifndef QNTI_GGUF_H
#define QNTI_GGUF_H

#include "base/buffer.h"
#include "base/context.h"

enum qnti_gguf_value_type {
    QNTI_GGUF_U8, QNTI_GGUF_I8, QNTI_GGUF_U16, QNTI_GGUF_I16, QNTI_GGUF_U32, QNTI_GGUF_I32, QNTI_GGUF_F32,
    QNTI_GGUF_BOOL, QNTI_GGUF_STRING, QNTI_GGUF_ARRAY, QNTI_GGUF_U64, QNTI_GGUF_I64, QNTI_GGUF_F64
};

/* A key's value, pointing into the mapping (unaligned). Strings: u64 length and bytes each. */
struct qnti_gguf_value {
    char *key;                             /* NUL-terminated, the file's own */
    enum qnti_gguf_value_type type;        /* element type for arrays */
    bool array;
    uint64_t count;                        /* 1, or the array's */
    const unsigned char *data;
    size_t bytes;
};

struct qnti_gguf_tensor {
    char *name;                            /* the file's own */
    size_t rank, ne[4];                    /* ne[0] is the row length; 1 beyond the rank */
    uint32_t type;                         /* ggml id */
    const unsigned char *data;
    size_t bytes;
};

/* What the container must know of a ggml type, from the caller (pack/ has the table). false: unknown or removed id. */
typedef bool (*qnti_gguf_type_fn)(uint32_t type, size_t *block_elements, size_t *block_bytes);

struct qnti_gguf {
    qnt_context *ctx;
    char *path;
    uint32_t version;
    size_t alignment;
    struct qnti_gguf_value *values;
    size_t value_count;
    struct qnti_gguf_tensor *tensors;
    size_t tensor_count;
    void *map;
    size_t bytes;
    size_t *by_key, *by_name;              /* indices of values and tensors, sorted by name */
};

/*
 * Maps a file and checks every length, count, type and offset against the format. QNT_IO; QNT_BAD_DATA;
 * QNT_UNSUPPORTED: another version, or big-endian.
 */
qnt_status qnti_gguf_open(qnt_context *ctx, const char *path, qnti_gguf_type_fn type, struct qnti_gguf **file);
/* The same for a file that lies in memory and stays there; `name` stands for the path in messages. */
qnt_status qnti_gguf_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                 qnti_gguf_type_fn type, struct qnti_gguf **file);
void qnti_gguf_close(struct qnti_gguf *file);
const struct qnti_gguf_value *qnti_gguf_find(const struct qnti_gguf *file, const char *key);
const struct qnti_gguf_tensor *qnti_gguf_find_tensor(const struct qnti_gguf *file, const char *name);

/*
 * Typed access to scalars; a missing key leaves *value and gives QNT_OK, another type is QNT_BAD_DATA (any integer
 * type is taken where it is in range).
 */
qnt_status qnti_gguf_size(const struct qnti_gguf *file, const char *key, size_t *value);
qnt_status qnti_gguf_float(const struct qnti_gguf *file, const char *key, float *value);
qnt_status qnti_gguf_bool(const struct qnti_gguf *file, const char *key, bool *value);
/* Not NUL-terminated: *bytes long. *value is left NULL if missing. */
qnt_status qnti_gguf_string(const struct qnti_gguf *file, const char *key, const char **value, size_t *bytes);
/* Walks an array of strings: call with *cursor = NULL first; false at the end. */
bool qnti_gguf_next_string(const struct qnti_gguf_value *value, const unsigned char **cursor, const char **string,
                           size_t *bytes);

/* Writing: keys and tensor descriptions are gathered, then everything is written through one output. */
struct qnti_output;
struct qnti_gguf_writer {
    qnt_context *ctx;
    struct qnti_buffer values;             /* keys and values as they will stand in the file */
    uint64_t value_count;
    struct qnti_buffer entries;            /* an array of descriptions of tensors */
    size_t entry_count;
};

void qnti_gguf_writer_init(qnt_context *ctx, struct qnti_gguf_writer *writer);
void qnti_gguf_writer_free(struct qnti_gguf_writer *writer);
qnt_status qnti_gguf_put_u16(struct qnti_gguf_writer *writer, const char *key, uint16_t value);
qnt_status qnti_gguf_put_i32(struct qnti_gguf_writer *writer, const char *key, int32_t value);
qnt_status qnti_gguf_put_u32(struct qnti_gguf_writer *writer, const char *key, uint32_t value);
qnt_status qnti_gguf_put_f32(struct qnti_gguf_writer *writer, const char *key, float value);
qnt_status qnti_gguf_put_bool(struct qnti_gguf_writer *writer, const char *key, bool value);
/* Empty strings and empty arrays are left out, as the format's converter does. */
qnt_status qnti_gguf_put_string(struct qnti_gguf_writer *writer, const char *key, const char *value, size_t bytes);
qnt_status qnti_gguf_put_f32_array(struct qnti_gguf_writer *writer, const char *key, const float *values, size_t n);
qnt_status qnti_gguf_put_bool_array(struct qnti_gguf_writer *writer, const char *key, const bool *values, size_t n);
qnt_status qnti_gguf_put_i32_array(struct qnti_gguf_writer *writer, const char *key, const int32_t *values, size_t n);
/* strings[i] of lengths[i] bytes. */
qnt_status qnti_gguf_put_string_array(struct qnti_gguf_writer *writer, const char *key, const char *const *strings,
                                      const size_t *lengths, size_t n);
/*
 * Describes a tensor; its `bytes` bytes are asked for by qnti_gguf_write, in the order of description, through
 * `write` (which must write exactly that many).
 */
qnt_status qnti_gguf_add_tensor(struct qnti_gguf_writer *writer, const char *name, size_t rank, const size_t *ne,
                                uint32_t type, size_t bytes,
                                qnt_status (*write)(void *user, struct qnti_output *output), void *user);
/* Header, tensors and padding to `output`; the caller commits it. */
qnt_status qnti_gguf_write(const struct qnti_gguf_writer *writer, struct qnti_output *output);
/* Bytes that the file will have. */
uint64_t qnti_gguf_bytes(const struct qnti_gguf_writer *writer);

#endif
