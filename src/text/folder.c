/*
 * folder.c - the tokenizer of a checkpoint folder: the tokenizer's own file, and the files around it that name special
 * tokens.
 *
 * tokenizer.json says all about encoding; tokenizer.model, or vocab.json with merges.txt, know their pieces only,
 * tokens added later stand in added_tokens.json and in tokenizer_config.json. Where tokenizer.json and tokenizer.model
 * are there, the scores of the latter go into the vocabulary.
 */
#include <stdlib.h>
#include <string.h>
#include "container/json.h"
#include "file/output.h"
#include "text/tokenizer_private.h"

static const float ADDED_SCORE = -1000; /* as the GGUF converter writes for added tokens */

enum { CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, FILES };

static const char *const file_names[FILES] = {"config.json", "tokenizer_config.json", "special_tokens_map.json",
                                              "added_tokens.json"};

struct folder {
    qnt_context *ctx;
    const char *path;
    json_t *files[FILES]; /* NULL: not there */
    qnti_tokenizer *t;
};

static qnt_status load_files(struct folder *f)
{
    for (size_t i = 0; i < FILES; i++) {
        qnt_status status = QNT_OK;
        char *path;
        QNT_TRY(qnti_path_join(f->ctx, f->path, file_names[i], &path));
        if (qnti_path_exists(path))
            status = qnti_json_load(f->ctx, path, &f->files[i]);
        qnti_free(f->ctx, path);
        QNT_TRY(status);
    }
    return QNT_OK;
}

/* The rows of the model's embedding; 0 if the folder does not say. */
static qnt_status find_vocab_size(struct folder *f, size_t *vocab_size)
{
    const json_t *config = f->files[CONFIG], *text = json_object_get(config, "text_config");
    *vocab_size = 0;
    QNT_TRY(qnti_json_size(f->ctx, file_names[CONFIG], text, "vocab_size", vocab_size));
    QNT_TRY(qnti_json_size(f->ctx, file_names[CONFIG], config, "vocab_size", vocab_size));
    if (*vocab_size > QNTI_MAX_TOKENS)
        return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: vocab_size %zu, at most %d are supported", file_names[CONFIG],
                         *vocab_size, (int)QNTI_MAX_TOKENS);
    return QNT_OK;
}

/* QNT_OK and *tokenizer NULL: no such file. */
static qnt_status read_if_there(struct folder *f, const char *name, size_t vocab_size, qnti_tokenizer **tokenizer)
{
    qnt_status status = QNT_OK;
    char *path;
    *tokenizer = NULL;
    QNT_TRY(qnti_path_join(f->ctx, f->path, name, &path));
    if (qnti_path_exists(path))
        status = qnti_tokenizer_read(f->ctx, path, vocab_size, tokenizer);
    qnti_free(f->ctx, path);
    return status;
}

/* Scores and kinds of SentencePiece for the pieces that both files have. A file that cannot be read is none. */
static qnt_status take_scores(struct folder *f, size_t vocab_size)
{
    qnti_tokenizer *model, *t = f->t;
    qnt_status status = read_if_there(f, "tokenizer.model", vocab_size, &model);
    if (status == QNT_NO_MEMORY)
        return status;
    if (status != QNT_OK)
        qnti_log(f->ctx, QNT_LOG_WARNING, "%s; scores are made from the merges of tokenizer.json",
                 qnt_context_message(f->ctx));
    for (size_t id = 0; model && id < qnti_min(t->vocabulary.count, model->vocabulary.count); id++) {
        if (!t->pieces[id] || !model->pieces[id] || t->piece_bytes[id] != model->piece_bytes[id] ||
            memcmp(t->pieces[id], model->pieces[id], t->piece_bytes[id]) != 0)
            continue;
        t->scores[id] = model->scores[id];
        if (model->kinds[id] != QNTI_TOKEN_NORMAL) /* else it may have been added later */
            t->kinds[id] = model->kinds[id];
    }
    qnti_tokenizer_close(model);
    return QNT_OK;
}

