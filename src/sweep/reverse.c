/*
 * reverse.c - Fisher information by a reverse sweep through the unquantized model.
 *
 *   F += (gradient of a window's mean loss)^2, for each window, over their number
 *
 * Forward all windows pass block after block, and the input of each block from
 * the lowest on that needs F is kept; then the blocks come from last to first,
 * each loaded once, what lies in them computed again, one window at a time. In
 * memory there are one block, its F and a window; a block's F goes to its file
 * before the next. A run that goes on passes the blocks whose files are there
 * by the same calls, only their weights' gradients are not formed.
 */
#include "sweep/sweep.h"

#include <math.h>
#include <string.h>
#include "base/tensor.h"
#include "nn/operators.h"

struct reverse {
    struct qnt_plan *plan;
    qnt_context *ctx;
    const struct qnti_checkpoint *model;
    size_t windows, tokens, window;      /* window: floats of one, [tokens][hidden] */
    size_t first, blocks;                /* the lowest block whose F is to be made */
    struct qnti_spill x;                 /* [blocks - first + 1][windows][tokens][hidden]: inputs; last the gradient */
    float *scratch;                      /* [tokens][hidden] */
    bool *left_out;                      /* [windows] of no finite gradient */
    struct qnti_workspace *workspace;
    struct qnti_backward *backward;
    struct qnti_block block;
    float *fisher[QNTI_ROLES];           /* of the block in hand */
    size_t done, total;                  /* of progress: a window through a block forward, back three times that */
};

static float *part(const struct reverse *r, size_t slot, size_t window)
{
    return r->x.data + (slot * r->windows + window) * r->window;
}

static void part_done(const struct reverse *r, size_t slot, size_t window)
{
    qnti_spill_done(&r->x, (slot * r->windows + window) * r->window, r->window);
}

static qnt_status advance(struct reverse *r, size_t steps)
{
    r->done += steps;
    qnti_plan_progress(r->plan, "", (double)r->done / (double)r->total);
    return qnti_cancelled(r->ctx);
}

/* --- forward --- */

static qnt_status embed(struct reverse *r)
{
    const int32_t *ids = r->plan->windows.ids;
    for (size_t w = 0; w < r->windows; w++) {
        QNT_TRY(qnti_embed(r->model, ids + w * r->tokens, r->tokens, 0, part(r, 0, w)));
        part_done(r, 0, w);
    }
    return QNT_OK;
}

/* From one slot to the next, or, below the first, in place. */
static qnt_status forward_block(struct reverse *r, size_t index)
{
    size_t from = index < r->first ? 0 : index - r->first, to = index < r->first ? 0 : from + 1;
    qnt_status status = QNT_OK;
    QNT_TRY(qnti_block_load(r->model, index, &r->block));
    for (size_t w = 0; w < r->windows; w++) {
        float *x = part(r, to, w);
        if (to != from)
            memcpy(x, part(r, from, w), r->window * sizeof *x);
        QNT_CHECK(qnti_block_forward(&r->block, r->workspace, x, r->tokens));
        part_done(r, from, w);
        part_done(r, to, w);
        QNT_CHECK(advance(r, 1));
    }
cleanup:
    qnti_block_free(&r->block);
    return status;
}

/* --- backward --- */

/* A window without finite gradients goes on as zeros. */
static void leave_out(struct reverse *r, size_t window, float *dx)
{
    memset(dx, 0, r->window * sizeof *dx);
    r->left_out[window] = true;
}

static size_t count_left(const struct reverse *r)
{
    size_t left = 0;
    for (size_t w = 0; w < r->windows; w++)
        left += !r->left_out[w];
    return left;
}

/* The last slot: from outputs of the last block to gradients by them. */
static qnt_status from_loss(struct reverse *r)
{
    const int32_t *ids = r->plan->windows.ids;
    size_t slot = r->blocks - r->first;
    struct qnti_loss *l;
    double loss;
    qnt_status status = QNT_OK;
    QNT_TRY(qnti_loss_create(r->model, &l));
    for (size_t w = 0; w < r->windows; w++) {
        float *x = part(r, slot, w);
        QNT_CHECK(qnti_loss_backward(l, x, ids + w * r->tokens, r->tokens, &loss, r->scratch));
        memcpy(x, r->scratch, r->window * sizeof *x);
        if (!isfinite(loss) || !qnti_all_finite(x, r->window))
            leave_out(r, w, x);
        part_done(r, slot, w);
        QNT_CHECK(advance(r, 1));
    }
cleanup:
    qnti_loss_free(l);
    return status;
}

struct squares {
    const float *gradient;
    float *sum;
    size_t cols;
};

static void add_squares(void *arg, size_t first, size_t n)
{
    const struct squares *s = arg;
    const float *restrict g = s->gradient + first * s->cols;
    float *restrict sum = s->sum + first * s->cols;
    for (size_t i = 0; i < n * s->cols; i++)
        sum[i] += g[i] * g[i];
}

