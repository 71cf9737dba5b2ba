# SPDX-License-Identifier: Apache-2.0
"""What the tests in Python share."""
import csv, importlib.util, pathlib, shutil, subprocess, sys

root = pathlib.Path(__file__).resolve().parents[2]
kept = root / "tests/files/v1"
examples = root / "examples/python"

def begin(*packages):
    """An empty folder to write into, the first argument; skips where a package is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not here: skipped; scripts/setup.sh --python makes a Python that has it")
            sys.exit()
    work = pathlib.Path(sys.argv[1])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work

def run(*command, output=None, **more):
    """Runs a program; what it prints goes to a file."""
    with open(output or "/dev/null", "w") as file:
        subprocess.run([str(word) for word in command], check=True, stdout=file, **more)

def same_numbers(expected, found):
    """Checks that two CSV files have one header, and numbers that differ by 1e-5 of max(1, |x|) at most."""
    (names, *rows), (found_names, *found_rows) = (list(csv.reader(open(path, encoding="utf-8", newline=""))) for path in (expected, found))
    assert names == found_names, (names, found_names)
    assert 0 < len(rows) == len(found_rows), (len(rows), len(found_rows))
    worst = 0.0
    for number, (row, other) in enumerate(zip(rows, found_rows)):
        for name, x, y in zip(names, map(float, row), map(float, other), strict=True):
            difference = abs(x - y) / max(1, abs(x))
            assert difference <= 1e-5, f"row {number}, {name}: expected {x}, got {y}"
            worst = max(worst, difference)
    print(f"{found}: {len(rows)} rows of {len(names)} numbers, the largest difference {worst:.1e}")

def new_runs(work, htlnet):
    """Trains a run of each form of the model; yields its folder, its rows, and what htlnet predicts for them."""
    rows = work / "data/rows.csv"
    run(htlnet, "synthesize", "--scenario", "video", "--rows", 400, "--seed", 5, "--output", work / "data")
    forms = {"defaults": "", "gate": "--fusion gate --representation last --temperature 3", "concat": "--fusion concat --transfer representation",
             "mean": "--fusion mean --label-hardness straight_through --core-label log1p", "none": "--model shared_embedding"}
    for name, options in forms.items():
        run(htlnet, "train", "--dataset", "csv", "--data", rows, "--schema", work / "data/schema.toml", "--tower", "16,8", "--epochs", 2, "--batch-size", 32,
            "--quiet", "--row-lr", .5, "--dense-lr", .02, "--average", "none", "--threads", 1, *options.split(), "--output", work / name)
        run(htlnet, "predict", "--run", work / name, "--data", rows, "--output", work / f"{name}.csv")
        yield work / name, rows, work / f"{name}.csv"
