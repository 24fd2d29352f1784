/*
 * threshold_search.h - the magnitude down to which the large channels of a site's input are scaled (os_plus.md).
 */
#ifndef QNTI_THRESHOLD_SEARCH_H
#define QNTI_THRESHOLD_SEARCH_H

#include "method/method.h"

struct qnti_threshold_rule {
    struct qnti_input_rule inputs;    /* how these will be quantized; a fixed range is that of the threshold */
    double low;                       /* the smallest threshold */
    int steps;                        /* from the largest magnitude to there, at least */
    size_t tokens;                    /* that the loss is taken on, about */
    bool held_out;                    /* in a model: others than those that scales on trial are made of */
};
/*
 * scale_c = max(1, largest |x_c - shift_c| / t) [in], t by which quantized inputs on quantized weights give the outputs
 * best. shift [in] or NULL. QNT_NOT_FOUND: there are no samples.
 */
qnt_status qnti_search_threshold(struct qnti_job *job, const qnt_layer *layers, size_t count,
                                 const struct qnti_threshold_rule *rule, const float *shift, float *scale);

#endif
