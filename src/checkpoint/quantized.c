/*
 * quantized.c - folders that are quantized already: which of them can be read, and layer by layer into a qlinear.
 *
 * Native files say `quant_format` in their metadata. The others are told by
 * quantization_config (or, beside config.json, quantize_config.json and
 * quant_config.json of older writers), one row of `readers` a method. What is
 * quantized in another way is refused by name, never read as if it were not.
 */
#include "checkpoint/source.h"

#include <string.h>
#include <strings.h>
#include "base/number.h"
#include "container/json.h"
#include "file/output.h"
#include "pack/native.h"

/* --- native --- */

static qnt_status read_native(qnt_context *ctx, const struct qnti_source *source, const char *name, qnt_qlinear **q)
{
    qnt_status status = QNT_NOT_FOUND;
    for (size_t i = 0; i < source->shard_count && status == QNT_NOT_FOUND; i++)
        status = qnti_native_read(ctx, source->shards[i], name, q);
    return status;
}

/* --- packed tensors --- */

/* A stored tensor as a packed one; false: a type or rank that no layout has. */
static bool as_packed(const struct qnti_stored *stored, const char *name, qnt_packed_tensor *t)
{
    static const qnt_dtype types[] = {QNT_I32, QNT_F16, QNT_BF16, QNT_F32, QNT_U8, QNT_I8, QNT_I64, QNT_F8_E4M3};
    enum { TYPES = sizeof types / sizeof *types };
    size_t i = 0;
    while (i < TYPES && strcmp(stored->type, qnti_dtype_name(types[i])) != 0)
        i++;
    if (i == TYPES || stored->rank > 2)
        return false;
    *t = (qnt_packed_tensor){.name = name, .dtype = types[i], .rank = stored->rank, .bytes = stored->bytes};
    t->shape[0] = stored->rank ? stored->shape[0] : 1;
    t->shape[1] = stored->rank == 2 ? stored->shape[1] : 0;
    return true;
}

/* What the configuration says of every layer must hold for this one. */
static qnt_status check_said(qnt_context *ctx, const struct qnti_source *source, const qnt_qlinear *q)
{
    const struct qnti_numbers *w = q->segments[0].weight;
    const struct qnti_map *map = &w->grid.map;
    size_t said = qnti_min(source->group, q->in), is = map->cols ? map->cols : q->in;
    if (source->bits && source->bits != w->grid.bits)
        return qnti_fail(ctx, QNT_BAD_DATA, "layer %s: its tensors are of %u bits, the configuration says %zu", q->name,
                         w->grid.bits, source->bits);
    if (map->kind == QNTI_MAP_INDEX && said) /* of groups along an order only their number is known */
        is = qnti_ceil_div(q->in, said) == w->scale->cols ? said : is;
    if (said && is != said)
        return qnti_fail(ctx, QNT_BAD_DATA, "layer %s: its groups are of %zu columns, the configuration says %zu",
                         q->name, is, said);
    return QNT_OK;
}

/* The tensor NAME.PART, NULL: there is none. */
static qnt_status find_part(qnt_context *ctx, const struct qnti_source *source, const char *name, const char *part,
                            const struct qnti_stored **stored)
{
    struct qnti_buffer text = {0};
    QNT_TRY(qnti_buffer_print(ctx, &text, "%s.%s", name, part));
    *stored = qnti_stored_find(source, text.data);
    qnti_buffer_free(ctx, &text);
    return QNT_OK;
}

static qnt_status is_packed(qnt_context *ctx, const struct qnti_source *source, const char *name, bool *packed)
{
    *packed = false;
    for (const char *const *mark = source->reader->marks; *mark && !*packed; mark++) {
        const struct qnti_stored *stored;
        QNT_TRY(find_part(ctx, source, name, *mark, &stored));
        *packed = stored != NULL;
    }
    return QNT_OK;
}

