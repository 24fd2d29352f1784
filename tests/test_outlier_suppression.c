/*
 * test_outlier_suppression.c - outlier_suppression, os_plus and fptq by the numbers of their papers' formulas: ranges
 * by token quantiles, learnt steps, norms' weights moved, shifts that biases take, thresholds, strategies by range.
 */
#include "context_support.h"

#include "calib/calib.h"
#include "grid/activation.h"
#include "method/recipe.h"
#include "solve/solve.h"
#include "unit/unit.h"

static void range_of(const float *x, size_t tokens, size_t cols, size_t batch, float p, float range[2])
{
    struct qnti_token_extremes *e;
    assert_ok(ctx, qnti_token_extremes_create(ctx, qnti_context_kernels(ctx), x, tokens, cols, batch, &e));
    qnti_token_range(e, p, range);
    qnti_token_extremes_free(ctx, e);
}

/* Scale and zero of a static quantizer of a range. */
static struct qnti_step step_of(struct qnti_input_rule rule, float lo, float hi)
{
    struct qnti_job job = {.ctx = ctx, .kernels = qnti_context_kernels(ctx)};
    const float range[2] = {lo, hi};
    struct qnti_actquant *act;
    struct qnti_step step;
    rule.fixed = true;
    rule.range = range;
    assert_ok(ctx, qnti_job_input_quantizer(&job, &rule, 3, &act));
    qnti_numbers_affine(act->fixed, 0, 0, &step.scale, &step.zero);
    qnti_actquant_free(ctx, act);
    return step;
}

static void token_ranges(void **state)
{
    static const float x[5 * 3] = {1, -2, 0.5f, 3, -1, 2, 10, -8, 1, 2, -3, 0, 4, -2.5f, 1.5f};
    static const float rows[][5] = {{1, -8, 10, 1.2f, 7}, {0.9f, -3, 4, 0.46666667f, 6}, {0.75f, -3, 4, 0.46666667f, 6},
                                    {0.5f, -2.5f, 3, 0.36666667f, 7}};
    static const float apart[] = {-6, -5, -0.1f, 7};
    float range[2];
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct qnti_step step;
        range_of(x, 5, 3, 0, rows[i][0], range);
        assert_float_equal(range[0], rows[i][1], 0);
        assert_float_equal(range[1], rows[i][2], 0);
        step = step_of((struct qnti_input_rule){.bits = 4, .asymmetric = true}, range[0], range[1]);
        assert_float_equal(step.scale, rows[i][3], 1e-7f);
        assert_float_equal(step.zero, rows[i][4], 0);
    }
    range_of(x, 5, 3, 2, 1, range); /* batches of 2, 2 and 1 tokens count alike */
    assert_float_equal(range[0], (-2 - 8 - 2.5f) / 3, 1e-6f);
    assert_float_equal(range[1], (3 + 10 + 4) / 3.0f, 1e-6f);
    range_of(x + 6, 1, 3, 7, 0.3f, range); /* one token is its own quantile */
    assert_true(range[0] == -8 && range[1] == 10);
    range_of(apart, 2, 2, 0, 0, range); /* the ends would have changed places: clipping leaves the upper one */
    assert_true(range[0] == -5 && range[1] == -5);
}

/* Symmetric ranges end half a step beyond the levels, or on the last one; f32 quotients decide near ties. */
static void static_grids(void **state)
{
    (void)state;
    assert_float_equal(step_of((struct qnti_input_rule){.bits = 8, .full = true}, -3, 5).scale, 5 / 127.5f, 0);
    assert_float_equal(step_of((struct qnti_input_rule){.bits = 8}, -3, 5).scale, 5 / 127.0f, 0);
    assert_float_equal(step_of((struct qnti_input_rule){.bits = 8, .asymmetric = true}, -5, 5).scale, 0.039215688f, 0);
    assert_float_equal(step_of((struct qnti_input_rule){.bits = 8, .asymmetric = true}, -5, 5).zero, 127, 0);
    assert_float_equal(step_of((struct qnti_input_rule){.bits = 8, .asymmetric = true}, 1, 5).zero, 0, 0);
}

/* Of a weight of one row; NULL: the layer has no such part. */
static qnt_part part_of(const qnt_qlinear *q, const char *name)
{
    qnt_part part;
    assert_ok(ctx, qnt_qlinear_part(q, name, &part));
    return part;
}

