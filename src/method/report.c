/*
 * report.c - what a layer lost: |W - Q|^2 over all weights, and its output on the calibration's inputs by the Hessian.
 */
#include "method/report.h"

#include <string.h>
#include "base/kernels.h"
#include "base/tensor.h"
#include "linalg/blas.h"

qnt_status qnti_transform_rows(const struct qnti_job *job, float *rows, size_t n, size_t in)
{
    float *scratch;
    if (!job->transform)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 2 * in, &scratch));
    for (size_t r = 0; r < n; r++) {
        qnti_transform_weight(job->transform, in, rows + r * in, scratch, scratch + in);
        memcpy(rows + r * in, scratch, in * sizeof *scratch);
    }
    qnti_free(job->ctx, scratch);
    return QNT_OK;
}

/* sum of (D H) o D and (W H) o W over fixed rows: the relative square error of the output on the calibration inputs. */
struct error_task {
    const struct qnti_job *job;
    const qnt_layer *layer;
    const qnt_qlinear *q;
    double *sums;               /* [tasks][2]: |D|^2, |W|^2 */
    size_t stride;              /* between the rows that the output error is measured on */
    float *sample;              /* [2 of each of them][in]: D, W; NULL without a Hessian */
    uint32_t *place;            /* [in] where the layer has the site's columns; NULL: where they are */
};

/* Each full row costs a product with H: on a wide layer all of them would cost more than the solver. */
enum { ERROR_ROWS = 64, OUTPUT_ERROR_ROWS = 128 };

static double quadratic(const float *x, const float *xh, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)xh[i];
    return sum;
}

/* Dead columns have a 1 in the Hessian, but nothing comes through them. */
static void clear_dead(const struct qnti_job *job, float *rows, size_t n)
{
    for (size_t i = 0; job->dead_count && i < n; i++)
        if (job->dead[i % job->calib->in])
            rows[i] = 0;
}

/* Puts the rows that the output error is measured on where all of them are multiplied by H at once. */
static void sample_rows(const struct error_task *t, size_t first, size_t rows, const float *d, const float *w)
{
    size_t in = t->q->in;
    for (size_t r = 0; t->sample && r < rows; r++)
        if ((first + r) % t->stride == 0) {
            float *to = t->sample + 2 * ((first + r) / t->stride) * in;
            memcpy(to, d + r * in, in * sizeof *d);
            memcpy(to + in, w + r * in, in * sizeof *w);
        }
}

/* |D|^2 and |W|^2 in the original coordinates. */
static qnt_status weight_error(const struct error_task *t, const float *d, const float *w, size_t rows, double *sums)
{
    const float *from[] = {d, w};
    size_t in = t->q->in;
    float *row;
    QNT_TRY(QNTI_NEW_RAW(t->job->ctx, 3 * in, &row));
    for (size_t i = 0; i < 2; i++)
        for (size_t r = 0; r < rows; r++) {
            const float *x = from[i] + r * in;
            if (t->job->transform)
                qnti_transform_weight_back(t->job->transform, in, x, row, row + in);
            sums[i] += qnti_sum_squares(t->job->transform ? row : x, in);
        }
    qnti_free(t->job->ctx, row);
    return QNT_OK;
}

/* Rows of the layer with their columns where the site has them. */
static qnt_status read_rows(const struct error_task *t, size_t first, size_t rows, float *d)
{
    size_t in = t->q->in;
    float *row = NULL;
    if (t->place)
        QNT_TRY(QNTI_NEW_RAW(t->job->ctx, in, &row));
    for (size_t r = 0; r < rows; r++) {
        qnti_qlinear_row(t->q, first + r, row ? row : d + r * in);
        for (size_t c = 0; row && c < in; c++)
            d[r * in + c] = row[t->place[c]];
    }
    qnti_free(t->job->ctx, row);
    return QNT_OK;
}

