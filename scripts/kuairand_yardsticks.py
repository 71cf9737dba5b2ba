#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What one has on KuaiRand-Pure without the library, with scikit-learn or plain PyTorch: predictions of the test rows, and their metrics.

python3 scripts/kuairand_yardsticks.py trees --data DIR --output trees.safetensors        needs scripts/requirements.txt
python3 scripts/kuairand_yardsticks.py network --data DIR --output network.safetensors    writes network.seed1.safetensors and so on, --seeds of them (5)

DIR holds log_standard_*.csv, user_features_pure.csv and video_features_basic_pure.csv, plain or gzip. A file has float32 tensors [N] click and long_view
(probabilities) and watch_time (seconds), in the order in which htlnet and compare read the test rows: `compare --predictions trees=trees.safetensors` takes it.

trees: HistGradientBoosting, one model a task, on what the log told before a row, by time_ms: how often its user, video, author, tag, music, user × tab,
user × tag, video × tab and tab × hour were there, and their means of click, long view and log(1 + seconds), smoothed by 20 rows of the training mean; and
duration, weekday, hour, tab, four counts of the user. Validation rows choose the rate, the number of trees, and the loss of seconds. Nothing is drawn.

network: HTLNet (Tang et al., RecSys 2024) on 43 fields of ids, straight from its description: towers on shared embeddings; label embeddings of predicted
labels, and first hidden layers, go along click → long_view → watch_time through attention, and no gradient comes back; the shared gradient is adjusted to
watch_time's, with a backward pass a task. Adam for everything, z-scored seconds, no regularisation but the choice of the epoch by validation NRMSE.
"""
import argparse
import pathlib
import sys

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from torch import nn

TASKS = ["click", "long_view", "watch_time"]  # in the order of the chain; the last is the core
COUNTS = ["follow_user_num", "fans_user_num", "friend_user_num", "register_days"]  # of the user
ITEM = ["video_id", "author_id", "video_type", "upload_type", "video_duration", "music_id", "music_type", "tag"]
CONTEXT = ["weekday", "hour", "tab", "is_rand"]
METRICS = ["click AUC", "long_view AUC", "watch_time NRMSE", "watch_time Spearman"]


def read_files(folder, prefix):
    """The files NAME.csv and NAME.csv.gz in order of NAME, as texts; where both are there, the plain one."""
    found = {}
    for path in [*folder.glob(f"{prefix}*.csv"), *folder.glob(f"{prefix}*.csv.gz")]:
        found.setdefault(path.name.removesuffix(".gz")[:-4], path)
    if not found:
        sys.exit(f'kuairand_yardsticks: expected a file {prefix}*.csv or {prefix}*.csv.gz in "{folder}", found none')
    return pd.concat([pd.read_csv(found[name], dtype=str, keep_default_na=False) for name in sorted(found)], ignore_index=True)


def read(options):
    """All rows of the logs with their features, the labels [N, 3], and a mask of the rows of each part."""
    log = read_files(options.data, "log_standard_").drop_duplicates(ignore_index=True)  # of rows that are equal in every byte, the first one counts
    labels = np.stack([log.is_click.astype(float), log.long_view.astype(float), log.play_time_ms.astype(float) / 1000], 1)
    days = pd.to_datetime(log.date)
    log["weekday"], log["hour"] = days.dt.day_of_week.astype(str), (log.hourmin.astype(int) // 100).astype(str)
    log = log[["user_id", "video_id", "time_ms", "duration_ms", *CONTEXT]]
    users, videos = read_files(options.data, "user_features_pure"), read_files(options.data, "video_features_basic_pure")
    rows = log.merge(users, "left", "user_id").merge(videos[ITEM], "left", "video_id").fillna("")
    parts = {}
    for part in ["train", "valid", "test"]:
        first, _, last = getattr(options, part + "_dates").partition(":")
        parts[part] = days.between(first, last or first).to_numpy()
        if not parts[part].any():
            sys.exit(f"kuairand_yardsticks: expected rows of {part} days, found none; the logs have {days.min():%Y-%m-%d} to {days.max():%Y-%m-%d}")
    return rows, ["user_id", *users.columns.drop("user_id"), *ITEM, *CONTEXT], labels, parts


def nrmse(prediction, label):
    return np.sqrt(np.mean((prediction - label) ** 2)) / label.std()


def measure(predictions, labels):
    click, long_view, seconds = (predictions[task] for task in TASKS)
    ranks = (pd.Series(values).rank() for values in (seconds, labels[:, 2]))
    return [roc_auc_score(labels[:, 0], click), roc_auc_score(labels[:, 1], long_view), nrmse(seconds, labels[:, 2]), np.corrcoef(*ranks)[0, 1]]


def earlier_sums(key, time, targets):
    """Of each row: the sums of targets over the rows of its key with a smaller time, and how many those are."""
    order = np.lexsort((time, key))
    key, time, place = key[order], time[order], np.arange(len(order))
    is_new_key = np.r_[True, key[1:] != key[:-1]]
    is_new_time = is_new_key | np.r_[True, time[1:] != time[:-1]]
    begin, end = (np.maximum.accumulate(np.where(mark, place, 0)) for mark in (is_new_key, is_new_time))
    running = np.vstack([np.zeros(targets.shape[1]), np.cumsum(targets[order], 0)])
    back = np.argsort(order)
    return (running[end] - running[begin])[back], (end - begin)[back]


def statistics(rows, labels, train, strength=20):
    targets = np.column_stack([labels[:, :2], np.log1p(labels[:, 2])])
    prior, time = targets[train].mean(0), rows.time_ms.astype("int64").to_numpy()
    columns = [rows[name].replace("", np.nan).astype(float) for name in ["duration_ms", *CONTEXT[:3], *COUNTS]]
    for names in ("user_id", "video_id", "author_id", "tag", "music_id", "user_id tab", "user_id tag", "video_id tab", "tab hour"):
        sums, counts = earlier_sums(rows.groupby(names.split(), sort=False).ngroup().to_numpy(), time, targets)
        columns += [*((sums + strength * prior) / (counts + strength)[:, None]).T, counts]
    return np.column_stack(columns)


def fitted(inputs, label, parts, rate, loss, in_logs):
    """Trees on the training rows, as many as score best on the validation rows: that score, greater is better, and the predictions of the test rows."""
    train, valid, test = parts.values()
    kind = HistGradientBoostingClassifier if loss == "log_loss" else HistGradientBoostingRegressor
    trees = kind(loss=loss, learning_rate=rate, max_iter=600, early_stopping=True, n_iter_no_change=25, min_samples_leaf=400, random_state=0)
    target = np.log1p(label) if in_logs else label
    trees.fit(inputs[train], target[train], X_val=inputs[valid], y_val=target[valid])
    best, count, chosen = -np.inf, 0, None
    for n, values in enumerate(trees.staged_predict(inputs) if loss != "log_loss" else trees.staged_predict_proba(inputs), 1):
        values = values[:, 1] if loss == "log_loss" else values
        if in_logs:  # the mean of what exp() leaves of the training rows' residuals: Duan's smearing, 1983
            values = np.exp(values) * np.mean(np.exp(target[train] - values[train])) - 1
        score = roc_auc_score(label[valid], values[valid]) if loss == "log_loss" else -nrmse(values[valid], label[valid])
        if score > best:
            best, count, chosen = score, n, values[test]
    print(f"  {loss}{' of log(1 + seconds)' * in_logs}, rate {rate}: {count} trees, {abs(best):.4f} on the validation rows", flush=True)
    return best, chosen


def run_trees(options):
    rows, _, labels, parts = read(options)
    inputs, predictions = statistics(rows, labels, parts["train"]), {}
    for task, label in zip(TASKS, labels.T):
        print(task, "(NRMSE)" if task == TASKS[-1] else "(AUC)")
        ways = [("squared_error", False), ("poisson", False), ("squared_error", True)] if task == TASKS[-1] else [("log_loss", False)]
        found = [fitted(inputs, label, parts, rate, *way) for way in ways for rate in (0.1, 0.05, 0.025)]
        predictions[task] = max(found, key=lambda one: one[0])[1]
    return [(options.output, predictions)], labels[parts["test"]]


def ids_of_fields(rows, fields, train, buckets=32):
    """Ids [N, F] of one table for all fields, and its size. A value that no training row has is its field's id 0, a missing one too."""
    columns, size = [], 0
    for name in fields:
        if name in COUNTS or name == "video_duration":
            values = pd.to_numeric(rows[name]).to_numpy(float)
            edges = np.unique(np.nanquantile(values[train], np.arange(1, buckets) / buckets))
            ids, width = np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, "right")), len(edges) + 2
        else:
            known = pd.Index(rows[name][train].unique()).drop("", errors="ignore")
            ids, width = 1 + known.get_indexer(rows[name]), len(known) + 1
        columns.append(size + ids)
        size += width
    return torch.from_numpy(np.column_stack(columns)), size


