/*
 * qlinear_support.h - a layer with every part that a quantized layer can have, for the tests of qlinear and native.
 */
#ifndef QLINEAR_SUPPORT_H
#define QLINEAR_SUPPORT_H

#include "layer_support.h"
#include "base/kernels.h"
#include "base/number.h"
#include "qlinear/qlinear.h"

enum { FULL_OUT = 10, FULL_IN = 24, FULL_CUT = 16, FULL_RANK = 2, FULL_BLOCK = 12, FULL_SMALL = 3 };

/* What a layer is to have, beside a main segment of 4 bits in groups of 8. */
enum full_parts {
    FULL_SECOND = 1,        /* a second segment: plain f16 */
    FULL_SECOND_CODES = 2,  /* a second segment: codes of 5 bits with minima */
    FULL_SPARSE = 4,
    FULL_LOWRANK = 8,
    FULL_SCALE = 16,        /* scale and shift */
    FULL_PERMUTATION = 32,
    FULL_ROTATION = 64,
    FULL_ACT = 128,         /* per token, 8 bits */
    FULL_SEGMENT_ACT = 256, /* the second segment's own: static, 6 bits */
    FULL_BIAS = 512,
    FULL_COPY = 1024,       /* an f16 copy of all weights, with a threshold of the activations */
    FULL_OUTPUT = 2048,
    FULL_CODEBOOK = 4096,   /* the main segment on a codebook for each row */
    FULL_INDEX = 8192,      /* groups of the main segment by index */
    FULL_STATIC = 16384,    /* the activation quantizer is static */
    FULL_PAIRS = 32768      /* the main segment, and a static activation quantizer, on outlier-victim pairs */
};

static inline struct qnti_grid affine_of(qnt_context *ctx, unsigned bits, size_t size)
{
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(ctx), bits, size, QNT_F16);
    grid.integer_offset = true;
    return grid;
}

static inline struct qnti_grid pairs_of(qnt_context *ctx, unsigned bits, bool flint, size_t size, qnt_dtype type)
{
    static float table[2][QNTI_PAIRS_MOST_BITS + 1][QNTI_PAIRS_MOST_LEVELS];   /* the same whenever it is written */
    struct qnti_pairs pairs = {.flint = flint, .is_signed = true, .outliers = true};
    return qnti_pairs_grid(qnti_context_kernels(ctx), bits, pairs, size, type, table[flint][bits]);
}

static inline struct qnti_grid full_main_grid(qnt_context *ctx, unsigned parts)
{
    static const uint32_t index[FULL_IN] = {0, 1, 2, 0, 1, 2, 1, 1, 2, 0, 2, 2, 0, 0, 1, 2};
    struct qnti_grid grid = affine_of(ctx, 4, 8);
    if (parts & FULL_PAIRS)
        return pairs_of(ctx, 4, true, 8, QNT_F16);
    if (parts & FULL_INDEX)
        grid.map = (struct qnti_map){QNTI_MAP_INDEX, 1, 0, index, 3};
    if (parts & FULL_CODEBOOK) {
        grid.form = QNTI_FORM_CODEBOOK;
        grid.integer_offset = false;
        grid.constant_offset = true;
        grid.codebook_size = 16;
        grid.codebook_per_row = true;
    }
    return grid;
}

/* Of a pair with an outlier one number, in turn the first and the second, becomes the victim. */
static inline void settle_pairs(struct qnti_numbers *q)
{
    uint16_t pair[2], zero = (uint16_t)qnti_pairs_zero(&q->grid);
    for (size_t r = 0; r < q->rows; r++)
        for (size_t c = 0; c + 1 < q->cols; c += 2) {
            qnti_numbers_get_codes(q, r, c, 2, pair);
            if (qnti_pairs_outlier(&q->grid, pair[0]) || qnti_pairs_outlier(&q->grid, pair[1]))
                qnti_numbers_put_codes(q, r, c + (r + c / 2) % 2, 1, &zero);
        }
}

/* Codes, scales, offsets, codebooks as they come. */
static inline void random_numbers(struct qnti_numbers *q, struct qnti_random *random)
{
    struct qnti_numbers *seconds[] = {q->scale, q->codebook, q->grid.integer_offset ? NULL : q->offset};
    for (size_t i = 0; i < q->rows * q->cols; i++) {
        uint16_t code = (uint16_t)random_below(random, q->grid.levels);
        qnti_numbers_put_codes(q, i / q->cols, i % q->cols, 1, &code);
    }
    if (qnti_in_pairs(&q->grid))
        settle_pairs(q);
    for (size_t s = 0; s < COUNT(seconds); s++)
        for (size_t i = 0; seconds[s] && i < seconds[s]->rows * seconds[s]->cols; i++)
            seconds[s]->value[i] = qnti_round_to(QNT_F16, 0.05f + 0.05f * fabsf(random_float(random)));
    for (size_t i = 0; q->offset && q->grid.integer_offset && i < q->offset->rows * q->offset->cols; i++)
        q->offset->value[i] = (float)random_below(random, q->grid.levels);
}

