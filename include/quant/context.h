/*
 * context.h - what the library borrows from its host: memory, threads, a log, a way to stop.
 *
 * Everything else in the library belongs to a context, which must outlive it.
 * There is no other state: two contexts know nothing of each other.
 */
#ifndef QUANT_CONTEXT_H
#define QUANT_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <quant/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qnt_context qnt_context;

/*
 * Memory. `allocate` returns `bytes` bytes aligned to `alignment` (a power of
 * two, at most 64), or NULL; `release` takes what it returned. Both are called
 * from several threads. Both NULL: the C library's.
 */
typedef struct qnt_allocator {
    void *(*allocate)(void *user, size_t bytes, size_t alignment);
    void (*release)(void *user, void *memory);
    void *user;
} qnt_allocator;

typedef enum qnt_log_level { QNT_LOG_DEBUG = 10, QNT_LOG_INFO = 20, QNT_LOG_WARNING = 30 } qnt_log_level;

/* One line without a newline at its end. May be called from any thread, one at a time. */
typedef void (*qnt_log_fn)(void *user, qnt_log_level level, const char *message);

/* Asked often, from any thread; true ends the work with QNT_CANCELLED. */
typedef bool (*qnt_cancel_fn)(void *user);

/* The engine's threads: call task(arg, i) once for each i in 0 .. count-1, in any order; return when all are done. */
typedef void (*qnt_task_fn)(void *arg, size_t index);
typedef void (*qnt_parallel_for_fn)(void *user, size_t count, qnt_task_fn task, void *arg);

typedef struct qnt_context_options {
    size_t size;                      /* sizeof(qnt_context_options), or 0 for this version's */
    int threads;                      /* of the context's own pool; 0: one for each processor this process may use */
    qnt_allocator allocator;
    qnt_parallel_for_fn parallel_for; /* in place of the own pool */
    void *parallel_user;
    qnt_log_fn log;                   /* NULL: silence */
    void *log_user;
    qnt_cancel_fn cancel;             /* NULL: never */
    void *cancel_user;
    bool blas_one_thread;             /* set the process's OpenBLAS to one thread: results then do not depend on it */
} qnt_context_options;

/*
 * Creates a context; `options` may be NULL. On success *context is to be
 * destroyed by qnt_context_destroy; on failure it is NULL.
 * QNT_INVALID: unknown size, threads < 0 or > 1024. QNT_NO_MEMORY.
 */
QNT_API qnt_status qnt_context_create(const qnt_context_options *options, qnt_context **context);
/* NULL is allowed. Everything made with the context must be destroyed before. */
QNT_API void qnt_context_destroy(qnt_context *context);

/*
 * What the last failed call had to say, with names and numbers; "" if nothing
 * failed yet. Owned by the context, valid until its next failure. One thread
 * at a time uses a context; its own threads are its own affair.
 */
QNT_API const char *qnt_context_message(const qnt_context *context);

/* Bytes that the context holds now and the most that it ever held (BLAS and JSON keep their own). */
QNT_API size_t qnt_context_bytes(const qnt_context *context, size_t *peak);
/* From now on the peak is that of what follows. */
QNT_API void qnt_context_reset_peak(qnt_context *context);

/* Threads that work is spread over. With the engine's parallel_for: 0. */
QNT_API int qnt_context_threads(const qnt_context *context);

/* Version of the library, e.g. "0.1.0", and what it was built with and chose: BLAS, kernels. Static storage. */
QNT_API const char *qnt_version(void);
QNT_API const char *qnt_context_kernels(const qnt_context *context);

#ifdef __cplusplus
}
#endif
#endif
