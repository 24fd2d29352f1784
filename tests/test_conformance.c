/*
 * test_conformance.c - every registered method on every kind of bad input, in every layout.
 *
 * Either there is a result: finite values, codes below the levels, the same
 * bits after packing and unpacking and after the native format, the same on
 * 1, 2 and 8 threads and with scalar kernels. Or there is an error with a
 * message, the same everywhere. A new method is tested without a line here. METHOD in the environment: that one alone.
 */
#include "layer_support.h"

enum weight_kind { W_PLAIN, W_ZERO, W_ZERO_ROWS, W_CONSTANT_ROWS, W_SUBNORMAL, W_LARGE, W_NAN, W_INFINITE, W_ONE_SIGN };
enum token_kind {
    T_PLAIN, T_NO_CALIB, T_NONE, T_ONE, T_ZERO, T_DEAD, T_LARGE, T_OVERFLOWING, T_DUPLICATE, T_NOT_FINITE, T_TINY
};

static const struct input {
    enum weight_kind weight;
    enum token_kind tokens;
} inputs[] = {
    {W_PLAIN, T_PLAIN},     {W_PLAIN, T_NO_CALIB},   {W_PLAIN, T_NONE},        {W_PLAIN, T_ONE},
    {W_PLAIN, T_ZERO},      {W_PLAIN, T_DEAD},       {W_PLAIN, T_LARGE},       {W_PLAIN, T_OVERFLOWING},
    {W_PLAIN, T_DUPLICATE}, {W_PLAIN, T_NOT_FINITE}, {W_PLAIN, T_TINY},        {W_ZERO, T_PLAIN},
    {W_ZERO_ROWS, T_PLAIN}, {W_CONSTANT_ROWS, T_ONE}, {W_SUBNORMAL, T_PLAIN},  {W_LARGE, T_PLAIN},
    {W_NAN, T_PLAIN},       {W_INFINITE, T_NO_CALIB}, {W_ONE_SIGN, T_DEAD},    {W_ZERO, T_ZERO},
    {W_SUBNORMAL, T_LARGE},
};

static const struct {
    size_t out, in;
} shapes[] = {{1, 1}, {1, 7}, {3, 1}, {5, 33}, {17, 64}, {70, 40}, {40, 129}, {8, 256}};

/* Settings that a method does not have are left out. */
static const char *const settings[][6] = {
    {NULL},
    {"bits=1", "group_size=16"},
    {"bits=2", "group_size=0", "sym=true"},
    {"bits=3", "group_size=32", "sym=true", "sym_grid=absmax", "block_size=5", "pair_keep=larger"},
    {"bits=8", "per_tensor=true", "mse=true", "mse_grid=10"},
    {"bits=1", "sym=true", "sym_grid=absmax"},
    {"bits=4", "include_zero=false", "act_order=true", "group_size=8"},
    {"act_order=true", "static_groups=true", "refine_passes=2", "refit_scales=true", "group_size=24"},
    {"asymmetric=true", "damp=0", "bits=16", "group_size=5"},
    {"keep_columns=3", "permutation_order=spearman", "zero_sym=true", "stat_group_size=3", "group_size=6", "bits=2"},
    {"act_group_aware=true", "group_size=16", "refit_scales=true", "sym=true"},
    {"weighting=importance", "sensitive_fraction=0.05", "outlier_threshold=1.5", "outliers=false"},
    {"axis=0", "optimizer=adam", "format=fp4", "double_quant=true", "block_size=32", "iterations=3"},
    {"format=fp4_e2m1", "scale_restrict=m2", "solver=gptq", "rank=3", "rank_bits=8", "group_size=16"},
    {"act_granularity=channel", "rank=2", "rank_weight=hessian", "groups=1", "bits=4", "sym=false"},
    {"keep_columns=2", "act_sym=false", "sym=false", "channel_group=3", "keep_format=fp8_e5m2", "act_group_size=5"},
    {"clusters=3", "act_metric=ema_minmax", "batch_tokens=5", "bits=16", "gptq=false", "keep_format=float"},
    {"bits=8", "solver=v2", "scale_update=true", "per_group_stop=true", "scale_search=true", "outlier_threshold=0"},
};

