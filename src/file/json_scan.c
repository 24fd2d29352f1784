/*
 * json_scan.c - a strict reader of JSON text; see json_scan.h.
 */
#include "file/json_scan.h"

#include <string.h>

enum { MAX_DEPTH = 128 };

/* Table 3-7 of the Unicode standard: lead bytes, length, range of the second byte; all others are 80..BF. */
static const struct {
    unsigned char first, last, length, second_first, second_last;
} utf8_rows[] = {
    {0x00, 0x7f, 1, 0, 0},       {0xc2, 0xdf, 2, 0x80, 0xbf}, {0xe0, 0xe0, 3, 0xa0, 0xbf},
    {0xe1, 0xec, 3, 0x80, 0xbf}, {0xed, 0xed, 3, 0x80, 0x9f}, {0xee, 0xef, 3, 0x80, 0xbf},
    {0xf0, 0xf0, 4, 0x90, 0xbf}, {0xf1, 0xf3, 4, 0x80, 0xbf}, {0xf4, 0xf4, 4, 0x80, 0x8f},
};

/* Bytes of the character at p, of which n are left; 0: invalid. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    for (size_t r = 0; r < sizeof utf8_rows / sizeof *utf8_rows; r++) {
        size_t length = utf8_rows[r].length;
        if (p[0] < utf8_rows[r].first || p[0] > utf8_rows[r].last)
            continue;
        if (length > n || (length > 1 && (p[1] < utf8_rows[r].second_first || p[1] > utf8_rows[r].second_last)))
            return 0;
        for (size_t i = 2; i < length; i++)
            if (p[i] < 0x80 || p[i] > 0xbf)
                return 0;
        return length;
    }
    return 0;
}

qnt_status qnti_scan_init(qnt_context *ctx, const char *where, const char *text, size_t n, char *strings,
                          struct qnti_scan *scan)
{
    *scan = (struct qnti_scan){ctx, where, NULL, text, text, text + n, strings};
    while (scan->at < scan->end) {
        size_t length = utf8_length((const unsigned char *)scan->at, (size_t)(scan->end - scan->at));
        if (!length)
            return qnti_scan_fail(scan, "valid UTF-8");
        scan->at += length;
    }
    scan->at = text;
    return QNT_OK;
}

qnt_status qnti_scan_fail(const struct qnti_scan *s, const char *expected)
{
    size_t byte = (size_t)(s->at - s->start);
    if (s->item)
        return qnti_fail(s->ctx, QNT_BAD_DATA, "%s: \"%.200s\": header byte %zu: expected %s", s->where, s->item, byte,
                         expected);
    return qnti_fail(s->ctx, QNT_BAD_DATA, "%s: header byte %zu: expected %s", s->where, byte, expected);
}

int qnti_scan_peek(struct qnti_scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
    return s->at < s->end ? (unsigned char)*s->at : -1;
}

static bool take(struct qnti_scan *s, char c)
{
    if (qnti_scan_peek(s) != c)
        return false;
    s->at++;
    return true;
}

qnt_status qnti_scan_expect(struct qnti_scan *s, char c)
{
    char expected[4] = {'\'', c, '\'', 0};
    return take(s, c) ? QNT_OK : qnti_scan_fail(s, expected);
}

qnt_status qnti_scan_item(struct qnti_scan *s, char close, size_t *count, bool *more)
{
    *more = !take(s, close);
    if (*more && *count > 0)
        QNT_TRY(qnti_scan_expect(s, ','));
    *count += *more;
    return QNT_OK;
}

/* Four hexadecimal digits. */
static qnt_status hex(struct qnti_scan *s, unsigned *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        unsigned c = s->at < s->end ? (unsigned char)*s->at : 0;
        unsigned digit = c - '0' < 10 ? c - '0' : (c | 32) - 'a' < 6 ? (c | 32) - 'a' + 10 : 16;
        if (digit > 15)
            return qnti_scan_fail(s, "four hexadecimal digits");
        *code = *code * 16 + digit;
    }
    return QNT_OK;
}

static void put_utf8(struct qnti_scan *s, unsigned code)
{
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *s->strings++ = (char)(lead[more] | (code >> (6 * more)));
    while (more-- > 0)
        *s->strings++ = (char)(0x80 | ((code >> (6 * more)) & 0x3f));
}

/* What stands behind \u; a pair of surrogates is one character. */
static qnt_status unicode_escape(struct qnti_scan *s)
{
    unsigned code, low = 0;
    QNT_TRY(hex(s, &code));
    if (code >= 0xd800 && code < 0xdc00) {
        if (s->end - s->at < 2 || s->at[0] != '\\' || s->at[1] != 'u')
            return qnti_scan_fail(s, "the second half of a surrogate pair");
        s->at += 2;
        QNT_TRY(hex(s, &low));
        if (low < 0xdc00 || low > 0xdfff)
            return qnti_scan_fail(s, "the second half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code == 0 || (code >= 0xdc00 && code < 0xe000)) {
        return qnti_scan_fail(s, "no U+0000 and no lone surrogate in a string");
    }
    put_utf8(s, code);
    return QNT_OK;
}

static qnt_status escape(struct qnti_scan *s)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *letter = s->at < s->end && *s->at ? strchr(letters, *s->at) : NULL;
    if (s->at < s->end && *s->at == 'u') {
        s->at++;
        return unicode_escape(s);
    }
    if (!letter)
        return qnti_scan_fail(s, "one of \"\\/bfnrtu behind a backslash");
    s->at++;
    *s->strings++ = values[letter - letters];
    return QNT_OK;
}

