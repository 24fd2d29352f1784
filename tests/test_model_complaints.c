/*
 * test_model_complaints.c - what users of other quantizers complain about in a run, a test for each theme that names
 * it: Hessians, NaN, memory, resuming, reproducing, processors, estimates.
 *
 * Models are of a few thousand weights; what other tests go into deeply is only shown here to hold from end to end.
 */
#include "plan_support.h"

/* --- Hessian not positive definite --- */

/* A site that sees zeros only: round to nearest, and the report says so; the others are as they should be. */
static void hessian_not_positive_definite_is_rounded_and_reported(void **state)
{
    json_t *report;
    (void)state;
    make_plain();
    set_numbers(LAYER0 "post_attention_layernorm.weight", 0, 1, 64, 0);
    report = report_of(&by_gptq);
    assert_warned(report, LAYER0 "mlp.gate_proj.weight", "rounded to nearest: ");
    assert_warned(report, LAYER0 "mlp.up_proj.weight", "rounded to nearest: ");
    assert_string_equal(warning_of(report, LAYER0 "self_attn.q_proj.weight"), "");
    assert_true(json_real_value(json_object_get(tensor_of(report, LAYER0 "self_attn.q_proj.weight"), "damping")) > 0);
    json_decref(report);
}

/* Six tokens for 64 channels and no damping: the ladder finds the least that does, and the report says which. */
static void hessian_not_positive_definite_is_damped_and_reported(void **state)
{
    static const char *const settings[] = {"damp=0", "shrinkage=0"};
    qnt_quantize_options options = by_gptq;
    json_t *report;
    (void)state;
    make_plain();
    options.seqlen = 3;
    options.settings = settings;
    options.setting_count = COUNT(settings);
    report = report_of(&options);
    assert_warned(report, LAYER0 "self_attn.q_proj.weight", "damping raised from 0 to 0.01");
    assert_true(json_real_value(json_object_get(tensor_of(report, LAYER0 "self_attn.q_proj.weight"), "damping")) > 0);
    json_decref(report);
}

/* --- NaN or garbage output --- */

static const char *const down_and_q[] = {"*.down_proj.weight", "*.q_proj.weight"};

/*
 * Channel 0 overflows in the mlp of the tokens that have it: number 7, or all. Only down_and_q are quantized.
 */
static qnt_quantize_options overflowing(bool all)
{
    static const struct shape one_block = {"LlamaForCausalLM", "F32", 64, 96, 1, 4, 2, 40, .bias = false};
    static const char *const settings[] = {"group_size=32"};
    qnt_quantize_options options = by_gptq;
    make(&one_block);
    set_numbers("model.embed_tokens.weight", 0, 64, 40, all ? 1 : 0);
    set_numbers("model.embed_tokens.weight", 7 * 64, 1, 1, 1);
    set_numbers(LAYER0 "self_attn.o_proj.weight", 0, 1, 64, 0);
    set_numbers(LAYER0 "post_attention_layernorm.weight", 0, 1, 1, 1);
    set_numbers(LAYER0 "mlp.gate_proj.weight", 0, 64, 96, 1e20f);
    set_numbers(LAYER0 "mlp.up_proj.weight", 0, 64, 96, 1e20f);
    options.format = "native";
    options.include = down_and_q;
    options.include_count = COUNT(down_and_q);
    options.settings = settings;
    options.setting_count = 1;
    options.no_verify = true; /* the model itself gives no finite logits */
    return options;
}

static void nan_activations_are_left_out_and_counted(void **state)
{
    qnt_quantize_options options = overflowing(false);
    json_t *report = report_of(&options);
    long long own = 0;
    (void)state;
    for (size_t i = 0; i < TOKENS; i++)
        own += (i * 7 + i / 5) % 40 == 7; /* as put_ids has it */
    assert_true(own > 0);
    assert_int_equal(figure(report, LAYER0 "mlp.down_proj.weight", "skipped_tokens"), own);
    assert_int_equal(figure(report, LAYER0 "mlp.down_proj.weight", "tokens"), TOKENS - own);
    assert_warned(report, LAYER0 "mlp.down_proj.weight", "calibration tokens were not finite and left out");
    assert_int_equal(figure(report, LAYER0 "self_attn.q_proj.weight", "skipped_tokens"), 0);
    json_decref(report);
}

static void nan_activations_only_leave_round_to_nearest(void **state)
{
    qnt_quantize_options options = overflowing(true);
    json_t *report = report_of(&options);
    (void)state;
    assert_int_equal(figure(report, LAYER0 "mlp.down_proj.weight", "skipped_tokens"), TOKENS);
    assert_int_equal(figure(report, LAYER0 "mlp.down_proj.weight", "tokens"), 0);
    assert_warned(report, LAYER0 "mlp.down_proj.weight", "rounded to nearest: ");
    json_decref(report);
}

