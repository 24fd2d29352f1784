/*
 * test_compressed_damage.c - compressed-tensors' tensors of a layer, damaged, and every allocation failing in turn.
 */
#include "compressed_support.h"

enum damage { DTYPE, RANK, ROWS, COLS, MISSING, DAMAGES };

/* The tensor with other sizes, whose bytes stay inside the buffer. */
static void damage_tensor(struct packed *p, size_t i, enum damage what)
{
    qnt_packed_tensor *t = &p->tensors[i];
    if (what == DTYPE)
        t->dtype = t->dtype == QNT_U8 ? QNT_I8 : t->dtype == QNT_I8 || t->dtype == QNT_F8_E4M3 ? QNT_U8 : QNT_I32;
    if (what == DTYPE && p->tensors[i].dtype == QNT_I32 && qnti_dtype_bytes(t->dtype) * t->shape[0] > t->bytes)
        t->dtype = QNT_U8;
    if (what == RANK)
        t->rank = 3 - t->rank;
    t->shape[0] -= what == ROWS && t->shape[0] > 1;
    t->shape[1] -= what == COLS && t->shape[1] > 1;
    if (what == MISSING)
        t->name = "other";
    t->bytes = qnti_dtype_bytes(t->dtype) * t->shape[0] * (t->rank == 2 ? t->shape[1] : 1);
}

static bool changed(const qnt_packed_tensor *a, const qnt_packed_tensor *b)
{
    return strcmp(a->name, b->name) || a->dtype != b->dtype || a->rank != b->rank || a->shape[0] != b->shape[0] ||
           (a->rank == 2 && a->shape[1] != b->shape[1]);
}

static void test_damage(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t c = 0; c < COUNT(cases); c++) {
        qnt_qlinear *q = layer_of(ctx, c), *back;
        struct qnti_ct_scheme scheme;
        struct packed p;
        pack(ctx, q, cases[c].format, &p);
        qnti_ct_scheme_of(q, &scheme);
        for (size_t i = 0; i < p.count; i++)
            for (enum damage what = 0; what < DAMAGES; what++) {
                struct packed broken = p;
                damage_tensor(&broken, i, what);
                if (!changed(&p.tensors[i], &broken.tensors[i]) ||
                    broken.tensors[i].offset + broken.tensors[i].bytes > p.bytes)
                    continue;
                if (unpack_by(ctx, &broken, &scheme, &back) == QNT_OK && (what == ROWS || what == COLS) &&
                    i == 0) {
                    qnt_qlinear_destroy(back); /* a smaller layer: the model misses the rest */
                    continue;
                }
                if (back)
                    fail_msg("%s %s: %s with damage %d", cases[c].format, cases[c].recipe, p.tensors[i].name, what);
                assert_message_has(ctx, "some.layer");
                assert_null(back);
            }
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    destroy_context(ctx, held);
}

/* A byte that is no number where it stands, found with its place. */
static void test_bad_numbers(void **state)
{
    static const struct {
        size_t at;
        const char *tensor;
        size_t byte;
        uint8_t value;
        const char *part;
    } bad[] = {
        {12, "weight", 100, 0x7f, "holds 127 at row 1, column 28"}, {14, "weight", 72, 0xff, "holds 255 at row 1"},
        {17, "weight_scale", 5, 0x7f, "holds 127 at row 1"},        {19, "weight_scale", 3, 255, "holds 255 at row 1"},
        {17, "weight_global_scale", 3, 0xc0, "above 0"},            {14, "input_scale", 3, 0xff, "above 0"},
        {1, "weight_shape", 0, 41, "weight_shape says (41, 72)"},   {0, "weight_shape", 8, 200, "expected 25"},
        {0, "weight_scale", 3, 0xff, "not finite"},
    };
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        qnt_qlinear *q = layer_of(ctx, bad[i].at), *back;
        struct qnti_ct_scheme scheme;
        struct packed p;
        pack(ctx, q, cases[bad[i].at].format, &p);
        qnti_ct_scheme_of(q, &scheme);
        p.buffer[tensor(&p, bad[i].tensor)->offset + bad[i].byte] = bad[i].value;
        if (bad[i].value == 0xff && strcmp(bad[i].tensor, "weight") != 0)
            p.buffer[tensor(&p, bad[i].tensor)->offset + bad[i].byte - 1] = 0xff;
        assert_fails(ctx, unpack_by(ctx, &p, &scheme, &back), QNT_BAD_DATA, bad[i].part);
        free(p.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

/* What the configuration says must be what the tensors are. */
static void test_other_scheme(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = layer_of(ctx, 0), *back;
    struct qnti_ct_scheme scheme, wrong;
    struct packed p;
    (void)state;
    pack(ctx, q, "compressed-tensors", &p);
    qnti_ct_scheme_of(q, &scheme);
    wrong = scheme;
    wrong.weights.bits = 8;
    assert_fails(ctx, unpack_by(ctx, &p, &wrong, &back), QNT_BAD_DATA, "expected 24");
    wrong = scheme;
    wrong.weights.group = 16;
    assert_fails(ctx, unpack_by(ctx, &p, &wrong, &back), QNT_BAD_DATA, "configuration says 4 by group, groups of 16");
    wrong = scheme;
    wrong.format = "int-quantized";
    assert_fails(ctx, unpack_by(ctx, &p, &wrong, &back), QNT_BAD_DATA, "int-quantized");
    wrong = scheme;
    wrong.weights.sym = false;
    assert_fails(ctx, unpack_by(ctx, &p, &wrong, &back), QNT_BAD_DATA, "no tensor weight_zero_point");
    wrong = scheme;
    wrong.inputs = (struct qnti_ct_args){.present = true, .bits = 8, .sym = true, .strategy = QNTI_CT_TENSOR};
    assert_fails(ctx, unpack_by(ctx, &p, &wrong, &back), QNT_BAD_DATA, "no tensor input_scale");
    free(p.buffer);
    qnt_qlinear_destroy(q);
    qnt_context_destroy(ctx);
}

struct memory_case {
    struct packed p;
    const char *format;
    struct qnti_ct_scheme scheme;
};

static qnt_status unpack_and_pack(qnt_context *ctx, void *arg)
{
    const struct memory_case *m = arg;
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes;
    void *buffer = NULL;
    qnt_qlinear *q;
    qnt_status status = unpack_by(ctx, &m->p, &m->scheme, &q);
    if (status == QNT_OK)
        status = qnt_packed_tensors(q, m->format, tensors, &count, &bytes);
    if (status == QNT_OK) {
        buffer = new_memory(bytes, 1);
        status = qnt_pack(q, m->format, buffer, bytes);
    }
    free(buffer);
    qnt_qlinear_destroy(q);
    return status;
}

static void test_memory(void **state)
{
    static const size_t picked[] = {1, 11, 16, 18};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(picked); i++) {
        qnt_qlinear *q = layer_of(ctx, picked[i]);
        struct memory_case m = {.format = cases[picked[i]].format};
        pack(ctx, q, m.format, &m.p);
        qnti_ct_scheme_of(q, &m.scheme);
        each_allocation_fails(unpack_and_pack, &m);
        free(m.p.buffer);
        qnt_qlinear_destroy(q);
    }
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_bad_numbers),
        cmocka_unit_test(test_other_scheme),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
