/*
 * steps.c - lists of pieces, lists of steps, and the steps that handle text as characters.
 *
 * Bytes that stand for characters and characters that stand for bytes are in bytes.c.
 */
#include "text/steps.h"

#include <string.h>
#include <utf8proc.h>
#include "text/utf8.h"

const char *qnti_piece(const struct qnti_pieces *p, size_t i, size_t *bytes)
{
    const size_t *ends = (const size_t *)(const void *)p->ends.data;
    size_t begin = i ? ends[i - 1] : 0;
    *bytes = ends[i] - begin;
    return p->text.data + begin;
}

qnt_status qnti_pieces_add(qnt_context *ctx, struct qnti_pieces *p, const char *text, size_t bytes)
{
    QNT_TRY(qnti_buffer_add(ctx, &p->text, text, bytes));
    return qnti_pieces_end(ctx, p);
}

qnt_status qnti_pieces_end(qnt_context *ctx, struct qnti_pieces *p)
{
    QNT_TRY(qnti_buffer_add(ctx, &p->text, "", 0)); /* so that text.data is never NULL */
    return qnti_buffer_add(ctx, &p->ends, &p->text.bytes, sizeof p->text.bytes);
}

void qnti_pieces_free(qnt_context *ctx, struct qnti_pieces *p)
{
    qnti_buffer_free(ctx, &p->text);
    qnti_buffer_free(ctx, &p->ends);
}

static qnt_status prefix(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                         struct qnti_pieces *out)
{
    size_t n = step->content_bytes, bytes;
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        bool there = bytes >= n && memcmp(text, step->content, n) == 0;
        bool wanted = !step->first_only || (i == 0 && in->at_start);
        if (bytes && wanted && !(there && step->unless_there))
            QNT_TRY(qnti_buffer_add(ctx, &out->text, step->content, n));
        QNT_TRY(qnti_pieces_add(ctx, out, text, bytes));
    }
    return QNT_OK;
}

static qnt_status replace_piece(qnt_context *ctx, const struct qnti_step *step, struct qnti_matcher *matcher,
                                const char *text, size_t bytes, struct qnti_pieces *out)
{
    const struct qnti_span *spans;
    size_t count, begin = 0;
    QNT_TRY(qnti_matcher_find(matcher, text, bytes, &spans, &count));
    if (count && spans[0].match && spans[0].end && !step->content_bytes && !qnti_pieces_count(out))
        out->at_start = false;
    for (size_t i = 0; i < count; begin = spans[i++].end) {
        if (spans[i].match)
            QNT_TRY(qnti_buffer_add(ctx, &out->text, step->content, step->content_bytes));
        else
            QNT_TRY(qnti_buffer_add(ctx, &out->text, text + begin, spans[i].end - begin));
    }
    return qnti_pieces_end(ctx, out);
}

static qnt_status replace(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                          struct qnti_pieces *out)
{
    struct qnti_matcher matcher;
    qnt_status status;
    size_t bytes;
    QNT_CHECK(qnti_matcher_open(ctx, &step->pattern, &matcher));
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        if (step->first_only && i > 0)
            QNT_CHECK(qnti_pieces_add(ctx, out, text, bytes));
        else
            QNT_CHECK(replace_piece(ctx, step, &matcher, text, bytes, out));
    }
cleanup:
    qnti_matcher_close(&matcher);
    return status;
}

/* Whether pieces end between two neighbouring spans. */
static bool cut_between(enum qnti_cut cut, bool left, bool right)
{
    switch (cut) {
    case QNTI_CUT_PREVIOUS:
        return !right || left;
    case QNTI_CUT_NEXT:
        return !left || right;
    case QNTI_CUT_CONTIGUOUS:
        return left != right;
    default:
        return true;
    }
}

static qnt_status split_piece(qnt_context *ctx, const struct qnti_step *step, struct qnti_matcher *matcher,
                              const char *text, size_t bytes, struct qnti_pieces *out)
{
    const struct qnti_span *spans;
    size_t count, begin = 0;
    QNT_TRY(qnti_matcher_find(matcher, text, bytes, &spans, &count));
    for (size_t i = 0; i < count; i++) {
        bool match = spans[i].match != step->invert;
        if (i + 1 < count && !cut_between(step->cut, match, spans[i + 1].match != step->invert))
            continue;
        if (spans[i].end == begin)
            continue;
        if (!(match && step->cut == QNTI_CUT_REMOVED))
            QNT_TRY(qnti_pieces_add(ctx, out, text + begin, spans[i].end - begin));
        else if (qnti_pieces_count(out) == 0)
            out->at_start = false;
        begin = spans[i].end;
    }
    return QNT_OK;
}

static qnt_status split(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                        struct qnti_pieces *out)
{
    struct qnti_matcher matcher;
    qnt_status status;
    size_t bytes;
    QNT_CHECK(qnti_matcher_open(ctx, &step->pattern, &matcher));
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        QNT_CHECK(split_piece(ctx, step, &matcher, text, bytes, out));
    }
cleanup:
    qnti_matcher_close(&matcher);
    return status;
}

