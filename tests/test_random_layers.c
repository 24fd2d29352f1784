/*
 * test_random_layers.c - random layers through every registered method: a finite result or an error with a message.
 *
 * Shapes from 1 to 300, up to 64 tokens, channels and rows that are dead, constant, alike, tiny or huge, tokens that
 * are not finite. RANDOM_LAYERS in the environment says how many layers (12), SEED where they begin.
 */
#include "layer_support.h"

enum { MOST_SIDE = 300, MOST_TOKENS = 64, USUAL_LAYERS = 12 };

struct layer {
    size_t out, in, tokens;
    float *weight, *x, *fisher, *norm;
};

static float any_size(struct qnti_random *random)
{
    static const float sizes[] = {0, 1e-30f, 1e-6f, 0.01f, 1, 1, 1, 30, 1000, 1e8f};
    return sizes[random_below(random, COUNT(sizes))];
}

/* Rows or columns, each of its own size; some are constant, some like the one before. */
static void disturb(struct qnti_random *random, float *x, size_t rows, size_t cols)
{
    for (size_t c = 0; c < cols; c++) {
        size_t kind = random_below(random, 12);
        float size = kind < 4 ? any_size(random) : 1, value = random_float(random);
        for (size_t r = 0; r < rows; r++)
            x[r * cols + c] = kind == 4 ? value : kind == 5 && c ? x[r * cols + c - 1] : size * x[r * cols + c];
    }
}

static struct layer make_layer(uint64_t seed)
{
    struct qnti_random random;
    struct layer l;
    qnti_random_seed(&random, seed);
    l.out = 1 + random_below(&random, MOST_SIDE);
    l.in = 1 + random_below(&random, MOST_SIDE);
    l.tokens = random_below(&random, MOST_TOKENS + 1);
    l.weight = random_floats(l.out * l.in, seed + 1, 0.05f);
    l.x = random_tokens(l.tokens, l.in, seed + 2);
    l.fisher = random_floats(l.out * l.in, seed + 3, 1);
    l.norm = random_floats(l.in, seed + 4, 1);
    for (size_t i = 0; i < l.out * l.in; i++)
        l.fisher[i] *= l.fisher[i];
    disturb(&random, l.weight, l.out, l.in);
    disturb(&random, l.x, l.tokens, l.in);
    disturb(&random, l.norm, 1, l.in);
    for (size_t t = 0; t < l.tokens; t++)
        if (random_below(&random, 10) == 0)
            l.x[t * l.in + random_below(&random, l.in)] = random_below(&random, 2) ? NAN : INFINITY;
    return l;
}

static void free_layer(struct layer *l)
{
    free(l->weight);
    free(l->x);
    free(l->fisher);
    free(l->norm);
}

/* Weights are finite, and so are the outputs of the tokens that are, unless they leave the range of f32. */
static void check_result(qnt_context *ctx, const struct layer *l, const qnt_qlinear *q, const char *what)
{
    float *w = dequantized(ctx, q), *y = NEW(l->out, float);
    double most = 0;
    if (!all_finite(w, l->out * l->in))
        fail_msg("%s: weights that are not finite", what);
    for (size_t i = 0; i < l->out * l->in; i++)
        most = fmax(most, fabs((double)w[i]));
    for (size_t t = 0; t < l->tokens; t++) {
        const float *x = l->x + t * l->in;
        double largest = 0;
        for (size_t c = 0; c < l->in; c++)
            largest = fmax(largest, fabs((double)x[c]));
        if (!all_finite(x, l->in) || largest * most * (double)l->in > 1e30)
            continue;
        assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, 1, l->in), y));
        if (!all_finite(y, l->out))
            fail_msg("%s: outputs of token %zu that are not finite", what, t);
    }
    free(w);
    free(y);
}

static void run(qnt_context *ctx, const struct layer *l, const char *method, const char *what)
{
    qnt_recipe *recipe = recipe_of(ctx, method);
    qnt_calib *calib = NULL;
    qnt_qlinear *q = NULL;
    qnt_layer layer = {.weight = qnt_matrix_f32(l->weight, l->out, l->in), .fisher = l->fisher,
                       .norm_weight = l->norm};
    qnt_status status = qnt_calib_create(ctx, recipe, l->in, &calib);
    if (status == QNT_OK)
        status = qnt_recipe_needs_pairs(recipe)
                     ? qnt_calib_add_pair(calib, qnt_matrix_f32(l->x, l->tokens, l->in),
                                          qnt_matrix_f32(l->x, l->tokens, l->in))
                     : qnt_calib_add(calib, qnt_matrix_f32(l->x, l->tokens, l->in));
    layer.calib = calib;
    if (status == QNT_OK)
        status = qnt_quantize(ctx, recipe, &layer, &q);
    if (status == QNT_OK)
        check_result(ctx, l, q, what);
    else if (!qnt_context_message(ctx)[0])
        fail_msg("%s: status %d without a message", what, (int)status);
    qnt_qlinear_destroy(q);
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(recipe);
}

static uint64_t number_of(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : usual;
}

static void test_layers(void **state)
{
    uint64_t count = number_of("RANDOM_LAYERS", USUAL_LAYERS), seed = number_of("SEED", 1);
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (uint64_t i = 0; i < count; i++) {
        struct layer l = make_layer(1000 * (seed + i));
        qnt_method_info info;
        for (size_t m = 0; qnt_method_get(m, &info); m++) {
            char what[128], recipe[64];
            snprintf(recipe, sizeof recipe, "%s%s", info.weights ? "" : "rtn,", info.name);
            if (strcmp(info.name, "kv_cache") == 0)
                snprintf(recipe, sizeof recipe, "kv_cache:head_dim=1");
            snprintf(what, sizeof what, "layer %llu, %s, %zu x %zu, %zu tokens", (unsigned long long)(seed + i), recipe,
                     l.out, l.in, l.tokens);
            run(ctx, &l, recipe, what);
        }
        free_layer(&l);
    }
    destroy_context(ctx, held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
