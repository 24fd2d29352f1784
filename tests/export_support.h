/*
 * export_support.h - models of a few thousand weights in every shape, and exports of them.
 *
 * Round to nearest on a type's own grid is that type's quantizer, so layers of the recipe and matrices that the export
 * converts must read back as the same numbers.
 */
#ifndef EXPORT_SUPPORT_H
#define EXPORT_SUPPORT_H

#include "file_support.h"

#include <sys/stat.h>
#include "base/number.h"
#include "container/gguf.h"
#include "export/export.h"
#include "file/folder.h"
#include "file/safetensors.h"
#include <quant/quant.h>

/* --- a model on disk --- */

struct shape {
    const char *architecture, *dtype;
    size_t hidden, ffn, blocks, heads, kv_heads, vocab;
    bool tied, bias;
    const char *more;                     /* members of config.json, with a comma in front */
};

static const struct shape small = {"LlamaForCausalLM", "F32", 64, 96, 2, 4, 2, 40, .bias = true};

enum { MAX_TENSORS = 128 };

struct maker {
    struct shape shape;
    struct qnti_tensor_source tensors[MAX_TENSORS];
    size_t count;
    uint32_t seed;
};

static inline float random_weight(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)((int32_t)*seed >> 8) * 0x1p-25f;
}

static inline void add_tensor(struct maker *m, const char *name, size_t rows, size_t cols)
{
    struct qnti_tensor_source *t = &m->tensors[m->count++];
    size_t n = (rows ? rows : 1) * cols, bytes = strcmp(m->shape.dtype, "F32") ? 2 : 4;
    char *data = malloc(n * bytes);
    assert_true(m->count <= MAX_TENSORS && data);
    for (size_t i = 0; i < n; i++) {
        float x = random_weight(&m->seed);
        uint16_t h = strcmp(m->shape.dtype, "F16") ? qnti_f32_to_bf16(x) : qnti_f32_to_f16(x);
        memcpy(data + i * bytes, bytes == 4 ? (const void *)&x : &h, bytes);
    }
    *t = (struct qnti_tensor_source){.name = strdup(name), .dtype = m->shape.dtype, .data = data};
    t->rank = rows ? 2 : 1;
    t->shape[0] = rows ? rows : cols;
    t->shape[1] = cols;
}

static inline void add_block(struct maker *m, size_t block)
{
    const struct shape *s = &m->shape;
    size_t d = s->hidden / s->heads, kv = d * s->kv_heads;
    bool qwen = strcmp(s->architecture, "Qwen2ForCausalLM") == 0;
    const struct {
        const char *name;
        size_t rows, cols;
        bool bias;
    } parts[] = {
        {"input_layernorm", 0, s->hidden, false},          {"self_attn.q_proj", s->hidden, s->hidden, s->bias},
        {"self_attn.k_proj", kv, s->hidden, s->bias},      {"self_attn.v_proj", kv, s->hidden, s->bias},
        {"self_attn.o_proj", s->hidden, s->hidden, s->bias && !qwen},
        {"post_attention_layernorm", 0, s->hidden, false}, {"mlp.gate_proj", s->ffn, s->hidden, false},
        {"mlp.up_proj", s->ffn, s->hidden, false},         {"mlp.down_proj", s->hidden, s->ffn, false},
    };
    char name[128];
    for (size_t i = 0; i < COUNT(parts); i++) {
        snprintf(name, sizeof name, "model.layers.%zu.%s.weight", block, parts[i].name);
        add_tensor(m, name, parts[i].rows, parts[i].cols);
        snprintf(name, sizeof name, "model.layers.%zu.%s.bias", block, parts[i].name);
        if (parts[i].bias)
            add_tensor(m, name, 0, parts[i].rows);
    }
}

static inline void put_config(const struct shape *s)
{
    char text[1024];
    int n = snprintf(text, sizeof text,
                     "{\"architectures\": [\"%s\"], \"hidden_size\": %zu, \"intermediate_size\": %zu, "
                     "\"num_hidden_layers\": %zu, \"num_attention_heads\": %zu, \"num_key_value_heads\": %zu, "
                     "\"vocab_size\": %zu, \"tie_word_embeddings\": %s, \"attention_bias\": %s, \"rms_norm_eps\": 1e-5"
                     "%s}", s->architecture, s->hidden, s->ffn, s->blocks, s->heads, s->kv_heads, s->vocab,
                     s->tied ? "true" : "false", s->bias ? "true" : "false", s->more ? s->more : "");
    put_file("model/config.json", text, (size_t)n);
}

