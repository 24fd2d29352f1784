/*
 * layout.c - packing a canonical layer into a layout, and back.
 *
 * ggml layouts store a segment's codes and scales as they are; a layer whose
 * grid is another one is refused, never rounded again.
 */
#include "pack/layout.h"

#include <string.h>
#include <strings.h>
#include "base/buffer.h"
#include <quant/pack.h>

/*
 * Error feedback on blocks: all columns by the Hessian's diagonal on grids that stand before the loop, damping far
 * above the usual 1 % (it helps on text unlike the calibration and costs little on text like it), then descent and,
 * where scales are not quantized themselves, refitted ones under the same Hessian. Chosen on held-out tails of
 * calibration texts (README, "Defaults for GGUF").
 */
#define SUPER_BLOCKS "damp=0.3,act_order=true,static_groups=true,refine_passes=2"
#define BLOCKS SUPER_BLOCKS ",refit_scales=true,refit_rounds=2"

static const struct qnti_layout layouts[] = {
    {"native", "every part of the layer, lossless", NULL, QNT_F16, NULL},
    {"gguf:f32", "32-bit floats", "f32", QNT_F32, NULL},
    {"gguf:f16", "16-bit floats", "f16", QNT_F16, NULL},
    {"gguf:bf16", "bfloat16", "bf16", QNT_BF16, NULL},
    {"gguf:q8_0", "8 bits, groups of 32, f16 scale", "q8_0", QNT_F16, BLOCKS},
    {"gguf:q4_0", "4 bits, groups of 32, f16 scale", "q4_0", QNT_F16, BLOCKS},
    {"gguf:q4_1", "4 bits, groups of 32, f16 scale and minimum", "q4_1", QNT_F16, BLOCKS},
    {"gguf:q5_0", "5 bits, groups of 32, f16 scale", "q5_0", QNT_F16, BLOCKS},
    {"gguf:q5_1", "5 bits, groups of 32, f16 scale and minimum", "q5_1", QNT_F16, BLOCKS},
    {"gguf:q6_k", "6 bits, groups of 16 with 8-bit scales in blocks of 256", "q6_k", QNT_F16, SUPER_BLOCKS},
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
    return layout && layout->ggml && qnti_ggml_grid(kernels, layout->ggml, grid);
}

qnt_status qnti_layout_width(qnt_context *ctx, const struct qnti_layout *layout, const char *layer, size_t in)
{
    const struct qnti_ggml_type *type = layout->ggml ? qnti_ggml_type_named(layout->ggml) : NULL;
    if (!type || in % type->elements == 0)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "layer %s: a width of %zu is no multiple of the %zu columns of a %s block",
                     layer, in, type->elements, layout->name);
}

static bool same_second(const struct qnti_grid *a, const struct qnti_grid *b)
{
    if (!a || !b)
        return !a && !b;
    return a->form == b->form && a->bits == b->bits && a->map.kind == b->map.kind && a->map.rows == b->map.rows &&
           a->map.cols == b->map.cols && a->scale_type == b->scale_type;
}

/* Two grids store the same numbers in the same way, however their scales were found. */
static bool same_grid(const struct qnti_grid *a, const struct qnti_grid *b)
{
    if (a->form == QNTI_FORM_FLOAT || b->form == QNTI_FORM_FLOAT)
        return a->form == b->form && a->float_type == b->float_type;
    return a->form == b->form && a->bits == b->bits && a->map.kind == b->map.kind && a->map.rows == b->map.rows &&
           a->map.cols == b->map.cols && a->scale_type == b->scale_type && a->constant_offset == b->constant_offset &&
           (!a->constant_offset || a->offset == b->offset) && same_second(a->scale_grid, b->scale_grid) &&
           same_second(a->offset_grid, b->offset_grid);
}

static const char *part_that_no_block_holds(const qnt_qlinear *q)
{
    if (q->segment_count != 1)
        return "several segments";
    if (q->sparse.count)
        return "single weights outside the grid";
    if (q->lowrank_a)
        return "a low-rank part";
    if (!qnti_transform_is_identity(&q->transform))
        return "a run-time transform";
    if (q->act)
        return "an activation quantizer";
    return NULL;
}

qnt_status qnti_layout_holds(const struct qnti_layout *layout, const qnt_qlinear *q)
{
    const char *part;
    struct qnti_grid grid;
    if (!layout->ggml)
        return QNT_OK;
    QNT_TRY(qnti_layout_width(q->ctx, layout, q->name, q->in));
    part = part_that_no_block_holds(q);
    if (part)
        return qnti_fail(q->ctx, QNT_UNSUPPORTED, "layer %s: format %s cannot hold %s; native can", q->name,
                         layout->name, part);
    qnti_layout_grid(layout, q->segments[0].weight->grid.kernels, &grid);
    if (!same_grid(&q->segments[0].weight->grid, &grid))
        return qnti_fail(q->ctx, QNT_UNSUPPORTED,
                         "layer %s: a grid of %u bits in groups of %zu is not that of format %s; native can hold it",
                         q->name, q->segments[0].weight->grid.bits, q->segments[0].weight->grid.map.cols,
                         layout->name);
    return QNT_OK;
}

