/*
 * test_model_damaged.c - checkpoints with one thing wrong: quantizing and evaluating each of them ends with an error
 * that names the file or the tensor, leaves nothing behind and gives all memory back.
 *
 * The good checkpoints are a folder of one file, one of shards, a GGUF, and folders that are quantized already. Each is
 * first shown to be good. What a format allows (another order of keys, room behind the data) is not damage.
 */
#include "damage_support.h"

#define EMBED "model.embed_tokens.weight"
#define NORM "model.norm.weight"
#define BLOCK "model.layers.0."
#define Q_PROJ BLOCK "self_attn.q_proj"
#define UP_PROJ BLOCK "mlp.up_proj"

/* --- damages --- */

static const struct damage configurations[] = {
    {CONFIG, TEXT, "}", .with = ""},
    {CONFIG, TEXT, "{", .with = "["},
    {CONFIG, TEXT, "\"hidden_size\": 64", .with = "\"hidden_size\": 64, \"hidden_size\": 64"},
    {CONFIG, TEXT, "64", .with = "NaN"},
    {CONFIG, TEXT, "64", .with = "Infinity"},
    {CONFIG, TEXT, "64", .with = "-64"},
    {CONFIG, TEXT, "64", .with = "64.5"},
    {CONFIG, TEXT, "64", .with = "1e999"},
    {CONFIG, TEXT, "64", .with = "9223372036854775808"},
    {CONFIG, TEXT, "64", .with = "18446744073709551680"},
    {CONFIG, TEXT, "64", .with = "\"64\""},
    {CONFIG, TEXT, "64", .with = "[64]"},
    {CONFIG, TEXT, "64", .with = "null"},
    {CONFIG, TEXT, "64", .with = deep},
    {CONFIG, TEXT, "64", .with = "0"},
    {CONFIG, TEXT, "64", .with = "32", .says = EMBED},
    {CONFIG, TEXT, "hidden_size", .with = "hidden_\xff\xfe"},
    {CONFIG, TEXT, "hidden_size", .with = "hidden_\\ud800"},
    {CONFIG, TEXT, "hidden_size", .with = "hidden_size\\"},
    {CONFIG, TEXT, "\"num_hidden_layers\": 1", .with = "\"num_hidden_layers\": 2", .says = "model.layers.1."},
    {CONFIG, TEXT, "\"num_hidden_layers\": 1", .with = "\"num_hidden_layers\": 4611686018427387904"},
    {CONFIG, TEXT, "\"num_attention_heads\": 4", .with = "\"num_attention_heads\": 0"},
    {CONFIG, TEXT, "\"num_attention_heads\": 4", .with = "\"num_attention_heads\": 2305843009213693952"},
    {CONFIG, TEXT, "\"num_attention_heads\": 4",
     .with = "\"num_attention_heads\": 8, \"head_dim\": 2305843009213693952"},
    {CONFIG, TEXT, "\"num_key_value_heads\": 2", .with = "\"num_key_value_heads\": 3"},
    {CONFIG, TEXT, "\"vocab_size\": 40", .with = "\"vocab_size\": 41", .says = EMBED},
    {CONFIG, TEXT, "\"vocab_size\": 40", .with = "\"vocab_size\": true"},
    {CONFIG, TEXT, "1e-5", .with = "-1e-5"},
    {CONFIG, TEXT, "1e-5", .with = "{}"},
    {CONFIG, TEXT, "[\"LlamaForCausalLM\"]", .with = "\"LlamaForCausalLM\""},
    {CONFIG, TEXT, "[\"LlamaForCausalLM\"]", .with = "[7]"},
    {CONFIG, TEXT, "false", .with = "\"false\""},
    {.file = CONFIG, .act = GONE},
    {.file = CONFIG, .act = FOLDER},
    {.file = MODEL, .act = GONE},
    {.file = MODEL, .act = FOLDER},
    {TOKENIZER, TEXT, "{", .with = "[["},
    {TOKENIZER, TEXT, "\"a\":0", .with = "\"a\":-1"},
    {TOKENIZER, TEXT, "\"a\":0", .with = "\"a\":1e30"},
    {TOKENIZER, TEXT, "\"a\":0", .with = "\"a\":null"},
    {TOKENIZER, TEXT, "\"a b\"", .with = "\"a z\""},
    {TOKENIZER, TEXT, "\"a b\"", .with = "7"},
    {TOKENIZER, TEXT, "\"BPE\"", .with = "\"Nothing\""},
    {TOKENIZER, TEXT, "\"a\":0", .with = "\"\xc3\x28\":0"},
    {TOKENIZER, TEXT, "[\"a b\"]", .with = deep},
    {.file = TOKENIZER, .act = FOLDER},
};

