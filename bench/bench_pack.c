/*
 * bench_pack.c - round to nearest and packing against the rate at which the memory is read.
 *
 *   bench_pack [runs [most threads]]      default: 5 2
 *
 * read: the sum of an array far larger than any cache, by the context's
 * threads. rtn: qnt_quantize of f32 weights, 4 bits in groups of 128, with its
 * check of the weights and its report; nearest: its fit and codes alone; bytes
 * are those of the weights. pack_FORMAT: qnt_pack; bytes are the codes read and
 * the bytes written.
 */
#include <quant/quant.h>

#include "base/kernels.h"
#include "bench.h"
#include "solve/solve.h"

enum { OUT = 8192, IN = 4096, PIECE = 1 << 16 };

struct bench {
    qnt_context *ctx;
    int threads, runs;
    const float *w;
    const char *format;
    qnt_recipe *recipe;
    qnt_qlinear *q;
    struct qnti_numbers *numbers;
    void *buffer;
    size_t bytes;
    float sums[(size_t)OUT * IN / PIECE];
};

static qnt_status sum_piece(void *arg, size_t index)
{
    enum { LANES = 32 };
    struct bench *s = arg;
    float sum[LANES] = {0};
    for (size_t i = index * PIECE; i < (index + 1) * PIECE; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            sum[k] += s->w[i + k];
    for (size_t k = 1; k < LANES; k++)
        sum[0] += sum[k];
    s->sums[index] = sum[0];
    return QNT_OK;
}

static void run_read(struct bench *s)
{
    bench_check(s->ctx, qnti_parallel(s->ctx, (size_t)OUT * IN / PIECE, sum_piece, s));
}

static void run_rtn(struct bench *s)
{
    qnt_layer layer = {.name = "layer", .weight = qnt_matrix_f32(s->w, OUT, IN), .format = s->format};
    qnt_qlinear_destroy(s->q);
    bench_check(s->ctx, qnt_quantize(s->ctx, s->recipe, &layer, &s->q));
}

static void run_nearest(struct bench *s)
{
    bench_check(s->ctx, qnti_nearest(s->ctx, s->w, NULL, NULL, s->numbers));
}

static void run_pack(struct bench *s)
{
    bench_check(s->ctx, qnt_pack(s->q, s->format, s->buffer, s->bytes));
}

static double fastest(struct bench *s, void (*run)(struct bench *))
{
    double best = INFINITY;
    for (int i = 0; i < s->runs; i++) {
        double begin = bench_clock(s->threads);
        run(s);
        best = fmin(best, bench_clock(s->threads) - begin);
    }
    return best;
}

static void recipe_of(struct bench *s, const char *text)
{
    qnt_recipe_destroy(s->recipe);
    bench_check(s->ctx, qnt_recipe_parse(s->ctx, text, &s->recipe));
}

static void measure_rtn(struct bench *s, double rate)
{
    const double bytes = 4.0 * OUT * IN;
    struct qnti_grid grid = qnti_affine_grid(qnti_context_kernels(s->ctx), 4, 128, QNT_F16);
    bench_check(s->ctx, qnti_numbers_create(s->ctx, &grid, OUT, IN, &s->numbers));
    recipe_of(s, "rtn:bits=4,group_size=128");
    s->format = NULL;
    bench_print("rtn", s->threads, bytes / fastest(s, run_rtn) / rate, "of read");
    bench_print("nearest", s->threads, bytes / fastest(s, run_nearest) / rate, "of read");
    qnti_numbers_free(s->ctx, s->numbers);
}

static bool packs(const char *format)
{
    qnt_layout_info info;
    for (size_t i = 0; qnt_layout_get(i, &info); i++)
        if (strcmp(info.name, format) == 0)
            return info.packs;
    return false;
}

static void measure_pack(struct bench *s, const char *format, double rate)
{
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count;
    char name[32];
    if (!packs(format))
        return;
    recipe_of(s, "rtn");
    s->format = format;
    run_rtn(s);
    bench_check(s->ctx, qnt_packed_tensors(s->q, format, tensors, &count, &s->bytes));
    s->buffer = bench_memory(s->bytes, 1);
    snprintf(name, sizeof name, "pack_%s", format);
    bench_print(name, s->threads, ((double)OUT * IN + (double)s->bytes) / fastest(s, run_pack) / rate, "of read");
    free(s->buffer);
}

int main(int argc, char **argv)
{
    static const char *const formats[] = {"gguf:q4_0", "gptq", "awq"};
    static struct bench s;
    int most = bench_argument(argc, argv, 2, 2);
    float *w = bench_normal((size_t)OUT * IN, 0.02f);
    s.w = w;
    s.runs = bench_argument(argc, argv, 1, 5);
    for (s.threads = 1; s.threads <= most; s.threads++) {
        s.ctx = bench_context(s.threads);
        double rate = 4.0 * OUT * IN / fastest(&s, run_read);
        bench_print("read", s.threads, 1e-9 * rate, "GB/s");
        measure_rtn(&s, rate);
        for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
            measure_pack(&s, formats[i], rate);
        qnt_qlinear_destroy(s.q);
        s.q = NULL;
        qnt_recipe_destroy(s.recipe);
        s.recipe = NULL;
        qnt_context_destroy(s.ctx);
    }
    free(w);
    return EXIT_SUCCESS;
}
