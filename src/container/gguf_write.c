/*
 * gguf_write.c - writes a GGUF v3 file; see gguf_read.c for its layout.
 *
 * Keys and values are gathered as the bytes that the file will have. Every
 * tensor, the last one too, is padded with zeros to 32 bytes. That keys and
 * names differ is the caller's affair; reading the file back finds it out.
 */
#include "container/gguf_private.h"

#include <string.h>
#include "base/number.h"
#include "file/output.h"

enum { HEADER_BYTES = 24 };

struct qnti_gguf_entry {
    char *name;
    size_t rank, ne[QNTI_GGUF_MAX_RANK];
    uint32_t type;
    size_t bytes;
    qnt_status (*write)(void *user, struct qnti_output *output);
    void *user;
};

/* The array of descriptions. */
static const struct qnti_gguf_entry *entries_of(const struct qnti_gguf_writer *w)
{
    return (const void *)w->entries.data;
}

void qnti_gguf_writer_init(qnt_context *ctx, struct qnti_gguf_writer *writer)
{
    *writer = (struct qnti_gguf_writer){.ctx = ctx};
}

void qnti_gguf_writer_free(struct qnti_gguf_writer *writer)
{
    for (size_t i = 0; i < writer->entry_count; i++)
        qnti_free(writer->ctx, entries_of(writer)[i].name);
    qnti_buffer_free(writer->ctx, &writer->entries);
    qnti_buffer_free(writer->ctx, &writer->values);
    qnti_gguf_writer_init(writer->ctx, writer);
}

/* A little-endian integer of n bytes. */
static qnt_status put_integer(qnt_context *ctx, struct qnti_buffer *b, uint64_t value, size_t n)
{
    unsigned char bytes[sizeof value];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)(value >> (8 * i));
    return qnti_buffer_add(ctx, b, bytes, n);
}

static qnt_status put_string(qnt_context *ctx, struct qnti_buffer *b, const char *string, size_t bytes)
{
    QNT_TRY(put_integer(ctx, b, bytes, 8));
    return qnti_buffer_add(ctx, b, string, bytes);
}

/* Key and type; the value follows. */
static qnt_status put_key(struct qnti_gguf_writer *w, const char *key, enum qnti_gguf_value_type type)
{
    w->value_count++;
    QNT_TRY(put_string(w->ctx, &w->values, key, strlen(key)));
    return put_integer(w->ctx, &w->values, type, 4);
}

static qnt_status put_array(struct qnti_gguf_writer *w, const char *key, enum qnti_gguf_value_type type, size_t n)
{
    QNT_TRY(put_key(w, key, QNTI_GGUF_ARRAY));
    QNT_TRY(put_integer(w->ctx, &w->values, type, 4));
    return put_integer(w->ctx, &w->values, n, 8);
}

qnt_status qnti_gguf_put_u16(struct qnti_gguf_writer *w, const char *key, uint16_t value)
{
    QNT_TRY(put_key(w, key, QNTI_GGUF_U16));
    return put_integer(w->ctx, &w->values, value, 2);
}

qnt_status qnti_gguf_put_u32(struct qnti_gguf_writer *w, const char *key, uint32_t value)
{
    QNT_TRY(put_key(w, key, QNTI_GGUF_U32));
    return put_integer(w->ctx, &w->values, value, 4);
}

qnt_status qnti_gguf_put_i32(struct qnti_gguf_writer *w, const char *key, int32_t value)
{
    QNT_TRY(put_key(w, key, QNTI_GGUF_I32));
    return put_integer(w->ctx, &w->values, (uint32_t)value, 4);
}

qnt_status qnti_gguf_put_f32(struct qnti_gguf_writer *w, const char *key, float value)
{
    QNT_TRY(put_key(w, key, QNTI_GGUF_F32));
    return put_integer(w->ctx, &w->values, qnti_bits(value), 4);
}

qnt_status qnti_gguf_put_bool(struct qnti_gguf_writer *w, const char *key, bool value)
{
    QNT_TRY(put_key(w, key, QNTI_GGUF_BOOL));
    return put_integer(w->ctx, &w->values, value, 1);
}

qnt_status qnti_gguf_put_string(struct qnti_gguf_writer *w, const char *key, const char *value, size_t bytes)
{
    if (bytes == 0)
        return QNT_OK;
    QNT_TRY(put_key(w, key, QNTI_GGUF_STRING));
    return put_string(w->ctx, &w->values, value, bytes);
}

qnt_status qnti_gguf_put_f32_array(struct qnti_gguf_writer *w, const char *key, const float *values, size_t n)
{
    if (n == 0)
        return QNT_OK;
    QNT_TRY(put_array(w, key, QNTI_GGUF_F32, n));
    for (size_t i = 0; i < n; i++)
        QNT_TRY(put_integer(w->ctx, &w->values, qnti_bits(values[i]), 4));
    return QNT_OK;
}

qnt_status qnti_gguf_put_i32_array(struct qnti_gguf_writer *w, const char *key, const int32_t *values, size_t n)
{
    if (n == 0)
        return QNT_OK;
    QNT_TRY(put_array(w, key, QNTI_GGUF_I32, n));
    for (size_t i = 0; i < n; i++)
        QNT_TRY(put_integer(w->ctx, &w->values, (uint32_t)values[i], 4));
    return QNT_OK;
}

qnt_status qnti_gguf_put_bool_array(struct qnti_gguf_writer *w, const char *key, const bool *values, size_t n)
{
    if (n == 0)
        return QNT_OK;
    QNT_TRY(put_array(w, key, QNTI_GGUF_BOOL, n));
    for (size_t i = 0; i < n; i++)
        QNT_TRY(put_integer(w->ctx, &w->values, values[i], 1));
    return QNT_OK;
}

