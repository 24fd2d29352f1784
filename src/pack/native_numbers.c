/*
 * native_numbers.c - numbers on their grids from a layer's tensors, and quantizers of activations: grids alone.
 */
#include "pack/native_reader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "base/tensor.h"
#include "pack/native_fields.h"
#include "pack/pair_codes.h"

enum { MOST_LEVELS_OF_NUMBERS = 3, MOST_BITS = 16 };

const struct qnti_tensor *qnti_reader_find(const struct qnti_reader *r, const char *suffix)
{
    char name[QNTI_READER_NAME_BYTES];
    if (snprintf(name, sizeof name, "%s.%s", r->prefix, suffix) >= (int)sizeof name)
        return NULL;
    return qnti_safetensors_find(r->file, name);
}

qnt_status qnti_reader_bad(const struct qnti_reader *r, const char *suffix, const char *what)
{
    return qnti_fail(r->ctx, QNT_BAD_DATA, "%s: tensor %s.%s %s", r->file->path, r->prefix, suffix, what);
}

/* A tensor of exactly n elements of a type; copies them out, since the mapping need not be aligned. */
qnt_status qnti_reader_elements(const struct qnti_reader *r, const char *suffix, const char *dtype, size_t n,
                                size_t size, void *out)
{
    const struct qnti_tensor *t = qnti_reader_find(r, suffix);
    if (!t)
        return qnti_reader_bad(r, suffix, "is missing");
    if (strcmp(t->dtype, dtype) != 0 || t->elements != n || t->bytes != n * size)
        return qnti_fail(r->ctx, QNT_BAD_DATA, "%s: tensor %s.%s is %s of %zu elements, not %s of %zu", r->file->path,
                         r->prefix, suffix, t->dtype, t->elements, dtype, n);
    memcpy(out, t->data, t->bytes);
    return QNT_OK;
}

qnt_status qnti_reader_words(const struct qnti_reader *r, const char *suffix, size_t n, int32_t *words)
{
    return qnti_reader_elements(r, suffix, "I32", n, 4, words);
}

/* The tensor must be of this type of floats and of n elements. */
qnt_status qnti_reader_floats(const struct qnti_reader *r, const char *suffix, qnt_dtype type, size_t n, float *x)
{
    const struct qnti_tensor *t = qnti_reader_find(r, suffix);
    if (!t || strcmp(t->dtype, qnti_dtype_name(type)) != 0 || t->elements != n)
        return qnti_reader_bad(r, suffix, "is missing or of another type or size");
    qnti_widen(r->ctx, type, t->data, n, x);
    return qnti_all_finite(x, n) ? QNT_OK : qnti_reader_bad(r, suffix, "holds a number that is not finite");
}

bool qnti_within(int32_t value, int32_t least, int32_t most)
{
    return value >= least && value <= most;
}

bool qnti_reader_float_type(int32_t type)
{
    return qnti_within(type, QNT_F32, QNT_BF16) || qnti_within(type, QNT_F8_E4M3, QNT_F8_E5M2);
}

/* Two codes of a pair stand for more levels than each of them has bits for. */
static int32_t most_levels(const struct qnti_reader *r, int32_t bits)
{
    return qnti_reader_find(r, "pairs") ? QNTI_PAIRS_MOST_LEVELS : 1 << bits;
}

