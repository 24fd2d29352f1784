/*
 * block_private.h - what the forward and the backward pass of a block share: the operators as its weights make them.
 */
#ifndef QNTI_BLOCK_PRIVATE_H
#define QNTI_BLOCK_PRIVATE_H

#include "nn/nn.h"
#include "nn/operators.h"

struct qnti_workspace {
    qnt_context *ctx;
    size_t tokens;
    struct qnti_rope_table rope, local_rope;   /* the latter empty where all blocks turn alike */
    float *q, *k, *v, *up;       /* of the sequence in hand; q and k behind their norms and RoPE */
    float *fused;                /* [tokens][widest fused linear] or NULL */
    float *delta;                /* [tokens][hidden] what joins the stream behind a norm of its own, or NULL */
    float *input[2];             /* of a norm's site and of the site behind it, in qnti_block_forward */
};

struct qnti_linear qnti_block_linear(const struct qnti_block *block, enum qnti_role role);
struct qnti_norm qnti_block_norm(const struct qnti_block *block, enum qnti_role role);
/* Over q, k and v of the workspace. */
struct qnti_attention qnti_block_attention(const struct qnti_block *block, const struct qnti_workspace *w,
                                           size_t tokens, float *out);
/* One linear; the layer that stands in its place where it quantizes its inputs. */
qnt_status qnti_block_apply(const struct qnti_block *block, enum qnti_role role, const float *in, size_t tokens,
                            bool add, float *out);
/* q, k and v of the workspace as the linears give them. */
qnt_status qnti_block_qkv(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens);
/* gate and up [tokens][ffn] as the linears give them; without a gate `gate` is what up gives, and `up` is not used. */
qnt_status qnti_block_gate_up(const struct qnti_block *block, struct qnti_workspace *w, const float *in, size_t tokens,
                              float *gate, float *up);
/* q and k of the workspace turned to their positions, or gradients by them turned back. */
qnt_status qnti_block_turn(const struct qnti_block *block, const struct qnti_workspace *w, bool back, float *q,
                           float *k, size_t tokens);
/* The parts that a fused linear's columns are. */
struct qnti_parts qnti_block_parts(const struct qnti_block *block, enum qnti_role role, float *a, float *b, float *c);
/* The norm behind o or down, QNTI_ROLES: none. */
enum qnti_role qnti_block_post_norm(const struct qnti_block *block, enum qnti_site site);
/* x [tokens][width] without content. */
qnt_status qnti_new_rows(qnt_context *ctx, size_t tokens, size_t width, float **x);

#endif
