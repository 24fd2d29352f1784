/*
 * test_model_compressed.c - compressed-tensors folders: written, read back as a model, written again, their
 * configuration, what of it is refused, and damaged files.
 */
#include "export_support.h"

#include "container/json.h"
#include "export/folder.h"

enum { TOKENS = 48 };

static const struct {
    const char *format, *recipe, *stored, *dtype;
    bool inputs;
} cases[] = {
    {"compressed-tensors", "rtn:bits=4,group_size=32", "pack-quantized", NULL, false},
    {"compressed-tensors", "rtn:bits=3,group_size=16,sym=false", "pack-quantized", NULL, false},
    {"compressed-tensors:w4a16", "rtn:group_size=32", "pack-quantized", NULL, false},
    {"compressed-tensors:w8a16", "rtn", "pack-quantized", NULL, false},
    {"compressed-tensors:w8a8", "rtn", "int-quantized", NULL, true},
    {"compressed-tensors", "smoothquant:act_granularity=tensor,act_static=true,bits=6", "int-quantized", NULL, true},
    {"compressed-tensors:fp8", "rtn", "float-quantized", NULL, true},
    {"compressed-tensors:fp8-dynamic", "rtn", "float-quantized", NULL, true},
    {"compressed-tensors:nvfp4a16", "rtn", "nvfp4-pack-quantized", "bfloat16", false},
    {"compressed-tensors:nvfp4", "rtn", "nvfp4-pack-quantized", "bfloat16", true},
    {"compressed-tensors:mxfp4a16", "rtn", "mxfp4-pack-quantized", "bfloat16", false},
    {"compressed-tensors:mxfp4", "rtn", "mxfp4-pack-quantized", "bfloat16", true},
    {"compressed-tensors", "os_plus", "int-quantized", NULL, true},
    {"compressed-tensors", "os_plus:act_granularity=group,act_group_size=32,bits=6", "int-quantized", NULL, true},
    {"compressed-tensors:w8a8", "outlier_suppression:act_bits=8", "int-quantized", NULL, true},
    {"compressed-tensors", "fptq:group_size=32,strategy=dynamic", "int-quantized", NULL, true},
};

/* Rounded to nearest, with calibration for inputs of static scales. */
static qnt_status calibrated_layer(void *user, size_t target, qnt_qlinear **q)
{
    struct run *run = user;
    const struct qnti_target *t = &run->targets[target];
    qnt_calib *calib = NULL;
    float *w = NULL, *x = NULL;
    size_t in = t->source->cols;
    uint32_t seed = 7;
    qnt_layer layer = {.name = t->source->name, .format = t->layout};
    qnt_status status;
    QNT_CHECK(QNTI_NEW(run->ctx, t->source->rows * in, &w));
    QNT_CHECK(QNTI_NEW(run->ctx, TOKENS * in, &x));
    for (size_t i = 0; i < TOKENS * in; i++)
        x[i] = random_weight(&seed);
    QNT_CHECK(qnti_weight_rows(run->ctx, t->source, 0, t->source->rows, w));
    QNT_CHECK(qnt_calib_create(run->ctx, run->recipe, in, &calib));
    QNT_CHECK(qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, in)));
    layer.weight = qnt_matrix_f32(w, t->source->rows, in);
    layer.calib = calib;
    status = qnt_quantize(run->ctx, run->recipe, &layer, q);
cleanup:
    qnt_calib_destroy(calib);
    qnti_free(run->ctx, w);
    qnti_free(run->ctx, x);
    return status;
}

static void begin(struct run *run, const char *format, const char *recipe)
{
    start(run, "model", format);
    qnt_recipe_destroy(run->recipe);
    run->recipe = NULL;
    assert_int_equal(qnt_recipe_parse(run->ctx, recipe, &run->recipe), QNT_OK);
    run->e.layer = calibrated_layer;
}

static void write_to(struct run *run, const char *path)
{
    run->progress = 0;
    if (run->e.format->write(&run->e, path) != QNT_OK)
        fail_msg("%s", qnt_context_message(run->ctx));
}

static void finish_out(struct run *run)
{
    qnti_folder_remove(run->ctx, "out");
    finish(run);
    remove_files();
}

static json_t *configuration(const struct run *run, json_t **whole)
{
    assert_int_equal(qnti_json_load(run->ctx, "out/config.json", whole), QNT_OK);
    return json_object_get(*whole, "quantization_config");
}

static const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "(none)";
}

/* --- written and read --- */

