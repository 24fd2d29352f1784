/*
 * roles.c - which tensors a model has, of which shapes, by its configuration alone.
 *
 * d hidden size, f size of the mlp, q = heads D and k = key-value heads D
 * channels. A fused linear stands in place of its parts.
 */
#include "checkpoint/checkpoint.h"

#include <math.h>

struct qnti_extent qnti_weight_extent(const struct qnti_config *c, enum qnti_role role)
{
    const size_t d = c->hidden, f = c->ffn, q = c->heads * c->head_dim, k = c->kv_heads * c->head_dim;
    const struct qnti_extent extents[QNTI_ROLES] = {
        [QNTI_EMBED] = {c->vocab, d}, [QNTI_HEAD] = {c->vocab, d},
        [QNTI_POSITIONS] = {c->context + c->position_offset, d},
        [QNTI_QKV] = {q + 2 * k, d}, [QNTI_Q] = {q, d}, [QNTI_K] = {k, d}, [QNTI_V] = {k, d}, [QNTI_O] = {d, q},
        [QNTI_Q_NORM] = {1, c->head_dim}, [QNTI_K_NORM] = {1, c->head_dim},
        [QNTI_GATE_UP] = {2 * f, d}, [QNTI_GATE] = {f, d}, [QNTI_UP] = {f, d}, [QNTI_DOWN] = {d, f},
    };
    return extents[role].cols ? extents[role] : (struct qnti_extent){1, d};
}

bool qnti_has_weight(const struct qnti_config *c, enum qnti_role role)
{
    const bool absent[QNTI_ROLES] = {
        [QNTI_POSITIONS] = !c->learned_positions, [QNTI_HEAD] = c->tied_head, [QNTI_QKV] = !c->fused_qkv,
        [QNTI_Q] = c->fused_qkv, [QNTI_K] = c->fused_qkv, [QNTI_V] = c->fused_qkv, [QNTI_Q_NORM] = !c->qk_norm,
        [QNTI_K_NORM] = !c->qk_norm, [QNTI_ATTN_POST_NORM] = !c->post_norms,
        [QNTI_MLP_POST_NORM] = !c->post_norms, [QNTI_GATE_UP] = !c->fused_gate_up,
        [QNTI_GATE] = c->fused_gate_up || c->ungated, [QNTI_UP] = c->fused_gate_up,
    };
    return !absent[role];
}

bool qnti_has_bias(const struct qnti_config *c, enum qnti_role role)
{
    const bool biases[QNTI_ROLES] = {
        [QNTI_QKV] = c->qkv_bias, [QNTI_Q] = c->qkv_bias, [QNTI_K] = c->qkv_bias, [QNTI_V] = c->qkv_bias,
        [QNTI_O] = c->o_bias, [QNTI_GATE_UP] = c->mlp_bias, [QNTI_GATE] = c->mlp_bias, [QNTI_UP] = c->mlp_bias,
        [QNTI_DOWN] = c->mlp_bias,
    };
    bool norm = c->norm == QNTI_NORM_LAYER && qnti_is_norm(role);
    return qnti_has_weight(c, role) && (biases[role] || norm);
}

bool qnti_is_norm(enum qnti_role role)
{
    static const bool norms[QNTI_ROLES] = {
        [QNTI_FINAL_NORM] = true, [QNTI_ATTN_NORM] = true, [QNTI_Q_NORM] = true, [QNTI_K_NORM] = true,
        [QNTI_ATTN_POST_NORM] = true, [QNTI_MLP_NORM] = true, [QNTI_MLP_POST_NORM] = true,
    };
    return norms[role];
}

bool qnti_is_linear(enum qnti_role role)
{
    return role >= QNTI_ATTN_NORM && !qnti_is_norm(role);
}

static bool sees_window(const struct qnti_config *c, size_t block)
{
    return c->sliding_window && !(c->global && c->global[block]);
}

size_t qnti_block_window(const struct qnti_config *c, size_t block)
{
    return sees_window(c, block) ? c->sliding_window : 0;
}

const struct qnti_rope *qnti_block_rope(const struct qnti_config *c, size_t block)
{
    return c->local_rope.theta > 0 && sees_window(c, block) ? &c->local_rope : &c->rope;
}

float qnti_gguf_score_scale(const struct qnti_family *family, const struct qnti_config *k)
{
    size_t width = k->head_dim;
    if (family->gguf_wide_blocks && k->blocks == family->gguf_wide_blocks && k->heads)
        width = k->hidden / k->heads;
    return family->gguf_wide_blocks && width ? 1 / sqrtf((float)width) : 0;
}
