/*
 * quantize.c - `quant quantize`, the main job, and `quant plan`, the same without doing it.
 */
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/outputs.h"
#include "cli/plan.h"

struct quantize_values {
    struct cli_common common;
    struct cli_recipe recipe;
    struct cli_list formats;
    const char *output, *work, *report;
    struct cli_calibration calibration;
    const char *output_type, *embedding_type, *kv, *scales;
    struct cli_int max_ram, shard_size;
    struct cli_list include, exclude, layers;
    bool strict, requantize, resume, force, no_verify, dry_run, verbose, recalibrate;
};

#define ROW(member, kind, spelling, meta, text) CLI_ROW(struct quantize_values, member, kind, spelling, meta, text)

static const struct cli_option output[] = {
    {.name = "output", .letter = 'o', .type = CLI_TEXT, .offset = offsetof(struct quantize_values, output),
     .metavar = "OUT", .help = "what is written: a folder or, for a gguf format, a file"},
    ROW(formats, LIST, "format", "FORMAT",
        "what the result is stored as, such as gguf:q4_0 (quant formats lists them); given several times OUT is a "
        "folder with an entry for each"),
    ROW(shard_size, SIZE, "shard-size", "SIZE", "most bytes of one file of a folder; default: 5 GB"),
    ROW(report, TEXT, "report", "FILE.json", "everything about the plan and the result as a file"),
    ROW(work, TEXT, "work", "DIR", "folder for finished blocks; default: OUT.partial"),
    ROW(resume, FLAG, "resume", NULL,
        "go on where the same command ended, as it does anyway; where there is nothing to go on with it begins"),
    ROW(force, FLAG, "force", NULL, "replace an OUT that is there, give up finished blocks, begin anew"),
    ROW(max_ram, SIZE, "max-ram", "SIZE",
        "most memory, such as 4GiB; activations then lie in files of the work folder (quant plan tells the least)"),
    ROW(no_verify, FLAG, "no-verify", NULL,
        "no perplexity against the source at the end; what was written is read back all the same"),
    ROW(dry_run, FLAG, "dry-run", NULL, "only the plan, as quant plan prints it"),
    ROW(verbose, FLAG, "verbose", NULL, "the plan with a line for each tensor, equal blocks not collapsed"),
};

static const struct cli_option tensors[] = {
    ROW(include, LIST, "include", "PATTERN",
        "quantize only tensors whose names match: a glob, or re: and a regular expression; may be repeated"),
    ROW(exclude, LIST, "exclude", "PATTERN", "leave tensors that match as they are; may be repeated"),
    ROW(layers, LIST, "layer", "PATTERN:KEY=VALUE,...",
        "parameters of the layers that match; may be repeated, later ones win"),
    ROW(output_type, TEXT, "output-type", "TYPE", "type of the output matrix; default: the format's rule"),
    ROW(embedding_type, TEXT, "embedding-type", "TYPE", "type of the embedding; default: the format's rule"),
    ROW(kv, TEXT, "kv", "SCHEME[:key=value,...]",
        "a native folder's readers keep keys and values in few bits: kivi, atom, quarot; parameters as in "
        "quant methods kv_cache"),
    ROW(scales, TEXT, "scales", "FILE",
        "scales learned elsewhere, a .safetensors: LINEAR.input_scale and .input_zero_point or .amax, "
        "LINEAR.weight_scale; they go before what the recipe would choose"),
    ROW(recalibrate, FLAG, "recalibrate", NULL, "ignore --scales, and the source's input_scale tensors"),
    ROW(strict, FLAG, "strict", NULL, "no substitution and no fallback: an error instead"),
    ROW(requantize, FLAG, "requantize", NULL, "take a model that is quantized already by its rounded values"),
};

static const struct cli_group groups[] = {
    CLI_GROUP("output", output, 0),
    CLI_RECIPE_WITHOUT_FORMAT(offsetof(struct quantize_values, recipe)),
    CLI_CALIBRATION(offsetof(struct quantize_values, calibration)),
    CLI_GROUP("tensors", tensors, 0),
    CLI_WORK,
    {0},
};

static const char *const *strings(const struct cli_list *list)
{
    return (const char *const *)list->items;
}

