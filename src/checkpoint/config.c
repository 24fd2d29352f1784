/*
 * config.c - a model's configuration from its config.json.
 *
 * Keys that the families share are a table; what only one knows is its row's
 * `rules` (family.c). `torch_dtype` and everything that does not change the
 * forward pass is passed over; what would change it and is not supported
 * (another activation, a rotation of part of the head) is refused by name.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>
#include "container/json.h"

static const struct size_key {
    const char *key;
    size_t offset;
    bool required;
} size_keys[] = {
    {"hidden_size", offsetof(struct qnti_config, hidden), true},
    {"intermediate_size", offsetof(struct qnti_config, ffn), true},
    {"num_hidden_layers", offsetof(struct qnti_config, blocks), true},
    {"num_attention_heads", offsetof(struct qnti_config, heads), true},
    {"vocab_size", offsetof(struct qnti_config, vocab), true},
    {"num_key_value_heads", offsetof(struct qnti_config, kv_heads), false},
    {"head_dim", offsetof(struct qnti_config, head_dim), false},
    {"max_position_embeddings", offsetof(struct qnti_config, context), false},
};

static qnt_status read_sizes(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    for (size_t i = 0; i < sizeof size_keys / sizeof *size_keys; i++) {
        const struct size_key *k = &size_keys[i];
        const json_t *value = json_object_get(json, k->key);
        size_t *size = (size_t *)(void *)((char *)config + k->offset);
        if (k->required && (!value || json_is_null(value)))
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: has no %s", where, k->key);
        QNT_TRY(qnti_json_size(ctx, where, json, k->key, size));
        if (value && !json_is_null(value) && *size == 0)
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s is 0", where, k->key);
    }
    return QNT_OK;
}

static qnt_status check_activation(qnt_context *ctx, const char *where, const json_t *json)
{
    const char *name = "silu";
    QNT_TRY(qnti_json_string(ctx, where, json, "hidden_act", &name));
    if (strcmp(name, "silu") == 0 || strcmp(name, "swish") == 0)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: hidden_act \"%.100s\" is not supported, expected silu", where, name);
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
    QNT_TRY(find_family(ctx, where, json, family));
    *config = *(*family)->defaults;
    QNT_TRY(read_sizes(ctx, where, json, config));
    QNT_TRY(check_activation(ctx, where, json));
    QNT_TRY(qnti_json_float(ctx, where, json, "rms_norm_eps", &config->norm_eps));
    QNT_TRY(qnti_json_bool(ctx, where, json, "tie_word_embeddings", &config->tied_head));
    QNT_TRY(qnti_rope_read(ctx, where, json, &config->rope));
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
    if (k->kv_heads == 0)
        k->kv_heads = k->heads;
    if (k->head_dim == 0 && (k->heads == 0 || k->hidden % k->heads))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %zu heads do not divide the hidden size of %zu", where, k->heads,
                         k->hidden);
    if (k->head_dim == 0)
        k->head_dim = k->hidden / k->heads;
    QNT_TRY(check_limits(ctx, where, k));
    if (k->heads % k->kv_heads)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %zu key-value heads do not divide %zu heads", where, k->kv_heads,
                         k->heads);
    if (k->head_dim % 2)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: heads of %zu channels, expected an even number (RoPE turns pairs)",
                         where, k->head_dim);
    if (!(isfinite(k->norm_eps) && k->norm_eps >= 0))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: the epsilon of the norms is %g", where, (double)k->norm_eps);
    return qnti_rope_finish(ctx, where, k->head_dim, &k->rope);
}
