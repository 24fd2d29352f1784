/*
 * tokenizer.h - text to token ids and back, as the files of a checkpoint say.
 */
#ifndef QNTI_TOKENIZER_H
#define QNTI_TOKENIZER_H

#include "base/context.h"

typedef struct qnti_tokenizer qnti_tokenizer;

enum qnti_token_kind {                 /* numbers as in SentencePiece and GGUF */
    QNTI_TOKEN_NORMAL = 1, QNTI_TOKEN_UNKNOWN, QNTI_TOKEN_CONTROL, QNTI_TOKEN_USER, QNTI_TOKEN_UNUSED, QNTI_TOKEN_BYTE
};

/* What a GGUF file must say about a vocabulary (gguf.md section 6). */
struct qnti_vocabulary {
    bool byte_level;                   /* "gpt2"; else SentencePiece ("llama") */
    const char *pre;                   /* "llama-bpe", "qwen2", "smollm", "gpt-2", "default"; NULL: has no name here */
    size_t count;                      /* config.json's vocab_size; ids without a token are UNUSED with piece NULL */
    const char *const *pieces;         /* UTF-8, lengths beside (a piece may hold NUL) */
    const size_t *piece_bytes;
    const float *scores;               /* SentencePiece only, else NULL */
    const int32_t *kinds;              /* enum qnti_token_kind */
    const char *const *merges;         /* byte level only: "left right" */
    const size_t *merge_bytes;
    size_t merge_count;
    bool add_space_prefix;
    int64_t bos, eos, unk, pad;        /* ids, -1: none */
    bool add_bos, add_eos;             /* what the folder's encoder does */
};

/*
 * Opens the tokenizer of a checkpoint folder: tokenizer.json if it is there, else tokenizer.model, else vocab.json and
 * merges.txt, with tokenizer_config.json, special_tokens_map.json, added_tokens.json and config.json for ids of special
 * tokens.
 * QNT_NOT_FOUND: the folder has none; QNT_UNSUPPORTED: a part of another kind, named; QNT_BAD_DATA.
 */
qnt_status qnti_tokenizer_open(qnt_context *ctx, const char *folder, qnti_tokenizer **tokenizer);
/* One file: *.json or *.model; count is then the greatest id + 1, and other files' special tokens are unknown. */
qnt_status qnti_tokenizer_open_file(qnt_context *ctx, const char *path, qnti_tokenizer **tokenizer);
/* From a GGUF's vocabulary; `scores` or `merges` must be there. Everything is copied. */
qnt_status qnti_tokenizer_from_vocabulary(qnt_context *ctx, const struct qnti_vocabulary *vocabulary,
                                          qnti_tokenizer **tokenizer);
void qnti_tokenizer_close(qnti_tokenizer *tokenizer);

/* Borrowed from the tokenizer. */
const struct qnti_vocabulary *qnti_tokenizer_vocabulary(const qnti_tokenizer *tokenizer);

/*
 * Token ids of `bytes` bytes of text (UTF-8; invalid bytes are read as U+FFFD). `special`: add BOS and EOS as the
 * post-processor says. `parse_special`: recognise special tokens spelled in the text. *ids (to qnti_free, NULL if there
 * are none) has *count. Several threads may use one tokenizer.
 */
qnt_status qnti_tokenizer_encode(const qnti_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                 bool parse_special, int32_t **ids, size_t *count);
/* *text (to qnti_free) has *bytes and a NUL. Ids out of range are QNT_INVALID. */
qnt_status qnti_tokenizer_decode(const qnti_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                                 char **text, size_t *bytes);

#endif
