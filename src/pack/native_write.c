/*
 * native_write.c - every part of a layer as tensors.
 */
#include "pack/native.h"

#include <stdio.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "base/tensor.h"
#include "pack/native_fields.h"

struct writer {
    qnt_context *ctx;
    struct qnti_native_tensors *tensors;
    const char *prefix;
};

static qnt_status grow(qnt_context *ctx, struct qnti_native_tensors *t)
{
    struct qnti_tensor_source *sources;
    if (t->count < t->capacity)
        return QNT_OK;
    QNT_TRY(QNTI_NEW(ctx, t->capacity ? 2 * t->capacity : 64, &sources));
    if (t->count)
        memcpy(sources, t->sources, t->count * sizeof *sources);
    qnti_free(ctx, t->sources);
    t->sources = sources;
    t->capacity = t->capacity ? 2 * t->capacity : 64;
    return QNT_OK;
}

/* A tensor PREFIX.SUFFIX; `bytes` bytes of memory to fill. */
static qnt_status add(const struct writer *w, const char *suffix, const char *dtype, size_t rank, size_t rows,
                      size_t cols, size_t bytes, void **data)
{
    struct qnti_tensor_source *source;
    char name[512], *copy;
    QNT_TRY(grow(w->ctx, w->tensors));
    source = &w->tensors->sources[w->tensors->count];
    if (snprintf(name, sizeof name, "%s.%s", w->prefix, suffix) >= (int)sizeof name)
        return qnti_fail(w->ctx, QNT_INVALID, "the name %s is too long", w->prefix);
    QNT_TRY(qnti_copy_string(w->ctx, name, &copy));
    *source = (struct qnti_tensor_source){.name = copy, .dtype = dtype, .rank = rank, .shape = {rows, cols}};
    w->tensors->count++;
    QNT_TRY(qnti_alloc(w->ctx, qnti_max(bytes, 1), 1, data));
    source->data = *data;
    return QNT_OK;
}

static qnt_status add_words(const struct writer *w, const char *suffix, const int32_t *words, size_t n)
{
    void *data;
    QNT_TRY(add(w, suffix, "I32", 1, n, 0, n * sizeof *words, &data));
    memcpy(data, words, n * sizeof *words);
    return QNT_OK;
}

static qnt_status add_u32(const struct writer *w, const char *suffix, const uint32_t *words, size_t n)
{
    void *data;
    QNT_TRY(add(w, suffix, "U32", 1, n, 0, n * sizeof *words, &data));
    memcpy(data, words, n * sizeof *words);
    return QNT_OK;
}

static qnt_status add_floats(const struct writer *w, const char *suffix, qnt_dtype type, const float *x, size_t rank,
                             size_t rows, size_t cols)
{
    size_t n = rank == 1 ? rows : rows * cols;
    void *data;
    QNT_TRY(add(w, suffix, qnti_dtype_name(type), rank, rows, cols, n * qnti_dtype_bytes(type), &data));
    qnti_narrow(w->ctx, type, x, n, data);
    return QNT_OK;
}

/* All codes of a matrix as one stream of bits, in chunks of a whole number of bytes. */
static qnt_status add_codes(const struct writer *w, const struct qnti_numbers *q)
{
    enum { CHUNK = 4096 };
    const struct qnti_kernels *k = qnti_context_kernels(w->ctx);
    size_t n = q->rows * q->cols, bytes = qnti_ceil_div(n * q->grid.bits, 8);
    uint16_t code[CHUNK];
    void *data;
    QNT_TRY(add(w, "codes", "U8", 1, bytes, 0, bytes, &data));
    for (size_t done = 0; done < n; done += CHUNK) {
        size_t run = qnti_min(CHUNK, n - done);
        for (size_t i = 0; i < run; i++)
            code[i] = q->code16 ? q->code16[done + i] : q->code8[done + i];
        k->pack(run, q->grid.bits, code, (uint8_t *)data + done / 8 * q->grid.bits);
    }
    return QNT_OK;
}

