# SPDX-License-Identifier: Apache-2.0
"""What a good PyTorch engineer would write: one backward through an alias of the embedding per task, rows grouped once, weights from the Gramian,
an optimizer that touches only the batch's rows, fused Adam for the rest, torch.compile on the network."""
import torch
import torch.nn.functional as F

import workload
from network import Network, task_losses

ALPHA, GAMMA, CLIP_RATIO, CORE, TASKS = 1.0, 0.5, 100.0, 2, 3


def task_weights(gramian):
    """The adjustment as weights of the tasks' gradients: a function of their dot products alone (plain numbers: T is 3)."""
    core = gramian[CORE][CORE]
    weights = [0.0] * TASKS
    weights[CORE] = 1.0
    for t in range(TASKS):
        if t == CORE:
            continue
        projection = ALPHA * min(gramian[t][CORE], 0.0) / core if core > 0 else 0.0
        ratio = min(max((core / gramian[t][t]) ** 0.5, 1 / CLIP_RATIO), CLIP_RATIO) if gramian[t][t] > 0 and core > 0 else 1.0
        weights[t] = GAMMA * ratio + 1 - GAMMA
        weights[CORE] -= weights[t] * projection
    return weights


class RowAdagrad:
    """One accumulator per row: the mean square of its gradients."""

    def __init__(self, table, lr=0.05, eps=1e-10):
        self.table, self.lr, self.eps = table, lr, eps
        self.squares = torch.zeros(table.size(0))

    def step(self, rows, gradient):
        squares = self.squares[rows] + gradient.square().mean(1)
        self.squares[rows] = squares
        self.table.index_add_(0, rows, gradient * (-self.lr / (squares.sqrt() + self.eps)).unsqueeze(1))


class LazyAdam:
    """Adam whose moments move only where the batch has rows."""

    def __init__(self, table, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.table, self.lr, self.betas, self.eps, self.steps = table, lr, betas, eps, 0
        self.mean, self.square = torch.zeros_like(table), torch.zeros_like(table)

    def step(self, rows, gradient):
        self.steps += 1
        first, second = self.betas
        mean = self.mean[rows].lerp_(gradient, 1 - first)
        square = self.square[rows].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        self.mean[rows], self.square[rows] = mean, square
        size = self.lr * (1 - second ** self.steps) ** 0.5 / (1 - first ** self.steps)
        self.table.index_add_(0, rows, mean / (square.sqrt_() + self.eps), alpha=-size)


def main():
    chosen = workload.options(__doc__, compile=(["default", "max-autotune", "off"], "default"), row_optimizer=(["adagrad", "lazy_adam"], "adagrad"))
    sizes, dim = workload.field_sizes(chosen.rows), 10
    offsets = torch.tensor([0] + sizes[:-1]).cumsum(0)
    table = torch.randn(sum(sizes), dim) * 0.01
    network = Network(len(sizes) * dim)
    dense = list(network.parameters())
    dense_optimizer = torch.optim.Adam(dense, lr=1e-3, fused=True)
    row_optimizer = RowAdagrad(table) if chosen.row_optimizer == "adagrad" else LazyAdam(table)

    def losses_of(views, click, view, watch):
        return torch.stack(task_losses(network(views), click, view, watch))

    if chosen.compile != "off":
        losses_of = torch.compile(losses_of, mode=chosen.compile)

    def step(ids, click, view, watch):
        rows, inverse = torch.unique(ids + offsets, return_inverse=True)
        embedding = F.embedding(ids + offsets, table).view(ids.size(0), -1)
        views = [embedding.detach().requires_grad_() for _ in range(TASKS)]  # the same memory, three leaves
        dense_optimizer.zero_grad()
        losses = losses_of(views, click, view, watch)
        loss = losses.sum()
        loss.backward()
        with torch.no_grad():
            stacked = torch.cat([view.grad.view(-1, dim) for view in views], 1)
            sums = torch.zeros(rows.numel(), TASKS * dim).index_add_(0, inverse.flatten(), stacked).view(-1, TASKS, dim)
            flat = sums.transpose(0, 1).reshape(TASKS, -1)
            gramian = (flat @ flat.T).double()
            weights = torch.tensor(task_weights(gramian.tolist()))
            gradient = (weights @ flat).view(-1, dim)
            if chosen.clip > 0:
                squared = weights.double() @ gramian @ weights.double()
                norms = torch._foreach_norm([parameter.grad for parameter in dense])
                scale = (chosen.clip / (squared + torch.stack(norms).double().square().sum()).sqrt()).clamp(max=1.0).float()
                torch._foreach_mul_([parameter.grad for parameter in dense], scale)
                gradient = gradient * scale
            row_optimizer.step(rows, gradient)
        dense_optimizer.step()
        return loss.detach()

    workload.measure("careful.py", chosen, step, workload.batches(sizes, chosen.batch, 16), compile=chosen.compile, row_optimizer=chosen.row_optimizer)


if __name__ == "__main__":
    main()
