/*
 * bpe.c - byte pair encoding of one piece of text, O(n log n).
 *
 * Symbols are a doubly linked list; a queue holds the pairs that could be merged, by (rank, position). A pair taken
 * from it is stale if its symbols are gone or have become others that merge into something else.
 */
#include "text/bpe.h"

#include <string.h>
#include <xxhash.h>
#include "text/utf8.h"

enum { KNOWN_PIECES = 1 << 13, KNOWN_BYTES = 23 };

#define NO_SYMBOL UINT32_MAX

struct qnti_symbol {
    int32_t id; /* -1: merged into the one before */
    uint32_t previous, next;
};

struct qnti_candidate {
    uint32_t rank, position;
    int32_t id;
};

/* Ids of a piece are copied from where they were written the last time. */
struct qnti_known_piece {
    char text[KNOWN_BYTES];
    uint8_t bytes;
    uint32_t count;
    size_t first;
};

qnt_status qnti_bpe_work_open(qnt_context *ctx, bool remember, struct qnti_bpe_work *work)
{
    memset(work, 0, sizeof *work);
    work->ctx = ctx;
    return remember ? QNTI_NEW(ctx, KNOWN_PIECES, &work->known) : QNT_OK;
}

void qnti_bpe_work_close(struct qnti_bpe_work *work)
{
    qnti_free(work->ctx, work->symbols);
    qnti_free(work->ctx, work->queue);
    qnti_free(work->ctx, work->known);
}

/* A piece of n bytes has at most n symbols; each merge takes one candidate away and adds at most two. */
static qnt_status reserve(struct qnti_bpe_work *work, size_t bytes)
{
    if (bytes >= NO_SYMBOL)
        return qnti_fail(work->ctx, QNT_UNSUPPORTED, "a piece of text of %zu bytes is too long", bytes);
    work->count = work->waiting = 0;
    if (bytes <= work->capacity)
        return QNT_OK;
    qnti_free(work->ctx, work->symbols);
    qnti_free(work->ctx, work->queue);
    work->capacity = 0;
    work->queue = NULL;
    QNT_TRY(QNTI_NEW_RAW(work->ctx, 2 * bytes, &work->symbols));
    QNT_TRY(QNTI_NEW_RAW(work->ctx, 4 * bytes, &work->queue));
    work->capacity = 2 * bytes;
    return QNT_OK;
}

static void add_symbol(struct qnti_bpe_work *work, int32_t id)
{
    work->symbols[work->count++].id = id;
}

static bool add_bytes(const struct qnti_bpe *bpe, struct qnti_bpe_work *work, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (bpe->bytes[(unsigned char)text[i]] < 0)
            return false;
    for (size_t i = 0; i < bytes; i++)
        add_symbol(work, bpe->bytes[(unsigned char)text[i]]);
    return true;
}

/*
 * Characters to symbols. An unknown one waits for the next known character, as in the tokenizers library (bytes do not
 * end the wait).
 */
static void split_characters(const struct qnti_bpe *bpe, struct qnti_bpe_work *work, const char *text, size_t bytes)
{
    bool pending = false;
    size_t length;
    uint32_t code;
    for (size_t at = 0; at < bytes; at += length) {
        int32_t id;
        length = qnti_utf8_next(text + at, bytes - at, &code);
        id = qnti_bpe_find(bpe, text + at, length);
        if (id < 0 && bpe->byte_fallback && add_bytes(bpe, work, text + at, length))
            continue;
        if (id < 0 && bpe->unknown < 0)
            continue;
        if (pending && (id >= 0 || !bpe->fuse_unknown))
            add_symbol(work, bpe->unknown);
        pending = id < 0;
        if (id >= 0)
            add_symbol(work, id);
    }
    if (pending)
        add_symbol(work, bpe->unknown);
}

