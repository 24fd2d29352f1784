#!/usr/bin/python3
"""Train the small example model of this folder, from the text to the Hugging Face files.

The program is the only source of the other files here.  With `--family opt` it trains a model of
another architecture on the same text, which is not kept here: WORK/opt is a folder to try methods
on (LayerNorm, biases, learned positions, ReLU).  `--share S` trains for that share of the steps.  It
works in five stages, each of which can be run alone and finds what the earlier ones left behind:

  text       the King James Bible, printed by Debian's `bible` command, becomes one heading per
             chapter, one verse per line and a blank line after each chapter.  Whole chapters of
             many books are held out: evaluation.txt.  Every tenth of the other chapters makes
             calibration.txt.  The training text stays in the work folder.
  tokenizer  a byte-level BPE with 1024 entries, learned from the training text: tokenizer.json,
             tokenizer_config.json and special_tokens_map.json.
  train      a language model of 3.4 million parameters, Llama-like or OPT-like, AdamW with warmup,
             a slow cosine and a linear end.  The weights with the lowest held-out loss are kept.
  export     model/config.json, model/generation_config.json and model/model.safetensors (BF16),
             put in place together with the tokenizer by renaming a complete folder.
  report     perplexities of the exported weights and some generated text, for README.md.

Needs (Debian 12):  apt install bible-kjv bible-kjv-text python3-numpy python3-torch
Usage:              OMP_NUM_THREADS=1 /usr/bin/python3 train.py [--work DIR] [--family opt]
                    [--share S] [stage ...]
Without a stage all run in the order above.  The training takes about 35 minutes on one core of a
current x86-64 server; the rest takes a minute.  (MALLOC_MMAP_MAX_=0 in the environment keeps glibc
from returning the large buffers to the system each time and saves a few minutes.)  Random numbers
are seeded and one thread is used, so a second run on the same kind of machine should give the same
files; other processors round differently.
"""
import argparse
import collections
import json
import math
import os
import re
import shutil
import struct
import subprocess
import time

import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 1611

# --- the model's and the training's numbers ------------------------------------------------------
VOCAB, HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD = 1024, 256, 768, 4, 8, 4, 32
CONTEXT, EPS, THETA = 512, 1e-5, 10000.0
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>"]
BOS, EOS, PAD = 0, 1, 2
WINDOW = 256                                    # of the evaluation; the first token is BOS
PEAK_LR, WARMUP, HORIZON = 2e-3, 200, 4800      # first part: half of a cosine over HORIZON steps
COOLDOWN, RAMP, STEPS = 2400, 50, 3300          # second part: from COOLDOWN linearly to zero
CHUNKS, DECAY, EVAL_EVERY = 2, 0.1, 300         # windows of CONTEXT a step, weight decay

# --- text ----------------------------------------------------------------------------------------
BOOKS = """Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|1 Samuel|2 Samuel|
1 Kings|2 Kings|1 Chronicles|2 Chronicles|Ezra|Nehemiah|Esther|Job|Psalm|Proverbs|Ecclesiastes|
Song of Solomon|Isaiah|Jeremiah|Lamentations|Ezekiel|Daniel|Hosea|Joel|Amos|Obadiah|Jonah|Micah|
Nahum|Habakkuk|Zephaniah|Haggai|Zechariah|Malachi|Matthew|Mark|Luke|John|Acts|Romans|
1 Corinthians|2 Corinthians|Galatians|Ephesians|Philippians|Colossians|1 Thessalonians|
2 Thessalonians|1 Timothy|2 Timothy|Titus|Philemon|Hebrews|James|1 Peter|2 Peter|1 John|2 John|
3 John|Jude|Revelation""".replace("\n", "").split("|")

