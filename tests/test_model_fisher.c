/*
 * test_model_fisher.c - Fisher information of a model by the reverse sweep: its numbers, its files, who needs it and
 * who does without, runs that end in it and go on.
 */
#include "plan_support.h"

#include "sweep/sweep.h"

static const qnt_quantize_options by_fisher = {.method = "squeezellm", .format = "native", .output = "out/o",
                                               .calibration = "ids.npy", .samples = 2, .seqlen = 16};

enum { WINDOWS = 2, WINDOW = 16, BLOCKS = 2 };

/* --- runs that stop --- */

struct stop {
    const char *phase;           /* from there on, */
    const char *file;            /* or once that is there */
    bool now;
};

static void watch(void *user, const qnt_progress *progress)
{
    struct stop *stop = user;
    stop->now = stop->now || (stop->phase && strcmp(progress->phase, stop->phase) == 0) ||
                (stop->file && access(stop->file, F_OK) == 0);
}

static bool must_stop(void *user)
{
    return ((struct stop *)user)->now;
}

/* Runs until then; the message says what is kept. */
static void run_until(const qnt_quantize_options *options, struct stop stop, int threads, const char *says)
{
    const qnt_context_options host = {.threads = threads, .cancel = must_stop, .cancel_user = &stop};
    qnt_quantize_options watched = *options;
    struct session s;
    watched.progress = watch;
    watched.progress_user = &stop;
    begin(&s, &host, &watched);
    assert_int_equal(qnt_plan_run(s.plan), QNT_CANCELLED);
    assert_message_has(s.ctx, says);
    end(&s);
}

static void run_whole(const qnt_quantize_options *options)
{
    json_decref(report_of(options));
}

enum { LINEARS = 7 };

/* --- the numbers --- */

struct sums {
    const struct qnti_checkpoint *model;
    size_t block;
    double *sum[BLOCKS][QNTI_ROLES];
};

static qnt_status add_squares(void *user, enum qnti_role role, size_t first, size_t rows, const float *gradient)
{
    struct sums *s = user;
    size_t cols = qnti_checkpoint_weight(s->model, s->block, role)->cols;
    for (size_t i = 0; i < rows * cols; i++)
        s->sum[s->block][role][first * cols + i] += (double)gradient[i] * (double)gradient[i] / WINDOWS;
    return QNT_OK;
}

static void window_backward(struct sums *s, const int32_t *ids)
{
    size_t n = WINDOW * s->model->config.hidden;
    const struct qnti_gradients wanted = {UINT32_MAX, add_squares, s};
    float *x[BLOCKS + 1], *dx = calloc(n, sizeof *dx);
    struct qnti_workspace *w;
    struct qnti_backward *b;
    struct qnti_loss *l;
    struct qnti_block block;
    double loss;
    assert_int_equal(qnti_workspace_create(s->model, WINDOW, &w), QNT_OK);
    assert_int_equal(qnti_backward_create(s->model, WINDOW, &b), QNT_OK);
    assert_int_equal(qnti_loss_create(s->model, &l), QNT_OK);
    for (size_t i = 0; i <= BLOCKS; i++)
        x[i] = calloc(n, sizeof **x);
    assert_int_equal(qnti_embed(s->model, ids, WINDOW, 0, x[0]), QNT_OK);
    for (size_t i = 0; i < BLOCKS; i++) {
        memcpy(x[i + 1], x[i], n * sizeof **x);
        assert_int_equal(qnti_block_load(s->model, i, &block), QNT_OK);
        assert_int_equal(qnti_block_forward(&block, w, x[i + 1], WINDOW), QNT_OK);
        qnti_block_free(&block);
    }
    assert_int_equal(qnti_loss_backward(l, x[BLOCKS], ids, WINDOW, &loss, dx), QNT_OK);
    for (s->block = BLOCKS; s->block-- > 0;) {
        assert_int_equal(qnti_block_load(s->model, s->block, &block), QNT_OK);
        assert_int_equal(qnti_block_backward(&block, w, b, x[s->block], WINDOW, &wanted, dx), QNT_OK);
        qnti_block_free(&block);
    }
    for (size_t i = 0; i <= BLOCKS; i++)
        free(x[i]);
    free(dx);
    qnti_loss_free(l);
    qnti_backward_free(b);
    qnti_workspace_free(w);
}

