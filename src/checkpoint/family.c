/*
 * family.c - the families of decoders that the library knows, one row each.
 *
 * A row is names and a configuration to start from; what config.json says to
 * one family alone is read by the row's `rules` (transformers' configuration
 * classes). How a model computes is the configuration's affair, no code asks
 * which family it is. In GGUF, Mistral is a `llama` like any other, OPT has no
 * architecture.
 */
#include "checkpoint/source.h"

#include <math.h>
#include <string.h>
#include "container/json.h"

/* Of Llama and what is named like it; norms and fused linears differ. */
#define LLAMA_NAMES                                                                                                  \
    [QNTI_EMBED] = "model.embed_tokens", [QNTI_FINAL_NORM] = "model.norm", [QNTI_HEAD] = "lm_head",                  \
    [QNTI_ATTN_NORM] = "model.layers.%zu.input_layernorm", [QNTI_Q] = "model.layers.%zu.self_attn.q_proj",           \
    [QNTI_K] = "model.layers.%zu.self_attn.k_proj", [QNTI_V] = "model.layers.%zu.self_attn.v_proj",                  \
    [QNTI_Q_NORM] = "model.layers.%zu.self_attn.q_norm", [QNTI_K_NORM] = "model.layers.%zu.self_attn.k_norm",        \
    [QNTI_O] = "model.layers.%zu.self_attn.o_proj", [QNTI_GATE] = "model.layers.%zu.mlp.gate_proj",                  \
    [QNTI_UP] = "model.layers.%zu.mlp.up_proj", [QNTI_DOWN] = "model.layers.%zu.mlp.down_proj"

static const char *const usual_names[QNTI_ROLES] = {
    LLAMA_NAMES,
    [QNTI_QKV] = "model.layers.%zu.self_attn.qkv_proj",
    [QNTI_MLP_NORM] = "model.layers.%zu.post_attention_layernorm",
    [QNTI_GATE_UP] = "model.layers.%zu.mlp.gate_up_proj",
};

/* Four norms a block. */
static const char *const gemma_names[QNTI_ROLES] = {
    LLAMA_NAMES,
    [QNTI_ATTN_POST_NORM] = "model.layers.%zu.post_attention_layernorm",
    [QNTI_MLP_NORM] = "model.layers.%zu.pre_feedforward_layernorm",
    [QNTI_MLP_POST_NORM] = "model.layers.%zu.post_feedforward_layernorm",
};

static const char *const opt_names[QNTI_ROLES] = {
    [QNTI_EMBED] = "model.decoder.embed_tokens",
    [QNTI_POSITIONS] = "model.decoder.embed_positions",
    [QNTI_FINAL_NORM] = "model.decoder.final_layer_norm",
    [QNTI_HEAD] = "lm_head",
    [QNTI_ATTN_NORM] = "model.decoder.layers.%zu.self_attn_layer_norm",
    [QNTI_Q] = "model.decoder.layers.%zu.self_attn.q_proj",
    [QNTI_K] = "model.decoder.layers.%zu.self_attn.k_proj",
    [QNTI_V] = "model.decoder.layers.%zu.self_attn.v_proj",
    [QNTI_O] = "model.decoder.layers.%zu.self_attn.out_proj",
    [QNTI_MLP_NORM] = "model.decoder.layers.%zu.final_layer_norm",
    [QNTI_UP] = "model.decoder.layers.%zu.fc1",
    [QNTI_DOWN] = "model.decoder.layers.%zu.fc2",
};

static const char *const gpt2_names[QNTI_ROLES] = {
    [QNTI_EMBED] = "transformer.wte",
    [QNTI_POSITIONS] = "transformer.wpe",
    [QNTI_FINAL_NORM] = "transformer.ln_f",
    [QNTI_HEAD] = "lm_head",
    [QNTI_ATTN_NORM] = "transformer.h.%zu.ln_1",
    [QNTI_QKV] = "transformer.h.%zu.attn.c_attn",
    [QNTI_O] = "transformer.h.%zu.attn.c_proj",
    [QNTI_MLP_NORM] = "transformer.h.%zu.ln_2",
    [QNTI_UP] = "transformer.h.%zu.mlp.c_fc",
    [QNTI_DOWN] = "transformer.h.%zu.mlp.c_proj",
};

