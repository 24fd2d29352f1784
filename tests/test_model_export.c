/*
 * test_model_export.c - the GGUF export: numbers, types, order, keys, and what happens when something fails.
 */
#include "export_support.h"

static void test_formats(void **state)
{
    qnt_context *ctx = context_with(NULL);
    (void)state;
    for (size_t i = 0; i < qnti_format_count; i++) {
        assert_ptr_equal(qnti_format_find(ctx, qnti_formats[i].name), &qnti_formats[i]);
        assert_non_null(qnti_layout_find(ctx, qnti_formats[i].layout));
    }
    assert_string_equal(qnti_format_find(ctx, "GGUF:Q4_0")->name, "gguf:q4_0");
    assert_null(qnti_format_find(ctx, "gguf:q9"));
    assert_message_has(ctx, "gguf:q6_k");
    qnt_context_destroy(ctx);
}

static void test_values(void **state)
{
    static const char *const formats[] = {"gguf:f32", "gguf:f16", "gguf:bf16", "gguf:q8_0", "gguf:q4_0",
                                          "gguf:q4_1", "gguf:q5_0", "gguf:q5_1", "gguf:q6_k"};
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    static struct run run;
    (void)state;
    for (size_t i = 0; i < COUNT(formats); i++) {
        struct shape shape = small;
        shape.dtype = dtypes[i % COUNT(dtypes)];
        shape.tied = i % 2;
        if (i % 4 == 0)
            shape.hidden = shape.ffn = 256;
        if (i % 4 == 1)
            shape.architecture = "Qwen2ForCausalLM";
        make_model(&shape);
        start(&run, "model", formats[i]);
        write_file(&run, "model.gguf");
        compare_model(&run, "model.gguf");
        finish(&run);
        remove_files();
    }
}

/* Heads of 16 rows: row 2 j + t of a head is row 8 t + j of the model, biases likewise; nothing moves in v. */
static void test_rows_of_q_and_k(void **state)
{
    static const enum qnti_role roles[] = {QNTI_Q, QNTI_K, QNTI_V};
    static const char *const names[] = {"blk.1.attn_q", "blk.1.attn_k", "blk.1.attn_v"};
    static struct run run;
    (void)state;
    for (int qwen = 0; qwen < 2; qwen++) {
        struct shape shape = small;
        struct qnti_gguf *file;
        if (qwen)
            shape.architecture = "Qwen2ForCausalLM";
        make_model(&shape);
        start(&run, "model", "gguf:f32");
        write_file(&run, "model.gguf");
        file = open_gguf(&run, "model.gguf");
        for (int i = 0; i < 6; i++) {
            const struct qnti_weight *w = find_target(&run, 1, roles[i / 2], i % 2)->source;
            size_t lines = i % 2 ? w->cols : w->rows, line = i % 2 ? 1 : w->cols;
            const struct qnti_gguf_tensor *t;
            float *x = rows_of(&run, w);
            char name[64];
            snprintf(name, sizeof name, "%s.%s", names[i / 2], i % 2 ? "bias" : "weight");
            t = qnti_gguf_find_tensor(file, name);
            for (size_t r = 0; r < lines; r++) {
                size_t j = r % 16 / 2, from = qwen || i >= 4 ? r : r / 16 * 16 + r % 2 * 8 + j;
                assert_memory_equal(t->data + r * line * 4, x + from * line, line * 4);
            }
            free(x);
        }
        qnti_gguf_close(file);
        finish(&run);
        remove_files();
    }
}

