/*
 * gguf_keys.c - the keys general.* and ARCHITECTURE.* of a GGUF file.
 *
 * The scaling of RoPE called llama3 has no key, it is a tensor. The epsilon
 * and the base of RoPE are f32, sizes u32. Sliding windows have no key in the
 * architectures at hand.
 */
#include "export/gguf.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "container/json.h"
#include "file/output.h"

enum { QUANTIZATION_VERSION = 2, KEY_BYTES = 128 };

static const struct {
    const char *key;
    size_t offset;
} size_keys[] = {
    {"block_count", offsetof(struct qnti_config, blocks)},
    {"context_length", offsetof(struct qnti_config, context)},
    {"embedding_length", offsetof(struct qnti_config, hidden)},
    {"feed_forward_length", offsetof(struct qnti_config, ffn)},
    {"attention.head_count", offsetof(struct qnti_config, heads)},
    {"attention.head_count_kv", offsetof(struct qnti_config, kv_heads)},
    {"attention.key_length", offsetof(struct qnti_config, head_dim)},
    {"attention.value_length", offsetof(struct qnti_config, head_dim)},
    {"rope.dimension_count", offsetof(struct qnti_config, head_dim)},
    {"vocab_size", offsetof(struct qnti_config, vocab)},
};

static const char *key_of(const struct qnti_gguf_file *file, const char *name, char *key)
{
    snprintf(key, KEY_BYTES, "%s.%s", file->e->source->family->gguf, name);
    return key;
}

static qnt_status put_size(struct qnti_gguf_file *file, const char *name, size_t value)
{
    char key[KEY_BYTES];
    key_of(file, name, key);
    if (value > UINT32_MAX)
        return qnti_fail(file->e->ctx, QNT_UNSUPPORTED, "%s: %zu does not fit into GGUF's key %s",
                         file->e->source->path, value, key);
    return qnti_gguf_put_u32(&file->writer, key, (uint32_t)value);
}

static qnt_status put_architecture(struct qnti_gguf_file *file)
{
    const struct qnti_config *k = &file->e->source->config;
    struct qnti_gguf_writer *w = &file->writer;
    char key[KEY_BYTES];
    for (size_t i = 0; i < sizeof size_keys / sizeof *size_keys; i++)
        QNT_TRY(put_size(file, size_keys[i].key,
                         *(const size_t *)(const void *)((const char *)k + size_keys[i].offset)));
    QNT_TRY(qnti_gguf_put_f32(w, key_of(file, "attention.layer_norm_rms_epsilon", key), k->norm_eps));
    QNT_TRY(qnti_gguf_put_f32(w, key_of(file, "rope.freq_base", key), k->rope.theta));
    if (k->rope.kind == QNTI_ROPE_LINEAR) {
        QNT_TRY(qnti_gguf_put_string(w, key_of(file, "rope.scaling.type", key), "linear", strlen("linear")));
        QNT_TRY(qnti_gguf_put_f32(w, key_of(file, "rope.scaling.factor", key), k->rope.factor));
    }
    if (k->sliding_window && k->sliding_window < k->context && !file->counting)
        qnti_log(file->e->ctx, QNT_LOG_WARNING,
                 "%s: GGUF's architecture %s has no sliding window; beyond %zu tokens the model will see more than it "
                 "was made for", file->e->source->path, file->e->source->family->gguf, k->sliding_window);
    return QNT_OK;
}

/* Folders of a hub's cache are named by the hash of a commit. */
static bool is_hash(const char *name)
{
    enum { HASH_DIGITS = 40 };
    return strlen(name) == HASH_DIGITS && strspn(name, "0123456789abcdef") == HASH_DIGITS;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* What config.json says that the model was loaded from. */
static qnt_status put_config_name(struct qnti_gguf_file *file)
{
    qnt_context *ctx = file->e->ctx;
    const char *name = "";
    json_t *json = NULL;
    qnt_status status;
    char *path;
    QNT_TRY(qnti_path_join(ctx, file->e->source->path, "config.json", &path));
    QNT_CHECK(qnti_json_load(ctx, path, &json));
    QNT_CHECK(qnti_json_string(ctx, path, json, "_name_or_path", &name));
    name = last_part(name);
    QNT_CHECK(qnti_gguf_put_string(&file->writer, "general.name", name, strlen(name)));
cleanup:
    json_decref(json);
    qnti_free(ctx, path);
    return status;
}

/* The name of the folder, or of the file without its ending. */
static qnt_status put_name(struct qnti_gguf_file *file)
{
    const char *source = file->e->source->path, *name, *end;
    char whole[PATH_MAX];
    if (!realpath(source, whole))
        return QNT_OK;
    name = last_part(whole);
    if (qnti_is_folder(source))
        return is_hash(name) ? put_config_name(file)
                             : qnti_gguf_put_string(&file->writer, "general.name", name, strlen(name));
    end = strrchr(name, '.');
    return qnti_gguf_put_string(&file->writer, "general.name", name, end ? (size_t)(end - name) : strlen(name));
}

static bool has_blocks(const struct qnti_gguf_file *file)
{
    for (size_t i = 0; i < file->count; i++)
        if (file->items[i].type->elements > 1)
            return true;
    return false;
}

qnt_status qnti_gguf_put_model(struct qnti_gguf_file *file)
{
    const struct qnti_export *e = file->e;
    const char *architecture = e->source->family->gguf;
    struct qnti_gguf_writer *w = &file->writer;
    QNT_TRY(qnti_gguf_put_string(w, "general.architecture", architecture, strlen(architecture)));
    QNT_TRY(qnti_gguf_put_string(w, "general.type", "model", strlen("model")));
    QNT_TRY(put_name(file));
    QNT_TRY(qnti_gguf_put_u32(w, "general.file_type", e->format->file_type));
    if (has_blocks(file))
        QNT_TRY(qnti_gguf_put_u32(w, "general.quantization_version", QUANTIZATION_VERSION));
    if (e->recipe)
        QNT_TRY(qnti_gguf_put_string(w, "quant.recipe", e->recipe, strlen(e->recipe)));
    if (e->calibration)
        QNT_TRY(qnti_gguf_put_string(w, "quant.calibration", e->calibration, strlen(e->calibration)));
    if (e->plan_hash)
        QNT_TRY(qnti_gguf_put_string(w, "quant.plan", e->plan_hash, strlen(e->plan_hash)));
    return put_architecture(file);
}
