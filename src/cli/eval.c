/*
 * eval.c - `quant eval`: perplexity of a model on a text, and how far it is from another one.
 */
#include <quant/model.h>
#include "cli/cli.h"

struct eval_values {
    struct cli_common common;
    const char *text, *protocol, *against, *kv, *report;
    struct cli_int ctx, chunks;
};

#define ROW(member, kind, spelling, meta, text) CLI_ROW(struct eval_values, member, kind, spelling, meta, text)

static const struct cli_option evaluation[] = {
    {.name = "text", .required = true, .type = CLI_TEXT, .offset = offsetof(struct eval_values, text),
     .metavar = "FILE", .help = "plain text, JSON lines with a key text, or .npy of token ids"},
    ROW(protocol, TEXT, "protocol", "NAME",
        "which tokens are scored behind which: llamacpp (default; second half of each window), gptq, bos"),
    {.name = "ctx", .type = CLI_INT, .offset = offsetof(struct eval_values, ctx), .metavar = "N", .least = 2,
     .help = "tokens of a window; default: 512"},
    {.name = "chunks", .type = CLI_INT, .offset = offsetof(struct eval_values, chunks), .metavar = "N", .least = 1,
     .help = "only the first N windows; default: all"},
    ROW(against, TEXT, "against", "MODEL",
        "the model to compare with: KL divergence and agreement of the first choice"),
    ROW(kv, TEXT, "kv", "SCHEME[:key=value,...]",
        "keys and values as a cache of few bits gives them back: kivi, atom, quarot; parameters as in "
        "quant methods kv_cache"),
    ROW(report, TEXT, "report", "FILE.json", "the result as a file"),
};

static const struct cli_group groups[] = {CLI_GROUP("evaluation", evaluation, 0), CLI_WORK, {0}};

/* clang-format off: a key and its value a line */
static json_t *result_json(const char *model, const struct eval_values *v, const qnt_eval_result *r)
{
    json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:o,s:o,s:o,s:f}",
                             "version", qnt_version(),
                             "model", model,
                             "text", v->text,
                             "protocol", v->protocol ? v->protocol : "llamacpp",
                             "ctx", (json_int_t)r->ctx,
                             "windows", (json_int_t)r->windows,
                             "scored", (json_int_t)r->scored,
                             "nll", cli_json_number(r->nll),
                             "perplexity", cli_json_number(r->perplexity),
                             "perplexity_error", cli_json_number(r->perplexity_error),
                             "seconds", r->seconds);
    if (!r->compared)
        return json;
    json_object_set_new(json, "against", json_string(v->against));
    json_object_set_new(json, "against_perplexity", cli_json_number(r->against_perplexity));
    json_object_set_new(json, "mean_kl", cli_json_number(r->mean_kl));
    json_object_set_new(json, "kl_error", cli_json_number(r->kl_error));
    json_object_set_new(json, "top1", cli_json_number(r->top1));
    return json;
}
/* clang-format on */

static void print_result(const qnt_eval_result *r)
{
    printf("perplexity         %.4f +- %.4f\n", r->perplexity, r->perplexity_error);
    printf("windows            %zu of %zu tokens\n", r->windows, r->ctx);
    printf("scored tokens      %zu\n", r->scored);
    if (!r->compared)
        return;
    printf("its perplexity     %.4f   (the model compared with)\n", r->against_perplexity);
    printf("mean KL divergence %.6f +- %.6f\n", r->mean_kl, r->kl_error);
    printf("same first choice  %.3f %%\n", 100 * r->top1);
}

static int show(struct cli *cli, const struct eval_values *v, const qnt_eval_result *r)
{
    json_t *json = result_json(cli->arguments.items[0], v, r);
    int code = cli_report_write(cli, v->report, json);
    cli_progress_end(&cli->progress);
    if (code == CLI_OK && v->common.json)
        return cli_json_print(json);
    json_decref(json);
    if (code == CLI_OK)
        print_result(r);
    return code;
}

static int run_eval(struct cli *cli, void *values)
{
    const struct eval_values *v = values;
    qnt_eval_options options = {.text = v->text,
                                .protocol = v->protocol,
                                .ctx = (size_t)v->ctx.value,
                                .chunks = (size_t)v->chunks.value,
                                .kv = v->kv,
                                .progress = cli_progress_report,
                                .progress_user = &cli->progress};
    qnt_model *model = NULL, *against = NULL;
    qnt_eval_result result = {0};
    int code = cli_report_check(v->report);
    if (code == CLI_OK)
        code = cli_try(cli, qnt_model_open(cli->ctx, cli->arguments.items[0], &model));
    if (code == CLI_OK && v->against)
        code = cli_try(cli, qnt_model_open(cli->ctx, v->against, &against));
    options.against = against;
    if (code == CLI_OK)
        code = cli_try(cli, qnt_evaluate(model, &options, &result));
    if (code == CLI_OK)
        code = show(cli, v, &result);
    qnt_model_close(against);
    qnt_model_close(model);
    return code;
}

const struct cli_command cli_command_eval = {
    .name = "eval",
    .arguments = "MODEL --text FILE",
    .title = "perplexity of a model, and how far it is from another one",
    .least = 1,
    .most = 1,
    .bytes = sizeof(struct eval_values),
    .groups = groups,
    .run = run_eval,
};
