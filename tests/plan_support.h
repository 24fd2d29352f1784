/*
 * plan_support.h - runs of plans on small models whose weights a test sets, and what their reports say.
 */
#ifndef PLAN_SUPPORT_H
#define PLAN_SUPPORT_H

#include "damage_support.h"

#include <jansson.h>
#include <math.h>

#define PLAIN {"LlamaForCausalLM", "F32", 64, 96, 2, 4, 2, 40, .bias = false}
#define LAYER0 "model.layers.0."
#define LAYER1 "model.layers.1."

enum { TOKENS = 32 };

static const qnt_quantize_options by_gptq = {.method = "gptq", .format = "gguf:q4_0", .output = "out/o",
                                             .calibration = "ids.npy", .samples = 2, .seqlen = 16};

/* --- runs --- */

struct session {
    qnt_context *ctx;
    qnt_model *model;
    qnt_plan *plan;
    char log[4096];
};

static inline void begin(struct session *s, const qnt_context_options *host, const qnt_quantize_options *options)
{
    qnt_context_options with_log = host ? *host : (qnt_context_options){.threads = 2};
    with_log.log = keep_log;
    with_log.log_user = s->log;
    with_log.blas_one_thread = true;
    s->log[0] = 0;
    assert_int_equal(qnt_context_create(&with_log, &s->ctx), QNT_OK);
    if (qnt_model_open(s->ctx, "model", &s->model) != QNT_OK ||
        qnt_plan_create(s->model, options, &s->plan) != QNT_OK)
        fail_msg("%s", qnt_context_message(s->ctx));
}

static inline json_t *run(struct session *s)
{
    const char *text;
    json_t *report;
    if (qnt_plan_run(s->plan) != QNT_OK)
        fail_msg("%s", qnt_context_message(s->ctx));
    assert_int_equal(qnt_plan_report(s->plan, &text), QNT_OK);
    report = json_loads(text, 0, NULL);
    assert_non_null(report);
    return report;
}

static inline void end(struct session *s)
{
    qnt_plan_destroy(s->plan);
    qnt_model_close(s->model);
    qnt_context_destroy(s->ctx);
}

static inline json_t *report_of(const qnt_quantize_options *options)
{
    struct session s;
    json_t *report;
    begin(&s, NULL, options);
    report = run(&s);
    end(&s);
    return report;
}

/* The status of a run that may fail; its message has `part` then. */
static inline qnt_status status_of(const qnt_quantize_options *options, const char *part)
{
    const qnt_context_options host = {.threads = 2, .blas_one_thread = true};
    qnt_context *ctx;
    qnt_model *model;
    qnt_plan *plan;
    qnt_status status;
    assert_int_equal(qnt_context_create(&host, &ctx), QNT_OK);
    assert_int_equal(qnt_model_open(ctx, "model", &model), QNT_OK);
    status = qnt_plan_create(model, options, &plan);
    if (status == QNT_OK)
        status = qnt_plan_run(plan);
    if (status != QNT_OK)
        assert_message_has(ctx, part);
    qnt_plan_destroy(plan);
    qnt_model_close(model);
    qnt_context_destroy(ctx);
    return status;
}

static const json_t *tensor_of(const json_t *report, const char *name)
{
    const json_t *tensor;
    size_t i;
    json_array_foreach(json_object_get(report, "tensors"), i, tensor)
        if (strcmp(json_string_value(json_object_get(tensor, "tensor")), name) == 0)
            return tensor;
    fail_msg("the report has no %s", name);
    return NULL;
}

static inline long long figure(const json_t *report, const char *tensor, const char *key)
{
    return json_integer_value(json_object_get(tensor_of(report, tensor), key));
}

/* The tensor's warning in the report, which the list of all warnings has too; "" if there is none. */
static const char *warning_of(const json_t *report, const char *name)
{
    const char *warning = json_string_value(json_object_get(tensor_of(report, name), "warnings"));
    const json_t *one;
    size_t i;
    bool listed = !warning;
    json_array_foreach(json_object_get(report, "warnings"), i, one)
        listed |= strncmp(json_string_value(one), name, strlen(name)) == 0;
    assert_true(listed);
    return warning ? warning : "";
}

static inline void assert_warned(const json_t *report, const char *name, const char *part)
{
    if (!strstr(warning_of(report, name), part))
        fail_msg("the warning of %s is \"%s\", without \"%s\"", name, warning_of(report, name), part);
}

/* --- models --- */

static inline void make(const struct shape *shape)
{
    make_model(shape);
    put_ids("ids.npy", TOKENS);
    assert_int_equal(mkdir("out", 0777), 0);
}

static inline void make_plain(void)
{
    static const struct shape plain = PLAIN;
    make(&plain);
}

/* Behind each test, also one that failed. */
static inline int unmake(void **state)
{
    static const char *const all[] = {"out", "model", "ids.npy", "scales.safetensors"};
    (void)state;
    for (size_t i = 0; i < COUNT(all); i++)
        if (access(all[i], F_OK) == 0)
            remove_tree(all[i]);
    return 0;
}

#define TEST(name) cmocka_unit_test_teardown(name, unmake)

/* `n` numbers of a tensor, `stride` apart, become `value`. */
static inline void set_numbers(const char *tensor, size_t first, size_t stride, size_t n, float value)
{
    struct file_image image = read_image("model", "model.safetensors");
    size_t at = data_place(&image, tensor);
    for (size_t i = 0; i < n; i++)
        memcpy(image.bytes + at + 4 * (first + i * stride), &value, sizeof value);
    repair(&image);
    free(image.bytes);
}

/* --- what is lost --- */

static inline qnt_context *quiet(void)
{
    const qnt_context_options host = {.threads = 2, .blas_one_thread = true};
    qnt_context *ctx;
    assert_int_equal(qnt_context_create(&host, &ctx), QNT_OK);
    return ctx;
}

/* KL divergence of what lies at `path` to the folder "model". */
static inline double kl_of(const char *path)
{
    qnt_context *ctx = quiet();
    qnt_model *model, *against;
    qnt_eval_options options = {.text = "ids.npy", .ctx = 16};
    qnt_eval_result result = {0};
    assert_int_equal(qnt_model_open(ctx, "model", &against), QNT_OK);
    if (qnt_model_open(ctx, path, &model) != QNT_OK)
        fail_msg("%s", qnt_context_message(ctx));
    options.against = against;
    if (qnt_evaluate(model, &options, &result) != QNT_OK)
        fail_msg("%s", qnt_context_message(ctx));
    qnt_model_close(model);
    qnt_model_close(against);
    qnt_context_destroy(ctx);
    return result.mean_kl;
}

#endif