static qnt_quantize_options options_of(struct cli *cli, const struct quantize_values *v)
{
    const struct cli_calibration *c = &v->calibration;
    return (qnt_quantize_options){.method = v->recipe.method,
                                  .settings = strings(&v->recipe.settings),
                                  .setting_count = v->recipe.settings.count,
                                  .calibration = c->file,
                                  .importance = c->importance,
                                  .samples = (size_t)c->samples.value,
                                  .seqlen = (size_t)c->seqlen.value,
                                  .all_samples = c->samples.word,
                                  .random_windows = c->seed.given,
                                  .seed = c->seed.value,
                                  .output_type = v->output_type,
                                  .embedding_type = v->embedding_type,
                                  .include = strings(&v->include),
                                  .include_count = v->include.count,
                                  .exclude = strings(&v->exclude),
                                  .exclude_count = v->exclude.count,
                                  .layers = strings(&v->layers),
                                  .layer_count = v->layers.count,
                                  .kv = v->kv,
                                  .scales = v->scales,
                                  .recalibrate = v->recalibrate,
                                  .strict = v->strict,
                                  .requantize = v->requantize,
                                  .force = v->force,
                                  .no_verify = v->no_verify,
                                  .max_ram = v->max_ram.value,
                                  .shard_bytes = v->shard_size.value,
                                  .progress = cli_progress_report,
                                  .progress_user = &cli->progress};
}

/* What is wrong with the options is said before a model is opened. */
static int check(struct cli *cli, const struct quantize_values *v, bool dry)
{
    qnt_recipe *recipe = NULL;
    int code = CLI_OK;
    if (!dry && !v->output) {
        cli_error("--output OUT is missing; usage: quant quantize MODEL -o OUT");
        return CLI_USAGE;
    }
    if (v->resume && v->force) {
        cli_error("--resume goes on with what --force gives up: one of the two");
        return CLI_USAGE;
    }
    if (!dry)
        CLI_TRY(cli_place_check(v->output));
    CLI_TRY(cli_report_check(v->report));
    if (v->recipe.method && strcmp(v->recipe.method, "none") != 0)
        code = cli_recipe_open(cli, v->recipe.method, &v->recipe.settings, &recipe);
    qnt_recipe_destroy(recipe);
    return code;
}

static void print(const struct cli_outputs *outputs, const struct quantize_values *v, bool dry)
{
    for (size_t i = 0; i < outputs->count; i++) {
        const struct cli_output *item = &outputs->items[i];
        if (i)
            putchar('\n');
        if (dry)
            cli_plan_print(item->plan, v->verbose);
        else
            cli_plan_print_result(item->plan, item->path);
    }
}

static int use_plans(struct cli *cli, const struct quantize_values *v, bool dry, struct cli_outputs *outputs)
{
    char *json = NULL;
    int code;
    if (!dry)
        CLI_TRY(cli_outputs_run(cli, outputs));
    cli_progress_end(&cli->progress);
    CLI_TRY(cli_outputs_report(cli, outputs, &json));
    code = cli_report_text(cli, v->report, json);
    if (code == CLI_OK && v->common.json)
        puts(json);
    else if (code == CLI_OK)
        print(outputs, v, dry);
    free(json);
    return code;
}

static int run(struct cli *cli, const struct quantize_values *v, bool dry)
{
    struct cli_outputs outputs = {0};
    qnt_model *model = NULL;
    int code = check(cli, v, dry);
    if (code == CLI_OK)
        code = cli_outputs_create(&v->formats, dry ? NULL : v->output, v->work, &outputs);
    if (code == CLI_OK)
        code = cli_try(cli, qnt_model_open(cli->ctx, cli->arguments.items[0], &model));
    if (code == CLI_OK)
        code = cli_outputs_plan(cli, &outputs, model, options_of(cli, v));
    if (code == CLI_OK)
        code = use_plans(cli, v, dry, &outputs);
    cli_outputs_free(&outputs);
    qnt_model_close(model);
    return code;
}

static int run_quantize(struct cli *cli, void *values)
{
    const struct quantize_values *v = values;
    return run(cli, v, v->dry_run);
}

static int run_plan(struct cli *cli, void *values)
{
    return run(cli, values, true);
}

const struct cli_command cli_command_quantize = {
    .name = "quantize",
    .arguments = "MODEL -o OUT",
    .title = "quantizes a model and writes it in a format",
    .about = "MODEL is a Hugging Face folder, a GGUF file or a native folder; it is never written to. OUT appears "
             "whole or not at all.",
    .least = 1,
    .most = 1,
    .bytes = sizeof(struct quantize_values),
    .groups = groups,
    .run = run_quantize,
};

const struct cli_command cli_command_plan = {
    .name = "plan",
    .arguments = "MODEL",
    .title = "what quantize would do with the same options, and what it would need",
    .least = 1,
    .most = 1,
    .bytes = sizeof(struct quantize_values),
    .groups = groups,
    .run = run_plan,
};
