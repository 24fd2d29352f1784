/*
 * refit.c - with codes fixed, the scales (and minima) of a row that minimize (w - q) H (w - q)^T.
 *
 * q is linear in them: q = sum over groups of s_g b_g, b_g = code - zero on
 * the group's columns (and 1 for a minimum). So A s = B^T H w with A = B^T H B,
 * one small system a row. Some rows, a strip, lie side by side: H b_g is made
 * for some columns at a time and at once multiplied by b and w, in f32 over a
 * block of columns, in f64 across blocks. A row keeps what it has where the
 * system fails or a scale would change its sign.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "linalg/factor.h"

/* Bytes of the systems of a chunk, its rows; columns at a time: of H b, of a group; rows solved at a time. */
enum { SYSTEM_BYTES = 16 << 20, MOST_ROWS = 256, BLOCK = 32, DEPTH = 64, SOLVED = 8 };

/* Groups taken together, so that a block of code and w is read once for all of them; kinds of unknowns. */
enum { TOGETHER = 8, MOST_KINDS = 2 };

/* Rows of a strip, and how far apart its columns are: no power of two, so that they do not meet in the cache. */
enum { STRIP = 64, APART = 80 };

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
    bool natural;          /* the members stand in the order of the columns */
    uint16_t *stored;      /* [cols] codes of a row */
    float *hm[TOGETHER];   /* [cols][size of a group]: the columns of H of the groups in hand, in member order */
    float *y;              /* [BLOCK][APART] H b of some columns */
    float *ones;           /* [DEPTH][APART] */
    struct strip {
        size_t rows;
        float *code;       /* [cols][APART] code - zero, in member order */
        float *target;     /* [cols][APART] w, in member order */
        float *a;          /* [n (n + 1) / 2][STRIP] lower triangles */
        double *b;         /* [n][STRIP] */
    } strips[MOST_ROWS / STRIP];
    double *system, *side; /* [SOLVED][n][n], [n] */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->group, c->members, c->start, c->stored, c->y, c->ones, c->system, c->side};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->ctx, memory[i]);
    for (size_t i = 0; i < TOGETHER; i++)
        qnti_free(c->ctx, c->hm[i]);
    for (size_t i = 0; i < MOST_ROWS / STRIP; i++) {
        qnti_free(c->ctx, c->strips[i].code);
        qnti_free(c->ctx, c->strips[i].target);
        qnti_free(c->ctx, c->strips[i].a);
        qnti_free(c->ctx, c->strips[i].b);
    }
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
    c->natural = c->q->grid.map.kind != QNTI_MAP_INDEX;
}

static size_t largest_group(const struct chunk *c)
{
    size_t most = 0;
    for (size_t g = 0; g < c->groups; g++)
        most = qnti_max(most, c->start[g + 1] - c->start[g]);
    return most;
}

static qnt_status strips_create(struct chunk *c)
{
    for (size_t i = 0; i * STRIP < c->rows; i++) {
        struct strip *s = &c->strips[i];
        s->rows = qnti_min(STRIP, c->rows - i * STRIP);
        QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols * APART, &s->code));
        QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols * APART, &s->target));
        QNT_TRY(QNTI_NEW_RAW(c->ctx, c->n * (c->n + 1) / 2 * STRIP, &s->a));
        QNT_TRY(QNTI_NEW(c->ctx, c->n * STRIP, &s->b));
    }
    return QNT_OK;
}

static qnt_status chunk_create(struct chunk *c)
{
    qnt_context *ctx = c->ctx;
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->group));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->members));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->groups + 1, &c->start));
    list_groups(c);
    QNT_TRY(QNTI_NEW_RAW(ctx, c->cols, &c->stored));
    for (size_t i = 0; i < qnti_min(TOGETHER, c->groups); i++)
        QNT_TRY(QNTI_NEW_RAW(ctx, largest_group(c) * c->cols, &c->hm[i]));
    QNT_TRY(QNTI_NEW_RAW(ctx, BLOCK * APART, &c->y));
    QNT_TRY(QNTI_NEW_RAW(ctx, DEPTH * APART, &c->ones));
    for (size_t i = 0; i < DEPTH * APART; i++)
        c->ones[i] = 1;
    QNT_TRY(QNTI_NEW_RAW(ctx, SOLVED * c->n * c->n, &c->system));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->n, &c->side));
    return strips_create(c);
}

