/*
 * propagation.c - weights that make up for what everything before them has lost.
 *
 * A layer sees x of the quantized model where the original saw x_fp. The weights
 * that bring its output closest to W x_fp are W + W C H^-1, C = sum (x_fp - x)
 * x^T, H = sum x x^T; a share of the way there is taken, since C is noisier
 * than H (Arai and Ichikawa, "Quantization Error Propagation", 2025). All that
 * chooses codes aims at them then, later stages too.
 */
#include "method/feedback.h"

#include <string.h>
#include "linalg/blas.h"

/* Columns in processing order, dead ones 0; or back, added to the weight times `share`. */
static void to_order(const struct qnti_job *job, const float *x, size_t rows, size_t n, float *y)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++) {
            size_t c = job->order ? job->order[j] : j;
            y[r * n + j] = job->dead[c] ? 0 : x[r * n + c];
        }
}

static void add_from_order(const struct qnti_job *job, const float *y, size_t rows, size_t n, float share)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++)
            job->weight[r * n + (job->order ? job->order[j] : j)] += share * y[r * n + j];
}

/* Stages behind this one load it in place of the layer's own weight. */
static qnt_status remember(struct qnti_job *job, size_t n)
{
    if (!job->aimed)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n, &job->aimed[job->layer]));
    memcpy(job->aimed[job->layer], job->weight, n * sizeof *job->weight);
    return QNT_OK;
}

qnt_status qnti_make_up(struct qnti_job *job, double share)
{
    size_t n = job->calib->in, rows = job->rows;
    float *c = NULL, *x = NULL, *y = NULL;
    struct qnti_gemm g = {.m = rows, .n = n, .k = n, .lda = n, .ldb = n, .ldc = n, .alpha = 1};
    qnt_status status;
    if (share == 0)
        return QNT_OK;
    QNT_CHECK(qnti_job_cross(job, &c));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, rows * n, &x));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, rows * n, &y));
    g.a = job->weight;
    g.b = c;
    g.c = x;
    QNT_CHECK(qnti_gemm_parallel(job->ctx, &g)); /* W C */
    to_order(job, x, rows, n, y);
    g.a = y;
    g.b = job->factor;
    g.c = x;
    g.transpose_b = true;
    QNT_CHECK(qnti_gemm_parallel(job->ctx, &g)); /* times H^-1 = U^T U */
    g.a = x;
    g.c = y;
    g.transpose_b = false;
    QNT_CHECK(qnti_gemm_parallel(job->ctx, &g));
    add_from_order(job, y, rows, n, (float)share);
    status = remember(job, rows * n);
cleanup:
    qnti_free(job->ctx, c);
    qnti_free(job->ctx, x);
    qnti_free(job->ctx, y);
    return status;
}
