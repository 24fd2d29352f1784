/*
 * block.c - the weights of a decoder block and its four steps.
 *
 *   x += o(attention(q, k, v of norm(x)));  x += down(act(gate) * up of norm(x)), or down(act(up of norm(x)))
 *
 * Where the family has them: q and k are one linear with v, gate one with up;
 * q and k are normed by heads; what joins x is normed before.
 */
#include "nn/block_private.h"

const enum qnti_role *qnti_site_roles(const struct qnti_config *c, enum qnti_site site)
{
    enum { USUAL, FUSED, UNGATED };
    static const enum qnti_role roles[QNTI_SITES][3][4] = {
        [QNTI_SITE_QKV] = {{QNTI_Q, QNTI_K, QNTI_V, QNTI_ROLES}, {QNTI_QKV, QNTI_ROLES}},
        [QNTI_SITE_O] = {{QNTI_O, QNTI_ROLES}},
        [QNTI_SITE_GATE_UP] = {{QNTI_GATE, QNTI_UP, QNTI_ROLES}, {QNTI_GATE_UP, QNTI_ROLES}, {QNTI_UP, QNTI_ROLES}},
        [QNTI_SITE_DOWN] = {{QNTI_DOWN, QNTI_ROLES}},
    };
    bool mlp = site == QNTI_SITE_GATE_UP, fused = mlp ? c->fused_gate_up : site == QNTI_SITE_QKV && c->fused_qkv;
    return roles[site][fused ? FUSED : mlp && c->ungated ? UNGATED : USUAL];
}

static qnt_status load(qnt_context *ctx, const struct qnti_weight *w, float **x)
{
    size_t n;
    if (!w)
        return QNT_OK;
    if (!qnti_multiply(w->rows, w->cols, &n))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: %zu x %zu elements exceed the address space", w->name, w->rows,
                         w->cols);
    QNT_TRY(QNTI_NEW_RAW(ctx, n, x));
    return qnti_weight_rows(ctx, w, 0, w->rows, *x);
}

/* The f32 weight that a layer's run-time inputs meet, or its effective weight where inputs stay as they are. */
qnt_status qnti_block_exchange(struct qnti_block *block, enum qnti_role role, const qnt_qlinear *q)
{
    block->quantized[role] = NULL;
    if (!qnti_qlinear_quantizes_inputs(q))
        return qnt_dequantize(q, block->weight[role]);
    block->quantized[role] = q;
    for (size_t r = 0; r < q->out; r++)
        qnti_qlinear_row(q, r, block->weight[role] + r * q->in);
    return QNT_OK;
}

static qnt_status load_layer(struct qnti_block *block, enum qnti_role role)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(block->model, block->index, role);
    QNT_TRY(load(block->model->ctx, w, &block->weight[role]));
    if (w && w->qlinear && qnti_qlinear_quantizes_inputs(w->qlinear))
        QNT_TRY(qnti_block_exchange(block, role, w->qlinear));
    return load(block->model->ctx, qnti_checkpoint_bias(block->model, block->index, role), &block->bias[role]);
}

qnt_status qnti_block_load(const struct qnti_checkpoint *model, size_t index, struct qnti_block *block)
{
    qnt_status status = QNT_OK;
    *block = (struct qnti_block){.model = model, .index = index};
    for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++)
        QNT_CHECK(load_layer(block, role));
cleanup:
    if (status != QNT_OK)
        qnti_block_free(block);
    return status;
}

void qnti_block_free(struct qnti_block *block)
{
    for (size_t role = 0; block->model && role < QNTI_ROLES; role++) {
        qnti_free(block->model->ctx, block->weight[role]);
        qnti_free(block->model->ctx, block->bias[role]);
    }
    *block = (struct qnti_block){0};
}

size_t qnti_site_width(const struct qnti_config *c, enum qnti_site site)
{
    const size_t width[QNTI_SITES] = {c->hidden, c->heads * c->head_dim, c->hidden, c->ffn};
    return width[site];
}

qnt_status qnti_new_rows(qnt_context *ctx, size_t tokens, size_t width, float **x)
{
    size_t n;
    if (!qnti_multiply(tokens, width, &n))
        return qnti_fail(ctx, QNT_NO_MEMORY, "%zu tokens of width %zu exceed the address space", tokens, width);
    return QNTI_NEW_RAW(ctx, n, x);
}

/* Scratch for fused linears and for norms behind the residual, where there are such. */
static qnt_status create_more(const struct qnti_config *c, struct qnti_workspace *w)
{
    size_t qkv = c->fused_qkv ? (c->heads + 2 * c->kv_heads) * c->head_dim : 0;
    size_t fused = qnti_max(qkv, c->fused_gate_up ? 2 * c->ffn : 0);
    if (fused)
        QNT_TRY(qnti_new_rows(w->ctx, w->tokens, fused, &w->fused));
    if (c->post_norms)
        QNT_TRY(qnti_new_rows(w->ctx, w->tokens, c->hidden, &w->delta));
    if (c->learned_positions)
        return QNT_OK;
    QNT_TRY(qnti_rope_table_create(w->ctx, &c->rope, c->head_dim, w->tokens, &w->rope));
    if (!(c->local_rope.theta > 0))
        return QNT_OK;
    return qnti_rope_table_create(w->ctx, &c->local_rope, c->head_dim, w->tokens, &w->local_rope);
}

