/*
 * method.h - what a method is, and the adapters that methods call.
 *
 * A method is one constant structure in methods/. Its functions get a job:
 * the context, the method's parameters, the site's statistics, the target. The
 * adapters below hand plain views of these to solve/, grid/ and transform/.
 */
#ifndef QNTI_METHOD_H
#define QNTI_METHOD_H

#include "calib/calib.h"
#include "linalg/factor.h"
#include "method/param.h"
#include "pack/layout.h"
#include "qlinear/qlinear.h"
#include <quant/quantize.h>

struct qnti_job;
struct qnti_unit;
struct qnti_buffer;

/*
 * What a method does in a stage: to each layer for itself, to all layers of its unit at once, but for what some of them
 * brought along, or, a transform, to what the layers of a site share; at most one of them.
 */
struct qnti_stage_functions {
    qnt_status (*layer)(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q);
    qnt_status (*unit)(struct qnti_job *job, const qnt_layer *layers, size_t count, qnt_qlinear **q);
    /* Chooses the transform of the site's input; its parts are allocated, *t is empty before. */
    qnt_status (*transform)(struct qnti_job *job, const qnt_layer *layers, size_t count, struct qnti_transform *t);
};

enum qnti_scope { QNTI_SCOPE_LAYER, QNTI_SCOPE_SITE, QNTI_SCOPE_BLOCK, QNTI_SCOPE_MODEL };

/* Stage kinds, in the order in which they run: all layers of a site through one before the next. */
enum qnti_stage { QNTI_STAGE_TRANSFORM, QNTI_STAGE_ACTIVATIONS, QNTI_STAGE_WEIGHTS, QNTI_STAGE_CORRECT, QNTI_STAGES };

struct qnti_shape {
    size_t out, in;
};

struct qnti_method {
    const char *name, *title, *reference;
    enum qnti_scope scope;
    struct qnti_param_table table;
    /* Bits of enum qnti_need that the method always asks for; those that these parameters add, may be NULL. */
    unsigned needs;
    unsigned (*needs_by)(const void *params);
    /* Parameters that exclude each other; may be NULL. */
    qnt_status (*check)(qnt_context *ctx, const void *params);
    struct qnti_stage_functions stages[QNTI_STAGES];
    /* Of what it needs, that which the transform stage alone looks at, and that which the transform stage does not. */
    unsigned transform_alone, transform_spares;
    /* A stage that these parameters switch off is not offered; NULL: all of them are always on. */
    bool (*offers)(const void *params, enum qnti_stage stage);
    /* Damping of the error feedback by which the weights stage rounds; NULL, or of NULL: it rounds otherwise. */
    const struct qnti_damping *(*feedback)(const void *params);
    /*
     * Chooses the rotation of a model's residual stream [width], once for all blocks; its parts are allocated, *t is
     * empty before. NULL: the stream stays as it is.
     */
    qnt_status (*residual)(qnt_context *ctx, const void *params, size_t width, struct qnti_transform *t);
    /*
     * Bits of a layer of that shape as it will be stored, or, of a method that fills no weights, those it adds; NULL:
     * those of numbers on `grid`, or none.
     */
    qnt_status (*bits)(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits);
    /* What the weights and correct stages may leave beside an affine grid, bits of enum qnti_beside; NULL: nothing. */
    unsigned (*leaves)(const void *params);
    /*
     * Changes the parameters params[i] of layers of those shapes, which are a block's together, where what one gets
     * depends on the others; NULL: never.
     */
    qnt_status (*plan)(qnt_context *ctx, const struct qnti_shape *shapes, void *const *params, size_t count);
    /* Caches of a model whose heads have so many channels; NULL: the method has nothing to do with them. */
    qnt_status (*kv)(qnt_context *ctx, const void *params, size_t head_dim, struct qnti_kv *kv);
    /*
     * How a model that the method quantizes keeps its keys and values where nobody says otherwise: adds it to `text`,
     * as the option kv has it; NULL, or nothing added: as they are.
     */
    qnt_status (*kv_text)(qnt_context *ctx, const void *params, struct qnti_buffer *text);
    /* The grid on which the weights stage chooses codes, a format's too; NULL: the method has one of its own. */
    qnt_status (*grid)(struct qnti_job *job, const void *params, struct qnti_grid *grid);
};

