/*
 * test_bnb.c - bitsandbytes' tensors of a layer: byte by byte, both ways, damaged, and what they cannot hold.
 */
#include "layout_support.h"

#include "base/number.h"
#include "pack/layout.h"

enum { OUT = 9, IN = 75, N = OUT * IN };    /* an odd number of weights; blocks cross rows */

static const char *const recipes[] = {"bnb4", "bnb4:format=fp4,block_size=32", "bnb4:double_quant=true,block_size=32",
                                      "llm_int8"};

static qnt_qlinear *layer_of(qnt_context *ctx, const char *recipe)
{
    float *w = random_floats(N, 5, 0.05f), *bias = random_floats(OUT, 6, 1);
    qnt_layer layer = {.name = "some.layer", .weight = qnt_matrix_f32(w, OUT, IN), .bias = bias, .format = "bnb"};
    qnt_recipe *r = recipe_of(ctx, recipe);
    qnt_qlinear *q;
    assert_ok(ctx, qnt_quantize(ctx, r, &layer, &q));
    qnt_recipe_destroy(r);
    free(w);
    free(bias);
    return q;
}

static size_t place_of(const struct packed *p, const char *name)
{
    size_t i = 0;
    while (i < p->count && strcmp(p->tensors[i].name, name) != 0)
        i++;
    if (i == p->count)
        fail_msg("no tensor %s", name);
    return i;
}

static const uint8_t *data(const struct packed *p, const char *name)
{
    return p->buffer + p->tensors[place_of(p, name)].offset;
}

static void check_shape(const struct packed *p, const char *name, qnt_dtype dtype, size_t rank, size_t rows)
{
    const qnt_packed_tensor *t = &p->tensors[place_of(p, name)];
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->rank, rank);
    assert_int_equal(t->shape[0], rows);
}

/* --- bytes --- */

