/*
 * input.c - reading and mapping files, and questions about paths; see output.h.
 *
 * Regular files only: a pipe or a device has no size to check against.
 */
#include "file/output.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* O_NONBLOCK: a pipe without a writer must not hold us up before it is refused. */
static qnt_status open_regular(qnt_context *ctx, const char *path, int *fd, size_t *bytes)
{
    struct stat info;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return qnti_fail(ctx, errno == ENOMEM ? QNT_NO_MEMORY : QNT_IO, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(*fd, &info) != 0)
        qnti_fail(ctx, QNT_IO, "%s: cannot read its size: %s", path, strerror(errno));
    else if (S_ISDIR(info.st_mode))
        qnti_fail(ctx, QNT_IO, "%s: is a folder, expected a file", path);
    else if (!S_ISREG(info.st_mode) || info.st_size < 0)
        qnti_fail(ctx, QNT_IO, "%s: is not a regular file", path);
    else {
        *bytes = (size_t)info.st_size;
        return QNT_OK;
    }
    close(*fd);
    return QNT_IO;
}

static qnt_status read_all(qnt_context *ctx, const char *path, int fd, char *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = read(fd, bytes + done, n - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return qnti_fail(ctx, QNT_IO, "%s: cannot read behind byte %zu: %s", path, done, strerror(errno));
        if (got == 0)
            return qnti_fail(ctx, QNT_IO, "%s: ends at byte %zu, expected %zu", path, done, n);
        done += (size_t)got;
    }
    return QNT_OK;
}

qnt_status qnti_read_file(qnt_context *ctx, const char *path, size_t limit, char **bytes, size_t *n)
{
    qnt_status status;
    int fd;
    *bytes = NULL;
    *n = 0;
    QNT_TRY(open_regular(ctx, path, &fd, n));
    if (*n > limit)
        QNT_CHECK(qnti_fail(ctx, QNT_BAD_DATA, "%s: has %zu bytes, at most %zu are read", path, *n, limit));
    QNT_CHECK(qnti_alloc_raw(ctx, *n + 1, 1, (void **)bytes));
    (*bytes)[*n] = 0;
    QNT_CHECK(read_all(ctx, path, fd, *bytes, *n));
cleanup:
    close(fd);
    if (status != QNT_OK) {
        qnti_free(ctx, *bytes);
        *bytes = NULL;
        *n = 0;
    }
    return status;
}

qnt_status qnti_map_file(qnt_context *ctx, const char *path, void **map, size_t *bytes)
{
    int fd, error;
    *map = NULL;
    *bytes = 0;
    QNT_TRY(open_regular(ctx, path, &fd, bytes));
    if (*bytes)
        *map = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    error = errno;
    close(fd);
    if (*map != MAP_FAILED)
        return QNT_OK;
    *map = NULL;
    return qnti_fail(ctx, error == ENOMEM ? QNT_NO_MEMORY : QNT_IO, "%s: cannot map its %zu bytes: %s", path, *bytes,
                     strerror(error));
}

void qnti_unmap_file(void *map, size_t bytes)
{
    if (map)
        munmap(map, bytes);
}

/* Cuts the last component: "a/b" -> "a", "a" -> ".", "/a" -> "/". */
static void cut_to_parent(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash)
        strcpy(path, "."); /* a path has at least one byte */
    else
        slash[slash == path] = 0;
}

/* *at, to be freed: the path, or its nearest parent that is there. */
static qnt_status nearest_existing(qnt_context *ctx, const char *path, char **at)
{
    struct stat info;
    QNT_TRY(qnti_copy_string(ctx, *path ? path : ".", at));
    while (stat(*at, &info) != 0 && errno == ENOENT && strcmp(*at, ".") && strcmp(*at, "/"))
        cut_to_parent(*at);
    return QNT_OK;
}

qnt_status qnti_free_disk(qnt_context *ctx, const char *path, uint64_t *bytes)
{
    struct statvfs info;
    char *at;
    qnt_status status = QNT_OK;
    QNT_TRY(nearest_existing(ctx, path, &at));
    if (statvfs(at, &info) != 0)
        status = qnti_fail(ctx, QNT_IO, "%s: cannot ask for free disk space: %s", path, strerror(errno));
    else
        *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    qnti_free(ctx, at);
    return status;
}

qnt_status qnti_same_disk(qnt_context *ctx, const char *a, const char *b, bool *same)
{
    char *at[2] = {NULL, NULL};
    struct stat info[2];
    qnt_status status;
    QNT_CHECK(nearest_existing(ctx, a, &at[0]));
    QNT_CHECK(nearest_existing(ctx, b, &at[1]));
    *same = stat(at[0], &info[0]) == 0 && stat(at[1], &info[1]) == 0 && info[0].st_dev == info[1].st_dev;
cleanup:
    qnti_free(ctx, at[0]);
    qnti_free(ctx, at[1]);
    return status;
}

bool qnti_path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool qnti_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

qnt_status qnti_path_join(qnt_context *ctx, const char *folder, const char *name, char **path)
{
    size_t a = strlen(folder), b = strlen(name);
    bool slash = a > 0 && folder[a - 1] != '/';
    QNT_TRY(QNTI_NEW(ctx, a + slash + b + 1, path));
    memcpy(*path, folder, a);
    if (slash)
        (*path)[a] = '/';
    memcpy(*path + a + slash, name, b);
    return QNT_OK;
}
