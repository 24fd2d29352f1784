/*
 * parts.c - the table of parts: each part of a layer as a tensor of plain numbers, in original column order.
 *
 * The names are those of the golden data's README. Segments lie side by side:
 * a segment of plain floats has the code of 0 on the grid beside it and no
 * scales.
 */
#include "qlinear/qlinear.h"

#include <string.h>

static qnt_status new_part(const qnt_qlinear *q, qnt_part *part, size_t rank, size_t rows, size_t cols)
{
    static const size_t element[] = {[QNT_F32] = 4, [QNT_I32] = 4, [QNT_U8] = 1, [QNT_F16] = 2, [QNT_BF16] = 2};
    part->rank = rank;
    part->shape[0] = rows;
    part->shape[1] = rank > 1 ? cols : 1;
    return qnti_alloc(q->ctx, rows * part->shape[1], element[part->dtype], &part->data);
}

static size_t column_of(const qnt_qlinear *q, size_t place)
{
    return q->transform.permutation ? q->transform.permutation[place] : place;
}

static bool coded(const struct qnti_segment *s)
{
    return s->weight && s->weight->grid.form != QNTI_FORM_FLOAT;
}

/* The first segment with codes: the one whose scales are the layer's. */
static const struct qnti_segment *main_segment(const qnt_qlinear *q)
{
    for (size_t s = 0; s < q->segment_count; s++)
        if (coded(&q->segments[s]))
            return &q->segments[s];
    return NULL;
}

/* What is taken off a code before it is shown. */
static int32_t shown_offset(const struct qnti_grid *grid)
{
    return grid->signed_codes ? (int32_t)grid->offset : 0;
}

static int32_t shown_code(const struct qnti_numbers *w, size_t r, size_t c)
{
    return (int32_t)qnti_numbers_code(w, r, c) - shown_offset(&w->grid);
}

/* On the row's last grid, to which columns without one are said to belong. */
static int32_t code_of_zero(const struct qnti_numbers *w, size_t r)
{
    const float nothing = 0;
    float scale, offset;
    uint16_t code;
    size_t c = w->cols - 1;
    while (c > 0 && w->grid.map.kind == QNTI_MAP_INDEX && w->grid.map.index[c] + 1 != w->grid.map.index_groups)
        c--;
    qnti_numbers_affine(w, r, c, &scale, &offset);
    qnti_grid_round(&w->grid, qnti_numbers_codebook(w, r), 1, &nothing, &scale, &offset, 0, &code, NULL);
    return (int32_t)code - shown_offset(&w->grid);
}

static qnt_status get_codes(const qnt_qlinear *q, qnt_part *part)
{
    int32_t *codes;
    if (!main_segment(q))
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 2, q->out, q->in));
    codes = part->data;
    for (size_t s = 0; s < q->segment_count; s++)
        for (size_t r = 0; r < q->out; r++) {
            const struct qnti_segment *g = &q->segments[s];
            int32_t zero = coded(g) ? 0 : code_of_zero(main_segment(q)->weight, r);
            for (size_t c = 0; c < g->cols; c++)
                codes[r * q->in + column_of(q, g->first + c)] = coded(g) ? shown_code(g->weight, r, c) : zero;
        }
    return QNT_OK;
}

/* Levels of a codebook in runs over the flattened matrix: its scales are shown as the maxima of blocks. */
static bool in_blocks(const qnt_qlinear *q)
{
    const struct qnti_segment *s = main_segment(q);
    return s && s->weight->grid.form == QNTI_FORM_CODEBOOK && s->weight->grid.map.kind == QNTI_MAP_FLAT;
}

/* The second one: columns kept in more bits. */
static const struct qnti_segment *kept_segment(const qnt_qlinear *q)
{
    const struct qnti_segment *s = main_segment(q), *end = q->segments + q->segment_count;
    for (s = s ? s + 1 : end; s < end; s++)
        if (coded(s))
            return s;
    return NULL;
}

/*
 * Scale or offset of every (row, group); rows that are tied repeat theirs. A scale for the whole tensor is (1, 1),
 * those of runs over the flattened matrix (groups, 1).
 */
