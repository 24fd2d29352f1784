/*
 * packed.c - folders of GPTQ, AWQ, bitsandbytes: packed layers, all else as f16 or as it is, and their configurations.
 *
 * quantization_config has one set of values for the whole model. GPTQ can
 * name layers that differ (`dynamic`: regular expressions from the start of a
 * layer's name) and has one version for all: 1 if every layer is symmetric,
 * else 2. AWQ can only name layers that stay float. bitsandbytes' tensors tell
 * all but whether they are of 4 bits or 8, and when inputs stay floats.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/buffer.h"
#include "base/number.h"
#include "export/folder.h"
#include <quant/quant.h>

/* What a configuration says of a layer. */
struct settings {
    bool known;
    unsigned bits;
    size_t group;                        /* columns; 0: the row */
    bool sym, index;
    const char *type;                    /* bitsandbytes: "nf4", "fp4"; NULL: 8 bits, */
    bool nested;                         /* maxima in 8 bits, */
    float threshold;                     /* of inputs that stay floats */
};

struct packed {
    const struct qnti_layout *layout;    /* of all layers */
    struct settings *settings;           /* [targets] */
    struct settings usual;               /* of most layers */
    bool symmetric;                      /* all layers are */
    size_t target;                       /* the packed layer in hand; SIZE_MAX: none */
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    void *bytes;
};

static qnt_status begin(struct qnti_folder *f)
{
    struct packed *p;
    QNT_TRY(QNTI_NEW(f->e->ctx, 1, &p));
    f->state = p;
    p->symmetric = true;
    p->target = SIZE_MAX;
    p->layout = qnti_layout_find(f->e->ctx, f->e->format->layout);
    return p->layout ? QNTI_NEW(f->e->ctx, f->e->count, &p->settings) : QNT_NOT_FOUND;
}

static void finish(struct qnti_folder *f)
{
    struct packed *p = f->state;
    if (!p)
        return;
    qnti_free(f->e->ctx, p->settings);
    qnti_free(f->e->ctx, p->bytes);
    qnti_free(f->e->ctx, p);
}

/* --- tensors --- */

static qnt_status load(struct qnti_folder *f, size_t t, qnt_qlinear **q)
{
    const struct qnti_weight *w = f->e->targets[t].source;
    QNT_TRY(f->e->layer(f->e->user, t, q));
    (*q)->source_type = w->plain.data ? w->plain.dtype : QNT_F32;
    if ((*q)->out == w->rows && (*q)->in == w->cols)
        return QNT_OK;
    return qnti_fail(f->e->ctx, QNT_INVALID, "layer %s is (%zu, %zu), expected (%zu, %zu)", w->name, (*q)->out,
                     (*q)->in, w->rows, w->cols);
}

/* A layer's bias is a tensor of the model: it is written in its own turn. */
static bool is_bias(const qnt_packed_tensor *t)
{
    return strcmp(t->name, "bias") == 0;
}

static qnt_status add_tensors(struct qnti_folder *f, size_t t, const qnt_packed_tensor *tensors, size_t count)
{
    const char *name = f->e->targets[t].source->name;
    for (size_t i = 0; i < count; i++) {
        struct qnti_buffer text = {0};
        qnt_status status;
        if (is_bias(&tensors[i]))
            continue;
        status = qnti_buffer_print(f->e->ctx, &text, "%.*s%s", (int)(strlen(name) - strlen("weight")), name,
                                   tensors[i].name);
        if (status == QNT_OK)
            status = qnti_folder_add(f, t, i, text.data, qnti_dtype_name(tensors[i].dtype), tensors[i].rank,
                                     tensors[i].shape, tensors[i].bytes);
        qnti_buffer_free(f->e->ctx, &text);
        QNT_TRY(status);
    }
    return QNT_OK;
}

