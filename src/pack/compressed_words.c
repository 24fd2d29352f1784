/*
 * compressed_words.c - compressed-tensors' words: codes of a row, and zeros of a column, as streams of bits.
 *
 * Code k of a row of weight_packed (out, ceil(in bits / 32)) stands at bits
 * [k bits, (k + 1) bits) of the row's little-endian words, whose last bits are
 * 0. weight_zero_point (ceil(out bits / 32), groups) has such streams down its
 * columns. (Versions before 2026 left the top bits of words unused at 3, 5, 6
 * and 7 bits: they have more words, and are refused by their number.)
 */
#include "base/kernels.h"
#include "base/number.h"
#include "pack/compressed.h"
#include "pack/words.h"

enum { RUN = 512, ROWS_PER_TASK = 16, MOST_BITS = 8 };   /* codes of a run: whole bytes at any width */

size_t qnti_ct_words(size_t n, unsigned bits)
{
    return n / 32 * bits + qnti_ceil_div(n % 32 * bits, 32);
}

unsigned qnti_ct_width(size_t n, size_t words)
{
    unsigned found = 0, count = 0;
    for (unsigned bits = 1; bits <= MOST_BITS; bits++)
        if (qnti_ct_words(n, bits) == words) {
            found = bits;
            count++;
        }
    if (count > 1) /* fewer than 32 codes */
        found = qnti_ct_words(n, 4) == words ? 4 : qnti_ct_words(n, MOST_BITS) == words ? MOST_BITS : 0;
    return found;
}

struct rows {
    const struct qnti_kernels *kernels;
    struct qnti_numbers *w;
    uint8_t *bytes;
    bool unpack;
};

static void one_row(const struct rows *t, size_t r)
{
    size_t cols = t->w->cols, row = 4 * qnti_ct_words(cols, t->w->grid.bits);
    uint8_t *bytes = t->bytes + r * row;
    uint16_t code[RUN];
    for (size_t c = 0; c < cols; c += RUN) {
        size_t n = qnti_min(RUN, cols - c);
        uint8_t *at = bytes + c / 8 * t->w->grid.bits;
        if (t->unpack) {
            t->kernels->unpack(n, t->w->grid.bits, at, code);
            qnti_numbers_put_codes(t->w, r, c, n, code);
        } else {
            qnti_numbers_get_codes(t->w, r, c, n, code);
            t->kernels->pack(n, t->w->grid.bits, code, at);
        }
    }
    if (!t->unpack) {
        size_t used = cols / 8 * t->w->grid.bits + qnti_ceil_div(cols % 8 * t->w->grid.bits, 8);
        memset(bytes + used, 0, row - used);
    }
}

static qnt_status some_rows(void *arg, size_t index)
{
    const struct rows *t = arg;
    for (size_t r = index * ROWS_PER_TASK; r < qnti_min(t->w->rows, (index + 1) * ROWS_PER_TASK); r++)
        one_row(t, r);
    return QNT_OK;
}

static qnt_status all_rows(qnt_context *ctx, struct rows *t)
{
    t->kernels = qnti_context_kernels(ctx);
    return qnti_parallel(ctx, qnti_ceil_div(t->w->rows, ROWS_PER_TASK), some_rows, t);
}

qnt_status qnti_ct_pack_codes(const struct qnti_numbers *w, qnt_context *ctx, uint8_t *bytes)
{
    return all_rows(ctx, &(struct rows){.w = (struct qnti_numbers *)(uintptr_t)w, .bytes = bytes});
}

qnt_status qnti_ct_unpack_codes(const uint8_t *bytes, qnt_context *ctx, struct qnti_numbers *w)
{
    return all_rows(ctx, &(struct rows){.w = w, .bytes = (uint8_t *)(uintptr_t)bytes, .unpack = true});
}

/* A group's zeros between numbers and the stream of its column. */
static qnt_status zeros(qnt_context *ctx, const struct qnti_numbers *w, uint8_t *bytes, bool unpack)
{
    const struct qnti_kernels *k = qnti_context_kernels(ctx);
    size_t rows = w->offset->rows, groups = w->offset->cols, words = qnti_ct_words(rows, w->grid.bits);
    uint16_t *code = NULL;
    uint8_t *stream = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW(ctx, rows, &code));
    QNT_CHECK(QNTI_NEW(ctx, 4 * words, &stream));
    for (size_t g = 0; g < groups; g++) {
        for (size_t j = 0; unpack && j < words; j++)
            memcpy(stream + 4 * j, bytes + 4 * (j * groups + g), 4);
        if (unpack)
            k->unpack(rows, w->grid.bits, stream, code);
        for (size_t r = 0; r < rows; r++) {
            float *zero = &w->offset->value[r * groups + g];
            if (unpack)
                *zero = (float)code[r];
            else
                code[r] = (uint16_t)*zero;
        }
        if (!unpack)
            k->pack(rows, w->grid.bits, code, stream);
        for (size_t j = 0; !unpack && j < words; j++)
            memcpy(bytes + 4 * (j * groups + g), stream + 4 * j, 4);
    }
cleanup:
    qnti_free(ctx, code);
    qnti_free(ctx, stream);
    return status;
}

qnt_status qnti_ct_pack_zeros(const struct qnti_numbers *w, qnt_context *ctx, uint8_t *bytes)
{
    return zeros(ctx, w, bytes, false);
}

qnt_status qnti_ct_unpack_zeros(const uint8_t *bytes, qnt_context *ctx, struct qnti_numbers *w)
{
    return zeros(ctx, w, (uint8_t *)(uintptr_t)bytes, true);
}
