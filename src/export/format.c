/*
 * format.c - the table of checkpoint formats.
 *
 * GGUF's numbers are those of general.file_type; which tensor gets which type
 * in such a file is decided in gguf_types.c.
 */
#include <string.h>
#include <strings.h>
#include "base/buffer.h"
#include "export/folder.h"
#include "export/gguf.h"

#define GGUF(type, title, file_type)                                                                                   \
    {                                                                                                                  \
        "gguf:" type, title, false, NULL, "gguf:" type, file_type, qnti_gguf_assign, qnti_gguf_export_bytes,           \
            qnti_gguf_export_write                                                                                     \
    }

#define FOLDER(name, title, rules)                                                                                     \
    {                                                                                                                  \
        name, title, true, rules, name, 0, qnti_folder_assign, qnti_folder_bytes, qnti_folder_write                    \
    }

#define COMPRESSED(variant, title, rules)                                                                              \
    FOLDER("compressed-tensors" variant, "compressed-tensors folder: " title, rules)

const struct qnti_format qnti_formats[] = {
    FOLDER("native", "folder of safetensors with every part of every layer, lossless", &qnti_native_rules),
    FOLDER("gptq", "GPTQ folder, 2, 3, 4 or 8 bits; version 1 if symmetric, else 2", &qnti_gptq_rules),
    FOLDER("gptq:v1", "GPTQ folder, version 1 (no zero of 0)", &qnti_gptq_rules),
    FOLDER("gptq:v2", "GPTQ folder, version 2", &qnti_gptq_rules),
    FOLDER("awq", "AWQ folder, 4 bits in GEMM order", &qnti_awq_rules),
    FOLDER("bnb", "bitsandbytes folder: NF4, FP4, or 8 bits (LLM.int8())", &qnti_bnb_rules),
    COMPRESSED("", "integers of 1 to 8 bits, W8A8 where inputs are quantized", &qnti_ct_rules),
    COMPRESSED(":w4a16", "4 bits, groups of 128", &qnti_ct_rules),
    COMPRESSED(":w8a16", "8 bits, rows", &qnti_ct_rules),
    COMPRESSED(":w8a8", "8 bits of weights and inputs", &qnti_ct_rules),
    COMPRESSED(":fp8", "FP8, static inputs", &qnti_ct_rules),
    COMPRESSED(":fp8-dynamic", "FP8, inputs by tokens", &qnti_ct_rules),
    COMPRESSED(":fp8-block", "FP8 in blocks of 128 x 128", &qnti_ct_rules),
    COMPRESSED(":nvfp4a16", "NVFP4 weights", &qnti_ct_fp4_rules),
    COMPRESSED(":nvfp4", "NVFP4 weights and inputs", &qnti_ct_fp4_rules),
    COMPRESSED(":mxfp4a16", "MXFP4 weights", &qnti_ct_fp4_rules),
    COMPRESSED(":mxfp4", "MXFP4 weights and inputs", &qnti_ct_fp4_rules),
    GGUF("f32", "GGUF, 32-bit floats", 0),
    GGUF("f16", "GGUF, 16-bit floats", 1),
    GGUF("bf16", "GGUF, bfloat16", 32),
    GGUF("q8_0", "GGUF, 8 bits, groups of 32", 7),
    GGUF("q4_0", "GGUF, 4 bits, groups of 32", 2),
    GGUF("q4_1", "GGUF, 4 bits, groups of 32 with minimum", 3),
    GGUF("q5_0", "GGUF, 5 bits, groups of 32", 8),
    GGUF("q5_1", "GGUF, 5 bits, groups of 32 with minimum", 9),
    GGUF("q6_k", "GGUF, 6 bits, groups of 16 in blocks of 256", 18),
};
const size_t qnti_format_count = sizeof qnti_formats / sizeof *qnti_formats;

const struct qnti_format *qnti_format_find(qnt_context *ctx, const char *name)
{
    struct qnti_buffer list = {0};
    for (size_t i = 0; i < qnti_format_count; i++)
        if (strcasecmp(qnti_formats[i].name, name) == 0)
            return &qnti_formats[i];
    for (size_t i = 0; i < qnti_format_count; i++)
        if (qnti_buffer_print(ctx, &list, "%s%s", i ? ", " : "", qnti_formats[i].name) != QNT_OK)
            break;
    qnti_fail(ctx, QNT_NOT_FOUND, "unknown format \"%.100s\"; there are %s", name, list.data ? list.data : "others");
    qnti_buffer_free(ctx, &list);
    return NULL;
}
