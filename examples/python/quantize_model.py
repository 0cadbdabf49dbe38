# SPDX-License-Identifier: Apache-2.0
"""Quantizes a model folder with a progress bar: quantize_model.py MODEL [OUT]"""
from __future__ import annotations

import sys
import tempfile

import nfloat


def bar(progress: nfloat.Progress) -> None:
    print(f"\r{'#' * int(40 * progress.fraction):40} {progress.fraction:4.0%}", end="", file=sys.stderr)


with tempfile.TemporaryDirectory() as scratch:
    output = sys.argv[2] if len(sys.argv) > 2 else scratch + "/nf4"
    result = nfloat.quantize_checkpoint(sys.argv[1], output, double_quantization=True, progress=bar)
    print(file=sys.stderr)
    print(f"{result.bytes_before / 1e6:.1f} MB -> {result.bytes_after / 1e6:.1f} MB in {result.seconds:.2f} s")
    assert result.plan is not None
    for row in result.plan.records()[:5]:
        print(row["name"], "4 bits" if row["quantize"] else f"as it is: {row['reason']}")
