/*
 * random.h - a small generator with a state of its own (splitmix64; Steele, Lea, Flood 2014): same seed, same numbers.
 */
#ifndef QNTI_RANDOM_H
#define QNTI_RANDOM_H

#include <stdint.h>

struct qnti_random {
    uint64_t state;
};

static inline void qnti_random_seed(struct qnti_random *random, uint64_t seed)
{
    random->state = seed;
}

static inline uint64_t qnti_random_next(struct qnti_random *random)
{
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

#endif
