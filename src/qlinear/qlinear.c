/*
 * qlinear.c - memory, effective weights and true bits of the canonical layer.
 */
#include "qlinear/qlinear.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/number.h"

qnt_status qnti_qlinear_create(qnt_context *ctx, const char *name, size_t out, size_t in, const float *bias,
                               qnt_qlinear **qlinear)
{
    qnt_qlinear *q;
    qnt_status status;
    *qlinear = NULL;
    QNT_TRY(QNTI_NEW(ctx, 1, &q));
    q->ctx = ctx;
    q->out = out;
    q->in = in;
    QNT_CHECK(qnti_copy_string(ctx, name ? name : "layer", &q->name));
    QNT_CHECK(qnti_buffer_add(ctx, &q->warnings, "", 0));
    q->report.weight_error = q->report.output_error = NAN;
    if (bias) {
        QNT_CHECK(QNTI_NEW_RAW(ctx, out, &q->bias));
        memcpy(q->bias, bias, out * sizeof *bias);
    }
    *qlinear = q;
    return QNT_OK;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

void qnt_qlinear_destroy(qnt_qlinear *q)
{
    if (!q)
        return;
    for (size_t i = 0; i < q->segment_count; i++) {
        qnti_numbers_free(q->ctx, q->segments[i].weight);
        qnti_actquant_free(q->ctx, q->segments[i].act);
    }
    qnti_free(q->ctx, q->segments);
    qnti_free(q->ctx, q->sparse.row_start);
    qnti_free(q->ctx, q->sparse.column);
    qnti_free(q->ctx, q->sparse.value);
    qnti_numbers_free(q->ctx, q->lowrank_a);
    qnti_numbers_free(q->ctx, q->lowrank_b);
    qnti_numbers_free(q->ctx, q->full);
    qnti_transform_free(q->ctx, &q->transform);
    qnti_actquant_free(q->ctx, q->act);
    qnti_free(q->ctx, q->output);
    qnti_free(q->ctx, q->bias);
    qnti_free(q->ctx, q->name);
    qnti_buffer_free(q->ctx, &q->warnings);
    qnti_free(q->ctx, q);
}

const char *qnt_qlinear_name(const qnt_qlinear *q)
{
    return q->name;
}

size_t qnt_qlinear_out(const qnt_qlinear *q)
{
    return q->out;
}

bool qnt_qlinear_chooses_columns(const qnt_qlinear *q)
{
    return q->act && q->act->threshold > 0;
}

size_t qnt_qlinear_in(const qnt_qlinear *q)
{
    return q->in;
}

qnt_status qnti_qlinear_cut(qnt_qlinear *q, const size_t *cols, size_t count)
{
    size_t first = 0;
    QNT_TRY(QNTI_NEW(q->ctx, count, &q->segments));
    q->segment_count = count;
    for (size_t s = 0; s < count; first += cols[s++]) {
        q->segments[s].first = first;
        q->segments[s].cols = cols[s];
    }
    return QNT_OK;
}

qnt_status qnti_qlinear_one_segment(qnt_qlinear *q)
{
    if (q->segment_count > 1)
        return qnti_fail(q->ctx, QNT_UNSUPPORTED, "layer %s: its inputs are quantized in %zu parts, which these "
                         "weights do not have", q->name, q->segment_count);
    return q->segment_count ? QNT_OK : qnti_qlinear_cut(q, &q->in, 1);
}

qnt_status qnti_qlinear_permute(qnt_qlinear *q, const uint32_t *columns)
{
    const uint32_t *before = q->transform.permutation;
    uint32_t *after;
    if (q->transform.rotation.block)
        return qnti_fail(q->ctx, QNT_UNSUPPORTED,
                         "layer %s: columns that a rotation mixes at run time cannot be parted behind it", q->name);
    QNT_TRY(QNTI_NEW_RAW(q->ctx, q->in, &after));
    for (size_t p = 0; p < q->in; p++)
        after[p] = before ? before[columns[p]] : columns[p];
    qnti_free(q->ctx, q->transform.permutation);
    q->transform.permutation = after;
    return QNT_OK;
}

qnt_status qnti_segment_fill(qnt_qlinear *q, struct qnti_segment *segment, const struct qnti_grid *grid)
{
    return qnti_numbers_create(q->ctx, grid, q->out, segment->cols, &segment->weight);
}

static void count_kept(const uint8_t *mask, size_t rows, size_t cols, uint32_t *row_start)
{
    for (size_t r = 0; r < rows; r++) {
        row_start[r + 1] = row_start[r];
        for (size_t c = 0; c < cols; c++)
            row_start[r + 1] += mask[r * cols + c];
    }
}

qnt_status qnti_qlinear_keep(qnt_qlinear *q, qnt_dtype type, const uint8_t *mask, const float *value)
{
    struct qnti_sparse *s = &q->sparse;
    size_t n = q->out * q->in, kept = 0;
    if (n > UINT32_MAX)
        return qnti_fail(q->ctx, QNT_UNSUPPORTED, "layer %s: %zu x %zu weights are too many for a sparse part", q->name,
                         q->out, q->in);
    QNT_TRY(QNTI_NEW(q->ctx, q->out + 1, &s->row_start));
    count_kept(mask, q->out, q->in, s->row_start);
    s->type = type;
    s->count = s->row_start[q->out];
    QNT_TRY(QNTI_NEW_RAW(q->ctx, s->count, &s->column));
    QNT_TRY(QNTI_NEW_RAW(q->ctx, s->count, &s->value));
    for (size_t i = 0; i < n; i++)
        if (mask[i]) {
            s->column[kept] = (uint32_t)(i % q->in);
            s->value[kept++] = qnti_round_to(type, value[i]);
        }
    return QNT_OK;
}

size_t qnti_sparse_column_bytes(size_t in)
{
    return in <= UINT16_MAX + 1 ? 2 : 4;
}

double qnti_sparse_bits(size_t out, size_t in, qnt_dtype type, double count)
{
    if (!(count > 0))
        return 0;
    return 8 * count * (double)(qnti_sparse_column_bytes(in) + qnti_dtype_bytes(type)) + 32.0 * (double)(out + 1);
}

qnt_status qnti_qlinear_warn(qnt_qlinear *q, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    qnti_log(q->ctx, QNT_LOG_WARNING, "%s: %s", q->name, line);
    return qnti_buffer_print(q->ctx, &q->warnings, "%s%s", q->warnings.bytes ? "\n" : "", line);
}

static void add_lowrank(const qnt_qlinear *q, size_t r, float *row)
{
    const struct qnti_numbers *a = q->lowrank_a, *b = q->lowrank_b;
    enum { CHUNK = 256 };
    float factor, values[CHUNK];
    for (size_t k = 0; k < a->cols; k++) {
        qnti_numbers_values(a, r, k, 1, &factor);
        for (size_t c = 0, n; c < q->in; c += n) {
            n = qnti_min(CHUNK, q->in - c);
            qnti_numbers_values(b, k, c, n, values);
            for (size_t i = 0; i < n; i++)
                row[c + i] += factor * values[i];
        }
    }
}

void qnti_qlinear_row(const qnt_qlinear *q, size_t r, float *row)
{
    for (size_t s = 0; s < q->segment_count; s++)
        qnti_numbers_values(q->segments[s].weight, r, 0, q->segments[s].cols, row + q->segments[s].first);
    if (q->sparse.count)
        for (size_t i = q->sparse.row_start[r]; i < q->sparse.row_start[r + 1]; i++)
            row[q->sparse.column[i]] = q->sparse.value[i];
    if (q->lowrank_a)
        add_lowrank(q, r, row);
}

struct rows_task {
    const qnt_qlinear *q;
    size_t first, n;
    float *rows;
};

enum { ROWS_PER_TASK = 32 };

static qnt_status rows_task(void *arg, size_t index)
{
    const struct rows_task *t = arg;
    const qnt_qlinear *q = t->q;
    size_t end = qnti_min(t->n, (index + 1) * ROWS_PER_TASK);
    float *scratch = NULL;
    bool plain = qnti_transform_is_identity(&q->transform);
    if (!plain)
        QNT_TRY(QNTI_NEW_RAW(q->ctx, 3 * q->in, &scratch));
    for (size_t r = index * ROWS_PER_TASK; r < end; r++) {
        float *row = t->rows + r * q->in;
        qnti_qlinear_row(q, t->first + r, plain ? row : scratch);
        if (!plain)
            qnti_transform_weight_back(&q->transform, q->in, scratch, row, scratch + q->in);
    }
    qnti_free(q->ctx, scratch);
    return QNT_OK;
}

qnt_status qnti_qlinear_rows(const qnt_qlinear *q, size_t first, size_t n, float *rows)
{
    struct rows_task t = {q, first, n, rows};
    return qnti_parallel(q->ctx, qnti_ceil_div(n, ROWS_PER_TASK), rows_task, &t);
}

qnt_status qnt_dequantize(const qnt_qlinear *q, float *weight)
{
    return qnti_qlinear_rows(q, 0, q->out, weight);
}

/* What an activation quantizer keeps with the layer: static scales and offsets, the clusters of the columns. */
static double actquant_bits(const struct qnti_actquant *act)
{
    if (!act)
        return 0;
    if (!act->fixed)
        return act->index ? 32.0 * (double)act->cols : 0;
    return qnti_numbers_bits(act->fixed->scale) + qnti_numbers_bits(act->fixed->offset) +
           (act->fixed->index ? 32.0 * (double)act->cols : 0);
}

double qnti_qlinear_bits(const qnt_qlinear *q)
{
    double bits = qnti_transform_bits(&q->transform, q->in);
    for (size_t s = 0; s < q->segment_count; s++) {
        bits += qnti_numbers_bits(q->segments[s].weight) + actquant_bits(q->segments[s].act);
        if (q->segment_count > 1)
            bits += 32;
    }
    bits += qnti_sparse_bits(q->out, q->in, q->sparse.type, (double)q->sparse.count);
    bits += qnti_numbers_bits(q->lowrank_a) + qnti_numbers_bits(q->lowrank_b) + qnti_numbers_bits(q->full);
    bits += actquant_bits(q->act);
    return bits / ((double)q->out * (double)q->in);
}

void qnti_qlinear_describe_inputs(qnt_qlinear *q)
{
    char text[QNTI_ACTQUANT_TEXT];
    size_t n = 0;
    if (q->act)
        qnti_actquant_describe(q->act, q->activations);
    for (size_t s = 0; s < q->segment_count && n < sizeof q->activations; s++)
        if (q->segments[s].act) {
            qnti_actquant_describe(q->segments[s].act, text);
            n += (size_t)snprintf(q->activations + n, sizeof q->activations - n, "%s%zu columns: %s", n ? "; " : "",
                                  q->segments[s].cols, text);
        }
}

qnt_status qnt_report(const qnt_qlinear *q, qnt_layer_report *report)
{
    if (report->size && report->size != sizeof *report)
        return qnti_fail(q->ctx, QNT_INVALID, "qnt_layer_report of %zu bytes, this version's has %zu", report->size,
                         sizeof *report);
    *report = q->report;
    report->size = sizeof *report;
    report->warnings = q->warnings.data;
    report->activations = q->activations;
    return QNT_OK;
}
