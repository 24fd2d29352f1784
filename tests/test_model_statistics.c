/*
 * test_model_statistics.c - statistics of a model against plain sums, merged, and the plans that take them.
 */
#include "export_support.h"
#include "imatrix_support.h"

#include <math.h>
#include "calib/save.h"
#include "sweep/statistics.h"
#include <quant/model.h>

/* --- a model's statistics --- */

enum { WINDOWS = 3, TOKENS = 8 };

/* Ids as .npy: (WINDOWS * TOKENS) little-endian i32. */
static void put_ids(const char *path, uint32_t seed)
{
    char bytes[128 + 4 * WINDOWS * TOKENS];
    memcpy(bytes, "\x93NUMPY\1\0\166\0", 10);
    snprintf(bytes + 10, 118, "%-117s", "{'descr': '<i4', 'fortran_order': False, 'shape': (24,), }");
    bytes[127] = '\n';
    for (size_t i = 0; i < WINDOWS * TOKENS; i++) {
        int32_t id = (int32_t)((i * 7 + seed * (i + 3)) % 40);
        memcpy(bytes + 128 + 4 * i, &id, 4);
    }
    put_file(path, bytes, sizeof bytes);
}

static qnt_status measure(qnt_model *model, const char *ids, const char *output, const char *method,
                          qnt_measure_result *result)
{
    const qnt_measure_options options = {.calibration = ids, .samples = WINDOWS, .seqlen = TOKENS, .method = method,
                                         .output = output};
    return qnt_model_measure(model, &options, result);
}

static qnt_model *open_small(qnt_context *ctx)
{
    qnt_model *model;
    make_model(&small);
    put_ids("ids.npy", 1);
    assert_int_equal(qnt_model_open(ctx, "model", &model), QNT_OK);
    return model;
}

static void close_small(qnt_model *model, const char *const *files, size_t count)
{
    qnt_model_close(model);
    for (size_t i = 0; i < count; i++)
        unlink(files[i]);
    unlink("ids.npy");
    remove_files();
}

/* Calibrations and importances of a run are those of its own forward pass. */
static void test_measured(void **state)
{
    static const char *const files[] = {"c.safetensors", "c.gguf", "c.dat"};
    qnt_context *ctx = context_with(NULL);
    qnt_model *model = open_small(ctx);
    qnt_measure_result result;
    qnt_calib_file *file;
    qnt_calib *calib;
    (void)state;
    for (size_t i = 0; i < COUNT(files); i++) {
        assert_int_equal(measure(model, "ids.npy", files[i], NULL, &result), QNT_OK);
        assert_int_equal(result.windows, WINDOWS);
        assert_int_equal(result.sites, i ? 7 * small.blocks : 4 * small.blocks);
        assert_int_equal(result.tokens, 4 * small.blocks * WINDOWS * TOKENS);
        assert_int_equal(measure(model, "ids.npy", files[i], NULL, &result), QNT_EXISTS);
    }
    assert_int_equal(qnt_calib_file_open(ctx, files[0], &file), QNT_OK);
    assert_int_equal(qnt_calib_load(file, "model.layers.1.mlp.down_proj", &calib), QNT_OK);
    assert_int_equal(qnt_calib_in(calib), small.ffn);
    assert_int_equal(qnt_calib_tokens(calib), WINDOWS * TOKENS);
    for (size_t k = 1; k < COUNT(files); k++) {
        struct qnti_imatrix *m;
        const struct qnti_imatrix_entry *e;
        assert_int_equal(qnti_imatrix_open(ctx, files[k], &m), QNT_OK);
        e = qnti_imatrix_find(m, "blk.1.ffn_down.weight");
        assert_true(e && e->counts[0] == (k == 1 ? WINDOWS * TOKENS : WINDOWS) && m->chunks == WINDOWS);
        for (size_t i = 0; i < e->in; i++) {
            qnt_moments moments;
            assert_int_equal(qnt_calib_moments(calib, i, &moments), QNT_OK);
            assert_true(fabs((double)(e->sums[i] / e->counts[0]) - moments.mean_square) <= 1e-6 * moments.mean_square);
        }
        qnti_imatrix_close(m);
    }
    qnt_calib_destroy(calib);
    qnt_calib_file_close(file);
    close_small(model, files, COUNT(files));
    qnt_context_destroy(ctx);
}

