/*
 * half_quadratic.c - real zeros of affine groups by half-quadratic splitting (Mobius Labs, "HQQ", 2023; hqq/core).
 *
 * With S the inverse scale and q = clamp(round(W S + z)), the error E = W -
 * (q - z) / S is split: what a shrinkage of the p-norm, p < 1, lets pass of it,
 * We, is forgiven, and z is the mean of q - (W - We) S over the group. The
 * authors stop all groups together, by the mean of |E| over the matrix. All in
 * f32 as theirs, but for that mean.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"

enum { CHUNK_GROUPS = 64 };

/* As the authors have them: the least range that gets a scale of its own, the largest inverse scale. */
static const float LEAST_RANGE = 1e-4f, MOST_INVERSE = 2e4f;

/* Adding and taking it off rounds what is below 2^22 to a whole number, ties to even. */
static const float ROUND = 12582912.0f;

struct task {
    qnt_context *ctx;
    const struct qnti_half_quadratic *rule;
    struct qnti_numbers *q;
    const float *x;              /* groups one after another */
    size_t groups, row_groups;   /* of all; of a row, the last of which may be shorter */
    size_t size, cols;           /* numbers of a group, of a row */
    float top, beta, pass;       /* highest code; shrinkage and the magnitude above which it lets something pass */
    float *inverse, *zero, *next, *best_zero, *best_inverse;   /* [groups] */
    double *best;                /* [groups] sum |E|^p of the best zero, where groups keep theirs */
    double *error;               /* [chunks] sum |E| */
};

static const float *group_at(const struct task *t, size_t g, size_t *n)
{
    size_t row = g / t->row_groups, c = g % t->row_groups * t->size;
    *n = qnti_min(t->size, t->cols - c);
    return t->x + row * t->cols + c;
}

static float code_of(const struct task *t, float x, float inverse, float zero)
{
    float v = x * inverse + zero;
    v = v > 0 ? v : 0;
    v = v < t->top ? v : t->top;
    return (v + ROUND) - ROUND;
}

/* An inverse scale whose scale is a number of the stored type. */
static float settled(const struct task *t, float inverse)
{
    qnt_dtype type = t->q->grid.scale_type;
    float scale;
    if (type == QNT_F32)
        return inverse;
    scale = qnti_round_to(type, 1 / inverse);
    return 1 / (scale > 0 ? scale : 0x1p-24f);
}

static void find_range(const struct task *t, size_t g)
{
    float low, high, inverse = 1;
    size_t n;
    const float *x = group_at(t, g, &n);
    t->q->grid.kernels->range(n, x, &low, &high);
    if (high - low > LEAST_RANGE)
        inverse = t->top / (high - low);
    t->inverse[g] = settled(t, fminf(inverse, MOST_INVERSE));
    t->zero[g] = -low * t->inverse[g];
    if (t->rule->round_zero)
        t->zero[g] = rintf(t->zero[g]);
}

/* We of the error e. */
static float forgiven(const struct task *t, float e)
{
    float size = fabsf(e), p = (float)t->rule->norm;
    if (size <= t->pass) /* most of them */
        return 0;
    size -= p < 1 ? 1 / t->beta * powf(size, p - 1) : 1 / t->beta;
    return copysignf(fmaxf(size, 0), e);
}

/* sum |x - (code - zero) / inverse|^p */
static double group_error(const struct task *t, const float *x, size_t n, float inverse, float zero, double p)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)(x[i] - (code_of(t, x[i], inverse, zero) - zero) / inverse));
        sum += p == 2 ? e * e : p == 1 ? e : pow(e, p);
    }
    return sum;
}

/* Groups that keep their best: by their own p-norm. */
static void keep_best(const struct task *t, size_t g, const float *x, size_t n)
{
    double error = group_error(t, x, n, t->inverse[g], t->zero[g], t->rule->norm);
    if (!(error < t->best[g]))
        return;
    t->best[g] = error;
    t->best_zero[g] = t->zero[g];
    t->best_inverse[g] = t->inverse[g];
}