static qnt_status compose_piece(qnt_context *ctx, utf8proc_option_t options, const char *text, size_t bytes,
                                struct qnti_pieces *out)
{
    const utf8proc_uint8_t *source = (const utf8proc_uint8_t *)text;
    utf8proc_int32_t *codes = NULL;
    utf8proc_ssize_t n, done;
    qnt_status status;
    n = utf8proc_decompose(source, (utf8proc_ssize_t)bytes, NULL, 0, options);
    if (n < 0)
        QNT_CHECK(qnti_fail(ctx, QNT_BAD_DATA, "cannot normalize %zu bytes: %s", bytes, utf8proc_errmsg(n)));
    QNT_CHECK(QNTI_NEW(ctx, (size_t)n + 1, &codes)); /* the result is written in place, with a NUL */
    done = utf8proc_decompose(source, (utf8proc_ssize_t)bytes, codes, n, options);
    if (done == n)
        done = utf8proc_reencode(codes, n, options);
    if (done < 0)
        QNT_CHECK(qnti_fail(ctx, QNT_BAD_DATA, "cannot normalize %zu bytes: %s", bytes, utf8proc_errmsg(done)));
    QNT_CHECK(qnti_pieces_add(ctx, out, (const char *)codes, (size_t)done));
cleanup:
    qnti_free(ctx, codes);
    return status;
}

static qnt_status compose(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                          struct qnti_pieces *out)
{
    unsigned options = UTF8PROC_STABLE | UTF8PROC_COMPOSE | (step->compatible ? UTF8PROC_COMPAT : 0u);
    size_t bytes;
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        QNT_TRY(compose_piece(ctx, (utf8proc_option_t)options, text, bytes, out));
    }
    return QNT_OK;
}

static qnt_status fuse(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                       struct qnti_pieces *out)
{
    (void)step;
    return qnti_pieces_add(ctx, out, in->text.bytes ? in->text.data : "", in->text.bytes);
}

static qnt_status trim(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                       struct qnti_pieces *out)
{
    size_t n = step->content_bytes, bytes;
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        bool here = n && (i == 0 || !step->first_only || (step->until_text && out->text.bytes == 0));
        for (size_t k = 0; here && k < step->start && bytes >= n && !memcmp(text, step->content, n); k++) {
            text += n;
            bytes -= n;
        }
        for (size_t k = 0; here && k < step->stop && bytes >= n && !memcmp(text + bytes - n, step->content, n); k++)
            bytes -= n;
        QNT_TRY(qnti_pieces_add(ctx, out, text, bytes));
    }
    return QNT_OK;
}

enum { MAX_GROWTH = 64, MAX_CONTENT_BYTES = 1024 }; /* so that a row of replacements cannot fill the memory */

static const qnti_step_fn functions[QNTI_STEP_COUNT] = {
    [QNTI_STEP_PREFIX] = prefix,
    [QNTI_STEP_REPLACE] = replace,
    [QNTI_STEP_COMPOSE] = compose,
    [QNTI_STEP_SPLIT] = split,
    [QNTI_STEP_BYTES] = qnti_step_bytes,
    [QNTI_STEP_UNBYTES] = qnti_step_unbytes,
    [QNTI_STEP_BYTE_PIECES] = qnti_step_byte_pieces,
    [QNTI_STEP_FUSE] = fuse,
    [QNTI_STEP_TRIM] = trim,
};

qnt_status qnti_steps_run(qnt_context *ctx, const struct qnti_steps *steps, struct qnti_pieces *pieces)
{
    size_t limit = MAX_GROWTH * (pieces->text.bytes + MAX_CONTENT_BYTES);
    for (size_t i = 0; i < steps->count; i++) {
        struct qnti_pieces out = {.at_start = pieces->at_start};
        qnt_status status = functions[steps->list[i].kind](ctx, &steps->list[i], pieces, &out);
        qnti_pieces_free(ctx, pieces);
        *pieces = out;
        QNT_TRY(status);
        if (out.text.bytes > limit)
            return qnti_fail(ctx, QNT_BAD_DATA, "step %zu makes %zu bytes of a text, more than %d times as many", i,
                             out.text.bytes, (int)MAX_GROWTH);
    }
    return QNT_OK;
}

qnt_status qnti_steps_add(qnt_context *ctx, const char *where, struct qnti_steps *steps, const struct qnti_step *step,
                          const char *pattern, size_t pattern_bytes, const char *content, size_t content_bytes)
{
    struct qnti_step *added = &steps->list[steps->count];
    if (steps->count == QNTI_MAX_STEPS)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: more than %d steps in a row", where, (int)QNTI_MAX_STEPS);
    if (content_bytes > MAX_CONTENT_BYTES)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: a text of %zu bytes to put in, at most %d are supported", where,
                         content_bytes, (int)MAX_CONTENT_BYTES);
    *added = *step;
    if (pattern)
        QNT_TRY(qnti_pattern_compile(ctx, where, pattern, pattern_bytes, step->pattern.literal, &added->pattern));
    steps->count++; /* from here on qnti_steps_free sees to it */
    if (content)
        QNT_TRY(qnti_copy_bytes(ctx, content, content_bytes, &added->content));
    added->content_bytes = content_bytes;
    return QNT_OK;
}

void qnti_steps_free(qnt_context *ctx, struct qnti_steps *steps)
{
    for (size_t i = 0; i < steps->count; i++) {
        qnti_free(ctx, steps->list[i].content);
        qnti_pattern_free(ctx, &steps->list[i].pattern);
    }
    steps->count = 0;
}

bool qnti_steps_have(const struct qnti_steps *steps, enum qnti_step_kind kind)
{
    for (size_t i = 0; i < steps->count; i++)
        if (steps->list[i].kind == kind)
            return true;
    return false;
}