const char *const qnti_gguf_names[QNTI_ROLES] = {
    [QNTI_EMBED] = "token_embd",
    [QNTI_POSITIONS] = "position_embd",
    [QNTI_FINAL_NORM] = "output_norm",
    [QNTI_HEAD] = "output",
    [QNTI_ATTN_NORM] = "blk.%zu.attn_norm",
    [QNTI_QKV] = "blk.%zu.attn_qkv",
    [QNTI_Q] = "blk.%zu.attn_q",
    [QNTI_K] = "blk.%zu.attn_k",
    [QNTI_V] = "blk.%zu.attn_v",
    [QNTI_Q_NORM] = "blk.%zu.attn_q_norm",
    [QNTI_K_NORM] = "blk.%zu.attn_k_norm",
    [QNTI_O] = "blk.%zu.attn_output",
    [QNTI_ATTN_POST_NORM] = "blk.%zu.post_attention_norm",
    [QNTI_MLP_NORM] = "blk.%zu.ffn_norm",
    [QNTI_GATE_UP] = "blk.%zu.ffn_up",
    [QNTI_GATE] = "blk.%zu.ffn_gate",
    [QNTI_UP] = "blk.%zu.ffn_up",
    [QNTI_DOWN] = "blk.%zu.ffn_down",
    [QNTI_MLP_POST_NORM] = "blk.%zu.post_ffw_norm",
};

#define SIZE_KEYS(ffn)                                                                                              \
    [QNTI_KEY_HIDDEN] = "hidden_size", [QNTI_KEY_FFN] = ffn, [QNTI_KEY_BLOCKS] = "num_hidden_layers",               \
    [QNTI_KEY_HEADS] = "num_attention_heads", [QNTI_KEY_VOCAB] = "vocab_size",                                      \
    [QNTI_KEY_CONTEXT] = "max_position_embeddings"
#define USUAL_KEYS(activation)                                                                                      \
    {SIZE_KEYS("intermediate_size"), [QNTI_KEY_KV_HEADS] = "num_key_value_heads", [QNTI_KEY_HEAD_DIM] = "head_dim", \
     [QNTI_KEY_EPS] = "rms_norm_eps", [QNTI_KEY_ACTIVATION] = activation}

static const char *const usual_keys[QNTI_KEYS] = USUAL_KEYS("hidden_act");
static const char *const gemma_keys[QNTI_KEYS] = USUAL_KEYS("hidden_activation");
static const char *const opt_keys[QNTI_KEYS] = {SIZE_KEYS("ffn_dim"), [QNTI_KEY_ACTIVATION] = "activation_function"};
static const char *const gpt2_keys[QNTI_KEYS] = {
    [QNTI_KEY_HIDDEN] = "n_embd", [QNTI_KEY_BLOCKS] = "n_layer", [QNTI_KEY_HEADS] = "n_head",
    [QNTI_KEY_VOCAB] = "vocab_size", [QNTI_KEY_CONTEXT] = "n_positions", [QNTI_KEY_EPS] = "layer_norm_epsilon",
    [QNTI_KEY_ACTIVATION] = "activation_function",
};

/* --- windows --- */

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

static bool below(size_t block, size_t n)
{
    return block < n;
}

static bool every(size_t block, size_t n)
{
    return n && (block + 1) % n == 0;
}

static qnt_status read_type(qnt_context *ctx, const char *where, const json_t *types, size_t block, bool *global)
{
    const char *type = json_string_value(json_array_get(types, block));
    *global = type && strcmp(type, "full_attention") == 0;
    if (*global || (type && strcmp(type, "sliding_attention") == 0))
        return QNT_OK;
    return qnti_fail(ctx, QNT_UNSUPPORTED,
                     "%s: layer_types[%zu] is \"%.100s\", expected full_attention or sliding_attention", where, block,
                     type ? type : "(not a string)");
}

