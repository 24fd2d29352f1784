/*
 * test_spqr.c - what SpQR must do whatever the numbers (its sheet's properties), and its rules against plain forms.
 */
#include "layer_support.h"
#include "base/kernels.h"
#include "grid/grid.h"
#include "method/method.h"
#include "solve/solve.h"

enum { OUT = 48, IN = 64, TOKENS = 200 };

#include "one_layer_support.h"

static void begin(struct layer *l)
{
    *l = (struct layer){.ctx = context_of(2)};
    l->w = random_floats(OUT * IN, 5, 0.05f);
    l->x = random_tokens(TOKENS, IN, 6);
    for (size_t i = 0; i < OUT * IN; i += 61)
        l->w[i] *= 6;
}

static size_t outliers_of(const struct layer *l)
{
    qnt_part mask;
    size_t count = 0;
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "outlier_mask", &mask));
    for (size_t i = 0; i < OUT * IN; i++)
        count += ((uint8_t *)mask.data)[i];
    qnt_part_free(&mask);
    return count;
}

static double output_error(const struct layer *l)
{
    qnt_layer_report report = {0};
    assert_int_equal(qnt_report(l->q, &report), QNT_OK);
    return report.output_error;
}

static void test_scale_of_inputs(void **state)
{
    struct layer l;
    float *before;
    (void)state;
    begin(&l);
    quantize(&l, "spqr:bits=3", NULL);
    before = kept_copy(&l);
    for (size_t i = 0; i < TOKENS * IN; i++)
        l.x[i] *= 8;
    quantize(&l, "spqr:bits=3", NULL);
    assert_memory_equal(before, l.value, OUT * IN * sizeof *before);
    free(before);
    end(&l);
}

/* Columns of W and X in another order: the same result in that order. */
static void test_permuted_columns(void **state)
{
    struct layer l;
    float *before, *w, *x;
    size_t other = 0;
    (void)state;
    begin(&l);
    quantize(&l, "spqr:bits=3", NULL);
    before = kept_copy(&l);
    w = kept_copy(&l);
    x = NEW(TOKENS * IN, float);
    for (size_t c = 0; c < IN; c++) {
        for (size_t r = 0; r < OUT; r++)
            w[r * IN + c] = l.w[r * IN + (c * 5 + 3) % IN];
        for (size_t t = 0; t < TOKENS; t++)
            x[t * IN + c] = l.x[t * IN + (c * 5 + 3) % IN];
    }
    memcpy(l.w, w, OUT * IN * sizeof *w);
    memcpy(l.x, x, TOKENS * IN * sizeof *x);
    quantize(&l, "spqr:bits=3", NULL);
    for (size_t r = 0; r < OUT; r++)
        for (size_t c = 0; c < IN; c++)
            other += fabsf(l.value[r * IN + c] - before[r * IN + (c * 5 + 3) % IN]) > 1e-5f;
    assert_true(other <= OUT * IN / 200); /* sums in another order: ties may fall the other way */
    free(before);
    free(w);
    free(x);
    end(&l);
}

/* A lower threshold keeps more; close to 0 every weight that is not on its grid is kept. */
static void test_threshold(void **state)
{
    static const char *const recipes[] = {"spqr:bits=3,outlier_threshold=1", "spqr:bits=3,outlier_threshold=0.2",
                                          "spqr:bits=3,outlier_threshold=0.05", "spqr:bits=3,outlier_threshold=1e-12"};
    struct layer l;
    size_t before = 0;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        quantize(&l, recipes[i], NULL);
        assert_true(outliers_of(&l) * 10 >= before * 9);
        before = outliers_of(&l);
    }
    assert_true(before > OUT * IN * 3 / 4);
    assert_true(output_error(&l) < 1e-9);
    quantize(&l, "spqr:bits=3,outlier_threshold=inf", NULL);
    assert_int_equal(outliers_of(&l), 0);
    end(&l);
}

static void test_target(void **state)
{
    struct layer l;
    (void)state;
    begin(&l);
    quantize(&l, "spqr:bits=3,target_outliers=0.03", NULL);
    assert_true(outliers_of(&l) <= OUT * IN * 3 / 100);
    assert_true(outliers_of(&l) >= OUT * IN * 2 / 100);
    end(&l);
}

