/*
 * weights.c - which stored tensor is which weight.
 *
 * Goes through all blocks, roles, weights and biases that the configuration
 * promises, finds each by its name, checks shape and type. What is left over
 * then is reported. Data is not read, but for a tied output matrix that is
 * stored as well: an equal copy is dropped, another one unties it.
 */
#include "checkpoint/source.h"

#include <stdio.h>
#include <string.h>
#include "base/number.h"

/* A weight or bias that is looked for. */
struct slot {
    size_t block;
    enum qnti_role role;
    bool bias;
    size_t rank, shape[2];
    struct qnti_weight *weight;
};

/* (out, in) of a role's weight; a norm has only `in`. */
static size_t weight_shape(const struct qnti_config *k, enum qnti_role role, size_t *shape)
{
    const size_t q = k->heads * k->head_dim, kv = k->kv_heads * k->head_dim;
    const size_t shapes[QNTI_ROLES][2] = {
        [QNTI_EMBED] = {k->vocab, k->hidden}, [QNTI_FINAL_NORM] = {0, k->hidden}, [QNTI_HEAD] = {k->vocab, k->hidden},
        [QNTI_ATTN_NORM] = {0, k->hidden},    [QNTI_Q] = {q, k->hidden},          [QNTI_K] = {kv, k->hidden},
        [QNTI_V] = {kv, k->hidden},           [QNTI_O] = {k->hidden, q},          [QNTI_MLP_NORM] = {0, k->hidden},
        [QNTI_GATE] = {k->ffn, k->hidden},    [QNTI_UP] = {k->ffn, k->hidden},    [QNTI_DOWN] = {k->hidden, k->ffn},
    };
    bool norm = shapes[role][0] == 0;
    shape[0] = shapes[role][norm];
    shape[1] = shapes[role][1];
    return norm ? 1 : 2;
}

static bool has_bias(const struct qnti_config *k, enum qnti_role role)
{
    const bool biases[QNTI_ROLES] = {
        [QNTI_Q] = k->qkv_bias, [QNTI_K] = k->qkv_bias,    [QNTI_V] = k->qkv_bias,   [QNTI_O] = k->o_bias,
        [QNTI_GATE] = k->mlp_bias, [QNTI_UP] = k->mlp_bias, [QNTI_DOWN] = k->mlp_bias,
    };
    return biases[role];
}

static struct slot slot_of(const struct qnti_checkpoint *c, size_t block, enum qnti_role role, bool bias)
{
    struct slot slot = {.block = block, .role = role, .bias = bias};
    slot.rank = weight_shape(&c->config, role, slot.shape);
    if (bias)
        slot.rank = 1;
    slot.weight = &c->weights[2 * (block * QNTI_ROLES + role) + bias];
    return slot;
}

/* "(576)" or "(576, 1536)". */
static const char *shape_text(size_t rank, const size_t *shape, char *text, size_t bytes)
{

    size_t n = 0;
    text[0] = 0;
    for (size_t i = 0; i < rank && n + 24 < bytes; i++)
        n += (size_t)snprintf(text + n, bytes - n, "%s%zu", i ? ", " : "(", shape[i]);
    snprintf(text + n, bytes - n, rank ? ")" : "()");
    return text;
}

enum { SHAPE_BYTES = 160 };

static qnt_status check_stored(const struct qnti_checkpoint *c, const struct slot *slot,
                               const struct qnti_stored *stored)
{
    char is[SHAPE_BYTES], expected[SHAPE_BYTES];
    bool equal = stored->rank == slot->rank;
    for (size_t i = 0; i < slot->rank && equal; i++)
        equal = stored->shape[i] == slot->shape[i];
    if (!equal)
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" has the shape %s, expected %s", c->path,
                         stored->name, shape_text(stored->rank, stored->shape, is, sizeof is),
                         shape_text(slot->rank, slot->shape, expected, sizeof expected));
    if (!stored->plain && !stored->ggml)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED, "%s: tensor \"%.200s\" is stored as %s, which is not supported",
                         c->path, stored->name, stored->type);
    return QNT_OK;
}