static qnt_status add_later(struct folder *f, json_int_t id, const json_t *content, bool special)
{
    struct qnti_added flags = {.special = special};
    const char *text = json_string_value(content);
    size_t bytes = json_string_length(content);
    if (!text || id < 0 || id >= QNTI_MAX_TOKENS)
        return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: added token %lld has no content or a bad id", f->path,
                         (long long)id);
    if ((size_t)id < f->t->vocabulary.count && f->t->pieces[id]) /* the model has it already */
        return QNT_OK;
    return qnti_tokenizer_add(f->t, (size_t)id, text, bytes, ADDED_SCORE, false, &flags);
}

/* Tokens beside a tokenizer.model. */
static qnt_status add_tokens_around(struct folder *f)
{
    json_t *decoder = json_object_get(f->files[TOKENIZER_CONFIG], "added_tokens_decoder"), *value;
    const char *key;
    json_object_foreach(decoder, key, value)
    {
        bool special = json_is_true(json_object_get(value, "special"));
        char *end;
        long long id = strtoll(key, &end, 10);
        QNT_TRY(add_later(f, end == key || *end ? -1 : id, json_object_get(value, "content"), special));
    }
    json_object_foreach(f->files[ADDED_TOKENS], key, value)
    {
        json_t *content = json_string(key);
        qnt_status status = content ? QNT_OK : qnti_fail(f->ctx, QNT_NO_MEMORY, "out of memory");
        if (content)
            status = add_later(f, json_is_integer(value) ? json_integer_value(value) : -1, content, false);
        json_decref(content);
        QNT_TRY(status);
    }
    return QNT_OK;
}

/* vocab.json and merges.txt; QNT_OK and no tokenizer: they are not both there. */
static qnt_status read_pair_if_there(struct folder *f, size_t vocab_size)
{
    char *vocab = NULL, *merges = NULL;
    bool prefix = false;
    qnt_status status;
    QNT_CHECK(qnti_path_join(f->ctx, f->path, "vocab.json", &vocab));
    QNT_CHECK(qnti_path_join(f->ctx, f->path, "merges.txt", &merges));
    QNT_CHECK(qnti_json_bool(f->ctx, file_names[TOKENIZER_CONFIG], f->files[TOKENIZER_CONFIG], "add_prefix_space",
                             &prefix));
    if (qnti_path_exists(vocab) && qnti_path_exists(merges))
        status = qnti_tokenizer_read_pair(f->ctx, vocab, merges, prefix, vocab_size, &f->t);
cleanup:
    qnti_free(f->ctx, vocab);
    qnti_free(f->ctx, merges);
    return status;
}

/* The id of the text in `file`'s member `key`, "text" or {"content": "text"}, and that text; -1. */
static int64_t named_token(const struct folder *f, const json_t *file, const char *key, const char **text)
{
    const json_t *value = json_object_get(file, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    *text = json_string_value(value);
    return *text ? qnti_tokenizer_find(f->t, *text, json_string_length(value)) : -1;
}

/* The pair does not say which of its tokens are special: those that the files around it name. */
static qnt_status mark_special(struct folder *f)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    struct qnti_added flags = {.special = true};
    for (size_t file = TOKENIZER_CONFIG; file <= SPECIAL_TOKENS_MAP; file++)
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            const char *text;
            int64_t id = named_token(f, f->files[file], keys[i], &text);
            if (id >= 0 && !f->t->special[id])
                QNT_TRY(qnti_tokenizer_add(f->t, (size_t)id, text, strlen(text), 0, false, &flags));
        }
    return QNT_OK;
}

static qnt_status open_tokenizer(struct folder *f)
{
    size_t vocab_size;
    QNT_TRY(find_vocab_size(f, &vocab_size));
    QNT_TRY(read_if_there(f, "tokenizer.json", vocab_size, &f->t));
    if (f->t)
        return f->t->vocabulary.byte_level ? QNT_OK : take_scores(f, vocab_size);
    QNT_TRY(read_if_there(f, "tokenizer.model", vocab_size, &f->t));
    if (f->t)
        return add_tokens_around(f);
    QNT_TRY(read_pair_if_there(f, vocab_size));
    if (!f->t)
        return qnti_fail(f->ctx, QNT_NOT_FOUND, "%s: neither tokenizer.json nor tokenizer.model, nor vocab.json with "
                         "merges.txt", f->path);
    QNT_TRY(add_tokens_around(f));
    return mark_special(f);
}

