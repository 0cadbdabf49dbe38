# SPDX-License-Identifier: Apache-2.0
"""What is measured on a card. No rate fails: what outlasts its time is skipped."""
import csv
import io
import json
import os
import shutil

from engines import MODEL, kinds_of, open_engine, opened, torch_child

# Shapes of the plain model that is converted and trained: hidden, between, layers, heads, heads of keys and values. About 1 billion
# weights for a card; a processor's device only shows that the stages run.
LARGE, SMALL = (2048, 8192, 16, 32, 8), (256, 768, 2, 4, 2)
NCU_METRICS = ["gpu__time_duration.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed",
               "sm__throughput.avg.pct_of_peak_sustained_elapsed", "sm__inst_issued.avg.pct_of_peak_sustained_active",
               "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"]  # fmt: skip


def limits(run, args):
    torch_child(run, "matmul", {}, 60, args.card_environment)


def bench(run, args):
    """Kernels, each twice, beside the card's own limits."""
    path = run.path("bench.json")
    done = run.command([args.device_program, "bench", str(run.result.get("torch", {}).get("matmul_tflops", 0)), path], 200, args.card_environment)
    run.note(done.out)
    if done.status == 0:
        with open(path, encoding="utf-8") as file:
            measured = json.load(file)
        run.result["limits"], run.result["bench"] = measured["limits"], measured["bench"]
    run.count_run("benchmark", done, text="ran" if done.status == 0 else None)


def measured(on, name, arguments, limit, **environment):
    done = on.command(["nfloat"] + arguments + ["--device", on.name, "--json"], limit, **environment)
    if done.status == 0:
        on.results.setdefault("bench", {})[name] = json.loads(done.out)
    on.run.count_run(f"{on.kind} {name}", done, text="measured" if done.status == 0 else None)


def bench_engine(run, args, kind):
    """The card's limits, products beside them, whole models of random weights that fit. Of a processor a few rows, to see them run."""
    on = open_engine(run, args, kind, "engine_bench" if kind == "cuda" else f"{kind}_bench")
    if on is None:
        return
    if not on.card:
        measured(on, "kernels", ["bench", "kernels", "--only", "by 1 row", "--memory", "32", "--seconds", "3"], 60)
        measured(on, "tiny", ["bench", MODEL, "--prefill", "64", "--generate", "8", "--repetitions", "1"], 60)
        return
    measured(on, "1b", ["bench", "--synthetic", "1b", "--head", "int8", "--repetitions", "3"], 60)
    if on.device["free_bytes"] > 8e9:
        measured(on, "8b", ["bench", "--synthetic", "8b", "--head", "int8", "--repetitions", "3"], 150)
    measured(on, "kernels", ["bench", "kernels", "--seconds", "25"], 60)
    units = on.results.get("bench", {}).get("1b", {}).get("device", {}).get("matrix_units", "")
    if units.startswith("in use"):
        measured(on, "1b without matrix units", ["bench", "--synthetic", "1b", "--head", "int8", "--repetitions", "3", "--generate", "0"], 40, NFLOAT_VULKAN_MATRIX="off")
    measured(on, "tiny", ["bench", MODEL], 30)