/* Decoding never lengthens, and the quotes leave room for the NUL. */
qnt_status qnti_scan_string(struct qnti_scan *s, const char **string)
{
    if (!take(s, '"'))
        return qnti_scan_fail(s, "a string");
    *string = s->strings;
    for (;;) {
        unsigned char c = s->at < s->end ? (unsigned char)*s->at : 0;
        if (c < 0x20)
            return qnti_scan_fail(s, "the end of a string, or no control character in it");
        s->at++;
        if (c == '"')
            break;
        if (c == '\\')
            QNT_TRY(escape(s));
        else
            *s->strings++ = (char)c;
    }
    *s->strings++ = 0;
    return QNT_OK;
}

qnt_status qnti_scan_key(struct qnti_scan *s, const char **key)
{
    QNT_TRY(qnti_scan_string(s, key));
    return qnti_scan_expect(s, ':');
}

static bool at_digit(const struct qnti_scan *s)
{
    return s->at < s->end && *s->at >= '0' && *s->at <= '9';
}

static bool at_any(const struct qnti_scan *s, const char *set)
{
    return s->at < s->end && *s->at && strchr(set, *s->at);
}

qnt_status qnti_scan_size(struct qnti_scan *s, size_t *value)
{
    static const char expected[] = "an integer from 0 to 2^64 - 1";
    const char *first;
    *value = 0;
    qnti_scan_peek(s);
    for (first = s->at; at_digit(s); s->at++)
        if (__builtin_mul_overflow(*value, 10u, value) ||
            __builtin_add_overflow(*value, (size_t)(*s->at - '0'), value))
            return qnti_scan_fail(s, expected);
    if (s->at == first || (*first == '0' && s->at - first > 1) || at_any(s, ".eE"))
        return qnti_scan_fail(s, expected);
    return QNT_OK;
}

static qnt_status skip_digits(struct qnti_scan *s)
{
    if (!at_digit(s))
        return qnti_scan_fail(s, "a digit");
    while (at_digit(s))
        s->at++;
    return QNT_OK;
}

static qnt_status skip_number(struct qnti_scan *s)
{
    s->at += *s->at == '-';
    if (at_any(s, "0"))
        s->at++;
    else
        QNT_TRY(skip_digits(s));
    if (at_any(s, ".")) {
        s->at++;
        QNT_TRY(skip_digits(s));
    }
    if (at_any(s, "eE")) {
        s->at++;
        s->at += at_any(s, "+-");
        QNT_TRY(skip_digits(s));
    }
    return QNT_OK;
}

static qnt_status skip_scalar(struct qnti_scan *s)
{
    static const char *const words[] = {"null", "true", "false"};
    const char *string;
    int c = qnti_scan_peek(s);
    if (c == '"')
        return qnti_scan_string(s, &string);
    if (c == '-' || (c >= '0' && c <= '9'))
        return skip_number(s);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i]);
        if (n <= (size_t)(s->end - s->at) && memcmp(s->at, words[i], n) == 0) {
            s->at += n;
            return QNT_OK;
        }
    }
    return qnti_scan_fail(s, "a value");
}

/* Takes an opening bracket, if one stands here, and pushes its counterpart. */
static qnt_status open_bracket(struct qnti_scan *s, char *closers, size_t *depth, bool *opened)
{
    int c = qnti_scan_peek(s);
    *opened = c == '{' || c == '[';
    if (!*opened)
        return QNT_OK;
    if (*depth == MAX_DEPTH)
        return qnti_scan_fail(s, "at most 128 nested values");
    closers[(*depth)++] = c == '{' ? '}' : ']';
    s->at++;
    return QNT_OK;
}

qnt_status qnti_scan_skip(struct qnti_scan *s)
{
    char closers[MAX_DEPTH];
    size_t counts[MAX_DEPTH + 1] = {0}, depth = 0;
    const char *key;
    do {
        bool opened, more = false;
        QNT_TRY(open_bracket(s, closers, &depth, &opened));
        if (opened)
            counts[depth] = 0;
        else
            QNT_TRY(skip_scalar(s));
        while (depth > 0 && !more) { /* on to the next item of the innermost bracket that has one */
            QNT_TRY(qnti_scan_item(s, closers[depth - 1], &counts[depth], &more));
            depth -= !more;
        }
        if (more && closers[depth - 1] == '}')
            QNT_TRY(qnti_scan_key(s, &key));
    } while (depth > 0);
    return QNT_OK;
}
