/*
 * refit.c - with codes fixed, the scales (and minima) of a row that minimize (w - q) H (w - q)^T.
 *
 * q is linear in them: q = sum over groups of s_g b_g, b_g = code - zero on
 * the group's columns (and 1 for a minimum). So A s = B^T H w with A = B^T H B,
 * one small system a row. Some rows, a strip, lie side by side; the forms are
 * summed in f32 over a block of columns, in f64 across blocks. A row keeps what
 * it has where the system fails or a scale would change its sign.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "linalg/factor.h"

/* Bytes of the systems of a chunk, its rows; columns of y and of b in a form; rows solved at a time. */
enum { SYSTEM_BYTES = 16 << 20, MOST_ROWS = 256, BLOCK = 32, DEPTH = 64, SOLVED = 8 };

/* Groups taken together, so that a block of code and w is read once for all of them; kinds of unknowns. */
enum { TOGETHER = 8, MOST_KINDS = 2 };

/* Rows of a strip: what a block's forms read of it stays in the first cache. */
enum { STRIP = 64, STRIPS = MOST_ROWS / STRIP };

bool qnti_can_refit(const struct qnti_grid *grid)
{
    return (grid->form == QNTI_FORM_ZERO || grid->form == QNTI_FORM_MIN) && grid->map.kind != QNTI_MAP_FLAT &&
           grid->map.rows == 1 && !grid->scale_grid && !grid->offset_grid;
}

/* What all chunks share: the columns group by group, and H in that order. */
struct refit {
    qnt_context *ctx;
    const float *w;
    struct qnti_numbers *q;
    size_t cols, groups, kinds, n;   /* n = groups * kinds unknowns */
    size_t chunk;
    uint32_t *members;     /* [cols] */
    size_t *start;         /* [groups + 1] */
    const float *h;        /* [cols][cols], members in their order */
    float *ordered;        /* where that is not the order of columns */
};

static qnt_status list_groups(struct refit *t)
{
    uint32_t *group;
    size_t n = 0;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->cols, &t->members));
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->groups + 1, &t->start));
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->cols, &group));
    for (size_t j = 0; j < t->cols; j++) {
        size_t row, g;
        qnti_map_find(&t->q->grid.map, t->cols, 0, j, &row, &g);
        group[j] = (uint32_t)g;
    }
    for (size_t g = 0; g < t->groups; g++) {
        t->start[g] = n;
        for (size_t j = 0; j < t->cols; j++)
            if (group[j] == g)
                t->members[n++] = (uint32_t)j;
    }
    t->start[t->groups] = n;
    qnti_free(t->ctx, group);
    return QNT_OK;
}

static qnt_status order_row(void *arg, size_t index)
{
    struct refit *t = arg;
    const float *row = t->h + t->members[index] * t->cols;
    for (size_t j = 0; j < t->cols; j++)
        t->ordered[index * t->cols + j] = row[t->members[j]];
    return QNT_OK;
}

static qnt_status order_hessian(struct refit *t)
{
    if (t->q->grid.map.kind != QNTI_MAP_INDEX)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->cols * t->cols, &t->ordered));
    QNT_TRY(qnti_parallel(t->ctx, t->cols, order_row, t));
    t->h = t->ordered;
    return QNT_OK;
}

struct chunk {
    const struct refit *t;
    qnt_context *ctx;
    const struct qnti_kernels *kernels;
    size_t first, rows;
    uint16_t *stored;      /* [cols] codes of a row */
    float *ones;           /* [DEPTH][STRIP] */
    float *block;          /* group by group: [BLOCK][size], rows of H of the members in hand */
    double (*sum)[TOGETHER * MOST_KINDS][MOST_KINDS][STRIP];   /* [STRIPS] forms of the groups in hand */
    struct strip {
        size_t rows;
        float *code;       /* [cols][STRIP] code - zero, in member order */
        float *target;     /* [cols][STRIP] w, in member order */
        float *a;          /* [n (n + 1) / 2][STRIP] lower triangles */
        double *b;         /* [n][STRIP] */
    } strips[STRIPS];
    double *system, *side; /* [SOLVED][n][n], [n] */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->stored, c->ones, c->block, c->sum, c->system, c->side};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->ctx, memory[i]);
    for (size_t i = 0; i < STRIPS; i++) {
        qnti_free(c->ctx, c->strips[i].code);
        qnti_free(c->ctx, c->strips[i].target);
        qnti_free(c->ctx, c->strips[i].a);
        qnti_free(c->ctx, c->strips[i].b);
    }
}

static qnt_status strips_create(struct chunk *c)
{
    size_t n = c->t->n, cols = c->t->cols;
    for (size_t i = 0; i * STRIP < c->rows; i++) {
        struct strip *s = &c->strips[i];
        s->rows = qnti_min(STRIP, c->rows - i * STRIP);
        QNT_TRY(QNTI_NEW_RAW(c->ctx, cols * STRIP, &s->code));
        QNT_TRY(QNTI_NEW_RAW(c->ctx, cols * STRIP, &s->target));
        QNT_TRY(QNTI_NEW_RAW(c->ctx, n * (n + 1) / 2 * STRIP, &s->a));
        QNT_TRY(QNTI_NEW(c->ctx, n * STRIP, &s->b));
    }
    return QNT_OK;
}

