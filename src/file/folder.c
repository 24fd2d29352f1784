/*
 * folder.c - temporary folders of plain files.
 */
#include "file/folder.h"

#include <dirent.h>
#include <errno.h>
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
    while (folder && (entry = readdir(folder))) {
        char *file;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (qnti_path_join(ctx, path, entry->d_name, &file) != QNT_OK)
            break;
        unlink(file);
        qnti_free(ctx, file);
    }
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

qnt_status qnti_folder_commit(qnt_context *ctx, const char *temporary, const char *path)
{
    char *old = NULL;
    qnt_status status = QNT_OK;
    bool replaced = false;
    if (qnti_path_exists(path)) {
        QNT_TRY(beside(ctx, path, ".replaced", &old));
        replaced = rename(path, old) == 0;
    }
    if (rename(temporary, path) != 0) {
        status = qnti_fail(ctx, QNT_IO, "%s: cannot rename it to %s: %s", temporary, path, strerror(errno));
        if (replaced && rename(old, path) != 0)
            status = qnti_fail_in(ctx, status, old);
    } else if (replaced) {
        qnti_folder_remove(ctx, old);
    }
    qnti_free(ctx, old);
    return status;
}
