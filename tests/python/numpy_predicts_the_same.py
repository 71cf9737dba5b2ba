# SPDX-License-Identifier: Apache-2.0
"""examples/python/predict.py on the kept run, and on new runs of each form of the model, predicts what htlnet predicts.   usage: … FOLDER HTLNET"""
import sys
from support import begin, examples, kept, new_runs, run, same_numbers

work, htlnet = begin("numpy"), sys.argv[2]
for folder, rows, expected in [(kept / "run", kept / "rows.csv", kept / "predictions.csv"), *new_runs(work, htlnet)]:
    found = work / f"{folder.name}.numpy.csv"
    run(sys.executable, "-B", examples / "predict.py", folder, rows, output=found)
    same_numbers(expected, found)
