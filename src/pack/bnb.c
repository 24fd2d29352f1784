/*
 * bnb.c - bitsandbytes' tensors of a layer: 4 bits in blocks (NF4, FP4), or 8 bits with a range for each row.
 *
 * 4 bits: "weight" (ceil(n / 2), 1) of the flattened matrix, first code in the
 * high half of a byte; "weight.absmax" of the blocks, or its 8-bit codes with
 * "weight.nested_absmax" and "weight.nested_quant_map"; "weight.quant_map", the
 * levels; and what numbers there are besides, as JSON in the bytes of
 * "weight.quant_state.bitsandbytes__nf4" or "...__fp4". 8 bits: "weight" I8,
 * "SCB", 127 times the scales, and "weight_format", 0. What is read is taken as
 * it is stored, maps too; when inputs are coded belongs to the model.
 */
#include <math.h>
#include <stdio.h>
#include "base/kernels.h"
#include "base/number.h"
#include "base/tensor.h"
#include "file/json_scan.h"
#include "pack/words.h"

enum { LEAST_BLOCK = 32, MOST_BLOCK = 4096, NESTED_BLOCK = 256, TOP = 127, MIDDLE = 128, STATE_BYTES = 320 };

#define STATE_NAME "weight.quant_state.bitsandbytes__"

static const char *const state_names[] = {STATE_NAME "nf4", STATE_NAME "fp4"};
static const struct qnti_codebook *const books[] = {&qnti_nf4, &qnti_fp4};
static const char *const dtype_names[] = {[QNT_F32] = "float32", [QNT_F16] = "float16", [QNT_BF16] = "bfloat16"};

/* --- what can be held --- */

/* Which of the two codebooks a grid has; 2: neither. */
static size_t book_of(const struct qnti_grid *grid)
{
    size_t b = 0;
    while (b < 2 && !qnti_codebook_is(books[b], grid))
        b++;
    return b;
}

const char *qnti_bnb_type(const struct qnti_grid *grid)
{
    size_t b = grid->form == QNTI_FORM_CODEBOOK ? book_of(grid) : 2;
    return b < 2 ? books[b]->name : NULL;
}

static const char *strange_maxima(const struct qnti_grid *g)
{
    if (!g)
        return NULL;
    if (g->form != QNTI_FORM_CODEBOOK || g->bits != 8 || !g->table || g->scale_grid || g->scale_type != QNT_F32 ||
        !g->constant_offset || g->map.kind != QNTI_MAP_FLAT || g->map.cols != NESTED_BLOCK)
        return "maxima on a grid other than 8 bits with a map, in blocks of 256";
    return NULL;
}

static const char *strange_blocks(const struct qnti_grid *g)
{
    size_t block = g->map.cols;
    if (book_of(g) == 2)
        return "levels other than NF4's or FP4's";
    if (g->map.kind != QNTI_MAP_FLAT || block < LEAST_BLOCK || block > MOST_BLOCK || block & (block - 1))
        return "groups that are not blocks of 32 to 4096, a power of two, of the flattened matrix";
    if (!g->constant_offset || g->offset != 0)
        return "levels about another middle than 0";
    return g->scale_type == QNT_F32 ? strange_maxima(g->scale_grid) : "scales of another type than F32";
}

/* The range that a scale is a 127th of: of all that give it back, the one that f16 holds, as the authors' are. */
static bool find_range(float scale, float *range)
{
    float near[] = {scale * TOP, nextafterf(scale * TOP, INFINITY), nextafterf(scale * TOP, -INFINITY)};
    bool found = false;
    for (size_t i = 0; i < 3; i++) {
        if (near[i] / TOP != scale || (found && qnti_round_to(QNT_F16, near[i]) != near[i]))
            continue;
        *range = near[i];
        found = true;
    }
    return found;
}

static const char *strange_rows(const struct qnti_numbers *w)
{
    const struct qnti_grid *g = &w->grid;
    float range;
    if (g->bits != 8 || g->levels != 256 || !g->constant_offset || g->offset != MIDDLE || g->map.rows != 1 ||
        g->map.kind != QNTI_MAP_TILES || w->scale->cols != 1 || g->scale_grid || g->scale_type != QNT_F32)
        return "a grid that is neither blocks of 4 bits nor rows of 8 bits about 0, with scales of F32";
    for (size_t r = 0; r < w->rows; r++)
        if (!find_range(w->scale->value[r], &range))
            return "a scale that is the 127th part of no number";
    return NULL;
}

