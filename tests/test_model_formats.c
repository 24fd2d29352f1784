/*
 * test_model_formats.c - GPTQ and AWQ folders: written, read back as a model, refused where they are another packing.
 */
#include "export_support.h"

#include <dirent.h>
#include "container/json.h"

static void begin(struct run *run, const char *format)
{
    start(run, "model", format);
    assert_int_equal(qnt_recipe_set(run->recipe, "group_size", "32"), QNT_OK);
}

static void write_out(struct run *run)
{
    qnt_status status = run->e.format->write(&run->e, "out");
    if (status != QNT_OK)
        fail_msg("%s", qnt_context_message(run->ctx));
}

static void finish_out(struct run *run)
{
    qnti_folder_remove(run->ctx, "out");
    finish(run);
    remove_files();
}

static json_t *config_of(const struct run *run, const char *path)
{
    json_t *json;
    assert_int_equal(qnti_json_load(run->ctx, path, &json), QNT_OK);
    return json;
}

static const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "(none)";
}

/* What a target should read back as: the layer's values, or f16. */
static float *expected(struct run *run, size_t target)
{
    const struct qnti_target *t = &run->targets[target];
    float *x = rows_of(run, t->source);
    qnt_qlinear *q;
    if (t->quantized) {
        assert_int_equal(run->e.layer(run, target, &q), QNT_OK);
        assert_int_equal(qnt_dequantize(q, x), QNT_OK);
        qnt_qlinear_destroy(q);
        return x;
    }
    for (size_t i = 0; i < t->source->rows * t->source->cols; i++)
        x[i] = qnti_round_to(QNT_F16, x[i]);
    return x;
}

static void compare_out(struct run *run, const char *kind)
{
    struct qnti_checkpoint *c;
    if (qnti_checkpoint_open(run->ctx, "out", &c) != QNT_OK)
        fail_msg("%s", qnt_context_message(run->ctx));
    assert_string_equal(c->kind, kind);
    for (size_t i = 0; i < run->e.count; i++) {
        const struct qnti_target *t = &run->targets[i];
        const struct qnti_weight *w = t->bias ? qnti_checkpoint_bias(c, t->block, t->role)
                                              : qnti_checkpoint_weight(c, t->block, t->role);
        float *wanted = expected(run, i), *x;
        assert_non_null(w);
        assert_int_equal(w->qlinear != NULL, t->quantized);
        x = rows_of(run, w);
        assert_memory_equal(x, wanted, w->rows * w->cols * sizeof *x);
        free(x);
        free(wanted);
    }
    assert_int_equal(c->config.tied_head, run->source->config.tied_head);
    assert_int_equal(qnti_checkpoint_check_finite(c), QNT_OK);
    qnti_checkpoint_close(c);
}

static const struct {
    const char *format, *kind, *version, *settings[2];
} cases[] = {
    {"gptq", "GPTQ folder", "gptq", {NULL}},           {"gptq", "GPTQ folder", "gptq_v2", {"sym=false"}},
    {"gptq", "GPTQ folder", "gptq_v2", {"sym=false", "bits=3"}}, {"gptq:v2", "GPTQ folder", "gptq_v2", {"bits=8"}},
    {"gptq:v1", "GPTQ folder", "gptq", {"bits=2"}},    {"awq", "AWQ folder", "gemm", {NULL}},
    {"awq", "AWQ folder", "gemm", {"sym=true"}},
};

static void set_all(struct run *run, const char *const *settings)
{
    for (size_t i = 0; i < 2 && settings[i]; i++) {
        char key[32];
        size_t n = strcspn(settings[i], "=");
        snprintf(key, sizeof key, "%.*s", (int)n, settings[i]);
        assert_int_equal(qnt_recipe_set(run->recipe, key, settings[i] + n + 1), QNT_OK);
    }
}

static void test_values(void **state)
{
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    static struct run run;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct shape shape = small;
        json_t *config;
        const json_t *q;
        shape.dtype = dtypes[i % COUNT(dtypes)];
        shape.tied = i % 2;
        shape.bias = i % 3 != 1;
        shape.more = i % 2 ? ", \"torch_dtype\": \"bfloat16\", \"dtype\": \"bfloat16\"" : ", \"dtype\": \"float32\"";
        make_model(&shape);
        begin(&run, cases[i].format);
        set_all(&run, cases[i].settings);
        write_out(&run);
        compare_out(&run, cases[i].kind);
        config = config_of(&run, "out/config.json");
        q = json_object_get(config, "quantization_config");
        assert_string_equal(text_of(q, "format"), cases[i].version);
        assert_string_equal(text_of(config, "dtype"), "float16");
        assert_string_equal(text_of(config, "torch_dtype"), i % 2 ? "float16" : "(none)");
        assert_int_equal(json_integer_value(json_object_get(q, "group_size")), 32);
        json_decref(config);
        finish_out(&run);
    }
}

