/*
 * cli.h - what the commands of the tool share.
 *
 * The tool sees public headers only: whatever it can do, a program that links
 * the library can do. Results go to standard output, everything else to
 * standard error. Steps of a command return an exit code, 0 being success;
 * who finds the failure prints it.
 */
#ifndef CLI_H
#define CLI_H

#include <jansson.h>
#include <quant/quant.h>
#include "cli/option.h"
#include "cli/progress.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_STOPPED = 130 };

/* Every command's values begin with these. */
struct cli_common {
    bool help, json;
    struct cli_int threads;
    const char *progress;
};

struct cli {
    qnt_context *ctx;
    const struct cli_common *common;
    struct cli_list arguments;          /* what was no option */
    struct cli_progress progress;
};

struct cli_command {
    const char *name;
    const char *arguments;              /* for the usage line: "MODEL -o OUT" */
    const char *title;                  /* one line */
    const char *about;                  /* more for --help, or NULL */
    size_t least, most;                 /* arguments that are no options */
    size_t bytes;                       /* of the structure of values */
    const struct cli_group *groups;
    int (*run)(struct cli *cli, void *values);
};

/* NULL behind the last. */
extern const struct cli_command *const cli_commands[];

/* --- options that several commands have --- */

#define CLI_ROW(structure, member, kind, spelling, meta, text) \
    {.name = spelling, .type = CLI_##kind, .offset = offsetof(structure, member), .metavar = meta, .help = text}

/* --help and --json; the same with --threads and --progress. Both stand at the start of the values. */
extern const struct cli_option cli_general_rows[], cli_work_rows[];
enum { CLI_GENERAL_ROWS = 2, CLI_WORK_ROWS = 4 };
#define CLI_GENERAL {"general", cli_general_rows, CLI_GENERAL_ROWS, 0}
#define CLI_WORK {"general", cli_work_rows, CLI_WORK_ROWS, 0}

/* What to make: method, format and settings. */
struct cli_recipe {
    const char *method, *format;
    struct cli_list settings;           /* "key=value" in the order given */
};
extern const struct cli_option cli_recipe_rows[];
enum { CLI_RECIPE_ROWS = 7 };
#define CLI_RECIPE(base) {"recipe", cli_recipe_rows, CLI_RECIPE_ROWS, base}
/* The same without --format, the last row: for commands that take several. */
#define CLI_RECIPE_WITHOUT_FORMAT(base) {"recipe", cli_recipe_rows, CLI_RECIPE_ROWS - 1, base}

/* Calibration: windows of a text, importance matrix. */
struct cli_calibration {
    const char *file, *importance;
    struct cli_int samples, seqlen, seed;
};
extern const struct cli_option cli_calibration_rows[];
enum { CLI_CALIBRATION_ROWS = 5 };
#define CLI_CALIBRATION(base) {"calibration", cli_calibration_rows, CLI_CALIBRATION_ROWS, base}
/* The same without what only quantizing takes: --calib and --imatrix, the first rows. */
#define CLI_WINDOWS(base) {"windows", cli_calibration_rows + 2, CLI_CALIBRATION_ROWS - 2, base}

/* The recipe `method` with the settings. An error in it is wrong usage. */
int cli_recipe_open(struct cli *cli, const char *method, const struct cli_list *settings, qnt_recipe **recipe);

/* --- saying what is wrong --- */

void cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Exit code of a status; prints the context's message unless it is QNT_OK. */
int cli_try(struct cli *cli, qnt_status status);

#define CLI_TRY(expr)              \
    do {                           \
        int cli_try_code = (expr); \
        if (cli_try_code)          \
            return cli_try_code;   \
    } while (0)

/* The candidate nearest to a misspelt word, if one is near enough. */
struct cli_nearest {
    const char *wanted;
    size_t length;                      /* of wanted */
    const char *best;                   /* NULL: none is near */
    size_t distance;
};
void cli_nearest_offer(struct cli_nearest *nearest, const char *candidate);

/* --- memory: these end the process where there is none --- */

_Noreturn void cli_no_memory(void);
void *cli_grow(void *memory, size_t bytes);
/* Zeroed; never NULL. */
void *cli_new(size_t count, size_t bytes);

/* --- results --- */

/* A number, or null where it is not finite. */
json_t *cli_json_number(double x);
/* Prints and frees. */
int cli_json_print(json_t *value);
/* Writes a report to the file, if one is named. */
int cli_report_text(struct cli *cli, const char *path, const char *text);
int cli_report_write(struct cli *cli, const char *path, const json_t *json);
/* Before long work: whether a report can be written there. NULL is fine. */
int cli_report_check(const char *path);
/* Whether something can be made at `path`; whether a file can be made or replaced there. */
int cli_place_check(const char *path);
int cli_output_check(const char *path);
/* "1.23 GiB" in `text`, which it returns. */
const char *cli_size_text(uint64_t bytes, char text[32]);

/* Pages of help. */
void cli_help_tool(FILE *out);
void cli_help_command(const struct cli_command *command, FILE *out);

#endif
