/*
 * compressed.c - folders of compressed-tensors: which scheme of the configuration a layer has, and the layer by it.
 *
 *   {"format": F, "ignore": [NAME ...], "config_groups": {KEY: {"targets": [NAME ...], "weights": ARGS,
 *    "input_activations": ARGS or null, "output_activations": null, "format": F}}}
 *
 * A NAME is a module's, "re:" and an expression that matches from its start, or
 * the class "Linear"; of several that match, in this order, the first group
 * counts, and `ignore` before all. Groups and ARGS are closed: a key that is
 * not known may change what the numbers mean.
 */
#include "checkpoint/source.h"

#include <stdio.h>
#include <string.h>
#include "container/json.h"
#include "pack/compressed.h"
#include "text/pattern.h"

enum { MOST_GROUP = INT32_MAX };

struct group {
    struct qnti_ct_scheme scheme;
    json_t *targets;                     /* owned reference */
};

struct qnti_ct_groups {
    struct group *group;
    size_t count;
    json_t *ignore;                      /* owned reference, or NULL */
};

void qnti_ct_groups_free(qnt_context *ctx, struct qnti_ct_groups *groups)
{
    if (!groups)
        return;
    for (size_t i = 0; i < groups->count; i++)
        json_decref(groups->group[i].targets);
    json_decref(groups->ignore);
    qnti_free(ctx, groups->group);
    qnti_free(ctx, groups);
}

/* --- arguments --- */

/* What the messages of one object of the configuration begin with: file and place. */
struct place {
    qnt_context *ctx;
    char where[512];
};

static struct place place_of(qnt_context *ctx, const char *where, const char *in)
{
    struct place p = {.ctx = ctx};
    snprintf(p.where, sizeof p.where, "%.300s: %.200s", where, in);
    return p;
}

static qnt_status unsupported(const struct place *p, const char *key, const char *what)
{
    return qnti_fail(p->ctx, QNT_UNSUPPORTED, "%s: is quantized already: %s %s", p->where, key, what);
}

static qnt_status check_keys(const struct place *p, const json_t *object, const char *const *known)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return qnti_fail(p->ctx, QNT_BAD_DATA, "%s should be an object", p->where);
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i])
            return qnti_fail(p->ctx, QNT_BAD_DATA, "%s has a key \"%.100s\", which is not known", p->where, key);
    }
    return QNT_OK;
}

/* One of the words, by number; the first where there is none. */
static qnt_status read_word(const struct place *p, const json_t *object, const char *key, const char *const *words,
                            size_t count, size_t *word)
{
    const char *text = words[0];
    QNT_TRY(qnti_json_string(p->ctx, p->where, object, key, &text));
    for (*word = 0; *word < count; ++*word)
        if (strcmp(words[*word], text) == 0)
            return QNT_OK;
    return qnti_fail(p->ctx, QNT_UNSUPPORTED, "%s: is quantized already: %s is \"%.100s\", which is not supported",
                     p->where, key, text);
}

/* group_size: 0 for none, SIZE_MAX for -1, the row. */
static qnt_status read_group(const struct place *p, const json_t *object, size_t *group)
{
    const json_t *value = json_object_get(object, "group_size");
    *group = 0;
    if (!value || json_is_null(value))
        return QNT_OK;
    if (!json_is_integer(value) || json_integer_value(value) == 0 || json_integer_value(value) < -1 ||
        json_integer_value(value) > MOST_GROUP)
        return qnti_fail(p->ctx, QNT_BAD_DATA, "%s: group_size should be a positive number or -1", p->where);
    *group = json_integer_value(value) == -1 ? SIZE_MAX : (size_t)json_integer_value(value);
    return QNT_OK;
}

static qnt_status read_blocks(const struct place *p, const json_t *object, struct qnti_ct_args *a)
{
    const json_t *value = json_object_get(object, "block_structure");
    json_int_t rows = json_integer_value(json_array_get(value, 0)), cols = json_integer_value(json_array_get(value, 1));
    if (a->strategy != QNTI_CT_BLOCK)
        return QNT_OK;
    if (json_array_size(value) != 2 || rows < 1 || rows > MOST_GROUP || cols < 1 || cols > MOST_GROUP)
        return qnti_fail(p->ctx, QNT_BAD_DATA, "%s: block_structure should be two positive numbers", p->where);
    a->block_rows = (size_t)rows;
    a->block_cols = (size_t)cols;
    return QNT_OK;
}

