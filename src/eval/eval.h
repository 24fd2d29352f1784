/*
 * eval.h - how well a model predicts a text, and how far it is from another one.
 *
 * A text is cut into windows of `ctx` tokens, each run alone from position 0.
 * A protocol says how the windows are made and from which position on their
 * tokens are scored; figures of different protocols must not be compared.
 */
#ifndef QNTI_EVAL_H
#define QNTI_EVAL_H

#include "nn/nn.h"

/* What BOS has to do with the windows. */
enum qnti_eval_bos {
    QNTI_BOS_STREAM,     /* stands in front of the text, if the tokenizer adds one */
    QNTI_BOS_REPLACED,   /* the same, and it replaces the first token of every window */
    QNTI_BOS_INSERTED    /* stands in front of every window, whatever the tokenizer adds */
};

struct qnti_eval_protocol {
    const char *name, *alias;    /* alias NULL: none */
    enum qnti_eval_bos bos;
    bool second_half;            /* scored from the logits of position ctx / 2 on; else of position 0 on */
    size_t least_windows;        /* fewer are refused */
    const char *help;
};
extern const struct qnti_eval_protocol qnti_eval_protocols[];
extern const size_t qnti_eval_protocol_count;
/* By name or alias; QNT_INVALID with the list of names. */
qnt_status qnti_eval_protocol_find(qnt_context *ctx, const char *name, const struct qnti_eval_protocol **protocol);

struct qnti_eval_options {
    const struct qnti_eval_protocol *protocol;   /* NULL: the first of the table */
    size_t ctx;                                  /* 0: 512 */
    size_t chunks;                               /* windows to use; 0, or more than there are: all */
    int64_t bos;                                 /* the vocabulary's; -1: none */
    bool add_bos;                                /* whether its tokenizer adds BOS */
    const struct qnti_kv *kv;                    /* of the model's keys and values; NULL: its own */
    void (*progress)(void *user, size_t done, size_t total);
    void *user;
};

/* ids [windows][ctx]; the logits of positions [first, ctx - 1) of each are scored against the tokens behind them. */
struct qnti_eval_windows {
    size_t windows, ctx, first;
    int32_t *ids;
};
/* From the ids of a text without special tokens. QNT_INVALID: too few, with both numbers; no BOS where one is due. */
qnt_status qnti_eval_windows(qnt_context *ctx, const int32_t *ids, size_t count,
                             const struct qnti_eval_options *options, struct qnti_eval_windows *windows);
void qnti_eval_windows_free(qnt_context *ctx, struct qnti_eval_windows *windows);

/* Of one prediction; nll in nats, base_* and kl with a base model only. */
struct qnti_eval_score {
    double nll, base_nll;
    double kl;                   /* sum of p_base (ln p_base - ln p) */
    bool same_top;               /* both models' likeliest token is the same */
};
void qnti_eval_score(const float *logits, const float *base_logits, size_t vocab, int32_t target,
                     struct qnti_eval_score *score);

/* Standard errors are those of a mean of independent tokens; a perplexity's is its derivative's. */
struct qnti_eval_result {
    size_t windows, ctx, scored;
    double nll, perplexity, perplexity_error;
    bool compared;               /* with a base model; the rest is 0 without */
    double base_perplexity, base_perplexity_error;
    double kl, kl_error, kl_max;
    double same_top, same_top_error;   /* a share, 0 .. 1 */
};
/*
 * Runs `model`, and `base` where it is not NULL (of the same vocabulary, on the same context), on the windows.
 * Memory: hidden states of up to 65536 tokens, one block, output matrices and the logits of 256 tokens.
 */
qnt_status qnti_evaluate(const struct qnti_checkpoint *model, const struct qnti_checkpoint *base, const int32_t *ids,
                         size_t count, const struct qnti_eval_options *options, struct qnti_eval_result *result);

#endif