/* Of the header of a file with plain tensors: for the one file, and for the second shard. */
static const struct damage headers[] = {
    {MODEL, SET, NULL, .width = 8, .value = 0},
    {MODEL, SET, NULL, .width = 8, .value = 1},
    {MODEL, SET, NULL, .width = 8, .value = UINT32_MAX},
    {MODEL, SET, NULL, .width = 8, .value = UINT64_C(1) << 63},
    {MODEL, SET, NULL, .width = 8, .value = UINT64_MAX},
    {MODEL, SET, NULL, .width = 8, .value = UINT64_MAX - 7},
    {MODEL, SET, NULL, .at = 8, .width = 1, .value = '['},
    {MODEL, SET, NULL, .at = 9, .width = 1, .value = 0},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" UP_PROJ ".weigh\xff\""},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" UP_PROJ ".weigh\xc0\x80\""},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" UP_PROJ ".weigh\\u0000\""},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" UP_PROJ ".weigh\\ud800\""},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" UP_PROJ ".weight"},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" UP_PROJ ".heavy\"", .says = UP_PROJ ".weight"},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" BLOCK "mlp.down_proj.weight\""},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\"", .with = "\"" UP_PROJ ".weight\":{},\"" UP_PROJ ".weight\""},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\":{", .with = "\"" UP_PROJ ".weight\":{\"dtype\":\"F32\","},
    {MODEL, TEXT, "\"" UP_PROJ ".weight\":{", .with = "\"" UP_PROJ ".weight\":[{"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[64,96]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[6144]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[1,96,64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[96,63]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[0,64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[-96,-64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[96.0,64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[9.6e1,64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[\"96\",64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[NaN,64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[4294967296,4294967296]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[9223372036854775808,2]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[9223372036854775808,2,0]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[18446744073709551615]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[18446744073709551616]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,96,64]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = "96"},
    {MODEL, ENTRY, UP_PROJ ".weight", "shape", .with = deep},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "\"I32\""},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "\"F16\""},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "\"F64\""},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "\"F4\""},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "\"f32\""},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "\"FLOAT\""},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "32"},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "null"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[0,24576]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[4,24580]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[24576,0]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[-24576,0]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[1000000,1024576]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[18446744073709527040,18446744073709551615]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[9223372036854775807,9223372036854800383]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[0,24575]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[0]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "[0,24576,24576]"},
    {MODEL, ENTRY, UP_PROJ ".weight", "data_offsets", .with = "null"},
};

static const struct damage numbers[] = {
    {MODEL, DATA, EMBED, .at = 2559, .width = 4, .value = 0x7fc00000},
    {MODEL, DATA, NORM, .at = 63, .width = 4, .value = 0x7f800000},
    {MODEL, DATA, "lm_head.weight", .at = 0, .width = 4, .value = 0xff800000},
    {MODEL, DATA, BLOCK "input_layernorm.weight", .at = 1, .width = 4, .value = 0xffffffff},
    {MODEL, DATA, Q_PROJ ".weight", .at = 4095, .width = 4, .value = 0x7f800001},
    {MODEL, DATA, Q_PROJ ".bias", .at = 63, .width = 4, .value = 0x7fc00000},
    {MODEL, DATA, UP_PROJ ".weight", .at = 17, .width = 4, .value = 0xff800000},
};

static const struct damage halves[] = {
    {MODEL, DATA, EMBED, .at = 2559, .width = 2, .value = 0x7fc0},
    {MODEL, DATA, NORM, .at = 0, .width = 2, .value = 0x7f80},
    {MODEL, DATA, UP_PROJ ".weight", .at = 6143, .width = 2, .value = 0xff80},
    {MODEL, DATA, Q_PROJ ".bias", .at = 1, .width = 2, .value = 0xff81},
};

