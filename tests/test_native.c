/*
 * test_native.c - the native format: every part comes back bit for bit, and a damaged file is refused or harmless.
 *
 * Damage: the file cut at every length, every word of every description set
 * to numbers that lie outside, every byte behind the header flipped. What is
 * still read must be usable: its values, forward, parts and bits are asked for,
 * in memory that is bounded by the size of the file.
 */
#include "qlinear_support.h"

enum { TOKENS = 3, MOST_MEMORY = 8 << 20 };   /* files here have some 10 KB */

static void same_part(qnt_context *ctx, const qnt_qlinear *a, const qnt_qlinear *b, const char *name)
{
    qnt_part x, y;
    qnt_status status = qnt_qlinear_part(a, name, &x);
    assert_int_equal(qnt_qlinear_part(b, name, &y), status);
    (void)ctx;
    if (status == QNT_OK) {
        size_t n = x.shape[0] * x.shape[1] * qnti_dtype_bytes(x.dtype);
        assert_int_equal(x.shape[0], y.shape[0]);
        assert_int_equal(x.shape[1], y.shape[1]);
        assert_memory_equal(x.data, y.data, n);
    }
    qnt_part_free(&x);
    qnt_part_free(&y);
}

static float *forward_of(qnt_context *ctx, const qnt_qlinear *q)
{
    float *x = random_tokens(TOKENS, qnt_qlinear_in(q), 1), *y = NEW(TOKENS * qnt_qlinear_out(q), float);
    assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, qnt_qlinear_in(q)), y));
    free(x);
    return y;
}

static void check_same(qnt_context *ctx, const qnt_qlinear *a, const qnt_qlinear *b)
{
    size_t out = qnt_qlinear_out(a), in = qnt_qlinear_in(a);
    float *x = dequantized(ctx, a), *y = dequantized(ctx, b);
    qnt_layer_report before = {0}, after = {0};
    const char *name;
    assert_memory_equal(x, y, out * in * sizeof *x);
    free(x);
    free(y);
    x = forward_of(ctx, a);
    y = forward_of(ctx, b);
    assert_memory_equal(x, y, TOKENS * out * sizeof *x);
    free(x);
    free(y);
    for (size_t i = 0; (name = qnt_part_name(i)) != NULL; i++)
        same_part(ctx, a, b, name);
    assert_ok(ctx, qnt_report(a, &before));
    assert_ok(ctx, qnt_report(b, &after));
    assert_true(before.bits_per_weight == after.bits_per_weight);
    assert_int_equal(!a->output, !b->output);
    if (a->output) {
        assert_int_equal(a->output->head_dim, b->output->head_dim);
        assert_int_equal(a->output->window, b->output->window);
        assert_int_equal(a->output->sinks, b->output->sinks);
        assert_int_equal(a->output->before_rope, b->output->before_rope);
        assert_true(a->output->clip == b->output->clip);
    }
}

static void test_round_trip(void **state)
{
    static const unsigned pairs[] = {FULL_PAIRS | FULL_ACT | FULL_STATIC | FULL_BIAS,
                                     FULL_PAIRS | FULL_SECOND_CODES | FULL_SPARSE | FULL_PERMUTATION};
    qnt_context *ctx = context_of(1);
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    for (size_t i = 0; i < COUNT(full_sets) + COUNT(pairs); i++) {
        unsigned parts = i < COUNT(full_sets) ? full_sets[i] : pairs[i - COUNT(full_sets)];
        qnt_qlinear *q = full_layer(ctx, parts), *back, *none;
        size_t bytes, again;
        unsigned char *file = native_bytes(ctx, q, &bytes), *second;
        assert_ok(ctx, native_read(ctx, file, bytes, "some.layer", &back));
        check_same(ctx, q, back);
        second = native_bytes(ctx, back, &again); /* written again it is the same file */
        assert_int_equal(bytes, again);
        assert_memory_equal(file, second, bytes);
        assert_fails(ctx, native_read(ctx, file, bytes, "other.layer", &none), QNT_NOT_FOUND, "other.layer");
        free(file);
        free(second);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(back);
    }
    destroy_context(ctx, held);
}

