/*
 * safetensors.h - read (mapped) and write the safetensors container.
 */
#ifndef QNTI_SAFETENSORS_H
#define QNTI_SAFETENSORS_H

#include "base/context.h"
#include <quant/matrix.h>

struct qnti_output;

enum { QNTI_MAX_RANK = 8 };

/* One tensor of a file. `data` points into the mapping and need not be aligned. */
struct qnti_tensor {
    const char *name;
    const char *dtype;               /* as the file spells it: "F32", "BF16", "F8_E4M3" ... */
    size_t rank, shape[QNTI_MAX_RANK];
    size_t elements;
    const void *data;
    size_t bytes;
};

struct qnti_safetensors {
    qnt_context *ctx;
    char *path;
    struct qnti_tensor *tensors;     /* in the order of their offsets */
    size_t count;
    const char **metadata;           /* key, value, key, value ..., sorted by key */
    size_t metadata_count;           /* pairs */
    void *map;
    size_t bytes;
    char *strings;                   /* what names and metadata point into */
    size_t *by_name;                 /* indices of tensors, sorted by name */
};

/*
 * Maps a file and checks every offset, size and name against the format.
 * QNT_IO: cannot be opened; QNT_BAD_DATA: not a valid file, the message names
 * file, tensor and what was expected.
 */
qnt_status qnti_safetensors_open(qnt_context *ctx, const char *path, struct qnti_safetensors **file);
/* The same for a file that lies in memory and stays there; `name` stands for the path in messages. */
qnt_status qnti_safetensors_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                        struct qnti_safetensors **file);
void qnti_safetensors_close(struct qnti_safetensors *file);
/* NULL if there is none of that name. */
const struct qnti_tensor *qnti_safetensors_find(const struct qnti_safetensors *file, const char *name);
const char *qnti_safetensors_metadata(const struct qnti_safetensors *file, const char *key);

/* The dtype as one of ours; false for those that the library cannot compute with. */
bool qnti_tensor_dtype(const struct qnti_tensor *tensor, qnt_dtype *dtype);

/*
 * Writing. Collect descriptions (the bytes are asked for later, one tensor at a
 * time), then write everything in one go: header as the format's library
 * writes it, data, all under a temporary name, flushed, renamed to `path`.
 */
struct qnti_tensor_source {
    const char *name;                /* copied */
    const char *dtype;
    size_t rank, shape[QNTI_MAX_RANK];
    /* Writes the tensor's bytes, exactly as many as its shape needs, by qnti_output_write. NULL: `data` has them. */
    qnt_status (*write)(void *user, struct qnti_output *output);
    void *user;
    const void *data;
};

/* metadata: pairs as above; {"format","pt"} is added if absent. */
qnt_status qnti_safetensors_write(qnt_context *ctx, const char *path, const struct qnti_tensor_source *tensors,
                                  size_t count, const char *const *metadata, size_t metadata_count);
/* The same into an output, which the caller may flush and read back before the commit. */
qnt_status qnti_safetensors_put(qnt_context *ctx, struct qnti_output *output, const struct qnti_tensor_source *tensors,
                                size_t count, const char *const *metadata, size_t metadata_count);

#endif
