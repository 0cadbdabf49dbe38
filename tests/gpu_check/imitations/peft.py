# SPDX-License-Identifier: Apache-2.0
"""As much of PEFT as gpu_check calls, by its documentation; see transformers.py."""
import json
import os

from llama import read_safetensors
from torch import nn


class Adapted(nn.Module):
    def __init__(self, base, a, b, scale):
        super().__init__()
        self.base_layer, self.scale = base, scale
        self.lora_A, self.lora_B = (nn.ModuleDict({"default": nn.Linear(one.shape[1], one.shape[0], bias=False)}) for one in (a, b))
        self.lora_A["default"].weight.data, self.lora_B["default"].weight.data = a, b

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x)) * self.scale


class LoraModel(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class PeftModel(nn.Module):
    @classmethod
    def from_pretrained(cls, model, folder, is_trainable=False):
        made = cls()
        with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        tensors = read_safetensors(os.path.join(folder, "adapter_model.safetensors"))
        for one in model.parameters():
            one.requires_grad = False
        for name, module in list(model.named_modules()):
            at = f"base_model.model.{name}.lora_"
            if at + "A.weight" in tensors:
                parent = model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], Adapted(module, tensors[at + "A.weight"], tensors[at + "B.weight"], config["lora_alpha"] / config["r"]))
        for name, one in model.named_parameters():
            one.requires_grad = is_trainable and "lora_" in name
        made.base_model = LoraModel(model)
        return made

    def forward(self, input_ids):
        return self.base_model.model(input_ids)
