/*
 * pattern.c - the expressions of tokenizer files through PCRE2.
 *
 * They are written for Oniguruma (Ruby's syntax): ^ and $ mean lines, \s is the property White_Space (PCRE2's \s has
 * U+180E besides). What the two read differently is refused by name. A string is an expression without operators.
 * A limit on the steps of one match turns hostile expressions into errors.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"

#include <ctype.h>
#include <pcre2.h>
#include <string.h>
#include "text/utf8.h"

enum {
    MATCH_LIMIT = 50000000, /* steps of one match: about a second; a run of a megabyte of spaces takes a million */
    HEAP_LIMIT_KIB = 256 * 1024
};

/* Escapes that mean the same in both; with them \s and \S, which are spelled out. */
static const char same_escapes[] = "pPdDrntfaebBAz";

static void *take(PCRE2_SIZE bytes, void *ctx)
{
    void *memory;
    return qnti_alloc_raw(ctx, bytes, 1, &memory) == QNT_OK ? memory : NULL;
}

static void give(void *memory, void *ctx)
{
    qnti_free(ctx, memory);
}

static qnt_status refuse(qnt_context *ctx, const char *where, const char *source, const char *what, int n)
{
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: expression \"%s\" has \"%.*s\", which is not supported", where, source,
                     n, what);
}

/* Things that PCRE2 understands in another way, wherever they stand. */
static qnt_status refuse_constructs(qnt_context *ctx, const char *where, const char *source, size_t bytes)
{
    static const char *const refused[] = {"&&", "{,", "(*", "(?C", "(?R", "(?m", "(?im", "(?x", "(?ix", "(?~", "(?@"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (memmem(source, bytes, refused[i], strlen(refused[i])))
            return refuse(ctx, where, source, refused[i], (int)strlen(refused[i]));
    return QNT_OK;
}

static qnt_status translate(qnt_context *ctx, const char *where, const char *source, size_t bytes,
                            struct qnti_buffer *out)
{
    bool in_class = false;
    QNT_TRY(refuse_constructs(ctx, where, source, bytes));
    for (size_t i = 0; i < bytes; i++) {
        const char *p = source + i;
        size_t n = *p == '\\' && i + 1 < bytes ? 2 : 1;
        if (n == 2 && (p[1] == 's' || p[1] == 'S')) {
            QNT_TRY(qnti_buffer_print(ctx, out, "\\%c{White_Space}", p[1] == 's' ? 'p' : 'P'));
        } else if (n == 2 && isalnum((unsigned char)p[1]) && !strchr(same_escapes, p[1])) {
            return refuse(ctx, where, source, p, 2);
        } else if (n == 1 && in_class && *p == '[') {
            return refuse(ctx, where, source, p, 1);
        } else {
            QNT_TRY(qnti_buffer_add(ctx, out, p, n));
        }
        if (n == 1 && (*p == '[' || *p == ']'))
            in_class = *p == '[';
        i += n - 1;
    }
    return QNT_OK;
}

static qnt_status compile(qnt_context *ctx, const char *where, const char *text, size_t bytes,
                          struct qnti_pattern *pattern)
{
    uint32_t options = PCRE2_UTF | (pattern->literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
    pcre2_general_context *memory = pcre2_general_context_create(take, give, ctx);
    pcre2_compile_context *lines = memory ? pcre2_compile_context_create(memory) : NULL;
    pcre2_match_context *limits = lines ? pcre2_match_context_create(memory) : NULL;
    qnt_status status = QNT_OK;
    unsigned char message[128];
    PCRE2_SIZE at;
    int error;
    pattern->limits = limits;
    if (!limits) {
        status = QNT_NO_MEMORY; /* said by the allocator */
        goto cleanup;
    }
    pcre2_set_newline(lines, PCRE2_NEWLINE_LF);
    pcre2_set_match_limit(limits, MATCH_LIMIT);
    pcre2_set_heap_limit(limits, HEAP_LIMIT_KIB);
    pattern->code = pcre2_compile((PCRE2_SPTR)text, bytes, options, &error, &at, lines);
    if (!pattern->code) {
        pcre2_get_error_message(error, message, sizeof message);
        status = error == PCRE2_ERROR_HEAP_FAILED ? QNT_NO_MEMORY : QNT_UNSUPPORTED;
        qnti_fail(ctx, status, "%s: expression \"%s\": %s", where, pattern->source, message);
        goto cleanup;
    }
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); /* where there is none the interpreter matches */
cleanup:
    pcre2_compile_context_free(lines);
    pcre2_general_context_free(memory);
    return status;
}

qnt_status qnti_pattern_compile(qnt_context *ctx, const char *where, const char *source, size_t bytes, bool literal,
                                struct qnti_pattern *pattern)
{
    struct qnti_buffer text = {0};
    qnt_status status;
    memset(pattern, 0, sizeof *pattern);
    pattern->literal = literal;
    pattern->bytes = bytes;
    QNT_CHECK(qnti_copy_bytes(ctx, source, bytes, &pattern->source));
    if (literal)
        QNT_CHECK(qnti_buffer_add(ctx, &text, source, bytes));
    else
        QNT_CHECK(translate(ctx, where, source, bytes, &text));
    if (bytes == 0 || !qnti_utf8_valid(source, bytes))
        QNT_CHECK(qnti_fail(ctx, QNT_BAD_DATA, "%s: a pattern of %zu bytes is %s", where, bytes,
                            bytes ? "not UTF-8" : "empty"));
    QNT_CHECK(compile(ctx, where, text.data, text.bytes, pattern));
cleanup:
    qnti_buffer_free(ctx, &text);
    if (status != QNT_OK)
        qnti_pattern_free(ctx, pattern);
    return status;
}

void qnti_pattern_free(qnt_context *ctx, struct qnti_pattern *pattern)
{
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->limits);
    qnti_free(ctx, pattern->source);
    memset(pattern, 0, sizeof *pattern);
}

