/*
 * quantize.c - the layers of a site through the stages of a recipe.
 */
#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "base/kernels.h"
#include "base/tensor.h"
#include "method/given.h"
#include "method/recipe.h"
#include "method/report.h"
#include "transform/fold.h"

static void job_free_site(struct qnti_job *job)
{
    qnti_free(job->ctx, job->importance);
    qnti_free(job->ctx, job->hessian);
    qnti_free(job->ctx, job->dead);
    qnti_free(job->ctx, job->order);
    qnti_free(job->ctx, job->factor);
}

static void job_free_layer(struct qnti_job *job)
{
    qnti_free(job->ctx, job->weight);
    qnti_free(job->ctx, job->row_power);
    job->weight = job->row_power = NULL;
}

static qnt_status check_layer(qnt_context *ctx, const struct qnti_job *job, const qnt_layer *layer)
{
    const char *name = layer->name ? layer->name : "layer";
    if (layer->size && layer->size != sizeof *layer)
        return qnti_fail(ctx, QNT_INVALID, "qnt_layer of %zu bytes, this version's has %zu", layer->size,
                         sizeof *layer);
    if (layer->weight.rows == 0 || layer->weight.cols == 0)
        return qnti_fail(ctx, QNT_INVALID, "layer %s: a weight of %zu x %zu", name, layer->weight.rows,
                         layer->weight.cols);
    if (job->calib && job->calib->in != layer->weight.cols)
        return qnti_fail(ctx, QNT_INVALID, "layer %s: %zu inputs, but the calibration has %zu channels", name,
                         layer->weight.cols, job->calib->in);
    if (job->layout)
        QNT_TRY(qnti_layout_width(ctx, job->layout, name, layer->weight.cols));
    return qnti_matrix_check_finite(ctx, layer->weight, name);
}

struct load_task {
    const struct qnti_job *job;
    const qnt_layer *layer;
};

enum { LOAD_ROWS = 64 };

static qnt_status load_rows(void *arg, size_t index)
{
    const struct load_task *t = arg;
    const qnt_matrix *m = &t->layer->weight;
    size_t first = index * LOAD_ROWS, rows = qnti_min(LOAD_ROWS, m->rows - first), in = m->cols;
    float *w = t->job->weight + first * in, *power = t->job->row_power;
    const float *aimed = t->job->aimed[t->job->layer];
    if (aimed) {
        memcpy(w, aimed + first * in, rows * in * sizeof *w);
    } else {
        QNT_TRY(qnti_matrix_rows(t->job->ctx, *m, first, rows, w));
        QNT_TRY(qnti_transform_rows(t->job, w, rows, in));
    }
    for (size_t r = 0; power && r < rows; r++) { /* f32 in index order: the reference quantizers' sum */
        float sum = 0;
        for (size_t c = 0; c < in; c++)
            sum += w[r * in + c] * w[r * in + c];
        power[first + r] = sum / (float)in;
    }
    return QNT_OK;
}

static qnt_status load_layer(struct qnti_job *job, const qnt_layer *layer)
{
    size_t out = layer->weight.rows, in = layer->weight.cols;
    struct load_task t = {job, layer};
    job->rows = out;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, out * in, &job->weight));
    if (qnti_job_grid_importance(job))
        QNT_TRY(QNTI_NEW_RAW(job->ctx, out, &job->row_power));
    return qnti_parallel(job->ctx, qnti_ceil_div(out, LOAD_ROWS), load_rows, &t);
}

static qnt_status load_importance(struct qnti_job *job)
{
    float *importance;
    if (!job->calib || !(job->calib->importance || job->calib->tokens))
        return QNT_OK;
    QNT_TRY(QNTI_NEW(job->ctx, job->calib->in, &importance));
    qnti_calib_importance(job->calib, importance);
    job->importance = importance;
    return QNT_OK;
}

