/*
 * lock.c - locks by flock(2) on a file of their own; see lock.h.
 *
 * Who removes a lock's file still holds it, so a lock counts only if its file
 * still stands under its name once it is taken.
 */
#include "file/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 100 };

bool qnti_lock_open_file(int fd, const char *path)
{
    struct stat mine, there;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &mine) != 0 || stat(path, &there) != 0)
        return false;
    errno = ENOENT;
    return mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

qnt_status qnti_lock_take(qnt_context *ctx, const char *path, int *lock)
{
    for (int i = 0; i < TRIES; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666), error;
        if (fd < 0)
            return qnti_fail(ctx, errno == ENOENT ? QNT_NOT_FOUND : QNT_IO, "%s: cannot make the lock: %s", path,
                             strerror(errno));
        if (qnti_lock_open_file(fd, path)) {
            *lock = fd;
            return QNT_OK;
        }
        error = flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno; /* 0: its owner removed it in the meantime */
        close(fd);
        if (error == EWOULDBLOCK)
            return qnti_fail(ctx, QNT_EXISTS, "%s is locked by another run", path);
        if (error)
            return qnti_fail(ctx, QNT_IO, "%s: cannot lock: %s", path, strerror(error));
    }
    return qnti_fail(ctx, QNT_IO, "%s: cannot lock, it is removed and made again all the time", path);
}

void qnti_lock_release(int lock, const char *path)
{
    if (path)
        unlink(path);
    close(lock);
}
