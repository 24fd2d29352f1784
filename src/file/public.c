/*
 * public.c - the file functions of the public interface (quant/file.h) over the safetensors reader and writer.
 *
 * Nothing is decided here but what a caller may get wrong: names that are not
 * there, ranks and types that are no matrix, sizes that do not fit a shape.
 */
#include <quant/file.h>

#include <string.h>
#include "base/tensor.h"
#include "file/output.h"
#include "file/safetensors_private.h"

struct qnt_tensors {
    qnt_context *ctx;
    struct qnti_safetensors *file;
};

qnt_status qnt_tensors_open(qnt_context *ctx, const char *path, qnt_tensors **tensors)
{
    qnt_tensors *t;
    qnt_status status;
    *tensors = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &t));
    t->ctx = ctx;
    status = qnti_safetensors_open(ctx, path, &t->file);
    if (status == QNT_OK)
        *tensors = t;
    else
        qnti_free(ctx, t);
    return status;
}

void qnt_tensors_close(qnt_tensors *t)
{
    if (!t)
        return;
    qnti_safetensors_close(t->file);
    qnti_free(t->ctx, t);
}

static qnt_tensor public_tensor(const struct qnti_tensor *from)
{
    qnt_tensor t = {.name = from->name, .dtype = from->dtype, .rank = from->rank, .data = from->data,
                    .bytes = from->bytes};
    _Static_assert(sizeof t.shape == sizeof from->shape, "one limit of dimensions");
    memcpy(t.shape, from->shape, sizeof t.shape);
    return t;
}

size_t qnt_tensors_count(const qnt_tensors *t)
{
    return t->file->count;
}

bool qnt_tensors_get(const qnt_tensors *t, size_t index, qnt_tensor *tensor)
{
    if (index >= t->file->count)
        return false;
    *tensor = public_tensor(&t->file->tensors[index]);
    return true;
}

bool qnt_tensors_find(const qnt_tensors *t, const char *name, qnt_tensor *tensor)
{
    const struct qnti_tensor *found = qnti_safetensors_find(t->file, name);
    if (found)
        *tensor = public_tensor(found);
    return found != NULL;
}

/* A tensor of numbers that the library computes with. */
static qnt_status find_numbers(const qnt_tensors *t, const char *name, const struct qnti_tensor **tensor,
                               qnt_dtype *dtype)
{
    *tensor = qnti_safetensors_find(t->file, name);
    if (!*tensor)
        return qnti_fail(t->ctx, QNT_NOT_FOUND, "%s: has no tensor \"%.200s\"", t->file->path, name);
    if (qnti_tensor_dtype(*tensor, dtype) && (*dtype == QNT_F32 || *dtype == QNT_F16 || *dtype == QNT_BF16))
        return QNT_OK;
    return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: tensor \"%.200s\" is of type %s, expected F32, F16 or BF16",
                     t->file->path, name, (*tensor)->dtype);
}

qnt_status qnt_tensors_matrix(const qnt_tensors *t, const char *name, qnt_matrix *matrix)
{
    const struct qnti_tensor *tensor;
    qnt_dtype dtype;
    QNT_TRY(find_numbers(t, name, &tensor, &dtype));
    if (tensor->rank != 1 && tensor->rank != 2)
        return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: tensor \"%.200s\" has %zu dimensions, expected 1 or 2",
                         t->file->path, name, tensor->rank);
    *matrix = qnt_matrix_of(dtype, tensor->data, tensor->rank == 2 ? tensor->shape[0] : 1,
                            tensor->shape[tensor->rank - 1]);
    return QNT_OK;
}

qnt_status qnt_tensors_f32(const qnt_tensors *t, const char *name, float **values, size_t *count)
{
    const struct qnti_tensor *tensor;
    qnt_dtype dtype;
    *values = NULL;
    QNT_TRY(find_numbers(t, name, &tensor, &dtype));
    QNT_TRY(QNTI_NEW_RAW(t->ctx, tensor->elements, values));
    if (tensor->elements)
        qnti_widen(t->ctx, dtype, tensor->data, tensor->elements, *values);
    *count = tensor->elements;
    return QNT_OK;
}

/* The writer checks names and types; here, that the caller's bytes are as many as the shape needs. */
static qnt_status source_of(qnt_context *ctx, const char *path, const qnt_tensor *t, struct qnti_tensor_source *source)
{
    const struct qnti_safetensors_type *type = qnti_safetensors_type(t->dtype);
    size_t elements, bytes;
    *source = (struct qnti_tensor_source){.name = t->name, .dtype = t->dtype, .rank = t->rank, .data = t->data};
    if (!type || t->rank > QNTI_MAX_RANK)
        return QNT_OK;
    memcpy(source->shape, t->shape, sizeof source->shape);
    QNT_TRY(qnti_safetensors_measure(ctx, path, t->name, type, t->rank, t->shape, &elements, &bytes));
    if (bytes != t->bytes || (bytes && !t->data))
        return qnti_fail(ctx, QNT_INVALID, "%s: tensor \"%.200s\": %zu bytes are given%s, its shape of %s needs %zu",
                         path, t->name, t->bytes, t->data ? "" : " at NULL", t->dtype, bytes);
    return QNT_OK;
}

qnt_status qnt_tensors_write(qnt_context *ctx, const char *path, const qnt_tensor *tensors, size_t count)
{
    struct qnti_tensor_source *sources;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(ctx, count, &sources));
    for (size_t i = 0; i < count && status == QNT_OK; i++)
        status = source_of(ctx, path, &tensors[i], &sources[i]);
    if (status == QNT_OK)
        status = qnti_safetensors_write(ctx, path, sources, count, NULL, 0);
    qnti_free(ctx, sources);
    return status;
}

qnt_status qnt_file_write(qnt_context *ctx, const char *path, const void *bytes, size_t n)
{
    struct qnti_output *output;
    qnt_status status;
    QNT_TRY(qnti_output_create(ctx, path, &output));
    status = qnti_output_write(output, bytes, n);
    if (status == QNT_OK)
        return qnti_output_commit(output);
    qnti_output_discard(output);
    return status;
}

void qnt_free(qnt_context *ctx, void *memory)
{
    qnti_free(ctx, memory);
}
