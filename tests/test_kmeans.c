/*
 * test_kmeans.c - levels of rows against every partition there is, ranks against sorting, and what squeezellm makes of
 * both.
 */
#include "layer_support.h"

#include "base/number.h"
#include "solve/solve.h"

/* --- the solver --- */

static struct qnti_numbers *numbers_of(qnt_context *ctx, unsigned levels, qnt_dtype type, size_t rows, size_t cols)
{
    struct qnti_grid grid = qnti_free_levels_grid(qnti_context_kernels(ctx), 8, type);
    struct qnti_numbers *q;
    grid.levels = grid.codebook_size = levels;
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, rows, cols, &q));
    assert_null(q->scale);
    return q;
}

static double weight_at(const struct qnti_kmeans *k, size_t r, size_t c)
{
    return k->weight ? (double)k->weight[r * k->stride + c] : 1;
}

/* Weighted square error of a row with the codes it has. */
static double error_of(const struct qnti_kmeans *k, const struct qnti_numbers *q, size_t r)
{
    double sum = 0;
    for (size_t c = 0; c < q->cols; c++) {
        size_t at = r * q->cols + c;
        double d = (double)k->w[at] - (double)q->codebook->value[r * q->grid.levels + q->code8[at]];
        if (!k->mask || !k->mask[at])
            sum += weight_at(k, r, c) * d * d;
    }
    return sum;
}

/* Of numbers [a, b) about their weighted mean, two passes. */
static double spread(const float *x, const double *weight, size_t a, size_t b)
{
    double total = 0, mean = 0, sum = 0;
    for (size_t i = a; i < b; i++) {
        total += weight[i];
        mean += weight[i] * (double)x[i];
    }
    for (size_t i = a; total > 0 && i < b; i++)
        sum += weight[i] * ((double)x[i] - mean / total) * ((double)x[i] - mean / total);
    return sum;
}

/* The least error with three levels: all pairs of cuts of the sorted row. */
static double best_of_three(const struct qnti_kmeans *k, size_t r, size_t n)
{
    float x[16];
    double weight[16], best = INFINITY;
    for (size_t c = 0; c < n; c++) {
        size_t at = c;
        for (; at > 0 && x[at - 1] > k->w[r * n + c]; at--) {
            x[at] = x[at - 1];
            weight[at] = weight[at - 1];
        }
        x[at] = k->w[r * n + c];
        weight[at] = weight_at(k, r, c);
    }
    for (size_t a = 0; a <= n; a++)
        for (size_t b = a; b <= n; b++)
            best = fmin(best, spread(x, weight, 0, a) + spread(x, weight, a, b) + spread(x, weight, b, n));
    return best;
}

enum { BRUTE_ROWS = 300, BRUTE_COLS = 10 };

static void against_all_partitions(void **state)
{
    qnt_context *ctx = context_of(2);
    float *w = random_floats(BRUTE_ROWS * BRUTE_COLS, 3, 1), *weight = random_floats(BRUTE_ROWS * BRUTE_COLS, 4, 1);
    struct qnti_kmeans k = {.w = w, .weight = weight, .stride = BRUTE_COLS};
    struct qnti_numbers *q = numbers_of(ctx, 3, QNT_F32, BRUTE_ROWS, BRUTE_COLS);
    (void)state;
    for (size_t i = 0; i < BRUTE_ROWS * BRUTE_COLS; i++) {
        weight[i] = i % 7 == 5 ? 0 : weight[i] * weight[i] * (i % 3 ? 1 : 1000);
        w[i] = i % 11 == 3 ? w[i - 1] : w[i]; /* twins */
    }
    for (int uniform = 0; uniform < 2; uniform++) {
        k.weight = uniform ? NULL : weight;
        assert_ok(ctx, qnti_kmeans(ctx, &k, q));
        for (size_t r = 0; r < BRUTE_ROWS; r++) {
            double best = best_of_three(&k, r, BRUTE_COLS), is = error_of(&k, q, r);
            if (!(is <= best * (1 + 1e-6) + 1e-12))
                fail_msg("row %zu: error %g, the best is %g", r, is, best);
        }
    }
    qnti_numbers_free(ctx, q);
    free(w);
    free(weight);
    qnt_context_destroy(ctx);
}

