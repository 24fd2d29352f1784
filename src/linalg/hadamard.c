/*
 * hadamard.c - Hadamard matrices of small orders, by the constructions of Paley and of Williamson.
 *
 * chi is the Legendre symbol modulo the prime q. Paley I: order q + 1, q = 3 mod 4; Paley II: order 2 (q + 1), q = 1
 * mod 4; Williamson: four symmetric circulant blocks, their first rows from the tables of rotation.md; 40 doubles 20.
 */
#include "linalg/hadamard.h"

#include <math.h>
#include <string.h>

enum kind { PALEY_1, PALEY_2, WILLIAMSON, DOUBLED };

/* In the order in which they are tried: the first that leaves a power of two is taken. */
static const struct order {
    size_t order;
    enum kind kind;
    const char *block[4];      /* first rows of Williamson's A, B, C, D */
} orders[] = {
    {172, WILLIAMSON,
     {"+---++--++++-+-+++-++--++-+++-+-++++--++---",
      "++-++++++----+-+--++-++-++--+-+----++++++-+",
      "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
      "++---++++-+--+--++--------++--+--+-++++---+"}},
    {156, WILLIAMSON,
     {"+++--+-+-----+--++----++--+-----+-+--++",
      "++++---+--++----+-+--+-+----++--+---+++",
      "+++--++-+---+-+--+----+--+-+---+-++--++",
      "+---++-+-+-----+++-++-+++-----+-+-++---"}},
    {140, PALEY_1, {0}},
    {108, PALEY_1, {0}},
    {60, PALEY_1, {0}},
    {52, WILLIAMSON, {"+-+--++++--+-", "+---++++++---", "++-+--++--+-+", "+----+--+----"}},
    {36, PALEY_2, {0}},
    {28, PALEY_2, {0}},
    {44, PALEY_1, {0}},
    {40, DOUBLED, {0}},
    {20, PALEY_1, {0}},
    {12, PALEY_1, {0}},
};

size_t qnti_hadamard_order(size_t n)
{
    if (n && (n & (n - 1)) == 0)
        return 1;
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        size_t rest = n % orders[i].order ? 0 : n / orders[i].order;
        if (rest && (rest & (rest - 1)) == 0)
            return orders[i].order;
    }
    return 0;
}

size_t qnti_hadamard_divisor(size_t n)
{
    for (size_t parts = 1; parts < n; parts++)
        if (n % parts == 0 && qnti_hadamard_order(n / parts))
            return n / parts;
    return 1;
}

/* chi(a) modulo q: 1 for squares, -1 for others, 0 for 0. */
static float legendre(size_t a, size_t q)
{
    if (a % q == 0)
        return 0;
    for (size_t x = 1; x <= q / 2; x++)
        if (x * x % q == a % q)
            return 1;
    return -1;
}

static void paley_1(size_t n, float *h)
{
    size_t q = n - 1;
    for (size_t j = 0; j < n; j++)
        h[j] = j ? -1 : 1;
    for (size_t i = 0; i < q; i++) {
        h[(i + 1) * n] = 1;
        for (size_t j = 0; j < q; j++)
            h[(i + 1) * n + j + 1] = i == j ? 1 : -legendre(j + q - i, q);
    }
}

/* [[C + I, C - I], [C - I, -C - I]] of the symmetric conference matrix C of order q + 1. */
static void paley_2(size_t n, float *h)
{
    size_t m = n / 2, q = m - 1;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < m; j++) {
            float one = i == j ? 1 : 0, c = i && j ? legendre(j + q - i, q) : 1 - one;
            h[i * n + j] = c + one;
            h[i * n + m + j] = h[(m + i) * n + j] = c - one;
            h[(m + i) * n + m + j] = -c - one;
        }
}

static void williamson(const struct order *o, float *h)
{
    static const struct {
        int block, sign;
    } at[4][4] = {{{0, 1}, {1, 1}, {2, 1}, {3, 1}},
                  {{1, -1}, {0, 1}, {3, -1}, {2, 1}},
                  {{2, -1}, {3, 1}, {0, 1}, {1, -1}},
                  {{3, -1}, {2, -1}, {1, 1}, {0, 1}}};
    size_t n = o->order, m = n / 4;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            const char *row = o->block[at[i / m][j / m].block];
            float entry = row[(j % m + m - i % m) % m] == '+' ? 1 : -1;
            h[i * n + j] = entry * (float)at[i / m][j / m].sign;
        }
}

static void fill(const struct order *o, float *h)
{
    size_t n = o->order, m = n / 2;
    switch (o->kind) {
    case PALEY_1:
        paley_1(n, h);
        return;
    case PALEY_2:
        paley_2(n, h);
        return;
    case WILLIAMSON:
        williamson(o, h);
        return;
    case DOUBLED: /* the half first, at the end, where its rows are not overwritten before they are read */
        paley_1(m, h + n * n - m * m);
        for (size_t i = 0; i < m; i++) {
            const float *half = h + n * n - m * m + i * m;
            for (size_t j = 0; j < m; j++)
                h[i * n + j] = h[i * n + m + j] = half[j];
        }
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++)
                h[(m + i) * n + j] = j < m ? h[i * n + j] : -h[i * n + j];
        return;
    }
}

qnt_status qnti_hadamard_matrix(qnt_context *ctx, size_t order, float *h)
{
    float norm = 1 / sqrtf((float)order);
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
        if (orders[i].order == order) {
            fill(&orders[i], h);
            for (size_t k = 0; k < order * order; k++)
                h[k] *= norm;
            return QNT_OK;
        }
    return qnti_fail(ctx, QNT_UNSUPPORTED, "there is no Hadamard matrix of order %zu here", order);
}

void qnti_walsh(float *x, size_t n)
{
    float norm = 1 / sqrtf((float)n);
    for (size_t half = 1; half < n; half *= 2)
        for (size_t i = 0; i < n; i += 2 * half)
            for (size_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
    for (size_t i = 0; i < n; i++)
        x[i] *= norm;
}
