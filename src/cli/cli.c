/*
 * cli.c - errors, suggestions, memory, shared options and reports of the commands.
 */
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const struct cli_option cli_general_rows[CLI_GENERAL_ROWS] = {
    {.name = "help", .letter = 'h', .type = CLI_FLAG, .offset = offsetof(struct cli_common, help),
     .help = "this text"},
    CLI_ROW(struct cli_common, json, FLAG, "json", NULL, "print the result as JSON"),
};

const struct cli_option cli_work_rows[CLI_WORK_ROWS] = {
    {.name = "threads", .type = CLI_INT, .offset = offsetof(struct cli_common, threads), .metavar = "N",
     .least = 1, .greatest = 1024, .help = "threads; default: one for each processor. Results do not depend on it"},
    {.name = "progress", .type = CLI_TEXT, .offset = offsetof(struct cli_common, progress), .metavar = "HOW",
     .words = "auto|json|none",
     .help = "progress on standard error: a line on a terminal and lines elsewhere, JSON lines, or none"},
    CLI_ROW(struct cli_common, json, FLAG, "json", NULL, "print the result as JSON"),
    {.name = "help", .letter = 'h', .type = CLI_FLAG, .offset = offsetof(struct cli_common, help),
     .help = "this text"},
};

const struct cli_option cli_recipe_rows[CLI_RECIPE_ROWS] = {
    CLI_ROW(struct cli_recipe, method, TEXT, "method", "RECIPE",
            "methods with their parameters, such as gptq or gptq:bits=3,group_size=64 (quant methods lists them); "
            "default: with calibration the format's (quant formats), else rtn"),
    CLI_ROW(struct cli_recipe, settings, SETTING, "bits", "N", "bits of a weight: --set bits=N"),
    CLI_ROW(struct cli_recipe, settings, SETTING, "act-bits", "N",
            "bits of activations, with any method: --set act_bits=N"),
    CLI_ROW(struct cli_recipe, settings, SETTING, "group-size", "N",
            "columns that share a scale, 0 for the whole row: --set group_size=N"),
    CLI_ROW(struct cli_recipe, settings, SETTING, "sym", NULL, "levels symmetric about 0: --set sym=true"),
    CLI_ROW(struct cli_recipe, settings, LIST, "set", "KEY=VALUE",
            "any parameter of the recipe's methods (quant methods NAME lists them); METHOD.KEY=VALUE where two share "
            "it; may be repeated"),
    CLI_ROW(struct cli_recipe, format, TEXT, "format", "FORMAT",
            "what the result is stored as, such as gguf:q4_0 (quant formats lists them)"),
};

const struct cli_option cli_calibration_rows[CLI_CALIBRATION_ROWS] = {
    CLI_ROW(struct cli_calibration, file, TEXT, "calib", "FILE",
            "calibration text: plain, JSON lines with a key text, or .npy of token ids; or a .safetensors of quant "
            "calib"),
    CLI_ROW(struct cli_calibration, importance, TEXT, "imatrix", "FILE",
            "importance matrix of llama.cpp or quant calib (GGUF or .dat), for the block types of GGUF"),
    {.name = "samples", .type = CLI_INT, .offset = offsetof(struct cli_calibration, samples), .metavar = "N",
     .least = 1, .words = "all", .help = "windows of the text that are used; default: 128"},
    {.name = "seqlen", .type = CLI_INT, .offset = offsetof(struct cli_calibration, seqlen), .metavar = "N", .least = 1,
     .help = "tokens of a window; default: 2048 or, if that is less, the model's context"},
    CLI_ROW(struct cli_calibration, seed, INT, "seed", "N",
            "draw windows at random, by this seed; default: consecutive ones"),
};

int cli_recipe_open(struct cli *cli, const char *method, const struct cli_list *settings, qnt_recipe **recipe)
{
    qnt_status status = qnt_recipe_parse(cli->ctx, method, recipe);
    if (status == QNT_OK)
        status = qnt_recipe_set_all(*recipe, (const char *const *)settings->items, settings->count);
    return cli_try(cli, status) ? CLI_USAGE : CLI_OK;
}

static void say(const char *kind, const char *format, va_list args)
{
    flockfile(stderr);
    fprintf(stderr, "quant: %s: ", kind);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    funlockfile(stderr);
}

