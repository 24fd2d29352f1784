#!/usr/bin/env python3
"""Small made-up models of every family, and what they give: a forward pass in numpy, written apart from the C code.

    python3 tests/family_models.py OUT

For each model OUT/NAME is a Hugging Face folder of random weights, OUT/NAME.ids its token ids (int32), OUT/NAME.logits
the logits at each of them (float32, of a pass in float64); OUT/calibration.npy ids to calibrate on; OUT/names the names.
Sizes are odd, heads share keys, windows are shorter than the sequence, soft caps bend, positions go beyond the original
context where a scaling has one. Exit status 77 without numpy.
"""
import json
import os
import struct
import sys

try:
    import numpy as np
except ImportError:
    print("skipped: numpy is not installed")
    sys.exit(77)

TOKENS, VOCAB = 48, 61
erf = np.vectorize(__import__("math").erf)

USUAL = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 92, "max_position_embeddings": 64}
GEMMA = {**USUAL, "head_dim": 20, "intermediate_size": 96, "query_pre_attn_scalar": 20, "sliding_window": 7,
         "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6}
PHI = {**USUAL, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "rms_norm_eps": 1e-5,
       "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "sliding_window": 30,
       "tie_word_embeddings": False}
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 64, "n_layer": 3,
        "n_head": 4, "n_inner": None, "n_positions": 64, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5}
OPT = {"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": VOCAB, "hidden_size": 64,
       "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 92, "max_position_embeddings": 64,
       "activation_function": "relu", "do_layer_norm_before": True, "word_embed_proj_dim": 64}


def llama(**more):
    return {**USUAL, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False, **more}


def longrope(scale):
    return {"type": "longrope", "short_factor": [1 + i * 0.1 for i in range(6)],
            "long_factor": [scale + i * 0.5 for i in range(6)]}


