/*
 * gguf_read.c - a mapped GGUF file.
 *
 *   "GGUF" | u32 version | u64 tensors | u64 values | (key, type, value)* | (name, shape, type, offset)* | zeros | data
 *
 * All little-endian; strings are u64 length and bytes. The tensors must lie in
 * the order of their descriptions, each padded to the alignment, without gaps.
 */
#include "container/gguf_private.h"

#include <string.h>
#include "file/name_index.h"
#include "file/output.h"

enum { MAX_KEY_BYTES = 65535, MIN_VALUE_BYTES = 14, MIN_TENSOR_BYTES = 24 };

struct cursor {
    qnt_context *ctx;
    const char *path;
    const unsigned char *start, *at, *end;
};

static size_t position(const struct cursor *c)
{
    return (size_t)(c->at - c->start);
}

/* Takes n bytes of `what`. */
static qnt_status take(struct cursor *c, uint64_t n, const char *what, const unsigned char **bytes)
{
    *bytes = c->at;
    if (n > (size_t)(c->end - c->at))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: %.200s at byte %zu needs %llu bytes, %zu are left in the file",
                         c->path, what, position(c), (unsigned long long)n, (size_t)(c->end - c->at));
    c->at += n;
    return QNT_OK;
}

static qnt_status take_u64(struct cursor *c, const char *what, uint64_t *value)
{
    const unsigned char *bytes;
    QNT_TRY(take(c, sizeof *value, what, &bytes));
    *value = qnti_gguf_load(bytes, sizeof *value);
    return QNT_OK;
}

static qnt_status take_u32(struct cursor *c, const char *what, uint32_t *value)
{
    const unsigned char *bytes;
    QNT_TRY(take(c, sizeof *value, what, &bytes));
    *value = (uint32_t)qnti_gguf_load(bytes, sizeof *value);
    return QNT_OK;
}

/* A copy of a name of at most `limit` bytes. */
static qnt_status take_name(struct cursor *c, const char *what, size_t limit, char **name)
{
    const unsigned char *bytes;
    uint64_t n;
    QNT_TRY(take_u64(c, what, &n));
    if (n > limit)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: %s at byte %zu has %llu bytes, at most %zu are allowed", c->path,
                         what, position(c), (unsigned long long)n, limit);
    QNT_TRY(take(c, n, what, &bytes));
    if (memchr(bytes, 0, (size_t)n))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: %s before byte %zu has a NUL in it", c->path, what, position(c));
    return qnti_copy_bytes(c->ctx, bytes, (size_t)n, name);
}

/* The elements of a value whose type and count are known. */
static qnt_status take_elements(struct cursor *c, struct qnti_gguf_value *value)
{
    const struct qnti_gguf_kind *kind = qnti_gguf_kind(value->type);
    const unsigned char *bytes;
    uint64_t n;
    value->data = c->at;
    if (kind->bytes) {
        if (__builtin_mul_overflow(value->count, kind->bytes, &n))
            n = UINT64_MAX; /* more than any file has */
        QNT_TRY(take(c, n, value->key, &bytes));
    } else {
        for (uint64_t i = 0; i < value->count; i++) {
            QNT_TRY(take_u64(c, value->key, &n));
            QNT_TRY(take(c, n, value->key, &bytes));
        }
    }
    value->bytes = (size_t)(c->at - value->data);
    return QNT_OK;
}

static qnt_status take_value(struct cursor *c, struct qnti_gguf_value *value)
{
    const struct qnti_gguf_kind *kind;
    uint32_t type;
    QNT_TRY(take_name(c, "a key", MAX_KEY_BYTES, &value->key));
    if (!*value->key)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: the key before byte %zu is empty", c->path, position(c));
    QNT_TRY(take_u32(c, value->key, &type));
    value->count = 1;
    value->array = type == QNTI_GGUF_ARRAY;
    if (value->array) {
        QNT_TRY(take_u32(c, value->key, &type));
        QNT_TRY(take_u64(c, value->key, &value->count));
    }
    kind = qnti_gguf_kind(type);
    if (!kind || type == QNTI_GGUF_ARRAY)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: key %.200s has the %s type %u, expected 0 to %d%s", c->path,
                         value->key, value->array ? "element" : "value", type, QNTI_GGUF_F64,
                         value->array ? " but not an array" : "");
    value->type = (enum qnti_gguf_value_type)type;
    return take_elements(c, value);
}

