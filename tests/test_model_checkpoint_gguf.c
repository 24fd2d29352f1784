/*
 * test_model_checkpoint_gguf.c - the small model in a GGUF file: tensors come back in Hugging Face's order whatever
 * they are stored in, and what the keys can have wrong is told.
 */
#include "checkpoint_support.h"

#include "checkpoint/source.h"
#include "container/gguf.h"

struct gguf_tensor {
    unsigned char bytes[4 * HIDDEN * FFN];
    size_t n;
};

static qnt_status write_gguf_tensor(void *user, struct qnti_output *output)
{
    const struct gguf_tensor *t = user;
    return qnti_output_write(output, t->bytes, t->n);
}

/* "model.layers.1.mlp.up_proj.weight" -> "blk.1.ffn_up.weight". */
static void gguf_name(const struct qnti_family *family, const char *name, char *result)
{
    char hf[96], gguf[96];
    const char *suffix = strrchr(name, '.');
    for (size_t b = 0; b < BLOCKS; b++)
        for (int role = 0; role < QNTI_ROLES; role++) {
            if (!family->names[role])
                continue;
            snprintf(hf, sizeof hf, family->names[role], b);
            snprintf(gguf, sizeof gguf, qnti_gguf_names[role], b);
            if (strlen(hf) == (size_t)(suffix - name) && strncmp(hf, name, strlen(hf)) == 0) {
                sprintf(result, "%s%s", gguf, suffix);
                return;
            }
        }
    sprintf(result, "%s", name);
}

/* Row (of a bias: number) of Hugging Face's order that stands at `place` of a q or k of GGUF's llama. */
static size_t original_row(size_t place)
{
    size_t in_head = place % HEAD;
    return place - in_head + in_head % 2 * (HEAD / 2) + in_head / 2;
}

static void put_gguf_tensor(struct qnti_gguf_writer *writer, const struct qnti_family *family, const struct tensor *t,
                            struct gguf_tensor *out)
{
    bool permuted = family->gguf_permutes_qk && (strstr(t->name, "q_proj") || strstr(t->name, "k_proj"));
    size_t rows = t->shape[0], cols = t->rank == 2 ? t->shape[1] : 1, ne[2] = {t->shape[t->rank - 1], t->shape[0]};
    char name[96];
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < cols; k++) {
            uint16_t h = t->data[(permuted ? original_row(r) : r) * cols + k];
            float x = qnti_f16_to_f32(h);
            if (t->rank == 1)
                memcpy(out->bytes + 4 * r, &x, 4);
            else
                memcpy(out->bytes + 2 * (r * cols + k), &h, 2);
        }
    out->n = rows * cols * (t->rank == 1 ? 4 : 2);
    gguf_name(family, t->name, name);
    assert_int_equal(qnti_gguf_add_tensor(writer, name, t->rank, ne, t->rank == 1 ? 0 : 1, out->n, write_gguf_tensor,
                                          out), QNT_OK);
}

static void put_keys(struct qnti_gguf_writer *w, const char *arch, const char *without)
{
    static const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {{"block_count", BLOCKS}, {"context_length", 128}, {"embedding_length", HIDDEN},
                 {"feed_forward_length", FFN}, {"attention.head_count", HEADS}, {"attention.head_count_kv", KV_HEADS}};
    char key[96];
    assert_int_equal(qnti_gguf_put_string(w, "general.architecture", arch, strlen(arch)), QNT_OK);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        snprintf(key, sizeof key, "%s.%s", arch, sizes[i].name);
        if (!without || strcmp(sizes[i].name, without))
            assert_int_equal(qnti_gguf_put_u32(w, key, sizes[i].value), QNT_OK);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    assert_int_equal(qnti_gguf_put_f32(w, key, 1e-5f), QNT_OK);
}

