/*
 * identity.c - which plan this is: everything that determines its result, as flat readable keys.
 *
 * The blocks' part (plan.json of the work folder) names the model by its
 * contents, the calibration windows by their ids, and for every linear of a
 * block the recipe with all its parameters and the grid of its layout; not the
 * format as such: formats that store the same blocks share them. What is not
 * there does not count: threads, memory, names of files. The output carries a
 * hash of that part and of what a format's writer looks at.
 */
#include "sweep/statistics.h"

#include <dirent.h>
#include <fnmatch.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "base/number.h"
#include "container/gguf.h"
#include "file/output.h"

enum { KEY_BYTES = 512 };

/* --- keys --- */

static qnt_status put(const struct qnt_plan *plan, json_t *keys, const char *key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static qnt_status put(const struct qnt_plan *plan, json_t *keys, const char *key, const char *format, ...)
{
    json_t *value;
    va_list args;
    va_start(args, format);
    value = json_vsprintf(format, args);
    va_end(args);
    if (!value || json_object_set_new(keys, key, value) != 0)
        return qnti_fail(plan->ctx, QNT_NO_MEMORY, "out of memory for the plan's key %s", key);
    return QNT_OK;
}

static qnt_status put_hash(const struct qnt_plan *plan, json_t *keys, const char *key, uint64_t hash)
{
    return put(plan, keys, key, "%016llx", (unsigned long long)hash);
}

static qnt_status put_model(const struct qnt_plan *plan, json_t *keys)
{
    uint64_t fingerprint;
    QNT_TRY(qnti_checkpoint_fingerprint(plan->model->checkpoint, &fingerprint));
    QNT_TRY(put_hash(plan, keys, "model configuration", fingerprint));
    return put_hash(plan, keys, "model weights", plan->model->weights_hash);
}

static qnt_status put_calibration(const struct qnt_plan *plan, json_t *keys)
{
    const struct qnti_windows *w = &plan->windows;
    const struct qnti_given *given = plan->given;
    if (given && given->matrix)
        QNT_TRY(put_hash(plan, keys, "importance", given->matrix_hash));
    if (given && given->file)
        return put(plan, keys, "calibration", "statistics %016llx", (unsigned long long)given->file_hash);
    if (!w->count)
        return put(plan, keys, "calibration", "none");
    QNT_TRY(put(plan, keys, "samples", "%zu", w->count));
    QNT_TRY(put(plan, keys, "seqlen", "%zu", w->tokens));
    QNT_TRY(plan->options.random_windows
                ? put(plan, keys, "seed", "%llu", (unsigned long long)plan->options.seed)
                : put(plan, keys, "seed", "none"));
    return put_hash(plan, keys, "calibration", XXH3_64bits(w->ids, w->count * w->tokens * sizeof *w->ids));
}

enum { GRID_BYTES = 128 };

/* What of a target's layout determines the layer: the grid that it prescribes, or what it asks of the method's own. */
static void grid_text(const struct qnt_plan *plan, size_t target, char text[GRID_BYTES])
{
    const struct qnti_layout *layout = qnti_layout_find(plan->ctx, plan->job.targets[target].layout);
    bool run_time = qnti_recipe_transforms(plan->recipes[target]) && qnti_layout_at_run_time(layout);
    if (!layout || layout->ggml)
        snprintf(text, GRID_BYTES, "%s", plan->job.targets[target].layout);
    else
        snprintf(text, GRID_BYTES, "the method's, scales in %s%s%s", qnti_dtype_name(layout->scale_type),
                 layout->group_index ? "" : ", groups of neighbours", run_time ? ", transforms at run time" : "");
}

/* Whether target t is done in the same way as `other`. */
static bool same_way(const struct qnt_plan *plan, size_t t, size_t other)
{
    char grid[GRID_BYTES], others[GRID_BYTES];
    if (strcmp(qnt_recipe_text(plan->recipes[t]), qnt_recipe_text(plan->recipes[other])) != 0)
        return false;
    grid_text(plan, t, grid);
    grid_text(plan, other, others);
    return strcmp(grid, others) == 0;
}

/* All parameters, also those that stand at their default: two ways to write a recipe are one recipe. */
static qnt_status put_recipe(const struct qnt_plan *plan, json_t *keys, size_t number, size_t target)
{
    const qnt_recipe *recipe = plan->recipes[target];
    char key[KEY_BYTES], value[GRID_BYTES];
    grid_text(plan, target, value);
    snprintf(key, sizeof key, "recipe %zu grid", number);
    QNT_TRY(put(plan, keys, key, "%s", value));
    for (size_t s = 0; s < recipe->count; s++) {
        const struct qnti_recipe_step *step = &recipe->steps[s];
        snprintf(key, sizeof key, "recipe %zu method %zu", number, s + 1);
        QNT_TRY(put(plan, keys, key, "%s", step->method->name));
        for (size_t i = 0; i < step->method->table.count; i++) {
            const struct qnti_param *row = &step->method->table.rows[i];
            qnti_param_print(row, step->params, value, sizeof value);
            snprintf(key, sizeof key, "recipe %zu %s.%s", number, step->method->name, row->name);
            QNT_TRY(put(plan, keys, key, "%s", value));
        }
    }
    return QNT_OK;
}

/* The number of the target's recipe: that of the first target that is done in the same way, or a new one. */
static qnt_status number_recipe(const struct qnt_plan *plan, json_t *keys, size_t target, size_t *numbers,
                                size_t *count)
{
    for (size_t t = 0; t < target; t++)
        if (numbers[t] && same_way(plan, target, t)) {
            numbers[target] = numbers[t];
            return QNT_OK;
        }
    numbers[target] = ++*count;
    return put_recipe(plan, keys, *count, target);
}

static bool is_linear(const struct qnti_target *t)
{
    return !t->bias && qnti_is_linear(t->role);
}

static qnt_status put_layers(const struct qnt_plan *plan, json_t *keys)
{
    const struct qnti_export *job = &plan->job;
    size_t *numbers, count = 0;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(plan->ctx, job->count, &numbers));
    for (size_t t = 0; t < job->count; t++)
        if (plan->recipes[t])
            QNT_CHECK(number_recipe(plan, keys, t, numbers, &count));
    for (size_t t = 0; t < job->count; t++) {
        const char *name = job->targets[t].source->name;
        if (numbers[t])
            QNT_CHECK(put(plan, keys, name, "recipe %zu", numbers[t]));
        else if (is_linear(&job->targets[t]))
            QNT_CHECK(put(plan, keys, name, "%s", job->targets[t].quantized ? "repacked" : "not quantized"));
    }
cleanup:
    qnti_free(plan->ctx, numbers);
    return status;
}

