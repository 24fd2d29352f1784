/*
 * kmeans.c - weighted k-means in one dimension, solved exactly for each row.
 *
 *   D_k(b) = min over a of D_k-1(a) + cost(a, b)
 *
 * over the distinct numbers x_1 < x_2 < ..., cost(a, b) the weighted square
 * error of x_a .. x_b-1 about their mean, by prefix sums in f64 of numbers less
 * their mean: without that the cost is lost in cancellation. The best a rises
 * with b and with k, so that what is known of neighbours bounds each search:
 * O(K n log n) (squeezellm.md). Levels are means; codes the nearest levels as
 * they are stored.
 */
#include "solve/solve.h"

#include <math.h>
#include <string.h>
#include "base/number.h"

enum { ROWS_PER_TASK = 16, DIGIT = 11, DIGITS = 3 };

/* Memory for one row of `cols` numbers; vectors of prefixes have one more. */
struct scratch {
    size_t n;                    /* distinct numbers */
    uint64_t *key[2];            /* order of a number in the upper half, its column in the lower */
    float *x;                    /* ascending, */
    double *weight;              /* of each, that of equal ones summed */
    double *sum0, *sum1, *sum2;  /* of the first b: weights, times y, times y^2; y = x - mean */
    double *before, *here;       /* D_k-1, D_k of the first b */
    uint32_t *cut;               /* [levels][cols + 1] the best a */
    size_t cut_stride;
};

static void scratch_free(qnt_context *ctx, struct scratch *s)
{
    qnti_free(ctx, s->key[0]);
    qnti_free(ctx, s->key[1]);
    qnti_free(ctx, s->x);
    qnti_free(ctx, s->sum0);
    qnti_free(ctx, s->cut);
}

static qnt_status scratch_create(qnt_context *ctx, size_t cols, size_t levels, struct scratch *s)
{
    enum { VECTORS = 6 };
    double **const vectors[VECTORS] = {&s->sum0, &s->sum1, &s->sum2, &s->before, &s->here, &s->weight};
    size_t n = cols + 1;
    s->cut_stride = n;
    QNT_TRY(QNTI_NEW_RAW(ctx, cols, &s->key[0]));
    QNT_TRY(QNTI_NEW_RAW(ctx, cols, &s->key[1]));
    QNT_TRY(QNTI_NEW_RAW(ctx, cols, &s->x));
    QNT_TRY(QNTI_NEW_RAW(ctx, VECTORS * n, &s->sum0));
    for (size_t i = 1; i < VECTORS; i++)
        *vectors[i] = s->sum0 + i * n;
    return QNTI_NEW_RAW(ctx, levels * n, &s->cut);
}

/* --- the points of a row, ascending --- */

/* Which numbers of a row count: in turn until there are some. */
enum choice { CHOOSE_WEIGHTED, CHOOSE_UNMASKED, CHOOSE_ALL };

/* A row, [cols] each. */
struct row {
    const float *w, *weight;     /* weight NULL: all 1 */
    const uint8_t *mask;         /* or NULL */
    size_t cols;
    enum choice choice;
};

static bool counts(const struct row *r, size_t c)
{
    if (r->choice == CHOOSE_ALL)
        return true;
    if (r->mask && r->mask[c])
        return false;
    return r->choice == CHOOSE_UNMASKED || (r->w[c] != 0 && (!r->weight || r->weight[c] > 0));
}

/* Numbers ascend as these do. */
static uint32_t order_of(float x)
{
    uint32_t u = qnti_bits(x);
    return u ^ (u >> 31 ? UINT32_MAX : UINT32_C(1) << 31);
}

static size_t choose(const struct row *r, uint64_t *key)
{
    size_t n = 0;
    for (size_t c = 0; c < r->cols; c++)
        if (counts(r, c))
            key[n++] = (uint64_t)order_of(r->w[c]) << 32 | c;
    return n;
}