/* What a stage works on: the layers of the site, or one of them. */
struct site {
    struct qnti_job *job;
    const qnt_layer *layers;
    qnt_qlinear **q;
    size_t count;
    bool folded;                /* the transform is behind us, but for: */
    const struct qnti_transform *kept;
};

static bool gives_all(const struct site *site, enum qnti_stage stage)
{
    bool all = true;
    for (size_t i = 0; i < site->count; i++)
        all = all && qnti_layer_gives(&site->layers[i], stage);
    return all;
}

static qnt_status run_layer(const struct site *site, const qnt_recipe *recipe, const struct qnti_stage_functions *f,
                            enum qnti_stage stage, size_t i)
{
    struct qnti_job *job = site->job;
    const qnt_layer *layer = &site->layers[i];
    bool given = qnti_layer_gives(layer, stage);
    double begin = qnti_seconds();
    qnt_status status;
    if (!given && !f)
        return QNT_OK;
    job->layer = i;
    status = load_layer(job, layer);
    if (status == QNT_OK)
        status = given ? qnti_take_given(job, recipe, layer, stage, site->q[i]) : f->layer(job, layer, site->q[i]);
    job_free_layer(job);
    site->q[i]->report.seconds += qnti_seconds() - begin;
    return status;
}

/* All layers at once, those that bring what the stage would choose with it already. */
static qnt_status run_unit(const struct site *site, const qnt_recipe *recipe, const struct qnti_stage_functions *f,
                           enum qnti_stage stage)
{
    double begin, seconds;
    qnt_status status;
    for (size_t i = 0; i < site->count; i++)
        QNT_TRY(run_layer(site, recipe, NULL, stage, i));
    begin = qnti_seconds();
    status = f->unit(site->job, site->layers, site->count, site->q);
    seconds = qnti_seconds() - begin;
    for (size_t i = 0; i < site->count; i++)
        site->q[i]->report.seconds += seconds / (double)site->count;
    return status;
}

/*
 * A stage of one step: to the unit as a whole, or to layer after layer, each with its weights at hand. Layers that
 * bring what it would choose go without it; step NULL: there is nothing else.
 */
static qnt_status run_stage(const struct site *site, const qnt_recipe *recipe, const struct qnti_recipe_step *step,
                            enum qnti_stage stage)
{
    const struct qnti_stage_functions *f = step ? &step->method->stages[stage] : NULL;
    if (step)
        site->job->params = step->params;
    if (f && f->unit && !gives_all(site, stage))
        return run_unit(site, recipe, f, stage);
    for (size_t i = 0; i < site->count; i++)
        QNT_TRY(run_layer(site, recipe, f, stage, i));
    return QNT_OK;
}

/* What a shift takes from the outputs of the layers comes back in their biases: b + W z, W as it is. */
static qnt_status shift_biases(const struct site *site, const struct qnti_transform *t)
{
    qnt_context *ctx = site->job->ctx;
    size_t in = site->layers[0].weight.cols;
    float *row;
    qnt_status status = QNT_OK;
    if (!t->shift)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, in, &row));
    for (size_t i = 0; i < site->count; i++) {
        qnt_qlinear *q = site->q[i];
        if (!q->bias)
            QNT_CHECK(QNTI_NEW(ctx, q->out, &q->bias));
        for (size_t r = 0; r < q->out; r++) {
            QNT_CHECK(qnti_matrix_rows(ctx, site->layers[i].weight, r, 1, row));
            q->bias[r] += (float)qnti_transform_bias(t, in, row);
        }
    }
cleanup:
    qnti_free(ctx, row);
    return status;
}

/* The site's transform, chosen: in `whole` all of it, in `kept` what of it stays in every layer. */
struct chosen {
    struct qnti_transform whole, kept;
};

static qnt_status keep_transform(const struct site *site, const struct qnti_transform *t)
{
    for (size_t i = 0; i < site->count; i++)
        QNT_TRY(qnti_transform_copy(site->job->ctx, t, site->q[i]->in, &site->q[i]->transform));
    site->job->kept = t;
    return QNT_OK;
}

