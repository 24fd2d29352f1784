/*
 * test_file.c - the public file functions: what is written is read back, and what does not fit is refused by name.
 */
#include "file_support.h"

#include <math.h>
#include <sys/stat.h>
#include <quant/file.h>

#define PATH "tensors.safetensors"

static const float numbers[6] = {1, -2, 0.5f, 3e-8f, 1e30f, -0.0f};
static const uint16_t halves[2] = {0x3c00, 0xc000};       /* 1, -2 */
static const uint16_t brains[3] = {0x3f80, 0x7f80, 0};    /* 1, infinity, 0 */
static const int32_t whole[4] = {-1, 0, 1, INT32_MAX};

static const qnt_tensor written[] = {
    {"matrix", "F32", 2, {2, 3}, numbers, sizeof numbers},
    {"half", "F16", 1, {2}, halves, sizeof halves},
    {"brain", "BF16", 3, {1, 3, 1}, brains, sizeof brains},
    {"codes", "I32", 2, {4, 1}, whole, sizeof whole},
    {"one", "F32", 0, {0}, numbers, 4},
    {"empty", "F32", 2, {0, 5}, NULL, 0},
};

static qnt_tensors *write_and_open(qnt_context *ctx)
{
    qnt_tensors *file;
    assert_int_equal(qnt_tensors_write(ctx, PATH, written, COUNT(written)), QNT_OK);
    assert_int_equal(qnt_tensors_open(ctx, PATH, &file), QNT_OK);
    return file;
}

static void close_and_remove(qnt_context *ctx, qnt_tensors *file)
{
    qnt_tensors_close(file);
    assert_int_equal(unlink(PATH), 0);
    qnt_context_destroy(ctx);
}

static void test_round_trip(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_tensors *file = write_and_open(ctx);
    qnt_tensor t;
    (void)state;
    assert_int_equal(qnt_tensors_count(file), COUNT(written));
    for (size_t i = 0; i < COUNT(written); i++) {
        const qnt_tensor *w = &written[i];
        assert_true(qnt_tensors_find(file, w->name, &t));
        assert_string_equal(t.name, w->name);
        assert_string_equal(t.dtype, w->dtype);
        assert_int_equal(t.rank, w->rank);
        assert_memory_equal(t.shape, w->shape, w->rank * sizeof *w->shape);
        assert_int_equal(t.bytes, w->bytes);
        if (w->bytes)
            assert_memory_equal(t.data, w->data, w->bytes);
        assert_true(qnt_tensors_get(file, i, &t));
    }
    assert_false(qnt_tensors_get(file, COUNT(written), &t));
    assert_false(qnt_tensors_find(file, "nothing", &t));
    close_and_remove(ctx, file);
}

static void test_matrix(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_tensors *file = write_and_open(ctx);
    qnt_matrix m;
    (void)state;
    assert_int_equal(qnt_tensors_matrix(file, "matrix", &m), QNT_OK);
    assert_true(m.rows == 2 && m.cols == 3 && m.stride == 3 && m.dtype == QNT_F32);
    assert_memory_equal(m.data, numbers, sizeof numbers);
    assert_int_equal(qnt_tensors_matrix(file, "half", &m), QNT_OK);
    assert_true(m.rows == 1 && m.cols == 2 && m.dtype == QNT_F16);
    assert_int_equal(qnt_tensors_matrix(file, "empty", &m), QNT_OK);
    assert_true(m.rows == 0 && m.cols == 5);

    assert_int_equal(qnt_tensors_matrix(file, "nothing", &m), QNT_NOT_FOUND);
    assert_message_has(ctx, PATH ": has no tensor \"nothing\"");
    assert_int_equal(qnt_tensors_matrix(file, "brain", &m), QNT_UNSUPPORTED);
    assert_message_has(ctx, "\"brain\" has 3 dimensions");
    assert_int_equal(qnt_tensors_matrix(file, "one", &m), QNT_UNSUPPORTED);
    assert_message_has(ctx, "\"one\" has 0 dimensions");
    assert_int_equal(qnt_tensors_matrix(file, "codes", &m), QNT_UNSUPPORTED);
    assert_message_has(ctx, "\"codes\" is of type I32, expected F32, F16 or BF16");
    close_and_remove(ctx, file);
}

static void test_f32(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_tensors *file = write_and_open(ctx);
    float *x;
    size_t n;
    (void)state;
    assert_int_equal(qnt_tensors_f32(file, "matrix", &x, &n), QNT_OK);
    assert_int_equal(n, 6);
    assert_memory_equal(x, numbers, sizeof numbers);
    qnt_free(ctx, x);
    assert_int_equal(qnt_tensors_f32(file, "half", &x, &n), QNT_OK);
    assert_true(n == 2 && x[0] == 1 && x[1] == -2);
    qnt_free(ctx, x);
    assert_int_equal(qnt_tensors_f32(file, "brain", &x, &n), QNT_OK);
    assert_true(n == 3 && x[0] == 1 && isinf(x[1]) && x[2] == 0);
    qnt_free(ctx, x);
    assert_int_equal(qnt_tensors_f32(file, "one", &x, &n), QNT_OK);
    assert_true(n == 1 && x[0] == 1);
    qnt_free(ctx, x);
    assert_int_equal(qnt_tensors_f32(file, "empty", &x, &n), QNT_OK);
    assert_true(n == 0 && x == NULL);
    assert_int_equal(qnt_tensors_f32(file, "codes", &x, &n), QNT_UNSUPPORTED);
    assert_null(x);
    assert_int_equal(qnt_tensors_f32(file, "nothing", &x, &n), QNT_NOT_FOUND);
    close_and_remove(ctx, file);
}

