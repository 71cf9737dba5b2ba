# SPDX-License-Identifier: Apache-2.0
"""Trains torch-rechub's multi-task models beside ours, in turns, and prints one Markdown table of samples/s and ratios.

    python architectures.py --ours ./side_by_side_architectures --rows 36000 1000000 --batch 1024 4096 --threads 1 2

Theirs are stepped by their own trainer, MTLTrainer.train_one_epoch, over batches that are in memory, in three forms:

as shipped          its Adam with the trainer's learning rate, without weight decay
without batch norm  every BatchNorm1d, which torch-rechub puts behind each layer and ours do not have, replaced by nothing: the same layers as ours
tuned               the same, Adam with fused=True, and the matrix backend that ours chose

All have Adam for everything, with dense gradients of the tables; ours has it for the rows of the batch alone. With --loader each has its own loader over rows
in memory, and theirs is as shipped. A ratio is the median over rounds of their time / ours within a round, with the smallest and the largest behind it.
On a machine with other work --threads 1 --cpu-time gives steady ratios; several threads that wait for each other need a quiet one (--quiet .1).
"""
import argparse
import contextlib
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TQDM_DISABLE", "1")  # no progress bar within the times
import torch  # noqa: E402
from torch_rechub.basic.features import SparseFeature  # noqa: E402
from torch_rechub.models.multi_task import AITM, ESMM, MMOE, PLE, SharedBottom  # noqa: E402
from torch_rechub.trainers import MTLTrainer  # noqa: E402
from torch_rechub.utils.data import TorchDataset  # noqa: E402

import workload  # noqa: E402

MODELS = ["shared_bottom", "mmoe", "ple", "aitm", "esmm"]
FORMS = ["as shipped", "without batch norm", "tuned"]
DIM, BATCHES = 10, 16


def make(name, sizes):
    """A model and the kinds of its outputs; the widths are those of architectures.cpp."""
    fields = [SparseFeature(f"field{f}", vocab_size=size, embed_dim=DIM) for f, size in enumerate(sizes)]
    kinds = ["classification", "classification", "regression"]
    above, deep = {"dims": [64, 32]}, {"dims": [128, 64, 32]}
    if name == "shared_bottom":
        return SharedBottom(fields, kinds, {"dims": [128, 64]}, [above] * 3), kinds
    if name == "mmoe":
        return MMOE(fields, kinds, 4, {"dims": [128, 64]}, [above] * 3), kinds
    if name == "ple":
        return PLE(fields, kinds, 2, 1, 1, {"dims": [128]}, [above] * 3), kinds
    if name == "aitm":
        return AITM(fields, 2, deep, [{"dims": []}] * 2), kinds[:2]
    half = len(fields) // 2
    return ESMM(fields[:half], fields[half:], deep, deep), ["classification"] * 3


def labels_of(name, click, view, watch):
    if name == "aitm":
        return torch.stack([click, view], 1)
    if name == "esmm":
        return torch.stack([view, click, view], 1)  # of the conversion alone, which its trainer leaves out of the sum, of the click, of both
    return torch.stack([click, view, watch], 1)


def without_batch_norm(module):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm1d):
            setattr(module, name, torch.nn.Identity())
        else:
            without_batch_norm(child)


class Clocked:
    """Some batches of a source, over and over, and the milliseconds of each: those of taking it, and of what is done with it."""

    def __init__(self, source, count, clock):
        self.source, self.count, self.clock, self.milliseconds = source, count, clock, []

    def __iter__(self):
        while True:
            batches = iter(self.source)
            while True:
                start = self.clock()
                batch = next(batches, None)
                if batch is None:
                    break
                yield batch
                self.milliseconds.append((self.clock() - start) * 1e3)
                if len(self.milliseconds) == self.count:
                    return


class Theirs:
    def __init__(self, name, sizes, batches, form, matrix, from_loader):
        torch.manual_seed(1)
        self.model, kinds = make(name, sizes)
        if form != "as shipped":
            without_batch_norm(self.model)
        self.precision = "medium" if form == "tuned" and matrix == "onednn" else "highest"
        adam = {"lr": 1e-3, "fused": True} if form == "tuned" else {"lr": 1e-3}
        self.trainer = MTLTrainer(self.model, kinds, optimizer_params=adam)
        ready = [({f"field{f}": ids[:, f].contiguous() for f in range(len(sizes))}, labels_of(name, *labels)) for ids, *labels in batches]
        self.source = ready
        if from_loader:
            columns = {field: torch.cat([x[field] for x, _ in ready]).numpy() for field in ready[0][0]}
            rows = TorchDataset(columns, torch.cat([y for _, y in ready]).numpy())
            self.source = torch.utils.data.DataLoader(rows, batch_size=len(ready[0][1]), shuffle=True)

    def weights(self):
        tables = {id(table) for table in self.model.embedding.parameters()}
        return sum(p.numel() for p in self.model.parameters() if p.dim() == 2 and id(p) not in tables)

    def turn(self, steps, warmup, clock):
        """The median milliseconds of a step."""
        torch.set_float32_matmul_precision(self.precision)
        batches = Clocked(self.source, warmup + steps, clock)
        with contextlib.redirect_stdout(io.StringIO()):
            self.trainer.train_one_epoch(batches)
        return statistics.median(batches.milliseconds[warmup:])