static qnt_status leave_out_transform(const struct site *site, const char *method)
{
    for (size_t i = 0; i < site->count; i++)
        QNT_TRY(qnti_qlinear_warn(site->q[i],
                                  "the transform of %s is left out: nothing absorbs it, and format %s holds none",
                                  method, site->job->layout->name));
    return QNT_OK;
}

/* Folds what the producer can absorb; what is left stays in the layers, or is left out. */
static qnt_status fold_transform(const struct site *site, const char *method, struct chosen *t)
{
    struct qnti_job *job = site->job;
    size_t width = site->layers[0].weight.cols;
    struct qnti_transform folded = {0};
    qnt_status status;
    QNT_CHECK(qnti_fold_part(job->ctx, job->producer, &t->whole, width, &folded, &t->kept));
    if (!qnti_transform_is_identity(&t->kept) && !qnti_layout_at_run_time(job->layout)) {
        QNT_CHECK(leave_out_transform(site, method));
        qnti_transform_free(job->ctx, &t->kept);
        qnti_transform_free(job->ctx, &t->whole);
        QNT_CHECK(qnti_transform_copy(job->ctx, &folded, width, &t->whole));
    }
    QNT_CHECK(qnti_fold(job->ctx, job->producer, &folded, width));
cleanup:
    qnti_transform_free(job->ctx, &folded);
    return status;
}

/* Chooses the site's transform, folds or keeps it, and goes on in its coordinates. */
static qnt_status run_transform(const struct site *site, const struct qnti_recipe_step *step, struct chosen *t)
{
    struct qnti_job *job = site->job;
    job->params = step->params;
    if (!job->producer && !qnti_layout_at_run_time(job->layout))
        return leave_out_transform(site, step->method->name);
    QNT_TRY(step->method->stages[QNTI_STAGE_TRANSFORM].transform(job, site->layers, site->count, &t->whole));
    if (qnti_transform_is_identity(&t->whole))
        return QNT_OK;
    if (job->producer)
        QNT_TRY(fold_transform(site, step->method->name, t));
    else
        QNT_TRY(qnti_transform_copy(job->ctx, &t->whole, site->layers[0].weight.cols, &t->kept));
    if (!qnti_transform_is_identity(&t->kept))
        QNT_TRY(keep_transform(site, &t->kept));
    QNT_TRY(shift_biases(site, &t->whole));
    return qnti_transform_is_identity(&t->whole) ? QNT_OK : qnti_job_transform(job, &t->whole);
}

/* The largest magnitude of the layers' weights, where a format scales all of them by it. */
static qnt_status find_most_weight(const struct site *site)
{
    struct qnti_job *job = site->job;
    job->most_weight = 0;
    if (!job->layout || !job->layout->global_scale)
        return QNT_OK;
    for (size_t i = 0; i < site->count; i++) {
        qnt_status status;
        job->layer = i;
        status = load_layer(job, &site->layers[i]);
        for (size_t r = 0; status == QNT_OK && r < job->rows; r++) {
            size_t in = site->layers[i].weight.cols;
            float lo, hi;
            job->kernels->range(in, job->weight + r * in, &lo, &hi);
            job->most_weight = fmaxf(job->most_weight, fmaxf(-lo, hi));
        }
        job_free_layer(job);
        QNT_TRY(status);
    }
    return QNT_OK;
}

/* The same while a search scales weights, which then may be larger: a few of FP8's 18 binades are left free. */
static qnt_status guess_most_weight(const struct site *site)
{
    enum { ROOM = 8 };
    QNT_TRY(find_most_weight(site));
    site->job->most_weight *= ROOM;
    return QNT_OK;
}

