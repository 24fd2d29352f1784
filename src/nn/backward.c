/*
 * backward.c - the gradient through a decoder block, by the operators' backward passes in reverse order.
 *
 * Of the forward pass only the block's input is kept; the inputs of its sites
 * are computed again. Gradients of weights go to the caller in runs of rows,
 * so that none is ever whole in memory. Those of biases and norms are not
 * formed: nobody asks for them yet.
 */
#include "nn/block_private.h"

#include <string.h>

enum { GRADIENT_ROWS = 512 };

struct qnti_backward {
    qnt_context *ctx;
    size_t tokens;
    float *normed, *middle, *dnormed;    /* [tokens][hidden]: a norm's output, x between attention and mlp; gradient */
    float *inner, *dinner;               /* [tokens][heads * head_dim] what attention gives, and its gradient, */
    float *dq, *dk, *dv;                 /* those of q, k, v */
    float *gate, *up, *act, *dact;       /* [tokens][ffn] */
    float *delta;                        /* [tokens][hidden] of o or down, where a norm follows, and its gradient */
    float *fused;                        /* [tokens][widest fused linear] gradient of what it gives, or NULL */
    float *gradient;                     /* [GRADIENT_ROWS][widest input] */
};

enum { MOST_ARRAYS = 15 };

struct array {
    size_t rows, width;
    float **x;
};

static size_t list_arrays(const struct qnti_config *c, struct qnti_backward *b, struct array arrays[MOST_ARRAYS])
{
    size_t tokens = b->tokens, attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, n = 0, widest = 0;
    size_t fused = qnti_max(c->fused_qkv ? attention + 2 * kv : 0, c->fused_gate_up ? 2 * c->ffn : 0);
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        widest = qnti_max(widest, qnti_site_width(c, site));
    const struct array all[MOST_ARRAYS] = {
        {tokens, c->hidden, &b->normed}, {tokens, c->hidden, &b->middle}, {tokens, c->hidden, &b->dnormed},
        {tokens, attention, &b->inner}, {tokens, attention, &b->dinner}, {tokens, attention, &b->dq},
        {tokens, kv, &b->dk}, {tokens, kv, &b->dv}, {tokens, c->ffn, &b->gate}, {tokens, c->ffn, &b->up},
        {tokens, c->ffn, &b->act}, {tokens, c->ffn, &b->dact}, {GRADIENT_ROWS, widest, &b->gradient},
        {tokens, c->post_norms ? c->hidden : 0, &b->delta}, {tokens, fused, &b->fused},
    };
    for (size_t i = 0; i < MOST_ARRAYS; i++)
        if (all[i].width)
            arrays[n++] = all[i];
    return n;
}

qnt_status qnti_backward_create(const struct qnti_checkpoint *model, size_t tokens, struct qnti_backward **out)
{
    struct array arrays[MOST_ARRAYS];
    struct qnti_backward *b;
    size_t count;
    qnt_status status = QNT_OK;
    *out = NULL;
    QNT_TRY(QNTI_NEW(model->ctx, 1, &b));
    b->ctx = model->ctx;
    b->tokens = tokens;
    count = list_arrays(&model->config, b, arrays);
    for (size_t i = 0; i < count; i++)
        QNT_CHECK(qnti_new_rows(b->ctx, arrays[i].rows, arrays[i].width, arrays[i].x));
    *out = b;
cleanup:
    if (status != QNT_OK)
        qnti_backward_free(b);
    return status;
}

void qnti_backward_free(struct qnti_backward *b)
{
    if (!b)
        return;
    float *const arrays[] = {b->normed, b->middle, b->dnormed, b->inner, b->dinner, b->dq,    b->dk,      b->dv,
                             b->gate,   b->up,     b->act,     b->dact,  b->delta,  b->fused, b->gradient};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        qnti_free(b->ctx, arrays[i]);
    qnti_free(b->ctx, b);
}

/* One sequence on its way back through one block. */
struct way {
    const struct qnti_block *block;
    struct qnti_workspace *w;
    struct qnti_backward *b;
    const struct qnti_gradients *gradients;
    const float *x;              /* [tokens][hidden] the block's input */
    float *dx;                   /* the gradient of the residual stream, as far as we are */
    size_t tokens;
};