qnt_status qnti_workspace_create(const struct qnti_checkpoint *model, size_t tokens, struct qnti_workspace **out)
{
    const struct qnti_config *c = &model->config;
    size_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    struct qnti_workspace *w;
    qnt_status status;
    *out = NULL;
    QNT_TRY(QNTI_NEW(model->ctx, 1, &w));
    w->ctx = model->ctx;
    w->tokens = tokens;
    QNT_CHECK(create_more(c, w));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, attention, &w->q));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, kv, &w->k));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, kv, &w->v));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, c->ffn, &w->up));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, c->hidden, &w->input[0]));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, qnti_max(attention, c->ffn), &w->input[1]));
    *out = w;
cleanup:
    if (status != QNT_OK)
        qnti_workspace_free(w);
    return status;
}

void qnti_workspace_free(struct qnti_workspace *w)
{
    if (!w)
        return;
    float *const arrays[] = {w->q, w->k, w->v, w->up, w->fused, w->delta, w->input[0], w->input[1]};
    qnti_rope_table_free(w->ctx, &w->rope);
    qnti_rope_table_free(w->ctx, &w->local_rope);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        qnti_free(w->ctx, arrays[i]);
    qnti_free(w->ctx, w);
}

struct qnti_linear qnti_block_linear(const struct qnti_block *block, enum qnti_role role)
{
    struct qnti_extent size = qnti_weight_extent(&block->model->config, role);
    return (struct qnti_linear){.weight = block->weight[role], .bias = block->bias[role], .in = size.cols,
                                .out = size.rows};
}

struct qnti_norm qnti_block_norm(const struct qnti_block *block, enum qnti_role role)
{
    const struct qnti_config *c = &block->model->config;
    bool head = role == QNTI_Q_NORM || role == QNTI_K_NORM;
    return (struct qnti_norm){.kind = c->norm, .weight = block->weight[role], .bias = block->bias[role],
                              .width = head ? c->head_dim : c->hidden, .eps = c->norm_eps, .base = c->norm_base};
}

struct qnti_attention qnti_block_attention(const struct qnti_block *block, const struct qnti_workspace *w,
                                           size_t tokens, float *out)
{
    const struct qnti_config *c = &block->model->config;
    return (struct qnti_attention){
        .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim,
        .window = qnti_block_window(c, block->index), .scale = c->score_scale, .cap = c->attention_cap,
        .q = w->q, .k = w->k, .v = w->v, .tokens = tokens, .out = out};
}

struct qnti_parts qnti_block_parts(const struct qnti_block *block, enum qnti_role role, float *a, float *b, float *c)
{
    const struct qnti_config *k = &block->model->config;
    size_t kv = k->kv_heads * k->head_dim;
    if (role == QNTI_QKV)
        return (struct qnti_parts){3, {k->heads * k->head_dim, kv, kv}, {a, b, c}};
    return (struct qnti_parts){2, {k->ffn, k->ffn}, {a, b}};
}

enum qnti_role qnti_block_post_norm(const struct qnti_block *block, enum qnti_site site)
{
    enum qnti_role role = site == QNTI_SITE_O ? QNTI_ATTN_POST_NORM : QNTI_MLP_POST_NORM;
    return block->weight[role] ? role : QNTI_ROLES;
}

qnt_status qnti_block_apply(const struct qnti_block *block, enum qnti_role role, const float *in, size_t tokens,
                            bool add, float *out)
{
    struct qnti_linear l = qnti_block_linear(block, role);
    if (block->quantized[role])
        return qnti_linear_quantized(block->model->ctx, &l, block->quantized[role], in, tokens, add, out);
    return qnti_linear(block->model->ctx, &l, in, tokens, add, out);
}

qnt_status qnti_block_qkv(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens)
{
    struct qnti_parts parts = qnti_block_parts(block, QNTI_QKV, w->q, w->k, w->v);
    if (block->model->config.fused_qkv) {
        QNT_TRY(qnti_block_apply(block, QNTI_QKV, in, tokens, false, w->fused));
        qnti_split(&parts, w->fused, tokens);
        return QNT_OK;
    }
    QNT_TRY(qnti_block_apply(block, QNTI_Q, in, tokens, false, w->q));
    QNT_TRY(qnti_block_apply(block, QNTI_K, in, tokens, false, w->k));
    return qnti_block_apply(block, QNTI_V, in, tokens, false, w->v);
}

qnt_status qnti_block_gate_up(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens,
                              float *gate, float *up)
{
    const struct qnti_config *c = &block->model->config;
    struct qnti_parts parts = qnti_block_parts(block, QNTI_GATE_UP, gate, up, NULL);
    if (c->fused_gate_up) {
        QNT_TRY(qnti_block_apply(block, QNTI_GATE_UP, in, tokens, false, w->fused));
        qnti_split(&parts, w->fused, tokens);
        return QNT_OK;
    }
    if (c->ungated)
        return qnti_block_apply(block, QNTI_UP, in, tokens, false, gate);
    QNT_TRY(qnti_block_apply(block, QNTI_GATE, in, tokens, false, gate));
    return qnti_block_apply(block, QNTI_UP, in, tokens, false, up);
}

