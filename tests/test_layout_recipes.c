/*
 * test_layout_recipes.c - what a target format makes of a recipe: preferred parameters, grids it can hold, refusals.
 */
#include "layout_support.h"

#include <math.h>
#include "method/recipe.h"
#include "pack/layout.h"

static void test_preferred(void **state)
{
    static const struct {
        const char *recipe, *format;
        unsigned bits;
        bool sym;
    } cases[] = {{"rtn", "gptq", 4, true},        {"rtn:bits=3,sym=false", "gptq", 3, false}, {"rtn", "awq", 4, false},
                 {"rtn:sym=true", "awq", 4, true}, {"rtn:group_size=0", "awq", 4, false}};
    qnt_context *ctx = context_of(1);
    float *w = random_floats(64 * 256, 1, 1);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct qnti_grid *g;
        struct packed p;
        qnt_qlinear *q;
        assert_ok(ctx, quantize_with(ctx, cases[i].recipe, cases[i].format, qnt_matrix_f32(w, 64, 256), NULL, NULL, 0,
                                     &q));
        g = &q->segments[0].weight->grid;
        assert_int_equal(g->bits, cases[i].bits);
        assert_int_equal(g->sym, cases[i].sym);
        assert_int_equal(g->scale_type, QNT_F16);
        assert_int_equal(g->map.cols, strstr(cases[i].recipe, "group") ? 0 : 128);
        pack(ctx, q, cases[i].format, &p);
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    free(w);
    qnt_context_destroy(ctx);
}

/* Version 1 stores zeros less 1: weights that are all positive get a zero of 1, and their codes follow. */
static void test_least_zero(void **state)
{
    static const char *const recipes[] = {"rtn:sym=false,bits=4", "rtn:sym=false,include_zero=false",
                                          "gptq:sym=false,mse=true", "awq:sym=false"};
    qnt_context *ctx = context_of(1);
    float *w = random_floats(32 * 256, 1, 1), *x = random_tokens(300, 256, 2);
    (void)state;
    for (size_t i = 0; i < 32 * 256; i++)
        w[i] = fabsf(w[i]);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        struct packed p;
        qnt_qlinear *q;
        assert_ok(ctx, quantize_with(ctx, recipes[i], "gptq:v1", qnt_matrix_f32(w, 32, 256), x, NULL, 300, &q));
        for (size_t k = 0; k < q->segments[0].weight->offset->rows * q->segments[0].weight->offset->cols; k++)
            assert_true(q->segments[0].weight->offset->value[k] >= 1);
        assert_true(q->report.weight_error < 0.02);
        pack(ctx, q, "gptq:v1", &p);
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    free(w);
    free(x);
    qnt_context_destroy(ctx);
}

/* Groups along the order of processing go where they can be held; elsewhere they stay those of the columns. */
static void test_act_order(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats(32 * 64, 1, 1), *x = random_tokens(100, 64, 2);
    struct packed p;
    qnt_qlinear *q;
    (void)state;
    assert_ok(ctx, quantize_with(ctx, "gptq:act_order=true,group_size=16", "gptq", qnt_matrix_f32(w, 32, 64), x, NULL,
                                 100, &q));
    assert_int_equal(q->segments[0].weight->grid.map.kind, QNTI_MAP_INDEX);
    pack(ctx, q, "gptq", &p);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    assert_ok(ctx, quantize_with(ctx, "gptq:act_order=true,group_size=16", "awq", qnt_matrix_f32(w, 32, 64), x, NULL,
                                 100, &q));
    assert_int_equal(q->segments[0].weight->grid.map.kind, QNTI_MAP_TILES);
    pack(ctx, q, "awq", &p);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    free(w);
    free(x);
    qnt_context_destroy(ctx);
}

static void refuse_recipe(qnt_context *ctx, const char *recipe, const char *format, const char *part, const char *could)
{
    const struct qnti_layout *layout = qnti_layout_find(ctx, format);
    qnt_recipe *r = recipe_of(ctx, recipe), *adapted;
    assert_fails(ctx, qnti_recipe_adapt(r, layout, true, &adapted), QNT_INVALID, part);
    assert_message_has(ctx, format);
    assert_message_has(ctx, could);
    assert_null(adapted);
    qnt_recipe_destroy(r);
}

static void test_recipes(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    refuse_recipe(ctx, "rtn:bits=5", "gptq", "bits=5", "native");
    refuse_recipe(ctx, "gptq:bits=3", "awq", "bits=3", "gptq:v2");
    refuse_recipe(ctx, "rtn:per_tensor=true", "gptq", "per_tensor", "native");
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_preferred),
        cmocka_unit_test(test_least_zero),
        cmocka_unit_test(test_act_order),
        cmocka_unit_test(test_recipes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
