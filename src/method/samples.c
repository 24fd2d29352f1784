/*
 * samples.c - the tokens of a site's input: some, that searches look at, or all once more; and the norm that made them.
 */
#include "method/method.h"

#include <string.h>
#include "base/tensor.h"

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

struct replay {
    const struct qnti_job *job;
    qnti_token_fn take;
    void *user;
    float *x, *scratch;          /* [QNTI_REPLAY_TOKENS][in], [in] */
};

/* A finite token in the coordinates of the transform; false: it is left out, as it was when the site was measured. */
static bool take_token(const struct replay *r, const float *x, float *y)
{
    size_t in = r->job->calib->in;
    if (!qnti_all_finite(x, in))
        return false;
    if (r->job->transform)
        qnti_transform_forward(r->job->transform, in, x, y, r->scratch);
    else
        memcpy(y, x, in * sizeof *y);
    return true;
}

static qnt_status take_tokens(void *user, const float *x, size_t tokens)
{
    const struct replay *r = user;
    size_t in = r->job->calib->in;
    for (size_t t = 0, n; t < tokens;) {
        for (n = 0; t < tokens && n < QNTI_REPLAY_TOKENS; t++)
            n += take_token(r, x + t * in, r->x + n * in);
        QNT_TRY(r->take(r->user, r->x, n));
    }
    return QNT_OK;
}

qnt_status qnti_job_replay(const struct qnti_job *job, qnti_token_fn take, void *user)
{
    struct replay r = {.job = job, .take = take, .user = user};
    size_t in = job->calib->in;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, QNTI_REPLAY_TOKENS * in, &r.x));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, in, &r.scratch));
    status = qnti_calib_replay(job->calib, take_tokens, &r);
cleanup:
    qnti_free(job->ctx, r.x);
    qnti_free(job->ctx, r.scratch);
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
