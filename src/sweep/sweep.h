/*
 * sweep.h - the plan and the pass over the blocks.
 *
 * A plan says what every tensor becomes. The sweep takes one decoder block at
 * a time: measures a site's inputs, quantizes the linears behind them, goes on
 * with quantized weights (true-sequential: every linear runs once). Finished
 * blocks lie in the work folder in native form until the format's writer reads
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
    bool done;
};

struct qnt_plan {
    qnt_context *ctx;
    qnt_model *model;
    qnt_quantize_options options;       /* its strings are in `strings` */
    void **strings;
    size_t string_count, string_capacity;
    struct qnti_export job;             /* what becomes of every tensor */
    qnt_recipe *recipe;                 /* NULL: "none" */
    qnt_recipe **recipes;               /* [job.count], adapted to layout and overrides; NULL: only converted */
    struct qnti_windows windows;
    qnt_plan_totals totals;
    char *work, *stages;
    struct qnti_outcome *outcomes;      /* [job.count] */
    struct qnti_safetensors *open_block;/* of the work folder, while a format is written */
    size_t open_index;
    qnt_eval_result verified;           /* windows 0: not verified */
    char *report;
    double began, seconds;
    const char *phase;
    double phase_begin, phase_end;      /* shares of the whole */
};

/* --- windows.c --- */
qnt_status qnti_windows_create(qnt_model *model, const qnt_quantize_options *options, struct qnti_windows *windows);

/* --- pattern.c --- */
/* Globs over the whole name ('*', '?', '[...]'), or "re:" and a PCRE2 expression that must match somewhere. */
qnt_status qnti_pattern_match(qnt_context *ctx, const char *pattern, const char *name, bool *match);

/* --- targets.c --- */
enum { QNTI_LAYER_NAME_BYTES = 256 };
/* The layer's name: the tensor's without ".weight". */
void qnti_layer_name(const struct qnti_target *target, char name[QNTI_LAYER_NAME_BYTES]);
qnt_status qnti_targets_list(struct qnti_export *job);
/* Applies include, exclude and layer overrides; makes each quantized target's recipe. */
qnt_status qnti_targets_recipes(struct qnt_plan *plan);

/* --- estimate.c: fills the plan's totals --- */
/* Size of a target's packed form, or of its floats. */
uint64_t qnti_target_bytes(const struct qnt_plan *plan, const struct qnti_target *t);
qnt_status qnti_plan_estimate(struct qnt_plan *plan);

/* --- store.c: finished blocks in the work folder --- */
qnt_status qnti_store_open(struct qnt_plan *plan);
/* layers[i] belongs to target index[i]; NULL entries are skipped. */
qnt_status qnti_store_block(struct qnt_plan *plan, size_t block, qnt_qlinear *const *layers, size_t count);
qnt_status qnti_store_read(struct qnt_plan *plan, size_t block, const struct qnti_safetensors **file);
void qnti_store_close(struct qnt_plan *plan);
/* Removes the folder and what the library put into it. */
void qnti_store_remove(struct qnt_plan *plan);

/* --- sweep.c --- */
qnt_status qnti_sweep_run(struct qnt_plan *plan);

/* --- plan.c --- */
void qnti_plan_progress(struct qnt_plan *plan, const char *item, double share_of_phase);

#endif
