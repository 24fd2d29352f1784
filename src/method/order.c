/*
 * order.c - orders in which solvers take columns, and the factor of the inverse Hessian in such an order.
 */
#include "method/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "linalg/blas.h"
#include "linalg/factor.h"

/* Stable descending sort of columns by a key: by index where keys are equal. */
struct keyed {
    float key;
    uint32_t index;
};

static int descending(const void *x, const void *y)
{
    const struct keyed *a = x, *b = y;
    if (a->key != b->key)
        return a->key < b->key ? 1 : -1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static qnt_status new_keyed(qnt_context *ctx, const float *keys, size_t stride, size_t n, struct keyed **columns)
{
    QNT_TRY(QNTI_NEW_RAW(ctx, n, columns));
    for (size_t j = 0; j < n; j++)
        (*columns)[j] = (struct keyed){keys[j * stride], (uint32_t)j};
    return QNT_OK;
}

qnt_status qnti_job_sort(struct qnti_job *job, const float *keys, size_t n, uint32_t *order)
{
    struct keyed *columns;
    QNT_TRY(new_keyed(job->ctx, keys, 1, n, &columns));
    if (n)
        qsort(columns, n, sizeof *columns, descending);
    for (size_t j = 0; j < n; j++)
        order[j] = columns[j].index;
    qnti_free(job->ctx, columns);
    return QNT_OK;
}

/* Groups by their largest diagonal entry, columns inside them by theirs; a shorter last group stays last, unsorted. */
static qnt_status group_aware_order(struct qnti_job *job, size_t n, size_t size, struct keyed *columns)
{
    size_t full = n / size;
    struct keyed *groups = NULL, *sorted = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW(job->ctx, full, &groups));
    QNT_CHECK(QNTI_NEW(job->ctx, n, &sorted));
    for (size_t g = 0; g < full; g++) {
        qsort(columns + g * size, size, sizeof *columns, descending);
        groups[g] = (struct keyed){columns[g * size].key, (uint32_t)g};
    }
    if (full)
        qsort(groups, full, sizeof *groups, descending);
    for (size_t g = 0; g < full; g++)
        memcpy(sorted + g * size, columns + groups[g].index * size, size * sizeof *sorted);
    memcpy(columns, sorted, full * size * sizeof *sorted);
cleanup:
    qnti_free(job->ctx, groups);
    qnti_free(job->ctx, sorted);
    return status;
}

/* --- columns whose ranks are alike --- */

struct rank_task {
    const struct qnti_job *job;
    const float *w;          /* (rows, cols) */
    size_t rows, cols;
    float *rank;             /* (cols, rows), of unit length about their mean */
};

static qnt_status rank_column(void *arg, size_t j)
{
    const struct rank_task *t = arg;
    struct keyed *sorted;
    float *rank = t->rank + j * t->rows, middle = 0.5f * (float)(t->rows - 1);
    double squares = 0;
    QNT_TRY(QNTI_NEW_RAW(t->job->ctx, t->rows, &sorted));
    for (size_t r = 0; r < t->rows; r++)
        sorted[r] = (struct keyed){-t->w[r * t->cols + j], (uint32_t)r};
    qsort(sorted, t->rows, sizeof *sorted, descending);
    for (size_t r = 0; r < t->rows; r++) {
        rank[sorted[r].index] = (float)r - middle;
        squares += (double)(((float)r - middle) * ((float)r - middle));
    }
    for (size_t r = 0; r < t->rows && squares > 0; r++)
        rank[r] = (float)((double)rank[r] / sqrt(squares));
    qnti_free(t->job->ctx, sorted);
    return QNT_OK;
}

/* Column 0, then always the one that is most like the last: first of equals. */
static void chain(const float *likeness, size_t n, uint32_t *order)
{
    for (size_t j = 0; j < n; j++)
        order[j] = (uint32_t)j;
    for (size_t i = 0; i + 2 < n; i++) {
        const float *like = likeness + order[i] * n;
        size_t best = i + 1;
        uint32_t moved = order[i + 1];
        for (size_t j = i + 2; j < n; j++)
            if (like[order[j]] > like[order[best]])
                best = j;
        order[i + 1] = order[best];
        order[best] = moved;
    }
}

static qnt_status spearman_order(struct qnti_job *job, size_t n, uint32_t *order)
{
    struct rank_task t = {.job = job, .w = job->weight, .rows = job->rows, .cols = n};
    struct qnti_gemm g = {.m = n, .n = n, .k = t.rows, .lda = t.rows, .ldb = t.rows, .transpose_b = true, .ldc = n,
                          .alpha = 1};
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n * t.rows, &t.rank));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, n * n, &g.c));
    QNT_CHECK(qnti_parallel(job->ctx, n, rank_column, &t));
    g.a = g.b = t.rank;
    QNT_CHECK(qnti_gemm_parallel(job->ctx, &g));
    chain(g.c, n, order);
cleanup:
    qnti_free(job->ctx, t.rank);
    qnti_free(job->ctx, g.c);
    return status;
}

/* --- orders --- */

