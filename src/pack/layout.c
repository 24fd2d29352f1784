/*
 * layout.c - the table of layouts, and whether a layer can stand in one.
 *
 * Nothing is rounded to make it fit: a layer whose grid or parts a layout does
 * not have is refused, naming what it is and which layouts could hold it.
 */
#include "pack/layout.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "base/buffer.h"

/*
 * Where the user names no recipe: AWQ's scales, folded, searched by what error feedback will leave, then error feedback
 * on blocks: all columns by the Hessian's diagonal on grids that stand before the loop; then descent on codes and,
 * where they are not quantized themselves, scales. All of it trusts a quarter less in the correlations of channels that
 * the calibration shows: that costs nothing on text like it and helps on other text. Chosen on held-out texts (README,
 * "Defaults for GGUF").
 */
#define SUPER_BLOCKS "shrinkage=0.25,act_order=true,static_groups=true,refine_passes=2,awq_objective=linear"
#define BLOCKS SUPER_BLOCKS ",refit_scales=true"
#define FOUR_BITS BLOCKS ",qep=0.5"

#define WIDTHS_2348 (1u << 2 | 1u << 3 | 1u << 4 | 1u << 8)

/* Words of 32 bits hold whole runs of codes, along the columns and, for zeros, along the rows. */
static const struct qnti_affine_limits gptq_v1 = {WIDTHS_2348, 1, true, false, 32, 32, false, false};
static const struct qnti_affine_limits gptq_v2 = {WIDTHS_2348, 0, true, false, 32, 32, false, false};
static const struct qnti_affine_limits awq = {1u << 4, 0, false, true, 1, 8, false, false};

/* Scales in bf16: every type of a model's floats holds those. */
#define WIDTHS_TO_8 (2u * 255u)
static const struct qnti_affine_limits ct_any = {WIDTHS_TO_8, 0, false, false, 1, 1, true, true};
static const struct qnti_affine_limits ct_four = {1u << 4, 0, false, false, 1, 1, true, true};
static const struct qnti_affine_limits ct_eight = {1u << 8, 0, false, false, 1, 1, true, true};
#define WIDE "bits=8,group_size=0,sym=true"

static const char *const bnb_methods[] = {"bnb4", "llm_int8", NULL};

#define FLOATS(type, words, scales)                                                                                    \
    {                                                                                                                  \
        .name = "gguf:" type, .title = words, .ggml = type, .scale_type = scales, .packer = &qnti_block_packer         \
    }
#define GGUF(type, words, prefer)                                                                                      \
    {                                                                                                                  \
        .name = "gguf:" type, .title = words, .ggml = type, .scale_type = QNT_F16, .recipe = "awq,gptq",               \
        .preferred = prefer, .packer = &qnti_block_packer                                                              \
    }

#define COMPRESSED(variant, words, prefer, limit, ...)                                                                 \
    {                                                                                                                  \
        .name = "compressed-tensors" variant, .title = words, .scale_type = QNT_BF16, .preferred = prefer,             \
        .limits = limit, .fused = true, .packer = &qnti_ct_packer, __VA_ARGS__                                         \
    }

