/*
 * evaluate.c - the models' pass over the windows, and the sums of all scores.
 *
 * Windows go through the blocks in batches, so that a block is seldom loaded
 * and hidden states stay bounded; logits exist for a run of positions at a
 * time. With a base model the logits of both stand side by side.
 */
#include "eval/eval.h"

#include <math.h>

/* Tokens whose hidden states are held at once, positions whose logits are. */
enum { BATCH_TOKENS = 65536, RUN = 256 };

/* Sum and sum of squares of what is averaged. */
struct sums {
    double sum, squares;
};

struct side {
    const struct qnti_checkpoint *model;   /* NULL: no base */
    const struct qnti_kv *kv;
    float *head, *hidden, *logits;
};

struct evaluation {
    qnt_context *ctx;
    const struct qnti_eval_options *options;
    struct qnti_eval_windows windows;
    size_t batch;                          /* windows of a batch */
    size_t vocab;
    struct side sides[2];                  /* the model, the base */
    const int32_t *targets;                /* of the run */
    struct qnti_eval_score scores[RUN];
    size_t scored, same_top;
    struct sums nll, base_nll, kl;
    double kl_max;
    size_t done, total;                    /* of progress: windows through blocks, windows scored */
};

static void add(struct sums *s, double x)
{
    s->sum += x;
    s->squares += x * x;
}

static double mean(struct sums s, size_t n)
{
    return s.sum / (double)n;
}

/* The standard error of the mean. */
static double error(struct sums s, size_t n)
{
    double variance = s.squares / (double)n - mean(s, n) * mean(s, n);
    return n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
}

static qnt_status score_one(void *arg, size_t index)
{
    struct evaluation *e = arg;
    const float *base = e->sides[1].model ? e->sides[1].logits + index * e->vocab : NULL;
    qnti_eval_score(e->sides[0].logits + index * e->vocab, base, e->vocab, e->targets[index], &e->scores[index]);
    return QNT_OK;
}

static qnt_status collect(struct evaluation *e, size_t window, size_t position, const struct qnti_eval_score *score)
{
    if (!isfinite(score->nll) || !isfinite(score->base_nll))
        return qnti_fail(e->ctx, QNT_NON_FINITE, "window %zu, position %zu: the logits of the %s are not finite",
                         window, position, isfinite(score->nll) ? "base model" : "model");
    e->scored++;
    e->same_top += score->same_top;
    add(&e->nll, score->nll);
    add(&e->base_nll, score->base_nll);
    add(&e->kl, score->kl);
    e->kl_max = fmax(e->kl_max, score->kl);
    return QNT_OK;
}

/* Positions [first, first + n) of window `in_batch`, which is window `window` of all. */
static qnt_status score_run(struct evaluation *e, size_t window, size_t in_batch, size_t first, size_t n)
{
    e->targets = e->windows.ids + window * e->windows.ctx + first + 1;
    for (size_t s = 0; s < 2 && e->sides[s].model; s++) {
        struct side *side = &e->sides[s];
        const float *hidden = side->hidden + (in_batch * e->windows.ctx + first) * side->model->config.hidden;
        QNT_TRY(qnti_logits(side->model, side->head, hidden, n, side->logits));
    }
    QNT_TRY(qnti_parallel(e->ctx, n, score_one, e));
    for (size_t i = 0; i < n; i++)
        QNT_TRY(collect(e, window, first + i, &e->scores[i]));
    return QNT_OK;
}

/* `done` steps of a model's pass, behind those that were done before it. */
static void report(void *user, size_t done, size_t total)
{
    const struct evaluation *e = user;
    (void)total;
    if (e->options->progress)
        e->options->progress(e->options->user, e->done + done, e->total);
}

static qnt_status run_batch(struct evaluation *e, size_t window, size_t n)
{
    const struct qnti_eval_windows *w = &e->windows;
    for (size_t s = 0; s < 2 && e->sides[s].model; s++) {
        const struct side *side = &e->sides[s];
        QNT_TRY(qnti_model_forward(side->model, side->kv, w->ids + window * w->ctx, n, w->ctx, side->hidden, report,
                                   e));
        e->done += n * side->model->config.blocks;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t first = w->first; first < w->ctx - 1; first += RUN)
            QNT_TRY(score_run(e, window + i, i, first, qnti_min(RUN, w->ctx - 1 - first)));
        e->done++;
        report(e, 0, 0);
    }
    return QNT_OK;
}

