/*
 * gguf_tensor.c - the bytes of one tensor of a GGUF file, streamed.
 *
 * A finished layer is packed whole. Everything else is converted from its
 * source, some rows at a time: to floats, or to blocks with the type's own
 * quantizer, without importance. Rows of q and k go into neighbouring-pair
 * order as whole rows of packed bytes (blocks never cross rows): of a head
 * with D rows, row 2 j + t is row t D/2 + j (t = 0, 1) of the model.
 */
#include "export/gguf.h"

#include <stdatomic.h>
#include <string.h>
#include <xxhash.h>
#include "base/kernels.h"
#include "file/output.h"
#include <quant/pack.h>

enum {
    CHUNK_ELEMENTS = 1 << 20,   /* 4 MB of f32 in memory at a time */
    TASK_ELEMENTS = 1 << 15     /* large against a task's cost */
};

/* --- floats to bytes --- */

struct conversion {
    qnt_context *ctx;
    const struct qnti_ggml_type *type;
    struct qnti_grid grid;
    float *x;                   /* [rows][cols]; clamped in place */
    size_t rows, cols, rows_per_task;
    uint8_t *bytes;             /* [rows][row_bytes] */
    size_t row_bytes;
    float add;                  /* to every number */
    atomic_size_t clamped;      /* numbers beyond f16 */
};

static void store_floats(const struct conversion *t, const float *x, size_t n, void *bytes)
{
    const struct qnti_kernels *kernels = qnti_context_kernels(t->ctx);
    if (t->grid.float_type == QNT_F16)
        kernels->f32_to_f16(n, x, bytes);
    else if (t->grid.float_type == QNT_BF16)
        kernels->f32_to_bf16(n, x, bytes);
    else
        memcpy(bytes, x, n * sizeof *x);
}

static void pack_rows(const struct conversion *t, const struct qnti_numbers *q, uint8_t *bytes)
{
    for (size_t r = 0; r < q->rows; r++)
        for (size_t b = 0; b < q->cols / t->type->elements; b++)
            t->type->pack(q, r, b, bytes + r * t->row_bytes + b * t->type->bytes);
}

static qnt_status store_blocks(const struct conversion *t, const float *x, size_t rows, uint8_t *bytes)
{
    struct qnti_band band = {.x = x, .rows = rows, .cols = t->cols, .stride = t->cols};
    struct qnti_numbers *q = NULL;
    uint16_t *code = NULL;
    qnt_status status;
    QNT_CHECK(QNTI_NEW_RAW(t->ctx, rows * t->cols, &code));
    QNT_CHECK(qnti_numbers_create(t->ctx, &t->grid, rows, t->cols, &q));
    t->grid.kind->fit(&t->grid, &band, q, 0, 0, code, t->cols);
    for (size_t r = 0; r < rows; r++)
        qnti_numbers_put_codes(q, r, 0, t->cols, code + r * t->cols);
    pack_rows(t, q, bytes);
cleanup:
    qnti_numbers_free(t->ctx, q);
    qnti_free(t->ctx, code);
    return status;
}

static qnt_status convert_task(void *arg, size_t index)
{
    struct conversion *t = arg;
    size_t first = index * t->rows_per_task, rows = qnti_min(t->rows_per_task, t->rows - first);
    float *x = t->x + first * t->cols;
    uint8_t *bytes = t->bytes + first * t->row_bytes;
    bool floats = t->grid.form == QNTI_FORM_FLOAT;
    for (size_t i = 0; t->add != 0 && i < rows * t->cols; i++)
        x[i] += t->add;
    if (!floats || t->grid.float_type == QNT_F16) /* scales and minima of blocks are f16 too */
        t->clamped += qnti_clamp_f16(x, rows * t->cols);
    if (!floats)
        return store_blocks(t, x, rows, bytes);
    store_floats(t, x, rows * t->cols, bytes);
    return QNT_OK;
}

static qnt_status convert_rows(struct conversion *t, const struct qnti_weight *source, size_t first, size_t rows)
{
    QNT_TRY(qnti_weight_rows(t->ctx, source, first, rows, t->x));
    t->rows = rows;
    return qnti_parallel(t->ctx, qnti_ceil_div(rows, t->rows_per_task), convert_task, t);
}

/* --- bytes to the file --- */

static qnt_status emit(const struct qnti_gguf_item *item, struct qnti_output *output, const uint8_t *bytes, size_t n)
{
    XXH3_64bits_update(item->file->hash, bytes, n);
    return qnti_output_write(output, bytes, n);
}

