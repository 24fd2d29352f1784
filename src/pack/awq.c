/*
 * awq.c - AWQ's tensors in GEMM order: qweight, qzeros, scales.
 *
 * Word c of an input's row of qweight (in, out / 8) holds outputs 8 c .. 8 c + 7,
 * nibble i that of output 8 c + {0, 2, 4, 6, 1, 3, 5, 7}[i]; qzeros
 * (groups, out / 8) likewise. A byte of a word is thus two whole rows side by
 * side, and a tile is worked on as bytes of rows.
 */
#include "base/kernels.h"
#include "base/number.h"
#include "pack/words.h"

enum {
    TILE_WORDS = 16,               /* words of a row that a task works on: a cache line */
    TILE = 8 * TILE_WORDS,         /* outputs of them */
    RUN = 512                      /* inputs at a time */
};

/* Outputs whose codes are the low and the high nibble of each byte of a word. */
static const unsigned char low[4] = {0, 4, 1, 5}, high[4] = {2, 6, 3, 7};

/* Words of RUN inputs, one row an input. */
typedef uint32_t tile_words[RUN][TILE_WORDS];

/* Column c of the words of n inputs from 8 rows of codes. */
static void join(const uint8_t *code, size_t in, size_t n, size_t c, tile_words words)
{
    uint8_t byte[4][RUN];
    for (size_t i = 0; i < n; i += 64) /* the next column's rows: runs are too short for the hardware to notice */
        for (size_t r = 8; r < 16; r++)
            __builtin_prefetch(code + r * in + i);
    for (size_t k = 0; k < 4; k++) {
        const uint8_t *a = code + low[k] * in, *b = code + high[k] * in;
        for (size_t i = 0; i < n; i++)
            byte[k][i] = (uint8_t)(a[i] | b[i] << 4);
    }
    for (size_t i = 0; i < n; i++)
        words[i][c] = htole32((uint32_t)byte[0][i] | (uint32_t)byte[1][i] << 8 | (uint32_t)byte[2][i] << 16 |
                              (uint32_t)byte[3][i] << 24);
}

static void part(tile_words words, size_t c, size_t in, size_t n, uint8_t *code)
{
    uint8_t byte[4][RUN];
    for (size_t i = 0; i < n; i++) {
        uint32_t word = le32toh(words[i][c]);
        for (size_t k = 0; k < 4; k++)
            byte[k][i] = (uint8_t)(word >> 8 * k);
    }
    for (size_t k = 0; k < 4; k++) {
        uint8_t *a = code + low[k] * in, *b = code + high[k] * in;
        for (size_t i = 0; i < n; i++) {
            a[i] = byte[k][i] & 15;
            b[i] = byte[k][i] >> 4;
        }
    }
}

/* Words of n outputs; a copy of constant length is a few moves. */
static inline void copy_words(void *to, const void *from, size_t n)
{
    if (n == TILE)
        memcpy(to, from, TILE / 2);
    else
        memcpy(to, from, n / 2);
}

static void tile_codes(const struct qnti_words *w, size_t first, size_t n, bool unpack)
{
    tile_words words;
    size_t row = w->out / 2;   /* bytes of qweight */
    for (size_t i = 0; i < w->in; i += RUN) {
        size_t run = qnti_min(RUN, w->in - i);
        uint8_t *stored = w->weight + i * row + first / 2;
        for (size_t k = 0; unpack && k < run; k++)
            copy_words(words[k], stored + k * row, n);
        for (size_t c = 0; c < n / 8; c++) {
            uint8_t *code = w->q->code8 + (first + 8 * c) * w->in + i;
            if (unpack)
                part(words, c, w->in, run, code);
            else
                join(code, w->in, run, c, words);
        }
        for (size_t k = 0; !unpack && k < run; k++)
            copy_words(stored + k * row, words[k], n);
    }
}

static void pack_zeros(const struct qnti_words *w, size_t g, size_t first, size_t n)
{
    uint8_t *bytes = w->zeros + (g * w->out + first) / 2;
    uint16_t zero[TILE];
    qnti_words_get_zeros(w, g, first, n, zero);
    for (size_t i = 0; i < n / 2; i++) {
        const uint16_t *eight = zero + i / 4 * 8;
        bytes[i] = (uint8_t)(eight[low[i % 4]] | eight[high[i % 4]] << 4);
    }
}

