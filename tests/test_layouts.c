/*
 * test_layouts.c - GPTQ's and AWQ's tensors: the sheets' words, a plain packing bit by bit, both ways, and refusals.
 *
 * The plain packer below knows the formats by their definition alone: code k of
 * a stream stands at bits [k b, (k + 1) b) of it, nibble i of an AWQ word is
 * output order[i].
 */
#include "layout_support.h"

#include "base/number.h"
#include "pack/layout.h"

/* --- layers made by hand --- */

struct spec {
    size_t out, in;
    unsigned bits;
    size_t group;            /* 0: the row */
    bool sym, index, bias;
};

/* Any codes, scales of either sign, zeros from `least` on; with `index` a group for each column. */
static qnt_qlinear *make_layer(qnt_context *ctx, const struct spec *s, unsigned least, uint64_t seed)
{
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(ctx), s->bits, s->group, QNT_F16);
    float *bias = random_floats(s->out, 5, 1);
    uint32_t *index = NEW(s->in, uint32_t);
    struct qnti_random random;
    struct qnti_numbers *n;
    qnt_qlinear *q;
    qnti_random_seed(&random, seed);
    grid.sym = grid.constant_offset = s->sym;
    grid.integer_offset = !s->sym;
    grid.offset = s->sym ? (float)(1u << (s->bits - 1)) : 0;
    for (size_t i = 0; i < s->in; i++)
        index[i] = (uint32_t)((i * 7 + 3) % s->in / (s->group ? s->group : s->in));
    if (s->index)
        grid.map = (struct qnti_map){QNTI_MAP_INDEX, 1, s->group, index, qnti_ceil_div(s->in, s->group)};
    for (size_t i = 0; i < s->out; i++)
        bias[i] = qnti_round_to(QNT_F16, bias[i]);
    assert_ok(ctx, qnti_qlinear_create(ctx, "some.layer", s->out, s->in, s->bias ? bias : NULL, &q));
    assert_ok(ctx, qnti_qlinear_one_segment(q));
    assert_ok(ctx, qnti_segment_fill(q, &q->segments[0], &grid));
    n = q->segments[0].weight;
    for (size_t i = 0; i < s->out * s->in; i++)
        n->code8[i] = (uint8_t)random_below(&random, grid.levels);
    for (size_t i = 0; i < n->scale->rows * n->scale->cols; i++) {
        n->scale->value[i] = qnti_round_to(QNT_F16, random_float(&random));
        if (n->offset)
            n->offset->value[i] = (float)(least + random_below(&random, grid.levels - least));
    }
    free(bias);
    free(index);
    return q;
}

/* --- the plain packer --- */

static void put_bits(uint8_t *words, size_t stride, size_t at, size_t k, unsigned bits, unsigned code)
{
    for (unsigned b = 0; b < bits; b++) { /* word j of the stream at words + 4 (j stride + at) */
        size_t bit = k * bits + b, word = 4 * (bit / 32 * stride + at);
        words[word + bit % 32 / 8] |= (uint8_t)((code >> b & 1) << bit % 8);
    }
}

static unsigned zero_of(const qnt_qlinear *q, size_t o, size_t g)
{
    const struct qnti_numbers *n = q->segments[0].weight;
    return (unsigned)(n->offset ? n->offset->value[o * n->scale->cols + g] : n->grid.offset);
}

static void plain_gptq(const qnt_qlinear *q, unsigned minus, uint8_t *qweight, uint8_t *qzeros)
{
    const struct qnti_numbers *n = q->segments[0].weight;
    unsigned bits = n->grid.bits;
    for (size_t o = 0; o < q->out; o++) {
        for (size_t i = 0; i < q->in; i++)
            put_bits(qweight, q->out, o, i, bits, n->code8[o * q->in + i]);
        for (size_t g = 0; g < n->scale->cols; g++)
            put_bits(qzeros + 4 * g * (q->out / 32 * bits), 1, 0, o, bits, zero_of(q, o, g) - minus);
    }
}