static const struct damage indices[] = {
    {INDEX, TEXT, "{", .with = "[{"},
    {INDEX, TEXT, "weight_map", .with = "weight_maps"},
    {INDEX, TEXT, "weight_map\":{", .with = "weight_map\":" "{\"" NORM "\":7,"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "null"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "\"\"", .says = "in the same folder"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "\".\"", .says = "in the same folder"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "\"../folder/" MODEL "\"", .says = "in the same folder"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "\"/dev/zero\"", .says = "in the same folder"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "\"model-00003-of-00002.safetensors\"", .says = "model-00003-of"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "\"config.json\"", .says = "config.json"},
    {INDEX, TEXT, "\"" SHARD "\"", .with = "\"model-00001-of-00002.safetensors\"", .says = "model-00001-of"},
    {INDEX, TEXT, "\"model.", .with = "\"modle.", .says = "has no tensor"},
    {INDEX, TEXT, "\"model.", .with = "\"model.\xff"},
    {.file = INDEX, .act = GONE, .says = "shards"},
    {.file = INDEX, .act = FOLDER},
    {.file = SHARD, .act = GONE},
    {.file = SHARD, .act = FOLDER},
};

/* A name is followed by u32 dimensions, u64 each, u32 type, u64 offset; a key by u32 type and its value. */
static const struct damage ggufs[] = {
    {GGUF, SET, NULL, .width = 4, .value = 0x46554746},
    {GGUF, SET, NULL, .at = 4, .width = 4, .value = 0},
    {GGUF, SET, NULL, .at = 4, .width = 4, .value = 1},
    {GGUF, SET, NULL, .at = 4, .width = 4, .value = 0x03000000},
    {GGUF, SET, NULL, .at = 4, .width = 4, .value = 99},
    {GGUF, SET, NULL, .at = 8, .width = 8, .value = 0},
    {GGUF, SET, NULL, .at = 8, .width = 8, .value = 3},
    {GGUF, SET, NULL, .at = 8, .width = 8, .value = UINT64_C(1) << 60},
    {GGUF, SET, NULL, .at = 8, .width = 8, .value = UINT64_MAX},
    {GGUF, SET, NULL, .at = 16, .width = 8, .value = 1},
    {GGUF, SET, NULL, .at = 16, .width = 8, .value = UINT64_C(1) << 63},
    {GGUF, SET, NULL, .at = 24, .width = 8, .value = 0},
    {GGUF, SET, NULL, .at = 24, .width = 8, .value = UINT64_MAX},
    {GGUF, SET, NULL, .at = 24, .width = 8, .value = INT64_MAX},
    {GGUF, SET, "general.architecture", .width = 4, .value = 4, .says = GGUF},
    {GGUF, SET, "general.architecture", .width = 4, .value = 13, .says = "general.architecture"},
    {GGUF, SET, "general.architecture", .at = 4, .width = 8, .value = UINT64_MAX, .says = "general.architecture"},
    {GGUF, SET, "general.architecture", .at = 12, .width = 1, .value = 'x', .says = "xlama"},
    {GGUF, SET, "general.architecture", .at = 12, .width = 1, .value = 0xff, .says = GGUF},
    {GGUF, SET, "llama.block_count", .at = 4, .width = 4, .value = 0, .says = GGUF},
    {GGUF, SET, "llama.block_count", .at = 4, .width = 4, .value = 2, .says = "blk.1."},
    {GGUF, SET, "llama.block_count", .at = 4, .width = 4, .value = UINT32_MAX, .says = GGUF},
    {GGUF, SET, "llama.block_count", .width = 4, .value = 6, .says = "llama.block_count"},
    {GGUF, SET, "llama.block_count", .width = 4, .value = 9, .says = GGUF},
    {GGUF, SET, "llama.embedding_length", .at = 4, .width = 4, .value = 0, .says = GGUF},
    {GGUF, SET, "llama.embedding_length", .at = 4, .width = 4, .value = 63, .says = GGUF},
    {GGUF, SET, "llama.feed_forward_length", .at = 4, .width = 4, .value = 97, .says = "blk.0.ffn_"},
    {GGUF, SET, "llama.attention.head_count", .at = 4, .width = 4, .value = 0, .says = GGUF},
    {GGUF, SET, "llama.attention.head_count", .at = 4, .width = 4, .value = 3, .says = GGUF},
    {GGUF, SET, "llama.attention.head_count_kv", .at = 4, .width = 4, .value = 3, .says = GGUF},
    {GGUF, SET, "llama.attention.layer_norm_rms_epsilon", .at = 4, .width = 4, .value = 0x7fc00000, .says = GGUF},
    {GGUF, SET, "llama.attention.layer_norm_rms_epsilon", .at = 4, .width = 4, .value = 0xbf800000, .says = GGUF},
    {GGUF, SET, "llama.rope.freq_base", .at = 4, .width = 4, .value = 0, .says = GGUF},
    {GGUF, SET, "llama.rope.freq_base", .at = 4, .width = 4, .value = 0x7f800000, .says = GGUF},
    {GGUF, SET, "tokenizer.ggml.tokens", .at = 4, .width = 4, .value = 9, .says = "tokenizer.ggml.tokens"},
    {GGUF, SET, "tokenizer.ggml.tokens", .at = 4, .width = 4, .value = 5, .says = GGUF},
    {GGUF, SET, "tokenizer.ggml.tokens", .at = 8, .width = 8, .value = UINT64_C(1) << 62, .says = "ggml.tokens"},
    {GGUF, SET, "tokenizer.ggml.tokens", .at = 16, .width = 8, .value = UINT64_MAX, .says = "tokenizer.ggml.tokens"},
    {GGUF, SET, "tokenizer.ggml.token_type", .at = 8, .width = 8, .value = UINT64_C(1) << 62, .says = "token_type"},
    {GGUF, SET, "blk.0.ffn_up.weight", .width = 4, .value = 0},
    {GGUF, SET, "blk.0.ffn_up.weight", .width = 4, .value = 1},
    {GGUF, SET, "blk.0.ffn_up.weight", .width = 4, .value = 5},
    {GGUF, SET, "blk.0.ffn_up.weight", .width = 4, .value = UINT32_MAX},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 4, .width = 8, .value = 0},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 4, .width = 8, .value = 96},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 4, .width = 8, .value = UINT64_C(1) << 62},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 4, .width = 8, .value = UINT64_C(1) << 63},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 12, .width = 8, .value = UINT64_C(1) << 57},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 12, .width = 8, .value = UINT64_MAX},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 20, .width = 4, .value = 0x80000000},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 20, .width = 4, .value = 4},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 20, .width = 4, .value = 999},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 24, .width = 8, .value = 0},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 24, .width = 8, .value = 1},
    {GGUF, SET, "blk.0.ffn_up.weight", .at = 24, .width = 8, .value = UINT64_MAX - 31},
    {GGUF, TEXT, "blk.0.ffn_up.weight", .with = "blk.0.ffn_up.heavy!"},
    {GGUF, TEXT, "blk.0.ffn_up.weight", .with = "blk.0.attn_k.weight"},
    {GGUF, TEXT, "output_norm.weight", .with = "output_norm.\xff\xfe\xff\xff\xff\xff", .says = "output_norm"},
    {GGUF, TEXT, "llama.embedding_length", .with = "llama.embedding_lengtX", .says = "llama.embedding_length"},
    {GGUF, TEXT, "llama.embedding_length", .with = "general.architecture\xc3\x28", .says = "llama.embedding_length"},
    {.file = GGUF, .act = GONE},
    {.file = GGUF, .act = FOLDER, .says = "gguf"},
};