static qnt_status check_grid(const struct qnti_reader *r, const int32_t *w)
{
    if (!qnti_within(w[GRID_ROWS], 1, INT32_MAX) || !qnti_within(w[GRID_COLS], 1, INT32_MAX))
        return qnti_reader_bad(r, "grid", "has an impossible shape");
    if (!qnti_within(w[GRID_FORM], QNTI_FORM_FLOAT, QNTI_FORM_CODEBOOK) ||
        !qnti_within(w[GRID_MAP], 0, QNTI_MAP_STRIDED) || !qnti_reader_float_type(w[GRID_FLOAT_TYPE]) ||
        !qnti_reader_float_type(w[GRID_SCALE_TYPE]))
        return qnti_reader_bad(r, "grid", "has an unknown form, map or type");
    if (w[GRID_MAP] == QNTI_MAP_NONE &&
        (w[GRID_FORM] != QNTI_FORM_CODEBOOK || !w[GRID_CONSTANT_OFFSET] || w[GRID_OFFSET_BITS]))
        return qnti_reader_bad(r, "grid", "has no scales, which its codes need");
    if (w[GRID_FORM] == QNTI_FORM_FLOAT)
        return QNT_OK;
    if (!qnti_within(w[GRID_BITS], 1, MOST_BITS) || !qnti_within(w[GRID_LEVELS], 2, most_levels(r, w[GRID_BITS])) ||
        !isfinite(qnti_float((uint32_t)w[GRID_OFFSET_BITS])))
        return qnti_reader_bad(r, "grid", "has impossible bits, levels or offset");
    if (w[GRID_SIGNED] && !(fabsf(qnti_float((uint32_t)w[GRID_OFFSET_BITS])) <= 1 << MOST_BITS))
        return qnti_reader_bad(r, "grid", "has signed codes about an impossible middle");
    if (w[GRID_MAP_ROWS] < 0 ||
        w[GRID_MAP_COLS] < (w[GRID_MAP] == QNTI_MAP_FLAT || w[GRID_MAP] == QNTI_MAP_STRIDED) ||
        (w[GRID_MAP] == QNTI_MAP_STRIDED && w[GRID_MAP_COLS] > (int64_t)w[GRID_ROWS] * w[GRID_COLS]) ||
        !qnti_within(w[GRID_INDEX_GROUPS], w[GRID_MAP] == QNTI_MAP_INDEX, w[GRID_COLS]))
        return qnti_reader_bad(r, "grid", "has impossible groups");
    if (!qnti_within(w[GRID_FIT], 0, FIT_ALL) || (w[GRID_FIT] && w[GRID_FORM] != QNTI_FORM_ZERO))
        return qnti_reader_bad(r, "grid", "has impossible ranges");
    if (w[GRID_FORM] == QNTI_FORM_CODEBOOK && w[GRID_CODEBOOK] != 0 &&
        !qnti_within(w[GRID_CODEBOOK], w[GRID_LEVELS], 1 << MOST_BITS))
        return qnti_reader_bad(r, "grid", "has a codebook of an impossible size");
    return QNT_OK;
}

static qnt_status read_grid(const struct qnti_reader *r, struct qnti_grid *grid, size_t *rows, size_t *cols,
                            bool *value)
{
    static const struct qnti_grid_kind *const kind_of[] = {[QNTI_FORM_FLOAT] = &qnti_float_kind,
                                                           [QNTI_FORM_ZERO] = &qnti_affine_kind,
                                                           [QNTI_FORM_MIN] = &qnti_affine_kind,
                                                           [QNTI_FORM_CODEBOOK] = &qnti_codebook_kind};
    int32_t w[GRID_WORDS];
    QNT_TRY(qnti_reader_words(r, "grid", GRID_WORDS, w));
    QNT_TRY(check_grid(r, w));
    *rows = (size_t)w[GRID_ROWS];
    *cols = (size_t)w[GRID_COLS];
    *value = w[GRID_HAS_VALUE] != 0;
    *grid = (struct qnti_grid){.kind = w[GRID_FIT] & FIT_MIN_MAX ? &qnti_minmax_kind : kind_of[w[GRID_FORM]],
                               .kernels = qnti_context_kernels(r->ctx),
                               .form = (enum qnti_form)w[GRID_FORM],
                               .bits = (unsigned)w[GRID_BITS],
                               .levels = (unsigned)w[GRID_LEVELS],
                               .map = {.kind = (enum qnti_map_kind)w[GRID_MAP],
                                       .rows = (size_t)w[GRID_MAP_ROWS],
                                       .cols = (size_t)w[GRID_MAP_COLS],
                                       .index_groups = (size_t)w[GRID_INDEX_GROUPS]},
                               .float_type = (qnt_dtype)w[GRID_FLOAT_TYPE],
                               .scale_type = (qnt_dtype)w[GRID_SCALE_TYPE],
                               .integer_offset = w[GRID_INTEGER_OFFSET] != 0,
                               .real_offset = (w[GRID_FIT] & FIT_REAL_OFFSET) != 0,
                               .constant_offset = w[GRID_CONSTANT_OFFSET] != 0,
                               .offset = qnti_float((uint32_t)w[GRID_OFFSET_BITS]),
                               .codebook_size = (unsigned)w[GRID_CODEBOOK],
                               .codebook_per_row = w[GRID_CODEBOOK_PER_ROW] != 0,
                               .sym = w[GRID_SYM] != 0,
                               .absmax = w[GRID_ABSMAX] != 0,
                               .include_zero = w[GRID_INCLUDE_ZERO] != 0,
                               .half_open = (w[GRID_FIT] & FIT_HALF_OPEN) != 0,
                               .whole_offset = (w[GRID_FIT] & FIT_WHOLE_OFFSET) != 0,
                               .wide_zero = (w[GRID_FIT] & FIT_WIDE_ZERO) != 0,
                               .signed_codes = w[GRID_SIGNED] != 0};
    return QNT_OK;
}

