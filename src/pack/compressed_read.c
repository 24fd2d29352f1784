/*
 * compressed_read.c - a layer from compressed-tensors' tensors, by its scheme where the configuration is at hand.
 *
 * Types of tensors say which of the formats it is. Without a scheme the width
 * of packed codes follows from the number of words, integers in bytes of their
 * own have 8 bits, and inputs are known to be quantized where their scale is
 * static.
 */
#include "pack/compressed.h"

#include <math.h>
#include <stdio.h>
#include "base/number.h"
#include "base/tensor.h"
#include "pack/words.h"

enum { MOST_SIZE = INT32_MAX, BYTE_BITS = 8, NOT_A_NUMBER = 0x7f, E8M0_NOT_A_NUMBER = 255 };

struct reading {
    struct qnti_tensor_set set;
    const struct qnti_ct_scheme *scheme;         /* NULL: unknown */
    const struct qnti_kernels *kernels;
    enum qnti_ct_kind kind;
    const qnt_packed_tensor *weight, *scale;
    const uint8_t *weight_bytes, *scale_bytes, *zero_bytes;
    size_t out, in, groups;
    unsigned bits;
    struct qnti_map map;
    float divisor;
};

/* --- tensors --- */

static qnt_status find(const struct reading *r, const char *name, const qnt_packed_tensor **t, const uint8_t **bytes)
{
    *t = qnti_set_find(&r->set, name, bytes);
    return *t ? QNT_OK
              : qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: has no tensor %s", r->set.layer, name);
}

static qnt_status strange(const struct reading *r, const qnt_packed_tensor *t, const char *expected)
{
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: %s is %s (%zu, %zu) of %zu dimensions, expected %s",
                     r->set.layer, t->name, qnti_dtype_name(t->dtype), t->rank ? t->shape[0] : 0,
                     t->rank == 2 ? t->shape[1] : 0, t->rank, expected);
}

/* The tensor must be there, of this type and n elements. */
static qnt_status find_elements(const struct reading *r, const char *name, qnt_dtype dtype, size_t n,
                                const uint8_t **bytes)
{
    const qnt_packed_tensor *t;
    char expected[64];
    QNT_TRY(find(r, name, &t, bytes));
    if (t->dtype == dtype && t->rank < 2 && t->bytes == n * qnti_dtype_bytes(dtype))
        return QNT_OK;
    snprintf(expected, sizeof expected, "%zu of %s", n, qnti_dtype_name(dtype));
    return strange(r, t, expected);
}

static bool is_float_type(qnt_dtype type)
{
    return type == QNT_F32 || type == QNT_F16 || type == QNT_BF16;
}

/* One float of any type, above 0. */
static qnt_status find_scalar(const struct reading *r, const char *name, qnt_dtype *dtype, float *value)
{
    const qnt_packed_tensor *t;
    const uint8_t *bytes;
    QNT_TRY(find(r, name, &t, &bytes));
    if (!is_float_type(t->dtype) || t->rank > 1 || t->bytes != qnti_dtype_bytes(t->dtype))
        return strange(r, t, "one float");
    *dtype = t->dtype;
    qnti_widen(r->set.ctx, t->dtype, bytes, 1, value);
    if (*value > 0 && isfinite(*value))
        return QNT_OK;
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: %s is %g, expected a number above 0", r->set.layer, name,
                     (double)*value);
}

/* --- which format, which shape --- */

