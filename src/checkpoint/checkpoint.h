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

/*
 * Tensors of a decoder; those from QNTI_ATTN_NORM on exist once a block. A family has some of them (qnti_has_weight):
 * QKV and GATE_UP are fused linears, their rows those of q, k, v and of gate, up; without a gate the mlp is UP and
 * DOWN.
 */
enum qnti_role {
    QNTI_EMBED, QNTI_POSITIONS, QNTI_FINAL_NORM, QNTI_HEAD,
    QNTI_ATTN_NORM, QNTI_QKV, QNTI_Q, QNTI_K, QNTI_V, QNTI_Q_NORM, QNTI_K_NORM, QNTI_O, QNTI_ATTN_POST_NORM,
    QNTI_MLP_NORM, QNTI_GATE_UP, QNTI_GATE, QNTI_UP, QNTI_DOWN, QNTI_MLP_POST_NORM,
    QNTI_ROLES
};

/* How the angles of RoPE grow; position p turns pair i by p * theta^(-2i / rotated) / divisors[i]. */
enum qnti_rope_kind {
    QNTI_ROPE_DEFAULT, QNTI_ROPE_LINEAR, QNTI_ROPE_LLAMA3, QNTI_ROPE_DYNAMIC, QNTI_ROPE_YARN, QNTI_ROPE_LONGROPE
};

struct qnti_rope {
    enum qnti_rope_kind kind;
    float theta;
    float partial;                            /* share of a head's channels, the first, that turn; 0: all */
    size_t rotated;                           /* those channels; 0: the whole head */
    float factor;                             /* of all but DEFAULT; the next two of LLAMA3 alone */
    float low_freq_factor, high_freq_factor;  /* LLAMA3 from a GGUF, which only has the divisors: 0 where no */
    size_t original_context;                  /* usual parameters give them. Of LLAMA3, DYNAMIC, YARN, LONGROPE */
    float beta_fast, beta_slow, mscale, mscale_all_dim;   /* YARN; mscale 0: not given */
    bool exact_bounds;                        /* YARN: the ramp's ends are no whole numbers */
    float attention_factor;                   /* cosines and sines times this; 0: 1, or as YARN, LONGROPE find it */
    float *divisors;                          /* [rotated / 2], owned by the checkpoint; NULL: all 1 */
    float *long_divisors;                     /* LONGROPE: those of a sequence beyond original_context */
};

enum qnti_norm_kind { QNTI_NORM_RMS, QNTI_NORM_LAYER };

enum qnti_activation {
    QNTI_SILU, QNTI_RELU, QNTI_GELU, QNTI_GELU_TANH, QNTI_GELU_QUICK, QNTI_MISH, QNTI_ACTIVATIONS
};

/* What a family's models have and how they compute; zeros are a Llama. */
struct qnti_config {
    size_t hidden, ffn, blocks, heads, kv_heads, head_dim, vocab, context;
    enum qnti_norm_kind norm;
    float norm_eps;
    float norm_base;               /* norms multiply by base + weight: 1 of Gemma's in a folder, else 0 */
    bool qk_norm;                  /* each head of q and k is normed before RoPE */
    bool post_norms;               /* what attention and mlp give is normed before it joins the stream */
    enum qnti_activation activation;
    bool ungated;                  /* down(act(up)) in place of down(act(gate) up) */
    bool fused_qkv, fused_gate_up;
    bool learned_positions;        /* rows of a table in place of RoPE; */
    size_t position_offset;        /* that of the first token: there are as many more than `context` */
    struct qnti_rope rope, local_rope;   /* the latter of blocks behind the window; theta 0: the same as others */
    bool tied_head;                /* the output matrix is the embedding */
    bool qkv_bias, o_bias, mlp_bias;
    size_t sliding_window;         /* keys a query sees, itself included; 0: all */
    bool *global;                  /* [blocks] those without the window, owned by the checkpoint; NULL: none */
    float attention_cap, logit_cap;      /* scores and logits x become cap tanh(x / cap); 0: they stay */
    float score_scale;             /* of q k; 0: 1 / sqrt(head_dim) */
    bool scaled_embedding;         /* embeddings times sqrt(hidden), */
    float embedding_scale;         /* which is this, rounded to their type; 0: 1 */
};

