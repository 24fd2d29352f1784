/*
 * sweep.h - the plan and the pass over the blocks.
 *
 * A plan says what every tensor becomes. The sweep takes one decoder block at
 * a time: measures a site's inputs, quantizes the linears behind them, goes on
 * with quantized weights (true-sequential: every linear runs once). Finished
 * blocks lie in the work folder in native form until the format's writer reads
 * them. A run that ends early leaves them there, and the same plan goes on behind
 * them.
 */
#ifndef QNTI_SWEEP_H
#define QNTI_SWEEP_H

#include "checkpoint/model.h"
#include "export/export.h"
#include "file/safetensors.h"
#include "method/recipe.h"
#include "nn/nn.h"

/* Windows of calibration tokens. */
struct qnti_windows {
    size_t count, tokens;
    int32_t *ids;                       /* [count][tokens] */
    size_t stream;                      /* tokens of the whole text, BOS included */
};

/* What a target's layer left behind for the report. */
struct qnti_outcome {
    qnt_layer_report report;
    char *warnings;
    char activations[QNTI_ACTQUANT_TEXT];
    bool done;
};

/* The folder that a run keeps its finished blocks in, held against a second run while `held`. */
struct qnti_work {
    char *path;
    bool held;
    bool kept;                          /* for another plan of the same blocks, also at the end */
    int lock;                           /* descriptor, while held */
    char *lock_path, *plan_path;
    bool *finished, *fisher;            /* [blocks]: their files are whole; those of their Fisher information */
    size_t count, resumed;              /* blocks that are finished; that were when the run began */
    size_t fisher_count;
};

struct json_t;
struct qnti_given;
enum { QNTI_HASH_BYTES = 17 };          /* 16 hexadecimal digits */

/* Floats in memory, or in a file whose pages leave memory once they are done with. */
struct qnti_spill {
    qnt_context *ctx;
    float *data;
    size_t bytes;                       /* of the mapping; 0: in memory */
};

struct qnt_plan {
    qnt_context *ctx;
    qnt_model *model;
    qnt_quantize_options options;       /* its strings are in `strings` */
    void **strings;
    size_t string_count, string_capacity;
    const struct qnti_checkpoint *rotated;   /* the model with a rotated residual stream; NULL: as it is */
    struct qnti_export job;             /* what becomes of every tensor; its source is one of the two */
    qnt_recipe *recipe;                 /* NULL: "none" */
    qnt_recipe **recipes;               /* [job.count], adapted to layout and overrides; NULL: only converted */
    struct qnti_windows windows;
    struct qnti_given *given;           /* statistics from files; NULL: none */
    struct qnti_scales *scales;         /* [job.count], or NULL: none are given */
    qnt_plan_totals totals;
    struct qnti_work work;
    char *stages;
    struct json_t *identity;            /* of the blocks: what plan.json holds */
    char hash[QNTI_HASH_BYTES];         /* of blocks and output: what the output carries */
    uint64_t store_bytes, fisher_bytes; /* of the work folder's blocks, estimated, and their Fisher information */
    bool paired;                        /* a recipe needs the unquantized model beside the quantized one */
    bool spills;                        /* activations lie in files */
    uint64_t file_bytes;                /* of activations that do */
    struct qnti_outcome *outcomes;      /* [job.count] */
    struct qnti_safetensors *open_block;/* of the work folder, while a format is written */
    size_t open_index;
    qnt_eval_result verified;           /* windows 0: not verified */
    char *report;
    double began, seconds;
    bool complete;                      /* the output has its name */
    bool already;                       /* it had before the run began */
    const char *phase;
    double phase_begin, phase_end;      /* shares of the whole */
};

/* --- windows.c --- */
qnt_status qnti_windows_create(qnt_model *model, const qnt_quantize_options *options, struct qnti_windows *windows);

/* --- given.c: statistics from files (statistics.h) --- */
/* Whether a calibration is a file of statistics and not a text: by its suffix. */
bool qnti_is_statistics(const char *path);
/* Opens what the options name, checks it against model and recipes; the targets are listed. */
qnt_status qnti_given_open(struct qnt_plan *plan);
void qnti_given_close(struct qnt_plan *plan);
/* Warns where the file was measured on another model; the model's weights are hashed. */
qnt_status qnti_given_compare(const struct qnt_plan *plan);
/* The calibration of a site: the file's, an empty one that takes an importance, or NULL: nothing is given. */
qnt_status qnti_given_calib(const struct qnt_plan *plan, size_t block, enum qnti_site site, qnt_calib **calib);
/* [in] of the target's linear, or NULL; puts it into its site's calibration. */
const float *qnti_given_importance(const struct qnt_plan *plan, size_t target);
qnt_status qnti_given_apply(const struct qnt_plan *plan, size_t target, qnt_calib *calib);

