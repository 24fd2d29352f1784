/*
 * test_base.c - numbers, contexts, memory, threads; and that every allocation of a whole quantization may fail.
 *
 * binary16 and bfloat16 are compared with their plain definitions on all bit
 * patterns, and conversions to them around every boundary between neighbours.
 */
#include <stdatomic.h>
#include "layer_support.h"
#include "base/buffer.h"
#include "base/number.h"
#include "base/tensor.h"

/* --- numbers --- */

struct small_float {
    int fraction_bits, least_exponent, top_exponent;   /* of normal numbers; the exponent field of infinity */
    float (*widen)(uint16_t h);
    uint16_t (*narrow)(float x);
};

static const struct small_float half = {10, -14, 31, qnti_f16_to_f32, qnti_f32_to_f16};
static const struct small_float brain = {7, -126, 255, qnti_bf16_to_f32, qnti_f32_to_bf16};

/* The number that a pattern stands for, by the book; infinity for the top exponent. */
static double value_of(const struct small_float *f, unsigned magnitude)
{
    int exponent = (int)(magnitude >> f->fraction_bits), bits = f->fraction_bits;
    double fraction = (double)(magnitude & ((1u << bits) - 1)) / (double)(1u << bits);
    if (exponent == f->top_exponent)
        return INFINITY;
    return exponent ? ldexp(1 + fraction, exponent - 1 + f->least_exponent) : ldexp(fraction, f->least_exponent);
}

static void check_widen(const struct small_float *f)
{
    for (unsigned h = 0; h < 0x10000; h++) {
        unsigned magnitude = h & 0x7fff, infinity = (unsigned)f->top_exponent << f->fraction_bits;
        float x = f->widen((uint16_t)h);
        assert_int_equal(signbit(x) != 0, h >> 15);
        if (magnitude > infinity)
            assert_true(isnan(x));
        else
            assert_true((double)fabsf(x) == value_of(f, magnitude));
        if (magnitude <= infinity)
            assert_int_equal(f->narrow(x), h);
        else
            assert_true(isnan(f->widen(f->narrow(x))));
    }
}