static int32_t offset_kind(const struct qnti_grid *g)
{
    if (g->integer_offset)
        return GRID_OFFSET_CODE;
    return g->form == QNTI_FORM_ZERO && !g->constant_offset && !g->real_offset ? GRID_OFFSET_WHOLE : GRID_OFFSET_REAL;
}

static qnt_status add_grid(const struct writer *w, const struct qnti_numbers *q)
{
    const struct qnti_grid *g = &q->grid;
    int32_t words[GRID_WORDS] = {[GRID_ROWS] = (int32_t)q->rows,
                                 [GRID_COLS] = (int32_t)q->cols,
                                 [GRID_FORM] = (int32_t)g->form,
                                 [GRID_BITS] = (int32_t)g->bits,
                                 [GRID_LEVELS] = (int32_t)g->levels,
                                 [GRID_MAP] = (int32_t)g->map.kind,
                                 [GRID_MAP_ROWS] = (int32_t)g->map.rows,
                                 [GRID_MAP_COLS] = (int32_t)g->map.cols,
                                 [GRID_INDEX_GROUPS] = (int32_t)g->map.index_groups,
                                 [GRID_FLOAT_TYPE] = (int32_t)g->float_type,
                                 [GRID_SCALE_TYPE] = (int32_t)g->scale_type,
                                 [GRID_INTEGER_OFFSET] = offset_kind(g),
                                 [GRID_CONSTANT_OFFSET] = g->constant_offset,
                                 [GRID_OFFSET_BITS] = (int32_t)qnti_bits(g->offset),
                                 [GRID_CODEBOOK] = (int32_t)g->codebook_size,
                                 [GRID_CODEBOOK_PER_ROW] = g->codebook_per_row,
                                 [GRID_SYM] = g->sym,
                                 [GRID_ABSMAX] = g->absmax,
                                 [GRID_INCLUDE_ZERO] = g->include_zero,
                                 [GRID_HAS_VALUE] = q->value != NULL,
                                 [GRID_SIGNED] = g->signed_codes};
    return add_words(w, "grid", words, GRID_WORDS);
}

/* What the levels of a codebook are: a table, and what all of them are divided by. */
static qnt_status add_levels(const struct writer *w, const struct qnti_grid *g)
{
    if (g->table)
        QNT_TRY(add_floats(w, "table", QNT_F32, g->table, 1, g->levels, 0));
    return g->divisor > 0 ? add_floats(w, "divisor", QNT_F32, &g->divisor, 1, 1, 0) : QNT_OK;
}

/* Integer offsets are codes of the grid's own width. */
static qnt_status add_integer_offsets(const struct writer *w, const struct qnti_numbers *q)
{
    const struct qnti_kernels *k = qnti_context_kernels(w->ctx);
    size_t n = q->offset->rows * q->offset->cols, bytes = qnti_ceil_div(n * q->grid.bits, 8);
    uint16_t *code;
    void *data;
    QNT_TRY(add(w, "offset_codes", "U8", 1, bytes, 0, bytes, &data));
    QNT_TRY(QNTI_NEW_RAW(w->ctx, n, &code));
    for (size_t i = 0; i < n; i++)
        code[i] = (uint16_t)q->offset->value[i];
    k->pack(n, q->grid.bits, code, data);
    qnti_free(w->ctx, code);
    return QNT_OK;
}

/* Recursion follows the levels of quantization, of which there are two or three. */
static qnt_status add_numbers(const struct writer *w, const char *suffix, const struct qnti_numbers *q)
{
    char prefix[512];
    struct writer inner = {w->ctx, w->tensors, prefix};
    if (!q)
        return QNT_OK;
    if (snprintf(prefix, sizeof prefix, "%s.%s", w->prefix, suffix) >= (int)sizeof prefix)
        return qnti_fail(w->ctx, QNT_INVALID, "the name %s is too long", w->prefix);
    QNT_TRY(add_grid(&inner, q));
    if (q->grid.form == QNTI_FORM_FLOAT)
        return add_floats(&inner, "values", q->grid.float_type, q->value, 2, q->rows, q->cols);
    QNT_TRY(add_codes(&inner, q));
    if (q->index)
        QNT_TRY(add_u32(&inner, "index", q->index, q->cols));
    QNT_TRY(add_levels(&inner, &q->grid));
    QNT_TRY(add_numbers(&inner, "scale", q->scale));
    if (q->offset && q->grid.integer_offset)
        QNT_TRY(add_integer_offsets(&inner, q));
    else
        QNT_TRY(add_numbers(&inner, "offset", q->offset));
    return add_numbers(&inner, "codebook", q->codebook);
}

