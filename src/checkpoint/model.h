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
    bool checked;                  /* weights were read, all are finite */
    uint64_t weights_hash;         /* of the weights, once they are checked */
};

/* The tokenizer, opened once; NULL where the model has none. */
qnt_status qnti_model_tokenizer(qnt_model *model, const qnti_tokenizer **tokenizer);
/* All weights are read once: finite or QNT_NON_FINITE; their hash. */
qnt_status qnti_model_check(qnt_model *model);
/* BOS of the model's tokenizer, -1 where there is none; whether the tokenizer puts it in front. */
int64_t qnti_model_bos(const qnti_tokenizer *tokenizer, bool *added);

#endif
