# SPDX-License-Identifier: Apache-2.0
"""The model of a run of htlnet as a torch.nn.Module whose parameters have the names of the file. As a program it exports the module with a dynamic number of
rows, compiles it ahead of time, and predicts with what came of that.   usage: twin.py RUN ROWS.csv MODEL.pt2 > PREDICTIONS.csv"""
import csv, json, math, pathlib, sys
import torch
from safetensors.torch import load_file
from torch import nn

class Fusion(nn.Module):
    def __init__(self, kind, sources, width, outputs):
        super().__init__()
        self.kind, self.value = kind, nn.Linear(width * (sources if kind == "concat" else 1), outputs)
        if sources > 1 and kind == "attention":
            self.query, self.key = nn.Linear(width, outputs), nn.Linear(width, outputs)
        if sources > 1 and kind == "gate":
            self.gate = nn.Linear(width * sources, sources)

    def forward(self, sources):
        if len(sources) == 1 or self.kind == "concat":
            return self.value(torch.cat(sources, 1))
        stacked = torch.stack(sources, 1)
        if self.kind == "mean":
            return self.value(stacked.mean(1))
        scores = self.gate(stacked.flatten(1)) if self.kind == "gate" else (self.query(stacked) * self.key(stacked)).sum(2) / self.value.out_features ** .5
        return self.value((stacked * scores.softmax(1).unsqueeze(2)).sum(1))

class LabelEmbedding(nn.Module):
    def __init__(self, classes, dim, temperature, evaluation, **training):
        super().__init__()
        assert evaluation == "plain" or (evaluation == "expected_soft" and temperature.startswith("constant:")), (evaluation, temperature)
        self.weight, self.plain, tau = nn.Parameter(torch.empty(classes, dim)), evaluation == "plain", float(temperature.removeprefix("constant:"))
        y, v = torch.arange(-8, 40, 1 / 256, dtype=torch.float64), torch.arange(-4, 36, .5, dtype=torch.float64)
        below = (-v - (-v).exp() - (min(tau, 1 / tau) * v - y.unsqueeze(1)).exp()).exp().sum(1) / 2  # see predict.py
        self.register_buffer("noise", torch.stack([below, torch.gradient(below, spacing=1 / 256)[0]]), persistent=False)
        self.register_buffer("nodes", torch.arange(-8, 32, .5, dtype=torch.float64), persistent=False)
        self.scale = max(tau, 1)

    def forward(self, z):
        if self.plain:
            return z.softmax(1) @ self.weight
        z = z.double() / self.scale
        place = ((z.amax(1, keepdim=True) - z).unsqueeze(2) + self.nodes + 8).clamp(max=47.99) * 256
        chance, slope = torch.lerp(self.noise[:, place.long()], self.noise[:, place.long() + 1], place.frac())
        weights = (slope / chance.clamp(min=1e-99) * chance.clamp(min=1e-99).prod(1, keepdim=True)).sum(2) / 2
        return weights.to(self.weight.dtype) @ self.weight

class Tower(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip([inputs] + hidden, hidden))
        self.output = nn.Linear(hidden[-1], outputs)

    def forward(self, x):
        hidden = [x := layer(x).relu() for layer in self.layers]
        return self.output(x), hidden