enum { TOKENS = 37, CONTEXTS = 4 };

struct conformance {
    qnt_context *ctx[CONTEXTS];      /* 1, 2, 8 threads; scalar kernels */
    size_t held[CONTEXTS];
    const char *method, *format;
    const char *const *set;
    const struct input *input;
    size_t out, in, tokens, skipped;
    float *weight, *x, *x_fp;
};

static void fail_case(const struct conformance *c, const char *what)
{
    fail_msg("%s, format %s, settings %s %s ..., %zu x %zu, weights %d, tokens %d: %s (%s)", c->method,
             c->format ? c->format : "none", c->set[0] ? c->set[0] : "none", c->set[1] ? c->set[1] : "", c->out, c->in,
             c->input->weight, c->input->tokens, what, qnt_context_message(c->ctx[0]));
}

static void require(const struct conformance *c, bool holds, const char *what)
{
    if (!holds)
        fail_case(c, what);
}

static void make_weight(struct conformance *c)
{
    size_t n = c->out * c->in;
    c->weight = random_floats(n, 11 + n, 0.05f);
    for (size_t i = 0; i < n; i++) {
        float *w = &c->weight[i];
        switch (c->input->weight) {
        case W_ZERO:
            *w = i % 2 ? 0.0f : -0.0f;
            break;
        case W_ZERO_ROWS:
            *w = i / c->in % 3 ? *w : 0;
            break;
        case W_CONSTANT_ROWS:
            *w = 0.25f * (float)(i / c->in % 5) - 0.5f;
            break;
        case W_SUBNORMAL:
            *w *= 0x1p-130f;
            break;
        case W_LARGE:
            *w *= 1e30f;
            break;
        case W_ONE_SIGN:
            *w = 1 + fabsf(*w);
            break;
        case W_PLAIN:
        case W_NAN:
        case W_INFINITE:
            break;
        }
    }
    if (c->input->weight == W_NAN)
        c->weight[n / 2] = NAN;
    if (c->input->weight == W_INFINITE)
        c->weight[n - 1] = -INFINITY;
}

static void make_tokens(struct conformance *c)
{
    size_t in = c->in;
    c->skipped = 0;
    c->tokens = c->input->tokens == T_ONE ? 1 : c->input->tokens == T_NONE ? 0 : TOKENS;
    c->x = random_tokens(TOKENS, in, 23);
    for (size_t i = 0; i < TOKENS * in; i++) {
        float *x = &c->x[i];
        size_t channel = i % in;
        switch (c->input->tokens) {
        case T_ZERO:
            *x = 0;
            break;
        case T_DEAD:
            *x = channel % 3 == 1 ? 0 : *x;
            break;
        case T_LARGE:
            *x *= channel == in / 2 ? 1e12f : 1;
            break;
        case T_OVERFLOWING: /* squares exceed f32 */
            *x *= channel == in / 2 ? 1e25f : 1;
            break;
        case T_DUPLICATE:
            *x = c->x[i - channel + channel / 2 * 2];
            break;
        case T_TINY:
            *x *= 1e-25f;
            break;
        case T_PLAIN:
        case T_NO_CALIB:
        case T_NONE:
        case T_ONE:
        case T_NOT_FINITE:
            break;
        }
    }
    if (c->input->tokens == T_NOT_FINITE) {
        c->x[3 * in] = NAN;
        c->x[4 * in + in - 1] = INFINITY;
        c->skipped = 2;
    }
    c->x_fp = NEW(TOKENS * in, float);
    for (size_t i = 0; i < TOKENS * in; i++)
        c->x_fp[i] = c->x[i] * (1 + 0.01f * (float)(i % 3));
}

