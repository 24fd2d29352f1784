/*
 * text.h - windows of ids at hand, one model against another.
 */
#ifndef QNTI_EVAL_TEXT_H
#define QNTI_EVAL_TEXT_H

#include <quant/model.h>

/* ids [windows][tokens], every token but the first of each scored. */
qnt_status qnti_compare_windows(qnt_model *model, qnt_model *against, const int32_t *ids, size_t windows,
                                size_t tokens, qnt_progress_fn progress, void *user, qnt_eval_result *result);

#endif