/* Wide rows have no oracle but themselves: more levels never cost, levels are means, codes are nearest. */
static void wide_rows(void **state)
{
    enum { ROWS = 5, COLS = 700 };
    qnt_context *ctx = context_of(2);
    float *w = random_floats(ROWS * COLS, 8, 0.02f), *weight = random_floats(COLS, 9, 1);
    struct qnti_kmeans k = {.w = w, .weight = weight, .stride = 0};
    double before[ROWS];
    (void)state;
    for (size_t c = 0; c < COLS; c++)
        weight[c] *= weight[c];
    for (unsigned levels = 2; levels <= 256; levels += levels < 20 ? 1 : 59) {
        struct qnti_numbers *q = numbers_of(ctx, levels, QNT_F32, ROWS, COLS);
        assert_ok(ctx, qnti_kmeans(ctx, &k, q));
        for (size_t r = 0; r < ROWS; r++) {
            const float *level = q->codebook->value + r * levels;
            double is = error_of(&k, q, r);
            assert_true(levels == 2 || is <= before[r]);
            before[r] = is;
            for (size_t c = 0; c < COLS; c++)
                for (unsigned l = 0; l < levels; l++)
                    assert_true(fabs((double)w[r * COLS + c] - (double)level[q->code8[r * COLS + c]]) <=
                                fabs((double)w[r * COLS + c] - (double)level[l]));
            for (unsigned l = 1; l < levels; l++)
                assert_true(level[l - 1] < level[l]);
        }
        qnti_numbers_free(ctx, q);
    }
    free(w);
    free(weight);
    qnt_context_destroy(ctx);
}

/* Levels of one row in the coordinates of the test; to be freed. */
static struct qnti_numbers *solve_one(qnt_context *ctx, const struct qnti_kmeans *k, unsigned levels, qnt_dtype type,
                                      size_t cols)
{
    struct qnti_numbers *q = numbers_of(ctx, levels, type, 1, cols);
    assert_ok(ctx, qnti_kmeans(ctx, k, q));
    return q;
}

static void order_and_scale_change_nothing(void **state)
{
    enum { COLS = 300, LEVELS = 8 };
    qnt_context *ctx = context_of(1);
    float *w = random_floats(COLS, 5, 1), *weight = random_floats(COLS, 6, 1);
    float other[COLS], other_weight[COLS];
    struct qnti_kmeans k = {.w = w, .weight = weight, .stride = COLS}, moved = {.w = other, .weight = other_weight};
    struct qnti_numbers *q, *p;
    (void)state;
    for (size_t c = 0; c < COLS; c++)
        weight[c] *= weight[c];
    for (size_t c = 0; c < COLS; c++) {
        other[c] = w[(c * 7 + 3) % COLS];
        other_weight[c] = 0x1p-80f * weight[(c * 7 + 3) % COLS];
    }
    q = solve_one(ctx, &k, LEVELS, QNT_F32, COLS);
    p = solve_one(ctx, &moved, LEVELS, QNT_F32, COLS);
    assert_memory_equal(q->codebook->value, p->codebook->value, LEVELS * sizeof(float));
    for (size_t c = 0; c < COLS; c++)
        assert_int_equal(p->code8[c], q->code8[(c * 7 + 3) % COLS]);
    qnti_numbers_free(ctx, q);
    qnti_numbers_free(ctx, p);
    free(w);
    free(weight);
    qnt_context_destroy(ctx);
}

static void rows_without_choice(void **state)
{
    static const struct {
        float w[6], weight[6];
        uint8_t mask[6];
        float level[4];
    } cases[] = {
        {{3, 1, 3, 2, 1, 1}, {1, 1, 1, 1, 1, 1}, {0}, {1, 2, 3, 3}},            /* fewer distinct ones than levels */
        {{5, 5, 5, 5, 5, 5}, {1, 1, 1, 1, 1, 1}, {0}, {5, 5, 5, 5}},
        {{0, 0, -0.0f, 0, 0, 0}, {1, 1, 1, 1, 1, 1}, {0}, {0, 0, 0, 0}},
        {{4, -2, 0, 7, 9, 0}, {0, 0, 0, 0, 0, 0}, {0, 0, 0, 1, 1, 0}, {-2, 0, 4, 4}}, /* no weight: all but masked */
        {{4, -2, 0, 7, 4, 0}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}, {-2, 0, 4, 7}}, /* all masked: all count */
        {{4, -2, 0, 7, 9, 0}, {1, 0, 1, 1, 1e-30f, 1}, {0, 0, 0, 1, 0, 0}, {4, 9, 9, 9}}, /* zeros pull nothing */
    };
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct qnti_kmeans k = {.w = cases[i].w, .weight = cases[i].weight, .stride = 6, .mask = cases[i].mask};
        struct qnti_numbers *q = solve_one(ctx, &k, 4, QNT_F32, 6);
        for (size_t l = 0; l < 4; l++)
            assert_true(q->codebook->value[l] == cases[i].level[l]);
        qnti_numbers_free(ctx, q);
    }
    qnt_context_destroy(ctx);
}