static qnt_status put_blocks(const struct qnt_plan *plan, json_t *keys)
{
    QNT_TRY(put(plan, keys, "version", "%s", qnt_version()));
    QNT_TRY(put(plan, keys, "kernels", "%s", qnt_context_kernels(plan->ctx)));
    QNT_TRY(put_model(plan, keys));
    QNT_TRY(put_calibration(plan, keys));
    return put_layers(plan, keys);
}

qnt_status qnti_plan_same_blocks(const struct qnt_plan *a, const struct qnt_plan *b, bool *same)
{
    json_t *keys[2] = {json_object(), json_object()};
    const struct qnt_plan *plans[2] = {a, b};
    qnt_status status = QNT_OK;
    for (size_t i = 0; i < 2; i++) {
        QNT_CHECK(put_calibration(plans[i], keys[i]));
        QNT_CHECK(put_layers(plans[i], keys[i]));
    }
    *same = a->model == b->model && json_equal(keys[0], keys[1]);
cleanup:
    json_decref(keys[0]);
    json_decref(keys[1]);
    return status;
}

/* --- the hash that the output carries --- */

struct hash {
    qnt_context *ctx;
    uint64_t value;
};

static void add(struct hash *h, const char *key, const char *value)
{
    h->value = XXH3_64bits_withSeed(key, strlen(key) + 1, h->value);
    h->value = XXH3_64bits_withSeed(value ? value : "", value ? strlen(value) + 1 : 0, h->value);
}

static qnt_status add_side_file(void *user, const char *folder, const char *name)
{
    struct hash *h = user;
    char *path;
    void *map = NULL;
    size_t bytes;
    qnt_status status;
    QNT_TRY(qnti_path_join(h->ctx, folder, name, &path));
    status = qnti_map_file(h->ctx, path, &map, &bytes);
    qnti_free(h->ctx, path);
    QNT_TRY(status);
    add(h, "side file", name);
    h->value = XXH3_64bits_withSeed(map, bytes, h->value);
    qnti_unmap_file(map, bytes);
    return QNT_OK;
}

/* Kernels are left out: who has the output need not make it again for another machine. */
static qnt_status make_hash(struct qnt_plan *plan)
{
    const qnt_quantize_options *o = &plan->options;
    struct hash h = {plan->ctx, 0};
    const char *key;
    json_t *value;
    char shard[32];
    json_object_foreach(plan->identity, key, value)
        if (strcmp(key, "kernels") != 0)
            add(&h, key, json_string_value(value));
    snprintf(shard, sizeof shard, "%llu", (unsigned long long)plan->job.shard_bytes);
    add(&h, "format", plan->job.format->name);
    add(&h, "output type", o->output_type);
    add(&h, "embedding type", o->embedding_type);
    add(&h, "shard size", shard);
    add(&h, "recipe", plan->job.recipe);
    add(&h, "text", plan->job.calibration);
    for (size_t t = 0; t < plan->job.count; t++)
        add(&h, plan->job.targets[t].source->name, plan->job.targets[t].layout);
    QNT_TRY(qnti_checkpoint_side_files(plan->model->checkpoint, add_side_file, &h));
    snprintf(plan->hash, sizeof plan->hash, "%016llx", (unsigned long long)h.value);
    return QNT_OK;
}