# Chapters without a close parallel elsewhere (unlike Kings and Chronicles, or the first Gospels).
HELD_OUT = {"Genesis": range(40, 45), "Exodus": [14], "Numbers": range(22, 25),
            "Judges": range(13, 17), "Ruth": range(1, 5), "1 Samuel": [17],
            "2 Kings": range(4, 6), "Job": range(38, 40), "Psalm": range(90, 93),
            "Proverbs": range(15, 17), "Ecclesiastes": [3], "Isaiah": range(53, 56), "Daniel": [2],
            "John": range(9, 11), "Acts": [16], "Romans": range(6, 8), "Hebrews": [11],
            "Revelation": [18]}


def stage_text(work):
    out = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], stdin=subprocess.DEVNULL, check=True,
                         stdout=subprocess.PIPE).stdout.decode("ascii")
    chapters = collections.OrderedDict()                 # (abbreviation, number) -> verses
    for line in out.splitlines():
        book, number, verse = re.fullmatch(r"(\d?[A-Za-z]+)(\d+):\d+ +(.*\S) *", line).groups()
        chapters.setdefault((book, int(number)), []).append(re.sub(" +", " ", verse))
    names = dict(zip(dict.fromkeys(book for book, _ in chapters), BOOKS))
    assert len(chapters) == 1189 and len(names) == len(BOOKS) == 66
    train, held, calibration, seen = [], [], [], 0
    for (book, number), verses in chapters.items():
        name = names[book]
        chapter = "\n".join(["%s %d" % (name, number)] + verses) + "\n\n"
        if number in HELD_OUT.get(name, ()):
            held.append(chapter)
            continue
        if not train or train[-1][0] != name:
            train.append((name, []))
        train[-1][1].append(chapter)
        if seen % 10 == 5:
            calibration.append(chapter)
        seen += 1
    write(os.path.join(HERE, "evaluation.txt"), "".join(held)[:-1])
    write(os.path.join(HERE, "calibration.txt"), "".join(calibration)[:-1])
    write(os.path.join(work, "train.json"), json.dumps(["".join(c) for _, c in train]))
    print("text: %d characters to train on, %d for calibration, %d held out" % (
        sum(len(c) for _, b in train for c in b), len("".join(calibration)), len("".join(held))))


def write(path, data):
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode("utf-8"))


def read(path):
    with open(path, encoding="utf-8", newline="") as f:
        return f.read()


