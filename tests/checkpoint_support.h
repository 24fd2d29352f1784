/*
 * checkpoint_support.h - a small model that tests write as a folder, whole or damaged, and compare with what is read.
 *
 * 2 blocks, hidden size 32, mlp 64, 2 heads of 16, 1 key-value head, 10 tokens. Number k of tensor t is
 * value_of(t, k), exact in f16.
 */
#ifndef CHECKPOINT_SUPPORT_H
#define CHECKPOINT_SUPPORT_H

#include "file_support.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include "base/number.h"
#include "checkpoint/checkpoint.h"
#include "file/safetensors.h"

enum { HIDDEN = 32, FFN = 64, HEAD = 16, HEADS = 2, KV_HEADS = 1, VOCAB = 10, BLOCKS = 2, MOST = 64 };

/* What differs from a good Llama; zero is the good default. */
struct spec {
    const char *set[6][2];            /* members of config.json set to a JSON text, or (NULL) removed */
    bool no_prefix;                   /* names without "model." */
    bool qkv_bias, other_bias;
    bool head, head_copy;             /* lm_head stored; as a copy of the embedding */
    const char *drop, *extra, *reshape;
    const char *retype, *type;        /* a tensor with a dtype of its own */
    const char *quant_format;         /* metadata */
    /* What is expected. */
    qnt_status status;
    const char *message, *warning;
};

struct tensor {
    char name[96];
    const char *dtype;
    size_t rank, shape[2];
    uint16_t data[HIDDEN * FFN];
};

struct model {
    struct tensor tensors[MOST];
    size_t count;
};

static inline float value_of(size_t tensor, size_t k)
{
    return (float)((int)((tensor * 37 + k * 101 + k / 7) % 255) - 127) / 64.0f;
}

static inline void add_tensor(struct model *m, const struct spec *s, const char *name, size_t rows, size_t cols)
{
    struct tensor *t = &m->tensors[m->count];
    size_t index = m->count;
    if (s->drop && strcmp(name, s->drop) == 0)
        return;
    assert_true(m->count++ < MOST);
    snprintf(t->name, sizeof t->name, "%s", s->no_prefix && strncmp(name, "model.", 6) == 0 ? name + 6 : name);
    t->dtype = s->retype && strcmp(name, s->retype) == 0 ? s->type : "F16";
    t->rank = rows ? 2 : 1;
    t->shape[0] = rows ? rows : cols;
    t->shape[1] = cols;
    if (s->reshape && strcmp(name, s->reshape) == 0)
        t->shape[0]--;
    for (size_t k = 0; k < qnti_max(rows, 1) * cols; k++)
        t->data[k] = qnti_f32_to_f16(value_of(index, k));
}

/* A weight `part` of a block, of rank 1 with `out` 0, and its bias. */
static inline void add_linear(struct model *m, const struct spec *s, size_t block, const char *part, size_t out,
                              size_t in, bool bias)
{
    char name[96];
    snprintf(name, sizeof name, "model.layers.%zu.%s.weight", block, part);
    add_tensor(m, s, name, out, in);
    snprintf(name, sizeof name, "model.layers.%zu.%s.bias", block, part);
    if (bias)
        add_tensor(m, s, name, 0, out);
}

