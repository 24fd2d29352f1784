/*
 * gptq.c - GPTQ's tensors: qweight, qzeros, scales, g_idx.
 *
 * Code k of a column of qweight (in * bits / 32, out) occupies bits
 * [k bits, (k + 1) bits) of the column's stream of little-endian words, codes
 * running along the inputs; so do the zeros along a row of qzeros (groups,
 * out * bits / 32). Version 1 stores zeros less 1, version 2 as they are.
 * g_idx gives the group of each input. Planar files (gptq_p) are another
 * layout.
 *
 * 32 codes are `bits` words, for any width. Eight codes are squeezed into
 * 8 * bits bits of a 64-bit number in three steps: pairs, fours, all.
 */
#include "base/kernels.h"
#include "base/number.h"
#include "pack/words.h"

enum {
    TILE = 64,   /* outputs of a task: a few cache lines in each row of words */
    RUN = 512,   /* inputs at a time */
    AHEAD = 4    /* rows whose codes are asked for before their turn: a run is too short for the hardware to notice */
};

/* --- eight codes in a number --- */

/* The low n bits of each lane of `lane` bits. */
static inline uint64_t low(unsigned lane, unsigned n)
{
    return UINT64_MAX / (UINT64_MAX >> (64 - lane)) * (UINT64_MAX >> (64 - n));
}

static inline uint64_t squeeze(uint64_t x, unsigned bits)
{
    x = (x | x >> (8 - bits)) & low(16, 2 * bits);
    x = (x | x >> (16 - 2 * bits)) & low(32, 4 * bits);
    return (x | x >> (32 - 4 * bits)) & low(64, 8 * bits);
}

static inline uint64_t spread(uint64_t x, unsigned bits)
{
    x = (x | x << (32 - 4 * bits)) & low(32, 4 * bits);
    x = (x | x << (16 - 2 * bits)) & low(16, 2 * bits);
    return (x | x << (8 - bits)) & low(8, bits);
}

/* --- 32 codes and `bits` words; bits is a constant where these are called --- */

static inline void pack32(unsigned bits, const uint8_t *code, uint32_t *words)
{
    uint64_t c[5] = {0};
    for (size_t k = 0; k < 4; k++) {
        uint64_t eight;
        memcpy(&eight, code + 8 * k, sizeof eight);
        c[k] = squeeze(le64toh(eight), bits);
    }
    for (unsigned j = 0; j < bits; j++) { /* bits 32 j .. 32 j + 31 of the stream */
        unsigned k = 32 * j / (8 * bits), s = 32 * j % (8 * bits), have = 8 * bits - s;
        uint64_t word = c[k] >> s;
        if (have < 32)
            word |= c[k + 1] << have;
        words[j] = (uint32_t)word;
    }
}

static inline void unpack32(unsigned bits, const uint32_t *words, uint8_t *code)
{
    for (unsigned k = 0; k < 4; k++) {
        unsigned j = 8 * bits * k / 32, s = 8 * bits * k % 32;
        uint64_t eight = words[j] | (uint64_t)(j + 1 < bits ? words[j + 1] : 0) << 32;
        eight = htole64(spread(eight >> s & low(64, 8 * bits), bits));
        memcpy(code + 8 * k, &eight, sizeof eight);
    }
}

/*
 * A run of inputs of n outputs: all 32 codes of `row` inputs that follow each other go into the columns of `tile`, or
 * come from there. `bits` is a constant in each call, so that shifts and masks are.
 */
typedef uint32_t tile_rows[RUN / 32 * 8][TILE];

static inline void pack_run(unsigned bits, const struct qnti_words *w, const uint8_t *code, size_t run, size_t n,
                            tile_rows tile)
{
    uint32_t words[8];
    for (size_t o = 0; o < n; o++)
        for (size_t k = 0; k < run; k++) {
            __builtin_prefetch(code + (o + AHEAD) * w->in + 32 * k);
            pack32(bits, code + o * w->in + 32 * k, words);
            for (unsigned j = 0; j < bits; j++)
                tile[k * bits + j][o] = htole32(words[j]);
        }
}

static inline void unpack_run(unsigned bits, const struct qnti_words *w, uint8_t *code, size_t run, size_t n,
                              tile_rows tile)
{
    uint32_t words[8];
    for (size_t o = 0; o < n; o++)
        for (size_t k = 0; k < run; k++) {
            for (unsigned j = 0; j < bits; j++)
                words[j] = le32toh(tile[k * bits + j][o]);
            unpack32(bits, words, code + o * w->in + 32 * k);
        }
}

