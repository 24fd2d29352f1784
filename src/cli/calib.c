/*
 * calib.c - `quant calib`: statistics of a model's inputs to a file; `quant merge`: sums of such files.
 */
#include <quant/model.h>
#include "cli/cli.h"

struct calib_values {
    struct cli_common common;
    struct cli_calibration calibration;
    const char *output, *method;
    struct cli_int max_ram;
    bool force;
};

#define ROW(member, kind, spelling, meta, text) CLI_ROW(struct calib_values, member, kind, spelling, meta, text)

static const struct cli_option statistics[] = {
    {.name = "output", .letter = 'o', .required = true, .type = CLI_TEXT,
     .offset = offsetof(struct calib_values, output), .metavar = "FILE",
     .help = "by its suffix: .safetensors, calibrations (moments and Hessians, or what --method needs); .gguf or .dat, "
             "llama.cpp's importance matrix"},
    {.name = "calib", .required = true, .type = CLI_TEXT, .offset = offsetof(struct calib_values, calibration.file),
     .metavar = "FILE", .help = "calibration text: plain, JSON lines with a key text, or .npy of token ids"},
    ROW(method, TEXT, "method", "RECIPE",
        "gather what this recipe needs, such as awq; default: moments and Hessians, for an importance matrix moments"),
    ROW(max_ram, SIZE, "max-ram", "SIZE", "most memory, such as 4GiB; activations then lie in a file beside FILE"),
    ROW(force, FLAG, "force", NULL, "replace a FILE that is there"),
};

static const struct cli_option merging[] = {
    {.name = "output", .letter = 'o', .required = true, .type = CLI_TEXT,
     .offset = offsetof(struct calib_values, output), .metavar = "FILE",
     .help = "of the same kind as the files that are added"},
    ROW(force, FLAG, "force", NULL, "replace a FILE that is there, which may be one of those"),
};

static const struct cli_group calib_groups[] = {
    CLI_GROUP("statistics", statistics, 0),
    CLI_WINDOWS(offsetof(struct calib_values, calibration)),
    CLI_WORK,
    {0},
};
static const struct cli_group merge_groups[] = {CLI_GROUP("merge", merging, 0), CLI_WORK, {0}};

static json_t *result_json(const struct calib_values *v, const qnt_measure_result *r)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "version", qnt_version(), "output", v->output, "sites",
                     (json_int_t)r->sites, "windows", (json_int_t)r->windows, "seqlen", (json_int_t)r->seqlen, "tokens",
                     (json_int_t)r->tokens, "skipped_tokens", (json_int_t)r->skipped, "bytes", (json_int_t)r->bytes);
}

static int show(struct cli *cli, const struct calib_values *v, const qnt_measure_result *r)
{
    char size[32];
    cli_progress_end(&cli->progress);
    if (v->common.json)
        return cli_json_print(result_json(v, r));
    printf("%-16s %s, %s\n", "written", v->output, cli_size_text(r->bytes, size));
    printf("%-16s %zu\n", "sites", r->sites);
    if (r->seqlen)
        printf("%-16s %zu of %zu tokens\n", "windows", r->windows, r->seqlen);
    else
        printf("%-16s %zu\n", "windows", r->windows);
    if (r->skipped)
        printf("%-16s %llu inputs of %llu, not finite\n", "left out", (unsigned long long)r->skipped,
               (unsigned long long)(r->skipped + r->tokens));
    return CLI_OK;
}

/* What is wrong with the options is said before a model is opened. */
static int check(struct cli *cli, const struct calib_values *v)
{
    qnt_recipe *recipe = NULL;
    int code;
    CLI_TRY(cli_output_check(v->output));
    if (!v->method)
        return CLI_OK;
    code = cli_recipe_open(cli, v->method, &(struct cli_list){0}, &recipe);
    qnt_recipe_destroy(recipe);
    return code;
}

static int run_calib(struct cli *cli, void *values)
{
    const struct calib_values *v = values;
    const struct cli_calibration *c = &v->calibration;
    const qnt_measure_options options = {.calibration = c->file,
                                         .samples = (size_t)c->samples.value,
                                         .seqlen = (size_t)c->seqlen.value,
                                         .all_samples = c->samples.word,
                                         .random_windows = c->seed.given,
                                         .seed = c->seed.value,
                                         .method = v->method,
                                         .output = v->output,
                                         .force = v->force,
                                         .max_ram = v->max_ram.value,
                                         .progress = cli_progress_report,
                                         .progress_user = &cli->progress};
    qnt_measure_result result;
    qnt_model *model = NULL;
    int code = check(cli, v);
    if (code == CLI_OK)
        code = cli_try(cli, qnt_model_open(cli->ctx, cli->arguments.items[0], &model));
    if (code == CLI_OK)
        code = cli_try(cli, qnt_model_measure(model, &options, &result));
    if (code == CLI_OK)
        code = show(cli, v, &result);
    qnt_model_close(model);
    return code;
}

static int run_merge(struct cli *cli, void *values)
{
    const struct calib_values *v = values;
    qnt_measure_result result;
    CLI_TRY(cli_output_check(v->output));
    CLI_TRY(cli_try(cli, qnt_statistics_merge(cli->ctx, (const char *const *)cli->arguments.items, cli->arguments.count,
                                              v->output, v->force, &result)));
    return show(cli, v, &result);
}

const struct cli_command cli_command_calib = {
    .name = "calib",
    .arguments = "MODEL --calib FILE -o OUT",
    .title = "statistics of a text in a model, to a file",
    .about = "One pass of the text through the unquantized model. quantize takes the file by --calib (.safetensors) or "
             "--imatrix (.gguf, .dat), llama-quantize by --imatrix; quant merge adds the files of several texts.",
    .least = 1,
    .most = 1,
    .bytes = sizeof(struct calib_values),
    .groups = calib_groups,
    .run = run_calib,
};

const struct cli_command cli_command_merge = {
    .name = "merge",
    .arguments = "FILE FILE... -o OUT",
    .title = "adds files of quant calib: what one run over all their texts gives",
    .about = "All of one kind and of one model.",
    .least = 2,
    .most = 4096,
    .bytes = sizeof(struct calib_values),
    .groups = merge_groups,
    .run = run_merge,
};