/* --- scales.c --- */
/* Scales of a target's linear that were learned elsewhere (qnt_layer). */
struct qnti_scales {
    float input, zero;
    float *weight;               /* [count] */
    size_t count;
};
/* Of the file that the options name and of the source. QNT_BAD_DATA, QNT_UNSUPPORTED: what cannot be used, by name. */
qnt_status qnti_scales_open(struct qnt_plan *plan);
void qnti_scales_close(struct qnt_plan *plan);
/* Of all of them; 0: there are none. */
uint64_t qnti_scales_hash(const struct qnt_plan *plan);

/* --- pattern.c --- */
/* Globs over the whole name ('*', '?', '[...]'), or "re:" and a PCRE2 expression that must match somewhere. */
qnt_status qnti_pattern_match(qnt_context *ctx, const char *pattern, const char *name, bool *match);

/* --- targets.c --- */
enum { QNTI_LAYER_NAME_BYTES = 256 };
/* The layer's name: the tensor's without ".weight". */
void qnti_layer_name(const struct qnti_target *target, char name[QNTI_LAYER_NAME_BYTES]);
qnt_status qnti_targets_list(struct qnti_export *job);
/* Index of the target of a block's weight, SIZE_MAX: none. */
size_t qnti_target_of(const struct qnt_plan *plan, size_t block, enum qnti_role role);
/* Applies include, exclude and layer overrides; makes each quantized target's recipe. */
qnt_status qnti_targets_recipes(struct qnt_plan *plan);

/* --- estimate.c: fills the plan's totals, and the targets' bytes --- */
qnt_status qnti_plan_estimate(struct qnt_plan *plan);

/* --- options.c: the plan's own copy of the options --- */
/* A copy that lives as long as the plan; of NULL: NULL. */
qnt_status qnti_plan_keep_text(struct qnt_plan *plan, const char *text, const char **kept);
qnt_status qnti_plan_keep_options(struct qnt_plan *plan, const qnt_quantize_options *options);
void qnti_plan_free_options(struct qnt_plan *plan);

/* --- identity.c: which plan this is --- */
/* Fills `identity` and `hash`; reads the model's weights if nobody did yet. */
qnt_status qnti_plan_identify(struct qnt_plan *plan);
/* QNT_EXISTS where `begun`, read from `path`, is another plan: names what differs, with both values. */
qnt_status qnti_plan_compare(const struct qnt_plan *plan, const char *path, struct json_t *begun);
/* Whether they quantize the blocks of one model in the same way. */
qnt_status qnti_plan_same_blocks(const struct qnt_plan *a, const struct qnt_plan *b, bool *same);
/* The plan hash of an output that is there; "" where it has none. */
qnt_status qnti_plan_hash_of(qnt_context *ctx, const char *output, char hash[QNTI_HASH_BYTES]);

/* --- work.c: the work folder --- */
/*
 * Makes the folder or finds it, locks it, and finds out which blocks are finished. QNT_EXISTS: another run has it, or
 * another plan's blocks lie in it and `force` is not set.
 */
qnt_status qnti_work_open(struct qnt_plan *plan);
/* QNT_IO where a disk has less room than the run still needs, with both numbers. */
qnt_status qnti_work_check_disk(const struct qnt_plan *plan);
/* Removes what the library put there, and the folder, unless `keep`; lets others in. */
void qnti_work_close(struct qnt_plan *plan, bool keep);
void qnti_work_free(struct qnt_plan *plan);

/* --- fisher.c: Fisher information, and its files in the work folder --- */
/* Roles of the block whose recipes need it: bits. */
unsigned qnti_fisher_roles(const struct qnt_plan *plan, size_t block);
/* Whether a layer needs it; the lowest block that has one. */
bool qnti_plan_needs_fisher(const struct qnt_plan *plan, size_t *first);
/* Whether a layer has a use for inputs, as they are behind quantized blocks: all but those that need Fisher alone. */
bool qnti_plan_measures(const struct qnt_plan *plan);
uint64_t qnti_fisher_bytes(const struct qnt_plan *plan, size_t block);
/* fisher[role] (out, in) of the roles that need it. */
qnt_status qnti_fisher_store(struct qnt_plan *plan, size_t block, float *const fisher[QNTI_ROLES]);
/* Whether the block's file is there and whole. */
qnt_status qnti_fisher_finished(struct qnt_plan *plan, size_t block, bool *finished);
qnt_status qnti_fisher_open(struct qnt_plan *plan, size_t block, struct qnti_safetensors **file);
/* Of a weight, (out, in); lives as long as the file. NULL: not there. */
const float *qnti_fisher_of(const struct qnti_safetensors *file, const struct qnti_weight *w);

/* --- reverse.c --- */
/* Makes what is not there yet of the Fisher information of blocks that are not finished. */
qnt_status qnti_reverse_run(struct qnt_plan *plan);