static void unpack_zeros(const struct qnti_words *w, size_t g, size_t first, size_t n)
{
    const uint8_t *bytes = w->zeros + (g * w->out + first) / 2;
    uint16_t zero[TILE];
    for (size_t i = 0; i < n / 2; i++) {
        uint16_t *eight = zero + i / 4 * 8;
        eight[low[i % 4]] = bytes[i] & 15;
        eight[high[i % 4]] = bytes[i] >> 4;
    }
    qnti_words_put_zeros(w, g, first, n, zero);
}

static qnt_status pack_tile(void *arg, size_t index)
{
    const struct qnti_words *w = arg;
    size_t first = index * TILE, n = qnti_min(TILE, w->out - first);
    tile_codes(w, first, n, false);
    qnti_words_pack_scales(w, first, n);
    for (size_t g = 0; g < w->groups; g++)
        pack_zeros(w, g, first, n);
    return QNT_OK;
}

static qnt_status unpack_tile(void *arg, size_t index)
{
    const struct qnti_words *w = arg;
    size_t first = index * TILE, n = qnti_min(TILE, w->out - first);
    tile_codes(w, first, n, true);
    qnti_words_unpack_scales(w, first, n);
    for (size_t g = 0; g < w->groups; g++)
        unpack_zeros(w, g, first, n);
    return QNT_OK;
}

/* --- packing --- */

enum { QWEIGHT, QZEROS, SCALES, BIAS };

static qnt_status tensors_of(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                             size_t *count)
{
    size_t groups = q->segments[0].weight->scale->cols;
    tensors[QWEIGHT] = (qnt_packed_tensor){.name = "qweight", .dtype = QNT_I32, .rank = 2,
                                           .shape = {q->in, q->out / 8}};
    tensors[QZEROS] = (qnt_packed_tensor){.name = "qzeros", .dtype = QNT_I32, .rank = 2,
                                          .shape = {groups, q->out / 8}};
    *count = SCALES;
    qnti_words_common_tensors(layout, q, tensors, count);
    return QNT_OK;
}

static qnt_status pack(const struct qnti_layout *layout, const qnt_qlinear *q, uint8_t *const *data)
{
    struct qnti_words w = qnti_words_of(layout, q);
    w.weight = data[QWEIGHT];
    w.zeros = data[QZEROS];
    w.scales = data[SCALES];
    if (q->bias)
        qnti_words_pack_bias(q, data[BIAS]);
    return qnti_parallel(q->ctx, qnti_ceil_div(w.out, TILE), pack_tile, &w);
}

/* --- unpacking --- */

static qnt_status read_sizes(const struct qnti_tensor_set *set, struct qnti_words *w)
{
    const qnt_packed_tensor *weight, *zeros;
    QNT_TRY(qnti_set_words(set, "qweight", &weight, &w->weight));
    QNT_TRY(qnti_set_words(set, "qzeros", &zeros, &w->zeros));
    w->in = weight->shape[0];
    if (!qnti_multiply(weight->shape[1], 8, &w->out))
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: qweight of %zu columns", set->layer, weight->shape[1]);
    QNT_TRY(qnti_set_scales(set, w));
    if (zeros->shape[0] != w->groups || zeros->shape[1] != weight->shape[1] || w->in % w->groups)
        return qnti_fail(set->ctx, QNT_BAD_DATA,
                         "layer %s: qweight (%zu, %zu), qzeros (%zu, %zu) and scales of %zu groups do not fit together",
                         set->layer, w->in, weight->shape[1], zeros->shape[0], zeros->shape[1], w->groups);
    return QNT_OK;
}

static qnt_status unpack(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                         const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count, qnt_qlinear **out)
{
    struct qnti_words w = {.kernels = qnti_context_kernels(ctx), .bits = 4, .least_zero = layout->limits->least_zero};
    struct qnti_tensor_set set = {ctx, name, tensors, data, count};
    struct qnti_map map = {.kind = QNTI_MAP_TILES, .rows = 1};
    qnt_qlinear *q = NULL;
    qnt_status status;
    QNT_CHECK(read_sizes(&set, &w));
    map.cols = w.groups == 1 ? 0 : w.in / w.groups;
    QNT_CHECK(qnti_set_create(&set, &w, &map, &q));
    QNT_CHECK(qnti_parallel(ctx, qnti_ceil_div(w.out, TILE), unpack_tile, &w));
    qnti_words_settle_zeros(ctx, w.q);
    *out = q;
    q = NULL;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

const struct qnti_packer qnti_awq_packer = {.tensors = tensors_of, .pack = pack, .unpack = unpack};
