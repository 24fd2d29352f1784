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
    struct qnti_buffer text;
};

/* Whether the user set this parameter of the step. */
bool qnti_recipe_given(const struct qnti_recipe_step *step, const char *name);
/* A parameter of the step's method as a number; `otherwise` where the method has none of that name. */
double qnti_recipe_number(const struct qnti_recipe_step *step, const char *name, double otherwise);
/*
 * The recipe for layers of a layout: a copy with the parameters that the layout prefers where the user said nothing.
 * QNT_INVALID: the user gave one that the layout prescribes; the message names both. `layout` may be NULL.
 */
qnt_status qnti_recipe_adapt(const qnt_recipe *recipe, const struct qnti_layout *layout, qnt_recipe **adapted);
/* The step that fills the weights, NULL: none. */
const struct qnti_recipe_step *qnti_recipe_weights(const qnt_recipe *recipe);
/* Whether a step's correct stage runs. */
bool qnti_recipe_corrects(const struct qnti_recipe_step *step);
/* Bits of enum qnti_need of all stages that run. */
unsigned qnti_recipe_needs(const qnt_recipe *recipe);

#endif
