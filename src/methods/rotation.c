/*
 * rotation.c - inputs and weights rotated by Hadamard matrices, then an ordinary grid.
 *
 * An orthogonal Q spreads each outlier over all channels: y = (x Q)(W Q)^T. In
 * a model the residual stream is rotated once, folded into every weight that
 * it meets (random signs, then H_K (x) Walsh), values and o within each head;
 * only down's input is rotated at run time (Ashkboos et al., "QuaRot", 2024;
 * Liu et al., "SpinQuant", 2024, whose learned rotations are not here).
 */
#include "method/feedback.h"

struct rotation_params {
    struct qnti_affine_params affine;    /* bits, group_size, sym, mse and how it is searched */
    struct qnti_feedback_params feedback;
    int rotate, seed, rotate_block, quantizer;
    bool signs;
    struct qnti_input_params inputs;
};

enum { ROTATE_HADAMARD, ROTATE_NONE };
enum { QUANTIZER_RTN, QUANTIZER_GPTQ };

static qnt_status rotation_residual(qnt_context *ctx, const void *params, size_t width, struct qnti_transform *t)
{
    const struct rotation_params *p = params;
    uint64_t seed = (uint64_t)p->seed;
    return qnti_rotation_hadamard(ctx, width, (size_t)p->rotate_block, p->signs ? &seed : NULL, &t->rotation);
}

/* Behind a norm the stream is rotated already; a layer by itself takes the stream's rotation. */
static qnt_status rotation_transform(struct qnti_job *job, const qnt_layer *layers, size_t count,
                                     struct qnti_transform *t)
{
    const qnt_producer *producer = job->producer;
    size_t width = layers[0].weight.cols;
    (void)count;
    if (!producer)
        return rotation_residual(job->ctx, job->params, width, t);
    if (producer->cols == 1)
        return QNT_OK;
    return qnti_rotation_hadamard(job->ctx, width, producer->head, NULL, &t->rotation);
}

static qnt_status rotation_activations(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct rotation_params *p = job->params;
    (void)layer;
    return qnti_job_inputs(job, &p->inputs, q);
}

static qnt_status rotation_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    return qnti_job_signed_grid(job, params, true, grid);
}

static qnt_status rotation_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct rotation_params *p = job->params;
    struct qnti_grid grid;
    QNT_TRY(rotation_grid(job, p, &grid));
    if (p->quantizer == QUANTIZER_GPTQ)
        return qnti_feedback_weights(job, &p->feedback, &grid, layer, q);
    return qnti_round_to_nearest(job, &grid, q);
}

static bool rotation_offers(const void *params, enum qnti_stage stage)
{
    const struct rotation_params *p = params;
    if (stage == QNTI_STAGE_TRANSFORM)
        return p->rotate == ROTATE_HADAMARD;
    return stage != QNTI_STAGE_ACTIVATIONS || qnti_inputs_offered(&p->inputs);
}

static const struct qnti_damping *rotation_feedback(const void *params)
{
    const struct rotation_params *p = params;
    return p->quantizer == QUANTIZER_GPTQ ? &p->feedback.damping : NULL;
}

static unsigned rotation_needs(const void *params)
{
    const struct rotation_params *p = params;
    return qnti_inputs_needs(&p->inputs) | (p->quantizer == QUANTIZER_GPTQ ? qnti_feedback_needs(&p->feedback) : 0);
}

static qnt_status rotation_check(qnt_context *ctx, const void *params)
{
    const struct rotation_params *p = params;
    return qnti_inputs_check(ctx, "rotation", &p->inputs);
}

#define OFFSET(name) offsetof(struct rotation_params, name)
#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, OFFSET(name), value, least, greatest, choices, help}
#define GRID(name, kind, value, least, greatest, help) \
    {#name, QNTI_PARAM_##kind, OFFSET(affine.name), value, least, greatest, NULL, help}

static const struct qnti_param rows[] = {
    ROW(rotate, ENUM, 0, 0, 1, "hadamard|none", "how inputs are rotated"),
    ROW(seed, INT, 0, 0, 2147483647, NULL, "of the signs"),
    ROW(signs, BOOL, 1, 0, 1, NULL, "random signs before the Hadamard matrix"),
    ROW(rotate_block, INT, 0, 0, 1 << 24, NULL, "channels that are mixed with each other; 0: all"),
    ROW(quantizer, ENUM, 0, 0, 1, "rtn|gptq", "rounding to nearest, or with error feedback"),
    GRID(bits, INT, 4, 2, 8, "bits of a code"),
    GRID(group_size, INT, 0, 0, 1 << 24, "columns that share a scale; 0: the whole row"),
    GRID(sym, BOOL, 1, 0, 1, "levels symmetric about 0"),
    GRID(mse, BOOL, 0, 0, 1, "search the range with the least error"),
    GRID(mse_norm, FLOAT, 2.4, 1e-3, 64, "exponent of the error in the search"),
    GRID(mse_grid, INT, 100, 1, 1 << 20, "steps in the full range"),
    GRID(mse_max_shrink, FLOAT, 0.8, 0, 1, "how far the range shrinks at most"),
    QNTI_FEEDBACK_ROWS(struct rotation_params, feedback),
    QNTI_INPUT_ROWS(struct rotation_params, inputs),
};

const struct qnti_method qnti_method_rotation = {
    .name = "rotation",
    .title = "Hadamard rotations that spread outliers, folded where they can be",
    .reference = "Ashkboos et al., QuaRot, NeurIPS 2024; Liu et al., SpinQuant, ICLR 2025",
    .scope = QNTI_SCOPE_MODEL,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct rotation_params)},
    .needs_by = rotation_needs,
    .check = rotation_check,
    .residual = rotation_residual,
    .stages[QNTI_STAGE_TRANSFORM].transform = rotation_transform,
    .stages[QNTI_STAGE_ACTIVATIONS].layer = rotation_activations,
    .stages[QNTI_STAGE_WEIGHTS].layer = rotation_weights,
    .offers = rotation_offers,
    .feedback = rotation_feedback,
    .grid = rotation_grid,
};
