/*
 * gguf_types.c - which tensor of a GGUF file gets which type: llama-quantize's rules.
 *
 * Norms and biases are F32. A file of floats has one type for all the rest. In
 * a quantized one the output matrix (or an embedding that is tied to it) is
 * q6_k or better, some tensors of some blocks get another type than most
 * (`mixtures`), and where no block divides the width a smaller block is taken,
 * at last f16 (`fallbacks`). The layers of the blocks are the recipe's to
 * quantize; embedding and output matrix are only converted.
 */
#include "export/gguf.h"

#include <string.h>
#include <strings.h>

/* Where a tensor stands among those of its role. */
struct place {
    size_t index, count;
    bool calibrated;
};

static bool first_eighth_calibrated(const struct place *at)
{
    return at->calibrated && at->index < at->count / 8;
}

/* The first row that fits. */
static const struct mixture {
    const char *format;
    enum qnti_role role;
    bool (*when)(const struct place *at);
    const char *type;
} mixtures[] = {
    {"gguf:q4_0", QNTI_DOWN, first_eighth_calibrated, "q4_1"},
    {"gguf:q5_0", QNTI_DOWN, first_eighth_calibrated, "q5_1"},
};

static const struct {
    const char *type, *instead;
} fallbacks[] = {
    {"q2_k", "q4_0"}, {"q3_k", "q4_0"}, {"q4_k", "q5_0"}, {"q5_k", "q5_1"}, {"q6_k", "q8_0"}, {"iq4_xs", "iq4_nl"},
};

static const char smaller_block[] = "the width is no multiple of 256, a type of smaller blocks is taken";
static const char no_block[] = "no block divides the width, f16 is taken";

/* Of a name with or without "gguf:" in front; NULL with a message if there is none. */
static const struct qnti_layout *layout_named(qnt_context *ctx, const char *type)
{
    char name[64] = "gguf:";
    if (strncasecmp(type, name, strlen(name)) == 0)
        return qnti_layout_find(ctx, type);
    strncat(name, type, sizeof name - strlen(name) - 1);
    return qnti_layout_find(ctx, name);
}

static size_t block_of(const char *type)
{
    const struct qnti_ggml_type *t = qnti_ggml_type_named(type);
    return t ? t->elements : 1;
}

static const char *fall_back(const char *type, size_t width, const char **note)
{
    if (width % block_of(type) == 0)
        return type;
    *note = smaller_block;
    for (size_t i = 0; i < sizeof fallbacks / sizeof *fallbacks; i++)
        if (strcasecmp(type, fallbacks[i].type) == 0) {
            type = fallbacks[i].instead;
            break;
        }
    if (width % block_of(type) == 0)
        return type;
    *note = no_block;
    return "f16";
}

/* The matrix that gives the logits. */
static const char *output_type(const struct qnti_export *e, const char *usual, size_t width)
{
    if (e->output_type)
        return e->output_type;
    if (e->source->config.tied_head && e->embedding_type)
        return e->embedding_type;
    if (block_of(usual) == 1)
        return usual;
    return width % block_of(usual) || strcmp(usual, "q8_0") == 0 ? "q8_0" : "q6_k";
}

static const char *mixed_type(const struct qnti_export *e, const struct qnti_target *target, const char *usual)
{
    struct place at = {target->block, e->source->config.blocks, e->calibrated};
    for (size_t i = 0; i < sizeof mixtures / sizeof *mixtures; i++)
        if (strcmp(mixtures[i].format, e->format->name) == 0 && mixtures[i].role == target->role &&
            mixtures[i].when(&at))
            return mixtures[i].type;
    return usual;
}

static const char *wanted_type(const struct qnti_export *e, const struct qnti_target *target, const char *usual)
{
    size_t width = target->source->cols;
    switch (target->role) {
    case QNTI_EMBED:
        if (e->source->config.tied_head)
            return output_type(e, usual, width);
        return e->embedding_type ? e->embedding_type : usual;
    case QNTI_HEAD:
        return output_type(e, usual, width);
    default:
        return mixed_type(e, target, usual);
    }
}

static qnt_status assign_one(const struct qnti_export *e, struct qnti_target *target)
{
    bool linear = qnti_is_linear(target->role);
    const struct qnti_layout *layout;
    target->quantized = false;
    target->note = NULL;
    target->layout = "gguf:f32";
    if (target->bias || !(linear || target->role == QNTI_EMBED || target->role == QNTI_HEAD))
        return QNT_OK;
    layout = layout_named(e->ctx, wanted_type(e, target, layout_named(e->ctx, e->format->layout)->ggml));
    if (!layout)
        return QNT_NOT_FOUND;
    layout = layout_named(e->ctx, fall_back(layout->ggml, target->source->cols, &target->note));
    if (!layout)
        return QNT_NOT_FOUND;
    target->layout = layout->name;
    target->quantized = linear && block_of(layout->ggml) > 1;
    return QNT_OK;
}

qnt_status qnti_gguf_assign(struct qnti_export *e)
{
    QNT_TRY(qnti_gguf_check_model(e));
    for (size_t i = 0; i < e->count; i++)
        QNT_TRY(assign_one(e, &e->targets[i]));
    return QNT_OK;
}
