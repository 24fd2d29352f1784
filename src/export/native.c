/*
 * native.c - the lossless format: a folder whose model.safetensors holds every part of each quantized layer.
 *
 * Quantized layers are copied from the blocks' files, tensor by tensor; all
 * others stay in the source's type (f32 where the source has blocks). Side
 * files and config.json come along.
 */
#include "export/export.h"

#include <stdlib.h>
#include <string.h>
#include <jansson.h>
#include "base/number.h"
#include "container/json.h"
#include "file/folder.h"
#include "file/output.h"
#include "file/safetensors.h"
#include "pack/native.h"

qnt_status qnti_native_assign(struct qnti_export *e)
{
    for (size_t t = 0; t < e->count; t++) {
        struct qnti_target *target = &e->targets[t];
        bool linear = !target->bias && target->role > QNTI_ATTN_NORM && target->role != QNTI_MLP_NORM;
        target->quantized = linear;
        target->layout = linear ? "native" : "plain";
    }
    if (e->output_type || e->embedding_type)
        return qnti_fail(e->ctx, QNT_UNSUPPORTED,
                         "format native keeps the output matrix and the embedding as they are; --output-type and "
                         "--embedding-type belong to gguf formats");
    return QNT_OK;
}

/* Type in which a tensor that is not quantized is stored. */
static qnt_dtype plain_type(const struct qnti_weight *w)
{
    return w->plain.data ? w->plain.dtype : QNT_F32;
}

qnt_status qnti_native_bytes(const struct qnti_export *e, uint64_t *bytes)
{
    *bytes = 0;
    for (size_t t = 0; t < e->count; t++) {
        const struct qnti_target *target = &e->targets[t];
        uint64_t n = (uint64_t)target->source->rows * target->source->cols;
        if (target->quantized) /* the recipe's bits are not known here: an upper bound of 2 bytes a weight */
            *bytes += 2 * n;
        else
            *bytes += n * qnti_dtype_bytes(plain_type(target->source));
    }
    return QNT_OK;
}

/* One tensor of the file, written when its turn comes. */
struct entry {
    const struct qnti_export *e;
    size_t target;
    char *name;                   /* of a part in a block's file; NULL: a plain tensor */
    char *dtype;
};

struct folder {
    const struct qnti_export *e;
    struct qnti_tensor_source *sources;
    struct entry *entries;
    size_t count, capacity;
};

/* Takes the next bytes of a tensor. */
typedef qnt_status (*piece_fn)(void *user, const void *bytes, size_t n);

/* A tensor as the source has it, or, where it has no plain one, as f32. */
static qnt_status plain_pieces(const struct entry *entry, piece_fn take, void *user)
{
    enum { ROWS = 64 };
    const struct qnti_weight *w = entry->e->targets[entry->target].source;
    qnt_status status = QNT_OK;
    float *rows;
    if (w->plain.data)
        return take(user, w->plain.data, w->rows * w->cols * qnti_dtype_bytes(w->plain.dtype));
    QNT_TRY(QNTI_NEW_RAW(entry->e->ctx, ROWS * w->cols, &rows));
    for (size_t r = 0; status == QNT_OK && r < w->rows; r += ROWS) {
        size_t n = qnti_min(ROWS, w->rows - r);
        status = qnti_weight_rows(entry->e->ctx, w, r, n, rows);
        if (status == QNT_OK)
            status = take(user, rows, n * w->cols * sizeof *rows);
    }
    qnti_free(entry->e->ctx, rows);
    return status;
}

static qnt_status pieces(const struct entry *entry, piece_fn take, void *user)
{
    const struct qnti_safetensors *file;
    const struct qnti_tensor *tensor;
    if (!entry->name)
        return plain_pieces(entry, take, user);
    QNT_TRY(entry->e->block(entry->e->user, entry->e->targets[entry->target].block, &file));
    tensor = qnti_safetensors_find(file, entry->name);
    if (!tensor)
        return qnti_fail(entry->e->ctx, QNT_BAD_DATA, "%s: tensor %s has gone", file->path, entry->name);
    return take(user, tensor->data, tensor->bytes);
}

static qnt_status write_piece(void *output, const void *bytes, size_t n)
{
    return qnti_output_write(output, bytes, n);
}

static qnt_status write_entry(void *user, struct qnti_output *output)
{
    return pieces(user, write_piece, output);
}

