/*
 * olive.c - outliers stay in their place at the cost of a neighbour, in weights and activations.
 *
 * Rows of weights, and the inputs as a whole, get the scale with the least
 * squared error on a grid of pairs (grid/pairs.c); integers or flint, whichever
 * errs less in the tensor (Guo et al., "OliVe", ISCA 2023). The inputs' scale is
 * found on calibration samples and stays. outliers=false is plain ANT (MICRO
 * 2022). Not here: 8 bits for the layers that err most.
 */
#include "method/method.h"

#include <math.h>
#include "base/kernels.h"
#include "solve/solve.h"

struct olive_params {
    int bits, act_bits, format, group_size;
    bool outliers;
    int pair_keep, search_low, search_high;
};

enum { FORMAT_ADAPTIVE, FORMAT_INT, FORMAT_FLINT };
enum { MOST_FLINT_BITS = 6 };

static bool tries(const struct olive_params *p, int bits, bool flint)
{
    if (bits > MOST_FLINT_BITS)
        return !flint;
    return p->format == FORMAT_ADAPTIVE || (p->format == FORMAT_FLINT) == flint;
}

static struct qnti_pairs pairs_of(const struct olive_params *p, bool flint, bool is_signed)
{
    return (struct qnti_pairs){.flint = flint, .is_signed = is_signed, .outliers = p->outliers, .larger = p->pair_keep,
                               .search_low = (unsigned)p->search_low, .search_high = (unsigned)p->search_high};
}

static struct qnti_grid weight_grid(const struct qnti_job *job, const struct olive_params *p, bool flint,
                                    float table[QNTI_PAIRS_MOST_LEVELS])
{
    return qnti_pairs_grid(job->kernels, (unsigned)p->bits, pairs_of(p, flint, true), (size_t)p->group_size,
                           job->layout ? job->layout->scale_type : QNT_F32, table);
}

static qnt_status olive_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct olive_params *p = job->params;
    float table[QNTI_PAIRS_MOST_LEVELS];
    struct qnti_numbers *w = NULL, **best;
    double error, least = INFINITY;
    size_t clipped;
    qnt_status status;
    (void)layer;
    QNT_TRY(qnti_qlinear_one_segment(q));
    best = &q->segments[0].weight;
    for (int flint = 0; flint <= 1; flint++) {
        struct qnti_grid grid = weight_grid(job, p, flint, table);
        if (!tries(p, p->bits, flint))
            continue;
        QNT_CHECK(qnti_numbers_create(job->ctx, &grid, q->out, q->in, &w));
        QNT_CHECK(qnti_nearest(job->ctx, job->weight, NULL, NULL, w));
        QNT_CHECK(qnti_square_error(job->ctx, job->weight, w, &error));
        if (!*best || error < least) {
            struct qnti_numbers *worse = *best;
            *best = w;
            w = worse;
            least = error;
        }
        qnti_numbers_free(job->ctx, w);
        w = NULL;
    }
    clipped = qnti_pairs_clipped(job->weight, *best);
    if (clipped)
        QNT_CHECK(qnti_qlinear_warn(q, "%zu of its scales leave a weight beyond the largest level", clipped));
cleanup:
    qnti_numbers_free(job->ctx, w);
    return status;
}

/* The grid of inputs x with the least error, and its scale. */
static qnt_status choose_inputs(struct qnti_job *job, const float *x, size_t tokens, size_t in,
                                float table[2][QNTI_PAIRS_MOST_LEVELS], struct qnti_grid *best, float *scale)
{
    const struct olive_params *p = job->params;
    double error, least = INFINITY;
    float low, high, found;
    bool any = false;
    job->kernels->range(tokens * in, x, &low, &high);
    for (int flint = 0; flint <= 1; flint++) {
        struct qnti_grid grid = qnti_pairs_grid(job->kernels, (unsigned)p->act_bits, pairs_of(p, flint, low < 0), 0,
                                                QNT_F32, table[flint]);
        if (!tries(p, p->act_bits, flint))
            continue;
        grid.map.rows = 0;
        QNT_TRY(qnti_pairs_search(job->ctx, &grid, x, tokens, in, &found, &error));
        if (any && !(error < least))
            continue;
        any = true;
        least = error;
        *best = grid;
        *scale = found;
    }
    return QNT_OK;
}