static void compare_layer(struct run *run, size_t target, const struct qnti_weight *w)
{
    size_t n = w->rows * w->cols;
    float *wanted = malloc(n * sizeof *wanted), *x = rows_of(run, w);
    qnt_qlinear *q;
    assert_non_null(wanted);
    assert_int_equal(run->e.layer(run, target, &q), QNT_OK);
    assert_int_equal(qnt_dequantize(q, wanted), QNT_OK);
    for (size_t i = 0; i < n; i++)
        assert_true(x[i] == wanted[i]);
    assert_int_equal(w->qlinear->act != NULL, q->act != NULL);
    qnt_qlinear_destroy(q);
    free(wanted);
    free(x);
}

static struct qnti_checkpoint *open_out(struct run *run)
{
    struct qnti_checkpoint *c;
    if (qnti_checkpoint_open(run->ctx, "out", &c) != QNT_OK)
        fail_msg("%s", qnt_context_message(run->ctx));
    assert_string_equal(c->kind, "compressed-tensors folder");
    return c;
}

static const struct qnti_weight *same_weight(const struct qnti_checkpoint *c, const struct qnti_target *t)
{
    return t->bias ? qnti_checkpoint_bias(c, t->block, t->role) : qnti_checkpoint_weight(c, t->block, t->role);
}

static void compare_out(struct run *run)
{
    struct qnti_checkpoint *c = open_out(run);
    qnt_dtype floats = run->e.format->rules->floats;
    for (size_t i = 0; i < run->e.count; i++) {
        const struct qnti_target *t = &run->targets[i];
        const struct qnti_weight *w = same_weight(c, t);
        assert_non_null(w);
        assert_int_equal(w->qlinear != NULL, t->quantized);
        if (t->quantized)
            compare_layer(run, i, w);
        else
            assert_int_equal(w->plain.dtype, floats == QNT_F32 ? t->source->plain.dtype : floats);
    }
    assert_int_equal(qnti_checkpoint_check_finite(c), QNT_OK);
    qnti_checkpoint_close(c);
}

static void same_files(const struct run *run, const char *name)
{
    char a[64], b[64];
    void *x, *y;
    size_t n, m;
    snprintf(a, sizeof a, "out/%s", name);
    snprintf(b, sizeof b, "again/%s", name);
    assert_int_equal(qnti_map_file(run->ctx, a, &x, &n), QNT_OK);
    assert_int_equal(qnti_map_file(run->ctx, b, &y, &m), QNT_OK);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    qnti_unmap_file(x, n);
    qnti_unmap_file(y, m);
}

static void test_values(void **state)
{
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    static struct run run;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct shape shape = small;
        const json_t *q, *group;
        json_t *whole;
        shape.dtype = dtypes[i % 3];
        shape.tied = i % 2;
        shape.bias = i % 3 != 1;
        make_model(&shape);
        begin(&run, cases[i].format, cases[i].recipe);
        write_to(&run, "out");
        compare_out(&run);
        q = configuration(&run, &whole);
        group = json_object_get(json_object_get(q, "config_groups"), "group_0");
        assert_string_equal(text_of(q, "format"), cases[i].stored);
        assert_string_equal(text_of(group, "format"), cases[i].stored);
        assert_string_equal(json_string_value(json_array_get(json_object_get(group, "targets"), 0)), "Linear");
        assert_int_equal(json_is_object(json_object_get(group, "input_activations")), cases[i].inputs);
        assert_string_equal(json_string_value(json_array_get(json_object_get(q, "ignore"), 0)), "lm_head");
        if (cases[i].dtype)
            assert_string_equal(text_of(whole, "torch_dtype"), cases[i].dtype);
        json_decref(whole);
        finish_out(&run);
    }
}

/* A layer of the folder that was written, taken out of its checkpoint. */
static qnt_status copied_layer(void *user, size_t target, qnt_qlinear **q)
{
    const struct run *run = user;
    struct qnti_checkpoint *c;
    struct qnti_weight *w;
    QNT_TRY(qnti_checkpoint_open(run->ctx, "out", &c));
    w = (struct qnti_weight *)(uintptr_t)same_weight(c, &run->targets[target]);
    *q = (qnt_qlinear *)(uintptr_t)w->qlinear;
    w->qlinear = NULL;
    qnti_checkpoint_close(c);
    return QNT_OK;
}

/* Read, and written again: the same bytes. */
static void test_again(void **state)
{
    static struct run run;
    struct shape shape = small;
    (void)state;
    shape.blocks = 1;
    for (size_t i = 0; i < COUNT(cases); i++) {
        make_model(&shape);
        begin(&run, cases[i].format, cases[i].recipe);
        write_to(&run, "out");
        run.e.layer = copied_layer;
        write_to(&run, "again");
        same_files(&run, "model.safetensors");
        same_files(&run, "config.json");
        qnti_folder_remove(run.ctx, "again");
        finish_out(&run);
    }
}

