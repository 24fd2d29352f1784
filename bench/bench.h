/*
 * bench.h - what the benchmarks share: clocks, numbers, one figure a line.
 */
#ifndef BENCH_H
#define BENCH_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <quant/context.h>

/*
 * Seconds of a run on `threads` threads: with one the time that the process computes, so that others on the machine
 * count less; with more the time on the wall.
 */
static inline double bench_clock(int threads)
{
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void bench_print(const char *name, int threads, double value, const char *unit)
{
    printf("%s_%d_thread%s %.4g %s\n", name, threads, threads == 1 ? "" : "s", value, unit);
    fflush(stdout);
}

/* Ends the program with the context's message if something failed. */
static inline void bench_check(const qnt_context *context, qnt_status status)
{
    if (status == QNT_OK)
        return;
    fprintf(stderr, "%s\n", context ? qnt_context_message(context) : "no context");
    exit(EXIT_FAILURE);
}

static inline qnt_context *bench_context(int threads)
{
    qnt_context_options options = {.threads = threads, .blas_one_thread = true};
    qnt_context *context;
    bench_check(NULL, qnt_context_create(&options, &context));
    return context;
}

static inline void *bench_memory(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory) {
        fprintf(stderr, "no memory for %zu x %zu bytes\n", count, size);
        exit(EXIT_FAILURE);
    }
    return memory;
}

/* Argument i, a number from 1 on, or `otherwise` without it; ends the program where it is something else. */
static inline int bench_argument(int argc, char **argv, int i, int otherwise)
{
    char *end;
    if (i >= argc)
        return otherwise;
    long value = strtol(argv[i], &end, 10);
    if (end == argv[i] || *end || value < 1 || value > INT32_MAX) {
        fprintf(stderr, "%s: argument %d is \"%s\", not a number from 1 on: see the head of %s.c\n", argv[0], i, argv[i],
                strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0]);
        exit(EXIT_FAILURE);
    }
    return (int)value;
}

/* About normal, by the sum of four uniform numbers. */
static inline float *bench_normal(size_t n, float sigma)
{
    float *x = bench_memory(n, sizeof *x);
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        int32_t sum = 0;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (int k = 0; k < 4; k++)
            sum += (int16_t)(state >> 16 * k);
        x[i] = sigma * (float)sum / 37837.0f;
    }
    return x;
}

/* Inputs of a layer (tokens, in): channels of uneven size that hang together through what their neighbours hold. */
static inline float *bench_tokens(size_t tokens, size_t in)
{
    float *x = bench_normal(tokens * in, 1);
    for (size_t t = 0; t < tokens; t++)
        for (size_t c = 0; c < in; c++) {
            float *at = x + t * in + c, size = c % 97 == 0 ? 12.0f : 0.5f + (float)(c % 13) / 8;
            *at = size * *at + (c ? 0.6f * at[-1] : 0);
        }
    return x;
}

#endif
