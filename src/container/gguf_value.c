/*
 * gguf_value.c - the kinds of GGUF values and typed access to them.
 */
#include "container/gguf_private.h"

#include <string.h>
#include "base/number.h"
#include "file/name_index.h"

enum { STRING_LENGTH = 8 };

static const struct qnti_gguf_kind kinds[] = {
    [QNTI_GGUF_U8] = {"u8", 1, true, false},
    [QNTI_GGUF_I8] = {"i8", 1, true, true},
    [QNTI_GGUF_U16] = {"u16", 2, true, false},
    [QNTI_GGUF_I16] = {"i16", 2, true, true},
    [QNTI_GGUF_U32] = {"u32", 4, true, false},
    [QNTI_GGUF_I32] = {"i32", 4, true, true},
    [QNTI_GGUF_F32] = {"f32", 4, false, true},
    [QNTI_GGUF_BOOL] = {"bool", 1, false, false},
    [QNTI_GGUF_STRING] = {"string", 0, false, false},
    [QNTI_GGUF_ARRAY] = {"array", 0, false, false},
    [QNTI_GGUF_U64] = {"u64", 8, true, false},
    [QNTI_GGUF_I64] = {"i64", 8, true, true},
    [QNTI_GGUF_F64] = {"f64", 8, false, true},
};

const struct qnti_gguf_kind *qnti_gguf_kind(uint32_t type)
{
    return type < sizeof kinds / sizeof *kinds ? &kinds[type] : NULL;
}

const struct qnti_gguf_value *qnti_gguf_find(const struct qnti_gguf *file, const char *key)
{
    return qnti_index_find(file->values, sizeof *file->values, file->value_count, file->by_key, key);
}

const struct qnti_gguf_tensor *qnti_gguf_find_tensor(const struct qnti_gguf *file, const char *name)
{
    return qnti_index_find(file->tensors, sizeof *file->tensors, file->tensor_count, file->by_name, name);
}

static qnt_status mismatch(const struct qnti_gguf *file, const struct qnti_gguf_value *value, const char *expected)
{
    return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: key %.200s is %s %s, expected %s", file->path, value->key,
                     value->array ? "an array of" : "of type", kinds[value->type].name, expected);
}

qnt_status qnti_gguf_size(const struct qnti_gguf *file, const char *key, size_t *size)
{
    const struct qnti_gguf_value *value = qnti_gguf_find(file, key);
    uint64_t number;
    if (!value)
        return QNT_OK;
    if (value->array || !kinds[value->type].integer)
        return mismatch(file, value, "an integer");
    number = qnti_gguf_load(value->data, value->bytes);
    if (kinds[value->type].has_sign && number >> (8 * value->bytes - 1))
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: key %.200s is negative, expected 0 or more", file->path,
                         value->key);
    if (number > SIZE_MAX)
        return qnti_fail(file->ctx, QNT_BAD_DATA, "%s: key %.200s is %llu, expected at most %zu", file->path,
                         value->key, (unsigned long long)number, (size_t)SIZE_MAX);
    *size = (size_t)number;
    return QNT_OK;
}

qnt_status qnti_gguf_float(const struct qnti_gguf *file, const char *key, float *number)
{
    const struct qnti_gguf_value *value = qnti_gguf_find(file, key);
    uint64_t bits;
    double wide;
    if (!value)
        return QNT_OK;
    if (value->array || (value->type != QNTI_GGUF_F32 && value->type != QNTI_GGUF_F64))
        return mismatch(file, value, "f32 or f64");
    bits = qnti_gguf_load(value->data, value->bytes);
    memcpy(&wide, &bits, sizeof wide);
    *number = value->type == QNTI_GGUF_F32 ? qnti_float((uint32_t)bits) : (float)wide;
    return QNT_OK;
}

qnt_status qnti_gguf_bool(const struct qnti_gguf *file, const char *key, bool *yes)
{
    const struct qnti_gguf_value *value = qnti_gguf_find(file, key);
    if (!value)
        return QNT_OK;
    if (value->array || value->type != QNTI_GGUF_BOOL)
        return mismatch(file, value, "bool");
    *yes = value->data[0] != 0;
    return QNT_OK;
}

qnt_status qnti_gguf_string(const struct qnti_gguf *file, const char *key, const char **string, size_t *bytes)
{
    const struct qnti_gguf_value *value = qnti_gguf_find(file, key);
    const unsigned char *cursor = NULL;
    *string = NULL;
    *bytes = 0;
    if (!value)
        return QNT_OK;
    if (value->array || value->type != QNTI_GGUF_STRING)
        return mismatch(file, value, "a string");
    qnti_gguf_next_string(value, &cursor, string, bytes);
    return QNT_OK;
}

/* Lengths were checked when the file was opened. */
bool qnti_gguf_next_string(const struct qnti_gguf_value *value, const unsigned char **cursor, const char **string,
                           size_t *bytes)
{
    if (!*cursor)
        *cursor = value->data;
    if (value->type != QNTI_GGUF_STRING || *cursor == value->data + value->bytes)
        return false;
    *bytes = (size_t)qnti_gguf_load(*cursor, STRING_LENGTH);
    *string = (const char *)*cursor + STRING_LENGTH;
    *cursor += STRING_LENGTH + *bytes;
    return true;
}