static void test_shards(void **state)
{
    static struct run run;
    (void)state;
    make_model(&small);
    begin(&run, "compressed-tensors", "rtn:group_size=32");
    run.e.shard_bytes = 9000;
    write_to(&run, "out");
    assert_true(qnti_path_exists("out/model.safetensors.index.json"));
    compare_out(&run);
    finish_out(&run);
}

/* --- layers that differ --- */

static enum qnti_role other_role;

static qnt_status mixed_layer(void *user, size_t target, qnt_qlinear **q)
{
    struct run *run = user;
    bool other = run->targets[target].role == other_role;
    QNT_TRY(qnt_recipe_set(run->recipe, "bits", other ? "8" : "4"));
    return nearest_layer(user, target, q);
}

static void test_layers_that_differ(void **state)
{
    static struct run run;
    const json_t *q, *groups, *targets, *ignore;
    json_t *whole;
    (void)state;
    make_model(&small);
    begin(&run, "compressed-tensors", "rtn:group_size=32");
    run.e.layer = mixed_layer;
    other_role = QNTI_DOWN;
    for (size_t i = 0; i < run.e.count; i++)
        if (run.targets[i].role == QNTI_O && !run.targets[i].bias) {
            run.targets[i].quantized = false;
            run.targets[i].layout = "plain";
        }
    write_to(&run, "out");
    compare_out(&run);
    q = configuration(&run, &whole);
    groups = json_object_get(q, "config_groups");
    assert_int_equal(json_object_size(groups), 2);
    targets = json_object_get(json_object_get(groups, "group_1"), "targets");
    assert_int_equal(json_array_size(targets), 2);
    assert_string_equal(json_string_value(json_array_get(targets, 1)), "model.layers.1.mlp.down_proj");
    ignore = json_object_get(q, "ignore");
    assert_int_equal(json_array_size(ignore), 3);
    assert_string_equal(json_string_value(json_array_get(ignore, 0)), "model.layers.0.self_attn.o_proj");
    json_decref(whole);
    qnti_folder_remove(run.ctx, "out");
    other_role = QNTI_UP; /* which is joined with gate */
    run.progress = 0;
    assert_int_equal(run.e.format->write(&run.e, "out"), QNT_UNSUPPORTED);
    assert_message_has(run.ctx, "gate_proj.weight and model.layers.0.mlp.up_proj.weight");
    assert_false(qnti_path_exists("out"));
    finish_out(&run);
}

/* --- configurations of others --- */

static void put_quantization(const struct run *run, json_t *quantization)
{
    json_t *whole;
    configuration(run, &whole);
    json_object_set_new(whole, "quantization_config", quantization);
    assert_int_equal(json_dump_file(whole, "out/config.json", 0), 0);
    json_decref(whole);
}

/* The configuration as it was written with one value, which is JSON, at a path of keys. */
static json_t *changed(const json_t *was, const char *path, const char *value)
{
    json_t *q = json_deep_copy(was), *at = q;
    char key[64];
    for (const char *slash; (slash = strchr(path, '/')); path = slash + 1) {
        snprintf(key, sizeof key, "%.*s", (int)(slash - path), path);
        at = json_object_get(at, key);
        assert_non_null(at);
    }
    json_object_set_new(at, path, json_loads(value, JSON_DECODE_ANY, NULL));
    return q;
}

static qnt_status open_status(struct run *run)
{
    struct qnti_checkpoint *c;
    qnt_status status = qnti_checkpoint_open(run->ctx, "out", &c);
    qnti_checkpoint_close(c);
    return status;
}

#define GROUP "config_groups/group_0/"
#define WEIGHTS GROUP "weights/"
#define INPUTS "{\"num_bits\": 8, \"strategy\": "

