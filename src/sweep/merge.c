/*
 * merge.c - sums of files of statistics; see statistics.h.
 *
 * Calibrations are added one site after the other: memory holds two of one
 * site at a time, whatever the number of files.
 */
#include "sweep/statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "file/output.h"

struct merging {
    qnt_context *ctx;
    const char *const *inputs;
    size_t count;
    struct qnt_calib_file **files;    /* [count] */
    struct qnti_calib_writer *writer;
    qnt_measure_result *result;
};

/* --- calibrations --- */

static bool has_site(const struct qnt_calib_file *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->names[i], name) == 0)
            return true;
    return false;
}

/* Model and sites of a file against the first one's. */
static qnt_status check_file(const struct merging *m, size_t index)
{
    const struct qnt_calib_file *first = m->files[0], *file = m->files[index];
    for (size_t i = QNTI_NOTE_CONFIGURATION; i <= QNTI_NOTE_WEIGHTS; i++) {
        const char *a = qnti_calib_file_note(first, qnti_notes[i]), *b = qnti_calib_file_note(file, qnti_notes[i]);
        if (a && b && strcmp(a, b) != 0)
            return qnti_fail(m->ctx, QNT_INVALID, "%s is of another model than %s: their %s are %.40s and %.40s",
                             m->inputs[index], m->inputs[0], i ? "weights" : "configurations", b, a);
    }
    for (size_t i = 0; i < file->count; i++)
        if (!has_site(first, file->names[i]))
            return qnti_fail(m->ctx, QNT_INVALID, "%s: has the site %s, which %s has not", m->inputs[index],
                             file->names[i], m->inputs[0]);
    for (size_t i = 0; i < first->count; i++)
        if (!has_site(file, first->names[i]))
            return qnti_fail(m->ctx, QNT_INVALID, "%s: has no site %s, which %s has", m->inputs[index],
                             first->names[i], m->inputs[0]);
    return QNT_OK;
}

/* "moments, Hessian" */
static void gathered_text(unsigned needs, char text[64])
{
    snprintf(text, 64, "moments%s%s%s", needs & QNTI_NEED_HESSIAN ? ", Hessian" : "",
             needs & QNTI_NEED_PAIRS ? ", pairs" : "", needs & QNTI_NEED_SAMPLES ? ", samples" : "");
}

static qnt_status add(const struct merging *m, size_t index, const char *name, struct qnt_calib *sum)
{
    struct qnt_calib *c;
    char is[64], was[64];
    qnt_status status;
    QNT_TRY(qnt_calib_load(m->files[index], name, &c));
    if (c->in != sum->in)
        QNT_CHECK(qnti_fail(m->ctx, QNT_INVALID, "%s: %s has %zu channels, in %s %zu", m->inputs[index], name, c->in,
                            m->inputs[0], sum->in));
    gathered_text(c->needs, is);
    gathered_text(sum->needs, was);
    if (c->needs != sum->needs)
        QNT_CHECK(qnti_fail(m->ctx, QNT_INVALID, "%s: of %s it holds %s, %s %s", m->inputs[index], name, is,
                            m->inputs[0], was));
    status = qnt_calib_merge(sum, c);
cleanup:
    qnt_calib_destroy(c);
    return status;
}

static qnt_status merge_site(const struct merging *m, const char *name)
{
    struct qnt_calib *sum;
    qnt_status status = QNT_OK;
    QNT_TRY(qnt_calib_load(m->files[0], name, &sum));
    for (size_t i = 1; i < m->count; i++) {
        QNT_CHECK(qnti_cancelled(m->ctx));
        QNT_CHECK(add(m, i, name, sum));
    }
    QNT_CHECK(qnti_calib_writer_add(m->writer, name, sum));
    m->result->sites++;
    m->result->tokens += sum->tokens;
    m->result->skipped += sum->skipped;
cleanup:
    qnt_calib_destroy(sum);
    return status;
}

static const char *note_of(const struct merging *m, size_t file, size_t note)
{
    const char *text = qnti_calib_file_note(m->files[file], qnti_notes[note]);
    return text ? text : "";
}

