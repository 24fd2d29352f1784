/*
 * test_golden.c - what the authors' own code gives on four layers, through the public calls of `quant layer`.
 *
 * tests/golden/layer/ has lists (*.txt) of the cases and their limits, which say where the numbers come from. A
 * rounding tie that falls the other way changes what follows it, so error feedback is judged by a small share of
 * differing numbers and by the error together.
 */
#include <glob.h>
#include "layer_support.h"

#define FOLDER SOURCE_DIR "/tests/golden/layer/"
enum { CASES = 160 };          /* in all lists */

struct golden {
    qnt_context *ctx;
    char name[64], recipe_text[256];
    qnt_tensors *layer, *expected, *fisher_file;
    qnt_matrix weight, input, input_fp;
    bool has_input, has_input_fp;
    const float *fisher;         /* (out, in), or NULL */
    const float *bias;           /* [out], or NULL */
    qnt_recipe *recipe;
    qnt_calib *calib;
    qnt_qlinear *q;
    float *dequantized;          /* as the inputs meet it, where there are inputs */
    int32_t *kept;               /* columns that this batch keeps out of the codes */
    size_t kept_count;
};

static qnt_tensors *open_tensors(qnt_context *ctx, const char *name)
{
    char path[512];
    qnt_tensors *file;
    snprintf(path, sizeof path, FOLDER "%s", name);
    assert_ok(ctx, qnt_tensors_open(ctx, path, &file));
    return file;
}

static bool read_matrix(const struct golden *g, const char *name, qnt_matrix *m)
{
    qnt_tensor tensor;
    if (!qnt_tensors_find(g->layer, name, &tensor))
        return false;
    assert_ok(g->ctx, qnt_tensors_matrix(g->layer, name, m));
    return true;
}

/* Fisher information lies beside the layer, where a recipe needs it. */
static void read_fisher(struct golden *g, const char *layer_name)
{
    char name[128];
    qnt_matrix fisher;
    if (!qnt_recipe_needs_fisher(g->recipe))
        return;
    snprintf(name, sizeof name, "%.*s-fisher.safetensors", (int)strcspn(layer_name, "."), layer_name);
    g->fisher_file = open_tensors(g->ctx, name);
    assert_ok(g->ctx, qnt_tensors_matrix(g->fisher_file, "fisher", &fisher));
    assert_true(fisher.rows == g->weight.rows && fisher.cols == g->weight.cols);
    g->fisher = fisher.data;
}

static void take_batch(struct golden *g)
{
    size_t in = g->weight.cols;
    uint8_t *kept = NEW(in, uint8_t);
    assert_ok(g->ctx, qnt_dequantize_batch(g->q, g->input, g->dequantized, kept));
    g->kept = NEW(in, int32_t);
    g->kept_count = 0;
    for (size_t c = 0; c < in; c++)
        if (kept[c])
            g->kept[g->kept_count++] = (int32_t)c;
    free(kept);
}

static void begin_case(struct golden *g, const char *name, const char *layer_name, const char *recipe)
{
    char expected[128];
    qnt_layer layer = {.name = g->name};
    qnt_tensor bias, norm;
    snprintf(g->name, sizeof g->name, "%s", name);
    snprintf(g->recipe_text, sizeof g->recipe_text, "%s", recipe);
    g->layer = open_tensors(g->ctx, layer_name);
    snprintf(expected, sizeof expected, "%s.safetensors", g->name);
    g->expected = open_tensors(g->ctx, expected);
    assert_true(read_matrix(g, "weight", &g->weight));
    g->has_input = read_matrix(g, "input", &g->input);
    g->has_input_fp = read_matrix(g, "input_fp", &g->input_fp);
    g->recipe = recipe_of(g->ctx, g->recipe_text);
    read_fisher(g, layer_name);
    assert_ok(g->ctx, qnt_calib_create(g->ctx, g->recipe, g->weight.cols, &g->calib));
    if (qnt_recipe_needs_pairs(g->recipe))
        assert_ok(g->ctx, qnt_calib_add_pair(g->calib, g->input, g->input_fp));
    else if (g->has_input)
        assert_ok(g->ctx, qnt_calib_add(g->calib, g->input));
    layer.weight = g->weight;
    layer.calib = g->calib;
    layer.fisher = g->fisher;
    layer.bias = g->bias = qnt_tensors_find(g->layer, "bias", &bias) ? bias.data : NULL;
    layer.norm_weight = qnt_tensors_find(g->layer, "norm_weight", &norm) ? norm.data : NULL;
    assert_ok(g->ctx, qnt_quantize(g->ctx, g->recipe, &layer, &g->q));
    g->dequantized = dequantized(g->ctx, g->q);
    if (g->has_input)
        take_batch(g);
}

