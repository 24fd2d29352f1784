/*
 * native_read.c - a layer from its tensors; every size is checked against its description.
 */
#include "pack/native.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "base/tensor.h"
#include "pack/native_fields.h"

enum { NAME_BYTES = 512, MOST_SEGMENTS = 4096, MOST_LEVELS_OF_NUMBERS = 3, MOST_BITS = 16 };

struct reader {
    qnt_context *ctx;
    const struct qnti_safetensors *file;
    const char *prefix;
    int depth;
};

static const struct qnti_tensor *find(const struct reader *r, const char *suffix)
{
    char name[NAME_BYTES];
    if (snprintf(name, sizeof name, "%s.%s", r->prefix, suffix) >= (int)sizeof name)
        return NULL;
    return qnti_safetensors_find(r->file, name);
}

static qnt_status bad(const struct reader *r, const char *suffix, const char *what)
{
    return qnti_fail(r->ctx, QNT_BAD_DATA, "%s: tensor %s.%s %s", r->file->path, r->prefix, suffix, what);
}

/* A tensor of exactly n elements of a type; copies them out, since the mapping need not be aligned. */
static qnt_status read_elements(const struct reader *r, const char *suffix, const char *dtype, size_t n, size_t size,
                                void *out)
{
    const struct qnti_tensor *t = find(r, suffix);
    if (!t)
        return bad(r, suffix, "is missing");
    if (strcmp(t->dtype, dtype) != 0 || t->elements != n || t->bytes != n * size)
        return qnti_fail(r->ctx, QNT_BAD_DATA, "%s: tensor %s.%s is %s of %zu elements, not %s of %zu", r->file->path,
                         r->prefix, suffix, t->dtype, t->elements, dtype, n);
    memcpy(out, t->data, t->bytes);
    return QNT_OK;
}

static qnt_status read_words(const struct reader *r, const char *suffix, size_t n, int32_t *words)
{
    return read_elements(r, suffix, "I32", n, 4, words);
}

/* The tensor must be of this type of floats and of n elements. */
static qnt_status read_floats(const struct reader *r, const char *suffix, qnt_dtype type, size_t n, float *x)
{
    const struct qnti_tensor *t = find(r, suffix);
    if (!t || strcmp(t->dtype, qnti_dtype_name(type)) != 0 || t->elements != n)
        return bad(r, suffix, "is missing or of another type or size");
    qnti_widen(r->ctx, type, t->data, n, x);
    return qnti_all_finite(x, n) ? QNT_OK : bad(r, suffix, "holds a number that is not finite");
}

static bool in_range(int32_t value, int32_t least, int32_t most)
{
    return value >= least && value <= most;
}

static bool float_type(int32_t type)
{
    return in_range(type, QNT_F32, QNT_BF16) || in_range(type, QNT_F8_E4M3, QNT_F8_E8M0);
}

