/*
 * test_solve.c - solvers against their textbook forms.
 *
 * Error feedback is compared number by number: weights are multiples of 1/64,
 * factors of small powers of two and grids of scales that are powers of two,
 * so that f32 computes exactly whatever the order of sums, and every tie is a
 * tie in the oracle too.
 */
#include "layer_support.h"
#include "base/kernels.h"
#include "method/method.h"
#include "solve/solve.h"

static const struct qnti_kernels *kernels_of(const qnt_context *ctx)
{
    return qnti_context_kernels(ctx);
}

/* --- a grid whose scales are powers of two: solvers know nothing of a kind but its fit --- */

enum { BITS = 4, ZERO = 8 };

static float power_scale(const float *x, size_t n, size_t stride_rows, size_t rows)
{
    float most = 0, scale = 0x1p-6f;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            most = fmaxf(most, fabsf(x[r * stride_rows + i]));
    while (scale * ZERO < most)
        scale *= 2;
    return scale;
}

static void power_fit(const struct qnti_grid *grid, const struct qnti_band *band, struct qnti_numbers *q, size_t row,
                      size_t group, uint16_t *code, size_t code_stride)
{
    (void)code;
    (void)code_stride;
    for (size_t r = 0; r < band->rows; r += grid->map.rows)
        q->scale->value[(row + r) / grid->map.rows * q->scale->cols + group] =
            power_scale(band->x + r * band->stride, band->cols, band->stride, qnti_min(grid->map.rows, band->rows - r));
}

static const struct qnti_grid_kind power_kind = {.name = "powers of two", .fit = power_fit};

static struct qnti_grid power_grid(const qnt_context *ctx, struct qnti_map map)
{
    struct qnti_grid grid = qnti_affine_grid(kernels_of(ctx), BITS, 0, QNT_F32);
    grid.kind = &power_kind;
    grid.map = map;
    grid.constant_offset = true;
    grid.offset = ZERO;
    return grid;
}

/* --- error feedback --- */

struct feedback_case {
    size_t rows, cols, block, size, tied;   /* size: columns of a group, 0: the row */
    bool ordered, along, fixed, pull;       /* along: groups follow the order */
};

struct problem {
    const struct feedback_case *c;
    float *w, *u, *p;
    uint32_t *order, *index;
    size_t groups;
    bool fresh;                             /* fits see what was corrected inside the block */
};

/* Groups whole, in another order, and columns inside them, as group-aware order does; or any order. */
static uint32_t *shuffled(const struct feedback_case *c, struct qnti_random *random)
{
    uint32_t *order = NEW(c->cols, uint32_t);
    size_t size = c->along || c->fixed || !c->size ? c->cols : c->size, full = c->cols / size * size;
    for (size_t j = 0; j < c->cols; j++)
        order[j] = (uint32_t)j;
    for (size_t g = 0; g < full; g += size) {
        size_t other = random_below(random, full / size) * size;
        for (size_t i = 0; i < size; i++) {
            uint32_t t = order[g + i];
            order[g + i] = order[other + i];
            order[other + i] = t;
        }
        for (size_t i = size; i > 1; i--) {
            size_t k = random_below(random, i);
            uint32_t t = order[g + i - 1];
            order[g + i - 1] = order[g + k];
            order[g + k] = t;
        }
    }
    return order;
}

static void make_problem(const struct feedback_case *c, struct problem *p)
{
    struct qnti_random random;
    qnti_random_seed(&random, 100 + c->cols + c->block);
    *p = (struct problem){.c = c};
    p->w = NEW(c->rows * c->cols, float);
    for (size_t i = 0; i < c->rows * c->cols; i++)
        p->w[i] = (float)((int)random_below(&random, 512) - 256) / 64;
    p->u = NEW(c->cols * c->cols, float);
    p->p = NEW(c->cols * c->cols, float);
    bool wide = c->cols > 100; /* many halvings and sums would leave what f32 holds exactly */
    for (size_t j = 0; j < c->cols; j++) {
        p->u[j * c->cols + j] = j % 5 == 2 && !wide ? 2 : 1;
        for (size_t k = j + 1; k < c->cols; k++)
            if (!wide || random_below(&random, c->cols / 8) == 0)
                p->u[j * c->cols + k] = (float)(int)random_below(&random, 3) - 1;
        if (j + 7 < c->cols && c->pull && (!wide || j % 97 == 0))
            p->p[j * c->cols + j + 7] = j % 2 ? 0.5f : -0.25f;
    }
    p->order = c->ordered ? shuffled(c, &random) : NULL;
    p->groups = c->size ? (c->cols + c->size - 1) / c->size : 1;
    if (c->along) {
        p->index = NEW(c->cols, uint32_t);
        for (size_t j = 0; j < c->cols; j++)
            p->index[p->order ? p->order[j] : j] = (uint32_t)(j / c->size);
    }
}

