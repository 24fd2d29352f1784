/*
 * folder.c - a Hugging Face folder: its configuration, and what it must not be.
 *
 * Files of a hub cache are links into a store: links are followed, and one
 * that leads nowhere is an error of that file, not an absent one. Weights in
 * pickles are refused by name; quantized models are the affair of quantized.c.
 */
#include "checkpoint/source.h"

#include <sys/stat.h>
#include "container/json.h"
#include "file/output.h"

qnt_status qnti_folder_has(const struct qnti_checkpoint *c, const char *name, bool *has)
{
    struct stat info;
    char *path;
    QNT_TRY(qnti_path_join(c->ctx, c->path, name, &path));
    *has = lstat(path, &info) == 0;
    qnti_free(c->ctx, path);
    return QNT_OK;
}

static qnt_status open_with(struct qnti_checkpoint *c, const char *where, const json_t *json)
{
    if (!json_is_object(json))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: is not a JSON object", where);
    QNT_TRY(qnti_config_read(c->ctx, where, json, &c->family, &c->config));
    QNT_TRY(qnti_kv_read(c, where, json));
    QNT_TRY(qnti_shards_open(c));
    return qnti_quantized_find(c, where, json);
}

qnt_status qnti_folder_open(struct qnti_checkpoint *c)
{
    char *path;
    json_t *json = NULL;
    bool has;
    qnt_status status;
    c->kind = "Hugging Face folder";
    QNT_TRY(qnti_folder_has(c, "config.json", &has));
    if (!has)
        return qnti_fail(c->ctx, QNT_NOT_FOUND, "%s: has no config.json, is not a model's folder", c->path);
    QNT_TRY(qnti_path_join(c->ctx, c->path, "config.json", &path));
    status = qnti_json_load(c->ctx, path, &json);
    if (status == QNT_OK)
        status = open_with(c, path, json);
    json_decref(json);
    qnti_free(c->ctx, path);
    return status;
}