static inline struct model *make_model(const struct spec *s)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    add_tensor(m, s, "model.embed_tokens.weight", VOCAB, HIDDEN);
    add_tensor(m, s, "model.norm.weight", 0, HIDDEN);
    if (s->head)
        add_tensor(m, s, "lm_head.weight", VOCAB, HIDDEN);
    if (s->head && s->head_copy)
        memcpy(m->tensors[2].data, m->tensors[0].data, sizeof m->tensors[0].data);
    if (s->extra)
        add_tensor(m, s, s->extra, 0, 4);
    for (size_t b = 0; b < BLOCKS; b++) {
        add_linear(m, s, b, "input_layernorm", 0, HIDDEN, false);
        add_linear(m, s, b, "self_attn.q_proj", HEADS * HEAD, HIDDEN, s->qkv_bias);
        add_linear(m, s, b, "self_attn.k_proj", KV_HEADS * HEAD, HIDDEN, s->qkv_bias);
        add_linear(m, s, b, "self_attn.v_proj", KV_HEADS * HEAD, HIDDEN, s->qkv_bias);
        add_linear(m, s, b, "self_attn.o_proj", HIDDEN, HEADS * HEAD, s->other_bias);
        add_linear(m, s, b, "post_attention_layernorm", 0, HIDDEN, false);
        add_linear(m, s, b, "mlp.gate_proj", FFN, HIDDEN, s->other_bias);
        add_linear(m, s, b, "mlp.up_proj", FFN, HIDDEN, s->other_bias);
        add_linear(m, s, b, "mlp.down_proj", HIDDEN, FFN, s->other_bias);
    }
    return m;
}

static inline void write_config(const struct spec *s)
{
    static const char *const usual[][2] = {
        {"architectures", "[\"LlamaForCausalLM\"]"}, {"model_type", "\"llama\""}, {"hidden_size", "32"},
        {"intermediate_size", "64"}, {"num_hidden_layers", "2"}, {"num_attention_heads", "2"},
        {"num_key_value_heads", "1"}, {"vocab_size", "10"}, {"rms_norm_eps", "1e-05"}, {"rope_theta", "10000.0"},
        {"rope_scaling", "null"}, {"tie_word_embeddings", "true"}, {"torch_dtype", "\"float16\""},
        {"max_position_embeddings", "128"},
    };
    char text[4096] = "{";
    bool used[6] = {false};
    for (size_t i = 0; i < COUNT(usual); i++) {
        const char *value = usual[i][1];
        for (size_t k = 0; k < 6 && s->set[k][0]; k++)
            if (strcmp(s->set[k][0], usual[i][0]) == 0) {
                value = s->set[k][1];
                used[k] = true;
            }
        if (value)
            sprintf(text + strlen(text), "\"%s\": %s,\n", usual[i][0], value);
    }
    for (size_t k = 0; k < 6 && s->set[k][0]; k++)
        if (!used[k] && s->set[k][1])
            sprintf(text + strlen(text), "\"%s\": %s,\n", s->set[k][0], s->set[k][1]);
    strcpy(text + strlen(text) - 2, "}");
    put_file("m/config.json", text, strlen(text));
}

/* Tensors first to last - 1 into a safetensors file. */
static inline void write_tensors(const struct spec *s, const struct model *m, size_t first, size_t last,
                                 const char *path)
{
    const char *metadata[] = {"quant_format", s->quant_format};
    struct qnti_tensor_source sources[MOST];
    qnt_context *ctx = context_with(NULL);
    for (size_t i = first; i < last; i++) {
        const struct tensor *t = &m->tensors[i];
        sources[i - first] = (struct qnti_tensor_source){.name = t->name, .dtype = t->dtype, .rank = t->rank,
                                                         .shape = {t->shape[0], t->shape[1]}, .data = t->data};
    }
    assert_int_equal(qnti_safetensors_write(ctx, path, sources, last - first, metadata, s->quant_format ? 1 : 0),
                     QNT_OK);
    qnt_context_destroy(ctx);
}

/* The folder "m". */
static inline void write_model(const struct spec *s)
{
    struct model *m = make_model(s);
    assert_int_equal(mkdir("m", 0777), 0);
    write_config(s);
    write_tensors(s, m, 0, m->count, "m/model.safetensors");
    free(m);
}

static inline void remove_model(void)
{
    DIR *folder = opendir("m");
    const struct dirent *entry;
    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            assert_true(unlinkat(dirfd(folder), entry->d_name, 0) == 0 ||
                        unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR) == 0);
    closedir(folder);
    assert_int_equal(rmdir("m"), 0);
}