/* A number or the first of a list; -1. */
static int64_t numbered_token(const struct folder *f, const char *key)
{
    const json_t *value = json_object_get(f->files[CONFIG], key);
    if (!value)
        value = json_object_get(json_object_get(f->files[CONFIG], "text_config"), key);
    if (json_is_array(value))
        value = json_array_get(value, 0);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (size_t)json_integer_value(value) >= f->t->vocabulary.count)
        return -1;
    return json_integer_value(value);
}

static void find_special(struct folder *f)
{
    struct qnti_vocabulary *v = &f->t->vocabulary;
    const struct {
        const char *token, *id;
        int64_t *to;
        bool fixed; /* by the post-processor */
    } wanted[] = {
        {"bos_token", "bos_token_id", &v->bos, f->t->post_processor && v->add_bos},
        {"eos_token", "eos_token_id", &v->eos, f->t->post_processor && v->add_eos},
        {"unk_token", "unk_token_id", &v->unk, f->t->bpe.unknown >= 0},
        {"pad_token", "pad_token_id", &v->pad, false},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const char *text;
        int64_t id = named_token(f, f->files[TOKENIZER_CONFIG], wanted[i].token, &text);
        if (id < 0)
            id = named_token(f, f->files[SPECIAL_TOKENS_MAP], wanted[i].token, &text);
        if (id < 0)
            id = numbered_token(f, wanted[i].id);
        if (id < 0)
            continue;
        if (!wanted[i].fixed)
            *wanted[i].to = id;
        else if (*wanted[i].to != id)
            qnti_log(f->ctx, QNT_LOG_WARNING, "%s: %s is token %lld, the encoder uses %lld", f->path, wanted[i].token,
                     (long long)id, (long long)*wanted[i].to);
    }
}

/* add_bos_token and add_eos_token count only where the tokenizer's own file has no post-processor. */
static qnt_status find_around(struct folder *f)
{
    struct qnti_vocabulary *v = &f->t->vocabulary;
    const struct {
        const char *key;
        bool *add;
    } wanted[] = {{"add_bos_token", &v->add_bos}, {"add_eos_token", &v->add_eos}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        bool add = *wanted[i].add;
        QNT_TRY(qnti_json_bool(f->ctx, file_names[TOKENIZER_CONFIG], f->files[TOKENIZER_CONFIG], wanted[i].key, &add));
        if (f->t->post_processor && add != *wanted[i].add)
            qnti_log(f->ctx, QNT_LOG_WARNING, "%s: %s is %s, the post-processor does the other", f->path, wanted[i].key,
                     add ? "true" : "false");
        if (!f->t->post_processor)
            *wanted[i].add = add;
    }
    return f->t->post_processor ? QNT_OK : qnti_tokenizer_surround(f->t);
}

qnt_status qnti_tokenizer_open(qnt_context *ctx, const char *folder, qnti_tokenizer **tokenizer)
{
    struct folder f = {.ctx = ctx, .path = folder};
    qnt_status status;
    *tokenizer = NULL;
    QNT_CHECK(load_files(&f));
    QNT_CHECK(open_tokenizer(&f));
    find_special(&f);
    QNT_CHECK(find_around(&f));
    qnti_tokenizer_finish(f.t);
    if (f.t->left_out)
        qnti_log(ctx, QNT_LOG_WARNING, "%s: %zu tokens have no row in the model (vocab_size %zu) and are left out",
                 folder, f.t->left_out, f.t->limit);
    *tokenizer = f.t;
    f.t = NULL;
cleanup:
    qnti_tokenizer_close(f.t);
    for (size_t i = 0; i < FILES; i++)
        json_decref(f.files[i]);
    return status;
}
