# SPDX-License-Identifier: Apache-2.0
"""Steps of QLoRA training: nfloat on a 4-bit base beside PyTorch on the same base in bf16, written by hand.

Run it as bench/peers/run train. Both take the same rows in the same order and as many threads: forward, backward, clipping and
AdamW over low-rank pairs of every linear layer but the head. PyTorch's weights are dense (a 4-bit base would be expanded in each
step): its products are oneDNN's, its attention whole matrices, its loss over all rows at once. Rounds alternate.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import time

NFLOAT = "build/release/bin/nfloat"
TINY = pathlib.Path("models/nfloat-tiny")
# rows x tokens of a step, the rank, and the shape: hidden, intermediate, layers, heads, heads of keys and values, vocabulary.
MODELS = {
    "tiny": {"rows": 8, "length": 256, "rank": 8, "shape": None},
    "100m": {"rows": 1, "length": 512, "rank": 16, "shape": (768, 2048, 12, 12, 12, 32000)},
    "1b": {"rows": 1, "length": 512, "rank": 16, "shape": (2048, 8192, 2, 32, 8, 32000)},
}
TITLES = {"tiny": "nfloat-tiny, 8 x 256 tokens, rank 8", "100m": "110 M weights, 1 x 512, rank 16", "1b": "two layers of 1 B + head, 1 x 512, rank 16"}


def main():
    parser = argparse.ArgumentParser(prog="bench/peers/run train", description="nfloat train beside PyTorch, in alternating rounds.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs; medians are told (3)")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a round, behind two that are not (6)")
    parser.add_argument("--threads", default="1", help="numbers of threads (1)")
    parser.add_argument("--models", default=",".join(MODELS), help="of " + ", ".join(MODELS))
    parser.add_argument("--json", metavar="FILE", help="everything measured, every round")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--peer", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options)
    names = options.models.split(",")
    if set(names) - set(MODELS) or min(options.rounds, options.steps) < 1:
        parser.error(f"--models are of {', '.join(MODELS)}; --rounds and --steps count from 1")
    results = []
    for threads in map(int, options.threads.split(",")):
        for name in names:
            make(options, name)
            rates = {"nfloat": [], "PyTorch": []}
            losses = {}
            for _ in range(options.rounds):
                for program, run in (("nfloat", run_nfloat), ("PyTorch", run_peer)):
                    seconds, losses[program] = run(options, name, threads)
                    rates[program].append(tokens(name) / seconds)
            results.append({"model": name, "threads": threads, "rounds": rates, "losses": losses})
            show(results[-1])
    if options.json:
        pathlib.Path(options.json + ".part").write_text(json.dumps(results, indent=1), encoding="utf-8")
        os.replace(options.json + ".part", options.json)
    return 0


def tokens(name):
    return MODELS[name]["rows"] * MODELS[name]["length"]


def show(result):
    ours, theirs = (result["rounds"][program] for program in ("nfloat", "PyTorch"))
    ratios = [a / b for a, b in zip(ours, theirs)]
    print(f"{TITLES[result['model']]}, {result['threads']} thread{'s' if result['threads'] > 1 else ''}: "
          f"nfloat {statistics.median(ours):.0f}, PyTorch {statistics.median(theirs):.0f} tokens/s, "
          f"{statistics.median(ratios):.2f} times (rounds {min(ratios):.2f} to {max(ratios):.2f}); "
          f"last losses {result['losses']['nfloat']:.4f} and {result['losses']['PyTorch']:.4f}", flush=True)  # fmt: skip


def check(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def make(options, name):
    """Plain and 4-bit folder, and rows of token ids that are alike for both programs."""
    import random

    folder = pathlib.Path(options.work) / name
    model, generator = MODELS[name], random.Random(1)
    if not (folder / "nf4").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if model["shape"] is None:
            shutil.copytree(TINY, folder / "plain")
        else:
            make_plain(folder / "plain", *model["shape"])
        check([NFLOAT, "quantize", folder / "plain", folder / "nf4", "--double-quantization", "--quiet"])
    vocabulary = json.loads((folder / "plain/config.json").read_text())["vocab_size"]
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for _ in range(model["rows"] * (options.steps + 2)):
            ids = [generator.randrange(2, vocabulary) for _ in range(model["length"])]
            file.write(json.dumps({"input_ids": ids}) + "\n")


def make_plain(folder, hidden, intermediate, layers, heads, kv_heads, vocabulary):
    """A folder of random bf16 weights that keep the size of what they multiply."""
    import numpy as np

    folder.mkdir()
    size = hidden // heads
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = shapes[at + "post_attention_layernorm.weight"] = (hidden,)
        for part, outputs in (("q", heads * size), ("k", kv_heads * size), ("v", kv_heads * size)):
            shapes[f"{at}self_attn.{part}_proj.weight"] = (outputs, hidden)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, heads * size)
        for part in ("gate", "up"):
            shapes[f"{at}mlp.{part}_proj.weight"] = (intermediate, hidden)
        shapes[at + "mlp.down_proj.weight"] = (hidden, intermediate)
    random, header, offset, parts = np.random.default_rng(1), {}, 0, []
    for name, shape in shapes.items():
        if len(shape) == 1:
            values = np.ones(shape, np.float32)
        else:
            values = random.standard_normal(shape, np.float32) * (0.02 if "embed" in name else shape[1] ** -0.5)
        data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    config = json.loads((TINY / "config.json").read_text())
    config.update(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=kv_heads, head_dim=size, vocab_size=vocabulary, max_position_embeddings=2048)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)


def run_nfloat(options, name, threads):
    """Seconds of a step, the last loss."""
    folder, model = pathlib.Path(options.work) / name, MODELS[name]
    log = folder / "log.jsonl"
    log.unlink(missing_ok=True)
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    check([NFLOAT, "train", folder / "nf4", folder / "rows.jsonl", "--out", folder / "adapter", "--steps", str(options.steps + 2),
           "--rank", str(model["rank"]), "--alpha", str(2 * model["rank"]), "--no-shuffle", "--no-packing", "--rows-per-batch",
           str(model["rows"]), "--length", str(model["length"]), "--lr", "1e-3", "--schedule", "constant", "--warmup", "0", "--precision", "bf16",
           "--recompute", "none", "--threads", str(threads), "--log", log, "--quiet"])  # fmt: skip
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    return statistics.median(step["seconds"] for step in steps[-options.steps:]), steps[-1]["loss"]


def run_peer(options, name, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    out = check([sys.executable, __file__, "--peer", name, "--work", options.work, "--steps", str(options.steps), "--threads", str(threads)],
                env=environment)  # fmt: skip
    result = json.loads(out)
    return statistics.median(result["seconds"][-options.steps:]), result["loss"]


def peer(options):
    """The same steps in PyTorch: prints the seconds of each and the last loss."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    model = MODELS[options.peer]
    folder = pathlib.Path(options.work) / options.peer
    torch.set_num_threads(int(options.threads))
    torch.manual_seed(1)
    config = json.loads((folder / "plain/config.json").read_text())
    data = (folder / "plain/model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    weights = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + at for at in entry["data_offsets"])
            bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
            weights[name] = torch.from_numpy(bits.view(np.float32).reshape(entry["shape"]).copy()).to(torch.bfloat16)
    heads, kv_heads, width = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    length, rank = model["length"], model["rank"]
    angles = torch.outer(torch.arange(length).float(), config["rope_theta"] ** (-torch.arange(0, width, 2).float() / width))
    cosine, sine = (torch.cat([f(angles)] * 2, -1).to(torch.bfloat16) for f in (torch.cos, torch.sin))
    mask = torch.full((length, length), float("-inf")).triu(1).to(torch.bfloat16)
    pairs = {}
    for name, weight in weights.items():
        if "_proj" in name:
            a = torch.empty(rank, weight.shape[1]).uniform_(-1, 1) * weight.shape[1] ** -0.5
            pairs[name] = a.requires_grad_(), torch.zeros(weight.shape[0], rank).requires_grad_()
    parameters = [one for pair in pairs.values() for one in pair]
    optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=0)

    def norm(x, name):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + config["rms_norm_eps"])
        return wide.to(torch.bfloat16) * weights[name]

    def linear(x, name):
        a, b = pairs[name]
        return F.linear(x, weights[name]) + 2 * F.linear(F.linear(x, a.to(torch.bfloat16)), b.to(torch.bfloat16))

    def turn(x):
        return x * cosine + torch.cat((-x[..., width // 2:], x[..., :width // 2]), -1) * sine

    def layer(x, at):
        rows = x.shape[0]
        h = norm(x, at + "input_layernorm.weight")
        q, k, v = (linear(h, f"{at}self_attn.{part}_proj.weight").view(rows, length, -1, width).transpose(1, 2) for part in "qkv")
        q, k = turn(q), turn(k)
        if heads != kv_heads:
            k, v = (part.repeat_interleave(heads // kv_heads, 1) for part in (k, v))
        scores = q @ k.transpose(2, 3) * width**-0.5 + mask
        y = torch.softmax(scores, -1, dtype=torch.float32).to(torch.bfloat16) @ v
        x = x + linear(y.transpose(1, 2).reshape(rows, length, -1), at + "self_attn.o_proj.weight")
        h = norm(x, at + "post_attention_layernorm.weight")
        h = F.silu(linear(h, at + "mlp.gate_proj.weight")) * linear(h, at + "mlp.up_proj.weight")
        return x + linear(h, at + "mlp.down_proj.weight")

    lines = (folder / "rows.jsonl").read_text().splitlines()
    seconds = []
    for step in range(options.steps + 2):
        rows = torch.tensor([json.loads(line)["input_ids"] for line in lines[step * model["rows"]:(step + 1) * model["rows"]]])
        begin = time.perf_counter()
        x = F.embedding(rows, weights["model.embed_tokens.weight"])
        for number in range(config["num_hidden_layers"]):
            x = layer(x, f"model.layers.{number}.")
        logits = F.linear(norm(x, "model.norm.weight"), weights["model.embed_tokens.weight"])[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), rows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds, "loss": loss.item()}))
    return 0


sys.exit(main())
