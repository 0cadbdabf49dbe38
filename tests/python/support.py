# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Python package share."""
import json
import os
import pathlib
import struct

import numpy as np

ROOT = pathlib.Path(os.environ.get("NFLOAT_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
TINY = ROOT / "models" / "nfloat-tiny"
GOLDEN = ROOT / "tests" / "golden" / "bitsandbytes"

# The address sanitizer comes into Debian's python3 by LD_PRELOAD, and must not into programs that it starts.
_preload = os.environ.pop("LD_PRELOAD", "")
SANITIZED = "asan" in _preload
# What a Python that imports the package starts with.
PYTHON_ENVIRONMENT = {**os.environ, "LD_PRELOAD": _preload} if SANITIZED else dict(os.environ)

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U8": np.uint8, "I64": np.int64, "I32": np.int32}


def read_safetensors(path):
    """{name: (dtype as files name it, array)}, with no help from the library."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    result = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        bits = data[8 + length + begin : 8 + length + end]
        result[name] = entry["dtype"], np.frombuffer(bits, TYPES[entry["dtype"]]).reshape(entry["shape"])
    return result


def golden_cases():
    return json.loads((GOLDEN / "cases.json").read_text())


def pattern(*shape, seed=1):
    """Weights that look like a model's."""
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)