/* A masked number has the code next to 0; ties go to the lower level; levels that rounding makes one count once. */
static void codes(void **state)
{
    static const float w[] = {1, 1.0001f, 3, 5, -5};
    static const uint8_t mask[] = {0, 0, 0, 0, 1}, middle[] = {0, 0, 1, 0, 0};
    qnt_context *ctx = context_of(1);
    struct qnti_kmeans k = {.w = w, .mask = mask};
    struct qnti_numbers *q = solve_one(ctx, &k, 4, QNT_F16, 5);
    (void)state;
    assert_true(q->codebook->value[0] == 1 && q->codebook->value[1] == 1 && q->codebook->value[2] == 3);
    assert_memory_equal(q->code8, ((const uint8_t[]){0, 0, 2, 3, 0}), 5);
    qnti_numbers_free(ctx, q);
    k = (struct qnti_kmeans){.w = (const float[]){-1, 3, 1, -1, 3}, .mask = middle};
    q = solve_one(ctx, &k, 2, QNT_F32, 5);
    assert_memory_equal(q->code8, ((const uint8_t[]){0, 1, 0, 0, 1}), 5);
    qnti_numbers_free(ctx, q);
    qnt_context_destroy(ctx);
}

/* A weight of 1e12 beside one of 1 takes no digits from the others' levels. */
static void unequal_weights(void **state)
{
    static const float w[] = {10, 10.5f, 100, 101, 102, 103}, weight[] = {1e12f, 1e12f, 1, 1, 1, 1};
    qnt_context *ctx = context_of(1);
    struct qnti_kmeans k = {.w = w, .weight = weight};
    struct qnti_numbers *q = solve_one(ctx, &k, 3, QNT_F32, 6);
    (void)state;
    assert_true(q->codebook->value[0] == 10 && q->codebook->value[1] == 10.5f && q->codebook->value[2] == 101.5f);
    qnti_numbers_free(ctx, q);
    qnt_context_destroy(ctx);
}

