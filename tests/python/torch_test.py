# SPDX-License-Identifier: Apache-2.0
"""nfloat.torch against torch itself: every golden byte, gradients, state dicts both ways."""
import copy
import io
import pathlib
import pickle
import tempfile
import unittest

import numpy as np

try:
    import torch
except ImportError:
    torch = None

import nfloat
from support import GOLDEN, TINY, golden_cases, pattern, read_safetensors


def tensor_of(dtype, values):
    values = torch.from_numpy(values.view(np.int16).copy() if dtype == "BF16" else values.copy())
    return values.view(torch.bfloat16) if dtype == "BF16" else values


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8 if tensor.dtype != torch.bfloat16 else torch.int16).numpy().tobytes()


@unittest.skipIf(torch is None, "python3-torch is not installed")
class Tensors(unittest.TestCase):
    def test_every_golden_byte(self):
        import nfloat.torch as nt

        for case in golden_cases():
            with self.subTest(case=case["case"]):
                stored = {n: tensor_of(*v) for n, v in read_safetensors(GOLDEN / f"{case['case']}.safetensors").items()}
                options = {"block_size": case["block_size"], "double_quantization": case["double_quantization"]}
                given = stored["input"].clone().requires_grad_(True)
                tensor = nt.quantize_blockwise(given, case["quant_type"], **options)
                state = nt.to_state_dict(tensor, "weight")
                for name in state:
                    self.assertEqual(bits(state[name]), bits(stored[name]), name)
                self.assertEqual(bits(nt.dequantize_blockwise(tensor)), bits(stored["dequantized"]))
                # DLPack, bfloat16 typed, and bitsandbytes' tensors straight into nfloat.
                self.assertEqual(nfloat.quantize_blockwise(stored["input"], case["quant_type"], **options).codes.tobytes(), tensor.codes.tobytes())
                parts = {n: v for n, v in stored.items() if n.startswith("weight")}
                for read in (nt.from_state_dict, nfloat.QuantizedTensor.from_state_dict):
                    self.assertEqual(bits(nt.dequantize_blockwise(read(parts))), bits(stored["dequantized"]))

    def test_memory_is_shared(self):
        import nfloat.torch as nt

        values = torch.randn(64, 64)
        self.assertEqual(nfloat._core.address(values), values.data_ptr())
        out = torch.empty(64, 64)
        self.assertIs(nt.dequantize_blockwise(nt.quantize_blockwise(values), out=out), out)
        turned = nt.quantize_blockwise(values.t())
        self.assertEqual(turned.codes.tobytes(), nt.quantize_blockwise(values.t().contiguous()).codes.tobytes())
        with self.assertRaises((RuntimeError, BufferError)):
            nfloat.quantize_blockwise(values.clone().requires_grad_(True))
        back = torch.from_dlpack(nfloat.dequantize_blockwise(nt.quantize_blockwise(values)))
        self.assertEqual(back.shape, values.shape)


