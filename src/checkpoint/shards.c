/*
 * shards.c - the safetensors files of a folder: one, or those that an index lists.
 *
 *   {"metadata": {...}, "weight_map": {TENSOR: FILE, ...}}
 *
 * A single model.safetensors wins over an index. Files of the index must lie
 * in the folder itself; the map decides which file a tensor is taken from.
 */
#include "checkpoint/source.h"

#include <string.h>
#include "container/json.h"
#include "file/output.h"

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

static void describe(const struct qnti_tensor *tensor, struct qnti_stored *stored)
{
    stored->name = tensor->name;
    stored->type = tensor->dtype;
    stored->rank = tensor->rank;
    memcpy(stored->shape, tensor->shape, sizeof stored->shape);
    stored->data = tensor->data;
    stored->bytes = tensor->bytes;
    stored->plain = qnti_tensor_dtype(tensor, &stored->dtype) &&
                    (stored->dtype == QNT_F32 || stored->dtype == QNT_F16 || stored->dtype == QNT_BF16);
}

/* Opens a file of the folder as the next shard, for which there must be room. */
static qnt_status open_shard(struct qnti_checkpoint *c, const char *name, const struct qnti_safetensors **shard)
{
    struct qnti_source *source = c->source;
    char *path;
    qnt_status status;
    QNT_TRY(qnti_path_join(c->ctx, c->path, name, &path));
    status = qnti_safetensors_open(c->ctx, path, &source->shards[source->shard_count]);
    qnti_free(c->ctx, path);
    QNT_TRY(status);
    *shard = source->shards[source->shard_count++];
    return QNT_OK;
}

static qnt_status open_single(struct qnti_checkpoint *c)
{
    struct qnti_source *source = c->source;
    const struct qnti_safetensors *file;
    QNT_TRY(QNTI_NEW(c->ctx, 1, &source->shards));
    QNT_TRY(open_shard(c, single_name, &file));
    QNT_TRY(QNTI_NEW(c->ctx, file->count, &source->tensors));
    source->count = file->count;
    for (size_t i = 0; i < file->count; i++)
        describe(&file->tensors[i], &source->tensors[i]);
    return QNT_OK;
}

/* The shard of that name, opened at its first mention. */
static qnt_status shard_named(struct qnti_checkpoint *c, const char *where, const char *name,
                              const struct qnti_safetensors **shard)
{
    if (*name == 0 || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: lists the file \"%.200s\", expected a name in the same folder",
                         where, name);
    for (size_t i = 0; i < c->source->shard_count; i++) {
        *shard = c->source->shards[i];
        if (strcmp(strrchr((*shard)->path, '/') + 1, name) == 0)
            return QNT_OK;
    }
    return open_shard(c, name, shard);
}

static qnt_status list_map(struct qnti_checkpoint *c, const char *where, json_t *map)
{
    struct qnti_source *source = c->source;
    const char *name;
    json_t *file;
    QNT_TRY(QNTI_NEW(c->ctx, json_object_size(map), &source->shards));
    QNT_TRY(QNTI_NEW(c->ctx, json_object_size(map), &source->tensors));
    json_object_foreach(map, name, file) {
        const struct qnti_safetensors *shard = NULL;
        const struct qnti_tensor *tensor;
        if (!json_is_string(file))
            return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: the file of tensor \"%.200s\" is not a string", where, name);
        QNT_TRY(shard_named(c, where, json_string_value(file), &shard));
        tensor = qnti_safetensors_find(shard, name);
        if (!tensor)
            return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: has no tensor \"%.200s\", which %s expects there", shard->path,
                             name, index_name);
        describe(tensor, &source->tensors[source->count++]);
    }
    return QNT_OK;
}

static qnt_status warn_unlisted(const struct qnti_checkpoint *c, const json_t *map)
{
    struct qnti_names names = {0};
    qnt_status status = QNT_OK;
    for (size_t s = 0; s < c->source->shard_count; s++)
        for (size_t i = 0; i < c->source->shards[s]->count && status == QNT_OK; i++) {
            const char *name = c->source->shards[s]->tensors[i].name;
            if (!json_object_get(map, name))
                status = qnti_names_add(c->ctx, &names, name);
        }
    qnti_names_warn(c, "not in the index and ignored", &names);
    return status;
}

static qnt_status open_index(struct qnti_checkpoint *c)
{
    char *path;
    json_t *json = NULL, *map;
    qnt_status status;
    QNT_TRY(qnti_path_join(c->ctx, c->path, index_name, &path));
    QNT_CHECK(qnti_json_load(c->ctx, path, &json));
    map = json_object_get(json, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        QNT_CHECK(qnti_fail(c->ctx, QNT_BAD_DATA, "%s: has no weight_map", path));
    QNT_CHECK(list_map(c, path, map));
    status = warn_unlisted(c, map);
cleanup:
    json_decref(json);
    qnti_free(c->ctx, path);
    return status;
}

/* Says why a folder without safetensors cannot be read. */
static qnt_status refuse(const struct qnti_checkpoint *c)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"};
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        bool has;
        QNT_TRY(qnti_folder_has(c, pickles[i], &has));
        if (has)
            return qnti_fail(c->ctx, QNT_UNSUPPORTED,
                             "%s: holds its weights as pickle (%s), a program rather than data; convert it with "
                             "save_pretrained(..., safe_serialization=True) of transformers", c->path, pickles[i]);
    }
    return qnti_fail(c->ctx, QNT_NOT_FOUND, "%s: has neither %s nor %s", c->path, single_name, index_name);
}

qnt_status qnti_shards_open(struct qnti_checkpoint *c)
{
    bool single, index;
    QNT_TRY(qnti_folder_has(c, single_name, &single));
    QNT_TRY(qnti_folder_has(c, index_name, &index));
    if (!single && !index)
        return refuse(c);
    if (single && index)
        qnti_log(c->ctx, QNT_LOG_WARNING, "%s: has both %s and %s; the index is ignored", c->path, single_name,
                 index_name);
    QNT_TRY(single ? open_single(c) : open_index(c));
    qnti_stored_sort(c->source);
    return QNT_OK;
}