static const struct damage gptq[] = {
    {MODEL, TEXT, Q_PROJ ".qweight", .with = Q_PROJ ".qwaight", .says = Q_PROJ},
    {MODEL, TEXT, Q_PROJ ".qzeros", .with = Q_PROJ ".qzaros", .says = Q_PROJ},
    {MODEL, TEXT, Q_PROJ ".scales", .with = Q_PROJ ".scalas", .says = Q_PROJ},
    {MODEL, ENTRY, Q_PROJ ".qweight", "shape", .with = "[64,8]"},
    {MODEL, ENTRY, Q_PROJ ".qweight", "shape", .with = "[512]"},
    {MODEL, ENTRY, Q_PROJ ".qweight", "shape", .with = "[512,1]"},
    {MODEL, ENTRY, Q_PROJ ".qweight", "shape", .with = "[0,64]"},
    {MODEL, ENTRY, Q_PROJ ".qweight", "dtype", .with = "\"F32\""},
    {MODEL, ENTRY, Q_PROJ ".qweight", "dtype", .with = "\"U32\""},
    {MODEL, ENTRY, Q_PROJ ".qzeros", "shape", .with = "[8,2]"},
    {MODEL, ENTRY, Q_PROJ ".qzeros", "shape", .with = "[1,16]"},
    {MODEL, ENTRY, Q_PROJ ".qzeros", "shape", .with = "[16]"},
    {MODEL, ENTRY, Q_PROJ ".qzeros", "dtype", .with = "\"F32\""},
    {MODEL, ENTRY, Q_PROJ ".scales", "shape", .with = "[64,2]"},
    {MODEL, ENTRY, Q_PROJ ".scales", "shape", .with = "[128]"},
    {MODEL, ENTRY, Q_PROJ ".scales", "shape", .with = "[1,128]"},
    {MODEL, ENTRY, Q_PROJ ".scales", "dtype", .with = "\"I16\""},
    {MODEL, ENTRY, Q_PROJ ".g_idx", "shape", .with = "[8,8]"},
    {MODEL, ENTRY, Q_PROJ ".g_idx", "dtype", .with = "\"F32\""},
    {MODEL, DATA, Q_PROJ ".g_idx", .at = 63, .width = 4, .value = 2},
    {MODEL, DATA, Q_PROJ ".g_idx", .at = 0, .width = 4, .value = UINT32_MAX},
    {MODEL, DATA, Q_PROJ ".g_idx", .at = 1, .width = 4, .value = INT32_MAX},
    {MODEL, DATA, Q_PROJ ".scales", .at = 127, .width = 2, .value = 0x7c00},
    {MODEL, DATA, Q_PROJ ".scales", .at = 0, .width = 2, .value = 0xfe00},
    {MODEL, DATA, NORM, .at = 0, .width = 2, .value = 0x7e00},
    {CONFIG, TEXT, "\"bits\": 4", .with = "\"bits\": 5"},
    {CONFIG, TEXT, "\"bits\": 4", .with = "\"bits\": 8", .says = BLOCK},
    {CONFIG, TEXT, "\"bits\": 4", .with = "\"bits\": \"4\""},
    {CONFIG, TEXT, "\"bits\": 4", .with = "\"bits\": 4294967300"},
    {CONFIG, TEXT, "\"group_size\": 32", .with = "\"group_size\": 0"},
    {CONFIG, TEXT, "\"group_size\": 32", .with = "\"group_size\": -2"},
    {CONFIG, TEXT, "\"group_size\": 32", .with = "\"group_size\": 64", .says = BLOCK},
    {CONFIG, TEXT, "\"group_size\": 32", .with = "\"group_size\": \"32\""},
    {CONFIG, TEXT, "\"quant_method\": \"gptq\"", .with = "\"quant_method\": \"gtpq\"", .says = "gtpq"},
    {CONFIG, TEXT, "\"quant_method\": \"gptq\"", .with = "\"quant_method\": 7"},
    {CONFIG, TEXT, "\"quant_method\": \"gptq\"", .with = "\"quant_method\": \"awq\"", .says = "gptq"},
};