static void test_blocks(void **state)
{
    static const char text[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [9, 75]}";
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = layer_of(ctx, recipes[0]);
    const struct qnti_numbers *w = q->segments[0].weight;
    struct packed p;
    (void)state;
    pack(ctx, q, "bnb", &p);
    check_shape(&p, "weight", QNT_U8, 2, (N + 1) / 2);
    assert_int_equal(p.tensors[0].shape[1], 1);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(i % 2 ? data(&p, "weight")[i / 2] & 15 : data(&p, "weight")[i / 2] >> 4, w->code8[i]);
    assert_int_equal(data(&p, "weight")[N / 2] & 15, 7);
    check_shape(&p, "weight.absmax", QNT_F32, 1, (N + 63) / 64);
    assert_memory_equal(data(&p, "weight.absmax"), w->scale->value, (N + 63) / 64 * sizeof(float));
    check_shape(&p, "weight.quant_map", QNT_F32, 1, 16);
    assert_memory_equal(data(&p, "weight.quant_map"), qnti_nf4.level, 16 * sizeof(float));
    check_shape(&p, "weight.quant_state.bitsandbytes__nf4", QNT_U8, 1, sizeof text - 1);
    assert_memory_equal(data(&p, "weight.quant_state.bitsandbytes__nf4"), text, sizeof text - 1);
    check_shape(&p, "bias", QNT_F32, 1, OUT);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

static void test_nested(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = layer_of(ctx, recipes[2]);
    const struct qnti_numbers *scale = q->segments[0].weight->scale;
    const char *name = "weight.quant_state.bitsandbytes__nf4";
    char text[320], wanted[64];
    struct packed p;
    (void)state;
    pack(ctx, q, "bnb", &p);
    check_shape(&p, "weight.absmax", QNT_U8, 1, (N + 31) / 32);
    assert_memory_equal(data(&p, "weight.absmax"), scale->code8, (N + 31) / 32);
    check_shape(&p, "weight.nested_absmax", QNT_F32, 1, 1);
    assert_memory_equal(data(&p, "weight.nested_absmax"), scale->scale->value, sizeof(float));
    check_shape(&p, "weight.nested_quant_map", QNT_F32, 1, 256);
    snprintf(text, sizeof text, "%.*s", (int)p.tensors[place_of(&p, name)].bytes, (const char *)data(&p, name));
    assert_non_null(strstr(text, "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0."));
    for (int digits = 1; digits <= 17; digits++) { /* the fewest digits that say it */
        snprintf(wanted, sizeof wanted, "\"nested_offset\": %.*g}", digits, (double)scale->grid.offset);
        if (strtod(wanted + strlen("\"nested_offset\": "), NULL) == (double)scale->grid.offset)
            break;
    }
    assert_non_null(strstr(text, wanted));
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

static void test_rows(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = layer_of(ctx, recipes[3]);
    const struct qnti_numbers *w = q->segments[0].weight;
    float *source = random_floats(N, 5, 0.05f);
    struct packed p;
    (void)state;
    pack(ctx, q, "bnb", &p);
    check_shape(&p, "weight", QNT_I8, 2, OUT);
    check_shape(&p, "SCB", QNT_F32, 1, OUT);
    check_shape(&p, "weight_format", QNT_U8, 0, 1);
    assert_int_equal(data(&p, "weight_format")[0], 0);
    for (size_t i = 0; i < N; i++)
        assert_int_equal((int8_t)data(&p, "weight")[i], w->code8[i] - 128);
    for (size_t r = 0; r < OUT; r++) { /* the largest magnitude itself, not 127 scales */
        float most = 0, stored;
        for (size_t c = 0; c < IN; c++)
            most = fmaxf(most, fabsf(qnti_round_to(QNT_F16, source[r * IN + c])));
        memcpy(&stored, data(&p, "SCB") + r * sizeof stored, sizeof stored);
        assert_true(stored == most);
    }
    free(source);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* Every magnitude of f16 comes back as the range of its row. */
static void test_ranges(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = layer_of(ctx, recipes[3]);
    struct qnti_numbers *scale = q->segments[0].weight->scale;
    (void)state;
    for (uint32_t h = 0; h + OUT < 0x7c00; h += OUT) {
        struct packed p;
        for (size_t r = 0; r < OUT; r++)
            scale->value[r] = qnti_f16_to_f32((uint16_t)(h + r)) / 127;
        pack(ctx, q, "bnb", &p);
        for (size_t r = 0; r < OUT; r++) {
            float stored;
            memcpy(&stored, data(&p, "SCB") + r * sizeof stored, sizeof stored);
            assert_true(stored == qnti_f16_to_f32((uint16_t)(h + r)));
        }
        free(p.buffer);
    }
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* --- both ways --- */

static void test_round_trip(void **state)
{
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(recipes); i++) {
        qnt_qlinear *q = layer_of(ctx, recipes[i]), *back;
        float *w = dequantized(ctx, q), *v;
        struct packed p, again;
        uint8_t *moved;
        pack(ctx, q, "bnb", &p);
        moved = malloc(p.bytes + 1); /* not aligned */
        assert_non_null(moved);
        memcpy(moved + 1, p.buffer, p.bytes);
        assert_ok(ctx, qnt_unpack(ctx, "bnb", "some.layer", p.tensors, p.count, moved + 1, p.bytes, &back));
        v = dequantized(ctx, back);
        assert_memory_equal(w, v, N * sizeof *w);
        assert_memory_equal(q->bias, back->bias, OUT * sizeof *q->bias);
        assert_true(qnti_qlinear_bits(back) == qnti_qlinear_bits(q));
        pack(ctx, back, "bnb", &again);
        assert_int_equal(again.bytes, p.bytes);
        assert_memory_equal(again.buffer, p.buffer, p.bytes);
        free(again.buffer);
        free(moved);
        free(p.buffer);
        free(w);
        free(v);
        qnt_qlinear_destroy(back);
        qnt_qlinear_destroy(q);
    }
    destroy_context(ctx, held);
}

/* Keys in any order, levels of the file's own; what stands there is what counts. */
static void test_other_writers(void **state)
{
    static const char text[] = "{\"shape\":[ 2,4 ],\"nested_dtype\":\"float32\",\"new\":{\"a\":[1.5]},\"dtype\":"
                               "\"bfloat16\",\"blocksize\":32,\"quant_type\":\"nf4\"}";
    static const uint8_t codes[4] = {0x01, 0x23, 0x45, 0x67};
    float map[16], maximum = 2, w[8];
    uint8_t buffer[512] = {0};
    qnt_packed_tensor tensors[4] = {
        {.name = "weight", .dtype = QNT_F16, .rank = 2, .shape = {2, 1}, .offset = 0, .bytes = 4},
        {.name = "weight.absmax", .dtype = QNT_F32, .rank = 1, .shape = {1}, .offset = 64, .bytes = 4},
        {.name = "weight.quant_map", .dtype = QNT_F32, .rank = 1, .shape = {16}, .offset = 128, .bytes = 64},
        {.name = "weight.quant_state.bitsandbytes__nf4", .dtype = QNT_U8, .rank = 1, .offset = 256},
    };
    qnt_context *ctx = context_of(1);
    struct packed p;
    qnt_qlinear *q;
    (void)state;
    for (size_t i = 0; i < 16; i++)
        map[i] = (float)i;
    memcpy(buffer, codes, sizeof codes);
    memcpy(buffer + 64, &maximum, sizeof maximum);
    memcpy(buffer + 128, map, sizeof map);
    memcpy(buffer + 256, text, sizeof text - 1);
    tensors[3].shape[0] = tensors[3].bytes = sizeof text - 1;
    assert_ok(ctx, qnt_unpack(ctx, "bnb", "some.layer", tensors, 4, buffer, sizeof buffer, &q));
    assert_ok(ctx, qnt_dequantize(q, w));
    for (size_t i = 0; i < 8; i++)
        assert_true(w[i] == 2 * (float)i);
    assert_int_equal(q->source_type, QNT_BF16);
    assert_fails(ctx, qnt_packed_tensors(q, "bnb", p.tensors, &p.count, &p.bytes), QNT_UNSUPPORTED, "levels other");
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* --- damage --- */

static void expect_bad(qnt_context *ctx, const struct packed *p, const char *what)
{
    qnt_qlinear *q;
    if (qnt_unpack(ctx, "bnb", "some.layer", p->tensors, p->count, p->buffer, p->bytes, &q) != QNT_BAD_DATA)
        fail_msg("%s was taken", what);
    assert_null(q);
    assert_message_has(ctx, "some.layer");
}

static void test_damage(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t r = 0; r < COUNT(recipes); r++) {
        qnt_qlinear *q = layer_of(ctx, recipes[r]);
        struct packed p;
        pack(ctx, q, "bnb", &p);
        for (size_t i = 0; i < p.count; i++) {
            struct packed broken = p;
            const char *name = p.tensors[i].name;
            bool optional = strcmp(name, "bias") == 0 || strcmp(name, "weight_format") == 0;
            bool state_text = strstr(name, "quant_state") != NULL;
            broken.tensors[i].name = "other";
            if (!optional)
                expect_bad(ctx, &broken, name);
            broken = p;
            broken.tensors[i].shape[0]--;
            broken.tensors[i].bytes -= p.tensors[i].bytes / (p.tensors[i].rank ? p.tensors[i].shape[0] : 1);
            expect_bad(ctx, &broken, name);
            broken = p;
            broken.tensors[i].dtype = QNT_I32;
            broken.tensors[i].shape[0] = p.tensors[i].bytes / 4;
            broken.tensors[i].shape[1] = 1;
            broken.tensors[i].bytes = p.tensors[i].bytes / 4 * 4;
            if (!state_text && !(p.tensors[i].bytes % 4 == 0 && p.tensors[i].rank == 2 && r < 3))
                expect_bad(ctx, &broken, name);
        }
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    destroy_context(ctx, held);
}

static void test_bad_state(void **state)
{
    static const char *const texts[] = {
        "", "{", "[]", "{\"blocksize\": 64}", "{\"blocksize\": 64, \"shape\": [9]}",
        "{\"blocksize\": 64, \"shape\": [9, 75, 1]}", "{\"blocksize\": 0, \"shape\": [9, 75]}",
        "{\"blocksize\": 64, \"shape\": [9, 76]}", "{\"blocksize\": -64, \"shape\": [9, 75]}",
        "{\"blocksize\": 64, \"shape\": [4294967296, 4294967296]}", "{\"blocksize\": 64, \"shape\": [9, 75]} x",
        "{\"blocksize\": 64, \"shape\": [9, 75], \"dtype\": \"int8\"}", "{\"blocksize\": 32, \"shape\": [9, 75]}",
        "{\"blocksize\": 64, \"shape\": [9, 75], \"nested_blocksize\": 256, \"nested_offset\": \"1\"}",
        "{\"blocksize\": 64, \"shape\": [9, 75], \"nested_blocksize\": 256, \"nested_offset\": 1e400}",
        "{\"blocksize\": 64, \"shape\": [9, 75], \"nested_blocksize\": 256, \"nested_offset\": 1}",
    };
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = layer_of(ctx, recipes[0]);
    struct packed p;
    size_t at;
    (void)state;
    pack(ctx, q, "bnb", &p);
    at = place_of(&p, "weight.quant_state.bitsandbytes__nf4");
    p.buffer = realloc(p.buffer, p.bytes + 512);
    assert_non_null(p.buffer);
    p.tensors[at].offset = p.bytes;
    p.bytes += 512;
    for (size_t i = 0; i < COUNT(texts); i++) {
        p.tensors[at].bytes = p.tensors[at].shape[0] = strlen(texts[i]);
        memcpy(p.buffer + p.tensors[at].offset, texts[i], strlen(texts[i]));
        expect_bad(ctx, &p, texts[i]);
    }
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

static void test_bad_numbers(void **state)
{
    static const char *const floats[] = {"weight.absmax", "weight.quant_map", "SCB"};
    static const float infinite = INFINITY;
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q, *back;
    struct packed p;
    (void)state;
    for (size_t i = 0; i < COUNT(floats); i++) {
        q = layer_of(ctx, recipes[i == 2 ? 3 : 0]);
        pack(ctx, q, "bnb", &p);
        memcpy(p.buffer + p.tensors[place_of(&p, floats[i])].offset + 4, &infinite, sizeof infinite);
        expect_bad(ctx, &p, floats[i]);
        assert_message_has(ctx, "not finite");
        if (i == 2) {
            p.buffer[p.tensors[place_of(&p, "weight_format")].offset] = 2;
            assert_fails(ctx, qnt_unpack(ctx, "bnb", "some.layer", p.tensors, p.count, p.buffer, p.bytes, &back),
                         QNT_UNSUPPORTED, "weight_format 2");
        }
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

/* --- what cannot be held --- */

static void refuse(qnt_context *ctx, const qnt_qlinear *q, const char *part)
{
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes;
    assert_fails(ctx, qnt_packed_tensors(q, "bnb", tensors, &count, &bytes), QNT_UNSUPPORTED, part);
    assert_message_has(ctx, "some.layer");
    assert_message_has(ctx, "native can");
}

/* Of successive floats a few are the 127th part of none. */
static void refuse_odd_scale(qnt_context *ctx, const qnt_qlinear *q)
{
    float *scale = &q->segments[0].weight->scale->value[2], before = *scale;
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes, odd = 0;
    *scale = 1.5f;
    for (int i = 0; i < 1000; i++) {
        *scale = nextafterf(*scale, 2);
        if (qnt_packed_tensors(q, "bnb", tensors, &count, &bytes) == QNT_OK)
            continue;
        assert_message_has(ctx, "127th part of no number");
        odd++;
    }
    assert_true(odd > 0 && odd < 100);
    *scale = before;
}

static void test_refusals(void **state)
{
    static const char *const others[] = {"rtn", "gptq", "awq", "easyquant", "hqq", "smoothquant", "llm_int8,rtn"};
    qnt_context *ctx = context_of(1);
    float *w = random_floats(N, 5, 0.05f);
    qnt_qlinear *q = layer_of(ctx, "bnb4");
    struct qnti_grid *grid = &q->segments[0].weight->grid;
    (void)state;
    grid->map.cols = 48;
    refuse(ctx, q, "power of two");
    grid->map.cols = 64;
    q->segments[0].weight->table[3] = 0;
    refuse(ctx, q, "levels other");
    qnt_qlinear_destroy(q);
    q = layer_of(ctx, "llm_int8");
    q->act->range_of_kept = false;
    refuse(ctx, q, "activation quantizer");
    q->act->range_of_kept = true;
    refuse_odd_scale(ctx, q);
    q->segments[0].weight->grid.scale_type = QNT_F16;
    refuse(ctx, q, "scales of F32");
    qnt_qlinear_destroy(q);
    for (size_t i = 0; i < COUNT(others); i++) {
        qnt_status status = quantize_with(ctx, others[i], "bnb", qnt_matrix_f32(w, OUT, IN), w, NULL, OUT, &q);
        assert_true(status == QNT_UNSUPPORTED || status == QNT_INVALID);
        assert_null(q);
    }
    assert_fails(ctx, quantize_with(ctx, "rtn", "bnb", qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q), QNT_UNSUPPORTED,
                 "format bnb holds the grids of bnb4, llm_int8, not that of method rtn");
    assert_fails(ctx, quantize_with(ctx, "hqq", "gptq", qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0, &q), QNT_UNSUPPORTED,
                 "these can: native");
    assert_fails(ctx, quantize_with(ctx, "llm_int8:outlier_weights=fp16", "bnb", qnt_matrix_f32(w, OUT, IN), NULL,
                                    NULL, 0, &q), QNT_INVALID, "outlier_weights=fp16; native can");
    assert_ok(ctx, quantize_with(ctx, "llm_int8:outlier_weights=fp16", NULL, qnt_matrix_f32(w, OUT, IN), NULL, NULL, 0,
                                 &q));
    refuse(ctx, q, "a copy of all weights");
    qnt_qlinear_destroy(q);
    free(w);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),     cmocka_unit_test(test_nested),        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_ranges),     cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_other_writers),
        cmocka_unit_test(test_damage),     cmocka_unit_test(test_bad_state),     cmocka_unit_test(test_bad_numbers),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
