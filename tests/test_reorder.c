/*
 * test_reorder.c - methods that reorder channels: clusters, the grid about a range's middle, orders that fold into
 * linears, what Atom and RPTQ must do whatever the numbers (their sheets' examples and properties).
 */
#include "layer_support.h"

#include "base/kernels.h"
#include "grid/grid.h"
#include "method/recipe.h"
#include "solve/solve.h"
#include "transform/fold.h"

enum { OUT = 24, IN = 40, TOKENS = 120 };

#include "one_layer_support.h"

static void begin(struct layer *l)
{
    *l = (struct layer){.ctx = context_of(2)};
    l->w = random_floats(OUT * IN, 15, 0.05f);
    l->x = random_tokens(TOKENS, IN, 16);
    for (size_t t = 0; t < TOKENS; t++) {
        l->x[t * IN + 20] *= 20;
        l->x[t * IN + 33] = 9 + l->x[t * IN + 33];
        l->x[t * IN + 7] = 0;
    }
}

static qnt_part part_of(const struct layer *l, const char *name)
{
    qnt_part part;
    assert_ok(l->ctx, qnt_qlinear_part(l->q, name, &part));
    return part;
}

static void refuse(const struct layer *l, const char *recipe, const char *format, qnt_status status, const char *part)
{
    qnt_qlinear *q;
    assert_fails(l->ctx, quantize_with(l->ctx, recipe, format, qnt_matrix_f32(l->w, OUT, IN), l->x, NULL, TOKENS, &q),
                 status, part);
}

/* --- clusters --- */

static void cluster(const struct qnti_clusters *job, uint32_t *label, size_t *count)
{
    qnt_context *ctx = context_of(2), *one = context_of(1);
    uint32_t again[256];
    size_t same;
    assert_ok(ctx, qnti_cluster(ctx, job, label, count));
    assert_ok(one, qnti_cluster(one, job, again, &same));
    assert_int_equal(same, *count);
    assert_memory_equal(label, again, job->n * sizeof *label);
    qnt_context_destroy(ctx);
    qnt_context_destroy(one);
}

/* Clear heaps are found, as many as there are; equal points are one. */
static void heaps(void **state)
{
    enum { HEAPS = 7, EACH = 9, N = HEAPS * EACH };
    float *noise = random_floats(2 * N, 3, 0.1f), x[2 * N];
    struct qnti_clusters job = {.x = x, .n = N, .dims = 2, .most = HEAPS, .restarts = 20};
    uint32_t label[N];
    size_t count;
    (void)state;
    for (size_t i = 0; i < N; i++) {
        x[2 * i] = (float)(i % HEAPS * i % HEAPS) + noise[2 * i];
        x[2 * i + 1] = -(float)(i % HEAPS) * 3 + noise[2 * i + 1];
    }
    cluster(&job, label, &count);
    assert_int_equal(count, HEAPS);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            assert_int_equal(label[i] == label[j], i % HEAPS == j % HEAPS);
    for (size_t i = 0; i < N; i++)
        x[2 * i] = x[2 * i + 1] = (float)(i % 3);
    cluster(&job, label, &count);
    assert_int_equal(count, 3);
    job.n = 1;
    cluster(&job, label, &count);
    assert_int_equal(count, 1);
    free(noise);
}

static double cost_of(const float *x, size_t n, const uint32_t *label, size_t count)
{
    double total = 0;
    for (size_t k = 0; k < count; k++) {
        double sum = 0, square = 0, members = 0;
        for (size_t i = 0; i < n; i++)
            if (label[i] == k) {
                sum += (double)x[i];
                square += (double)x[i] * (double)x[i];
                members++;
            }
        assert_true(members > 0); /* none is empty */
        total += square - sum * sum / members;
    }
    return total;
}

