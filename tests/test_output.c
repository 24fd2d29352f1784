/*
 * test_output.c - files appear whole or not at all, and every failure is said with its file and numbers.
 *
 * A full disk is played by the process's limit on file sizes: the system then takes a part of a write, and
 * nothing of the next.
 */
#include "file_support.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { MIB = 1 << 20 };

static size_t files_here(void)
{
    DIR *folder = opendir(".");
    size_t count = 0;
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(folder);
    return count;
}

static void assert_content(qnt_context *ctx, const char *path, const char *expected, size_t n)
{
    char *bytes;
    size_t got;
    assert_int_equal(qnti_read_file(ctx, path, n, &bytes, &got), QNT_OK);
    assert_int_equal(got, n);
    assert_memory_equal(bytes, expected, n);
    assert_int_equal(bytes[n], 0);
    qnti_free(ctx, bytes);
}

static void appears_at_commit(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *output;
    (void)state;
    assert_int_equal(qnti_output_create(ctx, "a", &output), QNT_OK);
    assert_int_equal(qnti_output_write(output, "hello", 5), QNT_OK);
    assert_int_equal(qnti_output_zeros(output, 5000), QNT_OK);
    assert_int_equal(qnti_output_position(output), 5005);
    assert_false(qnti_path_exists("a"));
    assert_int_equal(qnti_output_flush(output), QNT_OK);
    assert_true(qnti_path_exists(qnti_output_temporary(output)));
    assert_int_equal(qnti_output_write(output, "!", 1), QNT_OK);
    assert_int_equal(qnti_output_commit(output), QNT_OK);
    assert_int_equal(files_here(), 1);
    char expected[5006] = "hello";
    expected[5005] = '!';
    assert_content(ctx, "a", expected, sizeof expected);
    unlink("a");
    qnt_context_destroy(ctx);
}

static void discarded_leaves_the_old_file(void **state)
{
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *first, *second;
    (void)state;
    put_file("a", "old", 3);
    assert_int_equal(qnti_output_create(ctx, "./a", &first), QNT_OK);
    assert_int_equal(qnti_output_create(ctx, "./a", &second), QNT_OK); /* another temporary, as after a crash */
    assert_string_not_equal(qnti_output_temporary(first), qnti_output_temporary(second));
    assert_int_equal(qnti_output_write(first, "new", 3), QNT_OK);
    qnti_output_discard(first);
    qnti_output_discard(NULL);
    assert_content(ctx, "a", "old", 3);
    assert_int_equal(qnti_output_commit(second), QNT_OK);
    assert_content(ctx, "a", "", 0);
    assert_int_equal(files_here(), 1);
    unlink("a");
    qnt_context_destroy(ctx);
}

/* Writes on both sides of the buffer's size, in every order. */
static void any_sizes(void **state)
{
    static const size_t sizes[] = {1, MIB - 1, MIB, 7, MIB + 1, 3 * MIB, 0, MIB - 7, 2};
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *output;
    size_t total = 0, at = 0;
    char *expected;
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++)
        total += sizes[i];
    expected = malloc(total);
    assert_non_null(expected);
    for (size_t i = 0; i < total; i++)
        expected[i] = (char)(i * 2654435761u >> 13);
    assert_int_equal(qnti_output_create(ctx, "a", &output), QNT_OK);
    for (size_t i = 0; i < COUNT(sizes); at += sizes[i++])
        assert_int_equal(qnti_output_write(output, expected + at, sizes[i]), QNT_OK);
    assert_int_equal(qnti_output_position(output), total);
    assert_int_equal(qnti_output_commit(output), QNT_OK);
    assert_content(ctx, "a", expected, total);
    free(expected);
    unlink("a");
    qnt_context_destroy(ctx);
}

