/*
 * token_range.c - a static range of activations by the extremes of tokens (Wei et al., "Outlier Suppression", 2022).
 *
 * Every token has a largest and a smallest number. The range reaches to the
 * largest of those maxima that lie within the quantile p of their magnitudes,
 * below likewise: p says how many tokens may stick out, and the ends are always
 * numbers that occur. Ranges of batches of consecutive tokens are averaged. All
 * in f32, as the authors do it.
 */
#include "grid/activation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/kernels.h"

struct qnti_token_extremes {
    size_t tokens, batch;
    float *most, *least;              /* [tokens] of each token */
    float *above, *below;             /* [tokens] magnitudes of these, ascending within each batch */
};

void qnti_token_extremes_free(qnt_context *ctx, struct qnti_token_extremes *e)
{
    if (!e)
        return;
    qnti_free(ctx, e->most);
    qnti_free(ctx, e);
}

static int ascending(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

qnt_status qnti_token_extremes_create(qnt_context *ctx, const struct qnti_kernels *kernels, const float *x,
                                      size_t tokens, size_t cols, size_t batch, struct qnti_token_extremes **out)
{
    struct qnti_token_extremes *e;
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, 1, &e));
    e->tokens = tokens;
    e->batch = batch ? qnti_min(batch, tokens) : tokens;
    QNT_CHECK(QNTI_NEW_RAW(ctx, 4 * tokens, &e->most));
    e->least = e->most + tokens;
    e->above = e->least + tokens;
    e->below = e->above + tokens;
    for (size_t t = 0; t < tokens; t++) {
        kernels->range(cols, x + t * cols, &e->least[t], &e->most[t]);
        e->above[t] = fabsf(e->most[t]);
        e->below[t] = fabsf(e->least[t]);
    }
    for (size_t t = 0; t < tokens; t += e->batch) {
        size_t n = qnti_min(e->batch, tokens - t);
        qsort(e->above + t, n, sizeof *e->above, ascending);
        qsort(e->below + t, n, sizeof *e->below, ascending);
    }
    *out = e;
    return QNT_OK;
cleanup:
    qnti_token_extremes_free(ctx, e);
    return status;
}

/* With linear interpolation between neighbours of n ascending numbers. */
static float quantile(const float *sorted, size_t n, float p)
{
    float rank = p * (float)(n - 1);
    size_t below = qnti_min((size_t)rank, n - 1), above = qnti_min(below + 1, n - 1);
    return sorted[below] + (rank - (float)below) * (sorted[above] - sorted[below]);
}

/* What is left of the batch's range where it is clipped to the extremes within the quantile. */
static void batch_range(const struct qnti_token_extremes *e, size_t first, size_t n, float p, float range[2])
{
    float most = quantile(e->above + first, n, p), least = -quantile(e->below + first, n, p);
    float lower = INFINITY, upper = -INFINITY;
    for (size_t t = first; t < first + n; t++) {
        if (e->least[t] >= least)
            lower = fminf(lower, e->least[t]);
        if (e->most[t] <= most)
            upper = fmaxf(upper, e->most[t]);
    }
    range[0] = fminf(lower, upper); /* should all that is above be below the lower end, nothing but the upper is left */
    range[1] = upper;
}

void qnti_token_range(const struct qnti_token_extremes *e, float p, float range[2])
{
    float count = 0;
    range[0] = range[1] = 0;
    for (size_t t = 0; t < e->tokens; t += e->batch) {
        float of_batch[2];
        batch_range(e, t, qnti_min(e->batch, e->tokens - t), p, of_batch);
        for (size_t i = 0; i < 2; i++)
            range[i] = (range[i] * count + of_batch[i]) / (count + 1);
        count++;
    }
}
