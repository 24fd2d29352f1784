/*
 * windows.c - calibration windows: runs of `seqlen` tokens of (BOS +) the text.
 *
 * Consecutive from the beginning, or drawn with a seed. The first token of
 * each is replaced by BOS if the tokenizer adds one, as llama.cpp's imatrix
 * does.
 */
#include "sweep/sweep.h"

#include <string.h>
#include "base/random.h"
#include "text/corpus.h"

enum { DEFAULT_SAMPLES = 128, DEFAULT_SEQLEN = 2048, LEAST_SEQLEN = 3 }; /* as the end check needs */

static qnt_status too_short(qnt_context *ctx, const qnt_quantize_options *o, size_t tokens, size_t windows,
                            size_t seqlen)
{
    return qnti_fail(ctx, QNT_INVALID,
                     "%s has %zu tokens, %zu windows of %zu need %zu; take fewer (--samples), shorter ones (--seqlen) "
                     "or --samples all",
                     o->calibration, tokens, windows, seqlen, windows * seqlen);
}

/* Where window i begins. */
static size_t window_start(const qnt_quantize_options *o, struct qnti_random *random, size_t i, size_t seqlen,
                           size_t stream)
{
    if (!o->random_windows)
        return i * seqlen;
    return (size_t)(qnti_random_next(random) % (stream - seqlen + 1));
}

static qnt_status cut(qnt_context *ctx, const qnt_quantize_options *o, const int32_t *stream, size_t n, bool bos,
                      struct qnti_windows *w)
{
    struct qnti_random random;
    qnti_random_seed(&random, o->seed);
    QNT_TRY(QNTI_NEW_RAW(ctx, w->count * w->tokens, &w->ids));
    for (size_t i = 0; i < w->count; i++) {
        int32_t *ids = w->ids + i * w->tokens;
        memcpy(ids, stream + window_start(o, &random, i, w->tokens, n), w->tokens * sizeof *ids);
        if (bos)
            ids[0] = stream[0];
    }
    return QNT_OK;
}

qnt_status qnti_windows_create(qnt_model *model, const qnt_quantize_options *o, struct qnti_windows *w)
{
    const struct qnti_checkpoint *c = model->checkpoint;
    qnt_context *ctx = c->ctx;
    const qnti_tokenizer *tokenizer;
    int32_t *ids = NULL, *stream = NULL;
    size_t count, n;
    int64_t id;
    bool bos;
    qnt_status status;
    QNT_TRY(qnti_model_tokenizer(model, &tokenizer));
    id = qnti_model_bos(tokenizer, &bos);
    QNT_CHECK(qnti_corpus_ids(ctx, o->calibration, tokenizer, c->config.vocab, &ids, &count));
    n = count + bos;
    QNT_CHECK(QNTI_NEW_RAW(ctx, n, &stream));
    memcpy(stream + bos, ids, count * sizeof *ids);
    if (bos)
        stream[0] = (int32_t)id;
    w->tokens = o->seqlen ? o->seqlen : qnti_min(DEFAULT_SEQLEN, c->config.context);
    w->count = o->all_samples ? n / w->tokens : o->samples ? o->samples : DEFAULT_SAMPLES;
    w->stream = n;
    if (w->tokens < LEAST_SEQLEN || w->tokens > c->config.context)
        QNT_CHECK(qnti_fail(ctx, QNT_INVALID, "windows of %zu tokens: the model takes %d to %zu", w->tokens,
                            LEAST_SEQLEN, c->config.context));
    if (w->count == 0 || w->tokens > n || (!o->random_windows && w->count > n / w->tokens))
        QNT_CHECK(too_short(ctx, o, n, qnti_max(w->count, 1), w->tokens));
    QNT_CHECK(cut(ctx, o, stream, n, bos, w));
cleanup:
    qnti_free(ctx, ids);
    qnti_free(ctx, stream);
    return status;
}
