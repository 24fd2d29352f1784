/*
 * parallel.c - work on the context's own threads, or on the engine's.
 *
 * The pool's threads take indices from one counter. Which thread computes an
 * index never matters: work is cut by shape. A task that asks for parallel
 * work itself gets it done in place.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/context_private.h"

#include <sched.h>

struct qnti_pool {
    int threads;                 /* the caller's included */
    pthread_t *workers;          /* threads - 1 */
    int started;
    pthread_mutex_t busy;        /* held while a job runs */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    unsigned long generation;    /* of the job that is offered */
    int running;                 /* workers that have not finished it */
    bool stop;
    size_t count;
    atomic_size_t next;
    qnt_task_fn task;
    void *arg;
};

static void take_indices(struct qnti_pool *pool)
{
    for (;;) {
        size_t index = atomic_fetch_add(&pool->next, 1);
        if (index >= pool->count)
            return;
        pool->task(pool->arg, index);
    }
}

static void *work(void *user)
{
    struct qnti_pool *pool = user;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->generation == seen)
            pthread_cond_wait(&pool->wake, &pool->lock);
        if (pool->stop)
            break;
        seen = pool->generation;
        pthread_mutex_unlock(&pool->lock);
        take_indices(pool);
        pthread_mutex_lock(&pool->lock);
        if (--pool->running == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static int processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set) > 0 ? CPU_COUNT(&set) : 1;
}

qnt_status qnti_pool_create(qnt_context *ctx, int threads, struct qnti_pool **out)
{
    struct qnti_pool *pool;
    QNT_TRY(QNTI_NEW(ctx, 1, &pool));
    pool->threads = threads ? threads : processors();
    pthread_mutex_init(&pool->busy, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    *out = pool;
    QNT_TRY(QNTI_NEW(ctx, (size_t)pool->threads, &pool->workers));
    for (; pool->started < pool->threads - 1; pool->started++)
        if (pthread_create(&pool->workers[pool->started], NULL, work, pool) != 0)
            return qnti_fail(ctx, QNT_NO_MEMORY, "cannot start thread %d of %d", pool->started + 2, pool->threads);
    return QNT_OK;
}

void qnti_pool_destroy(qnt_context *ctx, struct qnti_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->busy);
    qnti_free(ctx, pool->workers);
    qnti_free(ctx, pool);
}

int qnti_pool_threads(const struct qnti_pool *pool)
{
    return pool->threads;
}

bool qnti_pool_run(struct qnti_pool *pool, size_t count, qnt_task_fn task, void *arg)
{
    if (pthread_mutex_trylock(&pool->busy) != 0)
        return false;
    pthread_mutex_lock(&pool->lock);
    pool->count = count;
    atomic_store(&pool->next, 0);
    pool->task = task;
    pool->arg = arg;
    pool->running = pool->started;
    pool->generation++;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    take_indices(pool);
    pthread_mutex_lock(&pool->lock);
    while (pool->running > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_mutex_unlock(&pool->busy);
    return true;
}

struct job {
    qnt_context *ctx;
    qnti_task task;
    void *arg;
    atomic_int failed;       /* a status */
};

static void run_one(void *arg, size_t index)
{
    struct job *job = arg;
    qnt_status status;
    if (atomic_load(&job->failed) != QNT_OK)
        return;
    status = qnti_cancelled(job->ctx);
    if (status == QNT_OK)
        status = job->task(job->arg, index);
    if (status != QNT_OK) {
        int none = QNT_OK;
        atomic_compare_exchange_strong(&job->failed, &none, (int)status);
    }
}

qnt_status qnti_parallel(qnt_context *ctx, size_t count, qnti_task task, void *arg)
{
    struct job job = {.ctx = ctx, .task = task, .arg = arg};
    atomic_init(&job.failed, QNT_OK);
    if (count > 1 && ctx->options.parallel_for)
        ctx->options.parallel_for(ctx->options.parallel_user, count, run_one, &job);
    else if (!(count > 1 && ctx->pool && qnti_pool_threads(ctx->pool) > 1 &&
               qnti_pool_run(ctx->pool, count, run_one, &job)))
        for (size_t i = 0; i < count; i++)
            run_one(&job, i);
    return (qnt_status)atomic_load(&job.failed);
}

qnt_status qnti_cancelled(qnt_context *ctx)
{
    if (ctx->options.cancel && ctx->options.cancel(ctx->options.cancel_user))
        return qnti_fail(ctx, QNT_CANCELLED, "stopped on request");
    return QNT_OK;
}