/* The registry, in listing order, NULL behind the last. */
extern const struct qnti_method *const qnti_methods[];
const struct qnti_method *qnti_method_named(const char *name);
bool qnti_method_offers(const struct qnti_method *method, enum qnti_stage stage);

/* Parameters of every method that fills affine grids; first member of its structure of parameters. */
struct qnti_affine_params {
    int bits, group_size;
    bool per_tensor, sym;
    int sym_grid;
    bool include_zero, mse;
    double mse_norm;
    int mse_grid;
    double mse_max_shrink;
};
#define QNTI_AFFINE_ROWS(type, member)                                                                                 \
    {"bits", QNTI_PARAM_INT, offsetof(type, member.bits), 4, 1, 16, NULL, "bits of a code"},                           \
        {"group_size", QNTI_PARAM_INT, offsetof(type, member.group_size), 128, 0, 1 << 24, NULL,                       \
         "columns that share a scale; 0: the whole row"},                                                              \
        {"per_tensor", QNTI_PARAM_BOOL, offsetof(type, member.per_tensor), 0, 0, 1, NULL,                              \
         "one scale for the tensor; overrides group_size"},                                                            \
        {"sym", QNTI_PARAM_BOOL, offsetof(type, member.sym), 0, 0, 1, NULL, "levels symmetric about 0"},               \
        {"sym_grid", QNTI_PARAM_ENUM, offsetof(type, member.sym_grid), 0, 0, 1, "full|absmax",                         \
         "symmetric grid: all levels, or the largest magnitude on a level"},                                           \
        {"include_zero", QNTI_PARAM_BOOL, offsetof(type, member.include_zero), 1, 0, 1, NULL,                          \
         "asymmetric grid: 0 is a level; false: min-max"},                                                             \
        QNTI_MSE_ROWS(type, member)
/* The range search among them. */
#define QNTI_MSE_ROWS(type, member)                                                                                    \
    {"mse", QNTI_PARAM_BOOL, offsetof(type, member.mse), 0, 0, 1, NULL, "search the range with the least error"},      \
        {"mse_norm", QNTI_PARAM_FLOAT, offsetof(type, member.mse_norm), 2.4, 1e-3, 64, NULL,                           \
         "exponent of the error in the search"},                                                                       \
        {"mse_grid", QNTI_PARAM_INT, offsetof(type, member.mse_grid), 100, 1, 1 << 20, NULL,                           \
         "steps in the full range"},                                                                                   \
    {                                                                                                                  \
        "mse_max_shrink", QNTI_PARAM_FLOAT, offsetof(type, member.mse_max_shrink), 0.8, 0, 1, NULL,                    \
            "how far the range shrinks at most"                                                                        \
    }

enum { QNTI_INPUTS_BY_TOKEN, QNTI_INPUTS_BY_TENSOR };
/* --- of methods that quantize inputs at run time --- */

struct qnti_input_params {
    int bits, format, granularity, group_size;
    bool fixed, sym;
    double clip;
};
#define QNTI_INPUT_ROWS(type, member)                                                                                  \
    {"act_bits", QNTI_PARAM_INT, offsetof(type, member.bits), 16, 0, 16, NULL,                                         \
     "bits of activations; 0 and 16: not quantized"},                                                                  \
        {"act_format", QNTI_PARAM_ENUM, offsetof(type, member.format), 0, 0, 2, "int|fp8|fp4",                         \
         "integers of act_bits, or small floats: E4M3, E2M1"},                                                         \
        {"act_granularity", QNTI_PARAM_ENUM, offsetof(type, member.granularity), 0, 0, 1, "token|tensor",              \
         "activations that share a scale"},                                                                            \
        {"act_group_size", QNTI_PARAM_INT, offsetof(type, member.group_size), 0, 0, 1 << 24, NULL,                     \
         "channels of a token that share a scale; 0: all"},                                                            \
        {"act_static", QNTI_PARAM_BOOL, offsetof(type, member.fixed), 0, 0, 1, NULL,                                   \
         "scale of the activations fixed by calibration (tensor)"},                                                    \
        {"act_sym", QNTI_PARAM_BOOL, offsetof(type, member.sym), 1, 0, 1, NULL,                                        \
         "levels of activations symmetric about 0"},                                                                   \
    {                                                                                                                  \
        "act_clip", QNTI_PARAM_FLOAT, offsetof(type, member.clip), 1, 1e-3, 1, NULL,                                   \
            "share of the activations' range that is kept"                                                             \
    }

