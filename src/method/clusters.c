/*
 * clusters.c - which channels are like each other by their ranges, where they go, and what range each cluster has.
 *
 * Clusters of the points (max, min) stand by their mean of max - min, channels
 * inside them ascend: an order that does not depend on how they were found.
 */
#include "method/clusters.h"

#include <math.h>
#include <stdlib.h>
#include "solve/solve.h"

enum { RESTARTS = 50 };
static const float MOMENTUM = 0.99f;

/* --- clusters side by side --- */

/* Channels of one head: their ranges, and what is found. */
struct head {
    size_t width, count;
    float *point;                /* [width][2] max, min */
    uint32_t *label;             /* [width] */
    struct spread {
        double sum;
        uint32_t members, first, label;
    } *spread;                   /* [count] */
};

static int by_spread(const void *x, const void *y)
{
    const struct spread *a = x, *b = y;
    double p = a->sum / a->members, q = b->sum / b->members;
    return p != q ? (p < q ? -1 : 1) : a->first < b->first ? -1 : 1;
}

/* Clusters by their mean spread, channels inside them ascending: order [width] place -> channel, run its cluster. */
static void arrange(struct head *h, uint32_t *order, uint32_t *run)
{
    size_t n = 0;
    for (uint32_t k = 0; k < h->count; k++)
        h->spread[k] = (struct spread){.label = k};
    for (size_t c = h->width; c-- > 0;) {
        struct spread *s = &h->spread[h->label[c]];
        s->sum += (double)h->point[2 * c] - (double)h->point[2 * c + 1];
        s->first = (uint32_t)c;
        s->members++;
    }
    qsort(h->spread, h->count, sizeof *h->spread, by_spread);
    for (uint32_t k = 0; k < h->count; k++)
        for (size_t c = 0; c < h->width; c++)
            if (h->label[c] == h->spread[k].label) {
                order[n] = (uint32_t)c;
                run[n++] = k;
            }
}

/* The producer's rows of a head, or channels as they are; those that a row feeds have one range together. */
static void find_points(const struct qnti_job *job, size_t first, struct head *h)
{
    const uint32_t *map = job->producer ? job->producer->map : NULL;
    for (size_t r = 0; r < h->width; r++) {
        h->point[2 * r] = -INFINITY;
        h->point[2 * r + 1] = INFINITY;
    }
    for (size_t c = 0; c < job->calib->in; c++) {
        size_t row = map ? map[c] : c;
        if (row < first || row >= first + h->width)
            continue;
        h->point[2 * (row - first)] = fmaxf(h->point[2 * (row - first)], job->calib->moments[c].greatest);
        h->point[2 * (row - first) + 1] = fminf(h->point[2 * (row - first) + 1], job->calib->moments[c].least);
    }
}

static qnt_status cluster_head(struct qnti_job *job, size_t first, size_t most, uint64_t seed, struct head *h,
                               uint32_t *order, uint32_t *run)
{
    struct qnti_clusters c = {.n = h->width, .dims = 2, .most = qnti_min(most, h->width), .restarts = RESTARTS,
                              .seed = seed};
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, 2 * h->width, &h->point));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, h->width, &h->label));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, c.most, &h->spread));
    find_points(job, first, h);
    c.x = h->point;
    QNT_CHECK(qnti_cluster(job->ctx, &c, h->label, &h->count));
    arrange(h, order, run);
cleanup:
    qnti_free(job->ctx, h->point);
    qnti_free(job->ctx, h->label);
    qnti_free(job->ctx, h->spread);
    return status;
}

/* Every head of the input has the order of the head of rows that feeds it, and clusters of its own. */
static qnt_status cluster_heads(struct qnti_job *job, size_t width, size_t most, uint64_t seed,
                                struct qnti_transform *t)
{
    const uint32_t *map = job->producer ? job->producer->map : NULL;
    uint32_t base = 0;
    for (size_t first = 0; first < job->calib->in; first += width) {
        uint32_t *order = t->permutation + first, *run = t->cluster + first;
        struct head h = {.width = width};
        QNT_TRY(cluster_head(job, map ? map[first] : first, most, seed, &h, order, run));
        for (size_t j = 0; j < width; j++) {
            order[j] += (uint32_t)first;
            run[j] += base;
        }
        base += (uint32_t)h.count;
    }
    return QNT_OK;
}