/* A grid without numbers, and that of its scales. */
static qnt_status add_bare_grid(const struct writer *w, const char *suffix, const struct qnti_grid *grid, size_t cols)
{
    const struct qnti_numbers shape = {.grid = *grid, .rows = 1, .cols = cols};
    char prefix[512];
    struct writer inner = {w->ctx, w->tensors, prefix};
    if (snprintf(prefix, sizeof prefix, "%s.%s", w->prefix, suffix) >= (int)sizeof prefix)
        return qnti_fail(w->ctx, QNT_INVALID, "the name %s is too long", w->prefix);
    QNT_TRY(add_grid(&inner, &shape));
    if (grid->map.kind == QNTI_MAP_INDEX)
        QNT_TRY(add_u32(&inner, "index", grid->map.index, cols));
    QNT_TRY(add_levels(&inner, grid));
    if (!grid->scale_grid)
        return QNT_OK;
    return add_bare_grid(&inner, "scale", grid->scale_grid, qnti_map_groups(&grid->map, 1, cols));
}

static qnt_status add_act(const struct writer *w, const char *suffix, const struct qnti_actquant *act)
{
    char name[128];
    int32_t words[ACT_WORDS];
    if (!act)
        return QNT_OK;
    words[ACT_FIXED] = act->fixed != NULL;
    words[ACT_CLIP_BITS] = (int32_t)qnti_bits(act->clip);
    words[ACT_THRESHOLD_BITS] = (int32_t)qnti_bits(act->threshold);
    words[ACT_INPUT_TYPE] = (int32_t)act->input_type;
    words[ACT_RANGE_OF_KEPT] = act->range_of_kept;
    words[ACT_GIVEN] = act->given;
    QNT_TRY(add_words(w, suffix, words, ACT_WORDS));
    snprintf(name, sizeof name, "%s_grid", suffix);
    if (act->fixed)
        return add_numbers(w, name, act->fixed);
    return add_bare_grid(w, name, &act->grid, act->cols);
}

static qnt_status add_cache(const struct writer *w, const struct qnti_cache *cache)
{
    int32_t words[CACHE_WORDS];
    if (!cache)
        return QNT_OK;
    words[CACHE_HEAD_DIM] = (int32_t)cache->head_dim;
    words[CACHE_BY_CHANNEL] = cache->by_channel;
    words[CACHE_ROTATED] = cache->rotated;
    words[CACHE_BEFORE_ROPE] = cache->before_rope;
    words[CACHE_WINDOW] = (int32_t)cache->window;
    words[CACHE_SINKS] = (int32_t)cache->sinks;
    words[CACHE_CLIP_BITS] = (int32_t)qnti_bits(cache->clip);
    QNT_TRY(add_words(w, "output", words, CACHE_WORDS));
    return add_bare_grid(w, "output_grid", &cache->grid, cache->head_dim);
}

static qnt_status add_transform(const struct writer *w, const struct qnti_transform *t, size_t in)
{
    const struct qnti_rotation *r = &t->rotation;
    int32_t words[ROTATION_WORDS] = {(int32_t)r->block, (int32_t)r->small};
    size_t known = t->permutation ? qnti_permutation_known(t->permutation, in) : in;
    if (t->scale)
        QNT_TRY(add_floats(w, "scale", QNT_F32, t->scale, 1, in, 0));
    if (t->shift)
        QNT_TRY(add_floats(w, "shift", QNT_F32, t->shift, 1, in, 0));
    if (known < in)
        QNT_TRY(add_u32(w, "permutation", t->permutation + known, in - known));
    if (!r->block)
        return QNT_OK;
    QNT_TRY(add_words(w, "rotation", words, ROTATION_WORDS));
    if (r->small_matrix)
        QNT_TRY(add_floats(w, "rotation_matrix", QNT_F32, r->small_matrix, 2, r->small, r->small));
    return r->sign ? add_floats(w, "rotation_sign", QNT_F32, r->sign, 1, in, 0) : QNT_OK;
}

