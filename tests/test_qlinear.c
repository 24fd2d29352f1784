/*
 * test_qlinear.c - the canonical layer: effective weights, reference forward, parts, true bits, reports.
 *
 * The oracle computes in f64 from the definition, y = actq(R P ((x - shift) /
 * scale)) (Q' + a b)^T + bias, with R written out as a matrix.
 */
#include "qlinear_support.h"

enum { TOKENS = 6 };

/* --- the definition --- */

/* T without its shift, as a matrix [FULL_IN][FULL_IN]: x' = T (x - shift). */
static double *transform_matrix(const struct qnti_transform *t)
{
    double *m = NEW(FULL_IN * FULL_IN, double);
    size_t inner = FULL_BLOCK / FULL_SMALL;
    for (size_t i = 0; i < FULL_IN; i++)
        for (size_t j = 0; j < FULL_IN; j++) {
            size_t column = t->permutation ? t->permutation[j] : j, a = i % FULL_BLOCK, b = j % FULL_BLOCK;
            double r = i == j;
            if (t->rotation.block) {
                r = (double)t->rotation.small_matrix[a / inner * FULL_SMALL + b / inner];
                r *= i / FULL_BLOCK == j / FULL_BLOCK;
                r *= (__builtin_popcount((unsigned)(a % inner & b % inner)) & 1 ? -1.0 : 1.0) / sqrt((double)inner);
                r *= (double)t->rotation.sign[j];
            }
            m[i * FULL_IN + column] = r / (t->scale ? (double)t->scale[column] : 1);
        }
    return m;
}

static double grid_value(const struct qnti_numbers *q, size_t r, size_t c)
{
    double code, scale, offset;
    size_t g;
    if (q->grid.form == QNTI_FORM_FLOAT)
        return (double)q->value[r * q->cols + c];
    code = qnti_numbers_code(q, r, c);
    g = q->index ? q->index[c] : q->grid.map.cols ? c / q->grid.map.cols : 0;
    scale = (double)q->scale->value[r * q->scale->cols + g];
    offset = q->offset ? (double)q->offset->value[r * q->offset->cols + g] : 0;
    if (q->grid.form == QNTI_FORM_ZERO)
        return (code - offset) * scale;
    if (q->grid.form == QNTI_FORM_MIN)
        return code * scale + offset;
    return (double)q->codebook->value[r * q->codebook->cols + (size_t)code] * scale;
}

/* Q' + a b in the coordinates of x'. */
static double *plain_weight(const qnt_qlinear *q)
{
    double *w = NEW(FULL_OUT * FULL_IN, double);
    for (size_t r = 0; r < FULL_OUT; r++) {
        double *row = w + r * FULL_IN;
        for (size_t s = 0; s < q->segment_count; s++)
            for (size_t c = 0; c < q->segments[s].cols; c++)
                row[q->segments[s].first + c] = grid_value(q->segments[s].weight, r, c);
        for (size_t i = 0; q->sparse.count && i < q->sparse.row_start[r + 1] - q->sparse.row_start[r]; i++)
            row[q->sparse.column[q->sparse.row_start[r] + i]] = (double)q->sparse.value[q->sparse.row_start[r] + i];
        for (size_t c = 0; q->lowrank_a && c < FULL_IN; c++)
            for (size_t k = 0; k < FULL_RANK; k++)
                row[c] += (double)q->lowrank_a->value[r * FULL_RANK + k] * (double)q->lowrank_b->value[k * FULL_IN + c];
    }
    return w;
}

static double *effective_weight(const qnt_qlinear *q)
{
    double *plain = plain_weight(q), *t = transform_matrix(&q->transform), *w = NEW(FULL_OUT * FULL_IN, double);
    for (size_t r = 0; r < FULL_OUT; r++)
        for (size_t c = 0; c < FULL_IN; c++)
            for (size_t k = 0; k < FULL_IN; k++)
                w[r * FULL_IN + c] += plain[r * FULL_IN + k] * t[k * FULL_IN + c];
    free(plain);
    free(t);
    return w;
}

