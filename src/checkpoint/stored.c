/*
 * stored.c - the list of a source's tensors: order, search, warnings about some of them.
 */
#include "checkpoint/source.h"

#include <stdlib.h>
#include <string.h>

enum { NAMED = 8 };   /* tensors that a warning names */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct qnti_stored *)a)->name, ((const struct qnti_stored *)b)->name);
}

void qnti_stored_sort(struct qnti_source *source)
{
    if (source->count)
        qsort(source->tensors, source->count, sizeof *source->tensors, compare_names);
}

static struct qnti_stored *find_exact(const struct qnti_source *source, const char *name)
{
    struct qnti_stored key = {.name = name};
    if (source->count == 0)
        return NULL;
    return bsearch(&key, source->tensors, source->count, sizeof *source->tensors, compare_names);
}

const char *qnti_without_prefix(const char *name)
{
    static const char *const prefixes[] = {"model.", "transformer."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return name + strlen(prefixes[i]);
    return NULL;
}

struct qnti_stored *qnti_stored_find(const struct qnti_source *source, const char *name)
{
    const char *rest = qnti_without_prefix(name);
    struct qnti_stored *found = find_exact(source, name);
    if (!found && rest)
        found = find_exact(source, rest);
    return found;
}

bool qnti_has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

qnt_status qnti_names_add(qnt_context *ctx, struct qnti_names *names, const char *name)
{
    if (names->count++ >= NAMED)
        return QNT_OK;
    return qnti_buffer_print(ctx, &names->text, "%s%.80s", names->text.bytes ? ", " : "", name);
}

void qnti_names_warn(const struct qnti_checkpoint *c, const char *what, struct qnti_names *names)
{
    if (names->text.bytes)
        qnti_log(c->ctx, QNT_LOG_WARNING, "%s: %zu tensor%s %s: %s%s", c->path, names->count,
                 names->count == 1 ? "" : "s", what, names->text.data, names->count > NAMED ? ", ..." : "");
    qnti_buffer_free(c->ctx, &names->text);
}
