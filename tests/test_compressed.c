/*
 * test_compressed.c - compressed-tensors' tensors of a layer: byte by byte, both ways, what cannot be held.
 *
 * The plain packers below know the format by its definition alone.
 */
#include "compressed_support.h"

/* --- bytes --- */

static unsigned bits_at(const uint8_t *words, size_t stride, size_t column, size_t k, unsigned bits)
{
    unsigned code = 0;
    for (unsigned b = 0; b < bits; b++) { /* word j of a stream at words + 4 (j stride + column) */
        size_t bit = k * bits + b;
        code |= (unsigned)(words[4 * (bit / 32 * stride + column) + bit % 32 / 8] >> bit % 8 & 1) << b;
    }
    return code;
}

static void check_words(const struct packed *p, const struct qnti_numbers *w)
{
    unsigned bits = w->grid.bits;
    size_t words = (w->cols * bits + 31) / 32, groups = w->scale->cols;
    const uint8_t *bytes = data(p, "weight_packed");
    int64_t shape[2];
    assert_int_equal(tensor(p, "weight_packed")->shape[1], words);
    for (size_t r = 0; r < w->rows; r++) {
        for (size_t c = 0; c < w->cols; c++)
            assert_int_equal(bits_at(bytes + 4 * words * r, 1, 0, c, bits), w->code8[r * w->cols + c]);
        for (size_t b = w->cols * bits; b < 32 * words; b++)
            assert_int_equal(bytes[4 * words * r + b / 8] >> b % 8 & 1, 0);
    }
    memcpy(shape, data(p, "weight_shape"), sizeof shape);
    assert_true(shape[0] == (int64_t)w->rows && shape[1] == (int64_t)w->cols);
    assert_int_equal(tensor(p, "weight_zero_point") != NULL, w->offset != NULL);
    for (size_t i = 0; w->offset && i < w->rows * groups; i++)
        assert_int_equal(bits_at(data(p, "weight_zero_point"), groups, i % groups, i / groups, bits),
                         (int)w->offset->value[i]);
}

static void check_bytes(const struct packed *p, const struct qnti_numbers *w)
{
    int middle = 1 << (w->grid.bits - 1);
    const uint8_t *bytes = data(p, "weight");
    for (size_t i = 0; i < w->rows * w->cols; i++)
        assert_int_equal((int8_t)bytes[i], (int)w->code8[i] - middle);
    for (size_t i = 0; w->offset && i < w->offset->rows * w->offset->cols; i++)
        assert_int_equal((int8_t)data(p, "weight_zero_point")[i], (int)w->offset->value[i] - middle);
}

static void check_halves(const struct packed *p, const struct qnti_numbers *w)
{
    const uint8_t *bytes = data(p, "weight_packed"), *scale = data(p, "weight_scale");
    size_t n = w->scale->rows * w->scale->cols;
    float divisor;
    for (size_t i = 0; i < w->rows * w->cols; i++)
        assert_int_equal(bytes[i / 2] >> 4 * (i % 2) & 15, w->code8[i]);
    for (size_t i = 0; !w->grid.scale_grid && i < n; i++)
        assert_true(ldexpf(1, scale[i] - 127) == w->scale->value[i]);
    if (!w->grid.scale_grid)
        return;
    memcpy(&divisor, data(p, "weight_global_scale"), sizeof divisor);
    for (size_t i = 0; i < n; i++)
        assert_true(qnti_small_value(&qnti_e4m3, scale[i]) / divisor == w->scale->value[i]);
}

static void check_scales(const struct packed *p, const struct qnti_numbers *w)
{
    const qnt_packed_tensor *t = tensor(p, "weight_scale");
    assert_int_equal(t->rank, w->grid.map.rows ? 2 : 1);
    assert_int_equal(t->shape[0], w->scale->rows);
    if (t->rank == 2)
        assert_int_equal(t->shape[1], w->scale->cols);
    if (t->dtype == QNT_F32)
        assert_memory_equal(data(p, "weight_scale"), w->scale->value, t->bytes);
}

