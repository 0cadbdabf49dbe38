# SPDX-License-Identifier: Apache-2.0
"""Arrays in and out: what is copied, what is refused, products against numpy, errors."""
import array
import copy
import doctest
import importlib
import mmap
import pickle
import pkgutil
import tempfile
import threading
import time
import unittest

import numpy as np

import nfloat
from nfloat import _core
from support import pattern


def address(values):
    return values.__array_interface__["data"][0]


class Shown:
    """An array without the buffer protocol."""

    def __init__(self, values):
        self.__dlpack__, self.__dlpack_device__ = values.__dlpack__, values.__dlpack_device__


class Arrays(unittest.TestCase):
    def test_docstrings(self):
        for module in pkgutil.iter_modules(nfloat.__path__, "nfloat."):
            if module.name in ("nfloat._core", "nfloat.torch", "nfloat.__main__"):
                continue
            failed, _ = doctest.testmod(importlib.import_module(module.name))
            self.assertEqual(failed, 0, module.name)

    def test_everything_public_is_documented(self):
        for name in dir(nfloat):
            thing = getattr(nfloat, name)
            if name.startswith("_") or not getattr(thing, "__module__", "").startswith("nfloat"):
                continue
            self.assertTrue(thing.__doc__, name)
            if not isinstance(thing, type):
                continue
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                    self.assertTrue(getattr(thing, member).__doc__ or value.__doc__, f"{name}.{member}")

    def test_nothing_is_copied(self):
        weights = pattern(64, 128)
        self.assertEqual(_core.address(weights), address(weights))
        weights.flags.writeable = False
        self.assertEqual(_core.address(weights), address(weights))
        for other in (memoryview(weights), array.array("f", [1, 2, 3]), bytearray(16)):
            self.assertEqual(_core.address(other), address(np.frombuffer(other, np.uint8)))
        out = np.empty((64, 128), np.float32)
        given = nfloat.dequantize_blockwise(nfloat.quantize_blockwise(weights), out=out)
        self.assertIs(given, out)
        tensor = nfloat.quantize_blockwise(weights)
        self.assertEqual(address(tensor.codes), address(tensor.to_state_dict()["weight"]))
        with self.assertRaises(ValueError):
            tensor.codes[0] = 1

    def test_out_forgets_the_table_of_scales_that_it_came_with(self):
        first = nfloat.quantize_blockwise(pattern(64, 80), double_quantization=True)
        state = {key: np.array(values) for key, values in first.to_state_dict().items()}
        state["weight.nested_quant_map"] = np.linspace(-1, 1, 256, dtype=np.float32)
        out = nfloat.QuantizedTensor.from_state_dict(state)
        weights = pattern(64, 80, seed=2)
        wanted = nfloat.quantize_blockwise(weights, double_quantization=True)
        self.assertFalse(np.array_equal(nfloat.dequantize_blockwise(out), nfloat.dequantize_blockwise(first)))
        given = nfloat.quantize_blockwise(weights, double_quantization=True, out=out)
        self.assertIs(given, out)
        for key, values in wanted.to_state_dict().items():
            self.assertEqual(given.to_state_dict()[key].tobytes(), values.tobytes(), key)
        np.testing.assert_array_equal(nfloat.dequantize_blockwise(given), nfloat.dequantize_blockwise(wanted))

    def test_every_kind_of_memory_gives_the_same(self):
        weights = pattern(33, 96)
        wanted = nfloat.quantize_blockwise(weights)
        padded = np.zeros((33, 200), np.float32)
        padded[:, :96] = weights
        unaligned = np.frombuffer(b"x" + weights.tobytes(), np.uint8)[1:].view(np.float32).reshape(33, 96)
        with tempfile.TemporaryFile() as file:
            file.write(weights.tobytes())
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                kinds = [padded[:, :96], weights.T.copy().T, unaligned, memoryview(weights), weights.astype("<f4")]
                for given in kinds:
                    tensor = nfloat.quantize_blockwise(given)
                    self.assertEqual(tensor.codes.tobytes(), wanted.codes.tobytes())
                    self.assertEqual(tensor.shape, (33, 96))
                raw = nfloat.quantize_blockwise(mapped, dtype="float32")
                self.assertEqual(raw.codes.tobytes(), wanted.codes.tobytes())
                self.assertEqual(raw.shape, (33 * 96,))

    def test_bf16_is_said_or_refused(self):
        values = pattern(4, 64)
        bits = nfloat.convert_elements(values, "bfloat16")
        with self.assertRaisesRegex(TypeError, 'dtype="bfloat16"'):
            nfloat.quantize_blockwise(bits)
        tensor = nfloat.quantize_blockwise(bits, dtype="bf16")
        self.assertEqual(tensor.dtype, "bfloat16")
        # Memory that is shown by DLPack alone, as by the buffer protocol.
        self.assertEqual(nfloat.quantize_blockwise(Shown(bits), dtype="bf16").codes.tobytes(), tensor.codes.tobytes())
        for given in (values, Shown(values)):
            with self.assertRaisesRegex(TypeError, "float32 does not hold the bits of bfloat16"):
                nfloat.quantize_blockwise(given, dtype="bf16")
        self.assertEqual(nfloat.dequantize_blockwise(tensor).dtype, np.uint16)

    def test_refused(self):
        with self.assertRaises(TypeError):
            nfloat.quantize_blockwise([1.0, 2.0])
        with self.assertRaises(TypeError):
            nfloat.quantize_blockwise(object())
        with self.assertRaises(TypeError):
            nfloat.quantize_blockwise(np.array(["a"]))
        with self.assertRaises(nfloat.InvalidArgumentError) as caught:
            nfloat.quantize_blockwise(np.zeros(64, np.float64))
        self.assertEqual(caught.exception.code, "invalid_argument")
        self.assertIsInstance(caught.exception, ValueError)
        with self.assertRaises(nfloat.NotFiniteError):
            nfloat.quantize_blockwise(np.float32([np.nan] * 64))
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.quantize_blockwise(np.zeros(64, np.float32), block_size=8)
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.quantize_blockwise(np.zeros(64, np.float32), scale="largest")
        with self.assertRaises(nfloat.NotFoundError) as missing:
            nfloat.make_codebook("nf99")
        self.assertIsInstance(missing.exception, FileNotFoundError)
        self.assertIn("nf4", str(missing.exception))
        out = np.zeros((64, 2), np.float32)[:, 0]
        with self.assertRaises((BufferError, ValueError)):
            nfloat.dequantize_blockwise(nfloat.quantize_blockwise(np.zeros(64, np.float32)), out=out)
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.dequantize_blockwise(nfloat.quantize_blockwise(np.zeros(64, np.float32)), out=np.zeros(63, np.float32))
        readonly = np.zeros(64, np.float32)
        readonly.flags.writeable = False
        with self.assertRaises((BufferError, ValueError)):
            nfloat.dequantize_blockwise(nfloat.quantize_blockwise(np.zeros(64, np.float32)), out=readonly)
        ones = nfloat.quantize_blockwise(np.ones((2, 64), np.float32))
        for other in (np.zeros((2, 64), np.int32), np.zeros((64, 2), np.float32), np.zeros((2, 128), np.uint16)):
            with self.assertRaises(ValueError):
                nfloat.dequantize_blockwise(ones, out=other)
        bits = nfloat.dequantize_blockwise(ones, "bf16", out=np.zeros((2, 64), np.uint16))
        self.assertTrue((bits == 0x3F80).all())
        # A refused call leaves `out` as it was.
        with self.assertRaises(nfloat.NotFiniteError):
            nfloat.quantize_blockwise(np.full((2, 64), np.nan, np.float16), "fp4", out=ones)
        self.assertEqual((ones.codebook.name, ones.dtype), ("nf4", "float32"))
        with self.assertRaises(nfloat.NotFiniteError):
            nfloat.quantize_scales(np.float32([1, np.nan]))
        for size in (0, -1):
            with self.assertRaises(nfloat.InvalidArgumentError):
                nfloat.analyze_weights(np.ones(64, np.float32), block_size=size)
        for key, values in (("quant_map", np.zeros(8, np.float32)), ("absmax", np.float32([1, np.inf]))):
            state = {**ones.to_state_dict(), f"weight.{key}": values}
            with self.assertRaisesRegex(nfloat.MalformedFileError, key):
                nfloat.QuantizedTensor.from_state_dict(state)

    def test_empty_and_scalar(self):
        self.assertEqual(nfloat.quantize_blockwise(np.zeros((0, 64), np.float32)).codes.size, 0)
        one = nfloat.quantize_blockwise(np.float32(3.0).reshape(()))
        self.assertEqual((one.shape, float(nfloat.dequantize_blockwise(one))), ((), 3.0))

    def test_scales_in_8_bits(self):
        scales = np.abs(pattern(1000))
        nested = nfloat.quantize_scales(scales)
        again = nfloat.dequantize_scales(nested)
        self.assertLess(np.abs(again - scales).max(), 0.01)
        map_ = nfloat.dynamic_codebook().levels
        by_hand = map_[nested.codes] * np.repeat(nested.absmax, 256)[:1000] + np.float32(nested.offset)
        self.assertEqual(again.tobytes(), by_hand.tobytes())

    def test_codebooks_are_values(self):
        nf4 = nfloat.make_codebook("nf4")
        for other in (copy.deepcopy(nf4), pickle.loads(pickle.dumps(nf4)), nfloat.make_codebook("nf4")):
            self.assertEqual(nf4, other)
            self.assertEqual(hash(nf4), hash(other))
        self.assertNotEqual(nf4, nfloat.make_codebook("fp4"))
        own = nfloat.codebook_from_levels("mine", np.linspace(-1, 1, 16))
        self.assertEqual(pickle.loads(pickle.dumps(own)).levels.tobytes(), own.levels.tobytes())
        self.assertAlmostEqual(nfloat.code_frequencies("nf4").sum(), 1)

    def test_formats(self):
        weights = pattern(16, 256)
        back = nfloat.make_format("nf4").round_trip(weights)
        tensor = nfloat.quantize_blockwise(weights)
        np.testing.assert_array_equal(back, nfloat.dequantize_blockwise(tensor))
        self.assertGreater(len(nfloat.format_list()), 5)
        self.assertIn("nf4", " ".join(nfloat.default_formats()))
        self.assertEqual(nfloat.analyze_weights(weights)["elements"], weights.size)


