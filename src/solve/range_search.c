/*
 * range_search.c - the scale s of a group that minimizes E(s) = sum (s level(x / s) - x)^2, levels least .. most.
 *
 * As s falls, |x| goes up a level at each breakpoint |x| / (m + 1/2); between
 * two of them E is a parabola C - 2 s B + s^2 A with A = sum level^2, B = sum
 * level x. Breakpoints are counted in buckets, evenly spaced in each octave.
 * Inside a bucket E - s^2 A is concave, A taken at its lower end, so E lies at
 * most A width^2 / 4 below its lower end value: only buckets that can hold the
 * minimum are sorted, and the minimum is exact. Adam moves the range instead
 * (EasyQuant, Tang et al., EMNLP 2023, Algorithm 1).
 */
#include "solve/solve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/number.h"

/* Octaves of s below twice the largest magnitude; breakpoints for a bucket on average; bounds of their number. */
enum { OCTAVES = 20, SHARE = 8, LEAST_LOG = 3, MOST_LOG = 11, MANTISSA = 52, CHUNK_ROWS = 16 };

static const double GAIN = 1e-12; /* of C: less is rounding */

struct breakpoint {
    double s, x;
    double step;                  /* 2 m + 1: how much level^2 rises */
};

/* Sums over what has happened in a bucket. */
struct bucket {
    double a, b;
};

struct sweep {
    qnt_context *ctx;
    const struct qnti_range_search *rule;
    const float *x;
    size_t n;
    double most, c;               /* largest magnitude, sum x^2 */
    unsigned log;                 /* 2^log buckets an octave */
    size_t count, top;            /* buckets; the number of the highest one */
    struct bucket *bucket;        /* [count], from the highest scales down */
    double *half;                 /* [levels to one side] 1 / (m + 1/2) */
    struct breakpoint *point;     /* [capacity] of the buckets that are sorted */
    size_t capacity;
    double best, scale;
};