/* Inputs that the recipe leaves as they are are the format's affair; others must be such as it can hold. */
static qnt_status settle_inputs(const struct site *site, const qnt_recipe *recipe)
{
    for (size_t i = 0; i < site->count; i++) {
        if (recipe->provider[QNTI_STAGE_ACTIVATIONS] < 0 && !site->q[i]->act)
            QNT_TRY(qnti_job_prescribed_inputs(site->job, site->q[i]));
        else if (site->job->layout && site->job->layout->holds_inputs)
            QNT_TRY(qnti_layout_holds_inputs(site->job->layout, site->q[i]));
    }
    return find_most_weight(site);
}

static qnt_status run_stages(const struct site *site, const qnt_recipe *recipe, struct chosen *t)
{
    if (site->kept) {
        QNT_TRY(keep_transform(site, site->kept));
        QNT_TRY(qnti_job_transform(site->job, site->kept));
    }
    if (qnti_recipe_transforms(recipe) && !site->folded) {
        QNT_TRY(guess_most_weight(site));
        QNT_TRY(run_transform(site, &recipe->steps[recipe->provider[QNTI_STAGE_TRANSFORM]], t));
    }
    for (int stage = QNTI_STAGE_ACTIVATIONS; stage < QNTI_STAGE_CORRECT; stage++) {
        QNT_TRY(run_stage(site, recipe, recipe->provider[stage] < 0 ? NULL : &recipe->steps[recipe->provider[stage]],
                          (enum qnti_stage)stage));
        if (stage == QNTI_STAGE_ACTIVATIONS)
            QNT_TRY(settle_inputs(site, recipe));
    }
    for (size_t s = 0; s < recipe->count; s++)
        if (qnti_recipe_corrects(&recipe->steps[s]))
            QNT_TRY(run_stage(site, recipe, &recipe->steps[s], QNTI_STAGE_CORRECT));
    return QNT_OK;
}

static qnt_status quantize_layers(const struct site *site, const qnt_recipe *recipe)
{
    struct chosen transform = {0};
    qnt_status status = QNT_OK;
    for (size_t i = 0; i < site->count; i++) {
        const qnt_layer *layer = &site->layers[i];
        QNT_CHECK(check_layer(site->job->ctx, site->job, layer));
        QNT_CHECK(qnti_qlinear_create(site->job->ctx, layer->name, layer->weight.rows, layer->weight.cols, layer->bias,
                                      &site->q[i]));
        site->q[i]->source_type = layer->weight.dtype;
    }
    QNT_CHECK(run_stages(site, recipe, &transform));
    QNT_CHECK(qnti_report_hessian(site->job));
    for (size_t i = 0; i < site->count; i++)
        QNT_CHECK(qnti_report_fill(site->job, &site->layers[i], site->q[i]));
cleanup:
    qnti_transform_free(site->job->ctx, &transform.whole);
    qnti_transform_free(site->job->ctx, &transform.kept);
    return status;
}

/* `needs`: what must have been measured. */
static qnt_status job_open(qnt_context *ctx, const qnt_recipe *recipe, const qnt_layer *first, unsigned needs,
                           struct qnti_job *job, qnt_recipe **adapted)
{
    *job = (struct qnti_job){.ctx = ctx, .kernels = qnti_context_kernels(ctx), .calib = first->calib};
    if (first->format) {
        job->layout = qnti_layout_find(ctx, first->format);
        if (!job->layout)
            return QNT_NOT_FOUND;
    }
    if ((needs & ~(unsigned)QNTI_NEED_FISHER) && !job->calib)
        return qnti_fail(ctx, QNT_INVALID, "recipe %s needs calibration inputs", qnt_recipe_text(recipe));
    QNT_TRY(qnti_recipe_adapt(recipe, job->layout, job->calib && job->calib->cross, adapted));
    job->weights = qnti_recipe_weights(*adapted);
    return load_importance(job);
}