static void test_refused(void **state)
{
    static const struct {
        qnt_tensor tensor;
        const char *message;
    } cases[] = {
        {{"t", "F32", 2, {2, 3}, numbers, 20}, "\"t\": 20 bytes are given, its shape of F32 needs 24"},
        {{"t", "F32", 2, {2, 3}, NULL, 24}, "at NULL"},
        {{"t", "F31", 1, {1}, numbers, 4}, "no dtype \"F31\""},
        {{"t", "F32", 9, {1}, numbers, 4}, "9 dimensions, at most 8"},
        {{"t", "F32", 2, {SIZE_MAX, 2}, numbers, 4}, "exceeds 2^64 bits"},
        {{"__metadata__", "F32", 1, {1}, numbers, 4}, "cannot be named __metadata__"},
    };
    qnt_context *ctx = context_with(NULL);
    qnt_tensor twice[] = {written[0], written[0]};
    qnt_tensors *file;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_not_equal(qnt_tensors_write(ctx, PATH, &cases[i].tensor, 1), QNT_OK);
        assert_message_has(ctx, cases[i].message);
    }
    assert_int_equal(qnt_tensors_write(ctx, PATH, twice, 2), QNT_INVALID);
    assert_message_has(ctx, "two tensors are named \"matrix\"");
    assert_int_equal(qnt_tensors_open(ctx, PATH, &file), QNT_IO); /* nothing was left */
    assert_null(file);
    assert_int_equal(qnt_tensors_write(ctx, "no-such-folder/" PATH, written, 1), QNT_IO);
    assert_message_has(ctx, "no-such-folder/" PATH);
    qnt_tensors_close(NULL);
    qnt_context_destroy(ctx);
}

/* A failed write leaves what was there before. */
static void test_replaces_whole_or_not(void **state)
{
    qnt_context *ctx = context_with(NULL);
    qnt_tensor bad = written[0];
    qnt_tensors *file;
    (void)state;
    qnt_tensors_close(write_and_open(ctx));
    bad.bytes--;
    assert_int_equal(qnt_tensors_write(ctx, PATH, &bad, 1), QNT_INVALID);
    assert_int_equal(qnt_tensors_open(ctx, PATH, &file), QNT_OK);
    assert_int_equal(qnt_tensors_count(file), COUNT(written));
    close_and_remove(ctx, file);
}

static void test_small_file(void **state)
{
    qnt_context *ctx = context_with(NULL);
    char read[8] = {0};
    FILE *in;
    (void)state;
    assert_int_equal(qnt_file_write(ctx, "small", "old one", 7), QNT_OK);
    assert_int_equal(qnt_file_write(ctx, "small", "new", 3), QNT_OK);
    in = fopen("small", "rb");
    assert_non_null(in);
    assert_int_equal(fread(read, 1, sizeof read, in), 3);
    assert_string_equal(read, "new");
    fclose(in);
    assert_int_equal(qnt_file_write(ctx, "small", NULL, 0), QNT_OK);
    assert_int_equal(unlink("small"), 0);
    assert_int_equal(qnt_file_write(ctx, "no-such-folder/small", "x", 1), QNT_IO);
    assert_int_equal(mkdir("folder", 0777), 0);
    assert_int_equal(qnt_file_write(ctx, "folder", "x", 1), QNT_IO);
    assert_message_has(ctx, "names a folder");
    assert_int_equal(rmdir("folder"), 0);
    qnt_free(ctx, NULL);
    qnt_context_destroy(ctx);
}

static qnt_status write_and_read(qnt_context *ctx, void *arg)
{
    qnt_tensors *file = NULL;
    float *x = NULL;
    size_t n;
    qnt_status status;
    (void)arg;
    QNT_CHECK(qnt_tensors_write(ctx, PATH, written, COUNT(written)));
    QNT_CHECK(qnt_tensors_open(ctx, PATH, &file));
    QNT_CHECK(qnt_tensors_f32(file, "matrix", &x, &n));
cleanup:
    qnt_free(ctx, x);
    qnt_tensors_close(file);
    unlink(PATH);
    return status;
}

static void test_memory_runs_out(void **state)
{
    (void)state;
    each_allocation_fails(write_and_read, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_replaces_whole_or_not),
        cmocka_unit_test(test_small_file),
        cmocka_unit_test(test_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
