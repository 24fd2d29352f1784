/*
 * grid.h - numbers on a grid: which levels there are, who shares a scale, how a scale is found.
 *
 * A grid is a plain value. `struct qnti_numbers` is a matrix of numbers held on
 * one: codes with scales and offsets, which are matrices of numbers themselves
 * and may be quantized again (double quantization, k-quants, SpQR). Weights,
 * kept columns (a float grid), scales and low-rank factors are all of this one
 * kind.
 */
#ifndef QNTI_GRID_H
#define QNTI_GRID_H

#include "base/context.h"
#include <quant/matrix.h>

struct qnti_kernels;
struct qnti_small_float;
struct qnti_grid;
struct qnti_numbers;

/* Which numbers of a (rows, cols) matrix share a scale. */
enum qnti_map_kind {
    QNTI_MAP_TILES,   /* tiles of rows x cols; 0 stands for all of them */
    QNTI_MAP_FLAT,    /* runs of `cols` over the flattened matrix */
    QNTI_MAP_INDEX,   /* column c belongs to group index[c]; `rows` rows tied; fits want groups side by side */
    QNTI_MAP_NONE,    /* there are no scales: a code's value is its level (`rows` is 1) */
    QNTI_MAP_STRIDED  /* number i of the flattened matrix belongs to group i % cols */
};

struct qnti_map {
    enum qnti_map_kind kind;
    size_t rows, cols;
    const uint32_t *index;     /* [cols of the matrix]; owned by the numbers that use the map */
    size_t index_groups;
};

/* How a code stands for a value. */
enum qnti_form {
    QNTI_FORM_FLOAT,     /* no codes: the value itself, rounded to `float_type` */
    QNTI_FORM_ZERO,      /* (code - offset) * scale, offset a whole number unless `real_offset` is set */
    QNTI_FORM_MIN,       /* scale * code + offset */
    QNTI_FORM_CODEBOOK   /* scale * codebook[code] (+ offset); without scales codebook[code], or that / divisor */
};

/*
 * Scales of small floats: as compressed-tensors has them (a group of zeros the least one; in E8M0 its own rounding of
 * the maximum), any number (a group of zeros 1), or powers of two, of the scale or, coded as halvings of the largest
 * one of a row or the tensor, of its share of that: the next one up, down, or the nearest exponent.
 */
enum qnti_scale_rule {
    QNTI_SCALE_COMPRESSED, QNTI_SCALE_FREE, QNTI_SCALE_UP, QNTI_SCALE_DOWN, QNTI_SCALE_NEAREST
};

/* Rows x cols of weights that one fit sees: whole groups, all rows that are tied. */
struct qnti_band {
    const float *x;               /* [rows][stride] */
    size_t rows, cols, stride;
    const float *importance;      /* [cols], weight of each column, or NULL: all alike */
    const float *row_power;       /* [rows], mean square of each whole row; with importance */
    void *scratch;                /* what the kind's `scratch` asks for; may be NULL where it asks for nothing */
};

/* A kind of grid: one file in grid/. */
struct qnti_grid_kind {
    const char *name;
    /*
     * Finds scales and offsets of the groups that `band` covers, as they will be
     * stored, and puts them into q at row `row`, from group `group` on. With
     * `code` ([band->rows][code_stride]) also the codes that this kind's own
     * quantizer gives, which need not be the nearest ones.
     */
    void (*fit)(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                size_t group, uint16_t *code, size_t code_stride);
    /* Bytes of memory that a fit of groups of `cols` columns works in; NULL: none. */
    size_t (*scratch)(size_t cols);
};

/*
 * Levels that a format fixes, and its way to them: x / scale belongs to the level of rank k where k is the number of
 * bounds below it.
 */
struct qnti_codebook {
    const char *name;
    unsigned bits;
    const float *level;           /* [2^bits] by code */
    const float *bound;           /* [2^bits - 1] ascending; NULL: midpoints of neighbours */
    const uint8_t *code;          /* [2^bits] by rank; NULL: the rank itself */
    const struct qnti_small_float *number;   /* levels are all numbers of this type, and rounded as such; or NULL */
};

/* Levels of the kind "pairs", and the search for their scale. */
struct qnti_pairs {
    bool flint;                   /* normal levels are small floats, else integers */
    bool is_signed;               /* levels below 0 too */
    bool outliers;                /* wide levels: numbers 2k, 2k + 1 of a row are a pair, of which one may be such */
    bool larger;                  /* of two the larger stays, else the first */
    unsigned search_low, search_high;   /* the scale: percentages of the base tried, every second, high not */
};
enum { QNTI_PAIRS_LEAST_BITS = 3, QNTI_PAIRS_MOST_BITS = 8, QNTI_PAIRS_MOST_LEVELS = 511, QNTI_PAIRS_MOST_STEPS = 500 };

