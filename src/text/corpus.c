/*
 * corpus.c - reading calibration and evaluation texts.
 *
 * The kind is told by the suffix: .jsonl and .json lines, .npy ids, anything
 * else plain text, read as bytes.
 */
#include "text/corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/buffer.h"
#include "container/json.h"
#include "file/output.h"

static const size_t MOST_BYTES = (size_t)1 << 36;

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n >= m && strcmp(path + n - m, suffix) == 0;
}

static bool is_blank(const char *line, size_t n)
{
    size_t i = 0;
    while (i < n && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r'))
        i++;
    return i == n;
}

/* Texts of all lines, one after another with a newline between. */
static qnt_status join_lines(qnt_context *ctx, const char *path, const char *bytes, size_t n, struct qnti_buffer *text)
{
    size_t line = 0;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(bytes + at, '\n', n - at);
        size_t length = end ? (size_t)(end - bytes) - at : n - at;
        char where[64];
        const char *value = NULL;
        json_t *object = NULL;
        qnt_status status = QNT_OK;
        line++;
        if (!is_blank(bytes + at, length)) {
            snprintf(where, sizeof where, "line %zu", line);
            status = qnti_json_parse(ctx, where, bytes + at, length, &object);
            if (status == QNT_OK)
                status = qnti_json_string(ctx, where, object, "text", &value);
            if (status == QNT_OK && !value)
                status = qnti_fail(ctx, QNT_BAD_DATA, "%s has no key \"text\"", where);
            if (status == QNT_OK && text->bytes)
                status = qnti_buffer_add(ctx, text, "\n", 1);
            if (status == QNT_OK)
                status = qnti_buffer_add(ctx, text, value, strlen(value));
            json_decref(object);
        }
        if (status != QNT_OK)
            return qnti_fail_in(ctx, status, path);
        at += length + 1;
    }
    return QNT_OK;
}

/* One id of a .npy array of 1, 2, 4 or 8 bytes, little-endian. */
static int64_t npy_id(const unsigned char *at, char kind, size_t size)
{
    uint64_t u = 0;
    for (size_t i = 0; i < size; i++)
        u |= (uint64_t)at[i] << (8 * i);
    if (kind == 'i' && size < 8 && (u >> (8 * size - 1)) & 1)
        return -1;
    return u > INT32_MAX ? -1 : (int64_t)u;
}

/* Elements of the shape "(a, b, ...)" in a header of n bytes; SIZE_MAX if there is none or it is too large. */
static size_t npy_elements(const char *header, size_t n)
{
    const char *at = memmem(header, n, "'shape':", 8), *end = header + n;
    size_t elements = 1, extent = 0;
    at = at ? memchr(at, '(', (size_t)(end - at)) : NULL;
    if (!at)
        return SIZE_MAX;
    for (bool number = false; ++at < end; number = *at >= '0' && *at <= '9') {
        if (*at >= '0' && *at <= '9') {
            if (extent > MOST_BYTES)
                return SIZE_MAX;
            extent = (number ? 10 * extent : 0) + (size_t)(*at - '0');
        } else if (number && __builtin_mul_overflow(elements, extent, &elements)) {
            return SIZE_MAX;
        }
        if (*at == ')')
            return elements;
    }
    return SIZE_MAX;
}