static qnt_status check_grid(const struct reader *r, const int32_t *w)
{
    if (!in_range(w[GRID_ROWS], 1, INT32_MAX) || !in_range(w[GRID_COLS], 1, INT32_MAX))
        return bad(r, "grid", "has an impossible shape");
    if (!in_range(w[GRID_FORM], QNTI_FORM_FLOAT, QNTI_FORM_CODEBOOK) || !in_range(w[GRID_MAP], 0, QNTI_MAP_STRIDED) ||
        !float_type(w[GRID_FLOAT_TYPE]) || !float_type(w[GRID_SCALE_TYPE]))
        return bad(r, "grid", "has an unknown form, map or type");
    if (w[GRID_MAP] == QNTI_MAP_NONE &&
        (w[GRID_FORM] != QNTI_FORM_CODEBOOK || !w[GRID_CONSTANT_OFFSET] || w[GRID_OFFSET_BITS]))
        return bad(r, "grid", "has no scales, which its codes need");
    if (w[GRID_FORM] == QNTI_FORM_FLOAT)
        return QNT_OK;
    if (!in_range(w[GRID_BITS], 1, MOST_BITS) || !in_range(w[GRID_LEVELS], 2, 1 << w[GRID_BITS]) ||
        !isfinite(qnti_float((uint32_t)w[GRID_OFFSET_BITS])))
        return bad(r, "grid", "has impossible bits, levels or offset");
    if (w[GRID_SIGNED] && !(fabsf(qnti_float((uint32_t)w[GRID_OFFSET_BITS])) <= 1 << MOST_BITS))
        return bad(r, "grid", "has signed codes about an impossible middle");
    if (w[GRID_MAP_ROWS] < 0 ||
        w[GRID_MAP_COLS] < (w[GRID_MAP] == QNTI_MAP_FLAT || w[GRID_MAP] == QNTI_MAP_STRIDED) ||
        (w[GRID_MAP] == QNTI_MAP_STRIDED && w[GRID_MAP_COLS] > (int64_t)w[GRID_ROWS] * w[GRID_COLS]) ||
        !in_range(w[GRID_INDEX_GROUPS], w[GRID_MAP] == QNTI_MAP_INDEX, w[GRID_COLS]))
        return bad(r, "grid", "has impossible groups");
    if (w[GRID_FORM] == QNTI_FORM_CODEBOOK && w[GRID_CODEBOOK] != 0 &&
        !in_range(w[GRID_CODEBOOK], w[GRID_LEVELS], 1 << MOST_BITS))
        return bad(r, "grid", "has a codebook of an impossible size");
    return QNT_OK;
}

static qnt_status read_grid(const struct reader *r, struct qnti_grid *grid, size_t *rows, size_t *cols, bool *value)
{
    static const struct qnti_grid_kind *const kind_of[] = {[QNTI_FORM_FLOAT] = &qnti_float_kind,
                                                           [QNTI_FORM_ZERO] = &qnti_affine_kind,
                                                           [QNTI_FORM_MIN] = &qnti_affine_kind,
                                                           [QNTI_FORM_CODEBOOK] = &qnti_codebook_kind};
    int32_t w[GRID_WORDS];
    QNT_TRY(read_words(r, "grid", GRID_WORDS, w));
    QNT_TRY(check_grid(r, w));
    *rows = (size_t)w[GRID_ROWS];
    *cols = (size_t)w[GRID_COLS];
    *value = w[GRID_HAS_VALUE] != 0;
    *grid = (struct qnti_grid){.kind = kind_of[w[GRID_FORM]],
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
                               .real_offset = w[GRID_FORM] == QNTI_FORM_ZERO && !w[GRID_INTEGER_OFFSET] &&
                                              !w[GRID_CONSTANT_OFFSET],
                               .constant_offset = w[GRID_CONSTANT_OFFSET] != 0,
                               .offset = qnti_float((uint32_t)w[GRID_OFFSET_BITS]),
                               .codebook_size = (unsigned)w[GRID_CODEBOOK],
                               .codebook_per_row = w[GRID_CODEBOOK_PER_ROW] != 0,
                               .sym = w[GRID_SYM] != 0,
                               .absmax = w[GRID_ABSMAX] != 0,
                               .include_zero = w[GRID_INCLUDE_ZERO] != 0,
                               .signed_codes = w[GRID_SIGNED] != 0};
    return QNT_OK;
}

static qnt_status read_index(const struct reader *r, size_t cols, size_t groups, uint32_t **index)
{
    QNT_TRY(QNTI_NEW(r->ctx, cols, index));
    QNT_TRY(read_elements(r, "index", "U32", cols, 4, *index));
    for (size_t c = 0; c < cols; c++)
        if ((*index)[c] >= groups)
            return bad(r, "index", "names a group that is not there");
    return QNT_OK;
}

/* Levels that the grid's kind fixes; every file holds its own. */
static qnt_status read_table(const struct reader *r, size_t levels, float **table)
{
    if (!find(r, "table"))
        return bad(r, "table", "is missing");
    QNT_TRY(QNTI_NEW_RAW(r->ctx, levels, table));
    return read_floats(r, "table", QNT_F32, levels, *table);
}

