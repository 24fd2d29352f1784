/*
 * compare.c - `quant compare`: what each of several recipes makes of a model, as a table.
 *
 * Every recipe is quantized into a temporary folder, evaluated against the
 * model and removed. One that fails leaves its reason in the table; the others
 * go on.
 */
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <quant/model.h>
#include "cli/cli.h"
#include "cli/plot.h"
#include "cli/table.h"

struct compare_values {
    struct cli_common common;
    struct cli_recipe recipe;          /* all but the method */
    struct cli_list methods;
    struct cli_calibration calibration;
    const char *text, *protocol, *work, *report, *plot;
    struct cli_int ctx, chunks, max_ram;
    bool requantize;
};

#define ROW(member, kind, spelling, meta, text) CLI_ROW(struct compare_values, member, kind, spelling, meta, text)

static const struct cli_option comparison[] = {
    ROW(methods, LIST, "method", "RECIPE", "methods with their parameters, as quantize takes them; once for each row"),
    ROW(requantize, FLAG, "requantize", NULL, "take a model that is quantized already by its rounded values"),
    ROW(work, TEXT, "work", "DIR", "folder in which the models are made for the time; default: the system's"),
    ROW(max_ram, SIZE, "max-ram", "SIZE", "most memory while quantizing, such as 4GiB"),
    ROW(plot, TEXT, "plot", "FILE.svg", "bits against KL divergence as a picture"),
    ROW(report, TEXT, "report", "FILE.json", "the table as a file"),
};

static const struct cli_option evaluation[] = {
    {.name = "text", .required = true, .type = CLI_TEXT, .offset = offsetof(struct compare_values, text),
     .metavar = "FILE", .help = "what all are evaluated on: plain, JSON lines with a key text, or .npy of token ids"},
    ROW(protocol, TEXT, "protocol", "NAME",
        "which tokens are scored behind which: llamacpp (default; second half of each window), gptq, bos"),
    {.name = "ctx", .type = CLI_INT, .offset = offsetof(struct compare_values, ctx), .metavar = "N", .least = 2,
     .help = "tokens of a window; default: 512"},
    {.name = "chunks", .type = CLI_INT, .offset = offsetof(struct compare_values, chunks), .metavar = "N", .least = 1,
     .help = "only the first N windows; default: all"},
};

static const struct cli_group groups[] = {
    CLI_GROUP("comparison", comparison, 0),
    {"recipe", cli_recipe_rows + 1, CLI_RECIPE_ROWS - 1, offsetof(struct compare_values, recipe)},
    CLI_CALIBRATION(offsetof(struct compare_values, calibration)),
    CLI_GROUP("evaluation", evaluation, 0),
    CLI_WORK,
    {0},
};

struct row {
    const char *recipe;              /* as it was given; NULL: the model itself */
    char *reason;                    /* why there are no figures, or NULL */
    qnt_plan *plan;
    double bits;
    uint64_t bytes, peak;
    double seconds;                  /* of quantizing */
    qnt_eval_result result;
};

struct comparison {
    struct cli *cli;
    const struct compare_values *values;
    qnt_model *model;
    char *folder, *output, *work;    /* temporary */
    struct row *rows;                /* [count], the model first */
    size_t count;
};

/* --- the temporary folder --- */

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