qnt_status qnti_matcher_open(qnt_context *ctx, const struct qnti_pattern *pattern, struct qnti_matcher *matcher)
{
    memset(matcher, 0, sizeof *matcher);
    matcher->ctx = ctx;
    matcher->pattern = pattern;
    matcher->data = pcre2_match_data_create_from_pattern(pattern->code, NULL); /* with the pattern's allocator */
    return matcher->data ? QNT_OK : QNT_NO_MEMORY;
}

void qnti_matcher_close(struct qnti_matcher *matcher)
{
    pcre2_match_data_free(matcher->data);
    qnti_buffer_free(matcher->ctx, &matcher->spans);
}

/* *found: whether text matches at or behind `from`, and where. */
static qnt_status match(struct qnti_matcher *m, const char *text, size_t bytes, size_t from, bool *found, size_t *begin,
                        size_t *end)
{
    const PCRE2_SIZE *where;
    unsigned char message[128];
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int result = pcre2_match(m->pattern->code, (PCRE2_SPTR)text, bytes, from, options, m->data, m->pattern->limits);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
        result = pcre2_match(m->pattern->code, (PCRE2_SPTR)text, bytes, from, options | PCRE2_NO_JIT, m->data,
                             m->pattern->limits);
    *found = result >= 0;
    if (result == PCRE2_ERROR_NOMATCH)
        return QNT_OK;
    if (result == PCRE2_ERROR_NOMEMORY)
        return QNT_NO_MEMORY;
    if (result < 0) {
        pcre2_get_error_message(result, message, sizeof message);
        return qnti_fail(m->ctx, QNT_BAD_DATA, "expression \"%s\" fails at byte %zu of %zu: %s", m->pattern->source,
                         from, bytes, message);
    }
    where = pcre2_get_ovector_pointer(m->data);
    *begin = where[0];
    *end = where[1];
    if (*begin > *end || *begin < from) /* \K and look-behind could do that */
        return qnti_fail(m->ctx, QNT_BAD_DATA, "expression \"%s\" matches backwards at byte %zu", m->pattern->source,
                         from);
    return QNT_OK;
}

static qnt_status add_span(struct qnti_matcher *m, size_t end, bool is_match)
{
    struct qnti_span span;
    memset(&span, 0, sizeof span);
    span.end = end;
    span.match = is_match;
    return qnti_buffer_add(m->ctx, &m->spans, &span, sizeof span);
}

qnt_status qnti_matcher_find(struct qnti_matcher *m, const char *text, size_t bytes, const struct qnti_span **spans,
                             size_t *count)
{
    size_t from = 0, covered = 0;
    bool found, matched = false;
    m->spans.bytes = 0;
    while (from <= bytes) {
        size_t begin, end;
        uint32_t code;
        QNT_TRY(match(m, text, bytes, from, &found, &begin, &end));
        if (!found)
            break;
        from = end;
        if (begin == end) /* an empty match parts its neighbours, but none stands right behind another match */
            from += end < bytes ? qnti_utf8_next(text + end, bytes - end, &code) : 1;
        if (begin == end && matched && end == covered)
            continue;
        if (begin > covered)
            QNT_TRY(add_span(m, begin, false));
        QNT_TRY(add_span(m, end, true));
        covered = end;
        matched = true;
    }
    if (covered < bytes)
        QNT_TRY(add_span(m, bytes, false));
    *spans = (const struct qnti_span *)(const void *)m->spans.data;
    *count = m->spans.bytes / sizeof(struct qnti_span);
    return QNT_OK;
}