static void plain_awq(const qnt_qlinear *q, uint8_t *qweight, uint8_t *qzeros)
{
    static const size_t order[] = {0, 2, 4, 6, 1, 3, 5, 7};
    const struct qnti_numbers *n = q->segments[0].weight;
    for (size_t c = 0; c < q->out / 8; c++)
        for (size_t k = 0; k < 8; k++) {
            size_t o = 8 * c + order[k];
            for (size_t i = 0; i < q->in; i++)
                put_bits(qweight + 4 * i * (q->out / 8), 1, 0, 8 * c + k, 4, n->code8[o * q->in + i]);
            for (size_t g = 0; g < n->scale->cols; g++)
                put_bits(qzeros + 4 * g * (q->out / 8), 1, 0, 8 * c + k, 4, zero_of(q, o, g));
        }
}

/* --- packed layers --- */

static qnt_packed_tensor *tensor(struct packed *p, const char *name)
{
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->tensors[i].name, name) == 0)
            return &p->tensors[i];
    return NULL;
}

static uint8_t *data(struct packed *p, const char *name)
{
    assert_non_null(tensor(p, name));
    return p->buffer + tensor(p, name)->offset;
}

static uint32_t word(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void check_scales(struct packed *p, const qnt_qlinear *q)
{
    const struct qnti_numbers *s = q->segments[0].weight->scale;
    const uint8_t *bytes = data(p, "scales");
    for (size_t g = 0; g < s->cols; g++)
        for (size_t o = 0; o < q->out; o++) {
            uint16_t half = qnti_f32_to_f16(s->value[o * s->cols + g]);
            const uint8_t *at = bytes + 2 * (g * q->out + o);
            assert_int_equal(at[0] | at[1] << 8, half);
        }
    assert_int_equal(tensor(p, "scales")->shape[0], s->cols);
    assert_int_equal(tensor(p, "scales")->shape[1], q->out);
}

static void check_same(qnt_context *ctx, const qnt_qlinear *q, const qnt_qlinear *back)
{
    const struct qnti_numbers *a = q->segments[0].weight, *b = back->segments[0].weight;
    float *w = dequantized(ctx, q), *v = dequantized(ctx, back);
    assert_int_equal(back->out, q->out);
    assert_int_equal(back->in, q->in);
    assert_memory_equal(a->code8, b->code8, q->out * q->in);
    assert_memory_equal(w, v, q->out * q->in * sizeof *w);
    assert_int_equal(a->grid.constant_offset, b->grid.constant_offset);
    assert_true(qnti_qlinear_bits(back) == qnti_qlinear_bits(q));
    assert_int_equal(q->bias != NULL, back->bias != NULL);
    if (q->bias)
        assert_memory_equal(q->bias, back->bias, q->out * sizeof *q->bias);
    free(w);
    free(v);
}

static void check_bytes(qnt_context *ctx, const qnt_qlinear *q, const char *format, struct packed *p)
{
    uint8_t *qweight = NEW(tensor(p, "qweight")->bytes, uint8_t), *qzeros = NEW(tensor(p, "qzeros")->bytes, uint8_t);
    (void)ctx;
    if (strcmp(format, "awq") == 0)
        plain_awq(q, qweight, qzeros);
    else
        plain_gptq(q, strcmp(format, "gptq:v1") == 0, qweight, qzeros);
    assert_memory_equal(data(p, "qweight"), qweight, tensor(p, "qweight")->bytes);
    assert_memory_equal(data(p, "qzeros"), qzeros, tensor(p, "qzeros")->bytes);
    check_scales(p, q);
    free(qweight);
    free(qzeros);
}

/* Packs on every context, compares with the plain packer, unpacks from memory that is not aligned and ends exactly. */
static void round_trip(qnt_context *const *contexts, size_t count, const struct spec *s, const char *format)
{
    struct packed p = {.count = 0}, again;
    for (size_t c = 0; c < count; c++) {
        qnt_context *ctx = contexts[c];
        qnt_qlinear *q = make_layer(ctx, s, strcmp(format, "gptq:v1") == 0, 11), *back;
        uint8_t *moved;
        pack(ctx, q, format, &again);
        check_bytes(ctx, q, format, &again);
        moved = malloc(again.bytes + 1);
        assert_non_null(moved);
        memcpy(moved + 1, again.buffer, again.bytes);
        assert_ok(ctx, qnt_unpack(ctx, format, "some.layer", again.tensors, again.count, moved + 1, again.bytes,
                                  &back));
        check_same(ctx, q, back);
        if (c > 0) {
            assert_int_equal(again.bytes, p.bytes);
            assert_memory_equal(again.buffer, p.buffer, p.bytes);
            free(again.buffer);
        } else {
            p = again;
        }
        free(moved);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(back);
    }
    free(p.buffer);
}

static void test_gptq(void **state)
{
    static const unsigned widths[] = {2, 3, 4, 8};
    static const size_t groups[] = {0, 32, 64, 128};   /* in = 96: one with a shorter last group, one beyond the row */
    qnt_context *ctx[] = {context_of(1), context_of(2), context_of(8), context_with_kernels("scalar")};
    (void)state;
    for (size_t b = 0; b < COUNT(widths); b++)
        for (size_t g = 0; g < COUNT(groups); g++)
            for (unsigned k = 0; k < 8; k++) {
                struct spec s = {96, 96, widths[b], groups[g], k & 1, k >> 1 & 1, k >> 2 & 1};
                if (s.index && (s.group == 0 || s.group > s.in))
                    continue;
                round_trip(ctx, COUNT(ctx), &s, "gptq:v1");
                round_trip(ctx, COUNT(ctx), &s, "gptq:v2");
            }
    for (size_t b = 0; b < COUNT(widths); b++) { /* several runs of inputs, a last tile of fewer outputs */
        struct spec s = {160, 1056, widths[b], 128, false, true, false};
        round_trip(ctx, COUNT(ctx), &s, "gptq:v2");
    }
    for (size_t c = 0; c < COUNT(ctx); c++)
        qnt_context_destroy(ctx[c]);
}

static void test_awq(void **state)
{
    static const struct spec specs[] = {
        {8, 1, 4, 0, false, false, false},       {8, 24, 4, 8, false, false, true},
        {40, 72, 4, 24, true, false, false},     {136, 600, 4, 100, false, false, false},
        {264, 64, 4, 64, true, false, true},     {128, 1024, 4, 128, false, false, false},
    };
    qnt_context *ctx[] = {context_of(1), context_of(2), context_of(8), context_with_kernels("scalar")};
    (void)state;
    for (size_t i = 0; i < COUNT(specs); i++)
        round_trip(ctx, COUNT(ctx), &specs[i], "awq");
    for (size_t c = 0; c < COUNT(ctx); c++)
        qnt_context_destroy(ctx[c]);
}

/* --- the sheets' words --- */

static void test_three_bits(void **state)
{
    struct spec s = {32, 32, 3, 0, true, false, false};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = make_layer(ctx, &s, 0, 3);
    const uint8_t *c = q->segments[0].weight->code8 + 5 * 32;
    uint32_t a = 0, b = 0, d = 0;
    struct packed p;
    (void)state;
    for (unsigned i = 0; i < 10; i++)
        a |= (uint32_t)c[i] << 3 * i;
    a |= (uint32_t)(c[10] & 3) << 30;
    b = c[10] >> 2;
    for (unsigned i = 11; i <= 20; i++)
        b |= (uint32_t)c[i] << (1 + 3 * (i - 11));
    b |= (uint32_t)(c[21] & 1) << 31;
    d = c[21] >> 1;
    for (unsigned i = 22; i < 32; i++)
        d |= (uint32_t)c[i] << (2 + 3 * (i - 22));
    pack(ctx, q, "gptq:v1", &p);
    assert_int_equal(tensor(&p, "qweight")->shape[0], 3);
    assert_int_equal(word(data(&p, "qweight") + 4 * (0 * 32 + 5)), a);
    assert_int_equal(word(data(&p, "qweight") + 4 * (1 * 32 + 5)), b);
    assert_int_equal(word(data(&p, "qweight") + 4 * (2 * 32 + 5)), d);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

static void test_awq_word(void **state)
{
    struct spec s = {8, 1, 4, 0, false, false, false};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = make_layer(ctx, &s, 0, 3);
    struct packed p;
    (void)state;
    for (uint8_t o = 0; o < 8; o++) {
        q->segments[0].weight->code8[o] = o;
        q->segments[0].weight->offset->value[o] = (float)o;
    }
    pack(ctx, q, "awq", &p);
    assert_int_equal(word(data(&p, "qweight")), 0x75316420);
    assert_int_equal(word(data(&p, "qzeros")), 0x75316420);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

static void test_symmetric_zeros(void **state)
{
    static const struct {
        unsigned bits;
        uint32_t v1, v2;
    } wanted[] = {{2, 0x55555555, 0xAAAAAAAA}, {4, 0x77777777, 0x88888888}, {8, 0x7F7F7F7F, 0x80808080}};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(wanted); i++) {
        struct spec s = {32, 64, wanted[i].bits, 32, true, false, false};
        qnt_qlinear *q = make_layer(ctx, &s, 0, 3);
        struct packed v1, v2, chosen;
        pack(ctx, q, "gptq:v1", &v1);
        pack(ctx, q, "gptq:v2", &v2);
        pack(ctx, q, "gptq", &chosen);
        for (size_t k = 0; k < tensor(&v1, "qzeros")->bytes; k += 4) {
            assert_int_equal(word(data(&v1, "qzeros") + k), wanted[i].v1);
            assert_int_equal(word(data(&v2, "qzeros") + k), wanted[i].v2);
            assert_int_equal(word(data(&chosen, "qzeros") + k), wanted[i].v1);
        }
        free(v1.buffer);
        free(v2.buffer);
        free(chosen.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

static void test_group_index(void **state)
{
    struct spec s = {32, 96, 4, 64, true, false, false};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (int along = 0; along < 2; along++) {
        struct packed p;
        qnt_qlinear *q;
        s.index = along;
        q = make_layer(ctx, &s, 0, 3);
        pack(ctx, q, "gptq:v1", &p);
        assert_int_equal(tensor(&p, "g_idx")->rank, 1);
        for (size_t i = 0; i < 96; i++)
            assert_int_equal(word(data(&p, "g_idx") + 4 * i), along ? (i * 7 + 3) % 96 / 64 : i / 64);
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

/* Version 1 can say a zero of 2^bits (15 + 1 at 4 bits); it is read as it stands, not masked. */
static void test_highest_zero(void **state)
{
    struct spec s = {32, 32, 4, 0, false, false, false};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = make_layer(ctx, &s, 1, 3), *back;
    struct packed p;
    (void)state;
    pack(ctx, q, "gptq:v1", &p);
    data(&p, "qzeros")[0] = 0xf0;
    assert_ok(ctx, qnt_unpack(ctx, "gptq:v1", "some.layer", p.tensors, p.count, p.buffer, p.bytes, &back));
    assert_true(back->segments[0].weight->offset->value[0] == 1);
    assert_true(back->segments[0].weight->offset->value[1] == 16);
    free(p.buffer);
    pack(ctx, back, "gptq:v1", &p);
    assert_int_equal(data(&p, "qzeros")[0], 0xf0);
    assert_fails(ctx, qnt_packed_tensors(back, "gptq:v2", p.tensors, &p.count, &p.bytes), QNT_UNSUPPORTED,
                 "gptq:v1 and native can");
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_qlinear_destroy(back);
    qnt_context_destroy(ctx);
}

/* A bias that f16 cannot hold comes along in f32. */
static void test_bias(void **state)
{
    struct spec s = {32, 32, 4, 0, true, false, true};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = make_layer(ctx, &s, 0, 3), *back;
    struct packed p;
    (void)state;
    for (int exact = 1; exact >= 0; exact--) {
        if (!exact)
            q->bias[7] = 1 + 0x1p-20f;
        pack(ctx, q, "gptq:v2", &p);
        assert_int_equal(tensor(&p, "bias")->dtype, exact ? QNT_F16 : QNT_F32);
        assert_ok(ctx, qnt_unpack(ctx, "gptq:v2", "some.layer", p.tensors, p.count, p.buffer, p.bytes, &back));
        check_same(ctx, q, back);
        free(p.buffer);
        qnt_qlinear_destroy(back);
    }
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* --- what cannot be held --- */

static void refuse(qnt_context *ctx, const struct spec *s, const char *format, const char *part)
{
    qnt_qlinear *q = make_layer(ctx, s, 0, 3);
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes;
    assert_fails(ctx, qnt_packed_tensors(q, format, tensors, &count, &bytes), QNT_UNSUPPORTED, part);
    assert_message_has(ctx, "some.layer");
    assert_message_has(ctx, format);
    qnt_qlinear_destroy(q);
}

static void test_refusals(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    refuse(ctx, &(struct spec){32, 32, 5, 0, true, false, false}, "gptq:v1", "5 bits");
    refuse(ctx, &(struct spec){32, 32, 3, 0, false, false, false}, "awq", "3 bits");
    refuse(ctx, &(struct spec){33, 32, 4, 0, true, false, false}, "gptq:v2", "(33, 32)");
    refuse(ctx, &(struct spec){32, 40, 4, 0, true, false, false}, "gptq:v2", "40");
    refuse(ctx, &(struct spec){12, 32, 4, 0, true, false, false}, "awq", "(12, 32)");
    refuse(ctx, &(struct spec){8, 32, 4, 24, true, false, false}, "awq", "groups of 24");
    refuse(ctx, &(struct spec){8, 32, 4, 16, true, true, false}, "awq", "order of processing");
    refuse(ctx, &(struct spec){32, 96, 4, 32, false, false, false}, "gptq:v1", "a zero of 0");
    qnt_context_destroy(ctx);
}

static void test_parts_beside(void **state)
{
    struct spec s = {32, 32, 4, 0, true, false, false};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = make_layer(ctx, &s, 0, 3), *back;
    struct qnti_grid *grid = &q->segments[0].weight->grid;
    struct packed p;
    size_t bytes;
    (void)state;
    grid->map.rows = 0;
    assert_fails(ctx, qnt_packed_tensors(q, "gptq", p.tensors, &p.count, &bytes), QNT_UNSUPPORTED, "several rows");
    grid->map.rows = 1;
    grid->scale_type = QNT_F32;
    assert_fails(ctx, qnt_packed_tensors(q, "gptq", p.tensors, &p.count, &bytes), QNT_UNSUPPORTED, "another type");
    grid->scale_type = QNT_F16;
    grid->form = QNTI_FORM_MIN;
    assert_fails(ctx, qnt_packed_tensors(q, "awq", p.tensors, &p.count, &bytes), QNT_UNSUPPORTED, "native can");
    grid->form = QNTI_FORM_ZERO;
    assert_ok(ctx, QNTI_NEW(ctx, 32, &q->transform.scale));
    assert_fails(ctx, qnt_packed_tensors(q, "awq", p.tensors, &p.count, &bytes), QNT_UNSUPPORTED,
                 "run-time transform");
    qnti_free(ctx, q->transform.scale);
    q->transform.scale = NULL;
    pack(ctx, q, "gptq:v1", &p);
    assert_fails(ctx, qnt_pack(q, "gptq:v1", p.buffer, p.bytes - 1), QNT_INVALID, "which takes");
    assert_fails(ctx, qnt_packed_tensors(q, "native", p.tensors, &p.count, &bytes), QNT_UNSUPPORTED, "single layer");
    assert_fails(ctx, qnt_pack_bytes(ctx, "gptq", 32, 32, &bytes), QNT_UNSUPPORTED, "depend");
    assert_fails(ctx, qnt_unpack(ctx, "gptq", "l", p.tensors, p.count, p.buffer, p.bytes, &back), QNT_UNSUPPORTED,
                 "two versions");
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* --- damaged tensors --- */

enum damage { DTYPE, RANK, ROWS, COLS, MISSING, BYTES, OFFSET, DAMAGES };

static void damage_tensor(struct packed *p, size_t i, enum damage what)
{
    qnt_packed_tensor *t = &p->tensors[i];
    size_t before = t->bytes;
    t->dtype = what == DTYPE ? (t->dtype == QNT_I32 ? QNT_F32 : QNT_I32) : t->dtype;
    t->rank = what == RANK ? 3 - t->rank : t->rank;
    t->shape[0] -= what == ROWS;
    t->shape[1] += what == COLS ? (size_t)-1 : 0;
    if (what == MISSING)
        t->name = "other";
    t->bytes = qnti_dtype_bytes(t->dtype) * t->shape[0] * (t->rank == 2 ? t->shape[1] : 1) + (what == BYTES);
    t->offset = what == OFFSET ? p->bytes - 1 : t->offset;
    if (t->bytes > before && what != BYTES) /* stays inside the buffer: only the shape is wrong */
        t->bytes = before;
}

static void test_damage(void **state)
{
    static const char *const formats[] = {"gptq:v1", "gptq:v2", "awq"};
    struct spec s = {64, 96, 4, 48, true, false, true};
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t f = 0; f < COUNT(formats); f++) {
        qnt_qlinear *q = make_layer(ctx, &s, 0, 3), *back;
        struct packed p;
        pack(ctx, q, formats[f], &p);
        for (size_t i = 0; i < p.count; i++)
            for (enum damage what = 0; what < DAMAGES; what++) {
                struct packed broken = p;
                bool optional = strcmp(p.tensors[i].name, "bias") == 0 || strcmp(p.tensors[i].name, "g_idx") == 0;
                qnt_status status;
                damage_tensor(&broken, i, what);
                status = qnt_unpack(ctx, formats[f], "some.layer", broken.tensors, p.count, p.buffer, p.bytes, &back);
                if (status == QNT_OK) { /* a matrix of other floats or fewer dimensions may fit by chance */
                    assert_true((what == MISSING && optional) || (what == COLS && p.tensors[i].rank == 1) ||
                                (what == DTYPE && strcmp(p.tensors[i].name, "bias") == 0));
                    qnt_qlinear_destroy(back);
                    continue;
                }
                assert_int_equal(status, QNT_BAD_DATA);
                assert_message_has(ctx, "some.layer");
                assert_null(back);
            }
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    destroy_context(ctx, held);
}

static void test_bad_index(void **state)
{
    static const uint32_t bad[] = {2, 0xffffffff, 0x80000000};
    struct spec s = {32, 96, 4, 64, true, true, false};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = make_layer(ctx, &s, 0, 3), *back;
    struct packed p;
    (void)state;
    pack(ctx, q, "gptq:v1", &p);
    for (size_t i = 0; i < COUNT(bad); i++) {
        memcpy(data(&p, "g_idx") + 4 * 95, &bad[i], 4);
        assert_fails(ctx, qnt_unpack(ctx, "gptq:v1", "some.layer", p.tensors, p.count, p.buffer, p.bytes, &back),
                     QNT_BAD_DATA, "at input 95, expected 0 to 1");
    }
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* Without g_idx a single group is certain, more are not. */
static void test_no_index(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t group = 32; group <= 96; group += 64) {
        struct spec s = {32, 96, 4, group, true, false, false};
        qnt_qlinear *q = make_layer(ctx, &s, 0, 3), *back;
        struct packed p;
        qnt_status status;
        pack(ctx, q, "gptq:v1", &p);
        tensor(&p, "g_idx")->name = "other";
        status = qnt_unpack(ctx, "gptq:v1", "some.layer", p.tensors, p.count, p.buffer, p.bytes, &back);
        assert_int_equal(status, group == 96 ? QNT_OK : QNT_BAD_DATA);
        if (status == QNT_OK)
            check_same(ctx, q, back);
        qnt_qlinear_destroy(back);
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

static qnt_status pack_and_unpack(qnt_context *ctx, void *arg)
{
    const struct packed *p = arg;
    qnt_qlinear *q = NULL;
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes;
    void *buffer = NULL;
    qnt_status status = qnt_unpack(ctx, "gptq:v2", "some.layer", p->tensors, p->count, p->buffer, p->bytes, &q);
    if (status == QNT_OK)
        status = qnt_packed_tensors(q, "gptq:v2", tensors, &count, &bytes);
    if (status == QNT_OK) {
        buffer = new_memory(bytes, 1);
        status = qnt_pack(q, "gptq:v2", buffer, bytes);
    }
    free(buffer);
    qnt_qlinear_destroy(q);
    return status;
}

static void test_memory(void **state)
{
    struct spec s = {32, 96, 3, 64, false, true, true};
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = make_layer(ctx, &s, 0, 3);
    struct packed p;
    (void)state;
    pack(ctx, q, "gptq:v2", &p);
    each_allocation_fails(pack_and_unpack, &p);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gptq),            cmocka_unit_test(test_awq),          cmocka_unit_test(test_three_bits),
        cmocka_unit_test(test_awq_word),        cmocka_unit_test(test_symmetric_zeros),
        cmocka_unit_test(test_group_index),     cmocka_unit_test(test_highest_zero), cmocka_unit_test(test_bias),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_parts_beside), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_bad_index),       cmocka_unit_test(test_no_index),     cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
