/*
 * rope.c - rotary positions, half-split: of the n channels of a head that turn, i turns with i + n/2 by the angle
 * position * theta^(-2i/n) / divisors[i].
 *
 * Angles are rounded to f32, as the models were trained; their cosines and
 * sines are exact to f32. dynamic: theta grows with sequences beyond the
 * context, theta (factor L / context - (factor - 1))^(n / (n - 2)); longrope:
 * they have divisors of their own.
 */
#include "nn/operators.h"

#include <math.h>

/* Divisors and base for sequences of that length. */
static const float *divisors_for(const struct qnti_rope *rope, size_t tokens)
{
    return rope->kind == QNTI_ROPE_LONGROPE && tokens > rope->original_context ? rope->long_divisors : rope->divisors;
}

static float theta_for(const struct qnti_rope *rope, size_t rotated, size_t tokens)
{
    double grown, n = (double)rotated;
    if (rope->kind != QNTI_ROPE_DYNAMIC || tokens <= rope->original_context || rotated < 4)
        return rope->theta;
    grown = (double)rope->factor * (double)tokens / (double)rope->original_context - ((double)rope->factor - 1);
    return (float)((double)rope->theta * pow(grown, n / (n - 2)));
}

static float frequency(float theta, const float *divisors, size_t i, size_t rotated)
{
    float f = 1.0f / (float)pow((double)theta, (double)((float)(2 * i) / (float)rotated));
    return divisors ? f / divisors[i] : f;
}

static void fill_pair(struct qnti_rope_table *table, size_t i, float f, float factor)
{
    for (size_t t = 0; t < table->tokens; t++) {
        double angle = (double)((float)t * f);
        table->cosine[t * table->half + i] = (float)cos(angle) * factor;
        table->sine[t * table->half + i] = (float)sin(angle) * factor;
    }
}

qnt_status qnti_rope_table_create(qnt_context *ctx, const struct qnti_rope *rope, size_t head_dim, size_t tokens,
                                  struct qnti_rope_table *table)
{
    size_t rotated = rope->rotated ? rope->rotated : head_dim, half = rotated / 2, n;
    const float *divisors = divisors_for(rope, tokens);
    float theta = theta_for(rope, rotated, tokens);
    qnt_status status;
    *table = (struct qnti_rope_table){.tokens = tokens, .half = half, .head_dim = head_dim};
    if (!qnti_multiply(tokens, half, &n))
        return qnti_fail(ctx, QNT_NO_MEMORY, "positions of %zu tokens exceed the address space", tokens);
    QNT_CHECK(QNTI_NEW_RAW(ctx, n, &table->cosine));
    QNT_CHECK(QNTI_NEW_RAW(ctx, n, &table->sine));
    for (size_t i = 0; i < half; i++)
        fill_pair(table, i, frequency(theta, divisors, i, rotated),
                  rope->attention_factor > 0 ? rope->attention_factor : 1);
cleanup:
    if (status != QNT_OK)
        qnti_rope_table_free(ctx, table);
    return status;
}

void qnti_rope_table_free(qnt_context *ctx, struct qnti_rope_table *table)
{
    qnti_free(ctx, table->cosine);
    qnti_free(ctx, table->sine);
    *table = (struct qnti_rope_table){0};
}

struct turn {
    const struct qnti_rope_table *table;
    size_t heads;
    float *x;
    float direction;             /* 1, or -1: back */
};

static void turn_head(float *restrict x, float *restrict y, const float *restrict cosine, const float *restrict sine,
                      float direction, size_t half)
{
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = y[i], s = direction * sine[i];
        x[i] = a * cosine[i] - b * s;
        y[i] = b * cosine[i] + a * s;
    }
}

static void turn_rows(void *arg, size_t first, size_t n)
{
    const struct turn *turn = arg;
    size_t half = turn->table->half;
    for (size_t t = first; t < first + n; t++)
        for (size_t h = 0; h < turn->heads; h++) {
            float *x = turn->x + (t * turn->heads + h) * turn->table->head_dim;
            turn_head(x, x + half, turn->table->cosine + t * half, turn->table->sine + t * half,
                      turn->direction, half);
        }
}

qnt_status qnti_rope_forward(qnt_context *ctx, const struct qnti_rope_table *table, size_t heads, float *x,
                             size_t tokens)
{
    return qnti_for_rows(ctx, tokens, heads * table->head_dim, turn_rows, &(struct turn){table, heads, x, 1});
}

/* The turn's matrix is orthogonal but for a factor, which stays: its transpose turns back. */
qnt_status qnti_rope_backward(qnt_context *ctx, const struct qnti_rope_table *table, size_t heads, float *dx,
                              size_t tokens)
{
    return qnti_for_rows(ctx, tokens, heads * table->head_dim, turn_rows, &(struct turn){table, heads, dx, -1});
}
