# SPDX-License-Identifier: Apache-2.0
"""As much of Transformers as gpu_check calls, by its documentation: names of weights, positional ids, .logits. Where the package itself is not
to be had it shows that the calls are made; that they fit the package only the package can show."""
import json
import math
import os
import types

import torch
from torch import nn


class LlamaConfig:
    @classmethod
    def from_pretrained(cls, folder):
        config = cls()
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config.__dict__.update(json.load(file))
        return config


class Norm(nn.Module):
    def __init__(self, size, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(size)), epsilon

    def forward(self, x):
        return self.weight * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.epsilon))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, width = c, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * width, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * width, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * width, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * width, c.hidden_size, bias=False)

    def forward(self, x):
        count, width = x.shape[1], self.c.head_dim
        parts = [part(x)[0].view(count, -1, width) for part in (self.q_proj, self.k_proj, self.v_proj)]
        turns = torch.polar(torch.ones(count, width // 2), torch.outer(torch.arange(count).float(), self.c.rope_theta ** (-torch.arange(width // 2) * 2 / width)))
        q, k = (torch.view_as_complex(torch.stack((one[..., :width // 2], one[..., width // 2:]), -1)) * turns[:, None] for one in parts[:2])
        q, k = (torch.cat((one.real, one.imag), -1) for one in (q, k))
        heads = []
        for head in range(q.shape[1]):
            other = head * k.shape[1] // q.shape[1]
            scores = q[:, head] @ k[:, other].T / math.sqrt(width)
            scores = scores.masked_fill(torch.ones(count, count, dtype=torch.bool).triu(1), -math.inf)
            heads.append(scores.softmax(-1) @ parts[2][:, other])
        return self.o_proj(torch.cat(heads, -1)[None])


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(c.hidden_size, c.intermediate_size, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), Mlp(c)
        self.input_layernorm, self.post_attention_layernorm = (Norm(c.hidden_size, c.rms_norm_eps) for _ in range(2))

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = Norm(c.hidden_size, c.rms_norm_eps)


class LlamaForCausalLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids):
        x = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            x = layer(x)
        return types.SimpleNamespace(logits=self.lm_head(self.model.norm(x)))
