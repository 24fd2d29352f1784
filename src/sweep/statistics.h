/*
 * statistics.h - files of statistics: measured from a model, added, taken in place of a text.
 */
#ifndef QNTI_STATISTICS_H
#define QNTI_STATISTICS_H

#include "calib/save.h"
#include "container/imatrix.h"
#include "sweep/sweep.h"

enum qnti_statistics_kind { QNTI_CALIBRATIONS, QNTI_MATRIX_GGUF, QNTI_MATRIX_DAT };

/* By the name's suffix; QNT_INVALID with those that are known. */
qnt_status qnti_statistics_kind(qnt_context *ctx, const char *path, enum qnti_statistics_kind *kind);
/* QNT_EXISTS: something is there. */
qnt_status qnti_statistics_refuse(qnt_context *ctx, const char *path, bool force);
qnt_status qnti_statistics_bytes(qnt_context *ctx, const char *path, uint64_t *bytes);

/* The site's name: its first linear's. */
void qnti_site_name(const struct qnti_checkpoint *model, size_t block, enum qnti_site site,
                    char name[QNTI_LAYER_NAME_BYTES]);

/* QNT_INVALID: the recipe needs more than inputs of the unquantized model; says what. */
qnt_status qnti_statistics_suffice(qnt_context *ctx, const qnt_recipe *recipe);

/* What a plan takes from files. */
struct qnti_given {
    struct qnti_imatrix *matrix;        /* NULL: none; its sums are means where a linear uses them */
    const float **importance;           /* [job.count], in the matrix; NULL: nothing is known of the target */
    struct qnt_calib_file *file;        /* NULL: none */
    uint64_t matrix_hash, file_hash;    /* of their contents */
};

/*
 * What a calibration file says of itself: which model by its contents (16 hexadecimal digits each), of which texts
 * (a line each), how many windows of how many tokens.
 */
enum { QNTI_NOTE_CONFIGURATION, QNTI_NOTE_WEIGHTS, QNTI_NOTE_TEXTS, QNTI_NOTE_WINDOWS, QNTI_NOTE_SEQLEN, QNTI_NOTES };
extern const char *const qnti_notes[QNTI_NOTES];

#endif