class Twin(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.manifest, self.features, tasks = (json.loads((run / f"{name}.json").read_text("utf-8")) for name in ("manifest", "features", "tasks"))
        self.tasks, self.model, parents = {task["name"]: task for task in tasks["tasks"]}, self.manifest["model"], self.manifest["parents"]
        self.embedding = nn.Embedding(sum(field["rows"] for field in self.manifest["fields"]), self.manifest["embedding"]["dim"])
        self.towers, self.label_embeddings, self.fusions = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        label, tower, transfer = self.model["label"], self.model["tower"], self.model["transfer"]
        for name in self.manifest["order"]:
            task, width, fusions = self.tasks[name], self.model["input_width"] + self.model["numeric_width"], {}
            sources = {"representation": (parents[name], tower[0 if self.model["representation"] == "first" else -1]),
                       "label": ([parent for parent in parents[name] if parent in self.label_embeddings], label["dim"])}
            for kind, (given, size) in sources.items():
                if given and transfer in ("both", kind):
                    fusions[kind], width = Fusion(self.model["fusion"], len(given), size, size), width + size
            if fusions:
                self.fusions[name] = nn.ModuleDict(fusions)
            self.towers[name] = Tower(width, tower, task.get("classes", 1))
            if transfer in ("both", "label") and task["kind"] != "regression" and any(name in others for others in parents.values()):
                self.label_embeddings[name] = LabelEmbedding(task.get("classes", 2), **label)
        # "graph" is a name that torch.export keeps for itself; what else is in the file only training reads
        weights = {name.removeprefix("graph."): value for name, value in load_file(run / self.manifest["files"]["weights"]).items()}
        self.load_state_dict({name: value for name, value in weights.items() if name.endswith((".weight", ".bias"))})

    def forward(self, rows, numbers):
        """Rows of the table [B, F, V], -1 where a field has fewer than V values, and numbers [B, N] to predictions, one tensor a task."""
        view = (self.embedding(rows.clamp(min=0)) * (rows >= 0).unsqueeze(3)).sum(2)
        known, predictions = {"representation": {}, "label": {}}, {}
        for name in self.manifest["order"]:
            inputs = [view.flatten(1), numbers]
            for kind, fusion in (self.fusions[name].items() if name in self.fusions else ()):
                inputs.append(fusion([known[kind][parent] for parent in self.manifest["parents"][name] if parent in known[kind]]))
            z, hidden = self.towers[name](torch.cat(inputs, 1))
            known["representation"][name] = hidden[0 if self.model["representation"] == "first" else -1]
            logits = torch.cat([z, torch.zeros_like(z)], 1) if self.tasks[name]["kind"] == "binary" else z
            if name in self.label_embeddings:
                known["label"][name] = self.label_embeddings[name](logits)
            predictions[name] = self.prediction(self.tasks[name], logits)
        return [predictions[name] for name in self.tasks]

    def prediction(self, task, z):
        transform = task.get("transform", {"name": "none"})
        if task["kind"] != "regression":
            return z.softmax(1)[:, :task.get("classes", 1)]
        if transform["name"] == "z_score":
            return z * transform["statistics"]["sd"] + transform["statistics"]["mean"]
        return z.expm1() if transform["name"] == "log1p" else z

    def read(self, path):
        """The inputs of forward() for the raw rows of a CSV file."""
        def number(text, missing=math.nan):
            return torch.tensor(float(missing if text.lower() in ("", "nan", "na", "n/a", "null", "none") else text))
        def ids(field, text):
            if field["kind"] == "bucketised":
                return [0 if number(text).isnan() else 1 + int((torch.tensor(field["edges"]) <= number(text)).sum())]
            words = [word for word in text.split(field["separator"]) if word] if field["kind"] == "multi_valued" else [text]
            return [field["vocabulary"].index(word) + 1 if word in field["vocabulary"] else 0 for word in words] or [0]
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        places = [(field, at["first_row"]) for field, at in zip(self.features["fields"], self.manifest["fields"])]
        bags = [[[first + i for i in ids(field, row[field["name"]])] for field, first in places] for row in rows]
        longest = max(len(bag) for row in bags for bag in row)
        numbers = [[number(row[column["name"]], column["missing"]) for column in self.features["numeric"]] for row in rows]
        return torch.tensor([[bag + [-1] * (longest - len(bag)) for bag in row] for row in bags]), torch.tensor(numbers)

    def table(self, predictions):
        """What forward() gave as the text of a CSV file, a column a task, one a class where it has several."""
        names = [f"{name}.{k}" if "classes" in task else name for name, task in self.tasks.items() for k in range(task.get("classes", 1))]
        return "\n".join([",".join(names)] + [",".join(f"{number:.9g}" for number in row) for row in torch.cat(predictions, 1).tolist()]) + "\n"

if __name__ == "__main__":
    twin = Twin(pathlib.Path(sys.argv[1])).eval()
    rows, numbers = twin.read(sys.argv[2])
    count = torch.export.Dim("count", min=1)
    with torch.no_grad():
        program = torch.export.export(twin, (rows[:5], numbers[:5]), dynamic_shapes=({0: count}, {0: count}))
        package = torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[3])
        print(twin.table(torch._inductor.aoti_load_package(package)(rows, numbers)), end="")