static void free_problem(struct problem *p)
{
    free(p->w);
    free(p->u);
    free(p->p);
    free(p->order);
    free(p->index);
}

static size_t column_at(const struct problem *p, size_t position)
{
    return p->order ? p->order[position] : position;
}

static size_t group_of(const struct problem *p, size_t column)
{
    return p->index ? p->index[column] : p->c->size ? column / p->c->size : 0;
}

/* The scale of `group` for the tied rows from `first` on, of weights `w` in natural columns. */
static float oracle_scale(const struct problem *p, const double *w, size_t first, size_t group)
{
    const struct feedback_case *c = p->c;
    size_t rows = qnti_min(c->tied, c->rows - first), n = 0;
    float *x = NEW(rows * c->cols, float), scale;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < c->cols; j++)
            if (group_of(p, j) == group)
                x[n++] = (float)w[(first + r) * c->cols + j];
    scale = power_scale(x, n, n, 1);
    free(x);
    return scale;
}

/* Scales [rows][groups] of the weights as they are. */
static void fit_group(const struct problem *p, const double *w, size_t group, float *scale)
{
    for (size_t r = 0; r < p->c->rows; r += p->c->tied) {
        float s = oracle_scale(p, w, r, group);
        for (size_t i = r; i < qnti_min(r + p->c->tied, p->c->rows); i++)
            scale[i * p->groups + group] = s;
    }
}

static unsigned nearest_code(double w, float scale)
{
    double code = nearbyint(w / (double)scale) + ZERO;
    return (unsigned)(code < 0 ? 0 : code > 2 * ZERO - 1 ? 2 * ZERO - 1 : code);
}

/* One column of one row: its code, and what that does to the columns to come. */
static unsigned oracle_column(const struct problem *p, double *row, size_t j, float scale)
{
    size_t cols = p->c->cols;
    size_t end = (j / p->c->block + 1) * p->c->block;
    double w = row[column_at(p, j)];
    unsigned code = nearest_code(w, scale);
    double q = (double)scale * ((double)code - ZERO), e = (w - q) / (double)p->u[j * cols + j];
    for (size_t k = j + 1; k < cols; k++) /* GPTAQ's code pulls by w inside a block and by q behind it */
        row[column_at(p, k)] += (double)p->p[j * cols + k] * (k < end ? w : q) - e * (double)p->u[j * cols + k];
    return code;
}

/* What a fit at position j sees: the weights as the block found them, or those of the block as they are. */
static void see_weights(const struct problem *p, const double *w, size_t j, double *seen)
{
    size_t cols = p->c->cols, begin = j / p->c->block * p->c->block, end = qnti_min(begin + p->c->block, cols);
    if (j == begin)
        memcpy(seen, w, p->c->rows * cols * sizeof *w);
    for (size_t r = 0; p->fresh && r < p->c->rows; r++)
        for (size_t k = begin; k < end; k++)
            seen[r * cols + column_at(p, k)] = w[r * cols + column_at(p, k)];
}

/* The algorithm as written: columns one by one; grids fitted on the way see the weights of the block's begin. */
static void oracle_feedback(const struct problem *p, unsigned *codes, float *scale)
{
    size_t rows = p->c->rows, cols = p->c->cols;
    double *w = NEW(rows * cols, double), *begin = NEW(rows * cols, double);
    bool *fitted = NEW(p->groups, bool);
    for (size_t i = 0; i < rows * cols; i++)
        w[i] = (double)p->w[i];
    for (size_t g = 0; p->c->fixed && g < p->groups; g++) {
        fit_group(p, w, g, scale);
        fitted[g] = true;
    }
    for (size_t j = 0; j < cols; j++) {
        size_t column = column_at(p, j), g = group_of(p, column);
        see_weights(p, w, j, begin);
        if (!fitted[g])
            fit_group(p, begin, g, scale);
        fitted[g] = true;
        for (size_t r = 0; r < rows; r++)
            codes[r * cols + column] = oracle_column(p, w + r * cols, j, scale[r * p->groups + g]);
    }
    free(w);
    free(begin);
    free(fitted);
}