/* The columns [first, first + n) of one token on an 8-bit grid that includes zero, or a static one. */
static void quantize_columns(const struct qnti_actquant *act, const uint8_t *kept, float *x, size_t n)
{
    float lo = 0, hi = 0, top = (float)(act->grid.levels - 1), scale, zero;
    for (size_t c = 0; c < n; c++)
        if (!kept[c]) {
            lo = fminf(lo, x[c]);
            hi = fmaxf(hi, x[c]);
        }
    scale = act->fixed ? act->fixed->scale->value[0] : (hi - lo) / top;
    zero = act->fixed ? act->fixed->offset->value[0] : rintf(-lo / scale);
    for (size_t c = 0; c < n; c++)
        if (!kept[c])
            x[c] = (fminf(fmaxf(rintf(x[c] / scale) + zero, 0), top) - zero) * scale;
}

/* Checks x' against the matrix, quantizes it, and multiplies in f64. */
static double *oracle_forward(const qnt_qlinear *q, const float *x)
{
    double *t = transform_matrix(&q->transform), *w = plain_weight(q), *y = NEW(TOKENS * FULL_OUT, double);
    float *moved = NEW(TOKENS * FULL_IN, float), scratch[2 * FULL_IN];
    uint8_t kept[FULL_IN] = {0}, none[FULL_IN] = {0};
    for (size_t k = 0; k < TOKENS; k++) {
        qnti_transform_forward(&q->transform, FULL_IN, x + k * FULL_IN, moved + k * FULL_IN, scratch);
        for (size_t i = 0; i < FULL_IN; i++) {
            double sum = 0;
            for (size_t c = 0; c < FULL_IN; c++)
                sum += t[i * FULL_IN + c] *
                       ((double)x[k * FULL_IN + c] - (q->transform.shift ? (double)q->transform.shift[c] : 0));
            assert_true(fabs(sum - (double)moved[k * FULL_IN + i]) < 1e-5 * (1 + fabs(sum)));
            if (q->act && q->act->threshold > 0 && fabsf(moved[k * FULL_IN + i]) >= q->act->threshold)
                kept[i] = 1;
        }
    }
    for (size_t k = 0; k < TOKENS; k++) {
        float token[FULL_IN];
        memcpy(token, moved + k * FULL_IN, sizeof token);
        if (q->act)
            quantize_columns(q->act, kept, token, FULL_IN);
        if (q->segment_count > 1 && q->segments[1].act) {
            memcpy(token + FULL_CUT, moved + k * FULL_IN + FULL_CUT, (FULL_IN - FULL_CUT) * sizeof *token);
            quantize_columns(q->segments[1].act, none, token + FULL_CUT, FULL_IN - FULL_CUT);
        }
        for (size_t r = 0; r < FULL_OUT; r++) {
            double sum = q->bias ? (double)q->bias[r] : 0;
            for (size_t c = 0; c < FULL_IN; c++) {
                size_t at = r * FULL_IN + c;
                sum += (double)token[c] * (q->full && kept[c] ? (double)q->full->value[at] : w[at]);
            }
            y[k * FULL_OUT + r] = sum;
        }
    }
    free(t);
    free(w);
    free(moved);
    return y;
}

static void for_each_set(void (*check)(qnt_context *ctx, unsigned parts, qnt_qlinear *q))
{
    qnt_context *ctx = context_of(2);
    size_t held = qnt_context_bytes(ctx, NULL);
    for (size_t i = 0; i < COUNT(full_sets); i++) {
        qnt_qlinear *q = full_layer(ctx, full_sets[i]);
        check(ctx, full_sets[i], q);
        qnt_qlinear_destroy(q);
    }
    destroy_context(ctx, held);
}

static void check_weight(qnt_context *ctx, unsigned parts, qnt_qlinear *q)
{
    float *w = dequantized(ctx, q), *rows = NEW(2 * FULL_IN, float);
    double *want = effective_weight(q);
    for (size_t i = 0; i < FULL_OUT * FULL_IN; i++)
        if (!(fabs((double)w[i] - want[i]) <= 1e-5 * (1 + fabs(want[i]))))
            fail_msg("parts %u: weight %zu is %g, not %g", parts, i, (double)w[i], want[i]);
    assert_ok(ctx, qnti_qlinear_rows(q, 5, 2, rows));
    assert_memory_equal(rows, w + 5 * FULL_IN, 2 * FULL_IN * sizeof *rows);
    free(w);
    free(rows);
    free(want);
}

