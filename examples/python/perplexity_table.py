# SPDX-License-Identifier: Apache-2.0
"""Perplexity and divergence of a model in several codes, as rows for pandas: perplexity_table.py MODEL"""
from __future__ import annotations

import sys

import nfloat

text = "Once upon a time there was a king who had three sons. The eldest went out into the world. " * 20
plain = nfloat.Model.load(sys.argv[1])
rows: list[tuple[float, str, float, float]] = []
for code in ("nf4", "fp4", "bof4-s"):
    model = nfloat.Model.load(sys.argv[1], quantize=code, double_quantization=True)
    result = nfloat.divergence(plain, model, text, context=256)
    rows.append((result.mean_kl, code, result.model.perplexity, result.same_top))
print(f"plain   {nfloat.perplexity(plain, text, context=256).perplexity:.3f}")
for kl, code, value, same in sorted(rows):
    print(f"{code:7} {value:.3f}  KL {kl:.4f}  same token {same:.1%}")
