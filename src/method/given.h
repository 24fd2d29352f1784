/*
 * given.h - scales of a layer that stand in place of a stage (qnt_layer).
 */
#ifndef QNTI_GIVEN_H
#define QNTI_GIVEN_H

#include "method/method.h"

/* Whether the layer brings what the stage would choose. */
bool qnti_layer_gives(const qnt_layer *layer, enum qnti_stage stage);
/* QNT_INVALID: scales that are not positive numbers, or not one a row; a recipe that transforms what they are for. */
qnt_status qnti_take_given(struct qnti_job *job, const qnt_recipe *recipe, const qnt_layer *layer,
                           enum qnti_stage stage, qnt_qlinear *q);

#endif
