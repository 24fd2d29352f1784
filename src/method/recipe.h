/*
 * recipe.h - a parsed recipe: methods with their parameters, and who provides which stage.
 */
#ifndef QNTI_RECIPE_H
#define QNTI_RECIPE_H

#include "base/buffer.h"
#include "method/method.h"
#include <quant/recipe.h>

enum { QNTI_MOST_METHODS = 16 };

struct qnti_recipe_step {
    const struct qnti_method *method;
    void *params;
    uint64_t given;              /* bit i: the user set row i of the table */
};

struct qnt_recipe {
    qnt_context *ctx;
    struct qnti_recipe_step steps[QNTI_MOST_METHODS];
    size_t count;
    int provider[QNTI_STAGES];   /* step of each of the first three stages, -1: none */
    unsigned layout_needs;       /* of a recipe that is adapted: what its layout asks for, bits of enum qnti_need */
    struct qnti_buffer text;
};

/*
 * The transform of a site alone, chosen but applied to nothing: a model folds those of all sites of a block before the
 * first of its weights is filled. `*t` is empty before, its parts are the caller's.
 */
struct qnti_transform_choice {
    const qnt_layer *layers;       /* [count] */
    size_t count;
    const qnt_producer *producer;  /* that it will be folded into */
    const struct qnti_unit *unit;  /* or NULL */
    const float *samples;          /* [sample_count][in] inputs of the unit, in sequences of `sequence` */
    size_t sample_count, sequence;
};
qnt_status qnti_choose_transform(qnt_context *ctx, const qnt_recipe *recipe, const struct qnti_transform_choice *choice,
                                 struct qnti_transform *t);
/*
 * qnt_quantize_site behind it: weights and inputs are the transformed ones, by what was `folded`; but for what could
 * not be, which stays at run time in each layer: `kept`. Either may be NULL. The site's producer, or NULL, is as it
 * became by that.
 */
qnt_status qnti_quantize_folded(qnt_context *ctx, const qnt_recipe *recipe, const qnt_site *site,
                                const struct qnti_transform *folded, const struct qnti_transform *kept,
                                qnt_qlinear **q);

/*
 * What a block's layers of these shapes get together (struct qnti_method, plan): their recipes are changed, and say so.
 */
qnt_status qnti_recipes_plan(qnt_context *ctx, qnt_recipe *const *recipes, const struct qnti_shape *shapes,
                             size_t count);

/* Sets a parameter of one step, which then counts as given; the recipe is to be resolved after the last one. */
qnt_status qnti_recipe_set_step(qnt_recipe *recipe, struct qnti_recipe_step *step, const char *key, const char *value);
/* Finds who provides which stage; QNT_INVALID: a method is left with nothing, or parameters exclude each other. */
qnt_status qnti_recipe_resolve(qnt_recipe *recipe);
/* Whether the user set this parameter of the step. */
bool qnti_recipe_given(const struct qnti_recipe_step *step, const char *name);
/* A parameter of the step's method as a number; `otherwise` where the method has none of that name. */
double qnti_recipe_number(const struct qnti_recipe_step *step, const char *name, double otherwise);
/*
 * The recipe for layers of a layout: a copy with the parameters that the layout prefers where the user said nothing.
 * QNT_INVALID: the user gave one that the layout prescribes; the message names both. `layout` may be NULL. `pairs`: the
 * unquantized model's inputs are known beside the quantized one's; what needs them is not preferred without.
 */
qnt_status qnti_recipe_adapt(const qnt_recipe *recipe, const struct qnti_layout *layout, bool pairs,
                             qnt_recipe **adapted);
/* The step that fills the weights, NULL: none. */
const struct qnti_recipe_step *qnti_recipe_weights(const qnt_recipe *recipe);
/* Whether a step has something to do in a stage, as its parameters are. */
bool qnti_recipe_offers(const struct qnti_recipe_step *step, enum qnti_stage stage);
/* Whether a step's correct stage runs. */
bool qnti_recipe_corrects(const struct qnti_recipe_step *step);
/* The caches that a step describes (struct qnti_method, kv). QNT_NOT_FOUND: no step does. */
qnt_status qnti_recipe_kv(const qnt_recipe *recipe, size_t head_dim, struct qnti_kv *kv);
/* The caches that come with the recipe's weights, as the option kv has them; adds nothing where none do. */
qnt_status qnti_recipe_kv_text(const qnt_recipe *recipe, struct qnti_buffer *text);
/* Whether the recipe transforms the inputs of sites. */
bool qnti_recipe_transforms(const qnt_recipe *recipe);
/* The rotation of the residual stream [width] that the recipe's transform asks for; *t stays empty without one. */
qnt_status qnti_recipe_residual(const qnt_recipe *recipe, size_t width, struct qnti_transform *t);
/* Bits of a layer of that shape as the weights stage will leave it for the layout; without one those of f16. */
qnt_status qnti_recipe_bits(const qnt_recipe *recipe, const struct qnti_layout *layout, size_t out, size_t in,
                            double *bits);
/* Bits of enum qnti_beside that the stages may leave beside the grid. */
unsigned qnti_recipe_leaves(const qnt_recipe *recipe);
/* Bits of enum qnti_need of all stages that run; of the transform alone; of the inputs' alone; of those behind it. */
unsigned qnti_recipe_needs(const qnt_recipe *recipe);
unsigned qnti_recipe_transform_needs(const qnt_recipe *recipe);
unsigned qnti_recipe_inputs_needs(const qnt_recipe *recipe);
unsigned qnti_recipe_weights_needs(const qnt_recipe *recipe);

#endif