static size_t count_files(const char *suffix)
{
    DIR *folder = opendir("out");
    const struct dirent *entry;
    size_t n = 0;
    assert_non_null(folder);
    while ((entry = readdir(folder)))
        n += strlen(entry->d_name) > strlen(suffix) &&
             strcmp(entry->d_name + strlen(entry->d_name) - strlen(suffix), suffix) == 0;
    closedir(folder);
    return n;
}

/* Shards of a size, each with whole layers; the index names them all. */
static void test_shards(void **state)
{
    static const char *const formats[] = {"gptq", "awq"};
    static struct run run;
    (void)state;
    for (size_t i = 0; i < COUNT(formats); i++) {
        json_t *whole, *index, *file;
        const char *name;
        make_model(&small);
        begin(&run, formats[i]);
        run.e.shard_bytes = 9000;
        write_out(&run);
        compare_out(&run, i ? "AWQ folder" : "GPTQ folder");
        assert_true(count_files(".safetensors") > 3);
        whole = config_of(&run, "out/model.safetensors.index.json");
        index = json_object_get(whole, "weight_map");
        json_object_foreach(index, name, file) {
            char scales[256];
            const char *end = strstr(name, ".qweight");
            if (!end)
                continue;
            snprintf(scales, sizeof scales, "%.*s.scales", (int)(end - name), name);
            assert_string_equal(text_of(index, scales), json_string_value(file));
        }
        json_decref(whole);
        finish_out(&run);
    }
}

/* What the door gives is written: doubled norms and biases, in f32 where the source has bf16. */
static qnt_status doubled(void *user, size_t target, struct qnti_weight *w)
{
    static float x[8192];
    struct run *run = user;
    *w = *run->targets[target].source;
    assert_true(w->rows * w->cols <= COUNT(x));
    QNT_TRY(qnti_weight_rows(run->ctx, run->targets[target].source, 0, w->rows, x));
    for (size_t i = 0; i < w->rows * w->cols; i++)
        x[i] *= 2;
    w->plain = qnt_matrix_f32(x, w->rows, w->cols);
    return QNT_OK;
}

static void test_weight_door(void **state)
{
    static const char *const formats[] = {"gptq", "awq", "gguf:q4_0"};
    static struct run run;
    struct shape shape = small;
    (void)state;
    shape.dtype = "BF16";
    for (size_t i = 0; i < COUNT(formats); i++) {
        const char *path = i == 2 ? "model.gguf" : "out";
        const struct qnti_target *norm;
        struct qnti_checkpoint *c;
        float *x, *y;
        make_model(&shape);
        begin(&run, formats[i]);
        if (i == 2)
            qnt_recipe_destroy(run.recipe);
        if (i == 2)
            assert_int_equal(qnt_recipe_parse(run.ctx, "rtn", &run.recipe), QNT_OK);
        run.e.weight = doubled;
        assert_int_equal(run.e.format->write(&run.e, path), QNT_OK);
        assert_int_equal(qnti_checkpoint_open(run.ctx, path, &c), QNT_OK);
        norm = find_target(&run, 1, QNTI_MLP_NORM, false);
        x = rows_of(&run, norm->source);
        y = rows_of(&run, qnti_checkpoint_weight(c, 1, QNTI_MLP_NORM));
        for (size_t k = 0; k < norm->source->cols; k++)
            assert_true(y[k] == 2 * x[k]);
        free(x);
        free(y);
        qnti_checkpoint_close(c);
        finish_out(&run);
    }
}

/* Numbers beyond f16 become its largest, and the tensor is named. */
static qnt_status large(void *user, size_t target, struct qnti_weight *w)
{
    QNT_TRY(doubled(user, target, w));
    if (((struct run *)user)->targets[target].role == QNTI_FINAL_NORM)
        ((float *)(uintptr_t)w->plain.data)[3] = -70000;
    return QNT_OK;
}

static void test_clamp(void **state)
{
    static struct run run;
    struct qnti_checkpoint *c;
    float *x;
    (void)state;
    make_model(&small);
    begin(&run, "gptq");
    run.e.weight = large;
    write_out(&run);
    assert_non_null(strstr(run.log, "model.norm.weight: 1 numbers beyond 65504"));
    assert_int_equal(qnti_checkpoint_open(run.ctx, "out", &c), QNT_OK);
    x = rows_of(&run, qnti_checkpoint_weight(c, 0, QNTI_FINAL_NORM));
    assert_true(x[3] == -65504);
    free(x);
    qnti_checkpoint_close(c);
    finish_out(&run);
}