/* What the parts say is the layer, but for the weights of the mask; so it is when it was stored. */
static void check_parts(struct layer *l)
{
    qnt_part codes, scales, zeros, index, mask;
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "codes", &codes));
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "scales", &scales));
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "zeros", &zeros));
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "group_index", &index));
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "outlier_mask", &mask));
    for (size_t r = 0; r < OUT; r++)
        for (size_t c = 0; c < IN; c++) {
            size_t at = r * scales.shape[1] + (size_t)((int32_t *)index.data)[c];
            float zero = ((float *)zeros.data)[at], code = (float)((int32_t *)codes.data)[r * IN + c];
            float value = ((float *)scales.data)[at] * (code - zero);
            if (((uint8_t *)mask.data)[r * IN + c])
                assert_true(code == fminf(fmaxf(rintf(zero), 0), 7)); /* the code of 0 */
            else
                assert_true(l->value[r * IN + c] == value);
        }
    qnt_part_free(&codes);
    qnt_part_free(&scales);
    qnt_part_free(&zeros);
    qnt_part_free(&index);
    qnt_part_free(&mask);
}

static void test_parts(void **state)
{
    struct layer l;
    (void)state;
    begin(&l);
    quantize(&l, "spqr:bits=3", NULL);
    check_parts(&l);
    quantize(&l, "spqr:bits=3", "native");
    check_parts(&l);
    end(&l);
}

/* Bytes of the tensors that hold numbers; descriptions are not counted, a stream of codes ends with a whole byte. */
static size_t stored_bytes(qnt_context *ctx, const qnt_qlinear *q)
{
    struct qnti_native_tensors t = {0};
    size_t bytes = 0;
    assert_ok(ctx, qnti_native_add(ctx, q, &t));
    for (size_t i = 0; i < t.count; i++) {
        const struct qnti_tensor_source *s = &t.sources[i];
        size_t n = s->shape[0] * (s->rank > 1 ? s->shape[1] : 1);
        if (strcmp(s->dtype, "I32") != 0)
            bytes += n * (strcmp(s->dtype, "U8") == 0 ? 1 : strcmp(s->dtype, "F32") == 0 ||
                          strcmp(s->dtype, "U32") == 0 ? 4 : 2);
    }
    qnti_native_tensors_free(ctx, &t);
    return bytes;
}

static void test_bits(void **state)
{
    static const char *const recipes[] = {
        "spqr", "spqr:bits=3,stat_group_size=8,permutation_order=identity", "spqr:sym=true,scale_bits=0",
        "spqr:round_zero=true,zero_bits=2,outlier_threshold=inf", "spqr:zero_sym=true,group_size=32,zero_bits=8"};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        qnt_layer_report report = {0};
        size_t kept;
        quantize(&l, recipes[i], "native");
        assert_int_equal(qnt_report(l.q, &report), QNT_OK);
        assert_true(report.bits_per_weight * OUT * IN == 8 * (double)stored_bytes(l.ctx, l.q));
        kept = outliers_of(&l);
        if (i == 1) /* b + (bs + bz) / g + 64 / (g h) + 32 r, and row pointers */
            assert_true(fabs(report.bits_per_weight - (3 + 6 / 16.0 + 64 / 128.0 + (32.0 * (double)kept +
                                                       32 * (OUT + 1)) / (OUT * IN))) < 1e-9);
    }
    end(&l);
}

/* --- the grid --- */

static void test_constant_groups(void **state)
{
    static const float rows[][4] = {{0.3f, 0.3f, 0.3f, 0.3f}, {-0.7f, -0.7f, -0.7f, -0.7f}, {0, 0, 0, 0},
                                    {1.5f, 1.75f, 2, 1.5f}, {-3, -2, -2.5f, -3}};
    qnt_context *ctx = context_of(1);
    struct qnti_grid grid = qnti_minmax_grid(qnti_context_kernels(ctx), 2, 4, QNT_F32);
    struct qnti_numbers *q;
    float value[4];
    (void)state;
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, COUNT(rows), 4, &q));
    assert_ok(ctx, qnti_nearest(ctx, rows[0], NULL, NULL, q));
    for (size_t r = 0; r < COUNT(rows); r++) {
        qnti_numbers_values(q, r, 0, 4, value);
        for (size_t c = 0; c < 4; c++)
            assert_true(fabsf(value[c] - rows[r][c]) <= (r < 3 ? 0 : r == 3 ? 0.0834f : 0.1667f));
    }
    assert_true(q->offset->value[3] == -9); /* -1.5 / (0.5 / 3): no 0 is forced into the range */
    qnti_numbers_free(ctx, q);
    qnt_context_destroy(ctx);
}

