/*
 * plan.h - a plan as text.
 */
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include <stdbool.h>
#include <quant/model.h>

/* The table of tensors, those of equal blocks on one line unless `verbose`, and the totals. */
void cli_plan_print(const qnt_plan *plan, bool verbose);
/* After qnt_plan_run: what was made, and how far it is from the source. */
void cli_plan_print_result(const qnt_plan *plan, const char *output);

#endif