static qnt_status find_kind(struct reading *r)
{
    static const char *const names[] = {"weight_packed", "weight"};
    bool packed = qnti_set_find(&r->set, names[0], &r->weight_bytes) != NULL;
    QNT_TRY(find(r, names[!packed], &r->weight, &r->weight_bytes));
    QNT_TRY(find(r, "weight_scale", &r->scale, &r->scale_bytes));
    if (r->weight->rank != 2 || !r->weight->shape[0] || !r->weight->shape[1])
        return strange(r, r->weight, "a matrix");
    if (packed && r->weight->dtype == QNT_I32)
        r->kind = QNTI_CT_PACKED;
    else if (packed && r->weight->dtype == QNT_U8)
        r->kind = r->scale->dtype == QNT_F8_E4M3 ? QNTI_CT_NVFP4 : QNTI_CT_MXFP4;
    else if (!packed && r->weight->dtype == QNT_I8)
        r->kind = QNTI_CT_INTEGERS;
    else if (!packed && r->weight->dtype == QNT_F8_E4M3)
        r->kind = QNTI_CT_FP8;
    else
        return strange(r, r->weight, packed ? "I32 or U8" : "I8 or F8_E4M3");
    if (!r->scheme || qnti_ct_stores(r->scheme->format, r->kind))
        return QNT_OK;
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: %s of %s is not what the format %s has", r->set.layer,
                     r->weight->name, qnti_dtype_name(r->weight->dtype), r->scheme->format);
}

static qnt_status read_packed_sizes(struct reading *r)
{
    const uint8_t *bytes;
    uint64_t shape[2];
    size_t words = r->weight->shape[1];
    QNT_TRY(find_elements(r, "weight_shape", QNT_I64, 2, &bytes));
    memcpy(shape, bytes, sizeof shape);
    shape[0] = le64toh(shape[0]);
    shape[1] = le64toh(shape[1]);
    if (shape[0] != r->out || shape[1] == 0 || shape[1] > MOST_SIZE)
        return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: weight_shape says (%lld, %lld), weight_packed has %zu "
                         "rows", r->set.layer, (long long)shape[0], (long long)shape[1], r->out);
    r->in = (size_t)shape[1];
    r->bits = r->scheme ? r->scheme->weights.bits : qnti_ct_width(r->in, words);
    if (r->bits && qnti_ct_words(r->in, r->bits) == words)
        return QNT_OK;
    if (!r->bits)
        return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: weight_packed has %zu words for %zu columns, which is "
                         "no single width", r->set.layer, words, r->in);
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: weight_packed has %zu words for %zu columns of %u bits, "
                     "expected %zu", r->set.layer, words, r->in, r->bits, qnti_ct_words(r->in, r->bits));
}

static qnt_status read_sizes(struct reading *r)
{
    r->out = r->weight->shape[0];
    r->in = r->weight->shape[1];
    switch (r->kind) {
    case QNTI_CT_PACKED:
        return read_packed_sizes(r);
    case QNTI_CT_INTEGERS:
        r->bits = r->scheme ? r->scheme->weights.bits : BYTE_BITS;
        return QNT_OK;
    case QNTI_CT_FP8:
        r->bits = BYTE_BITS;
        return QNT_OK;
    case QNTI_CT_NVFP4:
    case QNTI_CT_MXFP4:
        r->bits = 4;
        return qnti_multiply(r->in, 2, &r->in) ? QNT_OK : strange(r, r->weight, "fewer columns");
    }
    return QNT_OK;
}

/* Blocks of the scheme, or square ones of whole columns. */
static bool find_blocks(struct reading *r, size_t rows, size_t groups)
{
    const struct qnti_ct_args *said = r->scheme ? &r->scheme->weights : NULL;
    size_t cols = said ? said->block_cols : r->in % groups ? 0 : r->in / groups, tied = said ? said->block_rows : cols;
    if (!cols || tied < 1 || qnti_ceil_div(r->out, tied) != rows || qnti_ceil_div(r->in, cols) != groups)
        return false;
    r->map.rows = tied;
    r->map.cols = cols;
    return tied > 1;
}

/* Which numbers share a scale, by the shape of the scales. */
static qnt_status read_map(struct reading *r)
{
    const qnt_packed_tensor *t = r->scale;
    bool blocks = r->scheme && r->scheme->weights.strategy == QNTI_CT_BLOCK;
    size_t rows = t->shape[0], groups = t->rank == 2 ? t->shape[1] : 1;
    r->groups = groups;
    r->map = (struct qnti_map){.kind = QNTI_MAP_TILES, .rows = 1};
    if (t->rank == 1 && rows == 1 && r->kind <= QNTI_CT_FP8) {
        r->map.rows = 0;
        return QNT_OK;
    }
    if (t->rank != 2 || !rows || !groups)
        return strange(r, t, "a matrix of scales, or one");
    if (!blocks && rows == r->out && r->in % groups == 0) {
        r->map.cols = groups > 1 || r->kind >= QNTI_CT_NVFP4 ? r->in / groups : 0;
        return QNT_OK;
    }
    if (r->kind == QNTI_CT_FP8 && find_blocks(r, rows, groups))
        return QNT_OK;
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: weight_scale (%zu, %zu) does not fit a weight (%zu, %zu)",
                     r->set.layer, rows, groups, r->out, r->in);
}

