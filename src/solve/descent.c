/*
 * descent.c - cyclic coordinate descent on the codes of a layer, grids fixed.
 *
 * With D = W - Q and G = D H, the best value of column j, all others fixed, is
 * Q_j + G_j / H_jj; it is rounded to the grid and G follows by a rank-1 term
 * (gptq.md, "Beyond the paper"). Changes of a block of columns are applied to
 * the rest of G as one gemm. Under the H given the error never rises.
 */
#include "solve/solve.h"

#include <string.h>
#include "base/kernels.h"
#include "linalg/blas.h"

enum { BLOCK = 128, CHUNK_ROWS = 256 };

/* A chunk of rows, transposed: [column][row]. */
struct chunk {
    qnt_context *ctx;
    const float *h;
    struct qnti_numbers *q;
    const struct qnti_kernels *kernels;
    size_t first, rows, cols;
    float *g;                /* [cols][rows] of D H */
    float *d;                /* [cols][rows] of D, at the start; then the changes of a block */
    float *value;            /* [cols][rows] of Q */
    uint16_t *code;          /* [cols][rows] */
    float *target, *scale, *offset;   /* [rows] */
    uint16_t *chosen;        /* [rows] */
    size_t group;            /* whose scales are in hand; SIZE_MAX: none */
};

static void chunk_free(struct chunk *c)
{
    void *memory[] = {c->g, c->d, c->value, c->code, c->target, c->scale, c->offset, c->chosen};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        qnti_free(c->ctx, memory[i]);
}

static qnt_status chunk_create(struct chunk *c)
{
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols * c->rows, &c->g));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols * c->rows, &c->d));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols * c->rows, &c->value));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols * c->rows, &c->code));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->rows, &c->target));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->rows, &c->scale));
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->rows, &c->offset));
    return QNTI_NEW_RAW(c->ctx, c->rows, &c->chosen);
}

/* Codes and values of the chunk, D, and G = D H. */
static qnt_status load(struct chunk *c, const float *w)
{
    struct qnti_gemm g = {.m = c->cols, .n = c->rows, .k = c->cols, .a = c->h, .lda = c->cols, .b = c->d,
                          .ldb = c->rows, .c = c->g, .ldc = c->rows, .alpha = 1};
    float *row;
    uint16_t *code;
    qnt_status status;
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols, &row));
    status = QNTI_NEW_RAW(c->ctx, c->cols, &code);
    for (size_t r = 0; status == QNT_OK && r < c->rows; r++) {
        const float *from = w + (c->first + r) * c->cols;
        qnti_numbers_values(c->q, c->first + r, 0, c->cols, row);
        qnti_numbers_get_codes(c->q, c->first + r, 0, c->cols, code);
        for (size_t j = 0; j < c->cols; j++) {
            c->value[j * c->rows + r] = row[j];
            c->code[j * c->rows + r] = code[j];
            c->d[j * c->rows + r] = from[j] - row[j];
        }
    }
    qnti_free(c->ctx, row);
    qnti_free(c->ctx, code);
    QNT_TRY(status);
    qnti_gemm_one(&g); /* H is symmetric: H D^T = (D H)^T */
    return QNT_OK;
}

static qnt_status store(struct chunk *c)
{
    uint16_t *code;
    QNT_TRY(QNTI_NEW_RAW(c->ctx, c->cols, &code));
    for (size_t r = 0; r < c->rows; r++) {
        for (size_t j = 0; j < c->cols; j++)
            code[j] = c->code[j * c->rows + r];
        qnti_numbers_put_codes(c->q, c->first + r, 0, c->cols, code);
    }
    qnti_free(c->ctx, code);
    return QNT_OK;
}

static void take_grid(struct chunk *c, size_t j)
{
    size_t group_row, group;
    qnti_map_find(&c->q->grid.map, c->cols, c->first, j, &group_row, &group);
    if (group == c->group)
        return;
    c->group = group;
    for (size_t r = 0; r < c->rows; r++)
        qnti_numbers_affine(c->q, c->first + r, j, c->scale + r, c->offset + r);
}

/* One column: `change` [rows] gets how much its values rose; false if none did. */
static bool step(struct chunk *c, size_t j, float *change)
{
    const float *g = c->g + j * c->rows;
    float *value = c->value + j * c->rows, hjj = c->h[j * c->cols + j];
    uint16_t *code = c->code + j * c->rows;
    bool any = false;
    take_grid(c, j);
    for (size_t r = 0; r < c->rows; r++)
        c->target[r] = value[r] + g[r] / hjj;
    qnti_grid_round(&c->q->grid, NULL, c->rows, c->target, c->scale, c->offset, 1, c->chosen, change);
    for (size_t r = 0; r < c->rows; r++) {
        float best = change[r];
        change[r] = 0;
        if (c->chosen[r] == code[r])
            continue;
        change[r] = best - value[r];
        value[r] = best;
        code[r] = c->chosen[r];
        any = true;
    }
    return any;
}

/* Columns before `begin` and from `end` on: G -= change H. */
static void update_outside(struct chunk *c, size_t begin, size_t end)
{
    struct qnti_gemm g = {.n = c->rows, .k = end - begin, .lda = c->cols, .b = c->d, .ldb = c->rows,
                          .ldc = c->rows, .alpha = -1, .beta = 1};
    const size_t from[] = {0, end}, to[] = {begin, c->cols};
    for (size_t side = 0; side < 2; side++) {
        g.m = to[side] - from[side];
        g.a = c->h + from[side] * c->cols + begin;
        g.c = c->g + from[side] * c->rows;
        qnti_gemm_one(&g);
    }
}

static bool pass(struct chunk *c)
{
    bool any = false;
    for (size_t begin = 0; begin < c->cols; begin += BLOCK) {
        size_t end = qnti_min(begin + BLOCK, c->cols);
        bool changed = false;
        for (size_t j = begin; j < end; j++) {
            float *change = c->d + (j - begin) * c->rows;
            if (!step(c, j, change))
                continue;
            changed = true;
            for (size_t k = begin; k < end; k++)
                c->kernels->axpy(c->rows, -c->h[j * c->cols + k], change, c->g + k * c->rows);
        }
        if (changed)
            update_outside(c, begin, end);
        any |= changed;
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
                      .first = index * t->chunk, .cols = t->q->cols, .group = SIZE_MAX};
    qnt_status status;
    c.rows = qnti_min(t->chunk, t->q->rows - c.first);
    QNT_CHECK(chunk_create(&c));
    QNT_CHECK(load(&c, t->w));
    for (size_t i = 0; i < t->passes && pass(&c); i++)
        ;
    QNT_CHECK(store(&c));
cleanup:
    chunk_free(&c);
    return status;
}

qnt_status qnti_descend(qnt_context *ctx, const float *w, const float *h, size_t passes, struct qnti_numbers *q)
{
    struct descent_task t = {ctx, w, h, passes, qnti_chunk_rows(&q->grid, q->rows, CHUNK_ROWS), q};
    if (q->grid.form != QNTI_FORM_ZERO && q->grid.form != QNTI_FORM_MIN)
        return QNT_OK; /* floats have no codes; codebooks come from methods that place them themselves */
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, t.chunk), descend_chunk, &t);
}
