/*
 * attention.c - causal attention over one sequence by products of matrices.
 *
 * A task takes one head and a run of queries: scores = q k^T / sqrt(head_dim)
 * (or times another scale, and soft-capped) with the keys that any of them
 * sees, the softmax of what each one sees, nought elsewhere, out = scores v.
 * Scores exist for that run only.
 *
 * Backward they are made again, P; with dP = dout v^T and dS = P (dP - sum of
 * P dP over the row) dv = P^T dout, dq = dS k, dk = dS^T q, the latter two over
 * sqrt(head_dim). A task takes all queries that share a key and value head.
 */
#include "nn/operators.h"

#include <math.h>
#include <string.h>
#include "linalg/blas.h"

/* Queries of a task: a longer run makes better products, a shorter one wastes less behind the diagonal. */
enum { RUN = 64 };

/* Queries [query, query + queries) of `head` and all keys that they see. */
struct tile {
    size_t head, query, queries, key, keys;
};

static size_t first_key(const struct qnti_attention *a, size_t query)
{
    return a->window && query >= a->window ? query - a->window + 1 : 0;
}

static struct tile make_tile(const struct qnti_attention *a, size_t index)
{
    size_t runs = qnti_ceil_div(a->tokens, RUN);
    struct tile t = {.head = index / runs, .query = index % runs * RUN};
    t.queries = qnti_min(RUN, a->tokens - t.query);
    t.key = first_key(a, t.query);
    t.keys = t.query + t.queries - t.key;
    return t;
}

static float score_scale(const struct qnti_attention *a)
{
    return a->scale > 0 ? a->scale : 1 / sqrtf((float)a->head_dim);
}

static void score(const struct qnti_attention *a, const struct tile *t, float *scores)
{
    size_t q_width = a->heads * a->head_dim, k_width = a->kv_heads * a->head_dim;
    size_t kv_head = t->head / (a->heads / a->kv_heads);
    qnti_gemm_one(&(struct qnti_gemm){
        .m = t->queries, .n = t->keys, .k = a->head_dim, .a = a->q + t->query * q_width + t->head * a->head_dim,
        .lda = q_width, .b = a->k + t->key * k_width + kv_head * a->head_dim, .ldb = k_width, .transpose_b = true,
        .c = scores, .ldc = t->keys, .alpha = score_scale(a)});
    qnti_soft_cap(a->cap, scores, t->queries * t->keys);
}

static void masked_softmax(const struct qnti_attention *a, const struct tile *t, float *scores)
{
    for (size_t i = 0; i < t->queries; i++) {
        float *row = scores + i * t->keys;
        size_t begin = first_key(a, t->query + i) - t->key, end = t->query + i + 1 - t->key;
        memset(row, 0, begin * sizeof *row);
        qnti_softmax_row(row + begin, end - begin);
        memset(row + end, 0, (t->keys - end) * sizeof *row);
    }
}

static void weigh_values(const struct qnti_attention *a, const struct tile *t, const float *scores)
{
    size_t q_width = a->heads * a->head_dim, v_width = a->kv_heads * a->head_dim;
    size_t kv_head = t->head / (a->heads / a->kv_heads);
    qnti_gemm_one(&(struct qnti_gemm){
        .m = t->queries, .n = a->head_dim, .k = t->keys, .a = scores, .lda = t->keys,
        .b = a->v + t->key * v_width + kv_head * a->head_dim, .ldb = v_width,
        .c = a->out + t->query * q_width + t->head * a->head_dim, .ldc = q_width, .alpha = 1});
}

struct job {
    qnt_context *ctx;
    const struct qnti_attention *attention;
};

static qnt_status one_tile(void *arg, size_t index)
{
    const struct job *job = arg;
    struct tile t = make_tile(job->attention, index);
    float *scores;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, t.queries * t.keys, &scores));
    score(job->attention, &t, scores);
    masked_softmax(job->attention, &t, scores);
    weigh_values(job->attention, &t, scores);
    qnti_free(job->ctx, scores);
    return QNT_OK;
}

qnt_status qnti_attention_forward(qnt_context *ctx, const struct qnti_attention *attention)
{
    struct job job = {ctx, attention};
    return qnti_parallel(ctx, attention->heads * qnti_ceil_div(attention->tokens, RUN), one_tile, &job);
}

