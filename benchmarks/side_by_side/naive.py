# SPDX-License-Identifier: Apache-2.0
"""A straightforward trainer: one backward of the sum, then one more for each task, dense shared gradients, gradient adjustment, clipping, dense Adam."""
import torch
from torch import nn

import workload
from network import Network, task_losses

ALPHA, GAMMA, CLIP_RATIO, CORE = 1.0, 0.5, 100.0, 2


class HtlNet(nn.Module):
    def __init__(self, sizes, dim=10):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(size, dim) for size in sizes])
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.01)
        self.network = Network(len(sizes) * dim)

    def forward(self, ids):
        e = torch.cat([embedding(ids[:, f]) for f, embedding in enumerate(self.embeddings)], 1)
        return self.network([e, e, e])


def adjust(gradients):
    """The tasks' shared gradients, flat -> the shared gradient: project on conflict, scale towards the core's norm, sum."""
    core = gradients[CORE]
    core_norm = core.norm()
    total = core.clone()
    for t, gradient in enumerate(gradients):
        if t == CORE:
            continue
        norm = gradient.norm()
        ratio = (core_norm / norm).clamp(1 / CLIP_RATIO, CLIP_RATIO)
        dot = gradient.dot(core)
        if dot < 0:
            gradient = gradient - ALPHA * dot / core_norm ** 2 * core
        total += GAMMA * ratio * gradient + (1 - GAMMA) * gradient
    return total


def main():
    chosen = workload.options(__doc__)
    sizes = workload.field_sizes(chosen.rows)
    model = HtlNet(sizes)
    shared = list(model.embeddings.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(ids, click, view, watch):
        optimizer.zero_grad()
        losses = task_losses(model(ids), click, view, watch)
        loss = sum(losses)
        loss.backward(retain_graph=True)
        gradients = []
        for task_loss in losses:
            parts = torch.autograd.grad(task_loss, shared, retain_graph=True)
            gradients.append(torch.cat([part.flatten() for part in parts]))
        adjusted = adjust(gradients)
        start = 0
        for parameter in shared:
            parameter.grad = adjusted[start:start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        if chosen.clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), chosen.clip)
        optimizer.step()
        return loss.detach()

    workload.measure("naive.py", chosen, step, workload.batches(sizes, chosen.batch, 16))


if __name__ == "__main__":
    main()
