/*
 * refine.h - the correct stage that GPTQ's refine_passes and refit_scales share with the method refine.
 */
#ifndef QNTI_REFINE_H
#define QNTI_REFINE_H

#include "method/method.h"

struct qnti_refine_params {
    int refine_passes;
    bool refit_scales;
    int refit_rounds;
};

#define QNTI_REFINE_ROWS(type, member, passes)                                                                   \
    {"refine_passes", QNTI_PARAM_INT, offsetof(type, member.refine_passes), passes, 0, 1000, NULL,               \
     "passes of coordinate descent on the codes"},                                                               \
        {"refit_scales", QNTI_PARAM_BOOL, offsetof(type, member.refit_scales), 0, 0, 1, NULL,                    \
         "solve for the best scales before each round of passes"},                                               \
    {                                                                                                            \
        "refit_rounds", QNTI_PARAM_INT, offsetof(type, member.refit_rounds), 3, 1, 100, NULL,                    \
            "rounds of refit and passes"                                                                         \
    }

/* Improves the codes and scales of the filled layer; `damp` is a share of the mean diagonal. */
qnt_status qnti_refine(struct qnti_job *job, const struct qnti_refine_params *p, double damp, qnt_qlinear *q);

#endif