static qnt_status read_index(const struct qnti_reader *r, size_t cols, size_t groups, uint32_t **index)
{
    QNT_TRY(QNTI_NEW(r->ctx, cols, index));
    QNT_TRY(qnti_reader_elements(r, "index", "U32", cols, 4, *index));
    for (size_t c = 0; c < cols; c++)
        if ((*index)[c] >= groups)
            return qnti_reader_bad(r, "index", "names a group that is not there");
    return QNT_OK;
}

/* Levels that the grid's kind fixes; every file holds its own. */
static qnt_status read_table(const struct qnti_reader *r, size_t levels, float **table)
{
    if (!qnti_reader_find(r, "table"))
        return qnti_reader_bad(r, "table", "is missing");
    QNT_TRY(QNTI_NEW_RAW(r->ctx, levels, table));
    return qnti_reader_floats(r, "table", QNT_F32, levels, *table);
}

/* Levels of pairs are known from what they are. */
static qnt_status read_pairs(const struct qnti_reader *r, struct qnti_grid *grid, float **table)
{
    struct qnti_grid known;
    int32_t w[PAIRS_WORDS];
    QNT_TRY(qnti_reader_words(r, "pairs", PAIRS_WORDS, w));
    for (size_t i = 0; i < PAIRS_WORDS; i++)
        if (!qnti_within(w[i], 0, 1))
            return qnti_reader_bad(r, "pairs", "holds neither 0 nor 1");
    if (!qnti_within((int32_t)grid->bits, QNTI_PAIRS_LEAST_BITS, QNTI_PAIRS_MOST_BITS) ||
        grid->map.kind != QNTI_MAP_TILES || grid->map.cols % 2 || !grid->constant_offset || grid->offset != 0)
        return qnti_reader_bad(r, "grid", "has bits, groups or an offset that pairs cannot have");
    QNT_TRY(QNTI_NEW_RAW(r->ctx, QNTI_PAIRS_MOST_LEVELS, table));
    known = qnti_pairs_grid(grid->kernels, grid->bits,
                            (struct qnti_pairs){.flint = w[PAIRS_FLINT], .is_signed = w[PAIRS_SIGNED],
                                                .outliers = w[PAIRS_OUTLIERS], .larger = w[PAIRS_LARGER]},
                            grid->map.cols, grid->scale_type, *table);
    known.map.rows = grid->map.rows;
    if (known.levels != grid->levels)
        return qnti_reader_bad(r, "grid", "has another number of levels than its pairs");
    *grid = known;
    return QNT_OK;
}

