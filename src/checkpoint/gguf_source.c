/*
 * gguf_source.c - a model in a GGUF file: configuration from its keys, tensors in Hugging Face's order of dimensions.
 *
 * Keys are "ARCHITECTURE.something". The file does not say whether there are
 * biases or whether the head is tied: its tensors do. The scaling of RoPE
 * called llama3 is a tensor of divisors, longrope's are two. Norms that multiply
 * by 1 + w are stored so and read as they are. Mixtures of experts and split files
 * are refused.
 */
#include "checkpoint/source.h"

#include <stdio.h>
#include <string.h>
#include "file/output.h"

enum { KEY_BYTES = 128, ID_F32 = 0, ID_F16 = 1, ID_BF16 = 30 };

static const float usual_theta = 10000;   /* of every architecture, for lack of a key */

static const struct size_key {
    const char *key;
    size_t offset;
    bool required;
} size_keys[] = {
    {"embedding_length", offsetof(struct qnti_config, hidden), true},
    {"feed_forward_length", offsetof(struct qnti_config, ffn), true},
    {"block_count", offsetof(struct qnti_config, blocks), true},
    {"context_length", offsetof(struct qnti_config, context), true},
    {"attention.head_count", offsetof(struct qnti_config, heads), true},
    {"attention.head_count_kv", offsetof(struct qnti_config, kv_heads), false},
    {"attention.key_length", offsetof(struct qnti_config, head_dim), false},
};

static const char *key_of(const struct qnti_checkpoint *c, const char *name, char *key)
{
    snprintf(key, KEY_BYTES, "%s.%s", c->family->gguf, name);
    return key;
}

static qnt_status missing(const struct qnti_checkpoint *c, const char *key)
{
    return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: has no key %s", c->path, key);
}

static qnt_status read_sizes(const struct qnti_checkpoint *c, struct qnti_config *config)
{
    char key[KEY_BYTES];
    for (size_t i = 0; i < sizeof size_keys / sizeof *size_keys; i++) {
        const struct size_key *k = &size_keys[i];
        if (k->required && !qnti_gguf_find(c->source->gguf, key_of(c, k->key, key)))
            return missing(c, key);
        QNT_TRY(qnti_gguf_size(c->source->gguf, key_of(c, k->key, key),
                               (size_t *)(void *)((char *)config + k->offset)));
    }
    return QNT_OK;
}

static qnt_status find_family(struct qnti_checkpoint *c)
{
    const char *architecture = NULL;
    size_t bytes;
    QNT_TRY(qnti_gguf_string(c->source->gguf, "general.architecture", &architecture, &bytes));
    if (!architecture)
        return missing(c, "general.architecture");
    return qnti_family_find_gguf(c->ctx, c->path, architecture, bytes, &c->family);
}

static qnt_status refuse_unsupported(const struct qnti_checkpoint *c)
{
    char key[KEY_BYTES];
    size_t parts = 0, experts = 0;
    QNT_TRY(qnti_gguf_size(c->source->gguf, "split.count", &parts));
    if (parts > 1)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED, "%s: is one of %zu parts of a model, which must be merged first",
                         c->path, parts);
    QNT_TRY(qnti_gguf_size(c->source->gguf, key_of(c, "expert_count", key), &experts));
    if (experts > 0)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED, "%s: a mixture of %zu experts is not supported", c->path, experts);
    return QNT_OK;
}

/* Sizes that the file states beside those that they follow from. */
static qnt_status check_head_dim(const struct qnti_checkpoint *c)
{
    char key[KEY_BYTES];
    size_t value = c->config.head_dim;
    QNT_TRY(qnti_gguf_size(c->source->gguf, key_of(c, "attention.value_length", key), &value));
    if (value == c->config.head_dim && c->family->gguf_permutes_qk) {
        value = c->config.rope.rotated;
        key_of(c, "rope.dimension_count", key);
    }
    if (value == c->config.head_dim)
        return QNT_OK;
    return qnti_fail(c->ctx, QNT_UNSUPPORTED, "%s: %s is %zu, only the size of a head, %zu, is supported", c->path, key,
                     value, c->config.head_dim);
}

