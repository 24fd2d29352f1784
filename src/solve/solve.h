/*
 * solve.h - how codes are chosen on a grid: nearest, error feedback, coordinate descent, k-means, gradient; clusters.
 *
 * Solvers take plain views: weights W (rows, cols) f32, numbers Q on a grid,
 * a Hessian H (cols, cols) or the factor U of its inverse. Rows never
 * interact but through tied scales, so work is cut into fixed chunks of rows
 * and results do not depend on threads.
 */
#ifndef QNTI_SOLVE_H
#define QNTI_SOLVE_H

#include "grid/grid.h"

/* Rows that a solver takes at a time: at most about `most`, at least 64, more where rows are tied. */
size_t qnti_chunk_rows(const struct qnti_grid *grid, size_t rows, size_t most);

/* --- nearest.c: fits each span, takes its own codes. importance, row_power: see qnti_band; NULL or both. --- */
qnt_status qnti_nearest(qnt_context *ctx, const float *w, const float *importance, const float *row_power,
                        struct qnti_numbers *q);

/* Scales and offsets only, from W: grids that do not depend on feedback. */
qnt_status qnti_fit_all(qnt_context *ctx, const float *w, const float *importance, const float *row_power,
                        struct qnti_numbers *q);

/* Codes only, on scales and offsets as they are. */
qnt_status qnti_nearest_codes(qnt_context *ctx, const float *w, struct qnti_numbers *q);

/* Sum of (W - Q)^2. */
qnt_status qnti_square_error(qnt_context *ctx, const float *w, const struct qnti_numbers *q, double *error);

/* What that would cost: costs [cols], of a unit of square error, times the sum over the rows of (W - Q)^2. */
qnt_status qnti_nearest_costs(qnt_context *ctx, const float *w, size_t rows, size_t cols,
                              const struct qnti_grid *grid, float *costs);

/* --- clip.c: W's groups limited to the range with the least output error on their grid (AWQ) --- */
struct qnti_clip {
    const float *hessian;                    /* (cols, cols) */
    const float *importance, *row_power;     /* for fits; or NULL */
    size_t steps, tried;                     /* ranges m (1 - i / steps), i < tried */
};
qnt_status qnti_clip(qnt_context *ctx, const struct qnti_grid *grid, const struct qnti_clip *rule, size_t rows,
                     size_t cols, float *w);

/* --- range_search.c: the scale of each group with the least squared error on whole levels --- */
enum qnti_range_optimizer { QNTI_RANGE_EXACT, QNTI_RANGE_ADAM };
struct qnti_range_search {
    int least, most;             /* levels; 0 is one of them */
    int optimizer;               /* enum qnti_range_optimizer */
    size_t iterations;           /* of Adam, */
    double learning_rate;        /* which moves the range, scale * most */
};
/* The exact minimum of sum (scale * level - x)^2 over scale > 0, the largest such scale; 1 where all x are 0. */
qnt_status qnti_best_scale(qnt_context *ctx, const struct qnti_range_search *rule, const float *x, size_t n,
                           double *scale);
/* Scales of groups within rows, rounded to their type, and codes level - least, of W (rows, cols). */
qnt_status qnti_search_ranges(qnt_context *ctx, const struct qnti_range_search *rule, const float *w,
                              struct qnti_numbers *q);

/* --- pairs_search.c: the scale with which a tensor X (rows, cols) fits a grid of pairs best, and sum (X - Q)^2 --- */
qnt_status qnti_pairs_search(qnt_context *ctx, const struct qnti_grid *grid, const float *x, size_t rows, size_t cols,
                             float *scale, double *error);
/* Scales of the filled q that leave a number of W (rows, cols) far beyond the largest outlier level. */
size_t qnti_pairs_clipped(const float *w, const struct qnti_numbers *q);

/* --- half_quadratic.c (HQQ): real zeros under a norm that forgives a few large errors --- */
struct qnti_half_quadratic {
    bool optimize, round_zero;   /* false: range and nearest; the first zero is rounded */
    bool v2, early_stop;         /* the second of the authors' solvers, and whether it stops */
    bool per_group;              /* each group keeps its best zero */
    bool scales;                 /* and moves its scale by least squares where that helps */
    double norm, beta, kappa;
    size_t iterations;
};
/* Fills scales, zeros and codes of W (rows, cols): groups in rows, or strided over the flattened matrix. */
qnt_status qnti_half_quadratic(qnt_context *ctx, const struct qnti_half_quadratic *rule, const float *w,
                               struct qnti_numbers *q);

/* --- error_feedback.c (GPTQ) --- */

/* Single weights that stay outside the grid while feedback goes on (SpQR). */
struct qnti_outliers {
    const void *rule;
    /* May replace weights of a span before its grid is fitted: x [rows][stride]; u [cols] of the factor's diagonal. */
    void (*before_fit)(const void *rule, const struct qnti_grid *grid, float *x, size_t rows, size_t cols,
                       size_t stride, const float *u);
    /* keep[r] = 1: weight w[r], which the grid would make value[r], is kept. */
    void (*choose)(const void *rule, size_t rows, const float *w, const float *value, float u, uint8_t *keep);
    qnt_dtype type;              /* in which kept weights are stored */
    uint8_t *mask;               /* (rows, cols) 1: kept */
    float *value;                /* (rows, cols) what is kept there */
};

