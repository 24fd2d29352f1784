/*
 * context.c - creation, messages, log, memory.
 *
 * Each block of memory carries its size in front of it, so that the context
 * can say how much it holds; blocks are aligned to 64 bytes.
 */
#include "base/context_private.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/kernels.h"

enum { ALIGNMENT = 64, MAX_THREADS = 1024, HUGE_PAGE = 2 << 20, HUGE_BLOCK = 8 << 20 };

/* Matrices ask for huge pages: a fresh one costs 512 faults less, and its columns are walked in fewer steps. */
static void *default_allocate(void *user, size_t bytes, size_t alignment)
{
    void *memory = NULL;
    (void)user;
    if (bytes < HUGE_BLOCK)
        return posix_memalign(&memory, alignment, bytes) ? NULL : memory;
    if (posix_memalign(&memory, HUGE_PAGE, bytes))
        return NULL;
    (void)madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* advice: also where there are none */
    return memory;
}

static void default_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

/* OpenBLAS is asked by name, so that any other CBLAS does as well. */
static void set_blas_one_thread(void)
{
    void (*set)(int);
    void *symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads");
    memcpy(&set, &symbol, sizeof set);
    if (set)
        set(1);
}

static qnt_status check_options(const qnt_context_options *options, qnt_context_options *checked)
{
    memset(checked, 0, sizeof *checked);
    if (options) {
        if (options->size && options->size != sizeof *options)
            return QNT_INVALID;
        *checked = *options;
    }
    if (checked->threads < 0 || checked->threads > MAX_THREADS)
        return QNT_INVALID;
    if (!checked->allocator.allocate != !checked->allocator.release)
        return QNT_INVALID;
    if (!checked->allocator.allocate) {
        checked->allocator.allocate = default_allocate;
        checked->allocator.release = default_release;
    }
    return QNT_OK;
}

qnt_status qnt_context_create(const qnt_context_options *options, qnt_context **context)
{
    qnt_context_options checked;
    qnt_context *ctx;
    qnt_status status;
    *context = NULL;
    QNT_TRY(check_options(options, &checked));
    ctx = checked.allocator.allocate(checked.allocator.user, sizeof *ctx, ALIGNMENT);
    if (!ctx)
        return QNT_NO_MEMORY;
    memset(ctx, 0, sizeof *ctx);
    ctx->options = checked;
    pthread_mutex_init(&ctx->lock, NULL);
    ctx->kernels = qnti_kernels_select(getenv("QUANT_KERNELS"));
    if (!ctx->kernels) /* an unknown name, or a set that this machine lacks */
        ctx->kernels = qnti_kernels_select(NULL);
    if (!checked.parallel_for) {
        status = qnti_pool_create(ctx, checked.threads, &ctx->pool);
        if (status != QNT_OK) {
            qnt_context_destroy(ctx);
            return status;
        }
    }
    if (checked.blas_one_thread)
        set_blas_one_thread();
    *context = ctx;
    return QNT_OK;
}

void qnt_context_destroy(qnt_context *ctx)
{
    if (!ctx)
        return;
    if (ctx->pool)
        qnti_pool_destroy(ctx, ctx->pool);
    pthread_mutex_destroy(&ctx->lock);
    ctx->options.allocator.release(ctx->options.allocator.user, ctx);
}

const char *qnt_context_message(const qnt_context *ctx)
{
    return ctx->message;
}

void qnt_context_reset_peak(qnt_context *ctx)
{
    atomic_store(&ctx->peak, atomic_load(&ctx->bytes));
}

size_t qnt_context_bytes(const qnt_context *ctx, size_t *peak)
{
    if (peak)
        *peak = atomic_load(&ctx->peak);
    return atomic_load(&ctx->bytes);
}

int qnt_context_threads(const qnt_context *ctx)
{
    return ctx->pool ? qnti_pool_threads(ctx->pool) : 0;
}

const struct qnti_kernels *qnti_context_kernels(const qnt_context *ctx)
{
    return ctx->kernels;
}

const char *qnt_context_kernels(const qnt_context *ctx)
{
    return ctx->kernels->name;
}

qnt_status qnti_fail(qnt_context *ctx, qnt_status status, const char *format, ...)
{
    va_list args;
    pthread_mutex_lock(&ctx->lock);
    va_start(args, format);
    vsnprintf(ctx->message, sizeof ctx->message, format, args);
    va_end(args);
    pthread_mutex_unlock(&ctx->lock);
    return status;
}

qnt_status qnti_fail_in(qnt_context *ctx, qnt_status status, const char *where)
{
    char inner[QNTI_MESSAGE_BYTES];
    pthread_mutex_lock(&ctx->lock);
    memcpy(inner, ctx->message, sizeof inner);
    snprintf(ctx->message, sizeof ctx->message, "%.200s: %.800s", where, inner);
    pthread_mutex_unlock(&ctx->lock);
    return status;
}

void qnti_log(qnt_context *ctx, qnt_log_level level, const char *format, ...)
{
    char line[QNTI_MESSAGE_BYTES];
    va_list args;
    if (!ctx->options.log)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    pthread_mutex_lock(&ctx->lock);
    ctx->options.log(ctx->options.log_user, level, line);
    pthread_mutex_unlock(&ctx->lock);
}

static void count_bytes(qnt_context *ctx, size_t bytes)
{
    size_t now = atomic_fetch_add(&ctx->bytes, bytes) + bytes;
    size_t peak = atomic_load(&ctx->peak);
    while (now > peak && !atomic_compare_exchange_weak(&ctx->peak, &peak, now))
        ;
}

qnt_status qnti_alloc_raw(qnt_context *ctx, size_t count, size_t size, void **memory)
{
    size_t bytes;
    char *block;
    *memory = NULL;
    if (!qnti_multiply(count, size, &bytes) || bytes > SIZE_MAX / 2)
        return qnti_fail(ctx, QNT_NO_MEMORY, "%zu elements of %zu bytes exceed the address space", count, size);
    if (bytes == 0)
        return QNT_OK;
    block = ctx->options.allocator.allocate(ctx->options.allocator.user, bytes + ALIGNMENT, ALIGNMENT);
    if (!block)
        return qnti_fail(ctx, QNT_NO_MEMORY, "out of memory for %zu bytes (%zu held)", bytes,
                         atomic_load(&ctx->bytes));
    memcpy(block, &bytes, sizeof bytes);
    count_bytes(ctx, bytes);
    *memory = block + ALIGNMENT;
    return QNT_OK;
}

qnt_status qnti_alloc(qnt_context *ctx, size_t count, size_t size, void **memory)
{
    QNT_TRY(qnti_alloc_raw(ctx, count, size, memory));
    if (*memory)
        memset(*memory, 0, count * size);
    return QNT_OK;
}

void qnti_free(qnt_context *ctx, void *memory)
{
    size_t bytes;
    char *block;
    if (!memory)
        return;
    block = (char *)memory - ALIGNMENT;
    memcpy(&bytes, block, sizeof bytes);
    atomic_fetch_sub(&ctx->bytes, bytes);
    ctx->options.allocator.release(ctx->options.allocator.user, block);
}

qnt_status qnti_copy_bytes(qnt_context *ctx, const void *bytes, size_t n, char **copy)
{
    QNT_TRY(qnti_alloc_raw(ctx, n + 1, 1, (void **)copy));
    if (n)
        memcpy(*copy, bytes, n);
    (*copy)[n] = 0;
    return QNT_OK;
}

qnt_status qnti_copy_string(qnt_context *ctx, const char *string, char **copy)
{
    return qnti_copy_bytes(ctx, string, strlen(string), copy);
}