/* The least-squares scale for the codes as they are, taken where codes rounded anew have a lower squared error. */
static void move_scale(const struct task *t, size_t g, const float *x, size_t n)
{
    double product = 0, square = 0;
    float zero = t->next[g], inverse;
    for (size_t i = 0; i < n; i++) {
        double d = (double)(code_of(t, x[i], t->inverse[g], zero) - zero);
        product += (double)x[i] * d;
        square += d * d;
    }
    if (!(product > 0))
        return;
    inverse = settled(t, fminf((float)(square / product), MOST_INVERSE));
    if (inverse > 0 && group_error(t, x, n, inverse, zero, 2) < group_error(t, x, n, t->inverse[g], zero, 2))
        t->inverse[g] = inverse;
}

/* One group: the next zero; its part of the error. */
static double step_group(const struct task *t, size_t g)
{
    size_t n;
    const float *x = group_at(t, g, &n);
    float inverse = t->inverse[g], zero = t->zero[g], mean = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        float code = code_of(t, x[i], inverse, zero), e = x[i] - (code - zero) / inverse;
        sum += fabsf(e);
        mean += code - (x[i] - forgiven(t, e)) * inverse;
    }
    t->next[g] = mean / (float)n;
    if (t->rule->per_group)
        keep_best(t, g, x, n);
    return (double)sum;
}

static qnt_status step_chunk(void *arg, size_t index)
{
    struct task *t = arg;
    size_t end = qnti_min(t->groups, (index + 1) * CHUNK_GROUPS);
    t->error[index] = 0;
    for (size_t g = index * CHUNK_GROUPS; g < end; g++)
        t->error[index] += step_group(t, g);
    return QNT_OK;
}

static qnt_status scale_chunk(void *arg, size_t index)
{
    const struct task *t = arg;
    size_t end = qnti_min(t->groups, (index + 1) * CHUNK_GROUPS), n;
    for (size_t g = index * CHUNK_GROUPS; g < end; g++) {
        const float *x = group_at(t, g, &n);
        move_scale(t, g, x, n);
    }
    return QNT_OK;
}

/* |e| <= pass: nothing of it is let pass. */
static void set_beta(struct task *t, double beta)
{
    t->beta = (float)beta;
    t->pass = t->rule->norm < 1 ? 0.999f * (float)pow(beta, -1 / (2 - t->rule->norm)) : (float)(1 / beta);
}

static void exchange(float **a, float **b)
{
    float *kept = *a;
    *a = *b;
    *b = kept;
}

/* The two solvers differ in when they look: the first has taken the new zeros already, the second goes back. */
static qnt_status iterate(struct task *t)
{
    size_t chunks = qnti_ceil_div(t->groups, CHUNK_GROUPS);
    double best = INFINITY, beta = t->rule->beta;
    bool stops = t->rule->early_stop || !t->rule->v2;
    for (size_t i = 0; i < t->rule->iterations; i++) {
        double error = 0;
        set_beta(t, beta);
        QNT_TRY(qnti_parallel(t->ctx, chunks, step_chunk, t));
        for (size_t k = 0; k < chunks; k++)
            error += t->error[k];
        if (t->rule->v2 && stops && !t->rule->per_group && !(error < best)) {
            memcpy(t->zero, t->best_zero, t->groups * sizeof *t->zero);
            return QNT_OK;
        }
        if (t->rule->v2 && !t->rule->per_group)
            memcpy(t->best_zero, t->zero, t->groups * sizeof *t->zero);
        if (t->rule->scales)
            QNT_TRY(qnti_parallel(t->ctx, chunks, scale_chunk, t));
        exchange(&t->zero, &t->next);
        if (stops && !t->rule->per_group && !(error < best))
            return QNT_OK;
        best = error;
        beta *= t->rule->v2 ? t->rule->kappa : 1;
    }
    return QNT_OK;
}

/* The zeros that came last have not been compared yet. */
static qnt_status take_best(struct task *t)
{
    if (!t->rule->per_group)
        return QNT_OK;
    QNT_TRY(qnti_parallel(t->ctx, qnti_ceil_div(t->groups, CHUNK_GROUPS), step_chunk, t));
    exchange(&t->zero, &t->best_zero);
    exchange(&t->inverse, &t->best_inverse);
    return QNT_OK;
}