struct qnti_grid {
    const struct qnti_grid_kind *kind;
    const struct qnti_kernels *kernels;
    enum qnti_form form;
    unsigned bits;                /* of a stored code */
    unsigned levels;              /* codes run from 0 to levels - 1; of pairs, stored together, more than 1 << bits */
    struct qnti_map map;
    size_t span;                  /* columns that one fit sees; 0: one group; SIZE_MAX: the row */
    qnt_dtype float_type;         /* QNTI_FORM_FLOAT */
    qnt_dtype scale_type;         /* in which scales and offsets are stored, if they are not coded */
    bool integer_offset;          /* offsets are integers 0 .. levels - 1, stored in `bits` bits */
    bool real_offset;             /* offsets are any numbers: x / scale + offset is rounded, not the quotient alone */
    unsigned least_zero;          /* not sym: the least zero that a fit chooses */
    bool wide_zero;               /* it may lie outside the codes: ranges without 0 */
    bool constant_offset;         /* one offset for all, known from the grid: not stored */
    float offset;                 /* that one */
    float divisor;                /* QNTI_MAP_NONE: of all levels, above 0; 0: none */
    bool signed_codes;            /* codes are shown, and stored by formats of signed integers, as code - offset */
    const struct qnti_grid *scale_grid, *offset_grid;  /* scales, offsets that are codes themselves */
    const float *table;           /* QNTI_FORM_CODEBOOK: [levels] of the grid's kind, copied by its numbers; or NULL: */
    const struct qnti_codebook *book;   /* the table's bounds; NULL: codes are of the nearest level */
    struct qnti_pairs pairs;      /* of a grid of that kind, whose table ascends */
    unsigned codebook_size;       /* levels of a codebook that the numbers choose */
    bool codebook_per_row;
    /* What the affine kinds' fit is asked for (rtn.md). */
    bool sym;                     /* levels symmetric about 0 */
    bool absmax;                  /* sym: the largest magnitude is a level (G3), not half a step beyond (G2) */
    bool include_zero;            /* not sym: 0 is a level (G1), else min-max (G4) */
    bool whole_offset;            /* real_offset: a fit rounds its offsets all the same */
    bool half_open;               /* `levels` steps in a range, whose end is no level, not levels - 1 (ZeroQuant) */
    enum qnti_scale_rule scale_rule;
    float clip;                   /* share of the range that a fit keeps; 0: 1 */
    bool search;                  /* try shrunk ranges */
    float search_norm;            /* exponent of the error */
    unsigned search_steps;        /* ranges tried */
    double search_grid;           /* steps in the full range */
};

struct qnti_numbers {
    size_t rows, cols;
    struct qnti_grid grid;
    uint8_t *code8;               /* [rows * cols], for at most 8 bits and 256 levels */
    uint16_t *code16;             /* for more */
    float *value;                 /* the numbers as stored: always with FORM_FLOAT; else where they were asked for */
    struct qnti_numbers *scale, *offset, *codebook;   /* NULL where the grid has none */
    uint32_t *index;              /* the map's, owned */
    float *table;                 /* the grid's, owned */
};

/* --- map.c --- */
size_t qnti_map_group_rows(const struct qnti_map *map, size_t rows);
size_t qnti_map_groups(const struct qnti_map *map, size_t rows, size_t cols);
/* Row of the scale matrix, and group within it, of number (r, c). */
void qnti_map_find(const struct qnti_map *map, size_t cols, size_t r, size_t c, size_t *group_row, size_t *group);
/* Columns from c on that stay in c's group (at least 1). */
size_t qnti_map_run(const struct qnti_map *map, size_t cols, size_t r, size_t c);

/* --- numbers.c --- */
/* Allocates codes, scales and offsets of a grid for a matrix, all zero; the map's index and the table are copied. */
qnt_status qnti_numbers_create(qnt_context *ctx, const struct qnti_grid *grid, size_t rows, size_t cols,
                               struct qnti_numbers **numbers);
void qnti_numbers_free(qnt_context *ctx, struct qnti_numbers *numbers);
/* Plain numbers of a type: values rounded to it. */
qnt_status qnti_numbers_from_floats(qnt_context *ctx, qnt_dtype type, const float *x, size_t rows, size_t cols,
                                    struct qnti_numbers **numbers);
