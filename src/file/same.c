/*
 * same.c - whether an output would overwrite its source, under whatever name.
 */
#include "file/output.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

qnt_status qnti_refuse_same(qnt_context *ctx, const char *source, const char *output)
{
    char parent[4096];
    struct stat s, o;
    const char *slash = strrchr(output, '/');
    if (stat(source, &s) != 0)
        return QNT_OK;
    if (stat(output, &o) == 0 && same(&s, &o))
        return qnti_fail(ctx, QNT_INVALID, "the output %s is the source", output);
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - output) : 1, slash ? output : ".");
    if (stat(parent, &o) == 0 && S_ISDIR(s.st_mode) && same(&s, &o))
        return qnti_fail(ctx, QNT_INVALID, "the output %s lies in the source folder", output);
    return QNT_OK;
}
