/*
 * search.c - what it costs to transform a site's input, on the grid that the weights will get.
 *
 * With W' = W diag(s) rounded to Q, the weight that the input meets is Q / s.
 * Its cost is the sum of D H D^T over rows, D = Q / s - W and H the Hessian of
 * the unscaled inputs: the layers' output errors over all tokens, for the price
 * of one product with H. On wide layers evenly spaced rows stand for all. Where
 * the weights stage rounds with error feedback, what is left of the error of
 * column j is its share that the later columns cannot make up for: the sum of
 * D_j^2 / U_jj^2, U^T U = H^-1. Or the cost is the mean square change of what
 * the job's unit gives on sample inputs (AWQ's own objective), for the price of
 * a forward pass.
 *
 * Where inputs are quantized too (Outlier Suppression+) it is that of X~ Q^T on
 * sample inputs X' behind a shift, X~ = X' / s quantized: against X' W^T, or
 * behind the unit, whose biases then hold what the shift takes, W shift.
 */
#include "method/recipe.h"

#include <math.h>
#include <string.h>
#include "base/tensor.h"
#include "linalg/blas.h"
#include "solve/solve.h"
#include "unit/unit.h"

enum { SEARCH_ROWS = 512, CHUNK_ROWS = 64 };

/* One layer: the rows that are searched on. */
struct searched {
    size_t rows;
    float *weight;               /* [rows][in] */
    float *tried;                /* [rows][in] W s, then Q / s */
    float *power;                /* [rows] mean square of W s */
    struct qnti_numbers *q;
    float *wanted, *got;         /* [tokens][rows] outputs, of quantized inputs without a unit */
    float *bias;                 /* [rows] with what a shift takes, behind a unit; or NULL */
};

struct qnti_search {
    struct qnti_job *job;
    size_t count, in;
    struct searched *layers;
    struct qnti_grid grid;
    float *importance;           /* [in] of the scaled inputs, or NULL */
    bool behind_unit;
    float *left;                 /* [in] 1 / U_jj^2 */
    const float *samples;        /* [tokens][in] inputs of the unit, in sequences of `sequence` */
    size_t tokens, sequence;
    float *inputs;               /* [tokens][in] samples less a shift: inputs are quantized; or NULL */
    float *reference, *output;   /* [tokens][unit->out] */
    const float **exchanged;     /* [2 count] */
};

void qnti_search_free(struct qnti_search *s)
{
    qnt_context *ctx;
    if (!s)
        return;
    ctx = s->job->ctx;
    for (size_t i = 0; s->layers && i < s->count; i++) {
        struct searched *l = &s->layers[i];
        qnti_free(ctx, l->weight);
        qnti_free(ctx, l->tried);
        qnti_free(ctx, l->power);
        qnti_numbers_free(ctx, l->q);
        qnti_free(ctx, l->wanted);
        qnti_free(ctx, l->got);
        qnti_free(ctx, l->bias);
    }
    qnti_free(ctx, s->layers);
    qnti_free(ctx, s->importance);
    qnti_free(ctx, s->left);
    qnti_free(ctx, s->inputs);
    qnti_free(ctx, s->reference);
    qnti_free(ctx, s->output);
    qnti_free(ctx, (void *)s->exchanged);
    qnti_free(ctx, s);
}

static qnt_status load_rows(struct qnti_search *s, const qnt_layer *layer, struct searched *l)
{
    qnt_context *ctx = s->job->ctx;
    size_t out = layer->weight.rows, stride = s->behind_unit ? 1 : qnti_ceil_div(out, SEARCH_ROWS);
    l->rows = qnti_ceil_div(out, stride);
    QNT_TRY(QNTI_NEW_RAW(ctx, l->rows * s->in, &l->weight));
    QNT_TRY(QNTI_NEW_RAW(ctx, l->rows * s->in, &l->tried));
    QNT_TRY(QNTI_NEW_RAW(ctx, l->rows, &l->power));
    for (size_t r = 0; r < l->rows; r++)
        QNT_TRY(qnti_matrix_rows(ctx, layer->weight, r * stride, 1, l->weight + r * s->in));
    return qnti_numbers_create(ctx, &s->grid, l->rows, s->in, &l->q);
}