static uint64_t bits_of(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* Buckets are runs of doubles with the same leading bits. */
static size_t bucket_of(const struct sweep *t, double s)
{
    return t->top - (size_t)(bits_of(s) >> (MANTISSA - t->log));
}

/* The upper end of a bucket; its lower end is that of the next. */
static double upper_end(const struct sweep *t, size_t bucket)
{
    uint64_t u = (uint64_t)(t->top - bucket + 1) << (MANTISSA - t->log);
    double s;
    memcpy(&s, &u, sizeof s);
    return s;
}

static size_t levels_of(const struct sweep *t, float x)
{
    return (size_t)(x > 0 ? t->rule->most : -t->rule->least);
}

/* The minimum of a parabola that belongs to levels of its own: E is nowhere above it. */
static void consider(struct sweep *t, double a, double b)
{
    if (b * b <= (t->c * (1 + GAIN) - t->best) * a) /* c - b^2 / a is no less, without a quotient */
        return;
    t->best = t->c - b * b / a;
    t->scale = b / a;
}

static void count_breakpoints(struct sweep *t)
{
    memset(t->bucket, 0, t->count * sizeof *t->bucket);
    for (size_t i = 0; i < t->n; i++) {
        double x = fabs((double)t->x[i]);
        size_t levels = x > 0 ? levels_of(t, t->x[i]) : 0;
        for (size_t m = 0; m < levels; m++) {
            size_t k = bucket_of(t, x * t->half[m]);
            if (k >= t->count)
                break;
            t->bucket[k].a += (double)(2 * m + 1);
            t->bucket[k].b += x;
        }
    }
}

/* Buckets [*first, *end) hold all minima: those where E at an end, less what it can fall inside, beats the best. */
static void find_buckets(struct sweep *t, size_t *first, size_t *end)
{
    double a = 0, b = 0, before;
    *first = t->count;
    *end = 0;
    for (size_t k = 0; k < t->count; k++) {
        a += t->bucket[k].a;
        b += t->bucket[k].b;
        if (t->bucket[k].a > 0)
            consider(t, a, b);
    }
    a = b = 0;
    before = t->c;
    for (size_t k = 0; k < t->count; k++) {
        double high = upper_end(t, k), low = upper_end(t, k + 1), error;
        bool moves = t->bucket[k].a > 0;
        before = t->c - 2 * high * b + high * high * a;
        a += t->bucket[k].a;
        b += t->bucket[k].b;
        error = t->c - 2 * low * b + low * low * a;
        if (!moves || fmin(before, error) - a * (high - low) * (high - low) / 4 >= t->best)
            continue;
        *first = qnti_min(*first, k);
        *end = k + 1;
    }
}

static int falling(const void *x, const void *y)
{
    const struct breakpoint *a = x, *b = y;
    if (a->s != b->s)
        return a->s < b->s ? 1 : -1;
    return a->x < b->x ? 1 : a->x > b->x ? -1 : 0;
}

static void sort_points(struct breakpoint *point, size_t count)
{
    enum { FEW = 48 };
    if (count > FEW) {
        qsort(point, count, sizeof *point, falling);
        return;
    }
    for (size_t i = 1; i < count; i++) {
        struct breakpoint p = point[i];
        size_t k = i;
        for (; k > 0 && falling(&point[k - 1], &p) > 0; k--)
            point[k] = point[k - 1];
        point[k] = p;
    }
}

/* Breakpoints of the buckets [first, end): how many there are, and as many of them as there is room for. */
static size_t gather(struct sweep *t, size_t first, size_t end)
{
    double high = upper_end(t, first), low = upper_end(t, end);
    size_t count = 0;
    for (size_t i = 0; i < t->n; i++) {
        double x = fabs((double)t->x[i]);
        size_t levels = x > 0 ? levels_of(t, t->x[i]) : 0;
        double from = x / high - 1.5; /* a level early, so that rounding misses none */
        for (size_t m = from > 0 ? (size_t)from : 0; m < levels; m++) {
            double s = x * t->half[m];
            size_t k = bucket_of(t, s);
            if (s < low || k >= end)
                break;
            if (k < first)
                continue;
            if (count < t->capacity)
                t->point[count] = (struct breakpoint){s, x, (double)(2 * m + 1)};
            count++;
        }
    }
    return count;
}

/* The parabola behind each breakpoint of these buckets. */
static qnt_status walk(struct sweep *t, size_t first, size_t end)
{
    size_t count = gather(t, first, end);
    double a = 0, b = 0;
    if (count > t->capacity) {
        qnti_free(t->ctx, t->point);
        t->capacity = 0;
        QNT_TRY(QNTI_NEW_RAW(t->ctx, 2 * count, &t->point));
        t->capacity = 2 * count;
        gather(t, first, end);
    }
    sort_points(t->point, count);
    for (size_t k = 0; k < first; k++) {
        a += t->bucket[k].a;
        b += t->bucket[k].b;
    }
    for (size_t i = 0; i < count; i++) {
        a += t->point[i].step;
        b += t->point[i].x;
        consider(t, a, b);
    }
    return QNT_OK;
}

/* Memory for groups of at most n numbers; the buckets are as fine as their breakpoints pay for. */
static qnt_status sweep_create(struct sweep *t, size_t n)
{
    size_t levels = (size_t)(t->rule->most > -t->rule->least ? t->rule->most : -t->rule->least);
    t->log = LEAST_LOG;
    while (t->log < MOST_LOG && ((size_t)OCTAVES << (t->log + 1)) <= n * levels / SHARE)
        t->log++;
    t->count = (size_t)OCTAVES << t->log;
    QNT_TRY(QNTI_NEW_RAW(t->ctx, t->count, &t->bucket));
    QNT_TRY(QNTI_NEW_RAW(t->ctx, levels, &t->half));
    for (size_t m = 0; m < levels; m++)
        t->half[m] = 1 / ((double)m + 0.5);
    return QNT_OK;
}

static void sweep_free(struct sweep *t)
{
    qnti_free(t->ctx, t->bucket);
    qnti_free(t->ctx, t->half);
    qnti_free(t->ctx, t->point);
}

/* One group; false: nothing but zeros. */
static bool begin(struct sweep *t, const float *x, size_t n)
{
    t->x = x;
    t->n = n;
    t->most = t->c = 0;
    for (size_t i = 0; i < n; i++) {
        t->most = fmax(t->most, fabs((double)x[i]));
        t->c += (double)x[i] * (double)x[i];
    }
    t->best = t->c;
    t->scale = 1;
    if (t->most > 0)
        t->top = (size_t)(bits_of(2 * t->most) >> (MANTISSA - t->log));
    return t->most > 0;
}

static qnt_status exact(struct sweep *t, const float *x, size_t n)
{
    size_t first, end;
    if (!begin(t, x, n))
        return QNT_OK;
    count_breakpoints(t);
    find_buckets(t, &first, &end);
    return first < end ? walk(t, first, end) : QNT_OK;
}

qnt_status qnti_best_scale(qnt_context *ctx, const struct qnti_range_search *rule, const float *x, size_t n,
                           double *scale)
{
    struct sweep t = {.ctx = ctx, .rule = rule};
    qnt_status status = sweep_create(&t, n);
    if (status == QNT_OK)
        status = exact(&t, x, n);
    *scale = t.scale;
    sweep_free(&t);
    return status;
}

/* --- Adam --- */

static double level_of(const struct qnti_range_search *rule, double x, double scale)
{
    return fmin(fmax(rint(x / scale), rule->least), rule->most);
}

/* d E / d s with the levels held. */
static double slope(const struct qnti_range_search *rule, const float *x, size_t n, double scale)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double level = level_of(rule, (double)x[i], scale);
        sum += (scale * level - (double)x[i]) * level;
    }
    return 2 * sum;
}

