/*
 * words.c - scales, zeros and biases of the layouts of 32-bit words, and the checks of tensors that are read.
 */
#include "pack/words.h"

#include "base/kernels.h"
#include "base/number.h"
#include "base/tensor.h"

struct qnti_words qnti_words_of(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    struct qnti_numbers *n = q->segments[0].weight;
    return (struct qnti_words){.kernels = qnti_context_kernels(q->ctx),
                               .q = n,
                               .out = q->out,
                               .in = q->in,
                               .groups = n->scale->cols,
                               .bits = n->grid.bits,
                               .least_zero = layout->limits->least_zero,
                               .scale_type = layout->scale_type};
}

static qnt_dtype bias_type(const qnt_qlinear *q)
{
    for (size_t i = 0; i < q->out; i++)
        if (qnti_round_to(QNT_F16, q->bias[i]) != q->bias[i])
            return QNT_F32;
    return QNT_F16;
}

qnt_packed_tensor qnti_words_bias(const qnt_qlinear *q)
{
    return (qnt_packed_tensor){.name = "bias", .dtype = bias_type(q), .rank = 1, .shape = {q->out, 0}};
}

void qnti_words_common_tensors(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                               size_t *count)
{
    size_t groups = q->segments[0].weight->scale->cols;
    tensors[(*count)++] = (qnt_packed_tensor){.name = "scales", .dtype = layout->scale_type, .rank = 2,
                                              .shape = {groups, q->out}};
    if (q->bias)
        tensors[(*count)++] = qnti_words_bias(q);
}

static void store_f16(const struct qnti_kernels *k, size_t n, const float *x, uint8_t *bytes)
{
    enum { RUN = QNTI_WORDS_TILE };
    uint16_t half[RUN];
    for (size_t i = 0; i < n; i += RUN) {
        size_t run = qnti_min(RUN, n - i);
        k->f32_to_f16(run, x + i, half);
        memcpy(bytes + 2 * i, half, 2 * run);
    }
}

void qnti_words_pack_bias(const qnt_qlinear *q, uint8_t *bytes)
{
    if (bias_type(q) == QNT_F16)
        store_f16(qnti_context_kernels(q->ctx), q->out, q->bias, bytes);
    else
        memcpy(bytes, q->bias, q->out * sizeof *q->bias);
}

/* --- zeros and scales of a tile --- */

void qnti_words_get_zeros(const struct qnti_words *w, size_t g, size_t first, size_t n, uint16_t *code)
{
    const struct qnti_numbers *offset = w->q->offset;
    for (size_t o = 0; o < n; o++) {
        float zero = offset ? offset->value[(first + o) * w->groups + g] : w->q->grid.offset;
        code[o] = (uint16_t)((unsigned)zero - w->least_zero);
    }
}

void qnti_words_put_zeros(const struct qnti_words *w, size_t g, size_t first, size_t n, const uint16_t *code)
{
    for (size_t o = 0; o < n; o++)
        w->q->offset->value[(first + o) * w->groups + g] = (float)(code[o] + w->least_zero);
}

void qnti_words_pack_scales(const struct qnti_words *w, size_t first, size_t n)
{
    float scale[QNTI_WORDS_TILE];
    for (size_t g = 0; g < w->groups; g++) {
        for (size_t o = 0; o < n; o++)
            scale[o] = w->q->scale->value[(first + o) * w->groups + g];
        store_f16(w->kernels, n, scale, w->scales + 2 * (g * w->out + first));
    }
}

void qnti_words_unpack_scales(const struct qnti_words *w, size_t first, size_t n)
{
    size_t bytes = qnti_dtype_bytes(w->scale_type);
    uint32_t stored[QNTI_WORDS_TILE];
    float scale[QNTI_WORDS_TILE];
    for (size_t g = 0; g < w->groups; g++) {
        memcpy(stored, w->scales + bytes * (g * w->out + first), bytes * n);
        if (w->scale_type == QNT_F16)
            w->kernels->f16_to_f32(n, (const uint16_t *)stored, scale);
        else if (w->scale_type == QNT_BF16)
            w->kernels->bf16_to_f32(n, (const uint16_t *)stored, scale);
        else
            memcpy(scale, stored, bytes * n);
        for (size_t o = 0; o < n; o++)
            w->q->scale->value[(first + o) * w->groups + g] = scale[o];
    }
}

