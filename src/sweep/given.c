/*
 * given.c - statistics that a plan takes from files: importances of an imatrix, calibrations in place of a text.
 *
 * An importance matrix is matched by GGUF's names or Hugging Face's. What it
 * does not have is named in a warning; what does not fit is an error. From a
 * calibration file every site takes what was measured on the unquantized
 * model, and no token goes through the model.
 */
#include "sweep/statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "file/output.h"

/* --- what recipes can do with statistics of the unquantized model --- */

qnt_status qnti_statistics_suffice(qnt_context *ctx, const qnt_recipe *recipe)
{
    unsigned needs = qnti_recipe_needs(recipe);
    if (needs & QNTI_NEED_PAIRS)
        return qnti_fail(ctx, QNT_INVALID, "recipe %s needs inputs of the quantized model beside those of the "
                         "unquantized one: statistics gathered before cannot have them, it needs the text",
                         qnt_recipe_text(recipe));
    if (needs & QNTI_NEED_REPLAY)
        return qnti_fail(ctx, QNT_INVALID, "recipe %s needs the tokens once more behind its earlier stages: a file of "
                         "statistics does not have them, it needs the text", qnt_recipe_text(recipe));
    if (needs & QNTI_NEED_FISHER)
        return qnti_fail(ctx, QNT_INVALID, "recipe %s needs Fisher information, which statistics of inputs do not "
                         "have: it needs the text, or weighting=importance", qnt_recipe_text(recipe));
    return QNT_OK;
}

/* --- importance --- */

/* An entry under one of the linear's names; NULL: none. */
static qnt_status find_entry(const struct qnt_plan *plan, const struct qnti_target *t,
                             const struct qnti_imatrix_entry **entry)
{
    const struct qnti_imatrix *matrix = plan->given->matrix;
    struct qnti_buffer name = {0};
    char layer[QNTI_LAYER_NAME_BYTES];
    qnt_status status;
    QNT_CHECK(qnti_buffer_print(plan->ctx, &name, qnti_gguf_names[t->role], t->block));
    QNT_CHECK(qnti_buffer_add(plan->ctx, &name, ".weight", strlen(".weight")));
    qnti_layer_name(t, layer);
    *entry = qnti_imatrix_find(matrix, name.data);
    if (!*entry)
        *entry = qnti_imatrix_find(matrix, t->source->name);
    if (!*entry)
        *entry = qnti_imatrix_find(matrix, layer);
cleanup:
    qnti_buffer_free(plan->ctx, &name);
    return status;
}

/* Sums become means. */
static void take_means(struct qnti_imatrix_entry *e)
{
    for (size_t i = 0; i < e->in; i++)
        e->sums[i] /= e->counts[0];
}

static bool says_something(const struct qnti_imatrix_entry *e)
{
    bool positive = false;
    for (size_t i = 0; e && i < e->in; i++)
        positive = positive || e->sums[i] > 0;
    return positive && e->counts[0] > 0;
}

/* Linears without an importance, for the warning. */
struct missing {
    struct qnti_buffer names;
    size_t count, of;
};

static qnt_status miss(const struct qnt_plan *plan, struct missing *missing, const char *name)
{
    enum { NAMED = 3 };
    if (missing->count++ >= NAMED)
        return QNT_OK;
    return qnti_buffer_print(plan->ctx, &missing->names, "%s%s", missing->names.bytes ? ", " : "", name);
}

static qnt_status match_target(struct qnt_plan *plan, size_t index, struct missing *missing)
{
    const struct qnti_target *t = &plan->job.targets[index];
    const struct qnti_imatrix_entry *e;
    QNT_TRY(find_entry(plan, t, &e));
    missing->of++;
    if (e && e->in * e->matrices != t->source->cols)
        return qnti_fail(plan->ctx, QNT_INVALID, "%s: %s has %zu channels, the layer %s %zu", plan->options.importance,
                         e->name, e->in * e->matrices, t->source->name, t->source->cols);
    if (!says_something(e))
        return miss(plan, missing, t->source->name);
    take_means((struct qnti_imatrix_entry *)(uintptr_t)e);
    plan->given->importance[index] = e->sums;
    return QNT_OK;
}

