/*
 * save.h - calibration files, for the rooms that write them site by site.
 */
#ifndef QNTI_CALIB_SAVE_H
#define QNTI_CALIB_SAVE_H

#include "calib/calib.h"
#include "file/safetensors.h"
#include <quant/calib.h>

struct qnt_calib_file {
    qnt_context *ctx;
    struct qnti_safetensors *file;
    char **names;                /* of the sites, in the order of the file */
    size_t count;
};

/* The file from n bytes, which must live as long as it. */
qnt_status qnti_calib_file_open_memory(qnt_context *ctx, const char *name, const void *bytes, size_t n,
                                       struct qnt_calib_file **file);

/* What the file says of itself under a key; NULL: nothing. */
const char *qnti_calib_file_note(const struct qnt_calib_file *file, const char *key);

/* What a site's calibration holds, without its sums. */
struct qnti_calib_head {
    size_t in, tokens;
    unsigned needs;
};
qnt_status qnti_calib_head(const struct qnt_calib_file *file, const char *name, struct qnti_calib_head *head);

/*
 * A file whose calibrations come one after the other and need not be in memory together: each is put into a file of
 * its own in the folder PATH.writing, and all are joined at the end. The disk holds them twice at that time.
 */
struct qnti_calib_writer;
qnt_status qnti_calib_writer_create(qnt_context *ctx, const char *path, struct qnti_calib_writer **writer);
qnt_status qnti_calib_writer_add(struct qnti_calib_writer *writer, const char *name, const struct qnt_calib *calib);
/* Joins what was added under `notes` (pairs of key and value), and ends the writer, also where that fails. */
qnt_status qnti_calib_writer_commit(struct qnti_calib_writer *writer, const char *const *notes, size_t note_count);
/* Removes what was written; NULL is allowed. */
void qnti_calib_writer_discard(struct qnti_calib_writer *writer);
/* The writer's folder. */
const char *qnti_calib_writer_folder(const struct qnti_calib_writer *writer);

/* --- what save.c and writer.c share --- */

enum qnti_calib_part {
    QNTI_PART_COUNTS, QNTI_PART_MOMENTS, QNTI_PART_RANGE, QNTI_PART_HESSIAN, QNTI_PART_CROSS, QNTI_PART_SAMPLES,
    QNTI_PART_IMPORTANCE,
    QNTI_CALIB_PARTS
};
enum { QNTI_CALIB_COUNTS = 4 };

/* A tensor of a file, of a calibration that is being read. */
struct qnti_calib_place {
    qnt_context *ctx;
    const char *path;
    const struct qnti_tensor *tensor;
};

struct qnti_calib_part_row {
    const char *suffix, *dtype;
    /* The shape that the calibration's channels and samples ask for; returns the rank, at most 2. */
    size_t (*shape)(const struct qnt_calib *calib, size_t *shape);
    qnt_status (*write)(void *calib, struct qnti_output *output);
    qnt_status (*read)(const struct qnti_calib_place *place, struct qnt_calib *calib);   /* NULL: not by itself */
};
extern const struct qnti_calib_part_row qnti_calib_parts[QNTI_CALIB_PARTS];

/* The tensors of one calibration, at most QNTI_CALIB_PARTS, under names of their own. */
qnt_status qnti_calib_sources(const struct qnt_calib *calib, const char *name, struct qnti_tensor_source *sources,
                              size_t *count);
void qnti_calib_sources_free(qnt_context *ctx, struct qnti_tensor_source *sources, size_t count);
/* Writes tensors as a calibration file. */
qnt_status qnti_calib_write(qnt_context *ctx, const char *path, const struct qnti_tensor_source *sources, size_t count,
                            const char *const *notes, size_t note_count);

#endif