static void test_bytes(void **state)
{
    qnt_context *ctx = context_of(2);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        qnt_qlinear *q = layer_of(ctx, i);
        const struct qnti_numbers *w = q->segments[0].weight;
        struct packed p;
        pack(ctx, q, cases[i].format, &p);
        if (w->grid.form == QNTI_FORM_ZERO)
            (q->act ? check_bytes : check_words)(&p, w);
        else if (w->grid.bits == 4)
            check_halves(&p, w);
        else
            assert_memory_equal(data(&p, "weight"), w->code8, w->rows * w->cols);
        check_scales(&p, w);
        assert_int_equal(tensor(&p, "input_scale") != NULL, q->act && q->act->fixed);
        assert_int_equal(tensor(&p, "input_global_scale") != NULL, q->act && q->act->grid.scale_grid);
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

/* Words of the sheet by hand: codes 0 .. 7 less their middle, zeros down a column. */
static void test_words(void **state)
{
    static const float w[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    static const uint32_t wanted[] = {0x76543210, 0xfedcba98};
    qnt_context *ctx = context_of(1);
    struct qnti_grid *grid;
    struct packed p;
    qnt_qlinear *q;
    (void)state;
    assert_ok(ctx, quantize_with(ctx, "rtn:bits=4,group_size=0,sym=false", "compressed-tensors",
                                 qnt_matrix_f32(w, 1, 16), NULL, NULL, 0, &q));
    grid = &q->segments[0].weight->grid;
    assert_true(q->segments[0].weight->scale->value[0] == 1 && q->segments[0].weight->offset->value[0] == 8);
    pack(ctx, q, "compressed-tensors", &p);
    assert_memory_equal(data(&p, "weight_packed"), wanted, sizeof wanted);
    assert_int_equal(data(&p, "weight_zero_point")[0], 8);
    assert_int_equal(tensor(&p, "weight_zero_point")->bytes, 4);
    assert_int_equal(grid->bits, 4);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* NVFP4 by its formulas: g = 448 * 6 / max|W|, scale = E4M3(g max / 6), code = E2M1(x / (scale / g)). */
static void test_nvfp4(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t at = 17, n = cases[at].out * cases[at].in;
    float *w = random_floats(n, 9, 0.05f), most = 0, g;
    struct packed p;
    qnt_qlinear *q;
    (void)state;
    memset(w, 0, 16 * sizeof *w);
    assert_ok(ctx, quantize_with(ctx, "rtn", cases[at].format, qnt_matrix_f32(w, cases[at].out, cases[at].in), NULL,
                                 NULL, 0, &q));
    pack(ctx, q, cases[at].format, &p);
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(w[i]));
    memcpy(&g, data(&p, "weight_global_scale"), sizeof g);
    assert_true(g == 2688 / most);
    for (size_t k = 0; k < n / 16; k++) {
        float group = 0, scale;
        uint8_t code;
        for (size_t i = 0; i < 16; i++)
            group = fmaxf(group, fabsf(w[16 * k + i]));
        code = (uint8_t)qnti_small_code(&qnti_e4m3, group / 6 * g);
        code = code ? code : 0x20; /* 0.125 */
        assert_int_equal(data(&p, "weight_scale")[k], code);
        scale = qnti_small_value(&qnti_e4m3, code) / g;
        for (size_t i = 0; i < 16; i++)
            assert_int_equal(q->segments[0].weight->code8[16 * k + i],
                             qnti_small_code(&qnti_e2m1, w[16 * k + i] / scale));
    }
    free(p.buffer);
    free(w);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* Layers of a site share the global scale: that of the largest weight. */
static void test_shared_scale(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats(3 * 8 * 32, 9, 0.05f);
    qnt_recipe *recipe = recipe_of(ctx, "rtn");
    qnt_layer layers[3] = {0};
    qnt_qlinear *q[3];
    (void)state;
    w[300] = 2;
    for (size_t i = 0; i < 3; i++)
        layers[i] = (qnt_layer){.name = "some.layer", .weight = qnt_matrix_f32(w + 256 * i, 8, 32),
                                .format = "compressed-tensors:nvfp4a16"};
    assert_ok(ctx, qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = layers, .count = 3}, q));
    for (size_t i = 0; i < 3; i++) {
        assert_true(q[i]->segments[0].weight->grid.scale_grid->divisor == 1344);
        qnt_qlinear_destroy(q[i]);
    }
    qnt_recipe_destroy(recipe);
    free(w);
    qnt_context_destroy(ctx);
}

/* Maxima at and below 1.75 times a power of two. */
static void test_powers_of_two(void **state)
{
    static const struct {
        float most;
        uint8_t scale;
    } wanted[] = {{6, 127}, {6.9f, 127}, {7, 128}, {1, 125}, {1.74f, 125}, {1.75f, 126}, {0, 0}, {1e-38f, 0},
                  {2e38f, 252}};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(wanted); i++) {
        float w[32] = {0, wanted[i].most};
        struct packed p;
        qnt_qlinear *q;
        assert_ok(ctx, quantize_with(ctx, "rtn", "compressed-tensors:mxfp4a16", qnt_matrix_f32(w, 1, 32), NULL, NULL, 0,
                                     &q));
        pack(ctx, q, "compressed-tensors:mxfp4a16", &p);
        assert_int_equal(data(&p, "weight_scale")[0], wanted[i].scale);
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

/* --- and back --- */

static void check_same(qnt_context *ctx, const qnt_qlinear *q, const qnt_qlinear *back)
{
    float *w = dequantized(ctx, q), *v = dequantized(ctx, back);
    assert_memory_equal(q->segments[0].weight->code8, back->segments[0].weight->code8, q->out * q->in);
    for (size_t i = 0; i < q->out * q->in; i++)
        assert_true(w[i] == v[i]);
    free(w);
    free(v);
}

/* The same inputs are rounded to the same numbers, but for the integers' rule of the range: 127 or 127.5 steps. */
static void check_inputs(qnt_context *ctx, const qnt_qlinear *q, const qnt_qlinear *back)
{
    float *x = random_tokens(TOKENS, q->in, 8), *y, *z;
    assert_int_equal(q->act != NULL, back->act != NULL);
    if (q->act) {
        y = new_memory(TOKENS * q->in, sizeof *y);
        z = new_memory(TOKENS * q->in, sizeof *z);
        q->act->grid.absmax = back->act->grid.absmax;
        q->act->grid.real_offset = back->act->grid.real_offset;
        assert_ok(ctx, qnti_actquant_apply(ctx, q->act, x, TOKENS, q->in, q->in, y, NULL));
        assert_ok(ctx, qnti_actquant_apply(ctx, back->act, x, TOKENS, q->in, q->in, z, NULL));
        for (size_t i = 0; i < TOKENS * q->in; i++)
            assert_true(y[i] == z[i]);
        free(y);
        free(z);
    }
    free(x);
}

static void check_again(const struct packed *p, const struct packed *again)
{
    assert_int_equal(p->count, again->count);
    assert_int_equal(p->bytes, again->bytes);
    for (size_t i = 0; i < p->count; i++) {
        assert_string_equal(p->tensors[i].name, again->tensors[i].name);
        assert_int_equal(p->tensors[i].dtype, again->tensors[i].dtype);
    }
    assert_memory_equal(p->buffer, again->buffer, p->bytes);
}

static void test_round_trip(void **state)
{
    static const qnt_dtype types[] = {QNT_F32, QNT_F16, QNT_BF16};
    qnt_context *ctx = context_of(2);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        qnt_qlinear *q = layer_of(ctx, i), *back, *plain;
        struct packed p, again;
        struct qnti_ct_scheme scheme, other;
        q->source_type = types[i % 3];
        pack(ctx, q, cases[i].format, &p);
        qnti_ct_scheme_of(q, &scheme);
        assert_ok(ctx, unpack_by(ctx, &p, &scheme, &back));
        qnti_ct_scheme_of(back, &other);
        assert_true(qnti_ct_same_scheme(&scheme, &other));
        check_same(ctx, q, back);
        pack(ctx, back, cases[i].format, &again);
        check_again(&p, &again);
        check_inputs(ctx, q, back);
        assert_ok(ctx, qnt_unpack(ctx, cases[i].format, "some.layer", p.tensors, p.count, p.buffer, p.bytes, &plain));
        if (scheme.weights.bits == plain->segments[0].weight->grid.bits)
            check_same(ctx, q, plain);
        free(p.buffer);
        free(again.buffer);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(back);
        qnt_qlinear_destroy(plain);
    }
    qnt_context_destroy(ctx);
}

/* Native files hold small floats, their scales and quantized inputs as they are. */
static void test_native(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        qnt_qlinear *q = layer_of(ctx, i), *back;
        struct packed p, again;
        size_t bytes;
        unsigned char *file = native_bytes(ctx, q, &bytes);
        assert_ok(ctx, native_read(ctx, file, bytes, q->name, &back));
        check_same(ctx, q, back);
        assert_true(qnti_qlinear_bits(q) == qnti_qlinear_bits(back));
        pack(ctx, q, cases[i].format, &p);
        pack(ctx, back, cases[i].format, &again);
        check_again(&p, &again);
        check_inputs(ctx, q, back);
        free(file);
        free(p.buffer);
        free(again.buffer);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(back);
    }
    qnt_context_destroy(ctx);
}

