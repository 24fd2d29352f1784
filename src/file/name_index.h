/*
 * name_index.h - finding the elements of an array by name, and duplicates among them.
 *
 * For arrays of structures that begin with a `const char *` name. The array keeps its order; the index is a
 * permutation of it, sorted by name (bytes).
 */
#ifndef QNTI_NAME_INDEX_H
#define QNTI_NAME_INDEX_H

#include "base/context.h"

/* *index (to qnti_free) has `count` numbers. *duplicate: a name that stands twice, or NULL. */
qnt_status qnti_index_names(qnt_context *ctx, const void *array, size_t size, size_t count, size_t **index,
                            const char **duplicate);
/* NULL if there is none of that name. */
const void *qnti_index_find(const void *array, size_t size, size_t count, const size_t *index, const char *name);

#endif
