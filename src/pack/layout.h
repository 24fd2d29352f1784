/*
 * layout.h - the table of layouts: what a format can hold of a quantized layer, and who packs it.
 *
 * A layout either prescribes its grid (the blocks of ggml, FP8), or states limits
 * of the affine grids that it can hold (GPTQ, AWQ), or names the methods that
 * make its grids (bitsandbytes), or holds everything (native). Callers ask the functions below and need not know which.
 */
#ifndef QNTI_LAYOUT_H
#define QNTI_LAYOUT_H

#include "pack/ggml.h"
#include "qlinear/qlinear.h"
#include <quant/pack.h>

struct qnti_layout;

/* Affine grids with a scale for each row and group, zeros that are whole numbers, scales in the layout's type, but: */
struct qnti_affine_limits {
    unsigned widths;                     /* bit b: codes of b bits */
    unsigned least_zero;                 /* a zero lies in least_zero .. least_zero + 2^bits - 1 */
    bool short_group;                    /* a last group that is shorter */
    bool one_group;                      /* a model's layers have one group size */
    size_t in_multiple, out_multiple;
    bool per_tensor;                     /* one scale for all rows, too */
    bool any_floats;                     /* scales are stored in whatever type of floats they have */
};

/* Codes to bytes and back; the layer has been checked by qnti_layout_holds. data[i] belongs to tensors[i]. */
struct qnti_packer {
    /* Everything of each tensor but its offset. */
    qnt_status (*tensors)(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                          size_t *count);
    qnt_status (*pack)(const struct qnti_layout *layout, const qnt_qlinear *q, uint8_t *const *data);
    /* Of the tensors, which come in any order, only their sizes in bytes have been checked. */
    qnt_status (*unpack)(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                         const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count, qnt_qlinear **q);
    /* What of the layer's grid cannot be held, where neither blocks nor limits say it; NULL: all can. */
    const char *(*misfit)(const qnt_qlinear *q);
    /* Whether the format's readers quantize inputs in this way; NULL: in none. */
    bool (*inputs)(const struct qnti_actquant *act);
};
extern const struct qnti_packer qnti_block_packer;   /* blocks.c: rows of a ggml type */
extern const struct qnti_packer qnti_gptq_packer;    /* gptq.c */
extern const struct qnti_packer qnti_awq_packer;     /* awq.c */
extern const struct qnti_packer qnti_bnb_packer;     /* bnb.c */
extern const struct qnti_packer qnti_ct_packer;      /* compressed.c */
/* compressed_grids.c: what formats of compressed-tensors prescribe. */
typedef void qnti_layout_grid_fn(const struct qnti_kernels *kernels, struct qnti_grid *grid);
qnti_layout_grid_fn qnti_ct_fp8_tensor, qnti_ct_fp8_channel, qnti_ct_fp8_block, qnti_ct_nvfp4, qnti_ct_mxfp4;
qnti_layout_grid_fn qnti_ct_int8_tokens, qnti_ct_fp8_inputs, qnti_ct_fp8_tokens, qnti_ct_fp8_groups;
/* The name of a grid of 4 bits there, "nf4" or "fp4"; NULL: it is another one. */
const char *qnti_bnb_type(const struct qnti_grid *grid);

/* What a layer may have beside codes on an affine grid whose zeros are whole numbers of its range; bits. */
enum qnti_beside {
    QNTI_BESIDE_SEGMENTS = 1, QNTI_BESIDE_SPARSE = 2, QNTI_BESIDE_LOWRANK = 4, QNTI_BESIDE_COPY = 8,
    QNTI_BESIDE_TRANSFORM = 16, QNTI_BESIDE_INPUTS = 32, QNTI_BESIDE_OUTPUTS = 64, QNTI_BESIDE_GRID = 128
};