/* The recipe with those of the settings that it knows; NULL: they exclude each other, with a message. */
static qnt_recipe *make_recipe(const struct conformance *c, qnt_context *ctx)
{
    qnt_recipe *recipe = recipe_of(ctx, c->method);
    for (size_t i = 0; i < COUNT(settings[0]) && c->set[i]; i++) {
        char key[32], value[32];
        assert_int_equal(sscanf(c->set[i], "%31[^=]=%31s", key, value), 2);
        if (qnt_recipe_set(recipe, key, value) != QNT_OK &&
            !strstr(qnt_context_message(ctx), "no method of the recipe")) {
            require(c, *qnt_context_message(ctx), "an error without a message");
            qnt_recipe_destroy(recipe);
            return NULL;
        }
    }
    return recipe;
}

static qnt_status run(const struct conformance *c, qnt_context *ctx, qnt_qlinear **q)
{
    qnt_layer layer = {.name = "some.layer", .weight = qnt_matrix_f32(c->weight, c->out, c->in), .format = c->format};
    qnt_recipe *recipe = make_recipe(c, ctx);
    qnt_matrix x = qnt_matrix_f32(c->x, c->tokens, c->in), x_fp = qnt_matrix_f32(c->x_fp, c->tokens, c->in);
    qnt_calib *calib = NULL;
    qnt_status status;
    *q = NULL;
    if (!recipe)
        return QNT_INVALID;
    if (c->input->tokens != T_NO_CALIB) {
        assert_ok(ctx, qnt_calib_create(ctx, recipe, c->in, &calib));
        if (qnt_recipe_needs_pairs(recipe))
            assert_ok(ctx, qnt_calib_add_pair(calib, x, x_fp));
        else
            assert_ok(ctx, qnt_calib_add(calib, x));
        assert_int_equal(qnt_calib_skipped(calib), c->skipped);
        assert_int_equal(qnt_calib_tokens(calib), c->tokens - c->skipped);
    }
    layer.calib = calib;
    status = qnt_quantize(ctx, recipe, &layer, q);
    require(c, (status == QNT_OK) == (*q != NULL), "a result and a failure at once");
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
    return status;
}

static void check_error(const struct conformance *c, qnt_status status)
{
    const char *message = qnt_context_message(c->ctx[0]);
    bool not_finite = c->input->weight == W_NAN || c->input->weight == W_INFINITE;
    require(c, *message, "an error without a message");
    require(c, status == QNT_INVALID || status == QNT_UNSUPPORTED || status == QNT_NON_FINITE, "an unexpected status");
    if (status == QNT_NON_FINITE)
        require(c, strstr(message, "some.layer") != NULL, "the message does not name the layer");
    if (status == QNT_NON_FINITE && not_finite)
        require(c, strstr(message, "row") && strstr(message, "column"), "the message does not say where");
    if (status == QNT_NON_FINITE)
        require(c, not_finite || c->input->weight == W_LARGE, "finite weights became something else");
}

/* Columns of the format's block: a width that they do not divide cannot be held. */
static size_t block_of(const char *format)
{
    qnt_layout_info info;
    for (size_t i = 0; format && qnt_layout_get(i, &info); i++)
        if (strcmp(info.name, format) == 0)
            return info.block;
    return 1;
}

/* Of each column by the grid of its segment; those without codes have that of 0 on the first. */
static void check_codes(const struct conformance *c, const qnt_qlinear *q)
{
    const uint32_t *order = q->transform.permutation;
    qnt_part part;
    if (qnt_qlinear_part(q, "codes", &part) != QNT_OK)
        return;
    for (size_t s = 0; s < q->segment_count; s++) {
        const struct qnti_segment *g = &q->segments[s];
        const struct qnti_grid *grid = &q->segments[g->weight->grid.form == QNTI_FORM_FLOAT ? 0 : s].weight->grid;
        uint32_t base = grid->signed_codes ? (uint32_t)grid->offset : 0;
        for (size_t i = 0; i < c->out * g->cols; i++) {
            size_t place = g->first + i % g->cols, column = order ? order[place] : place;
            uint32_t code = ((const uint32_t *)part.data)[i / g->cols * c->in + column];
            require(c, code + base < grid->levels, "a code beyond the levels");
        }
    }
    qnt_part_free(&part);
}