qnt_status qnti_quantized_tensors(qnt_context *ctx, const struct qnti_source *source, const char *name,
                                  qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS],
                                  const uint8_t *data[QNT_MOST_PACKED_TENSORS], size_t *count)
{
    bool packed;
    *count = 0;
    QNT_TRY(is_packed(ctx, source, name, &packed));
    for (const char *const *part = source->reader->parts; packed && *part; part++) {
        const struct qnti_stored *stored;
        QNT_TRY(find_part(ctx, source, name, *part, &stored));
        if (!stored || *count == QNT_MOST_PACKED_TENSORS)
            continue;
        if (!as_packed(stored, *part, &tensors[*count]))
            return qnti_fail(ctx, QNT_BAD_DATA, "tensor \"%.200s\" is %s of %zu dimensions", stored->name,
                             stored->type, stored->rank);
        data[(*count)++] = stored->data;
    }
    return QNT_OK;
}

static qnt_status read_packed(qnt_context *ctx, const struct qnti_source *source, const char *name, qnt_qlinear **q)
{
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    const uint8_t *data[QNT_MOST_PACKED_TENSORS];
    size_t count;
    QNT_TRY(qnti_quantized_tensors(ctx, source, name, tensors, data, &count));
    if (!count)
        return QNT_NOT_FOUND;
    QNT_TRY(qnti_layout_unpack(ctx, source->layout, name, tensors, data, count, q));
    return check_said(ctx, source, *q);
}

/* Rows of 8 bits meet inputs of 8 bits, by the model's threshold. */
static qnt_status read_bnb(qnt_context *ctx, const struct qnti_source *source, const char *name, qnt_qlinear **q)
{
    QNT_TRY(read_packed(ctx, source, name, q));
    if ((*q)->segments[0].weight->grid.form == QNTI_FORM_CODEBOOK)
        return QNT_OK;
    return qnti_actquant_int8(ctx, qnti_context_kernels(ctx), (*q)->in, source->threshold, &(*q)->act);
}

/* --- configurations --- */

/* A key must be absent, or say `wanted` (case is ignored). */
static qnt_status expect_word(qnt_context *ctx, const char *where, const json_t *config, const char *key,
                              const char *wanted)
{
    const char *word = wanted;
    QNT_TRY(qnti_json_string(ctx, where, config, key, &word));
    if (strcasecmp(word, wanted) == 0)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: is quantized already: %s \"%.100s\" is another packing, expected %s",
                     where, key, word, wanted);
}

static qnt_status expect_bool(qnt_context *ctx, const char *where, const json_t *config, const char *key, bool wanted)
{
    bool is = wanted;
    QNT_TRY(qnti_json_bool(ctx, where, config, key, &is));
    if (is == wanted)
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: is quantized already: %s is %s, which is not supported", where, key,
                     is ? "true" : "false");
}

/* Bits and columns of a group under their newer or older names; -1 stands for the row. */
static qnt_status read_grid(qnt_context *ctx, const char *where, const json_t *config, struct qnti_source *source)
{
    static const char *const names[] = {"group_size", "q_group_size"};
    QNT_TRY(qnti_json_size(ctx, where, config, "w_bit", &source->bits));
    QNT_TRY(qnti_json_size(ctx, where, config, "bits", &source->bits));
    for (size_t i = 0; i < 2; i++) {
        const json_t *group = json_object_get(config, names[i]);
        if (!group || json_is_null(group))
            continue;
        if (!json_is_integer(group) || json_integer_value(group) < -1 || json_integer_value(group) == 0)
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: %s should be a positive number or -1", where, names[i]);
        source->group = json_integer_value(group) == -1 ? SIZE_MAX : (size_t)json_integer_value(group);
    }
    return QNT_OK;
}

static qnt_status refuse_bits(qnt_context *ctx, const char *where, const struct qnti_source *source)
{
    if (!source->bits || (source->bits < 32 && source->layout->limits->widths >> source->bits & 1))
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: is quantized already: %zu bits are not supported in %s", where,
                     source->bits, source->layout->name);
}

