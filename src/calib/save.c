/*
 * save.c - calibrations to the tensors of a file and back; quant/calib.h has the table of tensors.
 *
 * One table of parts (parts.c) serves both ways. A file is hostile: that the
 * parts are there which the counts promise, and have the shapes that follow
 * from the channels, is checked before anything is allocated by them; numbers
 * are checked as they are taken.
 */
#include "calib/save.h"

#include <string.h>

enum { TOKENS, SKIPPED, NEEDS, STRIDE, COUNTS = QNTI_CALIB_COUNTS };
enum { ALL_NEEDS = QNTI_NEED_MOMENTS | QNTI_NEED_HESSIAN | QNTI_NEED_PAIRS | QNTI_NEED_SAMPLES | QNTI_NEED_REPLAY };

static const uint64_t most_tokens = UINT64_C(1) << 53;   /* beyond it f64 no longer counts them */

/* --- saving --- */

static bool has_part(const struct qnt_calib *c, enum qnti_calib_part part)
{
    switch (part) {
    case QNTI_PART_HESSIAN:
        return c->hessian != NULL;
    case QNTI_PART_CROSS:
        return c->cross != NULL;
    case QNTI_PART_SAMPLES:
        return c->sample_count > 0;
    case QNTI_PART_IMPORTANCE:
        return c->importance != NULL;
    default:
        return true;
    }
}

static qnt_status join(qnt_context *ctx, const char *name, const char *suffix, char **joined)
{
    size_t n = strlen(name), m = strlen(suffix);
    QNT_TRY(QNTI_NEW_RAW(ctx, n + m + 1, joined));
    memcpy(*joined, name, n);
    memcpy(*joined + n, suffix, m + 1);
    return QNT_OK;
}

qnt_status qnti_calib_sources(const struct qnt_calib *c, const char *name, struct qnti_tensor_source *sources,
                              size_t *count)
{
    *count = 0;
    for (enum qnti_calib_part part = 0; part < QNTI_CALIB_PARTS; part++) {
        const struct qnti_calib_part_row *row = &qnti_calib_parts[part];
        struct qnti_tensor_source *s = &sources[*count];
        char *tensor;
        if (!has_part(c, part))
            continue;
        QNT_TRY(join(c->ctx, name, row->suffix, &tensor));
        *s = (struct qnti_tensor_source){.name = tensor, .dtype = row->dtype, .write = row->write,
                                         .user = (void *)(uintptr_t)c};
        s->rank = row->shape(c, s->shape);
        ++*count;
    }
    return QNT_OK;
}

void qnti_calib_sources_free(qnt_context *ctx, struct qnti_tensor_source *sources, size_t count)
{
    for (size_t i = 0; i < count; i++)
        qnti_free(ctx, (void *)(uintptr_t)sources[i].name);
}

qnt_status qnti_calib_write(qnt_context *ctx, const char *path, const struct qnti_tensor_source *sources, size_t count,
                            const char *const *notes, size_t note_count)
{
    const char **metadata;
    qnt_status status;
    QNT_TRY(QNTI_NEW(ctx, 2 * (note_count + 1), &metadata));
    metadata[0] = "quant_format";
    metadata[1] = "calibration";
    for (size_t i = 0; i < 2 * note_count; i++)
        metadata[2 + i] = notes[i];
    status = qnti_safetensors_write(ctx, path, sources, count, metadata, note_count + 1);
    qnti_free(ctx, (void *)metadata);
    return status;
}

qnt_status qnt_calib_save(qnt_context *ctx, const char *path, const qnt_named_calib *calibs, size_t count)
{
    struct qnti_tensor_source *sources;
    size_t total = 0, added;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW(ctx, count * QNTI_CALIB_PARTS, &sources));
    for (size_t i = 0; i < count && status == QNT_OK; i++) {
        status = qnti_calib_sources(calibs[i].calib, calibs[i].name, sources + total, &added);
        total += added;
    }
    if (status == QNT_OK)
        status = qnti_calib_write(ctx, path, sources, total, NULL, 0);
    qnti_calib_sources_free(ctx, sources, total);
    qnti_free(ctx, sources);
    return status;
}

/* --- loading --- */

/* Length of the site's name in a tensor's; 0: it is none of a calibration. */
static size_t site_length(const char *tensor, enum qnti_calib_part *part)
{
    size_t n = strlen(tensor);
    for (*part = 0; *part < QNTI_CALIB_PARTS; ++*part) {
        size_t m = strlen(qnti_calib_parts[*part].suffix);
        if (n > m && strcmp(tensor + n - m, qnti_calib_parts[*part].suffix) == 0)
            return n - m;
    }
    return 0;
}

