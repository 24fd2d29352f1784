/*
 * gguf_vocabulary.c - the tokenizer that a GGUF file describes in its keys (tokenizer.ggml.*).
 *
 * Two kinds exist for the families at hand: "llama" (SentencePiece: pieces with scores) and "gpt2" (byte-level BPE:
 * pieces with merges). What a file leaves out has llama.cpp's defaults. Pieces point into the file until the
 * tokenizer has copied them.
 */
#include "checkpoint/source.h"

#include <string.h>

enum { MAX_TOKENS = 1 << 28 };

static const struct qnti_gguf_value *array_of(const struct qnti_gguf *file, const char *key)
{
    const struct qnti_gguf_value *value = qnti_gguf_find(file, key);
    return value && value->array ? value : NULL;
}

static qnt_status wrong(const struct qnti_gguf *file, const char *key, const char *expected, size_t count)
{
    return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: key %s: expected an array of %zu %s", file->path, key, count,
                     expected);
}

/* An array of strings; *count is 0 and nothing allocated where it is missing. */
static qnt_status read_strings(const struct qnti_gguf *file, const char *key, const char ***strings, size_t **lengths,
                               size_t *count)
{
    const struct qnti_gguf_value *value = array_of(file, key);
    const unsigned char *cursor = NULL;
    size_t i = 0;
    *count = 0;
    if (!value)
        return QNT_OK;
    if (value->type != QNTI_GGUF_STRING || value->count > MAX_TOKENS)
        return wrong(file, key, "strings at most", MAX_TOKENS);
    QNT_TRY(QNTI_NEW(file->ctx, value->count, strings));
    QNT_TRY(QNTI_NEW(file->ctx, value->count, lengths));
    while (i < value->count && qnti_gguf_next_string(value, &cursor, &(*strings)[i], &(*lengths)[i]))
        i++;
    *count = i;
    return QNT_OK;
}

/* An array of `count` numbers of 4 bytes, copied; *numbers stays NULL where it is missing. */
static qnt_status read_numbers(const struct qnti_gguf *file, const char *key, enum qnti_gguf_value_type type,
                               size_t count, void **numbers)
{
    const struct qnti_gguf_value *value = array_of(file, key);
    if (!value)
        return QNT_OK;
    if (value->type != type || value->count != count)
        return wrong(file, key, type == QNTI_GGUF_F32 ? "numbers of type f32" : "numbers of type i32", count);
    QNT_TRY(qnti_alloc_raw(file->ctx, count, 4, numbers));
    memcpy(*numbers, value->data, 4 * count);
    return QNT_OK;
}

/* An id, -1 where it is missing or says so; `fallback` counts if the vocabulary has it. */
static qnt_status read_id(const struct qnti_gguf *file, const char *key, int64_t fallback, size_t count, int64_t *id)
{
    size_t value = UINT32_MAX;
    *id = fallback < (int64_t)count ? fallback : -1;
    if (!qnti_gguf_find(file, key))
        return QNT_OK;
    QNT_TRY(qnti_gguf_size(file, key, &value));
    if (value != UINT32_MAX && value >= count)
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: key %s is %zu, expected an id below %zu", file->path, key, value,
                         count);
    *id = value == UINT32_MAX ? -1 : (int64_t)value;
    return QNT_OK;
}

/* What is to be freed behind a vocabulary, apart from it because its pointers are const. */
struct vocabulary {
    struct qnti_vocabulary v;
    char *pre;
    const char **pieces, **merges;
    size_t *piece_bytes, *merge_bytes;
    float *scores;
    int32_t *kinds;
};

static void free_vocabulary(qnt_context *ctx, struct vocabulary *own)
{
    qnti_free(ctx, own->pre);
    qnti_free(ctx, (void *)own->pieces);
    qnti_free(ctx, (void *)own->merges);
    qnti_free(ctx, own->piece_bytes);
    qnti_free(ctx, own->merge_bytes);
    qnti_free(ctx, own->scores);
    qnti_free(ctx, own->kinds);
}

