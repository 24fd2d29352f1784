/*
 * native_read.c - a layer from its tensors; every size is checked against its description.
 */
#include "pack/native_reader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/number.h"
#include "pack/native_fields.h"

enum { MOST_SEGMENTS = 4096 };

static qnt_status read_vector(const struct qnti_reader *r, const char *suffix, size_t n, float **x)
{
    if (!qnti_reader_find(r, suffix))
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(r->ctx, n, x));
    return qnti_reader_floats(r, suffix, QNT_F32, n, *x);
}

/* The channels of the last places, or of all; those of the places before them are the others, ascending. */
static qnt_status read_permutation(const struct qnti_reader *r, size_t n, uint32_t **permutation)
{
    const struct qnti_tensor *t = qnti_reader_find(r, "permutation");
    size_t known, place = 0;
    uint8_t *seen;
    qnt_status status = QNT_OK;
    if (!t)
        return QNT_OK;
    if (t->elements > n)
        return qnti_reader_bad(r, "permutation", "has more places than the layer");
    known = n - t->elements;
    QNT_TRY(QNTI_NEW_RAW(r->ctx, n, permutation));
    QNT_TRY(qnti_reader_elements(r, "permutation", "U32", t->elements, 4, *permutation + known));
    QNT_TRY(QNTI_NEW(r->ctx, n, &seen));
    for (size_t j = known; status == QNT_OK && j < n; j++)
        if ((*permutation)[j] >= n || seen[(*permutation)[j]]++)
            status = qnti_reader_bad(r, "permutation", "is no permutation");
    for (uint32_t c = 0; status == QNT_OK && c < n; c++)
        if (!seen[c])
            (*permutation)[place++] = c;
    qnti_free(r->ctx, seen);
    return status;
}

static qnt_status read_transform(const struct qnti_reader *r, size_t in, struct qnti_transform *t)
{
    int32_t words[ROTATION_WORDS];
    size_t block, small;
    QNT_TRY(read_vector(r, "scale", in, &t->scale));
    for (size_t c = 0; t->scale && c < in; c++)
        if (t->scale[c] == 0)
            return qnti_reader_bad(r, "scale", "holds a zero");
    QNT_TRY(read_vector(r, "shift", in, &t->shift));
    QNT_TRY(read_permutation(r, in, &t->permutation));
    if (!qnti_reader_find(r, "rotation"))
        return QNT_OK;
    QNT_TRY(qnti_reader_words(r, "rotation", ROTATION_WORDS, words));
    if (!qnti_within(words[ROTATION_BLOCK], 1, (int32_t)in) || in % (size_t)words[ROTATION_BLOCK] ||
        !qnti_within(words[ROTATION_SMALL], 0, words[ROTATION_BLOCK]))
        return qnti_reader_bad(r, "rotation", "has an impossible block");
    block = (size_t)words[ROTATION_BLOCK];
    small = qnti_max((size_t)words[ROTATION_SMALL], 1);
    if (block % small || ((block / small) & (block / small - 1)))
        return qnti_reader_bad(r, "rotation", "has an impossible small factor");
    t->rotation.block = block;
    t->rotation.small = (size_t)words[ROTATION_SMALL];
    if (small > 1) {
        QNT_TRY(QNTI_NEW_RAW(r->ctx, small * small, &t->rotation.small_matrix));
        QNT_TRY(qnti_reader_floats(r, "rotation_matrix", QNT_F32, small * small, t->rotation.small_matrix));
    }
    return read_vector(r, "rotation_sign", in, &t->rotation.sign);
}

/* Columns of the sparse values: of 16 bits where these say every column. */
static qnt_status read_columns(const struct qnti_reader *r, size_t in, size_t count, uint32_t *column)
{
    uint16_t *narrow;
    qnt_status status;
    if (qnti_sparse_column_bytes(in) == sizeof *column)
        return qnti_reader_elements(r, "sparse_columns", "U32", count, sizeof *column, column);
    QNT_TRY(QNTI_NEW_RAW(r->ctx, count, &narrow));
    status = qnti_reader_elements(r, "sparse_columns", "U16", count, sizeof *narrow, narrow);
    for (size_t i = 0; status == QNT_OK && i < count; i++)
        column[i] = narrow[i];
    qnti_free(r->ctx, narrow);
    return status;
}

static qnt_status read_sparse(const struct qnti_reader *r, qnt_qlinear *q)
{
    const struct qnti_tensor *values = qnti_reader_find(r, "sparse_values");
    struct qnti_sparse *s = &q->sparse;
    if (!values)
        return QNT_OK;
    if (!qnti_tensor_dtype(values, &s->type) || !qnti_reader_float_type((int32_t)s->type) ||
        values->elements > q->out * q->in)
        return qnti_reader_bad(r, "sparse_values", "is of an unknown type or too large");
    s->count = values->elements;
    QNT_TRY(QNTI_NEW_RAW(r->ctx, q->out + 1, &s->row_start));
    QNT_TRY(QNTI_NEW_RAW(r->ctx, s->count, &s->column));
    QNT_TRY(QNTI_NEW_RAW(r->ctx, s->count, &s->value));
    QNT_TRY(qnti_reader_elements(r, "sparse_rows", "U32", q->out + 1, 4, s->row_start));
    QNT_TRY(read_columns(r, q->in, s->count, s->column));
    QNT_TRY(qnti_reader_floats(r, "sparse_values", s->type, s->count, s->value));
    for (size_t i = 0; i < q->out; i++)
        if (s->row_start[i] > s->row_start[i + 1] || s->row_start[i + 1] > s->count)
            return qnti_reader_bad(r, "sparse_rows", "is not ascending");
    for (size_t i = 0; i < s->count; i++)
        if (s->column[i] >= q->in)
            return qnti_reader_bad(r, "sparse_columns", "names a column that is not there");
    if (s->row_start[0] != 0 || s->row_start[q->out] != s->count)
        return qnti_reader_bad(r, "sparse_rows", "does not cover the values");
    return QNT_OK;
}

