/*
 * pairs_search.c - one scale for a whole tensor on a grid of pairs: the least squared error of all scales tried.
 *
 * What the kind's own fit does row by row (grid/pairs.c), for millions of
 * activations: each task goes through some rows with every scale, so that they
 * are read once; sums over the tasks are added in their order.
 */
#include "solve/solve.h"

#include <math.h>
#include "base/kernels.h"

enum { NUMBERS_PER_TASK = 1 << 15 };

struct search {
    const struct qnti_grid *grid;
    const float *x;              /* [rows][cols] */
    size_t rows, cols, chunk;    /* rows of a task */
    size_t steps;
    const float *scale;          /* [steps] */
    double *sums;                /* [tasks][steps] */
};

static qnt_status search_rows(void *arg, size_t index)
{
    const struct search *s = arg;
    double *sums = s->sums + index * s->steps;
    for (size_t r = index * s->chunk; r < qnti_min((index + 1) * s->chunk, s->rows); r++)
        for (size_t i = 0; i < s->steps; i++)
            sums[i] += qnti_pairs_error(s->grid, s->cols, s->x + r * s->cols, s->scale[i], INFINITY);
    return QNT_OK;
}

/* The first of the least. */
static void choose(const struct search *s, size_t tasks, float *scale, double *error)
{
    *error = INFINITY;
    *scale = s->scale[0];
    for (size_t i = 0; i < s->steps; i++) {
        double sum = 0;
        for (size_t t = 0; t < tasks; t++)
            sum += s->sums[t * s->steps + i];
        if (sum < *error) {
            *error = sum;
            *scale = s->scale[i];
        }
    }
}

qnt_status qnti_pairs_search(qnt_context *ctx, const struct qnti_grid *grid, const float *x, size_t rows, size_t cols,
                             float *scale, double *error)
{
    struct search s = {.grid = grid, .x = x, .rows = rows, .cols = cols, .steps = qnti_pairs_steps(grid),
                       .chunk = qnti_max(1, NUMBERS_PER_TASK / cols)};
    size_t tasks = qnti_ceil_div(rows, s.chunk);
    float base = qnti_pairs_base(grid, x, rows, cols, cols), *scales = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(ctx, s.steps, &scales));
    QNT_CHECK(QNTI_NEW(ctx, tasks * s.steps, &s.sums));
    for (size_t i = 0; i < s.steps; i++)
        scales[i] = qnti_pairs_scale(grid, base, i);
    s.scale = scales;
    QNT_CHECK(qnti_parallel(ctx, tasks, search_rows, &s));
    choose(&s, tasks, scale, error);
cleanup:
    qnti_free(ctx, scales);
    qnti_free(ctx, s.sums);
    return status;
}

/* By more than a share that rounding on the coarsest of levels explains. */
size_t qnti_pairs_clipped(const float *w, const struct qnti_numbers *q)
{
    const float far = 1.25f;
    float most = far * q->table[q->grid.levels - 1];
    size_t clipped = 0;
    for (size_t r = 0; q->grid.pairs.outliers && r < q->rows; r++)
        for (size_t c = 0, run; c < q->cols; c += run) {
            float low, high, scale, offset;
            run = qnti_map_run(&q->grid.map, q->cols, r, c);
            q->grid.kernels->range(run, w + r * q->cols + c, &low, &high);
            qnti_numbers_affine(q, r, c, &scale, &offset);
            clipped += fmaxf(-low, high) > most * scale;
        }
    return clipped;
}
