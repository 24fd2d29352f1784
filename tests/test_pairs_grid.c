/*
 * test_pairs_grid.c - outlier-victim pairs: levels, rounding against every level, victims, the search against trying
 * every scale, codes as they are stored.
 */
#include "qlinear_support.h"
#include "pack/pair_codes.h"
#include "solve/solve.h"

static struct qnti_grid grid_of(qnt_context *ctx, unsigned bits, struct qnti_pairs pairs, size_t group,
                                float table[QNTI_PAIRS_MOST_LEVELS])
{
    pairs.search_low = 75;
    pairs.search_high = 250;
    return qnti_pairs_grid(qnti_context_kernels(ctx), bits, pairs, group, QNT_F32, table);
}

/* --- levels --- */

static const struct {
    unsigned bits;
    struct qnti_pairs pairs;
    unsigned levels, n;
    float level[24];               /* the first from 0 on */
} known[] = {
    {4, {.is_signed = true, .outliers = true}, 29, 15, {0, 4, 8, 12, 16, 20, 24, 28, 48, 64, 96, 128, 192, 256, 384}},
    {4, {.flint = true, .is_signed = true, .outliers = true}, 29, 15,
     {0, 2, 4, 6, 8, 12, 16, 32, 48, 64, 96, 128, 192, 256, 384}},
    {4, {.is_signed = true}, 15, 8, {0, 4, 8, 12, 16, 20, 24, 28}},
    {4, {.flint = true, .is_signed = true}, 15, 8, {0, 2, 4, 6, 8, 12, 16, 32}},
    {3, {.is_signed = true, .outliers = true}, 13, 7, {0, 8, 16, 24, 64, 128, 256}},
    {3, {.flint = true, .is_signed = true, .outliers = true}, 13, 7, {0, 8, 16, 32, 64, 128, 256}},
    {4, {.flint = true, .outliers = true}, 31, 19,
     {0, 0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f, 4, 5, 6, 7, 8, 12, 16, 32, 40, 48, 56}},
    {4, {.outliers = true}, 31, 17, {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 40}},
    {8, {.is_signed = true, .outliers = true}, 509, 3, {0, 0.25f, 0.5f}},
    {8, {.outliers = true}, 511, 3, {0, 0.125f, 0.25f}},
};

static void test_levels(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t k = 0; k < COUNT(known); k++) {
        float table[QNTI_PAIRS_MOST_LEVELS];
        struct qnti_grid grid = grid_of(ctx, known[k].bits, known[k].pairs, 0, table);
        unsigned zero = qnti_pairs_zero(&grid);
        assert_int_equal(grid.levels, known[k].levels);
        assert_true(table[zero] == 0 && !signbit(table[zero]));
        for (unsigned i = 0; i < known[k].n; i++)
            if (table[zero + i] != known[k].level[i])
                fail_msg("grid %zu: level %u is %g", k, i, (double)table[zero + i]);
        for (unsigned i = 0; i + 1 < grid.levels; i++)
            assert_true(table[i] < table[i + 1]);
        for (unsigned i = 0; zero && i < grid.levels; i++)
            assert_true(table[i] == -table[grid.levels - 1 - i]);
        assert_true(qnti_pairs_outlier(&grid, grid.levels - 1) == known[k].pairs.outliers);
        assert_false(qnti_pairs_outlier(&grid, zero));
        if (known[k].bits == 8)
            assert_true(table[grid.levels - 1] == (zero ? 504 : 508));
    }
    qnt_context_destroy(ctx);
}

/* Every kind there is: 3 to 8 bits, both types, signed or not, with outliers or not, two ways to keep. */
enum { KINDS = 6 * 16 };

static struct qnti_grid kind_at(qnt_context *ctx, unsigned k, size_t group, float table[QNTI_PAIRS_MOST_LEVELS])
{
    struct qnti_pairs pairs = {.flint = k & 1, .is_signed = k & 2, .outliers = k & 4, .larger = k & 8};
    return grid_of(ctx, 3 + k / 16, pairs, group, table);
}

