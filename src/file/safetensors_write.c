/*
 * safetensors_write.c - writes a safetensors file with the bytes that the format's own library gives it.
 *
 * Tensors are sorted by type (largest alignment first) and name and laid back
 * to back; the header is compact JSON, padded with blanks to a multiple of 8,
 * so that every tensor is naturally aligned.
 */
#include "file/safetensors_private.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include "base/buffer.h"
#include "file/output.h"

/* One tensor in the order of the file. */
struct placed {
    const struct qnti_tensor_source *source;
    const struct qnti_safetensors_type *type;
    size_t begin, end;
};

static int compare_placed(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->type != y->type)
        return x->type < y->type ? -1 : 1;
    return strcmp(x->source->name, y->source->name);
}

static int compare_names(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    return strcmp(x->source->name, y->source->name);
}

static qnt_status check_source(qnt_context *ctx, const struct qnti_tensor_source *source, struct placed *placed)
{
    placed->source = source;
    placed->type = qnti_safetensors_type(source->dtype);
    if (!placed->type)
        return qnti_fail(ctx, QNT_INVALID, "tensor \"%.200s\": safetensors has no dtype \"%.40s\"", source->name,
                         source->dtype);
    if (source->rank > QNTI_MAX_RANK)
        return qnti_fail(ctx, QNT_INVALID, "tensor \"%.200s\": %zu dimensions, at most %d", source->name, source->rank,
                         QNTI_MAX_RANK);
    if (strcmp(source->name, "__metadata__") == 0)
        return qnti_fail(ctx, QNT_INVALID, "a tensor cannot be named %s", source->name);
    return QNT_OK;
}

/* Sorts the tensors as the file has them and gives each its place. */
static qnt_status place(qnt_context *ctx, const char *path, const struct qnti_tensor_source *tensors, size_t count,
                        struct placed *placed)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++)
        QNT_TRY(check_source(ctx, &tensors[i], &placed[i]));
    if (count)
        qsort(placed, count, sizeof *placed, compare_names);
    for (size_t i = 1; i < count; i++)
        if (compare_names(&placed[i - 1], &placed[i]) == 0)
            return qnti_fail(ctx, QNT_INVALID, "%s: two tensors are named \"%.200s\"", path, placed[i].source->name);
    if (count)
        qsort(placed, count, sizeof *placed, compare_placed);
    for (size_t i = 0; i < count; i++) {
        struct placed *p = &placed[i];
        size_t elements, bytes;
        QNT_TRY(qnti_safetensors_measure(ctx, path, p->source->name, p->type, p->source->rank, p->source->shape,
                                         &elements, &bytes));
        p->begin = at;
        if (__builtin_add_overflow(at, bytes, &at))
            return qnti_fail(ctx, QNT_INVALID, "%s: the tensors have more than 2^64 bytes", path);
        p->end = at;
    }
    return QNT_OK;
}

/* A JSON string with the escapes that the format's library chooses. */
static qnt_status put_string(qnt_context *ctx, struct qnti_buffer *b, const char *string)
{
    static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    QNT_TRY(qnti_buffer_add(ctx, b, "\"", 1));
    for (const char *c = string; *c; c++) {
        const char *e = strchr(escaped, *c);
        if (e)
            QNT_TRY(qnti_buffer_print(ctx, b, "\\%c", letters[e - escaped]));
        else if ((unsigned char)*c < 0x20)
            QNT_TRY(qnti_buffer_print(ctx, b, "\\u%04x", (unsigned)*c));
        else
            QNT_TRY(qnti_buffer_add(ctx, b, c, 1));
    }
    return qnti_buffer_add(ctx, b, "\"", 1);
}

static qnt_status put_pair(qnt_context *ctx, struct qnti_buffer *b, const char *key, const char *value)
{
    QNT_TRY(put_string(ctx, b, key));
    QNT_TRY(qnti_buffer_add(ctx, b, ":", 1));
    return put_string(ctx, b, value);
}

static qnt_status put_metadata(qnt_context *ctx, struct qnti_buffer *b, const char *const *pairs, size_t count)
{
    bool has_format = false;
    for (size_t i = 0; i < count; i++)
        has_format = has_format || strcmp(pairs[2 * i], "format") == 0;
    QNT_TRY(qnti_buffer_print(ctx, b, "\"__metadata__\":{"));
    if (!has_format) {
        QNT_TRY(put_pair(ctx, b, "format", "pt"));
        QNT_TRY(qnti_buffer_add(ctx, b, ",", count > 0));
    }
    for (size_t i = 0; i < count; i++) {
        QNT_TRY(qnti_buffer_add(ctx, b, ",", i > 0));
        QNT_TRY(put_pair(ctx, b, pairs[2 * i], pairs[2 * i + 1]));
    }
    return qnti_buffer_add(ctx, b, "}", 1);
}

