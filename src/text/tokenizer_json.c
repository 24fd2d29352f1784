/*
 * tokenizer_json.c - a tokenizer.json: vocabulary, merges, added tokens; its other parts are read by json_parts.c.
 *
 * A model without byte-level alphabet becomes a SentencePiece vocabulary, with minus the rank of the first merge that
 * makes a piece as its score: only the order of scores matters.
 */
#include <string.h>
#include "container/json.h"
#include "text/tokenizer_private.h"

static qnt_status refuse(const qnti_tokenizer *t, const char *what)
{
    return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: %s is not supported", t->name, what);
}

static qnt_status read_options(qnti_tokenizer *t, const json_t *model)
{
    const char *type = "BPE", *prefix = "", *suffix = "";
    float dropout = 0;
    QNT_TRY(qnti_json_string(t->ctx, t->name, model, "type", &type));
    if (strcmp(type, "BPE") != 0)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: model of type %s is not supported", t->name, type);
    QNT_TRY(qnti_json_float(t->ctx, t->name, model, "dropout", &dropout));
    QNT_TRY(qnti_json_string(t->ctx, t->name, model, "continuing_subword_prefix", &prefix));
    QNT_TRY(qnti_json_string(t->ctx, t->name, model, "end_of_word_suffix", &suffix));
    if (dropout != 0)
        return refuse(t, "dropout");
    if (*prefix)
        return refuse(t, "continuing_subword_prefix");
    if (*suffix)
        return refuse(t, "end_of_word_suffix");
    QNT_TRY(qnti_json_bool(t->ctx, t->name, model, "fuse_unk", &t->bpe.fuse_unknown));
    QNT_TRY(qnti_json_bool(t->ctx, t->name, model, "byte_fallback", &t->bpe.byte_fallback));
    return qnti_json_bool(t->ctx, t->name, model, "ignore_merges", &t->bpe.ignore_merges);
}

static qnt_status read_vocab(qnti_tokenizer *t, const json_t *model, float score)
{
    json_t *vocab = json_object_get(model, "vocab"), *value;
    const char *text;
    if (!json_is_object(vocab))
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: model has no object \"vocab\"", t->name);
    json_object_foreach(vocab, text, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= QNTI_MAX_TOKENS)
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: the id of \"%s\" is not in 0 .. %d", t->name, text,
                             (int)QNTI_MAX_TOKENS - 1);
        QNT_TRY(qnti_tokenizer_set(t, (size_t)id, text, strlen(text), QNTI_TOKEN_NORMAL, score));
    }
    return QNT_OK;
}

/* "left right", cut at the first space, or [left, right]. */
static qnt_status read_merge(qnti_tokenizer *t, size_t rank, size_t count, const json_t *merge)
{
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (space)
            return qnti_tokenizer_add_merge(t, rank, count, text, (size_t)(space - text), space + 1,
                                            json_string_length(merge) - (size_t)(space + 1 - text));
    }
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: merge %zu should be \"left right\" or [left, right]", t->name,
                         rank);
    return qnti_tokenizer_add_merge(t, rank, count, json_string_value(left), json_string_length(left),
                                    json_string_value(right), json_string_length(right));
}

static qnt_status read_unknown(qnti_tokenizer *t, const json_t *model)
{
    const char *text = NULL;
    QNT_TRY(qnti_json_string(t->ctx, t->name, model, "unk_token", &text));
    if (!text)
        return QNT_OK;
    t->bpe.unknown = qnti_bpe_find(&t->bpe, text, strlen(text));
    if (t->bpe.unknown < 0)
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: unk_token \"%s\" is not in the vocabulary", t->name, text);
    t->vocabulary.unk = t->bpe.unknown;
    return QNT_OK;
}

static qnt_status read_model(qnti_tokenizer *t, const json_t *model)
{
    const json_t *merges = json_object_get(model, "merges");
    size_t count = json_array_size(merges);
    if (!json_is_object(model) || !json_is_array(merges))
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: no model with a list \"merges\"", t->name);
    QNT_TRY(read_options(t, model));
    QNT_TRY(read_vocab(t, model, -(float)count));
    QNT_TRY(qnti_tokenizer_index(t));
    for (size_t rank = 0; rank < count; rank++)
        QNT_TRY(read_merge(t, rank, count, json_array_get(merges, rank)));
    return read_unknown(t, model);
}

