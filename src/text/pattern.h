/*
 * pattern.h - the expressions of tokenizer files, and where they match.
 */
#ifndef QNTI_PATTERN_H
#define QNTI_PATTERN_H

#include "base/buffer.h"

struct qnti_pattern {
    char *source;                      /* as the file spells it */
    size_t bytes;
    bool literal;                      /* a string, not an expression */
    void *code, *limits;               /* PCRE2's */
};

/* `where` names the file. QNT_UNSUPPORTED: an expression that PCRE2 cannot read or reads in another way. */
qnt_status qnti_pattern_compile(qnt_context *ctx, const char *where, const char *source, size_t bytes, bool literal,
                                struct qnti_pattern *pattern);
void qnti_pattern_free(qnt_context *ctx, struct qnti_pattern *pattern);

/* Text is covered by matches and the gaps between them; a span reaches from the end of the one before to `end`. */
struct qnti_span {
    size_t end;
    bool match;
};

/* Room for matching, one for each thread; `spans` holds the result. */
struct qnti_matcher {
    qnt_context *ctx;
    const struct qnti_pattern *pattern;
    void *data;
    struct qnti_buffer spans;
};

qnt_status qnti_matcher_open(qnt_context *ctx, const struct qnti_pattern *pattern, struct qnti_matcher *matcher);
void qnti_matcher_close(struct qnti_matcher *matcher);
/* Spans of valid UTF-8 text, leftmost matches first; *spans is valid until the next call. */
qnt_status qnti_matcher_find(struct qnti_matcher *matcher, const char *text, size_t bytes,
                             const struct qnti_span **spans, size_t *count);

#endif
