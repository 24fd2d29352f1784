/*
 * test_doors.c - what shared rooms offer to methods beyond rtn and gptq: derived statistics behind a transform, weights
 * kept outside the grid during feedback, groups that cross rows, constant codebooks, replayed tokens, units.
 */
#include "context_support.h"

#include "base/number.h"
#include "calib/calib.h"
#include "linalg/factor.h"
#include "method/method.h"
#include "solve/solve.h"
#include "unit/unit.h"

static void fill(struct qnti_random *r, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(r);
}

/* H derived by algebra equals H measured on transformed tokens; so does the importance. */
static void derived_statistics(void **state)
{
    enum { N = 12, TOKENS = 40 };
    struct qnti_random random;
    float x[TOKENS * N], y[TOKENS * N], scale[N], shift[N], sign[N], scratch[2 * N];
    float small[9] = {2.f / 3, 2.f / 3, 1.f / 3, -2.f / 3, 1.f / 3, 2.f / 3, 1.f / 3, -2.f / 3, 2.f / 3};
    uint32_t permutation[N] = {3, 1, 0, 2, 7, 5, 6, 4, 11, 9, 10, 8};
    (void)state;
    qnti_random_seed(&random, 7);
    fill(&random, x, TOKENS * N);
    fill(&random, shift, N);
    for (size_t j = 0; j < N; j++) {
        scale[j] = 0.5f + fabsf(random_float(&random));
        sign[j] = random_float(&random) < 0 ? -1.f : 1.f;
    }
    for (int rotated = 0; rotated < 2; rotated++) {
        struct qnti_transform t = {.scale = scale, .shift = shift, .permutation = permutation};
        struct qnti_job job = {.ctx = ctx};
        qnt_calib *raw, *moved;
        float measured[N * N], importance[N];
        if (rotated)
            t.rotation = (struct qnti_rotation){.block = N, .small = 3, .small_matrix = small, .sign = sign};
        for (size_t k = 0; k < TOKENS; k++)
            qnti_transform_forward(&t, N, x + k * N, y + k * N, scratch);
        assert_int_equal(qnti_calib_create(ctx, QNTI_NEED_MOMENTS | QNTI_NEED_HESSIAN, N, &raw), QNT_OK);
        assert_int_equal(qnti_calib_create(ctx, QNTI_NEED_MOMENTS | QNTI_NEED_HESSIAN, N, &moved), QNT_OK);
        assert_int_equal(qnti_calib_add_f32(raw, x, NULL, TOKENS), QNT_OK);
        assert_int_equal(qnti_calib_add_f32(moved, y, NULL, TOKENS), QNT_OK);
        job.calib = raw;
        assert_int_equal(qnti_alloc(ctx, N, sizeof(float), (void **)&job.importance), QNT_OK);
        assert_true(qnti_calib_importance(raw, job.importance));
        assert_int_equal(qnti_job_transform(&job, &t), QNT_OK);
        assert_int_equal(qnti_job_hessian(&job), QNT_OK);
        assert_int_equal(qnt_calib_hessian(moved, measured), QNT_OK);
        assert_true(qnti_calib_importance(moved, importance));
        for (size_t i = 0; i < N * N; i++)
            assert_float_equal(job.hessian[i], measured[i], 2e-5f);
        for (size_t j = 0; j < N; j++)
            assert_float_equal(job.importance[j], importance[j], 2e-5f);
        qnti_free(ctx, job.importance);
        qnti_free(ctx, job.hessian);
        qnti_free(ctx, job.dead);
        qnt_calib_destroy(raw);
        qnt_calib_destroy(moved);
    }
}

static void keep_large(const void *rule, size_t rows, const float *w, const float *value, float u, uint8_t *keep)
{
    (void)value, (void)u;
    for (size_t r = 0; r < rows; r++)
        keep[r] = fabsf(w[r]) > *(const float *)rule;
}

