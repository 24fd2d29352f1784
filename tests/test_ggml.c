/*
 * test_ggml.c - ggml's block types: own quantizers and bytes against those of ggml itself.
 *
 * golden/ggml: 16 rows of 512 numbers (heavy tails; all zero, one huge, one
 * sign, two constants, zero blocks, tiny, ties) and an importance with zeros;
 * TYPE.bin are ggml's blocks, TYPE.f32.bin what it reads out of them,
 * TYPE.imatrix.* the same with the importance. All is compared by bits.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/context.h"
#include "base/number.h"
#include "grid/ggml_search.h"
#include "pack/ggml.h"

enum {
    ROWS = 16,
    COLS = 512,
    BYTES_MAX = 40000 /* of any golden file */
};

struct fixture {
    qnt_context *ctx;
    float importance[COLS], x[ROWS][COLS], power[ROWS];
};

static const char *const TYPES[] = {"f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q6_k"};
#define TYPE_COUNT (sizeof TYPES / sizeof *TYPES)

static size_t read_golden(const char *name, const char *ending, void *bytes)
{
    char path[1024];
    FILE *file;
    size_t n;
    snprintf(path, sizeof path, SOURCE_DIR "/tests/golden/ggml/%s%s", name, ending);
    file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    n = fread(bytes, 1, BYTES_MAX, file);
    fclose(file);
    return n;
}

/* The safetensors header names importance [512] and x [16][512], in this order. */
static int set_up(void **state)
{
    static unsigned char bytes[BYTES_MAX];
    struct fixture *f = calloc(1, sizeof *f);
    uint64_t header;
    assert_non_null(f);
    read_golden("input", ".safetensors", bytes);
    memcpy(&header, bytes, sizeof header);
    memcpy(f->importance, bytes + 8 + header, sizeof f->importance);
    memcpy(f->x, bytes + 8 + header + sizeof f->importance, sizeof f->x);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t c = 0; c < COLS; c++)
            f->power[r] += f->x[r][c] * f->x[r][c];
        f->power[r] /= COLS;
    }
    assert_int_equal(qnt_context_create(NULL, &f->ctx), QNT_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    qnt_context_destroy(f->ctx);
    free(f);
    return 0;
}

static struct qnti_numbers *create(struct fixture *f, const char *name)
{
    struct qnti_grid grid;
    struct qnti_numbers *q;
    assert_true(qnti_ggml_grid(qnti_context_kernels(f->ctx), name, &grid));
    assert_int_equal(qnti_numbers_create(f->ctx, &grid, ROWS, COLS, &q), QNT_OK);
    return q;
}

/* Fits the input in bands of rows x spans; `codes`: takes the codes too. */
static struct qnti_numbers *quantize(struct fixture *f, const char *name, bool important, size_t rows, size_t spans,
                                     bool codes)
{
    struct qnti_numbers *q = create(f, name);
    const struct qnti_grid *grid = &q->grid;
    size_t span = qnti_grid_span(grid, COLS), group = grid->map.cols ? grid->map.cols : COLS, cols;
    static uint16_t code[ROWS][COLS];
    for (size_t r = 0; r < ROWS; r += rows)
        for (size_t c = 0; c < COLS; c += cols) {
            struct qnti_band band = {.x = f->x[r] + c, .rows = qnti_min(rows, ROWS - r), .stride = COLS};
            band.cols = cols = qnti_min(span * spans, COLS - c);
            if (important) {
                band.importance = f->importance + c;
                band.row_power = f->power + r;
            }
            grid->kind->fit(grid, &band, q, r, c / group, codes ? code[r] + c : NULL, COLS);
        }
    if (codes && grid->form != QNTI_FORM_FLOAT)
        for (size_t r = 0; r < ROWS; r++)
            qnti_numbers_put_codes(q, r, 0, COLS, code[r]);
    return q;
}

static size_t pack_all(const struct qnti_numbers *q, const char *name, uint8_t *bytes)
{
    const struct qnti_ggml_type *type = qnti_ggml_type_named(name);
    size_t blocks = COLS / type->elements;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t b = 0; b < blocks; b++)
            type->pack(q, r, b, bytes + (r * blocks + b) * type->bytes);
    return ROWS * blocks * type->bytes;
}

static void unpack_all(const uint8_t *bytes, const char *name, struct qnti_numbers *q)
{
    const struct qnti_ggml_type *type = qnti_ggml_type_named(name);
    size_t blocks = COLS / type->elements;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t b = 0; b < blocks; b++)
            type->unpack(bytes + (r * blocks + b) * type->bytes, q, r, b);
}

static void assert_bytes(const void *is, const void *expected, size_t bytes, const char *name)
{
    const uint8_t *a = is, *b = expected;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %zu of %zu is %02x, not %02x", name, i, bytes, a[i], b[i]);
}

