/*
 * bnb4.c - data-free: NF4 or FP4 in blocks of the flattened matrix, the blocks' maxima quantized again if asked for.
 *
 * Each block is divided by its largest magnitude and goes to 16 fixed levels:
 * quantiles of the normal distribution, or a small float. double_quant codes
 * the maxima, less their mean, in 8 bits (Dettmers et al., "QLoRA", NeurIPS
 * 2023; bitsandbytes, whose kernels' codes these are). Codes stay those of the
 * exact maxima unless requantize.
 */
#include "method/method.h"

#include <string.h>
#include "solve/solve.h"

struct bnb4_params {
    int format, block_size;
    bool double_quant, scale_search, requantize;
};

enum { FORMAT_NF4, FORMAT_FP4 };
enum { NESTED_BLOCK = 256, SEARCH_STEPS = 20, SEARCH_GRID = 100 };   /* maxima times 0.80 .. 1.20 */

/* The maxima less their mean, on their own grid; the weights' codes stay. *flips: one of them is not positive then. */
static qnt_status nest(qnt_context *ctx, struct qnti_numbers *w, bool *flips)
{
    struct qnti_numbers *scale = w->scale;
    size_t n = scale->rows * scale->cols;
    double sum = 0; /* f64: a million maxima */
    float *exact;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(ctx, n, &exact));
    memcpy(exact, scale->value, n * sizeof *exact);
    for (size_t i = 0; i < n; i++)
        sum += (double)exact[i];
    scale->grid.offset = (float)(sum / (double)n);
    status = qnti_nearest(ctx, exact, NULL, NULL, scale);
    qnti_numbers_settle(scale);
    *flips = false;
    for (size_t i = 0; i < n; i++)
        *flips |= exact[i] > 0 && !(scale->value[i] > 0);
    qnti_free(ctx, exact);
    return status;
}

/* `nested`: the grid of the maxima; NULL: they are plain. */
static struct qnti_grid bnb4_grid(const struct qnti_job *job, const struct bnb4_params *p,
                                  const struct qnti_grid *nested)
{
    struct qnti_grid grid = qnti_codebook_grid(job->kernels, p->format == FORMAT_NF4 ? &qnti_nf4 : &qnti_fp4,
                                               (size_t)p->block_size, QNT_F32);
    grid.search = p->scale_search;
    grid.search_steps = SEARCH_STEPS;
    grid.search_grid = SEARCH_GRID;
    grid.scale_grid = nested;
    return grid;
}

static struct qnti_grid nested_grid(const struct qnti_job *job)
{
    return qnti_codebook_grid(job->kernels, &qnti_dynamic8, NESTED_BLOCK, QNT_F32);
}

static qnt_status fill(struct qnti_job *job, const struct bnb4_params *p, const struct qnti_grid *nested,
                       qnt_qlinear *q)
{
    struct qnti_grid grid = bnb4_grid(job, p, nested);
    QNT_TRY(qnti_segment_fill(q, &q->segments[0], &grid));
    return qnti_nearest(job->ctx, job->weight, NULL, NULL, q->segments[0].weight);
}

static qnt_status bnb4_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct bnb4_params *p = job->params;
    struct qnti_grid nested = nested_grid(job);
    struct qnti_segment *segment;
    bool flips;
    (void)layer;
    QNT_TRY(qnti_qlinear_one_segment(q));
    segment = &q->segments[0];
    QNT_TRY(fill(job, p, p->double_quant ? &nested : NULL, q));
    if (!p->double_quant)
        return QNT_OK;
    QNT_TRY(nest(job->ctx, segment->weight, &flips));
    if (!flips)
        return p->requantize ? qnti_nearest_codes(job->ctx, job->weight, segment->weight) : QNT_OK;
    QNT_TRY(qnti_qlinear_warn(q, "its maxima are not quantized: one far below their mean would change its sign"));
    qnti_numbers_free(job->ctx, segment->weight);
    segment->weight = NULL;
    return fill(job, p, NULL, q);
}

static qnt_status bnb4_check(qnt_context *ctx, const void *params)
{
    const struct bnb4_params *p = params;
    if (p->block_size & (p->block_size - 1))
        return qnti_fail(ctx, QNT_INVALID, "bnb4: block_size=%d is no power of two", p->block_size);
    return QNT_OK;
}

/* All but the maxima's mean, 32 bits of the layer, is in the grids. */
static qnt_status bnb4_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct bnb4_params *p = params;
    struct qnti_grid nested = nested_grid(job), grid = bnb4_grid(job, p, p->double_quant ? &nested : NULL);
    *bits = qnti_grid_bits(&grid, out, in) + (p->double_quant ? 32 : 0);
    return QNT_OK;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct bnb4_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(format, ENUM, FORMAT_NF4, 0, 1, "nf4|fp4", "the 16 levels"),
    ROW(block_size, INT, 64, 32, 4096, NULL, "weights that share a maximum, a power of two"),
    ROW(double_quant, BOOL, 0, 0, 1, NULL, "maxima in 8 bits"),
    ROW(scale_search, BOOL, 0, 0, 1, NULL, "maxima with the least squared error"),
    ROW(requantize, BOOL, 0, 0, 1, NULL, "codes for the maxima as double_quant leaves them"),
};

const struct qnti_method qnti_method_bnb4 = {
    .name = "bnb4",
    .title = "data-free: NF4 or FP4 in blocks, as bitsandbytes",
    .reference = "Dettmers et al., QLoRA, NeurIPS 2023; bitsandbytes",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct bnb4_params)},
    .check = bnb4_check,
    .bits = bnb4_bits,
    .stages[QNTI_STAGE_WEIGHTS].layer = bnb4_weights,
};
