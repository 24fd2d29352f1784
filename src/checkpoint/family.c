/*
 * family.c - the families of decoders that the library knows, one row each.
 *
 * All of them are pre-norm blocks of attention with RoPE and a gated SiLU mlp;
 * they differ in biases, windows and defaults, which the row's `rules` and
 * `defaults` state (transformers' configuration classes). In GGUF, Mistral is
 * a `llama` like any other.
 */
#include "checkpoint/source.h"

#include <string.h>
#include "container/json.h"

static const char *const block_names[QNTI_ROLES] = {
    [QNTI_EMBED] = "model.embed_tokens",
    [QNTI_FINAL_NORM] = "model.norm",
    [QNTI_HEAD] = "lm_head",
    [QNTI_ATTN_NORM] = "model.layers.%zu.input_layernorm",
    [QNTI_Q] = "model.layers.%zu.self_attn.q_proj",
    [QNTI_K] = "model.layers.%zu.self_attn.k_proj",
    [QNTI_V] = "model.layers.%zu.self_attn.v_proj",
    [QNTI_O] = "model.layers.%zu.self_attn.o_proj",
    [QNTI_MLP_NORM] = "model.layers.%zu.post_attention_layernorm",
    [QNTI_GATE] = "model.layers.%zu.mlp.gate_proj",
    [QNTI_UP] = "model.layers.%zu.mlp.up_proj",
    [QNTI_DOWN] = "model.layers.%zu.mlp.down_proj",
};

static const char *const gguf_names[QNTI_ROLES] = {
    [QNTI_EMBED] = "token_embd",
    [QNTI_FINAL_NORM] = "output_norm",
    [QNTI_HEAD] = "output",
    [QNTI_ATTN_NORM] = "blk.%zu.attn_norm",
    [QNTI_Q] = "blk.%zu.attn_q",
    [QNTI_K] = "blk.%zu.attn_k",
    [QNTI_V] = "blk.%zu.attn_v",
    [QNTI_O] = "blk.%zu.attn_output",
    [QNTI_MLP_NORM] = "blk.%zu.ffn_norm",
    [QNTI_GATE] = "blk.%zu.ffn_gate",
    [QNTI_UP] = "blk.%zu.ffn_up",
    [QNTI_DOWN] = "blk.%zu.ffn_down",
};

static qnt_status llama_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    QNT_TRY(qnti_json_bool(ctx, where, json, "attention_bias", &config->qkv_bias));
    config->o_bias = config->qkv_bias;
    return qnti_json_bool(ctx, where, json, "mlp_bias", &config->mlp_bias);
}

/* A window that is null is none; one of 0 would leave nothing to see. */
static qnt_status read_window(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    const json_t *window = json_object_get(json, "sliding_window");
    if (json_is_null(window))
        config->sliding_window = 0;
    if (!window || json_is_null(window))
        return QNT_OK;
    QNT_TRY(qnti_json_size(ctx, where, json, "sliding_window", &config->sliding_window));
    if (config->sliding_window == 0)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: sliding_window is 0, expected a positive number or null", where);
    return QNT_OK;
}

/* Blocks of `layer_types`, or else of max_window_layers, that see through the window. */
static qnt_status count_window_blocks(qnt_context *ctx, const char *where, const json_t *json, size_t blocks,
                                      size_t *count)
{
    enum { DEFAULT_MAX_WINDOW_LAYERS = 28 };
    const json_t *types = json_object_get(json, "layer_types");
    size_t from = DEFAULT_MAX_WINDOW_LAYERS;
    *count = 0;
    if (!json_is_array(types)) {
        QNT_TRY(qnti_json_size(ctx, where, json, "max_window_layers", &from));
        *count = blocks - qnti_min(from, blocks);
        return QNT_OK;
    }
    if (json_array_size(types) != blocks)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: layer_types has %zu entries, expected %zu", where,
                         json_array_size(types), blocks);
    for (size_t i = 0; i < blocks; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || (strcmp(type, "full_attention") && strcmp(type, "sliding_attention")))
            return qnti_fail(ctx, QNT_UNSUPPORTED,
                             "%s: layer_types[%zu] is \"%.100s\", expected full_attention or sliding_attention", where,
                             i, type ? type : "(not a string)");
        *count += strcmp(type, "sliding_attention") == 0;
    }
    return QNT_OK;
}

