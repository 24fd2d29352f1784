/*
 * quantize.c - `quant quantize`, the main job, and `quant plan`, the same without doing it.
 */
#include <string.h>
#include "cli/cli.h"
#include "cli/plan.h"

struct quantize_values {
    struct cli_common common;
    struct cli_recipe recipe;
    const char *output, *work, *report;
    const char *calibration, *output_type, *embedding_type;
    struct cli_int samples, seqlen, seed;
    struct cli_list include, exclude, layers;
    bool strict, force, no_verify, dry_run, verbose;
};

#define ROW(member, kind, spelling, meta, text) CLI_ROW(struct quantize_values, member, kind, spelling, meta, text)

static const struct cli_option output[] = {
    {.name = "output", .letter = 'o', .type = CLI_TEXT, .offset = offsetof(struct quantize_values, output),
     .metavar = "OUT", .help = "what is written: a folder or, for a gguf format, a file"},
    ROW(report, TEXT, "report", "FILE.json", "everything about the plan and the result as a file"),
    ROW(work, TEXT, "work", "DIR", "folder for finished blocks; default: OUT.partial"),
    ROW(force, FLAG, "force", NULL, "replace an OUT that is there"),
    ROW(no_verify, FLAG, "no-verify", NULL,
        "no perplexity against the source at the end; what was written is read back all the same"),
    ROW(dry_run, FLAG, "dry-run", NULL, "only the plan, as quant plan prints it"),
    ROW(verbose, FLAG, "verbose", NULL, "the plan with a line for each tensor, equal blocks not collapsed"),
};

static const struct cli_option calibration[] = {
    ROW(calibration, TEXT, "calib", "FILE",
        "calibration text: plain, JSON lines with a key text, or .npy of token ids"),
    {.name = "samples", .type = CLI_INT, .offset = offsetof(struct quantize_values, samples), .metavar = "N",
     .least = 1, .words = "all", .help = "windows of the text that are used; default: 128"},
    {.name = "seqlen", .type = CLI_INT, .offset = offsetof(struct quantize_values, seqlen), .metavar = "N", .least = 1,
     .help = "tokens of a window; default: 2048 or, if that is less, the model's context"},
    ROW(seed, INT, "seed", "N", "draw windows at random, by this seed; default: consecutive ones"),
};

static const struct cli_option tensors[] = {
    ROW(include, LIST, "include", "PATTERN",
        "quantize only tensors whose names match: a glob, or re: and a regular expression; may be repeated"),
    ROW(exclude, LIST, "exclude", "PATTERN", "leave tensors that match as they are; may be repeated"),
    ROW(layers, LIST, "layer", "PATTERN:KEY=VALUE,...",
        "parameters of the layers that match; may be repeated, later ones win"),
    ROW(output_type, TEXT, "output-type", "TYPE", "type of the output matrix; default: the format's rule"),
    ROW(embedding_type, TEXT, "embedding-type", "TYPE", "type of the embedding; default: the format's rule"),
    ROW(strict, FLAG, "strict", NULL, "no substitution and no fallback: an error instead"),
};

static const struct cli_group groups[] = {
    CLI_GROUP("output", output, 0),
    CLI_RECIPE(offsetof(struct quantize_values, recipe)),
    CLI_GROUP("calibration", calibration, 0),
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
    return (qnt_quantize_options){.method = v->recipe.method,
                                  .settings = strings(&v->recipe.settings),
                                  .setting_count = v->recipe.settings.count,
                                  .format = v->recipe.format,
                                  .output = v->output,
                                  .calibration = v->calibration,
                                  .samples = (size_t)v->samples.value,
                                  .seqlen = (size_t)v->seqlen.value,
                                  .all_samples = v->samples.word,
                                  .random_windows = v->seed.given,
                                  .seed = v->seed.value,
                                  .output_type = v->output_type,
                                  .embedding_type = v->embedding_type,
                                  .include = strings(&v->include),
                                  .include_count = v->include.count,
                                  .exclude = strings(&v->exclude),
                                  .exclude_count = v->exclude.count,
                                  .layers = strings(&v->layers),
                                  .layer_count = v->layers.count,
                                  .strict = v->strict,
                                  .force = v->force,
                                  .no_verify = v->no_verify,
                                  .work = v->work,
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
    if (!dry)
        CLI_TRY(cli_place_check(v->output));
    CLI_TRY(cli_report_check(v->report));
    if (v->recipe.method && strcmp(v->recipe.method, "none") != 0)
        code = cli_recipe_open(cli, v->recipe.method, &v->recipe.settings, &recipe);
    qnt_recipe_destroy(recipe);
    return code;
}

static int use_plan(struct cli *cli, const struct quantize_values *v, bool dry, qnt_plan *plan)
{
    const char *json = NULL;
    if (!dry)
        CLI_TRY(cli_try(cli, qnt_plan_run(plan)));
    cli_progress_end(&cli->progress);
    CLI_TRY(cli_try(cli, qnt_plan_report(plan, &json)));
    CLI_TRY(cli_report_text(cli, v->report, json));
    if (v->common.json)
        puts(json);
    else if (dry)
        cli_plan_print(plan, v->verbose);
    else
        cli_plan_print_result(plan, v->output, json);
    return CLI_OK;
}

static int run(struct cli *cli, const struct quantize_values *v, bool dry)
{
    qnt_quantize_options options = options_of(cli, v);
    qnt_model *model = NULL;
    qnt_plan *plan = NULL;
    int code = check(cli, v, dry);
    if (dry)
        options.output = NULL;
    if (code == CLI_OK)
        code = cli_try(cli, qnt_model_open(cli->ctx, cli->arguments.items[0], &model));
    if (code == CLI_OK)
        code = cli_try(cli, qnt_plan_create(model, &options, &plan));
    if (code == CLI_OK)
        code = use_plan(cli, v, dry, plan);
    qnt_plan_destroy(plan);
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
