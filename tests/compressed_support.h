/*
 * compressed_support.h - layers of every kind that compressed-tensors holds, and their tensors.
 */
#ifndef COMPRESSED_SUPPORT_H
#define COMPRESSED_SUPPORT_H

#include "layout_support.h"

#include "base/number.h"
#include "pack/compressed.h"

enum { TOKENS = 40 };

static const struct {
    const char *format, *recipe;
    size_t out, in;
} cases[] = {
    {"compressed-tensors", "rtn:bits=4,group_size=32", 40, 96},
    {"compressed-tensors", "rtn:bits=3,group_size=24,sym=false", 40, 72},
    {"compressed-tensors", "rtn:bits=5,group_size=0,sym=false", 33, 72},
    {"compressed-tensors", "rtn:bits=1,group_size=8", 9, 40},
    {"compressed-tensors", "rtn:bits=7,group_size=0", 5, 75},
    {"compressed-tensors", "rtn:bits=8,group_size=32,sym=false", 70, 640},
    {"compressed-tensors", "rtn:bits=8,per_tensor=true", 16, 64},
    {"compressed-tensors:w4a16", "gptq", 24, 256},
    {"compressed-tensors:w8a16", "rtn", 24, 72},
    {"compressed-tensors:w8a8", "rtn", 24, 72},
    {"compressed-tensors:w8a8", "rtn:sym=false", 24, 72},
    {"compressed-tensors", "smoothquant:act_granularity=tensor,act_static=true", 24, 72},
    {"compressed-tensors", "smoothquant:level=O2,act_bits=4,bits=5", 24, 72},
    {"compressed-tensors", "rotation:act_bits=8,act_sym=false", 24, 64},
    {"compressed-tensors:fp8", "rtn", 24, 72},
    {"compressed-tensors:fp8-dynamic", "gptq", 24, 72},
    {"compressed-tensors:fp8-block", "rtn", 200, 256},
    {"compressed-tensors:nvfp4a16", "gptq", 24, 64},
    {"compressed-tensors:nvfp4", "rtn", 24, 64},
    {"compressed-tensors:mxfp4a16", "gptq", 24, 64},
    {"compressed-tensors:mxfp4", "rtn", 24, 64},
};

static inline qnt_qlinear *layer_of(qnt_context *ctx, size_t i)
{
    float *w = random_floats(cases[i].out * cases[i].in, 5 + i, 0.05f), *x = random_tokens(TOKENS, cases[i].in, 6);
    qnt_qlinear *q;
    w[3] = -0.4f;
    assert_ok(ctx, quantize_with(ctx, cases[i].recipe, cases[i].format,
                                 qnt_matrix_f32(w, cases[i].out, cases[i].in), x, NULL, TOKENS, &q));
    free(w);
    free(x);
    return q;
}

static inline const qnt_packed_tensor *tensor(const struct packed *p, const char *name)
{
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->tensors[i].name, name) == 0)
            return &p->tensors[i];
    return NULL;
}

static inline const uint8_t *data(const struct packed *p, const char *name)
{
    assert_non_null(tensor(p, name));
    return p->buffer + tensor(p, name)->offset;
}

static inline qnt_status unpack_by(qnt_context *ctx, const struct packed *p, const struct qnti_ct_scheme *scheme,
                                   qnt_qlinear **q)
{
    const uint8_t *at[QNT_MOST_PACKED_TENSORS];
    for (size_t i = 0; i < p->count; i++)
        at[i] = p->buffer + p->tensors[i].offset;
    *q = NULL;
    return qnti_ct_unpack(ctx, "some.layer", p->tensors, at, p->count, scheme, q);
}

#endif