def make_plain(run, folder, shape):
    """A plain bf16 model of random weights between 2^-7 and 2^-5, of either sign; without PyTorch."""
    hidden, between, layers, heads, kv_heads = shape
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    size = hidden // heads
    config.update(hidden_size=hidden, intermediate_size=between, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                  head_dim=size, max_position_embeddings=2048)  # fmt: skip
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = shapes[at + "post_attention_layernorm.weight"] = [hidden]
        for part, outputs in (("q", heads * size), ("k", kv_heads * size), ("v", kv_heads * size), ("o", hidden)):
            shapes[f"{at}self_attn.{part}_proj.weight"] = [outputs, hidden]
        for part, pair in (("gate", [between, hidden]), ("up", [between, hidden]), ("down", [hidden, between])):
            shapes[f"{at}mlp.{part}_proj.weight"] = pair
    header, at = {}, 0
    for name, own in shapes.items():
        length = 2 * own[0] * (own[1] if len(own) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": own, "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header).encode()
    # 64 MiB that are random, again and again: reading, writing and quantizing them cost what others do.
    count = min(at // 2, 1 << 25)
    some = bytearray(2 * count)
    some[0::2] = os.urandom(count)
    some[1::2] = os.urandom(count).translate(bytes((byte & 0x80) | 0x3c for byte in range(256)))
    os.makedirs(folder)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(at // len(some)):
            file.write(some)
        file.write(some[:at % len(some)])
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(MODEL, name), folder)


def same_bytes(one, other):
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            x, y = a.read(1 << 22), b.read(1 << 22)
            if x != y:
                return False
            if not x:
                return True


def convert_pair(on, plain, stem, options, device):
    """Quantizes and decodes on a device: the results of both commands, or None."""
    found = {}
    for command, source, target in (("quantize", plain, stem), ("dequantize", stem, stem + "_back")):
        done = on.command(["nfloat", command, source, target, "--json", "--device", device] + (options if command == "quantize" else []), 90)
        if done.status == 1 and "neither quantizes nor dequantizes" in done.err:
            on.run.skip(f"{command} on {device}", done.err.strip())
            return None
        if done.status != 0:
            on.run.count_run(f"{command} on {device}", done)
            return None
        found[command] = json.loads(done.out)
    return found


def convert(run, args):
    """quantize and dequantize give the CPU's bytes."""
    engines = [on for on in opened(run, args, "convert", kinds_of(args)) if on.kind != "vulkan" or args.device]
    if not engines:
        return
    plain = run.path("small")
    make_plain(run, plain, SMALL)
    for name, options in (("float scales", []), ("8-bit scales", ["--double-quantization"]), ("fp4, blocks of 128", ["--format", "fp4", "--block-size", "128"])):
        here = run.path("convert_cpu")
        if convert_pair(engines[0], plain, here, options, "cpu") is None:
            return
        for on in engines:
            there = run.path("convert_there")
            if convert_pair(on, plain, there, options, on.name) is None:
                return
            for what, folder in (("quantize", ""), ("dequantize", "_back")):
                same = same_bytes(*(os.path.join(stem + folder, "model.safetensors") for stem in (here, there)))
                run.count(f"{what} on {on.name}, {name}", same, "the CPU's bytes" if same else "other bytes than the CPU's")
            clear(there)
        clear(here)


def clear(stem):
    for folder in (stem, stem + "_back"):
        shutil.rmtree(folder, ignore_errors=True)


def roomy(run, wanted):
    """A folder for files of that many bytes: of memory, if there is enough, so that no disk is measured."""
    try:
        memory = os.statvfs("/dev/shm")
        if memory.f_bavail * memory.f_frsize > 3 * wanted:
            return os.path.join("/dev/shm", os.path.basename(run.work))
    except OSError:
        pass
    return run.path("large")


def model_bench(run, args):
    """quantize, dequantize and steps of training, on the card and on the CPU."""
    engines = opened(run, args, "model_bench", kinds_of(args))
    if not engines:
        return
    shape = LARGE if any(on.card for on in engines) else SMALL
    folder = roomy(run, 2_200_000_000 if shape is LARGE else 10_000_000)
    os.makedirs(folder, exist_ok=True)
    try:
        plain, nf4 = os.path.join(folder, "plain"), os.path.join(folder, "nf4")
        make_plain(run, plain, shape)
        size = os.path.getsize(os.path.join(plain, "model.safetensors"))
        found = run.result.setdefault("models", {"bytes": size})
        for name in dict.fromkeys(["cpu"] + [on.name for on in engines if on.kind == "cuda"]):
            one = convert_pair(engines[0], plain, os.path.join(folder, "made"), ["--double-quantization"], name)
            if one is not None:
                found.setdefault(name, {}).update({f"{what}_gb_s": size / own["seconds"] / 1e9 for what, own in one.items()})
                run.count(f"quantize and dequantize on {name}", True, ", ".join(f"{what} {size / own['seconds'] / 1e9:.2f} GB/s of bf16" for what, own in one.items()))
            if name == "cpu" and one is not None:
                os.rename(os.path.join(folder, "made"), nf4)
            clear(os.path.join(folder, "made"))
        if not os.path.isdir(nf4):
            return
        rows = os.path.join(folder, "rows.jsonl")
        with open(rows, "w", encoding="utf-8") as file:
            for i in range(4):
                file.write(json.dumps({"input_ids": [(i * 7919 + j * 104729) % 4000 + 2 for j in range(512)]}) + "\n")
        for name in dict.fromkeys([on.name for on in engines] + ["cpu"]):
            out, log = os.path.join(folder, "adapter"), os.path.join(folder, "log.jsonl")
            done = engines[0].command(["nfloat", "train", nf4, rows, "--out", out, "--overwrite", "--steps", "4", "--no-packing", "--rows-per-batch", "1", "--length", "512",
                                       "--precision", "bf16", "--log", log, "--device", name, "--quiet"], 60)  # fmt: skip
            if done.status == 0:
                with open(log, encoding="utf-8") as file:
                    seconds = sorted(json.loads(line)["seconds"] for line in file)[1]
                found.setdefault(name, {})["train_step_seconds"] = seconds
                run.count(f"train on {name}", True, f"{seconds:.3f} s a step of 512 tokens")
            else:
                run.count_run(f"train on {name}", done)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def profiled(on, tool, metrics, count, arguments, limit):
    """Mean of each metric by the name of the kernel, and how many launches there were; None, and a skip, where ncu gives none."""
    command = [tool, "--clock-control", "none", "--csv", "--metrics", ",".join(metrics)] + (["--launch-count", str(count)] if count else [])
    done = on.run.command(command + [os.path.join(on.folder, arguments[0])] + arguments[1:], limit, on.environment)
    at = done.out.find('"ID"')
    if "Failed to find metric" in done.text and len(metrics) > 2:
        return profiled(on, tool, metrics[:2], count, arguments, limit)
    if done.status != 0 or at < 0:
        on.run.skip("ncu", on.run.why_outlasted(done) if done.outlasted else " ".join(done.text.strip().splitlines()[-2:])[:300] or "it says nothing")
        return None
    kernels, launches = {}, set()
    for row in csv.DictReader(io.StringIO(done.out[at:])):
        if not (row.get("Metric Value") and row.get("Kernel Name")):
            continue
        launches.add(row["ID"])
        try:
            value = float(row["Metric Value"].replace(",", ""))
        except ValueError:
            continue
        kernels.setdefault(row["Kernel Name"].split("(")[0][-60:], {}).setdefault(f"{row['Metric Name']} [{row['Metric Unit']}]", []).append(value)
    means = {name: {metric: sum(values) / len(values) for metric, values in own.items()} for name, own in kernels.items()}
    return means, len(launches)


def ncu(run, args):
    """Launches of a decoded token; where the time of products and attention goes, of a model of a billion weights."""
    tool = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if not os.path.exists(tool):
        return run.skip("ncu", "not installed")
    on = open_engine(run, args, "cuda", "ncu")
    if on is None:
        return None
    counts = []
    for tokens in (3, 7):
        found = profiled(on, tool, NCU_METRICS[:1], 0, ["nfloat", "generate", MODEL, "-p", "Once upon a time", "-n", str(tokens), "--temperature", "0",
                                                         "--ignore-eos", "--quiet", "--precision", "bf16", "--quantize", "nf4", "--device", on.name], 60)  # fmt: skip
        if found is None:
            return None
        counts.append(found[1])
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
        layers = json.load(file)["num_hidden_layers"]
    run.result["launches"] = {"a_token": (counts[1] - counts[0]) / 4, "layers": layers}
    run.count("ncu: launches", counts[1] > counts[0], f"{(counts[1] - counts[0]) / 4:.1f} for a token of {layers} layers")
    for name, work in (("decode", ["--prefill", "0", "--generate", "1"]), ("prompt", ["--prefill", "512", "--generate", "0"])):
        found = profiled(on, tool, NCU_METRICS, 60, ["nfloat", "bench", "--synthetic", "1b", "--head", "int8", "--repetitions", "1", "--json", "--device", on.name] + work, 90)
        if found is None:
            return None
        run.result.setdefault("ncu", {})[name] = found[0]
        run.count(f"ncu: {name}", bool(found[0]), f"{found[1]} launches of {len(found[0])} kernels")
    return None