/* Whole heads of lines (rows, or the numbers of a bias), each in neighbouring-pair order. */
static qnt_status emit_heads(const struct qnti_gguf_item *item, struct qnti_output *output, const uint8_t *bytes,
                             size_t n)
{
    qnt_context *ctx = item->file->e->ctx;
    size_t d = item->head_rows, line = item->rank == 1 ? item->type->bytes : item->row_bytes;
    qnt_status status = QNT_OK;
    uint8_t *head;
    if (d == 0)
        return emit(item, output, bytes, n);
    QNT_TRY(QNTI_NEW_RAW(ctx, d * line, &head));
    for (size_t at = 0; at < n && status == QNT_OK; at += d * line) {
        for (size_t i = 0; i < d; i++)
            memcpy(head + i * line, bytes + at + (i % 2 * (d / 2) + i / 2) * line, line);
        status = emit(item, output, head, d * line);
    }
    qnti_free(ctx, head);
    return status;
}

/* Rows that are in memory at a time: whole heads where they change places. */
static size_t rows_per_chunk(const struct qnti_gguf_item *item)
{
    size_t rows = qnti_max(1, CHUNK_ELEMENTS / item->source->cols);
    if (item->head_rows && item->rank > 1)
        rows = qnti_ceil_div(rows, item->head_rows) * item->head_rows;
    return qnti_min(rows, item->source->rows);
}

static qnt_status write_converted(const struct qnti_gguf_item *item, struct qnti_output *output)
{
    struct conversion t = {.ctx = item->file->e->ctx, .type = item->type, .cols = item->source->cols,
                           .row_bytes = item->row_bytes, .add = item->add};
    size_t chunk = rows_per_chunk(item);
    struct qnti_weight w = *item->source;
    qnt_status status;
    if (item->target != SIZE_MAX)
        QNT_TRY(qnti_export_weight(item->file->e, item->target, &w));
    t.rows_per_task = qnti_max(1, TASK_ELEMENTS / t.cols);
    qnti_ggml_grid(qnti_context_kernels(t.ctx), item->type->name, &t.grid);
    QNT_CHECK(QNTI_NEW_RAW(t.ctx, chunk * t.cols, &t.x));
    QNT_CHECK(QNTI_NEW_RAW(t.ctx, chunk * t.row_bytes, &t.bytes));
    for (size_t first = 0; first < w.rows; first += t.rows) {
        QNT_CHECK(convert_rows(&t, &w, first, qnti_min(chunk, w.rows - first)));
        QNT_CHECK(emit_heads(item, output, t.bytes, t.rows * t.row_bytes));
    }
    qnti_warn_clamped(t.ctx, item->source->name, t.clamped);
cleanup:
    qnti_free(t.ctx, t.x);
    qnti_free(t.ctx, t.bytes);
    return status;
}

static qnt_status write_layer(const struct qnti_gguf_item *item, struct qnti_output *output)
{
    const struct qnti_export *e = item->file->e;
    qnt_qlinear *q = NULL;
    uint8_t *bytes = NULL;
    qnt_status status;
    QNT_CHECK(e->layer(e->user, item->target, &q));
    if (q->out != item->source->rows || q->in != item->source->cols)
        QNT_CHECK(qnti_fail(e->ctx, QNT_INVALID, "layer %s is (%zu, %zu), expected (%zu, %zu)", item->source->name,
                            q->out, q->in, item->source->rows, item->source->cols));
    QNT_CHECK(QNTI_NEW_RAW(e->ctx, item->bytes, &bytes));
    QNT_CHECK(qnt_pack(q, item->layout, bytes, item->bytes));
    QNT_CHECK(emit_heads(item, output, bytes, item->bytes));
cleanup:
    qnt_qlinear_destroy(q);
    qnti_free(e->ctx, bytes);
    return status;
}

qnt_status qnti_gguf_write_item(void *user, struct qnti_output *output)
{
    struct qnti_gguf_item *item = user;
    struct qnti_gguf_file *file = item->file;
    XXH3_64bits_reset(file->hash);
    QNT_TRY(item->layout ? write_layer(item, output) : write_converted(item, output));
    item->hash = XXH3_64bits_digest(file->hash);
    file->done += item->bytes;
    if (file->e->progress)
        file->e->progress(file->e->user, file->done, file->total);
    return QNT_OK;
}