/* Scales are stored in the source's type where that is exact. */
static void test_scale_types(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = layer_of(ctx, 0);
    float *scale = q->segments[0].weight->scale->value;
    struct packed p;
    (void)state;
    for (qnt_dtype type = QNT_F32; type <= QNT_BF16; type++) {
        q->source_type = type;
        pack(ctx, q, "compressed-tensors", &p);
        assert_int_equal(tensor(&p, "weight_scale")->dtype, type);
        free(p.buffer);
    }
    scale[1] = 0x1.02p-20f;
    q->source_type = QNT_F16;
    pack(ctx, q, "compressed-tensors", &p);
    assert_int_equal(tensor(&p, "weight_scale")->dtype, QNT_BF16);
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

/* --- what cannot be held --- */

static void refuse(qnt_context *ctx, const char *recipe, const char *made_for, const char *format, const char *part)
{
    float *w = random_floats(8 * 64, 5, 0.05f), *x = random_tokens(TOKENS, 64, 6);
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes;
    qnt_qlinear *q;
    assert_ok(ctx, quantize_with(ctx, recipe, made_for, qnt_matrix_f32(w, 8, 64), x, NULL, TOKENS, &q));
    assert_fails(ctx, qnt_packed_tensors(q, format, tensors, &count, &bytes), QNT_UNSUPPORTED, part);
    assert_message_has(ctx, "some.layer");
    qnt_qlinear_destroy(q);
    free(w);
    free(x);
}

static void refuse_recipe(qnt_context *ctx, const char *recipe, const char *format, qnt_status status, const char *part)
{
    float *w = random_floats(8 * 64, 5, 0.05f), *x = random_tokens(TOKENS, 64, 6);
    qnt_qlinear *q;
    assert_fails(ctx, quantize_with(ctx, recipe, format, qnt_matrix_f32(w, 8, 64), x, NULL, TOKENS, &q), status, part);
    free(w);
    free(x);
}

static void test_refusals(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    refuse(ctx, "rtn:bits=9", NULL, "compressed-tensors", "9 bits");
    refuse(ctx, "rtn:bits=3", NULL, "compressed-tensors:w4a16", "3 bits");
    refuse(ctx, "rtn:group_size=48", NULL, "compressed-tensors", "groups of 48");
    refuse(ctx, "rtn:per_tensor=true,sym=false", NULL, "compressed-tensors", "one zero for the whole tensor");
    refuse(ctx, "bnb4", NULL, "compressed-tensors", "levels other than");
    refuse(ctx, "spqr", NULL, "compressed-tensors", "cannot hold");
    refuse(ctx, "smoothquant", "compressed-tensors", "compressed-tensors:w8a16", "an activation quantizer");
    refuse(ctx, "rtn", NULL, "compressed-tensors:fp8", "is not that of format");
    refuse(ctx, "rtn", "compressed-tensors:mxfp4", "compressed-tensors:nvfp4", "is not that of format");
    refuse(ctx, "rtn", "compressed-tensors:fp8-dynamic", "compressed-tensors:fp8", "is not that of format");
    refuse(ctx, "rtn", "compressed-tensors:fp8-dynamic", "compressed-tensors", "not (code - zero)");
    refuse(ctx, "llm_int8", NULL, "compressed-tensors", "an activation quantizer");
    refuse_recipe(ctx, "rotation:act_bits=8,act_clip=0.9", "compressed-tensors", QNT_UNSUPPORTED, "clipped");
    refuse_recipe(ctx, "rtn:bits=4", "compressed-tensors:fp8", QNT_INVALID, "prescribes its grid");
    refuse_recipe(ctx, "smoothquant:act_bits=8", "compressed-tensors:fp8", QNT_INVALID, "no other than its own");
    refuse_recipe(ctx, "smoothquant:act_bits=8", "compressed-tensors:w4a16", QNT_INVALID, "holds no");
    qnt_context_destroy(ctx);
}

/* Static inputs without calibration cannot be. */
static void test_no_calibration(void **state)
{
    static const char *const formats[] = {"compressed-tensors:fp8", "compressed-tensors:nvfp4"};
    qnt_context *ctx = context_of(1);
    float *w = random_floats(8 * 64, 5, 0.05f);
    qnt_qlinear *q;
    (void)state;
    for (size_t i = 0; i < COUNT(formats); i++)
        assert_fails(ctx, quantize_with(ctx, "rtn", formats[i], qnt_matrix_f32(w, 8, 64), NULL, NULL, 0, &q),
                     QNT_INVALID, "needs calibration");
    free(w);
    qnt_context_destroy(ctx);
}

/* Short rows of other widths than 4 and 8 would not be told from those. */
static void test_widths(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats(8 * 7, 5, 0.05f);
    (void)state;
    for (unsigned bits = 1; bits <= 8; bits++) {
        qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
        size_t count, bytes;
        char recipe[64];
        qnt_qlinear *q;
        for (size_t n = 32; n < 200; n++)
            assert_int_equal(qnti_ct_width(n, qnti_ct_words(n, bits)), bits);
        snprintf(recipe, sizeof recipe, "rtn:bits=%u,group_size=0", bits);
        assert_ok(ctx, quantize_with(ctx, recipe, "compressed-tensors", qnt_matrix_f32(w, 8, 7), NULL, NULL, 0, &q));
        if (bits == 4 || bits == 8)
            assert_ok(ctx, qnt_packed_tensors(q, "compressed-tensors", tensors, &count, &bytes));
        else
            assert_fails(ctx, qnt_packed_tensors(q, "compressed-tensors", tensors, &count, &bytes), QNT_UNSUPPORTED,
                         "rows so short");
        qnt_qlinear_destroy(q);
    }
    free(w);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_nvfp4),
        cmocka_unit_test(test_shared_scale),
        cmocka_unit_test(test_powers_of_two),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_native),
        cmocka_unit_test(test_scale_types),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_calibration),
        cmocka_unit_test(test_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