static qnt_status put_entry(qnt_context *ctx, struct qnti_buffer *b, const struct placed *p)
{
    QNT_TRY(qnti_buffer_add(ctx, b, ",", 1));
    QNT_TRY(put_string(ctx, b, p->source->name));
    QNT_TRY(qnti_buffer_print(ctx, b, ":{\"dtype\":\"%s\",\"shape\":[", p->type->name));
    for (size_t i = 0; i < p->source->rank; i++)
        QNT_TRY(qnti_buffer_print(ctx, b, i ? ",%zu" : "%zu", p->source->shape[i]));
    return qnti_buffer_print(ctx, b, "],\"data_offsets\":[%zu,%zu]}", p->begin, p->end);
}

/* The header with its length in front. */
static qnt_status build_header(qnt_context *ctx, const char *path, const struct placed *placed, size_t count,
                               const char *const *metadata, size_t metadata_count, struct qnti_buffer *b)
{
    uint64_t length = 0;
    QNT_TRY(qnti_buffer_add(ctx, b, &length, sizeof length));
    QNT_TRY(qnti_buffer_add(ctx, b, "{", 1));
    QNT_TRY(put_metadata(ctx, b, metadata, metadata_count));
    for (size_t i = 0; i < count; i++)
        QNT_TRY(put_entry(ctx, b, &placed[i]));
    QNT_TRY(qnti_buffer_add(ctx, b, "}", 1));
    while (b->bytes % 8 != 0)
        QNT_TRY(qnti_buffer_add(ctx, b, " ", 1));
    length = b->bytes - sizeof length;
    if (length > QNTI_SAFETENSORS_MAX_HEADER)
        return qnti_fail(ctx, QNT_INVALID, "%s: its header would have %llu bytes, the format allows %d", path,
                         (unsigned long long)length, QNTI_SAFETENSORS_MAX_HEADER);
    length = htole64(length);
    memcpy(b->data, &length, sizeof length);
    return QNT_OK;
}

static qnt_status put_data(qnt_context *ctx, struct qnti_output *output, const struct placed *p)
{
    const struct qnti_tensor_source *source = p->source;
    uint64_t before = qnti_output_position(output), bytes;
    QNT_TRY(qnti_cancelled(ctx));
    QNT_TRY(source->write ? source->write(source->user, output)
                          : qnti_output_write(output, source->data, p->end - p->begin));
    bytes = qnti_output_position(output) - before;
    if (bytes != p->end - p->begin)
        return qnti_fail(ctx, QNT_INVALID, "tensor \"%.200s\": %llu bytes were written, its shape needs %zu",
                         source->name, (unsigned long long)bytes, p->end - p->begin);
    return QNT_OK;
}

qnt_status qnti_safetensors_put(qnt_context *ctx, struct qnti_output *output, const struct qnti_tensor_source *tensors,
                                size_t count, const char *const *metadata, size_t metadata_count)
{
    const char *path = qnti_output_path(output);
    struct qnti_buffer header = {0};
    struct placed *placed = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW(ctx, count, &placed));
    QNT_CHECK(place(ctx, path, tensors, count, placed));
    QNT_CHECK(build_header(ctx, path, placed, count, metadata, metadata_count, &header));
    QNT_CHECK(qnti_output_write(output, header.data, header.bytes));
    for (size_t i = 0; i < count; i++)
        QNT_CHECK(put_data(ctx, output, &placed[i]));
cleanup:
    qnti_buffer_free(ctx, &header);
    qnti_free(ctx, placed);
    return status;
}

qnt_status qnti_safetensors_write(qnt_context *ctx, const char *path, const struct qnti_tensor_source *tensors,
                                  size_t count, const char *const *metadata, size_t metadata_count)
{
    struct qnti_safetensors *written = NULL;
    struct qnti_output *output;
    qnt_status status;
    QNT_TRY(qnti_output_create(ctx, path, &output));
    QNT_CHECK(qnti_safetensors_put(ctx, output, tensors, count, metadata, metadata_count));
    QNT_CHECK(qnti_output_flush(output));
    /* What we could not read ourselves must not appear. */
    QNT_CHECK(qnti_safetensors_open(ctx, qnti_output_temporary(output), &written));
cleanup:
    qnti_safetensors_close(written);
    if (status == QNT_OK)
        return qnti_output_commit(output);
    qnti_output_discard(output);
    return status;
}
