/*
 * rope.c - how fast RoPE's pairs turn: parameters from config.json, and the divisors that they stand for.
 *
 * f_i = theta^(-2i / head_dim) / divisor_i, i = 0 .. head_dim / 2 - 1.
 *   linear  divisor = factor
 *   llama3  wave length l = 2 pi / f: 1 where l < context / high, factor where l > context / low, between them
 *           1 / ((1 - s) / factor + s), s = (context / l - low) / (high - low)
 * The arithmetic is f32, as in the file rope_freqs.weight of GGUF. Scalings
 * that depend on the length of the text (dynamic, yarn, longrope) are refused.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>
#include "container/json.h"

static const float usual_factor = 8, usual_low = 1, usual_high = 4; /* of Llama 3.1 */
enum { USUAL_CONTEXT = 8192 };

static const struct {
    const char *name;
    enum qnti_rope_kind kind;
} rope_types[] = {
    {"default", QNTI_ROPE_DEFAULT},
    {"linear", QNTI_ROPE_LINEAR},
    {"llama3", QNTI_ROPE_LLAMA3},
};

static qnt_status find_kind(qnt_context *ctx, const char *where, const char *type, enum qnti_rope_kind *kind)
{
    for (size_t i = 0; i < sizeof rope_types / sizeof *rope_types; i++) {
        if (strcmp(type, rope_types[i].name) != 0)
            continue;
        *kind = rope_types[i].kind;
        return QNT_OK;
    }
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: rope_type \"%.100s\" is not supported; supported are default, linear "
                     "and llama3", where, type);
}

static qnt_status check_partial(qnt_context *ctx, const char *where, const json_t *json)
{
    float part = 1;
    QNT_TRY(qnti_json_float(ctx, where, json, "partial_rotary_factor", &part));
    if (part == 1.0f)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported, expected 1", where,
                     (double)part);
}

/* The members of rope_parameters or rope_scaling, which `name` says. */
static qnt_status read_scaling(qnt_context *ctx, const char *where, const char *name, const json_t *scaling,
                               struct qnti_rope *rope)
{
    const char *type = NULL;
    if (!json_is_object(scaling))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s is not an object", where, name);
    QNT_TRY(qnti_json_string(ctx, where, scaling, "type", &type));
    QNT_TRY(qnti_json_string(ctx, where, scaling, "rope_type", &type));
    if (!type && !json_object_get(scaling, "rope_theta"))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s has no rope_type", where, name);
    QNT_TRY(find_kind(ctx, where, type ? type : "default", &rope->kind));
    if (rope->kind == QNTI_ROPE_LLAMA3) {
        rope->factor = usual_factor;
        rope->low_freq_factor = usual_low;
        rope->high_freq_factor = usual_high;
        rope->original_context = USUAL_CONTEXT;
    }
    QNT_TRY(check_partial(ctx, where, scaling));
    QNT_TRY(qnti_json_float(ctx, where, scaling, "rope_theta", &rope->theta));
    QNT_TRY(qnti_json_float(ctx, where, scaling, "factor", &rope->factor));
    QNT_TRY(qnti_json_float(ctx, where, scaling, "low_freq_factor", &rope->low_freq_factor));
    QNT_TRY(qnti_json_float(ctx, where, scaling, "high_freq_factor", &rope->high_freq_factor));
    return qnti_json_size(ctx, where, scaling, "original_max_position_embeddings", &rope->original_context);
}

qnt_status qnti_rope_read(qnt_context *ctx, const char *where, const json_t *json, struct qnti_rope *rope)
{
    static const char *const names[] = {"rope_parameters", "rope_scaling"};
    QNT_TRY(check_partial(ctx, where, json));
    QNT_TRY(qnti_json_float(ctx, where, json, "rope_theta", &rope->theta));
    for (size_t i = 0; i < 2; i++) {
        const json_t *scaling = json_object_get(json, names[i]);
        if (scaling && !json_is_null(scaling))
            return read_scaling(ctx, where, names[i], scaling, rope);
    }
    return QNT_OK;
}

static bool positive(float x)
{
    return isfinite(x) && x > 0;
}

static float llama3_divisor(const struct qnti_rope *rope, float frequency)
{
    float context = (float)rope->original_context, wave = 6.28318530717958647692f / frequency, s;
    if (wave < context / rope->high_freq_factor)
        return 1;
    if (wave > context / rope->low_freq_factor)
        return rope->factor;
    s = (context / wave - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return 1 / ((1 - s) / rope->factor + s);
}

static void compute_divisors(const struct qnti_rope *rope, size_t head_dim, float *divisors)
{
    for (size_t i = 0; i < head_dim / 2; i++) {
        float frequency = 1 / powf(rope->theta, (float)(2 * i) / (float)head_dim);
        divisors[i] = rope->kind == QNTI_ROPE_LINEAR ? rope->factor : llama3_divisor(rope, frequency);
    }
}

qnt_status qnti_rope_finish(qnt_context *ctx, const char *where, size_t head_dim, struct qnti_rope *rope)
{
    if (!positive(rope->theta))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: the base of RoPE is %g", where, (double)rope->theta);
    if (rope->kind == QNTI_ROPE_DEFAULT)
        return QNT_OK;
    if (!positive(rope->factor))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: RoPE is scaled without a positive factor", where);
    if (rope->kind == QNTI_ROPE_LLAMA3 &&
        !(positive(rope->low_freq_factor) && positive(rope->high_freq_factor) &&
          rope->low_freq_factor < rope->high_freq_factor && rope->original_context > 0))
        return qnti_fail(ctx, QNT_BAD_DATA,
                         "%s: rope_type llama3 with low_freq_factor %g, high_freq_factor %g, original context %zu",
                         where, (double)rope->low_freq_factor, (double)rope->high_freq_factor, rope->original_context);
    QNT_TRY(QNTI_NEW_RAW(ctx, head_dim / 2, &rope->divisors));
    compute_divisors(rope, head_dim, rope->divisors);
    return QNT_OK;
}

/* Whether the usual parameters with this factor give the divisors, but for the last bits. */
static bool reproduces(const struct qnti_rope *rope, size_t head_dim)
{
    for (size_t i = 0; i < head_dim / 2; i++) {
        float frequency = 1 / powf(rope->theta, (float)(2 * i) / (float)head_dim);
        float divisor = llama3_divisor(rope, frequency);
        if (fabsf(divisor - rope->divisors[i]) > 1e-4f * divisor)
            return false;
    }
    return true;
}

qnt_status qnti_rope_from_divisors(qnt_context *ctx, const char *where, const float *divisors, size_t head_dim,
                                   struct qnti_rope *rope)
{
    struct qnti_rope usual = *rope;
    usual.kind = QNTI_ROPE_LLAMA3;
    usual.factor = 1;
    for (size_t i = 0; i < head_dim / 2; i++) {
        if (!positive(divisors[i]))
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: divisor %zu of RoPE's frequencies is %g", where, i,
                             (double)divisors[i]);
        usual.factor = fmaxf(usual.factor, divisors[i]);
    }
    usual.low_freq_factor = usual_low;
    usual.high_freq_factor = usual_high;
    usual.original_context = USUAL_CONTEXT;
    QNT_TRY(QNTI_NEW_RAW(ctx, head_dim / 2, &rope->divisors));
    memcpy(rope->divisors, divisors, head_dim / 2 * sizeof *divisors);
    rope->kind = QNTI_ROPE_LLAMA3;
    usual.divisors = rope->divisors;
    if (reproduces(&usual, head_dim))
        *rope = usual;
    return QNT_OK;
}
