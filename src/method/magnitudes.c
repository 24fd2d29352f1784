/*
 * magnitudes.c - how large channels are, of inputs and of the weights that meet them: what searches for scales go by.
 */
#include "method/method.h"

#include <math.h>
#include "base/tensor.h"

qnt_status qnti_job_takes_scale(const struct qnti_job *job)
{
    if (job->producer && (job->producer->refuses & QNT_REFUSES_SCALE))
        return qnti_fail(job->ctx, QNT_UNSUPPORTED, "the activation behind its producer lets no scale through");
    return QNT_OK;
}

bool qnti_job_takes_shift(const struct qnti_job *job)
{
    const qnt_producer *p = job->producer;
    return !p || (p->bias && !(p->refuses & QNT_REFUSES_SHIFT));
}

qnt_status qnti_job_tie(struct qnti_job *job, enum qnti_tie how, float *x)
{
    const uint32_t *map = job->producer ? job->producer->map : NULL;
    size_t in = job->calib->in;
    struct {
        float sum, most, count;
    } *rows;
    if (!map)
        return QNT_OK;
    QNT_TRY(QNTI_NEW(job->ctx, job->producer->rows, &rows));
    for (size_t c = 0; c < in; c++) {
        rows[map[c]].sum += x[c];
        rows[map[c]].most = fmaxf(rows[map[c]].most, x[c]);
        rows[map[c]].count++;
    }
    for (size_t c = 0; c < in; c++)
        x[c] = how == QNTI_TIE_MEAN ? rows[map[c]].sum / rows[map[c]].count : rows[map[c]].most;
    qnti_free(job->ctx, rows);
    return QNT_OK;
}

qnt_status qnti_job_magnitudes(struct qnti_job *job, float *most, float *mean)
{
    const struct qnt_calib *calib = job->calib;
    if (!calib || !calib->tokens)
        return qnti_fail(job->ctx, QNT_NOT_FOUND, "no calibration token reached the layer");
    for (size_t c = 0; c < calib->in; c++) {
        const struct qnti_channel_moments *m = &calib->moments[c];
        if (most)
            most[c] = fmaxf(fabsf(m->least), fabsf(m->greatest));
        if (mean)
            mean[c] = (float)(m->sum_abs / (double)calib->tokens);
    }
    return QNT_OK;
}

qnt_status qnti_job_quietest_first(struct qnti_job *job, bool squares, uint32_t **order)
{
    const struct qnt_calib *calib = job->calib;
    float *keys;
    qnt_status status;
    if (!calib->tokens)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, calib->in, &keys));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, calib->in, order));
    for (size_t c = 0; c < calib->in; c++) {
        const struct qnti_channel_moments *m = &calib->moments[c];
        keys[c] = -(float)((squares ? m->sum_square : m->sum_abs) / (double)calib->tokens);
    }
    status = qnti_job_sort(job, keys, calib->in, *order);
cleanup:
    qnti_free(job->ctx, keys);
    return status;
}

qnt_status qnti_job_weight_magnitudes(struct qnti_job *job, const qnt_layer *layers, size_t count, float *most)
{
    size_t in = layers[0].weight.cols;
    qnt_status status = QNT_OK;
    float *row;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &row));
    for (size_t c = 0; c < in; c++)
        most[c] = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t r = 0; r < layers[i].weight.rows; r++) {
            QNT_CHECK(qnti_matrix_rows(job->ctx, layers[i].weight, r, 1, row));
            for (size_t c = 0; c < in; c++)
                most[c] = fmaxf(most[c], fabsf(row[c]));
        }
    status = qnti_job_tie(job, QNTI_TIE_MOST, most);
cleanup:
    qnti_free(job->ctx, row);
    return status;
}

/* Adds |w| over the largest |w| of its group. */
static void add_shares(const float *w, size_t in, size_t group, double *sum)
{
    for (size_t g = 0; g < in; g += group) {
        size_t end = qnti_min(g + group, in);
        float most = 0;
        for (size_t c = g; c < end; c++)
            most = fmaxf(most, fabsf(w[c]));
        for (size_t c = g; c < end; c++)
            sum[c] += (double)(fabsf(w[c]) / (most + 1e-6f));
    }
}

qnt_status qnti_job_weight_shares(struct qnti_job *job, const qnt_layer *layers, size_t count, size_t group,
                                  float *mean)
{
    size_t in = layers[0].weight.cols, rows = 0;
    double *sum;
    float *row;
    qnt_status status;
    QNT_TRY(QNTI_NEW(job->ctx, in, &sum));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &row));
    for (size_t i = 0; i < count; rows += layers[i++].weight.rows)
        for (size_t r = 0; r < layers[i].weight.rows; r++) {
            QNT_CHECK(qnti_matrix_rows(job->ctx, layers[i].weight, r, 1, row));
            add_shares(row, in, group, sum);
        }
    for (size_t c = 0; c < in; c++)
        mean[c] = (float)(sum[c] / (double)rows);
    status = qnti_job_tie(job, QNTI_TIE_MEAN, mean);
cleanup:
    qnti_free(job->ctx, sum);
    qnti_free(job->ctx, row);
    return status;
}