static void test_dequantize(void **state)
{
    (void)state;
    for_each_set(check_weight);
}

static void check_forward(qnt_context *ctx, unsigned parts, qnt_qlinear *q)
{
    float *x = random_tokens(TOKENS, FULL_IN, 2), *y = NEW(TOKENS * FULL_OUT, float);
    double *want = oracle_forward(q, x);
    assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, FULL_IN), y));
    for (size_t i = 0; i < TOKENS * FULL_OUT; i++)
        if (!(fabs((double)y[i] - want[i]) <= 2e-5 * (1 + fabs(want[i]))))
            fail_msg("parts %u: output %zu is %g, not %g", parts, i, (double)y[i], want[i]);
    assert_fails(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, FULL_IN - 1), y), QNT_INVALID, "23 columns, not 24");
    assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, 0, FULL_IN), y));
    free(x);
    free(y);
    free(want);
}

static void test_forward(void **state)
{
    (void)state;
    for_each_set(check_forward);
}

/* Without activation quantizers the forward is that of the effective weight on shifted inputs. */
static void check_equivalence(qnt_context *ctx, unsigned parts, qnt_qlinear *q)
{
    float *x = random_tokens(TOKENS, FULL_IN, 2), *y = NEW(TOKENS * FULL_OUT, float), *w = dequantized(ctx, q);
    assert_ok(ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, FULL_IN), y));
    for (size_t i = 0; !(parts & FULL_ACT) && i < TOKENS * FULL_OUT; i++) {
        size_t t = i / FULL_OUT, r = i % FULL_OUT;
        double sum = q->bias ? (double)q->bias[r] : 0;
        for (size_t c = 0; c < FULL_IN; c++)
            sum += ((double)x[t * FULL_IN + c] - (q->transform.shift ? (double)q->transform.shift[c] : 0)) *
                   (double)w[r * FULL_IN + c];
        assert_true(fabs(sum - (double)y[i]) <= 1e-4 * (1 + fabs(sum)));
    }
    free(x);
    free(y);
    free(w);
}

static void test_equivalence(void **state)
{
    (void)state;
    for_each_set(check_equivalence);
}

static void check_transform(qnt_context *ctx, unsigned parts, qnt_qlinear *q)
{
    float *w = random_floats(FULL_IN, 8, 1), there[FULL_IN], back[FULL_IN], scratch[2 * FULL_IN];
    (void)ctx;
    qnti_transform_weight(&q->transform, FULL_IN, w, there, scratch);
    qnti_transform_weight_back(&q->transform, FULL_IN, there, back, scratch);
    for (size_t c = 0; c < FULL_IN; c++)
        assert_true(fabsf(back[c] - w[c]) < 1e-5f);
    assert_int_equal(qnti_transform_is_identity(&q->transform),
                     !(parts & (FULL_SCALE | FULL_PERMUTATION | FULL_ROTATION)));
    free(w);
}

static void test_transform(void **state)
{
    (void)state;
    for_each_set(check_transform);
}

/* --- true bits --- */

static double bits_of(unsigned parts)
{
    size_t second = parts & (FULL_SECOND | FULL_SECOND_CODES) ? FULL_IN - FULL_CUT : 0, first = FULL_IN - second;
    double groups = parts & FULL_INDEX ? 3 : (double)((first + 7) / 8), out = FULL_OUT, in = FULL_IN, bits;
    bits = out * (double)first * 4 + out * groups * (parts & FULL_CODEBOOK ? 16 : 16 + 4);
    bits += parts & FULL_CODEBOOK ? out * 16 * 16 : 0;
    bits += parts & FULL_INDEX ? 32 * (double)first : 0;
    bits += second ? 2 * 32 : 0;
    bits += parts & FULL_SECOND ? out * (double)second * 16 : 0;
    bits += parts & FULL_SECOND_CODES ? out * (double)second * 5 + out * (16 + 16) : 0;
    bits += parts & FULL_SPARSE ? 8 * (16 + 16) + 32 * (out + 1) : 0;
    bits += parts & FULL_LOWRANK ? out * FULL_RANK * 32 + FULL_RANK * in * 16 : 0;
    bits += parts & FULL_SCALE ? 2 * 32 * in : 0;
    bits += parts & FULL_PERMUTATION ? 32 * (in - 3) : 0; /* 3, 10, 17, 0 ..: the first three ascend */
    bits += parts & FULL_ROTATION ? 32 * FULL_SMALL * FULL_SMALL + in : 0;
    bits += parts & FULL_STATIC ? 32 + 32 : 0;
    bits += parts & FULL_SEGMENT_ACT ? 32 + 32 : 0;
    bits += parts & FULL_COPY ? out * in * 16 : 0;
    return bits / (out * in);
}