/* What was written, read again. */
struct reread {
    qnt_context *ctx;
    const char *path;
    const struct qnti_tensor *tensor;
    size_t at;
};

static qnt_status compare_piece(void *user, const void *bytes, size_t n)
{
    struct reread *r = user;
    if (n > r->tensor->bytes - r->at || memcmp((const char *)r->tensor->data + r->at, bytes, n) != 0)
        return qnti_fail(r->ctx, QNT_IO, "%s: tensor %s was not read back as it was written", r->path, r->tensor->name);
    r->at += n;
    return QNT_OK;
}

static qnt_status compare(const struct folder *f, const struct qnti_safetensors *back)
{
    for (size_t i = 0; i < f->count; i++) {
        struct reread r = {f->e->ctx, back->path, qnti_safetensors_find(back, f->sources[i].name), 0};
        if (!r.tensor)
            return qnti_fail(f->e->ctx, QNT_IO, "%s: tensor %s was not read back", back->path, f->sources[i].name);
        QNT_TRY(pieces(&f->entries[i], compare_piece, &r));
    }
    return QNT_OK;
}

static qnt_status grow(struct folder *f)
{
    qnt_context *ctx = f->e->ctx;
    size_t capacity = f->capacity ? 2 * f->capacity : 256;
    struct qnti_tensor_source *sources;
    struct entry *entries;
    if (f->count < f->capacity)
        return QNT_OK;
    QNT_TRY(QNTI_NEW(ctx, capacity, &sources));
    if (f->count)
        memcpy(sources, f->sources, f->count * sizeof *sources);
    qnti_free(ctx, f->sources);
    f->sources = sources;
    QNT_TRY(QNTI_NEW(ctx, capacity, &entries));
    if (f->count)
        memcpy(entries, f->entries, f->count * sizeof *entries);
    qnti_free(ctx, f->entries);
    f->entries = entries;
    f->capacity = capacity;
    return QNT_OK;
}

static qnt_status add_plain(struct folder *f, size_t t)
{
    const struct qnti_weight *w = f->e->targets[t].source;
    bool vector = f->e->targets[t].bias || w->rows == 1;
    QNT_TRY(grow(f));
    f->entries[f->count] = (struct entry){.e = f->e, .target = t};
    f->sources[f->count] = (struct qnti_tensor_source){.name = w->name,
                                                       .dtype = qnti_dtype_name(plain_type(w)),
                                                       .rank = vector ? 1 : 2,
                                                       .shape = {vector ? w->cols : w->rows, w->cols},
                                                       .write = write_entry};
    f->count++;
    return QNT_OK;
}

static qnt_status add_part(struct folder *f, size_t t, const struct qnti_tensor *tensor)
{
    struct entry *entry;
    QNT_TRY(grow(f));
    entry = &f->entries[f->count];
    *entry = (struct entry){.e = f->e, .target = t};
    f->sources[f->count] = (struct qnti_tensor_source){.rank = tensor->rank, .write = write_entry};
    memcpy(f->sources[f->count].shape, tensor->shape, sizeof tensor->shape);
    f->count++;
    QNT_TRY(qnti_copy_string(f->e->ctx, tensor->name, &entry->name));
    f->sources[f->count - 1].name = entry->name;
    QNT_TRY(qnti_copy_string(f->e->ctx, tensor->dtype, &entry->dtype));
    f->sources[f->count - 1].dtype = entry->dtype;
    return QNT_OK;
}

/* The parts of a layer: every tensor of the block's file whose name begins with the layer's and a point. */
static qnt_status add_layer(struct folder *f, size_t t)
{
    const struct qnti_target *target = &f->e->targets[t];
    size_t n = strlen(target->source->name) - strlen("weight");
    const struct qnti_safetensors *file;
    QNT_TRY(f->e->block(f->e->user, target->block, &file));
    for (size_t i = 0; i < file->count; i++)
        if (strncmp(file->tensors[i].name, target->source->name, n) == 0)
            QNT_TRY(add_part(f, t, &file->tensors[i]));
    return QNT_OK;
}

static void folder_free(struct folder *f)
{
    for (size_t i = 0; i < f->count; i++) {
        qnti_free(f->e->ctx, f->entries[i].name);
        qnti_free(f->e->ctx, f->entries[i].dtype);
    }
    qnti_free(f->e->ctx, f->entries);
    qnti_free(f->e->ctx, f->sources);
}