/* Blocks without the window: those of `layer_types`, or else of a rule and its number. */
static qnt_status read_global(qnt_context *ctx, const char *where, const json_t *json, bool (*rule)(size_t, size_t),
                              size_t number, struct qnti_config *config)
{
    const json_t *types = json_object_get(json, "layer_types");
    if (config->sliding_window == 0 || config->blocks > QNTI_MAX_BLOCKS)
        return QNT_OK; /* the latter is refused with all other sizes */
    if (json_is_array(types) && json_array_size(types) != config->blocks)
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: layer_types has %zu entries, expected %zu", where,
                         json_array_size(types), config->blocks);
    QNT_TRY(QNTI_NEW(ctx, qnti_max(config->blocks, 1), &config->global));
    for (size_t i = 0; i < config->blocks; i++) {
        config->global[i] = rule(i, number);
        if (json_is_array(types))
            QNT_TRY(read_type(ctx, where, types, i, &config->global[i]));
    }
    qnti_config_windows(ctx, config);
    return QNT_OK;
}

void qnti_config_windows(qnt_context *ctx, struct qnti_config *config)
{
    size_t count = 0;
    for (size_t i = 0; config->global && i < config->blocks; i++)
        count += config->global[i];
    if (count > 0 && count < config->blocks)
        return;
    if (count > 0)
        config->sliding_window = 0;
    qnti_free(ctx, config->global);
    config->global = NULL;
}

/* --- what the families say for themselves --- */

static qnt_status attention_bias(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    QNT_TRY(qnti_json_bool(ctx, where, json, "attention_bias", &config->qkv_bias));
    config->o_bias = config->qkv_bias;
    return QNT_OK;
}

static qnt_status llama_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    QNT_TRY(attention_bias(ctx, where, json, config));
    return qnti_json_bool(ctx, where, json, "mlp_bias", &config->mlp_bias);
}

static qnt_status qwen2_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    enum { DEFAULT_MAX_WINDOW_LAYERS = 28 };
    size_t from = DEFAULT_MAX_WINDOW_LAYERS;
    bool use = false;
    QNT_TRY(qnti_json_bool(ctx, where, json, "use_sliding_window", &use));
    QNT_TRY(qnti_json_size(ctx, where, json, "max_window_layers", &from));
    if (use)
        QNT_TRY(read_window(ctx, where, json, config));
    else
        config->sliding_window = 0;
    return read_global(ctx, where, json, below, from, config);
}

static qnt_status qwen3_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    QNT_TRY(attention_bias(ctx, where, json, config));
    return qwen2_rules(ctx, where, json, config);
}

/* A number that null switches off. */
static qnt_status read_cap(qnt_context *ctx, const char *where, const json_t *json, const char *key, float *cap)
{
    if (json_is_null(json_object_get(json, key)))
        *cap = 0;
    return qnti_json_float(ctx, where, json, key, cap);
}

static qnt_status gemma_rules(qnt_context *ctx, const char *where, const json_t *json, size_t pattern,
                              struct qnti_config *config)
{
    float scalar = 256;
    QNT_TRY(attention_bias(ctx, where, json, config));
    QNT_TRY(read_window(ctx, where, json, config));
    QNT_TRY(read_cap(ctx, where, json, "attn_logit_softcapping", &config->attention_cap));
    QNT_TRY(read_cap(ctx, where, json, "final_logit_softcapping", &config->logit_cap));
    QNT_TRY(qnti_json_float(ctx, where, json, "query_pre_attn_scalar", &scalar));
    if (!(scalar > 0))
        return qnti_fail(ctx, QNT_BAD_DATA, "%s: query_pre_attn_scalar is %g", where, (double)scalar);
    config->score_scale = 1 / sqrtf(scalar);
    return read_global(ctx, where, json, every, pattern, config);
}