/*
 * Columns behind those of q take their corrections in `rest`: a segment is done after the one before it by a call with
 * what was left of its weights and the block of U that begins where U's diagonal meets it.
 */
struct qnti_feedback {
    const float *w;              /* (rows, cols), natural order */
    const float *factor;         /* U (cols + rest_cols, the same) in processing order */
    const float *pull;           /* P, as U: GPTAQ's second update; NULL: none */
    size_t stride;               /* floats from one row of U and P to the next; 0: q's columns */
    const uint32_t *order;       /* position -> column; NULL: natural */
    bool fixed;                  /* q's scales are final */
    bool fresh;                  /* fits on the way see the corrections made inside their block too */
    float *rest;                 /* (rows, rest_cols) weights of the positions behind q's columns, corrected in place */
    size_t rest_cols, rest_stride;
    const float *importance;     /* [cols] in natural order, row_power [rows]: for fits; or NULL */
    const float *row_power;
    size_t block;                /* columns between updates of the rest */
    const struct qnti_outliers *outliers;   /* or NULL */
};
/* q's codes, its scales unless they are fixed; rows are independent but for tied scales. */
qnt_status qnti_error_feedback(qnt_context *ctx, const struct qnti_feedback *f, struct qnti_numbers *q);

/* --- outliers.c (SpQR): a weight is kept whose error e, e = (w - value) / U_jj, has e^2 > threshold --- */
struct qnti_outlier_rule {
    double threshold;            /* of e^2 */
    bool leave_one_out;          /* grids are fitted without weights whose group errs less by that much without them */
};
/* The rule's functions; type, mask and value are the caller's. */
struct qnti_outliers qnti_outlier_functions(const struct qnti_outlier_rule *rule);
/* Mean over the columns of their sample variance over U_jj^2: what a relative threshold is relative to. */
double qnti_outlier_scale(const float *w, size_t rows, size_t cols, const float *factor, const uint32_t *order);
/*
 * The least threshold, a few halvings of its logarithm from `scale` on, by which feedback f keeps no more than that
 * share of q's weights: into the rule, which f's outliers point to. q is filled on the way.
 */
qnt_status qnti_outlier_threshold(qnt_context *ctx, const struct qnti_feedback *f, double scale, double share,
                                  struct qnti_outlier_rule *rule, struct qnti_numbers *q);

/* --- descent.c: coordinate descent on the codes and, where wanted, scales (and minima); never worse under H. --- */
qnt_status qnti_descend(qnt_context *ctx, const float *w, const float *h, size_t passes, bool scales,
                        struct qnti_numbers *q);
/* Whether scales of such a grid can move: plain numbers, of groups within a row. */
bool qnti_can_refit(const struct qnti_grid *grid);

/* --- kmeans.c: the levels of each row with the least weighted square error, exactly, and its codes --- */
struct qnti_kmeans {
    const float *w;              /* (rows, cols) */
    const float *weight;         /* >= 0, what the square error of a number counts; row r at r * stride; NULL: all 1 */
    size_t stride;               /* cols, or 0: all rows alike */
    const uint8_t *mask;         /* (rows, cols) 1: takes no part, its code is that of the level next to 0; or NULL */
};
/* Numbers that are 0 or have no weight do not pull levels, unless a row has no others. q: a qnti_free_levels_grid. */
qnt_status qnti_kmeans(qnt_context *ctx, const struct qnti_kmeans *job, struct qnti_numbers *q);

/* --- step_size.c: the step and the zero of a static grid for a layer's inputs --- */
struct qnti_step {
    float scale, zero;           /* zero in 0 .. top; a real number while it is learnt */
};
struct qnti_step_inputs {
    const float *x;              /* [tokens][cols] */
    size_t tokens, cols;
    size_t batch;                /* consecutive tokens that count as one; 0: all */
    const float *weight;         /* (rows, cols), not quantized */
    size_t rows;
    float top;                   /* the largest code */
};
/* Sum over the batches of the mean square change of the outputs x W^T. */
qnt_status qnti_step_loss(qnt_context *ctx, const struct qnti_step_inputs *inputs, struct qnti_step step, double *loss);
struct qnti_step_rule {
    size_t epochs;
    double learning_rate;
    bool fixed_zero;             /* of symmetric levels */
};
/* Moves it by the gradient, a step a batch; the zero is whole again then. */
qnt_status qnti_step_learn(qnt_context *ctx, const struct qnti_step_inputs *inputs, const struct qnti_step_rule *rule,
                           struct qnti_step *step);
/* --- clusters.c: k-means of points in a few dimensions --- */
struct qnti_clusters {
    const float *x;              /* [n][dims], n > 0 */
    size_t n, dims;
    size_t most;                 /* clusters, > 0; fewer where there are fewer distinct points */
    size_t restarts;             /* > 0, the best counts */
    uint64_t seed;
};
/* label [n] is 0 .. *count - 1, in no order. */
qnt_status qnti_cluster(qnt_context *ctx, const struct qnti_clusters *job, uint32_t *label, size_t *count);

/* --- rank.c: the rank-th smallest, from 0, of n numbers, or of their magnitudes --- */
qnt_status qnti_rank(qnt_context *ctx, const float *x, size_t n, bool magnitudes, size_t rank, float *value);

#endif
