/*
 * numbers.c - a matrix of numbers held on a grid: memory, values, codes, bits.
 *
 * Scales and offsets always keep their values beside their codes: they are
 * few and are read in every inner loop.
 */
#include "grid/grid.h"

#include <string.h>
#include "base/number.h"

static qnt_status create_codes(qnt_context *ctx, struct qnti_numbers *q)
{
    size_t n;
    if (!qnti_multiply(q->rows, q->cols, &n))
        return qnti_fail(ctx, QNT_NO_MEMORY, "a matrix of %zu x %zu is too large", q->rows, q->cols);
    if (q->grid.form == QNTI_FORM_FLOAT)
        return QNTI_NEW(ctx, n, &q->value);
    return q->grid.bits <= 8 && q->grid.levels <= 256 ? QNTI_NEW(ctx, n, &q->code8) : QNTI_NEW(ctx, n, &q->code16);
}

/* Scales or offsets: plain numbers of the grid's type, or codes on a grid of their own with values beside them. */
static qnt_status create_second(qnt_context *ctx, const struct qnti_numbers *q, const struct qnti_grid *coded,
                                struct qnti_numbers **second)
{
    size_t rows = qnti_map_group_rows(&q->grid.map, q->rows);
    size_t groups = qnti_map_groups(&q->grid.map, q->rows, q->cols);
    struct qnti_grid plain = qnti_float_grid(q->grid.scale_type);
    QNT_TRY(qnti_numbers_create(ctx, coded ? coded : &plain, rows, groups, second));
    if ((*second)->value)
        return QNT_OK;
    return QNTI_NEW(ctx, rows * groups, &(*second)->value);
}

static qnt_status create_parts(qnt_context *ctx, struct qnti_numbers *q)
{
    const struct qnti_grid *grid = &q->grid;
    struct qnti_grid table = qnti_float_grid(grid->scale_type);
    QNT_TRY(create_codes(ctx, q));
    if (grid->map.kind == QNTI_MAP_INDEX && grid->form != QNTI_FORM_FLOAT) {
        QNT_TRY(QNTI_NEW(ctx, q->cols, &q->index));
        memcpy(q->index, grid->map.index, q->cols * sizeof *q->index);
        q->grid.map.index = q->index;
    }
    if (grid->form == QNTI_FORM_FLOAT)
        return QNT_OK;
    if (grid->table) {
        QNT_TRY(QNTI_NEW_RAW(ctx, grid->levels, &q->table));
        memcpy(q->table, grid->table, grid->levels * sizeof *q->table);
        q->grid.table = q->table;
    }
    if (grid->map.kind != QNTI_MAP_NONE)
        QNT_TRY(create_second(ctx, q, grid->scale_grid, &q->scale));
    if (!grid->constant_offset)
        QNT_TRY(create_second(ctx, q, grid->offset_grid, &q->offset));
    if (grid->scale_grid) /* their own copies: those that were given may be gone before the numbers are */
        q->grid.scale_grid = &q->scale->grid;
    if (grid->offset_grid)
        q->grid.offset_grid = q->offset ? &q->offset->grid : NULL;
    if (grid->form == QNTI_FORM_CODEBOOK && !grid->table)
        QNT_TRY(qnti_numbers_create(ctx, &table, grid->codebook_per_row ? q->rows : 1, grid->codebook_size,
                                    &q->codebook));
    return QNT_OK;
}

qnt_status qnti_numbers_create(qnt_context *ctx, const struct qnti_grid *grid, size_t rows, size_t cols,
                               struct qnti_numbers **numbers)
{
    struct qnti_numbers *q;
    qnt_status status;
    *numbers = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &q));
    q->rows = rows;
    q->cols = cols;
    q->grid = *grid;
    status = create_parts(ctx, q);
    if (status != QNT_OK) {
        qnti_numbers_free(ctx, q);
        return status;
    }
    *numbers = q;
    return QNT_OK;
}

void qnti_numbers_free(qnt_context *ctx, struct qnti_numbers *q)
{
    if (!q)
        return;
    qnti_numbers_free(ctx, q->scale);
    qnti_numbers_free(ctx, q->offset);
    qnti_numbers_free(ctx, q->codebook);
    qnti_free(ctx, q->code8);
    qnti_free(ctx, q->code16);
    qnti_free(ctx, q->value);
    qnti_free(ctx, q->index);
    qnti_free(ctx, q->table);
    qnti_free(ctx, q);
}

qnt_status qnti_numbers_from_floats(qnt_context *ctx, qnt_dtype type, const float *x, size_t rows, size_t cols,
                                    struct qnti_numbers **numbers)
{
    struct qnti_grid grid = qnti_float_grid(type);
    QNT_TRY(qnti_numbers_create(ctx, &grid, rows, cols, numbers));
    for (size_t i = 0; i < rows * cols; i++)
        (*numbers)->value[i] = qnti_round_to(type, x[i]);
    return QNT_OK;
}

void qnti_numbers_put_codes(struct qnti_numbers *q, size_t r, size_t c, size_t n, const uint16_t *code)
{
    size_t at = r * q->cols + c;
    if (q->code16) {
        memcpy(q->code16 + at, code, n * sizeof *code);
        return;
    }
    for (uint8_t *restrict to = q->code8 + at; n > 0; n--)
        *to++ = (uint8_t)*code++;
}