static const struct {
    const char *format, *output, *embedding;
    bool calibrated;
    size_t hidden, ffn, blocks;
    bool tied;
    const char *embed, *head, *down0, *down1, *gate;
} rules[] = {
    {"gguf:f16", NULL, NULL, false, 64, 96, 2, true, "f16", NULL, "f16", "f16", "f16"},
    {"gguf:bf16", "f32", NULL, false, 64, 96, 2, false, "bf16", "f32", "bf16", "bf16", "bf16"},
    {"gguf:q4_0", NULL, NULL, false, 256, 512, 2, false, "q4_0", "q6_k", "q4_0", "q4_0", "q4_0"},
    {"gguf:q4_0", NULL, NULL, false, 256, 512, 2, true, "q6_k", NULL, "q4_0", "q4_0", "q4_0"},
    {"gguf:q4_0", NULL, NULL, false, 64, 172, 2, true, "q8_0", NULL, "f16", "f16", "q4_0"},
    {"gguf:q4_0", NULL, NULL, false, 64, 96, 8, true, "q8_0", NULL, "q4_0", "q4_0", "q4_0"},
    {"gguf:q4_0", NULL, NULL, true, 64, 96, 8, true, "q8_0", NULL, "q4_1", "q4_0", "q4_0"},
    {"gguf:q5_0", NULL, NULL, true, 64, 96, 8, true, "q8_0", NULL, "q5_1", "q5_0", "q5_0"},
    {"gguf:q5_0", NULL, NULL, true, 64, 96, 7, true, "q8_0", NULL, "q5_0", "q5_0", "q5_0"},
    {"gguf:q5_1", NULL, NULL, true, 64, 96, 8, true, "q8_0", NULL, "q5_1", "q5_1", "q5_1"},
    {"gguf:q8_0", NULL, NULL, false, 256, 96, 2, false, "q8_0", "q8_0", "q8_0", "q8_0", "q8_0"},
    {"gguf:q6_k", NULL, NULL, false, 256, 96, 2, false, "q6_k", "q6_k", "q8_0", "q8_0", "q6_k"},
    {"gguf:q6_k", NULL, NULL, false, 40, 96, 2, false, "f16", "f16", "q8_0", "q8_0", "f16"},
    {"gguf:q4_0", "Q5_1", "gguf:f16", false, 64, 96, 2, false, "f16", "q5_1", "q4_0", "q4_0", "q4_0"},
    {"gguf:q4_0", NULL, "q5_0", false, 64, 96, 2, true, "q5_0", NULL, "q4_0", "q4_0", "q4_0"},
    {"gguf:q4_0", "q8_0", "q5_0", false, 64, 96, 2, true, "q8_0", NULL, "q4_0", "q4_0", "q4_0"},
};

static void expect_type(const struct run *run, size_t block, enum qnti_role role, const char *type)
{
    const struct qnti_target *t;
    if (!type)
        return;
    t = find_target(run, block, role, false);
    assert_string_equal(t->layout + strlen("gguf:"), type);
    assert_int_equal(t->quantized, qnti_is_linear(role) && type[0] == 'q');
}

static void test_types(void **state)
{
    static struct run run;
    (void)state;
    for (size_t i = 0; i < COUNT(rules); i++) {
        struct shape shape = {"LlamaForCausalLM", "F16", rules[i].hidden, rules[i].ffn, rules[i].blocks, 4, 2, 8,
                              .tied = rules[i].tied};
        make_model(&shape);
        start(&run, "model", rules[i].format);
        run.e.output_type = rules[i].output;
        run.e.embedding_type = rules[i].embedding;
        run.e.calibrated = rules[i].calibrated;
        assert_int_equal(run.e.format->assign(&run.e), QNT_OK);
        expect_type(&run, 0, QNTI_EMBED, rules[i].embed);
        expect_type(&run, 0, QNTI_HEAD, rules[i].head);
        expect_type(&run, 0, QNTI_DOWN, rules[i].down0);
        expect_type(&run, 1, QNTI_DOWN, rules[i].down1);
        expect_type(&run, 1, QNTI_GATE, rules[i].gate);
        assert_string_equal(find_target(&run, 1, QNTI_MLP_NORM, false)->layout, "gguf:f32");
        finish(&run);
        remove_files();
    }
}