qnt_status qnti_cluster_channels(struct qnti_job *job, const struct qnti_cluster_rule *rule, struct qnti_transform *t)
{
    size_t in = job->calib->in, heads = job->producer ? 1 : rule->heads;
    bool values = job->producer && job->producer->head;
    if (in % heads)
        return qnti_fail(job->ctx, QNT_INVALID, "%zu heads do not divide %zu inputs", heads, in);
    if (!job->calib->tokens)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &t->permutation));
    QNT_TRY(QNTI_NEW_RAW(job->ctx, in, &t->cluster));
    return cluster_heads(job, values ? job->producer->head : in / heads, values ? rule->head_clusters : rule->clusters,
                         rule->seed, t);
}

/* --- as groups of a grid --- */

qnt_status qnti_cluster_map(const struct qnti_job *job, size_t in, struct qnti_map *map, uint32_t **index)
{
    const struct qnti_transform *t = job->transform && job->transform->cluster ? job->transform : job->folded;
    const uint32_t *cluster = t ? t->cluster : NULL;
    QNT_TRY(QNTI_NEW(job->ctx, in, index));
    for (size_t c = 0; cluster && c < in; c++)
        (*index)[c] = cluster[c];
    *map = (struct qnti_map){QNTI_MAP_INDEX, 1, 0, *index, (*index)[in - 1] + 1};
    return QNT_OK;
}

/* Ranges of clusters in the batch in hand, and over batches. */
struct averages {
    const struct qnti_map *map;
    size_t in, batch, tokens;    /* tokens of a batch; in hand */
    bool begun;
    float *least, *greatest, *lo, *hi;   /* [clusters] in hand, over batches */
};

static void begin_batch(struct averages *a)
{
    for (size_t k = 0; k < a->map->index_groups; k++) {
        a->least[k] = INFINITY;
        a->greatest[k] = -INFINITY;
    }
    a->tokens = 0;
}

static void end_batch(struct averages *a)
{
    for (size_t k = 0; a->tokens && k < a->map->index_groups; k++) {
        a->lo[k] = a->begun ? MOMENTUM * a->lo[k] + (1 - MOMENTUM) * a->least[k] : a->least[k];
        a->hi[k] = a->begun ? MOMENTUM * a->hi[k] + (1 - MOMENTUM) * a->greatest[k] : a->greatest[k];
    }
    a->begun |= a->tokens > 0;
    begin_batch(a);
}

static qnt_status take_tokens(void *user, const float *x, size_t tokens)
{
    struct averages *a = user;
    for (size_t t = 0; t < tokens; t++) {
        for (size_t c = 0; c < a->in; c++) {
            uint32_t k = a->map->index[c];
            a->least[k] = fminf(a->least[k], x[t * a->in + c]);
            a->greatest[k] = fmaxf(a->greatest[k], x[t * a->in + c]);
        }
        if (++a->tokens == a->batch)
            end_batch(a);
    }
    return QNT_OK;
}

/* An exponential average over batches of the ranges of each, which begins with the first. */
static qnt_status average_ranges(const struct qnti_job *job, const struct qnti_map *map, size_t batch, float *lo,
                                 float *hi)
{
    struct averages a = {.map = map, .in = job->calib->in, .batch = batch, .lo = lo, .hi = hi};
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 2 * map->index_groups, &a.least));
    a.greatest = a.least + map->index_groups;
    begin_batch(&a);
    status = qnti_job_replay(job, take_tokens, &a);
    end_batch(&a);
    qnti_free(job->ctx, a.least);
    return status;
}

qnt_status qnti_cluster_ranges(const struct qnti_job *job, const qnt_qlinear *q, const struct qnti_map *map,
                               size_t batch, float *lo, float *hi)
{
    QNT_TRY(qnti_job_knows_ranges(job, q, "a fixed scale"));
    if (batch)
        return average_ranges(job, map, batch, lo, hi);
    for (size_t k = 0; k < map->index_groups; k++) {
        lo[k] = INFINITY;
        hi[k] = -INFINITY;
    }
    for (size_t p = 0; p < q->in; p++) {
        float least, greatest;
        qnti_job_range(job, p, &least, &greatest);
        lo[map->index[p]] = fminf(lo[map->index[p]], least);
        hi[map->index[p]] = fmaxf(hi[map->index[p]], greatest);
    }
    return QNT_OK;
}
