/*
 * fisher.c - Fisher information of blocks: who needs it, and its files in the work folder.
 *
 * block-N.fisher.safetensors holds, under the names of the linears' weights and
 * as f32 of their shapes, the mean over the calibration's windows of the
 * squared gradient of a window's mean loss. Its metadata has a hash of the
 * numbers, since after a power cut a file of the right size may hold others.
 */
#include "sweep/sweep.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "file/output.h"

static const char hash_key[] = "fisher_hash";

unsigned qnti_fisher_roles(const struct qnt_plan *plan, size_t block)
{
    unsigned roles = 0;
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t] && plan->job.targets[t].block == block && qnt_recipe_needs_fisher(plan->recipes[t]))
            roles |= 1u << plan->job.targets[t].role;
    return roles;
}

bool qnti_plan_needs_fisher(const struct qnt_plan *plan, size_t *first)
{
    size_t blocks = plan->job.source->config.blocks;
    for (*first = 0; *first < blocks && !qnti_fisher_roles(plan, *first); ++*first)
        ;
    return *first < blocks;
}

bool qnti_plan_measures(const struct qnt_plan *plan)
{
    for (size_t t = 0; plan->windows.count && t < plan->job.count; t++) {
        unsigned needs = plan->recipes[t] ? qnti_recipe_needs(plan->recipes[t]) : QNTI_NEED_FISHER;
        if (needs != QNTI_NEED_FISHER)
            return true;
    }
    return false;
}

/* The next role from *role on that is wanted; false beyond the last. */
static bool next_role(unsigned roles, enum qnti_role *role)
{
    while (*role < QNTI_ROLES && !(roles >> *role & 1))
        ++*role;
    return *role < QNTI_ROLES;
}

static const struct qnti_weight *weight_of(const struct qnt_plan *plan, size_t block, enum qnti_role role)
{
    return qnti_checkpoint_weight(plan->job.source, block, role);
}

uint64_t qnti_fisher_bytes(const struct qnt_plan *plan, size_t block)
{
    unsigned roles = qnti_fisher_roles(plan, block);
    uint64_t bytes = 0;
    for (enum qnti_role role = 0; next_role(roles, &role); role++)
        bytes += 4 * (uint64_t)weight_of(plan, block, role)->rows * weight_of(plan, block, role)->cols;
    return bytes;
}

static void hash_text(uint64_t hash, char text[QNTI_HASH_BYTES])
{
    snprintf(text, QNTI_HASH_BYTES, "%016llx", (unsigned long long)hash);
}

qnt_status qnti_fisher_store(struct qnt_plan *plan, size_t block, float *const fisher[QNTI_ROLES])
{
    struct qnti_tensor_source sources[QNTI_ROLES];
    unsigned roles = qnti_fisher_roles(plan, block);
    char text[QNTI_HASH_BYTES], *path;
    const char *const metadata[] = {hash_key, text};
    uint64_t hash = 0;
    size_t count = 0;
    qnt_status status;
    for (enum qnti_role role = 0; next_role(roles, &role); role++) {
        const struct qnti_weight *w = weight_of(plan, block, role);
        sources[count++] = (struct qnti_tensor_source){.name = w->name, .dtype = "F32", .rank = 2,
                                                       .shape = {w->rows, w->cols}, .data = fisher[role]};
        hash = XXH3_64bits_withSeed(fisher[role], w->rows * w->cols * sizeof(float), hash);
    }
    hash_text(hash, text);
    QNT_TRY(qnti_block_path(plan, block, "fisher.safetensors", &path));
    status = qnti_safetensors_write(plan->ctx, path, sources, count, metadata, 1);
    qnti_free(plan->ctx, path);
    QNT_TRY(status);
    plan->work.fisher[block] = true;
    plan->work.fisher_count++;
    return QNT_OK;
}

const float *qnti_fisher_of(const struct qnti_safetensors *file, const struct qnti_weight *w)
{
    const struct qnti_tensor *t = file ? qnti_safetensors_find(file, w->name) : NULL;
    if (!t || strcmp(t->dtype, "F32") != 0 || t->elements != w->rows * w->cols || (uintptr_t)t->data % sizeof(float))
        return NULL;
    return t->data;
}

qnt_status qnti_fisher_open(struct qnt_plan *plan, size_t block, struct qnti_safetensors **file)
{
    char *path;
    qnt_status status;
    QNT_TRY(qnti_block_path(plan, block, "fisher.safetensors", &path));
    status = qnti_safetensors_open(plan->ctx, path, file);
    qnti_free(plan->ctx, path);
    return status;
}

/* Whether the file has all that is wanted, as it was written. */
static bool is_whole(const struct qnt_plan *plan, size_t block, const struct qnti_safetensors *file)
{
    const char *said = qnti_safetensors_metadata(file, hash_key);
    unsigned roles = qnti_fisher_roles(plan, block);
    char text[QNTI_HASH_BYTES];
    uint64_t hash = 0;
    for (enum qnti_role role = 0; next_role(roles, &role); role++) {
        const struct qnti_weight *w = weight_of(plan, block, role);
        const float *x = qnti_fisher_of(file, w);
        if (!x)
            return false;
        hash = XXH3_64bits_withSeed(x, w->rows * w->cols * sizeof *x, hash);
    }
    hash_text(hash, text);
    return said && strcmp(said, text) == 0;
}

qnt_status qnti_fisher_finished(struct qnt_plan *plan, size_t block, bool *finished)
{
    struct qnti_safetensors *file;
    char *path;
    bool there;
    qnt_status status;
    *finished = false;
    if (!qnti_fisher_roles(plan, block))
        return QNT_OK;
    QNT_TRY(qnti_block_path(plan, block, "fisher.safetensors", &path));
    there = qnti_path_exists(path);
    qnti_free(plan->ctx, path);
    if (!there)
        return QNT_OK;
    status = qnti_fisher_open(plan, block, &file);
    if (status != QNT_OK)
        return status == QNT_NO_MEMORY ? status : QNT_OK; /* what cannot be read is made again */
    *finished = is_whole(plan, block, file);
    qnti_safetensors_close(file);
    return QNT_OK;
}