struct qnti_layout {
    const char *name, *title;
    const char *ggml;                    /* name of the ggml type that prescribes the grid, or NULL */
    qnti_layout_grid_fn *grid;           /* the grid that it prescribes otherwise, or NULL */
    qnti_layout_grid_fn *inputs;         /* how inputs are quantized where the recipe does not say; or NULL: not */
    bool fixed_inputs;                   /* those have one scale by calibration */
    bool global_scale, global_inputs;    /* the scales of the grid, of the inputs' grid, are FP8 with one divisor */
    bool holds_inputs;                   /* quantized inputs of the recipe, as the packer's `inputs` says */
    bool fused;                          /* readers join q, k, v and gate, up: their grids must be alike */
    qnt_dtype scale_type;                /* of scales that the method chooses */
    const char *recipe;                  /* with calibration, where the user names none; NULL: gptq */
    const char *const *methods;          /* whose own grids it holds, no others, the first by default; NULL behind */
    const char *preferred;               /* "key=value,...": parameters where the user says nothing; or NULL */
    const char *refused;                 /* "key=value,...": parameters whose results it cannot hold; or NULL */
    bool group_index;                    /* holds groups along an order of processing */
    const char *symmetric;               /* name of the layout that symmetric layers get instead, or NULL */
    const struct qnti_affine_limits *limits;   /* NULL: the grid is prescribed, or any will do */
    unsigned beside;                     /* bits of enum qnti_beside that it can hold */
    const struct qnti_packer *packer;    /* NULL: a single layer has no bytes of its own */
};

/* NULL, with a message that lists the known ones: unknown. "gguf:q4_0", "native"; case is ignored. */
const struct qnti_layout *qnti_layout_find(qnt_context *ctx, const char *name);
const struct qnti_layout *qnti_layout_at(size_t index);
/* Whether the layout prescribes a grid, and which. */
bool qnti_layout_grid(const struct qnti_layout *layout, const struct qnti_kernels *kernels, struct qnti_grid *grid);
/* Whether it prescribes one. */
bool qnti_layout_prescribes(const struct qnti_layout *layout);
/* QNT_UNSUPPORTED: the layer's inputs are quantized in a way that the format's readers have not. */
qnt_status qnti_layout_holds_inputs(const struct qnti_layout *layout, const qnt_qlinear *q);
/* Whether grids of a method of its own, not asked of the layout, can stand there. */
bool qnti_layout_lists(const struct qnti_layout *layout, const char *method);
/* Whether what is done at run time stands beside the codes: a transform, quantized activations. NULL: yes. */
bool qnti_layout_at_run_time(const struct qnti_layout *layout);
/* QNT_UNSUPPORTED with what does not fit, and which layouts could hold it. */
qnt_status qnti_layout_holds(const struct qnti_layout *layout, const qnt_qlinear *q);
/* QNT_UNSUPPORTED where blocks do not divide the width. */
qnt_status qnti_layout_width(qnt_context *ctx, const struct qnti_layout *layout, const char *layer, size_t in);
/*
 * Why a layer of this shape in groups of `group` columns (0: the row) cannot stand in the layout, for the plan, which
 * then leaves it in float; NULL: it can.
 */
const char *qnti_layout_misfit(const struct qnti_layout *layout, size_t out, size_t in, size_t group);
/* QNT_INVALID: no grid with this parameter can be held; the message names it, the method, and formats that could. */
qnt_status qnti_layout_accepts(qnt_context *ctx, const struct qnti_layout *layout, const char *method,
                               const char *parameter, double value);
/* QNT_UNSUPPORTED: it cannot hold all of `beside`, which the method leaves; the message says what, and who can. */
qnt_status qnti_layout_takes(qnt_context *ctx, const struct qnti_layout *layout, const char *method, unsigned beside);

/* --- pack.c --- */
/* The layout itself, or the one that it has for symmetric layers. */
const struct qnti_layout *qnti_layout_for(const struct qnti_layout *layout, const qnt_qlinear *q);
/* qnt_packed_tensors, qnt_pack and qnt_unpack, the latter with each tensor at a place of its own. */
qnt_status qnti_layout_tensors(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                               size_t *count, size_t *bytes);
qnt_status qnti_layout_pack(const struct qnti_layout *layout, const qnt_qlinear *q, void *buffer, size_t bytes);
qnt_status qnti_layout_unpack(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                              const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count,
                              qnt_qlinear **q);

#endif