static const struct damage awq[] = {
    {MODEL, TEXT, UP_PROJ ".qweight", .with = UP_PROJ ".qwaight", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".qzeros", .with = UP_PROJ ".qzaros", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".scales", .with = UP_PROJ ".scalas", .says = UP_PROJ},
    {MODEL, ENTRY, UP_PROJ ".qweight", "shape", .with = "[12,64]"},
    {MODEL, ENTRY, UP_PROJ ".qweight", "shape", .with = "[768]"},
    {MODEL, ENTRY, UP_PROJ ".qweight", "dtype", .with = "\"F32\""},
    {MODEL, ENTRY, UP_PROJ ".qzeros", "shape", .with = "[12,2]"},
    {MODEL, ENTRY, UP_PROJ ".qzeros", "dtype", .with = "\"U32\""},
    {MODEL, ENTRY, UP_PROJ ".scales", "shape", .with = "[96,2]"},
    {MODEL, ENTRY, UP_PROJ ".scales", "shape", .with = "[192]"},
    {MODEL, DATA, UP_PROJ ".scales", .at = 191, .width = 2, .value = 0x7e01},
    {MODEL, DATA, UP_PROJ ".scales", .at = 0, .width = 2, .value = 0xfc00},
    {CONFIG, TEXT, "\"bits\": 4", .with = "\"bits\": 3"},
    {CONFIG, TEXT, "\"group_size\": 32", .with = "\"group_size\": 16", .says = BLOCK},
    {CONFIG, TEXT, "\"group_size\": 32", .with = "\"group_size\": 1.5"},
    {CONFIG, TEXT, "\"zero_point\": true", .with = "\"zero_point\": false"},
    {CONFIG, TEXT, "\"zero_point\": true", .with = "\"zero_point\": 1"},
    {CONFIG, TEXT, "\"quant_method\": \"awq\"", .with = "\"quant_method\": \"gptq\""},
};

