/*
 * clusters.c - k-means of points in a few dimensions: the partition with the least square distances to its means.
 *
 * Seeds by squared distances (k-means++, Arthur and Vassilvitskii 2007), Lloyd's
 * iterations, then single points move where that lowers the sum (Hartigan), the
 * means with them; the best of several such runs. All in f64. No cluster is
 * empty: there are fewer where there are fewer distinct points.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/random.h"

enum { MOST_ROUNDS = 300 };

/* One run. */
struct clusters {
    const struct qnti_clusters *job;
    size_t count;
    double *mean;               /* [most][dims] */
    double *sum;                /* [most][dims] of the members */
    size_t *size;               /* [most] */
    double *distance;           /* [n] to the nearest mean */
    uint32_t *label;            /* [n] */
};

static double square_distance(const struct clusters *c, size_t point, const double *mean)
{
    size_t dims = c->job->dims;
    double sum = 0;
    for (size_t d = 0; d < dims; d++) {
        double apart = (double)c->job->x[point * dims + d] - mean[d];
        sum += apart * apart;
    }
    return sum;
}

/* --- seeds --- */

/* Every point that is nearer to the last seed than to those before goes to it. */
static double take_seed(struct clusters *c, size_t point)
{
    size_t k = c->count++, dims = c->job->dims;
    double total = 0;
    for (size_t d = 0; d < dims; d++)
        c->mean[k * dims + d] = (double)c->job->x[point * dims + d];
    for (size_t i = 0; i < c->job->n; i++) {
        double distance = square_distance(c, i, c->mean + k * dims);
        if (k == 0 || distance < c->distance[i]) {
            c->distance[i] = distance;
            c->label[i] = (uint32_t)k;
        }
        total += c->distance[i];
    }
    return total;
}

/* Points are drawn by their square distances: none that is a seed already. */
static void seed(struct clusters *c, struct qnti_random *random)
{
    size_t n = c->job->n;
    double total = take_seed(c, (size_t)(qnti_random_next(random) % n));
    while (c->count < c->job->most && total > 0) {
        double left = total * ((double)(qnti_random_next(random) >> 11) * 0x1p-53);
        size_t chosen = n;
        for (size_t i = 0; i < n && left >= 0; i++)
            if (c->distance[i] > 0) {
                chosen = i;
                left -= c->distance[i];
            }
        total = take_seed(c, chosen);
    }
}

/* --- means --- */

static void add_point(struct clusters *c, size_t point, uint32_t k, double sign)
{
    size_t dims = c->job->dims;
    c->size[k] = sign > 0 ? c->size[k] + 1 : c->size[k] - 1;
    for (size_t d = 0; d < dims; d++)
        c->sum[k * dims + d] += sign * (double)c->job->x[point * dims + d];
    for (size_t d = 0; d < dims && c->size[k]; d++)
        c->mean[k * dims + d] = c->sum[k * dims + d] / (double)c->size[k];
}

static void sum_members(struct clusters *c)
{
    memset(c->sum, 0, c->count * c->job->dims * sizeof *c->sum);
    memset(c->size, 0, c->count * sizeof *c->size);
    for (size_t i = 0; i < c->job->n; i++)
        add_point(c, i, c->label[i], 1);
}

/* An empty cluster gets the point that is farthest from its mean, with its equals. */
static void fill_empty(struct clusters *c)
{
    for (uint32_t k = 0; k < c->count; k++) {
        size_t farthest = 0;
        if (c->size[k])
            continue;
        for (size_t i = 0; i < c->job->n; i++)
            c->distance[i] = square_distance(c, i, c->mean + c->label[i] * c->job->dims);
        for (size_t i = 1; i < c->job->n; i++)
            farthest = c->distance[i] > c->distance[farthest] ? i : farthest;
        for (size_t i = 0; i < c->job->n; i++)
            if (memcmp(c->job->x + i * c->job->dims, c->job->x + farthest * c->job->dims,
                       c->job->dims * sizeof *c->job->x) == 0)
                c->label[i] = k;
        sum_members(c);
    }
}

static uint32_t nearest(const struct clusters *c, size_t point, double *distance)
{
    uint32_t best = c->label[point];
    *distance = square_distance(c, point, c->mean + best * c->job->dims);
    for (uint32_t k = 0; k < c->count; k++) {
        double d = square_distance(c, point, c->mean + k * c->job->dims);
        if (d < *distance) {
            *distance = d;
            best = k;
        }
    }
    return best;
}

