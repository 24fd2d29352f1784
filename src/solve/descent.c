/*
 * descent.c - cyclic coordinate descent on the codes of a layer and on the scales of its groups.
 *
 * With D = W - Q and G = D H, the best value of column j, all others fixed, is
 * Q_j + G_j / H_jj, rounded to the grid; the best step of a group's scale is
 * b G_g / b H_gg b, b its codes less zero, and of a scale and a minimum the
 * solution of two such equations. G follows each change by its product with H
 * (gptq.md, "Beyond the paper"). Under the H given the error never rises.
 *
 * Blocks of whole groups come in turn: their scales, then their codes, a few
 * times over while only the block's part of G follows; then the rest of G does,
 * change by change, or as one gemm where they are many. Columns of a group lie
 * side by side: where they do not, all works in an order in which they do.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/kernels.h"
#include "base/number.h"
#include "linalg/blas.h"

/*
 * Columns of a block, or more for wider groups; rounds in a block where scales move; columns rounded at once; of H that
 * the cache holds for a block. A change in DENSE numbers pays a gemm.
 */
enum { CHUNK_ROWS = 256, BLOCK = 128, ROUNDS = 2, RUN = 32, TILE = 512, DENSE = 5 };

bool qnti_can_refit(const struct qnti_grid *grid)
{
    return (grid->form == QNTI_FORM_ZERO || grid->form == QNTI_FORM_MIN) && grid->map.kind != QNTI_MAP_FLAT &&
           grid->map.rows == 1 && !grid->scale_grid && !grid->offset_grid;
}

/* What all chunks share. */
struct descent {
    qnt_context *ctx;
    const float *w, *h;
    size_t passes, chunk, cols;
    bool scales;
    struct qnti_numbers *q;
    uint32_t *member;        /* [cols] position -> column, group by group; NULL: natural */
    float *ordered;          /* (cols, cols) H in that order */
    size_t block;            /* columns of a block */
};

struct chunk {
    const struct descent *t;
    const struct qnti_kernels *kernels;
    size_t first, rows;
    float *g;                /* [rows][cols] of D H */
    float *d;                /* [rows][cols] of D, at the start */
    uint16_t *code;          /* [rows][cols] */
    float *diagonal;         /* [cols] of H */
    float *change;           /* [rows][block] how much a block's values rose */
    uint32_t *changed;       /* [rows][block] its columns that did, */
    size_t *count;           /* [rows] and how many */
    float *basis;            /* [rows][block] codes less zero of a group, */
    float *product;          /* [rows][block] and their products with the block's part of H, in place of D */
    float *sum;              /* [block] of H's rows over a group */
    uint16_t *natural;       /* [cols] codes of a row in the order of columns */
};

static uint32_t column_at(const struct descent *t, size_t position)
{
    return t->member ? t->member[position] : (uint32_t)position;
}

/* Positions from one on that share its row's grid. */
static size_t run_at(const struct descent *t, size_t r, size_t position)
{
    const struct qnti_map *map = &t->q->grid.map;
    size_t end = position + 1;
    if (!t->member)
        return qnti_map_run(map, t->cols, r, position);
    while (end < t->cols && map->index[t->member[end]] == map->index[t->member[position]])
        end++;
    return end - position;
}

/* --- a chunk of rows --- */

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->g,       c->d,     c->code,  c->diagonal, c->change,
                      c->changed, c->count, c->basis, c->sum,      c->natural};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->t->ctx, memory[i]);
}

static qnt_status chunk_create(struct chunk *c)
{
    qnt_context *ctx = c->t->ctx;
    size_t cols = c->t->cols, block = c->t->block;
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows * cols, &c->g));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows * cols, &c->d));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows * cols, &c->code));
    QNT_TRY(QNTI_NEW_RAW(ctx, cols, &c->diagonal));
    QNT_TRY(QNTI_NEW_RAW(ctx, cols, &c->natural));
    QNT_TRY(QNTI_NEW(ctx, c->rows * block, &c->change));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows * block, &c->changed));
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows, &c->count));
    if (!c->t->scales)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(ctx, c->rows * block, &c->basis));
    c->product = c->d;
    return QNTI_NEW_RAW(ctx, block, &c->sum);
}

