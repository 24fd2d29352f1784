/*
 * compressed.h - compressed-tensors: what a model's configuration says of a layer, and the layer by it.
 *
 * Tensors alone do not tell the width of codes in bytes of their own, nor how
 * inputs are quantized at run time: a folder's config.json does (its writer in
 * export/, its reader in checkpoint/).
 */
#ifndef QNTI_PACK_COMPRESSED_H
#define QNTI_PACK_COMPRESSED_H

#include "pack/layout.h"

enum qnti_ct_strategy {
    QNTI_CT_TENSOR, QNTI_CT_CHANNEL, QNTI_CT_GROUP, QNTI_CT_BLOCK, QNTI_CT_TOKEN, QNTI_CT_TENSOR_GROUP,
    QNTI_CT_STRATEGIES
};
enum qnti_ct_dynamic { QNTI_CT_STATIC, QNTI_CT_DYNAMIC, QNTI_CT_LOCAL };

extern const char *const qnti_ct_strategies[QNTI_CT_STRATEGIES];   /* their names */

/* The arguments of weights or of inputs. */
struct qnti_ct_args {
    bool present;                        /* inputs: they are quantized */
    unsigned bits;
    bool is_float, sym;
    enum qnti_ct_strategy strategy;
    size_t group, block_rows, block_cols;   /* 0 where the strategy has none */
    enum qnti_ct_dynamic dynamic;        /* of inputs */
};

struct qnti_ct_scheme {
    const char *format;                  /* "pack-quantized" ...; static */
    struct qnti_ct_args weights, inputs;
};
bool qnti_ct_same_scheme(const struct qnti_ct_scheme *a, const struct qnti_ct_scheme *b);
/* Of a layer that a layout of compressed-tensors holds. */
void qnti_ct_scheme_of(const qnt_qlinear *q, struct qnti_ct_scheme *scheme);
/* Formats of tensors that can be read; the name itself, NULL: none of them. */
const char *qnti_ct_format(const char *name);
/* Whether a format holds weights of these arguments. */
bool qnti_ct_fits(const char *format, const struct qnti_ct_args *weights);

/* qnti_layout_unpack of a layer of which the configuration says this; QNT_BAD_DATA where the tensors are otherwise. */
qnt_status qnti_ct_unpack(qnt_context *ctx, const char *name, const qnt_packed_tensor *tensors,
                          const uint8_t *const *data, size_t count, const struct qnti_ct_scheme *scheme,
                          qnt_qlinear **q);

/* --- between the files of this layout --- */

enum qnti_ct_kind { QNTI_CT_PACKED, QNTI_CT_INTEGERS, QNTI_CT_FP8, QNTI_CT_NVFP4, QNTI_CT_MXFP4 };
/* Whether layers of that format have tensors of this kind. */
bool qnti_ct_stores(const char *format, enum qnti_ct_kind kind);
enum { QNTI_CT_NVFP4_GROUP = 16, QNTI_CT_MXFP4_GROUP = 32 };
/* Codes of rows as streams of 32-bit words, and zeros [rows][groups] as such streams down the columns. */
qnt_status qnti_ct_pack_codes(const struct qnti_numbers *w, qnt_context *ctx, uint8_t *bytes);
qnt_status qnti_ct_unpack_codes(const uint8_t *bytes, qnt_context *ctx, struct qnti_numbers *w);
qnt_status qnti_ct_pack_zeros(const struct qnti_numbers *w, qnt_context *ctx, uint8_t *bytes);
qnt_status qnti_ct_unpack_zeros(const uint8_t *bytes, qnt_context *ctx, struct qnti_numbers *w);
size_t qnti_ct_words(size_t n, unsigned bits);
/* The width by which n codes take so many words; of several 4 or 8; 0: none. */
unsigned qnti_ct_width(size_t n, size_t words);
/*
 * The grid on which readers quantize inputs of a scheme; `scales` holds the grid of its scales where they are codes, by
 * the global scale.
 */
struct qnti_grid qnti_ct_input_grid(const struct qnti_kernels *kernels, const struct qnti_ct_args *args, float global,
                                    struct qnti_grid *scales);

#endif
