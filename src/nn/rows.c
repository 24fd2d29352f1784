/*
 * rows.c - elementwise work spread over runs of rows.
 */
#include "nn/operators.h"

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