class Products(unittest.TestCase):
    def test_against_numpy(self):
        for rows, cols, block, double in ((64, 128, 64, False), (48, 96, 64, True), (7, 50, 32, False), (33, 64, 16, True)):
            weights = pattern(rows, cols)
            tensor = nfloat.quantize_blockwise(weights, block_size=block, double_quantization=double)
            values = nfloat.dequantize_blockwise(tensor).astype(np.float64)
            matrix = nfloat.PackedMatrix.pack(tensor)
            self.assertEqual(matrix.shape, (rows, cols))
            self.assertEqual(matrix.unpack().tobytes(), tensor.codes.tobytes())
            for row in range(rows):
                np.testing.assert_array_equal(matrix.dequantize_row(row), values[row].astype(np.float32))
            x, bias = pattern(3, 5, cols, seed=2) * 50, pattern(rows, seed=3)
            dy = pattern(9, rows, seed=4)
            for precision, bound in (("f32", 1e-6), ("bf16", 8e-3), ("int8", 3e-2)):
                y = nfloat.linear(matrix, x, bias, precision=precision)
                size = np.abs(x).astype(np.float64) @ np.abs(values.T)
                self.assertLess((np.abs(y - (x @ values.T + bias)) / size).max(), bound, (rows, cols, precision))
                half = nfloat.linear(matrix, x, bias, precision=precision, dtype="float16")
                self.assertEqual(half.tobytes(), y.astype(np.float16).tobytes())
                dx = nfloat.linear_transposed(matrix, dy, precision=precision)
                size = np.abs(dy).astype(np.float64) @ np.abs(values)
                self.assertLess((np.abs(dx - dy @ values) / size).max(), max(bound, 1e-6) if precision == "f32" else 8e-3)
            spread = np.repeat(bias, 2)[::2]
            self.assertEqual(nfloat.linear(matrix, x, spread).tobytes(), nfloat.linear(matrix, x, bias).tobytes())
            out = np.empty((3, 5, rows), np.float32)
            self.assertIs(nfloat.linear(matrix, x, out=out), out)
            self.assertEqual(nfloat.linear(matrix, np.empty((0, cols), np.float32)).shape, (0, rows))
            many = pattern(2048 + 1500 + 37, cols)
            for precision in ("f32", "bf16", "int8"):
                whole = nfloat.linear(matrix, many, bias, precision=precision)
                for begin, end in ((0, 1500), (1500, len(many) - 400), (len(many) - 400, len(many))):
                    part = nfloat.linear(matrix, many[begin:end], bias, precision=precision)
                    self.assertEqual(whole[begin:end].tobytes(), part.tobytes())

    def test_refused(self):
        matrix = nfloat.PackedMatrix.pack(nfloat.quantize_blockwise(pattern(8, 64)))
        bare = nfloat.QuantizedTensor(nfloat.make_codebook("nf4"), "float32", (2, 64), 64, np.zeros(64, np.uint8), None)
        for call in (
            lambda: nfloat.linear(matrix, pattern(3, 63)),
            lambda: nfloat.linear(matrix, pattern(3, 64), np.zeros(7, np.float32)),
            lambda: nfloat.linear(matrix, pattern(3, 64), precision="f64"),
            lambda: nfloat.linear(matrix, pattern(3, 64), out=np.zeros((3, 7), np.float32)),
            lambda: nfloat.linear_transposed(matrix, pattern(3, 64)),
            lambda: nfloat.PackedMatrix.pack(nfloat.quantize_blockwise(pattern(64))),
            lambda: matrix.dequantize_row(8),
            lambda: nfloat.dequantize_blockwise(bare),
            lambda: nfloat.PackedMatrix.pack(bare),
        ):
            with self.assertRaises(nfloat.InvalidArgumentError):
                call()
        with self.assertRaises(TypeError):
            pickle.dumps(matrix)


class Process(unittest.TestCase):
    def test_other_threads_run_meanwhile(self):
        weights = pattern(2048, 2048)
        counted, stop = [0], threading.Event()

        def count():
            while not stop.is_set():
                counted[0] += 1
                time.sleep(0)

        thread = threading.Thread(target=count)
        thread.start()
        nfloat.quantize_blockwise(weights, scale="search", threads=1)
        stop.set()
        thread.join()
        self.assertGreater(counted[0], 100)


if __name__ == "__main__":
    unittest.main()
