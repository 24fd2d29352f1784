/*
 * compressed.c - compressed-tensors' tensors of a layer, what of a layer they can hold, and its scheme.
 *
 *   integers, inputs as they are   weight_packed, weight_scale, weight_shape, weight_zero_point (packed)
 *   integers, inputs quantized     weight I8 (code less its middle), weight_scale, weight_zero_point I8
 *   FP8 E4M3                       weight, weight_scale
 *   NVFP4, MXFP4                   weight_packed (the even column in the low half), weight_scale, weight_global_scale
 *   static inputs                  input_scale, input_zero_point; NVFP4's: input_global_scale
 *
 * Scales are stored in the type of the source's weights where that holds them
 * exactly, as readers keep them, else in the grid's.
 */
#include "pack/compressed.h"

#include <math.h>
#include "base/number.h"
#include "base/tensor.h"
#include "pack/words.h"

static const struct qnti_numbers *weight_of(const qnt_qlinear *q)
{
    return q->segments[0].weight;
}

static enum qnti_ct_kind kind_of(const qnt_qlinear *q)
{
    const struct qnti_grid *g = &weight_of(q)->grid;
    if (g->form == QNTI_FORM_ZERO)
        return q->act ? QNTI_CT_INTEGERS : QNTI_CT_PACKED;
    if (g->bits == 8)
        return QNTI_CT_FP8;
    return g->scale_grid ? QNTI_CT_NVFP4 : QNTI_CT_MXFP4;
}

/* --- what can be held --- */

static bool is_float_type(qnt_dtype type)
{
    return type == QNT_F32 || type == QNT_F16 || type == QNT_BF16;
}

static const struct qnti_small_float *number_of(const struct qnti_grid *g)
{
    const struct qnti_codebook *book = g->form == QNTI_FORM_CODEBOOK ? qnti_small_float_book(g) : NULL;
    return book && g->constant_offset && g->offset == 0 ? book->number : NULL;
}

static bool is_divided(const struct qnti_grid *g)
{
    return g && number_of(g) == &qnti_e4m3 && g->map.kind == QNTI_MAP_NONE && g->divisor > 0;
}

/* FP4 in the groups and with the scales of one of its two formats. */
static bool is_fp4(const struct qnti_grid *g)
{
    if (number_of(g) != &qnti_e2m1 || g->map.kind != QNTI_MAP_TILES || g->map.rows != 1)
        return false;
    if (g->scale_grid)
        return g->map.cols == QNTI_CT_NVFP4_GROUP && is_divided(g->scale_grid);
    return g->map.cols == QNTI_CT_MXFP4_GROUP && g->scale_type == QNT_F8_E8M0;
}

static const char *strange_floats(const struct qnti_grid *g, size_t in)
{
    const struct qnti_small_float *number = number_of(g);
    if (number == &qnti_e2m1)
        return is_fp4(g) && in % g->map.cols == 0 ? NULL : "FP4 in groups other than NVFP4's or MXFP4's";
    if (number != &qnti_e4m3)
        return "levels other than those of FP8 E4M3 or FP4 E2M1";
    if (g->scale_grid || !is_float_type(g->scale_type))
        return "FP8 with scales that are no floats";
    if (g->map.kind != QNTI_MAP_TILES || (g->map.rows != 1 && !g->map.rows != !g->map.cols))
        return "FP8 in groups of this shape";
    return g->map.cols && in % g->map.cols && g->map.cols < in ? "FP8 in groups that do not divide the columns" : NULL;
}

static const char *misfit(const qnt_qlinear *q)
{
    const struct qnti_numbers *w = weight_of(q);
    const struct qnti_grid *g = &w->grid;
    if (g->form == QNTI_FORM_CODEBOOK)
        return strange_floats(g, q->in);
    if (g->form != QNTI_FORM_ZERO)
        return "a grid of this form";
    if (kind_of(q) != QNTI_CT_PACKED || g->bits > 8)
        return NULL;
    if (qnti_ct_width(q->in, qnti_ct_words(q->in, g->bits)) != g->bits)
        return "rows so short that their words do not tell the width of a code";
    return w->offset && g->map.rows != 1 ? "one zero for the whole tensor" : NULL;
}