/* In one dimension the best partition is known by trying all cuts. */
static void best_partition(void **state)
{
    enum { N = 30 };
    (void)state;
    for (uint64_t seed = 1; seed < 9; seed++) {
        float *x = random_floats(N, seed, 1);
        struct qnti_clusters job = {.x = x, .n = N, .dims = 1, .most = 3, .restarts = 20, .seed = seed};
        uint32_t label[N], cut[N];
        double best = INFINITY;
        size_t count;
        for (size_t i = 0; i < N; i++) /* ascending */
            for (size_t j = i + 1; j < N; j++)
                if (x[j] < x[i]) {
                    float swap = x[i];
                    x[i] = x[j];
                    x[j] = swap;
                }
        for (size_t a = 1; a < N; a++)
            for (size_t b = a + 1; b < N; b++) {
                for (size_t i = 0; i < N; i++)
                    cut[i] = i < a ? 0 : i < b ? 1 : 2;
                best = fmin(best, cost_of(x, N, cut, 3));
            }
        cluster(&job, label, &count);
        assert_int_equal(count, 3);
        assert_true(cost_of(x, N, label, count) <= best * (1 + 1e-9));
        free(x);
    }
}

/* --- the grid --- */

static void centred(void **state)
{
    static const struct {
        float lo, hi, scale, zero, x, code, value;
    } rows[] = {
        {-1, 3, 0.25f, -4, -1, -8, -1},          {-1, 3, 0.25f, -4, -0.3f, -5, -0.25f}, {-1, 3, 0.25f, -4, 0, -4, 0},
        {-1, 3, 0.25f, -4, 1.1f, 0, 1},          {-1, 3, 0.25f, -4, 2.9f, 7, 2.75f},    {-1, 3, 0.25f, -4, 3, 7, 2.75f},
        {20, 24, 0.25f, -88, 20, -8, 20},        {20, 24, 0.25f, -88, 21.3f, -3, 21.25f},
        {20, 24, 0.25f, -88, 24, 7, 23.75f},     {0.137f, 0.137f, 1e-4f, -1370, 0.137f, 0, 0.137f},
        {1.3f, 1.3f, 1.3e-4f, -10000, 1.3f, 0, 1.3f},  {0, 0, 1e-4f, 0, 0, 0, 0},
    };
    qnt_context *ctx = context_of(1);
    struct qnti_grid grid = qnti_centred_grid(qnti_context_kernels(ctx), 4, QNT_F32);
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        float scale, offset, value;
        uint16_t code;
        qnti_centred_affine(&grid, rows[i].lo, rows[i].hi, &scale, &offset);
        qnti_grid_round(&grid, NULL, 1, &rows[i].x, &scale, &offset, 0, &code, &value);
        assert_float_equal(scale, rows[i].scale, 1e-10f);
        assert_float_equal(offset - grid.offset, rows[i].zero, 0);
        assert_float_equal((float)code - grid.offset, rows[i].code, 0);
        assert_float_equal(value, rows[i].value, 1e-6f);
    }
    qnt_context_destroy(ctx);
}

/* Whole zeros of any size, wide or not, are the same after the file. */
static void read_back(void **state)
{
    static const char *const recipes[] = {
        "rptq:clusters=5", "rptq:clusters=3,act_bits=8,weight_method=rtn",
        "atom:keep_columns=6,group_size=8,act_group_size=8",
        "atom:keep_columns=5,act_sym=false,sym=false,act_group_size=6,group_size=7,keep_format=fp8_e5m2",
        "atom:keep_columns=0,act_sym=false,group_size=0", "rtn:group_size=8,act_bits=4,act_sym=false,act_group_size=8",
    };
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++) {
        float was[TOKENS * OUT], is[TOKENS * OUT];
        unsigned char *file;
        size_t bytes;
        qnt_qlinear *back;
        quantize(&l, recipes[i], "native");
        file = native_bytes(l.ctx, l.q, &bytes);
        assert_ok(l.ctx, native_read(l.ctx, file, bytes, "some.layer", &back));
        assert_ok(l.ctx, qnt_forward(l.q, qnt_matrix_f32(l.x, TOKENS, IN), was));
        assert_ok(l.ctx, qnt_forward(back, qnt_matrix_f32(l.x, TOKENS, IN), is));
        assert_memory_equal(was, is, sizeof was);
        qnt_qlinear_destroy(back);
        free(file);
    }
    end(&l);
}

