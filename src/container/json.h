/*
 * json.h - reading JSON files of others through jansson.
 *
 * Errors name file, line and column. Integers beyond 64 bits (Hugging Face
 * writes them) are read as reals. Duplicate keys are refused.
 */
#ifndef QNTI_JSON_H
#define QNTI_JSON_H

#include <jansson.h>
#include "base/context.h"

/* *root belongs to the caller (json_decref). QNT_IO, QNT_BAD_DATA. */
qnt_status qnti_json_load(qnt_context *ctx, const char *path, json_t **root);
qnt_status qnti_json_parse(qnt_context *ctx, const char *name, const char *text, size_t bytes, json_t **root);

/*
 * Members of an object with their type checked; `where` names the file or
 * object in messages. A missing or null member leaves *value as it is and
 * gives QNT_OK; a member of another type is QNT_BAD_DATA.
 */
qnt_status qnti_json_size(qnt_context *ctx, const char *where, const json_t *object, const char *key, size_t *value);
qnt_status qnti_json_float(qnt_context *ctx, const char *where, const json_t *object, const char *key, float *value);
qnt_status qnti_json_bool(qnt_context *ctx, const char *where, const json_t *object, const char *key, bool *value);
/* The string is borrowed from the object. */
qnt_status qnti_json_string(qnt_context *ctx, const char *where, const json_t *object, const char *key,
                            const char **value);

#endif