static qnt_status read_segments(const struct qnti_reader *r, size_t count, qnt_qlinear *q)
{
    int32_t *words;
    size_t at = 0;
    qnt_status status;
    QNT_TRY(QNTI_NEW(r->ctx, 2 * count, &words));
    QNT_CHECK(qnti_reader_words(r, "segments", 2 * count, words));
    QNT_CHECK(QNTI_NEW(r->ctx, count, &q->segments));
    for (size_t s = 0; s < count; s++) {
        struct qnti_segment *segment = &q->segments[s];
        char name[QNTI_READER_NAME_BYTES];
        q->segment_count = s + 1;
        segment->first = at;
        if (words[2 * s] < 0 || (size_t)words[2 * s] != at || words[2 * s + 1] < 1 ||
            (size_t)words[2 * s + 1] > q->in - at)
            QNT_CHECK(qnti_reader_bad(r, "segments", "does not cut the columns one after another"));
        segment->cols = (size_t)words[2 * s + 1];
        at += segment->cols;
        snprintf(name, sizeof name, "segment%zu", s);
        QNT_CHECK(qnti_reader_numbers(r, name, q->out, segment->cols, &segment->weight));
        if (!segment->weight)
            QNT_CHECK(qnti_reader_bad(r, name, "is missing"));
        snprintf(name, sizeof name, "segment%zu_act", s);
        QNT_CHECK(qnti_reader_act(r, name, segment->cols, &segment->act));
    }
    if (at != q->in)
        status = qnti_reader_bad(r, "segments", "does not cover all columns");
cleanup:
    qnti_free(r->ctx, words);
    return status;
}

static qnt_status read_layer(const struct qnti_reader *r, qnt_qlinear *q, size_t segments)
{
    QNT_TRY(read_segments(r, segments, q));
    QNT_TRY(read_sparse(r, q));
    QNT_TRY(qnti_reader_numbers(r, "lowrank_a", q->out, 0, &q->lowrank_a));
    QNT_TRY(qnti_reader_numbers(r, "lowrank_b", q->lowrank_a ? q->lowrank_a->cols : 0, q->in, &q->lowrank_b));
    if (!q->lowrank_a != !q->lowrank_b)
        return qnti_reader_bad(r, "lowrank_a", "and lowrank_b must come together");
    QNT_TRY(qnti_reader_numbers(r, "full", q->out, q->in, &q->full));
    QNT_TRY(read_transform(r, q->in, &q->transform));
    QNT_TRY(qnti_reader_act(r, "act", q->in, &q->act));
    QNT_TRY(qnti_reader_cache(r, q->out, &q->output));
    return read_vector(r, "bias_values", q->out, &q->bias);
}

static qnt_status read_header(const struct qnti_reader *r, int32_t *words)
{
    QNT_TRY(qnti_reader_words(r, "layer", LAYER_WORDS, words));
    if (words[LAYER_VERSION] != QNTI_NATIVE_VERSION)
        return qnti_fail(r->ctx, QNT_UNSUPPORTED, "%s: layer %s has version %d of the native format, known is %d",
                         r->file->path, r->prefix, words[LAYER_VERSION], QNTI_NATIVE_VERSION);
    if (words[LAYER_OUT] < 1 || words[LAYER_IN] < 1 || !qnti_within(words[LAYER_SEGMENTS], 1, MOST_SEGMENTS))
        return qnti_reader_bad(r, "layer", "has an impossible shape");
    return QNT_OK;
}

bool qnti_native_find(const struct qnti_safetensors *file, const char *name, size_t *out, size_t *in)
{
    struct qnti_reader r = {file->ctx, file, name, 0};
    const struct qnti_tensor *t = qnti_reader_find(&r, "layer");
    int32_t words[LAYER_WORDS];
    if (!t || t->bytes != sizeof words || read_header(&r, words) != QNT_OK)
        return false;
    *out = (size_t)words[LAYER_OUT];
    *in = (size_t)words[LAYER_IN];
    return true;
}

qnt_status qnti_native_read(qnt_context *ctx, const struct qnti_safetensors *file, const char *name, qnt_qlinear **q)
{
    struct qnti_reader r = {ctx, file, name, 0};
    int32_t words[LAYER_WORDS];
    qnt_status status;
    if (!qnti_reader_find(&r, "layer"))
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
