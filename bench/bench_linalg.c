/*
 * bench_linalg.c - products and Hessians against OpenBLAS alone on as many threads, in turn, the fastest run of each.
 *
 *   bench_linalg [runs [most threads [width]]]      default: 5 2 4096
 *
 * linear_T: T tokens through a linear of TinyLlama's shapes (5632, 2048), by
 * qnti_gemm_parallel against sgemm. hessian_TYPE: qnt_calib_add of 4 x 2048
 * tokens of `width` channels, from f32 or bf16, with everything that belongs to
 * it but the reading at the end (conversion, check for numbers that are not
 * finite, moments, f64 sums), against ssyrk of the same tokens. hessian_short:
 * the same in windows of 512 tokens. A share of 1 is OpenBLAS's rate.
 */
#include <cblas.h>
#include <quant/quant.h>

#include "base/number.h"
#include "bench.h"
#include "calib/calib.h"
#include "linalg/blas.h"

enum { IN = 2048, OUT = 5632, TOKENS = 2048, TIMES = 4, SHORT = 512 };

struct bench {
    qnt_context *ctx;
    int threads, runs;
    float *x, *w, *y;
    uint16_t *x16;
    size_t tokens, width;
    qnt_dtype type;
    qnt_recipe *recipe;
};

static void our_linear(struct bench *s)
{
    struct qnti_gemm g = {.m = s->tokens, .n = OUT, .k = IN, .a = s->x, .lda = IN, .b = s->w, .ldb = IN,
                          .transpose_b = true, .c = s->y, .ldc = OUT, .alpha = 1};
    bench_check(s->ctx, qnti_gemm_parallel(s->ctx, &g));
}

static void blas_linear(struct bench *s)
{
    openblas_set_num_threads(s->threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)s->tokens, OUT, IN, 1, s->x, IN, s->w, IN, 0, s->y, OUT);
    openblas_set_num_threads(1);
}

static void our_hessian(struct bench *s)
{
    qnt_calib *calib;
    bench_check(s->ctx, qnt_calib_create(s->ctx, s->recipe, s->width, &calib));
    for (size_t time = 0; time < TIMES; time++)
        for (size_t t = 0; t < TOKENS; t += s->tokens) {
            size_t at = t * s->width;
            const void *data = s->type == QNT_F32 ? (const void *)(s->x + at) : (const void *)(s->x16 + at);
            bench_check(s->ctx, qnt_calib_add(calib, qnt_matrix_of(s->type, data, s->tokens, s->width)));
        }
    qnt_calib_destroy(calib);
}

static void blas_hessian(struct bench *s)
{
    int n = (int)s->width;
    openblas_set_num_threads(s->threads);
    for (int time = 0; time < TIMES; time++)
        cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, n, TOKENS, 1, s->x, n, 0, s->y, n);
    openblas_set_num_threads(1);
}

static double time_of(struct bench *s, void (*run)(struct bench *))
{
    double begin = bench_clock(s->threads);
    run(s);
    return bench_clock(s->threads) - begin;
}

static void compare(struct bench *s, const char *name, void (*ours)(struct bench *), void (*blas)(struct bench *))
{
    double best = INFINITY, reference = INFINITY;
    for (int i = 0; i < s->runs; i++) {
        reference = fmin(reference, time_of(s, blas));
        best = fmin(best, time_of(s, ours));
    }
    bench_print(name, s->threads, reference / best, "of OpenBLAS");
}

static void linears(struct bench *s)
{
    for (s->tokens = 256; s->tokens <= TOKENS; s->tokens *= 2) {
        char name[32];
        snprintf(name, sizeof name, "linear_%zu", s->tokens);
        compare(s, name, our_linear, blas_linear);
    }
}

static void hessians(struct bench *s)
{
    static const struct {
        const char *name;
        qnt_dtype type;
        size_t tokens;
    } cases[] = {
        {"hessian_f32", QNT_F32, TOKENS}, {"hessian_bf16", QNT_BF16, TOKENS}, {"hessian_short", QNT_F32, SHORT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s->type = cases[i].type;
        s->tokens = cases[i].tokens;
        compare(s, cases[i].name, our_hessian, blas_hessian);
    }
}

int main(int argc, char **argv)
{
    struct bench s = {.runs = bench_argument(argc, argv, 1, 5), .width = (size_t)bench_argument(argc, argv, 3, 4096)};
    int most = bench_argument(argc, argv, 2, 2);
    size_t inputs = TOKENS * (s.width > IN ? s.width : IN);
    size_t outputs = s.width * s.width > (size_t)TOKENS * OUT ? s.width * s.width : (size_t)TOKENS * OUT;
    s.x = bench_tokens(1, inputs);
    s.w = bench_normal((size_t)IN * OUT, 0.02f);
    s.y = bench_memory(outputs, sizeof *s.y);
    s.x16 = bench_memory(inputs, sizeof *s.x16);
    for (size_t i = 0; i < inputs; i++)
        s.x16[i] = qnti_f32_to_bf16(s.x[i]);
    for (s.threads = 1; s.threads <= most; s.threads++) {
        s.ctx = bench_context(s.threads);
        bench_check(s.ctx, qnt_recipe_parse(s.ctx, "gptq", &s.recipe));
        linears(&s);
        hessians(&s);
        qnt_recipe_destroy(s.recipe);
        qnt_context_destroy(s.ctx);
    }
    free(s.x);
    free(s.w);
    free(s.y);
    free(s.x16);
    return EXIT_SUCCESS;
}
