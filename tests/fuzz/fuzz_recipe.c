/*
 * fuzz_recipe.c - any text as a recipe: an error that says why, or a recipe whose text gives itself again.
 */
#include <stdlib.h>
#include <string.h>
#include "base/context.h"
#include <quant/recipe.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void use(qnt_context *ctx, qnt_recipe *recipe)
{
    qnt_recipe *again;
    require(qnt_recipe_parse(ctx, qnt_recipe_text(recipe), &again) == QNT_OK);
    require(strcmp(qnt_recipe_text(recipe), qnt_recipe_text(again)) == 0);
    if (qnt_recipe_set(again, "bits", "3") == QNT_OK)
        require(qnt_recipe_needs_calibration(again) == qnt_recipe_needs_calibration(recipe));
    qnt_recipe_destroy(again);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    qnt_context_options options = {.threads = 1};
    qnt_context *ctx;
    qnt_recipe *recipe;
    char *text;
    size_t held;
    if (qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    held = qnt_context_bytes(ctx, NULL);
    require(qnti_copy_bytes(ctx, bytes, n, &text) == QNT_OK);
    if (qnt_recipe_parse(ctx, text, &recipe) == QNT_OK)
        use(ctx, recipe);
    else
        require(!recipe && *qnt_context_message(ctx));
    qnt_recipe_destroy(recipe);
    qnti_free(ctx, text);
    require(qnt_context_bytes(ctx, NULL) == held);
    qnt_context_destroy(ctx);
    return 0;
}
