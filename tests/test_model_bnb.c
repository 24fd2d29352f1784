/*
 * test_model_bnb.c - bitsandbytes folders: written, read back as a model, their configuration, refused where it lies.
 */
#include "export_support.h"

#include "container/json.h"

static const struct {
    const char *recipe, *type;
    bool nested;
} cases[] = {
    {"bnb4", "nf4", false}, {"bnb4:format=fp4,block_size=32", "fp4", false}, {"bnb4:double_quant=true", "nf4", true},
    {"llm_int8", NULL, false}, {"llm_int8:outlier_threshold=0", NULL, false},
};

static void begin(struct run *run, const char *recipe)
{
    start(run, "model", "bnb");
    qnt_recipe_destroy(run->recipe);
    assert_int_equal(qnt_recipe_parse(run->ctx, recipe, &run->recipe), QNT_OK);
}

static void write_out(struct run *run)
{
    if (run->e.format->write(&run->e, "out") != QNT_OK)
        fail_msg("%s", qnt_context_message(run->ctx));
}

static void finish_out(struct run *run)
{
    qnti_folder_remove(run->ctx, "out");
    finish(run);
    remove_files();
}

static void compare_layer(struct run *run, size_t target, const struct qnti_weight *w)
{
    size_t n = w->rows * w->cols;
    float *wanted = malloc(n * sizeof *wanted), *x = rows_of(run, w);
    qnt_qlinear *q;
    assert_non_null(wanted);
    assert_int_equal(run->e.layer(run, target, &q), QNT_OK);
    assert_int_equal(qnt_dequantize(q, wanted), QNT_OK);
    assert_memory_equal(x, wanted, n * sizeof *x);
    assert_non_null(w->qlinear);
    assert_int_equal(w->qlinear->act != NULL, q->act != NULL);
    if (q->act)
        assert_true(w->qlinear->act->threshold == q->act->threshold && qnti_actquant_is_int8(w->qlinear->act));
    else
        assert_int_equal(w->qlinear->source_type, run->targets[target].source->plain.dtype);
    qnt_qlinear_destroy(q);
    free(wanted);
    free(x);
}

/* Layers have their values, all else is as it was. */
static void compare_out(struct run *run)
{
    struct qnti_checkpoint *c;
    if (qnti_checkpoint_open(run->ctx, "out", &c) != QNT_OK)
        fail_msg("%s", qnt_context_message(run->ctx));
    assert_string_equal(c->kind, "bitsandbytes folder");
    for (size_t i = 0; i < run->e.count; i++) {
        const struct qnti_target *t = &run->targets[i];
        const struct qnti_weight *w = t->bias ? qnti_checkpoint_bias(c, t->block, t->role)
                                              : qnti_checkpoint_weight(c, t->block, t->role);
        assert_non_null(w);
        if (t->quantized) {
            compare_layer(run, i, w);
            continue;
        }
        assert_int_equal(w->plain.dtype, t->source->plain.dtype);
        assert_memory_equal(w->plain.data, t->source->plain.data,
                            w->rows * w->cols * qnti_dtype_bytes(w->plain.dtype));
    }
    assert_int_equal(qnti_checkpoint_check_finite(c), QNT_OK);
    qnti_checkpoint_close(c);
}

static json_t *configuration(const struct run *run, json_t **whole)
{
    assert_int_equal(qnti_json_load(run->ctx, "out/config.json", whole), QNT_OK);
    return json_object_get(*whole, "quantization_config");
}

static bool says(const json_t *q, const char *key)
{
    assert_true(json_is_boolean(json_object_get(q, key)));
    return json_is_true(json_object_get(q, key));
}

static void check_config(const struct run *run, size_t i, const char *dtype)
{
    json_t *whole;
    const json_t *q = configuration(run, &whole);
    bool four = cases[i].type != NULL;
    assert_string_equal(json_string_value(json_object_get(q, "quant_method")), "bitsandbytes");
    assert_true(says(q, "load_in_4bit") == four && says(q, "_load_in_4bit") == four);
    assert_true(says(q, "load_in_8bit") != four && says(q, "_load_in_8bit") != four);
    assert_string_equal(json_string_value(json_object_get(q, "bnb_4bit_quant_type")), four ? cases[i].type : "nf4");
    assert_true(says(q, "bnb_4bit_use_double_quant") == cases[i].nested);
    assert_string_equal(json_string_value(json_object_get(q, "bnb_4bit_compute_dtype")), dtype);
    assert_true(json_real_value(json_object_get(q, "llm_int8_threshold")) == (i == 4 ? 0 : 6));
    assert_true(json_is_null(json_object_get(q, "llm_int8_skip_modules")));
    json_decref(whole);
}