static void test_measure_refuses(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_model *model = open_small(ctx);
    qnt_measure_result result;
    qnt_measure_options options = {.calibration = "ids.npy", .samples = 1, .seqlen = TOKENS, .output = "c.safetensors",
                                   .max_ram = 1 << 20};
    (void)state;
    assert_int_equal(measure(model, "ids.npy", "c.txt", NULL, &result), QNT_INVALID);
    assert_message_has(ctx, ".safetensors");
    assert_int_equal(measure(model, "ids.npy", "c.safetensors", "gptq:asymmetric=true", &result), QNT_INVALID);
    assert_message_has(ctx, "unquantized");
    assert_int_equal(measure(model, "ids.npy", "c.gguf", "gptq", &result), QNT_INVALID);
    assert_message_has(ctx, "same for every method");
    assert_int_equal(measure(model, "ids.npy", "model/model.safetensors", NULL, &result), QNT_INVALID);
    assert_int_equal(measure(model, "nothing.npy", "c.gguf", NULL, &result), QNT_IO);
    assert_int_equal(qnt_model_measure(model, &options, &result), QNT_INVALID);
    assert_message_has(ctx, "max_ram");
    close_small(model, NULL, 0);
    qnt_context_destroy(ctx);
}

/* Files of two texts, added, against the sums of both: every kind. */
static void test_merged(void **state)
{
    static const char *const files[] = {"a.safetensors", "b.safetensors", "c.safetensors", "a.gguf", "b.gguf", "c.gguf",
                                        "a.dat", "b.dat", "c.dat", "other.npy", "m.safetensors"};
    qnt_context *ctx = context_with(NULL);
    qnt_model *model = open_small(ctx);
    qnt_measure_result result;
    qnt_calib_file *file[3];
    (void)state;
    put_ids("other.npy", 2);
    for (size_t i = 0; i < 9; i += 3) {
        assert_int_equal(measure(model, "ids.npy", files[i], NULL, &result), QNT_OK);
        assert_int_equal(measure(model, "other.npy", files[i + 1], NULL, &result), QNT_OK);
        assert_int_equal(qnt_statistics_merge(ctx, files + i, 2, files[i + 2], false, &result), QNT_OK);
        assert_int_equal(result.windows, 2 * WINDOWS);
        assert_int_equal(qnt_statistics_merge(ctx, files + i, 2, files[i + 2], false, &result), QNT_EXISTS);
        assert_int_equal(qnt_statistics_merge(ctx, files + i, 2, files[i + 2], true, &result), QNT_OK);
    }
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(qnt_calib_file_open(ctx, files[i], &file[i]), QNT_OK);
    assert_string_equal(qnti_calib_file_note(file[2], "texts"), "ids.npy\nother.npy");
    for (size_t s = 0; qnt_calib_file_name(file[0], s); s++) {
        const char *name = qnt_calib_file_name(file[0], s);
        qnt_calib *c[3];
        for (size_t i = 0; i < 3; i++)
            assert_int_equal(qnt_calib_load(file[i], name, &c[i]), QNT_OK);
        assert_int_equal(qnt_calib_merge(c[0], c[1]), QNT_OK);
        assert_int_equal(c[0]->tokens, c[2]->tokens);
        for (size_t r = 0; r < c[0]->in; r++) {
            double row[2][128];
            size_t n = qnti_gram_row(c[0]->hessian, r, row[0]);
            assert_int_equal(qnti_gram_row(c[2]->hessian, r, row[1]), n);
            assert_memory_equal(row[0], row[1], n * sizeof **row);
        }
        assert_memory_equal(c[0]->moments, c[2]->moments, c[0]->in * sizeof *c[0]->moments);
        for (size_t i = 0; i < 3; i++)
            qnt_calib_destroy(c[i]);
    }
    for (size_t i = 0; i < 3; i++)
        qnt_calib_file_close(file[i]);
    /* of another kind, of another recipe */
    assert_int_equal(qnt_statistics_merge(ctx, files + 2, 2, "d.safetensors", false, &result), QNT_BAD_DATA);
    assert_int_equal(qnt_statistics_merge(ctx, files + 3, 2, "d.dat", false, &result), QNT_INVALID);
    assert_int_equal(measure(model, "ids.npy", "m.safetensors", "smoothquant", &result), QNT_OK);
    assert_int_equal(qnt_statistics_merge(ctx, (const char *const[]){"a.safetensors", "m.safetensors"}, 2,
                                          "d.safetensors", false, &result), QNT_INVALID);
    assert_message_has(ctx, "m.safetensors: of ");
    assert_message_has(ctx, "moments, Hessian");
    assert_false(qnti_path_exists("d.safetensors") || qnti_path_exists("d.safetensors.writing"));
    close_small(model, files, COUNT(files));
    qnt_context_destroy(ctx);
}

