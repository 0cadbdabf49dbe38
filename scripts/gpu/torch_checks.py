# SPDX-License-Identifier: Apache-2.0
"""torch_checks.py matmul | decode | make | logits | lora, with a JSON file of what to do: what gpu_check lets PyTorch compute, in a
process of its own. Prints a line of JSON for each check, {"name", "good", "text"} or {"skip", "why"}, and {"result"} for what was
measured. Exit status 3: there is no PyTorch."""
import json
import math
import os
import struct
import sys

try:
    import torch
except ImportError:
    print("PyTorch is not installed")
    sys.exit(3)
from llama import PROJECTIONS, Llama, expand, expand_scales, random_model, read_model, read_safetensors, write_safetensors

# Of a random Llama: heads of keys and values are shared by 3, rows of down_proj are no multiple of 256.
SHAPE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 384, "intermediate_size": 1088, "num_hidden_layers": 8,
         "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
         "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"}  # fmt: skip
RANK, ALPHA = 8, 16
# How often the deviation that PyTorch itself has from float64, in the same arithmetic on the same data, may be exceeded: another
# order of sums, fused multiplications.
FACTOR = {"f32": 4.0, "bf16": 3.0}
# The same of the root of the mean square of a million differences, which chance moves little.
RMS_FACTOR = {"f32": 2.0, "bf16": 1.5}
KL = {"f32": 1e-5, "bf16": 1e-3}


def say(**line):
    print(json.dumps(line), flush=True)


def tell(name, found, bound, what):
    say(name=name, good=bool(found <= bound), text=f"{what}: {found:.3g}, at most {bound:.3g}")


def matmul(_):
    """TFLOP/s of 8192^3 in bf16 on the first card of CUDA."""
    if not torch.cuda.is_available():
        return say(skip="matrix rate", why="this PyTorch has no CUDA")
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn_like(a)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(25):
        begin.record()
        torch.matmul(a, b)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    rate = 2 * 8192**3 / sorted(times[5:])[10] * 1e-9
    say(result={"matmul_tflops": rate, "torch": torch.__version__})
    return say(name="matrix rate", good=math.isfinite(rate) and rate > 0, text=f"bf16 8192^3 by PyTorch: {rate:.0f} TFLOP/s")


