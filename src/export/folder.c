/*
 * folder.c - writes a model as a folder of safetensors: its tensors, shard by shard.
 *
 * Tensors are described first, so that sizes and shards are known; then each
 * is made and written when its turn comes. A shard takes targets in order until
 * the next would exceed the limit; the tensors of one layer stay together.
 * What was written is read again and compared by hash, and the folder, filled
 * under a temporary name, gets its own.
 */
#include "export/folder.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "base/kernels.h"
#include "base/number.h"
#include "file/folder.h"
#include "file/output.h"

enum { CHUNK_ELEMENTS = 1 << 20, NAME_BYTES = 64, MOST_METADATA = 16 };

#define DEFAULT_SHARD_BYTES UINT64_C(5000000000)

/* --- what becomes of each tensor --- */

static bool is_linear(const struct qnti_target *t)
{
    return !t->bias && qnti_is_linear(t->role);
}

qnt_status qnti_folder_assign(struct qnti_export *e)
{
    const struct qnti_layout *layout = qnti_layout_find(e->ctx, e->format->layout);
    size_t quantized = 0, linear = 0;
    const char *misfit = "it has none";
    if (!layout)
        return QNT_NOT_FOUND;
    if (!qnti_is_folder(e->source->path))
        return qnti_fail(e->ctx, QNT_UNSUPPORTED, "%s: format %s needs a folder as its source, for its side files",
                         e->source->path, e->format->name);
    if (e->output_type || e->embedding_type)
        return qnti_fail(e->ctx, QNT_UNSUPPORTED,
                         "format %s keeps the output matrix and the embedding in float; --output-type and "
                         "--embedding-type belong to gguf formats", e->format->name);
    for (size_t t = 0; t < e->count; t++) {
        struct qnti_target *target = &e->targets[t];
        linear += is_linear(target);
        target->note = is_linear(target)
                           ? qnti_layout_misfit(layout, target->source->rows, target->source->cols, 0) : NULL;
        target->quantized = is_linear(target) && !target->note;
        target->layout = target->quantized ? layout->name : "plain";
        quantized += target->quantized;
        misfit = target->note ? target->note : misfit;
    }
    if (linear && !quantized)
        return qnti_fail(e->ctx, QNT_UNSUPPORTED, "%s: format %s can hold none of its layers: %s", e->source->path,
                         e->format->name, misfit);
    return QNT_OK;
}

/* Type of a tensor that is no layer's. */
static qnt_dtype plain_type(const struct qnti_folder_rules *rules, const struct qnti_weight *w)
{
    if (rules->half)
        return QNT_F16;
    return w->plain.data || w->rotated ? w->plain.dtype : QNT_F32;
}

qnt_status qnti_folder_bytes(const struct qnti_export *e, uint64_t *bytes)
{
    *bytes = 0;
    for (size_t t = 0; t < e->count; t++) {
        const struct qnti_weight *w = e->targets[t].source;
        /* The recipe's bits are not known here: an upper bound of 2 bytes a weight. */
        size_t each = e->targets[t].quantized ? 2 : qnti_dtype_bytes(plain_type(e->format->rules, w));
        *bytes += (uint64_t)w->rows * w->cols * each;
    }
    return QNT_OK;
}

/* --- entries --- */

static qnt_status grow(struct qnti_folder *f)
{
    size_t capacity = f->capacity ? 2 * f->capacity : 256;
    struct qnti_folder_entry *entries;
    if (f->count < f->capacity)
        return QNT_OK;
    QNT_TRY(QNTI_NEW(f->e->ctx, capacity, &entries));
    if (f->count)
        memcpy(entries, f->entries, f->count * sizeof *entries);
    qnti_free(f->e->ctx, f->entries);
    f->entries = entries;
    f->capacity = capacity;
    return QNT_OK;
}