/* Row r of the chunk into its strip. */
static void load_row(struct chunk *c, size_t r)
{
    const float *w = c->w + (c->first + r) * c->cols;
    float *code = c->strips[r / STRIP].code + r % STRIP, *target = c->strips[r / STRIP].target + r % STRIP;
    qnti_numbers_get_codes(c->q, c->first + r, 0, c->cols, c->stored);
    for (size_t g = 0; g < c->groups; g++) {
        float scale, zero;
        if (c->start[g] == c->start[g + 1])
            continue;
        qnti_numbers_affine(c->q, c->first + r, c->members[c->start[g]], &scale, &zero);
        if (c->q->grid.form == QNTI_FORM_MIN)
            zero = 0;
        for (size_t m = c->start[g]; m < c->start[g + 1]; m++) {
            code[m * APART] = (float)c->stored[c->members[m]] - zero;
            target[m * APART] = w[c->members[m]];
        }
    }
}

/* The columns of H of the members of groups [first, last). */
static void load_columns(struct chunk *c, size_t first, size_t last)
{
    for (size_t m = 0; m < c->cols; m++) {
        const float *row = c->h + c->members[m] * c->cols;
        for (size_t g = first; g < last; g++) {
            size_t begin = c->start[g], size = c->start[g + 1] - begin;
            float *hm = c->hm[g - first] + m * size;
            if (c->natural)
                memcpy(hm, row + begin, size * sizeof *hm);
            for (size_t i = 0; !c->natural && i < size; i++)
                hm[i] = row[c->members[begin + i]];
        }
    }
}

/* Values of an unknown of that kind on members from m on, [members][APART]; of a minimum on at most DEPTH of them. */
static const float *basis(const struct chunk *c, const struct strip *s, size_t m, size_t kind)
{
    return kind == 0 ? s->code + m * APART : c->ones;
}

/* y = H b of unknown (g, kind) on `count` members from m on; hm are g's columns of H. */
static void multiply(struct chunk *c, const struct strip *s, const float *hm, size_t g, size_t kind, size_t m,
                     size_t count)
{
    size_t begin = c->start[g], size = c->start[g + 1] - begin;
    memset(c->y, 0, count * APART * sizeof *c->y);
    for (size_t i = 0; i < size; i += DEPTH)
        c->kernels->mix(s->rows, count, qnti_min(DEPTH, size - i), hm + m * size + i, size,
                        basis(c, s, begin + i, kind), APART, c->y, APART);
}

/* sum[r] += y x over `count` members. */
static void add_products(const struct chunk *c, const struct strip *s, size_t count, const float *x, double *sum)
{
    float part[STRIP] = {0};
    c->kernels->dots(s->rows, count, c->y, APART, x, APART, part);
    for (size_t r = 0; r < s->rows; r++)
        sum[r] += (double)part[r];
}

/* What rows of the systems, those of groups [first, last), have in common with group k; what its columns give to b. */
static void fill_group(struct chunk *c, struct strip *s, size_t first, size_t last, size_t k)
{
    double sum[TOGETHER * MOST_KINDS][MOST_KINDS][STRIP] = {{{0}}};
    size_t kinds = c->kinds, unknowns = (last - first) * kinds;
    for (size_t m = c->start[k], count; m < c->start[k + 1]; m += count) {
        count = qnti_min(BLOCK, c->start[k + 1] - m);
        for (size_t u = 0; u < unknowns; u++) {
            size_t g = first + u / kinds;
            multiply(c, s, c->hm[u / kinds], g, u % kinds, m, count);
            add_products(c, s, count, s->target + m * APART, s->b + (first * kinds + u) * STRIP);
            for (size_t kind = 0; k <= g && kind < kinds; kind++)
                add_products(c, s, count, basis(c, s, m, kind), sum[u][kind]);
        }
    }
    for (size_t u = first * kinds; u < last * kinds; u++)
        for (size_t v = k * kinds; v < (k + 1) * kinds && v <= u; v++)
            for (size_t r = 0; r < s->rows; r++)
                s->a[(u * (u + 1) / 2 + v) * STRIP + r] = (float)sum[u - first * kinds][v % kinds][r];
}

static void fill_systems(struct chunk *c)
{
    for (size_t first = 0, last; first < c->groups; first = last) {
        last = qnti_min(first + TOGETHER, c->groups);
        load_columns(c, first, last);
        for (size_t i = 0; i * STRIP < c->rows; i++)
            for (size_t k = 0; k < c->groups; k++)
                fill_group(c, &c->strips[i], first, last, k);
    }
}

/* The systems of rows r to r + n - 1 of a strip, one behind the other. */
static void take_systems(struct chunk *c, const struct strip *s, size_t r, size_t n)
{
    const float *a = s->a + r;
    for (size_t i = 0; i < c->n; i++)
        for (size_t j = 0; j <= i; j++, a += STRIP)
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
        b[i] = c->strips[r / STRIP].b[i * STRIP + r % STRIP];
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
        take_systems(c, &c->strips[r / STRIP], r % STRIP, n);
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
        for (size_t r = 0; r < c.rows; r++)
            load_row(&c, r);
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
