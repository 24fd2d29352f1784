/*
 * fuzz_gguf.c - any bytes as a GGUF file: it is refused, or everything it says can be read.
 */
#include <stdlib.h>
#include "container/gguf.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

/* Traps where the reader let something through. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

/* Sixteen types with blocks of 1 to 256 elements. */
static bool some_types(uint32_t type, size_t *block_elements, size_t *block_bytes)
{
    *block_elements = (size_t)1 << (type % 9);
    *block_bytes = 1 + type * 13;
    return type < 16;
}

static void ask(const struct qnti_gguf *file, const char *key)
{
    size_t size, bytes, nuls = 0;
    float number;
    bool yes;
    const char *string;
    qnti_gguf_size(file, key, &size);
    qnti_gguf_float(file, key, &number);
    qnti_gguf_bool(file, key, &yes);
    if (qnti_gguf_string(file, key, &string, &bytes) == QNT_OK && string)
        for (size_t i = 0; i < bytes; i++) /* touches each byte */
            nuls += string[i] == 0;
    require(nuls <= SIZE_MAX / 2);
}

static void walk(const struct qnti_gguf *file, const unsigned char *end)
{
    for (size_t i = 0; i < file->value_count; i++) {
        const struct qnti_gguf_value *value = &file->values[i];
        const unsigned char *cursor = NULL;
        const char *string;
        size_t bytes, count = 0;
        require(qnti_gguf_find(file, value->key) == value && value->bytes <= (size_t)(end - value->data));
        while (qnti_gguf_next_string(value, &cursor, &string, &bytes))
            count++;
        require(value->type != QNTI_GGUF_STRING || count == value->count);
        ask(file, value->key);
    }
    for (size_t i = 0; i < file->tensor_count; i++) {
        const struct qnti_gguf_tensor *t = &file->tensors[i];
        require(qnti_gguf_find_tensor(file, t->name) == t && t->rank <= 4);
        require(t->data <= end && t->bytes <= (size_t)(end - t->data));
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    qnt_context_options options = {.threads = 1};
    struct qnti_gguf *file;
    qnt_context *ctx;
    size_t held;
    if (qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    held = qnt_context_bytes(ctx, NULL);
    if (qnti_gguf_open_memory(ctx, "fuzz", bytes, n, some_types, &file) == QNT_OK)
        walk(file, bytes + n);
    else
        require(!file && *qnt_context_message(ctx));
    qnti_gguf_close(file);
    require(qnt_context_bytes(ctx, NULL) == held);
    qnt_context_destroy(ctx);
    return 0;
}
