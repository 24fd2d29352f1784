/*
 * bytes.c - steps between bytes and characters.
 *
 * The byte-level alphabet (GPT-2): bytes 21-7E, A1-AC, AE-FF stand for the characters of the same number, the other 68,
 * ascending, for U+0100, U+0101 ... Byte pieces (SentencePiece) are spelled "<0xXX>".
 */
#include "text/steps.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "text/utf8.h"

enum { ALPHABET_END = 0x100 + 68, BYTE_PIECE_BYTES = 6 };

struct alphabet {
    uint16_t character[256];
    int16_t byte[ALPHABET_END]; /* -1: not in the alphabet */
};

static void make_alphabet(struct alphabet *a)
{
    unsigned next = 0x100;
    memset(a->byte, -1, sizeof a->byte);
    for (unsigned b = 0; b < 256; b++) {
        bool same = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
        a->character[b] = (uint16_t)(same ? b : next++);
        a->byte[a->character[b]] = (int16_t)b;
    }
}

qnt_status qnti_step_bytes(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                           struct qnti_pieces *out)
{
    struct alphabet a;
    char character[4];
    size_t bytes;
    (void)step;
    make_alphabet(&a);
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        for (size_t k = 0; k < bytes; k++) {
            size_t n = qnti_utf8_put(a.character[(unsigned char)text[k]], character);
            QNT_TRY(qnti_buffer_add(ctx, &out->text, character, n));
        }
        QNT_TRY(qnti_pieces_end(ctx, out));
    }
    return QNT_OK;
}

/* A piece with a character outside the alphabet stands for itself. */
static qnt_status unbytes_piece(qnt_context *ctx, const struct alphabet *a, const char *text, size_t bytes,
                                struct qnti_buffer *out)
{
    size_t before = out->bytes;
    uint32_t code;
    for (size_t at = 0; at < bytes;) {
        char byte;
        at += qnti_utf8_next(text + at, bytes - at, &code);
        if (code >= ALPHABET_END || a->byte[code] < 0) {
            out->bytes = before;
            return qnti_buffer_add(ctx, out, text, bytes);
        }
        byte = (char)a->byte[code];
        QNT_TRY(qnti_buffer_add(ctx, out, &byte, 1));
    }
    return QNT_OK;
}

qnt_status qnti_step_unbytes(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                             struct qnti_pieces *out)
{
    struct qnti_buffer raw = {0};
    struct alphabet a;
    qnt_status status = QNT_OK;
    size_t bytes;
    (void)step;
    make_alphabet(&a);
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        QNT_CHECK(unbytes_piece(ctx, &a, text, bytes, &raw));
    }
    QNT_CHECK(qnti_utf8_clean(ctx, raw.data, raw.bytes, false, &out->text));
    QNT_CHECK(qnti_pieces_end(ctx, out));
cleanup:
    qnti_buffer_free(ctx, &raw);
    return status;
}

static bool byte_of_piece(const char *text, size_t bytes, char *byte)
{
    char digits[3] = {0};
    if (bytes != BYTE_PIECE_BYTES || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return false;
    memcpy(digits, text + 3, 2);
    if (!isxdigit((unsigned char)digits[0]) || !isxdigit((unsigned char)digits[1]))
        return false;
    *byte = (char)strtoul(digits, NULL, 16);
    return true;
}

/* The tokenizers library gives up a run that is not valid as a whole; SentencePiece keeps its valid parts. */
static qnt_status end_run(qnt_context *ctx, const struct qnti_step *step, struct qnti_buffer *run,
                          struct qnti_pieces *out)
{
    if (step->each_byte || qnti_utf8_valid(run->data, run->bytes))
        QNT_TRY(qnti_utf8_clean(ctx, run->data, run->bytes, true, &out->text));
    else
        for (size_t i = 0; i < run->bytes; i++)
            QNT_TRY(qnti_buffer_add(ctx, &out->text, "\xEF\xBF\xBD", 3));
    run->bytes = 0;
    return qnti_pieces_end(ctx, out);
}

qnt_status qnti_step_byte_pieces(qnt_context *ctx, const struct qnti_step *step, const struct qnti_pieces *in,
                                 struct qnti_pieces *out)
{
    struct qnti_buffer run = {0};
    qnt_status status = QNT_OK;
    size_t bytes;
    char byte;
    for (size_t i = 0; i < qnti_pieces_count(in); i++) {
        const char *text = qnti_piece(in, i, &bytes);
        if (byte_of_piece(text, bytes, &byte)) {
            QNT_CHECK(qnti_buffer_add(ctx, &run, &byte, 1));
            continue;
        }
        if (run.bytes)
            QNT_CHECK(end_run(ctx, step, &run, out));
        QNT_CHECK(qnti_pieces_add(ctx, out, text, bytes));
    }
    if (run.bytes)
        QNT_CHECK(end_run(ctx, step, &run, out));
cleanup:
    qnti_buffer_free(ctx, &run);
    return status;
}
