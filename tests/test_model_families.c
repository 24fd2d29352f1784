/*
 * test_model_families.c - models of every family against a forward pass in numpy (family_models.py): logits of the
 * folder, of its F32 GGUF, of a native folder; recipes of every kind on each; what a format cannot say is refused.
 *
 * Skipped where there is no Python with numpy.
 */
#include "file_support.h"

#include <jansson.h>
#include <math.h>
#include <sys/wait.h>
#include "checkpoint/model.h"
#include "nn/nn.h"
#include <quant/quant.h>

#ifndef PYTHON
#define PYTHON "python3"
#endif

enum { TOKENS = 48, MOST_MODELS = 32, NAME_BYTES = 64, VOCAB = 61 };

static struct {
    char names[MOST_MODELS][NAME_BYTES];
    size_t count;
    char warnings[4096];
    const char *python;
} all;

static void keep_warning(void *user, qnt_log_level level, const char *message)
{
    (void)user;
    (void)level;
    snprintf(all.warnings + strlen(all.warnings), sizeof all.warnings - strlen(all.warnings), "%.300s\n", message);
}

static qnt_context *new_context(void)
{
    const qnt_context_options options = {.threads = 2, .blas_one_thread = true, .log = keep_warning};
    qnt_context *ctx;
    all.warnings[0] = 0;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    return ctx;
}

/* The first Python that has numpy. */
static int make_models(void **state)
{
    static const char *const pythons[] = {PYTHON, "python3", "/usr/bin/python3"};
    char name[NAME_BYTES], command[512];
    FILE *file;
    int status = 77;
    if (enter_folder(state))
        return -1;
    for (size_t i = 0; i < 3 && (status == 77 || status == 127); i++) {
        all.python = pythons[i];
        snprintf(command, sizeof command, "%s %s/tests/family_models.py families >/dev/null 2>&1",
                 all.python, SOURCE_DIR);
        status = WEXITSTATUS(system(command));
    }
    if (status == 77 || status == 127)
        return 0; /* no numpy, no Python */
    assert_int_equal(status, 0);
    file = fopen("families/names", "r");
    assert_non_null(file);
    while (all.count < MOST_MODELS && fscanf(file, "%63s", name) == 1)
        strcpy(all.names[all.count++], name);
    fclose(file);
    return 0;
}

static int remove_models(void **state)
{
    return system("rm -rf families") == 0 ? leave_folder(state) : -1;
}

static void skip_without_models(void)
{
    if (all.count == 0) {
        print_message("skipped: there is no Python with numpy\n");
        skip();
    }
}

static void read_file(const char *name, const char *suffix, size_t bytes, void *data)
{
    char path[256];
    FILE *file;
    snprintf(path, sizeof path, "families/%s%s", name, suffix);
    file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(data, 1, bytes, file), bytes);
    fclose(file);
}

/* Logits [TOKENS][VOCAB] of the model at `path` on the ids of `name`. */
static void logits_of(qnt_context *ctx, const char *name, const char *path, float *logits)
{
    struct qnti_checkpoint *c;
    int32_t ids[TOKENS];
    float *x, *head;
    read_file(name, ".ids", sizeof ids, ids);
    if (qnti_checkpoint_open(ctx, path, &c) != QNT_OK)
        fail_msg("%s: %s", name, qnt_context_message(ctx));
    assert_int_equal(c->config.vocab, VOCAB);
    x = malloc(TOKENS * c->config.hidden * sizeof *x);
    assert_non_null(x);
    assert_int_equal(qnti_model_forward(c, NULL, ids, 1, TOKENS, x, NULL, NULL), QNT_OK);
    assert_int_equal(qnti_head_load(c, &head), QNT_OK);
    assert_int_equal(qnti_logits(c, head, x, TOKENS, logits), QNT_OK);
    qnti_free(ctx, head);
    free(x);
    qnti_checkpoint_close(c);
}

/* The largest difference, as a part of the largest logit. */
static double distance(const float *a, const float *b)
{
    double largest = 0, apart = 0;
    for (size_t i = 0; i < TOKENS * VOCAB; i++) {
        largest = fmax(largest, fabs((double)b[i]));
        apart = isfinite(a[i]) ? fmax(apart, fabs((double)a[i] - (double)b[i])) : INFINITY;
    }
    return apart / largest;
}

static void expect_near(qnt_context *ctx, const char *name, const char *path, double most)
{
    static float is[TOKENS * VOCAB], expected[TOKENS * VOCAB];
    double d;
    read_file(name, ".logits", sizeof expected, expected);
    logits_of(ctx, name, path, is);
    d = distance(is, expected);
    if (!(d <= most))
        fail_msg("%s of %s: logits are %g of the largest apart, expected at most %g", path, name, d, most);
}