/* What is not as asked for says why. */
static void test_notes(void **state)
{
    static struct run run;
    struct shape shape = small;
    (void)state;
    shape.hidden = 256;
    shape.ffn = 96;
    make_model(&shape);
    start(&run, "model", "gguf:q6_k");
    assert_null(find_target(&run, 0, QNTI_GATE, false)->note);
    assert_null(find_target(&run, 0, QNTI_MLP_NORM, false)->note);
    assert_non_null(strstr(find_target(&run, 0, QNTI_DOWN, false)->note, "no multiple of 256"));
    finish(&run);
    remove_files();
    shape.ffn = 172;
    make_model(&shape);
    start(&run, "model", "gguf:q4_0");
    assert_null(find_target(&run, 0, QNTI_HEAD, false)->note);
    assert_non_null(strstr(find_target(&run, 0, QNTI_DOWN, false)->note, "f16"));
    finish(&run);
    remove_files();
}

static void test_unknown_output_type(void **state)
{
    static struct run run;
    (void)state;
    make_model(&small);
    start(&run, "model", "gguf:q4_0");
    run.e.output_type = "q7_0";
    assert_int_equal(run.e.format->assign(&run.e), QNT_NOT_FOUND);
    assert_message_has(run.ctx, "q7_0");
    finish(&run);
    remove_files();
}

/* Those of no block first, names as bytes. */
static void test_order(void **state)
{
    static const char *const names[] = {"output.weight", "output_norm.weight", "rope_freqs.weight",
                                        "token_embd.weight", "blk.0.attn_k.bias", "blk.0.attn_k.weight"};
    static struct run run;
    struct shape shape = small;
    struct qnti_gguf *file;
    size_t n;
    (void)state;
    shape.blocks = 3;
    shape.more = ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32.0, \"low_freq_factor\": 1.0, "
                 "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}";
    make_model(&shape);
    start(&run, "model", "gguf:q4_0");
    write_file(&run, "model.gguf");
    assert_int_equal(run.progress > 0, true);
    file = open_gguf(&run, "model.gguf");
    for (size_t i = 0; i < COUNT(names); i++)
        assert_string_equal(file->tensors[i].name, names[i]);
    n = file->tensor_count;
    assert_string_equal(file->tensors[n - 1].name, "blk.2.ffn_up.weight");
    assert_memory_equal(qnti_gguf_find_tensor(file, "rope_freqs.weight")->data, run.source->config.rope.divisors,
                        8 * sizeof(float));
    assert_non_null(qnti_gguf_find(file, "general.quantization_version"));
    qnti_gguf_close(file);
    finish(&run);
    remove_files();
}

static void test_linear_rope(void **state)
{
    static struct run run;
    struct shape shape = small;
    struct qnti_checkpoint *c;
    (void)state;
    shape.more = ", \"rope_theta\": 5000.0, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}";
    make_model(&shape);
    start(&run, "model", "gguf:f16");
    write_file(&run, "model.gguf");
    assert_int_equal(qnti_checkpoint_open(run.ctx, "model.gguf", &c), QNT_OK);
    assert_int_equal(c->config.rope.kind, QNTI_ROPE_LINEAR);
    assert_true(c->config.rope.factor == 2.5f && c->config.rope.theta == 5000);
    qnti_checkpoint_close(c);
    finish(&run);
    remove_files();
}

/* Numbers that f16 does not have. */
static void test_clamp(void **state)
{
    static struct run run;
    static float x[64 * 40];
    struct qnti_weight w = {.name = "big.weight", .rows = 40, .cols = 64, .plain = qnt_matrix_f32(x, 40, 64)};
    const struct qnti_gguf_tensor *t;
    struct qnti_gguf *file;
    (void)state;
    for (size_t i = 0; i < COUNT(x); i++)
        x[i] = 1;
    x[3] = 70000;
    x[100] = -1e30f;
    make_model(&small);
    start(&run, "model", "gguf:f16");
    for (size_t i = 0; i < run.e.count; i++)
        if (run.targets[i].role == QNTI_HEAD)
            run.targets[i].source = &w;
    write_file(&run, "model.gguf");
    assert_non_null(strstr(run.log, "big.weight: 2 numbers beyond 65504"));
    file = open_gguf(&run, "model.gguf");
    t = qnti_gguf_find_tensor(file, "output.weight");
    assert_memory_equal(t->data + 2 * 3, "\xff\x7b", 2);
    assert_memory_equal(t->data + 2 * 100, "\xff\xfb", 2);
    assert_memory_equal(t->data + 2 * 101, "\x00\x3c", 2);
    qnti_gguf_close(file);
    finish(&run);
    remove_files();
}

