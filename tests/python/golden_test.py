# SPDX-License-Identifier: Apache-2.0
"""The frozen tensors of bitsandbytes, through numpy: every byte, both ways."""
import pickle
import tempfile
import unittest
import pathlib

import numpy as np

import nfloat
from support import GOLDEN, golden_cases, read_safetensors


def same(a, b):
    return a.tobytes() == b.tobytes()


class Golden(unittest.TestCase):
    def test_every_byte(self):
        cases = golden_cases()
        self.assertEqual(len(cases), 42)
        for case in cases:
            with self.subTest(case=case["case"]):
                stored = read_safetensors(GOLDEN / f"{case['case']}.safetensors")
                dtype, weights = stored["input"]
                said = "bfloat16" if dtype == "BF16" else None
                tensor = nfloat.quantize_blockwise(
                    weights,
                    case["quant_type"],
                    block_size=case["block_size"],
                    double_quantization=case["double_quantization"],
                    dtype=said,
                )
                state = tensor.to_state_dict("weight")
                wanted = {name: array for name, (_, array) in stored.items() if name.startswith("weight")}
                self.assertEqual(set(state), set(wanted))
                for name, array in wanted.items():
                    self.assertEqual(state[name].shape, array.shape, name)
                    self.assertTrue(same(state[name], array), name)
                self.assertTrue(same(nfloat.dequantize_blockwise(tensor), stored["dequantized"][1]))
                # The way back, from what bitsandbytes stored.
                again = nfloat.QuantizedTensor.from_state_dict(wanted)
                self.assertTrue(same(nfloat.dequantize_blockwise(again), stored["dequantized"][1]))
                copy = pickle.loads(pickle.dumps(again))
                for name, array in copy.to_state_dict("weight").items():
                    self.assertTrue(same(array, wanted[name]), name)
                # Into memory that is there.
                options = {"block_size": case["block_size"], "double_quantization": case["double_quantization"], "dtype": said}
                out = nfloat.quantize_blockwise(np.zeros_like(weights), case["quant_type"], **options)
                memory = out.codes.__array_interface__["data"][0]
                nfloat.quantize_blockwise(weights, case["quant_type"], out=out, **options)
                self.assertEqual(out.codes.__array_interface__["data"][0], memory)
                self.assertTrue(same(out.codes, tensor.codes))

    def test_saved_and_opened(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "one.safetensors"
            for case in golden_cases()[:12]:
                stored = {n: a for n, (_, a) in read_safetensors(GOLDEN / f"{case['case']}.safetensors").items()}
                state = nfloat.QuantizedTensor.from_state_dict(stored).to_state_dict("weight")
                nfloat.save_tensors(path, state, overwrite=True)
                with nfloat.Checkpoint(path) as checkpoint:
                    tensor = checkpoint.quantized("weight")
                    for name, array in tensor.to_state_dict("weight").items():
                        self.assertTrue(same(array, stored[name]), name)
                    del tensor, array


if __name__ == "__main__":
    unittest.main()
