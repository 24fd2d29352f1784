/*
 * test_recipe.c - recipes as they are written, their errors, who provides which stage, and the tables of parameters.
 */
#include <locale.h>
#include "layer_support.h"
#include "method/recipe.h"

static qnt_status parse(qnt_context *ctx, const char *text)
{
    qnt_recipe *recipe;
    qnt_status status = qnt_recipe_parse(ctx, text, &recipe);
    assert_int_equal(status == QNT_OK, recipe != NULL);
    qnt_recipe_destroy(recipe);
    return status;
}

/* A recipe and how it is written again. */
static void test_text(void **state)
{
    static const char *const texts[][2] = {
        {"gptq", "gptq"},
        {"gptq:", "gptq"},
        {"gptq:group_size=64,bits=3", "gptq:bits=3,group_size=64"},
        {"gptq:bits=3,bits=2", "gptq:bits=2"},
        {"rtn:sym=true,sym_grid=absmax", "rtn:sym=true,sym_grid=absmax"},
        {"rtn:sym=false", "rtn:sym=false"},
        {"gptq:damp=1e-3", "gptq:damp=0.001"},
        {"rtn:mse=true,mse_norm=2.4,refine", NULL},
        {"gptq,refine:refine_passes=5,damp=0.5", "gptq,refine:refine_passes=5,damp=0.5"},
        {"gptq:bits=3,refine:refit_scales=true", NULL},
        {"gptq:bits=3,refine", "gptq:bits=3,refine"},
        {"rtn,refine", "rtn,refine"},
        {"gptq:refine_passes=1,rtn:bits=8", "gptq:refine_passes=1,rtn:bits=8"},
    };
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        qnt_recipe *recipe = recipe_of(ctx, texts[i][0]), *copy, *again;
        if (texts[i][1])
            assert_string_equal(qnt_recipe_text(recipe), texts[i][1]);
        again = recipe_of(ctx, qnt_recipe_text(recipe));
        assert_string_equal(qnt_recipe_text(again), qnt_recipe_text(recipe));
        assert_ok(ctx, qnt_recipe_copy(recipe, &copy));
        assert_string_equal(qnt_recipe_text(copy), qnt_recipe_text(recipe));
        qnt_recipe_destroy(recipe);
        qnt_recipe_destroy(copy);
        qnt_recipe_destroy(again);
    }
    qnt_recipe_destroy(NULL);
    destroy_context(ctx, held);
}

static void test_errors(void **state)
{
    static const struct {
        const char *text;
        qnt_status status;
        const char *part;
    } errors[] = {
        {"gtpq", QNT_NOT_FOUND, "unknown method \"gtpq\"; did you mean \"gptq\"?"},
        {"", QNT_NOT_FOUND, "unknown method \"\""},
        {"rtn,,gptq", QNT_NOT_FOUND, "unknown method \"\""},
        {"RTN", QNT_NOT_FOUND, "did you mean \"rtn\""},
        {"rtn:bit=3", QNT_INVALID, "\"bit\"; did you mean \"bits\"?"},
        {"gptq:blocksize=3", QNT_INVALID, "did you mean \"block_size\"?"},
        {"rtn:block_size=3", QNT_INVALID, "\"block_size\""},
        {"rtn:bits=17", QNT_INVALID, "rtn: bits=17 is out of range (1 .. 16)"},
        {"rtn:bits=0", QNT_INVALID, "out of range"},
        {"rtn:bits=-4", QNT_INVALID, "out of range"},
        {"rtn:bits=99999999999999999999", QNT_INVALID, "out of range"},
        {"rtn:bits=4.0", QNT_INVALID, "bits=4.0 is not of type int"},
        {"rtn:bits=0x4", QNT_INVALID, "not of type int"},
        {"rtn:bits=four", QNT_INVALID, "not of type int"},
        {"rtn:bits=", QNT_INVALID, "not of type int"},
        {"rtn:bits=4 ", QNT_INVALID, "not of type int"},
        {"rtn:bits", QNT_INVALID, "\"bits\" is neither a method nor key=value"},
        {"rtn:sym=yes", QNT_INVALID, "sym=yes is not of type bool (true, false)"},
        {"rtn:sym_grid=max", QNT_INVALID, "sym_grid=max is not of type enum (full|absmax)"},
        {"rtn:sym_grid=", QNT_INVALID, "not of type enum"},
        {"gptq:damp=nan", QNT_INVALID, "not of type float"},
        {"gptq:damp=inf", QNT_INVALID, "not of type float"},
        {"gptq:damp=-0.1", QNT_INVALID, "out of range"},
        {"gptq:damp=1e999", QNT_INVALID, "out of range"},
        {"gptq:damp=0x1p-3", QNT_INVALID, "not of type float"},
        {"rtn,gptq", QNT_INVALID, "a later method provides all that rtn offers"},
        {"gptq,rtn", QNT_INVALID, "a later method provides all that gptq offers"},
        {"refine", QNT_INVALID, "no method quantizes the weights"},
        {"bits=3", QNT_INVALID, "begins with \"bits=3\", not with a method"},
        {"gptq:act_group_aware=true,act_order=true", QNT_INVALID, "two orders"},
        {"gptq:act_group_aware=true,group_size=0", QNT_INVALID, "needs groups"},
        {"rtn,refine,refine,refine,refine,refine,refine,refine,refine,refine,refine,refine,refine,refine,refine,refine,"
         "refine",
         QNT_INVALID, "more than 16 methods"},
    };
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(errors); i++) {
        if (parse(ctx, errors[i].text) != errors[i].status)
            fail_msg("\"%s\" is another failure: %s", errors[i].text, qnt_context_message(ctx));
        assert_message_has(ctx, errors[i].part);
    }
    destroy_context(ctx, held);
}