static bool has_line(const char *lines, const char *line)
{
    size_t n = strlen(line);
    for (const char *at = lines; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        if (strncmp(at, line, n) == 0 && (at[n] == 0 || at[n] == '\n'))
            return true;
    return false;
}

/* A line for each text, the same one once. */
static qnt_status join_texts(const struct merging *m, struct qnti_buffer *texts)
{
    QNT_TRY(qnti_buffer_print(m->ctx, texts, "%s", note_of(m, 0, QNTI_NOTE_TEXTS)));
    for (size_t i = 1; i < m->count; i++) {
        const char *text = note_of(m, i, QNTI_NOTE_TEXTS);
        if (!has_line(texts->data, text))
            QNT_TRY(qnti_buffer_print(m->ctx, texts, "%s%s", texts->bytes ? "\n" : "", text));
    }
    return QNT_OK;
}

static qnt_status write_sum(struct merging *m)
{
    struct qnti_buffer texts = {0};
    struct qnti_calib_writer *writer = m->writer;
    const char *notes[2 * QNTI_NOTES];
    char windows[24];
    bool same = true;
    qnt_status status;
    for (size_t i = 0; i < m->count; i++) {
        m->result->windows += strtoul(note_of(m, i, QNTI_NOTE_WINDOWS), NULL, 10);
        same = same && strcmp(note_of(m, i, QNTI_NOTE_SEQLEN), note_of(m, 0, QNTI_NOTE_SEQLEN)) == 0;
    }
    m->result->seqlen = same ? strtoul(note_of(m, 0, QNTI_NOTE_SEQLEN), NULL, 10) : 0;
    snprintf(windows, sizeof windows, "%zu", m->result->windows);
    QNT_CHECK(join_texts(m, &texts));
    for (size_t i = 0; i < QNTI_NOTES; i++) {
        notes[2 * i] = qnti_notes[i];
        notes[2 * i + 1] = note_of(m, 0, i);
    }
    notes[2 * QNTI_NOTE_TEXTS + 1] = texts.data;
    notes[2 * QNTI_NOTE_WINDOWS + 1] = windows;
    notes[2 * QNTI_NOTE_SEQLEN + 1] = same ? note_of(m, 0, QNTI_NOTE_SEQLEN) : "several";
    m->writer = NULL; /* ended by the commit */
    status = qnti_calib_writer_commit(writer, notes, QNTI_NOTES);
cleanup:
    qnti_buffer_free(m->ctx, &texts);
    return status;
}

static qnt_status merge_calibrations(struct merging *m, const char *output)
{
    qnt_status status;
    QNT_TRY(QNTI_NEW(m->ctx, m->count, &m->files));
    for (size_t i = 0; i < m->count; i++)
        QNT_CHECK(qnt_calib_file_open(m->ctx, m->inputs[i], &m->files[i]));
    for (size_t i = 1; i < m->count; i++)
        QNT_CHECK(check_file(m, i));
    QNT_CHECK(qnti_calib_writer_create(m->ctx, output, &m->writer));
    for (size_t i = 0; i < m->files[0]->count; i++)
        QNT_CHECK(merge_site(m, m->files[0]->names[i]));
    status = write_sum(m);
cleanup:
    qnti_calib_writer_discard(m->writer);
    for (size_t i = 0; i < m->count; i++)
        qnt_calib_file_close(m->files[i]);
    qnti_free(m->ctx, m->files);
    return status;
}

/* --- importance matrices --- */

static qnt_status add_matrix(const struct merging *m, size_t index, struct qnti_imatrix *sum)
{
    struct qnti_imatrix *matrix;
    qnt_status status;
    QNT_TRY(qnti_imatrix_open(m->ctx, m->inputs[index], &matrix));
    status = qnti_imatrix_merge(sum, matrix, m->inputs[index]);
    qnti_imatrix_close(matrix);
    return status;
}

static qnt_status merge_matrices(const struct merging *m, enum qnti_imatrix_kind kind, const char *output)
{
    struct qnti_imatrix *sum;
    qnt_status status;
    QNT_TRY(qnti_imatrix_open(m->ctx, m->inputs[0], &sum));
    if (sum->kind != kind)
        QNT_CHECK(qnti_fail(m->ctx, QNT_INVALID, "%s is not the kind of file that %s is named as", m->inputs[0],
                            output));
    for (size_t i = 1; i < m->count; i++)
        QNT_CHECK(add_matrix(m, i, sum));
    QNT_CHECK(qnti_imatrix_write(sum, output));
    m->result->sites = sum->count;
    m->result->windows = sum->chunks;
    m->result->seqlen = sum->chunk_size;
    for (size_t i = 0; i < sum->count && kind == QNTI_IMATRIX_GGUF; i++)
        m->result->tokens += (uint64_t)sum->entries[i].counts[0];
cleanup:
    qnti_imatrix_close(sum);
    return status;
}

qnt_status qnt_statistics_merge(qnt_context *ctx, const char *const *inputs, size_t count, const char *output,
                                bool force, qnt_measure_result *result)
{
    struct merging m = {.ctx = ctx, .inputs = inputs, .count = count, .result = result};
    enum qnti_statistics_kind kind;
    *result = (qnt_measure_result){0};
    if (count == 0)
        return qnti_fail(ctx, QNT_INVALID, "no file to be merged into %s", output);
    QNT_TRY(qnti_statistics_kind(ctx, output, &kind));
    QNT_TRY(qnti_statistics_refuse(ctx, output, force));
    if (kind == QNTI_CALIBRATIONS)
        QNT_TRY(merge_calibrations(&m, output));
    else
        QNT_TRY(merge_matrices(&m, kind == QNTI_MATRIX_GGUF ? QNTI_IMATRIX_GGUF : QNTI_IMATRIX_DAT, output));
    return qnti_statistics_bytes(ctx, output, &result->bytes);
}