class Fusion(nn.Module):
    """Attention over what the preceding tasks pass on, Eq. 13 and 14 of the paper."""
    def __init__(self, width):
        super().__init__()
        self.value, self.query, self.key = (nn.Linear(width, width) for _ in range(3))

    def forward(self, sources):
        sources = torch.stack(sources, 1)  # [B, S, W]
        scores = (self.query(sources) * self.key(sources)).sum(2) / sources.shape[2] ** 0.5
        return (scores.softmax(1).unsqueeze(2) * self.value(sources)).sum(1)


class HTLNet(nn.Module):
    def __init__(self, ids, fields, dim=10, hidden=(128, 64, 32)):
        super().__init__()
        self.table = nn.Embedding(ids, dim)
        nn.init.normal_(self.table.weight, std=0.01)
        self.towers, self.fusions, self.label_fusions = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.labels = nn.ParameterList(nn.Parameter(torch.randn(2, dim)) for _ in TASKS[:-1])  # row 0 is the positive class
        for t in range(len(TASKS)):
            widths = [fields * dim + (hidden[0] + dim if t else 0), *hidden]
            self.towers.append(nn.ModuleList([*(nn.Linear(i, o) for i, o in zip(widths, hidden)), nn.Linear(hidden[-1], 1)]))
            self.fusions.append(Fusion(hidden[0]) if t else nn.Identity())
            self.label_fusions.append(Fusion(dim) if t else nn.Identity())

    def forward(self, ids):
        shared = self.table(ids).flatten(1)
        outputs, passed, labels = [], [], []
        for t, tower in enumerate(self.towers):
            x = torch.cat([shared, self.fusions[t](passed), self.label_fusions[t](labels)], 1) if t else shared
            layers = [x := layer(x).relu() for layer in tower[:-1]]
            passed.append(layers[0].detach())
            outputs.append(tower[-1](x))
            if t < len(self.labels):  # a label drawn from the prediction: Gumbel-Softmax of two classes at temperature 1
                logit = outputs[-1].detach() + (torch.logit(torch.rand_like(outputs[-1]), 1e-6) if self.training else 0)
                labels.append(logit.sigmoid() @ self.labels[t][:1] + (-logit).sigmoid() @ self.labels[t][1:])
        return torch.cat(outputs, 1)  # [B, 3]: logits, and the z-scored seconds