static void copy_golden(const char *name, const char *to)
{
    qnt_context *ctx = context_with(NULL);
    char path[512], *bytes;
    size_t n;
    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s", SOURCE_DIR, name);
    assert_int_equal(qnti_read_file(ctx, path, 1 << 24, &bytes, &n), QNT_OK);
    put_file(to, bytes, n);
    qnti_free(ctx, bytes);
    qnt_context_destroy(ctx);
}

static void compare_vocabularies(const struct qnti_vocabulary *a, const struct qnti_vocabulary *b, size_t count)
{
    char pad[32];
    assert_int_equal(b->count, count);
    assert_int_equal(a->byte_level, b->byte_level);
    assert_string_equal(a->pre, b->pre);
    for (size_t i = 0; i < count; i++) {
        if (i < a->count && a->pieces[i]) {
            assert_int_equal(a->piece_bytes[i], b->piece_bytes[i]);
            assert_memory_equal(a->pieces[i], b->pieces[i], a->piece_bytes[i]);
            assert_int_equal(a->kinds[i], b->kinds[i]);
            continue;
        }
        snprintf(pad, sizeof pad, "[PAD%zu]", i);
        assert_int_equal(b->kinds[i], QNTI_TOKEN_UNUSED);
        if (b->pieces[i])
            assert_memory_equal(b->pieces[i], pad, strlen(pad));
    }
    assert_int_equal(a->merge_count, b->merge_count);
    if (a->bos >= 0) /* a file without the key means the format's usual one */
        assert_int_equal(a->bos, b->bos);
    if (a->eos >= 0)
        assert_int_equal(a->eos, b->eos);
    assert_int_equal(a->add_bos, b->add_bos);
    assert_int_equal(a->add_eos, b->add_eos);
}

static void test_tokenizers(void **state)
{
    static const char *const names[][2] = {{"spm_bpe.model", "model/tokenizer.model"},
                                           {"spm_bpe.json", "model/tokenizer.json"},
                                           {"bytelevel_bpe.json", "model/tokenizer.json"}};
    static struct run run;
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        struct shape shape = small;
        qnti_tokenizer *before, *after;
        struct qnti_checkpoint *c;
        shape.vocab = 1003;
        make_model(&shape);
        copy_golden(names[i][0], names[i][1]);
        start(&run, "model", "gguf:f16");
        write_file(&run, "model.gguf");
        assert_int_equal(qnti_checkpoint_tokenizer(run.source, &before), QNT_OK);
        assert_int_equal(qnti_checkpoint_open(run.ctx, "model.gguf", &c), QNT_OK);
        assert_int_equal(qnti_checkpoint_tokenizer(c, &after), QNT_OK);
        compare_vocabularies(qnti_tokenizer_vocabulary(before), qnti_tokenizer_vocabulary(after), shape.vocab);
        qnti_tokenizer_close(before);
        qnti_tokenizer_close(after);
        qnti_checkpoint_close(c);
        finish(&run);
        remove_files();
    }
}

static void expect_template(const struct run *run, const char *key, const char *text)
{
    struct qnti_gguf *file = open_gguf(run, "model.gguf");
    const char *value = NULL;
    size_t bytes;
    assert_int_equal(qnti_gguf_string(file, key, &value, &bytes), QNT_OK);
    assert_non_null(value);
    assert_int_equal(bytes, strlen(text));
    assert_memory_equal(value, text, bytes);
    qnti_gguf_close(file);
}