static void path_of(const char *name, char path[256])
{
    snprintf(path, 256, "families/%s", name);
}

static void folders(void **state)
{
    qnt_context *ctx = new_context();
    char path[256];
    (void)state;
    skip_without_models();
    for (size_t i = 0; i < all.count; i++) {
        path_of(all.names[i], path);
        expect_near(ctx, all.names[i], path, 1e-4);
        assert_string_equal(all.warnings, "");
    }
    qnt_context_destroy(ctx);
}

/* --- exports --- */

/* Runs a plan on a model; the message of a failure has `part` then. */
static qnt_status quantize(qnt_context *ctx, const char *name, const qnt_quantize_options *options, const char *part)
{
    qnt_model *model;
    qnt_plan *plan;
    char path[256];
    qnt_status status;
    path_of(name, path);
    assert_int_equal(qnt_model_open(ctx, path, &model), QNT_OK);
    status = qnt_plan_create(model, options, &plan);
    if (status == QNT_OK)
        status = qnt_plan_run(plan);
    if (status != QNT_OK && !(part && strstr(qnt_context_message(ctx), part)))
        fail_msg("%s, %s to %s: %s", name, options->method, options->format, qnt_context_message(ctx));
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    return status;
}

static void remove_output(void)
{
    assert_int_equal(system("rm -rf families/out families/out.gguf families/out.partial families/out.gguf.partial"), 0);
}

/* What GGUF has no place for. */
static const char *refusal(const char *name)
{
    static const char *const refused[][2] = {
        {"llama-dynamic", "RoPE that grows"}, {"llama-gelu", "another activation"}, {"opt", "no architecture for OPT"},
        {"opt-plain", "no architecture for OPT"}, {"gpt2-inner", "another activation"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strcmp(refused[i][0], name) == 0)
            return refused[i][1];
    return NULL;
}

/* Windows that GGUF does not keep change what such models compute. */
static bool loses_window(const char *name)
{
    return strcmp(name, "mistral") == 0 || strncmp(name, "qwen2", 5) == 0 || strcmp(name, "qwen3-windows") == 0;
}

static void ggufs(void **state)
{
    const qnt_quantize_options options = {.method = "none", .format = "gguf:f32", .output = "families/out.gguf"};
    const qnt_quantize_options again = {.method = "none", .format = "gguf:f32", .output = "families/again.gguf"};
    qnt_context *ctx = new_context();
    (void)state;
    skip_without_models();
    for (size_t i = 0; i < all.count; i++) {
        const char *name = all.names[i], *part = refusal(name);
        qnt_status status = quantize(ctx, name, &options, part);
        assert_int_equal(status, part ? QNT_UNSUPPORTED : QNT_OK);
        if (part)
            continue;
        if (!loses_window(name))
            expect_near(ctx, name, "families/out.gguf", 1e-4);
        assert_int_equal(strstr(all.warnings, "window") != NULL,
                         loses_window(name) || strncmp(name, "phi3", 4) == 0 || strncmp(name, "gemma3", 6) == 0);
        assert_int_equal(strstr(all.warnings, "scaled by") != NULL, strcmp(name, "gemma3-types") == 0);
        assert_int_equal(quantize(ctx, "out.gguf", &again, NULL), QNT_OK); /* a GGUF of the GGUF is the same */
        assert_int_equal(system("for f in out again; do tail -c 100000 families/$f.gguf >families/$f.tail; done; "
                                "cmp families/out.tail families/again.tail && rm families/again.gguf"), 0);
        all.warnings[0] = 0;
        remove_output();
    }
    qnt_context_destroy(ctx);
}

static const char *const fine[] = {"bits=8", "group_size=16"};
static const char *const channels[] = {"bits=8", "act_granularity=channel", "rank=2", "rank_weight=hessian"};
static const char *const clusters[] = {"bits=16", "act_bits=16", "clusters=5", "head_clusters=3"};
static const char *const sorted[] = {"bits=8", "act_bits=16", "kv_bits=16", "group_size=16", "weight_clip=1"};
static const char *const smooth[] = {"bits=8", "smooth_linears=true", "act_bits=16"};
/* Twelve bits and inputs as they are: what is left is the transform, which changes nothing. */
static const char *const twelve[] = {"rtn.bits=12", "group_size=16", "act_bits=16"};
static const char *const shifted[] = {"rtn.bits=12", "group_size=16", "act_bits=16", "search_low=0.1",
                                      "search_tokens=32"};
static const char *const equalized[] = {"rtn.bits=12", "group_size=16", "act_bits=16", "strategy=lae"};

/* Eight bits in small groups lose little, static inputs more; a transform that is folded wrongly loses all. */
static const struct {
    qnt_quantize_options options;
    double most;
} runs[] = {
    {{.method = "rtn", .settings = fine, .setting_count = 2}, 0.15},
    {{.method = "gptq", .settings = fine, .setting_count = 2}, 0.15},
    {{.method = "awq,gptq", .settings = fine, .setting_count = 2}, 0.15},
    {{.method = "smoothquant", .settings = smooth, .setting_count = 3}, 0.3},
    {{.method = "olive", .settings = (const char *const[]){"bits=8", "act_bits=8"}, .setting_count = 2}, 0.6},
    {{.method = "zeroquant", .settings = channels, .setting_count = 4, .samples = 200}, 0.3},
    {{.method = "squeezellm", .settings = (const char *const[]){"bits=8"}, .setting_count = 1}, 0.3},
    {{.method = "outlier_suppression,rtn", .settings = twelve, .setting_count = 3}, 0.006},
    {{.method = "os_plus,rtn", .settings = shifted, .setting_count = 5}, 0.006},
    {{.method = "fptq,rtn", .settings = equalized, .setting_count = 4}, 0.006},
    {{.method = "rptq", .settings = clusters, .setting_count = 4}, 0.05},
    {{.method = "atom", .settings = sorted, .setting_count = 5}, 0.15},
};

static void recipes(void **state)
{
    qnt_context *ctx = new_context();
    (void)state;
    skip_without_models();
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++)
        for (size_t i = 0; i < all.count; i++) {
            qnt_quantize_options options = runs[r].options;
            options.format = "native";
            options.output = "families/out";
            options.samples = options.samples ? options.samples : 4;
            options.seqlen = 20;
            if (strcmp(options.method, "rtn"))
                options.calibration = "families/calibration.npy";
            assert_int_equal(quantize(ctx, all.names[i], &options, NULL), QNT_OK);
            expect_near(ctx, all.names[i], "families/out", runs[r].most);
            remove_output();
        }
    qnt_context_destroy(ctx);
}

