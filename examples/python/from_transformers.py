# SPDX-License-Identifier: Apache-2.0
"""Loads a plain torch model's weights into 4-bit layers and saves what bitsandbytes reads, there and back."""
from __future__ import annotations

import sys
import tempfile

try:
    import torch
except ImportError:
    print("torch is not installed")
    sys.exit(77)

import nfloat
import nfloat.torch


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_proj = torch.nn.Linear(256, 768, bias=False)
        self.down_proj = torch.nn.Linear(768, 256, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.as_tensor(self.down_proj(torch.nn.functional.silu(self.up_proj(x))))


with tempfile.TemporaryDirectory() as folder:
    block = Block()
    names = nfloat.torch.replace_linear(block)
    state = block.state_dict()
    nfloat.save_tensors(folder + "/block.safetensors", state)
    with nfloat.Checkpoint(folder + "/block.safetensors") as checkpoint:
        for name in checkpoint.weight_names():
            print(name, checkpoint.stored_type(name), checkpoint.weight_shape(name))
    other = Block()
    nfloat.torch.replace_linear(other)
    print(nfloat.torch.load_checkpoint(other, folder + "/block.safetensors"))
    x = torch.randn(2, 256)
    assert torch.equal(block(x), other(x))
