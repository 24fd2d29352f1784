/*
 * forward.c - the reference forward of a quantized layer, token by token.
 *
 *     y = actq(T(x)) (Q' + a b)^T + bias
 *
 * Columns that an activation threshold leaves out are multiplied with the f16
 * copy of the weights where there is one (LLM.int8). A cache that keeps the
 * output gives it back as the last token sees it: the batch is one sequence.
 */
#include "qlinear/qlinear.h"

#include <string.h>
#include "base/number.h"
#include "base/tensor.h"

struct forward {
    const qnt_qlinear *q;
    size_t tokens;
    float *quantized;          /* actq(T(x)), [tokens][in] */
    uint8_t *kept;             /* [in], columns that the threshold left out */
    float *y;
};

bool qnti_qlinear_quantizes_inputs(const qnt_qlinear *q)
{
    for (size_t s = 0; s < q->segment_count; s++)
        if (q->segments[s].act)
            return true;
    return q->act != NULL;
}

static qnt_status transform_input(const qnt_qlinear *q, size_t tokens, float *x)
{
    float *scratch;
    if (qnti_transform_is_identity(&q->transform))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(q->ctx, 2 * q->in, &scratch));
    for (size_t t = 0; t < tokens; t++) {
        float *row = x + t * q->in;
        qnti_transform_forward(&q->transform, q->in, row, scratch, scratch + q->in);
        memcpy(row, scratch, q->in * sizeof *row);
    }
    qnti_free(q->ctx, scratch);
    return QNT_OK;
}

/* A segment's own quantizer stands in place of the layer's. `input` is T(x). */
static qnt_status quantize_segment(const qnt_qlinear *q, const struct qnti_segment *g, const float *input,
                                   size_t tokens, float *y, uint8_t *kept)
{
    memset(kept + g->first, 0, g->cols);
    return qnti_actquant_apply(q->ctx, g->act, input + g->first, tokens, g->cols, q->in, y + g->first,
                               kept + g->first);
}

qnt_status qnti_qlinear_quantize(const qnt_qlinear *q, const float *x, size_t tokens, float *y, uint8_t *kept)
{
    size_t n = tokens * q->in;
    bool segments = false;
    float *input = NULL;               /* x, where segments need it once more */
    qnt_status status = QNT_OK;
    for (size_t s = 0; s < q->segment_count; s++)
        segments = segments || q->segments[s].act;
    if (x == y && segments && q->act) {
        QNT_CHECK(QNTI_NEW_RAW(q->ctx, n, &input));
        if (n)
            memcpy(input, x, n * sizeof *input);
        x = input;
    }
    if (q->act)
        QNT_CHECK(qnti_actquant_apply(q->ctx, q->act, x, tokens, q->in, q->in, y, kept));
    else if (x != y && n)
        memcpy(y, x, n * sizeof *y);
    for (size_t s = 0; s < q->segment_count; s++)
        if (q->segments[s].act)
            QNT_CHECK(quantize_segment(q, &q->segments[s], x, tokens, y, kept));
cleanup:
    qnti_free(q->ctx, input);
    return status;
}

qnt_status qnti_qlinear_inputs(const qnt_qlinear *q, const float *x, size_t tokens, float *y, uint8_t *kept)
{
    size_t n = tokens * q->in;
    if (x != y && n)
        memcpy(y, x, n * sizeof *y);
    QNT_TRY(transform_input(q, tokens, y));
    return qnti_qlinear_quantize(q, y, tokens, y, kept);
}

static void full_row(const qnt_qlinear *q, size_t r, const uint8_t *kept, float *row)
{
    for (size_t c = 0; c < q->in; c++)
        if (kept[c])
            qnti_numbers_values(q->full, r, c, 1, row + c);
}

static qnt_status forward_row(void *arg, size_t r)
{
    const struct forward *f = arg;
    const qnt_qlinear *q = f->q;
    float *row;
    QNT_TRY(QNTI_NEW_RAW(q->ctx, q->in, &row));
    qnti_qlinear_row(q, r, row);
    if (q->full)
        full_row(q, r, f->kept, row);
    for (size_t t = 0; t < f->tokens; t++) {
        const float *x = f->quantized + t * q->in;
        double sum = 0; /* f64: rows of thousands of products */
        for (size_t c = 0; c < q->in; c++)
            sum += (double)x[c] * (double)row[c];
        f->y[t * q->out + r] = (float)(sum + (q->bias ? (double)q->bias[r] : 0));
    }
    qnti_free(q->ctx, row);
    return QNT_OK;
}

static void forward_free(struct forward *f)
{
    qnti_free(f->q->ctx, f->quantized);
    qnti_free(f->q->ctx, f->kept);
}

static qnt_status forward_open(const qnt_qlinear *q, qnt_matrix x, struct forward *f)
{
    *f = (struct forward){.q = q, .tokens = x.rows};
    if (x.cols != q->in)
        return qnti_fail(q->ctx, QNT_INVALID, "layer %s: input has %zu columns, not %zu", q->name, x.cols, q->in);
    QNT_TRY(QNTI_NEW_RAW(q->ctx, x.rows * q->in, &f->quantized));
    QNT_TRY(QNTI_NEW(q->ctx, q->in, &f->kept));
    QNT_TRY(qnti_matrix_rows(q->ctx, x, 0, x.rows, f->quantized));
    return qnti_qlinear_inputs(q, f->quantized, x.rows, f->quantized, f->kept);
}

qnt_status qnt_forward(const qnt_qlinear *q, qnt_matrix x, float *y)
{
    struct forward f;
    qnt_status status = forward_open(q, x, &f);
    f.y = y;
    if (status == QNT_OK)
        status = qnti_parallel(q->ctx, q->out, forward_row, &f);
    if (status == QNT_OK && q->output)
        status = qnti_cache_apply(q->ctx, q->output, y, x.rows, q->out, y);
    forward_free(&f);
    return status;
}

/* Where each column of the input stands behind the transform's permutation. */
static void unpermute(const qnt_qlinear *q, const uint8_t *marks, uint8_t *kept)
{
    for (size_t j = 0; j < q->in; j++)
        kept[q->transform.permutation ? q->transform.permutation[j] : j] = marks[j];
}

qnt_status qnt_dequantize_batch(const qnt_qlinear *q, qnt_matrix x, float *weight, uint8_t *kept)
{
    struct forward f;
    float *row = NULL;
    qnt_status status;
    QNT_CHECK(forward_open(q, x, &f));
    QNT_CHECK(QNTI_NEW_RAW(q->ctx, 3 * q->in, &row));
    for (size_t r = 0; r < q->out; r++) {
        qnti_qlinear_row(q, r, row);
        if (q->full)
            full_row(q, r, f.kept, row);
        qnti_transform_weight_back(&q->transform, q->in, row, weight + r * q->in, row + q->in);
    }
    unpermute(q, f.kept, kept);
cleanup:
    qnti_free(q->ctx, row);
    forward_free(&f);
    return status;
}