/* Kept weights pass on only what their f16 form loses; the loop in f64 beside it chooses the same codes. */
static void outliers_in_feedback(void **state)
{
    enum { ROWS = 5, COLS = 24 };
    struct qnti_random random;
    float w[ROWS * COLS], u[COLS * COLS], value[ROWS * COLS] = {0}, got[COLS], limit = 0.8f;
    uint8_t mask[ROWS * COLS];
    struct qnti_outliers o = {.rule = &limit, .choose = keep_large, .type = QNT_F16, .mask = mask, .value = value};
    struct qnti_feedback f = {.w = w, .factor = u, .fixed = true, .block = 7, .outliers = &o};
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(ctx), 3, 8, QNT_F32);
    struct qnti_numbers *q;
    size_t kept = 0;
    (void)state;
    qnti_random_seed(&random, 11);
    fill(&random, w, ROWS * COLS);
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < COLS; j++)
            u[i * COLS + j] = j < i ? 0 : j == i ? 1 + fabsf(random_float(&random)) : 0.2f * random_float(&random);
    assert_int_equal(qnti_numbers_create(ctx, &grid, ROWS, COLS, &q), QNT_OK);
    assert_int_equal(qnti_fit_all(ctx, w, NULL, NULL, q), QNT_OK);
    assert_int_equal(qnti_error_feedback(ctx, &f, q), QNT_OK);
    for (size_t r = 0; r < ROWS; r++) {
        double a[COLS];
        for (size_t j = 0; j < COLS; j++)
            a[j] = (double)w[r * COLS + j];
        qnti_numbers_values(q, r, 0, COLS, got);
        for (size_t j = 0; j < COLS; j++) {
            bool out = fabs(a[j]) > (double)limit;
            double result = out ? (double)value[r * COLS + j] : (double)got[j];
            double e = (a[j] - result) / (double)u[j * COLS + j];
            assert_int_equal(mask[r * COLS + j], out);
            if (out)
                assert_float_equal(value[r * COLS + j], a[j], 1e-3);
            kept += out;
            for (size_t k = j + 1; k < COLS; k++)
                a[k] -= e * (double)u[j * COLS + k];
        }
    }
    assert_true(kept > 5 && kept < ROWS * COLS / 2);
    qnti_numbers_free(ctx, q);
}

/* Runs over the flattened matrix: each run has the grid of its own numbers, the shorter last one too. */
static void runs_that_cross_rows(void **state)
{
    enum { ROWS = 7, COLS = 11, SIZE = 5 };
    struct qnti_random random;
    float w[ROWS * COLS], got[ROWS * COLS];
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(ctx), 4, SIZE, QNT_F32);
    struct qnti_numbers *q, *run;
    (void)state;
    qnti_random_seed(&random, 13);
    fill(&random, w, ROWS * COLS);
    grid.map = (struct qnti_map){.kind = QNTI_MAP_FLAT, .cols = SIZE};
    assert_int_equal(qnti_numbers_create(ctx, &grid, ROWS, COLS, &q), QNT_OK);
    assert_int_equal(qnti_nearest(ctx, w, NULL, NULL, q), QNT_OK);
    for (size_t r = 0; r < ROWS; r++)
        qnti_numbers_values(q, r, 0, COLS, got + r * COLS);
    grid.map = (struct qnti_map){.kind = QNTI_MAP_TILES, .rows = 1};
    for (size_t start = 0; start < ROWS * COLS; start += SIZE) {
        size_t n = qnti_min(SIZE, ROWS * COLS - start);
        float want[SIZE];
        assert_int_equal(qnti_numbers_create(ctx, &grid, 1, n, &run), QNT_OK);
        assert_int_equal(qnti_nearest(ctx, w + start, NULL, NULL, run), QNT_OK);
        qnti_numbers_values(run, 0, 0, n, want);
        assert_memory_equal(got + start, want, n * sizeof *want);
        qnti_numbers_free(ctx, run);
    }
    qnti_numbers_free(ctx, q);
}

