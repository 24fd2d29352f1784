/*
 * descent.c - cyclic coordinate descent on the codes of a layer, grids fixed.
 *
 * With D = W - Q and G = D H, the best value of column j, all others fixed, is
 * Q_j + G_j / H_jj; it is rounded to the grid and G follows by a rank-1 term
 * (gptq.md, "Beyond the paper"). Under the H given the error never rises.
 *
 * Few codes change: a run of columns is rounded at once, and again from behind
 * the first code that does. Changes of a block of columns are applied to the
 * rest of G row by row, or as one gemm where they are many.
 */
#include "solve/solve.h"

#include <string.h>
#include "base/kernels.h"
#include "linalg/blas.h"

/* Columns of a block; rounded at once; of H that the cache holds for a block. A change in DENSE numbers pays a gemm. */
enum { CHUNK_ROWS = 256, BLOCK = 128, RUN = 32, TILE = 512, DENSE = 5 };

struct chunk {
    qnt_context *ctx;
    const float *h;
    struct qnti_numbers *q;
    const struct qnti_kernels *kernels;
    size_t first, rows, cols;
    float *g;                /* [rows][cols] of D H */
    float *d;                /* [rows][cols] of D, at the start */
    float *diagonal;         /* [cols] of H */
    float *change;           /* [rows][BLOCK] how much a block's values rose */
    uint8_t *changed;        /* [rows][BLOCK] its columns that did, */
    size_t *count;           /* [rows] and how many */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->g, c->d, c->diagonal, c->change, c->changed, c->count};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->ctx, memory[i]);
}

static qnt_status chunk_create(struct chunk *c)
{
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->rows * c->cols, &c->g));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->rows * c->cols, &c->d));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols, &c->diagonal));
    QNT_TRY(QNTI_NEW(c->ctx, c->rows * BLOCK, &c->change));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->rows * BLOCK, &c->changed));
    return QNTI_NEW(c->ctx, c->rows, &c->count);
}

/* D and G = D H. */
static void load(struct chunk *c, const float *w)
{
    for (size_t j = 0; j < c->cols; j++)
        c->diagonal[j] = c->h[j * c->cols + j];
    for (size_t r = 0; r < c->rows; r++) {
        const float *row = w + (c->first + r) * c->cols;
        float *d = c->d + r * c->cols;
        qnti_numbers_values(c->q, c->first + r, 0, c->cols, d);
        for (size_t j = 0; j < c->cols; j++)
            d[j] = row[j] - d[j];
    }
    qnti_gemm_one(&(struct qnti_gemm){.m = c->rows, .n = c->cols, .k = c->cols, .a = c->d, .lda = c->cols, .b = c->h,
                                      .ldb = c->cols, .c = c->g, .ldc = c->cols, .alpha = 1});
}

/* Columns of one row that share a grid. */
struct run {
    size_t begin, n;
    float scale, offset;
    float value[RUN], target[RUN], best[RUN];
    uint16_t code[RUN], chosen[RUN];
};

/* The first column from k on whose best code is another one than it has; n if there is none. */
static size_t first_change(const struct chunk *c, struct run *run, const float *g, size_t k)
{
    for (size_t i = k; i < run->n; i++)
        run->target[i] = run->value[i] + g[i] / c->diagonal[run->begin + i];
    qnti_grid_round(&c->q->grid, NULL, run->n - k, run->target + k, &run->scale, &run->offset, 0, run->chosen + k,
                    run->best + k);
    while (k < run->n && run->chosen[k] == run->code[k])
        k++;
    return k;
}

/* Descends in the run, which lies in the block [begin, end), of row r; the block's G follows. */
static void step(struct chunk *c, size_t r, struct run *run, size_t begin, size_t end)
{
    struct qnti_numbers *q = c->q;
    float *g = c->g + r * c->cols;
    size_t before = c->count[r];
    qnti_numbers_affine(q, c->first + r, run->begin, &run->scale, &run->offset);
    qnti_numbers_get_codes(q, c->first + r, run->begin, run->n, run->code);
    qnti_grid_value(&q->grid, NULL, run->n, run->code, &run->scale, &run->offset, 0, run->value);
    for (size_t k = 0; (k = first_change(c, run, g + run->begin, k)) < run->n; k++) {
        size_t j = run->begin + k;
        float rise = run->best[k] - run->value[k];
        run->code[k] = run->chosen[k];
        c->change[r * BLOCK + j - begin] = rise;
        c->changed[r * BLOCK + c->count[r]++] = (uint8_t)(j - begin);
        c->kernels->axpy(end - begin, -rise, c->h + j * c->cols + begin, g + begin);
    }
    if (c->count[r] != before)
        qnti_numbers_put_codes(q, c->first + r, run->begin, run->n, run->code);
}

