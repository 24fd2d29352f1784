/*
 * protocol.c - the ways to cut a text into windows, and which tokens of one count.
 */
#include "eval/eval.h"

#include <stdio.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 512 };

const struct qnti_eval_protocol qnti_eval_protocols[] = {
    {"llamacpp", "llama.cpp", QNTI_BOS_REPLACED, true, 2,
     "llama-perplexity's: windows cut from the text, first token replaced by BOS, second halves scored"},
    {"gptq", NULL, QNTI_BOS_STREAM, false, 1,
     "the GPTQ paper's: windows cut from the text, all tokens but the first scored"},
    {"bos", NULL, QNTI_BOS_INSERTED, false, 1, "BOS in front of every window, all tokens of the text scored"},
};
const size_t qnti_eval_protocol_count = sizeof qnti_eval_protocols / sizeof *qnti_eval_protocols;

qnt_status qnti_eval_protocol_find(qnt_context *ctx, const char *name, const struct qnti_eval_protocol **protocol)
{
    char names[128] = "";
    for (size_t i = 0; i < qnti_eval_protocol_count; i++) {
        const struct qnti_eval_protocol *p = &qnti_eval_protocols[i];
        size_t n = strlen(names);
        *protocol = p;
        if (strcmp(name, p->name) == 0 || (p->alias && strcmp(name, p->alias) == 0))
            return QNT_OK;
        snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", p->name);
    }
    *protocol = NULL;
    return qnti_fail(ctx, QNT_INVALID, "no evaluation protocol \"%.100s\"; there are %s", name, names);
}

static qnt_status check(qnt_context *ctx, const struct qnti_eval_protocol *p, const struct qnti_eval_options *options,
                        size_t window, size_t stream, size_t step)
{
    bool needs_bos = p->bos == QNTI_BOS_INSERTED || options->add_bos;
    if (window < 3)
        return qnti_fail(ctx, QNT_INVALID, "windows of %zu tokens; they must have 3 or more", window);
    if (needs_bos && (options->bos < 0 || options->bos > INT32_MAX))
        return qnti_fail(ctx, QNT_INVALID, "protocol %s needs a BOS token, but the vocabulary has none", p->name);
    if (stream / step < p->least_windows)
        return qnti_fail(ctx, QNT_INVALID,
                         "the text has %zu tokens, but protocol %s with windows of %zu needs %zu or more", stream,
                         p->name, window, p->least_windows * step);
    return QNT_OK;
}

qnt_status qnti_eval_windows(qnt_context *ctx, const int32_t *ids, size_t count,
                             const struct qnti_eval_options *options, struct qnti_eval_windows *out)
{
    const struct qnti_eval_protocol *p = options->protocol ? options->protocol : &qnti_eval_protocols[0];
    size_t window = options->ctx ? options->ctx : DEFAULT_CONTEXT, windows;
    size_t inserted = p->bos == QNTI_BOS_INSERTED, in_front = !inserted && options->add_bos;
    size_t step = window - inserted; /* tokens of the stream that a window takes */
    *out = (struct qnti_eval_windows){0};
    QNT_TRY(check(ctx, p, options, window, count + in_front, step));
    windows = (count + in_front) / step;
    if (options->chunks)
        windows = qnti_min(windows, options->chunks);
    *out = (struct qnti_eval_windows){.windows = windows, .ctx = window, .first = p->second_half ? window / 2 : 0};
    QNT_TRY(QNTI_NEW_RAW(ctx, windows * window, &out->ids));
    for (size_t w = 0; w < windows; w++) {
        int32_t *row = out->ids + w * window;
        for (size_t t = 0; t < window; t++) {
            size_t at = w * step + t - inserted; /* in the stream */
            bool bos = t == 0 && (inserted || (in_front && (w == 0 || p->bos == QNTI_BOS_REPLACED)));
            row[t] = bos ? (int32_t)options->bos : ids[at - in_front];
        }
    }
    return QNT_OK;
}

void qnti_eval_windows_free(qnt_context *ctx, struct qnti_eval_windows *windows)
{
    qnti_free(ctx, windows->ids);
    *windows = (struct qnti_eval_windows){0};
}
