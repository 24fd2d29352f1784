/*
 * test_owq.c - what OWQ must do whatever the numbers (its sheet's properties), its search and its plan by plain forms.
 */
#include "layer_support.h"
#include "base/kernels.h"
#include "grid/grid.h"
#include "method/recipe.h"
#include "solve/solve.h"

enum { OUT = 40, IN = 72, TOKENS = 200 };

#include "one_layer_support.h"

static void begin(struct layer *l)
{
    *l = (struct layer){.ctx = context_of(2)};
    l->w = random_floats(OUT * IN, 15, 0.05f);
    l->x = random_tokens(TOKENS, IN, 16);
    for (size_t t = 0; t < TOKENS; t++) {
        l->x[t * IN + 20] *= 20;
        l->x[t * IN + 50] *= 9;
        l->x[t * IN + 7] = 0;
    }
}

static qnt_layer_report report_of(const struct layer *l)
{
    qnt_layer_report report = {0};
    assert_int_equal(qnt_report(l->q, &report), QNT_OK);
    return report;
}

/* No kept column and plain ranges: GPTQ. */
static void test_is_gptq(void **state)
{
    static const char *const pairs[][2] = {
        {"owq:keep_columns=0,mse=false", "gptq:bits=3,group_size=0"},
        {"owq:keep_columns=0,mse=false,group_size=16,act_order=true", "gptq:bits=3,group_size=16,act_order=true"}};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(pairs); i++) {
        float *owq;
        quantize(&l, pairs[i][0], NULL);
        owq = kept_copy(&l);
        quantize(&l, pairs[i][1], NULL);
        assert_memory_equal(owq, l.value, OUT * IN * sizeof *owq);
        free(owq);
    }
    end(&l);
}

static void test_keeps_all(void **state)
{
    struct layer l;
    (void)state;
    begin(&l);
    quantize(&l, "owq:keep_columns=72", NULL);
    assert_memory_equal(l.w, l.value, OUT * IN * sizeof *l.w);
    quantize(&l, "owq:keep_columns=1000", "native");
    assert_true(report_of(&l).bits_per_weight == 16);
    end(&l);
}

/* Exactly k, ascending, the loudest among them, none dead; elsewhere what the parts say is the layer. */
static void check_parts(struct layer *l, size_t k, size_t group)
{
    qnt_part kept, codes, scales, zeros, index = {0};
    bool is_kept[IN] = {false};
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "kept_columns", &kept));
    assert_int_equal(kept.shape[0], k);
    for (size_t i = 0; i < k; i++) {
        int32_t c = ((int32_t *)kept.data)[i];
        assert_true(c != 7 && (i == 0 || c > ((int32_t *)kept.data)[i - 1]));
        is_kept[c] = true;
    }
    assert_true(is_kept[20]);
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "codes", &codes));
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "scales", &scales));
    assert_ok(l->ctx, qnt_qlinear_part(l->q, "zeros", &zeros));
    assert_int_equal(scales.shape[1], group ? (IN - k + group - 1) / group : 1);
    if (group)
        assert_ok(l->ctx, qnt_qlinear_part(l->q, "group_index", &index));
    for (size_t r = 0; r < OUT; r++)
        for (size_t c = 0; c < IN; c++) {
            size_t at = r * scales.shape[1] + (group ? (size_t)((int32_t *)index.data)[c] : 0);
            float zero = ((float *)zeros.data)[at], code = (float)((int32_t *)codes.data)[r * IN + c];
            if (is_kept[c])
                assert_true(code == zero);
            else
                assert_true(l->value[r * IN + c] == ((float *)scales.data)[at] * (code - zero));
        }
    qnt_part_free(&kept);
    qnt_part_free(&codes);
    qnt_part_free(&scales);
    qnt_part_free(&zeros);
    qnt_part_free(&index);
}