static qnt_status take_shape(struct cursor *c, struct qnti_gguf_tensor *t)
{
    uint32_t rank;
    QNT_TRY(take_u32(c, t->name, &rank));
    if (rank > QNTI_GGUF_MAX_RANK)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor %s has %u dimensions, at most %d are allowed", c->path,
                         t->name, rank, QNTI_GGUF_MAX_RANK);
    t->rank = rank;
    for (size_t i = 0; i < QNTI_GGUF_MAX_RANK; i++) {
        uint64_t ne = 1;
        if (i < rank)
            QNT_TRY(take_u64(c, t->name, &ne));
        if (ne > INT64_MAX)
            return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor %s: dimension %zu is %lld, expected 0 or more", c->path,
                             t->name, i, (long long)ne);
        t->ne[i] = (size_t)ne;
    }
    return QNT_OK;
}

/* Bytes of the tensor; elements and bytes must stay below 2^63, as in the format's own reader. */
static qnt_status measure(const struct cursor *c, qnti_gguf_type_fn type_of, struct qnti_gguf_tensor *t)
{
    size_t block_elements, block_bytes, elements = 1;
    bool fits = true;
    if (!type_of(t->type, &block_elements, &block_bytes))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor %s has the type %u, which is unknown or was removed",
                         c->path, t->name, t->type);
    if (t->ne[0] % block_elements != 0)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor %s has rows of %zu, type %u needs a multiple of %zu",
                         c->path, t->name, t->ne[0], t->type, block_elements);
    for (size_t i = 0; i < QNTI_GGUF_MAX_RANK && fits; i++)
        fits = qnti_multiply(elements, t->ne[i], &elements) && elements <= INT64_MAX;
    if (!fits || !qnti_multiply(elements / block_elements, block_bytes, &t->bytes) || t->bytes > INT64_MAX)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor %s of %zu x %zu x %zu x %zu exceeds 2^63 bytes", c->path,
                         t->name, t->ne[0], t->ne[1], t->ne[2], t->ne[3]);
    return QNT_OK;
}

/* One description; `offset` is where the tensor must lie in the data section. */
static qnt_status take_tensor(struct cursor *c, qnti_gguf_type_fn type_of, size_t offset, struct qnti_gguf_tensor *t)
{
    uint64_t stated;
    QNT_TRY(take_name(c, "a tensor's name", QNTI_GGUF_NAME_BYTES - 1, &t->name));
    QNT_TRY(take_shape(c, t));
    QNT_TRY(take_u32(c, t->name, &t->type));
    QNT_TRY(take_u64(c, t->name, &stated));
    QNT_TRY(measure(c, type_of, t));
    if (stated != offset)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor %s has the offset %llu, expected %zu", c->path, t->name,
                         (unsigned long long)stated, offset);
    return QNT_OK;
}

static qnt_status take_header(struct cursor *c, struct qnti_gguf *file)
{
    const unsigned char *magic;
    uint64_t tensors, values;
    QNT_TRY(take(c, 4, "the magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: does not begin with \"GGUF\", is no GGUF file", c->path);
    QNT_TRY(take_u32(c, "the version", &file->version));
    if ((file->version & 0xffff) == 0)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED, "%s: is a big-endian GGUF file, only little-endian ones are read",
                         c->path);
    if (file->version != 2 && file->version != QNTI_GGUF_VERSION)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED, "%s: has GGUF version %u, versions 2 and 3 are read", c->path,
                         file->version);
    QNT_TRY(take_u64(c, "the number of tensors", &tensors));
    QNT_TRY(take_u64(c, "the number of keys", &values));
    if (tensors > (size_t)(c->end - c->at) / MIN_TENSOR_BYTES || values > (size_t)(c->end - c->at) / MIN_VALUE_BYTES)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: states %llu keys and %llu tensors, too many for its %zu bytes",
                         c->path, (unsigned long long)values, (unsigned long long)tensors, file->bytes);
    file->tensor_count = (size_t)tensors;
    file->value_count = (size_t)values;
    QNT_TRY(QNTI_NEW(c->ctx, file->value_count, &file->values));
    return QNTI_NEW(c->ctx, file->tensor_count, &file->tensors);
}