static void check_bits(qnt_context *ctx, unsigned parts, qnt_qlinear *q)
{
    qnt_layer_report report = {.size = sizeof report + 1};
    assert_int_equal(qnt_report(q, &report), QNT_INVALID);
    report.size = 0;
    assert_ok(ctx, qnt_report(q, &report));
    assert_int_equal(report.size, sizeof report);
    if (fabs(report.bits_per_weight - bits_of(parts)) > 1e-12)
        fail_msg("parts %u: %g bits, not %g", parts, report.bits_per_weight, bits_of(parts));
    assert_true(isnan(report.weight_error) && isnan(report.output_error));
    assert_string_equal(report.warnings, "");
}

static void test_bits(void **state)
{
    (void)state;
    for_each_set(check_bits);
}

/* --- parts --- */

static qnt_part part_of(qnt_context *ctx, const qnt_qlinear *q, const char *name, qnt_dtype dtype, size_t rows,
                        size_t cols)
{
    qnt_part part;
    assert_ok(ctx, qnt_qlinear_part(q, name, &part));
    assert_string_equal(part.name, name);
    assert_int_equal(part.dtype, dtype);
    assert_int_equal(part.shape[0], rows);
    assert_int_equal(part.shape[1], cols ? cols : 1);
    assert_int_equal(part.rank, cols ? 2 : 1);
    return part;
}

static void floats_equal(qnt_context *ctx, const qnt_qlinear *q, const char *name, size_t rows, size_t cols,
                         const float *want)
{
    qnt_part part = part_of(ctx, q, name, QNT_F32, rows, cols);
    assert_memory_equal(part.data, want, rows * (cols ? cols : 1) * sizeof *want);
    qnt_part_free(&part);
}

static size_t place_of(const qnt_qlinear *q, size_t place)
{
    return q->transform.permutation ? q->transform.permutation[place] : place;
}

/* The code that is nearest to 0 where a row's last group has its scale. */
static int32_t zero_of_last_group(const struct qnti_numbers *w, size_t r)
{
    const float *scale = w->scale->value + (r + 1) * w->scale->cols - 1;
    const float *offset = w->offset->value + (r + 1) * w->offset->cols - 1, nothing = 0;
    uint16_t code;
    qnti_grid_round(&w->grid, qnti_numbers_codebook(w, r), 1, &nothing, scale, offset, 0, &code, NULL);
    return code;
}

static void check_codes(qnt_context *ctx, unsigned parts, const qnt_qlinear *q)
{
    qnt_part codes = part_of(ctx, q, "codes", QNT_I32, FULL_OUT, FULL_IN);
    for (size_t r = 0; r < FULL_OUT; r++)
        for (size_t j = 0; j < FULL_IN; j++) {
            const struct qnti_segment *s = &q->segments[q->segment_count > 1 && j >= FULL_CUT];
            int32_t want;
            if (s->first && (parts & FULL_SECOND))
                want = zero_of_last_group(q->segments[0].weight, r);
            else
                want = qnti_numbers_code(s->weight, r, j - s->first);
            assert_int_equal(((int32_t *)codes.data)[r * FULL_IN + place_of(q, j)], want);
        }
    qnt_part_free(&codes);
}

/* The second factor meets the inputs as they come, as a weight does. */
static void check_lowrank(qnt_context *ctx, const qnt_qlinear *q)
{
    qnt_part part = part_of(ctx, q, "lowrank_b", QNT_F32, FULL_RANK, FULL_IN);
    double *t = transform_matrix(&q->transform);
    floats_equal(ctx, q, "lowrank_a", FULL_OUT, FULL_RANK, q->lowrank_a->value);
    for (size_t k = 0; k < FULL_RANK; k++)
        for (size_t c = 0; c < FULL_IN; c++) {
            double sum = 0;
            for (size_t i = 0; i < FULL_IN; i++)
                sum += (double)q->lowrank_b->value[k * FULL_IN + i] * t[i * FULL_IN + c];
            assert_true(fabs(sum - (double)((float *)part.data)[k * FULL_IN + c]) < 1e-5 * (1 + fabs(sum)));
        }
    qnt_part_free(&part);
    free(t);
}