/* The folder "model". */
static inline void make_model(const struct shape *shape)
{
    struct maker m = {.shape = *shape, .seed = 1};
    qnt_context *ctx = context_with(NULL);
    assert_int_equal(mkdir("model", 0777), 0);
    put_config(shape);
    add_tensor(&m, "model.embed_tokens.weight", shape->vocab, shape->hidden);
    add_tensor(&m, "model.norm.weight", 0, shape->hidden);
    if (!shape->tied)
        add_tensor(&m, "lm_head.weight", shape->vocab, shape->hidden);
    for (size_t b = 0; b < shape->blocks; b++)
        add_block(&m, b);
    assert_int_equal(qnti_safetensors_write(ctx, "model/model.safetensors", m.tensors, m.count, NULL, 0), QNT_OK);
    for (size_t i = 0; i < m.count; i++) {
        free((void *)(uintptr_t)m.tensors[i].name);
        free((void *)(uintptr_t)m.tensors[i].data);
    }
    qnt_context_destroy(ctx);
}

static inline void remove_files(void)
{
    static const char *const names[] = {"model/config.json", "model/model.safetensors", "model/tokenizer.json",
                                        "model/tokenizer.model", "model/tokenizer_config.json",
                                        "model/chat_template.jinja", "model/chat_template.json", "model.gguf",
                                        "again.gguf"};
    for (size_t i = 0; i < COUNT(names); i++)
        unlink(names[i]);
    assert_int_equal(rmdir("model"), 0);
}

/* --- an export --- */

struct run {
    qnt_context *ctx;
    struct qnti_checkpoint *source;
    struct qnti_export e;
    struct qnti_target targets[MAX_TENSORS];
    qnt_recipe *recipe;
    char log[4096];
    size_t progress;
    bool fail;                            /* layers */
};

static inline void keep_log(void *user, qnt_log_level level, const char *message)
{
    char *log = user;
    size_t n = strlen(log);
    (void)level;
    snprintf(log + n, 4096 - n, "%s\n", message);
}

static inline qnt_status nearest_layer(void *user, size_t target, qnt_qlinear **q)
{
    struct run *run = user;
    const struct qnti_target *t = &run->targets[target];
    float *x = NULL;
    qnt_status status;
    if (run->fail)
        return qnti_fail(run->ctx, QNT_CANCELLED, "stopped");
    QNT_TRY(QNTI_NEW(run->ctx, t->source->rows * t->source->cols, &x));
    status = qnti_weight_rows(run->ctx, t->source, 0, t->source->rows, x);
    if (status == QNT_OK) {
        qnt_layer layer = {.name = t->source->name, .format = t->layout};
        layer.weight = qnt_matrix_f32(x, t->source->rows, t->source->cols);
        status = qnt_quantize(run->ctx, run->recipe, &layer, q);
    }
    qnti_free(run->ctx, x);
    return status;
}

static inline void see_progress(void *user, size_t done, size_t total)
{
    struct run *run = user;
    assert_true(done > run->progress && done <= total);
    run->progress = done;
}

static inline void list_targets(struct run *run)
{
    const struct qnti_checkpoint *c = run->source;
    for (size_t block = 0; block < c->config.blocks; block++)
        for (enum qnti_role role = block ? QNTI_ATTN_NORM : 0; role < QNTI_ROLES; role++)
            for (int bias = 0; bias < 2; bias++) {
                const struct qnti_weight *w = bias ? qnti_checkpoint_bias(c, block, role)
                                                   : qnti_checkpoint_weight(c, block, role);
                if (w)
                    run->targets[run->e.count++] =
                        (struct qnti_target){.source = w, .role = role, .bias = bias, .block = block};
            }
}

static inline qnt_status open_run(struct run *run, qnt_context *ctx, const char *path, const char *format)
{
    *run = (struct run){.ctx = ctx, .e = {.ctx = ctx, .layer = nearest_layer, .progress = see_progress}};
    QNT_TRY(qnti_checkpoint_open(ctx, path, &run->source));
    run->e.source = run->source;
    run->e.format = qnti_format_find(ctx, format);
    run->e.targets = run->targets;
    run->e.user = run;
    list_targets(run);
    return qnt_recipe_parse(ctx, "rtn", &run->recipe);
}

static inline void close_run(struct run *run)
{
    qnt_recipe_destroy(run->recipe);
    qnti_checkpoint_close(run->source);
}

static inline void start(struct run *run, const char *path, const char *format)
{
    qnt_context *ctx;
    qnt_context_options options = {.threads = 2, .log = keep_log, .log_user = run->log};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    assert_int_equal(open_run(run, ctx, path, format), QNT_OK);
    assert_int_equal(run->e.format->assign(&run->e), QNT_OK);
}

static inline void finish(struct run *run)
{
    close_run(run);
    qnt_context_destroy(run->ctx);
}

/* Writes the file, which must have the size that was foretold. */
static inline void write_file(struct run *run, const char *path)
{
    uint64_t bytes;
    struct stat info;
    assert_int_equal(run->e.format->bytes(&run->e, &bytes), QNT_OK);
    assert_int_equal(run->e.format->write(&run->e, path), QNT_OK);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, bytes);
}

