/*
 * param.h - tables of parameters: the only place where a parameter is described.
 *
 * Parsing, checks, help, README and the manual come from these rows.
 */
#ifndef QNTI_PARAM_H
#define QNTI_PARAM_H

#include "base/context.h"
#include <quant/recipe.h>

enum qnti_param_type { QNTI_PARAM_INT, QNTI_PARAM_FLOAT, QNTI_PARAM_BOOL, QNTI_PARAM_ENUM };

/* An int is an int, a float a double, a bool a bool, an enum an int that counts `choices` ("full|absmax") from 0. */
struct qnti_param {
    const char *name;
    enum qnti_param_type type;
    size_t offset;             /* in the method's structure of parameters */
    double value;              /* default */
    double least, greatest;
    const char *choices;
    const char *help;
};

struct qnti_param_table {
    const struct qnti_param *rows;
    size_t count, bytes;       /* rows, size of the structure */
};

void qnti_param_defaults(const struct qnti_param_table *table, void *params);
const struct qnti_param *qnti_param_find(const struct qnti_param_table *table, const char *name);
/* Checks type and range; `where` names the method in messages. */
qnt_status qnti_param_set(qnt_context *ctx, const char *where, const struct qnti_param *row, const char *value,
                          void *params);
/* The value as a number: a bool is 0 or 1, an enum its place in the choices. */
double qnti_param_number(const struct qnti_param *row, const void *params);
/* The value as qnti_param_set reads it. */
void qnti_param_print(const struct qnti_param *row, const void *params, char *out, size_t size);
void qnti_param_describe(const struct qnti_param *row, qnt_parameter_info *info);
/* Number of single edits from a to b, for suggestions. */
size_t qnti_edit_distance(const char *a, const char *b);

#endif