/* Around the middle between neighbours: below it the lower one, above it the upper one, on it the even one. */
static void check_narrow(const struct small_float *f)
{
    unsigned infinity = (unsigned)f->top_exponent << f->fraction_bits;
    for (unsigned h = 0; h < infinity; h++) {
        double low = value_of(f, h), step = h + 1 < infinity ? value_of(f, h + 1) - low : low - value_of(f, h - 1);
        float middle = (float)(low + step / 2);
        if ((double)middle != low + step / 2)
            continue; /* bfloat16's smallest: the middle is no f32 */
        assert_int_equal(f->narrow(nextafterf(middle, 0)), h);
        assert_int_equal(f->narrow(middle), h + (h & 1));
        assert_int_equal(f->narrow(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(f->narrow(-middle), 0x8000 | (h + (h & 1)));
    }
    assert_int_equal(f->narrow(INFINITY), infinity);
    assert_int_equal(f->narrow(-INFINITY), 0x8000 | infinity);
    assert_true(isnan(f->widen(f->narrow(qnti_float(0x7f800001)))));
}

static void test_small_floats(void **state)
{
    (void)state;
    check_widen(&half);
    check_widen(&brain);
    check_narrow(&half);
    check_narrow(&brain);
    assert_true(qnti_round_to(QNT_F32, 0.1f) == 0.1f);
    assert_true(qnti_round_to(QNT_F16, 0.1f) == 0x1.998p-4f);
    assert_true(qnti_round_to(QNT_BF16, 0.1f) == 0x1.9ap-4f);
    assert_int_equal(qnti_dtype_bytes(QNT_BF16), 2);
    assert_string_equal(qnti_dtype_name(QNT_BF16), "BF16");
}

/* --- parallel work --- */

enum { INDICES = 1000 };

struct work {
    qnt_context *ctx;
    atomic_int seen[INDICES];
    size_t failing;              /* index that fails; INDICES: none */
    size_t inner;                /* indices of a nested call */
    atomic_int asked, allowed;   /* for the cancel function */
};

static qnt_status count_index(void *arg, size_t index)
{
    struct work *w = arg;
    atomic_fetch_add(&w->seen[index], 1);
    if (index == w->failing)
        return qnti_fail(w->ctx, QNT_BAD_DATA, "index %zu", index);
    return QNT_OK;
}

static qnt_status nest(void *arg, size_t index)
{
    struct work *w = arg;
    (void)index;
    return qnti_parallel(w->ctx, w->inner, count_index, w);
}

static void forget(struct work *w)
{
    for (size_t i = 0; i < INDICES; i++)
        atomic_store(&w->seen[i], 0);
}

static void check_parallel(qnt_context *ctx)
{
    static struct work w;
    w.ctx = ctx;
    w.failing = INDICES;
    forget(&w);
    for (size_t n = 0; n <= INDICES; n += 111) {
        assert_int_equal(qnti_parallel(ctx, n, count_index, &w), QNT_OK);
        for (size_t i = 0; i < INDICES; i++)
            assert_int_equal(atomic_exchange(&w.seen[i], 0), i < n);
    }
    w.inner = 50;
    assert_int_equal(qnti_parallel(ctx, 7, nest, &w), QNT_OK);
    for (size_t i = 0; i < w.inner; i++)
        assert_int_equal(atomic_load(&w.seen[i]), 7);
    forget(&w);
    w.failing = 13;
    assert_fails(ctx, qnti_parallel(ctx, INDICES, count_index, &w), QNT_BAD_DATA, "index 13");
    for (size_t i = 0; i < INDICES; i++)
        assert_true(atomic_load(&w.seen[i]) <= 1);
}

static void test_parallel(void **state)
{
    static const int threads[] = {1, 2, 3, 8, 0};
    (void)state;
    for (size_t i = 0; i < COUNT(threads); i++) {
        qnt_context *ctx = context_of(threads[i]);
        if (threads[i])
            assert_int_equal(qnt_context_threads(ctx), threads[i]);
        check_parallel(ctx);
        qnt_context_destroy(ctx);
    }
}

/* Backwards, one after another. */
static void engine_for(void *user, size_t count, qnt_task_fn task, void *arg)
{
    *(size_t *)user += count;
    while (count--)
        task(arg, count);
}

static void test_engine_threads(void **state)
{
    size_t tasks = 0;
    qnt_context_options options = {.size = sizeof options, .parallel_for = engine_for, .parallel_user = &tasks};
    qnt_context *ctx, *plain = context_of(1);
    qnt_qlinear *q, *same;
    float *w = random_floats(200 * 64, 5, 1), *x = random_tokens(50, 64, 6), *a, *b;
    (void)state;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    assert_int_equal(qnt_context_threads(ctx), 0);
    check_parallel(ctx);
    assert_true(tasks > INDICES);
    assert_ok(ctx, quantize_with(ctx, "gptq", NULL, qnt_matrix_f32(w, 200, 64), x, NULL, 50, &q));
    assert_ok(plain, quantize_with(plain, "gptq", NULL, qnt_matrix_f32(w, 200, 64), x, NULL, 50, &same));
    a = dequantized(ctx, q);
    b = dequantized(plain, same);
    assert_memory_equal(a, b, 200 * 64 * sizeof *a);
    free(a);
    free(b);
    free(w);
    free(x);
    qnt_qlinear_destroy(q);
    qnt_qlinear_destroy(same);
    qnt_context_destroy(ctx);
    qnt_context_destroy(plain);
}

/* Yes once it was asked more often than allowed. */
static bool cancel_later(void *user)
{
    struct work *w = user;
    return atomic_fetch_add(&w->asked, 1) >= atomic_load(&w->allowed);
}

static void test_cancel(void **state)
{
    static struct work w;
    qnt_context_options options = {.threads = 2, .cancel = cancel_later, .cancel_user = &w};
    float *weight = random_floats(70 * 32, 5, 1), *x = random_tokens(40, 32, 6);
    size_t held;
    qnt_qlinear *q;
    qnt_status status = QNT_CANCELLED;
    (void)state;
    w.failing = INDICES;
    assert_int_equal(qnt_context_create(&options, &w.ctx), QNT_OK);
    held = qnt_context_bytes(w.ctx, NULL);
    assert_fails(w.ctx, qnti_parallel(w.ctx, INDICES, count_index, &w), QNT_CANCELLED, "stopped on request");
    for (size_t i = 0; i < INDICES; i++)
        assert_int_equal(atomic_load(&w.seen[i]), 0);
    for (int allowed = 0; status == QNT_CANCELLED; allowed++) { /* at every place where it asks */
        atomic_store(&w.asked, 0);
        atomic_store(&w.allowed, allowed);
        status = quantize_with(w.ctx, "gptq:refine_passes=1", NULL, qnt_matrix_f32(weight, 70, 32), x, NULL, 40, &q);
        if (status == QNT_CANCELLED)
            assert_int_equal(qnt_context_bytes(w.ctx, NULL), held);
    }
    assert_ok(w.ctx, status);
    qnt_qlinear_destroy(q);
    free(weight);
    free(x);
    destroy_context(w.ctx, held);
}

/* --- contexts --- */

static void test_options(void **state)
{
    qnt_context_options options = {.size = sizeof options + 8};
    qnt_context *ctx = (qnt_context *)(void *)&options;
    struct failing failing = {-1};
    (void)state;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_INVALID);
    assert_null(ctx);
    options = (qnt_context_options){.threads = -1};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_INVALID);
    options.threads = 1025;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_INVALID);
    options = (qnt_context_options){.allocator = {failing_allocate, NULL, &failing}};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_INVALID);
    options = (qnt_context_options){.allocator = {NULL, failing_release, &failing}};
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_INVALID);
    assert_int_equal(qnt_context_create(NULL, &ctx), QNT_OK);
    assert_string_equal(qnt_context_message(ctx), "");
    qnt_context_destroy(ctx);
    qnt_context_destroy(NULL);
    ctx = context_with_kernels("no such kernels");
    assert_non_null(qnt_context_kernels(ctx));
    qnt_context_destroy(ctx);
    assert_string_equal(qnt_status_text(QNT_NO_MEMORY), "out of memory");
    assert_string_equal(qnt_status_text((qnt_status)12345), "unknown status");
    assert_true(strlen(qnt_version()) >= 5);
}