static void assert_floats(const qnt_qlinear *q, const char *name, size_t n, const float *want, float apart)
{
    qnt_part part = part_of(q, name);
    assert_int_equal(part.shape[0] * part.shape[1], n);
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(((const float *)part.data)[i] - want[i]) <= apart * (1e-6f + fabsf(want[i]))))
            fail_msg("%s %zu is %.9g, expected %.9g", name, i, (double)((const float *)part.data)[i], (double)want[i]);
    qnt_part_free(&part);
}

static bool has_part(const qnt_qlinear *q, const char *name)
{
    qnt_part part;
    bool has = qnt_qlinear_part(q, name, &part) == QNT_OK;
    qnt_part_free(&part);
    return has;
}

static void weight_grids(void **state)
{
    static const float w[4] = {0.3f, -0.1f, 0.05f, 0.12f}, x[4] = {1, 2, -1, 3};
    static const struct {
        const char *recipe;
        int32_t code[4];
        float scale;
    } rows[] = {{"outlier_suppression:bits=4", {7, -2, 1, 3}, 0.04f},
                {"outlier_suppression:bits=4,sym=false", {15, 0, 6, 8}, 0.02666667f},
                {"os_plus:bits=4,sym=true,scaling=false", {7, -2, 1, 3}, 0.3f / 7},
                {"os_plus:bits=4,scaling=false", {15, 0, 6, 8}, 0.02666667f}};
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        qnt_qlinear *q;
        qnt_part codes;
        assert_ok(ctx, quantize_with(ctx, rows[i].recipe, NULL, qnt_matrix_f32(w, 1, 4), x, NULL, 1, &q));
        codes = part_of(q, "codes");
        for (size_t c = 0; c < 4; c++)
            assert_int_equal(((const int32_t *)codes.data)[c], rows[i].code[c]);
        assert_floats(q, "scales", 1, &rows[i].scale, 1e-6f);
        qnt_part_free(&codes);
        qnt_qlinear_destroy(q);
    }
}

/* Adam's first step is the learning rate against the sign: clipped numbers count, others only by their rounding. */
static void learnt_step(void **state)
{
    static const float x[5] = {-2, -0.4f, 0.3f, 1.1f, 2.6f}, w = 1;
    const struct qnti_step_inputs in = {.x = x, .tokens = 5, .cols = 1, .weight = &w, .rows = 1, .top = 7};
    struct qnti_step_rule rule = {.epochs = 1, .learning_rate = 0.6};
    struct qnti_step step = {0.5f, 3};
    double before, after;
    (void)state;
    assert_ok(ctx, qnti_step_loss(ctx, &in, step, &before)); /* of -1.5 -0.5 0.5 1 2 */
    assert_float_equal(before, (0.25 + 0.01 + 0.04 + 0.01 + 0.36) / 5, 1e-7);
    assert_ok(ctx, qnti_step_learn(ctx, &in, &rule, &step)); /* by s -3.78, by z 0.05 */
    assert_float_equal(step.scale, 1.1f, 1e-6f);
    assert_float_equal(step.zero, 2, 0);
    step = (struct qnti_step){0.5f, 3};
    rule = (struct qnti_step_rule){.epochs = 60, .learning_rate = 0.02, .fixed_zero = true};
    assert_ok(ctx, qnti_step_learn(ctx, &in, &rule, &step));
    assert_float_equal(step.zero, 3, 0);
    assert_ok(ctx, qnti_step_loss(ctx, &in, step, &after));
    assert_true(after < before);
}

enum { OUT = 12, IN = 8, TOKENS = 40 };

/* The outputs w x + b of x [TOKENS][IN]. */
static void outputs(const float *w, const float *bias, const float *x, float *y)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t r = 0; r < OUT; r++) {
            double sum = bias ? (double)bias[r] : 0;
            for (size_t c = 0; c < IN; c++)
                sum += (double)x[t * IN + c] * (double)w[r * IN + c];
            y[t * OUT + r] = (float)sum;
        }
}

static void through_norm(const qnt_producer *p, const float *n, float *x)
{
    for (size_t i = 0; i < TOKENS * IN; i++)
        x[i] = (p->base + p->weight[i % IN]) * n[i] + (p->bias ? p->bias[i % IN] : 0);
}

