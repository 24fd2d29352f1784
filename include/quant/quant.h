/*
 * quant.h - the layer level of libquant: context, calibration, recipe, quantize, qlinear, pack.
 *
 * It needs CBLAS and LAPACKE only. The model level, checkpoints in and files
 * out, is <quant/model.h>.
 */
#ifndef QUANT_QUANT_H
#define QUANT_QUANT_H

#include <quant/status.h>
#include <quant/context.h>
#include <quant/matrix.h>
#include <quant/recipe.h>
#include <quant/calib.h>
#include <quant/qlinear.h>
#include <quant/quantize.h>
#include <quant/pack.h>
#include <quant/file.h>

#endif