static qnt_status check_site(qnt_context *ctx, const qnt_site *site)
{
    const qnt_producer *p = site->producer;
    if (site->size && site->size != sizeof *site)
        return qnti_fail(ctx, QNT_INVALID, "qnt_site of %zu bytes, this version's has %zu", site->size, sizeof *site);
    if (p && p->size && p->size != sizeof *p)
        return qnti_fail(ctx, QNT_INVALID, "qnt_producer of %zu bytes, this version's has %zu", p->size, sizeof *p);
    return QNT_OK;
}

/* A site whose transform, but for what is `kept`, is `behind` us: in its weights and inputs, as `folded` says. */
struct behind {
    bool behind;
    const struct qnti_transform *folded, *kept;
};

static qnt_status quantize_site(qnt_context *ctx, const qnt_recipe *recipe, const qnt_site *view, struct behind t,
                                qnt_qlinear **q)
{
    struct qnti_job job = {.ctx = ctx};
    struct site site = {&job, view->layers, q, view->count, t.behind, t.kept};
    qnt_recipe *adapted = NULL;
    qnt_status status = QNT_OK;
    QNT_TRY(check_site(ctx, view));
    for (size_t i = 0; i < view->count; i++)
        q[i] = NULL;
    if (view->count == 0)
        return QNT_OK;
    QNT_CHECK(job_open(ctx, recipe, view->layers, qnti_recipe_needs(recipe), &job, &adapted));
    QNT_CHECK(QNTI_NEW(ctx, view->count, &job.aimed));
    job.producer = view->producer;
    job.folded = t.folded;
    QNT_CHECK(quantize_layers(&site, adapted));
cleanup:
    job_free_layer(&job);
    for (size_t i = 0; job.aimed && i < view->count; i++)
        qnti_free(ctx, job.aimed[i]);
    qnti_free(ctx, job.aimed);
    job_free_site(&job);
    qnt_recipe_destroy(adapted);
    for (size_t i = 0; status != QNT_OK && i < view->count; i++) {
        qnt_qlinear_destroy(q[i]);
        q[i] = NULL;
    }
    return status;
}

qnt_status qnt_quantize_site(qnt_context *ctx, const qnt_recipe *recipe, const qnt_site *site, qnt_qlinear **q)
{
    return quantize_site(ctx, recipe, site, (struct behind){0}, q);
}

qnt_status qnti_quantize_folded(qnt_context *ctx, const qnt_recipe *recipe, const qnt_site *site,
                                const struct qnti_transform *folded, const struct qnti_transform *kept,
                                qnt_qlinear **q)
{
    return quantize_site(ctx, recipe, site, (struct behind){true, folded, kept}, q);
}

qnt_status qnt_quantize(qnt_context *ctx, const qnt_recipe *recipe, const qnt_layer *layer, qnt_qlinear **q)
{
    return qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = layer, .count = 1}, q);
}

qnt_status qnti_choose_transform(qnt_context *ctx, const qnt_recipe *recipe, const struct qnti_transform_choice *choice,
                                 struct qnti_transform *t)
{
    struct qnti_job job = {.ctx = ctx};
    const struct qnti_recipe_step *step;
    qnt_recipe *adapted = NULL;
    qnt_status status;
    QNT_CHECK(job_open(ctx, recipe, choice->layers, qnti_recipe_transform_needs(recipe), &job, &adapted));
    QNT_CHECK(QNTI_NEW(ctx, choice->count, &job.aimed));
    QNT_CHECK(guess_most_weight(&(struct site){.job = &job, .layers = choice->layers, .count = choice->count}));
    job.producer = choice->producer;
    job.unit = choice->unit;
    job.samples = choice->samples;
    job.sample_count = choice->sample_count;
    job.sequence = choice->sequence;
    step = &adapted->steps[adapted->provider[QNTI_STAGE_TRANSFORM]];
    job.params = step->params;
    QNT_CHECK(step->method->stages[QNTI_STAGE_TRANSFORM].transform(&job, choice->layers, choice->count, t));
cleanup:
    qnti_free(ctx, job.aimed);
    job_free_site(&job);
    qnt_recipe_destroy(adapted);
    return status;
}
