# SPDX-License-Identifier: Apache-2.0
"""Runs programs that print a JSON line with ms_per_step, interleaved (A B C A B C ...), and prints one Markdown table of medians and ratios.

    python compare.py --ours ./side_by_side_step --naive-cpp ./side_by_side_naive --rows 36000 1000000 --repeat 3

With --torchjd the other programs are a step with TorchJD's two engines; --ours is then side_by_side_trunk, or side_by_side_step with --model shared_embedding.

Every round runs each program once; a ratio is the median over rounds of (that program's time / ours) in the same round.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))


def run(command, environment):
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode != 0 or not lines:
        sys.exit(f"compare.py: {shlex.join(command)} ended with status {result.returncode} and no JSON line; run it by hand to see why")
    return json.loads(lines[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="this library's step program, with options of its own if any (quoted); the first column of ratios")
    parser.add_argument("--naive-cpp", help="the program built from naive.cpp")
    parser.add_argument("--python", default=sys.executable, help="the Python with PyTorch")
    parser.add_argument("--rows", type=int, nargs="+", default=[36_000])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--ours-steps", type=int, help="steps of this library's program; as many as the others' where not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--matrix", nargs="+", default=["default", "medium"], choices=["default", "medium"], help="matrix backends of the other programs")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the whole gradient, for every program; 0 = no clipping")
    parser.add_argument("--only", nargs="+", help="run only the programs whose name contains one of these words")
    parser.add_argument("--torchjd", choices=["tables", "trunk"], help="run torchjd_step.py with this model instead of the other trainers")
    parser.add_argument("--method", default="upgrad", help="TorchJD's method; give --ours the same")
    parser.add_argument("--json", help="also write every line that was measured to this file")
    chosen = parser.parse_args()

    programs = {}  # name -> command without the common options
    if chosen.ours:
        programs["ours"] = [*shlex.split(chosen.ours), "--clip", str(chosen.clip)]
    for matrix in chosen.matrix:
        common = ["--matrix", matrix, "--clip", str(chosen.clip)]
        if chosen.torchjd:
            for engine in ["autojac", "autogram"]:
                programs[f"TorchJD {engine}, {matrix}"] = [chosen.python, os.path.join(FOLDER, "torchjd_step.py"), "--model", chosen.torchjd, "--engine", engine,
                                                           "--method", chosen.method, *common]
            continue
        programs[f"careful.py, compiled, {matrix}"] = [chosen.python, os.path.join(FOLDER, "careful.py"), *common]
        programs[f"careful.py, eager, {matrix}"] = [chosen.python, os.path.join(FOLDER, "careful.py"), "--compile", "off", *common]
        programs[f"naive.py, {matrix}"] = [chosen.python, os.path.join(FOLDER, "naive.py"), *common]
        if chosen.naive_cpp:
            programs[f"naive.cpp, {matrix}"] = [*shlex.split(chosen.naive_cpp), *common]
    if chosen.only:
        programs = {name: command for name, command in programs.items() if name == "ours" or any(word in name for word in chosen.only)}
    if not programs:
        sys.exit("compare.py: no program to run; give --ours, or another --only")

    environment = dict(os.environ, OMP_NUM_THREADS=str(chosen.threads))
    measured = []
    print("| rows | program | ms a step | samples/s | time / ours | rounds |")
    print("|---:|---|---:|---:|---:|---|")
    for rows in chosen.rows:
        times = {name: [] for name in programs}
        for round_number in range(chosen.repeat):
            for name, command in programs.items():
                steps = (chosen.ours_steps or chosen.steps) if name == "ours" else chosen.steps
                size = ["--rows", str(rows), "--batch", str(chosen.batch), "--steps", str(steps), "--warmup", str(chosen.warmup), "--threads", str(chosen.threads)]
                line = run(command + size, environment)
                times[name].append(line["ms_per_step"])
                measured.append(dict(line, name=name, round=round_number))
                print(f"round {round_number + 1} of {chosen.repeat}, {rows} rows, {name}: {line['ms_per_step']:.2f} ms", file=sys.stderr, flush=True)
        for name, values in times.items():
            median = statistics.median(values)
            ratio = f"{statistics.median(v / o for v, o in zip(values, times['ours'])):.2f}" if "ours" in times else ""
            rounds = " ".join(f"{v:.2f}" for v in values)
            print(f"| {rows:,} | {name} | {median:.2f} | {chosen.batch / median * 1e3:,.0f} | {ratio} | {rounds} |", flush=True)
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump(measured, file, indent=1)


if __name__ == "__main__":
    main()