def decode_tensor(request):
    """Writes a matrix in bitsandbytes' layout for the device program, or compares every bf16 that it made of it."""
    levels = torch.tensor(request["levels"])
    rows, columns, nested = 1031, 704, request["nested"]
    blocks = rows * columns // 64
    generator = torch.Generator().manual_seed(request["seed"])
    codes = torch.randint(0, 256, (rows * columns // 2,), dtype=torch.uint8, generator=generator)
    scales = torch.randn(blocks, generator=generator) * 0.02  # negative ones too
    parts = [struct.pack("<3q", rows, columns, nested), bytes(codes.tolist())]
    if nested:
        second = torch.randint(0, 256, (blocks,), dtype=torch.uint8, generator=generator)
        tops = torch.rand((blocks + 255) // 256, generator=generator) * 0.02
        table, offset = torch.randn(256, generator=generator), torch.tensor([0.013])
        scales = expand_scales(second, tops, table, offset, 256)
        parts += [bytes(second.tolist())] + [struct.pack(f"<{len(t)}f", *t.tolist()) for t in (tops, table, offset)]
    else:
        parts.append(struct.pack(f"<{blocks}f", *scales.tolist()))
    parts.append(struct.pack("<16f", *levels.tolist()))
    if not os.path.exists(request["out"]):
        with open(request["in"], "wb") as file:
            file.write(b"".join(parts))
        return
    expected = expand(codes, levels, scales, rows * columns, 64).to(torch.bfloat16)
    with open(request["out"], "rb") as file:
        data = bytearray(file.read())
    name = f"PyTorch decodes the same, {'8-bit' if nested else 'float'} scales"
    if len(data) != 2 * rows * columns:
        return say(name=name, good=False, text=f"{len(data)} bytes in place of {2 * rows * columns}")
    differ = int((torch.frombuffer(data, dtype=torch.int16) != expected.view(torch.int16)).sum())
    say(name=name, good=differ == 0, text=f"{differ} of {rows * columns} elements differ")


def make(request):
    """A random Llama with the tokenizer of another model, an adapter whose B is not zero, rows to learn."""
    with open(os.path.join(request["tokenizer"], "config.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)["vocab_size"]
    config = {**SHAPE, "vocab_size": vocabulary}
    random_model(request["model"], config, request["seed"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with open(os.path.join(request["tokenizer"], name), "rb") as source, open(os.path.join(request["model"], name), "wb") as target:
            target.write(source.read())
    generator = torch.Generator().manual_seed(request["seed"] + 1)
    weights = read_safetensors(os.path.join(request["model"], "model.safetensors"))
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for part in PROJECTIONS:
            outputs, inputs = weights[f"model.layers.{layer}.{part}.weight"].shape
            at = f"base_model.model.model.layers.{layer}.{part}.lora_"
            tensors[at + "A.weight"] = (torch.rand(RANK, inputs, generator=generator) * 2 - 1) * inputs**-0.5
            tensors[at + "B.weight"] = (torch.rand(outputs, RANK, generator=generator) * 2 - 1) * 0.02
    os.makedirs(request["adapter"])
    write_safetensors(os.path.join(request["adapter"], "adapter_model.safetensors"), tensors)
    with open(os.path.join(request["adapter"], "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none",
                   "fan_in_fan_out": False, "inference_mode": False, "base_model_name_or_path": "",
                   "target_modules": sorted(part.split(".")[1] for part in PROJECTIONS)}, file)  # fmt: skip
    # Lengths on both sides of a page of 128 positions.
    with open(request["rows"], "w", encoding="utf-8") as file:
        for i in range(2 * request["steps"]):
            ids = torch.randint(2, vocabulary, (150 if i % 2 else 97,), generator=generator)
            file.write(json.dumps({"input_ids": ids.tolist()}) + "\n")


def read_distributions(path):
    """What `nfloat perplexity --reference-cache` keeps of each token: its loss in float64; of all tokens log p to half a step."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    magic, _, tokens, vocabulary, named = struct.unpack_from("<8sQqqQ", data)
    if magic != b"nfloatP2":
        raise ValueError(f"{path}: {magic!r} is another version of this file")
    at, size = 40 + (named + 7) // 8 * 8, (24 + 2 * vocabulary + 7) // 8 * 8
    losses, steps, rows = [], [], []
    for i in range(tokens):
        loss, highest, step = struct.unpack_from("<dff", data, at + i * size)
        codes = torch.frombuffer(data, dtype=torch.int16, count=vocabulary, offset=at + i * size + 24).to(torch.int32) & 0xffff
        losses.append(loss)
        steps.append(step)
        rows.append(highest - codes.double() * step)
    return torch.tensor(losses, dtype=torch.float64), torch.stack(rows), max(steps)


def log_p(logits):
    return torch.log_softmax(logits.detach().double(), -1)


def compare_run(run, ids, truth, allowed):
    """One scored text: losses, all log-probabilities, the divergence."""
    losses, found, step = read_distributions(run["distributions"])
    of = run["name"]
    context = len(losses) + 1
    if context != run["context"]:
        return say(name=of, good=False, text=f"{context} tokens a window in place of {run['context']}")
    targets = torch.tensor(ids[1:context])
    expected = truth[:context - 1]
    own = -expected.gather(1, targets[:, None]).flatten()
    bound = allowed["most"]
    tell(f"{of}: losses", float((losses - own).abs().max()), bound, f"{context - 1} tokens differ from float64 by")
    tell(f"{of}: log-probabilities", float((found - expected).abs().max()), bound + step, f"{found.numel()} differ by")
    rms = float((found - expected).square().mean().sqrt())
    tell(f"{of}: root mean square", rms, allowed["rms"] + step / 3, "differ by")
    kl = float((expected.exp() * (expected - log_p(found))).sum(-1).mean())
    return tell(f"{of}: divergence", kl, KL[run["precision"]], "mean KL in nats")


def compare_generated(run, prompt, logits_of, allowed):
    with open(run["generated"], encoding="utf-8") as file:
        found = json.load(file)
    ids = found["prompt_tokens"] + found["tokens"]
    if found["prompt_tokens"] != prompt or len(found["logprobs"]) != len(found["tokens"]):
        return say(name=run["name"] + ": generated", good=False, text="other prompt tokens than the tokenizer's")
    truth = log_p(logits_of(ids))[len(prompt) - 1:-1]
    worst = max(abs(one["logprob"] - float(row[one["id"]])) for row, step in zip(truth, found["logprobs"]) for one in step["top"])
    # Greedy, where the choice is clear.
    best = truth.topk(2).values
    clear = [i for i, row in enumerate(best) if float(row[0] - row[1]) > 2 * allowed["most"]]
    wrong = [i for i in clear if found["tokens"][i] != int(truth[i].argmax())]
    tell(f"{run['name']}: one by one", worst, allowed["most"], f"{len(truth)} tokens after {len(prompt)}, of the likeliest log p differs by")
    return say(name=f"{run['name']}: greedy", good=not wrong, text=f"{len(wrong)} of {len(clear)} clear choices differ")


def transformers_model(config_folder, weights):
    """LlamaForCausalLM in float32 with these weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig.from_pretrained(config_folder)).float()
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


def logits(request):
    for folder in request["folders"]:
        config, weights = read_model(folder["model"])
        ids = folder["ids"]
        models = {"f64": Llama(config, weights, torch.float64), "f32": Llama(config, weights, torch.float32),
                  "bf16": Llama(config, weights, torch.float32, rounded=True)}
        with torch.no_grad():
            found = {name: log_p(model.forward(ids)) for name, model in models.items()}
        truth = found["f64"]
        allowed = {name: {"most": FACTOR[name] * float((found[name] - truth).abs().max()),
                          "rms": RMS_FACTOR[name] * float((found[name] - truth).square().mean().sqrt())} for name in FACTOR}  # fmt: skip
        say(result={"bounds": {folder["name"]: allowed}})
        with torch.no_grad():
            for run in folder["runs"]:
                compare_run(run, ids, truth, allowed[run["precision"]])
                compare_generated(run, folder["prompt"], models["f64"].forward, allowed[run["precision"]])
            name = f"Transformers, {folder['name']}"
            try:
                own = log_p(transformers_model(request["plain"], weights)(torch.tensor([ids])).logits[0])
            except Exception as error:  # missing, or of another make
                say(skip=name, why=f"{type(error).__name__}: {error}"[:300])
                continue
            bound = 2 * allowed["f32"]["most"]
            tell(f"{name} and the model written here", float((own - truth).abs().max()), bound, "log p differs by")
            for run in folder["runs"]:
                if run["precision"] == "f32":
                    _, theirs, step = read_distributions(run["distributions"])
                    tell(f"{name} and {run['name']}", float((theirs - own[:len(theirs)]).abs().max()), bound + step, "log p differs by")


def step_loss(forward, rows):
    """Sum over the targets of all rows, over their number."""
    losses = [torch.nn.functional.cross_entropy(forward(row)[:-1], torch.tensor(row[1:]), reduction="sum") for row in rows]
    return sum(losses) / sum(len(row) - 1 for row in rows)


def train(model, tensors, rows, request):
    """(gradients of the first step, losses, norms, adapter) of AdamW with clipping over the whole adapter."""
    model.add_adapter(tensors, ALPHA / RANK)
    parameters = [tensor for pair in model.adapter.values() for tensor in pair]
    optimizer = torch.optim.AdamW(parameters, request["rate"], betas=(0.9, 0.999), eps=1e-8, weight_decay=request["decay"])
    first, losses, norms = None, [], []
    for step in range(request["steps"]):
        loss = step_loss(model.forward, rows[2 * step:2 * step + 2])
        optimizer.zero_grad()
        loss.backward()
        if first is None:
            first = model.adapter_tensors(lambda tensor: tensor.grad)
        losses.append(loss.item())
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, request["clip"])))
        optimizer.step()
    return first, losses, norms, model.adapter_tensors()


def worst(ours, theirs):
    """Of tensors of the same names: the norm of the difference over the norm; infinite if names differ."""
    if not theirs or ours.keys() != theirs.keys():
        return math.inf
    return max(float((ours[name].double() - theirs[name].double()).norm() / theirs[name].norm()) for name in theirs)


def together(ours, theirs):
    """The same of all tensors as one: an optimizer makes full steps of tiny gradients of uncertain sign."""
    if ours.keys() != theirs.keys():
        return math.inf
    return math.sqrt(sum(float((ours[name].double() - theirs[name]).square().sum()) for name in theirs)
                     / sum(float(one.square().sum()) for one in theirs.values()))  # fmt: skip


def deviations(found, truth):
    """How far losses, norms, the worst gradient and the adapter are from the truth."""
    return {"losses": max(abs(a - b) for a, b in zip(found[1], truth[1])), "norms": max(abs(a / b - 1) for a, b in zip(found[2], truth[2])),
            "gradients": worst(found[0], truth[0]), "adapter": together(found[3], truth[3])}  # fmt: skip


# Below these a deviation is small whatever PyTorch's own is: losses and norms are few numbers, that can be near by chance.
FLOOR = {"f32": {"losses": 3e-6, "norms": 1e-5, "gradients": 1e-5, "adapter": 2e-5},
         "bf16": {"losses": 6e-3, "norms": 8e-3, "gradients": 6e-2, "adapter": 1.2e-2}}  # fmt: skip



def lora(request):
    config, weights = read_model(request["model"])
    tensors = read_safetensors(os.path.join(request["adapter"], "adapter_model.safetensors"))
    with open(request["rows"], encoding="utf-8") as file:
        rows = [json.loads(line)["input_ids"] for line in file]
    truth = train(Llama(config, weights, torch.float64), tensors, rows, request)
    own = {"f32": deviations(train(Llama(config, weights, torch.float32), tensors, rows, request), truth),
           "bf16": deviations(train(Llama(config, weights, torch.float32, rounded=True), tensors, rows, request), truth)}
    say(result={"lora_deviations": own})
    allowed = {precision: {what: max(FACTOR[precision] * value, FLOOR[precision][what]) for what, value in one.items()} for precision, one in own.items()}
    for run in request["runs"]:
        with open(run["log"], encoding="utf-8") as file:
            steps = [json.loads(line) for line in file]
        if len(steps) != request["steps"]:
            say(name=run["name"], good=False, text=f"{len(steps)} steps in the log in place of {request['steps']}")
            continue
        found = deviations((read_safetensors(run["gradients"]), [one["loss"] for one in steps], [one["grad_norm"] for one in steps],
                            read_safetensors(os.path.join(run["out"], "adapter_model.safetensors"))), truth)  # fmt: skip
        say(result={"lora": {run["name"]: found}})
        for what, value in found.items():
            tell(f"{run['name']}: {what}", value, allowed[run["precision"]][what], "from float64")
    try:
        from peft import PeftModel

        model = PeftModel.from_pretrained(transformers_model(request["plain"], weights), request["adapter"], is_trainable=True)
        loss = step_loss(lambda row: model(torch.tensor([row])).logits[0].float(), rows[:2])
        loss.backward()
        theirs = {name.replace(".default.", "."): value.grad.double() for name, value in model.named_parameters() if value.grad is not None}
    except Exception as error:  # missing, or of another make
        return say(skip="PEFT", why=f"{type(error).__name__}: {error}"[:300])
    bound = {what: 2 * value for what, value in allowed["f32"].items()}
    tell("PEFT and the model written here: loss", abs(loss.item() - truth[1][0]), bound["losses"], "differ by")
    tell("PEFT and the model written here: gradients", worst(theirs, truth[0]), bound["gradients"], "the worst tensor differs by")
    for run in request["runs"]:
        if run["precision"] == "f32":
            tell(f"PEFT and {run['name']}: gradients", worst(read_safetensors(run["gradients"]), theirs), bound["gradients"], "the worst tensor differs by")
    return None


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    with open(sys.argv[2], encoding="utf-8") as file:
        request = json.load(file)
    {"matmul": matmul, "decode": decode_tensor, "make": make, "logits": logits, "lora": lora}[sys.argv[1]](request)


if __name__ == "__main__":
    main()