/* Layers of methods: every width of codes, every layout's grids, layers that pack again. */
static void test_methods(void **state)
{
    static const char *const formats[] = {"native", "gguf:q4_0", "gguf:q5_1", "gguf:q6_k", "gguf:bf16"};
    qnt_context *ctx = context_of(1);
    float *w = random_floats(5 * 256, 1, 1);
    char recipe[64];
    (void)state;
    for (int bits = 1; bits <= 16; bits++) {
        qnt_qlinear *q, *back;
        size_t bytes;
        unsigned char *file;
        snprintf(recipe, sizeof recipe, "rtn:bits=%d,group_size=7", bits);
        assert_ok(ctx, quantize_with(ctx, recipe, "native", qnt_matrix_f32(w, 5, 31), NULL, NULL, 0, &q));
        file = native_bytes(ctx, q, &bytes);
        assert_ok(ctx, native_read(ctx, file, bytes, "some.layer", &back));
        check_same(ctx, q, back);
        free(file);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(back);
    }
    for (size_t i = 0; i < COUNT(formats); i++) {
        qnt_qlinear *q, *back;
        size_t bytes, packed_bytes;
        unsigned char *file;
        assert_ok(ctx, quantize_with(ctx, "rtn", formats[i], qnt_matrix_f32(w, 5, 256), NULL, NULL, 0, &q));
        file = native_bytes(ctx, q, &bytes);
        assert_ok(ctx, native_read(ctx, file, bytes, "some.layer", &back));
        check_same(ctx, q, back);
        if (i > 0) {
            unsigned char *a, *b;
            assert_ok(ctx, qnt_pack_bytes(ctx, formats[i], 5, 256, &packed_bytes));
            a = NEW(packed_bytes, unsigned char);
            b = NEW(packed_bytes, unsigned char);
            assert_ok(ctx, qnt_pack(q, formats[i], a, packed_bytes));
            assert_ok(ctx, qnt_pack(back, formats[i], b, packed_bytes));
            assert_memory_equal(a, b, packed_bytes);
            free(a);
            free(b);
        }
        free(file);
        qnt_qlinear_destroy(q);
        qnt_qlinear_destroy(back);
    }
    free(w);
    qnt_context_destroy(ctx);
}

/* --- damage --- */

/* Memory that ends at MOST_MEMORY. */
struct bounded {
    bool exceeded;
};

static void *bounded_allocate(void *user, size_t bytes, size_t alignment)
{
    struct bounded *b = user;
    void *memory = NULL;
    if (bytes > MOST_MEMORY) {
        b->exceeded = true;
        return NULL;
    }
    return posix_memalign(&memory, alignment, bytes) ? NULL : memory;
}

static void bounded_release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static void use(qnt_context *ctx, const qnt_qlinear *q)
{
    float *w = dequantized(ctx, q), *y = forward_of(ctx, q);
    qnt_layer_report report = {0};
    const char *name;
    assert_ok(ctx, qnt_report(q, &report));
    for (size_t i = 0; (name = qnt_part_name(i)) != NULL; i++) {
        qnt_part part;
        qnt_status status = qnt_qlinear_part(q, name, &part);
        assert_true(status == QNT_OK || status == QNT_NOT_FOUND);
        qnt_part_free(&part);
    }
    free(w);
    free(y);
}

struct damage {
    qnt_context *ctx;
    struct bounded memory;
    unsigned char *file;
    size_t bytes, held, refused, read;
};

