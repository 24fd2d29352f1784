/*
 * compressed_grids.c - grids of compressed-tensors: those that a format prescribes, and those of inputs at run time.
 *
 * Inputs are rounded as the library does it: integers of all levels (max|x| /
 * 127.5 at 8 bits, not / 127), ranges that hold 0, FP8 by max|x| / 448.
 */
#include "pack/compressed.h"

enum { BLOCK = 128 };

/* Scales that every type of a model's floats holds exactly, but for some below 2^-17 in f16. */
#define SCALES QNT_BF16

static struct qnti_grid fp8(const struct qnti_kernels *kernels, size_t rows, size_t cols)
{
    struct qnti_grid grid = qnti_small_float_grid(kernels, &qnti_fp8_e4m3, cols, SCALES);
    grid.map.rows = rows;
    return grid;
}

void qnti_ct_fp8_tensor(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = fp8(kernels, 0, 0);
}

void qnti_ct_fp8_channel(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = fp8(kernels, 1, 0);
}

void qnti_ct_fp8_block(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = fp8(kernels, BLOCK, BLOCK);
}

void qnti_ct_nvfp4(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = qnti_small_float_grid(kernels, &qnti_fp4_e2m1, QNTI_CT_NVFP4_GROUP, QNT_F32);
}

void qnti_ct_mxfp4(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = qnti_small_float_grid(kernels, &qnti_fp4_e2m1, QNTI_CT_MXFP4_GROUP, QNT_F8_E8M0);
}

static struct qnti_grid integers(const struct qnti_kernels *kernels, const struct qnti_ct_args *args)
{
    struct qnti_grid grid = qnti_affine_grid(kernels, args->bits, 0, QNT_F32);
    grid.real_offset = !args->sym; /* the zero is whole, but added before rounding */
    if (!args->sym)
        return grid;
    grid.sym = grid.constant_offset = grid.signed_codes = true;
    grid.offset = (float)(1u << (args->bits - 1));
    return grid;
}

/* --- inputs: their scales by tokens, groups or, static, for the tensor --- */

void qnti_ct_int8_tokens(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = integers(kernels, &(struct qnti_ct_args){.bits = 8, .sym = true});
}

void qnti_ct_fp8_inputs(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = fp8(kernels, 1, 0);
}

void qnti_ct_fp8_tokens(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = qnti_small_float_grid(kernels, &qnti_fp8_e4m3, 0, QNT_F32);
}

void qnti_ct_fp8_groups(const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    *grid = qnti_small_float_grid(kernels, &qnti_fp8_e4m3, BLOCK, QNT_F32);
}

struct qnti_grid qnti_ct_input_grid(const struct qnti_kernels *kernels, const struct qnti_ct_args *args, float global,
                                    struct qnti_grid *scales)
{
    struct qnti_grid grid;
    if (!args->is_float) {
        grid = integers(kernels, args);
    } else if (args->bits == 8) {
        grid = qnti_small_float_grid(kernels, &qnti_fp8_e4m3, 0, QNT_F32);
    } else if (args->strategy == QNTI_CT_TENSOR_GROUP) {
        qnti_ct_nvfp4(kernels, &grid);
        *scales = qnti_divided_grid(kernels, &qnti_fp8_e4m3, global);
        grid.scale_grid = scales;
    } else {
        qnti_ct_mxfp4(kernels, &grid);
    }
    grid.map.rows = args->strategy != QNTI_CT_TENSOR;
    grid.map.cols = args->group;
    return grid;
}