/* sum of e^2 over the row but `without`, on the grid of what is left. */
static double naive_error(const struct qnti_grid *grid, const float *x, const float *u, size_t n, size_t without)
{
    float least = INFINITY, greatest = -INFINITY, scale, offset, value;
    double sum = 0;
    for (size_t k = 0; k < n; k++)
        if (k != without) {
            least = fminf(least, x[k]);
            greatest = fmaxf(greatest, x[k]);
        }
    qnti_minmax_affine(grid, least, greatest, &scale, &offset);
    for (size_t k = 0; k < n; k++)
        if (k != without) {
            qnti_grid_round(grid, NULL, 1, &x[k], &scale, &offset, 0, NULL, &value);
            sum += ((double)value - (double)x[k]) * ((double)value - (double)x[k]) / ((double)u[k] * (double)u[k]);
        }
    return sum;
}

/* Leave-one-out by three grids a row, against a grid for each weight. */
static void test_leave_one_out(void **state)
{
    enum { ROWS = 200, N = 9 };
    const struct qnti_outlier_rule rule = {0.004, true};
    struct qnti_outliers outliers = qnti_outlier_functions(&rule);
    qnt_context *ctx = context_of(1);
    struct qnti_grid grid = qnti_minmax_grid(qnti_context_kernels(ctx), 3, N, QNT_F32);
    float *x = random_floats(ROWS * N, 3, 0.3f), *w = NEW(ROWS * N, float), u[N];
    size_t replaced = 0;
    (void)state;
    for (size_t i = 0; i < ROWS * N; i += 17)
        x[i] = i % 2 ? x[i] * 4 : x[i - i % N]; /* some far out, some twice */
    for (size_t k = 0; k < N; k++)
        u[k] = 1 + 0.1f * (float)k;
    memcpy(w, x, ROWS * N * sizeof *w);
    outliers.before_fit(outliers.rule, &grid, w, ROWS, N, N, u);
    for (size_t r = 0; r < ROWS; r++) {
        const float *row = x + r * N;
        double whole = naive_error(&grid, row, u, N, N), sum = 0;
        bool likely[N];
        size_t others = 0;
        for (size_t k = 0; k < N; k++) {
            likely[k] = whole - naive_error(&grid, row, u, N, k) > rule.threshold;
            sum += likely[k] ? 0 : (double)row[k];
            others += !likely[k];
        }
        replaced += N - others;
        for (size_t k = 0; k < N && others > 1; k++)
            assert_true(w[r * N + k] == (likely[k] ? (float)(sum / (double)others) : row[k]));
        for (size_t k = 0; k < N && others <= 1; k++)
            assert_true(w[r * N + k] == (k ? 1 : -1)); /* made constant: the authors' range */
    }
    assert_true(replaced > ROWS / 4 && replaced < ROWS * N / 2);
    free(x);
    free(w);
    qnt_context_destroy(ctx);
}

/* --- GPTQ on such grids --- */

/* The upper factor of an inverse in f64, U^T U = A. */
static double *upper_factor(const double *a, size_t n)
{
    double *u = NEW(n * n, double);
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            double sum = a[i * n + j];
            for (size_t k = 0; k < i; k++)
                sum -= u[k * n + i] * u[k * n + j];
            u[i * n + j] = i == j ? sqrt(sum) : sum / u[i * n + i];
        }
    return u;
}

/* One row, group by group, in f64. */
static void oracle_row(double *w, const double *u, size_t group, double top, float *value)
{
    double lo = 0, hi = 0;
    for (size_t j = 0; j < IN; j++) {
        if (j % group == 0) {
            lo = INFINITY;
            hi = -INFINITY;
            for (size_t k = j; k < j + group; k++) {
                lo = fmin(lo, w[k]);
                hi = fmax(hi, w[k]);
            }
        }
        double scale = (hi - lo) / top, zero = -lo / scale, code = rint(w[j] / scale + zero);
        double v = scale * (fmin(fmax(code, 0), top) - zero), e = (w[j] - v) / u[j * IN + j];
        value[j] = (float)v;
        for (size_t k = j + 1; k < IN; k++)
            w[k] -= e * u[j * IN + k];
    }
}