static void end_case(struct golden *g)
{
    free(g->dequantized);
    free(g->kept);
    qnt_qlinear_destroy(g->q);
    qnt_calib_destroy(g->calib);
    qnt_recipe_destroy(g->recipe);
    qnt_tensors_close(g->expected);
    qnt_tensors_close(g->layer);
    qnt_tensors_close(g->fisher_file);
    *g = (struct golden){.ctx = g->ctx};
}

static double element(const char *dtype, const void *data, size_t i)
{
    float f;
    int32_t n;
    uint16_t u;
    if (strcmp(dtype, "U16") == 0) {
        memcpy(&u, (const char *)data + i * sizeof u, sizeof u);
        return u;
    }
    if (strcmp(dtype, "U8") == 0)
        return ((const unsigned char *)data)[i];
    if (strcmp(dtype, "I8") == 0)
        return ((const signed char *)data)[i];
    if (strcmp(dtype, "I32") == 0) {
        memcpy(&n, (const char *)data + i * sizeof n, sizeof n);
        return n;
    }
    memcpy(&f, (const char *)data + i * sizeof f, sizeof f);
    return (double)f;
}

static qnt_tensor find(const qnt_tensors *file, const char *name)
{
    qnt_tensor tensor;
    if (!qnt_tensors_find(file, name, &tensor))
        fail_msg("no tensor %s", name);
    return tensor;
}

/* codebook[codes], times the row's scale where there are scales, or the weight itself where it is kept. */
static float *values_of_codebook(const struct golden *g)
{
    size_t out = g->weight.rows, in = g->weight.cols;
    qnt_tensor codes = find(g->expected, "codes"), book = find(g->expected, "codebook"), scales, mask;
    float *w = NEW(out * in, float);
    bool scaled = qnt_tensors_find(g->expected, "scales", &scales);
    bool kept = !scaled && qnt_tensors_find(g->expected, "outlier_mask", &mask);
    for (size_t i = 0; i < out * in; i++) {
        size_t code = (size_t)element(codes.dtype, codes.data, i), row = book.shape[0] > 1 ? i / in : 0;
        bool own = kept && element("U8", mask.data, i) != 0;
        w[i] = own ? ((const float *)g->weight.data)[i]
                   : (float)element("F32", book.data, row * book.shape[1] + code);
        w[i] *= scaled ? (float)element("F32", scales.data, i / in) : 1;
    }
    return w;
}

/* (codes - zeros) * scales of the expected result. */
static float *values_of_scales(const struct golden *g)
{
    size_t out = g->weight.rows, in = g->weight.cols;
    qnt_tensor codes = find(g->expected, "codes"), scales = find(g->expected, "scales"),
               zeros = find(g->expected, "zeros"), index = {0};
    bool indexed = qnt_tensors_find(g->expected, "group_index", &index);
    size_t groups = scales.shape[1], size = 0;
    float *w = NEW(out * in, float);
    const char *at = strstr(g->recipe_text, "group_size=");
    if (at)
        size = (size_t)strtoul(at + strlen("group_size="), NULL, 10);
    for (size_t r = 0; r < out; r++)
        for (size_t c = 0; c < in; c++) {
            size_t group = indexed ? (size_t)element("I32", index.data, c) : groups > 1 ? c / size : 0;
            size_t place = (scales.shape[0] == 1 ? 0 : r) * groups + group;
            w[r * in + c] = (float)((element("U8", codes.data, r * in + c) - element("F32", zeros.data, place)) *
                                    element("F32", scales.data, place));
        }
    return w;
}

