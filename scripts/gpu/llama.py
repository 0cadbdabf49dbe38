# SPDX-License-Identifier: Apache-2.0
"""A Llama in plain PyTorch, for others to be compared with: reads safetensors and the 4-bit layout of bitsandbytes with its own
arithmetic, runs forward in float64, float32 or with the factors of products rounded to bf16, and has low-rank adapters. Nothing of nfloat."""
import ctypes
import json
import math
import os
import struct

import torch
import torch.nn.functional as F

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}
PROJECTIONS = ["self_attn." + part + "_proj" for part in "qkvo"] + ["mlp." + part + "_proj" for part in ("gate", "up", "down")]


def read_safetensors(path):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(bytes(data[8:8 + size])).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=8 + size + begin).clone()
            tensors[name] = values.view(TYPES[entry["dtype"]]).view(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    names = {kind: name for name, kind in TYPES.items()}
    header, parts, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        flat = tensor.contiguous()
        part = ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size())
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


def expand(codes, levels, scales, count, block):
    """float32 values of 4-bit codes, the high half of a byte first: level * scale, rounded once."""
    pairs = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], dim=1).flatten().long()[:count]
    return levels[pairs] * scales.repeat_interleave(block)[:count]


def expand_scales(second, tops, table, offset, block):
    """float32 scales of 8-bit ones."""
    return table[second.long()] * tops.repeat_interleave(block)[:second.numel()] + offset


def decode(tensors):
    """Plain tensors of what a file has: 4-bit matrices as float32, others as they are."""
    marks = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4")
    plain = {}
    for name, tensor in tensors.items():
        if name.endswith(marks):
            continue
        state = tensors.get(name + marks[4])
        if state is None:
            plain[name] = tensor
            continue
        state = json.loads(bytes(state.tolist()))
        scales = tensors[name + ".absmax"]
        if "nested_blocksize" in state:
            scales = expand_scales(scales, tensors[name + ".nested_absmax"], tensors[name + ".nested_quant_map"],
                                   torch.tensor(state["nested_offset"], dtype=torch.float32), state["nested_blocksize"])
        count = math.prod(state["shape"])
        plain[name] = expand(tensor, tensors[name + ".quant_map"], scales, count, state["blocksize"]).view(state["shape"])
    return plain


def read_model(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        return json.load(file), decode(read_safetensors(os.path.join(folder, "model.safetensors")))


def random_model(folder, config, seed):
    """A folder of random bf16 weights that keep the size of what they multiply; logits with a deviation of about 2."""
    generator = torch.Generator().manual_seed(seed)
    hidden, size = config["hidden_size"], config["head_dim"]
    heads, kv_heads, between = config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"]
    shapes = [(heads * size, hidden), (kv_heads * size, hidden), (kv_heads * size, hidden), (hidden, heads * size),
              (between, hidden), (between, hidden), (hidden, between)]

    def matrix(outputs, inputs, scale):
        return (torch.randn(outputs, inputs, generator=generator) * scale).to(torch.bfloat16)

    def norm():
        return (1 + 0.1 * torch.randn(hidden, generator=generator)).to(torch.bfloat16)

    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden, 1.0), "model.norm.weight": norm(),
               "lm_head.weight": matrix(config["vocab_size"], hidden, 2 * hidden**-0.5)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, shape in zip(PROJECTIONS, shapes):
            tensors[f"{at}{name}.weight"] = matrix(*shape, shape[1]**-0.5)
        tensors[at + "input_layernorm.weight"], tensors[at + "post_attention_layernorm.weight"] = norm(), norm()
    os.makedirs(folder)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)


class Llama:
    """forward(ids): logits of one sequence. `kind`: torch.float64 or torch.float32; `rounded`: factors and results of products go
    through bf16, and so do their gradients. `adapter`: pairs (A, B) by the name of the module, counted `scale` times."""

    def __init__(self, config, weights, kind, rounded=False):
        self.config, self.kind, self.rounded = config, kind, rounded
        self.weights = {name: tensor.to(kind) for name, tensor in weights.items()}
        self.adapter, self.scale = {}, 0.0

    def round(self, x):
        return x.to(torch.bfloat16).to(self.kind) if self.rounded else x

    def multiply(self, x, w):
        return self.round(F.linear(self.round(x), self.round(w)))

    def linear(self, x, name):
        y = self.multiply(x, self.weights[name + ".weight"])
        if name in self.adapter:
            a, b = self.adapter[name]
            y = y + self.scale * self.multiply(self.multiply(x, a), b)
        return y

    def norm(self, x, name):
        mean = x.square().mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + self.config["rms_norm_eps"]) * self.weights[name + ".weight"]

    def turn(self, x):
        width = self.config["head_dim"]
        steps = torch.arange(0, width, 2, dtype=self.kind) / width
        angles = torch.outer(torch.arange(x.shape[1], dtype=self.kind), self.config["rope_theta"] ** -steps)
        cosine, sine = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        return x * cosine + torch.cat((-x[..., width // 2:], x[..., :width // 2]), -1) * sine

    def attend(self, x, at):
        width = self.config["head_dim"]
        q, k, v = (self.linear(x, f"{at}self_attn.{part}_proj").view(len(x), -1, width).transpose(0, 1) for part in "qkv")
        group = len(q) // len(k)
        k, v = self.turn(k).repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        mask = torch.full((len(x), len(x)), -math.inf, dtype=self.kind).triu(1)
        shares = torch.softmax(self.turn(q) @ k.transpose(1, 2) * width**-0.5 + mask, -1)
        return self.linear((shares @ v).transpose(0, 1).reshape(len(x), -1), at + "self_attn.o_proj")

    def forward(self, ids):
        x = F.embedding(torch.tensor(ids), self.weights["model.embed_tokens.weight"])
        for layer in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            x = x + self.attend(self.norm(x, at + "input_layernorm"), at)
            h = self.norm(x, at + "post_attention_layernorm")
            h = F.silu(self.linear(h, at + "mlp.gate_proj")) * self.linear(h, at + "mlp.up_proj")
            x = x + self.linear(h, at + "mlp.down_proj")
        return self.multiply(self.norm(x, "model.norm"), self.weights["lm_head.weight"])

    def add_adapter(self, tensors, scale):
        """Of the tensors of a PEFT file; they are trained."""
        self.scale = scale
        for name in tensors:
            if name.endswith(".lora_A.weight"):
                module = name[len("base_model.model."):-len(".lora_A.weight")]
                self.adapter[module] = tuple(tensors[name.replace("lora_A", part)].to(self.kind).clone().requires_grad_()
                                             for part in ("lora_A", "lora_B"))

    def adapter_tensors(self, of=lambda tensor: tensor):
        return {f"base_model.model.{module}.lora_{part}.weight": of(tensor).detach().double().clone()
                for module, pair in self.adapter.items() for part, tensor in zip("AB", pair)}
