/*
 * refit.c - with codes fixed, the scales (and minima) of a row that minimize (w - q) H (w - q)^T.
 *
 * q is linear in them: q = sum over groups of s_g b_g, b_g = code - zero on
 * the group's columns (and 1 for a minimum). So A s = B^T H w with A = B^T H B,
 * one small system a row. A chunk of rows makes A with one gemm a group. A row
 * keeps what it has where the system fails or a scale would change its sign.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/number.h"
#include "linalg/blas.h"
#include "linalg/factor.h"

enum { SYSTEM_BYTES = 16 << 20, MOST_ROWS = 64 };   /* of the systems of a chunk; of a chunk */

bool qnti_can_refit(const struct qnti_grid *grid)
{
    return (grid->form == QNTI_FORM_ZERO || grid->form == QNTI_FORM_MIN) && grid->map.kind != QNTI_MAP_FLAT &&
           grid->map.rows == 1 && !grid->scale_grid && !grid->offset_grid;
}

struct chunk {
    qnt_context *ctx;
    const float *w, *h;
    struct qnti_numbers *q;
    size_t first, rows, cols, groups, kinds, n;   /* n = groups * kinds unknowns */
    uint32_t *group;       /* [cols] */
    uint32_t *members;     /* [cols] columns group by group */
    size_t *start;         /* [groups + 1] */
    float *code;           /* [cols][rows] code - zero, in member order */
    float *target;         /* [cols][rows] w, in member order */
    float *hm;             /* [size of a group][cols]: rows of H of the group in hand, columns in member order */
    float *y;              /* [cols][rows] H b of the unknown in hand */
    float *ones;           /* [largest group][rows] */
    double *a, *b;         /* [rows][n][n], [rows][n] */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->group, c->members, c->start, c->code, c->target, c->hm, c->y, c->ones, c->a, c->b};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->ctx, memory[i]);
}

static void list_groups(struct chunk *c)
{
    size_t n = 0;
    for (size_t j = 0; j < c->cols; j++) {
        size_t row, group;
        qnti_map_find(&c->q->grid.map, c->cols, 0, j, &row, &group);
        c->group[j] = (uint32_t)group;
    }
    for (size_t g = 0; g < c->groups; g++) {
        c->start[g] = n;
        for (size_t j = 0; j < c->cols; j++)
            if (c->group[j] == g)
                c->members[n++] = (uint32_t)j;
    }
    c->start[c->groups] = n;
}

static size_t largest_group(const struct chunk *c)
{
    size_t most = 0;
    for (size_t g = 0; g < c->groups; g++)
        most = qnti_max(most, c->start[g + 1] - c->start[g]);
    return most;
}

static qnt_status chunk_create(struct chunk *c)
{
    qnt_context *ctx = c->ctx;
    size_t most;
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->group));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->members));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->groups + 1, &c->start));
    list_groups(c);
    most = largest_group(c);
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols * c->rows, &c->code));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols * c->rows, &c->target));
    QNT_TRY(QNTI_NEW_RAW(ctx, most * c->cols, &c->hm));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols * c->rows, &c->y));
    QNT_TRY(QNTI_NEW_RAW(ctx, most * c->rows, &c->ones));
    for (size_t i = 0; i < most * c->rows; i++)
        c->ones[i] = 1;
    QNT_TRY(QNTI_NEW(ctx, c->rows * c->n * c->n, &c->a));
    return QNTI_NEW(ctx, c->rows * c->n, &c->b);
}

static void load(struct chunk *c)
{
    bool zero = c->q->grid.form == QNTI_FORM_ZERO;
    for (size_t m = 0; m < c->cols; m++)
        for (size_t r = 0; r < c->rows; r++) {
            size_t row = c->first + r, j = c->members[m];
            float scale, offset;
            qnti_numbers_affine(c->q, row, j, &scale, &offset);
            c->code[m * c->rows + r] = (float)qnti_numbers_code(c->q, row, j) - (zero ? offset : 0);
            c->target[m * c->rows + r] = c->w[row * c->cols + j];
        }
}

/* The basis of unknown (g, kind): its values on the group's members, [members][rows]. */
static const float *basis(const struct chunk *c, size_t g, size_t kind)
{
    return kind == 0 ? c->code + c->start[g] * c->rows : c->ones;
}

/* sum[r] = sum over m of x[m][r] y[m][r], in f64. */
static void row_products(const struct chunk *c, size_t members, const float *x, const float *y, double *sum)
{
    memset(sum, 0, c->rows * sizeof *sum);
    for (size_t m = 0; m < members; m++)
        for (size_t r = 0; r < c->rows; r++)
            sum[r] += (double)x[m * c->rows + r] * (double)y[m * c->rows + r];
}

