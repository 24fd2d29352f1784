/*
 * refine.h - the correct stage that GPTQ's refine_passes and refit_scales share with the method refine.
 */
#ifndef QNTI_REFINE_H
#define QNTI_REFINE_H

#include "method/method.h"

struct qnti_refine_params {
    int refine_passes;
    bool refit_scales;
};

#define QNTI_REFINE_ROWS(type, member, passes)                                                                   \
    {"refine_passes", QNTI_PARAM_INT, offsetof(type, member.refine_passes), passes, 0, 1000, NULL,               \
     "passes of coordinate descent on the codes"},                                                               \
    {                                                                                                            \
        "refit_scales", QNTI_PARAM_BOOL, offsetof(type, member.refit_scales), 0, 0, 1, NULL,                     \
            "move scales, and minima, in these passes too"                                                       \
    }

/* Improves the codes and scales of the filled layer under the damped Hessian. */
qnt_status qnti_refine(struct qnti_job *job, const struct qnti_refine_params *p, struct qnti_damping damping,
                       qnt_qlinear *q);

#endif