#define STATE ".weight.quant_state.bitsandbytes__nf4"

static const struct damage bnb[] = {
    {MODEL, TEXT, UP_PROJ ".weight.quant_map", .with = UP_PROJ ".weight.quart_map", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".weight.nested_absmax", .with = UP_PROJ ".weight.nestad_absmax", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".weight.nested_quant_map", .with = UP_PROJ ".weight.nested_quart_map", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ STATE, .with = UP_PROJ ".weight.quant_stata.bitsandbytes__nf4", .says = UP_PROJ},
    {MODEL, ENTRY, UP_PROJ ".weight", "dtype", .with = "\"F32\""},
    {MODEL, ENTRY, UP_PROJ ".weight.absmax", "dtype", .with = "\"I8\"", .says = UP_PROJ},
    {MODEL, ENTRY, UP_PROJ ".weight.quant_map", "dtype", .with = "\"I32\"", .says = UP_PROJ},
    {MODEL, TEXT, "\"blocksize\": 64", .with = "\"blocksize\": 32", .says = BLOCK},
    {MODEL, TEXT, "\"blocksize\": 64", .with = "\"blocksize\": 00", .says = BLOCK},
    {MODEL, TEXT, "\"blocksize\": 64", .with = "\"blacksize\": 64", .says = BLOCK},
    {MODEL, TEXT, "\"nested_offset\": 0.", .with = "\"nested_offset\": x.", .says = BLOCK},
    {MODEL, DATA, UP_PROJ ".weight.nested_absmax", .at = 0, .width = 4, .value = 0x7f800000, .says = UP_PROJ},
    {MODEL, DATA, UP_PROJ ".weight.quant_map", .at = 15, .width = 4, .value = 0x7fc00000, .says = UP_PROJ},
    {MODEL, DATA, UP_PROJ ".weight.nested_quant_map", .at = 0, .width = 4, .value = 0xff800000, .says = UP_PROJ},
    {MODEL, DATA, UP_PROJ STATE, .at = 0, .width = 1, .value = '[', .says = UP_PROJ},
    {CONFIG, TEXT, "\"quant_method\": \"bitsandbytes\"", .with = "\"quant_method\": \"bytesandbits\"",
     .says = "bytesandbits"},
    {CONFIG, TEXT, "\"quant_method\": \"bitsandbytes\"", .with = "\"quant_method\": \"gptq\"", .says = "gptq"},
    {CONFIG, TEXT, "\"llm_int8_has_fp16_weight\": false", .with = "\"llm_int8_has_fp16_weight\": true"},
    {CONFIG, TEXT, "\"llm_int8_threshold\": 6.0", .with = "\"llm_int8_threshold\": -1"},
};

