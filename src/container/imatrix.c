/*
 * imatrix.c - importance matrices in memory: making, merging, reading; see imatrix.h for the two formats.
 *
 * Tensors of a GGUF that are no part of an importance matrix are passed over, as llama.cpp does.
 */
#include "container/imatrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "container/gguf.h"
#include "file/output.h"
#include "pack/ggml.h"

static const char sums_suffix[] = ".in_sum2", counts_suffix[] = ".counts";

/* --- making one --- */

/* Room for one more element. */
static qnt_status grow(qnt_context *ctx, size_t size, size_t count, void **array)
{
    void *larger;
    if (count & (count - 1) || (count == 0 && *array))
        return QNT_OK;   /* room doubles at powers of two */
    QNT_TRY(qnti_alloc(ctx, count ? 2 * count : 1, size, &larger));
    if (count)
        memcpy(larger, *array, count * size);
    qnti_free(ctx, *array);
    *array = larger;
    return QNT_OK;
}

qnt_status qnti_imatrix_create(qnt_context *ctx, struct qnti_imatrix **matrix)
{
    QNT_TRY(QNTI_NEW(ctx, 1, matrix));
    (*matrix)->ctx = ctx;
    return QNT_OK;
}

static void free_entry(qnt_context *ctx, struct qnti_imatrix_entry *entry)
{
    qnti_free(ctx, entry->name);
    qnti_free(ctx, entry->sums);
    qnti_free(ctx, entry->counts);
}

void qnti_imatrix_close(struct qnti_imatrix *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->count; i++)
        free_entry(m->ctx, &m->entries[i]);
    for (size_t i = 0; i < m->text_count; i++)
        qnti_free(m->ctx, m->texts[i]);
    qnti_free(m->ctx, m->entries);
    qnti_free(m->ctx, m->texts);
    qnti_free(m->ctx, m);
}

/* Takes bytes for numbers: what is given need not be aligned. */
static qnt_status add(struct qnti_imatrix *m, const char *name, size_t name_bytes, size_t in, size_t matrices,
                      const void *sums, const void *counts)
{
    struct qnti_imatrix_entry entry = {.in = in, .matrices = matrices};
    size_t n;
    qnt_status status;
    if (!qnti_multiply(in, matrices, &n))
        return QNT_NO_MEMORY;
    QNT_CHECK(grow(m->ctx, sizeof entry, m->count, (void **)&m->entries));
    QNT_CHECK(qnti_copy_bytes(m->ctx, name, name_bytes, &entry.name));
    QNT_CHECK(QNTI_NEW_RAW(m->ctx, n, &entry.sums));
    QNT_CHECK(QNTI_NEW_RAW(m->ctx, matrices, &entry.counts));
    memcpy(entry.sums, sums, n * sizeof *entry.sums);
    memcpy(entry.counts, counts, matrices * sizeof *entry.counts);
    m->entries[m->count++] = entry;
cleanup:
    if (status != QNT_OK)
        free_entry(m->ctx, &entry);
    return status;
}

qnt_status qnti_imatrix_add(struct qnti_imatrix *m, const char *name, size_t in, size_t matrices, const float *sums,
                            const float *counts)
{
    return add(m, name, strlen(name), in, matrices, sums, counts);
}

qnt_status qnti_imatrix_add_text(struct qnti_imatrix *m, const char *text, size_t bytes)
{
    for (size_t i = 0; i < m->text_count; i++)
        if (strlen(m->texts[i]) == bytes && memcmp(m->texts[i], text, bytes) == 0)
            return QNT_OK;
    QNT_TRY(grow(m->ctx, sizeof *m->texts, m->text_count, (void **)&m->texts));
    QNT_TRY(qnti_copy_bytes(m->ctx, text, bytes, &m->texts[m->text_count]));
    m->text_count++;
    return QNT_OK;
}

static int compare_entries(const void *a, const void *b)
{
    const struct qnti_imatrix_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static qnt_status check_numbers(const struct qnti_imatrix *m, const char *where, const char *name, const char *what,
                                const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]) || x[i] < 0)
            return qnti_fail(m->ctx, QNT_BAD_DATA, "%s: %s of %.200s: number %zu is %g, expected a finite one of 0 or "
                             "more", where, what, name, i, (double)x[i]);
    return QNT_OK;
}