/* --- plans that take them --- */

static qnt_status plan_with(qnt_model *model, const char *method, const char *calibration, const char *importance,
                            qnt_plan **plan)
{
    const qnt_quantize_options options = {.method = method, .format = "gguf:q4_0", .output = "out.gguf", .force = true,
                                          .calibration = calibration, .importance = importance, .samples = WINDOWS,
                                          .seqlen = TOKENS, .no_verify = true};
    return qnt_plan_create(model, &options, plan);
}

/* The bytes of out.gguf, to be freed. */
static char *run_plan(qnt_context *ctx, qnt_model *model, const char *method, const char *calibration,
                      const char *importance, size_t *n)
{
    qnt_plan *plan;
    char *bytes;
    qnt_status status = plan_with(model, method, calibration, importance, &plan);
    if (status == QNT_OK)
        status = qnt_plan_run(plan);
    qnt_plan_destroy(plan);
    if (status != QNT_OK)
        fail_msg("%s", qnt_context_message(ctx));
    assert_int_equal(qnti_read_file(ctx, "out.gguf", 1 << 24, &bytes, n), QNT_OK);
    return bytes;
}

/* Bytes of the tensors, behind the keys (which name files). */
static bool same_tensors(qnt_context *ctx, const char *a, size_t n, const char *b, size_t m)
{
    struct qnti_gguf *x, *y;
    bool same;
    assert_int_equal(qnti_gguf_open_memory(ctx, "a", a, n, qnti_ggml_type_size, &x), QNT_OK);
    assert_int_equal(qnti_gguf_open_memory(ctx, "b", b, m, qnti_ggml_type_size, &y), QNT_OK);
    same = x->tensor_count == y->tensor_count;
    for (size_t i = 0; same && i < x->tensor_count; i++)
        same = x->tensors[i].bytes == y->tensors[i].bytes &&
               memcmp(x->tensors[i].data, y->tensors[i].data, x->tensors[i].bytes) == 0;
    qnti_gguf_close(x);
    qnti_gguf_close(y);
    return same;
}

/* rtn takes the same importance from each kind of file, under each kind of name, and none without. */
static void test_importance(void **state)
{
    static const char *const files[] = {"c.safetensors", "c.gguf", "c.dat", "h.gguf", "out.gguf"};
    qnt_context *ctx = context_with(NULL);
    qnt_model *model = open_small(ctx);
    qnt_measure_result result;
    struct qnti_imatrix *m, *named;
    char *plain, *with[4];
    size_t plain_bytes, bytes[4];
    (void)state;
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(measure(model, "ids.npy", files[i], NULL, &result), QNT_OK);
    assert_int_equal(qnti_imatrix_open(ctx, "c.gguf", &m), QNT_OK);
    assert_int_equal(qnti_imatrix_create(ctx, &named), QNT_OK);
    for (size_t b = 0; b < small.blocks; b++)
        for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++) {
            const struct qnti_family *family = model->checkpoint->family;
            char name[2][96];
            const struct qnti_imatrix_entry *e;
            if (!qnti_is_linear(role) || !qnti_has_weight(&model->checkpoint->config, role))
                continue;
            snprintf(name[0], sizeof *name, qnti_gguf_names[role], b);
            strcat(name[0], ".weight");
            snprintf(name[1], sizeof *name, family->names[role], b);
            e = qnti_imatrix_find(m, name[0]);
            assert_non_null(e);
            assert_int_equal(qnti_imatrix_add(named, name[1], e->in, 1, e->sums, e->counts), QNT_OK);
        }
    assert_int_equal(qnti_imatrix_sort(named, "named"), QNT_OK);
    assert_int_equal(qnti_imatrix_write(named, "h.gguf"), QNT_OK);
    plain = run_plan(ctx, model, "rtn", NULL, NULL, &plain_bytes);
    for (size_t i = 0; i < 4; i++)
        with[i] = run_plan(ctx, model, "rtn", i ? NULL : files[0], i ? files[i] : NULL, &bytes[i]);
    assert_false(same_tensors(ctx, plain, plain_bytes, with[1], bytes[1]));
    for (size_t i = 2; i < 4; i++)
        assert_true(same_tensors(ctx, with[1], bytes[1], with[i], bytes[i]));
    for (size_t i = 0; i < 4; i++)
        qnti_free(ctx, with[i]);
    qnti_free(ctx, plain);
    qnti_imatrix_close(m);
    qnti_imatrix_close(named);
    close_small(model, files, COUNT(files));
    qnt_context_destroy(ctx);
}