/* A tied flag beside an output matrix of its own: the matrix is used, and what is written says so. */
static void test_untied_head(void **state)
{
    static struct run run;
    json_t *config;
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        make_model(&small);
        config = json_load_file("model/config.json", 0, NULL);
        json_object_set_new(config, "tie_word_embeddings", json_true());
        assert_int_equal(json_dump_file(config, "model/config.json", 0), 0);
        json_decref(config);
        begin(&run, i ? "awq" : "gptq");
        assert_non_null(strstr(run.log, "lm_head"));
        write_out(&run);
        compare_out(&run, i ? "AWQ folder" : "GPTQ folder");
        config = config_of(&run, "out/config.json");
        assert_true(json_is_false(json_object_get(config, "tie_word_embeddings")));
        json_decref(config);
        finish_out(&run);
    }
}

/* One layer in other groups and one that stays float. */
static qnt_status mixed_layer(void *user, size_t target, qnt_qlinear **q)
{
    struct run *run = user;
    bool up = run->targets[target].role == QNTI_UP && run->targets[target].block == 1;
    qnt_status status;
    QNT_TRY(qnt_recipe_set(run->recipe, "group_size", up ? "64" : "32"));
    QNT_TRY(qnt_recipe_set(run->recipe, "sym", up ? "false" : "true"));
    status = nearest_layer(user, target, q);
    return status;
}

static void test_layers_that_differ(void **state)
{
    static struct run run;
    const json_t *dynamic, *up;
    json_t *config;
    (void)state;
    make_model(&small);
    begin(&run, "gptq");
    run.e.layer = mixed_layer;
    for (size_t i = 0; i < run.e.count; i++)
        if (run.targets[i].role == QNTI_V && !run.targets[i].bias && run.targets[i].block == 0) {
            run.targets[i].quantized = false;
            run.targets[i].layout = "plain";
        }
    write_out(&run);
    compare_out(&run, "GPTQ folder");
    config = config_of(&run, "out/quantize_config.json");
    dynamic = json_object_get(config, "dynamic");
    assert_int_equal(json_object_size(dynamic), 2);
    assert_non_null(json_object_get(dynamic, "-:^model\\.layers\\.0\\.self_attn\\.v_proj$"));
    up = json_object_get(dynamic, "+:^model\\.layers\\.1\\.mlp\\.up_proj$");
    assert_int_equal(json_integer_value(json_object_get(up, "group_size")), 64);
    assert_true(json_is_false(json_object_get(up, "sym")));
    assert_string_equal(text_of(config, "checkpoint_format"), "gptq_v2");
    json_decref(config);
    finish_out(&run);
    make_model(&small);
    begin(&run, "awq");
    run.e.layer = mixed_layer;
    assert_int_equal(run.e.format->write(&run.e, "out"), QNT_UNSUPPORTED);
    assert_message_has(run.ctx, "up_proj");
    assert_message_has(run.ctx, "gptq can hold both");
    assert_false(qnti_path_exists("out"));
    finish_out(&run);
}

/* Shapes that a format has not stay float, with a note, and the configuration says so. */
static void test_misfits(void **state)
{
    static struct run run;
    struct shape shape = small;
    const json_t *list;
    json_t *config;
    (void)state;
    shape.ffn = 100;
    make_model(&shape);
    begin(&run, "gptq");
    assert_false(find_target(&run, 0, QNTI_DOWN, false)->quantized);
    assert_non_null(strstr(find_target(&run, 0, QNTI_DOWN, false)->note, "multiple of 32"));
    assert_true(find_target(&run, 0, QNTI_Q, false)->quantized);
    write_out(&run);
    compare_out(&run, "GPTQ folder");
    finish_out(&run);
    shape.ffn = 92;
    make_model(&shape);
    begin(&run, "awq");
    assert_false(find_target(&run, 1, QNTI_UP, false)->quantized);
    run.targets[0].note = NULL;
    for (size_t i = 0; i < run.e.count; i++) /* 92 columns are no multiple of 32: the plan knows the groups */
        if (run.targets[i].role == QNTI_DOWN)
            run.targets[i].quantized = false;
    write_out(&run);
    compare_out(&run, "AWQ folder");
    config = config_of(&run, "out/config.json");
    list = json_object_get(json_object_get(config, "quantization_config"), "modules_to_not_convert");
    assert_int_equal(json_array_size(list), 6);
    assert_string_equal(json_string_value(json_array_get(list, 0)), "model.layers.0.mlp.gate_proj");
    json_decref(config);
    finish_out(&run);
}

