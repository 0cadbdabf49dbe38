# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu_check on a machine whose card, tools and programs are all imagined: order, counting, limits, results, exit statuses."""
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PROGRAMS = ("nfloat", "engine_conformance")
TOOLS = ("nvidia-smi", "compute-sanitizer", "ncu")
# All but those that PyTorch computes.
STAGES = ["kernels", "engine", "vulkan", "convert", "sanitizer", "bench", "engine_bench", "vulkan_bench", "model_bench", "ncu"]


class DryRun(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="dry_run.")
        self.addCleanup(shutil.rmtree, self.folder)
        self.bundle, self.tools = self.path("bundle"), self.path("tools")
        shutil.copytree(os.path.join(ROOT, "scripts", "gpu"), os.path.join(self.bundle, "gpu"), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(os.path.join(ROOT, "scripts", "gpu_check"), self.bundle)
        os.makedirs(os.path.join(self.bundle, "tests", "cuda"))
        os.makedirs(os.path.join(self.bundle, "bin"))
        os.makedirs(os.path.join(self.bundle, "models"))
        os.symlink(os.path.join(ROOT, "models", "nfloat-tiny"), os.path.join(self.bundle, "models", "nfloat-tiny"))
        with open(os.path.join(self.bundle, "commit"), "w") as file:
            file.write("abcdef0-dirty\n")
        os.makedirs(self.tools)
        fake = os.path.join(HERE, "fake_program")
        for name in TOOLS:
            os.symlink(fake, os.path.join(self.tools, name))
        for name in PROGRAMS:
            os.symlink(fake, os.path.join(self.bundle, "bin", name))
        os.symlink(fake, os.path.join(self.bundle, "device"))
        self.write_golden()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write_golden(self):
        with open(os.path.join(ROOT, "models", "nfloat-tiny", "reference.json")) as file:
            golden = json.load(file)
        for code in ("plain", "nf4"):
            logits = golden[code]["last_logits"]
            total = max(logits) + math.log(sum(math.exp(one - max(logits)) for one in logits))
            top = sorted(range(len(logits)), key=lambda i: -logits[i])[:5]
            found = {"device": {}, "tokens": golden[code]["greedy_32"], "logprobs": [{"top": [{"id": i, "logprob": logits[i] - total} for i in top]}]}
            with open(self.path("golden." + code), "w") as file:
                json.dump(found, file)

    def environment(self, faults=()):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "NFLOAT_"))}
        return {**kept, "PATH": self.tools + ":" + os.environ["PATH"], "FAKE_CALLS": self.path("calls"), "FAKE_FAULTS": "\n".join(faults),
                "FAKE_BENCH": os.path.join(ROOT, "bench", "gpu.json"), "FAKE_GOLDEN": self.path("golden"), "TMPDIR": self.folder}  # fmt: skip

    def command(self, *arguments):
        return [sys.executable, os.path.join(self.bundle, "gpu_check"), "--out", self.path("out"), *arguments]

    def start(self, *arguments, faults=()):
        return subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(faults))

    def check(self, *arguments, faults=(), only=STAGES):
        done = subprocess.run(self.command("--only", ",".join(only), *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=self.environment(faults), timeout=400)  # fmt: skip
        self.assertEqual([name for name in os.listdir(self.folder) if name.startswith("gpu_check.")], [], "work files are left")
        return done.returncode, done.stdout

    def result(self):
        with open(self.path("out/gpu.json")) as file:
            return json.load(file)

    def calls(self):
        if not os.path.exists(self.path("calls")):
            return ""
        with open(self.path("calls")) as file:
            return file.read()

    def test_all_is_well(self):
        status, text = self.check(only=list(reversed(STAGES)))
        self.assertEqual(status, 0, text)
        result = self.result()
        self.assertEqual(list(result["stages"]), STAGES, "not in their order")
        self.assertEqual(result["tests"]["failures"], [])
        self.assertEqual(result["device"], "Imaginary GPU 0")
        self.assertEqual(result["commit"], "abcdef0-dirty")
        self.assertEqual(result["card"]["power.limit"], "700.00 W")
        self.assertEqual(result["cuda"]["conformance"], 3)
        self.assertIn("1b without matrix units", result["vulkan"]["bench"])
        self.assertEqual(result["vulkan"]["device"]["name"], "vulkan:1", "a processor was taken for a card")
        # 13 launches a token, 6 layers.
        self.assertEqual(result["launches"], {"a_token": 13.0, "layers": 6})
        lines = text.splitlines()
        begin = next(i for i, line in enumerate(lines) if line.startswith("figure"))
        self.assertLessEqual(len(lines) - begin, 61)
        wanted = {"generate, 8b": "400 tokens/s  at least 350 (430)       met", "generate, 1b": "missed", "launches of a token": "target met",
                  "dequantize to bf16": "target met", "prompt of 512": "met", "Vulkan / CUDA, generate": "target met"}  # fmt: skip
        for what, verdict in wanted.items():
            self.assertTrue(next(line for line in lines[begin:] if line.startswith(what)).endswith(verdict), text)
        self.assertIn("passed, 0 failed", lines[-1])
        with open(self.path("out/gpu.log")) as file:
            self.assertIn("vulkan one row", file.read())

    def test_faults_are_counted_and_named(self):
        status, text = self.check(faults=["device conformance: fail", "engine_conformance Products: crash", "nfloat 8b: crash", "compute-sanitizer racecheck: fail"])
        self.assertEqual(status, 1, text)
        failures = self.result()["tests"]["failures"]
        names = [failure.split(":")[0] for failure in failures]
        self.assertEqual([name for name in names if name.startswith("kernels, seed")], names[:2])
        self.assertIn("3 of 4 outputs differ", failures[0])
        crashed = next(failure for failure in failures if failure.startswith("cuda conformance"))
        self.assertIn("SIGSEGV", crashed)
        self.assertIn("Products/cuda_0", crashed)
        alone = self.result()["cuda"]["alone"]
        self.assertEqual(list(alone), ["Devices/EngineConformance.Products/cuda_0"])
        self.assertIn("SIGSEGV", alone["Devices/EngineConformance.Products/cuda_0"])
        self.assertEqual(self.result()["cuda"]["conformance"], 2, "what stands behind a crash has not run")
        for name in ("cuda 8b", "vulkan 8b", "compute-sanitizer racecheck, kernels", "compute-sanitizer racecheck, engine"):
            self.assertIn(name, names)
        self.assertEqual(list(self.result()["stages"]), STAGES, "a fault ended what follows")
        self.assertEqual(len(failures), 8, failures)

    def test_wrong_answers_fail(self):
        with open(self.path("golden.nf4")) as file:
            found = json.load(file)
        found["logprobs"][0]["top"][0]["logprob"] += 0.002
        found["tokens"][3] += 1
        with open(self.path("golden.nf4"), "w") as file:
            json.dump(found, file)
        status, text = self.check(only=["engine"])
        self.assertEqual(status, 1, text)
        names = [failure.split(":")[0] for failure in self.result()["tests"]["failures"]]
        self.assertEqual(names, ["cuda greedy tokens, nf4", "cuda golden logits, nf4, f32"])

    def test_hanging_ends_with_the_time(self):
        # So many seconds that this machine, whatever else it does, comes to the command that hangs.
        for seconds in (4, 16, 64):
            child = self.start("--only", ",".join(STAGES), "--seconds", str(seconds), faults=["engine_conformance Products: hang", "ncu x: hang"])
            text = child.communicate(timeout=seconds + 400)[0]
            if "engine_conformance" in self.calls():
                break
        self.assertEqual(child.returncode, 0, text)
        self.assertIn("kernels", self.result()["stages"])
        skipped = self.result()["tests"]["skipped"]
        self.assertIn(f"cuda conformance: the {seconds} s of this check are over", skipped)
        self.assertIn(f"bench: the {seconds} s of this check are over", skipped)
        self.assertIn("not measured", text)
        self.assert_no_process_is_left()

    @contextlib.contextmanager
    def running(self, seconds):
        """A Running of scripts/gpu in this process."""
        sys.path.insert(0, os.path.join(ROOT, "scripts", "gpu"))
        self.addCleanup(sys.path.pop, 0)
        from running import Running

        run = Running(self.path("own"), seconds)
        try:
            yield run
        finally:
            run.log.close()
            shutil.rmtree(run.work)

    def test_a_command_that_hangs_is_ended_alone(self):
        environment = self.environment(["device conformance: hang"])
        with self.running(600) as run:
            done = run.command([os.path.join(self.bundle, "device"), "conformance", "7"], 1, environment)
            self.assertTrue(done.outlasted)
            self.assertLess(done.seconds, 60)
            self.assert_no_process_is_left()
            run.stage_end = time.monotonic() + 0.6
            run.count_run("one that had too little time", run.command([os.path.join(self.bundle, "device"), "conformance", "7"], 20, environment), hangs=True)
            run.count_run("one that had none", run.command([os.path.join(self.bundle, "device"), "conformance", "7"], 20, environment), hangs=True)
            run.stage_end = time.monotonic() + 60
            self.assertEqual(run.command(["/no/such/program"], 1).status, 127)
            run.count_run("one that may be slow", done)
            run.count_run("one that may not", done, hangs=True)
            self.assertEqual(run.result["tests"]["skipped"], ["one that had too little time: the time of its stage is over",
                                                              "one that had none: the time of its stage is over", "one that may be slow: outlasted its 1 s"])  # fmt: skip
            self.assertEqual(run.result["tests"]["failed"], 1)
            self.assertIn("outlasted its 1 s", run.result["tests"]["failures"][0])

    def processes(self):
        """Of this test's folder: those that know it by their environment, and have not ended."""
        found = []
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{process}/environ", "rb") as file:
                    if os.fsencode(self.path("calls")) in file.read() and int(process) != os.getpid():
                        with open(f"/proc/{process}/stat") as stat:
                            if stat.read().rsplit(")", 1)[1].split()[0] != "Z":
                                found.append(process)
            except OSError:
                pass
        return found

    def assert_no_process_is_left(self):
        """Soon: one that was killed takes a moment to end, and only a child can be waited for."""
        for _ in range(5000):
            left = self.processes()
            if not left:
                return
            time.sleep(0.02)
        self.fail(f"processes {left} are left")

    def test_ended_from_outside_leaves_results(self):
        child = self.start("--only", "kernels,engine", faults=["engine_conformance Products: hang"])
        while "engine_conformance" not in self.calls() and child.poll() is None:
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        text = child.communicate(timeout=400)[0]
        self.assertEqual(child.returncode, 1, text)
        self.assertIn("kernels", self.result()["stages"])
        self.assertIn("ended from outside", self.result()["tests"]["failures"][0])
        self.assert_no_process_is_left()

    def test_a_signal_at_the_start_of_a_command_ends_it_too(self):
        with self.running(60) as run:
            popen = subprocess.Popen

            def start_and_signal(*arguments, **named):
                child = popen(*arguments, **named)
                signal.raise_signal(signal.SIGTERM)
                return child

            before = signal.signal(signal.SIGTERM, run.stop)
            subprocess.Popen = start_and_signal
            try:
                with self.assertRaises(SystemExit):
                    run.command([os.path.join(self.bundle, "device"), "conformance", "7"], 20, self.environment(["device conformance: hang"]))
            finally:
                subprocess.Popen = popen
                signal.signal(signal.SIGTERM, before)
        self.assert_no_process_is_left()

    def test_nothing_to_do_is_77(self):
        shutil.rmtree(os.path.join(self.bundle, "bin"))
        self.put_tool("nvidia-smi", "echo no devices were found; exit 6")
        status, text = self.check()
        self.assertEqual(status, 77, text)
        self.assertIn("kernels: no NVIDIA driver: no devices were found", self.result()["tests"]["skipped"])
        self.assertTrue(any("no nfloat here or carried" in one for one in self.result()["tests"]["skipped"]))

    def test_engines_need_no_device_program(self):
        os.remove(os.path.join(self.bundle, "device"))
        self.put_tool("nvcc", "echo this card is not known; exit 1")
        status, text = self.check(only=["kernels", "engine", "sanitizer"])
        self.assertEqual(status, 1, text)
        result = self.result()
        self.assertEqual(len(result["tests"]["failures"]), 1)
        self.assertIn("this card is not known", result["tests"]["failures"][0])
        self.assertEqual(result["tests"]["skipped"], ["kernels: no device program: it could not be compiled here"])
        self.assertEqual(result["cuda"]["conformance"], 3)
        self.assertIn("compute-sanitizer --tool memcheck --error-exitcode 9 " + os.path.join(self.bundle, "bin", "engine_conformance"), self.calls())

    def put_tool(self, name, script):
        path = os.path.join(self.tools, name)
        if os.path.lexists(path):
            os.remove(path)
        with open(path, "w") as file:
            file.write("#!/bin/sh\n" + script + "\n")
        os.chmod(path, 0o755)

    def test_one_device_alone(self):
        status, text = self.check("--device", "vulkan:0", only=["kernels", "engine", "vulkan"])
        self.assertEqual(self.result()["vulkan"]["device"]["name"], "vulkan:0", text)
        self.assertEqual(self.result()["tests"]["skipped"], ["kernels: --device names vulkan:0", "engine: --device names vulkan:0"])
        self.assertNotIn("nvidia-smi", self.calls())
        self.assertEqual(status, 0, text)

    def test_the_second_card(self):
        status, text = self.check("--device", "cuda:1", only=["kernels", "engine_bench", "vulkan"])
        self.assertEqual(status, 0, text)
        self.assertEqual(self.result()["device"], "Imaginary GPU 1")
        self.assertEqual(self.result()["cuda"]["device"]["name"], "cuda:1")
        self.assertIn("card 1", self.calls())
        self.assertNotIn("card 0", self.calls())
        self.assertIn("nfloat bench --synthetic 8b --head int8 --repetitions 3 --device cuda:1 --json", self.calls())
        self.assertEqual(self.result()["tests"]["skipped"], ["vulkan: --device names cuda:1"])

    def test_baseline(self):
        self.check(only=["bench", "engine_bench"])
        past = self.result()
        for row in past["bench"]:
            row["us"] *= 2
        past["cuda"]["bench"]["1b"]["results"][1]["tokens_per_second"] *= 4
        with open(self.path("past.json"), "w") as file:
            json.dump(past, file)
        status, text = self.check("--baseline", self.path("past.json"), only=["bench", "engine_bench"])
        self.assertEqual(status, 0, text)
        lines = text.splitlines()
        self.assertTrue(next(line for line in lines if line.startswith("few rows 14336x4096, 1 rows")).endswith("  2.00"), text)
        self.assertTrue(next(line for line in lines if line.startswith("cuda 1b, generate 128")).endswith("  0.25"), text)
        # The results of an earlier version are compared with, too.
        self.assertEqual(self.check("--baseline", os.path.join(ROOT, "bench", "gpu.json"), only=["bench"])[0], 0)

    def test_wrong_arguments(self):
        with open(self.path("bad.json"), "w") as file:
            file.write('{"bench": [1]}')
        for arguments, named in ((("--only", "kernel"), "kernel"), (("--device", "rocm"), "rocm"), (("--device", "cuda:x"), "cuda:x"), (("--baseline", self.path("bad.json")), "bad.json"),
                                 (("--baseline", self.path("none.json")), "none.json")):  # fmt: skip
            done = subprocess.run(self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(), timeout=400)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn(named, done.stdout.splitlines()[-1])

    def test_tools_that_may_not_work(self):
        self.put_tool("ncu", "echo '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission' >&2; exit 1")
        self.put_tool("compute-sanitizer", "echo '========= Error: Device not supported. Please refer to the manual'; exit 1")
        status, text = self.check(only=["kernels", "sanitizer", "ncu"])
        self.assertEqual(status, 0, text)
        skipped = "\n".join(self.result()["tests"]["skipped"])
        self.assertIn("ERR_NVGPUCTRPERM", skipped)
        self.assertIn("Device not supported", skipped)


if __name__ == "__main__":
    unittest.main()