/* Reads the file as it is now: refused with a message, or usable. */
static void try_read(struct damage *d, size_t bytes, const char *what, size_t where)
{
    unsigned char *copy = exact_copy(d->file, bytes);
    qnt_qlinear *q;
    qnt_status status = native_read(d->ctx, copy, bytes, "some.layer", &q);
    if (status == QNT_OK) {
        d->read++;
        use(d->ctx, q);
    } else {
        d->refused++;
        if (status != QNT_BAD_DATA && status != QNT_NOT_FOUND && status != QNT_UNSUPPORTED)
            fail_msg("%s at %zu: %s (%s)", what, where, qnt_status_text(status), qnt_context_message(d->ctx));
        assert_true(*qnt_context_message(d->ctx));
    }
    if (d->memory.exceeded)
        fail_msg("%s at %zu: asked for too much memory", what, where);
    qnt_qlinear_destroy(q);
    free(copy);
    assert_int_equal(qnt_context_bytes(d->ctx, NULL), d->held);
}

static void cut(struct damage *d)
{
    for (size_t n = 0; n < d->bytes; n += n < 64 || d->bytes - n < 64 ? 1 : 37) {
        try_read(d, n, "cut", n);
        assert_int_equal(d->read, 0);
    }
}

/* Words of I32 and U32 tensors. */
static void change_words(struct damage *d)
{
    static const uint32_t values[] = {0,          1,          2,          3,          7,          255,
                                      0x00010000, 0x00ffffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fc00000};
    struct qnti_safetensors *file;
    unsigned char *original = exact_copy(d->file, d->bytes);
    assert_ok(d->ctx, qnti_safetensors_open_memory(d->ctx, "file", original, d->bytes, &file));
    d->held = qnt_context_bytes(d->ctx, NULL);
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *t = &file->tensors[i];
        size_t at = (size_t)((const unsigned char *)t->data - original);
        if (strcmp(t->dtype, "I32") != 0 && strcmp(t->dtype, "U32") != 0)
            continue;
        for (size_t w = 0; w < t->elements; w++)
            for (size_t v = 0; v < COUNT(values); v++) {
                memcpy(d->file + at + 4 * w, &values[v], 4);
                try_read(d, d->bytes, t->name, w);
                memcpy(d->file + at + 4 * w, original + at + 4 * w, 4);
            }
    }
    qnti_safetensors_close(file);
    d->held = qnt_context_bytes(d->ctx, NULL);
    free(original);
}

static void flip_bytes(struct damage *d)
{
    struct qnti_random random;
    qnti_random_seed(&random, d->bytes);
    for (size_t i = 0; i < d->bytes; i += 1 + random_below(&random, 8)) {
        unsigned char flip = (unsigned char)(1u << random_below(&random, 8));
        d->file[i] ^= flip;
        try_read(d, d->bytes, "flip", i);
        d->file[i] ^= flip;
    }
}

static void test_damage(void **state)
{
    static const unsigned sets[] = {
        FULL_SECOND | FULL_SPARSE | FULL_LOWRANK | FULL_SCALE | FULL_PERMUTATION | FULL_ROTATION | FULL_ACT |
            FULL_SEGMENT_ACT | FULL_BIAS | FULL_OUTPUT | FULL_INDEX,
        FULL_SECOND_CODES | FULL_CODEBOOK | FULL_ACT | FULL_STATIC | FULL_COPY,
        FULL_PAIRS | FULL_ACT | FULL_STATIC | FULL_SPARSE,
    };
    struct damage d = {.read = 0};
    qnt_context_options options = {.threads = 1, .allocator = {bounded_allocate, bounded_release, &d.memory}};
    (void)state;
    assert_int_equal(qnt_context_create(&options, &d.ctx), QNT_OK);
    d.held = qnt_context_bytes(d.ctx, NULL);
    for (size_t i = 0; i < COUNT(sets); i++) {
        qnt_qlinear *q = full_layer(d.ctx, sets[i]);
        d.file = native_bytes(d.ctx, q, &d.bytes);
        qnt_qlinear_destroy(q);
        d.read = 0;
        cut(&d);
        change_words(&d);
        flip_bytes(&d);
        assert_true(d.read > 0 && d.refused > 1000);
        free(d.file);
    }
    destroy_context(d.ctx, d.held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_methods),
                                       cmocka_unit_test(test_damage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
