/*
 * parts.c - the tensors of a calibration: their shapes, writing, reading. quant/calib.h has them as a table.
 *
 * Reading checks every number, and relies on shapes that were checked.
 */
#include "calib/save.h"

#include <math.h>
#include <string.h>
#include "file/output.h"

static size_t one_row(const struct qnt_calib *c, size_t *shape)
{
    shape[0] = c->in;
    return 1;
}

static size_t counts_shape(const struct qnt_calib *c, size_t *shape)
{
    (void)c;
    shape[0] = QNTI_CALIB_COUNTS;
    return 1;
}

static size_t moments_shape(const struct qnt_calib *c, size_t *shape)
{
    shape[0] = 3;
    shape[1] = c->in;
    return 2;
}

static size_t range_shape(const struct qnt_calib *c, size_t *shape)
{
    shape[0] = 2;
    shape[1] = c->in;
    return 2;
}

static size_t hessian_shape(const struct qnt_calib *c, size_t *shape)
{
    if (!qnti_multiply(c->in, c->in + 1, &shape[0]))
        shape[0] = 0;   /* more than any file has */
    shape[0] /= 2;
    return 1;
}

static size_t cross_shape(const struct qnt_calib *c, size_t *shape)
{
    shape[0] = shape[1] = c->in;
    return 2;
}

static size_t samples_shape(const struct qnt_calib *c, size_t *shape)
{
    shape[0] = c->sample_count;
    shape[1] = c->in;
    return 2;
}

static qnt_status write_counts(void *user, struct qnti_output *output)
{
    const struct qnt_calib *c = user;
    const uint64_t counts[QNTI_CALIB_COUNTS] = {c->tokens, c->skipped, c->needs, c->sample_stride};
    return qnti_output_write(output, counts, sizeof counts);
}

static qnt_status write_moments(void *user, struct qnti_output *output)
{
    const struct qnt_calib *c = user;
    for (int row = 0; row < 3; row++)
        for (size_t i = 0; i < c->in; i++) {
            const struct qnti_channel_moments *m = &c->moments[i];
            const double *x = row == 0 ? &m->sum : row == 1 ? &m->sum_abs : &m->sum_square;
            QNT_TRY(qnti_output_write(output, x, sizeof *x));
        }
    return QNT_OK;
}

/* Without tokens there is no range: zeros. */
static qnt_status write_range(void *user, struct qnti_output *output)
{
    const struct qnt_calib *c = user;
    for (int row = 0; row < 2; row++)
        for (size_t i = 0; i < c->in; i++) {
            float x = row == 0 ? c->moments[i].least : c->moments[i].greatest;
            x = c->tokens ? x : 0;
            QNT_TRY(qnti_output_write(output, &x, sizeof x));
        }
    return QNT_OK;
}

static qnt_status write_gram(qnt_context *ctx, const struct qnti_gram *gram, struct qnti_output *output)
{
    double *row;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, gram->n, &row));
    for (size_t r = 0; r < gram->n && status == QNT_OK; r++)
        status = qnti_output_write(output, row, qnti_gram_row(gram, r, row) * sizeof *row);
    qnti_free(ctx, row);
    return status;
}

static qnt_status write_hessian(void *user, struct qnti_output *output)
{
    const struct qnt_calib *c = user;
    return write_gram(c->ctx, c->hessian, output);
}

static qnt_status write_cross(void *user, struct qnti_output *output)
{
    const struct qnt_calib *c = user;
    return write_gram(c->ctx, c->cross, output);
}

static qnt_status write_samples(void *user, struct qnti_output *output)
{
    const struct qnt_calib *c = user;
    return qnti_output_write(output, c->samples, c->sample_count * c->in * sizeof *c->samples);
}

static qnt_status write_importance(void *user, struct qnti_output *output)
{
    const struct qnt_calib *c = user;
    return qnti_output_write(output, c->importance, c->in * sizeof *c->importance);
}

static qnt_status bad_number(const struct qnti_calib_place *p, size_t index, double x, const char *expected)
{
    return qnti_fail(p->ctx, QNT_BAD_DATA, "%s: tensor \"%.200s\": number %zu is %g, expected %s", p->path,
                     p->tensor->name, index, x, expected);
}

static qnt_status check_finite(const struct qnti_calib_place *p, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return bad_number(p, i, (double)x[i], "a finite one");
    return QNT_OK;
}