static void test_parts(void **state)
{
    struct layer l;
    (void)state;
    begin(&l);
    quantize(&l, "owq:keep_columns=3", NULL);
    check_parts(&l, 3, 0);
    quantize(&l, "owq:bits=4,keep_columns=6,group_size=16", "native");
    check_parts(&l, 6, 16);
    quantize(&l, "owq:bits=4,keep_columns=5,group_size=16,act_order=true,frob_norm=false", NULL);
    check_parts(&l, 5, 16);
    quantize(&l, "owq:keep_columns=4,sym=true", NULL);
    check_parts(&l, 4, 0);
    quantize(&l, "owq:target_bits=3.5", NULL); /* 72 * 0.5 / 13 = 2.8: 3, so 4 */
    check_parts(&l, 4, 0);
    quantize(&l, "owq:keep_columns=71", NULL); /* all but the dead one */
    check_parts(&l, 71, 0);
    end(&l);
}

/* Kept columns take the corrections of the others: they differ from the weights. More of them, less error. */
static void test_more_columns(void **state)
{
    static const char *const recipes[] = {"owq:keep_columns=0", "owq:keep_columns=2", "owq:keep_columns=8",
                                          "owq:keep_columns=30"};
    struct layer l;
    double before = INFINITY;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        quantize(&l, recipes[i], NULL);
        assert_true(report_of(&l).output_error < before);
        before = report_of(&l).output_error;
    }
    quantize(&l, "owq:keep_columns=2", NULL);
    assert_true(fabsf(l.value[20] - l.w[20]) > 1e-6f);
    end(&l);
}

static void test_scale_of_inputs(void **state)
{
    struct layer l;
    float *before;
    (void)state;
    begin(&l);
    for (size_t t = 0; t < TOKENS; t++) /* a dead column has a 1 in the Hessian whatever the others have */
        l.x[t * IN + 7] = 1;
    quantize(&l, "owq:keep_columns=4,group_size=24", NULL);
    before = kept_copy(&l);
    for (size_t i = 0; i < TOKENS * IN; i++)
        l.x[i] *= 0.25f;
    quantize(&l, "owq:keep_columns=4,group_size=24", NULL);
    assert_memory_equal(before, l.value, OUT * IN * sizeof *before);
    free(before);
    end(&l);
}

/* The report is about the columns as they were, also behind a transform that stays in the layer. */
static void check_report(const struct layer *l)
{
    double error = 0, whole = 0;
    for (size_t i = 0; i < OUT * IN; i++) {
        double d = (double)l->w[i] - (double)l->value[i];
        error += i % IN == 7 ? 0 : d * d;
        whole += (double)l->w[i] * (double)l->w[i];
    }
    assert_true(report_of(l).weight_error < error / whole * 1.001 + 0.05);
    assert_true(report_of(l).weight_error > error / whole * 0.999);
    assert_true(report_of(l).output_error < 0.01);
}

static void test_behind_transforms(void **state)
{
    static const char *const recipes[] = {"owq:keep_columns=4", "smoothquant,owq:keep_columns=4", "awq,owq"};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        float *y = NEW(TOKENS * OUT, float);
        double error = 0, whole = 0;
        quantize(&l, recipes[i], i ? "native" : NULL);
        check_report(&l);
        assert_int_equal(qnt_forward(l.q, qnt_matrix_f32(l.x, TOKENS, IN), y), QNT_OK);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t r = 0; r < OUT; r++) {
                double want = 0, d;
                for (size_t c = 0; c < IN; c++)
                    want += (double)l.x[t * IN + c] * (double)l.w[r * IN + c];
                d = (double)y[t * OUT + r] - want;
                error += d * d;
                whole += want * want;
            }
        assert_true(error < 0.02 * whole);
        free(y);
    }
    end(&l);
}

/* --- the search --- */

