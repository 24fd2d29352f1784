/*
 * gguf_tokenizer.c - the keys tokenizer.ggml.* of a GGUF file: "llama" (pieces with scores) or "gpt2" (with merges).
 *
 * There are as many tokens as the embedding has rows: ids without a token get
 * a piece "[PADn]" of the kind UNUSED, tokens beyond are left out.
 */
#include "export/gguf.h"

#include <stdio.h>
#include <string.h>

static const float no_score = -10000; /* as the format's converter writes where there is no token */

/* The vocabulary at the length of the embedding. */
struct tokens {
    size_t count, missing;
    const char **pieces;
    size_t *piece_bytes;
    float *scores;
    int32_t *kinds;
    char (*names)[24];     /* [missing] "[PADn]" */
};

static qnt_status allocate(qnt_context *ctx, const struct qnti_vocabulary *v, size_t count, struct tokens *t)
{
    t->count = count;
    for (size_t i = 0; i < count; i++)
        t->missing += i >= v->count || !v->pieces[i];
    QNT_TRY(QNTI_NEW(ctx, count, &t->pieces));
    QNT_TRY(QNTI_NEW(ctx, count, &t->piece_bytes));
    QNT_TRY(QNTI_NEW(ctx, count, &t->kinds));
    QNT_TRY(QNTI_NEW(ctx, count, &t->scores));
    return QNTI_NEW(ctx, t->missing, &t->names);
}

static void free_tokens(qnt_context *ctx, struct tokens *t)
{
    qnti_free(ctx, (void *)t->pieces);
    qnti_free(ctx, t->piece_bytes);
    qnti_free(ctx, t->kinds);
    qnti_free(ctx, t->scores);
    qnti_free(ctx, t->names);
}

static void fill(const struct qnti_vocabulary *v, struct tokens *t)
{
    size_t named = 0;
    for (size_t i = 0; i < t->count; i++) {
        if (i < v->count && v->pieces[i]) {
            t->pieces[i] = v->pieces[i];
            t->piece_bytes[i] = v->piece_bytes[i];
            t->kinds[i] = v->kinds[i];
            t->scores[i] = v->scores ? v->scores[i] : 0;
            continue;
        }
        t->piece_bytes[i] = (size_t)snprintf(t->names[named], sizeof *t->names, "[PAD%zu]", i);
        t->pieces[i] = t->names[named++];
        t->kinds[i] = QNTI_TOKEN_UNUSED;
        t->scores[i] = no_score;
    }
}

static qnt_status put_pieces(struct qnti_gguf_file *file, const struct qnti_vocabulary *v)
{
    struct qnti_gguf_writer *w = &file->writer;
    struct tokens t = {0};
    qnt_status status;
    QNT_CHECK(allocate(w->ctx, v, file->e->source->config.vocab, &t));
    fill(v, &t);
    if (t.missing && !file->counting)
        qnti_log(w->ctx, QNT_LOG_WARNING, "%s: %zu of the embedding's %zu rows have no token; [PADn] stands for each",
                 file->e->source->path, t.missing, t.count);
    QNT_CHECK(qnti_gguf_put_string_array(w, "tokenizer.ggml.tokens", t.pieces, t.piece_bytes, t.count));
    if (!v->byte_level)
        QNT_CHECK(qnti_gguf_put_f32_array(w, "tokenizer.ggml.scores", t.scores, t.count));
    QNT_CHECK(qnti_gguf_put_i32_array(w, "tokenizer.ggml.token_type", t.kinds, t.count));
    if (v->byte_level)
        QNT_CHECK(qnti_gguf_put_string_array(w, "tokenizer.ggml.merges", v->merges, v->merge_bytes, v->merge_count));
cleanup:
    free_tokens(w->ctx, &t);
    return status;
}

/* llama.cpp ends the program at the first character that such a vocabulary does not have. */
static void warn_without_bytes(const struct qnti_gguf_file *file, const struct qnti_vocabulary *v)
{
    for (size_t i = 0; i < v->count; i++)
        if (v->kinds[i] == QNTI_TOKEN_BYTE)
            return;
    qnti_log(file->e->ctx, QNT_LOG_WARNING,
             "%s: the vocabulary has no byte pieces; llama.cpp stops at the first character that it does not have",
             file->e->source->path);
}

static qnt_status put_specials(struct qnti_gguf_file *file, const struct qnti_vocabulary *v)
{
    const struct {
        const char *key;
        int64_t id;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", v->bos},
        {"tokenizer.ggml.eos_token_id", v->eos},
        {"tokenizer.ggml.unknown_token_id", v->unk},
        {"tokenizer.ggml.padding_token_id", v->pad},
    };
    struct qnti_gguf_writer *w = &file->writer;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id >= 0 && (size_t)ids[i].id < file->e->source->config.vocab)
            QNT_TRY(qnti_gguf_put_u32(w, ids[i].key, (uint32_t)ids[i].id));
    QNT_TRY(qnti_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos));
    QNT_TRY(qnti_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos));
    if (v->byte_level)
        return QNT_OK;
    return qnti_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
}

static qnt_status put_vocabulary(struct qnti_gguf_file *file, const struct qnti_vocabulary *v)
{
    const char *model = v->byte_level ? "gpt2" : "llama";
    struct qnti_gguf_writer *w = &file->writer;
    QNT_TRY(qnti_gguf_put_string(w, "tokenizer.ggml.model", model, strlen(model)));
    QNT_TRY(qnti_gguf_put_string(w, "tokenizer.ggml.pre", v->pre, strlen(v->pre)));
    QNT_TRY(put_pieces(file, v));
    if (!v->byte_level && !file->counting)
        warn_without_bytes(file, v);
    return put_specials(file, v);
}

/* A model without a tokenizer is told from one that needs none by the model "none". */
static qnt_status put_none(struct qnti_gguf_file *file)
{
    if (!file->counting)
        qnti_log(file->e->ctx, QNT_LOG_WARNING, "%s: has no tokenizer, the output will have none either",
                 file->e->source->path);
    return qnti_gguf_put_string(&file->writer, "tokenizer.ggml.model", "none", strlen("none"));
}

qnt_status qnti_gguf_put_tokenizer(struct qnti_gguf_file *file)
{
    qnti_tokenizer *tokenizer;
    qnt_status status = qnti_checkpoint_tokenizer(file->e->source, &tokenizer);
    if (status == QNT_NOT_FOUND)
        return put_none(file);
    QNT_TRY(status);
    status = put_vocabulary(file, qnti_tokenizer_vocabulary(tokenizer));
    qnti_tokenizer_close(tokenizer);
    return status;
}
