/*
 * format.c - the table of checkpoint formats.
 *
 * GGUF's numbers are those of general.file_type; which tensor gets which type
 * in such a file is decided in gguf_types.c.
 */
#include <string.h>
#include <strings.h>
#include "base/buffer.h"
#include "export/gguf.h"

#define GGUF(type, title, file_type)                                                                                   \
    {                                                                                                                  \
        "gguf:" type, title, false, "gguf:" type, file_type, qnti_gguf_assign, qnti_gguf_export_bytes,                 \
            qnti_gguf_export_write                                                                                     \
    }

const struct qnti_format qnti_formats[] = {
    {"native", "folder of safetensors with every part of every layer, lossless", true, "native", 0, qnti_native_assign,
     qnti_native_bytes, qnti_native_folder_write},
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