/* Header: magic, version, length, a Python dictionary with descr, fortran_order, shape (numpy's format 1.0 to 3.0). */
static qnt_status read_npy(qnt_context *ctx, const char *path, const char *bytes, size_t n, size_t vocab, int32_t **ids,
                           size_t *count)
{
    const unsigned char *u = (const unsigned char *)bytes;
    const char *descr;
    size_t header, start, size;
    char kind;
    if (n < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0 || u[6] < 1 || u[6] > 3)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: not a .npy file", path);
    start = u[6] == 1 ? 10 : 12;
    header = u[6] == 1 ? (size_t)(u[8] | u[9] << 8)
                       : (size_t)u[8] | (size_t)u[9] << 8 | (size_t)u[10] << 16 | (size_t)u[11] << 24;
    if (header > n - start)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: the header of %zu bytes exceeds the file", path, header);
    descr = memmem(bytes + start, header, "'descr':", 8);
    descr = descr ? memchr(descr + 8, '\'', header - (size_t)(descr + 8 - bytes - (ptrdiff_t)start)) : NULL;
    if (!descr || descr + 4 > bytes + start + header || !memchr("<|", descr[1], 2) || !memchr("iu", descr[2], 2) ||
        !memchr("1248", descr[3], 4))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: ids must be little-endian integers", path);
    if (memmem(bytes + start, header, "'fortran_order': True", 21))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: ids lie column by column (fortran_order), expected rows", path);
    kind = descr[2];
    size = (size_t)(descr[3] - '0');
    *count = npy_elements(bytes + start, header);
    if (*count > MOST_BYTES || *count * size != n - start - header)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %zu bytes behind the header, its shape and type need another number",
                         path, n - start - header);
    QNT_TRY(QNTI_NEW_RAW(ctx, *count, ids));
    for (size_t i = 0; i < *count; i++) {
        int64_t id = npy_id(u + start + header + i * size, kind, size);
        if (id < 0 || (uint64_t)id >= vocab)
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: id %zu is not below the vocabulary's %zu", path, i, vocab);
        (*ids)[i] = (int32_t)id;
    }
    return QNT_OK;
}

static qnt_status encode(qnt_context *ctx, const char *path, const qnti_tokenizer *tokenizer, const char *bytes,
                         size_t n, int32_t **ids, size_t *count)
{
    struct qnti_buffer text = {0};
    qnt_status status;
    if (!tokenizer)
        return qnti_fail(ctx, QNT_NOT_FOUND, "%s: the model has no tokenizer, only .npy of ids can be read", path);
    if (!has_suffix(path, ".jsonl") && !has_suffix(path, ".json"))
        return qnti_tokenizer_encode(tokenizer, bytes, n, false, false, ids, count);
    status = join_lines(ctx, path, bytes, n, &text);
    if (status == QNT_OK)
        status = qnti_tokenizer_encode(tokenizer, text.data ? text.data : "", text.bytes, false, false, ids, count);
    qnti_buffer_free(ctx, &text);
    return status;
}

static qnt_status check_vocabulary(qnt_context *ctx, const char *path, const int32_t *ids, size_t count, size_t vocab)
{
    for (size_t i = 0; i < count; i++)
        if ((size_t)ids[i] >= vocab)
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: token %zu has id %d, but the model's vocabulary has %zu", path, i,
                             ids[i], vocab);
    return QNT_OK;
}

qnt_status qnti_corpus_parse(qnt_context *ctx, const char *name, const char *bytes, size_t n,
                             const qnti_tokenizer *tokenizer, size_t vocab, int32_t **ids, size_t *count)
{
    qnt_status status;
    *ids = NULL;
    *count = 0;
    if (n == 0)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: the file is empty", name);
    if (has_suffix(name, ".npy"))
        QNT_CHECK(read_npy(ctx, name, bytes, n, vocab, ids, count));
    else
        QNT_CHECK(encode(ctx, name, tokenizer, bytes, n, ids, count));
    QNT_CHECK(check_vocabulary(ctx, name, *ids, *count, vocab));
    if (*count == 0)
        QNT_CHECK(qnti_fail(ctx, QNT_BAD_DATA, "%s: the text has no token", name));
cleanup:
    if (status != QNT_OK) {
        qnti_free(ctx, *ids);
        *ids = NULL;
        *count = 0;
    }
    return status;
}

qnt_status qnti_corpus_ids(qnt_context *ctx, const char *path, const qnti_tokenizer *tokenizer, size_t vocab,
                           int32_t **ids, size_t *count)
{
    char *bytes;
    size_t n;
    qnt_status status;
    *ids = NULL;
    *count = 0;
    QNT_TRY(qnti_read_file(ctx, path, MOST_BYTES, &bytes, &n));
    status = qnti_corpus_parse(ctx, path, bytes, n, tokenizer, vocab, ids, count);
    qnti_free(ctx, bytes);
    return status;
}