static void check_report(const struct conformance *c, const qnt_qlinear *q)
{
    qnt_layer_report report = {0};
    double groups = (double)c->in + 1;   /* at most one for each column, each with scale, offset, index */
    const struct qnti_numbers *book = q->segments[0].weight->codebook;
    double levels = book ? (double)(book->rows * book->cols) / (double)(c->out * c->in) : 0;
    assert_int_equal(qnt_report(q, &report), QNT_OK);
    require(c, report.bits_per_weight >= 1 && report.bits_per_weight <= 32 + 128 * groups + 32 * levels,
            "impossible bits");
    require(c, report.weight_error >= 0, "no weight error");
    if (c->input->tokens != T_NO_CALIB) {
        require(c, report.tokens == c->tokens - c->skipped, "tokens are miscounted");
        require(c, report.skipped_tokens == c->skipped, "skipped tokens are miscounted");
    }
    require(c, report.warnings != NULL, "no string of warnings");
}

static void check_forward(const struct conformance *c, const qnt_qlinear *q)
{
    float *y = NEW(2 * c->out, float), *x = random_tokens(2, c->in, 7);
    assert_int_equal(qnt_forward(q, qnt_matrix_f32(x, 2, c->in), y), QNT_OK);
    require(c, all_finite(y, 2 * c->out), "the output is not finite");
    free(x);
    free(y);
}

static void same_values(const struct conformance *c, const qnt_qlinear *q, const float *w, const char *what)
{
    float *values = dequantized(q->ctx, q);
    require(c, memcmp(values, w, c->out * c->in * sizeof *w) == 0, what);
    free(values);
}

static void check_packed(const struct conformance *c, const qnt_qlinear *q, const float *w)
{
    qnt_context *ctx = c->ctx[0];
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    qnt_qlinear *back;
    size_t bytes, count;
    void *packed;
    const char *format = c->format && strcmp(c->format, "gptq") == 0 ? "gptq:v1" : c->format;
    if (!format || strcmp(format, "native") == 0)
        return;
    if (qnt_packed_tensors(q, format, tensors, &count, &bytes) != QNT_OK) {
        require(c, strncmp(format, "gguf:", 5) != 0, "a grid of the format's own is refused");
        require(c, strstr(qnt_context_message(ctx), "some.layer") != NULL, "the message does not name the layer");
        return; /* shapes that the format has not */
    }
    packed = new_memory(bytes, 1);
    assert_ok(ctx, qnt_pack(q, format, packed, bytes));
    if (qnt_unpack(ctx, format, "some.layer", tensors, count, packed, bytes, &back) == QNT_OK) {
        same_values(c, back, w, "unpacked it is another layer");
        qnt_qlinear_destroy(back);
    } else { /* rows so short that codes of several widths take as many words, and no configuration says which */
        require(c, c->in < 32 && strstr(qnt_context_message(ctx), "no single width"), "it cannot be unpacked");
    }
    free(packed);
}

static void check_native(const struct conformance *c, const qnt_qlinear *q, const float *w)
{
    size_t bytes;
    unsigned char *file = native_bytes(c->ctx[0], q, &bytes);
    qnt_qlinear *back;
    assert_ok(c->ctx[0], native_read(c->ctx[0], file, bytes, "some.layer", &back));
    same_values(c, back, w, "read from the native format it is another layer");
    check_packed(c, back, w);
    qnt_qlinear_destroy(back);
    free(file);
}

static void check_result(const struct conformance *c, const qnt_qlinear *q, const float *w)
{
    require(c, all_finite(w, c->out * c->in), "values that are not finite");
    check_codes(c, q);
    check_report(c, q);
    check_forward(c, q);
    check_packed(c, q, w);
    check_native(c, q, w);
}

