/*
 * folder.c - temporary folders of plain files.
 */
#include "file/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "file/output.h"

static qnt_status beside(qnt_context *ctx, const char *path, const char *suffix, char **name)
{
    size_t n = strlen(path), bytes = n + strlen(suffix) + 1;
    while (n > 1 && path[n - 1] == '/')
        n--;
    QNT_TRY(qnti_alloc(ctx, bytes, 1, (void **)name));
    snprintf(*name, bytes, "%.*s%s", (int)n, path, suffix);
    return QNT_OK;
}

void qnti_folder_remove(qnt_context *ctx, const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    (void)ctx;
    while (folder && (entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder)
        closedir(folder);
    rmdir(path);
}

qnt_status qnti_folder_create(qnt_context *ctx, const char *path, char **temporary)
{
    QNT_TRY(beside(ctx, path, ".writing", temporary));
    qnti_folder_remove(ctx, *temporary);
    if (mkdir(*temporary, 0777) == 0)
        return QNT_OK;
    qnti_fail(ctx, QNT_IO, "%s: cannot make the folder: %s", *temporary, strerror(errno));
    qnti_free(ctx, *temporary);
    *temporary = NULL;
    return QNT_IO;
}

/* Makes the entries of a folder last. One that cannot be opened or synced is let be. */
static void sync_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

static void sync_parent(const char *path)
{
    char parent[4096];
    const char *slash;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    slash = memrchr(path, '/', n);
    if (snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".") <
        (int)sizeof parent)
        sync_folder(parent);
}

/* Without an exchange in one step: there is a moment in which neither stands at `path`. */
static qnt_status replace_in_steps(qnt_context *ctx, const char *temporary, const char *path)
{
    char *old;
    qnt_status status = QNT_OK;
    QNT_TRY(beside(ctx, path, ".replaced", &old));
    qnti_folder_remove(ctx, old);
    if (rename(path, old) != 0 || rename(temporary, path) != 0) {
        status = qnti_fail(ctx, QNT_IO, "%s: cannot rename it to %s: %s", temporary, path, strerror(errno));
        rename(old, path);
    } else if (qnti_is_folder(old)) {
        qnti_folder_remove(ctx, old);
    } else {
        unlink(old);
    }
    qnti_free(ctx, old);
    return status;
}

qnt_status qnti_folder_commit(qnt_context *ctx, const char *temporary, const char *path)
{
    sync_folder(temporary);
    if (rename(temporary, path) != 0) { /* fails where something stands there that is not an empty folder */
        if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) != 0)
            QNT_TRY(replace_in_steps(ctx, temporary, path));
        else if (qnti_is_folder(temporary))
            qnti_folder_remove(ctx, temporary);
        else
            unlink(temporary);
    }
    sync_parent(path);
    return QNT_OK;
}