static qnt_status gemma2_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    return gemma_rules(ctx, where, json, 2, config);
}

/* Global blocks alone have the scaling of RoPE. */
static qnt_status gemma3_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    size_t pattern = 6;
    QNT_TRY(qnti_json_size(ctx, where, json, "_sliding_window_pattern", &pattern));
    QNT_TRY(qnti_json_size(ctx, where, json, "sliding_window_pattern", &pattern));
    return gemma_rules(ctx, where, json, pattern, config);
}

static qnt_status opt_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    size_t width = config->hidden;
    bool bias = true;
    QNT_TRY(qnti_json_size(ctx, where, json, "word_embed_proj_dim", &width));
    if (width != config->hidden)
        return qnti_fail(ctx, QNT_UNSUPPORTED,
                         "%s: word_embed_proj_dim is %zu, supported is the hidden size, %zu, alone (no project_in, "
                         "project_out)", where, width, config->hidden);
    QNT_TRY(qnti_json_bool(ctx, where, json, "enable_bias", &bias));
    config->qkv_bias = config->o_bias = config->mlp_bias = bias;
    return QNT_OK;
}

static qnt_status gpt2_rules(qnt_context *ctx, const char *where, const json_t *json, struct qnti_config *config)
{
    bool scaled = true;
    config->ffn = qnti_min(config->hidden, QNTI_MAX_WIDTH) * 4;
    QNT_TRY(qnti_json_size(ctx, where, json, "n_inner", &config->ffn));
    QNT_TRY(qnti_json_bool(ctx, where, json, "scale_attn_weights", &scaled));
    config->score_scale = scaled ? 0 : 1;
    return QNT_OK;
}

static const struct qnti_config llama_defaults = {.norm_eps = 1e-6f, .context = 2048, .rope.theta = 10000};
static const struct qnti_config mistral_defaults = {
    .norm_eps = 1e-6f, .context = 131072, .rope.theta = 10000, .sliding_window = 4096};
static const struct qnti_config qwen2_defaults = {
    .norm_eps = 1e-6f, .context = 32768, .rope.theta = 10000, .qkv_bias = true, .sliding_window = 4096};
static const struct qnti_config qwen3_defaults = {
    .head_dim = 128, .norm_eps = 1e-6f, .context = 32768, .rope.theta = 10000, .qk_norm = true,
    .sliding_window = 4096};
static const struct qnti_config gemma2_defaults = {
    .head_dim = 256, .norm_eps = 1e-6f, .norm_base = 1, .context = 8192, .rope.theta = 10000, .post_norms = true,
    .activation = QNTI_GELU_TANH, .tied_head = true, .sliding_window = 4096, .attention_cap = 50, .logit_cap = 30,
    .scaled_embedding = true};
static const struct qnti_config gemma3_defaults = {
    .head_dim = 256, .norm_eps = 1e-6f, .norm_base = 1, .context = 131072, .rope.theta = 1e6f,
    .local_rope.theta = 10000, .qk_norm = true, .post_norms = true, .activation = QNTI_GELU_TANH, .tied_head = true,
    .sliding_window = 4096, .scaled_embedding = true};
static const struct qnti_config phi3_defaults = {
    .norm_eps = 1e-5f, .context = 4096, .rope.theta = 10000, .rope.original_context = 4096, .fused_qkv = true,
    .fused_gate_up = true};
static const struct qnti_config opt_defaults = {
    .norm = QNTI_NORM_LAYER, .norm_eps = 1e-5f, .context = 2048, .learned_positions = true, .position_offset = 2,
    .activation = QNTI_RELU, .ungated = true, .tied_head = true};
static const struct qnti_config gpt2_defaults = {
    .norm = QNTI_NORM_LAYER, .norm_eps = 1e-5f, .context = 1024, .learned_positions = true,
    .activation = QNTI_GELU_TANH, .ungated = true, .fused_qkv = true, .tied_head = true, .qkv_bias = true,
    .o_bias = true, .mlp_bias = true};

