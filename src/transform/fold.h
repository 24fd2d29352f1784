/*
 * fold.h - a transform of a site's input folded into what makes that input.
 *
 * The producer is a norm or the rows of a linear; x' = P ((x - shift) / scale)
 * comes out of it when its weight and bias are changed once. Only rows of a
 * linear can change places: what a norm normalizes comes in the order of the
 * residual stream. A rotation can be folded only into the heads of values,
 * without signs.
 */
#ifndef QNTI_FOLD_H
#define QNTI_FOLD_H

#include "transform/transform.h"
#include <quant/quantize.h>

/* QNT_UNSUPPORTED, with the reason: the producer cannot absorb the transform. `width` of the site's input. */
qnt_status qnti_fold_check(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width);
/*
 * Parts t into what the producer can absorb and, behind it, what it cannot: both are empty before and the caller's.
 * QNT_UNSUPPORTED: a shift that it cannot absorb. Nothing is changed yet.
 */
qnt_status qnti_fold_part(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width,
                          struct qnti_transform *folded, struct qnti_transform *kept);
/* Changes weight and bias, once checked. */
qnt_status qnti_fold(qnt_context *ctx, const qnt_producer *p, const struct qnti_transform *t, size_t width);

#endif