/* A constant codebook is read like a stored one and counts no bits. */
static void constant_codebook(void **state)
{
    static const float levels[4] = {-1, -0.25f, 0.25f, 1};
    const float scale = 2, offset = 0;
    const float x[5] = {-3, -0.6f, 0, 0.6f, 1.9f};
    uint16_t code[5];
    float value[5], read[5];
    struct qnti_grid grid = {.kernels = qnti_context_kernels(ctx), .form = QNTI_FORM_CODEBOOK, .bits = 2, .levels = 4,
                             .table = levels, .map = {.kind = QNTI_MAP_TILES, .rows = 1}, .scale_type = QNT_F16,
                             .constant_offset = true};
    struct qnti_numbers *q;
    (void)state;
    assert_int_equal(qnti_numbers_create(ctx, &grid, 1, 5, &q), QNT_OK);
    assert_memory_equal(qnti_numbers_codebook(q, 0), levels, sizeof levels);
    q->scale->value[0] = scale;
    qnti_grid_round(&grid, levels, 5, x, &scale, &offset, 0, code, value);
    qnti_numbers_put_codes(q, 0, 0, 5, code);
    qnti_numbers_values(q, 0, 0, 5, read);
    assert_memory_equal(read, value, sizeof value);
    assert_int_equal(code[0], 0);
    assert_int_equal(code[2], 1); /* a tie goes to the lower level */
    assert_int_equal(code[4], 3);
    assert_true(qnti_numbers_bits(q) == 5 * 2 + 16);
    qnti_numbers_free(ctx, q);
}

static qnt_status count_tokens(void *user, const float *x, size_t tokens)
{
    double *sum = user;
    for (size_t i = 0; i < tokens * 3; i++)
        sum[0] += (double)x[i];
    sum[1] += (double)tokens;
    return QNT_OK;
}

static qnt_status give_nothing(void *owner, qnti_token_fn take, void *user)
{
    (void)owner, (void)take, (void)user;
    return QNT_OK;
}

/* Where somebody can give all tokens again, samples are kept for who asks for samples. */
static void samples_beside_a_replay(void **state)
{
    static const float x[30];
    (void)state;
    for (unsigned asked = 0; asked < 2; asked++) {
        qnt_calib *calib;
        assert_int_equal(qnti_calib_create(ctx, QNTI_NEED_REPLAY | (asked ? QNTI_NEED_SAMPLES : 0), 3, &calib), QNT_OK);
        calib->replay = give_nothing;
        assert_int_equal(qnti_calib_add_f32(calib, x, NULL, 10), QNT_OK);
        assert_int_equal(calib->sample_count, asked ? 10 : 0);
        qnt_calib_destroy(calib);
    }
}

static void samples_stand_for_tokens(void **state)
{
    float x[30];
    double seen[2] = {0}, want = 0;
    qnt_calib *calib;
    (void)state;
    for (size_t i = 0; i < 30; i++)
        want += (double)(x[i] = (float)i);
    assert_int_equal(qnti_calib_create(ctx, QNTI_NEED_REPLAY, 3, &calib), QNT_OK);
    assert_int_equal(qnti_calib_replay(calib, count_tokens, seen), QNT_NOT_FOUND);
    assert_int_equal(qnti_calib_add_f32(calib, x, NULL, 10), QNT_OK);
    assert_int_equal(qnti_calib_replay(calib, count_tokens, seen), QNT_OK);
    assert_true(seen[0] == want && seen[1] == 10);
    qnt_calib_destroy(calib);
}

static void loss_behind_a_linear(void **state)
{
    const float w[6] = {1, 2, 3, 4, 5, 6}, other[6] = {1, 2, 3, 4, 5, 7}, bias[2] = {10, 20}, x[6] = {1, 0, 1, 0, 1, 2};
    const float *exchanged[1] = {other};
    struct qnti_layer_unit linear = {.weight = w, .bias = bias};
    struct qnti_unit unit;
    float y[4];
    double loss;
    (void)state;
    qnti_unit_of_layer(ctx, &linear, 2, 3, &unit);
    assert_int_equal(unit.forward(&unit, x, 2, 2, NULL, y), QNT_OK);
    assert_float_equal(y[0], 14, 0);
    assert_float_equal(y[1], 30, 0);
    assert_float_equal(y[2], 18, 0);
    assert_float_equal(y[3], 37, 0);
    assert_int_equal(qnti_unit_loss(&unit, x, 2, 2, NULL, exchanged, &loss), QNT_OK);
    assert_true(loss == (1 + 4) / 4.0); /* only output 1 changes: by 1 and by 2 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(derived_statistics),   cmocka_unit_test(outliers_in_feedback),
        cmocka_unit_test(runs_that_cross_rows), cmocka_unit_test(constant_codebook),
        cmocka_unit_test(samples_stand_for_tokens),
        cmocka_unit_test(samples_beside_a_replay), cmocka_unit_test(loss_behind_a_linear),
    };
    return cmocka_run_group_tests(tests, context_setup, context_teardown);
}
