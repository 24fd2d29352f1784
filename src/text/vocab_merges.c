/*
 * vocab_merges.c - vocab.json and merges.txt, the byte-level BPE of GPT-2 before there was tokenizer.json.
 *
 * The pair says nothing but vocabulary and merges; what goes without saying is GPT-2's: its expression, bytes as
 * letters, nothing put around a text (tokenizer_config.json may say otherwise). So it is read as the tokenizer.json
 * that would say the same.
 */
#include <string.h>
#include "container/json.h"
#include "file/output.h"
#include "text/tokenizer_private.h"

static qnt_status out_of_memory(qnt_context *ctx)
{
    return qnti_fail(ctx, QNT_NO_MEMORY, "out of memory");
}

/* Lines "left right" behind a first one of comment. */
static qnt_status read_lines(qnt_context *ctx, const char *text, size_t bytes, json_t *merges)
{
    const char *end = text + bytes;
    for (const char *line = text, *next; line < end; line = next) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t n = newline ? (size_t)(newline - line) : (size_t)(end - line);
        next = line + n + (newline != NULL);
        n -= n && line[n - 1] == '\r';
        if (!n || (line == text && n > 8 && memcmp(line, "#version", 8) == 0))
            continue;
        if (json_array_append_new(merges, json_stringn(line, n)) != 0)
            return qnti_fail(ctx, QNT_BAD_DATA, "merges.txt: merge %zu is not UTF-8", json_array_size(merges));
    }
    return QNT_OK;
}

static qnt_status read_merges(qnt_context *ctx, const char *path, json_t *merges)
{
    qnt_status status;
    size_t bytes;
    char *text;
    QNT_TRY(qnti_read_file(ctx, path, QNTI_MAX_TOKENIZER_BYTES, &text, &bytes));
    status = read_lines(ctx, text, bytes, merges);
    qnti_free(ctx, text);
    return status;
}

/* Takes vocabulary and merges. */
static json_t *as_tokenizer(json_t *vocab, json_t *merges, bool prefix)
{
    return json_pack("{s:{s:s,s:o,s:o},s:{s:s,s:b,s:b},s:{s:s}}", "model", "type", "BPE", "vocab", vocab, "merges",
                     merges, "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", prefix, "use_regex", true,
                     "decoder", "type", "ByteLevel");
}

qnt_status qnti_tokenizer_read_pair(qnt_context *ctx, const char *vocab_path, const char *merges_path, bool prefix,
                                    size_t vocab_size, qnti_tokenizer **tokenizer)
{
    json_t *vocab = NULL, *merges = json_array(), *root;
    qnt_status status;
    *tokenizer = NULL;
    if (!merges)
        return out_of_memory(ctx);
    QNT_CHECK(read_merges(ctx, merges_path, merges));
    QNT_CHECK(qnti_json_load(ctx, vocab_path, &vocab));
    root = as_tokenizer(vocab, merges, prefix);
    if (!root)
        return out_of_memory(ctx);
    status = qnti_tokenizer_from_json(ctx, vocab_path, root, vocab_size, tokenizer);
    json_decref(root);
    return status;
cleanup:
    json_decref(vocab);
    json_decref(merges);
    return status;
}