/* --- orders of a producer's rows --- */

enum { HEAD = 4, HEADS = 4, KV = 2, WIDTH = 6 };

static void linear(const float *w, const float *bias, size_t rows, const float *x, float *y)
{
    for (size_t r = 0; r < rows; r++) {
        y[r] = bias[r];
        for (size_t c = 0; c < WIDTH; c++)
            y[r] += w[r * WIDTH + c] * x[c];
    }
}

/* Within the heads of values that several query heads share; gate's rows move with up's. */
static void orders_fold(void **state)
{
    enum { CHANNELS = HEAD * HEADS, ROWS = HEAD * KV };
    static const uint32_t inside[KV][HEAD] = {{2, 0, 3, 1}, {3, 1, 2, 0}};
    qnt_context *ctx = context_of(1);
    float *weight = random_floats(ROWS * WIDTH, 3, 1), *bias = random_floats(ROWS, 4, 1);
    float *x = random_floats(WIDTH, 5, 1);
    float *gate = random_floats(ROWS * WIDTH, 6, 1), *gate_bias = random_floats(ROWS, 7, 1);
    float before[2][ROWS], after[2][ROWS];
    uint32_t map[CHANNELS], order[CHANNELS];
    qnt_producer p = {.weight = weight, .bias = bias, .rows = ROWS, .cols = WIDTH, .head = HEAD, .map = map,
                      .beside = gate, .beside_bias = gate_bias};
    struct qnti_transform t = {.permutation = order};
    (void)state;
    for (uint32_t c = 0; c < CHANNELS; c++) {
        uint32_t kv = c / HEAD / (HEADS / KV);
        map[c] = kv * HEAD + c % HEAD;
        order[c] = c / HEAD * HEAD + inside[kv][c % HEAD];
    }
    linear(weight, bias, ROWS, x, before[0]);
    linear(gate, gate_bias, ROWS, x, before[1]);
    assert_ok(ctx, qnti_fold_check(ctx, &p, &t, CHANNELS));
    assert_ok(ctx, qnti_fold(ctx, &p, &t, CHANNELS));
    linear(weight, bias, ROWS, x, after[0]);
    linear(gate, gate_bias, ROWS, x, after[1]);
    for (size_t c = 0; c < CHANNELS; c++)
        for (size_t i = 0; i < 2; i++)
            assert_float_equal(after[i][map[c]], before[i][map[order[c]]], 0);
    order[0] = 1; /* one query head in another order than its neighbour */
    order[3] = 2;
    assert_fails(ctx, qnti_fold_check(ctx, &p, &t, CHANNELS), QNT_UNSUPPORTED, "orders of their own");
    order[0] = HEAD;
    assert_fails(ctx, qnti_fold_check(ctx, &p, &t, CHANNELS), QNT_UNSUPPORTED, "leave its head");
    p.refuses = QNT_REFUSES_ORDER;
    assert_fails(ctx, qnti_fold_check(ctx, &p, &t, CHANNELS), QNT_UNSUPPORTED, "cannot change places here");
    free(weight), free(bias), free(x), free(gate), free(gate_bias);
    qnt_context_destroy(ctx);
}