/* Lloyd's iterations, until nothing moves. */
static void iterate(struct clusters *c)
{
    bool moved = true;
    sum_members(c);
    for (size_t round = 0; moved && round < MOST_ROUNDS; round++) {
        moved = false;
        for (size_t i = 0; i < c->job->n; i++) {
            double distance;
            uint32_t to = nearest(c, i, &distance);
            moved = moved || to != c->label[i];
            c->label[i] = to;
        }
        sum_members(c);
        fill_empty(c);
    }
}

/* What the sum of squares would lose if the point left its cluster for k: above 0 it should. */
static double gain(const struct clusters *c, size_t point, uint32_t k)
{
    uint32_t from = c->label[point];
    double a = (double)c->size[from], b = (double)c->size[k];
    return a / (a - 1) * square_distance(c, point, c->mean + from * c->job->dims) -
           b / (b + 1) * square_distance(c, point, c->mean + k * c->job->dims);
}

static bool exchange_point(struct clusters *c, size_t point)
{
    uint32_t from = c->label[point], best = from;
    double most = 1e-12 * square_distance(c, point, c->mean + from * c->job->dims); /* more than rounding */
    if (c->size[from] < 2)
        return false;
    for (uint32_t k = 0; k < c->count; k++) {
        double g = k == from ? 0 : gain(c, point, k);
        if (g > most) {
            most = g;
            best = k;
        }
    }
    if (best == from)
        return false;
    add_point(c, point, from, -1);
    add_point(c, point, best, 1);
    c->label[point] = best;
    return true;
}

static void exchange(struct clusters *c)
{
    bool moved = true;
    for (size_t round = 0; moved && round < MOST_ROUNDS; round++) {
        moved = false;
        for (size_t i = 0; i < c->job->n; i++)
            moved = exchange_point(c, i) || moved;
    }
}

/* --- runs --- */

struct task {
    qnt_context *ctx;
    const struct qnti_clusters *job;
    const uint64_t *seeds;      /* [restarts] */
    uint32_t *label;            /* [restarts][n] */
    double *cost;               /* [restarts] */
    size_t *count;              /* [restarts] */
};

static qnt_status run_once(void *arg, size_t index)
{
    const struct task *t = arg;
    const struct qnti_clusters *job = t->job;
    struct clusters c = {.job = job, .label = t->label + index * job->n};
    struct qnti_random random;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(t->ctx, 2 * job->most * job->dims, &c.mean));
    QNT_CHECK(QNTI_NEW_RAW(t->ctx, job->most, &c.size));
    QNT_CHECK(QNTI_NEW_RAW(t->ctx, job->n, &c.distance));
    c.sum = c.mean + job->most * job->dims;
    qnti_random_seed(&random, t->seeds[index]);
    seed(&c, &random);
    iterate(&c);
    exchange(&c);
    sum_members(&c);
    t->cost[index] = 0;
    for (size_t i = 0; i < job->n; i++)
        t->cost[index] += square_distance(&c, i, c.mean + c.label[i] * job->dims);
    t->count[index] = c.count;
cleanup:
    qnti_free(t->ctx, c.mean);
    qnti_free(t->ctx, c.size);
    qnti_free(t->ctx, c.distance);
    return status;
}

qnt_status qnti_cluster(qnt_context *ctx, const struct qnti_clusters *job, uint32_t *label, size_t *count)
{
    struct task t = {.ctx = ctx, .job = job};
    struct qnti_random random;
    uint64_t *seeds = NULL;
    size_t best = 0;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(ctx, job->restarts, &seeds));
    QNT_CHECK(QNTI_NEW_RAW(ctx, job->restarts * job->n, &t.label));
    QNT_CHECK(QNTI_NEW_RAW(ctx, job->restarts, &t.cost));
    QNT_CHECK(QNTI_NEW_RAW(ctx, job->restarts, &t.count));
    t.seeds = seeds;
    qnti_random_seed(&random, job->seed);
    for (size_t i = 0; i < job->restarts; i++)
        seeds[i] = qnti_random_next(&random);
    QNT_CHECK(qnti_parallel(ctx, job->restarts, run_once, &t));
    for (size_t i = 1; i < job->restarts; i++)
        best = t.cost[i] < t.cost[best] ? i : best;
    memcpy(label, t.label + best * job->n, job->n * sizeof *label);
    *count = t.count[best];
cleanup:
    qnti_free(ctx, seeds);
    qnti_free(ctx, t.label);
    qnti_free(ctx, t.cost);
    qnti_free(ctx, t.count);
    return status;
}
