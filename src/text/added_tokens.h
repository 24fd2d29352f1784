/*
 * added_tokens.h - tokens that are found in the text before anything else is done with it.
 */
#ifndef QNTI_ADDED_TOKENS_H
#define QNTI_ADDED_TOKENS_H

#include "base/context.h"

struct qnti_added {
    int32_t id;
    const char *text;                  /* what is looked for; the vocabulary keeps it */
    size_t bytes;
    bool special, single_word, strip_left, strip_right;
};

struct qnti_added_set {
    struct qnti_added *list;
    size_t count, capacity;
    size_t first[257];                 /* of those that start with this byte; made by qnti_added_sort */
};

/* `text` must live as long as the set. */
qnt_status qnti_added_add(qnt_context *ctx, struct qnti_added_set *set, const struct qnti_added *token);
/* Must follow the last qnti_added_add. */
void qnti_added_sort(struct qnti_added_set *set);
/* -1: none with this text. */
int32_t qnti_added_find(const struct qnti_added_set *set, const char *text, size_t bytes);
void qnti_added_free(qnt_context *ctx, struct qnti_added_set *set);

struct qnti_added_match {
    size_t begin, end;                 /* with the white space that the token swallows */
    int32_t id;
};

/* The first token at or behind `from`: leftmost, then longest. Special ones are passed over unless `parse_special`. */
bool qnti_added_next(const struct qnti_added_set *set, const char *text, size_t bytes, size_t from,
                     bool parse_special, struct qnti_added_match *match);

#endif
