/*
 * tokenizer_private.h - what a tokenizer consists of, and how the readers of files fill one.
 */
#ifndef QNTI_TOKENIZER_PRIVATE_H
#define QNTI_TOKENIZER_PRIVATE_H

#include <jansson.h>
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/steps.h"
#include "text/tokenizer.h"

enum { QNTI_MAX_TOKENS = 1 << 22 };    /* more ids than any vocabulary has; keeps a bad id from taking all memory */
enum { QNTI_MAX_TOKENIZER_BYTES = 1 << 28 };

#define QNTI_SPACE_MARK "\xE2\x96\x81" /* U+2581 */
enum { QNTI_SPACE_MARK_BYTES = 3 };

struct qnti_chunk;

struct qnti_tokenizer {
    qnt_context *ctx;
    char *name;                        /* of the file, for messages */
    size_t limit;                      /* ids at and above it are left out (the model has no such rows); 0: none */
    size_t left_out;
    struct qnti_vocabulary vocabulary; /* what the world sees of the following */
    size_t capacity;
    const char **pieces;
    size_t *piece_bytes;
    float *scores;
    int32_t *kinds;
    bool *special;                     /* left out by skip_special */
    const char **merges;
    size_t *merge_bytes;
    struct qnti_chunk *strings;        /* pieces, merges, texts of added tokens */

    struct qnti_added_set raw, normalized; /* found before and behind the normalizer */
    struct qnti_steps normalizer, pretokenizer, decoder;
    struct qnti_bpe bpe;
    struct qnti_buffer prefix, suffix; /* int32_t: ids around a text */
    bool post_processor;               /* the file says what they are */
    bool sentencepiece;                /* decodes like the sentencepiece library: */
    char *unk_surface;                 /* what it shows for unknown pieces */
};

qnt_status qnti_tokenizer_new(qnt_context *ctx, const char *name, size_t limit, qnti_tokenizer **tokenizer);

/* Room for ids 0 .. count-1, as far as the limit allows; new ones are UNUSED. */
qnt_status qnti_tokenizer_reserve(qnti_tokenizer *t, size_t count);
/* Sets one piece. Twice the same id with another text is QNT_BAD_DATA; an id beyond the limit is left out. */
qnt_status qnti_tokenizer_set(qnti_tokenizer *t, size_t id, const char *text, size_t bytes, int32_t kind, float score);
/* All pieces that BPE may use are set: builds its table of NORMAL and BYTE pieces. */
qnt_status qnti_tokenizer_index(qnti_tokenizer *t);
/* One merge of rank `rank` of `count`; kept for the vocabulary if byte level, else turned into a score. */
qnt_status qnti_tokenizer_add_merge(qnti_tokenizer *t, size_t rank, size_t count, const char *left, size_t left_bytes,
                                    const char *right, size_t right_bytes);
/* SentencePiece: every way to cut a NORMAL piece into two pieces is a merge, ranked by the score of the whole. */
qnt_status qnti_tokenizer_merge_by_scores(qnti_tokenizer *t);

/* An added token: its id, text as in the vocabulary, and flags. `normalized`: found behind the normalizer. */
qnt_status qnti_tokenizer_add(qnti_tokenizer *t, size_t id, const char *text, size_t bytes, float score,
                              bool normalized, const struct qnti_added *flags);
/* All tokens that are set as CONTROL or UNKNOWN (special) or USER (`normalized` is theirs). */
qnt_status qnti_tokenizer_add_by_kind(qnti_tokenizer *t, bool normalized);
/* -1: no token has this text. */
int64_t qnti_tokenizer_find(const qnti_tokenizer *t, const char *text, size_t bytes);
/* Fills normalizer, pre-tokenizer, post-processor, decoder from the members of a tokenizer.json. */
qnt_status qnti_tokenizer_read_parts(qnti_tokenizer *t, const json_t *root);

extern const char qnti_gpt2_expression[];
/* Chooses `pre` for what the steps do; warns where the name says not quite the same. */
void qnti_tokenizer_name_pre(qnti_tokenizer *t);
/* Steps of a name; QNT_UNSUPPORTED. */
qnt_status qnti_tokenizer_use_pre(qnti_tokenizer *t, const char *pre);
/* Sets the normalizer of SentencePiece: U+2581 in front if `prefix`, spaces to U+2581. */
qnt_status qnti_tokenizer_escape_spaces(qnti_tokenizer *t, bool prefix);
/* The decoder of a tokenizer.json of that kind. */
qnt_status qnti_tokenizer_standard_decoder(qnti_tokenizer *t, bool strip_space);
/* BOS and EOS around texts, as the vocabulary's bos, eos, add_bos, add_eos say. */
qnt_status qnti_tokenizer_surround(qnti_tokenizer *t);
/* Everything is set (again): publishes it in the vocabulary. */
void qnti_tokenizer_finish(qnti_tokenizer *t);

/* A file, *.json or *.model; `vocab_size`: 0, or how many ids the model has. */
qnt_status qnti_tokenizer_read(qnt_context *ctx, const char *path, size_t vocab_size, qnti_tokenizer **tokenizer);
/* The same from memory; `name` is for messages. */
qnt_status qnti_tokenizer_parse_json(qnt_context *ctx, const char *name, const char *text, size_t bytes,
                                     size_t vocab_size, qnti_tokenizer **tokenizer);
/* The same of a tokenizer.json that is parsed already. */
qnt_status qnti_tokenizer_from_json(qnt_context *ctx, const char *name, const json_t *root, size_t vocab_size,
                                    qnti_tokenizer **tokenizer);
/* Of a vocab.json and a merges.txt; `prefix`: a space stands in front of a text. */
qnt_status qnti_tokenizer_read_pair(qnt_context *ctx, const char *vocab_path, const char *merges_path, bool prefix,
                                    size_t vocab_size, qnti_tokenizer **tokenizer);
qnt_status qnti_tokenizer_parse_model(qnt_context *ctx, const char *name, const char *data, size_t bytes,
                                      size_t vocab_size, qnti_tokenizer **tokenizer);

#endif