# --- tokenizer -----------------------------------------------------------------------------------
# GPT-2's expression; for ASCII text \p{L} is A-Z a-z and \p{N} is 0-9.
PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """The printable stand-ins of the 256 bytes, as GPT-2 chose them."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


ALPHABET = byte_alphabet()


def learn_merges(texts, count):
    """The most frequent adjacent pair becomes a merge, `count` times; ties go to the smaller pair.
    Works on word types, and touches only the words that contain the pair."""
    types = collections.Counter(w for t in texts for w in PIECES.findall(t))
    words = [[ALPHABET[b] for b in w.encode("utf-8")] for w in types]
    freqs = list(types.values())
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, word in enumerate(words):
        for p in zip(word, word[1:]):
            pairs[p] += freqs[i]
            where[p].add(i)
    merges = []
    while len(merges) < count:
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for i in where.pop(best):
            for p in zip(words[i], words[i][1:]):
                pairs[p] -= freqs[i]
            words[i] = merge(words[i], best)
            for p in zip(words[i], words[i][1:]):
                pairs[p] += freqs[i]
                where[p].add(i)
        del pairs[best]
    return merges


def merge(word, pair):
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


class Tokenizer:
    """Encodes and decodes with a tokenizer.json as this program writes it; ASCII text only."""

    def __init__(self, path):
        model = json.loads(read(path))["model"]
        self.vocab = model["vocab"]
        self.rank = {tuple(m.split(" ")): i for i, m in enumerate(model["merges"])}
        self.piece = {i: p for p, i in self.vocab.items()}
        self.byte = {c: b for b, c in ALPHABET.items()}
        self.cache = {}

    def encode(self, text):
        assert text.isascii()
        return [i for w in PIECES.findall(text) for i in self.cache.get(w) or self.word(w)]

    def word(self, w):
        parts = [ALPHABET[b] for b in w.encode("utf-8")]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda p: self.rank.get(p, VOCAB))
            if best not in self.rank:
                break
            parts = merge(parts, best)
        self.cache[w] = [self.vocab[p] for p in parts]
        return self.cache[w]

    def decode(self, ids):
        text = "".join(self.piece[i] for i in ids if i >= len(SPECIAL))
        return bytes(self.byte[c] for c in text).decode("utf-8", "replace")


def stage_tokenizer(work):
    texts = json.loads(read(os.path.join(work, "train.json")))
    symbols = SPECIAL + sorted(ALPHABET.values())
    merges = learn_merges(texts, VOCAB - len(symbols))
    symbols += [a + b for a, b in merges]
    assert len(set(symbols)) == VOCAB
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    bos = {"SpecialToken": {"id": SPECIAL[BOS], "type_id": 0}}
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, s in enumerate(SPECIAL)]
    part = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    dump(os.path.join(work, "tokenizer.json"), {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, part("A", 0)],
            "pair": [bos, part("A", 0), {"SpecialToken": {"id": SPECIAL[BOS], "type_id": 1}},
                     part("B", 1)],
            "special_tokens": {SPECIAL[BOS]: {"id": SPECIAL[BOS], "ids": [BOS],
                                              "tokens": [SPECIAL[BOS]]}}},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {s: i for i, s in enumerate(symbols)},
                  "merges": [a + " " + b for a, b in merges]}})
    names = {"bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[PAD]}
    dump(os.path.join(work, "special_tokens_map.json"), names)
    dump(os.path.join(work, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"}
                                 for a in added},
        **names, "clean_up_tokenization_spaces": False, "model_max_length": CONTEXT,
        "tokenizer_class": "PreTrainedTokenizerFast"})
    tok = Tokenizer(os.path.join(work, "tokenizer.json"))
    texts += [read(os.path.join(HERE, n + ".txt")) for n in ("calibration", "evaluation")]
    assert all(tok.decode(tok.encode(t)) == t for t in texts)
    print("tokenizer: last merge %r, %.2f characters a token" % (
        merges[-1], sum(map(len, texts)) / sum(len(tok.encode(t)) for t in texts)))


def dump(path, value):
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


# --- models --------------------------------------------------------------------------------------
def normal(rows, cols, std):
    return torch.nn.Parameter(torch.randn(rows, cols) * std)


def constant(n, value):
    return torch.nn.Parameter(torch.full((n,), float(value)))


STD, OUT = 1 / math.sqrt(HIDDEN), 1 / math.sqrt(2 * LAYERS)


class Llama(torch.nn.Module):
    """RMSNorm, rotary positions in the half-split layout, grouped-query attention, SwiGLU.
    Matrices with the same input are one parameter here and are separated on export."""
    CONFIG = {"architectures": ["LlamaForCausalLM"], "attention_bias": False,
              "attention_dropout": 0.0, "bos_token_id": BOS, "eos_token_id": EOS, "head_dim": HEAD,
              "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02,
              "intermediate_size": FFN, "max_position_embeddings": CONTEXT, "mlp_bias": False,
              "model_type": "llama", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
              "num_key_value_heads": KV_HEADS, "pad_token_id": PAD, "pretraining_tp": 1,
              "rms_norm_eps": EPS, "rope_scaling": None, "rope_theta": THETA,
              "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
              "vocab_size": VOCAB}

    def __init__(self):
        super().__init__()
        self.embed = normal(VOCAB, HIDDEN, 0.02)
        self.norm = constant(HIDDEN, 1)
        self.layers = layers(lambda: {
            "norm1": constant(HIDDEN, 1),
            "qkv": normal((HEADS + 2 * KV_HEADS) * HEAD, HIDDEN, 0.5 * STD),
            "o": normal(HIDDEN, HEADS * HEAD, 0.5 * STD * OUT),
            "norm2": constant(HIDDEN, 1),
            "gate_up": normal(2 * FFN, HIDDEN, 0.5 * STD),
            "down": normal(HIDDEN, FFN, 0.5 * STD * OUT)})
        freq = THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
        angle = torch.outer(torch.arange(CONTEXT).float(), freq)
        self.cos, self.sin = angle.cos()[:, None], angle.sin()[:, None]
        self.mask = torch.full((CONTEXT, CONTEXT), -1e9).triu(1)

    def forward(self, ids):
        batch, length = ids.shape
        group = HEADS // KV_HEADS
        mask = self.mask[:length, :length].repeat(group, 1)
        x = F.embedding(ids, self.embed)
        for p in self.layers:
            qkv = F.linear(rms(x, p.norm1), p.qkv).view(batch, length, -1, HEAD)
            q, k, v = qkv.split([HEADS, KV_HEADS, KV_HEADS], 2)
            q, k = self.rotate(q * HEAD ** -0.5), self.rotate(k)
            # the query heads of one key head are stacked along the positions
            q = q.permute(0, 2, 1, 3).reshape(batch * KV_HEADS, group * length, HEAD)
            k = k.permute(0, 2, 3, 1).reshape(batch * KV_HEADS, HEAD, length)
            v = v.permute(0, 2, 1, 3).reshape(batch * KV_HEADS, length, HEAD)
            a = torch.bmm(torch.softmax(torch.baddbmm(mask, q, k), -1), v)
            a = a.view(batch, HEADS, length, HEAD).transpose(1, 2).reshape(batch, length, -1)
            x = x + F.linear(a, p.o)
            gate, up = F.linear(rms(x, p.norm2), p.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, p.down)
        return F.linear(rms(x, self.norm), self.embed)

    def rotate(self, x):
        cos, sin = self.cos[:x.shape[1]], self.sin[:x.shape[1]]
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def tensors(self):
        """The weights under their Hugging Face names."""
        out = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm}
        for i, p in enumerate(self.layers):
            q, k, v = p.qkv.split([HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD])
            gate, up = p.gate_up.chunk(2)
            for name, t in (("self_attn.q_proj", q), ("self_attn.k_proj", k),
                            ("self_attn.v_proj", v), ("self_attn.o_proj", p.o),
                            ("mlp.gate_proj", gate), ("mlp.up_proj", up), ("mlp.down_proj", p.down),
                            ("input_layernorm", p.norm1), ("post_attention_layernorm", p.norm2)):
                out["model.layers.%d.%s.weight" % (i, name)] = t
        return out


class Opt(torch.nn.Module):
    """LayerNorm and biases everywhere, learned positions from the third row on, ReLU."""
    CONFIG = {"_remove_final_layer_norm": False, "activation_function": "relu",
              "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "bos_token_id": BOS,
              "do_layer_norm_before": True, "dropout": 0.0, "enable_bias": True,
              "eos_token_id": EOS, "ffn_dim": 4 * HIDDEN, "hidden_size": HIDDEN, "init_std": 0.02,
              "layer_norm_elementwise_affine": True, "layerdrop": 0.0,
              "max_position_embeddings": CONTEXT, "model_type": "opt",
              "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "pad_token_id": PAD,
              "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
              "vocab_size": VOCAB, "word_embed_proj_dim": HIDDEN}
    OFFSET = 2

    def __init__(self):
        super().__init__()
        self.embed = normal(VOCAB, HIDDEN, 0.02)
        self.position = normal(CONTEXT + self.OFFSET, HIDDEN, 0.02)
        self.norm, self.norm_bias = constant(HIDDEN, 1), constant(HIDDEN, 0)
        self.layers = layers(lambda: {
            "norm1": constant(HIDDEN, 1), "norm1_bias": constant(HIDDEN, 0),
            "qkv": normal(3 * HIDDEN, HIDDEN, 0.5 * STD), "qkv_bias": constant(3 * HIDDEN, 0),
            "o": normal(HIDDEN, HIDDEN, 0.5 * STD * OUT), "o_bias": constant(HIDDEN, 0),
            "norm2": constant(HIDDEN, 1), "norm2_bias": constant(HIDDEN, 0),
            "fc1": normal(4 * HIDDEN, HIDDEN, 0.5 * STD), "fc1_bias": constant(4 * HIDDEN, 0),
            "fc2": normal(HIDDEN, 4 * HIDDEN, 0.5 * STD * OUT), "fc2_bias": constant(HIDDEN, 0)})
        self.mask = torch.full((CONTEXT, CONTEXT), -1e9).triu(1)

    def forward(self, ids):
        batch, length = ids.shape
        mask = self.mask[:length, :length]
        x = F.embedding(ids, self.embed) + self.position[self.OFFSET:self.OFFSET + length]
        for p in self.layers:
            qkv = F.linear(F.layer_norm(x, (HIDDEN,), p.norm1, p.norm1_bias), p.qkv, p.qkv_bias)
            q, k, v = (t.transpose(1, 2).reshape(batch * HEADS, length, HEAD)
                       for t in qkv.view(batch, length, 3 * HEADS, HEAD).chunk(3, 2))
            a = torch.bmm(torch.softmax(torch.baddbmm(mask, q * HEAD ** -0.5, k.transpose(1, 2)),
                                        -1), v)
            a = a.view(batch, HEADS, length, HEAD).transpose(1, 2).reshape(batch, length, -1)
            x = x + F.linear(a, p.o, p.o_bias)
            y = F.layer_norm(x, (HIDDEN,), p.norm2, p.norm2_bias)
            x = x + F.linear(F.relu(F.linear(y, p.fc1, p.fc1_bias)), p.fc2, p.fc2_bias)
        return F.linear(F.layer_norm(x, (HIDDEN,), self.norm, self.norm_bias), self.embed)

    def tensors(self):
        """The weights under their Hugging Face names."""
        decoder = "model.decoder."
        out = {decoder + "embed_tokens.weight": self.embed,
               decoder + "embed_positions.weight": self.position,
               decoder + "final_layer_norm.weight": self.norm,
               decoder + "final_layer_norm.bias": self.norm_bias}
        for i, p in enumerate(self.layers):
            parts = {"self_attn.out_proj": (p.o, p.o_bias), "fc1": (p.fc1, p.fc1_bias),
                     "fc2": (p.fc2, p.fc2_bias), "self_attn_layer_norm": (p.norm1, p.norm1_bias),
                     "final_layer_norm": (p.norm2, p.norm2_bias)}
            for name, w, b in zip("qkv", p.qkv.chunk(3), p.qkv_bias.chunk(3)):
                parts["self_attn.%s_proj" % name] = (w, b)
            for name, (w, b) in parts.items():
                out["%slayers.%d.%s.weight" % (decoder, i, name)] = w
                out["%slayers.%d.%s.bias" % (decoder, i, name)] = b
        return out


FAMILIES = {"llama": Llama, "opt": Opt}


def layers(parameters):
    """LAYERS modules, each with parameters of its own."""
    made = torch.nn.ModuleList()
    for _ in range(LAYERS):
        layer = torch.nn.Module()
        for name, value in parameters().items():
            layer.register_parameter(name, value)
        made.append(layer)
    return made


def rms(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def with_bos(rows):
    """Inputs and targets of rows of tokens: BOS stands in front, every token is predicted."""
    return torch.cat([torch.full((len(rows), 1), BOS), rows[:, :-1]], 1), rows


@torch.no_grad()
def mean_loss(model, ids):
    """Mean -ln p over consecutive windows of BOS and WINDOW - 1 tokens; the last may be shorter."""
    total, size = 0.0, WINDOW - 1
    full = (len(ids) - 1) // size * size
    for rows in [*ids[:full].view(-1, size).split(8), ids[None, full:]]:
        x, y = with_bos(rows)
        total += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
    return total / len(ids)


def batches(stream, rng):
    """Endless batches of CHUNKS * 512 tokens; an epoch is all chunks, with a new phase, shuffled.
    Three in four batches are cut into windows of half the context."""
    step = 0
    while True:
        phase = rng.integers(CONTEXT)
        count = (len(stream) - phase) // CONTEXT
        chunks = stream[phase:phase + count * CONTEXT].view(count, CONTEXT)
        for part in torch.from_numpy(rng.permutation(count)).split(CHUNKS):
            step += 1
            yield chunks[part] if step % 4 == 0 else chunks[part].reshape(-1, CONTEXT // 2)


def stage_train(work):
    torch.manual_seed(SEED)
    share = lambda steps: max(1, round(steps * OPTIONS.share))
    tok = Tokenizer(os.path.join(work, "tokenizer.json"))
    books = json.loads(read(os.path.join(work, "train.json")))
    stream = torch.tensor([i for b in books for i in tok.encode(b) + [EOS]])
    held = torch.tensor(tok.encode(read(os.path.join(HERE, "evaluation.txt"))))
    model = FAMILIES[OPTIONS.family]()
    print("train: %d tokens, %d held out, %d parameters, %.2f epochs" % (
        len(stream), len(held), sum(p.numel() for p in model.parameters()),
        share(STEPS) * CHUNKS * CONTEXT / len(stream)), flush=True)
    source = batches(stream, np.random.default_rng(SEED))
    best = train_part(model, source, held, range(1, share(COOLDOWN) + 1), math.inf, work)
    train_part(model, source, held, range(share(COOLDOWN) + 1, share(STEPS) + 1), best, work)


def learning_rate(step):
    def cosine(at):
        return PEAK_LR * (0.505 + 0.495 * math.cos(math.pi * (at - WARMUP) / (HORIZON - WARMUP)))
    if step <= COOLDOWN:
        return PEAK_LR * step / WARMUP if step < WARMUP else cosine(step)
    return (cosine(COOLDOWN) * (STEPS - step) / (STEPS - COOLDOWN)
            * min(1, (step - COOLDOWN) / RAMP))


def train_part(model, source, held, steps, best, work):
    """Train for the given step numbers, with fresh moments; the best weights go to best.pt."""
    groups = [{"params": [p for p in model.parameters() if p.dim() == d], "weight_decay": w}
              for d, w in ((2, DECAY), (1, 0.0))]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9)
    start, running = time.time(), []
    for step in steps:
        for g in optimizer.param_groups:
            g["lr"] = learning_rate(step / OPTIONS.share)
        x, y = with_bos(next(source))
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running.append(loss.item())
        if step % EVAL_EVERY == 0 or step == steps[-1]:
            value = mean_loss(model, held)
            print("step %5d  lr %.5f  training loss %.4f  held-out loss %.4f  %5.0f s" % (
                step, learning_rate(step / OPTIONS.share), np.mean(running[-EVAL_EVERY:]), value,
                time.time() - start), flush=True)
            if value < best:
                best = value
                torch.save(model.state_dict(), best_path(work) + ".tmp")
                os.replace(best_path(work) + ".tmp", best_path(work))
    return best


def best_path(work):
    return os.path.join(work, {"llama": "best.pt"}.get(OPTIONS.family, OPTIONS.family + "-best.pt"))


def best_model(work):
    model = FAMILIES[OPTIONS.family]()
    model.load_state_dict(torch.load(best_path(work)))
    return model


def model_folder(work):
    return os.path.join(HERE, "model") if OPTIONS.family == "llama" else os.path.join(work, OPTIONS.family)


# --- export --------------------------------------------------------------------------------------
def save_safetensors(path, tensors):
    """BF16 tensors, rounded to nearest even, in the order of their names."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(tensors):
        t = tensors[name].detach().to(torch.bfloat16).contiguous()
        blobs.append(t.view(torch.int16).numpy().astype("<i2").tobytes())
        header[name] = {"dtype": "BF16", "shape": list(t.shape),
                        "data_offsets": [at, at + len(blobs[-1])]}
        at += len(blobs[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write(path, struct.pack("<Q", len(text)) + text + b"".join(blobs))


def stage_export(work):
    model = best_model(work)
    target = model_folder(work)
    new, old = target + ".new", target + ".old"
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(new)
    save_safetensors(os.path.join(new, "model.safetensors"), model.tensors())
    tokens = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    dump(os.path.join(new, "config.json"), model.CONFIG)
    dump(os.path.join(new, "generation_config.json"),
         {**tokens, "do_sample": True, "temperature": 0.8, "top_p": 0.95})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(os.path.join(work, name), os.path.join(new, name))
    if os.path.exists(target):
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)
    print("export: %d bytes" % sum(e.stat().st_size for e in os.scandir(target)))


# --- report --------------------------------------------------------------------------------------
@torch.no_grad()
def sample(model, ids, count, temperature=0.8, top_p=0.95):
    ids, at = list(ids), len(ids)
    while len(ids) < at + count and ids[-1] != EOS:
        logits = model(torch.tensor([ids[-CONTEXT:]]))[0, -1] / temperature
        p, order = torch.softmax(logits, -1).sort(descending=True)
        p[p.cumsum(-1) - p > top_p] = 0                 # keep the fewest tokens that reach top_p
        ids.append(order[torch.multinomial(p, 1)].item())
    return ids


def stage_report(work):
    torch.manual_seed(SEED)
    tok = Tokenizer(os.path.join(model_folder(work), "tokenizer.json"))
    model = best_model(work)
    for p in model.parameters():
        p.data = p.data.to(torch.bfloat16).float()
    books = json.loads(read(os.path.join(work, "train.json")))
    counts = np.bincount([i for b in books for i in tok.encode(b)], minlength=VOCAB) + 1.0
    unigram = -np.log(counts / counts.sum())
    for name in ("evaluation", "calibration"):
        text = read(os.path.join(HERE, name + ".txt"))
        ids = tok.encode(text)
        loss = mean_loss(model, torch.tensor(ids))
        print("%s: %d bytes, %d tokens, unigram perplexity %.2f, perplexity %.4f, bits a byte %.4f"
              % (name, len(text), len(ids), math.exp(unigram[ids].mean()), math.exp(loss),
                 loss / math.log(2) * len(ids) / len(text)))
    for prompt in ("Ruth 5\n", "And it came to pass in those days, that"):
        print("---\n" + tok.decode(sample(model, [BOS] + tok.encode(prompt), 200)))


STAGES = {"text": stage_text, "tokenizer": stage_tokenizer, "train": stage_train,
          "export": stage_export, "report": stage_report}


OPTIONS = None                                  # of the command line


def main():
    global OPTIONS
    parser = argparse.ArgumentParser(description="Train the example model; see this file's top.")
    parser.add_argument("--work", default=os.path.join(HERE, "work"), help="for what is not kept")
    parser.add_argument("--family", default="llama", choices=sorted(FAMILIES))
    parser.add_argument("--share", default=1.0, type=float, help="of the training's steps")
    parser.add_argument("stage", nargs="*", help=", ".join(STAGES))
    OPTIONS = parser.parse_args()
    torch.set_num_threads(1)
    os.makedirs(OPTIONS.work, exist_ok=True)
    for name in OPTIONS.stage or STAGES:
        STAGES[name](OPTIONS.work)


if __name__ == "__main__":
    main()
