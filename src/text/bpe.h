/*
 * bpe.h - byte pair encoding of one piece of text.
 *
 * One table of pairs serves files with ranked merges and SentencePiece's scores: a pair of ids has a rank and the id of
 * what it becomes; the lowest rank is merged first, the leftmost of equals.
 */
#ifndef QNTI_BPE_H
#define QNTI_BPE_H

#include "base/buffer.h"

/* Which id has this text? Open addressing over hashes; the texts belong to the vocabulary. */
struct qnti_piece_map {
    struct qnti_piece_slot *slots;
    size_t mask;
    const char *const *pieces;
    const size_t *piece_bytes;
};

struct qnti_pair {
    uint64_t key;                      /* left id, right id */
    uint32_t rank;
    int32_t id;
};

struct qnti_pair_map {
    struct qnti_pair *slots;
    size_t capacity, count;
};

struct qnti_bpe {
    struct qnti_piece_map pieces;
    struct qnti_pair_map pairs;
    int32_t bytes[256];                /* ids of "<0xXX>", -1 */
    int32_t unknown;                   /* -1: characters that are no piece vanish */
    bool byte_fallback, fuse_unknown;
    bool ignore_merges;                /* a text that is a piece is taken whole */
};

/* Maps the pieces whose `wanted` is set (of equal texts the first) and finds the byte pieces. */
qnt_status qnti_bpe_set_pieces(qnt_context *ctx, struct qnti_bpe *bpe, const char *const *pieces,
                               const size_t *piece_bytes, const bool *wanted, size_t count);
/* -1: none. */
int32_t qnti_bpe_find(const struct qnti_bpe *bpe, const char *text, size_t bytes);
/* A later rank replaces an earlier one. */
qnt_status qnti_bpe_add_pair(qnt_context *ctx, struct qnti_bpe *bpe, int32_t left, int32_t right, uint32_t rank,
                             int32_t id);
/* NULL: the two do not merge. */
const struct qnti_pair *qnti_bpe_find_pair(const struct qnti_bpe *bpe, int32_t left, int32_t right);
void qnti_bpe_free(qnt_context *ctx, struct qnti_bpe *bpe);

/* What one thread needs to encode: symbols, queue, and the pieces it met lately. */
struct qnti_bpe_work {
    qnt_context *ctx;
    struct qnti_symbol *symbols;
    struct qnti_candidate *queue;
    size_t capacity, count, waiting;
    struct qnti_known_piece *known;    /* NULL: remember nothing */
};

/* `remember`: worth it for long texts in many pieces. */
qnt_status qnti_bpe_work_open(qnt_context *ctx, bool remember, struct qnti_bpe_work *work);
void qnti_bpe_work_close(struct qnti_bpe_work *work);
/* Appends the ids (int32_t) of a piece. `ids` must be the same buffer throughout the work's life, only appended to. */
qnt_status qnti_bpe_encode(const struct qnti_bpe *bpe, struct qnti_bpe_work *work, const char *piece, size_t bytes,
                           struct qnti_buffer *ids);

#endif