/* What differs from a good GGUF. */
struct gguf_spec {
    const char *arch;
    struct spec model;
    const char *without;              /* a key */
    const char *string_key, *string;  /* one more */
    const char *u32_key;
    uint32_t u32;
    const float *divisors;            /* [HEAD / 2] */
    bool q8_down;                     /* block 0's down projection as Q8_0: scale 1/64, codes value_of * 64 */
    bool tokens;
};

static void put_q8_0(struct qnti_gguf_writer *w, const struct tensor *t, struct gguf_tensor *out)
{
    size_t ne[2] = {t->shape[1], t->shape[0]};
    uint16_t scale = qnti_f32_to_f16(1.0f / 64);
    out->n = 0;
    for (size_t k = 0; k < t->shape[0] * t->shape[1]; k++) {
        if (k % 32 == 0) {
            memcpy(out->bytes + out->n, &scale, 2);
            out->n += 2;
        }
        out->bytes[out->n++] = (unsigned char)(int)(qnti_f16_to_f32(t->data[k]) * 64);
    }
    assert_int_equal(qnti_gguf_add_tensor(w, "blk.0.ffn_down.weight", 2, ne, 8, out->n, write_gguf_tensor, out),
                     QNT_OK);
}

static void put_tokens(struct qnti_gguf_writer *w)
{
    static const char *const tokens[VOCAB] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b", "ab", "e\xe2\x96\x81",
                                              "c", "d"};
    static const float scores[VOCAB] = {0, 0, 0, -1, -2, -3, -0.5f, -4, -5, -6};
    static const int32_t kinds[VOCAB] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    size_t lengths[VOCAB];
    for (size_t i = 0; i < VOCAB; i++)
        lengths[i] = strlen(tokens[i]);
    assert_int_equal(qnti_gguf_put_string(w, "tokenizer.ggml.model", "llama", 5), QNT_OK);
    assert_int_equal(qnti_gguf_put_string_array(w, "tokenizer.ggml.tokens", tokens, lengths, VOCAB), QNT_OK);
    assert_int_equal(qnti_gguf_put_f32_array(w, "tokenizer.ggml.scores", scores, VOCAB), QNT_OK);
    assert_int_equal(qnti_gguf_put_i32_array(w, "tokenizer.ggml.token_type", kinds, VOCAB), QNT_OK);
}

static void put_extras(struct qnti_gguf_writer *w, const struct gguf_spec *s, struct gguf_tensor *out)
{
    size_t n = HEAD / 2;
    if (s->string_key)
        assert_int_equal(qnti_gguf_put_string(w, s->string_key, s->string, strlen(s->string)), QNT_OK);
    if (s->u32_key)
        assert_int_equal(qnti_gguf_put_u32(w, s->u32_key, s->u32), QNT_OK);
    if (s->tokens)
        put_tokens(w);
    if (!s->divisors)
        return;
    out->n = n * sizeof *s->divisors;
    memcpy(out->bytes, s->divisors, out->n);
    assert_int_equal(qnti_gguf_add_tensor(w, "rope_freqs.weight", 1, &n, 0, out->n, write_gguf_tensor, out), QNT_OK);
}

static void write_gguf(const struct gguf_spec *s)
{
    struct model *m = make_model(&s->model);
    struct gguf_tensor *data = calloc(m->count + 1, sizeof *data);
    const struct qnti_family *family = strcmp(s->arch, "qwen2") ? &qnti_families[0] : &qnti_families[2];
    qnt_context *ctx = context_with(NULL);
    struct qnti_gguf_writer writer;
    struct qnti_output *output;
    assert_non_null(data);
    qnti_gguf_writer_init(ctx, &writer);
    put_keys(&writer, s->arch, s->without);
    put_extras(&writer, s, &data[m->count]);
    for (size_t i = 0; i < m->count; i++)
        if (s->q8_down && strcmp(m->tensors[i].name, "model.layers.0.mlp.down_proj.weight") == 0)
            put_q8_0(&writer, &m->tensors[i], &data[i]);
        else
            put_gguf_tensor(&writer, family, &m->tensors[i], &data[i]);
    assert_int_equal(qnti_output_create(ctx, "m.gguf", &output), QNT_OK);
    assert_int_equal(qnti_gguf_write(&writer, output), QNT_OK);
    assert_int_equal(qnti_output_commit(output), QNT_OK);
    qnti_gguf_writer_free(&writer);
    qnt_context_destroy(ctx);
    free(data);
    free(m);
}

