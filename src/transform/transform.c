/*
 * transform.c - run-time transforms of inputs and of weight rows.
 */
#include "transform/transform.h"

#include <string.h>
#include "base/random.h"
#include "linalg/hadamard.h"

qnt_status qnti_rotation_hadamard(qnt_context *ctx, size_t width, size_t block, const uint64_t *seed,
                                  struct qnti_rotation *r)
{
    struct qnti_random random;
    size_t small;
    if (!block)
        block = qnti_hadamard_divisor(width);
    small = qnti_hadamard_order(block);
    if (width % block)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "blocks of %zu channels do not divide a width of %zu", block, width);
    if (!small)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "there is no Hadamard matrix of order %zu here", block);
    r->block = block;
    r->small = small;
    if (small > 1) {
        QNT_TRY(QNTI_NEW_RAW(ctx, small * small, &r->small_matrix));
        QNT_TRY(qnti_hadamard_matrix(ctx, small, r->small_matrix));
    }
    if (!seed)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, width, &r->sign));
    qnti_random_seed(&random, *seed);
    for (size_t i = 0; i < width; i++)
        r->sign[i] = qnti_random_next(&random) >> 63 ? -1 : 1;
    return QNT_OK;
}

bool qnti_transform_is_identity(const struct qnti_transform *t)
{
    return !t->scale && !t->shift && !t->permutation && !t->rotation.block;
}

void qnti_transform_free(qnt_context *ctx, struct qnti_transform *t)
{
    qnti_free(ctx, t->scale);
    qnti_free(ctx, t->shift);
    qnti_free(ctx, t->permutation);
    qnti_free(ctx, t->cluster);
    qnti_free(ctx, t->rotation.small_matrix);
    qnti_free(ctx, t->rotation.sign);
    memset(t, 0, sizeof *t);
}

void qnti_transform_move(struct qnti_transform *from, struct qnti_transform *to)
{
    *to = *from;
    memset(from, 0, sizeof *from);
}

static qnt_status copy_part(qnt_context *ctx, const void *from, size_t count, size_t size, void **to)
{
    if (!from)
        return QNT_OK;
    QNT_TRY(qnti_alloc_raw(ctx, count, size, to));
    memcpy(*to, from, count * size);
    return QNT_OK;
}

qnt_status qnti_transform_copy(qnt_context *ctx, const struct qnti_transform *from, size_t width,
                               struct qnti_transform *to)
{
    const struct qnti_rotation *r = &from->rotation;
    QNT_TRY(copy_part(ctx, from->scale, width, sizeof(float), (void **)&to->scale));
    QNT_TRY(copy_part(ctx, from->shift, width, sizeof(float), (void **)&to->shift));
    QNT_TRY(copy_part(ctx, from->permutation, width, sizeof(uint32_t), (void **)&to->permutation));
    QNT_TRY(copy_part(ctx, from->cluster, width, sizeof(uint32_t), (void **)&to->cluster));
    to->rotation.block = r->block;
    to->rotation.small = r->small;
    QNT_TRY(copy_part(ctx, r->small_matrix, r->small * r->small, sizeof(float), (void **)&to->rotation.small_matrix));
    return copy_part(ctx, r->sign, width, sizeof(float), (void **)&to->rotation.sign);
}

/* The small factor on one block: rows of `inner` numbers are mixed by M, or by its transpose. */
static void mix(const struct qnti_rotation *r, bool transposed, const float *x, float *y)
{
    size_t m = r->small, inner = r->block / m;
    memset(y, 0, r->block * sizeof *y);
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < m; k++) {
            float a = transposed ? r->small_matrix[k * m + i] : r->small_matrix[i * m + k];
            for (size_t j = 0; j < inner; j++)
                y[i * inner + j] += a * x[k * inner + j];
        }
}

/* R x, or R^T x: Walsh is its own transpose, the signs act first on the way in and last on the way back. */
static void rotate(const struct qnti_rotation *r, bool back, size_t width, float *x, float *scratch)
{
    for (size_t i = 0; r->sign && !back && i < width; i++)
        x[i] *= r->sign[i];
    for (size_t start = 0; start + r->block <= width; start += r->block) {
        size_t inner = r->block / qnti_max(r->small, 1);
        for (size_t i = 0; i < r->block; i += inner)
            qnti_walsh(x + start + i, inner);
        if (r->small_matrix) {
            mix(r, back, x + start, scratch);
            memcpy(x + start, scratch, r->block * sizeof *x);
        }
    }
    for (size_t i = 0; r->sign && back && i < width; i++)
        x[i] *= r->sign[i];
}

void qnti_transform_forward(const struct qnti_transform *t, size_t width, const float *x, float *y, float *scratch)
{
    for (size_t j = 0; j < width; j++) {
        size_t c = t->permutation ? t->permutation[j] : j;
        float v = t->shift ? x[c] - t->shift[c] : x[c];
        y[j] = t->scale ? v / t->scale[c] : v;
    }
    if (t->rotation.block)
        rotate(&t->rotation, false, width, y, scratch);
}

void qnti_transform_weight_back(const struct qnti_transform *t, size_t width, const float *w, float *y, float *scratch)
{
    float *rotated = scratch + width;
    memcpy(rotated, w, width * sizeof *w);
    if (t->rotation.block)
        rotate(&t->rotation, true, width, rotated, scratch);
    for (size_t j = 0; j < width; j++) {
        size_t c = t->permutation ? t->permutation[j] : j;
        y[c] = t->scale ? rotated[j] / t->scale[c] : rotated[j];
    }
}

void qnti_transform_weight(const struct qnti_transform *t, size_t width, const float *w, float *y, float *scratch)
{
    for (size_t j = 0; j < width; j++) {
        size_t c = t->permutation ? t->permutation[j] : j;
        y[j] = t->scale ? w[c] * t->scale[c] : w[c];
    }
    if (t->rotation.block)
        rotate(&t->rotation, false, width, y, scratch);
}

double qnti_transform_bias(const struct qnti_transform *t, size_t width, const float *w)
{
    double sum = 0;
    for (size_t c = 0; t->shift && c < width; c++)
        sum += (double)w[c] * (double)t->shift[c];
    return sum;
}

size_t qnti_permutation_known(const uint32_t *permutation, size_t width)
{
    size_t known = qnti_min(width, 1);
    while (known < width && permutation[known] > permutation[known - 1])
        known++;
    return known;
}

double qnti_transform_bits(const struct qnti_transform *t, size_t width)
{
    double bits = 0, n = (double)width;
    bits += t->scale ? 32 * n : 0;
    bits += t->shift ? 32 * n : 0;
    bits += t->permutation ? 32 * (double)(width - qnti_permutation_known(t->permutation, width)) : 0;
    bits += t->rotation.sign ? n : 0;
    if (t->rotation.small_matrix)
        bits += 32.0 * (double)t->rotation.small * (double)t->rotation.small;
    return bits;
}