/* Parameters of every method that inverts or descends on a Hessian: a struct qnti_damping. */
#define QNTI_DAMPING_ROWS(type, member) QNTI_DAMPED_ROWS(type, member, 0.01)
#define QNTI_DAMPED_ROWS(type, member, usual)                                                                          \
    {"damp", QNTI_PARAM_FLOAT, offsetof(type, member.share), usual, 0, 100, NULL,                                      \
     "share of the Hessian's mean diagonal that is added to it"},                                                      \
    {                                                                                                                  \
        "shrinkage", QNTI_PARAM_FLOAT, offsetof(type, member.shrinkage), 0, 0, 0.99, NULL,                             \
            "share by which the Hessian's correlations between channels are shrunk"                                    \
    }

/* What one call of qnt_quantize_site works with. */
struct qnti_job {
    qnt_context *ctx;
    const struct qnti_kernels *kernels;
    const void *params;                  /* of the method whose stage runs */
    const struct qnti_layout *layout;    /* target; NULL: none */
    const struct qnt_calib *calib;
    const struct qnti_recipe_step *weights; /* who fills the weights */
    const struct qnti_unit *unit;        /* whose layers these are: a search may take its loss behind it; or NULL */
    const float *samples;                /* [sample_count][in] inputs of the unit, in sequences of `sequence` */
    size_t sample_count, sequence;
    const qnt_producer *producer;       /* what the transform is, or was, folded into; NULL: it stays at run time */
    const struct qnti_transform *transform; /* of the site, once it is chosen; NULL: none */
    const struct qnti_transform *kept;   /* the last part of it, which stays at run time; NULL: none does */
    const struct qnti_transform *folded; /* what weights and inputs as they are given stand behind; NULL: nothing */
    float *weight;                       /* (rows, in) f32 of the layer in hand, in the quantized coordinates */
    size_t rows, layer;                  /* of the weight; which of the site's layers it is */
    float most_weight;                   /* largest |W| of the site's layers, where a format has one divisor for all */
    float **aimed;                       /* [layers] the weight that makes up for earlier losses, once there is one */
    float *importance;                   /* [in] mean of x^2, or NULL */
    float *row_power;                    /* [out] mean square of each weight row; NULL where no grid asks for it */
    float *hessian;                      /* (in, in) of transformed inputs, dead columns 1 on the diagonal; or NULL */
    uint8_t *dead;                       /* [in], with the Hessian */
    size_t dead_count;
    uint32_t *order;                     /* [in] position -> column, or NULL: natural */
    float *factor;                       /* (in, in) U of the ordered Hessian; NULL until asked for */
    struct qnti_damping factor_damping;  /* what was asked for, */
    struct qnti_damping damping;         /* and what was taken */
    int factor_order;                    /* enum qnti_order of the factor */
    size_t factor_group;
    struct qnti_grid second[2];          /* scale and offset grids of the grid that a method's `grid` made last */
};

/*
 * Orders of columns for solvers (gptq.md, step 5): natural; by falling diagonal of the Hessian; the same with dead
 * columns last; for groups and inside them; a chain of columns of the layer's weight whose ranks over the rows are
 * alike (spqr.md); a method's own.
 */
enum qnti_order {
    QNTI_ORDER_NATURAL, QNTI_ORDER_ACT, QNTI_ORDER_LIVE, QNTI_ORDER_GROUP_AWARE, QNTI_ORDER_SPEARMAN, QNTI_ORDER_OWN
};

/* --- adapters (job.c; Hessians: hessian.c; orders and factor: order.c; samples: samples.c) --- */

