/*
 * imatrix.h - importance matrices of llama.cpp: sums of squared inputs of each linear, by its name.
 *
 * GGUF: general.type "imatrix", imatrix.datasets, imatrix.chunk_count and imatrix.chunk_size; for each linear
 * NAME.in_sum2 (in, matrices), the sums, and NAME.counts (1, matrices), how many tokens they have. A linear has
 * one matrix, a mixture's one for each expert.
 * The older .dat: i32 entries | (i32 length, name, i32 calls, i32 values, f32 values)* | i32 calls | i32 length, text,
 * the last three optional. Its values are the mean of x^2 times the calls (windows).
 */
#ifndef QNTI_IMATRIX_H
#define QNTI_IMATRIX_H

#include "base/context.h"

/* What stands under one name. */
struct qnti_imatrix_entry {
    char *name;                  /* "blk.0.attn_q.weight" */
    size_t in, matrices;
    float *sums;                 /* [matrices][in] */
    float *counts;               /* [matrices] tokens, in a .dat calls: the mean is sum / count; 0: nothing came */
};

enum qnti_imatrix_kind { QNTI_IMATRIX_GGUF, QNTI_IMATRIX_DAT };

struct qnti_imatrix {
    qnt_context *ctx;
    enum qnti_imatrix_kind kind;
    struct qnti_imatrix_entry *entries;   /* sorted by name */
    size_t count;
    char **texts;                /* names of the calibration texts */
    size_t text_count;
    size_t chunks, chunk_size;   /* windows, tokens of one; 0: the file does not say */
};

/* QNT_IO; QNT_BAD_DATA: neither of the two, or damaged; the message names file and entry. */
qnt_status qnti_imatrix_open(qnt_context *ctx, const char *path, struct qnti_imatrix **matrix);
/* The same for a file that lies in memory; `name` stands for the path in messages. Nothing is kept of it. */
qnt_status qnti_imatrix_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                    struct qnti_imatrix **matrix);
void qnti_imatrix_close(struct qnti_imatrix *matrix);
/* NULL: none of that name. */
const struct qnti_imatrix_entry *qnti_imatrix_find(const struct qnti_imatrix *matrix, const char *name);

/* Making one: empty, entries added (what is given is copied), then sorted. QNT_BAD_DATA: a name stands twice. */
qnt_status qnti_imatrix_create(qnt_context *ctx, struct qnti_imatrix **matrix);
qnt_status qnti_imatrix_add(struct qnti_imatrix *matrix, const char *name, size_t in, size_t matrices,
                            const float *sums, const float *counts);
qnt_status qnti_imatrix_add_text(struct qnti_imatrix *matrix, const char *text, size_t bytes);
qnt_status qnti_imatrix_sort(struct qnti_imatrix *matrix, const char *where);

/* Adds the sums of `other`, of the same kind. QNT_INVALID: entries or widths differ; the message names them. */
qnt_status qnti_imatrix_merge(struct qnti_imatrix *matrix, const struct qnti_imatrix *other, const char *where);

/* Whole or not at all; the kind by the matrix's own. */
qnt_status qnti_imatrix_write(const struct qnti_imatrix *matrix, const char *path);

#endif