static void run_of_width(const struct qnti_words *w, uint8_t *code, size_t run, size_t n, bool unpack, tile_rows tile)
{
    switch (w->bits) {
    case 2:
        unpack ? unpack_run(2, w, code, run, n, tile) : pack_run(2, w, code, run, n, tile);
        return;
    case 3:
        unpack ? unpack_run(3, w, code, run, n, tile) : pack_run(3, w, code, run, n, tile);
        return;
    case 4:
        unpack ? unpack_run(4, w, code, run, n, tile) : pack_run(4, w, code, run, n, tile);
        return;
    case 8:
        unpack ? unpack_run(8, w, code, run, n, tile) : pack_run(8, w, code, run, n, tile);
        return;
    }
}

/* A copy of constant length is a few moves. */
static inline void copy_words(void *to, const void *from, size_t n)
{
    if (n == TILE)
        memcpy(to, from, 4 * TILE);
    else
        memcpy(to, from, 4 * n);
}

/* Codes of outputs [first, first + n); rows of codes and of words are read and written in order. */
static void tile_codes(const struct qnti_words *w, size_t first, size_t n, bool unpack)
{
    tile_rows tile;
    size_t row = 4 * w->out;
    for (size_t i = 0; i < w->in; i += RUN) {
        size_t run = qnti_min(RUN, w->in - i) / 32, rows = run * w->bits;
        uint8_t *code = w->q->code8 + first * w->in + i, *stored = w->weight + i / 32 * w->bits * row + 4 * first;
        for (size_t r = 0; unpack && r < rows; r++)
            copy_words(tile[r], stored + r * row, n);
        run_of_width(w, code, run, n, unpack, tile);
        for (size_t r = 0; !unpack && r < rows; r++)
            copy_words(stored + r * row, tile[r], n);
    }
}

/* Where the zeros of outputs from `first` on stand; a multiple of 32. */
static uint8_t *zeros_at(const struct qnti_words *w, size_t g, size_t first)
{
    return w->zeros + 4 * ((g * w->out + first) / 32 * w->bits);
}

static qnt_status pack_tile(void *arg, size_t index)
{
    const struct qnti_words *w = arg;
    size_t first = index * TILE, n = qnti_min(TILE, w->out - first);
    uint16_t zero[TILE];
    tile_codes(w, first, n, false);
    qnti_words_pack_scales(w, first, n);
    for (size_t g = 0; g < w->groups; g++) {
        qnti_words_get_zeros(w, g, first, n, zero);
        w->kernels->pack(n, w->bits, zero, zeros_at(w, g, first));
    }
    return QNT_OK;
}

static qnt_status unpack_tile(void *arg, size_t index)
{
    const struct qnti_words *w = arg;
    size_t first = index * TILE, n = qnti_min(TILE, w->out - first);
    uint16_t zero[TILE];
    tile_codes(w, first, n, true);
    qnti_words_unpack_scales(w, first, n);
    for (size_t g = 0; g < w->groups; g++) {
        w->kernels->unpack(n, w->bits, zeros_at(w, g, first), zero);
        qnti_words_put_zeros(w, g, first, n, zero);
    }
    return QNT_OK;
}

/* --- packing --- */

enum { QWEIGHT, QZEROS, G_IDX, SCALES, BIAS };

static qnt_status tensors_of(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                             size_t *count)
{
    struct qnti_words w = qnti_words_of(layout, q);
    tensors[QWEIGHT] = (qnt_packed_tensor){.name = "qweight", .dtype = QNT_I32, .rank = 2,
                                           .shape = {w.in / 32 * w.bits, w.out}};
    tensors[QZEROS] = (qnt_packed_tensor){.name = "qzeros", .dtype = QNT_I32, .rank = 2,
                                          .shape = {w.groups, w.out / 32 * w.bits}};
    tensors[G_IDX] = (qnt_packed_tensor){.name = "g_idx", .dtype = QNT_I32, .rank = 1, .shape = {w.in, 0}};
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
    for (size_t i = 0; i < w.in; i++) {
        size_t row, group;
        qnti_map_find(&w.q->grid.map, w.in, 0, i, &row, &group);
        qnti_store32(data[G_IDX] + 4 * i, (uint32_t)group);
    }
    if (q->bias)
        qnti_words_pack_bias(q, data[BIAS]);
    return qnti_parallel(q->ctx, qnti_ceil_div(w.out, TILE), pack_tile, &w);
}

/* --- unpacking --- */