/* A setting reaches every method that has it, or the one named; one that fails changes nothing. */
static void test_set(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_recipe *r = recipe_of(ctx, "gptq:bits=3,refine");
    (void)state;
    assert_ok(ctx, qnt_recipe_set(r, "damp", "0.5"));
    assert_string_equal(qnt_recipe_text(r), "gptq:bits=3,damp=0.5,refine:damp=0.5");
    assert_ok(ctx, qnt_recipe_set(r, "refine.damp", "0.25"));
    assert_ok(ctx, qnt_recipe_set(r, "bits", "2"));
    assert_string_equal(qnt_recipe_text(r), "gptq:bits=2,damp=0.5,refine:damp=0.25");
    assert_fails(ctx, qnt_recipe_set(r, "bits", "40"), QNT_INVALID, "out of range");
    assert_fails(ctx, qnt_recipe_set(r, "gptq.bit", "4"), QNT_INVALID, "bits");
    assert_fails(ctx, qnt_recipe_set(r, "rtn.bits", "4"), QNT_INVALID, "rtn.bits");
    assert_ok(ctx, qnt_recipe_set(r, "act_order", "true"));
    assert_fails(ctx, qnt_recipe_set(r, "act_group_aware", "true"), QNT_INVALID, "two orders");
    assert_string_equal(qnt_recipe_text(r), "gptq:bits=2,damp=0.5,act_order=true,refine:damp=0.25");
    assert_true(qnt_recipe_needs_calibration(r));
    assert_false(qnt_recipe_needs_pairs(r));
    qnt_recipe_destroy(r);
    destroy_context(ctx, held);
}

/* Settings that make sense only together may come in any order; of those that fail none is taken. */
static void test_set_all(void **state)
{
    static const char *const fixed[] = {"act_static=true", "act_bits=8", "act_granularity=tensor"};
    static const char *const wrong[] = {"act_clip=0.5", "act_granularity=token"}, *const bad[] = {"bits"};
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_recipe *r = recipe_of(ctx, "rtn"), *g = recipe_of(ctx, "gptq");
    (void)state;
    assert_ok(ctx, qnt_recipe_set_all(r, fixed, 3));
    assert_string_equal(qnt_recipe_text(r), "rtn:act_bits=8,act_granularity=tensor,act_static=true");
    assert_fails(ctx, qnt_recipe_set_all(r, wrong, 2), QNT_INVALID, "act_static");
    assert_string_equal(qnt_recipe_text(r), "rtn:act_bits=8,act_granularity=tensor,act_static=true");
    assert_fails(ctx, qnt_recipe_set_all(r, bad, 1), QNT_INVALID, "KEY=VALUE");
    assert_fails(ctx, qnt_recipe_set_all(g, fixed, 3), QNT_INVALID, "act_static");
    assert_ok(ctx, qnt_recipe_set_all(g, fixed + 1, 2));
    assert_ok(ctx, qnt_recipe_set_all(g, fixed, 1));
    assert_string_equal(qnt_recipe_text(g), "rtn:act_bits=8,act_granularity=tensor,act_static=true,gptq");
    qnt_recipe_destroy(r);
    qnt_recipe_destroy(g);
    destroy_context(ctx, held);
}