/* What the codes of a codebook that its kind fixes stand for; *table is to be freed. */
static qnt_status read_levels(const struct reader *r, struct qnti_grid *grid, float **table)
{
    if (grid->form != QNTI_FORM_CODEBOOK || grid->codebook_size)
        return QNT_OK;
    QNT_TRY(read_table(r, grid->levels, table));
    grid->table = *table;
    if (grid->levels == 1u << grid->bits)
        grid->book = qnti_small_float_book(grid->bits, *table);
    if (grid->book)
        grid->kind = &qnti_small_float_kind;
    if (!find(r, "divisor"))
        return QNT_OK;
    QNT_TRY(read_floats(r, "divisor", QNT_F32, 1, &grid->divisor));
    if (grid->map.kind == QNTI_MAP_NONE && grid->divisor > 0)
        return QNT_OK;
    return bad(r, "divisor", "is not above 0, or stands beside scales");
}

/* Codes at their width; each must be a level. */
static qnt_status read_codes(const struct reader *r, struct qnti_numbers *q)
{
    enum { CHUNK = 4096 };
    const struct qnti_kernels *k = qnti_context_kernels(r->ctx);
    const struct qnti_tensor *t = find(r, "codes");
    size_t n = q->rows * q->cols;
    uint16_t code[CHUNK];
    if (!t || strcmp(t->dtype, "U8") != 0 || t->bytes != qnti_ceil_div(n * q->grid.bits, 8))
        return bad(r, "codes", "is missing or of another size than its grid says");
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done);
        k->unpack(run, q->grid.bits, (const uint8_t *)t->data + done / 8 * q->grid.bits, code);
        for (size_t i = 0; i < run; i++) {
            if (code[i] >= q->grid.levels)
                return bad(r, "codes", "holds a code beyond the grid's levels");
            if (q->code16)
                q->code16[done + i] = code[i];
            else
                q->code8[done + i] = (uint8_t)code[i];
        }
    }
    return QNT_OK;
}

static qnt_status read_integer_offsets(const struct reader *r, struct qnti_numbers *q)
{
    const struct qnti_kernels *k = qnti_context_kernels(r->ctx);
    const struct qnti_tensor *t = find(r, "offset_codes");
    size_t n = q->offset->rows * q->offset->cols;
    uint16_t *code;
    if (!t || strcmp(t->dtype, "U8") != 0 || t->bytes != qnti_ceil_div(n * q->grid.bits, 8))
        return bad(r, "offset_codes", "is missing or of another size than its grid says");
    QNT_TRY(QNTI_NEW_RAW(r->ctx, n, &code));
    k->unpack(n, q->grid.bits, t->data, code);
    for (size_t i = 0; i < n; i++)
        q->offset->value[i] = (float)code[i];
    qnti_free(r->ctx, code);
    return QNT_OK;
}

static qnt_status read_numbers(const struct reader *r, const char *suffix, struct qnti_numbers **numbers);