# name: configuration, type of the weights
MODELS = {
    "llama": (llama(), "F32"),
    "llama-yarn": (llama(rope_scaling={"rope_type": "yarn", "factor": 4.0,
                                       "original_max_position_embeddings": 16}), "F32"),
    "llama-dynamic": (llama(max_position_embeddings=20, rope_scaling={"type": "dynamic", "factor": 2.0}), "F32"),
    "llama-gelu": (llama(hidden_act="gelu", rope_parameters={"rope_type": "default", "rope_theta": 500.0,
                                                            "partial_rotary_factor": 0.5}), "F32"),
    "mistral": ({**llama(), "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 9},
                "F16"),
    "qwen2": ({**llama(), "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": True,
               "sliding_window": 11, "max_window_layers": 1}, "F32"),
    "qwen3": ({**llama(), "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 20,
               "intermediate_size": 96, "rope_theta": 1e6, "tie_word_embeddings": True}, "F32"),
    "qwen3-windows": ({**llama(), "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 20,
                       "intermediate_size": 96, "use_sliding_window": True, "sliding_window": 5, "attention_bias": True,
                       "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}, "F32"),
    "gemma2": ({**GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 1.5}, "F32"),
    "gemma3": ({**GEMMA, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_hidden_layers": 4,
                "sliding_window_pattern": 3, "rope_theta": 1e6, "rope_local_base_freq": 10000.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "BF16"),
    "gemma3-types": ({**GEMMA, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
                      "query_pre_attn_scalar": 31, "num_key_value_heads": 1,
                      "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
                      "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5},
                                          "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}}, "F32"),
    "phi3": ({**PHI, "rope_scaling": None}, "F32"),
    "phi3-short": ({**PHI, "max_position_embeddings": 128, "rope_scaling": longrope(2.0)}, "F32"),
    "phi3-long": ({**PHI, "max_position_embeddings": 128, "original_max_position_embeddings": 32,
                   "rope_scaling": longrope(2.0)}, "F32"),
    "opt": (OPT, "F32"),
    "opt-plain": ({**OPT, "enable_bias": False, "activation_function": "gelu"}, "F16"),
    "gpt2": (GPT2, "F32"),
    "gpt2-inner": ({**GPT2, "n_inner": 92, "activation_function": "quick_gelu"}, "F16"),
}

# Tensors of a family are found with and without the name of the whole model in front.
PREFIXES = {"opt": "model.decoder.", "opt-plain": "decoder.", "gpt2": "", "gpt2-inner": "transformer."}


# --- weights ---

class Maker:
    """Draws tensors by name; rounds them to the type that they are stored in."""

    def __init__(self, seed, dtype):
        self.random = np.random.default_rng(seed)
        self.dtype = dtype
        self.tensors = {}

    def add(self, name, *shape, middle=0.0):
        spread = 0.3 if len(shape) == 1 else 1.2 / np.sqrt(shape[-1])
        x = (middle + spread * self.random.standard_normal(shape)).astype(np.float32)
        if self.dtype == "F16":
            x = x.astype(np.float16).astype(np.float32)
        elif self.dtype == "BF16":
            x = (x.view(np.uint32) + 0x8000 & 0xffff0000).astype(np.uint32).view(np.float32)
        self.tensors[name] = x

    def linear(self, name, out, width, bias, turned=False):
        self.add(name + ".weight", *((width, out) if turned else (out, width)))
        if bias:
            self.add(name + ".bias", out)

    def norm(self, name, width, middle=1.0, bias=False):
        self.add(name + ".weight", width, middle=middle)
        if bias:
            self.add(name + ".bias", width)

    def save(self, path):
        header, data = {}, b""
        for name, x in self.tensors.items():
            raw = (x.astype("<f2") if self.dtype == "F16" else
                   (x.view(np.uint32) >> 16).astype("<u2") if self.dtype == "BF16" else x.astype("<f4")).tobytes()
            header[name] = {"dtype": self.dtype, "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + data)


def make_llama_like(m, c):
    d, f, kind = c["hidden_size"], c["intermediate_size"], c["model_type"]
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    size = c.get("head_dim") or d // heads
    gemma = kind.startswith("gemma")
    middle = 0.0 if gemma else 1.0
    bias = kind == "qwen2" or c.get("attention_bias", False)
    m.add("model.embed_tokens.weight", VOCAB, d)
    m.norm("model.norm", d, middle)
    if not (gemma or c.get("tie_word_embeddings", False)):
        m.add("lm_head.weight", VOCAB, d)
    for i in range(c["num_hidden_layers"]):
        b = f"model.layers.{i}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        for name in norms + ["pre_feedforward_layernorm", "post_feedforward_layernorm"] * gemma:
            m.norm(b + name, d, middle)
        if kind == "phi3":
            m.linear(b + "self_attn.qkv_proj", (heads + 2 * kv) * size, d, False)
            m.linear(b + "mlp.gate_up_proj", 2 * f, d, False)
        else:
            for part, n in (("q", heads), ("k", kv), ("v", kv)):
                m.linear(b + f"self_attn.{part}_proj", n * size, d, bias)
            m.linear(b + "mlp.gate_proj", f, d, False)
            m.linear(b + "mlp.up_proj", f, d, False)
        if kind in ("qwen3", "gemma3_text"):
            m.norm(b + "self_attn.q_norm", size, middle)
            m.norm(b + "self_attn.k_norm", size, middle)
        m.linear(b + "self_attn.o_proj", d, heads * size, bias and kind != "qwen2")
        m.linear(b + "mlp.down_proj", d, f, False)


def make_opt(m, c, prefix):
    d, bias = c["hidden_size"], c.get("enable_bias", True)
    m.add(prefix + "embed_tokens.weight", VOCAB, d)
    m.add(prefix + "embed_positions.weight", c["max_position_embeddings"] + 2, d)
    m.norm(prefix + "final_layer_norm", d, bias=True)
    for i in range(c["num_hidden_layers"]):
        b = f"{prefix}layers.{i}."
        m.norm(b + "self_attn_layer_norm", d, bias=True)
        m.norm(b + "final_layer_norm", d, bias=True)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            m.linear(b + "self_attn." + part, d, d, bias)
        m.linear(b + "fc1", c["ffn_dim"], d, bias)
        m.linear(b + "fc2", d, c["ffn_dim"], bias)


def make_gpt2(m, c, prefix):
    d = c["n_embd"]
    f = c["n_inner"] or 4 * d
    m.add(prefix + "wte.weight", VOCAB, d)
    m.add(prefix + "wpe.weight", c["n_positions"], d)
    m.norm(prefix + "ln_f", d, bias=True)
    for i in range(c["n_layer"]):
        b = f"{prefix}h.{i}."
        m.norm(b + "ln_1", d, bias=True)
        m.norm(b + "ln_2", d, bias=True)
        for part, out, width in (("attn.c_attn", 3 * d, d), ("attn.c_proj", d, d), ("mlp.c_fc", f, d),
                                 ("mlp.c_proj", d, f)):
            m.linear(b + part, out, width, True, turned=True)


# --- forward ---

ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]


def rms(x, w, eps, plus=0.0):
    return (plus + w) * (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps))


def layer_norm(x, w, b, eps):
    middle = x - x.mean(axis=-1, keepdims=True)
    return middle / np.sqrt(np.mean(middle * middle, axis=-1, keepdims=True) + eps) * w + b


def frequencies(c, rope, size, theta):
    """inv_freq and the factor of cosines and sines, for the part of a head that turns."""
    dim = int(size * rope.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    longest = c["max_position_embeddings"]
    orig = rope.get("original_max_position_embeddings", c.get("original_max_position_embeddings", longest))
    base = np.float64(theta)
    i = np.arange(dim // 2)
    if kind == "dynamic" and TOKENS > longest:
        factor = rope["factor"]
        base *= (factor * TOKENS / longest - (factor - 1)) ** (dim / (dim - 2))
    f = base ** (-2.0 * i / dim)
    if kind == "linear":
        f = f / rope["factor"]
    if kind == "yarn":
        def pair(turns):
            return dim * np.log(orig / (turns * 2 * np.pi)) / (2 * np.log(base))
        low, high = max(np.floor(pair(32)), 0), min(np.ceil(pair(1)), dim - 1)
        ramp = np.clip((i - low) / (high - low), 0, 1)
        return f / rope["factor"] * ramp + f * (1 - ramp), 0.1 * np.log(rope["factor"]) + 1
    if kind == "longrope":
        s = longest / orig
        f = f / np.array(rope["long_factor" if TOKENS > orig else "short_factor"])
        return f, 1.0 if s <= 1 else np.sqrt(1 + np.log(s) / np.log(orig))
    return f, 1.0


def turn(x, f, factor):
    """x [tokens][heads][size]"""
    half = len(f)
    angle = np.arange(len(x))[:, None, None] * f
    cosine, sine = np.cos(angle) * factor, np.sin(angle) * factor
    low, high, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return np.concatenate([low * cosine - high * sine, high * cosine + low * sine, rest], axis=-1)


def attention(q, k, v, scale, window, cap):
    """q [tokens][heads][size], k and v of fewer heads"""
    tokens, heads = q.shape[:2]
    out = np.empty_like(q)
    for h in range(heads):
        kv = h // (heads // k.shape[1])
        scores = q[:, h] @ k[:, kv].T * scale
        if cap:
            scores = cap * np.tanh(scores / cap)
        for t in range(tokens):
            first = max(0, t - window + 1) if window else 0
            p = np.exp(scores[t, first:t + 1] - scores[t, first:t + 1].max())
            out[t, h] = p / p.sum() @ v[first:t + 1, kv]
    return out.reshape(tokens, -1)


def sees_window(c, i):
    kind, types = c["model_type"], c.get("layer_types")
    if kind in ("mistral", "phi3"):
        return bool(c.get("sliding_window"))
    if kind in ("qwen2", "qwen3") and not c.get("use_sliding_window"):
        return False
    if kind not in ("qwen2", "qwen3", "gemma2", "gemma3_text"):
        return False
    if types:
        return types[i] == "sliding_attention"
    if kind == "gemma2":
        return i % 2 == 0
    if kind == "gemma3_text":
        return (i + 1) % c["sliding_window_pattern"] != 0
    return i >= c["max_window_layers"]


def rope_of(c, local):
    """Parameters and base."""
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    if "full_attention" in rope:
        rope = rope["sliding_attention" if local else "full_attention"]
        return rope, rope["rope_theta"]
    if local and c["model_type"] == "gemma3_text":
        return {}, c["rope_local_base_freq"]
    return rope, rope.get("rope_theta", c.get("rope_theta", 10000.0))


def llama_like(w, c, ids, dtype):
    heads, kv, kind = c["num_attention_heads"], c["num_key_value_heads"], c["model_type"]
    size, eps = c.get("head_dim") or c["hidden_size"] // heads, c["rms_norm_eps"]
    gemma = kind.startswith("gemma")
    plus = 1.0 if gemma else 0.0
    act = ACTIVATIONS[c.get("hidden_activation", c.get("hidden_act", "silu"))]

    def linear(name, x):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def norm(name, x):
        return rms(x, w[name + ".weight"], eps, plus)

    x = w["model.embed_tokens.weight"][ids]
    if gemma:
        factor = np.array([np.sqrt(c["hidden_size"])], np.float32)
        if dtype == "BF16":
            factor = (factor.view(np.uint32) + 0x8000 & 0xffff0000).astype(np.uint32).view(np.float32)
        x = x * np.float64(factor[0])
    for i in range(c["num_hidden_layers"]):
        b = f"model.layers.{i}."
        local = sees_window(c, i)
        n = norm(b + "input_layernorm", x)
        if kind == "phi3":
            q, k, v = np.split(linear(b + "self_attn.qkv_proj", n), [heads * size, (heads + kv) * size], axis=-1)
        else:
            q, k, v = (linear(b + f"self_attn.{p}_proj", n) for p in "qkv")
        q, k, v = (part.reshape(len(ids), -1, size) for part in (q, k, v))
        if kind in ("qwen3", "gemma3_text"):
            q, k = norm(b + "self_attn.q_norm", q), norm(b + "self_attn.k_norm", k)
        rope, theta = rope_of(c, local)
        f, factor = frequencies(c, rope, size, theta)
        q, k = turn(q, f, factor), turn(k, f, factor)
        scale = c["query_pre_attn_scalar"] ** -0.5 if gemma else size ** -0.5
        y = attention(q, k, v, scale, c["sliding_window"] if local else 0, c.get("attn_logit_softcapping"))
        y = linear(b + "self_attn.o_proj", y)
        x = x + (norm(b + "post_attention_layernorm", y) if gemma else y)
        n = norm(b + ("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"), x)
        if kind == "phi3":
            gate, up = np.split(linear(b + "mlp.gate_up_proj", n), 2, axis=-1)
        else:
            gate, up = linear(b + "mlp.gate_proj", n), linear(b + "mlp.up_proj", n)
        y = linear(b + "mlp.down_proj", act(gate) * up)
        x = x + (norm(b + "post_feedforward_layernorm", y) if gemma else y)
    x = norm("model.norm", x)
    z = x @ w["lm_head.weight" if "lm_head.weight" in w else "model.embed_tokens.weight"].T
    cap = c.get("final_logit_softcapping")
    return cap * np.tanh(z / cap) if cap else z


def opt(w, c, ids, prefix):
    heads, d = c["num_attention_heads"], c["hidden_size"]
    act = ACTIVATIONS[c["activation_function"]]

    def linear(name, x):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def norm(name, x):
        return layer_norm(x, w[name + ".weight"], w[name + ".bias"], 1e-5)

    x = w[prefix + "embed_tokens.weight"][ids] + w[prefix + "embed_positions.weight"][2:2 + len(ids)]
    for i in range(c["num_hidden_layers"]):
        b = f"{prefix}layers.{i}."
        n = norm(b + "self_attn_layer_norm", x)
        q, k, v = (linear(b + f"self_attn.{p}_proj", n).reshape(len(ids), heads, -1) for p in "qkv")
        x = x + linear(b + "self_attn.out_proj", attention(q, k, v, (d // heads) ** -0.5, 0, None))
        x = x + linear(b + "fc2", act(linear(b + "fc1", norm(b + "final_layer_norm", x))))
    return norm(prefix + "final_layer_norm", x) @ w[prefix + "embed_tokens.weight"].T


def gpt2(w, c, ids, prefix):
    heads, d, eps = c["n_head"], c["n_embd"], c["layer_norm_epsilon"]
    act = ACTIVATIONS[c["activation_function"]]

    def conv(name, x):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def norm(name, x):
        return layer_norm(x, w[name + ".weight"], w[name + ".bias"], eps)

    x = w[prefix + "wte.weight"][ids] + w[prefix + "wpe.weight"][:len(ids)]
    for i in range(c["n_layer"]):
        b = f"{prefix}h.{i}."
        q, k, v = (part.reshape(len(ids), heads, -1)
                   for part in np.split(conv(b + "attn.c_attn", norm(b + "ln_1", x)), 3, axis=-1))
        x = x + conv(b + "attn.c_proj", attention(q, k, v, (d // heads) ** -0.5, 0, None))
        x = x + conv(b + "mlp.c_proj", act(conv(b + "mlp.c_fc", norm(b + "ln_2", x))))
    return norm(prefix + "ln_f", x) @ w[prefix + "wte.weight"].T


def build(out, name, seed):
    c, dtype = MODELS[name]
    m = Maker(seed, dtype)
    kind = c["model_type"]
    prefix = PREFIXES.get(name, "")
    make_opt(m, c, prefix) if kind == "opt" else make_gpt2(m, c, prefix) if kind == "gpt2" else make_llama_like(m, c)
    folder = os.path.join(out, name)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(c, file)
    m.save(os.path.join(folder, "model.safetensors"))
    w = {key: x.astype(np.float64) for key, x in m.tensors.items()}
    ids = np.random.default_rng(seed + 1000).integers(0, VOCAB, TOKENS)
    logits = (opt(w, c, ids, prefix) if kind == "opt" else gpt2(w, c, ids, prefix) if kind == "gpt2" else
              llama_like(w, c, ids, dtype))
    ids.astype("<i4").tofile(folder + ".ids")
    logits.astype("<f4").tofile(folder + ".logits")


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    for seed, name in enumerate(MODELS):
        build(out, name, seed)
    np.save(os.path.join(out, "calibration.npy"), np.random.default_rng(5).integers(0, VOCAB, 4000).astype("<i4"))
    with open(os.path.join(out, "names"), "w") as file:
        file.write("\n".join(MODELS) + "\n")


if __name__ == "__main__":
    main()
