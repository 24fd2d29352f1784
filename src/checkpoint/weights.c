/*
 * weights.c - which stored tensor is which weight.
 *
 * Goes through all blocks, roles, weights and biases that the configuration
 * promises, finds each by its name, checks shape and type. What is left over
 * then is reported. Data is not read, but for a tied output matrix that is
 * stored as well: an equal copy is dropped, another one unties it.
 */
#include "checkpoint/source.h"

#include <math.h>
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

/* Stored (in, out): linears of some families' folders. */
static bool is_transposed(const struct qnti_checkpoint *c, enum qnti_role role)
{
    return c->family->transposed && !c->source->gguf && qnti_is_linear(role);
}

/* The slot, its weight with rows and columns. */
static struct slot slot_of(const struct qnti_checkpoint *c, size_t block, enum qnti_role role, bool bias)
{
    struct slot slot = {.block = block, .role = role, .bias = bias, .rank = bias || qnti_is_norm(role) ? 1 : 2};
    struct qnti_extent extent = qnti_weight_extent(&c->config, role);
    struct qnti_weight *w = &c->weights[2 * (block * QNTI_ROLES + role) + bias];
    w->rows = bias ? 1 : extent.rows;
    w->cols = bias && !qnti_is_norm(role) ? extent.rows : extent.cols;
    w->transposed = !bias && is_transposed(c, role);
    slot.shape[0] = slot.rank == 1 || w->transposed ? w->cols : w->rows;
    slot.shape[1] = w->transposed ? w->rows : w->cols;
    slot.weight = w;
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
        w->plain = qnt_matrix_of(stored->dtype, stored->data, w->transposed ? w->cols : w->rows,
                                 w->transposed ? w->rows : w->cols);
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
    size_t n = strlen(name);
    const char *rest = qnti_without_prefix(name);
    if (rest) /* as qnti_stored_find has it */
        mark_parts(source, rest);
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
    if (status == QNT_OK)
        w->transposed = false; /* layers have one orientation */
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
    status = print_name(c, slot, c->family->names, &name);
    w->name = name;
    name = NULL;
    if (status != QNT_OK)
        return status;
    QNT_CHECK(print_name(c, slot, c->source->gguf ? qnti_gguf_names : c->family->names, &name));
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
    struct slot slot;
    if (qnti_has_weight(&c->config, role)) {
        slot = slot_of(c, block, role, false);
        QNT_TRY(attach(c, &slot));
    }
    if (!qnti_has_bias(&c->config, role))
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
    static const char *const suffixes[] = {".rotary_emb.inv_freq", ".attention.bias", ".masked_bias", ".attn.bias"};
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

/* The factor of embeddings as models in the embedding's type have it. */
static void round_embedding_scale(struct qnti_checkpoint *c)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(c, 0, QNTI_EMBED);
    if (!c->config.scaled_embedding)
        return;
    c->config.embedding_scale = sqrtf((float)c->config.hidden);
    if (w->plain.data)
        c->config.embedding_scale = qnti_round_to(w->plain.dtype, c->config.embedding_scale);
}

qnt_status qnti_weights_attach(struct qnti_checkpoint *c)
{
    QNT_TRY(QNTI_NEW(c->ctx, c->config.blocks * QNTI_ROLES * 2, &c->weights));
    for (enum qnti_role role = 0; role < QNTI_ATTN_NORM; role++)
        QNT_TRY(role == QNTI_HEAD && c->config.tied_head ? attach_tied_head(c) : attach_role(c, 0, role));
    for (size_t block = 0; block < c->config.blocks; block++)
        for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++)
            QNT_TRY(attach_role(c, block, role));
    round_embedding_scale(c);
    return warn_unused(c);
}
