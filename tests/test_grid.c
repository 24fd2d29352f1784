/*
 * test_grid.c - affine grids by hand, range search, maps, numbers on grids, activation quantizers.
 *
 * G1 to G4 are the four rules for a range: zero a level; symmetric over all
 * levels; symmetric with the largest magnitude on a level; minimum to maximum.
 */
#include "layer_support.h"
#include "base/kernels.h"
#include "base/number.h"
#include "grid/activation.h"
#include "grid/grid.h"
#include "solve/solve.h"

enum rule { G1, G2, G3, G4 };

static struct qnti_grid rule_grid(const qnt_context *ctx, enum rule rule, unsigned bits, size_t size, qnt_dtype type)
{
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(ctx), bits, size, type);
    grid.sym = rule == G2 || rule == G3;
    grid.absmax = rule == G3;
    grid.include_zero = rule != G4;
    grid.constant_offset = grid.sym;
    grid.offset = grid.sym ? (float)(1u << (bits - 1)) : 0;
    grid.integer_offset = !grid.sym;
    return grid;
}

/* --- G1 to G4 --- */

struct hand {
    const char *what;
    enum rule rule;
    unsigned bits, n;
    float x[5], scale;
    float zero;                 /* negative: either neighbour of the middle */
    int code[5];                /* -1: the zero */
};

static const struct hand hands[] = {
    {"plain", G1, 2, 3, {-1, 0, 2}, 1, 1, {0, 1, 3}},
    {"ties to even, zero added after rounding", G1, 2, 5, {-1, 2, 0.5f, -0.5f, 1.5f}, 1, 1, {0, 3, 1, 1, 3}},
    {"ties of a positive group", G1, 2, 4, {3, 0.5f, 1.5f, 2.5f}, 1, 0, {3, 0, 2, 2}},
    {"all zero", G1, 4, 3, {0, -0.0f, 0}, 2.0f / 15, -1, {-1, -1, -1}},
    {"positive constant", G1, 4, 2, {30, 30}, 2, 0, {15, 15}},
    {"negative constant", G1, 2, 2, {-3, -3}, 1, 3, {0, 0}},
    {"too small to divide by", G1, 4, 2, {1e-42f, -1e-42f}, 2.0f / 15, -1, {-1, -1}},
    {"16 bits", G1, 16, 3, {0, 65535, 1234}, 1, 0, {0, 65535, 1234}},
    {"one bit", G1, 1, 3, {-1, 0, 0.25f}, 1.25f, 1, {0, 1, 1}},
    {"symmetric", G2, 2, 3, {-1.5f, 1, 0.4f}, 1, 2, {0, 3, 2}},
    {"symmetric, one sign: mirrored", G2, 2, 2, {1.5f, 0.6f}, 1, 2, {3, 3}},
    {"symmetric, all zero", G2, 4, 2, {0, 0}, 2.0f / 15, 8, {8, 8}},
    {"largest magnitude on a level", G3, 4, 3, {-7, 3, 0.5f}, 1, 8, {1, 11, 8}},
    {"largest magnitude positive", G3, 4, 2, {7, -3.6f}, 1, 8, {15, 4}},
    {"floor of a range", G3, 4, 2, {0, 0}, 1e-5f / 7, 8, {8, 8}},
    {"one sign saturates", G4, 4, 3, {1, 2, 1.5f}, 1.0f / 15, 0, {15, 15, 15}},
    {"other sign saturates", G4, 4, 2, {-1, -2}, 1.0f / 15, 15, {0, 0}},
    {"minimum to maximum", G4, 2, 3, {-1, 2, 0.4f}, 1, 1, {0, 3, 1}},
    {"floor of a range without zero", G4, 4, 2, {0, 0}, 1e-5f / 15, 0, {0, 0}},
};

static struct qnti_numbers *nearest(qnt_context *ctx, const struct qnti_grid *grid, const float *x, size_t rows,
                                    size_t cols)
{
    struct qnti_numbers *q;
    assert_ok(ctx, qnti_numbers_create(ctx, grid, rows, cols, &q));
    assert_ok(ctx, qnti_nearest(ctx, x, NULL, NULL, q));
    return q;
}