static const char *misfit(const qnt_qlinear *q)
{
    const struct qnti_numbers *w = q->segments[0].weight;
    if (w->grid.form == QNTI_FORM_CODEBOOK)
        return q->act ? "quantized inputs beside 4 bits" : strange_blocks(&w->grid);
    return w->grid.form == QNTI_FORM_ZERO ? strange_rows(w) : "a grid of this form";
}

/* --- packing --- */

enum { WEIGHT, ABSMAX, MAP, STATE, NESTED_ABSMAX, NESTED_MAP };
enum { SCB = 1, WEIGHT_FORMAT };

/* The shortest number that reads back as the f64 of x, as Python prints it; JSON's point is no locale's. */
static void print_number(float x, char *text, size_t size)
{
    int digits = 1;
    double back;
    do
        snprintf(text, size, "%.*g", digits, (double)x);
    while (sscanf(text, "%lf", &back) == 1 && back != (double)x && digits++ < 17);
    qnti_exchange_point(text, false);
}

/* As json.dumps writes it, its keys in the library's order. */
static size_t print_state(const qnt_qlinear *q, char text[STATE_BYTES])
{
    const struct qnti_grid *g = &q->segments[0].weight->grid;
    int n = snprintf(text, STATE_BYTES,
                     "{\"quant_type\": \"%s\", \"blocksize\": %zu, \"dtype\": \"%s\", \"shape\": [%zu, %zu]",
                     books[book_of(g)]->name, g->map.cols, dtype_names[q->source_type], q->out, q->in);
    size_t at = (size_t)n;
    if (g->scale_grid) {
        char offset[32];
        print_number(g->scale_grid->offset, offset, sizeof offset);
        n = snprintf(text + at, STATE_BYTES - at,
                     ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %s%s", NESTED_BLOCK,
                     offset, strpbrk(offset, ".e") ? "" : ".0");
        at += (size_t)n;
    }
    text[at++] = '}';
    return at;
}

static qnt_packed_tensor of_type(const char *name, qnt_dtype dtype, size_t n)
{
    return (qnt_packed_tensor){.name = name, .dtype = dtype, .rank = 1, .shape = {n, 0}};
}

static void tensors_of_blocks(const qnt_qlinear *q, qnt_packed_tensor *tensors, size_t *count)
{
    const struct qnti_numbers *w = q->segments[0].weight;
    const struct qnti_numbers *nested = w->grid.scale_grid ? w->scale : NULL;
    char state[STATE_BYTES];
    tensors[WEIGHT] = (qnt_packed_tensor){.name = "weight", .dtype = QNT_U8, .rank = 2,
                                          .shape = {qnti_ceil_div(q->out * q->in, 2), 1}};
    tensors[ABSMAX] = of_type("weight.absmax", nested ? QNT_U8 : QNT_F32, w->scale->cols);
    tensors[MAP] = of_type("weight.quant_map", QNT_F32, w->grid.levels);
    tensors[STATE] = of_type(state_names[book_of(&w->grid)], QNT_U8, print_state(q, state));
    *count = NESTED_ABSMAX;
    if (!nested)
        return;
    tensors[NESTED_ABSMAX] = of_type("weight.nested_absmax", QNT_F32, nested->scale->cols);
    tensors[NESTED_MAP] = of_type("weight.nested_quant_map", QNT_F32, nested->grid.levels);
    *count = NESTED_MAP + 1;
}

static qnt_status tensors_of(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                             size_t *count)
{
    (void)layout;
    if (q->segments[0].weight->grid.form == QNTI_FORM_CODEBOOK) {
        tensors_of_blocks(q, tensors, count);
    } else {
        tensors[WEIGHT] = (qnt_packed_tensor){.name = "weight", .dtype = QNT_I8, .rank = 2, .shape = {q->out, q->in}};
        tensors[SCB] = of_type("SCB", QNT_F32, q->out);
        tensors[WEIGHT_FORMAT] = (qnt_packed_tensor){.name = "weight_format", .dtype = QNT_U8, .shape = {1, 0}};
        *count = WEIGHT_FORMAT + 1;
    }
    if (q->bias)
        tensors[(*count)++] = qnti_words_bias(q);
    return QNT_OK;
}

