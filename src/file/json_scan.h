/*
 * json_scan.h - a strict reader of JSON text, token by token, for headers whose shape is known.
 *
 * RFC 8259 to the letter: valid UTF-8, no control characters in strings, no
 * lone surrogates, no leading zeros, no trailing commas. Narrower than JSON
 * in two points: numbers are only read as unsigned integers, and strings must
 * not hold U+0000, so that they can be C strings. Builds no tree; the model
 * level reads general JSON through jansson.
 */
#ifndef QNTI_JSON_SCAN_H
#define QNTI_JSON_SCAN_H

#include "base/context.h"

struct qnti_scan {
    qnt_context *ctx;
    const char *where;               /* file, for messages */
    const char *item;                /* what is being read in it, or NULL */
    const char *start, *at, *end;
    char *strings;                   /* decoded strings go here: room for end - start bytes is enough */
};

/* Starts at `text`; QNT_BAD_DATA if it is not UTF-8. */
qnt_status qnti_scan_init(qnt_context *ctx, const char *where, const char *text, size_t n, char *strings,
                          struct qnti_scan *scan);
/* QNT_BAD_DATA: "FILE: header byte N: expected WHAT". */
qnt_status qnti_scan_fail(const struct qnti_scan *scan, const char *expected);
/* The next byte that is not blank, or -1 at the end. */
int qnti_scan_peek(struct qnti_scan *scan);
qnt_status qnti_scan_expect(struct qnti_scan *scan, char c);

/*
 * Steps through `[` or `{` after it was taken: *more is false, and `close`
 * taken, at the end. *count counts the items and starts at 0.
 */
qnt_status qnti_scan_item(struct qnti_scan *scan, char close, size_t *count, bool *more);
/* A string; the same with the colon of an object's key. */
qnt_status qnti_scan_string(struct qnti_scan *scan, const char **string);
qnt_status qnti_scan_key(struct qnti_scan *scan, const char **key);
/* An unsigned integer below 2^64, without sign, fraction, exponent. */
qnt_status qnti_scan_size(struct qnti_scan *scan, size_t *value);
/* Any value, of at most 128 levels. */
qnt_status qnti_scan_skip(struct qnti_scan *scan);

#endif
