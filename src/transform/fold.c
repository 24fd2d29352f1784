/*
 * fold.c - scale, shift and permutation into a norm or into the rows of a linear.
 *
 * Channel c of the input is row r = map[c] of the producer: its weight row
 * becomes row / scale, its bias (bias - shift) / scale. A norm that multiplies
 * by base + weight (Gemma's 1 + w) keeps base in its new weight. Channels that
 * share a row must have the same scale and shift and cannot change places.
 */
#include "transform/fold.h"

#include <string.h>

/* Whether channels of one row have one scale and one shift. */
static qnt_status check_shared(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width)
{
    const float *parts[] = {t->scale, t->shift};
    size_t *first;                     /* [rows] the first channel of a row, plus 1 */
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(ctx, p->rows, &first));
    for (size_t c = 0; status == QNT_OK && c < width; c++) {
        size_t r = p->map[c];
        if (r >= p->rows)
            status = qnti_fail(ctx, QNT_INVALID, "channel %zu is fed by row %zu of a producer of %zu", c, r, p->rows);
        else if (!first[r])
            first[r] = c + 1;
        for (size_t i = 0; status == QNT_OK && i < 2; i++)
            if (parts[i] && parts[i][first[r] - 1] != parts[i][c])
                status = qnti_fail(ctx, QNT_UNSUPPORTED, "channels %zu and %zu share a producer, but differ in scale",
                                   first[r] - 1, c);
    }
    qnti_free(ctx, first);
    return status;
}

qnt_status qnti_fold_check(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width)
{
    if (t->rotation.block)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "a rotation cannot be folded into a norm or a linear");
    if (t->shift && !p->bias)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "a shift needs a bias to be folded into");
    if (t->permutation && p->map)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "channels that share a producer cannot change places");
    if (p->map)
        return check_shared(ctx, p, t, width);
    if (p->rows != width)
        return qnti_fail(ctx, QNT_INVALID, "a producer of %zu channels for an input of %zu", p->rows, width);
    return QNT_OK;
}

/* Row r of the producer to what channel c sees. */
static void fold_row(const qnt_producer *p, const struct qnti_transform *t, size_t r, size_t c)
{
    float scale = t->scale ? t->scale[c] : 1, *row = p->weight + r * p->cols;
    for (size_t i = 0; i < p->cols; i++)
        row[i] = (p->base + row[i]) / scale - p->base;
    if (p->bias)
        p->bias[r] = (p->bias[r] - (t->shift ? t->shift[c] : 0)) / scale;
}

static qnt_status permute_rows(qnt_context *ctx, const uint32_t *order, size_t rows, size_t cols, float *x)
{
    float *moved;
    if (!x)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, rows * cols, &moved));
    for (size_t r = 0; r < rows; r++)
        memcpy(moved + r * cols, x + order[r] * cols, cols * sizeof *x);
    memcpy(x, moved, rows * cols * sizeof *x);
    qnti_free(ctx, moved);
    return QNT_OK;
}

qnt_status qnti_fold(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width)
{
    uint8_t *done;
    QNT_TRY(QNTI_NEW(ctx, p->rows, &done));
    for (size_t c = 0; c < width; c++) {
        size_t r = p->map ? p->map[c] : c;
        if (!done[r])
            fold_row(p, t, r, c);
        done[r] = 1;
    }
    qnti_free(ctx, done);
    if (!t->permutation)
        return QNT_OK;
    QNT_TRY(permute_rows(ctx, t->permutation, p->rows, p->cols, p->weight));
    return permute_rows(ctx, t->permutation, p->rows, 1, p->bias);
}