/* --- the grid --- */

static bool has_zeros(const struct reading *r)
{
    const uint8_t *bytes;
    if (r->kind > QNTI_CT_INTEGERS)
        return false;
    return r->scheme ? !r->scheme->weights.sym : qnti_set_find(&r->set, "weight_zero_point", &bytes) != NULL;
}

static struct qnti_grid integer_grid(const struct reading *r, bool zeros)
{
    struct qnti_grid grid = qnti_affine_grid(r->kernels, r->bits, 0, r->scale->dtype);
    grid.sym = grid.constant_offset = !zeros;
    grid.offset = zeros ? 0 : (float)(1u << (r->bits - 1));
    grid.integer_offset = zeros;
    grid.signed_codes = r->kind == QNTI_CT_INTEGERS;
    return grid;
}

/* `scales`: where the grid of the scales is kept. */
static qnt_status make_grid(struct reading *r, struct qnti_grid *scales, struct qnti_grid *grid)
{
    bool fp4 = r->kind >= QNTI_CT_NVFP4;
    qnt_dtype type;
    if (!fp4 && !is_float_type(r->scale->dtype))
        return strange(r, r->scale, "floats");
    if (r->kind == QNTI_CT_MXFP4 && r->scale->dtype != QNT_U8)
        return strange(r, r->scale, "U8, or F8_E4M3");
    type = fp4 ? r->kind == QNTI_CT_MXFP4 ? QNT_F8_E8M0 : QNT_F32 : r->scale->dtype;
    *grid = r->kind <= QNTI_CT_INTEGERS
                ? integer_grid(r, has_zeros(r))
                : qnti_small_float_grid(r->kernels, fp4 ? &qnti_fp4_e2m1 : &qnti_fp8_e4m3, 0, type);
    grid->map = r->map;
    if (r->kind != QNTI_CT_NVFP4)
        return QNT_OK;
    QNT_TRY(find_scalar(r, "weight_global_scale", &type, &r->divisor));
    *scales = qnti_divided_grid(r->kernels, &qnti_fp8_e4m3, r->divisor);
    grid->scale_grid = scales;
    return QNT_OK;
}

/* --- numbers --- */

static qnt_status bad_code(const struct reading *r, const char *name, size_t cols, size_t i, int code)
{
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: %s holds %d at row %zu, column %zu, which is no number there",
                     r->set.layer, name, code, i / cols, i % cols);
}

static qnt_status read_scales(const struct reading *r, struct qnti_numbers *w)
{
    struct qnti_numbers *s = w->scale;
    size_t n = s->rows * s->cols;
    for (size_t i = 0; r->kind == QNTI_CT_NVFP4 && i < n; i++)
        if ((r->scale_bytes[i] & NOT_A_NUMBER) == NOT_A_NUMBER)
            return bad_code(r, "weight_scale", s->cols, i, r->scale_bytes[i]);
    for (size_t i = 0; r->kind == QNTI_CT_MXFP4 && i < n; i++)
        if (r->scale_bytes[i] == E8M0_NOT_A_NUMBER)
            return bad_code(r, "weight_scale", s->cols, i, r->scale_bytes[i]);
    if (r->kind == QNTI_CT_NVFP4) {
        memcpy(s->code8, r->scale_bytes, n);
        qnti_numbers_settle(s);
    } else {
        qnti_widen(r->set.ctx, r->kind == QNTI_CT_MXFP4 ? QNT_F8_E8M0 : r->scale->dtype, r->scale_bytes, n, s->value);
    }
    if (qnti_all_finite(s->value, n))
        return QNT_OK;
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: weight_scale holds a number that is not finite",
                     r->set.layer);
}