/* --- rounding --- */

/* The last of the nearest in the order "normal levels ascending, outlier levels ascending". */
static unsigned nearest_in_order(const struct qnti_grid *grid, float v)
{
    unsigned best = 0;
    float least = INFINITY;
    for (int outliers = 0; outliers < 2; outliers++)
        for (unsigned i = 0; i < grid->levels; i++)
            if (qnti_pairs_outlier(grid, i) == outliers && fabsf(grid->table[i] - v) <= least) {
                least = fabsf(grid->table[i] - v);
                best = i;
            }
    return best;
}

static void check_number(const struct qnti_grid *grid, unsigned kind, float v)
{
    static const float one = 1, none = 0;
    uint16_t code;
    float value;
    qnti_grid_round(grid, grid->table, 1, &v, &one, &none, 0, &code, &value);
    if (code != nearest_in_order(grid, v) || value != grid->table[code])
        fail_msg("kind %u: %.9g becomes %g, code %u, not %u", kind, (double)v, (double)value, code,
                 nearest_in_order(grid, v));
}

/* Middles of neighbours, the floats beside them, and what lies anywhere. */
static void test_rounding(void **state)
{
    qnt_context *ctx = context_of(1);
    struct qnti_random random;
    (void)state;
    qnti_random_seed(&random, 1);
    for (unsigned k = 0; k < KINDS; k++) {
        float table[QNTI_PAIRS_MOST_LEVELS];
        struct qnti_grid grid = kind_at(ctx, k, 0, table);
        for (unsigned i = 0; i < grid.levels; i++) {
            float middle = (table[i] + table[i + 1 < grid.levels ? i + 1 : i]) / 2;
            check_number(&grid, k, table[i]);
            check_number(&grid, k, middle);
            check_number(&grid, k, nextafterf(middle, INFINITY));
            check_number(&grid, k, nextafterf(middle, -INFINITY));
        }
        for (int i = 0; i < 500; i++)
            check_number(&grid, k, random_float(&random) * (i % 2 ? 40 : 700));
        check_number(&grid, k, 1e4f);
        check_number(&grid, k, -1e4f);
        check_number(&grid, k, 1e-40f);
    }
    qnt_context_destroy(ctx);
}

static void test_victims(void **state)
{
    static const float x[] = {3, 100, 90, -7, 50, -300, -300, 50, 64, -64, 5, 6, -100};
    static const float first[] = {0, 96, 96, 0, 48, 0, -256, 0, 64, 0, 4, 8, -96};
    static const float larger[] = {0, 96, 96, 0, 0, -256, -256, 0, 64, 0, 4, 8, -96};
    static const float half = 0.5f, nothing = 0, each[] = {1, 1};
    qnt_context *ctx = context_of(1);
    float table[QNTI_PAIRS_MOST_LEVELS], value[COUNT(x)], halves[COUNT(x)];
    uint16_t code[COUNT(x)];
    struct qnti_pairs pairs = {.is_signed = true, .outliers = true};
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        const float *want = keep ? larger : first;
        struct qnti_grid grid;
        pairs.larger = keep;
        grid = grid_of(ctx, 4, pairs, 0, table);
        for (size_t i = 0; i < COUNT(x); i++)
            halves[i] = x[i] / 2;
        qnti_grid_round(&grid, table, COUNT(x), halves, &half, &nothing, 0, code, value);
        for (size_t i = 0; i < COUNT(x); i++) {
            assert_true(value[i] == want[i] / 2);
            assert_true(table[code[i]] == want[i]);
        }
        qnti_grid_round(&grid, table, COUNT(x), x, &nothing, &nothing, 0, code, value); /* a scale of 0 */
        for (size_t i = 0; i < COUNT(x); i++)
            assert_true(value[i] == 0 && code[i] == qnti_pairs_zero(&grid));
        qnti_grid_round(&grid, table, 2, (float[]){100, 1}, each, (float[]){0, 0}, 1, code, value);
        assert_true(value[0] == 96 && value[1] == 0); /* 1 / 4 is nearest 0: numbers with scales of their own, */
        qnti_grid_round(&grid, table, 2, (float[]){100, 7}, each, (float[]){0, 0}, 1, code, value);
        assert_true(value[0] == 96 && value[1] == 8); /* are no pair */
    }
    qnt_context_destroy(ctx);
}

