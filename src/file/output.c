/*
 * output.c - files that appear whole or not at all; see output.h.
 *
 * The temporary is `.NAME.partial-K` in the target's folder, so that the last
 * step is one rename inside one file system. It is locked while it is written:
 * one that nobody holds is what a process that died left, and is removed when
 * the same target is written again. A failed write sticks: every later call
 * returns it, and a commit then only cleans up.
 */
#include "file/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "file/lock.h"

enum { BUFFER_BYTES = 1 << 20, TEMPORARY_TRIES = 100, TEMPORARY_EXTRA = 64 };

struct qnti_output {
    qnt_context *ctx;
    char *path, *temporary;
    int fd;                  /* -1: not open */
    qnt_status status;       /* of the first failure */
    char *buffer;
    size_t fill;
    uint64_t written;        /* bytes handed to the system; the position is this and `fill` */
};

static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Removes a temporary that nobody writes any more. */
static void remove_abandoned(const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    if (qnti_lock_open_file(fd, path))
        unlink(path);
    close(fd);
}

/* -1 with errno; EEXIST: somebody else's. */
static int create_and_lock(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 || qnti_lock_open_file(fd, path))
        return fd;
    if (errno == EWOULDBLOCK || errno == ENOENT) { /* taken for an abandoned one in between */
        close(fd);
        errno = EEXIST;
        return -1;
    }
    return fd; /* a file system without locks */
}

/* Long names are cut, so that the temporary's fits where the target's does. */
static qnt_status open_temporary(struct qnti_output *o)
{
    size_t folder = folder_length(o->path), room = strlen(o->path) + TEMPORARY_EXTRA;
    QNT_TRY(QNTI_NEW(o->ctx, room, &o->temporary));
    for (int k = 0; k < TEMPORARY_TRIES && o->fd < 0; k++) {
        snprintf(o->temporary, room, "%.*s.%.200s.partial-%d", (int)folder, o->path, o->path + folder, k);
        remove_abandoned(o->temporary);
        o->fd = create_and_lock(o->temporary);
        if (o->fd < 0 && errno != EEXIST)
            break;
    }
    if (o->fd < 0)
        return qnti_fail(o->ctx, QNT_IO, "%s: cannot create the temporary %s: %s", o->path, o->temporary,
                         strerror(errno));
    return QNT_OK;
}

qnt_status qnti_output_create(qnt_context *ctx, const char *path, struct qnti_output **output)
{
    struct qnti_output *o = NULL;
    qnt_status status;
    *output = NULL;
    if (qnti_is_folder(path) || path[folder_length(path)] == 0)
        return qnti_fail(ctx, QNT_IO, "%s: cannot be written, it names a folder", path);
    QNT_TRY(QNTI_NEW(ctx, 1, &o));
    o->ctx = ctx;
    o->fd = -1;
    QNT_CHECK(qnti_copy_string(ctx, path, &o->path));
    QNT_CHECK(QNTI_NEW_RAW(ctx, BUFFER_BYTES, &o->buffer));
    QNT_CHECK(open_temporary(o));
    *output = o;
cleanup:
    if (status != QNT_OK)
        qnti_output_discard(o);
    return status;
}

/* Hands bytes to the system until it has taken all of them. */
static qnt_status write_all(struct qnti_output *o, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t took = write(o->fd, bytes, n);
        if (took < 0 && errno == EINTR)
            continue;
        if (took <= 0) {
            o->status = qnti_fail(o->ctx, QNT_IO, "%s: cannot write %zu bytes behind byte %llu: %s", o->path, n,
                                  (unsigned long long)o->written, took < 0 ? strerror(errno) : "nothing was taken");
            return o->status;
        }
        bytes += took;
        n -= (size_t)took;
        o->written += (uint64_t)took;
    }
    return QNT_OK;
}

static qnt_status drain(struct qnti_output *o)
{
    size_t n = o->fill;
    o->fill = 0;
    return write_all(o, o->buffer, n);
}

qnt_status qnti_output_write(struct qnti_output *o, const void *bytes, size_t n)
{
    QNT_TRY(o->status);
    if (n > BUFFER_BYTES - o->fill)
        QNT_TRY(drain(o));
    if (n >= BUFFER_BYTES)
        return write_all(o, bytes, n);
    if (n)
        memcpy(o->buffer + o->fill, bytes, n);
    o->fill += n;
    return QNT_OK;
}

qnt_status qnti_output_zeros(struct qnti_output *o, size_t n)
{
    static const char zeros[4096];
    for (size_t part; n > 0; n -= part) {
        part = qnti_min(n, sizeof zeros);
        QNT_TRY(qnti_output_write(o, zeros, part));
    }
    return QNT_OK;
}

uint64_t qnti_output_position(const struct qnti_output *o)
{
    return o->written + o->fill;
}

const char *qnti_output_temporary(const struct qnti_output *o)
{
    return o->temporary;
}

const char *qnti_output_path(const struct qnti_output *o)
{
    return o->path;
}

static qnt_status system_failure(struct qnti_output *o, const char *what)
{
    o->status = qnti_fail(o->ctx, QNT_IO, "%s: cannot %s its %llu bytes: %s", o->path, what,
                          (unsigned long long)o->written, strerror(errno));
    return o->status;
}

qnt_status qnti_output_flush(struct qnti_output *o)
{
    QNT_TRY(o->status);
    QNT_TRY(drain(o));
    return fsync(o->fd) == 0 ? QNT_OK : system_failure(o, "flush");
}

/* Makes the rename last. Folders that cannot be opened or synced are let be: the file is whole under either name. */
static qnt_status sync_folder(struct qnti_output *o)
{
    size_t folder = folder_length(o->path);
    int fd, result;
    memcpy(o->temporary, folder ? o->path : "./", folder ? folder : 2); /* its last use; it is longer than both */
    o->temporary[folder ? folder : 2] = 0;
    fd = open(o->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return QNT_OK;
    result = fsync(fd);
    close(fd);
    return result == 0 || errno != EIO ? QNT_OK : system_failure(o, "make its folder keep");
}

static qnt_status rename_and_sync(struct qnti_output *o)
{
    int fd = o->fd;
    QNT_TRY(qnti_output_flush(o));
    o->fd = -1;
    if (close(fd) != 0 || rename(o->temporary, o->path) != 0) {
        system_failure(o, "close and rename");
        unlink(o->temporary);
        return o->status;
    }
    return sync_folder(o);
}

qnt_status qnti_output_commit(struct qnti_output *o)
{
    qnt_status status = rename_and_sync(o);
    qnti_output_discard(o);
    return status;
}

void qnti_output_discard(struct qnti_output *o)
{
    if (!o)
        return;
    if (o->fd >= 0) { /* open: not yet renamed */
        close(o->fd);
        unlink(o->temporary);
    }
    qnti_free(o->ctx, o->buffer);
    qnti_free(o->ctx, o->temporary);
    qnti_free(o->ctx, o->path);
    qnti_free(o->ctx, o);
}