static qnt_status order_by_diagonal(struct qnti_job *job, enum qnti_order kind, size_t group_size, size_t n)
{
    struct keyed *columns;
    qnt_status status = QNT_OK;
    QNT_TRY(new_keyed(job->ctx, job->hessian, n + 1, n, &columns));
    for (size_t j = 0; kind == QNTI_ORDER_LIVE && j < n; j++)
        columns[j].key = job->dead[j] ? 0 : columns[j].key;
    if (kind == QNTI_ORDER_GROUP_AWARE)
        QNT_CHECK(group_aware_order(job, n, group_size, columns));
    else
        qsort(columns, n, sizeof *columns, descending);
    for (size_t j = 0; j < n; j++)
        job->order[j] = columns[j].index;
cleanup:
    qnti_free(job->ctx, columns);
    return status;
}

static qnt_status make_order(struct qnti_job *job, enum qnti_order kind, size_t group_size)
{
    size_t n = job->calib->in;
    qnti_free(job->ctx, job->order);
    job->order = NULL;
    if (kind == QNTI_ORDER_NATURAL)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n, &job->order));
    return kind == QNTI_ORDER_SPEARMAN ? spearman_order(job, n, job->order)
                                       : order_by_diagonal(job, kind, group_size, n);
}

/* --- the factor --- */

struct permute_task {
    const float *from;
    const uint32_t *order;
    size_t n;
    float *to;
};

static qnt_status permute_row(void *arg, size_t i)
{
    const struct permute_task *t = arg;
    const float *row = t->from + t->order[i] * t->n;
    for (size_t j = 0; j < t->n; j++)
        t->to[i * t->n + j] = row[t->order[j]];
    return QNT_OK;
}

static qnt_status ordered_hessian(const struct qnti_job *job, size_t n, float **ordered)
{
    struct permute_task t = {job->hessian, job->order, n, NULL};
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, n * n, &t.to));
    status = qnti_parallel(job->ctx, n, permute_row, &t);
    if (status != QNT_OK)
        qnti_free(job->ctx, t.to);
    else
        *ordered = t.to;
    return status;
}

/* In the job's order. */
static qnt_status factor_hessian(struct qnti_job *job, struct qnti_damping damping)
{
    size_t n = job->calib->in;
    float *ordered = NULL;
    qnt_status status;
    if (!job->factor)
        QNT_TRY(QNTI_NEW_RAW(job->ctx, n * n, &job->factor));
    if (job->order)
        QNT_TRY(ordered_hessian(job, n, &ordered));
    job->damping = damping;
    status = qnti_inverse_factor(job->ctx, ordered ? ordered : job->hessian, n, &job->damping, job->factor);
    qnti_free(job->ctx, ordered);
    if (status != QNT_OK) {
        qnti_free(job->ctx, job->factor);
        job->factor = NULL;
    }
    job->factor_damping = damping;
    return status;
}

/* Whether other layers of the site need the same order. */
static bool is_shared(enum qnti_order order)
{
    return order != QNTI_ORDER_SPEARMAN && order != QNTI_ORDER_OWN;
}

qnt_status qnti_job_factor(struct qnti_job *job, enum qnti_order order, size_t group_size,
                           struct qnti_damping damping)
{
    QNT_TRY(qnti_job_hessian(job));
    if (job->factor && is_shared(order) && job->factor_order == (int)order && job->factor_group == group_size &&
        job->factor_damping.share == damping.share && job->factor_damping.shrinkage == damping.shrinkage)
        return QNT_OK;
    job->factor_order = (int)order;
    job->factor_group = group_size;
    QNT_TRY(make_order(job, order, group_size));
    return factor_hessian(job, damping);
}

qnt_status qnti_job_factor_in(struct qnti_job *job, const uint32_t *order, struct qnti_damping damping)
{
    size_t n;
    QNT_TRY(qnti_job_hessian(job));
    n = job->calib->in;
    job->factor_order = QNTI_ORDER_OWN;
    if (!job->order)
        QNT_TRY(QNTI_NEW_RAW(job->ctx, n, &job->order));
    memcpy(job->order, order, n * sizeof *order);
    return factor_hessian(job, damping);
}

qnt_status qnti_job_factor_live(struct qnti_job *job, enum qnti_order order, struct qnti_damping damping)
{
    struct qnti_damping live = damping;
    double mean;
    size_t n;
    QNT_TRY(qnti_job_hessian(job));
    n = job->calib->in;
    mean = qnti_mean_diagonal(job->hessian, n);
    live.share *= fmax(mean - (double)job->dead_count / (double)n, 0) / mean;
    QNT_TRY(qnti_job_factor(job, order, 0, live));
    if (job->damping.share == live.share)
        job->damping.share = damping.share;
    for (size_t j = 0; job->dead_count && j < n; j++)
        if (job->dead[job->order ? job->order[j] : j])
            job->factor[j * n + j] = INFINITY;
    return QNT_OK;
}

void qnti_part_columns(const uint32_t *sorted, size_t n, size_t k, uint32_t *columns, uint32_t *place, uint32_t *order)
{
    uint32_t others = 0, kept = (uint32_t)(n - k);
    for (size_t i = 0; i < n; i++)
        place[sorted[i]] = i < k;
    for (uint32_t c = 0; c < n; c++) {
        place[c] = place[c] ? kept++ : others++;
        columns[place[c]] = c;
    }
    for (size_t i = 0; i < n; i++)
        order[i] = i < n - k ? place[sorted[k + i]] : (uint32_t)i;
}
