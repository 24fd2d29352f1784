/*
 * gguf.h - what the files of the GGUF export share: the assembly of one file.
 */
#ifndef QNTI_EXPORT_GGUF_H
#define QNTI_EXPORT_GGUF_H

#include "container/gguf.h"
#include "export/export.h"

struct XXH3_state_s;

/* A tensor of the file. */
struct qnti_gguf_item {
    struct qnti_gguf_file *file;
    char *name;
    size_t block;                        /* 1 and more: of block block - 1; 0: of none */
    const struct qnti_weight *source;
    size_t target;                       /* its index; SIZE_MAX: of none, `source` is divisors of RoPE */
    const char *layout;                  /* a finished layer that is packed so; NULL: converted from the source */
    const struct qnti_ggml_type *type;
    size_t rank, ne[2];
    size_t row_bytes, bytes;
    float add;                           /* to every number: 1 where norms multiply by 1 + w */
    size_t head_rows;                    /* rows of a head that go into neighbouring-pair order; 0: rows stay */
    uint64_t hash;                       /* XXH3 of what was written */
};

struct qnti_gguf_file {
    const struct qnti_export *e;
    struct qnti_gguf_writer writer;
    struct qnti_gguf_item *items;
    size_t count;
    struct qnti_weight rope[2];          /* divisors of RoPE as tensors, if the model has them */
    struct XXH3_state_s *hash;           /* of the tensor in hand */
    size_t done, total;                  /* bytes of tensors */
    bool counting;                       /* only the size is wanted: no warnings */
};

/* --- gguf_types.c --- */
qnt_status qnti_gguf_assign(struct qnti_export *e);

/* --- gguf.c --- */
qnt_status qnti_gguf_export_bytes(const struct qnti_export *e, uint64_t *bytes);
qnt_status qnti_gguf_export_write(const struct qnti_export *e, const char *path);

/* --- gguf_keys.c, gguf_tokenizer.c, gguf_template.c --- */
/* QNT_UNSUPPORTED: what the model does differently from what readers of its architecture know, and no key says. */
qnt_status qnti_gguf_check_model(const struct qnti_export *e);
qnt_status qnti_gguf_put_model(struct qnti_gguf_file *file);
qnt_status qnti_gguf_put_tokenizer(struct qnti_gguf_file *file);
qnt_status qnti_gguf_put_templates(struct qnti_gguf_file *file);

/* --- gguf_tensor.c: the bytes of an item, which `user` is --- */
qnt_status qnti_gguf_write_item(void *user, struct qnti_output *output);

#endif