static qnt_status match_targets(struct qnt_plan *plan)
{
    struct missing missing = {{0}, 0, 0};
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(plan->ctx, plan->job.count, &plan->given->importance));
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t])
            QNT_CHECK(match_target(plan, t, &missing));
    if (missing.count && missing.count == missing.of)
        status = qnti_fail(plan->ctx, QNT_INVALID,
                           "%s: has something for none of the %zu linears of %s (is it of another model?)",
                           plan->options.importance, missing.of, plan->job.source->path);
    else if (missing.count)
        qnti_log(plan->ctx, QNT_LOG_WARNING, "%s: has nothing for %zu of %zu linears, which it does not help: %s%s",
                 plan->options.importance, missing.count, missing.of, missing.names.data,
                 missing.count > 3 ? " ..." : "");
cleanup:
    qnti_buffer_free(plan->ctx, &missing.names);
    return status;
}

static qnt_status hash_file(qnt_context *ctx, const char *path, uint64_t *hash)
{
    void *map;
    size_t bytes;
    QNT_TRY(qnti_map_file(ctx, path, &map, &bytes));
    *hash = XXH3_64bits(map, bytes);
    qnti_unmap_file(map, bytes);
    return QNT_OK;
}

static qnt_status open_matrix(struct qnt_plan *plan)
{
    const char *path = plan->options.importance;
    if (qnti_recipe_transforms(plan->recipe))
        return qnti_fail(plan->ctx, QNT_INVALID,
                         "%s: recipe %s transforms inputs, their importance is then another one and comes from the "
                         "calibration: leave --imatrix out", path, plan->job.recipe);
    QNT_TRY(hash_file(plan->ctx, path, &plan->given->matrix_hash));
    QNT_TRY(qnti_imatrix_open(plan->ctx, path, &plan->given->matrix));
    return match_targets(plan);
}

const float *qnti_given_importance(const struct qnt_plan *plan, size_t target)
{
    return plan->given && plan->given->importance ? plan->given->importance[target] : NULL;
}

qnt_status qnti_given_apply(const struct qnt_plan *plan, size_t target, qnt_calib *calib)
{
    const float *importance = qnti_given_importance(plan, target);
    if (importance)
        return qnt_calib_set_importance(calib, importance);
    if (plan->given && plan->given->matrix) { /* of another linear of the site */
        qnti_free(plan->ctx, calib->importance);
        calib->importance = NULL;
    }
    return QNT_OK;
}

/* --- calibrations --- */

bool qnti_is_statistics(const char *path)
{
    size_t n = path ? strlen(path) : 0, m = strlen(".safetensors");
    return n > m && strcmp(path + n - m, ".safetensors") == 0;
}

static enum qnti_site site_of(const struct qnti_config *config, enum qnti_role role)
{
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        for (const enum qnti_role *r = qnti_site_roles(config, site); *r != QNTI_ROLES; r++)
            if (*r == role)
                return site;
    return QNTI_SITES;
}

/* The file has what the target's recipe needs, of as many channels. */
static qnt_status check_target(const struct qnt_plan *plan, size_t index)
{
    const struct qnti_target *t = &plan->job.targets[index];
    unsigned wanted = qnti_recipe_needs(plan->recipes[index]) & QNTI_GATHERED, missing;
    bool samples = qnti_recipe_inputs_needs(plan->recipes[index]) & QNTI_NEED_SAMPLES; /* others can do without */
    const char *path = plan->options.calibration;
    char name[QNTI_LAYER_NAME_BYTES];
    struct qnti_calib_head head;
    QNT_TRY(qnti_statistics_suffice(plan->ctx, plan->recipes[index]));
    qnti_site_name(plan->job.source, t->block, site_of(&plan->job.source->config, t->role), name);
    QNT_TRY(qnti_calib_head(plan->given->file, name, &head));
    if (head.in != t->source->cols)
        return qnti_fail(plan->ctx, QNT_INVALID, "%s: %s has %zu channels, the layer %s %zu", path, name, head.in,
                         t->source->name, t->source->cols);
    missing = wanted & ~(head.needs | QNTI_NEED_MOMENTS | (samples ? 0 : QNTI_NEED_SAMPLES));
    if (missing)
        return qnti_fail(plan->ctx, QNT_INVALID,
                         "%s: of %s it holds no %s, which recipe %s needs; gather it by quant calib --method %s",
                         path, name, missing == QNTI_NEED_SAMPLES ? "samples" : "Hessian",
                         qnt_recipe_text(plan->recipes[index]), plan->job.recipe);
    return QNT_OK;
}