static qnt_status read_kind(const struct qnti_gguf *file, struct vocabulary *own)
{
    const char *model = NULL, *pre = "default";
    size_t n, pre_bytes = strlen(pre);
    QNT_TRY(qnti_gguf_string(file, "tokenizer.ggml.model", &model, &n));
    if (!model || (n == 4 && memcmp(model, "none", n) == 0))
        return qnti_fail(file->ctx, QNT_NOT_FOUND, "%s: has no tokenizer", file->path);
    own->v.byte_level = n == 4 && memcmp(model, "gpt2", n) == 0;
    if (!own->v.byte_level && (n != 5 || memcmp(model, "llama", n) != 0))
        return qnti_fail(file->ctx, QNT_UNSUPPORTED,
                         "%s: tokenizer.ggml.model \"%.*s\" is not supported, expected llama or gpt2", file->path,
                         (int)qnti_min(n, 100), model);
    QNT_TRY(qnti_gguf_string(file, "tokenizer.ggml.pre", &pre, &pre_bytes));
    QNT_TRY(qnti_copy_bytes(file->ctx, pre, pre_bytes, &own->pre));
    own->v.pre = own->pre;
    return QNT_OK;
}

static qnt_status read_pieces(const struct qnti_gguf *file, struct vocabulary *own)
{
    struct qnti_vocabulary *v = &own->v;
    QNT_TRY(read_strings(file, "tokenizer.ggml.tokens", &own->pieces, &own->piece_bytes, &v->count));
    if (v->count == 0)
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: tokenizer.ggml.tokens is missing or empty", file->path);
    QNT_TRY(read_numbers(file, "tokenizer.ggml.token_type", QNTI_GGUF_I32, v->count, (void **)&own->kinds));
    if (!own->kinds) {
        QNT_TRY(QNTI_NEW(file->ctx, v->count, &own->kinds));
        for (size_t i = 0; i < v->count; i++)
            own->kinds[i] = QNTI_TOKEN_NORMAL;
    }
    if (v->byte_level) {
        QNT_TRY(read_strings(file, "tokenizer.ggml.merges", &own->merges, &own->merge_bytes, &v->merge_count));
    } else {
        QNT_TRY(read_numbers(file, "tokenizer.ggml.scores", QNTI_GGUF_F32, v->count, (void **)&own->scores));
        if (!own->scores)
            return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: has no key tokenizer.ggml.scores", file->path);
    }
    v->pieces = own->pieces;
    v->piece_bytes = own->piece_bytes;
    v->scores = own->scores;
    v->kinds = own->kinds;
    v->merges = own->merges;
    v->merge_bytes = own->merge_bytes;
    return QNT_OK;
}

static qnt_status read_specials(const struct qnti_gguf *file, struct qnti_vocabulary *v)
{
    const bool bytes = v->byte_level;
    QNT_TRY(read_id(file, "tokenizer.ggml.bos_token_id", bytes ? 11 : 1, v->count, &v->bos));
    QNT_TRY(read_id(file, "tokenizer.ggml.eos_token_id", bytes ? 11 : 2, v->count, &v->eos));
    QNT_TRY(read_id(file, "tokenizer.ggml.unknown_token_id", bytes ? -1 : 0, v->count, &v->unk));
    QNT_TRY(read_id(file, "tokenizer.ggml.padding_token_id", -1, v->count, &v->pad));
    v->add_bos = !bytes || strcmp(v->pre, "llama-bpe") == 0;
    v->add_space_prefix = !bytes;
    QNT_TRY(qnti_gguf_bool(file, "tokenizer.ggml.add_bos_token", &v->add_bos));
    QNT_TRY(qnti_gguf_bool(file, "tokenizer.ggml.add_eos_token", &v->add_eos));
    return qnti_gguf_bool(file, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix);
}

qnt_status qnti_gguf_tokenizer(const struct qnti_checkpoint *c, qnti_tokenizer **tokenizer)
{
    struct vocabulary own = {0};
    qnt_status status;
    *tokenizer = NULL;
    QNT_CHECK(read_kind(c->source->gguf, &own));
    QNT_CHECK(read_pieces(c->source->gguf, &own));
    QNT_CHECK(read_specials(c->source->gguf, &own.v));
    QNT_CHECK(qnti_tokenizer_from_vocabulary(c->ctx, &own.v, tokenizer));
cleanup:
    free_vocabulary(c->ctx, &own);
    return status;
}