/* Shifts go into norms and linears that have biases; others are scaled alone. */
static void shifts(void **state)
{
    static const char *const names[] = {"opt", "gpt2", "opt-plain", "llama"};
    qnt_context *ctx = new_context();
    (void)state;
    skip_without_models();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const qnt_quantize_options options = {.method = "os_plus,rtn", .settings = shifted, .setting_count = 5,
                                              .format = "native", .output = "families/out", .samples = 4,
                                              .seqlen = 20, .calibration = "families/calibration.npy"};
        struct qnti_block before = {0}, after = {0};
        struct qnti_checkpoint *was, *is;
        float *a, *b;
        bool scaled = false, shifted_too = false;
        char path[256];
        assert_int_equal(quantize(ctx, names[i], &options, NULL), QNT_OK);
        path_of(names[i], path);
        assert_int_equal(qnti_checkpoint_open(ctx, path, &was), QNT_OK);
        assert_int_equal(qnti_checkpoint_open(ctx, "families/out", &is), QNT_OK);
        assert_int_equal(qnti_block_load(was, 1, &before), QNT_OK);
        assert_int_equal(qnti_block_load(is, 1, &after), QNT_OK);
        a = before.bias[QNTI_ATTN_NORM];
        b = after.bias[QNTI_ATTN_NORM];
        for (size_t c = 0; c < was->config.hidden; c++) {
            float s = before.weight[QNTI_ATTN_NORM][c] / after.weight[QNTI_ATTN_NORM][c];
            scaled |= fabsf(s - 1) > 0.01f;
            shifted_too |= a && fabsf(a[c] - s * b[c]) > 0.01f;
        }
        assert_true(scaled);
        assert_int_equal(shifted_too, i < 2);
        qnti_block_free(&before);
        qnti_block_free(&after);
        qnti_checkpoint_close(was);
        qnti_checkpoint_close(is);
        remove_output();
    }
    qnt_context_destroy(ctx);
}

