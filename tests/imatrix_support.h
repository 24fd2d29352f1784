/*
 * imatrix_support.h - an entry of an importance matrix.
 */
#ifndef IMATRIX_SUPPORT_H
#define IMATRIX_SUPPORT_H

#include "layer_support.h"
#include "container/imatrix.h"

static inline void add(struct qnti_imatrix *m, const char *name, size_t in, size_t matrices, float first, float count)
{
    float sums[64], counts[4];
    assert_true(in * matrices <= 64 && matrices <= 4);
    for (size_t i = 0; i < in * matrices; i++)
        sums[i] = first + (float)i;
    for (size_t i = 0; i < matrices; i++)
        counts[i] = count + (float)i;
    assert_int_equal(qnti_imatrix_add(m, name, in, matrices, sums, counts), QNT_OK);
}

#endif