static qnt_status list_names(struct qnt_calib_file *f)
{
    const char *format = qnti_safetensors_metadata(f->file, "quant_format");
    if (!format || strcmp(format, "calibration") != 0)
        return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: is no calibration file: its quant_format is %s", f->file->path,
                         format ? format : "missing");
    QNT_TRY(QNTI_NEW(f->ctx, f->file->count + 1, &f->names));
    for (size_t i = 0; i < f->file->count; i++) {
        const char *tensor = f->file->tensors[i].name;
        enum qnti_calib_part part;
        size_t n = site_length(tensor, &part);
        if (n == 0)
            return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" is no part of a calibration", f->file->path,
                             tensor);
        if (part == QNTI_PART_COUNTS)
            QNT_TRY(qnti_copy_bytes(f->ctx, tensor, n, &f->names[f->count++]));
    }
    return QNT_OK;
}

/* Takes what opened the safetensors file: it becomes the calibrations', or is closed. */
static qnt_status adopt(qnt_context *ctx, struct qnti_safetensors *tensors, qnt_calib_file **file)
{
    struct qnt_calib_file *f;
    qnt_status status = QNTI_NEW(ctx, 1, &f);
    *file = NULL;
    if (status != QNT_OK) {
        qnti_safetensors_close(tensors);
        return status;
    }
    f->ctx = ctx;
    f->file = tensors;
    QNT_CHECK(list_names(f));
    *file = f;
cleanup:
    if (status != QNT_OK)
        qnt_calib_file_close(f);
    return status;
}

qnt_status qnt_calib_file_open(qnt_context *ctx, const char *path, qnt_calib_file **file)
{
    struct qnti_safetensors *tensors;
    *file = NULL;
    QNT_TRY(qnti_safetensors_open(ctx, path, &tensors));
    return adopt(ctx, tensors, file);
}

qnt_status qnti_calib_file_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                       struct qnt_calib_file **file)
{
    struct qnti_safetensors *tensors;
    *file = NULL;
    QNT_TRY(qnti_safetensors_open_memory(ctx, name, bytes, n, &tensors));
    return adopt(ctx, tensors, file);
}

void qnt_calib_file_close(qnt_calib_file *f)
{
    if (!f)
        return;
    for (size_t i = 0; f->names && f->names[i]; i++)
        qnti_free(f->ctx, f->names[i]);
    qnti_free(f->ctx, f->names);
    qnti_safetensors_close(f->file);
    qnti_free(f->ctx, f);
}

const char *qnt_calib_file_name(const qnt_calib_file *f, size_t index)
{
    return index < f->count ? f->names[index] : NULL;
}

const char *qnti_calib_file_note(const struct qnt_calib_file *f, const char *key)
{
    return qnti_safetensors_metadata(f->file, key);
}

static qnt_status find_part(const struct qnt_calib_file *f, const char *site, enum qnti_calib_part part,
                            const struct qnti_tensor **tensor)
{
    char *name;
    QNT_TRY(join(f->ctx, site, qnti_calib_parts[part].suffix, &name));
    *tensor = qnti_safetensors_find(f->file, name);
    qnti_free(f->ctx, name);
    return QNT_OK;
}

static qnt_status read_counts(const struct qnt_calib_file *f, const struct qnti_tensor *t, uint64_t counts[COUNTS])
{
    const char *path = f->file->path;
    if (strcmp(t->dtype, "U64") != 0 || t->rank != 1 || t->shape[0] != COUNTS)
        return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\" must have %d numbers U64", path, t->name, COUNTS);
    memcpy(counts, t->data, COUNTS * sizeof *counts);
    if (counts[TOKENS] > most_tokens || counts[SKIPPED] > most_tokens)
        return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\": %llu tokens, %llu left out, at most 2^53", path,
                         t->name, (unsigned long long)counts[TOKENS], (unsigned long long)counts[SKIPPED]);
    if (counts[NEEDS] & ~(uint64_t)ALL_NEEDS || counts[STRIDE] == 0 || counts[STRIDE] > most_tokens)
        return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\": gathered %llx, stride %llu: unknown", path,
                         t->name, (unsigned long long)counts[NEEDS], (unsigned long long)counts[STRIDE]);
    return QNT_OK;
}

/* Whether a part must be there, may be, or must not. */
static bool part_fits(enum qnti_calib_part part, unsigned needs, bool there)
{
    switch (part) {
    case QNTI_PART_HESSIAN:
        return there == ((needs & QNTI_NEED_HESSIAN) != 0);
    case QNTI_PART_CROSS:
        return there == ((needs & QNTI_NEED_PAIRS) != 0);
    case QNTI_PART_SAMPLES:
        return !there || needs & (QNTI_NEED_SAMPLES | QNTI_NEED_REPLAY);
    case QNTI_PART_IMPORTANCE:
        return true;
    default:
        return there;
    }
}

