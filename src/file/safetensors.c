/*
 * safetensors.c - a mapped file of tensors.
 *
 *   u64 little-endian N | N bytes of JSON (safetensors_header.c) | data
 *
 * The tensors must fill the data from its first to its last byte, without
 * holes or overlaps, whatever their order in the header. The values are not looked at.
 */
#include "file/safetensors_private.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include "base/number.h"
#include "file/name_index.h"
#include "file/output.h"

enum { LENGTH_BYTES = 8 };

static const struct qnti_safetensors_type types[] = {
    {"U64", 64},         {"I64", 64},     {"F64", 64},     {"C64", 64},     {"F32", 32},   {"U32", 32},
    {"I32", 32},         {"BF16", 16},    {"F16", 16},     {"U16", 16},     {"I16", 16},   {"F8_E5M2FNUZ", 8},
    {"F8_E4M3FNUZ", 8},  {"F8_E8M0", 8},  {"F8_E4M3", 8},  {"F8_E5M2", 8},  {"I8", 8},     {"U8", 8},
    {"F6_E3M2", 6},      {"F6_E2M3", 6},  {"F4", 4},       {"BOOL", 8},
};

const struct qnti_safetensors_type *qnti_safetensors_type(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

qnt_status qnti_safetensors_measure(qnt_context *ctx, const char *where, const char *name,
                                    const struct qnti_safetensors_type *type, size_t rank, const size_t *shape,
                                    size_t *elements, size_t *bytes)
{
    size_t n = 1, bits = 0;
    bool fits = true;
    for (size_t i = 0; i < rank && fits; i++)
        fits = qnti_multiply(n, shape[i], &n);
    if (!fits || !qnti_multiply(n, type->bits, &bits))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\": its shape of %s exceeds 2^64 bits", where, name,
                         type->name);
    if (bits % 8 != 0)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\": %zu elements of %s are %zu bits, not whole bytes",
                         where, name, n, type->name, bits);
    *elements = n;
    *bytes = bits / 8;
    return QNT_OK;
}

static int compare_addresses(const void *a, const void *b)
{
    const struct qnti_tensor *x = a, *y = b;
    const char *p = x->data, *q = y->data;
    if (p != q)
        return p < q ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorts the tensors by their place and requires them to tile the data. */
static qnt_status check_tiling(struct qnti_safetensors *file, const char *buffer, size_t bytes)
{
    size_t end = 0;
    if (file->count)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_addresses);
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *t = &file->tensors[i];
        size_t begin = (size_t)((const char *)t->data - buffer);
        if (begin != end)
            return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" begins at byte %zu of the data, not %zu%s",
                             file->path, t->name, begin, end, begin < end ? ": tensors overlap" : ": a hole");
        end = begin + t->bytes;
    }
    if (end != bytes)
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: has %zu bytes of data, its tensors %zu", file->path, bytes, end);
    return QNT_OK;
}

/* Makes the tensors' index and sorts the metadata; neither may have duplicates. */
static qnt_status index_names(struct qnti_safetensors *file)
{
    const char *duplicate;
    QNT_TRY(qnti_index_names(file->ctx, file->tensors, sizeof *file->tensors, file->count, &file->by_name, &duplicate));
    if (duplicate)
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" stands twice in the header", file->path,
                         duplicate);
    if (file->metadata_count)
        qsort(file->metadata, file->metadata_count, 2 * sizeof *file->metadata, compare_keys);
    for (size_t i = 1; i < file->metadata_count; i++)
        if (compare_keys(&file->metadata[2 * i - 2], &file->metadata[2 * i]) == 0)
            return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: __metadata__ has the key \"%.200s\" twice", file->path,
                             file->metadata[2 * i]);
    return QNT_OK;
}

static qnt_status parse(struct qnti_safetensors *file, const char *bytes, size_t n)
{
    uint64_t header = 0;
    const char *buffer;
    if (n < LENGTH_BYTES)
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: has %zu bytes, a safetensors file at least %d", file->path, n,
                         LENGTH_BYTES + 2);
    memcpy(&header, bytes, LENGTH_BYTES);
    header = le64toh(header);
    if (header > QNTI_SAFETENSORS_MAX_HEADER || header > n - LENGTH_BYTES)
        return qnti_fail(file->ctx, QNT_BAD_DATA,
                         "%s: states a header of %llu bytes, expected at most %zu (not a safetensors file?)",
                         file->path, (unsigned long long)header,
                         qnti_min(QNTI_SAFETENSORS_MAX_HEADER, n - LENGTH_BYTES));
    buffer = bytes + LENGTH_BYTES + header;
    n -= LENGTH_BYTES + (size_t)header;
    QNT_TRY(qnti_safetensors_header(file, bytes + LENGTH_BYTES, (size_t)header, buffer, n));
    QNT_TRY(check_tiling(file, buffer, n));
    return index_names(file);
}

qnt_status qnti_safetensors_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                        struct qnti_safetensors **out)
{
    struct qnti_safetensors *file;
    qnt_status status;
    *out = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &file));
    file->ctx = ctx;
    file->bytes = n;
    QNT_CHECK(qnti_copy_string(ctx, name, &file->path));
    QNT_CHECK(parse(file, bytes, n));
    *out = file;
cleanup:
    if (status != QNT_OK)
        qnti_safetensors_close(file);
    return status;
}

qnt_status qnti_safetensors_open(qnt_context *ctx, const char *path, struct qnti_safetensors **file)
{
    void *map;
    size_t bytes;
    qnt_status status;
    *file = NULL;
    QNT_TRY(qnti_map_file(ctx, path, &map, &bytes));
    status = qnti_safetensors_open_memory(ctx, path, map, bytes, file);
    if (status == QNT_OK)
        (*file)->map = map;
    else
        qnti_unmap_file(map, bytes);
    return status;
}

void qnti_safetensors_close(struct qnti_safetensors *file)
{
    if (!file)
        return;
    qnti_unmap_file(file->map, file->bytes);
    qnti_free(file->ctx, file->by_name);
    qnti_free(file->ctx, file->strings);
    qnti_free(file->ctx, (void *)file->metadata);
    qnti_free(file->ctx, file->tensors);
    qnti_free(file->ctx, file->path);
    qnti_free(file->ctx, file);
}

const struct qnti_tensor *qnti_safetensors_find(const struct qnti_safetensors *file, const char *name)
{
    return qnti_index_find(file->tensors, sizeof *file->tensors, file->count, file->by_name, name);
}

const char *qnti_safetensors_metadata(const struct qnti_safetensors *file, const char *key)
{
    const char *const *pair = NULL;
    if (file->metadata_count)
        pair = bsearch(&key, file->metadata, file->metadata_count, 2 * sizeof *file->metadata, compare_keys);
    return pair ? pair[1] : NULL;
}

bool qnti_tensor_dtype(const struct qnti_tensor *tensor, qnt_dtype *dtype)
{
    static const qnt_dtype ours[] = {QNT_F32, QNT_F16, QNT_BF16, QNT_U8, QNT_I32};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        if (strcmp(tensor->dtype, qnti_dtype_name(ours[i])) != 0)
            continue;
        *dtype = ours[i];
        return true;
    }
    return false;
}