static qnt_status take_values(struct cursor *c, struct qnti_gguf *file)
{
    const struct qnti_gguf_value *alignment;
    const char *duplicate;
    for (size_t i = 0; i < file->value_count; i++)
        QNT_TRY(take_value(c, &file->values[i]));
    QNT_TRY(qnti_index_names(c->ctx, file->values, sizeof *file->values, file->value_count, &file->by_key, &duplicate));
    if (duplicate)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: key %.200s stands twice", c->path, duplicate);
    file->alignment = QNTI_GGUF_ALIGNMENT;
    alignment = qnti_gguf_find(file, "general.alignment");
    if (!alignment)
        return QNT_OK;
    if (alignment->array || alignment->type != QNTI_GGUF_U32)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: general.alignment has another type than u32", c->path);
    file->alignment = (size_t)qnti_gguf_load(alignment->data, alignment->bytes);
    if (file->alignment == 0 || (file->alignment & (file->alignment - 1)) != 0)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: general.alignment is %zu, expected a power of two", c->path,
                         file->alignment);
    return QNT_OK;
}

/* Moves *at to the next multiple of the alignment behind `bytes` more bytes; false: beyond 2^63. */
static bool advance(size_t *at, size_t bytes, size_t alignment)
{
    size_t end;
    if (__builtin_add_overflow(*at, bytes, &end) || end > INT64_MAX)
        return false;
    *at = qnti_ceil_div(end, alignment) * alignment;
    return true;
}

static qnt_status take_tensors(struct cursor *c, struct qnti_gguf *file, qnti_gguf_type_fn type_of)
{
    const char *duplicate;
    size_t total = 0, data;
    for (size_t i = 0; i < file->tensor_count; i++) {
        struct qnti_gguf_tensor *t = &file->tensors[i];
        QNT_TRY(take_tensor(c, type_of, total, t));
        if (!advance(&total, t->bytes, file->alignment))
            return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: the tensors up to %s exceed 2^63 bytes", c->path, t->name);
    }
    QNT_TRY(qnti_index_names(c->ctx, file->tensors, sizeof *file->tensors, file->tensor_count, &file->by_name,
                             &duplicate));
    if (duplicate)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor %s is described twice", c->path, duplicate);
    data = qnti_ceil_div(position(c), file->alignment) * file->alignment;
    if (file->tensor_count > 0 && (data > file->bytes || total > file->bytes - data))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: has %zu bytes, its tensors need %zu from byte %zu on", c->path,
                         file->bytes, total, data);
    for (size_t i = 0; i < file->tensor_count; i++) {
        file->tensors[i].data = c->start + data;
        advance(&data, file->tensors[i].bytes, file->alignment);
    }
    return QNT_OK;
}

qnt_status qnti_gguf_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                 qnti_gguf_type_fn type, struct qnti_gguf **out)
{
    struct cursor c = {ctx, name, bytes, bytes, NULL};
    struct qnti_gguf *file;
    qnt_status status;
    *out = NULL;
    if (n == 0)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: is empty, expected a GGUF file", name);
    c.end = c.start + n;
    QNT_TRY(QNTI_NEW(ctx, 1, &file));
    file->ctx = ctx;
    file->bytes = n;
    QNT_CHECK(qnti_copy_string(ctx, name, &file->path));
    QNT_CHECK(take_header(&c, file));
    QNT_CHECK(take_values(&c, file));
    QNT_CHECK(take_tensors(&c, file, type));
    *out = file;
cleanup:
    if (status != QNT_OK)
        qnti_gguf_close(file);
    return status;
}

qnt_status qnti_gguf_open(qnt_context *ctx, const char *path, qnti_gguf_type_fn type, struct qnti_gguf **file)
{
    void *map;
    size_t bytes;
    qnt_status status;
    *file = NULL;
    QNT_TRY(qnti_map_file(ctx, path, &map, &bytes));
    status = qnti_gguf_open_memory(ctx, path, map, bytes, type, file);
    if (status == QNT_OK)
        (*file)->map = map;
    else
        qnti_unmap_file(map, bytes);
    return status;
}

void qnti_gguf_close(struct qnti_gguf *file)
{
    if (!file)
        return;
    qnti_unmap_file(file->map, file->bytes);
    for (size_t i = 0; file->values && i < file->value_count; i++)
        qnti_free(file->ctx, file->values[i].key);
    for (size_t i = 0; file->tensors && i < file->tensor_count; i++)
        qnti_free(file->ctx, file->tensors[i].name);
    qnti_free(file->ctx, file->values);
    qnti_free(file->ctx, file->tensors);
    qnti_free(file->ctx, file->by_key);
    qnti_free(file->ctx, file->by_name);
    qnti_free(file->ctx, file->path);
    qnti_free(file->ctx, file);
}