/* The best pair by trying all, in f64; its score. */
static double naive_search(const struct qnti_grid *grid, const float *x, size_t n, float *scale, float *zero)
{
    float lo = 0, hi = 0, top = (float)(grid->levels - 1);
    double best = INFINITY;
    for (size_t k = 0; k < n; k++) {
        lo = fminf(lo, x[k]);
        hi = fmaxf(hi, x[k]);
    }
    for (unsigned i = 1; i <= grid->search_steps; i++)
        for (unsigned z = 0; z < grid->levels; z++) {
            float range = grid->sym ? fmaxf(-lo, hi) : hi - lo, parts = grid->sym ? (float)(grid->levels / 2) : top;
            float s = fmaxf(range * (float)i / (float)grid->search_steps / parts, 1e-8f), offset = (float)z, value;
            double sum = 0;
            if (grid->sym && z != grid->levels / 2)
                continue;
            for (size_t k = 0; k < n; k++) {
                qnti_grid_round(grid, NULL, 1, &x[k], &s, &offset, 0, NULL, &value);
                sum += pow(fabs((double)value - (double)x[k]), (double)grid->search_norm);
            }
            if (sum < best) {
                best = sum;
                *scale = s;
                *zero = offset;
            }
        }
    return best;
}

static void check_search(qnt_context *ctx, unsigned bits, bool sym, float norm, size_t n)
{
    enum { ROWS = 12 };
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(ctx), bits, 0, QNT_F32);
    struct qnti_numbers *q;
    float *w = random_floats(ROWS * n, 70 + bits + n, 0.2f);
    size_t same = 0;
    grid.kind = &qnti_paired_kind;
    grid.sym = grid.constant_offset = sym;
    grid.offset = sym ? (float)(1u << (bits - 1)) : 0;
    grid.search_norm = norm;
    grid.search_steps = 40;
    for (size_t k = 0; k < n; k++) {
        w[k] = 0;                                            /* a row of zeros */
        w[n + k] = fabsf(w[n + k]) + 0.1f;                   /* of one sign */
        w[2 * n + k] *= k % 9 ? 1 : 8;                       /* with outliers */
    }
    assert_ok(ctx, qnti_numbers_create(ctx, &grid, ROWS, n, &q));
    assert_ok(ctx, qnti_fit_all(ctx, w, NULL, NULL, q));
    for (size_t r = 0; r < ROWS; r++) {
        float scale, zero, got_scale, got_zero;
        double best = naive_search(&grid, w + r * n, n, &scale, &zero), sum = 0;
        qnti_numbers_affine(q, r, 0, &got_scale, &got_zero);
        for (size_t k = 0; k < n; k++) {
            float value;
            qnti_grid_round(&grid, NULL, 1, &w[r * n + k], &got_scale, &got_zero, 0, NULL, &value);
            sum += pow(fabs((double)value - (double)w[r * n + k]), (double)norm);
        }
        same += scale == got_scale && zero == got_zero;
        if (!(sum <= best * (1 + 2e-6)))
            fail_msg("%u bits, row %zu of %zu: scale %g zero %g costs %g, %g %g only %g", bits, r, n,
                     (double)got_scale, (double)got_zero, sum, (double)scale, (double)zero, best);
    }
    assert_true(same >= ROWS - 1);
    qnti_numbers_free(ctx, q);
    free(w);
}

static void test_search(void **state)
{
    qnt_context *ctx = context_of(1);
    (void)state;
    for (unsigned bits = 2; bits <= 4; bits++)
        for (size_t n = 1; n <= 300; n = 3 * n + 2) {
            check_search(ctx, bits, false, 2.4f, n);
            check_search(ctx, bits, true, 2.4f, n);
        }
    check_search(ctx, 8, false, 2.4f, 60);
    check_search(ctx, 3, false, 1, 33);
    qnt_context_destroy(ctx);
}

/* --- the plan --- */