static qnt_status check_shape(const struct qnt_calib_file *f, const struct qnt_calib *expected,
                              const struct qnti_calib_part_row *row, const struct qnti_tensor *t)
{
    size_t shape[2] = {0}, rank = row->shape(expected, shape);
    bool same = strcmp(t->dtype, row->dtype) == 0 && t->rank == rank;
    for (size_t i = 0; same && i < rank; i++)
        same = t->shape[i] == shape[i];
    if (same)
        return QNT_OK;
    return qnti_fail(f->ctx, QNT_BAD_DATA,
                     "%s: tensor \"%.200s\" is not of type %s and shape (%zu%s%.0zu) as %zu channels need",
                     f->file->path, t->name, row->dtype, shape[0], rank > 1 ? ", " : "", shape[1], expected->in);
}

/* Finds the parts and checks that they are those of one calibration; `c` gets its counts. */
static qnt_status find_parts(const struct qnt_calib_file *f, const char *site, struct qnt_calib *c,
                             const struct qnti_tensor *tensors[QNTI_CALIB_PARTS])
{
    uint64_t counts[COUNTS];
    for (enum qnti_calib_part part = 0; part < QNTI_CALIB_PARTS; part++)
        QNT_TRY(find_part(f, site, part, &tensors[part]));
    if (!tensors[QNTI_PART_COUNTS])
        return qnti_fail(f->ctx, QNT_NOT_FOUND, "%s: holds no calibration of %.200s", f->file->path, site);
    QNT_TRY(read_counts(f, tensors[QNTI_PART_COUNTS], counts));
    *c = (struct qnt_calib){.ctx = f->ctx, .tokens = (size_t)counts[TOKENS], .skipped = (size_t)counts[SKIPPED],
                            .needs = (unsigned)counts[NEEDS], .sample_stride = (size_t)counts[STRIDE]};
    for (enum qnti_calib_part part = 0; part < QNTI_CALIB_PARTS; part++)
        if (!part_fits(part, c->needs, tensors[part] != NULL))
            return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: %.200s%s is %s", f->file->path, site,
                             qnti_calib_parts[part].suffix,
                             tensors[part] ? "there, but its counts say otherwise" : "missing");
    if (tensors[QNTI_PART_MOMENTS]->rank == 2)
        c->in = tensors[QNTI_PART_MOMENTS]->shape[1];
    if (tensors[QNTI_PART_SAMPLES])
        c->sample_count = tensors[QNTI_PART_SAMPLES]->shape[0];
    if (c->in == 0 || c->sample_count > QNTI_MOST_SAMPLES || c->sample_count > c->tokens)
        return qnti_fail(f->ctx, QNT_BAD_DATA, "%s: %.200s has %zu channels and %zu samples of %zu tokens",
                         f->file->path, site, c->in, c->sample_count, c->tokens);
    for (enum qnti_calib_part part = 0; part < QNTI_CALIB_PARTS; part++)
        if (tensors[part])
            QNT_TRY(check_shape(f, c, &qnti_calib_parts[part], tensors[part]));
    return QNT_OK;
}

qnt_status qnti_calib_head(const struct qnt_calib_file *f, const char *name, struct qnti_calib_head *head)
{
    const struct qnti_tensor *tensors[QNTI_CALIB_PARTS];
    struct qnt_calib c;
    QNT_TRY(find_parts(f, name, &c, tensors));
    *head = (struct qnti_calib_head){c.in, c.tokens, c.needs};
    return QNT_OK;
}

qnt_status qnt_calib_load(const qnt_calib_file *f, const char *name, qnt_calib **calib)
{
    const struct qnti_tensor *tensors[QNTI_CALIB_PARTS];
    struct qnt_calib counts, *c = NULL;
    qnt_status status;
    *calib = NULL;
    QNT_TRY(find_parts(f, name, &counts, tensors));
    QNT_CHECK(qnti_calib_create(f->ctx, counts.needs, counts.in, &c));
    c->tokens = counts.tokens;
    c->skipped = counts.skipped;
    c->sample_stride = counts.sample_stride;
    c->sample_count = counts.sample_count;
    for (enum qnti_calib_part part = 0; part < QNTI_CALIB_PARTS; part++)
        if (tensors[part] && qnti_calib_parts[part].read)
            QNT_CHECK(qnti_calib_parts[part].read(&(struct qnti_calib_place){f->ctx, f->file->path, tensors[part]}, c));
    *calib = c;
cleanup:
    if (status != QNT_OK)
        qnt_calib_destroy(c);
    return status;
}