/* Combinations of the affine parameters that make no grid. */
qnt_status qnti_affine_check(qnt_context *ctx, const char *method, const struct qnti_affine_params *p);

/*
 * The grid of the weights stage: the format's, or affine by the parameters in the format's scale type. `params` is a
 * struct qnti_affine_params, or begins with one.
 */
qnt_status qnti_job_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid);
/*
 * The same of methods that choose less: 0 is a level, symmetric levels have signed codes and the largest magnitude on
 * one of them, or (not `absmax`) half a step beyond.
 */
qnt_status qnti_job_signed_grid(struct qnti_job *job, const void *params, bool absmax, struct qnti_grid *grid);
/*
 * Scales of the grid become FP8 codes with one divisor, of the largest magnitude of all, which gets the largest code
 * (nvfp4: compressed-tensors). `second` holds the grid of the scales.
 */
void qnti_global_scale(const struct qnti_kernels *kernels, float most, struct qnti_grid *second,
                       struct qnti_grid *grid);
/* The grid of whichever method fills the weights. */
qnt_status qnti_job_weights_grid(struct qnti_job *job, struct qnti_grid *grid);
/* Importance counts only on grids whose own search uses it: NULL on others. */
const float *qnti_job_grid_importance(const struct qnti_job *job);
/* Fills the layer's open segment by rounding to nearest. */
qnt_status qnti_round_to_nearest(struct qnti_job *job, const struct qnti_grid *grid, qnt_qlinear *q);
/* A weights stage: on the grid of the method itself. */
qnt_status qnti_nearest_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q);
/* The same where a method cannot go on, with a warning that says why. */
qnt_status qnti_fall_back(struct qnti_job *job, const struct qnti_grid *grid, qnt_qlinear *q, const char *why);
/* Hessian (2 / tokens) sum x x^T with dead columns set to 1; QNT_NOT_FOUND: no tokens, or every column is dead. */
qnt_status qnti_job_hessian(struct qnti_job *job);
/* From here on it is read, or made, anew. */
void qnti_job_forget_hessian(struct qnti_job *job);
/*
 * The same of inputs as the layer, whose activations stage has run, quantizes them behind the site's transform: the
 * calibration's tokens come once more. One that does not quantize them has the usual one. For all layers of the site.
 */
qnt_status qnti_job_quantized_hessian(struct qnti_job *job, const qnt_qlinear *q);
/* What the calibration must gather for it: whether the inputs will be quantized. */
unsigned qnti_quantized_hessian_needs(bool quantizes);
/*
 * From here on the site's inputs are those of the transform: importance and Hessian follow by algebra (a shift by the
 * channels' means). A rotation leaves the importance to the Hessian's diagonal.
 */
qnt_status qnti_job_transform(struct qnti_job *job, const struct qnti_transform *transform);
/* Order of columns and factor of the damped inverse Hessian in that order, kept for the other layers of the site. */
qnt_status qnti_job_factor(struct qnti_job *job, enum qnti_order order, size_t group_size,
                           struct qnti_damping damping);
/* The same for this layer alone in an order of the method's, [in] position -> column; it is copied. */
qnt_status qnti_job_factor_in(struct qnti_job *job, const uint32_t *order, struct qnti_damping damping);
/*
 * The same where dead columns count for nothing: as 0 in the mean diagonal that damping is a share of, and U_jj is
 * infinite, so that their errors cost nothing.
 */
qnt_status qnti_job_factor_live(struct qnti_job *job, enum qnti_order order, struct qnti_damping damping);
/* A descending, stable sort of columns by their keys [n]: position -> column. */
qnt_status qnti_job_sort(struct qnti_job *job, const float *keys, size_t n, uint32_t *order);
/*
 * The first k of the sorted columns [n] behind the others: columns place -> column, both parts ascending; place its
 * inverse; order position -> place, the others as they are sorted.
 */
void qnti_part_columns(const uint32_t *sorted, size_t n, size_t k, uint32_t *columns, uint32_t *place,
                       uint32_t *order);