static const struct qnti_layout layouts[] = {
    {.name = "native", .title = "every part of the layer, lossless", .scale_type = QNT_F16, .group_index = true,
     .beside = ~0u},
    FLOATS("f32", "32-bit floats", QNT_F32),
    FLOATS("f16", "16-bit floats", QNT_F16),
    FLOATS("bf16", "bfloat16", QNT_BF16),
    GGUF("q8_0", "8 bits, groups of 32, f16 scale", BLOCKS),
    GGUF("q4_0", "4 bits, groups of 32, f16 scale", FOUR_BITS),
    GGUF("q4_1", "4 bits, groups of 32, f16 scale and minimum", FOUR_BITS),
    GGUF("q5_0", "5 bits, groups of 32, f16 scale", BLOCKS),
    GGUF("q5_1", "5 bits, groups of 32, f16 scale and minimum", BLOCKS),
    GGUF("q6_k", "6 bits, groups of 16 with 8-bit scales in blocks of 256", SUPER_BLOCKS),
    {.name = "gptq", .title = "2, 3, 4 or 8 bits; v1 if symmetric, else v2", .scale_type = QNT_F16,
     .preferred = "bits=4,group_size=128,sym=true", .group_index = true, .symmetric = "gptq:v1", .limits = &gptq_v2,
     .packer = &qnti_gptq_packer},
    {.name = "gptq:v1", .title = "2, 3, 4 or 8 bits, zeros stored less 1", .scale_type = QNT_F16,
     .preferred = "bits=4,group_size=128,sym=true", .group_index = true, .limits = &gptq_v1,
     .packer = &qnti_gptq_packer},
    {.name = "gptq:v2", .title = "2, 3, 4 or 8 bits, zeros as they are", .scale_type = QNT_F16,
     .preferred = "bits=4,group_size=128,sym=true", .group_index = true, .limits = &gptq_v2,
     .packer = &qnti_gptq_packer},
    {.name = "awq", .title = "4 bits with zeros, GEMM order", .scale_type = QNT_F16,
     .preferred = "bits=4,group_size=128,sym=false", .limits = &awq, .packer = &qnti_awq_packer},
    COMPRESSED("", "integers of 1 to 8 bits; with quantized inputs in bytes of their own", "sym=true", &ct_any,
               .holds_inputs = true),
    COMPRESSED(":w4a16", "4 bits, groups of 128", "bits=4,group_size=128,sym=true", &ct_four, .inputs = NULL),
    COMPRESSED(":w8a16", "8 bits, rows", WIDE, &ct_eight, .inputs = NULL),
    COMPRESSED(":w8a8", "8 bits, rows; inputs of 8 bits, by tokens unless the recipe says", WIDE, &ct_eight,
               .inputs = qnti_ct_int8_tokens, .holds_inputs = true),
    COMPRESSED(":fp8", "FP8 by tensors, static inputs", NULL, NULL, .grid = qnti_ct_fp8_tensor,
               .inputs = qnti_ct_fp8_inputs, .fixed_inputs = true),
    COMPRESSED(":fp8-dynamic", "FP8 by rows, inputs by tokens", NULL, NULL, .grid = qnti_ct_fp8_channel,
               .inputs = qnti_ct_fp8_tokens),
    COMPRESSED(":fp8-block", "FP8 in blocks of 128 x 128, inputs in groups of 128", NULL, NULL,
               .grid = qnti_ct_fp8_block, .inputs = qnti_ct_fp8_groups),
    COMPRESSED(":nvfp4a16", "NVFP4: FP4 in groups of 16 with FP8 scales", NULL, NULL, .grid = qnti_ct_nvfp4,
               .global_scale = true),
    COMPRESSED(":nvfp4", "NVFP4, inputs too", NULL, NULL, .grid = qnti_ct_nvfp4, .global_scale = true,
               .inputs = qnti_ct_nvfp4, .global_inputs = true),
    COMPRESSED(":mxfp4a16", "MXFP4: FP4 in groups of 32 with powers of two", NULL, NULL, .grid = qnti_ct_mxfp4),
    COMPRESSED(":mxfp4", "MXFP4, inputs too", NULL, NULL, .grid = qnti_ct_mxfp4, .inputs = qnti_ct_mxfp4),
    {.name = "bnb", .title = "bitsandbytes: NF4, FP4, or 8 bits with outliers at run time", .scale_type = QNT_F32,
     .recipe = "bnb4", .methods = bnb_methods, .beside = QNTI_BESIDE_GRID,
     .refused = "outlier_weights=fp16,row_stat=kept", .packer = &qnti_bnb_packer},
};

enum { LAYOUTS = sizeof layouts / sizeof *layouts };

const struct qnti_layout *qnti_layout_at(size_t index)
{
    return index < LAYOUTS ? &layouts[index] : NULL;
}

static qnt_status unknown(qnt_context *ctx, const char *name)
{
    struct qnti_buffer list = {0};
    for (size_t i = 0; i < LAYOUTS; i++)
        if (qnti_buffer_print(ctx, &list, "%s%s", i ? ", " : "", layouts[i].name) != QNT_OK)
            break;
    qnti_fail(ctx, QNT_NOT_FOUND, "unknown format \"%s\"; there are %s", name, list.data ? list.data : "none");
    qnti_buffer_free(ctx, &list);
    return QNT_NOT_FOUND;
}

