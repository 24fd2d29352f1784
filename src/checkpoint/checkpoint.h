/*
 * checkpoint.h - a model as it lies on disk: its family, its sizes, its tensors by role.
 *
 * Sources: Hugging Face folders (safetensors), GGUF files, native folders. A
 * tensor is reached by its role and block, whatever the source calls it, and
 * read as f32 rows in the Hugging Face orientation and row order.
 */
#ifndef QNTI_CHECKPOINT_H
#define QNTI_CHECKPOINT_H

#include "base/context.h"
#include "base/tensor.h"
#include "pack/ggml.h"
#include "qlinear/qlinear.h"
#include "text/tokenizer.h"

/* Tensors of a decoder; those from QNTI_ATTN_NORM on exist once a block. */
enum qnti_role {
    QNTI_EMBED, QNTI_FINAL_NORM, QNTI_HEAD,
    QNTI_ATTN_NORM, QNTI_Q, QNTI_K, QNTI_V, QNTI_O, QNTI_MLP_NORM, QNTI_GATE, QNTI_UP, QNTI_DOWN,
    QNTI_ROLES
};

/* How the angles of RoPE grow; position p turns pair i by p * theta^(-2i / head_dim) / divisors[i]. */
enum qnti_rope_kind { QNTI_ROPE_DEFAULT, QNTI_ROPE_LINEAR, QNTI_ROPE_LLAMA3 };

struct qnti_rope {
    enum qnti_rope_kind kind;
    float theta;
    float factor;                             /* of LINEAR and LLAMA3; the next three of LLAMA3 alone */
    float low_freq_factor, high_freq_factor;  /* LLAMA3 from a GGUF, which only has the divisors: 0 where no */
    size_t original_context;                  /* usual parameters give them */
    float *divisors;                          /* [head_dim / 2], owned by the checkpoint; NULL: all 1 (DEFAULT) */
};

struct qnti_config {
    size_t hidden, ffn, blocks, heads, kv_heads, head_dim, vocab, context;
    float norm_eps;
    struct qnti_rope rope;
    bool tied_head;                /* the output matrix is the embedding */
    bool qkv_bias, o_bias, mlp_bias;
    size_t sliding_window;         /* keys a query sees, itself included; 0: all */
};

struct json_t;

/* One row a family; the table is in family.c. */
struct qnti_family {
    const char *name;              /* "Llama" */
    const char *architecture;      /* "LlamaForCausalLM" */
    const char *model_type;        /* "llama" */
    const char *gguf;              /* architecture in GGUF */
    bool gguf_permutes_qk;         /* rows of q and k are in neighbouring-pair order there */
    const char *const *names;      /* [QNTI_ROLES] Hugging Face names without ".weight"; %zu is the block */
    const char *const *gguf_names; /* [QNTI_ROLES] */
    const struct qnti_config *defaults;
    /* What config.json says to this family beyond the common keys: biases, windows. `where` is the file. */
    qnt_status (*rules)(qnt_context *ctx, const char *where, const struct json_t *json, struct qnti_config *config);
};
extern const struct qnti_family qnti_families[];
extern const size_t qnti_family_count;

struct qnti_weight;

/* How a weight is seen where the residual stream is rotated (rotated.c). */
enum qnti_rotated_side {
    QNTI_ROTATED_ROWS,             /* each row, after the gain in its columns */
    QNTI_ROTATED_COLUMNS,          /* each column */
    QNTI_ROTATED_NORM              /* ones: its gain is elsewhere */
};
struct qnti_rotated {
    const struct qnti_weight *source;
    const struct qnti_transform *stream;
    const float *gain;             /* [cols] or NULL */
    enum qnti_rotated_side side;
};