static void fill(const struct qnti_checkpoint *c, const struct slot *slot, struct qnti_stored *stored)
{
    struct qnti_weight *w = slot->weight;
    const struct qnti_config *k = &c->config;
    if (stored->plain) {
        w->plain = qnt_matrix_of(stored->dtype, stored->data, w->rows, w->cols);
    } else {
        w->type = stored->ggml;
        w->blocks = stored->data;
    }
    if (c->source->gguf && c->family->gguf_permutes_qk)
        w->unpermute_heads = slot->role == QNTI_Q ? k->heads : slot->role == QNTI_K ? k->kv_heads : 0;
    stored->used = true;
}

/* The parts of a quantized layer are all known by its name in front; its bias is a tensor for itself. */
static void mark_parts(struct qnti_source *source, const char *name)
{
    static const char prefix[] = "model.";
    size_t n = strlen(name);
    if (strncmp(name, prefix, sizeof prefix - 1) == 0) /* as qnti_stored_find has it */
        mark_parts(source, name + sizeof prefix - 1);
    for (size_t i = 0; i < source->count; i++) {
        const char *stored = source->tensors[i].name;
        if (strncmp(stored, name, n) == 0 && stored[n] == '.' && strcmp(stored + n, ".bias") != 0)
            source->tensors[i].used = true;
    }
}

/* A layer that is quantized already; QNT_NOT_FOUND: there is none in the files. */
static qnt_status fill_quantized(const struct qnti_checkpoint *c, const struct slot *slot)
{
    struct qnti_weight *w = slot->weight;
    qnt_qlinear *q = NULL;
    qnt_status status;
    char *name;
    QNT_TRY(qnti_copy_bytes(c->ctx, w->name, strlen(w->name) - strlen(".weight"), &name));
    status = c->source->reader->read(c->ctx, c->source, name, &q);
    w->qlinear = q;
    if (status == QNT_OK && (q->out != w->rows || q->in != w->cols))
        status = qnti_fail(c->ctx, QNT_BAD_DATA, "%s: layer \"%.200s\" is (%zu, %zu), expected (%zu, %zu)", c->path,
                           name, q->out, q->in, w->rows, w->cols);
    if (status == QNT_OK)
        mark_parts(c->source, name);
    qnti_free(c->ctx, name);
    return status;
}

static qnt_status print_name(const struct qnti_checkpoint *c, const struct slot *slot, const char *const *names,
                             char **name)
{
    struct qnti_buffer text = {0};
    qnt_status status = qnti_buffer_print(c->ctx, &text, names[slot->role], slot->block);
    if (status == QNT_OK)
        status = qnti_buffer_print(c->ctx, &text, slot->bias ? ".bias" : ".weight");
    *name = text.data;
    return status;
}

/* Without a tensor: a quantized layer's bias, or nothing. */
static qnt_status fill_otherwise(const struct qnti_checkpoint *c, const struct slot *slot, const char *stored_name)
{
    const qnt_qlinear *q = slot->bias ? slot->weight[-1].qlinear : NULL;
    char expected[SHAPE_BYTES];
    if (q && q->bias) {
        slot->weight->plain = qnt_matrix_f32(q->bias, 1, q->out);
        return QNT_OK;
    }
    if (slot->role == QNTI_HEAD && c->config.tied_head)
        return QNT_NOT_FOUND;
    return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: has no tensor \"%s\", expected %s%s", c->path, stored_name,
                     shape_text(slot->rank, slot->shape, expected, sizeof expected),
                     slot->role == QNTI_HEAD ? " (tie_word_embeddings is false)" : "");
}

