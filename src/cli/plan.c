/*
 * plan.c - a plan as a table and totals.
 *
 * Lines that differ only in the number of their block become one, with ranges
 * in its place: model.layers.0-3,5.mlp.up_proj.weight.
 */
#include "cli/plan.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/table.h"

struct row {
    qnt_plan_line line;              /* of its first tensor; bytes of all */
    size_t number, digits;           /* place and length of the block's number in the name; digits 0: none */
    struct cli_list ranges;          /* "0-3", all but the last */
    unsigned long first, last;       /* the last range */
    size_t tensors;
};

struct rows {
    struct row *items;
    size_t count;
};

/* The first part between dots that is a number. */
static void find_number(const char *name, struct row *row)
{
    for (const char *part = name; *part; part += strcspn(part, "."), part += *part == '.') {
        size_t n = strspn(part, "0123456789");
        if (n == 0 || n > 9 || part[n] != '.')
            continue;
        row->number = (size_t)(part - name);
        row->digits = n;
        row->first = row->last = strtoul(part, NULL, 10);
        return;
    }
}

static bool same_but_for_number(const struct row *a, const struct row *b)
{
    const qnt_plan_line *x = &a->line, *y = &b->line;
    return a->digits && b->digits && a->number == b->number && strncmp(x->tensor, y->tensor, a->number) == 0 &&
           strcmp(x->tensor + a->number + a->digits, y->tensor + b->number + b->digits) == 0 &&
           strcmp(x->type, y->type) == 0 && strcmp(x->recipe, y->recipe) == 0 && strcmp(x->note, y->note) == 0 &&
           x->rows == y->rows && x->cols == y->cols;
}

static void end_range(struct row *row)
{
    if (row->first == row->last)
        cli_list_add(&row->ranges, "%lu", row->first);
    else
        cli_list_add(&row->ranges, "%lu-%lu", row->first, row->last);
}

static void join(struct row *row, const struct row *other)
{
    row->tensors++;
    row->line.bytes += other->line.bytes;
    if (other->first != row->last + 1) {
        end_range(row);
        row->first = other->first;
    }
    row->last = other->last;
}

static void add_line(struct rows *rows, const qnt_plan_line *line, bool verbose)
{
    struct row row = {.line = *line, .tensors = 1};
    if (!verbose)
        find_number(line->tensor, &row);
    for (size_t i = rows->count; i-- > 0;)
        if (same_but_for_number(&rows->items[i], &row)) {
            join(&rows->items[i], &row);
            return;
        }
    rows->items = cli_grow(rows->items, (rows->count + 1) * sizeof row);
    rows->items[rows->count++] = row;
}

/* The name with the ranges in place of its number; to be freed. */
static char *name_of(struct row *row)
{
    const char *name = row->line.tensor;
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        cli_no_memory();
    if (row->digits) {
        end_range(row);
        fprintf(out, "%.*s", (int)row->number, name);
        for (size_t i = 0; i < row->ranges.count; i++)
            fprintf(out, "%s%s", i ? "," : "", row->ranges.items[i]);
    }
    fputs(row->digits ? name + row->number + row->digits : name, out);
    if (fclose(out) != 0)
        cli_no_memory();
    return text;
}

static void print_row(struct cli_table *table, struct row *row)
{
    char *name = name_of(row), size[32];
    cli_table_cell(table, "%s", name);
    cli_table_cell(table, "%zu", row->tensors);
    cli_table_cell(table, "%zu x %zu", row->line.rows, row->line.cols);
    cli_table_cell(table, "%s", row->line.type);
    cli_table_cell(table, "%s", cli_size_text(row->line.bytes, size));
    cli_table_cell(table, "%s%s%s", row->line.recipe, *row->line.recipe && *row->line.note ? "; " : "",
                   row->line.note);
    free(name);
}