static float *expected_values(const struct golden *g)
{
    qnt_tensor whole;
    float *w;
    if (qnt_tensors_find(g->expected, "codebook", &whole))
        return values_of_codebook(g);
    if (!qnt_tensors_find(g->expected, "dequantized", &whole))
        return values_of_scales(g);
    w = NEW(g->weight.rows * g->weight.cols, float);
    memcpy(w, whole.data, whole.bytes);
    return w;
}

/* Share of numbers that differ by more than the limits. */
static double mismatch(size_t n, const char *a_type, const void *a, const char *b_type, const void *b, double atol,
                       double rtol)
{
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        double x = element(a_type, a, i), y = element(b_type, b, i);
        bad += !(fabs(x - y) <= atol + rtol * fabs(y));
    }
    return n ? (double)bad / (double)n : 0;
}

static void check_tensor(const struct golden *g, const char *name, double atol, double rtol, double limit)
{
    static const char *const types[] = {[QNT_F32] = "F32", [QNT_I32] = "I32", [QNT_U8] = "U8"};
    size_t n = g->weight.rows * g->weight.cols;
    double share;
    if (strcmp(name, "dequantized") == 0) {
        qnt_tensor given;
        bool has = qnt_tensors_find(g->expected, name, &given);
        float *want = has ? NULL : expected_values(g);
        share = mismatch(n, "F32", g->dequantized, "F32", has ? given.data : want, atol, rtol);
        free(want);
    } else if (strcmp(name, "kept_columns") == 0 && qnt_qlinear_chooses_columns(g->q)) {
        qnt_tensor want = find(g->expected, name);
        assert_int_equal(g->kept_count, want.shape[0]);
        share = mismatch(g->kept_count, "I32", g->kept, want.dtype, want.data, atol, rtol);
    } else if (strcmp(name, "output") == 0) {
        float *y = NEW(g->input.rows * g->weight.rows, float);
        assert_ok(g->ctx, qnt_forward(g->q, g->input, y));
        share = mismatch(g->input.rows * g->weight.rows, "F32", y, "F32", find(g->expected, name).data, atol, rtol);
        free(y);
    } else {
        qnt_tensor want = find(g->expected, name);
        qnt_part part;
        assert_ok(g->ctx, qnt_qlinear_part(g->q, name, &part));
        assert_int_equal(part.rank, want.rank);
        for (size_t i = 0; i < want.rank; i++)
            assert_int_equal(part.shape[i], want.shape[i]);
        n = want.shape[0] * (want.rank > 1 ? want.shape[1] : 1);
        share = mismatch(n, types[part.dtype], part.data, want.dtype, want.data, atol, rtol);
        qnt_part_free(&part);
    }
    if (share > limit)
        fail_msg("%s: %s differs in %g of its numbers, allowed are %g", g->name, name, share, limit);
}

static double weight_error(const struct golden *g)
{
    const float *w = g->weight.data;
    double sum = 0;
    for (size_t i = 0; i < g->weight.rows * g->weight.cols; i++)
        sum += ((double)w[i] - (double)g->dequantized[i]) * ((double)w[i] - (double)g->dequantized[i]);
    return sum;
}