static void good_ggufs(void **state)
{
    static const struct {
        struct gguf_spec spec;
        size_t tensors;
    } rows[] = {
        {{.arch = "llama"}, 20},
        {{.arch = "llama", .model = {.head = true}}, 21},
        {{.arch = "llama", .model = {.qkv_bias = true, .other_bias = true}}, 34},
        {{.arch = "qwen2", .model = {.qkv_bias = true}}, 26},
        {{.arch = "llama", .q8_down = true}, 20},
        {{.arch = "llama", .model = {.extra = "odd.weight", .warning = "ignored: odd.weight"}}, 20},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char lines[2048];
        qnt_context *ctx = logging_context(lines);
        struct model *m = make_model(&rows[i].spec.model);
        struct qnti_checkpoint *c;
        write_gguf(&rows[i].spec);
        open_expecting(ctx, lines, &rows[i].spec.model, "m.gguf", &c);
        check_weights(c, m, rows[i].tensors);
        assert_int_equal(c->config.tied_head, !rows[i].spec.model.head);
        qnti_checkpoint_close(c);
        qnt_context_destroy(ctx);
        free(m);
        assert_int_equal(unlink("m.gguf"), 0);
    }
}

static void broken_ggufs(void **state)
{
    static const float zeros[HEAD / 2];
    static const struct gguf_spec specs[] = {
        {.arch = "gemma", .model = {.status = QNT_UNSUPPORTED, .message = "\"gemma\" is not supported; supported are "
                                                                         "llama, qwen2"}},
        {.arch = "llama", .without = "block_count", .model = {.status = QNT_BAD_DATA, .message = "llama.block_count"}},
        {.arch = "llama", .u32_key = "llama.expert_count", .u32 = 8,
         .model = {.status = QNT_UNSUPPORTED, .message = "8 experts"}},
        {.arch = "llama", .u32_key = "split.count", .u32 = 3,
         .model = {.status = QNT_UNSUPPORTED, .message = "one of 3 parts"}},
        {.arch = "llama", .u32_key = "llama.rope.dimension_count", .u32 = 8,
         .model = {.status = QNT_UNSUPPORTED, .message = "llama.rope.dimension_count is 8"}},
        {.arch = "llama", .string_key = "llama.rope.scaling.type", .string = "ntk",
         .model = {.status = QNT_UNSUPPORTED, .message = "\"ntk\""}},
        {.arch = "llama", .divisors = zeros, .model = {.status = QNT_BAD_DATA, .message = "divisor 0"}},
        {.arch = "llama", .model = {.drop = "model.embed_tokens.weight", .status = QNT_BAD_DATA,
                                    .message = "token_embd.weight"}},
        {.arch = "llama", .model = {.drop = "model.layers.1.self_attn.o_proj.weight", .status = QNT_BAD_DATA,
                                    .message = "has no tensor \"blk.1.attn_output.weight\", expected (32, 32)"}},
        {.arch = "qwen2", .model = {.status = QNT_BAD_DATA, .message = "has no tensor \"blk.0.attn_q.bias\""}},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(specs); i++) {
        char lines[2048];
        qnt_context *ctx = logging_context(lines);
        struct qnti_checkpoint *c;
        write_gguf(&specs[i]);
        open_expecting(ctx, lines, &specs[i].model, "m.gguf", &c);
        assert_null(c);
        qnt_context_destroy(ctx);
        assert_int_equal(unlink("m.gguf"), 0);
    }
}