static void check_block(struct session *s, struct sums *sums, size_t block)
{
    struct qnti_safetensors *file;
    char path[64];
    snprintf(path, sizeof path, "out/o.partial/block-%05zu.fisher.safetensors", block);
    assert_int_equal(qnti_safetensors_open(s->ctx, path, &file), QNT_OK);
    assert_int_equal(file->count, LINEARS);
    for (enum qnti_role role = QNTI_ATTN_NORM; role < QNTI_ROLES; role++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(sums->model, block, role);
        const float *is = w ? qnti_fisher_of(file, w) : NULL;
        double most = 0;
        if (!w || !qnti_is_linear(role))
            continue;
        assert_non_null(is);
        for (size_t i = 0; i < w->rows * w->cols; i++)
            most = fmax(most, sums->sum[block][role][i]);
        assert_true(most > 0);
        for (size_t i = 0; i < w->rows * w->cols; i++)
            if (fabs((double)is[i] - sums->sum[block][role][i]) > 1e-6 * most)
                fail_msg("%s[%zu] is %g, expected %g", w->name, i, (double)is[i], sums->sum[block][role][i]);
    }
    qnti_safetensors_close(file);
}

/* Means over windows of squares of each window's gradient, not squares of their sum. */
static void mean_of_squares(void **state)
{
    struct session s;
    struct sums sums = {.block = 0};
    (void)state;
    make_plain();
    run_until(&by_fisher, (struct stop){.phase = "quantize"}, 2, "Fisher information of 2 of 2 blocks is finished");
    begin(&s, NULL, &by_fisher);
    sums.model = s.model->checkpoint;
    for (size_t i = 0; i < BLOCKS * QNTI_ROLES; i++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(sums.model, i % BLOCKS, (enum qnti_role)(i / BLOCKS));
        sums.sum[i % BLOCKS][i / BLOCKS] = calloc(w ? w->rows * w->cols : 1, sizeof(double));
        assert_non_null(sums.sum[i % BLOCKS][i / BLOCKS]);
    }
    for (size_t w = 0; w < WINDOWS; w++)
        window_backward(&sums, s.plan->windows.ids + w * WINDOW);
    for (size_t b = 0; b < BLOCKS; b++)
        check_block(&s, &sums, b);
    for (size_t i = 0; i < BLOCKS * QNTI_ROLES; i++)
        free(sums.sum[i % BLOCKS][i / BLOCKS]);
    end(&s);
}

/* --- the same bytes --- */

static struct file_image output_of(const char *folder)
{
    return read_image(folder, "model.safetensors");
}

static void assert_same(const struct file_image *a, const struct file_image *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->bytes, b->bytes, a->n);
}

static void run_again(const qnt_quantize_options *options, const struct file_image *whole)
{
    struct file_image again;
    run_whole(options);
    assert_int_equal(access("out/o.partial", F_OK), -1);
    again = output_of("out/o");
    assert_same(whole, &again);
    free(again.bytes);
    remove_tree("out/o");
}

/* Ended behind the last block's file, behind all, with one of them damaged, gone, or another's; in little memory. */
static void goes_on(void **state)
{
    static const char *const last = "out/o.partial/block-00001.fisher.safetensors",
                            *const first = "out/o.partial/block-00000.fisher.safetensors";
    const char *const files[] = {last, first};
    qnt_quantize_options options = by_fisher;
    struct file_image whole, broken;
    struct session s;
    (void)state;
    make_plain();
    run_whole(&by_fisher);
    whole = output_of("out/o");
    remove_tree("out/o");
    run_until(&by_fisher, (struct stop){.file = last}, 1, "Fisher information of 1 of 2 blocks is finished");
    assert_int_equal(access(first, F_OK), -1);
    run_again(&by_fisher, &whole);
    for (size_t i = 0; i < 2; i++) {
        run_until(&by_fisher, (struct stop){.phase = "quantize"}, 3, "Fisher information of 2 of 2 blocks");
        broken = read_image(".", files[i]);
        broken.bytes[broken.n - 5] ^= 1;
        repair(&broken);
        free(broken.bytes);
        run_again(&by_fisher, &whole);
    }
    run_until(&by_fisher, (struct stop){.phase = "quantize"}, 3, "Fisher information of 2 of 2 blocks");
    assert_int_equal(unlink(first), 0);
    run_again(&by_fisher, &whole);
    begin(&s, NULL, &options);
    s.plan->spills = true;
    json_decref(run(&s));
    end(&s);
    broken = output_of("out/o");
    assert_same(&whole, &broken);
    free(broken.bytes);
    remove_tree("out/o");
    run_until(&by_fisher, (struct stop){.phase = "quantize"}, 1, "the same command goes on");
    options.settings = (const char *const[]){"bits=2"};
    options.setting_count = 1;
    assert_int_equal(status_of(&options, "squeezellm.bits was 3, is 2"), QNT_EXISTS);
    free(whole.bytes);
}

/* --- who needs it --- */

static void totals_of(const qnt_quantize_options *options, qnt_plan_totals *totals)
{
    struct session s;
    begin(&s, NULL, options);
    qnt_plan_get_totals(s.plan, totals);
    end(&s);
}