def adjust_gradients(net, losses, alpha=1.0, gamma=0.5, clip=100.0):
    """Algorithm 1: what of a task's gradient on the table opposes the core's is taken off, and its norm is brought nearer to the core's."""
    parameters = list(net.parameters())
    found = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    for parameter, *gradients in zip(parameters, *found):
        if parameter is net.table.weight:
            core = gradients[-1]
            for t, own in enumerate(gradients[:-1]):
                size, along = core.norm() / own.norm(), (own * core).sum() / (core * core).sum()
                own = own - alpha * along.clamp(max=0) * core
                gradients[t] = gamma * size.clamp(1 / clip, clip) * own + (1 - gamma) * own
        parameter.grad = sum(gradient for gradient in gradients if gradient is not None)


@torch.no_grad()
def predict(net, ids, centre, scale):
    outputs = torch.cat([net.eval()(batch) for batch in ids.split(4096)]).double().numpy()
    return dict(zip(TASKS, [*(1 / (1 + np.exp(-outputs[:, :2].T))), outputs[:, 2] * scale + centre]))


def run_network(options):
    rows, fields, labels, parts = read(options)
    ids, size = ids_of_fields(rows, fields, parts["train"])
    train, valid, test = (ids[torch.tensor(mask)] for mask in parts.values())
    seconds, results = labels[parts["train"], 2], []
    centre, scale = seconds.mean(), seconds.std()
    targets = torch.from_numpy(np.column_stack([labels[parts["train"], :2], (seconds - centre) / scale])).float()
    for seed in range(1, options.seeds + 1):
        torch.manual_seed(seed)
        net, best, chosen = HTLNet(size, len(fields)), np.inf, None
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for epoch in range(1, options.epochs + 1):
            for batch in torch.randperm(len(train)).split(1024):
                outputs, wanted = net.train()(train[batch]), targets[batch]
                losses = [nn.functional.binary_cross_entropy_with_logits(outputs[:, t], wanted[:, t]) for t in (0, 1)]
                adjust_gradients(net, [*losses, nn.functional.mse_loss(outputs[:, 2], wanted[:, 2])])
                optimizer.step()
            found = measure(predict(net, valid, centre, scale), labels[parts["valid"]])
            print(f"seed {seed}, epoch {epoch}, validation rows: " + ", ".join(f"{name} {value:.4f}" for name, value in zip(METRICS, found)), flush=True)
            if found[2] < best:
                best, chosen = found[2], predict(net, test, centre, scale)
        results.append((options.output.with_suffix(f".seed{seed}{options.output.suffix}"), chosen))
    return results, labels[parts["test"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("yardstick", choices=["trees", "network"])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="the folder of KuaiRand-Pure's files")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the file to write; of the network one a seed, with .seedN before the suffix")
    for part, days in (("train", "2022-04-25:2022-05-02"), ("valid", "2022-05-03"), ("test", "2022-05-04")):
        parser.add_argument(f"--{part}-dates", default=days, metavar="DAY[:DAY]", help=f"default: {days}")
    parser.add_argument("--seeds", type=int, default=5, help="the network is trained with the seeds 1 … N; default: 5")
    parser.add_argument("--epochs", type=int, default=4, help="of the network; the best one counts; default: 4")
    options = parser.parse_args()
    results, labels = (run_trees if options.yardstick == "trees" else run_network)(options)
    print("\n| test rows | " + " | ".join(METRICS) + " |\n|---|" + "---:|" * len(METRICS))
    table = []
    for path, predictions in results:
        save_file({task: np.ascontiguousarray(values, dtype=np.float32) for task, values in predictions.items()}, path)
        table.append(measure(predictions, labels))
        print(f"| {path.name} | " + " | ".join(f"{value:.4f}" for value in table[-1]) + " |")
    if len(table) > 1:
        print("| mean ± sd | " + " | ".join(f"{mean:.4f} ± {sd:.4f}" for mean, sd in zip(np.mean(table, 0), np.std(table, 0, ddof=1))) + " |")


if __name__ == "__main__":
    main()
