/*
 * samples.c - the tokens of a site's input that searches look at, and the norm that made them.
 */
#include "method/method.h"

#include <string.h>

qnt_status qnti_job_samples(struct qnti_job *job, float **out, size_t *tokens)
{
    const struct qnt_calib *calib = job->calib;
    const float *from = job->samples ? job->samples : calib ? calib->samples : NULL;
    size_t n = job->samples ? job->sample_count : calib ? calib->sample_count : 0;
    float *x = NULL, *scratch = NULL;
    qnt_status status;
    if (!from || !n)
        return qnti_fail(job->ctx, QNT_NOT_FOUND, "no calibration token reached the layer");
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, n * calib->in, &x));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, calib->in, &scratch));
    for (size_t t = 0; t < n; t++)
        if (job->transform)
            qnti_transform_forward(job->transform, calib->in, from + t * calib->in, x + t * calib->in, scratch);
        else
            memcpy(x + t * calib->in, from + t * calib->in, calib->in * sizeof *x);
    *out = x;
    *tokens = n;
    x = NULL;
cleanup:
    qnti_free(job->ctx, x);
    qnti_free(job->ctx, scratch);
    return status;
}

qnt_status qnti_job_gamma(struct qnti_job *job, const qnt_layer *layer, float *gamma)
{
    const qnt_producer *p = job->producer;
    size_t in = layer->weight.cols;
    bool norm = p && p->cols == 1 && !p->map && p->rows == in;
    if (!norm && (p || !layer->norm_weight))
        return qnti_fail(job->ctx, QNT_NOT_FOUND, "no norm makes the layer's input");
    for (size_t c = 0; c < in; c++)
        gamma[c] = norm ? p->base + p->weight[c] : layer->norm_weight[c];
    return QNT_OK;
}
