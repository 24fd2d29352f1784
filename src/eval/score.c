/*
 * score.c - from logits to the figures of one prediction.
 *
 * ln p(t) = z_t - max - ln(sum of e^(z - max)), e^ in f32, sums in f64, as
 * llama-perplexity has it. The divergence counts every token; llama-perplexity
 * reads its base from 16-bit logarithms and leaves out probabilities below
 * e^-16, so its figures differ in the last digits.
 */
#include "eval/eval.h"

#include <math.h>
#include "nn/expf.h"
#include "nn/operators.h"

struct row {
    const float *logits;
    float max;
    double sum, log_sum;
};

static struct row measure(const float *logits, size_t vocab)
{
    struct row r = {.logits = logits, .max = qnti_row_max(logits, vocab)};
    r.sum = qnti_row_exp_sum(logits, vocab, r.max);
    r.log_sum = log(r.sum);
    return r;
}

/*
 * measure() of p, and KL(p || q) from the same exponentials: sum of p (ln p - ln q), and as ln p - ln q = (z_p - z_q)
 * - (max_p + log_sum_p - max_q - log_sum_q), a sum over e^(z_p - max_p) (z_p - z_q) and a constant behind it.
 */
static struct row measure_from(const float *logits, const struct row *q, size_t vocab, double *kl)
{
    enum { PARTS = 8 };
    struct row p = {.logits = logits, .max = qnti_row_max(logits, vocab)};
    double part[PARTS] = {0}, part_kl[PARTS] = {0}, sum = 0;
    for (size_t i = 0; i < vocab; i += PARTS) {
        size_t n = qnti_min(PARTS, vocab - i);
        float e[PARTS] = {0}, d[PARTS] = {0};
        for (size_t k = 0; k < n; k++) {
            e[k] = qnti_expf(logits[i + k] - p.max);
            d[k] = logits[i + k] - q->logits[i + k];
        }
        for (size_t k = 0; k < PARTS; k++) {
            part[k] += (double)e[k];
            part_kl[k] += (double)e[k] * (double)d[k];
        }
    }
    for (size_t k = 0; k < PARTS; k++) {
        p.sum += part[k];
        sum += part_kl[k];
    }
    p.log_sum = log(p.sum);
    *kl = sum / p.sum - ((double)p.max + p.log_sum - (double)q->max - q->log_sum);
    return p;
}

static double log_probability(const struct row *r, size_t token)
{
    return (double)(r->logits[token] - r->max) - r->log_sum;
}

static size_t first_of_max(const struct row *r, size_t vocab)
{
    size_t i = 0;
    while (i < vocab && r->logits[i] != r->max)
        i++;
    return i;
}

void qnti_eval_score(const float *logits, const float *base_logits, size_t vocab, int32_t target,
                     struct qnti_eval_score *score)
{
    struct row r = measure(logits, vocab), base;
    *score = (struct qnti_eval_score){.nll = -log_probability(&r, (size_t)target)};
    if (!base_logits)
        return;
    base = measure_from(base_logits, &r, vocab, &score->kl);
    score->base_nll = -log_probability(&base, (size_t)target);
    score->same_top = first_of_max(&r, vocab) == first_of_max(&base, vocab);
}