static void check_feedback(qnt_context *ctx, const struct feedback_case *c, bool fresh)
{
    struct problem p;
    struct qnti_map map = {QNTI_MAP_TILES, c->tied, c->size, NULL, 0};
    struct qnti_numbers *q;
    unsigned *codes = NEW(c->rows * c->cols, unsigned);
    float *scale;
    make_problem(c, &p);
    p.fresh = fresh;
    if (c->along)
        map = (struct qnti_map){QNTI_MAP_INDEX, c->tied, c->size, p.index, p.groups};
    struct qnti_grid grid = power_grid(ctx, map);
    grid.span = c->along ? c->size : 0;
    struct qnti_feedback f = {.w = p.w, .factor = p.u, .pull = c->pull ? p.p : NULL, .order = p.order,
                              .fixed = c->fixed, .fresh = fresh, .block = c->block};
    scale = NEW(c->rows * p.groups, float);
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, c->rows, c->cols, &q));
    if (c->fixed)
        assert_ok(ctx, qnti_fit_all(ctx, p.w, NULL, NULL, q));
    assert_ok(ctx, qnti_error_feedback(ctx, &f, q));
    oracle_feedback(&p, codes, scale);
    for (size_t r = 0; r < c->rows; r++) {
        for (size_t g = 0; g < p.groups; g++)
            assert_true(q->scale->value[r / c->tied * p.groups + g] == scale[r * p.groups + g]);
        for (size_t j = 0; j < c->cols; j++)
            if (qnti_numbers_code(q, r, j) != codes[r * c->cols + j])
                fail_msg("%zu x %zu, block %zu, group %zu: row %zu, column %zu is %u, not %u", c->rows, c->cols,
                         c->block, c->size, r, j, (unsigned)qnti_numbers_code(q, r, j), codes[r * c->cols + j]);
    }
    qnti_numbers_free(ctx, q);
    free(codes);
    free(scale);
    free_problem(&p);
}

static void test_error_feedback(void **state)
{
    static const struct feedback_case cases[] = {
        {1, 1, 1, 0, 1, false, false, true, false},      {3, 17, 5, 0, 1, false, false, true, false},
        {70, 40, 128, 0, 1, false, false, true, false},  {70, 40, 7, 0, 1, true, false, true, false},
        {9, 50, 13, 8, 1, false, false, false, false},   {66, 33, 1, 8, 1, false, false, false, false},
        {9, 64, 16, 16, 1, true, false, false, false},   {9, 67, 10, 16, 1, true, false, false, false},
        {9, 67, 128, 16, 1, true, false, false, false},  {5, 41, 9, 8, 1, true, true, false, false},
        {5, 41, 200, 8, 1, true, true, false, false},    {7, 48, 11, 8, 3, false, false, false, false},
        {131, 20, 6, 4, 3, false, false, false, false},  {9, 30, 8, 0, 1, true, false, true, true},
        {9, 30, 30, 0, 1, false, false, true, true},     {67, 29, 4, 10, 1, true, false, true, true},
        {4, 30, 7, 6, 1, false, false, false, true},     {20, 1100, 128, 0, 1, false, false, true, false},
        {20, 1100, 128, 64, 1, true, false, false, false}, {9, 1030, 100, 48, 1, false, false, false, false},
        {9, 1100, 128, 128, 1, true, true, false, true}, {20, 700, 128, 0, 1, true, false, true, true},
    };
    (void)state;
    for (int threads = 1; threads <= 2; threads++) {
        qnt_context *ctx = context_of(threads);
        size_t held = qnt_context_bytes(ctx, NULL);
        for (size_t i = 0; i < COUNT(cases); i++) {
            check_feedback(ctx, &cases[i], false);
            check_feedback(ctx, &cases[i], true);
        }
        destroy_context(ctx, held);
    }
}