static qnt_status read_zeros(struct reading *r, struct qnti_numbers *w)
{
    size_t n = w->offset->rows * w->offset->cols;
    bool packed = r->kind == QNTI_CT_PACKED;
    size_t rows = packed ? qnti_ct_words(w->offset->rows, r->bits) : w->offset->rows;
    const qnt_packed_tensor *t;
    int middle = 1 << (r->bits - 1);
    QNT_TRY(find(r, "weight_zero_point", &t, &r->zero_bytes));
    if (t->dtype != (packed ? QNT_I32 : QNT_I8) || t->rank != (r->map.rows ? 2u : 1u) || t->shape[0] != rows ||
        (t->rank == 2 && t->shape[1] != w->offset->cols))
        return strange(r, t, packed ? "I32, the scales' columns, words down them" : "I8 in the scales' shape");
    if (packed)
        return qnti_ct_unpack_zeros(r->zero_bytes, r->set.ctx, w);
    for (size_t i = 0; i < n; i++) {
        int zero = (int8_t)r->zero_bytes[i];
        if (zero < -middle || zero >= middle)
            return bad_code(r, "weight_zero_point", w->offset->cols, i, zero);
        w->offset->value[i] = (float)(zero + middle);
    }
    return QNT_OK;
}

static qnt_status read_codes(const struct reading *r, struct qnti_numbers *w)
{
    size_t n = r->out * r->in;
    int middle = 1 << (r->bits - 1);
    if (r->kind == QNTI_CT_PACKED)
        return qnti_ct_unpack_codes(r->weight_bytes, r->set.ctx, w);
    for (size_t i = 0; r->kind == QNTI_CT_INTEGERS && i < n; i++) {
        int code = (int8_t)r->weight_bytes[i];
        if (code < -middle || code >= middle)
            return bad_code(r, "weight", r->in, i, code);
        w->code8[i] = (uint8_t)(code + middle);
    }
    for (size_t i = 0; r->kind == QNTI_CT_FP8 && i < n; i++) {
        if ((r->weight_bytes[i] & NOT_A_NUMBER) == NOT_A_NUMBER)
            return bad_code(r, "weight", r->in, i, r->weight_bytes[i]);
        w->code8[i] = r->weight_bytes[i];
    }
    for (size_t i = 0; r->kind >= QNTI_CT_NVFP4 && i < n; i++)
        w->code8[i] = i % 2 ? r->weight_bytes[i / 2] >> 4 : r->weight_bytes[i / 2] & 15;
    return QNT_OK;
}

/* --- inputs --- */

/* Without a scheme: what static tensors tell. */
static struct qnti_ct_args guess_inputs(const struct reading *r)
{
    const uint8_t *bytes;
    bool global = qnti_set_find(&r->set, "input_global_scale", &bytes) != NULL;
    bool zero = qnti_set_find(&r->set, "input_zero_point", &bytes) != NULL;
    struct qnti_ct_args a = {.bits = BYTE_BITS, .is_float = r->kind > QNTI_CT_INTEGERS, .sym = true};
    a.present = qnti_set_find(&r->set, "input_scale", &bytes) != NULL;
    a.sym = a.is_float || !zero;
    if (r->kind == QNTI_CT_NVFP4 && global)
        a = (struct qnti_ct_args){.present = true, .bits = 4, .is_float = true, .sym = true,
                                  .strategy = QNTI_CT_TENSOR_GROUP, .group = QNTI_CT_NVFP4_GROUP,
                                  .dynamic = QNTI_CT_LOCAL};
    return a;
}

static qnt_status read_static(const struct reading *r, const struct qnti_ct_args *args, struct qnti_actquant *act)
{
    const uint8_t *bytes;
    int middle = 1 << (args->bits - 1);
    float *zero;
    QNT_TRY(find_scalar(r, "input_scale", &(qnt_dtype){0}, act->fixed->scale->value));
    if (args->sym)
        return QNT_OK;
    QNT_TRY(find_elements(r, "input_zero_point", QNT_I8, 1, &bytes));
    zero = act->fixed->offset->value;
    *zero = (float)((int8_t)bytes[0] + middle);
    if (*zero >= 0 && *zero < (float)(2 * middle))
        return QNT_OK;
    return bad_code(r, "input_zero_point", 1, 0, (int8_t)bytes[0]);
}

