/*
 * recipe.h - which methods, in which order, with which parameters.
 *
 * A recipe is written "gptq", "gptq:bits=3,group_size=64", "awq,gptq,refine":
 * methods separated by commas, each with parameters behind a colon. Stages run
 * in the order transform, activations, weights, correct; the last method that
 * offers one of the first three provides it.
 */
#ifndef QUANT_RECIPE_H
#define QUANT_RECIPE_H

#include <stddef.h>
#include <stdbool.h>
#include <quant/context.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qnt_recipe qnt_recipe;

/*
 * QNT_NOT_FOUND: unknown method (the message suggests the nearest); QNT_INVALID: unknown or misspelt parameter, value
 * of another type or out of range, a method that the others leave without a stage.
 */
QNT_API qnt_status qnt_recipe_parse(qnt_context *context, const char *text, qnt_recipe **recipe);
QNT_API qnt_status qnt_recipe_copy(const qnt_recipe *recipe, qnt_recipe **copy);
QNT_API void qnt_recipe_destroy(qnt_recipe *recipe);

/*
 * Sets a parameter: "bits" reaches every method of the recipe that has it,
 * "gptq.bits" that one. "act_bits" or "act_format" for a recipe without
 * quantized activations puts rtn in front, which quantizes them. Later settings win. Errors as for qnt_recipe_parse.
 */
QNT_API qnt_status qnt_recipe_set(qnt_recipe *recipe, const char *key, const char *value);
/* Several, "key=value" each, in that order: all or none of them, and only together must they make sense. */
QNT_API qnt_status qnt_recipe_set_all(qnt_recipe *recipe, const char *const *settings, size_t count);

/* Whether the recipe needs calibration inputs; pairs of inputs; or, of a model, Fisher information. */
QNT_API bool qnt_recipe_needs_calibration(const qnt_recipe *recipe);
QNT_API bool qnt_recipe_needs_pairs(const qnt_recipe *recipe);
QNT_API bool qnt_recipe_needs_fisher(const qnt_recipe *recipe);
/* The recipe with its settings, as qnt_recipe_parse reads it; owned by the recipe. */
QNT_API const char *qnt_recipe_text(const qnt_recipe *recipe);

/* The registry: method `index`, in listing order; false beyond the last. Strings are static. */
typedef struct qnt_method_info {
    const char *name, *title, *reference;
    const char *scope;               /* "layer", "site", "block", "model" */
    bool transform, activations, weights, correct;   /* stages offered */
    bool needs_calibration;          /* of a model with its defaults: a text, for inputs or Fisher information */
    size_t parameter_count;
} qnt_method_info;
QNT_API bool qnt_method_get(size_t index, qnt_method_info *info);

typedef struct qnt_parameter_info {
    const char *name, *help;
    const char *type;                /* "int", "float", "bool", "enum" */
    char default_value[24], range[64];
} qnt_parameter_info;
QNT_API bool qnt_method_parameter(size_t method, size_t index, qnt_parameter_info *info);

#ifdef __cplusplus
}
#endif
#endif
