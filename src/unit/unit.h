/*
 * unit.h - something with a forward pass whose weights can be exchanged: a linear, the attention, the mlp, a block.
 *
 * A search compares what a unit gives with other weights; it knows the unit's
 * inside as little as the unit knows the search. The layer level has the unit
 * of one linear; nn/ makes the others.
 */
#ifndef QNTI_UNIT_H
#define QNTI_UNIT_H

#include "base/context.h"

/* Shape of a weight that can be exchanged: (rows, cols), a vector has one row. */
struct qnti_unit_weight {
    size_t rows, cols;
};

struct qnti_unit {
    size_t in, out;                            /* width of input and output */
    size_t weight_count;
    const struct qnti_unit_weight *weights;
    size_t bias_count;                         /* of the first so many weights the biases can be exchanged too */
    /*
     * y (tokens, out) of x (tokens, in), with weights[i] in place of weight i where it is not NULL, and
     * weights[weight_count + i] in place of its bias. Tokens belong to sequences of `sequence` tokens each (a linear
     * does not care).
     */
    qnt_status (*forward)(const struct qnti_unit *unit, const float *x, size_t tokens, size_t sequence,
                          const float *const *weights, float *y);
    qnt_context *ctx;
    const void *self;                          /* of the implementation */
};

/* Mean square difference of the unit's output between two sets of weights, in f64. */
qnt_status qnti_unit_loss(const struct qnti_unit *unit, const float *x, size_t tokens, size_t sequence,
                          const float *const *a, const float *const *b, double *loss);

/* --- linear.c: y = x W^T + bias; weight 0 is W. --- */
struct qnti_layer_unit {
    const float *weight;                       /* (out, in) */
    const float *bias;                         /* [out] or NULL */
    struct qnti_unit_weight shape;
};
void qnti_unit_of_layer(qnt_context *ctx, struct qnti_layer_unit *linear, size_t out, size_t in,
                        struct qnti_unit *unit);

#endif
