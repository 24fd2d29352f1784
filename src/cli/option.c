/*
 * option.c - parsing of `--name value`, `--name=value`, `-o value`, `-ovalue`, by the tables.
 *
 * A single option given twice is an error: silence would lose one of the two.
 * `--` ends the options. Numbers are decimal, in whatever locale.
 */
#include "cli/option.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"

void cli_list_add(struct cli_list *list, const char *format, ...)
{
    va_list args;
    char *item;
    list->items = cli_grow(list->items, (list->count + 1) * sizeof *list->items);
    va_start(args, format);
    if (vasprintf(&item, format, args) < 0)
        cli_no_memory();
    va_end(args);
    list->items[list->count++] = item;
}

void cli_list_free(struct cli_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct cli_list){0};
}

/* An option found in its group, its value's place, and whether it came before. */
struct found {
    const struct cli_option *option;
    void *at;
    const char *spelt;          /* "--bits" or "-o", for messages */
};

static void *place_of(const struct cli_group *group, const struct cli_option *option, const void *values)
{
    return (char *)(uintptr_t)values + group->base + option->offset;
}

/* By name of n characters, or by letter where name is NULL. */
static bool find(const struct cli_group *groups, const char *name, size_t n, char letter, void *values,
                 struct found *found)
{
    for (const struct cli_group *g = groups; g->title; g++)
        for (size_t i = 0; i < g->count; i++) {
            const struct cli_option *o = &g->options[i];
            bool same = name ? strlen(o->name) == n && strncmp(o->name, name, n) == 0 : letter && o->letter == letter;
            if (!same)
                continue;
            found->option = o;
            found->at = place_of(g, o, values);
            return true;
        }
    return false;
}

static bool unknown(const struct cli_group *groups, const char *argument, size_t n)
{
    struct cli_nearest nearest = {.wanted = argument + strspn(argument, "-"), .length = n};
    for (const struct cli_group *g = groups; g->title; g++)
        for (size_t i = 0; i < g->count; i++)
            cli_nearest_offer(&nearest, g->options[i].name);
    if (nearest.best)
        cli_error("unknown option %.*s; did you mean --%s?", (int)strcspn(argument, "="), argument, nearest.best);
    else
        cli_error("unknown option %.*s", (int)strcspn(argument, "="), argument);
    return false;
}

/* Whether `word` is one of "a|b|c". */
static bool one_of(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *w = words; *w; w += strcspn(w, "|"), w += *w == '|')
        if (strcspn(w, "|") == n && strncmp(w, word, n) == 0)
            return true;
    return false;
}

static bool read_int(const char *text, uint64_t *value)
{
    if (*text == 0 || text[strspn(text, "0123456789")] != 0)
        return false;
    errno = 0;
    *value = strtoull(text, NULL, 10);
    return errno == 0;
}

/* A number with a unit: K, KiB, M, MiB, G, GiB, T, TiB are powers of 1024, KB, MB, GB, TB of 1000. */
static bool read_size(const char *text, uint64_t *value)
{
    static const char letters[] = "KMGT";
    double number, base = 1024;
    char *end;
    const char *letter;
    if (*text < '0' || *text > '9' || strpbrk(text, "xXeEpP"))
        return false;
    number = strtod(text, &end);
    letter = *end ? strchr(letters, *end) : NULL;
    if (letter) {
        end++;
        base = strcmp(end, "B") == 0 ? 1000 : 1024;
        for (const char *l = letters; l <= letter; l++)
            number *= base;
        if (strcmp(end, "iB") != 0 && strcmp(end, "B") != 0 && *end)
            return false;
    } else if (*end) {
        return false;
    }
    *value = number < 0x1p63 ? (uint64_t)number : 0;
    return number < 0x1p63;
}

static bool store_number(const struct found *f, const char *text)
{
    const struct cli_option *o = f->option;
    struct cli_int *number = f->at;
    bool size = o->type == CLI_SIZE;
    uint64_t greatest = o->greatest ? o->greatest : UINT64_MAX;
    if (o->words && strcmp(text, o->words) == 0) {
        number->word = true;
        return true;
    }
    if (!(size ? read_size : read_int)(text, &number->value)) {
        cli_error("%s \"%s\": expected %s%s%s", f->spelt, text,
                  size ? "a size, such as 500M or 1.5GiB" : "a whole number", o->words ? " or " : "",
                  o->words ? o->words : "");
        return false;
    }
    if (number->value >= o->least && number->value <= greatest)
        return true;
    if (greatest == UINT64_MAX)
        cli_error("%s \"%s\": expected at least %llu", f->spelt, text, (unsigned long long)o->least);
    else
        cli_error("%s \"%s\": expected %llu to %llu", f->spelt, text, (unsigned long long)o->least,
                  (unsigned long long)greatest);
    return false;
}

