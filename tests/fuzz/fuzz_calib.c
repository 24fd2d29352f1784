/*
 * fuzz_calib.c - any bytes as a file of calibrations: it is refused, or what it holds is finite and adds up.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "calib/save.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

enum { MOST_CHANNELS = 256 };

/* Traps where the reader let something through. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

static void use(qnt_context *ctx, qnt_calib *c, const struct qnti_calib_head *head)
{
    float *hessian, *importance;
    qnt_moments m;
    require(qnt_calib_in(c) == head->in && qnt_calib_tokens(c) == head->tokens);
    if (head->in > MOST_CHANNELS)
        return;
    hessian = calloc(head->in, head->in * sizeof *hessian);
    importance = calloc(head->in, sizeof *importance);
    require(hessian && importance);
    if (qnt_calib_hessian(c, hessian) == QNT_OK)
        for (size_t i = 0; i < head->in; i++) /* finite or, beyond f32, infinite */
            require(hessian[i * head->in + i] >= 0);
    if (qnti_calib_importance(c, importance))
        for (size_t i = 0; i < head->in; i++)
            require(importance[i] >= 0);
    for (size_t i = 0; i < head->in; i++)
        require(qnt_calib_moments(c, i, &m) != QNT_OK || m.mean_square >= 0);
    require(qnt_calib_merge(c, c) == QNT_OK || *qnt_context_message(ctx));
    free(hessian);
    free(importance);
}

static void load(qnt_context *ctx, const struct qnt_calib_file *file, const char *name)
{
    struct qnti_calib_head head;
    qnt_calib *c;
    bool described = qnti_calib_head(file, name, &head) == QNT_OK;
    if (qnt_calib_load(file, name, &c) == QNT_OK) {
        require(described);
        use(ctx, c, &head);
    } else {
        require(!c && *qnt_context_message(ctx));
    }
    qnt_calib_destroy(c);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    qnt_context_options options = {.threads = 1};
    struct qnt_calib_file *file;
    const char *name;
    qnt_context *ctx;
    size_t held;
    if (qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    held = qnt_context_bytes(ctx, NULL);
    if (qnti_calib_file_open_memory(ctx, "fuzz", bytes, n, &file) == QNT_OK)
        for (size_t i = 0; (name = qnt_calib_file_name(file, i)) != NULL; i++)
            load(ctx, file, name);
    else
        require(!file && *qnt_context_message(ctx));
    qnt_calib_file_close(file);
    require(qnt_context_bytes(ctx, NULL) == held);
    qnt_context_destroy(ctx);
    return 0;
}
