/*
 * export.h - checkpoint formats: which type each tensor gets, and how the files are written.
 *
 * One row of qnti_formats a format, one file of export/ a container. A format
 * sees the source, the list of tensors with their targets, and a way to get a
 * finished layer; it knows neither the sweep nor the plan.
 */
#ifndef QNTI_EXPORT_H
#define QNTI_EXPORT_H

#include "checkpoint/checkpoint.h"
#include "pack/layout.h"

struct qnti_safetensors;

/* One tensor of the output. */
struct qnti_target {
    const struct qnti_weight *source;
    enum qnti_role role;
    bool bias;
    size_t block;                    /* for block roles */
    const char *layout;              /* "gguf:q4_0", "native" ...; "plain": as the folder stores floats; static */
    bool quantized;                  /* by the recipe: comes from `layer` below; else converted from the source */
    const char *note;                /* why it is not what was asked for, or NULL; static */
    uint64_t bytes;                  /* it will take about: packed, or as floats */
};

struct qnti_export {
    qnt_context *ctx;
    const struct qnti_checkpoint *source;
    const struct qnti_format *format;
    const char *output_type, *embedding_type;   /* what the user asks for, or NULL */
    const char *kv;                  /* how keys and values are to be kept (checkpoint/kv.c), or NULL */
    bool calibrated;                 /* counts as "with imatrix" in llama.cpp's rules */
    struct qnti_target *targets;
    size_t count;
    /* A finished layer; the caller destroys it. */
    qnt_status (*layer)(void *user, size_t target, qnt_qlinear **q);
    /* The file of a block's finished layers in native form; open until the next call. */
    qnt_status (*block)(void *user, size_t block, const struct qnti_safetensors **file);
    /*
     * A tensor that is not a finished layer as it is to be stored: the source's own, or what the folding of a transform
     * made of it (same name, rows and columns); valid until the next call. NULL: always the source's.
     */
    qnt_status (*weight)(void *user, size_t target, struct qnti_weight *weight);
    /* Tells how far the writing is; may be NULL. */
    void (*progress)(void *user, size_t done, size_t total);
    void *user;
    const char *recipe;              /* for metadata */
    const char *calibration;         /* name of the text, or NULL */
    const char *plan_hash;           /* put down in the output where it is given: `quant.plan`, `quant_plan` */
    uint64_t shard_bytes;            /* most bytes of tensors in a file of a folder; 0: 5 GB */
};

/* The tensor of a target that is not quantized, by the door above. */
qnt_status qnti_export_weight(const struct qnti_export *e, size_t target, struct qnti_weight *weight);
/* Numbers that f16 cannot hold become its largest, with their sign; how many. */
size_t qnti_clamp_f16(float *x, size_t n);
/* The same, then stored as f16. */
size_t qnti_store_f16(qnt_context *ctx, float *x, size_t n, uint16_t *half);
/* Silent for 0. */
void qnti_warn_clamped(qnt_context *ctx, const char *tensor, size_t clamped);

struct qnti_folder_rules;

struct qnti_format {
    const char *name, *title;        /* "gguf:q4_0" */
    bool folder;
    const struct qnti_folder_rules *rules;   /* of a folder (folder.h) */
    const char *layout;              /* of the blocks' linears */
    uint32_t file_type;              /* GGUF */
    /* Sets layout, quantized and note of every target (those of roles Q .. DOWN weights are candidates). */
    qnt_status (*assign)(struct qnti_export *e);
    /* Bytes of the output. */
    qnt_status (*bytes)(const struct qnti_export *e, uint64_t *bytes);
    /* Writes `path` (a temporary name is the function's affair), reads it back and compares. */
    qnt_status (*write)(const struct qnti_export *e, const char *path);
};
extern const struct qnti_format qnti_formats[];
extern const size_t qnti_format_count;
/* NULL with a message that lists the known ones. Case is ignored. */
const struct qnti_format *qnti_format_find(qnt_context *ctx, const char *name);

/* folder.c */
qnt_status qnti_folder_assign(struct qnti_export *e);
qnt_status qnti_folder_bytes(const struct qnti_export *e, uint64_t *bytes);
qnt_status qnti_folder_write(const struct qnti_export *e, const char *path);

#endif
