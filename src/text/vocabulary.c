/*
 * vocabulary.c - filling a tokenizer: pieces, merges, added tokens, and what the vocabulary shows of them.
 *
 * Texts are copied into chunks that live as long as the tokenizer. Texts are UTF-8; what is not is QNT_BAD_DATA.
 */
#include "text/tokenizer_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "text/utf8.h"

enum {
    CHUNK_BYTES = 1 << 16,
    MAX_SPLIT_BYTES = 1024 /* a SentencePiece piece longer than this is refused: cutting it takes the square of it */
};

static const float UNUSED_SCORE = -10000; /* as the GGUF converter writes for ids without a token */

struct qnti_chunk {
    struct qnti_chunk *next;
    size_t used, capacity;
    char data[];
};

static qnt_status keep(qnti_tokenizer *t, const char *text, size_t bytes, char **copy)
{
    struct qnti_chunk *chunk = t->strings;
    if (!chunk || bytes >= chunk->capacity - chunk->used) {
        size_t capacity = qnti_max(CHUNK_BYTES, bytes + 1);
        QNT_TRY(qnti_alloc_raw(t->ctx, sizeof *chunk + capacity, 1, (void **)&chunk));
        chunk->next = t->strings;
        chunk->used = 0;
        chunk->capacity = capacity;
        t->strings = chunk;
    }
    *copy = chunk->data + chunk->used;
    if (bytes)
        memcpy(*copy, text, bytes);
    (*copy)[bytes] = 0;
    chunk->used += bytes + 1;
    return QNT_OK;
}

qnt_status qnti_tokenizer_new(qnt_context *ctx, const char *name, size_t limit, qnti_tokenizer **tokenizer)
{
    qnti_tokenizer *t;
    qnt_status status;
    *tokenizer = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &t));
    t->ctx = ctx;
    t->limit = limit;
    t->bpe.unknown = -1;
    t->vocabulary.bos = t->vocabulary.eos = t->vocabulary.unk = t->vocabulary.pad = -1;
    status = qnti_copy_string(ctx, name, &t->name);
    if (status == QNT_OK && limit)
        status = qnti_tokenizer_reserve(t, limit);
    if (status == QNT_OK)
        *tokenizer = t;
    else
        qnti_tokenizer_close(t);
    return status;
}

void qnti_tokenizer_close(qnti_tokenizer *t)
{
    qnt_context *ctx;
    if (!t)
        return;
    ctx = t->ctx;
    while (t->strings) {
        struct qnti_chunk *next = t->strings->next;
        qnti_free(ctx, t->strings);
        t->strings = next;
    }
    qnti_free(ctx, t->pieces);
    qnti_free(ctx, t->piece_bytes);
    qnti_free(ctx, t->scores);
    qnti_free(ctx, t->kinds);
    qnti_free(ctx, t->special);
    qnti_free(ctx, t->merges);
    qnti_free(ctx, t->merge_bytes);
    qnti_added_free(ctx, &t->raw);
    qnti_added_free(ctx, &t->normalized);
    qnti_steps_free(ctx, &t->normalizer);
    qnti_steps_free(ctx, &t->pretokenizer);
    qnti_steps_free(ctx, &t->decoder);
    qnti_bpe_free(ctx, &t->bpe);
    qnti_buffer_free(ctx, &t->prefix);
    qnti_buffer_free(ctx, &t->suffix);
    qnti_free(ctx, t->unk_surface);
    qnti_free(ctx, t->name);
    qnti_free(ctx, t);
}

/* Makes *array longer; what is new is zero. */
static qnt_status grow(qnti_tokenizer *t, void *array, size_t size, size_t capacity)
{
    void *old, *longer;
    memcpy(&old, array, sizeof old);
    QNT_TRY(qnti_alloc(t->ctx, capacity, size, &longer));
    if (old)
        memcpy(longer, old, t->capacity * size);
    qnti_free(t->ctx, old);
    memcpy(array, &longer, sizeof longer);
    return QNT_OK;
}

