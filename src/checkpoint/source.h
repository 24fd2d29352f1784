/*
 * source.h - what the files of checkpoint/ share: the tensors of a source as they are stored.
 *
 * folder.c and gguf_source.c open their container, find out family and
 * configuration and list the tensors; weights.c gives them their roles, the
 * same way for both.
 */
#ifndef QNTI_CHECKPOINT_SOURCE_H
#define QNTI_CHECKPOINT_SOURCE_H

#include "checkpoint/checkpoint.h"
#include "container/gguf.h"
#include "file/safetensors.h"
#include "pack/layout.h"

enum {
    QNTI_MAX_BLOCKS = 4096,
    QNTI_MAX_WIDTH = 1 << 28        /* of each size in a configuration: products of two stay far below 2^63 */
};

/* A tensor of the source. Neither `plain` nor `ggml`: a type that we cannot compute with. */
struct qnti_stored {
    const char *name;               /* borrowed from the container */
    const char *type;               /* "BF16", "q4_0" */
    size_t rank, shape[QNTI_MAX_RANK];   /* in Hugging Face order: (out, in) */
    const void *data;
    size_t bytes;
    bool plain;
    qnt_dtype dtype;
    const struct qnti_ggml_type *ggml;
    bool used;                      /* has a role, or is known to have none */
};

struct qnti_source;
struct json_t;

/* Reads the layers of a folder that is quantized already: one row of the table in quantized.c. */
struct qnti_quantized_reader {
    const char *method;             /* quant_method of the configuration; "native" by its own mark */
    const char *kind;               /* "GPTQ folder" */
    const char *const *parts;       /* tensors of a layer, behind its name and a point; NULL behind the last */
    const char *const *marks;       /* those of which every quantized layer has one */
    /* Takes what the configuration says, refusing by name what cannot be read; may be NULL. */
    qnt_status (*configure)(qnt_context *ctx, const char *where, const struct json_t *config,
                            struct qnti_source *source);
    /* The layer of that name (without ".weight"); QNT_NOT_FOUND: it is not among the quantized. */
    qnt_status (*read)(qnt_context *ctx, const struct qnti_source *source, const char *name, qnt_qlinear **q);
};

struct qnti_source {
    struct qnti_stored *tensors;    /* sorted by name */
    size_t count;
    struct qnti_safetensors **shards;   /* a folder's */
    size_t shard_count;
    const struct qnti_quantized_reader *reader;   /* NULL: plain tensors only */
    const struct qnti_layout *layout;   /* of packed layers (gptq, awq); with what the configuration says of all: */
    size_t bits, group;             /* 0: nothing, or layers differ; columns of a group, SIZE_MAX: the row */
    float threshold;                /* of inputs that stay floats, where readers quantize them at run time */
    struct qnti_gguf *gguf;         /* NULL: a folder */
};

/* --- family.c --- */
/* By architecture or model type; QNT_UNSUPPORTED with the list of known ones. */
qnt_status qnti_family_find(qnt_context *ctx, const char *where, const char *architecture, const char *model_type,
                            const struct qnti_family **family);
qnt_status qnti_family_find_gguf(qnt_context *ctx, const char *where, const char *architecture, size_t bytes,
                                 const struct qnti_family **family);

/* A window that no block or every block has needs no list of blocks. */
void qnti_config_windows(qnt_context *ctx, struct qnti_config *config);

/* --- config.c --- */
/* Family and configuration of a config.json. */
qnt_status qnti_config_read(qnt_context *ctx, const char *where, const struct json_t *json,
                            const struct qnti_family **family, struct qnti_config *config);
/* Sizes that follow from others; checks them all. */
qnt_status qnti_config_finish(qnt_context *ctx, const char *where, struct qnti_config *config);

/* --- rope.c, rope_config.c --- */
/* The rope and local rope of a configuration whose sizes are known. */
qnt_status qnti_rope_read(qnt_context *ctx, const char *where, const struct json_t *json, struct qnti_config *config);
/* Checks the parameters of one of the two, computes the divisors that are not given and the attention factor. */
qnt_status qnti_rope_finish(qnt_context *ctx, const char *where, const struct qnti_config *config,
                            struct qnti_rope *rope);
/* LLAMA3 with these divisors ([head_dim / 2], copied), and its parameters where the usual ones give them. */
qnt_status qnti_rope_from_divisors(qnt_context *ctx, const char *where, const float *divisors, size_t head_dim,
                                   struct qnti_rope *rope);
/* Of LLAMA3, where a configuration does not say otherwise. */
void qnti_rope_usual(struct qnti_rope *rope);

/* --- folder.c, shards.c, gguf_source.c, gguf_vocabulary.c --- */
qnt_status qnti_folder_open(struct qnti_checkpoint *c);
/* Opens the safetensors files of a folder and lists their tensors. */
qnt_status qnti_shards_open(struct qnti_checkpoint *c);
/* Whether a name stands in the folder, even as a link that leads nowhere. */
qnt_status qnti_folder_has(const struct qnti_checkpoint *c, const char *name, bool *has);
qnt_status qnti_gguf_source_open(struct qnti_checkpoint *c);
qnt_status qnti_gguf_tokenizer(const struct qnti_checkpoint *c, qnti_tokenizer **tokenizer);

/* --- quantized.c --- */
/*
 * How the layers of a folder are quantized, by its files and its configuration: sets the source's reader and the kind.
 * QNT_UNSUPPORTED names a method or a packing that cannot be read.
 */
qnt_status qnti_quantized_find(struct qnti_checkpoint *c, const char *where, const struct json_t *json);

/* --- stored.c --- */
void qnti_stored_sort(struct qnti_source *source);
/* NULL: none. A name with a leading "model." or "transformer." is also found without it. */
struct qnti_stored *qnti_stored_find(const struct qnti_source *source, const char *name);
bool qnti_has_suffix(const char *name, const char *suffix);
/* The name behind its leading "model." or "transformer."; NULL: it has neither. */
const char *qnti_without_prefix(const char *name);
/* Names gathered for a warning: the first few, and how many. Freed by qnti_names_warn, silent if there are none. */
struct qnti_names {
    struct qnti_buffer text;
    size_t count;
};
qnt_status qnti_names_add(qnt_context *ctx, struct qnti_names *names, const char *name);
void qnti_names_warn(const struct qnti_checkpoint *c, const char *what, struct qnti_names *names);

/* --- weights.c --- */
/* Gives every role its tensor, with shape and type checked. */
qnt_status qnti_weights_attach(struct qnti_checkpoint *c);

/* --- rows.c --- */
/* Rows of a weight that one task works on. */
size_t qnti_rows_per_task(const struct qnti_weight *w);

#endif
