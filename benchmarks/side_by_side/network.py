# SPDX-License-Identifier: Apache-2.0
"""HTLNet above its embeddings: three towers, label embedding units, information fusion units; gradients stop where information leaves a task."""
import torch
from torch import nn
import torch.nn.functional as F


class Tower(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second, self.third, self.last = nn.Linear(width, 128), nn.Linear(128, 64), nn.Linear(64, 32), nn.Linear(32, 1)

    def forward(self, x):
        representation = torch.relu(self.first(x))
        return self.last(torch.relu(self.third(torch.relu(self.second(representation))))), representation


class LabelEmbedding(nn.Module):
    """Two rows mixed by a Gumbel-Softmax sample of the predicted label (temperature 1)."""

    def __init__(self, dim):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, dim))

    def forward(self, logit):
        uniform = torch.rand_like(logit).clamp(1e-6, 1 - 1e-6)
        q = torch.sigmoid(logit + uniform.log() - (1 - uniform).log())
        return q * self.rows[0] + (1 - q) * self.rows[1]


class Fusion(nn.Module):
    """Attention over the preceding tasks' vectors; the value map runs once, on the mixture, since the weights sum to 1."""

    def __init__(self, width, sources):
        super().__init__()
        self.value = nn.Linear(width, width)
        if sources > 1:
            self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, sources):
        if len(sources) == 1:
            return self.value(sources[0])
        u = torch.stack(sources, 1)
        weights = torch.softmax((self.query(u) * self.key(u)).sum(2, keepdim=True) / u.size(2) ** 0.5, 1)
        return self.value((weights * u).sum(1))


class Network(nn.Module):
    def __init__(self, width, label_dim=10):
        super().__init__()
        self.towers = nn.ModuleList([Tower(width), Tower(width + 128 + label_dim), Tower(width + 128 + label_dim)])
        self.labels = nn.ModuleList([LabelEmbedding(label_dim) for _ in range(2)])
        self.representation_fusions = nn.ModuleList([Fusion(128, 1), Fusion(128, 2)])
        self.label_fusions = nn.ModuleList([Fusion(label_dim, 1), Fusion(label_dim, 2)])

    def forward(self, views):
        """One view of the embedding [B, D] per task -> three outputs [B]."""
        outputs, representations, labels = [], [], []
        for t, tower in enumerate(self.towers):
            x = views[t]
            if t > 0:
                x = torch.cat([x, self.representation_fusions[t - 1](representations), self.label_fusions[t - 1](labels)], 1)
            output, representation = tower(x)
            outputs.append(output.squeeze(1))
            if t < 2:
                representations.append(representation.detach())
                labels.append(self.labels[t](output.detach()))
        return outputs


def task_losses(outputs, click, view, watch):
    return [F.binary_cross_entropy_with_logits(outputs[0], click), F.binary_cross_entropy_with_logits(outputs[1], view), F.mse_loss(outputs[2], watch)]
