/*
 * file_support.h - what the tests of files and containers share: contexts, a folder of their own, memory that runs out.
 */
#ifndef FILE_SUPPORT_H
#define FILE_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/context.h"
#include "file/output.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* An allocator that fails from its n-th call on (n < 0: never). */
struct failing {
    long left;
};

static inline void *failing_allocate(void *user, size_t bytes, size_t alignment)
{
    struct failing *failing = user;
    void *memory = NULL;
    if (failing->left == 0)
        return NULL;
    failing->left -= failing->left > 0;
    return posix_memalign(&memory, alignment, bytes) ? NULL : memory;
}

static inline void failing_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static inline qnt_context *context_with(struct failing *failing)
{
    qnt_context_options options = {.threads = 1};
    qnt_context *ctx;
    if (failing)
        options.allocator = (qnt_allocator){failing_allocate, failing_release, failing};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    return ctx;
}

/* Runs `work` with 0, 1, 2 ... allocations allowed, until it succeeds; before that it must fail cleanly. */
static inline void each_allocation_fails(qnt_status (*work)(qnt_context *ctx, void *arg), void *arg)
{
    struct failing failing = {-1};
    qnt_context *ctx = context_with(&failing);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_status status = QNT_NO_MEMORY;
    for (long n = 0; status != QNT_OK; n++) {
        failing.left = n;
        status = work(ctx, arg);
        if (status != QNT_OK)
            assert_int_equal(status, QNT_NO_MEMORY);
        assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    }
    qnt_context_destroy(ctx);
}

static inline void assert_message_has(const qnt_context *ctx, const char *part)
{
    if (!strstr(qnt_context_message(ctx), part))
        fail_msg("the message \"%s\" does not have \"%s\"", qnt_context_message(ctx), part);
}

/* A folder below the working one, which the test program enters; it must be empty again at the end. */
static inline int enter_folder(void **state)
{
    char *folder = strdup("quant-test-XXXXXX");
    *state = folder;
    return folder && mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static inline int leave_folder(void **state)
{
    char *folder = *state;
    int failed = chdir("..") != 0 || rmdir(folder) != 0;
    if (failed)
        fprintf(stderr, "%s is not empty\n", folder);
    free(folder);
    return failed ? -1 : 0;
}

static inline void put_file(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* A copy in memory that ends where it ends, so that a sanitizer sees a byte too far. */
static inline unsigned char *exact_copy(const void *bytes, size_t n)
{
    unsigned char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n)
        memcpy(copy, bytes, n);
    return copy;
}

static inline void assert_same_files(const char *a, const char *b)
{
    qnt_context *ctx = context_with(NULL);
    char *x, *y;
    size_t n, m;
    assert_int_equal(qnti_read_file(ctx, a, 1000000, &x, &n), QNT_OK);
    assert_int_equal(qnti_read_file(ctx, b, 1000000, &y, &m), QNT_OK);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    qnti_free(ctx, x);
    qnti_free(ctx, y);
    qnt_context_destroy(ctx);
}

#endif
