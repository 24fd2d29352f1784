/*
 * lock.h - files that one process holds at a time; the system lets go of them when it ends, however it does.
 */
#ifndef QNTI_LOCK_H
#define QNTI_LOCK_H

#include "base/context.h"

/*
 * Makes the file if it is not there and locks it; *lock (a descriptor) is to be given back by qnti_lock_release.
 * QNT_EXISTS, with a message that names the path: another one holds it. QNT_NOT_FOUND: its folder is not there (any
 * more). QNT_IO.
 */
qnt_status qnti_lock_take(qnt_context *ctx, const char *path, int *lock);
/* Removes the file first if `path` is not NULL, so that nobody finds one that is no longer locked. */
void qnti_lock_release(int lock, const char *path);
/*
 * Whether the open file is locked by this call and still stands at `path`. false with errno: EWOULDBLOCK, another one
 * holds it; ENOENT, it stands there no longer; others: the file system knows no locks.
 */
bool qnti_lock_open_file(int fd, const char *path);

#endif
