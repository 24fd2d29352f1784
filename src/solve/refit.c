/*
 * refit.c - with codes fixed, the scales (and minima) of a row that minimize (w - q) H (w - q)^T.
 *
 * q is linear in them: q = sum over groups of s_g b_g, b_g = code - zero on
 * the group's columns (and 1 for a minimum). So A s = B^T H w with A = B^T H B,
 * one small system a row. A chunk of rows lies side by side, [column][row]:
 * H b_g is made for some columns at a time and at once multiplied by b and w,
 * in f32 over a block of columns, in f64 across blocks. A row keeps what it has
 * where the system fails or a scale would change its sign.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "linalg/factor.h"

/* Bytes of the systems of a chunk, its rows; columns at a time: of H b, of a group; rows solved at a time. */
enum { SYSTEM_BYTES = 16 << 20, MOST_ROWS = 256, BLOCK = 32, DEPTH = 64, SOLVED = 8 };

bool qnti_can_refit(const struct qnti_grid *grid)
{
    return (grid->form == QNTI_FORM_ZERO || grid->form == QNTI_FORM_MIN) && grid->map.kind != QNTI_MAP_FLAT &&
           grid->map.rows == 1 && !grid->scale_grid && !grid->offset_grid;
}

struct chunk {
    qnt_context *ctx;
    const struct qnti_kernels *kernels;
    const float *w, *h;
    struct qnti_numbers *q;
    size_t first, rows, cols, groups, kinds, n;   /* n = groups * kinds unknowns */
    uint32_t *group;       /* [cols] */
    uint32_t *members;     /* [cols] columns group by group */
    size_t *start;         /* [groups + 1] */
    uint16_t *stored;      /* [cols] codes of a row */
    float *code;           /* [cols][rows] code - zero, in member order */
    float *target;         /* [cols][rows] w, in member order */
    float *hm;             /* [cols][size of a group]: the columns of H of the group in hand, all in member order */
    float *y;              /* [BLOCK][rows] H b of some columns */
    float *ones;           /* [BLOCK or DEPTH, the larger][rows] */
    float *a;              /* [n (n + 1) / 2][rows] lower triangles */
    double *b;             /* [n][rows] */
    double *system, *side; /* [SOLVED][n][n], [n] */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->group, c->members, c->start, c->stored, c->code, c->target,
                      c->hm,    c->y,       c->ones,  c->a,      c->b,    c->system, c->side};
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
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->group));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->members));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->groups + 1, &c->start));
    list_groups(c);
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->stored));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols * c->rows, &c->code));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols * c->rows, &c->target));
    QNT_TRY(QNTI_NEW_RAW(ctx, largest_group(c) * c->cols, &c->hm));
    QNT_TRY(QNTI_NEW_RAW(ctx, BLOCK * c->rows, &c->y));
    QNT_TRY(QNTI_NEW_RAW(ctx, DEPTH * c->rows, &c->ones));
    for (size_t i = 0; i < DEPTH * c->rows; i++)
        c->ones[i] = 1;
    QNT_TRY(QNTI_NEW_RAW(ctx, c->n * (c->n + 1) / 2 * c->rows, &c->a));
    QNT_TRY(QNTI_NEW(ctx, c->n * c->rows, &c->b));
    QNT_TRY(QNTI_NEW_RAW(ctx, SOLVED * c->n * c->n, &c->system));
    return QNTI_NEW_RAW(ctx, c->n, &c->side);
}

static void load(struct chunk *c)
{
    bool zero = c->q->grid.form == QNTI_FORM_ZERO;
    for (size_t r = 0; r < c->rows; r++) {
        const float *w = c->w + (c->first + r) * c->cols;
        qnti_numbers_get_codes(c->q, c->first + r, 0, c->cols, c->stored);
        for (size_t g = 0; g < c->groups; g++) {
            float scale, offset;
            if (c->start[g] == c->start[g + 1])
                continue;
            qnti_numbers_affine(c->q, c->first + r, c->members[c->start[g]], &scale, &offset);
            for (size_t m = c->start[g]; m < c->start[g + 1]; m++) {
                c->code[m * c->rows + r] = (float)c->stored[c->members[m]] - (zero ? offset : 0);
                c->target[m * c->rows + r] = w[c->members[m]];
            }
        }
    }
}

/* The columns of H of group g's members. H is symmetric: rows are read. */
static void load_columns(struct chunk *c, size_t g)
{
    size_t begin = c->start[g], size = c->start[g + 1] - begin;
    for (size_t i = 0; i < size; i++) {
        const float *row = c->h + c->members[begin + i] * c->cols;
        for (size_t m = 0; m < c->cols; m++)
            c->hm[m * size + i] = row[c->members[m]];
    }
}

