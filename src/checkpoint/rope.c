/*
 * rope.c - how fast RoPE's pairs turn: the divisors that its parameters stand for.
 *
 * f_i = theta^(-2i / n) / divisor_i, i = 0 .. n / 2 - 1, n the channels of a head that turn.
 *   linear  divisor = factor
 *   llama3  wave length l = 2 pi / f: 1 where l < context / high, factor where l > context / low, between them
 *           1 / ((1 - s) / factor + s), s = (context / l - low) / (high - low)
 *   yarn    1 / (r / factor + 1 - r), r a ramp from 0 to 1 between the pairs that turn beta_fast and beta_slow times
 *           within the original context
 * longrope's are given; dynamic has none, its theta grows with the sequence
 * (nn/rope.c). The arithmetic of llama3 is f32, as in GGUF's rope_freqs.weight.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>

static const float usual_factor = 8, usual_low = 1, usual_high = 4; /* of Llama 3.1 */
enum { USUAL_CONTEXT = 8192 };

void qnti_rope_usual(struct qnti_rope *rope)
{
    rope->factor = usual_factor;
    rope->low_freq_factor = usual_low;
    rope->high_freq_factor = usual_high;
    rope->original_context = USUAL_CONTEXT;
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

/* The pair, as a number that need not be whole, that turns so many times within the original context. */
static double yarn_pair(const struct qnti_rope *rope, double turns)
{
    double whole = (double)rope->original_context / (turns * 2 * 3.14159265358979323846);
    return (double)rope->rotated * log(whole) / (2 * log((double)rope->theta));
}

static float yarn_divisor(const struct qnti_rope *rope, size_t i)
{
    double low = yarn_pair(rope, (double)rope->beta_fast), high = yarn_pair(rope, (double)rope->beta_slow), ramp;
    low = fmax(rope->exact_bounds ? low : floor(low), 0);
    high = fmin(rope->exact_bounds ? high : ceil(high), (double)rope->rotated - 1);
    if (low == high)
        high += 0.001;
    ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
    return (float)(1 / (ramp / (double)rope->factor + 1 - ramp));
}

static void compute_divisors(struct qnti_rope *rope)
{
    for (size_t i = 0; i < rope->rotated / 2; i++) {
        float frequency = 1 / powf(rope->theta, (float)(2 * i) / (float)rope->rotated);
        rope->divisors[i] = rope->kind == QNTI_ROPE_LINEAR ? rope->factor
                            : rope->kind == QNTI_ROPE_YARN ? yarn_divisor(rope, i)
                                                           : llama3_divisor(rope, frequency);
    }
}

/* What cosines and sines are multiplied by where the configuration does not say it. */
static float attention_factor(const struct qnti_rope *rope)
{
    double factor = (double)rope->factor, length = log(factor);
    if (factor <= 1)
        return 1;
    if (rope->kind == QNTI_ROPE_LONGROPE)
        return (float)sqrt(1 + length / log((double)rope->original_context));
    if (rope->kind != QNTI_ROPE_YARN)
        return 1;
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return (float)((0.1 * (double)rope->mscale * length + 1) / (0.1 * (double)rope->mscale_all_dim * length + 1));
    return (float)(0.1 * length + 1);
}

/* Channels that turn: whole pairs of the head. */
static qnt_status find_rotated(qnt_context *ctx, const char *where, size_t head_dim, struct qnti_rope *rope)
{
    float part = rope->partial > 0 ? rope->partial : 1;
    if (rope->rotated == 0)
        rope->rotated = (size_t)((float)head_dim * part);
    if (part <= 1 && rope->rotated >= 2 && rope->rotated <= head_dim && rope->rotated % 2 == 0)
        return QNT_OK;
    if (rope->rotated == head_dim)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: heads of %zu channels, expected an even number (RoPE turns pairs)",
                         where, head_dim);
    return qnti_fail(ctx, QNT_BAD_DATA, "%s: RoPE turns %zu channels of heads of %zu, expected an even number of them",
                     where, rope->rotated, head_dim);
}

/* What the length of the text scales by, where it is not given. */
static void fill_context(const struct qnti_config *config, struct qnti_rope *rope)
{
    bool ratio = rope->kind == QNTI_ROPE_YARN || rope->kind == QNTI_ROPE_LONGROPE;
    if (rope->original_context == 0 || rope->kind == QNTI_ROPE_DYNAMIC)
        rope->original_context = rope->kind == QNTI_ROPE_LLAMA3 ? rope->original_context : config->context;
    if (ratio && !(rope->factor > 0) && rope->original_context)
        rope->factor = (float)config->context / (float)rope->original_context;
    if (rope->kind == QNTI_ROPE_YARN && !(rope->beta_fast > 0))
        rope->beta_fast = 32;
    if (rope->kind == QNTI_ROPE_YARN && !(rope->beta_slow > 0))
        rope->beta_slow = 1;
}

static qnt_status check_scaling(qnt_context *ctx, const char *where, const struct qnti_rope *rope)
{
    if (!positive(rope->factor))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: RoPE is scaled without a positive factor", where);
    if (rope->kind == QNTI_ROPE_LLAMA3 &&
        !(positive(rope->low_freq_factor) && positive(rope->high_freq_factor) &&
          rope->low_freq_factor < rope->high_freq_factor && rope->original_context > 0))
        return qnti_fail(ctx, QNT_BAD_DATA,
                         "%s: rope_type llama3 with low_freq_factor %g, high_freq_factor %g, original context %zu",
                         where, (double)rope->low_freq_factor, (double)rope->high_freq_factor, rope->original_context);
    if (rope->kind > QNTI_ROPE_LLAMA3 && (rope->original_context < 2 || rope->theta <= 1))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: RoPE is scaled from an original context of %zu, with a base of %g",
                         where, rope->original_context, (double)rope->theta);
    return QNT_OK;
}

qnt_status qnti_rope_finish(qnt_context *ctx, const char *where, const struct qnti_config *config,
                            struct qnti_rope *rope)
{
    if (!positive(rope->theta))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: the base of RoPE is %g", where, (double)rope->theta);
    QNT_TRY(find_rotated(ctx, where, config->head_dim, rope));
    if (rope->kind == QNTI_ROPE_DEFAULT)
        return QNT_OK;
    fill_context(config, rope);
    QNT_TRY(check_scaling(ctx, where, rope));
    if (!(rope->attention_factor > 0))
        rope->attention_factor = attention_factor(rope);
    if (rope->divisors || rope->kind == QNTI_ROPE_DYNAMIC)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, rope->rotated / 2, &rope->divisors));
    compute_divisors(rope);
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
    qnti_rope_usual(&usual);
    usual.kind = QNTI_ROPE_LLAMA3;
    usual.factor = 1;
    for (size_t i = 0; i < head_dim / 2; i++) {
        if (!positive(divisors[i]))
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: divisor %zu of RoPE's frequencies is %g", where, i,
                             (double)divisors[i]);
        usual.factor = fmaxf(usual.factor, divisors[i]);
    }
    QNT_TRY(QNTI_NEW_RAW(ctx, head_dim / 2, &rope->divisors));
    memcpy(rope->divisors, divisors, head_dim / 2 * sizeof *divisors);
    rope->kind = QNTI_ROPE_LLAMA3;
    usual.divisors = rope->divisors;
    if (reproduces(&usual, head_dim))
        *rope = usual;
    return QNT_OK;
}
