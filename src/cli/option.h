/*
 * option.h - the options of a command as tables: parsing and help come from them.
 *
 * A command has groups of options; each row says where its value goes in the
 * command's structure of values. A group may stand in several commands: its
 * offsets count from the group's base.
 */
#ifndef CLI_OPTION_H
#define CLI_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum cli_type {
    CLI_TEXT,       /* const char * */
    CLI_INT,        /* struct cli_int */
    CLI_SIZE,       /* struct cli_int, of bytes: 1024, 64K, 1.5GiB */
    CLI_FLAG,       /* bool; --name or --name=false */
    CLI_LIST,       /* struct cli_list; may be given several times */
    CLI_SETTING     /* struct cli_list of "key=value", the key being the option's name; without metavar: true */
};

struct cli_int {
    uint64_t value;
    bool given;
    bool word;              /* the word of the row was given in place of a number */
};

struct cli_list {
    char **items;
    size_t count;
};

struct cli_option {
    const char *name;       /* without dashes */
    char letter;            /* of the short form, or 0 */
    bool required;
    enum cli_type type;
    size_t offset;
    const char *metavar, *help;
    uint64_t least, greatest;   /* INT and SIZE; greatest 0: no limit */
    const char *words;      /* TEXT: the values allowed, "a|b|c"; INT: one word allowed in place of a number */
};

/* The last group has no title. */
struct cli_group {
    const char *title;
    const struct cli_option *options;
    size_t count, base;
};

#define CLI_COUNT(array) (sizeof(array) / sizeof *(array))
#define CLI_GROUP(heading, rows, offset_of_values) {heading, rows, CLI_COUNT(rows), offset_of_values}

/*
 * Reads argv[1 .. argc-1] into `values`, which is all zeros, and what is no option into `arguments`.
 * false: an error was printed. Required options are asked for apart, since --help excuses from them.
 */
bool cli_options_parse(const struct cli_group *groups, int argc, char **argv, void *values, struct cli_list *arguments);
/* A required option that is missing, or NULL. */
const struct cli_option *cli_options_missing(const struct cli_group *groups, const void *values);
void cli_options_free(const struct cli_group *groups, void *values);

void cli_list_add(struct cli_list *list, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_list_free(struct cli_list *list);

#endif