static void test_plan(void **state)
{
    static const struct qnti_shape shapes[] = {{4096, 4096}, {1024, 4096}, {1024, 4096}, {4096, 4096},
                                               {11008, 4096}, {11008, 4096}, {4096, 11008}};
    enum { LAYERS = COUNT(shapes) };
    qnt_context *ctx = context_of(1);
    qnt_recipe *recipes[LAYERS];
    double kept = 0, weights = 0;
    (void)state;
    for (size_t i = 0; i < LAYERS; i++)
        recipes[i] = recipe_of(ctx, i == 3 ? "owq:keep_columns=6" : "owq:target_bits=3.1");
    assert_ok(ctx, qnti_recipes_plan(ctx, recipes, shapes, LAYERS));
    for (size_t i = 0; i < LAYERS; i++) {
        double k = qnti_recipe_number(qnti_recipe_weights(recipes[i]), "keep_columns", -1);
        assert_true(k >= 0 && k / 2 == floor(k / 2));
        if (i == 3) {
            assert_true(k == 6); /* the user's own */
            continue;
        }
        kept += k * (double)shapes[i].out * 13;
        weights += (double)shapes[i].in * (double)shapes[i].out * 0.1;
        assert_true(fabs(k * (double)shapes[i].out - 206e3) < 2e4); /* about as many weights each */
    }
    assert_true(kept / weights > 0.98 && kept / weights < 1.05); /* odd numbers become even */
    assert_string_equal(qnt_recipe_text(recipes[0]), "owq:keep_columns=50,target_bits=3.1");
    for (size_t i = 0; i < LAYERS; i++)
        qnt_recipe_destroy(recipes[i]);
    qnt_context_destroy(ctx);
}

/* The bits that the plan states are those of the layer. */
static void test_bits(void **state)
{
    static const char *const recipes[] = {"owq", "owq:keep_columns=5,bits=4", "owq:keep_columns=0", "owq:sym=true",
                                          "owq:group_size=16,act_order=true", "owq:keep_columns=100"};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        qnt_recipe *recipe = recipe_of(l.ctx, recipes[i]);
        double bits;
        quantize(&l, recipes[i], "native");
        assert_ok(l.ctx, qnti_recipe_bits(recipe, qnti_layout_find(l.ctx, "native"), OUT, IN, &bits));
        assert_true(fabs(report_of(&l).bits_per_weight - bits / (OUT * IN)) < 1e-9);
        qnt_recipe_destroy(recipe);
    }
    end(&l);
}

static void test_refusals(void **state)
{
    struct layer l;
    qnt_qlinear *q;
    qnt_matrix w;
    (void)state;
    begin(&l);
    w = qnt_matrix_f32(l.w, OUT, IN);
    assert_fails(l.ctx, quantize_with(l.ctx, "owq", "gptq:v2", w, l.x, NULL, TOKENS, &q), QNT_UNSUPPORTED,
                 "method owq leaves segments with grids of their own, which format gptq:v2 cannot hold; these can: "
                 "native");
    assert_fails(l.ctx, quantize_with(l.ctx, "owq", "gguf:q4_0", w, l.x, NULL, TOKENS, &q), QNT_UNSUPPORTED,
                 "these can: native");
    assert_fails(l.ctx, quantize_with(l.ctx, "owq:target_bits=5", NULL, w, l.x, NULL, TOKENS, &q), QNT_INVALID,
                 "target_bits=5");
    w = qnt_matrix_f32(l.w, 32, 64);
    assert_ok(l.ctx, quantize_with(l.ctx, "owq:keep_columns=0,bits=4", "gptq:v2", w, l.x, NULL, TOKENS, &q));
    qnt_qlinear_destroy(q); /* nothing beside the grid: any format of such grids */
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_is_gptq),        cmocka_unit_test(test_keeps_all),
        cmocka_unit_test(test_parts),          cmocka_unit_test(test_more_columns),
        cmocka_unit_test(test_scale_of_inputs), cmocka_unit_test(test_behind_transforms),
        cmocka_unit_test(test_search),         cmocka_unit_test(test_plan),
        cmocka_unit_test(test_bits),           cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