/* What the codes of a codebook that its kind fixes stand for; *table is to be freed. */
static qnt_status read_levels(const struct qnti_reader *r, struct qnti_grid *grid, float **table)
{
    if (qnti_reader_find(r, "pairs") && grid->form == QNTI_FORM_CODEBOOK && !grid->codebook_size)
        return read_pairs(r, grid, table);
    if (qnti_reader_find(r, "pairs"))
        return qnti_reader_bad(r, "pairs", "stands beside codes of another kind");
    if (grid->form != QNTI_FORM_CODEBOOK || grid->codebook_size)
        return QNT_OK;
    QNT_TRY(read_table(r, grid->levels, table));
    grid->table = *table;
    grid->book = qnti_small_float_book(grid);
    if (grid->book)
        grid->kind = &qnti_small_float_kind;
    if (!qnti_reader_find(r, "divisor"))
        return QNT_OK;
    QNT_TRY(qnti_reader_floats(r, "divisor", QNT_F32, 1, &grid->divisor));
    if (grid->map.kind == QNTI_MAP_NONE && grid->divisor > 0)
        return QNT_OK;
    return qnti_reader_bad(r, "divisor", "is not above 0, or stands beside scales");
}

static qnt_status read_pair_codes(const struct qnti_reader *r, struct qnti_numbers *q)
{
    const struct qnti_tensor *t = qnti_reader_find(r, "codes");
    if (!t || strcmp(t->dtype, "U8") != 0 || t->bytes != qnti_pair_codes_bytes(q))
        return qnti_reader_bad(r, "codes", "is missing or of another size than its grid says");
    return qnti_pair_codes_read(q, t->data) ? QNT_OK : qnti_reader_bad(r, "codes", "holds what is no pair");
}

/* Codes at their width; each must be a level. */
static qnt_status read_codes(const struct qnti_reader *r, struct qnti_numbers *q)
{
    enum { CHUNK = 4096 };
    const struct qnti_kernels *k = qnti_context_kernels(r->ctx);
    const struct qnti_tensor *t = qnti_reader_find(r, "codes");
    size_t n = q->rows * q->cols;
    uint16_t code[CHUNK];
    if (qnti_in_pairs(&q->grid))
        return read_pair_codes(r, q);
    if (!t || strcmp(t->dtype, "U8") != 0 || t->bytes != qnti_ceil_div(n * q->grid.bits, 8))
        return qnti_reader_bad(r, "codes", "is missing or of another size than its grid says");
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done);
        k->unpack(run, q->grid.bits, (const uint8_t *)t->data + done / 8 * q->grid.bits, code);
        for (size_t i = 0; i < run; i++) {
            if (code[i] >= q->grid.levels)
                return qnti_reader_bad(r, "codes", "holds a code beyond the grid's levels");
            if (q->code16)
                q->code16[done + i] = code[i];
            else
                q->code8[done + i] = (uint8_t)code[i];
        }
    }
    return QNT_OK;
}

static qnt_status read_integer_offsets(const struct qnti_reader *r, struct qnti_numbers *q)
{
    const struct qnti_kernels *k = qnti_context_kernels(r->ctx);
    const struct qnti_tensor *t = qnti_reader_find(r, "offset_codes");
    size_t n = q->offset->rows * q->offset->cols;
    uint16_t *code;
    if (!t || strcmp(t->dtype, "U8") != 0 || t->bytes != qnti_ceil_div(n * q->grid.bits, 8))
        return qnti_reader_bad(r, "offset_codes", "is missing or of another size than its grid says");
    QNT_TRY(QNTI_NEW_RAW(r->ctx, n, &code));
    k->unpack(n, q->grid.bits, t->data, code);
    for (size_t i = 0; i < n; i++)
        q->offset->value[i] = (float)code[i];
    qnti_free(r->ctx, code);
    return QNT_OK;
}

static qnt_status read_numbers(const struct qnti_reader *r, const char *suffix, struct qnti_numbers **numbers);

