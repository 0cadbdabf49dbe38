# SPDX-License-Identifier: Apache-2.0
"""nfloat on a device: its steps against double precision, the embedded model's golden values, a random Llama and its training against
PyTorch."""
import json
import math
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def root_folder():
    """The repository, or the folder that gpu_bundle filled."""
    above = os.path.dirname(HERE)
    return above if os.path.isdir(os.path.join(above, "tests", "cuda")) else os.path.dirname(above)


ROOT = root_folder()
MODEL = os.path.join(ROOT, "models", "nfloat-tiny")
SUITES = {"cuda": "", "vulkan": ":Vulkan.*:VulkanUnits.*"}  # beside those of every device
# Largest difference of a golden log-probability, by the precision that is run; in bf16 the CPU's differ by 0.01.
GOLDEN = {"f32": 1e-3, "bf16": 0.05}
CONTEXT = 300  # tokens of the random Llama's text: three pages of 128 positions
STEPS = 3
NO_PROGRAMS = "no nfloat here or carried (scripts/gpu_bundle after a build of the preset release)"


def programs():
    """The folder of nfloat and engine_conformance, carried, or the one that was built last; their environment."""
    carried = os.path.join(ROOT, "bin")
    folders = [folder for folder in [carried] + [os.path.join(ROOT, "build", name, "bin") for name in ("cuda", "release")] if os.path.exists(os.path.join(folder, "nfloat"))]
    if not folders:
        return None, None
    own = dict(os.environ)
    if folders[0] == carried:
        own["LD_LIBRARY_PATH"] = os.path.join(ROOT, "lib") + ":" + own.get("LD_LIBRARY_PATH", "")
        return carried, own
    return max(folders, key=lambda folder: os.path.getmtime(os.path.join(folder, "nfloat"))), own


