/*
 * memory.c - what `quant inspect --memory` says: to run a model, to evaluate it here, to train it.
 */
#include "cli/memory.h"

#include <string.h>
#include <sys/stat.h>
#include "cli/table.h"

#define ROW(member, kind, spelling, meta, text) CLI_ROW(struct cli_memory, member, kind, spelling, meta, text)

const struct cli_option cli_memory_rows[CLI_MEMORY_ROWS] = {
    ROW(wanted, FLAG, "memory", NULL,
        "memory to run it at a context length; MODEL may be a config.json alone"),
    {.name = "context", .type = CLI_INT, .offset = offsetof(struct cli_memory, context), .metavar = "N", .least = 1,
     .help = "tokens of a sequence; default: as many as the model takes"},
    {.name = "batch", .type = CLI_INT, .offset = offsetof(struct cli_memory, batch), .metavar = "N", .least = 1,
     .help = "sequences; default: 1"},
    {.name = "tokens", .type = CLI_INT, .offset = offsetof(struct cli_memory, tokens), .metavar = "N", .least = 1,
     .help = "tokens that pass through the model at once; default: all of the sequences"},
    ROW(method, TEXT, "method", "RECIPE", "the linears as this recipe leaves them, all else in 16 bits"),
    ROW(kv, TEXT, "kv", "SCHEME[:key=value,...]", "keys and values as quant eval --kv has them; default: 16 bits"),
    ROW(device, SIZE, "device", "SIZE", "memory of the device: says the longest context that fits"),
    ROW(training, FLAG, "training", NULL, "memory to train it too: weights, gradients, optimizer, activations"),
    {.name = "lora-rank", .type = CLI_INT, .offset = offsetof(struct cli_memory, lora_rank), .metavar = "N",
     .least = 1, .help = "and to train factors of this rank beside frozen linears"},
};

static qnt_memory_options options_of(const struct cli_memory *v)
{
    return (qnt_memory_options){.context = (size_t)v->context.value, .batch = (size_t)v->batch.value,
                                .tokens = (size_t)v->tokens.value, .method = v->method, .kv = v->kv,
                                .device_bytes = v->device.value, .lora_rank = (size_t)v->lora_rank.value};
}

