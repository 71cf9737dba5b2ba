# SPDX-License-Identifier: Apache-2.0
"""The pictures of a small comparison and of a small run as PNG.   usage: … FOLDER HTLNET COMPARE"""
import pathlib, struct, subprocess, sys
from support import begin

work, htlnet, compare = begin("matplotlib", "PIL"), sys.argv[2], sys.argv[3]
scripts = pathlib.Path(__file__).parents[2] / "scripts"
small = "--rows 3000 --batch-size 256 --tower 8 --epochs 2 --threads 1 --quiet".split()

def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, encoding="utf-8", cwd=work).stdout

def is_picture(path):
    head = path.read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and width > 300 and height > 200, (path, head)

run(compare, *small, "--models", "htlnet,mmoe", "--seeds", "1", "--bootstrap", "0", "--without-single-tasks", "--output", "grid")
drawn = run(sys.executable, scripts / "plot_compare.py", "grid", "--output", "pictures").split()
names = ["the_core_task_against_cost", "the_core_task_against_the_others", "learning_curves_on_the_validation_rows"]
assert sorted(drawn) == sorted(f"pictures/{name}.png" for name in names), drawn
for name in names:
    is_picture(work / "pictures" / f"{name}.png")

run(htlnet, "train", *small, "--output", "run")
run(sys.executable, scripts / "plot_run.py", "run", "--output", "run.png")
is_picture(work / "run.png")
print(f"{len(names) + 1} pictures are there")
