/*
 * ggml.c - the blocks of ggml: the table of types, codes to bytes and back.
 *
 * Fields are little-endian, a block has no padding. Scales are f16 as stored,
 * sign of zero included. Types without pack are known by size only, so that
 * files which hold them can be read around.
 */
#include "pack/ggml.h"

#include <string.h>
#include <strings.h>
#include "base/number.h"

enum {
    BLOCK = 32,    /* numbers of a plain block */
    SUPER = 256,   /* of a super-block */
    SUPER_RUN = 16 /* numbers that share a scale in a q6_k super-block */
};

static void put16(uint8_t *bytes, uint16_t v)
{
    bytes[0] = (uint8_t)v;
    bytes[1] = (uint8_t)(v >> 8);
}

static uint16_t get16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static void put32(uint8_t *bytes, uint32_t v)
{
    put16(bytes, (uint16_t)v);
    put16(bytes + 2, (uint16_t)(v >> 16));
}

static uint32_t get32(const uint8_t *bytes)
{
    return get16(bytes) | (uint32_t)get16(bytes + 2) << 16;
}

/* --- single numbers --- */

static float *number(const struct qnti_numbers *q, size_t row, size_t column)
{
    return &q->value[row * q->cols + column];
}

static void pack_f32(const struct qnti_numbers *q, size_t row, size_t block, uint8_t *bytes)
{
    put32(bytes, qnti_bits(*number(q, row, block)));
}

static void unpack_f32(const uint8_t *bytes, struct qnti_numbers *q, size_t row, size_t block)
{
    *number(q, row, block) = qnti_float(get32(bytes));
}

static void pack_f16(const struct qnti_numbers *q, size_t row, size_t block, uint8_t *bytes)
{
    put16(bytes, qnti_f32_to_f16(*number(q, row, block)));
}

static void unpack_f16(const uint8_t *bytes, struct qnti_numbers *q, size_t row, size_t block)
{
    *number(q, row, block) = qnti_f16_to_f32(get16(bytes));
}

static void pack_bf16(const struct qnti_numbers *q, size_t row, size_t block, uint8_t *bytes)
{
    put16(bytes, qnti_f32_to_bf16(*number(q, row, block)));
}

static void unpack_bf16(const uint8_t *bytes, struct qnti_numbers *q, size_t row, size_t block)
{
    *number(q, row, block) = qnti_bf16_to_f32(get16(bytes));
}

/* --- q4_0, q4_1, q5_0, q5_1: d, m if there are mins, fifth bits if there are, 16 bytes of nibbles --- */

static void pack_nibbles(const struct qnti_numbers *q, size_t row, size_t block, uint8_t *bytes)
{
    uint16_t code[BLOCK];
    uint32_t high = 0;
    qnti_numbers_get_codes(q, row, block * BLOCK, BLOCK, code);
    pack_f16(q->scale, row, block, bytes);
    bytes += 2;
    if (q->offset) {
        pack_f16(q->offset, row, block, bytes);
        bytes += 2;
    }
    if (q->grid.bits == 5) {
        for (size_t i = 0; i < BLOCK; i++)
            high |= (uint32_t)(code[i] >> 4) << i;
        put32(bytes, high);
        bytes += 4;
    }
    for (size_t i = 0; i < BLOCK / 2; i++)
        bytes[i] = (uint8_t)((code[i] & 15) | (code[i + BLOCK / 2] & 15) << 4);
}

static void unpack_nibbles(const uint8_t *bytes, struct qnti_numbers *q, size_t row, size_t block)
{
    uint16_t code[BLOCK];
    uint32_t high = 0;
    unpack_f16(bytes, q->scale, row, block);
    bytes += 2;
    if (q->offset) {
        unpack_f16(bytes, q->offset, row, block);
        bytes += 2;
    }
    if (q->grid.bits == 5) {
        high = get32(bytes);
        bytes += 4;
    }
    for (size_t i = 0; i < BLOCK; i++) {
        unsigned low = i < BLOCK / 2 ? bytes[i] & 15u : bytes[i - BLOCK / 2] >> 4;
        code[i] = (uint16_t)(low | (high >> i & 1) << 4);
    }
    qnti_numbers_put_codes(q, row, block * BLOCK, BLOCK, code);
}

/* --- q8_0: d, 32 signed bytes --- */

static void pack_q8_0(const struct qnti_numbers *q, size_t row, size_t block, uint8_t *bytes)
{
    uint16_t code[BLOCK];
    qnti_numbers_get_codes(q, row, block * BLOCK, BLOCK, code);
    pack_f16(q->scale, row, block, bytes);
    for (size_t i = 0; i < BLOCK; i++)
        bytes[2 + i] = (uint8_t)(code[i] ^ 0x80); /* code - 128 in two's complement */
}

static void unpack_q8_0(const uint8_t *bytes, struct qnti_numbers *q, size_t row, size_t block)
{
    uint16_t code[BLOCK];
    unpack_f16(bytes, q->scale, row, block);
    for (size_t i = 0; i < BLOCK; i++)
        code[i] = bytes[2 + i] ^ 0x80;
    qnti_numbers_put_codes(q, row, block * BLOCK, BLOCK, code);
}

/* --- q6_k: low nibbles [128], high bit pairs [64], signed scales [16], d --- */

enum { Q6_K_HIGH = 128, Q6_K_SCALES = 192, Q6_K_D = 208 };

/* Where number i of a q6_k block lies: its low nibble, its high bits. */
struct place {
    size_t low, high;
    unsigned low_shift, high_shift;
};

