/*
 * owq.c - a few whole input columns stay f16, the rest is rounded with error feedback on searched ranges.
 *
 * Columns are kept whose rounding would cost most, H_jj |dW_j|^2; they stand
 * behind the others as a segment of plain floats and take the corrections of
 * all of them. Scale and zero of each row are searched together (Lee et al.,
 * "OWQ: Outlier-Aware Weight Quantization", AAAI 2024). The budget of a model
 * is shared by the layers of a block so that each keeps as many weights.
 */
#include "method/feedback.h"

#include <math.h>
#include "solve/solve.h"

struct owq_params {
    int bits, keep_columns, group_size, block_size, mse_grid;
    double target_bits, mse_norm;
    bool frob_norm, mse, sym, act_order;
    struct qnti_damping damping;
};

enum { FEW_STEPS = 40, MANY_STEPS = 100, KEPT_BITS = 16 }; /* of groups and to choose columns; of rows */
static const double USUAL_EXTRA = 0.1;

static qnt_status searched_grid(struct qnti_job *job, const struct owq_params *p, size_t group, int steps,
                                struct qnti_grid *grid)
{
    const struct qnti_affine_params affine = {.bits = p->bits, .group_size = (int)group, .sym = p->sym,
                                              .mse_norm = p->mse_norm};
    if (qnti_layout_grid(job->layout, job->kernels, grid))
        return QNT_OK;
    QNT_TRY(qnti_job_grid(job, &affine, grid));
    grid->signed_codes = p->sym;
    grid->search_steps = !p->mse ? 1 : p->mse_grid ? (unsigned)p->mse_grid : (unsigned)steps;
    if (p->mse || p->sym)
        grid->kind = &qnti_paired_kind;
    return QNT_OK;
}

static qnt_status owq_grid(struct qnti_job *job, const void *params, struct qnti_grid *grid)
{
    const struct owq_params *p = params;
    return searched_grid(job, p, (size_t)p->group_size, p->group_size ? FEW_STEPS : MANY_STEPS, grid);
}

static struct qnti_grid kept_grid(const struct qnti_job *job)
{
    return qnti_float_grid(job->layout ? job->layout->scale_type : QNT_F32);
}

/*
 * k_l out_l the same for all layers l: sum k_l out_l (16 - bits) = sum (target_bits - bits) in_l out_l. k is even, as
 * the authors' kernels want it.
 */
static qnt_status owq_plan(qnt_context *ctx, const struct qnti_shape *shapes, void *const *params, size_t count)
{
    double budget = 0, price = 0;
    (void)ctx;
    for (size_t i = 0; i < count; i++) {
        const struct owq_params *p = params[i];
        double extra = p->target_bits > 0 ? p->target_bits - p->bits : USUAL_EXTRA;
        budget += p->keep_columns < 0 ? extra * (double)shapes[i].in * (double)shapes[i].out : 0;
        price += p->keep_columns < 0 ? KEPT_BITS - p->bits : 0;
    }
    for (size_t i = 0; price > 0 && i < count; i++) {
        struct owq_params *p = params[i];
        size_t k = (size_t)rint(fmin(budget / price / (double)shapes[i].out, (double)shapes[i].in));
        if (p->keep_columns < 0)
            p->keep_columns = (int)qnti_min(k + k % 2, shapes[i].in);
    }
    return QNT_OK;
}

/* Of a layer whose block was not planned. */
static size_t kept_columns(const struct owq_params *p, size_t in)
{
    struct owq_params alone = *p;
    (void)owq_plan(NULL, &(struct qnti_shape){1, in}, &(void *){&alone}, 1);
    return qnti_min((size_t)alone.keep_columns, in);
}

/* s_j = H_jj, or H_jj |W_j - Q_j|^2, Q the nearest on rows' ranges; 0 where nothing comes through. */
static qnt_status sensitivities(struct qnti_job *job, const struct owq_params *p, const qnt_qlinear *q, float *s)
{
    struct qnti_grid grid;
    for (size_t j = 0; j < q->in; j++)
        s[j] = job->dead[j] ? 0 : job->hessian[j * q->in + j];
    if (!p->frob_norm)
        return QNT_OK;
    QNT_TRY(searched_grid(job, p, 0, FEW_STEPS, &grid));
    return qnti_nearest_costs(job->ctx, job->weight, q->out, q->in, &grid, s);
}

static qnt_status keep_some(struct qnti_job *job, const struct owq_params *p, size_t k, qnt_qlinear *q)
{
    struct qnti_grid grids[] = {{0}, kept_grid(job)};
    struct qnti_segments_feedback f = {.grids = grids, .cols = (size_t[]){q->in - k, k}, .count = 2,
                                       .by_keys = p->act_order, .damping = p->damping, .block = (size_t)p->block_size};
    float *sensitivity;
    qnt_status status;
    QNT_TRY(owq_grid(job, p, &grids[0]));
    QNT_TRY(qnti_job_hessian(job));
    QNT_TRY(QNTI_NEW_RAW(job->ctx, q->in, &sensitivity));
    f.keys = sensitivity;
    status = sensitivities(job, p, q, sensitivity);
    if (status == QNT_OK)
        status = qnti_feedback_segments(job, &f, q);
    qnti_free(job->ctx, sensitivity);
    return status;
}

