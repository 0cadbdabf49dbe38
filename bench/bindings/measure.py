# SPDX-License-Identifier: Apache-2.0
"""Times calls of nfloat's Python package and prints them beside what they are compared with."""
import ctypes
import json
import pathlib
import subprocess
import sys
import time
import timeit

import numpy as np

import nfloat
from nfloat import _core

BUILD = pathlib.Path(sys.argv[1])
TINY = "models/nfloat-tiny"


def best(call, number, repeat=7):
    """Seconds of the processor a call."""
    return min(timeit.repeat(call, number=number, repeat=repeat, timer=time.process_time)) / number


def alternating(calls, rounds):
    """The least seconds of each, taken in turn: what else runs on the machine meets all of them."""
    least = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            least[i] = min(least[i], time.perf_counter() - begin)
    return least


def small_calls():
    weights = np.random.default_rng(1).normal(size=64).astype(np.float32)
    tensor = nfloat.quantize_blockwise(weights)
    book = nfloat.make_codebook("nf4")._handle
    codes, scales = np.empty(32, np.uint8), np.empty(1, np.float32)

    def core():
        _core.quantize(weights, None, book, 64, "absmax", False, False, 1, codes, scales, None, None)

    matrix = nfloat.PackedMatrix.pack(nfloat.quantize_blockwise(np.ones((64, 64), np.float32)))
    y = np.empty(64, np.float32)
    print(f"a call that does nothing           {best(_core.nothing, 200000) * 1e9:7.0f} ns")
    print(f"64 weights into arrays, core       {best(core, 20000) * 1e9:7.0f} ns")
    print(f"64 weights, quantize_blockwise     {best(lambda: nfloat.quantize_blockwise(weights), 10000) * 1e6:7.2f} us")
    print(f"64 weights, into `out`             {best(lambda: nfloat.quantize_blockwise(weights, out=tensor), 10000) * 1e6:7.2f} us")
    print(f"linear 64 x 64, one row, into out  {best(lambda: nfloat.linear(matrix, weights, out=y, dtype='float32'), 10000) * 1e6:7.2f} us")


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("rank", ctypes.c_int32), ("shape", ctypes.c_int64 * 8)]


def large_tensor():
    library = ctypes.CDLL(BUILD / "src/c_api/libnfloat_c.so")
    library.nfloat_quantize_blockwise_into.argtypes = [
        *[ctypes.c_void_p] * 4, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t,
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    weights = np.random.default_rng(1).normal(0, 0.02, (4096, 4096)).astype(np.float32)
    book = ctypes.c_void_p()
    assert library.nfloat_make_codebook(b"nf4", ctypes.c_int64(64), ctypes.byref(book), None) == 0
    given = Tensor(weights.ctypes.data, 2, 2, (ctypes.c_int64 * 8)(4096, 4096))
    codes, scales = np.empty(weights.size // 2, np.uint8), np.empty(weights.size // 64, np.float32)
    out = nfloat.quantize_blockwise(weights)

    def own():
        status = library.nfloat_quantize_blockwise_into(
            ctypes.addressof(given), book, None, codes.ctypes.data, codes.size, scales.ctypes.data, scales.size, None, 0,
            None, 0, None, None,
        )  # fmt: skip
        assert status == 0

    base, into, returned = alternating(
        [own, lambda: nfloat.quantize_blockwise(weights, out=out), lambda: nfloat.quantize_blockwise(weights)], 30
    )
    assert codes.tobytes() == out.codes.tobytes()
    rate = weights.size / 1e9
    print(f"4096 x 4096: library {rate / base:.2f} Gw/s; Python into out {base / into:.1%}, returned {base / returned:.1%}")


def generation():
    model = nfloat.Model.load(TINY, quantize="nf4")
    ratios, rates = [], []
    for _ in range(7):
        tool = json.loads(
            subprocess.run(
                [BUILD / "bin/nfloat", "generate", TINY, "--quantize", "nf4", "--precision", "bf16", "-p", "Once", "-n",
                 "400", "--temperature", "0", "--ignore-eos", "--json"], capture_output=True, check=True,
            ).stdout
        )  # fmt: skip
        begin = None
        for count, _ in enumerate(model.generate("Once", max_tokens=400, temperature=0, ignore_end=True)):
            begin = begin or time.perf_counter()
        ours = count / (time.perf_counter() - begin)
        rates.append((ours, (len(tool["tokens"]) - 1) / tool["decode_seconds"]))
    ours, theirs = max(r[0] for r in rates), max(r[1] for r in rates)
    print(f"generation: Python {ours:.0f} tokens/s, command line {theirs:.0f}: {ours / theirs:.1%}")


def layers():
    try:
        import torch

        import nfloat.torch
    except ImportError:
        print("torch is not installed")
        return
    torch.set_num_threads(nfloat.threads())
    layer = nfloat.torch.Linear4bit(4096, 4096, bias=False)
    for rows in (1, 64):
        x = torch.randn(rows, 4096)
        z = x.clone().requires_grad_(True)
        dy = torch.randn(rows, 4096)
        y = layer(z)
        packed, numpy_x, out = layer.matrix, x.numpy(), np.empty((rows, 4096), np.float32)
        with torch.no_grad():
            forward, core, decoded = alternating(
                [
                    lambda: layer(x),
                    lambda: nfloat.linear(packed, numpy_x, out=out),
                    lambda: torch.nn.functional.linear(x, layer.dequantize(torch.float32)),
                ],
                10,
            )
        (backward,) = alternating([lambda: y.backward(dy, retain_graph=True)], 10)
        print(
            f"Linear4bit 4096 x 4096, {rows:2} rows: forward {forward * 1e3:.2f} ms (nfloat.linear {core * 1e3:.2f}), backward "
            f"{backward / forward:.2f} of it; dequantize and multiply in torch {decoded * 1e3:.1f} ms"
        )


print(f"nfloat {nfloat.version()}, {nfloat.target()}, {nfloat.threads()} threads")
small_calls()
large_tensor()
generation()
layers()
