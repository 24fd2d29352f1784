/*
 * test_lowrank.c - the nearest matrix of low rank against a plain f64 Jacobi, and the part that makes up for errors.
 */
#include "layer_support.h"
#include "linalg/low_rank.h"

enum { OUT = 48, IN = 72, TOKENS = 200 };

#include "one_layer_support.h"

/* --- an oracle: the squares of the singular values of m (rows, cols), rows <= cols, by one-sided Jacobi --- */

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Turns two rows until they are orthogonal; whether they were not. */
static bool turn(double *a, double *b, size_t n)
{
    double aa = dot(a, a, n), bb = dot(b, b, n), ab = dot(a, b, n), t, c, s, tau;
    if (ab * ab <= 1e-24 * aa * bb || ab == 0)
        return false;
    tau = (bb - aa) / (2 * ab);
    t = copysign(1, tau) / (fabs(tau) + sqrt(1 + tau * tau));
    c = 1 / sqrt(1 + t * t);
    s = c * t;
    for (size_t i = 0; i < n; i++) {
        double x = a[i], y = b[i];
        a[i] = c * x - s * y;
        b[i] = s * x + c * y;
    }
    return true;
}

static int descending(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a < b) - (a > b);
}

static void singular_squares(double *m, size_t rows, size_t cols, double *squares)
{
    bool turned = true;
    for (int sweep = 0; turned && sweep < 60; sweep++) {
        turned = false;
        for (size_t i = 0; i < rows; i++)
            for (size_t j = i + 1; j < rows; j++)
                turned |= turn(m + i * cols, m + j * cols, cols);
    }
    assert_false(turned);
    for (size_t i = 0; i < rows; i++)
        squares[i] = dot(m + i * cols, m + i * cols, cols);
    qsort(squares, rows, sizeof *squares, descending);
}

/* What the best matrix of that rank leaves of |E L|^2, L (cols, cols) lower or NULL. */
static double least_error(const float *e, size_t rows, size_t cols, const double *l, size_t rank)
{
    size_t few = rows < cols ? rows : cols, many = rows < cols ? cols : rows;
    double *m = NEW(rows * cols, double), *squares = NEW(few, double), left = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            double sum = (double)e[r * cols + c];
            if (l) {
                sum = 0;
                for (size_t k = c; k < cols; k++)
                    sum += (double)e[r * cols + k] * l[k * cols + c];
            }
            m[rows <= cols ? r * cols + c : c * rows + r] = sum;
        }
    singular_squares(m, few, many, squares);
    for (size_t i = rank; i < few; i++)
        left += squares[i];
    free(m);
    free(squares);
    return left;
}

static double *cholesky(const float *h, size_t n)
{
    double *l = NEW(n * n, double);
    for (size_t j = 0; j < n; j++)
        for (size_t i = j; i < n; i++) {
            double sum = (double)h[i * n + j] - dot(l + i * n, l + j * n, j);
            l[i * n + j] = i == j ? sqrt(sum) : sum / l[j * n + j];
        }
    return l;
}

/* --- the matrix --- */

/* |(E - A B) L|^2, and A's and B's columns and rows have the same length. */
static double error_of(const struct qnti_low_rank *l)
{
    float *ab = NEW(l->rows * l->cols, float);
    float *one = NULL;
    double error;
    for (size_t r = 0; r < l->rows; r++)
        for (size_t k = 0; k < l->rank; k++)
            for (size_t c = 0; c < l->cols; c++)
                ab[r * l->cols + c] += l->a[r * l->rank + k] * l->b[k * l->cols + c];
    for (size_t k = 0; k < l->rank; k++) {
        double a = 0, b = 0;
        for (size_t r = 0; r < l->rows; r++)
            a += (double)l->a[r * l->rank + k] * (double)l->a[r * l->rank + k];
        for (size_t c = 0; c < l->cols; c++)
            b += (double)l->b[k * l->cols + c] * (double)l->b[k * l->cols + c];
        assert_true(fabs(a - b) <= 1e-3 * a);
    }
    if (!l->h) {
        one = NEW(l->cols * l->cols, float);
        for (size_t c = 0; c < l->cols; c++)
            one[c * l->cols + c] = 1;
    }
    error = quadratic_error(l->e, ab, l->h ? l->h : one, l->rows, l->cols);
    free(ab);
    free(one);
    return error;
}

