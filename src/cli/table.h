/*
 * table.h - aligned tables of text.
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stddef.h>

struct cli_table;

/* Columns by their heads, "tensor|rows>|bytes>": those that end in > are aligned to the right. */
struct cli_table *cli_table_create(const char *heads);
/* The next cell; rows begin by themselves. */
void cli_table_cell(struct cli_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints to standard output and frees. */
void cli_table_print(struct cli_table *table);

#endif