/* Static zeros must be codes; dynamic ones come from ranges with 0, as the readers find them. */
static bool integer_inputs(const struct qnti_actquant *act)
{
    const struct qnti_grid *g = &act->grid;
    float middle = (float)(1u << (g->bits - 1)), zero;
    if (g->bits > 8 || g->levels != 1u << g->bits || g->scale_grid || g->offset_grid)
        return false;
    if (g->constant_offset)
        return g->offset == middle;
    if (!act->fixed)
        return g->include_zero;
    zero = act->fixed->offset->value[0];
    return zero >= 0 && zero < (float)g->levels && zero == rintf(zero);
}

static bool inputs(const struct qnti_actquant *act)
{
    const struct qnti_grid *g = &act->grid;
    bool whole = g->map.cols == 0 || g->map.cols >= act->cols;
    if (act->threshold > 0 || act->input_type != QNT_F32 || g->map.kind != QNTI_MAP_TILES)
        return false;
    if (act->fixed ? act->fixed->scale->cols != 1 : g->map.rows > 1 || (g->map.rows == 0 && !whole))
        return false;
    if (!act->fixed && act->clip != 0 && act->clip != 1)
        return false;
    if (g->form == QNTI_FORM_ZERO)
        return integer_inputs(act);
    if (number_of(g) == &qnti_e2m1)
        return is_fp4(g) && !act->fixed;
    return number_of(g) == &qnti_e4m3 && !g->scale_grid && is_float_type(g->scale_type);
}

/* --- schemes --- */

static const char *const formats[] = {[QNTI_CT_PACKED] = "pack-quantized",
                                      [QNTI_CT_INTEGERS] = "int-quantized",
                                      [QNTI_CT_FP8] = "float-quantized",
                                      [QNTI_CT_NVFP4] = "nvfp4-pack-quantized",
                                      [QNTI_CT_MXFP4] = "mxfp4-pack-quantized"};
static const char naive[] = "naive-quantized";   /* FP8 weights, inputs as they are */

bool qnti_ct_stores(const char *format, enum qnti_ct_kind kind)
{
    return strcmp(format, formats[kind]) == 0 ||
           (strcmp(format, naive) == 0 && (kind == QNTI_CT_INTEGERS || kind == QNTI_CT_FP8));
}

const char *qnti_ct_format(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(name, formats[i]) == 0)
            return formats[i];
    return strcmp(name, naive) == 0 ? naive : NULL;
}

bool qnti_ct_fits(const char *format, const struct qnti_ct_args *weights)
{
    bool fp4 = weights->is_float && weights->bits == 4;
    enum qnti_ct_kind kind = !weights->is_float ? QNTI_CT_INTEGERS
                             : !fp4 ? QNTI_CT_FP8
                             : weights->strategy == QNTI_CT_TENSOR_GROUP ? QNTI_CT_NVFP4 : QNTI_CT_MXFP4;
    return qnti_ct_stores(format, kind) || (kind == QNTI_CT_INTEGERS && qnti_ct_stores(format, QNTI_CT_PACKED));
}

const char *const qnti_ct_strategies[QNTI_CT_STRATEGIES] = {
    [QNTI_CT_TENSOR] = "tensor", [QNTI_CT_CHANNEL] = "channel", [QNTI_CT_GROUP] = "group",
    [QNTI_CT_BLOCK] = "block",   [QNTI_CT_TOKEN] = "token",     [QNTI_CT_TENSOR_GROUP] = "tensor_group"};

static bool same_args(const struct qnti_ct_args *a, const struct qnti_ct_args *b)
{
    return a->present == b->present && a->bits == b->bits && a->is_float == b->is_float && a->sym == b->sym &&
           a->strategy == b->strategy && a->group == b->group && a->block_rows == b->block_rows &&
           a->block_cols == b->block_cols && a->dynamic == b->dynamic;
}

bool qnti_ct_same_scheme(const struct qnti_ct_scheme *a, const struct qnti_ct_scheme *b)
{
    return strcmp(a->format, b->format) == 0 && same_args(&a->weights, &b->weights) &&
           same_args(&a->inputs, &b->inputs);
}

static struct qnti_ct_args args_of(const struct qnti_grid *g, size_t cols, bool of_inputs)
{
    bool is_float = g->form == QNTI_FORM_CODEBOOK, fp4 = is_float && g->bits == 4;
    struct qnti_ct_args a = {.present = true, .bits = g->bits, .is_float = is_float, .sym = g->constant_offset};
    if (g->map.rows > 1) {
        a.strategy = QNTI_CT_BLOCK;
        a.block_rows = g->map.rows;
        a.block_cols = g->map.cols;
    } else if (g->map.cols && (g->map.cols < cols || fp4)) {
        a.strategy = g->scale_grid ? QNTI_CT_TENSOR_GROUP : QNTI_CT_GROUP;
        a.group = g->map.cols;
    } else {
        a.strategy = g->map.rows == 0 ? QNTI_CT_TENSOR : of_inputs ? QNTI_CT_TOKEN : QNTI_CT_CHANNEL;
    }
    return a;
}

