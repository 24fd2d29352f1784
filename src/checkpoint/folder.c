/*
 * folder.c - a Hugging Face folder: its configuration, and what it must not be.
 *
 * Files of a hub cache are links into a store: links are followed, and one
 * that leads nowhere is an error of that file, not an absent one. Models that
 * somebody else quantized and weights in pickles are refused by name.
 */
#include "checkpoint/source.h"

#include <string.h>
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

/* "quantization_config" that says something; its method is named. */
static qnt_status refuse_quantization_config(const struct qnti_checkpoint *c, const json_t *json)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *config = json_object_get(json, keys[i]);
        const char *method = json_string_value(json_object_get(config, "quant_method"));
        if (config && !json_is_null(config))
            return qnti_fail(c->ctx, QNT_UNSUPPORTED,
                             "%s: is quantized already (%s, method \"%.100s\"); the unquantized model is needed",
                             c->path, keys[i], method ? method : "unknown");
    }
    return QNT_OK;
}

/* The same told by tensors that only quantized models have. */
static qnt_status refuse_quantized_tensors(const struct qnti_checkpoint *c)
{
    static const char *const suffixes[] = {".qweight", ".qzeros", ".weight_packed", ".weight_scale",
                                           ".weight_scale_inv", ".weight.absmax", ".SCB"};
    for (size_t t = 0; t < c->source->count; t++)
        for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
            if (qnti_has_suffix(c->source->tensors[t].name, suffixes[i]))
                return qnti_fail(c->ctx, QNT_UNSUPPORTED,
                                 "%s: is quantized already: has a tensor \"%.200s\"; the unquantized model is needed",
                                 c->path, c->source->tensors[t].name);
    return QNT_OK;
}

/* Files that say `quant_format` are the library's own. */
static qnt_status find_reader(struct qnti_checkpoint *c)
{
    const char *format = qnti_safetensors_metadata(c->source->shards[0], "quant_format");
    if (!format)
        return QNT_OK;
    c->source->reader = qnti_quantized_reader_named(format);
    if (!c->source->reader)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED,
                         "%s: is quantized already, in the format \"%.100s\", which cannot be read back", c->path,
                         format);
    c->kind = c->source->reader->format;
    return QNT_OK;
}

static qnt_status open_with(struct qnti_checkpoint *c, const char *where, const json_t *json)
{
    if (!json_is_object(json))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: is not a JSON object", where);
    QNT_TRY(qnti_config_read(c->ctx, where, json, &c->family, &c->config));
    QNT_TRY(qnti_shards_open(c));
    QNT_TRY(find_reader(c));
    if (c->source->reader)
        return QNT_OK;
    QNT_TRY(refuse_quantization_config(c, json));
    return refuse_quantized_tensors(c);
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