static qnt_status read_added(qnti_tokenizer *t, const json_t *root)
{
    const json_t *list = json_object_get(root, "added_tokens");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *json = json_array_get(list, i), *content = json_object_get(json, "content");
        struct qnti_added flags = {0};
        size_t id = SIZE_MAX;
        bool normalized = false;
        QNT_TRY(qnti_json_size(t->ctx, t->name, json, "id", &id));
        QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "special", &flags.special));
        QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "single_word", &flags.single_word));
        QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "lstrip", &flags.strip_left));
        QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "rstrip", &flags.strip_right));
        QNT_TRY(qnti_json_bool(t->ctx, t->name, json, "normalized", &normalized));
        if (!json_is_string(content) || id >= QNTI_MAX_TOKENS)
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: added token %zu has no content or no id below %d", t->name, i,
                             (int)QNTI_MAX_TOKENS);
        QNT_TRY(
            qnti_tokenizer_add(t, id, json_string_value(content), json_string_length(content), 0, normalized, &flags));
    }
    return QNT_OK;
}

/* Kinds of a SentencePiece vocabulary, which BPE itself does not ask for. */
static void name_kinds(qnti_tokenizer *t)
{
    if (t->vocabulary.byte_level)
        return;
    for (size_t b = 0; b < 256 && t->bpe.byte_fallback; b++) {
        int32_t id = t->bpe.bytes[b];
        if (id >= 0 && t->kinds[id] == QNTI_TOKEN_NORMAL) {
            t->kinds[id] = QNTI_TOKEN_BYTE;
            t->scores[id] = 0;
        }
    }
    if (t->bpe.unknown >= 0) {
        t->kinds[t->bpe.unknown] = QNTI_TOKEN_UNKNOWN;
        t->scores[t->bpe.unknown] = 0;
    }
}

/* What the post-processor puts around a text must be tokens; GGUF can say one in front and one behind. */
static qnt_status check_around(qnti_tokenizer *t, const struct qnti_buffer *around, bool *add, int64_t *token)
{
    size_t count = around->bytes / sizeof(int32_t);
    for (size_t i = 0; i < count; i++) {
        int32_t id;
        memcpy(&id, around->data + i * sizeof id, sizeof id);
        if ((size_t)id >= t->vocabulary.count || !t->pieces[id])
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: the post-processor adds token %d, which is not there", t->name,
                             (int)id);
        if (i == 0)
            *token = id;
    }
    *add = count > 0;
    if (count > 1)
        qnti_log(t->ctx, QNT_LOG_WARNING, "%s: the post-processor adds %zu tokens on one side of a text", t->name,
                 count);
    return QNT_OK;
}

qnt_status qnti_tokenizer_from_json(qnt_context *ctx, const char *name, const json_t *root, size_t vocab_size,
                                    qnti_tokenizer **tokenizer)
{
    qnti_tokenizer *t = NULL;
    qnt_status status;
    *tokenizer = NULL;
    QNT_CHECK(qnti_tokenizer_new(ctx, name, vocab_size, &t));
    QNT_CHECK(qnti_tokenizer_read_parts(t, root));
    QNT_CHECK(read_model(t, json_object_get(root, "model")));
    QNT_CHECK(read_added(t, root));
    name_kinds(t);
    QNT_CHECK(check_around(t, &t->prefix, &t->vocabulary.add_bos, &t->vocabulary.bos));
    QNT_CHECK(check_around(t, &t->suffix, &t->vocabulary.add_eos, &t->vocabulary.eos));
    qnti_tokenizer_name_pre(t);
    qnti_tokenizer_finish(t);
    *tokenizer = t;
    t = NULL;
cleanup:
    qnti_tokenizer_close(t);
    return status;
}

qnt_status qnti_tokenizer_parse_json(qnt_context *ctx, const char *name, const char *text, size_t bytes,
                                     size_t vocab_size, qnti_tokenizer **tokenizer)
{
    qnt_status status;
    json_t *root;
    *tokenizer = NULL;
    QNT_TRY(qnti_json_parse(ctx, name, text, bytes, &root));
    status = qnti_tokenizer_from_json(ctx, name, root, vocab_size, tokenizer);
    json_decref(root);
    return status;
}
