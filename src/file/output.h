/*
 * output.h - files that appear whole or not at all.
 *
 * A file is written under a temporary name beside its target, flushed to the
 * disk and renamed; a failure or qnti_output_discard removes the temporary.
 * Short writes and full disks are errors that name file and bytes.
 */
#ifndef QNTI_OUTPUT_H
#define QNTI_OUTPUT_H

#include "base/context.h"

struct qnti_output;

qnt_status qnti_output_create(qnt_context *ctx, const char *path, struct qnti_output **output);
/* Buffered. */
qnt_status qnti_output_write(struct qnti_output *output, const void *bytes, size_t n);
qnt_status qnti_output_zeros(struct qnti_output *output, size_t n);
/* Bytes written so far. */
uint64_t qnti_output_position(const struct qnti_output *output);
/* Flushes and syncs under the temporary name: now the file can be read back before it counts. */
qnt_status qnti_output_flush(struct qnti_output *output);
const char *qnti_output_temporary(const struct qnti_output *output);
/* The target. */
const char *qnti_output_path(const struct qnti_output *output);
/* Flushes, syncs, renames, frees. On failure the temporary is removed and the output freed. */
qnt_status qnti_output_commit(struct qnti_output *output);
/* Removes the temporary, frees; NULL is allowed. */
void qnti_output_discard(struct qnti_output *output);

/* A whole small file; at most `limit` bytes (QNT_BAD_DATA beyond). *bytes has a NUL behind its `n` bytes. */
qnt_status qnti_read_file(qnt_context *ctx, const char *path, size_t limit, char **bytes, size_t *n);
/* Maps a file for reading; an empty file gives NULL and 0. */
qnt_status qnti_map_file(qnt_context *ctx, const char *path, void **map, size_t *bytes);
void qnti_unmap_file(void *map, size_t bytes);
/* Bytes free on the file system that holds `path` (or its nearest existing parent). */
qnt_status qnti_free_disk(qnt_context *ctx, const char *path, uint64_t *bytes);
/* Whether two paths, there or to be made, share that room. */
qnt_status qnti_same_disk(qnt_context *ctx, const char *a, const char *b, bool *same);
/* same.c: QNT_INVALID where `output` is `source`, by whatever name, or a file in that folder. */
qnt_status qnti_refuse_same(qnt_context *ctx, const char *source, const char *output);
bool qnti_path_exists(const char *path);
bool qnti_is_folder(const char *path);
/* "folder/name", allocated. */
qnt_status qnti_path_join(qnt_context *ctx, const char *folder, const char *name, char **path);

#endif