static void assert_values(const struct qnti_numbers *q, const void *expected, const char *name)
{
    static float values[ROWS][COLS];
    for (size_t r = 0; r < ROWS; r++)
        qnti_numbers_values(q, r, 0, COLS, values[r]);
    assert_bytes(values, expected, sizeof values, name);
}

static void check_golden(struct fixture *f, const char *name, bool important, const char *golden)
{
    static uint8_t bytes[BYTES_MAX], expected[BYTES_MAX], values[BYTES_MAX];
    struct qnti_numbers *q = quantize(f, name, important, ROWS, 1, true), *again = create(f, name);
    size_t n = read_golden(name, golden, expected);
    char ending[32];
    snprintf(ending, sizeof ending, "%.*s.f32.bin", (int)(strlen(golden) - 4), golden);
    assert_int_equal(read_golden(name, ending, values), sizeof(float) * ROWS * COLS);
    assert_int_equal(pack_all(q, name, bytes), n);
    assert_bytes(bytes, expected, n, name);
    assert_values(q, values, name);
    unpack_all(expected, name, again);
    assert_values(again, values, name);
    pack_all(again, name, bytes);
    assert_bytes(bytes, expected, n, name);
    qnti_numbers_free(f->ctx, q);
    qnti_numbers_free(f->ctx, again);
}

static void blocks_are_those_of_ggml(void **state)
{
    for (size_t t = 0; t < TYPE_COUNT; t++)
        check_golden(*state, TYPES[t], false, ".bin");
}

static void blocks_with_importance_are_those_of_ggml(void **state)
{
    for (size_t t = 0; t < TYPE_COUNT; t++)
        check_golden(*state, TYPES[t], true, qnti_ggml_type_named(TYPES[t])->importance ? ".imatrix.bin" : ".bin");
}

/* A run's result may not depend on which other runs are searched beside it. */
static void bands_do_not_matter(void **state)
{
    static const size_t BANDS[][2] = {{1, 1}, {3, 1}, {1, 16}, {16, 16}, {5, 3}};
    static uint8_t expected[BYTES_MAX], bytes[BYTES_MAX];
    for (size_t t = 0; t < TYPE_COUNT; t++)
        for (size_t i = 0; i < 2 * sizeof BANDS / sizeof *BANDS; i++) {
            struct qnti_numbers *a = quantize(*state, TYPES[t], i % 2, ROWS, 1, true);
            struct qnti_numbers *b = quantize(*state, TYPES[t], i % 2, BANDS[i / 2][0], BANDS[i / 2][1], true);
            size_t n = pack_all(a, TYPES[t], expected);
            pack_all(b, TYPES[t], bytes);
            assert_bytes(bytes, expected, n, TYPES[t]);
            qnti_numbers_free(((struct fixture *)*state)->ctx, a);
            qnti_numbers_free(((struct fixture *)*state)->ctx, b);
        }
}

static void scales_alone_are_the_same(void **state)
{
    struct fixture *f = *state;
    for (size_t t = 0; t < TYPE_COUNT; t++)
        for (int important = 0; important < 2; important++) {
            struct qnti_numbers *a = quantize(f, TYPES[t], important, ROWS, 1, true);
            struct qnti_numbers *b = quantize(f, TYPES[t], important, ROWS, 1, false);
            for (size_t r = 0; r < ROWS; r++)
                for (size_t c = 0; c < COLS; c++) {
                    float p[2], q[2];
                    qnti_numbers_affine(a, r, c, &p[0], &p[1]);
                    qnti_numbers_affine(b, r, c, &q[0], &q[1]);
                    assert_memory_equal(p, q, sizeof p);
                }
            qnti_numbers_free(f->ctx, a);
            qnti_numbers_free(f->ctx, b);
        }
}

/* --- the searches, one run at a time, as ggml states them --- */

struct run {
    size_t n;
    float x[QNTI_RUN_MAX], w[QNTI_RUN_MAX];
    float scale, min;
    uint16_t code[QNTI_RUN_MAX];
};

/* Codes for x * inverse, kept if they explain more than `best`; returns what is explained then. */
static float plain_signed_try(struct run *run, float nmax, float inverse, float best, bool first)
{
    float a = 0, b = 0;
    for (size_t i = 0; i < run->n; i++) {
        float level = qnti_clamp(qnti_ggml_nearest(inverse * run->x[i]), -nmax, nmax - 1);
        a += run->w[i] * run->x[i] * level;
        b += run->w[i] * level * level;
    }
    if (!first && !(b > 0 && a * a > best * b))
        return best;
    run->scale = b != 0 ? a / b : 0;
    for (size_t i = 0; i < run->n; i++)
        run->code[i] = (uint16_t)(qnti_clamp(qnti_ggml_nearest(inverse * run->x[i]), -nmax, nmax - 1) + nmax);
    return run->scale * a;
}

