/*
 * compensate.h - a low-rank part beside the codes of a filled layer, for methods that correct it so (LoRC).
 */
#ifndef QNTI_COMPENSATE_H
#define QNTI_COMPENSATE_H

#include "method/method.h"

enum { QNTI_RANK_FLOATS, QNTI_RANK_EIGHT };     /* rank_bits */
enum { QNTI_RANK_PLAIN, QNTI_RANK_HESSIAN };    /* rank_weight */

struct qnti_compensation {
    int rank, bits, weight;
};

#define QNTI_COMPENSATION_ROWS(type, member, usual, least)                                                             \
    {"rank", QNTI_PARAM_INT, offsetof(type, member.rank), usual, least, 1 << 16, NULL,                                 \
     "components of the low-rank part that makes up for the errors" QNTI_RANK_NONE_##least},                           \
        {"rank_bits", QNTI_PARAM_ENUM, offsetof(type, member.bits), 0, 0, 1, "16|8",                                   \
         "its factors: floats, or 8 bits with a scale for each component"},                                            \
    {                                                                                                                  \
        "rank_weight", QNTI_PARAM_ENUM, offsetof(type, member.weight), 0, 0, 1, "plain|hessian",                       \
            "errors that it makes least: of the weights, or of the output by the Hessian"                              \
    }
#define QNTI_RANK_NONE_0 "; 0: none"
#define QNTI_RANK_NONE_1 ""

/*
 * Fills the layer's low-rank part, in place of one that it has, with what is nearest to its weight's errors. Its rank
 * is at most the layer's sides. Without a Hessian, where it should count, with a warning that all errors count alike.
 */
qnt_status qnti_compensate(struct qnti_job *job, const struct qnti_compensation *p, qnt_qlinear *q);
/* Bits of such a part. */
double qnti_compensation_bits(const struct qnti_job *job, const struct qnti_compensation *p, size_t out, size_t in);

#endif
