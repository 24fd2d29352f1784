/*
 * rope.c - rotary positions, half-split: element i of a head turns with element
 * i + head_dim/2 by the angle position * theta^(-2i/head_dim) / divisors[i].
 *
 * Angles are rounded to f32, as the models were trained; their cosines and
 * sines are exact to f32. Partial rotation and scalings that depend on a
 * sequence's length are not here.
 */
#include "nn/operators.h"

#include <math.h>

static float frequency(const struct qnti_rope *rope, size_t i, size_t head_dim)
{
    float f = 1.0f / (float)pow((double)rope->theta, (double)((float)(2 * i) / (float)head_dim));
    return rope->divisors ? f / rope->divisors[i] : f;
}

qnt_status qnti_rope_table_create(qnt_context *ctx, const struct qnti_rope *rope, size_t head_dim, size_t tokens,
                                  struct qnti_rope_table *table)
{
    size_t half = head_dim / 2, n;
    qnt_status status;
    *table = (struct qnti_rope_table){.tokens = tokens, .half = half};
    if (!qnti_multiply(tokens, half, &n))
        return qnti_fail(ctx, QNT_NO_MEMORY, "positions of %zu tokens exceed the address space", tokens);
    QNT_CHECK(QNTI_NEW_RAW(ctx, n, &table->cosine));
    QNT_CHECK(QNTI_NEW_RAW(ctx, n, &table->sine));
    for (size_t i = 0; i < half; i++) {
        float f = frequency(rope, i, head_dim);
        for (size_t t = 0; t < tokens; t++) {
            double angle = (double)((float)t * f);
            table->cosine[t * half + i] = (float)cos(angle);
            table->sine[t * half + i] = (float)sin(angle);
        }
    }
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
            float *x = turn->x + (t * turn->heads + h) * 2 * half;
            turn_head(x, x + half, turn->table->cosine + t * half, turn->table->sine + t * half,
                      turn->direction, half);
        }
}

qnt_status qnti_rope_forward(qnt_context *ctx, const struct qnti_rope_table *table, size_t heads, float *x,
                             size_t tokens)
{
    return qnti_for_rows(ctx, tokens, heads * 2 * table->half, turn_rows, &(struct turn){table, heads, x, 1});
}

/* The turn's matrix is orthogonal: its transpose turns back. */
qnt_status qnti_rope_backward(qnt_context *ctx, const struct qnti_rope_table *table, size_t heads, float *dx,
                              size_t tokens)
{
    return qnti_for_rows(ctx, tokens, heads * 2 * table->half, turn_rows, &(struct turn){table, heads, dx, -1});
}