static qnt_status blocks_of(qnt_context *ctx, const char *format, const struct qnti_layout **layout,
                            const struct qnti_ggml_type **type)
{
    *layout = qnti_layout_find(ctx, format);
    if (!*layout)
        return QNT_NOT_FOUND;
    *type = (*layout)->ggml ? qnti_ggml_type_named((*layout)->ggml) : NULL;
    if (!*type)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "format %s has no layout for a single layer", format);
    return QNT_OK;
}

qnt_status qnt_pack_bytes(qnt_context *ctx, const char *format, size_t out, size_t in, size_t *bytes)
{
    const struct qnti_layout *layout;
    const struct qnti_ggml_type *type;
    size_t row;
    QNT_TRY(blocks_of(ctx, format, &layout, &type));
    QNT_TRY(qnti_layout_width(ctx, layout, "to pack", in));
    if (!qnti_multiply(in / type->elements, type->bytes, &row) || !qnti_multiply(row, out, bytes))
        return qnti_fail(ctx, QNT_INVALID, "a layer of %zu x %zu is too large", out, in);
    return QNT_OK;
}

struct pack_task {
    const struct qnti_ggml_type *type;
    struct qnti_numbers *q;
    uint8_t *bytes;
    size_t row_blocks;
    bool unpack;
};

enum { ROWS_PER_TASK = 16 };

static qnt_status pack_rows(void *arg, size_t index)
{
    const struct pack_task *t = arg;
    size_t end = qnti_min(t->q->rows, (index + 1) * ROWS_PER_TASK);
    for (size_t r = index * ROWS_PER_TASK; r < end; r++)
        for (size_t b = 0; b < t->row_blocks; b++) {
            uint8_t *block = t->bytes + (r * t->row_blocks + b) * t->type->bytes;
            if (t->unpack)
                t->type->unpack(block, t->q, r, b);
            else
                t->type->pack(t->q, r, b, block);
        }
    return QNT_OK;
}

static qnt_status run_rows(qnt_context *ctx, struct pack_task *t)
{
    t->row_blocks = t->q->cols / t->type->elements;
    return qnti_parallel(ctx, qnti_ceil_div(t->q->rows, ROWS_PER_TASK), pack_rows, t);
}

static qnt_status check_bytes(qnt_context *ctx, const char *format, size_t out, size_t in, size_t bytes)
{
    size_t wanted;
    QNT_TRY(qnt_pack_bytes(ctx, format, out, in, &wanted));
    if (bytes != wanted)
        return qnti_fail(ctx, QNT_INVALID, "%zu bytes for a layer of %zu x %zu in format %s, which takes %zu", bytes,
                         out, in, format, wanted);
    return QNT_OK;
}

qnt_status qnt_pack(const qnt_qlinear *q, const char *format, void *buffer, size_t bytes)
{
    struct pack_task task = {.bytes = buffer};
    const struct qnti_layout *layout;
    QNT_TRY(blocks_of(q->ctx, format, &layout, &task.type));
    QNT_TRY(qnti_layout_holds(layout, q));
    QNT_TRY(check_bytes(q->ctx, format, q->out, q->in, bytes));
    task.q = q->segments[0].weight;
    return run_rows(q->ctx, &task);
}

qnt_status qnt_unpack(qnt_context *ctx, const char *format, const char *name, size_t out, size_t in,
                      const void *buffer, size_t bytes, qnt_qlinear **qlinear)
{
    struct pack_task task = {.bytes = (uint8_t *)(uintptr_t)buffer, .unpack = true};
    const struct qnti_layout *layout;
    struct qnti_grid grid;
    qnt_qlinear *q = NULL;
    qnt_status status;
    QNT_TRY(blocks_of(ctx, format, &layout, &task.type));
    QNT_TRY(check_bytes(ctx, format, out, in, bytes));
    qnti_layout_grid(layout, qnti_context_kernels(ctx), &grid);
    QNT_CHECK(qnti_qlinear_create(ctx, name, out, in, NULL, &q));
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    task.q = q->segments[0].weight;
    QNT_CHECK(run_rows(ctx, &task));
    q->report.bits_per_weight = qnti_qlinear_bits(q);
    *qlinear = q;
    return QNT_OK;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

bool qnt_layout_get(size_t index, qnt_layout_info *info)
{
    const struct qnti_layout *layout = qnti_layout_at(index);
    const struct qnti_ggml_type *type;
    if (!layout)
        return false;
    type = layout->ggml ? qnti_ggml_type_named(layout->ggml) : NULL;
    *info = (qnt_layout_info){.name = layout->name, .title = layout->title, .block = type ? type->elements : 1};
    if (type) {
        info->bits_per_weight = 8.0 * (double)type->bytes / (double)type->elements;
        info->importance = type->importance;
    }
    return true;
}
