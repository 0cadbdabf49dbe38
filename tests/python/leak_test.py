# SPDX-License-Identifier: Apache-2.0
"""Memory after many calls, good and failing ones, against that after a few."""
import contextlib
import gc
import os
import sys
import unittest

import numpy as np

import nfloat
from support import SANITIZED, TINY, pattern

CALLS = 100_000
# A call that loses one object of Python's least size, 16 bytes, loses 1.5 MiB in so many; what the allocators of Python
# and of C keep for themselves after a warm-up stays below half of that.
MOST_GROWTH = CALLS * 16 // 2


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@unittest.skipIf(SANITIZED, "resident memory says nothing under sanitizers")
class Leaks(unittest.TestCase):
    def expect_no_growth(self, call, calls=CALLS):
        most = MOST_GROWTH if calls == CALLS else max(MOST_GROWTH, calls * 1024)
        for _ in range(calls // 50 + 10):
            call()
        gc.collect()
        before = resident()
        for _ in range(calls):
            call()
        gc.collect()
        self.assertLessEqual(resident() - before, most)

    def refused(self, call):
        def body():
            with contextlib.suppress(nfloat.Error, TypeError):
                call()
                self.fail("this was to fail")

        return body

    def test_calls(self):
        weights = pattern(8, 64)
        codes, scales = np.zeros(256, np.uint8), np.zeros(8, np.float32)
        tensor = nfloat.quantize_blockwise(weights)
        nested = nfloat.quantize_blockwise(weights, double_quantization=True)
        matrix = nfloat.PackedMatrix.pack(tensor)
        gradients = pattern(1, 8)
        tokenizer = nfloat.Tokenizer.load(TINY)
        checkpoint = nfloat.Checkpoint(TINY)
        sampler, logits = nfloat.Sampler(nfloat.SamplerOptions(temperature=1.0, top_k=8)), pattern(1, 256)[0]
        control = nfloat.Control()
        state = nested.to_state_dict("w")
        kept = (weights, codes, scales, gradients, logits)
        references = [sys.getrefcount(one) for one in kept]
        for name, call in {
            "quantize_blockwise": lambda: nfloat.quantize_blockwise(weights),
            "quantize_blockwise into": lambda: nfloat.quantize_blockwise(weights, out=tensor),
            "dequantize_blockwise": lambda: nfloat.dequantize_blockwise(nested),
            "dequantize_scales": lambda: nfloat.dequantize_scales(nested.nested),
            "quantize_scales": lambda: nfloat.quantize_scales(scales),
            "to_state_dict": lambda: nested.to_state_dict("w"),
            "from_state_dict": lambda: nfloat.QuantizedTensor.from_state_dict(state, "w"),
            "convert_elements": lambda: nfloat.convert_elements(weights, "float16"),
            "PackedMatrix.pack": lambda: nfloat.PackedMatrix.pack(nested, threads=1),
            "linear": lambda: nfloat.linear(matrix, weights, threads=1),
            "linear_transposed": lambda: nfloat.linear_transposed(matrix, gradients, threads=1),
            "encode, decode": lambda: tokenizer.decode(tokenizer.encode("the lamp")),
            "token_bytes": lambda: tokenizer.token_bytes(5),
            "Checkpoint.tensor": lambda: checkpoint.tensor("model.norm.weight"),
            "make_codebook": lambda: nfloat.make_codebook("nf4"),
            "make_format": lambda: nfloat.make_format("nf4"),
            "most_likely": lambda: nfloat.most_likely(logits, 2),
            "Sampler": lambda: sampler.sample(logits, [1]),
            "Control": lambda: (nfloat.Control().cancel(), control.progress),
        }.items():
            with self.subTest(name):
                self.expect_no_growth(call)
        self.assertEqual([sys.getrefcount(one) for one in kept], references)

    def test_failing_calls(self):
        weights = pattern(8, 64)
        tensor = nfloat.quantize_blockwise(weights)
        matrix = nfloat.PackedMatrix.pack(tensor)
        tokenizer = nfloat.Tokenizer.load(TINY)
        checkpoint = nfloat.Checkpoint(TINY)
        closed = nfloat.Checkpoint(TINY)
        closed.close()
        strided = np.zeros((8, 128), np.float32)[:, ::2]
        infinite = np.full((1, 64), np.inf, np.float32)
        for name, call in {
            "of a wrong type": lambda: nfloat.quantize_blockwise("weights"),
            "not finite": lambda: nfloat.quantize_blockwise(infinite),
            "beyond 64 bits": lambda: nfloat.quantize_blockwise(weights, block_size=2**70),
            "an output that is not contiguous": lambda: nfloat.dequantize_blockwise(tensor, out=strided),
            "of another shape": lambda: nfloat.linear(matrix, pattern(2, 32)),
            "transposed, of another shape": lambda: nfloat.linear_transposed(matrix, pattern(2, 9)),
            "a name that is not known": lambda: nfloat.make_codebook("nf9"),
            "a surrogate": lambda: nfloat.make_format("\ud800"),
            "no list of tokens": lambda: tokenizer.decode("text"),
            "no such tensor": lambda: checkpoint.tensor("nothing"),
            "closed": lambda: closed.tensor("model.norm.weight"),
            "no such file": lambda: nfloat.load_codebook("/nowhere/book.json"),
        }.items():
            with self.subTest(name):
                self.expect_no_growth(self.refused(call))

    def test_models_and_files(self):
        """Fewer of them: a thousand, which may lose less than one KiB each."""
        model = nfloat.Model.load(TINY, quantize="nf4", threads=1)
        ended = nfloat.Control()
        ended.cancel()
        text = list(range(1, 129))

        def session():
            with model.session(context=16) as one:
                one.prefill([1, 2, 3])
                one.fork().decode(4)

        def left():
            next(model.generate("The", max_tokens=3))

        def interrupted():
            with contextlib.suppress(nfloat.CancelledError):
                nfloat.perplexity(model, text, context=32, control=ended)

        def opened():
            with nfloat.Checkpoint(TINY) as one:
                one.describe()

        for call in (session, left, interrupted, opened):
            with self.subTest(call.__name__):
                self.expect_no_growth(call, 1000)


if __name__ == "__main__":
    unittest.main()