/* By the upper halves, digit by digit; equal ones stay in order. The result is in key[1]. */
static void sort(uint64_t *const key[2], size_t n)
{
    for (unsigned d = 0; d < DIGITS; d++) {
        const uint64_t *from = key[d % 2];
        uint64_t *to = key[(d + 1) % 2];
        uint32_t place[(1 << DIGIT) + 1] = {0};
        unsigned shift = 32 + d * DIGIT, mask = (1 << DIGIT) - 1;
        for (size_t i = 0; i < n; i++)
            place[(from[i] >> shift & mask) + 1]++;
        for (size_t i = 0; i < mask; i++)
            place[i + 1] += place[i];
        for (size_t i = 0; i < n; i++)
            to[place[from[i] >> shift & mask]++] = from[i];
    }
}

static void load_points(struct row *r, struct scratch *s)
{
    size_t found = 0;
    for (r->choice = CHOOSE_WEIGHTED; (found = choose(r, s->key[0])) == 0 && r->choice < CHOOSE_ALL; r->choice++)
        ;
    sort(s->key, found);
    s->n = 0;
    for (size_t i = 0; i < found; i++) {
        size_t c = (uint32_t)s->key[1][i];
        double weight = r->choice == CHOOSE_WEIGHTED && r->weight ? (double)r->weight[c] : 1;
        if (s->n && s->x[s->n - 1] == r->w[c]) {
            s->weight[s->n - 1] += weight;
            continue;
        }
        s->x[s->n] = r->w[c];
        s->weight[s->n++] = weight;
    }
}

/* --- the levels --- */

static void sum_prefixes(struct scratch *s)
{
    double total = 0, mean = 0;
    for (size_t i = 0; i < s->n; i++) {
        total += s->weight[i];
        mean += s->weight[i] * (double)s->x[i];
    }
    mean /= total;
    s->sum0[0] = s->sum1[0] = s->sum2[0] = 0;
    for (size_t i = 0; i < s->n; i++) {
        double w = s->weight[i], y = (double)s->x[i] - mean;
        s->sum0[i + 1] = s->sum0[i] + w;
        s->sum1[i + 1] = s->sum1[i] + w * y;
        s->sum2[i + 1] = s->sum2[i] + w * y * y;
    }
}

/* The best cut of the first b within lo .. hi, the leftmost of several. */
static void best_cut(struct scratch *s, size_t b, size_t lo, size_t hi, uint32_t *cut)
{
    const double *sum0 = s->sum0, *sum1 = s->sum1, *sum2 = s->sum2, *before = s->before;
    double all0 = sum0[b], all1 = sum1[b], all2 = sum2[b], least = INFINITY;
    size_t best = lo;
    for (size_t a = lo; a <= hi && before[a] < least; a++) {
        double first = all1 - sum1[a], cost = all2 - sum2[a] - first * first / (all0 - sum0[a]);
        double value = before[a] + (cost > 0 ? cost : 0);
        if (value < least) {
            least = value;
            best = a;
        }
    }
    s->here[b] = least;
    cut[b] = (uint32_t)best;
}

/* D_k(b) for b of first .. last, halving strides: what stands to both sides of b is known by then. */
static void solve_layer(struct scratch *s, size_t k, size_t first, size_t last)
{
    uint32_t *cut = s->cut + (k - 1) * s->cut_stride;
    const uint32_t *below = cut - s->cut_stride;
    size_t stride = 1;
    best_cut(s, last, qnti_max(k - 1, below[last - 1]), last - 1, cut);
    while (stride < last - first)
        stride *= 2;
    for (; stride; stride /= 2)
        for (size_t b = first + stride - 1; b < last; b += 2 * stride) {
            size_t lo = qnti_max(k - 1, below[b]);
            if (b >= first + stride)
                lo = qnti_max(lo, cut[b - stride]);
            best_cut(s, b, lo, qnti_max(lo, qnti_min(b - 1, cut[qnti_min(b + stride, last)])), cut);
        }
}