/* --- into the numbers and back --- */

static size_t strides(const struct task *t)
{
    return t->q->grid.map.kind == QNTI_MAP_STRIDED ? t->q->grid.map.cols : 0;
}

/* Scales and zeros as they are stored, and the codes that belong to them. */
static qnt_status finish_chunk(void *arg, size_t index)
{
    const struct task *t = arg;
    size_t end = qnti_min(t->groups, (index + 1) * CHUNK_GROUPS), n, stride = strides(t);
    qnt_dtype type = t->q->grid.scale_type;
    for (size_t g = index * CHUNK_GROUPS; g < end; g++) {
        const float *x = group_at(t, g, &n);
        float scale = qnti_round_to(type, 1 / t->inverse[g]), zero = qnti_round_to(type, t->zero[g]);
        uint8_t *code = t->q->code8 + (stride ? g : (size_t)(x - t->x));
        if (!isfinite(zero)) /* a group far from 0 and narrow: its number nearest to that zero */
            zero = copysignf(65504, zero);
        t->q->scale->value[g] = scale;
        t->q->offset->value[g] = zero;
        for (size_t i = 0; i < n; i++)
            code[i * qnti_max(stride, 1)] = (uint8_t)code_of(t, x[i], t->inverse[g], zero);
    }
    return QNT_OK;
}

static qnt_status task_create(struct task *t)
{
    float **vectors[] = {&t->inverse, &t->zero, &t->next, &t->best_zero, &t->best_inverse};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        QNT_TRY(QNTI_NEW(t->ctx, t->groups, vectors[i]));
    QNT_TRY(QNTI_NEW(t->ctx, t->groups, &t->best));
    QNT_TRY(QNTI_NEW(t->ctx, qnti_ceil_div(t->groups, CHUNK_GROUPS), &t->error));
    for (size_t g = 0; g < t->groups; g++) {
        t->best[g] = INFINITY;
        find_range(t, g);
    }
    return QNT_OK;
}

static void task_free(struct task *t)
{
    void *memory[] = {t->inverse, t->zero, t->next, t->best_zero, t->best_inverse, t->best, t->error};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(t->ctx, memory[i]);
}

/* Members of strided groups side by side: to[g * size + k] = w[k * stride + g]. */
static qnt_status gather(qnt_context *ctx, const float *w, size_t n, size_t stride, float **to)
{
    size_t size = n / stride;
    QNT_TRY(QNTI_NEW_RAW(ctx, n, to));
    for (size_t k = 0; k < size; k++)
        for (size_t g = 0; g < stride; g++)
            (*to)[g * size + k] = w[k * stride + g];
    return QNT_OK;
}

qnt_status qnti_half_quadratic(qnt_context *ctx, const struct qnti_half_quadratic *rule, const float *w,
                               struct qnti_numbers *q)
{
    struct task t = {.ctx = ctx, .rule = rule, .q = q, .x = w, .cols = q->cols, .top = (float)(q->grid.levels - 1)};
    size_t stride = strides(&t), n = q->rows * q->cols;
    float *gathered = NULL;
    qnt_status status;
    t.size = qnti_min(q->grid.map.cols ? q->grid.map.cols : q->cols, q->cols);
    if (stride) {
        QNT_TRY(gather(ctx, w, n, stride, &gathered));
        t.x = gathered;
        t.size = t.cols = n / stride;
    }
    t.groups = q->scale->rows * q->scale->cols;
    t.row_groups = stride ? 1 : q->scale->cols;
    QNT_CHECK(task_create(&t));
    if (rule->optimize) {
        QNT_CHECK(iterate(&t));
        QNT_CHECK(take_best(&t));
    }
    status = qnti_parallel(ctx, qnti_ceil_div(t.groups, CHUNK_GROUPS), finish_chunk, &t);
cleanup:
    qnti_free(ctx, gathered);
    task_free(&t);
    return status;
}
