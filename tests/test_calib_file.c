/*
 * test_calib_file.c - calibrations in files: everything comes back, sums of files are those of one run, and whatever is
 * wrong with a file is said by name.
 */
#include "layer_support.h"
#include "calib/save.h"
#include "linalg/gram.h"

static const char path[] = "calibrations.safetensors", folder[] = "calibrations.safetensors.writing";

enum { EVERYTHING = QNTI_NEED_MOMENTS | QNTI_NEED_HESSIAN | QNTI_NEED_PAIRS | QNTI_NEED_SAMPLES };

static void add_tokens(qnt_context *ctx, qnt_calib *calib, size_t tokens, uint64_t seed)
{
    size_t in = qnt_calib_in(calib);
    float *x = random_tokens(tokens, in, seed), *y = random_tokens(tokens, in, seed + 50);
    if (tokens > 1)
        x[in / 2] = NAN; /* the first token is left out */
    assert_ok(ctx, qnti_calib_add_f32(calib, x, calib->cross ? y : NULL, tokens));
    free(x);
    free(y);
}

static qnt_calib *new_calib(qnt_context *ctx, unsigned needs, size_t in, size_t tokens, uint64_t seed)
{
    qnt_calib *calib;
    assert_ok(ctx, qnti_calib_create(ctx, needs, in, &calib));
    if (tokens)
        add_tokens(ctx, calib, tokens, seed);
    return calib;
}

static void add_importance(qnt_context *ctx, qnt_calib *calib)
{
    float *importance = random_floats(calib->in, 3, 1);
    for (size_t i = 0; i < calib->in; i++)
        importance[i] = fabsf(importance[i]);
    assert_ok(ctx, qnt_calib_set_importance(calib, importance));
    free(importance);
}

static qnt_calib *load(qnt_context *ctx, const char *file, const char *name)
{
    qnt_calib_file *f;
    qnt_calib *calib;
    assert_ok(ctx, qnt_calib_file_open(ctx, file, &f));
    assert_ok(ctx, qnt_calib_load(f, name, &calib));
    qnt_calib_file_close(f);
    return calib;
}

static void compare_grams(const struct qnti_gram *a, const struct qnti_gram *b, double tolerance)
{
    double *x, *y;
    assert_int_equal(a == NULL, b == NULL);
    if (!a)
        return;
    x = NEW(a->n, double);
    y = NEW(a->n, double);
    for (size_t r = 0; r < a->n; r++) {
        size_t n = qnti_gram_row(a, r, x);
        assert_int_equal(qnti_gram_row(b, r, y), n);
        for (size_t i = 0; i < n; i++)
            assert_true(fabs(x[i] - y[i]) <= tolerance * (fabs(x[i]) + 1));
    }
    free(x);
    free(y);
}

static void compare(const qnt_calib *a, const qnt_calib *b, double tolerance)
{
    assert_int_equal(a->in, b->in);
    assert_int_equal(a->needs, b->needs);
    assert_int_equal(a->tokens, b->tokens);
    assert_int_equal(a->skipped, b->skipped);
    for (size_t i = 0; i < a->in; i++) {
        const struct qnti_channel_moments *m = &a->moments[i], *n = &b->moments[i];
        assert_true(m->least == n->least && m->greatest == n->greatest);
        assert_true(fabs(m->sum - n->sum) <= tolerance * (m->sum_abs + 1));
        assert_true(fabs(m->sum_abs - n->sum_abs) <= tolerance * (m->sum_abs + 1));
        assert_true(fabs(m->sum_square - n->sum_square) <= tolerance * (m->sum_square + 1));
    }
    compare_grams(a->hessian, b->hessian, tolerance);
    compare_grams(a->cross, b->cross, tolerance);
    assert_int_equal(a->sample_count, b->sample_count);
    assert_int_equal(a->sample_stride, b->sample_stride);
    if (a->sample_count)
        assert_memory_equal(a->samples, b->samples, a->sample_count * a->in * sizeof *a->samples);
    assert_int_equal(a->importance == NULL, b->importance == NULL);
    if (a->importance)
        assert_memory_equal(a->importance, b->importance, a->in * sizeof *a->importance);
}