static inline void full_segments(qnt_context *ctx, unsigned parts, struct qnti_random *random, qnt_qlinear *q)
{
    bool second = parts & (FULL_SECOND | FULL_SECOND_CODES);
    struct qnti_grid grid = full_main_grid(ctx, parts), other = qnti_float_grid(QNT_F16);
    q->segment_count = second ? 2 : 1;
    assert_ok(ctx, QNTI_NEW(ctx, q->segment_count, &q->segments));
    q->segments[0].cols = second ? FULL_CUT : FULL_IN;
    assert_ok(ctx, qnti_segment_fill(q, &q->segments[0], &grid));
    random_numbers(q->segments[0].weight, random);
    if (!second)
        return;
    if (parts & FULL_SECOND_CODES) {
        other = affine_of(ctx, 5, 0);
        other.form = QNTI_FORM_MIN;
        other.integer_offset = false;
    }
    q->segments[1].first = FULL_CUT;
    q->segments[1].cols = FULL_IN - FULL_CUT;
    assert_ok(ctx, qnti_segment_fill(q, &q->segments[1], &other));
    if (parts & FULL_SECOND_CODES)
        random_numbers(q->segments[1].weight, random);
    for (size_t i = 0; (parts & FULL_SECOND) && i < (size_t)FULL_OUT * (FULL_IN - FULL_CUT); i++)
        q->segments[1].weight->value[i] = qnti_round_to(QNT_F16, random_float(random));
}

/* Two values in every third row, none in the others. */
static inline void full_sparse(qnt_context *ctx, qnt_qlinear *q)
{
    struct qnti_sparse *s = &q->sparse;
    s->count = 2 * 4;
    s->type = QNT_F16;
    assert_ok(ctx, QNTI_NEW(ctx, FULL_OUT + 1, &s->row_start));
    assert_ok(ctx, QNTI_NEW(ctx, s->count, &s->column));
    assert_ok(ctx, QNTI_NEW(ctx, s->count, &s->value));
    for (size_t r = 0; r < FULL_OUT; r++)
        s->row_start[r + 1] = s->row_start[r] + (r % 3 ? 0 : 2);
    for (size_t i = 0; i < s->count; i++) {
        s->column[i] = (uint32_t)(i % 2 ? 12 + i : i);
        s->value[i] = qnti_round_to(QNT_F16, 3 + 0.3f * (float)i);
    }
}

static inline void full_transform(qnt_context *ctx, unsigned parts, struct qnti_random *random,
                                  struct qnti_transform *t)
{
    static const float small[FULL_SMALL * FULL_SMALL] = {2 / 3.0f, -1 / 3.0f, 2 / 3.0f, 2 / 3.0f, 2 / 3.0f,
                                                         -1 / 3.0f, -1 / 3.0f, 2 / 3.0f, 2 / 3.0f};
    if (parts & FULL_SCALE) {
        assert_ok(ctx, QNTI_NEW(ctx, FULL_IN, &t->scale));
        assert_ok(ctx, QNTI_NEW(ctx, FULL_IN, &t->shift));
        for (size_t c = 0; c < FULL_IN; c++) {
            t->scale[c] = 0.5f + fabsf(random_float(random));
            t->shift[c] = random_float(random);
        }
    }
    if (parts & FULL_PERMUTATION) {
        assert_ok(ctx, QNTI_NEW(ctx, FULL_IN, &t->permutation));
        for (size_t j = 0; j < FULL_IN; j++)
            t->permutation[j] = (uint32_t)((j * 7 + 3) % FULL_IN);
    }
    if (!(parts & FULL_ROTATION))
        return;
    t->rotation.block = FULL_BLOCK;
    t->rotation.small = FULL_SMALL;
    assert_ok(ctx, QNTI_NEW(ctx, COUNT(small), &t->rotation.small_matrix));
    memcpy(t->rotation.small_matrix, small, sizeof small);
    assert_ok(ctx, QNTI_NEW(ctx, FULL_IN, &t->rotation.sign));
    for (size_t c = 0; c < FULL_IN; c++)
        t->rotation.sign[c] = c % 3 ? 1 : -1;
}

