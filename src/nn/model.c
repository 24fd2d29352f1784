/*
 * model.c - from token ids to logits: embedding, blocks, final norm, output matrix.
 *
 * Only one block is in memory at a time; all sequences pass it before the next.
 */
#include "nn/nn.h"

#include <string.h>
#include "linalg/blas.h"
#include "nn/operators.h"

/* Adds a learned position to one token's embedding; `scratch` [hidden]. */
static qnt_status add_position(const struct qnti_checkpoint *model, size_t position, float *x, float *scratch)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(model, 0, QNTI_POSITIONS);
    if (position >= model->config.context)
        return qnti_fail(model->ctx, QNT_INVALID, "a token at position %zu, but %s has %zu positions", position,
                         w->name, model->config.context);
    QNT_TRY(qnti_weight_rows(model->ctx, w, position + model->config.position_offset, 1, scratch));
    for (size_t i = 0; i < w->cols; i++)
        x[i] += scratch[i];
    return QNT_OK;
}

static qnt_status embed_one(const struct qnti_checkpoint *model, size_t id, size_t position, float *x, float *scratch)
{
    const struct qnti_config *c = &model->config;
    QNT_TRY(qnti_weight_rows(model->ctx, qnti_checkpoint_weight(model, 0, QNTI_EMBED), id, 1, x));
    for (size_t i = 0; c->embedding_scale != 0 && i < c->hidden; i++)
        x[i] *= c->embedding_scale;
    return c->learned_positions ? add_position(model, position, x, scratch) : QNT_OK;
}

qnt_status qnti_embed(const struct qnti_checkpoint *model, const int32_t *ids, size_t tokens, size_t first, float *x)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(model, 0, QNTI_EMBED);
    float *scratch;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(model->ctx, model->config.hidden, &scratch));
    for (size_t t = 0; t < tokens; t++) {
        if (ids[t] < 0 || (size_t)ids[t] >= w->rows)
            QNT_CHECK(qnti_fail(model->ctx, QNT_INVALID, "token %zu has id %d, but %s has %zu rows", t, (int)ids[t],
                                w->name, w->rows));
        QNT_CHECK(embed_one(model, (size_t)ids[t], first + t, x + t * w->cols, scratch));
    }
cleanup:
    qnti_free(model->ctx, scratch);
    return status;
}

qnt_status qnti_final_norm_load(const struct qnti_checkpoint *model, struct qnti_norm *norm, float **weights)
{
    const struct qnti_config *c = &model->config;
    const struct qnti_weight *bias = qnti_checkpoint_bias(model, 0, QNTI_FINAL_NORM);
    QNT_TRY(QNTI_NEW_RAW(model->ctx, 2 * c->hidden, weights));
    *norm = (struct qnti_norm){.kind = c->norm, .weight = *weights, .width = c->hidden, .eps = c->norm_eps,
                               .base = c->norm_base, .bias = bias ? *weights + c->hidden : NULL};
    QNT_TRY(qnti_weight_rows(model->ctx, qnti_checkpoint_weight(model, 0, QNTI_FINAL_NORM), 0, 1, *weights));
    return bias ? qnti_weight_rows(model->ctx, bias, 0, 1, *weights + c->hidden) : QNT_OK;
}

qnt_status qnti_final_norm(const struct qnti_checkpoint *model, float *x, size_t tokens)
{
    struct qnti_norm norm;
    float *weights = NULL;
    qnt_status status = qnti_final_norm_load(model, &norm, &weights);
    if (status == QNT_OK)
        status = qnti_norm(model->ctx, &norm, x, tokens, x);
    qnti_free(model->ctx, weights);
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

struct capping {
    float cap, *x;
    size_t width;
};

static void cap_rows(void *arg, size_t first, size_t n)
{
    const struct capping *c = arg;
    qnti_soft_cap(c->cap, c->x + first * c->width, n * c->width);
}

static qnt_status cap_logits(const struct qnti_checkpoint *model, size_t tokens, float *logits)
{
    const struct qnti_config *c = &model->config;
    return qnti_for_rows(model->ctx, tokens, c->vocab, cap_rows, &(struct capping){c->logit_cap, logits, c->vocab});
}

qnt_status qnti_logits(const struct qnti_checkpoint *model, const float *head, const float *x, size_t tokens,
                       float *logits)
{
    struct qnti_linear l = {.weight = head, .in = model->config.hidden, .out = model->config.vocab};
    QNT_TRY(qnti_linear(model->ctx, &l, x, tokens, false, logits));
    return cap_logits(model, tokens, logits);
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

qnt_status qnti_model_forward(const struct qnti_checkpoint *model, const int32_t *ids, size_t sequences, size_t tokens,
                              float *x, void (*progress)(void *user, size_t done, size_t total), void *user)
{
    struct walk walk = {.model = model, .sequences = sequences, .tokens = tokens, .x = x, .progress = progress,
                        .user = user};
    qnt_status status;
    for (size_t i = 0; i < sequences; i++)
        QNT_TRY(qnti_embed(model, ids + i * tokens, tokens, 0, x + i * tokens * model->config.hidden));
    QNT_TRY(qnti_workspace_create(model, tokens, &walk.workspace));
    for (size_t b = 0; b < model->config.blocks; b++)
        QNT_CHECK(pass_block(&walk, b));
    QNT_CHECK(qnti_final_norm(model, x, sequences * tokens));
cleanup:
    qnti_workspace_free(walk.workspace);
    return status;
}