/* Codes, D and G = D H. */
static void load(struct chunk *c)
{
    const struct descent *t = c->t;
    size_t cols = t->cols;
    for (size_t j = 0; j < cols; j++)
        c->diagonal[j] = t->h[j * cols + j];
    for (size_t r = 0; r < c->rows; r++) {
        const float *w = t->w + (c->first + r) * cols;
        float *d = c->d + r * cols, *value = c->g; /* not in use yet */
        qnti_numbers_values(t->q, c->first + r, 0, cols, value);
        qnti_numbers_get_codes(t->q, c->first + r, 0, cols, c->natural);
        for (size_t j = 0; j < cols; j++) {
            uint32_t column = column_at(t, j);
            d[j] = w[column] - value[column];
            c->code[r * cols + j] = c->natural[column];
        }
    }
    qnti_gemm_one(&(struct qnti_gemm){.m = c->rows, .n = cols, .k = cols, .a = c->d, .lda = cols, .b = t->h,
                                      .ldb = cols, .c = c->g, .ldc = cols, .alpha = 1});
}

static void store(struct chunk *c)
{
    for (size_t r = 0; r < c->rows; r++) {
        for (size_t j = 0; j < c->t->cols; j++)
            c->natural[column_at(c->t, j)] = c->code[r * c->t->cols + j];
        qnti_numbers_put_codes(c->t->q, c->first + r, 0, c->t->cols, c->natural);
    }
}

/* --- codes --- */

/* Columns of one row that share a grid. */
struct run {
    size_t begin, n;
    float scale, offset;
    float value[RUN], target[RUN], best[RUN];
    uint16_t *code, chosen[RUN];
};

/* The first column from k on whose best code is another one than it has; n if there is none. */
static size_t first_change(const struct chunk *c, struct run *run, const float *g, size_t k)
{
    for (size_t i = k; i < run->n; i++)
        run->target[i] = run->value[i] + g[i] / c->diagonal[run->begin + i];
    qnti_grid_round(&c->t->q->grid, NULL, run->n - k, run->target + k, &run->scale, &run->offset, 0, run->chosen + k,
                    run->best + k);
    while (k < run->n && run->chosen[k] == run->code[k])
        k++;
    return k;
}

/* Few codes change: a run is rounded at once, and again from behind the first code that does; the block's G follows. */
static void step_run(struct chunk *c, size_t r, struct run *run, size_t begin, size_t end)
{
    const struct descent *t = c->t;
    float *g = c->g + r * t->cols, *change = c->change + r * t->block;
    run->code = c->code + r * t->cols + run->begin;
    qnti_numbers_affine(t->q, c->first + r, column_at(t, run->begin), &run->scale, &run->offset);
    qnti_grid_value(&t->q->grid, NULL, run->n, run->code, &run->scale, &run->offset, 0, run->value);
    for (size_t k = 0; (k = first_change(c, run, g + run->begin, k)) < run->n; k++) {
        size_t j = run->begin + k;
        float rise = run->best[k] - run->value[k];
        run->code[k] = run->chosen[k];
        run->value[k] = run->best[k];
        change[j - begin] += rise;
        c->kernels->axpy(end - begin, -rise, t->h + j * t->cols + begin, g + begin);
    }
}

static void step_codes(struct chunk *c, size_t begin, size_t end)
{
    for (size_t r = 0; r < c->rows; r++)
        for (size_t j = begin, n; j < end; j += n) {
            struct run run = {.begin = j};
            n = run.n = qnti_min(run_at(c->t, c->first + r, j), qnti_min(RUN, end - j));
            step_run(c, r, &run, begin, end);
        }
}

/* --- scales --- */