static void full_disk(void **state)
{
    struct rlimit before, small = {MIB + MIB / 2, MIB + MIB / 2};
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *output;
    char *bytes = calloc(2, MIB);
    (void)state;
    assert_non_null(bytes);
    put_file("a", "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(qnti_output_create(ctx, "a", &output), QNT_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(qnti_output_write(output, bytes, MIB), QNT_OK);
    assert_int_equal(qnti_output_write(output, bytes, MIB), QNT_IO);
    assert_message_has(ctx, "a: cannot write 524288 bytes behind byte 1572864: File too large");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(qnti_output_write(output, bytes, 1), QNT_IO); /* a hole in the file would be worse */
    assert_int_equal(qnti_output_flush(output), QNT_IO);
    assert_int_equal(qnti_output_commit(output), QNT_IO);
    assert_int_equal(files_here(), 1);
    assert_content(ctx, "a", "old", 3);
    free(bytes);
    unlink("a");
    qnt_context_destroy(ctx);
}

static void targets_that_cannot_be(void **state)
{
    static const char *const paths[] = {".", "sub", "sub/", "none/a", ""};
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *output;
    (void)state;
    assert_int_equal(mkdir("sub", 0777), 0);
    for (size_t i = 0; i < COUNT(paths); i++) {
        assert_int_equal(qnti_output_create(ctx, paths[i], &output), QNT_IO);
        assert_null(output);
        assert_message_has(ctx, paths[i]);
    }
    assert_int_equal(qnti_output_create(ctx, "a", &output), QNT_OK);
    assert_int_equal(mkdir("a", 0777), 0); /* in the meantime */
    assert_int_equal(qnti_output_commit(output), QNT_IO);
    assert_message_has(ctx, "a: cannot close and rename");
    assert_int_equal(files_here(), 2);
    assert_int_equal(rmdir("a") | rmdir("sub"), 0);
    qnt_context_destroy(ctx);
}

static void long_names(void **state)
{
    char name[256];
    qnt_context *ctx = context_with(NULL);
    struct qnti_output *output;
    (void)state;
    memset(name, 'n', 255);
    name[255] = 0;
    assert_int_equal(qnti_output_create(ctx, name, &output), QNT_OK);
    assert_int_equal(qnti_output_commit(output), QNT_OK);
    assert_int_equal(unlink(name), 0);
    qnt_context_destroy(ctx);
}

static void reading(void **state)
{
    qnt_context *ctx = context_with(NULL);
    char *bytes;
    void *map;
    size_t n;
    (void)state;
    put_file("a", "0123456789", 10);
    put_file("empty", "", 0);
    assert_int_equal(mkfifo("pipe", 0666), 0);
    assert_content(ctx, "empty", "", 0);
    assert_int_equal(qnti_read_file(ctx, "a", 9, &bytes, &n), QNT_BAD_DATA);
    assert_null(bytes);
    assert_message_has(ctx, "a: has 10 bytes, at most 9 are read");
    assert_int_equal(qnti_map_file(ctx, "a", &map, &n), QNT_OK);
    assert_int_equal(n, 10);
    assert_memory_equal(map, "0123456789", 10);
    qnti_unmap_file(map, n);
    assert_int_equal(qnti_map_file(ctx, "empty", &map, &n), QNT_OK);
    assert_null(map);
    assert_int_equal(n, 0);
    qnti_unmap_file(map, n);
    static const char *const wrong[][2] = {{".", "is a folder"}, {"none", "No such file"}, {"pipe", "not a regular"}};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        assert_int_equal(qnti_read_file(ctx, wrong[i][0], 100, &bytes, &n), QNT_IO);
        assert_message_has(ctx, wrong[i][1]);
        assert_int_equal(qnti_map_file(ctx, wrong[i][0], &map, &n), QNT_IO);
        assert_message_has(ctx, wrong[i][1]);
    }
    assert_int_equal(unlink("a") | unlink("empty") | unlink("pipe"), 0);
    qnt_context_destroy(ctx);
}

static void paths(void **state)
{
    static const char *const joined[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
    static const char *const places[] = {".", "none", "none/none/x", "/none/x", "", "none/"};
    qnt_context *ctx = context_with(NULL);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(joined); i++) {
        char *path;
        assert_int_equal(qnti_path_join(ctx, joined[i][0], joined[i][1], &path), QNT_OK);
        assert_string_equal(path, joined[i][2]);
        qnti_free(ctx, path);
    }
    for (size_t i = 0; i < COUNT(places); i++) {
        uint64_t bytes = UINT64_MAX;
        assert_int_equal(qnti_free_disk(ctx, places[i], &bytes), QNT_OK);
        assert_int_not_equal(bytes, UINT64_MAX);
    }
    assert_true(qnti_is_folder(".") && qnti_path_exists("."));
    assert_false(qnti_is_folder("none") || qnti_path_exists("none"));
    assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    qnt_context_destroy(ctx);
}

static qnt_status write_and_read(qnt_context *ctx, void *arg)
{
    struct qnti_output *output;
    char *bytes;
    size_t n;
    (void)arg;
    QNT_TRY(qnti_output_create(ctx, "a", &output));
    QNT_TRY(qnti_output_commit(output));
    QNT_TRY(qnti_read_file(ctx, "a", 0, &bytes, &n));
    qnti_free(ctx, bytes);
    return QNT_OK;
}

static void no_memory(void **state)
{
    (void)state;
    each_allocation_fails(write_and_read, NULL);
    assert_int_equal(files_here(), 1);
    unlink("a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appears_at_commit), cmocka_unit_test(discarded_leaves_the_old_file),
        cmocka_unit_test(any_sizes),         cmocka_unit_test(full_disk),
        cmocka_unit_test(targets_that_cannot_be), cmocka_unit_test(long_names),
        cmocka_unit_test(reading),           cmocka_unit_test(paths),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
