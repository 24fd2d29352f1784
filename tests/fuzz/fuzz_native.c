/*
 * fuzz_native.c - any bytes as a file with a quantized layer "l": it is refused, or the layer can be used.
 */
#include <stdlib.h>
#include "pack/native.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);

enum { MOST_WEIGHTS = 1 << 16 };

/* Traps where the reader let something through. */
static void require(bool condition)
{
    if (!condition)
        abort();
}

static void use(qnt_context *ctx, const qnt_qlinear *q)
{
    size_t out = qnt_qlinear_out(q), in = qnt_qlinear_in(q);
    float *w, *x;
    const char *name;
    if (in > MOST_WEIGHTS || out > MOST_WEIGHTS / in)
        return;
    w = calloc(out * in, sizeof *w);
    x = calloc(2 * (in + out), sizeof *x);
    require(w && x);
    for (size_t i = 0; i < 2 * in; i++)
        x[i] = (float)(i % 7) - 3;
    require(qnt_dequantize(q, w) == QNT_OK);
    require(qnt_forward(q, qnt_matrix_f32(x, 2, in), x + 2 * in) == QNT_OK);
    for (size_t i = 0; (name = qnt_part_name(i)) != NULL; i++) {
        qnt_part part;
        qnt_status status = qnt_qlinear_part(q, name, &part);
        require(status == QNT_OK || (status == QNT_NOT_FOUND && *qnt_context_message(ctx)));
        qnt_part_free(&part);
    }
    free(w);
    free(x);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n)
{
    qnt_context_options options = {.threads = 1};
    struct qnti_safetensors *file;
    qnt_context *ctx;
    qnt_qlinear *q = NULL;
    size_t held;
    if (qnt_context_create(&options, &ctx) != QNT_OK)
        return 0;
    held = qnt_context_bytes(ctx, NULL);
    if (qnti_safetensors_open_memory(ctx, "fuzz", bytes, n, &file) == QNT_OK) {
        if (qnti_native_read(ctx, file, "l", &q) == QNT_OK)
            use(ctx, q);
        else
            require(!q && *qnt_context_message(ctx));
    }
    qnt_qlinear_destroy(q);
    qnti_safetensors_close(file);
    require(qnt_context_bytes(ctx, NULL) == held);
    qnt_context_destroy(ctx);
    return 0;
}