static double adam(const struct qnti_range_search *rule, const float *x, size_t n)
{
    const double first = 0.9, second = 0.999, least = 1e-6;
    double range = 0, m = 0, v = 0, first_power = 1, second_power = 1;
    for (size_t i = 0; i < n; i++)
        range = fmax(range, fabs((double)x[i]));
    if (range == 0)
        return 1;
    for (size_t t = 0; t < rule->iterations; t++) {
        double g = slope(rule, x, n, range / rule->most) / rule->most;
        first_power *= first;
        second_power *= second;
        m = first * m + (1 - first) * g;
        v = second * v + (1 - second) * g * g;
        range -= rule->learning_rate * (m / (1 - first_power)) / (sqrt(v / (1 - second_power)) + 1e-8);
        range = fmax(range, least);
    }
    return range / rule->most;
}

/* --- all groups --- */

struct ranges {
    qnt_context *ctx;
    const struct qnti_range_search *rule;
    const float *w;
    struct qnti_numbers *q;
    size_t size;                  /* columns of a group */
};

/* Scale as it is stored; one that would underflow there becomes the smallest that does not. */
static float stored(qnt_dtype type, double scale)
{
    float rounded = qnti_round_to(type, (float)scale);
    return rounded > 0 ? rounded : type == QNT_F16 ? 0x1p-24f : 0x1p-126f;
}

static qnt_status search_group(const struct ranges *t, struct sweep *sweep, size_t r, size_t g)
{
    struct qnti_numbers *q = t->q;
    const struct qnti_range_search *rule = t->rule;
    size_t c = g * t->size, n = qnti_min(t->size, q->cols - c);
    const float *x = t->w + r * q->cols + c;
    float scale;
    if (rule->optimizer == QNTI_RANGE_EXACT)
        QNT_TRY(exact(sweep, x, n));
    scale = stored(q->grid.scale_type, rule->optimizer == QNTI_RANGE_EXACT ? sweep->scale : adam(rule, x, n));
    q->scale->value[r * q->scale->cols + g] = scale;
    for (size_t i = 0; i < n; i++)
        q->code8[r * q->cols + c + i] = (uint8_t)(level_of(rule, (double)x[i], (double)scale) - rule->least);
    return QNT_OK;
}

static qnt_status search_rows(void *arg, size_t index)
{
    const struct ranges *t = arg;
    struct sweep sweep = {.ctx = t->ctx, .rule = t->rule};
    size_t end = qnti_min(t->q->rows, (index + 1) * CHUNK_ROWS);
    qnt_status status = sweep_create(&sweep, t->size);
    for (size_t r = index * CHUNK_ROWS; r < end && status == QNT_OK; r++)
        for (size_t g = 0; g < t->q->scale->cols && status == QNT_OK; g++)
            status = search_group(t, &sweep, r, g);
    sweep_free(&sweep);
    return status;
}

qnt_status qnti_search_ranges(qnt_context *ctx, const struct qnti_range_search *rule, const float *w,
                              struct qnti_numbers *q)
{
    struct ranges t = {ctx, rule, w, q, q->grid.map.cols ? qnti_min(q->grid.map.cols, q->cols) : q->cols};
    return qnti_parallel(ctx, qnti_ceil_div(q->rows, CHUNK_ROWS), search_rows, &t);
}