void qnti_numbers_get_codes(const struct qnti_numbers *q, size_t r, size_t c, size_t n, uint16_t *code)
{
    size_t at = r * q->cols + c;
    if (q->code16) {
        memcpy(code, q->code16 + at, n * sizeof *code);
        return;
    }
    for (size_t i = 0; i < n; i++)
        code[i] = q->code8[at + i];
}

uint16_t qnti_numbers_code(const struct qnti_numbers *q, size_t r, size_t c)
{
    uint16_t code;
    qnti_numbers_get_codes(q, r, c, 1, &code);
    return code;
}

const float *qnti_numbers_codebook(const struct qnti_numbers *q, size_t r)
{
    if (q->codebook)
        return q->codebook->value + (q->grid.codebook_per_row ? r * q->codebook->cols : 0);
    return q->grid.table;
}

void qnti_numbers_affine(const struct qnti_numbers *q, size_t r, size_t c, float *scale, float *offset)
{
    size_t group_row, group, at;
    *scale = 1;
    *offset = 0;
    if (q->grid.form == QNTI_FORM_FLOAT || q->grid.map.kind == QNTI_MAP_NONE)
        return;
    qnti_map_find(&q->grid.map, q->cols, r, c, &group_row, &group);
    at = group_row * q->scale->cols + group;
    *scale = q->scale->value[at];
    *offset = q->grid.constant_offset ? q->grid.offset : q->offset->value[at];
}

/* Numbers side by side belong to groups side by side. */
static void strided_values(const struct qnti_numbers *q, const float *codebook, size_t r, size_t c, size_t n,
                           float *values)
{
    enum { CHUNK = 512 };
    uint16_t code[CHUNK];
    for (size_t done = 0, run; done < n; done += run) {
        size_t group = (r * q->cols + c + done) % q->grid.map.cols;
        const float *offset = q->offset ? q->offset->value + group : &q->grid.offset;
        run = qnti_min(qnti_min(q->grid.map.cols - group, n - done), q->offset ? CHUNK : 1);
        qnti_numbers_get_codes(q, r, c + done, run, code);
        qnti_grid_value(&q->grid, codebook, run, code, q->scale->value + group, offset, 1, values + done);
    }
}

void qnti_numbers_values(const struct qnti_numbers *q, size_t r, size_t c, size_t n, float *values)
{
    enum { CHUNK = 512 };
    uint16_t code[CHUNK];
    const float *codebook = qnti_numbers_codebook(q, r);
    if (q->value) {
        memcpy(values, q->value + r * q->cols + c, n * sizeof *values);
        return;
    }
    if (q->grid.map.kind == QNTI_MAP_STRIDED) {
        strided_values(q, codebook, r, c, n, values);
        return;
    }
    for (size_t done = 0, run; done < n; done += run) {
        float scale, offset;
        run = qnti_min(qnti_min(qnti_map_run(&q->grid.map, q->cols, r, c + done), n - done), CHUNK);
        qnti_numbers_get_codes(q, r, c + done, run, code);
        qnti_numbers_affine(q, r, c + done, &scale, &offset);
        qnti_grid_value(&q->grid, codebook, run, code, &scale, &offset, 0, values + done);
    }
}

void qnti_numbers_settle(struct qnti_numbers *q)
{
    float *value = q->value;
    q->value = NULL;
    for (size_t r = 0; r < q->rows; r++)
        qnti_numbers_values(q, r, 0, q->cols, value + r * q->cols);
    q->value = value;
}

/* Scales or offsets of a grid: what they are coded on, or plain. */
static double second_bits(const struct qnti_grid *grid, const struct qnti_grid *coded, size_t rows, size_t cols)
{
    struct qnti_grid plain = qnti_float_grid(grid->scale_type);
    return qnti_grid_bits(coded ? coded : &plain, qnti_map_group_rows(&grid->map, rows),
                          qnti_map_groups(&grid->map, rows, cols));
}

double qnti_grid_bits(const struct qnti_grid *grid, size_t rows, size_t cols)
{
    double bits = (double)grid->bits * (double)rows * (double)(qnti_in_pairs(grid) ? cols + cols % 2 : cols);
    bool codebook = grid->form == QNTI_FORM_CODEBOOK;
    if (grid->form == QNTI_FORM_FLOAT)
        return bits;
    if (grid->map.kind == QNTI_MAP_INDEX)
        bits += 32.0 * (double)cols;
    if (grid->map.kind != QNTI_MAP_NONE)
        bits += second_bits(grid, grid->scale_grid, rows, cols);
    if (!grid->constant_offset && grid->integer_offset)
        bits += (double)grid->bits * (double)qnti_map_group_rows(&grid->map, rows) *
                (double)qnti_map_groups(&grid->map, rows, cols);
    else if (!grid->constant_offset)
        bits += second_bits(grid, grid->offset_grid, rows, cols);
    if (codebook && grid->constant_offset && grid->offset != 0)
        bits += 32; /* no table's own: the numbers' */
    if (grid->divisor > 0)
        bits += 32;
    if (codebook && !grid->table)
        bits += 8.0 * (double)qnti_dtype_bytes(grid->scale_type) * (grid->codebook_per_row ? (double)rows : 1) *
                grid->codebook_size;
    return bits;
}

double qnti_numbers_bits(const struct qnti_numbers *q)
{
    return q ? qnti_grid_bits(&q->grid, q->rows, q->cols) : 0;
}