static void check_present(qnt_context *ctx, unsigned parts, const qnt_qlinear *q)
{
    const struct qnti_numbers *w = q->segments[0].weight;
    check_codes(ctx, parts, q);
    floats_equal(ctx, q, "scales", FULL_OUT, w->scale->cols, w->scale->value);
    if (!(parts & FULL_CODEBOOK))
        floats_equal(ctx, q, "zeros", FULL_OUT, w->offset->cols, w->offset->value);
    if (parts & FULL_CODEBOOK)
        floats_equal(ctx, q, "codebook", FULL_OUT, 16, w->codebook->value);
    if (parts & FULL_SCALE) {
        floats_equal(ctx, q, "scale", FULL_IN, 0, q->transform.scale);
        floats_equal(ctx, q, "shift", FULL_IN, 0, q->transform.shift);
    }
    if (parts & FULL_LOWRANK)
        check_lowrank(ctx, q);
    if (parts & FULL_STATIC) {
        floats_equal(ctx, q, "act_scale", 1, 0, q->act->fixed->scale->value);
        floats_equal(ctx, q, "act_zero", 1, 0, q->act->fixed->offset->value);
    }
    if (parts & FULL_BIAS)
        floats_equal(ctx, q, "bias", FULL_OUT, 0, q->bias);
}

/* Parts with which a column's group is not column / group size. */
enum { GROUPS_MOVED = FULL_INDEX | FULL_PERMUTATION | FULL_SECOND | FULL_SECOND_CODES };

static void check_columns(qnt_context *ctx, unsigned parts, const qnt_qlinear *q)
{
    qnt_part part;
    if (parts & FULL_PERMUTATION) {
        part = part_of(ctx, q, "permutation", QNT_I32, FULL_IN, 0);
        for (size_t j = 0; j < FULL_IN; j++)
            assert_int_equal(((int32_t *)part.data)[j], q->transform.permutation[j]);
        qnt_part_free(&part);
    }
    if (parts & GROUPS_MOVED) {
        const struct qnti_numbers *w = q->segments[0].weight;
        part = part_of(ctx, q, "group_index", QNT_I32, FULL_IN, 0);
        for (size_t j = 0; j < FULL_IN; j++) {
            size_t group = w->scale->cols - 1; /* of columns outside */
            if (j < w->cols)
                group = parts & FULL_INDEX ? w->index[j] : j / w->grid.map.cols;
            assert_int_equal(((int32_t *)part.data)[place_of(q, j)], group);
        }
        qnt_part_free(&part);
    }
    if (parts & FULL_SECOND) {
        part = part_of(ctx, q, "kept_columns", QNT_I32, FULL_IN - FULL_CUT, 0);
        for (size_t k = 0; k < FULL_IN - FULL_CUT; k++) {
            size_t found = 0;
            for (size_t j = FULL_CUT; j < FULL_IN; j++)
                found += place_of(q, j) == (size_t)((int32_t *)part.data)[k];
            assert_int_equal(found, 1);
            assert_true(k == 0 || ((int32_t *)part.data)[k] > ((int32_t *)part.data)[k - 1]);
        }
        qnt_part_free(&part);
    }
    if (parts & FULL_SPARSE) {
        size_t ones = 0;
        part = part_of(ctx, q, "outlier_mask", QNT_U8, FULL_OUT, FULL_IN);
        for (size_t i = 0; i < FULL_OUT * FULL_IN; i++)
            ones += ((uint8_t *)part.data)[i];
        assert_int_equal(ones, q->sparse.count);
        assert_int_equal(((uint8_t *)part.data)[place_of(q, q->sparse.column[1])], 1);
        qnt_part_free(&part);
    }
}

