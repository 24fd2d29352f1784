/*
 * compensate.c - LoRC: A B nearest to E = W - Q, of rank r, stands beside the codes.
 *
 * E is taken in the coordinates of the transformed input, Q with all that the
 * stages before have put there; A = U S^(1/2), B = S^(1/2) V^T of E's leading
 * singular triples (Yao et al., "ZeroQuant-V2", 2023), or, weighted, those of E
 * H^(1/2), B times H^(-1/2): the least error of the output (linalg/low_rank.h).
 * Factors are floats, or codes of 8 bits with a scale for each component.
 */
#include "method/compensate.h"

#include <math.h>
#include <string.h>
#include "base/tensor.h"
#include "linalg/low_rank.h"
#include "solve/solve.h"

/* What the codes leave of the job's weight takes its place, in the site's columns. */
struct error_task {
    struct qnti_job *job;
    const qnt_qlinear *q;
    const uint32_t *place;       /* [in] where the layer has them; or NULL */
};

static qnt_status error_row(void *arg, size_t r)
{
    const struct error_task *t = arg;
    size_t in = t->q->in;
    float *w = t->job->weight + r * in, *row;
    QNT_TRY(QNTI_NEW_RAW(t->job->ctx, in, &row));
    qnti_qlinear_row(t->q, r, row);
    for (size_t c = 0; c < in; c++)
        w[c] -= row[t->place ? t->place[c] : c];
    qnti_free(t->job->ctx, row);
    return QNT_OK;
}

/*
 * The Hessian by which errors count; NULL: all alike. Nothing comes through dead columns: they have no errors. Where
 * none was measured it is that of the inputs as the layer quantizes them.
 */
static qnt_status find_hessian(struct qnti_job *job, const struct qnti_compensation *p, qnt_qlinear *q, const float **h)
{
    size_t in = q->in;
    qnt_status status;
    *h = NULL;
    if (p->weight != QNTI_RANK_HESSIAN)
        return QNT_OK;
    status = job->calib && job->calib->hessian ? qnti_job_hessian(job) : qnti_job_quantized_hessian(job, q);
    if (status == QNT_NOT_FOUND)
        return qnti_qlinear_warn(q, "all errors count alike: %s", qnt_context_message(job->ctx));
    QNT_TRY(status);
    if (!qnti_all_finite(job->hessian, in * in))
        return qnti_qlinear_warn(q, "all errors count alike: the Hessian is not finite");
    for (size_t i = 0; job->dead_count && i < q->out * in; i++)
        if (job->dead[i % in])
            job->weight[i] = 0;
    *h = job->hessian;
    return QNT_OK;
}

static struct qnti_grid factor_grid(const struct qnti_job *job, const struct qnti_compensation *p, bool columns)
{
    qnt_dtype type = job->layout ? job->layout->scale_type : QNT_F32;
    struct qnti_grid grid;
    if (p->bits == QNTI_RANK_FLOATS)
        return qnti_float_grid(type);
    grid = qnti_affine_grid(job->kernels, 8, columns ? 1 : 0, type);
    grid.map.rows = !columns;
    grid.sym = grid.absmax = grid.constant_offset = grid.signed_codes = true;
    grid.offset = 128;
    return grid;
}

static qnt_status hold(struct qnti_job *job, const struct qnti_compensation *p, const struct qnti_low_rank *l,
                       bool columns, struct qnti_numbers **numbers)
{
    struct qnti_grid grid = factor_grid(job, p, columns);
    size_t rows = columns ? l->rows : l->rank, cols = columns ? l->rank : l->cols;
    const float *x = columns ? l->a : l->b;
    qnti_numbers_free(job->ctx, *numbers);
    *numbers = NULL;
    if (grid.form == QNTI_FORM_FLOAT)
        return qnti_numbers_from_floats(job->ctx, grid.float_type, x, rows, cols, numbers);
    QNT_TRY(qnti_numbers_create(job->ctx, &grid, rows, cols, numbers));
    return qnti_nearest(job->ctx, x, NULL, NULL, *numbers);
}

