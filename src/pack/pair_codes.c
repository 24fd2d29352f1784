/*
 * pair_codes.c - outlier-victim pairs in the bits of two codes: an identifier in the victim's place says which is wide.
 *
 * With b bits, B = b - 1 of them without the sign:
 *     identifier   1 0..0, which no normal level has
 *     integers     two's complement of level / (32 / 2^B)
 *     flint        sign, rank of the magnitude
 *     outliers     sign, 2 bits of exponent, b - 3 of mantissa: the rank of the magnitude above 32, from 1 on
 * A pair holds two normal codes, or the identifier and an outlier. A row of odd width ends with a zero of its own.
 * Levels without a sign (inputs only) leave no code for an identifier: their normal ones are ranks, others not stored.
 */
#include "pack/pair_codes.h"

#include "base/kernels.h"

static unsigned identifier(const struct qnti_grid *grid)
{
    return 1u << (grid->bits - 1);
}

/* Levels from 0 on, normal ones. */
static unsigned normal_ranks(const struct qnti_grid *grid)
{
    return grid->pairs.is_signed ? identifier(grid) : 1u << grid->bits;
}

struct ranked {
    unsigned rank;                       /* of the magnitude, that of 0 is 0 */
    bool below;                          /* 0 */
};

static struct ranked rank_of(const struct qnti_grid *grid, unsigned level)
{
    unsigned zero = qnti_pairs_zero(grid);
    return level < zero ? (struct ranked){zero - level, true} : (struct ranked){level - zero, false};
}

static bool is_wide(const struct qnti_grid *grid, unsigned level)
{
    return rank_of(grid, level).rank >= normal_ranks(grid);
}

static uint16_t code_of(const struct qnti_grid *grid, unsigned level)
{
    struct ranked r = rank_of(grid, level);
    unsigned sign = r.below ? identifier(grid) : 0;
    if (is_wide(grid, level))
        return (uint16_t)(sign | (r.rank - normal_ranks(grid) + 1));
    if (grid->pairs.flint)
        return (uint16_t)(sign | r.rank);
    return (uint16_t)((r.below ? 0u - r.rank : r.rank) & ((1u << grid->bits) - 1));
}

/* Of a code that is not the identifier; `wide`: the identifier stands beside it. */
static bool level_of(const struct qnti_grid *grid, unsigned code, bool wide, uint16_t *level)
{
    unsigned zero = qnti_pairs_zero(grid), rank = code;
    bool below = grid->pairs.is_signed && code > identifier(grid);
    if (below)
        rank = grid->pairs.flint || wide ? code - identifier(grid) : (1u << grid->bits) - code;
    if (wide && rank == 0)
        return false;
    rank += wide ? normal_ranks(grid) - 1 : 0;
    *level = (uint16_t)(below ? zero - rank : zero + rank);
    return true;
}

bool qnti_pair_encode(const struct qnti_grid *grid, const uint16_t level[2], uint16_t code[2])
{
    unsigned zero = qnti_pairs_zero(grid);
    for (size_t i = 0; i < 2; i++) {
        bool wide = is_wide(grid, level[i]), beside = is_wide(grid, level[1 - i]);
        if ((wide && !grid->pairs.is_signed) || (beside && level[i] != zero))
            return false;
        code[i] = beside ? (uint16_t)identifier(grid) : code_of(grid, level[i]);
    }
    return true;
}

bool qnti_pair_decode(const struct qnti_grid *grid, const uint16_t code[2], uint16_t level[2])
{
    for (size_t i = 0; i < 2; i++) {
        bool victim = grid->pairs.is_signed && code[i] == identifier(grid);
        bool wide = grid->pairs.is_signed && code[1 - i] == identifier(grid);
        if ((victim && wide) || (victim && !grid->pairs.outliers))
            return false;
        if (victim)
            level[i] = (uint16_t)qnti_pairs_zero(grid);
        else if (!level_of(grid, code[i], wide, &level[i]))
            return false;
    }
    return true;
}

/* --- a matrix --- */

enum { CHUNK = 4096 };                   /* codes: whole pairs, whole bytes at every width */

static size_t codes_of(const struct qnti_numbers *q)
{
    return q->rows * (q->cols + q->cols % 2);
}

size_t qnti_pair_codes_bytes(const struct qnti_numbers *q)
{
    return qnti_ceil_div(codes_of(q) * q->grid.bits, 8);
}

/* The numbers of the pair that code `at` of the stream begins; returns how many there are. */
static size_t place_of(const struct qnti_numbers *q, size_t at, size_t *r, size_t *c)
{
    size_t wide = q->cols + q->cols % 2;
    *r = at / wide;
    *c = at % wide;
    return qnti_min(2, q->cols - *c);
}

bool qnti_pair_codes_write(const struct qnti_numbers *q, uint8_t *bytes)
{
    size_t n = codes_of(q), r, c;
    uint16_t code[CHUNK], level[2];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done);
        for (size_t i = 0; i < run; i += 2) {
            size_t held = place_of(q, done + i, &r, &c);
            level[1] = (uint16_t)qnti_pairs_zero(&q->grid);
            qnti_numbers_get_codes(q, r, c, held, level);
            if (!qnti_pair_encode(&q->grid, level, code + i))
                return false;
        }
        q->grid.kernels->pack(run, q->grid.bits, code, bytes + done / 8 * q->grid.bits);
    }
    return true;
}

bool qnti_pair_codes_read(struct qnti_numbers *q, const uint8_t *bytes)
{
    size_t n = codes_of(q), r, c;
    uint16_t code[CHUNK], level[2];
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done);
        q->grid.kernels->unpack(run, q->grid.bits, bytes + done / 8 * q->grid.bits, code);
        for (size_t i = 0; i < run; i += 2) {
            size_t held = place_of(q, done + i, &r, &c);
            if (!qnti_pair_decode(&q->grid, code + i, level) ||
                (held < 2 && level[1] != qnti_pairs_zero(&q->grid)))
                return false;
            qnti_numbers_put_codes(q, r, c, held, level);
        }
    }
    return true;
}
