/*
 * calib.h - the inside of a calibration.
 */
#ifndef QNTI_CALIB_H
#define QNTI_CALIB_H

#include "base/context.h"
#include "linalg/gram.h"
#include <quant/matrix.h>

/* What a method needs of the calibration inputs; a set of bits. */
enum qnti_need {
    QNTI_NEED_MOMENTS = 1,
    QNTI_NEED_HESSIAN = 2,
    QNTI_NEED_PAIRS = 4,        /* inputs of the quantized and of the unquantized model in step */
    QNTI_NEED_SAMPLES = 8,
    QNTI_NEED_REPLAY = 16,      /* the tokens once more, when earlier stages are chosen (Atom's Hessian) */
    QNTI_GATHERED = 31,         /* these a calibration gathers; beside them: */
    QNTI_NEED_IMPORTANCE = 32,  /* mean of x^2 of each channel, from moments or from outside */
    QNTI_NEED_FISHER = 64       /* mean squared gradient by each weight: from a backward pass, not from inputs */
};

enum { QNTI_MOST_SAMPLES = 2048 };   /* tokens; enough for every search that uses samples (AWQ's takes 512) */

/* Takes some tokens [tokens][in] of a replay. */
typedef qnt_status (*qnti_token_fn)(void *user, const float *x, size_t tokens);

struct qnti_channel_moments {
    float least, greatest;
    double sum, sum_abs, sum_square;
};

struct qnt_calib {
    qnt_context *ctx;
    size_t in;
    unsigned needs;
    size_t tokens, skipped;
    struct qnti_channel_moments *moments;  /* [in] */
    struct qnti_gram *hessian, *cross;
    float *importance;                     /* [in], from outside, or NULL */
    float *samples;                        /* [sample_count][in] */
    size_t sample_count;
    /* Feeds all tokens again; NULL: the samples stand for them. */
    qnt_status (*replay)(void *owner, qnti_token_fn take, void *user);
    void *replay_owner;
    bool once;                             /* one layer reads the sums, once: they are given back then */
    size_t sample_stride;                  /* every so-manieth token is kept; doubles when the store is full */
};

/* What the calibration would hold of the tokens x / scale, by algebra; scale [in]. */
qnt_status qnti_calib_rescale(struct qnt_calib *calib, const float *scale);

qnt_status qnti_calib_create(qnt_context *ctx, unsigned needs, size_t in, struct qnt_calib **calib);
/* The same for f32 tokens [tokens][in]; x_fp NULL without pairs. */
qnt_status qnti_calib_add_f32(struct qnt_calib *calib, const float *x, const float *x_fp, size_t tokens);
/* All tokens once more, or, without an owner that can, the samples. QNT_NOT_FOUND: there are none. */
qnt_status qnti_calib_replay(const struct qnt_calib *calib, qnti_token_fn take, void *user);
/* Mean of x^2 of each channel: from outside if given, else measured. false: neither. */
bool qnti_calib_importance(const struct qnt_calib *calib, float *importance);

#endif