/* --- the search --- */

/* What the whole row loses with a scale: the sheet's definition. */
static double error_with(const struct qnti_grid *grid, const float *x, size_t n, float scale)
{
    static const float nothing = 0;
    float *value = NEW(n, float);
    double sum = 0;
    qnti_grid_round(grid, grid->table, n, x, &scale, &nothing, 0, NULL, value);
    for (size_t i = 0; i < n; i++)
        sum += ((double)value[i] - (double)x[i]) * ((double)value[i] - (double)x[i]);
    free(value);
    return sum;
}

static float *heavy_row(size_t n, uint64_t seed, bool positive)
{
    float *x = random_floats(n, seed, 0.1f);
    for (size_t i = 0; i < n; i++) {
        x[i] *= i % 11 == 3 ? 9 : i % 23 == 7 ? -20 : 1;
        x[i] = positive ? fabsf(x[i]) : x[i];
    }
    return x;
}

static void test_errors(void **state)
{
    static const size_t sizes[] = {1, 2, 7, 64, 301};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (unsigned k = 0; k < KINDS; k++)
        for (size_t s = 0; s < COUNT(sizes); s++)
            for (int positive = 0; positive < 2; positive++) { /* numbers below 0 on levels that are not, too */
                float table[QNTI_PAIRS_MOST_LEVELS];
                struct qnti_grid grid = kind_at(ctx, k, 0, table);
                size_t n = sizes[s], steps = qnti_pairs_steps(&grid);
                float *x = heavy_row(n, k + n, positive), base = qnti_pairs_base(&grid, x, 1, n, n);
                double errors[QNTI_PAIRS_MOST_STEPS] = {0}, square = 0;
                void *scratch;
                assert_ok(ctx, qnti_grid_scratch(ctx, &grid, n, &scratch));
                qnti_pairs_errors(&grid, base, n, x, scratch, errors);
                for (size_t i = 0; i < n; i++)
                    square += (double)x[i] * (double)x[i];
                assert_int_equal(steps, 88);
                for (size_t i = 0; i < steps; i++) {
                    double want = error_with(&grid, x, n, qnti_pairs_scale(&grid, base, i));
                    if (!(fabs(errors[i] - want) <= 1e-6 * want + 1e-9 * square + 2e-7 * sqrt(want * square)))
                        fail_msg("kind %u, %zu numbers, step %zu: error %.9g, not %.9g", k, n, i, errors[i], want);
                }
                qnti_free(ctx, scratch);
                free(x);
            }
    qnt_context_destroy(ctx);
}

static void test_base(void **state)
{
    static const float x[] = {1, 2, 3, -6, 0, 6, 7, 99}, odd[] = {5}, same[] = {-4, -4, -4};
    qnt_context *ctx = context_of(1);
    float table[QNTI_PAIRS_MOST_LEVELS];
    struct qnti_pairs pairs = {.is_signed = true, .outliers = true};
    struct qnti_grid grid = grid_of(ctx, 4, pairs, 0, table);
    (void)state;
    /* (1, 2, 3, -6) and (0, 6, 7) as rows of a matrix: mean 13 / 7, squares 135 */
    assert_true(fabs((double)qnti_pairs_base(&grid, x, 1, 7, 7) - (13 / 7.0 + 3 * sqrt((135 - 169 / 7.0) / 6))) < 1e-5);
    assert_true(fabs((double)qnti_pairs_base(&grid, x, 2, 2, 4) - (9 / 4.0 + 3 * sqrt((41 - 81 / 4.0) / 3))) < 1e-5);
    assert_true(qnti_pairs_base(&grid, odd, 1, 1, 1) == 5);
    assert_true(qnti_pairs_base(&grid, same, 1, 3, 3) == 4);
    assert_true(qnti_pairs_scale(&grid, 28, 0) == 0.75f && qnti_pairs_scale(&grid, 28, 87) == 2.49f);
    assert_true(qnti_pairs_scale(&grid, 0, 3) == 1);
    grid.pairs.outliers = false;
    assert_true(qnti_pairs_base(&grid, x, 1, 7, 7) == 7);
    grid.pairs.search_high = 77;
    assert_int_equal(qnti_pairs_steps(&grid), 1); /* the end is not tried */
    grid.pairs.search_high = 78;
    assert_int_equal(qnti_pairs_steps(&grid), 2);
    qnt_context_destroy(ctx);
}

