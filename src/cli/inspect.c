/*
 * inspect.c - `quant inspect`: what a model is made of.
 */
#include <stdlib.h>
#include <string.h>
#include <quant/model.h>
#include "cli/cli.h"
#include "cli/memory.h"
#include "cli/table.h"

struct inspect_values {
    struct cli_common common;
    bool verbose;
    struct cli_memory memory;
};

static const struct cli_option rows[] = {
    CLI_ROW(struct inspect_values, verbose, FLAG, "verbose", NULL, "a line for each tensor"),
};

static const struct cli_group groups[] = {
    CLI_GROUP("listing", rows, 0),
    {"memory", cli_memory_rows, CLI_MEMORY_ROWS, offsetof(struct inspect_values, memory)},
    CLI_WORK,
    {0},
};

/* Tensors of one type. */
struct kind {
    const char *type;
    size_t tensors;
    uint64_t elements, bytes;
};

struct kinds {
    struct kind *items;
    size_t count;
};

static struct kind *kind_of(struct kinds *kinds, const char *type)
{
    for (size_t i = 0; i < kinds->count; i++)
        if (strcmp(kinds->items[i].type, type) == 0)
            return &kinds->items[i];
    kinds->items = cli_grow(kinds->items, (kinds->count + 1) * sizeof *kinds->items);
    kinds->items[kinds->count] = (struct kind){.type = type};
    return &kinds->items[kinds->count++];
}

static struct kinds gather(const qnt_model *model)
{
    struct kinds kinds = {0};
    qnt_model_tensor t;
    for (size_t i = 0; qnt_model_get_tensor(model, i, &t); i++) {
        struct kind *kind = kind_of(&kinds, t.type);
        kind->tensors++;
        kind->elements += (uint64_t)t.rows * t.cols;
        kind->bytes += t.bytes;
    }
    return kinds;
}

static double bits_of(const struct kind *kind)
{
    return kind->elements ? 8.0 * (double)kind->bytes / (double)kind->elements : 0;
}

/* clang-format off: a key and its value a line */
static json_t *kinds_json(const struct kinds *kinds)
{
    json_t *list = json_array();
    for (size_t i = 0; i < kinds->count; i++) {
        const struct kind *k = &kinds->items[i];
        json_array_append_new(list, json_pack("{s:s,s:I,s:I,s:I,s:f}",
                                              "type", k->type,
                                              "tensors", (json_int_t)k->tensors,
                                              "elements", (json_int_t)k->elements,
                                              "bytes", (json_int_t)k->bytes,
                                              "bits_per_weight", bits_of(k)));
    }
    return list;
}

static json_t *tensors_json(const qnt_model *model)
{
    json_t *list = json_array();
    qnt_model_tensor t;
    for (size_t i = 0; qnt_model_get_tensor(model, i, &t); i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:I,s:I,s:o}",
                                              "name", t.name,
                                              "type", t.type,
                                              "rows", (json_int_t)t.rows,
                                              "cols", (json_int_t)t.cols,
                                              "bytes", (json_int_t)t.bytes,
                                              "bits_per_weight", cli_json_number(t.bits_per_weight)));
    return list;
}

static json_t *info_json(const qnt_model_info *m)
{
    return json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:I,s:I,s:o}",
                     "path", m->path,
                     "kind", m->kind,
                     "family", m->family,
                     "architecture", m->architecture,
                     "hidden", (json_int_t)m->hidden,
                     "ffn", (json_int_t)m->ffn,
                     "blocks", (json_int_t)m->blocks,
                     "heads", (json_int_t)m->heads,
                     "kv_heads", (json_int_t)m->kv_heads,
                     "head_dim", (json_int_t)m->head_dim,
                     "vocab", (json_int_t)m->vocab,
                     "context", (json_int_t)m->context,
                     "tied_head", m->tied_head,
                     "parameters", (json_int_t)m->parameters,
                     "bytes", (json_int_t)m->bytes,
                     "bits_per_weight", cli_json_number(m->bits_per_weight));
}
/* clang-format on */

static json_t *model_json(const qnt_model *model, const qnt_model_info *info, const struct kinds *kinds, bool verbose)
{
    json_t *json = info_json(info);
    json_object_set_new(json, "types", kinds_json(kinds));
    if (verbose)
        json_object_set_new(json, "tensors", tensors_json(model));
    return json;
}

static void print_info(const qnt_model_info *m)
{
    char size[32];
    printf("model            %s\n", m->path);
    printf("kind             %s\n", m->kind);
    printf("family           %s (%s)\n", m->family, m->architecture);
    printf("blocks           %zu, hidden %zu, ffn %zu\n", m->blocks, m->hidden, m->ffn);
    printf("attention        %zu heads of %zu, %zu of keys and values\n", m->heads, m->head_dim, m->kv_heads);
    printf("vocabulary       %zu%s\n", m->vocab, m->tied_head ? ", output matrix tied to the embedding" : "");
    printf("context          %zu\n", m->context);
    printf("parameters       %.2f M\n", (double)m->parameters * 1e-6);
    printf("size             %s\n", cli_size_text(m->bytes, size));
    printf("bits per weight  %.4f of the blocks' linears\n\n", m->bits_per_weight);
}

static void print_kinds(const struct kinds *kinds)
{
    struct cli_table *table = cli_table_create("type|tensors>|elements>|bytes>|bits per weight>");
    for (size_t i = 0; i < kinds->count; i++) {
        const struct kind *k = &kinds->items[i];
        cli_table_cell(table, "%s", k->type);
        cli_table_cell(table, "%zu", k->tensors);
        cli_table_cell(table, "%llu", (unsigned long long)k->elements);
        cli_table_cell(table, "%llu", (unsigned long long)k->bytes);
        cli_table_cell(table, "%.4f", bits_of(k));
    }
    cli_table_print(table);
}

static void print_tensors(const qnt_model *model)
{
    struct cli_table *table = cli_table_create("tensor|type|shape>|bytes>|bits per weight>");
    qnt_model_tensor t;
    for (size_t i = 0; qnt_model_get_tensor(model, i, &t); i++) {
        cli_table_cell(table, "%s", t.name);
        cli_table_cell(table, "%s", t.type);
        cli_table_cell(table, "%zu x %zu", t.rows, t.cols);
        cli_table_cell(table, "%llu", (unsigned long long)t.bytes);
        cli_table_cell(table, "%.4f", t.bits_per_weight);
    }
    putchar('\n');
    cli_table_print(table);
}

static int run_inspect(struct cli *cli, void *values)
{
    const struct inspect_values *v = values;
    struct kinds kinds;
    qnt_model_info info;
    qnt_model *model;
    int code = CLI_OK;
    if (v->memory.wanted)
        return cli_memory_show(cli, &v->memory, cli->arguments.items[0]);
    CLI_TRY(cli_try(cli, qnt_model_open(cli->ctx, cli->arguments.items[0], &model)));
    qnt_model_get_info(model, &info);
    kinds = gather(model);
    if (v->common.json) {
        code = cli_json_print(model_json(model, &info, &kinds, v->verbose));
    } else {
        print_info(&info);
        print_kinds(&kinds);
        if (v->verbose)
            print_tensors(model);
    }
    free(kinds.items);
    qnt_model_close(model);
    return code;
}

const struct cli_command cli_command_inspect = {
    .name = "inspect",
    .arguments = "MODEL",
    .title = "what is in a model: dimensions, types, true bits",
    .least = 1,
    .most = 1,
    .bytes = sizeof(struct inspect_values),
    .groups = groups,
    .run = run_inspect,
};
