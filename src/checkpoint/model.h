/*
 * model.h - the public handle of a model: its checkpoint and, once it was asked for, its tokenizer.
 */
#ifndef QNTI_MODEL_H
#define QNTI_MODEL_H

#include "checkpoint/checkpoint.h"
#include <quant/model.h>

struct qnt_model {
    struct qnti_checkpoint *checkpoint;
    qnti_tokenizer *tokenizer;
};

/* The tokenizer, opened once; NULL where the model has none. */
qnt_status qnti_model_tokenizer(qnt_model *model, const qnti_tokenizer **tokenizer);
/* BOS of the model's tokenizer, -1 where there is none; whether the tokenizer puts it in front. */
int64_t qnti_model_bos(const qnti_tokenizer *tokenizer, bool *added);

#endif
