/*
 * file.h - tensors in safetensors files, and files that appear whole or not at all.
 */
#ifndef QUANT_FILE_H
#define QUANT_FILE_H

#include <stdbool.h>
#include <quant/context.h>
#include <quant/matrix.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A safetensors file, mapped and checked. */
typedef struct qnt_tensors qnt_tensors;
/* QNT_IO: cannot be read; QNT_BAD_DATA: not a valid file, the message says where. */
QNT_API qnt_status qnt_tensors_open(qnt_context *context, const char *path, qnt_tensors **tensors);
QNT_API void qnt_tensors_close(qnt_tensors *tensors);

/* A tensor of a file, or one to be written. `data` of an opened file lives as long as it and need not be aligned. */
typedef struct qnt_tensor {
    const char *name;
    const char *dtype;        /* "F32", "F16", "BF16", "I32", "U8" ... */
    size_t rank, shape[8];
    const void *data;
    size_t bytes;
} qnt_tensor;
QNT_API size_t qnt_tensors_count(const qnt_tensors *tensors);
QNT_API bool qnt_tensors_get(const qnt_tensors *tensors, size_t index, qnt_tensor *tensor);
QNT_API bool qnt_tensors_find(const qnt_tensors *tensors, const char *name, qnt_tensor *tensor);
/* A tensor of rank 1 or 2 as a view (rank 1: one row). QNT_UNSUPPORTED: another rank, or not F32, F16, BF16. */
QNT_API qnt_status qnt_tensors_matrix(const qnt_tensors *tensors, const char *name, qnt_matrix *matrix);
/* The whole tensor as f32 in memory of the context, to be freed by qnt_free. */
QNT_API qnt_status qnt_tensors_f32(const qnt_tensors *tensors, const char *name, float **values, size_t *count);

/* Writes a safetensors file under a temporary name and renames it. `bytes` of each tensor must be its size. */
QNT_API qnt_status qnt_tensors_write(qnt_context *context, const char *path, const qnt_tensor *tensors, size_t count);

/* Writes a small file in the same way. */
QNT_API qnt_status qnt_file_write(qnt_context *context, const char *path, const void *bytes, size_t n);

/* Frees what the library says is to be freed by it. */
QNT_API void qnt_free(qnt_context *context, void *memory);

#ifdef __cplusplus
}
#endif
#endif