static qnt_status get_affine(const qnt_qlinear *q, bool offsets, qnt_part *part)
{
    const struct qnti_segment *s = main_segment(q);
    const struct qnti_numbers *w = s ? s->weight : NULL, *second;
    size_t rows, groups;
    float *values;
    bool flat;
    if (!w || !w->scale || in_blocks(q))
        return QNT_NOT_FOUND;
    second = offsets ? w->offset : w->scale;
    groups = w->scale->cols;
    flat = w->grid.map.kind == QNTI_MAP_FLAT;
    rows = flat || w->grid.map.kind == QNTI_MAP_STRIDED || w->grid.map.rows == 0 ? w->scale->rows : q->out;
    QNT_TRY(flat ? new_part(q, part, 2, groups, 1) : new_part(q, part, 2, rows, groups));
    values = part->data;
    for (size_t r = 0; r < rows; r++)
        for (size_t g = 0; g < groups; g++) {
            size_t row = rows == w->scale->rows ? r : r / w->grid.map.rows;
            values[r * groups + g] = second ? second->value[row * groups + g] : w->grid.offset;
            if (offsets)
                values[r * groups + g] -= (float)shown_offset(&w->grid);
        }
    return QNT_OK;
}

static qnt_status get_scales(const qnt_qlinear *q, qnt_part *part)
{
    return get_affine(q, false, part);
}

static bool main_form(const qnt_qlinear *q, enum qnti_form form)
{
    return main_segment(q) && main_segment(q)->weight->grid.form == form;
}

static qnt_status get_zeros(const qnt_qlinear *q, qnt_part *part)
{
    return main_form(q, QNTI_FORM_ZERO) ? get_affine(q, true, part) : QNT_NOT_FOUND;
}

static qnt_status get_mins(const qnt_qlinear *q, qnt_part *part)
{
    return main_form(q, QNTI_FORM_MIN) ? get_affine(q, true, part) : QNT_NOT_FOUND;
}

/* Where it is not column / group size. Columns outside the main segment are said to belong to its last group. */
static qnt_status get_group_index(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_segment *s = main_segment(q);
    const struct qnti_map *map = s ? &s->weight->grid.map : NULL;
    bool moved = s && map->kind == QNTI_MAP_TILES && map->cols && (q->transform.permutation || s->cols < q->in);
    size_t row, group;
    int32_t *index;
    if (!s || (map->kind != QNTI_MAP_INDEX && !moved))
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 1, q->in, 1));
    index = part->data;
    for (size_t c = 0; c < q->in; c++)
        index[c] = (int32_t)s->weight->scale->cols - 1;
    for (size_t c = 0; c < s->cols; c++) {
        qnti_map_find(map, s->cols, 0, c, &row, &group);
        index[column_of(q, s->first + c)] = (int32_t)group;
    }
    return QNT_OK;
}

static qnt_status get_floats(const qnt_qlinear *q, const float *values, size_t rank, size_t rows, size_t cols,
                             qnt_part *part)
{
    if (!values)
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, rank, rows, cols));
    memcpy(part->data, values, rows * part->shape[1] * sizeof *values);
    return QNT_OK;
}

static qnt_status get_codebook(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_segment *s = main_segment(q);
    const struct qnti_numbers *book = s ? s->weight->codebook : NULL;
    if (s && s->weight->table)
        return get_floats(q, s->weight->table, 2, 1, s->weight->grid.levels, part);
    return book ? get_floats(q, book->value, 2, book->rows, book->cols, part) : QNT_NOT_FOUND;
}

/* --- blocks of a codebook (bnb4.md) --- */

static qnt_status get_packed(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_numbers *w = in_blocks(q) ? main_segment(q)->weight : NULL;
    size_t n = q->out * q->in;
    if (!w || w->grid.bits != 4)
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 1, qnti_ceil_div(n, 2), 1));
    qnti_numbers_nibbles(w, part->data);
    return QNT_OK;
}

static qnt_status get_absmax(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_numbers *scale = in_blocks(q) ? main_segment(q)->weight->scale : NULL;
    return scale ? get_floats(q, scale->value, 1, scale->cols, 1, part) : QNT_NOT_FOUND;
}

/* The blocks' maxima where they are codes themselves; NULL: they are not. */
static const struct qnti_numbers *nested(const qnt_qlinear *q)
{
    const struct qnti_numbers *scale = in_blocks(q) ? main_segment(q)->weight->scale : NULL;
    bool coded = scale && scale->grid.form == QNTI_FORM_CODEBOOK && scale->code8;
    return coded && scale->scale && scale->table ? scale : NULL;
}

static qnt_status get_absmax_codes(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_numbers *scale = nested(q);
    if (!scale)
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 1, scale->cols, 1));
    memcpy(part->data, scale->code8, scale->cols);
    return QNT_OK;
}