/* The name of every part, and the bits one of which a layer must have for it to be there; 0: never here. */
static const struct {
    const char *name;
    unsigned parts;
} names[] = {
    {"codes", ~0u}, {"scales", ~0u}, {"zeros", ~(unsigned)FULL_CODEBOOK}, {"mins", 0}, {"group_index", GROUPS_MOVED},
    {"codebook", FULL_CODEBOOK}, {"packed", 0}, {"absmax", 0}, {"absmax_codes", 0}, {"nested_absmax", 0},
    {"nested_offset", 0}, {"nested_codebook", 0},
    {"outlier_mask", FULL_SPARSE}, {"kept_columns", FULL_SECOND | FULL_SECOND_CODES},
    {"keep_scales", FULL_SECOND_CODES},
    {"scale", FULL_SCALE}, {"shift", FULL_SCALE}, {"permutation", FULL_PERMUTATION}, {"lowrank_a", FULL_LOWRANK},
    {"lowrank_b", FULL_LOWRANK}, {"act_scale", FULL_STATIC}, {"act_zero", FULL_STATIC}, {"bias", FULL_BIAS},
};

static void check_parts(qnt_context *ctx, unsigned parts, qnt_qlinear *q)
{
    check_present(ctx, parts, q);
    check_columns(ctx, parts, q);
    for (size_t i = 0; i < COUNT(names); i++) {
        qnt_part part;
        bool there = names[i].parts == ~0u || (parts & names[i].parts) != 0;
        if (strcmp(names[i].name, "zeros") == 0)
            there = !(parts & FULL_CODEBOOK);
        assert_int_equal(qnt_qlinear_part(q, names[i].name, &part), there ? QNT_OK : QNT_NOT_FOUND);
        if (!there)
            assert_message_has(ctx, names[i].name);
        qnt_part_free(&part);
    }
}

static void test_parts(void **state)
{
    qnt_context *ctx = context_of(1);
    qnt_qlinear *q = full_layer(ctx, 0);
    qnt_part part;
    (void)state;
    for_each_set(check_parts);
    for (size_t i = 0; i < COUNT(names); i++) /* a part that is new needs a row here */
        assert_string_equal(qnt_part_name(i), names[i].name);
    assert_null(qnt_part_name(COUNT(names)));
    assert_fails(ctx, qnt_qlinear_part(q, "no_such", &part), QNT_NOT_FOUND, "no part called \"no_such\"");
    qnt_part_free(&part);
    assert_string_equal(qnt_qlinear_name(q), "some.layer");
    assert_int_equal(qnt_qlinear_out(q), FULL_OUT);
    assert_int_equal(qnt_qlinear_in(q), FULL_IN);
    qnt_qlinear_destroy(q);
    qnt_qlinear_destroy(NULL);
    qnt_context_destroy(ctx);
}

/* Blocks with minima, and one scale for the whole tensor. */
static void test_parts_of_blocks(void **state)
{
    qnt_context *ctx = context_of(1);
    float *w = random_floats(6 * 64, 1, 1);
    qnt_qlinear *q;
    qnt_part part;
    (void)state;
    assert_ok(ctx, quantize_with(ctx, "rtn", "gguf:q4_1", qnt_matrix_f32(w, 6, 64), NULL, NULL, 0, &q));
    floats_equal(ctx, q, "mins", 6, 2, q->segments[0].weight->offset->value);
    assert_int_equal(qnt_qlinear_part(q, "zeros", &part), QNT_NOT_FOUND);
    qnt_qlinear_destroy(q);
    assert_ok(ctx,
              quantize_with(ctx, "rtn:per_tensor=true,sym=true", NULL, qnt_matrix_f32(w, 6, 64), NULL, NULL, 0, &q));
    part = part_of(ctx, q, "zeros", QNT_F32, 1, 1);
    assert_true(*(float *)part.data == 8);
    qnt_part_free(&part);
    qnt_qlinear_destroy(q);
    assert_ok(ctx, quantize_with(ctx, "rtn", "gguf:f16", qnt_matrix_f32(w, 6, 64), NULL, NULL, 0, &q));
    assert_int_equal(qnt_qlinear_part(q, "codes", &part), QNT_NOT_FOUND);
    assert_int_equal(qnt_qlinear_part(q, "kept_columns", &part), QNT_NOT_FOUND);
    qnt_qlinear_destroy(q);
    free(w);
    qnt_context_destroy(ctx);
}

/* --- what the report says --- */