static struct place q6_k_place(size_t i)
{
    size_t half = i / 128, quarter = i % 128 / 32, l = i % 32;
    return (struct place){64 * half + 32 * (quarter % 2) + l, Q6_K_HIGH + 32 * half + l, quarter < 2 ? 0 : 4,
                          (unsigned)(2 * quarter)};
}

static void pack_q6_k(const struct qnti_numbers *q, size_t row, size_t block, uint8_t *bytes)
{
    enum { RUNS = SUPER / SUPER_RUN };
    uint16_t code[SUPER], scale[RUNS];
    qnti_numbers_get_codes(q, row, block * SUPER, SUPER, code);
    qnti_numbers_get_codes(q->scale, row, block * RUNS, RUNS, scale);
    memset(bytes, 0, Q6_K_SCALES);
    for (size_t i = 0; i < SUPER; i++) {
        struct place at = q6_k_place(i);
        bytes[at.low] |= (uint8_t)((code[i] & 15) << at.low_shift);
        bytes[at.high] |= (uint8_t)((code[i] >> 4) << at.high_shift);
    }
    for (size_t j = 0; j < RUNS; j++)
        bytes[Q6_K_SCALES + j] = (uint8_t)(scale[j] ^ 0x80);
    pack_f16(q->scale->scale, row, block, bytes + Q6_K_D);
}

static void unpack_q6_k(const uint8_t *bytes, struct qnti_numbers *q, size_t row, size_t block)
{
    enum { RUNS = SUPER / SUPER_RUN };
    uint16_t code[SUPER], scale[RUNS];
    float d = qnti_f16_to_f32(get16(bytes + Q6_K_D));
    for (size_t i = 0; i < SUPER; i++) {
        struct place at = q6_k_place(i);
        code[i] = (uint16_t)((bytes[at.low] >> at.low_shift & 15) | (bytes[at.high] >> at.high_shift & 3) << 4);
    }
    for (size_t j = 0; j < RUNS; j++) {
        scale[j] = bytes[Q6_K_SCALES + j] ^ 0x80;
        *number(q->scale, row, block * RUNS + j) = d * ((float)scale[j] - q->scale->grid.offset);
    }
    unpack_f16(bytes + Q6_K_D, q->scale->scale, row, block);
    qnti_numbers_put_codes(q, row, block * SUPER, SUPER, code);
    qnti_numbers_put_codes(q->scale, row, block * RUNS, RUNS, scale);
}

/* --- the types; 4, 5, 31 to 33, 36 to 38 are ids that ggml removed --- */

static const struct qnti_ggml_type types[] = {
    {"f32", 0, 1, 4, false, pack_f32, unpack_f32},
    {"f16", 1, 1, 2, false, pack_f16, unpack_f16},
    {"q4_0", 2, 32, 18, true, pack_nibbles, unpack_nibbles},
    {"q4_1", 3, 32, 20, true, pack_nibbles, unpack_nibbles},
    {"q5_0", 6, 32, 22, true, pack_nibbles, unpack_nibbles},
    {"q5_1", 7, 32, 24, true, pack_nibbles, unpack_nibbles},
    {"q8_0", 8, 32, 34, false, pack_q8_0, unpack_q8_0},
    {"q8_1", 9, 32, 36, false, NULL, NULL},
    {"q2_k", 10, 256, 84, true, NULL, NULL},
    {"q3_k", 11, 256, 110, true, NULL, NULL},
    {"q4_k", 12, 256, 144, true, NULL, NULL},
    {"q5_k", 13, 256, 176, true, NULL, NULL},
    {"q6_k", 14, 256, 210, true, pack_q6_k, unpack_q6_k},
    {"q8_k", 15, 256, 292, false, NULL, NULL},
    {"iq2_xxs", 16, 256, 66, true, NULL, NULL},
    {"iq2_xs", 17, 256, 74, true, NULL, NULL},
    {"iq3_xxs", 18, 256, 98, true, NULL, NULL},
    {"iq1_s", 19, 256, 50, true, NULL, NULL},
    {"iq4_nl", 20, 32, 18, true, NULL, NULL},
    {"iq3_s", 21, 256, 110, true, NULL, NULL},
    {"iq2_s", 22, 256, 82, true, NULL, NULL},
    {"iq4_xs", 23, 256, 136, true, NULL, NULL},
    {"i8", 24, 1, 1, false, NULL, NULL},
    {"i16", 25, 1, 2, false, NULL, NULL},
    {"i32", 26, 1, 4, false, NULL, NULL},
    {"i64", 27, 1, 8, false, NULL, NULL},
    {"f64", 28, 1, 8, false, NULL, NULL},
    {"iq1_m", 29, 256, 56, true, NULL, NULL},
    {"bf16", 30, 1, 2, false, pack_bf16, unpack_bf16},
    {"tq1_0", 34, 256, 54, false, NULL, NULL},
    {"tq2_0", 35, 256, 66, false, NULL, NULL},
    {"mxfp4", 39, 32, 17, false, NULL, NULL},
    {"nvfp4", 40, 64, 36, false, NULL, NULL},
    {"q1_0", 41, 128, 18, false, NULL, NULL},
    {"q2_0", 42, 64, 18, false, NULL, NULL},
};

const struct qnti_ggml_type *qnti_ggml_type_named(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcasecmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

const struct qnti_ggml_type *qnti_ggml_type_of(uint32_t id)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

bool qnti_ggml_type_size(uint32_t id, size_t *elements, size_t *bytes)
{
    const struct qnti_ggml_type *type = qnti_ggml_type_of(id);
    if (!type)
        return false;
    *elements = type->elements;
    *bytes = type->bytes;
    return true;
}
