/*
 * imatrix_write.c - importance matrices as llama.cpp writes them; see imatrix.h for the two formats.
 */
#include "container/imatrix.h"

#include <stdio.h>
#include <string.h>
#include "container/gguf.h"
#include "file/output.h"

/* --- GGUF --- */

static qnt_status write_sums(void *user, struct qnti_output *output)
{
    const struct qnti_imatrix_entry *e = user;
    return qnti_output_write(output, e->sums, e->matrices * e->in * sizeof *e->sums);
}

static qnt_status write_counts(void *user, struct qnti_output *output)
{
    const struct qnti_imatrix_entry *e = user;
    return qnti_output_write(output, e->counts, e->matrices * sizeof *e->counts);
}

static qnt_status add_tensor(struct qnti_gguf_writer *w, struct qnti_imatrix_entry *e, const char *suffix, size_t cols,
                             qnt_status (*write)(void *user, struct qnti_output *output))
{
    size_t ne[2] = {cols, e->matrices}, n = strlen(e->name) + strlen(suffix) + 1;
    char *name;
    qnt_status status;
    QNT_TRY(QNTI_NEW(w->ctx, n, &name));
    snprintf(name, n, "%s%s", e->name, suffix);
    status = qnti_gguf_add_tensor(w, name, e->matrices > 1 ? 2 : 1, ne, 0, cols * e->matrices * sizeof(float), write,
                                  e);
    qnti_free(w->ctx, name);
    return status;
}

static qnt_status put_texts(struct qnti_gguf_writer *w, const struct qnti_imatrix *m)
{
    static const char *const nothing[] = {""};   /* llama.cpp wants the key */
    const char *const *texts = m->text_count ? (const char *const *)m->texts : nothing;
    size_t n = qnti_max(m->text_count, 1), *lengths;
    qnt_status status;
    QNT_TRY(QNTI_NEW(w->ctx, n, &lengths));
    for (size_t i = 0; i < n; i++)
        lengths[i] = strlen(texts[i]);
    status = qnti_gguf_put_string_array(w, "imatrix.datasets", texts, lengths, n);
    qnti_free(w->ctx, lengths);
    return status;
}

static qnt_status describe(struct qnti_gguf_writer *w, const struct qnti_imatrix *m)
{
    QNT_TRY(qnti_gguf_put_string(w, "general.type", "imatrix", strlen("imatrix")));
    QNT_TRY(put_texts(w, m));
    QNT_TRY(qnti_gguf_put_u32(w, "imatrix.chunk_count", (uint32_t)m->chunks));
    QNT_TRY(qnti_gguf_put_u32(w, "imatrix.chunk_size", (uint32_t)m->chunk_size));
    for (size_t i = 0; i < m->count; i++) {
        QNT_TRY(add_tensor(w, &m->entries[i], ".in_sum2", m->entries[i].in, write_sums));
        QNT_TRY(add_tensor(w, &m->entries[i], ".counts", 1, write_counts));
    }
    return QNT_OK;
}

static qnt_status write_gguf(const struct qnti_imatrix *m, struct qnti_output *output)
{
    struct qnti_gguf_writer w;
    qnt_status status;
    qnti_gguf_writer_init(m->ctx, &w);
    status = describe(&w, m);
    if (status == QNT_OK)
        status = qnti_gguf_write(&w, output);
    qnti_gguf_writer_free(&w);
    return status;
}

/* --- .dat --- */

static qnt_status write_number(struct qnti_output *output, size_t value)
{
    int32_t number = (int32_t)value;
    return qnti_output_write(output, &number, sizeof number);
}

static qnt_status write_entry(const struct qnti_imatrix_entry *e, struct qnti_output *output)
{
    size_t n = strlen(e->name);
    QNT_TRY(write_number(output, n));
    QNT_TRY(qnti_output_write(output, e->name, n));
    QNT_TRY(write_number(output, (size_t)e->counts[0]));
    QNT_TRY(write_number(output, e->in));
    return write_sums((void *)(uintptr_t)e, output);
}

static qnt_status write_dat(const struct qnti_imatrix *m, struct qnti_output *output)
{
    const char *text = m->text_count ? m->texts[m->text_count - 1] : "";
    QNT_TRY(write_number(output, m->count));
    for (size_t i = 0; i < m->count; i++)
        QNT_TRY(write_entry(&m->entries[i], output));
    QNT_TRY(write_number(output, m->chunks));
    QNT_TRY(write_number(output, strlen(text)));
    return qnti_output_write(output, text, strlen(text));
}

/* What the format's i32 can hold. */
static qnt_status check_sizes(const struct qnti_imatrix *m, const char *path)
{
    bool fits = m->chunks <= INT32_MAX && m->chunk_size <= INT32_MAX;
    for (size_t i = 0; i < m->count && fits && m->kind == QNTI_IMATRIX_DAT; i++)
        fits = m->entries[i].in <= INT32_MAX && m->entries[i].counts[0] < 0x1p31f && m->entries[i].matrices == 1;
    return fits ? QNT_OK : qnti_fail(m->ctx, QNT_INVALID, "%s: %zu windows of %zu tokens, or an entry, exceed what the "
                                     "format can count", path, m->chunks, m->chunk_size);
}

qnt_status qnti_imatrix_write(const struct qnti_imatrix *m, const char *path)
{
    struct qnti_output *output;
    qnt_status status;
    QNT_TRY(check_sizes(m, path));
    QNT_TRY(qnti_output_create(m->ctx, path, &output));
    status = m->kind == QNTI_IMATRIX_GGUF ? write_gguf(m, output) : write_dat(m, output);
    if (status == QNT_OK)
        return qnti_output_commit(output);
    qnti_output_discard(output);
    return status;
}
