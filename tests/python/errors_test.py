# SPDX-License-Identifier: Apache-2.0
"""Every public function with every argument replaced by what it cannot take: a TypeError, or one of nfloat's errors.
Closed objects, and objects that are closed while they are at work."""
import contextlib
import gc
import inspect
import os
import pathlib
import shutil
import tempfile
import threading
import time
import unittest
import warnings

import numpy as np

import nfloat
from support import TINY, pattern

# What a call may raise: nothing of the interpreter or of numpy comes through.
ALLOWED = (TypeError, nfloat.Error)


class Odd:
    """Of no use to any function."""


def strided():
    return np.zeros((8, 128), np.float32)[:, ::2]


def read_only():
    values = np.zeros((8, 64), np.float32)
    values.flags.writeable = False
    return values


def released():
    view = memoryview(bytearray(64))
    view.release()
    return view


BAD = [
    None, Odd(), object, "wrong", "", "\ud800", "\udc80", "a\0b", b"bytes", b"", -1, 0, 2**31, 2**63, 2**64, -(2**70), 10**400, 1.5,
    float("nan"), float("inf"), -float("inf"), 3j, True, [], [None], ["wrong", 1], [1.0, 2.0], [[1, 2], [3]], [2**70], {}, {"a": 1},
    (1, 2, 3), range(3), np.float32(1), np.zeros((8, 64), np.complex64), np.zeros((8, 64)), np.zeros((8, 64), np.int8), np.array(["a"]),
    np.array([None]), np.zeros(4, "datetime64[s]"), np.zeros(4, [("a", "i4")]), np.zeros((0, 3), np.float32), np.zeros(1 << 10, ">f4"),
    strided(), read_only(), released(), lambda: None,
]  # fmt: skip
# Of the names of parameters: values that a function takes, but that cost much.
SLOW = {"threads", "block_size", "context", "limit"}