struct json_t;

/* Keys of config.json whose names families choose. */
enum qnti_key {
    QNTI_KEY_HIDDEN, QNTI_KEY_FFN, QNTI_KEY_BLOCKS, QNTI_KEY_HEADS, QNTI_KEY_VOCAB, QNTI_KEY_KV_HEADS,
    QNTI_KEY_HEAD_DIM, QNTI_KEY_CONTEXT, QNTI_KEY_EPS, QNTI_KEY_ACTIVATION, QNTI_KEYS
};

/* A flag that changes the forward pass in a way that is not supported. */
struct qnti_refusal {
    const char *key;               /* NULL ends a list */
    bool value;                    /* that is refused */
};

/* One row a family; the table is in family.c. */
struct qnti_family {
    const char *name;              /* "Llama" */
    const char *architecture;      /* "LlamaForCausalLM" */
    const char *model_type;        /* "llama" */
    const char *gguf;              /* architecture in GGUF; NULL: there is none */
    bool gguf_permutes_qk;         /* rows of q and k are in neighbouring-pair order there */
    bool transposed;               /* a folder's linears are stored (in, out) */
    bool gguf_window;              /* GGUF has a key of the window; its readers */
    size_t window_pattern;         /* know that every so many blocks one is global; 0: they pass it over, */
    size_t gguf_wide_blocks;       /* scale scores by 1 / sqrt(head_dim), with so many blocks by that of hidden / heads;
                                      0: always by the former */
    const char *const *keys;       /* [QNTI_KEYS]; NULL: the family has no such key */
    const char *const *names;      /* [QNTI_ROLES] Hugging Face names without ".weight"; %zu is the block */
    const struct qnti_config *defaults;
    const struct qnti_refusal *refused;  /* NULL: none */
    /* What config.json says to this family beyond the common keys: biases, windows. `where` is the file. */
    qnt_status (*rules)(qnt_context *ctx, const char *where, const struct json_t *json, struct qnti_config *config);
};
extern const struct qnti_family qnti_families[];
extern const size_t qnti_family_count;
extern const char *const qnti_gguf_names[QNTI_ROLES];   /* of all families */

/* --- roles.c: what a model has, by its configuration --- */
/* (out, in) of a role's weight; a norm has one row. */
struct qnti_extent {
    size_t rows, cols;
};
struct qnti_extent qnti_weight_extent(const struct qnti_config *config, enum qnti_role role);
bool qnti_has_weight(const struct qnti_config *config, enum qnti_role role);
bool qnti_has_bias(const struct qnti_config *config, enum qnti_role role);
/* A linear of a block: what recipes quantize. */
bool qnti_is_linear(enum qnti_role role);
bool qnti_is_norm(enum qnti_role role);
/* The scale of scores that a reader of the family's GGUF takes; 0: 1 / sqrt(head_dim) as everywhere. */
float qnti_gguf_score_scale(const struct qnti_family *family, const struct qnti_config *config);
/* Keys that a query of the block sees, 0: all; how its positions turn. */
size_t qnti_block_window(const struct qnti_config *config, size_t block);
const struct qnti_rope *qnti_block_rope(const struct qnti_config *config, size_t block);

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
    bool transposed;               /* `plain` is (cols, rows); qnti_weight_rows turns it */
};

struct qnti_checkpoint {
    qnt_context *ctx;
    char *path;
    const char *kind;              /* "Hugging Face folder", "GGUF", "native" */
    const struct qnti_family *family;
    struct qnti_config config;
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
 * QNT_UNSUPPORTED: a model that is quantized already, or whose norms do not commute with a rotation.
 */
qnt_status qnti_checkpoint_rotate(const struct qnti_checkpoint *model, const struct qnti_transform *stream,
                                  const struct qnti_checkpoint **rotated);
void qnti_checkpoint_rotated_free(const struct qnti_checkpoint *rotated);
/* Rows of a weight of such a view. */
qnt_status qnti_rotated_rows(qnt_context *ctx, const struct qnti_weight *w, size_t first, size_t n, float *x);
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
