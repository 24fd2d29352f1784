/*
 * native.c - the lossless format: a folder that holds every part of each quantized layer.
 *
 * Quantized layers are copied from the blocks' files, tensor by tensor; all
 * others stay in the source's type (f32 where the source has blocks).
 */
#include <string.h>
#include "export/folder.h"
#include "pack/native.h"

/*
 * The parts of a layer: every tensor of the block's file whose name begins with the layer's and a point, but for a bias
 * that is a tensor of the model and has its own turn.
 */
static qnt_status describe(struct qnti_folder *f, size_t t)
{
    const struct qnti_target *target = &f->e->targets[t];
    size_t n = strlen(target->source->name) - strlen("weight");
    const struct qnti_safetensors *file;
    QNT_TRY(f->e->block(f->e->user, target->block, &file));
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *tensor = &file->tensors[i];
        if (strncmp(tensor->name, target->source->name, n) == 0 &&
            !(strcmp(tensor->name + n, "bias") == 0 && qnti_checkpoint_bias(f->e->source, target->block, target->role)))
            QNT_TRY(qnti_folder_add(f, t, i, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->bytes));
    }
    return QNT_OK;
}

static qnt_status write(struct qnti_folder_entry *entry, struct qnti_output *output)
{
    const struct qnti_export *e = entry->folder->e;
    const struct qnti_safetensors *file;
    const struct qnti_tensor *tensor;
    QNT_TRY(e->block(e->user, e->targets[entry->target].block, &file));
    tensor = qnti_safetensors_find(file, entry->name);
    if (!tensor || tensor->bytes != entry->bytes)
        return qnti_fail(e->ctx, QNT_BAD_DATA, "%s: tensor %s has gone", file->path, entry->name);
    return qnti_folder_emit(entry, output, tensor->data, tensor->bytes);
}

static qnt_status config(struct qnti_folder *f, json_t **config)
{
    *config = json_pack("{s:s, s:i, s:s?}", "quant_method", "libquant", "version", QNTI_NATIVE_VERSION, "recipe",
                        f->e->recipe);
    return *config ? QNT_OK : qnti_fail(f->e->ctx, QNT_NO_MEMORY, "out of memory for the configuration");
}

static const char *const metadata[] = {"quant_format", "native", "quant_version", "1"};

const struct qnti_folder_rules qnti_native_rules = {
    .metadata = metadata, .metadata_count = 2, .describe = describe, .config = config, .write = write};