/* Columns in two segments, the second from what the first left of it: the same as all of them at once. */
static void test_rest(void **state)
{
    static const struct feedback_case c = {70, 48, 16, 16, 1, false, false, false, true};
    enum { CUT = 32 };
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL), left = c.cols - CUT;
    struct qnti_grid grid = power_grid(ctx, (struct qnti_map){QNTI_MAP_TILES, 1, c.size, NULL, 0});
    struct qnti_numbers *whole, *first, *second;
    struct problem p;
    (void)state;
    make_problem(&c, &p);
    struct qnti_feedback f = {.w = p.w, .factor = p.u, .pull = p.p, .block = c.block};
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, c.rows, c.cols, &whole));
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, c.rows, CUT, &first));
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, c.rows, left, &second));
    assert_ok(ctx, qnti_error_feedback(ctx, &f, whole));
    float *w = NEW(c.rows * CUT, float), *rest = NEW(c.rows * left, float);
    for (size_t r = 0; r < c.rows; r++) {
        memcpy(w + r * CUT, p.w + r * c.cols, CUT * sizeof *w);
        memcpy(rest + r * left, p.w + r * c.cols + CUT, left * sizeof *w);
    }
    f.w = w;
    f.stride = c.cols;
    f.rest = rest;
    f.rest_cols = f.rest_stride = left;
    assert_ok(ctx, qnti_error_feedback(ctx, &f, first));
    f = (struct qnti_feedback){.w = rest, .factor = p.u + CUT * (c.cols + 1), .pull = p.p + CUT * (c.cols + 1),
                               .stride = c.cols, .block = c.block};
    assert_ok(ctx, qnti_error_feedback(ctx, &f, second));
    for (size_t r = 0; r < c.rows; r++)
        for (size_t j = 0; j < c.cols; j++)
            assert_int_equal(j < CUT ? qnti_numbers_code(first, r, j) : qnti_numbers_code(second, r, j - CUT),
                             qnti_numbers_code(whole, r, j));
    qnti_numbers_free(ctx, whole);
    qnti_numbers_free(ctx, first);
    qnti_numbers_free(ctx, second);
    free(w);
    free(rest);
    free_problem(&p);
    destroy_context(ctx, held);
}

/* --- descent and refit --- */

struct quadratic {
    size_t rows, cols;
    float *w, *x, *h;
    struct qnti_numbers *q;
};

static struct quadratic quadratic_of(qnt_context *ctx, const struct qnti_grid *grid, size_t rows, size_t cols)
{
    enum { TOKENS = 300 };
    struct quadratic p = {.rows = rows, .cols = cols};
    p.w = random_floats(rows * cols, 31 + cols, 0.1f);
    p.x = random_tokens(TOKENS, cols, 32 + cols);
    p.h = hessian_of(p.x, TOKENS, cols, 0.01);
    assert_ok(ctx, qnti_numbers_create(ctx, grid, rows, cols, &p.q));
    assert_ok(ctx, qnti_nearest(ctx, p.w, NULL, NULL, p.q));
    return p;
}

static void free_quadratic(qnt_context *ctx, struct quadratic *p)
{
    qnti_numbers_free(ctx, p->q);
    free(p->w);
    free(p->x);
    free(p->h);
}

static float *values_of(const struct qnti_numbers *q)
{
    float *values = NEW(q->rows * q->cols, float);
    for (size_t r = 0; r < q->rows; r++)
        qnti_numbers_values(q, r, 0, q->cols, values + r * q->cols);
    return values;
}

static double error_of(const struct quadratic *p)
{
    float *values = values_of(p->q);
    double error = quadratic_error(p->w, values, p->h, p->rows, p->cols);
    free(values);
    return error;
}

/* No code can go one up or down and lessen its row's error by more than rounding. */
static void check_local_optimum(struct quadratic *p)
{
    size_t n = p->cols;
    float *values = values_of(p->q);
    for (size_t r = 0; r < p->rows; r++) {
        double row_error = quadratic_error(p->w + r * n, values + r * n, p->h, 1, n);
        for (size_t j = 0; j < n; j++) {
            uint16_t code = qnti_numbers_code(p->q, r, j);
            for (int step = -1; step <= 1; step += 2) {
                uint16_t other = (uint16_t)(code + step);
                float value = values[r * n + j];
                if (code + step < 0 || other >= p->q->grid.levels)
                    continue;
                qnti_numbers_put_codes(p->q, r, j, 1, &other);
                qnti_numbers_values(p->q, r, j, 1, &values[r * n + j]);
                assert_true(quadratic_error(p->w + r * n, values + r * n, p->h, 1, n) >= row_error * (1 - 1e-4));
                qnti_numbers_put_codes(p->q, r, j, 1, &code);
                values[r * n + j] = value;
            }
        }
    }
    free(values);
}

