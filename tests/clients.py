#!/usr/bin/env python3
"""Opens GPTQ, AWQ, bitsandbytes and compressed-tensors folders that quant writes with the programs that load them.

    python3 tests/clients.py build/bin/quant [MODEL]

Every layer is also decoded here, by the formats' definitions alone (numpy), and the model of the decoded weights is
evaluated: the tool must find the same perplexity in both. Clients that are not installed are skipped with a message:
safetensors, gptqmodel, autoawq (its file packing_utils.py, which needs torch only), bitsandbytes, compressed-tensors,
transformers (with optimum for GPTQ). All of it runs on a CPU. One line a check, `N passed, N failed, N skipped` at the
end; exit status 1 if one failed, 77 if numpy is missing.
"""
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"

try:
    import numpy as np
except ImportError:
    print("skipped: numpy is not installed")
    sys.exit(77)

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "examples", "data")
TEXT = os.path.join(DATA, "calibration.txt")
TYPES = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "U8": np.uint8, "I8": np.int8,
         "BF16": np.uint16, "I64": np.int64, "F8_E4M3": np.uint8}
STATE = ".weight.quant_state.bitsandbytes__"
CALIBRATED = ("--method", "gptq", "--calib", TEXT, "--samples", "4", "--seqlen", "64")
NEAREST = ("--method", "rtn")

# name, format, arguments
CASES = [(f"gptq {bits} bits {'sym' if sym else 'asym'}", "gptq",
          (*NEAREST, "--bits", str(bits), "--group-size", "32", "--set", f"sym={str(sym).lower()}"))
         for bits in (2, 3, 4, 8) for sym in (True, False)]
CASES += [
    ("gptq:v2 sym", "gptq:v2", (*NEAREST, "--group-size", "64")),
    ("gptq defaults", "gptq", CALIBRATED),
    ("gptq act order", "gptq", (*CALIBRATED, "--group-size", "32", "--set", "act_order=true")),
    ("gptq act order asym", "gptq", (*CALIBRATED, "--group-size", "64", "--set", "act_order=true", "--set", "sym=false")),
    ("gptq short last group", "gptq", (*NEAREST, "--group-size", "512", "--set", "sym=false")),
    ("gptq row", "gptq", (*NEAREST, "--group-size", "0", "--set", "sym=false")),
    ("awq", "awq", (*NEAREST, "--group-size", "32")),
    ("awq defaults", "awq", CALIBRATED),
    ("awq sym", "awq", (*NEAREST, "--group-size", "64", "--set", "sym=true")),
    ("awq row", "awq", (*NEAREST, "--group-size", "0")),
    ("bnb nf4", "bnb", ("--method", "bnb4")),
    ("bnb nf4 nested defaults", "bnb", ("--method", "bnb4", "--set", "double_quant=true")),
    ("bnb fp4 nested", "bnb", ("--method", "bnb4", "--set", "format=fp4", "--set", "double_quant=true", "--set", "block_size=32")),
    ("bnb int8", "bnb", ("--method", "llm_int8")),
]
CT = "compressed-tensors"
CASES += [(f"{CT} {bits} bits {'sym' if sym else 'asym'}", CT,
           (*NEAREST, "--bits", str(bits), "--group-size", "32", "--set", f"sym={str(sym).lower()}"))
          for bits in range(2, 9) for sym in (True, False)]