static inline void keep_line(void *user, qnt_log_level level, const char *message)
{
    char *lines = user;
    assert_int_equal(level, QNT_LOG_WARNING);
    snprintf(lines + strlen(lines), 2048 - strlen(lines), "%s\n", message);
}

static inline qnt_context *logging_context(char lines[2048])
{
    qnt_context_options options = {.log = keep_line, .log_user = lines, .threads = 2};
    qnt_context *ctx;
    lines[0] = 0;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    return ctx;
}

/* Opens a path and compares status, message and warning; *c is open if it should be. */
static inline void open_expecting(qnt_context *ctx, const char *lines, const struct spec *s, const char *path,
                                  struct qnti_checkpoint **c)
{
    qnt_status status = qnti_checkpoint_open(ctx, path, c);
    if (status != s->status)
        fail_msg("status %d, expected %d, with \"%s\": %s", status, s->status, s->message ? s->message : "",
                 qnt_context_message(ctx));
    if (s->message)
        assert_message_has(ctx, s->message);
    if (s->warning ? !strstr(lines, s->warning) : *lines != 0)
        fail_msg("warnings \"%s\", expected \"%s\"", lines, s->warning ? s->warning : "");
}

/* The tensor's numbers must be those that the model was made of. */
static inline void check_weight(qnt_context *ctx, const struct model *m, const struct qnti_weight *w)
{
    static float x[HIDDEN * FFN];
    const char *name = w->name;
    const struct tensor *t = NULL;
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->tensors[i].name, name) == 0 || strcmp(m->tensors[i].name, name + strlen("model.")) == 0)
            t = &m->tensors[i];
    assert_non_null(t);
    assert_int_equal(w->rows, t->rank == 2 ? t->shape[0] : 1);
    assert_int_equal(w->cols, t->shape[t->rank - 1]);
    assert_int_equal(qnti_weight_rows(ctx, w, 0, w->rows, x), QNT_OK);
    for (size_t k = 0; k < w->rows * w->cols; k++)
        assert_float_equal(x[k], qnti_f16_to_f32(t->data[k]), 0);
    if (w->rows > 3) {
        assert_int_equal(qnti_weight_rows(ctx, w, 2, 1, x), QNT_OK);
        assert_float_equal(x[1], qnti_f16_to_f32(t->data[2 * w->cols + 1]), 0);
    }
    assert_int_equal(qnti_weight_rows(ctx, w, w->rows, 1, x), QNT_INVALID);
}

/* All weights of a model, and how many there are. */
static inline void check_weights(struct qnti_checkpoint *c, const struct model *m, size_t expected)
{
    size_t count = 0;
    for (size_t b = 0; b < c->config.blocks; b++)
        for (enum qnti_role role = b ? QNTI_ATTN_NORM : QNTI_EMBED; role < QNTI_ROLES; role++) {
            const struct qnti_weight *both[2] = {qnti_checkpoint_weight(c, b, role), qnti_checkpoint_bias(c, b, role)};
            for (int i = 0; i < 2; i++)
                if (both[i]) {
                    check_weight(c->ctx, m, both[i]);
                    count++;
                }
        }
    assert_int_equal(count, expected);
    assert_null(qnti_checkpoint_weight(c, c->config.blocks, QNTI_Q));
    assert_int_equal(qnti_checkpoint_check_finite(c), QNT_OK);
}

/* For each_allocation_fails. */
static inline qnt_status open_and_read(qnt_context *ctx, void *path)
{
    struct qnti_checkpoint *c;
    uint64_t fingerprint;
    qnt_status status;
    QNT_TRY(qnti_checkpoint_open(ctx, path, &c));
    status = qnti_checkpoint_check_finite(c);
    if (status == QNT_OK)
        status = qnti_checkpoint_fingerprint(c, &fingerprint);
    qnti_checkpoint_close(c);
    return status;
}

#endif
