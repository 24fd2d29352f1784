/*
 * model.c - the public face of a checkpoint: open, describe, encode.
 */
#include "checkpoint/model.h"

#include "base/number.h"
#include "checkpoint/source.h"

qnt_status qnt_model_open(qnt_context *ctx, const char *path, qnt_model **out)
{
    qnt_model *model;
    qnt_status status;
    *out = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &model));
    status = qnti_checkpoint_open(ctx, path, &model->checkpoint);
    if (status != QNT_OK) {
        qnti_free(ctx, model);
        return status;
    }
    *out = model;
    return QNT_OK;
}

void qnt_model_close(qnt_model *model)
{
    qnt_context *ctx;
    if (!model)
        return;
    ctx = model->checkpoint->ctx;
    qnti_tokenizer_close(model->tokenizer);
    qnti_checkpoint_close(model->checkpoint);
    qnti_free(ctx, model);
}

qnt_status qnti_model_tokenizer(qnt_model *model, const qnti_tokenizer **tokenizer)
{
    qnt_status status = model->tokenizer ? QNT_OK : qnti_checkpoint_tokenizer(model->checkpoint, &model->tokenizer);
    *tokenizer = model->tokenizer;
    return status == QNT_NOT_FOUND ? QNT_OK : status;
}

qnt_status qnti_model_check(qnt_model *model)
{
    if (!model->checked)
        QNT_TRY(qnti_checkpoint_hash_weights(model->checkpoint, &model->weights_hash));
    model->checked = true;
    return QNT_OK;
}

int64_t qnti_model_bos(const qnti_tokenizer *tokenizer, bool *added)
{
    const struct qnti_vocabulary *v = tokenizer ? qnti_tokenizer_vocabulary(tokenizer) : NULL;
    *added = v && v->add_bos && v->bos >= 0;
    return v ? v->bos : -1;
}

/* The tokenizer, or why a text cannot be read or written. */
static qnt_status need_tokenizer(qnt_model *model, const qnti_tokenizer **tokenizer)
{
    QNT_TRY(qnti_model_tokenizer(model, tokenizer));
    if (!*tokenizer)
        return qnti_fail(model->checkpoint->ctx, QNT_NOT_FOUND, "%s has no tokenizer", model->checkpoint->path);
    return QNT_OK;
}

/* All tensors in the order of the model; two for each role and block. */
static const struct qnti_weight *tensor_at(const struct qnti_checkpoint *c, size_t index)
{
    for (enum qnti_role role = 0; role < QNTI_ROLES; role++)
        for (size_t b = 0; b < (role < QNTI_ATTN_NORM ? 1 : c->config.blocks); b++) {
            const struct qnti_weight *w[] = {qnti_checkpoint_weight(c, b, role), qnti_checkpoint_bias(c, b, role)};
            for (size_t i = 0; i < 2; i++)
                if (w[i] && index-- == 0)
                    return w[i];
        }
    return NULL;
}

static const char *type_of(const struct qnti_checkpoint *c, const struct qnti_weight *w)
{
    if (w->qlinear)
        return c->source->layout ? c->source->layout->name : "native";
    return w->type ? w->type->name : qnti_dtype_name(w->plain.dtype);
}

bool qnt_model_get_tensor(const qnt_model *model, size_t index, qnt_model_tensor *tensor)
{
    const struct qnti_weight *w = tensor_at(model->checkpoint, index);
    if (!w)
        return false;
    *tensor = (qnt_model_tensor){.name = w->name,
                                 .type = type_of(model->checkpoint, w),
                                 .rows = w->rows,
                                 .cols = w->cols,
                                 .bytes = qnti_weight_bytes(w)};
    tensor->bits_per_weight = 8 * (double)tensor->bytes / ((double)w->rows * (double)w->cols);
    return true;
}

void qnt_model_get_info(const qnt_model *model, qnt_model_info *info)
{
    const struct qnti_checkpoint *c = model->checkpoint;
    double bits = 0, weights = 0;
    *info = (qnt_model_info){.path = c->path, .kind = c->kind, .family = c->family->name,
                             .architecture = c->family->architecture, .hidden = c->config.hidden,
                             .ffn = c->config.ffn, .blocks = c->config.blocks, .heads = c->config.heads,
                             .kv_heads = c->config.kv_heads, .head_dim = c->config.head_dim,
                             .vocab = c->config.vocab, .context = c->config.context,
                             .tied_head = c->config.tied_head};
    for (enum qnti_role role = 0; role < QNTI_ROLES; role++)
        for (size_t b = 0; b < (role < QNTI_ATTN_NORM ? 1 : c->config.blocks); b++) {
            const struct qnti_weight *w[] = {qnti_checkpoint_weight(c, b, role), qnti_checkpoint_bias(c, b, role)};
            for (size_t i = 0; i < 2; i++) {
                if (!w[i])
                    continue;
                info->parameters += w[i]->rows * w[i]->cols;
                info->bytes += qnti_weight_bytes(w[i]);
                if (i || role < QNTI_ATTN_NORM || w[i]->rows == 1)
                    continue;
                bits += 8 * (double)qnti_weight_bytes(w[i]);
                weights += (double)w[i]->rows * (double)w[i]->cols;
            }
        }
    info->bits_per_weight = weights > 0 ? bits / weights : 0;
}

qnt_status qnt_model_check(const qnt_model *model)
{
    return qnti_checkpoint_check_finite(model->checkpoint);
}

qnt_status qnt_model_encode(qnt_model *model, const char *text, size_t bytes, bool special, int32_t **ids,
                            size_t *count)
{
    const qnti_tokenizer *tokenizer;
    QNT_TRY(need_tokenizer(model, &tokenizer));
    return qnti_tokenizer_encode(tokenizer, text, bytes, special, false, ids, count);
}

qnt_status qnt_model_decode(qnt_model *model, const int32_t *ids, size_t count, char **text)
{
    const qnti_tokenizer *tokenizer;
    size_t bytes;
    QNT_TRY(need_tokenizer(model, &tokenizer));
    return qnti_tokenizer_decode(tokenizer, ids, count, true, text, &bytes);
}
