/*
 * pattern.c - patterns over tensor names: globs, or "re:" and a PCRE2 expression.
 */
#include "sweep/sweep.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fnmatch.h>
#include <pcre2.h>
#include <string.h>

static qnt_status match_expression(qnt_context *ctx, const char *expression, const char *name, bool *match)
{
    PCRE2_SIZE offset;
    PCRE2_UCHAR message[128];
    int error, found = PCRE2_ERROR_NOMEMORY;
    pcre2_match_data *data;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, 0, &error, &offset, NULL);
    if (!code) {
        pcre2_get_error_message(error, message, sizeof message);
        return qnti_fail(ctx, QNT_INVALID, "pattern re:%s: %s at character %zu", expression, (const char *)message,
                         (size_t)offset);
    }
    data = pcre2_match_data_create_from_pattern(code, NULL);
    if (data)
        found = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, data, NULL);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
        pcre2_get_error_message(found, message, sizeof message);
        return qnti_fail(ctx, QNT_INVALID, "pattern re:%s on %s: %s", expression, name, (const char *)message);
    }
    *match = found >= 0;
    return QNT_OK;
}

qnt_status qnti_pattern_match(qnt_context *ctx, const char *pattern, const char *name, bool *match)
{
    if (strncmp(pattern, "re:", 3) == 0)
        return match_expression(ctx, pattern + 3, name, match);
    *match = fnmatch(pattern, name, 0) == 0;
    return QNT_OK;
}