/* Only where a layer asks for it; without a pass over the quantized model where all do. */
static void passes(void **state)
{
    qnt_quantize_options options = by_fisher;
    const char *const uniform[] = {"weighting=uniform"}, *const one[] = {"*.1.mlp.up_proj.weight:weighting=fisher"};
    qnt_plan_totals all, none, some;
    struct qnti_safetensors *file;
    struct session s;
    size_t first;
    (void)state;
    make_plain();
    totals_of(&options, &all);
    assert_int_equal(all.passes, 2);
    options.settings = uniform;
    options.setting_count = 1;
    totals_of(&options, &none);
    assert_int_equal(none.passes, 1);
    options.layers = one;
    options.layer_count = 1;
    totals_of(&options, &some);
    assert_int_equal(some.passes, 3);
    assert_true(none.disk_bytes < some.disk_bytes && some.disk_bytes < all.disk_bytes);
    run_until(&options, (struct stop){.phase = "quantize"}, 1, "Fisher information of 1 of 2 blocks");
    assert_int_equal(access("out/o.partial/block-00000.fisher.safetensors", F_OK), -1);
    begin(&s, NULL, &options);
    assert_true(qnti_plan_needs_fisher(s.plan, &first) && first == 1);
    assert_int_equal(qnti_safetensors_open(s.ctx, "out/o.partial/block-00001.fisher.safetensors", &file), QNT_OK);
    assert_int_equal(file->count, 1);
    assert_string_equal(file->tensors[0].name, LAYER1 "mlp.up_proj.weight");
    qnti_safetensors_close(file);
    end(&s);
    run_whole(&options);
}

static void refusals(void **state)
{
    qnt_quantize_options options = {.method = "squeezellm", .format = "native", .output = "out/o"};
    const char *const one[] = {"*.1.mlp.up_proj.weight:weighting=fisher"};
    const qnt_measure_options measure = {.calibration = "ids.npy", .output = "out/s.safetensors", .samples = 2,
                                         .seqlen = 16};
    const qnt_measure_options matrix = {.calibration = "ids.npy", .output = "out/m.gguf", .samples = 2, .seqlen = 16};
    qnt_measure_options needs = measure;
    qnt_measure_result result;
    struct session s;
    (void)state;
    make_plain();
    begin(&s, NULL, &by_fisher);
    assert_int_equal(qnt_model_measure(s.model, &measure, &result), QNT_OK);
    assert_int_equal(qnt_model_measure(s.model, &matrix, &result), QNT_OK);
    needs.method = "squeezellm";
    needs.force = true;
    assert_int_equal(qnt_model_measure(s.model, &needs, &result), QNT_INVALID);
    assert_message_has(s.ctx, "Fisher information");
    end(&s);
    assert_int_equal(status_of(&options, "needs the Fisher information of a calibration text"), QNT_INVALID);
    options.importance = "out/m.gguf";
    assert_int_equal(status_of(&options, "weighting=importance, for which --imatrix will do"), QNT_INVALID);
    options.method = "squeezellm:weighting=importance";
    run_whole(&options);
    remove_tree("out/o");
    options.layers = one;
    options.layer_count = 1;
    assert_int_equal(status_of(&options, LAYER1 "mlp.up_proj.weight: method squeezellm:weighting=fisher needs the "
                                         "Fisher information"), QNT_INVALID);
    options = (qnt_quantize_options){.method = "squeezellm", .format = "native", .output = "out/o",
                                     .calibration = "out/s.safetensors"};
    assert_int_equal(status_of(&options, "statistics of inputs do not have"), QNT_INVALID);
    options.method = "squeezellm:weighting=importance";
    run_whole(&options);
    options.method = "squeezellm:weighting=importance";
    options.calibration = NULL;
    assert_int_equal(status_of(&options, "needs calibration text"), QNT_INVALID);
}

/* Activations that overflow give no gradient: their windows are left out, the layers are weighed alike. */
static void not_finite(void **state)
{
    struct session s;
    (void)state;
    make_plain();
    set_numbers(LAYER1 "mlp.up_proj.weight", 0, 1, 64 * 96, 3e37f);
    set_numbers(LAYER1 "mlp.down_proj.weight", 0, 1, 64, 3e37f);
    begin(&s, NULL, &(qnt_quantize_options){.method = "squeezellm", .format = "native", .output = "out/o",
                                            .calibration = "ids.npy", .samples = 2, .seqlen = 16, .no_verify = true,
                                            .exclude = (const char *const[]){"*.1.*"}, .exclude_count = 1});
    json_decref(run(&s));
    if (!strstr(s.log, "2 of 2 calibration windows gave no finite gradient"))
        fail_msg("the log is %s", s.log);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(mean_of_squares), TEST(goes_on), TEST(passes), TEST(refusals), TEST(not_finite),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