/* A norm takes the scale, the order behind it stays at run time; a scale that is refused keeps what is behind it. */
static void parts_of_transforms(void **state)
{
    float weight[IN] = {0}, scale[IN], bias[IN] = {0};
    uint32_t order[IN];
    qnt_context *ctx = context_of(1);
    qnt_producer norm = {.weight = weight, .bias = bias, .rows = IN, .cols = 1};
    struct qnti_transform t = {.scale = scale, .permutation = order}, folded = {0}, kept = {0};
    (void)state;
    for (uint32_t c = 0; c < IN; c++) {
        scale[c] = 1 + (float)c;
        order[c] = (c + 3) % IN;
    }
    assert_ok(ctx, qnti_fold_part(ctx, &norm, &t, IN, &folded, &kept));
    assert_true(folded.scale && !folded.permutation && kept.permutation && !kept.scale);
    qnti_transform_free(ctx, &folded);
    qnti_transform_free(ctx, &kept);
    norm.refuses = QNT_REFUSES_SCALE;
    assert_ok(ctx, qnti_fold_part(ctx, &norm, &t, IN, &folded, &kept));
    assert_true(qnti_transform_is_identity(&folded) && kept.permutation && kept.scale);
    qnti_transform_free(ctx, &folded);
    qnti_transform_free(ctx, &kept);
    norm.refuses = QNT_REFUSES_SHIFT;
    t.shift = scale;
    assert_fails(ctx, qnti_fold_part(ctx, &norm, &t, IN, &folded, &kept), QNT_UNSUPPORTED, "no shift");
    qnt_context_destroy(ctx);
}

/* A site behind a norm, behind a linear, and one without a producer: the same layer. */
static void sites(void **state)
{
    static const char *const recipes[] = {"atom:keep_columns=6,group_size=8,act_group_size=8,bits=8,act_bits=8",
                                          "rptq:clusters=4,bits=8,act_bits=8"};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++)
        for (int kind = 0; kind < 2; kind++) { /* norm, linear of IN rows */
            float *made = random_floats(IN * WIDTH, 4, 1), *was = NEW(IN * WIDTH, float), *x = NEW(TOKENS * IN, float);
            float want[TOKENS * OUT], y[TOKENS * OUT];
            qnt_producer p = {.weight = made, .rows = IN, .cols = kind ? WIDTH : 1};
            qnt_layer layer = {.weight = qnt_matrix_f32(l.w, OUT, IN)};
            qnt_recipe *recipe = recipe_of(l.ctx, recipes[i]);
            qnt_calib *calib;
            qnt_qlinear *q;
            memcpy(was, made, IN * WIDTH * sizeof *was);
            quantize(&l, recipes[i], NULL);
            assert_ok(l.ctx, qnt_forward(l.q, qnt_matrix_f32(l.x, TOKENS, IN), want));
            assert_ok(l.ctx, qnt_calib_create(l.ctx, recipe, IN, &calib));
            assert_ok(l.ctx, qnt_calib_add(calib, qnt_matrix_f32(l.x, TOKENS, IN)));
            layer.calib = calib;
            assert_ok(l.ctx, qnt_quantize_site(l.ctx, recipe, &(qnt_site){.layers = &layer, .count = 1, .producer = &p},
                                               &q));
            assert_int_equal(q->transform.permutation != NULL, kind == 0);
            assert_int_equal(memcmp(was, made, IN * WIDTH * sizeof *was) != 0, kind == 1);
            for (size_t t = 0; t < TOKENS; t++) /* as the producer makes them now */
                for (size_t c = 0; c < IN; c++)
                    x[t * IN + c] = l.x[t * IN + (kind ? l.q->transform.permutation[c] : c)];
            assert_ok(l.ctx, qnt_forward(q, qnt_matrix_f32(x, TOKENS, IN), y));
            assert_memory_equal(want, y, sizeof y);
            qnt_qlinear_destroy(q);
            qnt_calib_destroy(calib);
            qnt_recipe_destroy(recipe);
            free(made), free(was), free(x);
        }
    end(&l);
}

/* --- Atom --- */

