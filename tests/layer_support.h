/*
 * layer_support.h - what the tests of the layer level share: numbers, contexts, layers, plain f64 algebra.
 *
 * Random numbers come from a seed that each test states; a failed status
 * prints the context's message.
 */
#ifndef LAYER_SUPPORT_H
#define LAYER_SUPPORT_H

#include <math.h>
#include "file_support.h"
#include "base/random.h"
#include "pack/native.h"
#include <quant/quant.h>

#define assert_ok(ctx, expr)                                                                                   \
    do {                                                                                                       \
        qnt_status assert_ok_status = (expr);                                                                  \
        if (assert_ok_status != QNT_OK)                                                                        \
            fail_msg("%s: %s (%s)", #expr, qnt_status_text(assert_ok_status), qnt_context_message(ctx));       \
    } while (0)

/* A call that must fail with `status` and say something that has `part`. */
#define assert_fails(ctx, expr, status, part)          \
    do {                                               \
        assert_int_equal((expr), (status));            \
        assert_message_has((ctx), (part));             \
    } while (0)

static inline qnt_context *context_of(int threads)
{
    qnt_context_options options = {.threads = threads, .blas_one_thread = true};
    qnt_context *ctx;
    assert_int_equal(qnt_context_create(&options, &ctx), QNT_OK);
    return ctx;
}

/* A context with the kernels of that name. */
static inline qnt_context *context_with_kernels(const char *kernels)
{
    qnt_context *ctx;
    setenv("QUANT_KERNELS", kernels, 1);
    ctx = context_of(1);
    unsetenv("QUANT_KERNELS");
    return ctx;
}

/* Everything that the context gave out must be back. */
static inline void destroy_context(qnt_context *ctx, size_t held)
{
    assert_int_equal(qnt_context_bytes(ctx, NULL), held);
    qnt_context_destroy(ctx);
}

static inline void *new_memory(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    assert_non_null(memory);
    return memory;
}

#define NEW(count, type) ((type *)new_memory((count), sizeof(type)))

/* In -1 .. 1, 24 bits. */
static inline float random_float(struct qnti_random *random)
{
    return (float)((int32_t)(qnti_random_next(random) >> 39) - (1 << 24)) * 0x1p-24f;
}

static inline size_t random_below(struct qnti_random *random, size_t n)
{
    return (size_t)(qnti_random_next(random) % n);
}

/* Bell-shaped numbers of about that deviation. */
static inline float *random_floats(size_t n, uint64_t seed, float deviation)
{
    struct qnti_random random;
    float *x = NEW(n, float);
    qnti_random_seed(&random, seed);
    for (size_t i = 0; i < n; i++)
        x[i] = deviation * (random_float(&random) + random_float(&random) + random_float(&random));
    return x;
}

/* Tokens (tokens, in) whose channels hang together and differ in size, as those of a model do. */
static inline float *random_tokens(size_t tokens, size_t in, uint64_t seed)
{
    float *x = random_floats(tokens * in, seed, 1), *common = random_floats(tokens, seed + 1, 1);
    for (size_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < in; c++)
            x[t * in + c] = (x[t * in + c] + common[t]) * (c % 7 == 3 ? 4.0f : 0.5f + (float)(c % 5) * 0.25f);
    free(common);
    return x;
}

/* H (in, in) = (2 / tokens) sum x x^T in f64, with `damp` times its mean diagonal added; rounded to f32. */
static inline float *hessian_of(const float *x, size_t tokens, size_t in, double damp)
{
    float *h = NEW(in * in, float);
    double mean = 0;
    for (size_t i = 0; i < in; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t t = 0; t < tokens; t++)
                sum += (double)x[t * in + i] * (double)x[t * in + j];
            h[i * in + j] = h[j * in + i] = (float)(2 * sum / (double)tokens);
        }
    for (size_t i = 0; i < in; i++)
        mean += (double)h[i * in + i] / (double)in;
    for (size_t i = 0; i < in; i++)
        h[i * in + i] = (float)((double)h[i * in + i] + damp * mean);
    return h;
}

/* A^-1 of a symmetric positive definite A (n, n) by Gauss and Jordan, f64, no pivots. */
static inline double *inverse_f64(const float *a, size_t n)
{
    double *m = NEW(n * 2 * n, double), *inverse = NEW(n * n, double);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            m[i * 2 * n + j] = (double)a[i * n + j];
        m[i * 2 * n + n + i] = 1;
    }
    for (size_t k = 0; k < n; k++) {
        double pivot = m[k * 2 * n + k];
        for (size_t j = 0; j < 2 * n; j++)
            m[k * 2 * n + j] /= pivot;
        for (size_t i = 0; i < n; i++) {
            double factor = m[i * 2 * n + k];
            for (size_t j = 0; i != k && factor != 0 && j < 2 * n; j++)
                m[i * 2 * n + j] -= factor * m[k * 2 * n + j];
        }
    }
    for (size_t i = 0; i < n; i++)
        memcpy(inverse + i * n, m + i * 2 * n + n, n * sizeof *inverse);
    free(m);
    return inverse;
}