CASES += [
    (f"{CT} w4a16 defaults", f"{CT}:w4a16", CALIBRATED),
    (f"{CT} w8a16", f"{CT}:w8a16", NEAREST),
    (f"{CT} w8a8 defaults", f"{CT}:w8a8", NEAREST),
    (f"{CT} w8a8 static defaults", CT, ("--method", "smoothquant", "--set", "act_granularity=tensor", "--set", "act_static=true",
                                        *CALIBRATED[2:])),
    (f"{CT} fp8 defaults", f"{CT}:fp8", (*NEAREST, *CALIBRATED[2:])),
    (f"{CT} fp8-dynamic defaults", f"{CT}:fp8-dynamic", NEAREST),
    (f"{CT} fp8-block", f"{CT}:fp8-block", NEAREST),
    (f"{CT} nvfp4a16 defaults", f"{CT}:nvfp4a16", NEAREST),
    (f"{CT} nvfp4", f"{CT}:nvfp4", (*NEAREST, *CALIBRATED[2:])),
    (f"{CT} mxfp4a16 defaults", f"{CT}:mxfp4a16", NEAREST),
    (f"{CT} mxfp4", f"{CT}:mxfp4", NEAREST),
]

counts = {"passed": 0, "failed": 0, "skipped": 0}

def report(kind, name, why=""):
    counts[kind] += 1
    print({"passed": "ok  ", "failed": "FAIL", "skipped": "skip"}[kind], name + (f": {why}" if why else ""), flush=True)

def check(name, good, why=""):
    report("passed" if good else "failed", name, "" if good else why)

# ---- the formats by their definitions -------------------------------------------------------------------------------

def read_file(path):
    """Tensors of a safetensors file as arrays."""
    with open(path, "rb") as file:
        data = file.read()
    n = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, t in json.loads(data[8:8 + n]).items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            x = np.frombuffer(data[8 + n + begin:8 + n + end], TYPES[t["dtype"]]).reshape(t["shape"])
            tensors[name] = (x.astype(np.uint32) << 16).view(np.float32) if t["dtype"] == "BF16" else x
    return tensors

def write_file(path, tensors):
    """A safetensors file of F32."""
    header, at = {}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for x in tensors.values():
            file.write(x.tobytes())

def stream(words, bits):
    """Codes along axis 0 of a stream of 32-bit words: code k at bits k * bits."""
    w = np.ascontiguousarray(words).view(np.uint32)
    flat = (w[:, None] >> np.arange(32, dtype=np.uint32)[None, :, None] & 1).reshape(32 * w.shape[0], w.shape[1])
    return (flat.reshape(-1, bits, w.shape[1]) << np.arange(bits, dtype=np.uint32)[None, :, None]).sum(1).astype(np.int32)

def decode_gptq(t, p, config):
    out = t[p + ".scales"].shape[1]
    bits = t[p + ".qzeros"].shape[1] * 32 // out
    code = stream(t[p + ".qweight"], bits)
    zero = stream(t[p + ".qzeros"].T, bits).T + (config["checkpoint_format"] == "gptq")
    g = t[p + ".g_idx"]
    return ((code - zero[g]).astype(np.float32) * t[p + ".scales"].astype(np.float32)[g]).T.copy()

def decode_awq(t, p, config):
    place = [0, 4, 1, 5, 2, 6, 3, 7]                   # nibble of output 8 c + k
    def nibbles(words):
        w = np.ascontiguousarray(words).view(np.uint32)
        return np.stack([w >> np.uint32(4 * n) & 15 for n in place], -1).reshape(w.shape[0], -1).astype(np.int32)
    code, zero, scale = nibbles(t[p + ".qweight"]), nibbles(t[p + ".qzeros"]), t[p + ".scales"].astype(np.float32)
    g = np.arange(len(code)) // (len(code) // len(scale))
    return ((code - zero[g]).astype(np.float32) * scale[g]).T.copy()

def bnb_state(t, p):
    """The kind of a layer of 4 bits and what its JSON says."""
    for kind in ("nf4", "fp4"):
        if p + STATE + kind in t:
            return kind, json.loads(t[p + STATE + kind].tobytes())
    return None, None