static qnt_status open_calibrations(struct qnt_plan *plan)
{
    struct qnti_given *given = plan->given;
    const char *path = plan->options.calibration;
    QNT_TRY(qnti_statistics_suffice(plan->ctx, plan->recipe));
    QNT_TRY(qnt_calib_file_open(plan->ctx, path, &given->file));
    given->file_hash = XXH3_64bits(given->file->file->map, given->file->file->bytes);
    for (size_t t = 0; t < plan->job.count; t++)
        if (plan->recipes[t])
            QNT_TRY(check_target(plan, t));
    if (qnti_recipe_transform_needs(plan->recipe) & QNTI_NEED_SAMPLES)
        qnti_log(plan->ctx, QNT_LOG_WARNING, "%s has no sequences of tokens: recipe %s takes the error of the linears, "
                 "not that behind attention and mlp", path, plan->job.recipe);
    return QNT_OK;
}

static void compare_note(const struct qnt_plan *plan, size_t note, const char *what, uint64_t is)
{
    const char *was = qnti_calib_file_note(plan->given->file, qnti_notes[note]);
    char text[24];
    snprintf(text, sizeof text, "%016" PRIx64, is);
    if (was && strcmp(was, text) != 0)
        qnti_log(plan->ctx, QNT_LOG_WARNING, "%s was measured on a model of other %s: %.40s, not %s",
                 plan->options.calibration, what, was, text);
}

qnt_status qnti_given_compare(const struct qnt_plan *plan)
{
    uint64_t configuration;
    if (!plan->given || !plan->given->file)
        return QNT_OK;
    QNT_TRY(qnti_checkpoint_fingerprint(plan->model->checkpoint, &configuration));
    compare_note(plan, QNTI_NOTE_CONFIGURATION, "configuration", configuration);
    compare_note(plan, QNTI_NOTE_WEIGHTS, "weights", plan->model->weights_hash);
    return QNT_OK;
}

qnt_status qnti_given_calib(const struct qnt_plan *plan, size_t block, enum qnti_site site, qnt_calib **calib)
{
    char name[QNTI_LAYER_NAME_BYTES];
    *calib = NULL;
    if (!plan->given)
        return QNT_OK;
    if (!plan->given->file)
        return qnti_calib_create(plan->ctx, QNTI_NEED_MOMENTS, qnti_site_width(&plan->job.source->config, site), calib);
    qnti_site_name(plan->job.source, block, site, name);
    return qnt_calib_load(plan->given->file, name, calib);
}

/* --- both --- */

qnt_status qnti_given_open(struct qnt_plan *plan)
{
    bool file = qnti_is_statistics(plan->options.calibration);
    if (!file && !plan->options.importance)
        return QNT_OK;
    if (!plan->recipe)
        return qnti_fail(plan->ctx, QNT_INVALID, "%s: method none has no use for statistics",
                         file ? plan->options.calibration : plan->options.importance);
    if (plan->rotated)
        return qnti_fail(plan->ctx, QNT_UNSUPPORTED,
                         "%s is of the model's own channels, but recipe %s mixes them: give it a text",
                         file ? plan->options.calibration : plan->options.importance, plan->job.recipe);
    QNT_TRY(QNTI_NEW(plan->ctx, 1, &plan->given));
    if (file)
        QNT_TRY(open_calibrations(plan));
    return plan->options.importance ? open_matrix(plan) : QNT_OK;
}

void qnti_given_close(struct qnt_plan *plan)
{
    if (!plan->given)
        return;
    qnti_imatrix_close(plan->given->matrix);
    qnt_calib_file_close(plan->given->file);
    qnti_free(plan->ctx, (void *)plan->given->importance);
    qnti_free(plan->ctx, plan->given);
    plan->given = NULL;
}
