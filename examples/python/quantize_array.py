# SPDX-License-Identifier: Apache-2.0
"""Quantizes an array with several codes and prints size and error of each."""
from __future__ import annotations

import numpy as np

import nfloat

weights = np.random.default_rng(1).normal(0, 0.02, (1024, 1024)).astype(np.float32)
power = float(np.square(weights).mean())
for code in ("nf4", "fp4", "bof4-s"):
    for double in (False, True):
        tensor = nfloat.quantize_blockwise(weights, code, double_quantization=double)
        noise = float(np.square(nfloat.dequantize_blockwise(tensor) - weights).mean())
        print(f"{code:7} {tensor.bits_per_weight:.3f} bits a weight, relative error {noise / power:.5f}")
