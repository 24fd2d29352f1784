/*
 * fuzz_tokenizer.c - any bytes as a tokenizer file: an error or a tokenizer that works, never a crash.
 *
 * The first byte chooses the format; what follows it is the file. A file that opens encodes a text, its own bytes, and
 * goes through the vocabulary of a GGUF. Nothing is written to disk.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include "text/tokenizer_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(qnt_context *ctx, const qnti_tokenizer *t, const char *text, size_t bytes)
{
    int32_t *ids = NULL;
    char *back = NULL;
    size_t count, back_bytes;
    if (qnti_tokenizer_encode(t, text, bytes, true, bytes & 1, &ids, &count) == QNT_OK &&
        qnti_tokenizer_decode(t, ids, count, bytes & 2, &back, &back_bytes) != QNT_OK &&
        qnt_context_message(ctx)[0] == 0)
        abort(); /* a failure says why */
    qnti_free(ctx, back);
    qnti_free(ctx, ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qnt_context_options options = {.threads = 1};
    qnti_tokenizer *t = NULL, *gguf = NULL;
    qnt_context *ctx;
    if (size == 0 || qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    if (data[0] & 1)
        qnti_tokenizer_parse_json(ctx, "input", (const char *)data + 1, size - 1, data[0] >> 1, &t);
    else
        qnti_tokenizer_parse_model(ctx, "input", (const char *)data + 1, size - 1, data[0] >> 1, &t);
    if (t) {
        use(ctx, t, "Hello  world \xC3\xA9\xFF 12", 20);
        use(ctx, t, (const char *)data, size);
        qnti_tokenizer_from_vocabulary(ctx, qnti_tokenizer_vocabulary(t), &gguf);
    }
    if (gguf)
        use(ctx, gguf, (const char *)data, size);
    qnti_tokenizer_close(gguf);
    qnti_tokenizer_close(t);
    qnt_context_destroy(ctx);
    return 0;
}