static void test_without_outliers(void **state)
{
    struct layer l;
    float *h, *value = NEW(IN, float);
    double *inverse, *u, row[IN];
    size_t other = 0;
    (void)state;
    begin(&l);
    quantize(&l, "spqr:bits=3,outlier_threshold=inf,scale_bits=0,zero_bits=0,permutation_order=identity,damp=0.01",
             NULL);
    h = hessian_of(l.x, TOKENS, IN, 0.01);
    inverse = inverse_f64(h, IN);
    u = upper_factor(inverse, IN);
    for (size_t r = 0; r < OUT; r++) {
        for (size_t j = 0; j < IN; j++)
            row[j] = (double)l.w[r * IN + j];
        oracle_row(row, u, 16, 7, value);
        for (size_t j = 0; j < IN; j++)
            other += fabsf(value[j] - l.value[r * IN + j]) > 1e-4f;
    }
    assert_true(other <= OUT * IN / 50); /* a tie that falls the other way changes what follows in its row */
    free(h);
    free(inverse);
    free(u);
    free(value);
    end(&l);
}

/* Columns that rank the rows alike come one after another: of 0 2 4 .. and 1 3 5 .. first those of the first. */
static void test_spearman(void **state)
{
    enum { N = 10, ROWS = 30 };
    qnt_context *ctx = context_of(1);
    struct qnti_job job = {.ctx = ctx, .kernels = qnti_context_kernels(ctx), .rows = ROWS};
    float *a = random_floats(ROWS, 1, 1), *b = random_floats(ROWS, 2, 1), *x = random_tokens(40, N, 3);
    float *noise = random_floats(ROWS * N, 4, 0.02f);
    qnt_calib *calib;
    (void)state;
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_HESSIAN, N, &calib));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, 40, N)));
    job.calib = calib;
    job.weight = noise;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < N; c++)
            noise[r * N + c] += (float)(c + 1) * (c % 2 ? b[r] : a[r] * a[r] * a[r]);
    assert_ok(ctx, qnti_job_factor(&job, QNTI_ORDER_SPEARMAN, 0, (struct qnti_damping){.share = 0.01}));
    assert_int_equal(job.order[0], 0);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(job.order[i] % 2, i >= N / 2);
    qnti_free(ctx, job.hessian);
    qnti_free(ctx, job.dead);
    qnti_free(ctx, job.order);
    qnti_free(ctx, job.factor);
    qnt_calib_destroy(calib);
    free(a);
    free(b);
    free(x);
    free(noise);
    qnt_context_destroy(ctx);
}

static void test_refusals(void **state)
{
    struct layer l;
    qnt_qlinear *q;
    qnt_matrix w;
    (void)state;
    begin(&l);
    w = qnt_matrix_f32(l.w, OUT, IN);
    assert_fails(l.ctx, quantize_with(l.ctx, "spqr", "gptq", w, l.x, NULL, TOKENS, &q), QNT_UNSUPPORTED,
                 "spqr leaves single weights outside the grid, which format gptq cannot hold; these can: native");
    assert_fails(l.ctx, quantize_with(l.ctx, "spqr:outlier_threshold=inf", "gguf:q4_0", w, l.x, NULL, TOKENS, &q),
                 QNT_UNSUPPORTED, "method spqr leaves a grid of its own");
    assert_fails(l.ctx, quantize_with(l.ctx, "spqr:group_size=1", NULL, w, l.x, NULL, TOKENS, &q), QNT_INVALID,
                 "group_size=1");
    assert_fails(l.ctx, quantize_with(l.ctx, "spqr:damp=inf", NULL, w, l.x, NULL, TOKENS, &q), QNT_INVALID, "damp");
    quantize(&l, "spqr,refine", NULL);
    qnt_layer_report report = {0};
    assert_int_equal(qnt_report(l.q, &report), QNT_OK);
    assert_non_null(strstr(report.warnings, "not refined"));
    quantize(&l, "awq,spqr:bits=4", NULL); /* a transform before it */
    assert_true(output_error(&l) < 0.01);
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale_of_inputs), cmocka_unit_test(test_permuted_columns),
        cmocka_unit_test(test_threshold),       cmocka_unit_test(test_target),
        cmocka_unit_test(test_parts),           cmocka_unit_test(test_bits),
        cmocka_unit_test(test_constant_groups), cmocka_unit_test(test_leave_one_out),
        cmocka_unit_test(test_without_outliers), cmocka_unit_test(test_spearman),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
