/*
 * qlinear.h - the parts of the canonical quantized layer.
 *
 * Coordinates: T maps the layer's input x to x' = R P ((x - shift) / scale)
 * (scale and shift per channel, then the permutation, then the rotation); the
 * segments, sparse and low-rank parts stand in the coordinates of x'.
 */
#ifndef QNTI_QLINEAR_H
#define QNTI_QLINEAR_H

#include "base/buffer.h"
#include "grid/activation.h"
#include "grid/cache.h"
#include "grid/grid.h"
#include "transform/transform.h"
#include <quant/qlinear.h>

struct qnti_segment {
    size_t first, cols;               /* of the transformed columns */
    struct qnti_numbers *weight;      /* NULL: still open */
    struct qnti_actquant *act;        /* where it differs from the layer's */
};

/* CSR; a value stands in place of the grid's. */
struct qnti_sparse {
    size_t count;
    uint32_t *row_start;              /* [out + 1]; NULL: the method keeps no single weights */
    uint32_t *column;                 /* [count] */
    float *value;                     /* [count], rounded to `type` */
    qnt_dtype type;
};

struct qnt_qlinear {
    qnt_context *ctx;
    char *name;
    size_t out, in;
    struct qnti_segment *segments;
    size_t segment_count;
    struct qnti_sparse sparse;        /* count 0: nothing to store */
    struct qnti_numbers *lowrank_a, *lowrank_b;   /* (out, r), (r, in) */
    struct qnti_numbers *full;        /* all weights in f16, where a run-time choice needs them */
    struct qnti_transform transform;
    struct qnti_actquant *act;        /* of the input */
    struct qnti_cache *output;        /* that keeps the output, k or v; or NULL */
    float *bias;                      /* [out] or NULL */
    qnt_dtype source_type;            /* of the weights before, for formats that tell readers what to compute with */
    qnt_layer_report report;
    struct qnti_buffer warnings;
    char activations[QNTI_ACTQUANT_TEXT];   /* how inputs are quantized, for the report */
};

qnt_status qnti_qlinear_create(qnt_context *ctx, const char *name, size_t out, size_t in, const float *bias,
                               qnt_qlinear **q);
/* Open segments of so many columns each, which together are all; none was cut before. */
qnt_status qnti_qlinear_cut(qnt_qlinear *q, const size_t *cols, size_t count);
/* One open segment over all columns. QNT_UNSUPPORTED: an earlier stage has cut several. */
qnt_status qnti_qlinear_one_segment(qnt_qlinear *q);
/*
 * The layer's columns in another order: place p gets what was at columns[p] so far. QNT_UNSUPPORTED: its input is
 * rotated at run time, which stands behind the permutation.
 */
qnt_status qnti_qlinear_permute(qnt_qlinear *q, const uint32_t *columns);
/* Allocates the numbers of a segment. */
qnt_status qnti_segment_fill(qnt_qlinear *q, struct qnti_segment *segment, const struct qnti_grid *grid);
/*
 * Fills the sparse part: weights where mask (out, in) is 1 have value (out, in), rounded to `type`, in place of the
 * grid's. Both in the coordinates of x'.
 */
qnt_status qnti_qlinear_keep(qnt_qlinear *q, qnt_dtype type, const uint8_t *mask, const float *value);
/* Bytes of a column's number in the sparse part as it is stored. */
size_t qnti_sparse_column_bytes(size_t in);
/* Bits of a sparse part of `count` weights as it is stored: columns, values, where rows begin. */
double qnti_sparse_bits(size_t out, size_t in, qnt_dtype type, double count);
/* Adds a line to the report's warnings. */
qnt_status qnti_qlinear_warn(qnt_qlinear *q, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Fills `activations`. */
void qnti_qlinear_describe_inputs(qnt_qlinear *q);
/* Whether the layer's inputs are quantized at run time. */
bool qnti_qlinear_quantizes_inputs(const qnt_qlinear *q);
/* actq(T(x)) of tokens x [tokens][in], and kept [in], zero before: 1 for columns that the batch leaves out. */
qnt_status qnti_qlinear_inputs(const qnt_qlinear *q, const float *x, size_t tokens, float *y, uint8_t *kept);
/* The same of T(x) [tokens][in]; x and y may be the same. */
qnt_status qnti_qlinear_quantize(const qnt_qlinear *q, const float *x, size_t tokens, float *y, uint8_t *kept);

/* Row r of Q' + a b, in the coordinates of x' ([in]). */
void qnti_qlinear_row(const qnt_qlinear *q, size_t r, float *row);
/* Rows [first, first + n) of the effective weight in original coordinates. `rows` [n][in]. */
qnt_status qnti_qlinear_rows(const qnt_qlinear *q, size_t first, size_t n, float *rows);
/* All bits over out * in. */
double qnti_qlinear_bits(const qnt_qlinear *q);

/* The table of parts. */
struct qnti_part_row {
    const char *name;
    qnt_dtype dtype;
    /* Fills shape and data; QNT_NOT_FOUND (without a message) if the layer has none. */
    qnt_status (*get)(const qnt_qlinear *q, qnt_part *part);
};
extern const struct qnti_part_row qnti_parts[];

#endif