/* Signs are a choice: the entry of a column of A that is largest as it is stored, the first of equals, is positive. */
static void choose_signs(const struct qnti_numbers *stored, const struct qnti_low_rank *l)
{
    for (size_t k = 0; k < l->rank; k++) {
        float most = 0, x;
        for (size_t r = 0; r < l->rows; r++) {
            qnti_numbers_values(stored, r, k, 1, &x);
            if (fabsf(x) > fabsf(most))
                most = x;
        }
        for (size_t r = 0; most < 0 && r < l->rows; r++)
            l->a[r * l->rank + k] = -l->a[r * l->rank + k];
        for (size_t c = 0; most < 0 && c < l->cols; c++)
            l->b[k * l->cols + c] = -l->b[k * l->cols + c];
    }
}

/* Rows of B with their columns where the layer has them. */
static qnt_status place_columns(struct qnti_job *job, const uint32_t *place, const struct qnti_low_rank *l)
{
    float *row;
    if (!place)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(job->ctx, l->cols, &row));
    for (size_t k = 0; k < l->rank; k++) {
        float *b = l->b + k * l->cols;
        memcpy(row, b, l->cols * sizeof *row);
        for (size_t c = 0; c < l->cols; c++)
            b[place[c]] = row[c];
    }
    qnti_free(job->ctx, row);
    return QNT_OK;
}

static void forget(qnt_qlinear *q)
{
    qnti_numbers_free(q->ctx, q->lowrank_a);
    qnti_numbers_free(q->ctx, q->lowrank_b);
    q->lowrank_a = q->lowrank_b = NULL;
}

static qnt_status fill(struct qnti_job *job, const struct qnti_compensation *p, const struct qnti_low_rank *l,
                       const uint32_t *place, qnt_qlinear *q)
{
    QNT_TRY(qnti_low_rank(job->ctx, l));
    QNT_TRY(place_columns(job, place, l));
    QNT_TRY(hold(job, p, l, true, &q->lowrank_a));
    choose_signs(q->lowrank_a, l);
    QNT_TRY(hold(job, p, l, true, &q->lowrank_a));
    return hold(job, p, l, false, &q->lowrank_b);
}

qnt_status qnti_compensate(struct qnti_job *job, const struct qnti_compensation *p, qnt_qlinear *q)
{
    struct qnti_low_rank l = {.e = job->weight, .rows = q->out, .cols = q->in,
                              .rank = qnti_min((size_t)p->rank, qnti_min(q->out, q->in))};
    uint32_t *place = NULL;
    struct error_task t = {job, q, NULL};
    qnt_status status;
    forget(q);
    QNT_CHECK(qnti_layer_places(job, q, &place));
    t.place = place;
    QNT_CHECK(qnti_parallel(job->ctx, q->out, error_row, &t));
    if (!qnti_all_finite(job->weight, q->out * q->in))
        goto cleanup; /* scales overflowed, which the report says */
    QNT_CHECK(find_hessian(job, p, q, &l.h));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, l.rows * l.rank, &l.a));
    QNT_CHECK(QNTI_NEW_RAW(job->ctx, l.rank * l.cols, &l.b));
    status = fill(job, p, &l, place, q);
cleanup:
    qnti_free(job->ctx, l.a);
    qnti_free(job->ctx, l.b);
    qnti_free(job->ctx, place);
    if (status != QNT_OK)
        forget(q);
    return status;
}

double qnti_compensation_bits(const struct qnti_job *job, const struct qnti_compensation *p, size_t out, size_t in)
{
    size_t rank = qnti_min((size_t)p->rank, qnti_min(out, in));
    struct qnti_grid a = factor_grid(job, p, true), b = factor_grid(job, p, false);
    return rank ? qnti_grid_bits(&a, out, rank) + qnti_grid_bits(&b, rank, in) : 0;
}
