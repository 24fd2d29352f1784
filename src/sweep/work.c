/*
 * work.c - the work folder: finished blocks outlive a run that ends early.
 *
 *   lock                   flock: the system lets go of it when the process ends, however it does
 *   plan.json              what determines the blocks (identity.c)
 *   block-N.safetensors    a finished block (store.c)
 *   block-N.json
 *   block-N.fisher.safetensors    what it is quantized by (fisher.c)
 *
 * Nothing else in the folder is ever touched.
 */
#include "sweep/sweep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "container/json.h"
#include "file/lock.h"
#include "file/output.h"

/* --- files --- */

/* Files of blocks by the patterns, temporary ones of a run that died included: counts results, removes all. */
static size_t block_files(const struct qnt_plan *plan, bool remove)
{
    static const char *const patterns[] = {"block-*.json", "block-*.fisher.safetensors", "block-*.safetensors",
                                           ".block-*.partial-*", ".plan.json.partial-*"};
    enum { RESULTS = 2 };
    DIR *folder = opendir(plan->work.path);
    const struct dirent *entry;
    size_t finished = 0;
    while (folder && (entry = readdir(folder)) != NULL)
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
            if (fnmatch(patterns[i], entry->d_name, 0) != 0)
                continue;
            finished += i < RESULTS;
            if (remove)
                unlinkat(dirfd(folder), entry->d_name, 0);
        }
    if (folder)
        closedir(folder);
    return finished;
}

static qnt_status find_finished(struct qnt_plan *plan)
{
    for (size_t b = 0; b < plan->job.source->config.blocks; b++) {
        QNT_TRY(qnti_store_finished(plan, b, &plan->work.finished[b]));
        plan->work.count += plan->work.finished[b];
        QNT_TRY(qnti_fisher_finished(plan, b, &plan->work.fisher[b]));
        plan->work.fisher_count += plan->work.fisher[b];
        QNT_TRY(qnti_cancelled(plan->ctx));
    }
    plan->work.resumed = plan->work.count;
    return QNT_OK;
}

static qnt_status write_identity(const struct qnt_plan *plan, const char *path)
{
    char *text = json_dumps(plan->identity, JSON_INDENT(1));
    qnt_status status;
    if (!text)
        return qnti_fail(plan->ctx, QNT_NO_MEMORY, "out of memory for %s", path);
    status = qnt_file_write(plan->ctx, path, text, strlen(text));
    free(text);
    return status;
}

/* --- entering --- */

/* Goes on with what is there, or begins. Blocks of another plan are somebody's hours: only `force` gives them up. */
static qnt_status enter_plan(struct qnt_plan *plan)
{
    const char *path = plan->work.plan_path;
    json_t *begun = NULL;
    if (!plan->options.force && qnti_path_exists(path)) {
        qnt_status status = qnti_json_load(plan->ctx, path, &begun);
        if (status == QNT_OK)
            status = qnti_plan_compare(plan, path, begun);
        json_decref(begun);
        if (status == QNT_OK)
            return find_finished(plan);
        if (status == QNT_NO_MEMORY || block_files(plan, false) > 0)
            return status;
    }
    block_files(plan, true);
    return write_identity(plan, path);
}

/* The folder may be removed by its owner between the two steps: then it is made again. */
static qnt_status make_and_lock(struct qnt_plan *plan)
{
    enum { TRIES = 10 };
    struct qnti_work *work = &plan->work;
    qnt_status status = QNT_NOT_FOUND;
    for (int i = 0; i < TRIES && status == QNT_NOT_FOUND; i++) {
        if (mkdir(work->path, 0777) != 0 && errno != EEXIST)
            return qnti_fail(plan->ctx, QNT_IO, "%s: cannot make the work folder: %s", work->path, strerror(errno));
        status = qnti_lock_take(plan->ctx, work->lock_path, &work->lock);
    }
    work->held = status == QNT_OK;
    if (status == QNT_EXISTS)
        return qnti_fail(plan->ctx, QNT_EXISTS, "%s: another run works in this folder", work->path);
    return status;
}