static double fisher_error(const struct golden *g)
{
    const float *w = g->weight.data;
    double sum = 0;
    for (size_t i = 0; i < g->weight.rows * g->weight.cols; i++)
        sum += (double)g->fisher[i] * ((double)w[i] - (double)g->dequantized[i]) *
               ((double)w[i] - (double)g->dequantized[i]);
    return sum;
}

static double output_error(const struct golden *g)
{
    const float *w = g->weight.data, *x = g->input.data;
    size_t in = g->weight.cols;
    double total = 0;
    for (size_t t = 0; t < g->input.rows; t++)
        for (size_t r = 0; r < g->weight.rows; r++) {
            double sum = 0;
            for (size_t c = 0; c < in; c++)
                sum += (double)x[t * in + c] * ((double)w[r * in + c] - (double)g->dequantized[r * in + c]);
            total += sum * sum;
        }
    return total;
}

/* Weights and activations quantized: what the layer really gives. */
static double layer_output_error(const struct golden *g)
{
    const float *w = g->weight.data, *x = g->input.data;
    size_t in = g->weight.cols, out = g->weight.rows;
    float *y = NEW(g->input.rows * out, float);
    double total = 0;
    assert_ok(g->ctx, qnt_forward(g->q, g->input, y));
    for (size_t t = 0; t < g->input.rows; t++)
        for (size_t r = 0; r < out; r++) {
            double sum = g->bias ? (double)g->bias[r] : 0;
            for (size_t c = 0; c < in; c++)
                sum += (double)x[t * in + c] * (double)w[r * in + c];
            total += ((double)y[t * out + r] - sum) * ((double)y[t * out + r] - sum);
        }
    free(y);
    return total;
}

static void check_objective(const struct golden *g, const char *name, double reference, double most)
{
    static const struct {
        const char *name;
        double (*error)(const struct golden *g);
    } errors[] = {{"weight_error", weight_error}, {"fisher_error", fisher_error}, {"output_error", output_error},
                  {"layer_output_error", layer_output_error}};
    double error = NAN;
    for (size_t i = 0; i < COUNT(errors); i++)
        if (strcmp(name, errors[i].name) == 0)
            error = errors[i].error(g);
    if (!(error <= most * reference))
        fail_msg("%s: %s is %g, more than %g of the reference's %g", g->name, name, error, most, reference);
}

/* One line of a list; true if it began a case. */
static bool run_line(struct golden *g, const char *line)
{
    char word[64], layer[64], recipe[256];
    double a, b, c;
    if (sscanf(line, "case %63s %63s %255s", word, layer, recipe) == 3) {
        end_case(g);
        begin_case(g, word, layer, recipe);
        return true;
    }
    if (sscanf(line, "equal %63s %lf", word, &a) == 2)
        check_tensor(g, word, 0, 0, a);
    else if (sscanf(line, "close %63s %lf %lf %lf", word, &a, &b, &c) == 4)
        check_tensor(g, word, a, b, c);
    else if (sscanf(line, "objective %63s %lf %lf", word, &a, &b) == 3)
        check_objective(g, word, a, b);
    else if (line[0] != '#')
        fail_msg("a list of cases: %s", line);
    return false;
}

static size_t run_list(struct golden *g, const char *path)
{
    FILE *file = fopen(path, "r");
    char line[512];
    size_t cases = 0;
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        cases += run_line(g, line);
    fclose(file);
    end_case(g);
    return cases;
}

static void test_cases(void **state)
{
    struct golden g = {.ctx = context_of(2)};
    size_t held = qnt_context_bytes(g.ctx, NULL), cases = 0;
    glob_t lists;
    (void)state;
    assert_int_equal(glob(FOLDER "*.txt", 0, NULL, &lists), 0);
    for (size_t i = 0; i < lists.gl_pathc; i++) {
        size_t n = run_list(&g, lists.gl_pathv[i]);
        assert_true(n > 0);
        cases += n;
    }
    globfree(&lists);
    assert_int_equal(cases, CASES);
    destroy_context(g.ctx, held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
