/*
 * utf8.h - UTF-8, one character at a time.
 */
#ifndef QNTI_UTF8_H
#define QNTI_UTF8_H

#include "base/buffer.h"

#define QNTI_UTF8_BAD UINT32_MAX

/*
 * The character at the start of `bytes` > 0 bytes: its length, and *code. Invalid bytes give QNTI_UTF8_BAD and the
 * length of the longest start of a character there, at least 1 (what Unicode replaces by one U+FFFD).
 */
size_t qnti_utf8_next(const char *text, size_t bytes, uint32_t *code);
/* Start of the last character of `bytes` > 0 bytes of valid text. */
size_t qnti_utf8_last(const char *text, size_t bytes);
bool qnti_utf8_valid(const char *text, size_t bytes);
/* Writes the character, returns its length. */
size_t qnti_utf8_put(uint32_t code, char out[4]);
/* Appends the text with U+FFFD for what is invalid: one for each byte, or one for each start of a character. */
qnt_status qnti_utf8_clean(qnt_context *ctx, const char *text, size_t bytes, bool each_byte, struct qnti_buffer *out);

/* White_Space; and a word character by UTS 18: Alphabetic, marks, decimal digits, connectors, joiners. */
bool qnti_is_space(uint32_t code);
bool qnti_is_word(uint32_t code);

#endif
