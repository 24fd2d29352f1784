/*
 * gguf_keys.c - the keys general.* and ARCHITECTURE.* of a GGUF file.
 *
 * The scaling of RoPE called llama3 has no key, it is a tensor; longrope's
 * divisors are two. Epsilon, bases, factors and caps are f32, sizes u32. What
 * readers of an architecture know without a key (its window's pattern, the
 * scale of scores) is written where a model does it otherwise, with a warning.
 */
#include "export/gguf.h"

#include <limits.h>
#include <math.h>
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
    {"rope.dimension_count", offsetof(struct qnti_config, rope.rotated)},
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

static bool usual_yarn_factor(const struct qnti_rope *rope)
{
    return fabs((double)rope->attention_factor - (0.1 * log(fmax((double)rope->factor, 1)) + 1)) < 1e-5;
}

/* What a reader takes to be so for lack of a key. */
static const char *deviation(const struct qnti_checkpoint *c)
{
    const struct qnti_config *k = &c->config, *usual = c->family->defaults;
    if (k->activation != usual->activation)
        return "another activation than its architecture has there";
    if (!(k->attention_cap > 0) != !(usual->attention_cap > 0) || !(k->logit_cap > 0) != !(usual->logit_cap > 0))
        return "other soft caps than its architecture has there";
    if (k->rope.kind == QNTI_ROPE_DYNAMIC)
        return "RoPE that grows with the sequence";
    if (c->family->gguf_permutes_qk && k->rope.rotated != k->head_dim)
        return "RoPE of a part of each head";
    if (k->learned_positions && k->score_scale > 0)
        return "scores that are not scaled";
    if (k->local_rope.theta > 0 && k->local_rope.kind != QNTI_ROPE_DEFAULT)
        return "scaled RoPE in blocks with a window";
    if (k->rope.kind == QNTI_ROPE_YARN && (k->rope.exact_bounds || !usual_yarn_factor(&k->rope)))
        return "RoPE by yarn with a factor or bounds of its own";
    return NULL;
}

qnt_status qnti_gguf_check_model(const struct qnti_export *e)
{
    const struct qnti_checkpoint *c = e->source;
    const char *what;
    if (!c->family->gguf)
        return qnti_fail(e->ctx, QNT_UNSUPPORTED, "%s: GGUF has no architecture for %s; formats that are folders "
                         "(native, gptq, awq, bnb) can hold it", c->path, c->family->name);
    what = deviation(c);
    if (what)
        return qnti_fail(e->ctx, QNT_UNSUPPORTED, "%s: has %s, which GGUF's architecture %s cannot say", c->path, what,
                         c->family->gguf);
    return QNT_OK;
}

static qnt_status put_float(struct qnti_gguf_file *file, const char *name, float value)
{
    char key[KEY_BYTES];
    return qnti_gguf_put_f32(&file->writer, key_of(file, name, key), value);
}

static qnt_status put_scaling(struct qnti_gguf_file *file, const char *type, bool factor)
{
    const struct qnti_rope *rope = &file->e->source->config.rope;
    char key[KEY_BYTES];
    QNT_TRY(qnti_gguf_put_string(&file->writer, key_of(file, "rope.scaling.type", key), type, strlen(type)));
    return factor ? put_float(file, "rope.scaling.factor", rope->factor) : QNT_OK;
}

static qnt_status put_rope(struct qnti_gguf_file *file)
{
    const struct qnti_config *k = &file->e->source->config;
    const struct qnti_rope *rope = &k->rope;
    if (k->learned_positions)
        return QNT_OK;
    QNT_TRY(put_float(file, "rope.freq_base", rope->theta));
    if (k->local_rope.theta > 0 && k->local_rope.theta != file->e->source->family->defaults->local_rope.theta)
        QNT_TRY(put_float(file, "rope.freq_base_swa", k->local_rope.theta));
    if (rope->kind == QNTI_ROPE_LINEAR)
        return put_scaling(file, "linear", true);
    if (rope->kind == QNTI_ROPE_LONGROPE) {
        QNT_TRY(put_scaling(file, "longrope", false));
        QNT_TRY(put_float(file, "rope.scaling.attn_factor", rope->attention_factor));
        return put_size(file, "rope.scaling.original_context_length", rope->original_context);
    }
    if (rope->kind != QNTI_ROPE_YARN)
        return QNT_OK;
    QNT_TRY(put_scaling(file, "yarn", true));
    QNT_TRY(put_float(file, "rope.scaling.yarn_beta_fast", rope->beta_fast));
    QNT_TRY(put_float(file, "rope.scaling.yarn_beta_slow", rope->beta_slow));
    return put_size(file, "rope.scaling.original_context_length", rope->original_context);
}