/* Without a strategy the group size says it. */
static qnt_status read_strategy(const struct place *p, const json_t *object, struct qnti_ct_args *a)
{
    const char *words[QNTI_CT_STRATEGIES + 1] = {""};
    size_t word;
    memcpy(words + 1, qnti_ct_strategies, sizeof qnti_ct_strategies);
    QNT_TRY(read_word(p, object, "strategy", words, sizeof words / sizeof *words, &word));
    QNT_TRY(read_group(p, object, &a->group));
    if (word)
        a->strategy = (enum qnti_ct_strategy)(word - 1);
    else
        a->strategy = a->group == SIZE_MAX ? QNTI_CT_CHANNEL : a->group ? QNTI_CT_GROUP : QNTI_CT_TENSOR;
    if (a->strategy == QNTI_CT_GROUP || a->strategy == QNTI_CT_TENSOR_GROUP) {
        if (a->group && a->group != SIZE_MAX)
            return QNT_OK;
        return qnti_fail(p->ctx, QNT_BAD_DATA, "%s: groups without a group_size", p->where);
    }
    a->group = 0;
    return read_blocks(p, object, a);
}

static qnt_status read_dynamic(const struct place *p, const json_t *object, struct qnti_ct_args *a)
{
    const json_t *value = json_object_get(object, "dynamic");
    if (json_is_string(value) && strcmp(json_string_value(value), "local") == 0)
        a->dynamic = QNTI_CT_LOCAL;
    else if (json_is_true(value))
        a->dynamic = QNTI_CT_DYNAMIC;
    else if (value && !json_is_null(value) && !json_is_false(value))
        return qnti_fail(p->ctx, QNT_BAD_DATA, "%s: dynamic should be true, false or \"local\"", p->where);
    return QNT_OK;
}

/* Groups along the order of activations are stored with an index, which no longer is written. */
static qnt_status check_order(const struct place *p, const json_t *object)
{
    const json_t *value = json_object_get(object, "actorder");
    const char *word = json_string_value(value);
    if (!value || json_is_null(value) || json_is_false(value))
        return QNT_OK;
    if (word && (strcmp(word, "weight") == 0 || strcmp(word, "static") == 0))
        return QNT_OK;
    return unsupported(p, "actorder", "is group, whose index of columns is not supported");
}

static qnt_status read_args(const struct place *p, const json_t *object, struct qnti_ct_args *a)
{
    static const char *const known[] = {"num_bits", "type", "symmetric", "strategy", "group_size", "block_structure",
                                        "dynamic", "actorder", "scale_dtype", "zp_dtype", "observer",
                                        "observer_kwargs", NULL};
    static const char *const types[] = {"int", "float"};
    size_t bits = 8, type;
    QNT_TRY(check_keys(p, object, known));
    *a = (struct qnti_ct_args){.present = true, .sym = true};
    QNT_TRY(qnti_json_size(p->ctx, p->where, object, "num_bits", &bits));
    QNT_TRY(read_word(p, object, "type", types, 2, &type));
    QNT_TRY(qnti_json_bool(p->ctx, p->where, object, "symmetric", &a->sym));
    QNT_TRY(read_strategy(p, object, a));
    QNT_TRY(read_dynamic(p, object, a));
    QNT_TRY(check_order(p, object));
    if (type ? bits != 8 && bits != 4 : bits < 1 || bits > 8)
        return qnti_fail(p->ctx, QNT_UNSUPPORTED, "%s: is quantized already: num_bits is %zu of type %s, which is not "
                         "supported", p->where, bits, types[type]);
    a->bits = (unsigned)bits;
    a->is_float = type;
    a->sym = a->sym || type;
    return QNT_OK;
}

static bool is_fp4(const struct qnti_ct_args *a)
{
    return a->is_float && a->bits == 4;
}

/* FP4 comes in two kinds of groups. */
static bool known_groups(const struct qnti_ct_args *a)
{
    if (!is_fp4(a))
        return a->strategy != QNTI_CT_TENSOR_GROUP;
    return a->strategy == QNTI_CT_TENSOR_GROUP ? a->group == QNTI_CT_NVFP4_GROUP
                                               : a->strategy == QNTI_CT_GROUP && a->group == QNTI_CT_MXFP4_GROUP;
}

static qnt_status check_weights(const struct place *p, const struct qnti_ct_args *a)
{
    if (a->dynamic != QNTI_CT_STATIC || a->strategy == QNTI_CT_TOKEN)
        return unsupported(p, "dynamic", "weights are not supported");
    return known_groups(a) ? QNT_OK : unsupported(p, "group_size", "is none of the formats of FP4");
}

static qnt_status check_inputs(const struct place *p, const struct qnti_ct_args *a)
{
    bool local = a->strategy == QNTI_CT_TENSOR_GROUP;
    if (a->strategy == QNTI_CT_CHANNEL || a->strategy == QNTI_CT_BLOCK ||
        (a->dynamic == QNTI_CT_STATIC && a->strategy != QNTI_CT_TENSOR) || local != (a->dynamic == QNTI_CT_LOCAL))
        return unsupported(p, "strategy", "and dynamic do not go together, or are not supported");
    return known_groups(a) ? QNT_OK : unsupported(p, "group_size", "is none of the formats of FP4");
}

