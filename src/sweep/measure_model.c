/*
 * measure_model.c - statistics of all sites of a model in one pass of a text, to a file.
 *
 * Inputs are those of the unquantized model. Calibrations leave memory block
 * by block; an importance matrix is small and gathered in memory. Windows are
 * cut as for quantizing, which is as llama.cpp's imatrix cuts them: the first
 * token of each is BOS where the tokenizer adds one, and all tokens count.
 */
#include "sweep/statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "base/clock.h"
#include "calib/calib.h"
#include "file/output.h"

const char *const qnti_notes[QNTI_NOTES] = {"model_configuration", "model_weights", "texts", "windows", "seqlen"};

struct gathering {
    qnt_context *ctx;
    qnt_model *handle;
    const struct qnti_checkpoint *model;
    const qnt_measure_options *options;
    enum qnti_statistics_kind kind;
    unsigned needs;
    struct qnti_windows windows;
    struct qnti_spill x;         /* [windows][tokens][hidden] */
    struct qnti_workspace *workspace;
    struct qnti_calib_writer *writer;   /* of calibrations */
    struct qnti_imatrix *matrix;        /* else */
    qnt_measure_result *result;
    double began;
};

/* --- files --- */

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && strcmp(path + n - m, suffix) == 0;
}

qnt_status qnti_statistics_kind(qnt_context *ctx, const char *path, enum qnti_statistics_kind *kind)
{
    static const char *const suffixes[] = {".safetensors", ".gguf", ".dat"};
    for (*kind = QNTI_CALIBRATIONS; *kind <= QNTI_MATRIX_DAT; ++*kind)
        if (has_suffix(path, suffixes[*kind]))
            return QNT_OK;
    return qnti_fail(ctx, QNT_INVALID,
                     "%s: its name must end in .safetensors (calibrations), .gguf or .dat (importance matrices)", path);
}

qnt_status qnti_statistics_refuse(qnt_context *ctx, const char *path, bool force)
{
    if (!force && qnti_path_exists(path))
        return qnti_fail(ctx, QNT_EXISTS, "%s is already there; --force replaces it", path);
    return QNT_OK;
}

qnt_status qnti_statistics_bytes(qnt_context *ctx, const char *path, uint64_t *bytes)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return qnti_fail(ctx, QNT_IO, "%s: is gone", path);
    *bytes = (uint64_t)info.st_size;
    return QNT_OK;
}

void qnti_site_name(const struct qnti_checkpoint *model, size_t block, enum qnti_site site,
                    char name[QNTI_LAYER_NAME_BYTES])
{
    const struct qnti_weight *w = qnti_checkpoint_weight(model, block, qnti_site_roles(&model->config, site)[0]);
    qnti_layer_name(&(struct qnti_target){.source = w}, name);
}

/* --- what is wanted --- */

static qnt_status check_options(struct gathering *g)
{
    const qnt_measure_options *o = g->options;
    if (o->size && o->size != sizeof *o)
        return qnti_fail(g->ctx, QNT_INVALID, "qnt_measure_options of %zu bytes, this version's has %zu", o->size,
                         sizeof *o);
    if (!o->output || !o->calibration)
        return qnti_fail(g->ctx, QNT_INVALID, "measuring needs a text and an output");
    QNT_TRY(qnti_statistics_kind(g->ctx, o->output, &g->kind));
    QNT_TRY(qnti_refuse_same(g->ctx, g->model->path, o->output));
    return qnti_statistics_refuse(g->ctx, o->output, o->force);
}

/* A recipe's needs; those that inputs of the unquantized model cannot serve are refused. */
static qnt_status needs_of_recipe(struct gathering *g)
{
    qnt_recipe *recipe;
    qnt_status status;
    QNT_TRY(qnt_recipe_parse(g->ctx, g->options->method, &recipe));
    status = qnti_statistics_suffice(g->ctx, recipe);
    g->needs = QNTI_NEED_MOMENTS | qnti_recipe_needs(recipe);
    qnt_recipe_destroy(recipe);
    return status;
}

