/*
 * fold.c - scale, shift and permutation into a norm or into the rows of a linear.
 *
 * Channel c of the input is row r = map[c] of the producer: its weight row
 * becomes row / scale, its bias (bias - shift) / scale. A norm that multiplies
 * by base + weight (Gemma's 1 + w) keeps base in its new weight. Channels that
 * share a row must have the same scale and shift and the same place in their
 * heads; rows of another linear that meet these one by one move along. A
 * rotation within heads mixes the rows of each head.
 */
#include "transform/fold.h"

#include <inttypes.h>
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

/* Whether the channels of a block are those of a block of rows, in the same order. */
static qnt_status check_heads(qnt_context *ctx, const qnt_producer *p, size_t block, size_t width)
{
    for (size_t c = 0; c < width; c++)
        if (p->map[c] % block != c % block || p->map[c] / block != p->map[c / block * block] / block)
            return qnti_fail(ctx, QNT_UNSUPPORTED, "channel %zu is not in the order of its head", c);
    return QNT_OK;
}

static size_t row_of(const qnt_producer *p, size_t channel)
{
    return p->map ? p->map[channel] : channel;
}

/*
 * The order of rows, [rows], by which every channel j becomes what channel permutation[j] was. Channels of a head stay
 * there: what stands between (attention's probabilities) is not the same for two heads.
 */
static qnt_status row_order(qnt_context *ctx, const qnt_producer *p, const uint32_t *permutation, size_t width,
                            uint32_t *order)
{
    for (size_t r = 0; r < p->rows; r++)
        order[r] = UINT32_MAX;
    for (size_t j = 0; j < width; j++) {
        uint32_t from = permutation[j], *row = &order[row_of(p, j)];
        if (p->head && from / p->head != j / p->head)
            return qnti_fail(ctx, QNT_UNSUPPORTED, "channel %" PRIu32 " would leave its head", from);
        if (*row != UINT32_MAX && *row != row_of(p, from))
            return qnti_fail(ctx, QNT_UNSUPPORTED, "heads that share a producer have orders of their own");
        *row = (uint32_t)row_of(p, from);
    }
    for (size_t r = 0; r < p->rows; r++)
        if (order[r] == UINT32_MAX)
            order[r] = (uint32_t)r;
    return QNT_OK;
}

static qnt_status check_order(qnt_context *ctx, const qnt_producer *p, const uint32_t *permutation, size_t width)
{
    uint32_t *order;
    qnt_status status;
    if (p->cols == 1)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "channels that a norm makes cannot change places");
    if (p->refuses & QNT_REFUSES_ORDER)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "channels cannot change places here");
    QNT_TRY(QNTI_NEW_RAW(ctx, p->rows, &order));
    status = row_order(ctx, p, permutation, width, order);
    qnti_free(ctx, order);
    return status;
}

static qnt_status check_rotation(qnt_context *ctx, const qnt_producer *p, const struct qnti_rotation *r, size_t width)
{
    if (r->sign || !p->head || p->head % r->block || p->rows % p->head)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "a rotation can only be folded into the heads of values");
    return p->map ? check_heads(ctx, p, r->block, width) : QNT_OK;
}

static qnt_status check_affine(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width)
{
    if ((t->scale && (p->refuses & QNT_REFUSES_SCALE)) || (t->shift && (p->refuses & QNT_REFUSES_SHIFT)))
        return qnti_fail(ctx, QNT_UNSUPPORTED, "the activation behind its producer lets no %s through",
                         t->scale && (p->refuses & QNT_REFUSES_SCALE) ? "scale" : "shift");
    if (t->shift && !p->bias)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "a shift needs a bias to be folded into");
    return p->map ? check_shared(ctx, p, t, width) : QNT_OK;
}

