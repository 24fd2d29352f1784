/*
 * store.c - finished blocks in the work folder, two files a block.
 *
 * block-N.safetensors holds the block's layers in native form, and under their
 * own names, as f32, tensors that are no layers but no longer the source's
 * (folding changes norms and biases). block-N.json, written behind it, makes
 * it count: the hash of that file, since after a power cut a file of the right
 * size may hold something else, and each layer's outcome for the report. A
 * block's layers leave memory as soon as they are done; the writer of a format
 * reads them back one block at a time.
 */
#include "sweep/sweep.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "container/json.h"
#include "file/output.h"
#include "pack/native.h"

qnt_status qnti_block_path(struct qnt_plan *plan, size_t block, const char *suffix, char **path)
{
    char name[64];
    snprintf(name, sizeof name, "block-%05zu.%s", block, suffix);
    return qnti_path_join(plan->ctx, plan->work.path, name, path);
}

static qnt_status hash_file(qnt_context *ctx, const char *path, char hash[QNTI_HASH_BYTES])
{
    void *map;
    size_t bytes;
    QNT_TRY(qnti_map_file(ctx, path, &map, &bytes));
    snprintf(hash, QNTI_HASH_BYTES, "%016llx", (unsigned long long)XXH3_64bits(map, bytes));
    qnti_unmap_file(map, bytes);
    return QNT_OK;
}

/* The next target from *t on that is a layer of the block. */
static bool next_layer(const struct qnt_plan *plan, size_t block, size_t *t)
{
    while (*t < plan->job.count && !(plan->job.targets[*t].quantized && plan->job.targets[*t].block == block))
        ++*t;
    return *t < plan->job.count;
}

/* --- writing --- */

/* Weights and biases that are not the source's; their data stays the block's. */
static qnt_status add_floats(struct qnt_plan *plan, const struct qnti_block *floats, uint64_t changed,
                             struct qnti_tensor_source *sources, size_t *count)
{
    for (size_t i = 0; floats && i < 2 * QNTI_ROLES; i++) {
        enum qnti_role role = (enum qnti_role)(i / 2);
        const struct qnti_checkpoint *model = plan->job.source;
        const struct qnti_weight *w = i % 2 ? qnti_checkpoint_bias(model, floats->index, role)
                                            : qnti_checkpoint_weight(model, floats->index, role);
        const float *data = i % 2 ? floats->bias[role] : floats->weight[role];
        if (!(changed >> i & 1) || !w || !data)
            continue;
        sources[(*count)++] = (struct qnti_tensor_source){.name = w->name, .dtype = "F32", .rank = 2,
                                                          .shape = {w->rows, w->cols}, .data = data};
    }
    return QNT_OK;
}

static qnt_status write_tensors(struct qnt_plan *plan, const char *path, const struct qnti_native_tensors *layers,
                                const struct qnti_block *floats, uint64_t changed)
{
    static const char *const metadata[] = {"quant_format", "native"};
    struct qnti_tensor_source *sources;
    size_t count = layers->count;
    qnt_status status;
    QNT_TRY(QNTI_NEW(plan->ctx, count + 2 * QNTI_ROLES, &sources));
    if (count)
        memcpy(sources, layers->sources, count * sizeof *sources);
    QNT_CHECK(add_floats(plan, floats, changed, sources, &count));
    status = qnti_safetensors_write(plan->ctx, path, sources, count, metadata, 1);
cleanup:
    qnti_free(plan->ctx, sources);
    return status;
}

/* Hash and outcomes of a block as text (to be freed), NULL without memory. */
static char *describe(const struct qnt_plan *plan, size_t block, const char *hash)
{
    json_t *layers = json_object(), *root = json_pack("{s:s, s:o}", "hash", hash, "layers", layers);
    char *text;
    for (size_t t = 0; next_layer(plan, block, &t); t++) {
        char name[QNTI_LAYER_NAME_BYTES];
        qnti_layer_name(&plan->job.targets[t], name);
        json_object_set_new(layers, name, qnti_outcome_json(&plan->outcomes[t]));
    }
    text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(root);
    return text;
}

static qnt_status write_description(struct qnt_plan *plan, size_t block, const char *tensors, const char *path)
{
    char hash[QNTI_HASH_BYTES], *text;
    qnt_status status;
    QNT_TRY(hash_file(plan->ctx, tensors, hash));
    text = describe(plan, block, hash);
    if (!text)
        return qnti_fail(plan->ctx, QNT_NO_MEMORY, "out of memory for %s", path);
    status = qnt_file_write(plan->ctx, path, text, strlen(text));
    free(text);
    return status;
}

qnt_status qnti_store_block(struct qnt_plan *plan, size_t block, qnt_qlinear *const *layers,
                            const struct qnti_block *floats, uint64_t changed)
{
    struct qnti_native_tensors tensors = {0};
    char *path = NULL, *description = NULL;
    qnt_status status = QNT_OK;
    for (size_t role = 0; role < QNTI_ROLES; role++)
        if (layers[role])
            QNT_CHECK(qnti_native_add(plan->ctx, layers[role], &tensors));
    QNT_CHECK(qnti_block_path(plan, block, "safetensors", &path));
    QNT_CHECK(qnti_block_path(plan, block, "json", &description));
    QNT_CHECK(write_tensors(plan, path, &tensors, floats, changed));
    QNT_CHECK(write_description(plan, block, path, description));
    plan->work.finished[block] = true;
    plan->work.count++;
cleanup:
    qnti_native_tensors_free(plan->ctx, &tensors);
    qnti_free(plan->ctx, path);
    qnti_free(plan->ctx, description);
    return status;
}