static bool has_tensor(const struct qnti_checkpoint *c, const char *name)
{
    return qnti_gguf_find_tensor(c->source->gguf, name) != NULL;
}

/* Blocks without the window: a list of flags (true: with it), or one of so many; else as the architecture has it. */
static qnt_status read_windows(const struct qnti_checkpoint *c, struct qnti_config *k)
{
    const struct qnti_gguf *file = c->source->gguf;
    const struct qnti_gguf_value *list;
    size_t pattern = c->family->window_pattern;
    char key[KEY_BYTES];
    if (!c->family->gguf_window) {
        k->sliding_window = 0;
        return QNT_OK;
    }
    QNT_TRY(qnti_gguf_size(file, key_of(c, "attention.sliding_window", key), &k->sliding_window));
    list = qnti_gguf_find(file, key_of(c, "attention.sliding_window_pattern", key));
    if (list && list->array && (list->type != QNTI_GGUF_BOOL || list->count != k->blocks))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: %s is no list of %zu flags", c->path, key, k->blocks);
    if (list && !list->array)
        QNT_TRY(qnti_gguf_size(file, key, &pattern));
    if (k->sliding_window == 0 || k->blocks > QNTI_MAX_BLOCKS)
        return QNT_OK;
    QNT_TRY(QNTI_NEW(c->ctx, qnti_max(k->blocks, 1), &k->global));
    for (size_t i = 0; i < k->blocks; i++)
        k->global[i] = list && list->array ? !list->data[i] : pattern && (i + 1) % pattern == 0;
    qnti_config_windows(c->ctx, k);
    return QNT_OK;
}

/* What readers of the architecture take q k times, for lack of a key: 1 / sqrt of a head, but for one size. */
static qnt_status read_scores(const struct qnti_checkpoint *c, struct qnti_config *k)
{
    const struct qnti_gguf *file = c->source->gguf;
    char key[KEY_BYTES];
    QNT_TRY(qnti_gguf_float(file, key_of(c, "attn_logit_softcapping", key), &k->attention_cap));
    QNT_TRY(qnti_gguf_float(file, key_of(c, "final_logit_softcapping", key), &k->logit_cap));
    k->score_scale = qnti_gguf_score_scale(c->family, k);
    return qnti_gguf_float(file, key_of(c, "attention.scale", key), &k->score_scale);
}

/* What the tensors tell: the vocabulary, a tied head, biases. */
static qnt_status read_tensors(const struct qnti_checkpoint *c, struct qnti_config *k)
{
    const struct qnti_gguf_tensor *embed = qnti_gguf_find_tensor(c->source->gguf, "token_embd.weight");
    if (!embed || embed->rank != 2)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: has no tensor \"token_embd.weight\" of two dimensions", c->path);
    k->vocab = embed->ne[1];
    k->tied_head = !has_tensor(c, "output.weight");
    k->qkv_bias |= has_tensor(c, "blk.0.attn_q.bias") || has_tensor(c, "blk.0.attn_qkv.bias");
    k->o_bias = has_tensor(c, "blk.0.attn_output.bias");
    k->mlp_bias = has_tensor(c, "blk.0.ffn_down.bias");
    return QNT_OK;
}