/* The gradient of a linear's weight, in runs of rows; in and dout as the linear has them. */
static qnt_status give_gradient(const struct way *way, enum qnti_role role, const float *in, const float *dout)
{
    const struct qnti_gradients *g = way->gradients;
    struct qnti_linear l = qnti_block_linear(way->block, role);
    if (!(g->roles >> role & 1))
        return QNT_OK;
    for (size_t first = 0; first < l.out; first += GRADIENT_ROWS) {
        size_t rows = qnti_min(GRADIENT_ROWS, l.out - first);
        QNT_TRY(qnti_linear_gradient(way->b->ctx, &l, in, dout, way->tokens, first, rows, way->b->gradient));
        QNT_TRY(g->take(g->user, role, first, rows, way->b->gradient));
    }
    return QNT_OK;
}

/* A linear: its weight's gradient, and din (+)= that of its input. */
static qnt_status linear_backward(const struct way *way, enum qnti_role role, const float *in, const float *dout,
                                  bool add, float *din)
{
    struct qnti_linear l = qnti_block_linear(way->block, role);
    QNT_TRY(give_gradient(way, role, in, dout));
    return qnti_linear_backward(way->b->ctx, &l, dout, way->tokens, add, din);
}

/* The linear that gives to the stream: the gradient of its input, of dx, through the norm behind it if there is one. */
static qnt_status residual_backward(const struct way *way, enum qnti_site site, const float *in, float *din)
{
    struct qnti_backward *b = way->b;
    enum qnti_role role = site == QNTI_SITE_O ? QNTI_O : QNTI_DOWN, post = qnti_block_post_norm(way->block, site);
    struct qnti_norm norm;
    if (post == QNTI_ROLES)
        return linear_backward(way, role, in, way->dx, false, din);
    norm = qnti_block_norm(way->block, post);
    QNT_TRY(qnti_block_apply(way->block, role, in, way->tokens, false, b->delta));
    QNT_TRY(qnti_norm_backward(b->ctx, &norm, b->delta, way->dx, way->tokens, false, b->delta));
    return linear_backward(way, role, in, b->delta, false, din);
}

/* A fused linear whose parts have the gradients `parts`. */
static qnt_status fused_backward(const struct way *way, enum qnti_role role, const struct qnti_parts *parts)
{
    qnti_join(parts, way->tokens, way->b->fused);
    return linear_backward(way, role, way->b->normed, way->b->fused, false, way->b->dnormed);
}

static qnt_status gate_up_backward(const struct way *way)
{
    const struct qnti_config *c = &way->block->model->config;
    struct qnti_backward *b = way->b;
    struct qnti_parts parts = qnti_block_parts(way->block, QNTI_GATE_UP, b->gate, b->up, NULL);
    if (c->fused_gate_up)
        return fused_backward(way, QNTI_GATE_UP, &parts);
    if (c->ungated)
        return linear_backward(way, QNTI_UP, b->normed, b->gate, false, b->dnormed);
    QNT_TRY(linear_backward(way, QNTI_GATE, b->normed, b->gate, false, b->dnormed));
    return linear_backward(way, QNTI_UP, b->normed, b->up, true, b->dnormed);
}

/* x = middle + down(act(gate) up), gate and up of the norm of middle. */
static qnt_status mlp_backward(const struct way *way)
{
    const struct qnti_config *c = &way->block->model->config;
    struct qnti_backward *b = way->b;
    struct qnti_norm norm = qnti_block_norm(way->block, QNTI_MLP_NORM);
    size_t n = way->tokens, ffn = c->ffn;
    float *up = c->ungated ? NULL : b->up;
    QNT_TRY(qnti_norm(b->ctx, &norm, b->middle, n, b->normed));
    QNT_TRY(qnti_block_gate_up(way->block, way->w, b->normed, n, b->gate, b->up));
    memcpy(b->act, b->gate, n * ffn * sizeof *b->act);
    QNT_TRY(qnti_activate(b->ctx, c->activation, up, n, ffn, b->act));
    QNT_TRY(residual_backward(way, QNTI_SITE_DOWN, b->act, b->dact));
    QNT_TRY(qnti_activate_backward(b->ctx, c->activation, b->dact, n, ffn, b->gate, up));
    QNT_TRY(gate_up_backward(way));
    return qnti_norm_backward(b->ctx, &norm, b->middle, b->dnormed, n, true, way->dx);
}