static void test_sources(void **state)
{
    static struct run run;
    qnt_context *ctx = context_with(NULL);
    struct shape shape = small;
    (void)state;
    make_model(&small);
    start(&run, "model", "gguf:f16");
    write_file(&run, "model.gguf");
    finish(&run);
    assert_int_equal(open_run(&run, ctx, "model.gguf", "gptq"), QNT_OK);
    assert_int_equal(run.e.format->assign(&run.e), QNT_UNSUPPORTED);
    assert_message_has(ctx, "needs a folder as its source");
    close_run(&run);
    remove_files();
    shape.hidden = 40; /* no layer has a shape that fits */
    shape.ffn = 80;
    make_model(&shape);
    assert_int_equal(open_run(&run, ctx, "model", "gptq"), QNT_OK);
    assert_int_equal(run.e.format->assign(&run.e), QNT_UNSUPPORTED);
    assert_message_has(ctx, "none of its layers");
    close_run(&run);
    remove_files();
    qnt_context_destroy(ctx);
}

/* --- other packings, other writers --- */

/* out/config.json with this quantization_config (NULL: without), which may be a JSON text. */
static void put_quantization(const struct run *run, const char *text)
{
    json_t *config = config_of(run, "out/config.json");
    json_object_del(config, "quantization_config");
    if (text)
        json_object_set_new(config, "quantization_config", json_loads(text, 0, NULL));
    assert_int_equal(json_dump_file(config, "out/config.json", 0), 0);
    json_decref(config);
}

static qnt_status open_out(struct run *run)
{
    struct qnti_checkpoint *c;
    qnt_status status = qnti_checkpoint_open(run->ctx, "out", &c);
    qnti_checkpoint_close(c);
    return status;
}

static void write_format(struct run *run, const char *format)
{
    make_model(&small);
    begin(run, format);
    write_out(run);
}

static void test_refused(void **state)
{
    static const struct {
        const char *config, *part;
    } refused[] = {
        {"{\"quant_method\": \"gptq\", \"checkpoint_format\": \"marlin\"}", "marlin"},
        {"{\"quant_method\": \"gptq\", \"format\": \"bitblas\"}", "bitblas"},
        {"{\"quant_method\": \"gptq\", \"checkpoint_format\": \"gptq_p\"}", "gptq_p"},
        {"{\"quant_method\": \"gptq\", \"is_marlin_format\": true}", "is_marlin_format"},
        {"{\"quant_method\": \"gptq\", \"pack_dtype\": \"int64\"}", "int64"},
        {"{\"quant_method\": \"gptq\", \"bits\": 5}", "5 bits"},
        {"{\"quant_method\": \"gptq\", \"weight_format\": \"planar\"}", "planar"},
        {"{\"quant_method\": \"awq\", \"bits\": 3}", "3 bits"},
        {"{\"quant_method\": \"awq\", \"version\": \"gemv\"}", "gemv"},
        {"{\"quant_method\": \"awq\", \"version\": \"GEMV_FAST\"}", "GEMV_FAST"},
        {"{\"quant_method\": \"awq\", \"format\": \"marlin\"}", "marlin"},
        {"{\"quant_method\": \"awq\", \"zero_point\": false}", "zero_point"},
        {"{\"quant_method\": \"awq\", \"backend\": \"llm-awq\"}", "llm-awq"},
        {"{\"quant_method\": \"fp8\"}", "fp8"},
        {"{\"quant_method\": \"native\"}", "native"},
        {"{\"bits\": 4}", "unknown"},
    };
    static struct run run;
    (void)state;
    write_format(&run, "gptq");
    for (size_t i = 0; i < COUNT(refused); i++) {
        put_quantization(&run, refused[i].config);
        assert_int_equal(open_out(&run), QNT_UNSUPPORTED);
        assert_message_has(run.ctx, refused[i].part);
    }
    finish_out(&run);
}

