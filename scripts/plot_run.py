#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plots metrics.jsonl of a run, finished or not: losses, validation metrics, and of the tasks' gradients cosines, magnitudes, weights, norms and conflicts.

python3 scripts/plot_run.py RUN --output FILE.png      needs matplotlib (scripts/requirements.txt)
"""
import argparse
import io
import json
import pathlib
import sys

import matplotlib
from PIL import Image  # comes with matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000"]  # told apart by colour-blind eyes too
METRICS = ["auc", "nrmse", "log_loss"]  # the first one that a task has is shown; errors have the right axis
STYLE = {"font.size": 9, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.spines.top": False, "axes.grid": True,
         "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.axisbelow": True, "grid.color": "#E6E6E6", "xtick.color": "#444444",
         "ytick.color": "#444444", "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.6}


def read_lines(run):
    """The lines of metrics.jsonl; one that is still being written has no end, and is left out."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


def smoothed(values, share=0.7):
    """A moving average that begins without a bias towards 0."""
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        result.append(total / weight)
    return result


def draw_steps(axes, steps, key, colours):
    """Every name of a group: thin as logged, thick as its moving average."""
    for name, colour in zip(dict.fromkeys(name for step in steps for name in step.get(key, {})), colours):
        points = [(step["step"], step[key][name]) for step in steps if name in step.get(key, {})]
        at, values = zip(*points)
        axes.plot(at, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(at, smoothed(values), color=colour, label=name.replace(",", " · "))


def draw_figure(axes, steps, key, colour):
    """One figure of all tasks together."""
    points = [(step["step"], step[key]) for step in steps if step.get(key) is not None]
    if points:
        at, values = zip(*points)
        axes.plot(at, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(at, smoothed(values), color=colour)


def draw_metrics(axes, evaluations, tasks, colours, best_epoch):
    """A metric a task and epoch: what ranks on the left, errors on the right."""
    chosen = {}
    for task in tasks:
        names = [name for name in METRICS if any(line["metrics"].get(task, {}).get(name) is not None for line in evaluations)]
        if names:
            chosen[task] = names[0]
    errors = {name for name in chosen.values() if name != "auc"}
    right = axes.twinx() if errors and len(set(chosen.values())) > 1 else axes
    if right is not axes:
        right.grid(False)
        right.spines["right"].set_visible(True)
        right.set_ylabel(", ".join(sorted(errors)))
        axes.set_ylabel("auc")
    handles = []
    for task, colour in zip(tasks, colours):
        if task not in chosen:
            continue
        points = [(line["epoch"], line["metrics"][task].get(chosen[task])) for line in evaluations if line["metrics"].get(task)]
        points = [(epoch, value) for epoch, value in points if value is not None]
        on = axes if chosen[task] == "auc" else right
        handles += on.plot(*zip(*points), color=colour, marker="o", markersize=4, linestyle="-" if on is axes else "--", label=f"{task} {chosen[task]}")
    if best_epoch:
        handles.append(axes.axvline(best_epoch, color="#888888", linewidth=1, linestyle=":", label="best epoch"))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    if handles:
        axes.legend(handles=handles, loc="center right")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="the folder of a run")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the PNG file to write")
    options = parser.parse_args()
    if not (options.run / "metrics.jsonl").is_file():
        sys.exit(f"plot_run: expected the folder of a run with metrics.jsonl, got \"{options.run}\"")
    lines = read_lines(options.run)
    steps = [line for line in lines if line["kind"] == "step"]
    evaluations = [line for line in lines if line["kind"] == "evaluation" and line["split"] == "valid"]
    if not steps:
        sys.exit(f"plot_run: \"{options.run}\" has no logged step yet")
    tasks = list(dict.fromkeys(name for step in steps for name in step["losses"]))
    summary_file = options.run / "summary.json"
    summary = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.is_file() else {}

    plt.rcParams.update(STYLE)
    colours = [COLOURS[i % len(COLOURS)] for i in range(max(len(tasks), len(tasks) * (len(tasks) - 1) // 2))]
    figure, ((loss, metric), (cosine, similarity), (weight, norm), (conflict, condition)) = plt.subplots(4, 2, figsize=(10, 12.4), layout="constrained")
    figure.suptitle(f"{options.run.resolve().name}   step {steps[-1]['step']:,}", x=0.01, ha="left", fontsize=12)
    draw_steps(loss, steps, "losses", colours)
    loss.set_title("loss")
    draw_metrics(metric, evaluations, tasks, colours, summary.get("best_epoch") if evaluations else None)
    metric.set_title("validation")
    metric.set_xlabel("epoch")
    of_pairs = COLOURS[3:] + COLOURS[:3] if len(tasks) <= 3 else colours
    draw_steps(cosine, steps, "cosines", of_pairs)
    cosine.axhline(0, color="#888888", linewidth=1)
    cosine.set_title("cosine of the tasks' gradients (below 0: conflict)")
    draw_steps(similarity, steps, "magnitude_similarity", of_pairs)
    similarity.set_ylim(-0.03, 1.03)
    similarity.set_title("similarity of their magnitudes (1: equally long)")
    draw_steps(weight, steps, "weights", colours)
    fallbacks = int(max(step.get("fallbacks", 0) for step in steps))
    weight.set_title("weight of a task's gradient" + (f" ({fallbacks:,} fallbacks)" if fallbacks else ""))
    draw_steps(norm, steps, "norms", colours)
    norm.set_yscale("log")
    norm.set_title("norm of a task's gradient")
    draw_figure(conflict, steps, "conflict_rate", COLOURS[1])
    conflict.set_ylim(-0.03, 1.03)
    conflict.set_title("part of the pairs in conflict")
    draw_figure(condition, steps, "condition_number", COLOURS[6])
    condition.set_yscale("log")
    condition.set_title("condition number of all gradients")
    for axes in (loss, cosine, similarity, weight, norm, conflict, condition):
        axes.set_xlabel("step")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    Image.open(drawn).convert("RGB").quantize(128).save(options.output, optimize=True)  # a palette: a third of the bytes
    print(f"{options.output}: {len(steps)} logged steps, {len(evaluations)} evaluations")


if __name__ == "__main__":
    main()