/* Entries that lack, say nothing, or do not fit. */
static void test_importance_that_does_not_fit(void **state)
{
    struct run run = {0};
    qnt_context_options options = {.threads = 1, .log = keep_log, .log_user = run.log};
    qnt_context *ctx;
    qnt_model *model;
    qnt_plan *plan;
    struct qnti_imatrix *m;
    (void)state;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    model = open_small(ctx);
    assert_int_equal(qnti_imatrix_create(ctx, &m), QNT_OK);
    add(m, "blk.0.attn_q.weight", 64, 1, 1, 0); /* no tokens */
    add(m, "blk.0.attn_k.weight", 64, 1, 1, 1);
    assert_int_equal(qnti_imatrix_sort(m, "m"), QNT_OK);
    assert_int_equal(qnti_imatrix_write(m, "c.gguf"), QNT_OK);
    assert_int_equal(plan_with(model, "rtn", NULL, "c.gguf", &plan), QNT_OK);
    qnt_plan_destroy(plan);
    assert_non_null(strstr(run.log, "nothing for 13 of 14 linears"));
    assert_non_null(strstr(run.log, "model.layers.0.self_attn.q_proj.weight"));
    assert_int_equal(plan_with(model, "awq,gptq", "ids.npy", "c.gguf", &plan), QNT_INVALID);
    assert_message_has(ctx, "leave --imatrix out");
    assert_int_equal(plan_with(model, "none", NULL, "c.gguf", &plan), QNT_INVALID);
    assert_int_equal(plan_with(model, "gptq", NULL, "c.gguf", &plan), QNT_INVALID);
    assert_message_has(ctx, "--calib");
    m->entries[0].counts[0] = 0; /* attn_k too */
    assert_int_equal(qnti_imatrix_write(m, "c.gguf"), QNT_OK);
    assert_int_equal(plan_with(model, "rtn", NULL, "c.gguf", &plan), QNT_INVALID);
    assert_message_has(ctx, "none of the 14 linears");
    m->entries[0].in = 63;
    assert_int_equal(qnti_imatrix_write(m, "c.gguf"), QNT_OK);
    assert_int_equal(plan_with(model, "rtn", NULL, "c.gguf", &plan), QNT_INVALID);
    assert_message_has(ctx, "63 channels");
    qnti_imatrix_close(m);
    close_small(model, (const char *const[]){"c.gguf"}, 1);
    qnt_context_destroy(ctx);
}

/* A text of one block's model gives what its statistics give: nothing before the block was quantized. */
static void test_statistics_in_place_of_text(void **state)
{
    static const char *const files[] = {"c.safetensors", "out.gguf", "s.safetensors"};
    static const char *const methods[] = {"gptq", "rtn", "awq:awq_objective=linear,gptq", "smoothquant,gptq"};
    qnt_context *ctx = context_with(NULL);
    qnt_model *model = open_small(ctx);
    qnt_measure_result result;
    qnt_plan *plan;
    (void)state;
    assert_int_equal(measure(model, "ids.npy", "c.safetensors", NULL, &result), QNT_OK);
    for (size_t i = 0; i < COUNT(methods); i++) {
        size_t n[2];
        char *by_text = run_plan(ctx, model, methods[i], "ids.npy", NULL, &n[0]);
        char *by_file = run_plan(ctx, model, methods[i], "c.safetensors", NULL, &n[1]);
        struct qnti_gguf *x, *y;
        const struct qnti_gguf_tensor *q[2];
        assert_int_equal(qnti_gguf_open_memory(ctx, "a", by_text, n[0], qnti_ggml_type_size, &x), QNT_OK);
        assert_int_equal(qnti_gguf_open_memory(ctx, "b", by_file, n[1], qnti_ggml_type_size, &y), QNT_OK);
        q[0] = qnti_gguf_find_tensor(x, "blk.0.attn_q.weight");
        q[1] = qnti_gguf_find_tensor(y, "blk.0.attn_q.weight");
        if (i < 2) /* transforms are derived from the file, measured again from the text: the same but for rounding */
            assert_memory_equal(q[0]->data, q[1]->data, q[0]->bytes);
        qnti_gguf_close(x);
        qnti_gguf_close(y);
        qnti_free(ctx, by_text);
        qnti_free(ctx, by_file);
    }
    assert_int_equal(plan_with(model, "gptq:asymmetric=true", "c.safetensors", NULL, &plan), QNT_INVALID);
    assert_message_has(ctx, "beside those of the unquantized");
    assert_int_equal(measure(model, "ids.npy", "s.safetensors", "smoothquant", &result), QNT_OK);
    assert_int_equal(plan_with(model, "gptq", "s.safetensors", NULL, &plan), QNT_INVALID);
    assert_message_has(ctx, "no Hessian");
    assert_int_equal(plan_with(model, "gptq", "model/model.safetensors", NULL, &plan), QNT_BAD_DATA);
    assert_message_has(ctx, "no calibration file");
    close_small(model, files, COUNT(files));
    qnt_context_destroy(ctx);
}