static qnt_status find_needs(struct gathering *g)
{
    bool matrix = g->kind != QNTI_CALIBRATIONS;
    g->needs = matrix ? QNTI_NEED_MOMENTS : QNTI_NEED_MOMENTS | QNTI_NEED_HESSIAN;
    if (!g->options->method)
        return QNT_OK;
    if (matrix)
        return qnti_fail(g->ctx, QNT_INVALID, "%s: an importance matrix is the same for every method (%s)",
                         g->options->output, g->options->method);
    return needs_of_recipe(g);
}

static qnt_status cut_windows(struct gathering *g)
{
    const qnt_measure_options *o = g->options;
    const qnt_quantize_options windows = {.calibration = o->calibration, .samples = o->samples, .seqlen = o->seqlen,
                                          .all_samples = o->all_samples, .random_windows = o->random_windows,
                                          .seed = o->seed};
    return qnti_windows_create(g->handle, &windows, &g->windows);
}

/* --- memory --- */

/* All but the residual stream: the block, its calibrations, a window in hand, each thread's buffers. */
static uint64_t working_bytes(const struct gathering *g)
{
    enum { PROCESS_BYTES = 24 << 20, THREAD_BYTES = 24 << 20 };
    const struct qnti_config *c = &g->model->config;
    uint64_t threads = qnti_max((size_t)qnt_context_threads(g->ctx), 1), tokens = g->windows.tokens;
    uint64_t bytes = PROCESS_BYTES + threads * (THREAD_BYTES + 4 * tokens * tokens);
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        uint64_t in = qnti_site_width(c, site);
        bytes += 4 * 2 * tokens * in + sizeof(struct qnti_channel_moments) * in;
        bytes += g->needs & QNTI_NEED_HESSIAN ? 4 * in * (in + 1) : 0;
        bytes += g->needs & QNTI_NEED_SAMPLES ? 4 * QNTI_MOST_SAMPLES * in : 0;
    }
    for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(g->model, 0, role);
        bytes += w ? 4 * (uint64_t)w->rows * w->cols : 0;
    }
    return bytes;
}

/* The output's folder: a file without a name is made there. */
static qnt_status spill_folder(const struct gathering *g, char **folder)
{
    const char *slash = strrchr(g->options->output, '/');
    if (!slash)
        return qnti_copy_string(g->ctx, ".", folder);
    return qnti_copy_bytes(g->ctx, g->options->output, (size_t)(slash - g->options->output) + 1, folder);
}

/* The residual stream: in memory if that is allowed, else in a file. */
static qnt_status create_stream(struct gathering *g)
{
    size_t n = g->windows.count * g->windows.tokens * g->model->config.hidden;
    uint64_t limit = g->options->max_ram, working = working_bytes(g);
    char *folder;
    qnt_status status;
    if (limit && working > limit)
        return qnti_fail(g->ctx, QNT_INVALID, "max_ram of %" PRIu64 " bytes is not enough: with activations in a file "
                         "measuring needs %" PRIu64, limit, working);
    if (!limit || working + 4 * (uint64_t)n <= limit)
        return qnti_spill_create(g->ctx, NULL, n, &g->x);
    QNT_TRY(spill_folder(g, &folder));
    status = qnti_spill_create(g->ctx, folder, n, &g->x);
    qnti_free(g->ctx, folder);
    return status;
}

/* --- the pass --- */

static void progress(const struct gathering *g, const char *phase, const char *item, double share)
{
    qnt_progress p = {.phase = phase, .item = item, .share = share, .seconds = qnti_seconds() - g->began};
    p.seconds_left = share > 0.02 ? p.seconds * (1 - share) / share : -1;
    if (g->options->progress)
        g->options->progress(g->options->progress_user, &p);
}

static qnt_status embed(struct gathering *g)
{
    size_t tokens = g->windows.tokens, n = tokens * g->model->config.hidden;
    for (size_t w = 0; w < g->windows.count; w++) {
        QNT_TRY(qnti_embed(g->model, g->windows.ids + w * tokens, tokens, 0, g->x.data + w * n));
        qnti_spill_done(&g->x, w * n, n);
    }
    return QNT_OK;
}