static void test_refused(void **state)
{
    static const struct {
        const char *path, *value, *part;
        qnt_status status;
    } refused[] = {
        {"format", "\"sparse-24\"", "", QNT_OK},   /* the group has its own */
        {GROUP "format", "\"marlin-24\"", "marlin-24", QNT_UNSUPPORTED},
        {GROUP "format", "\"int-quantized\"", "int-quantized", QNT_BAD_DATA},
        {"sparsity_config", "{\"format\": \"sparse-24-bitmask\"}", "sparse-24-bitmask", QNT_UNSUPPORTED},
        {"sparsity_config", "{\"format\": \"dense\"}", "", QNT_OK},
        {"sparsity_config", "{}", "", QNT_OK},
        {"quantization_status", "\"frozen\"", "frozen", QNT_UNSUPPORTED},
        {"kv_cache_scheme", "{\"num_bits\": 8}", "kv_cache_scheme", QNT_UNSUPPORTED},
        {"transform_config", "{\"config_groups\": {\"a\": 1}}", "transform_config", QNT_UNSUPPORTED},
        {"some_future_key", "3", "", QNT_OK},
        {"config_groups", "{}", "config_groups", QNT_BAD_DATA},
        {"config_groups", "[]", "config_groups", QNT_BAD_DATA},
        {"ignore", "\"lm_head\"", "ignore", QNT_BAD_DATA},
        {"ignore", "[1]", "ignore", QNT_BAD_DATA},
        {"ignore", "[\"re:.*q_proj\"]", "q_proj: its tensors are quantized, but the configuration says to ignore",
         QNT_BAD_DATA},
        {"ignore", "[\"re:(\"]", "\"(\"", QNT_UNSUPPORTED},
        {GROUP "some_key", "1", "group_0 has a key \"some_key\"", QNT_BAD_DATA},
        {GROUP "targets", "[\"re:.*_proj\"]", "", QNT_OK},
        {GROUP "targets", "[\"re:self_attn.*\"]", "q_proj: its tensors are quantized, but the configuration has no",
         QNT_BAD_DATA},   /* an expression matches from the start */
        {GROUP "targets", "[\"Conv1d\"]", "no group for it", QNT_BAD_DATA},
        {GROUP "targets", "null", "targets", QNT_BAD_DATA},
        {GROUP "weights", "null", "weights", QNT_UNSUPPORTED},
        {GROUP "output_activations", "{\"num_bits\": 8}", "output_activations", QNT_UNSUPPORTED},
        {GROUP "input_activations", INPUTS "\"token\"}", "dynamic do not go together", QNT_UNSUPPORTED},
        {GROUP "input_activations", INPUTS "\"channel\", \"dynamic\": true}", "strategy", QNT_UNSUPPORTED},
        {GROUP "input_activations", INPUTS "\"tensor\"}", "no tensor input_scale", QNT_BAD_DATA},
        {GROUP "input_activations", INPUTS "\"group\", \"group_size\": 40, \"dynamic\": true}", "groups of 40",
         QNT_BAD_DATA},
        {GROUP "input_activations", INPUTS "\"group\", \"dynamic\": true}", "without a group_size", QNT_BAD_DATA},
        {GROUP "input_activations", INPUTS "\"token\", \"dynamic\": 3}", "dynamic should be", QNT_BAD_DATA},
        {WEIGHTS "num_bits", "9", "num_bits is 9", QNT_UNSUPPORTED},
        {WEIGHTS "num_bits", "8", "expected 16", QNT_BAD_DATA},
        {WEIGHTS "num_bits", "\"4\"", "num_bits", QNT_BAD_DATA},
        {WEIGHTS "type", "\"float\"", "pack-quantized does not hold", QNT_BAD_DATA},
        {WEIGHTS "type", "\"complex\"", "complex", QNT_UNSUPPORTED},
        {WEIGHTS "strategy", "\"attn_head\"", "attn_head", QNT_UNSUPPORTED},
        {WEIGHTS "strategy", "\"channel\"", "the configuration says 4 by channel", QNT_BAD_DATA},
        {WEIGHTS "strategy", "null", "", QNT_OK},
        {WEIGHTS "group_size", "64", "says 4 by group, groups of 64", QNT_BAD_DATA},
        {WEIGHTS "group_size", "0", "group_size", QNT_BAD_DATA},
        {WEIGHTS "symmetric", "false", "weight_zero_point", QNT_BAD_DATA},
        {WEIGHTS "dynamic", "true", "dynamic", QNT_UNSUPPORTED},
        {WEIGHTS "actorder", "\"group\"", "actorder", QNT_UNSUPPORTED},
        {WEIGHTS "actorder", "true", "actorder", QNT_UNSUPPORTED},
        {WEIGHTS "actorder", "\"static\"", "", QNT_OK},
        {WEIGHTS "zp_dtype", "\"torch.int8\"", "", QNT_OK},
        {WEIGHTS "block", "[1, 2]", "weights has a key \"block\"", QNT_BAD_DATA},
    };
    static struct run run;
    json_t *whole, *was;
    (void)state;
    make_model(&small);
    begin(&run, "compressed-tensors", "rtn:bits=4,group_size=32");
    write_to(&run, "out");
    was = configuration(&run, &whole);
    for (size_t i = 0; i < COUNT(refused); i++) {
        qnt_status status;
        put_quantization(&run, changed(was, refused[i].path, refused[i].value));
        status = open_status(&run);
        if (status != refused[i].status)
            fail_msg("%s %s: %d %s", refused[i].path, refused[i].value, status, qnt_context_message(run.ctx));
        if (status != QNT_OK)
            assert_message_has(run.ctx, refused[i].part);
    }
    json_decref(whole);
    finish_out(&run);
}