/* A second level of the shape that its matrix asks for, in place of the empty one. */
static qnt_status read_second(const struct reader *r, const char *suffix, struct qnti_numbers **second)
{
    struct qnti_numbers *read;
    size_t rows = (*second)->rows, cols = (*second)->cols;
    QNT_TRY(read_numbers(r, suffix, &read));
    if (read->rows != rows || read->cols != cols) {
        qnti_numbers_free(r->ctx, read);
        return bad(r, suffix, "is not of the shape that its matrix needs");
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

static qnt_status read_parts(const struct reader *r, struct qnti_numbers *q)
{
    if (q->grid.form == QNTI_FORM_FLOAT)
        return read_floats(r, "values", q->grid.float_type, q->rows * q->cols, q->value);
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

static qnt_status read_numbers(const struct reader *r, const char *suffix, struct qnti_numbers **numbers)
{
    char prefix[NAME_BYTES];
    struct reader inner = {r->ctx, r->file, prefix, r->depth + 1};
    struct qnti_grid grid;
    struct qnti_numbers *q = NULL;
    uint32_t *index = NULL;
    float *table = NULL;
    size_t rows, cols, n;
    bool value;
    qnt_status status;
    if (snprintf(prefix, sizeof prefix, "%s.%s", r->prefix, suffix) >= (int)sizeof prefix ||
        inner.depth > MOST_LEVELS_OF_NUMBERS)
        return bad(r, suffix, "is nested too deeply");
    QNT_TRY(read_grid(&inner, &grid, &rows, &cols, &value));
    if (!qnti_multiply(rows, cols, &n) || n > r->file->bytes * 8)
        return bad(&inner, "grid", "has a shape larger than the file");
    if (grid.form == QNTI_FORM_CODEBOOK && (grid.codebook_per_row ? rows : 1) * grid.codebook_size > r->file->bytes)
        return bad(&inner, "grid", "has codebooks larger than the file");
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

static qnt_status read_optional(const struct reader *r, const char *suffix, size_t rows, size_t cols,
                                struct qnti_numbers **numbers)
{
    char grid[NAME_BYTES];
    snprintf(grid, sizeof grid, "%s.grid", suffix);
    if (!find(r, grid))
        return QNT_OK;
    QNT_TRY(read_numbers(r, suffix, numbers));
    if ((rows && (*numbers)->rows != rows) || (cols && (*numbers)->cols != cols))
        return bad(r, suffix, "is not of the layer's shape");
    return QNT_OK;
}

/* Activations have no codebooks but those of small floats, whose levels the library knows. */
static qnt_status read_small_float(const struct reader *r, struct qnti_grid *grid)
{
    float *table = NULL;
    qnt_status status;
    if (grid->form != QNTI_FORM_CODEBOOK)
        return QNT_OK;
    status = read_levels(r, grid, &table);
    qnti_free(r->ctx, table);
    QNT_TRY(status);
    if (!grid->book || !grid->constant_offset || grid->offset != 0)
        return bad(r, "grid", "has a codebook that activations cannot have");
    grid->table = grid->book->level;
    return QNT_OK;
}

/* The grid of scales that are codes: small floats by themselves. */
static qnt_status read_scale_grid(const struct reader *r, struct qnti_grid *grid, struct qnti_grid *scales)
{
    char prefix[NAME_BYTES];
    struct reader inner = {r->ctx, r->file, prefix, 1};
    size_t rows, cols;
    bool value;
    if (!find(r, "scale.grid") || find(r, "scale.codes") || find(r, "scale.values"))
        return QNT_OK;
    if (snprintf(prefix, sizeof prefix, "%s.scale", r->prefix) >= (int)sizeof prefix)
        return bad(r, "scale", "has too long a name");
    QNT_TRY(read_grid(&inner, scales, &rows, &cols, &value));
    QNT_TRY(read_small_float(&inner, scales));
    if (!scales->book || scales->map.kind != QNTI_MAP_NONE || !(scales->divisor > 0) || !grid->book)
        return bad(&inner, "grid", "is no grid of scales that activations can have");
    grid->scale_grid = scales;
    return QNT_OK;
}

static qnt_status read_act(const struct reader *r, const char *suffix, size_t cols, struct qnti_actquant **act)
{
    char name[NAME_BYTES], prefix[NAME_BYTES];
    struct reader inner = {r->ctx, r->file, prefix, 1};
    struct qnti_grid grid, scales;
    int32_t words[ACT_WORDS];
    uint32_t *index = NULL;
    size_t grid_rows, grid_cols;
    bool value;
    qnt_status status;
    if (!find(r, suffix))
        return QNT_OK;
    QNT_TRY(read_words(r, suffix, ACT_WORDS, words));
    snprintf(name, sizeof name, "%s_grid", suffix);
    if (snprintf(prefix, sizeof prefix, "%s.%s", r->prefix, name) >= (int)sizeof prefix)
        return bad(r, suffix, "has too long a name");
    QNT_TRY(read_grid(&inner, &grid, &grid_rows, &grid_cols, &value));
    if (grid_cols != cols)
        return bad(r, name, "is not of the layer's width");
    QNT_TRY(read_small_float(&inner, &grid));
    QNT_TRY(read_scale_grid(&inner, &grid, &scales));
    if (grid.map.kind == QNTI_MAP_STRIDED || grid.map.kind == QNTI_MAP_NONE)
        return bad(r, name, "has strided groups or none, which activations cannot have");
    if (grid.map.kind == QNTI_MAP_INDEX)
        QNT_CHECK(read_index(&inner, cols, grid.map.index_groups, &index));
    grid.map.index = index;
    QNT_CHECK(qnti_actquant_create(r->ctx, &grid, cols, words[ACT_FIXED] != 0, act));
    (*act)->clip = qnti_float((uint32_t)words[ACT_CLIP_BITS]);
    (*act)->threshold = qnti_float((uint32_t)words[ACT_THRESHOLD_BITS]);
    (*act)->window = (size_t)words[ACT_WINDOW];
    (*act)->before_rope = words[ACT_BEFORE_ROPE] != 0;
    (*act)->input_type = (qnt_dtype)words[ACT_INPUT_TYPE];
    (*act)->range_of_kept = words[ACT_RANGE_OF_KEPT] != 0;
    if (!(fabsf((*act)->clip) <= 1) || !((*act)->threshold >= 0) || words[ACT_WINDOW] < 0 ||
        !float_type(words[ACT_INPUT_TYPE]))
        QNT_CHECK(bad(r, suffix, "has an impossible clip, threshold or window"));
    if ((*act)->fixed)
        QNT_CHECK(read_parts(&inner, (*act)->fixed));
cleanup:
    qnti_free(r->ctx, index);
    return status;
}

static qnt_status read_vector(const struct reader *r, const char *suffix, size_t n, float **x)
{
    if (!find(r, suffix))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(r->ctx, n, x));
    return read_floats(r, suffix, QNT_F32, n, *x);
}

/* The channels of the last places, or of all; those of the places before them are the others, ascending. */
static qnt_status read_permutation(const struct reader *r, size_t n, uint32_t **permutation)
{
    const struct qnti_tensor *t = find(r, "permutation");
    size_t known, place = 0;
    uint8_t *seen;
    qnt_status status = QNT_OK;
    if (!t)
        return QNT_OK;
    if (t->elements > n)
        return bad(r, "permutation", "has more places than the layer");
    known = n - t->elements;
    QNT_TRY(QNTI_NEW_RAW(r->ctx, n, permutation));
    QNT_TRY(read_elements(r, "permutation", "U32", t->elements, 4, *permutation + known));
    QNT_TRY(QNTI_NEW(r->ctx, n, &seen));
    for (size_t j = known; status == QNT_OK && j < n; j++)
        if ((*permutation)[j] >= n || seen[(*permutation)[j]]++)
            status = bad(r, "permutation", "is no permutation");
    for (uint32_t c = 0; status == QNT_OK && c < n; c++)
        if (!seen[c])
            (*permutation)[place++] = c;
    qnti_free(r->ctx, seen);
    return status;
}

static qnt_status read_transform(const struct reader *r, size_t in, struct qnti_transform *t)
{
    int32_t words[ROTATION_WORDS];
    size_t block, small;
    QNT_TRY(read_vector(r, "scale", in, &t->scale));
    for (size_t c = 0; t->scale && c < in; c++)
        if (t->scale[c] == 0)
            return bad(r, "scale", "holds a zero");
    QNT_TRY(read_vector(r, "shift", in, &t->shift));
    QNT_TRY(read_permutation(r, in, &t->permutation));
    if (!find(r, "rotation"))
        return QNT_OK;
    QNT_TRY(read_words(r, "rotation", ROTATION_WORDS, words));
    if (!in_range(words[ROTATION_BLOCK], 1, (int32_t)in) || in % (size_t)words[ROTATION_BLOCK] ||
        !in_range(words[ROTATION_SMALL], 0, words[ROTATION_BLOCK]))
        return bad(r, "rotation", "has an impossible block");
    block = (size_t)words[ROTATION_BLOCK];
    small = qnti_max((size_t)words[ROTATION_SMALL], 1);
    if (block % small || ((block / small) & (block / small - 1)))
        return bad(r, "rotation", "has an impossible small factor");
    t->rotation.block = block;
    t->rotation.small = (size_t)words[ROTATION_SMALL];
    if (small > 1) {
        QNT_TRY(QNTI_NEW_RAW(r->ctx, small * small, &t->rotation.small_matrix));
        QNT_TRY(read_floats(r, "rotation_matrix", QNT_F32, small * small, t->rotation.small_matrix));
    }
    return read_vector(r, "rotation_sign", in, &t->rotation.sign);
}

/* Columns of the sparse values: of 16 bits where these say every column. */
static qnt_status read_columns(const struct reader *r, size_t in, size_t count, uint32_t *column)
{
    uint16_t *narrow;
    qnt_status status;
    if (qnti_sparse_column_bytes(in) == sizeof *column)
        return read_elements(r, "sparse_columns", "U32", count, sizeof *column, column);
    QNT_TRY(QNTI_NEW_RAW(r->ctx, count, &narrow));
    status = read_elements(r, "sparse_columns", "U16", count, sizeof *narrow, narrow);
    for (size_t i = 0; status == QNT_OK && i < count; i++)
        column[i] = narrow[i];
    qnti_free(r->ctx, narrow);
    return status;
}

static qnt_status read_sparse(const struct reader *r, qnt_qlinear *q)
{
    const struct qnti_tensor *values = find(r, "sparse_values");
    struct qnti_sparse *s = &q->sparse;
    if (!values)
        return QNT_OK;
    if (!qnti_tensor_dtype(values, &s->type) || !float_type((int32_t)s->type) || values->elements > q->out * q->in)
        return bad(r, "sparse_values", "is of an unknown type or too large");
    s->count = values->elements;
    QNT_TRY(QNTI_NEW_RAW(r->ctx, q->out + 1, &s->row_start));
    QNT_TRY(QNTI_NEW_RAW(r->ctx, s->count, &s->column));
    QNT_TRY(QNTI_NEW_RAW(r->ctx, s->count, &s->value));
    QNT_TRY(read_elements(r, "sparse_rows", "U32", q->out + 1, 4, s->row_start));
    QNT_TRY(read_columns(r, q->in, s->count, s->column));
    QNT_TRY(read_floats(r, "sparse_values", s->type, s->count, s->value));
    for (size_t i = 0; i < q->out; i++)
        if (s->row_start[i] > s->row_start[i + 1] || s->row_start[i + 1] > s->count)
            return bad(r, "sparse_rows", "is not ascending");
    for (size_t i = 0; i < s->count; i++)
        if (s->column[i] >= q->in)
            return bad(r, "sparse_columns", "names a column that is not there");
    if (s->row_start[0] != 0 || s->row_start[q->out] != s->count)
        return bad(r, "sparse_rows", "does not cover the values");
    return QNT_OK;
}

static qnt_status read_segments(const struct reader *r, size_t count, qnt_qlinear *q)
{
    int32_t *words;
    size_t at = 0;
    qnt_status status;
    QNT_TRY(QNTI_NEW(r->ctx, 2 * count, &words));
    QNT_CHECK(read_words(r, "segments", 2 * count, words));
    QNT_CHECK(QNTI_NEW(r->ctx, count, &q->segments));
    for (size_t s = 0; s < count; s++) {
        struct qnti_segment *segment = &q->segments[s];
        char name[NAME_BYTES];
        q->segment_count = s + 1;
        segment->first = at;
        if (words[2 * s] < 0 || (size_t)words[2 * s] != at || words[2 * s + 1] < 1 ||
            (size_t)words[2 * s + 1] > q->in - at)
            QNT_CHECK(bad(r, "segments", "does not cut the columns one after another"));
        segment->cols = (size_t)words[2 * s + 1];
        at += segment->cols;
        snprintf(name, sizeof name, "segment%zu", s);
        QNT_CHECK(read_optional(r, name, q->out, segment->cols, &segment->weight));
        if (!segment->weight)
            QNT_CHECK(bad(r, name, "is missing"));
        snprintf(name, sizeof name, "segment%zu_act", s);
        QNT_CHECK(read_act(r, name, segment->cols, &segment->act));
    }
    if (at != q->in)
        status = bad(r, "segments", "does not cover all columns");
cleanup:
    qnti_free(r->ctx, words);
    return status;
}

static qnt_status read_layer(const struct reader *r, qnt_qlinear *q, size_t segments)
{
    QNT_TRY(read_segments(r, segments, q));
    QNT_TRY(read_sparse(r, q));
    QNT_TRY(read_optional(r, "lowrank_a", q->out, 0, &q->lowrank_a));
    QNT_TRY(read_optional(r, "lowrank_b", q->lowrank_a ? q->lowrank_a->cols : 0, q->in, &q->lowrank_b));
    if (!q->lowrank_a != !q->lowrank_b)
        return bad(r, "lowrank_a", "and lowrank_b must come together");
    QNT_TRY(read_optional(r, "full", q->out, q->in, &q->full));
    QNT_TRY(read_transform(r, q->in, &q->transform));
    QNT_TRY(read_act(r, "act", q->in, &q->act));
    QNT_TRY(read_act(r, "output", q->out, &q->output));
    return read_vector(r, "bias_values", q->out, &q->bias);
}

static qnt_status read_header(const struct reader *r, int32_t *words)
{
    QNT_TRY(read_words(r, "layer", LAYER_WORDS, words));
    if (words[LAYER_VERSION] != QNTI_NATIVE_VERSION)
        return qnti_fail(r->ctx, QNT_UNSUPPORTED, "%s: layer %s has version %d of the native format, known is %d",
                         r->file->path, r->prefix, words[LAYER_VERSION], QNTI_NATIVE_VERSION);
    if (words[LAYER_OUT] < 1 || words[LAYER_IN] < 1 || !in_range(words[LAYER_SEGMENTS], 1, MOST_SEGMENTS))
        return bad(r, "layer", "has an impossible shape");
    return QNT_OK;
}

bool qnti_native_find(const struct qnti_safetensors *file, const char *name, size_t *out, size_t *in)
{
    struct reader r = {file->ctx, file, name, 0};
    const struct qnti_tensor *t = find(&r, "layer");
    int32_t words[LAYER_WORDS];
    if (!t || t->bytes != sizeof words || read_header(&r, words) != QNT_OK)
        return false;
    *out = (size_t)words[LAYER_OUT];
    *in = (size_t)words[LAYER_IN];
    return true;
}

qnt_status qnti_native_read(qnt_context *ctx, const struct qnti_safetensors *file, const char *name, qnt_qlinear **q)
{
    struct reader r = {ctx, file, name, 0};
    int32_t words[LAYER_WORDS];
    qnt_status status;
    if (!find(&r, "layer"))
        return qnti_fail(ctx, QNT_NOT_FOUND, "%s: no layer %s", file->path, name);
    QNT_TRY(read_header(&r, words));
    QNT_TRY(qnti_qlinear_create(ctx, name, (size_t)words[LAYER_OUT], (size_t)words[LAYER_IN], NULL, q));
    status = read_layer(&r, *q, (size_t)words[LAYER_SEGMENTS]);
    if (status != QNT_OK) {
        qnt_qlinear_destroy(*q);
        *q = NULL;
        return status;
    }
    (*q)->report.bits_per_weight = qnti_qlinear_bits(*q);
    return QNT_OK;
}
