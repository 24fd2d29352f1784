/*
 * scalar.h - the plain kernels by name, and the tables.
 *
 * What an instruction set does not do better it takes from here; its loops end
 * here too, with the numbers that do not fill a vector. A table whose
 * instruction set the compiler cannot produce is all NULL.
 */
#ifndef QNTI_SCALAR_H
#define QNTI_SCALAR_H

#include "base/kernels.h"

extern const struct qnti_kernels qnti_kernels_scalar, qnti_kernels_avx2, qnti_kernels_avx512;

void qnti_scalar_f16_to_f32(size_t n, const uint16_t *x, float *y);
void qnti_scalar_f32_to_f16(size_t n, const float *x, uint16_t *y);
void qnti_scalar_bf16_to_f32(size_t n, const uint16_t *x, float *y);
void qnti_scalar_f32_to_bf16(size_t n, const float *x, uint16_t *y);
void qnti_scalar_range(size_t n, const float *x, float *least, float *greatest);
void qnti_scalar_zero_round(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                            uint16_t *code, float *value);
void qnti_scalar_zero_value(size_t n, const uint16_t *code, const float *scale, const float *zero, size_t stride,
                            float *value);
void qnti_scalar_real_round(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                            uint16_t *code, float *value);
void qnti_scalar_min_round(size_t n, const float *x, const float *scale, const float *min, size_t stride, float top,
                           uint16_t *code, float *value);
void qnti_scalar_min_value(size_t n, const uint16_t *code, const float *scale, const float *min, size_t stride,
                           float *value);
void qnti_scalar_axpy(size_t n, float a, const float *x, float *y);
void qnti_scalar_forms(size_t n, size_t m, size_t k, const float *c, size_t ldc, const float *x, size_t ld,
                       size_t forms, const float *const *y, float *const *sum);
/* The same from problem `first` on. */
void qnti_scalar_forms_from(size_t first, size_t n, size_t m, size_t k, const float *c, size_t ldc, const float *x,
                            size_t ld, size_t forms, const float *const *y, float *const *sum);
void qnti_scalar_pack(size_t n, unsigned bits, const uint16_t *code, uint8_t *bytes);
void qnti_scalar_unpack(size_t n, unsigned bits, const uint8_t *bytes, uint16_t *code);

#endif