qnt_status qnti_folder_add(struct qnti_folder *f, size_t target, size_t part, const char *name, const char *dtype,
                           size_t rank, const size_t *shape, size_t bytes)
{
    struct qnti_folder_entry *entry;
    QNT_TRY(grow(f));
    entry = &f->entries[f->count++];
    *entry = (struct qnti_folder_entry){.folder = f, .target = target, .part = part, .rank = rank, .bytes = bytes};
    memcpy(entry->shape, shape, rank * sizeof *shape);
    f->total += bytes;
    QNT_TRY(qnti_copy_string(f->e->ctx, name, &entry->name));
    return qnti_copy_string(f->e->ctx, dtype, &entry->dtype);
}

/* The family stores its linears (in, out): floats stay so. */
static bool is_turned(const struct qnti_export *e, size_t t)
{
    return e->source->family->transposed && is_linear(&e->targets[t]);
}

static qnt_status add_plain(struct qnti_folder *f, size_t t)
{
    bool turned = is_turned(f->e, t), vector;
    struct qnti_weight w;
    qnt_dtype type;
    QNT_TRY(qnti_export_weight(f->e, t, &w));
    type = plain_type(f->rules, &w);
    vector = f->e->targets[t].bias || w.rows == 1;
    return qnti_folder_add(f, t, SIZE_MAX, f->e->targets[t].source->name, qnti_dtype_name(type), vector ? 1 : 2,
                           vector   ? (const size_t[]){w.cols, 0}
                           : turned ? (const size_t[]){w.cols, w.rows}
                                    : (const size_t[]){w.rows, w.cols},
                           w.rows * w.cols * qnti_dtype_bytes(type));
}

static qnt_status describe(struct qnti_folder *f)
{
    for (size_t t = 0; t < f->e->count; t++)
        QNT_TRY(f->e->targets[t].quantized ? f->rules->describe(f, t) : add_plain(f, t));
    return QNT_OK;
}

/* Gives each entry its shard: whole targets, in order. */
static void cut_shards(struct qnti_folder *f)
{
    uint64_t limit = f->e->shard_bytes ? f->e->shard_bytes : DEFAULT_SHARD_BYTES, filled = 0;
    f->shards = f->count > 0;
    for (size_t i = 0, end; i < f->count; i = end) {
        uint64_t bytes = 0;
        for (end = i; end < f->count && f->entries[end].target == f->entries[i].target; end++)
            bytes += f->entries[end].bytes;
        if (filled && filled + bytes > limit) {
            f->shards++;
            filled = 0;
        }
        filled += bytes;
        for (size_t k = i; k < end; k++)
            f->entries[k].shard = f->shards - 1;
    }
}

static void shard_name(const struct qnti_folder *f, size_t shard, char name[NAME_BYTES])
{
    if (f->shards <= 1)
        snprintf(name, NAME_BYTES, "model.safetensors");
    else
        snprintf(name, NAME_BYTES, "model-%05zu-of-%05zu.safetensors", shard + 1, f->shards);
}

/* --- bytes --- */

qnt_status qnti_folder_emit(const struct qnti_folder_entry *entry, struct qnti_output *output, const void *bytes,
                            size_t n)
{
    XXH3_64bits_update(entry->folder->hash, bytes, n);
    return qnti_output_write(output, bytes, n);
}

/* Rows of the tensor in its type, some at a time. */
static qnt_status write_converted(const struct qnti_folder_entry *entry, const struct qnti_weight *w, qnt_dtype type,
                                  struct qnti_output *output)
{
    qnt_context *ctx = entry->folder->e->ctx;
    size_t chunk = qnti_min(w->rows, qnti_max(1, CHUNK_ELEMENTS / w->cols)), clamped = 0;
    float *rows = NULL;
    uint16_t *half = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(ctx, chunk * w->cols, &rows));
    QNT_CHECK(QNTI_NEW_RAW(ctx, chunk * w->cols, &half));
    for (size_t r = 0; r < w->rows; r += chunk) {
        size_t n = qnti_min(chunk, w->rows - r) * w->cols;
        QNT_CHECK(qnti_weight_rows(ctx, w, r, n / w->cols, rows));
        if (type == QNT_F16)
            clamped += qnti_store_f16(ctx, rows, n, half);
        else if (type == QNT_BF16)
            qnti_context_kernels(ctx)->f32_to_bf16(n, rows, half);
        QNT_CHECK(qnti_folder_emit(entry, output, type == QNT_F32 ? (const void *)rows : half,
                                   n * qnti_dtype_bytes(type)));
    }
    qnti_warn_clamped(ctx, entry->name, clamped);