static qnt_status qwen2_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    bool use = false;
    size_t count, window;
    QNT_TRY(qnti_json_bool(ctx, where, json, "use_sliding_window", &use));
    if (use)
        QNT_TRY(read_window(ctx, where, json, config));
    else
        config->sliding_window = 0;
    window = config->sliding_window;
    if (window == 0)
        return QNT_OK;
    QNT_TRY(count_window_blocks(ctx, where, json, config->blocks, &count));
    if (count == 0)
        config->sliding_window = 0;
    else if (count < config->blocks)
        return qnti_fail(ctx, QNT_UNSUPPORTED,
                         "%s: use_sliding_window: %zu of %zu blocks have a window of %zu, supported are all or none",
                         where, count, config->blocks, window);
    return QNT_OK;
}

static const struct qnti_config llama_defaults = {.norm_eps = 1e-6f, .context = 2048, .rope.theta = 10000};
static const struct qnti_config mistral_defaults = {
    .norm_eps = 1e-6f, .context = 131072, .rope.theta = 10000, .sliding_window = 4096};
static const struct qnti_config qwen2_defaults = {
    .norm_eps = 1e-6f, .context = 32768, .rope.theta = 10000, .qkv_bias = true, .sliding_window = 4096};

/* Of rows with the same GGUF architecture the first is taken. */
const struct qnti_family qnti_families[] = {
    {"Llama", "LlamaForCausalLM", "llama", "llama", true, block_names, gguf_names, &llama_defaults, llama_rules},
    {"Mistral", "MistralForCausalLM", "mistral", "llama", true, block_names, gguf_names, &mistral_defaults,
     read_window},
    {"Qwen2", "Qwen2ForCausalLM", "qwen2", "qwen2", false, block_names, gguf_names, &qwen2_defaults, qwen2_rules},
};
const size_t qnti_family_count = sizeof qnti_families / sizeof *qnti_families;

/* "LlamaForCausalLM" or, for a model without its head, "LlamaModel". */
static bool is_architecture(const struct qnti_family *family, const char *architecture)
{
    size_t n = strlen(family->name);
    return strcmp(family->architecture, architecture) == 0 ||
           (strncmp(family->name, architecture, n) == 0 && strcmp(architecture + n, "Model") == 0);
}

/* "A, B, C": the architectures, or their names in GGUF, each once. */
static void list_known(bool gguf, char *list, size_t bytes)
{
    const char *last = "";
    size_t n = 0;
    list[0] = 0;
    for (size_t i = 0; i < qnti_family_count; i++) {
        const char *name = gguf ? qnti_families[i].gguf : qnti_families[i].architecture;
        if (strcmp(name, last) == 0 || n + strlen(name) + 3 > bytes)
            continue;
        if (n > 0)
            n += strlen(strcpy(list + n, ", "));
        n += strlen(strcpy(list + n, name));
        last = name;
    }
}

enum { LIST_BYTES = 512 };

qnt_status qnti_family_find(qnt_context *ctx, const char *where, const char *architecture, const char *model_type,
                            const struct qnti_family **family)
{
    char known[LIST_BYTES];
    for (size_t i = 0; i < qnti_family_count; i++) {
        *family = &qnti_families[i];
        if (architecture ? is_architecture(*family, architecture)
                         : model_type && strcmp((*family)->model_type, model_type) == 0)
            return QNT_OK;
    }
    *family = NULL;
    list_known(false, known, sizeof known);
    if (!architecture && !model_type)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: has neither architectures nor model_type, expected one of %s", where,
                         known);
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: architecture \"%.100s\" is not supported; supported are %s", where,
                     architecture ? architecture : model_type, known);
}

qnt_status qnti_family_find_gguf(qnt_context *ctx, const char *where, const char *architecture, size_t bytes,
                                 const struct qnti_family **family)
{
    char known[LIST_BYTES];
    for (size_t i = 0; i < qnti_family_count; i++) {
        *family = &qnti_families[i];
        if (strlen((*family)->gguf) == bytes && memcmp((*family)->gguf, architecture, bytes) == 0)
            return QNT_OK;
    }
    *family = NULL;
    list_known(true, known, sizeof known);
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: general.architecture \"%.*s\" is not supported; supported are %s",
                     where, (int)qnti_min(bytes, 100), architecture, known);
}