@unittest.skipIf(torch is None, "python3-torch is not installed")
class Layers(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def layer(self, rows=96, cols=128, bias=True, **options):
        import nfloat.torch as nt

        plain = torch.nn.Linear(cols, rows, bias)
        return nt.Linear4bit.from_linear(plain, **options), plain

    def test_forward_and_backward(self):
        for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
            layer, _ = self.layer(precision="f32")
            weight = layer.dequantize(torch.float32)
            x = torch.randn(2, 5, 128).to(dtype).requires_grad_(True)
            other = x.detach().float().requires_grad_(True)
            y = layer(x)
            wanted = torch.nn.functional.linear(other, weight, layer.bias.detach())
            self.assertEqual((y.dtype, y.shape), (dtype, (2, 5, 96)))
            self.assertLess((y.float() - wanted).abs().max() / wanted.abs().max(), bound)
            dy = torch.randn(2, 5, 96)
            y.backward(dy.to(dtype))
            wanted.backward(dy)
            self.assertLess((x.grad.float() - other.grad).abs().max() / other.grad.abs().max(), bound)
            self.assertLess((layer.bias.grad - dy.reshape(-1, 96).sum(0)).abs().max(), 0.2 if bound > 1e-3 else 1e-4)
            self.assertIsNone(layer.weight.grad)
            with torch.no_grad():
                self.assertFalse(layer(x).requires_grad)
            self.assertEqual(layer(x[:, :0]).shape, (2, 0, 96))

    def test_gradients_by_differences(self):
        import nfloat.torch as nt

        layer, _ = self.layer(16, 32, precision="f32")
        x = torch.randn(3, 32, requires_grad=True)
        dy = torch.randn(3, 16)
        nt.linear(x, layer.matrix, layer.bias, precision="f32").backward(dy)
        (slope,) = torch.autograd.grad((layer(x) ** 2).sum(), x, create_graph=True)
        with self.assertRaises(RuntimeError):
            slope.sum().backward()
        step = 1e-2
        with torch.no_grad():
            for i, j in ((0, 0), (1, 7), (2, 31)):
                moved = x.clone()
                moved[i, j] += step
                rise = ((layer(moved) - layer(x)) * dy).sum() / step
                self.assertAlmostEqual(float(rise), float(x.grad[i, j]), delta=1e-2)

    def test_state_dict_is_that_of_bitsandbytes(self):
        layer, plain = self.layer()
        keys = ["weight", "bias", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map", "weight.quant_state.bitsandbytes__nf4"]
        state = layer.state_dict()
        self.assertEqual(list(state), keys)
        self.assertEqual((state["weight"].shape, state["weight"].dtype), ((96 * 128 // 2, 1), torch.uint8))
        for options in ({}, {"keep_codes": False}):
            other, _ = self.layer(**options)
            self.assertEqual(str(other.load_state_dict(state)), "<All keys matched successfully>")
            for key, value in other.state_dict().items():
                self.assertTrue(torch.equal(value, state[key]), key)
            self.assertTrue(torch.equal(other(torch.ones(1, 128)), layer(torch.ones(1, 128))))
            self.assertTrue(torch.equal(copy.deepcopy(other)(torch.ones(1, 128)), layer(torch.ones(1, 128))))
            again = pickle.loads(pickle.dumps(other))
            self.assertTrue(torch.equal(again.state_dict()["weight"], state["weight"]))
            self.assertEqual(other.weight.numel(), 0 if options else 96 * 64)
        # Another kind of weight, a plain one, and what contradicts itself.
        fp4, _ = self.layer(quant_type="fp4", compress_statistics=False, block_size=128)
        layer.load_state_dict(fp4.state_dict())
        self.assertEqual((layer.quant_type, layer.block_size, layer.compress_statistics), ("fp4", 128, False))
        fresh, _ = self.layer()
        fresh.load_state_dict({"weight": plain.weight, "bias": plain.bias})
        self.assertTrue(torch.equal(fresh.state_dict()["weight"], state["weight"]))
        for change, word in (
            (lambda s: s.pop("weight.absmax"), "weight.absmax"),
            (lambda s: s.update({"weight.absmax": torch.zeros(3, dtype=torch.uint8)}), "weight.absmax"),
            (lambda s: s.update({"weight.quant_map": torch.zeros(8)}), "weight.quant_map"),
            (lambda s: s.update({"weight.nested_absmax": s["weight.nested_absmax"] * np.nan}), "weight.nested_absmax"),
            (lambda s: s.pop("weight"), "weight"),
            (lambda s: s.update({"other": torch.zeros(3)}), "other"),
            (lambda s: s.pop("bias"), "bias"),
        ):
            broken = dict(state)
            change(broken)
            with self.assertRaisesRegex(RuntimeError, word):
                fresh.load_state_dict(broken)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        fresh.load_state_dict(torch.load(file))

    def test_weight_written_in_place(self):
        layer, _ = self.layer(bias=False)
        before = layer(torch.ones(1, 128))
        with torch.no_grad():
            layer.weight.fill_(0x77)
        self.assertEqual(float(layer(torch.ones(1, 128)).abs().max()), 0)
        self.assertGreater(float(before.abs().max()), 0)
        # Other memory under the same parameter, and other parameters, of the same version.
        zeros, ones = torch.full_like(layer.weight, 0x77), torch.full_like(layer.weight, 0xFF)
        for codes, zero in ((ones, False), (zeros, True), (ones.clone(), False)):
            layer.weight.data = codes
            self.assertEqual(float(layer(torch.ones(1, 128)).abs().max()) == 0, zero)
        for turn in range(6):
            layer.weight = torch.nn.Parameter((zeros if turn % 2 else ones).clone(), requires_grad=False)
            self.assertEqual(float(layer(torch.ones(1, 128)).abs().max()) == 0, turn % 2 == 1)

    def test_other_types_leave_the_weight_alone(self):
        layer, _ = self.layer()
        weight = layer.state_dict()["weight"].clone()
        for change in (layer.half, layer.bfloat16, lambda: layer.to(torch.float32), layer.float):
            change()
            self.assertTrue(torch.equal(layer.state_dict()["weight"], weight))
            self.assertEqual(layer(torch.ones(1, 128)).dtype, torch.float32)
        with self.assertRaises(nfloat.UnsupportedError):
            layer.to("cuda")

    def test_a_whole_model(self):
        import nfloat.torch as nt

        model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.Linear(128, 64)))
        model.lm_head = torch.nn.Linear(64, 10)
        names = nt.replace_linear(model)
        self.assertEqual(names, ["0", "2.0"])
        self.assertIsInstance(model.lm_head, torch.nn.Linear)
        shared = torch.nn.Linear(64, 64)
        twice = torch.nn.Sequential(shared, torch.nn.Sequential(shared), shared)
        with self.assertRaises(TypeError):
            nt.replace_linear(twice, skip="lm_head")
        self.assertEqual(sorted(nt.replace_linear(twice)), ["0", "1.0", "2"])
        self.assertIsInstance(twice[0], nt.Linear4bit)
        self.assertIs(twice[0], twice[1][0])
        self.assertIs(twice[0], twice[2])
        # An adapter beside a frozen layer learns.
        down, up = torch.nn.Linear(64, 4, bias=False), torch.nn.Linear(4, 128, bias=False)
        torch.nn.init.zeros_(up.weight)
        x, target = torch.randn(32, 64), torch.randn(32, 128)
        optimizer = torch.optim.Adam([*down.parameters(), *up.parameters()], 1e-2)
        losses = []
        for _ in range(30):
            loss = ((model[0](x) + up(down(x)) - target) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        self.assertLess(losses[-1], 0.95 * losses[0])

    def test_from_a_checkpoint(self):
        import nfloat.torch as nt

        class Mlp(torch.nn.Module):
            def __init__(self, shapes):
                super().__init__()
                for name, (rows, cols) in shapes.items():
                    setattr(self, name, torch.nn.Linear(cols, rows, bias=False))

        names = [f"{kind}_proj" for kind in ("gate", "up", "down")]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            plain = nfloat.Checkpoint(TINY)
            tensors = {f"{n}.weight": plain.tensor(f"model.layers.0.mlp.{n}.weight") for n in names}
            given = {n: tensor_of("BF16", v) for n, v in tensors.items()}
            nfloat.save_tensors(folder / "plain.safetensors", given)
            nfloat.quantize_checkpoint(folder / "plain.safetensors", folder / "nf4.safetensors", double_quantization=True)
            shapes = {n: tensors[f"{n}.weight"].shape for n in names}
            models = []
            for file in ("plain.safetensors", "nf4.safetensors"):
                model = Mlp(shapes)
                nt.replace_linear(model)
                nt.load_checkpoint(model, folder / file)
                models.append(model.state_dict())
            for key, value in models[0].items():
                self.assertTrue(torch.equal(value, models[1][key]), key)
            layer = nt.Linear4bit.from_quantized(nfloat.Checkpoint(folder / "nf4.safetensors").quantized("up_proj.weight"))
            self.assertTrue(torch.equal(layer.state_dict()["weight"], models[1]["up_proj.weight"]))


if __name__ == "__main__":
    unittest.main()