void cli_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say("error", format, args);
    va_end(args);
}

void cli_warning(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say("warning", format, args);
    va_end(args);
}

int cli_try(struct cli *cli, qnt_status status)
{
    if (status == QNT_OK)
        return CLI_OK;
    cli_progress_end(&cli->progress);
    if (*qnt_context_message(cli->ctx))
        cli_error("%s", qnt_context_message(cli->ctx));
    else
        cli_error("%s", qnt_status_text(status));
    return status == QNT_CANCELLED ? CLI_STOPPED : status == QNT_INVALID ? CLI_USAGE : CLI_FAILED;
}

enum { LONGEST_WORD = 63 };

/* Insertions, deletions and replacements that make one word of the other. */
static size_t edit_distance(const char *a, size_t m, const char *b, size_t n)
{
    size_t row[LONGEST_WORD + 1];
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]), moved = row[j] < row[j - 1] ? row[j] : row[j - 1];
            diagonal = row[j];
            row[j] = replaced < moved + 1 ? replaced : moved + 1;
        }
    }
    return row[n];
}

void cli_nearest_offer(struct cli_nearest *nearest, const char *candidate)
{
    size_t m = nearest->length, n = strlen(candidate), longest = m > n ? m : n, distance;
    if (m == 0 || longest > LONGEST_WORD)
        return;
    distance = edit_distance(nearest->wanted, m, candidate, n);
    if (m >= 3 && m < n && strncmp(nearest->wanted, candidate, m) == 0)
        distance = 1; /* a beginning counts as one slip */
    if (distance > (longest + 1) / 2 || (nearest->best && distance >= nearest->distance))
        return;
    nearest->best = candidate;
    nearest->distance = distance;
}

void cli_no_memory(void)
{
    cli_error("out of memory");
    exit(CLI_FAILED);
}

void *cli_grow(void *memory, size_t bytes)
{
    memory = realloc(memory, bytes);
    if (!memory)
        cli_no_memory();
    return memory;
}

void *cli_new(size_t count, size_t bytes)
{
    void *memory = calloc(count ? count : 1, bytes ? bytes : 1);
    if (!memory)
        cli_no_memory();
    return memory;
}

json_t *cli_json_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

int cli_json_print(json_t *value)
{
    int failed = !value || json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) != 0;
    json_decref(value);
    if (failed) {
        cli_error("the result could not be printed as JSON");
        return CLI_FAILED;
    }
    putchar('\n');
    return CLI_OK;
}

int cli_report_text(struct cli *cli, const char *path, const char *text)
{
    return path ? cli_try(cli, qnt_file_write(cli->ctx, path, text, strlen(text))) : CLI_OK;
}

int cli_report_write(struct cli *cli, const char *path, const json_t *json)
{
    char *text;
    int code;
    if (!path)
        return CLI_OK;
    text = json_dumps(json, JSON_INDENT(2));
    if (!text)
        cli_no_memory();
    code = cli_report_text(cli, path, text);
    free(text);
    return code;
}

static int cannot_write(const char *path, int error)
{
    cli_error("%s cannot be written: %s", path, strerror(error));
    return CLI_FAILED;
}

int cli_place_check(const char *path)
{
    size_t n = strlen(path);
    char *folder;
    int error = 0;
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    folder = n ? strndup(path, n) : strdup(".");
    if (!folder)
        cli_no_memory();
    if (access(folder, W_OK | X_OK) != 0)
        error = errno;
    free(folder);
    return error ? cannot_write(path, error) : CLI_OK;
}

int cli_output_check(const char *path)
{
    struct stat there;
    if (stat(path, &there) == 0 && S_ISDIR(there.st_mode))
        return cannot_write(path, EISDIR);
    return cli_place_check(path);
}

int cli_report_check(const char *path)
{
    const char *suffix = path ? strrchr(path, '.') : NULL;
    if (!path)
        return CLI_OK;
    if (!suffix || strcmp(suffix, ".json") != 0) {
        cli_error("--report %s: the report is JSON, its name must end in .json", path);
        return CLI_USAGE;
    }
    return cli_output_check(path);
}

const char *cli_size_text(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < CLI_COUNT(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(text, 32, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return text;
}