static inline void full_acts(qnt_context *ctx, unsigned parts, qnt_qlinear *q)
{
    struct qnti_grid grid = affine_of(ctx, 8, 0), fixed = affine_of(ctx, 6, 0);
    grid.scale_type = fixed.scale_type = QNT_F32;
    if (parts & FULL_PAIRS) {
        grid = pairs_of(ctx, 8, false, 0, QNT_F32);
        grid.map.rows = 0;
    }
    if (parts & FULL_ACT)
        assert_ok(ctx, qnti_actquant_create(ctx, &grid, FULL_IN, parts & FULL_STATIC, &q->act));
    if (parts & FULL_STATIC)
        q->act->fixed->scale->value[0] = 0.03125f;
    if ((parts & FULL_STATIC) && q->act->fixed->offset)
        q->act->fixed->offset->value[0] = 120;
    for (size_t c = 0; (parts & FULL_STATIC) && (parts & FULL_PAIRS) && c < FULL_IN; c++)
        qnti_numbers_put_codes(q->act->fixed, 0, c, 1, &(uint16_t){(uint16_t)qnti_pairs_zero(&grid)});
    if (parts & FULL_COPY)
        q->act->threshold = 2;
    if (parts & FULL_SEGMENT_ACT) {
        assert_ok(ctx, qnti_actquant_create(ctx, &fixed, FULL_IN - FULL_CUT, true, &q->segments[1].act));
        q->segments[1].act->fixed->scale->value[0] = 0.125f;
        q->segments[1].act->fixed->offset->value[0] = 30;
    }
    if (parts & FULL_OUTPUT) {
        assert_ok(ctx, QNTI_NEW_RAW(ctx, 1, &q->output));
        *q->output = (struct qnti_cache){.grid = qnti_minmax_grid(qnti_context_kernels(ctx), 2, 4, QNT_F32),
                                         .head_dim = 5, .window = 5, .before_rope = true, .sinks = 2, .clip = 0.5f};
    }
}

static inline qnt_qlinear *full_layer(qnt_context *ctx, unsigned parts)
{
    float *bias = random_floats(FULL_OUT, 3, 1), *a = random_floats(FULL_OUT * FULL_RANK, 4, 0.2f),
          *b = random_floats(FULL_RANK * FULL_IN, 5, 0.2f), *copy = random_floats(FULL_OUT * FULL_IN, 6, 1);
    struct qnti_random random;
    qnt_qlinear *q;
    qnti_random_seed(&random, 40 + parts);
    assert_ok(ctx, qnti_qlinear_create(ctx, "some.layer", FULL_OUT, FULL_IN, parts & FULL_BIAS ? bias : NULL, &q));
    full_segments(ctx, parts, &random, q);
    if (parts & FULL_SPARSE)
        full_sparse(ctx, q);
    if (parts & FULL_LOWRANK) {
        assert_ok(ctx, qnti_numbers_from_floats(ctx, QNT_F32, a, FULL_OUT, FULL_RANK, &q->lowrank_a));
        assert_ok(ctx, qnti_numbers_from_floats(ctx, QNT_F16, b, FULL_RANK, FULL_IN, &q->lowrank_b));
    }
    if (parts & FULL_COPY)
        assert_ok(ctx, qnti_numbers_from_floats(ctx, QNT_F16, copy, FULL_OUT, FULL_IN, &q->full));
    full_transform(ctx, parts, &random, &q->transform);
    full_acts(ctx, parts, q);
    q->report.bits_per_weight = qnti_qlinear_bits(q);
    free(bias);
    free(a);
    free(b);
    free(copy);
    return q;
}

/* Sets of parts that the tests go through. */
static const unsigned full_sets[] = {
    0,
    FULL_BIAS | FULL_INDEX,
    FULL_SECOND | FULL_SPARSE | FULL_PERMUTATION,
    FULL_SECOND_CODES | FULL_LOWRANK | FULL_SCALE,
    FULL_CODEBOOK | FULL_ROTATION | FULL_SCALE | FULL_PERMUTATION,
    FULL_ACT | FULL_SPARSE | FULL_LOWRANK,
    FULL_ACT | FULL_STATIC | FULL_PERMUTATION | FULL_OUTPUT,
    FULL_SECOND | FULL_ACT | FULL_SEGMENT_ACT | FULL_BIAS,
    FULL_ACT | FULL_COPY | FULL_BIAS,
    FULL_SECOND | FULL_SPARSE | FULL_LOWRANK | FULL_SCALE | FULL_PERMUTATION | FULL_ROTATION | FULL_ACT |
        FULL_SEGMENT_ACT | FULL_BIAS | FULL_OUTPUT | FULL_INDEX,
};

#endif