/* Widths around the tiles of 512; no tokens, few, more than are kept as samples. */
static void test_everything_comes_back(void **state)
{
    static const struct {
        unsigned needs;
        size_t in, tokens;
        bool importance;
    } cases[] = {{EVERYTHING, 1, 5, true},   {EVERYTHING, 37, 90, false}, {QNTI_NEED_MOMENTS, 16, 7, true},
                 {EVERYTHING, 530, 3, true}, {EVERYTHING, 3, 5000, true}, {EVERYTHING, 9, 0, false}};
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        qnt_calib *a = new_calib(ctx, cases[i].needs, cases[i].in, cases[i].tokens, i), *b;
        if (cases[i].importance)
            add_importance(ctx, a);
        assert_ok(ctx, qnt_calib_save(ctx, path, &(qnt_named_calib){"a site", a}, 1));
        b = load(ctx, path, "a site");
        compare(a, b, 0);
        add_tokens(ctx, a, 12, 77); /* both go on alike */
        add_tokens(ctx, b, 12, 77);
        compare(a, b, 0);
        qnt_calib_destroy(a);
        qnt_calib_destroy(b);
    }
    assert_int_equal(unlink(path), 0);
    destroy_context(ctx, held);
}

/* A layer is quantized by what was loaded as by what was saved. */
static void test_a_loaded_calibration_quantizes(void **state)
{
    enum { IN = 64, OUT = 8 };
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_recipe *recipe = recipe_of(ctx, "gptq:bits=3,group_size=32");
    float *weight = random_floats(OUT * IN, 1, 1), *values[2];
    qnt_calib *calib[2];
    (void)state;
    assert_ok(ctx, qnt_calib_create(ctx, recipe, IN, &calib[0]));
    add_tokens(ctx, calib[0], 100, 4);
    assert_ok(ctx, qnt_calib_save(ctx, path, &(qnt_named_calib){"x", calib[0]}, 1));
    calib[1] = load(ctx, path, "x");
    for (size_t i = 0; i < 2; i++) {
        qnt_layer layer = {.weight = qnt_matrix_f32(weight, OUT, IN), .calib = calib[i]};
        qnt_qlinear *q;
        assert_ok(ctx, qnt_quantize(ctx, recipe, &layer, &q));
        values[i] = dequantized(ctx, q);
        qnt_qlinear_destroy(q);
        qnt_calib_destroy(calib[i]);
    }
    assert_memory_equal(values[0], values[1], OUT * IN * sizeof **values);
    free(values[0]);
    free(values[1]);
    free(weight);
    qnt_recipe_destroy(recipe);
    unlink(path);
    destroy_context(ctx, held);
}

/* Files of two halves of the tokens, merged, against one run over all of them. */
static void test_merged_files_are_one_run(void **state)
{
    enum { IN = 70, PARTS = 6 };
    static const char *const files[] = {"first.safetensors", "second.safetensors"};
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_calib *whole = new_calib(ctx, EVERYTHING, IN, 0, 0), *part[2];
    (void)state;
    for (size_t h = 0; h < 2; h++) {
        part[h] = new_calib(ctx, EVERYTHING, IN, 0, 0);
        for (uint64_t i = 0; i < PARTS; i++) {
            add_tokens(ctx, part[h], 20, 10 * h + i);
            add_tokens(ctx, whole, 20, 10 * h + i);
        }
        assert_ok(ctx, qnt_calib_save(ctx, files[h], &(qnt_named_calib){"x", part[h]}, 1));
        qnt_calib_destroy(part[h]);
        part[h] = load(ctx, files[h], "x");
    }
    assert_ok(ctx, qnt_calib_merge(part[0], part[1]));
    compare(whole, part[0], 1e-14);
    for (size_t h = 0; h < 2; h++) {
        qnt_calib_destroy(part[h]);
        unlink(files[h]);
    }
    qnt_calib_destroy(whole);
    destroy_context(ctx, held);
}

/* --- several sites --- */

static void test_sites_have_names(void **state)
{
    static const char *const names[] = {"b.site", "a", "with.counts", "ümlaut \"quoted\""};
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    qnt_named_calib calibs[COUNT(names)];
    qnt_calib_file *file;
    qnt_calib *calib;
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++)
        calibs[i] = (qnt_named_calib){names[i], new_calib(ctx, EVERYTHING, 4 + i, 10, i)};
    assert_ok(ctx, qnt_calib_save(ctx, path, calibs, COUNT(names)));
    assert_ok(ctx, qnt_calib_file_open(ctx, path, &file));
    for (size_t i = 0; i < COUNT(names); i++) {
        assert_non_null(qnt_calib_file_name(file, i));
        assert_ok(ctx, qnt_calib_load(file, names[i], &calib));
        compare(calibs[i].calib, calib, 0);
        qnt_calib_destroy(calib);
        qnt_calib_destroy((qnt_calib *)(uintptr_t)calibs[i].calib);
    }
    assert_null(qnt_calib_file_name(file, COUNT(names)));
    assert_fails(ctx, qnt_calib_load(file, "with", &calib), QNT_NOT_FOUND, "no calibration of with");
    assert_null(calib);
    qnt_calib_file_close(file);
    qnt_calib_file_close(NULL);
    unlink(path);
    destroy_context(ctx, held);
}