/* normed, q, k, v, inner of the attention, and middle behind it. */
static qnt_status attention_again(const struct way *way)
{
    struct qnti_backward *b = way->b;
    size_t n = way->tokens;
    QNT_TRY(qnti_site_input(way->block, way->w, QNTI_SITE_QKV, way->x, n, b->normed));
    QNT_TRY(qnti_site_input(way->block, way->w, QNTI_SITE_O, b->normed, n, b->inner));
    memcpy(b->middle, way->x, n * way->block->model->config.hidden * sizeof *b->middle);
    return qnti_site_residual(way->block, way->w, QNTI_SITE_O, b->inner, n, b->middle);
}

/* dq and dk through the norms of heads, whose inputs are computed again. */
static qnt_status head_norms_backward(const struct way *way)
{
    const struct qnti_config *c = &way->block->model->config;
    struct qnti_backward *b = way->b;
    struct qnti_norm q = qnti_block_norm(way->block, QNTI_Q_NORM), k = qnti_block_norm(way->block, QNTI_K_NORM);
    size_t n = way->tokens;
    if (!c->qk_norm)
        return QNT_OK;
    QNT_TRY(qnti_block_qkv(way->block, way->w, b->normed, n));
    QNT_TRY(qnti_norm_backward(b->ctx, &q, way->w->q, b->dq, n * c->heads, false, b->dq));
    return qnti_norm_backward(b->ctx, &k, way->w->k, b->dk, n * c->kv_heads, false, b->dk);
}

static qnt_status qkv_backward(const struct way *way)
{
    struct qnti_backward *b = way->b;
    struct qnti_parts parts = qnti_block_parts(way->block, QNTI_QKV, b->dq, b->dk, b->dv);
    if (way->block->model->config.fused_qkv)
        return fused_backward(way, QNTI_QKV, &parts);
    QNT_TRY(linear_backward(way, QNTI_Q, b->normed, b->dq, false, b->dnormed));
    QNT_TRY(linear_backward(way, QNTI_K, b->normed, b->dk, true, b->dnormed));
    return linear_backward(way, QNTI_V, b->normed, b->dv, true, b->dnormed);
}

/* middle = x + o(attention(q, k, v of the norm of x)). */
static qnt_status attention_backward(const struct way *way)
{
    struct qnti_backward *b = way->b;
    struct qnti_norm norm = qnti_block_norm(way->block, QNTI_ATTN_NORM);
    struct qnti_attention attention = qnti_block_attention(way->block, way->w, way->tokens, NULL);
    size_t n = way->tokens;
    QNT_TRY(residual_backward(way, QNTI_SITE_O, b->inner, b->dinner));
    QNT_TRY(qnti_attention_backward(b->ctx, &attention, b->dinner, b->dq, b->dk, b->dv));
    QNT_TRY(qnti_block_turn(way->block, way->w, true, b->dq, b->dk, n));
    QNT_TRY(qnti_norm(b->ctx, &norm, way->x, n, b->normed));
    QNT_TRY(head_norms_backward(way));
    QNT_TRY(qkv_backward(way));
    return qnti_norm_backward(b->ctx, &norm, way->x, b->dnormed, n, true, way->dx);
}

static qnt_status check(const struct way *way)
{
    if (way->tokens > way->b->tokens)
        return qnti_fail(way->b->ctx, QNT_INVALID, "a sequence of %zu tokens in memory for %zu", way->tokens,
                         way->b->tokens);
    for (enum qnti_role role = 0; role < QNTI_ROLES; role++)
        if (way->block->quantized[role])
            return qnti_fail(way->b->ctx, QNT_UNSUPPORTED, "layer %s quantizes its inputs: it has no gradient",
                             qnt_qlinear_name(way->block->quantized[role]));
    return QNT_OK;
}

qnt_status qnti_block_backward(const struct qnti_block *block, struct qnti_workspace *w, struct qnti_backward *b,
                               const float *x, size_t tokens, const struct qnti_gradients *gradients, float *dx)
{
    struct way way = {block, w, b, gradients, x, dx, tokens};
    QNT_TRY(check(&way));
    QNT_TRY(attention_again(&way));
    QNT_TRY(mlp_backward(&way));
    return attention_backward(&way);
}
