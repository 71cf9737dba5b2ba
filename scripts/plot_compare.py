#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of a comparison's report.json as PNG: the Pareto plots and the learning curves.

python3 scripts/plot_compare.py DIR [--output FOLDER]      needs matplotlib (scripts/requirements.txt)
"""
import argparse
import io
import json
import pathlib
import re
import sys

import matplotlib
from PIL import Image  # comes with matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000"]  # told apart by colour-blind eyes too
STYLE = {"font.size": 9, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.spines.top": False, "axes.grid": True,
         "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.axisbelow": True, "grid.color": "#E6E6E6", "xtick.color": "#444444",
         "ytick.color": "#444444", "legend.frameon": False, "legend.fontsize": 7.5, "lines.linewidth": 1.6}


def draw(picture, path):
    """One picture of report.json; better is always up and right."""
    figure, axes = plt.subplots(figsize=(9.5, 4.8), layout="constrained")
    for i, series in enumerate(picture["series"]):
        if not series["points"]:
            continue
        xs, ys = zip(*series["points"])
        colour, label = COLOURS[i % len(COLOURS)], f'{series["number"]} {series["label"]}'
        if picture["is_curves"]:
            axes.plot(xs, ys, color=colour, marker="o", markersize=3, label=label)
        else:
            axes.scatter(xs, ys, color=colour, label=label)
        axes.annotate(str(series["number"]), (xs[-1], ys[-1]), textcoords="offset points", xytext=(6, 3), color=colour, fontsize=8)
    front = sorted(series["points"][0] for series in picture["series"] if series["is_on_front"])
    if len(front) > 1:
        axes.plot(*zip(*front), color="#888888", linestyle="--", linewidth=1, zorder=0)
    if picture["is_curves"]:
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    elif not picture["x_greater_is_better"]:
        axes.invert_xaxis()
    if not picture["y_greater_is_better"]:
        axes.invert_yaxis()
    axes.set_title(picture["title"])
    axes.set_xlabel(picture["x_label"])
    axes.set_ylabel(picture["y_label"])
    figure.legend(loc="outside right upper")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)  # a palette: a third of the bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="the --output folder of a comparison")
    parser.add_argument("--output", type=pathlib.Path, help="the folder to write to; default: the comparison's own")
    options = parser.parse_args()
    file = options.run / "report.json"
    if not file.is_file():
        sys.exit(f"plot_compare: expected the folder of a finished comparison with report.json, got \"{options.run}\"")
    report = json.loads(file.read_text(encoding="utf-8"))
    folder = options.output or options.run
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update(STYLE)
    for picture in report["pictures"]:
        path = folder / (re.sub(r"[^a-z]+", "_", picture["title"].lower()).strip("_") + ".png")
        draw(picture, path)
        print(path)


if __name__ == "__main__":
    main()
