/*
 * folder_files.c - what a model's folder holds beside its weights: side files and config.json.
 *
 * Side files (tokenizer, generation settings, chat template) are copied byte
 * for byte, as files where the source has links. config.json is the source's
 * with quantization_config set and with what the output changes: the type of
 * its floats, and whether it has an output matrix of its own.
 */
#include "export/folder.h"

#include <stdlib.h>
#include <string.h>
#include "container/json.h"
#include "file/output.h"

static qnt_status copy_file(void *user, const char *folder, const char *name)
{
    const struct qnti_folder *f = user;
    qnt_context *ctx = f->e->ctx;
    struct qnti_output *output = NULL;
    char *from = NULL, *to = NULL;
    void *map = NULL;
    size_t bytes = 0;
    qnt_status status;
    QNT_CHECK(qnti_path_join(ctx, folder, name, &from));
    QNT_CHECK(qnti_path_join(ctx, f->path, name, &to));
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

qnt_status qnti_folder_side_files(const struct qnti_folder *f)
{
    return qnti_checkpoint_side_files(f->e->source, copy_file, (void *)(uintptr_t)f);
}

qnt_status qnti_folder_json(const struct qnti_folder *f, const char *name, const json_t *json, size_t flags)
{
    char *path = NULL, *text = json_dumps(json, JSON_INDENT(2) | flags);
    struct qnti_output *output = NULL;
    qnt_status status;
    QNT_CHECK(qnti_path_join(f->e->ctx, f->path, name, &path));
    if (!text)
        QNT_CHECK(qnti_fail(f->e->ctx, QNT_NO_MEMORY, "out of memory for %s", path));
    QNT_CHECK(qnti_output_create(f->e->ctx, path, &output));
    QNT_CHECK(qnti_output_write(output, text, strlen(text)));
    QNT_CHECK(qnti_output_write(output, "\n", 1));
    status = qnti_output_commit(output);
    output = NULL;
cleanup:
    qnti_output_discard(output);
    free(text);
    qnti_free(f->e->ctx, path);
    return status;
}

/* Both spellings, where they are; the older one where neither is. */
static void set_dtype(json_t *config, const char *type)
{
    static const char *const keys[] = {"torch_dtype", "dtype"};
    bool any = false;
    for (size_t i = 0; i < 2; i++)
        if (json_object_get(config, keys[i])) {
            json_object_set_new(config, keys[i], json_string(type));
            any = true;
        }
    if (!any)
        json_object_set_new(config, keys[0], json_string(type));
}

/* A tied flag that the source's own output matrix belied would make readers drop it. */
static void set_tied(json_t *config, bool tied)
{
    const json_t *said = json_object_get(config, "tie_word_embeddings");
    if (said ? json_is_true(said) != tied : tied)
        json_object_set_new(config, "tie_word_embeddings", json_boolean(tied));
}

qnt_status qnti_folder_config(const struct qnti_folder *f, const json_t *quantization)
{
    qnt_context *ctx = f->e->ctx;
    json_t *config = NULL;
    char *path;
    qnt_status status;
    QNT_TRY(qnti_path_join(ctx, f->e->source->path, "config.json", &path));
    QNT_CHECK(qnti_json_load(ctx, path, &config));
    json_object_del(config, "compression_config");
    if (json_object_set(config, "quantization_config", (json_t *)(uintptr_t)quantization) != 0)
        QNT_CHECK(qnti_fail(ctx, QNT_NO_MEMORY, "out of memory for %s", path));
    if (f->rules->floats != QNT_F32)
        set_dtype(config, f->rules->floats == QNT_F16 ? "float16" : "bfloat16");
    set_tied(config, f->e->source->config.tied_head);
    QNT_CHECK(qnti_folder_json(f, "config.json", config, 0));
    if (f->rules->config_copy)
        QNT_CHECK(qnti_folder_json(f, f->rules->config_copy, quantization, 0));
cleanup:
    json_decref(config);
    qnti_free(ctx, path);
    return status;
}
