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
    return qnti_weight_extent(c, role).rows;
}

static inline size_t toy_cols(const struct qnti_config *c, enum qnti_role role)
{
    return qnti_weight_extent(c, role).cols;
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
            if (!qnti_has_weight(config, role))
                continue;
            toy_weight(w, rows, cols, rows == 1 ? 0.5f : 6 / sqrtf((float)cols),
                       rows == 1 ? 1 - config->norm_base : 0, &seed);
            if (qnti_has_bias(config, role))
                toy_weight(w + 1, 1, rows == 1 ? cols : rows, 1, 0, &seed);
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

/* Rows of the norm's width. */
static inline void plain_norm(const struct qnti_checkpoint *m, size_t block, enum qnti_role role, const double *x,
                              size_t rows, double *out)
{
    const float *w = toy_data(qnti_checkpoint_weight(m, block, role));
    const float *bias = toy_data(qnti_checkpoint_bias(m, block, role));
    size_t n = toy_cols(&m->config, role);
    for (size_t t = 0; t < rows; t++) {
        double squares = 0, mean = 0;
        for (size_t i = 0; m->config.norm == QNTI_NORM_LAYER && i < n; i++)
            mean += x[t * n + i] / (double)n;
        for (size_t i = 0; i < n; i++)
            squares += (x[t * n + i] - mean) * (x[t * n + i] - mean);
        for (size_t i = 0; i < n; i++) {
            double y = (x[t * n + i] - mean) / sqrt(squares / (double)n + (double)m->config.norm_eps);
            out[t * n + i] = ((double)m->config.norm_base + (double)w[i]) * y + (bias ? (double)bias[i] : 0);
        }
    }
}

static inline void plain_rope(const struct qnti_config *c, size_t block, size_t heads, double *x, size_t tokens)
{
    const struct qnti_rope *rope = qnti_block_rope(c, block);
    size_t rotated = rope->rotated ? rope->rotated : c->head_dim, half = rotated / 2;
    double factor = rope->attention_factor > 0 ? (double)rope->attention_factor : 1;
    for (size_t t = 0; !c->learned_positions && t < tokens; t++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < half; i++) {
                double divisor = rope->divisors ? (double)rope->divisors[i] : 1;
                double angle = (double)t * pow((double)rope->theta, -2.0 * (double)i / (double)rotated) / divisor;
                double *a = x + (t * heads + h) * c->head_dim + i, *b = a + half, low = *a, high = *b;
                *a = factor * (low * cos(angle) - high * sin(angle));
                *b = factor * (high * cos(angle) + low * sin(angle));
            }
}

static inline double plain_cap(double cap, double x)
{
    return cap > 0 ? cap * tanh(x / cap) : x;
}

static inline void plain_attention(const struct qnti_config *c, size_t block, const double *q, const double *k,
                                   const double *v, size_t tokens, double *out)
{
    size_t d = c->head_dim, share = c->heads / c->kv_heads, window = qnti_block_window(c, block);
    double scale = c->score_scale > 0 ? (double)c->score_scale : 1 / sqrt((double)d);
    for (size_t t = 0; t < tokens; t++)
        for (size_t h = 0; h < c->heads; h++) {
            double *o = out + (t * c->heads + h) * d, sum = 0;
            memset(o, 0, d * sizeof *o);
            for (size_t s = 0; s <= t; s++) {
                size_t at = (s * c->kv_heads + h / share) * d;
                const double *key = k + at, *value = v + at;
                double score = 0;
                if (window && t - s >= window)
                    continue;
                for (size_t i = 0; i < d; i++)
                    score += q[(t * c->heads + h) * d + i] * key[i];
                score = exp(plain_cap((double)c->attention_cap, score * scale));
                sum += score;
                for (size_t i = 0; i < d; i++)
                    o[i] += score * value[i];
            }
            for (size_t i = 0; i < d; i++)
                o[i] /= sum;
        }
}

static inline double plain_activation(enum qnti_activation activation, double x)
{
    switch (activation) {
    case QNTI_RELU:
        return x > 0 ? x : 0;
    case QNTI_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case QNTI_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case QNTI_GELU_QUICK:
        return x / (1 + exp(-1.702 * x));
    case QNTI_MISH:
        return x * tanh(log1p(exp(x)));
    default:
        return x / (1 + exp(-x));
    }
}

static inline double *new_doubles(size_t n)
{
    double *x = calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Columns [first, first + width) of x [rows][total]. */
static inline void plain_columns(const double *x, size_t rows, size_t total, size_t first, size_t width, double *out)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(out + r * width, x + r * total + first, width * sizeof *out);
}

static inline void plain_qkv(const struct qnti_checkpoint *m, size_t block, const double *in, size_t tokens, double *q,
                             double *k, double *v)
{
    const struct qnti_config *c = &m->config;
    size_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, all = attention + 2 * kv;
    double *fused = new_doubles(tokens * all);
    if (c->fused_qkv) {
        plain_linear(m, block, QNTI_QKV, in, tokens, fused);
        plain_columns(fused, tokens, all, 0, attention, q);
        plain_columns(fused, tokens, all, attention, kv, k);
        plain_columns(fused, tokens, all, attention + kv, kv, v);
    } else {
        plain_linear(m, block, QNTI_Q, in, tokens, q);
        plain_linear(m, block, QNTI_K, in, tokens, k);
        plain_linear(m, block, QNTI_V, in, tokens, v);
    }
    if (c->qk_norm) {
        plain_norm(m, block, QNTI_Q_NORM, q, tokens * c->heads, q);
        plain_norm(m, block, QNTI_K_NORM, k, tokens * c->kv_heads, k);
    }
    plain_rope(c, block, c->heads, q, tokens);
    plain_rope(c, block, c->kv_heads, k, tokens);
    free(fused);
}

/* What goes into down. */
static inline void plain_mlp(const struct qnti_checkpoint *m, size_t block, const double *in, size_t tokens,
                             double *out)
{
    const struct qnti_config *c = &m->config;
    size_t n = tokens * c->ffn;
    double *up = new_doubles(n), *fused = new_doubles(2 * n);
    if (c->fused_gate_up) {
        plain_linear(m, block, QNTI_GATE_UP, in, tokens, fused);
        plain_columns(fused, tokens, 2 * c->ffn, 0, c->ffn, out);
        plain_columns(fused, tokens, 2 * c->ffn, c->ffn, c->ffn, up);
    } else {
        plain_linear(m, block, c->ungated ? QNTI_UP : QNTI_GATE, in, tokens, out);
        plain_linear(m, block, QNTI_UP, in, tokens, up);
    }
    for (size_t i = 0; i < n; i++)
        out[i] = plain_activation(c->activation, out[i]) * (c->ungated ? 1 : up[i]);
    free(up);
    free(fused);
}

/* x += what a linear gives, behind its norm if there is one. */
static inline void plain_residual(const struct qnti_checkpoint *m, size_t block, enum qnti_role role,
                                  enum qnti_role post, const double *in, size_t tokens, double *x)
{
    size_t n = tokens * m->config.hidden;
    double *sum = new_doubles(n);
    plain_linear(m, block, role, in, tokens, sum);
    if (m->config.post_norms)
        plain_norm(m, block, post, sum, tokens, sum);
    for (size_t i = 0; i < n; i++)
        x[i] += sum[i];
    free(sum);
}

/* Fills `site` with the inputs of the four sites, carries x through the block. */
static inline void plain_block(const struct qnti_checkpoint *m, size_t block, double *x, size_t tokens,
                               double *site[QNTI_SITES])
{
    const struct qnti_config *c = &m->config;
    size_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    double *q = new_doubles(tokens * attention), *k = new_doubles(tokens * kv), *v = new_doubles(tokens * kv);
    plain_norm(m, block, QNTI_ATTN_NORM, x, tokens, site[QNTI_SITE_QKV]);
    plain_qkv(m, block, site[QNTI_SITE_QKV], tokens, q, k, v);
    plain_attention(c, block, q, k, v, tokens, site[QNTI_SITE_O]);
    plain_residual(m, block, QNTI_O, QNTI_ATTN_POST_NORM, site[QNTI_SITE_O], tokens, x);
    plain_norm(m, block, QNTI_MLP_NORM, x, tokens, site[QNTI_SITE_GATE_UP]);
    plain_mlp(m, block, site[QNTI_SITE_GATE_UP], tokens, site[QNTI_SITE_DOWN]);
    plain_residual(m, block, QNTI_DOWN, QNTI_MLP_POST_NORM, site[QNTI_SITE_DOWN], tokens, x);
    free(q);
    free(k);
    free(v);
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

/* x [tokens][hidden] of one sequence. */
static inline double *plain_embed(const struct qnti_checkpoint *m, const int32_t *ids, size_t tokens)
{
    const struct qnti_config *c = &m->config;
    const float *embedding = toy_data(qnti_checkpoint_weight(m, 0, QNTI_EMBED));
    const float *positions = toy_data(qnti_checkpoint_weight(m, 0, QNTI_POSITIONS));
    double *x = new_doubles(tokens * c->hidden), scale = c->embedding_scale != 0 ? (double)c->embedding_scale : 1;
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < c->hidden; i++) {
            x[t * c->hidden + i] = scale * (double)embedding[(size_t)ids[t] * c->hidden + i];
            if (c->learned_positions)
                x[t * c->hidden + i] += (double)positions[(t + c->position_offset) * c->hidden + i];
        }
    return x;
}

/* logits [tokens][vocab] behind the last block. */
static inline void plain_head(const struct qnti_checkpoint *m, const double *x, size_t tokens, double *logits)
{
    const struct qnti_config *c = &m->config;
    double *normed = new_doubles(tokens * c->hidden);
    plain_norm(m, 0, QNTI_FINAL_NORM, x, tokens, normed);
    plain_linear(m, 0, c->tied_head ? QNTI_EMBED : QNTI_HEAD, normed, tokens, logits);
    for (size_t i = 0; i < tokens * c->vocab; i++)
        logits[i] = plain_cap((double)c->logit_cap, logits[i]);
    free(normed);
}

/* logits [tokens][vocab] of one sequence. */
static inline double *plain_logits(const struct qnti_checkpoint *m, const int32_t *ids, size_t tokens)
{
    const struct qnti_config *c = &m->config;
    double *x = plain_embed(m, ids, tokens), *logits = new_doubles(tokens * c->vocab), *site[QNTI_SITES];
    plain_sites_create(c, tokens, site);
    for (size_t b = 0; b < c->blocks; b++)
        plain_block(m, b, x, tokens, site);
    plain_head(m, x, tokens, logits);
    plain_sites_free(site);
    free(x);
    return logits;
}

#endif
