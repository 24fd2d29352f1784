/*
 * pre.c - names of pre-tokenizers (GGUF's tokenizer.ggml.pre) and their expressions.
 *
 * A row is a list of Splits (Isolated), then bytes to the byte-level alphabet. A new name is one row.
 */
#include "text/tokenizer_private.h"

#include <string.h>

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* Llama 3 and Qwen 2 differ in how many digits are one piece. */
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"

enum { MAX_SPLITS = 2 };

static const struct pre {
    const char *name;
    const char *splits[MAX_SPLITS];
    bool compose; /* normalizes to NFC */
    bool ignore_merges;
} pres[] = {
    {"gpt-2", {GPT2}, false, false},
    {"llama-bpe", {HEAD "\\p{N}{1,3}" TAIL}, false, true},
    {"qwen2", {HEAD "\\p{N}" TAIL}, true, false},
    {"smollm", {"\\p{N}", GPT2}, false, false},
};

const char qnti_gpt2_expression[] = GPT2;

static bool steps_are(const struct qnti_steps *steps, const struct pre *pre)
{
    size_t at = steps->count && steps->list[0].kind == QNTI_STEP_PREFIX, i;
    for (i = 0; i < MAX_SPLITS && pre->splits[i]; i++, at++) {
        const struct qnti_step *step = &steps->list[at];
        if (at >= steps->count || step->kind != QNTI_STEP_SPLIT || step->cut != QNTI_CUT_ISOLATED || step->invert ||
            step->pattern.literal || strcmp(step->pattern.source, pre->splits[i]) != 0)
            return false;
    }
    return at + 1 == steps->count && steps->list[at].kind == QNTI_STEP_BYTES;
}

void qnti_tokenizer_name_pre(qnti_tokenizer *t)
{
    bool compose = qnti_steps_have(&t->normalizer, QNTI_STEP_COMPOSE);
    t->vocabulary.pre = t->vocabulary.byte_level ? NULL : "default";
    for (size_t i = 0; t->vocabulary.byte_level && i < sizeof pres / sizeof *pres; i++) {
        if (!steps_are(&t->pretokenizer, &pres[i]))
            continue;
        t->vocabulary.pre = pres[i].name;
        if (t->normalizer.count != pres[i].compose || compose != pres[i].compose)
            qnti_log(t->ctx, QNT_LOG_WARNING, "%s: its normalizer is not that of pre-tokenizer %s", t->name,
                     pres[i].name);
        if (t->bpe.ignore_merges != pres[i].ignore_merges)
            qnti_log(t->ctx, QNT_LOG_WARNING, "%s: ignore_merges is %s, pre-tokenizer %s means the other", t->name,
                     t->bpe.ignore_merges ? "true" : "false", pres[i].name);
    }
}

static qnt_status use_row(qnti_tokenizer *t, const struct pre *pre)
{
    struct qnti_step prefix = {.kind = QNTI_STEP_PREFIX, .unless_there = true};
    struct qnti_step compose = {.kind = QNTI_STEP_COMPOSE}, split = {.kind = QNTI_STEP_SPLIT};
    struct qnti_step bytes = {.kind = QNTI_STEP_BYTES};
    t->bpe.ignore_merges = pre->ignore_merges;
    if (pre->compose)
        QNT_TRY(qnti_steps_add(t->ctx, t->name, &t->normalizer, &compose, NULL, 0, NULL, 0));
    if (t->vocabulary.add_space_prefix)
        QNT_TRY(qnti_steps_add(t->ctx, t->name, &t->pretokenizer, &prefix, NULL, 0, " ", 1));
    for (size_t i = 0; i < MAX_SPLITS && pre->splits[i]; i++)
        QNT_TRY(
            qnti_steps_add(t->ctx, t->name, &t->pretokenizer, &split, pre->splits[i], strlen(pre->splits[i]), NULL, 0));
    return qnti_steps_add(t->ctx, t->name, &t->pretokenizer, &bytes, NULL, 0, NULL, 0);
}

qnt_status qnti_tokenizer_use_pre(qnti_tokenizer *t, const char *pre)
{
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        if (pre && strcmp(pres[i].name, pre) == 0) {
            t->vocabulary.pre = pres[i].name;
            return use_row(t, &pres[i]);
        }
    }
    return qnti_fail(t->ctx, QNT_UNSUPPORTED, "%s: pre-tokenizer \"%s\" is not known", t->name, pre ? pre : "");
}

qnt_status qnti_tokenizer_escape_spaces(qnti_tokenizer *t, bool with_prefix)
{
    struct qnti_step prefix = {.kind = QNTI_STEP_PREFIX};
    struct qnti_step replace = {.kind = QNTI_STEP_REPLACE, .pattern.literal = true};
    if (with_prefix)
        QNT_TRY(
            qnti_steps_add(t->ctx, t->name, &t->normalizer, &prefix, NULL, 0, QNTI_SPACE_MARK, QNTI_SPACE_MARK_BYTES));
    return qnti_steps_add(t->ctx, t->name, &t->normalizer, &replace, " ", 1, QNTI_SPACE_MARK, QNTI_SPACE_MARK_BYTES);
}

qnt_status qnti_tokenizer_standard_decoder(qnti_tokenizer *t, bool strip_space)
{
    struct qnti_step unbytes = {.kind = QNTI_STEP_UNBYTES};
    struct qnti_step replace = {.kind = QNTI_STEP_REPLACE, .pattern.literal = true};
    struct qnti_step bytes = {.kind = QNTI_STEP_BYTE_PIECES}, fuse = {.kind = QNTI_STEP_FUSE};
    struct qnti_step trim = {.kind = QNTI_STEP_TRIM, .start = 1};
    if (t->vocabulary.byte_level)
        return qnti_steps_add(t->ctx, t->name, &t->decoder, &unbytes, NULL, 0, NULL, 0);
    QNT_TRY(qnti_steps_add(t->ctx, t->name, &t->decoder, &replace, QNTI_SPACE_MARK, QNTI_SPACE_MARK_BYTES, " ", 1));
    QNT_TRY(qnti_steps_add(t->ctx, t->name, &t->decoder, &bytes, NULL, 0, NULL, 0));
    QNT_TRY(qnti_steps_add(t->ctx, t->name, &t->decoder, &fuse, NULL, 0, NULL, 0));
    return strip_space ? qnti_steps_add(t->ctx, t->name, &t->decoder, &trim, NULL, 0, " ", 1) : QNT_OK;
}
