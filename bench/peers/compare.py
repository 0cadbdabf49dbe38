# SPDX-License-Identifier: Apache-2.0
"""Interleaved rounds of nfloat and other programs on the same shapes: medians, ratios, shares of the machine's limits.

Run it through bench/peers/run, which gets and builds the other programs.
"""
import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import time

NFLOAT = "build/release/bin/nfloat"
LIKE = {"avx2": "haswell", "avxvnni": "alderlake"}  # nfloat's target: llama.cpp's library for the same instructions
SHAPES = [(4096, 4096, 1), (14336, 4096, 1), (4096, 4096, 8), (4096, 4096, 64), (4096, 4096, 512)]


def call(command, cwd=None, environment=None):
    """Standard output of a program; its failure ends the run."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}")
    return done.stdout


def objects(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def nfloat(options, *arguments):
    """The JSON that nfloat prints, on the target that --like names."""
    return json.loads(call([NFLOAT, *arguments, "--json"], environment={"NFLOAT_TARGET": options.like} if options.like else None))


def llama_cpp_libraries(work, like):
    """The folder llama.cpp loads its CPU libraries from: with --like a copy that has but one of them."""
    whole = f"{work}/llama_cpp/package/bins/linux-x64"
    if not like:
        return whole
    folder = f"{work}/llama_cpp/like-{like}"
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(whole):
        other = name.startswith("libggml-cpu-") and name != f"libggml-cpu-{LIKE[like]}.so"
        if not other and not os.path.exists(f"{folder}/{name}"):
            os.link(f"{whole}/{name}", f"{folder}/{name}")
    return folder


class Kernels:
    """Products, quantizers, limits: one median of every program a round."""

    def __init__(self, options):
        self.options = options
        self.limits = collections.defaultdict(list)  # (name, threads): rates
        self.rates = collections.defaultdict(list)  # (operation or shape, threads, program): 10^9 a second

    def round(self):
        work, seconds, memory = self.options.work, str(self.options.seconds), str(self.options.memory)
        for threads in self.options.threads:
            self.own(threads)
            if os.path.exists(f"{work}/llama_cpp_kernels"):
                libraries = llama_cpp_libraries(work, self.options.like)
                self.take(objects(call([f"{work}/llama_cpp_kernels", libraries, str(threads), seconds, memory])))
            if self.options.like:
                continue  # the others choose their instructions themselves
            if os.path.isdir(f"{work}/node_modules/onnxruntime-node"):
                program = os.path.abspath("bench/peers/onnxruntime_kernels.mjs")
                self.take(objects(call(["node", program, str(threads), seconds, memory], cwd=work)))
            if os.path.exists(f"{work}/onednn_kernels"):
                self.take(objects(call([f"{work}/onednn_kernels", seconds, memory], environment={"OMP_NUM_THREADS": str(threads)})))

    def own(self, threads):
        everything = nfloat(self.options, "bench", "kernels", "--threads-list", str(threads), "--memory", str(self.options.memory),
                            "--seconds", str(30 * self.options.seconds))
        for name, value in everything["limits"][0].items():
            self.limits[name, threads].append(value)
        for row in everything["results"]:
            name = row["name"]
            key = (name, "quantize or dequantize")
            if " by " in name:
                shape, _, kind = name.partition(" by ")
                n, k = map(int, shape.split("x"))
                m, _, kind = kind.partition(" row")
                key = ((n, k, int(m)), "nfloat NF4 " + kind.partition(", ")[2])
            self.rates[key[0], threads, key[1]].append(row["rate"])

    def take(self, rows):
        for row in rows:
            if row["operation"] == "quantize":
                self.rates["quantize", row["threads"], row["peer"]].append(row["weights"] / row["seconds"] / 1e9)
            else:
                n, k, m = row["n"], row["k"], row["m"]
                work = n * k if m == 1 else 2 * n * k * m
                self.rates[(n, k, m), row["threads"], row["peer"]].append(work / row["seconds"] / 1e9)

    def result(self):
        return {
            "limits": [{"name": name, "threads": threads, "median": statistics.median(values), "rounds": values}
                       for (name, threads), values in self.limits.items()],
            "rows": [{"what": "x".join(map(str, what)) if isinstance(what, tuple) else what, "threads": threads, "program": program,
                      "unit": "GOP/s" if isinstance(what, tuple) and what[2] > 1 else "Gw/s",
                      "median": statistics.median(values), "rounds": values} for (what, threads, program), values in self.rates.items()],
        }

    def table(self):
        medians = {key: statistics.median(values) for key, values in self.rates.items()}
        lines = []
        for name in dict.fromkeys(name for name, _ in self.limits):
            if name not in ("threads", "memory_bytes", "region_seconds"):
                lines.append([name.replace("_", " ")] + [f"{statistics.median(self.limits[name, t]):.4g}" for t in self.options.threads])
        aligned("limit of this machine", self.options.threads, lines)
        for shape in SHAPES:
            programs = dict.fromkeys(program for what, _, program in medians if what == shape)
            fastest = {t: max((medians[shape, t, p] for p in programs if rival(p) and (shape, t, p) in medians), default=0)
                       for t in self.options.threads}
            lines = []
            for program in sorted(programs, key=lambda p: -medians.get((shape, self.options.threads[0], p), 0)):
                cells = [program]
                for threads in self.options.threads:
                    rate = medians.get((shape, threads, program))
                    ratio = f" {rate / fastest[threads]:6.2f}x" if rate and fastest[threads] else ""
                    cells.append(f"{rate:8.4g}{ratio}" if rate else "-")
                lines.append(cells)
            unit = "Gw/s" if shape[2] == 1 else "GOP/s"
            aligned(f"{shape[0]}x{shape[1]} by {shape[2]}: {unit}, beside the fastest rival with 4-bit weights", self.options.threads, lines)
        lines = []
        for what, program in dict.fromkeys((what, program) for what, _, program in medians if isinstance(what, str)):
            name = f"{program} {what}" if what == "quantize" else f"nfloat {what}"
            lines.append([name] + [f"{medians[what, t, program]:.3g}" if (what, t, program) in medians else "-" for t in self.options.threads])
        aligned("quantize, dequantize: Gw/s; pack: GB/s", self.options.threads, lines)


class Models:
    """Prefill and generation of the synthetic model of one billion weights."""

    def __init__(self, options):
        self.options = options
        self.rates = collections.defaultdict(list)  # (test, threads, program): tokens a second
        self.peaks = {}
        files = {kind: llama_cpp_model(options, kind) for kind in ("q4_0", "iq4_nl", "q4_K")}
        self.files = {kind: path for kind, path in files.items() if path}

    def round(self):
        for threads in self.options.threads:
            for precision in ("int8", "bf16"):
                everything = nfloat(self.options, "bench", "--synthetic", "1b", "--no-limit", "--threads-list", str(threads), "--precision-list",
                                    precision, "--prefill", "512", "--generate", "64", "--repetitions", "1")
                for row in everything["results"]:
                    self.rates[row["test"].split()[0], threads, f"nfloat NF4, 8-bit scales, {precision}"].append(row["tokens_per_second"])
            for kind, path in self.files.items():
                libraries = llama_cpp_libraries(self.options.work, self.options.like)
                row = objects(call([f"{self.options.work}/llama_cpp_model", "run", path, libraries, str(threads), "512", "64", "1"]))[0]
                for test in ("prefill", "generate"):
                    self.rates[test, threads, f"llama.cpp {kind}"].append(statistics.median(row[test]))

    def result(self):
        return {"rows": [{"test": test, "threads": threads, "program": program, "unit": "tokens/s", "median": statistics.median(values),
                          "rounds": values} for (test, threads, program), values in self.rates.items()]}

    def table(self):
        medians = {key: statistics.median(values) for key, values in self.rates.items()}
        for test in ("prefill", "generate"):
            programs = dict.fromkeys(program for what, _, program in medians if what == test)
            fastest = {t: max((medians[test, t, p] for p in programs if rival(p)), default=0) for t in self.options.threads}
            lines = [[program] + [f"{medians[test, t, program]:7.1f}" + (f" {medians[test, t, program] / fastest[t]:6.2f}x" if fastest[t] else "")
                                  for t in self.options.threads] for program in programs]
            aligned(f"{test}: tokens/s, beside the fastest rival", self.options.threads, lines)


class Batches:
    """Sequences of the same model that are continued together: nfloat's engine, one batch of llama.cpp's library a step."""

    SEQUENCES = (1, 2, 4, 8)
    PROMPT, TOKENS = 128, 64

    def __init__(self, options):
        self.options = options
        self.options.threads = options.threads[-1:]
        self.rates = collections.defaultdict(list)  # (sequences, program): tokens a second
        self.file = llama_cpp_model(options, "q4_0")

    def round(self):
        threads, prompt, tokens = str(self.options.threads[0]), str(self.PROMPT), str(self.TOKENS)
        for row in objects(call(["build/release/bin/serve_bench", "streams", "--json", "--threads", threads, "--rounds", "1", "--prompt", prompt,
                                 "--tokens", tokens, "--streams", ",".join(map(str, self.SEQUENCES))],
                                environment={"NFLOAT_TARGET": self.options.like} if self.options.like else None)):
            if row["what"].endswith(", generation"):
                self.rates[int(row["what"].split()[0]), "nfloat NF4, 8-bit scales, int8"].append(row["median"])
        for sequences in self.SEQUENCES if self.file else ():
            libraries = llama_cpp_libraries(self.options.work, self.options.like)
            row = objects(call([f"{self.options.work}/llama_cpp_model", "batch", self.file, libraries, threads, str(sequences), prompt, tokens, "1"]))[0]
            self.rates[sequences, "llama.cpp q4_0"].append(statistics.median(row["generate"]))

    def result(self):
        return {"threads": self.options.threads[0], "rows": [{"sequences": sequences, "program": program, "unit": "tokens/s",
                "median": statistics.median(values), "rounds": values} for (sequences, program), values in self.rates.items()]}

    def table(self):
        medians = {key: statistics.median(values) for key, values in self.rates.items()}
        programs = dict.fromkeys(program for _, program in medians)
        lines = [[program] + [f"{medians[n, program]:7.1f}" for n in self.SEQUENCES] for program in programs]
        if len(lines) > 1:
            lines.append(["beside"] + [f"{medians[n, list(programs)[0]] / medians[n, list(programs)[1]]:6.2f}x" for n in self.SEQUENCES])
        aligned(f"sequences together behind prompts of {self.PROMPT}, {self.options.threads[0]} threads: tokens/s of all", self.SEQUENCES, lines,
                "sequence")


def llama_cpp_model(options, kind):
    """The synthetic model as a GGUF file of llama.cpp's making; nothing where llama.cpp is not here."""
    if not os.path.exists(f"{options.work}/llama_cpp_model"):
        return None
    path = f"{options.work}/{kind}.gguf"
    if not os.path.exists(path):
        call([f"{options.work}/llama_cpp_model", "make", kind, path + ".part"])
        os.rename(path + ".part", path)
    return path