/* --- store.c: finished blocks in the work folder --- */
/* "block-N.SUFFIX" there, allocated. */
qnt_status qnti_block_path(struct qnt_plan *plan, size_t block, const char *suffix, char **path);
/*
 * Writes a block's file: layers[role] in native form (NULL: none), the outcomes of its targets, and of `floats` (NULL:
 * none) weights and biases that are no longer the source's, bit 2 * role + bias of `changed`.
 */
qnt_status qnti_store_block(struct qnt_plan *plan, size_t block, qnt_qlinear *const *layers,
                            const struct qnti_block *floats, uint64_t changed);
qnt_status qnti_store_read(struct qnt_plan *plan, size_t block, const struct qnti_safetensors **file);
void qnti_store_close(struct qnt_plan *plan);
/* Whether the block's file is whole; takes its outcomes then. */
qnt_status qnti_store_finished(struct qnt_plan *plan, size_t block, bool *finished);
/* A finished layer; the caller destroys it. */
qnt_status qnti_store_layer(struct qnt_plan *plan, size_t target, qnt_qlinear **q);
/* A tensor that is no layer, as the block's file or else the source has it; valid until another block is read. */
qnt_status qnti_store_weight(struct qnt_plan *plan, size_t target, struct qnti_weight *weight);
/*
 * Puts what a finished block consists of in place of what was loaded from the source; its layers, layers[role], belong
 * to the caller and must outlive the block.
 */
qnt_status qnti_store_apply(struct qnt_plan *plan, struct qnti_block *block, qnt_qlinear **layers);

/* --- outcome.c: a layer's figures, as JSON and back --- */
qnt_status qnti_outcome_take(struct qnt_plan *plan, size_t target, const qnt_qlinear *q);
struct json_t *qnti_outcome_json(const struct qnti_outcome *outcome);
qnt_status qnti_outcome_read(qnt_context *ctx, const char *where, const struct json_t *json,
                             struct qnti_outcome *outcome);

/* --- spill.c --- */
/* n floats: in memory, or in a nameless file of `folder` where it is not NULL. QNT_IO: the disk is full. */
qnt_status qnti_spill_create(qnt_context *ctx, const char *folder, size_t n, struct qnti_spill *spill);
/* Floats [first, first + n) are done with for now: their pages may leave memory, their values stay. */
void qnti_spill_done(const struct qnti_spill *spill, size_t first, size_t n);
void qnti_spill_free(struct qnti_spill *spill);

/* --- measure.c: all sites of a block in one pass with the weights it has --- */
/* Tokens that a calibration takes at a time, of several windows where these are short: each addition passes over H. */
enum { QNTI_ADDED_TOKENS = 2048 };

struct qnti_measure {
    const struct qnti_block *block;
    struct qnti_workspace *workspace;
    const struct qnti_spill *x;         /* [windows][tokens][hidden] before the block */
    size_t windows, tokens;
    size_t step;                        /* every step-th window is measured */
    bool advance;                       /* x becomes what it is behind the block; then step is 1 */
    struct qnt_calib *calib[QNTI_SITES];/* NULL: the site is not measured */
    bool given;                         /* they hold what was measured before; transforms bring it along */
    size_t samples;                     /* of the measured windows, evenly spaced, whose inputs are kept in: */
    float *sample[QNTI_SITES];          /* [samples][tokens][width], or NULL */
};
qnt_status qnti_measure_block(const struct qnti_measure *measure);

/* --- transforms.c --- */
/* Whether a layer of the block has a recipe that transforms its input. */
bool qnti_plan_transforms(const struct qnt_plan *plan, size_t block);
/*
 * Measures the block with its unquantized weights, chooses the transforms of its sites and folds them. `changed` gets
 * bit 2 * role + bias for weights and biases that are no longer the source's, `sites` [QNTI_SITES] what was done; it is
 * the caller's. calib and sample of `measure` are empty before and after, unless the calibrations are given: then they
 * are those of the transformed inputs afterwards.
 */
struct qnti_site_transforms {
    struct qnti_transform folded, kept;   /* into what makes the input; at run time */
};
qnt_status qnti_transforms_fold(struct qnt_plan *plan, struct qnti_measure *measure, struct qnti_block *block,
                                uint64_t *changed, struct qnti_site_transforms *sites);
/* The norm that makes a site's input; false: no norm does. */
bool qnti_site_norm(const struct qnti_config *config, const struct qnti_block *block, enum qnti_site site,
                    qnt_producer *norm);

/* --- sweep.c --- */
qnt_status qnti_sweep_run(struct qnt_plan *plan);

/* --- run.c --- */
enum { QNTI_VERIFY_WINDOWS = 4 };       /* of the calibration's tail, for the end check */
void qnti_plan_progress(struct qnt_plan *plan, const char *item, double share_of_phase);

#endif