static qnt_status read_inputs(const struct reading *r, qnt_qlinear *q)
{
    struct qnti_ct_args args = r->scheme ? r->scheme->inputs : guess_inputs(r);
    struct qnti_grid grid, scales;
    qnt_dtype type;
    float global = 0;
    bool fixed = args.dynamic == QNTI_CT_STATIC;
    if (!args.present)
        return QNT_OK;
    if (args.group && q->in % args.group)
        return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: groups of %zu do not divide its %zu inputs",
                         r->set.layer, args.group, q->in);
    if (args.dynamic == QNTI_CT_LOCAL)
        QNT_TRY(find_scalar(r, "input_global_scale", &type, &global));
    grid = qnti_ct_input_grid(r->kernels, &args, global, &scales);
    if (fixed) {
        QNT_TRY(find_scalar(r, "input_scale", &type, &global));
        grid.scale_type = type;
        grid.map.rows = 1;
    }
    QNT_TRY(qnti_actquant_create(r->set.ctx, &grid, q->in, fixed, &q->act));
    return fixed ? read_static(r, &args, q->act) : QNT_OK;
}

/* --- the layer --- */

/* What the configuration says must be so. */
static qnt_status check_scheme(const struct reading *r, const qnt_qlinear *q)
{
    struct qnti_ct_scheme is;
    struct qnti_ct_args said = r->scheme->weights;
    qnti_ct_scheme_of(q, &is);
    if (said.strategy == QNTI_CT_GROUP && said.group >= q->in && is.weights.strategy == QNTI_CT_CHANNEL) {
        said.strategy = QNTI_CT_CHANNEL;
        said.group = 0;
    }
    if (is.weights.bits == said.bits && is.weights.is_float == said.is_float &&
        is.weights.strategy == said.strategy && is.weights.group == said.group)
        return QNT_OK;
    return qnti_fail(r->set.ctx, QNT_BAD_DATA, "layer %s: its tensors are of %u bits by %s, groups of %zu; the "
                     "configuration says %u by %s, groups of %zu", r->set.layer, is.weights.bits,
                     qnti_ct_strategies[is.weights.strategy], is.weights.group, said.bits,
                     qnti_ct_strategies[said.strategy], said.group);
}

static qnt_status fill(struct reading *r, qnt_qlinear *q)
{
    struct qnti_grid grid, scales;
    struct qnti_numbers *w;
    QNT_TRY(make_grid(r, &scales, &grid));
    QNT_TRY(qnti_set_bias(&r->set, q));
    QNT_TRY(qnti_qlinear_one_segment(q));
    QNT_TRY(qnti_segment_fill(q, &q->segments[0], &grid));
    w = q->segments[0].weight;
    QNT_TRY(read_scales(r, w));
    if (w->offset)
        QNT_TRY(read_zeros(r, w));
    QNT_TRY(read_codes(r, w));
    QNT_TRY(read_inputs(r, q));
    q->source_type = is_float_type(r->scale->dtype) ? r->scale->dtype : QNT_BF16;
    return r->scheme ? check_scheme(r, q) : QNT_OK;
}

qnt_status qnti_ct_unpack(qnt_context *ctx, const char *name, const qnt_packed_tensor *tensors,
                          const uint8_t *const *data, size_t count, const struct qnti_ct_scheme *scheme,
                          qnt_qlinear **out)
{
    struct reading r = {.set = {ctx, name, tensors, data, count}, .scheme = scheme,
                        .kernels = qnti_context_kernels(ctx)};
    qnt_qlinear *q = NULL;
    qnt_status status;
    QNT_CHECK(find_kind(&r));
    QNT_CHECK(read_sizes(&r));
    QNT_CHECK(read_map(&r));
    QNT_CHECK(qnti_qlinear_create(ctx, name, r.out, r.in, NULL, &q));
    QNT_CHECK(fill(&r, q));
    *out = q;
    q = NULL;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}