/* Channels that no token ever moves are counted, and their weights do not become NaN. */
static void nan_of_channels_without_tokens(void **state)
{
    json_t *report;
    (void)state;
    make_plain();
    set_numbers(LAYER1 "input_layernorm.weight", 5, 7, 2, 0);
    report = report_of(&by_gptq);
    assert_int_equal(figure(report, LAYER0 "self_attn.k_proj.weight", "dead_columns"), 0);
    assert_int_equal(figure(report, LAYER1 "self_attn.k_proj.weight", "dead_columns"), 2);
    assert_true(json_real_value(json_object_get(json_object_get(report, "verify"), "perplexity")) > 1);
    json_decref(report);
}

static void nan_weights_are_named_before_anything_is_done(void **state)
{
    (void)state;
    make_plain();
    set_numbers(LAYER1 "mlp.up_proj.weight", 64 * 3 + 2, 1, 1, NAN);
    assert_int_equal(status_of(&by_gptq, LAYER1 "mlp.up_proj.weight: 1 of 6144 numbers are not finite"),
                     QNT_NON_FINITE);
}

/* The file is held against the source before it is called good: more bits are nearer. */
static void garbage_output_is_seen_by_the_end_check(void **state)
{
    static const char *const formats[] = {"gguf:q8_0", "gguf:q4_0"};
    double kl[2];
    (void)state;
    make_plain();
    for (size_t i = 0; i < 2; i++) {
        qnt_quantize_options options = by_gptq;
        const json_t *verify;
        json_t *report;
        options.format = formats[i];
        options.force = true;
        report = report_of(&options);
        verify = json_object_get(report, "verify");
        kl[i] = json_real_value(json_object_get(verify, "mean_kl"));
        assert_true(json_integer_value(json_object_get(verify, "windows")) > 0);
        assert_true(json_is_real(json_object_get(tensor_of(report, LAYER1 "mlp.down_proj.weight"), "output_error")));
        json_decref(report);
    }
    assert_true(kl[0] < 1e-3 && kl[1] < 0.2 && kl[0] < kl[1]);
}

/* --- out of host memory, out of memory when saving --- */

static void out_of_host_memory_is_foretold_and_bounded(void **state)
{
    qnt_quantize_options options = by_gptq;
    qnt_plan_totals totals;
    struct session s;
    char least[32];
    size_t peak;
    (void)state;
    make_plain();
    begin(&s, NULL, &options);
    qnt_plan_get_totals(s.plan, &totals);
    json_decref(run(&s));
    qnt_context_bytes(s.ctx, &peak);
    assert_true(peak <= totals.memory_bytes && totals.least_memory_bytes <= totals.memory_bytes);
    end(&s);
    options.max_ram = totals.least_memory_bytes - 1;
    snprintf(least, sizeof least, "%llu", (unsigned long long)totals.least_memory_bytes);
    assert_int_equal(status_of(&options, least), QNT_INVALID);
    assert_int_equal(status_of(&options, "max_ram"), QNT_INVALID);
    options.max_ram++;
    options.force = true;
    assert_int_equal(status_of(&options, ""), QNT_OK);
}

struct saving {
    qnt_context *ctx;
    size_t held, peak;
};

/* From the phase "write" on only what it takes is counted. */
static void watch_saving(void *user, const qnt_progress *progress)
{
    struct saving *saving = user;
    if (strcmp(progress->phase, "write") != 0)
        return;
    if (!saving->held) {
        qnt_context_reset_peak(saving->ctx);
        saving->held = qnt_context_bytes(saving->ctx, NULL);
    }
    qnt_context_bytes(saving->ctx, &saving->peak);
}

/* What it takes to write a model of that many blocks. */
static size_t memory_to_save(size_t blocks, const char *format, uint64_t *output)
{
    struct shape shape = {"LlamaForCausalLM", "F32", 256, 256, 0, 4, 4, 40, .bias = false};
    struct saving saving = {.held = 0};
    qnt_quantize_options options = {.method = "rtn", .format = format, .output = "out/o", .progress = watch_saving,
                                    .progress_user = &saving};
    qnt_plan_totals totals;
    struct session s;
    shape.blocks = blocks;
    make(&shape);
    begin(&s, NULL, &options);
    saving.ctx = s.ctx;
    qnt_plan_get_totals(s.plan, &totals);
    *output = totals.output_bytes;
    json_decref(run(&s));
    end(&s);
    unmake(NULL);
    assert_true(saving.held > 0);
    return saving.peak - saving.held;
}

/* Layers come from the work folder one by one: there is no second copy of the model, whatever its size. */
static void out_of_memory_when_saving(void **state)
{
    static const char *const formats[] = {"gguf:q8_0", "native"};
    (void)state;
    for (size_t i = 0; i < COUNT(formats); i++) {
        uint64_t small_output, large_output;
        size_t few = memory_to_save(1, formats[i], &small_output), many = memory_to_save(5, formats[i], &large_output);
        if (many > few + (large_output - small_output) / 4)
            fail_msg("%s: %zu bytes to write %llu, %zu to write %llu", formats[i], few,
                     (unsigned long long)small_output, many, (unsigned long long)large_output);
    }
}