static void test_values(void **state)
{
    static const char *const dtypes[] = {"F32", "F16", "BF16"}, *const names[] = {"float32", "float16", "bfloat16"};
    static struct run run;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct shape shape = small;
        shape.dtype = dtypes[i % 3];
        shape.tied = i % 2;
        shape.bias = i % 3 != 1;
        make_model(&shape);
        begin(&run, cases[i].recipe);
        write_out(&run);
        compare_out(&run);
        check_config(&run, i, names[i % 3]);
        finish_out(&run);
    }
}

static void test_shards(void **state)
{
    static struct run run;
    (void)state;
    make_model(&small);
    begin(&run, "bnb4:double_quant=true");
    run.e.shard_bytes = 9000;
    write_out(&run);
    assert_true(qnti_path_exists("out/model.safetensors.index.json"));
    compare_out(&run);
    finish_out(&run);
}

/* Layers that stay float are named, with the output matrix, which is not named by itself then. */
static void test_skipped(void **state)
{
    static struct run run;
    const json_t *list;
    json_t *whole;
    (void)state;
    make_model(&small);
    begin(&run, "bnb4");
    for (size_t i = 0; i < run.e.count; i++)
        if (run.targets[i].role == QNTI_V && !run.targets[i].bias && run.targets[i].block == 1) {
            run.targets[i].quantized = false;
            run.targets[i].layout = "plain";
        }
    write_out(&run);
    compare_out(&run);
    list = json_object_get(configuration(&run, &whole), "llm_int8_skip_modules");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(json_string_value(json_array_get(list, 0)), "model.layers.1.self_attn.v_proj");
    assert_string_equal(json_string_value(json_array_get(list, 1)), "lm_head");
    json_decref(whole);
    finish_out(&run);
}

/* Blocks may differ from layer to layer, thresholds may not. */
static qnt_status mixed_layer(void *user, size_t target, qnt_qlinear **q)
{
    struct run *run = user;
    bool up = run->targets[target].role == QNTI_UP;
    bool rows = strstr(qnt_recipe_text(run->recipe), "llm_int8") != NULL;
    QNT_TRY(qnt_recipe_set(run->recipe, rows ? "outlier_threshold" : "block_size", rows ? up ? "3" : "6" : up ? "32"
                                                                                                   : "64"));
    return nearest_layer(user, target, q);
}

static void test_layers_that_differ(void **state)
{
    static struct run run;
    (void)state;
    make_model(&small);
    begin(&run, "bnb4");
    run.e.layer = mixed_layer;
    write_out(&run);
    compare_out(&run);
    finish_out(&run);
    make_model(&small);
    begin(&run, "llm_int8");
    run.e.layer = mixed_layer;
    assert_int_equal(run.e.format->write(&run.e, "out"), QNT_UNSUPPORTED);
    assert_message_has(run.ctx, "up_proj");
    assert_message_has(run.ctx, "one threshold");
    assert_false(qnti_path_exists("out"));
    finish_out(&run);
}

/* A threshold of the configuration is what the layers get; without one it is the library's 6. */
static void test_threshold(void **state)
{
    static const float wanted[] = {6, 2.5f};
    static struct run run;
    (void)state;
    make_model(&small);
    begin(&run, "llm_int8");
    write_out(&run);
    for (size_t i = 0; i < COUNT(wanted); i++) {
        struct qnti_checkpoint *c;
        json_t *whole, *q = configuration(&run, &whole);
        if (i)
            json_object_set_new(q, "llm_int8_threshold", json_real(2.5));
        else
            json_object_del(q, "llm_int8_threshold");
        assert_int_equal(json_dump_file(whole, "out/config.json", 0), 0);
        json_decref(whole);
        assert_int_equal(qnti_checkpoint_open(run.ctx, "out", &c), QNT_OK);
        assert_true(qnti_checkpoint_weight(c, 0, QNTI_Q)->qlinear->act->threshold == wanted[i]);
        qnti_checkpoint_close(c);
    }
    finish_out(&run);
}

static void test_memory(void **state)
{
    (void)state;
    each_allocation_of_an_export_fails("bnb", "bnb4:double_quant=true", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),             cmocka_unit_test(test_shards),    cmocka_unit_test(test_skipped),
        cmocka_unit_test(test_layers_that_differ), cmocka_unit_test(test_threshold), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
