/*
 * outputs.h - what one run writes: OUT itself, or with several formats an entry of the folder OUT for each.
 */
#ifndef CLI_OUTPUTS_H
#define CLI_OUTPUTS_H

#include <quant/model.h>
#include "cli/cli.h"

struct cli_output {
    const char *format;                 /* NULL: the library's choice */
    char *path, *work;                  /* NULL: none (only a plan); the library's choice */
    qnt_plan *plan;
};

struct cli_outputs {
    struct cli_output *items;
    size_t count;
    const char *folder, *work;          /* OUT and --work where there are several, else NULL */
    bool folder_made, work_made;
};

/* One for each format, at least one; `out` NULL: nothing is written. Wrong usage: a format is given twice. */
int cli_outputs_create(const struct cli_list *formats, const char *out, const char *work, struct cli_outputs *outputs);
/* A plan for each, before anything is run; `options` but for format, output and work. */
int cli_outputs_plan(struct cli *cli, struct cli_outputs *outputs, qnt_model *model, qnt_quantize_options options);
/* Runs them one after the other; blocks that two of them share are made once. */
int cli_outputs_run(struct cli *cli, struct cli_outputs *outputs);
/* Their reports as JSON: an object, or an array of them where there are several; to be freed. */
int cli_outputs_report(struct cli *cli, const struct cli_outputs *outputs, char **json);
void cli_outputs_free(struct cli_outputs *outputs);

#endif
