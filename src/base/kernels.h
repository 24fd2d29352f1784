/*
 * kernels.h - the loops that exist once for each instruction set.
 *
 * base/ states them, kernels/ implements them; the scalar version of each is
 * the specification and every other gives the same bits. A context chooses one
 * table when it is created (QUANT_KERNELS=scalar|avx2|avx512 forces one that
 * the machine has).
 */
#ifndef QNTI_KERNELS_H
#define QNTI_KERNELS_H

#include <stddef.h>
#include <stdint.h>

struct qnti_kernels {
    const char *name;

    void (*f16_to_f32)(size_t n, const uint16_t *x, float *y);
    void (*f32_to_f16)(size_t n, const float *x, uint16_t *y);
    void (*bf16_to_f32)(size_t n, const uint16_t *x, float *y);
    void (*f32_to_bf16)(size_t n, const float *x, uint16_t *y);

    /* Least and greatest of n numbers; NaNs are passed over (nothing left: +inf, -inf), a result of zero is +0. */
    void (*range)(size_t n, const float *x, float *least, float *greatest);

    /*
     * Affine grids. Number i uses scale[i * stride] and offset[i * stride], stride 0 or 1; codes run from 0 to top.
     * zero form:  code = clamp(rint(x / scale) + zero, 0, top),   value = (code - zero) * scale
     * real form:  code = clamp(rint(x / scale + zero), 0, top),   value as in the zero form
     * min form:   code = clamp(rint((x - min) / scale), 0, top),  value = scale * code + min   (two roundings, no FMA)
     * rint is to nearest, ties to even; top is whole, 0 <= top <= 65535, the zero form's zero is; x / 0 counts as 0,
     * (x - min) / 0 too, elsewhere a NaN among the operands gives code 0. `code` or `value` may be NULL, `value` may be
     * `x`. A value that is not a number may be any NaN.
     */
    void (*zero_round)(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                       uint16_t *code, float *value);
    void (*zero_value)(size_t n, const uint16_t *code, const float *scale, const float *zero, size_t stride,
                       float *value);
    void (*real_round)(size_t n, const float *x, const float *scale, const float *zero, size_t stride, float top,
                       uint16_t *code, float *value);
    void (*min_round)(size_t n, const float *x, const float *scale, const float *min, size_t stride, float top,
                      uint16_t *code, float *value);
    void (*min_value)(size_t n, const uint16_t *code, const float *scale, const float *min, size_t stride,
                      float *value);

    /* y += a * x, separately rounded product and sum. */
    void (*axpy)(size_t n, float a, const float *x, float *y);

    /*
     * Bilinear forms of n problems side by side, number i of each row belonging to problem i: t[a] is the sum of
     * c[a * ldc + b] times row b of x [k], added in the order of b; sum[f] [n] += the products of t[a] and row a of
     * y[f] [m], in the order of a, for f < forms. ld: numbers from one row of x or y to the next.
     */
    void (*forms)(size_t n, size_t m, size_t k, const float *c, size_t ldc, const float *x, size_t ld, size_t forms,
                  const float *const *y, float *const *sum);

    /*
     * Codes at their width, one after another from the low bit of the first
     * byte; bits 1 .. 16, higher bits of a code are dropped. n codes take
     * ceil(n * bits / 8) bytes, the last one's spare bits 0; no byte beyond them
     * is read or written.
     */
    void (*pack)(size_t n, unsigned bits, const uint16_t *code, uint8_t *bytes);
    void (*unpack)(size_t n, unsigned bits, const uint8_t *bytes, uint16_t *code);
};

/* The best table for this machine, or the one named; NULL if the name is unknown or the machine lacks it. */
const struct qnti_kernels *qnti_kernels_select(const char *name);

/* All tables that this machine can run, scalar first, NULL behind the last. */
const struct qnti_kernels *const *qnti_kernels_available(size_t *count);

#endif
