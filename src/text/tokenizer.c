/*
 * tokenizer.c - the way from text to ids and back.
 *
 * Encoding: invalid UTF-8 replaced; added tokens of the raw text; normalizer; added tokens of normalized text;
 * pre-tokenizer; byte pair encoding of each piece; ids around the whole. Truncation and padding that a file may
 * ask for are left to the caller.
 */
#include "text/tokenizer_private.h"

#include <string.h>
#include "file/output.h"
#include "text/utf8.h"

enum {
    REMEMBER_FROM_BYTES = 4096 /* shorter texts do not pay for the table of pieces met */
};

struct encoder {
    const qnti_tokenizer *t;
    bool parse_special;
    struct qnti_bpe_work work;
    struct qnti_buffer ids;
};

typedef qnt_status (*segment_fn)(struct encoder *e, const char *text, size_t bytes, bool at_start);

/* Hands what stands between added tokens to `segment` and puts the tokens' ids in their places. */
static qnt_status between_added(struct encoder *e, const struct qnti_added_set *set, const char *text, size_t bytes,
                                bool at_start, segment_fn segment)
{
    struct qnti_added_match match;
    size_t at = 0;
    while (qnti_added_next(set, text, bytes, at, e->parse_special, &match)) {
        if (at < match.begin)
            QNT_TRY(segment(e, text + at, match.begin - at, at_start && at == 0));
        QNT_TRY(qnti_buffer_add(e->t->ctx, &e->ids, &match.id, sizeof match.id));
        at = match.end;
    }
    return at < bytes ? segment(e, text + at, bytes - at, at_start && at == 0) : QNT_OK;
}

static qnt_status pretokenize(struct encoder *e, const char *text, size_t bytes, bool at_start)
{
    qnt_context *ctx = e->t->ctx;
    struct qnti_pieces pieces = {.at_start = at_start};
    qnt_status status;
    QNT_CHECK(qnti_pieces_add(ctx, &pieces, text, bytes));
    QNT_CHECK(qnti_steps_run(ctx, &e->t->pretokenizer, &pieces));
    for (size_t i = 0; i < qnti_pieces_count(&pieces); i++) {
        const char *piece = qnti_piece(&pieces, i, &bytes);
        QNT_CHECK(qnti_bpe_encode(&e->t->bpe, &e->work, piece, bytes, &e->ids));
    }
cleanup:
    qnti_pieces_free(ctx, &pieces);
    return status;
}

static qnt_status normalize(struct encoder *e, const char *text, size_t bytes, bool at_start)
{
    qnt_context *ctx = e->t->ctx;
    struct qnti_pieces pieces = {.at_start = at_start};
    qnt_status status;
    QNT_CHECK(qnti_pieces_add(ctx, &pieces, text, bytes));
    QNT_CHECK(qnti_steps_run(ctx, &e->t->normalizer, &pieces));
    QNT_CHECK(between_added(e, &e->t->normalized, pieces.text.data, pieces.text.bytes, pieces.at_start, pretokenize));
cleanup:
    qnti_pieces_free(ctx, &pieces);
    return status;
}

qnt_status qnti_tokenizer_encode(const qnti_tokenizer *t, const char *text, size_t bytes, bool special,
                                 bool parse_special, int32_t **ids, size_t *count)
{
    struct encoder e = {.t = t, .parse_special = parse_special};
    struct qnti_buffer clean = {0};
    qnt_status status;
    *ids = NULL;
    *count = 0;
    QNT_CHECK(qnti_bpe_work_open(t->ctx, bytes >= REMEMBER_FROM_BYTES, &e.work));
    QNT_CHECK(qnti_utf8_clean(t->ctx, text, bytes, t->sentencepiece, &clean));
    if (special)
        QNT_CHECK(qnti_buffer_add(t->ctx, &e.ids, t->prefix.data, t->prefix.bytes));
    QNT_CHECK(between_added(&e, &t->raw, clean.data, clean.bytes, true, normalize));
    if (special)
        QNT_CHECK(qnti_buffer_add(t->ctx, &e.ids, t->suffix.data, t->suffix.bytes));
    *ids = (int32_t *)(void *)e.ids.data;
    *count = e.ids.bytes / sizeof **ids;
    e.ids.data = NULL;
cleanup:
    qnti_buffer_free(t->ctx, &e.ids);
    qnti_buffer_free(t->ctx, &clean);
    qnti_bpe_work_close(&e.work);
    return status;
}

/* The piece of an id as the decoder takes it; the sentencepiece library hides control pieces. */
static qnt_status add_piece(const qnti_tokenizer *t, int32_t id, bool skip_special, struct qnti_pieces *pieces)
{
    if (id < 0 || (size_t)id >= t->vocabulary.count)
        return qnti_fail(t->ctx, QNT_INVALID, "%s: token %d is not in 0 .. %zu", t->name, (int)id,
                         t->vocabulary.count - 1);
    if (!t->pieces[id] || (skip_special && t->special[id]))
        return QNT_OK;
    if (t->sentencepiece && t->kinds[id] == QNTI_TOKEN_CONTROL)
        return QNT_OK;
    if (t->sentencepiece && t->kinds[id] == QNTI_TOKEN_UNKNOWN)
        return qnti_pieces_add(t->ctx, pieces, t->unk_surface, strlen(t->unk_surface));
    return qnti_pieces_add(t->ctx, pieces, t->pieces[id], t->piece_bytes[id]);
}

qnt_status qnti_tokenizer_decode(const qnti_tokenizer *t, const int32_t *ids, size_t count, bool skip_special,
                                 char **text, size_t *bytes)
{
    struct qnti_pieces pieces = {.at_start = true};
    qnt_status status = QNT_OK;
    *text = NULL;
    *bytes = 0;
    for (size_t i = 0; i < count; i++)
        QNT_CHECK(add_piece(t, ids[i], skip_special, &pieces));
    QNT_CHECK(qnti_steps_run(t->ctx, &t->decoder, &pieces));
    QNT_CHECK(qnti_buffer_add(t->ctx, &pieces.text, "", 0));
    *text = pieces.text.data;
    *bytes = pieces.text.bytes;
    pieces.text.data = NULL;
cleanup:
    qnti_pieces_free(t->ctx, &pieces);
    return status;
}

const struct qnti_vocabulary *qnti_tokenizer_vocabulary(const qnti_tokenizer *t)
{
    return &t->vocabulary;
}

qnt_status qnti_tokenizer_read(qnt_context *ctx, const char *path, size_t vocab_size, qnti_tokenizer **tokenizer)
{
    size_t length = strlen(path), bytes;
    bool model = length >= 6 && strcmp(path + length - 6, ".model") == 0;
    qnt_status status;
    char *data = NULL;
    *tokenizer = NULL;
    QNT_TRY(qnti_read_file(ctx, path, QNTI_MAX_TOKENIZER_BYTES, &data, &bytes));
    status = model ? qnti_tokenizer_parse_model(ctx, path, data, bytes, vocab_size, tokenizer)
                   : qnti_tokenizer_parse_json(ctx, path, data, bytes, vocab_size, tokenizer);
    qnti_free(ctx, data);
    return status;
}

qnt_status qnti_tokenizer_open_file(qnt_context *ctx, const char *path, qnti_tokenizer **tokenizer)
{
    return qnti_tokenizer_read(ctx, path, 0, tokenizer);
}
