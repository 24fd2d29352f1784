/*
 * hqq.c - data-free: groups with real zeros, chosen by half-quadratic splitting.
 *
 * The scale comes from the range of a group, the zero, a real number, lowers
 * the p-norm of the error, p < 1, which forgives outlying weights (Badri and
 * Shaji, "Half-Quadratic Quantization", Mobius Labs 2023). Groups run along
 * the rows (axis=1), or through the flattened matrix in strides (axis=0).
 */
#include "method/method.h"

#include <math.h>
#include "solve/solve.h"

struct hqq_params {
    int bits, group_size, axis;
    bool optimize;
    int round_zero, solver;
    double lp_norm, beta, kappa;
    int iterations;
    bool early_stop, per_group_stop, scale_update;
};

enum { ROUND_AUTO, ROUND_FALSE, ROUND_TRUE };

static qnt_status hqq_grid(const struct qnti_job *job, const struct hqq_params *p, size_t out, size_t in,
                           struct qnti_grid *grid)
{
    size_t size = p->group_size ? (size_t)p->group_size : out;
    *grid = qnti_affine_grid(job->kernels, (unsigned)p->bits, (size_t)p->group_size,
                             job->layout ? job->layout->scale_type : QNT_F32);
    grid->real_offset = true;
    if (p->axis == 1)
        return QNT_OK;
    if (out * in % size)
        return qnti_fail(job->ctx, QNT_UNSUPPORTED,
                         "hqq: group_size=%zu does not divide the %zu x %zu weights, which axis=0 needs", size, out,
                         in);
    grid->map = (struct qnti_map){.kind = QNTI_MAP_STRIDED, .cols = out * in / size};
    return QNT_OK;
}

static qnt_status hqq_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct hqq_params *p = job->params;
    struct qnti_half_quadratic rule = {
        .optimize = p->optimize, .round_zero = p->round_zero == ROUND_AUTO ? p->bits == 4 : p->round_zero == ROUND_TRUE,
        .v2 = p->solver == 1, .early_stop = p->early_stop, .per_group = p->per_group_stop, .scales = p->scale_update,
        .norm = p->lp_norm, .beta = p->beta, .kappa = p->kappa, .iterations = (size_t)p->iterations};
    struct qnti_grid grid;
    (void)layer;
    QNT_TRY(hqq_grid(job, p, q->out, q->in, &grid));
    QNT_TRY(qnti_qlinear_one_segment(q));
    QNT_TRY(qnti_segment_fill(q, &q->segments[0], &grid));
    return qnti_half_quadratic(job->ctx, &rule, job->weight, q->segments[0].weight);
}

static qnt_status hqq_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    struct qnti_grid grid;
    QNT_TRY(hqq_grid(job, params, out, in, &grid));
    *bits = qnti_grid_bits(&grid, out, in);
    return QNT_OK;
}

#define ROW(name, kind, value, least, greatest, choices, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct hqq_params, name), value, least, greatest, choices, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 4, 1, 8, NULL, "bits of a code"),
    ROW(group_size, INT, 64, 0, 1 << 24, NULL, "weights that share a scale; 0: the row, with axis=0 the column"),
    ROW(axis, INT, 1, 0, 1, NULL, "1: groups along the rows; 0: every so many weights of the flattened matrix"),
    ROW(optimize, BOOL, 1, 0, 1, NULL, "search the zeros; false: those of the range"),
    ROW(round_zero, ENUM, ROUND_AUTO, 0, 2, "auto|false|true", "whole zeros to start with; auto: with 4 bits"),
    ROW(solver, ENUM, 0, 0, 1, "fast|v2", "constant beta, or growing by kappa"),
    ROW(lp_norm, FLOAT, 0.7, 0.1, 1, NULL, "p of the norm"),
    ROW(beta, FLOAT, 10, 1e-6, 1e12, NULL, "weight of the splitting: large ones forgive small errors too"),
    ROW(kappa, FLOAT, 1.01, 1, 1e3, NULL, "growth of beta (v2)"),
    ROW(iterations, INT, 20, 2, 1 << 20, NULL, "at most"),
    ROW(early_stop, BOOL, 1, 0, 1, NULL, "stop where the error rises (v2)"),
    ROW(per_group_stop, BOOL, 0, 0, 1, NULL, "each group keeps its best zero instead"),
    ROW(scale_update, BOOL, 0, 0, 1, NULL, "scales by least squares where that lowers the error"),
};

const struct qnti_method qnti_method_hqq = {
    .name = "hqq",
    .title = "data-free: real zeros by half-quadratic splitting",
    .reference = "Badri and Shaji, Half-Quadratic Quantization, Mobius Labs 2023; mobiusml/hqq",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct hqq_params)},
    .bits = hqq_bits,
    .stages[QNTI_STAGE_WEIGHTS].layer = hqq_weights,
};