static void test_writer(void **state)
{
    static const char *const notes[] = {"model", "0123", "texts", "a\nb"};
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    struct qnti_calib_writer *writer;
    qnt_calib *a = new_calib(ctx, EVERYTHING, 20, 10, 1), *b;
    qnt_calib_file *file;
    (void)state;
    qnti_calib_writer_discard(NULL);
    assert_ok(ctx, qnti_calib_writer_create(ctx, path, &writer));
    assert_ok(ctx, qnti_calib_writer_add(writer, "a", a));
    qnti_calib_writer_discard(writer);
    assert_false(qnti_path_exists(path) || qnti_path_exists(folder));
    assert_ok(ctx, qnti_calib_writer_create(ctx, path, &writer));
    assert_ok(ctx, qnti_calib_writer_add(writer, "a", a));
    assert_ok(ctx, qnti_calib_writer_add(writer, "b", a));
    assert_ok(ctx, qnti_calib_writer_commit(writer, notes, 2));
    assert_false(qnti_path_exists(folder));
    assert_ok(ctx, qnt_calib_file_open(ctx, path, &file));
    assert_string_equal(qnti_calib_file_note(file, "texts"), "a\nb");
    assert_null(qnti_calib_file_note(file, "other"));
    qnt_calib_file_close(file);
    b = load(ctx, path, "b");
    compare(a, b, 0);
    qnt_calib_destroy(b);
    assert_ok(ctx, qnti_calib_writer_create(ctx, path, &writer));
    assert_ok(ctx, qnti_calib_writer_add(writer, "a", a));
    assert_ok(ctx, qnti_calib_writer_add(writer, "a", a)); /* twice: found when they are joined */
    assert_fails(ctx, qnti_calib_writer_commit(writer, NULL, 0), QNT_INVALID, "a.");
    assert_false(qnti_path_exists(folder));
    qnt_calib_destroy(a);
    unlink(path);
    destroy_context(ctx, held);
}

/* --- damaged files --- */

/* The parts of a sound calibration of 2 channels; a damage changes one of them. */
struct parts {
    uint64_t counts[4];
    double moments[6], hessian[3], cross[4];
    float range[4], samples[4], importance[2];
    struct qnti_tensor_source tensors[QNTI_CALIB_PARTS + 1];
    size_t count;
    const char *format;
};

static void make_parts(struct parts *p)
{
    *p = (struct parts){.counts = {2, 1, EVERYTHING, 1}, .moments = {1, 2, 3, 4, 5, 6}, .hessian = {1, 2, 3},
                        .cross = {1, 2, 3, 4}, .range = {0, -1, 1, 2}, .samples = {1, 2, 3, 4}, .importance = {1, 2},
                        .count = QNTI_CALIB_PARTS, .format = "calibration"};
    p->tensors[QNTI_PART_COUNTS] = (struct qnti_tensor_source){"x.counts", "U64", 1, {4}, NULL, NULL, p->counts};
    p->tensors[QNTI_PART_MOMENTS] = (struct qnti_tensor_source){"x.moments", "F64", 2, {3, 2}, NULL, NULL, p->moments};
    p->tensors[QNTI_PART_RANGE] = (struct qnti_tensor_source){"x.range", "F32", 2, {2, 2}, NULL, NULL, p->range};
    p->tensors[QNTI_PART_HESSIAN] = (struct qnti_tensor_source){"x.hessian", "F64", 1, {3}, NULL, NULL, p->hessian};
    p->tensors[QNTI_PART_CROSS] = (struct qnti_tensor_source){"x.cross", "F64", 2, {2, 2}, NULL, NULL, p->cross};
    p->tensors[QNTI_PART_SAMPLES] = (struct qnti_tensor_source){"x.samples", "F32", 2, {2, 2}, NULL, NULL, p->samples};
    p->tensors[QNTI_PART_IMPORTANCE] =
        (struct qnti_tensor_source){"x.importance", "F32", 1, {2}, NULL, NULL, p->importance};
}

static qnt_status load_parts(qnt_context *ctx, const struct parts *p)
{
    const char *metadata[] = {"quant_format", p->format};
    qnt_calib_file *file;
    qnt_calib *calib = NULL;
    qnt_status status;
    assert_ok(ctx, qnti_safetensors_write(ctx, path, p->tensors, p->count, metadata, p->format != NULL));
    status = qnt_calib_file_open(ctx, path, &file);
    if (status == QNT_OK)
        status = qnt_calib_load(file, "x", &calib);
    assert_int_equal(status == QNT_OK, calib != NULL);
    qnt_calib_destroy(calib);
    qnt_calib_file_close(file);
    return status;
}

