/*
 * test_model_imatrix.c - importance matrices in both formats: back and forth, sums, what damaged files are refused for.
 */
#include "export_support.h"
#include "imatrix_support.h"

#include <math.h>

static struct qnti_imatrix *some_matrix(qnt_context *ctx, enum qnti_imatrix_kind kind)
{
    struct qnti_imatrix *m;
    assert_int_equal(qnti_imatrix_create(ctx, &m), QNT_OK);
    m->kind = kind;
    m->chunks = 3;
    m->chunk_size = kind == QNTI_IMATRIX_GGUF ? 16 : 0;
    add(m, "blk.1.ffn_up.weight", 5, 1, 1, 7);
    add(m, "blk.0.attn_q.weight", 8, 1, 0, 48);
    if (kind == QNTI_IMATRIX_GGUF)
        add(m, "blk.0.ffn_down_exps.weight", 4, 3, 2, 0);
    assert_int_equal(qnti_imatrix_add_text(m, "a.txt", 5), QNT_OK);
    assert_int_equal(qnti_imatrix_add_text(m, "a.txt", 5), QNT_OK); /* once */
    assert_int_equal(qnti_imatrix_sort(m, "made"), QNT_OK);
    return m;
}

static void compare_matrices(const struct qnti_imatrix *a, const struct qnti_imatrix *b, float factor)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        const struct qnti_imatrix_entry *x = &a->entries[i], *y = &b->entries[i];
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->in, y->in);
        assert_int_equal(x->matrices, y->matrices);
        for (size_t k = 0; k < x->in * x->matrices; k++)
            assert_true(factor * x->sums[k] == y->sums[k]);
        for (size_t k = 0; k < x->matrices; k++)
            assert_true(factor * x->counts[k] == y->counts[k]);
        assert_ptr_equal(qnti_imatrix_find(b, x->name), y);
    }
    assert_null(qnti_imatrix_find(b, "blk.7.attn_q.weight"));
}

static void test_round_trip(void **state)
{
    struct failing failing = {-1};
    qnt_context *ctx = context_with(&failing);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (enum qnti_imatrix_kind kind = QNTI_IMATRIX_GGUF; kind <= QNTI_IMATRIX_DAT; kind++) {
        struct qnti_imatrix *a = some_matrix(ctx, kind), *b, *c;
        assert_int_equal(qnti_imatrix_write(a, "m"), QNT_OK);
        assert_int_equal(qnti_imatrix_open(ctx, "m", &b), QNT_OK);
        assert_int_equal(b->kind, kind);
        assert_int_equal(b->chunks, 3);
        assert_int_equal(b->chunk_size, a->chunk_size);
        assert_int_equal(b->text_count, 1);
        assert_string_equal(b->texts[0], "a.txt");
        compare_matrices(a, b, 1);
        assert_int_equal(qnti_imatrix_open(ctx, "m", &c), QNT_OK);
        assert_int_equal(qnti_imatrix_merge(c, a, "a"), QNT_OK);
        compare_matrices(a, c, 2);
        assert_int_equal(c->chunks, 6);
        qnti_imatrix_close(a);
        qnti_imatrix_close(b);
        qnti_imatrix_close(c);
    }
    unlink("m");
    assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    qnt_context_destroy(ctx);
}

/* The tensors of a GGUF as llama.cpp names and shapes them. */
static void test_conventions(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_imatrix *m = some_matrix(ctx, QNTI_IMATRIX_GGUF);
    struct qnti_gguf *file;
    const struct qnti_gguf_tensor *t;
    const struct qnti_gguf_value *v;
    (void)state;
    assert_int_equal(qnti_imatrix_write(m, "m"), QNT_OK);
    assert_int_equal(qnti_gguf_open(ctx, "m", qnti_ggml_type_size, &file), QNT_OK);
    assert_int_equal(file->tensor_count, 6);
    assert_string_equal(file->tensors[0].name, "blk.0.attn_q.weight.in_sum2");
    assert_string_equal(file->tensors[1].name, "blk.0.attn_q.weight.counts");
    t = qnti_gguf_find_tensor(file, "blk.0.ffn_down_exps.weight.counts");
    assert_true(t && t->rank == 2 && t->ne[0] == 1 && t->ne[1] == 3 && t->type == 0);
    t = qnti_gguf_find_tensor(file, "blk.1.ffn_up.weight.in_sum2");
    assert_true(t && t->rank == 1 && t->ne[0] == 5);
    v = qnti_gguf_find(file, "imatrix.chunk_count");
    assert_true(v && v->type == QNTI_GGUF_U32 && !v->array);
    v = qnti_gguf_find(file, "imatrix.datasets");
    assert_true(v && v->type == QNTI_GGUF_STRING && v->array && v->count == 1);
    qnti_gguf_close(file);
    qnti_imatrix_close(m);
    unlink("m");
    qnt_context_destroy(ctx);
}