const struct qnti_layout *qnti_layout_find(qnt_context *ctx, const char *name)
{
    for (size_t i = 0; i < LAYOUTS; i++)
        if (strcasecmp(layouts[i].name, name) == 0)
            return &layouts[i];
    unknown(ctx, name);
    return NULL;
}

bool qnti_layout_grid(const struct qnti_layout *layout, const struct qnti_kernels *kernels, struct qnti_grid *grid)
{
    if (!layout || !layout->grid)
        return layout && layout->ggml && qnti_ggml_grid(kernels, layout->ggml, grid);
    layout->grid(kernels, grid);
    return true;
}

bool qnti_layout_prescribes(const struct qnti_layout *layout)
{
    return layout && (layout->ggml || layout->grid);
}

bool qnti_layout_at_run_time(const struct qnti_layout *layout)
{
    return !layout || (!qnti_layout_prescribes(layout) && !layout->limits && !layout->methods);
}

bool qnti_layout_lists(const struct qnti_layout *layout, const char *method)
{
    const char *const *name = layout->methods;
    while (name && *name && strcmp(*name, method) != 0)
        name++;
    return name ? *name != NULL : !qnti_layout_prescribes(layout) && !layout->limits;
}

/* Columns of which a width must be a multiple. */
static size_t columns_of(const struct qnti_layout *layout)
{
    const struct qnti_ggml_type *type = layout->ggml ? qnti_ggml_type_named(layout->ggml) : NULL;
    struct qnti_grid grid;
    if (type)
        return type->elements;
    if (layout->grid) {
        layout->grid(NULL, &grid);
        return qnti_max(grid.map.cols, 1);
    }
    return layout->limits ? layout->limits->in_multiple : 1;
}

qnt_status qnti_layout_width(qnt_context *ctx, const struct qnti_layout *layout, const char *layer, size_t in)
{
    if (in % columns_of(layout) == 0)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "layer %s: a width of %zu is no multiple of the %zu columns of a %s block",
                     layer, in, columns_of(layout), layout->name);
}

const char *qnti_layout_misfit(const struct qnti_layout *layout, size_t out, size_t in, size_t group)
{
    const struct qnti_affine_limits *l = layout->limits;
    if (!l)
        return in % columns_of(layout) ? "no block divides the width" : NULL;
    if (in % l->in_multiple || out % l->out_multiple)
        return l->in_multiple > 1 ? "rows or columns no multiple of 32" : "rows no multiple of 8";
    if (!l->short_group && group && in % group)
        return "the groups do not divide the columns";
    return NULL;
}

/* --- parameters of a grid --- */

static bool accepts(const struct qnti_layout *layout, const char *parameter, double value)
{
    if (qnti_layout_prescribes(layout) || layout->methods)
        return false;
    if (!layout->limits)
        return true;
    if (strcmp(parameter, "bits") == 0)
        return value >= 0 && value < 32 && layout->limits->widths >> (unsigned)value & 1;
    return layout->limits->per_tensor || strcmp(parameter, "per_tensor") != 0 || value == 0;
}

qnt_status qnti_layout_accepts(qnt_context *ctx, const struct qnti_layout *layout, const char *method,
                               const char *parameter, double value)
{
    struct qnti_buffer list = {0};
    if (accepts(layout, parameter, value))
        return QNT_OK;
    for (size_t i = 0; i < LAYOUTS; i++)
        if (accepts(&layouts[i], parameter, value))
            QNT_TRY(qnti_buffer_print(ctx, &list, "%s%s", list.bytes ? ", " : "", layouts[i].name));
    qnti_fail(ctx, QNT_INVALID, "format %s cannot hold the grid of method %s with %s=%g; these can: %s", layout->name,
              method, parameter, value, list.data);
    qnti_buffer_free(ctx, &list);
    return QNT_INVALID;
}

/* --- what a layer has beside its grid --- */

static bool holds_inputs(const struct qnti_layout *layout, const struct qnti_actquant *act)
{
    bool any = layout->methods || layout->holds_inputs || layout->inputs;
    return any && layout->packer && layout->packer->inputs && layout->packer->inputs(act);
}

qnt_status qnti_layout_holds_inputs(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    if (!q->act || (layout->beside & QNTI_BESIDE_INPUTS) || holds_inputs(layout, q->act))
        return QNT_OK;
    return qnti_fail(q->ctx, QNT_UNSUPPORTED,
                     "layer %s: readers of format %s have no inputs that are quantized in this way (%u bits%s); native "
                     "can hold it", q->name, layout->name, q->act->grid.bits,
                     q->act->threshold > 0 ? ", a threshold" : q->act->clip > 0 && q->act->clip < 1 ? ", clipped" : "");
}