static const struct damage int8[] = {
    {MODEL, TEXT, Q_PROJ ".SCB", .with = Q_PROJ ".SCX", .says = Q_PROJ},
    {MODEL, ENTRY, Q_PROJ ".weight", "dtype", .with = "\"U8\""},
    {MODEL, ENTRY, Q_PROJ ".weight", "shape", .with = "[32,128]"},
    {MODEL, ENTRY, Q_PROJ ".weight", "shape", .with = "[4096]"},
    {MODEL, ENTRY, Q_PROJ ".SCB", "dtype", .with = "\"I32\""},
    {MODEL, DATA, Q_PROJ ".SCB", .at = 63, .width = 4, .value = 0x7f800000},
    {MODEL, DATA, Q_PROJ ".weight_format", .at = 0, .width = 1, .value = 3, .says = "weight_format 3"},
    {CONFIG, TEXT, "\"llm_int8_threshold\": 6.0", .with = "\"llm_int8_threshold\": \"6\""},
};

/* Numbers of a grid: rows, columns, form, bits, levels, map, its rows and columns, groups of an index, types. */
static const struct damage native[] = {
    {MODEL, TEXT, "\"quant_format\":\"native\"", .with = "\"quant_format\":\"naive\"", .says = "naive"},
    {MODEL, TEXT, UP_PROJ ".layer", .with = UP_PROJ ".loyal", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".segments", .with = UP_PROJ ".segmants", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".segment0.codes", .with = UP_PROJ ".segment0.cades", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".segment0.grid", .with = UP_PROJ ".segment0.grit", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".segment0.scale.grid", .with = UP_PROJ ".segment0.scale.grit", .says = UP_PROJ},
    {MODEL, TEXT, UP_PROJ ".segment0.scale.values", .with = UP_PROJ ".segment0.scale.valuas", .says = UP_PROJ},
    {MODEL, ENTRY, UP_PROJ ".layer", "dtype", .with = "\"F32\""},
    {MODEL, ENTRY, UP_PROJ ".segment0.codes", "dtype", .with = "\"I8\""},
    {MODEL, ENTRY, UP_PROJ ".segment0.scale.values", "dtype", .with = "\"U16\""},
    {MODEL, DATA, UP_PROJ ".layer", .at = 0, .width = 4, .value = 99},
    {MODEL, DATA, UP_PROJ ".layer", .at = 1, .width = 4, .value = 0},
    {MODEL, DATA, UP_PROJ ".layer", .at = 1, .width = 4, .value = INT32_MAX},
    {MODEL, DATA, UP_PROJ ".layer", .at = 2, .width = 4, .value = UINT32_MAX},
    {MODEL, DATA, UP_PROJ ".layer", .at = 3, .width = 4, .value = 0},
    {MODEL, DATA, UP_PROJ ".layer", .at = 3, .width = 4, .value = INT32_MAX},
    {MODEL, DATA, UP_PROJ ".segments", .at = 0, .width = 4, .value = 1},
    {MODEL, DATA, UP_PROJ ".segments", .at = 1, .width = 4, .value = 63},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 0, .width = 4, .value = 97},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 0, .width = 4, .value = INT32_MAX},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 1, .width = 4, .value = 0},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 2, .width = 4, .value = 99},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 3, .width = 4, .value = 0},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 3, .width = 4, .value = 33},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 3, .width = 4, .value = 5},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 4, .width = 4, .value = 1},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 4, .width = 4, .value = 17},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 5, .width = 4, .value = UINT32_MAX},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 7, .width = 4, .value = UINT32_MAX},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 7, .width = 4, .value = 16},
    {MODEL, DATA, UP_PROJ ".segment0.grid", .at = 10, .width = 4, .value = 99},
    {MODEL, DATA, UP_PROJ ".segment0.scale.grid", .at = 1, .width = 4, .value = 3},
    {MODEL, DATA, UP_PROJ ".segment0.scale.grid", .at = 2, .width = 4, .value = 3},
    {MODEL, DATA, UP_PROJ ".segment0.scale.values", .at = 191, .width = 2, .value = 0x7e00},
    {MODEL, DATA, UP_PROJ ".segment0.scale.values", .at = 0, .width = 2, .value = 0xfc00},
    {CONFIG, TEXT, "\"hidden_size\": 64", .with = "\"hidden_size\": \"64\""},
};