static qnt_status load_unit(struct qnti_search *s)
{
    const struct qnti_job *job = s->job;
    size_t n = s->tokens * job->unit->out;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n, &s->reference));
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n, &s->output));
    QNT_TRY(QNTI_NEW(job->ctx, 2 * job->unit->weight_count, &s->exchanged));
    return job->unit->forward(job->unit, s->samples, s->tokens, s->sequence, NULL, s->reference);
}

static qnt_status load_left(struct qnti_search *s, struct qnti_damping damping)
{
    struct qnti_job *job = s->job;
    QNT_TRY(qnti_job_factor(job, QNTI_ORDER_NATURAL, 0, damping));
    QNT_TRY(QNTI_NEW_RAW(job->ctx, s->in, &s->left));
    for (size_t j = 0; j < s->in; j++) {
        float u = job->factor[j * s->in + j];
        s->left[j] = job->dead[j] ? 0 : 1 / (u * u);
    }
    return QNT_OK;
}

/* What the losses of the linears need: nearest rounding the Hessian, error feedback the factor of its inverse. */
static qnt_status load_linear(struct qnti_search *s)
{
    const struct qnti_recipe_step *weights = s->job->weights;
    const struct qnti_method *m = weights->method;
    const struct qnti_damping *damping = m->feedback ? m->feedback(weights->params) : NULL;
    qnt_status status = damping ? load_left(s, *damping) : qnti_job_hessian(s->job);
    return status == QNT_SINGULAR ? qnti_job_hessian(s->job) : status; /* the weights stage will round to nearest too */
}

/* All but what the loss is taken on. The search is to be freed also where this fails. */
static qnt_status open_search(struct qnti_job *job, const qnt_layer *layers, size_t count, bool linear,
                              struct qnti_search **search)
{
    struct qnti_search *s;
    QNT_TRY(QNTI_NEW(job->ctx, 1, search));
    s = *search;
    s->job = job;
    s->count = count;
    s->in = layers[0].weight.cols;
    s->behind_unit = !linear && job->unit && job->sample_count && job->unit->weight_count == count;
    s->samples = job->samples;
    s->tokens = job->sample_count;
    s->sequence = job->sequence;
    QNT_TRY(qnti_job_weights_grid(job, &s->grid));
    QNT_TRY(QNTI_NEW(job->ctx, count, &s->layers));
    for (size_t i = 0; i < count; i++)
        QNT_TRY(load_rows(s, &layers[i], &s->layers[i]));
    return qnti_job_grid_importance(job) ? QNTI_NEW_RAW(job->ctx, s->in, &s->importance) : QNT_OK;
}

qnt_status qnti_search_create(struct qnti_job *job, const qnt_layer *layers, size_t count, bool linear,
                              struct qnti_search **out)
{
    struct qnti_search *s = NULL;
    qnt_status status;
    QNT_CHECK(open_search(job, layers, count, linear, &s));
    QNT_CHECK(s->behind_unit ? load_unit(s) : load_linear(s));
    *out = s;
    s = NULL;
cleanup:
    qnti_search_free(s);
    return status;
}

/* --- quantized inputs --- */

/* Evenly spaced beginnings of sequences of x [tokens][in], moved together: `run` tokens each, about `most` in all. */
static size_t thin_tokens(float *x, size_t tokens, size_t in, size_t sequence, size_t run, size_t most)
{
    size_t have = tokens / sequence, runs = qnti_min(qnti_max(most / run, 1), have);
    for (size_t r = 0; r < runs; r++)
        memmove(x + r * run * in, x + r * have / runs * sequence * in, run * in * sizeof *x);
    return runs * run;
}

static qnt_status load_inputs(struct qnti_search *s, size_t most)
{
    size_t sequence = s->behind_unit ? s->job->sequence : 1;
    QNT_TRY(qnti_job_samples(s->job, &s->inputs, &s->tokens));
    s->sequence = qnti_min(sequence, most);
    s->tokens = thin_tokens(s->inputs, s->tokens, s->in, sequence, s->sequence, most);
    s->samples = s->inputs;
    return QNT_OK;
}

static qnt_status load_bias(struct qnti_search *s, const struct qnti_transform *shift, const qnt_layer *layer,
                            struct searched *l)
{
    QNT_TRY(QNTI_NEW_RAW(s->job->ctx, l->rows, &l->bias));
    for (size_t r = 0; r < l->rows; r++) {
        l->bias[r] = layer->bias ? layer->bias[r] : 0;
        l->bias[r] += (float)qnti_transform_bias(shift, s->in, l->weight + r * s->in);
    }
    return QNT_OK;
}