static qnt_status get_nested_absmax(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_numbers *scale = nested(q);
    return scale ? get_floats(q, scale->scale->value, 1, scale->scale->cols, 1, part) : QNT_NOT_FOUND;
}

static qnt_status get_nested_offset(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_numbers *scale = nested(q);
    return scale && scale->grid.constant_offset ? get_floats(q, &scale->grid.offset, 1, 1, 1, part) : QNT_NOT_FOUND;
}

static qnt_status get_nested_codebook(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_numbers *scale = nested(q);
    return scale ? get_floats(q, scale->table, 1, scale->grid.levels, 1, part) : QNT_NOT_FOUND;
}

/* Codes of a wide level, in a segment whose grid has such. */
static void mark_wide(const qnt_qlinear *q, const struct qnti_segment *s, uint8_t *mask)
{
    for (size_t r = 0; r < q->out; r++)
        for (size_t c = 0; c < s->cols; c++)
            mask[r * q->in + column_of(q, s->first + c)] =
                qnti_pairs_outlier(&s->weight->grid, qnti_numbers_code(s->weight, r, c));
}

static bool has_wide(const struct qnti_segment *s)
{
    return s && s->weight && qnti_in_pairs(&s->weight->grid) && s->weight->grid.pairs.outliers;
}

/* Weights that are not as the others: kept outside the grid, or on its wide levels. */
static qnt_status get_outlier_mask(const qnt_qlinear *q, qnt_part *part)
{
    uint8_t *mask;
    if (!q->sparse.row_start && !has_wide(main_segment(q)))
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 2, q->out, q->in));
    mask = part->data;
    for (size_t s = 0; s < q->segment_count; s++)
        if (has_wide(&q->segments[s]))
            mark_wide(q, &q->segments[s], mask);
    for (size_t r = 0; q->sparse.row_start && r < q->out; r++)
        for (size_t i = q->sparse.row_start[r]; i < q->sparse.row_start[r + 1]; i++)
            mask[r * q->in + column_of(q, q->sparse.column[i])] = 1;
    return QNT_OK;
}

/* Columns outside the main segment, ascending. */
static qnt_status get_kept_columns(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_segment *s = main_segment(q);
    size_t kept = 0;
    uint8_t *in_main;
    int32_t *columns;
    qnt_status status;
    if (!s || s->cols == q->in)
        return QNT_NOT_FOUND;
    QNT_TRY(QNTI_NEW(q->ctx, q->in, &in_main));
    for (size_t c = 0; c < s->cols; c++)
        in_main[column_of(q, s->first + c)] = 1;
    status = new_part(q, part, 1, q->in - s->cols, 1);
    columns = part->data;
    for (size_t c = 0; status == QNT_OK && c < q->in; c++)
        if (!in_main[c])
            columns[kept++] = (int32_t)c;
    qnti_free(q->ctx, in_main);
    return status;
}

static qnt_status get_keep_scales(const qnt_qlinear *q, qnt_part *part)
{
    const struct qnti_segment *s = kept_segment(q);
    const struct qnti_numbers *scale = s ? s->weight->scale : NULL;
    return scale && scale->rows == q->out ? get_floats(q, scale->value, 2, q->out, scale->cols, part) : QNT_NOT_FOUND;
}

static qnt_status get_scale(const qnt_qlinear *q, qnt_part *part)
{
    return get_floats(q, q->transform.scale, 1, q->in, 1, part);
}

static qnt_status get_shift(const qnt_qlinear *q, qnt_part *part)
{
    return get_floats(q, q->transform.shift, 1, q->in, 1, part);
}

static qnt_status get_permutation(const qnt_qlinear *q, qnt_part *part)
{
    if (!q->transform.permutation)
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 1, q->in, 1));
    memcpy(part->data, q->transform.permutation, q->in * sizeof(uint32_t));
    return QNT_OK;
}

static qnt_status get_numbers(const qnt_qlinear *q, const struct qnti_numbers *n, qnt_part *part)
{
    float *values;
    if (!n)
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 2, n->rows, n->cols));
    values = part->data;
    for (size_t r = 0; r < n->rows; r++)
        qnti_numbers_values(n, r, 0, n->cols, values + r * n->cols);
    return QNT_OK;
}

static qnt_status get_lowrank_a(const qnt_qlinear *q, qnt_part *part)
{
    return get_numbers(q, q->lowrank_a, part);
}