/* An f64 of the tensor, which need not be aligned. */
static double load_f64(const struct qnti_calib_place *p, size_t index)
{
    double x;
    memcpy(&x, (const char *)p->tensor->data + index * sizeof x, sizeof x);
    return x;
}

static qnt_status read_moments(const struct qnti_calib_place *p, struct qnt_calib *c)
{
    for (size_t i = 0; i < 3 * c->in; i++) {
        struct qnti_channel_moments *m = &c->moments[i % c->in];
        double x = load_f64(p, i);
        if (!isfinite(x) || (i >= c->in && x < 0))
            return bad_number(p, i, x, i < c->in ? "a finite one" : "0 or more");
        *(i < c->in ? &m->sum : i < 2 * c->in ? &m->sum_abs : &m->sum_square) = x;
    }
    return QNT_OK;
}

static qnt_status read_range(const struct qnti_calib_place *p, struct qnt_calib *c)
{
    float x[2];
    for (size_t i = 0; c->tokens && i < c->in; i++) {
        memcpy(&x[0], (const char *)p->tensor->data + i * sizeof *x, sizeof *x);
        memcpy(&x[1], (const char *)p->tensor->data + (c->in + i) * sizeof *x, sizeof *x);
        QNT_TRY(check_finite(p, x, 2));
        if (x[0] > x[1])
            return bad_number(p, i, (double)x[0], "the least to be no more than the greatest");
        c->moments[i].least = x[0];
        c->moments[i].greatest = x[1];
    }
    return QNT_OK;
}

static qnt_status read_row(const struct qnti_calib_place *p, struct qnti_gram *gram, size_t r, size_t at, double *row)
{
    size_t n = gram->symmetric ? r + 1 : gram->n;
    memcpy(row, (const char *)p->tensor->data + at * sizeof *row, n * sizeof *row);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(row[i]) || (gram->symmetric && i == r && row[i] < 0))
            return bad_number(p, at + i, row[i], i == r ? "0 or more" : "a finite one");
    qnti_gram_set_row(gram, r, row);
    return QNT_OK;
}

static qnt_status read_gram(const struct qnti_calib_place *p, struct qnti_gram *gram)
{
    double *row;
    size_t at = 0;
    qnt_status status = QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(p->ctx, gram->n, &row));
    for (size_t r = 0; r < gram->n && status == QNT_OK; r++) {
        status = read_row(p, gram, r, at, row);
        at += gram->symmetric ? r + 1 : gram->n;
    }
    qnti_free(p->ctx, row);
    return status;
}

static qnt_status read_hessian(const struct qnti_calib_place *p, struct qnt_calib *c)
{
    return read_gram(p, c->hessian);
}

static qnt_status read_cross(const struct qnti_calib_place *p, struct qnt_calib *c)
{
    return read_gram(p, c->cross);
}

static qnt_status read_samples(const struct qnti_calib_place *p, struct qnt_calib *c)
{
    QNT_TRY(QNTI_NEW_RAW(p->ctx, QNTI_MOST_SAMPLES * c->in, &c->samples));
    memcpy(c->samples, p->tensor->data, p->tensor->bytes);
    return check_finite(p, c->samples, c->sample_count * c->in);
}

static qnt_status read_importance(const struct qnti_calib_place *p, struct qnt_calib *c)
{
    float *importance;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(p->ctx, c->in, &importance));
    memcpy(importance, p->tensor->data, p->tensor->bytes);
    status = qnt_calib_set_importance(c, importance);
    qnti_free(p->ctx, importance);
    return status == QNT_NON_FINITE ? qnti_fail_in(p->ctx, QNT_BAD_DATA, p->path) : status;
}

const struct qnti_calib_part_row qnti_calib_parts[QNTI_CALIB_PARTS] = {
    [QNTI_PART_COUNTS] = {".counts", "U64", counts_shape, write_counts, NULL},
    [QNTI_PART_MOMENTS] = {".moments", "F64", moments_shape, write_moments, read_moments},
    [QNTI_PART_RANGE] = {".range", "F32", range_shape, write_range, read_range},
    [QNTI_PART_HESSIAN] = {".hessian", "F64", hessian_shape, write_hessian, read_hessian},
    [QNTI_PART_CROSS] = {".cross", "F64", cross_shape, write_cross, read_cross},
    [QNTI_PART_SAMPLES] = {".samples", "F32", samples_shape, write_samples, read_samples},
    [QNTI_PART_IMPORTANCE] = {".importance", "F32", one_row, write_importance, read_importance},
};
