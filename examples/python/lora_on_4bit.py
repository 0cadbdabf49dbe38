# SPDX-License-Identifier: Apache-2.0
"""A low-rank adapter trained with torch beside a frozen 4-bit layer of a model: lora_on_4bit.py MODEL"""
from __future__ import annotations

import sys

try:
    import torch
except ImportError:
    print("torch is not installed")
    sys.exit(77)

import nfloat
import nfloat.torch

torch.manual_seed(1)
with nfloat.Checkpoint(sys.argv[1]) as checkpoint:
    name = "model.layers.0.mlp.up_proj.weight"
    weights = nfloat.convert_elements(checkpoint.tensor(name), "float32", source_dtype="bfloat16")
base = nfloat.torch.Linear4bit.from_quantized(nfloat.quantize_blockwise(weights, double_quantization=True))
out, inside = weights.shape
down = torch.nn.Parameter(torch.randn(8, inside) / inside**0.5)
up = torch.nn.Parameter(torch.zeros(out, 8))
optimizer = torch.optim.Adam([down, up], lr=1e-2)
x = torch.randn(256, inside)
wanted = x @ (torch.from_numpy(weights) * 1.5).t()
for step in range(61):
    loss = (base(x) + x @ down.t() @ up.t() - wanted).square().mean()
    if step % 20 == 0:
        print(f"step {step:2}: {loss.item():.5f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
