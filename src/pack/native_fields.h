/*
 * native_fields.h - the words of the I32 descriptions, shared by native_write.c and native_read.c.
 */
#ifndef QNTI_NATIVE_FIELDS_H
#define QNTI_NATIVE_FIELDS_H

/* L.layer */
enum { LAYER_VERSION, LAYER_OUT, LAYER_IN, LAYER_SEGMENTS, LAYER_WORDS };
/* L.segments: pairs (first column, columns) */

/* PREFIX.grid of a matrix of numbers */
enum {
    GRID_ROWS, GRID_COLS, GRID_FORM, GRID_BITS, GRID_LEVELS, GRID_MAP, GRID_MAP_ROWS, GRID_MAP_COLS, GRID_INDEX_GROUPS,
    GRID_FLOAT_TYPE, GRID_SCALE_TYPE, GRID_INTEGER_OFFSET, GRID_CONSTANT_OFFSET, GRID_OFFSET_BITS, GRID_CODEBOOK,
    GRID_CODEBOOK_PER_ROW, GRID_SYM, GRID_ABSMAX, GRID_INCLUDE_ZERO, GRID_HAS_VALUE, GRID_SIGNED, GRID_WORDS
};

/* GRID_INTEGER_OFFSET: zeros are any numbers; are codes; are whole numbers of any size, stored as floats */
enum { GRID_OFFSET_REAL, GRID_OFFSET_CODE, GRID_OFFSET_WHOLE };

/*
 * PREFIX.act of an activation quantizer: whether static; f32 bits of clip and threshold; the type that inputs are
 * rounded to; whether the range counts what a column left out has below the threshold; whether a static scale was given
 */
enum { ACT_FIXED, ACT_CLIP_BITS, ACT_THRESHOLD_BITS, ACT_INPUT_TYPE, ACT_RANGE_OF_KEPT, ACT_GIVEN, ACT_WORDS };

/* L.output of a cache that keeps the output: the members of struct qnti_cache, but for its grid */
enum {
    CACHE_HEAD_DIM, CACHE_BY_CHANNEL, CACHE_ROTATED, CACHE_BEFORE_ROPE, CACHE_WINDOW, CACHE_SINKS, CACHE_CLIP_BITS,
    CACHE_WORDS
};

/* L.rotation: block, small */
enum { ROTATION_BLOCK, ROTATION_SMALL, ROTATION_WORDS };

#endif
