# SPDX-License-Identifier: Apache-2.0
"""Times calls of nfloat's Python package and prints them beside what they are compared with."""
import ctypes
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
import timeit

import numpy as np

import nfloat
from nfloat import _core

BUILD = pathlib.Path(sys.argv[1])
TINY = "models/nfloat-tiny"


def user_seconds():
    """Of all threads of this process, as user: what else runs on the machine costs none. Memory that the system fills
    with zeros is in `processor_seconds` only."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def processor_seconds():
    """As user and in the system, of all threads."""
    return time.process_time()


def median(call, number, repeat=9):
    """Seconds of the processor a call."""
    return statistics.median(timeit.repeat(call, number=number, repeat=repeat, timer=user_seconds)) / number


def alternating(calls, rounds, number=1, clock=user_seconds):
    """The median seconds of each, taken in turn, `number` calls a turn: what else runs on the machine meets all of them."""
    taken = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, taken):
            begin = clock()
            for _ in range(number):
                call()
            seconds.append((clock() - begin) / number)
    return [statistics.median(seconds) for seconds in taken]


def small_calls():
    weights = np.random.default_rng(1).normal(size=64).astype(np.float32)
    tensor = nfloat.quantize_blockwise(weights)
    book = nfloat.make_codebook("nf4")._handle
    codes, scales = np.empty(32, np.uint8), np.empty(1, np.float32)

    def core():
        _core.quantize(weights, None, book, 64, "absmax", False, False, 1, codes, scales, None, None)

    matrix = nfloat.PackedMatrix.pack(nfloat.quantize_blockwise(np.ones((64, 64), np.float32)))
    y = np.empty(64, np.float32)
    print(f"a call that does nothing           {median(_core.nothing, 200000) * 1e9:7.0f} ns")
    print(f"64 weights into arrays, core       {median(core, 20000) * 1e9:7.0f} ns")
    print(f"64 weights, quantize_blockwise     {median(lambda: nfloat.quantize_blockwise(weights), 10000) * 1e6:7.2f} us")
    print(f"64 weights, into `out`             {median(lambda: nfloat.quantize_blockwise(weights, out=tensor), 10000) * 1e6:7.2f} us")
    print(f"linear 64 x 64, one row, into out  {median(lambda: nfloat.linear(matrix, weights, out=y, dtype='float32'), 10000) * 1e6:7.2f} us")


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

    calls = [own, lambda: nfloat.quantize_blockwise(weights, out=out), lambda: nfloat.quantize_blockwise(weights)]
    for name, clock in (("user", user_seconds), ("user and system", processor_seconds)):
        base, into, returned = alternating(calls, 25, 10, clock)
        print(
            f"4096 x 4096, {name}: library {base * 1e3:.2f} ms; time of Python into out {into / base:.1%} of it, returned "
            f"{returned / base:.1%}"
        )
    assert codes.tobytes() == out.codes.tobytes()


def generation():
    """Of 300 tokens: what 400 take more than 100, so that neither loading nor the start of a process counts."""
    model = nfloat.Model.load(TINY, quantize="nf4")

    def tool(tokens):
        begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(
            [BUILD / "bin/nfloat", "generate", TINY, "--quantize", "nf4", "--precision", "bf16", "-p", "Once", "-n",
             str(tokens), "--temperature", "0", "--ignore-eos", "--json"], capture_output=True, check=True,
        )  # fmt: skip
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin

    def ours(tokens):
        begin = user_seconds()
        made = sum(1 for _ in model.generate("Once", max_tokens=tokens, temperature=0, ignore_end=True))
        assert made >= tokens
        return user_seconds() - begin

    taken = [[function(400) - function(100) for function in (ours, tool)] for _ in range(15)]
    here, there = (300 / statistics.median(seconds) for seconds in zip(*taken))
    print(f"generation: Python {here:.0f} tokens a second, command line {there:.0f}: {here / there:.1%}")


def layers():
    try:
        import torch

        import nfloat.torch
    except ImportError:
        print("torch is not installed")
        return
    torch.set_num_threads(nfloat.threads())
    for rows, nested in ((1, False), (1, True), (64, False), (64, True)):
        layer = nfloat.torch.Linear4bit(4096, 4096, bias=False, compress_statistics=nested)
        x = torch.randn(rows, 4096)
        z = x.clone().requires_grad_(True)
        dy = torch.randn(rows, 4096)
        y = layer(z)
        packed, numpy_x, out = layer.matrix, x.numpy(), np.empty((rows, 4096), np.float32)
        number = 100 if rows == 1 else 1

        def forward_only():
            with torch.no_grad():
                layer(x)

        def in_torch():
            with torch.no_grad():
                torch.nn.functional.linear(x, layer.dequantize(torch.float32))

        forward, core, backward = alternating(
            [forward_only, lambda: nfloat.linear(packed, numpy_x, out=out), lambda: y.backward(dy, retain_graph=True)], 9, number
        )
        (decoded,) = alternating([in_torch], 3)
        print(
            f"Linear4bit 4096 x 4096, {8 if nested else 32}-bit scales, {rows:2} rows: forward {forward * 1e3:.2f} ms (nfloat.linear {core * 1e3:.2f}), backward "
            f"{backward / forward:.2f} of it; dequantize and multiply in torch {decoded * 1e3:.1f} ms"
        )


print(f"nfloat {nfloat.version()}, {nfloat.target()}, {nfloat.threads()} threads; seconds of the processor as user, medians")
small_calls()
large_tensor()
generation()
layers()