cleanup:
    qnti_free(ctx, rows);
    qnti_free(ctx, half);
    return status;
}

/* The whole matrix the other way round. */
static qnt_status write_turned(const struct qnti_folder_entry *entry, const struct qnti_weight *w, qnt_dtype type,
                               struct qnti_output *output)
{
    qnt_context *ctx = entry->folder->e->ctx;
    struct qnti_weight other = {.name = w->name, .rows = w->cols, .cols = w->rows};
    float *x = NULL, *turned = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(ctx, w->rows * w->cols, &x));
    QNT_CHECK(QNTI_NEW_RAW(ctx, w->rows * w->cols, &turned));
    QNT_CHECK(qnti_weight_rows(ctx, w, 0, w->rows, x));
    for (size_t r = 0; r < w->rows; r++)
        for (size_t c = 0; c < w->cols; c++)
            turned[c * w->rows + r] = x[r * w->cols + c];
    other.plain = qnt_matrix_f32(turned, other.rows, other.cols);
    status = write_converted(entry, &other, type, output);
cleanup:
    qnti_free(ctx, x);
    qnti_free(ctx, turned);
    return status;
}

static qnt_status write_plain(const struct qnti_folder_entry *entry, struct qnti_output *output)
{
    struct qnti_weight w;
    qnt_dtype type;
    QNT_TRY(qnti_export_weight(entry->folder->e, entry->target, &w));
    type = plain_type(entry->folder->rules, &w);
    if (w.plain.data && w.plain.dtype == type && !w.unpermute_heads &&
        w.transposed == is_turned(entry->folder->e, entry->target))
        return qnti_folder_emit(entry, output, w.plain.data, entry->bytes);
    if (is_turned(entry->folder->e, entry->target))
        return write_turned(entry, &w, type, output);
    return write_converted(entry, &w, type, output);
}

static qnt_status write_entry(void *user, struct qnti_output *output)
{
    struct qnti_folder_entry *entry = user;
    struct qnti_folder *f = entry->folder;
    XXH3_64bits_reset(f->hash);
    QNT_TRY(entry->part == SIZE_MAX ? write_plain(entry, output) : f->rules->write(entry, output));
    entry->hash = XXH3_64bits_digest(f->hash);
    f->done += entry->bytes;
    if (f->e->progress)
        f->e->progress(f->e->user, f->done, f->total);
    return QNT_OK;
}

/* What was written, read again. */
static qnt_status compare(const struct qnti_folder *f, size_t shard, const char *path)
{
    struct qnti_safetensors *back;
    qnt_status status = QNT_OK;
    QNT_TRY(qnti_safetensors_open(f->e->ctx, path, &back));
    for (size_t i = 0; i < f->count && status == QNT_OK; i++) {
        const struct qnti_folder_entry *entry = &f->entries[i];
        const struct qnti_tensor *t;
        if (entry->shard != shard)
            continue;
        t = qnti_safetensors_find(back, entry->name);
        status = qnti_cancelled(f->e->ctx);
        if (!t || t->bytes != entry->bytes || XXH3_64bits(t->data, t->bytes) != entry->hash)
            status = qnti_fail(f->e->ctx, QNT_IO, "%s: tensor %s was not read back as it was written", path,
                               entry->name);
    }
    qnti_safetensors_close(back);
    return status;
}

/* Pairs for a file: the format's, the recipe, the plan. */
static size_t list_metadata(const struct qnti_folder *f, const char *pairs[MOST_METADATA])
{
    size_t n = 0;
    pairs[n++] = "format";
    pairs[n++] = "pt";
    for (size_t i = 0; i < 2 * f->rules->metadata_count; i++)
        pairs[n++] = f->rules->metadata[i];
    if (f->e->recipe) {
        pairs[n++] = "quant_recipe";
        pairs[n++] = f->e->recipe;
    }
    if (f->e->plan_hash) {
        pairs[n++] = "quant_plan";
        pairs[n++] = f->e->plan_hash;
    }
    return n / 2;
}

