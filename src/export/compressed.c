/*
 * compressed.c - folders of compressed-tensors: config_groups, one a scheme, and the layers that each is for.
 *
 * The scheme of most layers is for all linears ("Linear"), others name theirs;
 * layers that stay float, and the output matrix, are in `ignore`. Engines join
 * q, k and v, gate and up: layers of one of these must have one scheme.
 */
#include <stdio.h>
#include <string.h>
#include "base/buffer.h"
#include "export/packed.h"
#include "pack/compressed.h"

struct compressed {
    struct qnti_packed_hand hand;        /* first */
    struct qnti_ct_scheme *schemes;      /* [targets]; format NULL: not quantized */
};

static qnt_status begin(struct qnti_folder *f)
{
    struct compressed *c;
    QNT_TRY(QNTI_NEW(f->e->ctx, 1, &c));
    f->state = c;
    QNT_TRY(qnti_packed_begin(f, &c->hand));
    return QNTI_NEW(f->e->ctx, f->e->count, &c->schemes);
}

static void finish(struct qnti_folder *f)
{
    struct compressed *c = f->state;
    if (!c)
        return;
    qnti_free(f->e->ctx, c->schemes);
    qnti_packed_finish(f, &c->hand);
    qnti_free(f->e->ctx, c);
}

static qnt_status describe(struct qnti_folder *f, size_t t)
{
    struct compressed *c = f->state;
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    qnt_qlinear *q = NULL;
    size_t count, bytes;
    qnt_status status;
    QNT_CHECK(qnti_packed_load(f, t, &q));
    QNT_CHECK(qnti_layout_tensors(c->hand.layout, q, tensors, &count, &bytes));
    qnti_ct_scheme_of(q, &c->schemes[t]);
    status = qnti_packed_add(f, t, tensors, count);
cleanup:
    qnt_qlinear_destroy(q);
    return status;
}

/* --- configuration --- */

static bool known(const struct compressed *c, size_t t)
{
    return c->schemes[t].format != NULL;
}

/* Which of the joined layers a target is one of; 0: none. */
static int joint(const struct qnti_target *t)
{
    if (t->bias)
        return 0;
    return t->role >= QNTI_Q && t->role <= QNTI_V ? 1 : t->role == QNTI_GATE || t->role == QNTI_UP ? 2 : 0;
}

static bool alike(const struct compressed *c, size_t a, size_t b)
{
    return known(c, a) == known(c, b) && (!known(c, a) || qnti_ct_same_scheme(&c->schemes[a], &c->schemes[b]));
}

static qnt_status check_joined(const struct qnti_folder *f)
{
    const struct compressed *c = f->state;
    const struct qnti_target *targets = f->e->targets;
    for (size_t a = 0; a < f->e->count; a++)
        for (size_t b = a + 1; b < f->e->count && targets[b].block == targets[a].block; b++)
            if (joint(&targets[a]) && joint(&targets[a]) == joint(&targets[b]) && !alike(c, a, b))
                return qnti_fail(f->e->ctx, QNT_UNSUPPORTED, "format %s: engines join %s and %s, which must be "
                                 "quantized alike; native can hold both", f->e->format->name,
                                 targets[a].source->name, targets[b].source->name);
    return QNT_OK;
}

static json_t *print_args(const struct qnti_ct_args *a)
{
    json_t *group = a->group ? json_integer((json_int_t)a->group) : json_null(), *blocks = json_null();
    json_t *dynamic = a->dynamic == QNTI_CT_LOCAL ? json_string("local") : json_boolean(a->dynamic);
    bool fp4 = a->is_float && a->bits == 4, local = a->strategy == QNTI_CT_TENSOR_GROUP;
    json_t *args;
    if (!a->present)
        return json_null();
    if (a->strategy == QNTI_CT_BLOCK)
        blocks = json_pack("[I,I]", (json_int_t)a->block_rows, (json_int_t)a->block_cols);
    args = json_pack("{s:i,s:s,s:b,s:s,s:o,s:o,s:o,s:n,s:s?,s:{}}", "num_bits", (int)a->bits, "type",
                     a->is_float ? "float" : "int", "symmetric", a->sym, "strategy", qnti_ct_strategies[a->strategy],
                     "group_size", group, "block_structure", blocks, "dynamic", dynamic, "actorder", "observer",
                     a->dynamic == QNTI_CT_DYNAMIC ? NULL : "minmax", "observer_kwargs");
    if (fp4 && args) /* readers know E8M0 and the scales of NVFP4 by these */
        json_object_set_new(args, "scale_dtype", json_string(local ? "torch.float8_e4m3fn" : "torch.uint8"));
    return args;
}