qnt_status qnti_imatrix_sort(struct qnti_imatrix *m, const char *where)
{
    if (m->count)
        qsort(m->entries, m->count, sizeof *m->entries, compare_entries);
    for (size_t i = 0; i < m->count; i++) {
        const struct qnti_imatrix_entry *e = &m->entries[i];
        if (i && compare_entries(e - 1, e) == 0)
            return qnti_fail(m->ctx, QNT_BAD_DATA, "%s: %.200s stands there twice", where, e->name);
        QNT_TRY(check_numbers(m, where, e->name, "counts", e->counts, e->matrices));
        QNT_TRY(check_numbers(m, where, e->name, "sums", e->sums, e->matrices * e->in));
    }
    return QNT_OK;
}

const struct qnti_imatrix_entry *qnti_imatrix_find(const struct qnti_imatrix *m, const char *name)
{
    struct qnti_imatrix_entry key = {.name = (char *)(uintptr_t)name};
    return m->count ? bsearch(&key, m->entries, m->count, sizeof key, compare_entries) : NULL;
}

/* --- merging --- */

static qnt_status check_same(const struct qnti_imatrix *m, const struct qnti_imatrix *other, const char *where)
{
    for (size_t i = 0; i < other->count; i++)
        if (!qnti_imatrix_find(m, other->entries[i].name))
            return qnti_fail(m->ctx, QNT_INVALID, "%s: has %.200s, which the first file has not", where,
                             other->entries[i].name);
    for (size_t i = 0; i < m->count; i++) {
        const struct qnti_imatrix_entry *e = &m->entries[i], *o = qnti_imatrix_find(other, e->name);
        if (!o)
            return qnti_fail(m->ctx, QNT_INVALID, "%s: has no %.200s, which the first file has", where, e->name);
        if (o->in != e->in || o->matrices != e->matrices)
            return qnti_fail(m->ctx, QNT_INVALID, "%s: %.200s has %zu x %zu channels, in the first file %zu x %zu",
                             where, e->name, o->matrices, o->in, e->matrices, e->in);
    }
    if (m->kind != other->kind || m->chunk_size != other->chunk_size)
        return qnti_fail(m->ctx, QNT_INVALID, "%s: %s with windows of %zu tokens, the first file is %s with %zu", where,
                         other->kind == QNTI_IMATRIX_GGUF ? "a GGUF" : "a .dat", other->chunk_size,
                         m->kind == QNTI_IMATRIX_GGUF ? "a GGUF" : "a .dat", m->chunk_size);
    return QNT_OK;
}

qnt_status qnti_imatrix_merge(struct qnti_imatrix *m, const struct qnti_imatrix *other, const char *where)
{
    QNT_TRY(check_same(m, other, where));
    for (size_t i = 0; i < m->count; i++) {
        struct qnti_imatrix_entry *e = &m->entries[i], *o = &other->entries[i];
        for (size_t k = 0; k < e->matrices * e->in; k++)
            e->sums[k] += o->sums[k];
        for (size_t k = 0; k < e->matrices; k++)
            e->counts[k] += o->counts[k];
    }
    for (size_t i = 0; i < other->text_count; i++)
        QNT_TRY(qnti_imatrix_add_text(m, other->texts[i], strlen(other->texts[i])));
    m->chunks += other->chunks;
    return qnti_imatrix_sort(m, where); /* sums may have left f32's range */
}

/* --- reading GGUF --- */

static bool name_ends(const char *name, const char *suffix, size_t *length)
{
    size_t n = strlen(name), m = strlen(suffix);
    *length = n > m ? n - m : 0;
    return *length > 0 && strcmp(name + *length, suffix) == 0;
}

