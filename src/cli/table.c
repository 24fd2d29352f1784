/*
 * table.c - aligned tables of text. Control characters, which names from files may have, are shown as '?'.
 */
#include "cli/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"

enum { MOST_COLUMNS = 16, GAP = 2 };

struct cli_table {
    struct cli_list cells;               /* row by row, the heads first */
    size_t columns;
    bool right[MOST_COLUMNS];
};

struct cli_table *cli_table_create(const char *heads)
{
    struct cli_table *t = cli_new(1, sizeof *t);
    while (*heads && t->columns < MOST_COLUMNS) {
        size_t n = strcspn(heads, "|");
        bool right = n && heads[n - 1] == '>';
        t->right[t->columns++] = right;
        cli_list_add(&t->cells, "%.*s", (int)(n - right), heads);
        heads += n + (heads[n] == '|');
    }
    return t;
}

void cli_table_cell(struct cli_table *t, const char *format, ...)
{
    va_list args;
    char *text;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        cli_no_memory();
    va_end(args);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    cli_list_add(&t->cells, "%s", text);
    free(text);
}

/* Characters, not bytes: UTF-8's continuation bytes do not count. */
static size_t width_of(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

void cli_table_print(struct cli_table *t)
{
    size_t widths[MOST_COLUMNS] = {0};
    for (size_t i = 0; i < t->cells.count; i++) {
        size_t width = width_of(t->cells.items[i]);
        widths[i % t->columns] = width > widths[i % t->columns] ? width : widths[i % t->columns];
    }
    for (size_t i = 0, blanks = 0; i < t->cells.count; i++) { /* blanks wait for text: no line ends in them */
        size_t column = i % t->columns, width = width_of(t->cells.items[i]), fill = widths[column] - width;
        size_t before = t->right[column] ? fill : 0;
        if (width) {
            printf("%*s%s", (int)(blanks + before), "", t->cells.items[i]);
            blanks = before = 0;
        }
        blanks += GAP + before + (t->right[column] ? 0 : fill);
        if (column + 1 == t->columns) {
            putchar('\n');
            blanks = 0;
        }
    }
    cli_list_free(&t->cells);
    free(t);
}
