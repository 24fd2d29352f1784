/*
 * easyquant.c - data-free: outliers kept, then for each row the range with the least squared error of the rest.
 *
 * Weights with |w - mean| >= outlier_threshold standard deviations of the
 * matrix stay as they are. The others take levels -2^(b-1) + 1 .. 2^(b-1) times
 * a scale that minimizes sum (Q(x) - x)^2 of each group (Tang et al.,
 * "EasyQuant", EMNLP 2023): the exact minimum, or what the paper's Adam finds.
 */
#include "method/method.h"

#include <math.h>
#include <string.h>
#include "solve/solve.h"

struct easyquant_params {
    int bits;
    double outlier_threshold;
    int group_size, optimizer, iterations;
    double learning_rate;
};

/* Marks the outliers and sets them to 0 in w. A matrix of one value has none. */
static void take_outliers(double threshold, size_t n, float *w, uint8_t *mask)
{
    double mean = 0, square = 0, limit;
    for (size_t i = 0; i < n; i++)
        mean += (double)w[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        square += ((double)w[i] - mean) * ((double)w[i] - mean);
    limit = threshold * sqrt(square / (double)n);
    for (size_t i = 0; limit > 0 && i < n; i++)
        if (fabs((double)w[i] - mean) >= limit) {
            mask[i] = 1;
            w[i] = 0;
        }
}

static struct qnti_grid easyquant_grid(const struct qnti_job *job, const struct easyquant_params *p)
{
    struct qnti_grid grid = qnti_affine_grid(job->kernels, (unsigned)p->bits, (size_t)p->group_size,
                                             job->layout ? job->layout->scale_type : QNT_F32);
    grid.constant_offset = true;
    grid.offset = (float)((1 << (p->bits - 1)) - 1);
    return grid;
}

static qnt_status easyquant_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct easyquant_params *p = job->params;
    struct qnti_grid grid = easyquant_grid(job, p);
    struct qnti_range_search rule = {.least = -(int)grid.offset, .most = 1 << (p->bits - 1), .optimizer = p->optimizer,
                                     .iterations = (size_t)p->iterations, .learning_rate = p->learning_rate};
    size_t n = q->out * q->in;
    uint8_t *mask = NULL;
    float *rest = NULL;
    qnt_status status;
    (void)layer;
    QNT_CHECK(QNTI_NEW(job->ctx, n, &mask));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, n, &rest));
    memcpy(rest, job->weight, n * sizeof *rest);
    take_outliers(p->outlier_threshold, n, rest, mask);
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    QNT_CHECK(qnti_search_ranges(job->ctx, &rule, rest, q->segments[0].weight));
    status = qnti_qlinear_keep(q, grid.scale_type, mask, job->weight);
cleanup:
    qnti_free(job->ctx, mask);
    qnti_free(job->ctx, rest);
    return status;
}

/* The share of outliers is not known before: that of a normal distribution. */
static qnt_status easyquant_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct easyquant_params *p = params;
    struct qnti_grid grid = easyquant_grid(job, p);
    double share = p->outlier_threshold > 0 ? erfc(p->outlier_threshold / sqrt(2)) : 0;
    *bits = qnti_grid_bits(&grid, out, in) + qnti_sparse_bits(out, in, grid.scale_type, share * (double)(out * in));
    return QNT_OK;
}

static unsigned easyquant_leaves(const void *params)
{
    const struct easyquant_params *p = params;
    return p->outlier_threshold > 0 ? QNTI_BESIDE_SPARSE : 0;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct easyquant_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 4, 2, 8, NULL, "bits of a code"),
    ROW(outlier_threshold, FLOAT, 3, 0, 1e6, NULL,
        "weights this many standard deviations from the mean are kept; 0: none"),
    ROW(group_size, INT, 0, 0, 1 << 24, NULL, "columns that share a scale; 0: the whole row"),
    ROW(optimizer, ENUM, QNTI_RANGE_EXACT, 0, 1, "exact|adam", "the range: the exact minimum, or the paper's descent"),
    ROW(iterations, INT, 100, 1, 1 << 20, NULL, "steps of adam"),
    ROW(learning_rate, FLOAT, 1e-3, 1e-12, 1e6, NULL, "size of them"),
};

const struct qnti_method qnti_method_easyquant = {
    .name = "easyquant",
    .title = "data-free: outliers kept, ranges with the least error of the other weights",
    .reference = "Tang et al., EasyQuant, EMNLP 2023",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct easyquant_params)},
    .bits = easyquant_bits,
    .leaves = easyquant_leaves,
    .stages[QNTI_STAGE_WEIGHTS].layer = easyquant_weights,
};