static qnt_status attach(const struct qnti_checkpoint *c, const struct slot *slot)
{
    struct qnti_weight *w = slot->weight;
    struct qnti_stored *stored;
    char *name = NULL;
    qnt_status status;
    w->rows = slot->rank == 2 ? slot->shape[0] : 1;
    w->cols = slot->shape[slot->rank - 1];
    status = print_name(c, slot, c->family->names, &name);
    w->name = name;
    name = NULL;
    if (status != QNT_OK)
        return status;
    QNT_CHECK(print_name(c, slot, c->source->gguf ? c->family->gguf_names : c->family->names, &name));
    stored = qnti_stored_find(c->source, name);
    status = QNT_NOT_FOUND;
    if (c->source->reader && slot->rank == 2) /* a tensor of the weight's name may be a part of a quantized layer */
        status = fill_quantized(c, slot);
    if (status == QNT_NOT_FOUND && stored) {
        QNT_CHECK(check_stored(c, slot, stored));
        fill(c, slot, stored);
    } else if (status == QNT_NOT_FOUND) {
        status = fill_otherwise(c, slot, name);
    }
cleanup:
    qnti_free(c->ctx, name);
    return status;
}

static qnt_status attach_role(const struct qnti_checkpoint *c, size_t block, enum qnti_role role)
{
    struct slot slot = slot_of(c, block, role, false);
    QNT_TRY(attach(c, &slot));
    if (!has_bias(&c->config, role))
        return QNT_OK;
    slot = slot_of(c, block, role, true);
    return attach(c, &slot);
}

static void forget(qnt_context *ctx, struct qnti_weight *w)
{
    qnti_free(ctx, (void *)(uintptr_t)w->name);
    memset(w, 0, sizeof *w);
}

static bool same_bytes(const struct qnti_weight *a, const struct qnti_weight *b)
{
    return a->plain.data && b->plain.data && a->plain.dtype == b->plain.dtype &&
           memcmp(a->plain.data, b->plain.data, a->rows * a->cols * qnti_dtype_bytes(a->plain.dtype)) == 0;
}

/* An output matrix that the configuration ties to the embedding. */
static qnt_status attach_tied_head(struct qnti_checkpoint *c)
{
    struct slot embed = slot_of(c, 0, QNTI_EMBED, false), head = slot_of(c, 0, QNTI_HEAD, false);
    qnt_status status = attach(c, &head);
    if (status != QNT_OK && status != QNT_NOT_FOUND)
        return status;
    if (status == QNT_NOT_FOUND || same_bytes(embed.weight, head.weight)) {
        forget(c->ctx, head.weight);
        return QNT_OK;
    }
    c->config.tied_head = false;
    qnti_log(c->ctx, QNT_LOG_WARNING, "%s: tie_word_embeddings is true, but %s differs from the embedding and is used",
             c->path, head.weight->name);
    return QNT_OK;
}

static bool is_ignored(const char *name)
{
    static const char *const suffixes[] = {".rotary_emb.inv_freq", ".attention.bias", ".masked_bias",
                                           ".input_scale", ".input_zero_point"}; /* the last two: sweep/scales.c */
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (qnti_has_suffix(name, suffixes[i]))
            return true;
    return false;
}

static qnt_status warn_unused(const struct qnti_checkpoint *c)
{
    struct qnti_names names = {0};
    qnt_status status = QNT_OK;
    for (size_t i = 0; i < c->source->count && status == QNT_OK; i++) {
        const struct qnti_stored *stored = &c->source->tensors[i];
        if (!stored->used && !is_ignored(stored->name))
            status = qnti_names_add(c->ctx, &names, stored->name);
    }
    qnti_names_warn(c, "without a place in the model, ignored", &names);
    return status;
}

qnt_status qnti_weights_attach(struct qnti_checkpoint *c)
{
    QNT_TRY(QNTI_NEW(c->ctx, c->config.blocks * QNTI_ROLES * 2, &c->weights));
    QNT_TRY(attach_role(c, 0, QNTI_EMBED));
    QNT_TRY(attach_role(c, 0, QNTI_FINAL_NORM));
    QNT_TRY(c->config.tied_head ? attach_tied_head(c) : attach_role(c, 0, QNTI_HEAD));
    for (size_t block = 0; block < c->config.blocks; block++)
        for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++)
            QNT_TRY(attach_role(c, block, role));
    return warn_unused(c);
}
