/*
 * forward.c - the reference forward of a quantized layer, token by token.
 *
 *     y = actq(T(x)) (Q' + a b)^T + bias
 *
 * Columns that an activation threshold leaves out are multiplied with the f16
 * copy of the weights where there is one (LLM.int8). The output quantizer,
 * which belongs to a cache behind the layer, is not applied here.
 */
#include "qlinear/qlinear.h"

#include <string.h>
#include "base/number.h"
#include "base/tensor.h"

struct forward {
    const qnt_qlinear *q;
    size_t tokens;
    float *input;              /* x', [tokens][in] */
    float *quantized;          /* the same on its grids */
    uint8_t *kept;             /* [in], columns that the threshold left out */
    float *y;
};

static qnt_status transform_input(const qnt_qlinear *q, qnt_matrix x, struct forward *f)
{
    float *scratch = NULL;
    QNT_TRY(qnti_matrix_rows(q->ctx, x, 0, x.rows, f->input));
    if (qnti_transform_is_identity(&q->transform))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(q->ctx, 2 * q->in, &scratch));
    for (size_t t = 0; t < x.rows; t++) {
        float *row = f->input + t * q->in;
        qnti_transform_forward(&q->transform, q->in, row, scratch, scratch + q->in);
        memcpy(row, scratch, q->in * sizeof *row);
    }
    qnti_free(q->ctx, scratch);
    return QNT_OK;
}

static qnt_status quantize_input(const qnt_qlinear *q, struct forward *f)
{
    if (q->act)
        QNT_TRY(qnti_actquant_apply(q->ctx, q->act, f->input, f->tokens, q->in, q->in, f->quantized, f->kept));
    else
        memcpy(f->quantized, f->input, f->tokens * q->in * sizeof *f->input);
    for (size_t s = 0; s < q->segment_count; s++) { /* a segment's own quantizer stands in place of the layer's */
        const struct qnti_segment *g = &q->segments[s];
        if (!g->act)
            continue;
        memset(f->kept + g->first, 0, g->cols);
        QNT_TRY(qnti_actquant_apply(q->ctx, g->act, f->input + g->first, f->tokens, g->cols, q->in,
                                    f->quantized + g->first, f->kept + g->first));
    }
    return QNT_OK;
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

qnt_status qnt_forward(const qnt_qlinear *q, qnt_matrix x, float *y)
{
    struct forward f = {.q = q, .tokens = x.rows, .y = y};
    qnt_status status;
    if (x.cols != q->in)
        return qnti_fail(q->ctx, QNT_INVALID, "layer %s: input has %zu columns, not %zu", q->name, x.cols, q->in);
    if (x.rows == 0)
        return QNT_OK;
    QNT_CHECK(QNTI_NEW_RAW(q->ctx, x.rows * q->in, &f.input));
    QNT_CHECK(QNTI_NEW_RAW(q->ctx, x.rows * q->in, &f.quantized));
    QNT_CHECK(QNTI_NEW(q->ctx, q->in, &f.kept));
    QNT_CHECK(transform_input(q, x, &f));
    QNT_CHECK(quantize_input(q, &f));
    QNT_CHECK(qnti_parallel(q->ctx, q->out, forward_row, &f));
cleanup:
    qnti_free(q->ctx, f.input);
    qnti_free(q->ctx, f.quantized);
    qnti_free(q->ctx, f.kept);
    return status;
}
