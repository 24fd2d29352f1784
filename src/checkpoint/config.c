/*
 * config.c - a model's configuration from its config.json.
 *
 * Keys that the families share are a table; what only one knows is its row's
 * `rules` (family.c). `torch_dtype` and everything that does not change the
 * forward pass is passed over; what would change it and is not supported
 * (another activation, a norm behind the residual) is refused by name.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>
#include "container/json.h"

static const struct size_key {
    enum qnti_key key;
    size_t offset;
    bool required;
} size_keys[] = {
    {QNTI_KEY_HIDDEN, offsetof(struct qnti_config, hidden), true},
    {QNTI_KEY_FFN, offsetof(struct qnti_config, ffn), true},
    {QNTI_KEY_BLOCKS, offsetof(struct qnti_config, blocks), true},
    {QNTI_KEY_HEADS, offsetof(struct qnti_config, heads), true},
    {QNTI_KEY_VOCAB, offsetof(struct qnti_config, vocab), true},
    {QNTI_KEY_KV_HEADS, offsetof(struct qnti_config, kv_heads), false},
    {QNTI_KEY_HEAD_DIM, offsetof(struct qnti_config, head_dim), false},
    {QNTI_KEY_CONTEXT, offsetof(struct qnti_config, context), false},
};

static qnt_status read_sizes(qnt_context *ctx, const char *where, const json_t *json, const char *const *keys,
                             struct qnti_config *config)
{
    for (size_t i = 0; i < sizeof size_keys / sizeof *size_keys; i++) {
        const struct size_key *k = &size_keys[i];
        const char *key = keys[k->key];
        const json_t *value = key ? json_object_get(json, key) : NULL;
        size_t *size = (size_t *)(void *)((char *)config + k->offset);
        if (!key)
            continue;
        if (k->required && (!value || json_is_null(value)))
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: has no %s", where, key);
        QNT_TRY(qnti_json_size(ctx, where, json, key, size));
        if (value && !json_is_null(value) && *size == 0)
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s is 0", where, key);
    }
    return QNT_OK;
}

static const struct {
    const char *name;
    enum qnti_activation activation;
} activations[] = {
    {"silu", QNTI_SILU}, {"swish", QNTI_SILU}, {"relu", QNTI_RELU}, {"gelu", QNTI_GELU}, {"gelu_python", QNTI_GELU},
    {"gelu_new", QNTI_GELU_TANH}, {"gelu_pytorch_tanh", QNTI_GELU_TANH}, {"gelu_accurate", QNTI_GELU_TANH},
    {"gelu_fast", QNTI_GELU_TANH}, {"quick_gelu", QNTI_GELU_QUICK}, {"mish", QNTI_MISH},
};

static qnt_status read_activation(qnt_context *ctx, const char *where, const json_t *json, const char *key,
                                  enum qnti_activation *activation)
{
    const char *name = NULL;
    QNT_TRY(qnti_json_string(ctx, where, json, key, &name));
    for (size_t i = 0; name && i < sizeof activations / sizeof *activations; i++)
        if (strcmp(name, activations[i].name) == 0) {
            *activation = activations[i].activation;
            return QNT_OK;
        }
    if (!name)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED,
                     "%s: %s \"%.100s\" is not supported, expected silu, relu, gelu, gelu_new, gelu_pytorch_tanh, "
                     "gelu_fast, quick_gelu or mish", where, key, name);
}

static qnt_status check_refused(qnt_context *ctx, const char *where, const json_t *json,
                                const struct qnti_family *family)
{
    for (const struct qnti_refusal *r = family->refused; r && r->key; r++) {
        bool value = !r->value;
        QNT_TRY(qnti_json_bool(ctx, where, json, r->key, &value));
        if (value == r->value)
            return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: %s %s is not supported", where, r->key,
                             value ? "true" : "false");
    }
    return QNT_OK;
}

/* Sizes of heads that follow from others. */
static qnt_status derive_heads(qnt_context *ctx, const char *where, struct qnti_config *k)
{
    if (k->kv_heads == 0)
        k->kv_heads = k->heads;
    if (k->head_dim == 0 && (k->heads == 0 || k->hidden % k->heads))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %zu heads do not divide the hidden size of %zu", where, k->heads,
                         k->hidden);
    if (k->head_dim == 0)
        k->head_dim = k->hidden / k->heads;
    return QNT_OK;
}