/* Each folder format and a GGUF of blocks: written, and read as the model. */
static void formats(void **state)
{
    static const struct {
        const char *method, *format, *output, *setting;
        double most;
    } rows[] = {
        {"gptq", "gptq", "families/out", "bits=8", 0.15},
        {"awq", "awq", "families/out", "group_size=16", 1},
        {"llm_int8", "bnb", "families/out", NULL, 0.15},
        {"os_plus", "compressed-tensors:w8a8", "families/out", "act_granularity=token", 0.3},
        {"awq,gptq", "gguf:q8_0", "families/out.gguf", NULL, 0.15},
    };
    qnt_context *ctx = new_context();
    (void)state;
    skip_without_models();
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t i = 0; i < all.count; i++) {
            qnt_quantize_options options = {.method = rows[r].method, .format = rows[r].format,
                                            .settings = &rows[r].setting, .setting_count = rows[r].setting != NULL,
                                            .output = rows[r].output, .samples = 4, .seqlen = 20,
                                            .calibration = "families/calibration.npy"};
            bool gguf = strcmp(rows[r].output, "families/out") != 0;
            if (gguf && (refusal(all.names[i]) || loses_window(all.names[i])))
                continue;
            assert_int_equal(quantize(ctx, all.names[i], &options, NULL), QNT_OK);
            expect_near(ctx, all.names[i], rows[r].output, rows[r].most);
            remove_output();
        }
    qnt_context_destroy(ctx);
}

/* Linears that stay float, folded into or not, in a family that stores them (in, out). */
static void float_linears(void **state)
{
    static const char *const exclude[] = {"*.c_attn.weight", "*.1.mlp.c_fc.weight"};
    static const char *const formats[] = {"native", "gptq"};
    qnt_context *ctx = new_context();
    struct qnti_checkpoint *c;
    (void)state;
    skip_without_models();
    for (size_t i = 0; i < 2; i++) {
        qnt_quantize_options options = {.method = "awq,gptq", .format = formats[i], .output = "families/out",
                                        .settings = fine, .setting_count = 2, .samples = 4, .seqlen = 20,
                                        .exclude = exclude, .exclude_count = 2,
                                        .calibration = "families/calibration.npy"};
        assert_int_equal(quantize(ctx, "gpt2", &options, NULL), QNT_OK);
        expect_near(ctx, "gpt2", "families/out", 0.15);
        assert_int_equal(qnti_checkpoint_open(ctx, "families/out", &c), QNT_OK);
        assert_true(qnti_checkpoint_weight(c, 1, QNTI_UP)->transposed);
        assert_non_null(qnti_checkpoint_weight(c, 1, QNTI_UP)->plain.data);
        assert_int_equal(qnti_checkpoint_weight(c, 1, QNTI_UP)->rows, 256);
        assert_non_null(qnti_checkpoint_weight(c, 0, QNTI_UP)->qlinear);
        qnti_checkpoint_close(c);
        remove_output();
    }
    qnt_context_destroy(ctx);
}

/* --- refusals --- */

static bool turns_stream(const char *name)
{
    return strncmp(name, "gemma", 5) && strncmp(name, "opt", 3) && strncmp(name, "gpt2", 4);
}

/* The residual stream of RMS norms before linears turns, others are refused by name. */
static void rotations(void **state)
{
    qnt_context *ctx = new_context();
    (void)state;
    skip_without_models();
    for (size_t i = 0; i < all.count; i++) {
        const qnt_quantize_options options = {.method = "rotation,rtn", .format = "native", .output = "families/out",
                                              .settings = fine, .setting_count = 2};
        bool turns = turns_stream(all.names[i]);
        assert_int_equal(quantize(ctx, all.names[i], &options, "cannot be rotated"),
                         turns ? QNT_OK : QNT_UNSUPPORTED);
        if (turns)
            expect_near(ctx, all.names[i], "families/out", 0.1);
        remove_output();
    }
    qnt_context_destroy(ctx);
}

