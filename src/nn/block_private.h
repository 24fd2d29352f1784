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
    struct qnti_rope_table rope;
    float *q, *k, *v, *up;       /* of the sequence in hand; q and k behind RoPE */
    const struct qnti_kv *kv;    /* the model's, or what stands for it; NULL: nothing is kept in few bits */
    float *stored_k, *stored_v;  /* with it */
    float *input[2];             /* of a norm's site and of the site behind it, in qnti_block_forward */
};

struct qnti_linear qnti_block_linear(const struct qnti_block *block, enum qnti_role role);
struct qnti_rms_norm qnti_block_norm(const struct qnti_block *block, enum qnti_role role);
/* Over q, k and v of the workspace. */
struct qnti_attention qnti_block_attention(const struct qnti_block *block, const struct qnti_workspace *w,
                                           size_t tokens, float *out);
/* x [tokens][width] without content. */
qnt_status qnti_new_rows(qnt_context *ctx, size_t tokens, size_t width, float **x);

#endif
