/*
 * fuzz_packed.c - any bytes as the packed tensors of a layer: they are refused, or the layer packs to the same values.
 *
 *   format | count | count * (name | dtype | rank | 16 bits each: rows, columns, offset) | the buffer
 */
#include <stdlib.h>
#include <string.h>
#include "base/number.h"
#include "pack/layout.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

enum { DESCRIPTION = 9, MOST_WEIGHTS = 1 << 16 };

/* Traps where the reader let something through. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

static size_t describe(const unsigned char *bytes, qnt_packed_tensor *t)
{
    static const char *const names[] = {
        "qweight", "qzeros", "scales", "g_idx", "bias", "weight", "weight.absmax", "weight.quant_map",
        "weight.nested_absmax", "weight.nested_quant_map", "weight.quant_state.bitsandbytes__nf4", "SCB",
        "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale", "input_scale",
        "input_zero_point", "input_global_scale"};
    static const qnt_dtype types[] = {QNT_I32, QNT_F16, QNT_F32, QNT_BF16, QNT_U8, QNT_I8, QNT_I64, QNT_F8_E4M3};
    enum { NAMES = sizeof names / sizeof *names, TYPES = sizeof types / sizeof *types };
    *t = (qnt_packed_tensor){.name = names[bytes[0] % NAMES], .dtype = types[bytes[1] % TYPES], .rank = bytes[2] % 4};
    t->shape[0] = bytes[3] | (size_t)bytes[4] << 8;
    t->shape[1] = bytes[5] | (size_t)bytes[6] << 8;
    t->offset = bytes[7] | (size_t)bytes[8] << 8;
    t->bytes = qnti_dtype_bytes(t->dtype) * t->shape[0] * (t->rank == 2 ? t->shape[1] : 1);
    return DESCRIPTION;
}

static void use(const qnt_qlinear *q, const char *format)
{
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    size_t count, bytes, n = qnt_qlinear_out(q) * qnt_qlinear_in(q);
    float *w, *v;
    void *buffer;
    qnt_qlinear *back;
    if (n > MOST_WEIGHTS || qnt_packed_tensors(q, format, tensors, &count, &bytes) != QNT_OK)
        return; /* scales of a type that is read but not written */
    w = calloc(n, sizeof *w);
    v = calloc(n, sizeof *v);
    buffer = malloc(bytes);
    require(w && v && buffer);
    require(qnt_pack(q, format, buffer, bytes) == QNT_OK);
    require(qnt_unpack(q->ctx, format, "l", tensors, count, buffer, bytes, &back) == QNT_OK);
    require(qnt_dequantize(q, w) == QNT_OK && qnt_dequantize(back, v) == QNT_OK);
    for (size_t i = 0; i < n; i++) /* but for what a NaN carries */
        require(qnti_bits(w[i]) == qnti_bits(v[i]) || (w[i] != w[i] && v[i] != v[i]));
    qnt_qlinear_destroy(back);
    free(w);
    free(v);
    free(buffer);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    static const char *const formats[] = {"gptq:v1", "gptq:v2", "awq", "gguf:q4_0", "gguf:f16", "gptq", "bnb",
                                          "compressed-tensors", "compressed-tensors:w8a8", "compressed-tensors:fp8",
                                          "compressed-tensors:fp8-dynamic", "compressed-tensors:fp8-block",
                                          "compressed-tensors:nvfp4", "compressed-tensors:mxfp4"};
    enum { FORMATS = sizeof formats / sizeof *formats };
    qnt_context_options options = {.threads = 1};
    qnt_packed_tensor tensors[QNT_MOST_PACKED_TENSORS];
    const char *format;
    qnt_context *ctx;
    qnt_qlinear *q;
    size_t held, count, at = 2;
    if (n < 2 || qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    format = formats[bytes[0] % FORMATS];
    count = bytes[1] % QNT_MOST_PACKED_TENSORS;
    held = qnt_context_bytes(ctx, NULL);
    if (n >= at + count * DESCRIPTION) {
        for (size_t i = 0; i < count; i++)
            at += describe(bytes + at, &tensors[i]);
        if (qnt_unpack(ctx, format, "l", tensors, count, bytes + at, n - at, &q) == QNT_OK)
            use(q, format);
        else
            require(!q && *qnt_context_message(ctx));
        qnt_qlinear_destroy(q);
    }
    require(qnt_context_bytes(ctx, NULL) == held);
    qnt_context_destroy(ctx);
    return 0;
}