qnt_status qnti_tokenizer_reserve(qnti_tokenizer *t, size_t count)
{
    if (t->limit && count > t->limit)
        count = t->limit;
    if (count > QNTI_MAX_TOKENS)
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: %zu tokens, at most %d are supported", t->name, count,
                         (int)QNTI_MAX_TOKENS);
    if (count > t->capacity) {
        size_t capacity = qnti_max(count, 2 * t->capacity);
        QNT_TRY(grow(t, &t->pieces, sizeof *t->pieces, capacity));
        QNT_TRY(grow(t, &t->piece_bytes, sizeof *t->piece_bytes, capacity));
        QNT_TRY(grow(t, &t->scores, sizeof *t->scores, capacity));
        QNT_TRY(grow(t, &t->kinds, sizeof *t->kinds, capacity));
        QNT_TRY(grow(t, &t->special, sizeof *t->special, capacity));
        t->capacity = capacity;
        t->bpe.pieces.pieces = t->pieces;
        t->bpe.pieces.piece_bytes = t->piece_bytes;
    }
    for (size_t id = t->vocabulary.count; id < count; id++) {
        t->kinds[id] = QNTI_TOKEN_UNUSED;
        t->scores[id] = UNUSED_SCORE;
    }
    t->vocabulary.count = qnti_max(t->vocabulary.count, count);
    return QNT_OK;
}

static qnt_status check_text(const qnti_tokenizer *t, size_t id, const char *text, size_t bytes)
{
    if (!qnti_utf8_valid(text, bytes))
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: the text of token %zu is not UTF-8", t->name, id);
    return QNT_OK;
}

qnt_status qnti_tokenizer_set(qnti_tokenizer *t, size_t id, const char *text, size_t bytes, int32_t kind, float score)
{
    char *copy;
    QNT_TRY(check_text(t, id, text, bytes));
    if (t->limit && id >= t->limit) {
        t->left_out++;
        return QNT_OK;
    }
    QNT_TRY(qnti_tokenizer_reserve(t, id + 1));
    if (t->pieces[id] && (t->piece_bytes[id] != bytes || memcmp(t->pieces[id], text, bytes) != 0))
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: token %zu is \"%s\" and \"%.*s\"", t->name, id, t->pieces[id],
                         (int)qnti_min(bytes, 100), text);
    if (!t->pieces[id]) {
        QNT_TRY(keep(t, text, bytes, &copy));
        t->pieces[id] = copy;
        t->piece_bytes[id] = bytes;
    }
    t->kinds[id] = kind;
    t->scores[id] = score;
    return QNT_OK;
}

qnt_status qnti_tokenizer_index(qnti_tokenizer *t)
{
    size_t count = t->vocabulary.count;
    qnt_status status;
    bool *wanted;
    QNT_TRY(QNTI_NEW(t->ctx, count, &wanted));
    for (size_t id = 0; id < count; id++)
        wanted[id] = t->kinds[id] == QNTI_TOKEN_NORMAL || t->kinds[id] == QNTI_TOKEN_BYTE;
    status = qnti_bpe_set_pieces(t->ctx, &t->bpe, t->pieces, t->piece_bytes, wanted, count);
    qnti_free(t->ctx, wanted);
    return status;
}

/* "left right"; a space inside a part is written as the byte-level character for it, U+0120. */
static qnt_status keep_merge(qnti_tokenizer *t, size_t rank, size_t count, const char *left, size_t left_bytes,
                             const char *right, size_t right_bytes)
{
    struct qnti_buffer text = {0};
    qnt_status status;
    char *copy;
    if (!t->merges) {
        QNT_TRY(QNTI_NEW(t->ctx, count, &t->merges));
        QNT_TRY(QNTI_NEW(t->ctx, count, &t->merge_bytes));
    }
    for (size_t i = 0; i < left_bytes + right_bytes; i++) {
        char c = i < left_bytes ? left[i] : right[i - left_bytes];
        if (i == left_bytes)
            QNT_CHECK(qnti_buffer_add(t->ctx, &text, " ", 1));
        QNT_CHECK(c == ' ' ? qnti_buffer_add(t->ctx, &text, "\xC4\xA0", 2) : qnti_buffer_add(t->ctx, &text, &c, 1));
    }
    QNT_CHECK(keep(t, text.data, text.bytes, &copy));
    t->merges[rank] = copy;
    t->merge_bytes[rank] = text.bytes;
    t->vocabulary.merge_count = rank + 1;
cleanup:
    qnti_buffer_free(t->ctx, &text);
    return status;
}