/* A second level of the shape that its matrix asks for, in place of the empty one. */
static qnt_status read_second(const struct qnti_reader *r, const char *suffix, struct qnti_numbers **second)
{
    struct qnti_numbers *read;
    size_t rows = (*second)->rows, cols = (*second)->cols;
    QNT_TRY(read_numbers(r, suffix, &read));
    if (read->rows != rows || read->cols != cols) {
        qnti_numbers_free(r->ctx, read);
        return qnti_reader_bad(r, suffix, "is not of the shape that its matrix needs");
    }
    if (!read->value) { /* scales are read in every inner loop: their values stand beside their codes */
        float *value;
        qnt_status status = QNTI_NEW_RAW(r->ctx, rows * cols, &value);
        if (status != QNT_OK) {
            qnti_numbers_free(r->ctx, read);
            return status;
        }
        for (size_t i = 0; i < rows; i++)
            qnti_numbers_values(read, i, 0, cols, value + i * cols);
        read->value = value;
    }
    qnti_numbers_free(r->ctx, *second);
    *second = read;
    return QNT_OK;
}

static qnt_status read_parts(const struct qnti_reader *r, struct qnti_numbers *q)
{
    if (q->grid.form == QNTI_FORM_FLOAT)
        return qnti_reader_floats(r, "values", q->grid.float_type, q->rows * q->cols, q->value);
    QNT_TRY(read_codes(r, q));
    if (q->scale)
        QNT_TRY(read_second(r, "scale", &q->scale));
    if (q->scale && q->scale->grid.form != QNTI_FORM_FLOAT)
        q->grid.scale_grid = &q->scale->grid;
    if (q->offset && q->grid.integer_offset)
        QNT_TRY(read_integer_offsets(r, q));
    else if (q->offset)
        QNT_TRY(read_second(r, "offset", &q->offset));
    if (q->offset && q->offset->grid.form != QNTI_FORM_FLOAT)
        q->grid.offset_grid = &q->offset->grid;
    return q->codebook ? read_second(r, "codebook", &q->codebook) : QNT_OK;
}

static qnt_status read_numbers(const struct qnti_reader *r, const char *suffix, struct qnti_numbers **numbers)
{
    char prefix[QNTI_READER_NAME_BYTES];
    struct qnti_reader inner = {r->ctx, r->file, prefix, r->depth + 1};
    struct qnti_grid grid;
    struct qnti_numbers *q = NULL;
    uint32_t *index = NULL;
    float *table = NULL;
    size_t rows, cols, n;
    bool value;
    qnt_status status;
    if (snprintf(prefix, sizeof prefix, "%s.%s", r->prefix, suffix) >= (int)sizeof prefix ||
        inner.depth > MOST_LEVELS_OF_NUMBERS)
        return qnti_reader_bad(r, suffix, "is nested too deeply");
    QNT_TRY(read_grid(&inner, &grid, &rows, &cols, &value));
    if (!qnti_multiply(rows, cols, &n) || n > r->file->bytes * 8)
        return qnti_reader_bad(&inner, "grid", "has a shape larger than the file");
    if (grid.form == QNTI_FORM_CODEBOOK && (grid.codebook_per_row ? rows : 1) * grid.codebook_size > r->file->bytes)
        return qnti_reader_bad(&inner, "grid", "has codebooks larger than the file");
    if (grid.map.kind == QNTI_MAP_INDEX && grid.form != QNTI_FORM_FLOAT)
        QNT_CHECK(read_index(&inner, cols, grid.map.index_groups, &index));
    grid.map.index = index;
    QNT_CHECK(read_levels(&inner, &grid, &table));
    QNT_CHECK(qnti_numbers_create(r->ctx, &grid, rows, cols, &q));
    QNT_CHECK(read_parts(&inner, q));
    *numbers = q;
    q = NULL;
cleanup:
    qnti_free(r->ctx, index);
    qnti_free(r->ctx, table);
    qnti_numbers_free(r->ctx, q);
    return status;
}