static void test_templates(void **state)
{
    static const char jinja[] = "{{ x }}\r\n \xc3\xa9\n";
    static const char config[] = "{\"chat_template\": \"{{ 'a\\n\\u00e9' }}\"}";
    static const char list[] = "{\"chat_template\": [{\"name\": \"default\", \"template\": \"D\"}, "
                               "{\"name\": \"tool_use\", \"template\": \"T\"}]}";
    static struct run run;
    (void)state;
    make_model(&small);
    start(&run, "model", "gguf:f16");
    put_file("model/chat_template.json", list, strlen(list));
    write_file(&run, "model.gguf");
    expect_template(&run, "tokenizer.chat_template", "D");
    expect_template(&run, "tokenizer.chat_template.tool_use", "T");
    put_file("model/tokenizer_config.json", config, strlen(config));
    run.progress = 0;
    write_file(&run, "model.gguf");
    expect_template(&run, "tokenizer.chat_template", "{{ 'a\n\xc3\xa9' }}");
    put_file("model/chat_template.jinja", jinja, strlen(jinja));
    run.progress = 0;
    write_file(&run, "model.gguf");
    expect_template(&run, "tokenizer.chat_template", jinja);
    assert_non_null(strstr(run.log, "differs from chat_template.jinja"));
    finish(&run);
    remove_files();
}

/* A GGUF written from a GGUF of floats is the same file. */
static void test_again(void **state)
{
    static struct run run;
    struct shape shape = small;
    char *first, *second;
    size_t n, m;
    (void)state;
    shape.vocab = 1003;
    make_model(&shape);
    copy_golden("spm_bpe.model", "model/tokenizer.model");
    put_file("model/chat_template.jinja", "{{ x }}", 7);
    start(&run, "model", "gguf:f32");
    write_file(&run, "model.gguf");
    finish(&run);
    start(&run, "model.gguf", "gguf:f32");
    write_file(&run, "again.gguf");
    assert_int_equal(qnti_read_file(run.ctx, "model.gguf", 1 << 24, &first, &n), QNT_OK);
    assert_int_equal(qnti_read_file(run.ctx, "again.gguf", 1 << 24, &second, &m), QNT_OK);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n);
    qnti_free(run.ctx, first);
    qnti_free(run.ctx, second);
    finish(&run);
    remove_files();
}

/* Nothing stays behind, neither a file nor its temporary. */
static void test_failing_layer(void **state)
{
    static struct run run;
    (void)state;
    make_model(&small);
    start(&run, "model", "gguf:q4_0");
    run.fail = true;
    assert_int_equal(run.e.format->write(&run.e, "model.gguf"), QNT_CANCELLED);
    assert_false(qnti_path_exists("model.gguf"));
    finish(&run);
    remove_files();
}

/* Flips bits of the temporary once everything is written. */
static void damage(void *user, size_t done, size_t total)
{
    char name[64];
    FILE *file;
    (void)user;
    if (done < total)
        return;
    snprintf(name, sizeof name, ".model.gguf.partial-0");
    file = fopen(name, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 1000000, SEEK_SET), 0);
    assert_int_equal(fputc(0x5a, file), 0x5a);
    assert_int_equal(fclose(file), 0);
}

static void test_damage(void **state)
{
    static struct run run;
    struct shape shape = small;
    (void)state;
    shape.vocab = 8192; /* 2 MB each of embedding and output matrix: they do not wait in a buffer */
    make_model(&shape);
    start(&run, "model", "gguf:f32");
    run.e.progress = damage;
    assert_int_equal(run.e.format->write(&run.e, "model.gguf"), QNT_IO);
    assert_message_has(run.ctx, "output.weight");
    assert_message_has(run.ctx, "reads back otherwise");
    finish(&run);
    remove_files();
}

static qnt_status export_once(qnt_context *ctx, void *arg)
{
    struct run *run = arg;
    uint64_t bytes;
    qnt_status status;
    QNT_CHECK(open_run(run, ctx, "model", "gguf:q4_0"));
    QNT_CHECK(run->e.format->assign(&run->e));
    QNT_CHECK(run->e.format->bytes(&run->e, &bytes));
    status = run->e.format->write(&run->e, "model.gguf");
cleanup:
    close_run(run);
    return status;
}

static void test_memory(void **state)
{
    static struct run run;
    struct shape shape = small;
    (void)state;
    shape.blocks = 1;
    make_model(&shape);
    put_file("model/chat_template.jinja", "{{ x }}", 7);
    each_allocation_fails(export_once, &run);
    remove_files();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_rows_of_q_and_k),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_unknown_output_type),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_linear_rope),
        cmocka_unit_test(test_clamp),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_failing_layer),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