static void begin_low_rank(struct qnti_low_rank *l, size_t rows, size_t cols, size_t rank, const float *e,
                           const float *h)
{
    *l = (struct qnti_low_rank){.e = e, .rows = rows, .cols = cols, .h = h, .rank = rank,
                                .a = NEW(rows * rank, float), .b = NEW(rank * cols, float)};
}

static void end_low_rank(struct qnti_low_rank *l)
{
    free(l->a);
    free(l->b);
}

/* Noise with a few directions that stand out of it, as errors of rounding have them. */
static float *errors(size_t rows, size_t cols, uint64_t seed)
{
    float *e = random_floats(rows * cols, seed, 0.01f), *u = random_floats(3 * rows, seed + 1, 0.03f),
          *v = random_floats(3 * cols, seed + 2, 0.3f);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            for (size_t k = 0; k < 3; k++)
                e[r * cols + c] += u[k * rows + r] * v[k * cols + c];
    free(u);
    free(v);
    return e;
}

/* `slack`: share of the least error by which it may be missed. */
static void check_nearest(qnt_context *ctx, size_t rows, size_t cols, size_t rank, bool weighted, double slack)
{
    float *e = errors(rows, cols, rows + 7 * cols), *x = random_tokens(2 * cols + 3, cols, cols),
          *h = weighted ? hessian_of(x, 2 * cols + 3, cols, 0.01) : NULL;
    double *root = weighted ? cholesky(h, cols) : NULL, least, error, all;
    struct qnti_low_rank l;
    begin_low_rank(&l, rows, cols, rank, e, h);
    assert_ok(ctx, qnti_low_rank(ctx, &l));
    least = least_error(e, rows, cols, root, rank);
    all = least_error(e, rows, cols, root, 0);
    error = error_of(&l);
    if (error > least * (1 + slack) + 1e-6 * all)
        fail_msg("%zu x %zu, rank %zu, weighted %d: error %g, the least is %g of %g", rows, cols, rank, weighted, error,
                 least, all);
    end_low_rank(&l);
    free(e);
    free(x);
    free(h);
    free(root);
}

static void test_nearest(void **state)
{
    static const size_t shapes[][3] = {{1, 1, 1},   {5, 3, 2},   {3, 5, 3},    {40, 33, 4},
                                       {33, 70, 8}, {90, 20, 20}, {130, 129, 1}, {64, 150, 16}};
    qnt_context *ctx = context_of(2);
    (void)state;
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int weighted = 0; weighted < 2; weighted++)
            check_nearest(ctx, shapes[i][0], shapes[i][1], shapes[i][2], weighted, 1e-5);
    check_nearest(ctx, 270, 262, 4, false, 2e-3); /* too many for all directions */
    check_nearest(ctx, 262, 280, 4, true, 2e-3);
    qnt_context_destroy(ctx);
}

/* Whatever E's size, also where there is less in it than is asked for; the same on any number of threads. */
static void test_degenerate(void **state)
{
    enum { ROWS = 300, COLS = 290, RANK = 6 };
    static const float scales[] = {1, 1e30f, 1e-30f, 0};
    qnt_context *ctx = context_of(1), *other = context_of(3);
    (void)state;
    for (size_t i = 0; i < COUNT(scales); i++)
        for (size_t n = 5; n <= ROWS; n += ROWS - 5) {
            float *e = NEW(n * COLS, float), *u = random_floats(n, 3, 1), *v = random_floats(COLS, 4, 1);
            struct qnti_low_rank l, again;
            double most = 0;
            for (size_t k = 0; k < n * COLS; k++)
                e[k] = scales[i] * (u[k / COLS] * v[k % COLS] + u[n - 1 - k / COLS] * (float)(k % COLS % 2));
            begin_low_rank(&l, n, COLS, n < RANK ? n : RANK, e, NULL);
            begin_low_rank(&again, n, COLS, l.rank, e, NULL);
            assert_ok(ctx, qnti_low_rank(ctx, &l));
            assert_ok(other, qnti_low_rank(other, &again));
            assert_memory_equal(l.a, again.a, n * l.rank * sizeof *l.a);
            assert_memory_equal(l.b, again.b, l.rank * COLS * sizeof *l.b);
            for (size_t k = 0; k < n * COLS; k++) {
                double sum = 0;
                for (size_t j = 0; j < l.rank; j++)
                    sum += (double)l.a[k / COLS * l.rank + j] * (double)l.b[j * COLS + k % COLS];
                most = fmax(most, fabs(sum - (double)e[k]));
            }
            assert_true(most <= 1e-4 * (double)scales[i]);
            end_low_rank(&l);
            end_low_rank(&again);
            free(e);
            free(u);
            free(v);
        }
    qnt_context_destroy(ctx);
    qnt_context_destroy(other);
}