/* Rows, groups, a tensor: always the first scale of the least error. */
static void test_fit(void **state)
{
    enum { ROWS = 70, COLS = 37, GROUP = 10 };
    qnt_context *ctx = context_of(2);
    float *x = heavy_row((size_t)ROWS * COLS, 5, false), table[QNTI_PAIRS_MOST_LEVELS], scale;
    double error, all[88] = {0};
    (void)state;
    memset(x, 0, COLS * sizeof *x);
    for (size_t group = 0; group <= GROUP; group += GROUP) {
        struct qnti_grid grid = kind_at(ctx, 16 + 2 + 4 + 1, group, table);
        struct qnti_numbers *q;
        size_t span = group ? group : COLS, groups = (COLS + span - 1) / span;
        assert_ok(ctx, qnti_numbers_create(ctx, &grid, ROWS, COLS, &q));
        assert_ok(ctx, qnti_nearest(ctx, x, NULL, NULL, q));
        for (size_t r = 0; r < ROWS; r++)
            for (size_t g = 0; g < groups; g++) {
                size_t first = g * span, n = first + span < COLS ? span : COLS - first;
                const float *row = x + r * COLS + first;
                float base = qnti_pairs_base(&grid, row, 1, n, n), is = q->scale->value[r * groups + g];
                double own = error_with(&grid, row, n, is);
                for (size_t i = 0; base > 0 && i < 88; i++)
                    assert_true(own <= error_with(&grid, row, n, qnti_pairs_scale(&grid, base, i)) * (1 + 1e-6));
                assert_true(base > 0 || is == 1);
            }
        assert_ok(ctx, qnti_square_error(ctx, x, q, &error));
        assert_true(error > 0);
        qnti_numbers_free(ctx, q);
    }
    {
        struct qnti_grid grid = kind_at(ctx, 16 + 2 + 4, 0, table);
        float base = qnti_pairs_base(&grid, x, ROWS, COLS, COLS);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t i = 0; i < 88; i++)
                all[i] += error_with(&grid, x + r * COLS, COLS, qnti_pairs_scale(&grid, base, i));
        assert_ok(ctx, qnti_pairs_search(ctx, &grid, x, ROWS, COLS, &scale, &error));
        assert_true(fabs(error / all[qnti_pairs_best(all, 88)] - 1) < 1e-6);
        assert_true(scale == qnti_pairs_scale(&grid, base, qnti_pairs_best(all, 88)));
    }
    assert_int_equal(qnti_pairs_best((double[]){3, 1, 2, 1}, 4), 1);
    free(x);
    qnt_context_destroy(ctx);
}

/* --- stored codes --- */