/* --- backward --- */

struct backward {
    qnt_context *ctx;
    const struct qnti_attention *attention;
    const float *dout;
    float *dq, *dk, *dv;
};

/* dP becomes dS. */
static void softmax_backward(const struct tile *t, const float *p, float *dp)
{
    for (size_t i = 0; i < t->queries; i++) {
        const float *row = p + i * t->keys;
        float *d = dp + i * t->keys, mean;
        double sum = 0;
        for (size_t j = 0; j < t->keys; j++)
            sum += (double)row[j] * (double)d[j];
        mean = (float)sum;
        for (size_t j = 0; j < t->keys; j++)
            d[j] = row[j] * (d[j] - mean);
    }
}

/* dS, of capped scores, becomes that of the scores before; `scores` is made again. */
static void cap_backward(const struct qnti_attention *a, const struct tile *t, float *scores, float *ds)
{
    if (!(a->cap > 0))
        return;
    score(a, t, scores);
    qnti_soft_cap_backward(a->cap, scores, ds, t->queries * t->keys);
}

/* p, dp [queries][keys]; adds to dk and dv of the tile's keys. */
static void tile_backward(const struct backward *b, const struct tile *t, float *p, float *dp)
{
    const struct qnti_attention *a = b->attention;
    size_t d = a->head_dim, width = a->heads * d, kv_width = a->kv_heads * d;
    size_t q_at = t->query * width + t->head * d, k_at = t->key * kv_width + t->head / (a->heads / a->kv_heads) * d;
    float scale = score_scale(a);
    score(a, t, p);
    masked_softmax(a, t, p);
    qnti_gemm_one(&(struct qnti_gemm){.m = t->queries, .n = t->keys, .k = d, .a = b->dout + q_at, .lda = width,
                                      .b = a->v + k_at, .ldb = kv_width, .transpose_b = true, .c = dp, .ldc = t->keys,
                                      .alpha = 1});
    qnti_gemm_one(&(struct qnti_gemm){.m = t->keys, .n = d, .k = t->queries, .a = p, .lda = t->keys,
                                      .transpose_a = true, .b = b->dout + q_at, .ldb = width, .c = b->dv + k_at,
                                      .ldc = kv_width, .alpha = 1, .beta = 1});
    softmax_backward(t, p, dp);
    cap_backward(a, t, p, dp);
    qnti_gemm_one(&(struct qnti_gemm){.m = t->queries, .n = d, .k = t->keys, .a = dp, .lda = t->keys, .b = a->k + k_at,
                                      .ldb = kv_width, .c = b->dq + q_at, .ldc = width, .alpha = scale});
    qnti_gemm_one(&(struct qnti_gemm){.m = t->keys, .n = d, .k = t->queries, .a = dp, .lda = t->keys,
                                      .transpose_a = true, .b = a->q + q_at, .ldb = width, .c = b->dk + k_at,
                                      .ldc = kv_width, .alpha = scale, .beta = 1});
}

static qnt_status kv_head_backward(void *arg, size_t index)
{
    const struct backward *b = arg;
    const struct qnti_attention *a = b->attention;
    size_t share = a->heads / a->kv_heads * qnti_ceil_div(a->tokens, RUN);
    size_t widest = qnti_min(RUN, a->tokens) * a->tokens;
    float *p;
    QNT_TRY(QNTI_NEW_RAW(b->ctx, 2 * widest, &p));
    for (size_t i = 0; i < share; i++) {
        struct tile t = make_tile(a, index * share + i);
        tile_backward(b, &t, p, p + widest);
    }
    qnti_free(b->ctx, p);
    return QNT_OK;
}

qnt_status qnti_attention_backward(qnt_context *ctx, const struct qnti_attention *a, const float *dout, float *dq,
                                   float *dk, float *dv)
{
    struct backward b = {ctx, a, dout, dq, dk, dv};
    size_t kv = a->tokens * a->kv_heads * a->head_dim;
    memset(dk, 0, kv * sizeof *dk);
    memset(dv, 0, kv * sizeof *dv);
    return qnti_parallel(ctx, a->kv_heads, kv_head_backward, &b);
}