static void check_hand(qnt_context *ctx, const struct hand *h)
{
    struct qnti_grid grid = rule_grid(ctx, h->rule, h->bits, 0, QNT_F32);
    struct qnti_numbers *q = nearest(ctx, &grid, h->x, 1, h->n);
    float scale, zero, value, middle = (float)((1u << h->bits) - 1) / 2;
    qnti_numbers_affine(q, 0, 0, &scale, &zero);
    if (scale != h->scale || (h->zero < 0 ? fabsf(zero - middle) != 0.5f : zero != h->zero))
        fail_msg("%s: scale %.9g, zero %g", h->what, (double)scale, (double)zero);
    for (size_t i = 0; i < h->n; i++) {
        int code = qnti_numbers_code(q, 0, i);
        if (code != (h->code[i] < 0 ? (int)zero : h->code[i]))
            fail_msg("%s: code %zu is %d", h->what, i, code);
        qnti_numbers_values(q, 0, i, 1, &value);
        assert_true(value == ((float)code - zero) * scale);
    }
    qnti_numbers_free(ctx, q);
}

static void test_rules(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    for (size_t i = 0; i < COUNT(hands); i++)
        check_hand(ctx, &hands[i]);
    qnt_context_destroy(ctx);
}

static void test_range_overflows(void **state)
{
    qnt_context *ctx = context_of(1);
    static const float x[2] = {-3e38f, 3e38f};
    (void)state;
    for (enum rule rule = G1; rule <= G4; rule++) {
        struct qnti_grid grid = rule_grid(ctx, rule, 4, 0, QNT_F32);
        struct qnti_numbers *q = nearest(ctx, &grid, x, 1, 2);
        float values[2];
        qnti_numbers_values(q, 0, 0, 2, values);
        assert_true(isfinite(values[0]) && isfinite(values[1]));
        assert_true(fabsf(values[0] - x[0]) < 5e37f && fabsf(values[1] - x[1]) < 5e37f);
        qnti_numbers_free(ctx, q);
    }
    qnt_context_destroy(ctx);
}

/* Codes belong to the scale as it is stored. */
static void test_stored_scales(void **state)
{
    qnt_context *ctx = context_of(1);
    float x[64], scale, zero, value;
    struct qnti_random random;
    struct qnti_grid grid = rule_grid(ctx, G1, 8, 16, QNT_F16), tiny = rule_grid(ctx, G3, 8, 0, QNT_F16);
    struct qnti_numbers *q;
    (void)state;
    qnti_random_seed(&random, 4);
    for (size_t i = 0; i < 64; i++)
        x[i] = random_float(&random);
    q = nearest(ctx, &grid, x, 2, 32);
    for (size_t r = 0; r < 2; r++)
        for (size_t c = 0; c < 32; c++) {
            qnti_numbers_affine(q, r, c, &scale, &zero);
            assert_true(scale == qnti_round_to(QNT_F16, scale));
            assert_true((float)qnti_numbers_code(q, r, c) ==
                        fminf(fmaxf(rintf(x[r * 32 + c] / scale) + zero, 0), 255));
        }
    qnti_numbers_free(ctx, q);
    x[0] = x[1] = 0; /* 1e-5 / 127 is f16's 2^-24 and a bit */
    q = nearest(ctx, &tiny, x, 1, 2);
    qnti_numbers_values(q, 0, 0, 1, &value);
    assert_true(value == 0 && q->scale->value[0] > 0);
    qnti_numbers_free(ctx, q);
    qnt_context_destroy(ctx);
}

