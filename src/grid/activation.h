/*
 * activation.h - activations on a grid at run time.
 *
 * An activation quantizer is a grid with a granularity: one static scale, or
 * scales found in each token, for all channels, for groups or for clusters of
 * them. Channels whose magnitude exceeds a threshold in the batch can be left
 * out (LLM.int8).
 */
#ifndef QNTI_ACTIVATION_H
#define QNTI_ACTIVATION_H

#include "grid/grid.h"

struct qnti_actquant {
    struct qnti_grid grid;            /* map: TILES rows 1 (token), cols = group; INDEX: clusters; rows 0: the batch */
    struct qnti_grid scale_grid;      /* the grid's own, where its scales are codes */
    size_t cols;                      /* of the input */
    uint32_t *index;                  /* the map's, owned, where nothing is fixed */
    struct qnti_numbers *fixed;       /* static: one row whose scale and offset are used for every token; else NULL */
    bool given;                       /* static: the scale was not calibrated here but learned elsewhere */
    float clip;                       /* the range is multiplied by it; 0 means 1 */
    qnt_dtype input_type;             /* inputs are rounded to it first; QNT_F32: not */
    float threshold;                  /* columns with a magnitude of at least this stay as they are; 0: none */
    bool range_of_kept;               /* what is below the threshold in such a column still counts for the range */
};

qnt_status qnti_actquant_create(qnt_context *ctx, const struct qnti_grid *grid, size_t cols, bool fixed,
                                struct qnti_actquant **act);
/* LLM.int8()'s: 8 bits for each token's largest magnitude below the threshold (0: any), other columns left out. */
qnt_status qnti_actquant_int8(qnt_context *ctx, const struct qnti_kernels *kernels, size_t cols, float threshold,
                              struct qnti_actquant **act);
bool qnti_actquant_is_int8(const struct qnti_actquant *act);
void qnti_actquant_free(qnt_context *ctx, struct qnti_actquant *act);

/* As "8 bits, by token", "4 bits, by token in groups of 128", "8 bits, fixed in 32 clusters". */
enum { QNTI_ACTQUANT_TEXT = 128 };
void qnti_actquant_describe(const struct qnti_actquant *act, char text[QNTI_ACTQUANT_TEXT]);

/*
 * y (tokens, stride) = x on the grid, value by value; x and y may be the same.
 * `kept` [cols], if not NULL, gets 1 for columns that the threshold left out.
 */
qnt_status qnti_actquant_apply(qnt_context *ctx, const struct qnti_actquant *act, const float *x, size_t tokens,
                               size_t cols, size_t stride, float *y, uint8_t *kept);

/* --- token_range.c: a static range by token quantiles --- */
struct qnti_token_extremes;
/* Of x [tokens][cols], tokens above 0, in batches of so many consecutive tokens; 0: one batch. */
qnt_status qnti_token_extremes_create(qnt_context *ctx, const struct qnti_kernels *kernels, const float *x,
                                      size_t tokens, size_t cols, size_t batch, struct qnti_token_extremes **extremes);
void qnti_token_extremes_free(qnt_context *ctx, struct qnti_token_extremes *extremes);
/* The range, lower end first, that keeps the share p (0 .. 1) of the tokens whole; 1: the range of all. */
void qnti_token_range(const struct qnti_token_extremes *extremes, float p, float range[2]);

#endif