static const struct qnti_refusal gemma3_refused[] = {{"use_bidirectional_attention", true}, {NULL, false}};
static const struct qnti_refusal opt_refused[] = {
    {"do_layer_norm_before", false}, {"_remove_final_layer_norm", true}, {"layer_norm_elementwise_affine", false},
    {NULL, false}};
static const struct qnti_refusal gpt2_refused[] = {
    {"scale_attn_by_inverse_layer_idx", true}, {"reorder_and_upcast_attn", true}, {"add_cross_attention", true},
    {NULL, false}};

/* Of rows with the same GGUF architecture the first is taken. */
const struct qnti_family qnti_families[] = {
    {.name = "Llama", .architecture = "LlamaForCausalLM", .model_type = "llama", .gguf = "llama",
     .gguf_permutes_qk = true, .keys = usual_keys, .names = usual_names, .defaults = &llama_defaults,
     .rules = llama_rules},
    {.name = "Mistral", .architecture = "MistralForCausalLM", .model_type = "mistral", .gguf = "llama",
     .gguf_permutes_qk = true, .keys = usual_keys, .names = usual_names, .defaults = &mistral_defaults,
     .rules = read_window},
    {.name = "Qwen2", .architecture = "Qwen2ForCausalLM", .model_type = "qwen2", .gguf = "qwen2",
     .keys = usual_keys, .names = usual_names, .defaults = &qwen2_defaults, .rules = qwen2_rules},
    {.name = "Qwen3", .architecture = "Qwen3ForCausalLM", .model_type = "qwen3", .gguf = "qwen3",
     .keys = usual_keys, .names = usual_names, .defaults = &qwen3_defaults, .rules = qwen3_rules},
    {.name = "Gemma2", .architecture = "Gemma2ForCausalLM", .model_type = "gemma2", .gguf = "gemma2",
     .gguf_window = true, .window_pattern = 2, .gguf_wide_blocks = 46, .keys = gemma_keys, .names = gemma_names,
     .defaults = &gemma2_defaults, .rules = gemma2_rules},
    {.name = "Gemma3", .architecture = "Gemma3ForCausalLM", .model_type = "gemma3_text", .gguf = "gemma3",
     .gguf_window = true, .window_pattern = 6, .gguf_wide_blocks = 62, .keys = gemma_keys, .names = gemma_names,
     .defaults = &gemma3_defaults, .refused = gemma3_refused, .rules = gemma3_rules},
    {.name = "Phi3", .architecture = "Phi3ForCausalLM", .model_type = "phi3", .gguf = "phi3",
     .gguf_window = true, .keys = usual_keys, .names = usual_names, .defaults = &phi3_defaults, .rules = read_window},
    {.name = "OPT", .architecture = "OPTForCausalLM", .model_type = "opt", .keys = opt_keys, .names = opt_names,
     .defaults = &opt_defaults, .refused = opt_refused, .rules = opt_rules},
    {.name = "GPT2", .architecture = "GPT2LMHeadModel", .model_type = "gpt2", .gguf = "gpt2", .transposed = true,
     .keys = gpt2_keys, .names = gpt2_names, .defaults = &gpt2_defaults, .refused = gpt2_refused,
     .rules = gpt2_rules},
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
        if (!name || strcmp(name, last) == 0 || n + strlen(name) + 3 > bytes)
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
        if ((*family)->gguf && strlen((*family)->gguf) == bytes && memcmp((*family)->gguf, architecture, bytes) == 0)
            return QNT_OK;
    }
    *family = NULL;
    list_known(true, known, sizeof known);
    return qnti_fail(ctx, QNT_UNSUPPORTED, "%s: general.architecture \"%.*s\" is not supported; supported are %s",
                     where, (int)qnti_min(bytes, 100), architecture, known);
}