#define DAMAGE(name, ...)                       \
    static void damage_##name(struct parts *p)  \
    {                                           \
        __VA_ARGS__;                            \
    }

DAMAGE(format, p->format = "native")
DAMAGE(no_format, p->format = NULL)
DAMAGE(stranger, p->tensors[p->count++] = (struct qnti_tensor_source){"other", "F32", 1, {2}, NULL, NULL, p->range})
DAMAGE(hessian_missing, p->tensors[QNTI_PART_HESSIAN] = p->tensors[--p->count])
DAMAGE(range_missing, p->tensors[QNTI_PART_RANGE] = p->tensors[--p->count])
DAMAGE(no_need, p->counts[2] &= ~(uint64_t)QNTI_NEED_PAIRS)
DAMAGE(unknown_need, p->counts[2] |= 1u << 20)
DAMAGE(stride, p->counts[3] = 0)
DAMAGE(tokens, p->counts[0] = UINT64_MAX)
DAMAGE(skipped, p->counts[1] = UINT64_MAX)
DAMAGE(few_tokens, p->counts[0] = 1)
DAMAGE(counts_type, p->tensors[QNTI_PART_COUNTS].dtype = "I64")
DAMAGE(counts_shape, p->tensors[QNTI_PART_COUNTS].shape[0] = 3)
DAMAGE(moments_shape, p->tensors[QNTI_PART_MOMENTS].shape[0] = 2)
DAMAGE(moments_rank, p->tensors[QNTI_PART_MOMENTS].rank = 1)
DAMAGE(no_channels, p->tensors[QNTI_PART_MOMENTS].shape[1] = 0)
DAMAGE(one_channel, p->tensors[QNTI_PART_MOMENTS].shape[1] = 1)
DAMAGE(hessian_shape, p->tensors[QNTI_PART_HESSIAN].shape[0] = 2)
DAMAGE(hessian_type, p->tensors[QNTI_PART_HESSIAN].dtype = "I64")
DAMAGE(cross_shape, p->tensors[QNTI_PART_CROSS].shape[1] = 1)
DAMAGE(samples_shape, p->tensors[QNTI_PART_SAMPLES].shape[1] = 1)
DAMAGE(importance_shape, p->tensors[QNTI_PART_IMPORTANCE].shape[0] = 1)
DAMAGE(sum, p->moments[1] = INFINITY)
DAMAGE(negative_square, p->moments[5] = -1)
DAMAGE(range, p->range[0] = 3)
DAMAGE(range_nan, p->range[3] = NAN)
DAMAGE(hessian_nan, p->hessian[1] = NAN)
DAMAGE(hessian_diagonal, p->hessian[2] = -1)
DAMAGE(cross_infinite, p->cross[3] = INFINITY)
DAMAGE(sample_nan, p->samples[2] = NAN)
DAMAGE(importance_negative, p->importance[1] = -1)
DAMAGE(importance_nan, p->importance[0] = NAN)

static const struct {
    void (*damage)(struct parts *p);
    const char *says;
} damages[] = {
    {damage_format, "native"}, {damage_no_format, "missing"}, {damage_stranger, "other"},
    {damage_hessian_missing, "x.hessian is missing"}, {damage_range_missing, "x.range is missing"},
    {damage_no_need, "x.cross is there"}, {damage_unknown_need, "gathered"}, {damage_stride, "stride 0"},
    {damage_tokens, "18446744073709551615 tokens"}, {damage_skipped, "left out"}, {damage_few_tokens, "2 samples"},
    {damage_counts_type, "x.counts"}, {damage_counts_shape, "x.counts"}, {damage_moments_shape, "x.moments"},
    {damage_moments_rank, "0 channels"}, {damage_no_channels, "0 channels"}, {damage_one_channel, "1 channels"},
    {damage_hessian_shape, "x.hessian"}, {damage_hessian_type, "x.hessian"}, {damage_cross_shape, "x.cross"},
    {damage_samples_shape, "x.samples"}, {damage_importance_shape, "x.importance"}, {damage_sum, "number 1 is inf"},
    {damage_negative_square, "number 5 is -1"}, {damage_range, "number 0 is 3"}, {damage_range_nan, "x.range"},
    {damage_hessian_nan, "x.hessian"}, {damage_hessian_diagonal, "number 2 is -1"}, {damage_cross_infinite, "x.cross"},
    {damage_sample_nan, "x.samples"}, {damage_importance_negative, "channel 1 is -1"},
    {damage_importance_nan, "channel 0"},
};

