/*
 * fuzz_text.c - any bytes as a calibration or evaluation text: an error that says why, or ids of the vocabulary.
 *
 * The first byte chooses the kind: plain text, JSON lines, .npy of ids.
 */
#include <stdlib.h>
#include <string.h>
#include "base/context.h"
#include "text/corpus.h"
#include "text/tokenizer_private.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

enum { VOCAB = 300 };

static const char letters[] =
    "{\"decoder\": {\"type\": \"Fuse\"}, \"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \" \": 3, \"?\": 4}, "
    "\"merges\": [\"a b\"], \"unk_token\": \"?\"}}";

/* Traps where the reader let something through. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    static const char *const names[] = {"fuzz.txt", "fuzz.jsonl", "fuzz.npy"};
    qnt_context_options options = {.threads = 1};
    qnti_tokenizer *tokenizer;
    qnt_context *ctx;
    int32_t *ids;
    size_t held, count;
    if (n == 0 || qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    require(qnti_tokenizer_parse_json(ctx, "letters", letters, strlen(letters), 0, &tokenizer) == QNT_OK);
    held = qnt_context_bytes(ctx, NULL);
    if (qnti_corpus_parse(ctx, names[bytes[0] % 3], (const char *)bytes + 1, n - 1, tokenizer, VOCAB, &ids, &count) ==
        QNT_OK) {
        require(count > 0);
        for (size_t i = 0; i < count; i++)
            require(ids[i] >= 0 && ids[i] < VOCAB);
    } else {
        require(!ids && count == 0 && *qnt_context_message(ctx));
    }
    qnti_free(ctx, ids);
    require(qnt_context_bytes(ctx, NULL) == held);
    qnti_tokenizer_close(tokenizer);
    qnt_context_destroy(ctx);
    return 0;
}
