/*
 * writer.c - a calibration file of more than memory holds: one file a site, joined at the end; see save.h.
 */
#include "calib/save.h"

#include <stdio.h>
#include <string.h>
#include "base/buffer.h"
#include "file/folder.h"
#include "file/output.h"

struct qnti_calib_writer {
    qnt_context *ctx;
    char *path, *folder;
    size_t count;
};

qnt_status qnti_calib_writer_create(qnt_context *ctx, const char *path, struct qnti_calib_writer **writer)
{
    struct qnti_calib_writer *w;
    qnt_status status;
    *writer = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &w));
    w->ctx = ctx;
    QNT_CHECK(qnti_copy_string(ctx, path, &w->path));
    QNT_CHECK(qnti_folder_create(ctx, path, &w->folder));
    *writer = w;
cleanup:
    if (status != QNT_OK)
        qnti_calib_writer_discard(w);
    return status;
}

void qnti_calib_writer_discard(struct qnti_calib_writer *w)
{
    if (!w)
        return;
    if (w->folder)
        qnti_folder_remove(w->ctx, w->folder);
    qnti_free(w->ctx, w->folder);
    qnti_free(w->ctx, w->path);
    qnti_free(w->ctx, w);
}

const char *qnti_calib_writer_folder(const struct qnti_calib_writer *w)
{
    return w->folder;
}

static qnt_status part_path(const struct qnti_calib_writer *w, size_t index, char **path)
{
    char name[64];
    snprintf(name, sizeof name, "site-%06zu.safetensors", index);
    return qnti_path_join(w->ctx, w->folder, name, path);
}

qnt_status qnti_calib_writer_add(struct qnti_calib_writer *w, const char *name, const struct qnt_calib *calib)
{
    struct qnti_tensor_source sources[QNTI_CALIB_PARTS];
    size_t count;
    char *path = NULL;
    qnt_status status;
    QNT_CHECK(qnti_calib_sources(calib, name, sources, &count));
    QNT_CHECK(part_path(w, w->count, &path));
    QNT_CHECK(qnti_calib_write(w->ctx, path, sources, count, NULL, 0));
    w->count++;
cleanup:
    qnti_calib_sources_free(w->ctx, sources, count);
    qnti_free(w->ctx, path);
    return status;
}

/* Tensors of a file that stays mapped. */
static qnt_status list_part(qnt_context *ctx, const struct qnti_safetensors *file, struct qnti_buffer *sources)
{
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *t = &file->tensors[i];
        struct qnti_tensor_source s = {.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
        memcpy(s.shape, t->shape, sizeof s.shape);
        QNT_TRY(qnti_buffer_add(ctx, sources, &s, sizeof s));
    }
    return QNT_OK;
}

static qnt_status open_part(const struct qnti_calib_writer *w, size_t index, struct qnti_safetensors **file,
                            struct qnti_buffer *sources)
{
    char *path;
    qnt_status status;
    QNT_TRY(part_path(w, index, &path));
    status = qnti_safetensors_open(w->ctx, path, file);
    qnti_free(w->ctx, path);
    return status == QNT_OK ? list_part(w->ctx, *file, sources) : status;
}

static qnt_status join_parts(const struct qnti_calib_writer *w, const char *const *notes, size_t note_count)
{
    struct qnti_safetensors **files;
    struct qnti_buffer sources = {0};
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(w->ctx, w->count, &files));
    for (size_t i = 0; i < w->count; i++)
        QNT_CHECK(open_part(w, i, &files[i], &sources));
    status = qnti_calib_write(w->ctx, w->path, (const void *)sources.data,
                              sources.bytes / sizeof(struct qnti_tensor_source), notes, note_count);
cleanup:
    for (size_t i = 0; i < w->count; i++)
        qnti_safetensors_close(files[i]);
    qnti_free(w->ctx, files);
    qnti_buffer_free(w->ctx, &sources);
    return status;
}

qnt_status qnti_calib_writer_commit(struct qnti_calib_writer *w, const char *const *notes, size_t note_count)
{
    qnt_status status = join_parts(w, notes, note_count);
    qnti_calib_writer_discard(w);
    return status;
}