static bool before(const struct qnti_candidate *a, const struct qnti_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

/* Puts the pair that starts at `position`, if there is one, into the queue (a binary heap). */
static void push(const struct qnti_bpe *bpe, struct qnti_bpe_work *work, uint32_t position)
{
    const struct qnti_symbol *left = &work->symbols[position];
    const struct qnti_pair *pair;
    struct qnti_candidate candidate;
    size_t at;
    if (left->next == NO_SYMBOL)
        return;
    pair = qnti_bpe_find_pair(bpe, left->id, work->symbols[left->next].id);
    if (!pair)
        return;
    candidate.rank = pair->rank;
    candidate.position = position;
    candidate.id = pair->id;
    for (at = work->waiting++; at > 0 && before(&candidate, &work->queue[(at - 1) / 2]); at = (at - 1) / 2)
        work->queue[at] = work->queue[(at - 1) / 2];
    work->queue[at] = candidate;
}

static struct qnti_candidate pop(struct qnti_bpe_work *work)
{
    struct qnti_candidate top = work->queue[0], last = work->queue[--work->waiting];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < work->waiting) {
        if (child + 1 < work->waiting && before(&work->queue[child + 1], &work->queue[child]))
            child++;
        if (!before(&work->queue[child], &last))
            break;
        work->queue[at] = work->queue[child];
        at = child;
    }
    work->queue[at] = last;
    return top;
}

static void merge(const struct qnti_bpe *bpe, struct qnti_bpe_work *work)
{
    struct qnti_symbol *s = work->symbols;
    for (size_t i = 0; i < work->count; i++) {
        s[i].previous = i ? (uint32_t)i - 1 : NO_SYMBOL;
        s[i].next = i + 1 < work->count ? (uint32_t)i + 1 : NO_SYMBOL;
    }
    for (size_t i = 0; i < work->count; i++)
        push(bpe, work, (uint32_t)i);
    while (work->waiting) {
        struct qnti_candidate c = pop(work);
        struct qnti_symbol *left = &s[c.position];
        const struct qnti_pair *pair;
        if (left->id < 0 || left->next == NO_SYMBOL)
            continue;
        pair = qnti_bpe_find_pair(bpe, left->id, s[left->next].id);
        if (!pair || pair->id != c.id)
            continue;
        left->id = pair->id;
        s[left->next].id = -1;
        left->next = s[left->next].next;
        if (left->next != NO_SYMBOL)
            s[left->next].previous = c.position;
        if (left->previous != NO_SYMBOL)
            push(bpe, work, left->previous);
        push(bpe, work, c.position);
    }
}

static qnt_status encode(const struct qnti_bpe *bpe, struct qnti_bpe_work *work, const char *piece, size_t bytes,
                         struct qnti_buffer *ids)
{
    int32_t whole = bpe->ignore_merges ? qnti_bpe_find(bpe, piece, bytes) : -1;
    if (whole >= 0)
        return qnti_buffer_add(work->ctx, ids, &whole, sizeof whole);
    QNT_TRY(reserve(work, bytes));
    split_characters(bpe, work, piece, bytes);
    merge(bpe, work);
    for (size_t i = 0; i < work->count; i++)
        if (work->symbols[i].id >= 0)
            QNT_TRY(qnti_buffer_add(work->ctx, ids, &work->symbols[i].id, sizeof work->symbols[i].id));
    return QNT_OK;
}

/* `ids` may move while it grows, so the known ids are copied one by one. */
static qnt_status repeat(struct qnti_bpe_work *work, const struct qnti_known_piece *known, struct qnti_buffer *ids)
{
    for (size_t i = 0; i < known->count; i++) {
        int32_t id;
        memcpy(&id, ids->data + (known->first + i) * sizeof id, sizeof id);
        QNT_TRY(qnti_buffer_add(work->ctx, ids, &id, sizeof id));
    }
    return QNT_OK;
}

qnt_status qnti_bpe_encode(const struct qnti_bpe *bpe, struct qnti_bpe_work *work, const char *piece, size_t bytes,
                           struct qnti_buffer *ids)
{
    struct qnti_known_piece *known;
    size_t first = ids->bytes / sizeof(int32_t);
    if (bytes == 0)
        return QNT_OK;
    if (!work->known || bytes > KNOWN_BYTES)
        return encode(bpe, work, piece, bytes, ids);
    known = &work->known[XXH3_64bits(piece, bytes) % KNOWN_PIECES];
    if (known->bytes == bytes && memcmp(known->text, piece, bytes) == 0)
        return repeat(work, known, ids);
    QNT_TRY(encode(bpe, work, piece, bytes, ids));
    memcpy(known->text, piece, bytes);
    known->bytes = (uint8_t)bytes;
    known->first = first;
    known->count = (uint32_t)(ids->bytes / sizeof(int32_t) - first);
    return QNT_OK;
}