/* The smallest number of which every multiple, counted from 1, is a global block and no other; 0: there is none. */
static size_t pattern_of(const struct qnti_config *k)
{
    size_t n = 1;
    if (!k->global)
        return k->sliding_window ? 0 : 1;
    while (n < k->blocks && !k->global[n - 1])
        n++;
    for (size_t i = 0; i < k->blocks; i++)
        if (k->global[i] != ((i + 1) % n == 0))
            return 0;
    return n;
}

/* Blocks that see the window, where the architecture's readers would not know them: a number, or else a flag each. */
static qnt_status put_pattern(struct qnti_gguf_file *file)
{
    const struct qnti_export *e = file->e;
    const struct qnti_config *k = &e->source->config;
    size_t pattern = pattern_of(k), usual = e->source->family->window_pattern;
    char key[KEY_BYTES];
    bool *local;
    qnt_status status;
    if (pattern == usual || (pattern == 0 && !k->global && k->blocks < usual))
        return QNT_OK;
    if (!file->counting)
        qnti_log(e->ctx, QNT_LOG_WARNING, "%s: its blocks with a window are not those of the architecture %s; readers "
                 "that do not know the key attention.sliding_window_pattern will be wrong", e->source->path,
                 e->source->family->gguf);
    if (pattern)
        return put_size(file, "attention.sliding_window_pattern", pattern);
    QNT_TRY(QNTI_NEW(e->ctx, k->blocks, &local));
    for (size_t i = 0; i < k->blocks; i++)
        local[i] = !(k->global && k->global[i]);
    status = qnti_gguf_put_bool_array(&file->writer, key_of(file, "attention.sliding_window_pattern", key), local,
                                      k->blocks);
    qnti_free(e->ctx, local);
    return status;
}

static qnt_status put_window(struct qnti_gguf_file *file)
{
    const struct qnti_export *e = file->e;
    const struct qnti_config *k = &e->source->config;
    if (e->source->family->gguf_window)
        QNT_TRY(put_size(file, "attention.sliding_window", k->sliding_window));
    if (e->source->family->window_pattern)
        return k->sliding_window ? put_pattern(file) : QNT_OK;
    if (k->sliding_window && k->sliding_window < k->context && !file->counting)
        qnti_log(e->ctx, QNT_LOG_WARNING,
                 "%s: GGUF's architecture %s has no sliding window%s; beyond %zu tokens the model will see more than "
                 "it was made for", e->source->path, e->source->family->gguf,
                 e->source->family->gguf_window ? " that its readers heed" : "", k->sliding_window);
    return QNT_OK;
}

/* Caps, and the scale where it is not what readers take. */
static qnt_status put_scores(struct qnti_gguf_file *file)
{
    const struct qnti_checkpoint *c = file->e->source;
    const struct qnti_config *k = &c->config;
    if (k->attention_cap > 0)
        QNT_TRY(put_float(file, "attn_logit_softcapping", k->attention_cap));
    if (k->logit_cap > 0)
        QNT_TRY(put_float(file, "final_logit_softcapping", k->logit_cap));
    if (k->score_scale == qnti_gguf_score_scale(c->family, k))
        return QNT_OK;
    if (!file->counting)
        qnti_log(file->e->ctx, QNT_LOG_WARNING, "%s: its scores are scaled by %g, not as GGUF's architecture %s has "
                 "it; readers that do not know the key attention.scale will be wrong", c->path,
                 (double)k->score_scale, c->family->gguf);
    return put_float(file, "attention.scale", k->score_scale);
}

static qnt_status put_architecture(struct qnti_gguf_file *file)
{
    const struct qnti_config *k = &file->e->source->config;
    for (size_t i = 0; i < sizeof size_keys / sizeof *size_keys; i++) {
        size_t value = *(const size_t *)(const void *)((const char *)k + size_keys[i].offset);
        if (value)
            QNT_TRY(put_size(file, size_keys[i].key, value));
    }
    QNT_TRY(put_float(file, k->norm == QNTI_NORM_LAYER ? "attention.layer_norm_epsilon"
                                                       : "attention.layer_norm_rms_epsilon", k->norm_eps));
    QNT_TRY(put_rope(file));
    QNT_TRY(put_scores(file));
    return put_window(file);
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