static void test_damages(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    struct parts p;
    (void)state;
    make_parts(&p);
    assert_ok(ctx, load_parts(ctx, &p));
    for (size_t i = 0; i < COUNT(damages); i++) {
        make_parts(&p);
        damages[i].damage(&p);
        assert_fails(ctx, load_parts(ctx, &p), QNT_BAD_DATA, damages[i].says);
        assert_message_has(ctx, path);
        assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    }
    unlink(path);
    destroy_context(ctx, held);
}

/* Every file that is cut, or has a byte changed, is refused or read; nothing else happens. */
static void test_bytes(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL), n;
    struct parts p;
    char *bytes;
    struct qnti_random random;
    (void)state;
    make_parts(&p);
    assert_ok(ctx, load_parts(ctx, &p));
    assert_ok(ctx, qnti_read_file(ctx, path, 1 << 20, &bytes, &n));
    qnti_random_seed(&random, 1);
    for (size_t i = 0; i < 2000; i++) {
        size_t at = random_below(&random, n);
        char was = bytes[at];
        qnt_calib_file *file;
        qnt_calib *calib = NULL;
        bytes[at] = (char)random_below(&random, 256);
        put_file(path, bytes, i % 10 ? n : at);
        if (qnt_calib_file_open(ctx, path, &file) == QNT_OK)
            qnt_calib_load(file, "x", &calib);
        qnt_calib_destroy(calib);
        qnt_calib_file_close(file);
        bytes[at] = was;
    }
    qnti_free(ctx, bytes);
    unlink(path);
    destroy_context(ctx, held);
}

/* --- no memory --- */

static qnt_status save_and_load(qnt_context *ctx, void *arg)
{
    struct qnti_calib_writer *writer = NULL;
    qnt_calib_file *file = NULL;
    qnt_calib *a = NULL, *b = NULL;
    float *x = random_tokens(6, 5, 1);
    qnt_status status;
    (void)arg;
    QNT_CHECK(qnti_calib_create(ctx, EVERYTHING, 5, &a));
    QNT_CHECK(qnti_calib_add_f32(a, x, x, 6));
    QNT_CHECK(qnti_calib_writer_create(ctx, path, &writer));
    QNT_CHECK(qnti_calib_writer_add(writer, "a", a));
    QNT_CHECK(qnti_calib_writer_add(writer, "b", a));
    status = qnti_calib_writer_commit(writer, NULL, 0);
    writer = NULL;
    QNT_CHECK(status);
    QNT_CHECK(qnt_calib_save(ctx, path, &(qnt_named_calib){"a", a}, 1));
    QNT_CHECK(qnt_calib_file_open(ctx, path, &file));
    QNT_CHECK(qnt_calib_load(file, "a", &b));
cleanup:
    qnti_calib_writer_discard(writer);
    qnt_calib_file_close(file);
    qnt_calib_destroy(a);
    qnt_calib_destroy(b);
    unlink(path);
    assert_false(qnti_path_exists(folder));
    free(x);
    return status;
}

static void test_no_memory(void **state)
{
    (void)state;
    each_allocation_fails(save_and_load, NULL);
}

/* What it would have measured of x / s. */
static void test_rescale(void **state)
{
    enum { IN = 30, TOKENS = 40 };
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    float *x = random_tokens(TOKENS, IN, 1), scale[IN];
    qnt_calib *a = new_calib(ctx, QNTI_NEED_HESSIAN | QNTI_NEED_SAMPLES, IN, 0, 0);
    qnt_calib *b = new_calib(ctx, a->needs, IN, 0, 0);
    (void)state;
    for (size_t i = 0; i < IN; i++)
        scale[i] = ldexpf(1, (int)(i % 5) - 2); /* exact */
    assert_ok(ctx, qnti_calib_add_f32(a, x, NULL, TOKENS));
    for (size_t i = 0; i < TOKENS * IN; i++)
        x[i] /= scale[i % IN];
    assert_ok(ctx, qnti_calib_add_f32(b, x, NULL, TOKENS));
    assert_ok(ctx, qnti_calib_rescale(a, scale));
    compare(a, b, 1e-14);
    qnt_calib_destroy(a);
    qnt_calib_destroy(b);
    free(x);
    destroy_context(ctx, held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_comes_back),
        cmocka_unit_test(test_a_loaded_calibration_quantizes),
        cmocka_unit_test(test_merged_files_are_one_run),
        cmocka_unit_test(test_sites_have_names),
        cmocka_unit_test(test_writer),
        cmocka_unit_test(test_damages),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_rescale),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