static qnt_status norm(const struct qnti_block *block, enum qnti_role role, const float *in, size_t rows, float *out)
{
    struct qnti_norm n = qnti_block_norm(block, role);
    return qnti_norm(block->model->ctx, &n, in, rows, out);
}

qnt_status qnti_block_turn(const struct qnti_block *block, const struct qnti_workspace *w, bool back, float *q,
                           float *k, size_t tokens)
{
    const struct qnti_config *c = &block->model->config;
    const struct qnti_rope_table *table =
        qnti_block_rope(c, block->index) == &c->local_rope ? &w->local_rope : &w->rope;
    if (c->learned_positions)
        return QNT_OK;
    if (back) {
        QNT_TRY(qnti_rope_backward(w->ctx, table, c->heads, q, tokens));
        return qnti_rope_backward(w->ctx, table, c->kv_heads, k, tokens);
    }
    QNT_TRY(qnti_rope_forward(w->ctx, table, c->heads, q, tokens));
    return qnti_rope_forward(w->ctx, table, c->kv_heads, k, tokens);
}

static qnt_status attend(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens,
                         float *out)
{
    const struct qnti_config *c = &block->model->config;
    struct qnti_attention attention = qnti_block_attention(block, w, tokens, out);
    QNT_TRY(qnti_block_qkv(block, w, in, tokens));
    if (c->qk_norm) {
        QNT_TRY(norm(block, QNTI_Q_NORM, w->q, tokens * c->heads, w->q));
        QNT_TRY(norm(block, QNTI_K_NORM, w->k, tokens * c->kv_heads, w->k));
    }
    QNT_TRY(qnti_block_turn(block, w, false, w->q, w->k, tokens));
    return qnti_attention_forward(w->ctx, &attention);
}

static qnt_status gate(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens,
                       float *out)
{
    const struct qnti_config *c = &block->model->config;
    QNT_TRY(qnti_block_gate_up(block, w, in, tokens, out, w->up));
    return qnti_activate(w->ctx, c->activation, c->ungated ? NULL : w->up, tokens, c->ffn, out);
}

static qnt_status check_tokens(const struct qnti_workspace *w, size_t tokens)
{
    if (tokens > w->tokens)
        return qnti_fail(w->ctx, QNT_INVALID, "a sequence of %zu tokens in a workspace for %zu", tokens, w->tokens);
    return QNT_OK;
}

qnt_status qnti_site_input(const struct qnti_block *block, struct qnti_workspace *w, enum qnti_site site,
                           const float *in, size_t tokens, float *out)
{
    QNT_TRY(check_tokens(w, tokens));
    switch (site) {
    case QNTI_SITE_QKV:
        return norm(block, QNTI_ATTN_NORM, in, tokens, out);
    case QNTI_SITE_O:
        return attend(block, w, in, tokens, out);
    case QNTI_SITE_GATE_UP:
        return norm(block, QNTI_MLP_NORM, in, tokens, out);
    case QNTI_SITE_DOWN:
        return gate(block, w, in, tokens, out);
    case QNTI_SITES:
        break;
    }
    return qnti_fail(w->ctx, QNT_INVALID, "a block has no site %d", (int)site);
}

struct sum {
    const float *delta;
    float *x;
    size_t width;
};

static void add_rows(void *arg, size_t first, size_t n)
{
    const struct sum *s = arg;
    for (size_t i = first * s->width; i < (first + n) * s->width; i++)
        s->x[i] += s->delta[i];
}

qnt_status qnti_site_residual(const struct qnti_block *block, struct qnti_workspace *w, enum qnti_site site,
                              const float *in, size_t tokens, float *x)
{
    enum qnti_role role = site == QNTI_SITE_O ? QNTI_O : QNTI_DOWN, post = qnti_block_post_norm(block, site);
    size_t hidden = block->model->config.hidden;
    QNT_TRY(check_tokens(w, tokens));
    if (post == QNTI_ROLES)
        return qnti_block_apply(block, role, in, tokens, true, x);
    QNT_TRY(qnti_block_apply(block, role, in, tokens, false, w->delta));
    QNT_TRY(norm(block, post, w->delta, tokens, w->delta));
    return qnti_for_rows(w->ctx, tokens, hidden, add_rows, &(struct sum){w->delta, x, hidden});
}

qnt_status qnti_block_forward(const struct qnti_block *block, struct qnti_workspace *w, float *x, size_t tokens)
{
    for (enum qnti_site site = QNTI_SITE_QKV; site < QNTI_SITES; site += 2) {
        QNT_TRY(qnti_site_input(block, w, site, x, tokens, w->input[0]));
        QNT_TRY(qnti_site_input(block, w, site + 1, w->input[0], tokens, w->input[1]));
        QNT_TRY(qnti_site_residual(block, w, site + 1, w->input[1], tokens, x));
    }
    return QNT_OK;
}