static json_t *print_group(const struct qnti_ct_scheme *s, json_t *targets)
{
    return json_pack("{s:o,s:o,s:o,s:n,s:s}", "targets", targets, "weights", print_args(&s->weights),
                     "input_activations", print_args(&s->inputs), "output_activations", "format", s->format);
}

/* How many layers have target t's scheme; 0: an earlier one stands for them. */
static size_t count_alike(const struct compressed *c, size_t count, size_t t)
{
    size_t n = 0;
    for (size_t i = 0; known(c, t) && i < count; i++)
        if (known(c, i) && alike(c, t, i)) {
            if (i < t)
                return 0;
            n++;
        }
    return n;
}

static json_t *name_layers(const struct qnti_folder *f, size_t t)
{
    json_t *names = json_array();
    for (size_t i = 0; i < f->e->count; i++) {
        const char *name = f->e->targets[i].source->name;
        if (known(f->state, i) && alike(f->state, t, i))
            json_array_append_new(names, json_stringn(name, strlen(name) - strlen(".weight")));
    }
    return names;
}

/* One group a scheme, that of most layers first; *format: the one that all have, or what stands for several. */
static json_t *print_groups(const struct qnti_folder *f, const char **format)
{
    const struct compressed *c = f->state;
    size_t usual = 0, most = 0, n = 1;
    json_t *groups = json_object();
    char key[32];
    for (size_t t = 0; t < f->e->count; t++)
        if (count_alike(c, f->e->count, t) > most) {
            most = count_alike(c, f->e->count, t);
            usual = t;
        }
    if (!most)
        return groups;
    *format = c->schemes[usual].format;
    json_object_set_new(groups, "group_0", print_group(&c->schemes[usual], json_pack("[s]", "Linear")));
    for (size_t t = 0; t < f->e->count; t++) {
        if (t == usual || !count_alike(c, f->e->count, t))
            continue;
        snprintf(key, sizeof key, "group_%zu", n++);
        json_object_set_new(groups, key, print_group(&c->schemes[t], name_layers(f, t)));
        if (strcmp(c->schemes[t].format, *format) != 0)
            *format = "mixed-precision";
    }
    return groups;
}

static qnt_status config(struct qnti_folder *f, json_t **config)
{
    const char *format = "dense";
    json_t *ignored = NULL, *groups;
    QNT_TRY(check_joined(f));
    qnti_packed_list_floats(f, &ignored);
    ignored = ignored ? ignored : json_array();
    json_array_append_new(ignored, json_string("lm_head"));
    groups = print_groups(f, &format);
    *config = json_pack("{s:s,s:s,s:s,s:n,s:n,s:o,s:o}", "quant_method", "compressed-tensors", "format", format,
                        "quantization_status", "compressed", "global_compression_ratio", "kv_cache_scheme", "ignore",
                        ignored, "config_groups", groups);
    return *config ? QNT_OK : qnti_fail(f->e->ctx, QNT_NO_MEMORY, "out of memory for the configuration");
}

const struct qnti_folder_rules qnti_ct_rules = {
    .begin = begin, .finish = finish, .describe = describe, .config = config, .write = qnti_packed_write};

/* The library makes bf16 of FP4 whatever the model's type is. */
const struct qnti_folder_rules qnti_ct_fp4_rules = {.floats = QNT_BF16,
                                                    .begin = begin,
                                                    .finish = finish,
                                                    .describe = describe,
                                                    .config = config,
                                                    .write = qnti_packed_write};
