/*
 * nn_support.h - small decoders in memory for the tests of nn/ and eval/, and a forward pass in f64 to hold against
 * them.
 *
 * The f64 pass goes query by query and pair by pair, without matrices, and
 * knows nothing of the library but the layout of weights.
 */
#ifndef NN_SUPPORT_H
#define NN_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "nn/nn.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static inline float random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(*state >> 40) / (float)(1 << 24) - 0.5f;
}

static inline float *random_array(uint64_t *state, size_t n, float size, float middle)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = middle + size * random_unit(state);
    return x;
}

static inline size_t toy_rows(const struct qnti_config *c, enum qnti_role role)
{
    const size_t rows[QNTI_ROLES] = {c->vocab, 1, c->vocab, 1, c->heads * c->head_dim, c->kv_heads * c->head_dim,
                                     c->kv_heads * c->head_dim, c->hidden, 1, c->ffn, c->ffn, c->hidden};
    return rows[role];
}

static inline size_t toy_cols(const struct qnti_config *c, enum qnti_role role)
{
    const bool from_heads = role == QNTI_O, from_ffn = role == QNTI_DOWN;
    return from_heads ? c->heads * c->head_dim : from_ffn ? c->ffn : c->hidden;
}

static inline bool toy_has_bias(const struct qnti_config *c, enum qnti_role role)
{
    if (role == QNTI_Q || role == QNTI_K || role == QNTI_V)
        return c->qkv_bias;
    return role == QNTI_O ? c->o_bias : role >= QNTI_GATE && c->mlp_bias;
}

static inline void toy_weight(struct qnti_weight *w, size_t rows, size_t cols, float size, float middle,
                              uint64_t *state)
{
    *w = (struct qnti_weight){
        .name = "toy.weight", .rows = rows, .cols = cols,
        .plain = {.data = random_array(state, rows * cols, size, middle), .dtype = QNT_F32, .rows = rows,
                  .cols = cols, .stride = cols}};
}

/* A model with random weights, as an open checkpoint without a source; the caller frees it by toy_free. */
static inline struct qnti_checkpoint *toy_model(qnt_context *ctx, const struct qnti_config *config, uint64_t seed)
{
    struct qnti_checkpoint *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->ctx = ctx;
    m->config = *config;
    m->weights = calloc(2 * config->blocks * QNTI_ROLES, sizeof *m->weights);
    assert_non_null(m->weights);
    for (size_t b = 0; b < config->blocks; b++)
        for (enum qnti_role role = b ? QNTI_ATTN_NORM : QNTI_EMBED; role < QNTI_ROLES; role++) {
            struct qnti_weight *w = &m->weights[2 * (b * QNTI_ROLES + role)];
            size_t rows = toy_rows(config, role), cols = toy_cols(config, role);
            if (role == QNTI_HEAD && config->tied_head)
                continue;
            toy_weight(w, rows, cols, rows == 1 ? 0.5f : 6 / sqrtf((float)cols), rows == 1, &seed);
            if (toy_has_bias(config, role))
                toy_weight(w + 1, 1, rows, 1, 0, &seed);
        }
    return m;
}

static inline void toy_free(struct qnti_checkpoint *m)
{
    for (size_t i = 0; i < 2 * m->config.blocks * QNTI_ROLES; i++)
        free((void *)(uintptr_t)m->weights[i].plain.data);
    free(m->weights);
    free(m);
}

/* --- the pass in f64 --- */

static inline const float *toy_data(const struct qnti_weight *w)
{
    return w ? w->plain.data : NULL;
}

/* out [tokens][rows] of a role, without what was there. */
static inline void plain_linear(const struct qnti_checkpoint *m, size_t block, enum qnti_role role, const double *x,
                                size_t tokens, double *out)
{
    size_t rows = toy_rows(&m->config, role), cols = toy_cols(&m->config, role);
    const float *w = toy_data(qnti_checkpoint_weight(m, block, role));
    const float *bias = toy_data(qnti_checkpoint_bias(m, block, role));
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < rows; r++) {
            double sum = bias ? (double)bias[r] : 0;
            for (size_t i = 0; i < cols; i++)
                sum += x[t * cols + i] * (double)w[r * cols + i];
            out[t * rows + r] = sum;
        }
}

static inline void plain_norm(const struct qnti_checkpoint *m, size_t block, enum qnti_role role, const double *x,
                              size_t tokens, double *out)
{
    const float *w = toy_data(qnti_checkpoint_weight(m, block, role));
    size_t n = m->config.hidden;
    for (size_t t = 0; t < tokens; t++) {
        double squares = 0;
        for (size_t i = 0; i < n; i++)
            squares += x[t * n + i] * x[t * n + i];
        for (size_t i = 0; i < n; i++)
            out[t * n + i] = (double)w[i] * x[t * n + i] / sqrt(squares / (double)n + (double)m->config.norm_eps);
    }
}