static void pack_blocks(const qnt_qlinear *q, uint8_t *const *data)
{
    const struct qnti_numbers *w = q->segments[0].weight;
    const struct qnti_numbers *nested = w->grid.scale_grid ? w->scale : NULL;
    char state[STATE_BYTES];
    qnti_numbers_nibbles(w, data[WEIGHT]);
    memcpy(data[MAP], w->table, w->grid.levels * sizeof *w->table);
    memcpy(data[STATE], state, print_state(q, state));
    if (!nested) {
        memcpy(data[ABSMAX], w->scale->value, w->scale->cols * sizeof *w->scale->value);
        return;
    }
    memcpy(data[ABSMAX], nested->code8, nested->cols);
    memcpy(data[NESTED_ABSMAX], nested->scale->value, nested->scale->cols * sizeof *nested->scale->value);
    memcpy(data[NESTED_MAP], nested->table, nested->grid.levels * sizeof *nested->table);
}

static void pack_rows(const qnt_qlinear *q, uint8_t *const *data)
{
    const struct qnti_numbers *w = q->segments[0].weight;
    for (size_t i = 0; i < q->out * q->in; i++)
        data[WEIGHT][i] = (uint8_t)(w->code8[i] - MIDDLE);
    for (size_t r = 0; r < q->out; r++) {
        float range = 0;
        find_range(w->scale->value[r], &range);
        memcpy(data[SCB] + r * sizeof range, &range, sizeof range);
    }
    data[WEIGHT_FORMAT][0] = 0;
}

static qnt_status pack(const struct qnti_layout *layout, const qnt_qlinear *q, uint8_t *const *data)
{
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count;
    QNT_TRY(tensors_of(layout, q, tensors, &count));
    if (q->segments[0].weight->grid.form == QNTI_FORM_CODEBOOK)
        pack_blocks(q, data);
    else
        pack_rows(q, data);
    if (q->bias)
        qnti_words_pack_bias(q, data[count - 1]);
    return QNT_OK;
}

/* --- unpacking --- */

/* What the JSON says. */
struct state {
    size_t block, out, in, nested_block;
    double offset;
    qnt_dtype dtype;
};

static qnt_status read_word(struct qnti_scan *scan, const char *const *words, size_t count, const char *expected,
                            size_t *word)
{
    const char *text;
    QNT_TRY(qnti_scan_string(scan, &text));
    for (*word = 0; *word < count && strcmp(text, words[*word]) != 0;)
        ++*word;
    return *word < count ? QNT_OK : qnti_scan_fail(scan, expected);
}

static qnt_status read_shape(struct qnti_scan *scan, struct state *state)
{
    size_t count = 0, *sizes[] = {&state->out, &state->in};
    bool more = true;
    QNT_TRY(qnti_scan_expect(scan, '['));
    while (more) {
        size_t n = count;
        QNT_TRY(qnti_scan_item(scan, ']', &count, &more));
        if (more && n == 2)
            return qnti_scan_fail(scan, "two sizes");
        if (more)
            QNT_TRY(qnti_scan_size(scan, sizes[n]));
    }
    return count == 2 ? QNT_OK : qnti_scan_fail(scan, "two sizes");
}

static qnt_status read_number(struct qnti_scan *scan, double *value)
{
    char text[64];
    const char *begin;
    qnti_scan_peek(scan);
    begin = scan->at;
    QNT_TRY(qnti_scan_skip(scan));
    if ((size_t)(scan->at - begin) >= sizeof text)
        return qnti_scan_fail(scan, "a number");
    memcpy(text, begin, (size_t)(scan->at - begin));
    text[scan->at - begin] = 0;
    return qnti_read_decimal(text, value) ? QNT_OK : qnti_scan_fail(scan, "a number");
}

static qnt_status read_entry(struct qnti_scan *scan, struct state *state)
{
    const char *key;
    size_t word;
    QNT_TRY(qnti_scan_key(scan, &key));
    if (strcmp(key, "blocksize") == 0)
        return qnti_scan_size(scan, &state->block);
    if (strcmp(key, "shape") == 0)
        return read_shape(scan, state);
    if (strcmp(key, "nested_blocksize") == 0)
        return qnti_scan_size(scan, &state->nested_block);
    if (strcmp(key, "nested_offset") == 0)
        return read_number(scan, &state->offset);
    if (strcmp(key, "dtype") == 0) {
        QNT_TRY(read_word(scan, dtype_names, 3, "\"float32\", \"float16\" or \"bfloat16\"", &word));
        state->dtype = (qnt_dtype)word;
        return QNT_OK;
    }
    return qnti_scan_skip(scan);
}

