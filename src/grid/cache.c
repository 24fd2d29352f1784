/*
 * cache.c - keys and values through the grid of a KV cache and back.
 *
 * By token each run of a head's channels is fitted for itself; by channel the
 * head is turned on its side first, so that runs go along the tokens. Runs
 * begin at the first token, so a token's stored value does not depend on what
 * comes behind its run (Liu et al., "KIVI", ICML 2024; Zhao et al., "Atom",
 * MLSys 2024; Ashkboos et al., "QuaRot", NeurIPS 2024).
 */
#include "grid/cache.h"

#include <string.h>
#include "grid/activation.h"
#include "linalg/hadamard.h"

qnt_status qnti_cache_check(qnt_context *ctx, const struct qnti_cache *cache, const char *name, size_t width)
{
    size_t d = cache->head_dim, run = cache->grid.map.cols;
    if (d == 0 || width % d)
        return qnti_fail(ctx, QNT_INVALID, "%s: head_dim %zu does not divide %zu outputs", name, d, width);
    if (cache->rotated && (d & (d - 1)))
        return qnti_fail(ctx, QNT_INVALID, "%s: heads of %zu channels cannot be rotated: no power of two", name, d);
    if (cache->by_channel && cache->window % (run ? run : 1))
        return qnti_fail(ctx, QNT_INVALID, "%s: residual_length %zu is no multiple of group_size %zu", name,
                         cache->window, run);
    return QNT_OK;
}

static void transpose(const float *x, size_t rows, size_t cols, float *y)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            y[c * rows + r] = x[r * cols + c];
}

struct heads {
    qnt_context *ctx;
    const struct qnti_cache *cache;
    const float *x;
    float *y;
    size_t tokens, width;
};

/* One head in `head` [tokens][head_dim], with as much scratch behind it. */
static qnt_status round_head(const struct heads *h, float *head, float *scratch)
{
    const struct qnti_cache *cache = h->cache;
    size_t d = cache->head_dim;
    struct qnti_actquant act = {.grid = cache->grid, .clip = cache->clip, .cols = cache->by_channel ? h->tokens : d};
    for (size_t t = 0; cache->rotated && t < h->tokens; t++)
        qnti_walsh(head + t * d, d);
    if (cache->by_channel) {
        transpose(head, h->tokens, d, scratch);
        QNT_TRY(qnti_actquant_apply(h->ctx, &act, scratch, d, h->tokens, h->tokens, scratch, NULL));
        transpose(scratch, d, h->tokens, head);
    } else {
        QNT_TRY(qnti_actquant_apply(h->ctx, &act, head, h->tokens, d, d, head, NULL));
    }
    for (size_t t = 0; cache->rotated && t < h->tokens; t++)
        qnti_walsh(head + t * d, d);
    return QNT_OK;
}

static qnt_status one_head(void *arg, size_t index)
{
    const struct heads *h = arg;
    size_t d = h->cache->head_dim, n = h->tokens * d;
    float *head;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(h->ctx, 2 * n, &head));
    for (size_t t = 0; t < h->tokens; t++)
        memcpy(head + t * d, h->x + t * h->width + index * d, d * sizeof *head);
    status = round_head(h, head, head + n);
    for (size_t t = 0; status == QNT_OK && t < h->tokens; t++)
        memcpy(h->y + t * h->width + index * d, head + t * d, d * sizeof *head);
    qnti_free(h->ctx, head);
    return status;
}

qnt_status qnti_cache_round(qnt_context *ctx, const struct qnti_cache *cache, const float *x, size_t tokens,
                            size_t width, float *y)
{
    struct heads h = {ctx, cache, x, y, tokens, width};
    if (tokens == 0)
        return QNT_OK;
    return qnti_parallel(ctx, width / cache->head_dim, one_head, &h);
}

void qnti_cache_stored(const struct qnti_cache *cache, size_t tokens, size_t *first, size_t *end)
{
    size_t window = cache->window;
    *end = tokens > window ? tokens - window : 0;
    if (cache->by_channel)
        *end = window ? tokens / window * window : tokens;
    *first = qnti_min(cache->sinks, *end);
}

qnt_status qnti_cache_apply(qnt_context *ctx, const struct qnti_cache *cache, const float *x, size_t tokens,
                            size_t width, float *y)
{
    size_t first, end;
    float *rounded;
    qnt_status status;
    qnti_cache_stored(cache, tokens, &first, &end);
    QNT_TRY(QNTI_NEW_RAW(ctx, tokens * width, &rounded));
    status = qnti_cache_round(ctx, cache, x, tokens, width, rounded);
    if (tokens && x != y)
        memmove(y, x, tokens * width * sizeof *y);
    if (status == QNT_OK && end > first)
        memcpy(y + first * width, rounded + first * width, (end - first) * width * sizeof *y);
    qnti_free(ctx, rounded);
    return status;
}

double qnti_cache_bits(const struct qnti_cache *cache)
{
    size_t run = cache->grid.map.cols ? cache->grid.map.cols : cache->head_dim;
    struct qnti_grid grid = cache->grid;
    grid.scale_type = QNT_F16;
    return qnti_grid_bits(&grid, 1, run) / (double)run;
}