/* Row (g, kind) of every system of the chunk. */
static void fill_row(struct chunk *c, size_t g, size_t kind)
{
    size_t unknown = g * c->kinds + kind, size = c->start[g + 1] - c->start[g];
    struct qnti_gemm y = {.m = c->cols, .n = c->rows, .k = size, .a = c->hm, .lda = c->cols, .transpose_a = true,
                          .b = basis(c, g, kind), .ldb = c->rows, .c = c->y, .ldc = c->rows, .alpha = 1};
    double sum[MOST_ROWS];
    qnti_gemm_one(&y);
    row_products(c, c->cols, c->y, c->target, sum);
    for (size_t r = 0; r < c->rows; r++)
        c->b[r * c->n + unknown] = sum[r];
    for (size_t other = 0; other < c->n; other++) {
        size_t k = other / c->kinds;
        row_products(c, c->start[k + 1] - c->start[k], c->y + c->start[k] * c->rows,
                     basis(c, k, other % c->kinds), sum);
        for (size_t r = 0; r < c->rows; r++)
            c->a[(r * c->n + unknown) * c->n + other] = sum[r];
    }
}

static void fill_systems(struct chunk *c)
{
    for (size_t g = 0; g < c->groups; g++) {
        size_t size = c->start[g + 1] - c->start[g];
        for (size_t i = 0; i < size; i++)
            for (size_t m = 0; m < c->cols; m++)
                c->hm[i * c->cols + m] = c->h[c->members[c->start[g] + i] * c->cols + c->members[m]];
        for (size_t kind = 0; kind < c->kinds; kind++)
            fill_row(c, g, kind);
    }
}

/* Takes the row's solution over if every scale keeps its sign. */
static void solve_row(struct chunk *c, size_t r)
{
    struct qnti_numbers *q = c->q;
    double *a = c->a + r * c->n * c->n, *b = c->b + r * c->n;
    float *scale = q->scale->value + (c->first + r) * q->scale->cols;
    float *offset = c->kinds == 2 ? q->offset->value + (c->first + r) * q->offset->cols : NULL;
    for (size_t i = 0; i < c->n; i++)
        if (a[i * c->n + i] <= 0) { /* a group whose codes are all zero, or whose columns are dead: keeps its scale */
            a[i * c->n + i] = 1;
            b[i] = i % c->kinds == 0 ? (double)scale[i / c->kinds] : (double)offset[i / c->kinds];
        }
    if (!qnti_solve_spd(a, b, c->n))
        return;
    for (size_t g = 0; g < c->groups; g++) {
        float s = qnti_round_to(q->scale->grid.float_type, (float)b[g * c->kinds]);
        if (!isfinite(s) || !(s * scale[g] > 0) || (offset && !isfinite(b[g * c->kinds + 1])))
            return;
    }
    for (size_t g = 0; g < c->groups; g++) {
        scale[g] = qnti_round_to(q->scale->grid.float_type, (float)b[g * c->kinds]);
        if (offset)
            offset[g] = qnti_round_to(q->offset->grid.float_type, (float)b[g * c->kinds + 1]);
    }
}

struct refit_task {
    qnt_context *ctx;
    const float *w, *h;
    struct qnti_numbers *q;
    size_t chunk, groups, kinds;
};

static qnt_status refit_chunk(void *arg, size_t index)
{
    const struct refit_task *t = arg;
    struct chunk c = {.ctx = t->ctx, .w = t->w, .h = t->h, .q = t->q, .first = index * t->chunk,
                      .cols = t->q->cols, .groups = t->groups, .kinds = t->kinds, .n = t->groups * t->kinds};
    qnt_status status;
    c.rows = qnti_min(t->chunk, t->q->rows - c.first);
    status = chunk_create(&c);
    if (status == QNT_OK) {
        load(&c);
        fill_systems(&c);
        for (size_t r = 0; r < c.rows; r++)
            solve_row(&c, r);
    }
    chunk_free(&c);
    return status;
}

qnt_status qnti_refit_scales(qnt_context *ctx, const float *w, const float *h, struct qnti_numbers *q)
{
    struct refit_task t = {.ctx = ctx, .w = w, .h = h, .q = q};
    size_t n;
    if (!qnti_can_refit(&q->grid))
        return QNT_OK;
    t.kinds = q->grid.form == QNTI_FORM_MIN ? 2 : 1;
    t.groups = qnti_map_groups(&q->grid.map, q->rows, q->cols);
    n = t.groups * t.kinds;
    t.chunk = qnti_max(8, qnti_min(MOST_ROWS, SYSTEM_BYTES / (sizeof(double) * n * n)));
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), refit_chunk, &t);
}