static qnt_status write_weights(const struct qnti_export *e, const char *path)
{
    static const char *const metadata[] = {"format", "pt", "quant_format", "native", "quant_version", "1"};
    struct folder f = {.e = e};
    struct qnti_safetensors *back = NULL;
    char *file = NULL;
    qnt_status status = QNT_OK;
    for (size_t t = 0; t < e->count; t++)
        QNT_CHECK(e->targets[t].quantized ? add_layer(&f, t) : add_plain(&f, t));
    for (size_t i = 0; i < f.count; i++)
        f.sources[i].user = &f.entries[i];
    QNT_CHECK(qnti_path_join(e->ctx, path, "model.safetensors", &file));
    QNT_CHECK(qnti_safetensors_write(e->ctx, file, f.sources, f.count, metadata, 3));
    QNT_CHECK(qnti_safetensors_open(e->ctx, file, &back));
    status = compare(&f, back);
cleanup:
    if (back)
        qnti_safetensors_close(back);
    qnti_free(e->ctx, file);
    folder_free(&f);
    return status;
}

struct copy {
    const struct qnti_export *e;
    const char *path;
};

static qnt_status copy_file(void *user, const char *folder, const char *name)
{
    const struct copy *c = user;
    qnt_context *ctx = c->e->ctx;
    struct qnti_output *output = NULL;
    char *from = NULL, *to = NULL;
    void *map = NULL;
    size_t bytes = 0;
    qnt_status status;
    QNT_CHECK(qnti_path_join(ctx, folder, name, &from));
    QNT_CHECK(qnti_path_join(ctx, c->path, name, &to));
    QNT_CHECK(qnti_map_file(ctx, from, &map, &bytes));
    QNT_CHECK(qnti_output_create(ctx, to, &output));
    QNT_CHECK(qnti_output_write(output, map, bytes));
    status = qnti_output_commit(output);
    output = NULL;
cleanup:
    qnti_output_discard(output);
    qnti_unmap_file(map, bytes);
    qnti_free(ctx, from);
    qnti_free(ctx, to);
    return status;
}

static qnt_status write_config(const struct qnti_export *e, const char *path)
{
    char *from = NULL, *to = NULL, *text = NULL;
    struct qnti_output *output = NULL;
    json_t *config = NULL;
    qnt_status status;
    QNT_CHECK(qnti_path_join(e->ctx, e->source->path, "config.json", &from));
    QNT_CHECK(qnti_path_join(e->ctx, path, "config.json", &to));
    QNT_CHECK(qnti_json_load(e->ctx, from, &config));
    json_object_set_new(config, "quantization_config",
                        json_pack("{s:s, s:i, s:s?}", "quant_method", "libquant", "version", QNTI_NATIVE_VERSION,
                                  "recipe", e->recipe));
    text = json_dumps(config, JSON_INDENT(2));
    if (!text)
        QNT_CHECK(qnti_fail(e->ctx, QNT_NO_MEMORY, "out of memory for %s", to));
    QNT_CHECK(qnti_output_create(e->ctx, to, &output));
    QNT_CHECK(qnti_output_write(output, text, strlen(text)));
    QNT_CHECK(qnti_output_write(output, "\n", 1));
    status = qnti_output_commit(output);
    output = NULL;
cleanup:
    qnti_output_discard(output);
    free(text);
    json_decref(config);
    qnti_free(e->ctx, from);
    qnti_free(e->ctx, to);
    return status;
}

qnt_status qnti_native_folder_write(const struct qnti_export *e, const char *path)
{
    struct copy copy = {e, NULL};
    char *temporary;
    qnt_status status;
    if (!qnti_is_folder(e->source->path))
        return qnti_fail(e->ctx, QNT_UNSUPPORTED, "%s: format native needs a folder as its source, for its side files",
                         e->source->path);
    QNT_TRY(qnti_folder_create(e->ctx, path, &temporary));
    copy.path = temporary;
    QNT_CHECK(qnti_checkpoint_side_files(e->source, copy_file, &copy));
    QNT_CHECK(write_config(e, temporary));
    QNT_CHECK(write_weights(e, temporary));
    QNT_CHECK(qnti_folder_commit(e->ctx, temporary, path));
cleanup:
    if (status != QNT_OK)
        qnti_folder_remove(e->ctx, temporary);
    qnti_free(e->ctx, temporary);
    return status;
}