/* Values of an unknown of that kind on members from m on, [members][rows]; of a minimum on at most DEPTH of them. */
static const float *basis(const struct chunk *c, size_t m, size_t kind)
{
    return kind == 0 ? c->code + m * c->rows : c->ones;
}

/* y = H b of unknown (g, kind) on `count` members from m on. */
static void multiply(struct chunk *c, size_t g, size_t kind, size_t m, size_t count)
{
    size_t begin = c->start[g], size = c->start[g + 1] - begin;
    memset(c->y, 0, count * c->rows * sizeof *c->y);
    for (size_t i = 0; i < size; i += DEPTH)
        c->kernels->mix(c->rows, count, qnti_min(DEPTH, size - i), c->hm + m * size + i, size,
                        basis(c, begin + i, kind), c->rows, c->y, c->rows);
}

/* sum[r] += y x over `count` members. */
static void add_products(const struct chunk *c, size_t count, const float *x, double *sum)
{
    float part[MOST_ROWS] = {0};
    c->kernels->dots(c->rows, count, c->y, c->rows, x, c->rows, part);
    for (size_t r = 0; r < c->rows; r++)
        sum[r] += (double)part[r];
}

/* Row (g, kind) of every system of the chunk, up to the diagonal. */
static void fill_row(struct chunk *c, size_t g, size_t kind)
{
    size_t unknown = g * c->kinds + kind;
    float *a = c->a + unknown * (unknown + 1) / 2 * c->rows;
    for (size_t k = 0; k < c->groups; k++) {
        double sum[2][MOST_ROWS] = {0};
        for (size_t m = c->start[k], count; m < c->start[k + 1]; m += count) {
            count = qnti_min(BLOCK, c->start[k + 1] - m);
            multiply(c, g, kind, m, count);
            add_products(c, count, c->target + m * c->rows, c->b + unknown * c->rows);
            for (size_t other = 0; k <= g && other < c->kinds; other++)
                add_products(c, count, basis(c, m, other), sum[other]);
        }
        for (size_t other = 0; other < c->kinds && k * c->kinds + other <= unknown; other++)
            for (size_t r = 0; r < c->rows; r++)
                a[(k * c->kinds + other) * c->rows + r] = (float)sum[other][r];
    }
}

static void fill_systems(struct chunk *c)
{
    for (size_t g = 0; g < c->groups; g++) {
        load_columns(c, g);
        for (size_t kind = 0; kind < c->kinds; kind++)
            fill_row(c, g, kind);
    }
}

/* The systems of rows r to r + n - 1, one behind the other. */
static void take_systems(struct chunk *c, size_t r, size_t n)
{
    const float *a = c->a + r;
    for (size_t i = 0; i < c->n; i++)
        for (size_t j = 0; j <= i; j++, a += c->rows)
            for (size_t k = 0; k < n; k++)
                c->system[(k * c->n + i) * c->n + j] = (double)a[k];
}

/* Takes the row's solution over if every scale keeps its sign. */
static void solve_row(struct chunk *c, size_t r, double *a)
{
    struct qnti_numbers *q = c->q;
    double *b = c->side;
    float *scale = q->scale->value + (c->first + r) * q->scale->cols;
    float *offset = c->kinds == 2 ? q->offset->value + (c->first + r) * q->offset->cols : NULL;
    for (size_t i = 0; i < c->n; i++)
        b[i] = c->b[i * c->rows + r];
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

static void solve_rows(struct chunk *c)
{
    for (size_t r = 0, n; r < c->rows; r += n) {
        n = qnti_min(SOLVED, c->rows - r);
        take_systems(c, r, n);
        for (size_t k = 0; k < n; k++)
            solve_row(c, r + k, c->system + k * c->n * c->n);
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
    struct chunk c = {.ctx = t->ctx, .kernels = qnti_context_kernels(t->ctx), .w = t->w, .h = t->h, .q = t->q, .first = index * t->chunk,
                      .cols = t->q->cols, .groups = t->groups, .kinds = t->kinds, .n = t->groups * t->kinds};
    qnt_status status;
    c.rows = qnti_min(t->chunk, t->q->rows - c.first);
    status = chunk_create(&c);
    if (status == QNT_OK) {
        load(&c);
        fill_systems(&c);
        solve_rows(&c);
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
    t.chunk = qnti_min(qnti_chunk_rows(&q->grid, q->rows, MOST_ROWS), SYSTEM_BYTES / (sizeof(float) * n * (n + 1) / 2));
    t.chunk = qnti_max(t.chunk, SOLVED);
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), refit_chunk, &t);
}
