/*
 * nn.h - the forward and backward pass of a decoder, one step of a block at a time.
 *
 * A block is run as four steps, each ending where a site of linears begins or
 * its result joins the residual stream, so that a sweep can measure a site's
 * input, exchange the weights behind it and go on without running anything
 * twice (true-sequential). Everything is f32; tokens of one sequence at a
 * time, [tokens][width] row-major; BLAS calls are cut by shape.
 */
#ifndef QNTI_NN_H
#define QNTI_NN_H

#include "checkpoint/checkpoint.h"
#include "unit/unit.h"

/* Sites of a block: linears that share an input. */
enum qnti_site { QNTI_SITE_QKV, QNTI_SITE_O, QNTI_SITE_GATE_UP, QNTI_SITE_DOWN, QNTI_SITES };

/* Roles of the linears of a site, ended by QNTI_ROLES. */
const enum qnti_role *qnti_site_roles(const struct qnti_config *config, enum qnti_site site);

/*
 * Weights of one block in f32, owned; [role] NULL where there is none. A layer that quantizes its inputs at run time
 * stands in `quantized` too (borrowed), and its weight is in the coordinates of those inputs.
 */
struct qnti_block {
    const struct qnti_checkpoint *model;
    size_t index;
    float *weight[QNTI_ROLES], *bias[QNTI_ROLES];
    const qnt_qlinear *quantized[QNTI_ROLES];
};

qnt_status qnti_block_load(const struct qnti_checkpoint *model, size_t index, struct qnti_block *block);
void qnti_block_free(struct qnti_block *block);
/* The block goes on with a finished layer in place of its linear; the layer must outlive it. */
qnt_status qnti_block_exchange(struct qnti_block *block, enum qnti_role role, const qnt_qlinear *q);

/*
 * The unit behind a site's linears (unit/unit.h): attention with o, the mlp with down, or the site's own linear; its
 * weights are those of the site's roles. `self` keeps what it needs; block and workspace must outlive both.
 */
struct qnti_site_unit {
    const struct qnti_block *block;
    struct qnti_workspace *workspace;
    enum qnti_site site;
    struct qnti_unit_weight shapes[3];
};
void qnti_unit_of_site(const struct qnti_block *block, struct qnti_workspace *workspace, enum qnti_site site,
                       struct qnti_site_unit *self, struct qnti_unit *unit);

/* Width of a site's input. */
size_t qnti_site_width(const struct qnti_config *config, enum qnti_site site);

/*
 * What a forward pass reuses: cosines and sines, scratch memory for sequences of at most `tokens`. Where RoPE depends
 * on a sequence's length (dynamic, longrope) it is taken to be that.
 */
struct qnti_workspace;
qnt_status qnti_workspace_create(const struct qnti_checkpoint *model, size_t tokens, struct qnti_workspace **w);
void qnti_workspace_free(struct qnti_workspace *w);

/*
 * Input of a site from what stands before it:
 *   QKV      norm of the residual stream x                                   (in: x)
 *   O        attention of q, k, v of the site QKV's input                    (in: QKV's input)
 *   GATE_UP  norm of x                                                       (in: x)
 *   DOWN     act(gate) * up, or act(up), of the site GATE_UP's input         (in: GATE_UP's input)
 * `in` [tokens][width before], `out` [tokens][qnti_site_width].
 */
qnt_status qnti_site_input(const struct qnti_block *block, struct qnti_workspace *w, enum qnti_site site,
                           const float *in, size_t tokens, float *out);
/* x += o(in) or x += down(in), for the sites O and DOWN, behind a norm where the family has one there. */
qnt_status qnti_site_residual(const struct qnti_block *block, struct qnti_workspace *w, enum qnti_site site,
                              const float *in, size_t tokens, float *x);
/* The whole block on one sequence, in place. */
qnt_status qnti_block_forward(const struct qnti_block *block, struct qnti_workspace *w, float *x, size_t tokens);

/*
 * Backward through a block, one sequence at a time. Takes rows [first, first + rows) of the gradient of a linear's
 * weight over the sequence, [rows][in].
 */
typedef qnt_status (*qnti_gradient_fn)(void *user, enum qnti_role role, size_t first, size_t rows,
                                       const float *gradient);
struct qnti_gradients {
    unsigned roles;              /* bit of each role whose gradient is wanted */
    qnti_gradient_fn take;
    void *user;
};
/* Memory for sequences of at most `tokens`, beside a workspace of the same. */
struct qnti_backward;
qnt_status qnti_backward_create(const struct qnti_checkpoint *model, size_t tokens, struct qnti_backward **b);
void qnti_backward_free(struct qnti_backward *b);
/*
 * x [tokens][hidden] is the block's input, dx the gradient of its output, which becomes that of x. What lies between is
 * computed again. QNT_UNSUPPORTED: a linear that quantizes its inputs.
 */
qnt_status qnti_block_backward(const struct qnti_block *block, struct qnti_workspace *w, struct qnti_backward *b,
                               const float *x, size_t tokens, const struct qnti_gradients *gradients, float *dx);

/* The loss behind the last block: final norm, output matrix, mean of -ln p of next tokens. */
struct qnti_loss;
qnt_status qnti_loss_create(const struct qnti_checkpoint *model, struct qnti_loss **loss);
void qnti_loss_free(struct qnti_loss *loss);
/* Of one sequence of 2 or more tokens, and its gradient by x. */
qnt_status qnti_loss_backward(const struct qnti_loss *l, const float *x, const int32_t *ids, size_t tokens,
                              double *loss, float *dx);

/*
 * x [tokens][hidden] of token ids at the positions first, first + 1 ... of their sequence. Ids beyond the vocabulary,
 * and positions beyond those learned, are QNT_INVALID.
 */
qnt_status qnti_embed(const struct qnti_checkpoint *model, const int32_t *ids, size_t tokens, size_t first, float *x);
/* The final norm in place. */
qnt_status qnti_final_norm(const struct qnti_checkpoint *model, float *x, size_t tokens);
/* The output matrix, in f32, is loaded once and used for many: [vocab][hidden]. */
qnt_status qnti_head_load(const struct qnti_checkpoint *model, float **head);
/* logits [tokens][vocab] of normed x, soft-capped where the family does that. */
qnt_status qnti_logits(const struct qnti_checkpoint *model, const float *head, const float *x, size_t tokens,
                       float *logits);

/*
 * All of a model on many sequences of equal length: x [sequences][tokens][hidden] is embedded, then carried
 * through block after block, each loaded once; ends with the final norm. progress may be NULL.
 */
qnt_status qnti_model_forward(const struct qnti_checkpoint *model, const int32_t *ids, size_t sequences, size_t tokens,
                              float *x, void (*progress)(void *user, size_t done, size_t total), void *user);

#endif
