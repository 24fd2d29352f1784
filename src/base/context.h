/*
 * context.h - the inside of a context: failing, allocating, working in parallel, logging.
 *
 * Every function of the library that can fail returns qnt_status and says what
 * was wrong through qnti_fail. Memory comes from qnti_alloc alone.
 */
#ifndef QNTI_CONTEXT_H
#define QNTI_CONTEXT_H

#include <stdarg.h>
#include <stdint.h>
#include <quant/context.h>

struct qnti_kernels;

/* Passes a failure up. */
#define QNT_TRY(expr)                            \
    do {                                         \
        qnt_status qnt_try_status = (expr);      \
        if (qnt_try_status != QNT_OK)            \
            return qnt_try_status;               \
    } while (0)

/* The same in a function that cleans up behind the label `cleanup` and returns `status`. */
#define QNT_CHECK(expr)                          \
    do {                                         \
        status = (expr);                         \
        if (status != QNT_OK)                    \
            goto cleanup;                        \
    } while (0)

/* Records the message (printf format) and returns `status`. From several threads the first one stays. */
qnt_status qnti_fail(qnt_context *ctx, qnt_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "WHERE: " in front of the recorded message; returns `status`. */
qnt_status qnti_fail_in(qnt_context *ctx, qnt_status status, const char *where);

void qnti_log(qnt_context *ctx, qnt_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * count * size bytes, zeroed, aligned to 64; *memory is NULL for zero bytes.
 * QNT_NO_MEMORY also where the product overflows. QNTI_NEW infers the size.
 */
qnt_status qnti_alloc(qnt_context *ctx, size_t count, size_t size, void **memory);
/* The same without zeroing. */
qnt_status qnti_alloc_raw(qnt_context *ctx, size_t count, size_t size, void **memory);
void qnti_free(qnt_context *ctx, void *memory);
#define QNTI_NEW(ctx, count, pointer) qnti_alloc((ctx), (count), sizeof **(pointer), (void **)(pointer))
#define QNTI_NEW_RAW(ctx, count, pointer) qnti_alloc_raw((ctx), (count), sizeof **(pointer), (void **)(pointer))

/* A copy of n bytes with a NUL behind them; of a string. */
qnt_status qnti_copy_bytes(qnt_context *ctx, const void *bytes, size_t n, char **copy);
qnt_status qnti_copy_string(qnt_context *ctx, const char *string, char **copy);

/*
 * Runs task(arg, i) for i in 0 .. count-1 on the context's threads, or in
 * place if called from within a task. What a task computes must depend on i
 * alone. Returns a failed task's status (the others are then skipped),
 * QNT_CANCELLED when the host asked to stop.
 */
typedef qnt_status (*qnti_task)(void *arg, size_t index);
qnt_status qnti_parallel(qnt_context *ctx, size_t count, qnti_task task, void *arg);

/* QNT_CANCELLED, with a message, once the host wants to stop. */
qnt_status qnti_cancelled(qnt_context *ctx);

const struct qnti_kernels *qnti_context_kernels(const qnt_context *ctx);

/* Products of sizes from files: false if it overflows. */
static inline bool qnti_multiply(size_t a, size_t b, size_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

static inline size_t qnti_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t qnti_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline size_t qnti_ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

#endif