static qnt_status describe(struct qnti_folder *f, size_t t)
{
    struct packed *p = f->state;
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    const struct qnti_grid *g;
    qnt_qlinear *q = NULL;
    size_t count, bytes;
    qnt_status status;
    QNT_CHECK(load(f, t, &q));
    QNT_CHECK(qnti_layout_tensors(p->layout, q, tensors, &count, &bytes));
    g = &q->segments[0].weight->grid;
    p->settings[t] = (struct settings){.known = true, .bits = g->bits, .group = g->map.cols, .sym = g->constant_offset,
                                       .index = g->map.kind == QNTI_MAP_INDEX, .type = qnti_bnb_type(g),
                                       .nested = g->scale_grid != NULL,
                                       .threshold = q->act ? q->act->threshold : 0};
    p->symmetric = p->symmetric && g->constant_offset;
    status = add_tensors(f, t, tensors, count);
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

/* Packs the layer into `bytes`, unless it is there already. */
static qnt_status take_in_hand(struct qnti_folder *f, size_t t)
{
    struct packed *p = f->state;
    qnt_qlinear *q = NULL;
    size_t count, bytes;
    qnt_status status;
    if (p->target == t)
        return QNT_OK;
    p->target = SIZE_MAX;
    qnti_free(f->e->ctx, p->bytes);
    p->bytes = NULL;
    QNT_CHECK(load(f, t, &q));
    QNT_CHECK(qnti_layout_tensors(p->layout, q, p->tensors, &count, &bytes));
    QNT_CHECK(qnti_alloc_raw(f->e->ctx, bytes, 1, &p->bytes));
    QNT_CHECK(qnti_layout_pack(p->layout, q, p->bytes, bytes));
    p->target = t;
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

static qnt_status write(struct qnti_folder_entry *entry, struct qnti_output *output)
{
    const struct packed *p = entry->folder->state;
    const qnt_packed_tensor *t = &p->tensors[entry->part];
    QNT_TRY(take_in_hand(entry->folder, entry->target));
    return qnti_folder_emit(entry, output, (const char *)p->bytes + t->offset, t->bytes);
}

/* --- configuration --- */

static bool same_settings(const struct settings *a, const struct settings *b)
{
    return a->bits == b->bits && a->group == b->group && a->sym == b->sym && a->index == b->index &&
           a->type == b->type && a->nested == b->nested && a->threshold == b->threshold;
}

/* Those of most layers, the first of equally many. */
static void find_usual(struct packed *p, size_t count)
{
    size_t most = 0;
    for (size_t i = 0; i < count; i++) {
        size_t n = 0;
        for (size_t k = i; p->settings[i].known && k < count; k++)
            n += p->settings[k].known && same_settings(&p->settings[i], &p->settings[k]);
        if (n > most) {
            most = n;
            p->usual = p->settings[i];
        }
    }
}

static bool is_float_layer(const struct qnti_target *t)
{
    return !t->quantized && !t->bias && qnti_is_linear(t->role);
}

static json_int_t group_of(const struct settings *s)
{
    return s->group ? (json_int_t)s->group : -1;
}

/* "-:^model\\.layers\\.0\\.mlp\\.down_proj$": a sign, and the name with its points taken literally. */
static qnt_status pattern_of(const struct qnti_folder *f, size_t t, char sign, struct qnti_buffer *text)
{
    const char *name = f->e->targets[t].source->name;
    QNT_TRY(qnti_buffer_print(f->e->ctx, text, "%c:^", sign));
    for (size_t i = 0; i < strlen(name) - strlen(".weight"); i++)
        QNT_TRY(qnti_buffer_print(f->e->ctx, text, name[i] == '.' ? "\\%c" : "%c", name[i]));
    return qnti_buffer_print(f->e->ctx, text, "$");
}

static qnt_status add_dynamic(const struct qnti_folder *f, size_t t, json_t *dynamic)
{
    const struct packed *p = f->state;
    const struct settings *s = &p->settings[t];
    struct qnti_buffer text = {0};
    json_t *value;
    qnt_status status;
    if (!is_float_layer(&f->e->targets[t]) && (!s->known || same_settings(s, &p->usual)))
        return QNT_OK;
    QNT_CHECK(pattern_of(f, t, s->known ? '+' : '-', &text));
    value = s->known ? json_pack("{s:i,s:I,s:b,s:b}", "bits", (int)s->bits, "group_size", group_of(s), "desc_act",
                                 s->index, "sym", s->sym) : json_object();
    if (json_object_set_new(dynamic, text.data, value) != 0)
        status = qnti_fail(f->e->ctx, QNT_NO_MEMORY, "out of memory for the configuration");
cleanup:
    qnti_buffer_free(f->e->ctx, &text);
    return status;
}

static qnt_status gptq_config(struct qnti_folder *f, json_t **config)
{
    struct packed *p = f->state;
    json_t *dynamic = json_object();
    char quantizer[64];
    qnt_status status = QNT_OK;
    bool v2;
    find_usual(p, f->e->count);
    if (p->layout->symmetric) /* one version for all layers */
        p->layout = qnti_layout_find(f->e->ctx, p->symmetric ? p->layout->symmetric : "gptq:v2");
    v2 = p->layout->limits->least_zero == 0;
    for (size_t t = 0; t < f->e->count && status == QNT_OK; t++)
        status = add_dynamic(f, t, dynamic);
    snprintf(quantizer, sizeof quantizer, "libquant:%s", qnt_version());
    *config = json_pack("{s:i,s:I,s:b,s:b,s:b,s:s,s:s,s:s,s:s,s:{s:[s]}}", "bits", (int)p->usual.bits, "group_size",
                        group_of(&p->usual), "desc_act", p->usual.index, "sym", p->usual.sym, "lm_head", 0,
                        "quant_method", "gptq", "checkpoint_format", v2 ? "gptq_v2" : "gptq", "format",
                        v2 ? "gptq_v2" : "gptq", "pack_dtype", "int32", "meta", "quantizer", quantizer);
    if (json_object_size(dynamic))
        json_object_set(*config, "dynamic", dynamic);
    json_decref(dynamic);
    if (status == QNT_OK && !*config)
        return qnti_fail(f->e->ctx, QNT_NO_MEMORY, "out of memory for the configuration");
    return status;
}

/* All layers must be alike. */
static qnt_status check_alike(const struct qnti_folder *f)
{
    const struct packed *p = f->state;
    for (size_t t = 0; t < f->e->count; t++)
        if (p->settings[t].known && p->settings[t].group != p->usual.group)
            return qnti_fail(f->e->ctx, QNT_UNSUPPORTED,
                             "format awq has one group size for all layers: most have %zu, %s has %zu; gptq can hold "
                             "both", p->usual.group, f->e->targets[t].source->name, p->settings[t].group);
    return QNT_OK;
}

/* Names of the layers that stay float, behind those in *list, which is made where there are some. */
static void list_float_layers(const struct qnti_folder *f, json_t **list)
{
    for (size_t t = 0; t < f->e->count; t++) {
        const char *name = f->e->targets[t].source->name;
        if (!is_float_layer(&f->e->targets[t]))
            continue;
        *list = *list ? *list : json_array();
        json_array_append_new(*list, json_stringn(name, strlen(name) - strlen(".weight")));
    }
}

static qnt_status awq_config(struct qnti_folder *f, json_t **config)
{
    struct packed *p = f->state;
    json_t *skipped = NULL;
    find_usual(p, f->e->count);
    QNT_TRY(check_alike(f));
    list_float_layers(f, &skipped);
    *config = json_pack("{s:s,s:i,s:I,s:b,s:s,s:s,s:o?}", "quant_method", "awq", "bits", 4, "group_size",
                        group_of(&p->usual), "zero_point", 1, "version", "gemm", "format", "gemm",
                        "modules_to_not_convert", skipped);
    return *config ? QNT_OK : qnti_fail(f->e->ctx, QNT_NO_MEMORY, "out of memory for the configuration");
}

/* 4 bits or 8, and one threshold for all. */
static qnt_status check_threshold(const struct qnti_folder *f)
{
    const struct packed *p = f->state;
    for (size_t t = 0; t < f->e->count; t++)
        if (p->settings[t].known &&
            (p->settings[t].bits != p->usual.bits || p->settings[t].threshold != p->usual.threshold))
            return qnti_fail(f->e->ctx, QNT_UNSUPPORTED,
                             "format bnb has one width and one threshold of inputs for all layers: most have %u bits "
                             "and %g, %s has %u and %g; native can hold both", p->usual.bits,
                             (double)p->usual.threshold, f->e->targets[t].source->name, p->settings[t].bits,
                             (double)p->settings[t].threshold);
    return QNT_OK;
}

/* The type that readers compute in: the one in which most tensors of the source are. */
static const char *compute_type(const struct qnti_folder *f)
{
    static const char *const names[] = {[QNT_F32] = "float32", [QNT_F16] = "float16", [QNT_BF16] = "bfloat16"};
    for (size_t t = 0; t < f->e->count; t++)
        if (f->e->targets[t].quantized && f->e->targets[t].source->plain.data)
            return names[f->e->targets[t].source->plain.dtype];
    return names[QNT_F32];
}

static qnt_status bnb_config(struct qnti_folder *f, json_t **config)
{
    struct packed *p = f->state;
    json_t *skipped = NULL;
    bool four;
    find_usual(p, f->e->count);
    QNT_TRY(check_threshold(f));
    list_float_layers(f, &skipped);
    if (skipped) /* the list stands in place of the default, which is the output matrix */
        json_array_append_new(skipped, json_string("lm_head"));
    four = p->usual.type != NULL;
    *config = json_pack("{s:s,s:b,s:b,s:b,s:b,s:s,s:b,s:s,s:s,s:f,s:o?,s:b,s:b}", "quant_method", "bitsandbytes",
                        "_load_in_4bit", four, "_load_in_8bit", !four, "load_in_4bit", four, "load_in_8bit", !four,
                        "bnb_4bit_quant_type", four ? p->usual.type : "nf4", "bnb_4bit_use_double_quant",
                        p->usual.nested, "bnb_4bit_compute_dtype", compute_type(f), "bnb_4bit_quant_storage", "uint8",
                        "llm_int8_threshold", four ? 6.0 : isinf(p->usual.threshold) ? 0 : (double)p->usual.threshold,
                        "llm_int8_skip_modules", skipped, "llm_int8_enable_fp32_cpu_offload", 0,
                        "llm_int8_has_fp16_weight", 0);
    return *config ? QNT_OK : qnti_fail(f->e->ctx, QNT_NO_MEMORY, "out of memory for the configuration");
}

const struct qnti_folder_rules qnti_gptq_rules = {.half = true,
                                                  .config_copy = "quantize_config.json",
                                                  .begin = begin,
                                                  .finish = finish,
                                                  .describe = describe,
                                                  .config = gptq_config,
                                                  .write = write};

const struct qnti_folder_rules qnti_awq_rules = {.half = true,
                                                 .begin = begin,
                                                 .finish = finish,
                                                 .describe = describe,
                                                 .config = awq_config,
                                                 .write = write};

const struct qnti_folder_rules qnti_bnb_rules = {.begin = begin,
                                                 .finish = finish,
                                                 .describe = describe,
                                                 .config = bnb_config,
                                                 .write = write};