static qnt_status error_rows(void *arg, size_t index)
{
    const struct error_task *t = arg;
    qnt_context *ctx = t->job->ctx;
    size_t in = t->q->in, first = index * ERROR_ROWS, rows = qnti_min(ERROR_ROWS, t->q->out - first);
    double *sums = t->sums + 2 * index;
    float *w = NULL, *d = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(ctx, rows * in, &w));
    QNT_CHECK(QNTI_NEW_RAW(ctx, rows * in, &d));
    QNT_CHECK(qnti_matrix_rows(ctx, t->layer->weight, first, rows, w));
    QNT_CHECK(qnti_transform_rows(t->job, w, rows, in)); /* as the Hessian: of the transformed inputs */
    QNT_CHECK(read_rows(t, first, rows, d));
    if (!qnti_all_finite(d, rows * in))
        QNT_CHECK(qnti_fail(ctx, QNT_NON_FINITE,
                            "layer %s: weights of rows %zu to %zu are too large for the scales of their grid",
                            t->q->name, first, first + rows - 1));
    for (size_t i = 0; i < rows * in; i++)
        d[i] = w[i] - d[i];
    QNT_CHECK(weight_error(t, d, w, rows, sums));
    clear_dead(t->job, d, rows * in);
    clear_dead(t->job, w, rows * in);
    sample_rows(t, first, rows, d, w);
cleanup:
    qnti_free(ctx, w);
    qnti_free(ctx, d);
    return status;
}

/* D H D^T and W H W^T over the sampled rows, which alternate. */
static qnt_status output_error(const struct error_task *t, double *total)
{
    size_t in = t->q->in, rows = 2 * qnti_ceil_div(t->q->out, t->stride);
    struct qnti_gemm g = {.m = rows, .n = in, .k = in, .a = t->sample, .lda = in, .b = t->job->hessian, .ldb = in,
                          .ldc = in, .alpha = 1};
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(t->job->ctx, rows * in, &g.c));
    status = qnti_gemm_parallel(t->job->ctx, &g);
    for (size_t r = 0; status == QNT_OK && r < rows; r++)
        total[2 + r % 2] += quadratic(t->sample + r * in, g.c + r * in, in);
    qnti_free(t->job->ctx, g.c);
    return status;
}

static qnt_status measure_errors(const struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    size_t tasks = qnti_ceil_div(q->out, ERROR_ROWS);
    struct error_task t = {job, layer, q, NULL, qnti_ceil_div(q->out, OUTPUT_ERROR_ROWS), NULL, NULL};
    double total[4] = {0};
    qnt_status status;
    QNT_CHECK(qnti_layer_places(job, q, &t.place));
    if (job->hessian)
        QNT_CHECK(QNTI_NEW_RAW(job->ctx, 2 * qnti_ceil_div(q->out, t.stride) * q->in, &t.sample));
    QNT_CHECK(QNTI_NEW(job->ctx, 2 * tasks, &t.sums));
    QNT_CHECK(qnti_parallel(job->ctx, tasks, error_rows, &t));
    for (size_t i = 0; i < 2 * tasks; i++)
        total[i % 2] += t.sums[i];
    q->report.weight_error = total[1] > 0 ? total[0] / total[1] : 0;
    if (t.sample)
        QNT_CHECK(output_error(&t, total));
    if (t.sample)
        q->report.output_error = total[3] > 0 ? total[2] / total[3] : 0;
cleanup:
    qnti_free(job->ctx, t.sums);
    qnti_free(job->ctx, t.sample);
    qnti_free(job->ctx, t.place);
    return status;
}

qnt_status qnti_report_hessian(struct qnti_job *job)
{
    qnt_status status = QNT_OK;
    if (job->calib && job->calib->hessian && job->calib->tokens)
        status = qnti_job_hessian(job);
    return status == QNT_NOT_FOUND ? QNT_OK : status; /* inputs that were all 0 */
}

qnt_status qnti_report_fill(const struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    QNT_TRY(measure_errors(job, layer, q));
    qnti_qlinear_describe_inputs(q);
    q->report.bits_per_weight = qnti_qlinear_bits(q);
    q->report.damping = job->factor ? job->damping.share : 0;
    q->report.dead_columns = job->dead_count;
    if (!job->calib)
        return QNT_OK;
    q->report.tokens = job->calib->tokens;
    q->report.skipped_tokens = job->calib->skipped;
    if (!job->calib->skipped)
        return QNT_OK;
    return qnti_qlinear_warn(q, "%zu of %zu calibration tokens were not finite and left out", job->calib->skipped,
                             job->calib->skipped + job->calib->tokens);
}
