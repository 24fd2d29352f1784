/*
 * fuzz_safetensors.c - any bytes as a safetensors file: it is refused, or everything it says can be read.
 */
#include <stdlib.h>
#include "file/safetensors.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

/* Traps where the reader let something through. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

static void walk(const struct qnti_safetensors *file, const unsigned char *end)
{
    const unsigned char *at = file->count ? file->tensors[0].data : NULL;
    for (size_t i = 0; i < file->count; i++) {
        const struct qnti_tensor *t = &file->tensors[i];
        require(qnti_safetensors_find(file, t->name) == t && t->rank <= QNTI_MAX_RANK);
        require(t->data == at);
        at += t->bytes;
    }
    require(file->count == 0 || at == end);
    for (size_t i = 0; i < file->metadata_count; i++)
        require(qnti_safetensors_metadata(file, file->metadata[2 * i]) == file->metadata[2 * i + 1]);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    qnt_context_options options = {.threads = 1};
    struct qnti_safetensors *file;
    qnt_context *ctx;
    size_t held;
    if (qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    held = qnt_context_bytes(ctx, NULL);
    if (qnti_safetensors_open_memory(ctx, "fuzz", bytes, n, &file) == QNT_OK)
        walk(file, bytes + n);
    else
        require(!file && *qnt_context_message(ctx));
    qnti_safetensors_close(file);
    require(qnt_context_bytes(ctx, NULL) == held);
    qnt_context_destroy(ctx);
    return 0;
}
