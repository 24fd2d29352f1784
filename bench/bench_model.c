/*
 * bench_model.c - a whole model through plan and run, against the arithmetic that it needs.
 *
 *   bench_model MODEL CALIBRATION [samples [seqlen [recipe [format [most threads]]]]]
 *   default:                       8        512     gptq    gguf:q4_0 2
 *
 * Needed are, for T tokens and each linear (out, in) of the blocks, 2 T out in
 * for its forward pass and out in^2 for error feedback; for each site T in^2
 * for the Hessian and 2/3 in^3 for its factor. `model_share` is that over the
 * time of qnt_plan_create and qnt_plan_run (reading, attention, everything that
 * the recipe does besides, writing and reading back; without the end check of
 * perplexity), as a share of sgemm's rate on as many threads before and behind
 * it.
 */
#include <cblas.h>
#include <sys/stat.h>
#include <unistd.h>
#include <quant/model.h>

#include "bench.h"
#include "checkpoint/model.h"
#include "file/folder.h"
#include "nn/nn.h"

enum { ORDER = 4096, PRODUCTS = 3 };

static double site_flops(const struct qnti_checkpoint *c, size_t block, enum qnti_site site, double tokens)
{
    double in = (double)qnti_site_width(&c->config, site), weights = 0;
    for (const enum qnti_role *role = qnti_site_roles(&c->config, site); *role != QNTI_ROLES; role++) {
        const struct qnti_weight *w = qnti_checkpoint_weight(c, block, *role);
        weights += w ? (double)w->rows * (double)w->cols : 0;
    }
    return 2 * tokens * weights + tokens * in * in + 2.0 / 3.0 * in * in * in + weights * in;
}

static double needed_flops(const qnt_model *model, size_t tokens)
{
    double flops = 0;
    for (size_t b = 0; b < model->checkpoint->config.blocks; b++)
        for (enum qnti_site site = 0; site < QNTI_SITES; site++)
            flops += site_flops(model->checkpoint, b, site, (double)tokens);
    return flops;
}

/* Flops a second of the fastest of some products. */
static double sgemm_rate(int threads)
{
    size_t n = (size_t)ORDER * ORDER;
    float *a = bench_normal(n, 1), *b = bench_normal(n, 1), *c = bench_memory(n, sizeof *c);
    double best = INFINITY;
    openblas_set_num_threads(threads);
    for (int i = 0; i < PRODUCTS; i++) {
        double begin = bench_clock(threads);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, ORDER, ORDER, ORDER, 1, a, ORDER, b, ORDER, 0, c, ORDER);
        best = fmin(best, bench_clock(threads) - begin);
    }
    openblas_set_num_threads(1);
    free(a);
    free(b);
    free(c);
    return 2 * pow(ORDER, 3) / best;
}

/* Seconds of plan and run; *tokens is how many there were. */
static double run(qnt_context *ctx, qnt_model *model, const qnt_quantize_options *options, int threads, size_t *tokens)
{
    qnt_plan *plan;
    qnt_plan_totals totals;
    double begin = bench_clock(threads);
    bench_check(ctx, qnt_plan_create(model, options, &plan));
    bench_check(ctx, qnt_plan_run(plan));
    double seconds = bench_clock(threads) - begin;
    qnt_plan_get_totals(plan, &totals);
    *tokens = totals.tokens;
    qnt_plan_destroy(plan);
    return seconds;
}

static void measure(const char *path, qnt_quantize_options *options, int threads)
{
    qnt_context *ctx = bench_context(threads);
    qnt_model *model;
    size_t tokens;
    double rate = sgemm_rate(threads), seconds, flops;
    bench_check(ctx, qnt_model_open(ctx, path, &model));
    seconds = run(ctx, model, options, threads, &tokens);
    flops = needed_flops(model, tokens);
    rate = fmax(rate, sgemm_rate(threads));
    bench_print("model", threads, seconds, "s");
    bench_print("model_needed", threads, 1e-9 * flops, "Gflop");
    bench_print("sgemm", threads, 1e-9 * rate, "Gflop/s");
    bench_print("model_share", threads, flops / seconds / rate, "of sgemm");
    qnt_model_close(model);
    qnt_context_destroy(ctx);
}

/* The output is one file, or a folder of files. */
static void remove_output(const char *path)
{
    qnt_context *ctx = bench_context(1);
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        qnti_folder_remove(ctx, path);
    else
        unlink(path);
    qnt_context_destroy(ctx);
}

int main(int argc, char **argv)
{
    const char *place = getenv("TMPDIR");
    char folder[256], output[280];
    qnt_quantize_options options = {.no_verify = true};
    int most = bench_argument(argc, argv, 7, 2);
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL CALIBRATION [samples [seqlen [recipe [format [most threads]]]]]\n", argv[0]);
        return EXIT_FAILURE;
    }
    snprintf(folder, sizeof folder, "%s/bench_model.XXXXXX", place ? place : "/tmp");
    if (!mkdtemp(folder)) {
        perror(folder);
        return EXIT_FAILURE;
    }
    snprintf(output, sizeof output, "%s/output", folder);
    options.calibration = argv[2];
    options.samples = (size_t)bench_argument(argc, argv, 3, 8);
    options.seqlen = (size_t)bench_argument(argc, argv, 4, 512);
    options.method = argc > 5 ? argv[5] : "gptq";
    options.format = argc > 6 ? argv[6] : "gguf:q4_0";
    options.output = output;
    for (int threads = 1; threads <= most; threads++) {
        measure(argv[1], &options, threads);
        remove_output(output);
    }
    rmdir(folder);
    return EXIT_SUCCESS;
}
