# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, conversions, models, generation, judging; Ctrl-C and cancelling."""
import json
import os
import pathlib
import pickle
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import numpy as np

import nfloat
from support import TINY, pattern, read_safetensors

TOOL = os.environ.get("NFLOAT_TOOL", "nfloat")


class InFolder(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)


class Checkpoints(InFolder):
    def test_reads_what_the_file_holds(self):
        stored = read_safetensors(TINY / "model.safetensors")
        with nfloat.Checkpoint(TINY) as checkpoint:
            self.assertEqual(set(checkpoint), set(stored))
            self.assertEqual(len(checkpoint), len(stored))
            self.assertTrue(checkpoint.is_folder)
            self.assertFalse(checkpoint.is_gguf)
            for name, (dtype, values) in stored.items():
                info = checkpoint[name]
                self.assertEqual((info.dtype, info.shape), (dtype, values.shape))
                tensor = checkpoint.tensor(name)
                self.assertEqual(tensor.tobytes(), values.tobytes())
                self.assertFalse(tensor.flags.writeable)
            self.assertEqual(json.loads(checkpoint.text_file("config.json"))["model_type"], "llama")
            with self.assertRaises(nfloat.NotFoundError):
                checkpoint.text_file("nothing.json")
            with self.assertRaises(nfloat.NotFoundError):
                checkpoint.tensor("nothing")
            with self.assertRaises(KeyError):
                checkpoint["nothing"]
            self.assertEqual(checkpoint.describe()["parameters"], sum(v.size for _, v in stored.values()))
        with self.assertRaises(ValueError):
            checkpoint.tensor("model.norm.weight")
        with self.assertRaises(TypeError):
            pickle.dumps(checkpoint)

    def test_close_minds_living_views(self):
        checkpoint = nfloat.Checkpoint(TINY)
        view = checkpoint.tensor("model.norm.weight")
        with self.assertRaises(BufferError):
            checkpoint.close()
        self.assertEqual(view.size, 256)
        del view
        checkpoint.close()
        checkpoint.close()

    def test_saves(self):
        file = self.path / "some.safetensors"
        tensors = {"b": pattern(3, 4), "a": np.arange(5, dtype=np.int32), "s": np.float16(2).reshape(())}
        nfloat.save_tensors(file, tensors)
        for name, (_, values) in read_safetensors(file).items():
            self.assertEqual(values.tobytes(), tensors[name].tobytes())
            self.assertEqual(values.shape, tensors[name].shape)
        with self.assertRaises(nfloat.AlreadyExistsError):
            nfloat.save_tensors(file, tensors)
        nfloat.save_tensors(file, {"one": pattern(2)}, overwrite=True)
        self.assertEqual(list(nfloat.Checkpoint(file)), ["one"])
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.save_tensors(file, {"__metadata__": pattern(2)}, overwrite=True)
        with self.assertRaises(TypeError):
            nfloat.save_tensors(file, {"none": None}, overwrite=True)
        for call in (lambda path: nfloat.save_tensors(path, tensors), nfloat.Checkpoint, nfloat.load_codebook):
            with self.assertRaises(ValueError):
                call(f"{file}\0.safetensors")

    def test_converts(self):
        plan = nfloat.plan_quantization(TINY, double_quantization=True)
        seen = []
        result = nfloat.quantize_checkpoint(TINY, self.path / "nf4", double_quantization=True, progress=seen.append)
        self.assertEqual(result.plan, plan)
        self.assertEqual(len(plan.records()), len(nfloat.Checkpoint(TINY)))
        self.assertEqual((seen[-1].done, seen[-1].unit), (seen[-1].total, "bytes"))
        subprocess.run(
            [TOOL, "quantize", TINY, self.path / "tool", "--double-quantization", "--quiet"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for file in result.files:
            self.assertEqual(pathlib.Path(file).read_bytes(), (self.path / "tool" / pathlib.Path(file).name).read_bytes())
        with self.assertRaises(nfloat.AlreadyExistsError):
            nfloat.quantize_checkpoint(TINY, self.path / "nf4")
        with self.assertRaises(nfloat.UnsupportedError):
            nfloat.quantize_checkpoint(self.path / "nf4", self.path / "twice")
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.plan_quantization(TINY, storage="int8")
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.Checkpoint(TINY).text_file("../nfloat-tiny/config.json")
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.Checkpoint(TINY).text_file("config.json\0")
        for call in (
            lambda: nfloat.plan_quantization(TINY, skip="mlp"),
            lambda: nfloat.quantize_checkpoint(TINY, self.path / "never", only="mlp"),
            lambda: nfloat.compare_formats(TINY, "text", formats="nf4:64"),
        ):
            with self.assertRaises(TypeError):
                call()
        self.assertEqual([f for f in nfloat.check_checkpoint(self.path / "nf4") if f.error], [])
        errors = nfloat.compare_checkpoints(self.path / "nf4", TINY)
        self.assertTrue(19 < errors[0].sqnr_db < 25, errors[0])
        name = "model.layers.0.mlp.up_proj.weight"
        with nfloat.Checkpoint(self.path / "nf4") as checkpoint:
            tensor = checkpoint.quantized(name)
            weights = nfloat.convert_elements(nfloat.Checkpoint(TINY).tensor(name), "float32", source_dtype="bfloat16")
            again = nfloat.quantize_blockwise(weights, double_quantization=True)
            self.assertEqual(tensor.codes.tobytes(), again.codes.tobytes())
            self.assertEqual(nfloat.PackedMatrix.pack(tensor).shape, weights.shape)
        for scale in ("search", "signed"):
            nfloat.quantize_checkpoint(TINY, self.path / scale, scale=scale, double_quantization=True)
            again = nfloat.quantize_blockwise(weights, scale=scale, double_quantization=True)
            with nfloat.Checkpoint(self.path / scale) as checkpoint:
                stored = checkpoint.quantized(name).to_state_dict()
                for key, values in again.to_state_dict().items():
                    if "quant_state" not in key:
                        self.assertEqual(values.tobytes(), stored[key].tobytes(), (scale, key))
                del stored
        plain = nfloat.dequantize_checkpoint(self.path / "nf4", self.path / "plain", "float32")
        self.assertEqual(nfloat.Checkpoint(self.path / "plain")[name].dtype, "F32")
        self.assertGreater(plain.bytes_after, plain.bytes_before)
        nfloat.write_gguf(TINY, self.path / "tiny.gguf", type="q8_0")
        self.assertTrue(nfloat.Checkpoint(self.path / "tiny.gguf").is_gguf)
        nfloat.write_folder(self.path / "tiny.gguf", self.path / "back", type="float16")
        self.assertEqual(nfloat.Checkpoint(self.path / "back")[name].dtype, "F16")
        self.assertTrue(nfloat.plan_memory(TINY)[0]["weight_bytes"])
        context = min(4096, nfloat.Model.load(TINY).context)
        self.assertEqual(nfloat.plan_memory(TINY), nfloat.plan_memory(TINY, context=context))
        for context in (-1, -(2**63), 2**62):
            with self.assertRaises(nfloat.InvalidArgumentError):
                nfloat.plan_memory(TINY, context=context)

    def test_an_exception_of_progress_ends_the_work(self):
        class Enough(Exception):
            pass

        def progress(_):
            raise Enough

        # The first report comes before the work begins.
        with self.assertRaises(Enough):
            nfloat.quantize_checkpoint(TINY, self.path / "out", progress=progress)
        self.assertEqual(list(self.path.iterdir()), [])
        control = nfloat.Control()
        control.cancel()
        with self.assertRaises(nfloat.CancelledError):
            nfloat.quantize_checkpoint(TINY, self.path / "other", control=control)
        self.assertEqual([p for p in self.path.iterdir() if p.name == "other"], [])
        control.reset()
        nfloat.quantize_checkpoint(TINY, self.path / "other", control=control)
        self.assertEqual(control.progress.fraction, 1)


class Models(InFolder):
    @classmethod
    def setUpClass(cls):
        cls.model = nfloat.Model.load(TINY, quantize="nf4")

    def test_text_is_that_of_the_tool(self):
        result = self.model.generate("The old lighthouse", max_tokens=40, seed=7).result()
        tool = subprocess.run(
            [TOOL, "generate", TINY, "--quantize", "nf4", "--precision", "bf16", "-p", "The old lighthouse", "-n", "40",
             "--seed", "7", "--json"],
            check=True, capture_output=True,
        )  # fmt: skip
        wanted = json.loads(tool.stdout)
        self.assertEqual(result.tokens, wanted["tokens"])
        self.assertEqual(result.text, wanted["text"])
        self.assertEqual(result.prompt_tokens, wanted["prompt_tokens"])
        self.assertEqual(result.finish_reason, "length")
        json.dumps(result.to_dict())

    def test_sessions_give_the_same_logits_however_they_get_there(self):
        tokens = self.model.tokenizer.encode("Once upon a time there was a king who had a daughter.")
        all_logits = self.model.logits(tokens, precision="f32")
        self.assertEqual(all_logits.shape, (len(tokens), self.model.vocabulary))
        session = self.model.session(context=64, precision="f32")
        self.assertIsNone(session.logits)
        last = session.prefill(tokens)
        np.testing.assert_array_equal(last, all_logits[-1])
        self.assertEqual(session.position, len(tokens))
        session.rewind(len(tokens) - 3)
        fork = session.fork()
        for token in tokens[-3:]:
            step = fork.decode(token)
        np.testing.assert_allclose(step, last, atol=1e-4)
        both = nfloat.forward_batch([session, fork], [tokens[-3:], [5]])
        self.assertEqual(both[0].shape, (3, self.model.vocabulary))
        self.assertEqual((session.position, fork.position), (len(tokens), len(tokens) + 1))
        self.assertEqual(list(session.tokens), tokens)
        self.assertEqual(nfloat.most_likely(last)[0].token, int(last.argmax()))
        self.assertEqual(nfloat.Sampler().sample(last), int(last.argmax()))
        self.assertAlmostEqual(
            nfloat.log_probability(last, 5), float(last[5] - np.log(np.exp(last.astype(float)).sum())), places=4
        )
        session.close()
        with self.assertRaises(ValueError):
            session.decode(1)

    def test_leaving_early_keeps_the_session(self):
        session = self.model.session(context=200)
        generation = self.model.generate("The king", max_tokens=50, temperature=0, session=session, top_logprobs=3)
        for count, token in enumerate(generation):
            self.assertEqual(len(token.top), 3)
            self.assertLessEqual(token.log_probability, 0)
            if count == 4:
                break
        self.assertIsNone(generation.finish_reason)
        self.assertEqual(len(generation.tokens), 5)
        generation.cancel()
        self.assertEqual(list(generation), [])
        whole = self.model.generate("The king", max_tokens=12, temperature=0).result()
        # What follows on the same session continues the text.
        prompt = [int(t) for t in generation.tokens[len(session.tokens) - len(whole.prompt_tokens):]]
        rest = self.model.generate(prompt, max_tokens=7, temperature=0, session=session).result()
        self.assertEqual(generation.tokens + rest.tokens, whole.tokens)

    def test_log_probabilities(self):
        options = {"max_tokens": 20, "seed": 3, "ignore_end": True}
        quick = list(self.model.generate("The king", **options))
        exact = list(self.model.generate("The king", top_logprobs=1, **options))
        self.assertEqual([t.token for t in quick], [t.token for t in exact])
        for one, other in zip(quick, exact):
            if one.token >= 0:
                self.assertAlmostEqual(one.log_probability, other.log_probability, places=4)
        tokens = self.model.tokenizer.encode("The king") + [t.token for t in quick if t.token >= 0]
        logits = self.model.logits(tokens)
        first = len(tokens) - sum(t.token >= 0 for t in quick)
        for row, one in enumerate(t for t in quick if t.token >= 0):
            self.assertAlmostEqual(nfloat.log_probability(logits[first + row - 1], one.token), one.log_probability, delta=0.05)

    def test_stops(self):
        text = self.model.generate("The king", max_tokens=60, temperature=0).result().text
        stop = text[10:14]
        result = self.model.generate("The king", max_tokens=60, temperature=0, stop=[stop]).result()
        self.assertEqual((result.finish_reason, result.text), ("stop", text[: text.index(stop)]))
        with self.assertRaises(TypeError):
            self.model.generate("The king", stop=stop)

    def test_tokenizer_and_chat(self):
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode("A quick fox.", add_special_tokens=False)
        self.assertEqual(tokenizer.decode(ids), "A quick fox.")
        self.assertEqual(b"".join(tokenizer.token_bytes(i) for i in ids).decode().strip(), "A quick fox.")
        with self.assertRaises(nfloat.InvalidArgumentError):
            tokenizer.token_text(tokenizer.vocab_size)
        with self.assertRaises(TypeError):
            tokenizer.decode("text")
        if self.model.chat_template is None:
            with self.assertRaises(nfloat.UnsupportedError):
                self.model.generate([{"role": "user", "content": "Hello"}])

    def test_judged(self):
        text = "Once upon a time there was a king who had a daughter. " * 60
        seen = []
        result = nfloat.perplexity(self.model, text, context=128, progress=seen.append)
        self.assertEqual((seen[-1].done, seen[-1].unit), (result.tokens, "tokens"))
        ids = self.model.tokenizer.encode(text, add_special_tokens=False)[:128]
        one = nfloat.perplexity(self.model, ids, context=128, precision="f32")
        logits = self.model.logits(ids, precision="f32").astype(np.float64)
        losses = np.log(np.exp(logits).sum(1))[:-1] - logits[np.arange(127), ids[1:]]
        self.assertAlmostEqual(one.mean_loss, losses.mean(), places=4)
        plain = nfloat.Model.load(TINY)
        apart = nfloat.divergence(plain, self.model, text, context=128)
        self.assertTrue(0 < apart.mean_kl < 0.5, apart.mean_kl)
        self.assertEqual(apart.token_kl.shape, (apart.tokens,))
        self.assertEqual(nfloat.divergence(plain, plain, ids, context=128).max_kl, 0)
        json.dumps(apart.to_dict())
        data = self.path / "lambada.jsonl"
        data.write_text('{"text": "The king had a daughter and the king was happy"}\n')
        self.assertEqual(nfloat.evaluate_task(self.model, "lambada", data).questions, 1)
        with self.assertRaises(nfloat.InvalidArgumentError):
            nfloat.perplexity(self.model, "short")

    def test_formats_compared(self):
        text = "Once upon a time there was a king who had a daughter. " * 30
        seen = []
        result = nfloat.compare_formats(TINY, text, formats=["nf4:64", "q8_0", "nf4:128"], context=128, progress=seen.append)
        rows = {row["name"]: row for row in result.records()}
        self.assertEqual(len(rows), 3)
        self.assertLess(rows["q8_0"]["mean_kl"], rows["nf4:64"]["mean_kl"])
        self.assertIn(result.best, rows)
        self.assertEqual((seen[-1].done, seen[-1].total, seen[-1].unit), (4, 4, "formats"))
        self.assertIn("<table>", result._repr_html_())
        result.report(self.path / "report.html")
        self.assertIn("</html>", (self.path / "report.html").read_text())
        with self.assertRaises(nfloat.NotFoundError):
            nfloat.compare_formats(TINY, text, formats=["nf99"], context=128)

    def test_devices(self):
        self.assertEqual(nfloat.Model.load(TINY, device="cpu").device, "cpu")
        for name, kind in (("abacus", nfloat.InvalidArgumentError), ("", nfloat.InvalidArgumentError), ("vulkan:99", nfloat.NotFoundError)):
            with self.assertRaisesRegex(kind, f"{name}.*cpu"):
                nfloat.Model.load(TINY, device=name)
        with self.assertRaises(TypeError):
            nfloat.Model.load(TINY, device=0)
        try:
            card = nfloat.Model.load(TINY, device="vulkan", precision="f32")
        except nfloat.NotFoundError as error:
            self.skipTest(str(error))
        self.assertEqual(card.device, "vulkan:0")
        wanted = nfloat.Model.load(TINY, device="cpu", precision="f32").generate("The old", max_tokens=8, temperature=0).result().tokens
        self.assertEqual(card.generate("The old", max_tokens=8, temperature=0).result().tokens, wanted)

    def test_closed_and_missing(self):
        with nfloat.Model.load(TINY) as model:
            session = model.session(context=8)
        session.decode(1)
        with self.assertRaises(ValueError):
            model.session(context=8)
        with self.assertRaises(nfloat.NotFoundError):
            nfloat.Model.load(self.path / "nothing")
        with self.assertRaises(nfloat.InvalidArgumentError):
            self.model.session(context=8).prefill([1, 1 << 20])
        with self.assertRaises(nfloat.InvalidArgumentError):
            self.model.session(context=8).prefill(range(9))


class Interrupted(InFolder):
    def setUp(self):
        super().setUp()
        self.model = nfloat.Model.load(TINY, threads=1)
        self.text = self.model.tokenizer.encode("Once upon a time there was a king. " * 6000)
        # Whatever the tests were started with: a script's background ignores it.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

    def watcher(self, control, act):
        """A thread that acts as soon as a part of a call is done."""

        def watch():
            late = time.monotonic() + 600
            while control.progress.done == 0 and time.monotonic() < late:
                time.sleep(0.001)
            act()

        return threading.Thread(target=watch, daemon=True)

    def once_at_work(self, control, act):
        thread = self.watcher(control, act)
        thread.start()
        self.addCleanup(thread.join)

    def interrupt(self):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def interrupted(self, call, thread):
        """The processor's seconds of a call that is ended by Ctrl-C, which the thread gives; None where the call came to its end first, as it
        may on a busy machine."""
        ended, taken, begin = False, None, time.process_time()
        try:
            thread.start()
            call()
            ended = True
            thread.join()
            time.sleep(1)
        except KeyboardInterrupt:
            taken = time.process_time() - begin
        thread.join()
        return None if ended else taken

    def expect_interrupted(self, call, delay, most, before=lambda: None):
        """Ctrl-C so many seconds after the beginning ends the call, which then has taken at most so many of the processor's."""
        for _ in range(10):
            before()
            taken = self.interrupted(call, threading.Timer(delay, self.interrupt))
            if taken is not None and taken < most:
                return
        self.fail(f"it took {taken} s of at most {most}")

    def test_control_c(self):
        control = nfloat.Control()
        self.once_at_work(control, self.interrupt)
        with self.assertRaises(KeyboardInterrupt):
            nfloat.perplexity(self.model, self.text, control=control)
        self.assertLess(control.progress.done, control.progress.total)
        self.model.session(context=8).decode(1)

    def test_control_c_leaves_a_session_as_before(self):
        for _ in range(10):
            session = self.model.session(precision="f32", threads=1)
            session.prefill(self.text[:5])
            control = nfloat.Control()
            rest = self.text[5 : self.model.context]
            self.interrupted(lambda: session.prefill(rest, control=control), self.watcher(control, self.interrupt))
            if session.position < self.model.context:
                break
        self.assertEqual((session.position, list(session.tokens)), (5, self.text[:5]))

    def test_control_c_in_a_batch(self):
        whole = self.text[: self.model.context]
        sessions = [self.model.session(precision="f32", threads=1) for _ in range(4)]
        begin = time.process_time()  # the processor's, whatever else the machine does
        nfloat.forward_batch(sessions, [whole] * 4)
        seconds = time.process_time() - begin

        def rewind():
            for session in sessions:
                session.rewind(0)

        self.expect_interrupted(lambda: nfloat.forward_batch(sessions, [whole] * 4), min(0.05, seconds / 4), 0.2 + 0.7 * seconds, rewind)
        self.assertEqual([(s.position, len(s.tokens)) for s in sessions], [(0, 0)] * 4)
        self.assertEqual(sessions[0].prefill([1]).tobytes(), self.model.session(precision="f32", threads=1).decode(1).tobytes())

    def test_control_c_in_calls_without_control(self):
        """On inputs that grow until the call takes long."""
        text = "Once upon a time there was a king who had 1001 daughters. "
        tensor = nfloat.quantize_blockwise(pattern(256, 256))
        matrix, form = nfloat.PackedMatrix.pack(tensor), nfloat.make_format("nf4:64:search")
        ids = self.model.tokenizer.encode_array(text)

        def weights(times):
            return np.tile(pattern(256, 256), (times, 1))

        for name, give, call in (
            ("quantize", weights, lambda some: nfloat.quantize_blockwise(some, scale="search", threads=1)),
            ("dequantize", lambda times: nfloat.quantize_blockwise(weights(times)), lambda some: nfloat.dequantize_blockwise(some, threads=1)),
            ("convert", weights, lambda some: nfloat.convert_elements(some, "float16")),
            ("round_trip", weights, lambda some: form.round_trip(some, threads=1)),
            ("linear", weights, lambda some: nfloat.linear(matrix, some, precision="f32", threads=1)),
            ("linear_transposed", weights, lambda some: nfloat.linear_transposed(matrix, some, precision="f32", threads=1)),
            ("encode", lambda times: text * 64 * times, self.model.tokenizer.encode),
            ("decode", lambda times: np.tile(ids, 64 * times), self.model.tokenizer.decode),
        ):
            with self.subTest(name):
                seconds, times = 0.0, 8
                while seconds < 0.25 and times < 1 << 14:
                    times *= 2
                    some = give(times)
                    begin = time.process_time()  # the processor's, whatever else the machine does
                    call(some)
                    seconds = time.process_time() - begin
                self.expect_interrupted(lambda: call(some), min(0.05, seconds / 8), 0.1 + 0.7 * seconds)
        self.assertEqual(nfloat.quantize_blockwise(pattern(256, 256)).codes.tobytes(), tensor.codes.tobytes())

    def test_cancelled_from_another_thread(self):
        control = nfloat.Control()
        self.once_at_work(control, control.cancel)
        with self.assertRaises(nfloat.CancelledError):
            nfloat.perplexity(self.model, self.text, control=control)
        self.assertLess(control.progress.done, control.progress.total)

    def test_one_thread_at_a_time(self):
        session = self.model.session(threads=1)
        seen = []

        def read():
            try:
                session.prefill(self.text[:500])
                session.rewind(0)
            except RuntimeError as error:
                seen.append(error)

        for _ in range(50):  # until two of them read at once, which a busy machine may let them do one after the other
            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if seen:
                break
        self.assertGreaterEqual(len(seen), 1)

    def test_a_child_after_fork_works(self):
        weights = pattern(512, 512)
        wanted = nfloat.quantize_blockwise(weights, threads=2).codes.tobytes()
        child = os.fork()
        if child == 0:
            os._exit(0 if nfloat.quantize_blockwise(weights, threads=2).codes.tobytes() == wanted else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)


if __name__ == "__main__":
    unittest.main()