struct log {
    int lines;
    qnt_log_level level;
    char last[256];
};

static void keep_line(void *user, qnt_log_level level, const char *message)
{
    struct log *log = user;
    log->lines++;
    log->level = level;
    snprintf(log->last, sizeof log->last, "%s", message);
}

static void test_messages(void **state)
{
    struct log log = {0};
    qnt_context_options options = {.threads = 1, .log = keep_line, .log_user = &log};
    qnt_context *ctx;
    char text[4000];
    (void)state;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    assert_int_equal(qnti_fail(ctx, QNT_IO, "file %s, byte %d", "a", 7), QNT_IO);
    assert_int_equal(qnti_fail_in(ctx, QNT_IO, "layer 3"), QNT_IO);
    assert_string_equal(qnt_context_message(ctx), "layer 3: file a, byte 7");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    qnti_fail(ctx, QNT_IO, "%s", text);
    qnti_fail_in(ctx, QNT_IO, text);
    assert_true(strlen(qnt_context_message(ctx)) < 1100);
    qnti_log(ctx, QNT_LOG_WARNING, "%d lines", 2);
    assert_int_equal(log.lines, 1);
    assert_int_equal(log.level, QNT_LOG_WARNING);
    assert_string_equal(log.last, "2 lines");
    qnt_context_destroy(ctx);
}