/* With the residual stream in a file the bytes are the same. */
static void test_spilled(void **state)
{
    static const char *const files[] = {"a.safetensors", "b.safetensors"};
    qnt_context *ctx = context_with(NULL);
    qnt_model *model = open_small(ctx);
    qnt_measure_options options = {.calibration = "ids.npy", .samples = WINDOWS, .seqlen = TOKENS};
    qnt_measure_result result;
    char *bytes[2];
    size_t n[2];
    (void)state;
    options.output = files[0];
    assert_int_equal(qnt_model_measure(model, &options, &result), QNT_OK);
    options.output = files[1];
    options.max_ram = 1 << 20;
    assert_int_equal(qnt_model_measure(model, &options, &result), QNT_INVALID);
    options.max_ram = strtoull(strstr(qnt_context_message(ctx), "needs ") + 6, NULL, 10); /* no room for the stream */
    assert_int_equal(qnt_model_measure(model, &options, &result), QNT_OK);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(qnti_read_file(ctx, files[i], 1 << 24, &bytes[i], &n[i]), QNT_OK);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(bytes[0], bytes[1], n[0]);
    qnti_free(ctx, bytes[0]);
    qnti_free(ctx, bytes[1]);
    close_small(model, files, COUNT(files));
    qnt_context_destroy(ctx);
}

/* --- the whole with too little memory --- */

static qnt_status measure_all(qnt_context *ctx, void *arg)
{
    qnt_measure_result result;
    qnt_model *model = NULL;
    qnt_status status;
    QNT_CHECK(qnt_model_open(ctx, "model", &model));
    QNT_CHECK(measure(model, "ids.npy", arg, NULL, &result));
cleanup:
    qnt_model_close(model);
    unlink(arg);
    assert_false(qnti_path_exists("c.safetensors.writing"));
    return status;
}

static qnt_status merge_all(qnt_context *ctx, void *arg)
{
    qnt_measure_result result;
    const char *const files[] = {arg, arg};
    qnt_status status = qnt_statistics_merge(ctx, files, 2, "sum.safetensors", false, &result);
    unlink("sum.safetensors");
    assert_false(qnti_path_exists("sum.safetensors.writing"));
    return status;
}

static void test_measure_without_memory(void **state)
{
    static char files[][16] = {"c.safetensors", "c.gguf"};
    struct shape tiny = small;
    (void)state;
    tiny.blocks = 1;
    make_model(&tiny);
    put_ids("ids.npy", 1);
    for (size_t i = 0; i < COUNT(files); i++)
        each_allocation_fails(measure_all, files[i]);
    unlink("ids.npy");
    remove_files();
}

static void test_merge_without_memory(void **state)
{
    static char file[] = "one.safetensors";
    static const float x[] = {1, 2, 3, 4};
    qnt_context *ctx = context_with(NULL);
    qnt_calib *calib;
    (void)state;
    assert_int_equal(qnt_calib_create(ctx, NULL, 2, &calib), QNT_OK);
    assert_int_equal(qnt_calib_add(calib, qnt_matrix_f32(x, 2, 2)), QNT_OK);
    assert_int_equal(qnt_calib_save(ctx, file, &(qnt_named_calib){"a", calib}, 1), QNT_OK);
    qnt_calib_destroy(calib);
    qnt_context_destroy(ctx);
    each_allocation_fails(merge_all, file);
    unlink(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured),
        cmocka_unit_test(test_measure_refuses),
        cmocka_unit_test(test_merged),
        cmocka_unit_test(test_importance),
        cmocka_unit_test(test_importance_that_does_not_fit),
        cmocka_unit_test(test_statistics_in_place_of_text),
        cmocka_unit_test(test_spilled),
        cmocka_unit_test(test_measure_without_memory),
        cmocka_unit_test(test_merge_without_memory),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