static qnt_status read_state(const struct qnti_tensor_set *set, const qnt_packed_tensor *t, const uint8_t *bytes,
                             struct state *state)
{
    struct qnti_scan scan;
    size_t count = 0;
    bool more = true;
    char *strings;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(set->ctx, t->bytes + 1, &strings));
    QNT_CHECK(qnti_scan_init(set->ctx, set->layer, (const char *)bytes, t->bytes, strings, &scan));
    scan.item = t->name;
    QNT_CHECK(qnti_scan_expect(&scan, '{'));
    while (more) {
        QNT_CHECK(qnti_scan_item(&scan, '}', &count, &more));
        if (more)
            QNT_CHECK(read_entry(&scan, state));
    }
    if (qnti_scan_peek(&scan) != -1)
        QNT_CHECK(qnti_scan_fail(&scan, "nothing behind the object"));
    if (state->block == 0 || state->out == 0 || state->in == 0 || !isfinite((float)state->offset))
        status = qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: %s says blocks of %zu, a shape of (%zu, %zu), an offset "
                           "of %g", set->layer, t->name, state->block, state->out, state->in, state->offset);
cleanup:
    qnti_free(set->ctx, strings);
    return status;
}

/* The bytes of a tensor of a type and of so many elements, whatever its shape. */
static qnt_status find_bytes(const struct qnti_tensor_set *set, const char *name, qnt_dtype dtype, size_t n,
                             const uint8_t **bytes)
{
    const qnt_packed_tensor *t = qnti_set_find(set, name, bytes);
    if (!t)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: has no tensor %s", set->layer, name);
    if (t->dtype == dtype && t->bytes == n * qnti_dtype_bytes(dtype))
        return QNT_OK;
    return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: %s is %s of %zu bytes, expected %zu of %s", set->layer, name,
                     qnti_dtype_name(t->dtype), t->bytes, n, qnti_dtype_name(dtype));
}

static qnt_status read_floats(const struct qnti_tensor_set *set, const char *name, size_t n, float *x)
{
    const uint8_t *bytes;
    QNT_TRY(find_bytes(set, name, QNT_F32, n, &bytes));
    memcpy(x, bytes, n * sizeof *x);
    if (qnti_all_finite(x, n))
        return QNT_OK;
    return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: %s holds a number that is not finite", set->layer, name);
}

/* The layer of a grid, its codes and scales still empty, its bias read. */
static qnt_status create(const struct qnti_tensor_set *set, const struct qnti_grid *grid, size_t out, size_t in,
                         qnt_qlinear **q)
{
    QNT_TRY(qnti_qlinear_create(set->ctx, set->layer, out, in, NULL, q));
    QNT_TRY(qnti_set_bias(set, *q));
    QNT_TRY(qnti_qlinear_one_segment(*q));
    return qnti_segment_fill(*q, &(*q)->segments[0], grid);
}

static qnt_status read_maxima(const struct qnti_tensor_set *set, struct qnti_numbers *scale)
{
    const uint8_t *codes;
    if (scale->grid.form == QNTI_FORM_FLOAT)
        return read_floats(set, "weight.absmax", scale->cols, scale->value);
    QNT_TRY(find_bytes(set, "weight.absmax", QNT_U8, scale->cols, &codes));
    memcpy(scale->code8, codes, scale->cols);
    QNT_TRY(read_floats(set, "weight.nested_absmax", scale->scale->cols, scale->scale->value));
    qnti_numbers_settle(scale);
    return QNT_OK;
}

/* Halves of bytes: by bytes, since any type may stand for them. */
static qnt_status read_nibbles(const struct qnti_tensor_set *set, struct qnti_numbers *w)
{
    size_t n = w->rows * w->cols;
    const uint8_t *bytes;
    qnti_set_find(set, "weight", &bytes);
    for (size_t i = 0; i < n; i++)
        w->code8[i] = i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
    return QNT_OK;
}

static qnt_status check_size(const struct qnti_tensor_set *set, const struct state *state)
{
    const uint8_t *bytes;
    const qnt_packed_tensor *t = qnti_set_find(set, "weight", &bytes);
    size_t n;
    if (!t)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: has no tensor weight", set->layer);
    if (qnti_multiply(state->out, state->in, &n) && t->bytes == qnti_ceil_div(n, 2))
        return QNT_OK;
    return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: weight has %zu bytes, not those of (%zu, %zu) in 4 bits",
                     set->layer, t->bytes, state->out, state->in);
}

