#!/usr/bin/env python3
"""A second forward pass, to check the library's: perplexity of a model folder on token ids, in numpy.

Written apart from the C code, for Llama-type decoders (Llama, Mistral, Qwen2) with unscaled RoPE and without a sliding
window; weights in one safetensors file, F32, F16 or BF16.  All arithmetic is in the type given by --type.  It is slow
and needs nothing but numpy; no test of the suite runs it.

Usage: reference_forward.py MODEL IDS PROTOCOL CTX [--windows N] [--bos ID] [--type float64]
MODEL is a folder, IDS a file of little-endian int32 ids of a text without special tokens, PROTOCOL llamacpp, gptq or
bos.  --bos is the token that the tokenizer puts in front of a text; without it there is none.
"""
import argparse
import json
import struct

import numpy as np


def load(folder, dtype):
    """The tensors of model.safetensors by name."""
    with open(folder + "/model.safetensors", "rb") as file:
        data = file.read()
    size, = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin:8 + size + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).astype(dtype)
    return tensors


class Model:
    def __init__(self, folder, dtype):
        self.dtype = dtype
        self.weights = load(folder, dtype)
        with open(folder + "/config.json") as file:
            self.config = json.load(file)
        c = self.config
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.head_dim = c.get("head_dim") or c["hidden_size"] // self.heads

    def linear(self, name, x):
        bias = self.weights.get(name + ".bias")
        y = x @ self.weights[name + ".weight"].T
        return y if bias is None else y + bias

    def norm(self, name, x):
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return self.weights[name + ".weight"] * (x / np.sqrt(mean + self.dtype(self.config["rms_norm_eps"])))

    def rope(self, x):
        """x [heads, tokens, head_dim]"""
        half = self.head_dim // 2
        theta = np.float32(self.config.get("rope_theta", 10000))
        frequency = np.float32(1) / theta ** (np.arange(half, dtype=np.float32) / np.float32(half))
        angle = np.arange(x.shape[1], dtype=np.float32)[:, None] * frequency
        cosine, sine = np.cos(angle).astype(self.dtype), np.sin(angle).astype(self.dtype)
        low, high = x[..., :half], x[..., half:]
        return np.concatenate([low * cosine - high * sine, high * cosine + low * sine], axis=-1)

    def attention(self, block, x):
        tokens = len(x)
        q, k, v = (self.linear(f"{block}.self_attn.{part}_proj", x).reshape(tokens, -1, self.head_dim).swapaxes(0, 1)
                   for part in "qkv")
        q, k = self.rope(q), self.rope(k)
        k, v = (np.repeat(part, self.heads // self.kv_heads, axis=0) for part in (k, v))
        scores = q @ k.swapaxes(1, 2) / self.dtype(np.sqrt(self.head_dim))
        scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return self.linear(f"{block}.self_attn.o_proj", (p @ v).swapaxes(0, 1).reshape(tokens, -1))

    def mlp(self, block, x):
        gate = self.linear(f"{block}.mlp.gate_proj", x)
        gate = gate / (1 + np.exp(-gate)) * self.linear(f"{block}.mlp.up_proj", x)
        return self.linear(f"{block}.mlp.down_proj", gate)

    def hidden(self, ids):
        x = self.weights["model.embed_tokens.weight"][ids]
        for i in range(self.config["num_hidden_layers"]):
            block = f"model.layers.{i}"
            x = x + self.attention(block, self.norm(block + ".input_layernorm", x))
            x = x + self.mlp(block, self.norm(block + ".post_attention_layernorm", x))
        return self.norm("model.norm", x)

    def nll(self, ids, first):
        """-ln p of the tokens behind the positions first .. len(ids) - 2"""
        tied = self.config.get("tie_word_embeddings", False)
        head = self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
        logits = (self.hidden(ids)[first:-1] @ head.T).astype(np.float64)
        top = logits.max(axis=-1)
        target = logits[np.arange(len(logits)), ids[first + 1:]]
        return np.log(np.exp(logits - top[:, None]).sum(axis=-1)) - (target - top)


def windows(ids, protocol, ctx, bos):
    if protocol == "bos":
        ids = ids[:len(ids) // (ctx - 1) * (ctx - 1)].reshape(-1, ctx - 1)
        return np.insert(ids, 0, bos, axis=1)
    if bos is not None:
        ids = np.insert(ids, 0, bos)
    ids = ids[:len(ids) // ctx * ctx].reshape(-1, ctx).copy()
    if protocol == "llamacpp" and bos is not None:
        ids[:, 0] = bos
    return ids


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("ids")
    parser.add_argument("protocol", choices=["llamacpp", "gptq", "bos"])
    parser.add_argument("ctx", type=int)
    parser.add_argument("--windows", type=int)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--type", default="float64", choices=["float32", "float64"])
    options = parser.parse_args()
    model = Model(options.model, np.dtype(options.type).type)
    first = options.ctx // 2 if options.protocol == "llamacpp" else 0
    rows = windows(np.fromfile(options.ids, "<i4"), options.protocol, options.ctx, options.bos)[:options.windows]
    nll = np.concatenate([model.nll(row, first) for row in rows])
    print(f"{len(rows)} windows, {len(nll)} tokens scored, perplexity {np.exp(nll.mean()):.6f}")


if __name__ == "__main__":
    main()
