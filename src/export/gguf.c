/*
 * gguf.c - writes a model as one GGUF file: assembly, order, reading back.
 *
 * Every size is known beforehand, so the header comes first and tensors are
 * streamed behind it, one at a time, in llama-quantize's order: those of no
 * block first, then block after block, names sorted as bytes. The temporary is
 * then read back and compared by hash before it gets its name.
 */
#include "export/gguf.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "file/output.h"

static int compare_items(const void *left, const void *right)
{
    const struct qnti_gguf_item *a = left, *b = right;
    if (a->block != b->block)
        return a->block < b->block ? -1 : 1;
    return strcmp(a->name, b->name);
}

static qnt_status name_of(qnt_context *ctx, const struct qnti_target *target, char **name)
{
    struct qnti_buffer text = {0};
    qnt_status status = qnti_buffer_print(ctx, &text, qnti_gguf_names[target->role], target->block);
    if (status == QNT_OK)
        status = qnti_buffer_print(ctx, &text, target->bias ? ".bias" : ".weight");
    if (status != QNT_OK)
        qnti_buffer_free(ctx, &text);
    *name = text.data;
    return status;
}

/* Type and sizes, from a layout's name. A tensor of one row has one dimension. */
static qnt_status measure(qnt_context *ctx, const char *name, bool vector, struct qnti_gguf_item *item)
{
    const struct qnti_layout *layout = qnti_layout_find(ctx, name);
    size_t rows = item->source->rows, cols = item->source->cols;
    if (!layout)
        return QNT_NOT_FOUND;
    item->type = layout->ggml ? qnti_ggml_type_named(layout->ggml) : NULL;
    if (!item->type || !item->type->pack)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "tensor %s: GGUF has no layout %s", item->name, layout->name);
    QNT_TRY(qnti_layout_width(ctx, layout, item->name, cols));
    if (!qnti_multiply(cols / item->type->elements, item->type->bytes, &item->row_bytes) ||
        !qnti_multiply(item->row_bytes, rows, &item->bytes))
        return qnti_fail(ctx, QNT_UNSUPPORTED, "tensor %s: %zu x %zu numbers are too many", item->name, rows, cols);
    item->rank = vector ? 1 : 2;
    item->ne[0] = cols;
    item->ne[1] = rows;
    return QNT_OK;
}

/* Rows of a head where the family has q and k in neighbouring-pair order, else 0. */
static size_t head_rows(const struct qnti_checkpoint *c, enum qnti_role role)
{
    return c->family->gguf_permutes_qk && (role == QNTI_Q || role == QNTI_K) ? c->config.head_dim : 0;
}

static qnt_status add_target(struct qnti_gguf_file *file, size_t index)
{
    const struct qnti_export *e = file->e;
    const struct qnti_target *target = &e->targets[index];
    struct qnti_gguf_item *item = &file->items[file->count];
    bool norm = qnti_is_norm(target->role);
    *item = (struct qnti_gguf_item){.file = file,
                                    .block = target->role >= QNTI_ATTN_NORM ? target->block + 1 : 0,
                                    .source = target->source,
                                    .target = index,
                                    .layout = target->quantized ? target->layout : NULL,
                                    .add = norm && !target->bias ? e->source->config.norm_base : 0,
                                    .head_rows = head_rows(e->source, target->role)};
    QNT_TRY(name_of(e->ctx, target, &item->name));
    file->count++;
    return measure(e->ctx, target->layout, target->bias || norm, item);
}

/* Divisors of RoPE as the tensor `index` of the two that there can be. */
static qnt_status add_divisors(struct qnti_gguf_file *file, size_t index, const char *name, const float *divisors)
{
    const struct qnti_export *e = file->e;
    size_t n = e->source->config.rope.rotated / 2;
    struct qnti_gguf_item *item = &file->items[file->count];
    file->rope[index] = (struct qnti_weight){name, 1, n, .plain = qnt_matrix_f32(divisors, 1, n)};
    *item = (struct qnti_gguf_item){.file = file, .source = &file->rope[index], .target = SIZE_MAX};
    QNT_TRY(qnti_copy_string(e->ctx, name, &item->name));
    file->count++;
    return measure(e->ctx, "gguf:f32", true, item);
}