/* Columns [from, to): G -= change H, change by change; a tile of H's rows serves all rows. */
static void update_sparse(struct chunk *c, size_t begin, size_t from, size_t to)
{
    for (size_t tile = from; tile < to; tile += TILE)
        for (size_t r = 0; r < c->rows; r++)
            for (size_t i = 0; i < c->count[r]; i++) {
                size_t k = c->changed[r * BLOCK + i];
                c->kernels->axpy(qnti_min(TILE, to - tile), -c->change[r * BLOCK + k],
                                 c->h + (begin + k) * c->cols + tile, c->g + r * c->cols + tile);
            }
}

/* The same of all columns of the block at once. */
static void update_dense(struct chunk *c, size_t begin, size_t end, size_t from, size_t to)
{
    qnti_gemm_one(&(struct qnti_gemm){.m = c->rows, .n = to - from, .k = end - begin, .a = c->change, .lda = BLOCK,
                                      .b = c->h + begin * c->cols + from, .ldb = c->cols, .c = c->g + from,
                                      .ldc = c->cols, .alpha = -1, .beta = 1});
}

/* Columns outside the block follow; on the last pass those before it are of no use any more. */
static bool update_outside(struct chunk *c, size_t begin, size_t end, bool last)
{
    size_t count = 0;
    for (size_t r = 0; r < c->rows; r++)
        count += c->count[r];
    if (count * DENSE > c->rows * (end - begin)) {
        update_dense(c, begin, end, end, c->cols);
        update_dense(c, begin, end, 0, last ? 0 : begin);
    } else if (count) {
        update_sparse(c, begin, end, c->cols);
        update_sparse(c, begin, 0, last ? 0 : begin);
    }
    for (size_t r = 0; r < c->rows; r++)
        for (; c->count[r]; c->count[r]--)
            c->change[r * BLOCK + c->changed[r * BLOCK + c->count[r] - 1]] = 0;
    return count > 0;
}

static bool pass(struct chunk *c, bool last)
{
    bool any = false;
    for (size_t begin = 0; begin < c->cols; begin += BLOCK) {
        size_t end = qnti_min(begin + BLOCK, c->cols);
        for (size_t r = 0; r < c->rows; r++)
            for (size_t j = begin, n; j < end; j += n) {
                struct run run = {.begin = j};
                n = qnti_min(qnti_map_run(&c->q->grid.map, c->cols, c->first + r, j), qnti_min(RUN, end - j));
                run.n = n;
                step(c, r, &run, begin, end);
            }
        any |= update_outside(c, begin, end, last);
    }
    return any;
}

struct descent_task {
    qnt_context *ctx;
    const float *w, *h;
    size_t passes, chunk;
    struct qnti_numbers *q;
};

static qnt_status descend_chunk(void *arg, size_t index)
{
    const struct descent_task *t = arg;
    struct chunk c = {.ctx = t->ctx, .h = t->h, .q = t->q, .kernels = qnti_context_kernels(t->ctx),
                      .first = index * t->chunk, .cols = t->q->cols};
    qnt_status status;
    c.rows = qnti_min(t->chunk, t->q->rows - c.first);
    QNT_CHECK(chunk_create(&c));
    load(&c, t->w);
    for (size_t i = 0; i < t->passes && pass(&c, i + 1 == t->passes); i++)
        ;
cleanup:
    chunk_free(&c);
    return status;
}

qnt_status qnti_descend(qnt_context *ctx, const float *w, const float *h, size_t passes, struct qnti_numbers *q)
{
    struct descent_task t = {ctx, w, h, passes, qnti_chunk_rows(&q->grid, q->rows, CHUNK_ROWS), q};
    if (passes == 0 || (q->grid.form != QNTI_FORM_ZERO && q->grid.form != QNTI_FORM_MIN))
        return QNT_OK; /* floats have no codes; codebooks come from methods that place them themselves */
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), descend_chunk, &t);
}