static void remove_tree(const char *path)
{
    enum { OPEN_FOLDERS = 8 };
    if (path)
        nftw(path, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
}

static char *joined(const char *folder, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        cli_no_memory();
    return path;
}

static int make_folder(struct comparison *c)
{
    const char *system = getenv("TMPDIR"), *place = c->values->work;
    char *folder = joined(place ? place : system && *system ? system : "/tmp", "quant-compare-XXXXXX");
    if (!mkdtemp(folder)) {
        cli_error("%s: cannot make a temporary folder: %s", folder, strerror(errno));
        free(folder);
        return CLI_FAILED;
    }
    c->folder = folder;
    c->output = joined(folder, "model");
    c->work = joined(folder, "work");
    return CLI_OK;
}

/* --- one row --- */

/* A failure becomes the row's reason; what ends the whole comes back. */
static int take_failure(struct comparison *c, struct row *row, qnt_status status)
{
    const char *message = qnt_context_message(c->cli->ctx);
    if (status == QNT_CANCELLED)
        return cli_try(c->cli, status);
    if (status == QNT_OK)
        return CLI_OK;
    row->reason = strdup(*message ? message : qnt_status_text(status));
    if (!row->reason)
        cli_no_memory();
    return CLI_OK;
}

static qnt_quantize_options options_of(const struct comparison *c, const char *recipe)
{
    const struct compare_values *v = c->values;
    const struct cli_calibration *calib = &v->calibration;
    return (qnt_quantize_options){.method = recipe,
                                  .settings = (const char *const *)v->recipe.settings.items,
                                  .setting_count = v->recipe.settings.count,
                                  .format = v->recipe.format,
                                  .output = c->output,
                                  .work = c->work,
                                  .calibration = calib->file,
                                  .importance = calib->importance,
                                  .samples = (size_t)calib->samples.value,
                                  .seqlen = (size_t)calib->seqlen.value,
                                  .all_samples = calib->samples.word,
                                  .random_windows = calib->seed.given,
                                  .seed = calib->seed.value,
                                  .requantize = v->requantize,
                                  .no_verify = true,
                                  .max_ram = v->max_ram.value,
                                  .progress = cli_progress_report,
                                  .progress_user = &c->cli->progress};
}

static qnt_status evaluate(struct comparison *c, qnt_model *model, bool against, struct row *row)
{
    const struct compare_values *v = c->values;
    const qnt_eval_options options = {.text = v->text,
                                      .protocol = v->protocol,
                                      .ctx = (size_t)v->ctx.value,
                                      .chunks = (size_t)v->chunks.value,
                                      .against = against ? c->model : NULL,
                                      .progress = cli_progress_report,
                                      .progress_user = &c->cli->progress};
    qnt_model_info info;
    qnt_model_get_info(model, &info);
    row->bits = info.bits_per_weight;
    row->bytes = info.bytes;
    return qnt_evaluate(model, &options, &row->result);
}

static qnt_status evaluate_output(struct comparison *c, struct row *row)
{
    qnt_model *made = NULL;
    qnt_status status = qnt_model_open(c->cli->ctx, c->output, &made);
    if (status == QNT_OK)
        status = evaluate(c, made, true, row);
    qnt_model_close(made);
    return status;
}

static qnt_status make_row(struct comparison *c, struct row *row)
{
    qnt_plan_outcome outcome;
    size_t peak;
    qnt_status status;
    qnt_context_reset_peak(c->cli->ctx);
    status = qnt_plan_run(row->plan);
    qnt_context_bytes(c->cli->ctx, &peak);
    qnt_plan_get_outcome(row->plan, &outcome);
    qnt_plan_destroy(row->plan);
    row->plan = NULL;
    row->peak = peak;
    row->seconds = outcome.seconds;
    c->cli->progress.part++;
    return status == QNT_OK ? evaluate_output(c, row) : status;
}

/* All plans before the first of them is run: what can be refused is refused now. */
static int make_plans(struct comparison *c)
{
    for (size_t i = 1; i < c->count; i++) {
        qnt_quantize_options options = options_of(c, c->rows[i].recipe);
        CLI_TRY(take_failure(c, &c->rows[i], qnt_plan_create(c->model, &options, &c->rows[i].plan)));
    }
    return CLI_OK;
}

static int make_rows(struct comparison *c)
{
    c->cli->progress.parts = 2 * c->count - 1;
    CLI_TRY(cli_try(c->cli, evaluate(c, c->model, false, &c->rows[0])));
    for (size_t i = 1; i < c->count; i++) {
        c->cli->progress.part = 2 * i - 1;
        if (!c->rows[i].plan)
            continue;
        CLI_TRY(take_failure(c, &c->rows[i], make_row(c, &c->rows[i])));
        remove_tree(c->output);
        remove_tree(c->work);
    }
    return CLI_OK;
}

/* --- the table --- */

static const char *name_of(const struct row *row)
{
    return row->recipe ? row->recipe : "(the model)";
}

static void print_row(struct cli_table *table, const struct row *row)
{
    char size[32];
    cli_table_cell(table, "%s", name_of(row));
    if (row->reason) {
        for (int i = 0; i < 7; i++)
            cli_table_cell(table, "-");
        cli_table_cell(table, "%s", row->reason);
        return;
    }
    cli_table_cell(table, "%.3f", row->bits);
    cli_table_cell(table, "%s", cli_size_text(row->bytes, size));
    cli_table_cell(table, "%.4f", row->result.perplexity);
    cli_table_cell(table, row->recipe ? "%.5f" : "0", row->result.mean_kl);
    cli_table_cell(table, row->recipe ? "%.2f %%" : "100 %%", 100 * row->result.top1);
    cli_table_cell(table, row->recipe ? "%.1f" : "-", row->seconds);
    cli_table_cell(table, "%s", row->recipe ? cli_size_text(row->peak, size) : "-");
    cli_table_cell(table, "%s", "");
}

static void print_rows(const struct comparison *c)
{
    struct cli_table *table =
        cli_table_create("recipe|bits>|size>|perplexity>|KL divergence>|same first>|seconds>|memory>|note");
    for (size_t i = 0; i < c->count; i++)
        print_row(table, &c->rows[i]);
    cli_table_print(table);
}

/* clang-format off: a key and its value a line */
static json_t *row_json(const struct row *row)
{
    if (row->reason)
        return json_pack("{s:s, s:s}", "recipe", row->recipe, "error", row->reason);
    return json_pack("{s:s?, s:o, s:I, s:o, s:o, s:o, s:o, s:I}",
                     "recipe", row->recipe,
                     "bits_per_weight", cli_json_number(row->bits),
                     "bytes", (json_int_t)row->bytes,
                     "perplexity", cli_json_number(row->result.perplexity),
                     "mean_kl", cli_json_number(row->recipe ? row->result.mean_kl : 0),
                     "top1", cli_json_number(row->recipe ? row->result.top1 : 1),
                     "seconds", cli_json_number(row->seconds),
                     "peak_bytes", (json_int_t)row->peak);
}
/* clang-format on */

static json_t *table_json(const struct comparison *c)
{
    const struct compare_values *v = c->values;
    const qnt_eval_result *r = &c->rows[0].result;
    json_t *rows = json_array();
    for (size_t i = 0; i < c->count; i++)
        json_array_append_new(rows, row_json(&c->rows[i]));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:o}", "version", qnt_version(), "model",
                     c->cli->arguments.items[0], "format", v->recipe.format ? v->recipe.format : "native", "text",
                     v->text, "protocol", v->protocol ? v->protocol : "llamacpp", "ctx", (json_int_t)r->ctx, "windows",
                     (json_int_t)r->windows, "rows", rows);
}

