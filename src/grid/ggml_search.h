/*
 * ggml_search.h - the searches for scales that ggml's block types share.
 *
 * A run is the numbers of one scale. QNTI_LANES runs are searched side by side,
 * one in each lane of a vector register: number i of run l stands at x[i][l].
 * Within a lane every sum is f32 in index order, so a run's result does not
 * depend on its neighbours.
 */
#ifndef QNTI_GGML_SEARCH_H
#define QNTI_GGML_SEARCH_H

#include "base/number.h"
#include "grid/grid.h"

enum { QNTI_LANES = 16, QNTI_RUN_MAX = 32 };

struct qnti_runs {
    size_t n; /* numbers in a run */
    float x[QNTI_RUN_MAX][QNTI_LANES];
    float w[QNTI_RUN_MAX][QNTI_LANES]; /* weight of each number's error, >= 0 */
    float power[QNTI_LANES];           /* mean square of what the weights are relative to */
};

/* value = scale * (code - offset of the grid), or scale * code + min. */
struct qnti_found {
    float scale[QNTI_LANES], min[QNTI_LANES];
    uint16_t code[QNTI_RUN_MAX][QNTI_LANES];
};

/* Steps tried around the range of the numbers: (least + step * i + top) / range for i = 0 .. steps. */
struct qnti_min_search {
    float least, step;
    unsigned steps;
    bool absolute; /* errors count by magnitude, not by square */
};

/* Below this magnitude a run counts as zero: ggml's GROUP_MAX_EPS. */
#define QNTI_GGML_LEAST 1e-15f

/* The number of greatest magnitude of each run, the first of several. */
void qnti_run_extremes(const struct qnti_runs *runs, float extreme[QNTI_LANES]);

/* Levels -nmax .. nmax - 1, code = level + nmax; scales may be negative. Maximizes the explained weighted power. */
void qnti_search_signed(const struct qnti_runs *runs, unsigned nmax, struct qnti_found *found);
/* Levels 0 .. top over a min <= 0, both refitted by least squares for each step tried. */
void qnti_search_min(const struct qnti_runs *runs, unsigned top, const struct qnti_min_search *how,
                     struct qnti_found *found);

/*
 * The nearest integer, ties to even, for |v| < 2^22; beyond that the low bits
 * of the sum, which is what the files of the format were made with.
 */
static inline float qnti_ggml_nearest(float v)
{
    uint32_t u = qnti_bits(v + 12582912.0f); /* 1.5 * 2^23: the integer ends up in the mantissa */
    return (float)((int32_t)(u & 0x007fffffu) - 0x00400000);
}

static inline float qnti_clamp(float v, float lo, float hi)
{
    v = v < hi ? v : hi;
    return v > lo ? v : lo;
}

#endif
