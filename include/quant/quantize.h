/*
 * quantize.h - a layer, or the layers of a site, through a recipe.
 */
#ifndef QUANT_QUANTIZE_H
#define QUANT_QUANTIZE_H

#include <quant/calib.h>
#include <quant/context.h>
#include <quant/matrix.h>
#include <quant/qlinear.h>
#include <quant/recipe.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One linear y = x W^T + bias, and what it is to become. Views must live until the call returns. */
typedef struct qnt_layer {
    size_t size;               /* sizeof(qnt_layer) or 0 */
    const char *name;          /* for messages and reports; NULL: "layer" */
    qnt_matrix weight;         /* (out, in) */
    const float *bias;         /* [out] or NULL */
    const qnt_calib *calib;    /* NULL: without calibration */
    const char *format;        /* target, e.g. "gguf:q4_0": its grid is the default; NULL: none, f32 scales */
} qnt_layer;

/*
 * Quantizes a layer; *q is to be destroyed by qnt_qlinear_destroy.
 * QNT_INVALID: a parameter that the format cannot hold (the message names both), no calibration where the method needs
 * it; QNT_NON_FINITE: a weight that is not finite; QNT_UNSUPPORTED: a width that the format's blocks do not divide.
 * A Hessian that has no factor is no failure: the layer is rounded to nearest and its report says so.
 */
QNT_API qnt_status qnt_quantize(qnt_context *context, const qnt_recipe *recipe, const qnt_layer *layer,
                                qnt_qlinear **q);

/* Layers that share an input, and so the calibration of the first: its order and factor are made once. q [count]. */
QNT_API qnt_status qnt_quantize_site(qnt_context *context, const qnt_recipe *recipe, const qnt_layer *layers,
                                     size_t count, qnt_qlinear **q);

#ifdef __cplusplus
}
#endif
#endif