static qnt_status configure_gptq(qnt_context *ctx, const char *where, const json_t *config,
                                 struct qnti_source *source)
{
    const char *version = "gptq";
    const json_t *dynamic = json_object_get(config, "dynamic");
    QNT_TRY(qnti_json_string(ctx, where, config, "format", &version));
    QNT_TRY(qnti_json_string(ctx, where, config, "checkpoint_format", &version));
    if (strcasecmp(version, "gptq") != 0 && strcasecmp(version, "gptq_v2") != 0)
        return qnti_fail(ctx, QNT_UNSUPPORTED,
                         "%s: is quantized already: checkpoint_format \"%.100s\" is another packing, expected gptq or "
                         "gptq_v2", where, version);
    QNT_TRY(expect_bool(ctx, where, config, "is_marlin_format", false));
    QNT_TRY(expect_word(ctx, where, config, "pack_dtype", "int32"));
    QNT_TRY(expect_word(ctx, where, config, "weight_format", "gptq"));
    source->layout = qnti_layout_find(ctx, strcasecmp(version, "gptq") == 0 ? "gptq:v1" : "gptq:v2");
    if (!source->layout)
        return QNT_NOT_FOUND;
    QNT_TRY(read_grid(ctx, where, config, source));
    QNT_TRY(refuse_bits(ctx, where, source));
    if (json_object_size(dynamic)) /* layers may differ: each one's tensors tell */
        source->bits = source->group = 0;
    return QNT_OK;
}

static qnt_status configure_awq(qnt_context *ctx, const char *where, const json_t *config, struct qnti_source *source)
{
    QNT_TRY(expect_word(ctx, where, config, "version", "gemm"));
    QNT_TRY(expect_word(ctx, where, config, "format", "gemm"));
    QNT_TRY(expect_word(ctx, where, config, "weight_format", "gemm"));
    QNT_TRY(expect_word(ctx, where, config, "backend", "autoawq"));
    QNT_TRY(expect_bool(ctx, where, config, "zero_point", true));
    source->layout = qnti_layout_find(ctx, "awq");
    if (!source->layout)
        return QNT_NOT_FOUND;
    QNT_TRY(read_grid(ctx, where, config, source));
    return refuse_bits(ctx, where, source);
}

static qnt_status configure_bnb(qnt_context *ctx, const char *where, const json_t *config, struct qnti_source *source)
{
    const json_t *threshold = json_object_get(config, "llm_int8_threshold");
    QNT_TRY(expect_bool(ctx, where, config, "llm_int8_has_fp16_weight", false));
    source->threshold = 6;
    if (threshold && !json_is_null(threshold)) {
        if (!json_is_number(threshold) || !(json_number_value(threshold) >= 0))
            return qnti_fail(ctx, QNT_BAD_DATA, "%s: llm_int8_threshold should be a number, 0 or above", where);
        source->threshold = (float)json_number_value(threshold);
    }
    source->layout = qnti_layout_find(ctx, "bnb");
    return source->layout ? QNT_OK : QNT_NOT_FOUND;
}

static const char *const word_parts[] = {"qweight", "qzeros", "scales", "g_idx", NULL};
static const char *const word_marks[] = {"qweight", NULL};
static const char *const bnb_parts[] = {"weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax",
                                        "weight.nested_quant_map", "weight.quant_state.bitsandbytes__nf4",
                                        "weight.quant_state.bitsandbytes__fp4", "SCB", "weight_format", NULL};
static const char *const bnb_marks[] = {"weight.absmax", "SCB", NULL};

static const struct qnti_quantized_reader own_readers[] = {
    {"native", "native", NULL, NULL, NULL, read_native},
    {"gptq", "GPTQ folder", word_parts, word_marks, configure_gptq, read_packed},
    {"awq", "AWQ folder", word_parts, word_marks, configure_awq, read_packed},
    {"bitsandbytes", "bitsandbytes folder", bnb_parts, bnb_marks, configure_bnb, read_bnb},
};
static const struct qnti_quantized_reader *const readers[] = {&own_readers[0], &own_readers[1], &own_readers[2],
                                                              &own_readers[3], &qnti_ct_reader};

static const struct qnti_quantized_reader *reader_named(const char *method)
{
    for (size_t i = 0; method && i < sizeof readers / sizeof *readers; i++)
        if (strcasecmp(readers[i]->method, method) == 0)
            return readers[i];
    return NULL;
}

static void take(struct qnti_checkpoint *c, const struct qnti_quantized_reader *reader)
{
    c->source->reader = reader;
    c->kind = reader->kind;
}

