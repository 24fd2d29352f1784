/*
 * rotated.c - a model seen through a rotation of its residual stream: x' = x Q, which computes what the model does.
 *
 * Embedding and whatever adds to the stream get Q behind them (rows of the
 * embedding, columns of o and down, their biases); whatever reads it gets it in
 * front, after the gain of the norm before it has gone into its columns:
 * W' = W diag(gain) Q. The norms are left with ones. A tied output matrix is
 * one of its own then. Rows are computed when they are read: nothing is kept
 * but the gains. RMS norms before linears only; no norm behind them.
 */
#include "checkpoint/checkpoint.h"

#include <string.h>

enum { COLUMNS = 16 };         /* columns that are gathered at a time */

struct rotation_task {
    qnt_context *ctx;
    const struct qnti_rotated *r;
    size_t rows, cols;
    float *x;
};

enum { ROWS_PER_TASK = 16 };

static qnt_status rotate_rows(void *arg, size_t index)
{
    const struct rotation_task *t = arg;
    size_t end = qnti_min(t->rows, (index + 1) * ROWS_PER_TASK);
    float *scratch;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, 2 * t->cols, &scratch));
    for (size_t i = index * ROWS_PER_TASK; i < end; i++) {
        float *row = t->x + i * t->cols;
        for (size_t c = 0; t->r->gain && c < t->cols; c++)
            row[c] *= t->r->gain[c];
        qnti_transform_forward(t->r->stream, t->cols, row, scratch, scratch + t->cols);
        memcpy(row, scratch, t->cols * sizeof *row);
    }
    qnti_free(t->ctx, scratch);
    return QNT_OK;
}

/* Columns of the whole matrix, each a vector of the stream. */
static qnt_status rotate_columns(void *arg, size_t index)
{
    const struct rotation_task *t = arg;
    size_t first = index * COLUMNS, n = qnti_min(COLUMNS, t->cols - first);
    float *gathered, *rotated;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, (COLUMNS + 2) * t->rows, &gathered));
    rotated = gathered + COLUMNS * t->rows;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < n; c++)
            gathered[c * t->rows + r] = t->x[r * t->cols + first + c];
    for (size_t c = 0; c < n; c++) {
        qnti_transform_forward(t->r->stream, t->rows, gathered + c * t->rows, rotated, rotated + t->rows);
        memcpy(gathered + c * t->rows, rotated, t->rows * sizeof *rotated);
    }
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < n; c++)
            t->x[r * t->cols + first + c] = gathered[c * t->rows + r];
    qnti_free(t->ctx, gathered);
    return QNT_OK;
}

/* Rows of a matrix whose columns are rotated: every one needs all of it. */
static qnt_status rows_of_columns(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n, float *x)
{
    struct rotation_task t = {ctx, w->rotated, w->rows, w->cols, x};
    qnt_status status;
    if (n != w->rows)
        QNT_TRY(QNTI_NEW_RAW(ctx, w->rows * w->cols, &t.x));
    QNT_CHECK(qnti_weight_rows(ctx, w->rotated->source, 0, w->rows, t.x));
    QNT_CHECK(qnti_parallel(ctx, qnti_ceil_div(w->cols, COLUMNS), rotate_columns, &t));
    if (n != w->rows)
        memcpy(x, t.x + first * w->cols, n * w->cols * sizeof *x);
cleanup:
    if (t.x != x)
        qnti_free(ctx, t.x);
    return status;
}

qnt_status qnti_rotated_rows(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n, float *x)
{
    struct rotation_task t = {ctx, w->rotated, n, w->cols, x};
    switch (w->rotated->side) {
    case QNTI_ROTATED_COLUMNS:
        return rows_of_columns(ctx, w, first, n, x);
    case QNTI_ROTATED_ROWS:
        QNT_TRY(qnti_weight_rows(ctx, w->rotated->source, first, n, x));
        return qnti_parallel(ctx, qnti_ceil_div(n, ROWS_PER_TASK), rotate_rows, &t);
    case QNTI_ROTATED_NORM:
        for (size_t c = 0; c < n * w->cols; c++)
            x[c] = 1;
        return QNT_OK;
    }
    return qnti_fail(ctx, QNT_INVALID, "%s: no side %d", w->name, (int)w->rotated->side);
}