def decode_bnb(t, p, config):
    kind, state = bnb_state(t, p)
    w = t[p + ".weight"]
    if not kind:
        return w.astype(np.float32) * (t[p + ".SCB"] / np.float32(127))[:, None]
    out, width = state["shape"]
    codes = np.stack([w.ravel() >> 4, w.ravel() & 15], -1).ravel()[:out * width]
    maxima = t[p + ".weight.absmax"]
    if "nested_blocksize" in state:
        blocks = np.arange(len(maxima)) // state["nested_blocksize"]
        maxima = (t[p + ".weight.nested_quant_map"][maxima] * t[p + ".weight.nested_absmax"][blocks]
                  + np.float32(state["nested_offset"]))
    values = t[p + ".weight.quant_map"][codes] * maxima[np.arange(out * width) // state["blocksize"]]
    return values.reshape(out, width)

def fp8(codes):
    """E4M3, and by the same rule E2M1: exponents of 2^3, or 2^1 steps."""
    c = codes.astype(np.int32)
    e, m = c >> 3 & 15, c & 7
    x = np.where(e > 0, (8 + m) * np.exp2(np.maximum(e, 1) - 10.0), m * np.exp2(-9.0))
    return np.where(c & 128, -x, x).astype(np.float32)

def fp4(codes):
    return np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], np.float32)[codes]

def scheme_of(p, config):
    """The layer's group: by its name, else that of all."""
    groups = config["config_groups"].values()
    return next((g for g in groups if p in g["targets"]), config["config_groups"]["group_0"])

