/*
 * cache.h - keys or values as a KV cache keeps them (kv_cache.md).
 *
 * A head's cache is a matrix of tokens by head_dim channels. Runs of a token's
 * channels share a scale, or, by channel, runs of tokens; the newest and the
 * first tokens may stay as they are.
 */
#ifndef QNTI_CACHE_H
#define QNTI_CACHE_H

#include "grid/grid.h"

struct qnti_cache {
    struct qnti_grid grid;       /* TILES, rows 1, cols: the run */
    size_t head_dim;
    bool by_channel;             /* runs of tokens of a channel, counted from the first token on */
    bool rotated;                /* heads are multiplied by a normalized Walsh matrix before, and back behind */
    bool before_rope;            /* of keys: rotary positions are applied behind the cache */
    size_t window;               /* newest tokens that stay; by channel tokens leave in whole windows */
    size_t sinks;                /* first tokens that stay */
    float clip;                  /* the range is multiplied by it; 0: 1 */
};

/* What of attention's operands is held in few bits. */
struct qnti_kv {
    struct qnti_cache query, key, value;     /* of the query its grid alone counts; head_dim 0: as it is */
    unsigned probability_bits;               /* 0: as they are, else multiples of 1 / (2^bits - 1) */
};

/* QNT_INVALID: the heads do not divide `width`, or (rotated) are no power of two, or runs do not divide the window. */
qnt_status qnti_cache_check(qnt_context *ctx, const struct qnti_cache *cache, const char *name, size_t width);
/* y [tokens][width] = x as the cache would keep every token; x and y may be the same. */
qnt_status qnti_cache_round(qnt_context *ctx, const struct qnti_cache *cache, const float *x, size_t tokens,
                            size_t width, float *y);
/* Of `tokens` tokens that a query sees, [*first, *end) come from the codes, the others are as they were. */
void qnti_cache_stored(const struct qnti_cache *cache, size_t tokens, size_t *first, size_t *end);
/* A sequence as a query behind it sees it: y = x, or what the cache gives; both [tokens][width]. */
qnt_status qnti_cache_apply(qnt_context *ctx, const struct qnti_cache *cache, const float *x, size_t tokens,
                            size_t width, float *y);
/* Bits of an element that is stored, scales and minima in f16. */
double qnti_cache_bits(const struct qnti_cache *cache);

#endif