/*
 * Norms and the layers behind them compute what they did, once something has moved from one into the other: with and
 * without bias, Gemma's 1 + w, weights below 0 and of 0.
 */
static void behind_norms(void **state)
{
    static const char *const recipes[] = {"outlier_suppression:act_bits=16,rtn:bits=16,group_size=0",
                                          "os_plus:act_bits=16,search_low=0.1,rtn:bits=16,group_size=0",
                                          "os_plus:search_low=0.1,rtn:bits=16,group_size=0",
                                          "fptq:act_bits=16,strategy=lae,rtn:bits=16,group_size=0"};
    (void)state;
    for (size_t i = 0; i < 3 * COUNT(recipes); i++) {
        size_t kind = i % 3; /* plain, with bias, with base */
        float *w = random_floats(OUT * IN, 21, 0.5f), *bias = random_floats(OUT, 5, 1);
        float *n = random_tokens(TOKENS, IN, 23);
        float *norm = random_floats(IN, 25, 1), *shift = random_floats(IN, 27, 3);
        float x[TOKENS * IN], want[TOKENS * OUT], got[TOKENS * OUT];
        qnt_producer p = {.weight = norm, .bias = kind == 1 ? shift : NULL, .rows = IN, .cols = 1, .base = kind == 2};
        qnt_recipe *recipe = recipe_of(ctx, recipes[i / 3]);
        bool quantized = strstr(recipes[i / 3], "act_bits") == NULL, moves_gamma = i / 3 == 0;
        qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN), .bias = bias};
        qnt_calib *calib;
        qnt_qlinear *q;
        norm[2] = -0.7f;
        norm[5] = -p.base; /* nothing comes through: it stays so */
        through_norm(&p, n, x);
        outputs(w, bias, x, want);
        assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
        assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
        layer.calib = calib;
        assert_ok(ctx, qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = &layer, .count = 1, .producer = &p}, &q));
        assert_true(qnti_transform_is_identity(&q->transform));
        for (size_t c = 0; moves_gamma && c < IN; c++)
            assert_float_equal(p.base + norm[c], c == 5 ? 0 : 1, 1e-6f);
        through_norm(&p, n, x);
        assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, IN), got));
        for (size_t k = 0; k < TOKENS * OUT; k++)
            assert_float_equal(got[k], want[k], (quantized ? 0.02f : 5e-4f) * (10 + fabsf(want[k])));
        qnt_qlinear_destroy(q);
        qnt_calib_destroy(calib);
        qnt_recipe_destroy(recipe);
        free(w), free(n), free(bias), free(norm), free(shift);
    }
}

/* Without a producer the norm's weight stays at run time, below 0 too: static ranges follow it. */
static void kept_gamma(void **state)
{
    float *w = random_floats(OUT * IN, 31, 0.5f), *n = random_floats(TOKENS * IN, 33, 1), *g = random_floats(IN, 35, 3);
    float x[TOKENS * IN], want[TOKENS * OUT], got[TOKENS * OUT];
    qnt_recipe *recipe = recipe_of(ctx, "outlier_suppression:bits=8,act_bits=8");
    qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN), .norm_weight = g};
    qnt_calib *calib;
    qnt_qlinear *q;
    (void)state;
    g[1] = -2;
    for (size_t i = 0; i < TOKENS * IN; i++)
        x[i] = n[i] * g[i % IN];
    outputs(w, NULL, x, want);
    assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
    layer.calib = calib;
    assert_ok(ctx, qnt_quantize(ctx, recipe, &layer, &q));
    assert_floats(q, "scale", IN, g, 0);
    assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, IN), got));
    for (size_t k = 0; k < TOKENS * OUT; k++)
        assert_float_equal(got[k], want[k], 0.02f * (10 + fabsf(want[k])));
    qnt_qlinear_destroy(q);
    g[3] = INFINITY;
    assert_fails(ctx, qnt_quantize(ctx, recipe, &layer, &q), QNT_NON_FINITE, "channel 3");
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
    free(w), free(n), free(g);
}

