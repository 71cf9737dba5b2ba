#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times weights(K) of this library beside TorchJD's weightings on the same matrices, and prints the table.

benchmarks/side_by_side/compare_weights.py --ours build/release/benchmarks/weights_cost

Needs TorchJD (requirements.txt). Both take float64 on the CPU, one thread; the best of five calls a matrix, the median over matrices.
"""
import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from torchjd import aggregation as jd

METHODS = [  # ours, theirs; None: there is none
    ("sum", jd.SumWeighting), ("mean", jd.MeanWeighting), ("constant", jd.ConstantWeighting), ("core_task", None), ("metabalance", None),
    ("pcgrad", jd.PCGradWeighting), ("gradvac", jd.GradVacWeighting), ("mgda", jd.MGDAWeighting), ("pe_ltr:bound=0.01", None), ("sdmgrad", None),
    ("cagrad:c=0.5", lambda: jd.CAGradWeighting(c=0.5)), ("imtl_g", jd.IMTLGWeighting), ("nash_mtl", jd.NashMTL),
    ("fairgrad", lambda: jd.FairGradWeighting(alpha=1.0)), ("aligned_mtl", jd.AlignedMTLWeighting), ("upgrad", jd.UPGradWeighting),
    ("dualproj", jd.DualProjWeighting), ("config", None), ("krum", lambda: jd.KrumWeighting(n_byzantine=0)), ("modo", None), ("gradnorm", None),
    ("famo", None), ("random", jd.RandomWeighting), ("cr_mogm:inner=mgda", None)]


def best_of_five(call):
    """Microseconds."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)


def of_nash_mtl(jacobian):
    """As ours each call begins anew, but the problem is built once, as in a training run."""
    method = jd.NashMTL(n_tasks=len(jacobian), optim_niter=20)
    method(jacobian)

    def call():
        method.weighting.prvs_alpha = np.ones(len(jacobian), dtype=np.float32)
        method(jacobian)

    return best_of_five(call)


def theirs(name, make, jacobians):
    if name == "nash_mtl":  # an aggregator only: it takes the Jacobian, and its products are a part of its time
        return statistics.median(of_nash_mtl(jacobian) for jacobian in jacobians)
    weighting = jd.ConstantWeighting(torch.ones(len(jacobians[0]), dtype=torch.float64)) if name == "constant" else make()
    gramians = [j @ j.T for j in jacobians]
    return statistics.median(best_of_five(lambda g=g: weighting(g)) for g in gramians)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", type=pathlib.Path, required=True, help="the program weights_cost")
    parser.add_argument("--matrices", type=int, default=20, help="matrices a size")
    options = parser.parse_args()
    if not options.ours.is_file():
        sys.exit(f"compare_weights: there is no program {options.ours}; build the target weights_cost")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    sizes = [3, 8, 32]
    jacobians = {t: [torch.randn(t, 3 * t, dtype=torch.float64) for _ in range(options.matrices)] for t in sizes}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        for t in sizes:
            for j in jacobians[t]:
                file.write(f"{t} " + " ".join(f"{x:.17g}" for x in (j @ j.T).flatten().tolist()) + "\n")
        file.flush()
        output = subprocess.run([options.ours, "--matrices", file.name, "--methods", *(name for name, _ in METHODS)], check=True, capture_output=True,
                                text=True).stdout
    ours = {(line.split()[0], int(line.split()[1])): float(line.split()[2]) for line in output.splitlines()}
    print("| method | " + " | ".join(f"T = {t}: htl, µs | TorchJD, µs | ratio" for t in sizes) + " |")
    print("|---|" + "---:|" * (3 * len(sizes)))
    for name, make in METHODS:
        cells = []
        for t in sizes:
            other = theirs(name, make, jacobians[t]) if make else None
            cells.append(f"{ours[name, t]:.2f} | " + (f"{other:,.0f} | {other / ours[name, t]:.0f}" if make else "|"))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