static qnt_status read_config(struct qnti_checkpoint *c)
{
    const struct qnti_gguf *file = c->source->gguf;
    struct qnti_config *k = &c->config;
    bool layer_norm;
    char key[KEY_BYTES];
    *k = *c->family->defaults;
    k->head_dim = 0;
    k->norm_base = 0; /* the file's norms have it in their weights */
    k->rope.theta = usual_theta;
    layer_norm = k->norm == QNTI_NORM_LAYER;
    QNT_TRY(read_sizes(c, k));
    QNT_TRY(qnti_gguf_float(file, key_of(c, "rope.freq_base", key), &k->rope.theta));
    QNT_TRY(qnti_gguf_float(file, key_of(c, "rope.freq_base_swa", key), &k->local_rope.theta));
    QNT_TRY(qnti_gguf_size(file, key_of(c, "rope.dimension_count", key), &k->rope.rotated));
    k->local_rope.rotated = k->rope.rotated;
    key_of(c, layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", key);
    if (!qnti_gguf_find(file, key))
        return missing(c, key);
    QNT_TRY(qnti_gguf_float(file, key, &k->norm_eps));
    QNT_TRY(read_tensors(c, k));
    QNT_TRY(read_windows(c, k));
    return read_scores(c, k);
}

static const struct {
    const char *name;
    enum qnti_rope_kind kind;
} scalings[] = {
    {"none", QNTI_ROPE_DEFAULT}, {"linear", QNTI_ROPE_LINEAR}, {"yarn", QNTI_ROPE_YARN},
    {"longrope", QNTI_ROPE_LONGROPE},
};

static qnt_status read_kind(const struct qnti_checkpoint *c, enum qnti_rope_kind *kind)
{
    const char *type = NULL;
    char key[KEY_BYTES];
    size_t n;
    *kind = QNTI_ROPE_LINEAR;
    QNT_TRY(qnti_gguf_string(c->source->gguf, key_of(c, "rope.scaling.type", key), &type, &n));
    if (!type)
        return QNT_OK;
    for (size_t i = 0; i < sizeof scalings / sizeof *scalings; i++)
        if (strlen(scalings[i].name) == n && memcmp(type, scalings[i].name, n) == 0) {
            *kind = scalings[i].kind;
            return QNT_OK;
        }
    return qnti_fail(c->ctx, QNT_UNSUPPORTED, "%s: %s \"%.*s\" is not supported, expected none, linear, yarn or "
                     "longrope", c->path, key, (int)qnti_min(n, 100), type);
}

static qnt_status read_scaling(const struct qnti_checkpoint *c, struct qnti_rope *rope)
{
    const struct qnti_gguf *file = c->source->gguf;
    char key[KEY_BYTES];
    enum qnti_rope_kind kind;
    float factor;
    QNT_TRY(read_kind(c, &kind));
    factor = kind == QNTI_ROPE_YARN ? 0 : 1;
    QNT_TRY(qnti_gguf_float(file, key_of(c, "rope.scale_linear", key), &factor)); /* older files */
    QNT_TRY(qnti_gguf_float(file, key_of(c, "rope.scaling.factor", key), &factor));
    if (kind == QNTI_ROPE_LONGROPE || (kind == QNTI_ROPE_LINEAR && factor == 1.0f))
        kind = QNTI_ROPE_DEFAULT; /* the former's tensors make it one */
    rope->kind = kind;
    rope->factor = factor;
    QNT_TRY(qnti_gguf_size(file, key_of(c, "rope.scaling.original_context_length", key), &rope->original_context));
    if (kind != QNTI_ROPE_YARN)
        return QNT_OK;
    QNT_TRY(qnti_gguf_float(file, key_of(c, "rope.scaling.yarn_beta_fast", key), &rope->beta_fast));
    return qnti_gguf_float(file, key_of(c, "rope.scaling.yarn_beta_slow", key), &rope->beta_slow);
}

/* n floats of a tensor, NULL where the file has none; the caller's. */
static qnt_status read_floats(const struct qnti_checkpoint *c, const char *name, size_t n, float **x)
{
    struct qnti_stored *stored = qnti_stored_find(c->source, name);
    *x = NULL;
    if (!stored)
        return QNT_OK;
    if (c->config.rope.kind != QNTI_ROPE_DEFAULT || !stored->plain || stored->dtype != QNT_F32 || stored->rank != 1 ||
        stored->shape[0] != n)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor \"%s\": expected %zu numbers of type F32 and no other "
                         "scaling of RoPE", c->path, stored->name, n);
    stored->used = true;
    QNT_TRY(QNTI_NEW_RAW(c->ctx, n, x)); /* aligned, the file is not */
    memcpy(*x, stored->data, stored->bytes);
    return QNT_OK;
}

