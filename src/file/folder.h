/*
 * folder.h - folders that appear whole or not at all: filled under a temporary name, then renamed.
 */
#ifndef QNTI_FOLDER_H
#define QNTI_FOLDER_H

#include "base/context.h"

/* Makes PATH.writing, empty; *temporary (to qnti_free) is its name. What a dead run left there is removed. */
qnt_status qnti_folder_create(qnt_context *ctx, const char *path, char **temporary);
/* Puts it in place of `path`; a folder that stood there goes once the new one is in place. */
qnt_status qnti_folder_commit(qnt_context *ctx, const char *temporary, const char *path);
/* Removes a folder of plain files. Never follows links, never descends. */
void qnti_folder_remove(qnt_context *ctx, const char *path);

#endif