/* Values of n numbers of row r from column c on. */
void qnti_numbers_values(const struct qnti_numbers *numbers, size_t r, size_t c, size_t n, float *values);
/* Of numbers that have values beside their codes: the values of the codes. */
void qnti_numbers_settle(struct qnti_numbers *numbers);
void qnti_numbers_put_codes(struct qnti_numbers *numbers, size_t r, size_t c, size_t n, const uint16_t *code);
void qnti_numbers_get_codes(const struct qnti_numbers *numbers, size_t r, size_t c, size_t n, uint16_t *code);
/* Codes of 4 bits over the flattened matrix, the first of two in the high half, an odd last one beside that of 0. */
void qnti_numbers_nibbles(const struct qnti_numbers *numbers, uint8_t *bytes);
uint16_t qnti_numbers_code(const struct qnti_numbers *numbers, size_t r, size_t c);
/* Bits that a matrix on a grid takes when stored: codes at their width, scales, offsets, codebooks, index. */
double qnti_grid_bits(const struct qnti_grid *grid, size_t rows, size_t cols);
double qnti_numbers_bits(const struct qnti_numbers *numbers);  /* NULL: 0 */
/* The levels of row r's codes; NULL without a codebook. */
const float *qnti_numbers_codebook(const struct qnti_numbers *numbers, size_t r);
/* Scale and offset of number (r, c): 1 and 0 where the grid has none. */
void qnti_numbers_affine(const struct qnti_numbers *numbers, size_t r, size_t c, float *scale, float *offset);

/* --- grid.c --- */
/*
 * Codes and values of n independent numbers, number i with scale[i * stride], offset[i * stride] (stride 0 or 1). On a
 * grid of pairs numbers 2i, 2i + 1 of one scale are a pair: such runs begin at even columns of a row; stride 1: alone.
 */
void qnti_grid_round(const struct qnti_grid *grid, const float *codebook, size_t n, const float *x, const float *scale,
                     const float *offset, size_t stride, uint16_t *code, float *value);
void qnti_grid_value(const struct qnti_grid *grid, const float *codebook, size_t n, const uint16_t *code,
                     const float *scale, const float *offset, size_t stride, float *value);
/* Columns that one fit sees, for rows of `cols`. */
size_t qnti_grid_span(const struct qnti_grid *grid, size_t cols);
/* Memory for fits of bands of at most `cols` columns, to be freed; *scratch is NULL where the kind needs none. */
qnt_status qnti_grid_scratch(qnt_context *ctx, const struct qnti_grid *grid, size_t cols, void **scratch);
/* A scale as it will be stored; one that underflows to nothing there becomes the smallest that does not. */
float qnti_grid_stored_scale(const struct qnti_grid *grid, float scale);

/* --- the kinds --- */
extern const struct qnti_grid_kind qnti_affine_kind;   /* affine.c: G1 to G4 of rtn.md, range search */
extern const struct qnti_grid_kind qnti_minmax_kind;   /* minmax.c: real offsets, ranges without 0, coded scales */
extern const struct qnti_grid_kind qnti_paired_kind;   /* paired.c: scale and zero searched together */
extern const struct qnti_grid_kind qnti_float_kind;    /* float.c: f32, f16, bf16 */
struct qnti_grid qnti_float_grid(qnt_dtype type);
/* The grid of an affine code of `bits` in groups of `group_size` columns (0: the row), scales in `scale_type`. */
struct qnti_grid qnti_affine_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size,
                                  qnt_dtype scale_type);
/* The same, symmetric about 0 with the largest magnitude as a level, signed codes. */
struct qnti_grid qnti_signed_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size,
                                  qnt_dtype scale_type);
/* minmax.c: the same as the first with real offsets, and scale and offset of a range there. */
struct qnti_grid qnti_minmax_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size,
                                  qnt_dtype scale_type);
void qnti_minmax_affine(const struct qnti_grid *grid, float least, float greatest, float *scale, float *offset);
/* The same whose ranges are half open, with whole zeros, signed codes where it is symmetric. */
struct qnti_grid qnti_half_open_grid(const struct qnti_kernels *kernels, unsigned bits, size_t group_size, bool sym,
                                     qnt_dtype scale_type);
/*
 * centred.c (RPTQ): 2^bits steps over a range as it is, about its middle; codes are signed, zeros whole numbers of any
 * size. One group unless the map, of columns side by side, is set.
 */
