# SPDX-License-Identifier: Apache-2.0
"""What was measured as a table: beside what is wanted, and beside an earlier gpu.json."""
LINES = 60


def rows_of(result, name, shape, m, low=0.0, high=99.0):
    return [row for row in result.get("bench", []) if (row["name"], row["shape"], row["m"]) == (name, shape, m) and low < row["bits"] <= high]


def best(rows, key):
    return sum(row[key] for row in rows) / len(rows) if rows else None


def model(result, kind, shape, test):
    for one in result.get(kind, {}).get("bench", {}).get(shape, {}).get("results", []):
        if one["test"].startswith(test):
            return one["tokens_per_second"]
    return None


def ratio(a, b):
    return a / b if a is not None and b else None


def copy_rate(result, kind):
    """GB/s: of the card itself, by the same engine or by the kernels of CUDA."""
    own = result.get(kind, {}).get("bench", {}).get("kernels", {}).get("limits", {}).get("copy_gb_s")
    return result.get("limits", {}).get("copy_gbs") or own if kind == "cuda" else own


def share_of_copy(result, kind, shape):
    rate = model(result, kind, shape, "generate")
    bytes_read = result.get(kind, {}).get("bench", {}).get(shape, {}).get("read_per_token_bytes")
    return ratio(rate * bytes_read / 1e9, copy_rate(result, kind)) if rate and bytes_read else None


def launches(result):
    own = result.get("launches")
    return ratio(own["a_token"], own["layers"]) if own else None


def figures(result):
    """(what, value, must, target, unit): unit "%" of shares; a must that is negative is a most."""
    big, huge = "14336x4096", "28672x8192"

    def few(shape, m, nested):
        return rows_of(result, "few rows", shape, m, *((0, 4.3) if nested else (4.3, 5)))

    found = []
    for shape, must, target in ((big, 0.5, 0.65), (huge, 0.7, 0.8)):
        for nested in (True, False):
            found.append((f"1 row {shape}, {'8-bit' if nested else 'float'} scales, of copy", best(few(shape, 1, nested), "share"), must, target, "%"))
    for nested in (True, False):
        found.append((f"8 rows / 1 row {big}, {'8-bit' if nested else 'float'} scales", ratio(best(few(big, 8, nested), "us"), best(few(big, 1, nested), "us")), -1.25, -1.1, "x"))
    found += [(f"512 rows {big}, of the matrix rate", best(rows_of(result, "many rows", big, 512), "share") or None, 0.3, 0.6, "%"),
              ("dequantize to bf16, of copy", best(rows_of(result, "dequantize to bf16", big, 0), "share"), 0.8, 0.9, "%"),
              ("quantize absmax from bf16, of copy", best(rows_of(result, "quantize absmax from bf16", big, 0), "share"), 0.5, 0.7, "%"),
              ("generate, 8b, int8 head", model(result, "cuda", "8b", "generate"), 350, 430, "tokens/s"),
              ("generate, 1b, int8 head", model(result, "cuda", "1b", "generate"), 900, 1400, "tokens/s"),
              ("prompt of 512, 8b", model(result, "cuda", "8b", "prefill"), 8000, 16000, "tokens/s"),
              ("launches of a token, a layer", launches(result), -8, -5, ""),
              ("Vulkan / CUDA, generate, 8b", ratio(model(result, "vulkan", "8b", "generate"), model(result, "cuda", "8b", "generate")), 0.7, 0.9, "%"),
              ("Vulkan / CUDA, prompt, 8b", ratio(model(result, "vulkan", "8b", "prefill"), model(result, "cuda", "8b", "prefill")), 0.4, 0.7, "%"),
              ("Vulkan, generate, 8b, of copy", share_of_copy(result, "vulkan", "8b"), 0.65, 0.78, "%")]  # fmt: skip
    return found


def measures(result):
    """name: (value, unit, whether more is better, spread between passes or repetitions)."""
    found = {}
    if "matmul_tflops" in result.get("torch", {}) or "matmul_tflops" in result:
        found["matrix rate, PyTorch"] = (result.get("matmul_tflops") or result["torch"]["matmul_tflops"], "TFLOP/s", True, None)
    for name, unit in (("copy_gbs", "GB/s"), ("read_gbs", "GB/s"), ("launch_us", "us")):
        if name in result.get("limits", {}):
            found[name.split("_")[0]] = (result["limits"][name], unit, name != "launch_us", None)
    for kind in ("cuda", "vulkan"):
        for shape, own in result.get(kind, {}).get("bench", {}).items():
            for one in own["results"]:
                if "tokens_per_second" in one:
                    spread = (max(one["all"]) - min(one["all"])) / one["tokens_per_second"]
                    found[f"{kind} {shape}, {one['test']}"] = (one["tokens_per_second"], "tokens/s", True, spread)
                else:
                    found[f"{kind} {one['name']}"] = (one["seconds"] * 1e6, "us", False, one["spread"])
        for shape in ("1b", "8b"):
            share = share_of_copy(result, kind, shape)
            if share is not None:
                found[f"{kind} {shape}, generate, of copy"] = (100 * share, "%", True, None)
    for name, own in result.get("models", {}).items():
        for what, value in own.items() if isinstance(own, dict) else ():
            unit = "GB/s" if what.endswith("gb_s") else "s"
            found[f"{name} {what.replace('_gb_s', '').replace('_seconds', '').replace('_', ' ')}"] = (value, unit, unit == "GB/s", None)
    passes = {}
    for row in result.get("bench", []):
        m = f", {row['m']} rows" if row["m"] else ""
        bits = f", {row['bits']:.2f} bits" if row["bits"] else ""
        passes.setdefault(f"{row['name']} {row['shape']}{m}{bits}", []).append(row["us"])
    for name, times in passes.items():
        mean = sum(times) / len(times)
        found[name] = (mean, "us", False, (max(times) - min(times)) / mean if len(times) > 1 else None)
    return found


def number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def judged(result):
    lines = []
    for what, value, must, target, unit in figures(result):
        sign = -1 if must < 0 else 1
        scale = 100 if unit == "%" else 1
        wanted = f"{'at most' if sign < 0 else 'at least'} {number(abs(must) * scale)} ({number(abs(target) * scale)})"
        if value is None:
            lines.append(f"{what:<52} {'-':>10} {unit:<9} {wanted:<24} not measured")
            continue
        word = "target met" if sign * value >= target else "met" if sign * value >= must else "missed"
        lines.append(f"{what:<52} {number(value * scale):>10} {unit:<9} {wanted:<24} {word}")
    return lines


def table(result, baseline, most=LINES):
    """At most so many lines: what is wanted first, then what was measured; everything is in gpu.json."""
    lines = ["figure" + " " * 47 + "  measured           must (target)"] + judged(result)
    now, then = measures(result), measures(baseline) if baseline else {}
    if now:
        lines.append("measured" + " " * 54 + "spread" + ("  of baseline (above 1: better)" if baseline else ""))
    rest = []
    for name, (value, unit, more, spread) in now.items():
        line = f"{name:<48} {number(value):>10} {unit:<9}" + (f"{100 * spread:6.1f} %" if spread is not None else " " * 8)
        if name in then and value and then[name][0]:
            line += f"  {value / then[name][0] if more else then[name][0] / value:.2f}"
        rest.append(line.rstrip())
    room = most - len(lines)
    if len(rest) > room:
        rest = rest[:room - 1] + [f"... {len(rest) - room + 1} more in gpu.log and gpu.json"]
    return lines + rest

