/*
 * calib.h - what calibration inputs say about one site (the linears that share an input).
 *
 * A calibration gathers what a recipe needs and no more: moments of each
 * channel, the Hessian sum x x^T, with paired inputs also sum (x_fp - x) x^T,
 * samples of tokens. Sums across chunks are f64. Calibrations of different
 * threads, runs and machines are added by qnt_calib_merge.
 */
#ifndef QUANT_CALIB_H
#define QUANT_CALIB_H

#include <quant/context.h>
#include <quant/matrix.h>
#include <quant/recipe.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qnt_calib qnt_calib;

/* For inputs of `in` channels; recipe NULL: gathers everything but samples. */
QNT_API qnt_status qnt_calib_create(qnt_context *context, const qnt_recipe *recipe, size_t in, qnt_calib **calib);
QNT_API void qnt_calib_destroy(qnt_calib *calib);

/*
 * Adds tokens x (tokens, in). Tokens with a number that is not finite are left
 * out and counted. QNT_INVALID: another width, or the recipe needs pairs.
 */
QNT_API qnt_status qnt_calib_add(qnt_calib *calib, qnt_matrix x);
/* Adds tokens as the layer sees them (x) and as they are in the unquantized model (x_fp), row by row. */
QNT_API qnt_status qnt_calib_add_pair(qnt_calib *calib, qnt_matrix x, qnt_matrix x_fp);
/* Adds what `other` has gathered for the same recipe and width. */
QNT_API qnt_status qnt_calib_merge(qnt_calib *calib, const qnt_calib *other);

/* Importance of each channel [in] from outside (mean of x^2, as in an imatrix), in place of the measured one. */
QNT_API qnt_status qnt_calib_set_importance(qnt_calib *calib, const float *importance);

/* Channels; tokens added; tokens left out because of numbers that are not finite. */
QNT_API size_t qnt_calib_in(const qnt_calib *calib);
QNT_API size_t qnt_calib_tokens(const qnt_calib *calib);
QNT_API size_t qnt_calib_skipped(const qnt_calib *calib);

/* Moments of a channel over the tokens. */
typedef struct qnt_moments {
    float least, greatest, absmax;
    double mean, mean_abs, mean_square;
} qnt_moments;
/* QNT_NOT_FOUND: not gathered, or no tokens. */
QNT_API qnt_status qnt_calib_moments(const qnt_calib *calib, size_t channel, qnt_moments *moments);
/* (in, in) f32 of (2 / tokens) sum x x^T. QNT_NOT_FOUND: not gathered. */
QNT_API qnt_status qnt_calib_hessian(const qnt_calib *calib, float *hessian);

/* --- calibration files --- */

/*
 * Calibrations of several sites in one safetensors file, everything they hold: what is loaded and merged is what one
 * run over both token sets gives, up to the rounding of f64 sums. Tensors of the site NAME:
 *
 *   NAME.counts      U64 (4)              tokens, tokens left out, what is gathered (bits), stride of the samples
 *   NAME.moments     F64 (3, in)          sums of x, |x|, x^2
 *   NAME.range       F32 (2, in)          least and greatest x
 *   NAME.hessian     F64 (in (in + 1) / 2)   lower triangle of sum x x^T, row by row
 *   NAME.cross       F64 (in, in)         sum (x_fp - x) x^T
 *   NAME.samples     F32 (samples, in)
 *   NAME.importance  F32 (in)
 *
 * A Hessian takes 4 in (in + 1) bytes: half of a full one.
 */
typedef struct qnt_named_calib {
    const char *name;
    const qnt_calib *calib;
} qnt_named_calib;
QNT_API qnt_status qnt_calib_save(qnt_context *context, const char *path, const qnt_named_calib *calibs, size_t count);

typedef struct qnt_calib_file qnt_calib_file;
/* QNT_IO: cannot be read; QNT_BAD_DATA: no calibration file, or damaged: the message names file and tensor. */
QNT_API qnt_status qnt_calib_file_open(qnt_context *context, const char *path, qnt_calib_file **file);
QNT_API void qnt_calib_file_close(qnt_calib_file *file);
/* Name of a site; NULL beyond the last. Lives as long as the file. */
QNT_API const char *qnt_calib_file_name(const qnt_calib_file *file, size_t index);
/* A site's calibration, to be destroyed by the caller. QNT_NOT_FOUND: no such site; QNT_BAD_DATA: as above. */
QNT_API qnt_status qnt_calib_load(const qnt_calib_file *file, const char *name, qnt_calib **calib);

#ifdef __cplusplus
}
#endif
#endif
