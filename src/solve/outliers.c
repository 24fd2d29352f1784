/*
 * outliers.c - single weights that cost too much on the grid (Dettmers et al., "SpQR", ICLR 2024; the authors' code).
 *
 * A weight is kept where ((w - value) / U_jj)^2 exceeds a threshold: what its
 * rounding would cost after later columns have made up for it. Before a group's
 * grid is fitted, weights without which the others' errors would be less by the
 * threshold give way to the mean of the others. Taking out one number changes a
 * range only at its ends: three grids a row are enough.
 */
#include "solve/solve.h"

#include <math.h>

enum { CHUNK = 256 };

/* One row of a group, and the diagonal of U. */
struct row {
    const struct qnti_grid *grid;
    float *x;
    const float *u;
    size_t n;
};

/* The two least and the two greatest numbers, and which ones the outermost are. */
struct ends {
    float least, second_least, greatest, second_greatest;
    size_t at_least, at_greatest;
};

static struct ends ends_of(const struct row *row)
{
    struct ends e = {INFINITY, INFINITY, -INFINITY, -INFINITY, 0, 0};
    for (size_t k = 0; k < row->n; k++) {
        float x = row->x[k];
        if (x < e.least) {
            e.second_least = e.least;
            e.least = x;
            e.at_least = k;
        } else if (x < e.second_least) {
            e.second_least = x;
        }
        if (x > e.greatest) {
            e.second_greatest = e.greatest;
            e.greatest = x;
            e.at_greatest = k;
        } else if (x > e.second_greatest) {
            e.second_greatest = x;
        }
    }
    return e;
}

/* e^2 of numbers [first, first + n), n at most CHUNK; f64, where squares of large weights are no infinities. */
static void square_errors(const struct row *row, size_t first, size_t n, float scale, float offset, double *square)
{
    float value[CHUNK];
    qnti_grid_round(row->grid, NULL, n, row->x + first, &scale, &offset, 0, NULL, value);
    for (size_t k = 0; k < n; k++) {
        float e = (value[k] - row->x[first + k]) / row->u[first + k];
        square[k] = (double)e * (double)e;
    }
}

/* Sum of e^2 over all numbers but one (n: over all) on the grid of a range. */
static double set_error(const struct row *row, float least, float greatest, size_t without)
{
    float scale, offset;
    double square[CHUNK], sum = 0;
    qnti_minmax_affine(row->grid, least, greatest, &scale, &offset);
    for (size_t first = 0; first < row->n; first += CHUNK) {
        size_t n = qnti_min(CHUNK, row->n - first);
        square_errors(row, first, n, scale, offset, square);
        for (size_t k = 0; k < n; k++)
            sum += first + k == without ? 0 : square[k];
    }
    return sum;
}

/* Marks with NaN the numbers without which the row errs less by `threshold`; how many. */
static size_t mark_likely(const struct row *row, double threshold)
{
    struct ends e = ends_of(row);
    double whole = set_error(row, e.least, e.greatest, row->n);
    bool first = whole - set_error(row, e.second_least, e.greatest, e.at_least) > threshold;
    bool last = whole - set_error(row, e.least, e.second_greatest, e.at_greatest) > threshold;
    float scale, offset;
    double square[CHUNK];
    size_t marked = 0;
    qnti_minmax_affine(row->grid, e.least, e.greatest, &scale, &offset);
    for (size_t c = 0; c < row->n; c += CHUNK) {
        size_t n = qnti_min(CHUNK, row->n - c);
        square_errors(row, c, n, scale, offset, square);
        for (size_t k = 0; k < n; k++) {
            size_t at = c + k;
            bool likely = at == e.at_least ? first : at == e.at_greatest ? last : square[k] > threshold;
            if (likely)
                row->x[at] = NAN;
            marked += likely;
        }
    }
    return marked;
}

/* The mean of the others; a row that becomes constant so gets the range -1 .. 1, as the authors' code has it. */
static void replace_marked(const struct row *row, size_t marked)
{
    double sum = 0;
    float mean;
    bool constant = true;
    for (size_t k = 0; k < row->n; k++)
        sum += isnan(row->x[k]) ? 0 : (double)row->x[k];
    mean = marked < row->n ? (float)(sum / (double)(row->n - marked)) : 0;
    for (size_t k = 0; k < row->n; k++) {
        row->x[k] = isnan(row->x[k]) ? mean : row->x[k];
        constant &= row->x[k] == row->x[0];
    }
    for (size_t k = 0; constant && k < row->n; k++)
        row->x[k] = k ? 1 : -1;
}

static void replace_likely(const void *rule, const struct qnti_grid *grid, float *x, size_t rows, size_t cols,
                           size_t stride, const float *u)
{
    const struct qnti_outlier_rule *o = rule;
    struct qnti_grid plain = *grid;
    plain.scale_grid = plain.offset_grid = NULL;
    plain.scale_type = QNT_F32;
    plain.whole_offset = false;
    if (!o->leave_one_out || cols < 2)
        return;
    for (size_t r = 0; r < rows; r++) {
        struct row row = {&plain, x + r * stride, u, cols};
        size_t marked = mark_likely(&row, o->threshold);
        if (marked)
            replace_marked(&row, marked);
    }
}

static void choose(const void *rule, size_t rows, const float *w, const float *value, float u, uint8_t *keep)
{
    const struct qnti_outlier_rule *o = rule;
    for (size_t r = 0; r < rows; r++) {
        float e = (w[r] - value[r]) / u;
        keep[r] = (double)e * (double)e > o->threshold;
    }
}

struct qnti_outliers qnti_outlier_functions(const struct qnti_outlier_rule *rule)
{
    return (struct qnti_outliers){.rule = rule, .before_fit = replace_likely, .choose = choose};
}

double qnti_outlier_scale(const float *w, size_t rows, size_t cols, const float *factor, const uint32_t *order)
{
    double total = 0;
    for (size_t j = 0; j < cols; j++) {
        double sum = 0, squares = 0, u = (double)factor[j * cols + j];
        const float *x = w + (order ? order[j] : j);
        for (size_t r = 0; r < rows; r++) {
            sum += (double)x[r * cols];
            squares += (double)x[r * cols] * (double)x[r * cols];
        }
        if (rows > 1)
            total += fmax(squares - sum * sum / (double)rows, 0) / (double)(rows - 1) / (u * u);
    }
    return total / (double)cols;
}

qnt_status qnti_outlier_threshold(qnt_context *ctx, const struct qnti_feedback *f, double scale, double share,
                                  struct qnti_outlier_rule *rule, struct qnti_numbers *q)
{
    enum { STEPS = 12 };
    double low = -14, high = 10; /* powers of 2 of the mean sensitivity */
    size_t n = q->rows * q->cols;
    for (int i = 0; i < STEPS; i++) {
        double middle = (low + high) / 2, kept = 0;
        rule->threshold = scale * exp2(middle);
        QNT_TRY(qnti_error_feedback(ctx, f, q));
        for (size_t k = 0; k < n; k++)
            kept += f->outliers->mask[k];
        *(kept > share * (double)n ? &low : &high) = middle;
    }
    rule->threshold = scale * exp2(high);
    return QNT_OK;
}