/* For the layer's inputs as they come: its rows as those of a weight. */
static qnt_status get_lowrank_b(const qnt_qlinear *q, qnt_part *part)
{
    float *scratch;
    QNT_TRY(get_numbers(q, q->lowrank_b, part));
    if (qnti_transform_is_identity(&q->transform))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(q->ctx, 3 * q->in, &scratch));
    for (size_t k = 0; k < part->shape[0]; k++) {
        float *row = (float *)part->data + k * q->in;
        memcpy(scratch, row, q->in * sizeof *row);
        qnti_transform_weight_back(&q->transform, q->in, scratch, row, scratch + q->in);
    }
    qnti_free(q->ctx, scratch);
    return QNT_OK;
}

/* Of the whole input one number, of clusters of channels one for each channel. */
static qnt_status get_act(const qnt_qlinear *q, bool offsets, qnt_part *part)
{
    const struct qnti_numbers *fixed = q->act ? q->act->fixed : NULL;
    bool clusters = fixed && fixed->grid.map.kind == QNTI_MAP_INDEX;
    float *values;
    if (!fixed)
        return QNT_NOT_FOUND;
    QNT_TRY(new_part(q, part, 1, clusters ? q->in : 1, 1));
    values = part->data;
    for (size_t c = 0; c < part->shape[0]; c++) {
        float scale, offset;
        qnti_numbers_affine(fixed, 0, c, &scale, &offset);
        values[clusters ? column_of(q, c) : c] = offsets ? offset - (float)shown_offset(&fixed->grid) : scale;
    }
    return QNT_OK;
}

static qnt_status get_act_scale(const qnt_qlinear *q, qnt_part *part)
{
    return get_act(q, false, part);
}

static qnt_status get_act_zero(const qnt_qlinear *q, qnt_part *part)
{
    return get_act(q, true, part);
}

static qnt_status get_bias(const qnt_qlinear *q, qnt_part *part)
{
    return get_floats(q, q->bias, 1, q->out, 1, part);
}

const struct qnti_part_row qnti_parts[] = {
    {"codes", QNT_I32, get_codes},
    {"scales", QNT_F32, get_scales},
    {"zeros", QNT_F32, get_zeros},
    {"mins", QNT_F32, get_mins},
    {"group_index", QNT_I32, get_group_index},
    {"codebook", QNT_F32, get_codebook},
    {"packed", QNT_U8, get_packed},
    {"absmax", QNT_F32, get_absmax},
    {"absmax_codes", QNT_U8, get_absmax_codes},
    {"nested_absmax", QNT_F32, get_nested_absmax},
    {"nested_offset", QNT_F32, get_nested_offset},
    {"nested_codebook", QNT_F32, get_nested_codebook},
    {"outlier_mask", QNT_U8, get_outlier_mask},
    {"kept_columns", QNT_I32, get_kept_columns},
    {"keep_scales", QNT_F32, get_keep_scales},
    {"scale", QNT_F32, get_scale},
    {"shift", QNT_F32, get_shift},
    {"permutation", QNT_I32, get_permutation},
    {"lowrank_a", QNT_F32, get_lowrank_a},
    {"lowrank_b", QNT_F32, get_lowrank_b},
    {"act_scale", QNT_F32, get_act_scale},
    {"act_zero", QNT_F32, get_act_zero},
    {"bias", QNT_F32, get_bias},
    {0},
};

const char *qnt_part_name(size_t index)
{
    size_t count = sizeof qnti_parts / sizeof *qnti_parts - 1;
    return index < count ? qnti_parts[index].name : NULL;
}

qnt_status qnt_qlinear_part(const qnt_qlinear *q, const char *name, qnt_part *part)
{
    memset(part, 0, sizeof *part);
    for (const struct qnti_part_row *row = qnti_parts; row->name; row++) {
        qnt_status status;
        if (strcmp(row->name, name) != 0)
            continue;
        part->name = row->name;
        part->dtype = row->dtype;
        part->context = q->ctx;
        status = row->get(q, part);
        if (status == QNT_NOT_FOUND)
            return qnti_fail(q->ctx, status, "layer %s has no part %s", q->name, name);
        return status;
    }
    return qnti_fail(q->ctx, QNT_NOT_FOUND, "there is no part called \"%s\"", name);
}

void qnt_part_free(qnt_part *part)
{
    if (part->context)
        qnti_free(part->context, part->data);
    memset(part, 0, sizeof *part);
}
