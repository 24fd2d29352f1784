/*
 * bench_kernels.c - the speed of every kernel of every table that this machine can run.
 *
 * Lines "KERNEL_TABLE_WHERE value GB/s": bytes read plus bytes written over the
 * fastest of several runs; WHERE is `cache` (arrays within the second level) or
 * `memory` (arrays beyond the last). Grids are called by groups of 128 numbers,
 * packing by rows of 4096. An argument is the beginning of the names to be run.
 */
#include "base/kernels.h"
#include "bench.h"

enum { CACHE = 32768, MEMORY = 1 << 24, GROUP = 128, ROW = 4096, BLOCK = 32, ROWS = 64, RUNS = 9 };

struct arrays {
    size_t n;
    float *x, *y;
    uint16_t *code;
    uint8_t *bytes;
    unsigned bits;
};

static const float scale = 0.01f, zero = 8.0f, least = -0.08f;

static void f16_to_f32(const struct qnti_kernels *k, const struct arrays *a)
{
    k->f16_to_f32(a->n, a->code, a->y);
}

static void f32_to_f16(const struct qnti_kernels *k, const struct arrays *a)
{
    k->f32_to_f16(a->n, a->x, a->code);
}

static void bf16_to_f32(const struct qnti_kernels *k, const struct arrays *a)
{
    k->bf16_to_f32(a->n, a->code, a->y);
}

static void f32_to_bf16(const struct qnti_kernels *k, const struct arrays *a)
{
    k->f32_to_bf16(a->n, a->x, a->code);
}

static void range(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += GROUP)
        k->range(GROUP, a->x + i, &a->y[i / GROUP * 2], &a->y[i / GROUP * 2 + 1]);
}

static void zero_round(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += GROUP)
        k->zero_round(GROUP, a->x + i, &scale, &zero, 0, 15.0f, a->code + i, NULL);
}

static void zero_round_trip(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += GROUP)
        k->zero_round(GROUP, a->x + i, &scale, &zero, 0, 15.0f, NULL, a->y + i);
}

static void zero_value(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += GROUP)
        k->zero_value(GROUP, a->code + i, &scale, &zero, 0, a->y + i);
}

static void min_round(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += GROUP)
        k->min_round(GROUP, a->x + i, &scale, &least, 0, 15.0f, a->code + i, NULL);
}

static void min_value(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += GROUP)
        k->min_value(GROUP, a->code + i, &scale, &least, 0, a->y + i);
}

static void axpy(const struct qnti_kernels *k, const struct arrays *a)
{
    k->axpy(a->n, 1e-3f, a->x, a->y);
}

/* Forms of 32 x 32 numbers for 64 rows: what a refit of scales does with blocks of 32 columns. */
static void forms(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += BLOCK * ROWS)
        k->forms(ROWS, BLOCK, BLOCK, a->x, BLOCK, a->x + i, ROWS, 1, (const float *const[]){a->x + i},
                 (float *const[]){a->y + i / BLOCK});
}

static void pack(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += ROW)
        k->pack(ROW, a->bits, a->code + i, a->bytes + i * a->bits / 8);
}

static void unpack(const struct qnti_kernels *k, const struct arrays *a)
{
    for (size_t i = 0; i < a->n; i += ROW)
        k->unpack(ROW, a->bits, a->bytes + i * a->bits / 8, a->code + i);
}

static void copy(const struct qnti_kernels *k, const struct arrays *a)
{
    (void)k;
    memcpy(a->y, a->x, a->n * sizeof *a->x);
}

struct kernel {
    const char *name;
    void (*run)(const struct qnti_kernels *k, const struct arrays *a);
    unsigned bits; /* of packing */
    double bytes;  /* read and written for each number, without the packed ones */
};