/* GGUF's name of a linear. */
static qnt_status matrix_name(const struct gathering *g, size_t block, enum qnti_role role, struct qnti_buffer *name)
{
    name->bytes = 0;
    QNT_TRY(qnti_buffer_print(g->ctx, name, qnti_gguf_names[role], block));
    return qnti_buffer_add(g->ctx, name, ".weight", strlen(".weight"));
}

/* The same sums for each linear of the site; a .dat has means, times the windows. */
static qnt_status add_to_matrix(struct gathering *g, size_t block, enum qnti_site site, const struct qnt_calib *c)
{
    size_t calls = qnti_ceil_div(c->tokens, g->windows.tokens);
    const enum qnti_role *roles = qnti_site_roles(&g->model->config, site);
    bool dat = g->kind == QNTI_MATRIX_DAT;
    double factor = dat && c->tokens ? (double)calls / (double)c->tokens : 1;
    float count = (float)(dat ? calls : c->tokens), *sums;
    struct qnti_buffer name = {0};
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(g->ctx, c->in, &sums));
    for (size_t i = 0; i < c->in; i++)
        sums[i] = (float)(factor * c->moments[i].sum_square);
    for (size_t i = 0; status == QNT_OK && roles[i] != QNTI_ROLES; i++) {
        status = matrix_name(g, block, roles[i], &name);
        if (status == QNT_OK)
            status = qnti_imatrix_add(g->matrix, name.data, c->in, 1, sums, &count);
    }
    qnti_buffer_free(g->ctx, &name);
    qnti_free(g->ctx, sums);
    return status;
}

static qnt_status record(struct gathering *g, size_t block, enum qnti_site site, const struct qnt_calib *c)
{
    char name[QNTI_LAYER_NAME_BYTES];
    qnti_site_name(g->model, block, site, name);
    g->result->tokens += c->tokens;
    g->result->skipped += c->skipped;
    g->result->sites++;
    if (c->skipped)
        qnti_log(g->ctx, QNT_LOG_WARNING, "%s: %zu of %zu inputs were not finite and left out", name, c->skipped,
                 c->skipped + c->tokens);
    return g->writer ? qnti_calib_writer_add(g->writer, name, c) : add_to_matrix(g, block, site, c);
}

static qnt_status measure_block(struct gathering *g, size_t index)
{
    struct qnti_block block = {0};
    struct qnti_measure m = {.block = &block, .workspace = g->workspace, .x = &g->x, .windows = g->windows.count,
                             .tokens = g->windows.tokens, .step = 1, .advance = true};
    qnt_status status;
    QNT_CHECK(qnti_block_load(g->model, index, &block));
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        QNT_CHECK(qnti_calib_create(g->ctx, g->needs, qnti_site_width(&g->model->config, site), &m.calib[site]));
    QNT_CHECK(qnti_measure_block(&m));
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        QNT_CHECK(record(g, index, site, m.calib[site]));
        qnt_calib_destroy(m.calib[site]);
        m.calib[site] = NULL;
    }
cleanup:
    for (enum qnti_site site = 0; site < QNTI_SITES; site++)
        qnt_calib_destroy(m.calib[site]);
    qnti_block_free(&block);
    return status;
}

static qnt_status measure_blocks(struct gathering *g)
{
    size_t blocks = g->model->config.blocks;
    char name[QNTI_LAYER_NAME_BYTES];
    progress(g, "check", "", 0);
    QNT_TRY(qnti_model_check(g->handle));
    QNT_TRY(create_stream(g));
    QNT_TRY(qnti_workspace_create(g->model, g->windows.tokens, &g->workspace));
    QNT_TRY(embed(g));
    for (size_t b = 0; b < blocks; b++) {
        qnti_site_name(g->model, b, QNTI_SITE_QKV, name);
        progress(g, "measure", name, 0.02 + 0.93 * (double)b / (double)blocks);
        QNT_TRY(measure_block(g, b));
    }
    progress(g, "write", "", 0.95);
    return QNT_OK;
}

/* --- the file --- */

/* Of all calibrations, but for names and the like. */
static uint64_t calibrations_bytes(const struct gathering *g)
{
    uint64_t bytes = 0;
    for (enum qnti_site site = 0; site < QNTI_SITES; site++) {
        uint64_t in = qnti_site_width(&g->model->config, site);
        bytes += 32 * in + (g->needs & QNTI_NEED_HESSIAN ? 4 * in * (in + 1) : 0);
        bytes += g->needs & QNTI_NEED_SAMPLES ? 4 * QNTI_MOST_SAMPLES * in : 0;
    }
    return bytes * g->model->config.blocks;
}

