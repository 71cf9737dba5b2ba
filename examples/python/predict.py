# SPDX-License-Identifier: Apache-2.0
"""The predictions of a run of htlnet by NumPy alone: a proof that docs/files.md says all that is needed. Of binary tasks and regressions; label
evaluation expected_soft at a constant temperature, or plain.   usage: predict.py RUN ROWS.csv > PREDICTIONS.csv"""
import csv, json, pathlib, sys
import numpy as np

run = pathlib.Path(sys.argv[1])
manifest = json.loads((run / "manifest.json").read_text())
model, features, tasks = manifest["model"], *(json.loads((run / manifest["files"][name]).read_text()) for name in ("features", "tasks"))
data = (run / manifest["files"]["weights"]).read_bytes()
begin = 8 + int.from_bytes(data[:8], "little")
types = {"F32": np.float32, "I64": np.int64}
tensor = {name: np.frombuffer(data[begin + at["data_offsets"][0]:begin + at["data_offsets"][1]], types[at["dtype"]]).reshape(at["shape"]).astype(float)
          for name, at in json.loads(data[8:begin]).items() if name != "__metadata__"}

def linear(x, name):
    return x @ tensor[name + ".weight"].T + tensor[name + ".bias"]

def ids(field, text):
    if field["kind"] == "bucketised":
        return [1 + int(np.sum(np.float32(field["edges"]) <= np.float32(text)))] if text else [0]
    known = {word: i + 1 for i, word in enumerate(field["vocabulary"])}
    words = [word for word in text.split(field["separator"]) if word] if field["kind"] == "multi_valued" else [text]
    return [known.get(word, 0) for word in words] or [0]

def fuse(sources, name):
    if model["fusion"] == "concat":
        return linear(np.concatenate(sources, 1), name + ".value")
    scores = np.zeros((len(sources[0]), len(sources)))  # the mean, and one source
    if len(sources) > 1 and model["fusion"] == "attention":
        scores = np.stack([(linear(u, name + ".query") * linear(u, name + ".key")).sum(1) for u in sources], 1) / len(tensor[name + ".query.bias"]) ** .5
    elif len(sources) > 1 and model["fusion"] == "gate":
        scores = linear(np.concatenate(sources, 1), name + ".gate")
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return linear(sum(u * w[:, None] for u, w in zip(sources, (weights / weights.sum(1, keepdims=True)).T)), name + ".value")

def probability_shown(z):  # of the first row of a label embedding
    if model["label"]["evaluation"] == "plain":
        return 1 / (1 + np.exp(-z))
    assert model["label"]["evaluation"] == "expected_soft", model["label"]
    tau, nodes = float(model["label"]["temperature"]), np.arange(-39.75, 39.8, .375)  # the mean of sigmoid((z + logistic noise) / tau)
    return 1 / (1 + np.exp(-(z / max(tau, 1))[:, None] - nodes * min(tau, 1 / tau))) @ (.09375 / np.cosh(nodes / 2) ** 2)

rows = list(csv.DictReader(open(sys.argv[2], encoding="utf-8", newline="")))
table = tensor["embedding.weight"]
view = np.array([np.concatenate([table[[field["first_row"] + i for i in ids(known, row[known["name"]])]].sum(0)
                                 for known, field in zip(features["fields"], manifest["fields"])]) for row in rows])
numbers = np.array([[np.float32(row[column["name"]] or column["missing"]) for column in features["numeric"]] for row in rows], float)
hidden, label, predictions = {}, {}, {}
for name in manifest["order"]:
    task = next(task for task in tasks["tasks"] if task["name"] == name)
    inputs = [view] + ([numbers] if features["numeric"] else [])
    for kind, sources in (("representation", hidden), ("label", label)):
        given = [sources[parent] for parent in manifest["parents"][name] if parent in sources and model["transfer"] in ("both", kind)]
        inputs += [fuse(given, f"graph.fusions.{name}.{kind}")] if given else []
    layers = [np.concatenate(inputs, 1)]
    for i in range(len(model["tower"])):
        layers.append(np.maximum(linear(layers[-1], f"graph.towers.{name}.layers.{i}"), 0))
    output, hidden[name] = linear(layers[-1], f"graph.towers.{name}.output")[:, 0], layers[1 if model["representation"] == "first" else -1]
    if f"graph.label_embeddings.{name}.weight" in tensor:
        p = probability_shown(output)[:, None]
        label[name] = p * tensor[f"graph.label_embeddings.{name}.weight"][0] + (1 - p) * tensor[f"graph.label_embeddings.{name}.weight"][1]
    transform = task.get("transform", {"name": "none"})
    predictions[name] = {"none": lambda y: y, "log1p": np.expm1, "z_score": lambda y: y * transform["statistics"]["sd"] + transform["statistics"]["mean"]}[
        transform["name"]](output) if task["kind"] == "regression" else 1 / (1 + np.exp(-output))
np.savetxt(sys.stdout, np.stack([predictions[task["name"]] for task in tasks["tasks"]], 1), "%.9g", ",", header=",".join(t["name"] for t in tasks["tasks"]), comments="")