void qnti_words_settle_zeros(qnt_context *ctx, struct qnti_numbers *q)
{
    float middle = (float)(q->grid.levels / 2), top = (float)(q->grid.levels - 1);
    bool all_middle = true, coded = true;
    for (size_t i = 0; i < q->offset->rows * q->offset->cols; i++) {
        all_middle &= q->offset->value[i] == middle;
        coded &= q->offset->value[i] <= top;
    }
    q->grid.integer_offset = coded && !all_middle; /* v1 can hold a zero one above the top code */
    if (!all_middle)
        return;
    q->grid.sym = q->grid.constant_offset = true;
    q->grid.offset = middle;
    qnti_numbers_free(ctx, q->offset);
    q->offset = NULL;
}

/* --- tensors that are read --- */

const qnt_packed_tensor *qnti_set_find(const struct qnti_tensor_set *set, const char *name, const uint8_t **data)
{
    for (size_t i = 0; i < set->count; i++)
        if (strcmp(set->tensors[i].name, name) == 0) {
            *data = set->data[i];
            return &set->tensors[i];
        }
    *data = NULL;
    return NULL;
}

qnt_status qnti_set_words(const struct qnti_tensor_set *set, const char *name, const qnt_packed_tensor **tensor,
                          uint8_t **data)
{
    const uint8_t *bytes;
    *tensor = qnti_set_find(set, name, &bytes);
    if (!*tensor)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: has no tensor %s", set->layer, name);
    *data = (uint8_t *)(uintptr_t)bytes;
    if ((*tensor)->dtype == QNT_I32 && (*tensor)->rank == 2 && (*tensor)->shape[0] && (*tensor)->shape[1])
        return QNT_OK;
    return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: %s is %s of %zu dimensions, expected a matrix of I32",
                     set->layer, name, qnti_dtype_name((*tensor)->dtype), (*tensor)->rank);
}

qnt_status qnti_set_scales(const struct qnti_tensor_set *set, struct qnti_words *w)
{
    const uint8_t *bytes;
    const qnt_packed_tensor *t = qnti_set_find(set, "scales", &bytes);
    if (!t)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: has no tensor scales", set->layer);
    if ((t->dtype != QNT_F16 && t->dtype != QNT_BF16 && t->dtype != QNT_F32) || t->rank != 2 || !t->shape[0] ||
        t->shape[1] != w->out)
        return qnti_fail(set->ctx, QNT_BAD_DATA,
                         "layer %s: scales are %s (%zu, %zu), expected floats of a row for each group, %zu columns",
                         set->layer, qnti_dtype_name(t->dtype), t->shape[0], t->rank == 2 ? t->shape[1] : 0, w->out);
    w->groups = t->shape[0];
    w->scale_type = t->dtype;
    w->scales = (uint8_t *)(uintptr_t)bytes;
    return QNT_OK;
}

qnt_status qnti_set_bias(const struct qnti_tensor_set *set, qnt_qlinear *q)
{
    const uint8_t *bytes;
    const qnt_packed_tensor *t = qnti_set_find(set, "bias", &bytes);
    if (!t)
        return QNT_OK;
    if ((t->dtype != QNT_F16 && t->dtype != QNT_BF16 && t->dtype != QNT_F32) || t->rank != 1 || t->shape[0] != q->out)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: bias is %s of %zu, expected %zu floats", set->layer,
                         qnti_dtype_name(t->dtype), t->shape[0], q->out);
    QNT_TRY(QNTI_NEW_RAW(set->ctx, q->out, &q->bias));
    qnti_widen(set->ctx, t->dtype, bytes, q->out, q->bias);
    return QNT_OK;
}

qnt_status qnti_set_create(const struct qnti_tensor_set *set, struct qnti_words *w, const struct qnti_map *map,
                           qnt_qlinear **out)
{
    struct qnti_grid grid = qnti_affine_grid(w->kernels, w->bits, 0, w->scale_type);
    qnt_qlinear *q;
    qnt_status status;
    grid.map = *map;
    grid.integer_offset = true;
    QNT_TRY(qnti_qlinear_create(set->ctx, set->layer, w->out, w->in, NULL, &q));
    QNT_CHECK(qnti_set_bias(set, q));
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    w->q = q->segments[0].weight;
    *out = q;
    return QNT_OK;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}