qnt_status qnti_fold_check(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width)
{
    if (!p->map && p->rows != width)
        return qnti_fail(ctx, QNT_INVALID, "a producer of %zu channels for an input of %zu", p->rows, width);
    QNT_TRY(check_affine(ctx, p, t, width));
    if (t->permutation)
        QNT_TRY(check_order(ctx, p, t->permutation, width));
    return t->rotation.block ? check_rotation(ctx, p, &t->rotation, width) : QNT_OK;
}

/* The parts of t, each behind those before it. */
enum part { AFFINE, ORDER, ROTATION, PARTS };

static struct qnti_transform take_part(const struct qnti_transform *t, enum part part)
{
    if (part == AFFINE)
        return (struct qnti_transform){.scale = t->scale, .shift = t->shift};
    if (part == ORDER)
        return (struct qnti_transform){.permutation = t->permutation, .cluster = t->cluster};
    return (struct qnti_transform){.rotation = t->rotation};
}

static qnt_status copy_parts(qnt_context *ctx, const struct qnti_transform *t, size_t width, enum part first,
                             enum part end, struct qnti_transform *to)
{
    for (enum part part = first; part < end; part++) {
        struct qnti_transform one = take_part(t, part);
        QNT_TRY(qnti_transform_copy(ctx, &one, width, to));
    }
    return QNT_OK;
}

qnt_status qnti_fold_part(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width,
                          struct qnti_transform *folded, struct qnti_transform *kept)
{
    enum part end = AFFINE;
    qnt_status status = QNT_OK;
    for (; end < PARTS; end++) {
        struct qnti_transform one = take_part(t, end);
        status = qnti_fold_check(ctx, p, &one, width);
        if (status != QNT_OK)
            break;
    }
    if (status != QNT_OK && (status != QNT_UNSUPPORTED || (end == AFFINE && t->shift)))
        return status;
    QNT_TRY(copy_parts(ctx, t, width, AFFINE, end, folded));
    return copy_parts(ctx, t, width, end, PARTS, kept);
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

static qnt_status permute(qnt_context *ctx, const qnt_producer *p, const uint32_t *permutation, size_t width)
{
    uint32_t *order;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(ctx, p->rows, &order));
    QNT_CHECK(row_order(ctx, p, permutation, width, order));
    QNT_CHECK(permute_rows(ctx, order, p->rows, p->cols, p->weight));
    QNT_CHECK(permute_rows(ctx, order, p->rows, 1, p->bias));
    QNT_CHECK(permute_rows(ctx, order, p->rows, p->cols, p->beside));
    QNT_CHECK(permute_rows(ctx, order, p->rows, 1, p->beside_bias));
cleanup:
    qnti_free(ctx, order);
    return status;
}

/* The rows of each block, as vectors down the columns. */
static qnt_status rotate_rows(qnt_context *ctx, const struct qnti_transform *t, size_t rows, size_t cols, float *x)
{
    struct qnti_transform rotation = {.rotation = t->rotation};
    float *column;
    if (!x)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, 3 * rows, &column));
    for (size_t c = 0; c < cols; c++) {
        for (size_t r = 0; r < rows; r++)
            column[r] = x[r * cols + c];
        qnti_transform_forward(&rotation, rows, column, column + rows, column + 2 * rows);
        for (size_t r = 0; r < rows; r++)
            x[r * cols + c] = column[rows + r];
    }
    qnti_free(ctx, column);
    return QNT_OK;
}

qnt_status qnti_fold(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width)
{
    uint8_t *done;
    QNT_TRY(QNTI_NEW(ctx, p->rows, &done));
    for (size_t c = 0; c < width; c++) {
        size_t r = row_of(p, c);
        if (!done[r])
            fold_row(p, t, r, c);
        done[r] = 1;
    }
    qnti_free(ctx, done);
    if (t->permutation)
        QNT_TRY(permute(ctx, p, t->permutation, width));
    if (!t->rotation.block)
        return QNT_OK;
    QNT_TRY(rotate_rows(ctx, t, p->rows, p->cols, p->weight));
    return rotate_rows(ctx, t, p->rows, 1, p->bias);
}