/* --- groups --- */

static bool given(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) && !(json_is_object(value) && json_object_size(value) == 0);
}

static qnt_status check_names(const struct place *p, const json_t *names, const char *key)
{
    for (size_t i = 0; i < json_array_size(names); i++)
        if (!json_is_string(json_array_get(names, i)))
            return qnti_fail(p->ctx, QNT_BAD_DATA, "%s: %s should be a list of names", p->where, key);
    return json_is_array(names) ? QNT_OK
                                : qnti_fail(p->ctx, QNT_BAD_DATA, "%s: %s should be a list of names", p->where, key);
}

/* The group's own format, or that of all. */
static qnt_status read_format(const struct place *p, const json_t *object, const char *common, const char **format)
{
    const char *name = common;
    QNT_TRY(qnti_json_string(p->ctx, p->where, object, "format", &name));
    *format = name ? qnti_ct_format(name) : NULL;
    return *format ? QNT_OK
                   : qnti_fail(p->ctx, QNT_UNSUPPORTED, "%s: is quantized already: the format \"%.100s\" is not "
                               "supported", p->where, name ? name : "");
}

static qnt_status read_one(qnt_context *ctx, const char *where, const char *key, const json_t *object,
                           const char *common, struct group *group)
{
    static const char *const known[] = {"targets", "weights", "input_activations", "output_activations", "format",
                                        NULL};
    struct place p = place_of(ctx, where, key), weights = place_of(ctx, p.where, "weights");
    struct place inputs = place_of(ctx, p.where, "input_activations");
    json_t *targets = json_object_get(object, "targets");
    QNT_TRY(check_keys(&p, object, known));
    QNT_TRY(check_names(&p, targets, "targets"));
    QNT_TRY(read_format(&p, object, common, &group->scheme.format));
    if (!given(object, "weights"))
        return unsupported(&p, "weights", "are not quantized, which is not supported");
    if (given(object, "output_activations"))
        return unsupported(&p, "output_activations", "are not supported");
    QNT_TRY(read_args(&weights, json_object_get(object, "weights"), &group->scheme.weights));
    QNT_TRY(check_weights(&weights, &group->scheme.weights));
    if (!qnti_ct_fits(group->scheme.format, &group->scheme.weights))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: its format %s does not hold such weights", p.where,
                         group->scheme.format);
    if (given(object, "input_activations")) {
        QNT_TRY(read_args(&inputs, json_object_get(object, "input_activations"), &group->scheme.inputs));
        QNT_TRY(check_inputs(&inputs, &group->scheme.inputs));
    }
    group->targets = json_incref(targets);
    return QNT_OK;
}

/* What would change the model beyond its linears' weights and inputs. */
static qnt_status check_rest(qnt_context *ctx, const char *where, const json_t *config)
{
    struct place p = place_of(ctx, where, "quantization_config");
    const char *status = "compressed", *sparse = "dense";
    const json_t *sparsity = json_object_get(config, "sparsity_config");
    QNT_TRY(qnti_json_string(ctx, p.where, config, "quantization_status", &status));
    if (strcmp(status, "compressed") != 0)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: is quantized already: quantization_status is \"%.100s\", expected "
                         "compressed", p.where, status);
    if (sparsity && !json_is_null(sparsity))
        QNT_TRY(qnti_json_string(ctx, p.where, sparsity, "format", &sparse));
    if (strcmp(sparse, "dense") != 0)
        return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: is quantized already: the format of sparsity_config is \"%.100s\", "
                         "expected dense", p.where, sparse);
    if (given(config, "kv_cache_scheme"))
        return unsupported(&p, "kv_cache_scheme", "is not supported");
    return given(config, "transform_config") ? unsupported(&p, "transform_config", "is not supported") : QNT_OK;
}

static qnt_status configure(qnt_context *ctx, const char *where, const json_t *config, struct qnti_source *source)
{
    json_t *object, *all = json_object_get(config, "config_groups"), *ignore = json_object_get(config, "ignore");
    struct place p = place_of(ctx, where, "quantization_config");
    const char *key, *format = NULL;
    source->layout = qnti_layout_find(ctx, "compressed-tensors");
    QNT_TRY(check_rest(ctx, where, config));
    QNT_TRY(qnti_json_string(ctx, p.where, config, "format", &format));
    if (!json_is_object(all) || json_object_size(all) == 0)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s has no config_groups", p.where);
    QNT_TRY(QNTI_NEW(ctx, 1, &source->groups));
    QNT_TRY(QNTI_NEW(ctx, json_object_size(all), &source->groups->group));
    if (given(config, "ignore")) {
        QNT_TRY(check_names(&p, ignore, "ignore"));
        source->groups->ignore = json_incref(ignore);
    }
    json_object_foreach(all, key, object)
        QNT_TRY(read_one(ctx, where, key, object, format, &source->groups->group[source->groups->count++]));
    return QNT_OK;
}