static unsigned beside_grid(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    bool own_inputs = q->act && holds_inputs(layout, q->act);
    return (q->segment_count != 1 ? QNTI_BESIDE_SEGMENTS : 0u) | (q->sparse.count ? QNTI_BESIDE_SPARSE : 0u) |
           (q->lowrank_a ? QNTI_BESIDE_LOWRANK : 0u) | (q->full ? QNTI_BESIDE_COPY : 0u) |
           (!qnti_transform_is_identity(&q->transform) ? QNTI_BESIDE_TRANSFORM : 0u) |
           ((q->act && !own_inputs) || q->segments[0].act ? QNTI_BESIDE_INPUTS : 0u) |
           (q->output ? QNTI_BESIDE_OUTPUTS : 0u);
}

/* The first of `beside` in words; NULL: there is none. */
static const char *name_beside(unsigned beside)
{
    static const char *const names[] = {"segments with grids of their own", "single weights outside the grid",
                                        "a low-rank part", "a copy of all weights", "a run-time transform",
                                        "an activation quantizer", "an output quantizer", "a grid of its own"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (beside >> i & 1)
            return names[i];
    return NULL;
}

qnt_status qnti_layout_takes(qnt_context *ctx, const struct qnti_layout *layout, const char *method, unsigned beside)
{
    const char *lacking = name_beside(beside & ~layout->beside);
    struct qnti_buffer list = {0};
    if (!lacking)
        return QNT_OK;
    for (size_t i = 0; i < LAYOUTS; i++)
        if (!(beside & ~layouts[i].beside) && (!layouts[i].methods || qnti_layout_lists(&layouts[i], method)) &&
            qnti_buffer_print(ctx, &list, "%s%s", list.bytes ? ", " : "", layouts[i].name) != QNT_OK)
            break;
    qnti_fail(ctx, QNT_UNSUPPORTED, "method %s leaves %s, which format %s cannot hold; these can: %s", method, lacking,
              layout->name, list.data ? list.data : "none");
    qnti_buffer_free(ctx, &list);
    return QNT_UNSUPPORTED;
}

/* --- whether a layer can be held --- */

static bool same_second(const struct qnti_grid *a, const struct qnti_grid *b)
{
    if (!a || !b)
        return !a && !b;
    return a->form == b->form && a->bits == b->bits && a->map.kind == b->map.kind && a->map.rows == b->map.rows &&
           a->map.cols == b->map.cols && a->scale_type == b->scale_type;
}

static bool same_levels(const struct qnti_grid *a, const struct qnti_codebook *book)
{
    return !book || qnti_codebook_is(book, a);
}

/* Scales of a layout that stores floats of any type. */
static bool same_scales(const struct qnti_layout *layout, qnt_dtype a, qnt_dtype b)
{
    return a == b || (layout->grid && a <= QNT_BF16 && b <= QNT_BF16);
}

/* Two grids store the same numbers in the same way, however their scales were found. */
static bool same_grid(const struct qnti_layout *layout, const struct qnti_grid *a, const struct qnti_grid *b)
{
    if (a->form == QNTI_FORM_FLOAT || b->form == QNTI_FORM_FLOAT)
        return a->form == b->form && a->float_type == b->float_type;
    return a->form == b->form && a->bits == b->bits && a->map.kind == b->map.kind && a->map.rows == b->map.rows &&
           a->map.cols == b->map.cols && same_scales(layout, a->scale_type, b->scale_type) &&
           a->constant_offset == b->constant_offset && (!a->constant_offset || a->offset == b->offset) &&
           same_levels(a, b->book) && (layout->global_scale || same_second(a->scale_grid, b->scale_grid)) &&
           same_second(a->offset_grid, b->offset_grid);
}

static qnt_status holds_grid(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    const struct qnti_grid *is = &q->segments[0].weight->grid;
    struct qnti_grid grid;
    qnti_layout_grid(layout, is->kernels, &grid);
    if (same_grid(layout, is, &grid))
        return QNT_OK;
    return qnti_fail(q->ctx, QNT_UNSUPPORTED,
                     "layer %s: a grid of %u bits in groups of %zu is not that of format %s; native can hold it",
                     q->name, is->bits, is->map.cols, layout->name);
}

/* What a grid is that no affine limits allow. */
static const char *strange_grid(const struct qnti_layout *layout, const struct qnti_grid *g)
{
    if (g->form != QNTI_FORM_ZERO || g->levels != 1u << g->bits)
        return "a grid that is not (code - zero) * scale";
    if (!(layout->limits->widths >> g->bits & 1))
        return "codes of this width";
    if ((g->map.rows != 1 && !(layout->limits->per_tensor && !g->map.rows && !g->map.cols)) ||
        g->map.kind == QNTI_MAP_FLAT)
        return "scales that several rows share";
    if (g->map.kind == QNTI_MAP_INDEX && !layout->group_index)
        return "groups along an order of processing";
    if (g->scale_grid || g->offset_grid)
        return "scales that are codes themselves";
    if (layout->limits->any_floats && g->scale_type <= QNT_BF16)
        return NULL;
    return g->scale_type == layout->scale_type ? NULL : "scales of another type";
}

static qnt_status holds_zeros(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    const struct qnti_numbers *w = q->segments[0].weight;
    float least = (float)layout->limits->least_zero, most = least + (float)(w->grid.levels - 1);
    size_t n = w->offset ? w->offset->rows * w->offset->cols : 1;
    const float *zero = w->offset ? w->offset->value : &w->grid.offset;
    for (size_t i = 0; i < n; i++)
        if (!(zero[i] >= least && zero[i] <= most && zero[i] == floorf(zero[i])))
            return qnti_fail(q->ctx, QNT_UNSUPPORTED,
                             "layer %s: a zero of %g (row %zu, group %zu); format %s holds whole numbers from %g to "
                             "%g; %s and native can hold it", q->name, (double)zero[i], w->offset ? i / w->offset->cols
                             : 0, w->offset ? i % w->offset->cols : 0, layout->name, (double)least, (double)most,
                             least > 0 ? "gptq:v2" : "gptq:v1");
    return QNT_OK;
}

static qnt_status holds_affine(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    const struct qnti_grid *g = &q->segments[0].weight->grid;
    const char *strange = strange_grid(layout, g);
    const char *misfit = qnti_layout_misfit(layout, q->out, q->in, g->map.kind == QNTI_MAP_INDEX ? 0 : g->map.cols);
    if (strange)
        return qnti_fail(q->ctx, QNT_UNSUPPORTED, "layer %s: format %s cannot hold %s (%u bits); native can", q->name,
                         layout->name, strange, g->bits);
    if (misfit)
        return qnti_fail(q->ctx, QNT_UNSUPPORTED,
                         "layer %s: format %s cannot hold (%zu, %zu) in groups of %zu columns: %s; native can", q->name,
                         layout->name, q->out, q->in, g->map.cols, misfit);
    return holds_zeros(layout, q);
}

qnt_status qnti_layout_holds(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    const char *part;
    if (!layout->packer)
        return QNT_OK;
    QNT_TRY(qnti_layout_width(q->ctx, layout, q->name, q->in));
    part = name_beside(beside_grid(layout, q) & ~layout->beside);
    if (!part && layout->packer->misfit)
        part = layout->packer->misfit(q);
    if (part)
        return qnti_fail(q->ctx, QNT_UNSUPPORTED, "layer %s: format %s cannot hold %s; native can", q->name,
                         layout->name, part);
    if (qnti_layout_prescribes(layout))
        return holds_grid(layout, q);
    return layout->limits ? holds_affine(layout, q) : QNT_OK;
}

bool qnt_layout_get(size_t index, qnt_layout_info *info)
{
    const struct qnti_layout *layout = qnti_layout_at(index);
    const struct qnti_ggml_type *type;
    if (!layout)
        return false;
    type = layout->ggml ? qnti_ggml_type_named(layout->ggml) : NULL;
    *info = (qnt_layout_info){.name = layout->name, .title = layout->title, .block = columns_of(layout),
                              .packs = layout->packer != NULL};
    if (type) {
        info->bits_per_weight = 8.0 * (double)type->bytes / (double)type->elements;
        info->importance = type->importance;
    }
    return true;
}