/* The search as it is written: in f32, p in double, a strictly smaller error wins. */
static float searched_scale(const float *x, size_t n, bool sym, unsigned bits, float norm, int steps, double full)
{
    float lo = 0, hi = 0, best = INFINITY, found = 0, top = (float)((1u << bits) - 1);
    for (size_t i = 0; i < n; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    if (sym) {
        hi = fmaxf(-lo, hi);
        lo = -hi;
    }
    for (int i = 0; i < steps; i++) {
        float p = (float)(1.0 - i / full), scale = (p * hi - p * lo) / top, error = 0;
        float zero = sym ? (float)(1u << (bits - 1)) : rintf(-(p * lo) / scale);
        for (size_t k = 0; k < n; k++) {
            float code = fminf(fmaxf(rintf(x[k] / scale) + zero, 0), top), d = fabsf((code - zero) * scale - x[k]);
            error += norm == 2 ? d * d : powf(d, norm);
        }
        if (error < best) {
            best = error;
            found = scale;
        }
    }
    return found;
}

static void test_range_search(void **state)
{
    qnt_context *ctx = context_of(1);
    float *x = random_floats(8 * 600, 9, 1);
    (void)state;
    for (size_t r = 0; r < 8; r++)
        x[r * 600 + 7 * r] = 9; /* worth cutting off */
    for (int k = 0; k < 4; k++) {
        struct qnti_grid grid = rule_grid(ctx, k & 1 ? G2 : G1, 3, 0, QNT_F32);
        struct qnti_numbers *q;
        grid.search = true;
        grid.search_norm = k & 2 ? 2.4f : 2;
        grid.search_grid = 50;
        grid.search_steps = 40;
        q = nearest(ctx, &grid, x, 8, 600);
        for (size_t r = 0; r < 8; r++) {
            float want = searched_scale(x + r * 600, 600, k & 1, 3, grid.search_norm, 40, 50);
            assert_true(q->scale->value[r] == want);
            assert_true(want < 9.0f / 7);
        }
        qnti_numbers_free(ctx, q);
    }
    free(x);
    qnt_context_destroy(ctx);
}

/* --- maps --- */

static void check_map(const struct qnti_map *map, size_t rows, size_t cols)
{
    size_t group_rows = qnti_map_group_rows(map, rows), groups = qnti_map_groups(map, rows, cols);
    uint8_t *used = NEW(group_rows * groups, uint8_t);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            size_t row, group, next_row, next, run = qnti_map_run(map, cols, r, c), want_row, want;
            bool flat = map->kind == QNTI_MAP_FLAT || map->kind == QNTI_MAP_STRIDED;
            want_row = flat || !map->rows ? 0 : r / map->rows;
            want = map->kind == QNTI_MAP_FLAT      ? (r * cols + c) / map->cols
                   : map->kind == QNTI_MAP_STRIDED ? (r * cols + c) % map->cols
                   : map->kind == QNTI_MAP_INDEX   ? map->index[c]
                   : map->cols                     ? c / map->cols
                                                   : 0;
            qnti_map_find(map, cols, r, c, &row, &group);
            assert_int_equal(row, want_row);
            assert_int_equal(group, want);
            assert_true(row < group_rows && group < groups);
            used[row * groups + group] = 1;
            assert_true(run >= 1 && c + run <= cols);
            for (size_t k = 1; k <= run && c + k < cols; k++) {
                qnti_map_find(map, cols, r, c + k, &next_row, &next);
                assert_int_equal(next == group, k < run);
            }
        }
    for (size_t i = 0; map->kind != QNTI_MAP_INDEX && i < group_rows * groups; i++)
        assert_true(used[i]);
    free(used);
}