/* y [tokens][rows] = x [tokens][in] w^T. */
static qnt_status outputs(const struct qnti_search *s, const struct searched *l, const float *x, const float *w,
                          float *y)
{
    return qnti_gemm_parallel(s->job->ctx, &(struct qnti_gemm){
        .m = s->tokens, .n = l->rows, .k = s->in, .a = x, .lda = s->in, .b = w, .ldb = s->in, .transpose_b = true,
        .c = y, .ldc = l->rows, .alpha = 1});
}

static qnt_status load_wanted(struct qnti_search *s, struct searched *l)
{
    QNT_TRY(QNTI_NEW_RAW(s->job->ctx, s->tokens * l->rows, &l->wanted));
    QNT_TRY(QNTI_NEW_RAW(s->job->ctx, s->tokens * l->rows, &l->got));
    return outputs(s, l, s->inputs, l->weight, l->wanted);
}

qnt_status qnti_search_create_quantized(struct qnti_job *job, const qnt_layer *layers, size_t count, size_t most,
                                        const float *shift, struct qnti_search **out)
{
    struct qnti_transform t = {.shift = (float *)(uintptr_t)shift};
    struct qnti_search *s = NULL;
    qnt_status status;
    QNT_CHECK(open_search(job, layers, count, shift && job->unit && job->unit->bias_count < count, &s));
    QNT_CHECK(load_inputs(s, most));
    if (s->behind_unit)
        QNT_CHECK(load_unit(s)); /* of inputs as they are */
    for (size_t i = 0; shift && i < s->tokens * s->in; i++)
        s->inputs[i] -= shift[i % s->in];
    for (size_t i = 0; i < count; i++) {
        if (!s->behind_unit)
            QNT_CHECK(load_wanted(s, &s->layers[i]));
        else if (shift)
            QNT_CHECK(load_bias(s, &t, &layers[i], &s->layers[i]));
    }
    *out = s;
    s = NULL;
cleanup:
    qnti_search_free(s);
    return status;
}

const float *qnti_search_inputs(const struct qnti_search *s, size_t *tokens)
{
    *tokens = s->tokens;
    return s->inputs;
}

bool qnti_search_behind_unit(const struct qnti_search *s)
{
    return s->behind_unit;
}

/* --- one try --- */

/* Rows of one layer, in fixed chunks. */
struct rows_task {
    const struct qnti_search *search;
    struct searched *layer;
    const float *scale;
    double *sums;                /* [chunks] */
};

static qnt_status scale_rows(void *arg, size_t index)
{
    const struct rows_task *t = arg;
    size_t in = t->search->in, first = index * CHUNK_ROWS, end = qnti_min(first + CHUNK_ROWS, t->layer->rows);
    for (size_t r = first; r < end; r++) {
        const float *w = t->layer->weight + r * in;
        float *y = t->layer->tried + r * in;
        float sum = 0;
        for (size_t c = 0; c < in; c++) {
            y[c] = w[c] * t->scale[c];
            sum += y[c] * y[c];
        }
        t->layer->power[r] = sum / (float)in;
    }
    return QNT_OK;
}

/* Q / s in place of W s; Q itself where the inputs are scaled. */
static qnt_status unscale_rows(void *arg, size_t index)
{
    const struct rows_task *t = arg;
    size_t in = t->search->in, first = index * CHUNK_ROWS, end = qnti_min(first + CHUNK_ROWS, t->layer->rows);
    for (size_t r = first; r < end; r++) {
        float *y = t->layer->tried + r * in;
        qnti_numbers_values(t->layer->q, r, 0, in, y);
        for (size_t c = 0; !t->search->inputs && c < in; c++)
            y[c] /= t->scale[c];
    }
    return QNT_OK;
}