class Ours:
    """The program architectures, turn by turn."""

    def __init__(self, command, *options):
        self.process = subprocess.Popen([*shlex.split(command), "--turns", *map(str, options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            sys.exit(f"architectures.py: {shlex.join(self.process.args)} printed no JSON line; run it by hand to see why")
        return json.loads(line)

    def turn(self):
        print(file=self.process.stdin, flush=True)
        return self.read()

    def seconds(self):
        """Of all its threads."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            return sum(map(int, file.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def busy_seconds():
    """Of all processors, with what the host took."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, interrupts, soft, stolen = map(int, file.readline().split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


class Others:
    """The share of the processors that other processes take."""

    def __init__(self, ours):
        self.ours, self.begin, self.spent = ours, time.perf_counter(), 0.0
        self.spent = self.total()

    def total(self):
        return busy_seconds() - self.ours.seconds() - time.process_time()

    def share(self):
        return (self.total() - self.spent) / (time.perf_counter() - self.begin) / os.cpu_count()


def quiet_turn(turn, ours, limit):
    """What a turn returns in which others took no more than the limit; it waits for such a time, and tries again."""
    while True:
        others = Others(ours)
        time.sleep(0.3 if limit < 1 else 0)
        if limit < 1 and others.share() > limit:
            continue
        others = Others(ours)
        result = turn()
        if others.share() <= limit or limit >= 1:
            return result


def measure(name, rows, batch, threads, chosen):
    """The rounds of one row of the table: [(milliseconds by program, our line)]."""
    torch.set_num_threads(threads)
    sizes = workload.field_sizes(rows)
    options = ["--model", name, "--rows", rows, "--batch", batch, "--threads", threads, "--steps", chosen.steps, "--warmup", chosen.warmup]
    ours = Ours(chosen.ours, *options, *(["--loader"] if chosen.loader else []), *(["--cpu-time"] if chosen.cpu_time else []))
    clock = time.process_time if chosen.cpu_time else time.perf_counter
    batches = workload.batches(sizes, batch, BATCHES)
    theirs = {form: Theirs(name, sizes, batches, form, ours.first["matrix"], chosen.loader) for form in (FORMS[:1] if chosen.loader else FORMS)}
    for their in theirs.values():
        if their.weights() != ours.first["weights"]:
            sys.exit(f"architectures.py: {name} has {their.weights()} weights there and {ours.first['weights']} here; the models differ in size")
        their.turn(1, chosen.warmup, clock)
    rounds = []
    for _ in range(chosen.repeat):
        line = quiet_turn(ours.turn, ours, chosen.quiet)
        times = {"ours": line["ms_per_step"]}
        for form, their in theirs.items():
            times[form] = quiet_turn(lambda their=their: their.turn(chosen.steps, chosen.warmup, clock), ours, chosen.quiet)
        said = ", ".join(f"{program} {value:.2f} ms" for program, value in times.items())
        print(f"{name}, {rows} rows, B = {batch}, {threads} threads: {said}", file=sys.stderr, flush=True)
        rounds.append((times, line))
    ours.close()
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the program built from architectures.cpp, with options of its own if any (quoted)")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--rows", type=int, nargs="+", default=[36_000], help="rows of all tables together")
    parser.add_argument("--batch", type=int, nargs="+", default=[1024])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", type=int, default=30, help="of a turn")
    parser.add_argument("--warmup", type=int, default=5, help="steps before those, in each turn")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--loader", action="store_true", help="each program's own loader instead of batches in memory")
    parser.add_argument("--cpu-time", action="store_true", help="the programs' time on the processors instead of the wall's; with --threads 1")
    parser.add_argument("--quiet", type=float, default=1.0, metavar="SHARE",
                        help="wait until other processes take at most this share of the processors, and take a turn again in which they took more")
    parser.add_argument("--json", help="also write every round that was kept to this file")
    chosen = parser.parse_args()
    if chosen.cpu_time and chosen.threads != [1]:
        parser.error("--cpu-time counts the waiting of threads for each other too; it needs --threads 1")

    forms = FORMS[:1] if chosen.loader else FORMS
    print("| rows | B | threads | model | ours, samples/s | bare products | " + " | ".join(f"{form}, samples/s | ratio" for form in forms) + " |")
    print("|---:|---:|---:|---|---:|---:|" + "---:|---:|" * len(forms))
    measured = []
    for rows in chosen.rows:
        for batch in chosen.batch:
            for threads in chosen.threads:
                for name in chosen.models:
                    rounds = measure(name, rows, batch, threads, chosen)
                    measured += [dict(line, times=times) for times, line in rounds]
                    ours = statistics.median(times["ours"] for times, _ in rounds)
                    share = statistics.median(line["products_share"] for _, line in rounds)
                    cells = [f"{rows:,}", batch, threads, name, f"{batch / ours * 1e3:,.0f}", f"{share:.0%}"]
                    for form in forms:
                        ratios = sorted(times[form] / times["ours"] for times, _ in rounds)
                        cells.append(f"{batch / statistics.median(times[form] for times, _ in rounds) * 1e3:,.0f}")
                        cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
                    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump(measured, file, indent=1)


if __name__ == "__main__":
    main()