static void plain_signed(struct run *run, unsigned top)
{
    float nmax = (float)top, extreme = 0, best;
    run->scale = 0;
    memset(run->code, 0, sizeof run->code);
    for (size_t i = 0; i < run->n; i++)
        if (fabsf(run->x[i]) > fabsf(extreme))
            extreme = run->x[i];
    if (fabsf(extreme) < 1e-15f)
        return;
    best = plain_signed_try(run, nmax, -nmax / extreme, 0, true);
    for (int step = -9; step <= 9; step++)
        if (step != 0)
            best = plain_signed_try(run, nmax, -(nmax + 0.1f * (float)step) / extreme, best, false);
}

static float plain_min_error(const struct run *run, const uint16_t *code, float scale, float min, bool absolute)
{
    float error = 0;
    for (size_t i = 0; i < run->n; i++) {
        float d = scale * (float)code[i] + min - run->x[i];
        error += run->w[i] * (absolute ? fabsf(d) : d * d);
    }
    return error;
}

static void plain_min_codes(const struct run *run, float inverse, float nmax, uint16_t *code)
{
    for (size_t i = 0; i < run->n; i++)
        code[i] = (uint16_t)qnti_clamp(qnti_ggml_nearest(inverse * (run->x[i] - run->min)), 0, nmax);
}

static float plain_min_try(struct run *run, float inverse, float nmax, float best, bool absolute)
{
    float s0 = 0, sx = 0, s1 = 0, s2 = 0, s1x = 0, determinant, scale, min, error;
    uint16_t code[QNTI_RUN_MAX];
    plain_min_codes(run, inverse, nmax, code);
    for (size_t i = 0; i < run->n; i++) {
        float level = code[i], w = run->w[i];
        s0 += w;
        sx += w * run->x[i];
        s1 += w * level;
        s2 += w * level * level;
        s1x += w * level * run->x[i];
    }
    determinant = s0 * s2 - s1 * s1;
    if (!(determinant > 0))
        return best;
    scale = (s0 * s1x - sx * s1) / determinant;
    min = (s2 * sx - s1 * s1x) / determinant;
    if (min > 0) {
        min = 0;
        scale = s1x / s2;
    }
    error = plain_min_error(run, code, scale, min, absolute);
    if (!(error < best))
        return best;
    run->scale = scale;
    run->min = min;
    memcpy(run->code, code, run->n * sizeof *code);
    return error;
}

static void plain_min(struct run *run, unsigned top, const struct qnti_min_search *how)
{
    float nmax = (float)top, max = run->x[0], best;
    run->min = run->x[0];
    run->scale = 0;
    memset(run->code, 0, sizeof run->code);
    for (size_t i = 1; i < run->n; i++) {
        run->min = run->x[i] < run->min ? run->x[i] : run->min;
        max = run->x[i] > max ? run->x[i] : max;
    }
    if (run->min > 0)
        run->min = 0;
    if (max <= run->min)
        return;
    run->scale = 1 / (nmax / (max - run->min));
    plain_min_codes(run, nmax / (max - run->min), nmax, run->code);
    best = plain_min_error(run, run->code, run->scale, run->min, how->absolute);
    for (unsigned step = 0; step <= how->steps; step++) {
        float inverse = (how->least + how->step * (float)step + nmax) / (max - run->min);
        best = plain_min_try(run, inverse, nmax, best, how->absolute);
    }
}

/* Numbers with zeros, ties, one sign, tiny ones; weights with zeros. */
static void random_run(struct run *run, size_t n, uint32_t *random)
{
    uint32_t kind = (*random = *random * 1664525u + 1013904223u) >> 24;
    run->n = n;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = *random = *random * 1664525u + 1013904223u, b = *random = *random * 1664525u + 1013904223u;
        float x = (float)(int32_t)a * 0x1p-31f;
        x = kind & 1 ? x : rintf(8 * x) / 8;
        x = kind & 2 ? x : x * x * x;
        x = kind & 12 ? x : fabsf(x);
        x = kind & 48 ? x : -fabsf(x) - 0.25f;
        run->x[i] = kind < 8 ? x * 1e-20f : kind < 12 ? 0.5f : x;
        run->w[i] = b >> 28 && kind != 77 ? (float)(b >> 8) * 0x1p-24f : 0;
    }
}

static void assert_run(const struct run *run, const struct qnti_found *found, size_t l, bool min)
{
    assert_int_equal(qnti_bits(run->scale), qnti_bits(found->scale[l]));
    if (min)
        assert_int_equal(qnti_bits(run->min), qnti_bits(found->min[l]));
    for (size_t i = 0; i < run->n; i++)
        assert_int_equal(run->code[i], found->code[i][l]);
}

