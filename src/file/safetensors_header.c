/*
 * safetensors_header.c - the JSON header of a safetensors file.
 *
 *   {"NAME": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, ..., "__metadata__": {"KEY": "VALUE"}}
 *
 * Checks each tensor by itself: fields, type, shape against bytes, range.
 * What concerns them together (names, overlaps, holes) is safetensors.c's.
 */
#include "file/safetensors_private.h"

#include <string.h>
#include "base/buffer.h"
#include "file/json_scan.h"

struct header {
    struct qnti_scan scan;
    const char *buffer;
    size_t buffer_bytes;
    struct qnti_buffer tensors, metadata; /* arrays of struct qnti_tensor and of strings */
    bool metadata_seen;
};

/* The fields of one tensor's entry as they are read. */
struct entry {
    bool has_dtype, has_shape, has_offsets;
    const char *dtype;
    size_t rank, shape[QNTI_MAX_RANK];
    size_t offsets[2];
};

/* A list of at most `limit` sizes. */
static qnt_status read_sizes(struct qnti_scan *scan, size_t limit, size_t *sizes, size_t *count)
{
    bool more;
    *count = 0;
    QNT_TRY(qnti_scan_expect(scan, '['));
    for (;;) {
        size_t n = *count;
        QNT_TRY(qnti_scan_item(scan, ']', count, &more));
        if (!more)
            return QNT_OK;
        if (n == limit)
            return qnti_fail(scan->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" has more than %zu dimensions or offsets",
                             scan->where, scan->item, limit);
        QNT_TRY(qnti_scan_size(scan, &sizes[n]));
    }
}

static qnt_status read_dtype(struct qnti_scan *scan, struct entry *entry)
{
    return qnti_scan_string(scan, &entry->dtype);
}

static qnt_status read_shape(struct qnti_scan *scan, struct entry *entry)
{
    return read_sizes(scan, QNTI_MAX_RANK, entry->shape, &entry->rank);
}

static qnt_status read_offsets(struct qnti_scan *scan, struct entry *entry)
{
    size_t count;
    QNT_TRY(read_sizes(scan, 2, entry->offsets, &count));
    return count == 2 ? QNT_OK : qnti_scan_fail(scan, "two data_offsets");
}

/* One field; those that the format does not know are passed over. */
static qnt_status read_field(struct qnti_scan *scan, struct entry *entry)
{
    const struct {
        const char *key;
        bool *seen;
        qnt_status (*read)(struct qnti_scan *scan, struct entry *entry);
    } fields[] = {
        {"dtype", &entry->has_dtype, read_dtype},
        {"shape", &entry->has_shape, read_shape},
        {"data_offsets", &entry->has_offsets, read_offsets},
    };
    const char *key;
    QNT_TRY(qnti_scan_key(scan, &key));
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(key, fields[i].key) != 0)
            continue;
        if (*fields[i].seen)
            return qnti_fail(scan->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" has %s twice", scan->where, scan->item,
                             key);
        *fields[i].seen = true;
        return fields[i].read(scan, entry);
    }
    return qnti_scan_skip(scan);
}

static qnt_status check_entry(const struct header *h, const char *name, const struct entry *e,
                              struct qnti_tensor *tensor)
{
    qnt_context *ctx = h->scan.ctx;
    const char *where = h->scan.where;
    const struct qnti_safetensors_type *type;
    size_t begin = e->offsets[0], end = e->offsets[1];
    if (!e->has_dtype || !e->has_shape || !e->has_offsets)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" has no %s", where, name,
                         !e->has_dtype   ? "dtype"
                         : !e->has_shape ? "shape"
                                         : "data_offsets");
    type = qnti_safetensors_type(e->dtype);
    if (!type)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" has the unknown dtype \"%.40s\"", where, name,
                         e->dtype);
    *tensor = (struct qnti_tensor){.name = name, .dtype = type->name, .rank = e->rank};
    memcpy(tensor->shape, e->shape, sizeof tensor->shape);
    QNT_TRY(qnti_safetensors_measure(ctx, where, name, type, e->rank, e->shape, &tensor->elements, &tensor->bytes));
    if (begin > end || end > h->buffer_bytes)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" has offsets %zu to %zu in %zu bytes of data", where,
                         name, begin, end, h->buffer_bytes);
    if (end - begin != tensor->bytes)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" has %zu bytes, expected %zu for %zu elements of %s",
                         where, name, end - begin, tensor->bytes, tensor->elements, type->name);
    tensor->data = h->buffer + begin;
    return QNT_OK;
}