/* --- which layer has which --- */

/* Ranks of what matches a name; the best wins. */
enum rank { RANK_NONE, RANK_CLASS, RANK_EXPRESSION, RANK_NAME };

/* Whether an expression matches from the start: the leftmost match is one there, if there is one. */
static qnt_status match_expression(qnt_context *ctx, const char *expression, const char *name, bool *match)
{
    struct qnti_pattern pattern = {0};
    struct qnti_matcher matcher = {.ctx = ctx};
    const struct qnti_span *spans;
    size_t count = 0;
    qnt_status status;
    *match = false;
    QNT_CHECK(qnti_pattern_compile(ctx, "quantization_config", expression, strlen(expression), false, &pattern));
    QNT_CHECK(qnti_matcher_open(ctx, &pattern, &matcher));
    QNT_CHECK(qnti_matcher_find(&matcher, name, strlen(name), &spans, &count));
    *match = count && spans[0].match;
cleanup:
    qnti_matcher_close(&matcher);
    qnti_pattern_free(ctx, &pattern);
    return status;
}

static qnt_status rank_of(qnt_context *ctx, const json_t *names, const char *layer, enum rank *best)
{
    *best = RANK_NONE;
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        enum rank rank = RANK_NONE;
        bool match;
        if (strncmp(name, "re:", 3) == 0) {
            QNT_TRY(match_expression(ctx, name + 3, layer, &match));
            rank = match ? RANK_EXPRESSION : RANK_NONE;
        } else if (strcmp(name, layer) == 0) {
            rank = RANK_NAME;
        } else if (strcmp(name, "Linear") == 0) {
            rank = RANK_CLASS;
        }
        *best = rank > *best ? rank : *best;
    }
    return QNT_OK;
}

static qnt_status find_scheme(qnt_context *ctx, const struct qnti_ct_groups *groups, const char *layer,
                              const struct qnti_ct_scheme **scheme)
{
    enum rank best = RANK_NONE, rank;
    *scheme = NULL;
    QNT_TRY(rank_of(ctx, groups->ignore, layer, &rank));
    for (size_t i = 0; rank == RANK_NONE && i < groups->count; i++) {
        enum rank here;
        QNT_TRY(rank_of(ctx, groups->group[i].targets, layer, &here));
        if (here <= best)
            continue;
        best = here;
        *scheme = &groups->group[i].scheme;
    }
    if (*scheme)
        return QNT_OK;
    return qnti_fail(ctx, QNT_BAD_DATA, "layer %s: its tensors are quantized, but the configuration %s", layer,
                     rank == RANK_NONE ? "has no group for it" : "says to ignore it");
}

/* QNT_NOT_FOUND: a layer of floats, or none; codes without a scale are a damaged one. */
static qnt_status check_plain(qnt_context *ctx, const struct qnti_source *source, const char *name)
{
    struct qnti_buffer text = {0};
    const struct qnti_stored *weight;
    QNT_TRY(qnti_buffer_print(ctx, &text, "%s.weight", name));
    weight = qnti_stored_find(source, text.data);
    qnti_buffer_free(ctx, &text);
    if (!weight || weight->plain)
        return QNT_NOT_FOUND;
    return qnti_fail(ctx, QNT_BAD_DATA, "layer %s: weight is %s, and there is no tensor weight_scale", name,
                     weight->type);
}

static qnt_status read_layer(qnt_context *ctx, const struct qnti_source *source, const char *name, qnt_qlinear **q)
{
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    const uint8_t *data[QNT_MOST_PACKED_TENSORS];
    const struct qnti_ct_scheme *scheme;
    size_t count;
    QNT_TRY(qnti_quantized_tensors(ctx, source, name, tensors, data, &count));
    if (!count)
        return check_plain(ctx, source, name);
    QNT_TRY(find_scheme(ctx, source->groups, name, &scheme));
    QNT_TRY(qnti_ct_unpack(ctx, name, tensors, data, count, scheme, q));
    (*q)->report.bits_per_weight = qnti_qlinear_bits(*q);
    return QNT_OK;
}

static const char *const parts[] = {"weight_packed", "weight", "weight_scale", "weight_shape", "weight_zero_point",
                                    "weight_global_scale", "input_scale", "input_zero_point", "input_global_scale",
                                    NULL};
static const char *const marks[] = {"weight_scale", "weight_packed", NULL};

const struct qnti_quantized_reader qnti_ct_reader = {
    "compressed-tensors", "compressed-tensors folder", parts, marks, configure, read_layer};