/* How the stream meets each role: its weight, its bias, and the norm whose gain goes into its columns. */
static const struct meeting {
    bool weight, bias;
    enum qnti_rotated_side side;
    enum qnti_role gain;           /* QNTI_ROLES: none */
} meetings[QNTI_ROLES] = {
    [QNTI_EMBED] = {true, false, QNTI_ROTATED_ROWS, QNTI_ROLES},
    [QNTI_FINAL_NORM] = {true, false, QNTI_ROTATED_NORM, QNTI_ROLES},
    [QNTI_HEAD] = {true, false, QNTI_ROTATED_ROWS, QNTI_FINAL_NORM},
    [QNTI_ATTN_NORM] = {true, false, QNTI_ROTATED_NORM, QNTI_ROLES},
    [QNTI_QKV] = {true, false, QNTI_ROTATED_ROWS, QNTI_ATTN_NORM},
    [QNTI_Q] = {true, false, QNTI_ROTATED_ROWS, QNTI_ATTN_NORM},
    [QNTI_K] = {true, false, QNTI_ROTATED_ROWS, QNTI_ATTN_NORM},
    [QNTI_V] = {true, false, QNTI_ROTATED_ROWS, QNTI_ATTN_NORM},
    [QNTI_O] = {true, true, QNTI_ROTATED_COLUMNS, QNTI_ROLES},
    [QNTI_MLP_NORM] = {true, false, QNTI_ROTATED_NORM, QNTI_ROLES},
    [QNTI_GATE_UP] = {true, false, QNTI_ROTATED_ROWS, QNTI_MLP_NORM},
    [QNTI_GATE] = {true, false, QNTI_ROTATED_ROWS, QNTI_MLP_NORM},
    [QNTI_UP] = {true, false, QNTI_ROTATED_ROWS, QNTI_MLP_NORM},
    [QNTI_DOWN] = {true, true, QNTI_ROTATED_COLUMNS, QNTI_ROLES},
};

/* The view and all that it holds: one of these for each weight of the checkpoint. */
struct view {
    struct qnti_checkpoint checkpoint;
    struct qnti_transform stream;
    struct qnti_rotated *rotated;      /* [blocks][role][weight, bias] */
    float *gains;                      /* [2 blocks + 1][hidden], those of the blocks first */
    char *head_name;
};

static float *gain_at(const struct view *v, size_t block, enum qnti_role norm)
{
    size_t blocks = v->checkpoint.config.blocks;
    size_t index = norm == QNTI_FINAL_NORM ? 2 * blocks : 2 * block + (norm == QNTI_MLP_NORM);
    return v->gains + index * v->checkpoint.config.hidden;
}

static qnt_status read_gains(const struct view *v, const struct qnti_checkpoint *model)
{
    static const enum qnti_role norms[] = {QNTI_ATTN_NORM, QNTI_MLP_NORM};
    for (size_t b = 0; b < model->config.blocks; b++)
        for (size_t i = 0; i < 2; i++)
            QNT_TRY(qnti_weight_rows(model->ctx, qnti_checkpoint_weight(model, b, norms[i]), 0, 1,
                                     gain_at(v, b, norms[i])));
    return qnti_weight_rows(model->ctx, qnti_checkpoint_weight(model, 0, QNTI_FINAL_NORM), 0, 1,
                            gain_at(v, 0, QNTI_FINAL_NORM));
}

/* A weight of the view in place of the source's; the type in which it would be stored is the source's. */
static void see(const struct view *v, size_t block, enum qnti_role role, bool bias, const struct qnti_weight *source)
{
    const struct meeting *m = &meetings[role];
    size_t at = (block * QNTI_ROLES + role) * 2 + bias;
    if (!source || !(bias ? m->bias : m->weight))
        return;
    v->rotated[at] = (struct qnti_rotated){.source = source, .stream = &v->stream,
                                           .side = bias ? QNTI_ROTATED_ROWS : m->side,
                                           .gain = !bias && m->gain != QNTI_ROLES ? gain_at(v, block, m->gain) : NULL};
    v->checkpoint.weights[at] = (struct qnti_weight){.name = source->name, .rows = source->rows, .cols = source->cols,
                                                     .plain.dtype = source->plain.data ? source->plain.dtype : QNT_F32,
                                                     .type = source->type, .rotated = &v->rotated[at]};
}

