/*
 * llm_int8.c - 8-bit products with a scale for each token and each row, outlier columns beside them.
 *
 * Rows of W, rounded to f16 first, are coded by their largest magnitude: code =
 * rint(w * (127 / c)). At run time a token's columns of magnitude >=
 * outlier_threshold, found anew in every batch, are multiplied in floats
 * (Dettmers et al., "LLM.int8()", NeurIPS 2022; bitsandbytes): by the
 * dequantized codes, or by an f16 copy of the weights.
 */
#include "method/method.h"

#include <math.h>
#include "base/number.h"

struct llm_int8_params {
    double outlier_threshold;
    int outlier_weights, row_stat;
};

enum { WEIGHTS_INT8, WEIGHTS_FP16 };
enum { STAT_BELOW, STAT_KEPT };
enum { BITS = 8, TOP = 127 };

static struct qnti_grid int8_grid(const struct qnti_job *job)
{
    struct qnti_grid grid = qnti_affine_grid(job->kernels, BITS, 0, QNT_F32);
    grid.sym = grid.absmax = grid.constant_offset = grid.signed_codes = true;
    grid.offset = 1u << (BITS - 1);
    return grid;
}

static bool keeps_copy(const struct llm_int8_params *p)
{
    return p->outlier_weights == WEIGHTS_FP16 && p->outlier_threshold > 0;
}

/* One row: its scale c / 127 and codes; both from f16 values. */
static void code_row(const float *w, size_t r, struct qnti_numbers *q)
{
    float most = 0, step;
    for (size_t c = 0; c < q->cols; c++)
        most = fmaxf(most, fabsf(qnti_round_to(QNT_F16, w[c])));
    step = most > 0 ? TOP / most : 0;
    q->scale->value[r] = most / TOP;
    for (size_t c = 0; c < q->cols; c++)
        q->code8[r * q->cols + c] = (uint8_t)(rintf(qnti_round_to(QNT_F16, w[c]) * step) + q->grid.offset);
}

static qnt_status llm_int8_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct llm_int8_params *p = job->params;
    struct qnti_grid grid = int8_grid(job);
    (void)layer;
    QNT_TRY(qnti_qlinear_one_segment(q));
    QNT_TRY(qnti_segment_fill(q, &q->segments[0], &grid));
    for (size_t r = 0; r < q->out; r++)
        code_row(job->weight + r * q->in, r, q->segments[0].weight);
    if (keeps_copy(p))
        return qnti_numbers_from_floats(job->ctx, QNT_F16, job->weight, q->out, q->in, &q->full);
    return QNT_OK;
}

static qnt_status llm_int8_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct llm_int8_params *p = job->params;
    (void)layer;
    QNT_TRY(qnti_actquant_int8(job->ctx, job->kernels, q->in, (float)p->outlier_threshold, &q->act));
    q->act->range_of_kept = p->row_stat == STAT_BELOW;
    return QNT_OK;
}

static qnt_status llm_int8_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    struct qnti_grid grid = int8_grid(job), copy = qnti_float_grid(QNT_F16);
    *bits = qnti_grid_bits(&grid, out, in) + (keeps_copy(params) ? qnti_grid_bits(&copy, out, in) : 0);
    return QNT_OK;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct llm_int8_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(outlier_threshold, FLOAT, 6, 0, 1e30, NULL,
        "columns with an activation of this magnitude stay floats; 0: none"),
    ROW(outlier_weights, ENUM, 0, 0, 1, "int8|fp16", "weights that those columns meet"),
    ROW(row_stat, ENUM, 0, 0, 1, "below|kept",
        "a token's range: all its activations below the threshold, or only those of the other columns"),
};

const struct qnti_method qnti_method_llm_int8 = {
    .name = "llm_int8",
    .title = "8-bit weights and activations, outlier columns in floats at run time",
    .reference = "Dettmers et al., LLM.int8(), NeurIPS 2022; bitsandbytes",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct llm_int8_params)},
    .bits = llm_int8_bits,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = llm_int8_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = llm_int8_weights,
};