qnt_status qnti_plan_identify(struct qnt_plan *plan)
{
    json_decref(plan->identity);
    plan->identity = json_object();
    QNT_TRY(qnti_model_check(plan->model));
    QNT_TRY(qnti_given_compare(plan));
    QNT_TRY(put_blocks(plan, plan->identity));
    return make_hash(plan);
}

/* --- other plans --- */

static const char *text_of(const json_t *keys, const char *key)
{
    const char *text = json_string_value(json_object_get(keys, key));
    return text ? text : "nothing";
}

struct differences {
    qnt_context *ctx;
    struct qnti_buffer text;
    size_t count;
};

/* The first few with both values. */
static qnt_status differ(struct differences *d, const char *key, const char *was, const char *is)
{
    enum { NAMED = 4 };
    if (strcmp(was, is) == 0 || d->count++ >= NAMED)
        return QNT_OK;
    return qnti_buffer_print(d->ctx, &d->text, "%s%.100s was %.60s, is %.60s", d->text.bytes ? "; " : "", key, was, is);
}

static qnt_status find_differences(const struct qnt_plan *plan, json_t *begun, struct differences *d)
{
    const char *key;
    json_t *value;
    json_object_foreach(plan->identity, key, value)
        QNT_TRY(differ(d, key, text_of(begun, key), json_string_value(value)));
    json_object_foreach(begun, key, value)
        if (!json_object_get(plan->identity, key))
            QNT_TRY(differ(d, key, text_of(begun, key), "nothing"));
    return QNT_OK;
}

qnt_status qnti_plan_compare(const struct qnt_plan *plan, const char *path, json_t *begun)
{
    struct differences d = {.ctx = plan->ctx};
    qnt_status status;
    if (!json_is_object(begun))
        return qnti_fail(plan->ctx, QNT_BAD_DATA, "%s: is not an object; --force starts anew", path);
    status = find_differences(plan, begun, &d);
    if (status == QNT_OK && d.count)
        status = qnti_fail(plan->ctx, QNT_EXISTS, "%s: blocks of another plan are here: %s%s; --force starts anew",
                           path, d.text.data, d.count > 4 ? "; and more" : "");
    qnti_buffer_free(plan->ctx, &d.text);
    return status;
}

static void keep_hash(const char *value, size_t bytes, char hash[QNTI_HASH_BYTES])
{
    if (value && bytes == QNTI_HASH_BYTES - 1)
        snprintf(hash, QNTI_HASH_BYTES, "%.*s", (int)bytes, value);
}

static qnt_status hash_of_gguf(qnt_context *ctx, const char *path, char hash[QNTI_HASH_BYTES])
{
    struct qnti_gguf *file;
    const char *value = NULL;
    size_t bytes = 0;
    qnt_status status;
    QNT_TRY(qnti_gguf_open(ctx, path, qnti_ggml_type_size, &file));
    status = qnti_gguf_string(file, "quant.plan", &value, &bytes);
    if (status == QNT_OK)
        keep_hash(value, bytes, hash);
    qnti_gguf_close(file);
    return status;
}

static qnt_status hash_of_safetensors(qnt_context *ctx, const char *path, char hash[QNTI_HASH_BYTES])
{
    struct qnti_safetensors *file;
    const char *value;
    QNT_TRY(qnti_safetensors_open(ctx, path, &file));
    value = qnti_safetensors_metadata(file, "quant_plan");
    keep_hash(value, value ? strlen(value) : 0, hash);
    qnti_safetensors_close(file);
    return QNT_OK;
}

/* All files of a folder carry it: the first one met will do. */
static qnt_status hash_of_folder(qnt_context *ctx, const char *path, char hash[QNTI_HASH_BYTES])
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    qnt_status status = QNT_OK;
    while (folder && !hash[0] && status == QNT_OK && (entry = readdir(folder)) != NULL) {
        char *file;
        if (fnmatch("*.safetensors", entry->d_name, 0) != 0)
            continue;
        status = qnti_path_join(ctx, path, entry->d_name, &file);
        if (status == QNT_OK)
            status = hash_of_safetensors(ctx, file, hash);
        qnti_free(ctx, file);
    }
    if (folder)
        closedir(folder);
    return status;
}

qnt_status qnti_plan_hash_of(qnt_context *ctx, const char *output, char hash[QNTI_HASH_BYTES])
{
    qnt_status status;
    hash[0] = 0;
    status = qnti_is_folder(output) ? hash_of_folder(ctx, output, hash) : hash_of_gguf(ctx, output, hash);
    return status == QNT_NO_MEMORY ? status : QNT_OK; /* whatever it is, it is no output of ours */
}