/* Columns of the widest groups that are taken together. */
static size_t most_together(const struct refit *t)
{
    size_t most = 0;
    for (size_t first = 0; first < t->groups; first += TOGETHER)
        most = qnti_max(most, t->start[qnti_min(first + TOGETHER, t->groups)] - t->start[first]);
    return most;
}

static qnt_status chunk_create(struct chunk *c)
{
    size_t n = c->t->n;
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->t->cols, &c->stored));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, BLOCK * most_together(c->t), &c->block));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, STRIPS, &c->sum));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, DEPTH * STRIP, &c->ones));
    for (size_t i = 0; i < DEPTH * STRIP; i++)
        c->ones[i] = 1;
    QNT_TRY(QNTI_NEW_RAW(c->ctx, SOLVED * n * n, &c->system));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, n, &c->side));
    return strips_create(c);
}

/* Row r of the chunk into its strip. */
static void load_row(struct chunk *c, size_t r)
{
    const struct refit *t = c->t;
    const float *w = t->w + (c->first + r) * t->cols;
    float *code = c->strips[r / STRIP].code + r % STRIP, *target = c->strips[r / STRIP].target + r % STRIP;
    qnti_numbers_get_codes(t->q, c->first + r, 0, t->cols, c->stored);
    for (size_t g = 0; g < t->groups; g++) {
        float scale, zero;
        if (t->start[g] == t->start[g + 1])
            continue;
        qnti_numbers_affine(t->q, c->first + r, t->members[t->start[g]], &scale, &zero);
        if (t->q->grid.form == QNTI_FORM_MIN)
            zero = 0;
        for (size_t m = t->start[g]; m < t->start[g + 1]; m++) {
            code[m * STRIP] = (float)c->stored[t->members[m]] - zero;
            target[m * STRIP] = w[t->members[m]];
        }
    }
}

/* Values of an unknown of that kind on members from m on, [members][STRIP]; of a minimum on at most DEPTH of them. */
static const float *basis(const struct chunk *c, const struct strip *s, size_t m, size_t kind)
{
    return kind == 0 ? s->code + m * STRIP : c->ones;
}

/* Where group g's part of the block begins. */
static float *block_of(const struct chunk *c, size_t first, size_t g)
{
    return c->block + (c->t->start[g] - c->t->start[first]) * BLOCK;
}

/* The columns of groups [first, last) in rows m to m + count - 1 of H, laid side by side. */
static void load_block(struct chunk *c, size_t first, size_t last, size_t m, size_t count)
{
    const struct refit *t = c->t;
    for (size_t i = 0; i < count; i++)
        for (size_t g = first; g < last; g++) {
            size_t size = t->start[g + 1] - t->start[g];
            memcpy(block_of(c, first, g) + i * size, t->h + (m + i) * t->cols + t->start[g], size * sizeof *t->h);
        }
}

/*
 * Forms y H b, b that of unknown (g, kind), y on `count` members from m on: of w into b's side of the systems, and, if
 * wanted, of each kind of basis into sum; h is the block of g.
 */
static void add_forms(struct chunk *c, struct strip *s, const float *h, size_t g, size_t kind, size_t m, size_t count,
                      double (*sum)[STRIP])
{
    const struct refit *t = c->t;
    const float *y[1 + MOST_KINDS] = {s->target + m * STRIP, basis(c, s, m, 0), c->ones};
    float part[1 + MOST_KINDS][STRIP] = {{0}}, *parts[1 + MOST_KINDS] = {part[0], part[1], part[2]};
    size_t begin = t->start[g], size = t->start[g + 1] - begin, forms = sum ? 1 + t->kinds : 1;
    double *side = s->b + (g * t->kinds + kind) * STRIP;
    for (size_t i = 0; i < size; i += DEPTH)
        c->kernels->forms(s->rows, count, qnti_min(DEPTH, size - i), h + i, size, basis(c, s, begin + i, kind), STRIP,
                          forms, y, parts);
    for (size_t r = 0; r < s->rows; r++)
        side[r] += (double)part[0][r];
    for (size_t f = 1; f < forms; f++)
        for (size_t r = 0; r < s->rows; r++)
            sum[f - 1][r] += (double)part[f][r];
}