static qnt_status prepare_side(const struct evaluation *e, struct side *side)
{
    size_t n;
    if (!qnti_multiply(e->batch * e->windows.ctx, side->model->config.hidden, &n))
        return qnti_fail(e->ctx, QNT_NO_MEMORY, "hidden states of %zu tokens of width %zu exceed the address space",
                         e->batch * e->windows.ctx, side->model->config.hidden);
    QNT_TRY(QNTI_NEW_RAW(e->ctx, n, &side->hidden));
    QNT_TRY(QNTI_NEW_RAW(e->ctx, qnti_min(RUN, e->windows.ctx) * e->vocab, &side->logits));
    return qnti_head_load(side->model, &side->head);
}

static qnt_status prepare(struct evaluation *e, const int32_t *ids, size_t count)
{
    const struct qnti_checkpoint *model = e->sides[0].model, *base = e->sides[1].model;
    if (base && base->config.vocab != model->config.vocab)
        return qnti_fail(e->ctx, QNT_INVALID, "the model has a vocabulary of %zu, the one it is compared with of %zu",
                         model->config.vocab, base->config.vocab);
    e->vocab = model->config.vocab;
    QNT_TRY(qnti_eval_windows(e->ctx, ids, count, e->options, &e->windows));
    e->batch = qnti_min(e->windows.windows, qnti_max(1, BATCH_TOKENS / e->windows.ctx));
    e->total = e->windows.windows;
    for (size_t s = 0; s < 2 && e->sides[s].model; s++) {
        QNT_TRY(prepare_side(e, &e->sides[s]));
        e->total += e->windows.windows * e->sides[s].model->config.blocks;
    }
    return QNT_OK;
}

static void free_evaluation(struct evaluation *e)
{
    for (size_t s = 0; s < 2; s++) {
        qnti_free(e->ctx, e->sides[s].hidden);
        qnti_free(e->ctx, e->sides[s].logits);
        qnti_free(e->ctx, e->sides[s].head);
    }
    qnti_eval_windows_free(e->ctx, &e->windows);
    qnti_free(e->ctx, e);
}

static struct qnti_eval_result summary(const struct evaluation *e)
{
    size_t n = e->scored;
    struct qnti_eval_result r = {.windows = e->windows.windows, .ctx = e->windows.ctx, .scored = n};
    r.nll = mean(e->nll, n);
    r.perplexity = exp(r.nll);
    r.perplexity_error = r.perplexity * error(e->nll, n);
    if (!e->sides[1].model)
        return r;
    r.compared = true;
    r.base_perplexity = exp(mean(e->base_nll, n));
    r.base_perplexity_error = r.base_perplexity * error(e->base_nll, n);
    r.kl = mean(e->kl, n);
    r.kl_error = error(e->kl, n);
    r.kl_max = e->kl_max;
    r.same_top = (double)e->same_top / (double)n;
    r.same_top_error = error((struct sums){(double)e->same_top, (double)e->same_top}, n);
    return r;
}

qnt_status qnti_evaluate(const struct qnti_checkpoint *model, const struct qnti_checkpoint *base, const int32_t *ids,
                         size_t count, const struct qnti_eval_options *options, struct qnti_eval_result *result)
{
    struct evaluation *e;
    qnt_status status;
    QNT_TRY(QNTI_NEW(model->ctx, 1, &e));
    e->ctx = model->ctx;
    e->options = options;
    e->sides[0].model = model;
    e->sides[1].model = base;
    e->sides[0].kv = options->kv ? options->kv : model->kv;
    e->sides[1].kv = base ? base->kv : NULL;
    QNT_CHECK(prepare(e, ids, count));
    for (size_t w = 0; w < e->windows.windows; w += e->batch)
        QNT_CHECK(run_batch(e, w, qnti_min(e->batch, e->windows.windows - w)));
    *result = summary(e);
cleanup:
    free_evaluation(e);
    return status;
}