static void check_descent(qnt_context *ctx, const struct qnti_grid *grid, size_t rows, size_t cols)
{
    struct quadratic p = quadratic_of(ctx, grid, rows, cols);
    double before = error_of(&p), first = before, after;
    float *values, *same;
    for (int i = 0; i < 40; i++) {
        assert_ok(ctx, qnti_descend(ctx, p.w, p.h, 1, false, p.q));
        after = error_of(&p);
        assert_true(after <= before * (1 + 1e-5));
        before = after;
    }
    assert_true(before < first); /* inputs hang together: nearest is not best */
    values = values_of(p.q);
    assert_ok(ctx, qnti_descend(ctx, p.w, p.h, 3, false, p.q));
    same = values_of(p.q);
    assert_memory_equal(values, same, rows * cols * sizeof *values);
    check_local_optimum(&p);
    free(values);
    free(same);
    free_quadratic(ctx, &p);
}

static struct qnti_grid ggml_grid(const qnt_context *ctx, const char *name)
{
    struct qnti_grid grid;
    assert_true(qnti_ggml_grid(kernels_of(ctx), name, &grid));
    return grid;
}

static void test_descent(void **state)
{
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    struct qnti_grid row = qnti_affine_grid(kernels_of(ctx), 3, 0, QNT_F32),
                     groups = qnti_affine_grid(kernels_of(ctx), 2, 24, QNT_F16), q4_1 = ggml_grid(ctx, "q4_1"),
                     q6_k = ggml_grid(ctx, "q6_k");
    (void)state;
    check_descent(ctx, &row, 5, 37);
    check_descent(ctx, &groups, 70, 150); /* several blocks of columns, chunks of rows */
    check_descent(ctx, &groups, 3, 700);  /* several tiles of H */
    check_descent(ctx, &q4_1, 3, 96);
    check_descent(ctx, &q6_k, 2, 256);
    destroy_context(ctx, held);
}

/* Least squares of row r's scales (and minima) with codes fixed, by elimination in f64. */
static void oracle_refit(const struct quadratic *p, size_t r, double *solution)
{
    size_t n = p->cols, kinds = p->q->grid.form == QNTI_FORM_MIN ? 2 : 1, m = p->q->scale->cols * kinds;
    double *basis = NEW(m * n, double), *hb = NEW(n, double), *system = NEW(m * (m + 1), double);
    for (size_t j = 0; j < n; j++) {
        size_t group_row, g;
        float scale, offset;
        qnti_map_find(&p->q->grid.map, n, r, j, &group_row, &g);
        qnti_numbers_affine(p->q, r, j, &scale, &offset);
        basis[g * kinds * n + j] = (double)qnti_numbers_code(p->q, r, j) - (kinds == 1 ? (double)offset : 0);
        if (kinds == 2)
            basis[(g * kinds + 1) * n + j] = 1;
    }
    for (size_t a = 0; a < m; a++) {
        for (size_t j = 0; j < n; j++) {
            hb[j] = 0;
            for (size_t k = 0; k < n; k++)
                hb[j] += (double)p->h[j * n + k] * basis[a * n + k];
            system[a * (m + 1) + m] += hb[j] * (double)p->w[r * n + j];
        }
        for (size_t b = 0; b < m; b++)
            for (size_t j = 0; j < n; j++)
                system[a * (m + 1) + b] += hb[j] * basis[b * n + j];
    }
    for (size_t a = 0; a < m; a++)
        for (size_t b = 0; b < m; b++) {
            double factor = system[b * (m + 1) + a] / system[a * (m + 1) + a];
            for (size_t k = a; b != a && k <= m; k++)
                system[b * (m + 1) + k] -= factor * system[a * (m + 1) + k];
        }
    for (size_t a = 0; a < m; a++)
        solution[a] = system[a * (m + 1) + m] / system[a * (m + 1) + a];
    free(basis);
    free(hb);
    free(system);
}