static qnt_status find_joined(const qnti_tokenizer *t, const char *left, size_t left_bytes, const char *right,
                              size_t right_bytes, int32_t *id)
{
    struct qnti_buffer joined = {0};
    qnt_status status;
    QNT_CHECK(qnti_buffer_add(t->ctx, &joined, left, left_bytes));
    QNT_CHECK(qnti_buffer_add(t->ctx, &joined, right, right_bytes));
    *id = qnti_bpe_find(&t->bpe, joined.data, joined.bytes);
cleanup:
    qnti_buffer_free(t->ctx, &joined);
    return status;
}

qnt_status qnti_tokenizer_add_merge(qnti_tokenizer *t, size_t rank, size_t count, const char *left, size_t left_bytes,
                                    const char *right, size_t right_bytes)
{
    int32_t a = qnti_bpe_find(&t->bpe, left, left_bytes), b = qnti_bpe_find(&t->bpe, right, right_bytes), id;
    if (rank >= UINT32_MAX || left_bytes == 0 || right_bytes == 0)
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: merge %zu has an empty part", t->name, rank);
    QNT_TRY(find_joined(t, left, left_bytes, right, right_bytes, &id));
    if (t->vocabulary.byte_level)
        QNT_TRY(keep_merge(t, rank, count, left, left_bytes, right, right_bytes));
    if (a < 0 || b < 0 || id < 0) {
        if (t->left_out) /* it may have been one of those beyond the limit */
            return QNT_OK;
        return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: merge %zu \"%.*s %.*s\": \"%.*s\" is not in the vocabulary",
                         t->name, rank, (int)qnti_min(left_bytes, 100), left, (int)qnti_min(right_bytes, 100), right,
                         (int)qnti_min(b < 0 && a >= 0 ? right_bytes : left_bytes, 100),
                         b < 0 && a >= 0 ? right : left);
    }
    if (!t->vocabulary.byte_level && t->scores[id] < -(float)rank)
        t->scores[id] = -(float)rank;
    return qnti_bpe_add_pair(t->ctx, &t->bpe, a, b, (uint32_t)rank, id);
}

