/*
 * fuzz_imatrix.c - any bytes as an importance matrix: it is refused, or everything it says holds together.
 */
#include <math.h>
#include <stdlib.h>
#include "container/imatrix.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

/* Traps where the reader let something through. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

static void walk(struct qnti_imatrix *m)
{
    require(m->count > 0);
    for (size_t i = 0; i < m->count; i++) {
        const struct qnti_imatrix_entry *e = &m->entries[i];
        require(qnti_imatrix_find(m, e->name) == e && e->in > 0 && e->matrices > 0);
        for (size_t k = 0; k < e->in * e->matrices; k++)
            require(isfinite(e->sums[k]) && e->sums[k] >= 0);
        for (size_t k = 0; k < e->matrices; k++)
            require(isfinite(e->counts[k]) && e->counts[k] >= 0);
    }
    qnti_imatrix_merge(m, m, "itself"); /* may leave f32's range: then it says so */
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    qnt_context_options options = {.threads = 1};
    struct qnti_imatrix *matrix;
    qnt_context *ctx;
    size_t held;
    if (qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    held = qnt_context_bytes(ctx, NULL);
    if (qnti_imatrix_open_memory(ctx, "fuzz", bytes, n, &matrix) == QNT_OK)
        walk(matrix);
    else
        require(!matrix && *qnt_context_message(ctx));
    qnti_imatrix_close(matrix);
    require(qnt_context_bytes(ctx, NULL) == held);
    qnt_context_destroy(ctx);
    return 0;
}
