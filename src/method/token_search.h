/*
 * token_search.h - the static range of a layer's inputs that changes its outputs least, on the way of token quantiles.
 */
#ifndef QNTI_TOKEN_SEARCH_H
#define QNTI_TOKEN_SEARCH_H

#include "method/method.h"
#include "solve/solve.h"

struct qnti_token_search {
    struct qnti_input_rule rule;                 /* fixed, but for its range */
    const struct qnti_token_extremes *extremes;
    struct qnti_step_inputs inputs;              /* on which the loss is taken */
};
/* The range of the first of the quantiles 1 - i step, i < tries, with the least loss; of all tokens without any. */
qnt_status qnti_search_token_range(struct qnti_job *job, const struct qnti_token_search *search, double step, int tries,
                                   float range[2]);
/* The range becomes that of the step and the zero learnt from it. */
qnt_status qnti_learn_range(struct qnti_job *job, const struct qnti_token_search *search,
                            const struct qnti_step_rule *rule, float range[2]);

#endif