static inline struct qnti_gguf *open_gguf(const struct run *run, const char *path)
{
    struct qnti_gguf *file;
    assert_int_equal(qnti_gguf_open(run->ctx, path, qnti_ggml_type_size, &file), QNT_OK);
    return file;
}

static inline const struct qnti_target *find_target(const struct run *run, size_t block, enum qnti_role role,
                                                    bool bias)
{
    for (size_t i = 0; i < run->e.count; i++)
        if (run->targets[i].role == role && run->targets[i].bias == bias &&
            (role < QNTI_ATTN_NORM || run->targets[i].block == block))
            return &run->targets[i];
    fail_msg("no target");
    return NULL;
}

static inline float *rows_of(const struct run *run, const struct qnti_weight *w)
{
    float *x = malloc(w->rows * w->cols * sizeof *x);
    assert_non_null(x);
    assert_int_equal(qnti_weight_rows(run->ctx, w, 0, w->rows, x), QNT_OK);
    return x;
}

/* What a target should read back as. */
static inline float *expected_rows(struct run *run, size_t target)
{
    const struct qnti_target *t = &run->targets[target];
    float *x = rows_of(run, t->source);
    qnt_qlinear *q;
    if (qnti_ggml_type_named(t->layout + 5)->elements > 1) {
        assert_int_equal(nearest_layer(run, target, &q), QNT_OK);
        assert_int_equal(qnt_dequantize(q, x), QNT_OK);
        qnt_qlinear_destroy(q);
    }
    for (size_t i = 0; i < t->source->rows * t->source->cols; i++) {
        if (strcmp(t->layout, "gguf:f16") == 0)
            x[i] = qnti_round_to(QNT_F16, x[i]);
        if (strcmp(t->layout, "gguf:bf16") == 0)
            x[i] = qnti_round_to(QNT_BF16, x[i]);
    }
    return x;
}

/* Opens what was written as a model and compares every number. */
static inline void compare_model(struct run *run, const char *path)
{
    struct qnti_checkpoint *c;
    assert_int_equal(qnti_checkpoint_open(run->ctx, path, &c), QNT_OK);
    for (size_t i = 0; i < run->e.count; i++) {
        const struct qnti_target *t = &run->targets[i];
        const struct qnti_weight *w = t->bias ? qnti_checkpoint_bias(c, t->block, t->role)
                                              : qnti_checkpoint_weight(c, t->block, t->role);
        float *wanted = expected_rows(run, i), *x;
        assert_non_null(w);
        x = rows_of(run, w);
        assert_memory_equal(x, wanted, w->rows * w->cols * sizeof *x);
        free(x);
        free(wanted);
    }
    assert_int_equal(c->config.context, run->source->config.context);
    assert_true(c->config.rope.theta == run->source->config.rope.theta);
    assert_true(c->config.norm_eps == run->source->config.norm_eps);
    assert_int_equal(c->config.tied_head, run->source->config.tied_head);
    qnti_checkpoint_close(c);
}

struct failing_export {
    struct run run;
    const char *format, *recipe;
    uint64_t shard_bytes;
};

static inline qnt_status export_and_open(qnt_context *ctx, void *arg)
{
    struct failing_export *f = arg;
    struct run *run = &f->run;
    struct qnti_checkpoint *c = NULL;
    uint64_t bytes;
    qnt_status status;
    QNT_CHECK(open_run(run, ctx, "model", f->format));
    qnt_recipe_destroy(run->recipe);
    run->recipe = NULL;
    QNT_CHECK(qnt_recipe_parse(ctx, f->recipe, &run->recipe));
    QNT_CHECK(run->e.format->assign(&run->e));
    QNT_CHECK(run->e.format->bytes(&run->e, &bytes));
    run->e.shard_bytes = f->shard_bytes;
    QNT_CHECK(run->e.format->write(&run->e, "out"));
    status = qnti_checkpoint_open(ctx, "out", &c);
cleanup:
    qnti_checkpoint_close(c);
    close_run(run);
    return status;
}

/* Of the folder "model", of one block, which is written and opened again; shard_bytes as in struct qnti_export. */
static inline void each_allocation_of_an_export_fails(const char *format, const char *recipe, uint64_t shard_bytes)
{
    static struct failing_export f;
    struct shape shape = small;
    qnt_context *ctx = context_with(NULL);
    f = (struct failing_export){.format = format, .recipe = recipe, .shard_bytes = shard_bytes};
    shape.blocks = 1;
    make_model(&shape);
    each_allocation_fails(export_and_open, &f);
    qnti_folder_remove(ctx, "out");
    remove_files();
    qnt_context_destroy(ctx);
}

#endif