/* --- no resume, not reproducible --- */

static bool first_block_is_there(void *user)
{
    struct stat info;
    (void)user;
    return stat("out/o.partial/block-00000.json", &info) == 0;
}

static void no_resume(void **state)
{
    const qnt_context_options host = {.threads = 1, .cancel = first_block_is_there};
    qnt_quantize_options options = by_gptq;
    qnt_plan_outcome outcome;
    struct session s;
    (void)state;
    make_plain();
    begin(&s, &host, &options);
    assert_int_equal(qnt_plan_run(s.plan), QNT_CANCELLED);
    assert_message_has(s.ctx, "1 of 2 blocks are finished and stay in out/o.partial");
    end(&s);
    begin(&s, NULL, &options);
    json_decref(run(&s));
    qnt_plan_get_outcome(s.plan, &outcome);
    assert_int_equal(outcome.resumed_blocks, 1);
    end(&s);
    options.output = "out/whole";
    json_decref(report_of(&options));
    assert_same_files("out/o", "out/whole");
}

/* The same bytes with any number of threads; nothing of the process's random state is touched. */
static void not_reproducible(void **state)
{
    static const char *const names[] = {"1", "2", "8"};
    int random;
    (void)state;
    make_plain();
    srand(5);
    random = rand();
    srand(5);
    for (size_t i = 0; i < COUNT(names); i++) {
        const qnt_context_options host = {.threads = atoi(names[i])};
        qnt_quantize_options options = by_gptq;
        char output[32];
        struct session s;
        snprintf(output, sizeof output, "out/%s", names[i]);
        options.output = output;
        options.random_windows = true;
        options.seed = 3;
        begin(&s, &host, &options);
        json_decref(run(&s));
        end(&s);
        assert_same_files("out/1", output);
    }
    assert_int_equal(rand(), random);
}

/* --- CPU only refused --- */

/* The plainest processor will do, to the same figures. */
static void cpu_only_is_enough(void **state)
{
    static const char *const kernels[] = {"scalar", ""};
    double perplexity[2];
    (void)state;
    make_plain();
    for (size_t i = 0; i < 2; i++) {
        qnt_quantize_options options = by_gptq;
        json_t *report;
        options.force = true;
        setenv("QUANT_KERNELS", kernels[i], kernels[i][0] != 0);
        if (i)
            unsetenv("QUANT_KERNELS");
        report = report_of(&options);
        perplexity[i] = json_real_value(json_object_get(json_object_get(report, "verify"), "perplexity"));
        json_decref(report);
    }
    assert_true(fabs(perplexity[0] / perplexity[1] - 1) < 1e-3);
}

/* --- takes too long, no estimate --- */

static void check_share(void *user, const qnt_progress *progress)
{
    double *last = user;
    assert_true(progress->share >= *last && progress->share <= 1);
    assert_true(progress->seconds >= 0 && progress->phase && progress->item);
    assert_true(progress->seconds_left >= 0 || progress->share <= 0.02);
    *last = progress->share;
}

static void takes_too_long_without_an_estimate(void **state)
{
    qnt_quantize_options options = by_gptq;
    qnt_plan_totals totals;
    struct session s;
    struct stat info;
    double share = 0;
    (void)state;
    make_plain();
    options.progress = check_share;
    options.progress_user = &share;
    begin(&s, NULL, &options);
    qnt_plan_get_totals(s.plan, &totals);
    assert_true(totals.flops > 2.0 * TOKENS * 2 * (64 * 64 * 3 + 3 * 64 * 96)); /* each linear once, at least */
    assert_true(totals.passes == 1 && totals.tokens == TOKENS);
    json_decref(run(&s));
    assert_true(share >= 1);
    assert_int_equal(stat("out/o", &info), 0);
    assert_int_equal(info.st_size, totals.output_bytes);
    assert_true(totals.disk_bytes >= totals.output_bytes);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hessian_not_positive_definite_is_rounded_and_reported),
        TEST(hessian_not_positive_definite_is_damped_and_reported),
        TEST(nan_activations_are_left_out_and_counted),
        TEST(nan_activations_only_leave_round_to_nearest),
        TEST(nan_of_channels_without_tokens),
        TEST(nan_weights_are_named_before_anything_is_done),
        TEST(garbage_output_is_seen_by_the_end_check),
        TEST(out_of_host_memory_is_foretold_and_bounded),
        TEST(out_of_memory_when_saving),
        TEST(no_resume),
        TEST(not_reproducible),
        TEST(cpu_only_is_enough),
        TEST(takes_too_long_without_an_estimate),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
