/*
 * test_model_reorder.c - Atom and RPTQ on whole models: orders fold into the rows of linears, stay at run time behind
 * norms, and change nothing; caches come along; what does not fit is said. Other families: test_model_families.c.
 */
#include "plan_support.h"

#include "checkpoint/checkpoint.h"
#include "qlinear/qlinear.h"

static const qnt_quantize_options usual = {.format = "native", .output = "out/o", .calibration = "ids.npy",
                                           .samples = 2, .seqlen = 16};

static qnt_quantize_options by(const char *method)
{
    qnt_quantize_options options = usual;
    options.method = method;
    return options;
}

/* Which of q, o, gate and down are permuted at run time; bits of the inputs' (first) grids. */
static void look(size_t block, bool permuted[4], unsigned bits[4])
{
    static const enum qnti_role roles[] = {QNTI_Q, QNTI_O, QNTI_GATE, QNTI_DOWN};
    qnt_context *ctx = quiet();
    struct qnti_checkpoint *c;
    assert_int_equal(qnti_checkpoint_open(ctx, "out/o", &c), QNT_OK);
    for (size_t i = 0; i < 4; i++) {
        const qnt_qlinear *q = qnti_checkpoint_weight(c, block, roles[i])->qlinear;
        const struct qnti_actquant *act = q->act ? q->act : q->segments[0].act;
        permuted[i] = q->transform.permutation != NULL;
        bits[i] = act ? act->grid.bits : 0;
    }
    qnti_checkpoint_close(c);
    qnt_context_destroy(ctx);
}

/* Grouped-query attention, biases, linears that stay float: sixteen bits lose next to nothing. */
static void test_same_function(void **state)
{
    static const char *const none[] = {"*v_proj*", "*up_proj*", "*gate_proj*", "*o_proj*"};
    (void)state;
    for (int biased = 0; biased < 2; biased++) {
        struct shape shape = PLAIN;
        qnt_quantize_options options = by("rptq:bits=16,act_bits=16,clusters=9,head_clusters=3,weight_method=rtn");
        bool permuted[4];
        unsigned bits[4];
        shape.bias = biased;
        make(&shape);
        json_decref(report_of(&options));
        look(1, permuted, bits);
        assert_true(permuted[0] && !permuted[1] && permuted[2] && !permuted[3]);
        assert_true(kl_of("out/o") < 1e-6);
        options.exclude = none;
        options.exclude_count = COUNT(none);
        options.output = "out/some";
        json_decref(report_of(&options));
        assert_true(kl_of("out/some") < 1e-6);
        unmake(NULL);
    }
}

/* Heads forbid Atom's order of o's input to fold into v; down's folds. The cache is the recipe's, or what is given. */
static void test_atom(void **state)
{
    qnt_quantize_options options = by("atom:keep_columns=8,group_size=16,act_group_size=16,kv_clip=0.5");
    bool permuted[4];
    unsigned bits[4];
    json_t *report;
    double kl, without;
    (void)state;
    make_plain();
    report = report_of(&options);
    assert_string_equal(json_string_value(json_object_get(json_object_get(report, "options"), "kv")),
                        "atom:bits=4,clip=0.5");
    json_decref(report);
    look(0, permuted, bits);
    assert_true(permuted[0] && permuted[1] && permuted[2] && !permuted[3]);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(bits[i], 4);
    kl = kl_of("out/o");
    options.method = "atom:keep_columns=8,group_size=16,act_group_size=16,kv_bits=16";
    options.output = "out/floats";
    report = report_of(&options);
    assert_true(json_is_null(json_object_get(json_object_get(report, "options"), "kv")));
    json_decref(report);
    without = kl_of("out/floats");
    assert_true(without < kl && isfinite(kl));
    options.kv = "quarot";
    options.output = "out/given";
    report = report_of(&options);
    assert_string_equal(json_string_value(json_object_get(json_object_get(report, "options"), "kv")), "quarot");
    json_decref(report);
}

/* What norms make keeps 8 bits; less where it is asked for. */
static void test_norm_bits(void **state)
{
    qnt_quantize_options options = by("rptq:clusters=6,head_clusters=2,act_bits=5");
    bool permuted[4];
    unsigned bits[4];
    (void)state;
    make_plain();
    json_decref(report_of(&options));
    look(1, permuted, bits);
    assert_true(bits[0] == 8 && bits[1] == 5 && bits[2] == 8 && bits[3] == 5);
    options.method = "rptq:clusters=6,head_clusters=2,act_bits=5,norm_bits=2,act_metric=ema_minmax,batch_tokens=16";
    options.force = true;
    json_decref(report_of(&options));
    look(1, permuted, bits);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(bits[i], 5);
}

/* A format that holds nothing to do at run time has the orders that fold; the others are left out, by name. */
static void test_left_out(void **state)
{
    qnt_quantize_options options = by("atom:keep_columns=0,channel_group=1,act_bits=16,bits=8,group_size=0");
    struct session s;
    (void)state;
    make_plain();
    options.format = "gptq";
    begin(&s, NULL, &options);
    json_decref(run(&s));
    assert_non_null(strstr(s.log, LAYER0 "self_attn.q_proj: the order of its input is left out"));
    assert_non_null(strstr(s.log, LAYER1 "self_attn.o_proj: the order of its input is left out"));
    assert_null(strstr(s.log, "down_proj"));
    end(&s);
    assert_true(kl_of("out/o") < 0.01);
}

static void test_refusals(void **state)
{
    qnt_quantize_options options = by("atom:keep_columns=64");
    (void)state;
    make_plain();
    assert_int_equal(status_of(&options, "keep_columns=64 leaves nothing of a layer of 64 inputs"), QNT_INVALID);
    options.method = "atom:keep_columns=8,gptq";
    assert_int_equal(status_of(&options, "quantized in 2 parts"), QNT_UNSUPPORTED);
    options.method = "atom:kv_bits=12";
    assert_int_equal(status_of(&options, "bits"), QNT_INVALID);
    options.method = "atom";
    options.format = "gguf:q4_0";
    assert_int_equal(status_of(&options, "segments with grids of their own"), QNT_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_same_function), TEST(test_atom), TEST(test_norm_bits), TEST(test_left_out), TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