/* Divisors come back as they are; where the usual parameters give them, with these. */
static void gguf_divisors(void **state)
{
    static const float odd[HEAD / 2] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct qnti_rope usual = {.kind = QNTI_ROPE_LLAMA3, .theta = 10000, .factor = 32, .low_freq_factor = 1,
                              .high_freq_factor = 4, .original_context = 8192};
    qnt_context *ctx = context_with(NULL);
    const float *divisors[2] = {odd};
    (void)state;
    assert_int_equal(qnti_rope_finish(ctx, "usual", &(struct qnti_config){.head_dim = HEAD}, &usual), QNT_OK);
    divisors[1] = usual.divisors;
    for (int i = 0; i < 2; i++) {
        struct qnti_checkpoint *c;
        write_gguf(&(struct gguf_spec){.arch = "llama", .divisors = divisors[i]});
        assert_int_equal(qnti_checkpoint_open(ctx, "m.gguf", &c), QNT_OK);
        assert_int_equal(c->config.rope.kind, QNTI_ROPE_LLAMA3);
        assert_memory_equal(c->config.rope.divisors, divisors[i], HEAD / 2 * sizeof **divisors);
        assert_int_equal(c->config.rope.original_context, i ? 8192 : 0);
        qnti_checkpoint_close(c);
        assert_int_equal(unlink("m.gguf"), 0);
    }
    qnti_free(ctx, usual.divisors);
    qnt_context_destroy(ctx);
}

static void gguf_tokenizer(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_checkpoint *c;
    qnti_tokenizer *tokenizer;
    const struct qnti_vocabulary *v;
    static const char eos[] = "tokenizer.ggml.eos_token_id";
    (void)state;
    write_gguf(&(struct gguf_spec){.arch = "llama"});
    assert_int_equal(qnti_checkpoint_open(ctx, "m.gguf", &c), QNT_OK);
    assert_int_equal(qnti_checkpoint_tokenizer(c, &tokenizer), QNT_NOT_FOUND);
    qnti_checkpoint_close(c);
    write_gguf(&(struct gguf_spec){.arch = "llama", .tokens = true, .u32_key = eos, .u32 = 9});
    assert_int_equal(qnti_checkpoint_open(ctx, "m.gguf", &c), QNT_OK);
    assert_int_equal(qnti_checkpoint_tokenizer(c, &tokenizer), QNT_OK);
    v = qnti_tokenizer_vocabulary(tokenizer);
    assert_int_equal(v->count, VOCAB);
    assert_int_equal(v->bos, 1);
    assert_int_equal(v->eos, 9);
    assert_true(v->add_bos && !v->add_eos && v->add_space_prefix && !v->byte_level);
    qnti_tokenizer_close(tokenizer);
    qnti_checkpoint_close(c);
    write_gguf(&(struct gguf_spec){.arch = "llama", .tokens = true, .u32_key = eos, .u32 = 10});
    assert_int_equal(qnti_checkpoint_open(ctx, "m.gguf", &c), QNT_OK);
    assert_int_equal(qnti_checkpoint_tokenizer(c, &tokenizer), QNT_BAD_DATA);
    assert_message_has(ctx, "tokenizer.ggml.eos_token_id is 10, expected an id below 10");
    qnti_checkpoint_close(c);
    assert_int_equal(unlink("m.gguf"), 0);
    qnt_context_destroy(ctx);
}

static void memory_runs_out(void **state)
{
    (void)state;
    write_gguf(&(struct gguf_spec){.arch = "llama", .q8_down = true});
    each_allocation_fails(open_and_read, "m.gguf");
    assert_int_equal(unlink("m.gguf"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_ggufs),     cmocka_unit_test(broken_ggufs),    cmocka_unit_test(gguf_divisors),
        cmocka_unit_test(gguf_tokenizer), cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