/* The writer needs them twice. */
static qnt_status check_disk(const struct gathering *g)
{
    uint64_t needed = 2 * calibrations_bytes(g), room;
    QNT_TRY(qnti_free_disk(g->ctx, g->options->output, &room));
    if (room >= needed)
        return QNT_OK;
    return qnti_fail(g->ctx, QNT_IO, "%s: %" PRIu64 " bytes are free, the calibrations need %" PRIu64,
                     g->options->output, room, needed);
}

static qnt_status open_output(struct gathering *g)
{
    if (g->kind == QNTI_CALIBRATIONS) {
        QNT_TRY(check_disk(g));
        return qnti_calib_writer_create(g->ctx, g->options->output, &g->writer);
    }
    QNT_TRY(qnti_imatrix_create(g->ctx, &g->matrix));
    g->matrix->kind = g->kind == QNTI_MATRIX_GGUF ? QNTI_IMATRIX_GGUF : QNTI_IMATRIX_DAT;
    g->matrix->chunks = g->windows.count;
    g->matrix->chunk_size = g->windows.tokens;
    return qnti_imatrix_add_text(g->matrix, g->options->calibration, strlen(g->options->calibration));
}

static qnt_status write_calibrations(struct gathering *g)
{
    enum { DIGITS = 24 };
    struct qnti_calib_writer *writer = g->writer;
    char text[QNTI_NOTES][DIGITS];
    const char *notes[2 * QNTI_NOTES];
    uint64_t fingerprint;
    QNT_TRY(qnti_checkpoint_fingerprint(g->model, &fingerprint));
    snprintf(text[QNTI_NOTE_CONFIGURATION], DIGITS, "%016" PRIx64, fingerprint);
    snprintf(text[QNTI_NOTE_WEIGHTS], DIGITS, "%016" PRIx64, g->handle->weights_hash);
    snprintf(text[QNTI_NOTE_WINDOWS], DIGITS, "%zu", g->windows.count);
    snprintf(text[QNTI_NOTE_SEQLEN], DIGITS, "%zu", g->windows.tokens);
    for (size_t i = 0; i < QNTI_NOTES; i++) {
        notes[2 * i] = qnti_notes[i];
        notes[2 * i + 1] = i == QNTI_NOTE_TEXTS ? g->options->calibration : text[i];
    }
    g->writer = NULL; /* ended by the commit */
    return qnti_calib_writer_commit(writer, notes, QNTI_NOTES);
}

static qnt_status write_matrix(struct gathering *g)
{
    g->result->sites = g->matrix->count;
    QNT_TRY(qnti_imatrix_sort(g->matrix, g->options->output));
    return qnti_imatrix_write(g->matrix, g->options->output);
}

static qnt_status gather(struct gathering *g)
{
    QNT_TRY(check_options(g));
    QNT_TRY(find_needs(g));
    QNT_TRY(cut_windows(g));
    g->result->windows = g->windows.count;
    g->result->seqlen = g->windows.tokens;
    QNT_TRY(open_output(g));
    QNT_TRY(measure_blocks(g));
    QNT_TRY(g->writer ? write_calibrations(g) : write_matrix(g));
    progress(g, "write", "", 1);
    return qnti_statistics_bytes(g->ctx, g->options->output, &g->result->bytes);
}

qnt_status qnt_model_measure(qnt_model *model, const qnt_measure_options *options, qnt_measure_result *result)
{
    struct gathering g = {.ctx = model->checkpoint->ctx, .handle = model, .model = model->checkpoint,
                          .options = options, .result = result, .began = qnti_seconds()};
    qnt_status status;
    *result = (qnt_measure_result){0};
    status = gather(&g);
    qnti_calib_writer_discard(g.writer);
    qnti_imatrix_close(g.matrix);
    qnti_workspace_free(g.workspace);
    qnti_spill_free(&g.x);
    qnti_free(g.ctx, g.windows.ids);
    return status;
}