qnt_status qnti_reader_numbers(const struct qnti_reader *r, const char *suffix, size_t rows, size_t cols,
                                struct qnti_numbers **numbers)
{
    char grid[QNTI_READER_NAME_BYTES];
    snprintf(grid, sizeof grid, "%s.grid", suffix);
    if (!qnti_reader_find(r, grid))
        return QNT_OK;
    QNT_TRY(read_numbers(r, suffix, numbers));
    if ((rows && (*numbers)->rows != rows) || (cols && (*numbers)->cols != cols))
        return qnti_reader_bad(r, suffix, "is not of the layer's shape");
    return QNT_OK;
}

/* --- grids without numbers --- */

/* A grid whose scales are made at run time, or known, and what it points to. */
struct bare {
    char prefix[QNTI_READER_NAME_BYTES];
    struct qnti_grid grid, scales;
    uint32_t *index;
    float *table;
};

static void bare_free(qnt_context *ctx, struct bare *bare)
{
    qnti_free(ctx, bare->index);
    qnti_free(ctx, bare->table);
}

/* Activations have no codebooks but those of small floats and of pairs, whose levels the library knows. */
static qnt_status read_known_levels(const struct qnti_reader *r, struct qnti_grid *grid, float **table)
{
    QNT_TRY(read_levels(r, grid, table));
    if (grid->form != QNTI_FORM_CODEBOOK || qnti_in_pairs(grid))
        return QNT_OK;
    if (!grid->book || !grid->constant_offset || grid->offset != 0)
        return qnti_reader_bad(r, "grid", "has a codebook that activations cannot have");
    grid->table = grid->book->level;
    return QNT_OK;
}

/* The grid of scales that are codes: small floats by themselves. */
static qnt_status read_scale_grid(const struct qnti_reader *r, struct qnti_grid *grid, struct qnti_grid *scales)
{
    char prefix[QNTI_READER_NAME_BYTES];
    struct qnti_reader inner = {r->ctx, r->file, prefix, 1};
    float *table = NULL;
    size_t rows, cols;
    bool value;
    qnt_status status;
    if (!qnti_reader_find(r, "scale.grid") || qnti_reader_find(r, "scale.codes") || qnti_reader_find(r, "scale.values"))
        return QNT_OK;
    if (snprintf(prefix, sizeof prefix, "%s.scale", r->prefix) >= (int)sizeof prefix)
        return qnti_reader_bad(r, "scale", "has too long a name");
    QNT_TRY(read_grid(&inner, scales, &rows, &cols, &value));
    status = read_known_levels(&inner, scales, &table);
    qnti_free(r->ctx, table);
    QNT_TRY(status);
    if (!scales->book || scales->map.kind != QNTI_MAP_NONE || !(scales->divisor > 0) || !grid->book)
        return qnti_reader_bad(&inner, "grid", "is no grid of scales that activations can have");
    grid->scale_grid = scales;
    return QNT_OK;
}

/* For rows of `cols` numbers; *bare is zero before, and to be freed whatever comes of it. */
static qnt_status read_bare_grid(const struct qnti_reader *r, const char *suffix, size_t cols, struct bare *bare)
{
    struct qnti_reader inner = {r->ctx, r->file, bare->prefix, 1};
    struct qnti_grid *grid = &bare->grid;
    size_t grid_rows, grid_cols;
    bool value;
    if (snprintf(bare->prefix, sizeof bare->prefix, "%s.%s_grid", r->prefix, suffix) >= (int)sizeof bare->prefix)
        return qnti_reader_bad(r, suffix, "has too long a name");
    QNT_TRY(read_grid(&inner, grid, &grid_rows, &grid_cols, &value));
    if (grid_cols != cols)
        return qnti_reader_bad(&inner, "grid", "is not of the layer's width");
    QNT_TRY(read_known_levels(&inner, grid, &bare->table));
    QNT_TRY(read_scale_grid(&inner, grid, &bare->scales));
    if (grid->map.kind == QNTI_MAP_STRIDED || grid->map.kind == QNTI_MAP_NONE)
        return qnti_reader_bad(&inner, "grid", "has strided groups or none, which activations cannot have");
    if (grid->map.kind == QNTI_MAP_INDEX)
        QNT_TRY(read_index(&inner, cols, grid->map.index_groups, &bare->index));
    grid->map.index = bare->index;
    return QNT_OK;
}

