/*
 * tokenizer_support.h - what the tests of tokenizers share: a context with the golden cases, and opening a golden file.
 */
#ifndef TOKENIZER_SUPPORT_H
#define TOKENIZER_SUPPORT_H

#include "container/json.h"
#include "file/output.h"
#include "file_support.h"
#include "text/tokenizer_private.h"
#include "text/utf8.h"

#define GOLDEN SOURCE_DIR "/tests/golden/tokenizers/"

struct fixture {
    qnt_context *ctx;
    json_t *cases; /* NULL where none are needed */
    size_t held;   /* bytes of the context itself */
};

static inline int set_up_fixture(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->ctx = context_with(NULL);
    f->held = qnt_context_bytes(f->ctx, NULL);
    *state = f;
    return 0;
}

static inline int tear_down_fixture(void **state)
{
    struct fixture *f = *state;
    json_decref(f->cases);
    assert_int_equal(qnt_context_bytes(f->ctx, NULL), f->held);
    qnt_context_destroy(f->ctx);
    free(f);
    return 0;
}

static inline void must(qnt_context *ctx, qnt_status status)
{
    if (status != QNT_OK)
        fail_msg("%s: %s", qnt_status_text(status), qnt_context_message(ctx));
}

static inline qnti_tokenizer *open_golden(struct fixture *f, const char *file)
{
    char path[512];
    qnti_tokenizer *t;
    snprintf(path, sizeof path, GOLDEN "%s", file);
    must(f->ctx, qnti_tokenizer_open_file(f->ctx, path, &t));
    return t;
}

#endif
