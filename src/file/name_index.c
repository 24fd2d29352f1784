/*
 * name_index.c - finding the elements of an array by name; see name_index.h.
 */
#include "file/name_index.h"

#include <stdlib.h>
#include <string.h>

struct array {
    const char *elements;
    size_t size;
};

static const char *name_of(const struct array *array, size_t i)
{
    const char *name;
    memcpy(&name, array->elements + i * array->size, sizeof name);
    return name;
}

static int compare(const void *a, const void *b, void *user)
{
    return strcmp(name_of(user, *(const size_t *)a), name_of(user, *(const size_t *)b));
}

qnt_status qnti_index_names(qnt_context *ctx, const void *elements, size_t size, size_t count, size_t **index,
                            const char **duplicate)
{
    struct array array = {elements, size};
    *duplicate = NULL;
    QNT_TRY(QNTI_NEW(ctx, count, index));
    for (size_t i = 0; i < count; i++)
        (*index)[i] = i;
    if (count)
        qsort_r(*index, count, sizeof **index, compare, &array);
    for (size_t i = 1; i < count && !*duplicate; i++)
        if (compare(&(*index)[i - 1], &(*index)[i], &array) == 0)
            *duplicate = name_of(&array, (*index)[i]);
    return QNT_OK;
}

const void *qnti_index_find(const void *elements, size_t size, size_t count, const size_t *index, const char *name)
{
    struct array array = {elements, size};
    size_t first = 0, last = count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        int order = strcmp(name, name_of(&array, index[middle]));
        if (order == 0)
            return array.elements + index[middle] * size;
        if (order < 0)
            last = middle;
        else
            first = middle + 1;
    }
    return NULL;
}