/* Sets a member of config.json, which is kept as families/kept. */
static void set_key(const char *name, const char *key, const char *value)
{
    char path[256];
    json_t *config;
    snprintf(path, sizeof path, "families/%s/config.json", name);
    config = json_load_file(path, 0, NULL);
    assert_non_null(config);
    assert_int_equal(json_object_set_new(config, key, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
    assert_int_equal(rename(path, "families/kept"), 0);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
}

/* Configurations that are refused, each by changing a key of a model's. */
static void configurations(void **state)
{
    static const char *const rows[][4] = {
        {"opt", "do_layer_norm_before", "false", "do_layer_norm_before false is not supported"},
        {"opt", "word_embed_proj_dim", "32", "word_embed_proj_dim is 32"},
        {"opt", "_remove_final_layer_norm", "true", "_remove_final_layer_norm true"},
        {"gpt2", "scale_attn_by_inverse_layer_idx", "true", "scale_attn_by_inverse_layer_idx true"},
        {"gpt2", "reorder_and_upcast_attn", "true", "reorder_and_upcast_attn true"},
        {"gemma3", "use_bidirectional_attention", "true", "use_bidirectional_attention true"},
        {"gemma2", "query_pre_attn_scalar", "0", "query_pre_attn_scalar is 0"},
        {"gemma2", "attn_logit_softcapping", "-1", "with caps -1"},
        {"gemma2", "layer_types", "[\"full_attention\"]", "layer_types has 1 entries, expected 3"},
        {"phi3-long", "partial_rotary_factor", "0.5", "short_factor has 6 numbers, expected 4"},
        {"qwen3", "head_dim", "17", "expected an even number"},
    };
    qnt_context *ctx = new_context();
    (void)state;
    skip_without_models();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qnti_checkpoint *c;
        char path[256];
        set_key(rows[i][0], rows[i][1], rows[i][2]);
        path_of(rows[i][0], path);
        assert_int_not_equal(qnti_checkpoint_open(ctx, path, &c), QNT_OK);
        if (!strstr(qnt_context_message(ctx), rows[i][3]))
            fail_msg("\"%s\", expected \"%s\"", qnt_context_message(ctx), rows[i][3]);
        snprintf(path, sizeof path, "families/%s/config.json", rows[i][0]);
        assert_int_equal(rename("families/kept", path), 0);
    }
    qnt_context_destroy(ctx);
}

/* More tokens than learned positions. */
static void positions(void **state)
{
    qnt_context *ctx = new_context();
    struct qnti_checkpoint *c;
    int32_t ids[65] = {0};
    float *x;
    (void)state;
    skip_without_models();
    assert_int_equal(qnti_checkpoint_open(ctx, "families/gpt2", &c), QNT_OK);
    x = malloc(65 * c->config.hidden * sizeof *x);
    assert_non_null(x);
    assert_int_equal(qnti_embed(c, ids, 64, 0, x), QNT_OK);
    assert_int_equal(qnti_embed(c, ids, 1, 63, x), QNT_OK);
    assert_int_equal(qnti_embed(c, ids, 65, 0, x), QNT_INVALID);
    assert_int_equal(qnti_embed(c, ids, 1, 64, x), QNT_INVALID);
    assert_message_has(ctx, "a token at position 64");
    free(x);
    qnti_checkpoint_close(c);
    qnt_context_destroy(ctx);
}

/* Opening, one block forward, and a GGUF, with each allocation failing in turn. */
static qnt_status open_and_run(qnt_context *ctx, void *path)
{
    struct qnti_checkpoint *c = NULL;
    struct qnti_workspace *w = NULL;
    struct qnti_block block = {0};
    static float x[TOKENS * 64];
    const int32_t ids[] = {1, 2, 3, 4, 5};
    qnt_status status;
    QNT_CHECK(qnti_checkpoint_open(ctx, path, &c));
    QNT_CHECK(qnti_workspace_create(c, 5, &w));
    QNT_CHECK(qnti_block_load(c, 1, &block));
    QNT_CHECK(qnti_embed(c, ids, 5, 0, x));
    QNT_CHECK(qnti_block_forward(&block, w, x, 5));
cleanup:
    qnti_block_free(&block);
    qnti_workspace_free(w);
    qnti_checkpoint_close(c);
    return status;
}

static qnt_status export(qnt_context *ctx, void *name)
{
    const qnt_quantize_options options = {.method = "none", .format = "gguf:f32", .output = "families/out.gguf",
                                          .force = true};
    qnt_model *model = NULL;
    qnt_plan *plan = NULL;
    qnt_status status;
    QNT_CHECK(qnt_model_open(ctx, name, &model));
    QNT_CHECK(qnt_plan_create(model, &options, &plan));
    status = qnt_plan_run(plan);
cleanup:
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    return status;
}

static void memory_runs_out(void **state)
{
    (void)state;
    skip_without_models();
    each_allocation_fails(open_and_run, "families/gemma3-types");
    each_allocation_fails(open_and_run, "families/phi3-long");
    each_allocation_fails(open_and_run, "families/gpt2");
    each_allocation_fails(export, "families/gemma3-types");
    each_allocation_fails(export, "families/phi3-long");
    remove_output();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders),
        cmocka_unit_test(ggufs),
        cmocka_unit_test(recipes),
        cmocka_unit_test(shifts),
        cmocka_unit_test(formats),
        cmocka_unit_test(float_linears),
        cmocka_unit_test(rotations),
        cmocka_unit_test(configurations),
        cmocka_unit_test(positions),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests_name("families", tests, make_models, remove_models);
}
