#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a rank keeps in memory and reads from the disk, by the system's own counts: its share of the weights and 5 %, above what it takes with a
model of no size; of the files its own rows, the embedding and the samples that fingerprints are made of, and what the file system reads around them. A model of 300 million weights, 4
bits each, a copy for each rank. NFLOAT: the program; arguments before it: mpirun and its options."""
import json, mmap, os, shutil, signal, struct, subprocess, sys, tempfile, time

HIDDEN, INNER, LAYERS, HEADS, KV, VOCABULARY = 2048, 8192, 5, 32, 8, 4096
nfloat, mpirun = os.environ["NFLOAT"], sys.argv[1:]
TINY = "models/nfloat-tiny"


def tensors():
    kv = HIDDEN // HEADS * KV
    yield "model.embed_tokens.weight", [VOCABULARY, HIDDEN]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield at + norm + ".weight", [HIDDEN]
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv), ("o", HIDDEN)):
            yield at + f"self_attn.{name}_proj.weight", [rows, HIDDEN]
        for name, rows, cols in (("gate", INNER, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)):
            yield at + f"mlp.{name}_proj.weight", [rows, cols]
    yield "model.norm.weight", [HIDDEN]


def make_model(folder):
    """Zeros that take no room, quantized: codes that do."""
    plain = folder + "/plain"
    shutil.copytree(TINY, plain, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    header, size = {}, 0
    for name, shape in tensors():
        own = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [size, size + own]}
        size += own
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(plain + "/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    with open(plain + "/config.json", "w") as file:
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER,
                   "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV, "vocab_size": VOCABULARY,
                   "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
                   "torch_dtype": "bfloat16"}, file)
    subprocess.run([nfloat, "quantize", plain, folder + "/0"], check=True, stdout=subprocess.DEVNULL)
    for copy in ("1", "whole"):
        shutil.copytree(folder + "/0", folder + "/" + copy)


def forget(folder):
    """Out of the system's cache: what is read from now on comes from the disk."""
    for name in os.listdir(folder):
        with open(folder + "/" + name, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_by(process):
    return int(dict(line.split(":", 1) for line in open(f"/proc/{process}/io"))["read_bytes"])


def window(path):
    """Bytes that the file system reads where one byte of a mapped file, or of an open one, is asked for and nothing around it: a page where
    it does as it is told."""
    size, places, most = os.path.getsize(path), 16, 0
    for mapped in (True, False):
        forget(os.path.dirname(path))
        with open(path, "rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            data.madvise(mmap.MADV_RANDOM)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for i in range(places):
                at, before = size // places * i + size // places // 2, read_by("self")
                data[at] if mapped else os.pread(file.fileno(), 1, at)
                most = max(most, read_by("self") - before)
    return most


def tensor_sizes(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: one["data_offsets"][1] - one["data_offsets"][0] for name, one in header.items() if name != "__metadata__"}


def count(process):
    status = dict(line.split(":", 1) for line in open(f"/proc/{process}/status"))
    return {"anonymous": int(status["RssAnon"].split()[0]) * 1024, "peak": int(status["VmHWM"].split()[0]) * 1024,
            "read": read_by(process)}


def is_below(process, ancestor):
    """mpirun has ranks as its children, or its helpers do."""
    while process > 1 and process != ancestor:
        process = int(open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()[1])
    return process == ancestor


def serving(command, errors, expected=1):
    """What the processes of a server have taken when it is ready: by rank, so many as are expected, of one process rank 0."""
    with open(errors, "w") as out:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 240
        while "Ready" not in open(errors).read():
            if time.monotonic() > end or server.poll() is not None:
                sys.exit("no server: " + open(errors).read())
            time.sleep(0.1)
        found = {}
        for process in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            try:
                if os.readlink(f"/proc/{process}/exe") != os.path.realpath(nfloat):
                    continue
                own = is_below(process, server.pid)
                environment = open(f"/proc/{process}/environ").read().split("\0")
            except OSError:
                continue
            if own:
                rank = [v.split("=")[1] for v in environment if v.startswith("OMPI_COMM_WORLD_RANK=")]
                found[int(rank[0]) if rank else 0] = count(process)
        if sorted(found) != list(range(expected)):
            sys.exit(f"of {expected} ranks below process {server.pid}, those with these numbers were found: {sorted(found)}")
        return found
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def serve(model):
    return [nfloat, "serve", model, "--port", "0", "--threads", "1", "--streams", "1"]


failed = False


def expect(what, found, limit):
    global failed
    good = found <= limit
    failed |= not good
    print(f"{what}: {found / 1e6:.1f} MB, at most {limit / 1e6:.1f}{'' if good else ': FAILED'}")


with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
    make_model(folder)
    errors = folder + "/errors"
    forget(folder + "/whole")
    whole = serving(serve(folder + "/whole"), errors)[0]
    base = serving(serve(TINY), errors)[0]
    shares = (0.75, 0.25)
    split = lambda zero, one: mpirun + ["-n", "1"] + serve(zero) + ["--share", "3,1", ":", "-n", "1"] + serve(one) + ["--share", "3,1"]
    small = serving(split(TINY, TINY), errors, 2)
    for copy in ("0", "1"):
        forget(folder + "/" + copy)
    ranks = serving(split(folder + "/0", folder + "/1"), errors, 2)
    weights = whole["anonymous"] - base["anonymous"]
    path = folder + "/whole/model.safetensors"
    file, around, sizes = os.path.getsize(path), window(path), tensor_sizes(path)
    print(f"the file system reads {around / 1e3:.1f} kB for a byte")
    # Of the fingerprint two pages and what is around them each; both ends of a tensor's own rows lie inside such a window, too.
    samples = min(file, 257 * (8192 + around))
    reads = lambda share: sum(min(size, 1.05 * (1 if "embed" in name else share) * size + 2 * around) for name, size in sizes.items()) + samples
    for rank, share in enumerate(shares):
        expect(f"rank {rank} keeps, with a share of {share} of {weights / 1e6:.1f} MB", ranks[rank]["anonymous"] - small[rank]["anonymous"],
               1.05 * share * weights)
        print(f"rank {rank}: peak {ranks[rank]['peak'] / 1e6:.1f} MB with the pages of files, one process {whole['peak'] / 1e6:.1f}")
        if whole["read"] < file // 2:
            print("this file system does not count what is read: not looked at")
            continue
        if reads(share) > 0.95 * file:
            print(f"rank {rank} may read all of the file for its rows by so much at a time: not looked at")
            continue
        expect(f"rank {rank} reads of {file / 1e6:.1f} MB", ranks[rank]["read"], reads(share))
sys.exit(failed)