static double dot(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

static double total(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    return sum;
}

/* Columns [at, at + n) of a block that begins at `begin` and is `width` wide. */
struct group {
    size_t begin, width, at, n;
    double sum;              /* of H over the group's rows and columns */
};

/* The group's codes less zero, and what H makes of them within the block. */
static void load_group(struct chunk *c, struct group *g)
{
    const struct descent *t = c->t;
    const float *h = t->h + g->at * t->cols + g->begin;
    for (size_t r = 0; r < c->rows; r++) {
        const uint16_t *code = c->code + r * t->cols + g->at;
        float scale, zero = 0;
        if (t->q->grid.form == QNTI_FORM_ZERO)
            qnti_numbers_affine(t->q, c->first + r, column_at(t, g->at), &scale, &zero);
        for (size_t i = 0; i < g->n; i++)
            c->basis[r * g->n + i] = (float)code[i] - zero;
    }
    qnti_gemm_one(&(struct qnti_gemm){.m = c->rows, .n = g->width, .k = g->n, .a = c->basis, .lda = g->n, .b = h,
                                      .ldb = t->cols, .c = c->product, .ldc = g->width, .alpha = 1});
    if (t->q->grid.form != QNTI_FORM_MIN)
        return;
    memset(c->sum, 0, g->width * sizeof *c->sum);
    for (size_t i = 0; i < g->n; i++)
        c->kernels->axpy(g->width, 1, h + i * t->cols, c->sum);
    g->sum = total(c->sum + g->at - g->begin, g->n);
}

/* How far scale and minimum of a row's group should go: a [0] [1] [2] its equations' matrix, e their right side. */
static void solve_steps(const double *a, const double *e, bool minimum, double *steps)
{
    double determinant = a[0] * a[2] - a[1] * a[1];
    steps[0] = steps[1] = 0;
    if (minimum && determinant > 1e-9 * a[0] * a[2]) {
        steps[0] = (e[0] * a[2] - e[1] * a[1]) / determinant;
        steps[1] = (e[1] * a[0] - e[0] * a[1]) / determinant;
    } else if (a[0] > 0) { /* of codes that are all the same the scale alone moves */
        steps[0] = e[0] / a[0];
    }
}

/* How much the error falls by steps that have been rounded. */
static double gain_of(const double *a, const double *e, const double *s)
{
    return 2 * (s[0] * e[0] + s[1] * e[1]) - s[0] * s[0] * a[0] - 2 * s[0] * s[1] * a[1] - s[1] * s[1] * a[2];
}

/* A row's scale, and minimum, to their best stored values; both stay where a scale would change its sign. */
static void step_scale(struct chunk *c, size_t r, const struct group *g)
{
    struct qnti_numbers *q = c->t->q;
    bool minimum = q->grid.form == QNTI_FORM_MIN;
    float *gradient = c->g + r * c->t->cols, *change = c->change + r * c->t->block + g->at - g->begin;
    const float *basis = c->basis + r * g->n, *product = c->product + r * g->width, *own = product + g->at - g->begin;
    double a[3] = {dot(basis, own, g->n)}, e[2] = {dot(basis, gradient + g->at, g->n)}, steps[2];
    size_t row, group;
    float *scale, *offset, moved[2] = {0};
    if (minimum) {
        a[1] = total(own, g->n);
        a[2] = g->sum;
        e[1] = total(gradient + g->at, g->n);
    }
    solve_steps(a, e, minimum, steps);
    qnti_map_find(&q->grid.map, q->cols, c->first + r, column_at(c->t, g->at), &row, &group);
    scale = q->scale->value + row * q->scale->cols + group;
    offset = minimum ? q->offset->value + row * q->offset->cols + group : NULL;
    moved[0] = qnti_round_to(q->scale->grid.float_type, (float)((double)*scale + steps[0]));
    moved[1] = minimum ? qnti_round_to(q->offset->grid.float_type, (float)((double)*offset + steps[1])) : 0;
    if (!isfinite(moved[0]) || !isfinite(moved[1]) || !(moved[0] * *scale > 0))
        return;
    steps[0] = (double)moved[0] - (double)*scale;
    steps[1] = minimum ? (double)moved[1] - (double)*offset : 0;
    if (!(gain_of(a, e, steps) > 0))
        return;
    *scale = moved[0];
    c->kernels->axpy(g->n, (float)steps[0], basis, change);
    c->kernels->axpy(g->width, (float)-steps[0], product, gradient + g->begin);
    if (!minimum)
        return;
    *offset = moved[1];
    for (size_t i = 0; i < g->n; i++)
        change[i] += (float)steps[1];
    c->kernels->axpy(g->width, (float)-steps[1], c->sum, gradient + g->begin);
}

static void step_scales(struct chunk *c, size_t begin, size_t end)
{
    for (size_t j = begin; j < end;) {
        struct group g = {begin, end - begin, j, run_at(c->t, c->first, j), 0};
        load_group(c, &g);
        for (size_t r = 0; r < c->rows; r++)
            step_scale(c, r, &g);
        j += g.n;
    }
}

/* --- the rest of G --- */

/* Lists the block's columns that changed, row by row; returns how many there are. */
static size_t list_changes(struct chunk *c, size_t width)
{
    size_t block = c->t->block, all = 0;
    for (size_t r = 0; r < c->rows; r++) {
        c->count[r] = 0;
        for (size_t k = 0; k < width; k++)
            if (c->change[r * block + k] != 0)
                c->changed[r * block + c->count[r]++] = (uint32_t)k;
        all += c->count[r];
    }
    return all;
}

/* Columns [from, to): G -= change H, change by change; a tile of H's rows serves all rows. */
static void update_sparse(struct chunk *c, size_t begin, size_t from, size_t to)
{
    size_t cols = c->t->cols, block = c->t->block;
    for (size_t tile = from; tile < to; tile += TILE)
        for (size_t r = 0; r < c->rows; r++)
            for (size_t i = 0; i < c->count[r]; i++) {
                size_t k = c->changed[r * block + i];
                c->kernels->axpy(qnti_min(TILE, to - tile), -c->change[r * block + k],
                                 c->t->h + (begin + k) * cols + tile, c->g + r * cols + tile);
            }
}

/* The same of all columns of the block at once. */
static void update_dense(struct chunk *c, size_t begin, size_t end, size_t from, size_t to)
{
    size_t cols = c->t->cols;
    qnti_gemm_one(&(struct qnti_gemm){.m = c->rows, .n = to - from, .k = end - begin, .a = c->change,
                                      .lda = c->t->block, .b = c->t->h + begin * cols + from, .ldb = cols,
                                      .c = c->g + from, .ldc = cols, .alpha = -1, .beta = 1});
}

/* Columns outside the block follow; on the last pass those before it are of no use any more. */
static bool update_outside(struct chunk *c, size_t begin, size_t end, bool last)
{
    size_t count = list_changes(c, end - begin);
    if (count * DENSE > c->rows * (end - begin)) {
        update_dense(c, begin, end, end, c->t->cols);
        update_dense(c, begin, end, 0, last ? 0 : begin);
    } else if (count) {
        update_sparse(c, begin, end, c->t->cols);
        update_sparse(c, begin, 0, last ? 0 : begin);
    }
    if (count)
        memset(c->change, 0, c->rows * c->t->block * sizeof *c->change);
    return count > 0;
}

/* Where the block that begins there ends: with a group, where scales move. */
static size_t block_end(const struct descent *t, size_t begin)
{
    size_t end = begin;
    if (!t->scales)
        return qnti_min(begin + t->block, t->cols);
    while (end < t->cols && (end == begin || end + run_at(t, 0, end) <= begin + t->block))
        end += run_at(t, 0, end);
    return end;
}

static bool pass(struct chunk *c, bool last)
{
    bool any = false;
    for (size_t begin = 0, end; begin < c->t->cols; begin = end) {
        end = block_end(c->t, begin);
        for (int i = 0; i < (c->t->scales ? ROUNDS : 1); i++) {
            if (c->t->scales)
                step_scales(c, begin, end);
            step_codes(c, begin, end);
        }
        any |= update_outside(c, begin, end, last);
    }
    return any;
}

static qnt_status descend_chunk(void *arg, size_t index)
{
    const struct descent *t = arg;
    struct chunk c = {.t = t, .kernels = qnti_context_kernels(t->ctx), .first = index * t->chunk};
    qnt_status status;
    c.rows = qnti_min(t->chunk, t->q->rows - c.first);
    QNT_CHECK(chunk_create(&c));
    load(&c);
    for (size_t i = 0; i < t->passes && pass(&c, i + 1 == t->passes); i++)
        ;
    store(&c);
cleanup:
    chunk_free(&c);
    return status;
}

/* --- the order of columns --- */

static qnt_status order_row(void *arg, size_t index)
{
    struct descent *t = arg;
    const float *row = t->h + t->member[index] * t->cols;
    for (size_t j = 0; j < t->cols; j++)
        t->ordered[index * t->cols + j] = row[t->member[j]];
    return QNT_OK;
}

/* Groups whose columns lie apart are brought together. */
static qnt_status gather_groups(struct descent *t)
{
    const struct qnti_map *map = &t->q->grid.map;
    size_t n = 0;
    if (map->kind != QNTI_MAP_INDEX)
        return QNT_OK;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->cols, &t->member));
    for (size_t g = 0; g < map->index_groups; g++)
        for (size_t j = 0; j < t->cols; j++)
            if (map->index[j] == g)
                t->member[n++] = (uint32_t)j;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->cols * t->cols, &t->ordered));
    QNT_TRY(qnti_parallel(t->ctx, t->cols, order_row, t));
    t->h = t->ordered;
    return QNT_OK;
}

static size_t widest_block(const struct descent *t)
{
    size_t widest = qnti_min(BLOCK, t->cols);
    for (size_t j = 0; t->scales && j < t->cols; j += run_at(t, 0, j))
        widest = qnti_max(widest, run_at(t, 0, j));
    return widest;
}

qnt_status qnti_descend(qnt_context *ctx, const float *w, const float *h, size_t passes, bool scales,
                        struct qnti_numbers *q)
{
    struct descent t = {.ctx = ctx, .w = w, .h = h, .passes = passes, .cols = q->cols, .q = q,
                        .chunk = qnti_chunk_rows(&q->grid, q->rows, CHUNK_ROWS)};
    qnt_status status;
    if (passes == 0 || (q->grid.form != QNTI_FORM_ZERO && q->grid.form != QNTI_FORM_MIN))
        return QNT_OK; /* floats have no codes; codebooks come from methods that place them themselves */
    t.scales = scales && qnti_can_refit(&q->grid);
    QNT_CHECK(gather_groups(&t));
    t.block = widest_block(&t);
    QNT_CHECK(qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), descend_chunk, &t));
cleanup:
    qnti_free(ctx, t.member);
    qnti_free(ctx, t.ordered);
    return status;
}
