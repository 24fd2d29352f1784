#!/usr/bin/python3
"""A copy of a model whose norms have outlier channels; the function stays the same.

    plant_outliers.py MODEL OUT [--channels 6] [--factor 32] [--seed 1]

In front of the attention and of the mlp of every block the weight (and bias) of so many channels of the norm is
multiplied by the factor, a power of two, and the columns of the linears behind it are divided by it: activations then
have the outlier channels that large models have, and small ones have not. Reads one safetensors file of floats, with
Llama's or OPT's names, and writes f32, where powers of two change nothing but exponents.
"""
import argparse
import json
import os
import re
import shutil
import struct
import sys

import numpy as np

# norm -> the linears behind it, by block prefix
SITES = [
    ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
    ("self_attn_layer_norm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("final_layer_norm", ["fc1"]),
]


def read(path):
    """Every tensor as f32: other types would have no room for what is divided."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, t in header.items():
        raw = data[slice(*t["data_offsets"])]
        if t["dtype"] == "BF16":
            x = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(raw, {"F16": "<f2", "F32": "<f4"}[t["dtype"]])
        tensors[name] = x.astype(np.float32).reshape(t["shape"])
    return tensors


def write(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for x in tensors.values():
            f.write(x.tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model")
    p.add_argument("out")
    p.add_argument("--channels", type=int, default=6)
    p.add_argument("--factor", type=float, default=32)
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    rng = np.random.default_rng(o.seed)
    shutil.copytree(o.model, o.out)
    path = os.path.join(o.out, "model.safetensors")
    tensors = read(path)
    blocks = sorted({m.group(1) for m in (re.match(r"(.*layers\.\d+\.)", n) for n in tensors) if m})
    planted = 0
    for block in blocks:
        for norm, linears in SITES:
            if block + norm + ".weight" not in tensors:
                continue
            channels = rng.choice(len(tensors[block + norm + ".weight"]), o.channels, replace=False)
            for part in (".weight", ".bias"):
                if block + norm + part in tensors:
                    tensors[block + norm + part][channels] *= np.float32(o.factor)
            for linear in linears:
                tensors[block + linear + ".weight"][:, channels] /= np.float32(o.factor)
            planted += 1
    if not planted:
        sys.exit("%s: no norm of a known name" % o.model)
    write(path, tensors)
    print("%d norms, %d channels each times %g" % (planted, o.channels, o.factor))


if __name__ == "__main__":
    main()