/* Channels ascend by their squares; the last are kept in 8 bits; parts say what the layer is. */
static void check_atom(struct layer *l, size_t k, size_t group, bool kept_codes)
{
    qnt_part order = part_of(l, "permutation"), codes = part_of(l, "codes"), scales = part_of(l, "scales");
    qnt_part zeros = part_of(l, "zeros"), kept = part_of(l, "kept_columns"), own = {0};
    const int32_t *at = order.data, *code = codes.data;
    double last = 0;
    if (kept_codes)
        own = part_of(l, "keep_scales");
    assert_int_equal(kept.shape[0], k);
    for (size_t j = 0; j < IN; j++) {
        double sum = 0;
        for (size_t t = 0; t < TOKENS; t++)
            sum += (double)l->x[t * IN + (size_t)at[j]] * (double)l->x[t * IN + (size_t)at[j]];
        assert_true(sum >= last * (1 - 1e-6));
        last = sum;
        for (size_t r = 0; r < OUT; r++) {
            size_t c = (size_t)at[j], i = r * scales.shape[1] + (group ? j / group : 0);
            float value = l->value[r * IN + c];
            if (j < IN - k)
                assert_float_equal(value, (float)code[r * IN + c] * ((float *)scales.data)[i] -
                                          ((float *)zeros.data)[i] * ((float *)scales.data)[i], 1e-6f);
            else if (kept_codes)
                assert_float_equal(value, ((float *)own.data)[r] * (float)code[r * IN + c], 1e-7f);
        }
    }
    for (size_t r = 0; r + 1 < OUT; r += 2) /* a pair of rows has one grid */
        assert_memory_equal((float *)scales.data + r * scales.shape[1],
                            (float *)scales.data + (r + 1) * scales.shape[1], scales.shape[1] * sizeof(float));
    for (size_t i = 1; i < k; i++)
        assert_true(((int32_t *)kept.data)[i] > ((int32_t *)kept.data)[i - 1]);
    qnt_part_free(&order), qnt_part_free(&codes), qnt_part_free(&scales), qnt_part_free(&zeros);
    qnt_part_free(&kept), qnt_part_free(&own);
}

static void atom_parts(void **state)
{
    struct layer l;
    (void)state;
    begin(&l);
    quantize(&l, "atom:keep_columns=6,group_size=8,act_group_size=8", NULL);
    check_atom(&l, 6, 8, true);
    quantize(&l, "atom:keep_columns=6,group_size=0,sym=false,act_bits=16", NULL);
    check_atom(&l, 6, 0, true);
    quantize(&l, "atom:keep_columns=9,group_size=8,gptq=false", "native");
    check_atom(&l, 9, 8, true);
    quantize(&l, "atom:keep_columns=4,group_size=16,keep_format=float", NULL);
    check_atom(&l, 4, 16, false);
    quantize(&l, "atom", NULL); /* a quarter of 40 */
    check_atom(&l, 10, 128, true);
    end(&l);
}

static double output_error(const struct layer *l)
{
    float y[TOKENS * OUT];
    double sum = 0;
    assert_ok(l->ctx, qnt_forward(l->q, qnt_matrix_f32(l->x, TOKENS, IN), y));
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t r = 0; r < OUT; r++) {
            double want = 0;
            for (size_t c = 0; c < IN; c++)
                want += (double)l->x[t * IN + c] * (double)l->w[r * IN + c];
            sum += ((double)y[t * OUT + r] - want) * ((double)y[t * OUT + r] - want);
        }
    return sum;
}

