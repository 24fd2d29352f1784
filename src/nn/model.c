/*
 * model.c - from token ids to logits: embedding, blocks, final norm, output matrix.
 *
 * Only one block is in memory at a time; all sequences pass it before the next.
 */
#include "nn/nn.h"

#include <string.h>
#include "linalg/blas.h"
#include "nn/operators.h"

qnt_status qnti_embed(const struct qnti_checkpoint *model, const int32_t *ids, size_t tokens, float *x)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(model, 0, QNTI_EMBED);
    for (size_t t = 0; t < tokens; t++) {
        if (ids[t] < 0 || (size_t)ids[t] >= w->rows)
            return qnti_fail(model->ctx, QNT_INVALID, "token %zu has id %d, but %s has %zu rows", t, (int)ids[t],
                             w->name, w->rows);
        QNT_TRY(qnti_weight_rows(model->ctx, w, (size_t)ids[t], 1, x + t * w->cols));
    }
    return QNT_OK;
}

qnt_status qnti_final_norm(const struct qnti_checkpoint *model, float *x, size_t tokens)
{
    const struct qnti_config *c = &model->config;
    float *weight;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(model->ctx, c->hidden, &weight));
    QNT_CHECK(qnti_weight_rows(model->ctx, qnti_checkpoint_weight(model, 0, QNTI_FINAL_NORM), 0, 1, weight));
    QNT_CHECK(qnti_rms_norm(model->ctx, &(struct qnti_rms_norm){weight, c->hidden, c->norm_eps}, x, tokens, x));
cleanup:
    qnti_free(model->ctx, weight);
    return status;
}

qnt_status qnti_head_load(const struct qnti_checkpoint *model, float **head)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(model, 0, model->config.tied_head ? QNTI_EMBED : QNTI_HEAD);
    qnt_status status;
    size_t n;
    if (!qnti_multiply(w->rows, w->cols, &n))
        return qnti_fail(model->ctx, QNT_NO_MEMORY, "%s: %zu x %zu elements exceed the address space", w->name,
                         w->rows, w->cols);
    QNT_TRY(QNTI_NEW_RAW(model->ctx, n, head));
    status = qnti_weight_rows(model->ctx, w, 0, w->rows, *head);
    if (status != QNT_OK) {
        qnti_free(model->ctx, *head);
        *head = NULL;
    }
    return status;
}

qnt_status qnti_logits(const struct qnti_checkpoint *model, const float *head, const float *x, size_t tokens,
                       float *logits)
{
    struct qnti_linear l = {.weight = head, .in = model->config.hidden, .out = model->config.vocab};
    return qnti_linear(model->ctx, &l, x, tokens, false, logits);
}

struct walk {
    const struct qnti_checkpoint *model;
    struct qnti_workspace *workspace;
    size_t sequences, tokens;
    float *x;
    void (*progress)(void *user, size_t done, size_t total);
    void *user;
};

static qnt_status pass_block(const struct walk *walk, size_t index)
{
    const struct qnti_config *c = &walk->model->config;
    struct qnti_block block;
    qnt_status status = QNT_OK;
    QNT_TRY(qnti_block_load(walk->model, index, &block));
    for (size_t s = 0; s < walk->sequences; s++) {
        QNT_CHECK(qnti_block_forward(&block, walk->workspace, walk->x + s * walk->tokens * c->hidden, walk->tokens));
        if (walk->progress)
            walk->progress(walk->user, index * walk->sequences + s + 1, c->blocks * walk->sequences);
    }
cleanup:
    qnti_block_free(&block);
    return status;
}

qnt_status qnti_model_forward(const struct qnti_checkpoint *model, const struct qnti_kv *kv, const int32_t *ids,
                              size_t sequences, size_t tokens, float *x,
                              void (*progress)(void *user, size_t done, size_t total), void *user)
{
    struct walk walk = {.model = model, .sequences = sequences, .tokens = tokens, .x = x, .progress = progress,
                        .user = user};
    qnt_status status;
    QNT_TRY(qnti_embed(model, ids, sequences * tokens, x));
    QNT_TRY(qnti_workspace_create(model, tokens, &walk.workspace));
    QNT_CHECK(qnti_workspace_keep(walk.workspace, model, kv));
    for (size_t b = 0; b < model->config.blocks; b++)
        QNT_CHECK(pass_block(&walk, b));
    QNT_CHECK(qnti_final_norm(model, x, sequences * tokens));
cleanup:
    qnti_workspace_free(walk.workspace);
    return status;
}
