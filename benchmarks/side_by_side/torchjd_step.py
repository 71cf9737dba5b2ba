# SPDX-License-Identifier: Apache-2.0
"""One training step with TorchJD: T task gradients through what the tasks share, combined by one of its aggregators.

--model tables   an embedding per field (43 fields, d = 10) under three towers 128-64-32-1; side_by_side_step --model shared_embedding is ours
--model trunk    a dense 512-512 bottom under four towers 64-1; side_by_side_trunk is ours
--engine autojac: a Jacobian of the shared parameters, aggregated; autogram: their Gramian, weights, one weighted backward
"""
import torch
from torch import nn
from torchjd import aggregation, autogram, autojac
from torchjd.autojac import jac_to_grad

import workload

AGGREGATORS = {"upgrad": aggregation.UPGrad, "mgda": aggregation.MGDA, "pcgrad": aggregation.PCGrad}
WEIGHTINGS = {"upgrad": aggregation.UPGradWeighting, "mgda": aggregation.MGDAWeighting, "pcgrad": aggregation.PCGradWeighting}


class Tables(nn.Module):
    def __init__(self, sizes, dim=10):
        super().__init__()
        self.shared = nn.ModuleList([nn.Embedding(size, dim) for size in sizes])
        for embedding in self.shared:
            nn.init.normal_(embedding.weight, std=0.01)
        width = len(sizes) * dim
        self.towers = nn.ModuleList([nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
                                                   nn.Linear(32, 1)) for _ in range(3)])

    def features(self, ids):
        return torch.cat([embedding(ids[:, f]) for f, embedding in enumerate(self.shared)], 1)

    def losses(self, features, labels):
        outputs = [tower(features).squeeze(1) for tower in self.towers]
        bce = nn.functional.binary_cross_entropy_with_logits
        return [bce(outputs[0], labels[0]), bce(outputs[1], labels[1]), nn.functional.mse_loss(outputs[2], labels[2])]


class Trunk(nn.Module):
    def __init__(self, width=512, tasks=4):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.towers = nn.ModuleList([nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1)) for _ in range(tasks)])

    def features(self, x):
        return self.shared(x)

    def losses(self, features, labels):
        return [nn.functional.mse_loss(tower(features).squeeze(1), labels[t]) for t, tower in enumerate(self.towers)]


def main():
    chosen = workload.options(__doc__.splitlines()[0], model=(["tables", "trunk"], "tables"), engine=(["autojac", "autogram"], "autojac"),
                              method=(list(AGGREGATORS), "upgrad"))
    if chosen.model == "tables":
        sizes = workload.field_sizes(chosen.rows)
        model = Tables(sizes)
        data = [(ids, (click, view, watch)) for ids, click, view, watch in workload.batches(sizes, chosen.batch, 16)]
    else:
        model = Trunk()
        data = [(torch.randn(chosen.batch, 512), torch.randn(4, chosen.batch)) for _ in range(16)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    aggregator, weighting = AGGREGATORS[chosen.method](), WEIGHTINGS[chosen.method]()
    engine = autogram.Engine(model.shared, batch_dim=None) if chosen.engine == "autogram" else None

    def step(inputs, labels):
        optimizer.zero_grad()
        features = model.features(inputs)
        losses = model.losses(features, labels)
        if chosen.engine == "autojac":
            autojac.mtl_backward(losses, features=features)
            jac_to_grad(model.shared.parameters(), aggregator)
        else:
            stacked = torch.stack(losses)
            stacked.backward(weighting(engine.compute_gramian(stacked)))
        if chosen.clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), chosen.clip)
        optimizer.step()
        return sum(losses).detach()

    workload.measure(f"TorchJD {chosen.engine} {chosen.method}", chosen, step, data, model=chosen.model)


if __name__ == "__main__":
    main()
