/*
 * corpus.h - a text file as token ids: plain text, JSON lines with a key "text", or .npy of ids.
 */
#ifndef QNTI_CORPUS_H
#define QNTI_CORPUS_H

#include "text/tokenizer.h"

/*
 * *ids (to qnti_free) without special tokens. The tokenizer may be NULL for .npy. Ids at or above `vocab` are
 * QNT_BAD_DATA with their place. QNT_IO: the file cannot be read; QNT_BAD_DATA: it is empty, or a line is not as it
 * should be.
 */
qnt_status qnti_corpus_ids(qnt_context *ctx, const char *path, const qnti_tokenizer *tokenizer, size_t vocab,
                           int32_t **ids, size_t *count);
/* The same of n bytes that are in memory; the name tells the kind and stands in messages. */
qnt_status qnti_corpus_parse(qnt_context *ctx, const char *name, const char *bytes, size_t n,
                             const qnti_tokenizer *tokenizer, size_t vocab, int32_t **ids, size_t *count);

#endif
