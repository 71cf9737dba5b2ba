#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the paths of gradient methods on the toy problem with two valleys (docs/pictures/two_valleys.png).

build/release/examples/19_two_valleys paths.csv
python3 scripts/plot_two_valleys.py paths.csv --output docs/pictures/two_valleys.png      needs matplotlib (scripts/requirements.txt)
"""
import argparse
import csv
import io
import pathlib

import matplotlib
import numpy as np
from PIL import Image  # comes with matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]


def mean_loss(x, y):
    """The mean of the two losses, as examples/two_valleys.hpp has them."""
    half = np.tanh(y / 2)
    above, below = np.maximum(half, 0), np.maximum(-half, 0)
    total = 0
    for side in (1, -1):
        valley = np.log(np.maximum(np.abs(-0.5 * x + side * (np.tanh(y) - 3.5)), 5e-6)) + 6
        bowl = ((x - 7 * side) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
        total = total + valley * above + bowl * below
    return total / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=pathlib.Path, help="what the example wrote")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the PNG file to write")
    options = parser.parse_args()
    paths = {}
    with options.paths.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            paths.setdefault(row["method"], {}).setdefault(int(row["start"]), []).append((float(row["x"]), float(row["y"])))
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titleweight": "bold", "xtick.color": "#444444",
                         "ytick.color": "#444444", "axes.edgecolor": "#888888"})
    columns = 3
    figure, axes = plt.subplots(-(-len(paths) // columns), columns, figsize=(10, 3.1 * -(-len(paths) // columns)), layout="constrained", sharex=True, sharey=True,
                                squeeze=False)
    x, y = np.meshgrid(np.linspace(-10, 10, 400), np.linspace(-10, 10, 400))
    levels = mean_loss(x, y)
    for axis, (method, starts) in zip(axes.flat, paths.items()):
        axis.contour(x, y, levels, 30, colors="#BBBBBB", linewidths=0.5)
        axis.plot([-7, 7], [-8.4, -8.4], color="#666666", linewidth=4, alpha=0.35, solid_capstyle="round")  # the Pareto front, about
        for (start, points), colour in zip(sorted(starts.items()), COLOURS):
            px, py = zip(*points)
            axis.plot(px, py, color=colour, linewidth=1.4)
            axis.plot(px[0], py[0], "o", color=colour, markersize=4)
            axis.plot(px[-1], py[-1], "*", color=colour, markersize=9, markeredgecolor="black", markeredgewidth=0.5)
        axis.set_title(method)
        axis.set_xlim(-10, 10)
        axis.set_ylim(-10, 10)
    for axis in axes.flat[len(paths):]:
        axis.set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(128).save(options.output, optimize=True)
    print(f"{options.output}: {len(paths)} methods")


if __name__ == "__main__":
    main()
