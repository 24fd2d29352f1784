/*
 * gram.c - banded sums of outer products.
 */
#include "linalg/gram.h"

#include <cblas.h>
#include <string.h>

enum { BAND = 512, STRIP = 2048, STRIP_STEP = 64, CHUNK_TOKENS = 2048, TILE = 16 };

static size_t band_rows(const struct qnti_gram *g, size_t i)
{
    return qnti_min(BAND, g->n - i * BAND);
}

/* Columns that band i keeps. */
static size_t band_width(const struct qnti_gram *g, size_t i)
{
    return g->symmetric ? i * BAND + band_rows(g, i) : g->n;
}

qnt_status qnti_gram_create(qnt_context *ctx, size_t n, bool symmetric, struct qnti_gram **gram)
{
    struct qnti_gram *g;
    QNT_TRY(QNTI_NEW(ctx, 1, &g));
    *g = (struct qnti_gram){.ctx = ctx, .n = n, .symmetric = symmetric, .bands = qnti_ceil_div(n, BAND)};
    qnt_status status = QNTI_NEW(ctx, g->bands, &g->band);
    for (size_t i = 0; status == QNT_OK && i < g->bands; i++)
        status = qnti_alloc(ctx, band_width(g, i), band_rows(g, i) * sizeof **g->band, (void **)&g->band[i]);
    if (status != QNT_OK) {
        qnti_gram_free(ctx, g);
        return status;
    }
    *gram = g;
    return QNT_OK;
}

static void give_back(struct qnti_gram *g)
{
    for (size_t i = 0; g->band && i < g->bands; i++)
        qnti_free(g->ctx, g->band[i]);
    qnti_free(g->ctx, g->band);
    g->band = NULL;
}

void qnti_gram_free(qnt_context *ctx, struct qnti_gram *g)
{
    if (!g)
        return;
    give_back(g);
    qnti_free(ctx, g);
}

/* Columns [begin, begin + width) of a band: a product of its own, wide enough that packing is a few percent. */
struct strip {
    size_t band, begin, width;
    bool diagonal;             /* the block on the diagonal of a symmetric one, by syrk */
};

/* Strips of band i beside the diagonal block. */
static size_t strips_beside(const struct qnti_gram *g, size_t i)
{
    return qnti_ceil_div(g->symmetric ? i * BAND : g->n, STRIP);
}

static size_t strips(const struct qnti_gram *g)
{
    size_t n = 0;
    for (size_t i = 0; i < g->bands; i++)
        n += strips_beside(g, i) + g->symmetric;
    return n;
}

/* The last bands come first: the largest pieces of work. */
static struct strip strip_at(const struct qnti_gram *g, size_t index)
{
    size_t i = g->bands - 1, beside, width, share;
    for (; index >= strips_beside(g, i) + g->symmetric; i--)
        index -= strips_beside(g, i) + g->symmetric;
    beside = strips_beside(g, i);
    if (index == beside)
        return (struct strip){i, i * BAND, band_rows(g, i), true};
    width = g->symmetric ? i * BAND : g->n;
    share = qnti_ceil_div(qnti_ceil_div(width, beside), STRIP_STEP) * STRIP_STEP;
    return (struct strip){i, index * share, qnti_min(share, width - index * share), false};
}

struct add_task {
    struct qnti_gram *gram;
    const float *y, *x;
    size_t tokens;
};

static void add_product(struct qnti_gram *g, const struct strip *s, const float *product)
{
    size_t width = band_width(g, s->band);
    for (size_t r = 0; r < band_rows(g, s->band); r++) {
        double *sum = g->band[s->band] + r * width + s->begin;
        const float *row = product + r * s->width;
        for (size_t c = 0; c < (s->diagonal ? r + 1 : s->width); c++)
            sum[c] += (double)row[c];
    }
}