static void lanes_are_the_plain_searches(void **state)
{
    static const struct qnti_min_search HOW[] = {
        {-0.9f, 0.05f, 36, false}, {-1.0f, 0.1f, 20, false}, {-0.5f, 0.1f, 15, true}};
    static const unsigned TOP[] = {3, 15, 31};
    uint32_t random = 7;
    (void)state;
    for (size_t round = 0; round < 600; round++) {
        struct run run[QNTI_LANES];
        struct qnti_runs runs = {.n = round % 2 ? 32 : 16};
        struct qnti_found found;
        for (size_t l = 0; l < QNTI_LANES; l++) {
            random_run(&run[l], runs.n, &random);
            for (size_t i = 0; i < runs.n; i++) {
                runs.x[i][l] = run[l].x[i];
                runs.w[i][l] = run[l].w[i];
            }
        }
        qnti_search_signed(&runs, 4u << round % 4, &found);
        for (size_t l = 0; l < QNTI_LANES; l++) {
            plain_signed(&run[l], 4u << round % 4);
            assert_run(&run[l], &found, l, false);
        }
        qnti_search_min(&runs, TOP[round / 3 % 3], &HOW[round % 3], &found);
        for (size_t l = 0; l < QNTI_LANES; l++) {
            plain_min(&run[l], TOP[round / 3 % 3], &HOW[round % 3]);
            assert_run(&run[l], &found, l, true);
        }
    }
}

/* --- bytes --- */

/* Any bytes, also such as no quantizer makes; only a NaN scale would not come back. */
static void any_block_survives(void **state)
{
    static const struct {
        const char *name;
        size_t high[2]; /* the high bytes of f16 fields */
    } CASES[] = {{"q8_0", {1, 1}}, {"q4_0", {1, 1}}, {"q4_1", {1, 3}},
                 {"q5_0", {1, 1}}, {"q5_1", {1, 3}}, {"q6_k", {209, 209}}};
    struct fixture *f = *state;
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct qnti_ggml_type *type = qnti_ggml_type_named(CASES[i].name);
        struct qnti_numbers *q = create(f, type->name);
        for (int round = 0; round < 200; round++) {
            uint8_t bytes[256], again[256];
            for (size_t k = 0; k < type->bytes; k++)
                bytes[k] = (uint8_t)((random = random * 1664525u + 1013904223u) >> 24);
            bytes[CASES[i].high[0]] &= 0xbf;
            bytes[CASES[i].high[1]] &= 0xbf;
            type->unpack(bytes, q, 2, 1);
            type->pack(q, 2, 1, again);
            assert_bytes(again, bytes, type->bytes, type->name);
        }
        qnti_numbers_free(f->ctx, q);
    }
}

static void type_table(void **state)
{
    static const uint32_t REMOVED[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, UINT32_MAX};
    size_t elements, bytes;
    struct qnti_grid grid;
    (void)state;
    assert_int_equal(qnti_ggml_type_named("Q6_K")->id, 14);
    assert_string_equal(qnti_ggml_type_of(30)->name, "bf16");
    assert_null(qnti_ggml_type_named("q4_2"));
    assert_true(qnti_ggml_type_size(40, &elements, &bytes));
    assert_int_equal(elements, 64);
    assert_int_equal(bytes, 36);
    for (size_t i = 0; i < sizeof REMOVED / sizeof *REMOVED; i++)
        assert_false(qnti_ggml_type_size(REMOVED[i], &elements, &bytes));
    assert_false(qnti_ggml_grid(NULL, "q8_k", &grid));
    for (uint32_t id = 0; id < 64; id++) { /* what has bytes has a grid, and its bits are the block's */
        const struct qnti_ggml_type *type = qnti_ggml_type_of(id);
        assert_true(!type || !type->pack || qnti_ggml_grid(NULL, type->name, &grid));
        assert_true(!type || !type->pack == !type->unpack);
    }
}

static void bits_are_those_of_the_blocks(void **state)
{
    struct fixture *f = *state;
    for (size_t t = 0; t < TYPE_COUNT; t++) {
        const struct qnti_ggml_type *type = qnti_ggml_type_named(TYPES[t]);
        struct qnti_numbers *q = create(f, TYPES[t]);
        double bits = (double)(8 * type->bytes) / (double)type->elements * ROWS * COLS;
        assert_true(qnti_numbers_bits(q) == bits);
        qnti_numbers_free(f->ctx, q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_those_of_ggml),
        cmocka_unit_test(blocks_with_importance_are_those_of_ggml),
        cmocka_unit_test(bands_do_not_matter),
        cmocka_unit_test(scales_alone_are_the_same),
        cmocka_unit_test(lanes_are_the_plain_searches),
        cmocka_unit_test(any_block_survives),
        cmocka_unit_test(type_table),
        cmocka_unit_test(bits_are_those_of_the_blocks),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