/* A tensor's elements: plain, in ggml blocks, a quantized layer, or a rotated one's. A bias or norm has one row. */
struct qnti_weight {
    const char *name;              /* Hugging Face name, with .weight or .bias */
    size_t rows, cols;
    qnt_matrix plain;              /* data NULL: not plain */
    const struct qnti_ggml_type *type;
    const uint8_t *blocks;
    const qnt_qlinear *qlinear;
    const struct qnti_rotated *rotated;   /* what it is made of; plain.dtype is the source's all the same */
    size_t unpermute_heads;        /* rows (of a bias: columns) are in GGUF's neighbouring-pair order, this many heads;
                                      0: no. qnti_weight_rows puts them back. */
};

struct qnti_checkpoint {
    qnt_context *ctx;
    char *path;
    const char *kind;              /* "Hugging Face folder", "GGUF", "native" */
    const struct qnti_family *family;
    struct qnti_config config;
    struct qnti_kv *kv;            /* as its keys and values are kept; NULL: as they are */
    char *kv_text;                 /* the same as it was said */
    struct qnti_source *source;    /* private to checkpoint/ */
    struct qnti_weight *weights;   /* [blocks][role][weight, bias], block 0 with all roles; name NULL: there is none */
};

/* QNT_NOT_FOUND, QNT_UNSUPPORTED (unknown family: the list of known ones; quantized source), QNT_BAD_DATA. */
qnt_status qnti_checkpoint_open(qnt_context *ctx, const char *path, struct qnti_checkpoint **checkpoint);
void qnti_checkpoint_close(struct qnti_checkpoint *checkpoint);
/* NULL where the model has none (a bias; QNTI_HEAD if it is tied). `block` counts for block roles only. */
const struct qnti_weight *qnti_checkpoint_weight(const struct qnti_checkpoint *c, size_t block, enum qnti_role role);
const struct qnti_weight *qnti_checkpoint_bias(const struct qnti_checkpoint *c, size_t block, enum qnti_role role);
/* Rows [first, first + n) as f32, [n][cols]; in parallel over rows where there are many. */
qnt_status qnti_weight_rows(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n, float *x);
/*
 * The same model with a rotated residual stream, a view that borrows `model`; a tied output matrix is untied.
 * QNT_UNSUPPORTED: a model that is quantized already.
 */
qnt_status qnti_checkpoint_rotate(const struct qnti_checkpoint *model, const struct qnti_transform *stream,
                                  const struct qnti_checkpoint **rotated);
void qnti_checkpoint_rotated_free(const struct qnti_checkpoint *rotated);
/* Rows of a weight of such a view. */
qnt_status qnti_rotated_rows(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n, float *x);
struct qnti_tensor;
/* A tensor of the source that is no weight, such as a learned scale; false: there is none of that name. */
bool qnti_checkpoint_beside(const struct qnti_checkpoint *c, const char *name, struct qnti_tensor *tensor);
/* kv.c: "SCHEME:key=value,...", parameters of method kv_cache. QNT_INVALID as for a recipe; heads that do not fit. */
qnt_status qnti_kv_parse(qnt_context *ctx, const char *text, size_t head_dim, struct qnti_kv *kv);
/* Bytes that the tensor takes in the source. */
size_t qnti_weight_bytes(const struct qnti_weight *w);
/* First pass over all weights: the first number that is not finite is QNT_NON_FINITE with tensor, index and count. */
qnt_status qnti_checkpoint_check_finite(const struct qnti_checkpoint *c);
/* The same pass, with XXH3 of all weights. */
qnt_status qnti_checkpoint_hash_weights(const struct qnti_checkpoint *c, uint64_t *hash);
/* The tokenizer of the source; the caller closes it. QNT_NOT_FOUND: none. */
qnt_status qnti_checkpoint_tokenizer(const struct qnti_checkpoint *c, qnti_tokenizer **tokenizer);
/* Side files of a folder that are copied along (not weights, not config.json): calls fn for each name. */
qnt_status qnti_checkpoint_side_files(const struct qnti_checkpoint *c,
                                      qnt_status (*fn)(void *user, const char *folder, const char *name), void *user);
/* XXH3 over configuration (or a GGUF's keys) and tensor table: with the weights' hash, which model this is. */
qnt_status qnti_checkpoint_fingerprint(const struct qnti_checkpoint *c, uint64_t *fingerprint);

#endif
