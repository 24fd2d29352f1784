/*
 * hessian.c - the Hessian (2 / tokens) sum x x^T of a site's inputs: as measured, moved by algebra into the coordinates
 * of the site's transform, or of the inputs as they will be quantized, for which the tokens come once more.
 */
#include "method/method.h"

#include <string.h>

/* H of x - z: H - z m^T - m z^T + z z^T, all times 2, m the means. */
static void shift_hessian(const struct qnt_calib *calib, const float *shift, size_t n, float *h)
{
    double tokens = (double)calib->tokens;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double mi = calib->moments[i].sum / tokens, mj = calib->moments[j].sum / tokens;
            double zi = (double)shift[i], zj = (double)shift[j];
            h[i * n + j] = (float)((double)h[i * n + j] + 2 * (zi * zj - zi * mj - mi * zj));
        }
}

static void transpose(float *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            float t = m[i * n + j];
            m[i * n + j] = m[j * n + i];
            m[j * n + i] = t;
        }
}

/* M' = T M T^T for the linear part T of the transform: rows, then columns. */
static qnt_status transform_products(struct qnti_job *job, size_t n, float *m)
{
    struct qnti_transform linear;
    float *scratch;
    if (!job->transform)
        return QNT_OK;
    linear = *job->transform;
    linear.shift = NULL;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 2 * n, &scratch));
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) {
            qnti_transform_forward(&linear, n, m + i * n, scratch, scratch + n);
            memcpy(m + i * n, scratch, n * sizeof *scratch);
        }
        transpose(m, n);
    }
    qnti_free(job->ctx, scratch);
    return QNT_OK;
}

void qnti_job_forget_hessian(struct qnti_job *job)
{
    qnti_free(job->ctx, job->hessian);
    qnti_free(job->ctx, job->dead);
    qnti_free(job->ctx, job->factor);
    job->hessian = job->factor = NULL;
    job->dead = NULL;
    job->dead_count = 0;
}

static qnt_status read_sums(const struct qnti_job *job, struct qnti_gram *sums, float *m)
{
    double factor = 2.0 / (double)job->calib->tokens;
    return job->calib->once ? qnti_gram_take(sums, factor, m) : qnti_gram_read(sums, factor, m);
}

static qnt_status new_hessian(struct qnti_job *job)
{
    size_t n = job->calib->in;
    QNT_TRY(QNTI_NEW(job->ctx, n, &job->dead));
    return QNTI_NEW_RAW(job->ctx, n * n, &job->hessian);
}

/* Of the measured products, as the transform moves them. */
static qnt_status load_hessian(struct qnti_job *job)
{
    size_t n = job->calib->in;
    QNT_TRY(new_hessian(job));
    QNT_TRY(read_sums(job, job->calib->hessian, job->hessian));
    if (job->transform && job->transform->shift)
        shift_hessian(job->calib, job->transform->shift, n, job->hessian);
    return transform_products(job, n, job->hessian);
}

static void mark_dead(struct qnti_job *job)
{
    size_t n = job->calib->in;
    for (size_t j = 0; j < n; j++)
        if (job->hessian[j * n + j] == 0) {
            job->hessian[j * n + j] = 1;
            job->dead[j] = 1;
            job->dead_count++;
        }
}

/* Loads it, or what `load` makes, once for the layers of the site. */
static qnt_status hessian_by(struct qnti_job *job, qnt_status (*load)(struct qnti_job *job, const qnt_qlinear *q),
                             const qnt_qlinear *q)
{
    const struct qnt_calib *calib = job->calib;
    if (!calib || (!calib->hessian && !job->hessian && !load))
        return qnti_fail(job->ctx, QNT_INVALID, "the method needs calibration inputs");
    if (!calib->tokens)
        return qnti_fail(job->ctx, QNT_NOT_FOUND, "no calibration token reached the layer");
    if (!job->hessian) {
        QNT_TRY(load ? load(job, q) : load_hessian(job));
        mark_dead(job);
    }
    if (job->dead_count == calib->in)
        return qnti_fail(job->ctx, QNT_NOT_FOUND, "every input of the layer is 0 in all %zu tokens", calib->tokens);
    return QNT_OK;
}

qnt_status qnti_job_hessian(struct qnti_job *job)
{
    return hessian_by(job, NULL, NULL);
}

qnt_status qnti_job_cross(struct qnti_job *job, float **cross)
{
    size_t n = job->calib->in;
    if (!job->calib->cross)
        return qnti_fail(job->ctx, QNT_INVALID, "the method needs paired inputs (input_fp)");
    if (job->transform && job->transform->shift)
        return qnti_fail(job->ctx, QNT_UNSUPPORTED, "pairs of inputs behind a shift are not known");
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n * n, cross));
    QNT_TRY(read_sums(job, job->calib->cross, *cross));
    return transform_products(job, n, *cross);
}

/* --- of quantized inputs --- */

struct replay {
    struct qnti_job *job;
    const qnt_qlinear *q;
    struct qnti_gram *gram;
    size_t tokens;
    float *x;                    /* [QNTI_REPLAY_TOKENS][in] */
    uint8_t *kept;               /* [in] */
};

static qnt_status add_quantized(void *user, const float *x, size_t tokens)
{
    struct replay *r = user;
    memset(r->kept, 0, r->q->in);
    QNT_TRY(qnti_qlinear_quantize(r->q, x, tokens, r->x, r->kept));
    r->tokens += tokens;
    return qnti_gram_add(r->job->ctx, r->gram, r->x, r->x, tokens);
}

static qnt_status load_quantized(struct qnti_job *job, const qnt_qlinear *q)
{
    struct replay r = {.job = job, .q = q};
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, QNTI_REPLAY_TOKENS * q->in, &r.x));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, q->in, &r.kept));
    QNT_CHECK(qnti_gram_create(job->ctx, q->in, true, &r.gram));
    QNT_CHECK(qnti_job_replay(job, add_quantized, &r));
    QNT_CHECK(new_hessian(job));
    status = qnti_gram_take(r.gram, 2.0 / (double)qnti_max(r.tokens, 1), job->hessian);
cleanup:
    qnti_gram_free(job->ctx, r.gram);
    qnti_free(job->ctx, r.x);
    qnti_free(job->ctx, r.kept);
    return status;
}

qnt_status qnti_job_quantized_hessian(struct qnti_job *job, const qnt_qlinear *q)
{
    bool measured = !job->calib || job->calib->hessian;
    return qnti_qlinear_quantizes_inputs(q) || !measured ? hessian_by(job, load_quantized, q) : qnti_job_hessian(job);
}

unsigned qnti_quantized_hessian_needs(bool quantizes)
{
    return quantizes ? QNTI_NEED_REPLAY | QNTI_NEED_MOMENTS : QNTI_NEED_HESSIAN;
}
