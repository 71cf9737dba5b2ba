# SPDX-License-Identifier: Apache-2.0
"""The workload that all programs of this folder share: rows of KuaiRand's shape, the options, the clock, the JSON line."""
import argparse
import json
import statistics
import time

import torch

SMALL_FIELDS = [2, 3, 3, 7, 8, 8, 9, 24, 2, 7, 50, 100, 340, 7, 2, 3, 5, 32, 32, 32]


def field_sizes(rows):
    """43 fields: three quarters of the table are users, a fifth items, and 41 fields have a few to a few hundred values."""
    return [rows * 3 // 4, rows // 5] + [SMALL_FIELDS[f % len(SMALL_FIELDS)] for f in range(41)]


def batches(sizes, batch, count, seed=1):
    """Batches of (ids [B, F] local to their fields, click [B], long_view [B], z-scored watch time [B])."""
    generator = torch.Generator().manual_seed(seed)
    n = batch * count
    columns = []
    for size in sizes:  # large fields are skewed, as users and items are
        uniform = torch.rand(n, generator=generator) ** (2.0 if size > 1000 else 1.0)
        columns.append((uniform * size).long().clamp_(max=size - 1))
    ids = torch.stack(columns, 1)
    click = (torch.rand(n, generator=generator) < 0.44).float()
    view = click * (torch.rand(n, generator=generator) < 0.7).float()
    watch = click * torch.randn(n, generator=generator).exp() * 30
    watch = (watch - watch.mean()) / watch.std(correction=0)
    return [tuple(x[i * batch:(i + 1) * batch].clone() for x in (ids, click, view, watch)) for i in range(count)]


def options(description, **extra):
    """The options of every program; extra: name = (choices, default)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rows", type=int, default=36_000, help="rows of all embedding tables together")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--matrix", choices=["default", "medium"], default="default", help="torch.set_float32_matmul_precision")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the whole gradient; 0 = no clipping")
    for name, (choices, default) in extra.items():
        parser.add_argument("--" + name.replace("_", "-"), choices=choices, default=default)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.matrix == "medium":
        torch.set_float32_matmul_precision("medium")
    torch.manual_seed(1)
    return chosen


def measure(program, chosen, step, data, **notes):
    """Runs the steps and prints one JSON line with the median milliseconds of a step."""
    milliseconds = []
    for i in range(chosen.warmup + chosen.steps):
        start = time.perf_counter()
        loss = step(*data[i % len(data)])
        if i >= chosen.warmup:
            milliseconds.append((time.perf_counter() - start) * 1e3)
    median = statistics.median(milliseconds)
    line = dict(program=program, rows=chosen.rows, batch=chosen.batch, matrix=chosen.matrix, steps=chosen.steps, threads=chosen.threads, clip=chosen.clip,
                ms_per_step=median, samples_per_second=chosen.batch / median * 1e3, loss=float(loss), **notes)
    print(json.dumps(line), flush=True)