static void test_maps(void **state)
{
    static const uint32_t index[11] = {0, 0, 2, 1, 1, 1, 0, 3, 3, 2, 2};
    static const struct qnti_map maps[] = {
        {QNTI_MAP_TILES, 1, 0, NULL, 0}, {QNTI_MAP_TILES, 1, 4, NULL, 0},  {QNTI_MAP_TILES, 0, 0, NULL, 0},
        {QNTI_MAP_TILES, 3, 5, NULL, 0}, {QNTI_MAP_TILES, 0, 2, NULL, 0},  {QNTI_MAP_TILES, 2, 100, NULL, 0},
        {QNTI_MAP_FLAT, 0, 6, NULL, 0},  {QNTI_MAP_FLAT, 0, 200, NULL, 0}, {QNTI_MAP_FLAT, 0, 11, NULL, 0},
        {QNTI_MAP_INDEX, 1, 0, index, 4}, {QNTI_MAP_INDEX, 2, 0, index, 4}, {QNTI_MAP_STRIDED, 0, 1, NULL, 0},
        {QNTI_MAP_STRIDED, 0, 7, NULL, 0}, {QNTI_MAP_STRIDED, 0, 11, NULL, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(maps); i++) {
        check_map(&maps[i], 7, 11);
        check_map(&maps[i], 1, 11);
    }
}

/* Rows that are tied and whole tensors have the range of all their numbers. */
static void test_tied_rows(void **state)
{
    qnt_context *ctx = context_of(2);
    float *x = random_floats(200 * 24, 12, 1);
    (void)state;
    for (size_t tied = 0; tied <= 3; tied += 3) {
        struct qnti_grid grid = rule_grid(ctx, G1, 4, tied ? 8 : 0, QNT_F32);
        struct qnti_numbers *q;
        grid.map.rows = tied;
        q = nearest(ctx, &grid, x, 200, 24);
        for (size_t r = 0; r < 200; r++)
            for (size_t c = 0; c < 24; c++) {
                size_t r0 = tied ? r / 3 * 3 : 0, r1 = tied ? qnti_min(r0 + 3, 200) : 200;
                size_t c0 = tied ? c / 8 * 8 : 0, c1 = tied ? c0 + 8 : 24;
                float lo = 0, hi = 0, scale, zero;
                for (size_t i = r0; i < r1; i++)
                    for (size_t j = c0; j < c1; j++) {
                        lo = fminf(lo, x[i * 24 + j]);
                        hi = fmaxf(hi, x[i * 24 + j]);
                    }
                qnti_numbers_affine(q, r, c, &scale, &zero);
                assert_true(scale == (hi - lo) / 15 && zero == rintf(-lo / scale));
                if (tied == 0) {
                    r = 200; /* one look is enough */
                    break;
                }
            }
        qnti_numbers_free(ctx, q);
    }
    free(x);
    qnt_context_destroy(ctx);
}

/* Runs that cross rows, with a shorter last one, are those of the flattened matrix. */
static void test_flat_groups(void **state)
{
    qnt_context *ctx = context_of(2);
    enum { ROWS = 13, COLS = 17, SIZE = 6, N = ROWS * COLS };
    float *x = random_floats(N, 13, 1), a[N], b[N];
    struct qnti_grid flat = rule_grid(ctx, G3, 4, 0, QNT_F32), line = rule_grid(ctx, G3, 4, SIZE, QNT_F32);
    struct qnti_numbers *q, *want;
    (void)state;
    flat.map = (struct qnti_map){.kind = QNTI_MAP_FLAT, .cols = SIZE};
    q = nearest(ctx, &flat, x, ROWS, COLS);
    want = nearest(ctx, &line, x, 1, N);
    for (size_t r = 0; r < ROWS; r++)
        qnti_numbers_values(q, r, 0, COLS, a + r * COLS);
    qnti_numbers_values(want, 0, 0, N, b);
    assert_memory_equal(a, b, sizeof a);
    qnti_numbers_free(ctx, q);
    qnti_numbers_free(ctx, want);
    free(x);
    qnt_context_destroy(ctx);
}

/* --- numbers --- */

static void test_codes(void **state)
{
    qnt_context *ctx = context_of(1);
    uint16_t code[21], back[21];
    (void)state;
    for (unsigned bits = 1; bits <= 16; bits++) {
        struct qnti_grid grid = rule_grid(ctx, G2, bits, 0, QNT_F16);
        struct qnti_numbers *q;
        assert_ok(ctx, qnti_numbers_create(ctx, &grid, 3, 7, &q));
        for (size_t i = 0; i < 21; i++)
            code[i] = (uint16_t)((i * 40503u) & ((1u << bits) - 1));
        for (size_t r = 0; r < 3; r++)
            qnti_numbers_put_codes(q, r, 0, 7, code + 7 * r);
        qnti_numbers_get_codes(q, 0, 0, 21, back);
        assert_memory_equal(code, back, sizeof code);
        assert_int_equal(qnti_numbers_code(q, 2, 3), code[17]);
        assert_true(qnti_numbers_bits(q) == 21 * bits + 3 * 16);
        qnti_numbers_free(ctx, q);
    }
    assert_true(qnti_numbers_bits(NULL) == 0);
    qnt_context_destroy(ctx);
}

static void test_bits(void **state)
{
    static const uint32_t index[10] = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
    qnt_context *ctx = context_of(1);
    struct qnti_grid zeros = rule_grid(ctx, G1, 3, 4, QNT_F16), mins = zeros, along = zeros, book = zeros, q6_k,
                     plain = qnti_float_grid(QNT_BF16);
    const struct {
        const struct qnti_grid *grid;
        size_t rows, cols;
        double bits;
    } cases[] = {
        {&zeros, 5, 10, 5 * 10 * 3 + 5 * 3 * (16 + 3)}, {&mins, 5, 10, 5 * 10 * 3 + 5 * 3 * (16 + 16)},
        {&along, 5, 10, 5 * 10 * 3 + 5 * 2 * (16 + 3) + 10 * 32}, {&book, 5, 10, 5 * 10 * 3 + 5 * 16 + 5 * 8 * 16},
        {&q6_k, 2, 512, 2 * 512 * 6.5625},              {&plain, 3, 3, 9 * 16},
    };
    (void)state;
    mins.form = QNTI_FORM_MIN;
    mins.integer_offset = false;
    along.map = (struct qnti_map){QNTI_MAP_INDEX, 1, 0, index, 2};
    book.form = QNTI_FORM_CODEBOOK;
    book.map.cols = 0;
    book.constant_offset = true;
    book.codebook_size = 8;
    book.codebook_per_row = true;
    assert_true(qnti_ggml_grid(qnti_context_kernels(ctx), "Q6_K", &q6_k));
    assert_false(qnti_ggml_grid(qnti_context_kernels(ctx), "q9", &q6_k));
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct qnti_numbers *q;
        assert_ok(ctx, qnti_numbers_create(ctx, cases[i].grid, cases[i].rows, cases[i].cols, &q));
        if (qnti_numbers_bits(q) != cases[i].bits)
            fail_msg("grid %zu takes %g bits, not %g", i, qnti_numbers_bits(q), cases[i].bits);
        qnti_numbers_free(ctx, q);
    }
    qnt_context_destroy(ctx);
}

