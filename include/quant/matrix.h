/*
 * matrix.h - views of matrices that belong to the caller.
 *
 * A view is row-major: element (r, c) stands at data[r * stride + c]. The
 * library reads through views and never keeps one longer than the call, but
 * for those of a qnt_layer, which must live until qnt_quantize returns.
 */
#ifndef QUANT_MATRIX_H
#define QUANT_MATRIX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Types of elements: name, value, bytes. */
#define QNT_DTYPE_MAP(X) \
    X(F32, 0, 4)         \
    X(F16, 1, 2)         \
    X(BF16, 2, 2)        \
    X(U8, 3, 1)          \
    X(I32, 4, 4)         \
    X(I8, 5, 1)          \
    X(I64, 6, 8)         \
    X(F8_E4M3, 7, 1)     \
    X(F8_E8M0, 8, 1)     \
    X(F8_E5M2, 9, 1)

typedef enum qnt_dtype {
#define QNT_DTYPE_ENUM(name, value, bytes) QNT_##name = value,
    QNT_DTYPE_MAP(QNT_DTYPE_ENUM)
#undef QNT_DTYPE_ENUM
} qnt_dtype;

typedef struct qnt_matrix {
    const void *data;
    size_t rows, cols;
    size_t stride;    /* elements from one row to the next, >= cols */
    qnt_dtype dtype;  /* F32, F16 or BF16 */
} qnt_matrix;

static inline qnt_matrix qnt_matrix_of(qnt_dtype dtype, const void *data, size_t rows, size_t cols)
{
    qnt_matrix m;
    m.data = data;
    m.rows = rows;
    m.cols = cols;
    m.stride = cols;
    m.dtype = dtype;
    return m;
}

static inline qnt_matrix qnt_matrix_f32(const float *data, size_t rows, size_t cols)
{
    return qnt_matrix_of(QNT_F32, data, rows, cols);
}

/* IEEE binary16 and bfloat16 as their bit patterns. */
static inline qnt_matrix qnt_matrix_f16(const uint16_t *data, size_t rows, size_t cols)
{
    return qnt_matrix_of(QNT_F16, data, rows, cols);
}

static inline qnt_matrix qnt_matrix_bf16(const uint16_t *data, size_t rows, size_t cols)
{
    return qnt_matrix_of(QNT_BF16, data, rows, cols);
}

#ifdef __cplusplus
}
#endif
#endif
