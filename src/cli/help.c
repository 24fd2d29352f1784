/*
 * help.c - pages of help from the tables, wrapped at 100 columns.
 */
#include <ctype.h>
#include <string.h>
#include "cli/cli.h"

enum { WIDTH = 100, HELP_COLUMN = 26 };

/* Words of `text` between the columns `indent` and WIDTH; the cursor is at column `at`. Ends the line. */
static void wrap(FILE *out, size_t at, size_t indent, const char *text)
{
    bool first = true;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (!first && at + 1 + n > WIDTH) {
            fprintf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!first) {
            fputc(' ', out);
            at++;
        }
        fprintf(out, "%.*s", (int)n, text);
        at += n;
        first = false;
        text += n + strspn(text + n, " ");
    }
    fputc('\n', out);
}

/* What the row says beside its help: choices, range, repeats. */
static void limits_of(const struct cli_option *o, char *text, size_t size)
{
    *text = 0;
    if (o->type == CLI_TEXT && o->words)
        snprintf(text, size, " (%s)", o->words);
    else if (o->type == CLI_INT && o->greatest)
        snprintf(text, size, " (%llu .. %llu)", (unsigned long long)o->least, (unsigned long long)o->greatest);
    else if (o->required)
        snprintf(text, size, " (required)");
}

static void print_option(const struct cli_option *o, FILE *out)
{
    char text[600], limits[80];
    int at = fprintf(out, "  ");
    if (o->letter)
        at += fprintf(out, "-%c, ", o->letter);
    at += fprintf(out, "--%s", o->name);
    if (o->metavar)
        at += fprintf(out, " %s%s%s", o->metavar, o->type == CLI_INT && o->words ? "|" : "",
                      o->type == CLI_INT && o->words ? o->words : "");
    if (at > HELP_COLUMN - 2) {
        fputc('\n', out);
        at = 0;
    }
    fprintf(out, "%*s", HELP_COLUMN - at, "");
    limits_of(o, limits, sizeof limits);
    snprintf(text, sizeof text, "%s%s", o->help, limits);
    wrap(out, HELP_COLUMN, HELP_COLUMN, text);
}

void cli_help_command(const struct cli_command *command, FILE *out)
{
    fprintf(out, "usage: quant %s %s%s[options]\n\n", command->name, command->arguments,
            *command->arguments ? " " : "");
    fprintf(out, "%c%s.\n", toupper((unsigned char)command->title[0]), command->title + 1);
    if (command->about) {
        fputc('\n', out);
        wrap(out, 0, 0, command->about);
    }
    for (const struct cli_group *g = command->groups; g->title; g++) {
        fprintf(out, "\n%s\n", g->title);
        for (size_t i = 0; i < g->count; i++)
            print_option(&g->options[i], out);
    }
}

void cli_help_tool(FILE *out)
{
    fprintf(out, "usage: quant COMMAND ...\n\nQuantizes language models.\n\ncommands\n");
    for (size_t i = 0; cli_commands[i]; i++)
        fprintf(out, "  %-10s %s\n", cli_commands[i]->name, cli_commands[i]->title);
    fprintf(out, "\n`quant COMMAND --help` lists a command's options, `quant --version` the version.\n"
                 "Exit status: 0 success, 1 failure, 2 wrong usage, 130 stopped by a signal.\n");
}