static bool is_file(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    struct stat info;
    return n >= m && strcmp(path + n - m, suffix) == 0 && stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static int measure(struct cli *cli, const struct cli_memory *v, const char *path, qnt_memory *memory)
{
    qnt_memory_options options = options_of(v);
    qnt_model *model;
    int code;
    if (is_file(path, ".json"))
        return cli_try(cli, qnt_memory_of_config(cli->ctx, path, &options, memory));
    CLI_TRY(cli_try(cli, qnt_model_open(cli->ctx, path, &model)));
    code = cli_try(cli, qnt_memory_of_model(model, &options, memory));
    qnt_model_close(model);
    return code;
}

/* Both units: bytes are exact, GB and GiB are how people speak of them. */
static void print_bytes(struct cli_table *table, const char *name, uint64_t bytes)
{
    cli_table_cell(table, "%s", name);
    cli_table_cell(table, "%llu", (unsigned long long)bytes);
    cli_table_cell(table, "%.3f", (double)bytes * 1e-9);
    cli_table_cell(table, "%.3f", (double)bytes / (1 << 30));
}

static void print_run(const struct cli_memory *v, const qnt_memory *m)
{
    struct cli_table *table = cli_table_create("to run it|bytes>|GB>|GiB>");
    printf("parameters       %llu\n", (unsigned long long)m->parameters);
    printf("of linears       %llu\n", (unsigned long long)m->linear_parameters);
    printf("context          %zu tokens, %.6g bytes of keys and values each\n", m->context, m->kv_bytes_per_token);
    if (v->device.given)
        printf("longest context  %zu tokens in %llu bytes\n", m->longest_context,
               (unsigned long long)v->device.value);
    putchar('\n');
    print_bytes(table, "linears", m->linear_bytes);
    print_bytes(table, "embedding and output", m->embedding_bytes);
    print_bytes(table, "norms", m->norm_bytes);
    print_bytes(table, "weights", m->weight_bytes);
    print_bytes(table, "keys and values", m->kv_bytes);
    print_bytes(table, "activations (est.)", m->activation_bytes);
    print_bytes(table, "logits", m->logit_bytes);
    print_bytes(table, "all", m->inference_bytes);
    print_bytes(table, "quant eval, this context (est.)", m->evaluation_bytes);
    cli_table_print(table);
}

static double of_parameters(const qnt_training_scheme *s)
{
    return s->weight + s->gradient + s->master + s->moments;
}

static void print_training(const struct cli_memory *v, const qnt_memory *m)
{
    struct cli_table *table = cli_table_create("to train it|weight>|gradient>|master>|moments>|bytes each>|GB>|GiB>");
    qnt_training_scheme s;
    for (size_t i = 0; qnt_training_scheme_get(i, &s); i++) {
        double bytes = of_parameters(&s) * (double)m->parameters;
        cli_table_cell(table, "%s", s.name);
        cli_table_cell(table, "%g", s.weight);
        cli_table_cell(table, "%g", s.gradient);
        cli_table_cell(table, "%g", s.master);
        cli_table_cell(table, "%.4g", s.moments);
        cli_table_cell(table, "%.4g", of_parameters(&s));
        cli_table_cell(table, "%.3f", bytes * 1e-9);
        cli_table_cell(table, "%.3f", bytes / (1 << 30));
    }
    putchar('\n');
    cli_table_print(table);
    table = cli_table_create("and for the way back|bytes>|GB>|GiB>");
    print_bytes(table, "stored activations (est.)", m->stored_bytes);
    print_bytes(table, "with checkpoints of each block", m->checkpoint_bytes);
    print_bytes(table, "logits and their gradient", m->loss_bytes);
    if (v->lora_rank.given)
        print_bytes(table, "factors with f32 AdamW", 16 * m->lora_parameters);
    putchar('\n');
    cli_table_print(table);
}

/* clang-format off: a key and its value a line */
static json_t *memory_json(const qnt_memory *m)
{
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}",
                     "parameters", (json_int_t)m->parameters,
                     "linear_parameters", (json_int_t)m->linear_parameters,
                     "embedding_parameters", (json_int_t)m->embedding_parameters,
                     "norm_parameters", (json_int_t)m->norm_parameters,
                     "linear_bytes", (json_int_t)m->linear_bytes,
                     "embedding_bytes", (json_int_t)m->embedding_bytes,
                     "norm_bytes", (json_int_t)m->norm_bytes,
                     "weight_bytes", (json_int_t)m->weight_bytes,
                     "context", (json_int_t)m->context,
                     "kv_bytes_per_token", m->kv_bytes_per_token,
                     "kv_bytes", (json_int_t)m->kv_bytes,
                     "activation_bytes", (json_int_t)m->activation_bytes,
                     "logit_bytes", (json_int_t)m->logit_bytes,
                     "inference_bytes", (json_int_t)m->inference_bytes,
                     "evaluation_bytes", (json_int_t)m->evaluation_bytes,
                     "longest_context", (json_int_t)m->longest_context,
                     "stored_bytes", (json_int_t)m->stored_bytes,
                     "checkpoint_bytes", (json_int_t)m->checkpoint_bytes,
                     "loss_bytes", (json_int_t)m->loss_bytes,
                     "lora_parameters", (json_int_t)m->lora_parameters);
}
/* clang-format on */

int cli_memory_show(struct cli *cli, const struct cli_memory *v, const char *path)
{
    qnt_memory memory;
    CLI_TRY(measure(cli, v, path, &memory));
    if (cli->common->json)
        return cli_json_print(memory_json(&memory));
    print_run(v, &memory);
    if (v->training || v->lora_rank.given)
        print_training(v, &memory);
    return CLI_OK;
}
