/*
 * transform.h - equivalent transforms of a layer's input: x' = R P ((x - shift) / scale).
 *
 * P puts original channel permutation[j] at place j. R is block-diagonal with
 * equal orthogonal blocks: signs first, then the Kronecker product of a small
 * matrix and a Walsh matrix (rotation.md). What can be folded into producers
 * never gets here; this is what is left for run time.
 */
#ifndef QNTI_TRANSFORM_H
#define QNTI_TRANSFORM_H

#include "base/context.h"

struct qnti_rotation {
    size_t block;              /* width of a block; 0: no rotation */
    size_t small;              /* order of the small factor; block / small is a power of two */
    float *small_matrix;       /* [small][small], orthogonal; NULL if small is 1 */
    float *sign;               /* [width], +-1; NULL: all 1 */
};

struct qnti_transform {
    float *scale, *shift;      /* [width] or NULL */
    uint32_t *permutation;     /* [width] or NULL */
    uint32_t *cluster;         /* [width] of each place behind the permutation, in runs from 0 on: what a method put
                                  side by side, for its later stages; it changes nothing; or NULL */
    struct qnti_rotation rotation;
};

/*
 * Blocks of the width (0: as large as there are matrices) by the Hadamard matrix of that order, after signs that a
 * generator seeded with *seed draws for all of the width; NULL: none. QNT_UNSUPPORTED: the block is no divisor, or
 * there is no such matrix.
 */
qnt_status qnti_rotation_hadamard(qnt_context *ctx, size_t width, size_t block, const uint64_t *seed,
                                  struct qnti_rotation *rotation);
bool qnti_transform_is_identity(const struct qnti_transform *t);
qnt_status qnti_transform_copy(qnt_context *ctx, const struct qnti_transform *from, size_t width,
                               struct qnti_transform *to);
void qnti_transform_free(qnt_context *ctx, struct qnti_transform *t);
/* *to, empty before, becomes *from, which is empty afterwards. */
void qnti_transform_move(struct qnti_transform *from, struct qnti_transform *to);
/* x' of one token; x and y are different, `scratch` [width]. */
void qnti_transform_forward(const struct qnti_transform *t, size_t width, const float *x, float *y, float *scratch);
/*
 * A weight row in the coordinates of x' to one of x: w = w' R P / scale. The shift does not act on weights.
 * `scratch` [2 width].
 */
void qnti_transform_weight_back(const struct qnti_transform *t, size_t width, const float *w, float *y,
                                float *scratch);
/* A weight row of x to one of x': w' = w scale P^T R^T. */
void qnti_transform_weight(const struct qnti_transform *t, size_t width, const float *w, float *y, float *scratch);
/* What the shift takes from the output of a weight row of x, w shift: it belongs into the bias, whatever w becomes. */
double qnti_transform_bias(const struct qnti_transform *t, size_t width, const float *w);
/* Places from the first on whose channels ascend: a permutation is known, and stored, by what stands behind them. */
size_t qnti_permutation_known(const uint32_t *permutation, size_t width);
/* Bits of all parts. */
double qnti_transform_bits(const struct qnti_transform *t, size_t width);

#endif
