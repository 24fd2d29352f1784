/*
 * rows.c - elementwise work spread over runs of rows; soft caps; columns of fused linears apart and together.
 */
#include "nn/operators.h"

#include <math.h>
#include <string.h>

/* Elements of a run: enough to outweigh the handing out, few enough to stay in a core's cache. */
enum { RUN_ELEMENTS = 32768 };

struct rows {
    size_t rows, run;
    qnti_rows_fn fn;
    void *arg;
};

static qnt_status one_run(void *arg, size_t index)
{
    const struct rows *r = arg;
    size_t first = index * r->run;
    r->fn(r->arg, first, qnti_min(r->run, r->rows - first));
    return QNT_OK;
}

qnt_status qnti_for_rows(qnt_context *ctx, size_t rows, size_t width, qnti_rows_fn fn, void *arg)
{
    struct rows r = {.rows = rows, .run = qnti_max(1, RUN_ELEMENTS / qnti_max(1, width)), .fn = fn, .arg = arg};
    return qnti_parallel(ctx, qnti_ceil_div(rows, r.run), one_run, &r);
}

void qnti_soft_cap(float cap, float *x, size_t n)
{
    for (size_t i = 0; cap > 0 && i < n; i++)
        x[i] = cap * tanhf(x[i] / cap);
}

void qnti_soft_cap_backward(float cap, const float *y, float *dy, size_t n)
{
    for (size_t i = 0; cap > 0 && i < n; i++)
        dy[i] *= 1 - y[i] / cap * (y[i] / cap);
}

void qnti_split(const struct qnti_parts *parts, const float *x, size_t rows)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t p = 0; p < parts->count; x += parts->width[p++])
            memcpy(parts->x[p] + r * parts->width[p], x, parts->width[p] * sizeof *x);
}

void qnti_join(const struct qnti_parts *parts, size_t rows, float *x)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t p = 0; p < parts->count; x += parts->width[p++])
            memcpy(x, parts->x[p] + r * parts->width[p], parts->width[p] * sizeof *x);
}