static qnt_status add_strip(void *arg, size_t index)
{
    const struct add_task *t = arg;
    struct qnti_gram *g = t->gram;
    struct strip s = strip_at(g, index);
    int rows = (int)band_rows(g, s.band), width = (int)s.width, n = (int)g->n;
    float *product;
    QNT_TRY(qnti_alloc_raw(g->ctx, s.width, (size_t)rows * sizeof *product, (void **)&product));
    for (size_t done = 0; done < t->tokens; done += CHUNK_TOKENS) {
        int k = (int)qnti_min(CHUNK_TOKENS, t->tokens - done);
        const float *y = t->y + done * g->n + s.band * BAND, *x = t->x + done * g->n + s.begin;
        if (s.diagonal)
            cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, rows, k, 1, x, n, 0, product, width);
        else
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rows, width, k, 1, y, n, x, n, 0, product, width);
        add_product(g, &s, product);
    }
    qnti_free(g->ctx, product);
    return QNT_OK;
}

qnt_status qnti_gram_add(qnt_context *ctx, struct qnti_gram *gram, const float *y, const float *x, size_t tokens)
{
    struct add_task task = {gram, y, x, tokens};
    return tokens ? qnti_parallel(ctx, strips(gram), add_strip, &task) : QNT_OK;
}

void qnti_gram_merge(struct qnti_gram *g, const struct qnti_gram *other)
{
    for (size_t i = 0; i < g->bands; i++)
        for (size_t e = 0; e < band_rows(g, i) * band_width(g, i); e++)
            g->band[i][e] += other->band[i][e];
}

/* Where row r is kept, and how many of its numbers. */
static double *kept_row(const struct qnti_gram *g, size_t r, size_t *count)
{
    *count = g->symmetric ? r + 1 : g->n;
    return g->band[r / BAND] + r % BAND * band_width(g, r / BAND);
}

size_t qnti_gram_row(const struct qnti_gram *g, size_t r, double *row)
{
    size_t count;
    const double *kept = kept_row(g, r, &count);
    memcpy(row, kept, count * sizeof *row);
    return count;
}

size_t qnti_gram_set_row(struct qnti_gram *g, size_t r, const double *row)
{
    size_t count;
    double *kept = kept_row(g, r, &count);
    memcpy(kept, row, count * sizeof *row);
    return count;
}

struct read_task {
    const struct qnti_gram *gram;
    double factor;
    float *matrix;
    size_t first;              /* row, of a band or 0 */
};

/* A tile of rows from r on, columns from c on; of a symmetric one also its mirror image. */
static void read_tile(const struct read_task *t, size_t r, size_t c)
{
    const struct qnti_gram *g = t->gram;
    size_t rows = qnti_min(TILE, g->n - r), cols = qnti_min(TILE, g->n - c), count;
    float tile[TILE][TILE];
    for (size_t i = 0; i < rows; i++) {
        const double *row = kept_row(g, r + i, &count) + c;
        for (size_t j = 0; j < cols; j++)
            tile[i][j] = (float)(t->factor * row[j]);
        memcpy(t->matrix + (r + i) * g->n + c, tile[i], cols * sizeof **tile);
    }
    for (size_t j = 0; g->symmetric && j < cols; j++)
        for (size_t i = c + j > r ? c + j - r : 0; i < rows; i++)
            t->matrix[(c + j) * g->n + r + i] = tile[i][j];
}

static qnt_status read_rows(void *arg, size_t index)
{
    const struct read_task *t = arg;
    size_t r = t->first + index * TILE;
    for (size_t c = 0; c < (t->gram->symmetric ? r + 1 : t->gram->n); c += TILE)
        read_tile(t, r, c);
    return QNT_OK;
}

qnt_status qnti_gram_read(const struct qnti_gram *gram, double factor, float *matrix)
{
    struct read_task t = {gram, factor, matrix, 0};
    if (!gram->band)
        return qnti_fail(gram->ctx, QNT_INVALID, "sums over %zu channels were given back already", gram->n);
    return qnti_parallel(gram->ctx, qnti_ceil_div(gram->n, TILE), read_rows, &t);
}

qnt_status qnti_gram_take(struct qnti_gram *gram, double factor, float *matrix)
{
    struct read_task t = {gram, factor, matrix, 0};
    if (!gram->band)
        return qnti_gram_read(gram, factor, matrix);
    for (size_t i = 0; i < gram->bands; i++) {
        t.first = i * BAND;
        QNT_TRY(qnti_parallel(gram->ctx, qnti_ceil_div(band_rows(gram, i), TILE), read_rows, &t));
        qnti_free(gram->ctx, gram->band[i]);
        gram->band[i] = NULL;
    }
    give_back(gram);
    return QNT_OK;
}