/* (in, in) of sum (x_fp - x) x^T * 2 / tokens in natural order; to be freed. */
qnt_status qnti_job_cross(struct qnti_job *job, float **cross);
/* Sets the weight's dead columns to 0. */
void qnti_clear_dead(const struct qnti_job *job, const qnt_layer *layer);
/*
 * Where the layer has the site's columns, [in], to be freed: a weights stage may have moved them on its own, beyond the
 * transform that the site has in common. NULL: they are where they were.
 */
qnt_status qnti_layer_places(const struct qnti_job *job, const qnt_qlinear *q, uint32_t **places);
/* QNT_INVALID: the layer's Fisher information (which it has) is negative or not finite somewhere. */
qnt_status qnti_job_check_fisher(struct qnti_job *job, const qnt_layer *layer);

/*
 * Some of the site's inputs behind the job's transform, [tokens][in], to be freed; in a transform stage of a model
 * whole sequences. QNT_NOT_FOUND: there are none.
 */
qnt_status qnti_job_samples(struct qnti_job *job, float **x, size_t *tokens);
/* All of them in their order, a few at a time, where the calibration can give them once more (QNTI_NEED_REPLAY). */
enum { QNTI_REPLAY_TOKENS = 256 };   /* at most */
qnt_status qnti_job_replay(const struct qnti_job *job, qnti_token_fn take, void *user);
/*
 * What the norm that makes the site's input multiplies with (gamma), [in]; it is copied. QNT_NOT_FOUND: no norm makes
 * it, or it is not known.
 */
qnt_status qnti_job_gamma(struct qnti_job *job, const qnt_layer *layer, float *gamma);

/* --- inputs.c: how the inputs of a layer are quantized at run time --- */

/* A symmetric integer grid where nothing else is said. */
struct qnti_input_rule {
    unsigned bits;
    const struct qnti_codebook *book;   /* small floats in place of integers; NULL: integers */
    bool per_token;              /* a scale for each token, else for the tensor */
    bool fixed;                  /* the tensor's by calibration */
    bool asymmetric;             /* with a zero; 0 is a level but in groups, */
    bool zero_in_groups;         /* and there too */
    bool inside;                 /* that zero is one of the codes in groups, too: of ranges without 0 some is lost */
    bool full;                   /* symmetric: the range ends half a step beyond the levels, else on the last one */
    bool half_open;              /* integers: 2^bits steps in the range, which need not hold 0 (ZeroQuant) */
    bool per_channel;            /* fixed, a scale for each channel, which the weights take */
    size_t group;                /* channels of a token that share a scale; 0: all */
    float clip;                  /* the range is multiplied by it; 0: 1 */
    const float *range;          /* [2] fixed: the range; NULL: that of all inputs */
    qnt_dtype cast;              /* QNT_F32: nothing; else inputs are f16 rounded to this type, without a scale */
};
qnt_status qnti_job_quantize_inputs(struct qnti_job *job, const struct qnti_input_rule *rule, qnt_qlinear *q);
/* The same for the columns of one of the layer's segments. */
qnt_status qnti_job_quantize_segment(struct qnti_job *job, const struct qnti_input_rule *rule, qnt_qlinear *q,
                                     size_t segment);
/* QNT_INVALID, QNT_UNSUPPORTED: the ranges of the layer's inputs are not known; `what` is what they are wanted for. */
qnt_status qnti_job_knows_ranges(const struct qnti_job *job, const qnt_qlinear *q, const char *what);
/* The range over all tokens at one place of the inputs behind the job's transform, but for a rotation. */
void qnti_job_range(const struct qnti_job *job, size_t place, float *least, float *greatest);
/* Such a quantizer by itself, of inputs of so many channels, for searches; a fixed one has a range. */
qnt_status qnti_job_input_quantizer(struct qnti_job *job, const struct qnti_input_rule *rule, size_t in,
                                    struct qnti_actquant **act);
/*
 * The transform that per_channel needs: each channel's largest magnitude, tied where a producer ties them, becomes the
 * end of the levels. *t stays empty without tokens. QNT_UNSUPPORTED: the producer cannot absorb a scale.
 */
