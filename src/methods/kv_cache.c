/*
 * kv_cache.c - keys and values in few bits, as a cache keeps them; weights stay as they are.
 *
 * kivi: keys by channel over runs of tokens, values by token, the newest tokens
 * exact (Liu et al., "KIVI", ICML 2024). atom: heads of a token, before RoPE
 * (Zhao et al., "Atom", MLSys 2024). quarot: keys rotated within heads (Ashkboos
 * et al., "QuaRot", NeurIPS 2024). A layer is a k_proj or v_proj, its outputs
 * the cache, its tokens one sequence; a model gets both by its option `kv`.
 */
#include "method/method.h"

struct kv_cache_params {
    int scheme, kind, bits, head_dim, group_size, residual_length, sink_tokens, query_bits, probability_bits;
    double clip;
    bool sym;
};

enum { KIVI, ATOM, QUAROT };
enum { VALUE, KEY };

static struct qnti_grid mirrored_grid(const struct qnti_kernels *kernels, int bits)
{
    struct qnti_grid grid = qnti_affine_grid(kernels, (unsigned)bits, 0, QNT_F32);
    grid.sym = grid.absmax = grid.constant_offset = true;
    grid.offset = (float)(1u << (bits - 1));
    return grid;
}

static struct qnti_cache cache_of(const struct qnti_kernels *kernels, const struct kv_cache_params *p, bool key,
                                  size_t head_dim)
{
    bool kivi = p->scheme == KIVI;
    struct qnti_cache cache = {.head_dim = head_dim, .by_channel = kivi && key, .rotated = p->scheme == QUAROT && key,
                               .before_rope = p->scheme == ATOM && key, .sinks = (size_t)p->sink_tokens,
                               .window = kivi ? (size_t)p->residual_length : 0, .clip = kivi ? 1 : (float)p->clip};
    if (kivi) {
        cache.grid = qnti_minmax_grid(kernels, (unsigned)p->bits, (size_t)p->group_size, QNT_F32);
    } else if (p->scheme == QUAROT && p->sym) {
        cache.grid = mirrored_grid(kernels, p->bits);
    } else {
        cache.grid = qnti_affine_grid(kernels, (unsigned)p->bits, 0, QNT_F32);
        cache.grid.include_zero = p->scheme == QUAROT;
        cache.grid.integer_offset = true;
    }
    return cache;
}

static qnt_status kv_cache_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct kv_cache_params *p = job->params;
    struct qnti_cache cache = cache_of(job->kernels, p, p->kind == KEY, (size_t)p->head_dim);
    (void)layer;
    QNT_TRY(qnti_cache_check(job->ctx, &cache, q->name, q->out));
    QNT_TRY(QNTI_NEW_RAW(job->ctx, 1, &q->output));
    *q->output = cache;
    return QNT_OK;
}

static qnt_status kv_cache_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    (void)layer;
    QNT_TRY(qnti_qlinear_one_segment(q));
    return qnti_numbers_from_floats(job->ctx, QNT_F32, job->weight, q->out, q->in, &q->segments[0].weight);
}

static qnt_status kv_cache_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    struct qnti_grid grid = qnti_float_grid(QNT_F32);
    (void)job, (void)params;
    *bits = qnti_grid_bits(&grid, out, in);
    return QNT_OK;
}

static unsigned kv_cache_leaves(const void *params)
{
    (void)params;
    return QNTI_BESIDE_OUTPUTS;
}

static qnt_status kv_cache_kv(qnt_context *ctx, const void *params, size_t head_dim, struct qnti_kv *kv)
{
    const struct kv_cache_params *p = params;
    const struct qnti_kernels *kernels = qnti_context_kernels(ctx);
    *kv = (struct qnti_kv){.key = cache_of(kernels, p, true, head_dim), .value = cache_of(kernels, p, false, head_dim),
                           .probability_bits = (unsigned)p->probability_bits % 16};
    if (p->query_bits % 16)
        kv->query = (struct qnti_cache){.head_dim = head_dim, .rotated = kv->key.rotated,
                                        .grid = mirrored_grid(kernels, p->query_bits)};
    QNT_TRY(qnti_cache_check(ctx, &kv->key, "keys", head_dim));
    return qnti_cache_check(ctx, &kv->value, "values", head_dim);
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct kv_cache_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(scheme, ENUM, KIVI, 0, 2, "kivi|atom|quarot", "whose ranges, of what"),
    ROW(kind, ENUM, VALUE, 0, 1, "value|key", "what the layer makes; a model has both"),
    ROW(bits, INT, 4, 2, 8, NULL, "bits of a code"),
    ROW(head_dim, INT, 0, 0, 1 << 24, NULL, "channels of a head; a model knows it"),
    ROW(group_size, INT, 32, 1, 1 << 24, NULL, "numbers that share a scale (kivi); else a head"),
    ROW(residual_length, INT, 128, 0, 1 << 24, NULL,
        "newest tokens that stay exact (kivi); 0: none, and ranges of keys see the tokens to come of their run"),
    ROW(sink_tokens, INT, 0, 0, 1 << 24, NULL, "first tokens that stay exact"),
    ROW(clip, FLOAT, 1, 1e-3, 1, NULL, "the range is multiplied by it (atom, quarot)"),
    ROW(sym, BOOL, 0, 0, 1, NULL, "levels symmetric about 0 (quarot)"),
    ROW(query_bits, INT, 0, 0, 16, NULL, "of the queries' heads, symmetric; 0 and 16: as they are (a model's)"),
    ROW(probability_bits, INT, 0, 0, 16, NULL, "of attention's probabilities; 0 and 16: as they are (a model's)"),
};

const struct qnti_method qnti_method_kv_cache = {
    .name = "kv_cache",
    .title = "keys and values of attention in few bits; of a model by --kv",
    .reference = "Liu et al., KIVI, ICML 2024; Zhao et al., Atom, MLSys 2024; Ashkboos et al., QuaRot, NeurIPS 2024",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct kv_cache_params)},
    .stages[QNTI_STAGE_ACTIVATIONS].layer = kv_cache_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = kv_cache_weights,
    .bits = kv_cache_bits,
    .leaves = kv_cache_leaves,
    .kv = kv_cache_kv,
};
