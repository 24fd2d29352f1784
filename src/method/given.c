/*
 * given.c - scales that were learned elsewhere (quantization-aware training) in place of a stage of the recipe.
 *
 * Weights that were trained for a grid lie beside its levels: they are rounded
 * to nearest on that very grid, no feedback and no search undoes the training
 * (qat_toolkit.md).
 */
#include "method/given.h"

#include <math.h>
#include "method/recipe.h"
#include "solve/solve.h"

enum { USUAL_BITS = 8 };

bool qnti_layer_gives(const qnt_layer *layer, enum qnti_stage stage)
{
    return (stage == QNTI_STAGE_ACTIVATIONS && layer->input_scale != 0) ||
           (stage == QNTI_STAGE_WEIGHTS && layer->weight_scale);
}

static bool usable(float scale)
{
    return scale > 0 && isfinite(scale);
}

/* A parameter of the step that provides the stage. */
static unsigned bits_of(const qnt_recipe *recipe, enum qnti_stage stage, const char *name)
{
    int s = recipe->provider[stage];
    double bits = s < 0 ? USUAL_BITS : qnti_recipe_number(&recipe->steps[s], name, USUAL_BITS);
    return bits > 0 && bits < 16 ? (unsigned)bits : USUAL_BITS;
}

static qnt_status take_inputs(struct qnti_job *job, const qnt_recipe *recipe, const qnt_layer *layer, qnt_qlinear *q)
{
    struct qnti_grid grid = qnti_signed_grid(job->kernels, bits_of(recipe, QNTI_STAGE_ACTIVATIONS, "act_bits"), 0,
                                             QNT_F32);
    if (!usable(layer->input_scale) || !isfinite(layer->input_zero))
        return qnti_fail(job->ctx, QNT_INVALID, "layer %s: the given scale of its inputs is %g, zero %g", q->name,
                         (double)layer->input_scale, (double)layer->input_zero);
    grid.offset += layer->input_zero;
    grid.map.rows = 0; /* the tensor's */
    QNT_TRY(qnti_actquant_create(job->ctx, &grid, q->in, true, &q->act));
    q->act->fixed->scale->value[0] = layer->input_scale;
    q->act->given = true;
    return QNT_OK;
}

static qnt_status take_weights(struct qnti_job *job, const qnt_recipe *recipe, const qnt_layer *layer, qnt_qlinear *q)
{
    bool limited = job->layout && job->layout->limits;
    struct qnti_grid grid = qnti_signed_grid(job->kernels, bits_of(recipe, QNTI_STAGE_WEIGHTS, "bits"), 0,
                                             limited ? job->layout->scale_type : QNT_F32);
    struct qnti_numbers *numbers;
    if (layer->weight_scale_count != 1 && layer->weight_scale_count != q->out)
        return qnti_fail(job->ctx, QNT_INVALID, "layer %s: %zu scales of weights are given, expected 1 or %zu", q->name,
                         layer->weight_scale_count, q->out);
    if (job->layout && job->layout->ggml)
        return qnti_fail(job->ctx, QNT_UNSUPPORTED, "layer %s: format %s has scales of its own, given ones do not fit",
                         q->name, job->layout->name);
    if (layer->weight_scale_count == 1)
        grid.map.rows = 0;
    QNT_TRY(qnti_qlinear_one_segment(q));
    QNT_TRY(qnti_segment_fill(q, &q->segments[0], &grid));
    numbers = q->segments[0].weight;
    for (size_t r = 0; r < layer->weight_scale_count; r++) {
        if (!usable(layer->weight_scale[r]))
            return qnti_fail(job->ctx, QNT_INVALID, "layer %s: given scale %zu of its weights is %g", q->name, r,
                             (double)layer->weight_scale[r]);
        numbers->scale->value[r] = qnti_grid_stored_scale(&grid, layer->weight_scale[r]);
    }
    return qnti_nearest_codes(job->ctx, job->weight, numbers);
}

qnt_status qnti_take_given(struct qnti_job *job, const qnt_recipe *recipe, const qnt_layer *layer,
                           enum qnti_stage stage, qnt_qlinear *q)
{
    if (!qnti_transform_is_identity(&q->transform) || job->transform || qnti_recipe_transforms(recipe))
        return qnti_fail(job->ctx, QNT_INVALID,
                         "layer %s: scales are given for inputs and weights as they are, but recipe %s transforms them",
                         q->name, qnt_recipe_text(recipe));
    return stage == QNTI_STAGE_ACTIVATIONS ? take_inputs(job, recipe, layer, q) : take_weights(job, recipe, layer, q);
}