/* Moments of channels that are divided by numbers below 0: least and greatest change places. */
static void negative_scales(void **state)
{
    static const float x[4] = {1, -2, 5, 3}, scale[2] = {-2, 4};
    qnt_calib *calib;
    (void)state;
    assert_ok(ctx, qnti_calib_create(ctx, QNTI_NEED_MOMENTS, 2, &calib));
    assert_ok(ctx, qnti_calib_add_f32(calib, x, NULL, 2));
    assert_ok(ctx, qnti_calib_rescale(calib, scale));
    assert_true(calib->moments[0].least == -2.5f && calib->moments[0].greatest == -0.5f);
    assert_true(calib->moments[0].sum_abs == 3 && calib->moments[0].sum == -3);
    assert_true(calib->moments[1].least == -0.5f && calib->moments[1].greatest == 0.75f);
    qnt_calib_destroy(calib);
}

/* Channels move to the middle of their range; the bias takes the exact W z: a constant channel costs nothing. */
static void shifts(void **state)
{
    static const float x[3 * 4] = {-90, 1, 0.2f, 7, -100, -2, 0.4f, 7, -80, 3, -0.5f, 7};
    static const float w[2 * 4] = {0.11f, -0.52f, 0.73f, 0.34f, 0.25f, 0.06f, -0.47f, -0.98f};
    static const float z[4] = {-90, 0.5f, -0.05f, 7}, ones[4] = {1, 1, 1, 1};
    float bias[2] = {0, 0}, y[6];
    qnt_part scale;
    qnt_qlinear *q;
    float t;
    (void)state;
    for (size_t r = 0; r < 2; r++)
        for (size_t c = 0; c < 4; c++)
            bias[r] += w[r * 4 + c] * z[c];
    assert_ok(ctx, quantize_with(ctx, "os_plus:scaling=false", NULL, qnt_matrix_f32(w, 2, 4), x, NULL, 3, &q));
    assert_floats(q, "shift", 4, z, 1e-6f);
    assert_floats(q, "scale", 4, ones, 0);
    assert_floats(q, "bias", 2, bias, 1e-6f);
    assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, 3, 4), y));
    for (size_t k = 0; k < 3; k++) /* X' of channels 0 to 2 is at most 10: steps of 20 / 255 */
        for (size_t r = 0; r < 2; r++) {
            double exact = 0;
            for (size_t c = 0; c < 4; c++)
                exact += (double)x[k * 4 + c] * (double)w[r * 4 + c];
            assert_float_equal(y[k * 2 + r], exact, 0.1);
        }
    qnt_qlinear_destroy(q);
    assert_ok(ctx, quantize_with(ctx, "os_plus:bits=4,act_bits=4", NULL, qnt_matrix_f32(w, 2, 4), x, NULL, 3, &q));
    scale = part_of(q, "scale");
    t = 10 / ((const float *)scale.data)[0]; /* the threshold; all scales are of the same */
    assert_true(t >= 1 && t <= 10);
    assert_float_equal(((const float *)scale.data)[1], fmaxf(1, 2.5f / t), 1e-5f);
    assert_float_equal(((const float *)scale.data)[2], 1, 0);
    assert_float_equal(((const float *)scale.data)[3], 1, 0); /* nothing is left of it */
    qnt_part_free(&scale);
    qnt_qlinear_destroy(q);
}

/* A unit whose output is that of its layer: the search behind it knows the shift's bias, as the linear's does. */
static qnt_status unit_forward(const struct qnti_unit *unit, const float *x, size_t tokens, size_t sequence,
                               const float *const *weights, float *y)
{
    struct qnti_layer_unit linear = *(const struct qnti_layer_unit *)unit->self;
    struct qnti_unit inner;
    if (weights && weights[1])
        linear.bias = weights[1];
    qnti_unit_of_layer(unit->ctx, &linear, unit->out, unit->in, &inner);
    return inner.forward(&inner, x, tokens, sequence, weights, y);
}

