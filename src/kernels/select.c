/*
 * select.c - which tables this machine can run.
 *
 * Each set contains the one before it, so what a machine can do is a level.
 * The compiler's run-time support looks at the processor and at the registers
 * that the operating system saves. This file must be built without wide
 * instructions: were they on everywhere, the plain code would already fail on
 * the machines that it is there for.
 */
#include <string.h>

#include "kernels/scalar.h"

#ifdef __AVX2__
#error "build without -mavx2, -march=native and the like: kernels/ chooses instructions at run time"
#endif

enum { LEVELS = 3 };

static const struct qnti_kernels *const tables[LEVELS][LEVELS + 1] = {
    {&qnti_kernels_scalar},
    {&qnti_kernels_scalar, &qnti_kernels_avx2},
    {&qnti_kernels_scalar, &qnti_kernels_avx2, &qnti_kernels_avx512},
};

#ifdef __x86_64__
#include <cpuid.h>

/* Not every compiler's __builtin_cpu_supports knows f16c. Its registers are AVX's, which are asked for beside. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static size_t machine_level(void)
{
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()))
        return 0;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")))
        return 1;
    return 2;
}
#else
static size_t machine_level(void)
{
    return 0;
}
#endif

const struct qnti_kernels *const *qnti_kernels_available(size_t *count)
{
    size_t level = machine_level();
    if (count)
        *count = level + 1;
    return tables[level];
}

const struct qnti_kernels *qnti_kernels_select(const char *name)
{
    size_t count;
    const struct qnti_kernels *const *available = qnti_kernels_available(&count);
    if (!name)
        return available[count - 1];
    for (size_t i = 0; i < count; i++)
        if (strcmp(available[i]->name, name) == 0)
            return available[i];
    return NULL;
}
