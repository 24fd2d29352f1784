/*
 * text.c - the public face: a text file through a model, against another one if asked.
 */
#include "eval/eval.h"

#include "base/clock.h"
#include "checkpoint/model.h"
#include "eval/text.h"
#include "text/corpus.h"

struct reporter {
    qnt_progress_fn progress;
    void *user;
    double began;
};

static void report(void *user, size_t done, size_t total)
{
    const struct reporter *r = user;
    qnt_progress p = {.phase = "evaluate", .item = "", .share = total ? (double)done / (double)total : 1};
    p.seconds = qnti_seconds() - r->began;
    p.seconds_left = p.share > 0.02 ? p.seconds * (1 - p.share) / p.share : -1;
    r->progress(r->user, &p);
}

static void publish(const struct qnti_eval_result *r, double began, qnt_eval_result *result)
{
    *result = (qnt_eval_result){.windows = r->windows, .ctx = r->ctx, .scored = r->scored, .nll = r->nll,
                                .perplexity = r->perplexity, .perplexity_error = r->perplexity_error,
                                .compared = r->compared, .against_perplexity = r->base_perplexity,
                                .mean_kl = r->kl, .kl_error = r->kl_error, .top1 = r->same_top,
                                .seconds = qnti_seconds() - began};
}

static qnt_status run(qnt_model *model, qnt_model *against, const int32_t *ids, size_t count,
                      struct qnti_eval_options *o, struct reporter *reporter, qnt_eval_result *result)
{
    struct qnti_eval_result r;
    reporter->began = qnti_seconds();
    if (reporter->progress) {
        o->progress = report;
        o->user = reporter;
    }
    QNT_TRY(qnti_evaluate(model->checkpoint, against ? against->checkpoint : NULL, ids, count, o, &r));
    publish(&r, reporter->began, result);
    return QNT_OK;
}

qnt_status qnt_evaluate(qnt_model *model, const qnt_eval_options *options, qnt_eval_result *result)
{
    qnt_context *ctx = model->checkpoint->ctx;
    struct qnti_eval_options o = {.ctx = options->ctx, .chunks = options->chunks};
    struct reporter reporter = {options->progress, options->progress_user, 0};
    const qnti_tokenizer *tokenizer = NULL;
    struct qnti_kv kv;
    int32_t *ids = NULL;
    size_t count;
    qnt_status status;
    if (options->size && options->size != sizeof *options)
        return qnti_fail(ctx, QNT_INVALID, "qnt_eval_options of %zu bytes, this version's has %zu", options->size,
                         sizeof *options);
    if (!options->text)
        return qnti_fail(ctx, QNT_INVALID, "an evaluation needs a text");
    if (options->protocol)
        QNT_TRY(qnti_eval_protocol_find(ctx, options->protocol, &o.protocol));
    if (options->kv) {
        QNT_TRY(qnti_kv_parse(ctx, options->kv, model->checkpoint->config.head_dim, &kv));
        o.kv = &kv;
    }
    QNT_TRY(qnti_model_check(model)); /* names the weight that would make every figure a NaN */
    if (options->against)
        QNT_TRY(qnti_model_check(options->against));
    /* The tokenizer of the model, or of the one it is held against: a file without a vocabulary can be compared too. */
    QNT_TRY(qnti_model_tokenizer(model, &tokenizer));
    if (!tokenizer && options->against)
        QNT_TRY(qnti_model_tokenizer(options->against, &tokenizer));
    o.bos = qnti_model_bos(tokenizer, &o.add_bos);
    QNT_CHECK(qnti_corpus_ids(ctx, options->text, tokenizer, model->checkpoint->config.vocab, &ids, &count));
    status = run(model, options->against, ids, count, &o, &reporter, result);
cleanup:
    qnti_free(ctx, ids);
    return status;
}

qnt_status qnti_compare_windows(qnt_model *model, qnt_model *against, const int32_t *ids, size_t windows,
                                size_t tokens, qnt_progress_fn progress, void *user, qnt_eval_result *result)
{
    struct qnti_eval_options o = {.ctx = tokens, .chunks = windows, .bos = -1};
    struct reporter reporter = {progress, user, 0};
    QNT_TRY(qnti_eval_protocol_find(model->checkpoint->ctx, "gptq", &o.protocol));
    return run(model, against, ids, windows * tokens, &o, &reporter, result);
}
