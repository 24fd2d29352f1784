/*
 * test_model_complaint_files.c - what users of other quantizers complain about in the files they get, a test for each
 * theme that names it: zero points, packing, vocabularies, shapes.
 */
#include "plan_support.h"

/* --- zero point off by one --- */

/* What an engine makes of a layer of 4 bits; `less`: zeros are stored less 1. *shift: mean of (it - source) / scale. */
static void decode_gptq(qnt_context *ctx, const char *layer, uint32_t less, const float *source, size_t out, size_t in,
                        float *w, double *shift)
{
    static const char *const parts[] = {"qweight", "qzeros", "scales", "g_idx"};
    const unsigned char *at[4];
    struct qnti_safetensors *file;
    *shift = 0;
    assert_int_equal(qnti_safetensors_open(ctx, "out/o/model.safetensors", &file), QNT_OK);
    for (size_t i = 0; i < 4; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s.%s", layer, parts[i]);
        assert_non_null(qnti_safetensors_find(file, name));
        at[i] = qnti_safetensors_find(file, name)->data;
    }
    for (size_t o = 0; o < out; o++)
        for (size_t i = 0; i < in; i++) {
            size_t g = (size_t)little(at[3] + 4 * i, 4);
            uint64_t word = little(at[0] + 4 * (i / 8 * out + o), 4);
            uint64_t zeros = little(at[1] + 4 * (g * (out / 8) + o / 8), 4);
            float scale = qnti_f16_to_f32((uint16_t)little(at[2] + 2 * (g * out + o), 2));
            int code = (int)(word >> 4 * (i % 8) & 15), zero = (int)((zeros >> 4 * (o % 8) & 15) + less);
            w[o * in + i] = scale * (float)(code - zero);
            *shift += (double)((w[o * in + i] - source[o * in + i]) / scale) / (double)(out * in);
        }
    qnti_safetensors_close(file);
}

static void check_zeros(const char *format, bool sym)
{
    const char *const settings[] = {"group_size=32", sym ? "sym=true" : "sym=false"};
    qnt_quantize_options options = {.method = "rtn", .format = format, .output = "out/o", .settings = settings,
                                    .setting_count = 2, .force = true};
    qnt_context *ctx = context_with(NULL);
    static float source[96 * 64], decoded[96 * 64], read[96 * 64];
    struct qnti_checkpoint *c;
    json_t *config;
    const char *version;
    double shift;
    assert_int_equal(status_of(&options, ""), QNT_OK);
    config = json_load_file("out/o/config.json", 0, NULL);
    version = json_string_value(
        json_object_get(json_object_get(config, "quantization_config"), "checkpoint_format"));
    assert_non_null(version);
    assert_int_equal(qnti_checkpoint_open(ctx, "model", &c), QNT_OK);
    assert_int_equal(qnti_weight_rows(ctx, qnti_checkpoint_weight(c, 1, QNTI_UP), 0, 96, source), QNT_OK);
    qnti_checkpoint_close(c);
    decode_gptq(ctx, LAYER1 "mlp.up_proj", strcmp(version, "gptq") == 0, source, 96, 64, decoded, &shift);
    assert_int_equal(qnti_checkpoint_open(ctx, "out/o", &c), QNT_OK);
    assert_int_equal(qnti_weight_rows(ctx, qnti_checkpoint_weight(c, 1, QNTI_UP), 0, 96, read), QNT_OK);
    assert_memory_equal(read, decoded, sizeof read);
    if (!(fabs(shift) < 0.1))
        fail_msg("%s, %s: weights are shifted by %g levels", format, settings[1], shift);
    qnti_checkpoint_close(c);
    json_decref(config);
    qnt_context_destroy(ctx);
}

static void zero_point_off_by_one(void **state)
{
    (void)state;
    make_plain();
    check_zeros("gptq:v1", true);
    check_zeros("gptq:v1", false);
    check_zeros("gptq:v2", true);
    check_zeros("gptq:v2", false);
    check_zeros("gptq", false);
}

/* --- slow packing --- */

struct packing {
    struct failing allocations;
    size_t tasks;
};

static void count_tasks(void *user, size_t n, qnt_task_fn task, void *arg)
{
    ((struct packing *)user)->tasks += n;
    for (size_t i = 0; i < n; i++)
        task(arg, i);
}

/* Allocations while a layer (out, in) is packed. */
static long pack_once(const char *format, size_t out, size_t in, size_t *tasks)
{
    enum { PLENTY = 1 << 20 };
    struct packing p = {{PLENTY}, 0};
    qnt_context_options host = {.parallel_for = count_tasks, .parallel_user = &p,
                                .allocator = {failing_allocate, failing_release, &p.allocations}};
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    float *w = calloc(out * in, sizeof *w);
    qnt_layer layer = {.name = "l", .weight = qnt_matrix_f32(w, out, in), .format = format};
    uint32_t seed = 1;
    size_t count, bytes;
    qnt_context *ctx;
    qnt_recipe *recipe;
    qnt_qlinear *q;
    void *packed;
    long used;
    assert_non_null(w);
    for (size_t i = 0; i < out * in; i++)
        w[i] = random_weight(&seed);
    assert_int_equal(qnt_context_create(&host, &ctx), QNT_OK);
    assert_int_equal(qnt_recipe_parse(ctx, "rtn", &recipe), QNT_OK);
    assert_int_equal(qnt_quantize(ctx, recipe, &layer, &q), QNT_OK);
    assert_int_equal(qnt_packed_tensors(q, format, tensors, &count, &bytes), QNT_OK);
    packed = malloc(bytes);
    assert_non_null(packed);
    p.tasks = 0;
    used = p.allocations.left;
    assert_int_equal(qnt_pack(q, format, packed, bytes), QNT_OK);
    used -= p.allocations.left;
    *tasks = p.tasks;
    free(packed);
    free(w);
    qnt_qlinear_destroy(q);
    qnt_recipe_destroy(recipe);
    qnt_context_destroy(ctx);
    return used;
}