static void print_tensors(const qnt_plan *plan, bool verbose)
{
    struct cli_table *table = cli_table_create("tensor|count>|shape>|type|bytes>|recipe");
    struct rows rows = {0};
    qnt_plan_line line;
    for (size_t i = 0; qnt_plan_get_line(plan, i, &line); i++)
        add_line(&rows, &line, verbose);
    for (size_t i = 0; i < rows.count; i++) {
        print_row(table, &rows.items[i]);
        cli_list_free(&rows.items[i].ranges);
    }
    free(rows.items);
    cli_table_print(table);
}

static void print_size(const char *label, uint64_t bytes)
{
    char size[32];
    printf("%-16s %s\n", label, cli_size_text(bytes, size));
}

static bool said(const char *text)
{
    return text && *text;
}

/* A conversion quantizes nothing. */
static void print_bits(double bits)
{
    if (bits > 0)
        printf("%-16s %.4f\n", "bits per weight", bits);
}

/* What it takes, and what a bound can be. */
static void print_memory(const qnt_plan_totals *t)
{
    char least[32], disk[32];
    print_size("memory", t->memory_bytes);
    if (t->least_memory_bytes < t->memory_bytes)
        printf("%-16s %s at least (--max-ram), activations in files of %s\n", "",
               cli_size_text(t->least_memory_bytes, least), cli_size_text(t->spill_bytes, disk));
}

/* Of the output, later; quant inspect --memory says more. */
static void print_run_time(const qnt_plan_totals *t)
{
    char all[32], kv[32];
    printf("%-16s %s with %s of keys and values at %zu tokens\n", "to run it",
           cli_size_text(t->output_bytes + t->kv_bytes + t->activation_bytes, all), cli_size_text(t->kv_bytes, kv),
           t->context);
}

void cli_plan_print(const qnt_plan *plan, bool verbose)
{
    qnt_plan_totals t;
    qnt_plan_get_totals(plan, &t);
    print_tensors(plan, verbose);
    printf("\n%-16s %s\n", "recipe", said(t.recipe) ? t.recipe : "none");
    if (said(t.stages))
        printf("%-16s %s\n", "stages", t.stages);
    printf("%-16s %s\n", "format", t.format);
    if (said(t.calibration) && !t.windows)
        printf("%-16s %s\n", "calibration", t.calibration);
    else if (said(t.calibration))
        printf("%-16s %s: %zu windows of %zu tokens, %zu in all, %d %s\n", "calibration", t.calibration, t.windows,
               t.seqlen, t.tokens, t.passes, t.passes == 1 ? "pass" : "passes");
    print_bits(t.bits_per_weight);
    print_size("source", t.source_bytes);
    print_size("output", t.output_bytes);
    print_memory(&t);
    print_size("disk", t.disk_bytes);
    print_run_time(&t);
    printf("%-16s %.3g Gflop\n", "work", t.flops * 1e-9);
}

/* The end check, where there was one. */
static void print_verification(const qnt_plan_outcome *o)
{
    if (o->verified.windows)
        printf("%-16s perplexity %.4f, of the source %.4f; KL divergence %.6f, same first choice %.2f %% "
               "(%zu windows)\n",
               "end check", o->verified.perplexity, o->verified.against_perplexity, o->verified.mean_kl,
               100 * o->verified.top1, o->verified.windows);
}

void cli_plan_print_result(const qnt_plan *plan, const char *output)
{
    qnt_plan_totals t;
    qnt_plan_outcome o;
    qnt_plan_get_totals(plan, &t);
    qnt_plan_get_outcome(plan, &o);
    printf("%-16s %s%s\n", "written", output, o.already ? ", before and by the same plan: nothing was left to do" : "");
    printf("%-16s %s\n", "format", t.format);
    printf("%-16s %s\n", "recipe", said(t.recipe) ? t.recipe : "none");
    print_bits(t.bits_per_weight);
    print_size("source", t.source_bytes);
    print_size("output", t.output_bytes);
    if (o.resumed_blocks)
        printf("%-16s %zu of %zu blocks were finished before\n", "resumed", o.resumed_blocks, o.blocks);
    print_verification(&o);
}
