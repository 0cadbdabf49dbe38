# SPDX-License-Identifier: Apache-2.0
"""Cycles a product (one weight times one activation) that llvm-mca expects of inner loops, a table in Markdown.

Run it through bench/arm/run. Loops are found in the disassembly of a function; of them counts the one with the most products, by
what each of the multiplying instructions does. Blocks that the loop ends are in it where the compiler left no loop inside.
"""
import argparse
import os
import re
import subprocess
import sys

FLAGS = ["-O3", "-DNDEBUG", "-fPIC", "-ffp-contract=off"]
PROCESSORS = ("cortex-a76", "neoverse-n1", "neoverse-v1")
# Products of one instruction on 128-bit registers. Float ones count where there are no others: the rest scales sums.
INTEGER = {"sdot": 16, "udot": 16, "usdot": 16, "smmla": 32, "usmmla": 32, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8}
FLOAT = {"bfmmla": 16, "bfdot": 8, "fmla": 4}
# Our targets: the processors they are compared on.
TARGETS = {"neon": PROCESSORS, "neondot": PROCESSORS, "neoni8mm": ("neoverse-v1",)}


def tile(source, step, rows):
    kind = "int8_tile" if "Byte" in step else "float_tile"
    return rf"{kind}<[^<>]*::{source}, [^<>]*::{step}<[^<>]*::{source}>, 1, {rows}>"


def own_functions(target):
    pairs = "Pair" if target == "neoni8mm" else ""
    expanded = "Own" if target == "neoni8mm" else "Dense"
    return {
        "1 row, int8": tile("Packed", "ByteStep", 1),
        "1 row, bf16": tile("Packed", "Bf16Step", 1),
        "4 rows, expanded, int8": tile("Own", pairs + "ByteStep", 4),
        "4 rows, expanded, bf16": tile(expanded, pairs + "Bf16Step", 4),
    }


# llama.cpp's kernels for Q4_0: file, flags and function of each.
RIVALS = {
    "neon": ["-march=armv8-a", {"1 row, q4_0": ("quants.c", "ggml_vec_dot_q4_0_q8_0")}],
    "neondot": ["-march=armv8.2-a+dotprod", {"1 row, q4_0": ("repack.cpp", "ggml_gemv_q4_0_4x4_q8_0"),
                                             "4 rows and more, q4_0": ("repack.cpp", "ggml_gemm_q4_0_4x4_q8_0")}],
    "neoni8mm": ["-march=armv8.2-a+dotprod+i8mm+bf16", {"1 row, q4_0": ("repack.cpp", "ggml_gemv_q4_0_4x8_q8_0"),
                                                        "4 rows and more, q4_0": ("repack.cpp", "ggml_gemm_q4_0_4x8_q8_0")}],
}


def own_flags(target):
    """As the build gives them: the file that sets them is the one source."""
    with open("src/kernels/CMakeLists.txt", encoding="utf-8") as file:
        found = re.search(rf'target_{target}\.cpp TARGET_DIRECTORY nfloat PROPERTIES COMPILE_OPTIONS "([^"]*)"', file.read())
    return found[1].split(";") if found else []


def compiled(source, output, flags):
    compiler = "aarch64-linux-gnu-gcc" if source.endswith(".c") else "aarch64-linux-gnu-g++"
    language = ["-std=gnu11"] if source.endswith(".c") else ["-std=c++20"]
    subprocess.run([compiler, *language, *FLAGS, *flags, "-c", source, "-o", output], check=True)
    return output


def functions(program):
    """Name: [(address, instruction)] of everything in an object file."""
    text = subprocess.run(["aarch64-linux-gnu-objdump", "-dC", "--no-show-raw-insn", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    found, name = {}, None
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = head[1]
            found[name] = []
        elif name and (code := re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line)):
            found[name].append((int(code[1], 16), code[2].split("//")[0].strip()))
    return found


def products(lines, table):
    return sum(table.get(text.split()[0], 0) for _, text in lines)


def hot_loop(code):
    """Of all loops, without the loops inside them, the instructions of the one with the most products; and those products."""
    table = INTEGER if products(code, INTEGER) else FLOAT
    loops = set()
    for address, text in code:
        branch = re.match(r"(?:b\.\w+|cbn?z|tbn?z|b)\s+(?:.*,\s*)?([0-9a-f]+) <", text)
        if branch and int(branch[1], 16) <= address:
            loops.add((int(branch[1], 16), address))
    best = []
    for first, last in sorted(loops, key=lambda a: a[1] - a[0]):
        inside = [a for a in loops if a != (first, last) and first <= a[0] and a[1] <= last]
        body = [line for line in code if first <= line[0] <= last and not any(a <= line[0] <= b for a, b in inside)]
        if products(body, table) > products(best, table):
            best = body
    return best, products(best, table)


def cycles(mca, loop, processor):
    """Of one round, 200 after each other."""
    repetitions = 200
    # Without what only leads elsewhere: targets are addresses, which mean nothing here.
    text = "\n".join(code for _, code in loop if not re.match(r"(b|b\.\w+|cbn?z|tbn?z|bl|adrp)\s", code))
    done = subprocess.run([mca, "-mtriple=aarch64", f"-mcpu={processor}", "-mattr=+dotprod,+i8mm,+bf16", f"-iterations={repetitions}"], input=text,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if not total:
        sys.exit(f"llvm-mca: {done.stderr.strip().splitlines()[0]}")
    return int(total[1]) / repetitions


def row(mca, title, code, processors):
    loop, count = hot_loop(code)
    if count == 0:
        sys.exit(f"{title}: no loop that multiplies")
    cells = [f"{cycles(mca, loop, p) / count:.3f}" if p in processors else "" for p in PROCESSORS]
    print(f"| {title} | {len(loop)} | {count} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(prog="bench/arm/run")
    parser.add_argument("--work", required=True)
    parser.add_argument("--mca", required=True)
    parser.add_argument("--llama", required=True, help="the folder of llama.cpp's sources; empty: left out")
    options = parser.parse_args()
    print("| static, cycles a product | instructions | products | " + " | ".join(PROCESSORS) + " |")
    print("|---" * (3 + len(PROCESSORS)) + "|")
    for target, processors in TARGETS.items():
        program = compiled(f"src/kernels/target_{target}.cpp", f"{options.work}/{target}.o", ["-Iinclude", "-Isrc", "-Wno-subobject-linkage", *own_flags(target)])
        found = functions(program)
        for title, pattern in own_functions(target).items():
            names = [name for name in found if re.search(pattern, name)]
            if len(names) != 1:
                sys.exit(f"{target}, {title}: {len(names)} functions match {pattern}")
            row(options.mca, f"nfloat `{target}`: {title}", found[names[0]], processors)
        if not options.llama:
            continue
        flags, rivals = RIVALS[target]
        ggml = f"{options.llama}/ggml"
        for title, (source, name) in rivals.items():
            path = f"{ggml}/src/ggml-cpu/arch/arm/{source}"
            program = compiled(path, f"{options.work}/llama-{target}-{os.path.basename(source)}.o",
                               [flags, "-w", f"-I{ggml}/include", f"-I{ggml}/src", f"-I{ggml}/src/ggml-cpu"])
            code = next((lines for other, lines in functions(program).items() if other.split("(")[0] == name), None)
            if code is None:
                sys.exit(f"llama.cpp has no {name}")
            row(options.mca, f"llama.cpp for the same: {title}", code, processors)


main()