/* Not timed: packing works on runs of whole rows, and takes no more memory for a layer 16 times as large. */
static void slow_packing(void **state)
{
    static const char *const formats[] = {"gptq:v1", "gptq:v2", "awq", "gguf:q4_0"};
    (void)state;
    for (size_t i = 0; i < COUNT(formats); i++) {
        size_t few, many;
        long small_layer = pack_once(formats[i], 128, 128, &few), large_layer = pack_once(formats[i], 512, 512, &many);
        assert_int_equal(small_layer, large_layer);
        assert_true(large_layer < 8 && few <= 128 && many <= 512);
    }
}

/* --- tokenizer and vocabulary --- */

static const char letters[] =
    "{\"version\":\"1.0\",\"added_tokens\":[],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
    "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,"
    "\"ab\":2},\"merges\":[\"a b\"]}}";

/* An embedding padded beyond the tokenizer is told of and written at its length; no text gives its padding. */
static void tokenizer_with_a_padded_vocabulary(void **state)
{
    qnt_quantize_options options = {.method = "rtn", .format = "gguf:q4_0", .output = "out/o"};
    struct qnti_gguf *file;
    struct session s;
    qnt_model *written;
    qnt_model_info info;
    int32_t *ids;
    size_t n;
    (void)state;
    make_plain();
    put_file("model/tokenizer.json", letters, sizeof letters - 1);
    begin(&s, NULL, &options);
    json_decref(run(&s));
    assert_non_null(strstr(s.log, "37 of the embedding's 40 rows have no token"));
    assert_int_equal(qnti_gguf_open(s.ctx, "out/o", qnti_ggml_type_size, &file), QNT_OK);
    assert_int_equal(qnti_gguf_find(file, "tokenizer.ggml.tokens")->count, 40);
    qnti_gguf_close(file);
    assert_int_equal(qnt_model_open(s.ctx, "out/o", &written), QNT_OK);
    qnt_model_get_info(written, &info);
    assert_int_equal(info.vocab, 40);
    assert_int_equal(qnt_model_encode(written, "abba", 4, false, &ids, &n), QNT_OK);
    assert_int_equal(n, 3);
    qnt_free(s.ctx, ids);
    qnt_model_close(written);
    end(&s);
}

/* Tokens beyond the embedding are told of and never made of a text; ids beyond it are refused with their place. */
static void tokenizer_beyond_the_vocabulary(void **state)
{
    struct shape shape = PLAIN;
    qnt_quantize_options options = {.method = "rtn", .format = "gguf:q4_0", .output = "out/o"};
    struct session s;
    int32_t *ids;
    size_t n;
    (void)state;
    shape.vocab = 2;
    make(&shape);
    put_file("model/tokenizer.json", letters, sizeof letters - 1);
    begin(&s, NULL, &options);
    json_decref(run(&s));
    assert_non_null(strstr(s.log, "1 tokens have no row in the model (vocab_size 2) and are left out"));
    assert_int_equal(qnt_model_encode(s.model, "abba", 4, false, &ids, &n), QNT_OK);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < n; i++)
        assert_true(ids[i] < 2);
    qnt_free(s.ctx, ids);
    end(&s);
    assert_int_equal(status_of(&by_gptq, "ids.npy: id 1 is not below the vocabulary's 2"), QNT_BAD_DATA);
}

/* --- shapes that do not divide --- */

/* The plan has a line for every tensor, with what becomes of it and why; `strict` refuses what is not as asked. */
static void shapes_that_do_not_divide(void **state)
{
    struct shape shape = PLAIN;
    qnt_quantize_options options = by_gptq;
    qnt_plan_totals totals;
    qnt_plan_line line;
    struct session s;
    size_t noted = 0;
    (void)state;
    shape.ffn = 80;
    make(&shape);
    begin(&s, NULL, &options);
    qnt_plan_get_totals(s.plan, &totals);
    for (size_t i = 0; qnt_plan_get_line(s.plan, i, &line); i++) {
        bool odd = strstr(line.tensor, "down_proj") != NULL;
        noted += odd;
        if (odd && (strcmp(line.type, "gguf:q4_0") == 0 || !strstr(line.note, "no block divides the width")))
            fail_msg("%s becomes %s: %s", line.tensor, line.type, line.note);
    }
    assert_int_equal(noted, 2);
    assert_true(totals.bits_per_weight >= 4.5);
    json_decref(run(&s));
    end(&s);
    options.strict = true;
    assert_int_equal(status_of(&options, "strict: " LAYER0 "mlp.down_proj.weight"), QNT_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(zero_point_off_by_one),
        TEST(slow_packing),
        TEST(tokenizer_with_a_padded_vocabulary),
        TEST(tokenizer_beyond_the_vocabulary),
        TEST(shapes_that_do_not_divide),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