class EveryFunction(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.addClassCleanup(os.chdir, os.getcwd())
        os.chdir(cls.folder.name)
        cls.addClassCleanup(nfloat.set_threads, 0)

    def calls(self):
        """(function, good arguments, parameters that are not varied)."""
        model = nfloat.Model.load(TINY, quantize="nf4")
        session = model.session(context=32)
        logits = session.prefill([1, 2])
        weights = pattern(8, 64)
        tensor = nfloat.quantize_blockwise(weights, double_quantization=True)
        plain = nfloat.quantize_blockwise(weights)
        matrix = nfloat.PackedMatrix.pack(plain)
        checkpoint, packed = nfloat.Checkpoint(TINY), nfloat.Checkpoint("nf4")
        tokenizer = model.tokenizer
        template = nfloat.ChatTemplate.parse("{% for m in messages %}{{ m.content }}{% endfor %}")
        norm = "model.norm.weight"
        pathlib.Path("book.json").write_text("[-1, 0, 1]", encoding="utf-8")
        pathlib.Path("task.jsonl").write_text('{"text": "The king had a daughter"}\n', encoding="utf-8")
        ids = list(range(1, 33))
        work = {"overwrite": True}
        return [
            (nfloat.analyze_weights, {"weights": weights, "block_size": 64, "dtype": None}),
            (nfloat.check_checkpoint, {"checkpoint": checkpoint, "progress": None, "control": None}),
            (nfloat.code_frequencies, {"codebook": "nf4", "block_size": 64, "source": "normal"}),
            (nfloat.codebook_errors, {"codebook": "nf4", "block_size": 64, "source": "normal"}),
            (nfloat.codebook_from_levels, {"name": "own", "levels": [-1, 0, 1]}),
            (nfloat.codebook_is_fitted, {"name": "nf4"}),
            (nfloat.codebook_names, {}),
            (nfloat.codebook_summary, {"name": "nf4"}),
            (nfloat.compare_checkpoints, {"checkpoint": checkpoint, "original": checkpoint, "progress": None, "control": None}),
            (nfloat.compare_formats, {"path": TINY, "text": ids, "formats": ["q8_0"], "protocol": "paper", "context": 32,
                                      "budget_bytes": 0, "max_divergence": 0, "progress": None, "control": None}),
            (nfloat.convert_elements, {"values": weights, "dtype": "float16", "source_dtype": None}),
            (nfloat.default_formats, {"block_sizes": (64,)}),
            (nfloat.dequantize_blockwise, {"tensor": tensor, "dtype": None, "out": None, "threads": 1}),
            (nfloat.dequantize_checkpoint, {"input": packed, "output": "plain", "dtype": "float16", "shard_bytes": 1 << 30, **work,
                                            "progress": None, "control": None}),
            (nfloat.dequantize_scales, {"nested": tensor.nested}),
            (nfloat.divergence, {"reference": model, "model": model, "text": ids, "protocol": "paper", "context": 32,
                                 "progress": None, "control": None}),
            (nfloat.dynamic_codebook, {}),
            (nfloat.evaluate_task, {"model": model, "task": "lambada", "data": "task.jsonl", "limit": 1, "add_bos": False,
                                    "progress": None, "control": None}),
            (nfloat.expected_block_maximum, {"block_size": 64, "source": "normal"}),
            (nfloat.format_list, {}),
            (nfloat.forward_batch, {"sessions": [session], "tokens": [[1]]}),
            (nfloat.generalised_offset, {"bits": 4}),
            (nfloat.linear, {"matrix": matrix, "x": weights, "bias": None, "precision": "f32", "dtype": None, "out": None, "threads": 1}),
            (nfloat.linear_transposed, {"matrix": matrix, "x": pattern(3, 8), "precision": "f32", "dtype": None, "out": None, "threads": 1}),
            (nfloat.load_codebook, {"path": "book.json"}),
            (nfloat.log_probability, {"logits": logits, "token": 3}),
            (nfloat.make_codebook, {"name": "nf4", "block_size": 64}),
            (nfloat.make_format, {"name": "nf4"}),
            (nfloat.make_normal_float, {"bits": 4, "offset": 0.96}),
            (nfloat.most_likely, {"logits": logits, "count": 2}),
            (nfloat.normal_quantile, {"probability": 0.5}),
            (nfloat.perplexity, {"model": model, "text": ids, "protocol": "paper", "context": 32, "kv_cache": "auto", "precision": None,
                                 "progress": None, "control": None}),
            (nfloat.plan_memory, {"path": TINY, "memory_bytes": 0, "context": 0}),
            (nfloat.plan_quantization, {"input": checkpoint, "format": "nf4", "block_size": 64, "scale": "absmax",
                                        "double_quantization": False, "storage": "uint8", "skip": (), "only": (),
                                        "quantize_experts": False, "shard_bytes": 1 << 30}),
            (nfloat.processor, {}),
            (nfloat.quantize_blockwise, {"weights": weights, "codebook": "nf4", "block_size": 64, "scale": "absmax",
                                         "double_quantization": False, "allow_nonfinite": False, "dtype": None, "threads": 1,
                                         "out": None}),
            (nfloat.quantize_checkpoint, {"input": checkpoint, "output": "nf4", "format": "nf4", "block_size": 64, "scale": "absmax",
                                          "double_quantization": False, "storage": "uint8", "skip": (), "only": (),
                                          "quantize_experts": False, "allow_nonfinite": False, "shard_bytes": 1 << 30, **work,
                                          "progress": None, "control": None}),
            (nfloat.quantize_scales, {"scales": plain.scales, "threads": 1}),
            (nfloat.resolve_model_path, {"path": TINY}),
            (nfloat.save_tensors, {"path": "some.safetensors", "tensors": {"a": weights}, **work}),
            (nfloat.set_threads, {"threads": 0}),
            (nfloat.target, {}),
            (nfloat.task_names, {}),
            (nfloat.threads, {}),
            (nfloat.version, {}),
            (nfloat.write_folder, {"input": packed, "output": "folder", "type": None, "lora": None, "keep_packed": False,
                                   "scale": "absmax", "part_bytes": 0, "check": False, **work, "progress": None, "control": None}),
            (nfloat.write_gguf, {"input": checkpoint, "output": "x.gguf", "type": "q8_0", "lora": None, "part_bytes": 0, "check": False,
                                 **work, "progress": None, "control": None}),
            (nfloat.Checkpoint, {"path": TINY, "decoded": "bfloat16", "packed": False}),
            (checkpoint.is_quantized, {"name": norm}),
            (checkpoint.quantized, {"name": norm}),
            (checkpoint.stored_type, {"name": norm}),
            (checkpoint.tensor, {"name": norm}),
            (checkpoint.text_file, {"name": "config.json"}),
            (checkpoint.weight_shape, {"name": norm}),
            (nfloat.ChatTemplate.parse, {"text": "{{ messages }}"}),
            (nfloat.ChatTemplate.load, {"folder": TINY, "name": ""}),
            (template.render, {"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": True}),
            (nfloat.make_format("nf4").round_trip, {"weights": weights, "threads": 1}),
            (nfloat.Model.load, {"path": TINY, "quantize": None, "block_size": 64, "double_quantization": False, "head": "keep",
                                 "precision": "bf16", "device": None, "progress": None, "control": None}),
            (model.generate, {"prompt": "The", "max_tokens": 1, "temperature": 0, "top_k": None, "top_p": None, "min_p": None,
                              "repetition_penalty": None, "seed": 1, "stop": (), "ignore_end": False, "top_logprobs": 0,
                              "session": None, "control": None}),
            (model.logits, {"tokens": [1, 2], "precision": None, "out": None}),
            (model.session, {"context": 16, "kv_cache": "auto", "precision": None}),
            (matrix.dequantize_row, {"row": 1}),
            (nfloat.PackedMatrix.pack, {"tensor": tensor, "threads": 1}),
            (nfloat.QuantizedTensor.from_state_dict, {"state": tensor.to_state_dict("w"), "name": "w"}),
            (tensor.to_state_dict, {"name": "w"}),
            (nfloat.Sampler, {"options": nfloat.SamplerOptions()}),
            (nfloat.Sampler().sample, {"logits": logits, "history": ()}),
            (session.decode, {"token": 1}),
            (session.prefill, {"tokens": [1], "control": None}),
            (session.rewind, {"position": 0}),
            (tokenizer.decode, {"tokens": [1, 2], "skip_special_tokens": False}),
            (tokenizer.encode, {"text": "a", "add_special_tokens": True, "parse_special_tokens": True}),
            (tokenizer.encode_array, {"text": "a", "add_special_tokens": True, "parse_special_tokens": True}),
            (tokenizer.is_special, {"token": 1}),
            (tokenizer.token_bytes, {"token": 1}),
            (tokenizer.token_id, {"text": "a"}),
            (tokenizer.token_text, {"token": 1}),
            (nfloat.Tokenizer.load, {"path": TINY}),
        ]  # fmt: skip

    def test_wrong_arguments(self):
        shutil.copytree(TINY, "wrong")  # so that the bad text is a model where a path is asked for
        nfloat.quantize_checkpoint(TINY, "nf4")
        warnings.simplefilter("ignore")  # numpy's about empty arrays as truth values
        calls = self.calls()
        # Each public function is in the table.
        covered = {getattr(function, "__name__", "") for function, _ in calls}
        for name in nfloat.__all__:
            if inspect.isfunction(getattr(nfloat, name)) and name not in ("measure_machine", "synthetic_model"):
                self.assertIn(name, covered)
        for function, good in calls:
            for name in inspect.signature(function).parameters:
                if name != "variables" and name != "threads":
                    self.assertIn(name, good, function)
        # Long work that ends as soon as its arguments are taken.
        ended = nfloat.Control()
        ended.cancel()
        for function, good in calls:
            with self.subTest(function.__qualname__):
                self.returned(function, good)
            if "control" in good:
                good["control"] = ended
            for name in good:
                for value in BAD:
                    if name in SLOW and isinstance(value, int) and 0 <= value < 2**63:
                        continue
                    with self.subTest(function=function.__qualname__, argument=name, value=value):
                        self.tried(function, {**good, name: value})

    def returned(self, function, arguments):
        with contextlib.suppress(nfloat.NotFoundError, nfloat.MalformedFileError, nfloat.UnsupportedError):
            result = function(**arguments)
            if isinstance(result, nfloat.Generation):
                result.result()

    def tried(self, function, arguments):
        try:
            result = function(**arguments)
            if isinstance(result, nfloat.Generation):
                result.result()
        except ALLOWED as error:
            self.assertNotIsInstance(error, nfloat.InternalError, error)
            self.assertTrue(str(error))
        except Exception as error:
            self.fail(f"{type(error).__name__}: {error}")

    def test_documented_classes(self):
        """A few of each kind by name: wrong type, wrong value, closed."""
        weights = pattern(2, 64)
        tensor = nfloat.quantize_blockwise(weights)
        for call in (
            lambda: nfloat.dequantize_blockwise(weights),
            lambda: nfloat.quantize_blockwise(None),
            lambda: nfloat.quantize_blockwise(np.zeros(4, "datetime64[s]")),
            lambda: nfloat.linear(tensor, weights),
            lambda: nfloat.perplexity(TINY, "text"),
            lambda: nfloat.PackedMatrix.pack(weights),
            lambda: nfloat.forward_batch([1], [[1]]),
            lambda: nfloat.Model.load(TINY, control=1),
            lambda: nfloat.Model.load(TINY, progress=1),
            lambda: nfloat.Sampler(0.5),
            lambda: nfloat.most_likely("logits"),
            lambda: nfloat.save_tensors("x.safetensors", [weights]),
            lambda: nfloat.make_codebook("nf4", 64.0),
        ):
            with self.assertRaises(TypeError):
                call()
        for call in (
            lambda: nfloat.dequantize_blockwise(tensor, out=np.zeros((2, 128), np.float32)[:, ::2]),
            lambda: nfloat.dequantize_blockwise(tensor, out=read_only()[:2]),
            lambda: nfloat.dequantize_blockwise(tensor, out=bytes(512)),
            lambda: nfloat.quantize_blockwise(weights, block_size=2**70),
            lambda: nfloat.quantize_blockwise(weights, block_size=-(2**70)),
            lambda: nfloat.make_normal_float(4, 10**400),
            lambda: nfloat.make_format("\ud800"),
            lambda: nfloat.quantize_checkpoint(TINY, "out", shard_bytes=-1),
            lambda: nfloat.Sampler(nfloat.SamplerOptions(seed=-1)),
            lambda: nfloat.most_likely(np.zeros((2, 4), np.float32)),
            lambda: nfloat.linear(nfloat.PackedMatrix.pack(tensor), weights, out=np.zeros(4, np.float32)),
            lambda: nfloat.linear(nfloat.PackedMatrix.pack(tensor), weights, dtype="f32", out=np.zeros((2, 2), np.int32)),
            lambda: nfloat.set_threads(2**70),
        ):
            with self.assertRaises(nfloat.InvalidArgumentError):
                call()


class Closing(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = nfloat.Model.load(TINY, quantize="nf4", threads=1)
        cls.text = cls.model.tokenizer.encode("The king had a daughter. " * 1000)

    def refused(self, call, pattern="is closed"):
        with self.assertRaisesRegex(nfloat.InvalidArgumentError, pattern):
            call()

    def test_closed_objects(self):
        model = nfloat.Model.load(TINY)
        session = model.session(context=16)
        session.close()
        session.close()
        other = model.session(context=16)
        other.decode(1)
        model.close()
        model.close()
        for call in (
            lambda: session.decode(1), lambda: session.position, lambda: session.tokens, lambda: session.logits, session.fork,
            lambda: session.rewind(0), lambda: nfloat.forward_batch([session], [[1]]), lambda: nfloat.forward_batch([other, session], [[1], [1]]),
            model.session, lambda: model.logits([1]), lambda: model.generate("a"), lambda: model.generate("a", session=other),
            lambda: nfloat.perplexity(model, self.text), lambda: nfloat.divergence(self.model, model, self.text),
        ):  # fmt: skip
            self.refused(call)
        # A session keeps the weights of a model that is closed.
        self.assertEqual(other.decode(2).shape, (model.vocabulary,))
        checkpoint = nfloat.Checkpoint(TINY)
        checkpoint.close()
        self.refused(lambda: checkpoint.tensor("model.norm.weight"))
        self.refused(lambda: nfloat.quantize_checkpoint(checkpoint, "never"))

    def test_a_session_is_closed_under_its_generation(self):
        session = self.model.session(context=64)
        generation = self.model.generate("The king", max_tokens=20, temperature=0, session=session, ignore_end=True)
        first = [next(generation), next(generation)]
        session.close()
        self.refused(lambda: next(generation))
        self.assertEqual(generation.tokens, [token.token for token in first])
        self.assertIsNone(generation.finish_reason)
        generation.cancel()
        self.assertEqual(list(generation), [])

    def test_a_model_is_closed_under_its_generation(self):
        wanted = self.model.generate("The king", max_tokens=20, temperature=0).result().tokens
        model = nfloat.Model.load(TINY, quantize="nf4", threads=1)
        generation = model.generate("The king", max_tokens=20, temperature=0)
        next(generation)
        model.close()
        del model
        gc.collect()
        self.assertEqual(generation.result().tokens, wanted)

    def at_work(self, body, begun, close):
        """What body raises when close is called while it works, which begun() says."""
        caught = []

        def work():
            try:
                body()
            except Exception as error:
                caught.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive() and not begun():
            time.sleep(0.001)
        close()
        thread.join(60)
        self.assertFalse(thread.is_alive(), "closing does not end the work")
        return caught

    def test_closed_by_another_thread(self):
        whole = self.text[: self.model.context]

        def prefill(session):
            session.prefill(whole)

        def generate(session):
            self.model.generate("The king", max_tokens=200, ignore_end=True, session=session).result()

        def batch(session):
            nfloat.forward_batch([session], [whole])

        for call in (prefill, generate, batch):
            session = self.model.session(precision="f32")
            done, when_closed = [], []

            def repeat(call=call, session=session, done=done):
                while True:
                    call(session)
                    done.append(1)
                    session.rewind(0)

            def close(session=session, done=done, when_closed=when_closed):
                session.close()
                when_closed.append(len(done))

            caught = self.at_work(repeat, lambda done=done: done, close)
            self.assertEqual([type(error) for error in caught], [nfloat.InvalidArgumentError], caught)
            self.assertRegex(str(caught[0]), "is closed")
            # None that began later.
            self.assertLessEqual(len(done) - when_closed[0], 1, call.__name__)
            self.refused(lambda session=session: session.position)
        # What a closed model has begun ends as if it were open.
        model = nfloat.Model.load(TINY, quantize="nf4", threads=1)
        results = []
        text = self.text[:3000]
        control = nfloat.Control()
        caught = self.at_work(
            lambda: results.append(nfloat.perplexity(model, text, context=64, precision="f32", control=control)),
            lambda: control.progress.done > 0,
            model.close,
        )
        self.assertEqual(caught, [])
        self.assertEqual(results, [nfloat.perplexity(self.model, text, context=64, precision="f32")])

    def test_memory_is_freed(self):
        def resident():
            with open("/proc/self/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * 4096

        def used(count):
            before = resident()
            for _ in range(count):
                session = self.model.session()
                session.prefill(self.text[: self.model.context - 8])
                kept.append(self.model.generate([5], max_tokens=2, session=session))
                next(kept[-1])
                session.close()
            return resident() - before

        kept = []
        first = used(2)
        self.assertLess(used(20), max(first, 4 << 20))

    def test_a_checkpoint_that_is_read_stays(self):
        checkpoint = nfloat.Checkpoint(TINY)
        control = nfloat.Control()
        seen = []

        def close(_):
            with contextlib.suppress(BufferError):
                checkpoint.close()
                seen.append("closed")

        nfloat.check_checkpoint(checkpoint, progress=close, control=control)
        self.assertEqual(seen, [])
        checkpoint.close()


if __name__ == "__main__":
    unittest.main()
