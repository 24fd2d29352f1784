/*
 * ggml_search.c - weighted searches for the scale of a run of numbers, QNTI_LANES runs at a time.
 *
 * Both reproduce the reference quantizers of ggml (make_qx_quants,
 * make_qkx2_quants and make_qkx3_quants) bit for bit: f32, one rounding for
 * each operation, sums from index 0 up. Codes are a function of the step that
 * was kept, so only that is remembered; they are computed once at the end.
 *
 * The loops over lanes are written so that the compiler turns them into vector
 * code: no branches, `&` in place of `&&`, selections by `?:`. Where gcc would
 * unroll the lanes and make vectors of a run's numbers, a pragma stops it.
 */
#include "grid/ggml_search.h"

#include <math.h>
#include <string.h>

void qnti_run_extremes(const struct qnti_runs *runs, float extreme[QNTI_LANES])
{
    float found[QNTI_LANES] = {0};
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++)
            found[l] = fabsf(runs->x[i][l]) > fabsf(found[l]) ? runs->x[i][l] : found[l];
    memcpy(extreme, found, sizeof found);
}

/* --- signed levels --- */

/* Of sum w (x - s l)^2 over a run: a = sum w x l, b = sum w l l. The best s is a / b and explains a^2 / b. */
struct moments {
    float a[QNTI_LANES], b[QNTI_LANES];
};

static void signed_moments(const struct qnti_runs *runs, float nmax, const float *inverse, struct moments *m)
{
    float a[QNTI_LANES] = {0}, b[QNTI_LANES] = {0};
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float x = runs->x[i][l], w = runs->w[i][l];
            float level = qnti_clamp(qnti_ggml_nearest(inverse[l] * x), -nmax, nmax - 1);
            a[l] += w * x * level;
            b[l] += w * level * level;
        }
    memcpy(m->a, a, sizeof a);
    memcpy(m->b, b, sizeof b);
}

static void signed_codes(const struct qnti_runs *runs, float nmax, const float *inverse, struct qnti_found *found)
{
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float level = qnti_clamp(qnti_ggml_nearest(inverse[l] * runs->x[i][l]), -nmax, nmax - 1);
            found->code[i][l] = (uint16_t)(int32_t)(level + nmax);
        }
}

void qnti_search_signed(const struct qnti_runs *runs, unsigned nmax, struct qnti_found *found)
{
    float top = (float)nmax, extreme[QNTI_LANES], inverse[QNTI_LANES], kept[QNTI_LANES], best[QNTI_LANES];
    struct moments m;
    qnti_run_extremes(runs, extreme);
    for (size_t l = 0; l < QNTI_LANES; l++)
        kept[l] = -top / extreme[l];
    signed_moments(runs, top, kept, &m);
    for (size_t l = 0; l < QNTI_LANES; l++) {
        found->scale[l] = m.b[l] != 0 ? m.a[l] / m.b[l] : 0;
        best[l] = found->scale[l] * m.a[l];
    }
    for (int step = -9; step <= 9; step++) {
        if (step == 0)
            continue;
        for (size_t l = 0; l < QNTI_LANES; l++)
            inverse[l] = -(top + 0.1f * (float)step) / extreme[l];
        signed_moments(runs, top, inverse, &m);
        for (size_t l = 0; l < QNTI_LANES; l++) {
            bool better = (m.b[l] > 0) & (m.a[l] * m.a[l] > best[l] * m.b[l]);
            float scale = m.a[l] / m.b[l];
            kept[l] = better ? inverse[l] : kept[l];
            found->scale[l] = better ? scale : found->scale[l];
            best[l] = better ? scale * m.a[l] : best[l];
        }
    }
    signed_codes(runs, top, kept, found);
    for (size_t l = 0; l < QNTI_LANES; l++) {
        if (fabsf(extreme[l]) >= QNTI_GGML_LEAST)
            continue;
        found->scale[l] = 0;
        for (size_t i = 0; i < runs->n; i++)
            found->code[i][l] = 0;
    }
}

/* --- levels over a min --- */

/* What does not change in a search. */
struct min_job {
    const struct qnti_runs *runs;
    float top;
    bool absolute;
    float max[QNTI_LANES];
    float weight[QNTI_LANES], first[QNTI_LANES]; /* sum w, sum w x */
};

/* A step tried: codes are nearest((x - from) * inverse), values scale * code + min. */
struct attempt {
    float from[QNTI_LANES], inverse[QNTI_LANES];
    float scale[QNTI_LANES], min[QNTI_LANES], error[QNTI_LANES];
    float level[QNTI_RUN_MAX][QNTI_LANES];
};

static void min_begin(struct min_job *job, float *min)
{
    const struct qnti_runs *runs = job->runs;
    for (size_t l = 0; l < QNTI_LANES; l++) {
        min[l] = job->max[l] = runs->x[0][l];
        job->weight[l] = job->first[l] = 0;
    }
    for (size_t i = 0; i < runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float x = runs->x[i][l], w = runs->w[i][l];
            min[l] = x < min[l] ? x : min[l];
            job->max[l] = x > job->max[l] ? x : job->max[l];
            job->weight[l] += w;
            job->first[l] += w * x;
        }
    for (size_t l = 0; l < QNTI_LANES; l++)
        min[l] = min[l] > 0 ? 0 : min[l];
}