/* The mean of points a .. b-1, summed anew: of a small weight beside large ones the prefixes have no digits. */
static float mean_of(const struct scratch *s, size_t a, size_t b)
{
    double weight = 0, sum = 0;
    for (size_t i = a; i < b; i++) {
        weight += s->weight[i];
        sum += s->weight[i] * ((double)s->x[i] - (double)s->x[a]);
    }
    return fminf((float)((double)s->x[a] + sum / weight), s->x[b - 1]);
}

static void solve(struct scratch *s, size_t levels, float *level)
{
    size_t n = s->n;
    sum_prefixes(s);
    for (size_t b = 1; b <= n; b++) {
        double cost = s->sum2[b] - s->sum1[b] * s->sum1[b] / s->sum0[b];
        s->before[b] = fmax(cost, 0);
        s->cut[b] = 0;
    }
    for (size_t k = 2; k <= levels; k++) { /* each level that is still to come needs a point */
        double *swap = s->before;
        solve_layer(s, k, k == levels ? n : k, n - (levels - k));
        s->before = s->here;
        s->here = swap;
    }
    for (size_t k = levels, b = n; k > 0; k--) {
        size_t a = s->cut[(k - 1) * s->cut_stride + b];
        level[k - 1] = mean_of(s, a, b);
        b = a;
    }
}

static void find_levels(struct scratch *s, size_t levels, qnt_dtype type, float *level)
{
    if (s->n > levels)
        solve(s, levels, level);
    else
        for (size_t k = 0; k < levels; k++)
            level[k] = s->x[qnti_min(k, s->n - 1)];
    for (size_t k = 0; k < levels; k++)
        level[k] = qnti_round_to(type, level[k]);
}

/* --- codes --- */

/* The nearest of n ascending levels, the first of equals; distances in f64. */
static uint16_t nearest(const float *level, size_t n, float x)
{
    size_t at = 0;
    while (n > 1) { /* to the first that is not below x, or the last */
        size_t half = n / 2;
        at += level[at + half - 1] < x ? half : 0;
        n -= half;
    }
    if (at && (double)x - (double)level[at - 1] <= fabs((double)level[at] - (double)x))
        at--;
    while (at && level[at - 1] == level[at])
        at--;
    return (uint16_t)at;
}

struct task {
    qnt_context *ctx;
    const struct qnti_kmeans *job;
    struct qnti_numbers *q;
};

static void solve_row(const struct task *t, size_t r, struct scratch *s, uint16_t *code)
{
    const struct qnti_kmeans *job = t->job;
    size_t cols = t->q->cols, levels = t->q->grid.levels;
    float *level = t->q->codebook->value + r * t->q->codebook->cols;
    struct row row = {.w = job->w + r * cols, .weight = job->weight ? job->weight + r * job->stride : NULL,
                      .mask = job->mask ? job->mask + r * cols : NULL, .cols = cols};
    load_points(&row, s);
    find_levels(s, levels, t->q->codebook->grid.float_type, level);
    for (size_t c = 0; c < cols; c++)
        code[c] = nearest(level, levels, row.mask && row.mask[c] ? 0 : row.w[c]);
    qnti_numbers_put_codes(t->q, r, 0, cols, code);
}

static qnt_status solve_rows(void *arg, size_t index)
{
    const struct task *t = arg;
    struct scratch s = {0};
    uint16_t *code = NULL;
    qnt_status status;
    QNT_CHECK(scratch_create(t->ctx, t->q->cols, t->q->grid.levels, &s));
    QNT_CHECK(QNTI_NEW_RAW(t->ctx, t->q->cols, &code));
    for (size_t r = index * ROWS_PER_TASK; r < qnti_min(t->q->rows, (index + 1) * ROWS_PER_TASK); r++)
        solve_row(t, r, &s, code);
cleanup:
    scratch_free(t->ctx, &s);
    qnti_free(t->ctx, code);
    return status;
}

qnt_status qnti_kmeans(qnt_context *ctx, const struct qnti_kmeans *job, struct qnti_numbers *q)
{
    struct task t = {ctx, job, q};
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, ROWS_PER_TASK), solve_rows, &t);
}