static qnt_status read_tensor(struct header *h, const char *name)
{
    struct entry entry = {0};
    struct qnti_tensor tensor;
    size_t count = 0;
    bool more;
    h->scan.item = name;
    QNT_TRY(qnti_scan_expect(&h->scan, '{'));
    for (;;) {
        QNT_TRY(qnti_scan_item(&h->scan, '}', &count, &more));
        if (!more)
            break;
        QNT_TRY(read_field(&h->scan, &entry));
    }
    h->scan.item = NULL;
    QNT_TRY(check_entry(h, name, &entry, &tensor));
    return qnti_buffer_add(h->scan.ctx, &h->tensors, &tensor, sizeof tensor);
}

/* An object of strings; null counts as absent. */
static qnt_status read_metadata(struct header *h, const char *name)
{
    size_t count = 0;
    bool more;
    if (h->metadata_seen)
        return qnti_fail(h->scan.ctx, QNT_BAD_DATA, "%s: %s stands twice in the header", h->scan.where, name);
    h->metadata_seen = true;
    if (qnti_scan_peek(&h->scan) == 'n')
        return qnti_scan_skip(&h->scan);
    h->scan.item = name;
    QNT_TRY(qnti_scan_expect(&h->scan, '{'));
    for (;;) {
        const char *pair[2];
        QNT_TRY(qnti_scan_item(&h->scan, '}', &count, &more));
        if (!more)
            break;
        QNT_TRY(qnti_scan_key(&h->scan, &pair[0]));
        QNT_TRY(qnti_scan_string(&h->scan, &pair[1]));
        QNT_TRY(qnti_buffer_add(h->scan.ctx, &h->metadata, pair, sizeof pair));
    }
    h->scan.item = NULL;
    return QNT_OK;
}

static qnt_status read_object(struct header *h, size_t n)
{
    size_t count = 0;
    if (n == 0 || *h->scan.at != '{')
        return qnti_scan_fail(&h->scan, "'{'");
    h->scan.at++;
    for (;;) {
        const char *name;
        bool more;
        QNT_TRY(qnti_scan_item(&h->scan, '}', &count, &more));
        if (!more)
            break;
        QNT_TRY(qnti_scan_key(&h->scan, &name));
        QNT_TRY(strcmp(name, "__metadata__") == 0 ? read_metadata(h, name) : read_tensor(h, name));
    }
    return qnti_scan_peek(&h->scan) == -1 ? QNT_OK : qnti_scan_fail(&h->scan, "nothing but blanks behind the header");
}

qnt_status qnti_safetensors_header(struct qnti_safetensors *file, const char *header, size_t n, const char *buffer,
                                   size_t buffer_bytes)
{
    struct header h = {.buffer = buffer, .buffer_bytes = buffer_bytes};
    qnt_status status;
    QNT_TRY(qnti_alloc_raw(file->ctx, n, 1, (void **)&file->strings));
    QNT_TRY(qnti_scan_init(file->ctx, file->path, header, n, file->strings, &h.scan));
    status = read_object(&h, n);
    file->tensors = (void *)h.tensors.data; /* the file's from now on, also after a failure */
    file->count = h.tensors.bytes / sizeof *file->tensors;
    file->metadata = (void *)h.metadata.data;
    file->metadata_count = h.metadata.bytes / (2 * sizeof *file->metadata);
    return status;
}
