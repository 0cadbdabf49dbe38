# SPDX-License-Identifier: Apache-2.0
"""NF4 by hand: its levels from the quantile function, its bytes from numpy, and the library's beside them."""
from __future__ import annotations

import numpy as np

import nfloat

high = np.linspace(nfloat.NORMAL_FLOAT_OFFSET, 0.5, 9)[:-1]
low = np.linspace(nfloat.NORMAL_FLOAT_OFFSET, 0.5, 8)[:-1]
positive = [nfloat.normal_quantile(float(p)) for p in high]
negative = [-nfloat.normal_quantile(float(p)) for p in low]
levels = np.sort(np.array([*negative, 0.0, *positive])) / positive[0]
nf4 = nfloat.make_codebook("nf4")
print("largest difference of the levels", float(np.abs(levels - nf4.levels).max()))

weights = np.random.default_rng(1).normal(0, 1, 64).astype(np.float32)
scale = np.abs(weights).max()
codes = np.searchsorted(nf4.thresholds, weights / scale, side="left").astype(np.uint8)
packed = codes[0::2] << 4 | codes[1::2]
print("the same bytes", bool(np.array_equal(packed, nfloat.quantize_blockwise(weights).codes)))