/* Without damage all is well; otherwise the tests below would show nothing. */
static void good(void **state)
{
    (void)state;
    for (size_t i = 0; i < KINDS; i++)
        for (damaged = 0; damaged < 2; damaged++) { /* quantized with and without calibration */
            qnt_context *ctx = context_with(NULL);
            if (quantize(ctx, &subjects[i]) != QNT_OK || evaluate(ctx, &subjects[i]) != QNT_OK)
                fail_msg("%s: %s", subjects[i].name, qnt_context_message(ctx));
            qnt_context_destroy(ctx);
            remove_tree("out/o");
        }
    damaged = 0;
}

/* --- tests --- */

static void test_configurations(void **state)
{
    (void)state;
    run_all(FOLDER_KIND, configurations, COUNT(configurations));
}

static void test_headers(void **state)
{
    (void)state;
    run_all(FOLDER_KIND, headers, COUNT(headers));
    for (size_t i = 0; i < COUNT(headers); i++) {
        struct damage d = headers[i];
        d.file = SHARD;
        run_damage(&subjects[SHARDS_KIND], &d);
    }
}

static void test_numbers(void **state)
{
    (void)state;
    run_all(FOLDER_KIND, numbers, COUNT(numbers));
    run_all(BF16_KIND, halves, COUNT(halves));
}

static void test_indices(void **state)
{
    (void)state;
    run_all(SHARDS_KIND, indices, COUNT(indices));
}

static void test_ggufs(void **state)
{
    (void)state;
    run_all(GGUF_KIND, ggufs, COUNT(ggufs));
}

/* The last number of an f32 tensor, the scale of the last block of a quantized one; 32 bytes are its codes. */
static void test_gguf_numbers(void **state)
{
    const struct damage plain = {GGUF, SET, NULL, .at = image_of(&subjects[GGUF_KIND], GGUF)->n - 4, .width = 4,
                                 .value = 0x7fc00000, .says = "model."};
    struct damage scale = {GGUF, SET, NULL, .width = 2, .value = 0x7c00, .says = "model."};
    (void)state;
    run_damage(&subjects[GGUF_KIND], &plain);
    for (size_t i = 1; i < 4; i++) {
        scale.at = image_of(&subjects[BLOCKS_KIND], GGUF)->n - 34 * i;
        run_damage(&subjects[BLOCKS_KIND], &scale);
    }
}

static void test_quantized(void **state)
{
    (void)state;
    run_all(GPTQ_KIND, gptq, COUNT(gptq));
    run_all(AWQ_KIND, awq, COUNT(awq));
    run_all(NATIVE_KIND, native, COUNT(native));
    run_all(BNB_KIND, bnb, COUNT(bnb));
    run_all(INT8_KIND, int8, COUNT(int8));
}

/* Each file of each kind, ended at ten places. */
static void test_cuts(void **state)
{
    static const size_t bytes[] = {0, 1, 7, 8, 9, 100};
    (void)state;
    for (size_t i = 0; i < KINDS; i++)
        for (size_t f = 0; f < MOST_FILES && subjects[i].names[f]; f++)
            for (size_t k = 0; k < COUNT(bytes) + 4; k++) {
                size_t n = subjects[i].files[f].n;
                struct damage cut = {.file = subjects[i].names[f], .act = CUT};
                cut.at = k < COUNT(bytes) ? bytes[k] : k == COUNT(bytes) ? n - 2 : (k - COUNT(bytes)) * n / 4;
                run_damage(&subjects[i], &cut);
            }
}

static void at_least_200(void **state)
{
    (void)state;
    print_message("%zu damaged checkpoints\n", damaged);
    assert_true(damaged >= 200 && tried == 2 * damaged);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good),         cmocka_unit_test(test_configurations), cmocka_unit_test(test_headers),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_indices),        cmocka_unit_test(test_ggufs),
        cmocka_unit_test(test_gguf_numbers), cmocka_unit_test(test_quantized), cmocka_unit_test(test_cuts),
        cmocka_unit_test(at_least_200),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