def rival(program):
    return not program.startswith(("nfloat", "oneDNN"))  # oneDNN's weights are dense


def aligned(title, numbers, lines, unit="thread"):
    if not lines:
        return
    lines = [[title] + [f"{n} {unit}{'s' if n > 1 else ''}" for n in numbers]] + lines
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))))


def main():
    parser = argparse.ArgumentParser(prog="bench/peers/run", description="nfloat beside its rivals, in interleaved rounds.")
    parser.add_argument("what", choices=("kernels", "model", "batch"), help="kernels: quantize, dequantize, products. model: a synthetic "
                        "model of 1.04 billion weights, tokens a second. batch: the same for 1 to 8 sequences together, with the last of --threads")
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs; medians are told (5)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (1,2)")
    parser.add_argument("--seconds", type=float, default=0.5, help="kernels: time for each row in a round (0.5)")
    parser.add_argument("--memory", type=int, default=1024, help="kernels: MiB of weights passed over; more than any cache (1024)")
    parser.add_argument("--like", choices=tuple(LIKE), help="both restricted to one instruction set: nfloat's target of that name and "
                        "llama.cpp's library for it; others are left out")
    parser.add_argument("--json", metavar="FILE", help="everything measured, every round")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.threads = [int(number) for number in options.threads.split(",")]
    if options.rounds < 1 or min(options.threads) < 1:
        parser.error("--rounds and --threads count from 1")
    test = {"kernels": Kernels, "model": Models, "batch": Batches}[options.what](options)
    begin = time.monotonic()
    for i in range(options.rounds):
        test.round()
        if sys.stderr.isatty():
            spent = time.monotonic() - begin
            print(f"round {i + 1} of {options.rounds}, {spent:.0f} s, about {spent / (i + 1) * (options.rounds - i - 1):.0f} s left", file=sys.stderr)
    test.table()
    if options.json:
        with open(options.json + ".part", "w", encoding="utf-8") as file:
            json.dump({"what": options.what, "like": options.like, "rounds": options.rounds, **test.result()}, file, indent=1)
        os.replace(options.json + ".part", options.json)


main()