/* Loud channels apart and quiet ones in groups lose less than the whole token on one scale. */
static void atom_errors(void **state)
{
    double plain, kept, feedback;
    struct layer l;
    (void)state;
    begin(&l);
    quantize(&l, "atom:keep_columns=0,group_size=0,act_group_size=0,gptq=false", NULL);
    plain = output_error(&l);
    quantize(&l, "atom:keep_columns=4,group_size=8,act_group_size=8,gptq=false", NULL);
    kept = output_error(&l);
    assert_true(kept < 0.3 * plain);
    quantize(&l, "atom:keep_columns=4,group_size=8,act_bits=16,gptq=false", NULL);
    kept = output_error(&l);
    quantize(&l, "atom:keep_columns=4,group_size=8,act_bits=16", NULL);
    feedback = output_error(&l);
    assert_true(feedback < kept);
    quantize(&l, "atom:keep_columns=39", NULL);
    refuse(&l, "atom:keep_columns=40", NULL, QNT_INVALID, "leaves nothing of a layer of 40 inputs");
    end(&l);
}

/* Where inputs are quantized in parts, weights that know nothing of them are refused; formats name what they lack. */
static void atom_refusals(void **state)
{
    struct layer l;
    (void)state;
    begin(&l);
    refuse(&l, "atom:keep_columns=4,gptq", NULL, QNT_UNSUPPORTED, "quantized in 2 parts");
    refuse(&l, "atom:keep_columns=4,owq:keep_columns=3", NULL, QNT_UNSUPPORTED, "parted");
    refuse(&l, "atom", "gptq", QNT_UNSUPPORTED, "segments");
    refuse(&l, "rptq", "gptq", QNT_UNSUPPORTED, "run-time");
    quantize(&l, "atom:act_bits=16,gptq:group_size=8", NULL);
    assert_non_null(l.q->transform.permutation); /* a better order for groups is worth something by itself */
    end(&l);
}

/* --- RPTQ --- */

/* The sheet's four channels: a (1, -1), b (40, 20), c (1.1, -0.9), d (-30, -60). */
static void rptq_order(void **state)
{
    static const float x[] = {1, 40, 1.1f, -30, -1, 20, -0.9f, -60};
    static const int32_t order[] = {0, 2, 1, 3}, group[] = {0, 1, 0, 2};
    static const float w[] = {1, 2, 3, 4};
    struct layer l = {.ctx = context_of(1)};
    qnt_part part;
    (void)state;
    assert_ok(l.ctx, quantize_with(l.ctx, "rptq:clusters=3,weight_method=rtn", NULL, qnt_matrix_f32(w, 1, 4), x, NULL,
                                   2, &l.q));
    part = part_of(&l, "permutation");
    assert_memory_equal(part.data, order, sizeof order);
    qnt_part_free(&part);
    part = part_of(&l, "group_index");
    assert_memory_equal(part.data, group, sizeof group);
    qnt_part_free(&part);
    part = part_of(&l, "act_zero");
    assert_int_equal(part.shape[0], 4);
    assert_float_equal(((float *)part.data)[1], -24, 0);     /* (40 + 20) / 2 / (20 / 16) */
    assert_float_equal(((float *)part.data)[3], 24, 0);
    qnt_part_free(&part);
    end(&l);
}

/* Each channel in the cluster whose grid the parts give it, original order; clusters of heads side by side. */
static void rptq_parts(void **state)
{
    struct layer l;
    qnt_part order, group, scale, zero, codes, scales, zeros;
    int32_t last = -1;
    (void)state;
    begin(&l);
    quantize(&l, "rptq:clusters=3,heads=4", "native");
    order = part_of(&l, "permutation"), group = part_of(&l, "group_index"), scale = part_of(&l, "act_scale");
    zero = part_of(&l, "act_zero"), codes = part_of(&l, "codes"), scales = part_of(&l, "scales");
    zeros = part_of(&l, "zeros");
    for (size_t j = 0; j < IN; j++) {
        size_t c = (size_t)((int32_t *)order.data)[j], g = (size_t)((int32_t *)group.data)[c];
        assert_int_equal(c / (IN / 4), j / (IN / 4));
        assert_true((int32_t)g == last || (int32_t)g == last + 1);
        last = (int32_t)g;
        for (size_t t = 0; t < TOKENS; t++) { /* within half a step of the fixed range's top, which is cut */
            float at = l.x[t * IN + c] / ((float *)scale.data)[c] + ((float *)zero.data)[c];
            assert_true(at > -9 && at < 9);
        }
        for (size_t r = 0; r < OUT; r++) {
            int32_t code = ((int32_t *)codes.data)[r * IN + c];
            size_t i = r * scales.shape[1] + g;
            assert_true(code >= -8 && code <= 7);
            assert_float_equal(l.value[r * IN + c],
                               ((float)code - ((float *)zeros.data)[i]) * ((float *)scales.data)[i], 1e-7f);
        }
    }
    qnt_part_free(&order), qnt_part_free(&group), qnt_part_free(&scale), qnt_part_free(&zero);
    qnt_part_free(&codes), qnt_part_free(&scales), qnt_part_free(&zeros);
    end(&l);
}

