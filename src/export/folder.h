/*
 * folder.h - what formats share that write a folder of safetensors: native, gptq, awq, bnb, compressed-tensors.
 *
 * A format's rules say which tensors a finished layer becomes and what they
 * hold; shards, side files, config.json, all other tensors and the comparison
 * of what was written are the folder's affair.
 */
#ifndef QNTI_EXPORT_FOLDER_H
#define QNTI_EXPORT_FOLDER_H

#include <jansson.h>
#include "export/export.h"
#include "file/safetensors.h"

struct qnti_folder;

/* One tensor of the folder; its bytes are made when its turn comes. */
struct qnti_folder_entry {
    struct qnti_folder *folder;
    size_t target;
    size_t part;                         /* of the layer, the rules' own count; SIZE_MAX: the target's own tensor */
    char *name, *dtype;
    size_t rank, shape[QNTI_MAX_RANK], bytes;
    size_t shard;
    uint64_t hash;                       /* XXH3 of what was written */
};

struct qnti_folder_rules {
    qnt_dtype floats;                    /* tensors beside the layers are F16 or BF16; QNT_F32: of the source's type */
    const char *const *metadata;         /* pairs for every file */
    size_t metadata_count;
    const char *config_copy;             /* name of a file that holds quantization_config as well, or NULL */
    /* What the functions below keep between calls; freed by `finish`. All may be NULL. */
    qnt_status (*begin)(struct qnti_folder *f);
    void (*finish)(struct qnti_folder *f);
    /* Adds the tensors of a finished layer, by qnti_folder_add. */
    qnt_status (*describe)(struct qnti_folder *f, size_t target);
    /* Once all are described: quantization_config. */
    qnt_status (*config)(struct qnti_folder *f, json_t **config);
    /* Emits the bytes of a tensor that `describe` added, by qnti_folder_emit. */
    qnt_status (*write)(struct qnti_folder_entry *entry, struct qnti_output *output);
};
extern const struct qnti_folder_rules qnti_native_rules;   /* native.c */
extern const struct qnti_folder_rules qnti_gptq_rules;     /* packed.c */
extern const struct qnti_folder_rules qnti_awq_rules;
extern const struct qnti_folder_rules qnti_bnb_rules;
extern const struct qnti_folder_rules qnti_ct_rules;       /* compressed.c */
extern const struct qnti_folder_rules qnti_ct_fp4_rules;

struct XXH3_state_s;

struct qnti_folder {
    const struct qnti_export *e;
    const struct qnti_folder_rules *rules;
    void *state;                         /* of the rules */
    const char *path;                    /* the temporary folder */
    struct qnti_folder_entry *entries;   /* in the order of targets */
    size_t count, capacity, shards;
    size_t done, total;                  /* bytes of tensors */
    struct XXH3_state_s *hash;           /* of the tensor in hand */
};

/* Name and dtype are copied. */
qnt_status qnti_folder_add(struct qnti_folder *f, size_t target, size_t part, const char *name, const char *dtype,
                           size_t rank, const size_t *shape, size_t bytes);
qnt_status qnti_folder_emit(const struct qnti_folder_entry *entry, struct qnti_output *output, const void *bytes,
                            size_t n);

/* --- folder_files.c: everything but the weights --- */
/* Copies the source's side files. */
qnt_status qnti_folder_side_files(const struct qnti_folder *f);
/* config.json with this quantization_config, and its copy. */
qnt_status qnti_folder_config(const struct qnti_folder *f, const json_t *quantization);
qnt_status qnti_folder_json(const struct qnti_folder *f, const char *name, const json_t *json, size_t flags);

#endif