static void test_memory(void **state)
{
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL), peak;
    struct qnti_buffer buffer = {0};
    char *bytes, *copy;
    double *numbers;
    (void)state;
    assert_ok(ctx, QNTI_NEW(ctx, 1000, &numbers));
    assert_int_equal((uintptr_t)numbers % 64, 0);
    for (size_t i = 0; i < 1000; i++)
        assert_true(numbers[i] == 0);
    assert_int_equal(qnt_context_bytes(ctx, &peak), held + 8000);
    assert_true(peak >= held + 8000);
    qnti_free(ctx, numbers);
    assert_ok(ctx, QNTI_NEW(ctx, 0, &bytes));
    assert_null(bytes);
    assert_fails(ctx, QNTI_NEW(ctx, SIZE_MAX / 4, &numbers), QNT_NO_MEMORY, "address space");
    assert_null(numbers);
    assert_int_equal(QNTI_NEW_RAW(ctx, SIZE_MAX, &bytes), QNT_NO_MEMORY);
    assert_ok(ctx, qnti_copy_bytes(ctx, "a\0b", 3, &copy));
    assert_memory_equal(copy, "a\0b", 4);
    qnti_free(ctx, copy);
    for (int i = 0; i < 300; i++)
        assert_ok(ctx, qnti_buffer_print(ctx, &buffer, "%d,", i));
    assert_int_equal(buffer.bytes, strlen(buffer.data));
    assert_int_equal(buffer.bytes, 10 * 2 + 90 * 3 + 200 * 4);
    qnti_buffer_free(ctx, &buffer);
    qnti_free(ctx, NULL);
    destroy_context(ctx, held);
}

struct counting {
    struct failing failing;
    atomic_long blocks;
};

static void *counting_allocate(void *user, size_t bytes, size_t alignment)
{
    struct counting *c = user;
    void *memory = failing_allocate(&c->failing, bytes, alignment);
    if (memory)
        atomic_fetch_add(&c->blocks, 1);
    return memory;
}

static void counting_release(void *user, void *memory)
{
    struct counting *c = user;
    atomic_fetch_sub(&c->blocks, 1);
    free(memory);
}

static void test_creation_fails(void **state)
{
    struct counting counting;
    qnt_context_options options = {.threads = 3, .allocator = {counting_allocate, counting_release, &counting}};
    qnt_context *ctx;
    qnt_status status = QNT_NO_MEMORY;
    (void)state;
    atomic_init(&counting.blocks, 0);
    for (long n = 0; status != QNT_OK; n++) {
        counting.failing.left = n;
        status = qnt_context_create(&options, &ctx);
        if (status != QNT_OK) {
            assert_int_equal(status, QNT_NO_MEMORY);
            assert_null(ctx);
            assert_int_equal(atomic_load(&counting.blocks), 0);
        }
    }
    assert_true(atomic_load(&counting.blocks) > 0);
    qnt_context_destroy(ctx);
    assert_int_equal(atomic_load(&counting.blocks), 0);
}

/* --- views --- */

