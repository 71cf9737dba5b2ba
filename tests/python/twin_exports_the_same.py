# SPDX-License-Identifier: Apache-2.0
"""examples/python/twin.py loads the kept run, goes through torch.export, and predicts by what was compiled what htlnet predicts; the module itself does so for
new runs of each form of the model.   usage: … FOLDER HTLNET"""
import os, sys
from support import begin, examples, kept, new_runs, run, same_numbers

work, htlnet = begin("torch", "numpy", "safetensors"), sys.argv[2]
# Scalar code spares half a minute of compiling probes of the processor's vector instructions
environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(work / "cache"), "TORCHINDUCTOR_VEC_ISA_OK": "0"}
run(sys.executable, "-B", examples / "twin.py", kept / "run", kept / "rows.csv", work / "model.pt2", output=work / "twin.csv", env=environment)
same_numbers(kept / "predictions.csv", work / "twin.csv")

sys.path.append(str(examples))
import torch
from twin import Twin

for folder, rows, expected in new_runs(work, htlnet):
    twin = Twin(folder).eval()
    with torch.no_grad():
        table = twin.table(twin(*twin.read(rows)))
    (work / f"{folder.name}.twin.csv").write_text(table, "utf-8")
    same_numbers(expected, work / f"{folder.name}.twin.csv")