static qnt_status write_shard(struct qnti_folder *f, size_t shard)
{
    qnt_context *ctx = f->e->ctx;
    const char *metadata[MOST_METADATA];
    struct qnti_tensor_source *sources = NULL;
    size_t count = 0, pairs = list_metadata(f, metadata);
    char name[NAME_BYTES], *path = NULL;
    qnt_status status;
    shard_name(f, shard, name);
    QNT_CHECK(qnti_path_join(ctx, f->path, name, &path));
    QNT_CHECK(QNTI_NEW(ctx, f->count, &sources));
    for (size_t i = 0; i < f->count; i++) {
        struct qnti_folder_entry *entry = &f->entries[i];
        if (entry->shard != shard)
            continue;
        sources[count] = (struct qnti_tensor_source){.name = entry->name, .dtype = entry->dtype, .rank = entry->rank,
                                                     .write = write_entry, .user = entry};
        memcpy(sources[count++].shape, entry->shape, sizeof entry->shape);
    }
    QNT_CHECK(qnti_safetensors_write(ctx, path, sources, count, metadata, pairs));
    status = compare(f, shard, path);
cleanup:
    qnti_free(ctx, sources);
    qnti_free(ctx, path);
    return status;
}

/* {"metadata": {"total_size": ...}, "weight_map": {TENSOR: FILE, ...}} */
static qnt_status write_index(const struct qnti_folder *f)
{
    json_t *map = json_object(), *index;
    bool good = map != NULL;
    qnt_status status;
    for (size_t i = 0; i < f->count; i++) {
        char name[NAME_BYTES];
        shard_name(f, f->entries[i].shard, name);
        good = good && json_object_set_new(map, f->entries[i].name, json_string(name)) == 0;
    }
    index = json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)f->total, "weight_map", map);
    status = good && index ? qnti_folder_json(f, "model.safetensors.index.json", index, JSON_SORT_KEYS)
                           : qnti_fail(f->e->ctx, QNT_NO_MEMORY, "%s: out of memory for the index", f->path);
    json_decref(index);
    return status;
}

static qnt_status write_files(struct qnti_folder *f)
{
    json_t *config = NULL;
    qnt_status status;
    QNT_TRY(describe(f));
    cut_shards(f);
    QNT_TRY(f->rules->config(f, &config));
    status = qnti_folder_config(f, config);
    json_decref(config);
    QNT_TRY(status);
    QNT_TRY(qnti_folder_side_files(f));
    for (size_t s = 0; s < f->shards; s++)
        QNT_TRY(write_shard(f, s));
    return f->shards > 1 ? write_index(f) : QNT_OK;
}

static void take_apart(struct qnti_folder *f)
{
    if (f->rules->finish)
        f->rules->finish(f);
    for (size_t i = 0; i < f->count; i++) {
        qnti_free(f->e->ctx, f->entries[i].name);
        qnti_free(f->e->ctx, f->entries[i].dtype);
    }
    qnti_free(f->e->ctx, f->entries);
    XXH3_freeState(f->hash);
}

qnt_status qnti_folder_write(const struct qnti_export *e, const char *path)
{
    struct qnti_folder f = {.e = e, .rules = e->format->rules};
    char *temporary;
    qnt_status status;
    QNT_TRY(qnti_folder_create(e->ctx, path, &temporary));
    f.path = temporary;
    f.hash = XXH3_createState();
    if (!f.hash)
        QNT_CHECK(qnti_fail(e->ctx, QNT_NO_MEMORY, "out of memory"));
    if (f.rules->begin)
        QNT_CHECK(f.rules->begin(&f));
    QNT_CHECK(write_files(&f));
    status = qnti_folder_commit(e->ctx, temporary, path);
cleanup:
    take_apart(&f);
    if (status != QNT_OK)
        qnti_folder_remove(e->ctx, temporary);
    qnti_free(e->ctx, temporary);
    return status;
}