static void test_matrices(void **state)
{
    qnt_context *ctx = context_of(1);
    float x[12], rows[6];
    uint16_t h[6] = {0x3c00, 0x4000, 0x7bff, 0x0001, 0xc500, 0x8000};
    unsigned char off[1 + sizeof h];
    qnt_matrix m = {.data = x, .rows = 3, .cols = 2, .stride = 4, .dtype = QNT_F32};
    (void)state;
    for (int i = 0; i < 12; i++)
        x[i] = (float)i;
    assert_ok(ctx, qnti_matrix_rows(ctx, m, 1, 2, rows));
    assert_true(rows[0] == 4 && rows[1] == 5 && rows[2] == 8 && rows[3] == 9);
    assert_int_equal(qnti_matrix_rows(ctx, m, 2, 2, rows), QNT_INVALID);
    m.stride = 1;
    assert_int_equal(qnti_matrix_rows(ctx, m, 0, 1, rows), QNT_INVALID);
    m.stride = 4;
    m.dtype = QNT_I32;
    assert_int_equal(qnti_matrix_rows(ctx, m, 0, 1, rows), QNT_INVALID);
    memcpy(off + 1, h, sizeof h); /* as in a file */
    assert_ok(ctx, qnti_matrix_rows(ctx, qnt_matrix_of(QNT_F16, off + 1, 2, 3), 0, 2, rows));
    assert_true(rows[0] == 1 && rows[1] == 2 && rows[2] == 65504 && rows[3] == 0x1p-24f && rows[4] == -5);
    assert_true(rows[5] == 0 && signbit(rows[5]));
    m = qnt_matrix_f32(x, 3, 4);
    assert_ok(ctx, qnti_matrix_check_finite(ctx, m, "x"));
    x[6] = NAN;
    x[11] = INFINITY;
    assert_fails(ctx, qnti_matrix_check_finite(ctx, m, "x"), QNT_NON_FINITE,
                 "x: 2 of 12 numbers are not finite, the first is nan at row 1, column 2");
    assert_true(qnti_all_finite(x, 6) && !qnti_all_finite(x, 7));
    assert_true(qnti_sum_squares(x, 4) == 14);
    qnt_context_destroy(ctx);
}

/* --- every allocation may fail --- */

struct whole {
    const char *recipe, *format;
};

static qnt_status take_parts(const qnt_qlinear *q)
{
    const char *name;
    for (size_t i = 0; (name = qnt_part_name(i)) != NULL; i++) {
        qnt_part part;
        qnt_status status = qnt_qlinear_part(q, name, &part);
        qnt_part_free(&part);
        if (status != QNT_OK && status != QNT_NOT_FOUND)
            return status;
    }
    return QNT_OK;
}

static qnt_status use_layer(qnt_context *ctx, const struct whole *whole, const qnt_qlinear *q, const float *x)
{
    struct qnti_native_tensors tensors = {0};
    size_t out = qnt_qlinear_out(q), in = qnt_qlinear_in(q), bytes = 0, count = 0;
    qnt_packed_tensor packed_tensors[QNT_MOST_PACKED_TENSORS];
    float *w = NEW(out * in, float), *y = NEW(2 * out, float);
    void *packed = NULL;
    qnt_qlinear *back = NULL;
    qnt_status status = qnt_dequantize(q, w);
    if (status == QNT_OK)
        status = qnt_forward(q, qnt_matrix_f32(x, 2, in), y);
    if (status == QNT_OK)
        status = take_parts(q);
    if (status == QNT_OK)
        status = qnti_native_add(ctx, q, &tensors);
    if (status == QNT_OK && whole->format)
        status = qnt_packed_tensors(q, whole->format, packed_tensors, &count, &bytes);
    if (status == QNT_OK && whole->format) {
        packed = new_memory(bytes, 1);
        status = qnt_pack(q, whole->format, packed, bytes);
    }
    if (status == QNT_OK && whole->format)
        status = qnt_unpack(ctx, whole->format, "back", packed_tensors, count, packed, bytes, &back);
    qnt_qlinear_destroy(back);
    qnti_native_tensors_free(ctx, &tensors);
    free(packed);
    free(w);
    free(y);
    return status;
}

static qnt_status whole_quantization(qnt_context *ctx, void *arg)
{
    const struct whole *whole = arg;
    enum { OUT = 6, TOKENS = 20 };
    size_t in = whole->format ? 256 : 24;
    float *w = random_floats(OUT * in, 1, 1), *x = random_tokens(TOKENS, in, 2), *x_fp = random_tokens(TOKENS, in, 3);
    bool pairs = strstr(whole->recipe, "asymmetric=true") != NULL;
    qnt_qlinear *q;
    qnt_status status = quantize_with(ctx, whole->recipe, whole->format, qnt_matrix_f32(w, OUT, in), x,
                                      pairs ? x_fp : NULL, TOKENS, &q);
    if (status == QNT_OK)
        status = use_layer(ctx, whole, q, x);
    qnt_qlinear_destroy(q);
    free(w);
    free(x);
    free(x_fp);
    return status;
}