static void refuses(qnt_context *ctx, const void *bytes, size_t n, const char *says)
{
    struct qnti_imatrix *m;
    unsigned char *copy = exact_copy(bytes, n);
    assert_int_equal(qnti_imatrix_open_memory(ctx, "some file", copy, n, &m), QNT_BAD_DATA);
    assert_null(m);
    assert_message_has(ctx, "some file");
    assert_message_has(ctx, says);
    free(copy);
}

/* i32 and f32 of a .dat, in words. */
static void test_bad_dat(void **state)
{
    enum { ONE = 0x3f800000, A = 0x61616161 };
    static const struct {
        uint32_t words[12];
        size_t n;
        const char *says;
    } cases[] = {
        {{0}, 0, "number of entries"},
        {{0}, 4, "is 0, expected 1"},
        {{0xffffffff}, 4, "is -1"},
        {{1, 0}, 8, "length of its name"},
        {{1, 4, A, 1}, 15, "number of calls"},
        {{1, 0x7fffffff, A, 1, 1, ONE}, 24, "its name needs 2147483647 bytes"},
        {{1, 4, 0, 1, 1, ONE}, 24, "NUL"},
        {{1, 4, A, 0xffffffff, 1, ONE}, 24, "calls is -1"},
        {{1, 4, A, 1, 0, ONE}, 24, "values is 0"},
        {{1, 4, A, 1, 0x7fffffff, ONE}, 24, "values needs"},
        {{1, 4, A, 1, 1, 0x7f800000}, 24, "number 0 is inf"},
        {{1, 4, A, 1, 1, 0xbf800000}, 24, "number 0 is -1"},
        {{2, 4, A, 1, 1, ONE}, 24, "entry 2"},
        {{2, 4, A, 1, 1, ONE, 4, A, 1, 1, ONE}, 44, "twice"},
        {{1, 4, A, 1, 1, ONE, 0xffffffff}, 28, "windows"},
        {{1, 4, A, 1, 1, ONE, 1, 9, A}, 36, "text's name"},
        {{1, 4, A, 1, 1, ONE, 1, 4, A, 0}, 40, "4 bytes stand behind"},
    };
    qnt_context *ctx = context_with(NULL);
    struct qnti_imatrix *m;
    uint32_t sound[] = {1, 4, A, 2, 1, ONE};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        refuses(ctx, cases[i].words, cases[i].n, cases[i].says);
    assert_int_equal(qnti_imatrix_open_memory(ctx, "sound", sound, sizeof sound, &m), QNT_OK);
    assert_true(m->count == 1 && m->entries[0].sums[0] == 1 && m->entries[0].counts[0] == 2 && m->chunks == 0);
    qnti_imatrix_close(m);
    qnt_context_destroy(ctx);
}

/* One GGUF with a few things wrong at a time. */
struct wrong {
    const char *type, *sums, *counts;
    size_t in, sums_rows, counts_cols, counts_rows;
    uint32_t ggml;
    float number;
    const char *says;
};

static qnt_status write_numbers(void *user, struct qnti_output *output)
{
    const struct wrong *w = user;
    float x[16];
    for (size_t i = 0; i < COUNT(x); i++)
        x[i] = w->number;
    return qnti_output_write(output, x, w->in * w->sums_rows * sizeof *x);
}

static qnt_status write_counts(void *user, struct qnti_output *output)
{
    static const float ones[16] = {1, 1, 1, 1};
    const struct wrong *w = user;
    return qnti_output_write(output, ones, w->counts_cols * w->counts_rows * sizeof *ones);
}

static void write_wrong(qnt_context *ctx, struct wrong *w)
{
    struct qnti_gguf_writer writer;
    struct qnti_output *output;
    size_t sums[2] = {w->in, w->sums_rows}, counts[2] = {w->counts_cols, w->counts_rows};
    qnti_gguf_writer_init(ctx, &writer);
    if (w->type)
        assert_int_equal(qnti_gguf_put_string(&writer, "general.type", w->type, strlen(w->type)), QNT_OK);
    if (w->sums)
        assert_int_equal(qnti_gguf_add_tensor(&writer, w->sums, 2, sums, w->ggml, 4 * sums[0] * sums[1], write_numbers,
                                              w), QNT_OK);
    if (w->counts)
        assert_int_equal(qnti_gguf_add_tensor(&writer, w->counts, 2, counts, 0, 4 * counts[0] * counts[1], write_counts,
                                              w), QNT_OK);
    assert_int_equal(qnti_output_create(ctx, "m", &output), QNT_OK);
    assert_int_equal(qnti_gguf_write(&writer, output), QNT_OK);
    assert_int_equal(qnti_output_commit(output), QNT_OK);
    qnti_gguf_writer_free(&writer);
}