static void search_behind_a_unit(void **state)
{
    float *w = random_floats(OUT * IN, 41, 0.5f), *bias = random_floats(OUT, 45, 1);
    float *x = random_tokens(TOKENS, IN, 43);
    struct qnti_layer_unit linear = {.weight = w, .bias = bias, .shape = {OUT, IN}};
    struct qnti_unit unit = {.in = IN, .out = OUT, .weight_count = 1, .weights = &linear.shape, .bias_count = 1,
                             .forward = unit_forward, .ctx = ctx, .self = &linear};
    qnt_recipe *recipe = recipe_of(ctx, "os_plus:bits=4,act_bits=4,search_low=0.2,search_steps=20,held_out=false");
    qnt_calib *calib;
    qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN), .bias = bias};
    struct qnti_transform t[2] = {{0}, {0}};
    (void)state;
    for (size_t i = 0; i < TOKENS; i++)
        x[i * IN + 2] += 20;
    assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
    layer.calib = calib;
    for (size_t i = 0; i < 2; i++) {
        struct qnti_transform_choice choice = {.layers = &layer, .count = 1, .unit = i ? &unit : NULL,
                                               .samples = i ? x : NULL, .sample_count = i ? TOKENS : 0,
                                               .sequence = i ? TOKENS / 2 : 0};
        assert_ok(ctx, qnti_choose_transform(ctx, recipe, &choice, &t[i]));
    }
    assert_memory_equal(t[0].scale, t[1].scale, sizeof(float[IN]));
    assert_memory_equal(t[0].shift, t[1].shift, sizeof(float[IN]));
    assert_true(t[0].scale[2] >= 1 && t[0].shift[2] > 10);
    for (size_t i = 0; i < 2; i++)
        qnti_transform_free(ctx, &t[i]);
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
    free(w), free(x), free(bias);
}

/* Scales bring all channels to the end of the range: only tokens that they were not made of show what that clips. */
static void tokens_held_out(void **state)
{
    static const char *const recipes[] = {"os_plus:shift=false,act_bits=6,search_low=0.1,held_out=false",
                                          "os_plus:shift=false,act_bits=6,search_low=0.1"};
    float *w = random_floats(OUT * IN, 71, 0.5f), *x = random_tokens(TOKENS, IN, 73), most[2] = {0};
    struct qnti_layer_unit linear = {.weight = w, .shape = {OUT, IN}};
    struct qnti_unit unit;
    (void)state;
    qnti_unit_of_layer(ctx, &linear, OUT, IN, &unit);
    for (size_t i = 0; i < 2; i++) {
        qnt_recipe *recipe = recipe_of(ctx, recipes[i]);
        qnt_calib *calib;
        qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN)};
        struct qnti_transform_choice choice = {.layers = &layer, .count = 1, .unit = &unit, .samples = x,
                                               .sample_count = TOKENS, .sequence = TOKENS / 4};
        struct qnti_transform t = {0};
        assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib));
        assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN)));
        layer.calib = calib;
        assert_ok(ctx, qnti_choose_transform(ctx, recipe, &choice, &t));
        for (size_t c = 0; c < IN; c++)
            most[i] = fmaxf(most[i], t.scale[c]);
        qnti_transform_free(ctx, &t);
        qnt_calib_destroy(calib);
        qnt_recipe_destroy(recipe);
    }
    assert_true(most[0] > 1.2f && most[1] < most[0]);
    free(w), free(x);
}

/* The same, and what a norm makes, while one allocation after another fails. */
static qnt_status choose_transforms(qnt_context *c, void *arg)
{
    const float *w = arg, *x = w + OUT * IN, *bias = x + TOKENS * IN;
    struct qnti_layer_unit linear = {.weight = w, .bias = bias, .shape = {OUT, IN}};
    struct qnti_unit unit = {.in = IN, .out = OUT, .weight_count = 1, .weights = &linear.shape, .bias_count = 1,
                             .forward = unit_forward, .ctx = c, .self = &linear};
    struct qnti_transform_choice choice = {.count = 1, .unit = &unit, .samples = x, .sample_count = TOKENS,
                                           .sequence = TOKENS / 2};
    static const char *const recipes[] = {"os_plus:search_steps=40", "outlier_suppression"};
    qnt_status status = QNT_OK;
    for (size_t i = 0; status == QNT_OK && i < COUNT(recipes); i++) {
        qnt_layer layer = {.weight = qnt_matrix_f32(w, OUT, IN), .bias = bias, .norm_weight = bias};
        struct qnti_transform t = {0};
        qnt_recipe *recipe = NULL;
        qnt_calib *calib = NULL;
        choice.layers = &layer;
        status = qnt_recipe_parse(c, recipes[i], &recipe);
        if (status == QNT_OK)
            status = qnt_calib_create(c, recipe, IN, &calib);
        if (status == QNT_OK)
            status = qnt_calib_add(calib, qnt_matrix_f32(x, TOKENS, IN));
        layer.calib = calib;
        if (status == QNT_OK)
            status = qnti_choose_transform(c, recipe, &choice, &t);
        qnti_transform_free(c, &t);
        qnt_calib_destroy(calib);
        qnt_recipe_destroy(recipe);
    }
    return status;
}