def spread_scales(scale, shape):
    """A scale for each weight."""
    if scale.ndim == 1:
        return np.full(shape, scale[0], np.float32)
    rows = 1 if scale.shape[0] == shape[0] else 128
    cols = -(-shape[1] // scale.shape[1])
    return np.repeat(np.repeat(scale, rows, 0)[:shape[0]], cols, 1)[:, :shape[1]]

def decode_ct(t, p, config):
    scheme = scheme_of(p, config)
    bits, scale = scheme["weights"]["num_bits"], t[p + ".weight_scale"]
    if "fp4" in scheme["format"]:
        w = t[p + ".weight_packed"]
        codes = np.stack([w & 15, w >> 4], -1).reshape(w.shape[0], -1)
        scale = (fp8(scale) / t[p + ".weight_global_scale"] if scheme["format"].startswith("nv")
                 else np.exp2(scale.astype(np.float32) - 127))
        return fp4(codes) * spread_scales(scale.astype(np.float32), codes.shape)
    if p + ".weight" in t:
        w = t[p + ".weight"]
        w = fp8(w) if w.dtype == np.uint8 else w.astype(np.float32)
        if not scheme["weights"]["symmetric"]:
            w = w - spread_scales(t[p + ".weight_zero_point"].astype(np.float32), w.shape)
        return w * spread_scales(scale.astype(np.float32), w.shape)
    out, width = t[p + ".weight_shape"]
    codes = np.concatenate([stream_rows(row[None, :], bits) for row in t[p + ".weight_packed"]])[:, :width]
    zero = np.full(codes.shape, 1 << (bits - 1))
    if not scheme["weights"]["symmetric"]:
        zeros = stream_rows(t[p + ".weight_zero_point"].T, bits)[:, :out].T
        zero = spread_scales(zeros, codes.shape)
    return (codes - zero).astype(np.float32) * spread_scales(scale.astype(np.float32), codes.shape)

def stream_rows(words, bits):
    """Codes of each row of words, whose number need not be whole runs of 32 codes."""
    w = np.ascontiguousarray(words).view(np.uint32)
    flat = (w[:, :, None] >> np.arange(32, dtype=np.uint32) & 1).reshape(w.shape[0], -1)
    n = flat.shape[1] // bits
    return (flat[:, :n * bits].reshape(w.shape[0], n, bits) << np.arange(bits, dtype=np.uint32)).sum(2).astype(np.int32)

DECODERS = {"awq": decode_awq, "bnb": decode_bnb, CT: decode_ct}
MARKS = (".qweight", ".weight.absmax", ".SCB", ".weight_scale")

def layers_of(t):
    return [n[:-len(mark)] for n in t for mark in MARKS if n.endswith(mark)]

def decoded_folder(folder, plain, t, values):
    """The folder's model with plain F32 weights."""
    shutil.copytree(folder, plain, ignore=shutil.ignore_patterns("*.safetensors", "quantize_config.json"))
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    del config["quantization_config"]
    config["torch_dtype"] = "float32"
    config.pop("dtype", None)
    with open(os.path.join(plain, "config.json"), "w") as file:
        json.dump(config, file)
    weights = {n: x.astype(np.float32) for n, x in t.items()
               if n.endswith((".weight", ".bias")) and n[:-len(".weight")] not in values}
    weights.update({p + ".weight": x for p, x in values.items()})
    write_file(os.path.join(plain, "model.safetensors"), weights)

# ---- the clients ----------------------------------------------------------------------------------------------------

def missing(*modules):
    return [m for m in modules if importlib.util.find_spec(m) is None]

def with_safetensors(folder, t, values, config):
    if missing("torch"):
        from safetensors.numpy import load_file, save_file
    else:                                              # numpy has no bfloat16
        from safetensors.torch import load_file, save_file
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as file:
        before = file.read()
    n = struct.unpack("<Q", before[:8])[0]
    save_file(load_file(path), path + ".again", metadata={"format": "pt"})
    with open(path + ".again", "rb") as file:
        again = file.read()
    os.remove(path + ".again")
    m = struct.unpack("<Q", again[:8])[0]
    return before[8 + n:] == again[8 + m:], "the library lays the same tensors out in another way"

def with_gptqmodel(folder, t, values, config):
    import torch
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
    for p, value in values.items():
        out, width = value.shape
        m = TorchLinear(bits=config["bits"], group_size=config["group_size"], sym=config["sym"],
                        desc_act=config["desc_act"], in_features=width, out_features=out, bias=False,
                        pack_dtype=torch.int32, register_buffers=True)
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            setattr(m, part, torch.from_numpy(t[f"{p}.{part}"].copy()))
        if config["checkpoint_format"] == "gptq":
            convert_gptq_v1_to_v2_format_module(m, bits=config["bits"], pack_dtype=torch.int32)
        m.post_init()
        got = m.dequantize_weight().detach().to(torch.float32).numpy()
        if not np.array_equal(got, value.astype(np.float16).astype(np.float32).T):
            return False, f"{p}: largest difference {np.abs(got - value.T).max()}"
    return True, ""

def packing_utils():
    folder = os.path.dirname(importlib.util.find_spec("awq").origin)
    spec = importlib.util.spec_from_file_location("packing_utils", os.path.join(folder, "utils", "packing_utils.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def with_autoawq(folder, t, values, config):
    import torch
    utils = packing_utils()
    for p, value in values.items():
        q, z, s = (torch.from_numpy(t[f"{p}.{part}"].copy()) for part in ("qweight", "qzeros", "scales"))
        group = value.shape[1] if config["group_size"] == -1 else config["group_size"]
        got = utils.dequantize_gemm(q, z, s, 4, group).to(torch.float32).numpy()
        if not np.array_equal(got, value.astype(np.float16).astype(np.float32).T):
            return False, f"{p}: largest difference {np.abs(got - value.T).max()}"
    return True, ""

def with_bitsandbytes(folder, t, values, config):
    """4 bits: the values exactly, in the type that the file names; rows of 8 bits to a last place."""
    import torch
    from bitsandbytes import functional
    from bitsandbytes.backends.default import ops
    for p, value in values.items():
        kind, state = bnb_state(t, p)
        w = torch.from_numpy(t[p + ".weight"].copy())
        if not kind:
            got = functional.int8_vectorwise_dequant(w, torch.from_numpy(t[p + ".SCB"].copy())).numpy()
            if not np.allclose(got, value, rtol=1e-6, atol=1e-9):
                return False, f"{p}: largest difference {np.abs(got - value).max()}"
            continue
        parts = {n[len(p) + len(".weight."):]: torch.from_numpy(x.copy()) for n, x in t.items()
                 if n.startswith(p + ".weight.")}
        quantized = functional.QuantState.from_dict(parts, device=torch.device("cpu"))
        if state["shape"][1] % state["blocksize"] == 0:
            got = functional.dequantize_4bit(w, quantized)
        else:                                          # the library's fast kernel takes such rows for whole blocks
            absmax = quantized.absmax
            if quantized.nested:
                absmax = functional.dequantize_blockwise(absmax, quantized.state2) + quantized.offset
            got = ops._dequantize_4bit_compute(w, absmax.float(), quantized.blocksize, kind, state["shape"],
                                               quantized.dtype)
        want = torch.from_numpy(value).to(quantized.dtype)
        if not torch.equal(got.reshape(want.shape), want):
            return False, f"{p}: largest difference {(got.reshape(want.shape).float() - want.float()).abs().max()}"
    return True, ""

def ct_tensor(x, name):
    import torch
    y = torch.from_numpy(x.copy())
    return y.view(torch.float8_e4m3fn) if name in ("weight_scale", "weight") and x.dtype == np.uint8 else y

def with_compressed_tensors(folder, t, values, config):
    """The configuration passes the closed schema; layers restored, and compressed again, are ours."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import QuantizationConfig
    groups = QuantizationConfig.model_validate(config).config_groups
    for p, value in values.items():
        scheme = next((g for g in groups.values() if p in g.targets), groups["group_0"])
        ours = {n[len(p) + 1:]: x for n, x in t.items() if n.startswith(p + ".") and n != p + ".bias"}
        local = {n: torch.from_numpy(x.copy()) if scheme.format.startswith("mxfp4") else ct_tensor(x, n)
                 for n, x in ours.items()}
        if infer_module_format(torch.nn.Linear, scheme).value != scheme.format:
            return False, f"{p}: {infer_module_format(torch.nn.Linear, scheme).value}, not {scheme.format}"
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        got = compressor.decompress(dict(local), scheme)["weight"]
        if not torch.equal(got, torch.from_numpy(value).to(got.dtype)):
            return False, f"{p}: largest difference {(got.float() - torch.from_numpy(value)).abs().max()} in {got.dtype}"
    return True, ""

def restored(x, args, scale):
    """Inputs of a layer as its readers quantize them."""
    import torch
    top = 448 if args["type"] == "float" else 2 ** (args["num_bits"] - 1)
    if scale is None:
        steps = top if args["type"] == "float" else top - 0.5
        scale = x.abs().amax(-1, keepdim=True) / steps
        scale = torch.where(scale == 0, torch.tensor(2.0 ** -23), scale)
    y = x / scale
    if args["type"] == "float":
        return y.clamp(-448, 448).to(torch.float8_e4m3fn).to(x.dtype) * scale
    return y.clamp(-top, top - 1).round() * scale

def quantize_inputs(model, t, config):
    """Makes the linears of a decoded model quantize their inputs."""
    import torch
    for name, module in model.named_modules():
        if name + ".weight_scale" not in t:
            continue
        args = scheme_of(name, config)["input_activations"]
        if args and (args["num_bits"] == 8 or args["type"] == "int"):
            scale = t.get(name + ".input_scale")
            scale = None if scale is None else torch.tensor(scale.astype(np.float32))
            module.register_forward_pre_hook(lambda m, x, a=args, s=scale: (restored(x[0], a, s),))

def logits(path, ids, dtype, change=None):
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, device_map="cpu")
    if change:
        change(model)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()

def with_transformers(folder, plain, source, ids, t, config):
    """The whole folder: nearer to the decoded model than that is to the unquantized one."""
    import torch
    ct = config["quant_method"] == CT
    reference = logits(plain, ids, torch.float32, (lambda m: quantize_inputs(m, t, config)) if ct else None)
    effect = np.abs(logits(source, ids, torch.float32) - reference).max()
    dtype = torch.float16
    if ct:                                             # FP4 is restored as bfloat16
        dtype = torch.bfloat16 if "fp4" in config["format"] else torch.float32
    error = np.abs(logits(folder, ids, dtype) - reference).max()
    share = 0.3 if dtype == torch.bfloat16 else 0.1    # all arithmetic is in bfloat16 then
    return error < share * effect, f"logits differ by {error}, quantization itself by {effect}"

CLIENTS = {"awq": ("autoawq", ["awq", "torch"], with_autoawq),
           "bnb": ("bitsandbytes", ["bitsandbytes", "torch"], with_bitsandbytes),
           CT: ("library", ["compressed_tensors", "torch"], with_compressed_tensors)}

def attempt(name, needs, function, *arguments):
    absent = missing(*needs)
    if absent:
        return report("skipped", name, f"{', '.join(absent)} not installed")
    try:
        check(name, *function(*arguments))
    except Exception as e:                             # whatever a client raises
        report("failed", name, f"{type(e).__name__}: {e}")

# ---- the tool -------------------------------------------------------------------------------------------------------

def run(quant, *arguments):
    r = subprocess.run([quant, *arguments, "--progress", "none"], capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError(f"quant {arguments[0]}: {r.stderr.strip()}")
    return r.stdout

def perplexity(quant, path, report_path):
    run(quant, "eval", path, "--text", TEXT, "--ctx", "128", "--chunks", "2", "--report", report_path)
    with open(report_path) as file:
        return json.load(file)["perplexity"]

def run_case(quant, model, work, name, format, arguments):
    folder, plain = os.path.join(work, "folder"), os.path.join(work, "plain")
    run(quant, "quantize", model, "-o", folder, "--format", format, *arguments)
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    vocabulary, config = config["vocab_size"], config["quantization_config"]
    t = read_file(os.path.join(folder, "model.safetensors"))
    family = format.split(":")[0]
    decode = DECODERS.get(family, decode_gptq)
    values = {p: decode(t, p, config) for p in layers_of(t)}
    decoded_folder(folder, plain, t, values)
    ours = perplexity(quant, folder, os.path.join(work, "a.json"))
    theirs = perplexity(quant, plain, os.path.join(work, "b.json"))
    inputs = config.get("load_in_8bit") or any(g["input_activations"] for g in config.get("config_groups", {}).values())
    good = abs(ours / theirs - 1) < (0.5 if "fp4" in name else 0.05) if inputs else ours == theirs
    check(f"{name}: read back", values and good, f"perplexity {ours}, of the decoded weights {theirs}")
    attempt(f"{name}: safetensors", ["safetensors"], with_safetensors, folder, t, values, config)
    client, needs, function = CLIENTS.get(family, ("gptqmodel", ["gptqmodel", "torch"], with_gptqmodel))
    attempt(f"{name}: {client}", needs, function, folder, t, values, config)
    if re.search(r"defaults|act order$", name):
        ids = [5 + 7 * i % min(900, vocabulary - 5) for i in range(96)]
        needs = {"bnb": ["accelerate", "bitsandbytes"], CT: ["accelerate", "compressed_tensors"]}
        needs = needs.get(family, ["optimum", "gptqmodel"])
        attempt(f"{name}: transformers", ["transformers", "torch", *needs], with_transformers, folder, plain, model,
                ids, t, config)
    shutil.rmtree(folder)
    shutil.rmtree(plain)

def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__)
        return 2
    quant = os.path.abspath(sys.argv[1])
    model = sys.argv[2] if len(sys.argv) == 3 else os.path.join(DATA, "model")
    work = tempfile.mkdtemp(prefix="clients-")
    try:
        for name, format, arguments in CASES:
            try:
                run_case(quant, model, work, name, format, arguments)
            except Exception as e:
                report("failed", name, f"{type(e).__name__}: {e}")
                shutil.rmtree(work)
                os.mkdir(work)
    finally:
        shutil.rmtree(work)
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0

if __name__ == "__main__":
    sys.exit(main())
