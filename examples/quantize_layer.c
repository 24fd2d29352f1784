/*
 * quantize_layer.c - one layer from memory, as an engine would do it: calibrate, quantize, look at the loss, pack.
 *
 * Weights and tokens are random here; an engine has its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <quant/quant.h>

enum { OUT = 256, IN = 512, TOKENS = 1024 };

static const char format[] = "gguf:q4_0";

/* bfloat16 is the upper half of a float. */
static uint16_t bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Uniform in [-1, 1), the same on every machine. */
static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

/* Neighbouring channels have much in common, and some are far larger than others, as in a model. */
static void make_tokens(uint16_t *x, uint32_t *state)
{
    for (size_t t = 0; t < TOKENS; t++) {
        float common = 0;
        for (size_t c = 0; c < IN; c++) {
            common = 0.9f * common + noise(state);
            x[t * IN + c] = bf16(c % 61 == 0 ? 8 * common : common);
        }
    }
}

static qnt_status pack_layer(qnt_context *context, const qnt_qlinear *q)
{
    size_t bytes;
    void *packed;
    qnt_status status = qnt_pack_bytes(context, format, OUT, IN, &bytes);
    if (status != QNT_OK)
        return status;
    packed = malloc(bytes);
    if (!packed)
        return QNT_NO_MEMORY;
    status = qnt_pack(q, format, packed, bytes);
    if (status == QNT_OK)
        printf("packed: %zu bytes of %s in place of %zu of bf16\n", bytes, format, (size_t)OUT * IN * sizeof(uint16_t));
    free(packed);
    return status;
}

static qnt_status quantize(qnt_context *context, const char *method, const qnt_calib *calib, const uint16_t *weight)
{
    qnt_recipe *recipe = NULL;
    qnt_qlinear *q = NULL;
    qnt_layer_report report = {0};
    qnt_layer layer = {.name = "example", .weight = qnt_matrix_bf16(weight, OUT, IN), .calib = calib, .format = format};
    qnt_status status = qnt_recipe_parse(context, method, &recipe);
    if (status == QNT_OK)
        status = qnt_quantize(context, recipe, &layer, &q);
    if (status == QNT_OK)
        status = qnt_report(q, &report);
    if (status == QNT_OK) {
        printf("%s: %.2f bits a weight, relative square error of the weights %.3g, of the outputs %.3g\n%s",
               qnt_recipe_text(recipe), report.bits_per_weight, report.weight_error, report.output_error,
               report.warnings);
        status = pack_layer(context, q);
    }
    qnt_qlinear_destroy(q);
    qnt_recipe_destroy(recipe);
    return status;
}

int main(void)
{
    static uint16_t weight[OUT * IN], tokens[TOKENS * IN];
    static const char *const methods[] = {"rtn", "gptq:damp=0.05,refine_passes=0", "gptq:damp=0.05"};
    uint32_t state = 1;
    qnt_context *context = NULL;
    qnt_calib *calib = NULL;
    qnt_status status = qnt_context_create(NULL, &context);
    for (size_t i = 0; i < (size_t)OUT * IN; i++)
        weight[i] = bf16(0.05f * noise(&state));
    make_tokens(tokens, &state);
    if (status == QNT_OK)
        status = qnt_calib_create(context, NULL, IN, &calib); /* NULL: for any recipe */
    if (status == QNT_OK)
        status = qnt_calib_add(calib, qnt_matrix_bf16(tokens, TOKENS, IN));
    for (size_t i = 0; status == QNT_OK && i < sizeof methods / sizeof *methods; i++)
        status = quantize(context, methods[i], calib, weight);
    if (status != QNT_OK)
        fprintf(stderr, "%s: %s\n", qnt_status_text(status), context ? qnt_context_message(context) : "no context");
    qnt_calib_destroy(calib);
    qnt_context_destroy(context);
    return status != QNT_OK;
}