static void test_stages(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_recipe *r = recipe_of(ctx, "gptq:refine_passes=2,rtn,refine");
    (void)state;
    assert_int_equal(r->count, 3);
    assert_string_equal(qnti_recipe_weights(r)->method->name, "rtn");
    assert_true(qnti_recipe_corrects(&r->steps[0]) && !qnti_recipe_corrects(&r->steps[1]) &&
                qnti_recipe_corrects(&r->steps[2]));
    assert_true(qnti_recipe_given(&r->steps[0], "refine_passes") && !qnti_recipe_given(&r->steps[0], "damp"));
    assert_true(qnti_recipe_number(&r->steps[0], "refine_passes", -1) == 2);
    assert_true(qnti_recipe_number(&r->steps[1], "refine_passes", -1) == -1);
    assert_int_equal(r->provider[QNTI_STAGE_TRANSFORM], -1);
    qnt_recipe_destroy(r);
    r = recipe_of(ctx, "rtn");
    assert_false(qnt_recipe_needs_calibration(r));
    assert_ok(ctx, qnt_recipe_set(r, "bits", "5"));
    qnt_recipe_destroy(r);
    r = recipe_of(ctx, "gptq:asymmetric=true");
    assert_true(qnt_recipe_needs_pairs(r) && qnt_recipe_needs_calibration(r));
    qnt_recipe_destroy(r);
    qnt_context_destroy(ctx);
}

/* A format's preferences yield to the user; what it prescribes does not. */
static void test_adapt(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    const struct qnti_layout *q4_0 = qnti_layout_find(ctx, "GGUF:Q4_0"), *native = qnti_layout_find(ctx, "native");
    qnt_recipe *r = recipe_of(ctx, "gptq:damp=0.1"), *adapted;
    (void)state;
    assert_ok(ctx, qnti_recipe_adapt(r, q4_0, true, &adapted));
    assert_true(qnti_recipe_number(&adapted->steps[0], "damp", 0) == 0.1);
    assert_true(qnti_recipe_number(&adapted->steps[0], "refine_passes", 0) > 0);
    assert_true(qnti_recipe_number(&adapted->steps[0], "qep", 0) == 0.5);
    qnt_recipe_destroy(adapted);
    assert_ok(ctx, qnti_recipe_adapt(r, q4_0, false, &adapted)); /* nothing to make up for is known */
    assert_true(qnti_recipe_number(&adapted->steps[0], "qep", 1) == 0);
    assert_false(qnt_recipe_needs_pairs(adapted));
    qnt_recipe_destroy(adapted);
    assert_ok(ctx, qnti_recipe_adapt(r, native, true, &adapted));
    assert_string_equal(qnt_recipe_text(adapted), qnt_recipe_text(r));
    qnt_recipe_destroy(adapted);
    assert_ok(ctx, qnt_recipe_set(r, "bits", "4"));
    assert_fails(ctx, qnti_recipe_adapt(r, q4_0, true, &adapted), QNT_INVALID, "bits of method gptq");
    assert_null(adapted);
    assert_message_has(ctx, "gguf:q4_0");
    assert_ok(ctx, qnti_recipe_adapt(r, NULL, true, &adapted));
    qnt_recipe_destroy(adapted);
    qnt_recipe_destroy(r);
    assert_null(qnti_layout_find(ctx, "gguf:q9"));
    assert_message_has(ctx, "unknown format \"gguf:q9\"; there are native");
    destroy_context(ctx, held);
}

/* --- every method's table --- */