/* By the sheet: high and low nibble, or two bytes, of pairs of levels. */
static void test_exact_bytes(void **state)
{
    static const struct {
        unsigned bits;
        bool flint;
        float level[2];
        unsigned code[2];
    } pairs[] = {
        {4, false, {28, -28}, {7, 9}},       {4, false, {-4, 0}, {15, 0}},        {4, false, {48, 0}, {1, 8}},
        {4, false, {0, -384}, {8, 15}},      {4, false, {64, 0}, {2, 8}},         {4, false, {-96, 0}, {11, 8}},
        {4, true, {32, -32}, {7, 15}},       {4, true, {2, -12}, {1, 13}},        {4, true, {0, 192}, {8, 5}},
        {4, true, {0, 0}, {0, 0}},           {8, false, {31.75f, -31.75f}, {127, 129}}, {8, false, {33, 0}, {1, 128}},
        {8, false, {0, -504}, {128, 255}},   {8, false, {66, 0}, {33, 128}},      {8, false, {-0.25f, 8}, {255, 32}},
        {3, false, {-24, 24}, {5, 3}},       {3, true, {0, -64}, {4, 5}},         {5, true, {0, 40}, {16, 1}},
        {5, false, {-30, 2}, {17, 1}},
    };
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(pairs); i++) {
        float table[QNTI_PAIRS_MOST_LEVELS];
        struct qnti_grid grid = grid_of(ctx, pairs[i].bits, (struct qnti_pairs){.flint = pairs[i].flint,
                                        .is_signed = true, .outliers = true}, 0, table);
        uint16_t level[2] = {0}, code[2], back[2];
        for (size_t k = 0; k < 2; k++)
            while (table[level[k]] != pairs[i].level[k])
                level[k]++;
        assert_true(qnti_pair_encode(&grid, level, code));
        if (code[0] != pairs[i].code[0] || code[1] != pairs[i].code[1])
            fail_msg("pair %zu: codes %u and %u", i, code[0], code[1]);
        assert_true(qnti_pair_decode(&grid, code, back));
        assert_int_equal(back[0], level[0]);
        assert_int_equal(back[1], level[1]);
    }
    qnt_context_destroy(ctx);
}

/* Whether the sheet allows the pair. */
static bool legal(const struct qnti_grid *grid, unsigned a, unsigned b)
{
    bool left = qnti_pairs_outlier(grid, a), right = qnti_pairs_outlier(grid, b);
    if ((left || right) && !grid->pairs.is_signed)
        return false;
    return !(left && b != qnti_pairs_zero(grid)) && !(right && a != qnti_pairs_zero(grid));
}

/* Legal pairs come back, others are refused; of all codes exactly as many are taken as there are legal pairs. */
static void test_every_pair(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    for (unsigned k = 0; k < KINDS; k++) {
        float table[QNTI_PAIRS_MOST_LEVELS];
        struct qnti_grid grid = kind_at(ctx, k, 0, table);
        size_t pairs = 0, taken = 0, wide = grid.pairs.is_signed && grid.pairs.outliers, half = 1u << (grid.bits - 1);
        for (unsigned a = 0; a < grid.levels; a++)
            for (unsigned b = 0; b < grid.levels; b++) {
                uint16_t level[2] = {(uint16_t)a, (uint16_t)b}, code[2], back[2];
                assert_int_equal(qnti_pair_encode(&grid, level, code), legal(&grid, a, b));
                if (!legal(&grid, a, b))
                    continue;
                pairs++;
                assert_true(code[0] < 2 * half && code[1] < 2 * half && qnti_pair_decode(&grid, code, back));
                assert_true(back[0] == a && back[1] == b);
            }
        for (unsigned a = 0; a < 2 * half; a++)
            for (unsigned b = 0; b < 2 * half; b++) {
                uint16_t code[2] = {(uint16_t)a, (uint16_t)b}, level[2], again[2];
                if (!qnti_pair_decode(&grid, code, level))
                    continue;
                taken++;
                assert_true(qnti_pair_encode(&grid, level, again) && again[0] == a && again[1] == b);
            }
        assert_int_equal(pairs, taken);
        if (grid.pairs.is_signed) /* all but the identifier; beside it all but the two zeros of outliers */
            assert_int_equal(taken, (2 * half - 1) * (2 * half - 1) + wide * 2 * (2 * half - 2));
        else
            assert_int_equal(taken, 4 * half * half);
    }
    qnt_context_destroy(ctx);
}

