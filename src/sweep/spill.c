/*
 * spill.c - an array of floats in memory, or in a file of the work folder.
 *
 * The file has no name (or loses it at once), so nothing is left of it however
 * the process ends. It is mapped shared: pages that are done with leave this
 * process at once and reach the disk when the system wants them to. Room on the disk is
 * taken beforehand, since a mapping cannot report a full disk.
 */
#include "sweep/sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "file/output.h"

/* A file without a name; where the file system knows none, one that is removed at once. */
static int open_nameless(const char *folder, char *name)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
        return fd;
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0)
        unlink(name);
    return fd;
}

static qnt_status map(const char *folder, int fd, struct qnti_spill *spill)
{
    int error = posix_fallocate(fd, 0, (off_t)spill->bytes);
    void *data;
    if (error)
        return qnti_fail(spill->ctx, QNT_IO, "%s: no room for a file of %zu bytes of activations: %s", folder,
                         spill->bytes, strerror(error));
    data = mmap(NULL, spill->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
        return qnti_fail(spill->ctx, QNT_NO_MEMORY, "%s: cannot map a file of %zu bytes of activations: %s", folder,
                         spill->bytes, strerror(errno));
    spill->data = data;
    return QNT_OK;
}

qnt_status qnti_spill_create(qnt_context *ctx, const char *folder, size_t n, struct qnti_spill *spill)
{
    char *name = NULL;
    qnt_status status;
    int fd = -1;
    *spill = (struct qnti_spill){.ctx = ctx};
    if (!folder || n == 0)
        return QNTI_NEW_RAW(ctx, n, &spill->data);
    if (!qnti_multiply(n, sizeof *spill->data, &spill->bytes))
        return qnti_fail(ctx, QNT_NO_MEMORY, "%zu activations exceed the address space", n);
    QNT_CHECK(qnti_path_join(ctx, folder, "activations-XXXXXX", &name));
    fd = open_nameless(folder, name);
    if (fd < 0)
        QNT_CHECK(qnti_fail(ctx, QNT_IO, "%s: cannot make a file for activations: %s", folder, strerror(errno)));
    status = map(folder, fd, spill);
cleanup:
    if (fd >= 0)
        close(fd);
    qnti_free(ctx, name);
    if (status != QNT_OK)
        *spill = (struct qnti_spill){0};
    return status;
}

void qnti_spill_done(const struct qnti_spill *spill, size_t first, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin = qnti_ceil_div(first * sizeof(float), page) * page, end = (first + n) * sizeof(float) / page * page;
    if (spill->bytes && begin < end)
        madvise((char *)spill->data + begin, end - begin, MADV_DONTNEED); /* of a shared file: drops the mapping only */
}

void qnti_spill_free(struct qnti_spill *spill)
{
    if (spill->bytes)
        munmap(spill->data, spill->bytes);
    else if (spill->data)
        qnti_free(spill->ctx, spill->data);
    *spill = (struct qnti_spill){0};
}