/* All memory that leaving will need: it must not fail. */
static qnt_status prepare(struct qnt_plan *plan)
{
    struct qnti_work *work = &plan->work;
    qnti_work_free(plan);
    work->count = work->resumed = work->fisher_count = 0;
    QNT_TRY(QNTI_NEW(plan->ctx, plan->job.source->config.blocks, &work->finished));
    QNT_TRY(QNTI_NEW(plan->ctx, plan->job.source->config.blocks, &work->fisher));
    QNT_TRY(qnti_path_join(plan->ctx, work->path, "lock", &work->lock_path));
    return qnti_path_join(plan->ctx, work->path, "plan.json", &work->plan_path);
}

qnt_status qnti_work_open(struct qnt_plan *plan)
{
    qnt_status status;
    QNT_TRY(prepare(plan));
    QNT_TRY(make_and_lock(plan));
    status = enter_plan(plan);
    if (status != QNT_OK)
        qnti_work_close(plan, block_files(plan, false) > 0);
    return status;
}

/* --- room --- */

/* Bytes that one place still needs, and has. */
static qnt_status check_room(qnt_context *ctx, const char *path, uint64_t needed)
{
    uint64_t room;
    QNT_TRY(qnti_free_disk(ctx, path, &room));
    if (room >= needed)
        return QNT_OK;
    return qnti_fail(ctx, QNT_IO, "%s: %llu bytes are free, the run still needs %llu", path, (unsigned long long)room,
                     (unsigned long long)needed);
}

qnt_status qnti_work_check_disk(const struct qnt_plan *plan)
{
    const struct qnti_work *work = &plan->work;
    size_t blocks = plan->job.source->config.blocks;
    uint64_t output = plan->totals.output_bytes, needed = 0;
    bool same = true;
    if (work->held && work->count < blocks)
        needed = plan->store_bytes / blocks * (blocks - work->count) + plan->file_bytes;
    for (size_t b = 0; work->held && b < blocks; b++)
        needed += work->finished[b] || work->fisher[b] ? 0 : qnti_fisher_bytes(plan, b);
    if (needed)
        QNT_TRY(qnti_same_disk(plan->ctx, work->path, plan->options.output, &same));
    if (same)
        return check_room(plan->ctx, plan->options.output, output + needed);
    QNT_TRY(check_room(plan->ctx, plan->options.output, output));
    return check_room(plan->ctx, work->path, needed);
}

/* --- leaving --- */

void qnti_work_close(struct qnt_plan *plan, bool keep)
{
    struct qnti_work *work = &plan->work;
    qnti_store_close(plan);
    if (!work->held)
        return;
    if (!keep) {
        block_files(plan, true);
        unlink(work->plan_path);
    }
    qnti_lock_release(work->lock, keep ? NULL : work->lock_path);
    if (!keep)
        rmdir(work->path);
    work->held = false;
}

void qnti_work_free(struct qnt_plan *plan)
{
    struct qnti_work *work = &plan->work;
    qnti_free(plan->ctx, work->finished);
    qnti_free(plan->ctx, work->fisher);
    qnti_free(plan->ctx, work->lock_path);
    qnti_free(plan->ctx, work->plan_path);
    work->finished = work->fisher = NULL;
    work->lock_path = work->plan_path = NULL;
}

qnt_status qnt_plan_share(qnt_plan *plan, qnt_plan *earlier, bool *shared)
{
    char *path = NULL;
    *shared = false;
    if (!earlier->work.path)
        return QNT_OK;
    QNT_TRY(qnti_plan_same_blocks(plan, earlier, shared));
    if (!*shared)
        return QNT_OK;
    QNT_TRY(qnti_copy_string(plan->ctx, earlier->work.path, &path));
    qnti_free(plan->ctx, plan->work.path);
    plan->work.path = path;
    earlier->work.kept = true;
    return QNT_OK;
}
