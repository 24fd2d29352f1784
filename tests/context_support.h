/*
 * context_support.h - one context for each test of a file, which must give back all that it took.
 */
#ifndef CONTEXT_SUPPORT_H
#define CONTEXT_SUPPORT_H

#include "layer_support.h"

static qnt_context *ctx;
static size_t held_at_start;

static inline int context_setup(void **state)
{
    (void)state;
    if (qnt_context_create(&(qnt_context_options){.threads = 2}, &ctx) != QNT_OK)
        return -1;
    held_at_start = qnt_context_bytes(ctx, NULL);
    return 0;
}

static inline int context_teardown(void **state)
{
    size_t held = qnt_context_bytes(ctx, NULL);
    (void)state;
    qnt_context_destroy(ctx);
    return held == held_at_start ? 0 : -1;
}

#define context_test(test) cmocka_unit_test_setup_teardown(test, context_setup, context_teardown)

#endif
