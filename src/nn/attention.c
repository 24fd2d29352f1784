/*
 * attention.c - causal attention over one sequence by products of matrices.
 *
 * A task takes one head and a run of queries: scores = q k^T / sqrt(head_dim)
 * with the keys that any of them sees, the softmax of what each one sees,
 * nought elsewhere, out = scores v. Scores exist for that run only.
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

static void score(const struct qnti_attention *a, const struct tile *t, float *scores)
{
    size_t q_width = a->heads * a->head_dim, k_width = a->kv_heads * a->head_dim;
    size_t kv_head = t->head / (a->heads / a->kv_heads);
    qnti_gemm_one(&(struct qnti_gemm){
        .m = t->queries, .n = t->keys, .k = a->head_dim, .a = a->q + t->query * q_width + t->head * a->head_dim,
        .lda = q_width, .b = a->k + t->key * k_width + kv_head * a->head_dim, .ldb = k_width, .transpose_b = true,
        .c = scores, .ldc = t->keys, .alpha = 1 / sqrtf((float)a->head_dim)});
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