static qnt_status check_tensor(const struct qnti_gguf *file, const struct qnti_gguf_tensor *t, size_t cols, size_t rows)
{
    bool same = t->ne[0] == cols && t->ne[1] == rows && t->ne[2] == 1 && t->ne[3] == 1;
    if (t->type != 0 || !same || cols == 0 || rows == 0)
        return qnti_fail(file->ctx, QNT_BAD_DATA,
                         "%s: tensor %.200s is of type %u and shape %zu x %zu x %zu x %zu, expected F32 of %zu x %zu",
                         file->path, t->name, t->type, t->ne[0], t->ne[1], t->ne[2], t->ne[3], cols, rows);
    return QNT_OK;
}

/* The other tensor of a linear. */
static qnt_status find_partner(const struct qnti_gguf *file, const char *name, size_t length, const char *suffix,
                               const struct qnti_gguf_tensor **partner)
{
    size_t n = strlen(suffix) + 1;
    char *other;
    QNT_TRY(QNTI_NEW_RAW(file->ctx, length + n, &other));
    memcpy(other, name, length);
    memcpy(other + length, suffix, n);
    *partner = qnti_gguf_find_tensor(file, other);
    qnti_free(file->ctx, other);
    if (!*partner)
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: %.200s has no %s", file->path, name, suffix + 1);
    return QNT_OK;
}

static qnt_status read_tensor(struct qnti_imatrix *m, const struct qnti_gguf *file, const struct qnti_gguf_tensor *t)
{
    const struct qnti_gguf_tensor *counts;
    size_t length;
    if (name_ends(t->name, counts_suffix, &length))
        return find_partner(file, t->name, length, sums_suffix, &counts);
    if (!name_ends(t->name, sums_suffix, &length))
        return QNT_OK;
    QNT_TRY(find_partner(file, t->name, length, counts_suffix, &counts));
    QNT_TRY(check_tensor(file, t, t->ne[0], t->ne[1]));
    QNT_TRY(check_tensor(file, counts, 1, t->ne[1]));
    return add(m, t->name, length, t->ne[0], t->ne[1], t->data, counts->data);
}

static qnt_status read_keys(struct qnti_imatrix *m, const struct qnti_gguf *file)
{
    const struct qnti_gguf_value *texts = qnti_gguf_find(file, "imatrix.datasets");
    const unsigned char *cursor = NULL;
    const char *text = NULL;
    size_t bytes = 0;
    QNT_TRY(qnti_gguf_string(file, "general.type", &text, &bytes));
    if (!text || bytes != strlen("imatrix") || memcmp(text, "imatrix", bytes) != 0)
        return qnti_fail(m->ctx, QNT_BAD_DATA, "%s: is no importance matrix: its general.type is %.*s", file->path,
                         text ? (int)qnti_min(bytes, 100) : 7, text ? text : "missing");
    QNT_TRY(qnti_gguf_size(file, "imatrix.chunk_count", &m->chunks));
    QNT_TRY(qnti_gguf_size(file, "imatrix.chunk_size", &m->chunk_size));
    if (texts && (!texts->array || texts->type != QNTI_GGUF_STRING))
        return qnti_fail(m->ctx, QNT_BAD_DATA, "%s: key imatrix.datasets is no array of strings", file->path);
    while (texts && qnti_gguf_next_string(texts, &cursor, &text, &bytes))
        if (bytes)
            QNT_TRY(qnti_imatrix_add_text(m, text, bytes));
    return QNT_OK;
}

static qnt_status read_gguf(struct qnti_imatrix *m, const char *name, const void *bytes, size_t n)
{
    struct qnti_gguf *file;
    qnt_status status;
    QNT_TRY(qnti_gguf_open_memory(m->ctx, name, bytes, n, qnti_ggml_type_size, &file));
    QNT_CHECK(read_keys(m, file));
    for (size_t i = 0; i < file->tensor_count; i++)
        QNT_CHECK(read_tensor(m, file, &file->tensors[i]));
cleanup:
    qnti_gguf_close(file);
    return status;
}

/* --- reading .dat --- */

struct cursor {
    struct qnti_imatrix *matrix;
    const char *where;
    const unsigned char *at, *end;
    size_t entry;
};