/* --- is it whole? --- */

static qnt_status read_outcomes(struct qnt_plan *plan, const char *where, const json_t *layers, size_t block)
{
    for (size_t t = 0; next_layer(plan, block, &t); t++) {
        char name[QNTI_LAYER_NAME_BYTES];
        qnti_layer_name(&plan->job.targets[t], name);
        QNT_TRY(qnti_outcome_read(plan->ctx, where, json_object_get(layers, name), &plan->outcomes[t]));
    }
    return QNT_OK;
}

static qnt_status read_description(struct qnt_plan *plan, size_t block, const char *tensors, const char *path)
{
    json_t *json = NULL;
    const char *hash;
    char is[QNTI_HASH_BYTES];
    qnt_status status;
    QNT_CHECK(qnti_json_load(plan->ctx, path, &json));
    hash = json_string_value(json_object_get(json, "hash"));
    QNT_CHECK(hash_file(plan->ctx, tensors, is));
    if (!hash || strcmp(hash, is) != 0)
        QNT_CHECK(qnti_fail(plan->ctx, QNT_BAD_DATA, "%s: is not what was written", tensors));
    status = read_outcomes(plan, path, json_object_get(json, "layers"), block);
cleanup:
    json_decref(json);
    return status;
}

qnt_status qnti_store_finished(struct qnt_plan *plan, size_t block, bool *finished)
{
    char *path = NULL, *description = NULL;
    qnt_status status;
    *finished = false;
    QNT_CHECK(qnti_block_path(plan, block, "safetensors", &path));
    QNT_CHECK(qnti_block_path(plan, block, "json", &description));
    if (!qnti_path_exists(path) || !qnti_path_exists(description))
        goto cleanup;
    status = read_description(plan, block, path, description);
    *finished = status == QNT_OK;
    if (status != QNT_NO_MEMORY)
        status = QNT_OK; /* what cannot be read is made again */
cleanup:
    qnti_free(plan->ctx, path);
    qnti_free(plan->ctx, description);
    return status;
}

/* --- reading --- */

qnt_status qnti_store_read(struct qnt_plan *plan, size_t block, const struct qnti_safetensors **file)
{
    char *path;
    qnt_status status;
    if (!plan->open_block || plan->open_index != block) {
        qnti_store_close(plan);
        QNT_TRY(qnti_block_path(plan, block, "safetensors", &path));
        status = qnti_safetensors_open(plan->ctx, path, &plan->open_block);
        qnti_free(plan->ctx, path);
        QNT_TRY(status);
        plan->open_index = block;
    }
    *file = plan->open_block;
    return QNT_OK;
}

void qnti_store_close(struct qnt_plan *plan)
{
    if (plan->open_block)
        qnti_safetensors_close(plan->open_block);
    plan->open_block = NULL;
}

qnt_status qnti_store_layer(struct qnt_plan *plan, size_t target, qnt_qlinear **q)
{
    const struct qnti_target *t = &plan->job.targets[target];
    const struct qnti_safetensors *file;
    char name[QNTI_LAYER_NAME_BYTES];
    QNT_TRY(qnti_store_read(plan, t->block, &file));
    qnti_layer_name(t, name);
    return qnti_native_read(plan->ctx, file, name, q);
}

/* A tensor that stands in the block's file in place of the source's; NULL: none. */
static const struct qnti_tensor *stored_floats(const struct qnti_safetensors *file, const struct qnti_weight *w)
{
    const struct qnti_tensor *tensor = w ? qnti_safetensors_find(file, w->name) : NULL;
    return tensor && strcmp(tensor->dtype, "F32") == 0 && tensor->elements == w->rows * w->cols ? tensor : NULL;
}

qnt_status qnti_store_weight(struct qnt_plan *plan, size_t target, struct qnti_weight *weight)
{
    const struct qnti_target *t = &plan->job.targets[target];
    const struct qnti_safetensors *file;
    const struct qnti_tensor *tensor;
    *weight = *t->source;
    if (t->role < QNTI_ATTN_NORM || plan->work.count == 0)
        return QNT_OK;
    QNT_TRY(qnti_store_read(plan, t->block, &file));
    tensor = stored_floats(file, t->source);
    if (tensor)
        *weight = (struct qnti_weight){.name = t->source->name, .rows = t->source->rows, .cols = t->source->cols,
                                       .plain = qnt_matrix_f32(tensor->data, t->source->rows, t->source->cols)};
    return QNT_OK;
}

static void apply_floats(const struct qnti_safetensors *file, const struct qnti_weight *w, float *x)
{
    const struct qnti_tensor *tensor = stored_floats(file, w);
    if (tensor && x)
        memcpy(x, tensor->data, tensor->bytes);
}

qnt_status qnti_store_apply(struct qnt_plan *plan, struct qnti_block *block, qnt_qlinear **layers)
{
    const struct qnti_checkpoint *model = plan->job.source;
    const struct qnti_safetensors *file;
    QNT_TRY(qnti_store_read(plan, block->index, &file));
    for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++) {
        apply_floats(file, qnti_checkpoint_weight(model, block->index, role), block->weight[role]);
        apply_floats(file, qnti_checkpoint_bias(model, block->index, role), block->bias[role]);
    }
    for (size_t t = 0; next_layer(plan, block->index, &t); t++) {
        enum qnti_role role = plan->job.targets[t].role;
        QNT_TRY(qnti_store_layer(plan, t, &layers[role]));
        QNT_TRY(qnti_block_exchange(block, role, layers[role]));
    }
    return QNT_OK;
}
