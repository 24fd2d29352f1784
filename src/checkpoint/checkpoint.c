/*
 * checkpoint.c - opening and closing a model, and its doors: weights by role, tokenizer, side files.
 */
#include "checkpoint/source.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "file/output.h"

static qnt_status open_source(struct qnti_checkpoint *c)
{
    struct stat info;
    if (stat(c->path, &info) != 0)
        return qnti_fail(c->ctx, errno == ENOENT ? QNT_NOT_FOUND : QNT_IO, "%s: cannot open: %s", c->path,
                         strerror(errno));
    QNT_TRY(S_ISDIR(info.st_mode) ? qnti_folder_open(c) : qnti_gguf_source_open(c));
    return qnti_weights_attach(c);
}

qnt_status qnti_checkpoint_open(qnt_context *ctx, const char *path, struct qnti_checkpoint **checkpoint)
{
    struct qnti_checkpoint *c;
    qnt_status status;
    *checkpoint = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &c));
    c->ctx = ctx;
    QNT_CHECK(QNTI_NEW(ctx, 1, &c->source));
    QNT_CHECK(qnti_copy_string(ctx, path, &c->path));
    QNT_CHECK(open_source(c));
    *checkpoint = c;
cleanup:
    if (status != QNT_OK)
        qnti_checkpoint_close(c);
    return status;
}

static void close_source(qnt_context *ctx, struct qnti_source *source)
{
    if (!source)
        return;
    for (size_t i = 0; i < source->shard_count; i++)
        qnti_safetensors_close(source->shards[i]);
    if (source->gguf)
        qnti_gguf_close(source->gguf);
    qnti_free(ctx, source->shards);
    qnti_free(ctx, source->tensors);
    qnti_free(ctx, source);
}

void qnti_checkpoint_close(struct qnti_checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; c->weights && i < c->config.blocks * QNTI_ROLES * 2; i++) {
        qnt_qlinear_destroy((qnt_qlinear *)(uintptr_t)c->weights[i].qlinear);
        qnti_free(c->ctx, (void *)(uintptr_t)c->weights[i].name);
    }
    qnti_free(c->ctx, c->weights);
    qnti_free(c->ctx, c->config.global);
    qnti_free(c->ctx, c->config.rope.divisors);
    qnti_free(c->ctx, c->config.rope.long_divisors);
    qnti_free(c->ctx, c->config.local_rope.divisors);
    qnti_free(c->ctx, c->config.local_rope.long_divisors);
    close_source(c->ctx, c->source);
    qnti_free(c->ctx, c->path);
    qnti_free(c->ctx, c);
}

static const struct qnti_weight *weight_at(const struct qnti_checkpoint *c, size_t block, enum qnti_role role,
                                           bool bias)
{
    const struct qnti_weight *w;
    if (role < QNTI_ATTN_NORM)
        block = 0;
    if (role >= QNTI_ROLES || block >= c->config.blocks)
        return NULL;
    w = &c->weights[2 * (block * QNTI_ROLES + role) + bias];
    return w->name ? w : NULL;
}

const struct qnti_weight *qnti_checkpoint_weight(const struct qnti_checkpoint *c, size_t block, enum qnti_role role)
{
    return weight_at(c, block, role, false);
}

const struct qnti_weight *qnti_checkpoint_bias(const struct qnti_checkpoint *c, size_t block, enum qnti_role role)
{
    return weight_at(c, block, role, true);
}

qnt_status qnti_checkpoint_tokenizer(const struct qnti_checkpoint *c, qnti_tokenizer **tokenizer)
{
    return c->source->gguf ? qnti_gguf_tokenizer(c, tokenizer) : qnti_tokenizer_open(c->ctx, c->path, tokenizer);
}

/* Not weights in any container, their indices, hidden files, nor configurations, which are written anew. */
static bool is_copied(const char *name)
{
    static const char *const written[] = {"config.json", "quantize_config.json", "quant_config.json"};
    static const char *const others[] = {".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf",
                                         ".h5", ".msgpack", ".onnx", ".npz"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (qnti_has_suffix(name, others[i]))
            return false;
    for (size_t i = 0; i < sizeof written / sizeof *written; i++)
        if (strcmp(name, written[i]) == 0)
            return false;
    return name[0] != '.';
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct name_list {
    char **names;
    size_t count, capacity;
};

static qnt_status add_name(qnt_context *ctx, struct name_list *list, const char *name)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        char **larger;
        QNT_TRY(QNTI_NEW(ctx, capacity, &larger));
        if (list->count)
            memcpy(larger, list->names, list->count * sizeof *larger);
        qnti_free(ctx, list->names);
        list->names = larger;
        list->capacity = capacity;
    }
    QNT_TRY(qnti_copy_string(ctx, name, &list->names[list->count]));
    list->count++;
    return QNT_OK;
}

/* Regular files, or links to such, that are copied. */
static qnt_status list_folder(const struct qnti_checkpoint *c, struct name_list *list)
{
    DIR *folder = opendir(c->path);
    const struct dirent *entry;
    qnt_status status = QNT_OK;
    if (!folder)
        return qnti_fail(c->ctx, QNT_IO, "%s: cannot list the folder: %s", c->path, strerror(errno));
    while (status == QNT_OK && (entry = readdir(folder)) != NULL) {
        struct stat info;
        if (is_copied(entry->d_name) && fstatat(dirfd(folder), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode))
            status = add_name(c->ctx, list, entry->d_name);
    }
    closedir(folder);
    if (list->count)
        qsort(list->names, list->count, sizeof *list->names, compare_strings);
    return status;
}

qnt_status qnti_checkpoint_side_files(const struct qnti_checkpoint *c,
                                      qnt_status (*fn)(void *user, const char *folder, const char *name), void *user)
{
    struct name_list list = {0};
    qnt_status status;
    if (c->source->gguf)
        return QNT_OK;
    status = list_folder(c, &list);
    for (size_t i = 0; i < list.count; i++) {
        if (status == QNT_OK)
            status = fn(user, c->path, list.names[i]);
        qnti_free(c->ctx, list.names[i]);
    }
    qnti_free(c->ctx, list.names);
    return status;
}
