/*
 * token_search.c - a static range of a layer's inputs by its outputs; see token_search.h.
 *
 * Every range becomes the step and the zero that the format would get, and costs
 * what they change of the outputs of the unquantized weight. Learnt ones go back
 * into a range: there is one way from ranges to grids.
 */
#include "method/token_search.h"

#include <math.h>
#include <string.h>

static qnt_status step_of(struct qnti_job *job, const struct qnti_token_search *s, const float range[2],
                          struct qnti_step *step)
{
    struct qnti_input_rule rule = s->rule;
    struct qnti_actquant *act = NULL;
    qnt_status status;
    rule.range = range;
    status = qnti_job_input_quantizer(job, &rule, s->inputs.cols, &act);
    if (status == QNT_OK)
        qnti_numbers_affine(act->fixed, 0, 0, &step->scale, &step->zero);
    qnti_actquant_free(job->ctx, act);
    return status;
}

qnt_status qnti_search_token_range(struct qnti_job *job, const struct qnti_token_search *s, double step, int tries,
                                   float range[2])
{
    float tried[2], before[2] = {NAN, NAN};
    double least = INFINITY;
    qnti_token_range(s->extremes, 1, range);
    for (int i = 0; i < tries; i++) {
        struct qnti_step of_range;
        double loss;
        QNT_TRY(qnti_cancelled(job->ctx));
        qnti_token_range(s->extremes, (float)fmax(1 - step * i, 0), tried);
        if (tried[0] == before[0] && tried[1] == before[1])
            continue; /* no token lies between the two quantiles */
        memcpy(before, tried, sizeof tried);
        QNT_TRY(step_of(job, s, tried, &of_range));
        QNT_TRY(qnti_step_loss(job->ctx, &s->inputs, of_range, &loss));
        if (loss < least) {
            least = loss;
            memcpy(range, tried, sizeof tried);
        }
    }
    return QNT_OK;
}

qnt_status qnti_learn_range(struct qnti_job *job, const struct qnti_token_search *s, const struct qnti_step_rule *rule,
                            float range[2])
{
    struct qnti_step step;
    float below;                      /* steps from the range's lower end to 0 */
    QNT_TRY(step_of(job, s, range, &step));
    QNT_TRY(qnti_step_learn(job->ctx, &s->inputs, rule, &step));
    below = rule->fixed_zero ? s->inputs.top / 2 : step.zero;
    range[0] = -below * step.scale;
    range[1] = (s->inputs.top - below) * step.scale;
    return QNT_OK;
}
