/*
 * low_rank.h - the matrix of low rank that is nearest to another one.
 */
#ifndef QNTI_LOW_RANK_H
#define QNTI_LOW_RANK_H

#include "base/context.h"

/*
 * A B of at most `rank` components with the least |(E - A B) L|^2, H = L L^T: with u_j the leading left singular
 * vectors of E L, A's columns are u_j sqrt(s_j) and B's rows u_j^T E / sqrt(s_j), s_j = |u_j^T E|. Without H these are
 * U S^(1/2) and S^(1/2) V^T. Components are sorted by what they take from the error; their signs are arbitrary.
 */
struct qnti_low_rank {
    const float *e;              /* (rows, cols), finite */
    size_t rows, cols;
    const float *h;              /* (cols, cols) symmetric, positive semidefinite; NULL: the identity */
    size_t rank;                 /* at least 1, at most rows and cols */
    float *a, *b;                /* (rows, rank), (rank, cols) */
};

/*
 * To rounding where rows or columns are few; else from a Krylov space of several times the rank, which misses little.
 * What is random in it has a seed of its own: the same matrix gives the same numbers.
 */
qnt_status qnti_low_rank(qnt_context *ctx, const struct qnti_low_rank *l);

#endif