/* Values of each form, across groups, from any column on. */
static void check_values(const struct qnti_numbers *q,
                         double (*value)(const struct qnti_numbers *q, size_t r, size_t c))
{
    float *x = NEW(q->cols, float);
    for (size_t r = 0; r < q->rows; r++)
        for (size_t c = 0; c < q->cols; c += 3) {
            qnti_numbers_values(q, r, c, q->cols - c, x);
            for (size_t k = c; k < q->cols; k++)
                assert_true(fabs((double)x[k - c] - value(q, r, k)) <= 1e-6);
        }
    free(x);
}

static double form_value(const struct qnti_numbers *q, size_t r, size_t c)
{
    double code = qnti_numbers_code(q, r, c), scale, offset;
    size_t g = q->grid.map.kind == QNTI_MAP_INDEX ? q->index[c] : c / q->grid.map.cols;
    scale = (double)q->scale->value[r * q->scale->cols + g];
    offset = q->offset ? (double)q->offset->value[r * q->offset->cols + g] : (double)q->grid.offset;
    if (q->grid.form == QNTI_FORM_ZERO)
        return (code - offset) * scale;
    if (q->grid.form == QNTI_FORM_MIN)
        return code * scale + offset;
    return scale * (double)q->codebook->value[(q->grid.codebook_per_row ? r : 0) * q->codebook->cols + (size_t)code] +
           offset;
}

static void fill(struct qnti_numbers *q, struct qnti_random *random)
{
    for (size_t i = 0; i < q->rows * q->cols; i++) {
        uint16_t code = (uint16_t)random_below(random, q->grid.levels);
        qnti_numbers_put_codes(q, i / q->cols, i % q->cols, 1, &code);
    }
    for (size_t i = 0; i < q->scale->rows * q->scale->cols; i++)
        q->scale->value[i] = random_float(random);
    for (size_t i = 0; q->offset && i < q->offset->rows * q->offset->cols; i++)
        q->offset->value[i] =
            q->grid.integer_offset ? (float)random_below(random, q->grid.levels) : random_float(random);
    for (size_t i = 0; q->codebook && i < q->codebook->rows * q->codebook->cols; i++)
        q->codebook->value[i] = random_float(random);
}