static qnt_status take(void *user, enum qnti_role role, size_t first, size_t rows, const float *gradient)
{
    struct reverse *r = user;
    size_t cols = qnti_checkpoint_weight(r->model, r->block.index, role)->cols;
    struct squares s = {gradient, r->fisher[role] + first * cols, cols};
    if (!qnti_all_finite(gradient, rows * cols))
        return QNT_OK; /* says nothing of these rows */
    return qnti_for_rows(r->ctx, rows, cols, add_squares, &s);
}

static qnt_status backward_windows(struct reverse *r, unsigned roles)
{
    const struct qnti_gradients gradients = {roles, take, r};
    size_t slot = r->block.index - r->first;
    for (size_t w = 0; w < r->windows; w++) {
        float *dx = part(r, r->blocks - r->first, w);
        if (!r->left_out[w])
            QNT_TRY(qnti_block_backward(&r->block, r->workspace, r->backward, part(r, slot, w), r->tokens, &gradients,
                                        dx));
        if (!qnti_all_finite(dx, r->window))
            leave_out(r, w, dx);
        part_done(r, slot, w);
        part_done(r, r->blocks - r->first, w);
        QNT_TRY(advance(r, 3));
    }
    return QNT_OK;
}

static qnt_status create_fisher(struct reverse *r, unsigned roles)
{
    for (enum qnti_role role = 0; role < QNTI_ROLES; role++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(r->model, r->block.index, role);
        if (roles >> role & 1)
            QNT_TRY(QNTI_NEW(r->ctx, w->rows * w->cols, &r->fisher[role]));
    }
    return QNT_OK;
}

static void free_fisher(struct reverse *r)
{
    for (size_t role = 0; role < QNTI_ROLES; role++) {
        qnti_free(r->ctx, r->fisher[role]);
        r->fisher[role] = NULL;
    }
}

/* Sums become means; where no window is left they stay 0, which weighs all weights alike. */
static void take_means(struct reverse *r)
{
    float factor = 1 / (float)qnti_max(count_left(r), 1);
    for (enum qnti_role role = 0; role < QNTI_ROLES; role++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(r->model, r->block.index, role);
        for (size_t i = 0; r->fisher[role] && i < w->rows * w->cols; i++)
            r->fisher[role][i] *= factor;
    }
}

static qnt_status backward_block(struct reverse *r, size_t index)
{
    bool wanted = !r->plan->work.fisher[index] && !r->plan->work.finished[index];
    unsigned roles = wanted ? qnti_fisher_roles(r->plan, index) : 0;
    qnt_status status;
    QNT_CHECK(qnti_block_load(r->model, index, &r->block));
    QNT_CHECK(create_fisher(r, roles));
    QNT_CHECK(backward_windows(r, roles));
    take_means(r);
    if (roles)
        status = qnti_fisher_store(r->plan, index, r->fisher);
cleanup:
    qnti_block_free(&r->block);
    free_fisher(r);
    return status;
}

/* --- all of it --- */

static qnt_status sweep_back(struct reverse *r)
{
    size_t slots = r->blocks - r->first + 1, left;
    QNT_TRY(qnti_workspace_create(r->model, r->tokens, &r->workspace));
    QNT_TRY(QNTI_NEW_RAW(r->ctx, r->window, &r->scratch));
    QNT_TRY(QNTI_NEW(r->ctx, r->windows, &r->left_out));
    QNT_TRY(qnti_spill_create(r->ctx, r->plan->spills ? r->plan->work.path : NULL, slots * r->windows * r->window,
                              &r->x));
    QNT_TRY(embed(r));
    for (size_t b = 0; b < r->blocks; b++)
        QNT_TRY(forward_block(r, b));
    QNT_TRY(from_loss(r));
    QNT_TRY(qnti_backward_create(r->model, r->tokens, &r->backward));
    for (size_t b = r->blocks; b-- > r->first;)
        QNT_TRY(backward_block(r, b));
    left = count_left(r);
    if (left < r->windows)
        qnti_log(r->ctx, QNT_LOG_WARNING, "%zu of %zu calibration windows gave no finite gradient and were left out",
                 r->windows - left, r->windows);
    return QNT_OK;
}

/* The lowest block whose Fisher information is still to be made; `blocks`: none. */
static size_t lowest_missing(const struct qnt_plan *plan, size_t blocks)
{
    size_t b = 0;
    while (b < blocks && (plan->work.finished[b] || plan->work.fisher[b] || !qnti_fisher_roles(plan, b)))
        b++;
    return b;
}

qnt_status qnti_reverse_run(struct qnt_plan *plan)
{
    struct reverse r = {.plan = plan, .ctx = plan->ctx, .model = plan->job.source,
                        .windows = plan->windows.count, .tokens = plan->windows.tokens};
    qnt_status status;
    r.blocks = r.model->config.blocks;
    r.window = r.tokens * r.model->config.hidden;
    r.first = lowest_missing(plan, r.blocks);
    if (r.first == r.blocks)
        return QNT_OK;
    r.total = r.windows * (r.blocks + 1 + 3 * (r.blocks - r.first));
    status = sweep_back(&r);
    qnti_workspace_free(r.workspace);
    qnti_backward_free(r.backward);
    qnti_spill_free(&r.x);
    qnti_free(r.ctx, r.scratch);
    qnti_free(r.ctx, r.left_out);
    return status;
}