void qnti_ct_scheme_of(const qnt_qlinear *q, struct qnti_ct_scheme *s)
{
    *s = (struct qnti_ct_scheme){.format = formats[kind_of(q)],
                                 .weights = args_of(&weight_of(q)->grid, q->in, false)};
    if (!q->act) {
        s->format = kind_of(q) == QNTI_CT_FP8 ? naive : s->format;
        return;
    }
    s->inputs = args_of(&q->act->grid, q->in, true);
    if (q->act->fixed)
        s->inputs.strategy = QNTI_CT_TENSOR;
    else
        s->inputs.dynamic = q->act->grid.scale_grid ? QNTI_CT_LOCAL : QNTI_CT_DYNAMIC;
}

/* --- the tensors --- */

/* One of them: false where the layer has none. */
struct part {
    bool (*describe)(const qnt_qlinear *q, qnt_packed_tensor *t);
    qnt_status (*pack)(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes);
};

static qnt_packed_tensor of_type(const char *name, qnt_dtype dtype, size_t rank, size_t rows, size_t cols)
{
    return (qnt_packed_tensor){.name = name, .dtype = dtype, .rank = rank, .shape = {rows, rank == 2 ? cols : 0}};
}

static bool describe_weight(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    switch (kind_of(q)) {
    case QNTI_CT_PACKED:
        *t = of_type("weight_packed", QNT_I32, 2, q->out, qnti_ct_words(q->in, weight_of(q)->grid.bits));
        return true;
    case QNTI_CT_INTEGERS:
        *t = of_type("weight", QNT_I8, 2, q->out, q->in);
        return true;
    case QNTI_CT_FP8:
        *t = of_type("weight", QNT_F8_E4M3, 2, q->out, q->in);
        return true;
    case QNTI_CT_NVFP4:
    case QNTI_CT_MXFP4:
        *t = of_type("weight_packed", QNT_U8, 2, q->out, q->in / 2);
    }
    return true;
}

static qnt_status pack_weight(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    const struct qnti_numbers *w = weight_of(q);
    unsigned middle = 1u << (w->grid.bits - 1);
    if (t->dtype == QNT_I32)
        return qnti_ct_pack_codes(w, q->ctx, bytes);
    if (t->dtype == QNT_F8_E4M3) {
        memcpy(bytes, w->code8, t->bytes);
        return QNT_OK;
    }
    for (size_t i = 0; i < t->bytes; i++) {
        unsigned two = w->code8[t->dtype == QNT_I8 ? i : 2 * i];
        two = t->dtype == QNT_I8 ? two - middle : two | (unsigned)w->code8[2 * i + 1] << 4;
        bytes[i] = (uint8_t)(two & 255);
    }
    return QNT_OK;
}

/* The source's type, if it holds n scales exactly. */
static qnt_dtype scale_type(const qnt_qlinear *q, const struct qnti_numbers *scale)
{
    for (size_t i = 0; i < scale->rows * scale->cols; i++)
        if (qnti_round_to(q->source_type, scale->value[i]) != scale->value[i])
            return scale->grid.float_type;
    return q->source_type;
}

static bool describe_scale(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    const struct qnti_numbers *w = weight_of(q), *s = w->scale;
    enum qnti_ct_kind kind = kind_of(q);
    qnt_dtype type = kind == QNTI_CT_NVFP4 ? QNT_F8_E4M3 : kind == QNTI_CT_MXFP4 ? QNT_U8 : scale_type(q, s);
    *t = of_type("weight_scale", type, w->grid.map.rows ? 2 : 1, s->rows, s->cols);
    return true;
}

static qnt_status pack_scale(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    const struct qnti_numbers *s = weight_of(q)->scale;
    size_t n = s->rows * s->cols;
    if (kind_of(q) == QNTI_CT_NVFP4)
        memcpy(bytes, s->code8, n);
    else
        qnti_narrow(q->ctx, t->dtype == QNT_U8 ? QNT_F8_E8M0 : t->dtype, s->value, n, bytes);
    return QNT_OK;
}

static bool describe_shape(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    *t = of_type("weight_shape", QNT_I64, 1, 2, 0);
    return kind_of(q) == QNTI_CT_PACKED;
}

