/*
 * quantize.c - the layers of a site through the stages of a recipe.
 */
#include <math.h>
#include <string.h>
#include "base/clock.h"
#include "base/kernels.h"
#include "base/tensor.h"
#include "linalg/blas.h"
#include "method/given.h"
#include "method/recipe.h"
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

/* Rows of a weight to the coordinates of the site's transform. */
static qnt_status transform_rows(const struct qnti_job *job, float *rows, size_t n, size_t in)
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
        QNT_TRY(transform_rows(t->job, w, rows, in));
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
        return f->unit(site->job, site->layers, site->count, site->q);
    for (size_t i = 0; i < site->count; i++)
        QNT_TRY(run_layer(site, recipe, f, stage, i));
    return QNT_OK;
}

/* Without a producer the transform stays in every layer, and all goes on in its coordinates. */
static qnt_status keep_transform(const struct site *site, const struct qnti_transform *t)
{
    for (size_t i = 0; i < site->count; i++)
        QNT_TRY(qnti_transform_copy(site->job->ctx, t, site->q[i]->in, &site->q[i]->transform));
    return qnti_job_transform(site->job, t);
}

static qnt_status leave_out_transform(const struct site *site, const char *method)
{
    for (size_t i = 0; i < site->count; i++)
        QNT_TRY(qnti_qlinear_warn(site->q[i],
                                  "the transform of %s is left out: nothing absorbs it, and format %s holds none",
                                  method, site->job->layout->name));
    return QNT_OK;
}

/* Chooses the site's transform, folds or keeps it, and goes on in its coordinates. */
static qnt_status run_transform(const struct site *site, const struct qnti_recipe_step *step, struct qnti_transform *t)
{
    struct qnti_job *job = site->job;
    size_t width = site->layers[0].weight.cols;
    job->params = step->params;
    if (!job->producer && !qnti_layout_at_run_time(job->layout))
        return leave_out_transform(site, step->method->name);
    QNT_TRY(step->method->stages[QNTI_STAGE_TRANSFORM].transform(job, site->layers, site->count, t));
    if (qnti_transform_is_identity(t))
        return QNT_OK;
    if (!job->producer)
        return keep_transform(site, t);
    QNT_TRY(qnti_fold_check(job->ctx, job->producer, t, width));
    QNT_TRY(qnti_fold(job->ctx, job->producer, t, width));
    return qnti_job_transform(job, t);
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

static qnt_status run_stages(const struct site *site, const qnt_recipe *recipe, struct qnti_transform *t)
{
    if (site->kept)
        QNT_TRY(keep_transform(site, site->kept));
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
    QNT_CHECK(transform_rows(t->job, w, rows, in)); /* as the Hessian: of the transformed inputs */
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

/* A weights stage may have moved columns on its own, beyond the transform that the site has in common. */
static qnt_status find_places(struct error_task *t)
{
    const struct qnti_job *job = t->job;
    const uint32_t *all = t->q->transform.permutation;
    const uint32_t *site = job->transform && !job->producer ? job->transform->permutation : NULL;
    size_t in = t->q->in;
    uint32_t *place;
    if (!all || (site && memcmp(all, site, in * sizeof *all) == 0))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 2 * in, &place));
    for (size_t p = 0; p < in; p++)
        place[in + all[p]] = (uint32_t)p;
    for (size_t c = 0; c < in; c++)
        place[c] = place[in + (site ? site[c] : c)];
    t->place = place;
    return QNT_OK;
}

static qnt_status measure_errors(const struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    size_t tasks = qnti_ceil_div(q->out, ERROR_ROWS);
    struct error_task t = {job, layer, q, NULL, qnti_ceil_div(q->out, OUTPUT_ERROR_ROWS), NULL, NULL};
    double total[4] = {0};
    qnt_status status;
    QNT_CHECK(find_places(&t));
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

/* The report knows what the calibration knows, also where the recipe made nothing of it. */
static qnt_status hessian_of_report(struct qnti_job *job)
{
    qnt_status status = QNT_OK;
    if (job->calib && job->calib->hessian && job->calib->tokens)
        status = qnti_job_hessian(job);
    return status == QNT_NOT_FOUND ? QNT_OK : status; /* inputs that were all 0 */
}

static qnt_status fill_report(const struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    QNT_TRY(measure_errors(job, layer, q));
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

static qnt_status quantize_layers(const struct site *site, const qnt_recipe *recipe)
{
    struct qnti_transform transform = {0};
    qnt_status status = QNT_OK;
    for (size_t i = 0; i < site->count; i++) {
        const qnt_layer *layer = &site->layers[i];
        QNT_CHECK(check_layer(site->job->ctx, site->job, layer));
        QNT_CHECK(qnti_qlinear_create(site->job->ctx, layer->name, layer->weight.rows, layer->weight.cols, layer->bias,
                                      &site->q[i]));
        site->q[i]->source_type = layer->weight.dtype;
    }
    QNT_CHECK(run_stages(site, recipe, &transform));
    QNT_CHECK(hessian_of_report(site->job));
    for (size_t i = 0; i < site->count; i++)
        QNT_CHECK(fill_report(site->job, &site->layers[i], site->q[i]));
cleanup:
    qnti_transform_free(site->job->ctx, &transform);
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

/* `folded`: the recipe's transform is in the weights and the inputs already, but for what is `kept`. */
static qnt_status quantize_site(qnt_context *ctx, const qnt_recipe *recipe, const qnt_site *view, bool folded,
                                const struct qnti_transform *kept, qnt_qlinear **q)
{
    struct qnti_job job = {.ctx = ctx};
    struct site site = {&job, view->layers, q, view->count, folded, kept};
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
    return quantize_site(ctx, recipe, site, false, NULL, q);
}

qnt_status qnti_quantize_folded(qnt_context *ctx, const qnt_recipe *recipe, const qnt_site *site,
                                const struct qnti_transform *kept, qnt_qlinear **q)
{
    return quantize_site(ctx, recipe, site, true, kept, q);
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