static qnt_status find_large(qnt_context *ctx, void *arg)
{
    struct qnti_low_rank *l = arg;
    return qnti_low_rank(ctx, l);
}

static void test_allocations(void **state)
{
    enum { N = 300, RANK = 2 };
    float *e = errors(N, N, 1);
    struct qnti_low_rank l;
    (void)state;
    begin_low_rank(&l, N, N, RANK, e, NULL);
    each_allocation_fails(find_large, &l);
    end_low_rank(&l);
    free(e);
}

/* --- lorc --- */

static void begin(struct layer *l)
{
    *l = (struct layer){.ctx = context_of(2)};
    l->w = random_floats(OUT * IN, 5, 0.05f);
    l->x = random_tokens(TOKENS, IN, 6);
    for (size_t i = 0; i < OUT * IN; i += 61)
        l->w[i] *= 6;
    for (size_t t = 0; t < TOKENS; t++) {
        l->x[t * IN + 20] *= 20;
        l->x[t * IN + 7] = 0;
    }
}

static qnt_layer_report report_of(const struct layer *l)
{
    qnt_layer_report report = {0};
    assert_int_equal(qnt_report(l->q, &report), QNT_OK);
    return report;
}

static void check_native(const struct layer *l)
{
    size_t bytes;
    unsigned char *file = native_bytes(l->ctx, l->q, &bytes);
    qnt_qlinear *back;
    float *value;
    qnt_layer_report report = {0};
    assert_ok(l->ctx, native_read(l->ctx, file, bytes, "some.layer", &back));
    value = dequantized(l->ctx, back);
    assert_memory_equal(value, l->value, OUT * IN * sizeof *value);
    assert_int_equal(qnt_report(back, &report), QNT_OK);
    assert_true(report.bits_per_weight == report_of(l).bits_per_weight);
    assert_true(back->lowrank_a && back->lowrank_b);
    qnt_qlinear_destroy(back);
    free(value);
    free(file);
}

/* Behind grids, kept weights, moved columns, segments, transforms: what is left is the least there can be. */
static void test_behind_all(void **state)
{
    static const char *const before[] = {
        "rtn:bits=3,group_size=24", "gptq:bits=3,group_size=24,act_order=true", "spqr:bits=3",
        "owq:bits=3,keep_columns=4", "squeezellm:bits=3,weighting=importance", "rotation,rtn:bits=3,group_size=24",
        "smoothquant:bits=4", "bnb4"};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(before); i++) {
        char recipe[128];
        float *e;
        double least, error = 0, bits;
        quantize(&l, before[i], NULL);
        bits = report_of(&l).bits_per_weight;
        e = kept_copy(&l);
        for (size_t k = 0; k < OUT * IN; k++)
            e[k] = l.w[k] - e[k];
        least = least_error(e, OUT, IN, NULL, 8);
        free(e);
        snprintf(recipe, sizeof recipe, "%s,lorc", before[i]);
        quantize(&l, recipe, NULL);
        for (size_t k = 0; k < OUT * IN; k++)
            error += ((double)l.w[k] - (double)l.value[k]) * ((double)l.w[k] - (double)l.value[k]);
        if (strncmp(before[i], "smoothquant", 11) != 0) /* there it is the least of scaled errors */
            assert_true(error >= least * 0.999 && error <= least * 1.001);
        assert_true(fabs(report_of(&l).bits_per_weight - bits - 32.0 * 8 * (OUT + IN) / (OUT * IN)) < 1e-9);
        check_native(&l);
        quantize(&l, recipe, "native");
        check_native(&l);
    }
    end(&l);
}