/* The output matrix that was the embedding gets a name and a place. */
static qnt_status untie(struct view *v, const struct qnti_checkpoint *model)
{
    struct qnti_weight *head = &v->checkpoint.weights[2 * QNTI_HEAD];
    if (!model->config.tied_head)
        return QNT_OK;
    QNT_TRY(qnti_alloc(model->ctx, strlen(model->family->names[QNTI_HEAD]) + sizeof ".weight", 1,
                       (void **)&v->head_name));
    strcat(strcpy(v->head_name, model->family->names[QNTI_HEAD]), ".weight");
    see(v, 0, QNTI_HEAD, false, qnti_checkpoint_weight(model, 0, QNTI_EMBED));
    head->name = v->head_name;
    v->checkpoint.config.tied_head = false;
    return QNT_OK;
}

static qnt_status check_plain(const struct qnti_checkpoint *model)
{
    for (size_t i = 0; i < model->config.blocks * QNTI_ROLES * 2; i++)
        if (model->weights[i].name && model->weights[i].qlinear)
            return qnti_fail(model->ctx, QNT_UNSUPPORTED, "%s: %s is quantized already and cannot be rotated",
                             model->path, model->weights[i].name);
    return QNT_OK;
}

/* Why the family's residual stream cannot be rotated; NULL: it can. */
static const char *obstacle(const struct qnti_config *c)
{
    if (c->norm != QNTI_NORM_RMS)
        return "its norms take the mean away, which a rotation mixes";
    if (c->post_norms)
        return "it has norms behind attention and mlp";
    if (c->norm_base != 0)
        return "its norms multiply by more than their weights";
    return c->learned_positions || c->scaled_embedding ? "more than its embedding enters the residual stream" : NULL;
}

static qnt_status check_family(const struct qnti_checkpoint *model)
{
    const char *reason = obstacle(&model->config);
    if (!reason)
        return QNT_OK;
    return qnti_fail(model->ctx, QNT_UNSUPPORTED, "%s: the residual stream of %s cannot be rotated: %s", model->path,
                     model->family ? model->family->name : "the model", reason);
}

static qnt_status fill(struct view *v, const struct qnti_checkpoint *model, const struct qnti_transform *stream)
{
    size_t count = model->config.blocks * QNTI_ROLES * 2;
    v->checkpoint.weights = NULL;
    QNT_TRY(check_family(model));
    QNT_TRY(check_plain(model));
    QNT_TRY(qnti_transform_copy(model->ctx, stream, model->config.hidden, &v->stream));
    QNT_TRY(QNTI_NEW(model->ctx, count, &v->checkpoint.weights));
    QNT_TRY(QNTI_NEW(model->ctx, count, &v->rotated));
    QNT_TRY(QNTI_NEW_RAW(model->ctx, (2 * model->config.blocks + 1) * model->config.hidden, &v->gains));
    QNT_TRY(read_gains(v, model));
    memcpy(v->checkpoint.weights, model->weights, count * sizeof *model->weights);
    for (size_t b = 0; b < model->config.blocks; b++)
        for (enum qnti_role role = b ? QNTI_ATTN_NORM : 0; role < QNTI_ROLES; role++) {
            see(v, b, role, false, qnti_checkpoint_weight(model, b, role));
            see(v, b, role, true, qnti_checkpoint_bias(model, b, role));
        }
    return untie(v, model);
}

qnt_status qnti_checkpoint_rotate(const struct qnti_checkpoint *model, const struct qnti_transform *stream,
                                  const struct qnti_checkpoint **rotated)
{
    struct view *v;
    qnt_status status;
    QNT_TRY(QNTI_NEW(model->ctx, 1, &v));
    v->checkpoint = *model;
    status = fill(v, model, stream);
    if (status != QNT_OK)
        qnti_checkpoint_rotated_free(&v->checkpoint);
    else
        *rotated = &v->checkpoint;
    return status;
}

void qnti_checkpoint_rotated_free(const struct qnti_checkpoint *rotated)
{
    struct view *v = (struct view *)(uintptr_t)rotated; /* its first member */
    qnt_context *ctx;
    if (!v)
        return;
    ctx = v->checkpoint.ctx;
    qnti_transform_free(ctx, &v->stream);
    qnti_free(ctx, v->checkpoint.weights);
    qnti_free(ctx, v->rotated);
    qnti_free(ctx, v->gains);
    qnti_free(ctx, v->head_name);
    qnti_free(ctx, v);
}
