/*
 * test_model_scales.c - scales that were learned elsewhere: they stand where the recipe would have chosen others.
 */
#include "plan_support.h"

#include "checkpoint/model.h"
#include "qlinear/qlinear.h"

#define Q LAYER0 "self_attn.q_proj"
#define K LAYER0 "self_attn.k_proj"
#define V LAYER0 "self_attn.v_proj"
#define UP LAYER0 "mlp.up_proj"
#define DOWN LAYER1 "mlp.down_proj"

enum { OUT_OF_UP = 96, MOST = 8 };

static struct {
    qnt_tensor tensors[MOST];
    size_t count;
} scales;

static void put(const char *name, const char *dtype, size_t n, const void *data, size_t bytes)
{
    scales.tensors[scales.count++] = (qnt_tensor){.name = name, .dtype = dtype, .rank = 1, .shape = {n}, .data = data,
                                                  .bytes = bytes};
}

static void put_float(const char *name, const float *x)
{
    put(name, "F32", 1, x, sizeof *x);
}

static void write_scales(void)
{
    qnt_context *ctx;
    assert_int_equal(qnt_context_create(NULL, &ctx), QNT_OK);
    assert_int_equal(qnt_tensors_write(ctx, "scales.safetensors", scales.tensors, scales.count), QNT_OK);
    qnt_context_destroy(ctx);
    scales.count = 0;
}

static const qnt_quantize_options by_scales = {.method = "rtn:bits=8,act_bits=8", .format = "native",
                                               .output = "out/o", .scales = "scales.safetensors", .no_verify = true};

/* The model's and the output's, open beside each other. */
struct opened {
    qnt_context *ctx;
    qnt_model *before, *after;
};

static void open_both(struct opened *o)
{
    assert_int_equal(qnt_context_create(NULL, &o->ctx), QNT_OK);
    assert_int_equal(qnt_model_open(o->ctx, "model", &o->before), QNT_OK);
    assert_int_equal(qnt_model_open(o->ctx, "out/o", &o->after), QNT_OK);
}

static void close_both(struct opened *o)
{
    qnt_model_close(o->before);
    qnt_model_close(o->after);
    qnt_context_destroy(o->ctx);
}

static const qnt_qlinear *layer_of(const struct opened *o, size_t block, enum qnti_role role)
{
    const struct qnti_weight *w = qnti_checkpoint_weight(o->after->checkpoint, block, role);
    assert_non_null(w->qlinear);
    return w->qlinear;
}

static void assert_input(const struct opened *o, size_t block, enum qnti_role role, float scale, float zero)
{
    const struct qnti_actquant *act = layer_of(o, block, role)->act;
    assert_non_null(act);
    assert_non_null(act->fixed);
    assert_true(act->given);
    assert_true(act->fixed->scale->value[0] == scale);
    assert_true(act->fixed->grid.offset == 128 + zero);
}

/* Every weight of `up` is the nearest multiple of its row's scale. */
static void assert_rounded(const struct opened *o, const float *scale)
{
    const qnt_qlinear *q = layer_of(o, 0, QNTI_UP);
    const struct qnti_weight *w = qnti_checkpoint_weight(o->before->checkpoint, 0, QNTI_UP);
    float row[64], value[64];
    assert_int_equal(w->cols, 64);
    for (size_t r = 0; r < w->rows; r++) {
        assert_int_equal(qnti_weight_rows(o->ctx, w, r, 1, row), QNT_OK);
        qnti_qlinear_row(q, r, value);
        for (size_t c = 0; c < 64; c++) {
            float code = fminf(fmaxf(rintf(row[c] / scale[r]), -128), 127);
            assert_true(value[c] == code * scale[r]);
        }
    }
}