static qnt_status set_inputs(struct qnti_job *job, const struct qnti_grid *grid, float scale, qnt_qlinear *q)
{
    uint16_t zero = (uint16_t)qnti_pairs_zero(grid);
    QNT_TRY(qnti_actquant_create(job->ctx, grid, q->in, true, &q->act));
    q->act->fixed->scale->value[0] = scale;
    for (size_t c = 0; c < q->in; c++) /* its one row stands for no numbers: any pairs that can be stored */
        qnti_numbers_put_codes(q->act->fixed, 0, c, 1, &zero);
    return QNT_OK;
}

/* The layers of a site have the same input. */
static qnt_status olive_activations(struct qnti_job *job, const qnt_layer *layers, size_t count, qnt_qlinear **q)
{
    float table[2][QNTI_PAIRS_MOST_LEVELS], *x, scale = 1;
    struct qnti_grid grid = {0};
    size_t tokens;
    qnt_status status = qnti_job_samples(job, &x, &tokens);
    for (size_t i = 0; status == QNT_NOT_FOUND && i < count; i++)
        QNT_TRY(qnti_qlinear_warn(q[i], "its inputs are not quantized: %s", qnt_context_message(job->ctx)));
    if (status == QNT_NOT_FOUND)
        return QNT_OK;
    QNT_TRY(status);
    status = choose_inputs(job, x, tokens, layers[0].weight.cols, table, &grid, &scale);
    qnti_free(job->ctx, x);
    for (size_t i = 0; status == QNT_OK && i < count; i++)
        status = q[i]->act ? QNT_OK : set_inputs(job, &grid, scale, q[i]);
    return status;
}

static bool quantizes_inputs(const struct olive_params *p)
{
    return p->act_bits != 0 && p->act_bits != 16;
}

static bool olive_offers(const void *params, enum qnti_stage stage)
{
    return stage != QNTI_STAGE_ACTIVATIONS || quantizes_inputs(params);
}

static unsigned olive_needs(const void *params)
{
    return quantizes_inputs(params) ? QNTI_NEED_SAMPLES : 0;
}

static qnt_status olive_check(qnt_context *ctx, const void *params)
{
    const struct olive_params *p = params;
    if (quantizes_inputs(p) && (p->act_bits < QNTI_PAIRS_LEAST_BITS || p->act_bits > QNTI_PAIRS_MOST_BITS))
        return qnti_fail(ctx, QNT_INVALID, "olive: act_bits=%d; 3 to 8, or 16: not quantized", p->act_bits);
    if (p->search_high <= p->search_low)
        return qnti_fail(ctx, QNT_INVALID, "olive: search_high=%d is not above search_low=%d", p->search_high,
                         p->search_low);
    if (p->group_size % 2)
        return qnti_fail(ctx, QNT_INVALID, "olive: group_size=%d cuts a pair; an even number does not", p->group_size);
    return QNT_OK;
}

static qnt_status olive_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    float table[QNTI_PAIRS_MOST_LEVELS];
    struct qnti_grid grid = weight_grid(job, params, false, table);
    *bits = qnti_grid_bits(&grid, out, in);
    return QNT_OK;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct olive_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 4, QNTI_PAIRS_LEAST_BITS, QNTI_PAIRS_MOST_BITS, NULL, "bits of a code"),
    ROW(act_bits, INT, 4, 0, 16, NULL, "bits of activations; 0 and 16: not quantized"),
    ROW(format, ENUM, FORMAT_ADAPTIVE, 0, 2, "adaptive|int|flint", "normal levels; above 6 bits always int"),
    ROW(outliers, BOOL, 1, 0, 1, NULL, "wide levels at the cost of the neighbour; false: ANT"),
    ROW(search_low, INT, 75, 1, 400, NULL, "first range tried, in percent of three standard deviations"),
    ROW(search_high, INT, 250, 2, 1000, NULL, "where the search ends, every second percentage before it"),
    ROW(pair_keep, ENUM, 0, 0, 1, "first|larger", "which of two outliers in a pair stays"),
    ROW(group_size, INT, 0, 0, 1 << 24, NULL, "weights of a row that share a scale, an even number; 0: the whole row"),
};

const struct qnti_method qnti_method_olive = {
    .name = "olive",
    .title = "outlier-victim pairs: wide levels at the cost of a neighbour, weights and activations",
    .reference = "Guo et al., OliVe, ISCA 2023; ANT, MICRO 2022",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct olive_params)},
    .needs_by = olive_needs,
    .check = olive_check,
    .offers = olive_offers,
    .bits = olive_bits,
    .stages[QNTI_STAGE_ACTIVATIONS].unit = olive_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = olive_weights,
};