static double squares(const float *x, const double *w, size_t tokens, size_t out, size_t in)
{
    double total = 0;
    for (size_t t = 0; t < tokens; t++)
        for (size_t r = 0; r < out; r++) {
            double sum = 0;
            for (size_t c = 0; c < in; c++)
                sum += (double)x[t * in + c] * w[r * in + c];
            total += sum * sum;
        }
    return total;
}

/* Relative errors against loops over the tokens, inputs that are always 0 among them. */
static void test_report(void **state)
{
    enum { OUT = 70, IN = 40, SAMPLES = 150 };
    static const char *const recipes[] = {"rtn,refine:refine_passes=0", "gptq:bits=3", "gptq:bits=2,refine_passes=2"};
    qnt_context *ctx = context_of(2);
    float *w = random_floats(OUT * IN, 1, 1), *x = random_tokens(SAMPLES, IN, 2);
    double *wide = NEW(OUT * IN, double), *difference = NEW(OUT * IN, double);
    (void)state;
    for (size_t t = 0; t < SAMPLES; t++)
        x[t * IN + 7] = x[t * IN + 20] = 0;
    for (size_t k = 0; k < COUNT(recipes); k++) {
        qnt_layer_report report = {0};
        double squared = 0, power = 0, want;
        qnt_qlinear *q;
        float *values;
        assert_ok(ctx, quantize_with(ctx, recipes[k], NULL, qnt_matrix_f32(w, OUT, IN), x, NULL, SAMPLES, &q));
        values = dequantized(ctx, q);
        for (size_t i = 0; i < OUT * IN; i++) {
            wide[i] = (double)w[i];
            difference[i] = (double)w[i] - (double)values[i];
            squared += difference[i] * difference[i];
            power += wide[i] * wide[i];
        }
        want = squares(x, difference, SAMPLES, OUT, IN) / squares(x, wide, SAMPLES, OUT, IN);
        assert_ok(ctx, qnt_report(q, &report));
        assert_true(fabs(report.weight_error - squared / power) < 1e-9);
        assert_true(fabs(report.output_error - want) < 1e-3 * want);
        assert_int_equal(report.dead_columns, 2);
        assert_int_equal(report.tokens, SAMPLES);
        assert_true(k == 0 || report.damping == 0.01);
        qnt_qlinear_destroy(q);
        free(values);
    }
    free(w);
    free(x);
    free(wide);
    free(difference);
    qnt_context_destroy(ctx);
}

/* Recipes, and what their reports say of inputs. */
static void test_activations(void **state)
{
    enum { OUT = 24, IN = 64, SAMPLES = 40 };
    static const struct {
        const char *recipe, *words;
    } cases[] = {
        {"rtn", ""},
        {"rtn:act_bits=8", "8 bits, by token"},
        {"rtn:act_bits=8,act_granularity=tensor,act_static=true", "8 bits, fixed"},
        {"rtn:act_bits=4,act_group_size=16", "4 bits, by token in groups of 16"},
        {"zeroquant:act_format=fp8_e4m3", "fp8 e4m3, by token"},
        {"rptq:clusters=3,weight_method=rtn", "4 bits, fixed in 3 clusters"},
        {"atom:keep_columns=8,group_size=8,act_group_size=8",
         "56 columns: 4 bits, by token in groups of 8; 8 columns: 8 bits, by token"},
        {"llm_int8:outlier_threshold=2.5", "8 bits, by token, columns below 2.5"},
    };
    qnt_context *ctx = context_of(2);
    float *w = random_floats(OUT * IN, 1, 1), *x = random_tokens(SAMPLES, IN, 2);
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        qnt_layer_report report = {0};
        qnt_qlinear *q;
        assert_ok(ctx, quantize_with(ctx, cases[i].recipe, NULL, qnt_matrix_f32(w, OUT, IN), x, NULL, SAMPLES, &q));
        assert_ok(ctx, qnt_report(q, &report));
        assert_string_equal(report.activations, cases[i].words);
        qnt_qlinear_destroy(q);
    }
    free(w);
    free(x);
    qnt_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dequantize), cmocka_unit_test(test_forward), cmocka_unit_test(test_equivalence),
        cmocka_unit_test(test_transform),  cmocka_unit_test(test_bits),    cmocka_unit_test(test_parts),
        cmocka_unit_test(test_parts_of_blocks), cmocka_unit_test(test_report),
        cmocka_unit_test(test_activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
