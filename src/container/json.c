/*
 * json.c - reading JSON files of others through jansson.
 *
 * Members are checked for their type only; what values mean is the caller's affair. Writing JSON is not done here.
 */
#include "container/json.h"

#include <math.h>
#include "file/output.h"

enum { MAX_FILE_BYTES = 1 << 28 };

/* Integers up to this are exact in a double. */
#define MAX_EXACT 9007199254740992.0

qnt_status qnti_json_parse(qnt_context *ctx, const char *name, const char *text, size_t bytes, json_t **root)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_error_t error;
    *root = json_loadb(text ? text : "", bytes, flags, &error);
    if (!*root && json_error_code(&error) == json_error_numeric_overflow)
        *root = json_loadb(text, bytes, flags | JSON_DECODE_INT_AS_REAL, &error);
    if (*root)
        return QNT_OK;
    if (json_error_code(&error) == json_error_out_of_memory)
        return qnti_fail(ctx, QNT_NO_MEMORY, "%s: out of memory for JSON of %zu bytes", name, bytes);
    return qnti_fail(ctx, QNT_BAD_DATA, "%s: line %d, column %d: %s", name, error.line, error.column, error.text);
}

qnt_status qnti_json_load(qnt_context *ctx, const char *path, json_t **root)
{
    qnt_status status;
    size_t bytes;
    char *text;
    *root = NULL;
    QNT_TRY(qnti_read_file(ctx, path, MAX_FILE_BYTES, &text, &bytes));
    status = qnti_json_parse(ctx, path, text, bytes, root);
    qnti_free(ctx, text);
    return status;
}

/* The member, or NULL if it is missing or null. */
static const json_t *member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number",  [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",        [JSON_NULL] = "null",
    };
    return names[json_typeof(value)];
}

static qnt_status wrong(qnt_context *ctx, const char *where, const char *key, const char *wanted, const json_t *value)
{
    return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s should be %s, is %s", where, key, wanted, type_name(value));
}

qnt_status qnti_json_size(qnt_context *ctx, const char *where, const json_t *object, const char *key, size_t *value)
{
    const json_t *found = member(object, key);
    double number;
    if (!found)
        return QNT_OK;
    if (!json_is_number(found))
        return wrong(ctx, where, key, "a count", found);
    number = json_number_value(found);
    if (!(number >= 0 && number <= MAX_EXACT && number == floor(number)))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s should be a count, is %.17g", where, key, number);
    *value = json_is_integer(found) ? (size_t)json_integer_value(found) : (size_t)number;
    return QNT_OK;
}

qnt_status qnti_json_float(qnt_context *ctx, const char *where, const json_t *object, const char *key, float *value)
{
    const json_t *found = member(object, key);
    if (!found)
        return QNT_OK;
    if (!json_is_number(found))
        return wrong(ctx, where, key, "a number", found);
    *value = (float)json_number_value(found);
    return QNT_OK;
}

qnt_status qnti_json_bool(qnt_context *ctx, const char *where, const json_t *object, const char *key, bool *value)
{
    const json_t *found = member(object, key);
    if (!found)
        return QNT_OK;
    if (!json_is_boolean(found))
        return wrong(ctx, where, key, "true or false", found);
    *value = json_is_true(found);
    return QNT_OK;
}

qnt_status qnti_json_string(qnt_context *ctx, const char *where, const json_t *object, const char *key,
                            const char **value)
{
    const json_t *found = member(object, key);
    if (!found)
        return QNT_OK;
    if (!json_is_string(found))
        return wrong(ctx, where, key, "a string", found);
    *value = json_string_value(found);
    return QNT_OK;
}
