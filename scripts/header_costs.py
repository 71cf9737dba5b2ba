#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what each public header costs a translation unit that includes it and nothing else: seconds of the processor, and the peak of memory.

usage: scripts/header_costs.py [--check] [--missing] [--repeat N] [--compiler CXX] [--torch-root DIR] [--output FILE]

Writes the table of docs/compile_times.md, or FILE. With --missing the rows that are there stay, those of headers that are gone go, and only headers without a row are
measured. With --check it measures the umbrella only, writes nothing, and fails if the umbrella costs more than 1.1 times <torch/torch.h>. LibTorch is the one that
CMake finds, or DIR.

Time is the user time of the compiler's processes, which other work on the machine disturbs less than it does the clock. The umbrella and <torch/torch.h> are
compiled by turns, N times (3), and the least time of each is told, since a disturbance only adds (up to a quarter, where both processors are busy); a ratio above
the limit is tried again, up to 3N times in all. Any other header is compiled once.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 1.1
LIBTORCH = ["ATen/core/Tensor.h", "ATen/ATen.h", "torch/types.h", "torch/nn/module.h", "torch/torch.h"]
UMBRELLA = "htl/htl.hpp"


def stop(sentence):
    sys.exit("header_costs: " + sentence)


def torch_root(given):
    if given:
        return given
    found = subprocess.run(["cmake", "-P", ROOT / "cmake/HtlTorch.cmake"], capture_output=True, text=True)
    return found.stdout.strip() or stop(" ".join(found.stderr.split()))


class Compiler:
    def __init__(self, name, torch, folder):
        self.command = [name, "-std=c++20", "-O0", "-fopenmp", "-c", "-o", os.devnull, f"-I{ROOT}/include", "-isystem", f"{torch}/include", "-isystem",
                        f"{torch}/include/torch/csrc/api/include", "-DUSE_DISTRIBUTED", "-DUSE_C10D_GLOO", "-DUSE_RPC", "-DUSE_TENSORPIPE"]
        self.source = pathlib.Path(folder) / "one.cpp"
        self.version = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]

    def cost(self, *headers):
        """Seconds and bytes of a translation unit with these headers."""
        self.source.write_text("".join(f"#include <{header}>\n" for header in headers))
        process = subprocess.Popen([*self.command, self.source])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            stop(f"{' and '.join(headers)} does not compile")
        return usage.ru_utime, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def row(name, cost, whole):
    return f"| {name} | {cost[0]:.1f} | {cost[0] / whole:.2f} | {cost[1] / 1e9:.2f} |\n"


def headers():
    """The public headers but the umbrella, as programs include them."""
    found = sorted(path.relative_to(ROOT / "include").as_posix() for path in (ROOT / "include").rglob("*.hpp") if "detail" not in path.parts)
    return [header for header in found if header != UMBRELLA]


def add_missing(path, compiler):
    """Completes a page that is there: a cost beside <torch/torch.h> is that of its own run."""
    lines = path.read_text().splitlines(keepends=True)
    rows = {line.split("`")[1].strip("<>"): line for line in lines if line.startswith("| `<")}
    first = next(i for i, line in enumerate(lines) if line.startswith("| "))
    kept = [line for line in lines[first:] if not line.startswith("| `<htl/")]
    wanted = [header for header in headers() if header not in rows]
    whole = min(compiler.cost("torch/torch.h")[0] for _ in range(3)) if wanted else 1.0
    for header in wanted:
        rows[header] = row(f"`<{header}>`", compiler.cost(header), whole)
        print(rows[header], end="", flush=True)
        path.write_text("".join(lines[:first] + kept + [rows[header] for header in headers() if header in rows]))
    path.write_text("".join(lines[:first] + kept + [rows[header] for header in headers()]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 2)[2], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="the umbrella only; fail if it costs too much")
    parser.add_argument("--missing", action="store_true", help="only the headers that have no row yet")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="compile the umbrella and <torch/torch.h> N times (3)")
    parser.add_argument("--compiler", default=os.environ.get("CXX", "c++"), metavar="CXX")
    parser.add_argument("--torch-root", metavar="DIR")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs/compile_times.md", metavar="FILE")
    options = parser.parse_args()
    if options.repeat < 1:
        stop(f"expected --repeat of at least 1, got {options.repeat}")
    torch = torch_root(options.torch_root)

    with tempfile.TemporaryDirectory() as folder:
        compiler = Compiler(options.compiler, torch, folder)
        if options.missing:
            return add_missing(options.output, compiler)
        compared = [["torch/torch.h"], [UMBRELLA]] + ([] if options.check else [["torch/torch.h", UMBRELLA]])
        turns, ratio = [], LIMIT + 1
        while len(turns) < options.repeat or (ratio > LIMIT and len(turns) < 3 * options.repeat):
            turns.append([compiler.cost(*headers) for headers in compared])
            whole, umbrella, *both = (tuple(min(values) for values in zip(*costs)) for costs in zip(*turns))
            ratio = umbrella[0] / whole[0]
        print(f"<torch/torch.h> {whole[0]:.1f} s, <{UMBRELLA}> {umbrella[0]:.1f} s: {ratio:.2f} times; at most {LIMIT}")
        if options.check:
            sys.exit(ratio > LIMIT)
        table = "".join(row(f"`<{header}>`", whole if header == "torch/torch.h" else compiler.cost(header), whole[0]) for header in LIBTORCH)
        table += row(f"**`<{UMBRELLA}>`**", umbrella, whole[0]) + row(f"`<torch/torch.h>` and `<{UMBRELLA}>`", both[0], whole[0])
        for header in headers():
            table += row(f"`<{header}>`", compiler.cost(header), whole[0])
            print(table.splitlines()[-1], flush=True)
        version = [line.split()[2] for line in (pathlib.Path(torch) / "include/torch/headeronly/version.h").read_text().splitlines() if "#define TORCH_VERSION_M" in line]
        options.output.write_text(f"""# What each header costs

A translation unit that includes the header and nothing else: seconds of the processor, that time beside `<torch/torch.h>`'s, and the compiler's peak of memory.
`scripts/header_costs.py` writes this page. {compiler.version}, `-std=c++20 -O0`, LibTorch {'.'.join(version)}; the least of {options.repeat} runs for the umbrella and
`<torch/torch.h>`, one run of each other header. The umbrella may cost at most {LIMIT} times `<torch/torch.h>`; `--check` measures that.

| header | s | beside torch.h | GB |
|---|---:|---:|---:|
{table}""")


main()