static qnt_status pack_shape(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    uint64_t shape[] = {htole64(q->out), htole64(q->in)};
    memcpy(bytes, shape, t->bytes);
    return QNT_OK;
}

static bool describe_zeros(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    const struct qnti_numbers *w = weight_of(q), *zero = w->offset;
    if (!zero)
        return false;
    if (kind_of(q) == QNTI_CT_PACKED)
        *t = of_type("weight_zero_point", QNT_I32, 2, qnti_ct_words(zero->rows, w->grid.bits), zero->cols);
    else
        *t = of_type("weight_zero_point", QNT_I8, w->grid.map.rows ? 2 : 1, zero->rows, zero->cols);
    return true;
}

static void pack_zero_bytes(const struct qnti_numbers *w, size_t n, uint8_t *bytes)
{
    int middle = 1 << (w->grid.bits - 1);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)((int)w->offset->value[i] - middle);
}

static qnt_status pack_zeros(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    if (t->dtype == QNT_I32)
        return qnti_ct_pack_zeros(weight_of(q), q->ctx, bytes);
    pack_zero_bytes(weight_of(q), t->bytes, bytes);
    return QNT_OK;
}

static bool describe_global(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    *t = of_type("weight_global_scale", QNT_F32, 1, 1, 0);
    return kind_of(q) == QNTI_CT_NVFP4;
}

static qnt_status pack_global(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    memcpy(bytes, &weight_of(q)->grid.scale_grid->divisor, t->bytes);
    return QNT_OK;
}

static bool describe_input_scale(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    if (!q->act || !q->act->fixed)
        return false;
    *t = of_type("input_scale", scale_type(q, q->act->fixed->scale), 1, 1, 0);
    return true;
}

static qnt_status pack_input_scale(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    qnti_narrow(q->ctx, t->dtype, q->act->fixed->scale->value, 1, bytes);
    return QNT_OK;
}

static bool describe_input_zero(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    *t = of_type("input_zero_point", QNT_I8, 1, 1, 0);
    return q->act && q->act->fixed && q->act->fixed->offset;
}

static qnt_status pack_input_zero(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    pack_zero_bytes(q->act->fixed, t->bytes, bytes);
    return QNT_OK;
}

static bool describe_input_global(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    *t = of_type("input_global_scale", QNT_F32, 1, 1, 0);
    return q->act && q->act->grid.scale_grid;
}

static qnt_status pack_input_global(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    memcpy(bytes, &q->act->grid.scale_grid->divisor, t->bytes);
    return QNT_OK;
}

static bool describe_bias(const qnt_qlinear *q, qnt_packed_tensor *t)
{
    if (q->bias)
        *t = qnti_words_bias(q);
    return q->bias != NULL;
}

static qnt_status pack_bias(const qnt_qlinear *q, const qnt_packed_tensor *t, uint8_t *bytes)
{
    (void)t;
    qnti_words_pack_bias(q, bytes);
    return QNT_OK;
}

static const struct part parts[] = {
    {describe_weight, pack_weight},           {describe_scale, pack_scale},
    {describe_shape, pack_shape},             {describe_zeros, pack_zeros},
    {describe_global, pack_global},           {describe_input_scale, pack_input_scale},
    {describe_input_zero, pack_input_zero},   {describe_input_global, pack_input_global},
    {describe_bias, pack_bias},
};

static qnt_status tensors_of(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                             size_t *count)
{
    (void)layout;
    *count = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        qnt_packed_tensor t;
        if (parts[i].describe(q, &t))
            tensors[(*count)++] = t;
    }
    return QNT_OK;
}

static qnt_status pack(const struct qnti_layout *layout, const qnt_qlinear *q, uint8_t *const *data)
{
    size_t n = 0;
    (void)layout;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        qnt_packed_tensor t;
        if (!parts[i].describe(q, &t))
            continue;
        t.bytes = qnti_dtype_bytes(t.dtype) * t.shape[0] * (t.rank == 2 ? t.shape[1] : 1);
        QNT_TRY(parts[i].pack(q, &t, data[n++]));
    }
    return QNT_OK;
}

static qnt_status unpack(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                         const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count, qnt_qlinear **q)
{
    (void)layout;
    return qnti_ct_unpack(ctx, name, tensors, data, count, NULL, q);
}

const struct qnti_packer qnti_ct_packer = {tensors_of, pack, unpack, misfit, inputs};
