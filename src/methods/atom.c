/*
 * atom.c - the loudest channels last, in 8 bits; the others, weights and inputs, in groups of 4 bits.
 *
 * Channels in ascending order of sum x^2: the last keep_columns are a segment
 * of their own. Weights are rounded with error feedback by the Hessian of the
 * quantized inputs, on grids that channel_group rows share (Zhao et al.,
 * "Atom", MLSys 2024); a symmetric one is so also about weights of one sign.
 */
#include <stdio.h>
#include "base/buffer.h"
#include "base/number.h"
#include "method/feedback.h"

struct atom_params {
    int bits, act_bits, group_size, act_group_size, channel_group, keep_columns, keep_format, block_size, sort_metric,
        kv_bits;
    bool sym, act_sym, gptq;
    double weight_clip, act_clip, kv_clip;
    struct qnti_damping damping;
};

static const qnt_dtype casts[] = {QNT_F32, QNT_F32, QNT_F8_E4M3, QNT_F8_E5M2};   /* of what is kept, without a scale */
enum { INT8, FLOAT, USUAL_KEPT = 128, KEPT_SHARE = 4 };     /* columns that are kept; at most a share of the width */

/* QNT_INVALID: nothing is left beside them. */
static qnt_status kept_columns(qnt_context *ctx, const struct atom_params *p, size_t in, size_t *k)
{
    *k = p->keep_columns < 0 ? qnti_min(USUAL_KEPT, in / KEPT_SHARE) : (size_t)p->keep_columns;
    if (*k < in)
        return QNT_OK;
    return qnti_fail(ctx, QNT_INVALID, "atom: keep_columns=%zu leaves nothing of a layer of %zu inputs", *k, in);
}

static qnt_status atom_plan(qnt_context *ctx, const struct qnti_shape *shapes, void *const *params, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct atom_params *p = params[i];
        size_t k;
        QNT_TRY(kept_columns(ctx, p, shapes[i].in, &k));
        p->keep_columns = (int)k;
    }
    return QNT_OK;
}

static qnt_status atom_transform(struct qnti_job *job, const qnt_layer *layers, size_t count, struct qnti_transform *t)
{
    (void)layers, (void)count;
    return qnti_job_quietest_first(job, !((const struct atom_params *)job->params)->sort_metric, &t->permutation);
}

static qnt_status atom_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct atom_params *p = job->params;
    const struct qnti_input_rule rule = {.bits = (unsigned)p->act_bits, .per_token = true, .asymmetric = !p->act_sym,
                                         .inside = true, .group = (size_t)p->act_group_size,
                                         .clip = (float)p->act_clip};
    const struct qnti_input_rule kept = {.bits = 8, .per_token = true, .cast = casts[p->keep_format]};
    size_t k;
    (void)layer;
    QNT_TRY(kept_columns(job->ctx, p, q->in, &k));
    if (k == 0)
        return qnti_job_quantize_inputs(job, &rule, q);
    QNT_TRY(qnti_qlinear_cut(q, (size_t[]){q->in - k, k}, 2));
    QNT_TRY(qnti_job_quantize_segment(job, &rule, q, 0));
    return p->keep_format == FLOAT ? QNT_OK : qnti_job_quantize_segment(job, &kept, q, 1);
}

/* With feedback the largest magnitude lies half a step beyond the levels, without it is one: the authors' grids. */
static qnt_status atom_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    const struct atom_params *p = params;
    const struct qnti_affine_params affine = {.bits = p->bits, .group_size = p->group_size, .sym = p->sym,
                                              .sym_grid = !p->gptq, .include_zero = p->gptq};
    if (qnti_layout_grid(job->layout, job->kernels, grid))
        return QNT_OK;
    QNT_TRY(qnti_job_grid(job, &affine, grid));
    grid->map.rows = (size_t)p->channel_group;
    grid->clip = (float)p->weight_clip;
    grid->signed_codes = p->sym && !p->gptq;
    return QNT_OK;
}

static struct qnti_grid kept_grid(const struct qnti_job *job, const struct atom_params *p)
{
    qnt_dtype type = job->layout ? job->layout->scale_type : QNT_F32, cast = casts[p->keep_format];
    return p->keep_format == INT8 ? qnti_signed_grid(job->kernels, 8, 0, type)
                                  : qnti_float_grid(cast != QNT_F32 ? cast : type);
}

static qnt_status atom_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct atom_params *p = job->params;
    struct qnti_grid grids[] = {{0}, kept_grid(job, p)};
    struct qnti_segments_feedback f = {.grids = grids, .direct = true, .damping = p->damping,
                                       .block = (size_t)p->block_size};
    size_t k;
    (void)layer;
    QNT_TRY(kept_columns(job->ctx, p, q->in, &k));
    QNT_TRY(atom_grid(job, p, &grids[0]));
    f.cols = (size_t[]){q->in - k, k};
    f.count = k ? 2 : 1;
    return p->gptq ? qnti_feedback_as_quantized(job, &f, q) : qnti_nearest_segments(job, &f, q);
}