static void test_values(void **state)
{
    static const uint32_t index[11] = {0, 0, 2, 1, 1, 1, 0, 3, 3, 2, 2};
    qnt_context *ctx = context_of(1);
    struct qnti_random random;
    (void)state;
    qnti_random_seed(&random, 8);
    for (int form = QNTI_FORM_ZERO; form <= QNTI_FORM_CODEBOOK; form++)
        for (int k = 0; k < 8; k++) {
            struct qnti_grid grid = rule_grid(ctx, k & 1 ? G1 : G2, 3, 4, QNT_F32);
            struct qnti_numbers *q;
            grid.form = (enum qnti_form)form;
            grid.integer_offset = (k & 1) && form == QNTI_FORM_ZERO;
            grid.codebook_size = 8;
            grid.codebook_per_row = k & 2;
            if (k & 4)
                grid.map = (struct qnti_map){QNTI_MAP_INDEX, 1, 0, index, 4};
            assert_ok(ctx, qnti_numbers_create(ctx, &grid, 3, 11, &q));
            fill(q, &random);
            check_values(q, form_value);
            qnti_numbers_free(ctx, q);
        }
    qnt_context_destroy(ctx);
}

/* A super-block's value is d * scale code * (code - 32), and its scales keep their values beside their codes. */
static void test_two_levels(void **state)
{
    enum { ROWS = 3, COLS = 512 };
    qnt_context *ctx = context_of(1);
    float *w = random_floats(ROWS * COLS, 3, 0.1f), values[COLS];
    struct qnti_grid grid;
    struct qnti_numbers *q;
    double error = 0, power = 0;
    (void)state;
    assert_true(qnti_ggml_grid(qnti_context_kernels(ctx), "q6_k", &grid));
    q = nearest(ctx, &grid, w, ROWS, COLS);
    for (size_t r = 0; r < ROWS; r++) {
        qnti_numbers_values(q, r, 0, COLS, values);
        for (size_t c = 0; c < COLS; c++) {
            float d = q->scale->scale->value[r * (COLS / 256) + c / 256];
            float scale = d * ((float)qnti_numbers_code(q->scale, r, c / 16) - 128);
            assert_true(values[c] == scale * ((float)qnti_numbers_code(q, r, c) - 32));
            assert_true(q->scale->value[r * (COLS / 16) + c / 16] == scale);
            error += pow((double)(values[c] - w[r * COLS + c]), 2);
            power += pow((double)w[r * COLS + c], 2);
        }
    }
    assert_true(error < 5e-4 * power);
    qnti_numbers_free(ctx, q);
    free(w);
    qnt_context_destroy(ctx);
}

/* --- activations --- */

enum { TOKENS = 5, CHANNELS = 12, STRIDE = 14 };

struct act_case {
    struct qnti_actquant *act;
    const float *x;
    float y[TOKENS * STRIDE];
    uint8_t kept[CHANNELS];
};

static size_t act_group(const struct qnti_actquant *act, size_t c)
{
    const struct qnti_map *map = &act->grid.map;
    return map->kind == QNTI_MAP_INDEX ? map->index[c] : map->cols ? c / map->cols : 0;
}

/* G1 of the numbers that share a scale with (t, c), clipped, without the kept columns. */
static float act_value(const struct act_case *a, size_t t, size_t c)
{
    const struct qnti_actquant *act = a->act;
    float lo = 0, hi = 0, clip = act->clip > 0 ? act->clip : 1, scale, zero, top = (float)(act->grid.levels - 1);
    float x = a->x[t * STRIDE + c];
    if (a->kept[c])
        return x;
    if (act->fixed) {
        qnti_numbers_affine(act->fixed, 0, c, &scale, &zero);
    } else {
        for (size_t u = 0; u < TOKENS; u++)
            for (size_t k = 0; k < CHANNELS; k++)
                if ((u == t || act->grid.map.rows == 0) && act_group(act, k) == act_group(act, c) && !a->kept[k]) {
                    lo = fminf(lo, a->x[u * STRIDE + k] * clip);
                    hi = fmaxf(hi, a->x[u * STRIDE + k] * clip);
                }
        scale = (hi - lo) / top;
        zero = rintf(-lo / scale);
    }
    return (fminf(fmaxf(rintf(x / scale) + zero, 0), top) - zero) * scale;
}