static void check_refit(qnt_context *ctx, const struct qnti_grid *grid, size_t rows, size_t cols)
{
    struct quadratic p = quadratic_of(ctx, grid, rows, cols);
    size_t groups = p.q->scale->cols, kinds = grid->form == QNTI_FORM_MIN ? 2 : 1;
    double before = error_of(&p), codes, *want = NEW(rows * groups * kinds, double);
    double tolerance = grid->scale_type != QNT_F16 ? 2e-4 : kinds == 2 ? 2e-2 : 2e-3;
    assert_true(qnti_can_refit(&p.q->grid));
    assert_ok(ctx, qnti_descend(ctx, p.w, p.h, 1, false, p.q));
    codes = error_of(&p);
    assert_true(codes < before);
    assert_ok(ctx, qnti_descend(ctx, p.w, p.h, 1000, true, p.q));
    assert_true(error_of(&p) < codes);
    for (size_t r = 0; r < rows; r++)
        oracle_refit(&p, r, want + r * groups * kinds);
    for (size_t i = 0; i < rows * groups; i++) {
        assert_true(fabs((double)p.q->scale->value[i] - want[i * kinds]) <= tolerance * fabs(want[i * kinds]));
        if (kinds == 2)
            assert_true(fabs((double)p.q->offset->value[i] - want[i * kinds + 1]) <=
                        tolerance * (fabs(want[i * kinds + 1]) + fabs(want[i * kinds])));
    }
    free(want);
    free_quadratic(ctx, &p);
}

static void test_refit(void **state)
{
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    struct qnti_grid row = qnti_affine_grid(kernels_of(ctx), 4, 0, QNT_F32),
                     groups = qnti_affine_grid(kernels_of(ctx), 4, 16, QNT_F32),
                     short_group = qnti_affine_grid(kernels_of(ctx), 3, 20, QNT_F16), q4_1 = ggml_grid(ctx, "q4_1"),
                     q6_k = ggml_grid(ctx, "q6_k"), tensor = row, ordered = groups;
    uint32_t falling[150];
    (void)state;
    for (uint32_t j = 0; j < 150; j++)
        falling[j] = (149 - j) / 15;
    ordered.map = (struct qnti_map){QNTI_MAP_INDEX, 1, 15, falling, 10};
    ordered.span = 15;
    check_refit(ctx, &row, 5, 37);
    check_refit(ctx, &row, 3, 150); /* wider than a block */
    check_refit(ctx, &groups, 70, 96);
    check_refit(ctx, &groups, 66, 200); /* a last block that is shorter */
    check_refit(ctx, &ordered, 5, 150);
    check_refit(ctx, &short_group, 9, 70);
    check_refit(ctx, &q4_1, 3, 96);
    tensor.map.rows = 0;
    assert_false(qnti_can_refit(&q6_k));
    assert_false(qnti_can_refit(&tensor));
    destroy_context(ctx, held);
}

/* A scale that would change its sign stays, and so does that of a row whose codes are all zero. */
static void test_refit_keeps(void **state)
{
    qnt_context *ctx = context_of(1);
    struct qnti_grid grid = qnti_affine_grid(kernels_of(ctx), 4, 0, QNT_F32);
    struct quadratic p = quadratic_of(ctx, &grid, 3, 8);
    float before[3];
    uint16_t zero;
    (void)state;
    memcpy(before, p.q->scale->value, sizeof before);
    for (size_t j = 0; j < 8; j++) {
        zero = (uint16_t)p.q->offset->value[0];
        qnti_numbers_put_codes(p.q, 0, j, 1, &zero);
        p.w[j] = 0;
        p.w[8 + j] = -p.w[8 + j];
    }
    assert_ok(ctx, qnti_descend(ctx, p.w, p.h, 1, true, p.q));
    assert_true(p.q->scale->value[0] == before[0]);
    assert_true(p.q->scale->value[1] > 0);
    assert_true(p.q->scale->value[2] != before[2]);
    free_quadratic(ctx, &p);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_feedback), cmocka_unit_test(test_descent), cmocka_unit_test(test_refit),
        cmocka_unit_test(test_refit_keeps),    cmocka_unit_test(test_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