static const struct kernel kernels[] = {
    {"f16_to_f32", f16_to_f32, 0, 6},
    {"f32_to_f16", f32_to_f16, 0, 6},
    {"bf16_to_f32", bf16_to_f32, 0, 6},
    {"f32_to_bf16", f32_to_bf16, 0, 6},
    {"range", range, 0, 4},
    {"zero_round", zero_round, 0, 6},
    {"zero_round_trip", zero_round_trip, 0, 8},
    {"zero_value", zero_value, 0, 6},
    {"min_round", min_round, 0, 6},
    {"min_value", min_value, 0, 6},
    {"axpy", axpy, 0, 12},
    {"forms", forms, 0, 4},
    {"pack1", pack, 1, 2},
    {"pack2", pack, 2, 2},
    {"pack3", pack, 3, 2},
    {"pack4", pack, 4, 2},
    {"pack5", pack, 5, 2},
    {"pack6", pack, 6, 2},
    {"pack8", pack, 8, 2},
    {"pack11", pack, 11, 2},
    {"pack16", pack, 16, 2},
    {"unpack1", unpack, 1, 2},
    {"unpack2", unpack, 2, 2},
    {"unpack3", unpack, 3, 2},
    {"unpack4", unpack, 4, 2},
    {"unpack5", unpack, 5, 2},
    {"unpack6", unpack, 6, 2},
    {"unpack8", unpack, 8, 2},
    {"unpack11", unpack, 11, 2},
    {"unpack16", unpack, 16, 2},
};

static const struct kernel memory_copy = {"memcpy", copy, 0, 8};

static double fastest(const struct kernel *kernel, const struct qnti_kernels *k, const struct arrays *a)
{
    size_t repetitions = MEMORY / a->n / 8 + 1;
    double best = 1e9;
    for (int run = 0; run < RUNS; run++) {
        double start = bench_clock(1);
        for (size_t i = 0; i < repetitions; i++)
            kernel->run(k, a);
        double seconds = (bench_clock(1) - start) / (double)repetitions;
        best = seconds < best ? seconds : best;
    }
    return best;
}

/* Numbers within the grid, codes of moderate f16 numbers: no path of a kernel is slower than the rest. */
static void fill(const struct arrays *a)
{
    uint32_t state = 1;
    for (size_t i = 0; i < MEMORY; i++) {
        state = state * 1664525u + 1013904223u;
        a->x[i] = (float)(int32_t)state * 0x1p-35f;
        a->y[i] = 0.0f;
        a->code[i] = (uint16_t)(0x3000u | state >> 22);
        a->bytes[2 * i] = a->bytes[2 * i + 1] = (uint8_t)(state >> 24);
    }
}

static void measure(const struct kernel *kernel, const struct qnti_kernels *k, const char *table, struct arrays *a)
{
    static const struct {
        const char *name;
        size_t n;
    } places[] = {{"cache", CACHE}, {"memory", MEMORY}};
    a->bits = kernel->bits;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        a->n = places[i].n;
        double bytes = (kernel->bytes + kernel->bits / 8.0) * (double)a->n;
        printf("%s%s_%s %.2f GB/s\n", kernel->name, table, places[i].name, bytes / fastest(kernel, k, a) * 1e-9);
    }
}

int main(int argc, char **argv)
{
    const char *prefix = argc > 1 ? argv[1] : "";
    size_t count;
    const struct qnti_kernels *const *tables = qnti_kernels_available(&count);
    struct arrays a = {.x = bench_memory(MEMORY, sizeof *a.x),
                       .y = bench_memory(MEMORY, sizeof *a.y),
                       .code = bench_memory(MEMORY, sizeof *a.code),
                       .bytes = bench_memory(2 * MEMORY, 1)};
    fill(&a);
    measure(&memory_copy, NULL, "", &a);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        char table[32];
        if (strncmp(kernels[i].name, prefix, strlen(prefix)) != 0)
            continue;
        for (size_t t = 0; t < count; t++) {
            snprintf(table, sizeof table, "_%s", tables[t]->name);
            measure(&kernels[i], tables[t], table, &a);
        }
    }
    free(a.x);
    free(a.y);
    free(a.code);
    free(a.bytes);
    return EXIT_SUCCESS;
}
