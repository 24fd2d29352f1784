/*
 * step_size.c - the step and the zero of a static grid for a layer's inputs: what they cost, and learning them.
 *
 *     x~ = (clamp(rint(x / s) + rint(z), 0, top) - rint(z)) s,   cost = mean of ((x~ - x) W^T)^2
 *
 * The gradient by s and z passes rounding straight through, but not clamping
 * (LSQ+, Bhalgat et al., 2020), scaled by 1 / sqrt(numbers * levels); Adam with
 * a cosine takes a step a batch (Wei et al., "Outlier Suppression", 2022). The
 * weight is not quantized here.
 */
#include "solve/solve.h"

#include <float.h>
#include <math.h>
#include "linalg/blas.h"

enum { TOKENS_PER_TASK = 64 };

/* Sums over one task's tokens. */
struct sums {
    double loss;                      /* of ((x~ - x) W^T)^2 */
    double scale, zero;               /* of the products of W^T W (x~ - x) with what s and z move */
};

struct pass {
    qnt_context *ctx;
    const struct qnti_step_inputs *in;
    struct qnti_step step;
    size_t first, tokens;             /* the batch */
    bool gradient;
    struct sums *sums;                /* [tasks] */
};

static float place(const struct pass *p, float x)
{
    return rintf(x / p->step.scale) + rintf(p->step.zero);
}

static float clamp(float x, float top)
{
    return fminf(fmaxf(x, 0), top);
}

/* Adds what the tokens' error e, times the gradient of x~, comes to. */
static void add_gradient(const struct pass *p, size_t n, const float *x, const float *e, struct sums *sums)
{
    float s = p->step.scale, zero = rintf(p->step.zero), top = p->in->top;
    for (size_t i = 0; i < n; i++) {
        float at = place(p, x[i]);
        bool inside = at >= 0 && at <= top;
        sums->scale += (double)e[i] * (double)(clamp(at, top) - zero - (inside ? x[i] / s : 0));
        sums->zero -= inside ? 0 : (double)e[i] * (double)s;
    }
}

static qnt_status pass_task(void *arg, size_t index)
{
    const struct pass *p = arg;
    const struct qnti_step_inputs *in = p->in;
    size_t first = index * TOKENS_PER_TASK, tokens = qnti_min(TOKENS_PER_TASK, p->tokens - first);
    const float *x = in->x + (p->first + first) * in->cols;
    struct qnti_gemm g = {.m = tokens, .n = in->rows, .k = in->cols, .lda = in->cols, .b = in->weight,
                          .ldb = in->cols, .transpose_b = true, .ldc = in->rows, .alpha = 1};
    float zero = rintf(p->step.zero), *d = NULL, *y = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(p->ctx, tokens * in->cols, &d));
    QNT_CHECK(QNTI_NEW_RAW(p->ctx, tokens * in->rows, &y));
    for (size_t i = 0; i < tokens * in->cols; i++)
        d[i] = (clamp(place(p, x[i]), in->top) - zero) * p->step.scale - x[i];
    g.a = d;
    g.c = y;
    qnti_gemm_one(&g);
    p->sums[index] = (struct sums){0};
    for (size_t i = 0; i < tokens * in->rows; i++)
        p->sums[index].loss += (double)y[i] * (double)y[i];
    if (p->gradient) {
        g = (struct qnti_gemm){.m = tokens, .n = in->cols, .k = in->rows, .a = y, .lda = in->rows, .b = in->weight,
                               .ldb = in->cols, .c = d, .ldc = in->cols, .alpha = 1};
        qnti_gemm_one(&g);
        add_gradient(p, tokens * in->cols, x, d, &p->sums[index]);
    }
cleanup:
    qnti_free(p->ctx, d);
    qnti_free(p->ctx, y);
    return status;
}

static qnt_status run_pass(struct pass *p, struct sums *total)
{
    size_t tasks = qnti_ceil_div(p->tokens, TOKENS_PER_TASK);
    qnt_status status;
    *total = (struct sums){0};
    QNT_TRY(QNTI_NEW_RAW(p->ctx, tasks, &p->sums));
    status = qnti_parallel(p->ctx, tasks, pass_task, p);
    for (size_t i = 0; status == QNT_OK && i < tasks; i++) {
        total->loss += p->sums[i].loss;
        total->scale += p->sums[i].scale;
        total->zero += p->sums[i].zero;
    }
    qnti_free(p->ctx, p->sums);
    return status;
}

static size_t batch_of(const struct qnti_step_inputs *in)
{
    return in->batch ? qnti_min(in->batch, in->tokens) : in->tokens;
}

qnt_status qnti_step_loss(qnt_context *ctx, const struct qnti_step_inputs *in, struct qnti_step step, double *loss)
{
    size_t batch = batch_of(in);
    *loss = 0;
    for (size_t first = 0; first < in->tokens; first += batch) {
        struct pass p = {.ctx = ctx, .in = in, .step = step, .first = first,
                         .tokens = qnti_min(batch, in->tokens - first)};
        struct sums sums;
        QNT_TRY(run_pass(&p, &sums));
        *loss += sums.loss / (double)(p.tokens * in->rows);
    }
    return QNT_OK;
}

/* --- learning --- */

struct moments {
    double mean, square;
};

/* Adam's step `t`, from 1 on; beta as its authors have it. */
static double adam(struct moments *m, double gradient, int t, double rate)
{
    m->mean = 0.9 * m->mean + 0.1 * gradient;
    m->square = 0.999 * m->square + 0.001 * gradient * gradient;
    return rate * (m->mean / (1 - pow(0.9, t))) / (sqrt(m->square / (1 - pow(0.999, t))) + 1e-8);
}

static struct qnti_step tamed(struct qnti_step step, float top)
{
    step.scale = fmaxf(fabsf(step.scale), FLT_EPSILON);
    step.zero = clamp(step.zero, top);
    return step;
}

qnt_status qnti_step_learn(qnt_context *ctx, const struct qnti_step_inputs *in, const struct qnti_step_rule *rule,
                           struct qnti_step *step)
{
    size_t batch = batch_of(in), batches = qnti_ceil_div(in->tokens, batch), steps = rule->epochs * batches;
    float most = rule->fixed_zero ? floorf(in->top / 2) : in->top; /* levels on the upper side */
    struct moments of_scale = {0}, of_zero = {0};
    struct qnti_step at = *step;
    for (size_t t = 0; t < steps; t++) {
        struct pass p = {.ctx = ctx, .in = in, .first = t % batches * batch, .gradient = true};
        double rate = rule->learning_rate * (1 + cos(acos(-1.0) * (double)t / (double)steps)) / 2, factor;
        struct sums sums;
        QNT_TRY(qnti_cancelled(ctx));
        at = p.step = tamed(at, in->top);
        p.tokens = qnti_min(batch, in->tokens - p.first);
        QNT_TRY(run_pass(&p, &sums));
        factor = 2.0 / (double)(p.tokens * in->rows) / sqrt((double)(p.tokens * in->cols) * (double)most);
        at.scale -= (float)adam(&of_scale, factor * sums.scale, (int)t + 1, rate);
        if (!rule->fixed_zero)
            at.zero -= (float)adam(&of_zero, factor * sums.zero, (int)t + 1, rate);
    }
    at = tamed(at, in->top);
    at.zero = rintf(at.zero);
    if (isfinite(at.scale) && isfinite(at.zero)) /* numbers too large for f32 leave it as it was */
        *step = at;
    return QNT_OK;
}