static qnt_status find_family(qnt_context *ctx, const char *where, const json_t *json,
                              const struct qnti_family **family)
{
    const json_t *list = json_object_get(json, "architectures");
    const json_t *first = json_array_get(list, 0);
    const char *model_type = NULL;
    if (list && !json_is_null(list) && !json_is_string(first))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: architectures is not a list of names", where);
    QNT_TRY(qnti_json_string(ctx, where, json, "model_type", &model_type));
    return qnti_family_find(ctx, where, json_string_value(first), model_type, family);
}

qnt_status qnti_config_read(qnt_context *ctx, const char *where, const json_t *json,
                            const struct qnti_family **family, struct qnti_config *config)
{
    const char *const *keys;
    QNT_TRY(find_family(ctx, where, json, family));
    *config = *(*family)->defaults;
    keys = (*family)->keys;
    QNT_TRY(read_sizes(ctx, where, json, keys, config));
    QNT_TRY(check_refused(ctx, where, json, *family));
    QNT_TRY(read_activation(ctx, where, json, keys[QNTI_KEY_ACTIVATION], &config->activation));
    if (keys[QNTI_KEY_EPS])
        QNT_TRY(qnti_json_float(ctx, where, json, keys[QNTI_KEY_EPS], &config->norm_eps));
    QNT_TRY(qnti_json_bool(ctx, where, json, "tie_word_embeddings", &config->tied_head));
    QNT_TRY(derive_heads(ctx, where, config));
    if (!config->learned_positions)
        QNT_TRY(qnti_rope_read(ctx, where, json, config));
    QNT_TRY((*family)->rules(ctx, where, json, config));
    return qnti_config_finish(ctx, where, config);
}

static qnt_status check_limit(qnt_context *ctx, const char *where, const char *what, size_t value, size_t limit)
{
    if (value > 0 && value <= limit)
        return QNT_OK;
    return qnti_fail(ctx, QNT_BAD_DATA, "%s: the %s is %zu, expected 1 to %zu", where, what, value, limit);
}

static qnt_status check_limits(qnt_context *ctx, const char *where, const struct qnti_config *k)
{
    QNT_TRY(check_limit(ctx, where, "number of blocks", k->blocks, QNTI_MAX_BLOCKS));
    QNT_TRY(check_limit(ctx, where, "hidden size", k->hidden, QNTI_MAX_WIDTH));
    QNT_TRY(check_limit(ctx, where, "size of the mlp", k->ffn, QNTI_MAX_WIDTH));
    QNT_TRY(check_limit(ctx, where, "size of the vocabulary", k->vocab, QNTI_MAX_WIDTH));
    QNT_TRY(check_limit(ctx, where, "number of heads", k->heads, QNTI_MAX_WIDTH));
    QNT_TRY(check_limit(ctx, where, "number of key-value heads", k->kv_heads, k->heads));
    QNT_TRY(check_limit(ctx, where, "size of a head", k->head_dim, QNTI_MAX_WIDTH));
    return check_limit(ctx, where, "size of all heads", k->heads * k->head_dim, QNTI_MAX_WIDTH);
}

qnt_status qnti_config_finish(qnt_context *ctx, const char *where, struct qnti_config *k)
{
    QNT_TRY(derive_heads(ctx, where, k));
    QNT_TRY(check_limits(ctx, where, k));
    if (k->heads % k->kv_heads)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %zu key-value heads do not divide %zu heads", where, k->kv_heads,
                         k->heads);
    if (!(isfinite(k->norm_eps) && k->norm_eps >= 0))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: the epsilon of the norms is %g", where, (double)k->norm_eps);
    if (!(isfinite(k->score_scale) && isfinite(k->attention_cap) && isfinite(k->logit_cap) && k->attention_cap >= 0 &&
          k->logit_cap >= 0))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: scores times %g, with caps %g of them and %g of the logits", where,
                         (double)k->score_scale, (double)k->attention_cap, (double)k->logit_cap);
    if (k->learned_positions)
        return check_limit(ctx, where, "number of positions", k->context, QNTI_MAX_WIDTH);
    QNT_TRY(qnti_rope_finish(ctx, where, k, &k->rope));
    return k->local_rope.theta > 0 ? qnti_rope_finish(ctx, where, k, &k->local_rope) : QNT_OK;
}
