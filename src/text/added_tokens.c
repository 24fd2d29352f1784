/*
 * added_tokens.c - tokens that are found in the text before anything else is done with it.
 *
 * The texts are sorted; at each position the range of those that agree with the text shrinks byte by byte, and the last
 * one that ended is the longest match.
 */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>
#include "text/utf8.h"

enum { SMALLEST_CAPACITY = 16 };

qnt_status qnti_added_add(qnt_context *ctx, struct qnti_added_set *set, const struct qnti_added *token)
{
    if (set->count == set->capacity) {
        struct qnti_added *list;
        size_t capacity = qnti_max(SMALLEST_CAPACITY, 2 * set->capacity);
        QNT_TRY(QNTI_NEW(ctx, capacity, &list));
        if (set->count)
            memcpy(list, set->list, set->count * sizeof *list);
        qnti_free(ctx, set->list);
        set->list = list;
        set->capacity = capacity;
    }
    set->list[set->count++] = *token;
    return QNT_OK;
}

/* By bytes, a beginning before what it begins; then by id. */
static int compare(const void *left, const void *right)
{
    const struct qnti_added *a = left, *b = right;
    int order = memcmp(a->text, b->text, qnti_min(a->bytes, b->bytes));
    if (order)
        return order;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

void qnti_added_sort(struct qnti_added_set *set)
{
    size_t at = 0;
    if (set->count)
        qsort(set->list, set->count, sizeof *set->list, compare);
    for (unsigned byte = 0; byte < 256; byte++) {
        set->first[byte] = at;
        while (at < set->count && (unsigned char)set->list[at].text[0] == byte)
            at++;
    }
    set->first[256] = at;
}

int32_t qnti_added_find(const struct qnti_added_set *set, const char *text, size_t bytes)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->list[i].bytes == bytes && memcmp(set->list[i].text, text, bytes) == 0)
            return set->list[i].id;
    return -1;
}

void qnti_added_free(qnt_context *ctx, struct qnti_added_set *set)
{
    qnti_free(ctx, set->list);
    memset(set, 0, sizeof *set);
}

/* First in low .. high-1 whose byte at `depth` is at least `byte`; all of them are longer than depth. */
static size_t lower_bound(const struct qnti_added *list, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)list[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that starts the text. */
static const struct qnti_added *longest(const struct qnti_added_set *set, const char *text, size_t bytes)
{
    unsigned byte = (unsigned char)text[0];
    size_t low = set->first[byte], high = set->first[byte + 1];
    const struct qnti_added *found = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (set->list[low].bytes == depth)
            found = &set->list[low];
        while (low < high && set->list[low].bytes == depth) /* equal texts: the first counts */
            low++;
        if (depth == bytes)
            break;
        byte = (unsigned char)text[depth];
        low = lower_bound(set->list, low, high, depth, byte);
        high = lower_bound(set->list, low, high, depth, byte + 1);
    }
    return found;
}

static bool stands_alone(const char *text, size_t bytes, size_t begin, size_t end)
{
    uint32_t code;
    if (begin > 0) {
        size_t last = qnti_utf8_last(text, begin);
        qnti_utf8_next(text + last, begin - last, &code);
        if (qnti_is_word(code))
            return false;
    }
    if (end < bytes) {
        qnti_utf8_next(text + end, bytes - end, &code);
        return !qnti_is_word(code);
    }
    return true;
}

static size_t spaces_before(const char *text, size_t from, size_t begin)
{
    uint32_t code;
    while (begin > from) {
        size_t last = qnti_utf8_last(text, begin);
        qnti_utf8_next(text + last, begin - last, &code);
        if (!qnti_is_space(code))
            break;
        begin = last;
    }
    return qnti_max(begin, from);
}

static size_t spaces_behind(const char *text, size_t bytes, size_t end)
{
    uint32_t code;
    while (end < bytes) {
        size_t n = qnti_utf8_next(text + end, bytes - end, &code);
        if (!qnti_is_space(code))
            break;
        end += n;
    }
    return end;
}

bool qnti_added_next(const struct qnti_added_set *set, const char *text, size_t bytes, size_t from, bool parse_special,
                     struct qnti_added_match *match)
{
    for (size_t at = from; set->count && at < bytes;) {
        const struct qnti_added *token = longest(set, text + at, bytes - at);
        size_t end;
        if (!token) {
            at++;
            continue;
        }
        end = at + token->bytes;
        if ((token->special && !parse_special) || (token->single_word && !stands_alone(text, bytes, at, end))) {
            at = end;
            continue;
        }
        match->id = token->id;
        match->begin = token->strip_left ? spaces_before(text, from, at) : at;
        match->end = token->strip_right ? spaces_behind(text, bytes, end) : end;
        return true;
    }
    return false;
}