/* tr(D H D^T), D = W - Q of (rows, n). */
static inline double quadratic_error(const float *w, const float *q, const float *h, size_t rows, size_t n)
{
    double sum = 0;
    double *d = NEW(n, double);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < n; i++)
            d[i] = (double)w[r * n + i] - (double)q[r * n + i];
        for (size_t i = 0; i < n; i++) {
            double inner = 0;
            for (size_t j = 0; j < n; j++)
                inner += (double)h[i * n + j] * d[j];
            sum += d[i] * inner;
        }
    }
    free(d);
    return sum;
}

static inline bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static inline qnt_recipe *recipe_of(qnt_context *ctx, const char *text)
{
    qnt_recipe *recipe;
    assert_ok(ctx, qnt_recipe_parse(ctx, text, &recipe));
    return recipe;
}

/* A layer through a recipe; the calibration gets `tokens` (NULL: none). */
static inline qnt_status quantize_with(qnt_context *ctx, const char *recipe, const char *format, qnt_matrix weight,
                                       const float *x, const float *x_fp, size_t tokens, qnt_qlinear **q)
{
    qnt_layer layer = {.name = "some.layer", .weight = weight, .format = format};
    qnt_recipe *r = NULL;
    qnt_calib *calib = NULL;
    qnt_status status = qnt_recipe_parse(ctx, recipe, &r);
    *q = NULL;
    if (status == QNT_OK && x)
        status = qnt_calib_create(ctx, r, weight.cols, &calib);
    if (status == QNT_OK && x)
        status = x_fp ? qnt_calib_add_pair(calib, qnt_matrix_f32(x, tokens, weight.cols),
                                           qnt_matrix_f32(x_fp, tokens, weight.cols))
                      : qnt_calib_add(calib, qnt_matrix_f32(x, tokens, weight.cols));
    layer.calib = calib;
    if (status == QNT_OK)
        status = qnt_quantize(ctx, r, &layer, q);
    qnt_calib_destroy(calib);
    qnt_recipe_destroy(r);
    return status;
}

/* What gathered tensors are as a safetensors file; lies in memory, to be freed. */
static inline unsigned char *safetensors_bytes(const struct qnti_native_tensors *t, size_t *bytes)
{
    static const struct {
        const char *dtype;
        size_t bytes;
    } types[] = {{"U8", 1}, {"F8_E8M0", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F16", 2}, {"BF16", 2}, {"U16", 2},
                 {"F32", 4}, {"I32", 4}, {"U32", 4}};
    size_t header = 0, data = 0, capacity = 64;
    size_t *sizes = NEW(t->count, size_t);
    unsigned char *file;
    char *text;
    for (size_t i = 0; i < t->count; i++) {
        const struct qnti_tensor_source *s = &t->sources[i];
        for (size_t k = 0; k < COUNT(types); k++)
            if (strcmp(types[k].dtype, s->dtype) == 0)
                sizes[i] = types[k].bytes * s->shape[0] * (s->rank > 1 ? s->shape[1] : 1);
        capacity += strlen(s->name) + 160;
        data += sizes[i];
    }
    text = NEW(capacity, char);
    header = (size_t)snprintf(text, capacity, "{");
    data = 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct qnti_tensor_source *s = &t->sources[i];
        header += (size_t)snprintf(text + header, capacity - header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu",
                                   i ? "," : "", s->name, s->dtype, s->shape[0]);
        if (s->rank > 1)
            header += (size_t)snprintf(text + header, capacity - header, ",%zu", s->shape[1]);
        header += (size_t)snprintf(text + header, capacity - header, "],\"data_offsets\":[%zu,%zu]}", data,
                                   data + sizes[i]);
        data += sizes[i];
    }
    header += (size_t)snprintf(text + header, capacity - header, "}");
    *bytes = 8 + header + data;
    file = NEW(*bytes, unsigned char);
    for (size_t i = 0; i < 8; i++)
        file[i] = (unsigned char)(header >> (8 * i));
    memcpy(file + 8, text, header);
    for (size_t i = 0, at = 8 + header; i < t->count; at += sizes[i++])
        memcpy(file + at, t->sources[i].data, sizes[i]);
    free(text);
    free(sizes);
    return file;
}

/* The native file of one layer, in memory. */
static inline unsigned char *native_bytes(qnt_context *ctx, const qnt_qlinear *q, size_t *bytes)
{
    struct qnti_native_tensors tensors = {0};
    unsigned char *file;
    assert_ok(ctx, qnti_native_add(ctx, q, &tensors));
    file = safetensors_bytes(&tensors, bytes);
    qnti_native_tensors_free(ctx, &tensors);
    return file;
}

static inline qnt_status native_read(qnt_context *ctx, const unsigned char *file, size_t bytes, const char *name,
                                     qnt_qlinear **q)
{
    struct qnti_safetensors *tensors;
    qnt_status status = qnti_safetensors_open_memory(ctx, "file", file, bytes, &tensors);
    *q = NULL;
    if (status == QNT_OK) {
        status = qnti_native_read(ctx, tensors, name, q);
        qnti_safetensors_close(tensors);
    }
    return status;
}

static inline float *dequantized(qnt_context *ctx, const qnt_qlinear *q)
{
    float *w = NEW(qnt_qlinear_out(q) * qnt_qlinear_in(q), float);
    assert_ok(ctx, qnt_dequantize(q, w));
    return w;
}

#endif