static qnt_status read_native(qnt_context *ctx, void *arg)
{
    const struct qnti_buffer *file = arg;
    qnt_qlinear *q;
    qnt_status status = native_read(ctx, (const unsigned char *)file->data, file->bytes, "some.layer", &q);
    qnt_qlinear_destroy(q);
    return status;
}

static void test_each_allocation(void **state)
{
    static const struct whole wholes[] = {
        {"rtn:group_size=8,mse=true,mse_grid=4", NULL},
        {"gptq:group_size=8,act_order=true,refine_passes=1,refit_scales=true,asymmetric=true", NULL},
        {"gptq:group_size=8,act_group_aware=true,static_groups=true,bits=9", NULL},
        {"spqr:group_size=8,stat_group_size=4,permutation_order=spearman,target_outliers=0.1", NULL},
        {"smoothquant,owq:keep_columns=4,group_size=8,act_order=true", NULL},
        {"gptq,refine", "gguf:q6_k"},
        {"rtn", "gguf:q4_1"},
        {"squeezellm:weighting=importance,sensitive_fraction=0.05,outlier_threshold=1.5", NULL},
        {"easyquant:group_size=8", NULL},
        {"hqq:axis=0,group_size=8,per_group_stop=true,scale_update=true", NULL},
        {"bnb4:block_size=32,double_quant=true,requantize=true", "bnb"},
        {"llm_int8", "bnb"},
        {"outlier_suppression:epochs=1,iterations=3,batch_tokens=7", NULL},
        {"os_plus:search_steps=2,act_quantile=0.9", NULL},
        {"os_plus:search_steps=2,act_granularity=group,act_group_size=8,gptq:bits=4", NULL},
        {"fptq:strategy=lae,mse=true,mse_grid=4", NULL},
        {"olive:group_size=8", NULL},
        {"zeroquant:act_granularity=channel,format=fp4_e2m1,scale_restrict=m2,group_size=8,solver=gptq,rank=3", NULL},
        {"owq:keep_columns=4,group_size=8,lorc:rank=2,rank_bits=8,rank_weight=hessian", NULL},
    }, read_back[] = {{"rtn", "gguf:q6_k"}, {"bnb4:double_quant=true", NULL}, {"olive", NULL}};
    qnt_context *ctx = context_of(1);
    float *w = random_floats(6 * 256, 1, 1);
    qnt_qlinear *q;
    struct qnti_buffer file = {0};
    (void)state;
    for (size_t i = 0; i < COUNT(wholes); i++)
        each_allocation_fails(whole_quantization, (void *)(uintptr_t)&wholes[i]);
    for (size_t i = 0; i < COUNT(read_back); i++) {
        assert_ok(ctx, quantize_with(ctx, read_back[i].recipe, read_back[i].format, qnt_matrix_f32(w, 6, 256), w, NULL,
                                     6, &q));
        file.data = (char *)native_bytes(ctx, q, &file.bytes);
        each_allocation_fails(read_native, &file);
        free(file.data);
        qnt_qlinear_destroy(q);
    }
    free(w);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_floats),   cmocka_unit_test(test_parallel), cmocka_unit_test(test_engine_threads),
        cmocka_unit_test(test_cancel),         cmocka_unit_test(test_options),  cmocka_unit_test(test_messages),
        cmocka_unit_test(test_memory),         cmocka_unit_test(test_creation_fails),
        cmocka_unit_test(test_matrices),       cmocka_unit_test(test_each_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
