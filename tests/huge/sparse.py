#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of 405 billion parameters as sparse files: the whole work list of `nfloat quantize` against sizes counted here, every shard
of it by --part without ranks in a dry sense (its name, its tensors, its offsets follow from the list), and some of the shards made. Some
minutes and 12 GB of disk, in a folder that is removed. Exit status 77: no room. NFLOAT_HUGE_SHARDS (2): shards that are made."""
import json, os, resource, shutil, struct, subprocess, sys, tempfile, time

HIDDEN, INNER, LAYERS, KV, VOCABULARY = 16384, 53248, 126, 1024, 128256
nfloat = os.environ.get("NFLOAT", "build/release/bin/nfloat")
made = int(os.environ.get("NFLOAT_HUGE_SHARDS", "2"))
GIB = 1 << 30


def tensors():
    yield "model.embed_tokens.weight", [VOCABULARY, HIDDEN]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", [HIDDEN]
        for name, rows, cols in [("q", HIDDEN, HIDDEN), ("k", KV, HIDDEN), ("v", KV, HIDDEN), ("o", HIDDEN, HIDDEN)]:
            yield at + f"self_attn.{name}_proj.weight", [rows, cols]
        yield at + "post_attention_layernorm.weight", [HIDDEN]
        for name, rows, cols in [("gate", INNER, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)]:
            yield at + f"mlp.{name}_proj.weight", [rows, cols]
    yield "model.norm.weight", [HIDDEN]
    yield "lm_head.weight", [VOCABULARY, HIDDEN]


def elements(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def write_checkpoint(folder):
    files, current, size = [], [], 0
    for name, shape in tensors():
        own = 2 * elements(shape)
        if current and size + own > 4_900_000_000:
            files.append(current)
            current, size = [], 0
        current.append((name, shape))
        size += own
    files.append(current)
    weight_map = {}
    for index, part in enumerate(files):
        name = f"model-{index + 1:05}-of-{len(files):05}.safetensors"
        header, offset = {}, 0
        for tensor, shape in part:
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * elements(shape)]}
            offset += 2 * elements(shape)
            weight_map[tensor] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            begin = file.tell()
            # One number that is not 0 in each matrix: row 1, column 65 is -2.
            for tensor, shape in part:
                if len(shape) == 2:
                    file.seek(begin + header[tensor]["data_offsets"][0] + 2 * (shape[1] + 65))
                    file.write(struct.pack("<H", 0xC000))
            file.truncate(begin + offset)
    total = sum(2 * elements(shape) for _, shape in tensors())
    json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, open(os.path.join(folder, "model.safetensors.index.json"), "w"))
    json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
               "num_hidden_layers": LAYERS, "num_attention_heads": 128, "num_key_value_heads": 8, "vocab_size": VOCABULARY,
               "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16"},
              open(os.path.join(folder, "config.json"), "w"))
    return total


def run(*arguments):
    begun = time.time()
    result = subprocess.run([nfloat, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"FAILED: nfloat {' '.join(arguments)}: {result.stderr}")
    return result.stdout, time.time() - begun


def expect(good, what):
    if not good:
        sys.exit("FAILED: " + what)


def quantized(name, shape):
    return len(shape) == 2 and not name.startswith(("model.embed", "lm_head"))


def bytes_after(name, shape):
    """Codes and float32 scales of blocks of 64, the table of 16 levels, and the quantization state, whose length is its own."""
    count = elements(shape)
    return count // 2 + count // 64 * 4 + 64 if quantized(name, shape) else 2 * count


def read_shard(path):
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    end = 0
    for tensor in sorted(header.values(), key=lambda one: one["data_offsets"][0]):
        expect(tensor["data_offsets"][0] == end, f"{path}: a gap at {end}")
        end = tensor["data_offsets"][1]
    expect(os.path.getsize(path) == 8 + length + end, f"{path}: another size than its header says")
    return header, 8 + length


work = tempfile.mkdtemp(prefix="nfloat-huge-")
try:
    if shutil.disk_usage(work).free < (6 * made + 4) * 10**9:
        print(f"less than {6 * made + 4} GB of disk free")
        sys.exit(77)
    source, out = os.path.join(work, "in"), os.path.join(work, "out")
    os.mkdir(source)
    total = write_checkpoint(source)
    shapes = dict(tensors())

    text, seconds = run("quantize", source, out, "--dry-run", "--json")
    plan = json.loads(text)
    listed = {tensor["name"]: tensor for tensor in plan["tensors"]}
    expect(set(listed) == set(shapes), "the work list has other tensors")
    state = None
    for name, shape in shapes.items():
        after = listed[name]["bytes_after"]
        expect(listed[name]["bytes_before"] == 2 * elements(shape), f"{name}: another size before")
        expect((after == 2 * elements(shape)) != quantized(name, shape), f"{name}: quantized or not")
        expect(0 <= after - bytes_after(name, shape) < 512, f"{name}: {after} bytes after, {bytes_after(name, shape)} counted")
    expect(plan["bytes_before"] == total and plan["bytes_after"] == sum(one["bytes_after"] for one in listed.values()), "sums")
    print(f"work list: {len(listed)} tensors, {total / 1e9:.0f} to {plan['bytes_after'] / 1e9:.0f} GB, in {seconds:.1f} s")

    # How many shards: of the list in its order, each as many whole weights as fit 5 GB, within the bounds of that.
    least = -(-plan["bytes_after"] // 5_000_000_000)
    parts = 4096
    written, begun = 0, time.time()
    for part in range(1, made + 1):
        run("quantize", source, out, "--part", f"{part + 1}/{parts}", "--threads", "2")
    seconds = time.time() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    made_in = os.path.join(out + ".partial", "model")
    shards = sorted(name for name in os.listdir(made_in) if name.endswith(".safetensors"))
    expect(len(shards) == made, f"{len(shards)} shards of {made}: {shards}")
    for shard in shards:
        path = os.path.join(made_in, shard)
        header, begin = read_shard(path)
        expect(os.path.getsize(path) <= 5_000_000_000 + (1 << 20), f"{shard} is larger than 5 GB")
        count = int(shard.split("-of-")[1].split(".")[0]) if "-of-" in shard else 0
        expect(count == 0 or least <= count <= 2 * least, f"{count} shards, at least {least}")
        with open(path, "rb") as file:
            for name, shape in shapes.items():
                if not quantized(name, shape) or name not in header:
                    continue
                expect(header[name]["shape"] == [elements(shape) // 2, 1], f"{name}: {header[name]['shape']}")
                # Element 1 * cols + 65 is -2, the least of its block; all others are 0: codes 0 and 7.
                at = shape[1] + 65
                file.seek(begin + header[name]["data_offsets"][0] + at // 2 - 2)
                expect(file.read(4) == bytes([0x77, 0x77, 0x70, 0x77]), f"{name}: other codes")
                file.seek(begin + header[name + ".absmax"]["data_offsets"][0] + at // 64 * 4 - 4)
                expect(struct.unpack("<3f", file.read(12)) == (0, 2, 0), f"{name}: other scales")
        written += os.path.getsize(path)
    expect(peak < GIB, f"{peak >> 20} MiB of memory")
    print(f"made: {len(shards)} shards, {written / 1e9:.1f} GB, in {seconds:.0f} s, at most {peak >> 20} MiB of memory")
finally:
    shutil.rmtree(work)
print("passed")
