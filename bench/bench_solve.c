/*
 * bench_solve.c - GPTQ of one layer, whole and by its parts, against one sgemm of the same order in the same run.
 *
 *   bench_solve [order [runs [most threads [beginning of a part's name]]]]      default: 4096 3 2
 *
 * sgemm is OpenBLAS's own product of three square matrices on as many threads,
 * run in turn with what it is compared with; of each the fastest run counts.
 * `gptq` is qnt_quantize (4 bits, groups of 128, 2048 tokens): factor, solver,
 * codes, report; the Hessian is measured before. Parts: the factor, error
 * feedback, and behind it for q4_0 blocks two passes of descent, on the codes
 * or on scales too.
 */
#include <cblas.h>
#include <quant/quant.h>

#include "bench.h"
#include "calib/calib.h"
#include "linalg/factor.h"
#include "solve/solve.h"

enum { TOKENS = 2048, GROUP = 128, BLOCK = 128 };

struct bench {
    qnt_context *ctx;
    int threads;
    size_t n;
    double sgemm; /* seconds of the fastest */
    float *w, *h, *u, *a, *b, *c;
    qnt_calib *calib;
    qnt_recipe *recipe;
    struct qnti_numbers *q, *start; /* `start` is what a part begins with */
};

static void run_sgemm(struct bench *s)
{
    int n = (int)s->n;
    openblas_set_num_threads(s->threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, s->a, n, s->b, n, 0, s->c, n);
    openblas_set_num_threads(1);
}

static void run_gptq(struct bench *s)
{
    qnt_layer layer = {.name = "layer", .weight = qnt_matrix_f32(s->w, s->n, s->n), .calib = s->calib};
    qnt_qlinear *q;
    bench_check(s->ctx, qnt_quantize(s->ctx, s->recipe, &layer, &q));
    qnt_qlinear_destroy(q);
}

static void run_factor(struct bench *s)
{
    struct qnti_damping damping = {.share = 0.01};
    bench_check(s->ctx, qnti_inverse_factor(s->ctx, s->h, s->n, &damping, s->u));
}

static void feed_back(struct bench *s, struct qnti_numbers *q, bool fixed)
{
    struct qnti_feedback f = {.w = s->w, .factor = s->u, .block = BLOCK, .fixed = fixed};
    bench_check(s->ctx, qnti_error_feedback(s->ctx, &f, q));
}

static void run_feedback(struct bench *s)
{
    feed_back(s, s->q, false);
}

static void run_descent(struct bench *s)
{
    bench_check(s->ctx, qnti_descend(s->ctx, s->w, s->h, 2, false, s->q));
}

static void run_refit(struct bench *s)
{
    bench_check(s->ctx, qnti_descend(s->ctx, s->w, s->h, 2, true, s->q));
}

static void numbers_of(struct bench *s, const struct qnti_grid *grid)
{
    qnti_numbers_free(s->ctx, s->q);
    qnti_numbers_free(s->ctx, s->start);
    bench_check(s->ctx, qnti_numbers_create(s->ctx, grid, s->n, s->n, &s->q));
    bench_check(s->ctx, qnti_numbers_create(s->ctx, grid, s->n, s->n, &s->start));
}

/* Back to where the part begins: a second refit or pass of descent would find less to do. */
static void restart(struct bench *s)
{
    memcpy(s->q->code8, s->start->code8, s->n * s->n);
    memcpy(s->q->scale->value, s->start->scale->value, s->q->scale->rows * s->q->scale->cols * sizeof(float));
}

static void prepare_affine(struct bench *s)
{
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(s->ctx), 4, GROUP, QNT_F16);
    run_factor(s);
    numbers_of(s, &grid);
}

static void prepare_blocks(struct bench *s)
{
    struct qnti_grid grid;
    qnti_ggml_grid(qnti_context_kernels(s->ctx), "q4_0", &grid);
    run_factor(s);
    numbers_of(s, &grid);
    bench_check(s->ctx, qnti_fit_all(s->ctx, s->w, NULL, NULL, s->start));
    feed_back(s, s->start, true);
}

static const struct part {
    const char *name;
    void (*prepare)(struct bench *s);
    void (*run)(struct bench *s);
} parts[] = {
    {"gptq", NULL, run_gptq},
    {"factor", NULL, run_factor},
    {"feedback", prepare_affine, run_feedback},
    {"descent_q4_0", prepare_blocks, run_descent},
    {"refit_q4_0", prepare_blocks, run_refit},
};

static double time_of(struct bench *s, void (*run)(struct bench *))
{
    double begin = bench_clock(s->threads);
    run(s);
    return bench_clock(s->threads) - begin;
}

static void measure(struct bench *s, const struct part *part, int runs)
{
    double best = INFINITY, sgemm = INFINITY;
    if (part->prepare)
        part->prepare(s);
    for (int i = 0; i < runs; i++) {
        sgemm = fmin(sgemm, time_of(s, run_sgemm));
        if (part->prepare)
            restart(s);
        best = fmin(best, time_of(s, part->run));
    }
    sgemm = fmin(sgemm, time_of(s, run_sgemm));
    bench_print(part->name, s->threads, best / sgemm, "sgemm");
    s->sgemm = fmin(s->sgemm, sgemm);
}

static void create(struct bench *s, size_t n, int threads)
{
    float *x = bench_tokens(TOKENS, n);
    *s = (struct bench){.ctx = bench_context(threads), .threads = threads, .n = n, .sgemm = INFINITY};
    s->w = bench_normal(n * n, 0.02f);
    s->a = bench_normal(n * n, 1);
    s->b = bench_normal(n * n, 1);
    s->c = bench_memory(n * n, sizeof *s->c);
    s->h = bench_memory(n * n, sizeof *s->h);
    s->u = bench_memory(n * n, sizeof *s->u);
    bench_check(s->ctx, qnt_recipe_parse(s->ctx, "gptq:bits=4,group_size=128", &s->recipe));
    bench_check(s->ctx, qnt_calib_create(s->ctx, s->recipe, n, &s->calib));
    bench_check(s->ctx, qnt_calib_add(s->calib, qnt_matrix_f32(x, TOKENS, n)));
    bench_check(s->ctx, qnt_calib_hessian(s->calib, s->h));
    double add = 0.01 * qnti_mean_diagonal(s->h, n);
    for (size_t i = 0; i < n; i++)
        s->h[i * n + i] += (float)add;
    free(x);
}

static void destroy(struct bench *s)
{
    float *memory[] = {s->w, s->h, s->u, s->a, s->b, s->c};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
    qnti_numbers_free(s->ctx, s->q);
    qnti_numbers_free(s->ctx, s->start);
    qnt_calib_destroy(s->calib);
    qnt_recipe_destroy(s->recipe);
    qnt_context_destroy(s->ctx);
}

int main(int argc, char **argv)
{
    size_t n = (size_t)bench_argument(argc, argv, 1, 4096);
    int runs = bench_argument(argc, argv, 2, 3), most = bench_argument(argc, argv, 3, 2);
    const char *prefix = argc > 4 ? argv[4] : "";
    for (int threads = 1; threads <= most; threads++) {
        struct bench s;
        create(&s, n, threads);
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            if (strncmp(parts[i].name, prefix, strlen(prefix)) == 0)
                measure(&s, &parts[i], runs);
        bench_print("sgemm", threads, 2e-9 * pow((double)n, 3) / s.sgemm, "Gflop/s");
        destroy(&s);
    }
    return EXIT_SUCCESS;
}