static float min_level(const struct min_job *job, const struct attempt *t, size_t i, size_t l)
{
    return qnti_clamp(qnti_ggml_nearest(t->inverse[l] * (job->runs->x[i][l] - t->from[l])), 0, job->top);
}

static void min_levels(const struct min_job *job, struct attempt *t)
{
    for (size_t i = 0; i < job->runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++)
            t->level[i][l] = min_level(job, t, i, l);
}

static void min_error(const struct min_job *job, struct attempt *t)
{
    float error[QNTI_LANES] = {0};
    for (size_t i = 0; i < job->runs->n; i++)
#pragma GCC unroll 1
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float d = t->scale[l] * t->level[i][l] + t->min[l] - job->runs->x[i][l];
            d = job->absolute ? fabsf(d) : d * d;
            error[l] += job->runs->w[i][l] * d;
        }
    memcpy(t->error, error, sizeof error);
}

/* Levels, and the scale and min <= 0 that are best for them; an error of infinity where these are not determined. */
static void min_try(const struct min_job *job, struct attempt *t)
{
    float s1[QNTI_LANES] = {0}, s2[QNTI_LANES] = {0}, sx[QNTI_LANES] = {0}, determinant[QNTI_LANES];
    for (size_t i = 0; i < job->runs->n; i++)
#pragma GCC unroll 1
        for (size_t l = 0; l < QNTI_LANES; l++) {
            float level = min_level(job, t, i, l), product = job->runs->w[i][l] * level;
            t->level[i][l] = level;
            s1[l] += product;
            s2[l] += product * level;
            sx[l] += product * job->runs->x[i][l];
        }
    for (size_t l = 0; l < QNTI_LANES; l++) {
        determinant[l] = job->weight[l] * s2[l] - s1[l] * s1[l];
        t->scale[l] = (job->weight[l] * sx[l] - job->first[l] * s1[l]) / determinant[l];
        t->min[l] = (s2[l] * job->first[l] - s1[l] * sx[l]) / determinant[l];
        t->scale[l] = t->min[l] > 0 ? sx[l] / s2[l] : t->scale[l];
        t->min[l] = t->min[l] > 0 ? 0 : t->min[l];
    }
    min_error(job, t);
    for (size_t l = 0; l < QNTI_LANES; l++)
        t->error[l] = determinant[l] > 0 ? t->error[l] : INFINITY;
}

/* The next ranges start from the min that was kept. */
static void min_keep(const struct attempt *t, struct attempt *best)
{
    for (size_t l = 0; l < QNTI_LANES; l++) {
        bool better = t->error[l] < best->error[l];
        best->from[l] = better ? t->from[l] : best->from[l];
        best->inverse[l] = better ? t->inverse[l] : best->inverse[l];
        best->scale[l] = better ? t->scale[l] : best->scale[l];
        best->min[l] = better ? t->min[l] : best->min[l];
        best->error[l] = better ? t->error[l] : best->error[l];
    }
}

static void min_result(const struct min_job *job, const float *least, struct attempt *best, struct qnti_found *found)
{
    min_levels(job, best);
    for (size_t i = 0; i < job->runs->n; i++)
        for (size_t l = 0; l < QNTI_LANES; l++)
            found->code[i][l] = (uint16_t)(int32_t)best->level[i][l];
    for (size_t l = 0; l < QNTI_LANES; l++) {
        found->scale[l] = best->scale[l];
        found->min[l] = best->min[l];
        if (job->max[l] > least[l])
            continue;
        found->scale[l] = 0;
        found->min[l] = least[l];
        for (size_t i = 0; i < job->runs->n; i++)
            found->code[i][l] = 0;
    }
}

void qnti_search_min(const struct qnti_runs *runs, unsigned top, const struct qnti_min_search *how,
                     struct qnti_found *found)
{
    struct min_job job = {.runs = runs, .top = (float)top, .absolute = how->absolute};
    struct attempt best, t;
    float least[QNTI_LANES];
    min_begin(&job, least);
    for (size_t l = 0; l < QNTI_LANES; l++) {
        best.from[l] = best.min[l] = least[l];
        best.inverse[l] = job.top / (job.max[l] - least[l]);
        best.scale[l] = 1 / best.inverse[l];
    }
    min_levels(&job, &best);
    min_error(&job, &best);
    for (unsigned step = 0; step <= how->steps; step++) {
        for (size_t l = 0; l < QNTI_LANES; l++) {
            t.from[l] = best.min[l];
            t.inverse[l] = (how->least + how->step * (float)step + job.top) / (job.max[l] - best.min[l]);
        }
        min_try(&job, &t);
        min_keep(&t, &best);
    }
    min_result(&job, least, &best, found);
}