/* Width from qzeros, inputs from qweight. */
static qnt_status read_sizes(const struct qnti_tensor_set *set, const struct qnti_layout *layout, struct qnti_words *w)
{
    const qnt_packed_tensor *weight, *zeros;
    size_t bits;
    QNT_TRY(qnti_set_words(set, "qweight", &weight, &w->weight));
    QNT_TRY(qnti_set_words(set, "qzeros", &zeros, &w->zeros));
    w->out = weight->shape[1];
    QNT_TRY(qnti_set_scales(set, w));
    bits = w->out % 32 == 0 && zeros->shape[1] % (w->out / 32) == 0 ? zeros->shape[1] / (w->out / 32) : 0;
    if (bits == 0 || bits > 8 || !(layout->limits->widths >> bits & 1) || weight->shape[0] % bits)
        return qnti_fail(set->ctx, QNT_BAD_DATA,
                         "layer %s: qweight (%zu, %zu) and qzeros (%zu, %zu) are of no width of 2, 3, 4 or 8 bits, in "
                         "multiples of 32", set->layer, weight->shape[0], w->out, zeros->shape[0], zeros->shape[1]);
    w->bits = (unsigned)bits;
    if (zeros->shape[0] != w->groups || !qnti_multiply(weight->shape[0] / bits, 32, &w->in))
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: qzeros of %zu groups, scales of %zu", set->layer,
                         zeros->shape[0], w->groups);
    return QNT_OK;
}

static qnt_status read_index(const struct qnti_tensor_set *set, struct qnti_words *w)
{
    const uint8_t *bytes;
    const qnt_packed_tensor *t = qnti_set_find(set, "g_idx", &bytes);
    w->index = bytes;
    if (!t)
        return QNT_OK;
    if (t->dtype != QNT_I32 || t->rank != 1 || t->shape[0] != w->in)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: g_idx is %s of %zu, expected %zu of I32", set->layer,
                         qnti_dtype_name(t->dtype), t->shape[0], w->in);
    for (size_t i = 0; i < w->in; i++)
        if (qnti_load32(bytes + 4 * i) >= w->groups)
            return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: g_idx has group %d at input %zu, expected 0 to %zu",
                             set->layer, (int)qnti_load32(bytes + 4 * i), i, w->groups - 1);
    return QNT_OK;
}

/* Columns of a group where groups are runs of equal length, the last one shorter; 0: they are not. */
static size_t run_length(const struct qnti_words *w)
{
    size_t size = 1;
    if (!w->index)
        return w->groups == 1 ? w->in : 0;
    while (size < w->in && qnti_load32(w->index + 4 * size) == 0)
        size++;
    for (size_t i = 0; i < w->in; i++)
        if (qnti_load32(w->index + 4 * i) != i / size)
            return 0;
    return qnti_ceil_div(w->in, size) == w->groups ? size : 0;
}

static qnt_status make_map(const struct qnti_tensor_set *set, const struct qnti_words *w, struct qnti_map *map,
                           uint32_t **index)
{
    size_t size = run_length(w);
    *index = NULL;
    *map = (struct qnti_map){.kind = QNTI_MAP_TILES, .rows = 1, .cols = w->groups == 1 ? 0 : size};
    if (size)
        return QNT_OK;
    if (!w->index)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: has %zu groups and no tensor g_idx", set->layer,
                         w->groups);
    QNT_TRY(QNTI_NEW_RAW(set->ctx, w->in, index));
    for (size_t i = 0; i < w->in; i++)
        (*index)[i] = qnti_load32(w->index + 4 * i);
    *map = (struct qnti_map){QNTI_MAP_INDEX, 1, qnti_ceil_div(w->in, w->groups), *index, w->groups};
    return QNT_OK;
}

static qnt_status unpack(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                         const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count, qnt_qlinear **out)
{
    struct qnti_words w = {.kernels = qnti_context_kernels(ctx), .least_zero = layout->limits->least_zero};
    struct qnti_tensor_set set = {ctx, name, tensors, data, count};
    struct qnti_map map;
    uint32_t *index = NULL;
    qnt_qlinear *q = NULL;
    qnt_status status;
    if (layout->symmetric)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "layer %s: format %s is of two versions, gptq:v1 and gptq:v2", name,
                         layout->name);
    QNT_CHECK(read_sizes(&set, layout, &w));
    QNT_CHECK(read_index(&set, &w));
    QNT_CHECK(make_map(&set, &w, &map, &index));
    QNT_CHECK(qnti_set_create(&set, &w, &map, &q));
    QNT_CHECK(qnti_parallel(ctx, qnti_ceil_div(w.out, TILE), unpack_tile, &w));
    qnti_words_settle_zeros(ctx, w.q);
    *out = q;
    q = NULL;
cleanup:
    qnti_free(ctx, index);
    qnt_qlinear_destroy(q);
    return status;
}

const struct qnti_packer qnti_gptq_packer = {.tensors = tensors_of, .pack = pack, .unpack = unpack};