static qnt_status add_splits(qnti_tokenizer *t, int32_t id, uint32_t rank)
{
    const char *text = t->pieces[id];
    size_t bytes = t->piece_bytes[id], at = 0;
    uint32_t code;
    if (bytes > MAX_SPLIT_BYTES)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: token %d has %zu bytes, at most %d are supported", t->name,
                         (int)id, bytes, (int)MAX_SPLIT_BYTES);
    while ((at += qnti_utf8_next(text + at, bytes - at, &code)) < bytes) {
        int32_t left = qnti_bpe_find(&t->bpe, text, at), right = qnti_bpe_find(&t->bpe, text + at, bytes - at);
        if (left >= 0 && right >= 0)
            QNT_TRY(qnti_bpe_add_pair(t->ctx, &t->bpe, left, right, rank, id));
    }
    return QNT_OK;
}

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *left, const void *right)
{
    const struct scored *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

qnt_status qnti_tokenizer_merge_by_scores(qnti_tokenizer *t)
{
    size_t count = 0;
    struct scored *order;
    uint32_t rank = 0;
    qnt_status status;
    QNT_CHECK(QNTI_NEW(t->ctx, t->vocabulary.count, &order));
    for (size_t id = 0; id < t->vocabulary.count; id++) {
        if (!isfinite(t->scores[id]))
            QNT_CHECK(qnti_fail(t->ctx, QNT_BAD_DATA, "%s: the score of token %zu is not finite", t->name, id));
        if (t->kinds[id] == QNTI_TOKEN_NORMAL && t->piece_bytes[id])
            order[count++] = (struct scored){t->scores[id], (int32_t)id};
    }
    if (count)
        qsort(order, count, sizeof *order, by_score);
    for (size_t i = 0; i < count; i++) {
        rank += i > 0 && order[i].score != order[i - 1].score; /* equal scores: the leftmost goes first */
        QNT_CHECK(add_splits(t, order[i].id, rank));
    }
cleanup:
    qnti_free(t->ctx, order);
    return status;
}

/* Texts that the GGUF converter takes for control tokens even if the file does not say so. */
static bool looks_special(const char *text, size_t bytes)
{
    static const char *const whole[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
    static const char *const ends[][2] = {{"<|", "|>"}, {"<\xEF\xBD\x9C", "\xEF\xBD\x9C>"}, {"<unused", ">"}};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (strlen(whole[i]) == bytes && memcmp(whole[i], text, bytes) == 0)
            return true;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t a = strlen(ends[i][0]), b = strlen(ends[i][1]);
        if (bytes >= a + b && !memcmp(text, ends[i][0], a) && !memcmp(text + bytes - b, ends[i][1], b))
            return true;
    }
    return false;
}

/* The text that stands for a token behind the normalizer. */
static qnt_status normalize(qnti_tokenizer *t, struct qnti_added *token)
{
    struct qnti_pieces pieces = {.at_start = true};
    qnt_status status;
    char *copy;
    QNT_CHECK(qnti_pieces_add(t->ctx, &pieces, token->text, token->bytes));
    QNT_CHECK(qnti_steps_run(t->ctx, &t->normalizer, &pieces));
    QNT_CHECK(keep(t, pieces.text.data, pieces.text.bytes, &copy));
    token->text = copy;
    token->bytes = pieces.text.bytes;
cleanup:
    qnti_pieces_free(t->ctx, &pieces);
    return status;
}

qnt_status qnti_tokenizer_add(qnti_tokenizer *t, size_t id, const char *text, size_t bytes, float score,
                              bool normalized, const struct qnti_added *flags)
{
    struct qnti_added token = *flags;
    int32_t kind = flags->special || looks_special(text, bytes) ? QNTI_TOKEN_CONTROL : QNTI_TOKEN_USER;
    QNT_TRY(qnti_tokenizer_set(t, id, text, bytes, kind, score));
    if ((t->limit && id >= t->limit) || bytes == 0)
        return QNT_OK;
    t->special[id] = token.special;
    token.id = (int32_t)id;
    token.text = t->pieces[id];
    token.bytes = bytes;
    if (normalized && !t->sentencepiece) /* there the text is a piece, which is normalized text */
        QNT_TRY(normalize(t, &token));
    if (token.bytes == 0)
        return QNT_OK;
    return qnti_added_add(t->ctx, normalized ? &t->normalized : &t->raw, &token);
}

qnt_status qnti_tokenizer_add_by_kind(qnti_tokenizer *t, bool normalized)
{
    for (size_t id = 0; id < t->vocabulary.count; id++) {
        int32_t kind = t->kinds[id];
        bool user = kind == QNTI_TOKEN_USER;
        struct qnti_added flags = {.special = !user};
        if (!t->pieces[id] || (!user && kind != QNTI_TOKEN_CONTROL && kind != QNTI_TOKEN_UNKNOWN))
            continue;
        QNT_TRY(
            qnti_tokenizer_add(t, id, t->pieces[id], t->piece_bytes[id], t->scores[id], user && normalized, &flags));
        t->kinds[id] = kind;
    }
    return QNT_OK;
}

int64_t qnti_tokenizer_find(const qnti_tokenizer *t, const char *text, size_t bytes)
{
    int32_t id = qnti_added_find(&t->raw, text, bytes);
    if (id < 0)
        id = qnti_added_find(&t->normalized, text, bytes);
    return id < 0 ? qnti_bpe_find(&t->bpe, text, bytes) : id;
}

/* Puts the id of BOS or EOS in place of what stands there. */
static qnt_status set_around(qnti_tokenizer *t, struct qnti_buffer *around, bool *add, int64_t id)
{
    int32_t token = (int32_t)id;
    around->bytes = 0;
    *add = *add && id >= 0;
    return *add ? qnti_buffer_add(t->ctx, around, &token, sizeof token) : QNT_OK;
}

qnt_status qnti_tokenizer_surround(qnti_tokenizer *t)
{
    struct qnti_vocabulary *v = &t->vocabulary;
    QNT_TRY(set_around(t, &t->prefix, &v->add_bos, v->bos));
    return set_around(t, &t->suffix, &v->add_eos, v->eos);
}

void qnti_tokenizer_finish(qnti_tokenizer *t)
{
    struct qnti_vocabulary *v = &t->vocabulary;
    qnti_added_sort(&t->raw);
    qnti_added_sort(&t->normalized);
    v->pieces = t->pieces;
    v->piece_bytes = t->piece_bytes;
    v->kinds = t->kinds;
    v->scores = v->byte_level ? NULL : t->scores;
    v->merges = t->merges;
    v->merge_bytes = t->merge_bytes;
}