qnt_status qnti_gguf_put_string_array(struct qnti_gguf_writer *w, const char *key, const char *const *strings,
                                      const size_t *lengths, size_t n)
{
    if (n == 0)
        return QNT_OK;
    QNT_TRY(put_array(w, key, QNTI_GGUF_STRING, n));
    for (size_t i = 0; i < n; i++)
        QNT_TRY(put_string(w->ctx, &w->values, strings[i], lengths[i]));
    return QNT_OK;
}

qnt_status qnti_gguf_add_tensor(struct qnti_gguf_writer *w, const char *name, size_t rank, const size_t *ne,
                                uint32_t type, size_t bytes,
                                qnt_status (*write)(void *user, struct qnti_output *output), void *user)
{
    struct qnti_gguf_entry entry = {.rank = rank, .type = type, .bytes = bytes, .write = write, .user = user};
    qnt_status status;
    if (strlen(name) >= QNTI_GGUF_NAME_BYTES)
        return qnti_fail(w->ctx, QNT_INVALID, "tensor %s: its name has %zu bytes, GGUF allows %d", name, strlen(name),
                         QNTI_GGUF_NAME_BYTES - 1);
    if (rank > QNTI_GGUF_MAX_RANK)
        return qnti_fail(w->ctx, QNT_INVALID, "tensor %s: has %zu dimensions, GGUF allows %d", name, rank,
                         QNTI_GGUF_MAX_RANK);
    for (size_t i = 0; i < rank; i++)
        entry.ne[i] = ne[i];
    QNT_TRY(qnti_copy_string(w->ctx, name, &entry.name));
    status = qnti_buffer_add(w->ctx, &w->entries, &entry, sizeof entry);
    if (status == QNT_OK)
        w->entry_count++;
    else
        qnti_free(w->ctx, entry.name);
    return status;
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + QNTI_GGUF_ALIGNMENT - 1) / QNTI_GGUF_ALIGNMENT * QNTI_GGUF_ALIGNMENT;
}

/* What stands before the data, without its padding; values apart. */
static qnt_status put_entries(const struct qnti_gguf_writer *w, struct qnti_buffer *b)
{
    uint64_t offset = 0;
    for (size_t i = 0; i < w->entry_count; i++) {
        const struct qnti_gguf_entry *entry = &entries_of(w)[i];
        QNT_TRY(put_string(w->ctx, b, entry->name, strlen(entry->name)));
        QNT_TRY(put_integer(w->ctx, b, entry->rank, 4));
        for (size_t d = 0; d < entry->rank; d++)
            QNT_TRY(put_integer(w->ctx, b, entry->ne[d], 8));
        QNT_TRY(put_integer(w->ctx, b, entry->type, 4));
        QNT_TRY(put_integer(w->ctx, b, offset, 8));
        offset += padded(entry->bytes);
    }
    return QNT_OK;
}

static qnt_status write_header(const struct qnti_gguf_writer *w, struct qnti_output *output)
{
    struct qnti_buffer head = {0}, entries = {0};
    size_t bytes;
    qnt_status status;
    QNT_CHECK(qnti_buffer_add(w->ctx, &head, "GGUF", 4));
    QNT_CHECK(put_integer(w->ctx, &head, QNTI_GGUF_VERSION, 4));
    QNT_CHECK(put_integer(w->ctx, &head, w->entry_count, 8));
    QNT_CHECK(put_integer(w->ctx, &head, w->value_count, 8));
    QNT_CHECK(put_entries(w, &entries));
    QNT_CHECK(qnti_output_write(output, head.data, head.bytes));
    QNT_CHECK(qnti_output_write(output, w->values.data, w->values.bytes));
    QNT_CHECK(qnti_output_write(output, entries.data, entries.bytes));
    bytes = HEADER_BYTES + w->values.bytes + entries.bytes;
    QNT_CHECK(qnti_output_zeros(output, padded(bytes) - bytes));
cleanup:
    qnti_buffer_free(w->ctx, &head);
    qnti_buffer_free(w->ctx, &entries);
    return status;
}

static qnt_status write_tensor(const struct qnti_gguf_writer *w, const struct qnti_gguf_entry *entry,
                               struct qnti_output *output)
{
    uint64_t before = qnti_output_position(output), bytes;
    QNT_TRY(qnti_cancelled(w->ctx));
    QNT_TRY(entry->write(entry->user, output));
    bytes = qnti_output_position(output) - before;
    if (bytes != entry->bytes)
        return qnti_fail(w->ctx, QNT_INVALID, "tensor %s: %llu bytes were written, %zu were announced", entry->name,
                         (unsigned long long)bytes, entry->bytes);
    return qnti_output_zeros(output, padded(bytes) - bytes);
}

qnt_status qnti_gguf_write(const struct qnti_gguf_writer *w, struct qnti_output *output)
{
    QNT_TRY(write_header(w, output));
    for (size_t i = 0; i < w->entry_count; i++)
        QNT_TRY(write_tensor(w, &entries_of(w)[i], output));
    return QNT_OK;
}

uint64_t qnti_gguf_bytes(const struct qnti_gguf_writer *w)
{
    uint64_t header = HEADER_BYTES + w->values.bytes, data = 0;
    for (size_t i = 0; i < w->entry_count; i++) {
        const struct qnti_gguf_entry *entry = &entries_of(w)[i];
        header += 8 + strlen(entry->name) + 4 + 8 * entry->rank + 4 + 8;
        data += padded(entry->bytes);
    }
    return padded(header) + data;
}
