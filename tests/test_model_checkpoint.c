/*
 * test_model_checkpoint.c - model folders: good ones give their tensors by role, and every way in which a folder can
 * be wrong has one that is wrong so.
 */
#include "checkpoint_support.h"

#include <math.h>
#include "pack/native.h"
#include "qlinear/qlinear.h"

/* --- good models --- */

static void check_good(const struct spec *s, size_t tensors)
{
    char lines[2048];
    qnt_context *ctx = logging_context(lines);
    struct model *m = make_model(s);
    struct qnti_checkpoint *c;
    write_model(s);
    open_expecting(ctx, lines, s, "m", &c);
    check_weights(c, m, tensors);
    qnti_checkpoint_close(c);
    remove_model();
    free(m);
    qnt_context_destroy(ctx);
}

static void good_models(void **state)
{
    static const struct spec specs[] = {
        {.no_prefix = true},
        {.no_prefix = true, .set = {{"architectures", "[\"LlamaModel\"]"}}},
        {.set = {{"architectures", NULL}}},
        {.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"},
        {.head = true, .head_copy = true},
        {.set = {{"head_dim", "null"}, {"torch_dtype", "7"}, {"quantization_config", "null"}}},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(specs); i++)
        check_good(&specs[i], 20);
    check_good(&(struct spec){.head = true, .set = {{"tie_word_embeddings", "false"}}}, 21);
    check_good(&(struct spec){.head = true, .warning = "lm_head.weight differs from the embedding"}, 21);
    check_good(&(struct spec){.qkv_bias = true, .set = {{"architectures", "[\"Qwen2ForCausalLM\"]"}}}, 26);
    check_good(&(struct spec){.qkv_bias = true, .other_bias = true,
                              .set = {{"attention_bias", "true"}, {"mlp_bias", "true"}}}, 34);
    check_good(&(struct spec){.set = {{"architectures", "[\"MistralForCausalLM\"]"}, {"attention_bias", "true"}}}, 20);
    check_good(&(struct spec){.extra = "odd.tensor",
                              .warning = "1 tensor without a place in the model, ignored: odd.tensor"}, 20);
    check_good(&(struct spec){.extra = "model.layers.2.odd.weight", .warning = "model.layers.2.odd.weight"}, 20);
}

static void check_spec(const struct spec *s)
{
    char lines[2048];
    qnt_context *ctx = logging_context(lines);
    struct qnti_checkpoint *c;
    write_model(s);
    open_expecting(ctx, lines, s, "m", &c);
    qnti_checkpoint_close(c);
    qnt_context_destroy(ctx);
    remove_model();
}

static void broken_models(void **state)
{
    static const struct spec specs[] = {
        /* the family */
        {.set = {{"architectures", "[\"FalconForCausalLM\"]"}}, .status = QNT_UNSUPPORTED,
         .message = "FalconForCausalLM\" is not supported; supported are LlamaForCausalLM, MistralForCausalLM, "
                    "Qwen2ForCausalLM, Qwen3ForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, Phi3ForCausalLM, "
                    "OPTForCausalLM, GPT2LMHeadModel"},
        {.set = {{"architectures", NULL}, {"model_type", "\"falcon\""}}, .status = QNT_UNSUPPORTED,
         .message = "\"falcon\""},
        {.set = {{"architectures", NULL}, {"model_type", NULL}}, .status = QNT_BAD_DATA, .message = "neither"},
        {.set = {{"architectures", "[]"}}, .status = QNT_BAD_DATA, .message = "not a list of names"},
        /* sizes */
        {.set = {{"hidden_size", NULL}}, .status = QNT_BAD_DATA, .message = "config.json: has no hidden_size"},
        {.set = {{"hidden_size", "\"32\""}}, .status = QNT_BAD_DATA, .message = "hidden_size"},
        {.set = {{"num_hidden_layers", "0"}}, .status = QNT_BAD_DATA, .message = "num_hidden_layers is 0"},
        {.set = {{"num_hidden_layers", "1000000"}}, .status = QNT_BAD_DATA, .message = "expected 1 to 4096"},
        {.set = {{"num_attention_heads", "3"}}, .status = QNT_BAD_DATA, .message = "3 heads do not divide"},
        {.set = {{"num_key_value_heads", "4"}}, .status = QNT_BAD_DATA, .message = "key-value heads is 4"},
        {.set = {{"num_attention_heads", "4503599627370496"}, {"head_dim", "16"}}, .status = QNT_BAD_DATA,
         .message = "number of heads"},
        {.set = {{"num_attention_heads", "32"}}, .status = QNT_BAD_DATA, .message = "expected an even number"},
        {.set = {{"head_dim", "8"}}, .status = QNT_BAD_DATA,
         .message = "\"model.layers.0.self_attn.q_proj.weight\" has the shape (32, 32), expected (16, 32)"},
        {.set = {{"hidden_act", "\"glu\""}}, .status = QNT_UNSUPPORTED, .message = "hidden_act \"glu\""},
        {.set = {{"rms_norm_eps", "-1"}}, .status = QNT_BAD_DATA, .message = "epsilon"},
        /* positions */
        {.set = {{"rope_scaling", "{\"type\": \"ntk\", \"factor\": 2.0}"}}, .status = QNT_UNSUPPORTED,
         .message = "rope_type \"ntk\""},
        {.set = {{"rope_parameters", "{\"rope_type\": \"dynamic\"}"}}, .status = QNT_BAD_DATA,
         .message = "without a positive factor"},
        {.set = {{"rope_scaling", "{\"type\": \"longrope\", \"short_factor\": [1, 2]}"}}, .status = QNT_BAD_DATA,
         .message = "short_factor has 2 numbers, expected 8"},
        {.set = {{"rope_scaling", "{\"type\": \"linear\"}"}}, .status = QNT_BAD_DATA, .message = "factor"},
        {.set = {{"rope_scaling", "{\"factor\": 2.0}"}}, .status = QNT_BAD_DATA, .message = "has no rope_type"},
        {.set = {{"rope_scaling", "3"}}, .status = QNT_BAD_DATA, .message = "rope_scaling is not an object"},
        {.set = {{"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 4.0}"}},
         .status = QNT_BAD_DATA, .message = "low_freq_factor 4"},
        {.set = {{"rope_theta", "0"}}, .status = QNT_BAD_DATA, .message = "base of RoPE"},
        {.set = {{"partial_rotary_factor", "0.45"}}, .status = QNT_BAD_DATA, .message = "RoPE turns 7 channels"},
        {.set = {{"partial_rotary_factor", "1.5"}}, .status = QNT_BAD_DATA, .message = "RoPE turns 24 channels"},
        {.set = {{"architectures", "[\"MistralForCausalLM\"]"}, {"sliding_window", "0"}}, .status = QNT_BAD_DATA,
         .message = "sliding_window is 0"},
        /* tensors */
        {.drop = "model.layers.1.mlp.up_proj.weight", .status = QNT_BAD_DATA,
         .message = "has no tensor \"model.layers.1.mlp.up_proj.weight\", expected (64, 32)"},
        {.reshape = "model.norm.weight", .status = QNT_BAD_DATA,
         .message = "\"model.norm.weight\" has the shape (31), expected (32)"},
        {.set = {{"attention_bias", "true"}}, .status = QNT_BAD_DATA,
         .message = "has no tensor \"model.layers.0.self_attn.q_proj.bias\", expected (32)"},
        {.set = {{"tie_word_embeddings", "false"}}, .status = QNT_BAD_DATA,
         .message = "has no tensor \"lm_head.weight\", expected (10, 32) (tie_word_embeddings is false)"},
        {.retype = "model.norm.weight", .type = "F8_E4M3", .status = QNT_UNSUPPORTED,
         .message = "\"model.norm.weight\" is stored as F8_E4M3"},
        /* quantized already */
        {.set = {{"quantization_config", "{\"quant_method\": \"quip\"}"}}, .status = QNT_UNSUPPORTED,
         .message = "quantized already (quantization_config, method \"quip\")"},
        {.set = {{"quantization_config", "{\"quant_method\": \"gptq\"}"}}, .status = QNT_BAD_DATA,
         .message = "says method gptq, but no tensor is a .qweight"},
        {.extra = "model.layers.0.mlp.up_proj.weight_scale_inv", .status = QNT_UNSUPPORTED,
         .message = "weight_scale_inv"},
        {.quant_format = "unheard_of", .status = QNT_UNSUPPORTED, .message = "format \"unheard_of\""},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(specs); i++)
        check_spec(&specs[i]);
}

/* --- configurations --- */

static void open_config(const struct spec *s, void (*check)(const struct qnti_config *config))
{
    char lines[2048];
    qnt_context *ctx = logging_context(lines);
    struct qnti_checkpoint *c;
    write_model(s);
    open_expecting(ctx, lines, s, "m", &c);
    check(&c->config);
    qnti_checkpoint_close(c);
    remove_model();
    qnt_context_destroy(ctx);
}

static void is_plain(const struct qnti_config *k)
{
    assert_int_equal(k->rope.kind, QNTI_ROPE_DEFAULT);
    assert_null(k->rope.divisors);
    assert_float_equal(k->rope.theta, 10000, 0);
    assert_int_equal(k->sliding_window, 0);
    assert_int_equal(k->head_dim, 16);
    assert_int_equal(k->context, 128);
    assert_float_equal(k->norm_eps, 1e-5f, 0);
}

static void is_linear(const struct qnti_config *k)
{
    assert_int_equal(k->rope.kind, QNTI_ROPE_LINEAR);
    assert_float_equal(k->rope.theta, 500, 0);
    for (size_t i = 0; i < HEAD / 2; i++)
        assert_float_equal(k->rope.divisors[i], 4, 0);
}

/* Context 32, factors 1 and 4: wave lengths below 8 stay, those above 32 are stretched, pair 1 (19.9) lies between. */
static void is_llama3(const struct qnti_config *k)
{
    float wave = 6.2831853f * powf(10000, 2.0f / HEAD), s = (32 / wave - 1) / 3;
    assert_int_equal(k->rope.kind, QNTI_ROPE_LLAMA3);
    assert_float_equal(k->rope.divisors[0], 1, 0);
    assert_float_equal(k->rope.divisors[1], 1 / ((1 - s) / 8 + s), 1e-4);
    assert_float_equal(k->rope.divisors[2], 8, 0);
    assert_float_equal(k->rope.divisors[7], 8, 0);
}

static void has_window(const struct qnti_config *k)
{
    assert_int_equal(k->sliding_window, 8);
}

static void has_default_window(const struct qnti_config *k)
{
    assert_int_equal(k->sliding_window, 4096);
}

/* The window is the second block's alone. */
static void has_one_window(const struct qnti_config *k)
{
    assert_int_equal(qnti_block_window(k, 0), 0);
    assert_int_equal(qnti_block_window(k, 1), 8);
}

static void configurations(void **state)
{
    static const char mistral[] = "[\"MistralForCausalLM\"]", qwen[] = "[\"Qwen2ForCausalLM\"]";
    (void)state;
    open_config(&(struct spec){.status = QNT_OK}, is_plain);
    open_config(&(struct spec){.set = {{"rope_theta", NULL}, {"rope_parameters", "{\"rope_theta\": 10000}"}}},
                is_plain);
    open_config(&(struct spec){.set = {{"rope_scaling", "{\"type\": \"linear\", \"factor\": 4}"},
                                       {"rope_theta", "500"}}}, is_linear);
    open_config(&(struct spec){.set = {{"rope_scaling", "{\"type\": \"yarn\"}"},
                                       {"rope_parameters", "{\"rope_type\": \"linear\", \"factor\": 4, "
                                                           "\"rope_theta\": 500}"}}}, is_linear);
    open_config(&(struct spec){.set = {{"rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, "
                                                        "\"low_freq_factor\": 1, \"high_freq_factor\": 4, "
                                                        "\"original_max_position_embeddings\": 32}"}}}, is_llama3);
    open_config(&(struct spec){.set = {{"architectures", mistral}, {"sliding_window", "null"}}}, is_plain);
    open_config(&(struct spec){.set = {{"architectures", mistral}, {"sliding_window", "8"}}}, has_window);
    open_config(&(struct spec){.set = {{"architectures", mistral}}}, has_default_window);
    open_config(&(struct spec){.qkv_bias = true, .set = {{"architectures", qwen}, {"sliding_window", "8"}}}, is_plain);
    open_config(&(struct spec){.qkv_bias = true, .set = {{"architectures", qwen}, {"sliding_window", "8"},
                                                         {"use_sliding_window", "true"}}}, is_plain);
    open_config(&(struct spec){.qkv_bias = true, .set = {{"architectures", qwen}, {"sliding_window", "8"},
                                                         {"use_sliding_window", "true"}, {"max_window_layers", "0"}}},
                has_window);
    open_config(&(struct spec){.qkv_bias = true, .set = {{"architectures", qwen}, {"sliding_window", "8"},
                                                         {"use_sliding_window", "true"}, {"max_window_layers", "1"}}},
                has_one_window);
    open_config(&(struct spec){.qkv_bias = true,
                               .set = {{"architectures", qwen}, {"sliding_window", "8"}, {"use_sliding_window", "true"},
                                       {"layer_types", "[\"full_attention\", \"sliding_attention\"]"}}},
                has_one_window);
    open_config(&(struct spec){.qkv_bias = true,
                               .set = {{"architectures", qwen}, {"sliding_window", "8"}, {"use_sliding_window", "true"},
                                       {"layer_types", "[\"full_attention\", \"full_attention\"]"}}}, is_plain);
}

/* --- files of a folder --- */

static const char index_path[] = "m/model.safetensors.index.json";

/* The model in two shards; `map` of the tensors, the first `listed` of them, with `other` for the last one's file. */
static void write_shards(const struct spec *s, size_t left_out, const char *other)
{
    struct model *m = make_model(s);
    char text[8192] = "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {";
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(s);
    write_tensors(s, m, 0, 9, "m/model-00001-of-00002.safetensors");
    write_tensors(s, m, 9, m->count, "m/model-00002-of-00002.safetensors");
    for (size_t i = 0; i < m->count - left_out; i++)
        sprintf(text + strlen(text), "\"%s\": \"%s\",\n", m->tensors[i].name,
                other && i + 1 == m->count ? other
                : i < 9                    ? "model-00001-of-00002.safetensors"
                                           : "model-00002-of-00002.safetensors");
    strcpy(text + strlen(text) - 2, "}}");
    put_file(index_path, text, strlen(text));
    free(m);
}

static void check_folder(const struct spec *s)
{
    char lines[2048];
    qnt_context *ctx = logging_context(lines);
    struct qnti_checkpoint *c;
    struct model *m = make_model(s);
    open_expecting(ctx, lines, s, "m", &c);
    if (c)
        check_weights(c, m, 20);
    qnti_checkpoint_close(c);
    free(m);
    remove_model();
    qnt_context_destroy(ctx);
}

static void sharded_folders(void **state)
{
    const struct spec good = {.status = QNT_OK}, extra = {.extra = "x.weight", .warning = "x.weight"};
    struct spec bad = {.status = QNT_BAD_DATA};
    (void)state;
    write_shards(&good, 0, NULL);
    check_folder(&good);
    write_shards(&extra, 0, NULL);
    check_folder(&extra);
    bad.message = "model.layers.1.mlp.down_proj.weight";
    bad.warning = "1 tensor not in the index and ignored: model.layers.1.mlp.down_proj.weight";
    write_shards(&good, 1, NULL);
    check_folder(&bad);
    bad.warning = NULL;
    bad.message = "has no tensor \"model.layers.1.mlp.down_proj.weight\", which model.safetensors.index.json";
    write_shards(&good, 0, "model-00001-of-00002.safetensors");
    check_folder(&bad);
    bad.message = "lists the file \"../m/model.safetensors\"";
    write_shards(&good, 0, "../m/model.safetensors");
    check_folder(&bad);
    bad.message = "lists the file \"..\"";
    write_shards(&good, 0, "..");
    check_folder(&bad);
    bad.message = "model-00003-of-00002.safetensors: cannot open";
    bad.status = QNT_IO;
    write_shards(&good, 0, "model-00003-of-00002.safetensors");
    check_folder(&bad);
}

static void odd_indices(void **state)
{
    const struct spec both = {.warning = "the index is ignored"};
    struct spec bad = {.status = QNT_BAD_DATA, .message = "has no weight_map"};
    static const char *const texts[] = {"{}", "[]", "{\"weight_map\": {}}", "{\"weight_map\": 3}"};
    (void)state;
    write_model(&both);
    put_file(index_path, "{}", 2);
    check_folder(&both);
    for (size_t i = 0; i < COUNT(texts); i++) {
        assert_int_equal(mkdir("m", 0777), 0);
        write_config(&both);
        put_file(index_path, texts[i], strlen(texts[i]));
        check_folder(&bad);
    }
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(&both);
    put_file(index_path, "{\"weight_map\": {\"a\": 3}}", 24);
    bad.message = "the file of tensor \"a\" is not a string";
    check_folder(&bad);
}

static void folders_without_weights(void **state)
{
    struct spec s = {.status = QNT_NOT_FOUND, .message = "has no config.json"};
    (void)state;
    assert_int_equal(mkdir("m", 0777), 0);
    check_folder(&s);
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(&s);
    s.message = "has neither model.safetensors nor model.safetensors.index.json";
    check_folder(&s);
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(&s);
    put_file("m/pytorch_model.bin", "x", 1);
    s.status = QNT_UNSUPPORTED;
    s.message = "save_pretrained(..., safe_serialization=True)";
    check_folder(&s);
    assert_int_equal(mkdir("m", 0777), 0);
    put_file("m/config.json", "[]", 2);
    s.status = QNT_BAD_DATA;
    s.message = "config.json: is not a JSON object";
    check_folder(&s);
}

static void links(void **state)
{
    const struct spec good = {.status = QNT_OK};
    struct spec bad = {.status = QNT_IO, .message = "m/model.safetensors: cannot open"};
    (void)state;
    write_model(&good);
    assert_int_equal(rename("m/model.safetensors", "m/blob"), 0);
    assert_int_equal(symlink("blob", "m/model.safetensors"), 0);
    check_folder(&good);
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(&good);
    assert_int_equal(symlink("model.safetensors", "m/model.safetensors"), 0);
    check_folder(&bad);
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(&good);
    assert_int_equal(symlink("nowhere", "m/model.safetensors"), 0);
    check_folder(&bad);
}

static qnt_status add_side_file(void *user, const char *folder, const char *name)
{
    char *list = user;
    assert_string_equal(folder, "m");
    strcat(strcat(list, name), " ");
    return QNT_OK;
}

static void side_files_and_fingerprint(void **state)
{
    const struct spec good = {.status = QNT_OK};
    char list[256] = "";
    uint64_t first, second;
    qnt_context *ctx = context_with(NULL);
    struct qnti_checkpoint *c;
    (void)state;
    write_model(&good);
    put_file("m/tokenizer.json", "{}", 2);
    put_file("m/LICENSE", "", 0);
    put_file("m/.hidden", "", 0);
    put_file("m/pytorch_model.bin", "", 0);
    assert_int_equal(mkdir("m/folder", 0777), 0);
    assert_int_equal(qnti_checkpoint_open(ctx, "m", &c), QNT_OK);
    assert_int_equal(qnti_checkpoint_side_files(c, add_side_file, list), QNT_OK);
    assert_string_equal(list, "LICENSE tokenizer.json ");
    assert_int_equal(qnti_checkpoint_fingerprint(c, &first), QNT_OK);
    assert_int_equal(qnti_checkpoint_fingerprint(c, &second), QNT_OK);
    assert_true(first == second);
    write_config(&(struct spec){.set = {{"rope_theta", "10001"}}});
    assert_int_equal(qnti_checkpoint_fingerprint(c, &second), QNT_OK);
    assert_true(first != second);
    qnti_checkpoint_close(c);
    qnt_context_destroy(ctx);
    remove_model();
}

/* --- numbers that are not finite --- */

static void check_non_finite(const char *dtype, uint32_t bits, size_t bytes)
{
    const struct spec s = {.retype = "model.layers.1.mlp.down_proj.weight", .type = "BF16"};
    struct model *m = make_model(&s);
    struct tensor *t = &m->tensors[m->count - 1];
    qnt_context *ctx = context_with(NULL);
    struct qnti_checkpoint *c;
    t->dtype = dtype;
    if (bytes == 4) /* half as many numbers fit: the block's mlp norm will do */
        t = &m->tensors[m->count - 4], t->dtype = dtype, m->tensors[m->count - 1].dtype = "F16";
    memset(t->data, 0, sizeof t->data);
    memcpy((char *)t->data + 5 * bytes, &bits, bytes);
    memcpy((char *)t->data + 9 * bytes, &bits, bytes);
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(&s);
    write_tensors(&s, m, 0, m->count, "m/model.safetensors");
    assert_int_equal(qnti_checkpoint_open(ctx, "m", &c), QNT_OK);
    assert_int_equal(qnti_checkpoint_check_finite(c), QNT_NON_FINITE);
    assert_message_has(ctx, bytes == 4 ? "model.layers.1.post_attention_layernorm.weight: 2 of 32 numbers"
                                       : "model.layers.1.mlp.down_proj.weight: 2 of 2048 numbers");
    assert_message_has(ctx, "at row 0, column 5");
    qnti_checkpoint_close(c);
    qnt_context_destroy(ctx);
    remove_model();
    free(m);
}

static void non_finite(void **state)
{
    (void)state;
    check_non_finite("F16", 0xfc00, 2);
    check_non_finite("F16", 0x7c01, 2);
    check_non_finite("BF16", 0x7f80, 2);
    check_non_finite("F32", 0xff800000u, 4);
}

/* --- a model that the library quantized --- */

/* The tensor as a layer whose numbers are f16, among `native`'s. */
static void add_native(qnt_context *ctx, struct qnti_native_tensors *native, const struct tensor *t)
{
    static float x[HIDDEN * FFN];
    qnt_qlinear *q;
    char name[96];
    snprintf(name, sizeof name, "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
    for (size_t k = 0; k < t->shape[0] * t->shape[1]; k++)
        x[k] = qnti_f16_to_f32(t->data[k]);
    assert_int_equal(qnti_qlinear_create(ctx, name, t->shape[0], t->shape[1], NULL, &q), QNT_OK);
    assert_int_equal(qnti_qlinear_one_segment(q), QNT_OK);
    assert_int_equal(qnti_numbers_from_floats(ctx, QNT_F16, x, q->out, q->in, &q->segments[0].weight), QNT_OK);
    assert_int_equal(qnti_native_add(ctx, q, native), QNT_OK);
    qnt_qlinear_destroy(q);
}

/* The model with its blocks' linears in the native format, all but the tensor named `without`. */
static void write_native(const struct spec *s, const char *without)
{
    static const char *const metadata[] = {"quant_format", "native"};
    struct model *m = make_model(s);
    struct qnti_native_tensors native = {0};
    struct qnti_tensor_source sources[4 * MOST];
    qnt_context *ctx = context_with(NULL);
    size_t n = 0;
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(s);
    for (size_t i = 0; i < m->count; i++) {
        const struct tensor *t = &m->tensors[i];
        if (without && strcmp(t->name, without) == 0)
            continue;
        if (strstr(t->name, "_proj.weight"))
            add_native(ctx, &native, t);
        else
            sources[n++] = (struct qnti_tensor_source){.name = t->name, .dtype = t->dtype, .rank = t->rank,
                                                       .shape = {t->shape[0], t->shape[1]}, .data = t->data};
    }
    for (size_t i = 0; i < native.count; i++) {
        assert_true(n < COUNT(sources));
        sources[n++] = native.sources[i];
    }
    assert_int_equal(qnti_safetensors_write(ctx, "m/model.safetensors", sources, n, metadata, 1), QNT_OK);
    qnti_native_tensors_free(ctx, &native);
    qnt_context_destroy(ctx);
    free(m);
}

static void native_folders(void **state)
{
    const struct spec qwen = {.qkv_bias = true, .set = {{"architectures", "[\"Qwen2ForCausalLM\"]"}}};
    struct model *m = make_model(&qwen);
    char lines[2048];
    qnt_context *ctx = logging_context(lines);
    struct qnti_checkpoint *c;
    (void)state;
    write_native(&qwen, NULL);
    open_expecting(ctx, lines, &qwen, "m", &c);
    assert_string_equal(c->kind, "native");
    assert_non_null(qnti_checkpoint_weight(c, 1, QNTI_DOWN)->qlinear);
    assert_int_equal(qnti_weight_bytes(qnti_checkpoint_weight(c, 1, QNTI_DOWN)), HIDDEN * FFN * 2);
    check_weights(c, m, 26);
    qnti_checkpoint_close(c);
    each_allocation_fails(open_and_read, "m");
    remove_model();
    write_native(&qwen, "model.layers.1.self_attn.k_proj.weight");
    assert_int_equal(qnti_checkpoint_open(ctx, "m", &c), QNT_BAD_DATA);
    assert_message_has(ctx, "has no tensor \"model.layers.1.self_attn.k_proj.weight\", expected (16, 32)");
    remove_model();
    qnt_context_destroy(ctx);
    free(m);
}

/* --- memory --- */

static void memory_runs_out(void **state)
{
    const struct spec llama3 = {.extra = "odd", .set = {{"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8}"}}};
    (void)state;
    write_shards(&llama3, 0, NULL);
    each_allocation_fails(open_and_read, "m");
    remove_model();
}

/* --- models from outside --- */

static void shared_models(void **state)
{
    static const char *const names[] = {"stories260K", "babyllama-105", "tinystories-k256"};
    const char *shared = getenv("QUANT_SHARED");
    char lines[2048];
    qnt_context *ctx = logging_context(lines);
    (void)state;
    for (size_t i = 0; shared && i < COUNT(names); i++) {
        char path[1024];
        struct qnti_checkpoint *c;
        snprintf(path, sizeof path, "%s/models/%s", shared, names[i]);
        assert_int_equal(qnti_checkpoint_open(ctx, path, &c), QNT_OK);
        assert_string_equal(lines, "");
        assert_string_equal(c->family->name, "Llama");
        assert_int_equal(c->config.heads, 8);
        assert_int_equal(c->config.kv_heads, 4);
        assert_int_equal(c->config.tied_head, i < 2);
        assert_int_equal(qnti_checkpoint_check_finite(c), QNT_OK);
        qnti_checkpoint_close(c);
    }
    qnt_context_destroy(ctx);
    if (!shared)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_models),     cmocka_unit_test(broken_models),
        cmocka_unit_test(configurations),  cmocka_unit_test(sharded_folders),
        cmocka_unit_test(odd_indices),     cmocka_unit_test(folders_without_weights),
        cmocka_unit_test(links),           cmocka_unit_test(side_files_and_fingerprint),
        cmocka_unit_test(non_finite),      cmocka_unit_test(memory_runs_out),
        cmocka_unit_test(native_folders),  cmocka_unit_test(shared_models),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
