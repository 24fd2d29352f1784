/*
 * quantized.c - sources that the library itself quantized, told by `quant_format` in their files' metadata.
 *
 * One row a format that can be read back into a qlinear.
 */
#include "checkpoint/source.h"

#include <string.h>
#include "pack/native.h"

static const struct qnti_quantized_reader readers[] = {
    {"native", qnti_native_read},
};

const struct qnti_quantized_reader *qnti_quantized_reader_named(const char *format)
{
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (strcmp(readers[i].format, format) == 0)
            return &readers[i];
    return NULL;
}