qnt_status qnti_job_channel_scales(struct qnti_job *job, const struct qnti_input_rule *rule, struct qnti_transform *t);
/* The same by parameters, for methods that quantize inputs in any of these ways (QNTI_INPUT_ROWS). */
qnt_status qnti_job_inputs(struct qnti_job *job, const struct qnti_input_params *p, qnt_qlinear *q);
bool qnti_inputs_offered(const struct qnti_input_params *p);
unsigned qnti_inputs_needs(const struct qnti_input_params *p);
/* Combinations of them that mean nothing. */
qnt_status qnti_inputs_check(qnt_context *ctx, const char *method, const struct qnti_input_params *p);
/* Of methods whose only bits they are: 2 to 8, or 0 and 16, not quantized. */
bool qnti_act_bits_offered(int bits);
qnt_status qnti_act_bits_check(qnt_context *ctx, const char *method, int bits);
/* As the format has it where the recipe does not quantize them; not at all where it does not say. */
qnt_status qnti_job_prescribed_inputs(struct qnti_job *job, qnt_qlinear *q);

/* --- magnitudes.c: how large channels are --- */

/* QNT_UNSUPPORTED: the producer cannot absorb a scale. */
qnt_status qnti_job_takes_scale(const struct qnti_job *job);
/* Whether producer and consumers have what a shift goes into. */
bool qnti_job_takes_shift(const struct qnti_job *job);
/* Gives channels that one channel of the producer feeds (v to o under grouped-query attention) one value. */
enum qnti_tie { QNTI_TIE_MEAN, QNTI_TIE_MOST };
qnt_status qnti_job_tie(struct qnti_job *job, enum qnti_tie how, float *x);
/* Of the site's inputs: largest and mean magnitude of each channel, [in]; either may be NULL. Not tied yet. */
qnt_status qnti_job_magnitudes(struct qnti_job *job, float *most, float *mean);
/*
 * The site's channels by rising mean square, or mean magnitude, of equals the first before the others: [in], to be
 * freed; NULL as before where no token was measured.
 */
qnt_status qnti_job_quietest_first(struct qnti_job *job, bool squares, uint32_t **order);
/* The largest |W_rc| over the rows of all layers, [in]. */
qnt_status qnti_job_weight_magnitudes(struct qnti_job *job, const qnt_layer *layers, size_t count, float *most);
/* The mean of |W_rc| over the largest |W| of the group of columns, over the rows of all layers, [in]. */
qnt_status qnti_job_weight_shares(struct qnti_job *job, const qnt_layer *layers, size_t count, size_t group,
                                  float *mean);

/* --- search.c: what a scale of the site's input costs on the grid of the weights stage --- */
struct qnti_search;
/*
 * Loss behind the job's unit; or, `linear` or without one, the layers' own output errors by the Hessian, on evenly
 * spaced rows: of nearest rounding, or what is left of them where the weights stage rounds with error feedback.
 */
qnt_status qnti_search_create(struct qnti_job *job, const qnt_layer *layers, size_t count, bool linear,
                              struct qnti_search **search);
void qnti_search_free(struct qnti_search *search);
/* Loss with the weights' columns times scale [in] rounded and divided by it again. */
qnt_status qnti_search_loss(struct qnti_search *search, const float *scale, double *loss);
/*
 * The same where inputs are quantized too, on at most about `most` of the samples, less shift [in] (NULL: 0): behind
 * the job's unit, else of the layers' own outputs on evenly spaced rows. QNT_NOT_FOUND: there are no samples.
 */
qnt_status qnti_search_create_quantized(struct qnti_job *job, const qnt_layer *layers, size_t count, size_t most,
                                        const float *shift, struct qnti_search **search);
/* Its inputs, [tokens][in], the shift behind them. */
const float *qnti_search_inputs(const struct qnti_search *search, size_t *tokens);
bool qnti_search_behind_unit(const struct qnti_search *search);
/* Loss of x [tokens][in], those inputs over scale and quantized, on the weights' columns times scale, rounded. */
qnt_status qnti_search_quantized_loss(struct qnti_search *search, const float *scale, const float *x, double *loss);

#endif
