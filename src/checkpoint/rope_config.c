/*
 * rope_config.c - the parameters of RoPE from config.json.
 *
 * Older files have `rope_theta` beside `rope_scaling`, newer ones
 * `rope_parameters` with both, which wins; Gemma 3's has one object for global
 * and one for local blocks. The factors of longrope are divisors as they are.
 */
#include "checkpoint/source.h"

#include <string.h>
#include "container/json.h"

static const struct {
    const char *name;
    enum qnti_rope_kind kind;
} rope_types[] = {
    {"default", QNTI_ROPE_DEFAULT}, {"linear", QNTI_ROPE_LINEAR},     {"llama3", QNTI_ROPE_LLAMA3},
    {"dynamic", QNTI_ROPE_DYNAMIC}, {"yarn", QNTI_ROPE_YARN},         {"longrope", QNTI_ROPE_LONGROPE},
    {"su", QNTI_ROPE_LONGROPE},
};

static qnt_status find_kind(qnt_context *ctx, const char *where, const char *type, enum qnti_rope_kind *kind)
{
    for (size_t i = 0; i < sizeof rope_types / sizeof *rope_types; i++) {
        if (strcmp(type, rope_types[i].name) != 0)
            continue;
        *kind = rope_types[i].kind;
        return QNT_OK;
    }
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: rope_type \"%.100s\" is not supported; supported are default, linear, "
                     "llama3, dynamic, yarn and longrope", where, type);
}

/* What an object of parameters has under these names. */
static qnt_status read_numbers(qnt_context *ctx, const char *where, const json_t *json, struct qnti_rope *rope)
{
    const struct {
        const char *key;
        float *value;
    } numbers[] = {
        {"rope_theta", &rope->theta}, {"partial_rotary_factor", &rope->partial}, {"factor", &rope->factor},
        {"low_freq_factor", &rope->low_freq_factor}, {"high_freq_factor", &rope->high_freq_factor},
        {"beta_fast", &rope->beta_fast}, {"beta_slow", &rope->beta_slow}, {"mscale", &rope->mscale},
        {"mscale_all_dim", &rope->mscale_all_dim}, {"attention_factor", &rope->attention_factor},
    };
    bool truncate = true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        QNT_TRY(qnti_json_float(ctx, where, json, numbers[i].key, numbers[i].value));
    QNT_TRY(qnti_json_bool(ctx, where, json, "truncate", &truncate));
    rope->exact_bounds = !truncate;
    return qnti_json_size(ctx, where, json, "original_max_position_embeddings", &rope->original_context);
}

/* [n] positive numbers, one a pair. */
static qnt_status read_factors(qnt_context *ctx, const char *where, const json_t *json, const char *key, size_t n,
                               float **factors)
{
    const json_t *list = json_object_get(json, key);
    if (!json_is_array(list) || json_array_size(list) != n)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s has %zu numbers, expected %zu", where, key, json_array_size(list),
                         n);
    QNT_TRY(QNTI_NEW(ctx, qnti_max(n, 1), factors));
    for (size_t i = 0; i < n; i++) {
        double x = json_number_value(json_array_get(list, i));
        if (!(x > 0 && x < 1e30))
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s[%zu] is no positive number", where, key, i);
        (*factors)[i] = (float)x;
    }
    return QNT_OK;
}

static qnt_status read_longrope(qnt_context *ctx, const char *where, const json_t *json, size_t head_dim,
                                struct qnti_rope *rope)
{
    float part = rope->partial > 0 ? rope->partial : 1;
    size_t pairs = (size_t)((float)head_dim * part) / 2;
    QNT_TRY(read_factors(ctx, where, json, "short_factor", pairs, &rope->divisors));
    return read_factors(ctx, where, json, "long_factor", pairs, &rope->long_divisors);
}

/* The members of rope_parameters or rope_scaling, which `name` says. */
static qnt_status read_scaling(qnt_context *ctx, const char *where, const char *name, const json_t *scaling,
                               size_t head_dim, struct qnti_rope *rope)
{
    const char *type = NULL;
    if (!json_is_object(scaling))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s is not an object", where, name);
    QNT_TRY(qnti_json_string(ctx, where, scaling, "type", &type));
    QNT_TRY(qnti_json_string(ctx, where, scaling, "rope_type", &type));
    if (!type && !json_object_get(scaling, "rope_theta"))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s has no rope_type", where, name);
    QNT_TRY(find_kind(ctx, where, type ? type : "default", &rope->kind));
    if (rope->kind == QNTI_ROPE_LLAMA3)
        qnti_rope_usual(rope);
    QNT_TRY(read_numbers(ctx, where, scaling, rope));
    return rope->kind == QNTI_ROPE_LONGROPE ? read_longrope(ctx, where, scaling, head_dim, rope) : QNT_OK;
}

qnt_status qnti_rope_read(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    static const char *const names[] = {"rope_parameters", "rope_scaling"};
    struct qnti_rope *rope = &config->rope;
    QNT_TRY(qnti_json_float(ctx, where, json, "partial_rotary_factor", &rope->partial));
    QNT_TRY(qnti_json_float(ctx, where, json, "rope_theta", &rope->theta));
    QNT_TRY(qnti_json_size(ctx, where, json, "original_max_position_embeddings", &rope->original_context));
    QNT_TRY(qnti_json_float(ctx, where, json, "rope_local_base_freq", &config->local_rope.theta));
    for (size_t i = 0; i < 2; i++) {
        const json_t *scaling = json_object_get(json, names[i]), *global = json_object_get(scaling, "full_attention");
        const json_t *local = json_object_get(scaling, "sliding_attention");
        if (!scaling || json_is_null(scaling))
            continue;
        if (local)
            QNT_TRY(read_scaling(ctx, where, names[i], local, config->head_dim, &config->local_rope));
        return read_scaling(ctx, where, names[i], global ? global : scaling, config->head_dim, rope);
    }
    return QNT_OK;
}
