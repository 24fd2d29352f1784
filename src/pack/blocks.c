/*
 * blocks.c - a layer as rows of ggml blocks: one tensor, "weight".
 */
#include <string.h>
#include "base/number.h"
#include "pack/layout.h"

enum { ROWS_PER_TASK = 16 };

struct task {
    const struct qnti_ggml_type *type;
    struct qnti_numbers *q;
    uint8_t *bytes;
    bool unpack;
};

static qnt_status rows_task(void *arg, size_t index)
{
    const struct task *t = arg;
    size_t end = qnti_min(t->q->rows, (index + 1) * ROWS_PER_TASK), row_blocks = t->q->cols / t->type->elements;
    for (size_t r = index * ROWS_PER_TASK; r < end; r++)
        for (size_t b = 0; b < row_blocks; b++) {
            uint8_t *block = t->bytes + (r * row_blocks + b) * t->type->bytes;
            if (t->unpack)
                t->type->unpack(block, t->q, r, b);
            else
                t->type->pack(t->q, r, b, block);
        }
    return QNT_OK;
}

static qnt_status run(qnt_context *ctx, struct task *t)
{
    return qnti_parallel(ctx, qnti_ceil_div(t->q->rows, ROWS_PER_TASK), rows_task, t);
}

/* Floats are told as such, blocks as the bytes of a row. */
static qnt_status tensors_of(const struct qnti_layout *layout, const qnt_qlinear *q, qnt_packed_tensor *tensors,
                             size_t *count)
{
    const struct qnti_ggml_type *type = qnti_ggml_type_named(layout->ggml);
    const struct qnti_grid *grid = &q->segments[0].weight->grid;
    bool floats = grid->form == QNTI_FORM_FLOAT;
    tensors[0] = (qnt_packed_tensor){.name = "weight", .dtype = floats ? grid->float_type : QNT_U8, .rank = 2,
                                     .shape = {q->out, floats ? q->in : q->in / type->elements * type->bytes}};
    *count = 1;
    return QNT_OK;
}

static qnt_status pack(const struct qnti_layout *layout, const qnt_qlinear *q, uint8_t *const *data)
{
    struct task task = {qnti_ggml_type_named(layout->ggml), q->segments[0].weight, data[0], false};
    return run(q->ctx, &task);
}

static qnt_status unpack(qnt_context *ctx, const struct qnti_layout *layout, const char *name,
                         const qnt_packed_tensor *tensors, const uint8_t *const *data, size_t count, qnt_qlinear **out)
{
    struct task task = {.type = qnti_ggml_type_named(layout->ggml), .unpack = true};
    struct qnti_grid grid;
    qnt_qlinear *q = NULL;
    size_t row_bytes;
    qnt_status status;
    qnti_layout_grid(layout, qnti_context_kernels(ctx), &grid);
    row_bytes = count ? tensors[0].shape[1] * qnti_dtype_bytes(tensors[0].dtype) : 0;
    if (count != 1 || tensors[0].rank != 2 || tensors[0].shape[0] == 0 || row_bytes == 0 ||
        row_bytes % task.type->bytes)
        return qnti_fail(ctx, QNT_BAD_DATA,
                         "layer %s: format %s is one matrix of rows of whole blocks of %zu bytes, not this", name,
                         layout->name, task.type->bytes);
    QNT_CHECK(qnti_qlinear_create(ctx, name, tensors[0].shape[0], row_bytes / task.type->bytes * task.type->elements,
                                  NULL, &q));
    QNT_CHECK(qnti_qlinear_one_segment(q));
    QNT_CHECK(qnti_segment_fill(q, &q->segments[0], &grid));
    task.q = q->segments[0].weight;
    task.bytes = (uint8_t *)(uintptr_t)data[0];
    QNT_CHECK(run(ctx, &task));
    *out = q;
    return QNT_OK;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

const struct qnti_packer qnti_block_packer = {.tensors = tensors_of, .pack = pack, .unpack = unpack};