static qnt_status add_rope(struct qnti_gguf_file *file)
{
    const struct qnti_rope *rope = &file->e->source->config.rope;
    if (rope->kind == QNTI_ROPE_LLAMA3)
        return add_divisors(file, 0, "rope_freqs.weight", rope->divisors);
    if (rope->kind != QNTI_ROPE_LONGROPE)
        return QNT_OK;
    QNT_TRY(add_divisors(file, 0, "rope_factors_long.weight", rope->long_divisors));
    return add_divisors(file, 1, "rope_factors_short.weight", rope->divisors);
}

static qnt_status add_items(struct qnti_gguf_file *file)
{
    QNT_TRY(QNTI_NEW(file->e->ctx, file->e->count + 2, &file->items));
    for (size_t i = 0; i < file->e->count; i++)
        QNT_TRY(add_target(file, i));
    QNT_TRY(add_rope(file));
    qsort(file->items, file->count, sizeof *file->items, compare_items);
    for (size_t i = 0; i < file->count; i++) {
        struct qnti_gguf_item *item = &file->items[i];
        file->total += item->bytes;
        QNT_TRY(qnti_gguf_add_tensor(&file->writer, item->name, item->rank, item->ne, item->type->id, item->bytes,
                                     qnti_gguf_write_item, item));
    }
    return QNT_OK;
}

static qnt_status assemble(const struct qnti_export *e, bool counting, struct qnti_gguf_file *file)
{
    *file = (struct qnti_gguf_file){.e = e, .counting = counting};
    qnti_gguf_writer_init(e->ctx, &file->writer);
    QNT_TRY(add_items(file));
    QNT_TRY(qnti_gguf_put_model(file));
    QNT_TRY(qnti_gguf_put_tokenizer(file));
    return qnti_gguf_put_templates(file);
}

static void take_apart(struct qnti_gguf_file *file)
{
    for (size_t i = 0; i < file->count; i++)
        qnti_free(file->e->ctx, file->items[i].name);
    qnti_free(file->e->ctx, file->items);
    qnti_gguf_writer_free(&file->writer);
    XXH3_freeState(file->hash);
}

qnt_status qnti_gguf_export_bytes(const struct qnti_export *e, uint64_t *bytes)
{
    struct qnti_gguf_file file;
    qnt_status status = assemble(e, true, &file);
    if (status == QNT_OK)
        *bytes = qnti_gguf_bytes(&file.writer);
    take_apart(&file);
    return status;
}

static qnt_status compare_tensors(const struct qnti_gguf_file *file, const struct qnti_gguf *read)
{
    if (read->tensor_count != file->count || read->value_count != file->writer.value_count)
        return qnti_fail(read->ctx, QNT_IO, "%s: reads back with %zu tensors and %zu keys, %zu and %llu were written",
                         read->path, read->tensor_count, read->value_count, file->count,
                         (unsigned long long)file->writer.value_count);
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_gguf_item *item = &file->items[i];
        const struct qnti_gguf_tensor *tensor = &read->tensors[i];
        QNT_TRY(qnti_cancelled(read->ctx));
        if (strcmp(tensor->name, item->name) || tensor->type != item->type->id || tensor->bytes != item->bytes ||
            XXH3_64bits(tensor->data, tensor->bytes) != item->hash)
            return qnti_fail(read->ctx, QNT_IO, "%s: tensor %zu, %s of %zu bytes, reads back otherwise than written",
                             read->path, i, item->name, item->bytes);
    }
    return QNT_OK;
}

static qnt_status read_back(const struct qnti_gguf_file *file, struct qnti_output *output)
{
    struct qnti_gguf *read;
    qnt_status status;
    QNT_TRY(qnti_output_flush(output));
    QNT_TRY(qnti_gguf_open(file->e->ctx, qnti_output_temporary(output), qnti_ggml_type_size, &read));
    status = compare_tensors(file, read);
    qnti_gguf_close(read);
    return status;
}

qnt_status qnti_gguf_export_write(const struct qnti_export *e, const char *path)
{
    struct qnti_output *output = NULL, *finished;
    struct qnti_gguf_file file;
    qnt_status status;
    QNT_CHECK(assemble(e, false, &file));
    file.hash = XXH3_createState();
    if (!file.hash)
        QNT_CHECK(qnti_fail(e->ctx, QNT_NO_MEMORY, "out of memory"));
    QNT_CHECK(qnti_output_create(e->ctx, path, &output));
    QNT_CHECK(qnti_gguf_write(&file.writer, output));
    QNT_CHECK(read_back(&file, output));
    finished = output;
    output = NULL;
    status = qnti_output_commit(finished);
cleanup:
    qnti_output_discard(output);
    take_apart(&file);
    return status;
}