static void check_row(qnt_context *ctx, const struct qnti_method *method, const struct qnti_param *row)
{
    struct qnti_param_table table = method->table;
    void *params = new_memory(table.bytes, 1);
    qnt_parameter_info info;
    char text[64];
    qnti_param_defaults(&table, params);
    qnti_param_describe(row, &info);
    assert_true(strlen(row->help) > 0 && strlen(row->help) < 120 && strlen(info.range) > 0);
    assert_true(qnti_param_number(row, params) == row->value);
    assert_ok(ctx, qnti_param_set(ctx, method->name, row, info.default_value, params));
    assert_true(qnti_param_number(row, params) == row->value);
    assert_ptr_equal(qnti_param_find(&table, row->name), row); /* names are unique */
    for (const char *c = row->name; *c; c++)
        assert_true((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '_');
    if (row->type == QNTI_PARAM_INT || row->type == QNTI_PARAM_FLOAT) {
        assert_true(row->value >= row->least && row->value <= row->greatest);
        snprintf(text, sizeof text, row->type == QNTI_PARAM_INT ? "%.0f" : "%.17g", row->least);
        assert_ok(ctx, qnti_param_set(ctx, method->name, row, text, params));
        assert_true(qnti_param_number(row, params) == row->least);
        snprintf(text, sizeof text, row->type == QNTI_PARAM_INT ? "%.0f" : "%.17g", row->least - 1);
        assert_fails(ctx, qnti_param_set(ctx, method->name, row, text, params), QNT_INVALID, row->name);
    }
    if (row->type == QNTI_PARAM_INT) /* an int must hold the whole range */
        assert_true(row->least >= -2147483648.0 && row->greatest <= 2147483647.0);
    free(params);
}

static void test_tables(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_method_info info;
    qnt_parameter_info parameter;
    size_t m = 0;
    (void)state;
    for (; qnt_method_get(m, &info); m++) {
        const struct qnti_method *method = qnti_method_named(info.name);
        assert_ptr_equal(method, qnti_methods[m]);
        assert_true(strlen(info.title) > 0 && strlen(info.reference) > 0);
        assert_true(strcmp(info.scope, "layer") == 0 || strcmp(info.scope, "site") == 0 ||
                    strcmp(info.scope, "block") == 0 || strcmp(info.scope, "model") == 0);
        assert_true(info.transform || info.activations || info.weights || info.correct);
        assert_true(method->table.count <= 64); /* `given` has a bit for each */
        for (size_t i = 0; i < info.parameter_count; i++) {
            assert_true(qnt_method_parameter(m, i, &parameter));
            assert_string_equal(parameter.name, method->table.rows[i].name);
            check_row(ctx, method, &method->table.rows[i]);
        }
        assert_false(qnt_method_parameter(m, info.parameter_count, &parameter));
    }
    assert_false(qnt_method_get(m + 5, &info));
    assert_false(qnt_method_parameter(m, 0, &parameter));
    assert_null(qnti_method_named("no such"));
    qnt_context_destroy(ctx);
}

static void test_edit_distance(void **state)
{
    (void)state;
    assert_int_equal(qnti_edit_distance("", "abc"), 3);
    assert_int_equal(qnti_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(qnti_edit_distance("gtpq", "gptq"), 2);
    assert_int_equal(qnti_edit_distance("same", "same"), 0);
}

/* Numbers are read in the C locale's form under any locale. */
static void test_locale(void **state)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C"};
    qnt_context *ctx = context_of(1);
    qnt_recipe *r;
    (void)state;
    for (size_t i = 0; i < COUNT(names) && !setlocale(LC_NUMERIC, names[i]); i++)
        ;
    r = recipe_of(ctx, "gptq:damp=0.125");
    assert_true(qnti_recipe_number(&r->steps[0], "damp", 0) == 0.125);
    assert_string_equal(qnt_recipe_text(r), "gptq:damp=0.125");
    setlocale(LC_NUMERIC, "C");
    qnt_recipe_destroy(r);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),     cmocka_unit_test(test_errors), cmocka_unit_test(test_set),
        cmocka_unit_test(test_set_all),  cmocka_unit_test(test_stages), cmocka_unit_test(test_adapt),
        cmocka_unit_test(test_tables),   cmocka_unit_test(test_edit_distance), cmocka_unit_test(test_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
