/*
 * from_vocabulary.c - an encoder from what a GGUF says about a vocabulary.
 *
 * A GGUF does not say all that a tokenizer.json can: the pre-tokenizer's name stands for expression, normalizer and
 * ignore_merges; a SentencePiece vocabulary gets U+2581 in front of each segment (not Metaspace's rules).
 */
#include <string.h>
#include "text/tokenizer_private.h"

static qnt_status copy_pieces(qnti_tokenizer *t, const struct qnti_vocabulary *v)
{
    QNT_TRY(qnti_tokenizer_reserve(t, v->count));
    for (size_t id = 0; id < v->count; id++) {
        if (v->kinds[id] < QNTI_TOKEN_NORMAL || v->kinds[id] > QNTI_TOKEN_BYTE)
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: token %zu is of kind %d, not in 1 .. 6", t->name, id,
                             (int)v->kinds[id]);
        if (v->pieces[id])
            QNT_TRY(qnti_tokenizer_set(t, id, v->pieces[id], v->piece_bytes[id], v->kinds[id],
                                       v->scores ? v->scores[id] : 0));
    }
    return qnti_tokenizer_index(t);
}

static qnt_status copy_merges(qnti_tokenizer *t, const struct qnti_vocabulary *v)
{
    for (size_t rank = 0; rank < v->merge_count; rank++) {
        const char *text = v->merges[rank], *space = memchr(text, ' ', v->merge_bytes[rank]);
        if (!space)
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: merge %zu has no space between two parts", t->name, rank);
        QNT_TRY(qnti_tokenizer_add_merge(t, rank, v->merge_count, text, (size_t)(space - text), space + 1,
                                         v->merge_bytes[rank] - (size_t)(space + 1 - text)));
    }
    return QNT_OK;
}

static qnt_status copy_special(qnti_tokenizer *t, const struct qnti_vocabulary *v)
{
    const struct {
        const char *name;
        int64_t from, *to;
    } ids[] = {{"bos", v->bos, &t->vocabulary.bos},
               {"eos", v->eos, &t->vocabulary.eos},
               {"unk", v->unk, &t->vocabulary.unk},
               {"pad", v->pad, &t->vocabulary.pad}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i].from >= (int64_t)v->count)
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: %s is token %lld of %zu", t->name, ids[i].name,
                             (long long)ids[i].from, v->count);
        *ids[i].to = ids[i].from < 0 ? -1 : ids[i].from;
    }
    t->vocabulary.add_bos = v->add_bos;
    t->vocabulary.add_eos = v->add_eos;
    return qnti_tokenizer_surround(t);
}

static qnt_status fill(qnti_tokenizer *t, const struct qnti_vocabulary *v)
{
    t->vocabulary.byte_level = v->byte_level;
    t->vocabulary.add_space_prefix = v->add_space_prefix;
    QNT_TRY(copy_pieces(t, v));
    if (v->byte_level) {
        QNT_TRY(copy_merges(t, v));
        QNT_TRY(qnti_tokenizer_use_pre(t, v->pre));
    } else {
        if (!v->scores)
            return qnti_fail(t->ctx, QNT_BAD_DATA, "%s: a SentencePiece vocabulary without scores", t->name);
        t->vocabulary.pre = "default";
        QNT_TRY(qnti_tokenizer_merge_by_scores(t));
        QNT_TRY(qnti_tokenizer_escape_spaces(t, v->add_space_prefix));
    }
    QNT_TRY(qnti_tokenizer_add_by_kind(t, false));
    QNT_TRY(qnti_tokenizer_standard_decoder(t, v->add_space_prefix));
    QNT_TRY(copy_special(t, v));
    if (!v->byte_level) {
        t->bpe.unknown = (int32_t)t->vocabulary.unk;
        t->bpe.byte_fallback = t->bpe.fuse_unknown = true;
    }
    qnti_tokenizer_finish(t);
    return QNT_OK;
}

qnt_status qnti_tokenizer_from_vocabulary(qnt_context *ctx, const struct qnti_vocabulary *vocabulary,
                                          qnti_tokenizer **tokenizer)
{
    qnti_tokenizer *t;
    qnt_status status;
    *tokenizer = NULL;
    QNT_TRY(qnti_tokenizer_new(ctx, "GGUF vocabulary", 0, &t));
    status = fill(t, vocabulary);
    if (status == QNT_OK)
        *tokenizer = t;
    else
        qnti_tokenizer_close(t);
    return status;
}