static qnt_status atom_kv_text(qnt_context *ctx, const void *params, struct qnti_buffer *text)
{
    const struct atom_params *p = params;
    char clip[32];
    snprintf(clip, sizeof clip, "%g", p->kv_clip);
    qnti_exchange_point(clip, false);
    if (!qnti_act_bits_offered(p->kv_bits))
        return QNT_OK;
    return qnti_buffer_print(ctx, text, "atom:bits=%d,clip=%s", p->kv_bits, clip);
}

static bool atom_offers(const void *params, enum qnti_stage stage)
{
    return stage != QNTI_STAGE_ACTIVATIONS || qnti_act_bits_offered(((const struct atom_params *)params)->act_bits);
}

static const struct qnti_damping *atom_feedback(const void *params)
{
    return ((const struct atom_params *)params)->gptq ? &((const struct atom_params *)params)->damping : NULL;
}

static unsigned atom_needs(const void *params)
{
    const struct atom_params *p = params;
    return QNTI_NEED_MOMENTS | (p->gptq ? qnti_quantized_hessian_needs(qnti_act_bits_offered(p->act_bits)) : 0u);
}

static unsigned atom_leaves(const void *params)
{
    const struct atom_params *p = params;
    return (p->keep_columns ? QNTI_BESIDE_SEGMENTS : 0u) | (p->channel_group > 1 ? QNTI_BESIDE_GRID : 0u);
}

/* With the order of columns, where it stays at run time, and descriptions of two segments. */
static qnt_status atom_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct atom_params *p = params;
    struct qnti_grid grid, kept = kept_grid(job, p);
    size_t k;
    QNT_TRY(kept_columns(job->ctx, p, in, &k));
    *bits = k ? qnti_grid_bits(&kept, out, k) + 64 : 0;
    *bits += qnti_layout_at_run_time(job->layout) ? 32 * (double)in : 0;
    QNT_TRY(atom_grid(job, p, &grid));
    *bits += qnti_grid_bits(&grid, out, in - k);
    return QNT_OK;
}

static qnt_status atom_check(qnt_context *ctx, const void *params)
{
    return qnti_act_bits_check(ctx, "atom", ((const struct atom_params *)params)->act_bits);
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct atom_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 4, 2, 8, NULL, "bits of a code, but of kept columns"),
    ROW(act_bits, INT, 4, 0, 16, NULL, "bits of activations; 0 and 16: not quantized, nor are kept ones"),
    ROW(group_size, INT, 128, 0, 1 << 24, NULL, "columns that share a scale; 0: the whole row"),
    ROW(act_group_size, INT, 128, 0, 1 << 24, NULL, "channels of a token that share a scale; 0: all"),
    ROW(channel_group, INT, 2, 1, 1 << 24, NULL, "rows that share a scale"),
    ROW(keep_columns, INT, -1, -1, 1 << 24, NULL, "columns that are kept; -1: 128, at most a quarter of the width"),
    ROW(keep_format, ENUM, INT8, 0, 3, "int8|float|fp8_e4m3|fp8_e5m2", "of kept columns, weights and activations"),
    ROW(sym, BOOL, 1, 0, 1, NULL, "levels symmetric about 0"),
    ROW(act_sym, BOOL, 1, 0, 1, NULL, "levels of activations symmetric about 0"),
    ROW(weight_clip, FLOAT, 0.85, 1e-3, 1, NULL, "share of the weights' range that is kept"),
    ROW(act_clip, FLOAT, 0.9, 1e-3, 1, NULL, "share of the activations' range that is kept"),
    ROW(gptq, BOOL, 1, 0, 1, NULL, "error feedback; false: rounding to nearest"),
    QNTI_DAMPING_ROWS(struct atom_params, damping),
    ROW(block_size, INT, 128, 1, 1 << 20, NULL, "columns between updates of the rest"),
    ROW(sort_metric, ENUM, 0, 0, 1, "hessian|abs_mean", "channels by their squares, or by their magnitudes"),
    ROW(kv_bits, INT, 4, 0, 16, NULL, "bits of keys and values (a model's); 0 and 16: as they are"),
    ROW(kv_clip, FLOAT, 1, 1e-3, 1, NULL, "share of their range that is kept"),
};

const struct qnti_method qnti_method_atom = {
    .name = "atom",
    .title = "4-bit weights and activations, the loudest channels last in 8 bits",
    .reference = "Zhao et al., Atom, MLSys 2024",
    .scope = QNTI_SCOPE_SITE,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct atom_params)},
    .needs_by = atom_needs,
    .transform_spares = ~(unsigned)QNTI_NEED_MOMENTS,
    .check = atom_check,
    .stages[QNTI_STAGE_TRANSFORM].transform = atom_transform,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = atom_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = atom_weights,
    .offers = atom_offers,
    .feedback = atom_feedback,
    .bits = atom_bits,
    .leaves = atom_leaves,
    .plan = atom_plan,
    .kv_text = atom_kv_text,
    .grid = atom_grid,
};
