/*
 * outputs.c - one run, several files; see outputs.h.
 *
 * With several formats OUT is a folder. An entry is named after its format,
 * ':' as '-', files with the suffix .gguf; it has the bytes that a run with
 * that format alone would write.
 */
#include "cli/outputs.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static bool writes_folder(const char *format)
{
    qnt_format_info info;
    for (size_t i = 0; qnt_format_get(i, &info); i++)
        if (strcasecmp(info.name, format) == 0)
            return info.folder;
    return false;
}

/* "FOLDER/gguf-q4_0.gguf", to be freed; NULL without a folder. */
static char *entry_path(const char *folder, const char *format, bool suffix)
{
    char *path = NULL;
    size_t n;
    if (!folder)
        return NULL;
    n = strlen(folder);
    if (asprintf(&path, "%s%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", format,
                 suffix && !writes_folder(format) ? ".gguf" : "") < 0)
        cli_no_memory();
    for (char *c = strrchr(path, '/'); *c; c++)
        *c = *c == ':' ? '-' : (char)tolower((unsigned char)*c);
    return path;
}

static char *copy(const char *text)
{
    char *copied = text ? strdup(text) : NULL;
    if (text && !copied)
        cli_no_memory();
    return copied;
}

int cli_outputs_create(const struct cli_list *formats, const char *out, const char *work, struct cli_outputs *outputs)
{
    bool several = formats->count > 1;
    *outputs = (struct cli_outputs){.count = several ? formats->count : 1};
    outputs->items = cli_new(outputs->count, sizeof *outputs->items);
    outputs->folder = several ? out : NULL;
    outputs->work = several ? work : NULL;
    for (size_t i = 0; i < outputs->count; i++) {
        struct cli_output *item = &outputs->items[i];
        item->format = formats->count ? formats->items[i] : NULL;
        item->path = several ? entry_path(out, item->format, true) : copy(out);
        item->work = several ? entry_path(work, item->format, false) : copy(work);
        for (size_t k = 0; k < i; k++)
            if (strcasecmp(item->format, outputs->items[k].format) == 0) {
                cli_error("--format %s is given twice", item->format);
                return CLI_USAGE;
            }
    }
    return CLI_OK;
}

int cli_outputs_plan(struct cli *cli, struct cli_outputs *outputs, qnt_model *model, qnt_quantize_options options)
{
    for (size_t i = 0; i < outputs->count; i++) {
        struct cli_output *item = &outputs->items[i];
        bool shared = false;
        options.format = item->format;
        options.output = item->path;
        options.work = item->work;
        CLI_TRY(cli_try(cli, qnt_plan_create(model, &options, &item->plan)));
        for (size_t k = i; item->path && k-- > 0 && !shared;)
            CLI_TRY(cli_try(cli, qnt_plan_share(item->plan, outputs->items[k].plan, &shared)));
    }
    return CLI_OK;
}

static int make_folder(const char *path, bool *made)
{
    if (!path)
        return CLI_OK;
    *made = mkdir(path, 0777) == 0;
    if (*made || errno == EEXIST)
        return CLI_OK;
    cli_error("%s: cannot make the folder: %s", path, strerror(errno));
    return CLI_FAILED;
}

static int run_plans(struct cli *cli, struct cli_outputs *outputs)
{
    cli->progress.parts = outputs->count;
    for (size_t i = 0; i < outputs->count; i++) {
        cli->progress.part = i;
        CLI_TRY(cli_try(cli, qnt_plan_run(outputs->items[i].plan)));
    }
    return CLI_OK;
}

/* Folders that stay empty go again. */
int cli_outputs_run(struct cli *cli, struct cli_outputs *outputs)
{
    int code = make_folder(outputs->folder, &outputs->folder_made);
    if (code == CLI_OK)
        code = make_folder(outputs->work, &outputs->work_made);
    if (code == CLI_OK)
        code = run_plans(cli, outputs);
    if (outputs->work_made)
        rmdir(outputs->work);
    if (outputs->folder_made)
        rmdir(outputs->folder);
    return code;
}

int cli_outputs_report(struct cli *cli, const struct cli_outputs *outputs, char **json)
{
    json_t *all = json_array();
    const char *text;
    *json = NULL;
    for (size_t i = 0; i < outputs->count; i++) {
        int code = cli_try(cli, qnt_plan_report(outputs->items[i].plan, &text));
        if (code) {
            json_decref(all);
            return code;
        }
        json_array_append_new(all, json_loads(text, 0, NULL));
    }
    *json = outputs->count == 1 ? copy(text) : json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(all);
    if (!*json)
        cli_no_memory();
    return CLI_OK;
}

void cli_outputs_free(struct cli_outputs *outputs)
{
    for (size_t i = 0; i < outputs->count; i++) {
        qnt_plan_destroy(outputs->items[i].plan);
        free(outputs->items[i].path);
        free(outputs->items[i].work);
    }
    free(outputs->items);
}
