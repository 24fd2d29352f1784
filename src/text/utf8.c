/*
 * utf8.c - UTF-8, one character at a time (Unicode, table 3-7).
 *
 * Text from outside goes through qnti_utf8_clean once; everything behind it relies on valid UTF-8.
 */
#include "text/utf8.h"

#include <utf8proc.h>

size_t qnti_utf8_next(const char *text, size_t bytes, uint32_t *code)
{
    const unsigned char *p = (const unsigned char *)text;
    unsigned low, high; /* of the second byte: no overlong form, no surrogate, nothing above U+10FFFF */
    uint32_t value;
    size_t length, i;
    *code = p[0];
    if (p[0] < 0x80)
        return 1;
    *code = QNTI_UTF8_BAD;
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 1;
    length = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
    high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    value = p[0] & (0x7Fu >> length);
    for (i = 1; i < length; i++) {
        if (i >= bytes || p[i] < low || p[i] > high)
            return i;
        value = value << 6 | (p[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *code = value;
    return length;
}

size_t qnti_utf8_last(const char *text, size_t bytes)
{
    size_t at = bytes - 1;
    while (at && ((unsigned char)text[at] & 0xC0u) == 0x80u)
        at--;
    return at;
}

bool qnti_utf8_valid(const char *text, size_t bytes)
{
    uint32_t code;
    for (size_t at = 0; at < bytes;) {
        at += qnti_utf8_next(text + at, bytes - at, &code);
        if (code == QNTI_UTF8_BAD)
            return false;
    }
    return true;
}

size_t qnti_utf8_put(uint32_t code, char out[4])
{
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80u | (code & 0x3Fu));
        code >>= 6;
    }
    out[0] = (char)(lead[length] | code);
    return length;
}

qnt_status qnti_utf8_clean(qnt_context *ctx, const char *text, size_t bytes, bool each_byte, struct qnti_buffer *out)
{
    size_t valid = 0, at = 0;
    while (at < bytes) {
        uint32_t code;
        size_t length = qnti_utf8_next(text + at, bytes - at, &code);
        if (code == QNTI_UTF8_BAD) {
            QNT_TRY(qnti_buffer_add(ctx, out, text + valid, at - valid));
            QNT_TRY(qnti_buffer_add(ctx, out, "\xEF\xBF\xBD", 3));
            length = each_byte ? 1 : length;
            valid = at + length;
        }
        at += length;
    }
    return qnti_buffer_add(ctx, out, bytes ? text + valid : "", bytes - valid);
}

bool qnti_is_space(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
           code == 0x3000;
}

bool qnti_is_word(uint32_t code)
{
    static const uint32_t others[][2] = {{0x200C, 0x200D},
                                         {0x24B6, 0x24E9}, /* joiners; letters in circles, */
                                         {0x1F130, 0x1F149},
                                         {0x1F150, 0x1F169}, /* squares and so on */
                                         {0x1F170, 0x1F189}};
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (code >= others[i][0] && code <= others[i][1])
            return true;
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC;
}
