/*
 * context_private.h - what a context consists of; for base/ alone.
 */
#ifndef QNTI_CONTEXT_PRIVATE_H
#define QNTI_CONTEXT_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include "base/context.h"

struct qnti_pool;

enum { QNTI_MESSAGE_BYTES = 1024 };

struct qnt_context {
    qnt_context_options options;
    const struct qnti_kernels *kernels;
    struct qnti_pool *pool;          /* NULL with the engine's parallel_for */
    pthread_mutex_t lock;            /* message and log */
    char message[QNTI_MESSAGE_BYTES];
    atomic_size_t bytes, peak;
};

qnt_status qnti_pool_create(qnt_context *ctx, int threads, struct qnti_pool **pool);
void qnti_pool_destroy(qnt_context *ctx, struct qnti_pool *pool);
int qnti_pool_threads(const struct qnti_pool *pool);
/* Runs task(arg, i) for all i; false if the pool is busy (a task asks for more) and nothing was run. */
bool qnti_pool_run(struct qnti_pool *pool, size_t count, qnt_task_fn task, void *arg);

#endif