static void test_taken(void **state)
{
    static const float q = 0.125f, k = 0.5f, amax = 63.5f;
    static const uint8_t zero = 131;
    float up[OUT_OF_UP];
    struct opened o;
    struct session s;
    json_t *report;
    (void)state;
    for (size_t r = 0; r < OUT_OF_UP; r++)
        up[r] = 0.001f + 0.0001f * (float)r;
    make_plain();
    put_float(Q ".input_scale", &q);
    put_float(K ".input_scale", &k);
    put(K ".input_zero_point", "U8", 1, &zero, 1);
    put_float(DOWN ".amax", &amax);
    put(UP ".weight_scale", "F32", OUT_OF_UP, up, sizeof up);
    put_float("model.layers.7.mlp.up_proj.input_scale", &q);
    write_scales();
    begin(&s, NULL, &by_scales);
    report = run(&s);
    assert_non_null(strstr(s.log, "given scales of one input differ, 0.125 to 0.5"));
    assert_non_null(strstr(s.log, "1 of 6 tensors belong to no quantized linear"));
    assert_string_equal(json_string_value(json_object_get(tensor_of(report, V ".weight"), "input_scale")), "given");
    assert_string_equal(json_string_value(json_object_get(tensor_of(report, UP ".weight"), "weight_scale")), "given");
    assert_null(json_object_get(tensor_of(report, UP ".weight"), "input_scale"));
    json_decref(report);
    end(&s);
    open_both(&o);
    assert_input(&o, 0, QNTI_Q, k, 3);
    assert_input(&o, 0, QNTI_K, k, 3);
    assert_input(&o, 0, QNTI_V, k, 3); /* the input is one */
    assert_input(&o, 1, QNTI_DOWN, 0.5f, 0);
    assert_null(layer_of(&o, 0, QNTI_UP)->act->fixed); /* nothing is given: dynamic, as the recipe says */
    assert_rounded(&o, up);
    close_both(&o);
}

/* What a recipe would have calibrated is not asked for; with `recalibrate` nothing else is. */
static void test_precedence(void **state)
{
    static const float q = 0.125f;
    qnt_quantize_options options = by_scales;
    struct opened o;
    (void)state;
    make_plain();
    put_float(Q ".input_scale", &q);
    write_scales();
    options.calibration = "ids.npy";
    options.samples = 2;
    options.seqlen = 16;
    options.method = "rtn:bits=8,act_bits=8,act_granularity=tensor,act_static=true";
    for (int again = 0; again < 2; again++) {
        const struct qnti_actquant *act;
        options.recalibrate = again;
        options.force = true;
        json_decref(report_of(&options));
        open_both(&o);
        act = layer_of(&o, 0, QNTI_V)->act;
        assert_int_equal(act->given, !again);
        assert_int_equal(act->fixed->scale->value[0] == q, !again);
        assert_false(layer_of(&o, 0, QNTI_O)->act->given);
        close_both(&o);
    }
}

static void test_refusals(void **state)
{
    static const float three[3] = {1, 1, 1}, negative = -1;
    static const struct {
        const char *name, *message;
        const float *x;
        size_t n;
        qnt_status status;
    } cases[] = {
        {Q ".input_scale", "one scale for the tensor", three, 3, QNT_UNSUPPORTED},
        {Q ".weight_scale", "3 numbers, expected 1 or 64", three, 3, QNT_UNSUPPORTED},
        {Q ".input_scale", "the given scale of its inputs is -1", &negative, 1, QNT_INVALID},
        {Q ".weight_scale", "given scale 0 of its weights is -1", &negative, 1, QNT_INVALID},
        {"model.layers.7.mlp.up_proj.input_scale", "none of the model's quantized linears", three, 1, QNT_INVALID},
    };
    qnt_quantize_options options = by_scales;
    (void)state;
    make_plain();
    for (size_t i = 0; i < COUNT(cases); i++) {
        put(cases[i].name, "F32", cases[i].n, cases[i].x, cases[i].n * sizeof(float));
        write_scales();
        assert_int_equal(status_of(&options, cases[i].message), cases[i].status);
        options.force = true;
    }
    put_float(Q ".input_scale", &three[0]);
    write_scales();
    options.method = "rtn";
    options.format = "gguf:q4_0";
    {
        json_t *report = report_of(&options); /* it has no place for them, and says so */
        assert_non_null(strstr(json_string_value(json_object_get(tensor_of(report, Q ".weight"), "note")),
                               "the format holds no activations"));
        json_decref(report);
    }
    options.format = "native";
    options.method = "smoothquant";
    options.calibration = "ids.npy";
    options.samples = 2;
    options.seqlen = 16;
    assert_int_equal(status_of(&options, "but recipe smoothquant transforms them"), QNT_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_taken),
        TEST(test_precedence),
        TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