static void check_act(qnt_context *ctx, struct act_case *a)
{
    float in_place[TOKENS * STRIDE];
    for (size_t c = 0; c < CHANNELS; c++) {
        bool large = false;
        for (size_t t = 0; t < TOKENS; t++)
            large |= a->act->threshold > 0 && fabsf(a->x[t * STRIDE + c]) >= a->act->threshold;
        a->kept[c] = large;
    }
    for (int where = 0; where < 2; where++) {
        uint8_t kept[CHANNELS] = {0};
        float *y = where ? in_place : a->y;
        memcpy(y, a->x, sizeof in_place);
        assert_ok(ctx, qnti_actquant_apply(ctx, a->act, where ? y : a->x, TOKENS, CHANNELS, STRIDE, y, kept));
        assert_memory_equal(kept, a->kept, sizeof kept);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t c = 0; c < STRIDE; c++)
                assert_true(y[t * STRIDE + c] == (c < CHANNELS ? act_value(a, t, c) : a->x[t * STRIDE + c]));
    }
}

static void test_activations(void **state)
{
    static const uint32_t index[CHANNELS] = {0, 1, 2, 0, 1, 2, 2, 2, 2, 0, 0, 1};
    static const struct qnti_map maps[] = {{QNTI_MAP_TILES, 1, 0, NULL, 0},
                                           {QNTI_MAP_TILES, 1, 5, NULL, 0},
                                           {QNTI_MAP_INDEX, 1, 0, index, 3},
                                           {QNTI_MAP_TILES, 0, 0, NULL, 0}};
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    float *x = random_floats(TOKENS * STRIDE, 6, 1);
    (void)state;
    x[2 * STRIDE + 4] = 20;
    for (size_t m = 0; m < COUNT(maps); m++)
        for (int k = 0; k < 8; k++) {
            struct qnti_grid grid = rule_grid(ctx, G1, 8, 0, QNT_F32);
            struct act_case a = {.x = x};
            grid.map = maps[m];
            assert_ok(ctx, qnti_actquant_create(ctx, &grid, CHANNELS, k & 4, &a.act));
            a.act->clip = k & 1 ? 0.75f : 0;
            a.act->threshold = k & 2 ? 6 : 0;
            for (size_t g = 0; a.act->fixed && g < a.act->fixed->scale->cols; g++) {
                a.act->fixed->scale->value[g] = 0.02f * (float)(g + 1);
                a.act->fixed->offset->value[g] = 100;
            }
            check_act(ctx, &a);
            qnti_actquant_free(ctx, a.act);
        }
    free(x);
    destroy_context(ctx, held);
}

/* Plain floats, and columns that a threshold keeps as they are. */
static void test_float_activations(void **state)
{
    qnt_context *ctx = context_of(1);
    struct qnti_grid grid = qnti_float_grid(QNT_F16);
    struct qnti_actquant *act;
    static const float x[4] = {0.1f, 8.1f, 0.2f, 0.3f};
    float y[4];
    uint8_t kept[2] = {0};
    (void)state;
    assert_ok(ctx, qnti_actquant_create(ctx, &grid, 2, false, &act));
    act->threshold = 6;
    assert_ok(ctx, qnti_actquant_apply(ctx, act, x, 2, 2, 2, y, kept));
    assert_true(y[0] == qnti_round_to(QNT_F16, 0.1f) && y[2] == qnti_round_to(QNT_F16, 0.2f));
    assert_true(y[1] == 8.1f && y[3] == 0.3f && !kept[0] && kept[1]);
    qnti_actquant_free(ctx, act);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),      cmocka_unit_test(test_range_overflows), cmocka_unit_test(test_stored_scales),
        cmocka_unit_test(test_range_search), cmocka_unit_test(test_maps),          cmocka_unit_test(test_tied_rows),
        cmocka_unit_test(test_flat_groups), cmocka_unit_test(test_codes),          cmocka_unit_test(test_bits),
        cmocka_unit_test(test_values),     cmocka_unit_test(test_two_levels),      cmocka_unit_test(test_activations),
        cmocka_unit_test(test_float_activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
