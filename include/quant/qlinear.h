/*
 * qlinear.h - the canonical quantized layer, the result of every method.
 *
 * y = actq(T(x)) (Q' + a b)^T + bias, where T is the run-time transform, actq
 * the activation quantizer, Q' the dequantized segments with the sparse
 * values in place of theirs, a b the low-rank part. Each part but the
 * segments is optional.
 */
#ifndef QUANT_QLINEAR_H
#define QUANT_QLINEAR_H

#include <quant/context.h>
#include <quant/matrix.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qnt_qlinear qnt_qlinear;

/* NULL is allowed. */
QNT_API void qnt_qlinear_destroy(qnt_qlinear *q);
QNT_API const char *qnt_qlinear_name(const qnt_qlinear *q);
QNT_API size_t qnt_qlinear_out(const qnt_qlinear *q);
QNT_API size_t qnt_qlinear_in(const qnt_qlinear *q);
/* Whether each batch of inputs decides which columns stay floats (LLM.int8). */
QNT_API bool qnt_qlinear_chooses_columns(const qnt_qlinear *q);

/*
 * The effective weight in the original input space, (out, in) f32: run-time
 * scale, permutation and rotation undone, sparse and low-rank parts included.
 */
QNT_API qnt_status qnt_dequantize(const qnt_qlinear *q, float *weight);

/*
 * The same as the tokens x (tokens, in) meet it: columns that the activation quantizer's threshold leaves out in this
 * batch, marked 1 in kept [in], come from the f16 copy of the weights where there is one.
 */
QNT_API qnt_status qnt_dequantize_batch(const qnt_qlinear *q, qnt_matrix x, float *weight, uint8_t *kept);

/*
 * Reference forward: y (tokens, out) f32 of x (tokens, in), with everything
 * that happens at run time. Plain C in f32: the definition that packed kernels
 * are tested against. Where a KV cache keeps the output (method kv_cache) the
 * tokens are one sequence, as the last of them sees it. y must not overlap x.
 */
QNT_API qnt_status qnt_forward(const qnt_qlinear *q, qnt_matrix x, float *y);

/* What was gained and lost. Errors are NaN where the calibration does not know them. */
typedef struct qnt_layer_report {
    size_t size;              /* sizeof(qnt_layer_report) or 0; filled */
    double bits_per_weight;   /* every part counted */
    double weight_error;      /* |W - Q|^2 / |W|^2 */
    double output_error;      /* tr(D H D^T) / tr(W H W^T), D = W - Q: relative square error on the calibration inputs,
                                 over at most 128 evenly spaced rows */
    double damping;           /* share of the mean diagonal that was added to H; 0 without H */
    size_t tokens;            /* calibration tokens */
    size_t skipped_tokens;    /* left out because of numbers that are not finite */
    size_t dead_columns;      /* inputs that were always 0 */
    double seconds;
    const char *warnings;     /* lines, "" if none; owned by the qlinear */
    const char *activations;  /* how inputs are quantized, as "8 bits, by token"; "" if not; owned by the qlinear */
} qnt_layer_report;
QNT_API qnt_status qnt_report(const qnt_qlinear *q, qnt_layer_report *report);

/*
 * Any part by its name, as `quant layer` and the native format spell it:
 * codes, scales, zeros, mins, codebook, group_index, scale, shift, permutation,
 * outlier_mask, kept_columns, keep_scales, lowrank_a, lowrank_b, act_scale, act_zero, bias.
 * The data belongs to the caller (qnt_part_free) and is in original column
 * order where the part has columns. QNT_NOT_FOUND: this layer has none.
 */
typedef struct qnt_part {
    const char *name;
    qnt_dtype dtype;          /* F32, I32 or U8 */
    size_t rank, shape[2];
    void *data;
    qnt_context *context;
} qnt_part;
QNT_API qnt_status qnt_qlinear_part(const qnt_qlinear *q, const char *name, qnt_part *part);
QNT_API void qnt_part_free(qnt_part *part);
/* Names of all parts in the table's order; NULL beyond the last. */
QNT_API const char *qnt_part_name(size_t index);

#ifdef __cplusplus
}
#endif
#endif