static int write_plot(const struct comparison *c)
{
    struct cli_point *points = cli_new(c->count, sizeof *points);
    char *text;
    size_t n = 0;
    int code;
    if (!c->values->plot) {
        free(points);
        return CLI_OK;
    }
    for (size_t i = 1; i < c->count; i++)
        if (!c->rows[i].reason)
            points[n++] = (struct cli_point){c->rows[i].recipe, c->rows[i].bits, c->rows[i].result.mean_kl};
    text = cli_plot(c->cli->arguments.items[0], "bits of a weight", "mean KL divergence to the model", points, n);
    code = cli_report_text(c->cli, c->values->plot, text);
    free(text);
    free(points);
    return code;
}

static int show(const struct comparison *c)
{
    json_t *json = table_json(c);
    int code = cli_report_write(c->cli, c->values->report, json);
    cli_progress_end(&c->cli->progress);
    if (code == CLI_OK)
        code = write_plot(c);
    if (code == CLI_OK && c->values->common.json)
        code = cli_json_print(json_incref(json));
    else if (code == CLI_OK)
        print_rows(c);
    json_decref(json);
    for (size_t i = 0; i < c->count; i++)
        if (c->rows[i].reason) {
            cli_error("%s: %s", c->rows[i].recipe, c->rows[i].reason);
            code = CLI_FAILED;
        }
    return code;
}

/* --- the command --- */

extern const struct cli_command cli_command_compare;

static int check(const struct compare_values *v)
{
    const char *suffix = v->plot ? strrchr(v->plot, '.') : NULL;
    if (v->methods.count == 0) {
        cli_error("--method RECIPE is missing; usage: quant compare %s", cli_command_compare.arguments);
        return CLI_USAGE;
    }
    CLI_TRY(cli_report_check(v->report));
    if (!v->plot)
        return CLI_OK;
    if (!suffix || strcmp(suffix, ".svg") != 0) {
        cli_error("--plot %s: the picture is SVG, its name must end in .svg", v->plot);
        return CLI_USAGE;
    }
    return cli_output_check(v->plot);
}

static int compare(struct comparison *c)
{
    CLI_TRY(check(c->values));
    CLI_TRY(cli_try(c->cli, qnt_model_open(c->cli->ctx, c->cli->arguments.items[0], &c->model)));
    CLI_TRY(make_folder(c));
    CLI_TRY(make_plans(c));
    CLI_TRY(make_rows(c));
    return show(c);
}

static void end(struct comparison *c)
{
    for (size_t i = 0; i < c->count; i++) {
        qnt_plan_destroy(c->rows[i].plan);
        free(c->rows[i].reason);
    }
    remove_tree(c->folder);
    qnt_model_close(c->model);
    free(c->rows);
    free(c->folder);
    free(c->output);
    free(c->work);
}

static int run_compare(struct cli *cli, void *values)
{
    const struct compare_values *v = values;
    struct comparison c = {.cli = cli, .values = v, .count = v->methods.count + 1};
    int code;
    c.rows = cli_new(c.count, sizeof *c.rows);
    for (size_t i = 1; i < c.count; i++)
        c.rows[i].recipe = v->methods.items[i - 1];
    code = compare(&c);
    end(&c);
    return code;
}

const struct cli_command cli_command_compare = {
    .name = "compare",
    .arguments = "MODEL --method RECIPE --method RECIPE ... --text FILE",
    .title = "what several recipes lose: bits, size, perplexity, KL divergence, time, memory",
    .about = "Each recipe is quantized, evaluated against MODEL and removed. Memory is what the library held at most "
             "while quantizing. A recipe that fails leaves its reason in the table, and exit status 1.",
    .least = 1,
    .most = 1,
    .bytes = sizeof(struct compare_values),
    .groups = groups,
    .run = run_compare,
};
