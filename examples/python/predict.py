# SPDX-License-Identifier: Apache-2.0
"""The predictions of a run of htlnet by NumPy alone: a proof that docs/files.md says all that is needed. Label evaluation plain, or expected_soft at a
constant temperature.   usage: predict.py RUN ROWS.csv > PREDICTIONS.csv"""
import csv, json, pathlib, sys
import numpy as np

run = pathlib.Path(sys.argv[1])
manifest, features, tasks = (json.loads((run / name).read_text("utf-8")) for name in ("manifest.json", "features.json", "tasks.json"))
model, data = manifest["model"], (run / manifest["files"]["weights"]).read_bytes()
begin = 8 + int.from_bytes(data[:8], "little")
tensor = {name: np.frombuffer(data[begin + at["data_offsets"][0]:begin + at["data_offsets"][1]], np.float32).reshape(at["shape"])
          for name, at in json.loads(data[8:begin]).items() if at.get("dtype") == "F32"}

def number(text, missing=np.nan):
    return np.float32(missing if text.lower() in ("", "nan", "na", "n/a", "null", "none") else text)

def ids(field, text):
    if field["kind"] == "bucketised":
        return [0 if np.isnan(number(text)) else 1 + int(np.sum(np.float32(field["edges"]) <= number(text)))]
    words = [word for word in text.split(field["separator"]) if word] if field["kind"] == "multi_valued" else [text]
    return [field["vocabulary"].index(word) + 1 if word in field["vocabulary"] else 0 for word in words] or [0]

def linear(x, name):
    return x @ tensor[name + ".weight"].T + tensor[name + ".bias"]

def softmax(z):
    return np.exp(z - z.max(1, keepdims=True)) / np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)

def fuse(sources, name):
    side_by_side, stacked = np.concatenate(sources, 1), np.stack(sources, 1)
    if model["fusion"] == "concat":
        return linear(side_by_side, name + ".value")
    scores = np.zeros((len(stacked), len(sources)))  # the mean, and one source
    if name + ".gate.weight" in tensor:
        scores = linear(side_by_side, name + ".gate")
    elif name + ".query.weight" in tensor:
        scores = (linear(stacked, name + ".query") * linear(stacked, name + ".key")).sum(2) / len(tensor[name + ".query.bias"]) ** .5
    return linear((stacked * softmax(scores)[:, :, None]).sum(1), name + ".value")

def label_weights(z, evaluation, temperature):
    if evaluation == "plain":
        return softmax(z)
    assert evaluation == "expected_soft", evaluation  # the chance that class k has the largest z + g + tau g', g and g' Gumbel noise
    tau, y, v = float(temperature.removeprefix("constant:")), np.arange(-8, 40, 1 / 256), np.arange(-4, 36, .5)
    below = np.exp(-v - np.exp(-v) - np.exp(min(tau, 1 / tau) * v - y[:, None])).sum(1) / 2  # the noise's distribution, the larger scale taken out
    x = (z.max(1, keepdims=True) - z)[:, :, None] / max(tau, 1) + np.arange(-8, 32, .5)
    chance = np.maximum(np.interp(x, y, below), 1e-99)
    return (np.interp(x, y, np.gradient(below, y)) / chance * chance.prod(1, keepdims=True)).sum(2) / 2

def inverse(z, name="none", statistics={}):
    return np.expm1(z) if name == "log1p" else z * statistics.get("sd", 1) + statistics.get("mean", 0)

rows = list(csv.DictReader(open(sys.argv[2], encoding="utf-8", newline="")))
parts = [np.array([tensor["embedding.weight"][[at["first_row"] + i for i in ids(field, row[field["name"]])]].sum(0) for row in rows])
         for field, at in zip(features["fields"], manifest["fields"])]
parts += [np.array([[number(row[column["name"]], column["missing"])] for row in rows]) for column in features["numeric"]]
known, predictions = {"representation": {}, "label": {}}, {}
for task in sorted(tasks["tasks"], key=lambda task: manifest["order"].index(task["name"])):
    name, inputs = task["name"], list(parts)
    for kind in known:
        sources = [known[kind][parent] for parent in manifest["parents"][name] if parent in known[kind] and model["transfer"] in ("both", kind)]
        inputs += [fuse(sources, f"graph.fusions.{name}.{kind}")] if sources else []
    layers = [np.concatenate(inputs, 1)]
    for i in range(len(model["tower"])):
        layers.append(np.maximum(linear(layers[-1], f"graph.towers.{name}.layers.{i}"), 0))
    z, known["representation"][name] = linear(layers[-1], f"graph.towers.{name}.output"), layers[1 if model["representation"] == "first" else -1]
    z = np.concatenate([z, 0 * z], 1) if task["kind"] == "binary" else z
    if f"graph.label_embeddings.{name}.weight" in tensor:
        known["label"][name] = label_weights(z, model["label"]["evaluation"], model["label"]["temperature"]) @ tensor[f"graph.label_embeddings.{name}.weight"]
    predictions[name] = inverse(z, **task.get("transform", {})) if task["kind"] == "regression" else softmax(z)[:, :task.get("classes", 1)]
header = [f"{task['name']}.{k}" if "classes" in task else task["name"] for task in tasks["tasks"] for k in range(task.get("classes", 1))]
np.savetxt(sys.stdout, np.concatenate([predictions[task["name"]] for task in tasks["tasks"]], 1), "%.9g", ",", header=",".join(header), comments="")