static qnt_status add_columns(const struct writer *w, const qnt_qlinear *q)
{
    const struct qnti_sparse *s = &q->sparse;
    uint16_t *narrow;
    void *data;
    if (qnti_sparse_column_bytes(q->in) == sizeof *s->column)
        return add_u32(w, "sparse_columns", s->column, s->count);
    QNT_TRY(add(w, "sparse_columns", "U16", 1, s->count, 0, s->count * sizeof *narrow, &data));
    narrow = data;
    for (size_t i = 0; i < s->count; i++)
        narrow[i] = (uint16_t)s->column[i];
    return QNT_OK;
}

static qnt_status add_sparse(const struct writer *w, const qnt_qlinear *q)
{
    if (!q->sparse.count)
        return QNT_OK;
    QNT_TRY(add_u32(w, "sparse_rows", q->sparse.row_start, q->out + 1));
    QNT_TRY(add_columns(w, q));
    return add_floats(w, "sparse_values", q->sparse.type, q->sparse.value, 1, q->sparse.count, 0);
}

static qnt_status add_segments(const struct writer *w, const qnt_qlinear *q)
{
    int32_t *words;
    qnt_status status;
    QNT_TRY(QNTI_NEW(w->ctx, 2 * q->segment_count, &words));
    for (size_t s = 0; s < q->segment_count; s++) {
        words[2 * s] = (int32_t)q->segments[s].first;
        words[2 * s + 1] = (int32_t)q->segments[s].cols;
    }
    status = add_words(w, "segments", words, 2 * q->segment_count);
    for (size_t s = 0; status == QNT_OK && s < q->segment_count; s++) {
        char name[32];
        snprintf(name, sizeof name, "segment%zu", s);
        status = add_numbers(w, name, q->segments[s].weight);
        snprintf(name, sizeof name, "segment%zu_act", s);
        if (status == QNT_OK)
            status = add_act(w, name, q->segments[s].act);
    }
    qnti_free(w->ctx, words);
    return status;
}

qnt_status qnti_native_add(qnt_context *ctx, const qnt_qlinear *q, struct qnti_native_tensors *tensors)
{
    struct writer w = {ctx, tensors, q->name};
    int32_t layer[LAYER_WORDS] = {QNTI_NATIVE_VERSION, (int32_t)q->out, (int32_t)q->in, (int32_t)q->segment_count};
    if (q->out > INT32_MAX || q->in > INT32_MAX)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "layer %s of %zu x %zu is too large", q->name, q->out, q->in);
    QNT_TRY(add_words(&w, "layer", layer, LAYER_WORDS));
    QNT_TRY(add_segments(&w, q));
    QNT_TRY(add_sparse(&w, q));
    QNT_TRY(add_numbers(&w, "lowrank_a", q->lowrank_a));
    QNT_TRY(add_numbers(&w, "lowrank_b", q->lowrank_b));
    QNT_TRY(add_numbers(&w, "full", q->full));
    QNT_TRY(add_transform(&w, &q->transform, q->in));
    QNT_TRY(add_act(&w, "act", q->act));
    QNT_TRY(add_cache(&w, q->output));
    return q->bias ? add_floats(&w, "bias_values", QNT_F32, q->bias, 1, q->out, 0) : QNT_OK;
}

void qnti_native_tensors_free(qnt_context *ctx, struct qnti_native_tensors *t)
{
    for (size_t i = 0; i < t->count; i++) {
        qnti_free(ctx, (void *)(uintptr_t)t->sources[i].name);
        qnti_free(ctx, (void *)(uintptr_t)t->sources[i].data);
    }
    qnti_free(ctx, t->sources);
    memset(t, 0, sizeof *t);
}