static int ascending(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void ranks(void **state)
{
    enum { N = 1000 };
    qnt_context *ctx = context_of(1);
    (void)state;
    for (int magnitudes = 0; magnitudes < 2; magnitudes++) {
        float *x = random_floats(N, 2, 1e-3f), *sorted = NEW(N, float), value;
        for (size_t i = 0; i < N; i++) {
            x[i] = i % 9 == 0 ? x[0] : i % 50 == 7 ? 0 : x[i];
            sorted[i] = magnitudes ? fabsf(x[i]) : x[i];
        }
        qsort(sorted, N, sizeof *sorted, ascending);
        for (size_t rank = 0; rank < N; rank += 37) {
            assert_ok(ctx, qnti_rank(ctx, x, N, magnitudes, rank, &value));
            assert_true(value == sorted[rank]);
        }
        assert_ok(ctx, qnti_rank(ctx, x, N, magnitudes, N - 1, &value));
        assert_true(value == sorted[N - 1]);
        free(x);
        free(sorted);
    }
    qnt_context_destroy(ctx);
}

/* --- the method --- */

enum { OUT = 6, IN = 80 };

static qnt_status squeeze(qnt_context *ctx, const char *recipe, const char *format, const float *w, const float *fisher,
                          const float *importance, qnt_qlinear **q)
{
    qnt_layer layer = {.name = "some.layer", .weight = qnt_matrix_f32(w, OUT, IN), .fisher = fisher, .format = format};
    qnt_recipe *r = recipe_of(ctx, recipe);
    qnt_calib *calib = NULL;
    qnt_status status;
    if (importance) {
        assert_ok(ctx, qnt_calib_create(ctx, r, IN, &calib));
        assert_ok(ctx, qnt_calib_set_importance(calib, importance));
    }
    layer.calib = calib;
    status = qnt_quantize(ctx, r, &layer, q);
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(r);
    return status;
}

static double weighted_error(qnt_context *ctx, const qnt_qlinear *q, const float *w, const float *weight)
{
    float *is = dequantized(ctx, q);
    double sum = 0;
    for (size_t i = 0; i < OUT * IN; i++)
        sum += (weight ? (double)weight[i] : 1) * ((double)w[i] - (double)is[i]) * ((double)w[i] - (double)is[i]);
    free(is);
    return sum;
}

static double error_with(qnt_context *ctx, const char *recipe, const float *w, const float *fisher, const float *by)
{
    qnt_qlinear *q;
    double error;
    assert_ok(ctx, squeeze(ctx, recipe, NULL, w, fisher, NULL, &q));
    error = weighted_error(ctx, q, w, by);
    qnt_qlinear_destroy(q);
    return error;
}

static float *fisher_of(uint64_t seed)
{
    float *fisher = random_floats(OUT * IN, seed, 1);
    for (size_t i = 0; i < OUT * IN; i++)
        fisher[i] *= fisher[i] * (i % 13 ? 1e-9f : 1e-6f);
    return fisher;
}

static void what_weighs(void **state)
{
    qnt_context *ctx = context_of(2);
    float *w = random_floats(OUT * IN, 1, 0.05f), *fisher = fisher_of(2);
    (void)state;
    for (unsigned bits = 1; bits <= 5; bits++) { /* each weighting is the best by its own measure, and beats rtn */
        char mine[64], uniform[64], rtn[64];
        snprintf(mine, sizeof mine, "squeezellm:bits=%u", bits);
        snprintf(uniform, sizeof uniform, "squeezellm:bits=%u,weighting=uniform", bits);
        snprintf(rtn, sizeof rtn, "rtn:bits=%u,group_size=0", bits);
        assert_true(error_with(ctx, mine, w, fisher, fisher) < error_with(ctx, uniform, w, fisher, fisher));
        assert_true(error_with(ctx, uniform, w, fisher, NULL) < error_with(ctx, mine, w, fisher, NULL));
        assert_true(error_with(ctx, uniform, w, NULL, NULL) < error_with(ctx, rtn, w, NULL, NULL));
    }
    free(w);
    free(fisher);
    qnt_context_destroy(ctx);
}

static void same_layer(qnt_context *ctx, const qnt_qlinear *a, const qnt_qlinear *b, bool same)
{
    float *x = dequantized(ctx, a), *y = dequantized(ctx, b);
    assert_true((memcmp(x, y, OUT * IN * sizeof *x) == 0) == same);
    free(x);
    free(y);
}

/* Without Fisher information: importance, else uniform; unless the user asked for it. */
static void what_is_not_there(void **state)
{
    static const char *const by_name[] = {"squeezellm:weighting=importance", "squeezellm:weighting=uniform"};
    qnt_context *ctx = context_of(2);
    float *w = random_floats(OUT * IN, 1, 0.05f), *fisher = fisher_of(2), importance[IN];
    qnt_qlinear *q, *p;
    (void)state;
    for (size_t c = 0; c < IN; c++)
        importance[c] = c % 5 ? 1 : 50;
    for (size_t i = 0; i < 2; i++) {
        assert_ok(ctx, squeeze(ctx, "squeezellm", NULL, w, NULL, i ? NULL : importance, &q));
        assert_ok(ctx, squeeze(ctx, by_name[i], NULL, w, fisher, importance, &p));
        same_layer(ctx, q, p, true);
        qnt_qlinear_destroy(q);
        assert_ok(ctx, squeeze(ctx, "squeezellm", NULL, w, fisher, importance, &q));
        same_layer(ctx, q, p, false);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(p);
    }
    assert_fails(ctx, squeeze(ctx, "squeezellm:weighting=fisher", NULL, w, NULL, importance, &q), QNT_INVALID,
                 "some.layer: weighting=fisher, but there is no Fisher information");
    assert_fails(ctx, squeeze(ctx, "squeezellm:weighting=importance", NULL, w, fisher, NULL, &q), QNT_INVALID,
                 "needs calibration inputs");
    assert_fails(ctx, qnt_recipe_parse(ctx, "smoothquant,squeezellm", &(qnt_recipe *){NULL}), QNT_UNSUPPORTED,
                 "weighting=importance");
    assert_fails(ctx, squeeze(ctx, "squeezellm", "gptq", w, fisher, NULL, &q), QNT_UNSUPPORTED, "native");
    fisher[IN + 3] = -1e-20f;
    assert_fails(ctx, squeeze(ctx, "squeezellm", NULL, w, fisher, NULL, &q), QNT_INVALID, "row 1, column 3");
    fisher[IN + 3] = NAN;
    assert_fails(ctx, squeeze(ctx, "squeezellm", NULL, w, fisher, NULL, &q), QNT_INVALID, "some.layer");
    fisher[IN + 3] = INFINITY;
    assert_fails(ctx, squeeze(ctx, "squeezellm", NULL, w, fisher, NULL, &q), QNT_INVALID, "row 1, column 3 is inf");
    free(w);
    free(fisher);
    qnt_context_destroy(ctx);
}

static size_t kept_of(const qnt_qlinear *q, const float *w, qnt_dtype type)
{
    qnt_part part;
    float *is = dequantized(q->ctx, q);
    size_t kept = 0;
    assert_ok(q->ctx, qnt_qlinear_part(q, "outlier_mask", &part));
    for (size_t i = 0; i < OUT * IN; i++)
        if (((const uint8_t *)part.data)[i]) {
            assert_true(is[i] == qnti_round_to(type, w[i]));
            kept++;
        }
    qnt_part_free(&part);
    free(is);
    return kept;
}

/* Bits count codes, levels and what is kept; a grid without a scale stores none, here and in the native format. */
static void what_is_kept(void **state)
{
    static const struct {
        const char *recipe;
        size_t kept;
    } cases[] = {
        {"squeezellm", 0},
        {"squeezellm:sensitive_fraction=0.05", OUT * IN / 20 - 1},   /* more than the 24th largest */
        {"squeezellm:outlier_fraction=0.1", OUT * IN / 10},
        {"squeezellm:bits=4,outlier_threshold=1e6", 0},
    };
    qnt_context *ctx = context_of(2);
    float *w = random_floats(OUT * IN, 1, 0.05f), *fisher = fisher_of(2);
    qnt_qlinear *pruned;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        double bits = strstr(cases[i].recipe, "bits=4") ? 4 : 3, levels = exp2(bits);
        double kept = (double)cases[i].kept, all = OUT * IN;
        double wanted = bits + 16 * levels / IN + 32 * kept / all + (kept > 0 ? 32 * (OUT + 1) / all : 0);
        qnt_qlinear *q, *back;
        qnt_layer_report report = {0};
        unsigned char *file;
        size_t bytes;
        qnt_part part;
        assert_ok(ctx, squeeze(ctx, cases[i].recipe, "native", w, fisher, NULL, &q));
        assert_int_equal(kept_of(q, w, QNT_F16), cases[i].kept);
        assert_ok(ctx, qnt_report(q, &report));
        assert_true(fabs(report.bits_per_weight - wanted) < 1e-12);
        assert_int_equal(qnt_qlinear_part(q, "scales", &part), QNT_NOT_FOUND);
        file = native_bytes(ctx, q, &bytes);
        assert_ok(ctx, native_read(ctx, file, bytes, "some.layer", &back));
        same_layer(ctx, q, back, true);
        assert_true(qnti_qlinear_bits(back) == report.bits_per_weight);
        free(file);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(back);
    }
    for (size_t i = 0; i < OUT * IN; i++)
        w[i] = i % 3 ? 0 : w[i]; /* pruned: no quartiles to speak of */
    assert_ok(ctx, squeeze(ctx, "squeezellm:outlier_threshold=1.5", NULL, w, fisher, NULL, &pruned));
    assert_int_equal(kept_of(pruned, w, QNT_F32), 0);
    qnt_qlinear_destroy(pruned);
    w[7] = 1e6f; /* no number of 16 bits */
    assert_fails(ctx, squeeze(ctx, "squeezellm", "native", w, fisher, NULL, &(qnt_qlinear *){NULL}), QNT_NON_FINITE,
                 "some.layer");
    free(w);
    free(fisher);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_all_partitions), cmocka_unit_test(wide_rows),
        cmocka_unit_test(order_and_scale_change_nothing), cmocka_unit_test(rows_without_choice),
        cmocka_unit_test(codes), cmocka_unit_test(unequal_weights), cmocka_unit_test(ranks),
        cmocka_unit_test(what_weighs), cmocka_unit_test(what_is_not_there), cmocka_unit_test(what_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