static void run_case(struct conformance *c)
{
    qnt_qlinear *q;
    float *w = NULL;
    qnt_status status;
    make_weight(c);
    make_tokens(c);
    status = run(c, c->ctx[0], &q);
    if (c->in % block_of(c->format))
        require(c, status == QNT_UNSUPPORTED || status == QNT_INVALID, "a width of broken blocks was taken");
    if (c->input->weight == W_NAN || c->input->weight == W_INFINITE)
        require(c, status != QNT_OK, "a weight that is not finite was taken");
    if (status != QNT_OK) {
        check_error(c, status);
    } else {
        w = dequantized(c->ctx[0], q);
        check_result(c, q, w);
    }
    qnt_qlinear_destroy(q);
    for (size_t i = 1; i < CONTEXTS; i++) {
        require(c, run(c, c->ctx[i], &q) == status, "another status on other threads or kernels");
        if (q)
            same_values(c, q, w, "another result on other threads or kernels");
        qnt_qlinear_destroy(q);
    }
    free(w);
    free(c->weight);
    free(c->x);
    free(c->x_fp);
}

/* All inputs in every step-th shape. */
static void run_inputs(struct conformance *c, size_t step)
{
    for (size_t s = step - 1; s < COUNT(shapes); s += step)
        for (size_t i = 0; i < COUNT(inputs); i++) {
            c->out = shapes[s].out;
            c->in = shapes[s].in;
            c->input = &inputs[i];
            run_case(c);
        }
}

static void begin(struct conformance *c)
{
    static const int threads[] = {1, 2, 8};
    for (size_t i = 0; i < CONTEXTS; i++) {
        c->ctx[i] = i < COUNT(threads) ? context_of(threads[i]) : context_with_kernels("scalar");
        c->held[i] = qnt_context_bytes(c->ctx[i], NULL);
    }
    assert_string_equal(qnt_context_kernels(c->ctx[3]), "scalar");
}

static void end(struct conformance *c)
{
    for (size_t i = 0; i < CONTEXTS; i++)
        destroy_context(c->ctx[i], c->held[i]);
}

/* A method that fills no weights stands behind one that does. */
static void for_each_method(struct conformance *c, void (*body)(struct conformance *c))
{
    const char *only = getenv("METHOD");
    qnt_method_info method;
    size_t count = 0;
    for (; qnt_method_get(count, &method); count++) {
        char recipe[64];
        if (only && strcmp(only, method.name))
            continue;
        snprintf(recipe, sizeof recipe, "%s%s", method.weights ? "" : "rtn,", method.name);
        c->method = recipe;
        body(c);
    }
    assert_true(count >= 3);
}

static void each_format(struct conformance *c)
{
    qnt_layout_info layout;
    c->set = settings[0];
    for (size_t f = 0; qnt_layout_get(f, &layout); f++) {
        c->format = layout.name;
        run_inputs(c, 2);
    }
}

static void test_formats(void **state)
{
    struct conformance c = {.in = 0};
    (void)state;
    begin(&c);
    for_each_method(&c, each_format);
    end(&c);
}

/* The recipe of a setting as it is written; what a method does not have makes no difference. "": an error. */
static void write_recipe(const struct conformance *c, char *text, size_t size)
{
    qnt_recipe *recipe = make_recipe(c, c->ctx[0]);
    assert_true((size_t)snprintf(text, size, "%s", recipe ? qnt_recipe_text(recipe) : "") < size);
    qnt_recipe_destroy(recipe);
}

static void each_setting(struct conformance *c)
{
    char texts[COUNT(settings)][256];
    c->format = NULL;
    for (size_t s = 0; s < COUNT(settings); s++) {
        bool known = false;
        c->set = settings[s];
        write_recipe(c, texts[s], sizeof texts[s]);
        for (size_t i = 0; i < s; i++)
            known = known || (*texts[s] && strcmp(texts[i], texts[s]) == 0);
        if (!known)
            run_inputs(c, 1);
    }
    c->set = settings[7];
    c->format = "gguf:q4_1";   /* with what the format holds and what it prescribes */
    run_inputs(c, 1);
}

static void test_settings(void **state)
{
    struct conformance c = {.in = 0};
    (void)state;
    begin(&c);
    for_each_method(&c, each_setting);
    end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_settings), cmocka_unit_test(test_formats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