static void test_bad_gguf(void **state)
{
    struct wrong cases[] = {
        {"imatrix", "a.in_sum2", "a.counts", 4, 2, 1, 2, 0, 1, NULL},
        {"model", "a.in_sum2", "a.counts", 4, 1, 1, 1, 0, 1, "general.type is model"},
        {NULL, "a.in_sum2", "a.counts", 4, 1, 1, 1, 0, 1, "general.type is missing"},
        {"imatrix", "a.in_sum2", NULL, 4, 1, 1, 1, 0, 1, "a.in_sum2 has no counts"},
        {"imatrix", NULL, "a.counts", 4, 1, 1, 1, 0, 1, "a.counts has no in_sum2"},
        {"imatrix", "a.other", NULL, 4, 1, 1, 1, 0, 1, "holds no entry"},
        {"imatrix", "a.in_sum2", "a.counts", 4, 2, 1, 1, 0, 1, "a.counts"},
        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 2, 1, 0, 1, "a.counts"},
        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, 1, 26, 1, "type 26"},
        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, 1, 0, NAN, "sums of a: number 0 is nan"},
        {"imatrix", "a.in_sum2", "a.counts", 4, 1, 1, 1, 0, -1, "sums of a: number 0 is -1"},
    };
    qnt_context *ctx = context_with(NULL);
    struct qnti_imatrix *m;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_wrong(ctx, &cases[i]);
        assert_int_equal(qnti_imatrix_open(ctx, "m", &m), cases[i].says ? QNT_BAD_DATA : QNT_OK);
        if (cases[i].says)
            assert_message_has(ctx, cases[i].says);
        qnti_imatrix_close(m);
    }
    unlink("m");
    qnt_context_destroy(ctx);
}

static void test_merges_that_do_not_fit(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_imatrix *a = some_matrix(ctx, QNTI_IMATRIX_GGUF), *b = some_matrix(ctx, QNTI_IMATRIX_GGUF),
                        *c = some_matrix(ctx, QNTI_IMATRIX_GGUF), *d = some_matrix(ctx, QNTI_IMATRIX_GGUF);
    (void)state;
    add(b, "more", 3, 1, 1, 1);
    assert_int_equal(qnti_imatrix_sort(b, "b"), QNT_OK);
    assert_int_equal(qnti_imatrix_merge(a, b, "b.gguf"), QNT_INVALID);
    assert_message_has(ctx, "b.gguf: has more");
    assert_int_equal(qnti_imatrix_merge(b, a, "a.gguf"), QNT_INVALID);
    assert_message_has(ctx, "a.gguf: has no more");
    c->entries[0].in = 4;
    assert_int_equal(qnti_imatrix_merge(a, c, "c.gguf"), QNT_INVALID);
    assert_message_has(ctx, "4 channels");
    d->chunk_size = 512;
    assert_int_equal(qnti_imatrix_merge(a, d, "d.gguf"), QNT_INVALID);
    assert_message_has(ctx, "512");
    qnti_imatrix_close(a);
    qnti_imatrix_close(b);
    qnti_imatrix_close(c);
    qnti_imatrix_close(d);
    qnt_context_destroy(ctx);
}

static qnt_status matrix_round_trip(qnt_context *ctx, void *arg)
{
    static const float numbers[] = {1, 2, 3};
    struct qnti_imatrix *a = NULL, *b = NULL;
    qnt_status status;
    QNT_CHECK(qnti_imatrix_create(ctx, &a));
    a->kind = *(const enum qnti_imatrix_kind *)arg;
    QNT_CHECK(qnti_imatrix_add(a, "x", 3, 1, numbers, numbers));
    QNT_CHECK(qnti_imatrix_add(a, "y", 2, 1, numbers, numbers));
    QNT_CHECK(qnti_imatrix_add_text(a, "text", 4));
    QNT_CHECK(qnti_imatrix_sort(a, "a"));
    QNT_CHECK(qnti_imatrix_write(a, "m"));
    QNT_CHECK(qnti_imatrix_open(ctx, "m", &b));
    QNT_CHECK(qnti_imatrix_merge(b, a, "a"));
cleanup:
    qnti_imatrix_close(a);
    qnti_imatrix_close(b);
    unlink("m");
    return status;
}

static void test_no_memory(void **state)
{
    (void)state;
    for (enum qnti_imatrix_kind kind = QNTI_IMATRIX_GGUF; kind <= QNTI_IMATRIX_DAT; kind++)
        each_allocation_fails(matrix_round_trip, &kind);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_conventions),
        cmocka_unit_test(test_bad_dat),
        cmocka_unit_test(test_bad_gguf),
        cmocka_unit_test(test_merges_that_do_not_fit),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