/* Less error of the weights, and of the output; least of the latter where it is asked for. */
static void test_errors(void **state)
{
    static const char *const recipes[] = {"gptq:bits=3,group_size=24", "gptq:bits=3,group_size=24,lorc:rank=8",
                                          "gptq:bits=3,group_size=24,lorc:rank=8,rank_weight=hessian"};
    double weight[3], output[3];
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        quantize(&l, recipes[i], NULL);
        weight[i] = report_of(&l).weight_error;
        output[i] = report_of(&l).output_error;
    }
    assert_true(weight[1] < 0.85 * weight[0] && output[1] < 0.95 * output[0]);
    assert_true(output[2] < 0.95 * output[1] && weight[1] < weight[2]);
    end(&l);
}

/* Codes of 8 bits lose little; both factors have the sign that is agreed; the rank is cut to the layer. */
static void test_factors(void **state)
{
    struct layer l;
    double floats;
    qnt_part a, b;
    (void)state;
    begin(&l);
    quantize(&l, "rtn:bits=3,group_size=24,lorc:rank=4", NULL);
    floats = report_of(&l).weight_error;
    quantize(&l, "rtn:bits=3,group_size=24,lorc:rank=4,rank_bits=8", NULL);
    assert_true(report_of(&l).weight_error < floats * 1.002);
    check_native(&l);
    assert_ok(l.ctx, qnt_qlinear_part(l.q, "lowrank_a", &a));
    assert_ok(l.ctx, qnt_qlinear_part(l.q, "lowrank_b", &b));
    assert_true(a.shape[0] == OUT && a.shape[1] == 4 && b.shape[0] == 4 && b.shape[1] == IN);
    for (size_t k = 0; k < 4; k++) {
        float most = 0;
        for (size_t r = 0; r < OUT; r++) {
            float x = ((float *)a.data)[r * 4 + k];
            most = fabsf(x) > fabsf(most) ? x : most;
        }
        assert_true(most > 0);
        for (size_t r = 0; r < OUT; r++) {
            float code = ((float *)a.data)[r * 4 + k] / most * 127;
            assert_true(fabsf(code - rintf(code)) < 1e-3f);
        }
    }
    qnt_part_free(&a);
    qnt_part_free(&b);
    quantize(&l, "rtn:bits=3,group_size=24,lorc:rank=1000", NULL);
    assert_int_equal(l.q->lowrank_b->rows, OUT);
    assert_true(report_of(&l).weight_error < 1e-9);
    end(&l);
}

/* Formats without such a part refuse it before anything is done; a later part takes the place of an earlier one. */
static void test_formats(void **state)
{
    static const char *const formats[] = {"gguf:q4_0", "gptq", "awq", "compressed-tensors", "compressed-tensors:fp8"};
    struct layer l;
    qnt_recipe *recipe;
    qnt_qlinear *q;
    float *once;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(formats); i++)
        assert_fails(l.ctx, quantize_with(l.ctx, "rtn,lorc", formats[i], qnt_matrix_f32(l.w, OUT, IN), l.x, NULL,
                                          TOKENS, &q), QNT_UNSUPPORTED, "lorc leaves a low-rank part");
    assert_fails(l.ctx, qnt_recipe_parse(l.ctx, "lorc", &recipe), QNT_INVALID, "no method quantizes the weights");
    quantize(&l, "rtn:bits=3,lorc:rank=2", NULL);
    once = kept_copy(&l);
    quantize(&l, "zeroquant:rank=5,rtn:bits=3,lorc:rank=2", NULL);
    assert_memory_equal(once, l.value, OUT * IN * sizeof *once);
    free(once);
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearest), cmocka_unit_test(test_degenerate), cmocka_unit_test(test_behind_all),
        cmocka_unit_test(test_errors),  cmocka_unit_test(test_factors),    cmocka_unit_test(test_formats),
        cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
