/*
 * job.c - the adapters between methods and the rooms they pick from.
 */
#include "method/method.h"

#include <float.h>
#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "method/recipe.h"
#include "solve/solve.h"
#include "transform/fold.h"

void qnti_global_scale(const struct qnti_kernels *kernels, float most, struct qnti_grid *second, struct qnti_grid *grid)
{
    float divisor = qnti_e4m3.most * grid->book->number->most / fmaxf(most, FLT_MIN);
    *second = qnti_divided_grid(kernels, &qnti_fp8_e4m3, isfinite(divisor) ? fmaxf(divisor, FLT_MIN) : 1);
    grid->scale_grid = second;
}

qnt_status qnti_job_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    const struct qnti_affine_params *p = params;
    if (qnti_layout_grid(job->layout, job->kernels, grid)) {
        if (job->layout->global_scale)
            qnti_global_scale(job->kernels, job->most_weight, &job->second[0], grid);
        return QNT_OK;
    }
    if (p->sym && p->sym_grid == 1 && p->bits == 1)
        return qnti_fail(job->ctx, QNT_INVALID, "sym_grid=absmax has no level above 0 with bits=1; it needs 2 or more");
    *grid = qnti_affine_grid(job->kernels, (unsigned)p->bits, p->per_tensor ? 0 : (size_t)p->group_size,
                             job->layout ? job->layout->scale_type : QNT_F32);
    if (p->per_tensor)
        grid->map.rows = 0;
    grid->sym = p->sym;
    grid->absmax = p->sym_grid == 1;
    grid->include_zero = p->include_zero;
    grid->constant_offset = p->sym;
    grid->offset = p->sym ? (float)(1u << (p->bits - 1)) : 0;
    grid->integer_offset = !p->sym;
    grid->least_zero = job->layout && job->layout->limits ? job->layout->limits->least_zero : 0;
    grid->search = p->mse;
    grid->search_norm = (float)p->mse_norm;
    grid->search_grid = p->mse_grid;
    grid->search_steps = (unsigned)(p->mse_max_shrink * p->mse_grid);
    return QNT_OK;
}

qnt_status qnti_job_signed_grid(struct qnti_job *job, const void *params, bool absmax, struct qnti_grid *grid)
{
    struct qnti_affine_params affine = *(const struct qnti_affine_params *)params;
    affine.include_zero = true;
    affine.sym_grid = absmax;
    QNT_TRY(qnti_job_grid(job, &affine, grid));
    grid->signed_codes = affine.sym && grid->kind == &qnti_affine_kind;
    return QNT_OK;
}

qnt_status qnti_affine_check(qnt_context *ctx, const char *method, const struct qnti_affine_params *p)
{
    if (p->sym && p->sym_grid == 1 && p->bits < 2)
        return qnti_fail(ctx, QNT_INVALID, "%s: sym_grid=absmax has no level beside 0 at bits=%d", method, p->bits);
    return QNT_OK;
}

qnt_status qnti_job_weights_grid(struct qnti_job *job, struct qnti_grid *grid)
{
    const struct qnti_method *method = job->weights->method;
    if (!method->grid)
        return qnti_fail(job->ctx, QNT_UNSUPPORTED, "the grid of method %s is not known before its weights",
                         method->name);
    return method->grid(job, job->weights->params, grid);
}

const float *qnti_job_grid_importance(const struct qnti_job *job)
{
    return job->layout && job->layout->ggml ? job->importance : NULL;
}

qnt_status qnti_round_to_nearest(struct qnti_job *job, const struct qnti_grid *grid, qnt_qlinear *q)
{
    const float *importance = qnti_job_grid_importance(job);
    QNT_TRY(qnti_qlinear_one_segment(q));
    if (!q->segments[0].weight)
        QNT_TRY(qnti_segment_fill(q, &q->segments[0], grid));
    return qnti_nearest(job->ctx, job->weight, importance, importance ? job->row_power : NULL, q->segments[0].weight);
}

qnt_status qnti_nearest_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    struct qnti_grid grid;
    (void)layer;
    QNT_TRY(qnti_job_weights_grid(job, &grid));
    return qnti_round_to_nearest(job, &grid, q);
}

qnt_status qnti_fall_back(struct qnti_job *job, const struct qnti_grid *grid, qnt_qlinear *q, const char *why)
{
    QNT_TRY(qnti_qlinear_warn(q, "rounded to nearest: %s", why));
    return qnti_round_to_nearest(job, grid, q);
}

qnt_status qnti_job_transform(struct qnti_job *job, const struct qnti_transform *t)
{
    size_t n;
    float *moved;
    job->transform = t;
    qnti_job_forget_hessian(job);
    if (!job->importance)
        return QNT_OK;
    n = job->calib->in;
    if (t->rotation.block && !job->calib->hessian) { /* it is not known, and nothing that runs asks for it */
        qnti_free(job->ctx, job->importance);
        job->importance = NULL;
        return QNT_OK;
    }
    if (t->rotation.block) {
        QNT_TRY(qnti_job_hessian(job));
        for (size_t j = 0; j < n; j++)
            job->importance[j] = job->dead[j] ? 0 : job->hessian[j * n + j] / 2;
        return QNT_OK;
    }
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n, &moved));
    for (size_t j = 0; j < n; j++) {
        size_t c = t->permutation ? t->permutation[j] : j;
        double mean = job->calib->tokens ? job->calib->moments[c].sum / (double)job->calib->tokens : 0;
        double z = t->shift ? (double)t->shift[c] : 0, s = t->scale ? (double)t->scale[c] : 1;
        moved[j] = (float)(fmax((double)job->importance[c] - 2 * z * mean + z * z, 0) / (s * s));
    }
    qnti_free(job->ctx, job->importance);
    job->importance = moved;
    return QNT_OK;
}

qnt_status qnti_layer_places(const struct qnti_job *job, const qnt_qlinear *q, uint32_t **places)
{
    const uint32_t *all = q->transform.permutation;
    const uint32_t *site = job->kept ? job->kept->permutation : NULL;
    size_t in = q->in;
    uint32_t *place;
    *places = NULL;
    if (!all || (site && memcmp(all, site, in * sizeof *all) == 0))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 2 * in, &place));
    for (size_t p = 0; p < in; p++)
        place[in + all[p]] = (uint32_t)p;
    for (size_t c = 0; c < in; c++)
        place[c] = place[in + (site ? site[c] : c)];
    *places = place;
    return QNT_OK;
}

qnt_status qnti_job_check_fisher(struct qnti_job *job, const qnt_layer *layer)
{
    size_t cols = layer->weight.cols, n = layer->weight.rows * cols;
    for (size_t i = 0; i < n; i++)
        if (!(layer->fisher[i] >= 0) || isinf(layer->fisher[i]))
            return qnti_fail(job->ctx, QNT_INVALID,
                             "layer %s: the Fisher information of row %zu, column %zu is %g, expected 0 or more",
                             layer->name ? layer->name : "layer", i / cols, i % cols, (double)layer->fisher[i]);
    return QNT_OK;
}

void qnti_clear_dead(const struct qnti_job *job, const qnt_layer *layer)
{
    size_t in = layer->weight.cols;
    for (size_t r = 0; job->dead_count && r < layer->weight.rows; r++)
        for (size_t j = 0; j < in; j++)
            if (job->dead[j])
                job->weight[r * in + j] = 0;
}
