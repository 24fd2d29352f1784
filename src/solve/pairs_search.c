/*
 * pairs_search.c - one scale for a whole tensor on a grid of pairs: the least squared error of all scales tried.
 *
 * What the kind's own fit does row by row (grid/pairs.c), for millions of
 * activations: each task goes through some rows with every scale; their sums
 * are added in the order of the tasks.
 */
#include "solve/solve.h"

#include <math.h>
#include "base/kernels.h"

enum { NUMBERS_PER_TASK = 1 << 16 };

struct search {
    qnt_context *ctx;
    const struct qnti_grid *grid;
    const float *x;              /* [rows][cols] */
    size_t rows, cols, chunk;    /* rows of a task */
    size_t steps;
    float base;
    double *errors;              /* [tasks][steps] */
};

static qnt_status search_rows(void *arg, size_t index)
{
    const struct search *s = arg;
    void *scratch;
    QNT_TRY(qnti_grid_scratch(s->ctx, s->grid, s->cols, &scratch));
    for (size_t r = index * s->chunk; r < qnti_min((index + 1) * s->chunk, s->rows); r++)
        qnti_pairs_errors(s->grid, s->base, s->cols, s->x + r * s->cols, scratch, s->errors + index * s->steps);
    qnti_free(s->ctx, scratch);
    return QNT_OK;
}

qnt_status qnti_pairs_search(qnt_context *ctx, const struct qnti_grid *grid, const float *x, size_t rows, size_t cols,
                             float *scale, double *error)
{
    struct search s = {.ctx = ctx, .grid = grid, .x = x, .rows = rows, .cols = cols, .steps = qnti_pairs_steps(grid),
                       .chunk = qnti_max(1, NUMBERS_PER_TASK / cols),
                       .base = qnti_pairs_base(grid, x, rows, cols, cols)};
    size_t tasks = qnti_ceil_div(rows, s.chunk), best;
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, tasks * s.steps, &s.errors));
    QNT_CHECK(qnti_parallel(ctx, tasks, search_rows, &s));
    for (size_t t = 1; t < tasks; t++)
        for (size_t i = 0; i < s.steps; i++)
            s.errors[i] += s.errors[t * s.steps + i];
    best = qnti_pairs_best(s.errors, s.steps);
    *scale = qnti_pairs_scale(grid, s.base, best);
    *error = s.errors[best];
cleanup:
    qnti_free(ctx, s.errors);
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
