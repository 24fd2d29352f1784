/*
 * feedback.h - error feedback (gptq.md) for every method that rounds with it, on the method's own grid.
 */
#ifndef QNTI_FEEDBACK_H
#define QNTI_FEEDBACK_H

#include "method/method.h"

struct qnti_feedback_params {
    struct qnti_damping damping;
    int block_size;
    bool act_order, static_groups, act_group_aware, asymmetric;
    double alpha, qep;
};

#define QNTI_FEEDBACK_ROW(type, member, name, kind, value, least, greatest, help)                                      \
    {                                                                                                                  \
        #name, QNTI_PARAM_##kind, offsetof(type, member.name), value, least, greatest, NULL, help                      \
    }
#define QNTI_FEEDBACK_ROWS(type, member)                                                                               \
    QNTI_DAMPING_ROWS(type, member.damping),                                                                           \
        QNTI_FEEDBACK_ROW(type, member, block_size, INT, 128, 1, 1 << 20, "columns between updates of the rest"),      \
        QNTI_FEEDBACK_ROW(type, member, act_order, BOOL, 0, 0, 1, "columns by falling diagonal of the Hessian"),       \
        QNTI_FEEDBACK_ROW(type, member, static_groups, BOOL, 0, 0, 1,                                                  \
                          "grids of the groups of columns before the loop"),                                           \
        QNTI_FEEDBACK_ROW(type, member, act_group_aware, BOOL, 0, 0, 1,                                                \
                          "groups, and columns inside them, by falling diagonal"),                                     \
        QNTI_FEEDBACK_ROW(type, member, asymmetric, BOOL, 0, 0, 1, "aim at the unquantized model's output (GPTAQ)"),   \
        QNTI_FEEDBACK_ROW(type, member, alpha, FLOAT, 0.25, 0, 100, "strength of asymmetric"),                         \
        QNTI_FEEDBACK_ROW(type, member, qep, FLOAT, 0, 0, 1,                                                           \
                          "share of what the layers before have lost that the weights make up for")

/* A warning in the layer's report where the factor needed more damping than was wanted. */
qnt_status qnti_tell_damping(const struct qnti_job *job, struct qnti_damping wanted, qnt_qlinear *q);
/* A grid's groups along an order of n columns: position / group size. The grid points to *index, to be freed. */
qnt_status qnti_group_along(struct qnti_job *job, const uint32_t *order, size_t n, struct qnti_grid *grid,
                            uint32_t **index);

/* Segments with a grid each, filled one after another: what one cannot hold the columns of the next make up for. */
struct qnti_segments_feedback {
    const struct qnti_grid *grids;      /* [count] of each segment; groups of columns are fitted on the way */
    const size_t *cols;                 /* [count] columns of each, where no earlier stage cut them */
    size_t count;
    const float *keys;                  /* [in] the last segment takes the columns of the largest; NULL: all stay */
    bool by_keys;                       /* the others are processed by falling keys, not as they stand */
    bool direct;                        /* the last of several is rounded to nearest, with the others' corrections */
    struct qnti_damping damping;
    size_t block;
};
/* QNT_NOT_FOUND, QNT_SINGULAR: there is no factor, nothing was done yet. Changes the job's weight. */
qnt_status qnti_feedback_segments(struct qnti_job *job, const struct qnti_segments_feedback *s, qnt_qlinear *q);
/*
 * The same by the Hessian of the layer's inputs as they are quantized (qnti_job_quantized_hessian); without a factor
 * the segments are rounded to nearest, with a warning.
 */
qnt_status qnti_feedback_as_quantized(struct qnti_job *job, const struct qnti_segments_feedback *s, qnt_qlinear *q);
/* The same segments without feedback, columns as they stand. */
qnt_status qnti_nearest_segments(struct qnti_job *job, const struct qnti_segments_feedback *s, qnt_qlinear *q);

/* Fills the layer; rounds to nearest, with a warning, where the Hessian has no factor. */
qnt_status qnti_feedback_weights(struct qnti_job *job, const struct qnti_feedback_params *p,
                                 const struct qnti_grid *grid, const qnt_layer *layer, qnt_qlinear *q);
/* Combinations of parameters that make no sense. */
qnt_status qnti_feedback_check(qnt_context *ctx, const char *method, const struct qnti_feedback_params *p,
                               const struct qnti_affine_params *affine);
/*
 * propagation.c: the weight of the layer in hand becomes the one that makes up for a share of what was lost before it,
 * for this stage and those behind it; 0: nothing. The job has its factor.
 */
qnt_status qnti_make_up(struct qnti_job *job, double share);
/* What the calibration must gather. */
unsigned qnti_feedback_needs(const struct qnti_feedback_params *p);

#endif