/* The divisors of longrope, if the file has them: both. */
static qnt_status read_longrope(struct qnti_checkpoint *c)
{
    struct qnti_rope *rope = &c->config.rope;
    size_t n = (rope->rotated ? rope->rotated : c->config.head_dim) / 2;
    char key[KEY_BYTES];
    QNT_TRY(read_floats(c, "rope_factors_short.weight", n, &rope->divisors));
    QNT_TRY(read_floats(c, "rope_factors_long.weight", n, &rope->long_divisors));
    if (!rope->divisors && !rope->long_divisors)
        return QNT_OK;
    if (!rope->divisors || !rope->long_divisors)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: has one of rope_factors_short and rope_factors_long, not both",
                         c->path);
    for (size_t i = 0; i < n; i++)
        if (!(rope->divisors[i] > 0 && rope->long_divisors[i] > 0))
            return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: divisor %zu of RoPE's frequencies is not positive", c->path, i);
    rope->kind = QNTI_ROPE_LONGROPE;
    return qnti_gguf_float(c->source->gguf, key_of(c, "rope.scaling.attn_factor", key), &rope->attention_factor);
}

/* The divisors of llama3, if the file has them. */
static qnt_status read_divisors(struct qnti_checkpoint *c)
{
    float *divisors;
    qnt_status status;
    QNT_TRY(read_floats(c, "rope_freqs.weight", c->config.head_dim / 2, &divisors));
    if (!divisors)
        return QNT_OK;
    status = qnti_rope_from_divisors(c->ctx, c->path, divisors, c->config.head_dim, &c->config.rope);
    qnti_free(c->ctx, divisors);
    return status;
}

static void describe(const struct qnti_gguf_tensor *tensor, struct qnti_stored *stored)
{
    const struct qnti_ggml_type *type = qnti_ggml_type_of(tensor->type);
    stored->name = tensor->name;
    stored->type = type ? type->name : "an unknown type";
    stored->rank = tensor->rank;
    for (size_t i = 0; i < tensor->rank; i++)
        stored->shape[i] = tensor->ne[tensor->rank - 1 - i];
    stored->data = tensor->data;
    stored->bytes = tensor->bytes;
    stored->plain = tensor->type == ID_F32 || tensor->type == ID_F16 || tensor->type == ID_BF16;
    stored->dtype = tensor->type == ID_F32 ? QNT_F32 : tensor->type == ID_F16 ? QNT_F16 : QNT_BF16;
    if (!stored->plain && type && type->unpack)
        stored->ggml = type;
}

static qnt_status list_tensors(struct qnti_source *source)
{
    const struct qnti_gguf *file = source->gguf;
    QNT_TRY(QNTI_NEW(file->ctx, file->tensor_count, &source->tensors));
    source->count = file->tensor_count;
    for (size_t i = 0; i < source->count; i++)
        describe(&file->tensors[i], &source->tensors[i]);
    qnti_stored_sort(source);
    return QNT_OK;
}

qnt_status qnti_gguf_source_open(struct qnti_checkpoint *c)
{
    c->kind = "GGUF";
    QNT_TRY(qnti_gguf_open(c->ctx, c->path, qnti_ggml_type_size, &c->source->gguf));
    QNT_TRY(find_family(c));
    QNT_TRY(refuse_unsupported(c));
    QNT_TRY(list_tensors(c->source));
    QNT_TRY(read_config(c));
    QNT_TRY(read_scaling(c, &c->config.rope));
    QNT_TRY(read_longrope(c));
    QNT_TRY(qnti_config_finish(c->ctx, c->path, &c->config));
    QNT_TRY(check_head_dim(c));
    return read_divisors(c);
}