static bool store_flag(const struct found *f, const char *text)
{
    *(bool *)f->at = strcmp(text, "true") == 0;
    if (*(bool *)f->at || strcmp(text, "false") == 0)
        return true;
    cli_error("%s \"%s\": expected true or false", f->spelt, text);
    return false;
}

static bool store_text(const struct found *f, const char *text)
{
    if (f->option->words && !one_of(f->option->words, text)) {
        cli_error("%s \"%s\": expected one of %s", f->spelt, text, f->option->words);
        return false;
    }
    if (*text == 0) {
        cli_error("%s: its value is empty", f->spelt);
        return false;
    }
    *(const char **)f->at = text;
    return true;
}

/* "group-size" and 32 as the setting group_size=32. */
static bool store_setting(const struct found *f, const char *text)
{
    struct cli_list *list = f->at;
    cli_list_add(list, "%s=%s", f->option->name, text);
    for (char *c = list->items[list->count - 1]; *c && *c != '='; c++)
        if (*c == '-')
            *c = '_';
    return true;
}

static bool store(const struct found *f, const char *text)
{
    switch (f->option->type) {
    case CLI_TEXT:
        return store_text(f, text);
    case CLI_INT:
    case CLI_SIZE:
        return store_number(f, text);
    case CLI_FLAG:
        return store_flag(f, text);
    case CLI_LIST:
        cli_list_add(f->at, "%s", text);
        return true;
    case CLI_SETTING:
        return store_setting(f, text);
    }
    return false;
}

static bool given(const struct cli_option *o, const void *at)
{
    switch (o->type) {
    case CLI_TEXT:
        return *(const char *const *)at != NULL;
    case CLI_INT:
    case CLI_SIZE:
        return ((const struct cli_int *)at)->given;
    case CLI_FLAG:
        return *(const bool *)at;
    case CLI_LIST:
    case CLI_SETTING:
        break;
    }
    return false; /* may come again */
}

static bool is_switch(const struct cli_option *o)
{
    return o->type == CLI_FLAG || (o->type == CLI_SETTING && !o->metavar);
}

/* Stores the value written with the option, or else the argument behind it; moves *at over what was used. */
static bool take(const struct found *f, const char *written, int argc, char **argv, int *at)
{
    const char *value = written;
    if (given(f->option, f->at)) {
        cli_error("%s is given twice", f->spelt);
        return false;
    }
    if (!value && is_switch(f->option))
        value = "true";
    if (!value) {
        const char *next = *at + 1 < argc ? argv[*at + 1] : NULL;
        if (!next || (next[0] == '-' && next[1])) {
            cli_error("%s needs a value %s%s%s", f->spelt, f->option->metavar, next ? ", not the option " : "",
                      next ? next : "");
            return false;
        }
        value = argv[++*at];
    }
    if (!store(f, value))
        return false;
    if (f->option->type == CLI_INT || f->option->type == CLI_SIZE)
        ((struct cli_int *)f->at)->given = true;
    return true;
}

static bool parse_one(const struct cli_group *groups, int argc, char **argv, int *at, void *values)
{
    const char *argument = argv[*at], *written = NULL;
    char spelt[64];
    struct found f = {.spelt = spelt};
    bool is_long = argument[1] == '-';
    size_t n = strcspn(argument, "=") - 2;
    if (!find(groups, is_long ? argument + 2 : NULL, n, argument[1], values, &f))
        return unknown(groups, argument, is_long ? n : strlen(argument) - 1);
    if (is_long)
        written = argument[2 + n] ? argument + 2 + n + 1 : NULL;
    else if (argument[2])
        written = argument + 2 + (argument[2] == '=');
    snprintf(spelt, sizeof spelt, "%.*s", is_long ? (int)n + 2 : 2, argument);
    return take(&f, written, argc, argv, at);
}

bool cli_options_parse(const struct cli_group *groups, int argc, char **argv, void *values, struct cli_list *arguments)
{
    bool options = true;
    for (int at = 1; at < argc; at++) {
        const char *argument = argv[at];
        if (options && strcmp(argument, "--") == 0)
            options = false;
        else if (!options || argument[0] != '-' || argument[1] == 0)
            cli_list_add(arguments, "%s", argument);
        else if (!parse_one(groups, argc, argv, &at, values))
            return false;
    }
    return true;
}

const struct cli_option *cli_options_missing(const struct cli_group *groups, const void *values)
{
    for (const struct cli_group *g = groups; g->title; g++)
        for (size_t i = 0; i < g->count; i++)
            if (g->options[i].required && !given(&g->options[i], place_of(g, &g->options[i], values)))
                return &g->options[i];
    return NULL;
}

void cli_options_free(const struct cli_group *groups, void *values)
{
    for (const struct cli_group *g = groups; g->title; g++)
        for (size_t i = 0; i < g->count; i++)
            if (g->options[i].type == CLI_LIST || g->options[i].type == CLI_SETTING)
                cli_list_free(place_of(g, &g->options[i], values));
}
