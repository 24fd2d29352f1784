/*
 * store.c - finished blocks in the work folder: one safetensors file a block, in native form.
 *
 * A block's layers leave memory as soon as they are done; the writer of a
 * format reads them back one block at a time.
 */
#include "sweep/sweep.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "file/output.h"
#include "pack/native.h"

static qnt_status block_path(struct qnt_plan *plan, size_t block, char **path)
{
    char name[64];
    snprintf(name, sizeof name, "block-%05zu.safetensors", block);
    return qnti_path_join(plan->ctx, plan->work, name, path);
}

qnt_status qnti_store_open(struct qnt_plan *plan)
{
    uint64_t free_bytes;
    QNT_TRY(qnti_free_disk(plan->ctx, plan->work, &free_bytes));
    if (free_bytes < plan->totals.disk_bytes)
        return qnti_fail(plan->ctx, QNT_IO, "%s: %llu bytes are free, the work needs %llu", plan->work,
                         (unsigned long long)free_bytes, (unsigned long long)plan->totals.disk_bytes);
    if (mkdir(plan->work, 0777) != 0 && errno != EEXIST)
        return qnti_fail(plan->ctx, QNT_IO, "%s: cannot make the work folder: %s", plan->work, strerror(errno));
    return QNT_OK;
}

qnt_status qnti_store_block(struct qnt_plan *plan, size_t block, qnt_qlinear *const *layers, size_t count)
{
    static const char *const metadata[] = {"quant_format", "native"};
    struct qnti_native_tensors tensors = {0};
    char *path = NULL;
    qnt_status status = QNT_OK;
    for (size_t i = 0; i < count; i++)
        if (layers[i])
            QNT_CHECK(qnti_native_add(plan->ctx, layers[i], &tensors));
    QNT_CHECK(block_path(plan, block, &path));
    QNT_CHECK(qnti_safetensors_write(plan->ctx, path, tensors.sources, tensors.count, metadata, 1));
cleanup:
    qnti_native_tensors_free(plan->ctx, &tensors);
    qnti_free(plan->ctx, path);
    return status;
}

qnt_status qnti_store_read(struct qnt_plan *plan, size_t block, const struct qnti_safetensors **file)
{
    char *path;
    qnt_status status;
    if (!plan->open_block || plan->open_index != block) {
        qnti_store_close(plan);
        QNT_TRY(block_path(plan, block, &path));
        status = qnti_safetensors_open(plan->ctx, path, &plan->open_block);
        qnti_free(plan->ctx, path);
        QNT_TRY(status);
        plan->open_index = block;
    }
    *file = plan->open_block;
    return QNT_OK;
}

void qnti_store_close(struct qnt_plan *plan)
{
    if (plan->open_block)
        qnti_safetensors_close(plan->open_block);
    plan->open_block = NULL;
}

void qnti_store_remove(struct qnt_plan *plan)
{
    qnti_store_close(plan);
    for (size_t b = 0; b < plan->model->checkpoint->config.blocks; b++) {
        char *path;
        if (block_path(plan, b, &path) == QNT_OK) {
            unlink(path);
            qnti_free(plan->ctx, path);
        }
    }
    rmdir(plan->work);
}
