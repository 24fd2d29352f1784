/*
 * block.c - the weights of a decoder block and its four steps.
 *
 *   x += o(attention(q, k, v of norm(x)));  x += down(act(gate) * up of norm(x))
 */
#include "nn/block_private.h"

const enum qnti_role qnti_site_roles[QNTI_SITES][4] = {
    [QNTI_SITE_QKV] = {QNTI_Q, QNTI_K, QNTI_V, QNTI_ROLES},
    [QNTI_SITE_O] = {QNTI_O, QNTI_ROLES},
    [QNTI_SITE_GATE_UP] = {QNTI_GATE, QNTI_UP, QNTI_ROLES},
    [QNTI_SITE_DOWN] = {QNTI_DOWN, QNTI_ROLES},
};

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
    QNT_CHECK(qnti_rope_table_create(w->ctx, &c->rope, c->head_dim, tokens, &w->rope));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, attention, &w->q));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, kv, &w->k));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, kv, &w->v));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, c->ffn, &w->up));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, c->hidden, &w->input[0]));
    QNT_CHECK(qnti_new_rows(w->ctx, tokens, qnti_max(attention, c->ffn), &w->input[1]));
    QNT_CHECK(qnti_workspace_keep(w, model, model->kv));
    *out = w;
cleanup:
    if (status != QNT_OK)
        qnti_workspace_free(w);
    return status;
}

qnt_status qnti_workspace_keep(struct qnti_workspace *w, const struct qnti_checkpoint *model, const struct qnti_kv *kv)
{
    size_t width = model->config.kv_heads * model->config.head_dim;
    w->kv = kv;
    if (!kv || w->stored_k)
        return QNT_OK;
    QNT_TRY(qnti_new_rows(w->ctx, w->tokens, width, &w->stored_k));
    return qnti_new_rows(w->ctx, w->tokens, width, &w->stored_v);
}

void qnti_workspace_free(struct qnti_workspace *w)
{
    if (!w)
        return;
    qnti_rope_table_free(w->ctx, &w->rope);
    qnti_free(w->ctx, w->q);
    qnti_free(w->ctx, w->k);
    qnti_free(w->ctx, w->v);
    qnti_free(w->ctx, w->up);
    qnti_free(w->ctx, w->stored_k);
    qnti_free(w->ctx, w->stored_v);
    qnti_free(w->ctx, w->input[0]);
    qnti_free(w->ctx, w->input[1]);
    qnti_free(w->ctx, w);
}

struct qnti_linear qnti_block_linear(const struct qnti_block *block, enum qnti_role role)
{
    const struct qnti_config *c = &block->model->config;
    const size_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const struct {
        size_t in, out;
    } size[QNTI_ROLES] = {
        [QNTI_Q] = {c->hidden, attention}, [QNTI_K] = {c->hidden, kv}, [QNTI_V] = {c->hidden, kv},
        [QNTI_O] = {attention, c->hidden}, [QNTI_GATE] = {c->hidden, c->ffn}, [QNTI_UP] = {c->hidden, c->ffn},
        [QNTI_DOWN] = {c->ffn, c->hidden},
    };
    return (struct qnti_linear){.weight = block->weight[role], .bias = block->bias[role], .in = size[role].in,
                                .out = size[role].out};
}

struct qnti_rms_norm qnti_block_norm(const struct qnti_block *block, enum qnti_role role)
{
    const struct qnti_config *c = &block->model->config;
    return (struct qnti_rms_norm){.weight = block->weight[role], .width = c->hidden, .eps = c->norm_eps};
}

struct qnti_attention qnti_block_attention(const struct qnti_block *block, const struct qnti_workspace *w,
                                           size_t tokens, float *out)
{
    const struct qnti_config *c = &block->model->config;
    return (struct qnti_attention){
        .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .window = c->sliding_window,
        .q = w->q, .k = w->k, .v = w->v, .tokens = tokens, .out = out,
        .kv = w->kv, .stored_k = w->stored_k, .stored_v = w->stored_v};
}

/* One linear of a site. */
static qnt_status linear(const struct qnti_block *block, enum qnti_role role, const float *in, size_t tokens, bool add,
                         float *out)
{
    struct qnti_linear l = qnti_block_linear(block, role);
    if (block->quantized[role])
        return qnti_linear_quantized(block->model->ctx, &l, block->quantized[role], in, tokens, add, out);
    return qnti_linear(block->model->ctx, &l, in, tokens, add, out);
}

static qnt_status norm(const struct qnti_block *block, enum qnti_role role, const float *in, size_t tokens, float *out)
{
    struct qnti_rms_norm n = qnti_block_norm(block, role);
    return qnti_rms_norm(block->model->ctx, &n, in, tokens, out);
}

/* Keys before or behind RoPE through the cache. */
static qnt_status store_keys(struct qnti_workspace *w, const struct qnti_config *c, size_t tokens, bool rope)
{
    QNT_TRY(qnti_cache_round(w->ctx, &w->kv->key, w->k, tokens, c->kv_heads * c->head_dim, w->stored_k));
    return rope ? qnti_rope_forward(w->ctx, &w->rope, c->kv_heads, w->stored_k, tokens) : QNT_OK;
}

/* Queries, values, and keys where those of the cache are rotated already. */
static qnt_status store(struct qnti_workspace *w, const struct qnti_config *c, size_t tokens)
{
    const struct qnti_kv *kv = w->kv;
    if (kv->query.head_dim)
        QNT_TRY(qnti_cache_round(w->ctx, &kv->query, w->q, tokens, c->heads * c->head_dim, w->q));
    if (!kv->key.before_rope)
        QNT_TRY(store_keys(w, c, tokens, false));
    return qnti_cache_round(w->ctx, &kv->value, w->v, tokens, c->kv_heads * c->head_dim, w->stored_v);
}

static qnt_status attend(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens,
                         float *out)
{
    const struct qnti_config *c = &block->model->config;
    struct qnti_attention attention = qnti_block_attention(block, w, tokens, out);
    QNT_TRY(linear(block, QNTI_Q, in, tokens, false, w->q));
    QNT_TRY(linear(block, QNTI_K, in, tokens, false, w->k));
    QNT_TRY(linear(block, QNTI_V, in, tokens, false, w->v));
    if (w->kv && w->kv->key.before_rope)
        QNT_TRY(store_keys(w, c, tokens, true));
    QNT_TRY(qnti_rope_forward(w->ctx, &w->rope, c->heads, w->q, tokens));
    QNT_TRY(qnti_rope_forward(w->ctx, &w->rope, c->kv_heads, w->k, tokens));
    if (w->kv)
        QNT_TRY(store(w, c, tokens));
    return qnti_attention_forward(w->ctx, &attention);
}

static qnt_status gate(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens,
                       float *out)
{
    QNT_TRY(linear(block, QNTI_GATE, in, tokens, false, out));
    QNT_TRY(linear(block, QNTI_UP, in, tokens, false, w->up));
    return qnti_swiglu(w->ctx, w->up, tokens, block->model->config.ffn, out);
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

qnt_status qnti_site_residual(const struct qnti_block *block, struct qnti_workspace *w, enum qnti_site site,
                              const float *in, size_t tokens, float *x)
{
    QNT_TRY(check_tokens(w, tokens));
    return linear(block, site == QNTI_SITE_O ? QNTI_O : QNTI_DOWN, in, tokens, true, x);
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