/* Files that say `quant_format` are the library's own. */
static qnt_status find_own(struct qnti_checkpoint *c)
{
    const char *format = qnti_safetensors_metadata(c->source->shards[0], "quant_format");
    if (!format)
        return QNT_OK;
    if (strcmp(format, "native") != 0)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED,
                         "%s: is quantized already, in the format \"%.100s\", which cannot be read back", c->path,
                         format);
    take(c, reader_named(format));
    return QNT_OK;
}

/* Whether a layer is quantized as the reader's are. */
static bool has_marked(const struct qnti_source *source, const struct qnti_quantized_reader *reader)
{
    for (size_t t = 0; t < source->count; t++)
        for (const char *const *mark = reader->marks; *mark; mark++) {
            const char *name = source->tensors[t].name;
            size_t n = strlen(name), m = strlen(*mark);
            if (n > m && name[n - m - 1] == '.' && strcmp(name + n - m, *mark) == 0)
                return true;
        }
    return false;
}

/* A configuration that says something. */
static qnt_status use_config(struct qnti_checkpoint *c, const char *where, const char *key, const json_t *config,
                             const char *method)
{
    const struct qnti_quantized_reader *reader;
    QNT_TRY(qnti_json_string(c->ctx, where, config, "quant_method", &method));
    reader = reader_named(method);
    if (!reader || !reader->configure)
        return qnti_fail(c->ctx, QNT_UNSUPPORTED,
                         "%s: is quantized already (%s, method \"%.100s\"); the unquantized model is needed", c->path,
                         key, method ? method : "unknown");
    if (!has_marked(c->source, reader))
        return qnti_fail(c->ctx, QNT_BAD_DATA, "%s: %s says method %s, but no tensor is a .%s", c->path, key,
                         reader->method, reader->marks[0]);
    take(c, reader);
    return reader->configure(c->ctx, where, config, c->source);
}

/* Configurations that older writers put beside config.json; *found: there was one. */
static qnt_status find_beside(struct qnti_checkpoint *c, bool *found)
{
    static const struct {
        const char *file, *method;
    } beside[] = {{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}};
    *found = false;
    for (size_t i = 0; i < 2 && !*found; i++) {
        json_t *json = NULL;
        char *path;
        qnt_status status;
        QNT_TRY(qnti_folder_has(c, beside[i].file, found));
        if (!*found)
            continue;
        QNT_TRY(qnti_path_join(c->ctx, c->path, beside[i].file, &path));
        status = qnti_json_load(c->ctx, path, &json);
        if (status == QNT_OK)
            status = use_config(c, path, beside[i].file, json, beside[i].method);
        json_decref(json);
        qnti_free(c->ctx, path);
        QNT_TRY(status);
    }
    return QNT_OK;
}

/* Without a configuration, quantized tensors are told by their names. */
static qnt_status check_tensors(struct qnti_checkpoint *c)
{
    static const char *const suffixes[] = {".qweight", ".qzeros", ".weight_packed", ".weight_scale",
                                           ".weight_scale_inv", ".weight.absmax", ".SCB"};
    for (size_t t = 0; t < c->source->count; t++)
        for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
            bool found = false;
            if (!qnti_has_suffix(c->source->tensors[t].name, suffixes[i]))
                continue;
            if (i < 2)
                QNT_TRY(find_beside(c, &found));
            return found ? QNT_OK
                         : qnti_fail(c->ctx, QNT_UNSUPPORTED,
                                     "%s: is quantized already: has a tensor \"%.200s\"; the unquantized model is "
                                     "needed", c->path, c->source->tensors[t].name);
        }
    return QNT_OK;
}

qnt_status qnti_quantized_find(struct qnti_checkpoint *c, const char *where, const json_t *json)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    QNT_TRY(find_own(c));
    if (c->source->reader)
        return QNT_OK;
    for (size_t i = 0; i < 2; i++) {
        const json_t *config = json_object_get(json, keys[i]);
        if (config && !json_is_null(config))
            return use_config(c, where, keys[i], config, NULL);
    }
    return check_tensors(c);
}