qnt_status qnti_reader_act(const struct qnti_reader *r, const char *suffix, size_t cols, struct qnti_actquant **act)
{
    struct bare bare = {.index = NULL};
    struct qnti_reader inner = {r->ctx, r->file, bare.prefix, 1};
    int32_t words[ACT_WORDS];
    qnt_status status;
    if (!qnti_reader_find(r, suffix))
        return QNT_OK;
    QNT_TRY(qnti_reader_words(r, suffix, ACT_WORDS, words));
    QNT_CHECK(read_bare_grid(r, suffix, cols, &bare));
    if (qnti_in_pairs(&bare.grid) && !words[ACT_FIXED])
        QNT_CHECK(qnti_reader_bad(r, suffix, "has pairs without a scale"));
    QNT_CHECK(qnti_actquant_create(r->ctx, &bare.grid, cols, words[ACT_FIXED] != 0, act));
    (*act)->clip = qnti_float((uint32_t)words[ACT_CLIP_BITS]);
    (*act)->threshold = qnti_float((uint32_t)words[ACT_THRESHOLD_BITS]);
    (*act)->input_type = (qnt_dtype)words[ACT_INPUT_TYPE];
    (*act)->range_of_kept = words[ACT_RANGE_OF_KEPT] != 0;
    (*act)->given = words[ACT_GIVEN] != 0;
    if (!(fabsf((*act)->clip) <= 1) || !((*act)->threshold >= 0) || !qnti_reader_float_type(words[ACT_INPUT_TYPE]))
        QNT_CHECK(qnti_reader_bad(r, suffix, "has an impossible clip, threshold or type"));
    if ((*act)->fixed)
        QNT_CHECK(read_parts(&inner, (*act)->fixed));
cleanup:
    bare_free(r->ctx, &bare);
    return status;
}

qnt_status qnti_reader_cache(const struct qnti_reader *r, size_t out, struct qnti_cache **cache)
{
    struct bare bare = {.index = NULL};
    struct qnti_grid grid;
    int32_t w[CACHE_WORDS];
    qnt_status status;
    if (!qnti_reader_find(r, "output"))
        return QNT_OK;
    QNT_TRY(qnti_reader_words(r, "output", CACHE_WORDS, w));
    if (w[CACHE_HEAD_DIM] < 1 || w[CACHE_WINDOW] < 0 || w[CACHE_SINKS] < 0)
        return qnti_reader_bad(r, "output", "has an impossible head or window");
    status = read_bare_grid(r, "output", (size_t)w[CACHE_HEAD_DIM], &bare);
    bare_free(r->ctx, &bare);
    QNT_TRY(status);
    grid = bare.grid;
    if (grid.map.kind != QNTI_MAP_TILES || grid.map.rows != 1 || grid.form == QNTI_FORM_CODEBOOK)
        return qnti_reader_bad(r, "output", "has groups that are no runs");
    QNT_TRY(QNTI_NEW_RAW(r->ctx, 1, cache));
    **cache = (struct qnti_cache){.grid = grid, .head_dim = (size_t)w[CACHE_HEAD_DIM],
                                  .by_channel = w[CACHE_BY_CHANNEL] != 0, .rotated = w[CACHE_ROTATED] != 0,
                                  .before_rope = w[CACHE_BEFORE_ROPE] != 0, .window = (size_t)w[CACHE_WINDOW],
                                  .sinks = (size_t)w[CACHE_SINKS],
                                  .clip = qnti_float((uint32_t)w[CACHE_CLIP_BITS])};
    if (!(fabsf((*cache)->clip) <= 1) || qnti_cache_check(r->ctx, *cache, r->prefix, out) != QNT_OK)
        return qnti_reader_bad(r, "output", "has an impossible clip, head or window");
    return QNT_OK;
}