static qnt_status owq_weights(struct qnti_job *job, const qnt_layer *layer, qnt_qlinear *q)
{
    const struct owq_params *p = job->params;
    struct qnti_feedback_params all = {.damping = p->damping, .block_size = p->block_size, .act_order = p->act_order};
    size_t k = kept_columns(p, q->in);
    struct qnti_grid grid;
    qnt_status status;
    QNT_TRY(owq_grid(job, p, &grid));
    if (k == 0)
        return qnti_feedback_weights(job, &all, &grid, layer, q);
    if (k == q->in) {
        QNT_TRY(qnti_qlinear_one_segment(q));
        return qnti_numbers_from_floats(job->ctx, kept_grid(job).float_type, job->weight, q->out, q->in,
                                        &q->segments[0].weight);
    }
    status = keep_some(job, p, k, q);
    if (status == QNT_NOT_FOUND || status == QNT_SINGULAR)
        return qnti_fall_back(job, &grid, q, qnt_context_message(job->ctx));
    return status;
}

static const struct qnti_damping *owq_feedback(const void *params)
{
    return &((const struct owq_params *)params)->damping;
}

static unsigned owq_leaves(const void *params)
{
    const struct owq_params *p = params;
    return p->keep_columns ? QNTI_BESIDE_SEGMENTS | QNTI_BESIDE_TRANSFORM : 0;
}

/* With the kept columns, where they came from, and descriptions of two segments. */
static qnt_status owq_bits(struct qnti_job *job, const void *params, size_t out, size_t in, double *bits)
{
    const struct owq_params *p = params;
    size_t k = kept_columns(p, in);
    struct qnti_grid grid, kept = kept_grid(job);
    QNT_TRY(owq_grid(job, p, &grid));
    *bits = k < in ? qnti_grid_bits(&grid, out, in - k) : 0;
    *bits += qnti_grid_bits(&kept, out, k) + (k && k < in ? 32 * (double)k + 64 : 0);
    *bits += p->group_size && p->act_order ? 32 * (double)(in - k) : 0;
    return QNT_OK;
}

static qnt_status owq_check(qnt_context *ctx, const void *params)
{
    const struct owq_params *p = params;
    if (p->target_bits != 0 && !(p->target_bits >= p->bits && p->target_bits <= p->bits + 1))
        return qnti_fail(ctx, QNT_INVALID, "owq: target_bits=%g is not within bits=%d and one more", p->target_bits,
                         p->bits);
    return QNT_OK;
}

#define ROW(name, kind, value, least, greatest, help) \
    {#name, QNTI_PARAM_##kind, offsetof(struct owq_params, name), value, least, greatest, NULL, help}

static const struct qnti_param rows[] = {
    ROW(bits, INT, 3, 2, 8, "bits of a code"),
    ROW(keep_columns, INT, -1, -1, 1 << 24, "input columns that stay floats; -1: as target_bits allows"),
    ROW(target_bits, FLOAT, 0, 0, 9, "bits a weight with the kept columns, without scales; 0: bits + 0.1"),
    ROW(frob_norm, BOOL, 1, 0, 1, "columns by what their rounding costs; false: by the Hessian's diagonal alone"),
    ROW(mse, BOOL, 1, 0, 1, "search the range with the least error"),
    ROW(sym, BOOL, 0, 0, 1, "levels symmetric about 0"),
    ROW(group_size, INT, 0, 0, 1 << 24, "columns that share a scale; 0: the whole row"),
    ROW(act_order, BOOL, 0, 0, 1, "columns by falling sensitivity"),
    QNTI_DAMPING_ROWS(struct owq_params, damping),
    ROW(block_size, INT, 128, 1, 1 << 20, "columns between updates of the rest"),
    ROW(mse_norm, FLOAT, 2.4, 1e-3, 64, "exponent of the error in the search"),
    ROW(mse_grid, INT, 0, 0, 1 << 20, "steps in the full range; 0: 100 for rows, 40 for groups"),
};

const struct qnti_method qnti_method_owq = {
    .name = "owq",
    .title = "error feedback with the most sensitive input columns kept in f16",
    .reference = "Lee et al., OWQ, AAAI 2024",
    .scope = QNTI_SCOPE_LAYER,
    .table = {rows, sizeof rows / sizeof *rows, sizeof(struct owq_params)},
    .needs = QNTI_NEED_HESSIAN,
    .check = owq_check,
    .stages[QNTI_STAGE_WEIGHTS].layer = owq_weights,
    .feedback = owq_feedback,
    .bits = owq_bits,
    .leaves = owq_leaves,
    .plan = owq_plan,
    .grid = owq_grid,
};