/* Rows of the systems, those of groups [first, last): what they have in common with group k, what it gives to b. */
static void fill_group(struct chunk *c, size_t first, size_t last, size_t k)
{
    size_t kinds = c->t->kinds, begin = first * kinds, end = last * kinds, strips = qnti_ceil_div(c->rows, STRIP);
    memset(c->sum, 0, strips * sizeof *c->sum);
    for (size_t m = c->t->start[k], count; m < c->t->start[k + 1]; m += count) {
        count = qnti_min(BLOCK, c->t->start[k + 1] - m);
        load_block(c, first, last, m, count);
        for (size_t i = 0; i < strips; i++)
            for (size_t u = begin; u < end; u++)
                add_forms(c, &c->strips[i], block_of(c, first, u / kinds), u / kinds, u % kinds, m, count,
                          k <= u / kinds ? c->sum[i][u - begin] : NULL);
    }
    for (size_t i = 0; i < strips; i++)
        for (size_t u = begin; u < end; u++)
            for (size_t v = k * kinds; v < (k + 1) * kinds && v <= u; v++)
                for (size_t r = 0; r < c->strips[i].rows; r++)
                    c->strips[i].a[(u * (u + 1) / 2 + v) * STRIP + r] = (float)c->sum[i][u - begin][v % kinds][r];
}

static void fill_systems(struct chunk *c)
{
    for (size_t first = 0; first < c->t->groups; first += TOGETHER)
        for (size_t k = 0; k < c->t->groups; k++)
            fill_group(c, first, qnti_min(first + TOGETHER, c->t->groups), k);
}

/* The systems of rows r to r + n - 1 of a strip, one behind the other. */
static void take_systems(struct chunk *c, const struct strip *s, size_t r, size_t n)
{
    size_t unknowns = c->t->n;
    const float *a = s->a + r;
    for (size_t i = 0; i < unknowns; i++)
        for (size_t j = 0; j <= i; j++, a += STRIP)
            for (size_t k = 0; k < n; k++)
                c->system[(k * unknowns + i) * unknowns + j] = (double)a[k];
}

/* Takes the row's solution over if every scale keeps its sign. */
static void solve_row(struct chunk *c, size_t r, double *a)
{
    const struct refit *t = c->t;
    struct qnti_numbers *q = t->q;
    double *b = c->side;
    float *scale = q->scale->value + (c->first + r) * q->scale->cols;
    float *offset = t->kinds == 2 ? q->offset->value + (c->first + r) * q->offset->cols : NULL;
    for (size_t i = 0; i < t->n; i++)
        b[i] = c->strips[r / STRIP].b[i * STRIP + r % STRIP];
    for (size_t i = 0; i < t->n; i++)
        if (a[i * t->n + i] <= 0) { /* a group whose codes are all zero, or whose columns are dead: keeps its scale */
            a[i * t->n + i] = 1;
            b[i] = i % t->kinds == 0 ? (double)scale[i / t->kinds] : (double)offset[i / t->kinds];
        }
    if (!qnti_solve_spd(a, b, t->n))
        return;
    for (size_t g = 0; g < t->groups; g++) {
        float s = qnti_round_to(q->scale->grid.float_type, (float)b[g * t->kinds]);
        if (!isfinite(s) || !(s * scale[g] > 0) || (offset && !isfinite(b[g * t->kinds + 1])))
            return;
    }
    for (size_t g = 0; g < t->groups; g++) {
        scale[g] = qnti_round_to(q->scale->grid.float_type, (float)b[g * t->kinds]);
        if (offset)
            offset[g] = qnti_round_to(q->offset->grid.float_type, (float)b[g * t->kinds + 1]);
    }
}

static void solve_rows(struct chunk *c)
{
    size_t square = c->t->n * c->t->n;
    for (size_t r = 0, n; r < c->rows; r += n) {
        n = qnti_min(SOLVED, c->rows - r);
        take_systems(c, &c->strips[r / STRIP], r % STRIP, n);
        for (size_t k = 0; k < n; k++)
            solve_row(c, r + k, c->system + k * square);
    }
}

static qnt_status refit_chunk(void *arg, size_t index)
{
    const struct refit *t = arg;
    struct chunk c = {.t = t, .ctx = t->ctx, .kernels = qnti_context_kernels(t->ctx), .first = index * t->chunk};
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
    struct refit t = {.ctx = ctx, .w = w, .h = h, .q = q, .cols = q->cols};
    qnt_status status;
    if (!qnti_can_refit(&q->grid))
        return QNT_OK;
    t.kinds = q->grid.form == QNTI_FORM_MIN ? 2 : 1;
    t.groups = qnti_map_groups(&q->grid.map, q->rows, q->cols);
    t.n = t.groups * t.kinds;
    t.chunk = qnti_min(qnti_chunk_rows(&q->grid, q->rows, MOST_ROWS),
                       2 * SYSTEM_BYTES / (sizeof(float) * t.n * (t.n + 1)));
    t.chunk = qnti_max(t.chunk, SOLVED);
    QNT_CHECK(list_groups(&t));
    QNT_CHECK(order_hessian(&t));
    QNT_CHECK(qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), refit_chunk, &t));
cleanup:
    qnti_free(ctx, t.members);
    qnti_free(ctx, t.start);
    qnti_free(ctx, t.ordered);
    return status;
}