static inline void plain_rope(const struct qnti_config *c, size_t heads, double *x, size_t tokens)
{
    size_t half = c->head_dim / 2;
    for (size_t t = 0; t < tokens; t++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < half; i++) {
                double divisor = c->rope.divisors ? (double)c->rope.divisors[i] : 1;
                double angle =
                    (double)t * pow((double)c->rope.theta, -2.0 * (double)i / (double)c->head_dim) / divisor;
                double *a = x + (t * heads + h) * c->head_dim + i, *b = a + half, low = *a, high = *b;
                *a = low * cos(angle) - high * sin(angle);
                *b = high * cos(angle) + low * sin(angle);
            }
}

static inline void plain_attention(const struct qnti_config *c, const double *q, const double *k, const double *v,
                                   size_t tokens, double *out)
{
    size_t d = c->head_dim, share = c->heads / c->kv_heads;
    for (size_t t = 0; t < tokens; t++)
        for (size_t h = 0; h < c->heads; h++) {
            double *o = out + (t * c->heads + h) * d, sum = 0;
            memset(o, 0, d * sizeof *o);
            for (size_t s = 0; s <= t; s++) {
                size_t at = (s * c->kv_heads + h / share) * d;
                const double *key = k + at, *value = v + at;
                double score = 0;
                if (c->sliding_window && t - s >= c->sliding_window)
                    continue;
                for (size_t i = 0; i < d; i++)
                    score += q[(t * c->heads + h) * d + i] * key[i];
                score = exp(score / sqrt((double)d));
                sum += score;
                for (size_t i = 0; i < d; i++)
                    o[i] += score * value[i];
            }
            for (size_t i = 0; i < d; i++)
                o[i] /= sum;
        }
}

static inline double *new_doubles(size_t n)
{
    double *x = calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Fills `site` with the inputs of the four sites, carries x through the block. */
static inline void plain_block(const struct qnti_checkpoint *m, size_t block, double *x, size_t tokens,
                               double *site[QNTI_SITES])
{
    const struct qnti_config *c = &m->config;
    size_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    double *q = new_doubles(tokens * attention), *k = new_doubles(tokens * kv), *v = new_doubles(tokens * kv);
    double *up = new_doubles(tokens * c->ffn), *sum = new_doubles(tokens * c->hidden);
    plain_norm(m, block, QNTI_ATTN_NORM, x, tokens, site[QNTI_SITE_QKV]);
    plain_linear(m, block, QNTI_Q, site[QNTI_SITE_QKV], tokens, q);
    plain_linear(m, block, QNTI_K, site[QNTI_SITE_QKV], tokens, k);
    plain_linear(m, block, QNTI_V, site[QNTI_SITE_QKV], tokens, v);
    plain_rope(c, c->heads, q, tokens);
    plain_rope(c, c->kv_heads, k, tokens);
    plain_attention(c, q, k, v, tokens, site[QNTI_SITE_O]);
    plain_linear(m, block, QNTI_O, site[QNTI_SITE_O], tokens, sum);
    for (size_t i = 0; i < tokens * c->hidden; i++)
        x[i] += sum[i];
    plain_norm(m, block, QNTI_MLP_NORM, x, tokens, site[QNTI_SITE_GATE_UP]);
    plain_linear(m, block, QNTI_GATE, site[QNTI_SITE_GATE_UP], tokens, site[QNTI_SITE_DOWN]);
    plain_linear(m, block, QNTI_UP, site[QNTI_SITE_GATE_UP], tokens, up);
    for (size_t i = 0; i < tokens * c->ffn; i++)
        site[QNTI_SITE_DOWN][i] *= up[i] / (1 + exp(-site[QNTI_SITE_DOWN][i]));
    plain_linear(m, block, QNTI_DOWN, site[QNTI_SITE_DOWN], tokens, sum);
    for (size_t i = 0; i < tokens * c->hidden; i++)
        x[i] += sum[i];
    free(q);
    free(k);
    free(v);
    free(up);
    free(sum);
}

static inline void plain_sites_create(const struct qnti_config *c, size_t tokens, double *site[QNTI_SITES])
{
    for (size_t s = 0; s < QNTI_SITES; s++)
        site[s] = new_doubles(tokens * qnti_site_width(c, (enum qnti_site)s));
}

static inline void plain_sites_free(double *site[QNTI_SITES])
{
    for (size_t s = 0; s < QNTI_SITES; s++)
        free(site[s]);
}

/* logits [tokens][vocab] of one sequence. */
static inline double *plain_logits(const struct qnti_checkpoint *m, const int32_t *ids, size_t tokens)
{
    const struct qnti_config *c = &m->config;
    const float *embedding = toy_data(qnti_checkpoint_weight(m, 0, QNTI_EMBED));
    double *x = new_doubles(tokens * c->hidden), *logits = new_doubles(tokens * c->vocab), *site[QNTI_SITES];
    plain_sites_create(c, tokens, site);
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < c->hidden; i++)
            x[t * c->hidden + i] = (double)embedding[(size_t)ids[t] * c->hidden + i];
    for (size_t b = 0; b < c->blocks; b++)
        plain_block(m, b, x, tokens, site);
    plain_norm(m, 0, QNTI_FINAL_NORM, x, tokens, site[QNTI_SITE_QKV]);
    plain_linear(m, 0, c->tied_head ? QNTI_EMBED : QNTI_HEAD, site[QNTI_SITE_QKV], tokens, logits);
    plain_sites_free(site);
    free(x);
    return logits;
}

#endif