def give_driver(run, environment):
    """Containers have NVIDIA's driver of Vulkan, and often not the file that names it to the loader where that looks, nor what X needs."""
    folders = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
    named = any("nvidia" in file for folder in folders if os.path.isdir(folder) for file in os.listdir(folder))
    if named or "VK_DRIVER_FILES" in environment or "VK_ADD_DRIVER_FILES" in environment:
        return
    for library in ("libGLX_nvidia.so.0", "libEGL_nvidia.so.0"):
        done = run.command([sys.executable, "-c", f"import ctypes; ctypes.CDLL('{library}')"], 20, environment)
        if done.status != 0:
            run.result.setdefault("vulkan_driver", {})[library] = done.err.strip().splitlines()[-1][:200] if done.err.strip() else "does not load"
            continue
        path = run.path("nvidia_icd.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"file_format_version": "1.0.0", "ICD": {"library_path": library, "api_version": "1.3.0"}}, file)
        environment["VK_ADD_DRIVER_FILES"] = path
        run.result["vulkan_driver"] = f"{library}, by a file made here"
        return


class Engine:
    """The first card of a kind, "cuda" or "vulkan"; or the device that was named, which may be a processor: `device` is None where there
    is none, and `why_not` says why."""

    def __init__(self, run, kind, named=""):
        self.run, self.kind, self.device = run, kind, None
        self.folder, self.environment = programs()
        self.why_not = NO_PROGRAMS
        self.results = run.result.setdefault(kind, {})
        if self.folder is None:
            return
        give_driver(run, self.environment)
        done = self.command(["nfloat", "version", "--json"], 30)
        if done.status != 0:
            self.why_not = "nfloat does not start: " + done.text.strip()[-300:]
            return
        found = json.loads(done.out)
        run.result["nfloat"] = f"{found['version']} {found['commit']}"
        self.why_not = f"no device {named}" if named else f"no device of {kind} that is a card"
        if kind == "cuda":
            self.why_not += ": was nfloat built with NFLOAT_CUDA=ON?"
        for device in found["devices"]:
            if device["name"] == named == "cpu":
                self.device = {**device, "accelerator": False, "free_bytes": 0}
            if not device["name"].startswith(kind + ":") or named not in ("", kind, device["name"]):
                continue
            done = self.command(["nfloat", "plan", MODEL, "--device", device["name"], "--json"], 30)
            if done.status != 0:
                self.why_not = f"nfloat plan on {device['name']}: " + (run.why_outlasted(done) if done.outlasted else done.text.strip()[-300:])
                continue
            own = json.loads(done.out)["device"]
            if own["accelerator"] or named:
                self.device = own
                break
        if self.device is not None:
            self.results["device"] = self.device
            self.name = self.device["name"]

    @property
    def card(self):
        return self.device["accelerator"]

    def command(self, arguments, limit, **more):
        return self.run.command([os.path.join(self.folder, arguments[0])] + arguments[1:], limit, {**self.environment, **more})


def open_engine(run, args, kind, stage):
    """None, and a skip, where no such device is to be tried."""
    named = args.device if args.device.split(":")[0] == kind else ""
    if args.device and not named:
        run.skip(stage, f"--device names {args.device}")
        return None
    if kind not in args.engines:
        args.engines[kind] = Engine(run, kind, named)
    on = args.engines[kind]
    if on.device is None:
        run.skip(stage, on.why_not)
        return None
    return on


def opened(run, args, stage, kinds):
    return [on for on in (open_engine(run, args, kind, f"{stage} on {kind}" if len(kinds) > 1 else stage) for kind in kinds) if on is not None]


def kinds_of(args):
    return [args.device.split(":")[0]] if args.device else ["cuda", "vulkan"]


def run_suite(on, tested):
    """(output, passed, the others, what ended it): a test that crashes or hangs is left out of the next attempt, which goes on behind it."""
    text, passed, bad, seen, ends = "", [], [], [], []
    for _ in range(4):
        done = on.command(["engine_conformance", f"--gtest_filter={tested}" + ("-" + ":".join(seen) if seen else "")], 120)
        begun = re.findall(r"^\[ RUN      \] (\S+)", done.out, re.M)
        good = set(re.findall(r"^\[       OK \] (\S+?),? ", done.out, re.M))
        skipped = set(re.findall(r"^\[  SKIPPED \] (\S+?),? ", done.out, re.M))
        passed += [name for name in begun if name in good]
        bad += [name for name in begun if name not in good and name not in skipped]
        seen += begun
        text += done.text
        ends.append(done)
        if done.status in (0, 1, 127) or not begun:
            break
    return text, passed, bad, ends


def check_steps(on):
    """Every step against double precision. Those that failed run again, each alone: a card that has met one fault fails in all that
    follows in the same process."""
    run = on.run
    text, passed, bad, ends = run_suite(on, f"*/{on.name.replace(':', '_')}{SUITES[on.kind]}")
    on.results["conformance"] = len(passed)
    worst = next((done for done in ends if done.status != 0), ends[0])
    text += f"\n{len(passed)} tests" + (f", failed or not ended: {', '.join(bad)}" if bad else "")
    run.count_run(f"{on.kind} conformance", worst, worst.status == 0 and len(passed) > 0, text if worst.status else text.splitlines()[-1], hangs=on.card)
    alone = {}
    for name in bad[:12]:
        if run.stage_left() < 25:
            break
        again = on.command(["engine_conformance", f"--gtest_filter={name}"], 20)
        alone[name] = "passes" if again.status == 0 else "does not end" if again.outlasted else "fails: " + again.text.strip()[-600:]
        run.say(f"     alone: {name}: {alone[name].splitlines()[0][:160]}")
    if alone:
        on.results["alone"] = alone


def check_golden(on):
    """The embedded model's numbers, as its trainer gave them."""
    run = on.run
    with open(os.path.join(MODEL, "reference.json"), encoding="utf-8") as file:
        golden = json.load(file)
    for precision, bound in GOLDEN.items():
        for code in ("plain", "nf4"):
            arguments = ["nfloat", "generate", MODEL, "-p", golden["prompt_text"], "-n", "32", "--temperature", "0", "--json",
                         "--logprobs", "5", "--precision", precision, "--ignore-eos", "--device", on.name]  # fmt: skip
            done = on.command(arguments + ([] if code == "plain" else ["--quantize", code]), 60)
            if done.status != 0:
                run.count_run(f"{on.kind} golden, {code}, {precision}", done, hangs=on.card)
                continue
            found = json.loads(done.out)
            if "matrix_units" in found["device"]:
                on.results["matrix_units"] = found["device"]["matrix_units"]
            if precision == "f32":
                run.count(f"{on.kind} greedy tokens, {code}", found["tokens"] == golden[code]["greedy_32"],
                          f"{found['tokens']} in place of {golden[code]['greedy_32']}" if found["tokens"] != golden[code]["greedy_32"] else "32 equal")
            logits = golden[code]["last_logits"]
            total = max(logits) + math.log(sum(math.exp(logit - max(logits)) for logit in logits))
            worst = max(abs(one["logprob"] - (logits[one["id"]] - total)) for one in found["logprobs"][0]["top"])
            run.count(f"{on.kind} golden logits, {code}, {precision}", worst <= bound, f"differ by {worst:.2g} at most, of {bound:g}")


def check_engine(run, args, kind):
    on = open_engine(run, args, kind, kind)
    if on is not None:
        run.say(f"{on.name}: {on.device['model']}" + ("" if on.card else " (a processor)"))
        check_steps(on)
        check_golden(on)
        if "matrix_units" in on.results:
            run.say(f"     matrix units: {on.results['matrix_units']}")


def torch_child(run, what, request, limit, environment=None):
    """Lets PyTorch compute and counts what it says. Whether it came to its end: False also where there is no PyTorch."""
    path = run.path(f"{what}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(request, file)
    done = run.command([sys.executable, "-B", os.path.join(HERE, "torch_checks.py"), what, path], limit, environment)
    rest = []
    for line in done.out.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            rest.append(line)
            continue
        if "skip" in found:
            run.skip(found["skip"], found["why"])
        elif "result" in found:
            for name, value in found["result"].items():
                own = run.result.setdefault("torch", {})
                if isinstance(value, dict):
                    own.setdefault(name, {}).update(value)
                else:
                    own[name] = value
        else:
            run.count(found["name"], found["good"], found["text"])
    if done.status == 3:
        run.skip(f"PyTorch: {what}", rest[-1] if rest else "not installed")
    elif done.status != 0:
        run.count_run(f"PyTorch: {what}", done, False, "\n".join(rest) + "\n" + done.text[len(done.out):])
    return done.status == 0


def random_llama(run, args, any_engine):
    """Folders of a random Llama, plain and in two layouts of 4 bits; made once. None where it cannot be made."""
    if args.llama is None:
        args.llama = {}
        request = {"seed": args.seed, "model": run.path("plain"), "adapter": run.path("adapter"), "rows": run.path("rows.jsonl"),
                "tokenizer": MODEL, "steps": STEPS}  # fmt: skip
        if torch_child(run, "make", request, 60):
            made = {"float scales": [], "8-bit scales": ["--preset", "best"]}
            for number, (name, options) in enumerate(made.items()):
                folder = run.path(f"nf4_{number}")
                done = any_engine.command(["nfloat", "quantize", request["model"], folder, "--quiet"] + options, 60)
                if done.status != 0:
                    run.count_run(f"quantize a random Llama, {name}", done)
                    return None
                made[name] = folder
            args.llama = {**request, "folders": made}
    return args.llama or None


def token_ids(on, text, special):
    done = on.command(["nfloat", "tokenize", MODEL, "--json", "-p", text] + ([] if special else ["--no-special"]), 30)
    return json.loads(done.out)["ids"] if done.status == 0 else []


def scored(run, on, folder, name, precision, texts, new_tokens):
    """Files of what nfloat says of a model's text; None, and a failure, where it does not say it."""
    label = f"{on.name}, {name}, {precision}"
    stem = run.path(f"{on.name}_{name}_{precision}".replace(" ", "_").replace(":", "_"))
    how = ["--precision", precision, "--device", on.name]
    done = on.command(["nfloat", "perplexity", folder, "--text", texts["text"], "--context", str(CONTEXT), "--reference", folder, "--reference-cache",
                       stem + ".p", "--quiet", "--json"] + how, 60)  # fmt: skip
    if done.status != 0:
        run.count_run(f"log-probabilities: {label}", done, hangs=on.card)
        return None
    done = on.command(["nfloat", "generate", folder, "--file", texts["prompt"], "-n", str(new_tokens), "--temperature", "0", "--ignore-eos", "--json",
                       "--logprobs", "200", "--quiet"] + how, 60)  # fmt: skip
    if done.status != 0:
        run.count_run(f"generate: {label}", done, hangs=on.card)
        return None
    with open(stem + ".json", "w", encoding="utf-8") as file:
        file.write(done.out)
    return {"name": label, "precision": precision, "distributions": stem + ".p", "generated": stem + ".json", "context": CONTEXT}


def llama_on(run, args, stage):
    """The engines of a stage and the random Llama that it compares; None where there is none, which has been said."""
    engines = opened(run, args, stage, kinds_of(args))
    made = random_llama(run, args, engines[0]) if engines else None
    if engines and made is None:
        run.skip(stage, "there is no random Llama to compare with")
    return engines, made


def logits(run, args):
    """Log-probabilities of a random Llama: a prompt of three pages, then tokens one by one over the end of a page."""
    engines, made = llama_on(run, args, "logits")
    if made is None:
        return
    with open(os.path.join(MODEL, "stories.txt"), encoding="utf-8") as file:
        story = file.read(1500)
    texts = {"text": run.path("text.txt"), "prompt": run.path("prompt.txt")}
    ids = token_ids(engines[0], story, False)[:CONTEXT]
    words = story.split(" ")
    prompt = token_ids(engines[0], " ".join(words[:160]), True)
    if len(ids) < CONTEXT or len(prompt) > 250:
        run.count("logits: a text", False, f"{len(ids)} tokens of the text, {len(prompt)} of the prompt")
        return
    for name, text in (("text", story), ("prompt", " ".join(words[:160]))):
        with open(texts[name], "w", encoding="utf-8") as file:
            file.write(text)
    folders = []
    for name, folder in made["folders"].items():
        runs = [scored(run, on, folder, name, precision, texts, 264 - len(prompt)) for on in engines for precision in ("f32", "bf16")]
        folders.append({"name": name, "model": folder, "ids": ids, "prompt": prompt, "runs": [one for one in runs if one is not None]})
    torch_child(run, "logits", {"folders": folders, "plain": made["model"]}, 120)


def lora(run, args):
    """Gradients and steps of low-rank adapters beside 4-bit weights."""
    engines, made = llama_on(run, args, "lora")
    if made is None:
        return
    how = {"steps": STEPS, "rate": 1e-3, "decay": 0.01, "clip": 1.0}
    folder, runs = made["folders"]["8-bit scales"], []
    for on in engines:
        for precision in ("f32", "bf16"):
            label, stem = f"train on {on.name}, {precision}", run.path(f"train_{on.name}_{precision}".replace(":", "_"))
            one = {"name": label, "precision": precision, "out": stem, "log": stem + ".jsonl", "gradients": stem + ".safetensors"}
            done = on.command(["nfloat", "train", folder, made["rows"], "--out", stem, "--init", made["adapter"], "--log", one["log"], "--dump-gradients",
                               one["gradients"], "--steps", str(STEPS), "--lr", str(how["rate"]), "--weight-decay", str(how["decay"]), "--clip",
                               str(how["clip"]), "--schedule", "constant", "--warmup", "0", "--no-shuffle", "--no-packing", "--rows-per-batch", "2", "--length", "256",
                               "--precision", precision, "--device", on.name, "--quiet"], 60)  # fmt: skip
            if done.status == 1 and "computes on the CPU" in done.err:
                run.skip(label, done.err.strip())
            elif done.status != 0:
                run.count_run(label, done, hangs=on.card)
            else:
                runs.append(one)
    if runs:
        torch_child(run, "lora", {**how, "model": folder, "plain": made["model"], "adapter": made["adapter"], "rows": made["rows"], "runs": runs}, 150)
