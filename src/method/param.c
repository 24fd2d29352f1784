/*
 * param.c - defaults, parsing and description of parameters from their tables.
 */
#include "method/param.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/number.h"

static void store(const struct qnti_param *row, double value, void *params)
{
    char *at = (char *)params + row->offset;
    switch (row->type) {
    case QNTI_PARAM_INT:
    case QNTI_PARAM_ENUM:
        *(int *)(void *)at = (int)value;
        return;
    case QNTI_PARAM_FLOAT:
        *(double *)(void *)at = value;
        return;
    case QNTI_PARAM_BOOL:
        *(bool *)(void *)at = value != 0;
        return;
    }
}

void qnti_param_defaults(const struct qnti_param_table *table, void *params)
{
    memset(params, 0, table->bytes);
    for (size_t i = 0; i < table->count; i++)
        store(&table->rows[i], table->rows[i].value, params);
}

const struct qnti_param *qnti_param_find(const struct qnti_param_table *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->rows[i].name, name) == 0)
            return &table->rows[i];
    return NULL;
}

/* The choice's number, or -1; a NULL value prints choice `number` into `out` instead. */
static int choice(const char *choices, const char *value, int number, char *out, size_t size)
{
    for (int i = 0;; i++) {
        size_t n = strcspn(choices, "|");
        if (value ? strlen(value) == n && strncmp(choices, value, n) == 0 : i == number) {
            if (out)
                snprintf(out, size, "%.*s", (int)n, choices);
            return i;
        }
        if (choices[n] == 0)
            return -1;
        choices += n + 1;
    }
}

static bool read_value(const struct qnti_param *row, const char *text, double *value)
{
    switch (row->type) {
    case QNTI_PARAM_BOOL:
        *value = strcmp(text, "true") == 0;
        return *value != 0 || strcmp(text, "false") == 0;
    case QNTI_PARAM_ENUM:
        *value = choice(row->choices, text, 0, NULL, 0);
        return *value >= 0;
    case QNTI_PARAM_INT:
        return qnti_read_decimal(text, value) && *value == floor(*value) && strpbrk(text, ".eExXpPnN") == NULL;
    case QNTI_PARAM_FLOAT:
        if (strcmp(text, "inf") == 0 && isinf(row->greatest)) {
            *value = INFINITY;
            return true;
        }
        return qnti_read_decimal(text, value) && strpbrk(text, "xXnN") == NULL;
    }
    return false;
}

static const char *const type_names[] = {"int", "float", "bool", "enum"};

static void print_range(const struct qnti_param *row, char *out, size_t size)
{
    if (row->type == QNTI_PARAM_BOOL)
        snprintf(out, size, "true, false");
    else if (row->type == QNTI_PARAM_ENUM)
        snprintf(out, size, "%s", row->choices);
    else if (isinf(row->greatest))
        snprintf(out, size, ">= %.9g, inf", row->least);
    else
        snprintf(out, size, "%.9g .. %.9g", row->least, row->greatest);
}

qnt_status qnti_param_set(qnt_context *ctx, const char *where, const struct qnti_param *row, const char *text,
                          void *params)
{
    char range[64];
    double value;
    print_range(row, range, sizeof range);
    if (!read_value(row, text, &value))
        return qnti_fail(ctx, QNT_INVALID, "%s: %s=%s is not of type %s (%s)", where, row->name, text,
                         type_names[row->type], range);
    if (row->type != QNTI_PARAM_BOOL && row->type != QNTI_PARAM_ENUM &&
        !(value >= row->least && value <= row->greatest))
        return qnti_fail(ctx, QNT_INVALID, "%s: %s=%s is out of range (%s)", where, row->name, text, range);
    store(row, value, params);
    return QNT_OK;
}

double qnti_param_number(const struct qnti_param *row, const void *params)
{
    const char *at = (const char *)params + row->offset;
    switch (row->type) {
    case QNTI_PARAM_INT:
    case QNTI_PARAM_ENUM:
        return *(const int *)(const void *)at;
    case QNTI_PARAM_FLOAT:
        return *(const double *)(const void *)at;
    case QNTI_PARAM_BOOL:
        return *(const bool *)(const void *)at;
    }
    return 0;
}

static void print_value(const struct qnti_param *row, double value, char *out, size_t size)
{
    if (row->type == QNTI_PARAM_BOOL) {
        snprintf(out, size, "%s", value != 0 ? "true" : "false");
    } else if (row->type == QNTI_PARAM_ENUM) {
        choice(row->choices, NULL, (int)value, out, size);
    } else {
        snprintf(out, size, "%.10g", value);
        qnti_exchange_point(out, false);
    }
}

void qnti_param_print(const struct qnti_param *row, const void *params, char *out, size_t size)
{
    print_value(row, qnti_param_number(row, params), out, size);
}

void qnti_param_describe(const struct qnti_param *row, qnt_parameter_info *info)
{
    info->name = row->name;
    info->help = row->help;
    info->type = type_names[row->type];
    print_range(row, info->range, sizeof info->range);
    print_value(row, row->value, info->default_value, sizeof info->default_value);
}

size_t qnti_edit_distance(const char *a, const char *b)
{
    enum { LONGEST = 64 };
    size_t line[LONGEST + 1], n = strlen(b);
    if (n > LONGEST)
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        line[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t diagonal = line[0];
        line[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t replaced = diagonal + (*a != b[j - 1]);
            diagonal = line[j];
            line[j] = qnti_min(qnti_min(line[j], line[j - 1]) + 1, replaced);
        }
    }
    return line[n];
}