static qnt_status take(struct cursor *c, size_t n, const char *what, const void **bytes)
{
    *bytes = c->at;
    if (n > (size_t)(c->end - c->at))
        return qnti_fail(c->matrix->ctx, QNT_BAD_DATA,
                         "%s: entry %zu: %s needs %zu bytes, %zu are left (no importance matrix?)", c->where, c->entry,
                         what, n, (size_t)(c->end - c->at));
    c->at += n;
    return QNT_OK;
}

/* A number of at least `least`, as the format's i32. */
static qnt_status take_number(struct cursor *c, const char *what, int32_t least, size_t *value)
{
    const void *bytes;
    int32_t number;
    QNT_TRY(take(c, sizeof number, what, &bytes));
    memcpy(&number, bytes, sizeof number);
    if (number < least)
        return qnti_fail(c->matrix->ctx, QNT_BAD_DATA, "%s: entry %zu: %s is %d, expected %d or more (no importance "
                         "matrix?)", c->where, c->entry, what, number, least);
    *value = (size_t)number;
    return QNT_OK;
}

static qnt_status take_entry(struct cursor *c)
{
    const void *name, *values;
    size_t length, calls, n;
    float count;
    QNT_TRY(take_number(c, "the length of its name", 1, &length));
    QNT_TRY(take(c, length, "its name", &name));
    if (memchr(name, 0, length))
        return qnti_fail(c->matrix->ctx, QNT_BAD_DATA, "%s: entry %zu: its name has a NUL in it", c->where, c->entry);
    QNT_TRY(take_number(c, "its number of calls", 0, &calls));
    QNT_TRY(take_number(c, "its number of values", 1, &n));
    QNT_TRY(take(c, n * sizeof count, "its values", &values));
    count = (float)calls;
    return add(c->matrix, name, length, n, 1, values, &count);
}

static qnt_status read_dat(struct qnti_imatrix *m, const char *name, const void *bytes, size_t n)
{
    struct cursor c = {m, name, bytes, (const unsigned char *)bytes + n, 0};
    size_t entries, length;
    const void *text;
    m->kind = QNTI_IMATRIX_DAT;
    QNT_TRY(take_number(&c, "the number of entries", 1, &entries));
    for (c.entry = 1; c.entry <= entries; c.entry++)
        QNT_TRY(take_entry(&c));
    if (c.at == c.end)
        return QNT_OK;   /* as the first versions ended */
    QNT_TRY(take_number(&c, "the number of windows behind it", 0, &m->chunks));
    if (c.at == c.end)
        return QNT_OK;
    QNT_TRY(take_number(&c, "the length of the text's name behind it", 0, &length));
    QNT_TRY(take(&c, length, "the text's name behind it", &text));
    if (c.at != c.end)
        return qnti_fail(m->ctx, QNT_BAD_DATA, "%s: %zu bytes stand behind its end", name, (size_t)(c.end - c.at));
    return length ? qnti_imatrix_add_text(m, text, length) : QNT_OK;
}

/* --- either --- */

qnt_status qnti_imatrix_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                    struct qnti_imatrix **matrix)
{
    bool gguf = n >= 4 && memcmp(bytes, "GGUF", 4) == 0;
    struct qnti_imatrix *m;
    qnt_status status;
    *matrix = NULL;
    QNT_TRY(qnti_imatrix_create(ctx, &m));
    QNT_CHECK(gguf ? read_gguf(m, name, bytes, n) : read_dat(m, name, bytes, n));
    QNT_CHECK(qnti_imatrix_sort(m, name));
    if (m->count == 0)
        QNT_CHECK(qnti_fail(ctx, QNT_BAD_DATA, "%s: holds no entry", name));
    *matrix = m;
cleanup:
    if (status != QNT_OK)
        qnti_imatrix_close(m);
    return status;
}

qnt_status qnti_imatrix_open(qnt_context *ctx, const char *path, struct qnti_imatrix **matrix)
{
    void *map;
    size_t bytes;
    qnt_status status;
    *matrix = NULL;
    QNT_TRY(qnti_map_file(ctx, path, &map, &bytes));
    status = qnti_imatrix_open_memory(ctx, path, map, bytes, matrix);
    qnti_unmap_file(map, bytes);
    return status;
}