static qnt_status unpack_blocks(const struct qnti_tensor_set *set, const qnt_packed_tensor *t, const uint8_t *bytes,
                                qnt_qlinear **q)
{
    struct state state = {0};
    float map[16], nested_map[256];
    struct qnti_grid grid, nested;
    QNT_TRY(read_state(set, t, bytes, &state));
    QNT_TRY(check_size(set, &state));
    grid = qnti_codebook_grid(qnti_context_kernels(set->ctx), &qnti_nf4, state.block, QNT_F32);
    QNT_TRY(read_floats(set, "weight.quant_map", grid.levels, map));
    grid.table = map;
    grid.book = NULL;
    if (state.nested_block) {
        nested = qnti_codebook_grid(grid.kernels, &qnti_dynamic8, state.nested_block, QNT_F32);
        QNT_TRY(read_floats(set, "weight.nested_quant_map", nested.levels, nested_map));
        nested.table = nested_map;
        nested.book = NULL;
        nested.offset = (float)state.offset;
        grid.scale_grid = &nested;
    }
    QNT_TRY(create(set, &grid, state.out, state.in, q));
    (*q)->source_type = state.dtype;
    QNT_TRY(read_maxima(set, (*q)->segments[0].weight->scale));
    return read_nibbles(set, (*q)->segments[0].weight);
}

static qnt_status check_weight_format(const struct qnti_tensor_set *set)
{
    const uint8_t *bytes;
    if (!qnti_set_find(set, "weight_format", &bytes))
        return QNT_OK;
    QNT_TRY(find_bytes(set, "weight_format", QNT_U8, 1, &bytes));
    if (bytes[0] == 0)
        return QNT_OK;
    return qnti_fail(set->ctx, QNT_UNSUPPORTED, "layer %s: weight_format %u is an order for certain GPUs, expected 0, "
                     "rows", set->layer, (unsigned)bytes[0]);
}

static qnt_status unpack_rows(const struct qnti_tensor_set *set, qnt_qlinear **q)
{
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(set->ctx), 8, 0, QNT_F32);
    const uint8_t *bytes;
    const qnt_packed_tensor *t = qnti_set_find(set, "weight", &bytes);
    struct qnti_numbers *w;
    if (!t || t->dtype != QNT_I8 || t->rank != 2 || t->bytes == 0)
        return qnti_fail(set->ctx, QNT_BAD_DATA, "layer %s: weight is no matrix of I8", set->layer);
    QNT_TRY(check_weight_format(set));
    grid.sym = grid.absmax = grid.constant_offset = grid.signed_codes = true;
    grid.offset = MIDDLE;
    QNT_TRY(create(set, &grid, t->shape[0], t->shape[1], q));
    w = (*q)->segments[0].weight;
    QNT_TRY(read_floats(set, "SCB", w->rows, w->scale->value));
    for (size_t r = 0; r < w->rows; r++)
        w->scale->value[r] /= TOP;
    for (size_t i = 0; i < w->rows * w->cols; i++)
        w->code8[i] = (uint8_t)(bytes[i] + MIDDLE);
    return QNT_OK;
}

static qnt_status unpack(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                         const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count, qnt_qlinear **out)
{
    struct qnti_tensor_set set = {ctx, name, tensors, data, count};
    const qnt_packed_tensor *state = NULL;
    const uint8_t *bytes;
    qnt_qlinear *q = NULL;
    qnt_status status;
    (void)layout;
    for (size_t i = 0; i < 2 && !state; i++)
        state = qnti_set_find(&set, state_names[i], &bytes);
    if (!state && !qnti_set_find(&set, "SCB", &bytes))
        return qnti_fail(ctx, QNT_BAD_DATA, "layer %s: has neither a tensor %snf4 or fp4 nor SCB", name, STATE_NAME);
    status = state ? unpack_blocks(&set, state, bytes, &q) : unpack_rows(&set, &q);
    if (status == QNT_OK)
        *out = q;
    else
        qnt_qlinear_destroy(q);
    return status;
}

const struct qnti_packer qnti_bnb_packer = {tensors_of, pack, unpack, misfit, qnti_actquant_is_int8};