extern const struct qnti_grid_kind qnti_centred_kind;
struct qnti_grid qnti_centred_grid(const struct qnti_kernels *kernels, unsigned bits, qnt_dtype scale_type);
void qnti_centred_affine(const struct qnti_grid *grid, float least, float greatest, float *scale, float *offset);
/* codebook.c: `1 << bits` free levels for each row, stored in `type`; no scale. Solvers fill it, there is no fit. */
struct qnti_grid qnti_free_levels_grid(const struct qnti_kernels *kernels, unsigned bits, qnt_dtype type);
/* codebook.c: levels from a table, each group scaled by its largest magnitude. */
extern const struct qnti_grid_kind qnti_codebook_kind;
extern const struct qnti_codebook qnti_nf4, qnti_fp4;  /* bitsandbytes' 4 bits */
extern const struct qnti_codebook qnti_dynamic8;       /* bitsandbytes' dynamic map, for scales that are codes */
/* Whether the grid's levels are the codebook's. */
bool qnti_codebook_is(const struct qnti_codebook *book, const struct qnti_grid *grid);
/* The grid of a codebook in runs of `block` numbers of the flattened matrix. */
struct qnti_grid qnti_codebook_grid(const struct qnti_kernels *kernels, const struct qnti_codebook *book, size_t block,
                                    qnt_dtype scale_type);
/* qnti_grid_round on a codebook grid. */
void qnti_codebook_round(const struct qnti_grid *grid, const float *codebook, size_t n, const float *x,
                         const float *scale, const float *offset, size_t stride, uint16_t *code, float *value);
/* small_float.c: floats of few bits, scaled by the largest level. */
extern const struct qnti_grid_kind qnti_small_float_kind;
extern const struct qnti_codebook qnti_fp8_e4m3, qnti_fp8_e5m2, qnti_fp4_e2m1, qnti_fp4_e3m0, qnti_fp4_e1m2;
/* Which of them has the grid's levels; NULL: none. */
const struct qnti_codebook *qnti_small_float_book(const struct qnti_grid *grid);
/* Groups of `group_size` columns of a row (0: the row); a scale_grid of the kind below may be added. */
struct qnti_grid qnti_small_float_grid(const struct qnti_kernels *kernels, const struct qnti_codebook *book,
                                       size_t group_size, qnt_dtype scale_type);
/* Numbers that are levels over one divisor: scales that are codes. */
struct qnti_grid qnti_divided_grid(const struct qnti_kernels *kernels, const struct qnti_codebook *book,
                                   float divisor);
/* Scales become powers of two, by a rule, in 8 bits. */
void qnti_power_scales(enum qnti_scale_rule rule, struct qnti_grid *grid);
/* Or halvings of one number of each row, or of the tensor, in 7 bits: on `second`, the number in the grid's type. */
void qnti_halved_scales(enum qnti_scale_rule rule, bool by_tensor, struct qnti_grid *second, struct qnti_grid *grid);
/* qnti_grid_round on a grid of them. */
void qnti_small_float_round(const struct qnti_grid *grid, size_t n, const float *x, const float *scale, size_t stride,
                            uint16_t *code, float *value);
/* pairs.c: levels of pairs, 3 to 8 bits, in groups of an even number of columns (0: the row). */
extern const struct qnti_grid_kind qnti_pairs_kind;
/* The levels ascend in `table`, which must outlive the grid. */
struct qnti_grid qnti_pairs_grid(const struct qnti_kernels *kernels, unsigned bits, struct qnti_pairs pairs,
                                 size_t group_size, qnt_dtype scale_type, float table[QNTI_PAIRS_MOST_LEVELS]);
/* Whether the grid is of that kind; whether a code of it is an outlier; the code of 0. */
bool qnti_in_pairs(const struct qnti_grid *grid);
bool qnti_pairs_outlier(const struct qnti_grid *grid, unsigned code);
unsigned qnti_pairs_zero(const struct qnti_grid *grid);
/* qnti_grid_round on one. */
void qnti_pairs_round(const struct qnti_grid *grid, size_t n, const float *x, const float *scale, size_t stride,
                      uint16_t *code, float *value);
/*
 * The search of its fit, for who shares a tensor among threads: how many steps are tried; the base of numbers
 * [rows][stride] that share a scale; a step's scale as it is stored; a row's square error with each, added to
 * errors [steps], in the memory that a fit of n columns asks for; the first step of the least.
 */
size_t qnti_pairs_steps(const struct qnti_grid *grid);
float qnti_pairs_base(const struct qnti_grid *grid, const float *x, size_t rows, size_t cols, size_t stride);
float qnti_pairs_scale(const struct qnti_grid *grid, float base, size_t step);
void qnti_pairs_errors(const struct qnti_grid *grid, float base, size_t n, const float *x, void *scratch,
                       double *errors);
size_t qnti_pairs_best(const double *errors, size_t n);
/* ggml.c: the grid of a ggml block type ("q4_0" ...); false if there is none of that name. */
bool qnti_ggml_grid(const struct qnti_kernels *kernels, const char *name, struct qnti_grid *grid);

#endif