/* Streams of whole matrices, of more than one run of codes, and what the file says of their bits. */
static void test_matrices(void **state)
{
    static const struct {
        size_t rows, cols;
    } shapes[] = {{1, 1}, {3, 5}, {2, 8}, {40, 301}, {3, 4097}};
    qnt_context *ctx = context_of(1);
    (void)state;
    for (unsigned k = 2; k < KINDS; k += 4 /* signed ones */)
        for (size_t s = 0; s < COUNT(shapes); s++) {
            float table[QNTI_PAIRS_MOST_LEVELS];
            struct qnti_grid grid = kind_at(ctx, k, 0, table);
            size_t rows = shapes[s].rows, cols = shapes[s].cols, wide = cols + cols % 2;
            struct qnti_numbers *q, *back;
            size_t bytes = (rows * wide * grid.bits + 7) / 8;
            unsigned char *stream = NEW(bytes, unsigned char);
            float *x = heavy_row(rows * cols, k + cols, false);
            assert_ok(ctx, qnti_numbers_create(ctx, &grid, rows, cols, &q));
            assert_ok(ctx, qnti_numbers_create(ctx, &grid, rows, cols, &back));
            assert_ok(ctx, qnti_nearest(ctx, x, NULL, NULL, q));
            assert_int_equal(qnti_pair_codes_bytes(q), bytes);
            assert_true(qnti_numbers_bits(q) == (double)(rows * wide * grid.bits + 32 * rows));
            assert_true(qnti_pair_codes_write(q, stream));
            assert_true(qnti_pair_codes_read(back, stream));
            for (size_t i = 0; i < rows * cols; i++)
                assert_int_equal(qnti_numbers_code(q, i / cols, i % cols), qnti_numbers_code(back, i / cols, i % cols));
            qnti_numbers_free(ctx, q);
            qnti_numbers_free(ctx, back);
            free(stream);
            free(x);
        }
    qnt_context_destroy(ctx);
}

/* A nibble each, the first low; bytes that are no pairs, partners that are not there. */
static void test_bytes_of_rows(void **state)
{
    qnt_context *ctx = context_of(1);
    struct qnti_grid grid = pairs_of(ctx, 4, false, 0, QNT_F32);
    struct qnti_numbers *q;
    static const float level[2][3] = {{28, -4, 96}, {0, -48, 12}};
    static const unsigned char want[] = {0xf7, 0x83, 0x98, 0x03}, bad[][2] = {{0, 0x88}, {0, 0x80}, {0, 0x08},
                                                                             {1, 0x13}, {3, 0x13}, {3, 0xf3}};
    unsigned char bytes[4];
    (void)state;
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, 2, 3, &q));
    for (size_t i = 0; i < 6; i++) {
        uint16_t code = 0;
        while (grid.table[code] != level[i / 3][i % 3])
            code++;
        qnti_numbers_put_codes(q, i / 3, i % 3, 1, &code);
    }
    assert_true(qnti_pair_codes_write(q, bytes));
    assert_memory_equal(bytes, want, sizeof want);
    for (size_t i = 0; i < COUNT(bad); i++) {
        memcpy(bytes, want, sizeof want);
        bytes[bad[i][0]] = bad[i][1];
        assert_false(qnti_pair_codes_read(q, bytes));
    }
    assert_true(qnti_pair_codes_read(q, want));
    qnti_numbers_put_codes(q, 0, 0, 2, (uint16_t[]){28, 28}); /* two outliers */
    assert_false(qnti_pair_codes_write(q, bytes));
    qnti_numbers_free(ctx, q);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),      cmocka_unit_test(test_rounding),   cmocka_unit_test(test_victims),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_base),       cmocka_unit_test(test_fit),
        cmocka_unit_test(test_exact_bytes), cmocka_unit_test(test_every_pair), cmocka_unit_test(test_matrices),
        cmocka_unit_test(test_bytes_of_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