/* Names before expressions before the class; the first of equals. */
static void test_precedence(void **state)
{
    static struct run run;
    json_t *whole, *was, *q, *groups, *wrong;
    (void)state;
    make_model(&small);
    begin(&run, "compressed-tensors", "rtn:bits=4,group_size=32");
    write_to(&run, "out");
    was = configuration(&run, &whole);
    q = json_deep_copy(was);
    groups = json_object_get(q, "config_groups");
    wrong = json_deep_copy(json_object_get(groups, "group_0"));
    json_object_set_new(json_object_get(wrong, "weights"), "num_bits", json_integer(8));
    json_object_set_new(json_object_get(groups, "group_0"), "targets", json_pack("[s]", "re:model\\..*"));
    json_object_set_new(groups, "group_1", wrong);   /* the class alone: never asked */
    put_quantization(&run, json_deep_copy(q));
    assert_int_equal(open_status(&run), QNT_OK);
    json_object_set_new(wrong, "targets", json_pack("[s]", "model.layers.1.mlp.down_proj"));
    put_quantization(&run, q);
    assert_int_equal(open_status(&run), QNT_BAD_DATA);
    assert_message_has(run.ctx, "model.layers.1.mlp.down_proj");
    json_decref(whole);
    finish_out(&run);
}

/* --- damaged files --- */

enum damage { MISSING, CUT, TYPE };

static void rewrite(const struct run *run, const char *name, enum damage damage)
{
    struct qnti_safetensors *file;
    struct qnti_tensor_source *sources;
    size_t n = 0;
    assert_int_equal(qnti_safetensors_open(run->ctx, "out/model.safetensors", &file), QNT_OK);
    sources = calloc(file->count, sizeof *sources);
    assert_non_null(sources);
    assert_non_null(qnti_safetensors_find(file, name));
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *t = &file->tensors[i];
        bool hit = strcmp(t->name, name) == 0;
        if (hit && damage == MISSING)
            continue;
        sources[n] = (struct qnti_tensor_source){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
        memcpy(sources[n].shape, t->shape, sizeof t->shape);
        if (hit && damage == TYPE)
            sources[n].dtype = t->bytes == t->elements ? "BOOL" : t->bytes == 2 * t->elements ? "I16" : "U32";
        if (hit && damage == TYPE && t->bytes == 8 * t->elements)
            sources[n].dtype = "U64";
        sources[n++].shape[t->rank == 2] -= hit && damage == CUT;
    }
    assert_int_equal(qnti_safetensors_write(run->ctx, "out/model.safetensors", sources, n, NULL, 0), QNT_OK);
    free(sources);
    qnti_safetensors_close(file);
}

static void test_damaged(void **state)
{
    static const struct {
        size_t at;
        const char *parts[6];
    } files[] = {
        {1, {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"}},
        {5, {"weight", "weight_scale", "input_scale"}},
        {6, {"weight", "weight_scale", "input_scale"}},
        {9, {"weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"}},
        {10, {"weight_packed", "weight_scale"}},
    };
    static struct run run;
    struct shape shape = small;
    (void)state;
    shape.blocks = 1;
    for (size_t i = 0; i < COUNT(files); i++)
        for (size_t k = 0; files[i].parts[k]; k++)
            for (enum damage damage = MISSING; damage <= TYPE; damage++) {
                char name[128];
                make_model(&shape);
                begin(&run, cases[files[i].at].format, cases[files[i].at].recipe);
                write_to(&run, "out");
                snprintf(name, sizeof name, "model.layers.0.mlp.gate_proj.%s", files[i].parts[k]);
                rewrite(&run, name, damage);
                if (open_status(&run) != QNT_BAD_DATA)
                    fail_msg("%s: %s with damage %d", cases[files[i].at].format, name, damage);
                assert_message_has(run.ctx, "model.layers.0.mlp.gate_proj");
                finish_out(&run);
            }
}

static void test_memory(void **state)
{
    (void)state;
    each_allocation_of_an_export_fails("compressed-tensors:w8a8", "rtn", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),     cmocka_unit_test(test_again),   cmocka_unit_test(test_shards),
        cmocka_unit_test(test_layers_that_differ), cmocka_unit_test(test_refused), cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_damaged),    cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