/* Batches with cluster extremes [-1, 3], [-2, 2.5]: lo = -1.01, hi = 2.995. */
static void rptq_averages(void **state)
{
    static const float x[] = {-1, 0, 0, 3, -2, 2.5f, 1, 1};
    static const float w[] = {0.5f, -0.25f};
    struct layer l = {.ctx = context_of(1)};
    qnt_part part;
    (void)state;
    assert_ok(l.ctx, quantize_with(l.ctx, "rptq:clusters=1,act_metric=ema_minmax,batch_tokens=2", NULL,
                                   qnt_matrix_f32(w, 1, 2), x, NULL, 4, &l.q));
    part = part_of(&l, "act_scale");
    assert_float_equal(((float *)part.data)[0], (2.995f + 1.01f) / 16, 1e-6f);
    qnt_part_free(&part);
    end(&l);
}

/* Clusters lose less than one range for all; no clusters are left that the layer has not. */
static void rptq_errors(void **state)
{
    double one, several;
    struct layer l;
    (void)state;
    begin(&l);
    quantize(&l, "rptq:clusters=1", NULL);
    one = output_error(&l);
    quantize(&l, "rptq:clusters=5", NULL);
    several = output_error(&l);
    assert_true(several < 0.5 * one);
    quantize(&l, "rptq:clusters=1000,act_bits=16", NULL);
    refuse(&l, "rptq:heads=7", NULL, QNT_INVALID, "7 heads do not divide 40 inputs");
    end(&l);
}

/* --- memory --- */

struct run {
    const struct layer *layer;
    const char *recipe;
};

static qnt_status run_once(qnt_context *ctx, void *arg)
{
    const struct run *run = arg;
    qnt_qlinear *q;
    qnt_status status = quantize_with(ctx, run->recipe, NULL, qnt_matrix_f32(run->layer->w, OUT, IN), run->layer->x,
                                      NULL, TOKENS, &q);
    qnt_qlinear_destroy(q);
    return status;
}

static void memory_runs_out(void **state)
{
    static const char *const recipes[] = {"atom:keep_columns=6,group_size=8",
                                          "rptq:clusters=4,act_metric=ema_minmax,batch_tokens=7"};
    struct layer l;
    (void)state;
    begin(&l);
    for (size_t i = 0; i < COUNT(recipes); i++)
        each_allocation_fails(run_once, &(struct run){&l, recipes[i]});
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heaps),          cmocka_unit_test(best_partition),      cmocka_unit_test(centred),
        cmocka_unit_test(read_back),      cmocka_unit_test(orders_fold),         cmocka_unit_test(parts_of_transforms),
        cmocka_unit_test(sites),          cmocka_unit_test(atom_parts),          cmocka_unit_test(atom_errors),
        cmocka_unit_test(atom_refusals),  cmocka_unit_test(rptq_order),          cmocka_unit_test(rptq_parts),
        cmocka_unit_test(rptq_averages),  cmocka_unit_test(rptq_errors),         cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