/* D H D^T of a chunk. Dead columns have a 1 in H, but nothing comes through them. */
static qnt_status error_of_rows(void *arg, size_t index)
{
    const struct rows_task *t = arg;
    const struct qnti_job *job = t->search->job;
    size_t in = t->search->in, first = index * CHUNK_ROWS, rows = qnti_min(CHUNK_ROWS, t->layer->rows - first);
    float *d = t->layer->tried + first * in, *product;
    struct qnti_gemm g = {.m = rows, .n = in, .k = in, .a = d, .lda = in, .b = job->hessian, .ldb = in, .ldc = in,
                          .alpha = 1};
    double sum = 0;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, rows * in, &product));
    for (size_t i = 0; i < rows * in; i++)
        d[i] = job->dead[i % in] ? 0 : d[i] - t->layer->weight[first * in + i];
    g.c = product;
    qnti_gemm_one(&g);
    for (size_t i = 0; i < rows * in; i++)
        sum += (double)d[i] * (double)product[i];
    t->sums[index] = sum;
    qnti_free(job->ctx, product);
    return QNT_OK;
}

/* Sum of D_j^2 / U_jj^2 of a chunk. */
static qnt_status left_of_rows(void *arg, size_t index)
{
    const struct rows_task *t = arg;
    size_t in = t->search->in, first = index * CHUNK_ROWS, end = qnti_min(first + CHUNK_ROWS, t->layer->rows);
    double sum = 0;
    for (size_t r = first; r < end; r++) {
        float row = 0;
        for (size_t c = 0; c < in; c++) {
            float d = t->layer->tried[r * in + c] - t->layer->weight[r * in + c];
            row += d * d * t->search->left[c];
        }
        sum += (double)row;
    }
    t->sums[index] = sum;
    return QNT_OK;
}

/* Rounds one layer's scaled rows; with `loss` adds their errors to it. */
static qnt_status try_layer(struct qnti_search *s, struct searched *l, const float *scale, double *loss)
{
    qnt_context *ctx = s->job->ctx;
    size_t chunks = qnti_ceil_div(l->rows, CHUNK_ROWS);
    struct rows_task t = {s, l, scale, NULL};
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, chunks, &t.sums));
    QNT_CHECK(qnti_parallel(ctx, chunks, scale_rows, &t));
    QNT_CHECK(qnti_nearest(ctx, l->tried, s->importance, s->importance ? l->power : NULL, l->q));
    QNT_CHECK(qnti_parallel(ctx, chunks, unscale_rows, &t));
    if (loss)
        QNT_CHECK(qnti_parallel(ctx, chunks, s->left ? left_of_rows : error_of_rows, &t));
    for (size_t i = 0; loss && i < chunks; i++)
        *loss += t.sums[i];
cleanup:
    qnti_free(ctx, t.sums);
    return status;
}

static double square_distance(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return sum;
}

/* Of the unit's inputs x [tokens][in]. */
static qnt_status unit_loss(struct qnti_search *s, const float *x, double *loss)
{
    const struct qnti_unit *unit = s->job->unit;
    for (size_t i = 0; i < s->count; i++) {
        s->exchanged[i] = s->layers[i].tried;
        s->exchanged[unit->weight_count + i] = s->layers[i].bias;
    }
    QNT_TRY(unit->forward(unit, x, s->tokens, s->sequence, s->exchanged, s->output));
    *loss = square_distance(s->output, s->reference, s->tokens * unit->out);
    return QNT_OK;
}

/* Puts the rounded weights of a scale into all layers; with `loss` adds their errors to it. */
static qnt_status try_layers(struct qnti_search *s, const float *scale, double *loss)
{
    const float *importance = qnti_job_grid_importance(s->job);
    for (size_t c = 0; s->importance && c < s->in; c++)
        s->importance[c] = importance[c] / (scale[c] * scale[c]);
    for (size_t i = 0; i < s->count; i++)
        QNT_TRY(try_layer(s, &s->layers[i], scale, loss));
    return QNT_OK;
}

qnt_status qnti_search_loss(struct qnti_search *s, const float *scale, double *loss)
{
    *loss = 0;
    QNT_TRY(try_layers(s, scale, s->behind_unit ? NULL : loss));
    return s->behind_unit ? unit_loss(s, s->samples, loss) : QNT_OK;
}

qnt_status qnti_search_quantized_loss(struct qnti_search *s, const float *scale, const float *x, double *loss)
{
    QNT_TRY(try_layers(s, scale, NULL));
    if (s->behind_unit)
        return unit_loss(s, x, loss);
    *loss = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct searched *l = &s->layers[i];
        QNT_TRY(outputs(s, l, x, l->tried, l->got));
        *loss += square_distance(l->got, l->wanted, s->tokens * l->rows);
    }
    return QNT_OK;
}