static void memory_runs_out(void **state)
{
    float *numbers = random_floats(OUT * IN + TOKENS * IN + OUT, 61, 1);
    (void)state;
    each_allocation_fails(choose_transforms, numbers);
    free(numbers);
}

static void logarithmic_scales(void **state)
{
    static const float m[11] = {0, 0.01f, 0.5f, 1, 2, 5, 10, 15, 100, 150, 522};
    static const float s[11] = {1, 0.00992856f, 0.37823540f, 0.63092975f, 1, 1.78103594f, 2.78942946f, 3.66975813f,
                                14.98705416f, 20.69557121f, 57.78540426f};
    float x[2 * 11] = {0}, *w = random_floats(OUT * 11, 51, 1);
    qnt_qlinear *q;
    (void)state;
    for (size_t c = 0; c < 11; c++)
        x[(c % 2) * 11 + c] = c % 3 ? m[c] : -m[c];
    assert_ok(ctx, quantize_with(ctx, "fptq:strategy=lae", NULL, qnt_matrix_f32(w, OUT, 11), x, NULL, 2, &q));
    assert_floats(q, "scale", 11, s, 1e-6f);
    assert_floats(q, "act_scale", 1, &(float){9.03342300f / 127}, 1e-6f);
    qnt_qlinear_destroy(q);
    free(w);
}

static void strategies(void **state)
{
    static const float x[2 * 3] = {100, 0, -0.5f, -7, 2, 0}, w[3] = {0.3f, -0.7f, 0.2f};
    static const struct {
        const char *recipe;
        bool scaled;
        float act_scale;         /* 0: by tokens */
    } rows[] = {{"fptq", true, 0.05253878f},
                {"fptq:strategy=static", false, 100 / 127.0f},
                {"fptq:strategy=dynamic", false, 0},
                {"fptq:v0=100", false, 100 / 127.0f},
                {"fptq:v1=100", false, 0}};
    float made[3] = {1, 1, 1};
    qnt_producer up = {.weight = made, .rows = 3, .cols = 1, .refuses = QNT_REFUSES_SCALE};
    qnt_recipe *recipe = recipe_of(ctx, "fptq");
    qnt_layer layer = {.weight = qnt_matrix_f32(w, 1, 3)};
    qnt_layer_report report = {0};
    qnt_calib *calib;
    qnt_qlinear *q;
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_ok(ctx, quantize_with(ctx, rows[i].recipe, NULL, qnt_matrix_f32(w, 1, 3), x, NULL, 2, &q));
        assert_int_equal(has_part(q, "scale"), rows[i].scaled);
        assert_int_equal(has_part(q, "act_scale"), rows[i].act_scale > 0);
        if (rows[i].act_scale > 0)
            assert_floats(q, "act_scale", 1, &rows[i].act_scale, 1e-6f);
        qnt_qlinear_destroy(q);
    }
    assert_ok(ctx, qnt_calib_create(ctx, recipe, 3, &calib)); /* what nothing absorbs */
    assert_ok(ctx, qnt_calib_add(calib, qnt_matrix_f32(x, 2, 3)));
    layer.calib = calib;
    assert_ok(ctx, qnt_quantize_site(ctx, recipe, &(qnt_site){.layers = &layer, .count = 1, .producer = &up}, &q));
    assert_non_null(q->act);
    assert_null(q->act->fixed);
    assert_ok(ctx, qnt_report(q, &report));
    assert_non_null(strstr(report.warnings, "inputs up to 100 are quantized by tokens"));
    qnt_qlinear_destroy(q);
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        context_test(token_ranges),
        context_test(static_grids),
        context_test(weight_grids),
        context_test(learnt_step),
        context_test(behind_norms),
        context_test(kept_gamma),
        context_test(negative_scales),
        context_test(shifts),
        context_test(search_behind_a_unit),
        context_test(tokens_held_out),
        cmocka_unit_test(memory_runs_out),
        context_test(logarithmic_scales),
        context_test(strategies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
