/*
 * replay.c - a fuzz target in the plain test run: its seeds, then mutations of them, always the same ones.
 *
 *     replay_NAME FOLDER COUNT
 *
 * feeds every file of FOLDER (in order of name) and COUNT mutants. The fuzzer itself finds more; this guards what it
 * found and the obvious.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/random.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

enum { MOST_SEEDS = 256, MOST_BYTES = 1 << 16 };

struct seed {
    unsigned char *bytes;
    size_t n;
};

static void require(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

static struct seed read_seed(const char *folder, const char *name)
{
    struct seed seed = {malloc(MOST_BYTES), 0};
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "rb");
    require(file && seed.bytes, path);
    seed.n = fread(seed.bytes, 1, MOST_BYTES, file);
    fclose(file);
    return seed;
}

static size_t read_seeds(const char *folder, struct seed *seeds)
{
    struct dirent **entries;
    int found = scandir(folder, &entries, NULL, alphasort);
    size_t count = 0;
    require(found >= 0, folder);
    for (int i = 0; i < found; i++) {
        if (entries[i]->d_name[0] != '.' && count < MOST_SEEDS)
            seeds[count++] = read_seed(folder, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return count;
}

/* A copy that ends where it ends, so that a sanitizer sees a byte too far. */
static void feed(const unsigned char *bytes, size_t n)
{
    unsigned char *copy = malloc(n ? n : 1);
    require(copy != NULL, "memory");
    memcpy(copy, bytes, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static size_t below(struct qnti_random *random, size_t n)
{
    return n ? (size_t)(qnti_random_next(random) % n) : 0;
}

/* One change: a bit, a byte, a word of an awkward number, a cut, a run moved elsewhere, a digit. */
static size_t mutate(struct qnti_random *random, unsigned char *bytes, size_t n)
{
    static const uint64_t awkward[] = {0,         1,           UINT64_MAX, INT64_MAX, UINT32_MAX,
                                       INT32_MAX, 0x80000000u, 0xffffu,    1u << 20};
    size_t at = below(random, n), run = 1 + below(random, 16), to = below(random, n);
    uint64_t word = awkward[below(random, sizeof awkward / sizeof *awkward)];
    if (n == 0)
        return 0;
    switch (below(random, 6)) {
    case 0:
        bytes[at] ^= (unsigned char)(1u << below(random, 8));
        return n;
    case 1:
        bytes[at] = (unsigned char)qnti_random_next(random);
        return n;
    case 2:
        run = below(random, 2) ? 4 : 8;
        memcpy(bytes + at, &word, run < n - at ? run : n - at);
        return n;
    case 3:
        return below(random, 4) ? n : at;
    case 4:
        run = run < n - at ? run : n - at;
        memmove(bytes + to, bytes + at, run < n - to ? run : n - to);
        return n;
    default:
        while (at < n && !(bytes[at] >= '0' && bytes[at] <= '9'))
            at++;
        if (at < n)
            bytes[at] = (unsigned char)('0' + below(random, 10));
        return n;
    }
}

int main(int argc, char **argv)
{
    static struct seed seeds[MOST_SEEDS];
    static unsigned char mutant[MOST_BYTES];
    struct qnti_random random;
    size_t count, mutants = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    if (argc != 3) {
        fprintf(stderr, "usage: %s FOLDER COUNT\n", argv[0]);
        return 2;
    }
    count = read_seeds(argv[1], seeds);
    require(count > 0, "no seeds");
    qnti_random_seed(&random, 1);
    feed(mutant, 0);
    for (size_t i = 0; i < count; i++)
        feed(seeds[i].bytes, seeds[i].n);
    for (size_t i = 0; i < mutants; i++) {
        const struct seed *seed = &seeds[i % count];
        size_t n = seed->n;
        memcpy(mutant, seed->bytes, n);
        for (size_t k = 1 + below(&random, 4); k > 0; k--)
            n = mutate(&random, mutant, n);
        feed(mutant, n);
    }
    for (size_t i = 0; i < count; i++)
        free(seeds[i].bytes);
    return 0;
}
