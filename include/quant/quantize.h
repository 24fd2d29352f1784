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
    const float *fisher;       /* (out, in) mean squared gradient of the loss by each weight, >= 0; NULL: not known */
    const float *norm_weight;  /* [in] of the norm that makes the input, where no producer says it; NULL: not known */
    bool attention_score;      /* q or k, or fused with them: it enters attention's scores (AWQ does not clip it) */
    /*
     * Scales that were learned elsewhere stand in place of what the recipe would choose: x ~ (code - input_zero)
     * input_scale with signed codes of act_bits (8 where the recipe does not quantize inputs), 0: none is given; W ~
     * code weight_scale, symmetric, of `bits`, each weight rounded to nearest.
     */
    float input_scale, input_zero;
    const float *weight_scale; /* [weight_scale_count]: one, or [out]; NULL: none */
    size_t weight_scale_count;
} qnt_layer;

/*
 * What makes the input of a site: a norm (cols 1), or a linear whose rows are the channels (cols its width; of a fused
 * linear the rows meant). A transform of the input is folded into it, in place: of a norm scale and shift, of a linear
 * also another order of its rows, which stay within their heads where it has some.
 */
enum { QNT_REFUSES_SCALE = 1, QNT_REFUSES_SHIFT = 2, QNT_REFUSES_ORDER = 4 };
typedef struct qnt_producer {
    size_t size;               /* sizeof(qnt_producer) or 0 */
    float *weight;             /* (rows, cols) */
    float *bias;               /* [rows] or NULL: then a shift cannot be folded */
    size_t rows, cols;
    float base;                /* a norm multiplies by base + weight: 1 for Gemma's, else 0 */
    size_t head;               /* rows of a head of values: these may be rotated among themselves; 0: none may */
    const uint32_t *map;       /* [in] row that feeds each channel; NULL: the same */
    unsigned refuses;          /* QNT_REFUSES_..., together: what an activation behind it does not let through */
    float *beside;             /* (rows, cols) of another linear whose outputs meet these one by one (gate's beside
                                  up's): they change places with them; or NULL */
    float *beside_bias;        /* [rows] or NULL */
} qnt_producer;

/*
 * Quantizes a layer; *q is to be destroyed by qnt_qlinear_destroy.
 * QNT_INVALID: a parameter that the format cannot hold (the message names both), no calibration where the method needs
 * it, Fisher information that is negative or not finite; QNT_NON_FINITE: a weight that is not finite; QNT_UNSUPPORTED:
 * a width that the format's blocks do not divide.
 * A Hessian that has no factor is no failure: the layer is rounded to nearest and its report says so.
 */
QNT_API qnt_status qnt_quantize(qnt_context *context, const qnt_recipe *recipe, const qnt_layer *layer,
                                qnt_qlinear **q);

/* Layers that share an input, and what makes it. */
typedef struct qnt_site {
    size_t size;               /* sizeof(qnt_site) or 0 */
    const qnt_layer *layers;   /* [count]; the calibration is the first one's */
    size_t count;
    const qnt_producer *producer;   /* NULL: what a recipe does to the input stays at run time, in each result */
} qnt_site;

/*
 * One transform for all layers, order and factor made once. q [count]. With a producer the transform is folded into it
 * and the results stand behind it. What the producer cannot absorb, and what is to be done behind that, stays at run
 * time in each result; where the format holds none it is left out, and the report says so. QNT_UNSUPPORTED: a shift
 * that the producer cannot absorb, nothing is changed then.
 */
QNT_API qnt_status qnt_quantize_site(qnt_context *context, const qnt_recipe *recipe, const qnt_site *site,
                                     qnt_qlinear **q);

#ifdef __cplusplus
}
#endif
#endif