/* What the configuration says of all layers must be so. */
static void test_contradictions(void **state)
{
    static const struct {
        const char *config, *part;
    } wrong[] = {
        {"{\"quant_method\": \"gptq\", \"bits\": 8, \"group_size\": 32}", "of 4 bits, the configuration says 8"},
        {"{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128}", "of 32 columns, the configuration says 64"},
        {"{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": -1}", "of 32 columns"},
        {"{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 0}", "group_size"},
        {"{\"quant_method\": \"gptq\", \"bits\": \"4\"}", "bits"},
        {"{\"quant_method\": \"awq\", \"bits\": 4}", "layer model.layers.0.self_attn.q_proj"},
    };
    static struct run run;
    (void)state;
    write_format(&run, "gptq");
    for (size_t i = 0; i < COUNT(wrong); i++) {
        put_quantization(&run, wrong[i].config);
        assert_int_equal(open_out(&run), QNT_BAD_DATA);
        assert_message_has(run.ctx, wrong[i].part);
    }
    put_quantization(&run, "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, \"sym\": true}");
    compare_out(&run, "GPTQ folder");
    finish_out(&run);
}

/* Older writers: a file beside config.json, other names of the keys. */
static void test_older(void **state)
{
    static const char awq[] = "{\"zero_point\": true, \"q_group_size\": 32, \"w_bit\": 4, \"version\": \"GEMM\"}";
    static const char gptq[] = "{\"bits\": 4, \"group_size\": 32, \"desc_act\": false}";
    static struct run run;
    (void)state;
    write_format(&run, "awq");
    put_quantization(&run, NULL);
    assert_int_equal(open_out(&run), QNT_UNSUPPORTED);
    assert_message_has(run.ctx, "qweight");
    put_file("out/quant_config.json", awq, sizeof awq - 1);
    compare_out(&run, "AWQ folder");
    finish_out(&run);
    write_format(&run, "gptq");
    put_quantization(&run, NULL);
    put_file("out/quantize_config.json", gptq, sizeof gptq - 1);
    compare_out(&run, "GPTQ folder");
    finish_out(&run);
}

/* The written file again without one of its tensors, or with a tensor cut by a row. */
static void rewrite(const struct run *run, const char *name, bool cut)
{
    struct qnti_safetensors *file;
    struct qnti_tensor_source *sources;
    size_t n = 0;
    assert_int_equal(qnti_safetensors_open(run->ctx, "out/model.safetensors", &file), QNT_OK);
    sources = calloc(file->count, sizeof *sources);
    assert_non_null(sources);
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *t = &file->tensors[i];
        bool hit = strcmp(t->name, name) == 0;
        if (hit && !cut)
            continue;
        sources[n] = (struct qnti_tensor_source){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
        memcpy(sources[n].shape, t->shape, sizeof t->shape);
        sources[n++].shape[0] -= hit;
    }
    assert_int_equal(qnti_safetensors_write(run->ctx, "out/model.safetensors", sources, n, NULL, 0), QNT_OK);
    free(sources);
    qnti_safetensors_close(file);
}

static void test_damaged(void **state)
{
    static const char *const parts[] = {"qweight", "qzeros", "scales", "g_idx"};
    static struct run run;
    (void)state;
    for (size_t i = 0; i < 2 * COUNT(parts); i++) {
        char name[128];
        write_format(&run, "gptq");
        snprintf(name, sizeof name, "model.layers.1.mlp.gate_proj.%s", parts[i / 2]);
        rewrite(&run, name, i % 2);
        assert_int_equal(open_out(&run), QNT_BAD_DATA);
        assert_message_has(run.ctx, "model.layers.1.mlp.gate_proj");
        finish_out(&run);
    }
    write_format(&run, "gptq"); /* a bias is not a part of the layer: it is missed as in any model */
    rewrite(&run, "model.layers.1.self_attn.k_proj.bias", false);
    assert_int_equal(open_out(&run), QNT_BAD_DATA);
    assert_message_has(run.ctx, "k_proj.bias");
    finish_out(&run);
}

/* --- failures on the way --- */

static void test_failing_layer(void **state)
{
    static struct run run;
    (void)state;
    make_model(&small);
    begin(&run, "gptq");
    run.fail = true;
    assert_int_equal(run.e.format->write(&run.e, "out"), QNT_CANCELLED);
    assert_false(qnti_path_exists("out"));
    assert_false(qnti_path_exists("out.writing"));
    finish_out(&run);
}

static void test_memory(void **state)
{
    (void)state;
    each_allocation_of_an_export_fails("gptq", "rtn", 20000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),       cmocka_unit_test(test_shards),         cmocka_unit_test(test_weight_door),
        cmocka_unit_test(test_clamp),        cmocka_unit_test(test_untied_head),
        cmocka_unit_test(test_layers_that_differ), cmocka_unit_test(test_misfits),  cmocka_unit_test(test_sources),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_contradictions), cmocka_unit_test(test_older),
        cmocka_unit_test(test_damaged),      cmocka_unit_test(test_failing_layer),  cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
